//! A-Softmax with SphereFace's annealing: the loss of each iteration is built with the λ of that iteration.
//!
//! ```sh
//! cargo run --release --example annealing
//! ```
//!
//! At λ = 1000 the target's logit is nearly the plain cosine; at the end, with λ = 5, it is one part ψ(θ) to five parts
//! cosθ. The features descend themselves here, as if a network could put them anywhere; the schedule is the same with one.

use margin_losses::ndarray::Array2;
use margin_losses::schedule::LambdaAnnealing;
use margin_losses::{ASoftmax, Error, Evaluation, MarginLoss, Targets, init};

const CLASSES: usize = 10;
const DIM: usize = 3;

fn main() -> Result<(), Error> {
    let annealing = LambdaAnnealing::sphere_face();
    let labels: Vec<usize> = (0..100).map(|row| row % CLASSES).collect();
    let targets = Targets::new(&labels);
    let mut features: Array2<f32> = init::normal(labels.len(), DIM, 1.0, 1)?;
    let mut weights: Array2<f32> = init::class_weights(CLASSES, DIM, 2);
    let mut out = Evaluation::new();

    // SphereFace counts its first iteration as 1.
    for iteration in 1..=3000 {
        let loss = ASoftmax::new(4)?.with_lambda(annealing.at(iteration))?;
        loss.evaluate_into(features.view(), weights.view(), &targets, &mut out)?;
        if [1, 10, 100, 1000, 3000].contains(&iteration) {
            let cosine = out.forward.target_cosines.mean().unwrap_or(0.0);
            println!(
                "iteration {iteration:4}: λ {:7.2}, loss {:6.3}, accuracy {:.2}, mean target cosine {cosine:+.3}",
                loss.lambda(),
                out.loss(),
                out.forward.accuracy().unwrap_or(0.0),
            );
        }
        features.scaled_add(-1.0, &out.grad_features);
        weights.scaled_add(-0.1, &out.grad_weights);
    }
    Ok(())
}
