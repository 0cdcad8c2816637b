//! Scores: the logits of all classes as no margin changes them, in one product.

use core::ops::Range;

use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis};

use crate::check;
use crate::error::{Argument, Error};
use crate::numerics::{Element, largest, parallel, vectorized};
use crate::request::Aim;
use crate::scores::{Best, Scores, TopClasses};
use crate::scratch::Scratch;

use super::features::{self, Batch};
use super::lane::Lane;
use super::plan::Plan;
use super::weights::{Block, Scanned, Weights};
use super::{Head, Memory, Problem, bounds};

/// What becomes of the scores of a segment.
trait Take<A>: Send {
    /// Some rows, from `first` on, and some classes, from `class` on: their scores, row by row.
    fn take<'s>(&mut self, first: usize, class: usize, scores: impl Iterator<Item = &'s [A]>)
    where
        A: 's;
}

/// The scores of a segment's classes.
struct Columns<'a, A> {
    /// The first class.
    first: usize,
    scores: ArrayViewMut2<'a, A>,
}

impl<A: Element> Take<A> for Columns<'_, A> {
    #[inline(always)]
    fn take<'s>(&mut self, first: usize, class: usize, scores: impl Iterator<Item = &'s [A]>)
    where
        A: 's,
    {
        let class = class - self.first;
        for (row, scores) in (first..).zip(scores) {
            let mut out = self.scores.row_mut(row);
            let out = out.as_slice_mut().expect("rows are contiguous");
            out[class..class + scores.len()].copy_from_slice(scores);
        }
    }
}

/// The best of a segment's classes, for each row.
impl<A: Element> Take<A> for Vec<Best<A>> {
    #[inline(always)]
    fn take<'s>(&mut self, first: usize, class: usize, scores: impl Iterator<Item = &'s [A]>)
    where
        A: 's,
    {
        for (best, scores) in self[first..].iter_mut().zip(scores) {
            if largest(scores) > best.threshold() {
                for (class, &score) in (class..).zip(scores) {
                    best.offer(score, class);
                }
            }
        }
    }
}

/// Answers which class it is.
pub(super) fn solve<A: Element>(
    head: &Head<'_>,
    features: ArrayView2<'_, A>,
    weights: ArrayView2<'_, A>,
    scores: Scores<'_, A>,
    scratch: &mut Scratch<A>,
) -> Result<(), Error> {
    check::shapes(features, weights, Argument::ClassWeights, head.group)?;
    let classes = weights.nrows() / head.group;
    head.check_constants(classes)?;
    scores.check(classes)?;
    let plan = Plan::new(features.dim(), weights.nrows(), head.group, Aim::Loss);
    let plan = plan.within::<A>(scratch.limit())?;
    let problem = Problem {
        head,
        plan,
        features,
        labels: &[],
        coefficients: Vec::new(),
    };
    let Memory {
        room, mut lanes, ..
    } = Memory::of(&plan, scratch);
    parallel::on_pool(plan.lanes, || {
        let (batch, _) = features::prepare(problem, weights, room)?;
        match scores {
            Scores::All(out) => {
                let mut all = Array2::zeros((plan.rows, classes));
                run(&batch, weights, &mut lanes, columns(&plan, all.view_mut()))?;
                *out = all;
            }
            Scores::Top(k, out) => {
                let segments = vec![vec![Best::of(k); plan.rows]; plan.segments().len()];
                let segments = run(&batch, weights, &mut lanes, segments)?;
                *out = TopClasses::from_rows(
                    k,
                    (0..plan.rows).map(|row| {
                        let mut best = Best::of(k);
                        for segment in &segments {
                            best.join(&segment[row]);
                        }
                        best
                    }),
                );
            }
        }
        Ok(())
    })
}

/// The columns of the scores, segment by segment.
fn columns<'a, A>(plan: &Plan, scores: ArrayViewMut2<'a, A>) -> Vec<Columns<'a, A>> {
    let mut rest = Some(scores);
    let segment = |segment| {
        let columns = plan.columns_of(&plan.segment(segment));
        let (scores, after) = rest
            .take()
            .expect("put back each time")
            .split_at(Axis(1), columns.len() / plan.group);
        rest = Some(after);
        Columns {
            first: columns.start / plan.group,
            scores,
        }
    };
    plan.segments().map(segment).collect()
}

/// Gives each segment its scores.
fn run<A: Element, T: Take<A>>(
    batch: &Batch<'_, A>,
    weights: ArrayView2<'_, A>,
    lanes: &mut [Lane<'_, A>],
    mut segments: Vec<T>,
) -> Result<Vec<T>, Error> {
    let plan = &batch.plan;
    let weights = batch.weights(weights);
    let mut found = vec![Ok(Scanned::NONE); segments.len()];
    let tasks = plan.segments().zip(&mut segments).zip(&mut found);
    parallel::deal(lanes, tasks, |lane, ((segment, take), found)| {
        *found = run_segment(batch, weights, lane, plan.segment(segment), take);
    });
    let scanned = found
        .into_iter()
        .try_fold(Scanned::NONE, |all, segment| Ok(all.and(segment?)))?;
    bounds::check_logits(batch, &scanned)?;
    Ok(segments)
}

fn run_segment<A: Element, T: Take<A>>(
    batch: &Batch<'_, A>,
    weights: Weights<'_, A>,
    lane: &mut Lane<'_, A>,
    blocks: Range<usize>,
    take: &mut T,
) -> Result<Scanned, Error> {
    let (plan, buffers) = (&batch.plan, &mut lane.buffers);
    let mut factors = vec![A::zero(); plan.block_columns];
    let mut all = Scanned::NONE;
    for block in blocks {
        let columns = plan.block(block);
        let factors = &mut factors[..columns.len()];
        let (scanned, block) = weights.scanned(batch.head, columns, factors, buffers)?;
        all = all.and(scanned);
        for rows in plan.tiles() {
            let width = block.columns.len();
            let products = &mut lane.tile[..rows.len() * width];
            batch.products(&rows, &block, products, |_, _| ());
            vectorized(
                #[inline(always)]
                || {
                    to_scores(products, &block, plan.group);
                    let scores = products.chunks_exact(width);
                    let classes = width / plan.group;
                    let scores = scores.map(|row| &row[..classes]);
                    take.take(rows.start, block.columns.start / plan.group, scores);
                },
            );
        }
    }
    Ok(all)
}

/// Turns each row of products into scores, those of the classes first.
#[inline(always)]
fn to_scores<A: Element>(products: &mut [A], block: &Block<'_, A>, group: usize) {
    for row in products.chunks_exact_mut(block.columns.len()) {
        let known = block.factors.iter().zip(block.constants);
        for (z, (&factor, &constant)) in row.iter_mut().zip(known) {
            *z = z.mul_add(factor, constant);
        }
        if group > 1 {
            for class in 0..row.len() / group {
                let columns = &row[class * group..(class + 1) * group];
                row[class] = largest(columns);
            }
        }
    }
}
