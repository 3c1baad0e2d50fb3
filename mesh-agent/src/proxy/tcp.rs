//! Connections carried as bytes.

use super::copy::{CopyError, Counters, copy_bidirectional};
use super::io::Reset;
use super::pair::{NO_FLAGS, Numbers, Pair};
use super::worker::Worker;
use crate::drain::DrainWatch;
use crate::errors::chain;
use crate::telemetry::metrics::TcpSeries;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};

/// A connection as telemetry sees it: opened when made, closed when dropped.
pub(super) struct TcpRecord {
    worker: Rc<Worker>,
    pair: Pair,
    series: Vec<Rc<TcpSeries>>,
    since: Instant,
    received: Cell<u64>,
    sent: Cell<u64>,
    error: RefCell<String>,
}

impl TcpRecord {
    /// Counts a connection as opened. `flags` are Istio's response flags of a connection that failed.
    pub(super) fn open(worker: &Rc<Worker>, mut pair: Pair, flags: &'static str) -> Self {
        for labels in pair.outbound.iter_mut().chain(pair.inbound.iter_mut()) {
            labels.flags = flags;
        }
        let series: Vec<_> = pair.reports().map(|labels| worker.meter.tcp(labels)).collect();
        series.iter().for_each(|s| {
            s.opened.inc();
        });
        Self {
            worker: Rc::clone(worker),
            pair,
            series,
            since: Instant::now(),
            received: Cell::new(0),
            sent: Cell::new(0),
            error: RefCell::default(),
        }
    }

    /// What ended the connection, for the access line.
    pub(super) fn fail(&self, error: &dyn std::error::Error) {
        *self.error.borrow_mut() = chain(error);
    }

    /// Tells the bytes carried so far.
    pub(super) fn carried(&self, received: u64, sent: u64) {
        let (more_in, more_out) = (
            received.saturating_sub(self.received.get()),
            sent.saturating_sub(self.sent.get()),
        );
        for series in &self.series {
            series.received.inc_by(more_in);
            series.sent.inc_by(more_out);
        }
        self.received.set(received.max(self.received.get()));
        self.sent.set(sent.max(self.sent.get()));
    }
}

impl Drop for TcpRecord {
    fn drop(&mut self) {
        self.series.iter().for_each(|s| {
            s.closed.inc();
        });
        let access = &self.worker.telemetry().access;
        if !access.wanted() {
            return;
        }
        let error = self.error.borrow();
        for labels in self.pair.reports() {
            let numbers = Numbers {
                sent: self.sent.get(),
                received: self.received.get(),
                duration: self.since.elapsed(),
                flags: labels.flags,
                error: &error,
            };
            access.connection(&self.pair.line(labels, &numbers));
        }
    }
}

/// Carries bytes both ways until both directions have ended. When either breaks, dropping the streams resets both.
pub(super) async fn forward<A, B>(client: &mut A, server: &mut B, record: &TcpRecord, watch: &DrainWatch)
where
    A: AsyncRead + AsyncWrite + Reset + Unpin,
    B: AsyncRead + AsyncWrite + Reset + Unpin,
{
    let carried = watch.unless_cut(carry(client, server, record)).await;
    let carried = carried.map_or(Err(Broken::Cut), |done| done.map_err(Broken::Copy));
    if let Err(error) = carried {
        record.fail(&error);
        client.reset_on_drop();
        server.reset_on_drop();
    }
}

/// Why a carried connection did not end by itself.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Copy(CopyError),
    #[error("cut at the drain deadline")]
    Cut,
}

async fn carry<A, B>(client: &mut A, server: &mut B, record: &TcpRecord) -> Result<(), CopyError>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let counters = Counters::default();
    let told = Told {
        record,
        counters: &counters,
    };
    let copying = copy_bidirectional(client, server, Some(IDLE), &counters);
    tokio::pin!(copying);
    loop {
        tokio::select! {
            biased;
            done = &mut copying => return done,
            () = tokio::time::sleep(TELL) => told.tell(),
        }
    }
}

/// Tells the count even if the connection is cut.
struct Told<'a> {
    record: &'a TcpRecord,
    counters: &'a Counters,
}

impl Told<'_> {
    fn tell(&self) {
        self.record
            .carried(self.counters.sent.get(), self.counters.received.get());
    }
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        self.tell();
    }
}

/// Flags of a connection that was carried.
pub(super) const CARRIED: &str = NO_FLAGS;
/// Flags of a connection that a policy refused, as ztunnel writes it.
pub(super) const DENIED: &str = "DENY";
/// A connection without a byte for this long is ended (Envoy's default).
pub(super) const IDLE: Duration = Duration::from_secs(3_600);
/// Long connections show in metrics this often.
const TELL: Duration = Duration::from_secs(5);
