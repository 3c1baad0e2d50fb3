//! Other protocols inside HTTP: WebSocket and friends, and the `Expect: 100-continue` handshake. Bytes of the new
//! protocol move only after the server has agreed.

use super::super::copy::{Counters, copy_bidirectional};
use super::super::io::{Io, Prefixed, Reset};
use super::record::Record;
use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http::Request;
use std::cell::RefCell;
use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Sleep;

/// An upstream's stream after its 101.
pub(super) type Switched = Prefixed<Io>;

/// Joins what was read beyond the 101 with the stream.
pub(super) const fn switched(read: Bytes, io: Io) -> Switched {
    Prefixed::new(read, io)
}

/// The place of a client connection's upgrade.
#[derive(Default)]
pub(super) struct Slot(RefCell<Option<Upgraded>>);

/// Both sides agreed; the client's stream is still to come.
pub(super) struct Upgraded {
    pub(super) server: Switched,
    pub(super) record: Record,
}

impl Slot {
    pub(super) fn put(&self, upgraded: Upgraded) {
        *self.0.borrow_mut() = Some(upgraded);
    }

    pub(super) fn take(&self) -> Option<Upgraded> {
        self.0.borrow_mut().take()
    }
}

impl Upgraded {
    /// Carries the new protocol until both directions have ended.
    pub(super) async fn run<T: AsyncRead + AsyncWrite + Reset + Unpin>(mut self, mut client: T) {
        let counters = Counters::default();
        if let Err(error) = copy_bidirectional(
            &mut client,
            &mut self.server,
            Some(super::super::tcp::IDLE),
            &counters,
        )
        .await
        {
            tracing::debug!(%error, "upgraded connection ended");
            client.reset_on_drop();
            self.server.reset_on_drop();
        }
        self.record.complete();
    }
}

/// A client that waits for `100 Continue` before it sends its body.
pub(super) struct Expect {
    gate: Arc<Gate>,
    patience: Pin<Box<Sleep>>,
}

#[derive(Default)]
struct Gate {
    open: AtomicBool,
    waker: AtomicWaker,
}

impl Expect {
    /// Holds the body of `request` until the upstream says 100. Not for ever: RFC 9110 § 10.1.1 lets a client that
    /// hears nothing send its body.
    pub(super) fn of<B>(request: &mut Request<B>) -> Self {
        let gate = Arc::new(Gate::default());
        let told = Arc::clone(&gate);
        hyper::ext::on_informational(request, move |response| {
            if response.status() == http::StatusCode::CONTINUE {
                told.open.store(true, Ordering::Release);
                told.waker.wake();
            }
        });
        Self {
            gate,
            patience: Box::pin(tokio::time::sleep(PATIENCE)),
        }
    }

    /// Whether the body may be asked for; asking makes hyper send 100 to the client.
    pub(super) fn poll_allowed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.gate.waker.register(cx.waker());
        if self.gate.open.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        self.patience.as_mut().poll(cx)
    }
}

const PATIENCE: Duration = Duration::from_secs(1);
