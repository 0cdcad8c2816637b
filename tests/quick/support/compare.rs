//! Comparisons that a NaN cannot pass.

use margin_losses::{Evaluation, Float, Forward};

use super::widen;

/// The largest magnitude; NaN if there is one.
pub(crate) fn largest(values: &[f64]) -> f64 {
    let either_nan = |m: f64, v: f64| m.is_nan() || v.is_nan();
    values.iter().fold(0.0, |m, &v| {
        if either_nan(m, v) {
            f64::NAN
        } else {
            v.abs().max(m)
        }
    })
}

/// The largest difference of two entries; NaN if there is one.
pub(crate) fn max_difference(actual: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(actual.len(), expected.len(), "lengths differ");
    let differences: Vec<f64> = actual.iter().zip(expected).map(|(a, b)| a - b).collect();
    largest(&differences)
}

/// Whether all entries agree within `tolerance` times the largest expected one. Equal arrays agree, zeros too.
pub(crate) fn close_to_largest(actual: &[f64], expected: &[f64], tolerance: f64) -> bool {
    max_difference(actual, expected) <= tolerance * largest(expected)
}

/// Fails, with the numbers, unless [`close_to_largest`].
#[track_caller]
pub(crate) fn assert_close(what: &str, actual: &[f64], expected: &[f64], tolerance: f64) {
    assert!(
        close_to_largest(actual, expected, tolerance),
        "{what}: off by {:e} where the largest entry is {:e} and {tolerance:e} of it is allowed\n{actual:?}\n{expected:?}",
        max_difference(actual, expected),
        largest(expected),
    );
}

/// Fails, with the numbers, unless one number is close to another, relative to that.
#[track_caller]
pub(crate) fn assert_relative<A: Float>(what: &str, found: A, expected: f64, tolerance: f64) {
    let found = widen(found);
    let off = ((found - expected) / expected).abs();
    assert!(
        found == expected || off <= tolerance,
        "{what}: {found:e} instead of {expected:e}, off by {off:e}"
    );
}

/// Fails unless the numbers are those that were printed with ten digits, or with twelve places.
#[track_caller]
pub(crate) fn assert_printed(what: &str, found: &[f64], printed: &[f64]) {
    assert_eq!(found.len(), printed.len(), "{what}");
    for (&found, &printed) in found.iter().zip(printed) {
        let allowed = (1e-10 * printed.abs()).max(0.5e-12);
        assert!(
            (found - printed).abs() <= allowed,
            "{what}: {found} instead of {printed}"
        );
    }
}

/// The bits of the exact `f64` value of each entry: −0 and 0 differ.
pub(crate) fn bits<'a, A: Float>(values: impl IntoIterator<Item = &'a A>) -> Vec<u64> {
    values
        .into_iter()
        .map(|&value| widen(value).to_bits())
        .collect()
}

/// The bits of everything that an evaluation shows.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Snapshot {
    arrays: Vec<Vec<u64>>,
    shapes: Vec<(usize, usize)>,
    correct: Vec<bool>,
}

impl Snapshot {
    /// Whether every number is.
    pub(crate) fn is_finite(&self) -> bool {
        let mut all = self.arrays.iter().flatten();
        all.all(|&bits| f64::from_bits(bits).is_finite())
    }

    pub(crate) fn of<A: Float>(evaluation: &Evaluation<A>) -> Self {
        let matrices = [
            &evaluation.grad_features,
            &evaluation.grad_weights,
            &evaluation.grad_centers,
        ];
        let mut snapshot = Self::of_forward(&evaluation.forward);
        snapshot.arrays.push(bits(&evaluation.grad_learnables));
        snapshot.arrays.extend(matrices.map(bits));
        snapshot.shapes.extend(matrices.map(ndarray::Array2::dim));
        snapshot
    }

    pub(crate) fn of_forward<A: Float>(forward: &Forward<A>) -> Self {
        Self {
            arrays: vec![
                bits([&forward.loss]),
                bits(&forward.row_losses),
                bits(&forward.target_logits),
                bits(&forward.target_cosines),
                bits(&forward.statistics),
            ],
            shapes: Vec::new(),
            correct: forward.correct.to_vec(),
        }
    }
}
