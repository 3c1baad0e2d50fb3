//! `cgroup/getpeername4|6`, which also serves `accept`: applications see the address they dialled, and the client
//! that dialled them.

use crate::names;
use crate::context::{addr_socket, record, set_user_addr};
use aya_ebpf::programs::SockAddrContext;
use mesh_common::record_kind::{DIRECT, PROXY, SERVED};

/// The hook. It may not refuse: the verifier wants 1.
#[inline(always)]
pub fn show(ctx: &SockAddrContext, v6: bool) -> i32 {
    if let Some(record) = record(addr_socket(ctx)) {
        let rewritten = matches!(record.kind, PROXY | DIRECT | SERVED);
        // An IPv4 socket cannot show an IPv6 address.
        if rewritten && (v6 || record.original.ip.is_v4()) {
            set_user_addr(ctx, v6, &record.original);
            return 1;
        }
    }
    names::show(ctx, v6)
}
