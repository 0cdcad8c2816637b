//! Characters, by a small convolutional network in burn: whether two images are of one character, of characters that the
//! network has never seen.
//!
//! ```sh
//! cargo run --release --example characters -- --loss arcface:s=16,m=0.3
//! cargo run --release --example characters -- --loss softmax
//! ```

#[path = "../../../../examples/shared/command.rs"]
mod command;
#[path = "../shared/mod.rs"]
mod shared;

use std::process::ExitCode;

use shared::experiment::{Experiment, Options, Setting};

const SETTING: Setting = Setting {
    images: "characters/images-idx3-ubyte.gz",
    labels: "characters/labels-idx1-short.gz",
    loss: "arcface:s=16,m=0.3",
    batch: 128,
    dim: 64,
    epochs: 4,
    rate: 5e-3,
    warm_up: 0.4,
};

fn main() -> ExitCode {
    command::run(|options: Options| run(&options).map_err(|error| error.to_string()))
}

fn run(options: &Options) -> Result<(), Box<dyn std::error::Error>> {
    let mut experiment = Experiment::new(&SETTING, options)?.hold_classes_out()?;
    let trained = shared::train(&mut experiment)?;
    let rate = experiment.equal_error_rate(trained.test_embeddings.view())?;
    println!(
        "loss {:.5}, equal error rate {:.2} % over {} images of {} unseen characters",
        trained.loss,
        100.0 * rate,
        experiment.test.len(),
        experiment.dataset.classes - experiment.classes
    );
    Ok(())
}
