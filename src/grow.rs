//! More classes than yesterday: W with rows for classes that were not there when training began.
//!
//! A trained W (C×d) becomes one of C + n rows. The first C keep their bits, so that nothing changes for the classes that
//! there were, and class C is the first new one. The length of the new rows is the mean of the C lengths, so that a step of
//! the optimiser turns a new row about as far as another; a loss that does not normalise W sees comparable logits, too.
//!
//! | function | direction of a new row | when |
//! |---|---|---|
//! | [`with_class_means`] | the mean direction of features of its class | there are images of the new classes: embed them first |
//! | [`with_random_rows`] | random | there are none yet |
//!
//! `cargo run --release --example new_classes` trains a network on five digits, adds the other five in both ways, and prints
//! the first losses.
//!
//! What else you keep for each class, you grow: the optimiser's momentum by zeros; the bias of
//! [`SoftmaxLoss`](crate::SoftmaxLoss), which is one learnable for each class, by zeros; the thresholds of
//! [`UniFace`](crate::UniFace), if each class has one, by the mean of the others, and so the margins of [`AdaptiveFace`](crate::AdaptiveFace); the centers of
//! [`CenterLoss`](crate::CenterLoss) by zeros or by the means of the features, and
//! [`update_centers`](crate::CenterLoss::update_centers) moves them from there.
//!
//! # Sub-centers
//!
//! Both functions take W as one row for each class. With K [sub-centers](crate::Composed::with_sub_centers), class j has the rows
//! jK to jK + K − 1, and W is K matrices of one row for each class, of every K-th row each. They are grown one by one:
//!
//! ```
//! use margin_losses::grow;
//! use margin_losses::init;
//! use margin_losses::ndarray::{Array2, s};
//!
//! let (classes, added, k) = (5, 2, 3);
//! let trained: Array2<f32> = init::class_weights(classes * k, 16, 1)?;
//! let mut weights = Array2::zeros(((classes + added) * k, 16));
//! for which in 0..k {
//!     let one = trained.slice(s![which..; k, ..]);
//!     // The same seed would give the sub-centers of a new class the same direction.
//!     let grown = grow::with_random_rows(one, added, 7 + which as u64)?;
//!     weights.slice_mut(s![which..; k, ..]).assign(&grown);
//! }
//! assert_eq!(weights.slice(s![..classes * k, ..]), trained);
//! # Ok::<(), margin_losses::Error>(())
//! ```
//!
//! # Panics
//!
//! As every ndarray constructor: if (C + n)·d exceeds `isize::MAX`.

use ndarray::{Array1, Array2, ArrayView2, Axis};

use crate::check;
use crate::error::{Argument, Error};
use crate::float::{Float, sealed::TOKEN};
use crate::numerics::{Element, Norm, contiguous};
use crate::targets::Labels;

/// `weights` (C×d) and below them `added` rows of random direction, uniform on the sphere, (C + added)×d.
///
/// Each new row is as long as the rows of `weights` are in the mean. With the seed of
/// [`init::class_weights`](crate::init::class_weights) that began `weights`, the new directions are those that it gives to
/// more classes, and so no copies of the first ones.
///
/// # Errors
///
/// No classes, no dimensions; rows of `weights` that hold a NaN or an infinity, have no length, or one that is too small to
/// divide by or larger than the element type can hold.
///
/// # Examples
///
/// ```
/// use margin_losses::{grow, init};
/// use margin_losses::ndarray::{Array2, s};
///
/// let trained: Array2<f32> = init::normal(5, 16, 3.0, 1)?;
/// let weights = grow::with_random_rows(trained.view(), 2, 1)?;
/// assert_eq!(weights.dim(), (7, 16));
/// assert_eq!(weights.slice(s![..5, ..]), trained);
/// # Ok::<(), margin_losses::Error>(())
/// ```
#[cfg(feature = "rand")]
pub fn with_random_rows<A: Float>(
    weights: ArrayView2<'_, A>,
    added: usize,
    seed: u64,
) -> Result<Array2<A>, Error> {
    check::shapes(weights, weights, Argument::ClassWeights, 1)?;
    let (classes, dim) = weights.dim();
    let drawn = crate::init::class_weights(classes + added, dim, seed)?;
    A::with_rows_along(TOKEN, weights, drawn)
}

/// `weights` (C×d) and below them `added` rows, each in the mean direction of the `features` (N×d) of its class,
/// (C + added)×d.
///
/// ```text
/// w_j = l · m_j/‖m_j‖,   m_j = Σ_{yᵢ=j} xᵢ/‖xᵢ‖,   l = Σ_{k<C} ‖w_k‖/C
/// ```
/// ```math
/// w_j = l\, \frac{m_j}{\|m_j\|}, \qquad m_j = \sum_{i:\, y_i = j} \frac{x_i}{\|x_i\|}, \qquad l = \frac{1}{C} \sum_{k < C} \|w_k\|
/// ```
///
/// Labels are those of the classes in the larger matrix: the new ones are C to C + added − 1. Rows of classes that there
/// were, and rows that the labels [ignore](Labels::with_ignored_label), are not looked at, so that a batch of all classes may
/// be given. The features are what the trained network says of the new classes; the more of each, the better the mean.
///
/// # Errors
///
/// Shapes that disagree, labels out of range, [`Error::NoFeatures`] for a class that no row belongs to; rows of features or
/// of `weights` that hold a NaN or an infinity, have no length, or one that is too small to divide by or larger than the
/// element type can hold; [`Error::ZeroNorm`] of row j of the class weights if the directions of class j cancel out.
///
/// # Examples
///
/// ```
/// use margin_losses::grow::with_class_means;
/// use margin_losses::ndarray::array;
///
/// let trained = array![[2.0, 0.0], [0.0, 4.0]];
/// let features = array![[-5.0, 0.0], [0.0, -0.1], [1.0, 1.0]];
/// let weights = with_class_means(trained.view(), features.view(), &[2, 2, 0], 1)?;
/// let half = 3.0 * 0.5_f64.sqrt();   // halfway between the two directions, of length 3
/// assert!((&weights - &array![[2.0, 0.0], [0.0, 4.0], [-half, -half]]).iter().all(|off| off.abs() < 1e-15));
/// # Ok::<(), margin_losses::Error>(())
/// ```
///
/// # References
///
/// Qi, Brown and Lowe, *Low-Shot Learning with Imprinted Weights*, [arXiv:1712.07136](https://arxiv.org/abs/1712.07136),
/// section 3.2, where all rows have length 1.
pub fn with_class_means<'l, A: Float>(
    weights: ArrayView2<'_, A>,
    features: ArrayView2<'_, A>,
    labels: impl Into<Labels<'l>>,
    added: usize,
) -> Result<Array2<A>, Error> {
    A::with_class_means(TOKEN, weights, features, labels.into(), added)
}

/// `weights`, and below them the last rows of `directions`, which has a row of any length for each class.
pub(crate) fn rows_along<A: Element>(
    weights: ArrayView2<'_, A>,
    mut directions: Array2<A>,
) -> Result<Array2<A>, Error> {
    let length = mean_length(weights)?;
    let classes = weights.nrows();
    for (row, mut direction) in directions.outer_iter_mut().enumerate().skip(classes) {
        let wide: Vec<f64> = direction.iter().map(|entry| entry.widen()).collect();
        direction.assign(&of_length(&wide, length, row)?);
    }
    let (mut first, _) = directions.view_mut().split_at(Axis(0), classes);
    first.assign(&weights);
    Ok(directions)
}

/// [`with_class_means`], compiled for either element type in this crate.
pub(crate) fn class_means<A: Element>(
    weights: ArrayView2<'_, A>,
    features: ArrayView2<'_, A>,
    labels: Labels<'_>,
    added: usize,
) -> Result<Array2<A>, Error> {
    check::shapes(features, weights, Argument::ClassWeights, 1)?;
    let length = mean_length(weights)?;
    let (old, dim) = weights.dim();
    let mut grown = Array2::from_elem((old + added, dim), A::zero());
    if let Some(ignored) = labels.ignored_rows() {
        check::row_count(Argument::IgnoredRows, features.nrows(), ignored.len())?;
    }
    check::row_count(Argument::Labels, features.nrows(), labels.len())?;

    let mut sums = vec![vec![0.0; dim]; added];
    let mut counts = vec![0_usize; added];
    let mut buffer = Vec::new();
    let mut scaled = Vec::new();
    for (row, feature) in features.axis_iter(Axis(0)).enumerate() {
        if labels.is_ignored(row) {
            continue;
        }
        let class = check::class(row, labels.get(row), old + added)?;
        let Some(new) = class.checked_sub(old) else {
            continue;
        };
        let feature = contiguous(feature, &mut buffer);
        let norm = Norm::of(feature);
        norm.check::<A>(true, Argument::Features, row)?;
        norm.scale_down(feature, &mut scaled);
        let shrink = 1.0 / norm.normalised();
        for (sum, entry) in sums[new].iter_mut().zip(&scaled) {
            *sum += entry * shrink;
        }
        counts[new] += 1;
    }
    if let Some(new) = counts.iter().position(|&count| count == 0) {
        return Err(Error::NoFeatures { class: old + new });
    }
    for (new, sum) in sums.iter().enumerate() {
        let row = of_length(sum, length, old + new)?;
        grown.row_mut(old + new).assign(&row);
    }
    let (mut first, _) = grown.view_mut().split_at(Axis(0), old);
    first.assign(&weights);
    Ok(grown)
}

/// The mean length of the rows.
fn mean_length<A: Element>(weights: ArrayView2<'_, A>) -> Result<f64, Error> {
    let rows = weights.nrows() as f64;
    let mut buffer = Vec::new();
    let mut mean = 0.0;
    for (row, weight) in weights.axis_iter(Axis(0)).enumerate() {
        let norm = Norm::of(contiguous(weight, &mut buffer));
        norm.check::<A>(true, Argument::ClassWeights, row)?;
        // Divided first, for the sum may leave the range of `f64`.
        mean += norm.value() / rows;
    }
    Ok(mean)
}

/// A row of this direction and length.
fn of_length<A: Element>(direction: &[f64], length: f64, row: usize) -> Result<Array1<A>, Error> {
    let argument = Argument::ClassWeights;
    let norm = Norm::of(direction);
    norm.check::<f64>(true, argument, row)?;
    let unit = direction.iter().map(|entry| entry / norm.value());
    let scaled: Array1<A> = unit.map(|entry| A::narrow(entry * length)).collect();
    if scaled.iter().all(|entry| entry.is_finite()) {
        Ok(scaled)
    } else {
        Err(Error::overflow("norm", argument, row))
    }
}
