//! Trains a small network on 800 written characters with each loss, and prints how well it verifies 200 characters that it has
//! never seen.
//!
//! ```sh
//! cargo run --release --example characters
//! cargo run --release --example characters -- --loss softmax arcface:m=0.3 --loss arcface+subcenters:k=3
//! cargo run --release --example characters -- --noise 0.1
//! cargo run --release --example characters -- --long-tail
//! ```
//!
//! # What is compared
//!
//! 1,000 Han characters, each in 26 typefaces (`examples/data/characters`). Characters 0 to 799 are trained on. All pairs of the
//! 5,200 images of the others are compared by the cosine of their embeddings, softmax's too. A pair is genuine if both show one
//! character. This is verification on an open set, as of faces and voices, and what these losses are for.
//!
//! The network is a perceptron, 400 pixels → 512 → 64, with batch normalisation after both layers. Each image is distorted by a
//! random affine map. Network, class weights, order and distortions begin with the seed only, so that all losses start from the
//! same network and see the same batches. All take the same steps: stochastic gradient descent, momentum 0.9, batches of 128, 8
//! epochs, a rate that falls from 0.1 to 0 along half a cosine. Rate and distortions were chosen by softmax, and no loss is tuned.
//!
//! # The hyper-parameters
//!
//! * The scale of all losses that normalise their features is 24. A learned scale begins there.
//! * The margins are those of the papers. They grow from nothing over the first 40 % of the steps. A-Softmax is annealed instead.
//! * MagFace is there twice: with the paper's norms, 10 to 110, and with those divided by √8, because they were meant for 512
//!   dimensions, and embeddings of 64 are shorter by that factor.
//! * SphereFace2 and UniFace begin with the bias of the guide, and learn it. AdaptiveFace's margins begin between 0.3 and 0.4
//!   (`m=random`), and are learned, not warmed up.
//! * AM-Softmax is CosFace at this scale, and is left out.
//!
//! # Wrong labels and a long tail
//!
//! `--noise 0.1` gives a tenth of the training images the label of another class. `--long-tail` leaves the classes 26 to 2 images,
//! fewer by the same factor from class to class. The steps stay as many. Then margins and priors by class are there besides: in
//! the line of a loss `m=ldam`, `m=dynamic` and `log=counts` stand for what the numbers of images give (largest margin 0.5; a =
//! 0.5, b = 0.05, λ = ¼; τ = 1). The images to be verified are the same. With a long tail, the images that it leaves out are
//! classified as well: margins and priors by class are for classes that were trained on.

#[allow(dead_code, unused_imports)] // the gallery draws more
#[path = "../shared/chart/mod.rs"]
mod chart;
#[path = "../shared/command.rs"]
mod command;
#[path = "../shared/criterion.rs"]
mod criterion;
mod figure;
mod images;
mod losses;
#[path = "../shared/runs.rs"]
mod runs;
#[allow(dead_code)] // the digits are split
#[path = "../shared/mod.rs"]
mod shared;
mod table;
mod train;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;

use crate::images::Change;
use crate::losses::Choice;
use crate::shared::dataset::Dataset;
use crate::train::Setting;

/// Trains a small network on 800 written characters with each loss, and prints how well it verifies 200 others.
#[derive(Debug, Parser)]
#[command(name = "characters", allow_negative_numbers = true)]
struct Arguments {
    /// Losses, separated by spaces, as in cosface arcface:s=32,m=0.2+subcenters:k=3; those of the table if not given. A scale that
    /// is left out is 24. m=ldam, m=dynamic and log=counts take margins and class priors from the number of images.
    #[arg(long, value_name = "LOSS", num_args = 1..)]
    loss: Vec<Choice>,
    /// The share of training images with a wrong label.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    noise: f64,
    /// Leaves the classes 26 to 2 training images.
    #[arg(long)]
    long_tail: bool,
    /// How often each training image is seen.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=1000))]
    epochs: u64,
    /// How many runs the table averages; each has its own initial weights, order and distortions.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=1000))]
    seeds: u64,
    /// Where the figure of the ROC goes; its folder is made if need be.
    #[arg(
        long,
        value_name = "FILE",
        default_value = "target/figures/characters.svg"
    )]
    figure: PathBuf,
}

fn main() -> ExitCode {
    command::run(|arguments: Arguments| run(&arguments))
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("must lie in 0..=1".to_owned()),
    }
}

fn run(arguments: &Arguments) -> Result<(), String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data/characters");
    let dataset = Dataset::read(
        &folder.join("images-idx3-ubyte.gz"),
        &folder.join("labels-idx1-short.gz"),
    )
    .map_err(|error| {
        format!("{error} (the characters are in the repository, not in the package)")
    })?;
    let setting = Setting {
        dataset: &dataset,
        change: Change {
            noise: arguments.noise,
            long_tail: arguments.long_tail,
        },
        epochs: arguments.epochs,
    };
    let losses = if arguments.loss.is_empty() {
        Choice::table(arguments.long_tail).map_err(|error| error.to_string())?
    } else {
        runs::without_doubles(&arguments.loss)
    };
    let seeds: Vec<u64> = (1..=arguments.seeds).collect();
    let rows = runs::train_all(&losses, &seeds, arguments.epochs, |choice, seed, bar| {
        train::run(&setting, choice, seed, || bar.inc(1))
    })?;

    let cannot = |what: &Path, error| format!("{}: {error}", what.display());
    let figure = &arguments.figure;
    if let Some(folder) = figure.parent() {
        fs::create_dir_all(folder).map_err(|error| cannot(folder, error))?;
    }
    fs::write(figure, figure::draw(&rows)).map_err(|error| cannot(figure, error))?;

    let mut text = vec![
        table::render(&rows),
        table::legend(&setting, seeds.len()),
        format!("ROC: {}\n", figure.display()),
    ];
    let troubles = rows.iter().flat_map(|(_, outcomes)| outcomes);
    text.extend(troubles.filter_map(|outcome| outcome.trouble.clone()));
    std::io::stdout()
        .write_all(text.concat().as_bytes())
        .map_err(|error| format!("cannot print the table: {error}"))
}
