//! What moves bytes between ranks.

use crate::error::Error;

/// The ranks of a job, and two ways to move bytes between them.
///
/// A communicator moves bytes and adds nothing up, so that no order of its sums and no maximum that loses a NaN can enter a
/// result. [`Solo`] is a job of one rank, [`Threads`](super::Threads) a job of threads.
///
/// Every rank calls the same methods in the same order. A call waits until all ranks have made it.
///
/// # Errors
///
/// [`Error::Communication`] if a rank will never make the call, because it has ended or panicked. No call may wait for ever.
///
/// # Examples
///
/// ```
/// use margin_losses::shards::{Communicator, Solo};
///
/// assert_eq!((Solo.rank(), Solo.size()), (0, 1));
/// assert_eq!(Solo.all_gather(b"mine")?, [b"mine"]);
/// # Ok::<(), margin_losses::Error>(())
/// ```
pub trait Communicator {
    /// Which rank this is, in `0..size`.
    fn rank(&self) -> usize;

    /// How many ranks there are, at least 1.
    fn size(&self) -> usize;

    /// Gives every rank the message of every rank, in the order of the ranks. Messages may be empty, and of different lengths.
    ///
    /// # Errors
    ///
    /// As for the trait.
    fn all_gather(&self, mine: &[u8]) -> Result<Vec<Vec<u8>>, Error>;

    /// Sends one message to each rank, and returns the one that each rank has sent here, both in the order of the ranks.
    /// Messages may be empty, and of different lengths.
    ///
    /// # Errors
    ///
    /// As for the trait.
    ///
    /// # Panics
    ///
    /// May panic unless there is one message for each rank.
    fn all_to_all(&self, send: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>, Error>;

    /// Ends the job, because this rank has panicked: what the others wait for returns an error, or their processes end with a
    /// code that is not 0.
    fn abort(&self);
}

impl<T: Communicator + ?Sized> Communicator for &T {
    fn rank(&self) -> usize {
        (**self).rank()
    }

    fn size(&self) -> usize {
        (**self).size()
    }

    fn all_gather(&self, mine: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
        (**self).all_gather(mine)
    }

    fn all_to_all(&self, send: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>, Error> {
        (**self).all_to_all(send)
    }

    fn abort(&self) {
        (**self).abort();
    }
}

/// A job of one rank.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Solo;

impl Communicator for Solo {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn all_gather(&self, mine: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
        Ok(vec![mine.to_vec()])
    }

    fn all_to_all(&self, send: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>, Error> {
        Ok(send)
    }

    fn abort(&self) {}
}
