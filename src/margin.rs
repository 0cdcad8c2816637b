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
}

impl TargetLogit {
    /// From ψ(θ) and dψ/dθ, the form that stays finite for every margin and every angle.
    #[must_use]
    pub fn from_angle_slope(value: f64, dpsi_dtheta: f64) -> Self {
        Self {
            value,
            angle_slope: dpsi_dtheta,
        }
    }

    /// From ψ(θ) and dψ/dcosθ at `angle`, the form for margins that are functions of the cosine.
    #[must_use]
    pub fn from_cosine_slope(value: f64, dpsi_dcos: f64, angle: Angle) -> Self {
        Self::from_angle_slope(value, -dpsi_dcos * angle.sin())
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

    /// `share`·self + (1 − `share`)·other, value and slope alike.
    pub(crate) fn blend(self, share: f64, other: Self) -> Self {
        let mix = |a: f64, b: f64| share * a + (1.0 - share) * b;
        Self {
            value: mix(self.value, other.value),
            angle_slope: mix(self.angle_slope, other.angle_slope),
        }
    }
}

/// What a margin-based softmax adds to a cosine layer: the target's logit as a function of the target's angle.
///
/// The other classes keep cosθ. Implement it for a margin of your own and [`MarginSoftmax`](crate::MarginSoftmax) gives
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
/// use margin_losses::{Angle, Margin, TargetLogit};
///
/// #[derive(Debug)]
/// struct Squared;
///
/// impl Margin for Squared {
///     fn target_logit(&self, angle: Angle) -> TargetLogit {
///         let half = (1.0 + angle.cos()) / 2.0;
///         TargetLogit::from_cosine_slope(2.0 * half * half - 1.0, 2.0 * half, angle)
///     }
/// }
///
/// let logit = Squared.target_logit(Angle::from_radians(0.5));
/// assert!(logit.value() < 0.5_f64.cos());
/// ```
pub trait Margin: fmt::Debug + Send + Sync {
    /// The target's logit ψ(θ), before it is scaled, and its slope.
    fn target_logit(&self, angle: Angle) -> TargetLogit;
}
