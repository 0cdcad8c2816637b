//! The negatives that are nearest to each row, whose logits are changed: an inter-topk penalty.
//!
//! Which they are is known once every class has been seen. Each lane leaves behind the k best of the segments that it has opened,
//! and of all these the k best count, of equals the first: they are the same whichever lane has opened what. The sums of the
//! forward pass have seen them as they were, so what changes is added when a row is closed. On the way back they are what targets
//! are: their exponentials are left out of the products, and their gradients go along the unit tangents.
//!
//! Parts of the classes that are evaluated apart exchange their k best. Then each finds the angles of those that are its own, and
//! they exchange these, as they have the targets.

use core::ops::Range;
use std::sync::PoisonError;

use ndarray::ArrayView2;

use crate::numerics::{Element, parallel, scale_by_power, vectorized};
use crate::scores::Best;

use super::features::Batch;
use super::finish::WayBack;
use super::open::Opened;
use super::plan::among;
use super::smoothing::Smoothing;
use super::target::Pair;
use super::weights::{Block, Weights};
use super::{Head, Layer};

/// A negative whose logit is changed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Near {
    pub(super) column: usize,
    /// Its logit before, with the rounding of its product, the constant included.
    plain: f64,
    /// What is added to it.
    added: f64,
    /// The changed logit without the constant.
    pub(super) value: f64,
    /// −dT/dθ.
    pub(super) steepness: f64,
}

impl Near {
    /// One that is not looked at here.
    const ELSEWHERE: Self = Self {
        column: usize::MAX,
        plain: 0.0,
        added: 0.0,
        value: 0.0,
        steepness: 0.0,
    };

    /// The changed logit.
    pub(super) fn logit(&self) -> f64 {
        self.plain + self.added
    }

    /// What is added to its logit.
    pub(super) fn added(&self) -> f64 {
        self.added
    }

    /// By how much its exponential has grown, relative to `shift`.
    pub(super) fn growth(&self, shift: f64) -> f64 {
        (self.logit() - shift).exp() * -(-self.added).exp_m1()
    }
}

/// Those of all rows.
#[derive(Debug, Default)]
pub(super) struct AllNear {
    k: usize,
    /// k for each row.
    found: Vec<Near>,
    /// The same, by their columns and then by their rows.
    by_column: Vec<usize>,
}

impl AllNear {
    pub(super) fn new(k: usize, found: Vec<Near>) -> Self {
        let mut by_column: Vec<usize> = (0..found.len()).collect();
        by_column.sort_by_key(|&index| (found[index].column, index));
        Self {
            k,
            found,
            by_column,
        }
    }

    /// Those of a row.
    pub(super) fn of_row(&self, row: usize) -> &[Near] {
        &self.found[row * self.k..(row + 1) * self.k]
    }

    /// Those in some columns, each with its row.
    pub(super) fn of_columns(
        &self,
        columns: &Range<usize>,
    ) -> impl Iterator<Item = (usize, &Near)> {
        among(&self.by_column, |index| self.found[index].column, columns)
            .iter()
            .map(|&index| (index / self.k, &self.found[index]))
    }
}

/// Looks for the nearest among the products of a tile, which it turns into logits without their constants.
#[inline(always)]
pub(super) fn seek<A: Element>(
    products: &mut [A],
    block: &Block<'_, A>,
    k: usize,
    found: &mut [(A, usize)],
) {
    let rows = products.chunks_exact_mut(block.columns.len());
    for (row, found) in rows.zip(found.chunks_exact_mut(k)) {
        for (z, &factor) in row.iter_mut().zip(block.factors) {
            *z *= factor;
        }
        Best::over(found).offer_all(block.columns.start, row);
    }
}

impl<A: Element> Batch<'_, A> {
    /// Finds out about the nearest of each row, k for each, as far as their class weights are among `weights`.
    pub(super) fn find_nearest(
        &self,
        weights: ArrayView2<'_, A>,
        nearest: &[(A, usize)],
    ) -> Vec<Near> {
        let k = self.plan.nearest;
        let mut all = vec![Near::ELSEWHERE; nearest.len()];
        let chunk = parallel::rows_per_task(self.plan.rows, k * self.plan.dim);
        let tasks = all
            .chunks_mut(chunk * k)
            .zip(nearest.chunks(chunk * k))
            .enumerate();
        parallel::for_each(tasks.collect(), |(task, (all, nearest))| {
            vectorized(
                #[inline(always)]
                || self.find_some(weights, task * chunk, nearest, all),
            );
        });
        all
    }

    /// The same for consecutive rows, from the first on.
    #[inline(always)]
    fn find_some(
        &self,
        weights: ArrayView2<'_, A>,
        first: usize,
        nearest: &[(A, usize)],
        out: &mut [Near],
    ) {
        let (plan, own) = (&self.plan, self.plan.own_columns());
        let (mut pair, mut set_for) = (Pair::default(), None);
        for (index, (near, &(z, column))) in out.iter_mut().zip(nearest).enumerate() {
            let constant = A::narrow(self.head.constant(column / plan.group));
            near.column = column;
            near.plain = z.widen() + constant.widen();
            if own.contains(&column) {
                let row = first + index / plan.nearest;
                if set_for != Some(row) {
                    pair.set_feature(self.features.row(row));
                    set_for = Some(row);
                }
                pair.set_weight(weights.row(column - own.start));
                near.ask(self.head, &pair);
            }
        }
    }
}

impl Near {
    /// What the penalty makes of the cosine of this pair.
    #[inline(always)]
    fn ask<A: Element>(&mut self, head: &Head<'_>, pair: &Pair<A>) {
        // There is an angle, since neither is zero.
        if let (Some(penalty), Layer::Cosine { scale }, Some(angle)) =
            (head.nearest, head.layer, pair.angle())
        {
            let changed = penalty.logit(angle);
            self.value = scale * changed.value();
            self.added = scale * (changed.value() - angle.cos());
            self.steepness = -changed.angle_slope();
        }
    }
}

impl<A: Element> Opened<'_, A> {
    /// Leaves the nearest out of the products to come, where exponentials are kept, or for smoothed labels products.
    pub(super) fn leave_out(&mut self, batch: &Batch<'_, A>) {
        let (plan, own) = (&batch.plan, batch.plan.own_columns());
        if !plan.keeps {
            return;
        }
        let left_out = match batch.smoothing() {
            Smoothing::Entries => A::neg_infinity(),
            Smoothing::None | Smoothing::RankOne => A::zero(),
        };
        for (row, near) in batch.nearest.of_columns(&own) {
            let columns = plan.block(plan.block_of(near.column));
            let block = plan.rows * (columns.start - own.start);
            let entry = row * columns.len() + near.column - columns.start;
            self.kept[block + entry] = left_out;
        }
    }
}

impl<A: Element> WayBack<'_, '_, A> {
    /// Adds what the nearest in a block make of ∂W to `out`, and what they make of ∂X to its sums. `sums`, those of ∂L/∂b, may
    /// be empty.
    #[inline(always)]
    pub(super) fn add_nearest(
        &self,
        weights: Weights<'_, A>,
        columns: &Range<usize>,
        out: &mut [A],
        sums: &mut [f64],
    ) {
        let (batch, dim) = (self.batch, self.batch.plan.dim);
        let mut all = batch.nearest.of_columns(columns).peekable();
        let (Some(_), Layer::Cosine { scale }) = (all.peek(), batch.head.layer) else {
            return;
        };
        let uniform = batch.head.uniform_share(batch.plan.columns);
        let (mut pair, mut wide) = (Pair::default(), vec![0.0; dim]);
        while let Some((row, near)) = all.next() {
            let column = near.column - columns.start;
            let share = self.rows[row].share(near.logit()) - uniform * self.rows[row].focus;
            let factor = batch.coefficients[row] * share;
            if let Some(sum) = sums.get_mut(column) {
                *sum += factor;
            }
            pair.set_feature(batch.features.row(row));
            pair.set_weight(weights.row(near.column));
            self.add_to_feature(row, share * near.steepness, &mut pair);
            let across = factor * scale * near.steepness * pair.inverse_weight();
            if let Some(tangent) = pair.unit_tangent(false) {
                for (sum, unit) in wide.iter_mut().zip(tangent) {
                    *sum += across * unit;
                }
            }
            // What the rows make of a column is rounded once.
            let is_last = |&(_, next): &(usize, &Near)| next.column != near.column;
            if all.peek().is_none_or(is_last) {
                let out = &mut out[column * dim..(column + 1) * dim];
                for (out, sum) in out.iter_mut().zip(&mut wide) {
                    *out = A::narrow(out.widen() + *sum);
                    *sum = 0.0;
                }
            }
        }
    }

    /// Adds to the sums of ∂X what a class makes of one row.
    #[inline(always)]
    fn add_to_feature(&self, row: usize, slope: f64, pair: &mut Pair<A>) {
        let plan = &self.batch.plan;
        let Some(tangent) = pair.unit_tangent(true) else {
            return;
        };
        let factor = scale_by_power(slope, -self.rows[row].exponent);
        let totals = &self.totals[row / plan.tile_rows];
        let mut totals = totals.lock().unwrap_or_else(PoisonError::into_inner);
        totals
            .row(row % plan.tile_rows, plan.dim)
            .add(&[factor], tangent);
    }
}
