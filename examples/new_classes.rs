//! More classes than yesterday: a network and its class weights know five digits, and the other five come.
//!
//! ```sh
//! cargo run --release --example new_classes
//! ```
//!
//! ArcFace trains a small network on the digits 0 to 4. Then W gets five more rows, once of random direction and once in the
//! mean direction of the features that the network gives to images of the new digits. The network has never been trained on
//! these; what it says of them is enough to begin with.

#[path = "shared/command.rs"]
mod command;
#[path = "shared/mod.rs"]
mod shared;

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use margin_losses::ndarray::{Array2, s};
use margin_losses::{ArcFace, Error, MarginLoss, Targets, grow, guide};

use crate::shared::dataset::{Dataset, Split};
use crate::shared::training::{self, Model};

/// The digits that are there from the beginning.
const OLD: usize = 5;
const EPOCHS: u64 = 20;
const RATE: f32 = 0.02;
const SEED: u64 = 1;

/// Trains a network on five digits, adds rows of W for the other five in two ways, and compares the first losses.
#[derive(Debug, Parser)]
struct Arguments {}

fn main() -> ExitCode {
    command::run(|_: Arguments| run())
}

fn run() -> Result<(), String> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data");
    let dataset = Dataset::read(
        &data.join("images-idx3-ubyte"),
        &data.join("labels-idx1-ubyte"),
    )?;
    let Split { train, held_out } = training::split(&dataset, SEED)?;
    compare(&dataset, &train, &held_out).map_err(|error| error.to_string())
}

fn compare(dataset: &Dataset, train: &[usize], held_out: &[usize]) -> Result<(), Error> {
    let is_new = |index: &usize| dataset.labels(&[*index])[0] >= OLD;
    let (new, mut old): (Vec<usize>, Vec<usize>) = train.iter().partition(|index| is_new(index));

    let loss = ArcFace::new(guide::suggested_scale(dataset.classes, 0.9999)?, 0.5)?;
    let mut model = Model::new(&[dataset.width, 256, 128, 16], OLD, SEED);
    for _ in 0..EPOCHS {
        model.epoch(dataset, &mut old, RATE, |features, weights, labels, out| {
            loss.evaluate_into(features, weights, &Targets::new(labels), out)
        })?;
    }

    let trained = &model.weights.value;
    let (features, labels) = (model.embed(dataset, &new), dataset.labels(&new));
    let added = dataset.classes - OLD;
    let random = grow::with_random_rows(trained.view(), added, SEED)?;
    let means = grow::with_class_means(trained.view(), features.view(), &labels, added)?;
    // In training, the momentum of the new rows begins at 0, too: `Parameter::new(means)`.

    println!(
        "{loss} on {OLD} digits, then {added} new ones; held-out images, before any further step"
    );
    println!();
    println!("| new rows | first loss, new digits | accuracy, new digits | accuracy, all digits |");
    println!("|---|---|---|---|");
    let held_out_new: Vec<usize> = held_out.iter().copied().filter(is_new).collect();
    for (name, weights) in [("random", &random), ("means of features", &means)] {
        assert_eq!(
            weights.slice(s![..OLD, ..]),
            trained,
            "old classes keep their bits"
        );
        let measure = |indices: &[usize]| first(&loss, &model, weights, dataset, indices);
        let ((first_loss, accuracy), (_, of_all)) = (measure(&held_out_new)?, measure(held_out)?);
        println!(
            "| {name} | {first_loss:.3} | {:.1} % | {:.1} % |",
            100.0 * accuracy,
            100.0 * of_all
        );
    }
    Ok(())
}

/// Loss and accuracy on these images, with these class weights.
fn first(
    loss: &ArcFace,
    model: &Model,
    weights: &Array2<f32>,
    dataset: &Dataset,
    indices: &[usize],
) -> Result<(f32, f64), Error> {
    let (features, labels) = (model.embed(dataset, indices), dataset.labels(indices));
    let forward = loss.forward(features.view(), weights.view(), &Targets::new(&labels))?;
    Ok((forward.loss, forward.accuracy().unwrap_or(f64::NAN)))
}
