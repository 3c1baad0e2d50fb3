//! `sk_lookup`, attached to each enrolled pod's network namespace: who takes an arriving connection.
//!
//! The program has neither cookie nor socket, so it knows its pod by the local address. Other addresses of the
//! namespace (loopback above all) are left alone.

use crate::context::{lookup_ends, lookup_is_tcp};
use crate::emit::{count, event, with_pod};
use crate::maps::{AGENT, DIRECT_FLOWS, LISTENERS, LOCAL_PODS, NODE_ADDRS, PROBE_PORTS};
use aya_ebpf::programs::SkLookupContext;
use mesh_common::verdict::{Inbound, Reason, Steer, steer as decide, steer_without_listener};
use mesh_common::{EventKind, FlowKey, ListenerKey, LocalPod, PortKey, agent_flags};

const SK_PASS: u32 = 1;
const SK_DROP: u32 = 0;

/// The hook.
#[inline(always)]
pub fn steer(ctx: &SkLookupContext) -> u32 {
    if !lookup_is_tcp(ctx) {
        return SK_PASS;
    }
    let (local, remote) = lookup_ends(ctx);
    // SAFETY: entries are freed by RCU (no preallocation), so the references outlive this run.
    let Some(pod) = (unsafe { LOCAL_PODS.get(local.ip) }) else { return SK_PASS };
    let flow = FlowKey { dst: local.ip, src: remote.ip, dst_port: local.port, src_port: remote.port };
    let probe_key = PortKey { workload: pod.id, port: local.port as u32 };
    // SAFETY: as above; `DIRECT_FLOWS` is only asked whether the key is there.
    let facts = unsafe {
        Inbound {
            local,
            remote,
            direct: DIRECT_FLOWS.get(flow).is_some(),
            probe: PROBE_PORTS.get(probe_key).is_some()
                && NODE_ADDRS.get(remote.ip).is_some()
                && AGENT.get(0).is_some_and(|agent| agent.flags & agent_flags::CAPTURE_PROBES == 0),
        }
    };
    let outcome = match decide(&facts) {
        Steer::Assign(kind, reason) => assign(ctx, pod, kind, reason),
        other => other,
    };
    finish(pod, &facts, outcome)
}

/// `BPF_SK_LOOKUP_F_NO_REUSEPORT` (linux/bpf.h).
const NO_REUSEPORT: u64 = 2;

#[inline(always)]
fn assign(ctx: &SkLookupContext, pod: &LocalPod, kind: u32, reason: Reason) -> Steer {
    let key = ListenerKey { cookie: pod.cookie, kind, pad: 0 };
    // The socket in the map and no other of its port: the predecessor's may still listen.
    match LISTENERS.redirect_sk_lookup(SkLookupContext::new(ctx.lookup), key, NO_REUSEPORT) {
        Ok(()) => Steer::Assign(kind, reason),
        Err(_) => steer_without_listener(kind, pod.flags),
    }
}

#[inline(always)]
fn finish(pod: &LocalPod, facts: &Inbound, outcome: Steer) -> u32 {
    match outcome {
        Steer::Assign(_, reason) => {
            count(reason);
            if reason as u32 != Reason::CapturePort as u32 {
                with_pod(pod.id, |counters| counters.steered += 1);
            }
            SK_PASS
        }
        Steer::Pass(reason) => {
            count(reason);
            if reason as u32 != Reason::FromAgent as u32 {
                with_pod(pod.id, |counters| counters.admitted += 1);
            }
            SK_PASS
        }
        Steer::Drop(reason) => {
            count(reason);
            with_pod(pod.id, |counters| counters.dropped += 1);
            event(EventKind::Dropped, reason, pod.id, 0, facts.local, facts.remote);
            SK_DROP
        }
    }
}
