//! Every way in which a call can fail.

use core::fmt;

use burn::tensor::DType;

use crate::bridge::{Argument, LossError};

/// What the loss refuses, what burn refuses, and tensors that no route takes.
///
/// # Examples
///
/// ```
/// use burn::tensor::{DType, Device, Tensor};
/// use margin_losses_burn::HostLoss;
/// use margin_losses_burn::margin_losses::{ArcFace, Evaluation, Targets};
///
/// let device = Device::flex().autodiff();
/// let half = Tensor::<2>::ones([2, 4], (&device, DType::F16));
/// let weights = Tensor::<2>::ones([3, 4], &device);
/// let (loss, mut memory) = (ArcFace::default(), Evaluation::<f32>::new());
/// let error = HostLoss::new(&loss, &mut memory).evaluate(&half, &weights, &Targets::new(&[0, 1])).unwrap_err();
/// assert_eq!(error.to_string(), "features are F16, but F32 is expected: convert them with cast");
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The loss refuses its arguments.
    Loss(LossError),
    /// burn cannot read a tensor, or a file.
    Burn(String),
    /// A tensor has another element type than the call.
    ElementType {
        /// Which.
        argument: Argument,
        /// What its elements are.
        found: DType,
        /// What they must be.
        expected: DType,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loss(error) => error.fmt(f),
            Self::Burn(what) => f.write_str(what),
            Self::ElementType {
                argument,
                found,
                expected,
            } => write!(
                f,
                "{argument} are {found:?}, but {expected:?} is expected: convert them with cast"
            ),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Loss(error) => Some(error),
            _ => None,
        }
    }
}

impl From<LossError> for Error {
    fn from(error: LossError) -> Self {
        Self::Loss(error)
    }
}
