//! One socket in a pod that stands for one name server, and the questions that it carries there.

use super::{Answers, DnsDeps, message};
use crate::contract::PodHandle;
use crate::drain::DrainWatch;
use crate::sys::datagrams_to;
use futures_util::FutureExt as _;
use mesh_common::maps::NAME_PORT;
use socket2::SockRef;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::task::AbortHandle;

/// The longest datagram.
const DATAGRAM: usize = 65_535;
/// Datagrams of one socket between looks at the others.
const BATCH: usize = 64;
/// Clients of one socket with an open question; those above get no answer, and ask again.
const SESSIONS: usize = 1_024;
/// How long an answer is waited for. C libraries wait 5 s.
const IDLE: Duration = Duration::from_secs(10);
/// How long open questions are still answered when the pod leaves or another agent has taken over.
const LINGER: Duration = Duration::from_secs(5);

/// What all sockets share.
pub(super) struct Shared {
    deps: DnsDeps,
    answers: Arc<Answers>,
    /// One for all: nothing is kept in it over an await.
    buffer: RefCell<Vec<u8>>,
}

impl Shared {
    pub(super) fn new(deps: DnsDeps, answers: Arc<Answers>) -> Self {
        Self {
            deps,
            answers,
            buffer: RefCell::new(vec![0; DATAGRAM]),
        }
    }
}

/// Takes what comes to the sockets of a pod.
pub(super) fn serve(shared: &Rc<Shared>, pod: &Arc<PodHandle>, cookie: u64, watch: &DrainWatch) {
    for (slot, socket) in &pod.resolver {
        let socket = match socket.try_clone().and_then(UdpSocket::from_std) {
            Ok(socket) => socket,
            Err(error) => {
                tracing::error!(%error, pod = %pod.workload.pod, "questions for names are not taken");
                continue;
            }
        };
        let place = Place {
            shared: Rc::clone(shared),
            pod: Arc::clone(pod),
            cookie,
            slot: *slot,
            socket,
            server: OnceCell::new(),
            sessions: RefCell::default(),
        };
        tokio::task::spawn_local(Rc::new(place).serve(watch.clone()));
    }
}

/// See the module's description.
struct Place {
    shared: Rc<Shared>,
    pod: Arc<PodHandle>,
    cookie: u64,
    slot: u32,
    socket: UdpSocket,
    server: OnceCell<SocketAddr>,
    sessions: RefCell<HashMap<SocketAddr, (Rc<Session>, AbortHandle)>>,
}

/// What one socket of the pod asks this name server.
struct Session {
    server: UdpSocket,
    /// The last question, for the case that the server refuses it.
    last: RefCell<Vec<u8>>,
    /// Questions without an answer yet. Most clients take a new socket for each name, and many names are asked for in the
    /// time in which one question may be open.
    open: Cell<u32>,
    used: Cell<Instant>,
}

impl Place {
    /// As long as the socket is there, the kernel sends questions to it: not even a panic may end this.
    async fn serve(self: Rc<Self>, watch: DrainWatch) {
        loop {
            let run = AssertUnwindSafe(Rc::clone(&self).run(watch.clone()));
            match run.catch_unwind().await {
                Ok(()) => return,
                Err(_) => self.shared.answers.count("panicked"),
            }
        }
    }

    async fn run(self: Rc<Self>, watch: DrainWatch) {
        loop {
            tokio::select! {
                biased;
                () = watch.draining() => break,
                ready = self.socket.readable() => if let Err(error) = ready {
                    tracing::error!(%error, pod = %self.pod.workload.pod, "questions for names are not taken any more");
                    return;
                },
            }
            self.take(BATCH);
            tokio::task::yield_now().await;
        }
        self.retire();
        // What came before: nobody else will answer it.
        self.take(usize::MAX);
        tokio::select! {
            () = watch.cut() => {}
            () = tokio::time::sleep(LINGER) => {}
        }
        for (_, (_, task)) in self.sessions.borrow_mut().drain() {
            task.abort();
        }
    }

    /// Connected to itself, the socket is found by nobody else's datagrams any more, the next agent's is; answers can still be
    /// sent from it.
    fn retire(&self) {
        let connected = self
            .socket
            .local_addr()
            .and_then(|own| SockRef::from(&self.socket).connect(&own.into()));
        if let Err(error) = connected {
            tracing::debug!(%error, "a socket for names cannot be retired");
        }
    }

    fn take(self: &Rc<Self>, most: usize) {
        for _ in 0..most {
            let mut buffer = self.shared.buffer.borrow_mut();
            match self.socket.try_recv_from(&mut buffer) {
                Ok((length, client)) => self.question(&buffer[..length], client),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // An error of an earlier datagram that was sent from here.
                Err(error) => tracing::debug!(%error, "a datagram could not be delivered"),
            }
        }
    }

    fn question(self: &Rc<Self>, question: &[u8], client: SocketAddr) {
        let answers = &self.shared.answers;
        match answers.to(&self.pod.workload, question, true) {
            Some(answer) => self.reply(&answer, client),
            None if self.forward(question, client) => {}
            None => {
                answers.count("failed");
                if let Some(answer) = message::failure(question) {
                    self.reply(&answer, client);
                }
            }
        }
    }

    /// A reply that does not fit into the socket's buffer is lost, as it would be in a network.
    fn reply(&self, message: &[u8], client: SocketAddr) {
        // Not by tokio, which knows of a new socket only after a while that it can send.
        if let Err(error) = SockRef::from(&self.socket).send_to(message, &client.into()) {
            tracing::debug!(%error, %client, pod = %self.pod.workload.pod, "an answer could not be sent");
        }
    }

    /// Sends a question on. Returns whether that could be done.
    fn forward(self: &Rc<Self>, question: &[u8], client: SocketAddr) -> bool {
        let Some(session) = self.session(client) else {
            return false;
        };
        session.used.set(Instant::now());
        session.open.set(session.open.get().saturating_add(1));
        let mut last = session.last.borrow_mut();
        last.clear();
        last.extend_from_slice(question);
        drop(last);
        // The first try may report what became of an earlier datagram.
        let send = || SockRef::from(&session.server).send(question);
        send().or_else(|_| send()).is_ok()
    }

    fn session(self: &Rc<Self>, client: SocketAddr) -> Option<Rc<Session>> {
        if let Some((session, _)) = self.sessions.borrow().get(&client) {
            return Some(Rc::clone(session));
        }
        if self.sessions.borrow().len() >= SESSIONS {
            return None;
        }
        let server = self.server()?;
        let mark = self.shared.deps.mark;
        // In the pod: the server sees the pod's address, and policies on the network see the pod.
        let opened = self.pod.netns.run(|| datagrams_to(server, mark));
        let socket = opened.and_then(UdpSocket::from_std).inspect_err(|error| {
            tracing::debug!(%error, %server, pod = %self.pod.workload.pod, "the pod's name server cannot be asked");
        });
        let session = Rc::new(Session {
            server: socket.ok()?,
            last: RefCell::default(),
            open: Cell::new(0),
            used: Cell::new(Instant::now()),
        });
        let relay = Rc::clone(self).relay(Rc::clone(&session), client);
        let task = tokio::task::spawn_local(relay).abort_handle();
        self.sessions
            .borrow_mut()
            .insert(client, (Rc::clone(&session), task));
        Some(session)
    }

    fn server(&self) -> Option<SocketAddr> {
        if let Some(server) = self.server.get() {
            return Some(*server);
        }
        let ip = self.shared.deps.servers.server(self.cookie, self.slot)?;
        Some(*self.server.get_or_init(|| SocketAddr::new(ip, NAME_PORT)))
    }

    /// Carries answers back, until every question has one, or none has come for a while.
    async fn relay(self: Rc<Self>, session: Rc<Session>, client: SocketAddr) {
        loop {
            let left = IDLE.saturating_sub(session.used.get().elapsed());
            if left.is_zero() {
                break;
            }
            let ready = session.server.ready(Interest::READABLE | Interest::ERROR);
            if tokio::time::timeout(left, ready).await.is_ok() {
                self.answers_of(&session, client);
                self.failures_of(&session, client);
                if session.open.get() == 0 {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        self.sessions.borrow_mut().remove(&client);
    }

    fn answers_of(&self, session: &Session, client: SocketAddr) {
        for _ in 0..BATCH {
            let mut buffer = self.shared.buffer.borrow_mut();
            match session.server.try_recv(&mut buffer) {
                Ok(length) => {
                    session.used.set(Instant::now());
                    session.open.set(session.open.get().saturating_sub(1));
                    self.reply(&buffer[..length], client);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => return tracing::debug!(%error, "an answer could not be read"),
            }
        }
    }

    /// Nobody listens there: the client would see that itself if it had asked itself.
    fn failures_of(&self, session: &Session, client: SocketAddr) {
        let error = || {
            session
                .server
                .take_error()?
                .ok_or_else(|| io::ErrorKind::WouldBlock.into())
        };
        while session.server.try_io(Interest::ERROR, error).is_ok() {
            self.shared.answers.count("failed");
            session.open.set(session.open.get().saturating_sub(1));
            if let Some(answer) = message::failure(&session.last.borrow()) {
                self.reply(&answer, client);
            }
        }
    }
}
