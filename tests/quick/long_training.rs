//! Training: the `f32` crate beside the `f64` oracle from the same start, and ten thousand steps on data that can be told apart.

use margin_losses::schedule::LambdaAnnealing;
use margin_losses::{CenterLoss, Float, PastPi, Reduction, Targets};
use ndarray::Array2;

use crate::support::{Batch, Spec, SplitMix, narrow, truth, widen};

const CLASSES: usize = 5;
const INPUTS: usize = 6;
const DIMENSION: usize = 4;
const ROWS: usize = 20;

/// What a run trains: X = inputs · map, the class weights, the centers, and what the loss itself learns.
#[derive(Clone, Debug)]
struct Model<A> {
    map: Array2<A>,
    weights: Array2<A>,
    centers: Array2<A>,
    learnables: Vec<f64>,
}

/// A loss as it is at a step, given its learnables.
type Schedule = fn(u64, &[f64]) -> Spec;

/// A name, the loss, its learnables at the start, and the rate of learning.
type Run = (&'static str, Schedule, Vec<f64>, f64);

fn arc_face(past_pi: PastPi) -> Spec {
    Spec::ArcFace {
        scale: 16.0,
        margin: 0.3,
        past_pi,
    }
}

fn with_center(classifier: Spec, lambda: f64) -> Spec {
    Spec::Joint {
        classifier: Box::new(classifier),
        lambda,
    }
}

/// Every loss; the scales are such that five classes in four dimensions come to a loss near 0.
fn runs() -> Vec<Run> {
    fn softmax(_: u64, bias: &[f64]) -> Spec {
        Spec::Softmax {
            bias: bias.to_vec(),
        }
    }
    fn annealed(step: u64, _: &[f64]) -> Spec {
        let annealing = LambdaAnnealing::new(100.0, 0.12, 1.0, 0.5).expect("in range");
        Spec::ASoftmax {
            m: 3,
            lambda: annealing.at(step + 1),
        }
    }
    let bias = vec![0.0; CLASSES];
    vec![
        ("softmax", softmax, Vec::new(), 0.1),
        ("softmax with bias", softmax, bias.clone(), 0.1),
        (
            "modified softmax",
            |_, _| Spec::ModifiedSoftmax,
            Vec::new(),
            0.1,
        ),
        ("center", |_, _| Spec::Center, Vec::new(), 0.1),
        (
            "softmax with bias and center",
            |step, bias| with_center(softmax(step, bias), 0.05),
            bias,
            0.1,
        ),
        (
            "ArcFace and center",
            |_, _| with_center(arc_face(PastPi::Paper), 0.05),
            Vec::new(),
            0.01,
        ),
        ("A-Softmax annealed", annealed, Vec::new(), 0.05),
        (
            "NormFace",
            |_, _| Spec::NormFace {
                scale: 16.0,
                learned: false,
            },
            Vec::new(),
            0.02,
        ),
        (
            "NormFace with a learned scale",
            |_, scale| Spec::NormFace {
                scale: scale[0],
                learned: true,
            },
            vec![8.0],
            0.02,
        ),
        (
            "AM-Softmax",
            |_, _| Spec::AmSoftmax {
                scale: 16.0,
                margin: 0.35,
            },
            Vec::new(),
            0.01,
        ),
        (
            "CosFace",
            |_, _| Spec::CosFace {
                scale: 32.0,
                margin: 0.35,
            },
            Vec::new(),
            0.005,
        ),
        ("ArcFace", |_, _| arc_face(PastPi::Paper), Vec::new(), 0.01),
        (
            "ArcFace, cosine tail",
            |_, _| arc_face(PastPi::CosineTail),
            Vec::new(),
            0.01,
        ),
        (
            "ArcFace, joined tail",
            |_, _| arc_face(PastPi::JoinedTail),
            Vec::new(),
            0.01,
        ),
        (
            "ArcFace, linear tail",
            |_, _| arc_face(PastPi::LinearTail),
            Vec::new(),
            0.01,
        ),
        (
            "ArcFace, smooth tail",
            |_, _| arc_face(PastPi::SmoothTail),
            Vec::new(),
            0.01,
        ),
        (
            "ArcFace, easy margin",
            |_, _| arc_face(PastPi::EasyMargin),
            Vec::new(),
            0.01,
        ),
        (
            "combined",
            |_, _| Spec::Combined {
                scale: 16.0,
                m1: 0.9,
                m2: 0.2,
                m3: 0.1,
            },
            Vec::new(),
            0.01,
        ),
        (
            "a user's margin",
            |_, scale| Spec::User {
                scale: scale[0],
                learned: true,
            },
            vec![12.0],
            0.01,
        ),
    ]
}

/// Inputs around one corner for each class, and their labels.
fn data(seed: u64, spread: f64) -> (Array2<f32>, Vec<usize>) {
    let mut rng = SplitMix(seed);
    let labels: Vec<usize> = (0..ROWS).map(|row| row % CLASSES).collect();
    let inputs = Array2::from_shape_fn((ROWS, INPUTS), |(row, k)| {
        let corner = if k == labels[row] { 1.0 } else { 0.0 };
        (corner + spread * rng.normal()) as f32
    });
    (inputs, labels)
}

fn start(seed: u64, learnables: Vec<f64>) -> Model<f32> {
    let mut rng = SplitMix(seed);
    Model {
        map: rng.matrix(INPUTS, DIMENSION),
        weights: rng.matrix(CLASSES, DIMENSION),
        centers: Array2::zeros((CLASSES, DIMENSION)),
        learnables,
    }
}

impl<A: Float> Model<A> {
    fn batch(&self, inputs: &Array2<A>, labels: &[usize]) -> Batch<A> {
        Batch {
            features: inputs.dot(&self.map),
            weights: self.weights.clone(),
            centers: self.centers.clone(),
            labels: labels.to_vec(),
            row_weights: vec![A::one(); labels.len()],
        }
    }

    fn descend(
        &mut self,
        inputs: &Array2<A>,
        rate: f64,
        by_features: &Array2<A>,
        by_weights: &Array2<A>,
        by_learnables: &[f64],
    ) {
        let step = narrow::<A>(-rate);
        self.map.scaled_add(step, &inputs.t().dot(by_features));
        self.weights.scaled_add(step, by_weights);
        for (value, slope) in self.learnables.iter_mut().zip(by_learnables) {
            *value -= rate * slope;
        }
    }
}

/// One step with the crate: the loss before it.
fn crate_step(
    model: &mut Model<f32>,
    spec: &Spec,
    inputs: &Array2<f32>,
    labels: &[usize],
    rate: f64,
) -> f64 {
    let batch = model.batch(inputs, labels);
    let loss = spec.loss(batch.centers.view()).expect("in range");
    let (x, w) = (batch.features.view(), batch.weights.view());
    let found = loss
        .evaluate(x, w, &Targets::new(labels))
        .expect("a good batch");
    let slopes: Vec<f64> = found.grad_learnables.iter().map(|&v| widen(v)).collect();
    model.descend(
        inputs,
        rate,
        &found.grad_features,
        &found.grad_weights,
        &slopes,
    );
    if matches!(spec, Spec::Joint { .. }) {
        CenterLoss::update_centers(model.centers.view_mut(), x, labels, 0.5).expect("finite");
    }
    widen(found.loss())
}

/// The same step with the oracle, in `f64`.
fn oracle_step(
    model: &mut Model<f64>,
    spec: &Spec,
    inputs: &Array2<f64>,
    labels: &[usize],
    rate: f64,
) -> f64 {
    let batch = model.batch(inputs, labels);
    let formula = spec.formula(batch.centers.view());
    let found = truth(&formula, &batch, Reduction::Mean, false);
    model.descend(
        inputs,
        rate,
        &found.grad_features,
        &found.grad_weights,
        &found.grad_learnables,
    );
    if matches!(spec, Spec::Joint { .. }) {
        // c ← c − α Σ (c − x)/(1 + n), with α = ½.
        for class in 0..CLASSES {
            let rows: Vec<usize> = (0..labels.len())
                .filter(|&row| labels[row] == class)
                .collect();
            for k in 0..DIMENSION {
                let c = model.centers[[class, k]];
                let apart: f64 = rows.iter().map(|&row| c - batch.features[[row, k]]).sum();
                model.centers[[class, k]] = c - 0.5 * apart / (1.0 + rows.len() as f64);
            }
        }
    }
    found.loss
}

/// Both are trained on their own; 200 steps, each with the same loss to 1e-4.
#[test]
fn two_hundred_steps_in_f32_follow_the_oracle() {
    for (name, schedule, learnables, rate) in runs() {
        // Classes that overlap, so that no loss comes near 0.
        let (inputs, labels) = data(1, 0.5);
        let wide = inputs.mapv(f64::from);
        let mut ours = start(2, learnables);
        let mut theirs = Model {
            map: ours.map.mapv(f64::from),
            weights: ours.weights.mapv(f64::from),
            centers: ours.centers.mapv(f64::from),
            learnables: ours.learnables.clone(),
        };
        let (mut first, mut last, mut worst) = (f64::NAN, f64::NAN, 0.0_f64);
        for step in 0..200 {
            let spec = schedule(step, &ours.learnables);
            let found = crate_step(&mut ours, &spec, &inputs, &labels, rate);
            let spec = schedule(step, &theirs.learnables);
            let expected = oracle_step(&mut theirs, &spec, &wide, &labels, rate);
            let off = (found - expected).abs() / expected;
            assert!(
                off <= 1e-4,
                "{name}, step {step}: {found} is not {expected}"
            );
            worst = worst.max(off);
            last = expected;
            if step == 0 {
                first = expected;
            }
        }
        println!("{name}: {first:.4} to {last:.4}, off by {worst:.1e}");
        assert!(
            last < first,
            "{name} has learned nothing: {first} to {last}"
        );
    }
}

#[test]
fn ten_thousand_steps_end_with_finite_weights_and_a_small_loss() {
    for (name, schedule, learnables, rate) in runs() {
        let (inputs, labels) = data(3, 0.02);
        let mut model = start(4, learnables);
        let mut loss = f64::NAN;
        for step in 0..10_000 {
            let spec = schedule(step, &model.learnables);
            loss = crate_step(&mut model, &spec, &inputs, &labels, rate);
        }
        println!("{name}: {loss:.2e}");
        let numbers = model.map.iter().chain(&model.weights).chain(&model.centers);
        assert!(numbers.clone().all(|v| v.is_finite()), "{name}: {model:?}");
        assert!(
            model.learnables.iter().all(|v| v.is_finite()),
            "{name}: {model:?}"
        );
        assert!(loss < 0.05, "{name} ends at {loss}");
    }
}
