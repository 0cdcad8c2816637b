//! Arguments that are wrong, or that ask for nothing: rows 10 to 12.

use margin_losses::{Error, Float, MarginLoss, NormFace, Reduction, Targets};
use ndarray::{Array2, Axis, array};

use super::{assert_finite, in_both_types};
use crate::support::refusal::{CLASSES, DIMENSION, ROWS, assert_refused, for_every_loss, good};
use crate::support::{Batch, Case, assert_close, bits, every_loss, narrow, wide, widen};

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
                label: label as i128,
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

/// A row of weight zero: under a sum it changes nothing, and its own gradient is exactly zero.
fn weightless<A: Float>() {
    let batch = Batch::<A>::random(191, 9, 40, 6);
    let kept = [0, 2, 3, 7];
    let row_weights: Vec<A> = (0..9)
        .map(|row| narrow(f64::from(u8::from(kept.contains(&row)))))
        .collect();
    let mut dropped = batch.clone();
    dropped.features = batch.features.select(Axis(0), &kept);
    dropped.labels = kept.map(|row| batch.labels[row]).to_vec();
    for case in every_loss(batch.centers.view()) {
        if case.formula.couples_rows {
            continue;
        }
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

in_both_types!(row_11_rows_of_weight_zero, weightless);

/// Nothing to do is a sum of zero and an error of a mean; every row ignored is a mean of zero, never 0/0. No classes and no
/// dimensions are errors, whatever the number of rows.
fn nothing<A: Float>(case: &Case<'_, A>) {
    let full = good::<A>();
    let mut empty = good::<A>();
    empty.features = Array2::zeros((0, DIMENSION));
    let nobody: Targets<'_, A> = Targets::new(&[0; 0]);
    assert_refused(case, &empty, &nobody, &Error::EmptyBatch);
    let weighted = nobody.with_row_weights(&[]);
    assert_refused(case, &empty, &weighted, &Error::EmptyBatch);
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
            let rows = batch.features.nrows();
            assert_eq!(found.forward.row_losses.len(), rows);
            assert!(rows > 0 || found.forward.accuracy().is_none());
            assert_eq!(found.grad_features.dim(), batch.features.dim());
            assert_eq!(found.grad_weights.dim(), batch.weights.dim());
            let learnables = case.loss.learnables().len();
            assert_eq!(found.grad_learnables.len(), learnables);
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
    batch.features = Array2::zeros((0, DIMENSION));
    let nobody = nobody.with_reduction(Reduction::Sum);
    assert_refused(case, &batch, &nobody, &Error::NoClasses);
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

/// A label of −1 is said to be −1, whatever the integers.
#[test]
fn row_10_a_negative_label_reads_as_it_was_given() -> Result<(), Error> {
    let (x, w) = (
        array![[1.0_f32, 2.0], [0.5, 0.1]],
        array![[0.0_f32, 1.0], [1.0, 0.0]],
    );
    let signed = array![1_i64, -1];
    let loss = NormFace::new(4.0)?;
    let refused = loss.forward(x.view(), w.view(), &Targets::new(&signed));
    assert_eq!(
        refused.map(drop).map_err(|error| error.to_string()),
        Err("labels row 1 is -1, but there are 2 classes; rows can be ignored by with_ignored_label".to_owned())
    );
    let expected = loss.forward(x.view(), w.view(), &Targets::new(&[1_usize, 0]))?;
    let strided = array![[1_u8, 7], [0, 7]];
    assert_eq!(
        loss.forward(x.view(), w.view(), &Targets::new(strided.column(0)))?,
        expected
    );
    assert_eq!(
        loss.forward(x.view(), w.view(), &Targets::new(&vec![1_i16, 0]))?,
        expected
    );
    Ok(())
}
