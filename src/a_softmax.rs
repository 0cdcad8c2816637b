//! A-Softmax, the angular softmax of SphereFace.

use core::f64::consts::PI;
use core::fmt;

use crate::driver::{Head, Layer};
use crate::error::{Error, parameter};
use crate::float::{Float, sealed::TOKEN};
use crate::loss::MarginLoss;
use crate::margin::{Margin, Target, TargetLogit};
use crate::request::Request;

/// A-Softmax: the target's angle counts m times.
///
/// Its boundary between two classes is `mθ₁ = θ₂`, a margin that grows with the angle between the classes. It converges
/// only if it is blended with the plain cosine at first: see [`with_lambda`](Self::with_lambda) and
/// [`LambdaAnnealing`](crate::schedule::LambdaAnnealing).
///
/// ```text
/// z_y = ‖x‖ (λ cosθ_y + ψ(θ_y))/(1 + λ)        z_j = ‖x‖ cosθ_j for j ≠ y
/// ψ(θ) = (−1)^k cos(mθ) − 2k                   for θ ∈ [kπ/m, (k + 1)π/m], k = 0 … m − 1
/// ```
/// ```math
/// z_y = \lVert x \rVert\, \frac{\lambda \cos\theta_y + \psi(\theta_y)}{1 + \lambda}, \qquad
/// z_j = \lVert x \rVert \cos\theta_j \;\text{ for } j \ne y, \qquad \ell = \ln \sum_j e^{z_j} - z_y \\[1ex]
/// \psi(\theta) = (-1)^k \cos(m\theta) - 2k \quad\text{for } \theta \in \Bigl[\frac{k\pi}{m}, \frac{(k + 1)\pi}{m}\Bigr], \quad k = 0, \dots, m - 1
/// ```
///
/// # Shapes
///
/// Features N×d and class weights C×d, none of them zero.
///
/// # Gradients
///
/// With `G_ij = (p_ij − [j = yᵢ])·rᵢ/N`, f the target's factor of ‖x‖ and u the unit tangent at x̂ towards ŵ_y:
///
/// ```text
/// f(θ) = (λ cosθ + ψ(θ))/(1 + λ)        ∂z_y/∂x = f(θ_y) x̂ − f′(θ_y) u
/// ∂xᵢ = Σ_{j≠y} G_ij ŵ_j + G_iy ∂z_iy/∂xᵢ
/// ```
/// ```math
/// \frac{\partial z_y}{\partial x} = f(\theta_y)\, \hat x - f'(\theta_y)\, u,
/// \qquad f(\theta) = \frac{\lambda\cos\theta + \psi(\theta)}{1 + \lambda},
/// \qquad \frac{\partial L}{\partial x_i} = \sum_{j \ne y_i} G_{ij}\, \hat w_j + G_{i y_i} \frac{\partial z_{i y_i}}{\partial x_i}
/// ```
///
/// The loss is of degree 1 in ‖x‖, so `∂xᵢ` has a radial part: `xᵢ·∂xᵢ = Σ_j G_ij z_ij`. `∂W` is projected back through the
/// normalisation of W. These are the gradients of the loss above: the reference implementation divides its coefficients by
/// their norm, which is another direction.
///
/// # Numerical notes
///
/// ψ is C¹ and strictly decreasing from 1 to 1 − 2m over all of [0, π], and its slope is finite everywhere.
///
/// # Errors
///
/// As for [`MarginLoss`](crate::MarginLoss); zero features and zero class weights are refused.
///
/// # Examples
///
/// ```
/// use margin_losses::schedule::LambdaAnnealing;
/// use margin_losses::{ASoftmax, MarginLoss, Targets};
/// use margin_losses::ndarray::array;
///
/// let features = array![[1.0, 2.0]];
/// let weights = array![[1.0, 0.0], [0.0, 1.0]];
/// let annealing = LambdaAnnealing::sphere_face();
/// for iteration in 1..=3 {
///     let loss = ASoftmax::new(4)?.with_lambda(annealing.at(iteration))?;
///     let out = loss.evaluate(features.view(), weights.view(), &Targets::new(&[1]))?;
///     assert!(out.loss() > 0.0);
/// }
/// # Ok::<(), margin_losses::Error>(())
/// ```
///
/// # References
///
/// Liu et al., *SphereFace*, equations 6 and 7 ([arXiv:1704.08063](https://arxiv.org/abs/1704.08063)); the blend with λ is
/// that of *Large-Margin Softmax*, section 5.1 ([arXiv:1612.02295](https://arxiv.org/abs/1612.02295)).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ASoftmax {
    m: u32,
    lambda: f64,
}

impl ASoftmax {
    /// The margin m ≥ 1, with λ = 0: the bare loss, without annealing. The paper uses m = 4, and a λ that falls to 5: see
    /// [`with_lambda`](Self::with_lambda).
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] unless 1 ≤ m ≤ 1000.
    pub fn new(m: u32) -> Result<Self, Error> {
        let holds = (1..=1000).contains(&m);
        parameter("m", f64::from(m), holds, "lie in 1..=1000")?;
        Ok(Self { m, lambda: 0.0 })
    }

    /// The share of the plain cosine in the target's logit, λ ≥ 0. It is annealed by building the loss of each iteration with
    /// the λ of [`LambdaAnnealing`](crate::schedule::LambdaAnnealing).
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] if λ is negative or not finite.
    pub fn with_lambda(self, lambda: f64) -> Result<Self, Error> {
        let holds = lambda >= 0.0 && lambda.is_finite();
        let lambda = parameter("lambda", lambda, holds, "be non-negative and finite")?;
        Ok(Self { lambda, ..self })
    }

    /// m.
    #[must_use]
    pub fn m(&self) -> u32 {
        self.m
    }

    /// λ.
    #[must_use]
    pub fn lambda(&self) -> f64 {
        self.lambda
    }

    fn head(&self) -> Head<'_> {
        Head::new(Layer::UnitWeights).with_margin(self)
    }
}

impl Margin for ASoftmax {
    fn target_logit(&self, target: &Target) -> TargetLogit {
        let (angle, m) = (target.angle(), f64::from(self.m));
        let multiple = m * angle.radians();
        // At θ = π this may be m instead of m − 1: the piece after the last one begins with the same value and slope.
        let k = (multiple / PI).floor();
        let sign = if k % 2.0 == 0.0 { 1.0 } else { -1.0 };
        let (sin, cos) = multiple.sin_cos();
        let psi = TargetLogit::from_angle_slope(sign * cos - 2.0 * k, -sign * m * sin);
        let cosine = TargetLogit::from_cosine_slope(angle.cos(), 1.0, angle);
        cosine.blend(self.lambda / (1.0 + self.lambda), psi)
    }
}

impl<A: Float> MarginLoss<A> for ASoftmax {
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

    fn psi(loss: &ASoftmax, radians: f64) -> TargetLogit {
        loss.target_logit(&Angle::from_radians(radians).into())
    }

    #[test]
    fn psi_on_the_grid_of_half_steps() {
        for m in 1..=10 {
            let loss = ASoftmax::new(m).unwrap();
            for j in 0..=2 * m {
                let angle = Angle::from_radians(f64::from(j) * PI / f64::from(2 * m));
                let psi = loss.target_logit(&angle.into()).value();
                let exact = 1.0 - f64::from(j);
                assert!(
                    (psi - exact).abs() < 1e-14 * f64::from(m),
                    "m = {m}, j = {j}: {psi}"
                );
            }
        }
    }

    #[test]
    fn psi_is_smooth_across_its_pieces() {
        for m in 1..=10 {
            let loss = ASoftmax::new(m).unwrap();
            for k in 1..m {
                let joint = f64::from(k) * PI / f64::from(m);
                let below = psi(&loss, joint * (1.0 - 4.0 * f64::EPSILON));
                let above = psi(&loss, joint * (1.0 + 4.0 * f64::EPSILON));
                assert!((below.value() - above.value()).abs() < 1e-13);
                assert!((below.angle_slope() - above.angle_slope()).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn slope_in_the_cosine_at_the_poles_is_m_squared() {
        // dψ/dcosθ → m² at both ends.
        let loss = ASoftmax::new(4).unwrap();
        for theta in [1e-4, PI - 1e-4] {
            let angle = Angle::from_radians(theta);
            let slope = -loss.target_logit(&angle.into()).angle_slope() / angle.sin();
            assert!((slope - 16.0).abs() < 1e-5, "{slope}");
        }
    }
}
