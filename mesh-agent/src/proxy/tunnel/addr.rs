//! Which target a head or an authority names, and whether this pod may serve it.

use super::RESERVED_PORTS;
use std::net::{IpAddr, SocketAddr};

/// Why a target is not served: status and words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) reason: &'static str,
}

const fn refusal(status: u16, reason: &'static str) -> Refusal {
    Refusal { status, reason }
}

/// Parses `:authority`: `10.0.0.1:80` or `[fd00::1]:80`, port mandatory, no zone.
///
/// # Errors
/// 400 for anything else, but 503 for `host:port`: this node resolves no hostnames for its peers.
pub(super) fn parse_authority(authority: &str) -> Result<SocketAddr, Refusal> {
    if let Ok(addr) = authority.parse::<SocketAddr>() {
        let scoped = authority.contains('%');
        return if scoped || addr.port() == 0 {
            Err(refusal(400, "bad authority"))
        } else {
            Ok(addr)
        };
    }
    let host_char = |c: u8| c.is_ascii_alphanumeric() || b".-_".contains(&c);
    match authority.rsplit_once(':') {
        Some((host, port))
            if !host.is_empty()
                && host.bytes().all(host_char)
                && host.bytes().any(|c| c.is_ascii_alphabetic())
                && port.parse::<u16>().is_ok_and(|port| port != 0) =>
        {
            Err(refusal(503, "unknown hostname"))
        }
        _ => Err(refusal(400, "bad authority")),
    }
}

/// Checks a target against the address at which the connection was accepted: a tunnel reaches the pod it was dialled
/// for and nothing else (confused deputy).
pub(super) fn check_target(target: SocketAddr, accepted_at: IpAddr) -> Result<(), Refusal> {
    if target.ip().to_canonical() != accepted_at.to_canonical() {
        return Err(refusal(400, "ip mismatch"));
    }
    if target.port() == 0 {
        return Err(refusal(400, "bad port"));
    }
    if RESERVED_PORTS.contains(&target.port()) {
        return Err(refusal(503, "port of the mesh"));
    }
    Ok(())
}

/// The client's address as the peer claims it, if it can be true: its IP is the one that the tunnel comes from.
/// Only the port is news; anything else falls back to the connection's own peer.
pub(super) fn plausible_client(claimed: Option<SocketAddr>, peer: SocketAddr) -> SocketAddr {
    match claimed {
        Some(claimed) if claimed.ip().to_canonical() == peer.ip().to_canonical() => {
            SocketAddr::new(claimed.ip().to_canonical(), claimed.port())
        }
        _ => SocketAddr::new(peer.ip().to_canonical(), peer.port()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authority_is_an_address_with_a_port_and_nothing_else() {
        for good in ["10.0.0.1:80", "[fd00::1]:80", "[::ffff:10.0.0.1]:65535"] {
            assert_eq!(parse_authority(good), Ok(good.parse().unwrap()), "{good}");
        }
        for bad in [
            "",
            "10.0.0.1",
            "10.0.0.1:0",
            "10.0.0.1:65536",
            "fd00::1:80",
            "[fe80::1%1]:80",
            "u@10.0.0.1:80",
            "a:0",
            ":80",
        ] {
            assert_eq!(parse_authority(bad).unwrap_err().status, 400, "{bad}");
        }
        assert_eq!(parse_authority("forecast.weather:80").unwrap_err().status, 503);
    }

    #[test]
    fn hbone_ip_mismatch_is_refused_for_every_address_but_the_one_dialled() {
        let pod: IpAddr = "10.0.0.1".parse().unwrap();
        assert_eq!(check_target("10.0.0.1:80".parse().unwrap(), pod), Ok(()));
        assert_eq!(check_target("[::ffff:10.0.0.1]:80".parse().unwrap(), pod), Ok(()));
        assert_eq!(
            check_target("10.0.0.1:80".parse().unwrap(), "::ffff:10.0.0.1".parse().unwrap()),
            Ok(())
        );
        for foreign in [
            "10.0.0.2:80",
            "127.0.0.1:80",
            "169.254.169.254:80",
            "[::1]:80",
            "[fe80::1]:80",
            "0.0.0.0:80",
        ] {
            assert_eq!(
                check_target(foreign.parse().unwrap(), pod).unwrap_err().status,
                400,
                "{foreign}"
            );
        }
        for port in RESERVED_PORTS {
            assert_eq!(
                check_target(SocketAddr::new(pod, port), pod).unwrap_err().status,
                503,
                "{port}"
            );
        }
    }

    #[test]
    fn a_claimed_client_counts_only_with_the_address_the_tunnel_comes_from() {
        let peer = "10.0.0.1:40000".parse().unwrap();
        let claimed: SocketAddr = "10.0.0.1:1234".parse().unwrap();
        assert_eq!(plausible_client(Some(claimed), peer), claimed);
        assert_eq!(
            plausible_client(Some("10.9.9.9:1234".parse().unwrap()), peer),
            peer
        );
        assert_eq!(plausible_client(None, peer), peer);
    }
}
