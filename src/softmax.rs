//! Softmax cross-entropy over a linear layer: the loss that the others demand a margin from.

use core::fmt;

use ndarray::ArrayView1;

use crate::driver::{Head, Layer, Learns};
use crate::error::{Argument, Error};
use crate::float::{Float, sealed::TOKEN};
use crate::loss::MarginLoss;
use crate::request::Request;
use crate::text::NUMBERS_IN_A_LOG;

/// Softmax cross-entropy over a linear layer, with or without bias.
///
/// The baseline, and the classification half of [`JointLoss`](crate::JointLoss). It separates classes and asks for nothing
/// more: features of one class may lie far apart, and their norm grows without end.
///
/// ```text
/// z_j = w_j·x + b_j        ℓ = ln Σ_j exp z_j − z_y
/// ```
/// ```math
/// z_j = w_j^\top x + b_j, \qquad \ell = \ln \sum_j e^{z_j} - z_y
/// ```
///
/// # Shapes
///
/// Features N×d, class weights C×d, bias C.
///
/// # Gradients
///
/// With `G_ij = (p_ij − [j = yᵢ])·rᵢ/N`, where p is the softmax of z, and rᵢ the row weights:
///
/// ```text
/// ∂X = G W        ∂W = Gᵀ X        ∂b_j = Σᵢ G_ij
/// ```
/// ```math
/// \frac{\partial L}{\partial X} = G W,
/// \qquad \frac{\partial L}{\partial W} = G^\top X,
/// \qquad \frac{\partial L}{\partial b_j} = \sum_i G_{ij}
/// ```
///
/// The bias is a learnable: its gradient is [`Evaluation::grad_learnables`](crate::Evaluation::grad_learnables).
///
/// # Numerical notes
///
/// The loss is `ln(1 + Σ_{j≠y} exp(z_j − z_y))`, so it does not saturate, at either end. A row whose logits could exceed
/// the range of the element type is refused with [`Error::Overflow`].
///
/// # Errors
///
/// As for [`MarginLoss`](crate::MarginLoss), and [`Error::RowCount`] if the bias has not one entry for each class. Zero rows
/// are welcome.
///
/// # Examples
///
/// ```
/// use margin_losses::{MarginLoss, SoftmaxLoss, Targets};
/// use margin_losses::ndarray::array;
///
/// let features = array![[1.0, 2.0], [-1.0, 0.5]];
/// let weights = array![[0.5, 0.5], [-0.5, 0.0], [0.0, -1.0]];
/// let loss = SoftmaxLoss::with_bias(vec![0.0, 0.1, 0.2])?;
/// let out = loss.evaluate(features.view(), weights.view(), &Targets::new(&[0, 1]))?;
/// assert_eq!(out.grad_weights.dim(), (3, 2));
/// assert_eq!(out.grad_learnables.len(), 3);
/// # Ok::<(), margin_losses::Error>(())
/// ```
///
/// # References
///
/// The form with a bias is equation 1 of the center-loss paper (Wen et al., ECCV 2016) and of NormFace
/// ([arXiv:1704.06369](https://arxiv.org/abs/1704.06369)), whose Proposition 1 advises against the bias where features are
/// compared by angle.
#[derive(Clone, Default, PartialEq)]
pub struct SoftmaxLoss {
    bias: Option<Vec<f64>>,
}

/// A bias of very many classes is abbreviated.
impl fmt::Debug for SoftmaxLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut fields = f.debug_struct("SoftmaxLoss");
        match self.bias() {
            None => fields.field("bias", &self.bias),
            Some(bias) => fields.field("bias", &format_args!("Some({})", ArrayView1::from(bias))),
        };
        fields.finish()
    }
}

impl SoftmaxLoss {
    /// Without bias.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With one bias for each class, to begin with.
    ///
    /// # Errors
    ///
    /// [`Error::NoClasses`] if there are none, [`Error::NonFinite`] if one is NaN or infinite.
    pub fn with_bias(bias: Vec<f64>) -> Result<Self, Error> {
        if bias.is_empty() {
            return Err(Error::NoClasses);
        }
        Ok(Self {
            bias: Some(finite(bias)?),
        })
    }

    /// The bias, if there is one.
    #[must_use]
    pub fn bias(&self) -> Option<&[f64]> {
        self.bias.as_deref()
    }

    /// Another bias, of as many classes.
    ///
    /// # Errors
    ///
    /// [`Error::LearnableCount`] if the number of entries differs, [`Error::NonFinite`] if one is NaN or infinite; the bias
    /// is then as it was.
    pub fn set_bias(&mut self, values: &[f64]) -> Result<(), Error> {
        let expected = self.bias().map_or(0, <[f64]>::len);
        if values.len() != expected {
            return Err(Error::LearnableCount {
                expected,
                found: values.len(),
            });
        }
        if let Some(bias) = &mut self.bias {
            *bias = finite(values.to_vec())?;
        }
        Ok(())
    }

    /// What it learns; see [`MarginLoss::learnables`](crate::MarginLoss::learnables).
    #[must_use]
    pub fn learnables(&self) -> &[f64] {
        self.bias().unwrap_or_default()
    }

    /// Replaces that; see [`MarginLoss::set_learnables`](crate::MarginLoss::set_learnables).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn set_learnables(&mut self, values: &[f64]) -> Result<(), Error> {
        self.set_bias(values)
    }

    fn head(&self) -> Head<'_> {
        Head {
            constants: self.bias(),
            learns: match self.bias {
                Some(_) => Learns::Constants,
                None => Learns::Nothing,
            },
            ..Head::new(Layer::Linear)
        }
    }
}

fn finite(bias: Vec<f64>) -> Result<Vec<f64>, Error> {
    match bias.iter().position(|entry| !entry.is_finite()) {
        None => Ok(bias),
        Some(row) => Err(Error::NonFinite {
            argument: Argument::Bias,
            row,
        }),
    }
}

impl<A: Float> MarginLoss<A> for SoftmaxLoss {
    fn run(&self, request: Request<'_, A>) -> Result<(), Error> {
        A::solve(TOKEN, &self.head(), request)
    }

    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.bias() {
            // A log has no use for them.
            Some(bias) if bias.len() > NUMBERS_IN_A_LOG => {
                write!(f, "softmax:bias=({} numbers)", bias.len())
            }
            _ => fmt::Display::fmt(self, f),
        }
    }

    fn learnables(&self) -> &[f64] {
        self.learnables()
    }

    fn set_learnables(&mut self, values: &[f64]) -> Result<(), Error> {
        self.set_learnables(values)
    }
}
