//! How every example begins and ends.

use std::fmt::Display;
use std::process::ExitCode;

use clap::Parser;

/// Reads the command line and runs the example. The exit code is 0 if all went well and after `--help`, 2 for arguments
/// that cannot be read, 1 for any other error, which is printed on one line.
pub(crate) fn run<A: Parser, E: Display>(example: impl FnOnce(A) -> Result<(), E>) -> ExitCode {
    match example(A::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
