//! Evaluation of embeddings: are two of one class, and how often is that told wrongly?
//!
//! Two embeddings are compared by the cosine between them, and a pair is accepted as one class if its score reaches a threshold.
//! [`Embeddings`] takes all pairs of a set, by its labels: the equal error rate, the true-accept rate at false-accept rates, the
//! ROC, and the recall among the nearest neighbours. [`pair_scores`] and [`verify_scores`] take pairs that are given, as lists
//! such as LFW's have them; the latter takes scores of any origin.
//!
//! The class weights of the training take no part, so the classes may be others than those. Which class of the training it is
//! says [`MarginLoss::predict`](crate::MarginLoss::predict).
//!
//! ```
//! use margin_losses::verification::{Embeddings, pair_scores, verify_scores};
//! use margin_losses::ndarray::array;
//!
//! let features = array![[1.0, 0.1], [2.0, 0.0], [0.0, 1.0], [0.3, 1.0]];
//! let embeddings = Embeddings::new(features.view(), &[7, 7, 9, 9])?;
//! let report = embeddings.verify(&[1e-2])?;                     // all 6 pairs
//! assert_eq!(report.equal_error_rate, 0.0);
//! assert_eq!(report.true_accept_rates[0].true_accept_rate, 1.0);
//! assert_eq!(embeddings.recall(&[1])?, [1.0]);
//!
//! // Given pairs.
//! let scores = pair_scores(features.view(), array![[2.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]].view())?;
//! let report = verify_scores(scores.view(), &[true, false, true, false], &[0.1])?;
//! assert_eq!(report.true_accept_rates[0].true_accept_rate, 1.0);
//! # Ok::<(), margin_losses::Error>(())
//! ```

mod report;
mod tally;
mod units;

use ndarray::{Array1, ArrayView1, ArrayView2};

use crate::check;
use crate::error::{Argument, Error};
use crate::float::Float;
use crate::float::sealed::TOKEN;
use crate::numerics::Element;
use crate::targets::Labels;

use report::{Goal, check_pairs};
pub use report::{RocPoint, Verification};
pub(crate) use units::{Units, pair_scores as cosines};

/// Embeddings with their labels, each divided by its norm, to be compared with each other.
///
/// It holds a copy of the N×d features, and 16 bytes for each row.
#[derive(Clone, Debug)]
pub struct Embeddings<A> {
    units: Units<A>,
}

impl<A: Float> Embeddings<A> {
    /// From N×d features and N labels, which may be any integers.
    ///
    /// Rows that the labels [ignore](Labels::with_ignored_label) are left out, and not looked at.
    ///
    /// # Errors
    ///
    /// Labels or a mask of another number than the features, features of no columns, and a row that is zero or holds a NaN or an
    /// infinity.
    pub fn new<'l>(
        features: ArrayView2<'_, A>,
        labels: impl Into<Labels<'l>>,
    ) -> Result<Self, Error> {
        let units = A::units(TOKEN, features, labels.into())?;
        Ok(Self { units })
    }

    /// Compares all pairs, each once: the equal error rate, the true-accept rate at each of these false-accept rates, and the
    /// ROC.
    ///
    /// # Exactness and memory
    ///
    /// Cosines are computed in the element type and rounded to multiples of 2⁻³⁰ in `f32`, of 2⁻⁵¹ in `f64`, which is less than
    /// or about the error of the products. All rates are exact counts of these scores, whatever N is. Results do not depend on
    /// the threads.
    ///
    /// Up to 2²⁰ pairs (N = 1,448) their scores are sorted, and the ROC has a point for each score that occurs. Of more pairs no
    /// score is kept. They are counted in 2¹⁸ bins of the cosine, each 2⁻¹⁷ wide. The bins in which the equal error rate or an
    /// asked rate lies are counted again in finer ones, until they are single scores. This takes two passes over all pairs in
    /// `f32` and three in `f64`, and more if more than three rates are asked for. The ROC then has a point for each bin that is
    /// not empty. Each is a true point of the curve, and its threshold is the lower end of its bin.
    ///
    /// A pass costs N²d/2 multiplications. Each thread holds a tile of 256×256 cosines and at most 8 MiB of counts. Nothing has
    /// the size of N².
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] if a rate is outside of (0, 1], [`Error::NoSamePairs`] if no class has two rows, and
    /// [`Error::NoDifferentPairs`] if there are no two classes.
    ///
    /// # Examples
    ///
    /// ```
    /// use margin_losses::verification::Embeddings;
    /// use margin_losses::ndarray::array;
    ///
    /// // Cosines of one class: 0.8 and 0.8. Of different classes: 0, 0.6, 0.6 and 0.96.
    /// let features = array![[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [0.6, 0.8]];
    /// let report = Embeddings::new(features.view(), &[0, 0, 1, 1])?.verify(&[0.25, 0.01])?;
    /// assert_eq!((report.same_pairs, report.different_pairs), (2, 4));
    /// assert_eq!(report.equal_error_rate, 0.25);       // a threshold of 0.8 accepts all of the former, one of the latter
    /// assert_eq!(report.true_accept_rates[0].true_accept_rate, 1.0);
    /// assert!((report.true_accept_rates[0].threshold - 0.8).abs() < 1e-15);
    /// assert_eq!(report.true_accept_rates[1].true_accept_rate, 0.0);   // no threshold accepts a pair and not the 0.96
    /// # Ok::<(), margin_losses::Error>(())
    /// ```
    pub fn verify(&self, false_accept_rates: &[f64]) -> Result<Verification, Error> {
        A::verify(TOKEN, &self.units, false_accept_rates)
    }

    /// Recall at each k: the share of the rows with one of their own class among their k nearest neighbours, by the cosine.
    ///
    /// The neighbours of a row are all others. A row whose class has no other member is no query, but a neighbour. Where a row of
    /// another class is as near as one of the own, it is taken to be the nearer, so that equal embeddings have a recall of 0.
    ///
    /// It costs N²d multiplications, and each thread holds a tile of 256×256 cosines.
    ///
    /// # Errors
    ///
    /// [`Error::Neighbours`] if a k is 0 or not below the number of rows, and [`Error::NoSamePairs`] if there is no query.
    ///
    /// # Examples
    ///
    /// ```
    /// use margin_losses::verification::Embeddings;
    /// use margin_losses::ndarray::array;
    ///
    /// let features = array![[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [0.6, 0.8], [-1.0, 0.0]];
    /// let recall = Embeddings::new(features.view(), &[0, 0, 1, 1, 2])?.recall(&[1, 2])?;
    /// assert_eq!(recall, [0.5, 1.0]);        // of four queries, for class 2 has no other row
    /// # Ok::<(), margin_losses::Error>(())
    /// ```
    ///
    /// # References
    ///
    /// Song et al., *Deep Metric Learning via Lifted Structured Feature Embedding*,
    /// [arXiv:1511.06452](https://arxiv.org/abs/1511.06452), the section on evaluation.
    pub fn recall(&self, ks: &[usize]) -> Result<Vec<f64>, Error> {
        A::recall(TOKEN, &self.units, ks)
    }
}

/// The cosine of each row of `a` to the same row of `b`, both N×d: the scores of given pairs, in [−1, 1].
///
/// It is summed in `f64`.
///
/// # Errors
///
/// Shapes that disagree, no columns, and a row that is zero or holds a NaN or an infinity: `a` is
/// [`Argument::Features`], `b` is [`Argument::OtherFeatures`].
///
/// # Examples
///
/// Pairs that are given by two indices:
///
/// ```
/// use margin_losses::verification::pair_scores;
/// use margin_losses::ndarray::{Axis, array};
///
/// let features = array![[3.0, 4.0], [1.0, 0.0], [0.0, 2.0]];
/// let [a, b] = [[0, 1], [2, 2]].map(|rows| features.select(Axis(0), &rows));
/// let scores = pair_scores(a.view(), b.view())?;
/// assert!((scores[0] - 0.8_f64).abs() < 1e-15);
/// assert_eq!(scores[1], 0.0);
/// # Ok::<(), margin_losses::Error>(())
/// ```
pub fn pair_scores<A: Float>(
    a: ArrayView2<'_, A>,
    b: ArrayView2<'_, A>,
) -> Result<Array1<A>, Error> {
    A::pair_scores(TOKEN, a, b)
}

/// [`Verification`] of given pairs: their scores, of any origin, and which of them are of one class. The higher a score, the
/// more alike the two; distances are given with a minus sign.
///
/// The ROC has a point for each score that occurs. 16 bytes are held for each pair, and 48 for each point.
///
/// # Errors
///
/// [`Error::RowCount`] if `same` has another length than `scores`, [`Error::NonFinite`] for a score that is no number,
/// [`Error::Parameter`] if a rate is outside of (0, 1], [`Error::NoSamePairs`] and [`Error::NoDifferentPairs`].
///
/// # Examples
///
/// ```
/// use margin_losses::verification::verify_scores;
/// use margin_losses::ndarray::array;
///
/// let distances = array![0.2, 0.7, 0.4, 0.9];
/// let report = verify_scores((-distances).view(), &[true, true, false, false], &[0.5])?;
/// assert_eq!(report.equal_error_rate, 0.5);
/// assert_eq!(report.true_accept_rates[0].threshold, -0.7);
/// # Ok::<(), margin_losses::Error>(())
/// ```
pub fn verify_scores<A: Float>(
    scores: ArrayView1<'_, A>,
    same: &[bool],
    false_accept_rates: &[f64],
) -> Result<Verification, Error> {
    check::row_count(Argument::SamePairs, scores.len(), same.len())?;
    let goals = Goal::all(false_accept_rates)?;
    let score = |(row, (score, &same)): (usize, (&A, &bool))| match score.to_f64() {
        Some(score) if score.is_finite() => Ok((score, same)),
        _ => Err(Error::NonFinite {
            argument: Argument::Scores,
            row,
        }),
    };
    let scores: Result<Vec<_>, Error> = scores.iter().zip(same).enumerate().map(score).collect();
    let scores = scores?;
    let pairs = scores.len() as u64;
    let of_one_class = same.iter().filter(|same| **same).count() as u64;
    check_pairs([of_one_class, pairs - of_one_class])?;
    Ok(Verification::new(&tally::of_scores(scores), &goals))
}

/// [`Embeddings::verify`].
pub(crate) fn verify<A: Element>(units: &Units<A>, rates: &[f64]) -> Result<Verification, Error> {
    let goals = Goal::all(rates)?;
    check_pairs(units.pairs())?;
    Ok(Verification::new(&tally::of_units(units, &goals), &goals))
}

/// [`Embeddings::recall`].
pub(crate) fn recall<A: Element>(units: &Units<A>, ks: &[usize]) -> Result<Vec<f64>, Error> {
    let others = units.rows().saturating_sub(1);
    if let Some(&k) = ks.iter().find(|k| !(1..=others).contains(*k)) {
        return Err(Error::Neighbours { k, others });
    }
    if units.pairs()[0] == 0 {
        return Err(Error::NoSamePairs);
    }
    let intruders = units.intruders();
    let share = |&k: &usize| {
        let found = intruders.iter().filter(|&&nearer| nearer < k).count();
        found as f64 / intruders.len() as f64
    };
    Ok(ks.iter().map(share).collect())
}
