//! How a refusal is checked: the same error from all three methods, and nothing written.

use margin_losses::{Argument, Error, Evaluation, Float, Targets};

use super::{Batch, Case, Snapshot, every_loss};

pub(crate) const ROWS: usize = 5;
pub(crate) const CLASSES: usize = 4;
pub(crate) const DIMENSION: usize = 3;

pub(crate) fn good<A: Float>() -> Batch<A> {
    Batch::random(101, ROWS, CLASSES, DIMENSION)
}

/// What the class weights of a loss are called: those of the center loss are the centers.
pub(crate) fn weights_argument<A: Float>(case: &Case<'_, A>) -> Argument {
    if case.name == "center" {
        Argument::Centers
    } else {
        Argument::ClassWeights
    }
}

/// All three methods give this error, and the evaluation of an earlier batch keeps its bits.
#[track_caller]
pub(crate) fn assert_refused<A: Float>(
    case: &Case<'_, A>,
    batch: &Batch<A>,
    targets: &Targets<'_, A>,
    expected: &Error,
) {
    let good = good::<A>();
    let mut evaluation = Evaluation::new();
    case.loss
        .evaluate_into(
            good.features.view(),
            good.weights.view(),
            &Targets::new(&good.labels),
            &mut evaluation,
        )
        .expect("a good batch");
    let before = Snapshot::of(&evaluation);
    let (x, w) = (batch.features.view(), batch.weights.view());
    let name = &case.name;
    assert_eq!(
        case.loss.forward(x, w, targets).as_ref(),
        Err(expected),
        "{name}"
    );
    assert_eq!(
        case.loss.evaluate(x, w, targets).err().as_ref(),
        Some(expected),
        "{name}"
    );
    assert_eq!(
        case.loss
            .evaluate_into(x, w, targets, &mut evaluation)
            .as_ref(),
        Err(expected),
        "{name}"
    );
    assert_eq!(
        Snapshot::of(&evaluation),
        before,
        "{name} wrote before it refused"
    );
}

/// Runs `check` on every loss in both element types.
pub(crate) fn for_every_loss(f32s: impl Fn(&Case<'_, f32>), f64s: impl Fn(&Case<'_, f64>)) {
    every_loss(good().centers.view()).iter().for_each(f32s);
    every_loss(good().centers.view()).iter().for_each(f64s);
}
