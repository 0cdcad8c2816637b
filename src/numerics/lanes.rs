//! Sums and extremes of rows, in lanes side by side, and the vector instructions for them.

use core::hint::black_box;

use pulp::{Arch, Simd, WithSimd};

use super::Element;

/// How many partial sums run side by side.
const LANES: usize = 16;

/// Runs an `#[inline(always)]` closure with the best vector instructions of the machine.
///
/// Only what is inlined into it gets them, down to `mul_add`. So the closure is `FnMut` and called by reference. By value it
/// is called through a shim that nothing forces to be inlined.
#[inline(always)]
pub(crate) fn vectorized<R>(work: impl FnMut() -> R) -> R {
    struct Work<F>(F);
    impl<R, F: FnMut() -> R> WithSimd for Work<F> {
        type Output = R;
        #[inline(always)]
        fn with_simd<S: Simd>(mut self, _: S) -> R {
            (self.0)()
        }
    }
    Arch::new().dispatch(Work(work))
}

/// `a · b` in `f64`.
#[inline(always)]
pub(crate) fn dot<A: Element>(a: &[A], b: &[A]) -> f64 {
    let mut lanes = [0.0_f64; LANES];
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for k in 0..LANES {
            lanes[k] = a[k].widen().mul_add(b[k].widen(), lanes[k]);
        }
    }
    let mut rest = 0.0;
    for (&a, &b) in a_rest.iter().zip(b_rest) {
        rest += a.widen() * b.widen();
    }
    reduce(lanes, |a, b| a + b) + rest
}

/// The larger of two numbers; the first, if one of them is NaN.
#[inline(always)]
pub(crate) fn larger<A: PartialOrd>(a: A, b: A) -> A {
    if b > a { b } else { a }
}

/// The largest of numbers that are not NaN; −∞ of none.
#[inline(always)]
pub(crate) fn largest<A: Element>(row: &[A]) -> A {
    let mut lanes = [A::neg_infinity(); LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        for k in 0..LANES {
            lanes[k] = larger(lanes[k], chunk[k]);
        }
    }
    rest.iter().copied().fold(reduce(lanes, larger), larger)
}

/// The largest of |x|, of numbers that are not NaN; 0 of none.
#[inline(always)]
pub(crate) fn largest_magnitude(row: &[f64]) -> f64 {
    let mut lanes = [0.0; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        for k in 0..LANES {
            lanes[k] = larger(lanes[k], chunk[k].abs());
        }
    }
    let largest = reduce(lanes, larger);
    rest.iter().fold(largest, |a, x| larger(a, x.abs()))
}

/// The smallest and the largest of numbers that are not negative; both NaN if one is.
#[inline(always)]
pub(crate) fn extremes(row: &[f64]) -> (f64, f64) {
    // Comparisons with NaN are false, so it is the sum that remembers one.
    let smaller = |a: f64, b: f64| if b < a { b } else { a };
    let mut smallest = [f64::INFINITY; LANES];
    let mut largest = [f64::NEG_INFINITY; LANES];
    let mut sums = [0.0; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        for k in 0..LANES {
            smallest[k] = smaller(smallest[k], chunk[k]);
            largest[k] = larger(largest[k], chunk[k]);
            sums[k] += chunk[k];
        }
    }
    let mut found = (
        reduce(smallest, smaller),
        reduce(largest, larger),
        reduce(sums, |a, b| a + b),
    );
    for &x in rest {
        found = (smaller(found.0, x), larger(found.1, x), found.2 + x);
    }
    if found.2.is_nan() {
        (f64::NAN, f64::NAN)
    } else {
        (found.0, found.1)
    }
}

/// All lanes as one, by halves: the order that vector instructions and short chains of dependence ask for.
///
/// The box keeps what is done to the lanes here out of the loop that they come from: compilers lay out a loop's registers
/// for the sake of the reduction after it, in pieces of two or four lanes, which costs the loop half its speed.
#[inline(always)]
pub(crate) fn reduce<T: Copy, const N: usize>(lanes: [T; N], join: impl Fn(T, T) -> T) -> T {
    const { assert!(N.is_power_of_two()) };
    let mut lanes = black_box(lanes);
    let mut half = N / 2;
    while half > 0 {
        for k in 0..half {
            lanes[k] = join(lanes[k], lanes[k + half]);
        }
        half /= 2;
    }
    lanes[0]
}

/// `a·b − c·d` to the last digit: Kahan's, with the rounding error of the second product recovered.
#[inline(always)]
pub(crate) fn difference_of_products(a: f64, b: f64, c: f64, d: f64) -> f64 {
    let product = c * d;
    let error = c.mul_add(-d, product);
    a.mul_add(b, -product) + error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extremes_wherever_they_are() {
        for length in 1..40 {
            for place in 0..length {
                let mut row: Vec<f64> = (0..length).map(|k| 3.0 + f64::from(k)).collect();
                row[place as usize] = -100.0;
                assert_eq!(largest_magnitude(&row), 100.0);
                row[place as usize] = 0.5;
                let largest = if place + 1 == length {
                    length + 1
                } else {
                    length + 2
                };
                let largest = if length == 1 { 0.5 } else { f64::from(largest) };
                assert_eq!(extremes(&row), (0.5, largest));
                row[place as usize] = f64::NAN;
                assert!(extremes(&row).0.is_nan() && extremes(&row).1.is_nan());
            }
        }
        assert_eq!(largest_magnitude(&[]), 0.0);
    }
}
