//! What the integration tests share: batches, every loss with its formula, a slow oracle, a gradient checker.
#![allow(
    dead_code,
    unused_imports,
    reason = "each test crate uses a part of it"
)]

mod batch;
mod compare;
mod differences;
mod exact;
mod good;
mod judge;
mod layout;
mod losses;
mod oracle;
mod plain;
pub(crate) mod refusal;
mod refusals;
mod spec;
mod tape;
mod tolerance;

pub(crate) use batch::{Batch, SplitMix, narrow, wide, widen, widened};
pub(crate) use compare::{
    Snapshot, assert_close, assert_printed, assert_relative, bits, close_to_largest, largest,
    max_difference, worst,
};
pub(crate) use differences::{Derivative, check_gradient, derivative};
pub(crate) use exact::{Scaled, Sum, times_two_to};
pub(crate) use good::{Good, evaluate};
pub(crate) use judge::{Verdict, compare, judge};
pub(crate) use layout::{LAYOUTS, Laid, Layout, step};
pub(crate) use losses::{Case, every_loss, every_spec, weights_may_be_zero};
pub(crate) use oracle::{Formula, Layer, TargetAngle, Truth, truth};
pub(crate) use plain::{Plain, plain};
pub(crate) use refusals::{may_overflow, refusals};
pub(crate) use spec::{Spec, Squared};
pub(crate) use tape::{Scenario, Tape, Wildness};
pub(crate) use tolerance::{Allowed, allowed};
