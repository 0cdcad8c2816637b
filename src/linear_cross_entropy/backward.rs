//! The backward pass to the class weights: one block at a time, complete when it leaves.

use core::ops::Range;

use faer::{MatMut, MatRef};
use ndarray::{ArrayView2, ArrayViewMut2, Axis, Slice};
use pulp::{Arch, Simd, WithSimd};

use crate::float::Float;
use crate::loss::ClassBlock;
use crate::parallel;

use super::combine::Row;
use super::forward::{Batch, Recompute};
use super::rows::{Norm, binary_exponent, contiguous, powers_of_two, reduce, scale_by_power};
use super::scratch::Pieces;

/// What the backward pass reads beside the [`Batch`].
#[derive(Debug)]
pub(super) struct Coefficients<'a, A> {
    pub(super) shares: Shares<'a>,
    /// exp(z − shift)/‖w‖ of all classes, if they were kept.
    pub(super) kept: Option<Kept<'a, A>>,
    /// ∂z_y/∂w_y, N×d.
    pub(super) target_directions: &'a [A],
    /// Whether ∂W is projected back through the normalisation of W.
    pub(super) normalised: bool,
    /// The features of all rows times their coefficients, for exponentials relative to the rows' own shifts.
    pub(super) weighted: &'a Weighted<'a, A>,
}

/// What turns a row's exponentials into coefficients of its gradient.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shares<'a> {
    pub(super) rows: &'a [Row],
    /// rᵢ/N or rᵢ.
    pub(super) by_row: &'a [f64],
    /// Coefficients are multiplied by 2^this on their way through the product.
    pub(super) boost: i32,
}

/// The exponentials of the forward pass, tile by tile and block by block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kept<'a, A> {
    pub(super) exponentials: &'a [A],
    pub(super) block_shifts: &'a [A],
}

/// Working memory for one block at a time.
#[derive(Debug)]
pub(super) struct Workspace<'a, A> {
    /// A tile of the features times their coefficients, for blocks whose shifts are their own.
    own: Weighted<'a, A>,
    /// A tile of logits, if the exponentials were not kept.
    tile: &'a mut [A],
    /// The shifts of the tile at hand.
    shifts: Vec<A>,
    /// A block of weights, if it has to be copied.
    copy: Vec<A>,
}

/// Scaled features, each row times what turns its exponentials into coefficients of its gradient.
#[derive(Debug)]
pub(super) struct Weighted<'a, A> {
    features: &'a mut [A],
    /// That factor without the boost.
    factors: Vec<f64>,
}

impl<'a, A: Float> Weighted<'a, A> {
    pub(super) fn new(features: &'a mut [A]) -> Self {
        Self {
            features,
            factors: Vec::new(),
        }
    }

    /// For exponentials that were taken relative to `shifts`.
    pub(super) fn make_for(
        &mut self,
        batch: &Batch<'_, A>,
        shares: &Shares<'_>,
        rows: Range<usize>,
        shifts: &[A],
    ) {
        let dim = batch.plan.dim;
        self.factors.clear();
        self.factors.extend(
            rows.clone()
                .zip(shifts)
                .map(|(row, &shift)| shares.rows[row].share(shift.widen()) * shares.by_row[row]),
        );
        Arch::new().dispatch(Weigh {
            features: &batch.features[rows.start * dim..rows.end * dim],
            factors: &self.factors,
            boost: shares.boost,
            out: &mut *self.features,
        });
    }
}

struct Weigh<'a, A> {
    features: &'a [A],
    factors: &'a [f64],
    boost: i32,
    out: &'a mut [A],
}

impl<A: Float> WithSimd for Weigh<'_, A> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        if self.factors.is_empty() {
            return;
        }
        let dim = self.features.len() / self.factors.len();
        let rows = self
            .features
            .chunks_exact(dim)
            .zip(self.out.chunks_exact_mut(dim));
        for ((feature, out), &factor) in rows.zip(self.factors) {
            // In two steps, of which the first is no longer than the second: the factor with its boost may leave the range
            // of `f64` where its product with a tiny feature does not.
            let exponent = if factor == 0.0 {
                0
            } else {
                binary_exponent(factor)
            };
            let [first, second] = powers_of_two(exponent + self.boost);
            let first = scale_by_power(factor, -exponent) * first;
            for (out, feature) in out.iter_mut().zip(feature) {
                *out = A::narrow(feature.widen() * first * second);
            }
        }
    }
}

/// ∂L/∂W of one block, to `out`; and ∂L/∂b, if there is room for it.
pub(super) fn block<A: Float>(
    batch: &Batch<'_, A>,
    all_weights: ArrayView2<'_, A>,
    coefficients: &Coefficients<'_, A>,
    workspace: &mut Workspace<'_, A>,
    block: usize,
    out: &mut [A],
    grad_bias: &mut [A],
) {
    let plan = &batch.plan;
    let (classes, dim) = (plan.block(block), plan.dim);
    let width = classes.len();
    let arch = Arch::new();
    let Workspace {
        own,
        tile,
        shifts,
        copy,
    } = workspace;
    let shares = &coefficients.shares;
    let weights = batch.normalised.block(all_weights, plan, block, copy);
    let mut bias_sums = vec![0.0_f64; grad_bias.len()];
    if plan.rows == 0 {
        out.fill(A::zero());
    }

    for rows in plan.tiles() {
        let height = rows.len();
        shifts.clear();
        let exponentials = if let Some(kept) = coefficients.kept {
            let start = rows.start * plan.blocks() + height * block;
            shifts.extend_from_slice(&kept.block_shifts[start..start + height]);
            let start = rows.start * plan.classes + height * classes.start;
            &kept.exponentials[start..start + height * width]
        } else {
            let rows_shifts = shares.rows[rows.clone()].iter();
            shifts.extend(rows_shifts.map(|row| A::narrow(row.shift)));
            let tile = &mut tile[..height * width];
            batch.logits(&rows, block, weights, tile);
            arch.dispatch(Recompute {
                tile: &mut *tile,
                inverse_norms: &batch.normalised.inverse_norms[classes.clone()],
                shifts,
            });
            tile
        };
        let common = shares.rows[rows.clone()].iter();
        let (features, factors) = if common
            .zip(&*shifts)
            .all(|(row, &shift)| A::narrow(row.shift) == shift)
        {
            let all = coefficients.weighted;
            (
                &all.features[rows.start * dim..rows.end * dim],
                &all.factors[rows.clone()],
            )
        } else {
            own.make_for(batch, shares, rows.clone(), shifts);
            (&own.features[..height * dim], &own.factors[..])
        };
        A::product(
            MatMut::from_row_major_slice_mut(&mut *out, width, dim),
            rows.start > 0,
            MatRef::from_row_major_slice(exponentials, height, width).transpose(),
            MatRef::from_row_major_slice(features, height, dim),
        );
        if !bias_sums.is_empty() {
            arch.dispatch(SumRows {
                exponentials,
                factors,
                sums: &mut bias_sums,
            });
        }
    }

    arch.dispatch(Finish {
        out: &mut *out,
        weights,
        inverse_norms: coefficients
            .normalised
            .then(|| &batch.normalised.inverse_norms[classes.clone()]),
        dim,
        power: if batch.normalised.rescaled[block] {
            0
        } else {
            -shares.boost
        },
    });
    if batch.normalised.rescaled[block] {
        // The boost and the power of the row at once: one after the other might underflow on the way.
        let mut row_copy = Vec::new();
        for (class, row) in classes.clone().zip(out.chunks_exact_mut(dim)) {
            let power = Norm::of(contiguous(all_weights.row(class), &mut row_copy)).power();
            scale_row(row, -shares.boost - power);
        }
    }

    let mut sum = vec![0.0_f64; dim];
    for rows in batch
        .rows_of(&classes)
        .chunk_by(|&a, &b| batch.labels[a] == batch.labels[b])
    {
        let column = batch.labels[rows[0]] - classes.start;
        let out = &mut out[column * dim..(column + 1) * dim];
        for (sum, entry) in sum.iter_mut().zip(&*out) {
            *sum = entry.widen();
        }
        for &row in rows {
            let miss = shares.by_row[row] * shares.rows[row].miss;
            let direction = &coefficients.target_directions[row * dim..(row + 1) * dim];
            for (sum, u) in sum.iter_mut().zip(direction) {
                *sum -= miss * u.widen();
            }
            if let Some(sum) = bias_sums.get_mut(column) {
                *sum -= miss;
            }
        }
        for (entry, &sum) in out.iter_mut().zip(&sum) {
            *entry = A::narrow(sum);
        }
    }
    for (entry, sum) in grad_bias.iter_mut().zip(bias_sums) {
        *entry = A::narrow(sum);
    }
}

/// `Σᵢ factorᵢ · exponentialsᵢ`, in `f64`.
struct SumRows<'a, A> {
    exponentials: &'a [A],
    factors: &'a [f64],
    sums: &'a mut [f64],
}

impl<A: Float> WithSimd for SumRows<'_, A> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let rows = self.exponentials.chunks_exact(self.sums.len());
        for (row, &factor) in rows.zip(self.factors) {
            for (sum, exponential) in self.sums.iter_mut().zip(row) {
                *sum = factor.mul_add(exponential.widen(), *sum);
            }
        }
    }
}

/// Takes a block from the product to the gradient: (I − ŵŵᵀ), and the boost back.
struct Finish<'a, A> {
    out: &'a mut [A],
    weights: &'a [A],
    inverse_norms: Option<&'a [A]>,
    dim: usize,
    power: i32,
}

impl<A: Float> WithSimd for Finish<'_, A> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, _: S) {
        // What is no power of two of this type is applied on its own.
        let representable = self.power.abs() <= A::NORMAL_POWER;
        let power = if representable { self.power } else { 0 };
        let back = A::narrow(scale_by_power(1.0, power));
        self.project(back);
        if !representable {
            scale_row(self.out, self.power);
        }
    }
}

/// `row · 2^power`, rounded once.
fn scale_row<A: Float>(row: &mut [A], power: i32) {
    for entry in row {
        *entry = A::narrow(scale_by_power(entry.widen(), power));
    }
}

impl<A: Float> Finish<'_, A> {
    #[inline(always)]
    fn project(&mut self, back: A) {
        let Some(inverse_norms) = self.inverse_norms else {
            for entry in &mut *self.out {
                *entry *= back;
            }
            return;
        };
        for ((out, weight), &inverse) in self
            .out
            .chunks_exact_mut(self.dim)
            .zip(self.weights.chunks_exact(self.dim))
            .zip(inverse_norms)
        {
            let radial = dot_in_lanes(out, weight) * inverse * inverse;
            for (entry, &w) in out.iter_mut().zip(weight) {
                *entry = (*entry - radial * w) * back;
            }
        }
    }
}

/// `a · b` in the element type, in lanes.
#[inline(always)]
fn dot_in_lanes<A: Float>(a: &[A], b: &[A]) -> A {
    const LANES: usize = 32;
    let mut lanes = [A::zero(); LANES];
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for k in 0..LANES {
            lanes[k] = a[k].mul_add(b[k], lanes[k]);
        }
    }
    let sum = reduce(lanes, |a, b| a + b);
    let rest = a_rest.iter().zip(b_rest);
    rest.fold(sum, |sum, (&a, &b)| a.mul_add(b, sum))
}

/// What the backward pass works in.
#[derive(Debug)]
pub(super) struct Buffers<'a, A> {
    /// Room for a tile of features for each lane.
    pub(super) features: &'a mut [A],
    /// A tile of logits for each lane, unless the exponentials were kept.
    pub(super) tiles: &'a mut [A],
}

impl<'a, A: Float> Buffers<'a, A> {
    /// One workspace for each lane.
    fn workspaces(self, batch: &Batch<'_, A>, kept: bool) -> Vec<Workspace<'a, A>> {
        let plan = &batch.plan;
        let mut features = Pieces::over(self.features);
        let mut tiles = Pieces::over(self.tiles);
        (0..plan.lanes())
            .map(|_| {
                let tile = if kept {
                    0
                } else {
                    plan.tile_rows * plan.block_classes
                };
                Workspace {
                    own: Weighted::new(features.take(plan.tile_rows * plan.dim)),
                    tile: tiles.take(tile),
                    shifts: Vec::new(),
                    copy: Vec::new(),
                }
            })
            .collect()
    }
}

/// ∂L/∂W of all classes, to `out`, and ∂L/∂b if `grad_bias` is not empty.
pub(super) fn all<A: Float>(
    batch: &Batch<'_, A>,
    weights: ArrayView2<'_, A>,
    coefficients: &Coefficients<'_, A>,
    buffers: Buffers<'_, A>,
    out: &mut [A],
    grad_bias: &mut [A],
) {
    let plan = &batch.plan;
    let mut out = Pieces::over(out);
    let mut bias = Pieces::over(grad_bias);
    let tasks = buffers
        .workspaces(batch, coefficients.kept.is_some())
        .into_iter()
        .enumerate()
        .map(|(lane, workspace)| {
            let blocks = plan.deal(lane, plan.lanes());
            let classes = plan.classes_of(&blocks).len();
            let grad_bias = bias.take(batch.biases_of(classes));
            (blocks, workspace, out.take(classes * plan.dim), grad_bias)
        })
        .collect();
    parallel::for_each(tasks, |(blocks, mut workspace, out, grad_bias)| {
        let mut out = Pieces::over(out);
        let mut bias = Pieces::over(grad_bias);
        for index in blocks {
            let classes = plan.block(index).len();
            let out = out.take(classes * plan.dim);
            let grad_bias = bias.take(batch.biases_of(classes));
            block(
                batch,
                weights,
                coefficients,
                &mut workspace,
                index,
                out,
                grad_bias,
            );
        }
    });
}

/// ∂L/∂W, as many blocks at a time as there are workspaces, each handed to `update` in the order of the classes with the
/// weights that it is the gradient of.
pub(super) fn stream<A: Float>(
    batch: &Batch<'_, A>,
    mut weights: ArrayViewMut2<'_, A>,
    coefficients: &Coefficients<'_, A>,
    buffers: Buffers<'_, A>,
    gradients: &mut [A],
    grad_bias: &mut [A],
    update: &mut dyn FnMut(ClassBlock<'_, A>),
) {
    let plan = &batch.plan;
    let mut bias = Pieces::over(grad_bias);
    let mut workspaces = buffers.workspaces(batch, coefficients.kept.is_some());
    let in_flight = workspaces.len();
    for first in (0..plan.blocks()).step_by(in_flight) {
        let blocks = first..(first + in_flight).min(plan.blocks());
        let mut free = Pieces::over(&mut *gradients);
        let mut tasks: Vec<_> = Vec::with_capacity(blocks.len());
        for (index, workspace) in blocks.clone().zip(&mut workspaces) {
            let classes = plan.block(index).len();
            let grad_bias = bias.take(batch.biases_of(classes));
            tasks.push((index, workspace, free.take(classes * plan.dim), grad_bias));
        }
        let view = weights.view();
        parallel::for_each(tasks, |(index, workspace, out, grad_bias)| {
            block(batch, view, coefficients, workspace, index, out, grad_bias);
        });
        let mut done = Pieces::over(&mut *gradients);
        for index in blocks {
            let classes = plan.block(index);
            let shape = (classes.len(), plan.dim);
            let gradient = &*done.take(shape.0 * shape.1);
            update(ClassBlock {
                weights: weights.slice_axis_mut(Axis(0), Slice::from(classes.clone())),
                gradient: ArrayView2::from_shape(shape, gradient).expect("the block's length"),
                classes,
            });
        }
    }
}
