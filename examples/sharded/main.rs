//! A head of very many classes, spread over ranks: trained with SGD and momentum, over all classes or a sample of them.
//!
//! ```sh
//! cargo run --release --example sharded -- --classes 100000 --threads 2
//! cargo run --release --example sharded -- --classes 100000 --threads 2 --rate 0.1
//! cargo run --release --example sharded -- --checkpoint run --steps 20     # and again with --steps 40: it goes on
//! cargo test --example sharded
//! ```
//!
//! Ranks are threads here. `mpi/` beside this crate has the same example with ranks that are processes:
//! `mpirun -n 4 sharded --classes 100000`. The hash of the loss curve is the same, whatever the number of ranks.
//!
//! The identities are synthetic: each has a direction, and a row is that with noise. In the place of a network the features are
//! given, so that what is measured is the head.

mod checkpoint;
mod train;

use std::process::ExitCode;

use clap::Parser;
use margin_losses::shards::Threads;

use crate::train::{Options, train};

/// Trains a head whose classes are spread over ranks.
#[derive(Debug, Parser)]
#[command(name = "sharded")]
struct Arguments {
    #[command(flatten)]
    options: Options,
    /// The number of ranks, each a thread.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: u16,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let ranks = Threads::run(arguments.threads.into(), |comm| {
        train(&comm, &arguments.options, &mut |_| ())
    });
    // All have the same answer, and the first says it.
    match &ranks[0] {
        Ok(summary) => {
            println!("{summary}");
            ExitCode::SUCCESS
        }
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests;
