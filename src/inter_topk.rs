//! The inter-topk penalty: the classes that are nearest to a row, but for its own, come nearer still.

use crate::error::{self, Error, parameter};
use crate::margin::{Angle, TargetLogit};

/// The inter-topk penalty: a margin on the k classes that are nearest to a row, beside the margin on its own class.
///
/// For speaker verification with thousands of speakers, of whom a few are easily mistaken for each other. It goes around a
/// softmax over cosines, [`Composed::with_inter_topk`](crate::Composed::with_inter_topk), and around sub-centers: a class
/// counts by its nearest one.
///
/// ```text
/// z_j = s T(θ_j) for the k largest cosθ_j, j ≠ y; the other logits are those of the loss
/// angular: T = cos(θ_j − m′), and 1 where θ_j < m′        cosine: T = cosθ_j + m′
/// ```
/// ```math
/// z_j = s\,T(\theta_j) \;\text{ for the } k \text{ largest } \cos\theta_j,\ j \ne y, \qquad
/// T(\theta) = \begin{cases} \cos(\max(\theta - m', 0)) & \text{angular} \\ \cos\theta + m' & \text{cosine} \end{cases}
/// ```
///
/// The angular form goes with [`ArcFace`](crate::ArcFace), the one in the cosine with [`CosFace`](crate::CosFace); either may be
/// composed with any of them. Public recipes have k = 5, m′ = 0.06 and three sub-centers, with ArcFace's m = 0.2 and s = 32. While
/// they warm m up, m′ is 0.3 m.
///
/// # Gradients
///
/// `A_ij = s G_ij T'`, along the unit tangents, with `dT/dθ = −sin(θ − m′)`, 0 where θ < m′, or `−sinθ`. Which classes are the
/// nearest is taken as constant. The loss jumps where two classes change places at the k-th place.
///
/// # Numerical notes
///
/// Cosines are compared in the element type. Of equal ones at the k-th place, the first classes have the penalty. From there on
/// these classes are treated as the target is: their angles come from chords, in `f64`, and 1/sinθ is never formed, so that the
/// gradient is finite where a feature lies on a class. With m′ = 0 or k = 0 all bits are those of the loss alone.
///
/// # Errors
///
/// Those of the loss, and [`Error::InterTopK`] if k > C − 1.
///
/// # Examples
///
/// ```
/// use margin_losses::{ArcFace, Composed, InterTopK, MarginLoss, Targets};
/// use margin_losses::ndarray::array;
///
/// let (x, w) = (array![[1.0, 0.2]], array![[1.0, 0.0], [0.8, 0.6], [-1.0, 0.1]]);
/// let loss = Composed::new(ArcFace::new(8.0, 0.2)?).with_inter_topk(InterTopK::angular(1, 0.06)?)?;
/// let logit = |class: [f64; 2], turned: f64| {
///     let angle = class[1].atan2(class[0]) - 0.2_f64.atan2(1.0);
///     8.0 * (angle.abs() + turned).cos()
/// };
/// let others = logit([0.8, 0.6], -0.06).exp() + logit([-1.0, 0.1], 0.0).exp();
/// let expected = (others / logit([1.0, 0.0], 0.2).exp()).ln_1p();
/// let out = loss.evaluate(x.view(), w.view(), &Targets::new(&[0]))?;
/// assert!((out.loss() - expected).abs() < 1e-14);
/// # Ok::<(), margin_losses::Error>(())
/// ```
///
/// # References
///
/// Zhao et al., *Multi-query multi-head attention pooling and Inter-topK penalty for speaker verification*
/// ([arXiv:2110.05042](https://arxiv.org/abs/2110.05042)).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InterTopK {
    k: usize,
    margin: f64,
    angular: bool,
}

impl InterTopK {
    /// For the k nearest classes, with the margin m′ in radians; k = 0 is no penalty.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] unless m′ ∈ [0, π/2).
    pub fn angular(k: usize, margin: f64) -> Result<Self, Error> {
        let holds = (0.0..core::f64::consts::FRAC_PI_2).contains(&margin);
        Ok(Self {
            k,
            margin: parameter("margin", margin, holds, "lie in [0, pi/2) radians")?,
            angular: true,
        })
    }

    /// For the k nearest classes, with the margin m′ in units of the cosine; k = 0 is no penalty.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] unless m′ ∈ [0, 2].
    pub fn cosine(k: usize, margin: f64) -> Result<Self, Error> {
        Ok(Self {
            k,
            margin: error::cosine_margin("margin", margin)?,
            angular: false,
        })
    }

    /// k.
    #[must_use]
    pub fn k(&self) -> usize {
        self.k
    }

    /// m′, in radians if the penalty is angular.
    #[must_use]
    pub fn margin(&self) -> f64 {
        self.margin
    }

    /// Whether m′ is taken from the angle, not added to the cosine.
    #[must_use]
    pub fn is_angular(&self) -> bool {
        self.angular
    }

    /// T of one of the k nearest classes, and its slope.
    #[must_use]
    pub fn logit(&self, angle: Angle) -> TargetLogit {
        if self.angular {
            let turned = Angle::from_radians((angle.radians() - self.margin).max(0.0));
            TargetLogit::from_angle_slope(turned.cos(), -turned.sin())
        } else {
            TargetLogit::from_cosine_slope(angle.cos() + self.margin, 1.0, angle)
        }
    }

    /// How many logits it changes.
    pub(crate) fn changes(&self) -> usize {
        if self.margin == 0.0 { 0 } else { self.k }
    }
}

/// The angular penalty of the recipes: k = 5, m′ = 0.06.
impl Default for InterTopK {
    fn default() -> Self {
        Self {
            k: 5,
            margin: 0.06,
            angular: true,
        }
    }
}
