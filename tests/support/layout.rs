//! Arrays as a caller may hold them: any strides, over buffers whose other cells are NaN.

use margin_losses::Float;
use ndarray::{Array2, ArrayView2, ArrayViewMut2, s};

use super::{narrow, widen};

/// How the rows and columns of an array lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    RowMajor,
    ColumnMajor,
    /// Every second row, every third column.
    Stepped,
    ReversedRows,
    ReversedColumns,
    /// A rectangle within a larger array.
    Offset,
    /// The first row, seen as every row. The values are not the same, so [`Laid::values`] has to be asked for them.
    Broadcast,
}

impl Layout {
    pub(crate) const ALL: [Self; 9] = [
        Self::RowMajor,
        Self::RowMajor,
        Self::RowMajor,
        Self::ColumnMajor,
        Self::Stepped,
        Self::ReversedRows,
        Self::ReversedColumns,
        Self::Offset,
        Self::Broadcast,
    ];
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
        let (rows, columns) = values.dim();
        let poison = |rows, columns| Array2::from_elem((rows, columns), A::nan());
        let buffer = match layout {
            Layout::RowMajor => values.clone(),
            Layout::ColumnMajor => values.t().as_standard_layout().to_owned(),
            Layout::Stepped => {
                let mut buffer = poison(2 * rows, 3 * columns);
                buffer.slice_mut(s![..;2, ..;3]).assign(values);
                buffer
            }
            Layout::ReversedRows => values.slice(s![..;-1, ..]).as_standard_layout().to_owned(),
            Layout::ReversedColumns => values.slice(s![.., ..;-1]).as_standard_layout().to_owned(),
            Layout::Offset => {
                let mut buffer = poison(rows + 3, columns + 5);
                let inner = s![2..rows + 2, 4..columns + 4];
                buffer.slice_mut(inner).assign(values);
                buffer
            }
            Layout::Broadcast => values.slice(s![..rows.min(1), ..]).to_owned(),
        };
        Self {
            layout,
            shape: (rows, columns),
            buffer,
        }
    }

    pub(crate) fn view(&self) -> ArrayView2<'_, A> {
        let (rows, columns) = self.shape;
        match self.layout {
            Layout::RowMajor => self.buffer.view(),
            Layout::ColumnMajor => self.buffer.t(),
            Layout::Stepped => self.buffer.slice(s![..;2, ..;3]),
            Layout::ReversedRows => self.buffer.slice(s![..;-1, ..]),
            Layout::ReversedColumns => self.buffer.slice(s![.., ..;-1]),
            Layout::Offset => self.buffer.slice(s![2..rows + 2, 4..columns + 4]),
            Layout::Broadcast if rows == 0 => self.buffer.view(),
            Layout::Broadcast => self.buffer.broadcast(self.shape).expect("one row"),
        }
    }

    /// The same, to be written to; rows that are one in memory cannot be.
    pub(crate) fn view_mut(&mut self) -> Option<ArrayViewMut2<'_, A>> {
        let (rows, columns) = self.shape;
        Some(match self.layout {
            Layout::RowMajor => self.buffer.view_mut(),
            Layout::ColumnMajor => self.buffer.view_mut().reversed_axes(),
            Layout::Stepped => self.buffer.slice_mut(s![..;2, ..;3]),
            Layout::ReversedRows => self.buffer.slice_mut(s![..;-1, ..]),
            Layout::ReversedColumns => self.buffer.slice_mut(s![.., ..;-1]),
            Layout::Offset => self.buffer.slice_mut(s![2..rows + 2, 4..columns + 4]),
            Layout::Broadcast => return None,
        })
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
