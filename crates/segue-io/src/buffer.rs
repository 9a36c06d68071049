//! Buffers of host I/O: page-aligned data with room for a reply's head right before it.
//!
//! A buffer is shared by its request and by the pieces of I/O under way on it: each piece has its
//! own part, so parts never overlap while they are written. It goes back to its [`Buffers`] when
//! nobody else holds it.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::Arc;

/// Alignment of the data, enough for any O_DIRECT.
pub const ALIGN_BYTES: usize = 4096;
/// Room before the data. A whole page of it, so that the data stays aligned.
const HEAD_ROOM_BYTES: usize = ALIGN_BYTES;
/// The smallest capacity that is allocated.
const SMALLEST_BYTES: usize = 4096;
/// Capacities are powers of two from [`SMALLEST_BYTES`]; the largest is that of a 32 MiB request.
const CLASSES: usize = 14;
/// Idle buffers are kept up to this many bytes altogether.
const KEPT_BYTES_MAX: usize = 16 << 20;

/// Page-aligned memory: head room, then `capacity` bytes of data.
#[derive(Debug)]
pub struct Buffer {
    memory: NonNull<u8>,
    capacity: usize,
}

// SAFETY: the memory belongs to this value alone; who may touch which part when is the contract
// of `part_mut`.
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// Zeroed memory for at least `capacity` bytes of data.
    #[must_use]
    pub fn new(capacity: usize) -> Buffer {
        let capacity = capacity.max(1).next_multiple_of(ALIGN_BYTES);
        let layout = Self::layout(capacity);
        // SAFETY: the layout is not empty.
        let memory = unsafe { alloc_zeroed(layout) };
        let Some(memory) = NonNull::new(memory) else {
            handle_alloc_error(layout)
        };
        Buffer { memory, capacity }
    }

    fn layout(capacity: usize) -> Layout {
        Layout::from_size_align(HEAD_ROOM_BYTES + capacity, ALIGN_BYTES)
            .expect("a capacity far below isize::MAX")
    }

    /// Bytes of data it holds at most.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// A part of the data, to read.
    ///
    /// # Panics
    /// If the part is outside the data.
    #[must_use]
    pub fn part(&self, at: usize, length: usize) -> &[u8] {
        assert!(at + length <= self.capacity, "a part within the buffer");
        // SAFETY: inside the allocation, which is initialised; see `part_mut` for writers.
        unsafe {
            std::slice::from_raw_parts(self.memory.as_ptr().add(HEAD_ROOM_BYTES + at), length)
        }
    }

    /// A part of the data, to write.
    ///
    /// # Safety
    /// Nobody else reads or writes this part while the slice lives: the mapping engine gives each
    /// piece of a request a part of its own, and a request's buffer is looked at as a whole only
    /// when no piece of it is under way.
    ///
    /// # Panics
    /// If the part is outside the data.
    #[allow(clippy::mut_from_ref)]
    #[must_use]
    pub unsafe fn part_mut(&self, at: usize, length: usize) -> &mut [u8] {
        assert!(at + length <= self.capacity, "a part within the buffer");
        // SAFETY: inside the allocation; exclusive by the caller's promise.
        unsafe {
            std::slice::from_raw_parts_mut(self.memory.as_ptr().add(HEAD_ROOM_BYTES + at), length)
        }
    }

    /// Puts `head` right before the data.
    ///
    /// # Safety
    /// As for [`Buffer::part_mut`], for the head room.
    ///
    /// # Panics
    /// If the head is longer than a page.
    pub unsafe fn put_head(&self, head: &[u8]) {
        assert!(head.len() <= HEAD_ROOM_BYTES, "a head that fits");
        // SAFETY: inside the allocation; exclusive by the caller's promise.
        unsafe {
            let start = self.memory.as_ptr().add(HEAD_ROOM_BYTES - head.len());
            std::ptr::copy_nonoverlapping(head.as_ptr(), start, head.len());
        }
    }

    /// A head of this length and the data after it, as one run of bytes.
    ///
    /// # Panics
    /// If the head is longer than a page or the data than the buffer.
    #[must_use]
    pub fn framed(&self, head_bytes: usize, length: usize) -> &[u8] {
        assert!(
            head_bytes <= HEAD_ROOM_BYTES && length <= self.capacity,
            "a frame that fits"
        );
        // SAFETY: inside the allocation, which is initialised; see `part_mut` for writers.
        unsafe {
            let start = self.memory.as_ptr().add(HEAD_ROOM_BYTES - head_bytes);
            std::slice::from_raw_parts(start, head_bytes + length)
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: allocated by `new` with this layout.
        unsafe { dealloc(self.memory.as_ptr(), Self::layout(self.capacity)) }
    }
}

/// A store of idle buffers of one thread, so that a clean I/O allocates nothing.
#[derive(Debug)]
pub struct Buffers {
    idle: [Vec<Arc<Buffer>>; CLASSES],
    kept_bytes: usize,
    kept_bytes_max: usize,
}

impl Default for Buffers {
    fn default() -> Buffers {
        Buffers::keeping(KEPT_BYTES_MAX)
    }
}

impl Buffers {
    /// An empty store that keeps so many bytes at most; 0: what is given back is dropped.
    #[must_use]
    pub fn keeping(bytes_max: usize) -> Buffers {
        Buffers {
            idle: Default::default(),
            kept_bytes: 0,
            kept_bytes_max: bytes_max,
        }
    }

    fn class(length: usize) -> usize {
        let capacity = length.max(SMALLEST_BYTES).next_power_of_two();
        (capacity.trailing_zeros() - SMALLEST_BYTES.trailing_zeros()) as usize
    }

    /// A buffer for `length` bytes (at most 32 MiB), its data of an earlier use.
    ///
    /// # Panics
    /// If `length` is more than any request has.
    pub fn take(&mut self, length: usize) -> Arc<Buffer> {
        let class = Self::class(length);
        if let Some(buffer) = self.idle[class].pop() {
            self.kept_bytes -= buffer.capacity();
            return buffer;
        }
        Arc::new(Buffer::new(SMALLEST_BYTES << class))
    }

    /// Gives a buffer back. Kept if nobody else holds it and there is room, else dropped.
    pub fn give(&mut self, mut buffer: Arc<Buffer>) {
        let fits = self.kept_bytes + buffer.capacity() <= self.kept_bytes_max;
        if fits && Arc::get_mut(&mut buffer).is_some() {
            self.kept_bytes += buffer.capacity();
            self.idle[Self::class(buffer.capacity())].push(buffer);
        }
    }
}
