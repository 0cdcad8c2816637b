//! From how many pairs there are at each score to the rates of error.

use core::fmt;

use crate::error::{Error, parameter};

/// How well same and different are told apart: what [`Embeddings::verify`](super::Embeddings::verify) and
/// [`verify_scores`](super::verify_scores) find.
///
/// A threshold accepts the pairs whose score reaches it, all equal scores alike. The false-accept rate (FAR) is the share of
/// the pairs of different classes that it accepts, the true-accept rate (TAR) that of the pairs of one class; `1 − TAR` is the
/// false-reject rate.
///
/// Every rate is a ratio of two counts of pairs, to the last bit.
///
/// [`Display`](fmt::Display) is for a log: equal error rate, threshold and true-accept rates. [`Debug`](fmt::Debug) counts the
/// points of the ROC, which may be thousands, and leaves them out.
///
/// # References
///
/// ISO/IEC 19795-1, *Biometric performance testing and reporting*, for the terms.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct Verification {
    /// How many pairs of one class there are.
    pub same_pairs: u64,
    /// How many pairs of different classes there are.
    pub different_pairs: u64,
    /// The error rate where as large a share of the pairs of one class is rejected as is accepted of the others, in [0, 1].
    ///
    /// As the threshold falls from score to score, FAR rises and `1 − TAR` falls. The equal error rate is where they cross on
    /// the straight line from the last point of the ROC with FAR < 1 − TAR to the first with FAR ≥ 1 − TAR.
    pub equal_error_rate: f64,
    /// The threshold of the latter point.
    pub equal_error_threshold: f64,
    /// For each false-accept rate that was asked for, in the order of the call: the last point of the ROC, and so the lowest
    /// threshold, whose rate does not exceed it.
    pub true_accept_rates: Vec<RocPoint>,
    /// Points of the receiver operating characteristic (ROC) by falling threshold, from rates of 0 to rates of 1.
    pub roc: Vec<RocPoint>,
}

impl fmt::Debug for Verification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verification")
            .field("same_pairs", &self.same_pairs)
            .field("different_pairs", &self.different_pairs)
            .field("equal_error_rate", &self.equal_error_rate)
            .field("equal_error_threshold", &self.equal_error_threshold)
            .field("true_accept_rates", &self.true_accept_rates)
            .field("roc", &format_args!("{} points", self.roc.len()))
            .finish()
    }
}

/// One line: `EER 0.0123 at 0.456; TAR 0.9800 at FAR 9.87e-3, threshold 0.470`, with a part for each false-accept rate that was
/// asked for. FAR is the rate that the threshold has, which may be lower than the one asked for.
impl fmt::Display for Verification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (rate, threshold) = (self.equal_error_rate, self.equal_error_threshold);
        write!(f, "EER {rate:.4} at {threshold:.3}")?;
        for point in &self.true_accept_rates {
            write!(
                f,
                "; TAR {:.4} at FAR {:.2e}, threshold {:.3}",
                point.true_accept_rate, point.false_accept_rate, point.threshold
            )?;
        }
        Ok(())
    }
}

/// What a threshold accepts.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct RocPoint {
    /// The pairs whose score reaches it are accepted. Infinite where no pair is.
    pub threshold: f64,
    /// The share of the pairs of different classes that are accepted, in [0, 1].
    pub false_accept_rate: f64,
    /// The share of the pairs of one class that are accepted, in [0, 1].
    pub true_accept_rate: f64,
}

/// The pairs between a score and the next higher one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    /// The least score that they may have.
    pub(super) score: f64,
    /// How many are of one class, and how many are not.
    pub(super) counts: [u64; 2],
}

/// What is looked for on the ROC.
#[derive(Clone, Copy, Debug)]
pub(super) enum Goal {
    EqualErrors,
    FalseAccepts(f64),
}

impl Goal {
    /// The equal error rate, and these false-accept rates.
    pub(super) fn all(false_accept_rates: &[f64]) -> Result<Vec<Self>, Error> {
        let rate = |&rate: &f64| {
            let holds = rate > 0.0 && rate <= 1.0;
            parameter("false-accept rate", rate, holds, "lie in (0, 1]").map(Self::FalseAccepts)
        };
        let rates = false_accept_rates.iter().map(rate);
        core::iter::once(Ok(Self::EqualErrors))
            .chain(rates)
            .collect()
    }

    /// Where in the ROC the first point lies that has passed it; past the end, if none has.
    pub(super) fn crossing(self, roc: &[RocPoint]) -> usize {
        roc.partition_point(|point| match self {
            Self::EqualErrors => point.false_accept_rate < 1.0 - point.true_accept_rate,
            Self::FalseAccepts(rate) => point.false_accept_rate <= rate,
        })
    }
}

/// That there are pairs of either kind.
pub(super) fn check_pairs([same, different]: [u64; 2]) -> Result<(), Error> {
    if same == 0 {
        Err(Error::NoSamePairs)
    } else if different == 0 {
        Err(Error::NoDifferentPairs)
    } else {
        Ok(())
    }
}

/// The point above all scores, and one for each step; these come by falling score.
pub(super) fn roc(steps: &[Step]) -> Vec<RocPoint> {
    let totals = totals(steps).map(|total| total as f64);
    let mut accepted = [0; 2];
    let mut points = Vec::with_capacity(steps.len() + 1);
    points.push(RocPoint {
        threshold: f64::INFINITY,
        false_accept_rate: 0.0,
        true_accept_rate: 0.0,
    });
    points.extend(steps.iter().map(|step| {
        for (accepted, count) in accepted.iter_mut().zip(step.counts) {
            *accepted += count;
        }
        RocPoint {
            threshold: step.score,
            false_accept_rate: accepted[1] as f64 / totals[1],
            true_accept_rate: accepted[0] as f64 / totals[0],
        }
    }));
    points
}

fn totals(steps: &[Step]) -> [u64; 2] {
    [0, 1].map(|kind| steps.iter().map(|step| step.counts[kind]).sum())
}

impl Verification {
    /// From steps that are single scores wherever a goal is passed.
    pub(super) fn new(steps: &[Step], goals: &[Goal]) -> Self {
        let [same_pairs, different_pairs] = totals(steps);
        let roc = roc(steps);
        let crossing = Goal::EqualErrors.crossing(&roc);
        let (before, after) = (roc[crossing - 1], roc[crossing]);
        let gap = |point: RocPoint| 1.0 - point.true_accept_rate - point.false_accept_rate;
        let share = gap(before) / (gap(before) - gap(after));
        let rise = after.false_accept_rate - before.false_accept_rate;
        let asked = goals
            .iter()
            .filter(|goal| matches!(goal, Goal::FalseAccepts(_)));
        Self {
            same_pairs,
            different_pairs,
            equal_error_rate: before.false_accept_rate + share * rise,
            equal_error_threshold: after.threshold,
            true_accept_rates: asked.map(|goal| roc[goal.crossing(&roc) - 1]).collect(),
            roc,
        }
    }
}
