//! Bytes to a loss, its parameters and a batch, ordinary or not; then every path of the crate, judged by the oracle of the
//! tests. `tests/quick/support/tape.rs` decodes, `tests/quick/support/judge.rs` says what is right.

#![no_main]

#[allow(dead_code, unused_imports, reason = "the target uses a part of it")]
#[path = "../../tests/quick/support/mod.rs"]
mod support;

use libfuzzer_sys::fuzz_target;
use support::{Tape, Wildness, judge};

fuzz_target!(|bytes: &[u8]| {
    let Some((&kind, bytes)) = bytes.split_first() else {
        return;
    };
    let mut tape = Tape(bytes);
    if kind % 2 == 0 {
        judge(&tape.scenario::<f32>(Wildness::Bad));
    } else {
        judge(&tape.scenario::<f64>(Wildness::Bad));
    }
});
