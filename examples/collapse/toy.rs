//! Classes of one input each, all in about one direction, through a linear layer.

use margin_losses::ndarray::{Array2, Axis};
use margin_losses::{Error, Evaluation, MarginLoss, Targets, init};

use crate::Outcome;
use crate::candidate::{Candidate, Progress};

const INPUTS: usize = 32;
const DIM: usize = 16;
const STEPS: u64 = 600;
const RATE: f32 = 0.1;

pub(crate) fn run(
    candidate: &Candidate,
    classes: usize,
    scale: f64,
    seed: u64,
) -> Result<Outcome, Error> {
    let labels: Vec<usize> = (0..classes).collect();
    let targets = Targets::new(&labels);
    let mut inputs: Array2<f32> = init::normal(classes, INPUTS, 0.3, 3 * seed)? + 1.0;
    if candidate.centred {
        inputs -= &inputs.mean_axis(Axis(0)).expect("there are classes");
    }
    let mut layer: Array2<f32> = init::xavier_uniform(INPUTS, DIM, 3 * seed + 1)?;
    let mut weights: Array2<f32> = init::class_weights(classes, DIM, 3 * seed + 2)?;
    let mut out = Evaluation::new();
    for step in 0..=STEPS {
        let progress = Progress { step, steps: STEPS };
        let loss = (candidate.loss)(classes, scale, progress)?;
        let features = inputs.dot(&layer);
        loss.evaluate_into(features.view(), weights.view(), &targets, &mut out)?;
        if step < STEPS {
            layer.scaled_add(-RATE, &inputs.t().dot(&out.grad_features));
            weights.scaled_add(-RATE, &out.grad_weights);
        }
    }
    Ok(Outcome::of(&out.forward))
}
