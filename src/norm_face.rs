//! NormFace: softmax over scaled cosines.

use core::fmt;

use crate::driver::{Head, Layer};
use crate::error::Error;
use crate::float::{Float, sealed::TOKEN};
use crate::loss::MarginLoss;
use crate::request::Request;
use crate::scale::Scale;

/// NormFace: softmax cross-entropy over cosines, with a scale that is fixed or learned.
///
/// The loss to compare margins against: trained by it, features are ready to be compared by angle.
///
/// ```text
/// z_j = s cosθ_j        ℓ = ln Σ_j exp z_j − z_y
/// ```
/// ```math
/// z_j = s \cos\theta_j, \qquad \ell = \ln \sum_j e^{z_j} - z_y
/// ```
///
/// It cannot fall below `ln(1 + (C − 1) exp(−s C/(C − 1)))`, see
/// [`guide::norm_face_lower_bound`](crate::guide::norm_face_lower_bound): a scale that is too small stops training early.
///
/// # Shapes
///
/// Features N×d and class weights C×d, none of them zero.
///
/// # Gradients
///
/// With `G_ij = (p_ij − [j = yᵢ])·rᵢ/N` and `A_ij = ∂L/∂cosθ_ij = s G_ij`:
///
/// ```text
/// ∂xᵢ = (I − x̂ᵢx̂ᵢᵀ) Σ_j A_ij ŵ_j/‖xᵢ‖        ∂w_j = (I − ŵ_jŵ_jᵀ) Σᵢ A_ij x̂ᵢ/‖w_j‖
/// ```
/// ```math
/// \frac{\partial L}{\partial x_i} = \frac{I - \hat x_i \hat x_i^\top}{\lVert x_i \rVert} \sum_j A_{ij}\, \hat w_j
/// \qquad
/// \frac{\partial L}{\partial w_j} = \frac{I - \hat w_j \hat w_j^\top}{\lVert w_j \rVert} \sum_i A_{ij}\, \hat x_i
/// ```
///
/// A scale that is [`learned`](Self::learned) is a learnable:
///
/// ```text
/// ∂s = Σ_ij G_ij cosθ_ij
/// ```
/// ```math
/// \frac{\partial L}{\partial s} = \sum_{i,j} G_{ij} \cos\theta_{ij}
/// ```
///
/// # Numerical notes
///
/// Logits lie in [−s, s], so they cannot overflow; the loss of a confident row is small and right to its last digits, where
/// `log Σ − z_y` would have cancelled.
///
/// # Errors
///
/// As for [`MarginLoss`](crate::MarginLoss); zero features and zero class weights are refused.
///
/// # Examples
///
/// A scale that is learned, with a step of gradient descent on it:
///
/// ```
/// use margin_losses::{MarginLoss, NormFace, Targets};
/// use margin_losses::ndarray::array;
///
/// let features = array![[1.0, 2.0], [2.0, -0.5]];
/// let weights = array![[0.0, 1.0], [1.0, 0.0]];
/// let mut loss = NormFace::learned(10.0)?;
/// let out = loss.evaluate(features.view(), weights.view(), &Targets::new(&[0, 1]))?;
/// let scale = loss.scale() - 0.1 * out.grad_learnables[0];
/// loss.set_scale(scale.max(0.01))?;
/// # Ok::<(), margin_losses::Error>(())
/// ```
///
/// # References
///
/// Wang et al., *NormFace*, equation 7 and Proposition 2 ([arXiv:1704.06369](https://arxiv.org/abs/1704.06369)).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NormFace {
    scale: Scale,
}

impl NormFace {
    /// A fixed scale s.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] unless s ∈ [10⁻⁶, 10⁶].
    pub fn new(scale: f64) -> Result<Self, Error> {
        let scale = Scale::fixed(scale)?;
        Ok(Self { scale })
    }

    /// A scale that is learned, beginning at `initial`. The paper begins at 10, and keeps it above 0.01.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] unless `initial` ∈ [10⁻⁶, 10⁶].
    pub fn learned(initial: f64) -> Result<Self, Error> {
        let scale = Scale::learned(initial)?;
        Ok(Self { scale })
    }

    /// s.
    #[must_use]
    pub fn scale(&self) -> f64 {
        self.scale.value()
    }

    /// Another s; what is learned goes on from there.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] unless s ∈ [10⁻⁶, 10⁶]; the scale is then as it was.
    pub fn set_scale(&mut self, scale: f64) -> Result<(), Error> {
        self.scale.set(scale)
    }

    /// Whether the scale is a learnable.
    #[must_use]
    pub fn is_learned(&self) -> bool {
        self.scale.is_learned()
    }

    /// What it learns; see [`MarginLoss::learnables`](crate::MarginLoss::learnables).
    #[must_use]
    pub fn learnables(&self) -> &[f64] {
        self.scale.learnables()
    }

    /// Replaces that; see [`MarginLoss::set_learnables`](crate::MarginLoss::set_learnables).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn set_learnables(&mut self, values: &[f64]) -> Result<(), Error> {
        self.scale.set_learnables(values)
    }

    fn head(&self) -> Head<'_> {
        Head {
            learns: self.scale.learns(),
            ..Head::new(Layer::Cosine {
                scale: self.scale(),
            })
        }
    }
}

impl<A: Float> MarginLoss<A> for NormFace {
    fn run(&self, request: Request<'_, A>) -> Result<(), Error> {
        A::solve(TOKEN, &self.head(), request)
    }

    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }

    fn learnables(&self) -> &[f64] {
        self.learnables()
    }

    fn set_learnables(&mut self, values: &[f64]) -> Result<(), Error> {
        self.set_learnables(values)
    }
}
