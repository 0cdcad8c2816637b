//! Sizes that take a while: run by name, and with optimisation.
//!
//! ```sh
//! cargo test --release --test slow -- --ignored
//! ```

#[allow(dead_code, unused_imports, reason = "these tests use a part of it")]
#[path = "quick/support/mod.rs"]
mod support;

use std::time::Instant;

use margin_losses::{
    ClassBlock, Evaluation, Float, MarginLoss, NormFace, Reduction, SoftmaxLoss, Targets,
};
use ndarray::{Array2, ArrayView1};
use support::{assert_relative, narrow, widen};

/// C equal logits have the loss ln C, and a gradient that is the same for every class but the target.
fn equal_classes<A: Float>(classes: usize, scratch_limit: usize, tolerance: f64) {
    let features = Array2::from_elem((1, 1), narrow::<A>(0.75));
    let mut weights = Array2::from_elem((classes, 1), narrow::<A>(0.5));
    let labels = [classes / 3];
    let targets = Targets::new(&labels).with_reduction(Reduction::Sum);
    let started = Instant::now();
    let forward = SoftmaxLoss::new()
        .forward(features.view(), weights.view(), &targets)
        .expect("a good batch");
    let exact = (classes as f64).ln();
    assert_relative("L", widen(forward.loss), exact, tolerance);

    let mut evaluation = Evaluation::with_scratch_limit(scratch_limit);
    let (mut others, mut target) = (0, 0);
    let mut update = |block: ClassBlock<'_, A>| {
        for (class, gradient) in block.classes.zip(block.gradient) {
            if class == labels[0] {
                target += 1;
                let expected = 0.75 * (1.0 / classes as f64 - 1.0);
                assert_relative("∂W", widen(*gradient), expected, 1e-6);
            } else {
                others += 1;
                let expected = 0.75 / classes as f64;
                assert_relative("∂W", widen(*gradient), expected, 10.0 * tolerance);
            }
        }
    };
    SoftmaxLoss::new()
        .evaluate_streamed(
            features.view(),
            weights.view_mut(),
            &targets,
            &mut evaluation,
            &mut update,
        )
        .expect("a good batch");
    assert_eq!((others, target), (classes - 1, 1));
    assert_relative("L", widen(evaluation.loss()), exact, tolerance);
    // Σ p_j w_j − w_y, of which nothing remains.
    let left = widen(evaluation.grad_features[[0, 0]]);
    assert!(left.abs() <= 10.0 * tolerance, "∂x = {left:e}");
    assert!(evaluation.scratch_bytes() <= scratch_limit);
    println!(
        "{classes} classes: loss {}, {} bytes of scratch, {:?}",
        evaluation.loss(),
        evaluation.scratch_bytes(),
        started.elapsed()
    );
}

/// An `f32` counter of ones stops at 2²⁴ = 16,777,216.
#[test]
#[ignore = "slow: twenty million classes"]
fn twenty_million_equal_logits_in_f32() {
    equal_classes::<f32>(20_000_000, 96 << 20, 1e-6);
}

#[test]
#[ignore = "slow: twenty million classes"]
fn twenty_million_equal_logits_in_f64() {
    equal_classes::<f64>(20_000_000, 192 << 20, 1e-13);
}

/// More logits than a 32-bit index can count. The classes point along the four half-axes of the plane in turn, with lengths
/// of their own, and each row of the batch has an angle of its own, so that the sum over the classes has a closed form, and
/// a row or a class that is mistaken for another is seen.
mod plane {
    use super::{Array2, ArrayView1, NormFace, Reduction, Targets, assert_relative, widen};

    pub(super) const ROWS: usize = 4096;
    pub(super) const CLASSES: usize = 1_100_000;
    pub(super) const SCALE: f64 = 4.0;

    pub(super) struct Plane {
        pub(super) features: Array2<f32>,
        pub(super) weights: Array2<f32>,
        pub(super) labels: Vec<usize>,
        /// The unit vectors of the rows, as they are after rounding.
        units: Vec<[f64; 2]>,
        /// The rows that have a class as their target.
        by_label: Vec<(usize, usize)>,
    }

    const AXES: [[f64; 2]; 4] = [[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]];

    fn dot(a: [f64; 2], b: [f64; 2]) -> f64 {
        a[0] * b[0] + a[1] * b[1]
    }

    fn length_of(class: usize) -> f64 {
        1.0 + (class % 7) as f64 / 8.0
    }

    impl Plane {
        pub(super) fn new() -> Self {
            // Over a third of the circle, so that what they add to a class does not cancel.
            let angle = |row: usize| 0.3 + 2.0 * (row as f64 + 0.25) / ROWS as f64;
            let features = Array2::from_shape_fn((ROWS, 2), |(row, j)| {
                let (sin, cos) = angle(row).sin_cos();
                (3.0 * if j == 0 { cos } else { sin }) as f32
            });
            let weights = Array2::from_shape_fn((CLASSES, 2), |(class, j)| {
                (length_of(class) * AXES[class % 4][j]) as f32
            });
            // The last row has the last class.
            let labels: Vec<usize> = (0..ROWS)
                .map(|row| CLASSES - 1 - (ROWS - 1 - row) * 268)
                .collect();
            let units = features
                .outer_iter()
                .map(|x| {
                    let [a, b] = [f64::from(x[0]), f64::from(x[1])];
                    let norm = a.hypot(b);
                    [a / norm, b / norm]
                })
                .collect();
            let by_label = labels.iter().copied().zip(0..).collect();
            Self {
                features,
                weights,
                labels,
                units,
                by_label,
            }
        }

        pub(super) fn targets(&self) -> Targets<'_, f32> {
            Targets::new(&self.labels).with_reduction(Reduction::Sum)
        }

        pub(super) fn loss() -> NormFace {
            NormFace::new(SCALE).expect("in range")
        }

        /// Σ_j exp z_j of a row.
        fn sum(&self, row: usize) -> f64 {
            let term = |axis: usize| (SCALE * dot(self.units[row], AXES[axis])).exp();
            CLASSES as f64 / 4.0 * (0..4).map(term).sum::<f64>()
        }

        pub(super) fn row_loss(&self, row: usize) -> f64 {
            self.sum(row).ln() - SCALE * dot(self.units[row], AXES[self.labels[row] % 4])
        }

        /// s p G/‖·‖ times what is across `from` of `to`.
        fn pull(factor: f64, from: [f64; 2], to: [f64; 2]) -> [f64; 2] {
            let c = dot(from, to);
            [0, 1].map(|j| factor * (to[j] - c * from[j]))
        }

        pub(super) fn feature_gradient(&self, row: usize) -> [f64; 2] {
            let x = self.units[row];
            let mut gradient = [0.0; 2];
            for (axis, to) in AXES.into_iter().enumerate() {
                let share = CLASSES as f64 / 4.0 * (SCALE * dot(x, to)).exp() / self.sum(row);
                let is_target = f64::from(u8::from(axis == self.labels[row] % 4));
                let pull = Self::pull(SCALE * (share - is_target) / 3.0, x, to);
                gradient = [0, 1].map(|j| gradient[j] + pull[j]);
            }
            gradient
        }

        /// ∂W of the classes along one axis, before it is divided by their length, without what their own rows add.
        pub(super) fn axis_gradients(&self) -> [[f64; 2]; 4] {
            AXES.map(|w| {
                let mut gradient = [0.0; 2];
                for (row, &x) in self.units.iter().enumerate() {
                    let p = (SCALE * dot(x, w)).exp() / self.sum(row);
                    let pull = Self::pull(SCALE * p, w, x);
                    gradient = [0, 1].map(|j| gradient[j] + pull[j]);
                }
                gradient
            })
        }

        pub(super) fn check_class(
            &self,
            axis_gradients: &[[f64; 2]; 4],
            class: usize,
            found: ArrayView1<'_, f32>,
        ) {
            let mut expected = axis_gradients[class % 4];
            if let Ok(index) = self
                .by_label
                .binary_search_by_key(&class, |&(label, _)| label)
            {
                let x = self.units[self.by_label[index].1];
                let pull = Self::pull(-SCALE, AXES[class % 4], x);
                expected = [0, 1].map(|j| expected[j] + pull[j]);
            }
            let expected = expected.map(|entry| entry / length_of(class));
            Self::check(&format!("∂W of class {class}"), found, expected);
        }

        pub(super) fn check(what: &str, found: ArrayView1<'_, f32>, expected: [f64; 2]) {
            let size = expected[0].hypot(expected[1]);
            let off = [0, 1].map(|j| widen(found[j]) - expected[j]);
            let off = off[0].hypot(off[1]);
            assert!(
                off <= 2e-5 * size,
                "{what}: {found} instead of {expected:?}, off by {:e}",
                off / size
            );
        }

        pub(super) fn check_rows(&self, row_losses: ArrayView1<'_, f32>) {
            for (row, &loss) in row_losses.iter().enumerate() {
                let what = format!("loss of row {row}");
                assert_relative(&what, widen(loss), self.row_loss(row), 2e-6);
            }
        }
    }
}

#[test]
#[ignore = "slow: 4,505,600,000 logits"]
fn more_logits_than_32_bits_count_forward() {
    use plane::{CLASSES, Plane, ROWS};
    const { assert!((ROWS as u64) * (CLASSES as u64) > 1 << 32) };
    let plane = Plane::new();
    let started = Instant::now();
    let found = Plane::loss()
        .forward(
            plane.features.view(),
            plane.weights.view(),
            &plane.targets(),
        )
        .expect("a good batch");
    println!("forward: {:?}", started.elapsed());
    plane.check_rows(found.row_losses.view());
}

#[test]
#[ignore = "slow: 4,505,600,000 logits, twice"]
fn more_logits_than_32_bits_count_streamed() {
    use plane::{CLASSES, Plane};
    const LIMIT: usize = 96 << 20;
    let mut plane = Plane::new();
    let mut weights = core::mem::take(&mut plane.weights);
    let axis_gradients = plane.axis_gradients();
    let mut evaluation = Evaluation::with_scratch_limit(LIMIT);
    let mut next = 0;
    let mut update = |block: ClassBlock<'_, f32>| {
        assert_eq!(block.classes.start, next);
        next = block.classes.end;
        for (class, gradient) in block.classes.zip(block.gradient.outer_iter()) {
            plane.check_class(&axis_gradients, class, gradient);
        }
    };
    let started = Instant::now();
    Plane::loss()
        .evaluate_streamed(
            plane.features.view(),
            weights.view_mut(),
            &plane.targets(),
            &mut evaluation,
            &mut update,
        )
        .expect("a good batch");
    println!(
        "streamed: {:?}, {} bytes of scratch",
        started.elapsed(),
        evaluation.scratch_bytes()
    );
    assert_eq!(next, CLASSES);
    assert!(evaluation.scratch_bytes() <= LIMIT);
    plane.check_rows(evaluation.forward.row_losses.view());
    let mut worst = 0.0_f64;
    for (row, found) in evaluation.grad_features.outer_iter().enumerate() {
        let expected = plane.feature_gradient(row);
        let off = [0, 1].map(|j| widen(found[j]) - expected[j]);
        worst = worst.max(off[0].hypot(off[1]));
    }
    println!("∂X is off by {worst:e} at most");
    assert!(worst <= 2e-6, "∂X is off by {worst:e}");
}
