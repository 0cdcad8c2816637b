//! Sums whose bits do not depend on the order of their terms.
//!
//! Each term, in units of a bound of the whole sum, is rounded to a multiple of 2⁻⁵⁰ before it is added. Multiples of one
//! power of two add up exactly as long as the sum stays below 2³ units, and what is exact has no order. For `f64` what the
//! rounding left over is summed likewise, in multiples of 2⁻⁸⁸, for up to 2¹⁶ terms. The idea is that of Demmel and Nguyen,
//! *Fast Reproducible Floating-Point Summation*, ARITH 2013.

use super::Element;

/// What rounds a term: the numbers between 4 and 8 are multiples of 2⁻⁵⁰.
const ROUNDER: f64 = 6.0;
/// What rounds the rest of a term: the numbers between 2⁻³⁶ and 2⁻³⁵ are multiples of 2⁻⁸⁸.
const REST_ROUNDER: f64 = 1.5 / 68_719_476_736.0;

/// Rows of sums.
#[derive(Debug)]
pub(crate) struct OrderFree<'a> {
    sums: &'a mut [f64],
    /// What they leave over; empty if that is not wanted.
    rests: &'a mut [f64],
}

impl<'a> OrderFree<'a> {
    /// Goes on with sums, and rests, that began as zeros.
    pub(crate) fn over(sums: &'a mut [f64], rests: &'a mut [f64]) -> Self {
        Self { sums, rests }
    }

    /// One of the rows, of `dim` sums each.
    pub(crate) fn row(&mut self, row: usize, dim: usize) -> OrderFree<'_> {
        let entries = row * dim..(row + 1) * dim;
        // Where rests are not wanted there are no such entries.
        let rests = self.rests.get_mut(entries.clone()).unwrap_or_default();
        OrderFree::over(&mut self.sums[entries], rests)
    }

    /// Adds `factor · term` to each sum, with one factor for each row. Neither the products nor the sums may exceed 1 by more
    /// than rounding.
    #[inline(always)]
    pub(crate) fn add<A: Element>(&mut self, factors: &[f64], terms: &[A]) {
        let dim = terms.len() / factors.len().max(1);
        let rows = self.sums.chunks_exact_mut(dim).zip(terms.chunks_exact(dim));
        if self.rests.is_empty() {
            for ((sums, terms), &factor) in rows.zip(factors) {
                for (sum, term) in sums.iter_mut().zip(terms) {
                    *sum += term.widen().mul_add(factor, ROUNDER) - ROUNDER;
                }
            }
            return;
        }
        let rests = self.rests.chunks_exact_mut(dim);
        for (((sums, terms), &factor), rests) in rows.zip(factors).zip(rests) {
            for ((sum, term), rest) in sums.iter_mut().zip(terms).zip(rests) {
                let term = term.widen() * factor;
                let rounded = (term + ROUNDER) - ROUNDER;
                *sum += rounded;
                *rest += ((term - rounded) + REST_ROUNDER) - REST_ROUNDER;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_order_has_the_same_bits() {
        let terms: Vec<f64> = (0..1000)
            .map(|k| (f64::from(k) * 0.7).sin() / 1000.0)
            .collect();
        let sum_of = |order: &mut dyn Iterator<Item = usize>| {
            let (mut alone, mut sum, mut rest) = ([0.0], [0.0], [0.0]);
            for k in order {
                OrderFree::over(&mut alone, &mut []).add(&[1.0 / 3.0], &terms[k..=k]);
                OrderFree::over(&mut sum, &mut rest).add(&[1.0 / 3.0], &terms[k..=k]);
            }
            [alone[0], sum[0] + rest[0]]
        };
        let forwards = sum_of(&mut (0..1000));
        assert_eq!(sum_of(&mut (0..1000).rev()), forwards);
        assert_eq!(sum_of(&mut (0..1000).map(|k| k * 373 % 1000)), forwards);
        let plain = |order: &mut dyn Iterator<Item = usize>| order.map(|k| terms[k] / 3.0).sum();
        let exact: f64 = plain(&mut (0..1000));
        assert!((forwards[0] - exact).abs() < 1000.0 * 2.0_f64.powi(-51));
        assert!((forwards[1] - exact).abs() < 1e-16);
        let backwards: f64 = plain(&mut (0..1000).rev());
        assert_ne!(backwards, exact, "plain sums do depend on it");
    }
}
