//! The example `sharded` of the crate beside, with ranks that are processes.
//!
//! ```sh
//! cargo build --release --manifest-path mpi/Cargo.toml --example sharded
//! mpirun -n 2 mpi/target/release/examples/sharded --classes 100000
//! ```

#[path = "../../examples/sharded/checkpoint.rs"]
mod checkpoint;
#[path = "../../examples/sharded/train.rs"]
mod train;

use std::process::ExitCode;

use clap::Parser;
use margin_losses::shards::Communicator;
use margin_losses_mpi::Mpi;

use crate::train::{Options, train};

/// Trains a head whose classes are spread over the ranks of mpirun.
#[derive(Debug, Parser)]
#[command(name = "sharded")]
struct Arguments {
    #[command(flatten)]
    options: Options,
    /// For tests: the last rank panics after this step.
    #[arg(long, hide = true)]
    panic_after: Option<u64>,
    /// For tests: the last rank is gone after this step, as if killed.
    #[arg(long, hide = true)]
    vanish_after: Option<u64>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mpi = match Mpi::new() {
        Ok(mpi) => mpi,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    assert!(Mpi::new().is_err(), "MPI is initialised once in a process");
    let last = mpi.rank() == mpi.size() - 1;
    let mut after = |step| {
        assert!(!last || arguments.panic_after != Some(step), "on purpose");
        if last && arguments.vanish_after == Some(step) {
            std::process::abort();
        }
    };
    match train(&mpi, &arguments.options, &mut after) {
        Ok(summary) => {
            if mpi.rank() == 0 {
                println!("{summary}");
            }
            ExitCode::SUCCESS
        }
        Err(message) => {
            // The same on all ranks.
            if mpi.rank() == 0 {
                eprintln!("error: {message}");
            }
            ExitCode::FAILURE
        }
    }
}
