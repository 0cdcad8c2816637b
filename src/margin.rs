//! The map of a paper: from the angle of a row to its target class, to the target's logit.

use core::fmt;

/// The angle θ ∈ [0, π] between a feature and the weight of its class, in radians.
///
/// Its cosine and sine are carried beside it, each to full relative precision: near the poles neither could be had from
/// the other.
///
/// # Examples
///
/// ```
/// use margin_losses::Angle;
///
/// let angle = Angle::from_radians(1e-9);
/// assert_eq!(angle.sin(), 1e-9);
/// assert_eq!(angle.cos(), 1.0);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Angle {
    radians: f64,
    cos: f64,
    sin: f64,
}

impl Angle {
    /// The angle of that many radians.
    #[must_use]
    pub fn from_radians(radians: f64) -> Self {
        let (sin, cos) = radians.sin_cos();
        Self { radians, cos, sin }
    }

    /// The angle between two unit vectors that are `chord` apart and whose sum has the length `sum`: θ = 2·atan2(chord, sum).
    ///
    /// Any common factor of the two cancels.
    pub(crate) fn from_chords(chord: f64, sum: f64) -> Self {
        let square = chord * chord + sum * sum;
        Self {
            radians: 2.0 * chord.atan2(sum),
            cos: (sum - chord) * (sum + chord) / square,
            sin: 2.0 * chord * sum / square,
        }
    }

    /// θ, in radians.
    #[must_use]
    pub fn radians(self) -> f64 {
        self.radians
    }

    /// cos θ.
    #[must_use]
    pub fn cos(self) -> f64 {
        self.cos
    }

    /// sin θ, never negative.
    #[must_use]
    pub fn sin(self) -> f64 {
        self.sin
    }
}

/// What a [`Margin`] makes of an angle: the target's logit ψ(θ) before scaling, and its slope.
///
/// # Examples
///
/// CosFace's margin, its slope written in θ and in cosθ:
///
/// ```
/// use margin_losses::{Angle, TargetLogit};
///
/// let angle = Angle::from_radians(0.7);
/// let in_theta = TargetLogit::from_angle_slope(angle.cos() - 0.35, -angle.sin());
/// let in_cosine = TargetLogit::from_cosine_slope(angle.cos() - 0.35, 1.0, angle);
/// assert_eq!(in_theta, in_cosine);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TargetLogit {
    value: f64,
    angle_slope: f64,
    norm_slope: f64,
    row_term: [f64; 2],
}

impl TargetLogit {
    /// From ψ(θ) and dψ/dθ, the form that stays finite for every margin and every angle.
    #[must_use]
    pub fn from_angle_slope(value: f64, dpsi_dtheta: f64) -> Self {
        Self {
            value,
            angle_slope: dpsi_dtheta,
            norm_slope: 0.0,
            row_term: [0.0; 2],
        }
    }

    /// From ψ(θ) and dψ/dcosθ at `angle`, the form for margins that are functions of the cosine.
    #[must_use]
    pub fn from_cosine_slope(value: f64, dpsi_dcos: f64, angle: Angle) -> Self {
        Self::from_angle_slope(value, -dpsi_dcos * angle.sin())
    }

    /// With ∂ψ/∂‖x‖, for a margin that depends on the length of the feature.
    #[must_use]
    pub fn with_norm_slope(self, dpsi_dnorm: f64) -> Self {
        Self {
            norm_slope: dpsi_dnorm,
            ..self
        }
    }

    /// With a term g(‖x‖) that is added to the row's loss ℓᵢ, and its slope dg/d‖x‖.
    ///
    /// It is part of ℓᵢ: the row weight and the reduction apply to it as well.
    #[must_use]
    pub fn with_row_term(self, value: f64, dterm_dnorm: f64) -> Self {
        Self {
            row_term: [value, dterm_dnorm],
            ..self
        }
    }

    /// ψ(θ).
    #[must_use]
    pub fn value(self) -> f64 {
        self.value
    }

    /// dψ/dθ.
    #[must_use]
    pub fn angle_slope(self) -> f64 {
        self.angle_slope
    }

    /// ∂ψ/∂‖x‖.
    #[must_use]
    pub fn norm_slope(self) -> f64 {
        self.norm_slope
    }

    /// What is added to the row's loss, and its slope in ‖x‖.
    pub(crate) fn row_term(self) -> [f64; 2] {
        self.row_term
    }

    /// `share`·self + (1 − `share`)·other, value and slope alike.
    pub(crate) fn blend(self, share: f64, other: Self) -> Self {
        let mix = |a: f64, b: f64| share * a + (1.0 - share) * b;
        Self::from_angle_slope(
            mix(self.value, other.value),
            mix(self.angle_slope, other.angle_slope),
        )
    }

    pub(crate) fn is_finite(self) -> bool {
        let [term, slope] = self.row_term;
        [self.value, self.angle_slope, self.norm_slope, term, slope]
            .into_iter()
            .all(f64::is_finite)
    }
}

/// One row's target, as a [`Margin`] is asked about it.
///
/// # Examples
///
/// ```
/// use margin_losses::{Angle, Target};
///
/// let target = Target::from(Angle::from_radians(0.5)).with_feature_norm(20.0).with_class(3);
/// assert_eq!(target.cos(), 0.5_f64.cos());
/// assert_eq!((target.feature_norm(), target.class(), target.row()), (20.0, 3, 0));
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Target {
    angle: Angle,
    feature_norm: f64,
    class: usize,
    row: usize,
}

/// A target at that angle, of a feature of length 1, class 0 and row 0.
impl From<Angle> for Target {
    fn from(angle: Angle) -> Self {
        Self::new(angle, 1.0, 0, 0)
    }
}

impl Target {
    pub(crate) fn new(angle: Angle, feature_norm: f64, class: usize, row: usize) -> Self {
        Self {
            angle,
            feature_norm,
            class,
            row,
        }
    }

    /// With another ‖x‖.
    #[must_use]
    pub fn with_feature_norm(self, feature_norm: f64) -> Self {
        Self {
            feature_norm,
            ..self
        }
    }

    /// With another class.
    #[must_use]
    pub fn with_class(self, class: usize) -> Self {
        Self { class, ..self }
    }

    /// With another row.
    #[must_use]
    pub fn with_row(self, row: usize) -> Self {
        Self { row, ..self }
    }

    /// θ, with its cosine and sine.
    #[must_use]
    pub fn angle(&self) -> Angle {
        self.angle
    }

    /// θ, in radians.
    #[must_use]
    pub fn radians(&self) -> f64 {
        self.angle.radians
    }

    /// cos θ.
    #[must_use]
    pub fn cos(&self) -> f64 {
        self.angle.cos
    }

    /// sin θ, never negative.
    #[must_use]
    pub fn sin(&self) -> f64 {
        self.angle.sin
    }

    /// ‖x‖.
    #[must_use]
    pub fn feature_norm(&self) -> f64 {
        self.feature_norm
    }

    /// The class, in `0..C`.
    #[must_use]
    pub fn class(&self) -> usize {
        self.class
    }

    /// The row of the batch, in `0..N`, rows that are ignored counted.
    #[must_use]
    pub fn row(&self) -> usize {
        self.row
    }
}

/// What a margin makes of a row's negatives: the cosines c of all classes but the target.
///
/// Data, not code, because it is applied to every entry of N×C: above a threshold, c becomes a polynomial of degree three.
/// The gradient is that of the changed logits, the threshold and the coefficients taken as constants.
///
/// # Examples
///
/// CurricularFace's `c (t + c)` above cos(θ + m):
///
/// ```
/// use margin_losses::Negatives;
///
/// let t = 0.3;
/// let hard = Negatives::above(0.2, [0.0, t, 1.0, 0.0]);
/// assert_eq!(hard.of(0.1), 0.1);
/// assert_eq!(hard.of(0.5), 0.5 * (t + 0.5));
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Negatives {
    threshold: f64,
    /// m: first cosθ becomes cos(max(θ − m, 0)). With 0 nothing is turned.
    turn: f64,
    /// What the polynomial is of: the cosine less this.
    center: f64,
    polynomial: [f64; 4],
}

impl Negatives {
    /// Every cosine stays as it is.
    #[must_use]
    pub fn plain() -> Self {
        Self::above(f64::INFINITY, [0.0, 1.0, 0.0, 0.0])
    }

    /// Cosines above `threshold` become `a + b c + d c² + e c³`, given [a, b, d, e].
    #[must_use]
    pub fn above(threshold: f64, polynomial: [f64; 4]) -> Self {
        Self {
            threshold,
            turn: 0.0,
            center: 0.0,
            polynomial,
        }
    }

    /// Every cosine becomes a polynomial of c + 1, which keeps its digits near −1.
    pub(crate) fn of_one_more(polynomial: [f64; 4]) -> Self {
        Self {
            center: -1.0,
            ..Self::above(f64::NEG_INFINITY, polynomial)
        }
    }

    /// The same of the cosines that are nearer by the angle m ∈ [0, π), 1 where they would be nearer than 0.
    pub(crate) fn turned(self, m: f64) -> Self {
        Self { turn: m, ..self }
    }

    /// Cosines above the threshold count as 0, if there is one.
    pub(crate) fn filtered(threshold: Option<f64>) -> Self {
        threshold.map_or(Self::plain(), |threshold| Self::above(threshold, [0.0; 4]))
    }

    /// What becomes of the cosine c.
    #[must_use]
    pub fn of(self, c: f64) -> f64 {
        if c > self.threshold {
            let [a, b, d, e] = self.polynomial;
            let turned = if self.turn == 0.0 {
                c
            } else {
                (c.clamp(-1.0, 1.0).acos() - self.turn).max(0.0).cos()
            };
            let u = turned - self.center;
            a + u * (b + u * (d + u * e))
        } else {
            c
        }
    }

    pub(crate) fn threshold(self) -> f64 {
        self.threshold
    }

    pub(crate) fn turn(self) -> f64 {
        self.turn
    }

    pub(crate) fn center(self) -> f64 {
        self.center
    }

    /// The coefficients for z = s c, whose polynomial gives s times what it gives for c.
    pub(crate) fn polynomial_of(self, scale: f64) -> [f64; 4] {
        let [a, b, d, e] = self.polynomial;
        [a * scale, b, d / scale, e / (scale * scale)]
    }

    /// A bound of the polynomial's slope over all cosines.
    pub(crate) fn steepest(self) -> f64 {
        let ([_, b, d, e], u) = (self.polynomial, 1.0 + self.center.abs());
        (b.abs() + 2.0 * d.abs() * u + 3.0 * e.abs() * u * u).max(1.0)
    }

    /// A bound of what becomes of a cosine.
    pub(crate) fn largest(self) -> f64 {
        let ([a, b, d, e], u) = (self.polynomial.map(f64::abs), 1.0 + self.center.abs());
        (a + b * u + d * u * u + e * u * u * u).max(1.0)
    }

    /// Whether all coefficients are finite, and the threshold is a number.
    pub(crate) fn is_finite(self) -> bool {
        self.polynomial.iter().all(|c| c.is_finite()) && !self.threshold.is_nan()
    }
}

/// What a margin-based softmax adds to a cosine layer: the target's logit as a function of the target's angle.
///
/// The other classes keep cosθ unless [`negatives`](Self::negatives) changes them. Implement it for a margin of your own and [`MarginSoftmax`](crate::MarginSoftmax) gives
/// you its loss and exact gradients, on the path that all losses of this crate run on.
///
/// The slope may be given in θ or in cosθ, whichever the formula is written in. In θ it is bounded for every margin in
/// use, in cosθ it may be infinite at the poles (ArcFace: sin(θ + m)/sinθ); use the former where they differ.
///
/// # Examples
///
/// A margin that demands the square of the (shifted) cosine, written in the cosine:
///
/// ```
/// use margin_losses::{Angle, Margin, Target, TargetLogit};
///
/// #[derive(Debug)]
/// struct Squared;
///
/// impl Margin for Squared {
///     fn target_logit(&self, target: &Target) -> TargetLogit {
///         let half = (1.0 + target.cos()) / 2.0;
///         TargetLogit::from_cosine_slope(2.0 * half * half - 1.0, 2.0 * half, target.angle())
///     }
/// }
///
/// let logit = Squared.target_logit(&Angle::from_radians(0.5).into());
/// assert!(logit.value() < 0.5_f64.cos());
/// ```
pub trait Margin: fmt::Debug + Send + Sync {
    /// The target's logit ψ(θ), before it is scaled, and its slopes.
    fn target_logit(&self, target: &Target) -> TargetLogit;

    /// What becomes of the row's negatives; nothing, unless the margin says otherwise.
    fn negatives(&self, _target: &Target) -> Negatives {
        Negatives::plain()
    }

    /// The scale s that the margin's own loss has, if it is a loss and has one.
    fn own_scale(&self) -> Option<f64> {
        None
    }
}

/// A margin that is asked about some rows of a batch, and told which rows of the batch they are.
#[derive(Debug)]
pub(crate) struct OfRows<'a> {
    pub(crate) margin: &'a dyn Margin,
    pub(crate) rows: &'a [usize],
}

impl OfRows<'_> {
    fn in_batch(&self, target: &Target) -> Target {
        target.with_row(self.rows[target.row()])
    }
}

impl Margin for OfRows<'_> {
    fn target_logit(&self, target: &Target) -> TargetLogit {
        self.margin.target_logit(&self.in_batch(target))
    }

    fn negatives(&self, target: &Target) -> Negatives {
        self.margin.negatives(&self.in_batch(target))
    }

    fn own_scale(&self) -> Option<f64> {
        self.margin.own_scale()
    }
}
