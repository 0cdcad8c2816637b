//! Open, the forward pass: logits, exponentials and their sums, one tile of rows by one block of columns at a time.

use core::ops::Range;

use faer::{MatMut, MatRef};

use crate::error::Error;
use crate::numerics::{Element, scale_by_power, vectorized};
use crate::request::Aim;
use crate::scores::none_found;
use crate::scratch::{Pieces, RowSum};

use super::close::Closed;
use super::entries::Tile;
use super::features::Batch;
use super::lane::{self, Lane};
use super::nearest;
use super::smoothing;
use super::weights::{Block, Scanned, Weights, keep_winners};

/// What the forward pass leaves behind, for the columns that are evaluated here.
#[derive(Debug)]
pub(super) struct Opened<'a, A> {
    /// What has been found out about all class weights.
    pub(super) scanned: Scanned,
    /// What each column's products are multiplied by.
    pub(super) factors: &'a mut [A],
    /// Which blocks are rescaled.
    pub(super) rescaled: &'a mut [bool],
    /// Segment by segment, one for each row.
    pub(super) sums: &'a mut [RowSum<A>],
    /// The nearest negatives, segment by segment, some for each row; empty unless their logits are changed.
    pub(super) nearest: &'a mut [(A, usize)],
    /// Block by block, one for each row; empty if no gradients are wanted.
    pub(super) shifts: &'a mut [A],
    /// The exponentials, block by block and tile by tile, if they are kept.
    pub(super) kept: &'a mut [A],
    /// Σ_j ŵ_j, if labels are smoothed.
    pub(super) direction: Vec<f64>,
}

/// The share of one segment.
struct Segment<'a, A> {
    blocks: Range<usize>,
    factors: Pieces<'a, A>,
    rescaled: &'a mut [bool],
    sums: &'a mut [RowSum<A>],
    nearest: &'a mut [(A, usize)],
    shifts: Pieces<'a, A>,
    kept: Pieces<'a, A>,
    direction: &'a mut [f64],
}

impl<A: Element> Opened<'_, A> {
    /// Opens all segments, and finds the first class weight that cannot be used.
    pub(super) fn run(
        &mut self,
        batch: &Batch<'_, A>,
        weights: Weights<'_, A>,
        lanes: &mut [Lane<'_, A>],
    ) -> Result<(), Error> {
        let (plan, smooth) = (&batch.plan, batch.head.smoothing != 0.0);
        let dim = if smooth { plan.dim } else { 0 };
        let mut directions = vec![0.0; plan.segments().len() * dim];
        let mut factors = Pieces::over(&mut *self.factors);
        let mut rescaled = Pieces::over(&mut *self.rescaled);
        let mut sums = Pieces::over(&mut *self.sums);
        let mut nearest = Pieces::over(&mut *self.nearest);
        let mut shifts = Pieces::over(&mut *self.shifts);
        let mut kept = Pieces::over(&mut *self.kept);
        let mut direction_pieces = Pieces::over(&mut directions);
        let gradients = plan.aim != Aim::Loss;
        let tasks = plan.segments().map(|segment| {
            let blocks = plan.segment(segment);
            let columns = plan.columns_of(&blocks).len();
            Segment {
                factors: Pieces::over(factors.take(columns)),
                rescaled: rescaled.take(blocks.len()),
                sums: sums.take(plan.rows),
                nearest: nearest.take(plan.rows * plan.nearest),
                shifts: Pieces::over(shifts.take_if(gradients, blocks.len() * plan.rows)),
                kept: Pieces::over(kept.take_if(plan.keeps, columns * plan.rows)),
                direction: direction_pieces.take(dim),
                blocks,
            }
        });
        self.scanned = lane::scan(lanes, tasks, |lane, mut segment| {
            segment.run(batch, weights, lane)
        })?;
        self.direction = vec![0.0; dim];
        for segment in directions.chunks_exact(dim.max(1)) {
            for (sum, entry) in self.direction.iter_mut().zip(segment) {
                *sum += entry;
            }
        }
        Ok(())
    }

    /// What the segments have left behind of each row, in their order.
    pub(super) fn close(&self, batch: &Batch<'_, A>) -> Vec<Closed> {
        let mut rows: Vec<_> = (0..batch.plan.rows)
            .map(|row| {
                let segments = self.sums.iter().skip(row).step_by(batch.plan.rows);
                let target = &batch.targets[row];
                let uniform = smoothing::bound(batch, &self.direction, target);
                let nearest = batch.nearest.of_row(row);
                Closed::new(batch.head, segments.copied(), target, nearest, uniform)
            })
            .collect();
        smoothing::close(batch, &self.direction, &mut rows);
        rows
    }
}

impl<A: Element> Segment<'_, A> {
    fn run(
        &mut self,
        batch: &Batch<'_, A>,
        weights: Weights<'_, A>,
        lane: &mut Lane<'_, A>,
    ) -> Result<Scanned, Error> {
        self.sums.fill(RowSum::none());
        self.nearest.fill(none_found());
        let mut all = Scanned::NONE;
        for (index, block) in self.blocks.clone().enumerate() {
            let columns = batch.plan.block(block);
            let factors = self.factors.take(columns.len());
            let buffers = &mut lane.buffers;
            let (scanned, block) = weights.scanned(batch.head, columns, factors, buffers)?;
            self.rescaled[index] = scanned.rescaled;
            all = all.and(scanned);
            if !self.direction.is_empty() {
                let sum = &mut *self.direction;
                vectorized(
                    #[inline(always)]
                    || block.add_directions(weights.normalised, sum),
                );
            }
            self.block(batch, &block, lane.tile);
        }
        Ok(all)
    }

    /// One block, all tiles of rows.
    fn block(&mut self, batch: &Batch<'_, A>, block: &Block<'_, A>, room: &mut [A]) {
        let plan = &batch.plan;
        let shifts = self.shifts.take_if(plan.aim != Aim::Loss, plan.rows);
        for rows in plan.tiles() {
            let products = &mut room[..rows.len() * block.columns.len()];
            let sums = &mut self.sums[rows.clone()];
            batch.products(&rows, block, products, |row, logit| {
                sums[row].target = logit;
            });
            let kept = self.kept.take_if(plan.keeps, products.len());
            let tile = batch.tile(&rows, block, products);
            vectorized(
                #[inline(always)]
                || tile.open(sums, kept),
            );
            if plan.nearest > 0 {
                let found = &mut self.nearest[rows.start * plan.nearest..];
                vectorized(
                    #[inline(always)]
                    || nearest::seek(products, block, plan.nearest, found),
                );
            }
            if !shifts.is_empty() {
                for (shift, sum) in shifts[rows].iter_mut().zip(sums) {
                    *shift = sum.shift;
                }
            }
        }
    }
}

impl<A: Element> Block<'_, A> {
    /// Adds the rows to `sum`, normalised if the layer does that.
    #[inline(always)]
    fn add_directions(&self, normalised: bool, sum: &mut [f64]) {
        let unit = scale_by_power(1.0, self.unit);
        for (row, factor) in self.rows.chunks_exact(sum.len()).zip(self.factors) {
            let factor = if normalised { factor.widen() } else { unit };
            for (sum, entry) in sum.iter_mut().zip(row) {
                *sum = entry.widen().mul_add(factor, *sum);
            }
        }
    }
}

impl<A: Element> Batch<'_, A> {
    /// Writes `features · Wᵀ` of a tile by a block. Targets enter the sums on their own, so −∞ stands in their place. It also
    /// stands in the place of all sub-centers of a class but the nearest. `seen` is told each target's row in the tile, and its
    /// logit without the margin.
    pub(super) fn products(
        &self,
        rows: &Range<usize>,
        block: &Block<'_, A>,
        out: &mut [A],
        mut seen: impl FnMut(usize, A),
    ) {
        let (columns, group, dim) = (&block.columns, self.plan.group, self.plan.dim);
        let (height, width) = (rows.len(), columns.len());
        A::product(
            MatMut::from_row_major_slice_mut(out, height, width),
            false,
            MatRef::from_row_major_slice(self.rows(rows), height, dim),
            MatRef::from_row_major_slice(block.rows, width, dim).transpose(),
        );
        for &row in self.rows_of(columns) {
            if rows.contains(&row) {
                let column = self.targets[row].column - columns.start;
                let own = row - rows.start;
                let logit = out[own * width + column]
                    .mul_add(block.factors[column], block.constants[column]);
                seen(own, logit);
                let start = own * width + column / group * group;
                out[start..start + group].fill(A::neg_infinity());
            }
        }
        if group > 1 {
            vectorized(
                #[inline(always)]
                || {
                    for row in out.chunks_exact_mut(width) {
                        keep_winners(row, block, group);
                    }
                },
            );
        }
    }

    pub(super) fn tile<'a>(
        &'a self,
        rows: &Range<usize>,
        block: &'a Block<'a, A>,
        products: &'a [A],
    ) -> Tile<'a, A> {
        Tile {
            block,
            link: self.head.link,
            changed: self.changed(rows),
            products,
        }
    }
}
