//! The driver: a classifier over a linear or cosine layer in which only the target's logit is special.
//!
//! It owns normalisation, the products, log-sum-exp, the backward products and the projection back through the
//! normalisation. It knows no paper: a [`Head`] says what is normalised and hands over the margin.
//!
//! [`solve`] answers a request. It takes the features in and finds each row's target. Then come three phases:
//!
//! 1. **open**, the forward pass, segment by segment of the classes: sums of exponentials for each row.
//! 2. **close**: the sums of all segments become each row's loss.
//! 3. **finish**, the backward pass, run by run of the classes: ∂W of the run, and what the run adds to ∂X.
//!
//! Segments may be opened, and runs finished, in any order and apart from each other: the bits are those of the whole. So classes
//! may be spread over ranks, which tell each other between the phases what they have found ([`Peers`]).

mod bounds;
mod close;
mod entries;
mod features;
mod finish;
mod head;
mod lane;
mod nearest;
mod open;
mod peers;
mod plan;
mod scores;
mod share;
mod smoothing;
mod target;
#[cfg(test)]
mod tests;
mod twice;
mod two_targets;
mod weights;

use core::ops::Range;
use std::sync::Mutex;

use ndarray::{Array1, Array2, ArrayView2};

use crate::check;
use crate::error::{Argument, Error};
use crate::evaluation::Evaluation;
use crate::numerics::{Element, OrderFree, binary_exponent, parallel};
use crate::request::{Aim, Request, Wanted};
use crate::scores::{best_of_all, none_found};
use crate::scratch::{Pieces, Scratch};

use close::Closed;
use features::Batch;
use finish::WayBack;
use lane::Lane;
use nearest::AllNear;
use open::Opened;
use peers::Peers;
use plan::Plan;
use share::Share;
use smoothing::Smoothing;
use weights::Scanned;

pub(crate) use head::{Head, Layer, Learns, Link};
pub(crate) use plan::segment_classes;

/// Answers a request.
pub(crate) fn solve<A: Element>(head: &Head<'_>, request: Request<'_, A>) -> Result<(), Error> {
    let peers = Peers::new(&request)?;
    let problem = Problem::new(head, &request, &peers)?;
    let (threads, evaluation) = (problem.plan.lanes, request.evaluation);
    if peers.are_there() {
        // What waits for other ranks waits on the caller's thread.
        return evaluate(problem, request.wanted, evaluation, &peers);
    }
    match request.wanted {
        Wanted::Scores(weights, scores) => parallel::on_pool(threads, || {
            scores::solve(problem, weights, scores, &mut evaluation.scratch)
        }),
        // `update` cannot be sent to another thread.
        wanted @ Wanted::Update { .. } => evaluate(problem, wanted, evaluation, &peers),
        Wanted::Loss(weights) => parallel::on_pool(threads, || {
            evaluate(problem, Wanted::Loss(weights), evaluation, &Peers::NONE)
        }),
        Wanted::Gradients(weights) => parallel::on_pool(threads, || {
            evaluate(
                problem,
                Wanted::Gradients(weights),
                evaluation,
                &Peers::NONE,
            )
        }),
    }
}

/// The loss, and the gradients that are wanted.
fn evaluate<A: Element>(
    problem: Problem<'_, A>,
    wanted: Wanted<'_, A>,
    evaluation: &mut Evaluation<A>,
    peers: &Peers<'_>,
) -> Result<(), Error> {
    let two = problem.labels.len() > problem.plan.rows;
    if two && (problem.head.link != Link::Softmax || problem.plan.nearest > 0) {
        return twice::evaluate(problem, wanted, evaluation);
    }
    let again = two.then(|| problem.clone());
    let mut underway = Underway::begin(problem, wanted.weights(), &mut evaluation.scratch)?;
    if let Some(problem) = again
        && underway.batch.changes_any()
    {
        drop(underway);
        return twice::evaluate(problem, wanted, evaluation);
    }
    peers.share_targets(&mut underway.batch)?;
    underway.open(wanted.weights(), peers)?;
    underway.change_nearest(wanted.weights());
    let rows = underway.opened.close(&underway.batch);
    let figures = underway.batch.figures(&rows)?;
    let gradients = [&mut evaluation.grad_features, &mut evaluation.grad_weights];
    let learnables = underway.finish(&rows, wanted, gradients, peers)?;
    // Nothing has been refused, so that the last outputs may be written too.
    evaluation.grad_learnables = learnables;
    evaluation.forward = figures;
    evaluation.grad_centers = Array2::default((0, 0));
    Ok(())
}

/// What is to be evaluated, once it is known to have the right shape.
#[derive(Clone)]
struct Problem<'a, A> {
    head: &'a Head<'a>,
    plan: Plan,
    share: Share,
    /// The rows whose ∂X is wanted here.
    own_rows: Range<usize>,
    features: ArrayView2<'a, A>,
    /// The class of each row, and, if rows have two targets, the second class of each, [`NO_CLASS`](check::NO_CLASS) for a
    /// row that has but one; empty for scores.
    labels: Vec<usize>,
    /// How much the first target of each row counts beside the second; empty if all rows have but one.
    shares: Vec<f64>,
    /// rᵢ/N or rᵢ; empty for scores.
    coefficients: Vec<f64>,
}

impl<'a, A: Element> Problem<'a, A> {
    fn new<'r: 'a>(
        head: &'a Head<'a>,
        request: &Request<'r, A>,
        peers: &Peers<'_>,
    ) -> Result<Self, Error> {
        head.check_composition()?;
        peers.check(head)?;
        let (features, weights) = (request.features, request.weights());
        let classes = request.classes_of(head.group);
        let (labels, shares, coefficients) = if let Wanted::Scores(_, scores) = &request.wanted {
            check::shapes(features, weights.dim(), Argument::ClassWeights, head.group)?;
            scores.check(classes)?;
            Default::default()
        } else {
            let (labels, shares) = request.two_targets(Argument::ClassWeights, head.group)?;
            (labels, shares, check::coefficients(&request.targets))
        };
        head.check_constants(classes)?;
        let aim = request.wanted.aim();
        let (mut plan, share) = match request.shard {
            None => (
                Plan::new(features.dim(), weights.nrows(), head.group, aim),
                Share::whole(classes, head.group),
            ),
            Some(shard) => peers::plan(shard, features.dim(), &labels, head.group, aim),
        };
        if let (Some(nearest), false) = (head.nearest, request.wants_scores()) {
            head.check_nearest(classes)?;
            plan.nearest = nearest.changes();
        }
        plan.targets = plan.targets.max(labels.len());
        Ok(Self {
            head,
            plan: plan.within::<A>(request.evaluation.scratch.limit())?,
            share,
            own_rows: peers.own_rows(features.nrows()),
            features,
            labels,
            shares,
            coefficients,
        })
    }
}

/// An evaluation under way, and its working memory.
struct Underway<'a, A> {
    batch: Batch<'a, A>,
    opened: Opened<'a, A>,
    lanes: Vec<Lane<'a, A>>,
    /// ∂X while it is summed, and what its sums leave over.
    totals: &'a mut [f64],
    rests: &'a mut [f64],
}

impl<'a, A: Element> Underway<'a, A> {
    /// Takes the features in, and finds the targets whose classes are here. `rows` are the class weights that are here.
    fn begin<'p: 'a>(
        problem: Problem<'p, A>,
        rows: ArrayView2<'_, A>,
        scratch: &'a mut Scratch<A>,
    ) -> Result<Self, Error> {
        let plan = problem.plan;
        let sizes = plan.sizes::<A>();
        scratch.make_room([
            sizes.elements(),
            sizes.doubles(),
            sizes.row_sums,
            sizes.all_nearest(),
            sizes.blocks,
        ]);
        let mut elements = Pieces::of(&mut scratch.elements, sizes.elements());
        let mut doubles = Pieces::of(&mut scratch.doubles, sizes.doubles());
        let mut nearest = Pieces::of(&mut scratch.nearest, sizes.all_nearest());
        Ok(Self {
            batch: Batch::new(problem, rows, &mut elements)?,
            opened: Opened {
                scanned: Scanned::NONE,
                factors: elements.take(sizes.factors),
                rescaled: Pieces::of(&mut scratch.flags, sizes.blocks).take(sizes.blocks),
                sums: Pieces::of(&mut scratch.row_sums, sizes.row_sums).take(sizes.row_sums),
                of_all: None,
                shifts: elements.take(sizes.shifts),
                kept: elements.take(sizes.exponentials),
                direction: Vec::new(),
            },
            totals: doubles.take(sizes.totals),
            rests: doubles.take(sizes.rests),
            lanes: Lane::all(&plan, &mut elements, &mut doubles, &mut nearest),
        })
    }

    /// The first phase, once every row's target is known.
    fn open(&mut self, rows: ArrayView2<'_, A>, peers: &Peers<'_>) -> Result<(), Error> {
        if self.batch.head.nearest.is_some() && self.batch.changes_negatives() {
            return Err(Error::NotComposable {
                what: "an inter-topk penalty",
                with: "a margin that changes the negatives",
            });
        }
        let weights = self.batch.weights(rows);
        for lane in &mut self.lanes {
            lane.nearest.fill(none_found());
        }
        let found = self.opened.run(&self.batch, weights, &mut self.lanes);
        peers.share_sums(&self.batch, &mut self.opened, found)?;
        bounds::check_logits(&self.batch, &self.opened.scanned)?;
        let Some(first) = self.batch.wrong_target else {
            return Ok(());
        };
        let error = self.batch.target_error.take();
        let error = error.filter(|&(row, _)| row == first);
        peers.agree(error.map_or(Ok(()), |(_, error)| Err(error)))
    }

    /// Between the first phase and the second: finds the nearest negatives of each row, if their logits are changed.
    fn change_nearest(&mut self, rows: ArrayView2<'_, A>) {
        let plan = &self.batch.plan;
        if plan.nearest > 0 {
            let lists = self.lanes.iter().map(|lane| &*lane.nearest);
            let nearest = best_of_all(plan.rows, plan.nearest, lists);
            let found = self.batch.find_nearest(rows, &nearest);
            self.set_nearest(found);
        }
    }

    /// Takes in what is known of the nearest negatives.
    fn set_nearest(&mut self, found: Vec<nearest::Near>) {
        self.batch.nearest = AllNear::new(self.batch.plan.nearest, found);
        self.opened.leave_out(&self.batch);
    }

    /// The third phase. Everything that can be refused is refused before the first output is written. Returns the gradient of
    /// what the loss learns.
    fn finish(
        &mut self,
        rows: &[Closed],
        wanted: Wanted<'_, A>,
        [grad_features, grad_weights]: [&mut Array2<A>; 2],
        peers: &Peers<'_>,
    ) -> Result<Array1<A>, Error> {
        let (head, plan) = (self.batch.head, self.batch.plan);
        let none = || Array2::default((0, plan.dim));
        if plan.aim == Aim::Loss {
            (*grad_features, *grad_weights) = (none(), none());
            return Ok(Array1::default(0));
        }
        let by_rows = self.row_learnables(rows, peers)?;
        if !bounds::surely_finite(&self.batch, rows, &self.opened.scanned) {
            self.rehearse(rows, wanted.weights(), peers)?;
        }
        let mut learnables = match head.learns {
            Learns::Constants => Array1::zeros(plan.own_columns().len() / head.group),
            Learns::Nothing | Learns::Scale | Learns::Constant | Learns::Margins { .. } => {
                Array1::default(0)
            }
        };
        let constants = learnables.as_slice_mut().unwrap_or_default();
        let (back, lanes) = self.back(rows, wanted.weights());
        match wanted {
            Wanted::Update { weights, update } => {
                back.stream(weights, lanes, constants, update);
                *grad_weights = none();
            }
            wanted => {
                let view = wanted.weights();
                let gradient = shaped(grad_weights, view.dim());
                back.all(back.batch.weights(view), lanes, gradient, constants);
            }
        }
        drop(back);
        let features = shaped(grad_features, (plan.rows, plan.dim));
        if let Some(scale) = self.finish_features(rows, features, peers)? {
            learnables = Array1::from_elem(1, scale);
        }
        let learnables = by_rows.unwrap_or(learnables);
        if matches!(head.learns, Learns::Constants | Learns::Margins { .. }) {
            return peers.share_learnables(&self.batch.share, learnables);
        }
        Ok(learnables)
    }

    /// The gradient of what the loss learns, as far as the rows alone make it; or what is wrong with it on any rank.
    fn row_learnables(
        &self,
        rows: &[Closed],
        peers: &Peers<'_>,
    ) -> Result<Option<Array1<A>>, Error> {
        let found = self.batch.row_learnables(rows);
        if matches!(self.batch.head.learns, Learns::Margins { .. }) {
            // Each rank has looked at the margins of its own classes.
            peers.agree(found.as_ref().map(drop).map_err(Clone::clone))?;
        }
        found
    }

    /// Computes all gradients without writing one, and finds the first that is no number: for where lengths cannot tell that
    /// there is none.
    fn rehearse(
        &mut self,
        rows: &[Closed],
        weights: ArrayView2<'_, A>,
        peers: &Peers<'_>,
    ) -> Result<(), Error> {
        let (back, lanes) = self.back(rows, weights);
        let found = back.rehearse(back.batch.weights(weights), lanes);
        drop(back);
        peers.agree(found)?;
        let mut features = vec![A::zero(); self.totals.len()];
        let scale = self.finish_features(rows, &mut features, peers)?;
        let bad = features.iter().position(|entry| !entry.is_finite());
        peers.agree(bad.map_or(Ok(()), |entry| {
            let row = entry / self.batch.plan.dim;
            Err(Error::overflow("gradient", Argument::Features, row))
        }))?;
        if scale.is_some_and(|scale| !scale.is_finite()) {
            return Err(Error::BatchOverflow {
                quantity: "gradient",
            });
        }
        Ok(())
    }

    /// The backward pass over the classes, with new sums of ∂X, and the lanes that it works in.
    fn back<'b>(
        &'b mut self,
        rows: &'b [Closed],
        weights: ArrayView2<'_, A>,
    ) -> (WayBack<'b, 'a, A>, &'b mut [Lane<'a, A>]) {
        let (batch, plan) = (&self.batch, &self.batch.plan);
        self.totals.fill(0.0);
        self.rests.fill(0.0);
        let weights = batch.weights(weights);
        smoothing::begin(batch, &self.opened.direction, weights, rows, self.totals);
        two_targets::begin(batch, weights, rows, self.totals);
        let mut totals = Pieces::over(&mut *self.totals);
        let mut rests = Pieces::over(&mut *self.rests);
        let totals = plan.tiles().map(|rows| {
            let size = rows.len() * plan.dim;
            let rests = rests.take_if(A::KEEPS_RESTS, size);
            Mutex::new(OrderFree::over(totals.take(size), rests))
        });
        // The bound may have underflowed to 0, while 1/‖w‖ is still to come.
        let bound = bounds::class_row(batch).max(f64::from_bits(1));
        let mut boost = A::MAX_EXPONENT - binary_exponent(bound);
        let by_rank_one = batch.smoothing() == Smoothing::RankOne;
        if by_rank_one || plan.targets > plan.rows {
            // What is added to ∂W in `f64` is multiplied by 2^boost at once.
            boost = boost.min(1000);
        }
        let back = WayBack {
            batch,
            opened: &self.opened,
            rows,
            boost,
            share: if by_rank_one {
                batch.head.uniform_share(batch.plan.columns)
            } else {
                0.0
            },
            uniform: smoothing::features(batch, rows, boost),
            totals: totals.collect(),
        };
        (back, &mut self.lanes)
    }

    /// Turns the sums into ∂X. Returns ∂L/∂s if the loss learns s.
    fn finish_features(
        &mut self,
        rows: &[Closed],
        out: &mut [A],
        peers: &Peers<'_>,
    ) -> Result<Option<A>, Error> {
        peers.share_totals(&mut self.batch, [&mut *self.totals, &mut *self.rests])?;
        for (total, rest) in self.totals.iter_mut().zip(&*self.rests) {
            *total += rest;
        }
        let mut cosines = self.batch.write_gradient(rows, self.totals, out);
        let Some(scale) = self.batch.head.learned_scale() else {
            return Ok(None);
        };
        peers.share_cosines(&mut cosines)?;
        let gradient = self.batch.scale_gradient(scale, rows, &cosines);
        Ok(Some(A::narrow(gradient)))
    }
}

/// The array as a slice, row-major and of that shape; its entries are whatever they are.
fn shaped<A: Element>(array: &mut Array2<A>, shape: (usize, usize)) -> &mut [A] {
    if array.dim() != shape || !array.is_standard_layout() {
        *array = Array2::zeros(shape);
    }
    array.as_slice_mut().expect("just shaped")
}
