//! The agent's two HTTP faces: health and metrics on TCP, status and `why` on a Unix socket that only root can open.

use super::control::World;
use super::handover::{Handover, PROTOCOL};
use super::{report, routes, why};
use crate::pages::{self, MAX_BODY_BYTES, json, text};
use anyhow::Context;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, spawn_local};

const HEAD_DEADLINE: Duration = Duration::from_secs(5);
/// On root's socket: a successor is silent for as long as it needs to serve.
const SUCCESSOR_DEADLINE: Duration = Duration::from_secs(120);

/// Which of the two faces a request came to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Face {
    Public,
    Root,
}

/// Opens both faces and serves them until the returned tasks are dropped with the runtime.
///
/// # Errors
/// An address or path that cannot be bound.
pub async fn start(world: &Rc<RefCell<World>>) -> anyhow::Result<[JoinHandle<()>; 2]> {
    let (addr, socket) = {
        let world = world.borrow();
        (world.config.metrics_addr, world.config.admin_socket())
    };
    let tcp = TcpListener::bind(addr)
        .await
        .with_context(|| format!("listen on {addr} for metrics"))?;
    let unix = pages::private_socket(&socket)?;
    let (public, root) = (Rc::clone(world), Rc::clone(world));
    Ok([
        spawn_local(async move {
            loop {
                match tcp.accept().await {
                    Ok((stream, _)) => drop(spawn_local(serve(stream, Face::Public, Rc::clone(&public)))),
                    Err(error) => pages::pause(&error).await,
                }
            }
        }),
        spawn_local(async move {
            loop {
                match unix.accept().await {
                    Ok((stream, _)) => drop(spawn_local(serve(stream, Face::Root, Rc::clone(&root)))),
                    Err(error) => pages::pause(&error).await,
                }
            }
        }),
    ])
}

/// Closes both faces, for the next agent to open. What is being answered goes on.
pub(super) async fn close(faces: [JoinHandle<()>; 2]) {
    for face in faces {
        face.abort();
        // Its address is free once it has ended.
        let _aborted = face.await;
    }
}

async fn serve<S>(stream: S, face: Face, world: Rc<RefCell<World>>)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let patience = match face {
        Face::Public => HEAD_DEADLINE,
        Face::Root => SUCCESSOR_DEADLINE,
    };
    let answer = |request| answer(request, face, &world);
    pages::serve(stream, patience, answer).await;
}

async fn answer(request: Request<Incoming>, face: Face, world: &RefCell<World>) -> Response<Full<Bytes>> {
    match (face, request.method().clone(), request.uri().path()) {
        (_, Method::GET, "/healthz/ready") => {
            let ready = world.borrow().ready();
            let status = if ready {
                StatusCode::OK
            } else {
                StatusCode::SERVICE_UNAVAILABLE
            };
            text(
                status,
                if ready {
                    "ready\n"
                } else {
                    "no config has been read yet\n"
                },
            )
        }
        (_, Method::GET, "/healthz/live") => text(StatusCode::OK, "alive\n"),
        (_, Method::GET, "/metrics" | "/stats/prometheus") => {
            pages::metrics(report::metrics(&world.borrow()))
        }
        (Face::Root, Method::GET, "/status") => json(StatusCode::OK, &report::status(&world.borrow())),
        (Face::Root, Method::GET, "/in-force") => {
            json(StatusCode::OK, &report::in_force(&world.borrow(), false))
        }
        (Face::Root, Method::GET, "/in-force/objects") => {
            json(StatusCode::OK, &report::in_force(&world.borrow(), true))
        }
        (Face::Root, Method::GET, "/routes") => {
            let snapshot = world.borrow().snapshots.load_full();
            json(StatusCode::OK, &routes::routes(&snapshot))
        }
        (Face::Root, Method::POST, "/handover") => handover(request, world).await,
        (Face::Root, Method::POST, "/handover/done") => {
            let rung = world
                .borrow_mut()
                .successor_serves
                .take()
                .map(|bell| bell.send(()));
            json(
                StatusCode::OK,
                &serde_json::json!({"draining": rung == Some(Ok(()))}),
            )
        }
        (Face::Root, Method::POST, "/why") => {
            let question = pages::asked(request.into_body()).await;
            pages::explained(question.and_then(|question| why::answer(&world.borrow(), &question)))
        }
        _ => text(StatusCode::NOT_FOUND, "no such page\n"),
    }
}

/// Answers a successor once it may take the locks.
async fn handover(request: Request<Incoming>, world: &RefCell<World>) -> Response<Full<Bytes>> {
    let refuse = |reason: &str| json(StatusCode::CONFLICT, &serde_json::json!({"error": reason}));
    let body = Limited::new(request.into_body(), MAX_BODY_BYTES).collect().await;
    let body = body.map(|body| body.to_bytes()).unwrap_or_default();
    let asked: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    if asked["protocol"] != PROTOCOL {
        return refuse("another version of the hand-over");
    }
    let (released, mark) = oneshot::channel();
    let (bell, done) = oneshot::channel();
    {
        let mut world = world.borrow_mut();
        if !world.ready() {
            return refuse("this agent does not serve yet");
        }
        if world.handovers.try_send(Handover { released, done }).is_err() {
            return refuse("another agent is taking over already");
        }
        world.successor_serves = Some(bell);
    }
    match mark.await {
        Ok(mark) => json(
            StatusCode::OK,
            &serde_json::json!({"protocol": PROTOCOL, "mark": mark}),
        ),
        Err(_) => refuse("this agent ends"),
    }
}
