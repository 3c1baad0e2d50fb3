//! Typed reads and writes of the kernel's contexts, with the byte order of each field settled once.
//!
//! `bpf_sock_addr.user_port` is a `u32` that holds a network-order `u16`; `bpf_sk_lookup.remote_port` is network
//! order, `local_port` host order; `bpf_sock_ops.local_port` is host order, `remote_port` network order in the upper
//! half. Writes are volatile: merged or split ones are refused by the verifier.

use aya_ebpf::bindings::{bpf_sk_lookup, bpf_sock, bpf_sock_addr, bpf_sock_ops};
use aya_ebpf::helpers::generated::bpf_sk_storage_get;
use aya_ebpf::programs::{SkLookupContext, SockAddrContext, SockOpsContext};
use core::arch::asm;
use core::mem::offset_of;
use core::ptr::{null_mut, write_volatile};
use mesh_common::{AddrPort, Ip, SocketRecord};

/// Linux address family number of IPv4.
pub const AF_INET: u32 = 2;

/// Reads a field of a context at its own fixed offset. Written as assembly because LLVM otherwise merges the loads of
/// two branches into one through a computed pointer, and the verifier refuses those ("dereference of modified ctx ptr").
macro_rules! load {
    ($size:literal, $ptr:expr, $ty:ty, $($field:tt)+) => {{
        let value: u64;
        // SAFETY: a context pointer is valid for the program's run, and the verifier checks each access.
        unsafe {
            asm!(
                concat!("{value} = *(", $size, " *)({base} + {offset})"),
                value = lateout(reg) value,
                base = in(reg) $ptr,
                offset = const offset_of!($ty, $($field)+),
                options(nostack, readonly, preserves_flags),
            );
        }
        value
    }};
}

macro_rules! load_word {
    ($ptr:expr, $ty:ty, $field:ident, $at:literal) => {{
        let value: u64;
        // SAFETY: as above.
        unsafe {
            asm!(
                "{value} = *(u32 *)({base} + {offset})",
                value = lateout(reg) value,
                base = in(reg) $ptr,
                offset = const offset_of!($ty, $field) + $at,
                options(nostack, readonly, preserves_flags),
            );
        }
        value
    }};
}

macro_rules! read_ip6 {
    ($ptr:expr, $ty:ty, $field:ident) => {{
        let word = |value: u64| value as u32;
        Ip([
            word(load_word!($ptr, $ty, $field, 0)),
            word(load_word!($ptr, $ty, $field, 4)),
            word(load_word!($ptr, $ty, $field, 8)),
            word(load_word!($ptr, $ty, $field, 12)),
        ])
    }};
}

/// The address of a `bpf_sock_addr`: what is being dialled, or what is about to be shown.
#[inline(always)]
pub fn user_addr(ctx: &SockAddrContext, v6: bool) -> AddrPort {
    let sa = ctx.sock_addr;
    let ip = if v6 {
        read_ip6!(sa, bpf_sock_addr, user_ip6)
    } else {
        Ip::v4_word(load!("u32", sa, bpf_sock_addr, user_ip4) as u32)
    };
    AddrPort::new(ip, u16::from_be(load!("u32", sa, bpf_sock_addr, user_port) as u16))
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
    load!("u64", ctx.sock_addr, bpf_sock_addr, __bindgen_anon_1) as *mut bpf_sock
}

/// `SO_MARK` of a socket.
#[inline(always)]
pub fn mark(sk: *mut bpf_sock) -> u32 {
    if sk.is_null() { 0 } else { load!("u32", sk, bpf_sock, mark) as u32 }
}

/// Whether a `bpf_sock_addr` is about TCP.
#[inline(always)]
pub fn is_tcp(ctx: &SockAddrContext) -> bool {
    const SOCK_STREAM: u32 = 1;
    const IPPROTO_TCP: u32 = 6;
    load!("u32", ctx.sock_addr, bpf_sock_addr, type_) as u32 == SOCK_STREAM
        && load!("u32", ctx.sock_addr, bpf_sock_addr, protocol) as u32 == IPPROTO_TCP
}

/// Whether a `bpf_sock_addr` is about UDP.
#[inline(always)]
pub fn is_udp(ctx: &SockAddrContext) -> bool {
    const SOCK_DGRAM: u32 = 2;
    const IPPROTO_UDP: u32 = 17;
    load!("u32", ctx.sock_addr, bpf_sock_addr, type_) as u32 == SOCK_DGRAM
        && load!("u32", ctx.sock_addr, bpf_sock_addr, protocol) as u32 == IPPROTO_UDP
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
    let (local, remote) = if load!("u32", ops, bpf_sock_ops, family) as u32 == AF_INET {
        (
            Ip::v4_word(load!("u32", ops, bpf_sock_ops, local_ip4) as u32),
            Ip::v4_word(load!("u32", ops, bpf_sock_ops, remote_ip4) as u32),
        )
    } else {
        (read_ip6!(ops, bpf_sock_ops, local_ip6), read_ip6!(ops, bpf_sock_ops, remote_ip6))
    };
    let remote_port = u32::from_be(load!("u32", ops, bpf_sock_ops, remote_port) as u32) as u16;
    let local_port = load!("u32", ops, bpf_sock_ops, local_port) as u16;
    (AddrPort::new(local, local_port), AddrPort::new(remote, remote_port))
}

/// The socket of a `bpf_sock_ops`; null for a request socket.
#[inline(always)]
pub fn ops_socket(ctx: &SockOpsContext) -> *mut bpf_sock {
    load!("u64", ctx.ops, bpf_sock_ops, __bindgen_anon_2) as *mut bpf_sock
}

/// Which callback this is.
#[inline(always)]
pub fn ops_op(ctx: &SockOpsContext) -> u32 {
    load!("u32", ctx.ops, bpf_sock_ops, op) as u32
}

/// The state a socket goes to (`BPF_SOCK_OPS_STATE_CB`, second argument).
#[inline(always)]
pub fn ops_new_state(ctx: &SockOpsContext) -> u32 {
    load_word!(ctx.ops, bpf_sock_ops, __bindgen_anon_1, 4) as u32
}

/// Both ends of a `bpf_sk_lookup`, own end first.
#[inline(always)]
pub fn lookup_ends(ctx: &SkLookupContext) -> (AddrPort, AddrPort) {
    let lookup = ctx.lookup;
    let (local, remote) = if load!("u32", lookup, bpf_sk_lookup, family) as u32 == AF_INET {
        (
            Ip::v4_word(load!("u32", lookup, bpf_sk_lookup, local_ip4) as u32),
            Ip::v4_word(load!("u32", lookup, bpf_sk_lookup, remote_ip4) as u32),
        )
    } else {
        (read_ip6!(lookup, bpf_sk_lookup, local_ip6), read_ip6!(lookup, bpf_sk_lookup, remote_ip6))
    };
    let local_port = load!("u32", lookup, bpf_sk_lookup, local_port) as u16;
    let remote_port = u16::from_be(load!("u16", lookup, bpf_sk_lookup, remote_port) as u16);
    (AddrPort::new(local, local_port), AddrPort::new(remote, remote_port))
}

/// Whether a `bpf_sk_lookup` is about TCP.
#[inline(always)]
pub fn lookup_is_tcp(ctx: &SkLookupContext) -> bool {
    const IPPROTO_TCP: u32 = 6;
    load!("u32", ctx.lookup, bpf_sk_lookup, protocol) as u32 == IPPROTO_TCP
}
