//! The same numbers in other places of memory, among cells that hold NaN.

use margin_losses::Float;
use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis, Slice};

/// Where the entries of a matrix lie in a larger buffer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub(crate) name: &'static str,
    /// Whether the columns of the matrix are rows of the buffer.
    transposed: bool,
    /// From one row or column to the next; negative if the last comes first.
    steps: [isize; 2],
    /// Cells before the first and after the last row or column.
    before: usize,
    after: usize,
}

const fn layout(name: &'static str, steps: [isize; 2]) -> Layout {
    Layout {
        name,
        transposed: false,
        steps,
        before: 0,
        after: 0,
    }
}

/// All layouts that can be written to; broadcast rows, which cannot, are a test of their own.
pub(crate) const LAYOUTS: [Layout; 8] = [
    layout("C order", [1, 1]),
    Layout {
        transposed: true,
        ..layout("Fortran order", [1, 1])
    },
    layout("steps", [2, 3]),
    layout("reversed rows", [-1, 1]),
    layout("reversed columns", [1, -1]),
    layout("both reversed, with steps", [-2, -2]),
    Layout {
        before: 2,
        after: 3,
        ..layout("offset slice", [1, 1])
    },
    Layout {
        transposed: true,
        before: 1,
        after: 4,
        ..layout("transposed slice", [2, 1])
    },
];

impl Layout {
    /// The slice of the buffer's axis that holds `len` rows or columns.
    fn slice(&self, axis: usize, len: usize) -> Slice {
        let start = self.before as isize;
        let end = start + len as isize * self.steps[axis].abs();
        Slice::new(start, Some(end), self.steps[axis])
    }

    /// Lengths of the matrix's axes in the order of the buffer's.
    fn lengths(&self, (rows, columns): (usize, usize)) -> [usize; 2] {
        if self.transposed {
            [columns, rows]
        } else {
            [rows, columns]
        }
    }

    /// A buffer that shows these values, and NaN everywhere else.
    pub(crate) fn buffer<A: Float>(&self, values: &Array2<A>) -> Array2<A> {
        let shape = self.lengths(values.dim());
        let cells =
            |axis: usize| self.before + shape[axis] * self.steps[axis].unsigned_abs() + self.after;
        let mut buffer = Array2::from_elem((cells(0), cells(1)), A::nan());
        self.view_mut(&mut buffer, values.dim()).assign(values);
        buffer
    }

    /// The matrix of this shape in a buffer.
    pub(crate) fn view<'b, A>(
        &self,
        buffer: &'b Array2<A>,
        shape: (usize, usize),
    ) -> ArrayView2<'b, A> {
        let mut view = buffer.view();
        for (axis, length) in self.lengths(shape).into_iter().enumerate() {
            view.slice_axis_inplace(Axis(axis), self.slice(axis, length));
        }
        if self.transposed {
            view.reversed_axes()
        } else {
            view
        }
    }

    /// The same, to be written to.
    pub(crate) fn view_mut<'b, A>(
        &self,
        buffer: &'b mut Array2<A>,
        shape: (usize, usize),
    ) -> ArrayViewMut2<'b, A> {
        let mut view = buffer.view_mut();
        for (axis, length) in self.lengths(shape).into_iter().enumerate() {
            view.slice_axis_inplace(Axis(axis), self.slice(axis, length));
        }
        if self.transposed {
            view.reversed_axes()
        } else {
            view
        }
    }
}
