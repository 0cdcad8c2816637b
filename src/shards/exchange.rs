//! What ranks tell each other, errors first.

use core::cell::Cell;
use core::ops::Range;
use std::thread;

use crate::error::{Argument, Error};
use crate::numerics::{Bytes, Message, Received};

use super::{Communicator, Sampling, Shards};

/// The part that this rank has in a sharded evaluation.
#[derive(Debug)]
pub(crate) struct Shard<'a> {
    pub(crate) exchange: Exchange<'a>,
    pub(crate) shards: Shards,
    pub(crate) sampling: Option<Sampling>,
    /// The first row of the whole batch that each rank has brought, and the number of all rows.
    pub(crate) starts: Vec<usize>,
}

impl Shard<'_> {
    /// The classes of this rank.
    pub(crate) fn classes(&self) -> Range<usize> {
        self.shards
            .classes(self.exchange.rank(), self.exchange.size())
    }

    /// The rank that a class is with.
    pub(crate) fn rank_of(&self, class: usize) -> usize {
        self.shards.rank(class, self.exchange.size())
    }

    /// Has all ranks know what belongs to the class of each row, `values` of the same number for each: that of the classes of this
    /// rank is here. Or has them know what is wrong with it.
    pub(crate) fn share_by_class<T: Bytes>(
        &self,
        labels: &[usize],
        values: &mut [T],
        found: Result<(), Error>,
    ) -> Result<(), Error> {
        let width = values.len() / labels.len().max(1);
        let own = self.classes();
        let mine = found.map(|()| {
            let mut mine = Message::default();
            for (label, values) in labels.iter().zip(values.chunks_exact(width.max(1))) {
                if own.contains(label) {
                    mine.put_all(values.iter().copied());
                }
            }
            mine
        });
        let all = self.exchange.gather(mine)?;
        for (rank, mut message) in all.messages().enumerate() {
            for (&label, values) in labels.iter().zip(values.chunks_exact_mut(width.max(1))) {
                if self.rank_of(label) == rank {
                    message.take_into(values)?;
                }
            }
        }
        Ok(())
    }

    /// The rows of a batch that each rank has brought, where `row` is a row's number in the whole batch.
    pub(crate) fn rows(&self, rows: usize, row: impl Fn(usize) -> usize) -> Vec<Range<usize>> {
        let mut end = 0;
        let ends = self.starts[1..].iter().map(|&all| {
            let start = end;
            while end < rows && row(end) < all {
                end += 1;
            }
            start..end
        });
        ends.collect()
    }
}

/// Messages of which each says first whether its rank has found an error. Then all ranks return the error of the first such
/// rank, and none waits for another.
pub(crate) struct Exchange<'a> {
    comm: &'a dyn Communicator,
    /// Whether all ranks know that there is an error.
    failed: Cell<bool>,
}

impl core::fmt::Debug for Exchange<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "rank {} of {}", self.rank(), self.size())
    }
}

/// The messages of all ranks, in their order.
#[derive(Debug)]
pub(crate) struct Gathered(Vec<Vec<u8>>);

impl Gathered {
    pub(crate) fn messages(&self) -> impl Iterator<Item = Received<'_>> {
        // The first byte says that there is no error.
        self.0
            .iter()
            .map(|bytes| Received::new(bytes.get(1..).unwrap_or_default()))
    }
}

impl<'a> Exchange<'a> {
    pub(crate) fn new(comm: &'a dyn Communicator) -> Self {
        Self {
            comm,
            failed: Cell::new(false),
        }
    }

    pub(crate) fn rank(&self) -> usize {
        self.comm.rank()
    }

    pub(crate) fn size(&self) -> usize {
        self.comm.size()
    }

    /// The messages of all ranks; or the error of the first rank that has one, on all ranks.
    pub(crate) fn gather(&self, mine: Result<Message, Error>) -> Result<Gathered, Error> {
        let mut bytes = Vec::new();
        match &mine {
            Ok(message) => {
                bytes.push(0);
                bytes.extend_from_slice(message.bytes());
            }
            Err(error) => {
                bytes.push(1);
                bytes.extend_from_slice(&encode(error));
            }
        }
        let all = self.comm.all_gather(&bytes).inspect_err(|_| self.fail())?;
        let Some(rank) = all.iter().position(|message| message.first() != Some(&0)) else {
            return Ok(Gathered(all));
        };
        self.fail();
        // What is not sent is found on all ranks, if the loss is the same.
        let error = decode(&all[rank]).or(mine.err());
        Err(error.unwrap_or_else(|| Error::Communication {
            reason: format!("rank {rank} has refused what the others have not"),
        }))
    }

    /// Sends a message to each rank, once all have agreed that there is no error.
    pub(crate) fn deal(&self, send: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>, Error> {
        self.comm.all_to_all(send).inspect_err(|_| self.fail())
    }

    /// What all ranks make of what each has found.
    pub(crate) fn agree(&self, mine: Result<(), Error>) -> Result<(), Error> {
        self.gather(mine.map(|()| Message::default())).map(drop)
    }

    /// The same at the end of an evaluation, when all ranks may know already.
    pub(crate) fn settle(&self, mine: Result<(), Error>) -> Result<(), Error> {
        if self.failed.get() {
            mine
        } else {
            self.agree(mine)
        }
    }

    fn fail(&self) {
        self.failed.set(true);
    }
}

/// A rank that panics takes the others along.
impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.comm.abort();
        }
    }
}

const ARGUMENTS: [Argument; 10] = [
    Argument::Features,
    Argument::ClassWeights,
    Argument::Centers,
    Argument::Labels,
    Argument::RowWeights,
    Argument::IgnoredRows,
    Argument::LabelWeights,
    Argument::Bias,
    Argument::ClassPriors,
    Argument::ClassMargins,
];

const QUANTITIES: [&str; 6] = ["norm", "logit", "loss", "gradient", "center", "weight"];

/// An error as bytes; none for those that cannot be one rank's alone.
fn encode(error: &Error) -> Vec<u8> {
    let mut message = Message::default();
    let fields = match *error {
        Error::RowCount {
            argument,
            expected,
            found,
        } => (0, Some(argument), [expected, found]),
        Error::Dimension {
            argument,
            expected,
            found,
        } => (1, Some(argument), [expected, found]),
        Error::NonFinite { argument, row } => (2, Some(argument), [row, 0]),
        Error::ZeroNorm { argument, row } => (3, Some(argument), [row, 0]),
        Error::NormTooSmall { argument, row } => (4, Some(argument), [row, 0]),
        Error::Overflow {
            quantity,
            argument,
            row,
        } => {
            let Some(quantity) = QUANTITIES.iter().position(|&known| known == quantity) else {
                return Vec::new();
            };
            (5, Some(argument), [row, quantity])
        }
        Error::ScratchLimit { limit, needed } => (6, None, [limit, needed]),
        Error::NoClasses => (7, None, [0, 0]),
        Error::NoDimensions => (8, None, [0, 0]),
        Error::MarginNotFinite { row, angle } => (9, None, [row, angle.to_bits() as usize]),
        _ => return Vec::new(),
    };
    let (kind, argument, numbers) = fields;
    let argument = argument.unwrap_or(Argument::Features);
    let Some(argument) = ARGUMENTS.iter().position(|&known| known == argument) else {
        return Vec::new();
    };
    message.put_all([kind, argument]);
    message.put_all(numbers);
    message.into_bytes()
}

/// The error of a rank's message.
fn decode(bytes: &[u8]) -> Option<Error> {
    let mut message = Received::new(bytes.get(1..)?);
    let mut next = || message.take::<usize>().ok();
    let (kind, argument, first, second) = (next()?, next()?, next()?, next()?);
    let argument = *ARGUMENTS.get(argument)?;
    Some(match kind {
        0 => Error::RowCount {
            argument,
            expected: first,
            found: second,
        },
        1 => Error::Dimension {
            argument,
            expected: first,
            found: second,
        },
        2 => Error::NonFinite {
            argument,
            row: first,
        },
        3 => Error::ZeroNorm {
            argument,
            row: first,
        },
        4 => Error::NormTooSmall {
            argument,
            row: first,
        },
        5 => Error::overflow(QUANTITIES.get(second)?, argument, first),
        6 => Error::ScratchLimit {
            limit: first,
            needed: second,
        },
        7 => Error::NoClasses,
        8 => Error::NoDimensions,
        9 => Error::MarginNotFinite {
            row: first,
            angle: f64::from_bits(second as u64),
        },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shards::Threads;

    #[test]
    fn errors_arrive_as_they_were() {
        for error in [
            Error::NonFinite {
                argument: Argument::ClassWeights,
                row: 70_000,
            },
            Error::overflow("gradient", Argument::Bias, 3),
            Error::MarginNotFinite {
                row: 5,
                angle: -0.25,
            },
            Error::ScratchLimit {
                limit: 1,
                needed: usize::MAX,
            },
            Error::NoDimensions,
            Error::RowCount {
                argument: Argument::Centers,
                expected: 2,
                found: 1,
            },
        ] {
            let mut bytes = vec![1];
            bytes.extend(encode(&error));
            assert_eq!(decode(&bytes), Some(error));
        }
        assert!(encode(&Error::NoClassifier).is_empty());
    }

    #[test]
    fn the_error_of_the_first_rank_is_everyones() {
        let of_rank = |row| Error::ZeroNorm {
            argument: Argument::Features,
            row,
        };
        let found = Threads::run(4, |comm| {
            let exchange = Exchange::new(&comm);
            exchange.agree(Ok(()))?;
            let mine = match exchange.rank() {
                0 | 2 => Ok(()),
                rank => Err(of_rank(rank)),
            };
            let agreed = exchange.agree(mine);
            assert_eq!(exchange.settle(agreed.clone()), agreed);
            agreed
        });
        assert_eq!(found, vec![Err(of_rank(1)); 4]);

        // What is not sent.
        let found = Threads::run(2, |comm| {
            let exchange = Exchange::new(&comm);
            exchange.settle(if exchange.rank() == 1 {
                Err(Error::NoClassifier)
            } else {
                Ok(())
            })
        });
        assert_eq!(found[1], Err(Error::NoClassifier));
        assert!(matches!(found[0], Err(Error::Communication { .. })));
    }
}
