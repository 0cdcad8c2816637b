//! MagFace: a margin that grows with the norm of the feature, so that the norm learns to tell quality.

use core::fmt;

use crate::arc_face::{ArcFace, PastPi};
use crate::driver::{Head, Layer};
use crate::error::{self, Error, parameter};
use crate::float::{Float, sealed::TOKEN};
use crate::loss::MarginLoss;
use crate::margin::{Margin, Target, TargetLogit};
use crate::request::Request;

/// MagFace: ArcFace with a margin that grows with the norm of the feature, and a price on short features.
///
/// The price draws all features outwards, the margin draws those back that cannot reach it. What remains is a norm that tells
/// how well a feature can be recognised, which an application reads off without another network.
///
/// ```text
/// z_y = s cos(θ_y + m(a))        z_j = s cosθ_j for j ≠ y        ℓ = ln Σ_j exp z_j − z_y + λ_g g(a)
/// m(a) = l_m + κ (a − l_a)       κ = (u_m − l_m)/(u_a − l_a)     g(a) = a/u_a² + 1/a     a = clip(‖x‖, l_a, u_a)
/// ```
/// ```math
/// z_y = s \cos(\theta_y + m(a)), \qquad z_j = s \cos\theta_j \;\text{ for } j \ne y
/// \qquad \ell = \ln \sum_j e^{z_j} - z_y + \lambda_g\, g(a)
/// ```
/// ```math
/// m(a) = l_m + \kappa\, (a - l_a), \qquad \kappa = \frac{u_m - l_m}{u_a - l_a}, \qquad g(a) = \frac{a}{u_a^2} + \frac{1}{a},
/// \qquad a = \operatorname{clip}(\lVert x \rVert,\, l_a,\, u_a)
/// ```
///
/// λ_g has a least value, below which a short feature of a hard row becomes shorter still:
/// [`guide::mag_face_least_regulariser`](crate::guide::mag_face_least_regulariser).
///
/// # Shapes
///
/// Features N×d and class weights C×d, none of them zero.
///
/// # Gradients
///
/// Nothing is taken as a constant. To the gradient of [`ArcFace`](crate::ArcFace) with the margin m(a) comes a part along the
/// feature, where `G_iy = (p_iy − 1)·rᵢ/N`. Outside of [l_a, u_a] it is 0, so that nothing draws such a feature back into the
/// range:
///
/// ```text
/// x̂ᵢ·∂xᵢ = −s G_iy κ sin(θ + m(a)) + λ_g rᵢ/N (1/u_a² − 1/a²)
/// ```
/// ```math
/// \hat x_i \cdot \frac{\partial L}{\partial x_i}
/// = -s\, G_{iy}\, \kappa \sin(\theta + m(a)) + \lambda_g \frac{r_i}{N} \Bigl(\frac{1}{u_a^2} - \frac{1}{a^2}\Bigr)
/// ```
///
/// Row weights and the reduction apply to the price as to the rest of ℓᵢ.
///
/// # Numerical notes
///
/// Those of ArcFace. The loss depends on the lengths of the features. Networks whose features have norms near 1 need other
/// bounds: the authors name 1 and 51, with λ_g = 5.
///
/// # Errors
///
/// As for [`MarginLoss`](crate::MarginLoss); zero features and zero class weights are refused.
///
/// # Examples
///
/// The gradient has a part along the feature, which ArcFace's has not:
///
/// ```
/// use margin_losses::{MagFace, MarginLoss, Targets};
/// use margin_losses::ndarray::array;
///
/// let features = array![[10.0, 20.0], [20.0, -5.0]];
/// let weights = array![[0.0, 1.0], [1.0, 0.0]];
/// let out = MagFace::default().evaluate(features.view(), weights.view(), &Targets::new(&[0, 1]))?;
/// let along: f64 = (&features * &out.grad_features).sum();
/// assert!(along.abs() > 1e-3);
/// # Ok::<(), margin_losses::Error>(())
/// ```
///
/// # References
///
/// Meng et al., *MagFace: A Universal Representation for Face Recognition and Quality Assessment*, CVPR 2021
/// ([arXiv:2103.06627](https://arxiv.org/abs/2103.06627)); the authors' code, `IrvingMeng/MagFace`, for the parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MagFace {
    scale: f64,
    margins: [f64; 2],
    norms: [f64; 2],
    regulariser: f64,
    past_pi: PastPi,
}

impl MagFace {
    /// The scale s, and the margins l_m and u_m of the shortest and the longest features, in radians. The rest is as in
    /// [`default`](Self::default).
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] unless s ∈ [10⁻⁶, 10⁶], l_m and u_m ∈ [0, π), and l_m ≤ u_m.
    pub fn new(scale: f64, lower_margin: f64, upper_margin: f64) -> Result<Self, Error> {
        let scale = error::scale(scale)?;
        let lower = error::angular_margin("lower_margin", lower_margin)?;
        let upper = error::angular_margin("upper_margin", upper_margin)?;
        let rule = "not lie below the lower margin";
        let upper = parameter("upper_margin", upper, lower <= upper, rule)?;
        Ok(Self {
            scale,
            margins: [lower, upper],
            ..Self::default()
        })
    }

    /// The norms l_a and u_a at which the margin is least and largest.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] unless both lie in [10⁻³, 10⁶], and l_a < u_a.
    pub fn with_norms(self, lower_norm: f64, upper_norm: f64) -> Result<Self, Error> {
        let in_range = |name, value: f64| {
            let holds = (1e-3..=1e6).contains(&value);
            parameter(name, value, holds, "lie in [1e-3, 1e6]")
        };
        let lower = in_range("lower_norm", lower_norm)?;
        let upper = in_range("upper_norm", upper_norm)?;
        let rule = "lie above the lower norm";
        let upper = parameter("upper_norm", upper, lower < upper, rule)?;
        Ok(Self {
            norms: [lower, upper],
            ..self
        })
    }

    /// λ_g, the weight of the price on short features.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] unless λ_g ∈ [0, 10⁶].
    pub fn with_regulariser(self, weight: f64) -> Result<Self, Error> {
        let holds = (0.0..=1e6).contains(&weight);
        let regulariser = parameter("regulariser", weight, holds, "lie in [0, 1e6]")?;
        Ok(Self {
            regulariser,
            ..self
        })
    }

    /// Another rule at wide angles. The default is [`Paper`](PastPi::Paper), this paper's formula, where
    /// [`ArcFace`](crate::ArcFace) has [`CosineTail`](PastPi::CosineTail). The authors' code has
    /// [`EasyMargin`](PastPi::EasyMargin).
    #[must_use]
    pub fn with_past_pi(self, past_pi: PastPi) -> Self {
        Self { past_pi, ..self }
    }

    /// s.
    #[must_use]
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// l_m and u_m, in radians.
    #[must_use]
    pub fn margins(&self) -> (f64, f64) {
        self.margins.into()
    }

    /// l_a and u_a.
    #[must_use]
    pub fn norms(&self) -> (f64, f64) {
        self.norms.into()
    }

    /// λ_g.
    #[must_use]
    pub fn regulariser(&self) -> f64 {
        self.regulariser
    }

    /// The rule at wide angles.
    #[must_use]
    pub fn past_pi(&self) -> PastPi {
        self.past_pi
    }

    /// m(a) of a feature of that norm, in radians.
    #[must_use]
    pub fn margin(&self, feature_norm: f64) -> f64 {
        let ([l_m, u_m], [l_a, u_a]) = (self.margins, self.norms);
        let past = feature_norm.clamp(l_a, u_a) - l_a;
        // Rounding may not lead past the upper margin.
        (l_m + self.slope() * past).min(u_m)
    }

    /// κ.
    pub(crate) fn slope(&self) -> f64 {
        let ([l_m, u_m], [l_a, u_a]) = (self.margins, self.norms);
        (u_m - l_m) / (u_a - l_a)
    }

    fn head(&self) -> Head<'_> {
        Head::new(Layer::Cosine { scale: self.scale }).with_margin(self)
    }
}

/// s = 64, l_m = 0.45, u_m = 0.8, l_a = 10, u_a = 110, λ_g = 35, the authors'.
impl Default for MagFace {
    fn default() -> Self {
        Self {
            scale: 64.0,
            margins: [0.45, 0.8],
            norms: [10.0, 110.0],
            regulariser: 35.0,
            past_pi: PastPi::Paper,
        }
    }
}

impl Margin for MagFace {
    fn target_logit(&self, target: &Target) -> TargetLogit {
        let [lower, upper] = self.norms;
        let norm = target.feature_norm();
        let a = norm.clamp(lower, upper);
        let inside = if a == norm { 1.0 } else { 0.0 };
        let arc_face = ArcFace::of(self.scale, self.margin(norm), self.past_pi);
        let psi = arc_face.target_logit(target);
        let by_margin = arc_face.slope_in_margin(target);
        let price = a / (upper * upper) + 1.0 / a;
        let price_slope = 1.0 / (upper * upper) - 1.0 / (a * a);
        psi.with_norm_slope(inside * by_margin * self.slope())
            .with_row_term(
                self.regulariser * price,
                inside * self.regulariser * price_slope,
            )
    }

    fn own_scale(&self) -> Option<f64> {
        Some(self.scale)
    }
}

impl<A: Float> MarginLoss<A> for MagFace {
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

    #[test]
    fn the_margin_between_its_bounds_and_beyond() {
        let loss = MagFace::default();
        let (ends, middle) = ([0.1, 10.0, 110.0, 1e300], 60.0);
        assert_eq!(ends.map(|norm| loss.margin(norm)), [0.45, 0.45, 0.8, 0.8]);
        assert!((loss.margin(middle) - 0.625).abs() < 1e-15);
    }

    /// Both slopes, on either side of the places where a rule changes.
    #[test]
    fn slopes_in_the_norm() {
        let rules = [
            PastPi::CosineTail,
            PastPi::Paper,
            PastPi::LinearTail,
            PastPi::JoinedTail,
            PastPi::SmoothTail,
            PastPi::EasyMargin,
        ];
        for rule in rules {
            let loss = MagFace::default().with_past_pi(rule);
            for theta in [0.0, 0.7, 1.57, 1.58, 2.3, 2.6, 3.0, 3.1] {
                for norm in [5.0, 10.0 + 1e-3, 60.0, 110.0 - 1e-3, 300.0] {
                    let at = |norm| {
                        let angle = Angle::from_radians(theta);
                        loss.target_logit(&Target::from(angle).with_feature_norm(norm))
                    };
                    let step = 1e-4;
                    let (up, down) = (at(norm + step), at(norm - step));
                    let difference = (up.value() - down.value()) / (2.0 * step);
                    let off = (at(norm).norm_slope() - difference).abs();
                    assert!(off < 1e-9, "{rule:?} at {theta}, {norm}: {off:e}");
                    let [up, down, here] = [up, down, at(norm)].map(TargetLogit::row_term);
                    let off = (here[1] - (up[0] - down[0]) / (2.0 * step)).abs();
                    assert!(off < 1e-8, "the price at {norm}: {off:e}");
                }
            }
        }
    }
}
