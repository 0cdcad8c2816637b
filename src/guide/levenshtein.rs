//! Levenshtein's universal bound on how many directions can keep a margin from each other.

/// The largest margin at which Levenshtein's bound still admits that many classes; d ≥ 3 and C > 2d, so below 1.
pub(super) fn largest_margin(classes: f64, d: f64) -> f64 {
    let (mut possible, mut impossible) = (0.0, 1.0);
    loop {
        let middle = f64::midpoint(possible, impossible);
        if middle <= possible || middle >= impossible {
            return impossible;
        }
        if admits(classes, d, middle) {
            possible = middle;
        } else {
            impossible = middle;
        }
    }
}

/// Whether Levenshtein's bound admits that many unit vectors in d ≥ 3 dimensions with all cosines at most
/// t = 1 − `margin`, for a margin in (0, 1).
///
/// With P₀, P₁, … the Gegenbauer polynomials of d dimensions, Pₖ(1) = 1, at t, let k ≥ 1 be the first with Pₖ ≤ Pₖ₊₁.
/// Then the number of vectors is at most
///
/// - `(k+d−3 choose k−1) · ((2k+d−3)/(d−1) − (Pₖ₋₁ − Pₖ)/((1−t) Pₖ))` if Pₖ₋₁ ≥ Pₖ₊₁,
/// - `(k+d−3 choose k−1) · ((2k+d−3)/(d−1) − (1+t)(Pₖ₋₁ − Pₖ)/((1−t)(Pₖ₋₁ + Pₖ)))` otherwise.
///
/// These are L₂ₖ₋₁ and L₂ₖ₋₂ of the handbook. The recurrence runs over the differences of the polynomials, which for
/// small margins are far smaller than the polynomials.
fn admits(classes: f64, d: f64, margin: f64) -> bool {
    let (mut previous, mut fall) = (1.0, margin); // Pₖ₋₁ and Pₖ₋₁ − Pₖ
    let mut binomial = 1.0;
    let mut k = 1.0;
    // The bound is at least the binomial coefficient: it need not be followed further.
    while binomial < classes {
        let current = previous - fall;
        let next_fall = ((2.0 * k + d - 2.0) * margin * current + k * fall) / (k + d - 2.0);
        if next_fall <= 0.0 {
            let ratio = if fall + next_fall >= 0.0 {
                fall / (margin * current)
            } else {
                (2.0 - margin) * fall / (margin * (previous + current))
            };
            return binomial * ((2.0 * k + d - 3.0) / (d - 1.0) - ratio) >= classes;
        }
        binomial *= (k + d - 2.0) / k;
        (previous, fall) = (current, next_fall);
        k += 1.0;
    }
    true
}
