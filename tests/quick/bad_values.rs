//! NaN and infinity in every argument, and rows that cannot be normalised.

use margin_losses::{Argument, Error, Float, Reduction, Targets};
use ndarray::Array1;

use crate::support::refusal::{
    CLASSES, DIMENSION, ROWS, SOME_ROWS, assert_refused, for_every_loss, good, weights_argument,
};
use crate::support::{Batch, Case, Snapshot, narrow};

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
        assert!(Snapshot::of(&found).is_finite(), "{}", case.name);
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
