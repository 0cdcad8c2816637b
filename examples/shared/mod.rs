//! What the examples on the digits share: the data, the network and its training.

pub(crate) mod dataset;
mod idx;
pub(crate) mod network;
pub(crate) mod training;
