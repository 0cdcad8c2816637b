//! Every loss against the slow oracle, on batches larger than any block, in both element types.

use margin_losses::{Float, Reduction, Targets};

use crate::support::{Batch, assert_close, every_loss, largest, max_difference, truth, widen};

/// `tolerance` is relative to the largest entry of each array, or to 1 where all of them should cancel: in one dimension
/// there is no way to turn.
fn agrees<A: Float>(batch: &Batch<A>, tolerance: f64) {
    let cancels = batch.features.ncols() == 1;
    let exact = batch.widened();
    for case in every_loss(batch.centers.view()) {
        for (reduction, weighted) in [
            (Reduction::Mean, false),
            (Reduction::Sum, true),
            (Reduction::None, true),
        ] {
            let mut targets = Targets::new(&batch.labels).with_reduction(reduction);
            if weighted {
                targets = targets.with_row_weights(&batch.row_weights);
            }
            let expected = truth(&case.formula, &exact, reduction, weighted);
            let found = case
                .loss
                .evaluate(batch.features.view(), batch.weights.view(), &targets)
                .unwrap_or_else(|error| panic!("{}: {error}", case.name));
            let close = |part: &str, found: Vec<f64>, expected: Vec<f64>| {
                let what = format!("{part} of {} under {reduction:?}", case.name);
                if cancels {
                    let off = max_difference(&found, &expected);
                    assert!(
                        off <= tolerance * largest(&expected).max(1.0),
                        "{what}: {off:e}"
                    );
                } else {
                    assert_close(&what, &found, &expected, tolerance);
                }
            };
            let forward = &found.forward;
            let wide = |values: &ndarray::Array1<A>| values.iter().map(|&v| widen(v)).collect();
            let flat = |values: &ndarray::Array2<A>| values.iter().map(|&v| widen(v)).collect();
            close("L", vec![widen(forward.loss)], vec![expected.loss]);
            close("row losses", wide(&forward.row_losses), expected.row_losses);
            close(
                "target cosines",
                wide(&forward.target_cosines),
                expected.target_cosines,
            );
            if !expected.correct.is_empty() {
                close(
                    "target logits",
                    wide(&forward.target_logits),
                    expected.target_logits,
                );
            }
            assert_eq!(forward.correct.to_vec(), expected.correct, "{}", case.name);
            close(
                "∂X",
                flat(&found.grad_features),
                expected.grad_features.iter().copied().collect(),
            );
            close(
                "∂W",
                flat(&found.grad_weights),
                expected.grad_weights.iter().copied().collect(),
            );
            close(
                "learnables",
                wide(&found.grad_learnables),
                expected.grad_learnables,
            );
            assert_eq!(
                found.grad_centers.dim(),
                expected.grad_centers.dim(),
                "{}",
                case.name
            );
            close(
                "∂c",
                flat(&found.grad_centers),
                expected.grad_centers.iter().copied().collect(),
            );
        }
    }
}

/// Rows, classes, dimensions.
const SMALL_AND_ODD: [(usize, usize, usize); 7] = [
    (1, 1, 1),
    (1, 2, 1),
    (2, 1, 3),
    (3, 5, 2),
    (7, 11, 17),
    (33, 3, 5),
    (280, 35, 4),
];

#[test]
fn on_small_and_odd_shapes_in_f64() {
    for (seed, (rows, classes, dimension)) in SMALL_AND_ODD.into_iter().enumerate() {
        agrees::<f64>(
            &Batch::random(seed as u64 + 20, rows, classes, dimension),
            1e-12,
        );
    }
}

#[test]
fn on_many_classes_in_f64() {
    agrees::<f64>(&Batch::random(31, 9, 2500, 19), 1e-12);
}

#[test]
fn on_many_classes_in_f32() {
    agrees::<f32>(&Batch::random(32, 9, 2500, 19), 1e-5);
}

#[test]
fn on_small_and_odd_shapes_in_f32() {
    for (seed, (rows, classes, dimension)) in SMALL_AND_ODD.into_iter().enumerate() {
        agrees::<f32>(
            &Batch::random(seed as u64 + 40, rows, classes, dimension),
            1e-5,
        );
    }
}
