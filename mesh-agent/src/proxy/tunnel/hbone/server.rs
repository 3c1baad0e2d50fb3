//! The server's end of HBONE connections.

use super::super::addr::{Refusal, check_target, parse_authority};
use super::super::native::Tls;
use super::super::server::{Reply, ServerContext};
use super::super::{TunnelKind, forwarded};
use super::{
    CONNECTION_WINDOW, FRAME_SIZE, HboneStream, SEND_BUFFER, SERVER_HEADER_LIST, SERVER_STREAMS,
    STREAM_WINDOW, into_io, ping_until_dead,
};
use bytes::Bytes;
use h2::server::{Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::task::JoinSet;

/// How long a connection that is given up may take to say so.
const FAREWELL: Duration = Duration::from_secs(1);

/// Serves one connection until it ends, or the drain's deadline cuts it.
pub(in super::super) async fn serve(tls: Box<Tls>, context: Rc<ServerContext>) -> io::Result<()> {
    let handshake = h2::server::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_SIZE)
        .max_header_list_size(SERVER_HEADER_LIST)
        .max_concurrent_streams(SERVER_STREAMS)
        .max_send_buffer_size(SEND_BUFFER)
        .handshake::<_, Bytes>(tls);
    let mut connection = tokio::time::timeout(context.config.head_timeout, handshake)
        .await
        .map_err(|_| io::ErrorKind::TimedOut)?
        .map_err(into_io)?;
    let mut streams = JoinSet::new();
    let result = accept_all(&mut connection, &context, &mut streams).await;
    if result.is_ok() {
        // The peer has everything; handlers may still have work of their own.
        tokio::select! {
            biased;
            () = context.drain.cut() => {}
            () = async { while streams.join_next().await.is_some() {} } => {}
        }
    }
    result
}

async fn accept_all(
    connection: &mut Connection<Box<Tls>, Bytes>,
    context: &Rc<ServerContext>,
    streams: &mut JoinSet<()>,
) -> io::Result<()> {
    let pings = connection.ping_pong();
    let dead = async {
        match pings {
            Some(pings) => ping_until_dead(pings, &context.config).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(dead);
    let mut draining = false;
    loop {
        tokio::select! {
            biased;
            () = context.drain.cut() => return give_up(connection).await,
            () = context.drain.draining(), if !draining => {
                draining = true;
                connection.graceful_shutdown();
            }
            () = &mut dead => return give_up(connection).await,
            Some(ended) = streams.join_next(), if !streams.is_empty() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "tunnel stream handler failed");
                }
            }
            accepted = connection.accept() => match accepted {
                None => return Ok(()),
                Some(Err(error)) => return Err(into_io(error)),
                Some(Ok((request, respond))) => {
                    streams.spawn_local(serve_stream(request, respond, Rc::clone(context)));
                }
            },
        }
    }
}

async fn give_up(connection: &mut Connection<Box<Tls>, Bytes>) -> io::Result<()> {
    connection.abrupt_shutdown(Reason::NO_ERROR);
    let farewell = std::future::poll_fn(|cx| connection.poll_closed(cx));
    // A peer that takes no bytes does not get to keep the connection.
    let _unheard = tokio::time::timeout(FAREWELL, farewell).await;
    Err(io::ErrorKind::TimedOut.into())
}

async fn serve_stream(
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    context: Rc<ServerContext>,
) {
    match target_of(&request, &context) {
        Ok(target) => {
            let header = |name| {
                request
                    .headers()
                    .get(name)
                    .and_then(|value: &HeaderValue| value.to_str().ok())
            };
            let claimed = header("forwarded").and_then(forwarded::client);
            let baggage = header("baggage").unwrap_or_default().to_owned();
            let reply = Reply::Hbone {
                respond,
                body: request.into_body(),
            };
            let incoming = context.incoming(target, claimed, &baggage, TunnelKind::Tcp, String::new(), reply);
            context.handler.handle(incoming).await;
        }
        Err(refusal) => refuse(respond, refusal.status),
    }
}

fn target_of(request: &Request<RecvStream>, context: &ServerContext) -> Result<SocketAddr, Refusal> {
    if request.method() != Method::CONNECT {
        return Err(Refusal {
            status: 400,
            reason: "not CONNECT",
        });
    }
    let authority = request
        .uri()
        .authority()
        .map_or("", |authority| authority.as_str());
    let target = parse_authority(authority)?;
    check_target(target, context.accepted_at)?;
    Ok(target)
}

/// Ends a stream with a status, no body. A peer that has gone meanwhile needs none.
pub(in super::super) fn refuse(mut respond: SendResponse<Bytes>, status: u16) {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    if let Err(error) = respond.send_response(response, true) {
        tracing::debug!(%error, status, "peer left before it was refused");
    }
}

/// Answers 200 with our baggage.
pub(in super::super) fn accept(
    mut respond: SendResponse<Bytes>,
    body: RecvStream,
    baggage: &str,
) -> io::Result<HboneStream> {
    let mut response = Response::new(());
    if let Ok(value) = HeaderValue::from_str(baggage) {
        response.headers_mut().insert("baggage", value);
    }
    let send = respond.send_response(response, false).map_err(into_io)?;
    Ok(HboneStream::new(send, body, None))
}
