//! Class centers: rows 13 to 16.

use margin_losses::{CenterLoss, Float, JointLoss, MarginLoss, Reduction, SoftmaxLoss, Targets};
use ndarray::{Array1, Array2, Axis, concatenate};

use super::{evaluate, in_both_types};
use crate::support::{
    Batch, Snapshot, SplitMix, assert_close, assert_relative, bits, every_loss, narrow, wide, widen,
};

/// Classes without a row in the batch: no step, and a gradient that is exactly zero.
fn absent<A: Float>() {
    let mut batch = Batch::<A>::random(221, 30, 50, 4);
    for label in &mut batch.labels {
        *label = 7 * (*label % 5);
    }
    batch.centers[[3, 1]] = -A::zero();
    batch.centers[[4, 0]] = A::min_positive_value() / narrow(4.0);
    let is_absent = |class: usize| !batch.labels.contains(&class);
    for alpha in [0.01, 0.5, 1.0] {
        let found = batch.stepped(alpha);
        for class in 0..50 {
            let kept = bits(found.row(class)) == bits(batch.centers.row(class));
            assert_eq!(kept, is_absent(class), "class {class}");
        }
    }
    let joint = JointLoss::new(SoftmaxLoss::new(), batch.centers.view(), 0.5).expect("in range");
    let of_centers = Batch {
        weights: batch.centers.clone(),
        ..batch.clone()
    };
    for gradient in [
        evaluate(&joint, &batch).grad_centers,
        evaluate(&CenterLoss::new(), &of_centers).grad_weights,
    ] {
        for (class, row) in gradient.outer_iter().enumerate() {
            let zero = row.iter().all(|&v| v == A::zero());
            assert_eq!(zero, is_absent(class), "class {class}");
        }
    }
}

in_both_types!(row_13_absent_classes, absent);

/// n copies of one row: the center goes the share α n/(1 + n) of the way, and never past them.
fn copies<A: Float>() {
    let mut rng = SplitMix(222);
    for rows in [1, 2, 3, 17, 1000] {
        let point: Array1<A> = rng.matrix(1, 3).row(0).to_owned();
        let mut batch = Batch::<A>::random(223, rows, 4, 3);
        batch.labels = vec![1; rows];
        batch.features = point.broadcast((rows, 3)).expect("a row").to_owned();
        for alpha in [1e-3, 0.5, 1.0] {
            let share = alpha * rows as f64 / (1.0 + rows as f64);
            let found = batch.stepped(alpha);
            for ((&from, &to), &target) in batch.centers.row(1).iter().zip(found.row(1)).zip(&point)
            {
                let (from, to, target) = (widen(from), widen(to), widen(target));
                let exact = from + share * (target - from);
                let allowed = widen(A::epsilon()) * exact.abs() + 1e-13 * (target - from).abs();
                assert!((to - exact).abs() <= allowed, "{to}, not {exact}");
                assert!((to - target) * (from - target) >= 0.0, "past the rows");
            }
        }
    }
    // The order of the rows does not matter beyond the last place.
    let batch = Batch::<A>::random(224, 60, 3, 6);
    let order: Vec<usize> = (0..60).map(|row| (row * 7 + 11) % 60).collect();
    let other = Batch {
        features: batch.features.select(Axis(0), &order),
        labels: order.iter().map(|&row| batch.labels[row]).collect(),
        ..batch.clone()
    };
    for (&a, &b) in batch.stepped(0.7).iter().zip(&other.stepped(0.7)) {
        let (a, b) = (widen(a), widen(b));
        // One unit in the last place, and what the sums themselves, in f64, lose in another order.
        let allowed = widen(A::epsilon()) * a.abs() + 16.0 * f64::EPSILON;
        assert!((a - b).abs() <= allowed, "{a} and {b}");
    }
}

in_both_types!(row_14_copies_of_a_row, copies);

/// A row at a thousandth of its length from the center: the square of the difference, not the difference of squares.
fn close_to_the_center<A: Float>() {
    let mut rng = SplitMix(225);
    for _ in 0..100 {
        let mut batch = Batch::<A>::random(rng.bits(), 1, 2, 64);
        let shift: Array1<A> = rng.matrix::<A>(1, 64).row(0).mapv(|v| v * narrow(1e-3));
        let center = &batch.features.row(0) + &shift;
        batch.weights.row_mut(batch.labels[0]).assign(&center);
        let exact: f64 = (batch.features.row(0).iter().zip(&center))
            .map(|(&x, &c)| (widen(x) - widen(c)).powi(2) / 2.0)
            .sum();
        let found = widen(evaluate(&CenterLoss::new(), &batch).loss());
        assert_relative("L", found, exact, 4.0 * widen(A::epsilon()));
    }
}

in_both_types!(row_15_rows_close_to_their_center, close_to_the_center);

/// Classes that nobody asked about add neither rounding nor a clamp's 1e-12 each.
#[test]
fn row_15_a_million_unused_classes() {
    let batch = Batch::<f32> {
        weights: SplitMix(226).matrix(6, 4),
        ..Batch::random(227, 8, 6, 4)
    };
    let mut crowd = batch.clone();
    let unused = Array2::from_elem((1_000_000, 4), 0.25);
    crowd.weights = concatenate![Axis(0), batch.weights, unused];
    let (few, many) = (
        evaluate(&CenterLoss::new(), &batch),
        evaluate(&CenterLoss::new(), &crowd),
    );
    assert_eq!(
        Snapshot::of_forward(&many.forward),
        Snapshot::of_forward(&few.forward)
    );
    assert_eq!(bits(&many.grad_features), bits(&few.grad_features));
    let used = many.grad_weights.slice(ndarray::s![..6, ..]);
    assert_eq!(bits(used), bits(&few.grad_weights));
}

/// The upstream gradient multiplies the loss and every gradient, batches of one row included; by a power of two, bit for bit.
fn upstream<A: Float>() {
    for rows in [1, 5] {
        let batch = Batch::<A>::random(228, rows, 6, 3);
        for case in every_loss(batch.centers.view()) {
            let of = |upstream: f64| {
                let row_weights = vec![narrow::<A>(upstream); rows];
                let targets = Targets::new(&batch.labels)
                    .with_row_weights(&row_weights)
                    .with_reduction(Reduction::None);
                let (x, w) = (batch.features.view(), batch.weights.view());
                let found = case.loss.evaluate(x, w, &targets).expect("a good batch");
                assert_eq!(found.grad_features.dim(), (rows, 3), "{}", case.name);
                [
                    vec![widen(found.loss())],
                    wide(&found.grad_features),
                    wide(&found.grad_weights),
                    wide(&found.grad_centers),
                    wide(&found.grad_learnables),
                ]
            };
            let plain = of(1.0);
            for factor in [2.0, -4.0, 0.0, -3.0] {
                for (found, plain) in of(factor).iter().zip(&plain) {
                    let expected: Vec<f64> = plain.iter().map(|v| factor * v).collect();
                    if factor == -3.0 {
                        let tolerance = 64.0 * widen(A::epsilon());
                        assert_close(&case.name, found, &expected, tolerance);
                    } else {
                        assert_eq!(found, &expected, "{} times {factor}", case.name);
                    }
                }
            }
        }
    }
}

in_both_types!(row_16_upstream_gradients, upstream);
