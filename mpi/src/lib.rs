//! Ranks over MPI, for the [sharded](margin_losses::shards) losses of `margin-losses`.
//!
//! ```no_run
//! use margin_losses::shards::{Communicator, Sharded, Shards};
//! use margin_losses::{ArcFace, Targets, init};
//! use margin_losses_mpi::Mpi;
//!
//! // mpirun -n 4 program
//! let mpi = Mpi::new()?;
//! let shards = Shards::new(100_000)?;
//! let own = shards.classes(mpi.rank(), mpi.size());
//! let weights = init::class_weights_of::<f32>(own, 128, 1)?;
//! let features = init::class_weights::<f32>(16, 128, 2 + mpi.rank() as u64)?;
//! let loss = ArcFace::default();
//! let sharded = Sharded::new(&loss, shards, &mpi);
//! let out = sharded.evaluate(features.view(), weights.view(), &Targets::new(&[7; 16]))?;
//! # Ok::<(), margin_losses::Error>(())
//! ```
//!
//! It needs an MPI library with its headers, and libclang to read these: `libopenmpi-dev openmpi-bin libclang-dev` in Debian. What
//! it sends are bytes: no sum is left to MPI.

#![forbid(unsafe_code)]

use margin_losses::Error;
use margin_losses::shards::Communicator;
use mpi::datatype::{Partition, PartitionMut};
use mpi::environment::Universe;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator as _, CommunicatorCollectives as _};

/// What a process ends with when a rank panics.
const PANICKED: i32 = 101;
/// Bytes of one call at most, of all ranks together: MPI counts them in 32 bits.
const CALL: usize = 1 << 30;

/// The ranks of `mpirun`, each a process.
///
/// A rank that panics ends the job with the code 101, and what MPI itself finds wrong ends it too. A rank that ends for another
/// reason must call [`abort`](Communicator::abort) unless all do, for dropping this waits for the others.
pub struct Mpi {
    world: SimpleCommunicator,
    // After the world: dropping it ends MPI.
    _universe: Universe,
}

impl core::fmt::Debug for Mpi {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "rank {} of {}", self.rank(), self.size())
    }
}

impl Mpi {
    /// Initialises MPI, once in a process. Its calls are made by the thread that this was called on.
    ///
    /// # Errors
    ///
    /// [`Error::Communication`] if MPI has been initialised already, be it by something else.
    pub fn new() -> Result<Self, Error> {
        let universe = mpi::initialize_with_threading(mpi::Threading::Funneled);
        let (universe, _) = universe.ok_or_else(|| Error::Communication {
            reason: "MPI has been initialised already".to_owned(),
        })?;
        Ok(Self {
            world: universe.world(),
            _universe: universe,
        })
    }

    /// As many bytes of each message as fit into a call.
    fn chunk(&self) -> usize {
        CALL / self.size()
    }
}

/// The lengths of the `round`-th pieces of messages, and where each piece begins if they lie one behind the other.
fn pieces(lengths: &[usize], chunk: usize, round: usize) -> (Vec<i32>, Vec<i32>, usize) {
    let piece = |&length: &usize| length.saturating_sub(round * chunk).min(chunk);
    let counts: Vec<usize> = lengths.iter().map(piece).collect();
    let mut end = 0;
    let starts = counts.iter().map(|count| {
        end += count;
        (end - count) as i32
    });
    let starts = starts.collect();
    (
        counts.iter().map(|&count| count as i32).collect(),
        starts,
        end,
    )
}

/// Bytes that lie somewhere, even if there are none. The pointer of an empty slice may be what Open MPI takes for
/// `MPI_IN_PLACE`.
struct Buffer(Vec<u8>);

impl Buffer {
    fn new() -> Self {
        Self(vec![0])
    }

    fn of_size(size: usize) -> Self {
        Self(vec![0; size + 1])
    }

    fn extend(&mut self, bytes: &[u8]) {
        let end = self.0.len() - 1;
        self.0.splice(end..end, bytes.iter().copied());
    }

    fn bytes(&self) -> &[u8] {
        &self.0[..self.0.len() - 1]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        let end = self.0.len() - 1;
        &mut self.0[..end]
    }
}

/// Appends the pieces of a call to the messages that they are of.
fn append(received: &mut [Vec<u8>], bytes: &[u8], counts: &[i32], starts: &[i32]) {
    for ((message, &count), &start) in received.iter_mut().zip(counts).zip(starts) {
        message.extend_from_slice(&bytes[start as usize..(start + count) as usize]);
    }
}

impl Communicator for Mpi {
    fn rank(&self) -> usize {
        self.world.rank() as usize
    }

    fn size(&self) -> usize {
        self.world.size() as usize
    }

    fn all_gather(&self, mine: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
        let mut lengths = vec![0_u64; self.size()];
        self.world
            .all_gather_into(&(mine.len() as u64), &mut lengths[..]);
        let lengths: Vec<_> = lengths.into_iter().map(|length| length as usize).collect();
        let chunk = self.chunk();
        let mut received: Vec<Vec<u8>> =
            lengths.iter().map(|&len| Vec::with_capacity(len)).collect();
        let longest = lengths.iter().max().copied().unwrap_or(0);
        for round in 0..longest.div_ceil(chunk) {
            let (counts, starts, size) = pieces(&lengths, chunk, round);
            let mut send = Buffer::new();
            let start = mine.len().min(round * chunk);
            send.extend(&mine[start..mine.len().min(start + chunk)]);
            let mut buffer = Buffer::of_size(size);
            let mut all = PartitionMut::new(buffer.bytes_mut(), &counts[..], &starts[..]);
            self.world.all_gather_varcount_into(send.bytes(), &mut all);
            append(&mut received, buffer.bytes(), &counts, &starts);
        }
        Ok(received)
    }

    fn all_to_all(&self, send: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>, Error> {
        assert_eq!(send.len(), self.size(), "one message for each rank");
        let lengths: Vec<usize> = send.iter().map(Vec::len).collect();
        let mine: Vec<u64> = lengths.iter().map(|&length| length as u64).collect();
        let mut theirs = vec![0_u64; self.size()];
        self.world.all_to_all_into(&mine[..], &mut theirs[..]);
        let theirs: Vec<_> = theirs.into_iter().map(|length| length as usize).collect();
        // All make as many calls as the longest message of any rank needs.
        let longest = lengths.iter().max().copied().unwrap_or(0) as u64;
        let mut all_longest = vec![0_u64; self.size()];
        self.world.all_gather_into(&longest, &mut all_longest[..]);
        let longest = all_longest.into_iter().max().unwrap_or(0) as usize;
        let chunk = self.chunk();
        let mut received: Vec<Vec<u8>> =
            theirs.iter().map(|&len| Vec::with_capacity(len)).collect();
        for round in 0..longest.div_ceil(chunk) {
            let (counts, starts, _) = pieces(&lengths, chunk, round);
            let mut outgoing = Buffer::new();
            for message in &send {
                let start = message.len().min(round * chunk);
                outgoing.extend(&message[start..message.len().min(start + chunk)]);
            }
            let (their_counts, their_starts, size) = pieces(&theirs, chunk, round);
            let mut buffer = Buffer::of_size(size);
            let sent = Partition::new(outgoing.bytes(), &counts[..], &starts[..]);
            let mut all =
                PartitionMut::new(buffer.bytes_mut(), &their_counts[..], &their_starts[..]);
            self.world.all_to_all_varcount_into(&sent, &mut all);
            append(&mut received, buffer.bytes(), &their_counts, &their_starts);
        }
        Ok(received)
    }

    fn abort(&self) {
        self.world.abort(PANICKED)
    }
}

/// A rank that panics takes the others along.
impl Drop for Mpi {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_long_messages() {
        let lengths = [0, 5, 12];
        assert_eq!(pieces(&lengths, 5, 0), (vec![0, 5, 5], vec![0, 0, 5], 10));
        assert_eq!(pieces(&lengths, 5, 1), (vec![0, 0, 5], vec![0, 0, 0], 5));
        assert_eq!(pieces(&lengths, 5, 2), (vec![0, 0, 2], vec![0, 0, 0], 2));
    }

    #[test]
    fn empty_buffers_lie_somewhere() {
        let mut buffer = Buffer::new();
        assert!(buffer.bytes().is_empty());
        assert_ne!(buffer.bytes().as_ptr() as usize, 1);
        buffer.extend(b"ab");
        buffer.extend(b"c");
        assert_eq!(buffer.bytes(), b"abc");
        assert_eq!(Buffer::of_size(3).bytes_mut(), [0; 3]);
    }
}
