//! The agent's side of the plug-in: a Unix socket that only root can open.
//!
//! Every question becomes a [`CniRequest`] for the control loop, which answers when the pod is captured, or known to be
//! none of the mesh's. A plug-in that no longer waits has its request's reply closed.

use super::{Answer, MAX_BODY_BYTES, Operation, PodRef, Question};
use crate::sys::NetnsFiles;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};

/// Plug-ins that are served at one time. The kubelet's default is 110 pods on a node; more wait in the accept queue.
const MAX_CONNECTIONS: usize = 256;
const HEAD_DEADLINE: Duration = Duration::from_secs(5);
/// Longer than any plug-in is told to wait: nothing is held for ever.
const ANSWER_DEADLINE: Duration = Duration::from_secs(120);

/// A question of the plug-in, for the control loop.
#[derive(Debug)]
pub struct CniRequest {
    /// What is asked.
    pub operation: Operation,
    /// Which pod.
    pub pod: PodRef,
    /// Which sandbox of it.
    pub container_id: Arc<str>,
    /// Its network namespace, as a path that this agent can open. Always there for `Add`.
    pub netns: Option<Arc<str>>,
    /// The pod's addresses: known here before the API server knows them.
    pub ips: Vec<IpAddr>,
    /// Takes the answer. Closed when the plug-in has gone.
    pub reply: oneshot::Sender<Answer>,
}

/// The agent's socket for the plug-in.
#[derive(Debug)]
pub struct CniServer {
    listener: UnixListener,
    netns_files: Arc<NetnsFiles>,
    requests: mpsc::Sender<CniRequest>,
}

impl CniServer {
    /// Takes over `socket`: from here on the node's plug-ins come to this agent. They never find the path without a
    /// listener, also while an earlier agent still serves what it has.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn bind(
        socket: &Path,
        netns_files: Arc<NetnsFiles>,
        requests: mpsc::Sender<CniRequest>,
    ) -> io::Result<Self> {
        let mut new = socket.as_os_str().to_owned();
        new.push(format!(".{}", std::process::id()));
        let new = Path::new(&new);
        if let Err(error) = std::fs::remove_file(new)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        let listener = UnixListener::bind(new)?;
        let placed = std::fs::set_permissions(new, std::fs::Permissions::from_mode(0o600))
            .and_then(|()| std::fs::rename(new, socket));
        if let Err(error) = placed {
            let _ = std::fs::remove_file(new);
            return Err(error);
        }
        Ok(Self {
            listener,
            netns_files,
            requests,
        })
    }

    /// Serves until the control loop no longer takes requests.
    pub async fn serve(self) {
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
                return;
            };
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = self.requests.closed() => return,
            };
            match accepted {
                Ok((stream, _)) => {
                    let (netns_files, requests) = (Arc::clone(&self.netns_files), self.requests.clone());
                    drop(tokio::spawn(async move {
                        serve(stream, netns_files, requests).await;
                        drop(slot);
                    }));
                }
                Err(error) => {
                    tracing::warn!(%error, "accept on the CNI socket");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }
}

async fn serve(stream: UnixStream, netns_files: Arc<NetnsFiles>, requests: mpsc::Sender<CniRequest>) {
    let service = service_fn(move |request| {
        let (netns_files, requests) = (Arc::clone(&netns_files), requests.clone());
        async move { Ok::<_, Infallible>(respond(request, &netns_files, &requests).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "CNI connection");
    }
}

async fn respond(
    request: Request<Incoming>,
    netns_files: &NetnsFiles,
    requests: &mpsc::Sender<CniRequest>,
) -> Response<Full<Bytes>> {
    let operation = Operation::from_path(request.uri().path());
    let Some(operation) = operation.filter(|_| *request.method() == Method::POST) else {
        return response(StatusCode::NOT_FOUND, "no such operation".to_owned());
    };
    let reading = Limited::new(request.into_body(), MAX_BODY_BYTES).collect();
    let body = match tokio::time::timeout(HEAD_DEADLINE, reading).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) => return response(StatusCode::BAD_REQUEST, error.to_string()),
        Err(_) => return response(StatusCode::REQUEST_TIMEOUT, "the question has no end".to_owned()),
    };
    let question: Question = match serde_json::from_slice(&body) {
        Ok(question) => question,
        Err(error) => return response(StatusCode::BAD_REQUEST, error.to_string()),
    };
    let netns = match visible_netns(operation, &question, netns_files) {
        Ok(netns) => netns,
        Err(reason) => return answered(&Answer::Failed { reason }),
    };
    let (reply, answer) = oneshot::channel();
    let request = CniRequest {
        operation,
        pod: question.pod,
        container_id: question.container_id.into(),
        netns,
        ips: question.ips,
        reply,
    };
    if requests.try_send(request).is_err() {
        return response(StatusCode::SERVICE_UNAVAILABLE, "the agent is busy".to_owned());
    }
    match tokio::time::timeout(ANSWER_DEADLINE, answer).await {
        Ok(Ok(answer)) => answered(&answer),
        // The control loop dropped the request: the agent is going.
        Ok(Err(_)) => response(
            StatusCode::SERVICE_UNAVAILABLE,
            "the agent is stopping".to_owned(),
        ),
        Err(_) => response(
            StatusCode::SERVICE_UNAVAILABLE,
            "the agent has not decided".to_owned(),
        ),
    }
}

/// The namespace of the question, where this agent sees it. Only an `Add` needs it.
fn visible_netns(
    operation: Operation,
    question: &Question,
    netns_files: &NetnsFiles,
) -> Result<Option<Arc<str>>, String> {
    if operation != Operation::Add {
        return Ok(None);
    }
    let path = question.netns.as_deref().ok_or("CNI_NETNS is not set")?;
    netns_files
        .by_path(path)
        .map(Some)
        .ok_or_else(|| format!("the agent does not see its network namespace {}", path.display()))
}

fn answered(answer: &Answer) -> Response<Full<Bytes>> {
    match serde_json::to_string(answer) {
        Ok(text) => response(StatusCode::OK, text),
        Err(error) => response(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

fn response(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

#[cfg(test)]
mod tests;
