//! A margin of one's own, on the same driver as every loss of the crate, beside the same loss without margin.
//!
//! The margin here grows with the angle: a row far from its class has to give more. Any map θ ↦ (ψ, dψ/dθ) will do, or
//! θ ↦ (ψ, dψ/dcosθ) for a map that is written in the cosine; loss and gradients follow from it.
//!
//! ```sh
//! cargo run --release --example own_margin
//! ```

#[path = "shared/command.rs"]
mod command;
#[path = "shared/comparison.rs"]
mod comparison;
#[allow(dead_code, reason = "this example needs a part of it")]
#[path = "shared/mod.rs"]
mod shared;

use std::error::Error;
use std::process::ExitCode;

use clap::Parser;
use margin_losses::{
    Margin, MarginLoss, MarginSoftmax, NormFace, Target, TargetLogit, Targets, guide,
};

/// Trains on digits with a margin of its own and without, and prints what held-out digits make of both.
#[derive(Debug, Parser)]
struct Arguments {}

/// ψ(θ) = cosθ − m(1 − cosθ)/2: no margin at 0, all of m at π.
#[derive(Debug)]
struct GrowingMargin {
    m: f64,
}

impl Margin for GrowingMargin {
    fn target_logit(&self, target: &Target) -> TargetLogit {
        let angle = target.angle();
        let psi = angle.cos() - self.m * (1.0 - angle.cos()) / 2.0;
        TargetLogit::from_cosine_slope(psi, 1.0 + self.m / 2.0, angle)
    }
}

fn main() -> ExitCode {
    command::run(|_: Arguments| {
        let scale = guide::suggested_scale(10, 0.9999)?.round();
        compare(&NormFace::new(scale)?)?;
        compare(&MarginSoftmax::new(GrowingMargin { m: 1.0 }, scale)?)
    })
}

/// Trains with this loss, and prints the angles of held-out digits to the class weights.
fn compare(loss: &dyn MarginLoss<f32>) -> Result<(), Box<dyn Error>> {
    let trained = comparison::train(|features, weights, labels, out| {
        loss.evaluate_into(features, weights, &Targets::new(labels), out)
    })?;
    println!("{loss}\n    {}", trained.angles()?);
    Ok(())
}
