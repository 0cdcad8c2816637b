//! The step of the class centers, which is the paper's own rule and not the gradient of the center loss.

use margin_losses::{Argument, CenterLoss, Error, Float, MarginLoss, Reduction, Targets};
use ndarray::{Array1, Array2, array};

use crate::support::{Batch, assert_close, assert_printed, assert_relative, bits, widen};

#[test]
fn the_published_step() {
    let centers = Batch::<f64>::reference([0, 3, 2]).stepped(0.5);
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
    let centers = Batch::<f64>::reference([0, 0, 2]).stepped(0.5);
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
    let centers = Batch::<f32>::reference([0, 3, 2]).stepped(0.5);
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
        let found = batch.stepped(alpha);
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
            assert_close("center", &found.to_vec(), &expected.to_vec(), tolerance);
        }
    }
}

#[test]
fn the_step_is_the_papers() {
    follows_the_rule::<f64>(1e-15);
    follows_the_rule::<f32>(1e-7);
}

#[test]
fn with_alpha_zero_every_center_keeps_its_bits() {
    let batch = Batch::<f32>::random(113, 20, 5, 4);
    assert_eq!(bits(&batch.stepped(0.0)), bits(&batch.centers));
}

/// The gradient of the loss depends on the reduction; the step is the same, and is neither of these gradients.
#[test]
fn the_step_is_not_a_gradient_step() {
    let batch = Batch::<f64>::reference([0, 0, 2]);
    let step = &batch.centers - &batch.stepped(1.0);
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
            assert_close("Δc", &step.row(class).to_vec(), &expected.to_vec(), 1e-14);
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
                        label: label as i128,
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
    assert_eq!(bits(&batch.stepped(1.0)), bits(&batch.centers));
}

/// The step ends between the center and its rows, so that it is a number even where their distance, or the sum of the
/// rows' distances, is none.
#[test]
fn a_center_further_away_than_any_number_tells() -> Result<(), Error> {
    for row in [0, 2, 4] {
        let mut batch = Batch::<f64>::random(120, 5, 4, 3);
        let class = batch.labels[row];
        batch.labels = vec![(class + 1) % 4; 5];
        batch.labels[row] = class;
        batch.features[[row, 1]] = 1.5e308;
        batch.centers[[class, 1]] = -1.5e308;
        assert_eq!(batch.stepped(0.5)[[class, 1]], -0.75e308);
        assert_eq!(batch.stepped(1.0)[[class, 1]], 0.0);
        assert_eq!(batch.stepped(0.0)[[class, 1]], -1.5e308);
    }
    let mut centers = array![[0.0]];
    CenterLoss::update_centers(
        centers.view_mut(),
        array![[1e308], [1e308]].view(),
        &[0, 0],
        1.0,
    )?;
    assert_relative("two rows", centers[[0, 0]], 1e308 / 3.0 * 2.0, 1e-15);
    let mut batch = Batch::<f32>::random(120, 1, 4, 3);
    batch.features[[0, 1]] = f32::MAX;
    batch.centers[[batch.labels[0], 1]] = -f32::MAX;
    let found = batch.stepped(1.0);
    assert_eq!(found[[batch.labels[0], 1]], 0.0);
    Ok(())
}
