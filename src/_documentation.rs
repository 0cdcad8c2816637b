//! Pages to read, with code that is compiled: they are the files of `docs/` in the repository.
//!
//! | page | for |
//! |---|---|
//! | [`choosing`] | which loss, which scale, which margin, and what the log should say |
//! | [`pytorch`] | those who come from PyTorch: which option reproduces which public code |
//! | [`training`] | a training loop from zero |
//! | [`how_it_works`] | one evaluation, what it costs and what it holds |
//! | [`numerics`] | what is promised about digits, and how it is kept |

#[doc = include_str!("../docs/choosing.md")]
pub mod choosing {}

#[doc = include_str!("../docs/pytorch.md")]
pub mod pytorch {}

#[doc = include_str!("../docs/training.md")]
///
/// # The whole program
///
/// ```
#[doc = include_str!("../examples/quick_start.rs")]
/// ```
pub mod training {}

#[doc = include_str!("../docs/how-it-works.md")]
pub mod how_it_works {}

#[doc = include_str!("../docs/numerics.md")]
pub mod numerics {}
