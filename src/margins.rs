//! Margins by class and by row, for a [`VaryingMargin`](crate::VaryingMargin), and the class weights that go with them.
//!
//! From the number of samples of each class, which is at least 1:
//!
//! | function | margin of a class with n samples | for |
//! |---|---|---|
//! | [`dynamic`] | a n^(−λ) + b | ArcFace over a long tail |
//! | [`dynamic_scaled`] | n^(−λ), scaled to [smallest, largest] | the same, as its authors' code has it |
//! | [`ldam`] | largest (n_min/n)^(¼) | CosFace and AM-Softmax: LDAM |
//! | [`drw_weights`] | no margin, but a weight ∝ 1/(1 − βⁿ) | the last epochs of LDAM |
//!
//! From nothing but a seed, with the feature `rand`: `adaptive`, one for each class, that AdaptiveFace begins with; and `elastic`,
//! one for each row. [`deal`] gives the rows of a batch such margins in the order of their cosines.
//!
//! # Examples
//!
//! LDAM, and its weights once the learning rate has been lowered:
//!
//! ```
//! use margin_losses::{CosFace, MarginLoss, Targets, margins};
//! use margin_losses::ndarray::array;
//!
//! let counts = [500, 20, 4];
//! let loss = CosFace::new(30.0, 0.0)?.with_class_margins(margins::ldam(&counts, 0.5)?)?;
//! let weights_of_classes = margins::drw_weights(&counts, 0.9999)?;
//! let (x, w) = (array![[1.0, 0.2], [0.3, 1.0]], array![[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]);
//! let labels = [0, 2];
//! let targets = Targets::new(&labels).with_label_weights(&weights_of_classes);
//! assert!(loss.evaluate(x.view(), w.view(), &targets)?.loss() > 0.0);
//! # Ok::<(), margin_losses::Error>(())
//! ```

use ndarray::ArrayView1;
#[cfg(feature = "rand")]
use rand::RngExt;
#[cfg(feature = "rand")]
use rand_distr::StandardNormal;

use crate::check;
use crate::error::{Argument, Error, parameter};
use crate::float::Float;
#[cfg(feature = "rand")]
use crate::init;

/// Dynamic margins: `a n^(−λ) + b` for a class with n samples.
///
/// ```math
/// m_j = a\, n_j^{-\lambda} + b
/// ```
///
/// A class with one sample has the margin a + b, and a class with very many has b. a = 0.5, b = 0.05 and λ = ¼ are usual. Of the
/// units of the loss, so radians for [`ArcFace`](crate::ArcFace).
///
/// `counts` has one entry for each class.
///
/// # Errors
///
/// [`Error::NoClasses`] without classes, [`Error::EntryOutOfRange`] for a class without samples, and [`Error::Parameter`] if a
/// parameter is negative or not finite.
///
/// # Examples
///
/// ```
/// let margins = margin_losses::margins::dynamic(&[1000, 100, 10, 5, 1], 0.5, 0.05, 0.25)?;
/// for (margin, printed) in margins.iter().zip([0.1389, 0.2081, 0.3312, 0.3844, 0.55]) {
///     assert!((margin - printed).abs() < 5e-5);
/// }
/// # Ok::<(), margin_losses::Error>(())
/// ```
///
/// # References
///
/// Ha et al., *Google Landmark Recognition 2020 Competition Third Place Solution*
/// ([arXiv:2010.05350](https://arxiv.org/abs/2010.05350)). The code of its authors has [`dynamic_scaled`].
pub fn dynamic(counts: &[usize], a: f64, b: f64, lambda: f64) -> Result<Vec<f64>, Error> {
    let (a, b) = (non_negative("a", a)?, non_negative("b", b)?);
    let powers = powers(counts, lambda)?;
    Ok(powers.into_iter().map(|power| a * power + b).collect())
}

/// Dynamic margins as their authors' code has them: `n^(−λ)`, scaled so that the most frequent class has the smallest margin and
/// the rarest the largest.
///
/// ```math
/// m_j = m_{\min} + (m_{\max} - m_{\min})\, \frac{n_j^{-\lambda} - \min_k n_k^{-\lambda}}{\max_k n_k^{-\lambda} - \min_k n_k^{-\lambda}}
/// ```
///
/// The margins of one class depend on the counts of all. If all counts are equal, every margin is the largest. 0.05, 0.5 and
/// λ = ¼ are usual.
///
/// `counts` has one entry for each class.
///
/// # Errors
///
/// [`Error::NoClasses`] without classes, [`Error::EntryOutOfRange`] for a class without samples, and [`Error::Parameter`] if a
/// parameter is negative or not finite, or `largest` is below `smallest`.
///
/// # Examples
///
/// ```
/// let margins = margin_losses::margins::dynamic_scaled(&[1000, 100, 10, 5, 1], 0.05, 0.5, 0.25)?;
/// for (margin, printed) in margins.iter().zip([0.05, 0.1258, 0.2605, 0.3187, 0.5]) {
///     assert!((margin - printed).abs() < 5e-5);
/// }
/// assert_eq!(margin_losses::margins::dynamic_scaled(&[7, 7], 0.05, 0.5, 0.25)?, [0.5, 0.5]);
/// # Ok::<(), margin_losses::Error>(())
/// ```
///
/// # References
///
/// As for [`dynamic`].
pub fn dynamic_scaled(
    counts: &[usize],
    smallest: f64,
    largest: f64,
    lambda: f64,
) -> Result<Vec<f64>, Error> {
    let smallest = non_negative("smallest", smallest)?;
    let holds = largest >= smallest && largest.is_finite();
    let rule = "be finite, and not below the smallest margin";
    let largest = parameter("largest", largest, holds, rule)?;
    let powers = powers(counts, lambda)?;
    let low = powers.iter().copied().fold(f64::INFINITY, f64::min);
    let high = powers.iter().copied().fold(0.0, f64::max);
    let scaled = |power: f64| {
        // Equal counts would be 0/0.
        let share = if high > low {
            (power - low) / (high - low)
        } else {
            1.0
        };
        (1.0 - share) * smallest + share * largest
    };
    Ok(powers.into_iter().map(scaled).collect())
}

/// LDAM's margins: `largest (n_min/n)^(¼)` for a class with n samples, n_min those of the rarest class.
///
/// ```math
/// \Delta_j = \Delta_{\max} \left( \frac{\min_k n_k}{n_j} \right)^{1/4}
/// ```
///
/// They are subtracted from the cosine, by [`CosFace`](crate::CosFace) or [`AmSoftmax`](crate::AmSoftmax); the authors train with
/// a largest margin of 0.5 and s = 30, and with [`drw_weights`] in the last epochs. If all counts are equal, every margin is
/// the largest.
///
/// `counts` has one entry for each class.
///
/// # Errors
///
/// [`Error::NoClasses`] without classes, [`Error::EntryOutOfRange`] for a class without samples, and [`Error::Parameter`] if
/// `largest` is negative or not finite.
///
/// # Examples
///
/// ```
/// assert_eq!(margin_losses::margins::ldam(&[1600, 100], 0.5)?, [0.25, 0.5]);
/// # Ok::<(), margin_losses::Error>(())
/// ```
///
/// # References
///
/// Cao et al., *Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss*
/// ([arXiv:1906.07413](https://arxiv.org/abs/1906.07413)).
pub fn ldam(counts: &[usize], largest: f64) -> Result<Vec<f64>, Error> {
    let largest = non_negative("largest", largest)?;
    let counts = checked(counts)?;
    let rarest = counts.iter().copied().fold(f64::INFINITY, f64::min);
    let fourth_root = |n: f64| (rarest / n).sqrt().sqrt();
    Ok(counts.iter().map(|&n| largest * fourth_root(n)).collect())
}

/// The class weights of deferred re-weighting (DRW): `(1 − β)/(1 − βⁿ)` for a class with n samples, over their mean.
///
/// ```math
/// w_j = \frac{v_j}{\frac{1}{C} \sum_k v_k}, \qquad v_j = \frac{1 - \beta}{1 - \beta^{n_j}}
/// ```
///
/// Give them to [`Targets::with_label_weights`](crate::Targets::with_label_weights) once the learning rate has been lowered.
/// β = 0 weighs all classes alike, and β → 1 weighs by 1/n. The authors of LDAM have 0.9999. Torch's cross-entropy divides by the
/// sum of the weights of the rows: [`Reduction::WeightedMean`](crate::Reduction::WeightedMean).
///
/// `counts` has one entry for each class.
///
/// # Errors
///
/// [`Error::NoClasses`] without classes, [`Error::EntryOutOfRange`] for a class without samples, and [`Error::Parameter`] unless
/// β ∈ [0, 1).
///
/// # Examples
///
/// ```
/// let weights = margin_losses::margins::drw_weights(&[1000, 10], 0.9999)?;
/// assert!((weights[0] + weights[1] - 2.0).abs() < 1e-15);
/// assert!(weights[1] > 95.0 * weights[0]);
/// # Ok::<(), margin_losses::Error>(())
/// ```
///
/// # References
///
/// Cao et al., as for [`ldam`]; the effective number of samples is that of Cui et al., *Class-Balanced Loss Based on Effective
/// Number of Samples* ([arXiv:1901.05555](https://arxiv.org/abs/1901.05555)).
pub fn drw_weights(counts: &[usize], beta: f64) -> Result<Vec<f64>, Error> {
    let beta = parameter("beta", beta, (0.0..1.0).contains(&beta), "lie in [0, 1)")?;
    let counts = checked(counts)?;
    // 1 − βⁿ, without its cancellation where β is near 1.
    let effective = |n: f64| -(n * beta.ln()).exp_m1();
    let weights: Vec<f64> = counts
        .iter()
        .map(|&n| (1.0 - beta) / effective(n))
        .collect();
    let mean = weights.iter().sum::<f64>() / counts.len() as f64;
    Ok(weights.into_iter().map(|weight| weight / mean).collect())
}

/// ElasticFace's margins: one for each row of a batch, drawn from a normal distribution with mean m and standard deviation σ.
///
/// ```math
/// m_i \sim \mathcal N(m, \sigma^2)
/// ```
///
/// Draw them anew for every step, from another seed: the number of the step will do. The margins of N rows are the first of those of
/// more rows. The authors have m = 0.5 and σ = 0.05 for [`ArcFace`](crate::ArcFace), m = 0.35 and σ = 0.05 for
/// [`CosFace`](crate::CosFace). Nothing is clamped, so that a σ that is not small against m draws negative margins, which
/// `with_row_margins` refuses; 0 lies ten σ, or seven, below these.
///
/// # Errors
///
/// [`Error::Parameter`] if a parameter is negative or not finite.
///
/// # Examples
///
/// ```
/// use margin_losses::{ArcFace, MarginLoss, Targets, margins};
/// use margin_losses::ndarray::array;
///
/// let (x, w) = (array![[1.0, 0.2], [0.3, 1.0]], array![[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]);
/// for step in 0..3 {
///     let loss = ArcFace::default().with_row_margins(margins::elastic(2, 0.5, 0.05, step)?)?;
///     assert!(loss.evaluate(x.view(), w.view(), &Targets::new(&[0, 1]))?.loss() > 0.0);
/// }
/// # Ok::<(), margin_losses::Error>(())
/// ```
///
/// # References
///
/// Boutros et al., *ElasticFace: Elastic Margin Loss for Deep Face Recognition*
/// ([arXiv:2109.09416](https://arxiv.org/abs/2109.09416)).
#[cfg(feature = "rand")]
pub fn elastic(rows: usize, mean: f64, std_dev: f64, seed: u64) -> Result<Vec<f64>, Error> {
    let mean = non_negative("mean", mean)?;
    let std_dev = non_negative("std_dev", std_dev)?;
    let mut rng = init::generator(init::Stream::ElasticMargins, seed);
    let mut draw = || mean + std_dev * rng.sample::<f64, _>(StandardNormal);
    Ok((0..rows).map(|_| draw()).collect())
}

/// AdaptiveFace's margins to begin with: uniform in [0.3, 0.4), one for each class.
///
/// `classes` is at least 1.
///
/// # Errors
///
/// [`Error::NoClasses`] without classes.
///
/// # Examples
///
/// ```
/// use margin_losses::{AdaptiveFace, margins};
///
/// let loss = AdaptiveFace::new(30.0, margins::adaptive(100, 1)?)?;
/// assert!(loss.margins().iter().all(|margin| (0.3..0.4).contains(margin)));
/// # Ok::<(), margin_losses::Error>(())
/// ```
///
/// # References
///
/// Those of [`AdaptiveFace`](crate::AdaptiveFace); the range is that of public code.
#[cfg(feature = "rand")]
pub fn adaptive(classes: usize, seed: u64) -> Result<Vec<f64>, Error> {
    if classes == 0 {
        return Err(Error::NoClasses);
    }
    let mut rng = init::generator(init::Stream::AdaptiveMargins, seed);
    // 0.4 itself would be the rounding of a number below it.
    let mut draw = || (0.3 + 0.1 * rng.random::<f64>()).min(0.4_f64.next_down());
    Ok((0..classes).map(|_| draw()).collect())
}

/// ElasticFace+: the same margins, dealt out by the order of the target cosines. The row with the largest cosine gets the smallest
/// margin, so that rows far from their class are pushed harder.
///
/// The cosines are [`Forward::target_cosines`](crate::Forward::target_cosines) of a forward pass before the step. Of equal cosines
/// the first row has the smaller margin. The authors have σ = 0.0175 for ArcFace and 0.02 for CosFace.
///
/// The authors' code takes the sorted margins by the order of the cosines where their ranks are needed. Both are the same
/// for two rows, but not for three: see the example.
///
/// `margins` and `target_cosines` have N entries.
///
/// # Errors
///
/// [`Error::RowCount`] if they have not, [`Error::NonFinite`] for a cosine that is not finite.
///
/// # Examples
///
/// ```
/// use margin_losses::margins::deal;
/// use margin_losses::ndarray::array;
///
/// // The authors' code gives 0.50, 0.55, 0.45.
/// let dealt = deal(vec![0.45, 0.50, 0.55], array![0.2, 0.9, 0.5].view())?;
/// assert_eq!(dealt, [0.55, 0.45, 0.50]);
/// # Ok::<(), margin_losses::Error>(())
/// ```
///
/// # References
///
/// As for ElasticFace. The direction is that which the authors' code intends.
pub fn deal<A: Float>(
    mut margins: Vec<f64>,
    target_cosines: ArrayView1<'_, A>,
) -> Result<Vec<f64>, Error> {
    let argument = Argument::TargetCosines;
    check::row_count(argument, margins.len(), target_cosines.len())?;
    if let Some(row) = target_cosines.iter().position(|c| !c.is_finite()) {
        return Err(Error::NonFinite { argument, row });
    }
    let mut rows: Vec<usize> = (0..margins.len()).collect();
    let order = |a: &A, b: &A| b.partial_cmp(a).unwrap_or(core::cmp::Ordering::Equal);
    rows.sort_by(|&i, &j| order(&target_cosines[i], &target_cosines[j]));
    margins.sort_by(f64::total_cmp);
    let mut dealt = vec![0.0; margins.len()];
    for (row, margin) in rows.into_iter().zip(margins) {
        dealt[row] = margin;
    }
    Ok(dealt)
}

/// n^(−λ) of each class.
fn powers(counts: &[usize], lambda: f64) -> Result<Vec<f64>, Error> {
    let lambda = non_negative("lambda", lambda)?;
    let counts = checked(counts)?;
    Ok(counts.into_iter().map(|n| n.powf(-lambda)).collect())
}

/// The counts as numbers, if there are some and none is 0.
fn checked(counts: &[usize]) -> Result<Vec<f64>, Error> {
    if counts.is_empty() {
        return Err(Error::NoClasses);
    }
    match counts.iter().position(|&count| count == 0) {
        None => Ok(counts.iter().map(|&count| count as f64).collect()),
        Some(row) => Err(Error::EntryOutOfRange {
            argument: Argument::ClassCounts,
            row,
            value: 0.0,
            rule: "be at least 1",
        }),
    }
}

fn non_negative(name: &'static str, value: f64) -> Result<f64, Error> {
    let holds = value >= 0.0 && value.is_finite();
    parameter(name, value, holds, "be non-negative and finite")
}
