//! A margin of one's own, on the same driver as every loss of the crate.
//!
//! The margin here grows with the angle: a row far from its class has to give more. Any map θ ↦ (ψ, dψ/dθ) will do, or
//! θ ↦ (ψ, dψ/dcosθ) for a map that is written in the cosine; loss and gradients follow from it.
//!
//! ```sh
//! cargo run --release --example own_margin
//! ```

use margin_losses::ndarray::Array2;
use margin_losses::{Error, Margin, MarginLoss, MarginSoftmax, Target, TargetLogit, Targets, init};

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

fn main() -> Result<(), Error> {
    let loss = MarginSoftmax::new(GrowingMargin { m: 0.5 }, 16.0)?;
    let labels = [0, 1, 2, 3, 0, 1, 2, 3];
    let mut features: Array2<f32> = init::class_weights(labels.len(), 8, 1);
    let mut weights = init::class_weights(4, 8, 2);

    // Descend on the features themselves, as if a network could put them anywhere.
    for step in 0..=100 {
        let out = loss.evaluate(features.view(), weights.view(), &Targets::new(&labels))?;
        if step % 20 == 0 {
            let cosine = out.forward.target_cosines.mean().unwrap_or_default();
            println!(
                "step {step:3}: loss {:8.5}, mean target cosine {cosine:.4}",
                out.loss()
            );
        }
        features.scaled_add(-0.1, &out.grad_features);
        weights.scaled_add(-0.1, &out.grad_weights);
    }
    Ok(())
}
