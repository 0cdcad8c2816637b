//! The door for the class weights: how they come into the products, and how their gradient leaves.
//!
//! W is not copied: `1/‖w‖` multiplies the products of its column. Only what the products could not take, rows of extreme
//! norm and views that are not row-major, is copied, one block at a time, and scaled by powers of two on the way in and out.

use core::ops::Range;

use ndarray::{ArrayView2, Axis, Slice};

use crate::error::{Argument, Error};
use crate::numerics::{
    Element, Norm, binary_exponent, contiguous, dot, extremes, powers_of_two, reduce,
    scale_by_power,
};

/// How class weights are brought into the products.
#[derive(Clone, Copy, Debug)]
pub(super) struct Door {
    /// The column of the first row.
    pub(super) first: usize,
    /// Whether the layer normalises them.
    pub(super) normalised: bool,
    /// The longest feature, in the layer that normalises the weights alone; 0 in the others.
    pub(super) longest_feature: f64,
}

/// The class weights that are evaluated here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weights<'a, A> {
    rows: ArrayView2<'a, A>,
    door: Door,
}

/// The longest and the shortest row of some class weights.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lengths {
    pub(super) longest: f64,
    pub(super) shortest: f64,
    pub(super) shortest_row: usize,
}

impl Lengths {
    /// Those of no rows.
    pub(super) const NONE: Self = Self {
        longest: 0.0,
        shortest: f64::INFINITY,
        shortest_row: 0,
    };

    /// Those of these rows and of `other`, which come after them.
    pub(super) fn and(self, other: Self) -> Self {
        let (shortest, shortest_row) = if other.shortest < self.shortest {
            (other.shortest, other.shortest_row)
        } else {
            (self.shortest, self.shortest_row)
        };
        Self {
            longest: self.longest.max(other.longest),
            shortest,
            shortest_row,
        }
    }
}

/// What has been found out about a block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scanned {
    pub(super) lengths: Lengths,
    /// Whether its rows are copied and scaled.
    pub(super) rescaled: bool,
}

/// A block as the products take it: row-major, and far from both ends of the range of the element type.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block<'a, A> {
    pub(super) rows: &'a [A],
    /// The rows times 2^this are the class weights, where the layer does not normalise them.
    pub(super) unit: i32,
}

/// What scanning and copying work in.
#[derive(Clone, Debug, Default)]
pub(super) struct Buffers<A> {
    norms: Vec<f64>,
    row: Vec<A>,
    block: Vec<A>,
}

impl Door {
    pub(super) fn over<A>(self, rows: ArrayView2<'_, A>) -> Weights<'_, A> {
        Weights { rows, door: self }
    }
}

impl<'a, A: Element> Weights<'a, A> {
    /// Whether the layer normalises them.
    pub(super) fn normalised(&self) -> bool {
        self.door.normalised
    }

    pub(super) fn block_rows(&self, columns: &Range<usize>) -> ArrayView2<'a, A> {
        let own = columns.start - self.door.first..columns.end - self.door.first;
        let mut rows = self.rows;
        rows.slice_axis_inplace(Axis(0), Slice::from(own));
        rows
    }

    /// Finds what each product is to be multiplied by, or the first row that cannot be used, and each row's length in
    /// units of the block, if there is room for it.
    #[inline(always)]
    pub(super) fn scan(
        &self,
        columns: &Range<usize>,
        factors: &mut [A],
        lengths: &mut [A],
        buffers: &mut Buffers<A>,
    ) -> Result<Scanned, Error> {
        let rows = self.block_rows(columns);
        let Buffers { norms, row, .. } = buffers;
        norms.clear();
        for weight in rows.outer_iter() {
            let weight = contiguous(weight, row);
            norms.push(dot(weight, weight));
        }
        // Norms in the window are finite and need no rescaling, and their squares lost nothing.
        let window = |power: i32| scale_by_power(1.0, 2 * power);
        let (smallest, largest) = extremes(norms);
        let mut rescaled = false;
        if smallest >= window(-A::NORM_WINDOW)
            && largest < window(A::NORM_WINDOW)
            && largest.sqrt() * self.door.longest_feature <= product_limit::<A>()
        {
            for norm in &mut *norms {
                *norm = norm.sqrt();
            }
        } else {
            rescaled = self.extreme_norms(columns, rows, norms, row)?;
        }
        let (shortest, longest) = extremes(norms);
        let unit = if rescaled { self.unit(longest) } else { 0 };
        for (factor, norm) in factors.iter_mut().zip(&*norms) {
            *factor = A::narrow(match (self.door.normalised, rescaled) {
                (false, _) => scale_by_power(1.0, unit),
                (true, false) => 1.0 / norm,
                // Of the rows as they are used, scaled by powers of two.
                (true, true) => 1.0 / scale_by_power(*norm, -binary_exponent(*norm)),
            });
        }
        for (length, norm) in lengths.iter_mut().zip(&*norms) {
            *length = A::narrow(scale_by_power(*norm, -unit));
        }
        let first = norms.iter().position(|&norm| norm == shortest);
        Ok(Scanned {
            lengths: Lengths {
                longest,
                shortest,
                shortest_row: columns.start + first.unwrap_or(0),
            },
            rescaled,
        })
    }

    /// The norms one by one, for blocks with rows whose norm may be anything; and whether the block has to be rescaled.
    #[cold]
    fn extreme_norms(
        &self,
        columns: &Range<usize>,
        rows: ArrayView2<'_, A>,
        norms: &mut [f64],
        buffer: &mut Vec<A>,
    ) -> Result<bool, Error> {
        let mut rescaled = false;
        for ((column, row), found) in columns.clone().zip(rows.outer_iter()).zip(norms) {
            let norm = Norm::of(contiguous(row, buffer));
            norm.check::<A>(self.door.normalised, Argument::ClassWeights, column)?;
            *found = norm.value();
            rescaled |= if self.door.normalised {
                norm.power().abs() > A::NORM_WINDOW
                    || *found * self.door.longest_feature > product_limit::<A>()
            } else {
                norm.power() > A::LONGEST
            };
        }
        Ok(rescaled)
    }

    /// The k for which all rows of a rescaled block are divided by 2^k, if the layer does not normalise them; 0 if it does.
    fn unit(&self, longest: f64) -> i32 {
        if self.door.normalised {
            0
        } else {
            Norm::of(&[longest.min(f64::MAX)]).power() - A::LONGEST
        }
    }

    /// The rows of a block: the caller's own memory if it can be, a copy if not.
    pub(super) fn block<'b>(
        &self,
        columns: &Range<usize>,
        rescaled: bool,
        buffers: &'b mut Buffers<A>,
    ) -> Block<'b, A>
    where
        'a: 'b,
    {
        let rows = self.block_rows(columns);
        if !rescaled && let Some(rows) = rows.to_slice() {
            return Block { rows, unit: 0 };
        }
        let copy = &mut buffers.block;
        copy.clear();
        copy.extend(rows.iter().copied());
        let mut unit = 0;
        if rescaled {
            let dim = rows.ncols();
            if !self.door.normalised {
                let norms = copy.chunks_exact(dim).map(|row| Norm::of(row).value());
                unit = self.unit(norms.fold(0.0, f64::max));
            }
            for row in copy.chunks_exact_mut(dim) {
                let power = if self.door.normalised {
                    Norm::of(row).power()
                } else {
                    unit
                };
                scale_row(row, -power);
            }
        }
        Block { rows: copy, unit }
    }

    /// Subtracts one class weight, normalised if the layer does that.
    pub(super) fn subtract(&self, column: usize, from: &mut [f64]) {
        let row = self.rows.row(column - self.door.first);
        let (mut buffer, mut wide) = (Vec::new(), Vec::new());
        let row = contiguous(row, &mut buffer);
        let norm = Norm::of(row);
        norm.scale_down(row, &mut wide);
        let factor = if self.door.normalised {
            1.0 / norm.normalised()
        } else {
            scale_by_power(1.0, norm.power())
        };
        for (from, entry) in from.iter_mut().zip(&wide) {
            *from -= factor * entry;
        }
    }

    /// The k for which a row of a rescaled block was divided by 2^k, if the layer normalises it; 0 if it does not.
    pub(super) fn power(&self, column: usize, buffers: &mut Buffers<A>) -> i32 {
        let row = self.rows.row(column - self.door.first);
        if self.door.normalised {
            Norm::of(contiguous(row, &mut buffers.row)).power()
        } else {
            0
        }
    }
}

/// The most that a norm times a norm may be: below the largest number by more than the rounding of a sum.
pub(super) fn product_limit<A: Element>() -> f64 {
    0.999 * A::max_value().widen()
}

/// `row · 2^power`, rounded once.
pub(super) fn scale_row<A: Element>(row: &mut [A], power: i32) {
    let [first, second] = powers_of_two(power);
    for entry in row {
        *entry = A::narrow(entry.widen() * first * second);
    }
}

/// Takes the rows of a block from the product to the gradient, `out ← (I − ŵŵᵀ) out · 2^power`.
#[inline(always)]
pub(super) fn project<A: Element>(
    out: &mut [A],
    weights: &[A],
    factors: &[A],
    dim: usize,
    power: i32,
) {
    // What is no power of two of this type is applied on its own.
    let representable = power.abs() <= A::NORMAL_POWER;
    let back = A::narrow(scale_by_power(1.0, if representable { power } else { 0 }));
    let rows = out.chunks_exact_mut(dim).zip(weights.chunks_exact(dim));
    for ((out, weight), &factor) in rows.zip(factors) {
        let radial = dot_in_lanes(out, weight) * factor * factor;
        for (entry, &w) in out.iter_mut().zip(weight) {
            *entry = (*entry - radial * w) * back;
        }
    }
    if !representable {
        scale_row(out, power);
    }
}

/// `a · b` in the element type, in lanes.
#[inline(always)]
fn dot_in_lanes<A: Element>(a: &[A], b: &[A]) -> A {
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

/// Writes −∞ in the place of all but the largest logit of each group of columns; of equals the first is the largest.
pub(super) fn keep_winners<A: Element>(
    products: &mut [A],
    factors: &[A],
    constants: &[A],
    group: usize,
) {
    let columns = factors
        .chunks_exact(group)
        .zip(constants.chunks_exact(group));
    for (products, (factors, constants)) in products.chunks_exact_mut(group).zip(columns) {
        let logit = |k: usize| products[k].mul_add(factors[k], constants[k]);
        let mut best = 0;
        let mut largest = logit(0);
        for k in 1..group {
            let next = logit(k);
            if next > largest {
                (best, largest) = (k, next);
            }
        }
        for (k, product) in products.iter_mut().enumerate() {
            if k != best {
                *product = A::neg_infinity();
            }
        }
    }
}
