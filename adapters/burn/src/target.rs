//! The angle of each row to its class, from chords, and the unit tangents along which the target's gradient goes.

use burn::tensor::{DType, Tensor};

use crate::device::{norms, tangential};

/// The rows beside the weights of their classes.
pub(crate) struct Targeted {
    /// N×1 each, in the wider type: ‖δ‖, ‖σ‖, ‖t‖.
    pub(crate) lengths: [Tensor<2>; 3],
    /// N×d each, in the element type: unit tangents at x̂ towards ŵ, and at ŵ towards x̂; 0 at a pole.
    tangents: [Tensor<2>; 2],
    /// N×1, ‖w_y‖.
    norms: Tensor<2>,
}

impl Targeted {
    /// In `f64`, or in the element type by split products.
    pub(crate) fn new(x: Tensor<2>, w: Tensor<2>, split: bool) -> Self {
        let dtype = x.dtype();
        let wide_type = if split { dtype } else { DType::F64 };
        let (x, w) = (x.cast(wide_type), w.cast(wide_type));
        let (x_norm, w_norm) = (norms(x.clone()), norms(w.clone()));
        let own = Product::new(w.clone(), x_norm.clone(), split);
        let other = Product::new(x.clone(), w_norm.clone(), split);
        let (delta, sigma) = (own.minus(&other), own.plus(&other));
        let (chord, sum) = (norms(delta.clone()), norms(sigma.clone()));
        let near = chord.clone().lower_equal(sum.clone()).expand(x.dims());
        let floor = if x.dtype() == DType::F64 {
            1e-150
        } else {
            1e-18
        };
        let floor = (chord.clone() + sum.clone()) * floor;
        let shorter = |delta: Tensor<2>| sigma.clone().mask_where(near.clone(), delta);
        let (by_x, tangent) = unit_tangent(shorter(delta.clone()), x / x_norm, &floor);
        let (by_w, _) = unit_tangent(shorter(-delta), w / w_norm.clone(), &floor);
        Self {
            lengths: [chord, sum, tangent],
            tangents: [by_x.cast(dtype), by_w.cast(dtype)],
            norms: w_norm.cast(dtype),
        }
    }

    /// What the targets pull: ∂L/∂x times ‖x‖, and ∂L/∂w_y.
    pub(crate) fn directions(self, pulls: Tensor<2>) -> [Tensor<2>; 2] {
        let [by_x, by_w] = self.tangents;
        [by_x * pulls.clone(), by_w * (pulls / self.norms)]
    }
}

/// The direction of `v` without its component along `unit`, and how long it is; no direction below `floor`.
fn unit_tangent(v: Tensor<2>, unit: Tensor<2>, floor: &Tensor<2>) -> (Tensor<2>, Tensor<2>) {
    // Twice, because the component may be much longer than what is left.
    let t = tangential(tangential(v, &unit), &unit);
    let length = norms(t.clone());
    let none = length.clone().lower_equal(floor.clone());
    let inverse = length.clone().recip().mask_fill(none, 0.0);
    (t * inverse, length)
}

/// `row · factor` of each row, and what rounding has left of it if it is split.
struct Product {
    value: Tensor<2>,
    rest: Option<Tensor<2>>,
}

impl Product {
    /// Dekker's: the sum of both parts is the exact product.
    fn new(rows: Tensor<2>, factor: Tensor<2>, split: bool) -> Self {
        let value = rows.clone() * factor.clone();
        let rest = split.then(|| {
            let ((high, low), (high_factor, low_factor)) = (halves(&rows), halves(&factor));
            let rest = high.clone() * high_factor.clone() - value.clone();
            let rest = rest + high * low_factor.clone() + low.clone() * high_factor;
            rest + low * low_factor
        });
        Self { value, rest }
    }

    fn minus(&self, other: &Self) -> Tensor<2> {
        let value = self.value.clone() - other.value.clone();
        match (&self.rest, &other.rest) {
            (Some(a), Some(b)) => value + (a.clone() - b.clone()),
            _ => value,
        }
    }

    fn plus(&self, other: &Self) -> Tensor<2> {
        let value = self.value.clone() + other.value.clone();
        match (&self.rest, &other.rest) {
            (Some(a), Some(b)) => value + (a.clone() + b.clone()),
            _ => value,
        }
    }
}

/// Two numbers of half the digits each whose sum is the number: 4097 = 2¹² + 1 cuts `f32`, 2²⁷ + 1 `f64`.
fn halves(v: &Tensor<2>) -> (Tensor<2>, Tensor<2>) {
    let factor = if v.dtype() == DType::F64 {
        134_217_729.0
    } else {
        4097.0
    };
    let large = v.clone() * factor;
    let high = large.clone() - (large - v.clone());
    (high.clone(), v.clone() - high)
}
