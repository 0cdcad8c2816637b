//! The modified softmax of the SphereFace paper: class weights on the unit sphere, features as they are.

use core::fmt;

use crate::driver::{Head, Layer};
use crate::error::Error;
use crate::float::{Float, sealed::TOKEN};
use crate::loss::MarginLoss;
use crate::request::Request;

/// Softmax cross-entropy with unit class weights and no bias, so that the decision depends on angles alone.
///
/// The step between softmax and [`ASoftmax`](crate::ASoftmax), which it equals at m = 1: take it as the baseline of that loss,
/// or where the norm of a feature is to keep its meaning.
///
/// ```text
/// z_j = ‖x‖ cosθ_j = ŵ_j·x        ℓ = ln Σ_j exp z_j − z_y
/// ```
/// ```math
/// z_j = \lVert x \rVert \cos\theta_j = \hat w_j^\top x, \qquad \ell = \ln \sum_j e^{z_j} - z_y
/// ```
///
/// # Shapes
///
/// Features N×d, class weights C×d of any norm but zero.
///
/// # Gradients
///
/// With `G_ij = (p_ij − [j = yᵢ])·rᵢ/N`:
///
/// ```text
/// ∂X = G Ŵ        ∂w_j = (I − ŵ_jŵ_jᵀ) Σᵢ G_ij xᵢ/‖w_j‖
/// ```
/// ```math
/// \frac{\partial L}{\partial X} = G \hat W,
/// \qquad
/// \frac{\partial L}{\partial w_j} = \frac{I - \hat w_j \hat w_j^\top}{\lVert w_j \rVert} \sum_i G_{ij}\, x_i
/// ```
///
/// The projection is part of the gradient; implementations that overwrite W with Ŵ leave it out.
///
/// # Numerical notes
///
/// As for [`SoftmaxLoss`](crate::SoftmaxLoss): the loss does not saturate, and a row whose logits could leave the range of the
/// element type is refused.
///
/// # Errors
///
/// As for [`MarginLoss`](crate::MarginLoss); a zero class weight is refused, a zero feature is not.
///
/// # Examples
///
/// ```
/// use margin_losses::{MarginLoss, ModifiedSoftmax, Targets};
/// use margin_losses::ndarray::array;
///
/// let features = array![[1.0, 2.0]];
/// let weights = array![[3.0, 0.0], [0.0, 5.0]];
/// let out = ModifiedSoftmax::new().evaluate(features.view(), weights.view(), &Targets::new(&[1]))?;
/// assert!((out.loss() - (1.0_f64 + (1.0_f64 - 2.0).exp()).ln()).abs() < 1e-15);
/// # Ok::<(), margin_losses::Error>(())
/// ```
///
/// # References
///
/// Liu et al., *SphereFace*, section 3 ([arXiv:1704.08063](https://arxiv.org/abs/1704.08063)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ModifiedSoftmax {}

impl ModifiedSoftmax {
    /// It has no parameters.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl<A: Float> MarginLoss<A> for ModifiedSoftmax {
    fn run(&self, request: Request<'_, A>) -> Result<(), Error> {
        A::solve(TOKEN, &Head::new(Layer::UnitWeights), request)
    }

    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
