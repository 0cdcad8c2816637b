//! What every loss asks of its arguments.

use ndarray::ArrayView2;
use num_traits::Float;

use crate::error::{Argument, Error, parameter};
use crate::targets::{Labels, Reduction, Targets};

/// No class: in the place of the second label of a row that has but one target.
pub(crate) const NO_CLASS: usize = usize::MAX;

/// Refuses second targets.
pub(crate) fn one_target<A>(targets: &Targets<'_, A>) -> Result<(), Error> {
    match targets.second_labels() {
        None => Ok(()),
        Some(_) => Err(Error::NotComposable {
            what: "a second target",
            with: "a loss that has one for each row",
        }),
    }
}

/// Shapes, labels and weights, where rows may have a second target: the labels as classes, and, if a row has a second target,
/// the second ones of all rows after the first ones, and how much each row's loss for its first label counts beside the other.
pub(crate) fn two_targets<A: Float>(
    features: ArrayView2<'_, A>,
    rows: (usize, usize),
    argument: Argument,
    group: usize,
    targets: &Targets<'_, A>,
) -> Result<(Vec<usize>, Vec<f64>), Error> {
    let mut labels = labels(features, rows, argument, group, targets.labels())?;
    let (rows, classes) = (labels.len(), rows.0 / group);
    second(targets, classes)?;
    weights_of(targets, rows, classes)?;
    if (0..rows).all(|row| targets.second_of(row).is_none()) {
        return Ok((labels, Vec::new()));
    }
    let mut shares = Vec::with_capacity(rows);
    for row in 0..rows {
        let (class, share) = match targets.second_of(row) {
            None => (NO_CLASS, 1.0),
            Some((label, share)) => {
                let [first, second] = label_weights(targets, row);
                let sum = first + second;
                match if sum > 0.0 { first / sum } else { share } {
                    1.0 => (NO_CLASS, 1.0),
                    share => (class(row, label, classes)?, share),
                }
            }
        };
        labels.push(class);
        shares.push(share);
    }
    Ok((labels, shares))
}

/// The second labels, if there are any: that there is one for each row, with a share in [0, 1], and that each is a class.
fn second<A: Float>(targets: &Targets<'_, A>, classes: usize) -> Result<(), Error> {
    let Some(second) = targets.second_labels() else {
        return Ok(());
    };
    let (argument, batch) = (Argument::Shares, targets.labels().batch());
    row_count(Argument::SecondLabels, batch, second.batch())?;
    row_count(argument, batch, targets.shares().map_or(batch, <[A]>::len))?;
    for (row, label) in second.iter().enumerate() {
        let share = targets.share(row).unwrap_or(f64::NAN);
        let holds = (0.0..=1.0).contains(&share);
        parameter("lambda", share, holds, "lie in [0, 1]")
            .map_err(|error| error.of_entry(argument, row))?;
        class(row, label, classes)?;
    }
    Ok(())
}

/// Shapes, labels and weights; the labels as classes. `rows` is the shape of the class weights or of the centers, as `argument`
/// says, `group` of them for each class.
pub(crate) fn batch<A: Float>(
    features: ArrayView2<'_, A>,
    rows: (usize, usize),
    argument: Argument,
    group: usize,
    targets: &Targets<'_, A>,
) -> Result<Vec<usize>, Error> {
    one_target(targets)?;
    let labels = labels(features, rows, argument, group, targets.labels())?;
    weights_of(targets, labels.len(), rows.0 / group)?;
    Ok(labels)
}

/// The weights of the rows and of the labels.
fn weights_of<A: Float>(
    targets: &Targets<'_, A>,
    rows: usize,
    classes: usize,
) -> Result<(), Error> {
    let divisor = match targets.reduction() {
        Reduction::Mean | Reduction::WeightedMean => Some(rows),
        Reduction::BatchMean => Some(targets.labels().batch()),
        Reduction::Sum | Reduction::None => None,
    };
    if divisor == Some(0) {
        return Err(Error::EmptyBatch);
    }
    if let Some(row_weights) = targets.row_weights() {
        let either_sign = targets.reduction() == Reduction::None;
        weights(row_weights, Argument::RowWeights, rows, either_sign)?;
    }
    if let Some(label_weights) = targets.label_weights() {
        weights(label_weights, Argument::LabelWeights, classes, false)?;
    }
    products(targets)
}

/// That an argument has as many rows as it must have.
pub(crate) fn row_count(argument: Argument, expected: usize, found: usize) -> Result<(), Error> {
    if found == expected {
        Ok(())
    } else {
        Err(Error::RowCount {
            argument,
            expected,
            found,
        })
    }
}

/// That there are so many weights, all finite, and none negative unless that is allowed.
fn weights<A: Float>(
    weights: &[A],
    argument: Argument,
    expected: usize,
    either_sign: bool,
) -> Result<(), Error> {
    row_count(argument, expected, weights.len())?;
    for (row, &weight) in weights.iter().enumerate() {
        if !weight.is_finite() {
            return Err(Error::NonFinite { argument, row });
        }
        if weight < A::zero() && !either_sign {
            return Err(Error::NegativeWeight { argument, row });
        }
    }
    Ok(())
}

/// That a row's weight times its label's is a number of the element type, and that a mean has a sum of them to divide by.
fn products<A: Float>(targets: &Targets<'_, A>) -> Result<(), Error> {
    let (rows, weighted) = (targets.labels().len(), targets.label_weights().is_some());
    let by_sum = targets.reduction() == Reduction::WeightedMean;
    if !weighted && !by_sum {
        return Ok(());
    }
    let weights: Vec<f64> = (0..rows).map(|row| weight(targets, row)).collect();
    let overflows = |&weight: &f64| !narrow::<A>(weight).is_finite();
    if let Some(row) = weights.iter().position(overflows) {
        return Err(Error::overflow("weight", Argument::RowWeights, row));
    }
    if by_sum && weights.iter().all(|&weight| weight == 0.0) {
        return Err(Error::ZeroWeights);
    }
    Ok(())
}

/// Shapes and labels; the labels as classes.
pub(crate) fn labels<A>(
    features: ArrayView2<'_, A>,
    rows: (usize, usize),
    argument: Argument,
    group: usize,
    labels: Labels<'_>,
) -> Result<Vec<usize>, Error> {
    shapes(features, rows, argument, group)?;
    row_count(Argument::Labels, features.nrows(), labels.len())?;
    let classes = rows.0 / group;
    let class = |(row, label)| class(row, label, classes);
    labels.iter().enumerate().map(class).collect()
}

/// The class that a row's label names.
pub(crate) fn class(row: usize, label: i128, classes: usize) -> Result<usize, Error> {
    match usize::try_from(label) {
        Ok(class) if class < classes => Ok(class),
        _ => Err(Error::LabelOutOfRange {
            row,
            label,
            classes,
        }),
    }
}

/// Shapes alone.
pub(crate) fn shapes<A>(
    features: ArrayView2<'_, A>,
    (rows, columns): (usize, usize),
    argument: Argument,
    group: usize,
) -> Result<(), Error> {
    let dim = features.ncols();
    if dim == 0 {
        return Err(Error::NoDimensions);
    }
    if rows == 0 {
        return Err(Error::NoClasses);
    }
    if columns != dim {
        return Err(Error::Dimension {
            argument,
            expected: dim,
            found: columns,
        });
    }
    if !rows.is_multiple_of(group) {
        return Err(Error::SubCenters { rows, group });
    }
    Ok(())
}

/// An entry of a list of weights; no number if there is none.
fn entry<A: Float>(weights: &[A], index: Option<usize>) -> f64 {
    let weight = index.and_then(|index| weights.get(index)?.to_f64());
    weight.unwrap_or(f64::NAN)
}

/// The weight of a row times that of its label; of two labels, each with its share.
fn weight<A: Float>(targets: &Targets<'_, A>, row: usize) -> f64 {
    let [first, second] = label_weights(targets, row);
    let of_row = |weights| entry(weights, Some(row));
    targets.row_weights().map_or(1.0, of_row) * (first + second)
}

/// The weights of a row's two labels, each times its share; of one label, its weight and 0.
fn label_weights<A: Float>(targets: &Targets<'_, A>, row: usize) -> [f64; 2] {
    let weights = targets.label_weights();
    let of = |label| weights.map_or(1.0, |weights| entry(weights, usize::try_from(label).ok()));
    let first = of(targets.labels().get(row));
    match targets.second_of(row) {
        None => [first, 0.0],
        Some((label, share)) => [share * first, (1.0 - share) * of(label)],
    }
}

/// How much each row counts in the reduced loss: its weight, over the divisor of the mean.
pub(crate) fn coefficients<A: Float>(targets: &Targets<'_, A>) -> Vec<f64> {
    let labels = targets.labels();
    let mut weights: Vec<f64> = (0..labels.len()).map(|row| weight(targets, row)).collect();
    let divisor = match targets.reduction() {
        Reduction::Mean => labels.len() as f64,
        Reduction::BatchMean => labels.batch() as f64,
        Reduction::WeightedMean => {
            // Beside the largest, for their sum may leave the range of `f64`.
            let largest = weights.iter().copied().fold(0.0, f64::max);
            for weight in &mut weights {
                *weight /= largest;
            }
            weights.iter().sum()
        }
        Reduction::Sum | Reduction::None => 1.0,
    };
    let share = 1.0 / divisor;
    for weight in &mut weights {
        *weight *= share;
    }
    weights
}

/// `Σ coefficientᵢ ℓᵢ`, and the rows' losses in the element type.
pub(crate) fn reduce<A: Float>(
    coefficients: &[f64],
    losses: impl Iterator<Item = f64>,
) -> Result<(A, Vec<A>), Error> {
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
    match narrow::<A>(sum) {
        loss if loss.is_finite() => Ok((loss, row_losses)),
        _ => Err(Error::BatchOverflow { quantity: "loss" }),
    }
}

fn narrow<A: Float>(value: f64) -> A {
    A::from(value).unwrap_or_else(A::nan)
}

/// The first row with an entry that is not finite.
pub(crate) fn first_not_finite<A: Float>(rows: ArrayView2<'_, A>) -> Option<usize> {
    let mut rows = rows.outer_iter();
    rows.position(|row| row.iter().any(|entry| !entry.is_finite()))
}
