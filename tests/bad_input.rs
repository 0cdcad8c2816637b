//! Shapes that disagree, labels out of range, batches without rows, row weights below zero: the error that says why, by all
//! three methods, and outputs that keep their bits. `bad_values.rs` has the numbers that are refused.

mod support;

use margin_losses::{
    Argument, Error, Float, JointLoss, MarginLoss, Reduction, SoftmaxLoss, Targets,
};
use ndarray::{Array1, Array2};
use support::refusal::{
    CLASSES, DIMENSION, ROWS, assert_refused, for_every_loss, good, weights_argument,
};
use support::{Batch, Case, narrow};

fn shapes<A: Float>(case: &Case<'_, A>) {
    let refused = |batch: &Batch<A>, expected| {
        assert_refused(case, batch, &Targets::new(&batch.labels), &expected);
    };
    for columns in [DIMENSION - 1, DIMENSION + 1] {
        let mut batch = good();
        batch.weights = Array2::ones((CLASSES, columns));
        let argument = weights_argument(case);
        refused(
            &batch,
            Error::Dimension {
                argument,
                expected: DIMENSION,
                found: columns,
            },
        );
    }
    for rows in [0, ROWS - 1, ROWS + 1] {
        let mut batch = good();
        batch.labels = vec![0; rows];
        refused(
            &batch,
            Error::RowCount {
                argument: Argument::Labels,
                expected: ROWS,
                found: rows,
            },
        );
    }
    let batch = good();
    for count in [0, ROWS - 1, ROWS + 1] {
        let row_weights = vec![A::one(); count];
        let targets = Targets::new(&batch.labels).with_row_weights(&row_weights);
        let expected = Error::RowCount {
            argument: Argument::RowWeights,
            expected: ROWS,
            found: count,
        };
        for reduction in [Reduction::Mean, Reduction::Sum, Reduction::None] {
            assert_refused(case, &batch, &targets.with_reduction(reduction), &expected);
        }
    }
}

#[test]
fn shapes_that_disagree() {
    for_every_loss(shapes, shapes);
}

fn nothing<A: Float>(case: &Case<'_, A>) {
    let mut batch = good();
    batch.features = Array2::ones((ROWS, 0));
    batch.weights = Array2::ones((CLASSES, 0));
    assert_refused(
        case,
        &batch,
        &Targets::new(&batch.labels),
        &Error::NoDimensions,
    );

    let mut batch = good();
    batch.weights = Array2::ones((0, DIMENSION));
    assert_refused(
        case,
        &batch,
        &Targets::new(&batch.labels),
        &Error::NoClasses,
    );
    batch.features = Array2::ones((0, DIMENSION));
    let nobody = Targets::new(&[]).with_reduction(Reduction::Sum);
    assert_refused(case, &batch, &nobody, &Error::NoClasses);
}

#[test]
fn no_classes_and_no_dimensions() {
    for_every_loss(nothing, nothing);
}

fn empty<A: Float>(case: &Case<'_, A>) {
    let mut batch = good();
    batch.features = Array2::ones((0, DIMENSION));
    assert_refused(case, &batch, &Targets::new(&[]), &Error::EmptyBatch);
    assert_refused(
        case,
        &batch,
        &Targets::new(&[]).with_row_weights(&[]),
        &Error::EmptyBatch,
    );
    for reduction in [Reduction::Sum, Reduction::None] {
        let targets = Targets::new(&[]).with_reduction(reduction);
        let found = case
            .loss
            .evaluate(batch.features.view(), batch.weights.view(), &targets)
            .expect("nothing to do");
        assert_eq!(found.loss(), A::zero(), "{}", case.name);
        assert_eq!(found.forward.row_losses.len(), 0);
        assert_eq!(found.forward.accuracy(), None);
        assert_eq!(
            found.grad_features,
            Array2::zeros((0, DIMENSION)),
            "{}",
            case.name
        );
        assert_eq!(
            found.grad_weights,
            Array2::zeros((CLASSES, DIMENSION)),
            "{}",
            case.name
        );
        assert_eq!(
            found.grad_learnables,
            Array1::zeros(case.loss.learnables().len()),
            "{}",
            case.name
        );
        assert!(
            found.grad_centers.iter().all(|&v| v == A::zero()),
            "{}",
            case.name
        );
    }
}

#[test]
fn an_empty_batch_has_a_sum_but_no_mean() {
    for_every_loss(empty, empty);
}

fn labels<A: Float>(case: &Case<'_, A>) {
    for row in [0, ROWS / 2, ROWS - 1] {
        for label in [CLASSES, CLASSES + 1, u32::MAX as usize, usize::MAX] {
            let mut batch = good();
            batch.labels[row] = label;
            let expected = Error::LabelOutOfRange {
                row,
                label,
                classes: CLASSES,
            };
            assert_refused(case, &batch, &Targets::new(&batch.labels), &expected);
        }
    }
}

#[test]
fn labels_out_of_range() {
    for_every_loss(labels, labels);
}

fn negative_row_weights<A: Float>(case: &Case<'_, A>) {
    for row in [0, ROWS / 2, ROWS - 1] {
        let batch = good();
        let mut row_weights = batch.row_weights.clone();
        row_weights[row] = narrow(-1e-30);
        let targets = Targets::new(&batch.labels).with_row_weights(&row_weights);
        let expected = Error::NegativeWeight { row };
        assert_refused(case, &batch, &targets, &expected);
        assert_refused(
            case,
            &batch,
            &targets.with_reduction(Reduction::Sum),
            &expected,
        );
        let upstream = targets.with_reduction(Reduction::None);
        case.loss
            .forward(batch.features.view(), batch.weights.view(), &upstream)
            .unwrap_or_else(|error| panic!("{}: {error}", case.name));
    }
}

#[test]
fn row_weights_are_negative_only_without_a_reduction() {
    for_every_loss(negative_row_weights, negative_row_weights);
}

#[test]
fn a_bias_of_another_length() {
    let batch = good::<f64>();
    for found in [1, CLASSES - 1, CLASSES + 1] {
        let loss = SoftmaxLoss::with_bias(vec![0.5; found]).expect("finite");
        let (x, w) = (batch.features.view(), batch.weights.view());
        let expected = Error::RowCount {
            argument: Argument::Bias,
            expected: CLASSES,
            found,
        };
        let refused = loss.forward(x, w, &Targets::new(&batch.labels));
        assert_eq!(refused, Err(expected));
    }
    assert_eq!(SoftmaxLoss::with_bias(Vec::new()), Err(Error::NoClasses));
}

/// Where the centers of a joint loss are refused, by its constructor or by its evaluation, is left open.
#[test]
fn the_centers_of_a_joint_loss() {
    let batch = good::<f64>();
    let refusal = |centers: &Array2<f64>| {
        let joint = JointLoss::new(SoftmaxLoss::new(), centers.view(), 0.5)?;
        let targets = Targets::new(&batch.labels);
        joint.forward(batch.features.view(), batch.weights.view(), &targets)
    };
    let argument = Argument::Centers;
    for found in [CLASSES - 1, CLASSES + 1] {
        let expected = Error::RowCount {
            argument,
            expected: CLASSES,
            found,
        };
        assert_eq!(refusal(&Array2::zeros((found, DIMENSION))), Err(expected));
    }
    for found in [DIMENSION - 1, DIMENSION + 1] {
        let expected = Error::Dimension {
            argument,
            expected: DIMENSION,
            found,
        };
        assert_eq!(refusal(&Array2::zeros((CLASSES, found))), Err(expected));
    }
    for poison in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        for row in 0..CLASSES {
            let mut centers = batch.centers.clone();
            centers[[row, 1]] = poison;
            assert_eq!(refusal(&centers), Err(Error::NonFinite { argument, row }));
        }
    }
}
