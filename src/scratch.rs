//! The working memory of an evaluation, kept from one call to the next.

use core::fmt;
use core::mem;

/// How much the driver may hold beyond inputs and outputs unless the caller says otherwise: 1 GiB.
const DEFAULT_LIMIT: usize = 1 << 30;

/// Buffers that grow to what the largest evaluation so far needed, and the limit they must stay under.
#[derive(Clone)]
pub(crate) struct Scratch<A> {
    limit: usize,
    /// Rows, tiles, exponentials: everything in the element type.
    pub(crate) elements: Vec<A>,
    /// Sums in `f64`.
    pub(crate) doubles: Vec<f64>,
    /// What each segment of classes leaves behind of each row.
    pub(crate) row_sums: Vec<RowSum<A>>,
    /// The nearest classes of each row in each segment of classes.
    pub(crate) nearest: Vec<(A, usize)>,
    /// One flag for each block of classes.
    pub(crate) flags: Vec<bool>,
}

/// What is known of the logits of a row over the classes seen so far. But for `target`, the target's does not count.
///
/// For the logistic link, `total` is Σ softplus(z), and `total · length` is Σ σ(z). For hinges, `total` is how many z are above 0,
/// and `mean` their mean. For both the shift stays 0.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowSum<A> {
    /// Σ exp(z − shift).
    pub(crate) total: f64,
    /// The mean length of the class weights, each as heavy as its exponential; 1 where they are normalised.
    pub(crate) length: f64,
    /// The mean of the logits without their constants, likewise; for negatives that a margin changes.
    pub(crate) mean: f64,
    /// What the exponentials are relative to: never above the largest logit.
    pub(crate) shift: A,
    /// The largest logit, as no margin has changed it.
    pub(crate) largest: A,
    /// The target's, likewise, with the rounding of its product; 0 if its class has not been seen.
    pub(crate) target: A,
}

impl<A: num_traits::Float> RowSum<A> {
    /// That of no classes.
    pub(crate) fn none() -> Self {
        Self {
            total: 0.0,
            length: 1.0,
            mean: 0.0,
            shift: A::zero(),
            largest: A::neg_infinity(),
            target: A::zero(),
        }
    }
}

impl<A: num_traits::Float> Default for RowSum<A> {
    fn default() -> Self {
        Self::none()
    }
}

impl<A> Scratch<A> {
    pub(crate) fn with_limit(limit: usize) -> Self {
        Self {
            limit,
            elements: Vec::new(),
            doubles: Vec::new(),
            row_sums: Vec::new(),
            nearest: Vec::new(),
            flags: Vec::new(),
        }
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Drops what is held, unless it stays within the limit when the buffers grow to these lengths.
    pub(crate) fn make_room(&mut self, [elements, doubles, row_sums, nearest, flags]: [usize; 5]) {
        let grown = [
            (self.elements.capacity().max(elements), size_of::<A>()),
            (self.doubles.capacity().max(doubles), size_of::<f64>()),
            (
                self.row_sums.capacity().max(row_sums),
                size_of::<RowSum<A>>(),
            ),
            (
                self.nearest.capacity().max(nearest),
                size_of::<(A, usize)>(),
            ),
            (self.flags.capacity().max(flags), 1),
        ];
        let bytes = grown.iter().fold(0_usize, |sum, (length, size)| {
            sum.saturating_add(length.saturating_mul(*size))
        });
        if bytes > self.limit {
            *self = Self::with_limit(self.limit);
        }
    }

    /// Bytes held now.
    pub(crate) fn bytes(&self) -> usize {
        self.elements.capacity() * size_of::<A>()
            + self.doubles.capacity() * size_of::<f64>()
            + self.row_sums.capacity() * size_of::<RowSum<A>>()
            + self.nearest.capacity() * size_of::<(A, usize)>()
            + self.flags.capacity()
    }
}

impl<A> Default for Scratch<A> {
    fn default() -> Self {
        Self::with_limit(DEFAULT_LIMIT)
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
#[derive(Debug)]
pub(crate) struct Pieces<'a, T>(&'a mut [T]);

impl<'a, T: Clone + Default> Pieces<'a, T> {
    /// Over the first `len` entries of `buffer`, which grows to that length if it has to.
    pub(crate) fn of(buffer: &'a mut Vec<T>, len: usize) -> Self {
        if buffer.len() < len {
            buffer.reserve_exact(len - buffer.len());
            buffer.resize(len, T::default());
        }
        Self(&mut buffer[..len])
    }
}

impl<'a, T> Pieces<'a, T> {
    pub(crate) fn over(slice: &'a mut [T]) -> Self {
        Self(slice)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next `len` entries.
    pub(crate) fn take(&mut self, len: usize) -> &'a mut [T] {
        let (piece, rest) = mem::take(&mut self.0).split_at_mut(len);
        self.0 = rest;
        piece
    }

    /// The next `len` entries, or none if they are not wanted.
    pub(crate) fn take_if(&mut self, wanted: bool, len: usize) -> &'a mut [T] {
        self.take(if wanted { len } else { 0 })
    }
}
