//! Training a large class matrix in place: SGD with momentum, and no gradient of the class weights in memory.
//!
//! ```sh
//! cargo run --release --example streaming
//! cargo run --release --example streaming -- 1000000 128 256 64   # classes, dimension, batch, scratch limit in MiB
//! ```
//!
//! On Linux it prints what the process held at its peak, beyond the class weights and their momentum.

#[path = "shared/command.rs"]
mod command;

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use margin_losses::ndarray::{Array2, ArrayView1, Axis, Slice, Zip};
use margin_losses::{ArcFace, ClassBlock, Error, Evaluation, MarginLoss, Targets, init};

const LEARNING_RATE: f32 = 0.1;
const MOMENTUM: f32 = 0.9;

/// Trains a large class matrix in place for five steps, and prints what each takes.
#[derive(Debug, Parser)]
struct Arguments {
    /// The number of classes.
    #[arg(default_value_t = 100_000, value_parser = size)]
    classes: usize,
    /// The dimension of the features.
    #[arg(default_value_t = 128, value_parser = size)]
    dim: usize,
    /// The rows of a batch.
    #[arg(default_value_t = 256, value_parser = size)]
    batch: usize,
    /// The scratch limit in MiB.
    #[arg(default_value_t = 64, value_parser = size)]
    limit: usize,
}

/// Up to a thousand million, so that no product of two leaves the range.
fn size(word: &str) -> Result<usize, String> {
    match word.parse() {
        Ok(size @ 1..=1_000_000_000) => Ok(size),
        _ => Err("it must be a whole number from 1 to 1000000000".to_owned()),
    }
}

fn main() -> ExitCode {
    command::run(train)
}

fn train(arguments: Arguments) -> Result<(), Error> {
    let Arguments {
        classes,
        dim,
        batch,
        limit,
    } = arguments;

    let loss = ArcFace::default();
    let mut weights: Array2<f32> = init::class_weights(classes, dim, 1)?;
    let mut momentum: Array2<f32> = Array2::zeros((classes, dim));
    let labels: Vec<usize> = (0..batch).map(|row| row * 7_919 % classes).collect();
    let features = init::normal(batch, dim, 1.0, 2)?;
    momentum.fill(0.0); // touched before the peak is taken
    let held = peak_mib();

    let mut evaluation = Evaluation::with_scratch_limit(limit << 20);
    for step in 0..5 {
        let start = Instant::now();
        let mut update = |block: ClassBlock<'_, f32>| {
            let velocity = momentum.slice_axis_mut(Axis(0), Slice::from(block.classes));
            Zip::from(block.weights)
                .and(velocity)
                .and(block.gradient)
                .for_each(|w, v, &g| {
                    *v = MOMENTUM * *v + g;
                    *w -= LEARNING_RATE * *v;
                });
        };
        loss.evaluate_streamed(
            features.view(),
            weights.view_mut(),
            &Targets::new(&labels),
            &mut evaluation,
            &mut update,
        )?;
        println!(
            "step {step}: loss {:.4}, mean target cosine {:+.4}, {:.3} s",
            evaluation.loss(),
            mean(evaluation.forward.target_cosines.view()),
            start.elapsed().as_secs_f64(),
        );
    }
    if let (Some(held), Some(peak)) = (held, peak_mib()) {
        println!(
            "class weights and momentum: {held} MiB; beyond them at the peak: {} MiB",
            peak - held
        );
    }
    Ok(())
}

fn mean(values: ArrayView1<'_, f32>) -> f32 {
    values.mean().unwrap_or_default()
}

/// The most memory that this process has held, in MiB, where the system tells.
fn peak_mib() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: usize = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib / 1024)
}
