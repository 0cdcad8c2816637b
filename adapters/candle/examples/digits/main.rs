//! Digits, by a small convolutional network in candle: the share of held-out images that are classified right.
//!
//! ```sh
//! cargo run --release --example digits -- --loss arcface:s=10,m=0.3 --route device
//! ```

#[path = "../../../../examples/shared/command.rs"]
mod command;
#[path = "../shared/mod.rs"]
mod shared;

use std::process::ExitCode;

use shared::experiment::{Experiment, Options, Setting};

const SETTING: Setting = Setting {
    images: "images-idx3-ubyte",
    labels: "labels-idx1-ubyte",
    loss: "arcface:s=10,m=0.3",
    batch: 64,
    dim: 32,
    epochs: 15,
    rate: 1e-3,
    warm_up: 0.3,
};

fn main() -> ExitCode {
    command::run(|options: Options| run(&options).map_err(|error| error.to_string()))
}

fn run(options: &Options) -> Result<(), Box<dyn std::error::Error>> {
    let mut experiment = Experiment::new(&SETTING, options)?.hold_images_out()?;
    let trained = shared::train(&mut experiment)?;
    let accuracy = experiment.accuracy(trained.test_embeddings.view(), trained.weights.view())?;
    println!("loss {:.5}, test accuracy {accuracy:.4}", trained.loss);
    Ok(())
}
