//! Batches decoded from bytes, ordinary and at the edges: the generator of the fuzz target and of the properties.
//!
//! Every choice is read from a tape of bytes, and the end of the tape reads as zeros, which are the plainest choices: so a
//! shorter tape, and one with smaller bytes, is a simpler batch, and shrinks as such.

use margin_losses::{Float, PastPi, Reduction, TurnedAngle};
use ndarray::{Array2, ArrayView1, Axis};

use super::{Batch, Layout, RULES, Spec, SplitMix, narrow, step, widen};

/// Everything that one evaluation is given.
#[derive(Clone, Debug)]
pub(crate) struct Scenario<A> {
    pub(crate) spec: Spec,
    pub(crate) batch: Batch<A>,
    pub(crate) reduction: Reduction,
    pub(crate) weighted: bool,
    pub(crate) layouts: [Layout; 2],
    /// Of the working memory; none is the default.
    pub(crate) scratch_limit: Option<usize>,
}

/// How far from the ordinary the numbers go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wildness {
    /// Entries near 1, pairs next to the poles, duplicates, edges of ulps.
    Tame,
    /// Besides, rows of any length in 2^±60.
    Lengths,
    /// Besides, zero rows, subnormal numbers and numbers near the largest.
    Ends,
    /// Besides, NaN, infinity, labels out of range, parameters out of range, shapes that disagree.
    Bad,
}

/// Bytes, from which choices are read.
#[derive(Clone, Debug)]
pub(crate) struct Tape<'a>(pub(crate) &'a [u8]);

impl Tape<'_> {
    fn byte(&mut self) -> usize {
        match self.0 {
            [first, rest @ ..] => {
                self.0 = rest;
                usize::from(*first)
            }
            [] => 0,
        }
    }

    fn word(&mut self) -> u64 {
        (self.byte() << 8 | self.byte()) as u64
    }

    fn below(&mut self, end: usize) -> usize {
        self.byte() % end
    }

    /// Whether one chance out of so many comes true.
    fn one_in(&mut self, chances: usize) -> bool {
        self.byte() % chances == chances - 1
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    fn sign(&mut self) -> f64 {
        self.of(&[1.0, -1.0])
    }

    /// A batch with everything about it, no wilder than `wildest`.
    pub(crate) fn scenario<A: Float>(&mut self, wildest: Wildness) -> Scenario<A> {
        let wildness = self
            .of(&[
                Wildness::Tame,
                Wildness::Tame,
                Wildness::Lengths,
                Wildness::Ends,
                Wildness::Bad,
            ])
            .min(wildest);
        let bad = wildness == Wildness::Bad;
        let (rows, classes, dimension) = self.shape(bad);
        let batch = self.batch(rows, classes, dimension, wildness);
        let spec = self.spec(classes, bad);
        Scenario {
            spec,
            batch,
            reduction: self.of(&[Reduction::Mean, Reduction::Sum, Reduction::None]),
            weighted: self.one_in(2),
            layouts: [self.of(&Layout::CHOICES), self.of(&Layout::CHOICES)],
            scratch_limit: match self.below(8) {
                0..5 => None,
                5 => Some(64 * self.byte()),
                6 => Some(1024 * self.byte()),
                _ => Some(8 * rows * (classes + 4 * dimension) * self.below(4)),
            },
        }
    }

    fn shape(&mut self, bad: bool) -> (usize, usize, usize) {
        match self.byte() {
            // Beyond a tile of rows, a block of classes, and the size from which on there are threads.
            252 => (257 + self.below(4), 1 + self.below(70), 1 + self.below(4)),
            253 => (1 + self.below(9), 500 + self.byte(), 1 + self.below(8)),
            254 => (1 + self.below(40), 65 + self.byte(), 1 + self.below(20)),
            255 => (64 + self.below(9), 1100 + self.byte(), 32),
            _ => {
                let least = usize::from(!bad);
                (
                    self.below(10).max(least),
                    self.of(&[1, 2, 3, 5, 8, 33, 64, 65, 70]).max(least) - self.zero(bad),
                    self.of(&[2, 1, 3, 4, 5, 8, 16, 17, 20]) - self.zero(bad),
                )
            }
        }
    }

    /// 1, seldom and where bad shapes are allowed.
    fn zero(&mut self, bad: bool) -> usize {
        usize::from(bad && self.one_in(64))
    }

    fn batch<A: Float>(
        &mut self,
        rows: usize,
        classes: usize,
        dimension: usize,
        wildness: Wildness,
    ) -> Batch<A> {
        let bad = wildness == Wildness::Bad;
        let mut so_far: Vec<Vec<A>> = Vec::new();
        let mut matrix = |tape: &mut Self, rows: usize, dimension: usize| -> Array2<A> {
            let mut matrix = Array2::zeros((rows, dimension));
            // All rows but the first of a large matrix are ordinary, or the tape would not reach.
            let bulk = SplitMix(tape.word()).matrix::<A>(rows, dimension);
            for (index, mut row) in matrix.outer_iter_mut().enumerate() {
                let made = if index < 12 {
                    tape.row(dimension, wildness, &so_far)
                } else {
                    bulk.row(index).to_vec()
                };
                if so_far.len() < 64 {
                    so_far.push(made.clone());
                }
                row.assign(&ArrayView1::from(&made));
            }
            matrix
        };
        let weights = matrix(self, classes, dimension);
        let other = dimension + usize::from(bad && self.one_in(48));
        let features = matrix(self, rows, other);
        let other = classes + usize::from(bad && self.one_in(48));
        let centers = matrix(self, other, dimension);
        let mut rng = SplitMix(self.word());
        let mut batch = Batch {
            features,
            weights,
            centers,
            labels: (0..rows)
                .map(|row| {
                    let label = if row < 12 {
                        self.byte()
                    } else {
                        rng.below(256)
                    };
                    label % classes.max(1)
                })
                .collect(),
            row_weights: (0..rows)
                .map(|row| {
                    let kind = if row < 12 { self.below(8) } else { 0 };
                    narrow(match kind {
                        0..4 => 0.25 + rng.uniform(),
                        4 => 0.0,
                        5 if wildness >= Wildness::Lengths => {
                            2.0_f64.powi(rng.below(121) as i32 - 60)
                        }
                        6 if wildness >= Wildness::Ends => self.extreme::<A>(),
                        7 if bad => -1.0,
                        _ => 1.0,
                    })
                })
                .collect(),
        };
        if bad {
            self.poison(&mut batch);
        }
        batch
    }

    /// One row: ordinary, related to one before it, or made of edges.
    fn row<A: Float>(&mut self, dimension: usize, wildness: Wildness, so_far: &[Vec<A>]) -> Vec<A> {
        let kind = self.below(16);
        let mut row: Vec<f64> = match kind {
            6..11 if !so_far.is_empty() => {
                let index = self.below(so_far.len());
                let mut copy: Vec<f64> = so_far[index].iter().map(|&v| widen(v)).collect();
                // A copy that was made under other circumstances has another length.
                copy.resize(dimension, 1.0);
                let sign = if kind == 9 || kind == 10 { -1.0 } else { 1.0 };
                for entry in &mut copy {
                    *entry *= sign;
                }
                if kind == 7 || kind == 9 {
                    let entry = self.below(dimension.max(1));
                    let ulps = self.ulps();
                    if let Some(entry) = copy.get_mut(entry) {
                        *entry = widen(step(narrow::<A>(*entry), ulps));
                    }
                }
                copy
            }
            11 => (0..dimension).map(|_| self.edge::<A>(wildness)).collect(),
            12 => {
                let axis = self.below(dimension.max(1));
                let value = self.edge::<A>(wildness);
                let value = if value == 0.0 { 1.0 } else { value };
                (0..dimension)
                    .map(|k| if k == axis { value } else { 0.0 })
                    .collect()
            }
            13 => vec![self.of(&[0.1, 0.3, 1.0, -0.7, 3.0]); dimension],
            14 if wildness >= Wildness::Ends => vec![0.0; dimension],
            15 if wildness >= Wildness::Ends => {
                let value = self.extreme::<A>();
                let mut rng = SplitMix(self.word());
                (0..dimension).map(|_| value * rng.uniform()).collect()
            }
            _ => {
                let mut rng = SplitMix(self.word());
                (0..dimension).map(|_| rng.normal()).collect()
            }
        };
        let power = match self.below(8) {
            5 if wildness >= Wildness::Lengths => self.below(121) as i32 - 60,
            6 if wildness >= Wildness::Ends => {
                let reach = reach::<A>();
                (self.word() % (2 * reach + 1)) as i32 - reach as i32
            }
            7 => self.below(9) as i32 - 4,
            _ => 0,
        };
        let factor = 2.0_f64.powi(power);
        for entry in &mut row {
            *entry *= factor;
        }
        let largest = widen(A::max_value());
        row.iter()
            .map(|v| narrow(v.clamp(-largest, largest)))
            .collect()
    }

    fn ulps(&mut self) -> i64 {
        let steps = 1 + self.below(64) as i64;
        if self.sign() < 0.0 { -steps } else { steps }
    }

    /// A number next to 0 or ±1, a power of two, or a plain one.
    fn edge<A: Float>(&mut self, wildness: Wildness) -> f64 {
        match self.below(8) {
            0 => 0.0,
            1 => -0.0,
            2 => widen(step(narrow::<A>(1.0), self.ulps())) * self.sign(),
            3 => self.sign(),
            4 if wildness >= Wildness::Ends => widen(step(A::zero(), self.ulps())),
            5 if wildness >= Wildness::Lengths => {
                self.sign() * 2.0_f64.powi(self.below(121) as i32 - 60)
            }
            6 if wildness >= Wildness::Ends => self.extreme::<A>(),
            _ => self.sign() * (1 + self.below(8)) as f64 / 4.0,
        }
    }

    /// A number at one of the ends of the range of the type.
    fn extreme<A: Float>(&mut self) -> f64 {
        let largest = widen(A::max_value());
        let least = widen(A::min_positive_value());
        match self.below(6) {
            0 => least,
            1 => least / 2.0,
            2 => widen(step(A::zero(), 1 + self.below(64) as i64)),
            3 => largest,
            4 => largest.sqrt(),
            _ => least.sqrt(),
        }
    }

    /// Seldom, and then one thing: a number that is none, a label out of range, a row weight too many.
    fn poison<A: Float>(&mut self, batch: &mut Batch<A>) {
        let value = self.of(&[A::nan(), A::infinity(), A::neg_infinity()]);
        let place = self.byte();
        let set = |matrix: &mut Array2<A>| {
            let len = matrix.len().max(1);
            if let Some(entry) = matrix.iter_mut().nth(place % len) {
                *entry = value;
            }
        };
        match self.below(16) {
            1 => set(&mut batch.features),
            2 => set(&mut batch.weights),
            3 => set(&mut batch.centers),
            4 => {
                let rows = batch.labels.len().max(1);
                if let Some(label) = batch.labels.get_mut(place % rows) {
                    *label = self.of(&[batch.weights.nrows(), usize::MAX, 1 << 32]);
                }
            }
            5 => {
                let rows = batch.row_weights.len().max(1);
                if let Some(weight) = batch.row_weights.get_mut(place % rows) {
                    *weight = value;
                }
            }
            6 => batch.row_weights.push(A::one()),
            7 => batch.labels.push(0),
            8 => drop(batch.labels.pop()),
            _ => {}
        }
    }

    fn spec(&mut self, classes: usize, bad: bool) -> Spec {
        let joint = self.one_in(8);
        let classifier = match self.below(16) {
            0 => Spec::ArcFace {
                scale: self.scale(bad),
                margin: self.angular(bad),
                past_pi: self.of(&RULES),
            },
            1 => Spec::Softmax { bias: Vec::new() },
            2 => {
                let classes = classes + usize::from(bad && self.one_in(16));
                let mut rng = SplitMix(self.word());
                let size = self.of(&[1.0, 0.0, 100.0, 1e-30, 1e30]);
                Spec::Softmax {
                    bias: (0..classes).map(|_| size * rng.normal()).collect(),
                }
            }
            3 => Spec::ModifiedSoftmax,
            // Joined with itself it is one center loss for the class weights and one for the centers: not in the oracle.
            4 if joint => Spec::ModifiedSoftmax,
            4 => Spec::Center,
            5 | 6 => Spec::ASoftmax {
                m: if bad && self.one_in(8) {
                    self.of(&[0, 1001, u32::MAX])
                } else {
                    self.of(&[4, 1, 2, 3, 7, 10, 1000])
                },
                lambda: if bad && self.one_in(8) {
                    self.bad_number()
                } else {
                    self.of(&[0.0, 5.0, 1000.0, 1e-300, 1e300, 0.5])
                },
            },
            7 => Spec::NormFace {
                scale: self.scale(bad),
                learned: self.one_in(2),
            },
            8 => match self.below(3) {
                0 => Spec::AmSoftmax {
                    scale: self.scale(bad),
                    margin: self.cosine(bad),
                },
                1 => Spec::AdaFace {
                    scale: self.scale(bad),
                    margin: self.of(&[0.4, 0.0, 0.8]),
                    // Others would couple the rows.
                    momentum: self.seldom(bad, 0.0),
                    statistics: [
                        self.of(&[2.0, 20.0, 0.0, 100.0]),
                        self.of(&[0.3, 100.0, 2.0]),
                    ],
                    turned_angle: self.of(&[TurnedAngle::Paper, TurnedAngle::Clipped]),
                },
                _ => Spec::MagFace {
                    scale: self.scale(bad),
                    margins: self.of(&[[0.45, 0.8], [0.0, 1.5], [0.5, 0.5]]),
                    norms: self.of(&[[0.3, 6.1], [10.0, 110.0]]),
                    regulariser: self.of(&[0.0, 0.5, 35.0]) + self.seldom(bad, 0.0),
                    past_pi: self.of(&[
                        PastPi::Paper,
                        PastPi::SmoothTail,
                        PastPi::CosineTail,
                        PastPi::EasyMargin,
                    ]),
                },
            },
            9 => Spec::CosFace {
                scale: self.scale(bad),
                margin: self.cosine(bad),
            },
            10 => Spec::Combined {
                scale: self.scale(bad),
                m1: if bad && self.one_in(8) {
                    self.bad_number()
                } else {
                    self.of(&[1.0, 0.9, 1.35, 4.0, 1e-3, 1000.0])
                },
                m2: self.angular(bad),
                m3: self.cosine(bad),
            },
            11 => {
                let classes = classes + usize::from(bad && self.one_in(16));
                let past_pi = self.of(&[None, Some(PastPi::Paper), Some(PastPi::SmoothTail)]);
                let margin = |tape: &mut Self| match past_pi {
                    None => tape.cosine(bad),
                    Some(_) => tape.angular(bad),
                };
                Spec::ByClass {
                    scale: self.scale(bad),
                    margins: (0..classes).map(|_| margin(self)).collect(),
                    past_pi,
                }
            }
            12 => {
                let arc = self.one_in(2);
                Spec::MvSoftmax {
                    scale: self.scale(bad),
                    margin: if arc {
                        self.angular(bad)
                    } else {
                        self.cosine(bad)
                    },
                    t: if bad && self.one_in(8) {
                        self.bad_number()
                    } else {
                        self.of(&[0.2, 0.0, 1.0, 100.0, 1e-9])
                    },
                    arc,
                    fixed: self.one_in(2),
                    easy: self.one_in(2),
                }
            }
            13 => Spec::Filtered {
                scale: self.scale(bad),
                margin: self.cosine(bad),
                past_pi: None,
                threshold: if bad && self.one_in(8) {
                    self.of(&[f64::NAN, 1.1, -2.0])
                } else {
                    self.of(&[0.4, 0.0, -0.5, 0.9])
                },
            },
            // With a t that stays: it couples the rows.
            14 => Spec::CurricularFace {
                scale: self.scale(bad),
                margin: self.angular(bad),
                past_pi: self.of(&[PastPi::Paper, PastPi::LinearTail]),
                momentum: 0.0,
                t: if bad && self.one_in(8) {
                    self.of(&[f64::NAN, 1.1, -2.0])
                } else {
                    self.of(&[0.3, 0.0, 1.0, -0.5])
                },
            },
            _ => match self.below(4) {
                0 => Spec::User {
                    scale: self.scale(bad),
                    learned: self.one_in(2),
                },
                1 => Spec::SphereFace2 {
                    scale: self.scale(bad),
                    margin: self.cosine(bad),
                    power: self.of(&[3, 2, 1]) + 3 * u32::from(bad && self.one_in(8)),
                    bias: self.of(&[0.0, 14.3, -3.0]) + self.seldom(bad, 0.0),
                    undivided: self.one_in(2),
                },
                2 => {
                    let classes = classes + usize::from(bad && self.one_in(16));
                    let biases = if self.one_in(2) { 1 } else { classes.max(1) };
                    Spec::UniFace {
                        scale: self.scale(bad),
                        margin: self.cosine(bad),
                        lambda: self.of(&[1.0, 0.0, 0.5, 1e6]) + self.seldom(bad, 0.0),
                        biases: (0..biases)
                            .map(|_| self.of(&[0.0, 3.9, -3.0, 100.0]) + self.seldom(bad, 0.0))
                            .collect(),
                    }
                }
                _ => Spec::Distances {
                    margin: self.of(&[1.0, 0.8, 0.0, 2.0, 4.0]) + self.seldom(bad, 0.0),
                    relative: self.one_in(2),
                },
            },
        };
        if joint {
            Spec::Joint {
                classifier: Box::new(classifier),
                lambda: if bad && self.one_in(8) {
                    self.bad_number()
                } else {
                    self.of(&[0.003, 0.0, 1.0, 1e-30, 1e30])
                },
            }
        } else {
            classifier
        }
    }

    /// The number, or one that is out of range.
    fn seldom(&mut self, bad: bool, number: f64) -> f64 {
        if bad && self.one_in(8) {
            self.bad_number()
        } else {
            number
        }
    }

    fn bad_number(&mut self) -> f64 {
        self.of(&[f64::NAN, -1.0, f64::INFINITY, f64::NEG_INFINITY, -1e-300])
    }

    fn scale(&mut self, bad: bool) -> f64 {
        if bad && self.one_in(16) {
            return self.of(&[0.0, -64.0, f64::NAN, f64::INFINITY, 1e-7, 1.1e6]);
        }
        self.of(&[64.0, 1.0, 30.0, 4.0, 16.0, 1e-6, 1000.0, 1e6])
    }

    fn angular(&mut self, bad: bool) -> f64 {
        if bad && self.one_in(16) {
            return self.of(&[core::f64::consts::PI, -0.1, f64::NAN, 4.0]);
        }
        self.of(&[0.5, 0.0, 0.3, 1.5, 3.1, 1e-9])
    }

    fn cosine(&mut self, bad: bool) -> f64 {
        if bad && self.one_in(16) {
            return self.of(&[2.000_001, -0.1, f64::NAN]);
        }
        self.of(&[0.35, 0.0, 0.4, 2.0, 1e-9])
    }
}

/// How many powers of two there are on either side of 1, about.
fn reach<A: Float>() -> u64 {
    if size_of::<A>() == 4 { 126 } else { 1022 }
}

impl<A: Float> Scenario<A> {
    /// The batch of some of its rows, in that order.
    pub(crate) fn of_rows(&self, rows: &[usize]) -> Batch<A> {
        Batch {
            features: self.batch.features.select(Axis(0), rows),
            labels: rows.iter().map(|&row| self.batch.labels[row]).collect(),
            row_weights: rows
                .iter()
                .map(|&row| self.batch.row_weights[row])
                .collect(),
            ..self.batch.clone()
        }
    }
}
