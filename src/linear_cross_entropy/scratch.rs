//! The working memory of an evaluation, kept from one call to the next.

use core::fmt;
use core::mem;

/// How much the driver may hold beyond inputs and outputs unless the caller says otherwise: 1 GiB.
pub(crate) const DEFAULT_SCRATCH_LIMIT: usize = 1 << 30;

/// Buffers that grow to what the largest evaluation so far needed, and the limit they must stay under.
#[derive(Clone)]
pub(crate) struct Scratch<A> {
    limit: usize,
    /// Rows, tiles, exponentials: everything in the element type.
    pub(super) elements: Vec<A>,
    /// Sums and whatever else is kept in `f64`.
    pub(super) doubles: Vec<f64>,
    /// One flag for each block of classes.
    pub(super) flags: Vec<bool>,
}

impl<A> Scratch<A> {
    pub(crate) fn with_limit(limit: usize) -> Self {
        Self {
            limit,
            elements: Vec::new(),
            doubles: Vec::new(),
            flags: Vec::new(),
        }
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Bytes held now.
    pub(crate) fn bytes(&self) -> usize {
        self.elements.capacity() * size_of::<A>()
            + self.doubles.capacity() * size_of::<f64>()
            + self.flags.capacity()
    }
}

impl<A> Default for Scratch<A> {
    fn default() -> Self {
        Self::with_limit(DEFAULT_SCRATCH_LIMIT)
    }
}

impl<A> fmt::Debug for Scratch<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scratch")
            .field("limit", &self.limit)
            .field("bytes", &self.bytes())
            .finish_non_exhaustive()
    }
}

/// Hands out consecutive pieces of one buffer.
pub(super) struct Pieces<'a, T>(&'a mut [T]);

impl<'a, T: Clone + Default> Pieces<'a, T> {
    /// Over the first `len` entries of `buffer`, which grows to that length if it has to.
    pub(super) fn of(buffer: &'a mut Vec<T>, len: usize) -> Self {
        if buffer.len() < len {
            buffer.reserve_exact(len - buffer.len());
            buffer.resize(len, T::default());
        }
        Self(&mut buffer[..len])
    }
}

impl<'a, T> Pieces<'a, T> {
    pub(super) fn over(slice: &'a mut [T]) -> Self {
        Self(slice)
    }

    /// The next `len` entries.
    pub(super) fn take(&mut self, len: usize) -> &'a mut [T] {
        let (piece, rest) = mem::take(&mut self.0).split_at_mut(len);
        self.0 = rest;
        piece
    }
}
