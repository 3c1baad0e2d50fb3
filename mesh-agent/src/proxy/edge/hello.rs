//! The first message of a TLS connection, read without answering it.

use bytes::{Bytes, BytesMut};
use rustls::server::Acceptor;
use std::io;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// What a ClientHello says.
pub(super) struct Hello {
    /// Server name, lower case.
    pub(super) sni: Option<String>,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoHello {
    #[error("the client left before its ClientHello")]
    Left,
    #[error("the ClientHello is longer than {MOST} bytes")]
    TooLong,
    #[error("the connection broke")]
    Io(#[from] io::Error),
    #[error("no ClientHello")]
    Malformed(#[source] rustls::Error),
}

/// Reads until the hello is whole; returns everything that was read. Not cancel safe.
pub(super) async fn read(stream: &mut TcpStream) -> Result<(Hello, Bytes), NoHello> {
    let mut acceptor = Acceptor::default();
    let mut read = BytesMut::with_capacity(FIRST);
    loop {
        let seen = read.len();
        if stream.read_buf(&mut read).await? == 0 {
            return Err(NoHello::Left);
        }
        let mut fresh = &read[seen..];
        while !fresh.is_empty() {
            if acceptor.read_tls(&mut fresh)? == 0 {
                return Err(NoHello::TooLong);
            }
        }
        match acceptor.accept() {
            Ok(None) if read.len() > MOST => return Err(NoHello::TooLong),
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let hello = accepted.client_hello();
                let sni = hello.server_name().map(str::to_ascii_lowercase);
                return Ok((Hello { sni }, read.freeze()));
            }
            Err((error, mut alert)) => {
                let mut words = Vec::new();
                alert.write_all(&mut words)?;
                stream.write_all(&words).await?;
                return Err(NoHello::Malformed(error));
            }
        }
    }
}

/// Most hellos come in one piece; those with post-quantum keys are above 1,400 bytes.
const FIRST: usize = 4_096;
/// rustls takes a message of at most 64 KiB; nobody's hello is a quarter of that.
const MOST: usize = 16_384;
