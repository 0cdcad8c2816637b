//! The losses of [`margin_losses`] in candle: ArcFace, CosFace and their kin, with analytic gradients, in candle's backward pass.
//!
//! There are two routes to one loss:
//!
//! | | [`HostLoss`] | [`DeviceLoss`] |
//! |---|---|---|
//! | where | in `margin_losses`, on the CPU | in candle's tensor operations, where the tensors are |
//! | losses | every one, composed, joint with center loss, or your own | margins over cosines of a fixed scale, your own too |
//! | value | the bits of `margin_losses` | within rounding of it |
//! | class weights | a variable, or an array that is updated in place | a variable |
//! | N×C | need not fit | need not fit |
//! | elements | `f32`, `f64` | `f32`, `f64` |
//!
//! Both give a [`Loss`]: a scalar in candle's graph, and the gradient of the class weights for candle's optimisers.
//!
//! ```
//! use candle_core::{Device, Var};
//! use margin_losses_candle::HostLoss;
//! use margin_losses_candle::margin_losses::{ArcFace, Evaluation, Targets};
//!
//! let features = Var::new(&[[0.9_f32, 0.1, 0.2], [-0.3, 1.1, 0.4]], &Device::Cpu)?;   // what your network gives
//! let weights = Var::new(&[[1.0_f32, 0.0, 0.0], [0.0, 1.0, 0.0]], &Device::Cpu)?;
//! let (loss, mut memory) = (ArcFace::new(16.0, 0.5)?, Evaluation::<f32>::new());
//!
//! let out = HostLoss::new(&loss, &mut memory).evaluate(&features, &weights, &Targets::new(&[0, 1]))?;
//! let grads = out.backward(&weights)?;                        // into the network, and for the class weights
//! assert!(grads.get(&features).is_some() && grads.get(&weights).is_some());
//! # Ok::<(), margin_losses_candle::Error>(())
//! ```
//!
//! # How the gradient enters the graph
//!
//! The tensor is `L + Σ (x − detach x)·∂L/∂x`. The sum is exactly 0, so the value is L to the bit. Its gradient is ∂L/∂x, times
//! whatever stands upstream. The class weights are left out of the graph, because two passes over C×d would cost more than
//! the loss. [`Loss::add_weight_gradient`] reads the upstream factor from the backward pass instead.
//!
//! # A warning about candle
//!
//! In candle 0.11.1 the backward passes of `scatter` and `scatter_add` are exchanged. Nothing here uses them.

#![forbid(unsafe_code)]

mod bridge;
mod checkpoint;
mod device;
mod element;
mod error;
mod host;
mod loss;
mod target;

pub use margin_losses;

pub use checkpoint::Checkpoint;
pub use device::DeviceLoss;
pub use element::{Element, with_array};
pub use error::Error;
pub use host::HostLoss;
pub use loss::Loss;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
