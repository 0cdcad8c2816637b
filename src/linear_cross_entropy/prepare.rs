//! Before the first product: norms and scaled features, and everything that may be wrong with the numbers.

use core::ops::Range;

use ndarray::ArrayView2;
use pulp::{Arch, Simd, WithSimd};

use crate::error::{Argument, Error};
use crate::float::Float;
use crate::parallel;

use super::blocks::Plan;
use super::rows::{Norm, contiguous, dot, extremes, powers_of_two, scale_by_power};
use super::scratch::Pieces;
use super::target::Target;
use super::{Head, Layer};

/// Writes s x̂, or x, and returns the norms.
pub(super) fn scale_features<A: Float>(
    head: &Head<'_>,
    features: ArrayView2<'_, A>,
    scaled: &mut [A],
) -> Result<Vec<Norm>, Error> {
    struct Scale<'a, A>(&'a Head<'a>, ArrayView2<'a, A>, &'a mut [A]);
    impl<A: Float> WithSimd for Scale<'_, A> {
        type Output = Result<Vec<Norm>, Error>;

        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> Self::Output {
            let Self(head, features, scaled) = self;
            let mut buffer = Vec::new();
            let mut norms = Vec::with_capacity(features.nrows());
            let out = scaled.chunks_exact_mut(features.ncols());
            for (row, (feature, scaled)) in features.outer_iter().zip(out).enumerate() {
                let feature = contiguous(feature, &mut buffer);
                let norm = Norm::of(feature).checked::<A>(
                    head.needs_feature_norms(),
                    Argument::Features,
                    row,
                )?;
                if let Layer::Cosine { scale } = head.layer {
                    let [first, second] = powers_of_two(-norm.power());
                    let factor = scale / norm.normalised();
                    for (scaled, feature) in scaled.iter_mut().zip(feature) {
                        *scaled = A::narrow(feature.widen() * first * second * factor);
                    }
                } else {
                    scaled.copy_from_slice(feature);
                }
                norms.push(norm);
            }
            Ok(norms)
        }
    }
    Arch::new().dispatch(Scale(head, features, scaled))
}

/// The longest and the shortest row of the class weights.
#[derive(Clone, Copy, Debug)]
pub(super) struct WeightNorms {
    pub(super) longest: f64,
    pub(super) shortest: f64,
    pub(super) shortest_row: usize,
}

impl WeightNorms {
    /// Those of no rows.
    const NONE: Self = Self {
        longest: 0.0,
        shortest: f64::INFINITY,
        shortest_row: 0,
    };

    /// Those of these rows and of `other`, which come after them.
    fn and(self, other: Self) -> Self {
        let (shortest, shortest_row) = if other.shortest < self.shortest {
            (other.shortest, other.shortest_row)
        } else {
            (self.shortest, self.shortest_row)
        };
        Self {
            longest: self.longest.max(other.longest),
            shortest,
            shortest_row,
        }
    }
}

/// Finds 1/‖w‖ of every class, and the first row that cannot be used.
pub(super) fn scan_weights<A: Float>(
    head: &Head<'_>,
    plan: &Plan,
    weights: ArrayView2<'_, A>,
    features: &[Norm],
    inverse_norms: &mut [A],
    rescaled: &mut [bool],
) -> Result<WeightNorms, Error> {
    struct Task<'a, A> {
        blocks: Range<usize>,
        inverse_norms: &'a mut [A],
        rescaled: &'a mut [bool],
        found: &'a mut Result<WeightNorms, Error>,
    }
    struct Scan<'a, A> {
        normalised: bool,
        longest_feature: f64,
        plan: &'a Plan,
        weights: ArrayView2<'a, A>,
        task: Task<'a, A>,
    }
    impl<A: Float> WithSimd for Scan<'_, A> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) {
            let task = self.task;
            let scan = BlockScan {
                normalised: self.normalised,
                longest_feature: self.longest_feature,
                weights: self.weights,
            };
            let mut buffers = ScanBuffers::default();
            let mut inverse_norms = Pieces::over(task.inverse_norms);
            let mut all = WeightNorms::NONE;
            for (block, rescaled) in task.blocks.zip(task.rescaled) {
                let classes = self.plan.block(block);
                let inverse_norms = inverse_norms.take(classes.len());
                match scan.block(classes, inverse_norms, &mut buffers) {
                    Ok((norms, powers)) => {
                        all = all.and(norms);
                        *rescaled = powers;
                    }
                    Err(error) => {
                        *task.found = Err(error);
                        return;
                    }
                }
            }
            *task.found = Ok(all);
        }
    }

    // Cosines are of features that are scaled to a norm, so only free norms can be too long for a product.
    let longest_feature = match head.layer {
        Layer::UnitWeights => longest(features),
        _ => 0.0,
    };
    let lanes = plan.lanes();
    let mut found = vec![Err(Error::NoClasses); lanes];
    let mut inverse_norms = Pieces::over(inverse_norms);
    let mut rescaled = Pieces::over(rescaled);
    let tasks = found
        .iter_mut()
        .enumerate()
        .map(|(lane, found)| {
            let blocks = plan.deal(lane, lanes);
            Task {
                inverse_norms: inverse_norms.take(plan.classes_of(&blocks).len()),
                rescaled: rescaled.take(blocks.len()),
                blocks,
                found,
            }
        })
        .collect();
    parallel::for_each(tasks, |task| {
        Arch::new().dispatch(Scan {
            normalised: head.normalises_weights(),
            longest_feature,
            plan,
            weights,
            task,
        });
    });
    found
        .into_iter()
        .try_fold(WeightNorms::NONE, |all, part| Ok(all.and(part?)))
}

/// How one block of class weights is scanned.
struct BlockScan<'a, A> {
    /// Whether the layer normalises the weights.
    normalised: bool,
    longest_feature: f64,
    weights: ArrayView2<'a, A>,
}

/// What [`BlockScan::block`] works in.
#[derive(Default)]
struct ScanBuffers<A> {
    squares: Vec<f64>,
    row: Vec<A>,
}

impl<A: Float> BlockScan<'_, A> {
    /// 1/‖w‖ of the classes as the products use them, their extremes, and whether the products use them rescaled.
    #[inline(always)]
    fn block(
        &self,
        classes: Range<usize>,
        inverse_norms: &mut [A],
        buffers: &mut ScanBuffers<A>,
    ) -> Result<(WeightNorms, bool), Error> {
        buffers.squares.clear();
        for class in classes.clone() {
            let row = contiguous(self.weights.row(class), &mut buffers.row);
            buffers.squares.push(dot(row, row));
        }
        let squares = &buffers.squares;
        let (smallest, largest) = extremes(squares);
        // Norms in the window are finite and need no rescaling; where the layer normalises, their squares lost nothing.
        let window = |power: i32| scale_by_power(1.0, 2 * power);
        let ordinary = (smallest >= window(-A::NORM_WINDOW) || !self.normalised)
            && largest < window(A::NORM_WINDOW)
            && largest.sqrt() * self.longest_feature <= product_limit::<A>();
        if !ordinary {
            return self.extreme_block(classes, inverse_norms, &mut buffers.row);
        }
        for (inverse, square) in inverse_norms.iter_mut().zip(squares) {
            *inverse = A::narrow(if self.normalised {
                1.0 / square.sqrt()
            } else {
                1.0
            });
        }
        let first = squares.iter().position(|&square| square == smallest);
        let norms = WeightNorms {
            longest: largest.sqrt(),
            shortest: smallest.sqrt(),
            shortest_row: classes.start + first.unwrap_or(0),
        };
        Ok((norms, false))
    }

    /// The same row by row, for blocks with rows whose norm may be anything.
    #[inline(always)]
    fn extreme_block(
        &self,
        classes: Range<usize>,
        inverse_norms: &mut [A],
        buffer: &mut Vec<A>,
    ) -> Result<(WeightNorms, bool), Error> {
        let limit = product_limit::<A>();
        let mut all = WeightNorms::NONE;
        let mut rescaled = false;
        let mut norms = Vec::with_capacity(classes.len());
        for class in classes {
            let row = contiguous(self.weights.row(class), buffer);
            let norm = Norm::of(row);
            let norm = norm.checked::<A>(self.normalised, Argument::ClassWeights, class)?;
            let value = norm.value();
            all = all.and(WeightNorms {
                longest: value,
                shortest: value,
                shortest_row: class,
            });
            rescaled |= self.normalised
                && (norm.power().abs() > A::NORM_WINDOW || value * self.longest_feature > limit);
            norms.push(norm);
        }
        for (inverse, norm) in inverse_norms.iter_mut().zip(norms) {
            *inverse = A::narrow(match (self.normalised, rescaled) {
                (false, _) => 1.0,
                (true, false) => 1.0 / norm.value(),
                // Of the rows as they are used, scaled by powers of two.
                (true, true) => 1.0 / norm.normalised(),
            });
        }
        Ok((all, rescaled))
    }
}

fn longest(norms: &[Norm]) -> f64 {
    norms
        .iter()
        .fold(0.0, |longest, norm| longest.max(norm.value()))
}

/// The most that a norm times a norm may be: below the largest number by more than the rounding of a sum.
fn product_limit<A: Float>() -> f64 {
    0.999 * A::max_value().widen()
}

/// Refuses rows whose logits might not be representable. Cosines are bounded; free norms are not.
pub(super) fn check_logits<A: Float>(
    head: &Head<'_>,
    features: &[Norm],
    weights: &WeightNorms,
) -> Result<(), Error> {
    let (length, bias) = match head.layer {
        Layer::Cosine { .. } => return Ok(()),
        // Blocks of longer weights are scaled to norms below 2.
        Layer::UnitWeights => (2.0, 0.0),
        Layer::Linear { bias } => (
            weights.longest,
            bias.unwrap_or_default()
                .iter()
                .fold(0.0_f64, |largest, bias| largest.max(bias.abs())),
        ),
    };
    // By Cauchy and Schwarz this bounds every partial sum of the product as well.
    let limit = product_limit::<A>();
    // An infinite norm times a zero one is NaN, and too long as well.
    let too_long = |norm: &Norm| {
        let largest = norm.value() * length + bias;
        largest.is_nan() || largest > limit
    };
    match features.iter().position(too_long) {
        None => Ok(()),
        Some(row) => Err(Error::Overflow {
            quantity: "logit",
            argument: Argument::Features,
            row,
        }),
    }
}

/// Refuses batches whose ∂W might not be representable; returns a bound of its rows, before they are divided by their norm.
pub(super) fn check_weight_gradient<A: Float>(
    head: &Head<'_>,
    coefficients: &[f64],
    features: &[Norm],
    weights: &WeightNorms,
    targets: &[Target],
) -> Result<f64, Error> {
    let mut bound = 0.0;
    let mut target_bound = 0.0;
    for ((coefficient, norm), target) in coefficients.iter().zip(features).zip(targets) {
        let length = match head.layer {
            Layer::Cosine { scale } => scale,
            _ => norm.value(),
        };
        bound += coefficient.abs() * length;
        target_bound += coefficient.abs() * target.steepest;
    }
    let divisor = if head.normalises_weights() {
        weights.shortest
    } else {
        1.0
    };
    // Each entry of ∂b is a sum of coefficients as well.
    let bias_bound: f64 = match head.layer {
        Layer::Linear { bias: Some(_) } => coefficients.iter().map(|c| c.abs()).sum(),
        _ => 0.0,
    };
    if (bound / divisor + target_bound).max(bias_bound) <= A::max_value().widen() {
        Ok(bound)
    } else {
        Err(Error::Overflow {
            quantity: "gradient",
            argument: Argument::ClassWeights,
            row: weights.shortest_row,
        })
    }
}
