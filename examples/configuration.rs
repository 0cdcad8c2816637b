//! A training's configuration, saved and loaded (feature `serde`).
//!
//! ```sh
//! cargo run --release --features serde --example configuration
//! ```
//!
//! What is loaded goes through the constructors: a value out of range is refused with the loss's own message. The numbers
//! that a loss learns are part of it, so a training goes on where it was.

#[path = "shared/command.rs"]
mod command;

use std::error::Error;
use std::process::ExitCode;

use clap::Parser;
use margin_losses::schedule::LambdaAnnealing;
use margin_losses::{ASoftmax, AnyLoss, MarginLoss, NormFace};

/// Saves losses and schedules as JSON, and loads them as they were saved and as somebody writes them by hand.
#[derive(Debug, Parser)]
struct Arguments {}

fn main() -> ExitCode {
    command::run(|_: Arguments| save_and_load())
}

fn save_and_load() -> Result<(), Box<dyn Error>> {
    // A loss with what it has learned.
    let mut loss = NormFace::learned(10.0)?;
    loss.set_scale(12.25)?;
    let saved = serde_json::to_string(&AnyLoss::from(loss))?;
    println!("saved:   {saved}");
    let loaded: AnyLoss = serde_json::from_str(&saved)?;
    println!("loaded:  {loaded}");
    println!("learned: {:?}", MarginLoss::<f32>::learnables(&loaded));

    // As somebody writes it by hand: an option that is as the paper has it may be left out, and a slip is noticed.
    // A line is as good as a table.
    for text in [
        r#""arcface:s=32,m=0.4""#,
        r#"{ "arcface": { "scale": 32, "margin": 0.4 } }"#,
        r#"{ "arcface": { "scale": 32, "margin": 0.4, "past_pi": "smooth-tail" } }"#,
        r#"{ "arcface": { "scale": 32, "margin": 4 } }"#,
        r#"{ "arcface": { "scale": 32, "margim": 0.4 } }"#,
        r#"{ "arcfase": {} }"#,
    ] {
        match serde_json::from_str::<AnyLoss>(text) {
            Ok(loss) => println!("{text}\n    is {loss}"),
            Err(error) => println!("{text}\n    is refused: {error}"),
        }
    }

    // Schedules are configuration too.
    let annealing = LambdaAnnealing::sphere_face();
    let saved = serde_json::to_string(&annealing)?;
    let loaded: LambdaAnnealing = serde_json::from_str(&saved)?;
    let loss = ASoftmax::new(4)?.with_lambda(loaded.at(100))?;
    println!("{saved}\n    is {loss} at iteration 100");
    Ok(())
}
