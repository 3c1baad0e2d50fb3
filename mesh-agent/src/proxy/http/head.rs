//! What a request head must not be, by its bytes, before anybody interprets it: the cases in which two readers of
//! one head disagree (request smuggling) and which hyper accepts.

use memchr::memchr_iter;

/// How a body is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// This many bytes; 0 if none.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

/// What the reader of bytes must know of an accepted head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// Where the next head begins.
    pub(super) framing: Framing,
    /// The client asks for another protocol: what follows is not HTTP if the server agrees.
    pub(super) upgrade: bool,
}

/// Why a head is refused. The words are sent to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Violation {
    #[error("line does not end with CRLF")]
    BareLf,
    #[error("request line is malformed")]
    RequestLine,
    #[error("request target has a fragment")]
    Fragment,
    #[error("no Host header")]
    NoHost,
    #[error("more than one Host header")]
    ManyHosts,
    #[error("Host header is not host[:port]")]
    BadHost,
    #[error("request target and Host disagree")]
    HostMismatch,
    #[error("Content-Length is repeated")]
    ManyLengths,
    #[error("Content-Length is not a number")]
    BadLength,
    #[error("Content-Length together with Transfer-Encoding")]
    LengthAndEncoding,
    #[error("Transfer-Encoding other than chunked")]
    Encoding,
    #[error("CONNECT is not served")]
    Connect,
    #[error("header line is malformed")]
    HeaderLine,
    #[error("request head is too large")]
    TooLarge,
}

impl Violation {
    /// Status to answer.
    pub(super) const fn status(self) -> u16 {
        match self {
            Self::Encoding => 501,
            Self::TooLarge => 431,
            _ => 400,
        }
    }

    /// Label of the metric.
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::BareLf => "bare_lf",
            Self::RequestLine => "request_line",
            Self::Fragment => "fragment",
            Self::NoHost | Self::ManyHosts | Self::BadHost | Self::HostMismatch => "host",
            Self::ManyLengths | Self::BadLength | Self::LengthAndEncoding | Self::Encoding => "framing",
            Self::Connect => "connect",
            Self::HeaderLine => "header_line",
            Self::TooLarge => "too_large",
        }
    }
}

/// Finds the end of a head in `bytes`, from the start of a line at `from`. `Err` on a bare LF.
///
/// `Ok(Err(n))` = incomplete; the last complete line ends at `n`.
pub(super) fn find_end(bytes: &[u8], from: usize) -> Result<Result<usize, usize>, Violation> {
    let mut line = from;
    for end in memchr_iter(b'\n', &bytes[from..]).map(|i| from + i) {
        if end == line || bytes[end - 1] != b'\r' {
            return Err(Violation::BareLf);
        }
        if end == line + 1 {
            return Ok(Ok(end + 1));
        }
        line = end + 1;
    }
    Ok(Err(line))
}

/// Checks a complete head, final empty line included.
pub(super) fn check(head: &[u8]) -> Result<Head, Violation> {
    let mut lines = Lines(head);
    let request = lines.next().ok_or(Violation::RequestLine)?;
    let (method, target, version) = request_line(request)?;
    let mut seen = Seen::default();
    for line in lines {
        seen.line(line)?;
    }
    if method == b"CONNECT" {
        return Err(Violation::Connect);
    }
    if target.contains(&b'#') {
        return Err(Violation::Fragment);
    }
    let http10 = version == b"HTTP/1.0";
    match seen.host {
        Some(host) => check_host(host, target)?,
        None if http10 => {}
        None => return Err(Violation::NoHost),
    }
    let framing = seen.framing(http10)?;
    let upgrade = seen.upgrade && seen.connection_upgrade && !http10 && framing == Framing::Length(0);
    Ok(Head { framing, upgrade })
}

/// Method, target, version.
type RequestLine<'a> = (&'a [u8], &'a [u8], &'a [u8]);

#[derive(Default)]
struct Seen<'a> {
    host: Option<&'a [u8]>,
    length: Option<u64>,
    encoding: Option<&'a [u8]>,
    upgrade: bool,
    connection_upgrade: bool,
}

impl<'a> Seen<'a> {
    fn line(&mut self, line: &'a [u8]) -> Result<(), Violation> {
        // One look at the first byte spares the others the comparison.
        let Some(first) = line.first() else {
            return Err(Violation::HeaderLine);
        };
        if matches!(first, b' ' | b'\t') {
            return Err(Violation::HeaderLine);
        }
        if !matches!(first | 0x20, b'h' | b'c' | b't' | b'u') {
            return Ok(());
        }
        let Some(colon) = memchr::memchr(b':', line) else {
            return Err(Violation::HeaderLine);
        };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"host") {
            if self.host.replace(value).is_some() {
                return Err(Violation::ManyHosts);
            }
        } else if name.eq_ignore_ascii_case(b"content-length") {
            if self.length.replace(number(value)?).is_some() {
                return Err(Violation::ManyLengths);
            }
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if self.encoding.replace(value).is_some() {
                return Err(Violation::Encoding);
            }
        } else if name.eq_ignore_ascii_case(b"upgrade") {
            self.upgrade |= value
                .split(|b| *b == b',')
                .any(|t| !t.trim_ascii().eq_ignore_ascii_case(b"h2c"));
        } else if name.eq_ignore_ascii_case(b"connection") {
            let mut tokens = value.split(|b| *b == b',');
            self.connection_upgrade |= tokens.any(|t| t.trim_ascii().eq_ignore_ascii_case(b"upgrade"));
        }
        Ok(())
    }

    fn framing(&self, http10: bool) -> Result<Framing, Violation> {
        match (self.encoding, self.length) {
            (Some(_), Some(_)) => Err(Violation::LengthAndEncoding),
            (Some(coding), None) if coding.eq_ignore_ascii_case(b"chunked") && !http10 => {
                Ok(Framing::Chunked)
            }
            (Some(_), None) => Err(Violation::Encoding),
            (None, length) => Ok(Framing::Length(length.unwrap_or(0))),
        }
    }
}

fn request_line(line: &[u8]) -> Result<RequestLine<'_>, Violation> {
    let mut parts = line.split(|b| *b == b' ');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(method), Some(target), Some(version), None)
            if !method.is_empty()
                && !target.is_empty()
                && matches!(version, b"HTTP/1.1" | b"HTTP/1.0")
                && target.iter().all(|b| b.is_ascii_graphic() || *b >= 0x80) =>
        {
            Ok((method, target, version))
        }
        _ => Err(Violation::RequestLine),
    }
}

/// RFC 9110 § 7.2: `uri-host [ ":" port ]`, equal to an absolute target's authority.
fn check_host(host: &[u8], target: &[u8]) -> Result<(), Violation> {
    if !valid_authority(host) {
        return Err(Violation::BadHost);
    }
    if target[0] == b'/' || target == b"*" {
        return Ok(());
    }
    let Some(scheme) = target.windows(3).position(|w| w == b"://") else {
        return Err(Violation::RequestLine);
    };
    let rest = &target[scheme + 3..];
    let end = rest
        .iter()
        .position(|b| matches!(b, b'/' | b'?'))
        .unwrap_or(rest.len());
    if rest[..end].eq_ignore_ascii_case(host) {
        Ok(())
    } else {
        Err(Violation::HostMismatch)
    }
}

/// `host[:port]`, without userinfo, with a port that is one.
pub(super) fn valid_authority(authority: &[u8]) -> bool {
    let (host, port) = if authority.first() == Some(&b'[') {
        let Some(end) = memchr::memchr(b']', authority) else {
            return false;
        };
        let inside = &authority[1..end];
        if inside.is_empty()
            || !inside
                .iter()
                .all(|b| b.is_ascii_hexdigit() || matches!(b, b':' | b'.' | b'%'))
        {
            return false;
        }
        (&authority[..=end], &authority[end + 1..])
    } else {
        let colon = memchr::memchr(b':', authority).unwrap_or(authority.len());
        authority.split_at(colon)
    };
    let named = host.first() == Some(&b'[')
        || host
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(b));
    let port_ok = match port.split_first() {
        None => true,
        Some((b':', digits)) => {
            !digits.is_empty()
                && digits.len() <= 5
                && digits.iter().all(u8::is_ascii_digit)
                && digits.iter().fold(0u32, |n, d| n * 10 + u32::from(d - b'0')) <= 65_535
        }
        Some(_) => false,
    };
    named && port_ok && !host.is_empty()
}

fn number(value: &[u8]) -> Result<u64, Violation> {
    if value.is_empty() || value.len() > 18 || !value.iter().all(u8::is_ascii_digit) {
        return Err(Violation::BadLength);
    }
    Ok(value.iter().fold(0, |n, d| n * 10 + u64::from(d - b'0')))
}

/// Lines without their CRLF, up to the empty one. Every LF is known to follow a CR.
struct Lines<'a>(&'a [u8]);

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let end = memchr::memchr(b'\n', self.0)?;
        let line = &self.0[..end.checked_sub(1)?];
        self.0 = &self.0[end + 1..];
        (!line.is_empty()).then_some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &str) -> Result<Head, Violation> {
        check(text.as_bytes())
    }

    #[test]
    fn accepts_what_clients_send() {
        let plain = Head {
            framing: Framing::Length(0),
            upgrade: false,
        };
        assert_eq!(head("GET / HTTP/1.1\r\nHost: a\r\n\r\n"), Ok(plain));
        assert_eq!(
            head("GET http://A:80/x HTTP/1.1\r\nHost: a:80\r\n\r\n"),
            Ok(plain)
        );
        assert_eq!(head("GET / HTTP/1.0\r\n\r\n"), Ok(plain));
        assert_eq!(head("GET / HTTP/1.1\r\nhost: [fd00::1]:80\r\n\r\n"), Ok(plain));
        assert_eq!(
            head("POST / HTTP/1.1\r\nHost: a\r\ncontent-length: 12\r\n\r\n")
                .unwrap()
                .framing,
            Framing::Length(12)
        );
        assert_eq!(
            head("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n")
                .unwrap()
                .framing,
            Framing::Chunked
        );
        assert!(
            head(
                "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n"
            )
            .unwrap()
            .upgrade
        );
    }

    #[test]
    fn refuses_heads_that_two_readers_read_differently() {
        use Violation as V;
        for (text, want) in [
            ("GET / HTTP/1.1\r\n\r\n", V::NoHost),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", V::ManyHosts),
            ("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", V::HostMismatch),
            ("GET /x#y HTTP/1.1\r\nHost: a\r\n\r\n", V::Fragment),
            ("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", V::BadHost),
            ("GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", V::BadHost),
            ("GET / HTTP/1.1\r\nHost: a:99999\r\n\r\n", V::BadHost),
            ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", V::BadHost),
            ("GET / HTTP/1.1\r\nHost:\r\n\r\n", V::BadHost),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
                V::Encoding,
            ),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n",
                V::Encoding,
            ),
            (
                "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
                V::Encoding,
            ),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
                V::LengthAndEncoding,
            ),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
                V::ManyLengths,
            ),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n",
                V::BadLength,
            ),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\n",
                V::BadLength,
            ),
            (
                "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\nContent-Length: 1\r\n\r\n",
                V::Connect,
            ),
            ("GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", V::HeaderLine),
            ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", V::RequestLine),
            ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", V::RequestLine),
        ] {
            assert_eq!(head(text), Err(want), "{text:?}");
        }
        assert_eq!(find_end(b"GET / HTTP/1.1\nHost: a\n\n", 0), Err(V::BareLf));
    }

    #[test]
    fn an_upgrade_to_h2c_is_none() {
        let text = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n";
        assert!(!head(text).unwrap().upgrade);
    }
}
