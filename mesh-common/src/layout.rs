//! Compile-time proof that no map type has padding, and their `aya::Pod` marks.

macro_rules! no_padding {
    ($($ty:ty = $size:expr),* $(,)?) => {
        $(
            const _: () = assert!(core::mem::size_of::<$ty>() == $size);
            // SAFETY: `repr(C)`, `Copy`, any bit pattern is valid, and the sum of the field sizes (asserted
            // above) equals the size, so there is no uninitialised padding.
            #[cfg(feature = "user")]
            unsafe impl aya::Pod for $ty {}
        )*
    };
}

no_padding! {
    crate::Ip = 16,
    crate::AddrPort = 16 + 2 + 2,
    crate::Workload = 4 + 4 + 16 + 16,
    crate::LocalPod = 4 + 4 + 8,
    crate::PortKey = 4 + 4,
    crate::ListenerKey = 8 + 4 + 4,
    crate::ResolverKey = 8 + 4 + 4,
    crate::Agent = 8 + 4 + 4,
    crate::PodCounters = 9 * 8,
    crate::Service = 4 * 4,
    crate::BackendKey = 4 + 4,
    crate::Backend = 16 + 2 + 2 + 4 + 4,
    crate::SocketRecord = 4 + 4 + 20 + 20,
    crate::FlowKey = 16 + 16 + 2 + 2,
    crate::FlowRecord = 8 + 4 + 4 + 20 + 4,
    crate::DirectFlow = 8 + 4 + 4,
    crate::Event = 8 + 4 * 4 + 20 + 20,
}
