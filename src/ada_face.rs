//! AdaFace: a margin that adapts to the quality of the image, as the norm of its feature tells it.

use core::f64::consts::PI;
use core::fmt;

use crate::driver::{Head, Layer};
use crate::error::{self, Error, parameter};
use crate::float::{Float, sealed::TOKEN};
use crate::loss::MarginLoss;
use crate::margin::{Angle, Margin, Target, TargetLogit};
use crate::request::Request;

/// What becomes of AdaFace's turned angle θ − m k̂ where it leaves [0, π].
///
/// | rule | ψ(θ) + m (1 + k̂) | past the ends |
/// |---|---|---|
/// | [`Paper`](Self::Paper) | cos(θ − m k̂) | falls as θ → 0 where k̂ > 0, rises as θ → π where k̂ < 0 |
/// | [`Clipped`](Self::Clipped) | the same, θ − m k̂ clipped to [ε, π − ε] | constant, and the target has no gradient |
///
/// The default is the paper's formula. The authors' code clips. A row within m k̂ of its class, with a norm above the mean, is
/// drawn away from it by the formula, and left alone by the code.
///
/// # Examples
///
/// ```
/// use margin_losses::{AdaFace, Angle, Margin, Target, TurnedAngle};
///
/// // Long beside the mean: k̂ = 1.
/// let target = Target::from(Angle::from_radians(0.1)).with_feature_norm(90.0);
/// let mut loss = AdaFace::default();
/// loss.set_statistics(&[20.0, 10.0])?;
/// assert!(loss.target_logit(&target).angle_slope() > 0.0);
/// assert_eq!(loss.with_turned_angle(TurnedAngle::Clipped).target_logit(&target).angle_slope(), 0.0);
/// assert_eq!("clipped".parse(), Ok(TurnedAngle::Clipped));
/// # Ok::<(), margin_losses::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
pub enum TurnedAngle {
    /// cos(θ − m k̂) everywhere.
    #[default]
    Paper,
    /// θ − m k̂ clipped to [ε, π − ε], as in the authors' code.
    Clipped,
}

/// AdaFace: the margin adapts to the quality of the image, as the norm of its feature tells it.
///
/// Networks give short features to images that hardly show a face. AdaFace asks most of hard rows where the image is good,
/// and of easy rows where it is bad, so that training does not insist on what cannot be recognised. For data whose quality
/// varies: surveillance, video, crops from the web.
///
/// ```text
/// z_y = s (cos(θ_y − m k̂) − m (1 + k̂))        z_j = s cosθ_j for j ≠ y        ℓ = ln Σ_j exp z_j − z_y
/// k̂ = clip(h (a − μ)/(σ + ε), −1, 1)          a = clip(‖x‖, 10⁻³, 100)
/// ```
/// ```math
/// z_y = s\,\bigl(\cos(\theta_y - m \hat k) - m (1 + \hat k)\bigr), \qquad z_j = s \cos\theta_j \;\text{ for } j \ne y
/// \qquad \ell = \ln \sum_j e^{z_j} - z_y
/// ```
/// ```math
/// \hat k = \operatorname{clip}\Bigl(h\, \frac{a - \mu}{\sigma + \varepsilon},\, -1,\, 1\Bigr), \qquad a = \operatorname{clip}(\lVert x \rVert,\, 10^{-3},\, 100)
/// ```
///
/// At k̂ = −1 the margin is [`ArcFace`](crate::ArcFace)'s by the rule [`Paper`](crate::PastPi::Paper), at 0 [`CosFace`](crate::CosFace)'s, and at 1 it is
/// `cos(θ − m) − 2m`.
///
/// # Statistics
///
/// μ and σ are [`statistics`](crate::MarginLoss::statistics): running mean and deviation of the norms a, beginning at 20 and
/// 100. Each evaluation moves them by its batch, uses what they have become, and returns that. Put it back after each step:
///
/// ```text
/// μ ← α mean(a) + (1 − α) μ        σ ← α deviation(a) + (1 − α) σ, with the divisor N − 1
/// ```
/// ```math
/// \mu \leftarrow \alpha\, \bar a + (1 - \alpha)\, \mu, \qquad
/// \sigma \leftarrow \alpha \sqrt{\tfrac{1}{N - 1} \textstyle\sum_i (a_i - \bar a)^2} + (1 - \alpha)\, \sigma
/// ```
///
/// σ stays as it is with a batch of one row, μ and σ with a batch of none. α is the share of the newest batch. The paper's text
/// has 0.99. The authors' code, and the commands that it is published with, have 0.01, which is the default here.
/// [`with_momentum`](Self::with_momentum) takes another: 1 for the statistics of the batch alone, 0 for statistics that stay,
/// as in an evaluation of other data whose loss is to be compared. A loss that is built anew, as for a margin that is warmed
/// up, begins at 20 and 100: hand the statistics on.
///
/// # Shapes
///
/// Features N×d and class weights C×d, none of them zero.
///
/// # Gradients
///
/// k̂ is a constant, in the paper and here. Otherwise short features would lower the loss, and all features would be told to
/// become short. So the gradient is that of [`ArcFace`](crate::ArcFace) with the margin −m k̂, and orthogonal to x:
///
/// ```text
/// ∂z_y/∂x = s sin(θ_y − m k̂)/‖x‖ · u        u = (ŵ_y − cosθ_y x̂)/sinθ_y
/// ```
/// ```math
/// \frac{\partial z_y}{\partial x} = \frac{s \sin(\theta_y - m \hat k)}{\lVert x \rVert}\, u,
/// \qquad u = \frac{\hat w_y - \cos\theta_y\, \hat x}{\sin\theta_y}
/// ```
///
/// # Numerical notes
///
/// The angle is as exact as ArcFace's; cosines are not clipped. Norms and statistics are in `f64`.
///
/// The loss depends on the lengths of the features. Norms above 100 all count as 100: features that are longer by nature have
/// to be scaled.
///
/// # Errors
///
/// As for [`MarginLoss`](crate::MarginLoss); zero features and zero class weights are refused.
///
/// # Examples
///
/// ```
/// use margin_losses::{AdaFace, MarginLoss, Targets};
/// use margin_losses::ndarray::array;
///
/// let features = array![[10.0, 20.0], [20.0, -5.0], [0.5, 0.75]];
/// let weights = array![[0.0, 1.0], [1.0, 0.0]];
/// let mut loss = AdaFace::new(16.0, 0.4)?;
/// for _step in 0..3 {
///     let out = loss.evaluate(features.view(), weights.view(), &Targets::new(&[0, 1, 1]))?;
///     loss.set_statistics(out.statistics())?;
/// }
/// assert!(loss.mean() < 20.0);
/// # Ok::<(), margin_losses::Error>(())
/// ```
///
/// # References
///
/// Kim et al., *AdaFace: Quality Adaptive Margin for Face Recognition*, CVPR 2022
/// ([arXiv:2204.00964](https://arxiv.org/abs/2204.00964)); the authors' code, `mk-minchul/AdaFace`, for ε, the range of the norms
/// and α.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdaFace {
    scale: f64,
    margin: f64,
    concentration: f64,
    momentum: f64,
    epsilon: f64,
    turned_angle: TurnedAngle,
    /// μ, σ.
    statistics: [f64; 2],
}

/// The range that norms are clipped to.
const SHORTEST: f64 = 1e-3;
const LONGEST: f64 = 100.0;

impl AdaFace {
    /// The scale s and the margin m, in radians and in units of the cosine. The rest is as in [`default`](Self::default).
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] unless s ∈ [10⁻⁶, 10⁶] and m ∈ [0, π).
    pub fn new(scale: f64, margin: f64) -> Result<Self, Error> {
        Ok(Self {
            scale: error::scale(scale)?,
            margin: error::angular_margin("margin", margin)?,
            ..Self::default()
        })
    }

    /// The concentration h: at 1/3, two thirds of normally distributed norms have k̂ within ±1/3. At 0 the loss is CosFace.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] if h is negative or not finite.
    pub fn with_concentration(self, concentration: f64) -> Result<Self, Error> {
        let holds = concentration >= 0.0 && concentration.is_finite();
        let rule = "be non-negative and finite";
        let concentration = parameter("concentration", concentration, holds, rule)?;
        Ok(Self {
            concentration,
            ..self
        })
    }

    /// The share α of the newest batch in the statistics: 1 for the batch alone, 0 for statistics that stay.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] unless α ∈ [0, 1].
    pub fn with_momentum(self, momentum: f64) -> Result<Self, Error> {
        let momentum = error::momentum(momentum)?;
        Ok(Self { momentum, ..self })
    }

    /// ε, which is added to σ, and keeps [clipped](TurnedAngle::Clipped) angles from 0 and π.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] unless ε ∈ [10⁻⁶, 1].
    pub fn with_epsilon(self, epsilon: f64) -> Result<Self, Error> {
        let holds = (1e-6..=1.0).contains(&epsilon);
        let epsilon = parameter("epsilon", epsilon, holds, "lie in [1e-6, 1]")?;
        Ok(Self { epsilon, ..self })
    }

    /// Another rule for θ − m k̂ outside of [0, π].
    #[must_use]
    pub fn with_turned_angle(self, turned_angle: TurnedAngle) -> Self {
        Self {
            turned_angle,
            ..self
        }
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

    /// h.
    #[must_use]
    pub fn concentration(&self) -> f64 {
        self.concentration
    }

    /// α.
    #[must_use]
    pub fn momentum(&self) -> f64 {
        self.momentum
    }

    /// ε.
    #[must_use]
    pub fn epsilon(&self) -> f64 {
        self.epsilon
    }

    /// The rule for θ − m k̂ outside of [0, π].
    #[must_use]
    pub fn turned_angle(&self) -> TurnedAngle {
        self.turned_angle
    }

    /// μ.
    #[must_use]
    pub fn mean(&self) -> f64 {
        self.statistics[0]
    }

    /// σ.
    #[must_use]
    pub fn deviation(&self) -> f64 {
        self.statistics[1]
    }

    /// k̂ of a feature of that norm, in [−1, 1].
    #[must_use]
    pub fn quality(&self, feature_norm: f64) -> f64 {
        let [mean, deviation] = self.statistics;
        let off = (clipped(feature_norm) - mean) / (deviation + self.epsilon);
        (self.concentration * off).clamp(-1.0, 1.0)
    }

    /// μ and σ; see [`MarginLoss::statistics`](crate::MarginLoss::statistics).
    #[must_use]
    pub fn statistics(&self) -> &[f64] {
        &self.statistics
    }

    /// Replaces them; see [`MarginLoss::set_statistics`](crate::MarginLoss::set_statistics).
    ///
    /// # Errors
    ///
    /// [`Error::StatisticCount`] unless there are two, and [`Error::Parameter`] unless both lie in [0, 100], where norms are
    /// clipped to; they are then as they were.
    pub fn set_statistics(&mut self, values: &[f64]) -> Result<(), Error> {
        let &[mean, deviation] = values else {
            return Err(Error::StatisticCount {
                expected: 2,
                found: values.len(),
            });
        };
        let in_range = |name, value: f64| {
            let holds = (0.0..=LONGEST).contains(&value);
            parameter(name, value, holds, "lie in [0, 100]")
        };
        self.statistics = [in_range("mean", mean)?, in_range("deviation", deviation)?];
        Ok(())
    }

    /// The same with the statistics that a batch of features of these norms leaves.
    fn after(self, norms: &[f64]) -> Self {
        let rows = norms.len() as f64;
        let [mut mean, mut deviation] = self.statistics;
        let average = norms.iter().copied().map(clipped).sum::<f64>() / rows;
        // Rounding may not lead out of the range that is set.
        let towards =
            |old: f64, new: f64| (self.momentum * new + (1.0 - self.momentum) * old).min(LONGEST);
        if !norms.is_empty() {
            mean = towards(mean, average);
        }
        if norms.len() > 1 {
            let squares = norms.iter().map(|&norm| (clipped(norm) - average).powi(2));
            deviation = towards(deviation, (squares.sum::<f64>() / (rows - 1.0)).sqrt());
        }
        Self {
            statistics: [mean, deviation],
            ..self
        }
    }

    fn head(&self) -> Head<'_> {
        Head::new(Layer::Cosine { scale: self.scale }).with_margin(self)
    }
}

/// The norm that counts. That of a feature which the driver will refuse is a number too, so that it is the driver that refuses.
fn clipped(norm: f64) -> f64 {
    if norm.is_nan() {
        SHORTEST
    } else {
        norm.clamp(SHORTEST, LONGEST)
    }
}

/// s = 64, m = 0.4, h = 0.333, α = 0.01, ε = 10⁻³, the authors', and μ = 20, σ = 100 to begin with.
impl Default for AdaFace {
    fn default() -> Self {
        Self {
            scale: 64.0,
            margin: 0.4,
            concentration: 0.333,
            momentum: 0.01,
            epsilon: 1e-3,
            turned_angle: TurnedAngle::Paper,
            statistics: [20.0, 100.0],
        }
    }
}

/// With the statistics as they are: a margin sees one row.
impl Margin for AdaFace {
    fn target_logit(&self, target: &Target) -> TargetLogit {
        let (m, k) = (self.margin, self.quality(target.feature_norm()));
        let subtracted = m * (1.0 + k);
        let turned = target.radians() - m * k;
        let (first, last) = (self.epsilon, PI - self.epsilon);
        if self.turned_angle == TurnedAngle::Clipped && !(first..=last).contains(&turned) {
            let end = turned.clamp(first, last);
            return TargetLogit::from_angle_slope(end.cos() - subtracted, 0.0);
        }
        // An angle that is not turned is known better than its radians.
        let angle = if m * k == 0.0 {
            target.angle()
        } else {
            Angle::from_radians(turned)
        };
        TargetLogit::from_angle_slope(angle.cos() - subtracted, -angle.sin())
    }

    fn own_scale(&self) -> Option<f64> {
        Some(self.scale)
    }
}

impl<A: Float> MarginLoss<A> for AdaFace {
    fn run(&self, mut request: Request<'_, A>) -> Result<(), Error> {
        if request.wants_scores() {
            return A::solve(TOKEN, &self.head(), request);
        }
        let updated = self.after(&A::norms(TOKEN, request.features()));
        A::solve(TOKEN, &updated.head(), request.reborrow())?;
        request.evaluation.forward.statistics = updated.statistics.to_vec();
        Ok(())
    }

    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }

    fn statistics(&self) -> &[f64] {
        self.statistics()
    }

    fn set_statistics(&mut self, values: &[f64]) -> Result<(), Error> {
        self.set_statistics(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ArcFace, CosFace, PastPi};

    /// Statistics for which k̂ is h times the norm minus 20.
    fn at(quality: f64) -> (AdaFace, f64) {
        let loss = AdaFace::default()
            .with_concentration(1.0)
            .expect("in range");
        let loss = AdaFace {
            statistics: [20.0, 1.0 - loss.epsilon],
            ..loss
        };
        (loss, 20.0 + quality)
    }

    #[test]
    fn the_ends_of_quality_are_arc_face_and_cos_face() {
        for theta in [0.0, 0.3, 1.0, 2.5, 3.1] {
            let angle = Angle::from_radians(theta);
            let psi = |quality| {
                let (loss, norm) = at(quality);
                loss.target_logit(&Target::from(angle).with_feature_norm(norm))
            };
            let arc_face = ArcFace::of(64.0, 0.4, PastPi::Paper);
            let cos_face = CosFace::new(64.0, 0.4).expect("in range");
            let arc = arc_face.target_logit(&angle.into());
            let cos = cos_face.target_logit(&angle.into());
            for beyond in [-1.0, -7.0] {
                assert_eq!(psi(beyond), arc, "at {theta}");
            }
            let even = psi(0.0);
            assert_eq!(even.value(), cos.value());
            assert!((even.angle_slope() - cos.angle_slope()).abs() < 1e-15);
            let best = psi(1.0);
            assert!((best.value() - ((theta - 0.4).cos() - 0.8)).abs() < 1e-15);
        }
    }

    #[test]
    fn statistics_of_few_rows() {
        let loss = AdaFace::default().with_momentum(1.0).expect("in range");
        assert_eq!(loss.after(&[]).statistics, [20.0, 100.0]);
        assert_eq!(loss.after(&[7.0]).statistics, [7.0, 100.0]);
        assert_eq!(loss.after(&[7.0, 9.0]).statistics, [8.0, 2.0_f64.sqrt()]);
        assert_eq!(
            loss.after(&[1e-9, 1e9]).mean(),
            f64::midpoint(SHORTEST, LONGEST)
        );
        // What the driver refuses leaves numbers here.
        assert!(
            loss.after(&[f64::NAN, f64::INFINITY, 3.0])
                .mean()
                .is_finite()
        );
    }
}
