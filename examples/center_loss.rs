//! Softmax joined with center loss, the centers moved by the paper's α step, beside softmax alone.
//!
//! ```sh
//! cargo run --release --example center_loss
//! ```
//!
//! λ pulls each feature towards its center, and the centers follow the features. λ = 0 is the baseline: its centers follow
//! too, so that the distances can be compared, but pull nothing.

#[path = "shared/command.rs"]
mod command;
#[allow(dead_code, reason = "this example needs a part of it")]
#[path = "shared/comparison.rs"]
mod comparison;
#[allow(dead_code, reason = "this example needs a part of it")]
#[path = "shared/mod.rs"]
mod shared;

use std::error::Error;
use std::process::ExitCode;

use clap::Parser;
use margin_losses::ndarray::Array2;
use margin_losses::{CenterLoss, JointLoss, MarginLoss, SoftmaxLoss, Targets};

use crate::comparison::Distances;

/// Trains on digits with softmax alone and with center loss of two strengths, and prints what held-out digits make of it.
#[derive(Debug, Parser)]
struct Arguments {}

const ALPHA: f64 = 0.5;

fn main() -> ExitCode {
    command::run(|_: Arguments| {
        for lambda in [0.0, 0.003, 0.03] {
            compare(lambda)?;
        }
        Ok::<_, Box<dyn Error>>(())
    })
}

/// Trains with this λ, and prints the distances of held-out digits to the centers.
fn compare(lambda: f64) -> Result<(), Box<dyn Error>> {
    let mut centers: Array2<f32> = Array2::zeros((0, 0));
    let mut line = String::new();
    let trained = comparison::train(|features, weights, labels, out| {
        if centers.is_empty() {
            centers = Array2::zeros(weights.raw_dim());
        }
        // The centers are borrowed for one evaluation, and then moved.
        let loss = JointLoss::new(SoftmaxLoss::new(), centers.view(), lambda)?;
        loss.evaluate_into(features, weights, &Targets::new(labels), out)?;
        line = loss.to_string();
        // c ← c − α Σ (c − x)/(1 + n): neither λ nor the learning rate is in it.
        CenterLoss::update_centers(centers.view_mut(), features, labels, ALPHA)
    })?;
    // The center loss scores by distance: −½‖x − c‖².
    let scores = CenterLoss::new().scores(trained.features.view(), centers.view())?;
    let distances = scores.mapv(|score| (-2.0 * score).max(0.0).sqrt());
    let Distances { own, other, right } = trained.means(&distances);
    println!(
        "{line}\n    held out: nearest to its own center {:.1} %, {own:.2} to the own, {other:.2} to the nearest other, {:.2} times as far",
        100.0 * right,
        other / own
    );
    Ok(())
}
