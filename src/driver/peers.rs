//! What ranks tell each other between the phases, where classes are spread over ranks. Alone, nobody is told anything.
//!
//! What is wrong is told with the rest, so that all ranks go on, or return the same error. An error of an earlier phase comes
//! first, then that of an earlier rank, which has earlier classes and rows: so it is the error of the whole.

use core::ops::Range;

use ndarray::Array1;

use crate::error::Error;
use crate::numerics::{Element, Message, Received};
use crate::request::{Aim, Request};
use crate::scratch::RowSum;
use crate::shards::Shard;

use super::entries::{Changed, Turn};
use super::features::Batch;
use super::open::Opened;
use super::plan::Plan;
use super::share::Share;
use super::target::RowTarget;
use super::{Head, Learns, Link};

/// The other ranks.
pub(super) struct Peers<'a> {
    shard: Option<&'a Shard<'a>>,
    /// The rows that each rank has brought.
    rows: Vec<Range<usize>>,
}

/// The plan of a rank, and its share.
pub(super) fn plan(
    shard: &Shard<'_>,
    shape: (usize, usize),
    labels: &[usize],
    group: usize,
    aim: Aim,
) -> (Plan, Share) {
    let (shards, exchange) = (shard.shards, &shard.exchange);
    let segments = shards.segments_of(exchange.rank(), exchange.size());
    let sampling = shard.sampling;
    let sample = sampling.and_then(|it| it.choose(shards, segments.clone(), labels));
    let (each, all) = sample.as_ref().map_or_else(
        || (shards.segment(0).len(), shards.count()),
        |sample| (sample.each, sample.all),
    );
    let plan = Plan::spread(shape, shards.count(), (each, all * group), group, aim);
    let plan = plan.part(segments);
    let share = Share::of(shard.classes(), plan.own_columns(), group, sample);
    (plan, share)
}

impl<'a> Peers<'a> {
    pub(super) const NONE: Self = Self {
        shard: None,
        rows: Vec::new(),
    };

    pub(super) fn new<A>(request: &Request<'a, A>) -> Result<Self, Error> {
        let Some(shard) = request.shard else {
            return Ok(Self::NONE);
        };
        if request.wants_scores() {
            return Err(Error::NoScores);
        }
        let rows = shard.rows(request.features.nrows(), |row| request.row(row));
        Ok(Self {
            shard: Some(shard),
            rows,
        })
    }

    pub(super) fn are_there(&self) -> bool {
        self.shard.is_some()
    }

    /// Refuses what asks for all class weights at once.
    pub(super) fn check(&self, head: &Head<'_>) -> Result<(), Error> {
        let Some(shard) = self.shard else {
            return Ok(());
        };
        // By name, so that whoever adds a mechanism decides here whether ranks know enough for it.
        let Head {
            layer: _,
            margin: _,
            constants: _,
            learns,
            group: _,
            nearest,
            smoothing,
            focal: _,
            link,
        } = *head;
        let what = if matches!(learns, Learns::Margins { .. }) && shard.sampling.is_some() {
            return Err(Error::NotComposable {
                what: "a loss that learns a margin for each class",
                with: "a sample of the classes",
            });
        } else if link != Link::Softmax && shard.sampling.is_some_and(|it| it.corrects()) {
            return Err(Error::NotComposable {
                what: "a loss that is no softmax",
                with: "the correction of a sample",
            });
        } else if smoothing != 0.0 {
            "label smoothing"
        } else if nearest.is_some() {
            "an inter-topk penalty"
        } else {
            return Ok(());
        };
        Err(Error::NotComposable {
            what,
            with: "classes that are spread over ranks",
        })
    }

    /// The rows that this rank has brought, of so many.
    pub(super) fn own_rows(&self, rows: usize) -> Range<usize> {
        match self.shard {
            None => 0..rows,
            Some(shard) => self.rows[shard.exchange.rank()].clone(),
        }
    }

    /// What all ranks make of what each has found.
    pub(super) fn agree(&self, found: Result<(), Error>) -> Result<(), Error> {
        match self.shard {
            None => found,
            Some(shard) => shard.exchange.agree(found),
        }
    }

    /// Has all ranks know all targets, and the first that is wrong.
    pub(super) fn share_targets<A: Element>(&self, batch: &mut Batch<'_, A>) -> Result<(), Error> {
        let Some(shard) = self.shard else {
            return Ok(());
        };
        let mut mine = Message::default();
        let found = |target: &&RowTarget<A>| target.column != usize::MAX;
        mine.put(batch.targets.iter().filter(found).count());
        for (row, target) in batch.targets.iter().enumerate() {
            if found(&target) {
                mine.put(row);
                target.put(&mut mine);
            }
        }
        let wrong = batch.target_error.as_ref().map(|&(row, _)| row);
        mine.put(wrong.unwrap_or(usize::MAX));
        let all = shard.exchange.gather(Ok(mine))?;
        let mut targets = batch.targets.clone();
        let mut first = usize::MAX;
        for mut message in all.messages() {
            for _ in 0..message.take::<usize>()? {
                let row = message.take::<usize>()?;
                let target = RowTarget::take(&mut message)?;
                *targets.get_mut(row).ok_or_else(Error::malformed)? = target;
            }
            first = first.min(message.take()?);
        }
        batch.set_targets(targets);
        batch.wrong_target = (first != usize::MAX).then_some(first);
        Ok(())
    }

    /// Has all ranks know what has been found out about all class weights, what all segments have left behind of each row, and
    /// what is wrong.
    pub(super) fn share_sums<A: Element>(
        &self,
        batch: &Batch<'_, A>,
        opened: &mut Opened<'_, A>,
        found: Result<(), Error>,
    ) -> Result<(), Error> {
        let Some(shard) = self.shard else {
            return found;
        };
        let rows = batch.plan.rows;
        let which = Which::of(batch);
        let mine = found.map(|()| {
            let mut mine = Message::default();
            mine.put_all([opened.scanned.longest, opened.scanned.shortest]);
            mine.put(opened.scanned.rescaled);
            mine.put(opened.sums.len());
            for sum in &*opened.sums {
                which.put(sum, &mut mine);
            }
            // A row's target is in one segment of all.
            for row in 0..if opened.sums.is_empty() { 0 } else { rows } {
                let of_row = opened.sums.iter().skip(row).step_by(rows);
                mine.put(of_row.fold(A::zero(), |target, sum| target + sum.targets[0]));
            }
            mine
        });
        let all = shard.exchange.gather(mine)?;
        let mut sums = Vec::new();
        for mut message in all.messages() {
            opened.scanned = opened.scanned.and(super::Scanned {
                longest: message.take()?,
                shortest: message.take()?,
                rescaled: message.take()?,
            });
            let first = sums.len();
            for _ in 0..message.take::<usize>()? {
                sums.push(which.take(&mut message)?);
            }
            for sum in sums[first..].iter_mut().take(rows) {
                sum.targets[0] = message.take()?;
            }
        }
        opened.of_all = Some(sums);
        Ok(())
    }

    /// Brings what all classes add to the rows of this rank together here, with the directions of their targets.
    pub(super) fn share_totals<A: Element>(
        &self,
        batch: &mut Batch<'_, A>,
        [totals, rests]: [&mut [f64]; 2],
    ) -> Result<(), Error> {
        let Some(shard) = self.shard else {
            return Ok(());
        };
        let (dim, rank) = (batch.plan.dim, shard.exchange.rank());
        let entries = |rows: &Range<usize>| rows.start * dim..rows.end * dim;
        let own = batch.plan.own_columns();
        let send = self.rows.iter().enumerate().map(|(to, rows)| {
            let mut message = Message::default();
            // What is here stays here.
            if to != rank && !own.is_empty() {
                message.put_all(totals[entries(rows)].iter().copied());
                if !rests.is_empty() {
                    message.put_all(rests[entries(rows)].iter().copied());
                }
                for row in rows.clone() {
                    if own.contains(&batch.targets[row].column) {
                        let direction = &batch.by_feature[entries(&(row..row + 1))];
                        message.put_all(direction.iter().copied());
                    }
                }
            }
            message.into_bytes()
        });
        let received = shard.exchange.deal(send.collect())?;
        let rows = self.rows[rank].clone();
        for (from, bytes) in received.iter().enumerate() {
            if from == rank || bytes.is_empty() {
                continue;
            }
            let mut message = Received::new(bytes);
            for sums in [&mut *totals, &mut *rests] {
                if !sums.is_empty() {
                    for sum in &mut sums[entries(&rows)] {
                        *sum += message.take::<f64>()?;
                    }
                }
            }
            for row in rows.clone() {
                let column = batch.targets[row].column;
                if self.rank_of(batch, column) == Some(from) {
                    message.take_into(&mut batch.by_feature[entries(&(row..row + 1))])?;
                }
            }
        }
        Ok(())
    }

    /// The rank that a column is with.
    fn rank_of<A: Element>(&self, batch: &Batch<'_, A>, column: usize) -> Option<usize> {
        let shard = self.shard?;
        let segment = batch.plan.segment_of(column);
        let class = shard.shards.segment(segment).start;
        Some(shard.rank_of(class))
    }

    /// Has all ranks know Σ_{j≠y} p_j cosθ_j of all rows.
    pub(super) fn share_cosines(&self, cosines: &mut [f64]) -> Result<(), Error> {
        let Some(shard) = self.shard else {
            return Ok(());
        };
        let mut mine = Message::default();
        let own = self.own_rows(cosines.len());
        mine.put_all(cosines[own].iter().copied());
        let all = shard.exchange.gather(Ok(mine))?;
        for (mut message, rows) in all.messages().zip(&self.rows) {
            message.take_into(&mut cosines[rows.clone()])?;
        }
        Ok(())
    }

    /// Has all ranks know the gradient of what is learned of each class, of all classes; that of classes that are not sampled is 0.
    pub(super) fn share_learnables<A: Element>(
        &self,
        share: &Share,
        gradient: Array1<A>,
    ) -> Result<Array1<A>, Error> {
        let Some(shard) = self.shard else {
            return Ok(gradient);
        };
        let mut own = vec![A::zero(); share.classes.len()];
        match &share.sample {
            None => own.iter_mut().zip(gradient).for_each(|(own, g)| *own = g),
            Some(sample) => {
                for (&class, gradient) in sample.classes.iter().zip(gradient) {
                    own[class] = gradient;
                }
            }
        }
        let mut mine = Message::default();
        mine.put_all(own);
        let all = shard.exchange.gather(Ok(mine))?;
        let mut gradient = Vec::with_capacity(shard.shards.count());
        for (rank, mut message) in all.messages().enumerate() {
            let classes = shard.shards.classes(rank, shard.exchange.size());
            gradient.extend(message.take_all::<A>(classes.len())?);
        }
        Ok(gradient.into())
    }
}

/// Which figures of a segment's rows say something.
struct Which {
    lengths: bool,
    means: bool,
}

impl Which {
    fn of<A: Element>(batch: &Batch<'_, A>) -> Self {
        Self {
            lengths: !batch.head.normalises_weights() || batch.head.link != Link::Softmax,
            means: batch.changes_negatives(),
        }
    }

    fn put<A: Element>(&self, sum: &RowSum<A>, message: &mut Message) {
        // The target's logit is sent once for each row.
        let RowSum {
            total,
            length,
            mean,
            shift,
            largest,
            // Of smoothed labels, which are refused.
            logits: _,
            // Told once for each row.
            targets: _,
        } = *sum;
        message.put(total);
        message.put_all([shift, largest]);
        if self.lengths {
            message.put(length);
        }
        if self.means {
            message.put(mean);
        }
    }

    fn take<A: Element>(&self, message: &mut Received<'_>) -> Result<RowSum<A>, Error> {
        let mut sum = RowSum {
            total: message.take()?,
            shift: message.take()?,
            largest: message.take()?,
            ..RowSum::none()
        };
        if self.lengths {
            sum.length = message.take()?;
        }
        if self.means {
            sum.mean = message.take()?;
        }
        Ok(sum)
    }
}

impl<A: Element> RowTarget<A> {
    fn put(&self, message: &mut Message) {
        let Self {
            column,
            logit,
            value,
            plain_logit,
            cosine,
            steepest,
            term,
            changed,
            negative_slope,
        } = *self;
        message.put(column);
        message.put_all([logit, value, plain_logit, cosine, negative_slope]);
        message.put_all(steepest);
        message.put_all(term);
        message.put(changed.is_some());
        if let Some(changed) = changed {
            let Changed {
                above,
                turn: Turn { scale, cos, sin },
                center,
                polynomial,
            } = changed;
            message.put_all([above, scale, cos, sin, center]);
            message.put_all(polynomial);
        }
    }

    fn take(message: &mut Received<'_>) -> Result<Self, Error> {
        let column = message.take()?;
        let mut numbers = [0.0; 5];
        message.take_into(&mut numbers)?;
        let [logit, value, plain_logit, cosine, negative_slope] = numbers;
        let (mut steepest, mut term) = ([0.0; 2], [0.0; 2]);
        message.take_into(&mut steepest)?;
        message.take_into(&mut term)?;
        let mut changed = None;
        if message.take::<bool>()? {
            let mut entries = [A::zero(); 9];
            message.take_into(&mut entries)?;
            let [above, scale, cos, sin, center, polynomial @ ..] = entries;
            changed = Some(Changed {
                above,
                turn: Turn { scale, cos, sin },
                center,
                polynomial,
            });
        }
        Ok(Self {
            column,
            logit,
            value,
            plain_logit,
            cosine,
            steepest,
            term,
            changed,
            negative_slope,
        })
    }
}
