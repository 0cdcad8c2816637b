//! NaN and infinity in every argument, and rows that cannot be normalised.

mod support;

use margin_losses::{Argument, Error, Float, Reduction, Targets};
use ndarray::{Array1, Array2};
use support::refusal::{
    CLASSES, DIMENSION, ROWS, SOME_ROWS, assert_gradients_refused, assert_refused, for_every_loss,
    good, refused_alike, verdicts, weights_argument,
};
use support::{Batch, Case, every_loss, narrow};

fn not_finite<A: Float>(case: &Case<'_, A>) {
    for poison in [A::nan(), A::infinity(), A::neg_infinity()] {
        for row in SOME_ROWS {
            for column in 0..DIMENSION {
                let mut batch = good();
                batch.features[[row, column]] = poison;
                let expected = Error::NonFinite {
                    argument: Argument::Features,
                    row,
                };
                assert_refused(case, &batch, &Targets::new(&batch.labels), &expected);
            }
            // Of several bad rows the first is named.
            let mut batch = good();
            batch
                .features
                .column_mut(0)
                .slice_mut(ndarray::s![row..])
                .fill(poison);
            let expected = Error::NonFinite {
                argument: Argument::Features,
                row,
            };
            assert_refused(case, &batch, &Targets::new(&batch.labels), &expected);
            let batch = good();
            let mut row_weights = batch.row_weights.clone();
            row_weights[row] = poison;
            let expected = Error::NonFinite {
                argument: Argument::RowWeights,
                row,
            };
            for reduction in [Reduction::Mean, Reduction::Sum, Reduction::None] {
                let targets = Targets::new(&batch.labels)
                    .with_row_weights(&row_weights)
                    .with_reduction(reduction);
                assert_refused(case, &batch, &targets, &expected);
            }
        }
        // A class that no label names is looked at all the same.
        for row in 0..CLASSES {
            let mut batch = good();
            batch.labels = vec![1; ROWS];
            batch.weights[[row, 2]] = poison;
            let expected = Error::NonFinite {
                argument: weights_argument(case),
                row,
            };
            assert_refused(case, &batch, &Targets::new(&batch.labels), &expected);
        }
    }
}

#[test]
fn nan_and_infinity() {
    for_every_loss(not_finite, not_finite);
}

/// Rows of zeros, and in f32 rows whose squares all underflow though their norm does not.
fn zero_rows<A: Float>(case: &Case<'_, A>) {
    let accepts = |batch: &Batch<A>| {
        let found = case
            .loss
            .evaluate(
                batch.features.view(),
                batch.weights.view(),
                &Targets::new(&batch.labels),
            )
            .unwrap_or_else(|error| panic!("{}: {error}", case.name));
        assert!(
            found.loss().is_finite() && found.grad_weights.iter().all(|v| v.is_finite()),
            "{}",
            case.name
        );
    };
    for zero in [A::zero(), -A::zero()] {
        for row in SOME_ROWS {
            let mut batch = good();
            batch.features.row_mut(row).fill(zero);
            if case.needs_feature_norms() {
                let expected = Error::ZeroNorm {
                    argument: Argument::Features,
                    row,
                };
                assert_refused(case, &batch, &Targets::new(&batch.labels), &expected);
            } else {
                accepts(&batch);
            }
        }
        for row in 0..CLASSES {
            let mut batch = good();
            batch.labels = vec![1; ROWS];
            batch.weights.row_mut(row).fill(zero);
            if case.needs_weight_norms() {
                let expected = Error::ZeroNorm {
                    argument: Argument::ClassWeights,
                    row,
                };
                assert_refused(case, &batch, &Targets::new(&batch.labels), &expected);
            } else {
                accepts(&batch);
            }
        }
    }
}

#[test]
fn rows_of_zeros() {
    for_every_loss(zero_rows, zero_rows);
}

/// Below 2⁻¹²⁰ or 2⁻¹⁰⁰⁰ the gradient, which grows as 1/norm, need not be a number of the element type.
fn short_rows<A: Float>(case: &Case<'_, A>, limit: i32) {
    let length = |power: i32| narrow::<A>(2.0_f64.powi(power));
    for row in SOME_ROWS {
        let mut batch = good();
        batch.features.row_mut(row).assign(&Array1::from(vec![
            A::zero(),
            length(limit - 1),
            A::zero(),
        ]));
        let expected = Error::NormTooSmall {
            argument: Argument::Features,
            row,
        };
        if case.needs_feature_norms() {
            assert_refused(case, &batch, &Targets::new(&batch.labels), &expected);
        }
        batch.features[[row, 1]] = length(limit);
        let found = case.loss.evaluate(
            batch.features.view(),
            batch.weights.view(),
            &Targets::new(&batch.labels),
        );
        let found = found.unwrap_or_else(|error| panic!("{}: {error}", case.name));
        assert!(
            found.grad_features.iter().all(|v| v.is_finite()),
            "{}",
            case.name
        );
    }
    for row in 0..CLASSES {
        let mut batch = good();
        // A class that no label names is looked at all the same.
        batch.labels = vec![1; ROWS];
        let mut weight = batch.weights.row_mut(row);
        weight.fill(A::zero());
        weight[0] = length(limit - 1);
        if case.needs_weight_norms() {
            let expected = Error::NormTooSmall {
                argument: Argument::ClassWeights,
                row,
            };
            assert_refused(case, &batch, &Targets::new(&batch.labels), &expected);
        }
        batch.weights[[row, 0]] = length(limit);
        let found = case.loss.evaluate(
            batch.features.view(),
            batch.weights.view(),
            &Targets::new(&batch.labels),
        );
        let found = found.unwrap_or_else(|error| panic!("{}: {error}", case.name));
        assert!(
            found.grad_weights.iter().all(|v| v.is_finite()),
            "{}",
            case.name
        );
    }
}

#[test]
fn rows_too_short_to_divide_by() {
    for_every_loss(
        |case| short_rows(case, -120),
        |case| short_rows(case, -1000),
    );
}

/// A batch of one dimension, whose features are all `x`.
fn one_dimension<A: Float>(x: f64, labels: &[usize], weights: &[f64]) -> Batch<A> {
    Batch {
        features: Array2::from_elem((labels.len(), 1), narrow(x)),
        weights: Array2::from_shape_fn((weights.len(), 1), |(class, _)| narrow(weights[class])),
        centers: Array2::zeros((weights.len(), 1)),
        labels: labels.to_vec(),
        row_weights: vec![A::one(); labels.len()],
    }
}

/// What would be larger than the largest number is refused before anything is written, wherever it is found. `huge` is
/// about a third of that number and `root` about its square root.
fn too_large<A: Float>(huge: f64, root: f64) {
    fn sum<A>(labels: &[usize]) -> Targets<'_, A> {
        Targets::new(labels).with_reduction(Reduction::Sum)
    }
    let centers = good().centers;
    let cases = every_loss::<A>(centers.view());
    let named = |name: &str| {
        let case = cases.iter().find(|case| case.name == name);
        case.expect("in the list")
    };
    let refused = |case, batch: &Batch<A>, quantity, argument, row| {
        let expected = Error::Overflow {
            quantity,
            argument,
            row,
        };
        assert_refused(case, batch, &sum(&batch.labels), &expected);
    };
    let softmax = named("softmax");
    for row in SOME_ROWS {
        let mut batch = one_dimension(1.0, &[0; ROWS], &[1.0, root]);
        batch.features[[row, 0]] = narrow(huge);
        refused(softmax, &batch, "logit", Argument::Features, row);
    }
    // Each row loses two thirds of the largest number.
    let batch = one_dimension(root, &[0, 0], &[-root, root]);
    refused(softmax, &batch, "loss", Argument::Features, 1);
    let mean = softmax.loss.forward(
        batch.features.view(),
        batch.weights.view(),
        &Targets::new(&batch.labels),
    );
    let mean = mean.expect("the mean is a number").loss;
    assert!(mean > narrow(1.9 * huge), "{mean}");
    // Two equal logits: half of the features of each row are the gradient of its class.
    let batch = one_dimension(2.0 * huge, &[0; 4], &[0.0, 0.0]);
    let is_weights = |error: &Error| {
        matches!(
            error,
            Error::Overflow {
                quantity: "gradient",
                argument: Argument::ClassWeights,
                ..
            }
        )
    };
    assert_gradients_refused(
        "softmax",
        &*softmax.loss,
        &batch,
        &sum(&batch.labels),
        is_weights,
    );
    // Half of the square of the distance is two thirds of the largest number.
    let batch = one_dimension(2.0 * root, &[0, 0], &[0.0, 0.0]);
    refused(named("center"), &batch, "loss", Argument::Features, 1);
}

#[test]
fn results_that_are_too_large() {
    too_large::<f32>(1e38, 1e19);
    too_large::<f64>(6e307, 7.7e153);
}

/// Row weights that multiply a gradient, which the loss alone does not see.
fn heavy_rows<A: Float>(case: &Case<'_, A>) {
    for row in SOME_ROWS {
        let mut batch = good();
        let mut weights = vec![A::zero(); ROWS];
        weights[row] = A::max_value();
        // Short classes have long gradients, and far centers strong pulls.
        batch.weights.mapv_inplace(|v| v / narrow(1e4));
        batch.features.mapv_inplace(|v| v * narrow(1e4));
        let targets = Targets::new(&batch.labels)
            .with_row_weights(&weights)
            .with_reduction(Reduction::None);
        let [forward, gradients @ ..] = verdicts(&case.name, &*case.loss, &batch, &targets);
        let overflows =
            |verdict: &Result<(), Error>| matches!(verdict, Err(Error::Overflow { .. }));
        assert!(forward.is_ok() || overflows(&forward), "{forward:?}");
        for verdict in &gradients {
            assert!(overflows(verdict), "{}: {verdict:?}", case.name);
        }
    }
}

#[test]
fn gradients_that_are_too_large() {
    for_every_loss(heavy_rows, heavy_rows);
}

/// Rows of the largest number have a norm in `f32`, which is computed in `f64`, and none in `f64`.
#[test]
fn norms_that_are_too_large() {
    for case in every_loss::<f64>(good().centers.view()) {
        for row in SOME_ROWS {
            let mut batch = good();
            batch.features.row_mut(row).fill(f64::MAX);
            let targets = Targets::new(&batch.labels);
            let error = refused_alike(&case.name, &*case.loss, &batch, &targets);
            let is_that_row = matches!(
                error,
                Error::Overflow {
                    argument: Argument::Features,
                    row: found,
                    ..
                } if found == row
            );
            assert!(is_that_row, "{}: {error:?}", case.name);
        }
        if !case.needs_weight_norms() {
            continue;
        }
        for row in 0..CLASSES {
            let mut batch = good();
            batch.weights.row_mut(row).fill(f64::MAX);
            let expected = Error::Overflow {
                quantity: "norm",
                argument: Argument::ClassWeights,
                row,
            };
            assert_refused(&case, &batch, &Targets::new(&batch.labels), &expected);
        }
    }
    for case in every_loss::<f32>(good().centers.view()) {
        if case.is_angular() {
            let mut batch = good();
            batch.features.row_mut(1).fill(f32::MAX);
            batch.weights.row_mut(2).fill(f32::MAX);
            let verdicts = verdicts(
                &case.name,
                &*case.loss,
                &batch,
                &Targets::new(&batch.labels),
            );
            assert_eq!(verdicts, [(); 4].map(Ok), "{}", case.name);
        }
    }
}
