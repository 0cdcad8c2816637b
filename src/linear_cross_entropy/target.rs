//! Each row's target: its angle, its logit, and the directions in which that logit grows.
//!
//! All in `f64`, and never through the cosine: near the poles a cosine knows its angle to half of its digits only. With
//! `δ = ‖x‖w − ‖w‖x` and `σ = ‖x‖w + ‖w‖x`, the angle is `2·atan2(‖δ‖, ‖σ‖)`, and the shorter of the two, freed of its
//! component along x, points along the tangent at x̂ towards ŵ. That unit tangent carries the gradient, so that no `1/sinθ`
//! is ever formed.

use ndarray::{ArrayView1, ArrayView2};
use pulp::{Arch, Simd, WithSimd};

use crate::error::{Argument, Error};
use crate::float::Float;
use crate::margin::{Angle, TargetLogit};
use crate::parallel;

use super::rows::{
    Norm, SAFE_SQUARE, binary_exponent, contiguous, dot, largest_magnitude, reduce, scale_by_power,
};
use super::scratch::Pieces;
use super::{Head, Layer};

/// What is known of one row's target before any other class has been looked at.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Target {
    /// The target's logit z_y, scale and margin included.
    pub(super) logit: f64,
    /// The target's logit without the margin.
    pub(super) plain_logit: f64,
    /// cosθ_y; 0 if either vector is zero.
    pub(super) cosine: f64,
    /// The largest absolute entry of ∂z_y/∂w_y.
    pub(super) steepest: f64,
}

/// Each row's target, and the derivatives of its logit; these are left out if there is no room for them.
pub(super) fn find_all<A: Float>(
    head: &Head<'_>,
    features: ArrayView2<'_, A>,
    weights: ArrayView2<'_, A>,
    labels: &[usize],
    by_feature: &mut [A],
    by_weight: &mut [A],
) -> Result<Vec<Target>, Error> {
    struct Task<'a, A> {
        first: usize,
        by_feature: &'a mut [A],
        by_weight: &'a mut [A],
        found: &'a mut [Target],
        error: &'a mut Option<Error>,
    }
    struct Find<'a, A>(
        &'a Head<'a>,
        ArrayView2<'a, A>,
        ArrayView2<'a, A>,
        &'a [usize],
        Task<'a, A>,
    );
    impl<A: Float> WithSimd for Find<'_, A> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) {
            let Self(head, features, weights, labels, task) = self;
            let dim = features.ncols();
            let mut buffers = Buffers::default();
            let room = if task.by_feature.is_empty() { 0 } else { dim };
            let mut by_feature = Pieces::over(task.by_feature);
            let mut by_weight = Pieces::over(task.by_weight);
            for (row, found) in (task.first..).zip(task.found) {
                let pair = Pair {
                    row,
                    class: labels[row],
                    feature: features.row(row),
                    weight: weights.row(labels[row]),
                    by_feature: by_feature.take(room),
                    by_weight: by_weight.take(room),
                };
                match target(head, pair, &mut buffers) {
                    Ok(target) => *found = target,
                    Err(error) => {
                        *task.error = Some(error);
                        return;
                    }
                }
            }
        }
    }

    let (rows, dim) = features.dim();
    let chunk = parallel::rows_per_task(rows, dim);
    let mut found = vec![Target::default(); rows];
    let mut errors = vec![None; rows.div_ceil(chunk)];
    let room = if by_feature.is_empty() { 0 } else { dim };
    let mut by_feature = Pieces::over(by_feature);
    let mut by_weight = Pieces::over(by_weight);
    let tasks = found
        .chunks_mut(chunk)
        .zip(&mut errors)
        .enumerate()
        .map(|(index, (found, error))| Task {
            first: index * chunk,
            by_feature: by_feature.take(found.len() * room),
            by_weight: by_weight.take(found.len() * room),
            found,
            error,
        })
        .collect();
    parallel::for_each(tasks, |task| {
        Arch::new().dispatch(Find(head, features, weights, labels, task));
    });
    match errors.into_iter().flatten().next() {
        None => Ok(found),
        Some(error) => Err(error),
    }
}

/// One feature and the weight of its class, and where the derivatives go.
struct Pair<'a, A> {
    row: usize,
    class: usize,
    feature: ArrayView1<'a, A>,
    weight: ArrayView1<'a, A>,
    /// ∂z_y/∂x.
    by_feature: &'a mut [A],
    /// ∂z_y/∂w_y.
    by_weight: &'a mut [A],
}

/// A derivative of z_y: `x·(row x) + w·(row w) + tangent·(unit tangent)`, rows scaled to norms in [1, 2).
#[derive(Clone, Copy, Debug, Default)]
struct Derivative {
    x: f64,
    w: f64,
    tangent: f64,
}

/// Working memory of [`target`], kept from row to row.
#[derive(Debug, Default)]
struct Buffers<A> {
    copies: [Vec<A>; 2],
    x: Vec<f64>,
    w: Vec<f64>,
    delta: Vec<f64>,
    sigma: Vec<f64>,
    entries: Vec<f64>,
}

/// The target of one row under `head`, whose rows the scan has found usable.
#[inline(always)]
fn target<A: Float>(
    head: &Head<'_>,
    pair: Pair<'_, A>,
    buffers: &mut Buffers<A>,
) -> Result<Target, Error> {
    let Buffers {
        copies: [x_copy, w_copy],
        x,
        w,
        delta,
        sigma,
        entries,
    } = buffers;
    let x_row = contiguous(pair.feature, x_copy);
    let w_row = contiguous(pair.weight, w_copy);
    let (x_norm, w_norm) = (Norm::of(x_row), Norm::of(w_row));
    let (x_power, w_power) = (x_norm.power(), w_norm.power());
    x_norm.scale_down(x_row, x);
    w_norm.scale_down(w_row, w);
    let (x_length, w_length) = (x_norm.normalised(), w_norm.normalised());

    let zero = x_norm.is_zero() || w_norm.is_zero();
    let plane = (!zero).then(|| Plane::of(x, x_length, w, w_length, delta, sigma));
    let cosine = plane.as_ref().map_or(0.0, |plane| plane.angle.cos());

    let (logit, plain_logit, by_x, by_w);
    match (&head.layer, &plane) {
        (Layer::Linear { bias }, _) => {
            logit = scale_by_power(dot(x, w), x_power + w_power)
                + bias.map_or(0.0, |bias| bias[pair.class]);
            plain_logit = logit;
            by_x = Derivative {
                w: scale_by_power(1.0, w_power),
                ..Derivative::default()
            };
            by_w = Derivative {
                x: scale_by_power(1.0, x_power),
                ..Derivative::default()
            };
        }
        // Only the modified softmax gets here, with x = 0: z = ŵ·x, and ∂z/∂w is proportional to x.
        (_, None) => {
            (logit, plain_logit) = (0.0, 0.0);
            by_x = Derivative {
                w: 1.0 / w_length,
                ..Derivative::default()
            };
            by_w = Derivative::default();
        }
        (layer, Some(plane)) => {
            let angle = plane.angle;
            let psi = head.margin.map_or_else(
                || TargetLogit::from_cosine_slope(angle.cos(), 1.0, angle),
                |margin| margin.target_logit(angle),
            );
            if !(psi.value().is_finite() && psi.angle_slope().is_finite()) {
                return Err(Error::MarginNotFinite {
                    row: pair.row,
                    angle: angle.radians(),
                });
            }
            // z = scale·ψ(θ), where the scale is ‖x‖ if the features keep their norm; ∂θ/∂x = −u/‖x‖, and of ‖x‖/‖x‖ nothing is
            // formed, for 1/‖x‖ may be infinite.
            let slope = psi.angle_slope();
            let (scale, across, radial, w_slope) = match layer {
                Layer::Cosine { scale } => (
                    *scale,
                    scale * scale_by_power(1.0 / x_length, -x_power),
                    0.0,
                    scale * slope * scale_by_power(1.0 / w_length, -w_power),
                ),
                _ => (
                    x_norm.value(),
                    1.0,
                    psi.value() / x_length,
                    scale_by_power(x_length * slope * (1.0 / w_length), x_power - w_power),
                ),
            };
            logit = scale * psi.value();
            plain_logit = scale * angle.cos();
            by_x = Derivative {
                x: radial,
                tangent: -across * slope,
                ..Derivative::default()
            };
            by_w = Derivative {
                tangent: -w_slope,
                ..Derivative::default()
            };
        }
    }

    let (mut x_steepest, mut w_steepest) = (0.0, 0.0);
    if !pair.by_feature.is_empty() {
        let (shorter, (at_x, at_w)): (&[f64], _) = match (&head.layer, &plane) {
            (Layer::Linear { .. }, _) | (_, None) => (x, Default::default()),
            (_, Some(plane)) => {
                let shorter = if plane.acute { delta } else { sigma };
                (shorter, plane.tangents(x, w, shorter))
            }
        };
        let vectors = [x, w, shorter];
        x_steepest = write(by_x, vectors, (at_x, x), entries, pair.by_feature);
        w_steepest = write(by_w, vectors, (at_w, w), entries, pair.by_weight);
    }
    for (steepest, argument, row) in [
        (x_steepest, Argument::Features, pair.row),
        (w_steepest, Argument::ClassWeights, pair.class),
    ] {
        if !A::narrow(steepest).is_finite() {
            return Err(Error::Overflow {
                quantity: "gradient",
                argument,
                row,
            });
        }
    }
    if !A::narrow(logit).is_finite() {
        return Err(Error::Overflow {
            quantity: "logit",
            argument: Argument::Features,
            row: pair.row,
        });
    }
    Ok(Target {
        logit,
        plain_logit,
        cosine,
        steepest: w_steepest,
    })
}

/// A unit tangent, as `shorter·v − radial·(the row it is a tangent at)`, v being the shorter of δ and σ.
#[derive(Clone, Copy, Debug, Default)]
struct Tangent {
    shorter: f64,
    radial: f64,
}

/// The plane of x and w, and how δ and σ lie in it.
struct Plane {
    angle: Angle,
    /// Whether δ is the shorter of the two.
    acute: bool,
    /// The length of the shorter, as [`length`] has left it.
    shorter_length: f64,
}

impl Plane {
    #[inline(always)]
    fn of(
        x: &[f64],
        x_length: f64,
        w: &[f64],
        w_length: f64,
        delta: &mut Vec<f64>,
        sigma: &mut Vec<f64>,
    ) -> Self {
        delta.resize(x.len(), 0.0);
        sigma.resize(x.len(), 0.0);
        for (((delta, sigma), &x), &w) in delta.iter_mut().zip(&mut *sigma).zip(x).zip(w) {
            *delta = difference_of_products(x_length, w, w_length, x);
            *sigma = difference_of_products(x_length, w, -w_length, x);
        }
        let ((chord, longer_chord), (sum, longer_sum)) = (length(delta), length(sigma));
        let acute = chord <= sum;
        Self {
            angle: Angle::from_chords(chord, sum),
            acute,
            shorter_length: if acute { longer_chord } else { longer_sum },
        }
    }

    /// The unit tangents at x and at w, each towards the other, from the shorter of δ and σ.
    #[inline(always)]
    fn tangents(&self, x: &[f64], w: &[f64], shorter: &[f64]) -> (Tangent, Tangent) {
        // δ leads from x̂ to ŵ, so it is −δ that leads from ŵ to x̂; σ leads to the other from either.
        let back = if self.acute { -1.0 } else { 1.0 };
        (
            Tangent::at(x, shorter, 1.0, self.shorter_length),
            Tangent::at(w, shorter, back, self.shorter_length),
        )
    }
}

/// The length of a vector, and the length that it is left with: if its square is near the end of the range, the vector is
/// brought to about 1 by a power of two, which does not turn it.
#[inline(always)]
fn length(vector: &mut [f64]) -> (f64, f64) {
    let square = dot(vector, vector);
    if square >= SAFE_SQUARE {
        return (square.sqrt(), square.sqrt());
    }
    let largest = largest_magnitude(vector);
    if largest == 0.0 {
        return (0.0, 0.0);
    }
    let power = binary_exponent(largest);
    for entry in &mut *vector {
        *entry = scale_by_power(*entry, -power);
    }
    let longer = dot(vector, vector).sqrt();
    (scale_by_power(longer, power), longer)
}

impl Tangent {
    /// The part of `sign·shorter` that is orthogonal to `row`, made a unit vector.
    ///
    /// What is left after the projection may be nothing but its rounding: then the rows are parallel to the last bit, no
    /// tangent is better than any other, and their mean, zero, is taken.
    #[inline(always)]
    fn at(row: &[f64], shorter: &[f64], sign: f64, shorter_length: f64) -> Self {
        let square = dot(row, row);
        let first = sign * dot(shorter, row) / square;
        let (left, once) = project(row, shorter, sign, first);
        // What the rounding of the first projection has left along the row is removed by a second.
        let radial = first + left / square;
        let (_, twice) = project(row, shorter, sign, radial);
        let length = twice.sqrt();
        if length <= 4.0 * f64::EPSILON * shorter_length || twice <= 0.25 * once {
            Self::default()
        } else {
            Self {
                shorter: sign / length,
                radial: radial / length,
            }
        }
    }
}

/// `t = sign·shorter − radial·row`, as `t·row` and `t·t`.
#[inline(always)]
fn project(row: &[f64], shorter: &[f64], sign: f64, radial: f64) -> (f64, f64) {
    const LANES: usize = 8;
    let mut along = [0.0_f64; LANES];
    let mut squares = [0.0_f64; LANES];
    let (row_chunks, row_rest) = row.as_chunks::<LANES>();
    let (chunks, rest) = shorter.as_chunks::<LANES>();
    for (r, v) in row_chunks.iter().zip(chunks) {
        for k in 0..LANES {
            let t = radial.mul_add(-r[k], sign * v[k]);
            along[k] = t.mul_add(r[k], along[k]);
            squares[k] = t.mul_add(t, squares[k]);
        }
    }
    let add = |a, b| a + b;
    let (mut along, mut square) = (reduce(along, add), reduce(squares, add));
    for (&r, &v) in row_rest.iter().zip(rest) {
        let t = radial.mul_add(-r, sign * v);
        along = t.mul_add(r, along);
        square = t.mul_add(t, square);
    }
    (along, square)
}

/// Writes a derivative, and returns its largest absolute entry.
#[inline(always)]
fn write<A: Float>(
    derivative: Derivative,
    [x, w, shorter]: [&[f64]; 3],
    (tangent, tangent_row): (Tangent, &[f64]),
    entries: &mut Vec<f64>,
    out: &mut [A],
) -> f64 {
    let mut along_shorter = derivative.tangent * tangent.shorter;
    let mut along_row = derivative.tangent * tangent.radial;
    // Short rows that are nearly parallel: 1/‖x‖ times 1/‖shorter‖ overflows, while the derivative need not.
    let mut outside = 1.0;
    if !(along_shorter.is_finite() && along_row.is_finite()) {
        (along_shorter, along_row) = (tangent.shorter, tangent.radial);
        // Parallel rows have no tangent, however steep the logit is along it.
        let parallel = tangent.shorter == 0.0;
        outside = if parallel { 0.0 } else { derivative.tangent };
    }
    entries.resize(x.len(), 0.0);
    let rows = x.iter().zip(w).zip(shorter).zip(tangent_row);
    for (entry, (((&x, &w), &v), &r)) in entries.iter_mut().zip(rows) {
        let across = outside * (along_shorter * v - along_row * r);
        *entry = across + derivative.x * x + derivative.w * w;
    }
    for (out, &entry) in out.iter_mut().zip(&*entries) {
        *out = A::narrow(entry);
    }
    largest_magnitude(entries)
}

/// `a·b − c·d` to the last digit: Kahan's, with the rounding error of the second product recovered.
#[inline(always)]
fn difference_of_products(a: f64, b: f64, c: f64, d: f64) -> f64 {
    let product = c * d;
    let error = c.mul_add(-d, product);
    a.mul_add(b, -product) + error
}
