//! `cgroup/connect4|6`: what becomes of a connection that a process of this node opens.

use crate::context::{addr_socket, is_tcp, is_udp, mark, record, record_or_insert, set_user_addr, user_addr};
use crate::emit::{count, event, now_ns, with_pod};
use crate::maps::{AGENT, BACKENDS, SERVICES, WORKLOADS};
use crate::names;
use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_get_prandom_u32, bpf_set_retval};
use aya_ebpf::programs::SockAddrContext;
use mesh_common::maps::{CAPTURE_PORT_BASE, CAPTURE_PORTS};
use mesh_common::verdict::{Reason, Verdict, asks_name, draw, outbound_backend, outbound_service, outbound_shortcut};
use mesh_common::{
    AddrPort, Agent, Backend, BackendKey, EventKind, Ip, Service, SocketRecord, Workload, record_kind,
};

const ALLOW: i32 = 1;
const REFUSE: i32 = 0;
const ECONNREFUSED: i32 = 111;

/// Everything a verdict is carried out with.
struct Facts {
    dst: AddrPort,
    workload: Workload,
    service: u32,
    backend: AddrPort,
}

/// The hook.
#[inline(always)]
pub fn connect(ctx: &SockAddrContext, v6: bool) -> i32 {
    // SAFETY: `sock_addr` contexts take this helper since Linux 5.7.
    let cookie = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    // SAFETY: entries are freed by RCU (no preallocation), so the reference outlives this run.
    let Some(workload) = (unsafe { WORKLOADS.get(cookie) }) else {
        // Counted, so that the agent can see by a connection of its own that the hook is in effect.
        count(Reason::NotEnrolled);
        return ALLOW;
    };
    let agent = AGENT.get(0).copied().unwrap_or_default();
    let mut facts =
        Facts { dst: user_addr(ctx, v6), workload: *workload, service: 0, backend: AddrPort::default() };
    let own = agent.mark != 0 && mark(addr_socket(ctx)) == agent.mark;
    let asks = asks_name(own, workload.flags, &facts.dst, &workload.ip4, &workload.ip6);
    if asks && is_udp(ctx) {
        names::take(ctx, cookie, &facts.dst, v6, &agent);
        return ALLOW;
    }
    let verdict = if asks && is_tcp(ctx) && names::served(ctx, facts.dst.ip.is_v4(), &agent) {
        Verdict::Proxy(Reason::NameAsked)
    } else {
        decide(ctx, &mut facts, own, &agent)
    };
    count(verdict.reason());
    #[cfg(feature = "log")]
    aya_log_ebpf::debug!(
        ctx,
        "connect: workload {} port {} reason {}",
        facts.workload.id,
        facts.dst.port,
        verdict.reason() as u32
    );
    carry_out(ctx, &facts, v6, verdict)
}

#[inline(always)]
fn decide(ctx: &SockAddrContext, facts: &mut Facts, own: bool, agent: &Agent) -> Verdict {
    let workload = &facts.workload;
    if let Some(verdict) = outbound_shortcut(own, is_tcp(ctx), &facts.dst, &workload.ip4, &workload.ip6) {
        return verdict;
    }
    let alive = agent.alive(now_ns());
    let service = find_service(&facts.dst);
    if let Some(service) = service {
        facts.service = service.id;
    }
    if let Some(verdict) = outbound_service(service, workload.flags, alive) {
        return verdict;
    }
    let backend = service.and_then(choose);
    if let Some(backend) = backend {
        let port = if backend.port == 0 { facts.dst.port } else { backend.port };
        facts.backend = AddrPort::new(backend.ip, port);
    }
    outbound_backend(backend, workload.flags, alive)
}

/// The entry of exactly this port, else of all ports of this address, else of this port of any address.
#[inline(always)]
fn find_service<'a>(dst: &AddrPort) -> Option<&'a Service> {
    // SAFETY: as for `WORKLOADS`.
    unsafe {
        SERVICES
            .get(*dst)
            .or_else(|| SERVICES.get(AddrPort::new(dst.ip, 0)))
            .or_else(|| SERVICES.get(AddrPort::new(Ip::NONE, dst.port)))
    }
}

/// Binary search for the first backend whose cumulative weight exceeds the draw. The plan gives a service a new id
/// whenever its backends change, so count and entries always belong together.
#[inline(always)]
fn choose<'a>(service: &Service) -> Option<&'a Backend> {
    // SAFETY: no preconditions.
    let random = unsafe { bpf_get_prandom_u32() };
    let draw = draw(random, service.total_weight);
    let (mut low, mut high) = (0u32, service.backends);
    // 2^11 > MAX_BACKENDS_PER_SERVICE.
    for _ in 0..11 {
        if low >= high {
            break;
        }
        let middle = low + (high - low) / 2;
        match backend(service.id, middle) {
            Some(entry) if entry.cumulative_weight > draw => high = middle,
            Some(_) => low = middle + 1,
            None => return None,
        }
    }
    backend(service.id, low)
}

#[inline(always)]
fn backend<'a>(service: u32, slot: u32) -> Option<&'a Backend> {
    // SAFETY: as for `WORKLOADS`.
    unsafe { BACKENDS.get(BackendKey { service, slot }) }
}

#[inline(always)]
fn carry_out(ctx: &SockAddrContext, facts: &Facts, v6: bool, verdict: Verdict) -> i32 {
    let id = facts.workload.id;
    match verdict {
        Verdict::Pass(reason) => {
            if let Some(old) = record(addr_socket(ctx)) {
                // The agent's own record is for this very connection; another's is from an earlier attempt.
                if reason as u32 != Reason::OwnSocket as u32 {
                    old.kind = record_kind::NONE;
                }
            }
            if reason as u32 == Reason::UnknownDestination as u32 || reason as u32 == Reason::AgentGoneOpen as u32 {
                with_pod(id, |pod| pod.passed += 1);
                event(EventKind::Passed, reason, id, 0, facts.dst, AddrPort::default());
            }
            ALLOW
        }
        Verdict::Deny(reason) => refuse(facts, reason),
        Verdict::Direct(reason) => {
            if !rewrite(ctx, facts, v6, record_kind::DIRECT, facts.backend) {
                return refuse(facts, Reason::HelperFailed);
            }
            with_pod(id, |pod| pod.direct += 1);
            event(EventKind::Direct, reason, id, facts.service, facts.dst, facts.backend);
            ALLOW
        }
        Verdict::Proxy(_) => {
            let own_ip = if facts.dst.ip.is_v4() { facts.workload.ip4 } else { facts.workload.ip6 };
            let port = CAPTURE_PORT_BASE + (facts.dst.mix() % CAPTURE_PORTS as u32) as u16;
            if own_ip.is_unspecified() || !rewrite(ctx, facts, v6, record_kind::PROXY, AddrPort::new(own_ip, port)) {
                return refuse(facts, Reason::HelperFailed);
            }
            with_pod(id, |pod| pod.proxied += 1);
            ALLOW
        }
    }
}

/// Writes the record first: a rewritten socket without one could not be told what it is.
#[inline(always)]
fn rewrite(ctx: &SockAddrContext, facts: &Facts, v6: bool, kind: u32, actual: AddrPort) -> bool {
    let mut new = SocketRecord { kind, workload: facts.workload.id, original: facts.dst, actual };
    let Some(stored) = record_or_insert(addr_socket(ctx), &mut new) else { return false };
    *stored = new;
    set_user_addr(ctx, v6, &actual);
    true
}

#[inline(always)]
fn refuse(facts: &Facts, reason: Reason) -> i32 {
    if reason as u32 == Reason::HelperFailed as u32 {
        count(reason);
    }
    with_pod(facts.workload.id, |pod| pod.denied += 1);
    event(EventKind::Denied, reason, facts.workload.id, facts.service, facts.dst, AddrPort::default());
    // Linux 5.18. Without it the application sees EPERM.
    // SAFETY: no preconditions in connect hooks.
    unsafe { bpf_set_retval(-ECONNREFUSED) };
    REFUSE
}
