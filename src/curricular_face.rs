//! CurricularFace: hard negatives count little at first, and more and more as training goes on.

use core::fmt;
use core::ops::Range;

use ndarray::ArrayView2;

use crate::arc_face::{ArcFace, PastPi};
use crate::check::NO_CLASS;
use crate::driver::{Head, Layer};
use crate::error::{self, Argument, Error, parameter};
use crate::float::{Float, sealed::TOKEN};
use crate::loss::MarginLoss;
use crate::margin::{Margin, Negatives, Target, TargetLogit};
use crate::numerics::{Element, Norm, contiguous, dot};
use crate::request::Request;
use crate::shards::Shard;

/// CurricularFace: ArcFace whose hard negatives count little at first, and more and more as training goes on.
///
/// A class is *hard* for a row if its cosine exceeds cos(θ_y + m). Its cosine c becomes c (t + c), where t follows the mean
/// target cosine: about 0 at first, and near 1 in the end. For sets of many identities, in the place of
/// [`ArcFace`].
///
/// ```text
/// z_y = s cos(θ_y + m)        z_j = s c if c ≤ cos(θ_y + m), else s c (t + c), with c = cosθ_j for j ≠ y
/// ```
/// ```math
/// z_y = s \cos(\theta_y + m), \qquad z_j = s \begin{cases}
///   \cos\theta_j & \cos\theta_j \le \cos(\theta_y + m) \\
///   \cos\theta_j\, (t + \cos\theta_j) & \text{else}
/// \end{cases}
/// ```
///
/// # Statistics
///
/// t is the one of the [`statistics`](crate::MarginLoss::statistics), 0 to begin with. Each evaluation moves it by its batch, uses
/// what it has become, and returns that. Put it back after each step:
///
/// ```text
/// t ← α meanᵢ cosθ_iy + (1 − α) t
/// ```
/// ```math
/// t \leftarrow \alpha\, \frac{1}{N} \sum_i \cos\theta_{i y_i} + (1 - \alpha)\, t
/// ```
///
/// A row with [two targets](crate::Targets::with_second) counts with the mean of its two cosines, weighed as its losses are. t stays
/// as it is with a batch of no rows. α is the share of the newest batch. The paper's text has 0.99, where it means the
/// share of the past: the authors' code has 0.01, which its author has confirmed, and so is the default here.
/// [`with_momentum`](Self::with_momentum) takes another: 0 for a t that stays, as in an evaluation of other data whose loss is to be
/// compared.
///
/// # Negative cosines
///
/// At the start t is 0 and the target is at about 90°, so cos(θ_y + m) is about −0.48 and nearly every class is hard. Their
/// cosines become c². That weakens those above 0, as the paper means it. Below 0 the slope t + 2c of c (t + c) is negative where
/// c < −t/2: such a class is drawn towards the feature until its cosine is −t/2. This is what the formula says, and what
/// public code does. For the same reason the loss need not grow with t while hard classes have negative cosines.
///
/// # Shapes
///
/// Features N×d and class weights C×d, none of them zero.
///
/// # Gradients
///
/// As for [`ArcFace`], with `A_ij = s (t + 2 cosθ_j) G_ij` for hard classes. t is a constant, as in the paper and in all public
/// code, though it comes from the batch. Which classes are hard is taken as constant as well. Where a class with
/// c = τ = cos(θ_y + m) becomes hard, z_j jumps by s τ (t + τ − 1): down where 0 < τ < 1 − t, up elsewhere.
///
/// # Numerical notes
///
/// Those of [`ArcFace`]. Cosines are compared with cos(θ_y + m) in the element type, and a class within rounding of it may fall
/// on either side. Past π − m that threshold rises again, whatever the [rule](PastPi) for the target's logit.
///
/// # Errors
///
/// As for [`MarginLoss`](crate::MarginLoss); zero features and zero class weights are refused. t does not move on an error.
///
/// # Examples
///
/// ```
/// use margin_losses::{CurricularFace, MarginLoss, Targets};
/// use margin_losses::ndarray::array;
///
/// let features = array![[1.0, 0.8], [-0.3, 1.0]];
/// let weights = array![[1.0, 0.0], [0.6, 0.8]];
/// let mut loss = CurricularFace::new(16.0, 0.5)?;
/// for _step in 0..3 {
///     let out = loss.evaluate(features.view(), weights.view(), &Targets::new(&[0, 1]))?;
///     loss.set_statistics(out.statistics())?;
/// }
/// assert!(loss.t() > 0.0);
/// # Ok::<(), margin_losses::Error>(())
/// ```
///
/// # References
///
/// Huang et al., *CurricularFace: Adaptive Curriculum Learning Loss for Deep Face Recognition*, CVPR 2020
/// ([arXiv:2004.00288](https://arxiv.org/abs/2004.00288)); t is equation 9. The authors' code past π − m is
/// [`PastPi::LinearTail`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CurricularFace {
    base: ArcFace,
    momentum: f64,
    t: [f64; 1],
}

impl CurricularFace {
    /// The scale s and the margin m, in radians.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] unless s ∈ [10⁻⁶, 10⁶] and m ∈ [0, π).
    pub fn new(scale: f64, margin: f64) -> Result<Self, Error> {
        Ok(Self {
            base: ArcFace::new(scale, margin)?.with_past_pi(PastPi::Paper),
            ..Self::default()
        })
    }

    /// Another rule for the target's logit at wide angles. The default is [`Paper`](PastPi::Paper), this paper's formula, where
    /// [`ArcFace`] has [`CosineTail`](PastPi::CosineTail).
    #[must_use]
    pub fn with_past_pi(self, past_pi: PastPi) -> Self {
        Self {
            base: self.base.with_past_pi(past_pi),
            ..self
        }
    }

    /// The share α of the newest batch in t: 0 for a t that stays, 1 for the mean target cosine of the batch alone.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] unless α ∈ [0, 1].
    pub fn with_momentum(self, momentum: f64) -> Result<Self, Error> {
        let momentum = error::momentum(momentum)?;
        Ok(Self { momentum, ..self })
    }

    /// t to begin with, or to go on from.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] unless t ∈ [−1, 1].
    pub fn with_t(self, t: f64) -> Result<Self, Error> {
        let t = [parameter(
            "t",
            t,
            (-1.0..=1.0).contains(&t),
            "lie in [-1, 1]",
        )?];
        Ok(Self { t, ..self })
    }

    /// s.
    #[must_use]
    pub fn scale(&self) -> f64 {
        self.base.scale()
    }

    /// m, in radians.
    #[must_use]
    pub fn margin(&self) -> f64 {
        self.base.margin()
    }

    /// The rule for the target's logit at wide angles.
    #[must_use]
    pub fn past_pi(&self) -> PastPi {
        self.base.past_pi()
    }

    /// α.
    #[must_use]
    pub fn momentum(&self) -> f64 {
        self.momentum
    }

    /// t.
    #[must_use]
    pub fn t(&self) -> f64 {
        self.t[0]
    }

    /// t; see [`MarginLoss::statistics`](crate::MarginLoss::statistics).
    #[must_use]
    pub fn statistics(&self) -> &[f64] {
        &self.t
    }

    /// Replaces it; see [`MarginLoss::set_statistics`](crate::MarginLoss::set_statistics).
    ///
    /// # Errors
    ///
    /// [`Error::StatisticCount`] unless there is one, and [`Error::Parameter`] unless it lies in [−1, 1], as cosines do; t is
    /// then as it was.
    pub fn set_statistics(&mut self, values: &[f64]) -> Result<(), Error> {
        let &[t] = values else {
            return Err(Error::StatisticCount {
                expected: 1,
                found: values.len(),
            });
        };
        *self = self.with_t(t)?;
        Ok(())
    }

    /// The same with the t that a batch of these target cosines leaves.
    fn after(self, target_cosines: &[f64]) -> Self {
        if target_cosines.is_empty() {
            return self;
        }
        let mean = target_cosines.iter().sum::<f64>() / target_cosines.len() as f64;
        // Rounding may not lead out of the range that is set.
        let t = (self.momentum * mean + (1.0 - self.momentum) * self.t()).clamp(-1.0, 1.0);
        Self { t: [t], ..self }
    }

    fn head(&self) -> Head<'_> {
        let scale = self.scale();
        Head::new(Layer::Cosine { scale }).with_margin(self)
    }
}

/// s = 64, m = 0.5, α = 0.01, the authors', and t = 0 to begin with.
impl Default for CurricularFace {
    fn default() -> Self {
        Self {
            base: ArcFace::default().with_past_pi(PastPi::Paper),
            momentum: 0.01,
            t: [0.0],
        }
    }
}

/// With t as it is: a margin sees one row.
impl Margin for CurricularFace {
    fn target_logit(&self, target: &Target) -> TargetLogit {
        self.base.target_logit(target)
    }

    fn negatives(&self, target: &Target) -> Negatives {
        let threshold = (target.radians() + self.margin()).cos();
        Negatives::above(threshold, [0.0, self.t(), 1.0, 0.0])
    }

    fn own_scale(&self) -> Option<f64> {
        Some(self.scale())
    }
}

impl<A: Float> MarginLoss<A> for CurricularFace {
    fn run(&self, mut request: Request<'_, A>) -> Result<(), Error> {
        if request.wants_scores() {
            return A::solve(TOKEN, &self.head(), request);
        }
        let group = request.composition.sub_centers;
        let (labels, shares) = request.two_targets(Argument::ClassWeights, group)?;
        let (features, weights) = (request.features(), request.weights());
        let (first, second) = labels.split_at(features.nrows());
        let own = request.shard.map_or(0..request.classes(), Shard::classes);
        let of = |labels: &[usize]| {
            let places = (own.clone(), group);
            A::target_cosines(TOKEN, features, weights, labels, places)
        };
        let mut cosines = of(first);
        if let Some(shard) = request.shard {
            shard.share_by_class(first, &mut cosines, Ok(()))?;
        }
        if !second.is_empty() {
            let second = first
                .iter()
                .zip(second)
                .map(|(&first, &second)| match second {
                    NO_CLASS => first,
                    second => second,
                });
            let second = of(&second.collect::<Vec<_>>());
            for ((cosine, second), share) in cosines.iter_mut().zip(second).zip(shares) {
                *cosine = share * *cosine + (1.0 - share) * second;
            }
        }
        let updated = self.after(&cosines);
        A::solve(TOKEN, &updated.head(), request.reborrow())?;
        request.evaluation.forward.statistics = updated.t.to_vec();
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

/// The cosine of each row to the weight of its class, to the nearest of a group of them; 0 if the class is not one of `own`, whose
/// weights are here. That to a row which the driver will refuse is 0, so that it is the driver that refuses.
pub(crate) fn target_cosines<A: Element>(
    features: ArrayView2<'_, A>,
    weights: ArrayView2<'_, A>,
    labels: &[usize],
    (own, group): (Range<usize>, usize),
) -> Vec<f64> {
    let [mut x_copy, mut w_copy] = [Vec::new(), Vec::new()];
    let [mut x_scaled, mut w_scaled] = [Vec::new(), Vec::new()];
    let rows = features.outer_iter().zip(labels);
    rows.map(|(feature, &label)| {
        let x = contiguous(feature, &mut x_copy);
        let x_norm = Norm::of(x);
        let usable = |norm: Norm| norm.is_finite() && !norm.is_zero();
        if !usable(x_norm) || !own.contains(&label) {
            return 0.0;
        }
        let label = label - own.start;
        x_norm.scale_down(x, &mut x_scaled);
        let cosine = |row: usize| {
            let w = contiguous(weights.row(row), &mut w_copy);
            let w_norm = Norm::of(w);
            if !usable(w_norm) {
                return 0.0;
            }
            w_norm.scale_down(w, &mut w_scaled);
            let lengths = x_norm.normalised() * w_norm.normalised();
            (dot(&x_scaled, &w_scaled) / lengths).clamp(-1.0, 1.0)
        };
        (label * group..(label + 1) * group)
            .map(cosine)
            .fold(-1.0, f64::max)
    })
    .collect()
}
