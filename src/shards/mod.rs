//! Classes that are spread over processes and machines.

mod communicator;
mod threads;

pub use communicator::{Communicator, Solo};
pub use threads::Threads;
