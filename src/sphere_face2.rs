//! SphereFace2: every class against the rest, by a logistic loss each.

use core::fmt;

use crate::arc_face::{ArcFace, PastPi};
use crate::driver::{Head, Layer, Learns, Link};
use crate::error::{self, Error, parameter};
use crate::float::{Float, sealed::TOKEN};
use crate::loss::MarginLoss;
use crate::margin::{Angle, Margin, Negatives, Target, TargetLogit};
use crate::request::Request;

/// SphereFace2: C binary classifications, one class against the rest each, in the place of one softmax.
///
/// Classes do not compete, so no class weight waits for another, and labels that are wrong do less harm. Type C of the paper has
/// the margin in the cosine ([`new`](Self::new)), type A in the angle ([`arc`](Self::arc)).
///
/// ```text
/// g(c) = 2 ((c + 1)/2)^t − 1
/// type C: z_y = s (g(cosθ_y) − m) + b        z_j = s (g(cosθ_j) + m) + b for j ≠ y
/// type A: z_y = s g(cos(θ_y + m)) + b        z_j = s g(cos(θ_j − m)) + b for j ≠ y
/// ℓ = λ/s · ln(1 + exp(−z_y)) + (1 − λ)/s · Σ_{j≠y} ln(1 + exp z_j)
/// ```
/// ```math
/// g(c) = 2 \left(\frac{c + 1}{2}\right)^t - 1, \qquad
/// \begin{aligned}
/// \text{C:}\quad & z_y = s\,(g(\cos\theta_y) - m) + b, & z_j = s\,(g(\cos\theta_j) + m) + b \\
/// \text{A:}\quad & z_y = s\,g(\cos(\theta_y + m)) + b, & z_j = s\,g(\cos(\theta_j - m)) + b
/// \end{aligned}
/// \qquad j \ne y
/// ```
/// ```math
/// \ell = \frac{\lambda}{s} \ln\bigl(1 + e^{-z_y}\bigr) + \frac{1 - \lambda}{s} \sum_{j \ne y} \ln\bigl(1 + e^{z_j}\bigr)
/// ```
///
/// In type A a target past π − m has cosθ − (1 − cos m) in the place of the cosine, which goes on where cos(θ + m) ends and falls
/// ([`PastPi::JoinedTail`]); g goes on as an odd function of c + 1. A class that is nearer than m counts as one at 0.
///
/// b is learned. It begins at [`guide::sphere_face2_bias`](crate::guide::sphere_face2_bias), where the loss of random features
/// is least; from 0 every class is pushed away from every row first.
///
/// # Shapes
///
/// Features N×d and class weights C×d, none of them zero.
///
/// # Gradients
///
/// With `A_ij = ∂L/∂cosθ_ij`, `g' = t ((c + 1)/2)^{t−1}` and σ the logistic function:
///
/// ```text
/// A_iy = −λ rᵢ/N σ(−z_y) g'(cosθ_y)        A_ij = (1 − λ) rᵢ/N σ(z_j) g'(cosθ_j)
/// ∂b = Σᵢ rᵢ/(sN) ((1 − λ) Σ_{j≠y} σ(z_j) − λ σ(−z_y))
/// ```
/// ```math
/// A_{iy} = -\lambda \frac{r_i}{N}\, \sigma(-z_y)\, g'(\cos\theta_y), \qquad
/// A_{ij} = (1 - \lambda) \frac{r_i}{N}\, \sigma(z_j)\, g'(\cos\theta_j), \qquad
/// \frac{\partial L}{\partial b} = \sum_i \frac{r_i}{s N}
/// \Bigl((1 - \lambda) \sum_{j \ne y} \sigma(z_j) - \lambda\, \sigma(-z_y)\Bigr)
/// ```
///
/// and from there as for [`NormFace`](crate::NormFace). In type A, g' is at the turned angle, and a factor sin(θ ± m)/sinθ comes
/// to it; the target's goes along the unit tangent, without 1/sinθ. This is the gradient of the loss. The authors' code has 1 in the place
/// of g' on the way back, which is another direction.
///
/// # Numerical notes
///
/// The softplus is `max(z, 0) + ln(1 + exp(−|z|))`: it does not overflow. Sums over the classes are those of
/// [the other losses](crate::_documentation::numerics). g and its slope have all their digits where cosθ is near −1.
///
/// In type A, cos(θ_j − m) is found from the cosine, as cosθ cos m + sinθ sin m, so it knows a class that lies opposite to a
/// feature to half of its digits only. There sin(θ − m)/sinθ is held at its value where sinθ is the root of the rounding unit.
///
/// # Errors
///
/// As for [`MarginLoss`](crate::MarginLoss); zero features and zero class weights are refused.
///
/// # Examples
///
/// ```
/// use margin_losses::{MarginLoss, SphereFace2, Targets, guide};
/// use margin_losses::ndarray::array;
///
/// let (x, w) = (array![[1.0, 2.0], [2.0, -0.5]], array![[0.0, 1.0], [1.0, 0.0], [-1.0, -1.0]]);
/// let mut loss = SphereFace2::default();
/// let bias = guide::sphere_face2_bias(3, &loss)?;
/// loss.set_bias(bias)?;
/// let out = loss.evaluate(x.view(), w.view(), &Targets::new(&[0, 1]))?;
/// loss.set_bias(bias - 0.1 * out.grad_learnables[0])?;
/// # Ok::<(), margin_losses::Error>(())
/// ```
///
/// # References
///
/// Wen et al., *SphereFace2: Binary Classification is All You Need for Deep Face Recognition*
/// ([arXiv:2108.01513](https://arxiv.org/abs/2108.01513)); λ is in equation 5.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SphereFace2 {
    scale: f64,
    margin: f64,
    power: u32,
    lambda: f64,
    bias: [f64; 1],
    divides: bool,
    angular: bool,
}

impl SphereFace2 {
    /// Type C: the scale s and the margin m in units of the cosine; t, λ and b are 3, 0.7 and 0 unless they are given.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] unless s ∈ [10⁻⁶, 10⁶] and m ∈ [0, 2].
    pub fn new(scale: f64, margin: f64) -> Result<Self, Error> {
        Ok(Self {
            scale: error::scale(scale)?,
            margin: error::cosine_margin("margin", margin)?,
            ..Self::default()
        })
    }

    /// Type A: the scale s and the margin m in radians; the others likewise.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] unless s ∈ [10⁻⁶, 10⁶] and m ∈ [0, π).
    pub fn arc(scale: f64, margin: f64) -> Result<Self, Error> {
        Ok(Self {
            scale: error::scale(scale)?,
            margin: error::angular_margin("margin", margin)?,
            angular: true,
            ..Self::default()
        })
    }

    /// Another t: 1 leaves the cosines as they are, 2 and 3 make room where they are large.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] unless t is 1, 2 or 3.
    pub fn with_power(self, power: u32) -> Result<Self, Error> {
        let holds = (1..=3).contains(&power);
        parameter("t", f64::from(power), holds, "be 1, 2 or 3")?;
        Ok(Self { power, ..self })
    }

    /// Another λ, the weight of the target against the other classes.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] unless λ ∈ [0, 1].
    pub fn with_lambda(self, lambda: f64) -> Result<Self, Error> {
        let holds = (0.0..=1.0).contains(&lambda);
        let lambda = parameter("lambda", lambda, holds, "lie in [0, 1]")?;
        Ok(Self { lambda, ..self })
    }

    /// Another b to begin with.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] unless b ∈ [−10⁷, 10⁷].
    pub fn with_bias(mut self, bias: f64) -> Result<Self, Error> {
        self.set_bias(bias)?;
        Ok(self)
    }

    /// Without the factor 1/s, as recipes for speaker verification have it.
    #[must_use]
    pub fn undivided(self) -> Self {
        Self {
            divides: false,
            ..self
        }
    }

    /// s, the paper's r.
    #[must_use]
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// m, in radians for type A.
    #[must_use]
    pub fn margin(&self) -> f64 {
        self.margin
    }

    /// t.
    #[must_use]
    pub fn power(&self) -> u32 {
        self.power
    }

    /// λ.
    #[must_use]
    pub fn lambda(&self) -> f64 {
        self.lambda
    }

    /// b.
    #[must_use]
    pub fn bias(&self) -> f64 {
        self.bias[0]
    }

    /// Whether it is type A, with the margin in the angle.
    #[must_use]
    pub fn is_arc(&self) -> bool {
        self.angular
    }

    /// Whether the loss is without the factor 1/s.
    #[must_use]
    pub fn is_undivided(&self) -> bool {
        !self.divides
    }

    /// Another b; what is learned goes on from there.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] unless b ∈ [−10⁷, 10⁷]; it is then as it was.
    pub fn set_bias(&mut self, bias: f64) -> Result<(), Error> {
        self.bias = [error::bias(bias)?];
        Ok(())
    }

    /// What it learns, b.
    #[must_use]
    pub fn learnables(&self) -> &[f64] {
        &self.bias
    }

    /// Replaces that; see [`MarginLoss::set_learnables`](crate::MarginLoss::set_learnables).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn set_learnables(&mut self, values: &[f64]) -> Result<(), Error> {
        let &[bias] = values else {
            return Err(Error::LearnableCount {
                expected: 1,
                found: values.len(),
            });
        };
        self.set_bias(bias)
    }

    /// g and its slope.
    fn similarity(&self, cosine: f64) -> [f64; 2] {
        let (t, half) = (self.power as i32, f64::midpoint(cosine, 1.0));
        let power = half.abs().powi(t).copysign(half);
        let slope = f64::from(t) * half.abs().powi(t - 1);
        [2.0 * power - 1.0, slope]
    }

    /// z_y/s and z_j/s without b, where all classes are at right angles.
    pub(crate) fn at_right_angles(&self) -> [f64; 2] {
        let target = Target::from(Angle::from_radians(core::f64::consts::FRAC_PI_2));
        let others = self.negatives(&target).of(0.0);
        [self.target_logit(&target).value(), others]
    }
}

/// s = 40, m = 0.4, t = 3, λ = 0.7, b = 0.
impl Default for SphereFace2 {
    fn default() -> Self {
        Self {
            scale: 40.0,
            margin: 0.4,
            power: 3,
            lambda: 0.7,
            bias: [0.0],
            divides: true,
            angular: false,
        }
    }
}

impl Margin for SphereFace2 {
    fn target_logit(&self, target: &Target) -> TargetLogit {
        if self.angular {
            let turned = ArcFace::of(self.scale, self.margin, PastPi::JoinedTail);
            let turned = turned.target_logit(target);
            let [value, slope] = self.similarity(turned.value());
            return TargetLogit::from_angle_slope(value, slope * turned.angle_slope());
        }
        let [value, slope] = self.similarity(target.cos());
        TargetLogit::from_cosine_slope(value - self.margin, slope, target.angle())
    }

    /// g(c) + m, or g of the turned angle: g is a polynomial.
    fn negatives(&self, _: &Target) -> Negatives {
        let (added, turn) = if self.angular {
            (0.0, self.margin)
        } else {
            (self.margin, 0.0)
        };
        let g = match self.power {
            1 => Negatives::above(f64::NEG_INFINITY, [added, 1.0, 0.0, 0.0]),
            2 => Negatives::of_one_more([added - 1.0, 0.0, 0.5, 0.0]),
            _ => Negatives::of_one_more([added - 1.0, 0.0, 0.0, 0.25]),
        };
        g.turned(turn)
    }

    fn own_scale(&self) -> Option<f64> {
        Some(self.scale)
    }
}

impl<A: Float> MarginLoss<A> for SphereFace2 {
    fn run(&self, request: Request<'_, A>) -> Result<(), Error> {
        let divisor = if self.divides { self.scale } else { 1.0 };
        let biases = vec![self.bias(); request.classes()];
        let head = Head {
            link: Link::Logistic {
                positive: self.lambda / divisor,
                negative: (1.0 - self.lambda) / divisor,
            },
            constants: Some(&biases),
            learns: Learns::Constant,
            ..Head::new(Layer::Cosine { scale: self.scale }).with_margin(self)
        };
        A::solve(TOKEN, &head, request)
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
