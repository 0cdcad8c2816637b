//! The step of the class centers, which is the paper's own rule and not the gradient of the center loss.

mod support;

use margin_losses::{Argument, CenterLoss, Error, Float, MarginLoss, Reduction, Targets};
use ndarray::{Array1, Array2, Axis};
use support::{Batch, SplitMix, assert_printed, bits, narrow, widen};

fn stepped<A: Float>(batch: &Batch<A>, alpha: f64) -> Array2<A> {
    let mut centers = batch.centers.clone();
    CenterLoss::update_centers(
        centers.view_mut(),
        batch.features.view(),
        &batch.labels,
        alpha,
    )
    .expect("a good batch");
    centers
}

#[test]
fn the_published_step() {
    let centers = stepped(&Batch::<f64>::reference([0, 3, 2]), 0.5);
    let length = centers.mapv(|v| v * v).sum().sqrt();
    assert_printed("‖c‖", &[length], &[1.014_270_607_904]);
    let row = [
        0.210_367_746_202,
        0.037_993_385_125,
        -0.169_311_919_021,
        -0.220_952_625_640,
    ];
    assert_printed("c₀", &centers.row(0).to_vec(), &row);
}

#[test]
fn the_published_step_of_a_class_with_two_rows() {
    let centers = stepped(&Batch::<f64>::reference([0, 0, 2]), 0.5);
    let row = [
        -0.019_575_548_309,
        -0.063_313_875_524,
        -0.048_841_717_569,
        0.010_535_290_274,
    ];
    assert_printed("c₀", &centers.row(0).to_vec(), &row);
}

#[test]
fn the_published_step_in_f32() {
    let centers = stepped(&Batch::<f32>::reference([0, 3, 2]), 0.5);
    let row = [
        0.210_367_746_202,
        0.037_993_385_125,
        -0.169_311_919_021,
        -0.220_952_625_640,
    ];
    for (found, printed) in centers.row(0).iter().zip(row) {
        assert!(
            (widen(*found) - printed).abs() <= 1e-7 * 0.22,
            "{found}, not {printed}"
        );
    }
}

/// c − α Σ (c − x) / (1 + n), in `f64`, on a batch with classes of many rows and of none.
fn follows_the_rule<A: Float>(tolerance: f64) {
    let batch = Batch::<A>::random(111, 40, 9, 5);
    let exact = batch.widened();
    for alpha in [0.0, 0.1, 0.5, 1.0] {
        let found = stepped(&batch, alpha);
        for (class, center) in exact.centers.outer_iter().enumerate() {
            let mut pull = Array1::<f64>::zeros(5);
            let mut count = 0.0;
            for (x, _) in exact
                .features
                .outer_iter()
                .zip(&exact.labels)
                .filter(|(_, y)| **y == class)
            {
                pull += &(&center - &x);
                count += 1.0;
            }
            let expected = &center - &(pull * (alpha / (1.0 + count)));
            let found = found.row(class).mapv(widen);
            support::assert_close("center", &found.to_vec(), &expected.to_vec(), tolerance);
        }
    }
}

#[test]
fn the_step_is_the_papers() {
    follows_the_rule::<f64>(1e-15);
    follows_the_rule::<f32>(1e-7);
}

fn absent<A: Float>() {
    let mut batch = Batch::<A>::random(112, 6, 8, 4);
    batch.labels = vec![5, 2, 2, 5, 2, 7];
    // A center of a class without rows keeps even the sign of its zeros.
    batch.centers[[3, 1]] = -A::zero();
    batch.centers[[4, 0]] = A::min_positive_value() / narrow(4.0);
    let found = stepped(&batch, 1.0);
    for class in 0..8 {
        let kept = bits(found.row(class)) == bits(batch.centers.row(class));
        assert_eq!(kept, ![2, 5, 7].contains(&class), "class {class}");
    }
}

#[test]
fn classes_without_rows_keep_their_bits() {
    absent::<f32>();
    absent::<f64>();
}

#[test]
fn with_alpha_zero_every_center_keeps_its_bits() {
    let batch = Batch::<f32>::random(113, 20, 5, 4);
    assert_eq!(bits(&stepped(&batch, 0.0)), bits(&batch.centers));
}

/// With n rows of a class at one point, the way to that point shrinks by 1 − α n / (1 + n), and is never overshot.
#[test]
fn a_class_comes_closer_by_its_rate() {
    let mut rng = SplitMix(114);
    for (alpha, rows, printed) in [
        (0.5, 1, 0.75),
        (0.5, 2, 0.666_667),
        (0.5, 100_000, 0.500_005),
        (1.0, 3, 0.25),
    ] {
        let point: Array1<f64> = rng.matrix(1, 3).row(0).to_owned();
        let batch = Batch::<f64> {
            features: Array2::from_shape_fn((rows, 3), |(_, j)| point[j]),
            labels: vec![1; rows],
            row_weights: vec![1.0; rows],
            ..Batch::random(115, 1, 2, 3)
        };
        let before = &batch.centers.row(1) - &point;
        let after = &stepped(&batch, alpha).row(1) - &point;
        let n = rows as f64;
        let rate = 1.0 - alpha * n / (1.0 + n);
        assert!((rate - printed).abs() < 1e-6);
        // One rounding of the sum for each row.
        let tolerance = f64::EPSILON * (n + 4.0);
        support::assert_close(
            "the way",
            &after.to_vec(),
            &(before * rate).to_vec(),
            tolerance,
        );
    }
}

/// The mean of different rows is where a class goes: one step contracts the way to it by the same rate.
#[test]
fn a_class_goes_to_the_mean_of_its_rows() {
    let mut batch = Batch::<f64>::random(116, 4, 1, 3);
    batch.labels = vec![0; 4];
    let mean = batch.features.mean_axis(Axis(0)).expect("four rows");
    let before = &batch.centers.row(0) - &mean;
    let after = &stepped(&batch, 0.5).row(0) - &mean;
    support::assert_close("the way", &after.to_vec(), &(before * 0.6).to_vec(), 1e-14);
}

#[test]
fn another_order_of_the_rows_changes_at_most_the_last_place() {
    let batch = Batch::<f32>::random(117, 50, 3, 6);
    let order: Vec<usize> = (0..50).rev().collect();
    let reversed = Batch {
        features: batch.features.select(Axis(0), &order),
        labels: order.iter().map(|&row| batch.labels[row]).collect(),
        ..batch.clone()
    };
    for (a, b) in stepped(&batch, 0.7).iter().zip(&stepped(&reversed, 0.7)) {
        assert!(a.to_bits().abs_diff(b.to_bits()) <= 1, "{a} and {b}");
    }
}

/// The gradient of the loss depends on the reduction; the step is the same, and is neither of these gradients.
#[test]
fn the_step_is_not_a_gradient_step() {
    let batch = Batch::<f64>::reference([0, 0, 2]);
    let step = &batch.centers - &stepped(&batch, 1.0);
    for reduction in [Reduction::Mean, Reduction::Sum] {
        let targets = Targets::new(&batch.labels).with_reduction(reduction);
        let gradient = CenterLoss::new()
            .evaluate(batch.features.view(), batch.centers.view(), &targets)
            .expect("a good batch")
            .grad_weights;
        let n = if reduction == Reduction::Mean {
            3.0
        } else {
            1.0
        };
        // Δc = Σ (c − x) / (1 + n_class), and the gradient is Σ (c − x) over N or over one.
        for (class, count) in [(0, 2.0), (2, 1.0)] {
            let expected = gradient.row(class).mapv(|v| v * n / (1.0 + count));
            support::assert_close("Δc", &step.row(class).to_vec(), &expected.to_vec(), 1e-14);
        }
    }
}

fn refused<A: Float>() {
    let good = Batch::<A>::random(118, 5, 4, 3);
    let check = |batch: &Batch<A>, alpha: f64, expected: &dyn Fn(&Error) -> bool| {
        let mut centers = batch.centers.clone();
        let error = CenterLoss::update_centers(
            centers.view_mut(),
            batch.features.view(),
            &batch.labels,
            alpha,
        )
        .expect_err("a bad argument");
        assert!(expected(&error), "{error:?}");
        assert_eq!(
            bits(&centers),
            bits(&batch.centers),
            "{error:?} came after the centers had moved"
        );
    };
    for alpha in [
        -1e-9,
        1.0 + 1e-9,
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
    ] {
        check(&good, alpha, &|error| {
            matches!(error, Error::Parameter { name: "alpha", .. })
        });
    }
    for row in [0, 2, 4] {
        for label in [4, usize::MAX] {
            let mut batch = good.clone();
            batch.labels[row] = label;
            check(&batch, 0.5, &|error| {
                *error
                    == Error::LabelOutOfRange {
                        row,
                        label,
                        classes: 4,
                    }
            });
        }
        for poison in [A::nan(), A::infinity(), A::neg_infinity()] {
            let mut batch = good.clone();
            batch.features[[row, 1]] = poison;
            check(&batch, 0.5, &|error| {
                *error
                    == Error::NonFinite {
                        argument: Argument::Features,
                        row,
                    }
            });
            let mut batch = good.clone();
            batch.centers[[row.min(3), 1]] = poison;
            let expected = Error::NonFinite {
                argument: Argument::Centers,
                row: row.min(3),
            };
            check(&batch, 0.5, &|error| *error == expected);
        }
    }
    for found in [0, 4, 6] {
        let batch = Batch {
            labels: vec![0; found],
            ..good.clone()
        };
        let expected = Error::RowCount {
            argument: Argument::Labels,
            expected: 5,
            found,
        };
        check(&batch, 0.5, &|error| *error == expected);
    }
    for found in [2, 4] {
        let batch = Batch {
            centers: Array2::ones((4, found)),
            ..good.clone()
        };
        let expected = Error::Dimension {
            argument: Argument::Centers,
            expected: 3,
            found,
        };
        check(&batch, 0.5, &|error| *error == expected);
    }
    let batch = Batch {
        centers: Array2::ones((0, 3)),
        ..good.clone()
    };
    check(&batch, 0.5, &|error| *error == Error::NoClasses);
    let batch = Batch {
        centers: Array2::ones((4, 0)),
        features: Array2::ones((5, 0)),
        ..good
    };
    check(&batch, 0.5, &|error| *error == Error::NoDimensions);
}

#[test]
fn a_bad_argument_leaves_the_centers_where_they_are() {
    refused::<f32>();
    refused::<f64>();
}

#[test]
fn a_step_without_rows_moves_nothing() {
    let batch = Batch::<f64> {
        features: Array2::ones((0, 3)),
        labels: Vec::new(),
        ..Batch::random(119, 1, 4, 3)
    };
    assert_eq!(bits(&stepped(&batch, 1.0)), bits(&batch.centers));
}

/// A center that is further from a row than any number tells, and one that is not.
#[test]
fn a_center_that_would_overflow() {
    for row in [0, 2, 4] {
        let mut batch = Batch::<f64>::random(120, 5, 4, 3);
        let class = batch.labels[row];
        batch.features[[row, 1]] = 1.5e308;
        batch.centers[[class, 1]] = -1.5e308;
        let mut centers = batch.centers.clone();
        let refused = CenterLoss::update_centers(
            centers.view_mut(),
            batch.features.view(),
            &batch.labels,
            0.5,
        );
        let expected = Error::Overflow {
            quantity: "center",
            argument: Argument::Centers,
            row: class,
        };
        assert_eq!(refused, Err(expected));
        assert_eq!(bits(&centers), bits(&batch.centers));
    }
    let mut batch = Batch::<f32>::random(120, 1, 4, 3);
    batch.features[[0, 1]] = f32::MAX;
    batch.centers[[batch.labels[0], 1]] = -f32::MAX;
    let found = stepped(&batch, 1.0);
    assert_eq!(found[[batch.labels[0], 1]], 0.0);
}
