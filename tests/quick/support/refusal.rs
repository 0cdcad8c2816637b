//! How a refusal is checked: the same error from all four methods, nothing written, and no block handed out.

use margin_losses::{Argument, Error, Evaluation, Float, MarginLoss, Targets};
use ndarray::{Array1, Array2};

use super::{Batch, Case, Snapshot, bits, every_loss, narrow};

pub(crate) const ROWS: usize = 5;
pub(crate) const CLASSES: usize = 4;
pub(crate) const DIMENSION: usize = 3;

/// The first, the middle and the last row of a batch.
pub(crate) const SOME_ROWS: [usize; 3] = [0, ROWS / 2, ROWS - 1];

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

/// Gives an evaluation the shapes of a good batch, so that whatever is written too early is written in place. No entry is one
/// that a loss would give, and no two are alike.
pub(crate) fn fill_with_pattern<A: Float>(evaluation: &mut Evaluation<A>) {
    let mut next = 1000.5;
    let mut number = || -> A {
        next += 1.0;
        narrow(-next)
    };
    let mut vector = |length| Array1::from_shape_simple_fn(length, &mut number);
    evaluation.forward.loss = vector(1)[0];
    evaluation.forward.row_losses = vector(ROWS);
    evaluation.forward.target_logits = vector(ROWS);
    evaluation.forward.target_cosines = vector(ROWS);
    evaluation.forward.correct = Array1::from_shape_fn(ROWS, |row| row == 1);
    evaluation.grad_learnables = vector(CLASSES);
    let mut matrix = |rows| Array2::from_shape_simple_fn((rows, DIMENSION), &mut number);
    evaluation.grad_features = matrix(ROWS);
    evaluation.grad_weights = matrix(CLASSES);
    evaluation.grad_centers = matrix(CLASSES);
}

pub(crate) fn patterned<A: Float>() -> Evaluation<A> {
    let mut evaluation = Evaluation::new();
    fill_with_pattern(&mut evaluation);
    evaluation
}

/// What the four methods say: `forward`, `evaluate`, `evaluate_into`, `evaluate_streamed`.
///
/// One that refuses has left every bit of the evaluation and of the class weights alone, and has not called for an update.
#[track_caller]
pub(crate) fn verdicts<A: Float>(
    name: &str,
    loss: &dyn MarginLoss<A>,
    batch: &Batch<A>,
    targets: &Targets<'_, A>,
) -> [Result<(), Error>; 4] {
    let (x, w) = (batch.features.view(), batch.weights.view());
    let before = Snapshot::of(&patterned::<A>());

    let mut into = patterned();
    let by_into = loss.evaluate_into(x, w, targets, &mut into);
    if by_into.is_err() {
        assert_eq!(
            Snapshot::of(&into),
            before,
            "{name} wrote before it refused {by_into:?}"
        );
    }

    let (mut streamed, mut weights, mut updates) = (patterned(), batch.weights.clone(), 0);
    let by_stream =
        loss.evaluate_streamed(x, weights.view_mut(), targets, &mut streamed, &mut |_| {
            updates += 1;
        });
    if by_stream.is_err() {
        assert_eq!(
            Snapshot::of(&streamed),
            before,
            "{name}, streamed, wrote before it refused {by_stream:?}"
        );
        assert_eq!(
            bits(&weights),
            bits(&batch.weights),
            "{name}, streamed, changed a weight"
        );
        assert_eq!(
            updates, 0,
            "{name} handed a block out before it refused {by_stream:?}"
        );
    }

    [
        loss.forward(x, w, targets).map(drop),
        loss.evaluate(x, w, targets).map(drop),
        by_into,
        by_stream,
    ]
}

/// The one error that all four methods give.
#[track_caller]
pub(crate) fn refused_alike<A: Float>(
    name: &str,
    loss: &dyn MarginLoss<A>,
    batch: &Batch<A>,
    targets: &Targets<'_, A>,
) -> Error {
    let [forward, rest @ ..] = verdicts(name, loss, batch, targets);
    for other in rest {
        assert_eq!(other, forward, "{name}: one method refuses as another does");
    }
    forward.expect_err(name)
}

/// All four methods give this error, and nothing is written.
#[track_caller]
pub(crate) fn assert_refused<A: Float>(
    case: &Case<'_, A>,
    batch: &Batch<A>,
    targets: &Targets<'_, A>,
    expected: &Error,
) {
    let found = refused_alike(&case.name, &*case.loss, batch, targets);
    assert_eq!(&found, expected, "{}", case.name);
}

/// The gradients are refused, with this error and without writing, though the loss alone can be had.
#[track_caller]
pub(crate) fn assert_gradients_refused<A: Float>(
    name: &str,
    loss: &dyn MarginLoss<A>,
    batch: &Batch<A>,
    targets: &Targets<'_, A>,
    expected: impl Fn(&Error) -> bool,
) {
    let [forward, rest @ ..] = verdicts(name, loss, batch, targets);
    assert_eq!(forward, Ok(()), "{name}");
    for verdict in rest {
        let error = verdict.expect_err(name);
        assert!(expected(&error), "{name}: {error:?}");
    }
}

/// Runs `check` on every loss in both element types.
pub(crate) fn for_every_loss(f32s: impl Fn(&Case<'_, f32>), f64s: impl Fn(&Case<'_, f64>)) {
    every_loss(good().centers.view()).iter().for_each(f32s);
    every_loss(good().centers.view()).iter().for_each(f64s);
}
