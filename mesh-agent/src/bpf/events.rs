//! The event ring as typed events.

use super::{BpfError, Datapath};
use aya::maps::{MapData, RingBuf};
use aya_log::EbpfLogger;
use log::Log;
use mesh_common::Event;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;
use tokio::io::unix::AsyncFd;

/// Reads the ring, and the programs' debug lines where the object was built with them. There is one reader.
pub struct EventReader {
    ring: AsyncFd<Ring>,
    debug: Option<EbpfLogger<&'static dyn Log>>,
}

struct Ring(RingBuf<MapData>);

impl AsRawFd for Ring {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Datapath {
    /// Takes the reader; `None` when it was taken before.
    ///
    /// # Errors
    /// Not called inside a tokio runtime with I/O.
    pub fn take_events(&mut self) -> Result<Option<EventReader>, BpfError> {
        let Some(ring) = self.maps.events.take() else {
            return Ok(None);
        };
        // SAFETY: the map's descriptor stays open and the same as long as the ring, which the `AsyncFd` owns.
        let ring = unsafe { AsyncFd::register(Ring(ring)) }
            .map_err(|error| BpfError::io("watch the event ring")(error.into()))?;
        // Only an object with the feature `log` has lines; `log` records reach tracing through its bridge.
        let debug = EbpfLogger::init(&mut self.ebpf).ok();
        Ok(Some(EventReader { ring, debug }))
    }
}

impl EventReader {
    /// Waits for events and hands each to `sink`. Cancel safe: an event is handed over or still in the ring.
    pub async fn read(&mut self, mut sink: impl FnMut(Event)) {
        // The wake-up can be lost on weakly ordered CPUs (aya 0.14), hence a bound on the wait.
        let ready = tokio::time::timeout(Duration::from_millis(500), self.ring.readable_mut()).await;
        if let Some(debug) = &mut self.debug {
            debug.flush();
        }
        let clear = match ready {
            Ok(Ok(guard)) => Some(guard),
            Ok(Err(_)) | Err(_) => None,
        };
        if let Some(mut guard) = clear {
            drain(&mut guard.get_inner_mut().0, &mut sink);
            guard.clear_ready();
        } else {
            drain(&mut self.ring.get_mut().0, &mut sink);
        }
    }
}

fn drain(ring: &mut RingBuf<MapData>, sink: &mut impl FnMut(Event)) {
    while let Some(item) = ring.next() {
        if item.len() >= size_of::<Event>() {
            // SAFETY: the programs write whole `Event`s; the length was checked; any bit pattern is a valid `Event`.
            sink(unsafe { std::ptr::read_unaligned(item.as_ptr().cast::<Event>()) });
        }
    }
}
