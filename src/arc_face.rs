//! ArcFace: an additive margin on the angle.

use core::f64::consts::PI;
use core::fmt;

use crate::driver::{Head, Layer};
use crate::error::{self, Error};
use crate::float::{Float, sealed::TOKEN};
use crate::loss::MarginLoss;
use crate::margin::{Margin, Negatives, Target, TargetLogit};
use crate::request::Request;

/// What becomes of the target's logit at wide angles, where cos(θ + m) flattens, and past π − m rises again.
///
/// A logit ψ(θ) asks the target for a lead of `cosθ − ψ(θ)` over the other classes. The paper's lead is widest, 2 sin(m/2), at
/// θ = (π − m)/2, which is 75.7° for m = 0.5. Beyond, it shrinks: a row is cheaper the farther it is from its class.
///
/// | rule | from | ψ(θ) there | continuous | decreasing | lead at π, m = 0.5 |
/// |---|---|---|---|---|---|
/// | [`CosineTail`](Self::CosineTail) | (π − m)/2 | cosθ − 2 sin(m/2) | yes, with its slope | yes | 0.495, the widest |
/// | [`Paper`](Self::Paper) | | cos(θ + m) | yes, with its slope | no | −0.122 |
/// | [`LinearTail`](Self::LinearTail) | π − m | cosθ − m sin m | no: falls | yes | 0.240 |
/// | [`JoinedTail`](Self::JoinedTail) | π − m | cosθ − (1 − cos m) | yes | yes | 0.122 |
/// | [`SmoothTail`](Self::SmoothTail) | π − m | −2 − cos(θ + m) | yes, with its slope | yes | 0.122 |
/// | [`EasyMargin`](Self::EasyMargin) | π/2 | cosθ | no: rises | no | 0 |
///
/// (For m above 2.33, more than any use, the linear tail rises at π − m instead.)
///
/// # Which one to take
///
/// The default is `CosineTail`. Where all features begin in about one direction, as with inputs that are not centred, they move
/// along it together, to where the lead is least. By every rule whose lead shrinks, that may be opposite to all classes: training
/// ends there, by the paper's rule at a loss near 0 and with an accuracy of 0. `CosineTail` keeps the widest lead, as
/// [`CosFace`](crate::CosFace) with a margin of 2 sin(m/2) does, so that no direction away from the class is cheaper.
/// `cargo run --release --example collapse` compares the rules, and
/// [choosing a loss](crate::_documentation::choosing#the-loss-falls-and-nothing-is-learned) has its table.
///
/// `Paper` is the published formula, for published numbers. It has the bits of `CosineTail` while no row of the batch is more
/// than (π − m)/2 from its class. The others are those of public code.
///
/// # Examples
///
/// ```
/// use margin_losses::{Angle, ArcFace, Margin, PastPi};
///
/// let lead = |rule, radians| {
///     let angle = Angle::from_radians(radians);
///     let loss = ArcFace::default().with_past_pi(rule);
///     angle.cos() - loss.target_logit(&angle.into()).value()
/// };
/// assert_eq!(lead(PastPi::Paper, 1.3), lead(PastPi::CosineTail, 1.3));  // the same up to (π − m)/2
/// assert!(lead(PastPi::Paper, 3.1) < 0.0);                              // rewarded for being opposite
/// assert!(lead(PastPi::CosineTail, 3.1) > 0.49);
/// assert_eq!("paper".parse(), Ok(PastPi::Paper));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
pub enum PastPi {
    /// cosθ − 2 sin(m/2) past (π − m)/2: the lead that the target needs never shrinks.
    #[default]
    CosineTail,
    /// cos(θ + m) everywhere.
    Paper,
    /// cosθ − m sin m past π − m, as in most public code.
    LinearTail,
    /// cosθ − (1 − cos m) past π − m: the rule of the recipes for speaker verification (wespeaker, 3D-Speaker).
    JoinedTail,
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
/// Past θ_y = (π − m)/2 the target's logit is s (cosθ_y − 2 sin(m/2)): [`PastPi`] says why, and names the other rules, the
/// paper's formula at every angle among them.
///
/// # Shapes
///
/// Features N×d and class weights C×d, none of them zero.
///
/// # Gradients
///
/// As for [`CosFace`](crate::CosFace), but `A_iy = s G_iy sin(θ + m)/sinθ`. The quotient is unbounded at the poles and its
/// product with the tangent is not. It is 1 past (π − m)/2. With u, the unit tangent at x̂ towards ŵ_y:
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
/// let loss = ArcFace::new(16.0, 0.5)?.with_past_pi(PastPi::Paper);    // the published formula
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
    class_filter: Option<f64>,
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
            past_pi: PastPi::default(),
            class_filter: None,
        })
    }

    /// Another rule at wide angles.
    #[must_use]
    pub fn with_past_pi(self, past_pi: PastPi) -> Self {
        Self { past_pi, ..self }
    }

    /// With inter-class filtering, as for [`CosFace::with_class_filter`](crate::CosFace::with_class_filter).
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

    /// m, in radians.
    #[must_use]
    pub fn margin(&self) -> f64 {
        self.margin
    }

    /// The rule at wide angles.
    #[must_use]
    pub fn past_pi(&self) -> PastPi {
        self.past_pi
    }

    /// With parameters that are known to be in range.
    pub(crate) fn of(scale: f64, margin: f64, past_pi: PastPi) -> Self {
        Self {
            scale,
            margin,
            past_pi,
            class_filter: None,
        }
    }

    /// ∂ψ/∂m, for margins that depend on something.
    pub(crate) fn slope_in_margin(&self, target: &Target) -> f64 {
        let (angle, m) = (target.angle(), self.margin);
        let past = angle.radians() > PI - m;
        match self.past_pi {
            PastPi::CosineTail if angle.radians() > (PI - m) / 2.0 => -(m / 2.0).cos(),
            PastPi::LinearTail if past => -(m.sin() + m * m.cos()),
            PastPi::JoinedTail if past => -m.sin(),
            PastPi::EasyMargin if angle.cos() <= 0.0 => 0.0,
            // θ + m is turned by either alike.
            _ => self.target_logit(target).angle_slope(),
        }
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

/// s = 64, m = 0.5, the paper's; [`PastPi::CosineTail`], which is not.
impl Default for ArcFace {
    fn default() -> Self {
        Self {
            scale: 64.0,
            margin: 0.5,
            past_pi: PastPi::default(),
            class_filter: None,
        }
    }
}

impl Margin for ArcFace {
    fn target_logit(&self, target: &Target) -> TargetLogit {
        let (angle, m) = (target.angle(), self.margin);
        let past = angle.radians() > PI - m;
        let (sin, cos) = (angle.radians() + m).sin_cos();
        let cosine_minus =
            |lead: f64| TargetLogit::from_angle_slope(angle.cos() - lead, -angle.sin());
        match self.past_pi {
            PastPi::CosineTail if angle.radians() > 0.5 * (PI - m) => {
                cosine_minus(2.0 * (0.5 * m).sin())
            }
            PastPi::LinearTail if past => cosine_minus(m * m.sin()),
            PastPi::JoinedTail if past => cosine_minus(1.0 - m.cos()),
            PastPi::SmoothTail if past => TargetLogit::from_angle_slope(-2.0 - cos, sin),
            PastPi::EasyMargin if angle.cos() <= 0.0 => cosine_minus(0.0),
            _ => TargetLogit::from_angle_slope(cos, -sin),
        }
    }

    fn negatives(&self, _: &Target) -> Negatives {
        Negatives::filtered(self.class_filter)
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
    fn tails_decrease_and_the_smooth_ones_are_smooth() {
        const STEPS: u32 = 1_000_000;
        let step = PI / f64::from(STEPS);
        for rule in [
            PastPi::CosineTail,
            PastPi::LinearTail,
            PastPi::JoinedTail,
            PastPi::SmoothTail,
        ] {
            let mut last = psi(rule, 0.0);
            for i in 1..=STEPS {
                let here = psi(rule, f64::from(i) * step);
                assert!(here.value() <= last.value(), "{rule:?} rises at {i}");
                if rule != PastPi::LinearTail {
                    let fall = last.value() - here.value();
                    assert!(fall <= 1.01 * step, "{rule:?} jumps at {i}");
                }
                if matches!(rule, PastPi::CosineTail | PastPi::SmoothTail) {
                    let bend = (here.angle_slope() - last.angle_slope()).abs();
                    assert!(bend <= 1.01 * step, "{rule:?} bends at {i}");
                }
                last = here;
            }
        }
    }

    /// The lead cosθ − ψ: what keeps a row that is far from its class from going farther.
    #[test]
    fn the_lead_shrinks_by_every_rule_but_the_default() {
        for rule in [
            PastPi::CosineTail,
            PastPi::Paper,
            PastPi::LinearTail,
            PastPi::JoinedTail,
            PastPi::SmoothTail,
        ] {
            let lead = |theta: f64| theta.cos() - psi(rule, theta).value();
            let widest = (0..=1000).map(|i| lead(f64::from(i) * PI / 1000.0));
            let widest = widest.fold(0.0, f64::max);
            assert!((widest - 2.0 * 0.25_f64.sin()).abs() < 1e-6, "{rule:?}");
            let shrinks = widest - lead(PI) > 1e-6;
            assert_eq!(shrinks, rule != PastPi::default(), "{rule:?}");
        }
    }

    #[test]
    fn jumps_are_where_and_as_high_as_documented() {
        let joint = PI - 0.5;
        let jump = |rule, at: f64| psi(rule, at + 1e-12).value() - psi(rule, at - 1e-12).value();
        assert!((jump(PastPi::LinearTail, joint) + 0.117_295_331).abs() < 1e-8);
        assert!((jump(PastPi::EasyMargin, PI / 2.0) - 0.5_f64.sin()).abs() < 1e-8);
        for rule in [PastPi::Paper, PastPi::JoinedTail] {
            assert!(jump(rule, joint).abs() < 1e-11);
        }
        // The joint itself is not past it.
        assert_eq!(psi(PastPi::LinearTail, joint).value(), -1.0);
    }
}
