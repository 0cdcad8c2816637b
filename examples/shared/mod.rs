//! What the examples on the digits share: the data, the network and its training, and the count of verification pairs.

pub(crate) mod dataset;
mod idx;
pub(crate) mod network;
pub(crate) mod pairs;
pub(crate) mod training;
