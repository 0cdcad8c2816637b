//! The partition of the work: rows into tiles, classes into blocks, blocks into segments; and the memory it takes.
//!
//! The partition is a function of the shapes and of the scratch limit alone, never of the number of threads: every sum
//! has one order, and every number one set of bits.

use core::ops::Range;

use ndarray::{ArrayView2, Axis, Slice};

use crate::error::Error;
use crate::float::Float;
use crate::parallel;

use super::rows::{Norm, scale_by_power};

/// Rows of one tile, at most.
const TILE_ROWS: usize = 256;
/// Logits of one tile, about: small enough for a core's second-level cache beside the weights of the block.
const TILE_ENTRIES: usize = 1 << 16;
/// Classes of one block, at least and at most.
const BLOCK_CLASSES: Range<usize> = 64..1024;
/// Pieces of work, at most about: enough to keep many threads busy to the end, few enough to sum their results in no time.
const TASKS: usize = 24;
/// Blocks of one segment, at least, if that leaves work for a few threads.
const SEGMENT_BLOCKS: usize = 4;

/// What an evaluation is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aim {
    /// The loss alone.
    Loss,
    /// The loss and all gradients.
    Gradients,
    /// The same, with ∂W handed out block by block.
    Stream,
}

/// How an evaluation is cut up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) rows: usize,
    pub(super) classes: usize,
    pub(super) dim: usize,
    /// Rows of every tile but the last.
    pub(super) tile_rows: usize,
    /// Classes of every block but the last.
    pub(super) block_classes: usize,
    /// Segments that the blocks are dealt into.
    pub(super) segments: usize,
    pub(super) aim: Aim,
    /// Whether the forward pass keeps its exponentials for the backward pass, or has them computed again.
    pub(super) keeps: bool,
}

/// One segment of blocks for one tile of rows: the unit of work of the forward pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) rows: Range<usize>,
    pub(super) blocks: Range<usize>,
}

impl Plan {
    /// The plan for N ≥ 0 and C, d ≥ 1 within `limit` bytes of scratch.
    pub(super) fn new<A: Float>(
        rows: usize,
        classes: usize,
        dim: usize,
        aim: Aim,
        limit: usize,
    ) -> Result<Self, Error> {
        let tiles = rows.div_ceil(TILE_ROWS).max(1);
        let tile_rows = rows.div_ceil(tiles).max(1);
        // A multiple of 32 keeps the rows of a tile aligned to the vector lanes; an eighth of the classes keeps a few
        // threads busy even where there are not many.
        let block_classes = (TILE_ENTRIES / tile_rows)
            .min(classes / 8)
            .clamp(BLOCK_CLASSES.start, BLOCK_CLASSES.end)
            .next_multiple_of(32)
            .min(classes);
        let blocks = classes.div_ceil(block_classes);
        let mut plan = Self {
            rows,
            classes,
            dim,
            tile_rows,
            block_classes,
            segments: if parallel::pays(rows, classes, dim) {
                TASKS
                    .div_ceil(tiles)
                    .min((blocks / SEGMENT_BLOCKS).max(4))
                    .min(blocks)
            } else {
                1
            },
            aim,
            keeps: aim != Aim::Loss,
        };
        // The fastest plan that fits: keep the exponentials; else compute them twice; else with less in flight as well,
        // and in smaller blocks.
        let least = loop {
            let needed = plan.sizes().bytes::<A>();
            if needed <= limit {
                return Ok(plan);
            }
            if plan.keeps {
                plan.keeps = false;
            } else if plan.segments > 1 {
                plan.segments = plan.segments.div_ceil(2);
            } else if plan.block_classes > 32 {
                plan.block_classes = (plan.block_classes / 2).next_multiple_of(32);
            } else {
                break needed;
            }
        };
        Err(Error::ScratchLimit {
            limit,
            needed: least,
        })
    }

    pub(super) fn blocks(&self) -> usize {
        self.classes.div_ceil(self.block_classes)
    }

    /// The classes of a block.
    pub(super) fn block(&self, block: usize) -> Range<usize> {
        let start = block * self.block_classes;
        start..(start + self.block_classes).min(self.classes)
    }

    /// The classes of consecutive blocks.
    pub(super) fn classes_of(&self, blocks: &Range<usize>) -> Range<usize> {
        self.block(blocks.start).start..self.block(blocks.end - 1).end
    }

    /// The blocks of one of `shares` consecutive shares.
    pub(super) fn deal(&self, share: usize, shares: usize) -> Range<usize> {
        let blocks = self.blocks();
        share * blocks / shares..(share + 1) * blocks / shares
    }

    /// How many blocks the backward pass works on side by side: as many as the buffers of the forward pass have room for.
    pub(super) fn lanes(&self) -> usize {
        let tiles = (self.rows / self.tile_rows).max(1);
        (tiles * self.segments).min(TASKS).min(self.blocks())
    }

    /// The tiles of rows, in order.
    pub(super) fn tiles(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let Self {
            rows, tile_rows, ..
        } = *self;
        (0..rows)
            .step_by(tile_rows)
            .map(move |start| start..(start + tile_rows).min(rows))
    }

    /// Tile by tile, and segment by segment within a tile.
    pub(super) fn pieces(&self) -> impl Iterator<Item = Piece> {
        self.tiles().flat_map(move |rows| {
            (0..self.segments).map(move |segment| Piece {
                rows: rows.clone(),
                blocks: self.deal(segment, self.segments),
            })
        })
    }

    /// What an evaluation holds, buffer by buffer.
    pub(super) fn sizes(&self) -> Sizes {
        // An empty batch has room for the one row that its tiles are said to have.
        let rows = self.rows.max(1);
        let by_row = self.rows * self.dim;
        Sizes {
            features: by_row,
            row_vectors: match self.aim {
                Aim::Loss => 0,
                Aim::Gradients | Aim::Stream => by_row,
            },
            inverse_norms: self.classes,
            row_segments: self.rows * self.segments,
            accumulators: match self.aim {
                Aim::Loss => 0,
                Aim::Gradients | Aim::Stream => rows * self.dim * self.segments,
            },
            // Saturating, for what does not fit into an address is never kept.
            exponentials: if self.keeps {
                self.rows.saturating_mul(self.classes)
            } else {
                rows * self.segments * self.block_classes
            },
            block_shifts: if self.keeps {
                self.rows.saturating_mul(self.blocks())
            } else {
                0
            },
            gradient_blocks: match self.aim {
                Aim::Loss | Aim::Gradients => 0,
                Aim::Stream => self.lanes() * self.block_classes * self.dim,
            },
            blocks: self.blocks(),
        }
    }
}

/// Lengths of the buffers of an evaluation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// The scaled features, N×d.
    pub(super) features: usize,
    /// N×d, of which there are four: the features' gradient, two derivatives of the target logits, and the features times
    /// their coefficients.
    pub(super) row_vectors: usize,
    /// 1/‖w‖ for each class.
    pub(super) inverse_norms: usize,
    /// A shift, a maximum and a sum for each row and segment.
    pub(super) row_segments: usize,
    /// The N×d sums that the segments add to the features' gradient.
    pub(super) accumulators: usize,
    /// All the exponentials, or a tile for each piece of work.
    pub(super) exponentials: usize,
    /// The shift of each row in each block, if the exponentials are kept.
    pub(super) block_shifts: usize,
    /// A block of ∂W for each lane, if they are handed out.
    pub(super) gradient_blocks: usize,
    /// A flag for each block.
    pub(super) blocks: usize,
}

impl Sizes {
    /// Numbers of the element type.
    pub(super) fn elements(&self) -> usize {
        let buffers = [
            self.features,
            4 * self.row_vectors,
            self.inverse_norms,
            2 * self.row_segments,
            self.accumulators,
            self.block_shifts,
            self.gradient_blocks,
            self.exponentials,
        ];
        buffers.into_iter().fold(0, usize::saturating_add)
    }

    fn bytes<A>(&self) -> usize {
        self.elements()
            .saturating_mul(size_of::<A>())
            .saturating_add(self.row_segments * size_of::<f64>() + self.blocks)
    }
}

/// How the class weights are normalised, and brought block by block into the form that the products take: row-major, and
/// far from both ends of the range of the element type.
#[derive(Debug)]
pub(super) struct Normalised<'a, A> {
    /// 1/‖w_j‖ of the rows as [`block`](Self::block) gives them; 1 if the layer does not normalise them.
    pub(super) inverse_norms: &'a [A],
    /// Whether a block holds rows of extreme norm, which are scaled by powers of two.
    pub(super) rescaled: &'a [bool],
}

impl<A: Float> Normalised<'_, A> {
    /// The rows of one block of `weights`, row-major: the caller's own memory if it can be, a copy in `buffer` if not.
    pub(super) fn block<'b>(
        &self,
        weights: ArrayView2<'b, A>,
        plan: &Plan,
        block: usize,
        buffer: &'b mut Vec<A>,
    ) -> &'b [A] {
        let classes = plan.block(block);
        if !self.rescaled[block]
            && let Some(weights) = weights.to_slice()
        {
            return &weights[classes.start * plan.dim..classes.end * plan.dim];
        }
        buffer.clear();
        for row in weights
            .slice_axis(Axis(0), Slice::from(classes))
            .outer_iter()
        {
            let start = buffer.len();
            buffer.extend(row.iter().copied());
            if self.rescaled[block] {
                let power = Norm::of(&buffer[start..]).power();
                for entry in &mut buffer[start..] {
                    *entry = A::narrow(scale_by_power(entry.widen(), -power));
                }
            }
        }
        buffer
    }
}
