//! The 29 ways in which public implementations of these losses go wrong.
//!
//! `docs/reliability.md` has the table: what fails, where it was seen, what this crate does instead, and which test holds
//! it. Most are here, and the number in a test's name is the row of that table.

mod angles;
mod arguments;
mod batches;
mod centers;
mod instruments;
mod magnitudes;
mod poles;

use margin_losses::{Evaluation, Float, MarginLoss, Targets};

use crate::support::Batch;

/// The mean loss of a batch and its gradients.
#[track_caller]
fn evaluate<A: Float>(loss: &dyn MarginLoss<A>, batch: &Batch<A>) -> Evaluation<A> {
    let targets = Targets::new(&batch.labels);
    loss.evaluate(batch.features.view(), batch.weights.view(), &targets)
        .unwrap_or_else(|error| panic!("{loss:?}: {error}"))
}

/// Every number that an evaluation shows is finite.
#[track_caller]
fn assert_finite<A: Float>(what: &str, found: &Evaluation<A>) {
    let forward = &found.forward;
    let vectors = [
        &forward.row_losses,
        &forward.target_logits,
        &forward.target_cosines,
        &found.grad_learnables,
    ];
    let matrices = [
        &found.grad_features,
        &found.grad_weights,
        &found.grad_centers,
    ];
    let finite = forward.loss.is_finite()
        && vectors.iter().all(|v| v.iter().all(|v| v.is_finite()))
        && matrices.iter().all(|m| m.iter().all(|v| v.is_finite()));
    assert!(finite, "{what}: {found:?}");
}

/// Runs a generic check in both element types.
macro_rules! in_both_types {
    ($(#[$attribute:meta])* $name:ident, $check:ident) => {
        $(#[$attribute])*
        #[test]
        fn $name() {
            $check::<f32>();
            $check::<f64>();
        }
    };
}
use in_both_types;
