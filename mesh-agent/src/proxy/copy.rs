//! Copies bytes both ways.

pub mod buffers;

use std::cell::Cell;
use tokio::io::{AsyncRead, AsyncWrite};

/// Bytes carried.
#[derive(Debug, Default)]
pub struct Counters {
    /// From a to b.
    pub a_to_b: Cell<u64>,
    /// From b to a.
    pub b_to_a: Cell<u64>,
}

/// Error.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct CopyError(#[from] std::io::Error);

/// Copies.
///
/// # Errors
/// As read and write.
pub async fn copy_bidirectional<A, B>(a: &mut A, b: &mut B, counters: &Counters) -> Result<(), CopyError>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (x, y) = tokio::io::copy_bidirectional(a, b).await?;
    counters.a_to_b.set(x);
    counters.b_to_a.set(y);
    Ok(())
}
