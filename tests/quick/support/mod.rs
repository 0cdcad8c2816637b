//! What the integration tests share: batches, every loss with its formula, a slow oracle, a gradient checker.

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

pub(crate) use batch::{Batch, SplitMix, keep_norm, narrow, wide, widen, widened};
pub(crate) use compare::{
    Snapshot, assert_close, assert_printed, assert_relative, bits, close_to_largest, largest,
    max_difference,
};
pub(crate) use differences::{check_gradient, derivative};
pub(crate) use exact::Scaled;
pub(crate) use good::{Good, any, evaluate, evaluated};
pub(crate) use judge::{Verdict, compare, judge};
pub(crate) use layout::{LAYOUTS, Laid, Layout, step};
pub(crate) use losses::{Case, RULES, every_loss, every_spec};
pub(crate) use oracle::{Constants, Formula, Layer, Link, Shifted, Truth, truth};
pub(crate) use plain::plain;
pub(crate) use refusals::{is_overflow, may_overflow, refusals};
pub(crate) use spec::{Spec, Squared};
pub(crate) use tape::{Scenario, Tape, Wildness};
pub(crate) use tolerance::{Allowed, allowed};
