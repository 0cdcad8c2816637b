//! Shapes that disagree, row weights below zero, too little memory: the error that says why, by all four methods, and outputs
//! that keep their bits. `bad_values.rs` has the numbers that are refused, `failures/arguments.rs` labels and empty batches.

use margin_losses::{
    ArcFace, Argument, Composed, Error, Evaluation, Float, JointLoss, MarginLoss, NormFace,
    Reduction, SoftmaxLoss, Targets,
};
use ndarray::{Array2, array, s};

use crate::support::refusal::{
    CLASSES, DIMENSION, ROWS, SOME_ROWS, assert_refused, fill_with_pattern, for_every_loss, good,
    patterned, refused_alike, weights_argument,
};
use crate::support::{Batch, Case, Snapshot, narrow};

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

/// What is counted is named: rows of matrices, entries of lists.
#[test]
fn messages_name_rows_and_entries() -> Result<(), Error> {
    let (x, w) = (
        array![[1.0, 2.0], [2.0, -0.5]],
        array![[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]],
    );
    let loss = NormFace::new(4.0)?;
    let said = |loss: &dyn MarginLoss<f64>, targets: &Targets<'_, f64>| {
        let refused = loss.forward(x.view(), w.view(), targets);
        refused.expect_err("bad input").to_string()
    };
    let good = || Targets::<f64>::new(&[0, 1]);
    for (targets, message) in [
        (
            Targets::new(&[0, 1, 2]),
            "labels: 2 entries expected, 3 found",
        ),
        (
            good().with_row_weights(&[1.0]),
            "row weights: 2 entries expected, 1 found",
        ),
        (
            good().with_label_weights(&[1.0]),
            "label weights: 3 entries expected, 1 found",
        ),
        (
            good().with_ignored_rows(&[false]),
            "ignored rows: 2 entries expected, 1 found",
        ),
        (
            good().with_label_weights(&[1.0, -1.0, 1.0]),
            "label weights entry 1 is negative",
        ),
        (
            good().with_label_weights(&[1.0, 1.0, f64::NAN]),
            "label weights entry 2 is a NaN or an infinity",
        ),
        (
            good().with_row_weights(&[-1.0, 1.0]),
            "row weights row 0 is negative",
        ),
    ] {
        assert_eq!(said(&loss, &targets), message);
    }
    let biased = SoftmaxLoss::with_bias(vec![0.0])?;
    assert_eq!(said(&biased, &good()), "bias: 3 entries expected, 1 found");
    let priors = Composed::new(loss).with_class_priors(&[1.0], 1.0)?;
    assert_eq!(
        said(&priors, &good()),
        "class priors: 3 entries expected, 1 found"
    );
    let joint = JointLoss::new(loss, w.slice(s![..2, ..]), 0.1)?;
    assert_eq!(said(&joint, &good()), "centers: 3 rows expected, 2 found");
    Ok(())
}

#[test]
fn shapes_that_disagree() {
    for_every_loss(shapes, shapes);
}

fn negative_row_weights<A: Float>(case: &Case<'_, A>) {
    for row in SOME_ROWS {
        let batch = good();
        let mut row_weights = batch.row_weights.clone();
        row_weights[row] = narrow(-1e-30);
        let targets = Targets::new(&batch.labels).with_row_weights(&row_weights);
        let expected = Error::NegativeWeight {
            argument: Argument::RowWeights,
            row,
        };
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

fn biases<A: Float>() {
    let batch = good::<A>();
    for found in [1, CLASSES - 1, CLASSES + 1] {
        let loss = SoftmaxLoss::with_bias(vec![0.5; found]).expect("finite");
        let expected = Error::RowCount {
            argument: Argument::Bias,
            expected: CLASSES,
            found,
        };
        let targets = Targets::new(&batch.labels);
        assert_eq!(refused_alike("bias", &loss, &batch, &targets), expected);
        let joint = JointLoss::new(loss, batch.centers.view(), 0.5).expect("in range");
        assert_eq!(refused_alike("joint", &joint, &batch, &targets), expected);
    }
    assert_eq!(SoftmaxLoss::with_bias(Vec::new()), Err(Error::NoClasses));
}

#[test]
fn a_bias_of_another_length() {
    biases::<f32>();
    biases::<f64>();
}

fn joint_centers<A: Float>() {
    let classifiers: [Box<dyn MarginLoss<A>>; 4] = [
        Box::new(SoftmaxLoss::new()),
        Box::new(SoftmaxLoss::with_bias(vec![0.5; CLASSES]).expect("finite")),
        Box::new(NormFace::learned(4.0).expect("in range")),
        Box::new(ArcFace::default()),
    ];
    let batch = good::<A>();
    let argument = Argument::Centers;
    for mut classifier in classifiers {
        let mut refused = |centers: &Array2<A>, expected: Error| {
            let joint = JointLoss::new(&mut classifier, centers.view(), 0.5).expect("in range");
            let found = refused_alike("joint", &joint, &batch, &Targets::new(&batch.labels));
            assert_eq!(found, expected, "{joint:?}");
        };
        for found in [0, CLASSES - 1, CLASSES + 1] {
            let expected = CLASSES;
            refused(
                &Array2::zeros((found, DIMENSION)),
                Error::RowCount {
                    argument,
                    expected,
                    found,
                },
            );
        }
        for found in [0, DIMENSION - 1, DIMENSION + 1] {
            let expected = DIMENSION;
            refused(
                &Array2::zeros((CLASSES, found)),
                Error::Dimension {
                    argument,
                    expected,
                    found,
                },
            );
        }
        for poison in [A::nan(), A::infinity(), A::neg_infinity()] {
            for row in 0..CLASSES {
                for column in 0..DIMENSION {
                    let mut centers = batch.centers.clone();
                    centers[[row, column]] = poison;
                    refused(&centers, Error::NonFinite { argument, row });
                }
            }
        }
    }
}

#[test]
fn the_centers_of_a_joint_loss() {
    joint_centers::<f32>();
    joint_centers::<f64>();
}

/// Less memory than the smallest plan needs.
fn too_little_memory<A: Float>(case: &Case<'_, A>) {
    let batch = good::<A>();
    let targets = Targets::new(&batch.labels);
    let (x, w) = (batch.features.view(), batch.weights.view());
    let uses = case.loss.evaluate(x, w, &targets).expect("a good batch");
    if uses.scratch_bytes() == 0 {
        assert_eq!(case.name, "center", "the one loss without working memory");
        return;
    }
    for limit in [0, 1, 64] {
        let mut evaluation = Evaluation::with_scratch_limit(limit);
        fill_with_pattern(&mut evaluation);
        let mut weights = batch.weights.clone();
        let refusals = [
            case.loss.evaluate_into(x, w, &targets, &mut evaluation),
            case.loss.evaluate_streamed(
                x,
                weights.view_mut(),
                &targets,
                &mut evaluation,
                &mut |_| panic!("nothing may be handed out"),
            ),
        ];
        for refusal in refusals {
            match refusal {
                Err(Error::ScratchLimit {
                    limit: said,
                    needed,
                }) => {
                    assert_eq!(said, limit);
                    assert!(needed > limit);
                }
                other => panic!("{}: {other:?}", case.name),
            }
        }
        assert_eq!(
            Snapshot::of(&evaluation),
            Snapshot::of(&patterned::<A>()),
            "{}",
            case.name
        );
        assert_eq!(weights, batch.weights, "{}", case.name);
    }
}

#[test]
fn a_scratch_limit_that_is_too_low() {
    for_every_loss(too_little_memory, too_little_memory);
}
