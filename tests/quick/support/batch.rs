//! Seeded random batches, and the batch that the check values are stated for.

use margin_losses::{CenterLoss, Float};
use ndarray::{Array1, Array2, ArrayView1, ArrayView2};

/// To `f64`, exactly.
pub(crate) fn widen<A: Float>(value: A) -> f64 {
    value.to_f64().expect("a float")
}

/// All entries in `f64`, exactly.
pub(crate) fn wide<'a, A: Float>(values: impl IntoIterator<Item = &'a A>) -> Vec<f64> {
    values.into_iter().map(|&value| widen(value)).collect()
}

/// To the element type, rounded.
pub(crate) fn narrow<A: Float>(value: f64) -> A {
    num_traits::cast(value).expect("a float")
}

/// An array in `f64`, exactly.
pub(crate) fn widened<A: Float>(array: ArrayView2<'_, A>) -> Array2<f64> {
    array.mapv(widen)
}

/// The `SplitMix64` generator: eight lines, and the same numbers everywhere and for ever.
#[derive(Clone, Debug)]
pub(crate) struct SplitMix(pub(crate) u64);

impl SplitMix {
    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in [0, 1).
    pub(crate) fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.bits() % end as u64) as usize
    }

    /// Normal, by Box and Muller.
    pub(crate) fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (core::f64::consts::TAU * self.uniform()).cos()
    }

    pub(crate) fn matrix<A: Float>(&mut self, rows: usize, columns: usize) -> Array2<A> {
        Array2::from_shape_simple_fn((rows, columns), || narrow(self.normal()))
    }

    /// A unit vector, and another at right angles to it.
    pub(crate) fn frame(&mut self, dimension: usize) -> (Array1<f64>, Array1<f64>) {
        let unit = |v: Array1<f64>| &v / v.dot(&v).sqrt();
        let first = unit(Array1::from_shape_simple_fn(dimension, || self.normal()));
        let second = Array1::from_shape_simple_fn(dimension, || self.normal());
        let across = &second - &(&first * first.dot(&second));
        let second = unit(&across - &(&first * first.dot(&across)));
        (first, second)
    }
}

/// All arguments of one evaluation.
#[derive(Clone, Debug)]
pub(crate) struct Batch<A> {
    pub(crate) features: Array2<A>,
    pub(crate) weights: Array2<A>,
    pub(crate) centers: Array2<A>,
    pub(crate) labels: Vec<usize>,
    /// Of mixed size, the second one zero, none negative.
    pub(crate) row_weights: Vec<A>,
}

impl<A: Float> Batch<A> {
    /// Normal features, weights and centers, uniform labels.
    pub(crate) fn random(seed: u64, rows: usize, classes: usize, dimension: usize) -> Self {
        let mut rng = SplitMix(seed);
        Self {
            features: rng.matrix(rows, dimension),
            weights: rng.matrix(classes, dimension),
            centers: rng.matrix(classes, dimension),
            labels: (0..rows).map(|_| rng.below(classes)).collect(),
            row_weights: (0..rows)
                .map(|row| narrow(if row == 1 { 0.0 } else { 0.25 + rng.uniform() }))
                .collect(),
        }
    }

    /// The small batch of `tests/reference/check_values.py`, with the labels 0, 3, 2: angles of 29.7°, 37.2° and 90.7°.
    pub(crate) fn reference(labels: [usize; 3]) -> Self {
        let array = |rows: usize, entry: fn(f64, f64) -> f64| {
            Array2::from_shape_fn((rows, 4), |(i, j)| narrow(entry(i as f64, j as f64)))
        };
        Self {
            features: array(3, |i, j| (1.0 + 4.0 * i + j).sin()),
            weights: array(5, |i, j| (0.5 + 1.3 * i + 0.7 * j).cos()),
            centers: array(5, |i, j| 0.3 * (i - j).sin()),
            labels: labels.to_vec(),
            row_weights: vec![A::one(); 3],
        }
    }

    /// The centers after one step.
    pub(crate) fn stepped(&self, alpha: f64) -> Array2<A> {
        let mut centers = self.centers.clone();
        let (x, labels) = (self.features.view(), &self.labels);
        CenterLoss::update_centers(centers.view_mut(), x, labels, alpha).expect("a good batch");
        centers
    }

    /// The same numbers in `f64`.
    pub(crate) fn widened(&self) -> Batch<f64> {
        Batch {
            features: widened(self.features.view()),
            weights: widened(self.weights.view()),
            centers: widened(self.centers.view()),
            labels: self.labels.clone(),
            row_weights: self.row_weights.iter().map(|&w| widen(w)).collect(),
        }
    }
}

impl Batch<f64> {
    /// Puts the feature of a row at this angle from the weight of its class, with the norm `length`.
    pub(crate) fn place(&mut self, row: usize, angle: f64, length: f64, rng: &mut SplitMix) {
        let (along, across) = rng.frame(self.features.ncols());
        let label = self.labels[row];
        let norm = norm(self.weights.row(label));
        self.weights.row_mut(label).assign(&(&along * norm));
        let direction = &along * angle.cos() + &across * angle.sin();
        self.features.row_mut(row).assign(&(direction * length));
    }
}

/// Gives the row of `moved` the norm that it has in `features`.
pub(crate) fn keep_norm(features: &Array2<f64>, moved: &mut Array2<f64>, row: usize) {
    let factor = norm(features.row(row)) / norm(moved.row(row));
    moved.row_mut(row).mapv_inplace(|entry| entry * factor);
}

fn norm(vector: ArrayView1<'_, f64>) -> f64 {
    vector.dot(&vector).sqrt()
}
