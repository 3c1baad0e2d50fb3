//! `sock_ops`: carries a record from the connecting socket to the accepted one.
//!
//! `connect4|6` wrote the record; `TCP_CONNECT_CB` knows the local port and runs before the SYN leaves, so it
//! publishes under the whole tuple; `PASSIVE_ESTABLISHED` moves it into the accepted socket before `accept` can return
//! it; `STATE_CB` removes what nobody took.

use crate::context::{ops_ends, ops_new_state, ops_op, ops_socket, record, record_or_insert};
use crate::emit::{count, now_ns};
use crate::maps::{DIRECT_FLOWS, FLOWS, LOCAL_PODS};
use aya_ebpf::programs::SockOpsContext;
use mesh_common::verdict::Reason;
use mesh_common::{AddrPort, DirectFlow, FlowKey, FlowRecord, SocketRecord, record_kind};

const TCP_CONNECT_CB: u32 = 3;
const PASSIVE_ESTABLISHED_CB: u32 = 5;
const STATE_CB: u32 = 10;
const STATE_CB_FLAG: i32 = 1 << 2;
const TCP_CLOSE: u32 = 7;

/// The hook.
#[inline(always)]
pub fn on_event(ctx: &SockOpsContext) {
    match ops_op(ctx) {
        TCP_CONNECT_CB => connecting(ctx),
        PASSIVE_ESTABLISHED_CB => accepted(ctx),
        STATE_CB if ops_new_state(ctx) == TCP_CLOSE => closed(ctx),
        _ => {}
    }
}

#[inline(always)]
fn key(client: &AddrPort, server: &AddrPort) -> FlowKey {
    FlowKey { dst: server.ip, src: client.ip, dst_port: server.port, src_port: client.port }
}

#[inline(always)]
fn connecting(ctx: &SockOpsContext) {
    let Some(record) = record(ops_socket(ctx)) else { return };
    let (local, remote) = ops_ends(ctx);
    let key = key(&local, &remote);
    let published = match record.kind {
        record_kind::DIRECT => {
            // SAFETY: entries are freed by RCU (no preallocation).
            if unsafe { LOCAL_PODS.get(remote.ip) }.is_none() {
                return;
            }
            let flow = DirectFlow { since_ns: now_ns(), workload: record.workload, service: 0 };
            DIRECT_FLOWS.insert(key, flow, 0)
        }
        record_kind::PROXY | record_kind::AGENT => {
            let kind = if record.kind == record_kind::PROXY { record_kind::CAPTURED } else { record_kind::SERVED };
            let flow = FlowRecord {
                since_ns: now_ns(),
                kind,
                workload: record.workload,
                original: record.original,
                pad: 0,
            };
            FLOWS.insert(key, flow, 0)
        }
        _ => return,
    };
    // Without the entry the other side finds nothing and refuses: never a guess.
    if published.is_err() || ctx.set_cb_flags(STATE_CB_FLAG).is_err() {
        count(Reason::HelperFailed);
    }
}

#[inline(always)]
fn accepted(ctx: &SockOpsContext) {
    let (local, remote) = ops_ends(ctx);
    let key = key(&remote, &local);
    // SAFETY: preallocated; the key is unique to this connection until its client closes, so nobody else writes it.
    let Some(flow) = (unsafe { FLOWS.get(key) }) else { return };
    let mut new =
        SocketRecord { kind: flow.kind, workload: flow.workload, original: flow.original, actual: local };
    if record_or_insert(ops_socket(ctx), &mut new).is_none() {
        count(Reason::HelperFailed);
    }
    let _ = FLOWS.remove(key);
}

#[inline(always)]
fn closed(ctx: &SockOpsContext) {
    let Some(record) = record(ops_socket(ctx)) else { return };
    let (local, remote) = ops_ends(ctx);
    let key = key(&local, &remote);
    match record.kind {
        record_kind::DIRECT => {
            let _ = DIRECT_FLOWS.remove(key);
        }
        record_kind::PROXY | record_kind::AGENT => {
            let _ = FLOWS.remove(key);
        }
        _ => {}
    }
}
