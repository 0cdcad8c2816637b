//! The loss chosen at run time, from a string.
//!
//! ```sh
//! cargo run --release --example choose_loss -- --loss cosface:s=10,m=0.2
//! cargo run --release --example choose_loss -- --loss "ArcFace(s=10, m=0.5, past_pi=smooth-tail)" --reduction sum
//! cargo run --release --example choose_loss -- --loss arcfase     # says which names there are
//! ```

use clap::Parser;
use margin_losses::ndarray::Array2;
use margin_losses::{AnyLoss, Error, MarginLoss, Reduction, Targets, init};

#[derive(Debug, Parser)]
struct Arguments {
    /// A loss and its parameters; what is left out is the paper's.
    #[arg(
        long,
        default_value = "arcface:s=10",
        value_name = "NAME[:KEY=VALUE,...]"
    )]
    loss: AnyLoss,
    /// mean, sum or none.
    #[arg(long, default_value_t)]
    reduction: Reduction,
}

fn main() -> Result<(), Error> {
    let Arguments { loss, reduction } = Arguments::parse();
    println!("names: {}", AnyLoss::NAMES.join(", "));
    println!("chosen: {loss}, {reduction}");

    // An enum, to be matched on and saved, and a loss like any other.
    if let AnyLoss::ArcFace(arc_face) = &loss {
        println!("a margin of {:.1} degrees", arc_face.margin().to_degrees());
    }
    let loss: Box<dyn MarginLoss<f32>> = Box::new(loss);

    let labels = [0, 1, 2, 3, 0, 1, 2, 3];
    let mut features: Array2<f32> = init::class_weights(labels.len(), 8, 1);
    let mut weights = init::class_weights(4, 8, 2);
    for step in 0..=100 {
        let targets = Targets::new(&labels).with_reduction(reduction);
        let out = loss.evaluate(features.view(), weights.view(), &targets)?;
        if step % 50 == 0 {
            let cosine = out.forward.target_cosines.mean().unwrap_or(0.0);
            println!(
                "step {step:3}: loss {:8.4}, mean target cosine {cosine:+.3}",
                out.loss()
            );
        }
        features.scaled_add(-0.1, &out.grad_features);
        weights.scaled_add(-0.1, &out.grad_weights);
    }
    Ok(())
}
