//! One row's target: its angle, its logit, and the directions in which that logit grows.
//!
//! All in `f64`, and never through the cosine: near the poles a cosine knows its angle to half of its digits only. With
//! `δ = ‖x‖w − ‖w‖x` and `σ = ‖x‖w + ‖w‖x`, the angle is `2·atan2(‖δ‖, ‖σ‖)`, and the shorter of the two, freed of its
//! component along x, points along the tangent at x̂ towards ŵ. That unit tangent carries the gradient, so that no `1/sinθ`
//! is ever formed. Below 1e-150 radians the square of the shorter one is no normal number: the tangent is then finite, but no
//! unit vector.

use ndarray::{ArrayView1, ArrayView2};

use crate::error::{Argument, Error};
use crate::margin::{Angle, Negatives, Target, TargetLogit};
use crate::numerics::{
    Element, Norm, contiguous, difference_of_products, dot, largest_magnitude, reduce,
    scale_by_power,
};

use super::entries::Changed;
use super::weights::product_limit;
use super::{Head, Layer};

/// What is known of one row's target before any other class has been looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowTarget<A> {
    /// The column that stands for the class: of its sub-centers the nearest, if it has some.
    pub(super) column: usize,
    /// The target's logit z_y, scale, margin and constant included.
    pub(super) logit: f64,
    /// The constant in it.
    pub(super) constant: f64,
    /// The target's logit without the margin.
    pub(super) plain_logit: f64,
    /// cosθ_y; 0 if either vector is zero.
    pub(super) cosine: f64,
    /// The largest absolute entries of ∂z_y/∂x and ∂z_y/∂w_y.
    pub(super) steepest: [f64; 2],
    /// What the margin adds to the row's loss, and its slope in ‖x‖.
    pub(super) term: [f64; 2],
    /// What the margin makes of the row's negatives, in units of the logits.
    pub(super) changed: Option<Changed<A>>,
    /// The most that the slope of that may be.
    pub(super) negative_slope: f64,
}

/// One feature and the weights of its class, and where the derivatives go.
pub(super) struct Pair<'a, A> {
    pub(super) row: usize,
    pub(super) class: usize,
    pub(super) feature: ArrayView1<'a, A>,
    /// The class's K rows, and the column of the first.
    pub(super) weights: ArrayView2<'a, A>,
    pub(super) first: usize,
    /// Where ∂z_y/∂x and ∂z_y/∂w_y go; empty if they are not wanted.
    pub(super) by_feature: &'a mut [A],
    pub(super) by_weight: &'a mut [A],
}

/// Working memory, kept from row to row.
#[derive(Debug, Default)]
pub(super) struct Buffers<A> {
    copies: [Vec<A>; 2],
    x: Vec<f64>,
    w: Vec<f64>,
    delta: Vec<f64>,
    sigma: Vec<f64>,
    entries: Vec<f64>,
}

/// A row scaled to a norm in [1, 2), and how.
struct Scaled<'a> {
    entries: &'a [f64],
    length: f64,
    power: i32,
}

impl<'a> Scaled<'a> {
    #[inline(always)]
    fn of<A: Element>(row: &[A], norm: Norm, out: &'a mut Vec<f64>) -> Self {
        norm.scale_down(row, out);
        Self {
            entries: out,
            length: norm.normalised(),
            power: norm.power(),
        }
    }

    /// 1/‖row‖, infinite if that is.
    fn inverse(&self) -> f64 {
        scale_by_power(1.0 / self.length, -self.power)
    }
}

/// A derivative of z_y: `x·(row x) + w·(row w) + tangent·(unit tangent)`, rows scaled to norms in [1, 2).
#[derive(Clone, Copy, Debug, Default)]
struct Derivative {
    x: f64,
    w: f64,
    tangent: f64,
}

/// A logit, and its derivatives by x and by w.
struct Logit {
    value: f64,
    plain: f64,
    by_x: Derivative,
    by_w: Derivative,
}

impl<A: Element> Pair<'_, A> {
    /// Which of the class's rows has the smallest angle with the feature; of equals the first.
    #[inline(always)]
    fn nearest(&self, buffers: &mut Buffers<A>) -> usize {
        let (mut best, mut nearest) = (0, f64::NEG_INFINITY);
        if self.weights.nrows() == 1 {
            return best;
        }
        let [x_copy, w_copy] = &mut buffers.copies;
        let x_row = contiguous(self.feature, x_copy);
        let x = Scaled::of(x_row, Norm::of(x_row), &mut buffers.x);
        for (k, weight) in self.weights.outer_iter().enumerate() {
            let weight = contiguous(weight, w_copy);
            let w = Scaled::of(weight, Norm::of(weight), &mut buffers.w);
            let plane = Plane::of(&x, &w, &mut buffers.delta, &mut buffers.sigma);
            if plane.angle.cos() > nearest {
                (best, nearest) = (k, plane.angle.cos());
            }
        }
        best
    }
}

impl<A: Element> RowTarget<A> {
    /// That of a row whose target is not looked at here.
    pub(super) const ELSEWHERE: Self = Self {
        column: usize::MAX,
        logit: 0.0,
        constant: 0.0,
        plain_logit: 0.0,
        cosine: 0.0,
        steepest: [0.0; 2],
        term: [0.0; 2],
        changed: None,
        negative_slope: 1.0,
    };

    /// The target of one row, whose feature is known to be usable. Of weights that are not, the scan says so.
    #[inline(always)]
    pub(super) fn find(
        head: &Head<'_>,
        pair: &mut Pair<'_, A>,
        buffers: &mut Buffers<A>,
    ) -> Result<Self, Error> {
        let best = pair.nearest(buffers);
        let Buffers {
            copies: [x_copy, w_copy],
            x,
            w,
            delta,
            sigma,
            entries,
        } = buffers;
        let x_row = contiguous(pair.feature, x_copy);
        let w_row = contiguous(pair.weights.row(best), w_copy);
        let (x_norm, w_norm) = (Norm::of(x_row), Norm::of(w_row));
        if !w_norm.is_finite() || (w_norm.is_zero() && head.normalises_weights()) {
            return Ok(Self::ELSEWHERE);
        }
        let (x, w) = (Scaled::of(x_row, x_norm, x), Scaled::of(w_row, w_norm, w));
        let plane =
            (!x_norm.is_zero() && !w_norm.is_zero()).then(|| Plane::of(&x, &w, delta, sigma));

        let mut found = Self {
            column: pair.first + best,
            cosine: plane.as_ref().map_or(0.0, |plane| plane.angle.cos()),
            ..Self::ELSEWHERE
        };
        let logit = match (&head.layer, &plane) {
            (Layer::Linear, _) => linear(&x, &w),
            // Only the modified softmax gets here, with x = 0.
            (_, None) => at_zero(&w),
            (layer, Some(plane)) => {
                let target = Target::new(plane.angle, x_norm.value(), pair.class, pair.row);
                let psi = found.ask(head, &target)?;
                angular(layer, &x, &w, &psi, plane.angle)
            }
        };
        found.constant = head.constant(pair.class);
        found.logit = logit.value + found.constant;
        found.plain_logit = logit.plain + found.constant;
        if !pair.by_feature.is_empty() {
            let (shorter, [at_x, at_w]): (&[f64], _) = match (&head.layer, &plane) {
                (Layer::Linear, _) | (_, None) => (x.entries, Default::default()),
                (_, Some(plane)) => {
                    let shorter: &[f64] = if plane.acute { delta } else { sigma };
                    (shorter, plane.tangents(&x, &w, shorter))
                }
            };
            let vectors = [x.entries, w.entries, shorter];
            let mut write = |derivative, tangent, out: &mut [A]| {
                write(derivative, vectors, tangent, entries, out)
            };
            found.steepest = [
                write(logit.by_x, (at_x, x.entries), pair.by_feature),
                write(logit.by_w, (at_w, w.entries), pair.by_weight),
            ];
        }
        found.check(pair)?;
        Ok(found)
    }

    /// Asks the margin for the target's logit, and keeps what it says of the rest.
    fn ask(&mut self, head: &Head<'_>, target: &Target) -> Result<TargetLogit, Error> {
        let angle = target.angle();
        let Some(margin) = head.margin else {
            return Ok(TargetLogit::from_cosine_slope(angle.cos(), 1.0, angle));
        };
        let (psi, negatives) = (margin.target_logit(target), margin.negatives(target));
        if !(psi.is_finite() && negatives.is_finite()) {
            return Err(Error::MarginNotFinite {
                row: target.row(),
                angle: angle.radians(),
            });
        }
        self.term = psi.row_term();
        if negatives != Negatives::plain() {
            let scale = match head.layer {
                Layer::Cosine { scale } => scale,
                _ => target.feature_norm(),
            };
            self.negative_slope = negatives.steepest();
            // The least of the largest is 1, so the product is a number.
            if scale * negatives.largest() > product_limit::<A>() {
                return Err(Error::overflow("logit", Argument::Features, target.row()));
            }
            self.changed = Some(Changed {
                above: A::narrow(scale * negatives.threshold()),
                // Of z = s c: the coefficient of zⁿ is divided by sⁿ⁻¹.
                polynomial: negatives.polynomial_of(scale).map(A::narrow),
            });
        }
        Ok(psi)
    }

    fn check(&self, pair: &Pair<'_, A>) -> Result<(), Error> {
        let arguments = [
            (Argument::Features, pair.row),
            (Argument::ClassWeights, self.column),
        ];
        for (steepest, (argument, row)) in self.steepest.into_iter().zip(arguments) {
            if !A::narrow(steepest).is_finite() {
                return Err(Error::overflow("gradient", argument, row));
            }
        }
        let changed = self.changed.map_or([A::zero(); 4], |map| map.polynomial);
        let finite = A::narrow(self.logit).is_finite() && changed.iter().all(|c| c.is_finite());
        if finite {
            Ok(())
        } else {
            Err(Error::overflow("logit", Argument::Features, pair.row))
        }
    }
}

/// z = w·x.
#[inline(always)]
fn linear(x: &Scaled<'_>, w: &Scaled<'_>) -> Logit {
    let value = scale_by_power(dot(x.entries, w.entries), x.power + w.power);
    Logit {
        value,
        plain: value,
        by_x: Derivative {
            w: scale_by_power(1.0, w.power),
            ..Derivative::default()
        },
        by_w: Derivative {
            x: scale_by_power(1.0, x.power),
            ..Derivative::default()
        },
    }
}

/// z = ŵ·x where x = 0; ∂z/∂w is proportional to x.
fn at_zero(w: &Scaled<'_>) -> Logit {
    Logit {
        value: 0.0,
        plain: 0.0,
        by_x: Derivative {
            w: 1.0 / w.length,
            ..Derivative::default()
        },
        by_w: Derivative::default(),
    }
}

/// z = scale·ψ(θ, ‖x‖), where the scale is ‖x‖ if the features keep their norm; ∂θ/∂x = −u/‖x‖, and of ‖x‖/‖x‖ nothing is
/// formed, for 1/‖x‖ may be infinite.
fn angular(
    layer: &Layer,
    x: &Scaled<'_>,
    w: &Scaled<'_>,
    psi: &TargetLogit,
    angle: Angle,
) -> Logit {
    let (slope, norm_slope) = (psi.angle_slope(), psi.norm_slope());
    let (scale, across_x, across_w, radial) = if let Layer::Cosine { scale } = layer {
        (
            *scale,
            scale * slope * x.inverse(),
            scale * slope * w.inverse(),
            scale * norm_slope / x.length,
        )
    } else {
        let norm = scale_by_power(x.length, x.power);
        let across_w = scale_by_power(x.length * slope / w.length, x.power - w.power);
        let radial = (psi.value() + norm * norm_slope) / x.length;
        (norm, slope, across_w, radial)
    };
    Logit {
        value: scale * psi.value(),
        plain: scale * angle.cos(),
        by_x: Derivative {
            x: radial,
            tangent: -across_x,
            ..Derivative::default()
        },
        by_w: Derivative {
            tangent: -across_w,
            ..Derivative::default()
        },
    }
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
    shorter_length: f64,
}

impl Plane {
    #[inline(always)]
    fn of(x: &Scaled<'_>, w: &Scaled<'_>, delta: &mut Vec<f64>, sigma: &mut Vec<f64>) -> Self {
        delta.resize(x.entries.len(), 0.0);
        sigma.resize(x.entries.len(), 0.0);
        let (x_length, w_length) = (x.length, w.length);
        let rows = x.entries.iter().zip(w.entries);
        for ((delta, sigma), (&x, &w)) in delta.iter_mut().zip(&mut *sigma).zip(rows) {
            *delta = difference_of_products(x_length, w, w_length, x);
            *sigma = difference_of_products(x_length, w, -w_length, x);
        }
        let (chord, sum) = (dot(delta, delta).sqrt(), dot(sigma, sigma).sqrt());
        let acute = chord <= sum;
        Self {
            angle: Angle::from_chords(chord, sum),
            acute,
            shorter_length: if acute { chord } else { sum },
        }
    }

    /// The unit tangents at x and at w, each towards the other, from the shorter of δ and σ.
    #[inline(always)]
    fn tangents(&self, x: &Scaled<'_>, w: &Scaled<'_>, shorter: &[f64]) -> [Tangent; 2] {
        // δ leads from x̂ to ŵ, so it is −δ that leads from ŵ to x̂; σ leads to the other from either.
        let back = if self.acute { -1.0 } else { 1.0 };
        [
            Tangent::at(x.entries, shorter, 1.0, self.shorter_length),
            Tangent::at(w.entries, shorter, back, self.shorter_length),
        ]
    }
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
fn write<A: Element>(
    derivative: Derivative,
    [x, w, shorter]: [&[f64]; 3],
    (tangent, tangent_row): (Tangent, &[f64]),
    entries: &mut Vec<f64>,
    out: &mut [A],
) -> f64 {
    // Parallel rows have no tangent, however steep the logit is along it.
    let parallel = tangent.shorter == 0.0;
    let steep = if parallel { 0.0 } else { derivative.tangent };
    entries.resize(x.len(), 0.0);
    let rows = x.iter().zip(w).zip(shorter).zip(tangent_row);
    for (entry, (((&x, &w), &v), &r)) in entries.iter_mut().zip(rows) {
        let unit = tangent.shorter * v - tangent.radial * r;
        *entry = steep * unit + derivative.x * x + derivative.w * w;
    }
    for (out, &entry) in out.iter_mut().zip(&*entries) {
        *out = A::narrow(entry);
    }
    largest_magnitude(entries)
}
