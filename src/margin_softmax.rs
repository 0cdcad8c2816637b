//! Softmax over cosines with a margin of the user's own.

use core::fmt;

use crate::driver::{Head, Layer};
use crate::error::{Error, parameter};
use crate::float::{Float, sealed::TOKEN};
use crate::loss::MarginLoss;
use crate::margin::Margin;
use crate::request::Request;
use crate::scale::Scale;

/// Softmax cross-entropy over cosines whose target's logit is any [`Margin`]: for a margin that the crate does not have, and
/// for the scale of one that it has, if that is to be learned.
///
/// ```text
/// z_y = s ψ(θ_y)        z_j = s cosθ_j for j ≠ y        ℓ = ln Σ_j exp z_j − z_y
/// ```
/// ```math
/// z_y = s\,\psi(\theta_y), \qquad z_j = s \cos\theta_j \;\text{ for } j \ne y
/// \qquad \ell = \ln \sum_j e^{z_j} - z_y
/// ```
///
/// # Shapes
///
/// Features N×d and class weights C×d, none of them zero.
///
/// # Gradients
///
/// As for [`CosFace`](crate::CosFace), with the margin's own slope along the unit tangent u at x̂ towards ŵ_y, and the scale as a
/// learnable if it is [`learned`](Self::learned):
///
/// ```text
/// ∂z_y/∂x = −s ψ′(θ_y)/‖x‖ · u        ∂s = Σᵢ (Σ_{j≠y} G_ij cosθ_ij + G_iy ψ(θ_iy))
/// ```
/// ```math
/// \frac{\partial z_y}{\partial x} = -\frac{s\, \psi'(\theta_y)}{\lVert x \rVert}\, u,
/// \qquad \frac{\partial L}{\partial s} = \sum_i \Bigl( \sum_{j \ne y_i} G_{ij} \cos\theta_{ij} + G_{i y_i}\, \psi(\theta_{i y_i}) \Bigr)
/// ```
///
/// # Numerical notes
///
/// The margin is asked once for each row, in `f64`, at an angle that is right at every distance from the poles. A slope that it
/// gives in the cosine is multiplied by sinθ.
///
/// # Errors
///
/// As for [`MarginLoss`](crate::MarginLoss); zero features and zero class weights are refused, and so is a ψ that is not
/// finite at the angle of a row ([`Error::MarginNotFinite`]).
///
/// # Examples
///
/// A margin that is half an angle, half a cosine:
///
/// ```
/// use margin_losses::{Margin, MarginLoss, MarginSoftmax, Target, TargetLogit, Targets};
/// use margin_losses::ndarray::array;
///
/// #[derive(Debug)]
/// struct Half;
///
/// impl Margin for Half {
///     fn target_logit(&self, target: &Target) -> TargetLogit {
///         let (sin, cos) = (target.radians() + 0.25).sin_cos();
///         TargetLogit::from_angle_slope(cos - 0.2, -sin)
///     }
/// }
///
/// let features = array![[1.0, 2.0], [2.0, -0.5]];
/// let weights = array![[0.0, 1.0], [1.0, 0.0]];
/// let loss = MarginSoftmax::new(Half, 16.0)?;
/// let out = loss.evaluate(features.view(), weights.view(), &Targets::new(&[0, 1]))?;
/// assert!(out.loss() > 0.0);
/// # Ok::<(), margin_losses::Error>(())
/// ```
///
/// Every loss of the crate that has a margin is itself a [`Margin`], so this is also how its scale is learned:
///
/// ```
/// use margin_losses::{ArcFace, MarginLoss, MarginSoftmax, Targets};
/// use margin_losses::ndarray::array;
///
/// let mut loss = MarginSoftmax::learned(ArcFace::new(16.0, 0.5)?, 16.0)?;
/// let (x, w) = (array![[1.0, 2.0]], array![[0.0, 1.0], [1.0, 0.0]]);
/// let out = loss.evaluate(x.view(), w.view(), &Targets::new(&[0]))?;
/// loss.set_scale(loss.scale() - 0.1 * out.grad_learnables[0])?;
/// # Ok::<(), margin_losses::Error>(())
/// ```
///
/// # References
///
/// The form is that of equation 4 of *ArcFace*, Deng et al. ([arXiv:1801.07698](https://arxiv.org/abs/1801.07698)), with any ψ
/// in the place of its three margins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MarginSoftmax<M> {
    margin: M,
    scale: Scale,
}

impl<M: Margin> MarginSoftmax<M> {
    /// A margin, and a fixed scale s.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] unless s ∈ [10⁻⁶, 10⁶], and unless it is the margin's own scale, if the margin is a loss that has
    /// one.
    pub fn new(margin: M, scale: f64) -> Result<Self, Error> {
        let scale = Scale::fixed(own_scale(&margin, scale)?)?;
        Ok(Self { margin, scale })
    }

    /// A margin, and a scale that is learned, beginning at `initial`.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new).
    pub fn learned(margin: M, initial: f64) -> Result<Self, Error> {
        let scale = Scale::learned(own_scale(&margin, initial)?)?;
        Ok(Self { margin, scale })
    }
}

/// The scale, unless the margin has another.
fn own_scale(margin: &impl Margin, scale: f64) -> Result<f64, Error> {
    let holds = margin.own_scale().is_none_or(|own| own == scale);
    parameter(
        "scale",
        scale,
        holds,
        "be the scale that the margin itself has",
    )
}

impl<M> MarginSoftmax<M> {
    /// The margin.
    #[must_use]
    pub fn margin(&self) -> &M {
        &self.margin
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

    /// Whether the scale is a learnable.
    #[must_use]
    pub fn is_learned(&self) -> bool {
        self.scale.is_learned()
    }
}

impl<M: Margin> MarginSoftmax<M> {
    fn head(&self) -> Head<'_> {
        let layer = Layer::Cosine {
            scale: self.scale(),
        };
        Head {
            learns: self.scale.learns(),
            ..Head::new(layer).with_margin(&self.margin)
        }
    }
}

/// The margin as its `Debug` form, and the scale: `margin-softmax(Growing { m: 0.5 }, s=16)`. It cannot be read back.
impl<M: fmt::Debug> fmt::Display for MarginSoftmax<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let learned = if self.is_learned() { ", learned" } else { "" };
        write!(
            f,
            "margin-softmax({:?}, s={}{learned})",
            self.margin,
            self.scale()
        )
    }
}

impl<A: Float, M: Margin> MarginLoss<A> for MarginSoftmax<M> {
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
