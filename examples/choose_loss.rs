//! The loss chosen at run time, from a string.
//!
//! ```sh
//! cargo run --release --example choose_loss -- --loss cosface:s=10,m=0.2
//! cargo run --release --example choose_loss -- --loss softmax+center:lambda=0.01
//! cargo run --release --example choose_loss -- --loss arcface:s=10,m=0.2+subcenters:k=3
//! cargo run --release --example choose_loss -- --loss uniface:s=10,b=3.7     # b is learned
//! cargo run --release --example choose_loss -- --loss "ArcFace(s=10, m=0.5, past_pi=smooth-tail)" --reduction sum
//! cargo run --release --example choose_loss -- --loss arcfase     # says which names there are
//! ```

#[path = "shared/command.rs"]
mod command;

use std::process::ExitCode;

use clap::Parser;
use margin_losses::ndarray::Array2;
use margin_losses::{AnyLoss, CenterLoss, Error, Objective, Reduction, Targets, init};

const CLASSES: usize = 4;

/// Trains a hundred steps with the loss of that name, on features that are free.
#[derive(Debug, Parser)]
struct Arguments {
    /// A loss and its parameters, with terms or without: +center, +subcenters:k=3, +smoothing:epsilon=0.1, +focal:gamma=2,
    /// +priors:log=0/0/-1/-1. What is left out is the paper's.
    #[arg(
        long,
        default_value = "arcface:s=10",
        value_name = "NAME[:KEY=VALUE,...][+TERM[:KEY=VALUE]]..."
    )]
    loss: Objective,
    /// How the losses of the rows become one.
    #[arg(
        long,
        default_value_t,
        value_name = "mean|batch-mean|weighted-mean|sum|none"
    )]
    reduction: Reduction,
}

fn main() -> ExitCode {
    command::run(train)
}

fn train(arguments: Arguments) -> Result<(), Error> {
    let Arguments {
        mut loss,
        reduction,
    } = arguments;
    println!("names: {}", AnyLoss::NAMES.join(", "));
    println!("chosen: {loss}, {reduction}");

    // An enum, to be matched on and saved, and a loss like any other.
    if let AnyLoss::ArcFace(arc_face) = loss.classifier().loss() {
        println!("a margin of {:.1} degrees", arc_face.margin().to_degrees());
    }

    let labels = [0, 1, 2, 3, 0, 1, 2, 3];
    let mut features: Array2<f32> = init::normal(labels.len(), 8, 1.0, 1)?;
    let mut weights = init::class_weights(CLASSES * loss.classifier().sub_centers(), 8, 2)?;
    let mut centers = Array2::zeros((CLASSES, 8));
    for step in 0..=100 {
        let targets = Targets::new(&labels).with_reduction(reduction);
        let out = loss.over_centers(centers.view()).evaluate(
            features.view(),
            weights.view(),
            &targets,
        )?;
        if loss.lambda().is_some() {
            CenterLoss::update_centers(centers.view_mut(), features.view(), &labels, 0.5)?;
        }
        if step % 50 == 0 {
            let cosine = out.forward.target_cosines.mean().unwrap_or(0.0);
            println!(
                "step {step:3}: loss {:8.4}, mean target cosine {cosine:+.3}",
                out.loss()
            );
        }
        features.scaled_add(-0.1, &out.grad_features);
        weights.scaled_add(-0.1, &out.grad_weights);
        // A bias or a scale that is learned; nothing for most losses.
        let gradients = out.grad_learnables.iter().map(|&g| f64::from(g));
        let learned = loss.learnables().iter().zip(gradients);
        let stepped: Vec<f64> = learned.map(|(value, g)| value - 0.1 * g).collect();
        loss.set_learnables(&stepped)?;
        // The running statistics of AdaFace and CurricularFace, likewise.
        loss.set_statistics(out.statistics())?;
    }
    if !loss.learnables().is_empty() {
        println!("learned: {loss}");
    }
    Ok(())
}
