//! ArcFace with a margin that is warmed up, and NormFace with a scale that is learned.
//!
//! ```sh
//! cargo run --release --example warm_up
//! ```
//!
//! Losses hold no state of the training. A schedule is asked for the margin of the iteration and the loss is built with
//! it; what a loss learns itself comes out as a gradient like any other, and goes back in by `set_scale`.

#[path = "shared/command.rs"]
mod command;

use std::process::ExitCode;

use clap::Parser;
use margin_losses::ndarray::Array2;
use margin_losses::schedule::MarginWarmUp;
use margin_losses::{ArcFace, Error, Evaluation, MarginLoss, NormFace, Targets, guide, init};

const CLASSES: usize = 100;
const DIM: usize = 32;
const STEPS: u64 = 400;

/// Trains free features with ArcFace, its margin warmed up, and with NormFace, its scale learned.
#[derive(Debug, Parser)]
struct Arguments {}

fn main() -> ExitCode {
    command::run(|_: Arguments| train())
}

fn train() -> Result<(), Error> {
    let labels: Vec<usize> = (0..400).map(|row| row % CLASSES).collect();
    let targets = Targets::new(&labels);
    let start = || -> Result<(Array2<f32>, Array2<f32>), Error> {
        let features = init::normal(labels.len(), DIM, 1.0, 1)?;
        Ok((features, init::class_weights(CLASSES, DIM, 2)?))
    };
    let mut out = Evaluation::new();
    let log = |step: u64, what: &str, value: f64, out: &Evaluation<f32>| {
        if step.is_multiple_of(100) {
            let cosine = out.forward.target_cosines.mean().unwrap_or(0.0);
            println!(
                "  step {step:3}: {what} {value:6.3}, loss {:7.4}, mean target cosine {cosine:+.3}",
                out.loss()
            );
        }
    };

    println!("ArcFace, margin warmed up");
    let scale = guide::suggested_scale(CLASSES, 0.9999)?;
    let warm_up = MarginWarmUp::new(0.0, 0.5, 300)?;
    let (mut features, mut weights) = start()?;
    for step in 0..=STEPS {
        let loss = ArcFace::new(scale, warm_up.at(step))?;
        loss.evaluate_into(features.view(), weights.view(), &targets, &mut out)?;
        log(step, "margin", loss.margin(), &out);
        features.scaled_add(-20.0, &out.grad_features);
        weights.scaled_add(-0.5, &out.grad_weights);
    }

    println!("NormFace, scale learned");
    let mut loss = NormFace::learned(10.0)?;
    let (mut features, mut weights) = start()?;
    for step in 0..=STEPS {
        loss.evaluate_into(features.view(), weights.view(), &targets, &mut out)?;
        log(step, "scale ", loss.scale(), &out);
        features.scaled_add(-20.0, &out.grad_features);
        weights.scaled_add(-0.5, &out.grad_weights);
        // The one learnable: its gradient, with a rate of its own, and never down to 0, as the paper's code has it.
        let scale = loss.scale() - 10.0 * f64::from(out.grad_learnables[0]);
        loss.set_scale(scale.max(0.01))?;
    }
    println!(
        "  the loss cannot fall below {:.1e} at that scale",
        guide::norm_face_lower_bound(CLASSES, loss.scale())?
    );
    Ok(())
}
