//! HTTP/2 and gRPC through the proxy.

use super::mesh::{Mesh, Plan, Seen, field, server};
use crate::testing::refusing;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use mesh_core::model::service::Protocol;
use std::convert::Infallible;
use std::net::SocketAddr;
use tokio::net::TcpStream;

type Sender = http2::SendRequest<Full<Bytes>>;

async fn connect(mesh: &Mesh) -> Sender {
    let (sender, conn) = http2::handshake(TokioExecutor::new(), TokioIo::new(mesh.dial().await))
        .await
        .unwrap();
    tokio::spawn(conn);
    sender
}

/// Answers with the request's body, then trailers.
async fn grpc_server() -> SocketAddr {
    server(|stream: TcpStream| async move {
        let service = service_fn(|request: Request<Incoming>| async move {
            assert_eq!(request.version(), http::Version::HTTP_2);
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("5"));
            let frames = [
                Ok::<_, Infallible>(Frame::data(body)),
                Ok(Frame::trailers(trailers)),
            ];
            let body = StreamBody::new(futures_util::stream::iter(frames));
            let response = Response::builder()
                .header("content-type", "application/grpc")
                .body(body)
                .unwrap();
            Ok::<_, Infallible>(response)
        });
        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = builder.serve_connection(TokioIo::new(stream), service).await;
    })
    .await
}

fn grpc_request(uri: &str) -> Request<Full<Bytes>> {
    Request::post(uri)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(Bytes::from_static(&[0, 0, 0, 0, 2, 1, 2])))
        .unwrap()
}

#[tokio::test]
async fn grpc_passes_with_its_trailers_and_status_is_counted() {
    let mesh = Mesh::to(&[grpc_server().await]);
    let mut sender = connect(&mesh).await;
    for _ in 0..3 {
        let response = sender
            .send_request(grpc_request("http://web/pkg.S/M"))
            .await
            .unwrap();
        assert_eq!(response.status(), 200);
        let body = response.into_body().collect().await.unwrap();
        assert_eq!(body.trailers().unwrap()["grpc-status"], "5");
        assert_eq!(body.to_bytes().len(), 7);
    }
    let parts = ["request_protocol=\"grpc\"", "grpc_response_status=\"5\"", "} 3"];
    mesh.metric(&[&["istio_requests_total"], &parts[..]].concat())
        .await;
    mesh.metric(&[&["istio_request_messages_total"], &parts[..]].concat())
        .await;
    mesh.metric(&[&["istio_response_messages_total"], &parts[..]].concat())
        .await;
}

#[tokio::test]
async fn a_grpc_client_gets_failures_as_grpc() {
    let (_bound, dead) = refusing();
    let mesh = Mesh::start(Plan {
        protocol: Protocol::Grpc,
        endpoints: vec![dead],
        ..Plan::default()
    });
    let mut sender = connect(&mesh).await;
    let response = sender
        .send_request(grpc_request("http://web/pkg.S/M"))
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["grpc-status"], "14");
    mesh.metric(&[
        "istio_requests_total",
        "grpc_response_status=\"14\"",
        "response_flags=\"UF\"",
    ])
    .await;
}

#[tokio::test]
async fn a_hundred_streams_share_one_upstream_connection() {
    let connections = Seen::default();
    let counted = connections.clone();
    let addr = server(move |stream| {
        let counted = counted.clone();
        async move {
            *counted.connections.lock() += 1;
            let service = service_fn(|_: Request<Incoming>| async {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"x"))))
            });
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
        }
    })
    .await;
    let mesh = Mesh::to(&[addr]);
    let sender = connect(&mesh).await;
    let requests = (0..100).map(|_| {
        let mut sender = sender.clone();
        async move {
            let request = Request::get("http://web/").body(Full::default()).unwrap();
            sender
                .send_request(request)
                .await
                .unwrap()
                .into_body()
                .collect()
                .await
                .unwrap();
        }
    });
    futures_util::future::join_all(requests).await;
    assert_eq!(*connections.connections.lock(), 1);
}

#[tokio::test]
async fn security_authority_and_host_must_agree() {
    let mesh = Mesh::to(&[grpc_server().await]);
    let mut sender = connect(&mesh).await;
    let request = Request::get("http://web/")
        .header("host", "other")
        .body(Full::default())
        .unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().status(), 400);
    let request = Request::get("http://me@web/").body(Full::default()).unwrap();
    let refused = sender.send_request(request).await;
    assert!(refused.is_err() || refused.unwrap().status() == 400);
    let connect = Request::connect("web:80").body(Full::default()).unwrap();
    assert_eq!(sender.send_request(connect).await.unwrap().status(), 400);
}

#[tokio::test]
async fn a_websocket_over_http2_becomes_an_upgrade() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let addr = server(|mut stream| async move {
        let head = super::mesh::read_head(&mut stream).await;
        assert!(head.starts_with("GET /chat HTTP/1.1"), "{head}");
        assert_eq!(field(&head, "upgrade").as_deref(), Some("websocket"), "{head}");
        let agreed = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
        stream.write_all(agreed.as_bytes()).await.unwrap();
        let mut word = [0; 4];
        stream.read_exact(&mut word).await.unwrap();
        stream.write_all(&word).await.unwrap();
        let _ = stream.read(&mut word).await;
    })
    .await;
    let mesh = Mesh::to(&[addr]);
    let io = mesh.dial().await;
    let (mut client, conn) = h2::client::handshake(io).await.unwrap();
    tokio::spawn(conn);
    for _ in 0..200 {
        if client.is_extended_connect_protocol_enabled() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let mut request = Request::builder()
        .method("CONNECT")
        .uri("http://web/chat")
        .body(())
        .unwrap();
    request
        .extensions_mut()
        .insert(h2::ext::Protocol::from_static("websocket"));
    client = client.ready().await.unwrap();
    let (response, mut stream) = client.send_request(request, false).unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.status(), 200);
    stream.send_data(Bytes::from_static(b"ping"), false).unwrap();
    let mut body = response.into_body();
    assert_eq!(body.data().await.unwrap().unwrap(), "ping");
}
