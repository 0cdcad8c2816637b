//! Logits of any size, in any order over the classes, and rows of any length: no overflow on the way to a finite result.
//!
//! With one dimension and features of 1 the class weights are the logits, exactly.

use margin_losses::{Error, Evaluation, Float, MarginLoss, Reduction, SoftmaxLoss, Targets};
use ndarray::{Array2, array};

use crate::support::{Batch, SplitMix, assert_close, every_loss, narrow, truth, wide, widen};

/// A batch of one dimension whose rows all have these logits.
fn given<A: Float>(logits: &[f64], labels: &[usize]) -> Batch<A> {
    let rows = labels.len();
    Batch {
        features: Array2::ones((rows, 1)),
        weights: Array2::from_shape_fn((logits.len(), 1), |(class, _)| narrow(logits[class])),
        centers: Array2::zeros((logits.len(), 1)),
        labels: labels.to_vec(),
        row_weights: vec![A::one(); rows],
    }
}

/// The softmax of given logits agrees with the oracle: the loss, ∂X relative to the sum it is, and every entry of ∂W.
#[track_caller]
fn assert_softmax<A: Float>(logits: &[f64], labels: &[usize], tolerance: f64) {
    assert_softmax_of(&given::<A>(logits, labels), tolerance);
}

#[track_caller]
fn assert_softmax_of<A: Float>(batch: &Batch<A>, tolerance: f64) {
    let loss = SoftmaxLoss::new();
    let targets = Targets::new(&batch.labels).with_reduction(Reduction::Sum);
    let found: Evaluation<A> = loss
        .evaluate(batch.features.view(), batch.weights.view(), &targets)
        .expect("a good batch");
    let formula = every_loss(batch.centers.view()).swap_remove(0).formula;
    let exact = batch.widened();
    let expected = truth(&formula, &exact, Reduction::Sum, false);
    assert_close("L", &[widen(found.loss())], &[expected.loss], tolerance);
    assert_close(
        "∂W",
        &wide(&found.grad_weights),
        &wide(&expected.grad_weights),
        tolerance,
    );
    let size = (&expected.coefficients * &exact.weights.t())
        .mapv(f64::abs)
        .sum();
    for (&found, &expected) in found.grad_features.iter().zip(&expected.grad_features) {
        let off = (widen(found) - expected).abs();
        assert!(off <= tolerance * size, "∂X: {found} for {expected}");
    }
}

/// How many classes there are when the last block of a partition has 1, 2 or all of its classes.
const COUNTS: [usize; 8] = [1, 2, 33, 64, 65, 66, 129, 577];

#[test]
fn equal_logits_of_any_size() {
    for classes in COUNTS {
        for size in [0.0, 1.0, 19.0, 21.0, 59.0, 61.0, 88.0, 100.0, 1e4, 1e30] {
            for logit in [size, -size] {
                for label in [0, classes / 2, classes - 1] {
                    let labels = [label, label];
                    assert_softmax::<f32>(&vec![logit; classes], &labels, 1e-6);
                    assert_softmax::<f64>(&vec![logit * 1e3; classes], &labels, 1e-12);
                }
            }
        }
    }
}

/// The largest logit is met at the beginning, at the end, or in between; the smallest are far below it.
#[test]
fn logits_that_rise_and_fall_over_the_classes() {
    for classes in COUNTS.into_iter().filter(|&classes| classes > 1) {
        for step in [0.01, 0.7, 13.0, 61.0, 1000.0] {
            let at = |order: &dyn Fn(f64) -> f64| -> Vec<f64> {
                (0..classes)
                    .map(|class| step * order(class as f64))
                    .collect()
            };
            let end = classes as f64 - 1.0;
            let rising = at(&|class| class);
            let falling = at(&|class| -class);
            let peaked = at(&|class| -(class - (end / 2.0).floor()).abs());
            let valley = at(&|class| (class - (end / 2.0).floor()).abs());
            for logits in [rising, falling, peaked, valley] {
                for label in [0, classes / 2, classes - 1] {
                    assert_softmax::<f32>(&logits, &[label, label], 2e-6);
                    assert_softmax::<f64>(&logits, &[label, label], 1e-12);
                }
            }
        }
    }
}

/// Over the same classes the logits of one row rise, of another they fall, and of a third they are all 0.
#[test]
fn every_row_has_a_shift_of_its_own() {
    fn check<A: Float>(tolerance: f64) {
        for classes in COUNTS.into_iter().filter(|&classes| classes > 1) {
            for step in [0.7, 13.0, 61.0] {
                let logits: Vec<f64> = (0..classes).map(|class| step * class as f64).collect();
                let mut batch = given::<A>(&logits, &[0, classes / 2, classes - 1, 0]);
                batch.features = array![[1.0], [0.0], [-1.0], [0.5]].mapv(narrow);
                assert_softmax_of(&batch, tolerance);
            }
        }
    }
    check::<f32>(2e-6);
    check::<f64>(1e-12);
}

/// Rows and classes of lengths 2^−60 … 2^60, side by side.
fn mixed_lengths<A: Float>(tolerance: f64) {
    let mut rng = SplitMix(121);
    let mut batch = Batch::<A>::random(122, 7, 70, 6);
    for matrix in [&mut batch.features, &mut batch.weights] {
        for mut row in matrix.outer_iter_mut() {
            let factor: A = narrow(2.0_f64.powi(rng.below(121) as i32 - 60));
            row.mapv_inplace(|v| v * factor);
        }
    }
    for case in every_loss(batch.centers.view()) {
        if !case.is_angular() {
            continue;
        }
        let found = case
            .loss
            .evaluate(
                batch.features.view(),
                batch.weights.view(),
                &Targets::new(&batch.labels),
            )
            .expect("a good batch");
        let expected = truth(&case.formula, &batch.widened(), Reduction::Mean, false);
        assert_close(
            &case.name,
            &[widen(found.loss())],
            &[expected.loss],
            tolerance,
        );
        // Row by row, since their gradients are as different as their lengths.
        for (found, expected) in [
            (&found.grad_features, &expected.grad_features),
            (&found.grad_weights, &expected.grad_weights),
        ] {
            for (found, expected) in found.outer_iter().zip(expected.outer_iter()) {
                // A class that no row comes near has a gradient below what a row of the batch can resolve.
                let found = found.mapv(widen);
                assert_close(
                    &case.name,
                    &found.to_vec(),
                    &expected.to_vec(),
                    10.0 * tolerance,
                );
            }
        }
    }
}

#[test]
fn rows_of_any_length_in_f64() {
    mixed_lengths::<f64>(1e-12);
}

#[test]
fn rows_of_any_length_in_f32() {
    mixed_lengths::<f32>(1e-5);
}

/// A mean length of the class weights, which bounds ∂X, cancelled between a long block without a share and short ones: ∂X was
/// infinite, and said to be right.
#[test]
fn long_weights_beside_a_block_of_zeros() -> Result<(), Error> {
    let features = array![[4e-29_f32]];
    let mut weights = Array2::<f32>::zeros((10_240, 1));
    weights.slice_mut(ndarray::s![..512, ..]).fill(-1e30);
    let out =
        SoftmaxLoss::new().evaluate(features.view(), weights.view(), &Targets::new(&[10_239]))?;
    // 512 classes at e^−40 each, against 9,728 at 1.
    let share = 512.0 * (-40.0_f64).exp();
    let expected = -1e30 * share / (share + 9_728.0);
    let found = f64::from(out.grad_features[[0, 0]]);
    assert!(
        (found / expected - 1.0).abs() < 1e-5,
        "{found:e}, not {expected:e}"
    );
    Ok(())
}
