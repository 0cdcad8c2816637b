//! The angle of each row to its class, from chords, and the unit tangents along which the target's gradient goes.

use candle_core::{DType, Tensor};

use crate::device::{norms, tangential};
use crate::error::Error;

/// The rows beside the weights of their classes.
pub(crate) struct Targeted {
    /// N×1 each, in the wider type: ‖δ‖, ‖σ‖, ‖t‖.
    lengths: [Tensor; 3],
    /// N×d each, in the element type: unit tangents at x̂ towards ŵ, and at ŵ towards x̂; 0 at a pole.
    tangents: [Tensor; 2],
    /// N×1, ‖w_y‖ beside ‖x‖.
    ratios: Tensor,
}

impl Targeted {
    /// In `f64`, or in `f32` by split products.
    pub(crate) fn new(x: &Tensor, w: &Tensor, split: bool) -> Result<Self, Error> {
        let dtype = x.dtype();
        let wide_type = if split { dtype } else { DType::F64 };
        let wide = |tensor: &Tensor| tensor.to_dtype(wide_type);
        let (x, w) = (wide(x)?, wide(w)?);
        let (x_norm, w_norm) = (norms(&x)?, norms(&w)?);
        let (own, other) = (
            Product::new(&w, &x_norm, split)?,
            Product::new(&x, &w_norm, split)?,
        );
        let (delta, sigma) = (own.minus(&other)?, own.plus(&other)?);
        let (chord, sum) = (norms(&delta)?, norms(&sigma)?);
        let near = chord.le(&sum)?.broadcast_as(x.shape())?;
        let floor = if x.dtype() == DType::F64 {
            1e-150
        } else {
            1e-18
        };
        let floor = ((&chord + &sum)? * floor)?;
        let (by_x, tangent) =
            unit_tangent(&near.where_cond(&delta, &sigma)?, [&x, &x_norm], &floor)?;
        let back = delta.neg()?;
        let (by_w, _) = unit_tangent(&near.where_cond(&back, &sigma)?, [&w, &w_norm], &floor)?;
        Ok(Self {
            lengths: [chord, sum, tangent],
            tangents: [by_x.to_dtype(dtype)?, by_w.to_dtype(dtype)?],
            ratios: w_norm.to_dtype(dtype)?,
        })
    }

    pub(crate) fn lengths(&self) -> [&Tensor; 3] {
        let [chord, sum, tangent] = &self.lengths;
        [chord, sum, tangent]
    }

    /// What the targets pull: ∂L/∂x times ‖x‖, and ∂L/∂w_y.
    pub(crate) fn directions(&self, pulls: &Tensor) -> Result<[Tensor; 2], Error> {
        let [by_x, by_w] = &self.tangents;
        let by_w = by_w.broadcast_mul(&pulls.div(&self.ratios)?)?;
        Ok([by_x.broadcast_mul(pulls)?, by_w])
    }
}

/// The direction of `v` without its component along `at`, and how long it is; no direction below `floor`.
fn unit_tangent(
    v: &Tensor,
    [at, norm]: [&Tensor; 2],
    floor: &Tensor,
) -> Result<(Tensor, Tensor), Error> {
    let unit = at.broadcast_div(norm)?;
    // Twice, because the component may be much longer than what is left.
    let t = tangential(&tangential(v, &unit)?, &unit)?;
    let length = norms(&t)?;
    let none = length.zeros_like()?;
    let inverse = length.le(floor)?.where_cond(&none, &length.recip()?)?;
    Ok((t.broadcast_mul(&inverse)?, length))
}

/// `row · factor` of each row, and what rounding has left of it if it is split.
struct Product {
    value: Tensor,
    rest: Option<Tensor>,
}

impl Product {
    /// Dekker's: the sum of both parts is the exact product.
    fn new(rows: &Tensor, factor: &Tensor, split: bool) -> Result<Self, Error> {
        let value = rows.broadcast_mul(factor)?;
        if !split {
            return Ok(Self { value, rest: None });
        }
        let (high, low) = halves(rows)?;
        let (high_factor, low_factor) = halves(factor)?;
        let rest = (high.broadcast_mul(&high_factor)? - &value)?;
        let rest =
            ((rest + high.broadcast_mul(&low_factor)?)? + low.broadcast_mul(&high_factor)?)?;
        let rest = (rest + low.broadcast_mul(&low_factor)?)?;
        Ok(Self {
            value,
            rest: Some(rest),
        })
    }

    fn minus(&self, other: &Self) -> Result<Tensor, Error> {
        let value = (&self.value - &other.value)?;
        Ok(match (&self.rest, &other.rest) {
            (Some(a), Some(b)) => (value + (a - b)?)?,
            _ => value,
        })
    }

    fn plus(&self, other: &Self) -> Result<Tensor, Error> {
        let value = (&self.value + &other.value)?;
        Ok(match (&self.rest, &other.rest) {
            (Some(a), Some(b)) => (value + (a + b)?)?,
            _ => value,
        })
    }
}

/// Two numbers of half the digits each whose sum is the number: 4097 = 2¹² + 1 cuts `f32`, 2²⁷ + 1 `f64`.
fn halves(v: &Tensor) -> Result<(Tensor, Tensor), Error> {
    let factor = if v.dtype() == DType::F64 {
        134_217_729.0
    } else {
        4097.0
    };
    let large = (v * factor)?;
    let high = (&large - (&large - v)?)?;
    let low = (v - &high)?;
    Ok((high, low))
}
