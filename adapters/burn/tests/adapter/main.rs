//! What must hold of both routes and of checkpoints.

mod checkpoint;
mod device;
mod host;
mod support;
