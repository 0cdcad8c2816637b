//! Everything that is asked of `margin-losses`: the rest of this crate takes it from here. This file names no framework, so that
//! a test of the core can compile it.

pub(crate) use margin_losses::ndarray::{Array2, ArrayView2, ArrayViewMut2};
pub(crate) use margin_losses::offload::{Offload, OffloadedBatch};
pub(crate) use margin_losses::{
    AnyLoss, Argument, ClassBlock, Error as LossError, Evaluation, Float, MarginLoss, Objective,
    Targets,
};

use margin_losses::ndarray::ShapeBuilder;
use margin_losses::offload::RowFigures;

/// How many figures there are of each row.
pub(crate) const FIGURES: usize = 6;

/// Entries as a matrix of these strides; none if they are too few.
pub(crate) fn view<A>(
    entries: &[A],
    [rows, columns]: [usize; 2],
    [by_row, by_column]: [usize; 2],
) -> Option<ArrayView2<'_, A>> {
    let shape = (rows, columns).strides((by_row, by_column));
    ArrayView2::from_shape(shape, entries).ok()
}

/// What an objective keeps from step to step: what it has learned, and its running statistics.
pub(crate) fn kept(objective: &Objective) -> [Vec<f64>; 2] {
    [
        objective.learnables().to_vec(),
        objective.statistics().to_vec(),
    ]
}

/// Puts both back, or neither.
pub(crate) fn restore(
    objective: &mut Objective,
    [learnables, statistics]: [&[f64]; 2],
) -> Result<(), LossError> {
    let [before, _] = kept(objective);
    objective.set_learnables(learnables)?;
    objective.set_statistics(statistics).or_else(|error| {
        objective.set_learnables(&before)?;
        Err(error)
    })
}

/// The shapes of features and class weights, which must be N×d and C×d.
pub(crate) fn check_dimensions(features: [usize; 2], weights: [usize; 2]) -> Result<(), LossError> {
    match (features[1], weights[0], weights[1]) {
        (0, _, _) => Err(LossError::NoDimensions),
        (_, 0, _) => Err(LossError::NoClasses),
        (expected, _, found) if expected != found => Err(LossError::Dimension {
            argument: Argument::ClassWeights,
            expected,
            found,
        }),
        _ => Ok(()),
    }
}

/// The loss and all gradients, into `evaluation`.
pub(crate) fn evaluate<A: Float>(
    loss: &dyn MarginLoss<A>,
    features: ArrayView2<'_, A>,
    weights: ArrayView2<'_, A>,
    targets: &Targets<'_, A>,
    evaluation: &mut Evaluation<A>,
) -> Result<(), LossError> {
    loss.evaluate_into(features, weights, targets, evaluation)
}

/// Class weights on the host, and what updates them.
pub(crate) struct Streamed<'a, A> {
    pub(crate) weights: ArrayViewMut2<'a, A>,
    pub(crate) update: &'a mut dyn FnMut(ClassBlock<'_, A>),
}

/// The same, with the gradient of the class weights handed out.
pub(crate) fn evaluate_streamed<A: Float>(
    loss: &dyn MarginLoss<A>,
    features: ArrayView2<'_, A>,
    streamed: Streamed<'_, A>,
    targets: &Targets<'_, A>,
    evaluation: &mut Evaluation<A>,
) -> Result<(), LossError> {
    let Streamed { weights, update } = streamed;
    loss.evaluate_streamed(features, weights, targets, evaluation, update)
}

/// The loss, ∂X and ∂W, row by row.
pub(crate) fn results<A: Float>(evaluation: &Evaluation<A>) -> (A, &[A], &[A]) {
    let entries =
        |array| -> &[A] { margin_losses::ndarray::ArrayRef::as_slice(array).unwrap_or(&[]) };
    (
        evaluation.loss(),
        entries(&evaluation.grad_features),
        entries(&evaluation.grad_weights),
    )
}

/// Which rows are ignored, if any is.
pub(crate) fn ignored<A>(evaluation: &Evaluation<A>) -> Option<&[bool]> {
    let ignored = evaluation.forward.ignored.as_slice()?;
    (!ignored.is_empty()).then_some(ignored)
}

/// The same of a batch whose products ran elsewhere.
pub(crate) fn left_out(batch: &OffloadedBatch) -> Option<Vec<bool>> {
    let mut ignored = vec![true; batch.size()];
    for &row in batch.rows()? {
        ignored[row] = false;
    }
    Some(ignored)
}

/// What a batch whose products ran elsewhere comes to.
#[derive(Debug)]
pub(crate) struct Closed {
    pub(crate) loss: f64,
    pub(crate) accuracy: Option<f64>,
    pub(crate) shares: Vec<f64>,
    pub(crate) pulls: Vec<f64>,
}

/// Closes the rows, whose figures come one kind after the other: norms, ‖δ‖, ‖σ‖, ‖t‖, largest logits, sums.
pub(crate) fn close<A: Float>(
    offload: &Offload,
    batch: &OffloadedBatch,
    figures: &[f64],
) -> Result<Closed, LossError> {
    let rows = batch.labels().len();
    let figure =
        |kind: usize, row: usize| figures.get(kind * rows + row).copied().unwrap_or(f64::NAN);
    let rows: Vec<RowFigures> = (0..rows)
        .map(|row| RowFigures {
            feature_norm: figure(0, row),
            chord: figure(1, row),
            sum: figure(2, row),
            tangent: figure(3, row),
            largest: figure(4, row),
            total: figure(5, row),
        })
        .collect();
    let closed = offload.close::<A>(batch, &rows)?;
    Ok(Closed {
        accuracy: closed.accuracy(),
        loss: closed.loss,
        shares: closed.shares,
        pulls: closed.pulls,
    })
}

/// The first class weight that cannot be divided by.
pub(crate) fn check_weight_norms(norms: &[f64]) -> Result<(), LossError> {
    Offload::check_norms(Argument::ClassWeights, norms.iter().copied())
}
