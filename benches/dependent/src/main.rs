//! Medians of what a user's crate calls, in microseconds: 256 × 10,000 × 512, `f32`.

use std::time::Instant;

use margin_losses::ndarray::Array2;
use margin_losses::{ArcFace, CenterLoss, Error, Evaluation, MarginLoss, Targets, init};

const REPETITIONS: usize = 15;

fn median(mut work: impl FnMut() -> Result<(), Error>) -> Result<f64, Error> {
    // The first time warms caches and buffers.
    work()?;
    let mut times = Vec::new();
    for _ in 0..REPETITIONS {
        let start = Instant::now();
        work()?;
        times.push(start.elapsed().as_secs_f64() * 1e6);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[REPETITIONS / 2])
}

fn main() -> Result<(), Error> {
    let features: Array2<f32> = init::normal(256, 512, 1.0, 1)?;
    let mut weights: Array2<f32> = init::class_weights(10_000, 512, 2)?;
    let mut centers: Array2<f32> = init::class_weights(10_000, 512, 3)?;
    let labels: Vec<usize> = (0..256).map(|row| row * 7_919 % 10_000).collect();
    let targets = Targets::new(&labels);
    let loss = ArcFace::default();
    let (mut full, mut alone, mut out) = (Evaluation::new(), Evaluation::new(), Evaluation::new());

    let evaluate =
        median(|| loss.evaluate_into(features.view(), weights.view(), &targets, &mut full))?;
    let forward =
        median(|| loss.forward_into(features.view(), weights.view(), &targets, &mut alone))?;
    // What the closure does is the user's code, which a dev build does not optimise: it only counts.
    let mut blocks = 0;
    let streamed = median(|| {
        loss.evaluate_streamed(
            features.view(),
            weights.view_mut(),
            &targets,
            &mut out,
            &mut |_| {
                blocks += 1;
            },
        )
    })?;
    let center_step =
        median(|| CenterLoss::update_centers(centers.view_mut(), features.view(), &labels, 0.5))?;
    println!(
        "evaluate={evaluate:.1} forward={forward:.1} streamed={streamed:.1} center_step={center_step:.1}"
    );
    Ok(())
}
