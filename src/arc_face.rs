//! ArcFace: an additive margin on the angle.

use core::f64::consts::PI;
use core::fmt;

use crate::driver::{Head, Layer};
use crate::error::{self, Error};
use crate::float::{Float, sealed::TOKEN};
use crate::loss::MarginLoss;
use crate::margin::{Margin, Target, TargetLogit};
use crate::request::Request;

/// What becomes of the target's logit once θ + m exceeds π, where cos(θ + m) would rise again.
///
/// | rule | logit past π − m | continuous | decreasing |
/// |---|---|---|---|
/// | [`Paper`](Self::Paper) | cos(θ + m) | yes | no |
/// | [`LinearTail`](Self::LinearTail) | cosθ − m sin m | no: falls at π − m | yes |
/// | [`SmoothTail`](Self::SmoothTail) | −2 − cos(θ + m) | yes, with its slope | yes |
/// | [`EasyMargin`](Self::EasyMargin) | no margin at all past π/2 | no: rises at π/2 | no |
///
/// (For m above 2.33, more than any use, the linear tail rises at π − m instead.)
///
/// The default is the paper's formula: it is what the published results were trained with, it is continuous, and training
/// hardly ever gets there, since features begin near 90° from their class and m is about 30°. Where features may begin
/// anywhere (a pretrained network on new classes, few dimensions), `SmoothTail` keeps a row beyond π − m from being pushed
/// away from its class.
///
/// # Examples
///
/// ```
/// use margin_losses::{Angle, ArcFace, Margin, PastPi};
///
/// let at = |rule, radians| {
///     let loss = ArcFace::default().with_past_pi(rule);
///     loss.target_logit(&Angle::from_radians(radians).into()).value()
/// };
/// assert!(at(PastPi::Paper, 3.1) > at(PastPi::Paper, 2.7));            // rises again
/// assert!(at(PastPi::SmoothTail, 3.1) < at(PastPi::SmoothTail, 2.7));  // goes on falling
/// assert_eq!("smooth-tail".parse(), Ok(PastPi::SmoothTail));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
pub enum PastPi {
    /// cos(θ + m) everywhere.
    #[default]
    Paper,
    /// cosθ − m sin m past π − m, as in most public code.
    LinearTail,
    /// −2 − cos(θ + m) past π − m: the second piece of A-Softmax's ψ, C¹ and decreasing.
    SmoothTail,
    /// cos(θ + m) where cosθ > 0, and cosθ elsewhere.
    EasyMargin,
}

/// ArcFace: the target's angle must win by m.
///
/// The margin is the same arc everywhere on the sphere, `θ₁ + m = θ₂` at the boundary of two classes. The usual choice for
/// faces and voices once training is stable; with few classes or a small network, begin with a smaller scale or
/// [`MarginWarmUp`](crate::schedule::MarginWarmUp).
///
/// ```text
/// z_y = s cos(θ_y + m)        z_j = s cosθ_j for j ≠ y        ℓ = ln Σ_j exp z_j − z_y
/// ```
/// ```math
/// z_y = s \cos(\theta_y + m), \qquad z_j = s \cos\theta_j \;\text{ for } j \ne y
/// \qquad \ell = \ln \sum_j e^{z_j} - z_y
/// ```
///
/// # Shapes
///
/// Features N×d and class weights C×d, none of them zero.
///
/// # Gradients
///
/// As for [`CosFace`](crate::CosFace), but `A_iy = s G_iy sin(θ + m)/sinθ`. The quotient is unbounded at the poles and its
/// product with the tangent is not. With u, the unit tangent at x̂ towards ŵ_y:
///
/// ```text
/// ∂z_y/∂x = s sin(θ_y + m)/‖x‖ · u        u = (ŵ_y − cosθ_y x̂)/sinθ_y
/// ```
/// ```math
/// \frac{\partial z_y}{\partial x} = \frac{s \sin(\theta_y + m)}{\lVert x \rVert}\, u,
/// \qquad u = \frac{\hat w_y - \cos\theta_y\, \hat x}{\sin\theta_y}
/// ```
///
/// This is the gradient of the loss above. Code that computes the angle outside of the differentiated graph has 1 in the
/// place of the quotient, which is another direction, and has the wrong sign past π − m.
///
/// # Numerical notes
///
/// The angle comes from chords, in `f64`: in `f32` too, logits are right to 2e-7 and the target's term of the gradients to
/// 1e-6 at every angle down to 1e-7 from 0 and π. Exactly at a pole u is undefined, and its mean over all directions, 0, is
/// taken. There is no clamp and no ε.
///
/// # Errors
///
/// As for [`MarginLoss`](crate::MarginLoss); zero features and zero class weights are refused.
///
/// # Examples
///
/// ```
/// use margin_losses::{ArcFace, MarginLoss, PastPi, Targets};
/// use margin_losses::ndarray::array;
///
/// // The first row meets its class exactly, where much public code returns NaN.
/// let features = array![[0.0_f32, 2.0], [2.0, -0.5]];
/// let weights = array![[0.0, 1.0], [1.0, 0.0]];
/// let loss = ArcFace::new(16.0, 0.5)?.with_past_pi(PastPi::SmoothTail);
/// let out = loss.evaluate(features.view(), weights.view(), &Targets::new(&[0, 1]))?;
/// assert!(out.grad_features.iter().all(|entry| entry.is_finite()));
/// # Ok::<(), margin_losses::Error>(())
/// ```
///
/// # References
///
/// Deng et al., *ArcFace*, equation 3 ([arXiv:1801.07698](https://arxiv.org/abs/1801.07698)).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ArcFace {
    scale: f64,
    margin: f64,
    past_pi: PastPi,
}

impl ArcFace {
    /// The scale s and the margin m, in radians.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] unless s ∈ [10⁻⁶, 10⁶] and m ∈ [0, π).
    pub fn new(scale: f64, margin: f64) -> Result<Self, Error> {
        Ok(Self {
            scale: error::scale(scale)?,
            margin: error::angular_margin("margin", margin)?,
            past_pi: PastPi::Paper,
        })
    }

    /// Another rule past θ + m = π.
    #[must_use]
    pub fn with_past_pi(self, past_pi: PastPi) -> Self {
        Self { past_pi, ..self }
    }

    /// s.
    #[must_use]
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// m, in radians.
    #[must_use]
    pub fn margin(&self) -> f64 {
        self.margin
    }

    /// The rule past θ + m = π.
    #[must_use]
    pub fn past_pi(&self) -> PastPi {
        self.past_pi
    }

    fn head(&self) -> Head<'_> {
        Head::new(Layer::Cosine { scale: self.scale }).with_margin(self)
    }
}

/// s = 64, m = 0.5, the paper's.
impl Default for ArcFace {
    fn default() -> Self {
        Self {
            scale: 64.0,
            margin: 0.5,
            past_pi: PastPi::Paper,
        }
    }
}

impl Margin for ArcFace {
    fn target_logit(&self, target: &Target) -> TargetLogit {
        let (angle, m) = (target.angle(), self.margin);
        let past = angle.radians() > PI - m;
        let (sin, cos) = (angle.radians() + m).sin_cos();
        match self.past_pi {
            PastPi::LinearTail if past => {
                TargetLogit::from_angle_slope(angle.cos() - m * m.sin(), -angle.sin())
            }
            PastPi::SmoothTail if past => TargetLogit::from_angle_slope(-2.0 - cos, sin),
            PastPi::EasyMargin if angle.cos() <= 0.0 => {
                TargetLogit::from_angle_slope(angle.cos(), -angle.sin())
            }
            _ => TargetLogit::from_angle_slope(cos, -sin),
        }
    }

    fn own_scale(&self) -> Option<f64> {
        Some(self.scale)
    }
}

impl<A: Float> MarginLoss<A> for ArcFace {
    fn run(&self, request: Request<'_, A>) -> Result<(), Error> {
        A::solve(TOKEN, &self.head(), request)
    }

    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::margin::Angle;

    fn psi(rule: PastPi, theta: f64) -> TargetLogit {
        ArcFace::default()
            .with_past_pi(rule)
            .target_logit(&Angle::from_radians(theta).into())
    }

    #[test]
    fn tails_decrease_and_the_smooth_one_is_smooth() {
        const STEPS: u32 = 1_000_000;
        let step = PI / f64::from(STEPS);
        for rule in [PastPi::LinearTail, PastPi::SmoothTail] {
            let mut last = f64::INFINITY;
            for i in 0..=STEPS {
                let value = psi(rule, f64::from(i) * step).value();
                assert!(value <= last, "{rule:?} rises at {i}");
                if rule == PastPi::SmoothTail && i > 0 {
                    assert!(last - value <= 1.01 * step, "jumps at {i}");
                }
                last = value;
            }
        }
    }

    #[test]
    fn jumps_are_where_and_as_high_as_documented() {
        let joint = PI - 0.5;
        let jump = |rule, at: f64| psi(rule, at + 1e-12).value() - psi(rule, at - 1e-12).value();
        assert!((jump(PastPi::LinearTail, joint) + 0.117_295_331).abs() < 1e-8);
        assert!((jump(PastPi::EasyMargin, PI / 2.0) - 0.5_f64.sin()).abs() < 1e-8);
        assert!(jump(PastPi::Paper, joint).abs() < 1e-11);
        // The joint itself is not past it.
        assert_eq!(psi(PastPi::LinearTail, joint).value(), -1.0);
    }
}
