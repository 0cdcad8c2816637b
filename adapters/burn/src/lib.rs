//! The losses of [`margin_losses`] in burn: ArcFace, CosFace and their kin, with analytic gradients, in burn's backward pass.
//!
//! There are two routes to one loss:
//!
//! | | [`HostLoss`] | [`DeviceLoss`] |
//! |---|---|---|
//! | where | in `margin_losses`, on the CPU | in burn's tensor operations, on any back end |
//! | losses | every one, composed, joint with center loss, or your own | margins over cosines of a fixed scale, your own too |
//! | value | the bits of `margin_losses` | within rounding of it |
//! | class weights | a parameter, or an array that is updated in place | a parameter |
//! | N×C | need not fit | need not fit |
//! | elements | `f32`, `f64` | `f32`, `f64` |
//!
//! Both give a [`Loss`]: a tensor in burn's graph, and the gradient of the class weights for burn's optimisers.
//!
//! ```
//! use burn::tensor::{Device, Tensor};
//! use margin_losses_burn::HostLoss;
//! use margin_losses_burn::margin_losses::{ArcFace, Evaluation, Targets};
//!
//! let device = Device::flex().autodiff();
//! // What your network gives.
//! let features = Tensor::<2>::from_data([[0.9, 0.1, 0.2], [-0.3, 1.1, 0.4]], &device).require_grad();
//! let weights = Tensor::<2>::from_data([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], &device).require_grad();
//! let (loss, mut memory) = (ArcFace::new(16.0, 0.5)?, Evaluation::<f32>::new());
//!
//! let out = HostLoss::new(&loss, &mut memory).evaluate(&features, &weights, &Targets::new(&[0, 1]))?;
//! let grads = out.backward(&weights);                         // into the network, and for the class weights
//! assert!(features.grad(&grads).is_some() && weights.grad(&grads).is_some());
//! # Ok::<(), margin_losses_burn::Error>(())
//! ```
//!
//! # How the gradient enters the graph
//!
//! The tensor is `L + Σ (x − detach x)·∂L/∂x`. The sum is exactly 0, so the value is L to the bit. Its gradient is ∂L/∂x, times
//! whatever stands upstream. The class weights are left out of the graph, because several passes over C×d would cost more than
//! the loss. [`Loss::add_weight_gradient`] reads the upstream factor from the backward pass instead.
//!
//! Without autodiff, as in a validation, both routes give the value alone.

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
