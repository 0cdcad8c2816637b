//! Scores: the logits of all classes as no margin changes them, in one product.

use core::ops::Range;

use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis};

use crate::error::Error;
use crate::numerics::{Element, largest, vectorized};
use crate::scores::{Best, Scores, TopClasses, none_found};
use crate::scratch::{Pieces, Scratch};

use super::features::Batch;
use super::lane::{self, Lane};
use super::plan::Plan;
use super::weights::{Block, Scanned, Weights};
use super::{Problem, Underway, bounds};

/// Answers which class it is.
pub(super) fn solve<A: Element>(
    problem: Problem<'_, A>,
    weights: ArrayView2<'_, A>,
    scores: Scores<'_, A>,
    scratch: &mut Scratch<A>,
) -> Result<(), Error> {
    let plan = problem.plan;
    let mut underway = Underway::begin(problem, weights, scratch)?;
    match scores {
        Scores::All(out) => {
            let mut all = Array2::zeros((plan.rows, plan.columns / plan.group));
            let segments = columns(&plan, all.view_mut());
            run(
                &mut underway,
                weights,
                segments,
                #[inline(always)]
                |(first, all), row, class, scores| {
                    let mut out = all.row_mut(row);
                    let out = out.as_slice_mut().expect("rows are contiguous");
                    out[class - *first..][..scores.len()].copy_from_slice(scores);
                },
            )?;
            *out = all;
        }
        Scores::Top(k, out) => {
            let mut found = vec![none_found(); plan.segments().len() * plan.rows * k];
            let mut pieces = Pieces::over(&mut found);
            let segments = plan
                .segments()
                .map(|_| pieces.take(plan.rows * k))
                .collect();
            run(
                &mut underway,
                weights,
                segments,
                #[inline(always)]
                |segment: &mut _, row, class, scores| {
                    let found = &mut segment[row * k..(row + 1) * k];
                    Best::over(found).offer_all(class, scores);
                },
            )?;
            *out = TopClasses::from_rows(k, &best_of_all(&plan, k, &found));
        }
    }
    Ok(())
}

/// The k best of each row, from those of each segment.
pub(super) fn best_of_all<A: Element>(
    plan: &Plan,
    k: usize,
    segments: &[(A, usize)],
) -> Vec<(A, usize)> {
    let mut all = vec![none_found(); plan.rows * k];
    for segment in segments.chunks_exact((plan.rows * k).max(1)) {
        for (best, found) in all.chunks_exact_mut(k).zip(segment.chunks_exact(k)) {
            Best::over(best).join(found);
        }
    }
    all
}

/// The columns of the scores, segment by segment, each with its first class.
fn columns<'a, A>(
    plan: &Plan,
    mut scores: ArrayViewMut2<'a, A>,
) -> Vec<(usize, ArrayViewMut2<'a, A>)> {
    let segment = |segment| {
        let columns = plan.columns_of(&plan.segment(segment));
        (columns.start / plan.group, columns.len() / plan.group)
    };
    let mut all = Vec::new();
    for (first, classes) in plan.segments().map(segment) {
        let (columns, rest) = scores.split_at(Axis(1), classes);
        all.push((first, columns));
        scores = rest;
    }
    all
}

/// Has each segment `take` the scores of its classes: for each row those of some consecutive classes, from the first of these
/// on.
fn run<A: Element, T: Send>(
    underway: &mut Underway<'_, A>,
    weights: ArrayView2<'_, A>,
    mut segments: Vec<T>,
    take: impl Fn(&mut T, usize, usize, &[A]) + Sync + Send,
) -> Result<Vec<T>, Error> {
    let batch = &underway.batch;
    let (plan, weights) = (&batch.plan, batch.weights(weights));
    let tasks = plan.segments().zip(&mut segments);
    let scanned = lane::scan(&mut underway.lanes, tasks, |lane, (index, segment)| {
        run_segment(
            batch,
            weights,
            lane,
            plan.segment(index),
            #[inline(always)]
            |row, class, scores| take(segment, row, class, scores),
        )
    })?;
    bounds::check_logits(batch, &scanned)?;
    Ok(segments)
}

fn run_segment<A: Element>(
    batch: &Batch<'_, A>,
    weights: Weights<'_, A>,
    lane: &mut Lane<'_, A>,
    blocks: Range<usize>,
    mut take: impl FnMut(usize, usize, &[A]),
) -> Result<Scanned, Error> {
    let (plan, buffers) = (&batch.plan, &mut lane.buffers);
    let mut factors = vec![A::zero(); plan.block_columns];
    let mut all = Scanned::NONE;
    for block in blocks {
        let columns = plan.block(block);
        let factors = &mut factors[..columns.len()];
        let (scanned, block) = weights.scanned(batch.head, columns, factors, buffers)?;
        all = all.and(scanned);
        let (width, first) = (block.columns.len(), block.columns.start / plan.group);
        for rows in plan.tiles() {
            let products = &mut lane.tile[..rows.len() * width];
            batch.products(&rows, &block, products, |_, _| ());
            vectorized(
                #[inline(always)]
                || {
                    to_scores(products, &block, plan.group);
                    for (row, scores) in rows.clone().zip(products.chunks_exact(width)) {
                        take(row, first, &scores[..width / plan.group]);
                    }
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
