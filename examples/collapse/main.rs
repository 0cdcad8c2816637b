//! The loss falls and nothing is learned: when training ends opposite to the classes, and what prevents it.
//!
//! ```sh
//! cargo run --release --example collapse
//! cargo run --release --example collapse -- --images images-idx3-ubyte.gz --labels labels-idx1-short.gz --rate 0.05
//! ```
//!
//! Where inputs are not centred, all features begin in about one direction. They move along it together, until the loss stops
//! falling. By the paper's formula of ArcFace that may be opposite to all classes, where the loss is near 0.
//!
//! # What is trained
//!
//! * **Toy.** One input for each class, `1 + 0.3·N(0, 1)` in 32 dimensions, through a linear layer 32 → 16; all inputs in each of
//!   600 steps of gradient descent, rate 0.1, for network and class weights. Accuracy and cosines are those of the inputs.
//! * **Images.** Pixels between 0 and 1, through a perceptron → 128 → 32 without any normalisation; stochastic gradient descent,
//!   momentum 0.9, batches of 64. Accuracy and cosines are those of a quarter that is held out.
//!
//! The first lines are losses as they are, at the scales of the heading. The others are the paper's rule with one cure each.

// The verification pairs are for the other examples.
mod candidate;
mod images;
#[allow(dead_code)]
#[path = "../shared/mod.rs"]
mod shared;
mod toy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use margin_losses::Forward;
use rayon::prelude::*;

use crate::candidate::{Candidate, candidates};
use crate::shared::dataset::Dataset;

/// Compares ArcFace's rules, and other cures, where training may end opposite to the classes.
#[derive(Debug, Parser)]
#[command(name = "collapse")]
struct Arguments {
    /// Runs of the toy.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=1000))]
    seeds: u64,
    /// Runs on images.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1000))]
    image_seeds: u64,
    /// How often each training image is seen.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1000))]
    epochs: u64,
    /// The learning rate on images.
    #[arg(long, default_value_t = 0.01)]
    rate: f32,
    /// Images in IDX format, plain or gzipped, in the place of toy and digits.
    #[arg(long, value_name = "FILE", requires = "labels")]
    images: Option<PathBuf>,
    /// Their labels, of one byte or two.
    #[arg(long, value_name = "FILE", requires = "images")]
    labels: Option<PathBuf>,
}

/// What is trained on.
struct Problem {
    heading: String,
    classes: usize,
    scale: f64,
    seeds: u64,
    data: Data,
}

enum Data {
    Toy,
    /// As they are, and centred.
    Images(Box<[Dataset; 2]>, images::Course),
}

/// How a run ended.
#[derive(Clone, Copy, Debug)]
struct Outcome {
    accuracy: f64,
    cosine: f64,
    loss: f64,
}

impl Outcome {
    fn of(forward: &Forward<f32>) -> Self {
        Self {
            accuracy: forward.accuracy().unwrap_or(f64::NAN),
            cosine: f64::from(forward.target_cosines.mean().unwrap_or(f32::NAN)),
            loss: f64::from(forward.loss),
        }
    }
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), String> {
    let images = |images: &Path, labels: &Path| -> Result<Problem, String> {
        let read = || Dataset::read(images, labels);
        let (plain, centred) = (read()?, read()?.centred());
        let course = images::Course {
            epochs: arguments.epochs,
            rate: arguments.rate,
        };
        Ok(Problem {
            heading: "images".to_owned(),
            classes: plain.classes,
            scale: 64.0,
            seeds: arguments.image_seeds,
            data: Data::Images(Box::new([plain, centred]), course),
        })
    };
    let problems = if let (Some(files), Some(labels)) = (&arguments.images, &arguments.labels) {
        vec![images(files, labels)?]
    } else {
        let bundled = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data");
        let toy = |(classes, scale)| Problem {
            heading: "toy".to_owned(),
            classes,
            scale,
            seeds: arguments.seeds,
            data: Data::Toy,
        };
        let mut all: Vec<Problem> = [(2, 64.0), (6, 64.0), (92, 30.0)].map(toy).into();
        all.push(images(
            &bundled.join("images-idx3-ubyte"),
            &bundled.join("labels-idx1-ubyte"),
        )?);
        all
    };

    let mut head = vec!["loss".to_owned()];
    head.extend(problems.iter().map(|problem| {
        format!(
            "{}, C = {}, s = {}, {} seeds",
            problem.heading, problem.classes, problem.scale, problem.seeds
        )
    }));
    println!("| {} |", head.join(" | "));
    println!("|{}", "---|".repeat(head.len()));
    for candidate in candidates() {
        let mut line = vec![candidate.name.to_owned()];
        for problem in &problems {
            let seeds: Vec<u64> = (0..problem.seeds).collect();
            let outcomes: Result<Vec<Outcome>, String> = seeds
                .par_iter()
                .with_max_len(1)
                .map(|&seed| problem.run(&candidate, seed))
                .collect();
            line.push(cell(&outcomes?));
        }
        println!("| {} |", line.join(" | "));
    }
    println!(
        "\nRuns that end at a mean target cosine below −0.5; accuracy, mean over the runs and least of all; mean target \
         cosine; median loss."
    );
    Ok(())
}

impl Problem {
    fn run(&self, candidate: &Candidate, seed: u64) -> Result<Outcome, String> {
        let outcome = match &self.data {
            Data::Toy => toy::run(candidate, self.classes, self.scale, seed),
            Data::Images(both, course) => {
                let [plain, centred] = &**both;
                let dataset = if candidate.centred { centred } else { plain };
                images::run(candidate, dataset, self.scale, *course, seed)?
            }
        };
        outcome.map_err(|error| format!("{}, seed {seed}: {error}", candidate.name))
    }
}

fn cell(outcomes: &[Outcome]) -> String {
    let count = outcomes.len() as f64;
    let mean = |of: fn(&Outcome) -> f64| outcomes.iter().map(of).sum::<f64>() / count;
    let opposite = outcomes.iter().filter(|run| run.cosine < -0.5).count();
    let least = outcomes.iter().map(|run| run.accuracy).fold(1.0, f64::min);
    let mut losses: Vec<f64> = outcomes.iter().map(|run| run.loss).collect();
    losses.sort_by(f64::total_cmp);
    format!(
        "{opposite}; {:.0} % ({:.0}); {:+.2}; {:.2}",
        100.0 * mean(|run| run.accuracy),
        100.0 * least,
        mean(|run| run.cosine),
        losses[losses.len() / 2]
    )
}
