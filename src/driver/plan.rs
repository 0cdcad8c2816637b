//! How the work is cut up, and the memory it takes.
//!
//! Rows are cut into tiles, columns into blocks: a tile and a block make a product. A column is a class, or one of its K
//! sub-centers. Blocks make runs, the tasks of the backward pass. Runs make segments, the tasks of the forward pass.
//!
//! All of it is a function of the whole problem, N, C, K and d. Threads, the scratch limit, and the part of the classes that
//! is evaluated here move no boundary, and so change no bit. They only decide what is kept, and how much is in flight.
//!
//! Classes that are spread over ranks stay where they are when N changes. So their segments are a function of C alone: those
//! of full tiles. What is sampled of a segment is cut like the segment.

use core::ops::Range;

use crate::error::Error;
use crate::numerics::{Element, parallel};
use crate::request::Aim;
use crate::scratch::RowSum;

/// Rows of one tile, at most.
const TILE_ROWS: usize = 256;
/// Logits of one tile, about: small enough for a core's second-level cache beside the weights of the block.
const TILE_ENTRIES: usize = 1 << 16;
/// Columns of one block, at least and at most.
const BLOCK_COLUMNS: Range<usize> = 64..512;
/// Runs to have at least, if there are as many blocks, so that some threads have work.
const RUNS: usize = 10;
/// Blocks of one run, at most: what a row's gradient gathers in the element type.
const RUN_BLOCKS: usize = 8;
/// Segments, at most: each leaves sums for every row, which are kept.
const SEGMENTS: usize = 64;
/// Tiles that ∂W gathers in the element type.
const GROUP_TILES: usize = 16;
/// A product with fewer rows, columns or dimensions adds its terms to what was gathered before one by one, so that rounding
/// adds up: no more than one such product is gathered. Others sum up to 512 terms apart before they add them.
const SLENDER: usize = 16;

/// How an evaluation is cut up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) rows: usize,
    /// Columns of the whole problem.
    pub(super) columns: usize,
    pub(super) dim: usize,
    /// K, the columns of each class.
    pub(super) group: usize,
    pub(super) aim: Aim,
    /// Targets: one for each row, or two.
    pub(super) targets: usize,
    /// Rows of every tile but the last.
    pub(super) tile_rows: usize,
    /// How columns are cut.
    cut: Cut,
    /// The segments that are evaluated here.
    first_segment: usize,
    last_segment: usize,
    /// How many of the nearest classes of each row are looked for.
    pub(super) nearest: usize,
    /// Whether the exponentials are kept for the way back, or computed again.
    pub(super) keeps: bool,
    /// How many segments, or runs, are worked on side by side.
    pub(super) lanes: usize,
}

/// How columns are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cut {
    /// Columns of every block but the last of a segment.
    block: usize,
    /// Blocks of every run but the last of a segment.
    run: usize,
    /// Columns of every segment but the last.
    segment: usize,
}

impl Cut {
    /// For tiles of that many rows, and K columns for each class.
    fn new(tile_rows: usize, columns: usize, group: usize) -> Self {
        // A multiple of 32 keeps the rows of a tile aligned to the vector lanes; a quarter of the columns keeps a few
        // threads busy even where there are not many.
        let block = (TILE_ENTRIES / tile_rows)
            .min(columns / 4)
            .clamp(BLOCK_COLUMNS.start, BLOCK_COLUMNS.end)
            .next_multiple_of(32)
            .next_multiple_of(group)
            .min(columns);
        let block = without_a_single(columns, block);
        let blocks = columns.div_ceil(block);
        let run = (blocks / RUNS).clamp(1, RUN_BLOCKS);
        let runs = blocks.div_ceil(run);
        let segment = runs.div_ceil(SEGMENTS) * run * block;
        Self {
            block,
            run,
            segment,
        }
    }

    /// The same cut of the K columns of each class, `sampled` classes of every segment.
    fn of_sampled(self, sampled: usize, group: usize) -> Self {
        let segment = sampled * group;
        // Blocks of about the same size, and of one if the segment is one.
        let blocks = segment.div_ceil(self.block.max(BLOCK_COLUMNS.start));
        let block = sampled.div_ceil(blocks.min(sampled)) * group;
        Self {
            block: without_a_single(segment, block),
            segment,
            ..self
        }
    }
}

/// A block that does not leave a single column at the end: a product by one column sums in another order than those by many,
/// and equal columns would not have equal products.
fn without_a_single(columns: usize, mut block: usize) -> usize {
    while columns > 1 && columns % block == 1 {
        block = (block + 32).min(columns);
    }
    block
}

/// The classes of every segment but the last, where classes are spread over ranks.
pub(crate) fn segment_classes(classes: usize) -> usize {
    Cut::new(TILE_ROWS, classes, 1).segment
}

impl Plan {
    /// The plan for features N×d and the columns of all classes, K for each, with everything in flight that the threads can use.
    pub(super) fn new((rows, dim): (usize, usize), columns: usize, group: usize, aim: Aim) -> Self {
        let cut = Cut::new(tile_rows(rows), columns, group);
        Self::of((rows, dim), columns, group, aim, cut)
    }

    /// The plan where classes are spread over ranks: for `sampled` of the classes of every segment but the last, of `classes`
    /// altogether, and `columns` that are left.
    pub(super) fn spread(
        (rows, dim): (usize, usize),
        classes: usize,
        (sampled, columns): (usize, usize),
        group: usize,
        aim: Aim,
    ) -> Self {
        let cut = Cut::new(TILE_ROWS, classes, 1).of_sampled(sampled, group);
        Self::of((rows, dim), columns, group, aim, cut)
    }

    fn of((rows, dim): (usize, usize), columns: usize, group: usize, aim: Aim, cut: Cut) -> Self {
        let mut plan = Self {
            rows,
            columns,
            dim,
            group,
            aim,
            targets: rows,
            tile_rows: tile_rows(rows),
            cut,
            first_segment: 0,
            last_segment: columns.div_ceil(cut.segment),
            nearest: 0,
            keeps: aim != Aim::Loss,
            lanes: 1,
        };
        plan.lanes = parallel::threads_for(rows, columns, dim).min(plan.run_count());
        plan
    }

    /// The same, for a part of the segments.
    pub(super) fn part(self, segments: Range<usize>) -> Self {
        Self {
            first_segment: segments.start,
            last_segment: segments.end,
            ..self
        }
    }

    /// The plan that fits into `limit` bytes of scratch: without kept exponentials if need be, then with less in flight.
    pub(super) fn within<A: Element>(mut self, limit: usize) -> Result<Self, Error> {
        loop {
            let needed = self.sizes::<A>().bytes::<A>();
            if needed <= limit {
                return Ok(self);
            }
            if self.keeps {
                self.keeps = false;
            } else if self.lanes > 1 {
                self.lanes /= 2;
            } else {
                return Err(Error::ScratchLimit { limit, needed });
            }
        }
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

    /// The columns of a block.
    pub(super) fn block(&self, block: usize) -> Range<usize> {
        let (segment, block) = (block / self.segment_blocks(), block % self.segment_blocks());
        let first = segment * self.cut.segment;
        let end = (first + self.cut.segment).min(self.columns);
        let start = first + block * self.cut.block;
        start..(start + self.cut.block).min(end)
    }

    /// The block of a column.
    pub(super) fn block_of(&self, column: usize) -> usize {
        let segment = self.segment_of(column);
        segment * self.segment_blocks() + (column - segment * self.cut.segment) / self.cut.block
    }

    /// Columns of a block, at most.
    pub(super) fn block_columns(&self) -> usize {
        self.cut.block
    }

    /// Blocks of every segment but the last.
    fn segment_blocks(&self) -> usize {
        self.cut.segment.div_ceil(self.cut.block)
    }

    /// The segments that are evaluated here.
    pub(super) fn segments(&self) -> Range<usize> {
        self.first_segment..self.last_segment
    }

    /// The segment of a column.
    pub(super) fn segment_of(&self, column: usize) -> usize {
        column / self.cut.segment
    }

    /// The blocks of a segment.
    pub(super) fn segment(&self, segment: usize) -> Range<usize> {
        let first = segment * self.cut.segment;
        let columns = self.cut.segment.min(self.columns - first);
        let start = segment * self.segment_blocks();
        start..start + columns.div_ceil(self.cut.block)
    }

    /// The blocks that are evaluated here.
    pub(super) fn blocks(&self) -> Range<usize> {
        let segments = self.segments();
        if segments.is_empty() {
            return 0..0;
        }
        self.segment(segments.start).start..self.segment(segments.end - 1).end
    }

    /// The columns that are evaluated here.
    pub(super) fn own_columns(&self) -> Range<usize> {
        self.columns_of(&self.blocks())
    }

    /// The columns of consecutive blocks.
    pub(super) fn columns_of(&self, blocks: &Range<usize>) -> Range<usize> {
        if blocks.is_empty() {
            return 0..0;
        }
        self.block(blocks.start).start..self.block(blocks.end - 1).end
    }

    /// How many runs there are. They are counted where there may be more than memory holds.
    fn run_count(&self) -> usize {
        let of_segment = |segment| self.segment(segment).len().div_ceil(self.cut.run);
        self.segments().map(of_segment).sum()
    }

    /// The runs of blocks that are evaluated here, in order.
    pub(super) fn runs(&self) -> Vec<Range<usize>> {
        let step = self.cut.run;
        let of_segment = |segment| {
            let blocks = self.segment(segment);
            let end = blocks.end;
            blocks
                .step_by(step)
                .map(move |start| start..(start + step).min(end))
        };
        self.segments().flat_map(of_segment).collect()
    }

    /// Whether products are so small that no more than one may be gathered in the element type.
    pub(super) fn is_slender(&self) -> bool {
        self.dim.min(self.tile_rows).min(self.cut.block) < SLENDER
    }

    /// Tiles that ∂W gathers in the element type.
    fn group_tiles(&self) -> usize {
        if self.is_slender() { 1 } else { GROUP_TILES }
    }

    /// Whether there are so many tiles of rows that ∂W is summed in groups of them, in `f64`.
    pub(super) fn sums_in_groups(&self) -> bool {
        self.rows > self.group_tiles() * self.tile_rows
    }

    /// Whether a tile is the first of its group.
    pub(super) fn begins_group(&self, tile: &Range<usize>) -> bool {
        (tile.start / self.tile_rows).is_multiple_of(self.group_tiles())
    }

    /// Whether groups have ended before the one of this tile.
    pub(super) fn has_ended_groups(&self, tile: &Range<usize>) -> bool {
        tile.start / self.tile_rows >= self.group_tiles()
    }

    /// Whether a tile is the last of its group.
    pub(super) fn ends_group(&self, tile: &Range<usize>) -> bool {
        tile.end == self.rows || (tile.end / self.tile_rows).is_multiple_of(self.group_tiles())
    }

    /// What an evaluation holds, buffer by buffer.
    pub(super) fn sizes<A: Element>(&self) -> Sizes {
        let gradients = self.aim != Aim::Loss;
        let only = |needed: bool, size: usize| if needed { size } else { 0 };
        let by_row = self.rows * self.dim;
        let own = self.own_columns().len();
        let tile = self.tile_rows * self.cut.block;
        let run = self.cut.run * self.cut.block * self.dim;
        Sizes {
            features: by_row,
            directions: only(gradients, self.targets * self.dim),
            factors: own,
            row_sums: self.segments().len() * self.rows,
            nearest: self.rows.saturating_mul(self.nearest),
            // Saturating, for what does not fit into an address is never kept.
            exponentials: only(self.keeps, self.rows.saturating_mul(own)),
            shifts: only(gradients, self.rows.saturating_mul(self.blocks().len())),
            totals: only(gradients, by_row),
            rests: only(gradients && A::KEEPS_RESTS, by_row),
            lanes: self.lanes,
            tile,
            again: only(gradients && !self.keeps, tile),
            tile_vectors: only(gradients, self.tile_rows * self.dim),
            run: only(self.aim == Aim::Stream, run),
            wide_run: only(gradients && self.sums_in_groups(), run),
            blocks: self.blocks().len(),
        }
    }
}

/// Rows of every tile but the last.
fn tile_rows(rows: usize) -> usize {
    let tiles = rows.div_ceil(TILE_ROWS).max(1);
    rows.div_ceil(tiles).max(1)
}

/// Lengths of the buffers of an evaluation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// The scaled features, N×d.
    pub(super) features: usize,
    /// Each of the two derivatives of the target logits, N×d, or 2N×d where rows have two targets.
    pub(super) directions: usize,
    /// What the products of each column are multiplied by.
    pub(super) factors: usize,
    /// What each segment leaves behind of each row.
    pub(super) row_sums: usize,
    /// All exponentials, if they are kept.
    pub(super) exponentials: usize,
    /// The shift of each row in each block.
    pub(super) shifts: usize,
    /// The features' gradient while it is summed, N×d.
    pub(super) totals: usize,
    /// What its sums leave over, N×d, if that is kept.
    pub(super) rests: usize,
    /// How many there are of each of the following.
    pub(super) lanes: usize,
    /// A tile of logits.
    pub(super) tile: usize,
    /// A tile of exponentials, if they were not kept.
    pub(super) again: usize,
    /// Each of two tiles of rows: the features times their coefficients, and a sum of ∂X.
    pub(super) tile_vectors: usize,
    /// A run's ∂W, if it is handed out.
    pub(super) run: usize,
    /// A run's ∂W in `f64`, if there are many rows.
    pub(super) wide_run: usize,
    /// The nearest classes of each row, in all segments that a lane has opened.
    pub(super) nearest: usize,
    /// A flag for each block.
    pub(super) blocks: usize,
}

impl Sizes {
    /// Numbers of the element type.
    pub(super) fn elements(&self) -> usize {
        let lane = self.tile + self.again + 2 * self.tile_vectors + self.run;
        let buffers = [
            self.features,
            2 * self.directions,
            self.factors,
            self.exponentials,
            self.shifts,
            self.lanes.saturating_mul(lane),
        ];
        buffers.into_iter().fold(0, usize::saturating_add)
    }

    /// Numbers in `f64`.
    pub(super) fn doubles(&self) -> usize {
        self.totals + self.rests + self.lanes.saturating_mul(self.wide_run)
    }

    /// Classes, each with its logit.
    pub(super) fn all_nearest(&self) -> usize {
        self.lanes.saturating_mul(self.nearest)
    }

    fn bytes<A>(&self) -> usize {
        self.elements()
            .saturating_mul(size_of::<A>())
            .saturating_add(self.doubles().saturating_mul(size_of::<f64>()))
            .saturating_add(self.all_nearest().saturating_mul(size_of::<(A, usize)>()))
            .saturating_add(self.row_sums * size_of::<RowSum<A>>() + self.blocks)
    }
}
