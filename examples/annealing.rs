//! A-Softmax with SphereFace's annealing, beside the same loss without it and beside its baseline, modified softmax.
//!
//! ```sh
//! cargo run --release --example annealing
//! ```
//!
//! The loss of each iteration is built with the λ of that iteration. At λ = 1000 the target's logit is nearly the plain
//! cosine; at the end, with λ = 5, it is one part ψ(θ) to five parts cosθ. `ASoftmax::new(4)` by itself has λ = 0, which is
//! the bare ψ from the first iteration on.

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
use margin_losses::schedule::LambdaAnnealing;
use margin_losses::{ASoftmax, MarginLoss, ModifiedSoftmax, Targets};

/// Trains on digits with A-Softmax annealed, with A-Softmax at λ = 0, and with modified softmax, and prints what held-out
/// digits make of it.
#[derive(Debug, Parser)]
struct Arguments {}

fn main() -> ExitCode {
    command::run(|_: Arguments| {
        println!("modified softmax");
        compare(|_| Ok(Box::new(ModifiedSoftmax::new())))?;
        println!("A-Softmax, λ = 0 throughout");
        compare(|_| Ok(Box::new(ASoftmax::new(4)?)))?;
        println!("A-Softmax, annealed");
        // SphereFace's own takes 1,659 iterations to 5. These are 315.
        let annealing = LambdaAnnealing::new(1000.0, 1.0, 1.0, 5.0)?;
        compare(|iteration| {
            let loss = ASoftmax::new(4)?.with_lambda(annealing.at(iteration))?;
            if [1, 10, 100, 300].contains(&iteration) {
                println!("    iteration {iteration}: λ = {:.1}", loss.lambda());
            }
            Ok(Box::new(loss))
        })
    })
}

/// Trains with the loss that `at` gives for each iteration, and prints the angles of held-out digits to the class weights.
fn compare(
    at: impl Fn(u64) -> Result<Box<dyn MarginLoss<f32>>, margin_losses::Error>,
) -> Result<(), Box<dyn Error>> {
    let mut iteration = 0;
    let trained = comparison::train(|features, weights, labels, out| {
        // SphereFace counts its first iteration as 1.
        iteration += 1;
        at(iteration)?.evaluate_into(features, weights, &Targets::new(labels), out)
    })?;
    println!("    {}", trained.angles()?);
    Ok(())
}
