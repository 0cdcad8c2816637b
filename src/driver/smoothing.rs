//! Label smoothing: a share ε of the target's probability is spread evenly over all classes.
//!
//! `ℓ = ln Σ_j exp z_j − (1 − ε) z_y − (ε/C) Σ_j z_j`. Where columns are plain, the uniform term is of rank one: the sum of the
//! logits is a product with `v = Σ_j ŵ_j`, and no entry of N×C is touched. This needs all classes at once: parts of the classes
//! that are evaluated apart do not exchange v. Where a sub-center is chosen or a negative is changed, the logits are
//! summed in the forward pass, and the backward pass takes ε/C from each entry.

use crate::numerics::{Element, OrderFree, dot, largest_magnitude, scale_by_power};
use crate::scratch::RowSum;

use super::close::Closed;
use super::features::Batch;
use super::finish::WayBack;
use super::weights::{Block, Weights};

/// How the uniform term is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Smoothing {
    /// Labels are not smoothed.
    None,
    /// From the sum of all class weights.
    RankOne,
    /// Entry by entry.
    Entries,
}

impl<A: Element> Batch<'_, A> {
    pub(super) fn smoothing(&self) -> Smoothing {
        if self.head.smoothing == 0.0 {
            Smoothing::None
        } else if self.plan.group > 1 || self.plan.nearest > 0 || self.changes_negatives() {
            Smoothing::Entries
        } else {
            Smoothing::RankOne
        }
    }
}

/// What the uniform term makes of a row.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Uniform {
    /// What it adds to the loss, and to −∂ℓ/∂z_y.
    pub(super) loss: f64,
    pub(super) pull: f64,
    /// `(ε/C) Σ_{j≠y} z_j` without the constants, where a margin changes negatives.
    pub(super) mean: f64,
    /// The most that an entry of its ∂X may be, before that goes through the normalisation.
    pub(super) bound: f64,
}

impl Uniform {
    /// That of one of a row's targets, from v or from the segments, and from the sum of all constants.
    pub(super) fn of<A: Element>(
        batch: &Batch<'_, A>,
        index: usize,
        segments: impl Iterator<Item = RowSum<A>>,
        (direction, constants): (&[f64], f64),
    ) -> Self {
        let (target, epsilon) = (&batch.targets[index], batch.head.smoothing);
        let row = batch.row_of(index).0;
        let classes = (batch.plan.columns / batch.plan.group) as f64;
        let share = batch.head.uniform_share(batch.plan.columns);
        let (sum, mean, bound) = match batch.smoothing() {
            Smoothing::None => return Self::default(),
            Smoothing::RankOne => {
                let features = batch.rows(&(row..row + 1));
                let wide: Vec<f64> = features.iter().map(|x| x.widen()).collect();
                let margin = target.logit - target.plain_logit;
                let sum = dot(&wide, direction) + constants + margin;
                (sum, 0.0, share * bound(batch, direction, row))
            }
            Smoothing::Entries => {
                let plain: f64 = segments.map(|segment| segment.logits).sum();
                let nearest = batch.nearest.of_row(row).iter();
                let others = nearest.fold(plain, |sum, near| sum + near.added());
                let others_targets = batch.targets_of(row).filter(|&(other, _)| other != index);
                let plain = others_targets.map(|(other, _)| batch.targets[other].plain_value());
                let sum = plain.fold(others + constants + target.value, |sum, plain| sum + plain);
                // Weights are normalised wherever entries are not plain.
                let changed = if target.changed.is_some() {
                    share * others
                } else {
                    0.0
                };
                (sum, changed, epsilon * target.negative_slope)
            }
        };
        Self {
            loss: epsilon * (target.logit - sum / classes),
            pull: -epsilon * (1.0 - 1.0 / classes),
            mean,
            bound,
        }
    }
}

/// The most that an entry of v without a row's own classes may be.
fn bound<A: Element>(batch: &Batch<'_, A>, direction: &[f64], row: usize) -> f64 {
    let targets = batch.targets_of(row);
    let own = targets.map(|(target, _)| batch.largest_entry(target));
    own.fold(largest_magnitude(direction), |sum, own| sum + own)
}

/// What the uniform term adds to ∂X, to begin its sums with: `−(ε/C)(v − ŵ_y)`.
pub(super) fn begin<A: Element>(
    batch: &Batch<'_, A>,
    direction: &[f64],
    weights: Weights<'_, A>,
    rows: &[Closed],
    totals: &mut [f64],
) {
    if batch.smoothing() != Smoothing::RankOne {
        return;
    }
    let share = batch.head.uniform_share(batch.plan.columns);
    let mut others = vec![0.0; batch.plan.dim];
    for (i, totals) in totals.chunks_exact_mut(batch.plan.dim).enumerate() {
        others.copy_from_slice(direction);
        for (target, _) in batch.targets_of(i) {
            weights.subtract(batch.targets[target].column, &mut others);
        }
        let factor = scale_by_power(-share * rows[i].focus, -rows[i].exponent);
        OrderFree::over(totals, &mut []).add(&[factor], &others);
    }
}

/// What it adds to ∂W of every class: `−(ε/C) Σᵢ rᵢ F′ᵢ x`, times 2^boost; empty if it is not of rank one.
pub(super) fn features<A: Element>(batch: &Batch<'_, A>, rows: &[Closed], boost: i32) -> Vec<f64> {
    if batch.smoothing() != Smoothing::RankOne {
        return Vec::new();
    }
    let share = -scale_by_power(batch.head.uniform_share(batch.plan.columns), boost);
    let mut sum = vec![0.0; batch.plan.dim];
    for (i, coefficient) in batch.coefficients.iter().enumerate() {
        let factor = share * coefficient * rows[i].focus;
        for (sum, x) in sum.iter_mut().zip(batch.rows(&(i..i + 1))) {
            *sum += factor * x.widen();
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
    let share = -back.share * boost;
    let normalised = batch.head.normalises_weights();
    let mut own: Vec<f64> = Vec::new();
    for (j, (out, factor)) in out.chunks_exact_mut(dim).zip(block.factors).enumerate() {
        let column = block.columns.start + j;
        let targets = batch.targets_among(&(column..column + 1));
        if !targets.is_empty() {
            own.clear();
            own.extend_from_slice(&back.uniform);
        }
        for &target in targets {
            let row = batch.row_of(target).0;
            let factor = share * batch.coefficients[row] * back.rows[row].focus;
            let features = batch.rows(&(row..row + 1));
            for (own, feature) in own.iter_mut().zip(features) {
                *own -= factor * feature.widen();
            }
        }
        let factor = if normalised { factor.widen() } else { 1.0 };
        let all = if targets.is_empty() {
            &back.uniform
        } else {
            &own
        };
        for (out, own) in out.iter_mut().zip(all) {
            *out = A::narrow(own.mul_add(factor, out.widen()));
        }
    }
}
