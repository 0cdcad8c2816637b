//! Close: what the segments have left behind becomes each row's loss, and what makes gradients of its exponentials.

use crate::numerics::Element;
use crate::numerics::{binary_exponent, softplus};
use crate::scratch::RowSum;

use super::target::RowTarget;
use super::{Head, Layer, Link};

/// A row, once every class has been seen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Closed {
    /// ℓ.
    pub(super) loss: f64,
    /// −∂ℓ/∂z_y; for the softmax 1 − p_y, as the sum of the other classes' probabilities.
    pub(super) pull: f64,
    /// Σ_{j≠y} ∂ℓ/∂z_j; for the softmax 1 − p_y as well.
    pub(super) push: f64,
    /// The logit of the target and the largest of another class, as no margin has changed them, with the rounding of their
    /// products.
    pub(super) own: f64,
    pub(super) largest_other: f64,
    /// 2^this bounds what the other classes add to ∂ℓ/∂(scaled feature).
    pub(super) exponent: i32,
    /// Σ_{j≠y} p_j z_j without the constants, where a margin changes negatives.
    pub(super) mean: f64,
    /// `weight · exp(shift − log_sum)` makes ∂ℓ/∂z of what is kept of an entry. For the softmax that is exp(z − shift), and the
    /// weight is 1. For the logistic link it is the derivative but for its weight, and shift and log-sum are 0.
    weight: f64,
    log_sum: [f64; 2],
}

/// The most that the logarithm of a share may be. A shift lies above the log-sum by no more than rounding. Where there is no
/// class but the target, it is unrelated to the log-sum, but then all exponentials are 0.
const LARGEST_LOG_SHARE: f64 = 1.0;

/// The exponent of a bound that `f64` can hardly hold. It bounds nothing then, but to a factor of 4.
pub(super) const LARGEST_EXPONENT: i32 = 1022;

/// The exponent of a bound that is 0, or that has underflowed.
const NO_BOUND: i32 = -1000;

/// F = (1 − e^−ℓ)^γ ℓ, and its derivative.
fn focal(gamma: f64, loss: f64) -> (f64, f64) {
    if gamma == 0.0 {
        return (loss, 1.0);
    }
    let miss = -(-loss).exp_m1();
    let modulation = miss.powf(gamma);
    // p ℓ/(1 − p), which is 1 where ℓ is 0.
    let ratio = if miss == 0.0 {
        1.0
    } else {
        (-loss).exp() * loss / miss
    };
    (modulation * loss, modulation * gamma.mul_add(ratio, 1.0))
}

/// A term of a loss; nothing without a weight, be it infinite.
fn weighed(weight: f64, term: f64) -> f64 {
    if weight == 0.0 { 0.0 } else { weight * term }
}

impl Closed {
    /// From the segments of one row, in their order, and a bound of what smoothed labels add to its gradient.
    pub(super) fn new<A: Element>(
        head: &Head<'_>,
        segments: impl Iterator<Item = RowSum<A>> + Clone,
        target: &RowTarget<A>,
        uniform: f64,
    ) -> Self {
        let own: f64 = segments.clone().map(|sum| sum.target.widen()).sum();
        let mut row = match head.link {
            Link::Softmax => {
                // Where logits may have any size, the target's shares the rounding of the others. So classes of equal weights
                // have equal logits.
                let logit = match head.layer {
                    Layer::Cosine { .. } => target.logit,
                    Layer::Linear | Layer::UnitWeights => target.logit + (own - target.plain_logit),
                };
                Self::softmax(segments.clone(), logit)
            }
            Link::Logistic { positive, negative } => {
                Self::logistic(segments.clone(), target, positive, negative)
            }
        };
        let focus;
        (row.loss, focus) = focal(head.focal, row.loss);
        row.pull *= focus;
        row.push *= focus;
        row.weight *= focus;
        row.own = own;
        row.largest_other = segments.clone().fold(f64::NEG_INFINITY, |largest, sum| {
            largest.max(sum.largest.widen())
        });
        let mut bound = uniform;
        for sum in segments.filter(|sum| sum.total > 0.0) {
            let share = row.share(sum.shift) * sum.total;
            bound += share * sum.length * target.negative_slope;
            row.mean += share * sum.mean;
        }
        row.exponent = if bound > 0.0 {
            (1 + binary_exponent(bound.min(f64::MAX))).min(LARGEST_EXPONENT)
        } else {
            NO_BOUND
        };
        row
    }

    fn softmax<A: Element>(segments: impl Iterator<Item = RowSum<A>> + Clone, target: f64) -> Self {
        let seen = segments.filter(|sum| sum.total > 0.0);
        let shift = seen
            .clone()
            .fold(f64::NEG_INFINITY, |shift, sum| shift.max(sum.shift.widen()));
        if shift == f64::NEG_INFINITY {
            // No class but the target: it is certain, and no other has a share.
            return Self::of(0.0, 0.0, 1.0, [0.0, f64::INFINITY]);
        }
        let others: f64 = seen
            .map(|sum| match sum.shift.widen() {
                own if own == shift => sum.total,
                own => sum.total * (own - shift).exp(),
            })
            .sum();
        // With D = ln Σ_{j≠y} exp z_j − z_y: ℓ = softplus(D) and 1 − p_y = logistic(D), without cancellation in either.
        let gap = others.ln() + (shift - target);
        let (loss, pull) = softplus(gap);
        // Not z_y + ℓ: where logits are huge, that would lose what is left of their differences.
        let above = others.ln() + (-gap.abs()).exp().ln_1p() + (-gap).max(0.0);
        Self::of(loss, pull, 1.0, [shift, above])
    }

    fn logistic<A: Element>(
        segments: impl Iterator<Item = RowSum<A>>,
        target: &RowTarget<A>,
        positive: f64,
        negative: f64,
    ) -> Self {
        let (others, push) = segments.fold((0.0, 0.0), |(total, push), sum| {
            (total + sum.total, push + sum.total * sum.length)
        });
        let (loss, pull) = softplus(-target.logit);
        Self {
            push: negative * push,
            ..Self::of(
                weighed(positive, loss) + weighed(negative, others),
                positive * pull,
                negative,
                [0.0; 2],
            )
        }
    }

    fn of(loss: f64, pull: f64, weight: f64, log_sum: [f64; 2]) -> Self {
        Self {
            loss,
            pull,
            push: pull,
            own: 0.0,
            largest_other: f64::NEG_INFINITY,
            exponent: 0,
            mean: 0.0,
            weight,
            log_sum,
        }
    }

    /// The factor that makes ∂ℓ/∂z of an entry that was kept relative to `shift`.
    pub(super) fn share<A: Element>(&self, shift: A) -> f64 {
        let [largest, above] = self.log_sum;
        let log_share = shift.widen() - largest - above;
        self.weight * log_share.min(LARGEST_LOG_SHARE).exp()
    }
}
