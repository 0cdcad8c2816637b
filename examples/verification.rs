//! Verification of many embeddings: error rates over all pairs, and recall, in memory that does not grow with the pairs.
//!
//! ```sh
//! cargo run --release --example verification
//! cargo run --release --example verification -- --n 100000 --dim 512
//! ```
//!
//! The embeddings are made up: ten of each identity, which are the identity's direction and noise one and a half times as long.
//! On Linux it prints what the process held at its peak, beyond the features.

use std::time::Instant;

use clap::Parser;
use margin_losses::ndarray::{Array2, Axis};
use margin_losses::verification::Embeddings;
use margin_losses::{Error, init};

const OF_AN_IDENTITY: usize = 10;
const NOISE: f64 = 1.5;
const FALSE_ACCEPT_RATES: [f64; 3] = [1e-2, 1e-4, 1e-6];
const NEIGHBOURS: [usize; 3] = [1, 5, 10];

/// Verifies made-up embeddings over all pairs.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many embeddings.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(20..))]
    n: u32,
    /// Their dimension.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    dim: u32,
}

fn main() -> Result<(), Error> {
    let arguments = Arguments::parse();
    let (count, dim) = (arguments.n as usize, arguments.dim as usize);
    let identities: Vec<usize> = (0..count).map(|row| row / OF_AN_IDENTITY).collect();
    let mut features: Array2<f32> = init::normal(count, dim, NOISE / (dim as f64).sqrt(), 1)?;
    let directions = init::class_weights(count.div_ceil(OF_AN_IDENTITY), dim, 2)?;
    for (&identity, mut feature) in identities.iter().zip(features.axis_iter_mut(Axis(0))) {
        feature += &directions.row(identity);
    }
    drop(directions);
    let held = peak_mib();

    let embeddings = Embeddings::new(features.view(), &identities)?;
    let start = Instant::now();
    let report = embeddings.verify(&FALSE_ACCEPT_RATES)?;
    println!(
        "{count} embeddings in {dim} dimensions, {} pairs of one identity, {} of two: {:.1} s",
        report.same_pairs,
        report.different_pairs,
        start.elapsed().as_secs_f64()
    );
    println!(
        "EER {:.4} % at a cosine of {:.4}",
        100.0 * report.equal_error_rate,
        report.equal_error_threshold
    );
    for (rate, point) in FALSE_ACCEPT_RATES.iter().zip(&report.true_accept_rates) {
        println!(
            "TAR {:.2} % at FAR {rate:e}, a cosine of {:.4}",
            100.0 * point.true_accept_rate,
            point.threshold
        );
    }
    println!("{} points of the ROC", report.roc.len());

    let start = Instant::now();
    let recall = embeddings.recall(&NEIGHBOURS)?;
    for (k, recall) in NEIGHBOURS.iter().zip(recall) {
        println!("recall at {k}: {:.2} %", 100.0 * recall);
    }
    println!("recall took {:.1} s", start.elapsed().as_secs_f64());
    if let (Some(held), Some(peak)) = (held, peak_mib()) {
        println!(
            "held at the peak: {held} MiB before, {} MiB more",
            peak - held
        );
    }
    Ok(())
}

/// The most memory that this process has held, in MiB, where the system tells.
fn peak_mib() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: usize = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib / 1024)
}
