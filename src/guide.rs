//! Choosing a scale and a margin, and knowing which loss to expect: closed forms in the number of classes C and the
//! dimension d.
//!
//! | question | answer |
//! |---|---|
//! | Which scale makes a wished probability possible? | [`suggested_scale`], its inverse [`target_probability`] |
//! | And without a wish? | [`adacos_scale`] |
//! | Which margin is too large for C classes in d dimensions? | [`largest_cosine_margin`], [`largest_angular_margin`] |
//! | How far down can the loss go? | [`norm_face_lower_bound`], [`cos_face_lower_bound`], [`arc_face_lower_bound`] |
//! | And in any batch, whatever its labels? | [`row_lower_bound`] |
//! | What should the first log line say? | [`initial_loss`] |
//! | Which bias does a loss of one class against the rest begin with? | [`sphere_face2_bias`], [`uni_face_bias`] |
//! | And where nothing is learned? | [`antipode_loss`], [`one_direction_loss`] |
//! | What ails a training? | [`diagnose`], [`dead_features`] |
//! | Which λ_g keeps MagFace's short features from becoming shorter? | [`mag_face_least_regulariser`] |
//!
//! # Lower bounds, loss by loss
//!
//! - **Softmax, modified softmax, A-Softmax**: 0, approached as the features (or the weights) grow without end, never
//!   reached. While every `‖xᵢ‖ ≤ r`, modified softmax and A-Softmax do not fall below `norm_face_lower_bound(C, r)`:
//!   no target logit of theirs exceeds `‖x‖ cosθ`.
//! - **Center loss**: 0, reached when each feature lies on its center.
//! - **`NormFace`, AM-Softmax, `CosFace`, `ArcFace`**: positive, because normalised logits cannot outgrow the scale.
//!   The bounds below are for the **mean over rows in which every class is equally frequent**: a balanced data set, not
//!   any one batch. A batch of few classes may well lie lower, down to [`row_lower_bound`].
//! - **AdaFace**: [`row_lower_bound`] with cos m, the largest target logit of the shortest features, for m ≤ π/2.
//! - **MagFace**: [`row_lower_bound`] with cos l_m, for margins up to π/2, and on top the least price, 2 λ_g/u_a.
//! - **Combined margins**: [`row_lower_bound`] with the largest value of `cos(m₁θ + m₂) − m₃` over θ in [0, π].
//!
//! # References
//!
//! - `NormFace`: [arXiv:1704.06369](https://arxiv.org/abs/1704.06369), proposition 2
//! - `CosFace`: [arXiv:1801.09414](https://arxiv.org/abs/1801.09414), equations 6 and 7
//! - `ArcFace`: [arXiv:1801.07698](https://arxiv.org/abs/1801.07698), equation 3
//! - `AdaCos`: [arXiv:1905.00292](https://arxiv.org/abs/1905.00292), the fixed variant

mod diagnosis;
mod levenshtein;

pub use diagnosis::{Trouble, dead_features, diagnose};

use core::f64::consts::{PI, SQRT_2};

use crate::error::{self, Error, parameter};
use crate::mag_face::MagFace;
use crate::sphere_face2::SphereFace2;

/// The least scale at which all classes can have the target probability P: `s = (C−1)/C · ln((C−1) P/(1−P))`.
///
/// ```math
/// s = \frac{C - 1}{C}\, \ln \frac{(C - 1)\, P}{1 - P}
/// ```
///
/// It suffices only in the best arrangement, the regular simplex, which needs C ≤ d + 1; with more classes, or with
/// features that are not on their class weights, the scale has to be larger. A margin is not in the formula.
///
/// `classes` is at least 2, and `target_probability` lies in (1/C, 1): a scale of 0 already gives 1/C.
///
/// # Errors
///
/// [`Error::Parameter`] if an argument is out of range.
///
/// # Examples
///
/// ```
/// let scale = margin_losses::guide::suggested_scale(10_575, 0.999)?;
/// assert!((scale - 16.1714).abs() < 1e-4);
/// # Ok::<(), margin_losses::Error>(())
/// ```
///
/// # References
///
/// `CosFace`, [arXiv:1801.09414](https://arxiv.org/abs/1801.09414), equation 6.
pub fn suggested_scale(classes: usize, target_probability: f64) -> Result<f64, Error> {
    let others = others(classes)?;
    let all = others + 1.0;
    // C·P − 1, rounded once: near P = 1/C nothing is left of it otherwise.
    let above_chance = all.mul_add(target_probability, -1.0);
    parameter(
        "target_probability",
        target_probability,
        above_chance > 0.0 && target_probability < 1.0,
        "lie in (1/classes, 1)",
    )?;
    // (C−1) P/(1−P) = 1 + (C·P − 1)/(1−P).
    Ok(others / all * (above_chance / (1.0 - target_probability)).ln_1p())
}

/// The largest target probability that all classes can have at a scale: `P = 1/(1 + (C−1) e^(−s C/(C−1)))`.
///
/// ```math
/// P = \frac{1}{1 + (C - 1)\, e^{-s\, C/(C - 1)}}
/// ```
///
/// The inverse of [`suggested_scale`], with the same reservations. Where P rounds to 1, [`norm_face_lower_bound`],
/// which is −ln P, still tells how far away it is.
///
/// `classes` is at least 2, and `scale` lies in (0, 10⁶].
///
/// # Errors
///
/// [`Error::Parameter`] if an argument is out of range.
///
/// # Examples
///
/// At scale 1, the cosines themselves, a softmax over a thousand classes can hardly do better than chance:
///
/// ```
/// let probability = margin_losses::guide::target_probability(1000, 1.0)?;
/// assert!(probability < 0.003);
/// # Ok::<(), margin_losses::Error>(())
/// ```
///
/// # References
///
/// `CosFace`, [arXiv:1801.09414](https://arxiv.org/abs/1801.09414), equation 6, solved for `P`.
pub fn target_probability(classes: usize, scale: f64) -> Result<f64, Error> {
    Ok((-norm_face_lower_bound(classes, scale)?).exp())
}

/// The fixed scale of `AdaCos`: `s = √2 ln(C−1)`.
///
/// At this scale the target's probability is 1/2 when its angle is π/4 and all other classes are orthogonal to the
/// feature. `classes` is at least 3.
///
/// # Errors
///
/// [`Error::Parameter`] if `classes` is out of range.
///
/// # Examples
///
/// ```
/// let scale = margin_losses::guide::adacos_scale(10_575)?;
/// assert!((scale - 13.1044).abs() < 1e-4);
/// # Ok::<(), margin_losses::Error>(())
/// ```
///
/// # References
///
/// `AdaCos`, [arXiv:1905.00292](https://arxiv.org/abs/1905.00292), the fixed variant.
pub fn adacos_scale(classes: usize) -> Result<f64, Error> {
    parameter("classes", classes as f64, classes >= 3, "be at least 3")?;
    Ok(SQRT_2 * others(classes)?.ln())
}

/// The least λ_g of [`MagFace`] at which no feature of the least norm l_a is told to become shorter, however
/// hard its row.
///
/// ```math
/// \lambda_g = s\, \kappa\, \frac{u_a^2\, l_a^2}{u_a^2 - l_a^2}, \qquad \kappa = \frac{u_m - l_m}{u_a - l_a}
/// ```
///
/// There the slope of λ_g g(a) outweighs the steepest slope of the logit in the norm, s κ. With less, a row of a small target
/// probability may lose its norm until it leaves the range, where nothing draws it back.
///
/// # Examples
///
/// ```
/// use margin_losses::{MagFace, guide};
///
/// let least = guide::mag_face_least_regulariser(&MagFace::default());
/// assert!((least - 22.5867).abs() < 1e-4);
/// assert!(least < MagFace::default().regulariser());
/// ```
///
/// # References
///
/// `MagFace`, [arXiv:2103.06627](https://arxiv.org/abs/2103.06627); the authors' trainer prints it.
#[must_use]
pub fn mag_face_least_regulariser(loss: &MagFace) -> f64 {
    let (lower, upper) = loss.norms();
    loss.scale() * loss.slope() / (1.0 / (lower * lower) - 1.0 / (upper * upper))
}

/// The largest margin of `CosFace` and AM-Softmax that C class weights in d dimensions leave room for:
/// `m ≤ 1 − max cos(ŵᵢ, ŵⱼ)` over i ≠ j, in the best arrangement.
///
/// Beyond it, no arrangement lets every class win at its own weight. How far features spread around their weights is
/// not in the formula, so useful margins lie well below: for C = 85,742 and d = 512 the bound is 0.96, and 0.35 is
/// usual.
///
/// | C and d | value | |
/// |---|---|---|
/// | C ≤ d + 1 | `C/(C−1)` | exact: the regular simplex |
/// | d = 1, C > 2 | `0` | exact: two classes coincide |
/// | d = 2 | `1 − cos(2π/C)` | exact: the regular polygon |
/// | d + 1 < C ≤ 2d | `1` | exact: a pair of opposite directions on each axis (Rankin) |
/// | d ≥ 3, C > 2d | Levenshtein's bound | no margin above it is possible; the best may be lower |
///
/// The last row is exact for a few famous arrangements (12 classes in 3 dimensions, 240 in 8). The paper only says
/// `m ≪ C/(C−1)` for all C > d + 1, which overstates it where d is large.
///
/// `classes` is at least 2, `dim` at least 1. The time is constant but for the last row, where it grows as C^(1/(d−1)).
///
/// # Errors
///
/// [`Error::Parameter`] if an argument is out of range.
///
/// # Examples
///
/// ```
/// use margin_losses::guide::largest_cosine_margin;
///
/// // Eight identities in a plane: the paper's toy experiment.
/// assert!((largest_cosine_margin(8, 2)? - 0.292893).abs() < 1e-6);
/// // Digits, in a plane and with room enough.
/// assert!((largest_cosine_margin(10, 2)? - 0.190983).abs() < 1e-6);
/// assert!((largest_cosine_margin(10, 64)? - 10.0 / 9.0).abs() < 1e-12);
/// # Ok::<(), margin_losses::Error>(())
/// ```
///
/// # References
///
/// - `CosFace`, [arXiv:1801.09414](https://arxiv.org/abs/1801.09414), equation 7
/// - R. A. Rankin, *The closest packing of spherical caps in n dimensions*, Proc. Glasgow Math. Assoc. 2 (1955)
/// - V. I. Levenshtein, *Universal bounds for codes and designs*, Handbook of Coding Theory (1998); arrangements that
///   attain the bound: Cohn and Kumar, [arXiv:math/0607446](https://arxiv.org/abs/math/0607446), table 1
pub fn largest_cosine_margin(classes: usize, dim: usize) -> Result<f64, Error> {
    let others = others(classes)?;
    let all = others + 1.0;
    let d = parameter("dim", dim as f64, dim >= 1, "be at least 1")?;
    Ok(if others <= d {
        all / others
    } else if dim == 1 {
        0.0
    } else if dim == 2 {
        2.0 * (PI / all).sin().powi(2)
    } else if all <= 2.0 * d {
        1.0
    } else {
        levenshtein::largest_margin(all, d)
    })
}

/// The largest margin of `ArcFace` that C class weights in d dimensions leave room for: the smallest angle between two
/// of them in the best arrangement, in radians.
///
/// At its own weight, θ = 0, a class still wins against a weight at the angle θⱼ only if `cos m ≥ cos θⱼ`. So this is
/// `arccos(1 − m)` of [`largest_cosine_margin`], exact where that is exact and an upper bound elsewhere:
/// `arccos(−1/(C−1))` if C ≤ d + 1, `2π/C` if d = 2, π/2 if d + 1 < C ≤ 2d.
///
/// `classes` is at least 2, `dim` at least 1.
///
/// # Errors
///
/// [`Error::Parameter`] if an argument is out of range.
///
/// # Examples
///
/// In 3 dimensions, ten classes leave less room than the 90° of six; the best arrangement known reaches 66.1°:
///
/// ```
/// let margin = margin_losses::guide::largest_angular_margin(10, 3)?;
/// assert!((margin.to_degrees() - 69.007).abs() < 1e-3);
/// # Ok::<(), margin_losses::Error>(())
/// ```
///
/// # References
///
/// The argument of `CosFace`, [arXiv:1801.09414](https://arxiv.org/abs/1801.09414), equation 7, applied to `ArcFace`,
/// [arXiv:1801.07698](https://arxiv.org/abs/1801.07698), equation 3.
pub fn largest_angular_margin(classes: usize, dim: usize) -> Result<f64, Error> {
    // arccos(1 − m), without its cancellation at small m.
    Ok(2.0 * (largest_cosine_margin(classes, dim)? / 2.0).sqrt().asin())
}

/// The least [`NormFace`](crate::NormFace) loss of a balanced data set: `ln(1 + (C−1) e^(−s C/(C−1)))`.
///
/// ```math
/// L \ge \ln\Bigl(1 + (C - 1)\, e^{-s\, C/(C - 1)}\Bigr)
/// ```
///
/// Reached only where the class weights form a regular simplex, which needs C ≤ d + 1, and every feature lies on its
/// weight. How large it is at s = 1 is the reason why a softmax over bare cosines does not train.
///
/// The paper assumes that features lie on their weights, but need not. The loss is convex in the gaps `cosθⱼ − cosθᵧ`,
/// so it is least where they all equal their mean, and over a balanced data set the mean is at least `−C/(C−1)`,
/// because, with w̄ the mean of the ŵⱼ:
///
/// ```text
/// Σ x̂ᵢ·(ŵᵢ − w̄) ≤ Σ ‖ŵᵢ − w̄‖ ≤ C
/// ```
/// ```math
/// \sum_i \hat x_i \cdot (\hat w_i - \bar w) \;\le\; \sum_i \lVert \hat w_i - \bar w \rVert \;\le\; C
/// ```
///
/// `classes` is at least 2, and `scale` lies in (0, 10⁶].
///
/// # Errors
///
/// [`Error::Parameter`] if an argument is out of range.
///
/// # Examples
///
/// ```
/// let bound = margin_losses::guide::norm_face_lower_bound(10_575, 1.0)?;
/// assert!((bound - 8.266316).abs() < 1e-6);
/// # Ok::<(), margin_losses::Error>(())
/// ```
///
/// # References
///
/// `NormFace`, [arXiv:1704.06369](https://arxiv.org/abs/1704.06369), proposition 2 (there with norm ℓ, and s = ℓ²).
pub fn norm_face_lower_bound(classes: usize, scale: f64) -> Result<f64, Error> {
    cos_face_lower_bound(classes, scale, 0.0)
}

/// The least [`CosFace`](crate::CosFace) or [`AmSoftmax`](crate::AmSoftmax) loss of a balanced data set:
/// `ln(1 + (C−1) e^(−s (C/(C−1) − m)))`.
///
/// ```math
/// L \ge \ln\Bigl(1 + (C - 1)\, e^{-s\, (C/(C - 1) - m)}\Bigr)
/// ```
///
/// Reached, and proved, as [`norm_face_lower_bound`].
///
/// `classes` is at least 2, `scale` lies in (0, 10⁶] and `margin` in [0, 2].
///
/// # Errors
///
/// [`Error::Parameter`] if an argument is out of range.
///
/// # Examples
///
/// ```
/// let bound = margin_losses::guide::cos_face_lower_bound(10_575, 64.0, 0.35)?;
/// assert!(bound < 1e-13);
/// # Ok::<(), margin_losses::Error>(())
/// ```
///
/// # References
///
/// The argument of `NormFace`, [arXiv:1704.06369](https://arxiv.org/abs/1704.06369), proposition 2, applied to
/// `CosFace`, [arXiv:1801.09414](https://arxiv.org/abs/1801.09414), equation 4.
pub fn cos_face_lower_bound(classes: usize, scale: f64, margin: f64) -> Result<f64, Error> {
    let others = others(classes)?;
    let scale = positive_scale(scale)?;
    let margin = error::cosine_margin("margin", margin)?;
    Ok(loss_at(others, -scale * ((others + 1.0) / others - margin)))
}

/// The least [`ArcFace`](crate::ArcFace) loss of a balanced data set: `ln(1 + (C−1) e^(−s g))` with
/// `g = max(cos m + 1/(C−1), 1 − cos m)`.
///
/// ```math
/// L \ge \ln\bigl(1 + (C - 1)\, e^{-s g}\bigr), \qquad g = \max\Bigl(\cos m + \frac{1}{C - 1},\; 1 - \cos m\Bigr)
/// ```
///
/// - **cos m + 1/(C−1)** is reached where the class weights form a regular simplex, which needs C ≤ d + 1, and every
///   feature lies on its weight. It is the larger one where `cos m ≥ (C−2)/(2(C−1))`, so for every m up to π/3.
/// - **1 − cos m** is reached, in any dimension, where all class weights coincide and every feature is opposite to
///   them: past π − m, `cos(θ + m)` rises again and rewards the largest angle.
///
/// That is the paper's rule. The other rules of [`PastPi`](crate::PastPi), the default among them, take that reward away. While
/// m ≤ π/2 the value is a bound for them as well, if not always a tight one, because none of them gives the target more
/// than `cos m cosθ`.
///
/// `classes` is at least 2, `scale` lies in (0, 10⁶] and `margin` in [0, π), in radians.
///
/// # Errors
///
/// [`Error::Parameter`] if an argument is out of range.
///
/// # Examples
///
/// ```
/// let bound = margin_losses::guide::arc_face_lower_bound(10_575, 16.0, 0.5)?;
/// assert!((bound - 0.008389).abs() < 1e-6);
/// # Ok::<(), margin_losses::Error>(())
/// ```
///
/// # References
///
/// The argument of `NormFace`, [arXiv:1704.06369](https://arxiv.org/abs/1704.06369), proposition 2, applied to
/// `ArcFace`, [arXiv:1801.07698](https://arxiv.org/abs/1801.07698), equation 3.
pub fn arc_face_lower_bound(classes: usize, scale: f64, margin: f64) -> Result<f64, Error> {
    let others = others(classes)?;
    let scale = positive_scale(scale)?;
    let margin = error::angular_margin("margin", margin)?;
    let gap = f64::max(margin.cos() + 1.0 / others, 1.0 - margin.cos());
    Ok(loss_at(others, -scale * gap))
}

/// The least loss of a single row, and so of any batch, whatever its labels: `ln(1 + (C−1) e^(−s (ψ + 1)))`.
///
/// ```math
/// \ell \ge \ln\bigl(1 + (C - 1)\, e^{-s\, (\psi + 1)}\bigr)
/// ```
///
/// ψ, the argument `target_logit`, is the largest value that the target's logit can take before scaling: 1 for
/// `NormFace`, `1 − m` for `CosFace` and AM-Softmax, `cos m` for `ArcFace` with m ≤ π/2. The bound is reached where the
/// feature lies on its own weight and opposite to all others.
///
/// `classes` is at least 2, `scale` lies in (0, 10⁶] and `target_logit` in [−10⁶, 10⁶].
///
/// # Errors
///
/// [`Error::Parameter`] if an argument is out of range.
///
/// # Examples
///
/// What one row can reach, all classes cannot reach together:
///
/// ```
/// use margin_losses::guide::{norm_face_lower_bound, row_lower_bound};
///
/// assert!(row_lower_bound(1000, 10.0, 1.0)? < norm_face_lower_bound(1000, 10.0)?);
/// # Ok::<(), margin_losses::Error>(())
/// ```
pub fn row_lower_bound(classes: usize, scale: f64, target_logit: f64) -> Result<f64, Error> {
    loss_with_others_at(-1.0, classes, scale, target_logit)
}

/// The bias b of [`SphereFace2`] at which its loss is least where all cosines are 0: what its training starts with.
///
/// ```math
/// b = \ln 2z - \alpha_+ - \ln\Bigl(1 - z + \sqrt{(1 - z)^2 + 4z\, e^{\alpha_- - \alpha_+}}\Bigr), \qquad
/// z = \frac{\lambda}{(1 - \lambda)(C - 1)}, \qquad \alpha_\pm = s\,(2^{1-t} - 1 \pm m)
/// ```
///
/// For type A, $`\alpha_\pm`$ are s g(cos(π/2 ∓ m)).
///
/// `classes`, C, is at least 2. Of `loss`, s, m, t and λ are used.
///
/// # Errors
///
/// [`Error::Parameter`] if there are fewer classes, or if λ is 0 or 1.
///
/// # Examples
///
/// ```
/// use margin_losses::{SphereFace2, guide};
///
/// let bias = guide::sphere_face2_bias(10_575, &SphereFace2::default())?;
/// assert!((bias - 5.581365).abs() < 1e-6);
/// # Ok::<(), margin_losses::Error>(())
/// ```
pub fn sphere_face2_bias(classes: usize, loss: &SphereFace2) -> Result<f64, Error> {
    parameter("classes", classes as f64, classes >= 2, "be at least 2")?;
    let lambda = loss.lambda();
    let holds = 0.0 < lambda && lambda < 1.0;
    parameter("lambda", lambda, holds, "lie in (0, 1)")?;
    let (s, [target, others]) = (loss.scale(), loss.at_right_angles());
    let z = lambda / ((1.0 - lambda) * (classes as f64 - 1.0));
    let above = s * others;
    let apart = s * (target - others);
    let log_half = 0.5 * ((4.0 * z).ln() + apart);
    let root = (1.0 - z).hypot(log_half.exp());
    // Where 1 − z is negative, the sum of it and the root would cancel, and where it is 0 the root may underflow.
    let log_sum = if z < 1.0 {
        (1.0 - z + root).ln()
    } else if z > 1.0 {
        2.0 * log_half - (root - (1.0 - z)).ln()
    } else {
        log_half
    };
    Ok((2.0 * z).ln() - above - log_sum)
}

/// The threshold b of [`UniFace`](crate::UniFace) to start with: `ln(10 C ρ)`, where ρ is the share of the classes that are
/// sampled, 1 for all.
///
/// ```math
/// b = \ln(10\, C \rho)
/// ```
///
/// `classes`, C, is at least 1, and `sampled_share`, ρ, lies in (0, 1].
///
/// # Errors
///
/// [`Error::Parameter`] if an argument is out of range.
///
/// # Examples
///
/// ```
/// let bias = margin_losses::guide::uni_face_bias(85_742, 1.0)?;
/// assert!((bias - 13.6616).abs() < 1e-4);
/// # Ok::<(), margin_losses::Error>(())
/// ```
pub fn uni_face_bias(classes: usize, sampled_share: f64) -> Result<f64, Error> {
    parameter("classes", classes as f64, classes >= 1, "be at least 1")?;
    let holds = 0.0 < sampled_share && sampled_share <= 1.0;
    parameter("sampled_share", sampled_share, holds, "lie in (0, 1]")?;
    Ok((10.0 * classes as f64 * sampled_share).ln())
}

/// The loss of a softmax where all cosines are 0, about what training starts with: `ln(1 + (C−1) e^(−s ψ))`.
///
/// ```math
/// \ell = \ln\bigl(1 + (C - 1)\, e^{-s\, \psi(\pi/2)}\bigr)
/// ```
///
/// ψ, the argument `target_logit`, is the target's logit at the angle π/2, before scaling, for any
/// [`Margin`](crate::Margin) the value of its `target_logit` there:
///
/// | loss | ψ(π/2) |
/// |---|---|
/// | softmax, modified softmax, `NormFace` | 0: the loss is ln C whatever the scale |
/// | AM-Softmax, `CosFace` | `−m` |
/// | `ArcFace` | `−2 sin(m/2)`, by the paper's rule `−sin m` |
/// | combined | `cos(m₁ π/2 + m₂) − m₃` |
/// | A-Softmax | `(1 − m)/(1 + λ)`, and the scale is ‖x‖ |
///
/// [`SphereFace2`] and [`UniFace`](crate::UniFace) are no softmax and start elsewhere.
///
/// Random directions in d dimensions are only nearly orthogonal. Over many classes that adds about `s²/(2d)`: 4 for
/// s = 64 and d = 512.
///
/// `classes` is at least 2, `scale` lies in (0, 10⁶] and `target_logit` in [−10⁶, 10⁶].
///
/// # Errors
///
/// [`Error::Parameter`] if an argument is out of range.
///
/// # Examples
///
/// The paper's `ArcFace` on 85,742 identities: logs of such runs begin between 42 and 48.
///
/// ```
/// let (scale, margin, dim) = (64.0, 0.5_f64, 512.0);
/// let orthogonal = margin_losses::guide::initial_loss(85_742, scale, -margin.sin())?;
/// assert!((orthogonal - 42.0423).abs() < 1e-4);
/// let random = orthogonal + scale * scale / (2.0 * dim);
/// assert!((random - 46.0423).abs() < 1e-4);
/// # Ok::<(), margin_losses::Error>(())
/// ```
pub fn initial_loss(classes: usize, scale: f64, target_logit: f64) -> Result<f64, Error> {
    loss_with_others_at(0.0, classes, scale, target_logit)
}

/// The loss where every feature is opposite to all classes: `ln(1 + (C−1) e^(−s (1 + ψ)))`.
///
/// ```math
/// \ell = \ln\bigl(1 + (C - 1)\, e^{-s\, (1 + \psi(\pi))}\bigr)
/// ```
///
/// ψ, the argument `target_logit`, is the target's logit at the angle π, before scaling: −1 for `NormFace`, `−1 − m` for
/// `CosFace`. By `ArcFace`'s paper it is `−cos m`, so that the loss is nearly 0 although nothing is learned:
/// `ln(1 + (C−1) e^(−s (1 − cos m)))`, a false minimum. By [`PastPi::CosineTail`](crate::PastPi::CosineTail) it is
/// `−1 − 2 sin(m/2)`.
///
/// `classes` is at least 2, `scale` lies in (0, 10⁶] and `target_logit` in [−10⁶, 10⁶].
///
/// # Errors
///
/// [`Error::Parameter`] if an argument is out of range.
///
/// # Examples
///
/// ```
/// use margin_losses::{Angle, ArcFace, Margin, PastPi, guide};
///
/// let opposite = Angle::from_radians(std::f64::consts::PI);
/// let loss = |rule| {
///     let loss = ArcFace::default().with_past_pi(rule);
///     guide::antipode_loss(2, loss.scale(), loss.target_logit(&opposite.into()).value())
/// };
/// assert!((loss(PastPi::Paper)? - 0.000396).abs() < 1e-6);
/// assert!(loss(PastPi::CosineTail)? > 31.0);
/// # Ok::<(), margin_losses::Error>(())
/// ```
pub fn antipode_loss(classes: usize, scale: f64, target_logit: f64) -> Result<f64, Error> {
    loss_with_others_at(-1.0, classes, scale, target_logit)
}

/// The loss where every feature and every class weight lies in one direction: `ln(1 + (C−1) e^(s (1 − ψ)))`.
///
/// ```math
/// \ell = \ln\bigl(1 + (C - 1)\, e^{s\, (1 - \psi(0))}\bigr)
/// ```
///
/// ψ, the argument `target_logit`, is the target's logit at the angle 0, before scaling: `cos m` for `ArcFace`, `1 − m` for
/// `CosFace`, 1 for `NormFace`, whose loss is ln C. A training that stays at this loss has all features in one direction.
///
/// `classes` is at least 2, `scale` lies in (0, 10⁶] and `target_logit` in [−10⁶, 10⁶].
///
/// # Errors
///
/// [`Error::Parameter`] if an argument is out of range.
///
/// # Examples
///
/// `ArcFace` with m = 0.5 and s = 30 on 85,742 identities:
///
/// ```
/// let loss = margin_losses::guide::one_direction_loss(85_742, 30.0, 0.5_f64.cos())?;
/// assert!((loss - 15.03).abs() < 0.01);
/// # Ok::<(), margin_losses::Error>(())
/// ```
pub fn one_direction_loss(classes: usize, scale: f64, target_logit: f64) -> Result<f64, Error> {
    loss_with_others_at(1.0, classes, scale, target_logit)
}

/// `ln(1 + (C−1) e^(s (c − ψ)))`, the loss of a row whose other classes all have the cosine c.
fn loss_with_others_at(cosine: f64, classes: usize, scale: f64, psi: f64) -> Result<f64, Error> {
    let others = others(classes)?;
    let scale = positive_scale(scale)?;
    let psi = parameter("target_logit", psi, psi.abs() <= 1e6, "lie in [-1e6, 1e6]")?;
    Ok(loss_at(others, scale * (cosine - psi)))
}

/// `ln(1 + others · e^gap)`: neither overflows nor loses the small losses to the 1.
fn loss_at(others: f64, gap: f64) -> f64 {
    let exponent = others.ln() + gap;
    exponent.max(0.0) + (-exponent.abs()).exp().ln_1p()
}

/// Any positive scale: the formulas hold below what a loss would train with.
fn positive_scale(scale: f64) -> Result<f64, Error> {
    let holds = scale > 0.0 && scale <= 1e6;
    parameter("scale", scale, holds, "lie in (0, 1e6]")
}

/// C − 1, for C of at least 2.
fn others(classes: usize) -> Result<f64, Error> {
    parameter("classes", classes as f64, classes >= 2, "be at least 2")?;
    Ok((classes - 1) as f64)
}

#[cfg(test)]
mod tests;
