//! Arguments that are wrong, or that ask for nothing: rows 10 to 12 and 18.

use margin_losses::{
    AmSoftmax, ArcFace, Argument, CenterLoss, CombinedMargin, CosFace, Error, Float, JointLoss,
    MarginLoss, MarginSoftmax, NormFace, Reduction, SoftmaxLoss, Targets,
};
use ndarray::{Array2, Axis};

use super::support::refusal::{
    CLASSES, DIMENSION, ROWS, SOME_ROWS, assert_refused, for_every_loss, good, refused_alike,
    weights_argument,
};
use super::support::{Batch, Case, Squared, assert_close, bits, every_loss, narrow, wide, widen};
use super::{assert_finite, in_both_types};

/// No label is wrapped around, taken for another shard's, or for «ignore this row».
fn labels<A: Float>(case: &Case<'_, A>) {
    for row in 0..ROWS {
        for label in [
            CLASSES,
            CLASSES + 1,
            i32::MAX as usize,
            u32::MAX as usize,
            // −1 and −100, as they arrive here.
            usize::MAX,
            usize::MAX - 99,
        ] {
            let mut batch = good();
            batch.labels[row] = label;
            let expected = Error::LabelOutOfRange {
                row,
                label,
                classes: CLASSES,
            };
            for reduction in [Reduction::Mean, Reduction::Sum, Reduction::None] {
                let targets = Targets::new(&batch.labels).with_reduction(reduction);
                assert_refused(case, &batch, &targets, &expected);
            }
        }
    }
}

#[test]
fn row_10_labels_out_of_range() {
    for_every_loss(labels, labels);
}

/// A row of weight zero is a row that is not there: under a sum it changes nothing, and its own gradient is exactly zero.
fn ignored<A: Float>() {
    let batch = Batch::<A>::random(191, 9, 40, 6);
    let kept = [0, 2, 3, 7];
    let row_weights: Vec<A> = (0..9)
        .map(|row| narrow(f64::from(u8::from(kept.contains(&row)))))
        .collect();
    let mut dropped = batch.clone();
    dropped.features = batch.features.select(Axis(0), &kept);
    dropped.labels = kept.map(|row| batch.labels[row]).to_vec();
    for case in every_loss(batch.centers.view()) {
        let found = case.loss.evaluate(
            batch.features.view(),
            batch.weights.view(),
            &Targets::new(&batch.labels)
                .with_row_weights(&row_weights)
                .with_reduction(Reduction::Sum),
        );
        let expected = case.loss.evaluate(
            dropped.features.view(),
            dropped.weights.view(),
            &Targets::new(&dropped.labels).with_reduction(Reduction::Sum),
        );
        let (found, expected) = (
            found.expect("a good batch"),
            expected.expect("a good batch"),
        );
        for (row, gradient) in found.grad_features.outer_iter().enumerate() {
            if !kept.contains(&row) {
                assert!(gradient.iter().all(|&v| v == A::zero()), "{}", case.name);
            }
        }
        // The target's side of a row does not depend on what else is in the batch, to the bit.
        let select = |values: &ndarray::Array1<A>| values.select(Axis(0), &kept);
        let (all, few) = (&found.forward, &expected.forward);
        for (all, few) in [
            (&all.target_cosines, &few.target_cosines),
            (&all.target_logits, &few.target_logits),
        ] {
            assert_eq!(bits(&select(all)), bits(few), "{}", case.name);
        }
        // A product of other shapes may round in another order.
        let tolerance = 64.0 * widen(A::epsilon());
        let close = |found: &[f64], expected: &[f64]| {
            assert_close(&case.name, found, expected, tolerance);
        };
        close(&wide(&select(&all.row_losses)), &wide(&few.row_losses));
        close(&[widen(found.loss())], &[widen(expected.loss())]);
        close(
            &wide(&found.grad_features.select(Axis(0), &kept)),
            &wide(&expected.grad_features),
        );
        close(&wide(&found.grad_weights), &wide(&expected.grad_weights));
        close(
            &wide(&found.grad_learnables),
            &wide(&expected.grad_learnables),
        );
        close(&wide(&found.grad_centers), &wide(&expected.grad_centers));
    }
}

in_both_types!(row_11_ignored_rows, ignored);

/// Nothing to do is a sum of zero and an error of a mean; every row ignored is a mean of zero, never 0/0.
fn nothing<A: Float>(case: &Case<'_, A>) {
    let full = good::<A>();
    let mut empty = good::<A>();
    empty.features = Array2::zeros((0, DIMENSION));
    let nobody: Targets<'_, A> = Targets::new(&[]);
    assert_refused(case, &empty, &nobody, &Error::EmptyBatch);
    let nothing = vec![A::zero(); ROWS];
    for reduction in [Reduction::Sum, Reduction::None, Reduction::Mean] {
        let none = (&empty, nobody.with_reduction(reduction));
        let ignored = Targets::new(&full.labels).with_row_weights(&nothing);
        let all_ignored = (&full, ignored.with_reduction(reduction));
        for (batch, targets) in [none, all_ignored] {
            if targets.labels().is_empty() && reduction == Reduction::Mean {
                continue;
            }
            let found = case
                .loss
                .evaluate(batch.features.view(), batch.weights.view(), &targets)
                .expect("nothing to do");
            assert_finite(&case.name, &found);
            assert_eq!(found.loss(), A::zero(), "{}", case.name);
            assert_eq!(found.grad_features.dim(), batch.features.dim());
            assert_eq!(found.grad_weights.dim(), batch.weights.dim());
            let matrices = [
                &found.grad_features,
                &found.grad_weights,
                &found.grad_centers,
            ];
            let zero = |matrix: &&Array2<A>| matrix.iter().all(|&v| v == A::zero());
            assert!(matrices.iter().all(zero), "{}", case.name);
            assert!(found.grad_learnables.iter().all(|&v| v == A::zero()));
        }
    }
    let mut batch = good::<A>();
    batch.weights = Array2::zeros((0, DIMENSION));
    let targets = Targets::new(&batch.labels);
    assert_refused(case, &batch, &targets, &Error::NoClasses);
    let mut batch = good::<A>();
    batch.features = Array2::zeros((ROWS, 0));
    batch.weights = Array2::zeros((CLASSES, 0));
    let targets = Targets::new(&batch.labels);
    assert_refused(case, &batch, &targets, &Error::NoDimensions);
}

#[test]
fn row_12_empty_batches() {
    for_every_loss(nothing, nothing);
}

/// NaN and the infinities in every array that a call is given. A maximum that skips NaN would let the first through.
fn not_finite<A: Float>(case: &Case<'_, A>) {
    for poison in [A::nan(), A::infinity(), A::neg_infinity()] {
        for row in SOME_ROWS {
            for column in 0..DIMENSION {
                let mut batch = good();
                batch.features[[row, column]] = poison;
                let argument = Argument::Features;
                let targets = Targets::new(&batch.labels);
                assert_refused(case, &batch, &targets, &Error::NonFinite { argument, row });
            }
            let batch = good();
            let mut row_weights = batch.row_weights.clone();
            row_weights[row] = poison;
            let targets = Targets::new(&batch.labels).with_row_weights(&row_weights);
            let argument = Argument::RowWeights;
            assert_refused(case, &batch, &targets, &Error::NonFinite { argument, row });
        }
        for row in 0..CLASSES {
            let mut batch = good();
            batch.weights[[row, 1]] = poison;
            let argument = weights_argument(case);
            let targets = Targets::new(&batch.labels);
            assert_refused(case, &batch, &targets, &Error::NonFinite { argument, row });
        }
    }
}

#[test]
fn row_18_nan_and_infinity_in_arrays() {
    for_every_loss(not_finite, not_finite);
}

/// And in what a loss is made of.
#[test]
fn row_18_nan_and_infinity_in_losses() {
    let batch = good::<f64>();
    for poison in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let named = |found: Option<Error>| matches!(found, Some(Error::Parameter { .. }));
        let parameters = [
            NormFace::new(poison).err(),
            NormFace::learned(poison).err(),
            AmSoftmax::new(poison, 0.35).err(),
            AmSoftmax::new(30.0, poison).err(),
            CosFace::new(poison, 0.35).err(),
            CosFace::new(64.0, poison).err(),
            ArcFace::new(poison, 0.5).err(),
            ArcFace::new(64.0, poison).err(),
            CombinedMargin::new(poison, 1.0, 0.0, 0.0).err(),
            CombinedMargin::new(64.0, poison, 0.0, 0.0).err(),
            CombinedMargin::new(64.0, 1.0, poison, 0.0).err(),
            CombinedMargin::new(64.0, 1.0, 0.0, poison).err(),
            MarginSoftmax::new(Squared, poison).err(),
            JointLoss::new(SoftmaxLoss::new(), batch.centers.view(), poison).err(),
        ];
        for (index, error) in parameters.into_iter().enumerate() {
            assert!(named(error.clone()), "{index} at {poison}: {error:?}");
        }
        for row in 0..CLASSES {
            let mut bias = vec![0.5; CLASSES];
            bias[row] = poison;
            let argument = Argument::Bias;
            let expected = Error::NonFinite { argument, row };
            assert_eq!(SoftmaxLoss::with_bias(bias), Err(expected));

            let mut centers = batch.centers.clone();
            centers[[row, 0]] = poison;
            let argument = Argument::Centers;
            let expected = Error::NonFinite { argument, row };
            let joint = JointLoss::new(SoftmaxLoss::new(), centers.view(), 0.5).expect("in range");
            let found = refused_alike("joint", &joint, &batch, &Targets::new(&batch.labels));
            assert_eq!(found, expected);
            let before = bits(&centers);
            let step = CenterLoss::update_centers(
                centers.view_mut(),
                batch.features.view(),
                &batch.labels,
                0.5,
            );
            assert_eq!(step, Err(expected));
            assert_eq!(bits(&centers), before);
        }
        let mut learned = NormFace::learned(8.0).expect("in range");
        let refused = MarginLoss::<f64>::set_learnables(&mut learned, &[poison]);
        assert!(named(refused.err()), "{poison}");
        assert_eq!(learned.scale(), 8.0);
    }
}
