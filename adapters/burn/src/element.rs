//! Tensors as arrays, and back.

use burn::tensor::{DType, Device, Tensor, TensorData};

use crate::bridge::{self, Argument, ArrayView2, Float};
use crate::error::Error;

/// The element types that both burn and the losses have: `f32` and `f64`.
pub trait Element: Float + burn::tensor::Element {}

impl Element for f32 {}
impl Element for f64 {}

/// The shape of a matrix of this element type.
pub(crate) fn matrix(
    tensor: &Tensor<2>,
    argument: Argument,
    expected: DType,
) -> Result<[usize; 2], Error> {
    let found = tensor.dtype();
    if found == expected {
        Ok(tensor.dims())
    } else {
        Err(Error::ElementType {
            argument,
            found,
            expected,
        })
    }
}

/// Hands a matrix to `read` as an array.
///
/// burn gives its data away only as a copy, or without one if the tensor is the last that has them.
///
/// # Errors
///
/// [`Error::ElementType`], [`Error::Burn`] if the tensor cannot be read, and those of `read`.
///
/// # Examples
///
/// The step of the centers needs the features:
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use margin_losses_burn::margin_losses::ndarray::array;
/// use margin_losses_burn::margin_losses::{Argument, CenterLoss};
/// use margin_losses_burn::with_array;
///
/// let features = Tensor::<2>::from_data([[1.0, 2.0], [3.0, 4.0]], &Device::flex());
/// let mut centers = array![[0.0_f32, 0.0], [3.0, 4.0]];
/// with_array(&features, Argument::Features, |features| {
///     CenterLoss::update_centers(centers.view_mut(), features, &[0, 1], 0.5)
/// })?;
/// assert_eq!(centers, array![[0.25, 0.5], [3.0, 4.0]]);
/// # Ok::<(), margin_losses_burn::Error>(())
/// ```
pub fn with_array<A: Element, R, E: Into<Error>>(
    tensor: &Tensor<2>,
    argument: Argument,
    read: impl FnOnce(ArrayView2<'_, A>) -> Result<R, E>,
) -> Result<R, Error> {
    let [rows, columns] = matrix(tensor, argument, A::dtype())?;
    let data = tensor.clone().inner().try_into_data().map_err(unreadable)?;
    let entries = data.as_slice::<A>().map_err(unreadable)?;
    let array = bridge::view(entries, [rows, columns], [columns, 1])
        .ok_or_else(|| Error::Burn("a tensor with too few entries".to_owned()))?;
    read(array).map_err(Into::into)
}

pub(crate) fn unreadable(error: impl core::fmt::Debug) -> Error {
    Error::Burn(format!("{error:?}"))
}

/// Numbers as a tensor of their type.
pub(crate) fn tensor<A: Element, const D: usize>(
    entries: &[A],
    shape: [usize; D],
    device: &Device,
) -> Tensor<D> {
    let data = TensorData::new(entries.to_vec(), shape);
    Tensor::from_data(data, (device, A::dtype()))
}
