//! Partial FC: the classes of a step, all that the batch has and some of the others.

use crate::error::{Error, parameter};
use crate::numerics::parallel;

use super::Shards;

/// Which classes take part in a step: all that the batch has (positives), and some of the others (negatives).
///
/// This is Partial FC. Rows of W that are not sampled are not read, their gradient is exactly 0, and a streamed update does not
/// get them. A step costs the rate's share of the products and of the pass over W.
///
/// Of each segment of the classes (see [`Shards`]) are sampled its positives, and of its negatives those with the smallest hash
/// of seed, step and class, up to the rate's share of the segment. Should one segment have more positives than that, then as
/// many classes are sampled of every segment. So the sample does not depend on the number of ranks. At a rate of 1 the loss is
/// the full one, to the bit.
///
/// # The loss at a rate below 1
///
/// It is another loss: the softmax over the sampled classes, smaller than the full one.
/// [`with_correction`](Self::with_correction) adds `−ln q` to the logits of negatives, where q is the share of a segment's
/// negatives that is sampled. Then Σ exp over the negatives is right on average.
///
/// # Examples
///
/// ```
/// use margin_losses::shards::{Sampling, Sharded, Shards, Solo};
/// use margin_losses::{ArcFace, Targets, init};
/// use margin_losses::ndarray::Array2;
///
/// let (x, w): (Array2<f32>, Array2<f32>) = (init::class_weights(4, 16, 1)?, init::class_weights(1000, 16, 2)?);
/// let (loss, sampling) = (ArcFace::new(16.0, 0.3)?, Sampling::new(0.1, 7)?);
/// for step in 0..3 {
///     let part = Sharded::new(&loss, Shards::new(1000)?, &Solo).with_sampling(sampling.at(step));
///     let out = part.evaluate(x.view(), w.view(), &Targets::new(&[5, 5, 77, 900]))?;
///     let moved = out.grad_weights.rows().into_iter().filter(|row| row.iter().any(|&g| g != 0.0)).count();
///     assert!((100..=104).contains(&moved), "{moved}");
///     assert!(out.grad_weights.row(900).iter().any(|&g| g != 0.0));
/// }
/// # Ok::<(), margin_losses::Error>(())
/// ```
///
/// # References
///
/// An et al., *Partial FC: Training 10 Million Identities on a Single Machine*
/// ([arXiv:2010.05222](https://arxiv.org/abs/2010.05222)), equation 5; the correction is that of sampled softmax, Jean et al.
/// ([arXiv:1412.2007](https://arxiv.org/abs/1412.2007)).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    rate: f64,
    seed: u64,
    step: u64,
    corrects: bool,
}

impl Sampling {
    /// The rate, the share of the classes that take part in a step. The authors recommend 0.1.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] unless the rate lies in (0, 1].
    pub fn new(rate: f64, seed: u64) -> Result<Self, Error> {
        let holds = rate > 0.0 && rate <= 1.0;
        Ok(Self {
            rate: parameter("rate", rate, holds, "lie in (0, 1]")?,
            seed,
            step: 0,
            corrects: false,
        })
    }

    /// The sample of a step. Steps have samples that have nothing in common.
    #[must_use]
    pub fn at(self, step: u64) -> Self {
        Self { step, ..self }
    }

    /// With `−ln q` on the logits of negatives. A loss that is no softmax has no sum of exponentials to correct, and refuses it with
    /// [`Error::NotComposable`].
    #[must_use]
    pub fn with_correction(self) -> Self {
        Self {
            corrects: true,
            ..self
        }
    }

    /// The rate.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.rate
    }

    /// Whether logits of negatives are corrected.
    pub(crate) fn corrects(&self) -> bool {
        self.corrects
    }

    /// All of it as numbers that tell it from another.
    pub(crate) fn numbers(&self) -> [u64; 4] {
        [
            self.rate.to_bits(),
            self.seed,
            self.step,
            u64::from(self.corrects),
        ]
    }

    /// How many of so many classes the rate asks for.
    fn share(&self, classes: usize) -> usize {
        ((self.rate * classes as f64).ceil() as usize).clamp(1, classes)
    }

    /// A number that looks random, another one for each class.
    fn hash(&self, class: usize) -> u64 {
        let step = mix(self.seed ^ mix(self.step ^ 0x9e37_79b9_7f4a_7c15));
        mix((class as u64).wrapping_mul(0xd6e8_feb8_6659_fd93) ^ step)
    }

    /// The sample of the segments that are here, for a batch of these labels; none if it has all classes.
    pub(crate) fn choose(
        &self,
        shards: Shards,
        segments: core::ops::Range<usize>,
        labels: &[usize],
    ) -> Option<Sample> {
        let mut positives = labels.to_vec();
        positives.sort_unstable();
        positives.dedup();
        let of = |segment: usize| {
            let classes = shards.segment(segment);
            let start = positives.partition_point(|&class| class < classes.start);
            let end = positives.partition_point(|&class| class < classes.end);
            &positives[start..end]
        };
        let size = |segment: usize| {
            let share = self.share(shards.segment(segment).len());
            share.max(of(segment).len())
        };
        let all = shards.segments();
        let each = (0..all).map(size).max().unwrap_or(0);
        if each >= shards.segment(0).len() {
            return None;
        }
        let last = size(all - 1);
        let first = shards.segment(segments.start).start;
        let mut chosen: Vec<_> = segments.clone().map(|_| (Vec::new(), 1.0)).collect();
        let tasks = segments.clone().zip(&mut chosen).collect();
        parallel::for_each(
            tasks,
            |(segment, chosen): (usize, &mut (Vec<usize>, f64))| {
                let count = if segment == all - 1 { last } else { each };
                *chosen = self.choose_of(shards.segment(segment), of(segment), count);
            },
        );
        let mut sample = Sample {
            classes: Vec::new(),
            corrections: Vec::new(),
            each,
            all: (all - 1) * each + last,
        };
        for (segment, (classes, share)) in segments.zip(chosen) {
            let positives = of(segment);
            if self.corrects {
                let correction = |class| match positives.binary_search(class) {
                    Ok(_) => 0.0,
                    Err(_) => -f64::ln(share),
                };
                sample.corrections.extend(classes.iter().map(correction));
            }
            let own = classes.iter().map(|class| class - first);
            sample.classes.extend(own);
        }
        Some(sample)
    }

    /// `count` classes of a segment in their order, positives first, and the share of its negatives that are among them.
    fn choose_of(
        &self,
        classes: core::ops::Range<usize>,
        positives: &[usize],
        count: usize,
    ) -> (Vec<usize>, f64) {
        let wanted = count - positives.len();
        let mut present = positives.iter().copied().peekable();
        let negatives = classes.filter(|class| present.next_if_eq(class).is_none());
        let mut negatives: Vec<_> = negatives.map(|class| (self.hash(class), class)).collect();
        let share = wanted as f64 / negatives.len().max(1) as f64;
        if wanted < negatives.len() {
            negatives.select_nth_unstable(wanted);
            negatives.truncate(wanted);
        }
        let mut chosen = positives.to_vec();
        chosen.extend(negatives.into_iter().map(|(_, class)| class));
        chosen.sort_unstable();
        (chosen, share)
    }
}

/// The finaliser of SplitMix64: a permutation of all numbers that looks random.
fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// The classes that take part in a step, of the segments that are here.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sample {
    /// In their order, counted from the first class that is here.
    pub(crate) classes: Vec<usize>,
    /// What is added to the logit of each; empty for nothing.
    pub(crate) corrections: Vec<f64>,
    /// How many there are of every segment but the last.
    pub(crate) each: usize,
    /// How many there are of all segments, of all ranks.
    pub(crate) all: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(sampling: Sampling, shards: Shards, labels: &[usize]) -> Vec<usize> {
        let sample = sampling.choose(shards, 0..shards.segments(), labels);
        sample.expect("not all").classes
    }

    #[test]
    fn every_rank_has_its_part_of_one_sample() {
        let shards = Shards::new(20_011).unwrap();
        let sampling = Sampling::new(0.07, 5).unwrap().at(3).with_correction();
        let labels: Vec<usize> = (0..500).map(|row| row * row % 20_011).collect();
        let segments = 0..shards.segments();
        let sample = sampling.choose(shards, segments, &labels).unwrap();
        assert!(sample.classes.is_sorted());
        assert_eq!(sample.classes.len(), sample.all);
        assert_eq!(sample.corrections.len(), sample.all);
        assert!(labels.iter().all(|label| sample.classes.contains(label)));
        for (class, correction) in sample.classes.iter().zip(&sample.corrections) {
            assert_eq!(*correction == 0.0, labels.contains(class));
        }
        for size in [2, 3, 7] {
            let mut classes = Vec::new();
            for rank in 0..size {
                let own = shards.classes(rank, size);
                let segments = shards.segments_of(rank, size);
                let part = sampling.choose(shards, segments, &labels).unwrap();
                assert_eq!((part.each, part.all), (sample.each, sample.all));
                classes.extend(part.classes.iter().map(|class| own.start + class));
            }
            assert_eq!(classes, sample.classes);
        }
    }

    #[test]
    fn rates() {
        let shards = Shards::new(5_000).unwrap();
        let full = Sampling::new(1.0, 1).unwrap();
        assert_eq!(full.choose(shards, 0..1, &[3]), None);
        // More positives than the rate asks for.
        let labels: Vec<usize> = (0..200).collect();
        let few = whole(Sampling::new(1e-6, 1).unwrap(), shards, &labels);
        assert!(labels.iter().all(|label| few.contains(label)));
        assert!(few.len() <= 200 * shards.segments());
        for bad in [0.0, -0.1, 1.1, f64::NAN] {
            let error = Sampling::new(bad, 1).unwrap_err();
            assert!(matches!(error, Error::Parameter { name: "rate", .. }));
        }
    }

    #[test]
    fn samples_are_even_and_independent() {
        let shards = Shards::new(30_000).unwrap();
        let sampling = Sampling::new(0.1, 11).unwrap();
        let steps = 400_u64;
        let mut counts = vec![0_u32; 30_000];
        let mut common = 0;
        let mut before: Vec<usize> = Vec::new();
        for step in 0..steps {
            let sample = whole(sampling.at(step), shards, &[]);
            for &class in &sample {
                counts[class] += 1;
            }
            common += before
                .iter()
                .filter(|class| sample.binary_search(class).is_ok())
                .count();
            before = sample;
        }
        // Each is binomial with the mean 40 and the deviation 6.
        let least = counts.iter().min().copied();
        let most = counts.iter().max().copied();
        assert!(least > Some(9) && most < Some(76), "{least:?}, {most:?}");
        let mean = common as f64 / (steps - 1) as f64;
        assert!((mean / 300.0 - 1.0).abs() < 0.05, "{mean}");
    }
}
