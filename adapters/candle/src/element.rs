//! Tensors as arrays, and back.

use candle_core::{Device, Storage, Tensor, WithDType};

use crate::bridge::{self, Argument, ArrayView2, Float};
use crate::error::Error;

/// The element types that both candle and the losses have: `f32` and `f64`.
pub trait Element: Float + WithDType {}

impl Element for f32 {}
impl Element for f64 {}

/// The shape of a matrix of this element type.
pub(crate) fn matrix(
    tensor: &Tensor,
    argument: Argument,
    expected: candle_core::DType,
) -> Result<[usize; 2], Error> {
    let &[rows, columns] = tensor.dims() else {
        let found = tensor.rank();
        return Err(Error::Rank { argument, found });
    };
    let found = tensor.dtype();
    if found == expected {
        Ok([rows, columns])
    } else {
        Err(Error::ElementType {
            argument,
            found,
            expected,
        })
    }
}

/// Hands a matrix to `read` as an array. A tensor on the CPU is not copied, whatever its strides.
///
/// # Errors
///
/// [`Error::Rank`], [`Error::ElementType`], and those of candle and of `read`.
///
/// # Examples
///
/// The step of the centers needs the features:
///
/// ```
/// use candle_core::{Device, Tensor};
/// use margin_losses_candle::margin_losses::ndarray::array;
/// use margin_losses_candle::margin_losses::{Argument, CenterLoss};
/// use margin_losses_candle::with_array;
///
/// let features = Tensor::new(&[[1.0_f32, 2.0], [3.0, 4.0]], &Device::Cpu)?;
/// let mut centers = array![[0.0_f32, 0.0], [3.0, 4.0]];
/// with_array(&features, Argument::Features, |features| {
///     CenterLoss::update_centers(centers.view_mut(), features, &[0, 1], 0.5)
/// })?;
/// assert_eq!(centers, array![[0.25, 0.5], [3.0, 4.0]]);
/// # Ok::<(), margin_losses_candle::Error>(())
/// ```
pub fn with_array<A: Element, R, E: Into<Error>>(
    tensor: &Tensor,
    argument: Argument,
    read: impl FnOnce(ArrayView2<'_, A>) -> Result<R, E>,
) -> Result<R, Error> {
    let [rows, columns] = matrix(tensor, argument, A::DTYPE)?;
    if !tensor.device().is_cpu() {
        return with_array(&tensor.to_device(&Device::Cpu)?, argument, read);
    }
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else {
        let what = "a tensor on the CPU without its storage there";
        return Err(candle_core::Error::Msg(what.to_owned()).into());
    };
    let entries = &A::cpu_storage_as_slice(storage)?[layout.start_offset()..];
    let &[by_row, by_column] = layout.stride() else {
        let found = layout.stride().len();
        return Err(Error::Rank { argument, found });
    };
    let array = bridge::view(entries, [rows, columns], [by_row, by_column])
        .ok_or_else(|| candle_core::Error::Msg("a storage too short for its layout".to_owned()))?;
    read(array).map_err(Into::into)
}

/// A matrix as a tensor on `device`, row by row.
pub(crate) fn tensor<A: Element>(
    entries: &[A],
    shape: [usize; 2],
    device: &Device,
) -> Result<Tensor, Error> {
    Ok(Tensor::from_slice(entries, (shape[0], shape[1]), device)?)
}
