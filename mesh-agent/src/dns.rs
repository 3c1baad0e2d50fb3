//! The DNS edge: takes the questions for names that pods of this node ask over UDP, answers those for hosts of the mesh
//! (`mesh_core::names`), and carries every other one to the name server that it was meant for, byte for byte, so that
//! whatever that server can do goes on working.
//!
//! A thread of its own: neither a large change of the mesh nor a busy proxy makes names slow.

mod message;
mod place;

use crate::contract::{NameAnswers, NameServers, PodHandle};
use crate::drain::{DrainTrigger, drain};
use arc_swap::ArcSwap;
use mesh_core::model::snapshot::Snapshot;
use mesh_core::model::workload::Workload;
use place::Shared;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::sync::mpsc;
use tokio::task::LocalSet;

/// What the edge works with.
#[derive(Clone)]
pub struct DnsDeps {
    /// The known mesh.
    pub snapshots: Arc<ArcSwap<Snapshot>>,
    /// Whom pods ask.
    pub servers: Arc<dyn NameServers>,
    /// Mark of the agent's own sockets.
    pub mark: u32,
}

/// The running edge. Dropping it ends it at once.
pub struct Dns {
    commands: Option<mpsc::Sender<Command>>,
    answers: Arc<Answers>,
    thread: Option<JoinHandle<()>>,
}

/// Why a command is not carried out.
#[derive(Debug, thiserror::Error)]
#[error("the thread that answers names takes no commands")]
pub struct DnsBusy;

/// Commands waiting; there are no more pods on a node.
const COMMANDS: usize = 16_384;

enum Command {
    Serve(Arc<PodHandle>, u64),
    Leave(u64),
    End,
}

/// Questions by what became of them.
type Questions = Family<[(&'static str, &'static str); 1], Counter>;

// === impl Dns ===

impl Dns {
    /// Starts the thread.
    ///
    /// # Errors
    /// The thread or its runtime cannot be made.
    pub fn start(deps: DnsDeps) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let answers = Arc::new(Answers {
            snapshots: Arc::clone(&deps.snapshots),
            questions: Questions::default(),
        });
        let (commands, inbox) = mpsc::channel(COMMANDS);
        let for_thread = Arc::clone(&answers);
        let thread = std::thread::Builder::new()
            .name("dns".into())
            .spawn(move || LocalSet::new().block_on(&runtime, run(deps, for_thread, inbox)))?;
        Ok(Self {
            commands: Some(commands),
            answers,
            thread: Some(thread),
        })
    }

    /// Takes the questions of a pod, known by the cookie of its network namespace, from now on.
    ///
    /// # Errors
    /// The thread takes no commands: the sockets must not stay open, or the pod's questions would end there.
    pub fn serve(&self, pod: Arc<PodHandle>, cookie: u64) -> Result<(), DnsBusy> {
        if pod.resolver.is_empty() {
            return Ok(());
        }
        self.tell(Command::Serve(pod, cookie))
    }

    /// Takes no more questions of a pod; those that are open are still answered for a few seconds.
    pub fn leave(&self, cookie: u64) {
        self.ask(Command::Leave(cookie));
    }

    /// As [`Dns::leave`], for every pod.
    pub fn end(&self) {
        self.ask(Command::End);
    }

    /// The same answers, for questions that come another way.
    #[must_use]
    pub fn answers(&self) -> Arc<dyn NameAnswers> {
        Arc::clone(&self.answers) as Arc<dyn NameAnswers>
    }

    /// Metrics.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "heddle_dns_questions",
            "Questions for names that pods asked, by what became of them",
            self.answers.questions.clone(),
        );
    }

    fn ask(&self, command: Command) {
        if let Err(error) = self.tell(command) {
            tracing::error!(%error, "questions for names are still taken");
        }
    }

    fn tell(&self, command: Command) -> Result<(), DnsBusy> {
        let commands = self.commands.as_ref().ok_or(DnsBusy)?;
        commands.try_send(command).map_err(|_| DnsBusy)
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

async fn run(deps: DnsDeps, answers: Arc<Answers>, mut inbox: mpsc::Receiver<Command>) {
    let shared = Rc::new(Shared::new(deps, answers));
    let mut pods: HashMap<u64, DrainTrigger> = HashMap::new();
    // Those that leave, until what they had open is answered: a trigger that is dropped cuts.
    let mut leaving: Vec<DrainTrigger> = Vec::new();
    while let Some(command) = inbox.recv().await {
        leaving.retain(|trigger| !trigger.is_alone());
        match command {
            Command::Serve(pod, cookie) => {
                let (trigger, watch) = drain();
                place::serve(&shared, &pod, cookie, &watch);
                leaving.extend(pods.insert(cookie, trigger).inspect(DrainTrigger::start));
            }
            Command::Leave(cookie) => {
                leaving.extend(pods.remove(&cookie).inspect(DrainTrigger::start));
            }
            Command::End => {
                leaving.extend(
                    pods.drain()
                        .map(|(_, trigger)| trigger)
                        .inspect(DrainTrigger::start),
                );
            }
        }
    }
}

/// What the mesh answers.
struct Answers {
    snapshots: Arc<ArcSwap<Snapshot>>,
    questions: Questions,
}

impl Answers {
    /// The answer to a pod as it is known now: its labels, and with them its Sidecar, may have changed since it was enrolled.
    fn to(&self, enrolled: &Workload, question: &[u8], over_udp: bool) -> Option<Vec<u8>> {
        let snapshot = self.snapshots.load();
        let known = enrolled.ips.first().and_then(|ip| snapshot.workload_by_ip(*ip));
        let client = known.filter(|w| w.id == enrolled.id).map_or(enrolled, |w| w);
        let answer = message::answer(&snapshot, client, question, over_udp);
        self.count(if answer.is_some() { "answered" } else { "forwarded" });
        answer
    }

    fn count(&self, outcome: &'static str) {
        self.questions.get_or_create(&[("outcome", outcome)]).inc();
    }
}

impl NameAnswers for Answers {
    fn answer(&self, client: &Workload, message: &[u8]) -> Option<Vec<u8>> {
        self.to(client, message, false)
    }
}
