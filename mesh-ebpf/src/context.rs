//! Typed reads and writes of the kernel's contexts, with the byte order of each field settled once.
//!
//! `bpf_sock_addr.user_port` is a `u32` that holds a network-order `u16`; `bpf_sk_lookup.remote_port` is network
//! order, `local_port` host order; `bpf_sock_ops.local_port` is host order, `remote_port` network order in the upper
//! half. All accesses are volatile: merged or split ones are refused by the verifier.

use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::helpers::generated::bpf_sk_storage_get;
use aya_ebpf::programs::{SkLookupContext, SockAddrContext, SockOpsContext};
use core::ptr::{null_mut, read_volatile, write_volatile};
use mesh_common::{AddrPort, Ip, SocketRecord};

/// Linux address family number of IPv4.
pub const AF_INET: u32 = 2;

macro_rules! read {
    ($ptr:expr, $($field:tt)+) => {
        // SAFETY: a context pointer is valid for the program's run, and the verifier checks each access.
        unsafe { read_volatile(&raw const (*$ptr).$($field)+) }
    };
}

macro_rules! read_ip6 {
    ($ptr:expr, $field:ident) => {
        Ip([
            read!($ptr, $field[0]),
            read!($ptr, $field[1]),
            read!($ptr, $field[2]),
            read!($ptr, $field[3]),
        ])
    };
}

/// The address of a `bpf_sock_addr`: what is being dialled, or what is about to be shown.
#[inline(always)]
pub fn user_addr(ctx: &SockAddrContext, v6: bool) -> AddrPort {
    let sa = ctx.sock_addr;
    let ip = if v6 { read_ip6!(sa, user_ip6) } else { Ip::v4_word(read!(sa, user_ip4)) };
    AddrPort::new(ip, u16::from_be(read!(sa, user_port) as u16))
}

/// Replaces the address of a `bpf_sock_addr`. `addr` must be IPv4 where `v6` is false.
#[inline(always)]
pub fn set_user_addr(ctx: &SockAddrContext, v6: bool, addr: &AddrPort) {
    let sa = ctx.sock_addr;
    let [a, b, c, d] = addr.ip.0;
    // SAFETY: as for reads; these fields are writable in connect and getpeername programs.
    unsafe {
        if v6 {
            write_volatile(&raw mut (*sa).user_ip6[0], a);
            write_volatile(&raw mut (*sa).user_ip6[1], b);
            write_volatile(&raw mut (*sa).user_ip6[2], c);
            write_volatile(&raw mut (*sa).user_ip6[3], d);
        } else {
            write_volatile(&raw mut (*sa).user_ip4, addr.ip.word_v4());
        }
        write_volatile(&raw mut (*sa).user_port, addr.port.to_be() as u32);
    }
}

/// The socket of a `bpf_sock_addr`, never null in the hooks used here; the verifier wants the check all the same.
#[inline(always)]
pub fn addr_socket(ctx: &SockAddrContext) -> *mut bpf_sock {
    read!(ctx.sock_addr, __bindgen_anon_1.sk)
}

/// `SO_MARK` of a socket.
#[inline(always)]
pub fn mark(sk: *mut bpf_sock) -> u32 {
    if sk.is_null() { 0 } else { read!(sk, mark) }
}

/// Whether a `bpf_sock_addr` is about TCP.
#[inline(always)]
pub fn is_tcp(ctx: &SockAddrContext) -> bool {
    const SOCK_STREAM: u32 = 1;
    const IPPROTO_TCP: u32 = 6;
    read!(ctx.sock_addr, type_) == SOCK_STREAM && read!(ctx.sock_addr, protocol) == IPPROTO_TCP
}

/// The record of a socket, if it has one.
#[inline(always)]
pub fn record<'a>(sk: *mut bpf_sock) -> Option<&'a mut SocketRecord> {
    storage(sk, null_mut(), 0)
}

/// The record of a socket, made from `initial` if it has none.
#[inline(always)]
pub fn record_or_insert<'a>(sk: *mut bpf_sock, initial: &mut SocketRecord) -> Option<&'a mut SocketRecord> {
    const BPF_SK_STORAGE_GET_F_CREATE: u64 = 1;
    storage(sk, initial, BPF_SK_STORAGE_GET_F_CREATE)
}

#[inline(always)]
fn storage<'a>(sk: *mut bpf_sock, initial: *mut SocketRecord, flags: u64) -> Option<&'a mut SocketRecord> {
    if sk.is_null() {
        return None;
    }
    let map = (&raw const crate::maps::SOCKETS).cast_mut().cast();
    // SAFETY: the helper (Linux 5.2) returns null or a value of the map's type that lives as long as the socket.
    unsafe { bpf_sk_storage_get(map, sk.cast(), initial.cast(), flags).cast::<SocketRecord>().as_mut() }
}

/// Both ends of a `bpf_sock_ops` connection, own end first.
#[inline(always)]
pub fn ops_ends(ctx: &SockOpsContext) -> (AddrPort, AddrPort) {
    let ops = ctx.ops;
    let (local, remote) = if read!(ops, family) == AF_INET {
        (Ip::v4_word(read!(ops, local_ip4)), Ip::v4_word(read!(ops, remote_ip4)))
    } else {
        (read_ip6!(ops, local_ip6), read_ip6!(ops, remote_ip6))
    };
    let remote_port = u32::from_be(read!(ops, remote_port)) as u16;
    (AddrPort::new(local, read!(ops, local_port) as u16), AddrPort::new(remote, remote_port))
}

/// The socket of a `bpf_sock_ops`; null for a request socket.
#[inline(always)]
pub fn ops_socket(ctx: &SockOpsContext) -> *mut bpf_sock {
    read!(ctx.ops, __bindgen_anon_2.sk)
}

/// Which callback this is.
#[inline(always)]
pub fn ops_op(ctx: &SockOpsContext) -> u32 {
    read!(ctx.ops, op)
}

/// The state a socket goes to (`BPF_SOCK_OPS_STATE_CB`, second argument).
#[inline(always)]
pub fn ops_new_state(ctx: &SockOpsContext) -> u32 {
    read!(ctx.ops, __bindgen_anon_1.args[1])
}

/// Both ends of a `bpf_sk_lookup`, own end first.
#[inline(always)]
pub fn lookup_ends(ctx: &SkLookupContext) -> (AddrPort, AddrPort) {
    let lookup = ctx.lookup;
    let (local, remote) = if read!(lookup, family) == AF_INET {
        (Ip::v4_word(read!(lookup, local_ip4)), Ip::v4_word(read!(lookup, remote_ip4)))
    } else {
        (read_ip6!(lookup, local_ip6), read_ip6!(lookup, remote_ip6))
    };
    (
        AddrPort::new(local, read!(lookup, local_port) as u16),
        AddrPort::new(remote, u16::from_be(read!(lookup, remote_port))),
    )
}

/// Whether a `bpf_sk_lookup` is about TCP.
#[inline(always)]
pub fn lookup_is_tcp(ctx: &SkLookupContext) -> bool {
    const IPPROTO_TCP: u32 = 6;
    read!(ctx.lookup, protocol) == IPPROTO_TCP
}
