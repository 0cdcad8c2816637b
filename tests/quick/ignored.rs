//! Rows that are ignored, weights of labels, and what the mean divides by.

use std::sync::Mutex;

use margin_losses::{
    AnyLoss, ArcFace, Argument, CenterLoss, ClassBlock, Error, Evaluation, Float, JointLoss,
    Labels, Margin, MarginLoss, MarginSoftmax, NormFace, PastPi, Reduction, Request, SoftmaxLoss,
    Target, TargetLogit, Targets,
};
use ndarray::{Array1, Array2, Axis, array};

use crate::support::refusal::{
    CLASSES, ROWS, assert_refused, for_every_loss, good, patterned, weights_argument,
};
use crate::support::{Batch, Case, Snapshot, assert_close, bits, every_loss, narrow, wide, widen};

const EVERY_REDUCTION: [Reduction; 5] = [
    Reduction::Mean,
    Reduction::BatchMean,
    Reduction::WeightedMean,
    Reduction::Sum,
    Reduction::None,
];

/// A batch that PyTorch was given: its features and weights, and labels of which the second is to be ignored.
struct Shown {
    features: Array2<f64>,
    weights: Array2<f64>,
}

const SHOWN_LABELS: [usize; 5] = [0, 3, 2, 5, 3];
const SHOWN_COUNT: [usize; 4] = [0, 2, 3, 4];
const LABEL_WEIGHTS: [f64; 6] = [0.5, 1.0, 2.0, 1.5, 0.75, 3.0];
const ROW_WEIGHTS: [f64; 5] = [1.0, 7.0, 0.25, 2.0, 0.5];

impl Shown {
    fn new() -> Self {
        Self {
            features: Array2::from_shape_fn((5, 4), |(i, j)| {
                (1.0 + 4.0 * i as f64 + 1.7 * j as f64).sin()
            }),
            weights: Array2::from_shape_fn((6, 4), |(c, j)| {
                (0.5 + 1.3 * c as f64 + 0.7 * (j * (1 + c)) as f64).cos()
            }),
        }
    }

    /// ℓ of ArcFace(16, 0.3), as it is written in the paper.
    fn row_loss(&self, row: usize) -> f64 {
        let x = self.features.row(row);
        let mut cosines = self
            .weights
            .outer_iter()
            .map(|w| x.dot(&w) / (x.dot(&x) * w.dot(&w)).sqrt());
        let logits: Vec<f64> = (0..6)
            .map(|class| {
                let cosine: f64 = cosines.next().expect("six classes");
                let turned = if class == SHOWN_LABELS[row] {
                    cosine.acos() + 0.3
                } else {
                    cosine.acos()
                };
                16.0 * turned.cos()
            })
            .collect();
        logits.iter().map(|z| z.exp()).sum::<f64>().ln() - logits[SHOWN_LABELS[row]]
    }

    /// `Σ weightᵢ ℓᵢ / divisor` over the rows that count.
    fn loss(&self, weights: [f64; 5], divisor: f64) -> f64 {
        let terms = SHOWN_COUNT.map(|row| weights[row] * self.row_loss(row));
        terms.iter().sum::<f64>() / divisor
    }

    /// The derivatives of that, by central differences.
    fn gradients(&mut self, weights: [f64; 5], divisor: f64) -> [Array2<f64>; 2] {
        const STEP: f64 = 1e-5;
        let mut gradients = [Array2::zeros((5, 4)), Array2::zeros((6, 4))];
        for (which, gradient) in gradients.iter_mut().enumerate() {
            for (index, entry) in gradient.indexed_iter_mut() {
                let mut at = |step: f64| {
                    let matrix = if which == 0 {
                        &mut self.features
                    } else {
                        &mut self.weights
                    };
                    matrix[index] += step;
                    let loss = self.loss(weights, divisor);
                    let matrix = if which == 0 {
                        &mut self.features
                    } else {
                        &mut self.weights
                    };
                    matrix[index] -= step;
                    loss
                };
                *entry = (at(STEP) - at(-STEP)) / (2.0 * STEP);
            }
        }
        gradients
    }

    fn evaluate(&self, targets: &Targets<'_, f64>) -> Evaluation<f64> {
        let loss = ArcFace::new(16.0, 0.3)
            .expect("in range")
            .with_past_pi(PastPi::Paper);
        let (x, w) = (self.features.view(), self.weights.view());
        loss.evaluate(x, w, targets).expect("a good batch")
    }
}

fn norm(matrix: &Array2<f64>) -> f64 {
    matrix.mapv(|entry| entry * entry).sum().sqrt()
}

/// What `F.cross_entropy(…, ignore_index=-100)` gives.
#[test]
fn the_mean_is_that_of_pytorch() {
    let mut shown = Shown::new();
    let [by_features, by_weights] = shown.gradients([1.0; 5], 4.0);
    let expected = shown.loss([1.0; 5], 4.0);
    assert!((expected - 16.934_424_35).abs() < 5e-9, "{expected}");
    assert!((norm(&by_features) - 6.419_12).abs() < 5e-6);
    assert!((norm(&by_weights) - 3.848_13).abs() < 5e-6);

    let (signed, bytes) = ([0_i64, -100, 2, 5, 3], [0_u8, 255, 2, 5, 3]);
    let mask = [false, true, false, false, false];
    for targets in [
        Targets::new(&signed).with_ignored_label(-100),
        Targets::new(&bytes).with_ignored_label(255),
        Targets::new(&SHOWN_LABELS).with_ignored_rows(&mask),
        Targets::new(&signed).with_ignored_rows(&mask),
    ] {
        let found = shown.evaluate(&targets);
        assert!(
            (found.loss() - expected).abs() < 1e-13 * expected,
            "{}",
            found.loss()
        );
        assert_close("∂X", &wide(&found.grad_features), &wide(&by_features), 1e-8);
        assert_close("∂W", &wide(&found.grad_weights), &wide(&by_weights), 1e-8);
        let of_all = shown.evaluate(&targets.with_reduction(Reduction::BatchMean));
        assert!(
            (of_all.loss() - 13.547_539_48).abs() < 5e-9,
            "{}",
            of_all.loss()
        );
    }
}

/// The rule that PyTorch documents for `F.cross_entropy(…, weight=…)`, and the same over the number of rows; alone and with row
/// weights.
#[test]
fn weights_of_labels_are_those_of_pytorch() {
    let mut shown = Shown::new();
    let targets = Targets::new(&SHOWN_LABELS)
        .with_ignored_rows(&[false, true, false, false, false])
        .with_label_weights(&LABEL_WEIGHTS);
    let by_label = SHOWN_LABELS.map(|label| LABEL_WEIGHTS[label]);
    let both = [0, 1, 2, 3, 4].map(|row| by_label[row] * ROW_WEIGHTS[row]);
    for (targets, weights) in [
        (targets, by_label),
        (targets.with_row_weights(&ROW_WEIGHTS), both),
    ] {
        let sum = SHOWN_COUNT.map(|row| weights[row]).iter().sum();
        for (reduction, divisor) in [
            (Reduction::Mean, 4.0),
            (Reduction::BatchMean, 5.0),
            (Reduction::WeightedMean, sum),
            (Reduction::Sum, 1.0),
            (Reduction::None, 1.0),
        ] {
            let found = shown.evaluate(&targets.with_reduction(reduction));
            let expected = shown.loss(weights, divisor);
            let off = (found.loss() - expected).abs();
            assert!(off < 1e-13 * expected, "{reduction}: {off:e}");
            let [by_features, by_weights] = shown.gradients(weights, divisor);
            assert_close("∂X", &wide(&found.grad_features), &wide(&by_features), 1e-8);
            assert_close("∂W", &wide(&found.grad_weights), &wide(&by_weights), 1e-8);
        }
    }
    let found = shown.evaluate(&targets.with_reduction(Reduction::WeightedMean));
    assert!(
        (found.loss() - 18.903_491_120_191_8).abs() < 1e-11,
        "{}",
        found.loss()
    );
}

/// A batch, the same with rows that nobody may look at, and which these are.
struct Holed<A> {
    few: Batch<A>,
    all: Batch<A>,
    ignored: Vec<bool>,
    label_weights: Vec<A>,
}

impl<A: Float> Holed<A> {
    const COUNT: [usize; 4] = [0, 2, 3, 6];

    fn new(classes: usize) -> Self {
        let mut all = Batch::<A>::random(301, 8, classes, 5);
        all.row_weights = (0..8).map(|row| narrow(0.5 + f64::from(row))).collect();
        let few = Batch {
            features: all.features.select(Axis(0), &Self::COUNT),
            labels: Self::COUNT.map(|row| all.labels[row]).to_vec(),
            row_weights: Self::COUNT.map(|row| all.row_weights[row]).to_vec(),
            ..all.clone()
        };
        let ignored: Vec<bool> = (0..8).map(|row| !Self::COUNT.contains(&row)).collect();
        for row in (0..8).filter(|&row| ignored[row]) {
            all.labels[row] = usize::MAX;
            all.row_weights[row] = [A::nan(), -A::one()][row % 2];
            all.features
                .row_mut(row)
                .fill([A::nan(), A::zero(), A::infinity()][row % 3]);
        }
        let label_weights = (0..classes)
            .map(|class| narrow(0.25 * (class % 5) as f64))
            .collect();
        Self {
            few,
            all,
            ignored,
            label_weights,
        }
    }

    /// The targets of either batch, by name and by label.
    fn targets(&self, reduction: Reduction, weighted: bool) -> [Targets<'_, A>; 3] {
        let mut few = Targets::new(&self.few.labels).with_reduction(reduction);
        let mut all = Targets::new(&self.all.labels).with_reduction(reduction);
        if weighted {
            few = few
                .with_row_weights(&self.few.row_weights)
                .with_label_weights(&self.label_weights);
            all = all
                .with_row_weights(&self.all.row_weights)
                .with_label_weights(&self.label_weights);
        }
        let label = usize::MAX as i128;
        [
            few,
            all.with_ignored_rows(&self.ignored),
            all.with_ignored_label(label),
        ]
    }

    /// What an evaluation of the few is, as one of all.
    fn spread(&self, few: &Evaluation<A>) -> Evaluation<A> {
        let mut whole = few.clone();
        let vector = |few: &Array1<A>| {
            let mut all = Array1::zeros(8);
            for (&row, &entry) in Self::COUNT.iter().zip(few) {
                all[row] = entry;
            }
            all
        };
        whole.forward.row_losses = vector(&few.forward.row_losses);
        whole.forward.target_logits = vector(&few.forward.target_logits);
        whole.forward.target_cosines = vector(&few.forward.target_cosines);
        if !few.forward.correct.is_empty() {
            whole.forward.correct = Array1::from_elem(8, false);
            for (&row, &right) in Self::COUNT.iter().zip(&few.forward.correct) {
                whole.forward.correct[row] = right;
            }
        }
        whole.forward.ignored = self.ignored.clone().into();
        if few.grad_features.nrows() > 0 {
            whole.grad_features = Array2::zeros((8, 5));
            for (&row, gradient) in Self::COUNT.iter().zip(few.grad_features.outer_iter()) {
                whole.grad_features.row_mut(row).assign(&gradient);
            }
        }
        whole
    }
}

/// By every method, into evaluations that are kept, with every reduction and both element types: the bits of the batch
/// without the rows, and zeros in their places.
fn ignored_rows_are_not_there<A: Float>() {
    let holed = Holed::<A>::new(11);
    for case in every_loss(holed.all.centers.view()) {
        let (mut kept, mut kept_forward) = (Evaluation::new(), Evaluation::new());
        for reduction in [
            Reduction::Mean,
            Reduction::WeightedMean,
            Reduction::Sum,
            Reduction::None,
        ] {
            for weighted in [false, true] {
                let [few, by_name, by_label] = holed.targets(reduction, weighted);
                let (x, w) = (holed.few.features.view(), holed.few.weights.view());
                let expected = case.loss.evaluate(x, w, &few).expect("a good batch");
                let accuracy = expected.forward.accuracy();
                let expected = holed.spread(&expected);
                let x = holed.all.features.view();
                for targets in [by_name, by_label] {
                    case.loss
                        .evaluate_into(x, w, &targets, &mut kept)
                        .expect("nobody looks");
                    assert_eq!(
                        Snapshot::of(&kept),
                        Snapshot::of(&expected),
                        "{}",
                        case.name
                    );
                    assert_eq!(kept.forward, expected.forward, "{}", case.name);
                    assert_eq!(kept.forward.accuracy(), accuracy, "{}", case.name);
                    let fresh = case.loss.evaluate(x, w, &targets).expect("nobody looks");
                    assert_eq!(
                        Snapshot::of(&fresh),
                        Snapshot::of(&expected),
                        "{}",
                        case.name
                    );
                    let forward = case.loss.forward(x, w, &targets).expect("nobody looks");
                    assert_eq!(forward, expected.forward, "{}", case.name);
                    case.loss
                        .forward_into(x, w, &targets, &mut kept_forward)
                        .expect("nobody looks");
                    assert_eq!(kept_forward.forward, expected.forward, "{}", case.name);
                    assert_eq!(kept_forward.grad_features.dim(), (0, 5), "{}", case.name);
                }
                // What comes next has nothing of it.
                let x = holed.few.features.view();
                case.loss
                    .evaluate_into(x, w, &few, &mut kept)
                    .expect("a good batch");
                assert_eq!(kept.forward.ignored.len(), 0, "{}", case.name);
                assert_eq!(kept.grad_features.dim(), (4, 5), "{}", case.name);
            }
        }
    }
}

#[test]
fn ignored_rows_are_not_there_in_either_type() {
    ignored_rows_are_not_there::<f32>();
    ignored_rows_are_not_there::<f64>();
}

/// Streamed, over more classes than one block has.
fn streamed<A: Float>() {
    let holed = Holed::<A>::new(700);
    let [few, by_name, _] = holed.targets(Reduction::Mean, true);
    for case in every_loss(holed.all.centers.view()) {
        let w = holed.few.weights.view();
        let expected = case
            .loss
            .evaluate(holed.few.features.view(), w, &few)
            .expect("a good batch");
        let expected = holed.spread(&expected);
        let mut weights = holed.all.weights.clone();
        let mut gradient = Array2::from_elem(weights.dim(), A::nan());
        let mut out = Evaluation::new();
        let mut update = |block: ClassBlock<'_, A>| {
            for (class, row) in block.classes.zip(block.gradient.outer_iter()) {
                gradient.row_mut(class).assign(&row);
            }
        };
        let x = holed.all.features.view();
        case.loss
            .evaluate_streamed(x, weights.view_mut(), &by_name, &mut out, &mut update)
            .expect("nobody looks");
        out.grad_weights = gradient;
        assert_eq!(Snapshot::of(&out), Snapshot::of(&expected), "{}", case.name);
        assert_eq!(out.forward, expected.forward, "{}", case.name);
    }
}

#[test]
fn streaming_ignores_the_same_rows() {
    streamed::<f32>();
    streamed::<f64>();
}

/// The mean over all rows of the batch is the sum over their number.
fn batch_mean<A: Float>() {
    let holed = Holed::<A>::new(11);
    let w = holed.all.weights.view();
    for case in every_loss(holed.all.centers.view()) {
        for weighted in [false, true] {
            let [_, sum, _] = holed.targets(Reduction::Sum, weighted);
            let x = holed.all.features.view();
            let mean = sum.with_reduction(Reduction::BatchMean);
            let sum = case.loss.evaluate(x, w, &sum).expect("nobody looks");
            let mean = case.loss.evaluate(x, w, &mean).expect("nobody looks");
            for (sum, mean) in [
                (vec![widen(sum.loss())], vec![widen(mean.loss())]),
                (wide(&sum.grad_features), wide(&mean.grad_features)),
                (wide(&sum.grad_weights), wide(&mean.grad_weights)),
                (wide(&sum.grad_centers), wide(&mean.grad_centers)),
                (wide(&sum.grad_learnables), wide(&mean.grad_learnables)),
            ] {
                let eighth: Vec<f64> = sum.iter().map(|entry| entry / 8.0).collect();
                assert_close(&case.name, &mean, &eighth, 64.0 * widen(A::epsilon()));
            }
        }
    }
}

#[test]
fn the_batch_mean_divides_by_all_rows() {
    batch_mean::<f32>();
    batch_mean::<f64>();
}

/// Weights of labels are row weights that know the class: powers of two, so that products are exact.
fn label_weights_are_row_weights<A: Float>() {
    let batch = Batch::<A>::random(302, 6, 5, 4);
    let label_weights: Vec<A> = [1.0, 0.5, 0.0, 4.0, 2.0].map(narrow).to_vec();
    let row_weights: Vec<A> = [1.0, 0.25, -2.0, 0.0, 8.0, -1.0].map(narrow).to_vec();
    let products: Vec<A> = (0..6)
        .map(|row| row_weights[row] * label_weights[batch.labels[row]])
        .collect();
    let (x, w) = (batch.features.view(), batch.weights.view());
    for case in every_loss(batch.centers.view()) {
        for reduction in EVERY_REDUCTION {
            let either_sign = reduction == Reduction::None;
            let sign = |weights: &[A]| -> Vec<A> {
                weights
                    .iter()
                    .map(|weight| if either_sign { *weight } else { weight.abs() })
                    .collect()
            };
            let (rows, products) = (sign(&row_weights), sign(&products));
            let plain = Targets::new(&batch.labels).with_reduction(reduction);
            let folded = case.loss.evaluate(x, w, &plain.with_row_weights(&products));
            let apart = plain
                .with_row_weights(&rows)
                .with_label_weights(&label_weights);
            let apart = case.loss.evaluate(x, w, &apart);
            assert_eq!(
                Snapshot::of(&apart.expect("a good batch")),
                Snapshot::of(&folded.expect("a good batch")),
                "{}, {reduction}",
                case.name
            );
        }
        // Without a weight the weighted mean is the mean, to the bit; nor do equal weights matter, however large.
        let plain = Targets::new(&batch.labels);
        let equal = vec![A::max_value(); 6];
        let weighted = plain.with_reduction(Reduction::WeightedMean);
        let mean = Snapshot::of(&case.loss.evaluate(x, w, &plain).expect("a good batch"));
        for targets in [
            plain.with_reduction(Reduction::BatchMean),
            weighted,
            weighted.with_row_weights(&equal),
        ] {
            let found = case.loss.evaluate(x, w, &targets).expect("a good batch");
            assert_eq!(Snapshot::of(&found), mean, "{}", case.name);
        }
    }
}

#[test]
fn label_weights_are_row_weights_in_either_type() {
    label_weights_are_row_weights::<f32>();
    label_weights_are_row_weights::<f64>();
}

const MASK: [bool; ROWS] = [true, false, true, false, false];

/// Errors name the row of the caller's batch, and nothing is written.
fn named<A: Float>(case: &Case<'_, A>) {
    let clean = |batch: &mut Batch<A>| {
        batch.features.row_mut(0).fill(A::nan());
        batch.labels[2] = 1 << 40;
    };
    let (argument, row) = (Argument::Features, 4);
    let mut batch = good::<A>();
    clean(&mut batch);
    batch.features[[row, 1]] = A::nan();
    let targets = Targets::new(&batch.labels).with_ignored_rows(&MASK);
    assert_refused(case, &batch, &targets, &Error::NonFinite { argument, row });
    if case.needs_feature_norms() {
        batch.features.row_mut(row).fill(A::zero());
        assert_refused(case, &batch, &targets, &Error::ZeroNorm { argument, row });
        batch.features.row_mut(row).fill(A::min_positive_value());
        assert_refused(
            case,
            &batch,
            &targets,
            &Error::NormTooSmall { argument, row },
        );
    }

    let mut batch = good::<A>();
    clean(&mut batch);
    let mut labels: Vec<i64> = batch.labels.iter().map(|&label| label as i64).collect();
    labels[3] = -1;
    let targets = Targets::new(&labels).with_ignored_rows(&MASK);
    let expected = Error::LabelOutOfRange {
        row: 3,
        label: -1,
        classes: CLASSES,
    };
    assert_refused(case, &batch, &targets, &expected);
    assert_eq!(
        expected.to_string(),
        "labels row 3 is -1, but there are 4 classes; rows can be ignored by with_ignored_label"
    );

    let argument = Argument::RowWeights;
    let mut row_weights = vec![A::one(); ROWS];
    row_weights[2] = A::nan();
    for (weight, expected) in [
        (-A::one(), Error::NegativeWeight { argument, row: 3 }),
        (A::infinity(), Error::NonFinite { argument, row: 3 }),
    ] {
        row_weights[3] = weight;
        let targets = Targets::new(&batch.labels)
            .with_ignored_rows(&MASK)
            .with_row_weights(&row_weights);
        assert_refused(case, &batch, &targets, &expected);
    }
    let few = vec![A::one(); 3];
    let targets = Targets::new(&batch.labels)
        .with_ignored_rows(&MASK)
        .with_row_weights(&few);
    let expected = Error::RowCount {
        argument,
        expected: ROWS,
        found: 3,
    };
    assert_refused(case, &batch, &targets, &expected);

    // What is wrong with a class is no row of the batch.
    let argument = weights_argument(case);
    batch.weights[[1, 0]] = A::nan();
    let targets = Targets::new(&batch.labels).with_ignored_rows(&MASK);
    assert_refused(
        case,
        &batch,
        &targets,
        &Error::NonFinite { argument, row: 1 },
    );
}

#[test]
fn errors_name_the_rows_of_the_whole_batch() {
    for_every_loss(named, named);
}

/// Masks and weights of labels that do not fit.
fn misfits<A: Float>(case: &Case<'_, A>) {
    let batch = good::<A>();
    for found in [0, ROWS - 1, ROWS + 1] {
        let mask = vec![true; found];
        let targets = Targets::new(&batch.labels).with_ignored_rows(&mask);
        let argument = Argument::IgnoredRows;
        assert_refused(
            case,
            &batch,
            &targets,
            &Error::RowCount {
                argument,
                expected: ROWS,
                found,
            },
        );
    }
    let mut short = good::<A>();
    short.labels = vec![0; ROWS - 1];
    let targets = Targets::new(&short.labels).with_ignored_label(0);
    let expected = Error::RowCount {
        argument: Argument::Labels,
        expected: ROWS,
        found: ROWS - 1,
    };
    assert_refused(case, &short, &targets, &expected);

    let argument = Argument::LabelWeights;
    for reduction in EVERY_REDUCTION {
        let plain = Targets::new(&batch.labels).with_reduction(reduction);
        for found in [0, CLASSES - 1, CLASSES + 1] {
            let weights = vec![A::one(); found];
            let expected = Error::RowCount {
                argument,
                expected: CLASSES,
                found,
            };
            assert_refused(case, &batch, &plain.with_label_weights(&weights), &expected);
        }
        for row in 0..CLASSES {
            for (weight, expected) in [
                (A::nan(), Error::NonFinite { argument, row }),
                (A::infinity(), Error::NonFinite { argument, row }),
                (
                    -A::min_positive_value(),
                    Error::NegativeWeight { argument, row },
                ),
            ] {
                let mut weights = vec![A::one(); CLASSES];
                weights[row] = weight;
                assert_refused(case, &batch, &plain.with_label_weights(&weights), &expected);
            }
        }
        let mut huge = vec![A::one(); ROWS];
        huge[3] = A::max_value();
        let twice = vec![narrow(2.0); CLASSES];
        let targets = plain.with_row_weights(&huge).with_label_weights(&twice);
        let expected = Error::Overflow {
            quantity: "weight",
            argument: Argument::RowWeights,
            row: 3,
        };
        assert_refused(case, &batch, &targets, &expected);
        let mask = [true, true, false, false, false];
        assert_refused(case, &batch, &targets.with_ignored_rows(&mask), &expected);
    }
}

#[test]
fn masks_and_label_weights_that_do_not_fit() {
    for_every_loss(misfits, misfits);
}

/// Where no row is left, a mean over the rows that count is refused; all else is 0.
fn nothing_left<A: Float>(case: &Case<'_, A>) {
    let batch = good::<A>();
    let (x, w) = (batch.features.view(), batch.weights.view());
    let plain = Targets::new(&batch.labels).with_ignored_rows(&[true; ROWS]);
    for reduction in EVERY_REDUCTION {
        let targets = plain.with_reduction(reduction);
        if matches!(reduction, Reduction::Mean | Reduction::WeightedMean) {
            assert_refused(case, &batch, &targets, &Error::EmptyBatch);
            continue;
        }
        let found = case.loss.evaluate(x, w, &targets).expect("nothing to do");
        assert_eq!(found.loss(), A::zero(), "{}", case.name);
        assert_eq!(found.forward.row_losses, Array1::<A>::zeros(ROWS));
        assert_eq!(found.forward.accuracy(), None);
        assert_eq!(found.grad_features, batch.features.mapv(|_| A::zero()));
        assert_eq!(found.grad_weights, batch.weights.mapv(|_| A::zero()));
    }
    let nothing = [A::zero(); ROWS];
    let weightless = Targets::new(&batch.labels)
        .with_row_weights(&nothing)
        .with_reduction(Reduction::WeightedMean);
    assert_refused(case, &batch, &weightless, &Error::ZeroWeights);
    let mut one = nothing;
    one[2] = A::one();
    let ignored = Targets::new(&batch.labels)
        .with_ignored_rows(&MASK)
        .with_row_weights(&one)
        .with_reduction(Reduction::WeightedMean);
    assert_refused(case, &batch, &ignored, &Error::ZeroWeights);
}

#[test]
fn no_row_left_and_no_weight_left() {
    for_every_loss(nothing_left, nothing_left);
}

#[test]
fn accuracy_is_that_of_the_rows_that_count() -> Result<(), Error> {
    let x = array![[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.2, 1.0]];
    let w = array![[1.0, 0.0], [0.0, 1.0]];
    let loss = NormFace::new(4.0)?;
    let labels = [0, 1, 1, 0];
    let plain = Targets::new(&labels);
    let accuracy =
        |targets: &Targets<'_, f64>| Ok(loss.forward(x.view(), w.view(), targets)?.accuracy());
    assert_eq!(accuracy(&plain), Ok::<_, Error>(Some(0.5)));
    let found = loss.forward(
        x.view(),
        w.view(),
        &plain.with_ignored_rows(&[false, true, true, true]),
    )?;
    assert_eq!(found.accuracy(), Some(1.0));
    assert_eq!(found.correct.to_vec(), [true, false, false, false]);
    assert_eq!(found.ignored.to_vec(), [false, true, true, true]);
    // A class that is ignored.
    assert_eq!(accuracy(&plain.with_ignored_label(1)), Ok(Some(0.5)));
    Ok(())
}

/// The step of the centers takes the rule along, and its errors name the rows of the batch.
fn centers<A: Float>() {
    let holed = Holed::<A>::new(5);
    let expected = holed.few.stepped(0.5);
    let [_, by_name, by_label] = holed.targets(Reduction::Mean, false);
    for labels in [by_name.labels(), by_label.labels()] {
        let mut found = holed.all.centers.clone();
        let x = holed.all.features.view();
        assert_eq!(
            CenterLoss::update_centers(found.view_mut(), x, labels, 0.5),
            Ok(())
        );
        assert_eq!(bits(&found), bits(&expected));
        let mut bad = holed.all.features.clone();
        bad[[3, 1]] = A::nan();
        let refused = CenterLoss::update_centers(found.view_mut(), bad.view(), labels, 0.5);
        let argument = Argument::Features;
        assert_eq!(refused, Err(Error::NonFinite { argument, row: 3 }));
        assert_eq!(bits(&found), bits(&expected), "nothing is written");
    }
}

#[test]
fn ignored_rows_move_no_center() -> Result<(), Error> {
    centers::<f32>();
    centers::<f64>();
    // A row of weight 0 is not ignored, and no weight enters.
    let (features, start) = (array![[100.0, 100.0]], array![[0.0, 0.0], [1.0, 1.0]]);
    let mut centers = start.clone();
    CenterLoss::update_centers(centers.view_mut(), features.view(), &[0], 0.5)?;
    assert_eq!(centers, array![[25.0, 25.0], [1.0, 1.0]]);
    let mut centers = start.clone();
    let labels = Labels::from(&[0]).with_ignored_rows(&[true]);
    CenterLoss::update_centers(centers.view_mut(), features.view(), labels, 0.5)?;
    assert_eq!(centers, start);
    Ok(())
}

/// A margin by row, which keeps what it was asked.
#[derive(Debug)]
struct ByRow {
    margins: Vec<f64>,
    asked: Mutex<Vec<usize>>,
}

impl ByRow {
    fn new(margins: &[f64]) -> Self {
        Self {
            margins: margins.to_vec(),
            asked: Mutex::default(),
        }
    }
}

impl Margin for ByRow {
    fn target_logit(&self, target: &Target) -> TargetLogit {
        self.asked.lock().expect("no panic").push(target.row());
        let turned = target.radians() + self.margins[target.row()];
        TargetLogit::from_angle_slope(turned.cos(), -turned.sin())
    }
}

/// A margin is told the row of the whole batch, and its error names it.
#[test]
fn a_margin_sees_the_rows_of_the_whole_batch() -> Result<(), Error> {
    let holed = Holed::<f64>::new(11);
    let [few, by_name, _] = holed.targets(Reduction::Mean, true);
    let margins: Vec<f64> = (0..8).map(|row| 0.1 * f64::from(row)).collect();
    let loss = MarginSoftmax::new(ByRow::new(&margins), 8.0)?;
    let found = loss.evaluate(
        holed.all.features.view(),
        holed.all.weights.view(),
        &by_name,
    )?;
    let mut asked = loss.margin().asked.lock().expect("no panic").clone();
    asked.sort_unstable();
    asked.dedup();
    assert_eq!(asked, Holed::<f64>::COUNT);

    let chosen = Holed::<f64>::COUNT.map(|row| margins[row]);
    let of_few = MarginSoftmax::new(ByRow::new(&chosen), 8.0)?;
    let expected = of_few.evaluate(holed.few.features.view(), holed.few.weights.view(), &few)?;
    assert_eq!(Snapshot::of(&found), Snapshot::of(&holed.spread(&expected)));

    let mut bad = margins;
    bad[6] = f64::NAN;
    let loss = MarginSoftmax::new(ByRow::new(&bad), 8.0)?;
    let refused = loss.forward(
        holed.all.features.view(),
        holed.all.weights.view(),
        &by_name,
    );
    assert!(
        matches!(refused, Err(Error::MarginNotFinite { row: 6, .. })),
        "{refused:?}"
    );
    Ok(())
}

/// Half the squared distance to the weight of the class, times a factor of the row; in either of two ways.
#[derive(Debug)]
struct Own {
    factors: Vec<f64>,
    /// Whether another loss is asked through its own methods first.
    asks: bool,
}

impl MarginLoss<f64> for Own {
    fn run(&self, request: Request<'_, f64>) -> Result<(), Error> {
        let labels = request.checked_labels()?;
        if self.asks {
            // The row that is left first is ignored once more.
            let mut mask = vec![false; labels.len()];
            mask[0] = true;
            let loss = MarginSoftmax::new(ByRow::new(&self.factors), 8.0)?;
            let targets = request.targets();
            loss.forward(
                request.features(),
                request.weights(),
                &targets.with_ignored_rows(&mask),
            )?;
            let asked = loss.margin().asked.lock().expect("no panic").clone();
            let rows: Vec<usize> = (1..labels.len()).map(|row| request.row(row)).collect();
            assert_eq!(asked, rows);
        }
        let factors: Vec<f64> = (0..labels.len())
            .map(|row| self.factors[request.row(row)])
            .collect();
        if let Some(row) = factors.iter().position(|factor| factor.is_nan()) {
            return Err(Error::MarginNotFinite { row, angle: 0.0 });
        }
        let apart = &request.features() - &request.weights().select(Axis(0), &labels);
        let losses: Vec<f64> = apart
            .outer_iter()
            .zip(&factors)
            .map(|(row, f)| 0.5 * f * row.dot(&row))
            .collect();
        let (mut grad_features, mut grad_weights) =
            (apart, Array2::zeros(request.weights().raw_dim()));
        for (row, r) in request.coefficients().into_iter().enumerate() {
            let mut gradient = grad_features.row_mut(row);
            gradient *= r * factors[row];
            let mut of_class = grad_weights.row_mut(labels[row]);
            of_class -= &gradient;
        }
        request.answer(losses, grad_features, grad_weights)
    }
}

#[test]
fn a_loss_of_the_users_own_needs_to_know_nothing() -> Result<(), Error> {
    let holed = Holed::<f64>::new(11);
    let [few, by_name, _] = holed.targets(Reduction::WeightedMean, true);
    let factors: Vec<f64> = (0..8).map(|row| 0.25 + f64::from(row)).collect();
    let chosen = Holed::<f64>::COUNT.map(|row| factors[row]).to_vec();
    let of_few = Own {
        factors: chosen,
        asks: false,
    };
    let expected = of_few.evaluate(holed.few.features.view(), holed.few.weights.view(), &few)?;
    let expected = holed.spread(&expected);
    let (x, w) = (holed.all.features.view(), holed.all.weights.view());
    for asks in [false, true] {
        let own = Own {
            factors: factors.clone(),
            asks,
        };
        let found = own.evaluate(x, w, &by_name)?;
        assert_eq!(Snapshot::of(&found), Snapshot::of(&expected));
        assert_eq!(found.forward.ignored, expected.forward.ignored);
    }
    let mut bad = Own {
        factors,
        asks: false,
    };
    bad.factors[3] = f64::NAN;
    let mut kept = patterned();
    let refused = bad.evaluate_into(x, w, &by_name, &mut kept);
    assert_eq!(refused, Err(Error::MarginNotFinite { row: 3, angle: 0.0 }));
    assert_eq!(Snapshot::of(&kept), Snapshot::of(&patterned::<f64>()));
    Ok(())
}

/// A loss that is named, behind pointers, and with a center loss.
#[test]
fn every_wrapper_ignores_the_same_rows() -> Result<(), Error> {
    let holed = Holed::<f64>::new(11);
    let [_, targets, _] = holed.targets(Reduction::Mean, true);
    let (x, w) = (holed.all.features.view(), holed.all.weights.view());
    let mut plain = ArcFace::new(16.0, 0.5)?;
    let expected = Snapshot::of(&plain.evaluate(x, w, &targets)?);
    let named: AnyLoss = "arcface:s=16".parse()?;
    let boxed: Box<dyn MarginLoss<f64>> = Box::new(named.clone());
    assert_eq!(Snapshot::of(&named.evaluate(x, w, &targets)?), expected);
    assert_eq!(Snapshot::of(&boxed.evaluate(x, w, &targets)?), expected);
    let pointer = &mut plain;
    let pointed = <&mut ArcFace as MarginLoss<f64>>::evaluate(&pointer, x, w, &targets)?;
    assert_eq!(Snapshot::of(&pointed), expected);

    let centers = holed.all.centers.view();
    let inside = JointLoss::new(SoftmaxLoss::new(), centers, 0.25)?;
    let outside: Box<dyn MarginLoss<f64>> = Box::new(JointLoss::new(boxed, centers, 0.25)?);
    let named = JointLoss::new(named, centers, 0.25)?;
    assert_eq!(
        Snapshot::of(&outside.evaluate(x, w, &targets)?),
        Snapshot::of(&named.evaluate(x, w, &targets)?)
    );
    let found = inside.evaluate(x, w, &targets)?;
    let of_centers = CenterLoss::new().evaluate(x, centers, &targets)?;
    let quarter = of_centers.grad_weights.mapv(|entry| 0.25 * entry);
    assert_close("∂c", &wide(&found.grad_centers), &wide(&quarter), 1e-14);
    Ok(())
}

/// Labels are views of the caller's integers, of any type, and −1 is said to be −1.
#[test]
fn labels_are_not_copied() {
    const fn is_a_view<T: Copy>(_: &T) {}
    let loss = NormFace::new(4.0).expect("in range");
    let (x, w) = (
        array![[1.0_f32, 2.0], [0.5, 0.1]],
        array![[0.0_f32, 1.0], [1.0, 0.0]],
    );
    let said = |labels: Labels<'_>| {
        is_a_view(&labels);
        let refused = loss.forward(x.view(), w.view(), &Targets::new(labels));
        refused.expect_err("−1 is no class").to_string()
    };
    let message =
        "labels row 1 is -1, but there are 2 classes; rows can be ignored by with_ignored_label";
    assert_eq!(said((&[0_i8, -1]).into()), message);
    assert_eq!(said((&vec![0_i16, -1]).into()), message);
    assert_eq!(said((&[0_i32, -1][..]).into()), message);
    assert_eq!(said((&array![0_i64, -1]).into()), message);
    assert_eq!(said(array![0_isize, -1].view().into()), message);
}

#[test]
fn labels_say_which_rows_are_ignored() {
    let mask = [false, false, true];
    let labels = Labels::from(&[7, -1, 7]).with_ignored_label(-1);
    let both = labels.with_ignored_rows(&mask);
    let ignored = |labels: Labels<'_>| [0, 1, 2].map(|row| labels.is_ignored(row));
    assert_eq!(ignored(Labels::from(&[7, -1, 7])), [false; 3]);
    assert_eq!(ignored(labels), [false, true, false]);
    assert_eq!(ignored(both), [false, true, true]);
    assert_eq!((both.len(), both.get(1)), (3, -1));
    assert!(labels != both && labels != Labels::from(&[7, -1, 7]));
    assert_eq!(labels, Labels::from(&[7_i64, -1, 7]).with_ignored_label(-1));
    let targets: Targets<'_, f32> = Targets::new(both).with_label_weights(&[1.0]);
    assert_eq!(
        (targets.labels(), targets.label_weights()),
        (both, Some(&[1.0_f32][..]))
    );
}
