//! The worker's free list of read buffers. A connection borrows one while it has bytes in hand; an idle connection
//! holds none.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

/// Size of a buffer below TLS and the first size of a copy, in bytes: with the four bytes of a chunk's header it fills
/// TLS records exactly.
pub const READ_BUFFER: usize = 64 * 1024 - 4;
/// Size that a copy grows to when it fills its buffer, in bytes: eight TLS records with the header.
pub const LARGE_BUFFER: usize = 128 * 1024 - 4;
/// Free buffers that a worker keeps of each size.
const KEEP: usize = 4;

thread_local! {
    static FREE: RefCell<[Vec<Box<[u8]>>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

/// A borrowed buffer; goes back to the free list of the thread that drops it. Contents are what the last user left.
pub struct Buffer(Box<[u8]>);

impl Buffer {
    /// Borrows a buffer of [`LARGE_BUFFER`] if more than [`READ_BUFFER`] is wanted, else of [`READ_BUFFER`].
    #[must_use]
    pub fn take(wanted: usize) -> Self {
        let large = wanted > READ_BUFFER;
        let free = FREE.with_borrow_mut(|free| free[usize::from(large)].pop());
        let size = if large { LARGE_BUFFER } else { READ_BUFFER };
        Self(free.unwrap_or_else(|| vec![0; size].into_boxed_slice()))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.0);
        // Fails while the thread ends; then the buffer is simply freed.
        let _ended = FREE.try_with(|free| {
            let list = &mut free.borrow_mut()[usize::from(buffer.len() > READ_BUFFER)];
            if list.len() < KEEP {
                list.push(buffer);
            }
        });
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}
