//! Rows that are ignored: the others make a batch of their own, whose results are spread over the whole batch.

use ndarray::{Array1, Array2, ArrayView2, Axis};
use num_traits::Float;

use crate::check;
use crate::error::{Argument, Error};
use crate::evaluation::Evaluation;
use crate::request::Request;
use crate::targets::Labels;

/// The rows of a batch that count, in its order.
#[derive(Debug)]
pub(crate) struct Counted {
    rows: Vec<usize>,
    /// How many rows the batch has.
    batch: usize,
}

/// Has a request answered by `run`, which sees nothing of the rows that are ignored.
pub(crate) fn answer<A: Float + Default>(
    mut request: Request<'_, A>,
    run: &mut dyn FnMut(Request<'_, A>) -> Result<(), Error>,
) -> Result<(), Error> {
    let labels = request.targets.labels();
    let Some(counted) = Counted::of(labels, request.features.nrows())? else {
        return run(request);
    };
    let features = counted.features(request.features.view());
    let row_weights = match request.targets.row_weights() {
        Some(row_weights) => Some(counted.row_weights(row_weights)?),
        None => None,
    };
    let rows = counted.rows_of(labels);
    let targets = request
        .targets
        .of_rows(labels.of_rows(&rows), row_weights.as_deref());
    let mut part = request.reborrow();
    part.features = features.view();
    part.targets = targets;
    run(part).map_err(|error| counted.in_batch(error))?;
    let wants_gradients = request.wants_gradients();
    counted.spread_evaluation(request.evaluation, wants_gradients);
    Ok(())
}

impl Counted {
    /// None if no row is ignored.
    pub(crate) fn of(labels: Labels<'_>, batch: usize) -> Result<Option<Self>, Error> {
        if !labels.may_ignore() {
            return Ok(None);
        }
        check::row_count(Argument::Labels, batch, labels.len())?;
        if let Some(ignored) = labels.ignored_rows() {
            check::row_count(Argument::IgnoredRows, batch, ignored.len())?;
        }
        let rows: Vec<usize> = (0..batch).filter(|&row| !labels.is_ignored(row)).collect();
        Ok((rows.len() < batch).then_some(Self { rows, batch }))
    }

    /// Their features.
    pub(crate) fn features<A: Copy>(&self, features: ArrayView2<'_, A>) -> Array2<A> {
        features.select(Axis(0), &self.rows)
    }

    /// Which rows of the batch of `labels` they are: these may be the labels of a part already.
    pub(crate) fn rows_of(&self, labels: Labels<'_>) -> Vec<usize> {
        match labels.rows() {
            None => self.rows.clone(),
            Some(rows) => self.rows.iter().map(|&row| rows[row]).collect(),
        }
    }

    pub(crate) fn row_weights<A: Copy>(&self, row_weights: &[A]) -> Result<Vec<A>, Error> {
        check::row_count(Argument::RowWeights, self.batch, row_weights.len())?;
        Ok(self.rows.iter().map(|&row| row_weights[row]).collect())
    }

    /// The error, its row counted in the batch.
    pub(crate) fn in_batch(&self, mut error: Error) -> Error {
        if let Some(row) = error.batch_row()
            && let Some(&counted) = self.rows.get(*row)
        {
            *row = counted;
        }
        error
    }

    /// Makes the results of these rows those of the batch.
    fn spread_evaluation<A: Float + Default>(
        &self,
        evaluation: &mut Evaluation<A>,
        with_gradients: bool,
    ) {
        let forward = &mut evaluation.forward;
        for figures in [
            &mut forward.row_losses,
            &mut forward.target_logits,
            &mut forward.target_cosines,
        ] {
            *figures = self.spread(figures, A::zero());
        }
        forward.correct = self.spread(&forward.correct, false);
        if !forward.sub_centers.is_empty() {
            forward.sub_centers = self.spread(&forward.sub_centers, 0);
        }
        let counts = Array1::from_elem(self.rows.len(), false);
        forward.ignored = self.spread(&counts, true);
        if with_gradients {
            let part = &evaluation.grad_features;
            let mut whole = Array2::zeros((self.batch, part.ncols()));
            for (&row, gradient) in self.rows.iter().zip(part.outer_iter()) {
                whole.row_mut(row).assign(&gradient);
            }
            evaluation.grad_features = whole;
        }
    }

    /// One entry for each row of the batch; nothing, where a loss gives nothing.
    fn spread<T: Copy>(&self, entries: &Array1<T>, ignored: T) -> Array1<T> {
        if entries.len() != self.rows.len() {
            return entries.clone();
        }
        let mut whole = Array1::from_elem(self.batch, ignored);
        for (&row, &entry) in self.rows.iter().zip(entries) {
            whole[row] = entry;
        }
        whole
    }
}
