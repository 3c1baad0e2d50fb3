//! Heddle's programs: entry points only. Each gathers facts, asks `mesh_common::verdict` and carries out the answer.
//!
//! SPDX-License-Identifier: MIT OR GPL-2.0
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod connect;
mod context;
mod emit;
mod maps;
mod names;
mod peer;
mod sockops;
mod steer;

use aya_ebpf::macros::{cgroup_sock_addr, sk_lookup, sock_ops};
use aya_ebpf::programs::{SkLookupContext, SockAddrContext, SockOpsContext};

/// `connect(2)` over IPv4. Linux 4.17.
#[cgroup_sock_addr(connect4)]
pub fn heddle_connect4(ctx: SockAddrContext) -> i32 {
    connect::connect(&ctx, false)
}

/// `connect(2)` over IPv6, v4-mapped addresses included. Linux 4.17.
#[cgroup_sock_addr(connect6)]
pub fn heddle_connect6(ctx: SockAddrContext) -> i32 {
    connect::connect(&ctx, true)
}

/// `getpeername(2)` and `accept(2)` over IPv4. Linux 5.8.
#[cgroup_sock_addr(getpeername4)]
pub fn heddle_peer4(ctx: SockAddrContext) -> i32 {
    peer::show(&ctx, false)
}

/// `getpeername(2)` and `accept(2)` over IPv6, dual-stack listeners included. Linux 5.8.
#[cgroup_sock_addr(getpeername6)]
pub fn heddle_peer6(ctx: SockAddrContext) -> i32 {
    peer::show(&ctx, true)
}

/// `sendto(2)` of an unconnected UDP socket over IPv4. Linux 4.18.
#[cgroup_sock_addr(sendmsg4)]
pub fn heddle_send4(ctx: SockAddrContext) -> i32 {
    names::send(&ctx, false)
}

/// `sendto(2)` of an unconnected UDP socket over IPv6. Linux 4.18.
#[cgroup_sock_addr(sendmsg6)]
pub fn heddle_send6(ctx: SockAddrContext) -> i32 {
    names::send(&ctx, true)
}

/// `recvfrom(2)` of a UDP socket over IPv4. Linux 5.2.
#[cgroup_sock_addr(recvmsg4)]
pub fn heddle_receive4(ctx: SockAddrContext) -> i32 {
    names::show(&ctx, false)
}

/// `recvfrom(2)` of a UDP socket over IPv6, dual-stack sockets included. Linux 5.2.
#[cgroup_sock_addr(recvmsg6)]
pub fn heddle_receive6(ctx: SockAddrContext) -> i32 {
    names::show(&ctx, true)
}

/// TCP life cycle: hands records from the connecting to the accepting socket. Linux 4.16 (`STATE_CB`).
#[sock_ops]
pub fn heddle_sockops(ctx: SockOpsContext) -> u32 {
    sockops::on_event(&ctx);
    0
}

/// Arrivals in an enrolled pod's network namespace. Linux 5.9.
#[sk_lookup]
pub fn heddle_steer(ctx: SkLookupContext) -> u32 {
    steer::steer(&ctx)
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
