//! How many pairs there are at each score.
//!
//! Scores that fit are sorted. Of more, a pass over all pairs counts them in bins of the score; then the bins in which something
//! that is looked for lies are counted in finer bins, in another pass over all pairs, until they are single scores.

use crate::numerics::Element;

use super::report::{Goal, Step, roc};
use super::units::{Units, cosine, key};

/// How many scores are sorted.
pub(super) const SORTED: u64 = 1 << 20;
/// How many bins there are in a pass.
const BINS: usize = 1 << 19;

/// The steps of all pairs, by falling score.
pub(super) fn of_units<A: Element>(units: &Units<A>, goals: &[Goal]) -> Vec<Step> {
    if units.pairs().iter().sum::<u64>() <= SORTED {
        sorted(units)
    } else {
        searched(units, goals, BINS)
    }
}

/// The steps of given scores, which are numbers.
pub(super) fn of_scores(mut scores: Vec<(f64, bool)>) -> Vec<Step> {
    scores.sort_unstable_by(|(a, _), (b, _)| b.total_cmp(a));
    // Zeros of either sign are equal here, as they are to a threshold.
    let equals = scores.chunk_by(|(a, _), (b, _)| a == b);
    let step = |equals: &[(f64, bool)]| {
        let same = equals.iter().filter(|(_, same)| *same).count();
        Step {
            score: equals[0].0,
            counts: [same, equals.len() - same].map(|count| count as u64),
        }
    };
    equals.map(step).collect()
}

/// One step for each score that occurs.
fn sorted<A: Element>(units: &Units<A>) -> Vec<Step> {
    let lanes = units.each_pair(Vec::new, |scores, kind, cosines| {
        let score = |&cosine_: &A| (cosine::<A>(key(cosine_)), kind == 0);
        scores.extend(cosines.iter().map(score));
    });
    of_scores(lanes.concat())
}

/// The pairs whose keys begin with some bits.
#[derive(Clone, Copy, Debug)]
struct Bin {
    /// The least key that they may have.
    least: u64,
    counts: [u64; 2],
}

/// One step for each score at which a goal is passed, and one for each bin elsewhere. `bins` is how many there may be in a pass.
fn searched<A: Element>(units: &Units<A>, goals: &[Goal], bins: usize) -> Vec<Step> {
    let steps = |found: &[Bin]| -> Vec<Step> {
        let step = |bin: &Bin| Step {
            score: cosine::<A>(bin.least),
            counts: bin.counts,
        };
        found.iter().map(step).collect()
    };
    // All keys are one bin at first.
    let mut width = u64::BITS - key(A::one()).leading_zeros();
    let mut found = vec![Bin {
        least: 0,
        counts: units.pairs(),
    }];
    while width > 0 {
        let roc = roc(&steps(&found));
        let passed = |goal: &Goal| Some(found.get(goal.crossing(&roc) - 1)?.least);
        let mut wanted: Vec<u64> = goals.iter().filter_map(passed).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let bits = (bins / wanted.len()).max(2).ilog2().min(width);
        let finer = count(units, &wanted, width, bits);
        found = found
            .into_iter()
            .flat_map(|bin| match wanted.binary_search(&bin.least) {
                Ok(place) => split(
                    &finer[place << bits..(place + 1) << bits],
                    bin,
                    width - bits,
                ),
                Err(_) => vec![bin],
            })
            .collect();
        width -= bits;
    }
    steps(&found)
}

/// How many pairs there are in the 2^`bits` parts of each wanted bin, whose keys differ in their last `width` bits.
fn count<A: Element>(units: &Units<A>, wanted: &[u64], width: u32, bits: u32) -> Vec<[u64; 2]> {
    let mut lanes = units
        .each_pair(
            || vec![[0; 2]; wanted.len() << bits],
            |counts, kind, cosines| {
                for &cosine in cosines {
                    let key = key(cosine);
                    let least = key >> width << width;
                    if let Ok(place) = wanted.binary_search(&least) {
                        let part = (key - least) >> (width - bits);
                        counts[(place << bits) + part as usize][kind] += 1;
                    }
                }
            },
        )
        .into_iter();
    let mut all = lanes.next().unwrap_or_default();
    for lane in lanes {
        for (all, counts) in all.iter_mut().zip(lane) {
            for (all, count) in all.iter_mut().zip(counts) {
                *all += count;
            }
        }
    }
    all
}

/// The parts of a bin that hold pairs, the highest first; their keys differ in their last `width` bits.
fn split(parts: &[[u64; 2]], bin: Bin, width: u32) -> Vec<Bin> {
    let parts = parts.iter().enumerate().rev();
    let parts = parts.filter(|(_, counts)| **counts != [0; 2]);
    parts
        .map(|(part, &counts)| Bin {
            least: bin.least + ((part as u64) << width),
            counts,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;

    use super::*;
    use crate::targets::Labels;
    use crate::verification::Verification;
    use crate::verification::report::RocPoint;

    /// The search over few bins, and so over many passes, finds what sorting finds.
    fn compare<A: Element>(features: &Array2<A>, labels: &[usize]) {
        let units = Units::new(features.view(), Labels::from(labels)).expect("good");
        let goals = Goal::all(&[1e-3, 0.01, 0.1, 0.5, 1.0]).expect("rates");
        let expected = Verification::new(&sorted(&units), &goals);
        for bins in [2, 64, 1 << 10, BINS] {
            let found = Verification::new(&searched(&units, &goals, bins), &goals);
            assert_eq!(found.equal_error_rate, expected.equal_error_rate);
            assert_eq!(found.equal_error_threshold, expected.equal_error_threshold);
            let rates = |points: &[RocPoint]| -> Vec<[f64; 2]> {
                let rates = |p: &RocPoint| [p.false_accept_rate, p.true_accept_rate];
                points.iter().map(rates).collect()
            };
            assert_eq!(
                rates(&found.true_accept_rates),
                rates(&expected.true_accept_rates)
            );
            for (found, expected) in found
                .true_accept_rates
                .iter()
                .zip(&expected.true_accept_rates)
            {
                assert!(found.threshold <= expected.threshold);
            }
            let exact = rates(&expected.roc);
            assert!(rates(&found.roc).iter().all(|point| exact.contains(point)));
        }
    }

    #[test]
    fn a_search_finds_what_sorting_finds() {
        let labels: Vec<usize> = (0..90).map(|row| row * row % 7).collect();
        let entry = |(row, k): (usize, usize)| {
            (((row * 5 + k) * 7919 % 1009) as f64 * 0.7).sin() + ((labels[row] + k) % 3) as f64
        };
        let features = Array2::from_shape_fn((90, 5), entry);
        compare(&features, &labels);
        compare(&features.mapv(|entry| entry as f32), &labels);
        // Many equal scores.
        let features = features.mapv(f64::round);
        compare(&(features + 2.0), &labels);
    }

    #[test]
    fn keys_are_in_order_and_read_back() {
        fn check<A: Element>(exact: f64) {
            assert_eq!(key(A::narrow(-1.0)), 0);
            assert_eq!(key(A::narrow(1.5)), key(A::one()));
            for x in [
                -1.0,
                -0.75,
                0.0,
                0.1,
                0.5,
                1.0 - f64::from(f32::EPSILON),
                1.0,
            ] {
                let x = A::narrow(x);
                assert!((cosine::<A>(key(x)) - x.widen()).abs() <= exact);
            }
            let mut before = None;
            for step in -2000..=2000 {
                let key = key(A::narrow(f64::from(step) / 2000.0));
                assert!(Some(key) > before);
                before = Some(key);
            }
        }
        check::<f32>(0.0);
        check::<f64>(2.0_f64.powi(-52));
    }
}
