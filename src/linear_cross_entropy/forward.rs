//! The forward pass: logits, exponentials and their sums, one tile of rows by one block of classes at a time, and what
//! the other classes add to the features' gradient while the block is in the cache.
//!
//! A row's exponentials are taken relative to a shift, which follows the row's largest logit from afar: it is 0 while that
//! stays near 0, so that nothing has to be done about it in the ordinary case, and is otherwise raised, with what has been
//! summed scaled down, when a logit exceeds it by more than a slack that keeps clear of overflow.

use core::ops::Range;

use faer::{MatMut, MatRef};
use ndarray::ArrayView2;
use pulp::{Arch, Simd, WithSimd};

use crate::float::Float;
use crate::parallel;

use super::blocks::{Aim, Normalised, Piece, Plan};
use super::rows::reduce;
use super::scratch::Pieces;

/// A shift of 0 serves a row whose first largest logit is within ± this.
pub(super) const NEAR_ZERO: f64 = 20.0;
/// How many exponentials, sums or maxima run side by side.
///
/// For the compiler to keep them in registers, lanes are copied out of the slices before they are changed (slices may
/// overlap for all it knows), and what is left over has a result of its own (a variable index would put them in memory).
const LANES: usize = 32;

/// What both passes read: the scaled features, the norms of the class weights and who belongs where.
#[derive(Debug)]
pub(super) struct Batch<'a, A> {
    pub(super) plan: Plan,
    pub(super) normalised: Normalised<'a, A>,
    pub(super) bias: Option<&'a [f64]>,
    /// N×d: features times whatever makes `features · ŵ` the logit.
    pub(super) features: &'a [A],
    pub(super) labels: &'a [usize],
    /// The rows, by label.
    pub(super) by_label: Vec<usize>,
}

impl<'a, A: Float> Batch<'a, A> {
    /// The rows whose label is in `classes`, in the order of label and row.
    pub(super) fn rows_of(&self, classes: &Range<usize>) -> &[usize] {
        let below = |class: usize| {
            self.by_label
                .partition_point(|&row| self.labels[row] < class)
        };
        &self.by_label[below(classes.start)..below(classes.end)]
    }

    /// `features · Wᵀ` of a tile, with −∞ in place of the targets: they enter on their own.
    pub(super) fn logits(&self, rows: &Range<usize>, block: usize, weights: &[A], tile: &mut [A]) {
        let (plan, classes) = (&self.plan, self.plan.block(block));
        let (height, width, dim) = (rows.len(), classes.len(), plan.dim);
        A::product(
            MatMut::from_row_major_slice_mut(tile, height, width),
            false,
            self.tile_features(rows),
            MatRef::from_row_major_slice(weights, width, dim).transpose(),
        );
        if let Some(bias) = self.bias {
            for row in tile.chunks_exact_mut(width) {
                for (logit, &bias) in row.iter_mut().zip(&bias[classes.clone()]) {
                    *logit += A::narrow(bias);
                }
            }
        }
        for &row in self.rows_of(&classes) {
            if rows.contains(&row) {
                let column = self.labels[row] - classes.start;
                tile[(row - rows.start) * width + column] = A::neg_infinity();
            }
        }
    }

    /// How many biases belong to so many classes.
    pub(super) fn biases_of(&self, classes: usize) -> usize {
        if self.bias.is_some() { classes } else { 0 }
    }

    fn tile_features(&self, rows: &Range<usize>) -> MatRef<'a, A> {
        let dim = self.plan.dim;
        MatRef::from_row_major_slice(
            &self.features[rows.start * dim..rows.end * dim],
            rows.len(),
            dim,
        )
    }
}

/// What the forward pass leaves behind; every slice is laid out piece by piece, as [`Plan::pieces`] orders them.
#[derive(Debug)]
pub(super) struct Sums<'a, A> {
    /// Σ exp(z − shift) over the classes of a segment but the target, for each row.
    pub(super) totals: &'a mut [f64],
    /// The shift that this sum ended with.
    pub(super) shifts: &'a mut [A],
    /// The largest logit but the target's.
    pub(super) maxima: &'a mut [A],
    /// Σ exp(z − shift)/‖w‖ · w, N×d for each segment, if there is a backward pass.
    pub(super) accumulators: &'a mut [A],
    /// exp(z − shift)/‖w‖, if they are kept; otherwise one tile for each piece.
    pub(super) exponentials: &'a mut [A],
    /// The shifts of the exponentials that are kept, block by block.
    pub(super) block_shifts: &'a mut [A],
}

/// One piece's share of [`Sums`].
struct Task<'a, A> {
    piece: Piece,
    sums: &'a mut [f64],
    shifts: &'a mut [A],
    maxima: &'a mut [A],
    accumulator: &'a mut [A],
    exponentials: &'a mut [A],
    block_shifts: &'a mut [A],
}

/// Runs the forward pass over all pieces.
pub(super) fn run<A: Float>(
    batch: &Batch<'_, A>,
    weights: ArrayView2<'_, A>,
    out: &mut Sums<'_, A>,
) {
    let plan = &batch.plan;
    let mut sums = Pieces::over(out.totals);
    let mut shifts = Pieces::over(out.shifts);
    let mut maxima = Pieces::over(out.maxima);
    let mut accumulators = Pieces::over(out.accumulators);
    let mut exponentials = Pieces::over(out.exponentials);
    let mut block_shifts = Pieces::over(out.block_shifts);
    let tasks = plan
        .pieces()
        .map(|piece| {
            let height = piece.rows.len();
            Task {
                sums: sums.take(height),
                shifts: shifts.take(height),
                maxima: maxima.take(height),
                accumulator: accumulators.take(match plan.aim {
                    Aim::Loss => 0,
                    Aim::Gradients | Aim::Stream => height * plan.dim,
                }),
                exponentials: exponentials.take(if plan.keeps {
                    height * plan.classes_of(&piece.blocks).len()
                } else {
                    height * plan.block_classes
                }),
                block_shifts: block_shifts.take(if plan.keeps {
                    height * piece.blocks.len()
                } else {
                    0
                }),
                piece,
            }
        })
        .collect();
    parallel::for_each(tasks, |task| run_piece(batch, weights, task));
}

fn run_piece<A: Float>(batch: &Batch<'_, A>, all_weights: ArrayView2<'_, A>, task: Task<'_, A>) {
    let plan = &batch.plan;
    let Task {
        piece,
        sums,
        shifts,
        maxima,
        accumulator,
        exponentials,
        block_shifts,
    } = task;
    sums.fill(0.0);
    shifts.fill(A::zero());
    maxima.fill(A::neg_infinity());
    let height = piece.rows.len();
    let arch = Arch::new();
    let mut buffer = Vec::new();
    let mut kept = 0;
    for (index, block) in piece.blocks.clone().enumerate() {
        let classes = plan.block(block);
        let width = classes.len();
        let tile = &mut exponentials[kept..kept + height * width];
        let weights = batch
            .normalised
            .block(all_weights, plan, block, &mut buffer);
        batch.logits(&piece.rows, block, weights, tile);
        arch.dispatch(Exponentials {
            tile: &mut *tile,
            inverse_norms: &batch.normalised.inverse_norms[classes],
            sums: &mut *sums,
            shifts: &mut *shifts,
            maxima: &mut *maxima,
            accumulator: if index == 0 {
                &mut []
            } else {
                &mut *accumulator
            },
            keep: plan.aim != Aim::Loss,
        });
        if plan.keeps {
            block_shifts[index * height..(index + 1) * height].copy_from_slice(shifts);
            kept += tile.len();
        }
        if plan.aim != Aim::Loss {
            A::product(
                MatMut::from_row_major_slice_mut(accumulator, height, plan.dim),
                index > 0,
                MatRef::from_row_major_slice(tile, height, width),
                MatRef::from_row_major_slice(weights, width, plan.dim),
            );
        }
    }
}

/// Turns a tile of products into exponentials over norms, and adds up what they sum to.
struct Exponentials<'a, A> {
    tile: &'a mut [A],
    inverse_norms: &'a [A],
    sums: &'a mut [f64],
    shifts: &'a mut [A],
    maxima: &'a mut [A],
    /// What has been summed so far, to be scaled down when a shift rises; empty if there is nothing.
    accumulator: &'a mut [A],
    /// Whether the exponentials themselves are wanted.
    keep: bool,
}

impl<A: Float> WithSimd for Exponentials<'_, A> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let width = self.inverse_norms.len();
        let dim = self.accumulator.len() / self.sums.len();
        for (i, row) in self.tile.chunks_exact_mut(width).enumerate() {
            let largest = normalise(row, self.inverse_norms);
            if largest > self.maxima[i] {
                self.maxima[i] = largest;
            }
            let fresh = self.sums[i] == 0.0;
            let rises = largest > self.shifts[i] + A::SHIFT_SLACK;
            let far = largest.widen().abs() > NEAR_ZERO && largest > A::neg_infinity();
            if (fresh && far) || rises {
                let shrink = (self.shifts[i] - largest).widen().exp();
                self.shifts[i] = largest;
                if !fresh {
                    self.sums[i] *= shrink;
                    for sum in self.accumulator.iter_mut().skip(i * dim).take(dim) {
                        *sum = A::narrow(sum.widen() * shrink);
                    }
                }
            }
            self.sums[i] += if self.keep {
                exponentiate::<true, A>(row, self.inverse_norms, self.shifts[i])
            } else {
                exponentiate::<false, A>(row, self.inverse_norms, self.shifts[i])
            };
        }
    }
}

/// `z ← z/‖w‖`; returns the largest.
#[inline(always)]
fn normalise<A: Float>(row: &mut [A], inverse_norms: &[A]) -> A {
    let larger = |a: A, b: A| if b > a { b } else { a };
    let mut lanes = [A::neg_infinity(); LANES];
    let (chunks, rest) = row.as_chunks_mut::<LANES>();
    let (inverse_chunks, inverse_rest) = inverse_norms.as_chunks::<LANES>();
    for (z, inverse) in chunks.iter_mut().zip(inverse_chunks) {
        let mut normalised = *z;
        for k in 0..LANES {
            normalised[k] *= inverse[k];
            lanes[k] = larger(lanes[k], normalised[k]);
        }
        *z = normalised;
    }
    let largest = reduce(lanes, larger);
    let pairs = rest.iter_mut().zip(inverse_rest);
    pairs.fold(largest, |largest, (z, &inverse)| {
        *z *= inverse;
        larger(largest, *z)
    })
}

/// The sum of `exp(z − shift)`, and if they are to be kept `z ← exp(z − shift)/‖w‖`.
#[inline(always)]
fn exponentiate<const KEEP: bool, A: Float>(row: &mut [A], inverse_norms: &[A], shift: A) -> f64 {
    let mut lanes = [A::zero(); LANES];
    let (chunks, rest) = row.as_chunks_mut::<LANES>();
    let (inverse_chunks, inverse_rest) = inverse_norms.as_chunks::<LANES>();
    for (z, inverse) in chunks.iter_mut().zip(inverse_chunks) {
        let (mut exponentials, inverse) = (*z, *inverse);
        for k in 0..LANES {
            exponentials[k] = (exponentials[k] - shift).exp_element();
            lanes[k] += exponentials[k];
        }
        if KEEP {
            for k in 0..LANES {
                exponentials[k] *= inverse[k];
            }
            *z = exponentials;
        }
    }
    let mut wide = [0.0; LANES];
    for k in 0..LANES {
        wide[k] = lanes[k].widen();
    }
    let sum = reduce(wide, |a, b| a + b);
    let pairs = rest.iter_mut().zip(inverse_rest);
    pairs.fold(sum, |sum, (z, &inverse)| {
        let exponential = (*z - shift).exp_element();
        if KEEP {
            *z = exponential * inverse;
        }
        sum + exponential.widen()
    })
}

/// Computes a tile's exponentials a second time, with shifts that are known by now.
pub(super) struct Recompute<'a, A> {
    pub(super) tile: &'a mut [A],
    pub(super) inverse_norms: &'a [A],
    pub(super) shifts: &'a [A],
}

impl<A: Float> WithSimd for Recompute<'_, A> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let width = self.inverse_norms.len();
        let (inverse_chunks, inverse_rest) = self.inverse_norms.as_chunks::<LANES>();
        for (row, &shift) in self.tile.chunks_exact_mut(width).zip(self.shifts) {
            let again = |z: A, inverse: A| (z * inverse - shift).exp_element() * inverse;
            let (chunks, rest) = row.as_chunks_mut::<LANES>();
            for (z, inverse) in chunks.iter_mut().zip(inverse_chunks) {
                let mut exponentials = *z;
                for k in 0..LANES {
                    exponentials[k] = again(exponentials[k], inverse[k]);
                }
                *z = exponentials;
            }
            for (z, &inverse) in rest.iter_mut().zip(inverse_rest) {
                *z = again(*z, inverse);
            }
        }
    }
}
