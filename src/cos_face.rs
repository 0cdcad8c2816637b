//! CosFace: the large-margin cosine loss.

use core::fmt;

use crate::driver::{Head, Layer};
use crate::error::{self, Error};
use crate::float::{Float, sealed::TOKEN};
use crate::loss::MarginLoss;
use crate::margin::{Margin, Negatives, Target, TargetLogit};
use crate::request::Request;

/// CosFace, the large-margin cosine loss: the target's cosine must win by m.
///
/// The formula of [`AmSoftmax`](crate::AmSoftmax) with the scale of large face sets. Its gradient is as smooth as that of
/// [`NormFace`](crate::NormFace), so it is the margin to begin with. The paper's bounds on both parameters are
/// [`guide::suggested_scale`](crate::guide::suggested_scale) and
/// [`guide::largest_cosine_margin`](crate::guide::largest_cosine_margin).
///
/// ```text
/// z_y = s (cosθ_y − m)        z_j = s cosθ_j for j ≠ y        ℓ = ln Σ_j exp z_j − z_y
/// ```
/// ```math
/// z_y = s\,(\cos\theta_y - m), \qquad z_j = s \cos\theta_j \;\text{ for } j \ne y
/// \qquad \ell = \ln \sum_j e^{z_j} - z_y
/// ```
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
/// Both are orthogonal to what they are the gradient of, so a step changes directions first and lengths only in second order.
///
/// # Numerical notes
///
/// The logit is linear in the cosine, so there is no singular point: a feature that meets its class weight has gradient 0
/// towards it.
///
/// # Errors
///
/// As for [`MarginLoss`](crate::MarginLoss); zero features and zero class weights are refused.
///
/// # Examples
///
/// ```
/// use margin_losses::{CosFace, MarginLoss, Targets};
/// use margin_losses::ndarray::array;
///
/// let features = array![[1.0, 2.0], [2.0, -0.5]];
/// let weights = array![[0.0, 1.0], [1.0, 0.0]];
/// let loss = CosFace::new(10.0, 0.2)?;
/// let out = loss.evaluate(features.view(), weights.view(), &Targets::new(&[0, 1]))?;
/// assert_eq!(out.forward.accuracy(), Some(1.0));
/// # Ok::<(), margin_losses::Error>(())
/// ```
///
/// # References
///
/// Wang et al., *CosFace*, equation 4; the bound on s is equation 6 and that on m equation 7
/// ([arXiv:1801.09414](https://arxiv.org/abs/1801.09414)).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CosFace {
    scale: f64,
    margin: f64,
    class_filter: Option<f64>,
}

impl CosFace {
    /// The scale s, the norm that features are given, and the margin m, in units of the cosine.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] unless s ∈ [10⁻⁶, 10⁶] and m ∈ [0, 2].
    pub fn new(scale: f64, margin: f64) -> Result<Self, Error> {
        Ok(Self {
            scale: error::scale(scale)?,
            margin: error::cosine_margin("margin", margin)?,
            class_filter: None,
        })
    }

    /// With inter-class filtering: a cosine of another class above the threshold counts as 0, and has no gradient.
    ///
    /// For training sets with identities under several labels: classes that are nearer than the threshold are taken for the same
    /// one, and no longer pushed apart. insightface has 0.4 for faces from the web. The loss jumps at the threshold.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] unless the threshold, a cosine, lies in [−1, 1].
    pub fn with_class_filter(self, threshold: f64) -> Result<Self, Error> {
        let class_filter = Some(error::class_filter(threshold)?);
        Ok(Self {
            class_filter,
            ..self
        })
    }

    /// s.
    #[must_use]
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// m.
    #[must_use]
    pub fn margin(&self) -> f64 {
        self.margin
    }

    /// The threshold of inter-class filtering, if there is one.
    #[must_use]
    pub fn class_filter(&self) -> Option<f64> {
        self.class_filter
    }

    /// The same with another margin, which is in range.
    pub(crate) fn at_margin(self, margin: f64) -> Self {
        Self { margin, ..self }
    }

    fn head(&self) -> Head<'_> {
        Head::new(Layer::Cosine { scale: self.scale }).with_margin(self)
    }
}

/// s = 64, m = 0.35, the paper's.
impl Default for CosFace {
    fn default() -> Self {
        Self {
            scale: 64.0,
            margin: 0.35,
            class_filter: None,
        }
    }
}

impl Margin for CosFace {
    fn target_logit(&self, target: &Target) -> TargetLogit {
        TargetLogit::from_cosine_slope(target.cos() - self.margin, 1.0, target.angle())
    }

    fn negatives(&self, _: &Target) -> Negatives {
        Negatives::filtered(self.class_filter)
    }

    fn own_scale(&self) -> Option<f64> {
        Some(self.scale)
    }
}

impl<A: Float> MarginLoss<A> for CosFace {
    fn run(&self, request: Request<'_, A>) -> Result<(), Error> {
        A::solve(TOKEN, &self.head(), request)
    }

    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
