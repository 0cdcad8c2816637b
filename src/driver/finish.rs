//! Finish, the backward pass: ∂W, complete run by run, and what each run of classes adds to ∂X.

use core::ops::Range;
use std::sync::{Mutex, PoisonError};

use faer::{MatMut, MatRef};
use ndarray::{ArrayView2, ArrayViewMut2, Axis, Slice};

use crate::error::{Argument, Error};
use crate::evaluation::ClassBlock;
use crate::numerics::{
    Element, OrderFree, binary_exponent, parallel, powers_of_two, scale_by_power, vectorized,
};
use crate::scratch::Pieces;

use super::Learns;
use super::close::{Closed, Term};
use super::features::Batch;
use super::lane::Lane;
use super::open::Opened;
use super::plan::Plan;
use super::smoothing::{self, Smoothing};
use super::two_targets;
use super::weights::{Block, Weights, project, scale_row};

/// The backward pass: what it reads, and the sums of ∂X that it adds to.
pub(super) struct WayBack<'a, 'o, A> {
    pub(super) batch: &'a Batch<'o, A>,
    pub(super) opened: &'a Opened<'o, A>,
    pub(super) rows: &'a [Closed],
    /// Coefficients are multiplied by 2^this on their way through the product.
    pub(super) boost: i32,
    /// What smoothed labels take from ∂ℓ/∂z of every class, ε/C, where that is of rank one; 0 otherwise.
    pub(super) share: f64,
    /// What that makes of ∂W of every class, times 2^boost; empty without it.
    pub(super) uniform: Vec<f64>,
    /// One for each tile.
    pub(super) totals: Vec<Mutex<OrderFree<'a>>>,
}

impl<A: Element> WayBack<'_, '_, A> {
    /// The gradients of all classes: ∂W, and ∂L/∂b unless that is empty.
    pub(super) fn all(
        &self,
        weights: Weights<'_, A>,
        lanes: &mut [Lane<'_, A>],
        grad_weights: &mut [A],
        grad_constants: &mut [A],
    ) {
        let (plan, share) = (&self.batch.plan, &self.batch.share);
        let mut of_sample = Vec::new();
        if !share.is_whole() {
            of_sample = vec![A::zero(); plan.own_columns().len() * plan.dim];
        }
        let mut rows = Pieces::over(if share.is_whole() {
            &mut *grad_weights
        } else {
            &mut of_sample
        });
        let mut constants = Pieces::over(grad_constants);
        let tasks = plan.runs().map(|blocks| {
            let rows = rows.take(plan.columns_of(&blocks).len() * plan.dim);
            let constants = constants_of(plan, &blocks, &mut constants);
            Run::new(plan, blocks, rows, constants)
        });
        parallel::deal(lanes, tasks, |lane, mut run| {
            run.finish(self, weights, lane);
        });
        if !share.is_whole() {
            grad_weights.fill(A::zero());
            for (rows, own) in share.pieces(&plan.own_columns()) {
                let [rows, own] = [rows, own].map(|all| all.start * plan.dim..all.end * plan.dim);
                grad_weights[rows].copy_from_slice(&of_sample[own]);
            }
        }
    }

    /// The same, as many runs at a time as there are lanes. `update` is handed each run, with its weights, in the order of the
    /// classes.
    pub(super) fn stream(
        &self,
        mut rows: ArrayViewMut2<'_, A>,
        lanes: &mut [Lane<'_, A>],
        grad_constants: &mut [A],
        update: &mut dyn FnMut(ClassBlock<'_, A>),
    ) {
        let plan = &self.batch.plan;
        let mut constants = Pieces::over(grad_constants);
        let runs: Vec<_> = plan.runs().collect();
        for runs in runs.chunks(lanes.len()) {
            let tasks = runs
                .iter()
                .zip(&mut *lanes)
                .map(|(blocks, lane)| (blocks, lane, constants_of(plan, blocks, &mut constants)));
            let weights = self.batch.weights(rows.view());
            parallel::for_each(tasks.collect(), |(blocks, lane, constants)| {
                let memory = core::mem::take(&mut lane.run);
                Run::new(plan, blocks.clone(), &mut *memory, constants).finish(self, weights, lane);
                lane.run = memory;
            });
            for (blocks, lane) in runs.iter().zip(&*lanes) {
                let columns = plan.columns_of(blocks);
                let shape = (columns.len(), plan.dim);
                let gradient = &lane.run[..shape.0 * shape.1];
                let gradient = ArrayView2::from_shape(shape, gradient).expect("the run's length");
                for (classes, own) in self.batch.share.pieces(&columns) {
                    update(ClassBlock {
                        weights: rows.slice_axis_mut(Axis(0), Slice::from(classes.clone())),
                        gradient: gradient.slice_axis(Axis(0), Slice::from(own)),
                        classes,
                    });
                }
            }
        }
    }

    /// Does all runs, keeps nothing, and finds the first class whose gradient is no number.
    pub(super) fn rehearse(
        &self,
        weights: Weights<'_, A>,
        lanes: &mut [Lane<'_, A>],
    ) -> Result<(), Error> {
        let plan = &self.batch.plan;
        let with_constants = self.batch.head.learns == Learns::Constants;
        let found = Mutex::new(Vec::new());
        parallel::deal(lanes, plan.runs(), |lane, blocks| {
            let columns = plan.columns_of(&blocks);
            let first = columns.start / plan.group;
            let classes = columns.len() / plan.group;
            let mut rows = vec![A::zero(); columns.len() * plan.dim];
            let mut constants = vec![A::zero(); if with_constants { classes } else { 0 }];
            Run::new(plan, blocks, &mut rows, &mut constants).finish(self, weights, lane);
            let bad = |entries: &[A]| entries.iter().position(|entry| !entry.is_finite());
            let share = &self.batch.share;
            let row = bad(&rows).map(|entry| share.row_of_all(columns.start + entry / plan.dim));
            let class = bad(&constants).map(|entry| share.class((first + entry) * plan.group));
            let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
            found.extend(row.map(|row| (row, Argument::ClassWeights)));
            found.extend(class.map(|class| (class, Argument::Bias)));
        });
        let found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
        match found.into_iter().min_by_key(|&(row, _)| row) {
            None => Ok(()),
            Some((row, argument)) => Err(Error::overflow("gradient", argument, row)),
        }
    }

    /// Makes the lane ready for exponentials relative to `shifts`, and for weights in another unit.
    fn weigh(&self, lane: &mut Lane<'_, A>, tile: &Range<usize>, shifts: &[A], unit: i32) {
        if lane.shifts == *shifts && lane.unit == unit {
            return;
        }
        self.gather(lane, tile);
        lane.shifts.clear();
        lane.shifts.extend_from_slice(shifts);
        lane.unit = unit;
        let (batch, rows) = (self.batch, &self.rows[tile.clone()]);
        let by_entry = batch.smoothing() == Smoothing::Entries;
        let uniform = batch.head.uniform_share(batch.plan.columns);
        lane.scales.clear();
        lane.factors.clear();
        lane.shares.clear();
        for ((row, &shift), coefficient) in rows
            .iter()
            .zip(shifts)
            .zip(&batch.coefficients[tile.clone()])
        {
            let mut share = row.share(shift);
            if by_entry {
                // The entries are ∂ℓ/∂z already, but for what focal modulation makes of it, which may be less than the element
                // type holds. A share that underflows is nothing beside the uniform term.
                let unmodulated = if share == 0.0 { 0.0 } else { share / row.focus };
                lane.shares.push([unmodulated, uniform].map(A::narrow));
                share = row.focus;
            }
            // Where a bound has underflowed, what it is a bound of may not be infinite.
            let scale = scale_by_power(share, unit - row.exponent).min(f64::MAX);
            lane.scales.push(scale);
            lane.factors.push(share * coefficient);
        }
        let (features, factors) = (batch.rows(tile), &lane.factors);
        let weighted = &mut *lane.weighted;
        vectorized(
            #[inline(always)]
            || weigh_rows(features, factors, self.boost, weighted),
        );
    }

    /// Computes the exponentials of a tile a second time.
    fn again(&self, lane: &mut Lane<'_, A>, tile: &Range<usize>, block: &Block<'_, A>) {
        let size = tile.len() * block.columns.len();
        let products = &mut lane.tile[..size];
        self.batch.products(tile, block, products, |_, _| ());
        for (row, near) in self.batch.nearest.of_columns(&block.columns) {
            if tile.contains(&row) {
                let start = (row - tile.start) * block.columns.len();
                products[start + near.column - block.columns.start] = A::neg_infinity();
            }
        }
        let tile = self.batch.tile(tile, block, products);
        let (shifts, shares) = (&lane.shifts, &lane.shares);
        let again = &mut lane.again[..size];
        vectorized(
            #[inline(always)]
            || {
                if tile.smoothed {
                    tile.smooth(shifts, shares, again);
                } else {
                    tile.again(shifts, again);
                }
            },
        );
    }

    /// Makes entries of the products that are kept where labels are smoothed entry by entry. They go where the products of
    /// the forward pass have been.
    fn smooth(
        &self,
        lane: &mut Lane<'_, A>,
        tile: &Range<usize>,
        block: &Block<'_, A>,
        kept: &[A],
    ) {
        let tile = self.batch.tile(tile, block, kept);
        let (shifts, shares) = (&lane.shifts, &lane.shares);
        let out = &mut lane.tile[..kept.len()];
        vectorized(
            #[inline(always)]
            || tile.smooth(shifts, shares, out),
        );
    }

    /// Adds what a tile has gathered to its sums of ∂X.
    fn gather(&self, lane: &mut Lane<'_, A>, tile: &Range<usize>) {
        if !core::mem::take(&mut lane.gathers) {
            return;
        }
        let plan = &self.batch.plan;
        let (scales, gathered) = (&lane.scales, &lane.gathered[..tile.len() * plan.dim]);
        let totals = &self.totals[tile.start / plan.tile_rows];
        let mut totals = totals.lock().unwrap_or_else(PoisonError::into_inner);
        vectorized(
            #[inline(always)]
            || totals.add(scales, gathered),
        );
    }
}

/// A run of blocks, and where the gradients of its classes go.
struct Run<'a, A> {
    blocks: Range<usize>,
    first: usize,
    /// ∂W of the run.
    weights: &'a mut [A],
    /// ∂L/∂b of the run; empty if it is not wanted.
    constants: &'a mut [A],
    /// What that is summed in, column by column.
    sums: Vec<f64>,
}

impl<'a, A: Element> Run<'a, A> {
    fn new(
        plan: &Plan,
        blocks: Range<usize>,
        weights: &'a mut [A],
        constants: &'a mut [A],
    ) -> Self {
        Self {
            first: plan.block(blocks.start).start,
            blocks,
            weights,
            sums: vec![0.0; constants.len() * plan.group],
            constants,
        }
    }

    /// All blocks, for all tiles of rows.
    fn finish(
        &mut self,
        back: &WayBack<'_, '_, A>,
        weights: Weights<'_, A>,
        lane: &mut Lane<'_, A>,
    ) {
        let (plan, opened) = (&back.batch.plan, back.opened);
        if plan.rows == 0 {
            self.weights.fill(A::zero());
        }
        let mut buffers = core::mem::take(&mut lane.buffers);
        for tile in plan.tiles() {
            lane.shifts.clear();
            for index in self.blocks.clone() {
                let columns = plan.block(index);
                let rescaled = opened.rescaled[index - plan.blocks().start];
                let own = plan.own_columns().start;
                let factors = &opened.factors[columns.start - own..columns.end - own];
                buffers.set_columns(back.batch.head, &back.batch.share, &columns);
                let block = weights.block(columns, factors, rescaled, &mut buffers);
                let first = (block.columns.start - self.first) * plan.dim;
                let entries = first..first + block.rows.len();
                self.products(back, lane, &tile, (index, &block));
                if plan.ends_group(&tile) && plan.sums_in_groups() {
                    let wide = &mut lane.wide[entries.clone()];
                    widen(plan, &tile, &mut self.weights[entries], wide);
                }
                if tile.end == plan.rows {
                    // While the block is in the cache.
                    self.leave(back, weights, &block);
                }
            }
            back.gather(lane, &tile);
        }
        lane.buffers = buffers;
        let groups = self.sums.chunks_exact(plan.group);
        for (entry, sums) in self.constants.iter_mut().zip(groups) {
            *entry = A::narrow(sums.iter().sum());
        }
    }

    /// The products of a tile and a block.
    fn products(
        &mut self,
        back: &WayBack<'_, '_, A>,
        lane: &mut Lane<'_, A>,
        tile: &Range<usize>,
        (index, block): (usize, &Block<'_, A>),
    ) {
        let (opened, plan) = (back.opened, &back.batch.plan);
        let (height, width, dim) = (tile.len(), block.columns.len(), plan.dim);
        let column = block.columns.start - plan.own_columns().start;
        let index = index - plan.blocks().start;
        let shifts = &opened.shifts[index * plan.rows..][tile.clone()];
        back.weigh(lane, tile, shifts, block.unit);
        let size = height * width;
        let entries = if plan.keeps {
            let kept = &opened.kept[plan.rows * column + tile.start * width..][..size];
            if back.batch.smoothing() == Smoothing::Entries {
                back.smooth(lane, tile, block, kept);
                &lane.tile[..size]
            } else {
                kept
            }
        } else {
            back.again(lane, tile, block);
            &lane.again[..size]
        };
        let exponentials = MatRef::from_row_major_slice(entries, height, width);
        let first = block.columns.start - self.first;
        let out = &mut self.weights[first * dim..(first + width) * dim];
        A::product(
            MatMut::from_row_major_slice_mut(out, width, dim),
            !plan.begins_group(tile),
            exponentials.transpose(),
            MatRef::from_row_major_slice(&lane.weighted[..height * dim], height, dim),
        );
        let gathered = &mut lane.gathered[..height * dim];
        A::product(
            MatMut::from_row_major_slice_mut(gathered, height, dim),
            lane.gathers,
            exponentials,
            MatRef::from_row_major_slice(block.rows, width, dim),
        );
        lane.gathers = true;
        if !self.sums.is_empty() {
            let (sums, factors) = (&mut self.sums[first..first + width], &lane.factors);
            vectorized(
                #[inline(always)]
                || sum_rows(entries, factors, sums),
            );
        }
        if plan.is_slender() {
            back.gather(lane, tile);
        }
    }

    /// Takes the gradients of a block through the normalisation, and adds the targets.
    fn leave(&mut self, back: &WayBack<'_, '_, A>, weights: Weights<'_, A>, block: &Block<'_, A>) {
        let (batch, columns) = (back.batch, &block.columns);
        let (plan, first) = (&batch.plan, columns.start - self.first);
        let out = &mut self.weights[first * plan.dim..][..block.rows.len()];
        vectorized(
            #[inline(always)]
            || {
                smoothing::add_to_classes(back, out, block);
                two_targets::add_to_classes(back, out, block);
            },
        );
        let power = if block.scaled { 0 } else { -back.boost };
        vectorized(
            #[inline(always)]
            || {
                if weights.normalised {
                    project(out, block, power);
                } else {
                    scale_row(out, power);
                }
            },
        );
        if block.scaled {
            // The boost and the power of the row at once: one after the other might underflow on the way.
            for (column, row) in columns.clone().zip(out.chunks_exact_mut(plan.dim)) {
                scale_row(row, -back.boost - weights.power(column));
            }
        }
        let targets = batch.targets_among(columns);
        back.add_targets(out, columns, targets);
        let own = first..first + columns.len();
        // Sums that are not wanted have no such entries.
        let sums = self.sums.get_mut(own).unwrap_or_default();
        // Smoothed labels take the same from every class but a row's own.
        let share = back.share;
        let weights_of_rows = batch.coefficients.iter().zip(back.rows);
        let weight: f64 = weights_of_rows.map(|(c, row)| c * row.focus).sum();
        for (sum, factor) in sums.iter_mut().zip(block.factors) {
            if weights.normalised {
                *sum /= factor.widen();
            }
            if share != 0.0 {
                *sum -= share * weight;
            }
        }
        for &target in targets {
            let (row, which) = batch.row_of(target);
            let Term { pull, plain, .. } = back.rows[row].terms[which];
            let pull = pull - plain - share * back.rows[row].focus;
            if let Some(sum) = sums.get_mut(batch.targets[target].column - columns.start) {
                *sum -= batch.coefficients[row] * pull;
            }
        }
        vectorized(
            #[inline(always)]
            || back.add_nearest(weights, columns, out, sums),
        );
    }
}

impl<A: Element> WayBack<'_, '_, A> {
    fn add_targets(&self, out: &mut [A], columns: &Range<usize>, targets: &[usize]) {
        let (batch, dim) = (self.batch, self.batch.plan.dim);
        let column_of = |target: usize| batch.targets[target].column;
        let mut sum = vec![0.0_f64; dim];
        for targets in targets.chunk_by(|&a, &b| column_of(a) == column_of(b)) {
            let column = column_of(targets[0]) - columns.start;
            let out = &mut out[column * dim..(column + 1) * dim];
            for (sum, entry) in sum.iter_mut().zip(&*out) {
                *sum = entry.widen();
            }
            for &target in targets {
                let (row, which) = batch.row_of(target);
                let pull = batch.coefficients[row] * self.rows[row].terms[which].pull;
                let direction = &batch.by_weight[target * dim..(target + 1) * dim];
                for (sum, u) in sum.iter_mut().zip(direction) {
                    *sum -= pull * u.widen();
                }
            }
            for (entry, &sum) in out.iter_mut().zip(&sum) {
                *entry = A::narrow(sum);
            }
        }
    }
}

/// The next piece of `constants`, for the classes of a run; empty if they are not wanted.
fn constants_of<'a, A>(
    plan: &Plan,
    blocks: &Range<usize>,
    constants: &mut Pieces<'a, A>,
) -> &'a mut [A] {
    let wanted = !constants.is_empty();
    constants.take_if(wanted, plan.columns_of(blocks).len() / plan.group)
}

/// Ends a group of tiles: moves ∂W into `wide`, and back again if it is the last.
fn widen<A: Element>(plan: &Plan, tile: &Range<usize>, narrow: &mut [A], wide: &mut [f64]) {
    let (adds, last) = (plan.has_ended_groups(tile), tile.end == plan.rows);
    for (narrow, wide) in narrow.iter_mut().zip(wide) {
        *wide = narrow.widen() + if adds { *wide } else { 0.0 };
        if last {
            *narrow = A::narrow(*wide);
        }
    }
}

/// Features, each times its factor and 2^boost.
#[inline(always)]
fn weigh_rows<A: Element>(features: &[A], factors: &[f64], boost: i32, out: &mut [A]) {
    let dim = features.len() / factors.len();
    let rows = features.chunks_exact(dim).zip(out.chunks_exact_mut(dim));
    for ((feature, out), &factor) in rows.zip(factors) {
        // In two steps, of which the first is no longer than the second: the factor with its boost may leave the range of
        // `f64` where its product with a tiny feature does not.
        let exponent = if factor == 0.0 {
            0
        } else {
            binary_exponent(factor)
        };
        let [first, second] = powers_of_two(exponent + boost);
        let first = scale_by_power(factor, -exponent) * first;
        for (out, feature) in out.iter_mut().zip(feature) {
            *out = A::narrow(feature.widen() * first * second);
        }
    }
}

/// Adds `Σᵢ factorᵢ · exponentialsᵢ`, in `f64`.
#[inline(always)]
fn sum_rows<A: Element>(exponentials: &[A], factors: &[f64], sums: &mut [f64]) {
    let rows = exponentials.chunks_exact(sums.len());
    for (row, factor) in rows.zip(factors) {
        for (sum, exponential) in sums.iter_mut().zip(row) {
            *sum = factor.mul_add(exponential.widen(), *sum);
        }
    }
}
