//! Trains a small network on handwritten digits with each loss of the family, and prints how well it verifies.
//!
//! ```text
//! cargo run --release --example digits
//! cargo run --release --example digits -- --loss softmax softmax+center arcface:m=0.3 --seeds 10
//! cargo run --release --example digits -- --images train-images-idx3-ubyte.gz --labels train-labels-idx1-ubyte.gz
//! ```
//!
//! # What is compared
//!
//! For each seed, a random quarter of the images is held out and a perceptron (pixels → 256 → 128 → embedding, batch
//! normalisation last) is trained on the rest. Split, initial weights, initial class weights and the order of the
//! batches depend on the seed only: all losses start from the same network and see the same batches. All take the
//! same steps (stochastic gradient descent, rate 0.02, momentum 0.9, batches of 64, 40 epochs), and no loss is tuned.
//!
//! The embeddings of the held-out images are then compared by their cosine, softmax's too. Every pair of images is a
//! trial of a verification system; it is genuine if both show one digit. The digits to tell apart are those of the
//! training, so this is verification on a closed set: easier than that of faces never seen.
//!
//! # The hyper-parameters
//!
//! * The scale is one for all losses that normalise the features: CosFace's lower bound for a target's probability of
//!   0.9999, which is 10.3 for ten classes. (The papers on faces, with their thousands of classes, take 30 to 64.)
//!   NormFace suffers most from a scale too large, because without a margin, rows that are right have hardly a
//!   gradient left. The variant that learns its scale starts at 1; from 10 it would hardly move in 40 epochs.
//! * The margins are those of the papers: 4 for A-Softmax (with SphereFace's annealing), 0.35 for AM-Softmax and
//!   CosFace, 0.5 for ArcFace, (1, 0.3, 0.2) combined. AM-Softmax and CosFace are one loss, published twice: their
//!   lines are equal.
//! * The network's first weights are PyTorch's default, uniform within 1/√inputs. Before a batch normalisation their size acts
//!   as a learning rate: larger weights turn more slowly. `--first-weights 2.449` begins with He's, uniform within √(6/inputs):
//!   every loss is worse then, and those without margin most (softmax by 1.3 points of the equal error rate, NormFace by 0.7,
//!   CosFace by 0.5, ArcFace by 0.2). With 1,000 classes of written characters, which are not part of the repository (`--dim 64
//!   --epochs 3 --seeds 1`), softmax is worse by 0.5 points and NormFace by 0.2, CosFace better by 0.1 and ArcFace by 0.3. So
//!   neither is best for all, and the default is the one that does not handicap the baselines.
//! * AdaFace, MagFace, MV-Softmax and CurricularFace have the scale of the others, and all else from their papers: MagFace's range
//!   of norms is that of faces in 512 dimensions.
//! * SphereFace2 and UniFace have the margin 0.4 of their papers and the scale of the others, lower than their papers' 40 and 64.
//!   Their bias begins where the guide says, unless one is given, and is learned as the scale is.
//! * Center loss has λ = 0.003 and α = 0.5, as in its paper.

mod angles;
#[path = "../shared/command.rs"]
mod command;
#[path = "../shared/criterion.rs"]
mod criterion;
mod losses;
#[path = "../shared/runs.rs"]
mod runs;
#[path = "../shared/mod.rs"]
mod shared;
mod table;
mod train;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;

use crate::criterion::Loss;
use crate::shared::dataset::Dataset;
use crate::shared::training;
use crate::train::Setting;

/// Trains a small network on handwritten digits with each margin loss, and prints how well it verifies.
///
/// Without arguments it takes the digits that come with the crate. MNIST's files, plain or gzipped, do as well.
#[derive(Debug, Parser)]
#[command(name = "digits", allow_negative_numbers = true)]
struct Arguments {
    /// Images in IDX format, plain or gzipped.
    #[arg(long, value_name = "FILE", requires = "labels")]
    images: Option<PathBuf>,
    /// Their labels in IDX format, plain or gzipped.
    #[arg(long, value_name = "FILE", requires = "images")]
    labels: Option<PathBuf>,
    /// Losses, separated by spaces, as in softmax+center arcface:s=10,m=0.5; those of the table if not given. A scale that is
    /// left out is the one suggested for the number of classes, A-Softmax is annealed if its λ is 0, and the bias of SphereFace2
    /// and UniFace begins where the guide says if it is 0.
    #[arg(long, value_name = "LOSS", num_args = 1..)]
    loss: Vec<Loss>,
    /// The dimension of the embedding.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=4096))]
    dim: u16,
    /// How often each training image is seen.
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    epochs: u64,
    /// How many times as large as PyTorch's default (uniform within 1/√inputs) the network's first weights are; 2.449 is
    /// He's uniform, √(6/inputs).
    #[arg(long, default_value_t = 1.0, value_parser = first_weights)]
    first_weights: f32,
    /// How many runs the table averages; each has its own split, initial weights and order.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1000))]
    seeds: u64,
}

fn main() -> ExitCode {
    command::run(|arguments: Arguments| run(&arguments))
}

fn first_weights(text: &str) -> Result<f32, String> {
    match text.parse() {
        Ok(factor) if (1e-3..=1e3).contains(&factor) => Ok(factor),
        _ => Err("must lie in 0.001..=1000".to_owned()),
    }
}

fn run(arguments: &Arguments) -> Result<(), String> {
    let bundled = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data");
    let file = |given: &Option<PathBuf>, name| given.clone().unwrap_or_else(|| bundled.join(name));
    let dataset = Dataset::read(
        &file(&arguments.images, "images-idx3-ubyte"),
        &file(&arguments.labels, "labels-idx1-ubyte"),
    )?;
    let setting = Setting {
        dataset: &dataset,
        dim: usize::from(arguments.dim),
        epochs: arguments.epochs,
        first_weights: arguments.first_weights,
    };
    let losses = if arguments.loss.is_empty() {
        losses::table().map_err(|error| error.to_string())?
    } else {
        runs::without_doubles(&arguments.loss)
    };

    let seeds: Vec<u64> = (1..=arguments.seeds).collect();
    // Too few images are noticed before the first run; all seeds hold out as many.
    let mut held_out = 0;
    for &seed in &seeds {
        held_out = training::split(&dataset, seed)?.held_out.len();
    }
    let rows = runs::train_all(&losses, &seeds, arguments.epochs, |loss, seed, bar| {
        train::run(&setting, loss, seed, || bar.inc(1))
    })?;
    let scale = losses::scale(dataset.classes).map_err(|error| error.to_string())?;
    let text = table::render(&rows)
        + &table::legend(held_out, seeds.len(), scale, arguments.first_weights);
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(|error| format!("cannot print the table: {error}"))
}
