//! The client's end of HBONE connections.

use super::super::baggage::Baggage;
use super::super::native::Tls;
use super::super::{TunnelConfig, TunnelError, TunnelRequest, forwarded};
use super::{
    CLIENT_HEADER_LIST, CONNECTION_WINDOW, FRAME_SIZE, HboneStream, SEND_BUFFER, STREAM_WINDOW, into_io,
    ping_until_dead,
};
use crate::tls::config::provider;
use bytes::Bytes;
use h2::Reason;
use h2::client::SendRequest;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use std::cell::Cell;
use std::fmt::Write as _;
use std::rc::Rc;
use std::time::Instant;

/// One connection, shared by many streams.
pub(in super::super) struct HboneConn {
    send: SendRequest<Bytes>,
    active: Cell<usize>,
    idle_since: Cell<Instant>,
    gone: Rc<Cell<bool>>,
    went_away: Cell<bool>,
    cap: usize,
    pub(in super::super) not_after: u64,
}

/// A stream's place on its connection; keeps the connection's sender alive.
pub(in super::super) struct Place(Rc<HboneConn>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.active.set(self.0.active.get() - 1);
        self.0.idle_since.set(Instant::now());
    }
}

impl HboneConn {
    /// Speaks HTTP/2 on a fresh connection and drives it in a task of its own, which ends with the last stream and
    /// the last owner, or when the peer stops answering PINGs.
    pub(in super::super) async fn start(
        tls: Tls,
        not_after: u64,
        config: &TunnelConfig,
    ) -> Result<Rc<Self>, h2::Error> {
        let (send, mut connection) = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME_SIZE)
            .max_header_list_size(CLIENT_HEADER_LIST)
            .max_send_buffer_size(SEND_BUFFER)
            .initial_max_send_streams(config.streams_per_connection)
            .enable_push(false)
            .handshake::<_, Bytes>(tls)
            .await?;
        let gone = Rc::new(Cell::new(false));
        let told = Rc::clone(&gone);
        let pings = connection.ping_pong();
        let config_of_task = config.clone();
        tokio::task::spawn_local(async move {
            let alive = async {
                match pings {
                    Some(pings) => ping_until_dead(pings, &config_of_task).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                result = connection => if let Err(error) = result {
                    tracing::debug!(%error, "tunnel connection ended");
                },
                () = alive => tracing::debug!("tunnel peer answers no ping"),
            }
            told.set(true);
        });
        Ok(Rc::new(Self {
            send,
            active: Cell::new(0),
            idle_since: Cell::new(Instant::now()),
            gone,
            went_away: Cell::new(false),
            cap: config.streams_per_connection.max(2),
            not_after,
        }))
    }

    /// Whether nothing new can be opened, now or ever.
    pub(in super::super) fn is_gone(&self) -> bool {
        self.gone.get()
    }

    /// Whether the peer has said GOAWAY without an error: it drains, and takes streams on another connection.
    pub(in super::super) fn went_away(&self) -> bool {
        self.went_away.get()
    }

    /// Whether the peer's own limit, known once its SETTINGS have come, leaves room now.
    pub(in super::super) fn has_room(&self) -> bool {
        self.active.get() < self.send.current_max_send_streams().min(self.cap)
    }

    /// Whether this connection has had its last new stream and leaves the pool for good: one below the cap, as ztunnel.
    pub(in super::super) fn is_spent(&self) -> bool {
        self.is_gone() || self.active.get() + 1 >= self.cap
    }

    /// Time since when it has had no stream.
    pub(in super::super) fn idle_since(&self) -> Option<Instant> {
        (self.active.get() == 0).then(|| self.idle_since.get())
    }

    /// Takes a place for a stream.
    pub(in super::super) fn place(self: &Rc<Self>) -> Place {
        self.active.set(self.active.get() + 1);
        Place(Rc::clone(self))
    }
}

impl Place {
    /// The connection that the place is on.
    pub(in super::super) fn connection(&self) -> Rc<HboneConn> {
        Rc::clone(&self.0)
    }

    /// Opens the stream and waits for the answer. `guard` lives as long as the stream. Cancel safe: the stream is
    /// reset.
    pub(in super::super) async fn open(
        self,
        request: &TunnelRequest,
        config: &TunnelConfig,
        guard: impl Sized + 'static,
    ) -> Result<(HboneStream, Option<Baggage>), TunnelError> {
        let connect = connect_request(request, config)?;
        let conn = &self.0;
        let lost = |error: h2::Error| {
            let refused = error.reason() == Some(Reason::REFUSED_STREAM);
            if refused || (error.is_go_away() && error.reason() == Some(Reason::NO_ERROR)) {
                conn.went_away.set(true);
            }
            if refused || !error.is_reset() {
                conn.gone.set(true);
            }
            TunnelError::Reset(into_io(error))
        };
        let mut send = conn.send.clone().ready().await.map_err(lost)?;
        let (response, stream) = send.send_request(connect, false).map_err(lost)?;
        let response = response.await.map_err(lost)?;
        if response.status() != StatusCode::OK {
            return Err(TunnelError::Refused {
                status: response.status().as_u16(),
                reason: String::new(),
            });
        }
        let baggage = baggage_of(&response);
        let stream = HboneStream::new(stream, response.into_body(), Some(Box::new((self, guard))));
        Ok((stream, baggage))
    }
}

fn baggage_of<B>(response: &Response<B>) -> Option<Baggage> {
    let value = response.headers().get("baggage")?.to_str().ok()?;
    Some(Baggage::parse(value))
}

fn connect_request(request: &TunnelRequest, config: &TunnelConfig) -> Result<Request<()>, TunnelError> {
    let invalid = |_| TunnelError::Protocol("request cannot be expressed");
    let mut connect = Request::new(());
    *connect.method_mut() = Method::CONNECT;
    *connect.version_mut() = Version::HTTP_2;
    let target = std::net::SocketAddr::new(request.target.ip().to_canonical(), request.target.port());
    *connect.uri_mut() = Uri::builder()
        .authority(target.to_string())
        .build()
        .map_err(|_| TunnelError::Protocol("bad target"))?;
    let baggage = Baggage::of(&request.source, &config.cluster).encode();
    let forwarded = forwarded::encode(request.client, request.host.as_deref());
    let headers = connect.headers_mut();
    headers.insert("baggage", HeaderValue::try_from(baggage).map_err(invalid)?);
    headers.insert("forwarded", HeaderValue::try_from(forwarded).map_err(invalid)?);
    headers.insert(
        "traceparent",
        HeaderValue::try_from(traceparent()?).map_err(invalid)?,
    );
    Ok(connect)
}

/// A trace of its own for each stream: `00-{32 hex}-{16 hex}-00`, not sampled.
fn traceparent() -> Result<String, TunnelError> {
    let mut random = [0; 24];
    provider()
        .secure_random
        .fill(&mut random)
        .map_err(|_| TunnelError::Protocol("no randomness for a trace id"))?;
    let mut out = String::with_capacity(55);
    out.push_str("00-");
    for (index, byte) in random.iter().enumerate() {
        if index == 16 {
            out.push('-');
        }
        // Writing to a String cannot fail.
        let _infallible = write!(out, "{byte:02x}");
    }
    out.push_str("-00");
    Ok(out)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_traceparent_has_the_length_that_ztunnel_accepts() {
        let value = super::traceparent().unwrap();
        assert_eq!(value.len(), 55);
        assert_eq!(value.split('-').map(str::len).collect::<Vec<_>>(), [2, 32, 16, 2]);
    }
}
