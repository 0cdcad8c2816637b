//! Label smoothing: a share ε of the target's probability is spread evenly over all classes.
//!
//! `ℓ = ln Σ_j exp z_j − (1 − ε) z_y − (ε/C) Σ_j z_j`. The uniform term is of rank one: the sum of the logits is a product with
//! `v = Σ_j ŵ_j`, and no entry of N×C is touched.
//!
//! It needs all classes at once: parts of the classes that are evaluated apart do not exchange v.

use crate::numerics::{Element, OrderFree, dot, largest_magnitude, scale_by_power};

use super::close::Closed;
use super::features::Batch;
use super::finish::WayBack;
use super::target::RowTarget;
use super::weights::{Block, Weights};

/// Adds the uniform term to the rows, given v.
pub(super) fn close<A: Element>(batch: &Batch<'_, A>, direction: &[f64], rows: &mut [Closed]) {
    let epsilon = batch.head.smoothing;
    if epsilon == 0.0 {
        return;
    }
    let classes = batch.plan.columns as f64;
    let constants: f64 = batch.head.constants.unwrap_or_default().iter().sum();
    let mut wide = Vec::new();
    for (i, row) in rows.iter_mut().enumerate() {
        let target = &batch.targets[i];
        wide.clear();
        wide.extend(batch.rows(&(i..i + 1)).iter().map(|x| x.widen()));
        let sum = dot(&wide, direction) + constants + (target.logit - target.plain_logit);
        row.loss += epsilon * (target.logit - sum / classes);
        row.pull -= epsilon * (1.0 - 1.0 / classes);
    }
}

/// The most that an entry of the uniform term's ∂X may be, before it goes through the normalisation.
pub(super) fn bound<A: Element>(
    batch: &Batch<'_, A>,
    direction: &[f64],
    target: &RowTarget<A>,
) -> f64 {
    let own = if batch.head.normalises_weights() {
        1.0
    } else {
        target.steepest[0]
    };
    batch.head.uniform_share(batch.plan.columns) * (largest_magnitude(direction) + own)
}

/// What the uniform term adds to ∂X, to begin its sums with: `−(ε/C)(v − ŵ_y)`.
pub(super) fn begin<A: Element>(
    batch: &Batch<'_, A>,
    direction: &[f64],
    weights: Weights<'_, A>,
    rows: &[Closed],
    totals: &mut [f64],
) {
    if batch.head.smoothing == 0.0 {
        return;
    }
    let share = batch.head.uniform_share(batch.plan.columns);
    let mut others = vec![0.0; batch.plan.dim];
    for (i, totals) in totals.chunks_exact_mut(batch.plan.dim).enumerate() {
        others.copy_from_slice(direction);
        weights.subtract(batch.targets[i].column, &mut others);
        let factor = scale_by_power(-share, -rows[i].exponent);
        OrderFree::over(totals, &mut []).add(&[factor], &others);
    }
}

/// What it adds to ∂W of every class: `−(ε/C) Σᵢ rᵢ x`, times 2^boost; empty without smoothing.
pub(super) fn features<A: Element>(batch: &Batch<'_, A>, boost: i32) -> Vec<f64> {
    if batch.head.smoothing == 0.0 {
        return Vec::new();
    }
    let share = -scale_by_power(batch.head.uniform_share(batch.plan.columns), boost);
    let mut sum = vec![0.0; batch.plan.dim];
    for (i, coefficient) in batch.coefficients.iter().enumerate() {
        for (sum, x) in sum.iter_mut().zip(batch.rows(&(i..i + 1))) {
            *sum += share * coefficient * x.widen();
        }
    }
    sum
}

/// Adds that to the ∂W of a block, for every class but a row's own.
#[inline(always)]
pub(super) fn add_to_classes<A: Element>(
    back: &WayBack<'_, '_, A>,
    out: &mut [A],
    block: &Block<'_, A>,
) {
    if back.uniform.is_empty() {
        return;
    }
    let (batch, dim) = (back.batch, back.batch.plan.dim);
    let boost = scale_by_power(1.0, back.boost);
    let share = -batch.head.uniform_share(batch.plan.columns) * boost;
    let normalised = batch.head.normalises_weights();
    let mut own: Vec<f64> = Vec::new();
    for (j, (out, factor)) in out.chunks_exact_mut(dim).zip(block.factors).enumerate() {
        let column = block.columns.start + j;
        let rows = batch.rows_of(&(column..column + 1));
        if !rows.is_empty() {
            own.clear();
            own.extend_from_slice(&back.uniform);
        }
        for &row in rows {
            let features = batch.rows(&(row..row + 1));
            for (own, feature) in own.iter_mut().zip(features) {
                *own -= share * batch.coefficients[row] * feature.widen();
            }
        }
        let factor = if normalised { factor.widen() } else { 1.0 };
        let all = if rows.is_empty() { &back.uniform } else { &own };
        for (out, own) in out.iter_mut().zip(all) {
            *out = A::narrow(own.mul_add(factor, out.widen()));
        }
    }
}
