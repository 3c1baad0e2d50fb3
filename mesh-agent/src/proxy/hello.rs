//! The ClientHello of a connection that is passed through: read for its server name, then forwarded as it came.

use bytes::{Bytes, BytesMut};
use mesh_core::routing::Opening;
use rustls::server::Acceptor;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// How a connection begins.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Hello {
    /// Not with a ClientHello.
    None,
    /// With one: its server name, if it has one.
    Tls(Option<String>),
}

impl Hello {
    /// As the core asks for it.
    pub(super) fn opening(&self) -> Opening<'_> {
        match self {
            Self::None => Opening::Bytes,
            Self::Tls(name) => Opening::Tls(name.as_deref()),
        }
    }

    /// What these first bytes say; `None` if they may be the beginning of a ClientHello that is not whole.
    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        match bytes.first() {
            None => return None,
            Some(&HANDSHAKE) => {}
            Some(_) => return Some(Self::None),
        }
        let mut acceptor = Acceptor::default();
        let mut rest = bytes;
        while !rest.is_empty() {
            match acceptor.read_tls(&mut rest) {
                Ok(0) | Err(_) => return Some(Self::Tls(None)),
                Ok(_) => {}
            }
        }
        match acceptor.accept() {
            Ok(None) => None,
            Ok(Some(accepted)) => Some(Self::Tls(
                accepted.client_hello().server_name().map(str::to_owned),
            )),
            // TLS of a kind that is not read here has no name here; its own server will answer it.
            Err(_) => Some(Self::Tls(None)),
        }
    }
}

/// Reads until the hello is whole, starting with what was read already. Returns all bytes read. A client that takes too
/// long, or says too much, has no server name. Not cancel safe.
pub(super) async fn read<T: AsyncRead + Unpin>(io: &mut T, prefix: Bytes) -> (Hello, Bytes) {
    let mut bytes = BytesMut::from(prefix);
    let reading = async {
        loop {
            if let Some(hello) = Hello::of(&bytes) {
                return hello;
            }
            if bytes.len() > MOST || !matches!(io.read_buf(&mut bytes).await, Ok(1..)) {
                return Hello::None;
            }
        }
    };
    let hello = tokio::time::timeout(PATIENCE, reading)
        .await
        .unwrap_or(Hello::None);
    (hello, bytes.freeze())
}

/// Content type of a TLS record that a hello comes in.
const HANDSHAKE: u8 = 0x16;
/// Nobody's hello is as long.
const MOST: usize = 16 * 1_024;
const PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use rustls::pki_types::ServerName;
    use std::sync::Arc;
    use tokio::io::AsyncWriteExt as _;

    /// The first flight of a client.
    pub(in super::super) fn hello(name: &str) -> Vec<u8> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_hello_names_its_server_once_it_is_whole() {
        let bytes = hello("a.example.com");
        assert_eq!(Hello::of(&bytes), Some(Hello::Tls(Some("a.example.com".into()))));
        for end in 0..bytes.len() {
            assert_eq!(Hello::of(&bytes[..end]), None, "{end} of {}", bytes.len());
        }
        assert_eq!(Hello::of(&hello("192.0.2.1")), Some(Hello::Tls(None)));
    }

    #[test]
    fn what_is_no_hello_has_no_name() {
        assert_eq!(Hello::of(b"GET / HTTP/1.1\r\n"), Some(Hello::None));
        assert_eq!(Hello::of(b"\x16\x03\x01\x00\x05hello"), Some(Hello::Tls(None)));
        let mut damaged = hello("a.example.com");
        damaged[5] = 0x63;
        assert_eq!(Hello::of(&damaged), Some(Hello::Tls(None)));
    }

    #[tokio::test]
    async fn a_hello_in_pieces_is_read_whole_and_nothing_is_lost() {
        let bytes = hello("a.example.com");
        let (mut near, mut far) = tokio::io::duplex(64);
        let sent = bytes.clone();
        tokio::spawn(async move {
            for piece in sent[10..].chunks(50) {
                far.write_all(piece).await.unwrap();
            }
        });
        let (hello, read) = read(&mut near, Bytes::copy_from_slice(&bytes[..10])).await;
        assert_eq!(hello, Hello::Tls(Some("a.example.com".into())));
        assert_eq!(read, bytes);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_says_nothing_is_not_waited_for_for_ever() {
        let (mut near, _far) = tokio::io::duplex(64);
        assert_eq!(read(&mut near, Bytes::new()).await, (Hello::None, Bytes::new()));
    }
}
