//! Rows and their norms, at both ends of the range too.

use ndarray::{ArrayView1, ArrayView2};

use crate::error::{Argument, Error};

use super::{Element, dot, vectorized};

/// The Euclidean norm of a row, `mantissa · 2^exponent`.
///
/// The exponent is 0 unless the square of the norm would leave the range of `f64`. Scaling a row by a power of two changes
/// nothing but the power of two of its norm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Norm {
    mantissa: f64,
    exponent: i32,
}

impl Norm {
    /// The norm of a contiguous row; not finite if an entry is not.
    #[inline(always)]
    pub(crate) fn of<A: Element>(row: &[A]) -> Self {
        let square = dot(row, row);
        if (SAFE_SQUARE..1.0 / SAFE_SQUARE).contains(&square) {
            Self {
                mantissa: square.sqrt(),
                exponent: 0,
            }
        } else {
            Self::of_extreme(row)
        }
    }

    /// For zero rows, rows of huge or tiny `f64` entries, and rows with entries that are not finite.
    #[cold]
    fn of_extreme<A: Element>(row: &[A]) -> Self {
        let mut largest = 0.0_f64;
        for &entry in row {
            if !entry.is_finite() {
                return Self {
                    mantissa: f64::NAN,
                    exponent: 0,
                };
            }
            largest = largest.max(entry.widen().abs());
        }
        if largest == 0.0 {
            return Self {
                mantissa: 0.0,
                exponent: 0,
            };
        }
        let exponent = binary_exponent(largest);
        let square: f64 = row
            .iter()
            .map(|entry| scale_by_power(entry.widen(), -exponent))
            .map(|entry| entry * entry)
            .sum();
        Self {
            mantissa: square.sqrt(),
            exponent,
        }
    }

    /// The norm as one number; infinite or zero where it leaves the range of `f64`.
    #[inline(always)]
    pub(crate) fn value(self) -> f64 {
        scale_by_power(self.mantissa, self.exponent)
    }

    pub(crate) fn is_zero(self) -> bool {
        self.mantissa == 0.0
    }

    /// The k for which the row times 2^−k has a norm in [1, 2).
    pub(crate) fn power(self) -> i32 {
        if self.is_zero() {
            0
        } else {
            self.exponent + binary_exponent(self.mantissa)
        }
    }

    /// The norm of the row times 2^−[`power`](Self::power).
    pub(crate) fn normalised(self) -> f64 {
        scale_by_power(self.mantissa, self.exponent - self.power())
    }

    /// The row times 2^−[`power`](Self::power), in `f64`, in place of what `out` held.
    #[inline(always)]
    pub(crate) fn scale_down<A: Element>(self, row: &[A], out: &mut Vec<f64>) {
        let [first, second] = powers_of_two(-self.power());
        // A loop of its own, because the body of `extend` need not be inlined to where the instructions are chosen.
        out.resize(row.len(), 0.0);
        for (out, &entry) in out.iter_mut().zip(row) {
            *out = entry.widen() * first * second;
        }
    }

    pub(crate) fn is_finite(self) -> bool {
        self.mantissa.is_finite()
    }

    /// The error that names the row, if it cannot be used.
    pub(crate) fn check<A: Element>(
        self,
        divides: bool,
        argument: Argument,
        row: usize,
    ) -> Result<(), Error> {
        if !self.is_finite() {
            Err(Error::NonFinite { argument, row })
        } else if divides && self.value().is_infinite() {
            Err(Error::overflow("norm", argument, row))
        } else if divides && self.is_zero() {
            Err(Error::ZeroNorm { argument, row })
        } else if divides && self.value() < A::MIN_NORM {
            Err(Error::NormTooSmall { argument, row })
        } else {
            Ok(())
        }
    }
}

/// Squares of norms between this and its inverse, 2^∓900, lose nothing to the ends of the range of `f64`.
const SAFE_SQUARE: f64 = 1.183_051_863_362_138_4e-271;

/// ⌊log₂|x|⌋ of a finite x ≠ 0.
pub(crate) fn binary_exponent(x: f64) -> i32 {
    let exponent = |x: f64| ((x.to_bits() >> 52) & 0x7ff) as i32 - 1023;
    if x.is_normal() {
        exponent(x)
    } else {
        exponent(x * 18_014_398_509_481_984.0) - 54 // 2^54
    }
}

/// 2^power as a product of two numbers, for powers in ±2044 (any other is taken to be the nearest of these).
///
/// Multiplying by one after the other scales the row of a [`Norm`] to a norm in [1, 2) without rounding.
#[inline(always)]
pub(crate) fn powers_of_two(power: i32) -> [f64; 2] {
    let two_to = |power: i32| f64::from_bits(((power + 1023) as u64) << 52);
    let power = power.clamp(-2044, 2044);
    let half = power / 2;
    [two_to(half), two_to(power - half)]
}

/// `x · 2^power`.
#[inline(always)]
pub(crate) fn scale_by_power(x: f64, power: i32) -> f64 {
    let [first, second] = powers_of_two(power);
    x * first * second
}

/// The row as a slice: its own memory if that is contiguous, a copy in `buffer` if not.
pub(crate) fn contiguous<'a, A: Element>(
    row: ArrayView1<'a, A>,
    buffer: &'a mut Vec<A>,
) -> &'a [A] {
    if let Some(slice) = row.to_slice() {
        return slice;
    }
    buffer.clear();
    buffer.extend(row.iter().copied());
    buffer
}

/// The norm of each row; no number, infinite or zero where the row cannot be divided by its norm.
pub(crate) fn norms<A: Element>(rows: ArrayView2<'_, A>) -> Vec<f64> {
    let mut buffer = Vec::new();
    vectorized(
        #[inline(always)]
        || {
            let mut norms = vec![0.0; rows.nrows()];
            for (norm, row) in norms.iter_mut().zip(rows.outer_iter()) {
                *norm = Norm::of(contiguous(row, &mut buffer)).value();
            }
            norms
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn norms_at_both_ends_of_the_range() {
        assert_eq!(Norm::of(&[3.0_f32, 4.0]).value(), 5.0);
        assert_eq!(Norm::of(&[3e-320_f64, 4e-320]).value(), 5e-320);
        let huge = Norm::of(&[3e307_f64, 4e307]);
        approx::assert_relative_eq!(huge.value(), 5e307, max_relative = 1e-15);
        assert_eq!(Norm::of(&[f64::MAX; 4]).value(), f64::INFINITY);
        let refused = Norm::of(&[f64::MAX; 4]).check::<f64>(true, Argument::Features, 7);
        assert!(matches!(refused, Err(Error::Overflow { row: 7, .. })));
        assert!(Norm::of(&[0.0_f32; 3]).is_zero());
    }

    #[test]
    fn scaling_by_a_power_of_two_keeps_the_mantissa() {
        let row = [0.3_f64, -1.7, 2.9, 1e-3];
        let norm = Norm::of(&row);
        for power in [-1000, -600, -100, 100, 600, 1000] {
            let scaled = Norm::of(&row.map(|x| scale_by_power(x, power)));
            assert_eq!(scaled.normalised(), norm.normalised(), "2^{power}");
            assert_eq!(scaled.power(), norm.power() + power);
        }
    }

    #[test]
    fn exponents() {
        for (x, exponent) in [
            (1.0, 0),
            (1.99, 0),
            (2.0, 1),
            (0.5, -1),
            (5e-324, -1074),
            (f64::MAX, 1023),
        ] {
            assert_eq!(binary_exponent(x), exponent, "{x}");
        }
        assert_eq!(scale_by_power(1.0, -1074), 5e-324);
        assert_eq!(scale_by_power(5e-324, 2044), 2.0_f64.powi(970));
    }
}
