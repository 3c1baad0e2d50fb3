//! What a gateway tells on its private socket: its status, its tables, and what becomes of what arrives at it. The same pages as
//! an agent's, so that `heddle` asks both alike.

use super::{Gateway, report, why};
use crate::app::routes;
use crate::pages::{self, json, text};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;
use tokio::task::spawn_local;

const HEAD_DEADLINE: Duration = Duration::from_secs(5);

/// Opens the socket and serves it until the runtime ends.
///
/// # Errors
/// The path cannot be bound.
pub(super) fn start(path: &Path, gateway: &Rc<RefCell<Gateway>>) -> anyhow::Result<()> {
    let socket = pages::private_socket(path)?;
    let gateway = Rc::clone(gateway);
    spawn_local(async move {
        loop {
            match socket.accept().await {
                Ok((stream, _)) => {
                    let gateway = Rc::clone(&gateway);
                    let answer = move |request| answer(request, Rc::clone(&gateway));
                    drop(spawn_local(pages::serve(stream, HEAD_DEADLINE, answer)));
                }
                Err(error) => pages::pause(&error).await,
            }
        }
    });
    Ok(())
}

async fn answer(request: Request<Incoming>, gateway: Rc<RefCell<Gateway>>) -> Response<Full<Bytes>> {
    match (request.method().clone(), request.uri().path()) {
        (Method::GET, "/status") => json(StatusCode::OK, &report::status(&gateway.borrow())),
        (Method::GET, "/in-force") => json(StatusCode::OK, &report::in_force(&gateway.borrow(), false)),
        (Method::GET, "/in-force/objects") => {
            json(StatusCode::OK, &report::in_force(&gateway.borrow(), true))
        }
        (Method::GET, "/routes") => {
            let gateway = gateway.borrow();
            let pod = gateway.me.pod.to_string();
            json(
                StatusCode::OK,
                &routes::at_gateway(&gateway.snapshots.load(), &pod),
            )
        }
        (Method::POST, "/why") => {
            let question = pages::asked(request.into_body()).await;
            pages::explained(question.and_then(|question| why::answer(&gateway.borrow(), &question)))
        }
        _ => text(StatusCode::NOT_FOUND, "no such page\n"),
    }
}
