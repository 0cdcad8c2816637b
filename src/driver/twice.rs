//! Rows with two targets, once for each: where one pass cannot serve both. Classes that do not compete have another term for a
//! target than for the rest, negatives that a margin changes depend on the target, and so do those that are the nearest. It costs
//! two evaluations.

use ndarray::{Axis, Slice};

use crate::check::NO_CLASS;
use crate::error::Error;
use crate::evaluation::Evaluation;
use crate::margin::{Margin, OfRows};
use crate::numerics::Element;
use crate::request::Wanted;

use super::peers::Peers;
use super::plan::Plan;
use super::{Head, Problem};

/// The loss, and the gradients that are wanted.
pub(super) fn evaluate<A: Element>(
    problem: Problem<'_, A>,
    wanted: Wanted<'_, A>,
    evaluation: &mut Evaluation<A>,
) -> Result<(), Error> {
    let (plan, head) = (&problem.plan, problem.head);
    let (firsts, seconds) = problem.labels.split_at(plan.rows);
    // The rows as they are, then once more those that have a second target.
    let rows = 0..plan.rows;
    let mixed = rows.clone().filter(|&row| seconds[row] != NO_CLASS);
    let rows: Vec<usize> = rows.chain(mixed).collect();
    let again = &rows[plan.rows..];
    let features = problem.features.select(Axis(0), &rows);
    let coefficient = |row: usize, share: f64| problem.coefficients[row] * share;
    let first = (0..plan.rows).map(|row| coefficient(row, problem.shares[row]));
    let second = again
        .iter()
        .map(|&row| coefficient(row, 1.0 - problem.shares[row]));
    let of_rows = head.margin.map(|margin| OfRows {
        margin,
        rows: &rows,
    });
    let limit = evaluation.scratch.limit();
    let mut whole = Plan::new(features.dim(), plan.columns, plan.group, plan.aim);
    whole.nearest = plan.nearest;
    let parted = Problem {
        head: &Head {
            margin: of_rows.as_ref().map(|margin| margin as &dyn Margin),
            ..*head
        },
        plan: whole.within::<A>(limit)?,
        share: problem.share.clone(),
        own_rows: 0..rows.len(),
        features: features.view(),
        labels: firsts
            .iter()
            .copied()
            .chain(again.iter().map(|&row| seconds[row]))
            .collect(),
        shares: Vec::new(),
        coefficients: first.chain(second).collect(),
    };
    super::evaluate(parted, wanted, evaluation, &Peers::NONE).map_err(|mut error| {
        if let Some(row) = error.batch_row() {
            *row = rows[*row];
        }
        error
    })?;
    join(evaluation, &problem.shares, again);
    Ok(())
}

/// Adds the results of the rows that have been evaluated `again` to those of the first time.
fn join<A: Element>(evaluation: &mut Evaluation<A>, shares: &[f64], again: &[usize]) {
    let (rows, forward) = (shares.len(), &mut evaluation.forward);
    let firsts = Slice::from(..rows);
    for (k, &row) in again.iter().enumerate() {
        let (first, second) = (forward.row_losses[row], forward.row_losses[rows + k]);
        let share = shares[row];
        forward.row_losses[row] = A::narrow(share * first.widen() + (1.0 - share) * second.widen());
    }
    for figures in [
        &mut forward.row_losses,
        &mut forward.target_logits,
        &mut forward.target_cosines,
    ] {
        figures.slice_axis_inplace(Axis(0), firsts);
    }
    forward.correct.slice_axis_inplace(Axis(0), firsts);
    if !forward.sub_centers.is_empty() {
        forward.sub_centers.slice_axis_inplace(Axis(0), firsts);
    }
    let gradient = &mut evaluation.grad_features;
    if gradient.nrows() > 0 {
        let (mut first, second) = gradient.view_mut().split_at(Axis(0), rows);
        for (&row, second) in again.iter().zip(second.outer_iter()) {
            let mut first = first.row_mut(row);
            first += &second;
        }
        *gradient = first.to_owned();
    }
}
