//! What every loss asks of its arguments.

use ndarray::ArrayView2;

use crate::error::{Argument, Error};
use crate::float::Float;
use crate::loss::{Reduction, Targets};

/// Shapes, labels and row weights; `classes` is the class weights or the centers, as `argument` says.
pub(crate) fn batch<A: Float>(
    features: ArrayView2<'_, A>,
    classes: ArrayView2<'_, A>,
    argument: Argument,
    targets: &Targets<'_, A>,
) -> Result<(), Error> {
    labels(features, classes, argument, targets.labels())?;
    let rows = features.nrows();
    if rows == 0 && targets.reduction() == Reduction::Mean {
        return Err(Error::EmptyBatch);
    }
    let Some(row_weights) = targets.row_weights() else {
        return Ok(());
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
    Ok(())
}

/// Shapes and labels.
pub(crate) fn labels<A>(
    features: ArrayView2<'_, A>,
    classes: ArrayView2<'_, A>,
    argument: Argument,
    labels: &[usize],
) -> Result<(), Error> {
    let (rows, dim) = features.dim();
    if dim == 0 {
        return Err(Error::NoDimensions);
    }
    if classes.nrows() == 0 {
        return Err(Error::NoClasses);
    }
    if classes.ncols() != dim {
        return Err(Error::Dimension {
            argument,
            expected: dim,
            found: classes.ncols(),
        });
    }
    if labels.len() != rows {
        return Err(Error::RowCount {
            argument: Argument::Labels,
            expected: rows,
            found: labels.len(),
        });
    }
    let classes = classes.nrows();
    match labels.iter().position(|&label| label >= classes) {
        None => Ok(()),
        Some(row) => Err(Error::LabelOutOfRange {
            row,
            label: labels[row],
            classes,
        }),
    }
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
            .map(|weight| weight.widen() * share)
            .collect(),
    }
}

/// `Σ coefficientᵢ ℓᵢ`, and the rows' losses in the element type.
pub(crate) fn reduce<A: Float>(
    coefficients: &[f64],
    losses: impl Iterator<Item = f64>,
) -> Result<(A, Vec<A>), Error> {
    let overflow = |row| Error::Overflow {
        quantity: "loss",
        argument: Argument::Features,
        row,
    };
    let mut sum = 0.0;
    let mut row_losses = Vec::with_capacity(coefficients.len());
    for (row, (loss, &coefficient)) in losses.zip(coefficients).enumerate() {
        let narrow = A::narrow(loss);
        sum += coefficient * loss;
        if !(narrow.is_finite() && A::narrow(sum).is_finite()) {
            return Err(overflow(row));
        }
        row_losses.push(narrow);
    }
    Ok((A::narrow(sum), row_losses))
}
