//! Training a large class matrix in place: SGD with momentum, and no gradient of the class weights in memory.
//!
//! ```sh
//! cargo run --release --example streaming
//! cargo run --release --example streaming -- 1000000 128 256 64   # classes, dimension, batch, scratch limit in MiB
//! ```
//!
//! On Linux it prints what the process held at its peak, beyond the class weights and their momentum.

use std::time::Instant;

use margin_losses::ndarray::{Array2, ArrayView1, Axis, Slice, Zip};
use margin_losses::{ArcFace, ClassBlock, Error, Evaluation, MarginLoss, Targets, init};

const LEARNING_RATE: f32 = 0.1;
const MOMENTUM: f32 = 0.9;

fn main() -> Result<(), Error> {
    let mut sizes = [100_000, 128, 256, 64];
    for (size, word) in sizes.iter_mut().zip(std::env::args().skip(1)) {
        *size = word
            .parse()
            .expect("classes, dimension, batch and MiB are whole numbers");
    }
    let [classes, dim, batch, limit_mib] = sizes;

    let loss = ArcFace::default();
    let mut weights: Array2<f32> = init::class_weights(classes, dim, 1);
    let mut momentum: Array2<f32> = Array2::zeros((classes, dim));
    let labels: Vec<usize> = (0..batch).map(|row| row * 7_919 % classes).collect();
    let features = init::normal(batch, dim, 1.0, 2)?;
    momentum.fill(0.0); // touched before the peak is taken
    let held = peak_mib();

    let mut evaluation = Evaluation::with_scratch_limit(limit_mib << 20);
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
