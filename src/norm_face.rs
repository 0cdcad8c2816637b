//! NormFace: softmax over scaled cosines, and the paper's two losses of distances to class weights.

use core::fmt;

use crate::driver::{Head, Layer, Link};
use crate::error::{Error, parameter};
use crate::float::{Float, sealed::TOKEN};
use crate::loss::MarginLoss;
use crate::margin::{Margin, Negatives, Target, TargetLogit};
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

/// C-contrastive: each feature is drawn to the weight of its class, and pushed from every other that is nearer than m.
///
/// ```text
/// ℓ = ‖x̂ − ŵ_y‖² + Σ_{j≠y} max(0, m − ‖x̂ − ŵ_j‖²)
/// ```
/// ```math
/// \ell = \lVert \hat x - \hat w_y \rVert^2 + \sum_{j \ne y} \max\bigl(0,\, m - \lVert \hat x - \hat w_j \rVert^2\bigr)
/// ```
///
/// No exponential and no scale. The distance of unit vectors is `‖x̂ − ŵ‖² = 2 − 2 cosθ`.
///
/// # Shapes
///
/// Features N×d and class weights C×d, none of them zero.
///
/// # Gradients
///
/// With `A_ij = ∂L/∂cosθ_ij`:
///
/// ```text
/// A_iy = −2 rᵢ/N        A_ij = 2 rᵢ/N where ‖x̂ᵢ − ŵ_j‖² < m, else 0
/// ```
/// ```math
/// A_{iy} = -2\, \frac{r_i}{N}, \qquad A_{ij} = 2\, \frac{r_i}{N} \bigl[\lVert \hat x_i - \hat w_j \rVert^2 < m\bigr]
/// ```
///
/// and from there as for [`NormFace`]. A hinge that is exactly 0 is inactive.
///
/// # Numerical notes
///
/// The target's distance is `4 sin²(θ/2)`, which keeps its digits where 2 − 2 cosθ would have cancelled.
///
/// # Errors
///
/// As for [`MarginLoss`](crate::MarginLoss); zero features and zero class weights are refused.
///
/// # Examples
///
/// ```
/// use margin_losses::{CContrastive, MarginLoss, Targets};
/// use margin_losses::ndarray::array;
///
/// let (x, w) = (array![[1.0_f64, 0.0]], array![[1.0, 0.0], [0.6, 0.8]]);
/// let out = CContrastive::default().evaluate(x.view(), w.view(), &Targets::new(&[0]))?;
/// // The other class is at ‖x̂ − ŵ‖² = 0.8.
/// assert!((out.loss() - 0.2).abs() < 1e-12);
/// # Ok::<(), margin_losses::Error>(())
/// ```
///
/// # References
///
/// Wang et al., *NormFace*, equation 10 ([arXiv:1704.06369](https://arxiv.org/abs/1704.06369)).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CContrastive {
    margin: f64,
}

impl CContrastive {
    /// The margin m, in squared distances.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] unless m ∈ [0, 4].
    pub fn new(margin: f64) -> Result<Self, Error> {
        let margin = distance_margin(margin)?;
        Ok(Self { margin })
    }

    /// m.
    #[must_use]
    pub fn margin(&self) -> f64 {
        self.margin
    }
}

/// m = 1, as in the paper.
impl Default for CContrastive {
    fn default() -> Self {
        Self { margin: 1.0 }
    }
}

impl<A: Float> MarginLoss<A> for CContrastive {
    fn run(&self, request: Request<'_, A>) -> Result<(), Error> {
        let distances = Distances {
            margin: self.margin,
            relative: false,
        };
        A::solve(TOKEN, &distances.head(), request)
    }

    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// C-triplet: each feature is to be nearer to the weight of its class than to every other, by m.
///
/// ```text
/// ℓ = Σ_{j≠y} max(0, m + ‖x̂ − ŵ_y‖² − ‖x̂ − ŵ_j‖²)
/// ```
/// ```math
/// \ell = \sum_{j \ne y} \max\bigl(0,\, m + \lVert \hat x - \hat w_y \rVert^2 - \lVert \hat x - \hat w_j \rVert^2\bigr)
/// ```
///
/// No exponential and no scale. The distance of unit vectors is `‖x̂ − ŵ‖² = 2 − 2 cosθ`.
///
/// # Shapes
///
/// Features N×d and class weights C×d, none of them zero.
///
/// # Gradients
///
/// With `A_ij = ∂L/∂cosθ_ij`, and a class active where its hinge is above 0:
///
/// ```text
/// A_ij = 2 rᵢ/N for active j, else 0        A_iy = −Σ_{j≠y} A_ij
/// ```
/// ```math
/// A_{ij} = 2\, \frac{r_i}{N} \bigl[\,m + \lVert \hat x_i - \hat w_y \rVert^2 > \lVert \hat x_i - \hat w_j \rVert^2\bigr], \qquad A_{iy} = -\sum_{j \ne y} A_{ij}
/// ```
///
/// and from there as for [`NormFace`]. A hinge that is exactly 0 is inactive.
///
/// # Numerical notes
///
/// The target's distance is `4 sin²(θ/2)`, which keeps its digits where 2 − 2 cosθ would have cancelled.
///
/// # Errors
///
/// As for [`MarginLoss`](crate::MarginLoss); zero features and zero class weights are refused.
///
/// # Examples
///
/// ```
/// use margin_losses::{CTriplet, MarginLoss, Targets};
/// use margin_losses::ndarray::array;
///
/// let (x, w) = (array![[1.0_f64, 0.0]], array![[1.0, 0.0], [0.6, 0.8]]);
/// let out = CTriplet::new(1.0)?.evaluate(x.view(), w.view(), &Targets::new(&[0]))?;
/// // The other class is at ‖x̂ − ŵ‖² = 0.8.
/// assert!((out.loss() - 0.2).abs() < 1e-12);
/// # Ok::<(), margin_losses::Error>(())
/// ```
///
/// # References
///
/// Wang et al., *NormFace*, equation 11 ([arXiv:1704.06369](https://arxiv.org/abs/1704.06369)).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CTriplet {
    margin: f64,
}

impl CTriplet {
    /// The margin m, in squared distances.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] unless m ∈ [0, 4].
    pub fn new(margin: f64) -> Result<Self, Error> {
        let margin = distance_margin(margin)?;
        Ok(Self { margin })
    }

    /// m.
    #[must_use]
    pub fn margin(&self) -> f64 {
        self.margin
    }
}

/// m = 0.8, as in the paper.
impl Default for CTriplet {
    fn default() -> Self {
        Self { margin: 0.8 }
    }
}

impl<A: Float> MarginLoss<A> for CTriplet {
    fn run(&self, request: Request<'_, A>) -> Result<(), Error> {
        let distances = Distances {
            margin: self.margin,
            relative: true,
        };
        A::solve(TOKEN, &distances.head(), request)
    }

    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A margin in squared distances of unit vectors, which are 4 at most.
fn distance_margin(margin: f64) -> Result<f64, Error> {
    let holds = (0.0..=4.0).contains(&margin);
    parameter("margin", margin, holds, "lie in [0, 4]")
}

/// Squared distances in the place of logits: `z_y = −‖x̂ − ŵ_y‖²`, and `z_j = m − ‖x̂ − ŵ_j‖²`, less z_y if they are relative.
#[derive(Debug)]
struct Distances {
    margin: f64,
    relative: bool,
}

impl Distances {
    fn head(&self) -> Head<'_> {
        let [own, shared] = if self.relative {
            [0.0, 1.0]
        } else {
            [1.0, 0.0]
        };
        Head {
            link: Link::Hinge { own, shared },
            ..Head::new(Layer::Cosine { scale: 1.0 }).with_margin(self)
        }
    }

    fn own(target: &Target) -> f64 {
        let half_chord = (target.radians() / 2.0).sin();
        4.0 * half_chord * half_chord
    }
}

impl Margin for Distances {
    fn target_logit(&self, target: &Target) -> TargetLogit {
        TargetLogit::from_angle_slope(-Self::own(target), -2.0 * target.sin())
    }

    fn negatives(&self, target: &Target) -> Negatives {
        let own = if self.relative {
            Self::own(target)
        } else {
            0.0
        };
        Negatives::above(f64::NEG_INFINITY, [self.margin + own - 2.0, 2.0, 0.0, 0.0])
    }
}
