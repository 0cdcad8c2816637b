//! Schedules: the strength of a margin as a pure function of the training iteration.
//!
//! Losses keep no count of their own, so evaluating one twice gives the same result twice, and a test pass does not
//! advance training. The caller counts, asks the schedule, and builds the loss of that iteration.

use crate::error::{Error, parameter};

/// The annealing of [`ASoftmax`](crate::ASoftmax): `λ(t) = max(minimum, base · (1 + γ t)^(−power))`.
///
/// ```math
/// \lambda(t) = \max\bigl(\text{minimum},\; \text{base} \cdot (1 + \gamma t)^{-\text{power}}\bigr)
/// ```
///
/// A-Softmax blends the target's logit, `(λ cosθ + ψ(θ))/(1 + λ)`: it is nearly a plain softmax while λ is large, and
/// the full margin at λ = 0. From random weights, training with the full margin often does not converge.
///
/// # Counting
///
/// The reference implementation counts before it uses the count: its first iteration is t = 1. A loop that counts from
/// 0 asks for `at(iteration + 1)` to follow it. It also counts evaluations of the test set, and starts again at every
/// fine-tuning; nothing like that happens here.
///
/// # Settings in use
///
/// | where | base | γ | power | minimum |
/// |---|---|---|---|---|
/// | `SphereFace`: [`sphere_face`](Self::sphere_face) | 1000 | 0.12 | 1 | 5 |
/// | L-Softmax on MNIST | 1000 | 2.5e-5 | 35 | 0 |
/// | `clcarwin/sphereface_pytorch` | 1500 | 0.1 | 1 | 5 |
/// | not annealed: λ is `base` throughout | λ | 0 | 1 | 0 |
///
/// # Examples
///
/// ```
/// use margin_losses::schedule::LambdaAnnealing;
///
/// let annealing = LambdaAnnealing::sphere_face();
/// assert!((annealing.at(1) - 892.857143).abs() < 1e-6);
/// assert!((annealing.at(100) - 76.923077).abs() < 1e-6);
/// assert_eq!(annealing.at(28_000), 5.0);
/// ```
///
/// # References
///
/// - Liu et al., *Large-Margin Softmax Loss*, [arXiv:1612.02295](https://arxiv.org/abs/1612.02295), the blend
/// - Liu et al., `SphereFace`, [arXiv:1704.08063](https://arxiv.org/abs/1704.08063), the same for A-Softmax
/// - `margin_inner_product_layer.cpp` of <https://github.com/wy1iu/sphereface>, the formula of λ
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LambdaAnnealing {
    base: f64,
    gamma: f64,
    power: f64,
    minimum: f64,
}

impl LambdaAnnealing {
    /// A schedule from its four numbers, each finite and not negative.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] if one of them is negative, infinite or NaN.
    pub fn new(base: f64, gamma: f64, power: f64, minimum: f64) -> Result<Self, Error> {
        Ok(Self {
            base: non_negative("base", base)?,
            gamma: non_negative("gamma", gamma)?,
            power: non_negative("power", power)?,
            minimum: non_negative("minimum", minimum)?,
        })
    }

    /// The schedule of the published `SphereFace` models: base 1000, γ 0.12, power 1, minimum 5.
    #[must_use]
    pub const fn sphere_face() -> Self {
        Self {
            base: 1000.0,
            gamma: 0.12,
            power: 1.0,
            minimum: 5.0,
        }
    }

    /// λ at this iteration: finite, never negative, and never larger than at an earlier one.
    #[must_use]
    pub fn at(&self, iteration: u64) -> f64 {
        let decay = (1.0 + self.gamma * iteration as f64).powf(self.power);
        (self.base / decay).max(self.minimum)
    }

    /// λ at iteration 0, unless that is below [`minimum`](Self::minimum).
    #[must_use]
    pub fn base(&self) -> f64 {
        self.base
    }

    /// γ, the decay per iteration.
    #[must_use]
    pub fn gamma(&self) -> f64 {
        self.gamma
    }

    /// The power of the decay.
    #[must_use]
    pub fn power(&self) -> f64 {
        self.power
    }

    /// The value below which λ does not fall.
    #[must_use]
    pub fn minimum(&self) -> f64 {
        self.minimum
    }
}

/// A margin that grows (or shrinks) linearly: `m(t) = from + (to − from) · min(1, t/iterations)`.
///
/// ```math
/// m(t) = \text{from} + (\text{to} - \text{from})\, \min\Bigl(1, \frac{t}{\text{iterations}}\Bigr)
/// ```
///
/// For runs that do not converge with the full margin from the start, above all from random weights. No paper of the
/// family prescribes it. The first iteration is t = 0. A margin that grows by Δm adds up to s·Δm to each row's loss, so the loss
/// may rise while the accuracy does: nothing is wrong then.
///
/// # Examples
///
/// ```
/// use margin_losses::schedule::MarginWarmUp;
///
/// let warm_up = MarginWarmUp::new(0.0, 0.5, 1000)?;
/// assert_eq!(warm_up.at(0), 0.0);
/// assert_eq!(warm_up.at(500), 0.25);
/// assert_eq!(warm_up.at(20_000), 0.5);
/// # Ok::<(), margin_losses::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MarginWarmUp {
    from: f64,
    to: f64,
    iterations: u64,
}

impl MarginWarmUp {
    /// A ramp between two margins, each finite and not negative, over that many iterations; 0 is `to` at once.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] if a margin is negative, infinite or NaN.
    pub fn new(from: f64, to: f64, iterations: u64) -> Result<Self, Error> {
        Ok(Self {
            from: non_negative("from", from)?,
            to: non_negative("to", to)?,
            iterations,
        })
    }

    /// The margin at this iteration: exactly `from` at 0, exactly `to` from `iterations` on, and between them
    /// otherwise.
    #[must_use]
    pub fn at(&self, iteration: u64) -> f64 {
        if iteration >= self.iterations {
            return self.to;
        }
        let share = iteration as f64 / self.iterations as f64;
        let margin = self.from + (self.to - self.from) * share;
        // Rounding may step over the end.
        margin.clamp(self.from.min(self.to), self.from.max(self.to))
    }

    /// The margin at iteration 0.
    #[must_use]
    pub fn from(&self) -> f64 {
        self.from
    }

    /// The margin from [`iterations`](Self::iterations) on.
    #[must_use]
    pub fn to(&self) -> f64 {
        self.to
    }

    /// How many iterations the ramp takes.
    #[must_use]
    pub fn iterations(&self) -> u64 {
        self.iterations
    }
}

fn non_negative(name: &'static str, value: f64) -> Result<f64, Error> {
    parameter(
        name,
        value,
        value.is_finite() && value >= 0.0,
        "be finite and not negative",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sphere_face_follows_the_reference() {
        let annealing = LambdaAnnealing::sphere_face();
        let published = [
            (0, 1000.0),
            (1, 892.857_143),
            (10, 454.545_455),
            (100, 76.923_077),
            (1000, 8.264_463),
        ];
        for (iteration, lambda) in published {
            assert!((annealing.at(iteration) - lambda).abs() < 5e-7);
        }
        assert!(annealing.at(1658) > 5.0);
        assert_eq!(annealing.at(1659), 5.0);
        assert_eq!(annealing.at(u64::MAX), 5.0);
        assert_eq!(LambdaAnnealing::new(1000.0, 0.12, 1.0, 5.0), Ok(annealing));
    }

    #[test]
    fn other_settings() {
        let port = LambdaAnnealing::new(1500.0, 0.1, 1.0, 5.0).unwrap();
        assert!((port.at(1) - 1_363.636_364).abs() < 5e-7);
        assert!(port.at(2989) > 5.0);
        assert_eq!(port.at(2990), 5.0);

        let large_margin = LambdaAnnealing::new(1000.0, 2.5e-5, 35.0, 0.0).unwrap();
        let expected = 1000.0 * (-35.0 * 0.25_f64.ln_1p()).exp();
        assert!((large_margin.at(10_000) / expected - 1.0).abs() < 1e-12);

        let constant = LambdaAnnealing::new(1.0, 0.0, 1.0, 0.0).unwrap();
        assert_eq!(constant.at(0), 1.0);
        assert_eq!(constant.at(1_000_000), 1.0);
    }

    #[test]
    fn annealing_falls_and_is_never_nan() {
        let extremes = [0.0, f64::MIN_POSITIVE, 0.12, 1.0, 35.0, f64::MAX];
        for base in extremes {
            for gamma in extremes {
                for power in extremes {
                    for minimum in [0.0, 5.0] {
                        let annealing = LambdaAnnealing::new(base, gamma, power, minimum).unwrap();
                        let mut last = f64::INFINITY;
                        for iteration in [0, 1, 2, 1000, u64::MAX] {
                            let lambda = annealing.at(iteration);
                            assert!(lambda.is_finite() && lambda >= minimum && lambda <= last);
                            last = lambda;
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn warm_up_is_a_ramp() {
        for (from, to) in [
            (0.0, 0.5),
            (0.5, 0.0),
            (0.1, 0.35),
            (0.3, 0.3),
            (0.0, f64::MAX),
        ] {
            let warm_up = MarginWarmUp::new(from, to, 997).unwrap();
            let rises = to >= from;
            let mut last = from;
            for iteration in 0..=1000 {
                let margin = warm_up.at(iteration);
                assert!(margin == last || (margin > last) == rises);
                last = margin;
            }
            assert_eq!(
                (warm_up.at(0), warm_up.at(997), warm_up.at(u64::MAX)),
                (from, to, to)
            );
        }
        assert_eq!(MarginWarmUp::new(0.1, 0.5, 0).unwrap().at(0), 0.5);
    }

    #[test]
    fn bad_numbers_are_named() {
        for bad in [-1.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let name = |error: Error| match error {
                Error::Parameter { name, .. } => name,
                other => panic!("{other}"),
            };
            for (index, expected) in ["base", "gamma", "power", "minimum"]
                .into_iter()
                .enumerate()
            {
                let mut numbers = [1.0; 4];
                numbers[index] = bad;
                let [base, gamma, power, minimum] = numbers;
                let error = LambdaAnnealing::new(base, gamma, power, minimum).unwrap_err();
                assert_eq!(name(error), expected);
            }
            assert_eq!(name(MarginWarmUp::new(bad, 0.5, 10).unwrap_err()), "from");
            assert_eq!(name(MarginWarmUp::new(0.0, bad, 10).unwrap_err()), "to");
        }
    }
}
