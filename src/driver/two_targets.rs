//! Two targets of a row: `λ ℓ(y) + (1 − λ) ℓ(y′)`, each with its margin in its own term.
//!
//! Both are left out of the tiles, and stand in their own terms as any target does. In the term of the other each is a class
//! like all others. What this adds to the gradients is here: a few entries of N×C, given by their rows and columns.

use crate::numerics::{Element, OrderFree, scale_by_power};

use super::close::Closed;
use super::features::Batch;
use super::finish::WayBack;
use super::weights::{Block, Weights};

impl<A: Element> Batch<'_, A> {
    /// The most that an entry of a target's class weight may be, as the logits have it.
    pub(super) fn largest_entry(&self, target: usize) -> f64 {
        if self.head.normalises_weights() {
            1.0
        } else {
            self.targets[target].steepest[0]
        }
    }
}

/// What these entries add to ∂X, to begin its sums with.
pub(super) fn begin<A: Element>(
    batch: &Batch<'_, A>,
    weights: Weights<'_, A>,
    rows: &[Closed],
    totals: &mut [f64],
) {
    if batch.plan.targets == batch.plan.rows {
        return;
    }
    let (columns, mut weight) = (batch.plan.own_columns(), Vec::new());
    for (i, totals) in totals.chunks_exact_mut(batch.plan.dim).enumerate() {
        for ((target, _), term) in batch.targets_of(i).zip(&rows[i].terms) {
            let column = batch.targets[target].column;
            if !columns.contains(&column) {
                continue;
            }
            weight.clear();
            weight.resize(batch.plan.dim, 0.0);
            weights.subtract(column, &mut weight);
            let factor = scale_by_power(-term.plain, -rows[i].exponent);
            OrderFree::over(totals, &mut []).add(&[factor], &weight);
        }
    }
}

/// Adds them to the ∂W of a block, on its way out.
#[inline(always)]
pub(super) fn add_to_classes<A: Element>(
    back: &WayBack<'_, '_, A>,
    out: &mut [A],
    block: &Block<'_, A>,
) {
    let (batch, dim) = (back.batch, back.batch.plan.dim);
    if batch.plan.targets == batch.plan.rows {
        return;
    }
    let boost = scale_by_power(1.0, back.boost);
    let normalised = batch.head.normalises_weights();
    for &target in batch.targets_among(&block.columns) {
        let (row, which) = batch.row_of(target);
        let column = batch.targets[target].column - block.columns.start;
        let factor = if normalised {
            block.factors[column].widen()
        } else {
            1.0
        };
        let factor = back.rows[row].terms[which].plain * batch.coefficients[row] * boost * factor;
        let out = &mut out[column * dim..(column + 1) * dim];
        for (out, x) in out.iter_mut().zip(batch.rows(&(row..row + 1))) {
            *out = A::narrow(factor.mul_add(x.widen(), out.widen()));
        }
    }
}
