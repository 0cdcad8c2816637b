//! The door for the class weights: how they come into the products, and how their gradient leaves.
//!
//! W is not copied: `1/‖w‖` multiplies the products of its column. Only what the products could not take, rows of extreme
//! norm and views that are not row-major, is copied, one block at a time, and scaled by powers of two on the way in and out.

use core::ops::Range;

use ndarray::{ArrayView1, ArrayView2, Axis, Slice};

use crate::error::{Argument, Error};
use crate::numerics::{
    Element, Norm, binary_exponent, contiguous, dot, extremes, larger, powers_of_two, reduce,
    scale_by_power, vectorized,
};

use super::Head;
use super::share::Share;

/// The class weights that are evaluated here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weights<'a, A> {
    pub(super) rows: ArrayView2<'a, A>,
    /// Which of them the columns are.
    pub(super) share: &'a Share,
    /// Whether the layer normalises them.
    pub(super) normalised: bool,
    /// The longest feature, in the layer that normalises the weights alone; 0 in the others.
    pub(super) longest_feature: f64,
}

/// What has been found out about the rows of a block, or of many.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scanned {
    pub(super) longest: f64,
    pub(super) shortest: f64,
    /// Whether rows are copied and scaled.
    pub(super) rescaled: bool,
}

impl Scanned {
    /// Of no rows.
    pub(super) const NONE: Self = Self {
        longest: 0.0,
        shortest: f64::INFINITY,
        rescaled: false,
    };

    /// Of these rows and others.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            longest: self.longest.max(other.longest),
            shortest: self.shortest.min(other.shortest),
            rescaled: self.rescaled || other.rescaled,
        }
    }
}

/// A block of columns, as the products take it.
#[derive(Clone, Debug)]
pub(super) struct Block<'a, A> {
    pub(super) columns: Range<usize>,
    /// Row-major, and far from both ends of the range of the element type.
    pub(super) rows: &'a [A],
    /// Whether they are copies, scaled by powers of two.
    pub(super) scaled: bool,
    /// The rows times 2^this are the class weights, where the layer does not normalise them.
    pub(super) unit: i32,
    /// What turns the products of each column into logits: 1/‖w‖, or a power of two.
    pub(super) factors: &'a [A],
    /// What is added to them.
    pub(super) constants: &'a [A],
    /// The lengths of the weights, in units of the block; empty if the layer normalises them.
    pub(super) lengths: &'a [A],
}

/// What a block is scanned, and copied, into.
#[derive(Clone, Debug, Default)]
pub(super) struct Buffers<A> {
    norms: Vec<f64>,
    row: Vec<A>,
    block: Vec<A>,
    constants: Vec<A>,
    lengths: Vec<A>,
}

impl<A: Element> Buffers<A> {
    /// Writes the constants of some columns, and makes room for the lengths of their weights, if those are not normalised.
    pub(super) fn set_columns(&mut self, head: &Head<'_>, share: &Share, columns: &Range<usize>) {
        self.constants.clear();
        if head.constants.is_none() && share.is_whole() {
            self.constants.resize(columns.len(), A::zero());
        } else {
            let constant = |column| head.constant(share.class(column)) + share.correction(column);
            let constants = columns.clone().map(|column| A::narrow(constant(column)));
            self.constants.extend(constants);
        }
        let normalised = head.normalises_weights();
        let lengths = if normalised { 0 } else { columns.len() };
        self.lengths.resize(lengths, A::zero());
    }
}

impl<'a, A: Element> Weights<'a, A> {
    /// The rows of some columns, where those are consecutive rows.
    fn of(&self, columns: &Range<usize>) -> ArrayView2<'a, A> {
        let start = self.share.row(columns.start);
        let own = start..start + columns.len();
        let mut rows = self.rows;
        rows.slice_axis_inplace(Axis(0), Slice::from(own));
        rows
    }

    /// The row of a column.
    pub(super) fn row(&self, column: usize) -> ArrayView1<'a, A> {
        self.rows.index_axis_move(Axis(0), self.share.row(column))
    }

    /// Shows the rows of some columns one by one.
    #[inline(always)]
    fn each(&self, columns: &Range<usize>, mut show: impl FnMut(ArrayView1<'_, A>)) {
        if self.share.is_whole() {
            for row in self.of(columns).outer_iter() {
                show(row);
            }
        } else {
            for column in columns.clone() {
                show(self.row(column));
            }
        }
    }

    /// Finds what each product is to be multiplied by, or the first row that cannot be used, and each row's length in
    /// units of the block, if there is room for it.
    #[inline(always)]
    fn scan(
        &self,
        columns: &Range<usize>,
        factors: &mut [A],
        buffers: &mut Buffers<A>,
    ) -> Result<Scanned, Error> {
        let Buffers {
            norms,
            row,
            lengths,
            ..
        } = buffers;
        norms.clear();
        self.each(
            columns,
            #[inline(always)]
            |weight| {
                let weight = contiguous(weight, row);
                norms.push(dot(weight, weight));
            },
        );
        // Norms in the window are finite and need no rescaling, and their squares lost nothing.
        let window = |power: i32| scale_by_power(1.0, 2 * power);
        let (smallest, largest) = extremes(norms);
        let mut rescaled = false;
        if smallest >= window(-A::NORM_WINDOW)
            && largest < window(A::NORM_WINDOW)
            && largest.sqrt() * self.longest_feature <= product_limit::<A>()
        {
            for norm in &mut *norms {
                *norm = norm.sqrt();
            }
        } else {
            rescaled = self.extreme_norms(columns, norms, row)?;
        }
        let (shortest, longest) = extremes(norms);
        let unit = if rescaled { self.unit(longest) } else { 0 };
        for (factor, norm) in factors.iter_mut().zip(&*norms) {
            *factor = A::narrow(match (self.normalised, rescaled) {
                (false, _) => scale_by_power(1.0, unit),
                (true, false) => 1.0 / norm,
                // Of the rows as they are used, scaled by powers of two.
                (true, true) => 1.0 / scale_by_power(*norm, -binary_exponent(*norm)),
            });
        }
        for (length, norm) in lengths.iter_mut().zip(&*norms) {
            *length = A::narrow(scale_by_power(*norm, -unit));
        }
        Ok(Scanned {
            longest,
            shortest,
            rescaled,
        })
    }

    /// A block, once everything has been found out about it that its products need.
    pub(super) fn scanned<'b>(
        &self,
        head: &Head<'_>,
        columns: Range<usize>,
        factors: &'b mut [A],
        buffers: &'b mut Buffers<A>,
    ) -> Result<(Scanned, Block<'b, A>), Error>
    where
        'a: 'b,
    {
        buffers.set_columns(head, self.share, &columns);
        let scanned = vectorized(
            #[inline(always)]
            || self.scan(&columns, factors, buffers),
        )?;
        let block = self.block(columns, factors, scanned.rescaled, buffers);
        Ok((scanned, block))
    }

    /// The norms one by one, for blocks with rows whose norm may be anything; and whether the block has to be rescaled.
    #[cold]
    fn extreme_norms(
        &self,
        columns: &Range<usize>,
        norms: &mut [f64],
        buffer: &mut Vec<A>,
    ) -> Result<bool, Error> {
        let mut rescaled = false;
        for (column, found) in columns.clone().zip(norms) {
            let norm = Norm::of(contiguous(self.row(column), buffer));
            let row = self.share.row_of_all(column);
            norm.check::<A>(self.normalised, Argument::ClassWeights, row)?;
            *found = norm.value();
            rescaled |= if self.normalised {
                norm.power().abs() > A::NORM_WINDOW
                    || *found * self.longest_feature > product_limit::<A>()
            } else {
                norm.power() > A::LONGEST
            };
        }
        Ok(rescaled)
    }

    /// The k for which all rows of a rescaled block are divided by 2^k, if the layer does not normalise them; 0 if it does.
    fn unit(&self, longest: f64) -> i32 {
        if self.normalised {
            0
        } else {
            Norm::of(&[longest.min(f64::MAX)]).power() - A::LONGEST
        }
    }

    /// A block whose columns have been set: in the caller's own memory if it can be, a copy if not.
    pub(super) fn block<'b>(
        &self,
        columns: Range<usize>,
        factors: &'b [A],
        rescaled: bool,
        buffers: &'b mut Buffers<A>,
    ) -> Block<'b, A>
    where
        'a: 'b,
    {
        let in_place = (self.share.is_whole() && !rescaled).then(|| self.of(&columns).to_slice());
        let (rows, unit) = if let Some(rows) = in_place.flatten() {
            (rows, 0)
        } else {
            let unit = self.copy(&columns, rescaled, &mut buffers.block);
            (&buffers.block[..], unit)
        };
        Block {
            columns,
            rows,
            scaled: rescaled,
            unit,
            factors,
            constants: &buffers.constants,
            lengths: &buffers.lengths,
        }
    }

    /// Copies rows, far from both ends of the range if they are rescaled, and returns their unit.
    fn copy(&self, columns: &Range<usize>, rescaled: bool, copy: &mut Vec<A>) -> i32 {
        copy.clear();
        self.each(columns, |row| match row.to_slice() {
            Some(row) => copy.extend_from_slice(row),
            None => copy.extend(row),
        });
        let mut unit = 0;
        if rescaled {
            let dim = self.rows.ncols();
            if !self.normalised {
                let norms = copy.chunks_exact(dim).map(|row| Norm::of(row).value());
                unit = self.unit(norms.fold(0.0, f64::max));
            }
            for row in copy.chunks_exact_mut(dim) {
                let power = if self.normalised {
                    Norm::of(row).power()
                } else {
                    unit
                };
                scale_row(row, -power);
            }
        }
        unit
    }

    /// Subtracts one class weight, normalised if the layer does that.
    pub(super) fn subtract(&self, column: usize, from: &mut [f64]) {
        let row = self.row(column);
        let (mut buffer, mut wide) = (Vec::new(), Vec::new());
        let row = contiguous(row, &mut buffer);
        let norm = Norm::of(row);
        norm.scale_down(row, &mut wide);
        let factor = if self.normalised {
            1.0 / norm.normalised()
        } else {
            scale_by_power(1.0, norm.power())
        };
        for (from, entry) in from.iter_mut().zip(&wide) {
            *from -= factor * entry;
        }
    }

    /// The k for which a row of a rescaled block was divided by 2^k, if the layer normalises it; 0 if it does not.
    pub(super) fn power(&self, column: usize) -> i32 {
        let row = self.row(column);
        if self.normalised {
            Norm::of(contiguous(row, &mut Vec::new())).power()
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

/// Takes the gradient of a block through the normalisation, `out ← (I − ŵŵᵀ) out · 2^power`.
#[inline(always)]
pub(super) fn project<A: Element>(out: &mut [A], block: &Block<'_, A>, power: i32) {
    // What is no power of two of this type is applied on its own.
    let representable = power.abs() <= A::NORMAL_POWER;
    let back = A::narrow(scale_by_power(1.0, if representable { power } else { 0 }));
    let dim = out.len() / block.columns.len();
    let rows = out.chunks_exact_mut(dim).zip(block.rows.chunks_exact(dim));
    for ((out, weight), &factor) in rows.zip(block.factors) {
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
#[inline(always)]
pub(super) fn keep_winners<A: Element>(products: &mut [A], block: &Block<'_, A>, group: usize) {
    // Groups of a known size are compared without a loop.
    match group {
        2 => keep_winners_of(2, products, block),
        3 => keep_winners_of(3, products, block),
        4 => keep_winners_of(4, products, block),
        _ => keep_winners_of(group, products, block),
    }
}

#[inline(always)]
fn keep_winners_of<A: Element>(group: usize, products: &mut [A], block: &Block<'_, A>) {
    // Without the constant, which they have in common, and which could make equals of them.
    let columns = block.factors.chunks_exact(group);
    for (products, factors) in products.chunks_exact_mut(group).zip(columns) {
        let mut largest = products[0] * factors[0];
        for k in 1..group {
            largest = larger(largest, products[k] * factors[k]);
        }
        let mut open = true;
        for k in 0..group {
            let wins = open && products[k] * factors[k] == largest;
            open = open && !wins;
            products[k] = if wins { products[k] } else { A::neg_infinity() };
        }
    }
}
