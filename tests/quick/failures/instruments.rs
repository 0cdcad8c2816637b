//! Tests that cannot fail: row 29. `controls.rs` beside this folder has the checker of gradients by differences.

use margin_losses::{Evaluation, Float, Reduction};
use ndarray::s;

use super::{evaluate, in_both_types};
use crate::support::{Batch, Truth, close_to_largest, every_loss, narrow, truth, wide, widen};

/// What `oracle.rs` asks of an evaluation, as a verdict.
fn accepted<A: Float>(found: &Evaluation<A>, exact: &Truth) -> bool {
    let tolerance = if widen(A::epsilon()) > 1e-10 {
        1e-5
    } else {
        1e-12
    };
    let close = |found: &[f64], exact: &[f64]| close_to_largest(found, exact, tolerance);
    close(&[widen(found.loss())], &[exact.loss])
        && close(
            &found.forward.row_losses.mapv(widen).to_vec(),
            &exact.row_losses,
        )
        && close(&wide(&found.grad_features), &wide(&exact.grad_features))
        && close(&wide(&found.grad_weights), &wide(&exact.grad_weights))
        && close(
            &found.grad_learnables.mapv(widen).to_vec(),
            &exact.grad_learnables,
        )
        && close(&wide(&found.grad_centers), &wide(&exact.grad_centers))
}

/// Whatever can go wrong with an evaluation is seen by the comparison with the oracle, for every loss.
fn tampered<A: Float>() {
    let batch = Batch::<A>::random(231, 5, 200, 6);
    for case in every_loss(batch.centers.view()) {
        let found = evaluate(&*case.loss, &batch);
        let exact = truth(&case.formula, &batch.widened(), Reduction::Mean, false);
        assert!(accepted(&found, &exact), "{}", case.name);
        let reject = |what: &str, tamper: &dyn Fn(&mut Evaluation<A>)| {
            let mut wrong = found.clone();
            tamper(&mut wrong);
            assert!(!accepted(&wrong, &exact), "{}: {what}", case.name);
        };
        let far = A::one() + narrow(1e-4);
        reject("∂X off by 1e-4", &|e| {
            e.grad_features.mapv_inplace(|v| v * far);
        });
        reject("∂W off by 1e-4", &|e| {
            e.grad_weights.mapv_inplace(|v| v * far);
        });
        reject("the loss off by 1e-4", &|e| e.forward.loss *= far);
        reject("∂X with the other sign", &|e| {
            e.grad_features.mapv_inplace(|v| -v);
        });
        reject("∂W with the other sign", &|e| {
            e.grad_weights.mapv_inplace(|v| -v);
        });
        reject("one entry with the other sign", &|e| {
            let largest = |m: A, &v: &A| if v.abs() > m.abs() { v } else { m };
            let top = e.grad_weights.iter().fold(A::zero(), largest);
            e.grad_weights
                .mapv_inplace(|v| if v == top { -v } else { v });
        });
        for poison in [A::nan(), A::infinity(), A::neg_infinity()] {
            reject("a NaN or an infinity in ∂X", &|e| {
                e.grad_features[[4, 5]] = poison;
            });
            reject("a NaN or an infinity in ∂W", &|e| {
                e.grad_weights[[199, 5]] = poison;
            });
            reject("a NaN or an infinity in the loss", &|e| {
                e.forward.loss = poison;
            });
            reject("a NaN or an infinity in a row", &|e| {
                e.forward.row_losses[4] = poison;
            });
        }
        let label = batch.labels[2];
        let block = 32 * (label / 32);
        reject("a block of ∂W that is missing", &|e| {
            let mut block = e
                .grad_weights
                .slice_mut(s![block..(block + 32).min(200), ..]);
            block.fill(A::zero());
        });
        reject("a row of ∂X that is missing", &|e| {
            e.grad_features.row_mut(3).fill(A::zero());
        });
        reject("two rows of ∂X exchanged", &|e| {
            let (a, b) = (
                e.grad_features.row(0).to_owned(),
                e.grad_features.row(1).to_owned(),
            );
            e.grad_features.row_mut(0).assign(&b);
            e.grad_features.row_mut(1).assign(&a);
        });
        if !found.grad_learnables.is_empty() {
            reject("learnables off by 1e-4", &|e| {
                e.grad_learnables.mapv_inplace(|v| v * far);
            });
        }
        if !found.grad_centers.is_empty() {
            reject("centers off by 1e-4", &|e| {
                e.grad_centers.mapv_inplace(|v| v * far);
            });
        }
    }
}

in_both_types!(row_29_tests_can_fail, tampered);
