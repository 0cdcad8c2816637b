//! Which classes are evaluated here: all, those of this rank, or a sample of these.

use core::ops::Range;

use crate::shards::Sample;

/// What joins the rows of W that are here to the columns of the plan.
#[derive(Clone, Debug)]
pub(super) struct Share {
    /// K, the columns of each class.
    pub(super) group: usize,
    /// The classes whose weights are here.
    pub(super) classes: Range<usize>,
    /// The columns that are evaluated here.
    columns: Range<usize>,
    /// Which of these classes are sampled, if not all.
    pub(super) sample: Option<Sample>,
}

impl Share {
    /// All classes.
    pub(super) fn whole(classes: usize, group: usize) -> Self {
        Self::of(0..classes, 0..classes * group, group, None)
    }

    pub(super) fn of(
        classes: Range<usize>,
        columns: Range<usize>,
        group: usize,
        sample: Option<Sample>,
    ) -> Self {
        Self {
            group,
            classes,
            columns,
            sample,
        }
    }

    /// Whether each column is the row of W of the same number, counted from the first.
    pub(super) fn is_whole(&self) -> bool {
        self.sample.is_none()
    }

    /// The row of a column, of the rows that are here.
    pub(super) fn row(&self, column: usize) -> usize {
        let own = column - self.columns.start;
        match &self.sample {
            None => own,
            Some(sample) => sample.classes[own / self.group] * self.group + own % self.group,
        }
    }

    /// The row of a column, of all rows of W.
    pub(super) fn row_of_all(&self, column: usize) -> usize {
        self.classes.start * self.group + self.row(column)
    }

    /// The class of a column.
    pub(super) fn class(&self, column: usize) -> usize {
        self.row_of_all(column) / self.group
    }

    /// The first column of a class; none if it is not evaluated here.
    pub(super) fn column(&self, class: usize) -> Option<usize> {
        if !self.classes.contains(&class) {
            return None;
        }
        let class = class - self.classes.start;
        let own = match &self.sample {
            None => class,
            Some(sample) => sample.classes.binary_search(&class).ok()?,
        };
        Some(self.columns.start + own * self.group)
    }

    /// What the sample adds to the logit of a column.
    pub(super) fn correction(&self, column: usize) -> f64 {
        let own = (column - self.columns.start) / self.group;
        let corrections = self.sample.as_ref().map(|sample| &sample.corrections);
        corrections.map_or(0.0, |corrections| {
            corrections.get(own).copied().unwrap_or(0.0)
        })
    }

    /// Some consecutive columns as consecutive rows of W: the rows that are here, and where among the columns they are.
    pub(super) fn pieces(&self, columns: &Range<usize>) -> Vec<(Range<usize>, Range<usize>)> {
        let mut pieces: Vec<(Range<usize>, Range<usize>)> = Vec::new();
        if self.is_whole() {
            let first = self.columns.start;
            pieces.push((columns.start - first..columns.end - first, 0..columns.len()));
            return pieces;
        }
        for (own, column) in columns.clone().enumerate() {
            let row = self.row(column);
            match pieces.last_mut() {
                Some((rows, owns)) if rows.end == row => (rows.end, owns.end) = (row + 1, own + 1),
                _ => pieces.push((row..row + 1, own..own + 1)),
            }
        }
        pieces
    }
}
