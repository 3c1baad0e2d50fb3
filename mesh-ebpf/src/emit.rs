//! Counters and events.

use crate::maps::{COUNTERS, EVENTS, POD_COUNTERS};
use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use mesh_common::maps::EVENTS_PER_SECOND;
use mesh_common::verdict::Reason;
use mesh_common::{AddrPort, Event, EventKind, PodCounters};

/// Monotonic nanoseconds.
#[inline(always)]
pub fn now_ns() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_ns() }
}

/// Counts one decision of this CPU.
#[inline(always)]
pub fn count(reason: Reason) {
    if let Some(counter) = COUNTERS.get_ptr_mut(reason as u32) {
        // SAFETY: a per-CPU value; hooks of one CPU do not preempt each other in the middle of an increment that
        // matters: a lost count is tolerable, a torn one impossible.
        unsafe { *counter = (*counter).wrapping_add(1) };
    }
}

/// Runs `f` on the pod's counters of this CPU.
#[inline(always)]
pub fn with_pod(workload: u32, f: impl FnOnce(&mut PodCounters)) {
    if let Some(counters) = POD_COUNTERS.get_ptr_mut(workload) {
        // SAFETY: as in `count`.
        f(unsafe { &mut *counters });
    }
}

/// Sends an event, unless its pod has sent too many in this second or the ring is full; both are counted.
#[inline(always)]
pub fn event(kind: EventKind, reason: Reason, workload: u32, service: u32, dst: AddrPort, peer: AddrPort) {
    const SECOND_NS: u64 = 1_000_000_000;
    let at_ns = now_ns();
    let mut allowed = true;
    with_pod(workload, |pod| {
        if at_ns.wrapping_sub(pod.window_ns) > SECOND_NS {
            pod.window_ns = at_ns;
            pod.events = 0;
        }
        pod.events += 1;
        allowed = pod.events <= EVENTS_PER_SECOND;
    });
    if !allowed {
        return count(Reason::EventLost);
    }
    match EVENTS.reserve::<Event>(0) {
        Some(mut entry) => {
            entry.write(Event { at_ns, kind: kind as u32, reason: reason as u32, workload, service, dst, peer });
            entry.submit(0);
        }
        None => count(Reason::EventLost),
    }
}
