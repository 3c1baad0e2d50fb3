//! Addresses as the maps store them.

/// An IPv6 address, or an IPv4 address in its `::ffff:a.b.c.d` form (RFC 4291 § 2.5.5.2).
///
/// Four words whose bytes in memory are in network order, as the kernel's contexts hold them: BPF moves and compares
/// words, not bytes.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Ip(pub [u32; 4]);

const MAPPED: u32 = 0xffffu32.to_be();

impl Ip {
    /// The unspecified address `::`, used where a family is absent.
    pub const NONE: Self = Self([0; 4]);
    /// The source from which the agent dials an application inside its pod over IPv4. No packet with it can
    /// arrive from outside: the kernel drops loopback sources as martians. Over IPv6 the agent dials from the pod's own
    /// address: to `::1` the kernel delivers a SYN-ACK but no reset, so that a closed port would hang (seen on 6.18).
    pub const AGENT_V4: Self = Self::v4([127, 0, 0, 6]);
    /// `127.0.0.1`.
    pub const LOOPBACK_V4: Self = Self::v4([127, 0, 0, 1]);
    /// `::1`.
    pub const LOOPBACK_V6: Self = Self([0, 0, 0, 1u32.to_be()]);

    /// The v4-mapped form of four octets.
    #[inline(always)]
    #[must_use]
    pub const fn v4(octets: [u8; 4]) -> Self {
        Self::v4_word(u32::from_ne_bytes(octets))
    }

    /// The v4-mapped form of a word in network order.
    #[inline(always)]
    #[must_use]
    pub const fn v4_word(word: u32) -> Self {
        Self([0, 0, MAPPED, word])
    }

    /// Whether this is an IPv4 address.
    #[inline(always)]
    #[must_use]
    pub const fn is_v4(&self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == MAPPED
    }

    /// The IPv4 address as a word in network order; meaningless for IPv6.
    #[inline(always)]
    #[must_use]
    pub const fn word_v4(&self) -> u32 {
        self.0[3]
    }

    /// Whether the address is `::` or `0.0.0.0`. Connecting there means "this host" (ip(7)).
    #[inline(always)]
    #[must_use]
    pub const fn is_unspecified(&self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && (self.0[2] == 0 || self.0[2] == MAPPED) && self.0[3] == 0
    }

    /// Whether the address is in `fe80::/10`.
    #[inline(always)]
    #[must_use]
    pub const fn is_link_local_v6(&self) -> bool {
        u32::from_be(self.0[0]) & 0xffc0_0000 == 0xfe80_0000
    }

    /// Whether the address is in `127.0.0.0/8` or is `::1`.
    #[inline(always)]
    #[must_use]
    pub const fn is_loopback(&self) -> bool {
        if self.is_v4() {
            u32::from_be(self.0[3]) >> 24 == 127
        } else {
            self.0[0] == 0 && self.0[1] == 0 && self.0[2] == 0 && self.0[3] == Self::LOOPBACK_V6.0[3]
        }
    }
}

/// An address and a port in host byte order, padded to a multiple of four.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct AddrPort {
    /// Address.
    pub ip: Ip,
    /// Port, host byte order.
    pub port: u16,
    /// Zero.
    pub pad: u16,
}

impl AddrPort {
    /// Joins an address and a port.
    #[inline(always)]
    #[must_use]
    pub const fn new(ip: Ip, port: u16) -> Self {
        Self { ip, port, pad: 0 }
    }

    /// A 32-bit mix of address and port, used to spread rewritten connections over the capture ports.
    #[inline(always)]
    #[must_use]
    pub const fn mix(&self) -> u32 {
        let [a, b, c, d] = self.ip.0;
        let hi = ((a as u64) << 32) | b as u64;
        let lo = ((c as u64) << 32) | d as u64;
        let mut h = hi ^ lo.rotate_left(23) ^ ((self.port as u64) << 17);
        h ^= h >> 33;
        h = h.wrapping_mul(0xff51_afd7_ed55_8ccd);
        h ^= h >> 33;
        h as u32
    }
}

#[cfg(feature = "std")]
mod user {
    use super::{AddrPort, Ip};
    use core::fmt;
    use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

    impl From<IpAddr> for Ip {
        fn from(ip: IpAddr) -> Self {
            match ip {
                IpAddr::V4(v4) => Self::v4(v4.octets()),
                IpAddr::V6(v6) => {
                    let o = v6.octets();
                    let word = |i: usize| u32::from_ne_bytes([o[i], o[i + 1], o[i + 2], o[i + 3]]);
                    Self([word(0), word(4), word(8), word(12)])
                }
            }
        }
    }

    impl From<Ip> for IpAddr {
        fn from(ip: Ip) -> Self {
            if ip.is_v4() {
                return Self::V4(Ipv4Addr::from(ip.word_v4().to_ne_bytes()));
            }
            let mut octets = [0; 16];
            for (to, word) in octets.chunks_exact_mut(4).zip(ip.0) {
                to.copy_from_slice(&word.to_ne_bytes());
            }
            Self::V6(Ipv6Addr::from(octets))
        }
    }

    impl From<SocketAddr> for AddrPort {
        fn from(addr: SocketAddr) -> Self {
            Self::new(addr.ip().into(), addr.port())
        }
    }

    impl From<AddrPort> for SocketAddr {
        fn from(addr: AddrPort) -> Self {
            Self::new(addr.ip.into(), addr.port)
        }
    }

    impl fmt::Debug for Ip {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            fmt::Display::fmt(&IpAddr::from(*self), f)
        }
    }

    impl fmt::Debug for AddrPort {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            fmt::Display::fmt(&SocketAddr::from(*self), f)
        }
    }
}
