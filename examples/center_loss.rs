//! Softmax joined with center loss, the centers moved by the paper's α step.
//!
//! ```sh
//! cargo run --release --example center_loss
//! ```
//!
//! The features descend themselves, as if a network could put them anywhere. λ pulls each towards its center, and the
//! centers follow the features. Without the pull (λ = 0) the classes come apart just as well, but stay as wide as they are.

use margin_losses::ndarray::{Array1, Array2, Axis};
use margin_losses::{
    CenterLoss, Error, Evaluation, JointLoss, MarginLoss, SoftmaxLoss, Targets, init,
};

const CLASSES: usize = 4;
const DIM: usize = 8;
const ALPHA: f64 = 0.5;

fn main() -> Result<(), Error> {
    let labels: Vec<usize> = (0..64).map(|row| row % CLASSES).collect();
    for lambda in [0.0, 0.003, 0.03] {
        let mut features: Array2<f32> = init::normal(labels.len(), DIM, 1.0, 1)?;
        let mut weights: Array2<f32> = init::class_weights(CLASSES, DIM, 2);
        let mut centers: Array2<f32> = Array2::zeros((CLASSES, DIM));
        let mut out = Evaluation::new();

        // The paper's loss is a sum over the batch; under the mean, steps are N times as long.
        let rate = 0.2 * labels.len() as f32;
        for _ in 0..300 {
            // The centers are borrowed for one evaluation, and then moved.
            JointLoss::new(SoftmaxLoss::new(), centers.view(), lambda)?.evaluate_into(
                features.view(),
                weights.view(),
                &Targets::new(&labels),
                &mut out,
            )?;
            // c ← c − α Σ (c − x)/(1 + n): neither λ nor the learning rate is in it.
            CenterLoss::update_centers(centers.view_mut(), features.view(), &labels, ALPHA)?;
            features.scaled_add(-rate, &out.grad_features);
            weights.scaled_add(-0.1, &out.grad_weights);
        }

        let nearest = centers.select(Axis(0), &labels);
        let to_center = (&features - &nearest).mapv(|v| v * v).sum_axis(Axis(1));
        let between = centers.mapv(|v| v * v).sum_axis(Axis(1));
        let root = |squares: Array1<f32>| squares.mean().unwrap_or(0.0).sqrt();
        println!(
            "λ = {lambda:<5}: loss {:.4}, accuracy {:.2}, features {:.3} from their center, centers {:.3} from 0",
            out.loss(),
            out.forward.accuracy().unwrap_or(0.0),
            root(to_center),
            root(between),
        );
    }
    Ok(())
}
