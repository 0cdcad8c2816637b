//! Close: what the segments have left behind becomes each row's loss, and what makes gradients of its exponentials.

use crate::numerics::Element;
use crate::numerics::{binary_exponent, softplus};
use crate::scratch::RowSum;

use super::features::Batch;
use super::nearest::Near;
use super::smoothing::Uniform;
use super::{Layer, Link};

/// What one of a row's targets makes of its loss, a term of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Term {
    /// −∂ℓ/∂z_y; for the softmax 1 − p_y, as the sum of the other classes' probabilities.
    pub(super) pull: f64,
    /// ∂ℓ/∂z of the target's logit without the margin, which it has in the term of the row's other target.
    pub(super) plain: f64,
    /// `weight · exp(shift − log_sum)` makes ∂ℓ/∂z of what is kept of an entry. For the softmax that is exp(z − shift), and the
    /// weight is how much the term counts. For the other links it is the derivative but for its weight, and shift and log-sum
    /// are 0.
    weight: f64,
    log_sum: [f64; 2],
}

/// A row, once every class has been seen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Closed {
    /// ℓ.
    pub(super) loss: f64,
    /// Of each target.
    pub(super) terms: [Term; 2],
    /// Σ_{j≠y} ∂ℓ/∂z_j; for the softmax 1 − p_y as well.
    pub(super) push: f64,
    /// The logit of the first target and the largest of another class, as no margin has changed them, with the rounding of their
    /// products.
    pub(super) own: f64,
    pub(super) largest_other: f64,
    /// 2^this bounds what the other classes add to ∂ℓ/∂(scaled feature).
    pub(super) exponent: i32,
    /// Σ_{j≠y} ∂ℓ/∂z_j z_j without the constants, over the negatives whose logits are changed.
    pub(super) mean: f64,
    /// F′: what focal modulation multiplies the derivatives by, the mean of it over the terms.
    pub(super) focus: f64,
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

/// A loss with its uniform term. If labels are smoothed, only rounding takes it below 0, where focal modulation has no power of it.
/// What is no finite number is still to be refused, and stays what it is.
fn smoothed(loss: f64, uniform: f64, smoothing: f64) -> f64 {
    let sum = loss + uniform;
    if smoothing > 0.0 && sum < 0.0 && sum.is_finite() {
        0.0
    } else {
        sum
    }
}

/// A term of a loss; nothing without a weight, be it infinite.
fn weighed(weight: f64, term: f64) -> f64 {
    if weight == 0.0 { 0.0 } else { weight * term }
}

/// Σ exp z of some classes, as total · exp(shift).
#[derive(Clone, Copy, Debug)]
struct Sum {
    total: f64,
    shift: f64,
}

impl Sum {
    fn of<A: Element>(segments: impl Iterator<Item = RowSum<A>> + Clone) -> Self {
        let seen = segments.filter(|sum| sum.total > 0.0);
        let shift = seen
            .clone()
            .fold(f64::NEG_INFINITY, |shift, sum| shift.max(sum.shift.widen()));
        let total = seen
            .map(|sum| match sum.shift.widen() {
                own if own == shift => sum.total,
                own => sum.total * (own - shift).exp(),
            })
            .sum();
        Self { total, shift }
    }

    /// With what the exponentials of the nearest negatives have grown by.
    fn with_nearest(self, nearest: &[Near]) -> Self {
        let logits = nearest.iter().map(Near::logit);
        let shift = logits.fold(self.shift, f64::max);
        if nearest.is_empty() || shift == f64::NEG_INFINITY {
            return self;
        }
        let plain = if self.shift == shift {
            self.total
        } else {
            self.total * (self.shift - shift).exp()
        };
        let total = nearest
            .iter()
            .fold(plain, |sum, near| sum + near.growth(shift));
        Self { total, shift }
    }

    /// With the class of one more logit.
    fn and(self, logit: f64) -> Self {
        let shift = self.shift.max(logit);
        let total = self.total * (self.shift - shift).exp() + (logit - shift).exp();
        Self { total, shift }
    }
}

impl Term {
    const NONE: Self = Self {
        pull: 0.0,
        plain: 0.0,
        weight: 0.0,
        log_sum: [0.0; 2],
    };

    /// The softmax's, and its loss, from the other classes and the target's logit.
    fn softmax(others: Sum, target: f64) -> (f64, Self) {
        let Sum { total, shift } = others;
        if shift == f64::NEG_INFINITY {
            // No class but the target: it is certain, and no other has a share.
            return (0.0, Self::of(0.0, 1.0, [0.0, f64::INFINITY]));
        }
        // With D = ln Σ_{j≠y} exp z_j − z_y: ℓ = softplus(D) and 1 − p_y = logistic(D), without cancellation in either.
        let gap = total.ln() + (shift - target);
        let (loss, pull) = softplus(gap);
        // Not z_y + ℓ: where logits are huge, that would lose what is left of their differences.
        let above = total.ln() + (-gap.abs()).exp().ln_1p() + (-gap).max(0.0);
        (loss, Self::of(pull, 1.0, [shift, above]))
    }

    fn of(pull: f64, weight: f64, log_sum: [f64; 2]) -> Self {
        Self {
            pull,
            plain: 0.0,
            weight,
            log_sum,
        }
    }

    /// The factor that makes ∂ℓ/∂z of an entry that was kept relative to `shift`.
    fn share(&self, shift: f64) -> f64 {
        let [largest, above] = self.log_sum;
        let log_share = shift - largest - above;
        self.weight * log_share.min(LARGEST_LOG_SHARE).exp()
    }
}

impl Closed {
    /// From the segments of one row, in their order, and the sums over all classes that smoothed labels need.
    pub(super) fn new<A: Element>(
        batch: &Batch<'_, A>,
        row: usize,
        segments: impl Iterator<Item = RowSum<A>> + Clone,
        sums: (&[f64], f64),
    ) -> Self {
        let own = [0, 1].map(|which| -> f64 {
            let targets = segments.clone().map(|sum| sum.targets[which].widen());
            targets.sum()
        });
        let two = batch.targets_of(row).count() == 2;
        let nearest = batch.nearest.of_row(row);
        let largest = segments.clone().fold(f64::NEG_INFINITY, |largest, sum| {
            largest.max(sum.largest.widen())
        });
        let mut closed = Self {
            loss: 0.0,
            terms: [Term::NONE; 2],
            push: 0.0,
            own: own[0],
            largest_other: if two { largest.max(own[1]) } else { largest },
            exponent: 0,
            mean: 0.0,
            focus: 0.0,
        };
        let (mut bound, mut mean) = (0.0, 0.0);
        for (which, (index, share)) in batch.targets_of(row).enumerate() {
            let mut others = Sum::of(segments.clone()).with_nearest(nearest);
            if two {
                others = others.and(own[1 - which]);
            }
            let (loss, push, mut term) =
                Self::term(batch, index, others, own[which], segments.clone());
            let uniform = Uniform::of(batch, index, segments.clone(), sums);
            term.pull += uniform.pull;
            let loss = smoothed(loss, uniform.loss, batch.head.smoothing);
            let (loss, focus) = focal(batch.head.focal, loss);
            let focus = share * focus;
            closed.loss += weighed(share, loss);
            closed.push += focus * push;
            closed.focus += focus;
            term.pull *= focus;
            term.weight *= focus;
            bound += uniform.bound * focus;
            mean += uniform.mean * focus;
            closed.terms[which] = term;
        }
        if two {
            bound += closed.meet(batch, row, own);
        }
        let uniform = batch.head.uniform_share(batch.plan.columns);
        for near in nearest {
            let share = closed.share(near.logit()) - uniform * closed.focus;
            bound += share.abs() * near.steepness.abs();
            closed.mean += share * near.value;
        }
        closed.bound(segments, batch.targets[row].negative_slope, bound);
        closed.mean -= mean;
        closed
    }

    /// One of the targets, `own` its logit without the margin: its loss, Σ_{j≠y} ∂ℓ/∂z_j, and the rest.
    fn term<A: Element>(
        batch: &Batch<'_, A>,
        index: usize,
        others: Sum,
        own: f64,
        segments: impl Iterator<Item = RowSum<A>>,
    ) -> (f64, f64, Term) {
        let (head, target) = (batch.head, &batch.targets[index]);
        match head.link {
            Link::Softmax => {
                // Where logits may have any size, the target's shares the rounding of the others. So classes of equal weights
                // have equal logits.
                let logit = match head.layer {
                    Layer::Cosine { .. } => target.logit,
                    Layer::Linear | Layer::UnitWeights => target.logit + (own - target.plain_logit),
                };
                let (loss, term) = Term::softmax(others, logit);
                (loss, term.pull, term)
            }
            Link::Logistic { positive, negative } => {
                let (others, push) = segments.fold((0.0, 0.0), |(total, push), sum| {
                    (total + sum.total, push + sum.total * sum.length)
                });
                let (loss, pull) = softplus(-target.logit);
                let loss = weighed(positive, loss) + weighed(negative, others);
                let term = Term::of(positive * pull, negative, [0.0; 2]);
                (loss, negative * push, term)
            }
            Link::Hinge { own, shared } => {
                // A segment keeps how many logits are above 0, and their mean.
                let (others, active) = segments.fold((0.0, 0.0), |(others, active), sum| {
                    (others + sum.total * sum.mean, active + sum.total)
                });
                let pull = shared.mul_add(active, own);
                let loss = others - own * target.logit;
                (loss, active, Term::of(pull, 1.0, [0.0; 2]))
            }
        }
    }

    /// Has each target take its part in the other's term, given their logits without margins. Returns the most that this adds to
    /// an entry of ∂ℓ/∂(scaled feature).
    fn meet<A: Element>(&mut self, batch: &Batch<'_, A>, row: usize, own: [f64; 2]) -> f64 {
        let uniform = batch.head.uniform_share(batch.plan.columns);
        let mut bound = 0.0;
        for (which, (index, _)) in batch.targets_of(row).enumerate() {
            let other = &self.terms[1 - which];
            // Its weight is that of the uniform term as well.
            let plain = other.share(own[which]) - other.weight * uniform;
            bound += plain.abs() * batch.largest_entry(index);
            self.terms[which].plain = plain;
        }
        bound
    }

    /// Bounds what the other classes add to ∂X, whose targets and smoothed labels have been, and finds their mean.
    fn bound<A: Element>(
        &mut self,
        segments: impl Iterator<Item = RowSum<A>>,
        slope: f64,
        mut bound: f64,
    ) {
        for sum in segments.filter(|sum| sum.total > 0.0) {
            let share = self.share(sum.shift) * sum.total;
            bound += share * sum.length * slope;
            self.mean += share * sum.mean;
        }
        self.exponent = if bound > 0.0 {
            (1 + binary_exponent(bound.min(f64::MAX))).min(LARGEST_EXPONENT)
        } else {
            NO_BOUND
        };
    }

    /// The factor that makes ∂ℓ/∂z of an entry that was kept relative to `shift`.
    pub(super) fn share<A: Element>(&self, shift: A) -> f64 {
        let shift = shift.widen();
        let [first, second] = &self.terms;
        let share = first.share(shift);
        if second.weight == 0.0 {
            share
        } else {
            share + second.share(shift)
        }
    }
}
