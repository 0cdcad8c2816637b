//! The combined margin of the ArcFace paper.

use core::fmt;

use crate::driver::{Head, Layer};
use crate::error::{self, Error, parameter};
use crate::float::{Float, sealed::TOKEN};
use crate::loss::MarginLoss;
use crate::margin::{Margin, Target, TargetLogit};
use crate::request::Request;

/// The three margins at once: multiplied and added to the angle, subtracted from the cosine.
///
/// For reproducing the paper's comparison, and for searching between its losses: `(1, 0, m₃)` is
/// [`CosFace`](crate::CosFace), `(1, m₂, 0)` is [`ArcFace`](crate::ArcFace), and all three are honoured whatever the others
/// are. The paper's best are `(1, 0.3, 0.2)` and `(0.9, 0.4, 0.15)`.
///
/// The formula is taken as it stands at wide angles, where `(1, m₂, 0)` is `ArcFace` by [`PastPi::Paper`](crate::PastPi::Paper): on
/// inputs that are not centred a training may end opposite to all classes, though at a loss that shows it. Centre them, or warm
/// the margins up.
///
/// ```text
/// z_y = s (cos(m₁θ_y + m₂) − m₃)        z_j = s cosθ_j for j ≠ y        ℓ = ln Σ_j exp z_j − z_y
/// ```
/// ```math
/// z_y = s\,\bigl(\cos(m_1\theta_y + m_2) - m_3\bigr), \qquad z_j = s \cos\theta_j \;\text{ for } j \ne y
/// \qquad \ell = \ln \sum_j e^{z_j} - z_y
/// ```
///
/// # Shapes
///
/// Features N×d and class weights C×d, none of them zero.
///
/// # Gradients
///
/// As for [`ArcFace`](crate::ArcFace), with the slope of this margin:
///
/// ```text
/// ∂z_y/∂x = s m₁ sin(m₁θ_y + m₂)/‖x‖ · u
/// ```
/// ```math
/// \frac{\partial z_y}{\partial x} = \frac{s\, m_1 \sin(m_1\theta_y + m_2)}{\lVert x \rVert}\, u
/// ```
///
/// # Numerical notes
///
/// The formula is taken as it stands past m₁θ + m₂ = π, where it rises again.
///
/// # Errors
///
/// As for [`MarginLoss`](crate::MarginLoss); zero features and zero class weights are refused.
///
/// # Examples
///
/// ```
/// use margin_losses::{CombinedMargin, MarginLoss, Targets};
/// use margin_losses::ndarray::array;
///
/// let features = array![[1.0, 2.0], [2.0, -0.5]];
/// let weights = array![[0.0, 1.0], [1.0, 0.0]];
/// let loss = CombinedMargin::new(64.0, 1.0, 0.3, 0.2)?;
/// let out = loss.evaluate(features.view(), weights.view(), &Targets::new(&[0, 1]))?;
/// assert!(out.loss() > 0.0);
/// # Ok::<(), margin_losses::Error>(())
/// ```
///
/// # References
///
/// Deng et al., *ArcFace*, equation 4 ([arXiv:1801.07698](https://arxiv.org/abs/1801.07698)).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CombinedMargin {
    scale: f64,
    m1: f64,
    m2: f64,
    m3: f64,
}

impl CombinedMargin {
    /// The scale s, the factor m₁ and the summand m₂ of the angle (in radians), and m₃ in units of the cosine.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] unless s ∈ [10⁻⁶, 10⁶], m₁ ∈ (0, 1000], m₂ ∈ [0, π) and m₃ ∈ [0, 2].
    pub fn new(scale: f64, m1: f64, m2: f64, m3: f64) -> Result<Self, Error> {
        Ok(Self {
            scale: error::scale(scale)?,
            m1: parameter("m1", m1, m1 > 0.0 && m1 <= 1000.0, "lie in (0, 1000]")?,
            m2: error::angular_margin("m2", m2)?,
            m3: error::cosine_margin("m3", m3)?,
        })
    }

    /// s.
    #[must_use]
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// (m₁, m₂, m₃).
    #[must_use]
    pub fn margins(&self) -> (f64, f64, f64) {
        (self.m1, self.m2, self.m3)
    }

    fn head(&self) -> Head<'_> {
        Head::new(Layer::Cosine { scale: self.scale }).with_margin(self)
    }
}

impl Margin for CombinedMargin {
    fn target_logit(&self, target: &Target) -> TargetLogit {
        let (sin, cos) = (self.m1 * target.radians() + self.m2).sin_cos();
        TargetLogit::from_angle_slope(cos - self.m3, -self.m1 * sin)
    }

    fn own_scale(&self) -> Option<f64> {
        Some(self.scale)
    }
}

impl<A: Float> MarginLoss<A> for CombinedMargin {
    fn run(&self, request: Request<'_, A>) -> Result<(), Error> {
        A::solve(TOKEN, &self.head(), request)
    }

    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
