//! Questions for names over TCP: those of the mesh are answered here, with the first other one the connection goes where it
//! was meant to go.

use super::outbound::Outbound;
use bytes::{Buf as _, Bytes, BytesMut};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// How long the rest of a message is waited for; what is no message is then carried as it is.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a client may think between questions (RFC 7766 § 6.2.3: seconds).
const IDLE: Duration = Duration::from_secs(30);
/// A message has its length before it (RFC 1035 § 4.2.2).
const LENGTH: usize = 2;

/// Answers for as long as the mesh has answers. What was read and is not answered, or `None` if the connection is at its end.
pub(super) async fn serve<T: AsyncRead + AsyncWrite + Unpin>(conn: &Outbound, io: &mut T) -> Option<Bytes> {
    let names = &conn.worker.shared.deps.names;
    converse(io, |message| names.answer(&conn.source, message)).await
}

async fn converse<T: AsyncRead + AsyncWrite + Unpin>(
    io: &mut T,
    answer: impl Fn(&[u8]) -> Option<Vec<u8>>,
) -> Option<Bytes> {
    let mut read = BytesMut::new();
    loop {
        while let Some(message) = first(&read) {
            let Some(reply) = answer(message) else {
                return Some(read.freeze());
            };
            let length = message.len();
            read.advance(LENGTH + length);
            // Ours are short.
            let prefix = u16::try_from(reply.len()).ok()?.to_be_bytes();
            io.write_all(&[&prefix, reply.as_slice()].concat()).await.ok()?;
        }
        let patience = if read.is_empty() { IDLE } else { PATIENCE };
        match tokio::time::timeout(patience, io.read_buf(&mut read)).await {
            Ok(Ok(1..)) => {}
            // A client that has said its part may still wait for an answer to what is not whole.
            _ => return (!read.is_empty()).then(|| read.freeze()),
        }
    }
}

/// The first message, once it is whole.
fn first(read: &[u8]) -> Option<&[u8]> {
    let (length, rest) = read.split_first_chunk::<LENGTH>()?;
    rest.get(..usize::from(u16::from_be_bytes(*length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(message: &[u8]) -> Vec<u8> {
        let length = u16::try_from(message.len()).unwrap().to_be_bytes();
        [&length, message].concat()
    }

    #[tokio::test]
    async fn questions_are_answered_in_order_and_the_first_foreign_one_leaves_with_all_that_follows() {
        let (mut near, mut far) = tokio::io::duplex(1_024);
        let sent = [&b"mine 1"[..], b"mine 2", b"theirs", b"mine 3"]
            .map(framed)
            .concat();
        let client = tokio::spawn(async move {
            for piece in sent.chunks(3) {
                far.write_all(piece).await.unwrap();
            }
            let mut replies = vec![0; 8];
            far.read_exact(&mut replies).await.unwrap();
            (far, replies)
        });
        let answer = |message: &[u8]| message.starts_with(b"mine").then(|| message[5..].repeat(2));
        let mut left = converse(&mut near, answer).await.unwrap().to_vec();
        let (far, replies) = client.await.unwrap();
        drop(far);
        near.read_to_end(&mut left).await.unwrap();
        assert_eq!(replies, [framed(b"11"), framed(b"22")].concat());
        assert_eq!(left, [framed(b"theirs"), framed(b"mine 3")].concat());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_no_message_is_not_kept_for_ever_and_silence_ends() {
        let (mut near, mut far) = tokio::io::duplex(64);
        far.write_all(b"\xff\xff?").await.unwrap();
        assert_eq!(converse(&mut near, |_| None).await.unwrap(), &b"\xff\xff?"[..]);
        assert_eq!(converse(&mut near, |_| None).await, None);
    }
}
