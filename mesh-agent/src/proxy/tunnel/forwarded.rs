//! The `forwarded` header of HBONE: `for="IP:port"`, and `;host=HOST` when a service was dialled.

use std::net::SocketAddr;

/// Header value for a stream. A host that the grammar cannot carry unquoted is left out.
pub(super) fn encode(client: SocketAddr, host: Option<&str>) -> String {
    let client = SocketAddr::new(client.ip().to_canonical(), client.port());
    match host {
        Some(host)
            if !host.is_empty()
                && host
                    .bytes()
                    .all(|c| c.is_ascii_alphanumeric() || b".-_:".contains(&c)) =>
        {
            format!("for=\"{client}\";host={host}")
        }
        _ => format!("for=\"{client}\""),
    }
}

/// The `for=` of a header value, if it is an address with a port.
pub(super) fn client(value: &str) -> Option<SocketAddr> {
    let claimed = value
        .split(';')
        .find_map(|part| part.trim().strip_prefix("for="))?;
    claimed.trim_matches('"').parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwarded_names_the_client_and_the_host() {
        let v4: SocketAddr = "10.0.0.1:1234".parse().unwrap();
        let v6: SocketAddr = "[fd00::1]:1234".parse().unwrap();
        assert_eq!(encode(v4, None), "for=\"10.0.0.1:1234\"");
        assert_eq!(
            encode(v6, Some("forecast.weather")),
            "for=\"[fd00::1]:1234\";host=forecast.weather"
        );
        assert_eq!(encode(v4, Some("a\r\nb: c")), "for=\"10.0.0.1:1234\"");
        assert_eq!(client(&encode(v6, Some("x"))), Some(v6));
        assert_eq!(client("host=x"), None);
        assert_eq!(client("for=unknown"), None);
    }
}
