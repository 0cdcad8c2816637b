//! One row's target: its angle, its logit, and the directions in which that logit grows.
//!
//! Everything here is in `f64`. The angle does not come from the cosine, which near the poles knows it to half of its digits
//! only. With `δ = ‖x‖w − ‖w‖x` and `σ = ‖x‖w + ‖w‖x`, the angle is `2·atan2(‖δ‖, ‖σ‖)`. The shorter of the two, freed of its
//! component along x, points along the tangent at x̂ towards ŵ. The gradient goes along that unit tangent, so that no `1/sinθ`
//! is ever formed. Below 1e-150 radians the square of the shorter one is no normal number. Then the tangent is finite, but no
//! unit vector.

use ndarray::{ArrayView1, ArrayView2, Axis, Slice};

use crate::check::NO_CLASS;
use crate::error::{Argument, Error};
use crate::margin::{Angle, Negatives, Target, TargetLogit};
use crate::numerics::{
    Element, Norm, contiguous, difference_of_products, dot, largest_magnitude, reduce,
    scale_by_power,
};

use super::entries::{Changed, Turn};
use super::weights::product_limit;
use super::{Head, Layer, Problem};

/// What is known of one row's target before any other class has been looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowTarget<A> {
    /// The column that stands for the class: of its sub-centers the nearest, if it has some.
    pub(super) column: usize,
    /// The target's logit z_y, scale, margin and constant included.
    pub(super) logit: f64,
    /// The same without the constant.
    pub(super) value: f64,
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
    /// A bound of the slope of `changed`, at least 1.
    pub(super) negative_slope: f64,
}

impl<A: Element> RowTarget<A> {
    /// That of a row whose target is not looked at here.
    pub(super) const ELSEWHERE: Self = Self {
        column: usize::MAX,
        logit: 0.0,
        value: 0.0,
        plain_logit: 0.0,
        cosine: 0.0,
        steepest: [0.0; 2],
        term: [0.0; 2],
        changed: None,
        negative_slope: 1.0,
    };

    /// Finds a target, the first or the second of its row. The row's feature is known to be usable; weights that are not usable
    /// are refused by the scan.
    ///
    /// `weights` are the rows that are here. ∂z_y/∂x and ∂z_y/∂w_y go to `directions`, unless these are empty.
    #[inline(always)]
    pub(super) fn find(
        problem: &Problem<'_, A>,
        weights: ArrayView2<'_, A>,
        index: usize,
        directions: [&mut [A]; 2],
        pair: &mut Pair<A>,
    ) -> Result<Self, Error> {
        let (head, share) = (problem.head, &problem.share);
        let class = match problem.labels.get(index) {
            None | Some(&NO_CLASS) => return Ok(Self::ELSEWHERE),
            Some(&class) => class,
        };
        let row = index % problem.plan.rows;
        let Some(column) = share.column(class) else {
            return Ok(Self::ELSEWHERE);
        };
        let first = share.row(column);
        let here = Slice::from(first..first + head.group);
        pair.set_feature(problem.features.row(row));
        let nearest = pair.set_nearest(weights.slice_axis_move(Axis(0), here));
        if !pair.w.is_finite() || (pair.w.is_zero() && head.normalises_weights()) {
            return Ok(Self::ELSEWHERE);
        }

        let mut found = Self {
            column: column + nearest,
            cosine: pair.cosine(),
            ..Self::ELSEWHERE
        };
        let logit = match (head.layer, pair.angle) {
            (Layer::Linear, _) => pair.linear(),
            // Only the modified softmax gets here, with x = 0.
            (_, None) => pair.at_zero(),
            (layer, Some(angle)) => {
                let target = Target::new(angle, pair.x.norm(), class, row);
                let psi = found.ask(head, &target)?;
                pair.angular(layer, &psi, angle)
            }
        };
        // Beside cosines with the rounding that it has in the logits of the other classes. In the other layers the whole logit
        // takes on their rounding when the row is closed.
        let constant = match head.layer {
            Layer::Cosine { .. } => A::narrow(head.constant(class)).widen(),
            Layer::Linear | Layer::UnitWeights => head.constant(class),
        };
        found.value = logit.value;
        found.logit = logit.value + constant;
        found.plain_logit = logit.plain + constant;
        let [by_feature, by_weight] = directions;
        if !by_feature.is_empty() {
            found.steepest = [
                pair.write(true, logit.by_x, by_feature),
                pair.write(false, logit.by_w, by_weight),
            ];
        }
        found.check(row, share.row_of_all(found.column))?;
        Ok(found)
    }

    /// The logit without the margin and without the constant.
    pub(super) fn plain_value(&self) -> f64 {
        self.plain_logit - (self.logit - self.value)
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
            // The least of the largest is 1, so the product is a number.
            if scale * negatives.largest() > product_limit::<A>() {
                return Err(Error::overflow("logit", Argument::Features, target.row()));
            }
            let (sin, cos) = negatives.turn().sin_cos();
            let turn = Turn {
                scale: A::narrow(scale),
                cos: A::narrow(cos),
                sin: A::narrow(sin),
            };
            self.negative_slope = negatives.steepest() * turn.steepest().max(1.0);
            self.changed = Some(Changed {
                above: A::narrow(scale * negatives.threshold()),
                turn,
                center: A::narrow(scale * negatives.center()),
                // Of z = s c: the coefficient of zⁿ is divided by sⁿ⁻¹.
                polynomial: negatives.polynomial_of(scale).map(A::narrow),
            });
        }
        Ok(psi)
    }

    /// Refuses a target of this row whose logit or derivatives cannot be represented.
    fn check(&self, row: usize, weight: usize) -> Result<(), Error> {
        let arguments = [(Argument::Features, row), (Argument::ClassWeights, weight)];
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
            Err(Error::overflow("logit", Argument::Features, row))
        }
    }
}

/// A logit, and its derivatives by x and by w: how much of x, of w, and of the unit tangent at the one that it is by goes into
/// each. Rows are those of a [`Pair`].
struct Logit {
    value: f64,
    /// Without the margin.
    plain: f64,
    by_x: [f64; 3],
    by_w: [f64; 3],
}

/// A row scaled by a power of two to a norm in [1, 2), in `f64`.
#[derive(Debug, Default)]
struct Scaled {
    entries: Vec<f64>,
    length: f64,
    power: i32,
}

impl Scaled {
    #[inline(always)]
    fn set<A: Element>(&mut self, row: &[A]) {
        let norm = Norm::of(row);
        norm.scale_down(row, &mut self.entries);
        self.length = norm.normalised();
        self.power = norm.power();
    }

    fn is_finite(&self) -> bool {
        self.length.is_finite()
    }

    fn is_zero(&self) -> bool {
        self.length == 0.0
    }

    /// ‖row‖, infinite or zero where that leaves the range.
    fn norm(&self) -> f64 {
        scale_by_power(self.length, self.power)
    }

    /// 1/‖row‖, infinite if that is.
    fn inverse(&self) -> f64 {
        scale_by_power(1.0 / self.length, -self.power)
    }
}

/// A feature and a class weight, and the plane they span. The memory is kept from row to row.
#[derive(Debug, Default)]
pub(super) struct Pair<A> {
    copy: Vec<A>,
    x: Scaled,
    w: Scaled,
    /// The angle between them; none if either is zero.
    angle: Option<Angle>,
    delta: Vec<f64>,
    sigma: Vec<f64>,
    /// ‖δ‖ and ‖σ‖.
    chords: [f64; 2],
    tangent: Vec<f64>,
    derivative: Vec<f64>,
}

impl<A: Element> Pair<A> {
    #[inline(always)]
    pub(super) fn set_feature(&mut self, feature: ArrayView1<'_, A>) {
        self.x.set(contiguous(feature, &mut self.copy));
    }

    /// Takes in the weight that has the smallest angle with the feature, of equals the first, and returns which it is.
    #[inline(always)]
    fn set_nearest(&mut self, weights: ArrayView2<'_, A>) -> usize {
        let (mut nearest, mut closest) = (0, f64::NEG_INFINITY);
        if weights.nrows() > 1 {
            for (k, weight) in weights.outer_iter().enumerate() {
                self.set_weight(weight);
                if self.cosine() > closest {
                    (nearest, closest) = (k, self.cosine());
                }
            }
        }
        self.set_weight(weights.row(nearest));
        nearest
    }

    #[inline(always)]
    pub(super) fn set_weight(&mut self, weight: ArrayView1<'_, A>) {
        self.w.set(contiguous(weight, &mut self.copy));
        self.angle = None;
        if self.x.is_zero() || self.w.is_zero() {
            return;
        }
        let (x_length, w_length) = (self.x.length, self.w.length);
        self.delta.resize(self.x.entries.len(), 0.0);
        self.sigma.resize(self.x.entries.len(), 0.0);
        let rows = self.x.entries.iter().zip(&self.w.entries);
        for ((delta, sigma), (&x, &w)) in self.delta.iter_mut().zip(&mut self.sigma).zip(rows) {
            *delta = difference_of_products(x_length, w, w_length, x);
            *sigma = difference_of_products(x_length, w, -w_length, x);
        }
        // Not by a map over the two, which is a call that the vector instructions do not reach into.
        let (chord, sum) = (
            dot(&self.delta, &self.delta).sqrt(),
            dot(&self.sigma, &self.sigma).sqrt(),
        );
        self.chords = [chord, sum];
        self.angle = Some(Angle::from_chords(chord, sum));
    }

    pub(super) fn angle(&self) -> Option<Angle> {
        self.angle
    }

    /// 1/‖w‖.
    pub(super) fn inverse_weight(&self) -> f64 {
        self.w.inverse()
    }

    /// The unit tangent at x, or at w, towards the other; none if they are parallel.
    #[inline(always)]
    pub(super) fn unit_tangent(&mut self, at_x: bool) -> Option<&[f64]> {
        self.tangent.resize(self.x.entries.len(), 0.0);
        self.find_tangent(at_x).then_some(&self.tangent[..])
    }

    /// cosθ; 0 if there is no angle.
    fn cosine(&self) -> f64 {
        self.angle.map_or(0.0, Angle::cos)
    }

    /// z = w·x.
    #[inline(always)]
    fn linear(&self) -> Logit {
        let (x, w) = (&self.x, &self.w);
        let value = scale_by_power(dot(&x.entries, &w.entries), x.power + w.power);
        Logit {
            value,
            plain: value,
            by_x: [0.0, scale_by_power(1.0, w.power), 0.0],
            by_w: [scale_by_power(1.0, x.power), 0.0, 0.0],
        }
    }

    /// z = ŵ·x where x = 0; ∂z/∂w is proportional to x.
    fn at_zero(&self) -> Logit {
        Logit {
            value: 0.0,
            plain: 0.0,
            by_x: [0.0, 1.0 / self.w.length, 0.0],
            by_w: [0.0; 3],
        }
    }

    /// z = scale·ψ(θ, ‖x‖). The scale is ‖x‖ if the features keep their norm. ∂θ/∂x is −u/‖x‖. ‖x‖/‖x‖ is never formed, because
    /// 1/‖x‖ may be infinite.
    fn angular(&self, layer: Layer, psi: &TargetLogit, angle: Angle) -> Logit {
        let (x, w) = (&self.x, &self.w);
        let (slope, norm_slope) = (psi.angle_slope(), psi.norm_slope());
        let (scale, across_x, across_w, radial) = if let Layer::Cosine { scale } = layer {
            (
                scale,
                scale * slope * x.inverse(),
                scale * slope * w.inverse(),
                scale * norm_slope / x.length,
            )
        } else {
            let norm = x.norm();
            let across_w = scale_by_power(x.length * slope / w.length, x.power - w.power);
            let radial = (psi.value() + norm * norm_slope) / x.length;
            (norm, slope, across_w, radial)
        };
        Logit {
            value: scale * psi.value(),
            plain: scale * angle.cos(),
            by_x: [radial, 0.0, -across_x],
            by_w: [0.0, 0.0, -across_w],
        }
    }

    /// Writes the derivative by x, or by w, and returns its largest absolute entry.
    #[inline(always)]
    fn write(&mut self, by_x: bool, [of_x, of_w, of_tangent]: [f64; 3], out: &mut [A]) -> f64 {
        self.tangent.clear();
        self.tangent.resize(out.len(), 0.0);
        // Parallel rows have no tangent, however steep the logit is along it.
        let steep = if of_tangent != 0.0 && self.find_tangent(by_x) {
            of_tangent
        } else {
            0.0
        };
        self.derivative.resize(out.len(), 0.0);
        let rows = self.x.entries.iter().zip(&self.w.entries);
        let rows = rows.zip(&self.tangent);
        for (entry, ((&x, &w), &unit)) in self.derivative.iter_mut().zip(rows) {
            *entry = steep * unit + of_x * x + of_w * w;
        }
        for (out, &entry) in out.iter_mut().zip(&self.derivative) {
            *out = A::narrow(entry);
        }
        largest_magnitude(&self.derivative)
    }

    /// Finds the unit tangent at x, or at w, towards the other, and whether there is one.
    ///
    /// It is the part of the shorter of δ and σ that is orthogonal to the row. Where nothing is left but the rounding of that
    /// projection, the rows are parallel to the last bit. Then no tangent is better than any other.
    #[inline(always)]
    fn find_tangent(&mut self, at_x: bool) -> bool {
        let [chord, sum] = self.chords;
        let acute = chord <= sum;
        let (shorter, length) = if acute {
            (&self.delta, chord)
        } else {
            (&self.sigma, sum)
        };
        let row = if at_x { &self.x } else { &self.w };
        // δ leads from x̂ to ŵ, so it is −δ that leads from ŵ to x̂. σ leads to the other from either.
        let sign = if acute && !at_x { -1.0 } else { 1.0 };
        let square = dot(&row.entries, &row.entries);
        let first = sign * dot(shorter, &row.entries) / square;
        let (left, once) = project(&row.entries, shorter, sign, first);
        // What the rounding of the first projection has left along the row is removed by a second.
        let radial = first + left / square;
        let (_, twice) = project(&row.entries, shorter, sign, radial);
        let norm = twice.sqrt();
        if norm <= 4.0 * f64::EPSILON * length || twice <= 0.25 * once {
            return false;
        }
        let (forward, back) = (sign / norm, radial / norm);
        let entries = shorter.iter().zip(&row.entries);
        for (unit, (&v, &r)) in self.tangent.iter_mut().zip(entries) {
            *unit = forward * v - back * r;
        }
        true
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
