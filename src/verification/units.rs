//! Unit rows in the order of their classes, and the cosines of all pairs of them, tile by tile.

use core::fmt;
use core::ops::Range;

use faer::{MatMut, MatRef};
use ndarray::{Array1, ArrayView2};
use pulp::Arch;

use crate::check;
use crate::counted::Counted;
use crate::error::{Argument, Error};
use crate::numerics::{Element, Norm, contiguous, dot, parallel};
use crate::targets::Labels;

/// The side of a tile of cosines.
const TILE: usize = 256;

/// Embeddings of length 1, those of a class side by side.
#[derive(Clone)]
pub struct Units<A> {
    /// N×d.
    entries: Vec<A>,
    dim: usize,
    /// For each row, where its class begins and ends.
    classes: Vec<[usize; 2]>,
}

impl<A> fmt::Debug for Units<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Units")
            .field("rows", &self.rows())
            .field("dim", &self.dim)
            .finish_non_exhaustive()
    }
}

impl<A> Units<A> {
    pub(crate) fn rows(&self) -> usize {
        self.classes.len()
    }

    /// How many pairs there are of one class, and of different classes.
    pub(super) fn pairs(&self) -> [u64; 2] {
        let rows = self.rows() as u64;
        let all = rows * rows.saturating_sub(1) / 2;
        // Each row with those of its class that come after it.
        let later = self.classes.iter().enumerate();
        let same = later.map(|(row, [_, end])| (end - row - 1) as u64).sum();
        [same, all - same]
    }

    /// The rows that are not ignored.
    pub(crate) fn new(features: ArrayView2<'_, A>, labels: Labels<'_>) -> Result<Self, Error>
    where
        A: Element,
    {
        let (count, dim) = features.dim();
        if dim == 0 {
            return Err(Error::NoDimensions);
        }
        check::row_count(Argument::Labels, count, labels.len())?;
        let mut rows = match Counted::of(labels, count)? {
            None => (0..count).collect(),
            Some(counted) => counted.rows_of(labels),
        };
        let mut buffers = Buffers::default();
        // In the order of the batch, so that the first bad row is named.
        for &row in &rows {
            buffers.norm(features, Argument::Features, row)?;
        }
        rows.sort_by_key(|&row| labels.get(row));
        let mut entries = vec![A::zero(); rows.len() * dim];
        for (&row, unit) in rows.iter().zip(entries.chunks_exact_mut(dim)) {
            for (unit, &entry) in
                unit.iter_mut()
                    .zip(buffers.unit(features, Argument::Features, row)?)
            {
                *unit = A::narrow(entry);
            }
        }
        let mut classes = Vec::with_capacity(rows.len());
        for class in rows.chunk_by(|&a, &b| labels.get(a) == labels.get(b)) {
            let start = classes.len();
            let end = start + class.len();
            classes.resize(end, [start, end]);
        }
        Ok(Self {
            entries,
            dim,
            classes,
        })
    }

    /// Hands each pair's cosine to `take` once, with 0 if the pair is of one class and with 1 if it is not. There are as many
    /// results as threads, and which pairs a result has seen is chance.
    pub(super) fn each_pair<S: Send>(
        &self,
        new: impl Fn() -> S,
        take: impl Fn(&mut S, usize, &[A]) + Sync,
    ) -> Vec<S>
    where
        A: Element,
    {
        let mut lanes = self.lanes(new);
        let tiles = self.tiles();
        let tasks = (0..tiles).flat_map(|tile| (tile..tiles).map(move |other| (tile, other)));
        parallel::on_pool(lanes.len(), || {
            parallel::deal(&mut lanes, tasks, |(tile, state), (rows, columns)| {
                let (rows, columns) = (self.tile(rows), self.tile(columns));
                self.cosines(&rows, &columns, tile);
                for (row, cosines) in rows.zip(tile.chunks_exact(columns.len())) {
                    // Later rows alone; the first of them are of the same class.
                    let [_, end] = self.classes[row];
                    let [first, end] = [row + 1, end].map(|place| within(&columns, place));
                    take(state, 0, &cosines[first..end]);
                    take(state, 1, &cosines[end..]);
                }
            });
        });
        lanes.into_iter().map(|(_, state)| state).collect()
    }

    /// For each row that is not alone in its class, how many rows of other classes are at least as near as the nearest of its
    /// own.
    pub(super) fn intruders(&self) -> Vec<usize>
    where
        A: Element,
    {
        let mut found = vec![None; self.rows()];
        let mut lanes = self.lanes(|| ());
        let tasks = found.chunks_mut(self.tile_rows()).enumerate();
        parallel::on_pool(lanes.len(), || {
            parallel::deal(&mut lanes, tasks, |(tile, ()), (place, found)| {
                self.intruders_of(place, tile, found);
            });
        });
        found.into_iter().flatten().collect()
    }

    /// The same for the rows of a tile; nothing for those that are alone.
    fn intruders_of(&self, place: usize, tile: &mut Vec<A>, found: &mut [Option<usize>])
    where
        A: Element,
    {
        let rows = self.tile(place);
        let classes = &self.classes[rows.clone()];
        let step = self.tile_rows();
        let own = classes[0][0] / step..classes[rows.len() - 1][1].div_ceil(step);
        let mut nearest = vec![0; rows.len()];
        for columns in own.map(|place| self.tile(place)) {
            self.cosines(&rows, &columns, tile);
            let cosines = tile.chunks_exact(columns.len());
            for ((row, nearest), cosines) in rows.clone().zip(&mut nearest).zip(cosines) {
                let [start, end] = self.classes[row].map(|place| within(&columns, place));
                let own = (start..end).filter(|column| columns.start + column != row);
                let keys = own.map(|column| key(cosines[column]));
                *nearest = keys.fold(*nearest, u64::max);
            }
        }
        for (found, [start, end]) in found.iter_mut().zip(classes) {
            *found = (end - start > 1).then_some(0);
        }
        for columns in (0..self.tiles()).map(|place| self.tile(place)) {
            self.cosines(&rows, &columns, tile);
            let cosines = tile.chunks_exact(columns.len());
            let rows = classes.iter().zip(&nearest).zip(&mut *found);
            for (((class, &nearest), found), cosines) in rows.zip(cosines) {
                let [start, end] = class.map(|place| within(&columns, place));
                let others = [&cosines[..start], &cosines[end..]];
                let near =
                    others.map(|others| others.iter().filter(|c| key(**c) >= nearest).count());
                if let Some(found) = found {
                    *found += near[0] + near[1];
                }
            }
        }
    }

    /// The memory of each thread: a tile, and what `new` makes.
    fn lanes<S>(&self, new: impl Fn() -> S) -> Vec<(Vec<A>, S)> {
        let threads = parallel::threads_for(self.rows(), self.rows(), self.dim);
        (0..threads).map(|_| (Vec::new(), new())).collect()
    }

    /// The rows of every tile but the last, which is no single row: a product by one column sums in another order, and equal
    /// rows would not have equal cosines.
    fn tile_rows(&self) -> usize {
        let rows = self.rows();
        let alone = |&tile: &usize| rows % tile == 1;
        (2..=TILE).rev().find(|tile| !alone(tile)).unwrap_or(TILE)
    }

    fn tiles(&self) -> usize {
        self.rows().div_ceil(self.tile_rows())
    }

    fn tile(&self, place: usize) -> Range<usize> {
        let tile = self.tile_rows();
        place * tile..((place + 1) * tile).min(self.rows())
    }

    /// The cosines of some rows to others, row by row.
    fn cosines(&self, rows: &Range<usize>, columns: &Range<usize>, out: &mut Vec<A>)
    where
        A: Element,
    {
        let (height, width, dim) = (rows.len(), columns.len(), self.dim);
        out.resize(height * width, A::zero());
        let entries = |rows: &Range<usize>| &self.entries[rows.start * dim..rows.end * dim];
        A::product(
            MatMut::from_row_major_slice_mut(out, height, width),
            false,
            MatRef::from_row_major_slice(entries(rows), height, dim),
            MatRef::from_row_major_slice(entries(columns), width, dim).transpose(),
        );
    }
}

/// The place of a row in the part of a tile's columns, at its nearer end if it lies outside.
fn within(columns: &Range<usize>, row: usize) -> usize {
    row.clamp(columns.start, columns.end) - columns.start
}

/// A cosine as an integer of the same order: how many steps above −1 it is. A step is 2⁻³⁰ in `f32` and 2⁻⁵¹ in `f64`, less than
/// or about the error of a product.
#[inline(always)]
pub(super) fn key<A: Element>(cosine: A) -> u64 {
    let cosine = cosine.widen().clamp(-1.0, 1.0);
    (cosine + A::COSINE_ROUNDER).to_bits() - (A::COSINE_ROUNDER - 1.0).to_bits()
}

/// The cosine of a [`key`].
pub(super) fn cosine<A: Element>(key: u64) -> f64 {
    f64::from_bits(key + (A::COSINE_ROUNDER - 1.0).to_bits()) - A::COSINE_ROUNDER
}

/// The cosine of each row of `a` to the same row of `b`.
pub(crate) fn pair_scores<A: Element>(
    a: ArrayView2<'_, A>,
    b: ArrayView2<'_, A>,
) -> Result<Array1<A>, Error> {
    let (count, dim) = a.dim();
    check::row_count(Argument::OtherFeatures, count, b.nrows())?;
    if dim == 0 {
        return Err(Error::NoDimensions);
    }
    if b.ncols() != dim {
        return Err(Error::Dimension {
            argument: Argument::OtherFeatures,
            expected: dim,
            found: b.ncols(),
        });
    }
    let [mut one, mut other] = [Buffers::default(), Buffers::default()];
    for row in 0..count {
        one.norm(a, Argument::Features, row)?;
    }
    let score = |row| {
        let one = one.unit(a, Argument::Features, row)?;
        let other = other.unit(b, Argument::OtherFeatures, row)?;
        let cosine = Arch::new().dispatch(
            #[inline(always)]
            || dot(one, other),
        );
        Ok(A::narrow(cosine.clamp(-1.0, 1.0)))
    };
    (0..count).map(score).collect()
}

/// What one row needs on its way to length 1.
#[derive(Default)]
struct Buffers<A> {
    row: Vec<A>,
    unit: Vec<f64>,
}

impl<A: Element> Buffers<A> {
    /// The norm of a row; the error that names it, if it has no direction.
    fn norm(
        &mut self,
        rows: ArrayView2<'_, A>,
        argument: Argument,
        row: usize,
    ) -> Result<Norm, Error> {
        let entries = contiguous(rows.row(row), &mut self.row);
        let norm = Arch::new().dispatch(
            #[inline(always)]
            || Norm::of(entries),
        );
        if !norm.is_finite() {
            Err(Error::NonFinite { argument, row })
        } else if norm.is_zero() {
            Err(Error::ZeroNorm { argument, row })
        } else {
            Ok(norm)
        }
    }

    /// The row divided by its norm.
    fn unit(
        &mut self,
        rows: ArrayView2<'_, A>,
        argument: Argument,
        row: usize,
    ) -> Result<&[f64], Error> {
        let norm = self.norm(rows, argument, row)?;
        let entries = contiguous(rows.row(row), &mut self.row);
        let unit = &mut self.unit;
        Arch::new().dispatch(
            #[inline(always)]
            || norm.scale_down(entries, unit),
        );
        let length = norm.normalised();
        for entry in &mut *unit {
            *entry /= length;
        }
        Ok(unit)
    }
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;

    use super::*;

    /// With threads and, where this is compiled without, with none.
    #[test]
    fn every_pair_is_seen_once() {
        // Along the axes: every cosine is 0 or 1.
        let labels: Vec<usize> = (0..600).map(|row| row * row % 7).collect();
        let axis = |row| row * 5 % 13 % 6;
        let features = Array2::from_shape_fn((600, 6), |(row, k)| f64::from(axis(row) == k));
        let units = Units::new(features.view(), Labels::from(&labels)).expect("good");
        let lanes = units.each_pair(
            || [[0_u64; 2]; 2],
            |counts, kind, cosines| {
                for &cosine in cosines {
                    counts[kind][usize::from(cosine == 1.0)] += 1;
                }
            },
        );
        let mut expected = [[0; 2]; 2];
        for row in 0..600 {
            for other in 0..row {
                let kind = usize::from(labels[row] != labels[other]);
                expected[kind][usize::from(axis(row) == axis(other))] += 1;
            }
        }
        let sum = |kind: usize, equal: usize| -> u64 {
            lanes.iter().map(|counts| counts[kind][equal]).sum()
        };
        assert_eq!(
            [0, 1].map(|kind| [0, 1].map(|equal| sum(kind, equal))),
            expected
        );
        assert_eq!(units.pairs(), expected.map(|[apart, equal]| apart + equal));
    }
}
