//! Questions for names: `cgroup/connect4|6` and `cgroup/sendmsg4|6` lead those of enrolled pods to the agent's sockets
//! inside the pod, `cgroup/recvmsg4|6` shows answers as if they came from the name server that was asked.
//!
//! Whether the agent takes questions is seen by its socket, not only by its heartbeat: in the moment in which an agent
//! dies, questions go to the pod's own name server again.

use crate::context::{addr_socket, mark, set_user_addr, user_addr};
use crate::emit::{count, now_ns};
use crate::maps::{AGENT, RESOLVERS, WORKLOADS};
use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2};
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_sk_lookup_udp, bpf_sk_release};
use aya_ebpf::programs::SockAddrContext;
use mesh_common::maps::{NAME_PORT, RESOLVERS_PER_POD};
use mesh_common::verdict::{Reason, asks_name, resolver_at, resolver_slot};
use mesh_common::{AddrPort, Agent, Ip, ResolverKey};

/// Everything passes: a question that is not taken goes where it was sent.
const PASS: i32 = 1;

/// The hook of `sendto`.
#[inline(always)]
pub fn send(ctx: &SockAddrContext, v6: bool) -> i32 {
    let dst = user_addr(ctx, v6);
    // Most datagrams are none of ours: nothing is looked up for them.
    if dst.port != NAME_PORT {
        return PASS;
    }
    // SAFETY: `sock_addr` contexts take this helper since Linux 5.7.
    let cookie = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    // SAFETY: entries are freed by RCU (no preallocation), so the reference outlives this run.
    let Some(workload) = (unsafe { WORKLOADS.get(cookie) }) else { return PASS };
    let agent = AGENT.get(0).copied().unwrap_or_default();
    let own = agent.mark != 0 && mark(addr_socket(ctx)) == agent.mark;
    if asks_name(own, workload.flags, &dst, &workload.ip4, &workload.ip6) {
        take(ctx, cookie, &dst, v6, &agent);
    }
    PASS
}

/// The hook of `recvfrom`, and what `getpeername` shows of a connected socket. It may not refuse.
#[inline(always)]
pub fn show(ctx: &SockAddrContext, v6: bool) -> i32 {
    let Some(slot) = resolver_slot(&user_addr(ctx, v6)) else { return PASS };
    // SAFETY: as above.
    let cookie = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    // SAFETY: an entry is written once and removed with its pod.
    if let Some(server) = unsafe { RESOLVERS.get(ResolverKey { cookie, slot, pad: 0 }) }
        && (v6 || server.is_v4())
    {
        set_user_addr(ctx, v6, &AddrPort::new(*server, NAME_PORT));
    }
    PASS
}

/// Leads a datagram, or a socket that is being connected, to the agent, if the agent takes it.
#[inline(always)]
pub fn take(ctx: &SockAddrContext, cookie: u64, dst: &AddrPort, v6: bool, agent: &Agent) {
    if !served(ctx, dst.ip.is_v4(), agent) {
        return;
    }
    match slot_of(cookie, &dst.ip) {
        Some(slot) => {
            count(Reason::NameAsked);
            set_user_addr(ctx, v6, &resolver_at(slot, dst.ip.is_v4()));
        }
        None => count(Reason::NameServersFull),
    }
}

/// Whether an agent that lives has its sockets in this namespace. They are told from an application's by the mark.
#[inline(always)]
pub fn served(ctx: &SockAddrContext, v4: bool, agent: &Agent) -> bool {
    const CURRENT_NETNS: u64 = u64::MAX;
    const V4_BYTES: u32 = 12;
    const V6_BYTES: u32 = 36;
    if agent.mark == 0 || !agent.alive(now_ns()) {
        return false;
    }
    let at = resolver_at(0, v4);
    let dport = at.port.to_be();
    let (mut tuple, bytes) = if v4 {
        let ends = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 { saddr: 0, daddr: at.ip.word_v4(), sport: 0, dport };
        (bpf_sock_tuple { __bindgen_anon_1: bpf_sock_tuple__bindgen_ty_1 { ipv4: ends } }, V4_BYTES)
    } else {
        let ends = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 { saddr: [0; 4], daddr: at.ip.0, sport: 0, dport };
        (bpf_sock_tuple { __bindgen_anon_1: bpf_sock_tuple__bindgen_ty_1 { ipv6: ends } }, V6_BYTES)
    };
    // SAFETY: the tuple is on the stack and as long as said; what is found is released below.
    let socket = unsafe { bpf_sk_lookup_udp(ctx.as_ptr(), &raw mut tuple, bytes, CURRENT_NETNS, 0) };
    if socket.is_null() {
        return false;
    }
    let ours = mark(socket) == agent.mark;
    // SAFETY: found above, and not used after this.
    unsafe { bpf_sk_release(socket.cast()) };
    ours
}

/// The slot of a name server: the one that it has, else the first that is free.
#[inline(always)]
fn slot_of(cookie: u64, server: &Ip) -> Option<u32> {
    const NOEXIST: u64 = 1;
    for slot in 0..RESOLVERS_PER_POD as u32 {
        let key = ResolverKey { cookie, slot, pad: 0 };
        // SAFETY: as in `show`.
        if unsafe { RESOLVERS.get(key) }.is_none() {
            let _ = RESOLVERS.insert(key, server, NOEXIST);
        }
        // Another processor may have been first.
        // SAFETY: as in `show`.
        if unsafe { RESOLVERS.get(key) }.is_some_and(|holder| *holder == *server) {
            return Some(slot);
        }
    }
    None
}
