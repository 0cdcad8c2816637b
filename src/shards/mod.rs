//! Classes that are spread over processes and machines, and samples of them.
//!
//! A head of ten million identities does not fit into one machine. Here each rank of a job has some of the classes, with their
//! rows of W, and brings some rows of the batch. [`Sharded`] evaluates a loss of this crate over all of them:
//!
//! | a rank brings | and receives |
//! |---|---|
//! | its rows of the batch, with labels of all classes | the loss of the whole batch, its rows' figures and ∂X |
//! | its classes' rows of W | their ∂W, whole or streamed into an optimiser's update |
//!
//! ```
//! use margin_losses::shards::{Communicator, Shards, Sharded, Threads};
//! use margin_losses::{ArcFace, Error, Evaluation, Targets, init};
//! use margin_losses::ndarray::s;
//!
//! const CLASSES: usize = 1000;
//! let shards = Shards::new(CLASSES)?;
//! let losses = Threads::run(2, |comm| {
//!     let own = shards.classes(comm.rank(), comm.size());
//!     let mut weights = init::class_weights_of::<f32>(own, 16, 42)?;
//!     // Eight rows of the batch each, from a network that is the same on both.
//!     let batch = init::class_weights::<f32>(16, 16, 7)?;
//!     let features = batch.slice(s![8 * comm.rank()..8 * comm.rank() + 8, ..]);
//!     let labels: Vec<usize> = (0..8).map(|row| (comm.rank() * 499 + 61 * row) % CLASSES).collect();
//!
//!     let loss = ArcFace::new(16.0, 0.3)?;
//!     let mut out = Evaluation::new();
//!     let sharded = Sharded::new(&loss, shards, &comm);
//!     sharded.evaluate_streamed(features, weights.view_mut(), &Targets::new(&labels), &mut out, &mut |mut block| {
//!         block.weights.scaled_add(-0.1, &block.gradient);
//!     })?;
//!     assert_eq!(out.grad_features.dim(), (8, 16));
//!     Ok::<f32, Error>(out.loss())
//! });
//! // All ranks have the same loss, that of the sixteen rows.
//! assert_eq!(losses[0].clone()?, losses[1].clone()?);
//! # Ok::<(), Error>(())
//! ```
//!
//! # The same bits on any number of ranks
//!
//! Loss, figures, ∂X, ∂W and the gradients of learnables have the same bits on any number of ranks, one included, as long as
//! the machines are of one kind. Classes are cut into segments, a function of their number alone, and a rank has whole
//! segments. Sums over segments are made in the order of the classes, or are exact and have none. Where the numbers of rows are
//! multiples of 256, the bits are also those of [`MarginLoss::evaluate`](crate::MarginLoss::evaluate) without ranks; otherwise
//! they are equal to rounding.
//!
//! # What is sent
//!
//! Features and labels go to all ranks, some sums for each row and segment too. What the classes of a rank add to ∂X goes to
//! the rank that has brought the row. Nothing grows with the number of classes, but for losses that learn a number for each
//! class: these are gathered.
//!
//! # Ranks
//!
//! A [`Communicator`] moves the bytes. [`Threads`] has ranks that are threads of one process, [`Solo`] is a job of one. The
//! crate `margin-losses-mpi` beside this one has ranks that are processes, on one machine or on several. `docs/scale.md` tells
//! how to run it, what it costs, and when [`Sampling`] is worth it.

mod communicator;
mod exchange;
mod sampling;
mod sharded;
mod threads;
mod whole;

use core::ops::Range;

use crate::driver;
use crate::error::Error;

pub use communicator::{Communicator, Solo};
pub(crate) use exchange::{Exchange, Shard};
pub(crate) use sampling::Sample;
pub use sampling::Sampling;
pub use sharded::Sharded;
pub use threads::Threads;
pub(crate) use whole::{Part, answer, update_centers};

/// Which classes each rank has: a function of the numbers of classes and of ranks.
///
/// Classes are cut into at most 64 segments of equal size, at least 64 classes each. A rank has consecutive segments, as many
/// as another or one less. With fewer segments than ranks some ranks have no classes.
///
/// # Examples
///
/// ```
/// use margin_losses::shards::Shards;
///
/// let shards = Shards::new(10_000)?;
/// let ranks: Vec<_> = (0..3).map(|rank| shards.classes(rank, 3)).collect();
/// assert_eq!(ranks, [0..3072, 3072..6144, 6144..10_000]);
/// assert_eq!(shards.rank(4000, 3), 1);
/// assert!(Shards::new(5)?.classes(0, 7).is_empty());
/// # Ok::<(), margin_losses::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shards {
    count: usize,
    /// Classes of every segment but the last.
    segment: usize,
}

impl Shards {
    /// For so many classes.
    ///
    /// # Errors
    ///
    /// [`Error::NoClasses`] if there are none.
    pub fn new(classes: usize) -> Result<Self, Error> {
        if classes == 0 {
            return Err(Error::NoClasses);
        }
        Ok(Self {
            count: classes,
            segment: driver::segment_classes(classes),
        })
    }

    /// C, the classes of all ranks.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// The classes of one of `size` ranks; none for a rank that there is not.
    #[must_use]
    pub fn classes(&self, rank: usize, size: usize) -> Range<usize> {
        let segments = self.segments_of(rank, size);
        let start = segments.start * self.segment;
        start.min(self.count)..(segments.end * self.segment).min(self.count)
    }

    /// The rank of `size` ranks that has a class; a class that there is not counts as the last.
    #[must_use]
    pub fn rank(&self, class: usize, size: usize) -> usize {
        let segment = class.min(self.count - 1) / self.segment;
        ((segment + 1) * size - 1) / self.segments()
    }

    pub(crate) fn segments(&self) -> usize {
        self.count.div_ceil(self.segment)
    }

    /// The classes of a segment.
    pub(crate) fn segment(&self, segment: usize) -> Range<usize> {
        let start = segment * self.segment;
        start..(start + self.segment).min(self.count)
    }

    pub(crate) fn segments_of(&self, rank: usize, size: usize) -> Range<usize> {
        let start = |rank: usize| rank.min(size) * self.segments() / size.max(1);
        start(rank)..start(rank.saturating_add(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_is_with_one_rank() {
        for classes in [
            1, 2, 5, 63, 64, 65, 130, 1_000, 1_003, 10_007, 99_999, 1_000_000, 10_000_000,
        ] {
            let shards = Shards::new(classes).unwrap();
            assert!(shards.segments() <= 64);
            let all: Vec<_> = (0..shards.segments()).map(|s| shards.segment(s)).collect();
            assert_eq!(all.iter().map(Range::len).sum::<usize>(), classes);
            for size in [1, 2, 3, 4, 7, 8, 64, 100] {
                let mut end = 0;
                for rank in 0..size {
                    let own = shards.classes(rank, size);
                    assert_eq!(own.start, end, "{classes} over {size}");
                    end = own.end;
                    for class in [own.start, own.end.saturating_sub(1)] {
                        if own.contains(&class) {
                            assert_eq!(shards.rank(class, size), rank, "{class} of {classes}");
                        }
                    }
                }
                assert_eq!(end, classes, "the last classes are not dropped");
                assert!(shards.classes(size, size).is_empty());
            }
        }
        assert_eq!(Shards::new(0), Err(Error::NoClasses));
    }
}
