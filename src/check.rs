//! What every loss asks of its arguments.

use ndarray::ArrayView2;
use num_traits::Float;

use crate::error::{Argument, Error};
use crate::targets::{Labels, Reduction, Targets};

/// Shapes, labels and row weights; the labels as classes. `rows` is the class weights or the centers, as `argument` says,
/// `group` of them for each class.
pub(crate) fn batch<A: Float>(
    features: ArrayView2<'_, A>,
    rows: ArrayView2<'_, A>,
    argument: Argument,
    group: usize,
    targets: &Targets<'_, A>,
) -> Result<Vec<usize>, Error> {
    let labels = labels(features, rows, argument, group, targets.labels())?;
    let rows = features.nrows();
    if rows == 0 && targets.reduction() == Reduction::Mean {
        return Err(Error::EmptyBatch);
    }
    let Some(row_weights) = targets.row_weights() else {
        return Ok(labels);
    };
    if row_weights.len() != rows {
        return Err(Error::RowCount {
            argument: Argument::RowWeights,
            expected: rows,
            found: row_weights.len(),
        });
    }
    for (row, &weight) in row_weights.iter().enumerate() {
        if !weight.is_finite() {
            return Err(Error::NonFinite {
                argument: Argument::RowWeights,
                row,
            });
        }
        if weight < A::zero() && targets.reduction() != Reduction::None {
            return Err(Error::NegativeWeight { row });
        }
    }
    Ok(labels)
}

/// Shapes and labels; the labels as classes.
pub(crate) fn labels<A>(
    features: ArrayView2<'_, A>,
    rows: ArrayView2<'_, A>,
    argument: Argument,
    group: usize,
    labels: Labels<'_>,
) -> Result<Vec<usize>, Error> {
    let (batch, dim) = features.dim();
    if dim == 0 {
        return Err(Error::NoDimensions);
    }
    if rows.nrows() == 0 {
        return Err(Error::NoClasses);
    }
    if rows.ncols() != dim {
        return Err(Error::Dimension {
            argument,
            expected: dim,
            found: rows.ncols(),
        });
    }
    if !rows.nrows().is_multiple_of(group) {
        return Err(Error::SubCenters {
            rows: rows.nrows(),
            group,
        });
    }
    if labels.len() != batch {
        return Err(Error::RowCount {
            argument: Argument::Labels,
            expected: batch,
            found: labels.len(),
        });
    }
    let classes = rows.nrows() / group;
    let class = |(row, label): (usize, i128)| match usize::try_from(label) {
        Ok(class) if class < classes => Ok(class),
        _ => Err(Error::LabelOutOfRange {
            row,
            label,
            classes,
        }),
    };
    labels.iter().enumerate().map(class).collect()
}

/// How much each row counts in the reduced loss: rᵢ/N under the mean, else rᵢ.
pub(crate) fn coefficients<A: Float>(targets: &Targets<'_, A>) -> Vec<f64> {
    let rows = targets.labels().len();
    let share = match targets.reduction() {
        Reduction::Mean => 1.0 / rows as f64,
        Reduction::Sum | Reduction::None => 1.0,
    };
    match targets.row_weights() {
        None => vec![share; rows],
        Some(weights) => weights
            .iter()
            .map(|weight| weight.to_f64().unwrap_or(f64::NAN) * share)
            .collect(),
    }
}

/// `Σ coefficientᵢ ℓᵢ`, and the rows' losses in the element type.
pub(crate) fn reduce<A: Float>(
    coefficients: &[f64],
    losses: impl Iterator<Item = f64>,
) -> Result<(A, Vec<A>), Error> {
    let narrow = |value: f64| A::from(value).unwrap_or_else(A::nan);
    let losses: Vec<f64> = losses.collect();
    let row_losses: Vec<A> = losses.iter().map(|&loss| narrow(loss)).collect();
    if let Some(row) = row_losses.iter().position(|loss| !loss.is_finite()) {
        return Err(Error::overflow("loss", Argument::Features, row));
    }
    let sum_of = |unit: f64| -> f64 {
        let terms = coefficients.iter().zip(&losses);
        let terms = terms.map(|(coefficient, loss)| coefficient * unit * loss);
        // From 0, for the sum of nothing is −0 otherwise.
        terms.fold(0.0, |sum, term| sum + term)
    };
    let mut sum = sum_of(1.0);
    if !sum.is_finite() {
        // Terms of either sign may leave the range of `f64` before they cancel.
        const UNIT: f64 = 18_446_744_073_709_551_616.0; // 2^64
        sum = sum_of(1.0 / UNIT) * UNIT;
    }
    match narrow(sum) {
        loss if loss.is_finite() => Ok((loss, row_losses)),
        _ => Err(Error::BatchOverflow { quantity: "loss" }),
    }
}

/// The first row with an entry that is not finite.
pub(crate) fn first_not_finite<A: Float>(rows: ArrayView2<'_, A>) -> Option<usize> {
    let mut rows = rows.outer_iter();
    rows.position(|row| row.iter().any(|entry| !entry.is_finite()))
}
