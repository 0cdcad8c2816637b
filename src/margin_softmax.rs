//! Softmax over cosines with a margin of the user's own.

use crate::error::{self, Error};
use crate::linear_cross_entropy::{Head, Layer, softmax_family};
use crate::margin::Margin;

/// Softmax cross-entropy over cosines whose target's logit is any [`Margin`].
///
/// ```text
/// z_y = s ψ(θ_y)        z_j = s cosθ_j for j ≠ y        ℓ = ln Σ_j exp z_j − z_y
/// ```
///
/// # Shapes
///
/// Features N×d and class weights C×d, none of them zero.
///
/// # Errors
///
/// As for [`MarginLoss`](crate::MarginLoss); zero features and zero class weights are refused, and so is a ψ that is not
/// finite at the angle of a row ([`Error::MarginNotFinite`]).
///
/// # Examples
///
/// A margin that is half an angle, half a cosine:
///
/// ```
/// use margin_losses::{Angle, Margin, MarginLoss, MarginSoftmax, TargetLogit, Targets};
/// use margin_losses::ndarray::array;
///
/// #[derive(Debug)]
/// struct Half;
///
/// impl Margin for Half {
///     fn target_logit(&self, angle: Angle) -> TargetLogit {
///         let (sin, cos) = (angle.radians() + 0.25).sin_cos();
///         TargetLogit::from_angle_slope(cos - 0.2, -sin)
///     }
/// }
///
/// let features = array![[1.0, 2.0], [2.0, -0.5]];
/// let weights = array![[0.0, 1.0], [1.0, 0.0]];
/// let loss = MarginSoftmax::new(Half, 16.0)?;
/// let out = loss.evaluate(features.view(), weights.view(), &Targets::new(&[0, 1]))?;
/// assert!(out.loss() > 0.0);
/// # Ok::<(), margin_losses::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MarginSoftmax<M> {
    margin: M,
    scale: f64,
}

impl<M> MarginSoftmax<M> {
    /// A margin, and the scale s.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] unless s ∈ (0, 10⁶].
    pub fn new(margin: M, scale: f64) -> Result<Self, Error> {
        Ok(Self {
            margin,
            scale: error::scale(scale)?,
        })
    }

    /// The margin.
    #[must_use]
    pub fn margin(&self) -> &M {
        &self.margin
    }

    /// s.
    #[must_use]
    pub fn scale(&self) -> f64 {
        self.scale
    }
}

impl<M: Margin> MarginSoftmax<M> {
    fn head(&self) -> Head<'_> {
        Head {
            layer: Layer::Cosine { scale: self.scale },
            margin: Some(&self.margin),
            learns_scale: false,
        }
    }
}

softmax_family!(MarginSoftmax<M> where M: Margin);
