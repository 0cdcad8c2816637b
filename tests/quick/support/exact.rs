//! Arithmetic of the oracle: compensated sums, vectors scaled by powers of two, angles to their last digit.

use ndarray::ArrayView1;

/// A sum that carries the rounding error of its terms along (Neumaier).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sum {
    total: f64,
    lost: f64,
}

impl Sum {
    pub(crate) fn add(&mut self, term: f64) {
        let total = self.total + term;
        self.lost += if self.total.abs() >= term.abs() {
            (self.total - total) + term
        } else {
            (term - total) + self.total
        };
        self.total = total;
    }

    /// Adds a product, with the rounding error of the product.
    pub(crate) fn add_product(&mut self, a: f64, b: f64) {
        let product = a * b;
        self.add(product);
        let lost = a.mul_add(b, -product);
        // A product that is not finite, or so small that its error is below all numbers, has none to speak of.
        if lost.is_finite() {
            self.lost += lost;
        }
    }

    pub(crate) fn value(self) -> f64 {
        let value = self.total + self.lost;
        // Infinity and its own negative, which is what its rounding error comes to.
        if value.is_nan() { self.total } else { value }
    }
}

pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sum = Sum::default();
    for (&p, &q) in a.iter().zip(b) {
        sum.add_product(p, q);
    }
    sum.value()
}

/// `x · 2^power`, for any power that makes sense.
pub(crate) fn times_two_to(x: f64, power: i32) -> f64 {
    let (mut x, mut left) = (x, power);
    while left != 0 {
        let step = left.clamp(-1000, 1000);
        x *= 2.0_f64.powi(step);
        left -= step;
    }
    x
}

/// ⌊log₂ x⌋ of the largest magnitude; 0 if all are zero.
fn largest_power(entries: &[f64]) -> i32 {
    let largest = entries.iter().fold(0.0_f64, |m, v| m.max(v.abs()));
    if largest == 0.0 {
        return 0;
    }
    let (scaled, offset) = if largest < 1e-300 {
        (largest * 2.0_f64.powi(100), 100)
    } else {
        (largest, 0)
    };
    ((scaled.to_bits() >> 52) as i32 & 0x7ff) - 1023 - offset
}

/// A number as 2^power times one in [1, 2), or 0.
#[derive(Clone, Copy, Debug)]
pub(super) struct Power {
    factor: f64,
    power: i32,
}

impl Power {
    pub(super) fn of(x: f64) -> Self {
        let power = largest_power(&[x]);
        Self {
            factor: times_two_to(x, -power),
            power,
        }
    }

    /// `self · x · 2^power`.
    pub(super) fn times(self, x: f64, power: i32) -> f64 {
        times_two_to(self.factor * x, self.power + power)
    }
}

/// A vector as 2^power times one whose largest entry is in [1, 2), which is exact, and the norm of the latter.
#[derive(Clone, Debug)]
pub(crate) struct Scaled {
    pub(super) entries: Vec<f64>,
    pub(super) power: i32,
    pub(super) norm: f64,
}

impl Scaled {
    pub(crate) fn of(vector: ArrayView1<'_, f64>) -> Self {
        let mut entries = vector.to_vec();
        let power = largest_power(&entries);
        for entry in &mut entries {
            *entry = times_two_to(*entry, -power);
        }
        let norm = dot(&entries, &entries).sqrt();
        Self {
            entries,
            power,
            norm,
        }
    }

    pub(super) fn is_zero(&self) -> bool {
        self.norm == 0.0
    }

    /// The norm; 0 or infinity where it leaves the range.
    pub(crate) fn length(&self) -> f64 {
        times_two_to(self.norm, self.power)
    }

    /// The norm's logarithm to base 2, finite unless the vector is zero.
    pub(crate) fn log2_length(&self) -> f64 {
        self.norm.log2() + f64::from(self.power)
    }

    /// `factor / norm`.
    pub(super) fn over_length(&self, factor: f64) -> f64 {
        times_two_to(factor / self.norm, -self.power)
    }

    pub(super) fn unit(&self, k: usize) -> f64 {
        self.entries[k] / self.norm
    }

    pub(crate) fn cosine(&self, other: &Self) -> f64 {
        if self.is_zero() || other.is_zero() {
            0.0
        } else {
            dot(&self.entries, &other.entries) / (self.norm * other.norm)
        }
    }

    /// The angle, its sine, and the unit tangents at each vector towards the other; zero if they are parallel.
    pub(crate) fn angle_to(&self, other: &Self) -> (f64, f64, [Vec<f64>; 2]) {
        let (x, w) = (&self.entries, &other.entries);
        let dimension = x.len();
        // xⱼ wₖ − xₖ wⱼ, each to the last digit.
        let minor = |j: usize, k: usize| {
            let product = x[k] * w[j];
            x[j].mul_add(w[k], -product) - x[k].mul_add(w[j], -product)
        };
        let mut minors: Vec<f64> = (0..dimension * dimension)
            .map(|index| minor(index / dimension, index % dimension))
            .collect();
        let power = largest_power(&minors);
        for entry in &mut minors {
            *entry = times_two_to(*entry, -power);
        }
        // Each pair of axes is in there twice.
        let area = (dot(&minors, &minors) / 2.0).sqrt();
        if area == 0.0 {
            let angle = 0.0_f64.atan2(dot(x, w));
            return (angle, 0.0, [vec![0.0; dimension], vec![0.0; dimension]]);
        }
        // |x|² w − (x·w) x, whose entry k is Σ xⱼ (xⱼ wₖ − xₖ wⱼ); and with x and w exchanged.
        let tangent = |row: &[f64], norm: f64, sign: f64| -> Vec<f64> {
            (0..dimension)
                .map(|k| {
                    let mut sum = Sum::default();
                    for j in 0..dimension {
                        sum.add_product(row[j], minors[j * dimension + k]);
                    }
                    sign * sum.value() / (norm * area)
                })
                .collect()
        };
        let lengths = self.norm * other.norm;
        let sine = times_two_to(area / lengths, power);
        let angle = times_two_to(area, power).atan2(dot(x, w));
        let tangents = [tangent(x, self.norm, 1.0), tangent(w, other.norm, -1.0)];
        (angle, sine, tangents)
    }
}
