//! Training that is saved, and goes on later as if nothing had happened: bit by bit.
//!
//! ```sh
//! cargo run --release --example checkpoint
//! cargo run --release --example checkpoint -- --file model.safetensors
//! cargo test --example checkpoint
//! ```
//!
//! A training is more than W. What is kept is everything that a step reads: the network, W and their momentum, what the loss
//! learns (here NormFace's scale) and its momentum, the centers of the center loss, the step, and the seed. Batches are drawn
//! by a generator that is made of the seed and the step, so that these two are the whole random state. Schedules are
//! functions of the step. Batch normalisation, if there is any, adds its running statistics.
//!
//! The file is safetensors, which Python reads as well: `safetensors.numpy.load_file("model.safetensors")`.

mod file;
mod training;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use margin_losses::{AnyLoss, NormFace};

use crate::training::{Setting, Training};

const STEPS: u64 = 200;
const SAVED_AT: u64 = 120;

/// Trains, saves, trains on from the file, and compares with a training that was not disturbed.
#[derive(Debug, Parser)]
#[command(name = "checkpoint")]
struct Arguments {
    /// The checkpoint to write; one in the folder of temporary files if not given.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

fn main() -> ExitCode {
    let file = Arguments::parse().file;
    let file = file.unwrap_or_else(|| std::env::temp_dir().join("checkpoint.safetensors"));
    match run(&file) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

fn setting() -> Result<Setting, margin_losses::Error> {
    Ok(Setting {
        loss: AnyLoss::NormFace(NormFace::learned(10.0)?),
        classes: 10,
        dim: 8,
        seed: 1,
    })
}

fn run(path: &Path) -> Result<(), String> {
    let setting = setting().map_err(|error| error.to_string())?;
    let mut undisturbed = Training::new(&setting).map_err(|error| error.to_string())?;
    undisturbed
        .go_on(STEPS)
        .map_err(|error| error.to_string())?;

    let mut first = Training::new(&setting).map_err(|error| error.to_string())?;
    first.go_on(SAVED_AT).map_err(|error| error.to_string())?;
    first.save(path)?;
    println!("step {SAVED_AT}: saved in {}", path.display());
    drop(first);

    let mut resumed = Training::load(&setting, path)?;
    let loss = resumed.go_on(STEPS - SAVED_AT);
    let loss = loss.map_err(|error| error.to_string())?;
    println!("step {STEPS}: loss {loss:.4}");
    if resumed.to_bytes()? != undisturbed.to_bytes()? {
        return Err("the resumed training differs from the undisturbed one".to_owned());
    }
    println!("every bit of the resumed training is that of the undisturbed one");
    Ok(())
}

#[cfg(test)]
mod tests;
