//! Every way in which a call can fail.

use core::fmt;

use candle_core::DType;

use crate::bridge::{Argument, LossError};

/// What the loss refuses, what candle refuses, and tensors that no route takes.
///
/// # Examples
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use margin_losses_candle::HostLoss;
/// use margin_losses_candle::margin_losses::{ArcFace, Evaluation, Targets};
///
/// let half = Tensor::ones((2, 4), DType::F16, &Device::Cpu)?;
/// let weights = Tensor::ones((3, 4), DType::F32, &Device::Cpu)?;
/// let (loss, mut memory) = (ArcFace::default(), Evaluation::<f32>::new());
/// let error = HostLoss::new(&loss, &mut memory).evaluate(&half, &weights, &Targets::new(&[0, 1])).unwrap_err();
/// assert_eq!(error.to_string(), "features are F16, but F32 is expected: convert them with to_dtype");
/// # Ok::<(), margin_losses_candle::Error>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The loss refuses its arguments.
    Loss(LossError),
    /// candle fails.
    Candle(candle_core::Error),
    /// A tensor has another element type than the call.
    ElementType {
        /// Which.
        argument: Argument,
        /// What its elements are.
        found: DType,
        /// What they must be.
        expected: DType,
    },
    /// A tensor is no matrix.
    Rank {
        /// Which.
        argument: Argument,
        /// How many dimensions it has.
        found: usize,
    },
    /// A file that does not hold what is asked of it.
    Checkpoint(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loss(error) => error.fmt(f),
            Self::Candle(error) => error.fmt(f),
            Self::ElementType {
                argument,
                found,
                expected,
            } => write!(
                f,
                "{argument} are {found:?}, but {expected:?} is expected: convert them with to_dtype"
            ),
            Self::Rank { argument, found } => {
                write!(f, "{argument} have {found} dimensions, not 2")
            }
            Self::Checkpoint(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Loss(error) => Some(error),
            Self::Candle(error) => Some(error),
            _ => None,
        }
    }
}

impl From<LossError> for Error {
    fn from(error: LossError) -> Self {
        Self::Loss(error)
    }
}

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        Self::Candle(error)
    }
}
