//! All tests but those of great sizes, in one binary, which compiles in the time of one.
//!
//! ```sh
//! cargo test --test quick results::     # one file
//! ```

mod adaptive_face;
mod bad_input;
mod bad_parameters;
mod bad_values;
mod beyond;
mod center;
mod check_values;
mod closed_forms;
mod composed;
mod confident;
#[cfg(feature = "serde")]
mod configuration;
mod controls;
mod determinism;
mod diagnosis;
mod distances;
mod documents;
mod extremes;
mod failures;
mod frozen;
mod generator;
mod gradients;
#[cfg(feature = "rand")]
mod grow;
mod identities;
mod ignored;
mod inter_topk;
mod judge;
mod layouts;
mod long_training;
mod margins;
mod negatives;
mod norm_margins;
mod one_against_the_rest;
mod oracle;
mod oracle_table;
mod overflow;
mod paths;
mod plain_f32;
mod poles;
mod properties;
mod ranges;
mod regressions;
mod results;
mod scores;
mod sums;
mod support;
mod text;
mod varying;
mod verification;
