//! Bounds, from lengths, of what may leave the range of the element type. A logit that may is refused. If a gradient may, all
//! are computed once without being written, which tells whether one does.

use crate::error::{Argument, Error};
use crate::numerics::{Element, scale_by_power};

use super::close::{Closed, LARGEST_EXPONENT};
use super::features::Batch;
use super::weights::{Scanned, product_limit};
use super::{Layer, Learns, Link};

/// Refuses rows whose logits might not be representable. Cosines are bounded; free norms are not.
pub(super) fn check_logits<A: Element>(
    batch: &Batch<'_, A>,
    weights: &Scanned,
) -> Result<(), Error> {
    let length = match batch.head.layer {
        Layer::Cosine { .. } if batch.head.constants.is_none() => return Ok(()),
        // Beside a constant, the bound of a scaled cosine does not count.
        Layer::Cosine { .. } => 0.0,
        // Blocks of longer weights are scaled to norms below 2.
        Layer::UnitWeights => 2.0,
        Layer::Linear => weights.longest,
    };
    let constants = batch.head.constants.unwrap_or_default();
    let constant = constants
        .iter()
        .fold(0.0_f64, |largest, c| largest.max(c.abs()));
    // By Cauchy and Schwarz this bounds every partial sum of the product as well.
    let limit = product_limit::<A>();
    // An infinite norm times a zero one is NaN, and too long as well.
    let too_long = |norm: &f64| {
        let largest = norm * length + constant;
        largest.is_nan() || largest > limit
    };
    match batch.norms.iter().position(too_long) {
        None => Ok(()),
        Some(row) => Err(Error::overflow("logit", Argument::Features, row)),
    }
}

/// The most that the derivatives of the loss by all logits of a row can come to.
fn pull<A: Element>(batch: &Batch<'_, A>, row: usize) -> f64 {
    let share = match batch.head.link {
        Link::Softmax => 1.0 + batch.head.smoothing,
        Link::Logistic { positive, negative } => positive.max(negative),
        Link::Hinge { own, shared } => {
            let classes = batch.plan.columns / batch.plan.group;
            shared.mul_add(classes as f64, own).max(1.0)
        }
    };
    // F′ is at most 1 + γ.
    share * (1.0 + batch.head.focal) * batch.coefficients[row].abs()
}

/// The most that a row of ∂W can be before it is divided by its norm, without the targets.
pub(super) fn class_row<A: Element>(batch: &Batch<'_, A>) -> f64 {
    let norms = batch.norms.iter().zip(&batch.targets);
    let bounds = norms.enumerate().map(|(row, (&norm, target))| {
        let length = match batch.head.layer {
            Layer::Cosine { scale } => scale,
            _ => norm,
        };
        pull(batch, row) * length * target.negative_slope
    });
    bounds.sum()
}

/// The most that a row of ∂W, or an entry of ∂L/∂b, can be.
fn class_gradient<A: Element>(batch: &Batch<'_, A>, weights: &Scanned) -> f64 {
    let (mut targets, mut constants) = (0.0, 0.0);
    for (row, target) in batch.targets.iter().enumerate() {
        targets += pull(batch, row) * target.steepest[1];
        constants += pull(batch, row);
    }
    if batch.head.learns != Learns::Constants {
        constants = 0.0;
    }
    let divisor = if batch.head.normalises_weights() {
        weights.shortest
    } else {
        1.0
    };
    (class_row(batch) / divisor + targets).max(constants)
}

/// Whether all gradients can be said to be finite before they are known.
pub(super) fn surely_finite<A: Element>(
    batch: &Batch<'_, A>,
    rows: &[Closed],
    weights: &Scanned,
) -> bool {
    let limit = 0.99 * A::max_value().widen();
    let mut scale_bound = 0.0;
    for (i, row) in rows.iter().enumerate() {
        let target = &batch.targets[i];
        let others = scale_by_power(1.01 * batch.through(i), row.exponent);
        let whole = others + row.pull.abs() * target.steepest[0] + target.term[1].abs();
        let coefficient = batch.coefficients[i].abs();
        // Not a number is not finite.
        if row.exponent >= LARGEST_EXPONENT || !(whole <= limit && coefficient * whole <= limit) {
            return false;
        }
        if let Some(scale) = batch.head.learned_scale() {
            let others = scale_by_power(1.01, row.exponent) + row.mean.abs() / scale;
            let psi = target.value / scale;
            scale_bound += coefficient * (others + (row.pull * psi).abs());
        }
    }
    scale_bound <= limit && class_gradient(batch, weights) <= limit
}
