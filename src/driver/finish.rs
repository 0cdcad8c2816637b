//! Finish, the backward pass: ∂W, complete run by run, and what each run of classes adds to ∂X.

use core::ops::Range;
use std::sync::{Mutex, PoisonError};

use faer::{MatMut, MatRef};
use ndarray::{ArrayView2, ArrayViewMut2, Axis, Slice};
use pulp::{Arch, Simd, WithSimd};

use crate::error::{Argument, Error};
use crate::evaluation::ClassBlock;
use crate::numerics::{
    Element, OrderFree, binary_exponent, parallel, powers_of_two, scale_by_power,
};
use crate::scratch::Pieces;

use super::close::Closed;
use super::entries::{Columns, Entries, Rows};
use super::features::Batch;
use super::lane::Lane;
use super::open::Opened;
use super::weights::{Block, Door, Weights, project, scale_row};

/// The backward pass: what it reads, and the sums of ∂X that it adds to.
pub(super) struct WayBack<'a, 'o, A> {
    pub(super) batch: &'a Batch<'o, A>,
    pub(super) opened: &'a Opened<'o, A>,
    pub(super) rows: &'a [Closed],
    /// Coefficients are multiplied by 2^this on their way through the product.
    pub(super) boost: i32,
    /// What smoothed labels take from every class, times 2^boost; empty without them.
    pub(super) uniform: Vec<f64>,
    /// The sum of all coefficients.
    pub(super) weight: f64,
    /// One for each tile; empty if ∂X is not wanted.
    pub(super) totals: Vec<Mutex<OrderFree<'a>>>,
}

/// Where the gradients of some classes go.
pub(super) struct ClassGradient<'a, A> {
    /// ∂W; empty if it is not wanted.
    pub(super) weights: &'a mut [A],
    /// ∂L/∂b; empty if it is not wanted.
    pub(super) constants: &'a mut [A],
}

impl<A: Element> WayBack<'_, '_, A> {
    /// The gradients of all classes.
    pub(super) fn all(
        &self,
        weights: Weights<'_, A>,
        lanes: &mut [Lane<'_, A>],
        out: ClassGradient<'_, A>,
    ) {
        let plan = &self.batch.plan;
        let wanted = !out.weights.is_empty();
        let mut rows = Pieces::over(out.weights);
        let with_constants = !out.constants.is_empty();
        let mut constants = Pieces::over(out.constants);
        let tasks = plan.runs().map(|run| {
            let columns = plan.columns_of(&run).len();
            let out = ClassGradient {
                weights: rows.take_if(wanted, columns * plan.dim),
                constants: constants.take_if(with_constants, columns / plan.group),
            };
            (run, out)
        });
        parallel::deal(lanes, tasks, |lane, (run, out)| {
            self.run(weights, lane, &run, out);
        });
    }

    /// The same, as many runs at a time as there are lanes, each handed to `update` in the order of the classes with the
    /// weights that it is the gradient of.
    pub(super) fn stream(
        &self,
        door: Door,
        lanes: &mut [Lane<'_, A>],
        constants: &mut [A],
        mut rows: ArrayViewMut2<'_, A>,
        update: &mut dyn FnMut(ClassBlock<'_, A>),
    ) {
        let plan = &self.batch.plan;
        let with_constants = !constants.is_empty();
        let mut constants = Pieces::over(constants);
        let runs: Vec<_> = plan.runs().collect();
        for runs in runs.chunks(lanes.len()) {
            let tasks: Vec<_> = runs
                .iter()
                .zip(&mut *lanes)
                .map(|(run, lane)| {
                    let classes = plan.columns_of(run).len() / plan.group;
                    (run, lane, constants.take_if(with_constants, classes))
                })
                .collect();
            let weights = door.over(rows.view());
            parallel::for_each(tasks, |(run, lane, constants)| {
                let memory = core::mem::take(&mut lane.run);
                let columns = plan.columns_of(run).len();
                let out = ClassGradient {
                    weights: &mut memory[..columns * plan.dim],
                    constants,
                };
                self.run(weights, lane, run, out);
                lane.run = memory;
            });
            for (run, lane) in runs.iter().zip(&*lanes) {
                let columns = plan.columns_of(run);
                let shape = (columns.len(), plan.dim);
                let gradient = &lane.run[..shape.0 * shape.1];
                update(ClassBlock {
                    weights: rows.slice_axis_mut(Axis(0), Slice::from(columns.clone())),
                    gradient: ArrayView2::from_shape(shape, gradient).expect("the run's length"),
                    classes: columns,
                });
            }
        }
    }

    /// Does all runs without an output for ∂W, and finds the first class whose gradient is no number.
    pub(super) fn rehearse(
        &self,
        weights: Weights<'_, A>,
        lanes: &mut [Lane<'_, A>],
        with_constants: bool,
    ) -> Result<(), Error> {
        let plan = &self.batch.plan;
        let first = Mutex::new(None::<(usize, Argument)>);
        parallel::deal(lanes, plan.runs(), |lane, run| {
            let columns = plan.columns_of(&run);
            let mut rows = vec![A::zero(); columns.len() * plan.dim];
            let classes = if with_constants {
                columns.len() / plan.group
            } else {
                0
            };
            let mut constants = vec![A::zero(); classes];
            let out = ClassGradient {
                weights: &mut rows,
                constants: &mut constants,
            };
            self.run(weights, lane, &run, out);
            let bad = |entries: &[A]| entries.iter().position(|entry| !entry.is_finite());
            let row =
                bad(&rows).map(|entry| (columns.start + entry / plan.dim, Argument::ClassWeights));
            let class =
                bad(&constants).map(|class| (columns.start / plan.group + class, Argument::Bias));
            let mut first = first.lock().unwrap_or_else(PoisonError::into_inner);
            for found in [row, class].into_iter().flatten() {
                if first.is_none_or(|(earlier, _)| found.0 < earlier) {
                    *first = Some(found);
                }
            }
        });
        match first.into_inner().unwrap_or_else(PoisonError::into_inner) {
            None => Ok(()),
            Some((row, argument)) => Err(Error::overflow("gradient", argument, row)),
        }
    }

    /// One run.
    fn run(
        &self,
        weights: Weights<'_, A>,
        lane: &mut Lane<'_, A>,
        run: &Range<usize>,
        out: ClassGradient<'_, A>,
    ) {
        let plan = &self.batch.plan;
        let columns = plan.columns_of(run);
        let mut sums = vec![
            0.0_f64;
            if out.constants.is_empty() {
                0
            } else {
                columns.len()
            }
        ];
        if plan.rows == 0 {
            out.weights.fill(A::zero());
        }
        let (mut first_of_group, mut first_group) = (true, true);
        for rows in plan.tiles() {
            lane.shifts.clear();
            let mut gathers = false;
            let last_of_group = plan.ends_group(&rows);
            for index in run.clone() {
                let here = plan.block(index);
                let (start, width) = (here.start - columns.start, here.len());
                let entries = start * plan.dim..(start + width) * plan.dim;
                let part = out.weights.get_mut(entries.clone()).unwrap_or_default();
                let sums = sums.get_mut(start..start + width).unwrap_or_default();
                BlockProducts {
                    back: self,
                    weights,
                    block: index,
                    tile: &rows,
                    columns: &here,
                    gathers: &mut gathers,
                }
                .run(lane, part, !first_of_group, sums);
                let last = rows.end == plan.rows;
                if last_of_group && plan.sums_in_groups() && !part.is_empty() {
                    widen(part, &mut lane.wide[entries], !first_group, last);
                }
                if plan.is_slender() {
                    self.gather(lane, &rows, gathers);
                    gathers = false;
                }
                if last {
                    // While the block is in the cache.
                    self.leave(weights, lane, index, part, sums);
                }
            }
            self.gather(lane, &rows, gathers);
            first_group &= !last_of_group;
            first_of_group = last_of_group;
        }
        let groups = sums.chunks_exact(plan.group);
        for (entry, sums) in out.constants.iter_mut().zip(groups) {
            *entry = A::narrow(sums.iter().sum());
        }
    }

    /// Adds what a tile has gathered to its sums of ∂X.
    fn gather(&self, lane: &mut Lane<'_, A>, tile: &Range<usize>, gathers: bool) {
        if gathers {
            let totals = &self.totals[tile.start / self.batch.plan.tile_rows];
            let dim = self.batch.plan.dim;
            let mut totals = totals.lock().unwrap_or_else(PoisonError::into_inner);
            Arch::new().dispatch(Gather {
                totals: &mut totals,
                scales: &lane.scales,
                gathered: &lane.gathered[..tile.len() * dim],
            });
        }
    }

    /// Takes ∂W of a block through the normalisation, and adds the targets.
    fn leave(
        &self,
        weights: Weights<'_, A>,
        lane: &mut Lane<'_, A>,
        index: usize,
        out: &mut [A],
        sums: &mut [f64],
    ) {
        let (batch, opened) = (self.batch, self.opened);
        let (plan, columns) = (&batch.plan, batch.plan.block(index));
        let own = plan.own_columns().start;
        let factors = &opened.factors[columns.start - own..columns.end - own];
        if batch.head.normalises_weights() {
            for (sum, factor) in sums.iter_mut().zip(factors) {
                *sum /= factor.widen();
            }
        }
        let targets = batch.rows_of(&columns);
        if !out.is_empty() {
            let rescaled = opened.rescaled[index - plan.blocks().start];
            self.add_uniform(out, factors, &columns);
            let block = weights.block(&columns, rescaled, &mut lane.buffers);
            Arch::new().dispatch(Leave {
                out: &mut *out,
                block,
                factors: weights.normalised().then_some(factors),
                dim: plan.dim,
                power: if rescaled { 0 } else { -self.boost },
            });
            if rescaled {
                // The boost and the power of the row at once: one after the other might underflow on the way.
                for (column, row) in columns.clone().zip(out.chunks_exact_mut(plan.dim)) {
                    let power = weights.power(column, &mut lane.buffers);
                    scale_row(row, -self.boost - power);
                }
            }
            self.add_targets(out, &columns, targets);
        }
        // Smoothed labels take the same from every class but a row's own.
        let share = batch.head.uniform_share(plan.columns);
        if share != 0.0 {
            for sum in &mut *sums {
                *sum -= share * self.weight;
            }
        }
        for &row in targets {
            if let Some(sum) = sums.get_mut(batch.targets[row].column - columns.start) {
                *sum -= batch.coefficients[row] * (self.rows[row].pull - share);
            }
        }
    }

    /// What smoothed labels take from every class but a row's own.
    fn add_uniform(&self, out: &mut [A], factors: &[A], columns: &Range<usize>) {
        if self.uniform.is_empty() {
            return;
        }
        let (batch, dim) = (self.batch, self.batch.plan.dim);
        let boost = scale_by_power(1.0, self.boost);
        let share = -batch.head.uniform_share(batch.plan.columns) * boost;
        let normalised = batch.head.normalises_weights();
        let mut own: Vec<f64> = Vec::new();
        for (j, (out, factor)) in out.chunks_exact_mut(dim).zip(factors).enumerate() {
            let column = columns.start + j;
            own.clear();
            own.extend_from_slice(&self.uniform);
            for &row in batch.rows_of(&(column..column + 1)) {
                let features = batch.rows(&(row..row + 1));
                for (own, feature) in own.iter_mut().zip(features) {
                    *own -= share * batch.coefficients[row] * feature.widen();
                }
            }
            let factor = if normalised { factor.widen() } else { 1.0 };
            for (out, own) in out.iter_mut().zip(&own) {
                *out = A::narrow(own.mul_add(factor, out.widen()));
            }
        }
    }

    fn add_targets(&self, out: &mut [A], columns: &Range<usize>, targets: &[usize]) {
        let (batch, dim) = (self.batch, self.batch.plan.dim);
        let column_of = |row: usize| batch.targets[row].column;
        let mut sum = vec![0.0_f64; dim];
        for rows in targets.chunk_by(|&a, &b| column_of(a) == column_of(b)) {
            let column = column_of(rows[0]) - columns.start;
            let out = &mut out[column * dim..(column + 1) * dim];
            for (sum, entry) in sum.iter_mut().zip(&*out) {
                *sum = entry.widen();
            }
            for &row in rows {
                let pull = batch.coefficients[row] * self.rows[row].pull;
                let direction = &batch.by_weight[row * dim..(row + 1) * dim];
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

/// Ends a group of tiles: moves `narrow` into `wide`, and back again if it is the last.
fn widen<A: Element>(narrow: &mut [A], wide: &mut [f64], adds: bool, last: bool) {
    for (narrow, wide) in narrow.iter_mut().zip(wide) {
        *wide = narrow.widen() + if adds { *wide } else { 0.0 };
        if last {
            *narrow = A::narrow(*wide);
        }
    }
}

/// The products of one tile by one block.
struct BlockProducts<'a, 'b, 'o, 'w, A> {
    back: &'a WayBack<'b, 'o, A>,
    weights: Weights<'w, A>,
    block: usize,
    tile: &'a Range<usize>,
    columns: &'a Range<usize>,
    /// Whether the lane has gathered something that is not yet in the sums.
    gathers: &'a mut bool,
}

impl<A: Element> BlockProducts<'_, '_, '_, '_, A> {
    fn run(&mut self, lane: &mut Lane<'_, A>, out: &mut [A], accumulate: bool, sums: &mut [f64]) {
        let (back, plan) = (self.back, self.back.batch.plan);
        let (batch, opened) = (back.batch, back.opened);
        let (height, width, dim) = (self.tile.len(), self.columns.len(), plan.dim);
        let (block, column) = (
            self.block - plan.blocks().start,
            self.columns.start - plan.own_columns().start,
        );
        let shifts = &opened.shifts[block * plan.rows..][self.tile.clone()];
        let mut buffers = core::mem::take(&mut lane.buffers);
        let rows = self
            .weights
            .block(self.columns, opened.rescaled[block], &mut buffers);
        self.turn(lane, shifts, rows.unit);
        let kept = if plan.keeps {
            let start = plan.rows * column + self.tile.start * width;
            &opened.kept[start..start + height * width]
        } else {
            self.again(lane, shifts, rows);
            &lane.again[..height * width]
        };
        let exponentials = MatRef::from_row_major_slice(kept, height, width);
        if !out.is_empty() {
            A::product(
                MatMut::from_row_major_slice_mut(out, width, dim),
                accumulate,
                exponentials.transpose(),
                MatRef::from_row_major_slice(&lane.weighted[..height * dim], height, dim),
            );
        }
        if !back.totals.is_empty() {
            A::product(
                MatMut::from_row_major_slice_mut(&mut lane.gathered[..height * dim], height, dim),
                *self.gathers,
                exponentials,
                MatRef::from_row_major_slice(rows.rows, width, dim),
            );
            *self.gathers = true;
        }
        if !sums.is_empty() {
            Arch::new().dispatch(SumRows {
                exponentials: kept,
                shares: &lane.shares,
                coefficients: &batch.coefficients[self.tile.clone()],
                sums,
            });
        }
        lane.buffers = buffers;
    }

    /// Computes the exponentials a second time.
    fn again(&self, lane: &mut Lane<'_, A>, shifts: &[A], block: Block<'_, A>) {
        let batch = self.back.batch;
        let first = batch.plan.own_columns().start;
        let own = self.columns.start - first..self.columns.end - first;
        lane.set_columns(batch.head, self.columns);
        let size = self.tile.len() * self.columns.len();
        let columns = Columns {
            factors: &self.back.opened.factors[own],
            constants: &lane.constants,
            lengths: &lane.lengths,
        };
        let products = &mut lane.tile[..size];
        batch.products(self.tile, self.columns, block.rows, &columns, products);
        Arch::new().dispatch(Entries {
            columns,
            link: batch.head.link,
            changed: batch.changed(self.tile),
            products,
            out: &mut lane.again[..size],
            rows: Rows::Again { shifts },
        });
    }

    /// Makes the lane ready for exponentials relative to `shifts`, and for weights in another unit.
    fn turn(&mut self, lane: &mut Lane<'_, A>, shifts: &[A], unit: i32) {
        if lane.shifts == *shifts && lane.unit == unit {
            return;
        }
        self.back.gather(lane, self.tile, *self.gathers);
        *self.gathers = false;
        lane.shifts.clear();
        lane.shifts.extend_from_slice(shifts);
        lane.unit = unit;
        let (batch, rows) = (self.back.batch, &self.back.rows[self.tile.clone()]);
        lane.shares.clear();
        let shares = rows
            .iter()
            .zip(shifts)
            .map(|(row, &shift)| row.share(shift));
        lane.shares.extend(shares);
        lane.scales.clear();
        // Where a bound has underflowed, what it is a bound of may not be infinite.
        let scales = rows
            .iter()
            .zip(&lane.shares)
            .map(|(row, &share)| scale_by_power(share, unit - row.exponent).min(f64::MAX));
        lane.scales.extend(scales);
        Arch::new().dispatch(Weigh {
            features: batch.rows(self.tile),
            shares: &lane.shares,
            coefficients: &batch.coefficients[self.tile.clone()],
            boost: self.back.boost,
            out: &mut *lane.weighted,
        });
    }
}

/// Features, each times what makes its exponentials a gradient.
struct Weigh<'a, A> {
    features: &'a [A],
    shares: &'a [f64],
    coefficients: &'a [f64],
    boost: i32,
    out: &'a mut [A],
}

impl<A: Element> WithSimd for Weigh<'_, A> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let dim = self.features.len() / self.shares.len();
        let factors = self.shares.iter().zip(self.coefficients);
        let rows = self
            .features
            .chunks_exact(dim)
            .zip(self.out.chunks_exact_mut(dim));
        for ((feature, out), (share, coefficient)) in rows.zip(factors) {
            let factor = share * coefficient;
            // In two steps, of which the first is no longer than the second: the factor with its boost may leave the range
            // of `f64` where its product with a tiny feature does not.
            let exponent = if factor == 0.0 {
                0
            } else {
                binary_exponent(factor)
            };
            let [first, second] = powers_of_two(exponent + self.boost);
            let first = scale_by_power(factor, -exponent) * first;
            for (out, feature) in out.iter_mut().zip(feature) {
                *out = A::narrow(feature.widen() * first * second);
            }
        }
    }
}

/// Adds rows to order-free sums.
struct Gather<'a, 's, A> {
    totals: &'a mut OrderFree<'s>,
    scales: &'a [f64],
    gathered: &'a [A],
}

impl<A: Element> WithSimd for Gather<'_, '_, A> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        self.totals.add(self.scales, self.gathered);
    }
}

/// `Σᵢ shareᵢ rᵢ · exponentialsᵢ`, in `f64`.
struct SumRows<'a, A> {
    exponentials: &'a [A],
    shares: &'a [f64],
    coefficients: &'a [f64],
    sums: &'a mut [f64],
}

impl<A: Element> WithSimd for SumRows<'_, A> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let rows = self.exponentials.chunks_exact(self.sums.len());
        let factors = self.shares.iter().zip(self.coefficients);
        for (row, (share, coefficient)) in rows.zip(factors) {
            let factor = share * coefficient;
            for (sum, exponential) in self.sums.iter_mut().zip(row) {
                *sum = factor.mul_add(exponential.widen(), *sum);
            }
        }
    }
}

/// Takes the boost back from a block, and goes through the normalisation, if there is one.
struct Leave<'a, A> {
    out: &'a mut [A],
    block: Block<'a, A>,
    /// 1/‖w‖.
    factors: Option<&'a [A]>,
    dim: usize,
    power: i32,
}

impl<A: Element> WithSimd for Leave<'_, A> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        match self.factors {
            Some(factors) => project(self.out, self.block.rows, factors, self.dim, self.power),
            None => scale_row(self.out, self.power),
        }
    }
}
