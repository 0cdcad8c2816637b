//! MV-Softmax: negatives that beat the target are made harder.

use core::fmt;

use crate::arc_face::{ArcFace, PastPi};
use crate::cos_face::CosFace;
use crate::driver::{Head, Layer};
use crate::error::{self, Error, parameter};
use crate::float::{Float, sealed::TOKEN};
use crate::loss::MarginLoss;
use crate::margin::{Margin, Negatives, Target, TargetLogit};
use crate::request::Request;

/// MV-Softmax, the mis-classified vector guided softmax: a margin on the target, and a larger logit for each class that wins
/// against it.
///
/// A class is *hard* for a row if its cosine exceeds the target's, margin included. The base is CosFace's margin
/// ([`new`](Self::new), MV-AM) or ArcFace's ([`arc`](Self::arc), MV-Arc). For training sets with classes that are easily
/// mistaken for each other. Features of wrong labels are hard as well.
///
/// ```text
/// τ = ψ(θ_y)        MV-AM: ψ = cosθ − m        MV-Arc: ψ = cos(θ + m)
/// z_y = s ψ(θ_y)        z_j = s cosθ_j if cosθ_j ≤ τ, else s ((1 + t) cosθ_j + t), or s (cosθ_j + t) if fixed
/// ```
/// ```math
/// z_y = s\,\psi(\theta_y), \qquad z_j = s \begin{cases}
///   \cos\theta_j & \cos\theta_j \le \tau \\
///   (1 + t) \cos\theta_j + t & \text{else, adaptive} \\
///   \cos\theta_j + t & \text{else, fixed}
/// \end{cases}
/// \qquad \tau = \psi(\theta_y), \quad
/// \psi(\theta) = \begin{cases} \cos\theta - m & \text{MV-AM} \\ \cos(\theta + m) & \text{MV-Arc} \end{cases}
/// ```
///
/// In the paper's words, the exponential of a hard class is weighed by `e^(s t (cosθ_j + 1))`, or by `e^(s t)` if fixed. The
/// authors' code drops the margin of rows whose target is farther than 90° unless told otherwise
/// ([`with_easy_margin`](Self::with_easy_margin)); τ keeps it.
///
/// # Shapes
///
/// Features N×d and class weights C×d, none of them zero.
///
/// # Gradients
///
/// As for [`CosFace`] and [`ArcFace`], with `A_ij = s (1 + t) G_ij` for hard classes if the weight is adaptive. Which classes are
/// hard is taken as constant, so τ has no gradient. The loss jumps where a class becomes hard: z_j by s t (1 + τ) or s t, upwards.
///
/// # Numerical notes
///
/// Cosines are compared with τ in the element type. A class within rounding of τ may fall on either side.
///
/// # Errors
///
/// As for [`MarginLoss`](crate::MarginLoss); zero features and zero class weights are refused.
///
/// # Examples
///
/// A class that is nearer than the target weighs more than in CosFace:
///
/// ```
/// use margin_losses::{CosFace, MarginLoss, MvSoftmax, Targets};
/// use margin_losses::ndarray::array;
///
/// let features = array![[1.0, 0.8]];
/// let weights = array![[1.0, 0.0], [0.6, 0.8]];
/// let targets = Targets::new(&[0]);
/// let loss_of = |loss: &dyn MarginLoss<f64>| loss.forward(features.view(), weights.view(), &targets).map(|out| out.loss);
/// let (hard, plain) = (MvSoftmax::new(32.0, 0.35, 0.2)?, CosFace::new(32.0, 0.35)?);
/// assert!(loss_of(&hard)? > loss_of(&plain)? + 10.0);
/// assert_eq!(loss_of(&MvSoftmax::new(32.0, 0.35, 0.0)?)?, loss_of(&plain)?);
/// # Ok::<(), margin_losses::Error>(())
/// ```
///
/// # References
///
/// Wang et al., *Mis-classified Vector Guided Softmax Loss for Face Recognition*, AAAI 2020
/// ([arXiv:1912.00833](https://arxiv.org/abs/1912.00833)).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MvSoftmax {
    scale: f64,
    margin: f64,
    t: f64,
    angular: bool,
    fixed: bool,
    easy: bool,
}

impl MvSoftmax {
    /// MV-AM, with adaptive weights: the scale s, the margin m in units of the cosine, and t, by how much hard classes count
    /// more.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] unless s ∈ [10⁻⁶, 10⁶], m ∈ [0, 2] and t ∈ [0, 100].
    pub fn new(scale: f64, margin: f64, t: f64) -> Result<Self, Error> {
        let margin = error::cosine_margin("margin", margin)?;
        Self::of(scale, margin, t, false)
    }

    /// MV-Arc, with adaptive weights: the scale s, the margin m in radians, and t, by how much hard classes count more.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] unless s ∈ [10⁻⁶, 10⁶], m ∈ [0, π) and t ∈ [0, 100].
    pub fn arc(scale: f64, margin: f64, t: f64) -> Result<Self, Error> {
        let margin = error::angular_margin("margin", margin)?;
        Self::of(scale, margin, t, true)
    }

    fn of(scale: f64, margin: f64, t: f64, angular: bool) -> Result<Self, Error> {
        Ok(Self {
            scale: error::scale(scale)?,
            margin,
            t: parameter("t", t, (0.0..=100.0).contains(&t), "lie in [0, 100]")?,
            angular,
            fixed: false,
            easy: false,
        })
    }

    /// With fixed weights, or with adaptive ones.
    #[must_use]
    pub fn with_fixed_weights(self, fixed: bool) -> Self {
        Self { fixed, ..self }
    }

    /// With the margin for those rows alone whose target is nearer than 90°, as in the authors' code, or for all.
    #[must_use]
    pub fn with_easy_margin(self, easy: bool) -> Self {
        Self { easy, ..self }
    }

    /// s.
    #[must_use]
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// m, in radians for MV-Arc.
    #[must_use]
    pub fn margin(&self) -> f64 {
        self.margin
    }

    /// t.
    #[must_use]
    pub fn t(&self) -> f64 {
        self.t
    }

    /// Whether this is MV-Arc, not MV-AM.
    #[must_use]
    pub fn is_arc(&self) -> bool {
        self.angular
    }

    /// Whether the weights are fixed.
    #[must_use]
    pub fn has_fixed_weights(&self) -> bool {
        self.fixed
    }

    /// Whether rows beyond 90° have no margin.
    #[must_use]
    pub fn has_easy_margin(&self) -> bool {
        self.easy
    }

    fn head(&self) -> Head<'_> {
        Head::new(Layer::Cosine { scale: self.scale }).with_margin(self)
    }

    /// The base's logit, whose margin may be easy.
    fn base(&self, target: &Target, easy: bool) -> TargetLogit {
        if self.angular {
            let rule = if easy {
                PastPi::EasyMargin
            } else {
                PastPi::Paper
            };
            let base = ArcFace::default().with_past_pi(rule);
            base.at_margin(self.margin).target_logit(target)
        } else {
            let margin = if easy && target.cos() <= 0.0 {
                0.0
            } else {
                self.margin
            };
            CosFace::default().at_margin(margin).target_logit(target)
        }
    }
}

/// MV-AM with s = 32, m = 0.35 and t = 0.2, as in the authors' code.
impl Default for MvSoftmax {
    fn default() -> Self {
        Self {
            scale: 32.0,
            margin: 0.35,
            t: 0.2,
            angular: false,
            fixed: false,
            easy: false,
        }
    }
}

impl Margin for MvSoftmax {
    fn target_logit(&self, target: &Target) -> TargetLogit {
        self.base(target, self.easy)
    }

    fn negatives(&self, target: &Target) -> Negatives {
        let t = self.t;
        if t == 0.0 {
            return Negatives::plain();
        }
        let slope = if self.fixed { 1.0 } else { 1.0 + t };
        Negatives::above(self.base(target, false).value(), [t, slope, 0.0, 0.0])
    }

    fn own_scale(&self) -> Option<f64> {
        Some(self.scale)
    }
}

impl<A: Float> MarginLoss<A> for MvSoftmax {
    fn run(&self, request: Request<'_, A>) -> Result<(), Error> {
        A::solve(TOKEN, &self.head(), request)
    }

    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
