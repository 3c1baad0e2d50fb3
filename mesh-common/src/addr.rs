//! Addresses as the maps store them.

/// An IPv6 address, or an IPv4 address in its `::ffff:a.b.c.d` form (RFC 4291 § 2.5.5.2), in network order.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Ip(pub [u8; 16]);

impl Ip {
    /// The unspecified address `::`, used where a family is absent.
    pub const NONE: Self = Self([0; 16]);
    /// The source from which the agent dials an application inside its pod over IPv4. No packet with it can
    /// arrive from outside: the kernel drops loopback sources as martians.
    pub const AGENT_V4: Self = Self::v4([127, 0, 0, 6]);
    /// As [`Ip::AGENT_V4`], for IPv6: loopback sources from another device are dropped (RFC 4291 § 2.5.3).
    pub const AGENT_V6: Self = Self([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);

    /// The v4-mapped form of four octets.
    #[inline(always)]
    #[must_use]
    pub const fn v4(o: [u8; 4]) -> Self {
        Self([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, o[0], o[1], o[2], o[3]])
    }

    /// Whether this is an IPv4 address.
    #[inline(always)]
    #[must_use]
    pub const fn is_v4(&self) -> bool {
        let b = &self.0;
        b[0] == 0
            && b[1] == 0
            && b[2] == 0
            && b[3] == 0
            && b[4] == 0
            && b[5] == 0
            && b[6] == 0
            && b[7] == 0
            && b[8] == 0
            && b[9] == 0
            && b[10] == 0xff
            && b[11] == 0xff
    }

    /// The four octets of an IPv4 address; meaningless for IPv6.
    #[inline(always)]
    #[must_use]
    pub const fn octets_v4(&self) -> [u8; 4] {
        [self.0[12], self.0[13], self.0[14], self.0[15]]
    }

    /// Whether the address is `::` or `0.0.0.0`. Connecting there means "this host" (ip(7)).
    #[inline(always)]
    #[must_use]
    pub fn is_unspecified(&self) -> bool {
        let (hi, lo) = self.halves();
        hi == 0 && (lo == 0 || lo == 0x0000_ffff_0000_0000)
    }

    /// Whether the address is in `127.0.0.0/8` or is `::1`.
    #[inline(always)]
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        let (hi, lo) = self.halves();
        hi == 0 && (lo == 1 || (lo >> 24) == 0x00ff_ff7f)
    }

    /// The address as two big-endian words; cheap to compare and to hash inside BPF.
    #[inline(always)]
    #[must_use]
    pub const fn halves(&self) -> (u64, u64) {
        let b = &self.0;
        (
            u64::from_be_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]),
            u64::from_be_bytes([b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]]),
        )
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
        let (hi, lo) = self.ip.halves();
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
                IpAddr::V6(v6) => Self(v6.octets()),
            }
        }
    }

    impl From<Ip> for IpAddr {
        fn from(ip: Ip) -> Self {
            if ip.is_v4() {
                Self::V4(Ipv4Addr::from(ip.octets_v4()))
            } else {
                Self::V6(Ipv6Addr::from(ip.0))
            }
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
