//! The same numbers in other places of memory, among cells that hold NaN.

use margin_losses::Float;
use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis, Slice};

use super::{narrow, widen};

/// Where the entries of a matrix lie in a larger buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) name: &'static str,
    /// Whether the columns of the matrix are rows of the buffer.
    transposed: bool,
    /// From one row or column to the next; negative if the last comes first, 0 if every row is the first.
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

/// All layouts that can be written to.
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
    pub(crate) const ROW_MAJOR: Self = LAYOUTS[0];
    /// The first row, seen as every row: the values are not the same, and cannot be written to.
    pub(crate) const BROADCAST: Self = layout("broadcast", [0, 1]);
    /// What a batch at random lies in: row-major about every third time.
    pub(crate) const CHOICES: [Self; 12] = {
        let mut choices = [Self::ROW_MAJOR; 12];
        let mut index = 1;
        while index < LAYOUTS.len() {
            choices[index] = LAYOUTS[index];
            index += 1;
        }
        choices[index] = Self::BROADCAST;
        choices
    };

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

/// An array in a layout.
#[derive(Clone, Debug)]
pub(crate) struct Laid<A> {
    layout: Layout,
    shape: (usize, usize),
    buffer: Array2<A>,
}

impl<A: Float> Laid<A> {
    pub(crate) fn new(values: &Array2<A>, layout: Layout) -> Self {
        let buffer = if layout == Layout::BROADCAST {
            let rows = values.nrows().min(1);
            values
                .slice_axis(Axis(0), Slice::from(..rows))
                .as_standard_layout()
                .to_owned()
        } else {
            layout.buffer(values)
        };
        Self {
            layout,
            shape: values.dim(),
            buffer,
        }
    }

    pub(crate) fn view(&self) -> ArrayView2<'_, A> {
        if self.layout != Layout::BROADCAST {
            self.layout.view(&self.buffer, self.shape)
        } else if self.shape.0 == 0 {
            self.buffer.view()
        } else {
            self.buffer.broadcast(self.shape).expect("one row")
        }
    }

    /// The same, to be written to; rows that are one in memory cannot be.
    pub(crate) fn view_mut(&mut self) -> Option<ArrayViewMut2<'_, A>> {
        (self.layout != Layout::BROADCAST)
            .then(|| self.layout.view_mut(&mut self.buffer, self.shape))
    }

    /// The values, row-major.
    pub(crate) fn values(&self) -> Array2<A> {
        self.view().as_standard_layout().to_owned()
    }
}

/// The number that lies so many numbers of its type above (or below) this one, across zero too; infinity is not passed.
pub(crate) fn step<A: Float>(value: A, ulps: i64) -> A {
    let wide = widen(value);
    // The floats of one sign are counted by their bits.
    if size_of::<A>() == 4 {
        let magnitude = i64::from((wide as f32).abs().to_bits());
        let place = if wide < 0.0 { -magnitude } else { magnitude } + ulps;
        let bits = place.abs().min(i64::from(f32::MAX.to_bits()));
        let stepped = f64::from(f32::from_bits(bits as u32));
        narrow(if place < 0 { -stepped } else { stepped })
    } else {
        let magnitude = wide.abs().to_bits() as i64;
        let place = if wide < 0.0 { -magnitude } else { magnitude } + ulps;
        let bits = place.abs().min(f64::MAX.to_bits() as i64);
        let stepped = f64::from_bits(bits as u64);
        narrow(if place < 0 { -stepped } else { stepped })
    }
}
