//! What the driver computes with: the two element types, norms, sums, the exponential, threads. Nothing here knows a loss.

mod bytes;
mod element;
mod exp;
mod lanes;
mod norm;
mod order_free;
pub(crate) mod parallel;

pub(crate) use bytes::{Bytes, Message, Received};
pub(crate) use element::Element;
pub(crate) use exp::softplus;
pub(crate) use lanes::{
    difference_of_products, dot, extremes, larger, largest, largest_magnitude, reduce, vectorized,
};
pub(crate) use norm::{Norm, binary_exponent, contiguous, norms, powers_of_two, scale_by_power};
pub(crate) use order_free::OrderFree;
