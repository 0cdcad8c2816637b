//! Ranks that are threads of one process.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::{mem, panic, thread};

use crate::error::Error;

use super::Communicator;

/// One rank of a job whose ranks are threads of this process: for tests, and for one machine without MPI.
///
/// Dropping it leaves the job. The others then get an error from the call that they wait in, and from every later one, be it
/// that this rank has returned or that it has panicked. So nothing waits for ever. Each rank needs a thread of its own: one of
/// a rayon pool would not work for the pool while it waits.
///
/// # Examples
///
/// ```
/// use margin_losses::shards::{Communicator, Threads};
///
/// let answers = Threads::run(3, |comm| {
///     let all = comm.all_gather(&vec![7; comm.rank()])?;
///     Ok::<_, margin_losses::Error>(all.concat().len())
/// });
/// assert_eq!(answers, [Ok(3), Ok(3), Ok(3)]);
///
/// // A rank that leaves early.
/// let answers = Threads::run(2, |comm| if comm.rank() == 0 { comm.all_gather(b"mine") } else { Ok(Vec::new()) });
/// assert_eq!(answers[0].as_ref().unwrap_err().to_string(), "rank 1 has left the job");
/// ```
#[derive(Debug)]
pub struct Threads {
    group: Arc<Group>,
    rank: usize,
}

#[derive(Debug)]
struct Group {
    size: usize,
    state: Mutex<State>,
    changed: Condvar,
}

/// Calls are rounds: all ranks put something in, then all take something out.
#[derive(Debug, Default)]
struct State {
    /// What each rank has put in, one message for each rank or one for all.
    messages: Vec<Option<Messages>>,
    put: usize,
    taken: usize,
    /// Whether all have put something in, and not all have taken something out.
    full: bool,
    left: Option<usize>,
}

#[derive(Clone, Debug)]
enum Messages {
    ForAll(Arc<[u8]>),
    ForEach(Vec<Vec<u8>>),
}

impl Threads {
    /// All ranks of a job.
    #[must_use]
    pub fn new(size: usize) -> Vec<Self> {
        let group = Arc::new(Group {
            size,
            state: Mutex::new(State {
                messages: vec![None; size],
                ..State::default()
            }),
            changed: Condvar::new(),
        });
        let rank = |rank| Self {
            group: Arc::clone(&group),
            rank,
        };
        (0..size).map(rank).collect()
    }

    /// Has a job of so many ranks work, each on a thread of its own, and returns what they return, in their order.
    ///
    /// # Panics
    ///
    /// If a rank panics, once all have ended, with what the first of them panicked with.
    pub fn run<R: Send>(size: usize, work: impl Fn(Self) -> R + Sync) -> Vec<R> {
        let work = &work;
        thread::scope(|scope| {
            let start = |rank| scope.spawn(move || work(rank));
            let ranks: Vec<_> = Self::new(size).into_iter().map(start).collect();
            let results: Vec<_> = ranks
                .into_iter()
                .map(thread::ScopedJoinHandle::join)
                .collect();
            let or_panic = |result: thread::Result<R>| match result {
                Ok(result) => result,
                Err(reason) => panic::resume_unwind(reason),
            };
            results.into_iter().map(or_panic).collect()
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        let state = self.group.state.lock();
        state.unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&'a self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let state = self.group.changed.wait(state);
        state.unwrap_or_else(PoisonError::into_inner)
    }

    fn leave(&self) {
        self.state().left.get_or_insert(self.rank);
        self.group.changed.notify_all();
    }

    /// One round: puts `mine` in, and takes out what each rank has for this one.
    fn round(&self, mine: Messages) -> Result<Vec<Vec<u8>>, Error> {
        let left = |rank| {
            Err(Error::Communication {
                reason: format!("rank {rank} has left the job"),
            })
        };
        let size = self.group.size;
        let mut state = self.state();
        // Until all have taken out what the last round brought.
        while state.full {
            state = self.wait(state);
        }
        if let Some(rank) = state.left {
            return left(rank);
        }
        state.messages[self.rank] = Some(mine);
        state.put += 1;
        if state.put == size {
            state.full = true;
            self.group.changed.notify_all();
        }
        while !state.full {
            // Whoever has left before the round is full will never join it.
            if let Some(rank) = state.left {
                return left(rank);
            }
            state = self.wait(state);
        }
        let mut received = Vec::with_capacity(size);
        for messages in &mut state.messages {
            received.push(match messages {
                Some(Messages::ForAll(message)) => message.to_vec(),
                Some(Messages::ForEach(all)) => mem::take(&mut all[self.rank]),
                None => Vec::new(),
            });
        }
        state.taken += 1;
        if state.taken == size {
            (state.put, state.taken, state.full) = (0, 0, false);
            self.group.changed.notify_all();
        }
        Ok(received)
    }
}

impl Communicator for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.group.size
    }

    fn all_gather(&self, mine: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
        self.round(Messages::ForAll(mine.into()))
    }

    fn all_to_all(&self, send: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>, Error> {
        assert_eq!(send.len(), self.group.size, "one message for each rank");
        self.round(Messages::ForEach(send))
    }

    fn abort(&self) {
        self.leave();
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As two of three ranks see it whose third never comes.
    fn left_alone(leave: impl Fn(&Threads) + Sync) {
        let answers = Mutex::new(Vec::new());
        let work = |comm: Threads| {
            if comm.rank() == 1 {
                leave(&comm);
                return;
            }
            for gathers in [comm.rank() == 0, comm.rank() != 0] {
                let answer = if gathers {
                    comm.all_gather(b"here")
                } else {
                    comm.all_to_all(vec![Vec::new(); 3])
                };
                answers.lock().expect("no panic here").push(answer);
            }
        };
        let _ = panic::catch_unwind(panic::AssertUnwindSafe(|| Threads::run(3, work)));
        let answers = answers.into_inner().expect("no panic here");
        assert_eq!(answers.len(), 4);
        for answer in answers {
            let reason = "rank 1 has left the job".to_owned();
            assert_eq!(answer, Err(Error::Communication { reason }));
        }
    }

    #[test]
    fn a_rank_that_ends_or_panics_ends_the_others() {
        left_alone(|_| ());
        left_alone(|_| panic!("on purpose"));
        left_alone(|comm| {
            comm.abort();
            thread::sleep(std::time::Duration::from_millis(50));
        });
    }

    #[test]
    #[should_panic(expected = "on purpose")]
    fn a_panic_is_passed_on() {
        Threads::run(2, |comm| assert_eq!(comm.rank(), 0, "on purpose"));
    }

    /// Empty messages, messages of unequal lengths, and nothing but empty ones; many rounds, ranks at different speeds.
    #[test]
    fn messages_arrive() {
        let message = |round: usize, from: usize, to: usize| {
            vec![(16 * from + to) as u8; (round * (from + 2 * to)) % 5]
        };
        for size in 1..5 {
            Threads::run(size, |comm| {
                let rank = comm.rank();
                for round in 0..200 {
                    if round % (7 + rank) == 0 {
                        thread::yield_now();
                    }
                    let send = (0..size).map(|to| message(round, rank, to)).collect();
                    let received = comm.all_to_all(send).expect("all are here");
                    let expected: Vec<_> =
                        (0..size).map(|from| message(round, from, rank)).collect();
                    assert_eq!(received, expected);
                    let received = comm.all_gather(&message(round, rank, 1)).expect("here");
                    let expected: Vec<_> = (0..size).map(|from| message(round, from, 1)).collect();
                    assert_eq!(received, expected);
                }
            });
        }
    }

    /// Who has taken the last messages may go, while others still take theirs.
    #[test]
    fn the_last_round_reaches_all() {
        for _ in 0..200 {
            let answers = Threads::run(4, |comm| comm.all_gather(&[comm.rank() as u8]));
            assert!(answers.into_iter().all(|answer| answer.is_ok()));
        }
    }
}
