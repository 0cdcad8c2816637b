//! What ails a training: each trouble is named where it is, and none where there is none; and the default trains.

use margin_losses::guide::{Trouble, dead_features, diagnose};
use margin_losses::{
    AdaptiveFace, ArcFace, Composed, CosFace, Error, Evaluation, Forward, InterTopK, JointLoss,
    MarginLoss, MarginSoftmax, NormFace, PastPi, SoftmaxLoss, SphereFace2, Targets, UniFace,
};
use ndarray::{Array2, ArrayView2, Axis, array, s};

use crate::margins::HardNegatives;
use crate::support::{Layer, RULES, SplitMix, every_loss};

const CLASSES: usize = 10;
const DIM: usize = 16;

/// Rows near `sign` times the weight of their class, and these weights.
fn near(sign: f64, noise: f64) -> (Array2<f64>, Array2<f64>, Vec<usize>) {
    let mut rng = SplitMix(3);
    let weights = rng.matrix::<f64>(CLASSES, DIM);
    let labels: Vec<usize> = (0..40).map(|row| row % CLASSES).collect();
    let features = weights.select(Axis(0), &labels) * sign + rng.matrix::<f64>(40, DIM) * noise;
    (features, weights, labels)
}

fn forward(
    loss: &dyn MarginLoss<f64>,
    features: ArrayView2<'_, f64>,
    weights: ArrayView2<'_, f64>,
    labels: &[usize],
) -> Forward<f64> {
    loss.forward(features, weights, &Targets::new(labels))
        .expect("a good batch")
}

fn trouble(batches: &[&Forward<f64>], scale: Option<f64>) -> Option<Trouble> {
    diagnose(batches, CLASSES, DIM, scale).expect("in range")
}

#[track_caller]
fn assert_says(found: Option<Trouble>, start: &str) {
    let said = found.expect("a trouble").to_string();
    assert!(said.starts_with(start), "{said}");
    assert!(!said.contains('\n'));
}

#[test]
fn the_antipole_by_every_rule() {
    let (x, w, labels) = near(-1.0, 0.1);
    for rule in RULES {
        let loss = ArcFace::default().with_past_pi(rule);
        let opposite = forward(&loss, x.view(), w.view(), &labels);
        assert_says(
            trouble(&[&opposite], Some(64.0)),
            "collapsed to the antipole: ",
        );
    }
    // Losses without a scale as well.
    let opposite = forward(&SoftmaxLoss::new(), x.view(), w.view(), &labels);
    assert!(matches!(
        trouble(&[&opposite], None),
        Some(Trouble::Antipode { cosine, .. }) if cosine < -0.9
    ));
}

#[test]
fn one_direction() {
    let mut rng = SplitMix(4);
    let mut bundle = |rows: usize| {
        let mut all = rng.matrix::<f64>(rows, DIM) * 0.1;
        all.column_mut(0).fill(3.0);
        all
    };
    let (x, w) = (bundle(40), bundle(CLASSES));
    let labels: Vec<usize> = (0..40).map(|row| row % CLASSES).collect();
    let losses: [(&dyn MarginLoss<f64>, _); 3] = [
        (&ArcFace::default(), Some(64.0)),
        (&CosFace::default(), Some(64.0)),
        (&SoftmaxLoss::new(), None),
    ];
    for (loss, scale) in losses {
        let stuck = forward(loss, x.view(), w.view(), &labels);
        assert_says(trouble(&[&stuck], scale), "stuck in one direction: ");
    }
}

#[test]
fn a_scale_for_fewer_classes() {
    let (x, w, labels) = near(1.0, 0.1);
    let loss = NormFace::new(1.0).expect("in range");
    let trained = forward(&loss, x.view(), w.view(), &labels);
    assert_says(
        trouble(&[&trained], Some(1.0)),
        "scale too small for so many classes: the target's probability cannot exceed 0.25, nor the loss fall below 1.38",
    );
    assert_eq!(trouble(&[&trained], Some(5.0)), None);
}

#[test]
fn labels_of_other_rows() {
    let (x, w, labels) = near(1.0, 0.1);
    let shifted: Vec<usize> = labels.iter().map(|label| (label + 1) % CLASSES).collect();
    let reversed: Vec<usize> = labels.iter().rev().copied().collect();
    for scale in [10.0, 64.0] {
        let loss = ArcFace::new(scale, 0.5).expect("in range");
        for wrong in [&shifted, &reversed] {
            let found = forward(&loss, x.view(), w.view(), wrong);
            assert_says(trouble(&[&found], Some(scale)), "labels wrong: ");
        }
        let right = forward(&loss, x.view(), w.view(), &labels);
        assert_eq!(trouble(&[&right], Some(scale)), None);
    }
}

#[test]
fn a_margin_in_degrees() {
    let mut rng = SplitMix(5);
    let (x, w) = (rng.matrix::<f64>(40, DIM), rng.matrix::<f64>(CLASSES, DIM));
    let labels: Vec<usize> = (0..40).map(|row| row % CLASSES).collect();
    // Two degrees; more than three are refused as radians.
    let loss = ArcFace::new(64.0, 2.0).expect("in range");
    let found = forward(&loss, x.view(), w.view(), &labels);
    assert_says(
        trouble(&[&found], Some(64.0)),
        "margin too wide: the target has to lead by 1.",
    );
    let loss = ArcFace::new(64.0, 1.0).expect("in range");
    let found = forward(&loss, x.view(), w.view(), &labels);
    assert_eq!(trouble(&[&found], Some(64.0)), None);
}

#[test]
fn dead_rows_and_dimensions() {
    let mut rng = SplitMix(6);
    let mut x = rng.matrix::<f64>(40, DIM);
    assert_eq!(dead_features(x.view()), None);
    x.slice_mut(s![.., ..8]).fill(0.0);
    assert_eq!(dead_features(x.view()), None);
    x.slice_mut(s![.., 8]).fill(-0.0);
    assert_says(
        dead_features(x.view()),
        "dead features: 0 rows are zero vectors, and 9 dimensions are zero in every row",
    );
    // Few rows say nothing of dimensions, but a zero vector is one.
    assert_eq!(dead_features(x.slice(s![..7, ..])), None);
    assert_says(
        dead_features(array![[0.0, 1.0], [0.0, 0.0]].view()),
        "dead features: 1 rows",
    );
    assert_eq!(dead_features(Array2::<f64>::zeros((0, 3)).view()), None);
}

#[test]
fn every_batch_has_to_show_it_and_few_rows_show_nothing() {
    let loss = ArcFace::default();
    let of = |sign: f64, rows: usize| {
        let (x, w, labels) = near(sign, 0.1);
        forward(&loss, x.slice(s![..rows, ..]), w.view(), &labels[..rows])
    };
    let (opposite, trained, short) = (of(-1.0, 40), of(1.0, 40), of(-1.0, 4));
    let named = |batches: &[&Forward<f64>]| trouble(batches, Some(64.0)).is_some();
    assert!(named(&[&opposite, &opposite]));
    assert!(!named(&[&opposite, &trained, &opposite]));
    assert!(!named(&[]));
    assert!(!named(&[&short]));
    assert!(named(&[&short, &short]));

    // Rows that are ignored do not count.
    let (x, w, labels) = near(-1.0, 0.1);
    let mask: Vec<bool> = (0..40).map(|row| row >= 7).collect();
    let targets = Targets::new(&labels).with_ignored_rows(&mask);
    let seven = loss.forward(x.view(), w.view(), &targets).expect("a batch");
    assert!(!named(&[&seven]));
    assert!(named(&[&seven, &short]));
}

#[test]
fn arguments_out_of_range() {
    let refused = |classes, dim, scale| {
        let error = diagnose::<f32>(&[], classes, dim, scale).expect_err("out of range");
        matches!(error, Error::Parameter { .. })
    };
    assert!(refused(1, 4, None));
    assert!(refused(2, 0, None));
    for scale in [0.0, -1.0, f64::NAN, 2e6] {
        assert!(refused(2, 4, Some(scale)));
    }
}

/// Twenty steps from random features and class weights, by every loss whose scale suffices, in many shapes.
#[test]
fn healthy_trainings_have_no_trouble() {
    for (classes, dim) in [
        (2, 2),
        (2, 16),
        (10, 2),
        (10, 4),
        (10, 16),
        (100, 8),
        (100, 64),
    ] {
        for seed in 0..3 {
            let mut rng = SplitMix(100 * seed + 7);
            let centers = rng.matrix::<f64>(classes, dim);
            for case in every_loss(centers.view()) {
                let scale = match case.formula.layer {
                    // A price that outweighs the logits is no logit of another class.
                    Layer::UnitNorm { .. } if case.name.contains("λ = 35") => None,
                    Layer::UnitNorm { scale, .. } => Some(scale),
                    _ => None,
                };
                let small = |scale| {
                    let probability = margin_losses::guide::target_probability(classes, scale);
                    probability.expect("in range") < 0.5
                };
                if scale.is_some_and(small) {
                    continue;
                }
                let mut x = rng.matrix::<f64>(64, dim);
                let mut w = rng.matrix::<f64>(classes, dim);
                let labels: Vec<usize> = (0..64).map(|_| rng.below(classes)).collect();
                for step in 0..20 {
                    let out = case
                        .loss
                        .evaluate(x.view(), w.view(), &Targets::new(&labels))
                        .expect("a good batch");
                    let found = diagnose(&[&out.forward], classes, dim, scale);
                    assert_eq!(
                        found.expect("in range"),
                        None,
                        "{} in step {step}, C = {classes}, d = {dim}",
                        case.name
                    );
                    x.scaled_add(-1.0, &out.grad_features);
                    w.scaled_add(-0.1, &out.grad_weights);
                }
            }
        }
    }
}

/// Random features and class weights are no trouble, be the figures of the loss of whatever kind.
#[test]
fn figures_of_no_plain_softmax_accuse_no_labels_and_no_margin() -> Result<(), Error> {
    let priors = |classes: usize| {
        let mut counts = vec![1.0; classes];
        counts[0] = 1e30;
        counts
    };
    for classes in [CLASSES, 1000] {
        let cos = || Composed::new(CosFace::default());
        let centers = Array2::from_elem((classes, DIM), 30.0);
        let losses: [(&str, Box<dyn MarginLoss<f64> + '_>, f64); 9] = [
            ("UniFace", Box::new(UniFace::default()), 64.0),
            ("SphereFace2", Box::new(SphereFace2::default()), 40.0),
            (
                "priors",
                Box::new(cos().with_class_priors(&priors(classes), 1.0)?),
                64.0,
            ),
            (
                "smoothing",
                Box::new(cos().with_label_smoothing(0.9)?),
                64.0,
            ),
            (
                "inter-topk",
                Box::new(cos().with_inter_topk(InterTopK::cosine(5, 0.9)?)),
                64.0,
            ),
            (
                "AdaptiveFace",
                Box::new(AdaptiveFace::new(64.0, vec![0.35; classes])?),
                64.0,
            ),
            ("focal", Box::new(cos().with_focal(2.0)?), 64.0),
            (
                "center",
                Box::new(JointLoss::new(CosFace::default(), centers.view(), 0.01)?),
                64.0,
            ),
            (
                "negatives",
                Box::new(MarginSoftmax::new(HardNegatives, 64.0)?),
                64.0,
            ),
        ];
        for (name, loss, scale) in losses {
            let mut rng = SplitMix(8);
            let (x, w) = (rng.matrix::<f64>(40, DIM), rng.matrix::<f64>(classes, DIM));
            let labels: Vec<usize> = (1..41).map(|row| row % CLASSES).collect();
            let fresh = forward(&*loss, x.view(), w.view(), &labels);
            let found = diagnose(&[&fresh], classes, DIM, Some(scale))?;
            assert_eq!(found, None, "{name}, {classes} classes: {found:?}");
            // What the cosines alone say is said all the same.
            let opposite = -w.select(Axis(0), &labels);
            let collapsed = forward(&*loss, opposite.view(), w.view(), &labels);
            let found = diagnose(&[&collapsed], classes, DIM, Some(scale))?;
            assert!(
                matches!(found, Some(Trouble::Antipode { .. })),
                "{name}: {found:?}"
            );
        }
    }
    Ok(())
}

/// What is said to be a cosine is one, whatever scale is named.
#[test]
fn the_nearest_class_is_at_a_cosine() {
    let (x, w, labels) = near(1.0, 0.1);
    let shifted: Vec<usize> = labels.iter().map(|label| (label + 1) % CLASSES).collect();
    let loss = CosFace::new(64.0, 0.35).expect("in range");
    let wrong = forward(&loss, x.view(), w.view(), &shifted);
    let found = trouble(&[&wrong], Some(40.0));
    assert!(
        matches!(found, Some(Trouble::Labels { nearest, .. }) if nearest <= 1.0),
        "{found:?}"
    );
}

/// Inputs in about one direction, `1 + 0.3·N(0, 1)` for each class, through a linear layer 32 → 16, 600 steps of rate 0.1.
fn toy(rule: PastPi, classes: usize, scale: f64, seed: u64) -> Forward<f64> {
    let mut rng = SplitMix(seed);
    let inputs = rng.matrix::<f64>(classes, 32) * 0.3 + 1.0;
    let mut layer = rng.matrix::<f64>(32, 16) / 32_f64.sqrt();
    let mut weights = rng.matrix::<f64>(classes, 16) / 4.0;
    let labels: Vec<usize> = (0..classes).collect();
    let loss = ArcFace::new(scale, 0.5)
        .expect("in range")
        .with_past_pi(rule);
    let mut out = Evaluation::new();
    for _ in 0..600 {
        let features = inputs.dot(&layer);
        loss.evaluate_into(
            features.view(),
            weights.view(),
            &Targets::new(&labels),
            &mut out,
        )
        .expect("a good batch");
        layer.scaled_add(-0.1, &inputs.t().dot(&out.grad_features));
        weights.scaled_add(-0.1, &out.grad_weights);
    }
    out.forward
}

#[test]
fn the_default_trains_where_the_formula_of_the_paper_collapses() {
    for (classes, scale) in [(2, 64.0), (6, 64.0), (92, 30.0)] {
        for seed in 0..4 {
            let out = toy(PastPi::default(), classes, scale, seed);
            assert_eq!(out.accuracy(), Some(1.0), "C = {classes}, seed {seed}");
            let cosine = out.target_cosines.mean().expect("rows");
            assert!(cosine > 0.2, "C = {classes}, seed {seed}: {cosine}");
        }
    }
    let collapsed = toy(PastPi::Paper, 92, 30.0, 0);
    assert!(collapsed.loss < 1.5 && collapsed.accuracy() == Some(0.0));
    let found = diagnose(&[&collapsed], 92, 16, Some(30.0)).expect("in range");
    assert_says(found, "collapsed to the antipole: ");
}
