//! Between the passes: the segments' sums become each row's loss, and the gradient of its features.

use pulp::{Arch, Simd, WithSimd};

use crate::error::{Argument, Error};
use crate::float::Float;
use crate::parallel;

use super::blocks::Plan;
use super::forward::{NEAR_ZERO, Sums};
use super::target::Target;

/// What is known of a row once every class has been seen.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Row {
    /// ℓ = ln(1 + Σ_{j≠y} exp(z_j − z_y)).
    pub(super) loss: f64,
    /// 1 − p_y, as the sum of the other classes' probabilities.
    pub(super) miss: f64,
    /// The largest logit of another class.
    pub(super) largest_other: f64,
    /// A shift that suits every segment.
    pub(super) shift: f64,
    /// ln Σ_j exp(z_j − shift), over all classes.
    pub(super) log_sum: f64,
}

/// The logarithm of a share is at most what a shift may lie above the logits that it is for, and a little for rounding.
const LARGEST_LOG_SHARE: f64 = NEAR_ZERO + 1.0;

/// The segments of row `row`, as indices into the slices of [`Sums`].
fn segments(plan: &Plan, row: usize) -> impl Iterator<Item = usize> + use<> {
    let tile = row / plan.tile_rows * plan.tile_rows;
    let height = plan.tile_rows.min(plan.rows - tile);
    let start = tile * plan.segments + (row - tile);
    (0..plan.segments).map(move |segment| start + segment * height)
}

impl Row {
    /// Combines the segments of one row, in their order.
    pub(super) fn combine<A: Float>(
        plan: &Plan,
        sums: &Sums<'_, A>,
        row: usize,
        target: &Target,
    ) -> Self {
        let mut largest_other = f64::NEG_INFINITY;
        let mut shift = f64::NEG_INFINITY;
        for k in segments(plan, row) {
            largest_other = largest_other.max(sums.maxima[k].widen());
            if sums.totals[k] > 0.0 {
                shift = shift.max(sums.shifts[k].widen());
            }
        }
        if shift == f64::NEG_INFINITY {
            // No class but the target: it is certain, and no other has a share.
            return Self {
                loss: 0.0,
                miss: 0.0,
                largest_other,
                shift: 0.0,
                log_sum: f64::INFINITY,
            };
        }
        let others: f64 = segments(plan, row)
            .filter(|&k| sums.totals[k] > 0.0)
            .map(|k| sums.totals[k] * (sums.shifts[k].widen() - shift).exp())
            .sum();
        // With D = ln Σ_{j≠y} exp z_j − z_y: ℓ = softplus(D) and 1 − p_y = logistic(D), without cancellation in either.
        let gap = others.ln() + (shift - target.logit);
        let ratio = (-gap.abs()).exp();
        let (loss, miss) = if gap <= 0.0 {
            (ratio.ln_1p(), ratio / (1.0 + ratio))
        } else {
            (gap + ratio.ln_1p(), 1.0 / (1.0 + ratio))
        };
        Self {
            loss,
            miss,
            largest_other,
            shift,
            // Not z_y + ℓ: where logits are huge, that would lose what is left of their differences.
            log_sum: others.ln() + ratio.ln_1p() + (-gap).max(0.0),
        }
    }

    /// What turns `exp(z − shift)` into a probability.
    ///
    /// Its logarithm is capped at [`LARGEST_LOG_SHARE`], beyond which only a block without any class but the target can
    /// lie: its shift is not related to the row's logits, and its exponentials are zero.
    pub(super) fn share(&self, shift: f64) -> f64 {
        (shift - self.shift - self.log_sum)
            .min(LARGEST_LOG_SHARE)
            .exp()
    }
}

/// How the features enter the logits, and so how the gradient comes back through them.
#[derive(Clone, Copy, Debug)]
pub(super) enum Normalisation {
    /// z = x·(…): as they are.
    None,
    /// z = scale·x̂·(…).
    Scaled { scale: f64 },
}

/// Everything about a row that its features' gradient is made of.
pub(super) struct FeatureGradient<'a, A> {
    pub(super) plan: &'a Plan,
    pub(super) sums: &'a Sums<'a, A>,
    pub(super) rows: &'a [Row],
    /// rᵢ/N or rᵢ.
    pub(super) coefficients: &'a [f64],
    /// 1/‖x‖.
    pub(super) inverse_norms: &'a [f64],
    pub(super) normalisation: Normalisation,
    /// The scaled features, N×d.
    pub(super) features: &'a [A],
    /// ∂z_y/∂x, N×d.
    pub(super) target_directions: &'a [A],
}

impl<A: Float> FeatureGradient<'_, A> {
    /// Writes `∂L/∂X` to `out`, and `Σ_{j≠y} p_j cosθ_j` of each row to `cosines`.
    pub(super) fn write(&self, out: &mut [A], cosines: &mut [f64]) -> Result<(), Error> {
        let dim = self.plan.dim;
        let chunk = parallel::rows_per_task(self.plan.rows, dim);
        let tasks = out
            .chunks_mut(chunk * dim)
            .zip(cosines.chunks_mut(chunk))
            .enumerate()
            .collect();
        parallel::for_each(tasks, |(index, (out, cosines))| {
            Arch::new().dispatch(Rows {
                whole: self,
                first: index * chunk,
                out,
                cosines,
            });
        });
        match out.iter().position(|entry| !entry.is_finite()) {
            None => Ok(()),
            Some(position) => Err(Error::Overflow {
                quantity: "gradient",
                argument: Argument::Features,
                row: position / dim,
            }),
        }
    }
}

struct Rows<'a, A> {
    whole: &'a FeatureGradient<'a, A>,
    first: usize,
    out: &'a mut [A],
    cosines: &'a mut [f64],
}

impl<A: Float> WithSimd for Rows<'_, A> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let whole = self.whole;
        let dim = whole.plan.dim;
        let mut sum = vec![0.0_f64; dim];
        for (offset, (out, cosine)) in self.out.chunks_exact_mut(dim).zip(self.cosines).enumerate()
        {
            let i = self.first + offset;
            // Σ_{j≠y} p_j ∂z_j/∂(scaled feature), over the segments in their order.
            sum.fill(0.0);
            for k in segments(whole.plan, i).filter(|&k| whole.sums.totals[k] > 0.0) {
                let share = whole.rows[i].share(whole.sums.shifts[k].widen());
                let segment = &whole.sums.accumulators[k * dim..(k + 1) * dim];
                for (sum, &entry) in sum.iter_mut().zip(segment) {
                    *sum = share.mul_add(entry.widen(), *sum);
                }
            }
            let feature = &whole.features[i * dim..(i + 1) * dim];
            let direction = &whole.target_directions[i * dim..(i + 1) * dim];
            let miss = whole.rows[i].miss;
            // Through the normalisation: s/‖x‖ · (I − x̂x̂ᵀ).
            let (through, radial) = match whole.normalisation {
                Normalisation::None => (1.0, 0.0),
                Normalisation::Scaled { scale } => {
                    let along: f64 = sum.iter().zip(feature).map(|(&g, &x)| g * x.widen()).sum();
                    *cosine = along / scale;
                    (scale * whole.inverse_norms[i], along / (scale * scale))
                }
            };
            for (((out, &g), &x), &u) in out.iter_mut().zip(&sum).zip(feature).zip(direction) {
                let others = through * radial.mul_add(-x.widen(), g);
                *out = A::narrow(whole.coefficients[i] * (others - miss * u.widen()));
            }
        }
    }
}
