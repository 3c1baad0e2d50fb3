//! Head and reply of the native form.
//!
//! ```text
//! head   u16 length | u8 version = 1 | u8 kind | u8 flags | address target | address client
//!        | string host | string baggage | …ignored
//! reply  u16 length | u16 status | text: baggage after 200, else the reason
//! address  u8 family, 4 or 6 | 4 or 16 bytes | u16 port        string  u16 length | bytes
//! ```
//! Numbers are big-endian. Flag 1: payload follows without waiting for the reply, so that the connection cannot be
//! used again after a refusal.

use super::TunnelKind;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const VERSION: u8 = 1;
const FLAG_EARLY: u8 = 1;
/// Longest head accepted, in bytes.
const MAX_HEAD: usize = 8 * 1024;
/// Longest reply text, in bytes.
const MAX_TEXT: usize = 4 * 1024;

/// What a client asks of a native peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) kind: TunnelKind,
    pub(super) early: bool,
    pub(super) target: SocketAddr,
    pub(super) client: SocketAddr,
    pub(super) host: String,
    pub(super) baggage: String,
}

/// Why bytes are not a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed head")]
pub(super) struct Malformed;

impl Head {
    /// The head as sent, length first. Strings are cut to what fits; they are telemetry only.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        out.extend_from_slice(&[0, 0, VERSION, self.kind.code(), u8::from(self.early) * FLAG_EARLY]);
        put_address(&mut out, self.target);
        put_address(&mut out, self.client);
        put_string(&mut out, &self.host);
        put_string(&mut out, &self.baggage);
        let length = u16::try_from(out.len() - 2).unwrap_or(u16::MAX);
        out[..2].copy_from_slice(&length.to_be_bytes());
        out
    }

    /// Reads what follows the length.
    pub(super) fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let mut rest = body;
        let [version, kind, flags] = take(&mut rest)?;
        if version != VERSION {
            return Err(Malformed);
        }
        Ok(Self {
            kind: TunnelKind::of_code(kind).ok_or(Malformed)?,
            early: flags & FLAG_EARLY != 0,
            target: take_address(&mut rest)?,
            client: take_address(&mut rest)?,
            host: take_string(&mut rest)?,
            baggage: take_string(&mut rest)?,
        })
    }
}

impl TunnelKind {
    const fn code(self) -> u8 {
        match self {
            Self::Tcp => 0,
            Self::Http1 => 1,
            Self::Http2 => 2,
        }
    }

    const fn of_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Tcp),
            1 => Some(Self::Http1),
            2 => Some(Self::Http2),
            _ => None,
        }
    }
}

/// Reads a head. `None` if the peer closed cleanly before its first byte.
///
/// # Errors
/// As the connection; `InvalidData` for a malformed head.
pub(super) async fn read_head(io: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Head>> {
    let mut length = [0; 2];
    if io.read(&mut length[..1]).await? == 0 {
        return Ok(None);
    }
    io.read_exact(&mut length[1..]).await?;
    let length = usize::from(u16::from_be_bytes(length));
    if length > MAX_HEAD {
        return Err(io::Error::new(io::ErrorKind::InvalidData, Malformed));
    }
    let mut body = vec![0; length];
    io.read_exact(&mut body).await?;
    Head::decode(&body)
        .map(Some)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Writes and flushes a reply; text beyond 4 KiB is cut.
pub(super) async fn write_reply(
    io: &mut (impl AsyncWrite + Unpin),
    status: u16,
    text: &str,
) -> io::Result<()> {
    let text = &text.as_bytes()[..text.len().min(MAX_TEXT)];
    let mut out = Vec::with_capacity(4 + text.len());
    out.extend_from_slice(&u16::try_from(2 + text.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend_from_slice(&status.to_be_bytes());
    out.extend_from_slice(text);
    io.write_all(&out).await?;
    io.flush().await
}

/// Reads a reply: status and text.
pub(super) async fn read_reply(io: &mut (impl AsyncRead + Unpin)) -> io::Result<(u16, String)> {
    let length = usize::from(io.read_u16().await?);
    if !(2..=MAX_TEXT + 2).contains(&length) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "malformed reply"));
    }
    let status = io.read_u16().await?;
    let mut text = vec![0; length - 2];
    io.read_exact(&mut text).await?;
    Ok((status, String::from_utf8_lossy(&text).into_owned()))
}

fn put_address(out: &mut Vec<u8>, addr: SocketAddr) {
    match addr.ip().to_canonical() {
        IpAddr::V4(ip) => {
            out.push(4);
            out.extend_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            out.push(6);
            out.extend_from_slice(&ip.octets());
        }
    }
    out.extend_from_slice(&addr.port().to_be_bytes());
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    const LONGEST: usize = 2 * 1024;
    let text = &text.as_bytes()[..text.len().min(LONGEST)];
    out.extend_from_slice(&u16::try_from(text.len()).unwrap_or(0).to_be_bytes());
    out.extend_from_slice(text);
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], Malformed> {
    let (first, tail) = rest.split_first_chunk::<N>().ok_or(Malformed)?;
    *rest = tail;
    Ok(*first)
}

fn take_address(rest: &mut &[u8]) -> Result<SocketAddr, Malformed> {
    let ip = match take::<1>(rest)? {
        [4] => IpAddr::V4(Ipv4Addr::from(take::<4>(rest)?)),
        [6] => IpAddr::V6(Ipv6Addr::from(take::<16>(rest)?)),
        _ => return Err(Malformed),
    };
    Ok(SocketAddr::new(ip, u16::from_be_bytes(take(rest)?)))
}

fn take_string(rest: &mut &[u8]) -> Result<String, Malformed> {
    let length = usize::from(u16::from_be_bytes(take(rest)?));
    let (text, tail) = rest.split_at_checked(length).ok_or(Malformed)?;
    *rest = tail;
    String::from_utf8(text.to_vec()).map_err(|_| Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Head {
        Head {
            kind: TunnelKind::Http2,
            early: true,
            target: "10.0.0.1:80".parse().unwrap(),
            client: "[fd00::1]:1234".parse().unwrap(),
            host: "forecast".to_owned(),
            baggage: "service.name=a".to_owned(),
        }
    }

    #[test]
    fn a_head_survives_a_round_trip_and_ignores_what_a_later_version_appends() {
        let mut bytes = sample().encode();
        assert_eq!(
            usize::from(u16::from_be_bytes([bytes[0], bytes[1]])),
            bytes.len() - 2
        );
        bytes.extend_from_slice(b"later");
        assert_eq!(Head::decode(&bytes[2..]), Ok(sample()));
    }

    #[test]
    fn a_cut_or_foreign_head_is_malformed() {
        let bytes = sample().encode();
        for end in 2..bytes.len() {
            assert_eq!(Head::decode(&bytes[2..end]), Err(Malformed), "{end}");
        }
        for (index, value) in [(2, 2), (3, 9), (5, 5)] {
            let mut bad = bytes.clone();
            bad[index] = value;
            assert_eq!(Head::decode(&bad[2..]), Err(Malformed), "{index}");
        }
    }
}
