//! A loss in candle's graph.

use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Storage, Tensor, Var};

use crate::error::Error;

/// A loss in candle's graph, and the gradient of the class weights, which is not part of the graph.
///
/// # Examples
///
/// candle's own optimiser trains network and class weights, here with a factor on the loss:
///
/// ```
/// use candle_core::{DType, Device, Tensor, Var};
/// use candle_nn::{Optimizer, SGD};
/// use margin_losses_candle::HostLoss;
/// use margin_losses_candle::margin_losses::{ArcFace, Evaluation, Targets};
///
/// let inputs = Tensor::new(&[[1.0_f32, 0.5], [-0.5, 2.0]], &Device::Cpu)?;
/// let network = Var::new(&[[0.3_f32, -0.2, 0.5], [0.1, 0.4, 0.2]], &Device::Cpu)?;
/// let weights = Var::new(&[[0.1_f32, 0.2, 0.3], [-0.3, 0.2, 0.1]], &Device::Cpu)?;
/// let mut optimizer = SGD::new(vec![network.clone(), weights.clone()], 0.1)?;
/// let (loss, mut memory) = (ArcFace::new(8.0, 0.3)?, Evaluation::<f32>::new());
///
/// let mut losses = Vec::new();
/// for _step in 0..20 {
///     let features = inputs.matmul(&network)?;
///     let out = HostLoss::new(&loss, &mut memory).evaluate(&features, &weights, &Targets::new(&[0, 1]))?;
///     let mut grads = (out.tensor() * 0.5)?.backward()?;
///     out.add_weight_gradient(&weights, &mut grads)?;
///     optimizer.step(&grads)?;
///     losses.push(out.tensor().to_scalar::<f32>()?);
/// }
/// assert!(losses[19] < losses[0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Loss {
    tensor: Tensor,
    grad_weights: Tensor,
    accuracy: Option<f64>,
    upstream: Var,
}

impl Loss {
    /// A value in the graph, and beside it the gradient of the class weights.
    pub(crate) fn new(
        value: &Tensor,
        grad_weights: Tensor,
        accuracy: Option<f64>,
    ) -> Result<Self, Error> {
        let upstream = Var::from_tensor(&value.zeros_like()?.detach())?;
        Ok(Self {
            tensor: (value + upstream.as_tensor())?,
            grad_weights,
            accuracy,
            upstream,
        })
    }

    /// The loss: a scalar, whose backward pass gives the gradient of the features.
    #[must_use]
    pub fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    /// ∂L/∂W, C×d, of this loss without any factor.
    #[must_use]
    pub fn grad_weights(&self) -> &Tensor {
        &self.grad_weights
    }

    /// The share of rows that are classified right without the margin.
    #[must_use]
    pub fn accuracy(&self) -> Option<f64> {
        self.accuracy
    }

    /// The backward pass of this loss alone, the class weights included.
    ///
    /// # Errors
    ///
    /// Those of candle.
    pub fn backward(&self, weights: &Tensor) -> Result<GradStore, Error> {
        let mut grads = self.tensor.backward()?;
        self.add_weight_gradient(weights, &mut grads)?;
        Ok(grads)
    }

    /// Adds ∂/∂W to what a backward pass has found, times the factor by which this loss entered it.
    ///
    /// The factor is read from `grads`. So losses that are scaled, averaged or added before the backward pass have the right
    /// gradient, and a loss that has not entered it has none.
    ///
    /// # Errors
    ///
    /// Those of candle.
    pub fn add_weight_gradient(
        &self,
        weights: &Tensor,
        grads: &mut GradStore,
    ) -> Result<(), Error> {
        let Some(factor) = grads.remove(&self.upstream) else {
            return Ok(());
        };
        let mut gradient = self.grad_weights.broadcast_mul(&factor)?;
        if let Some(found) = grads.remove(weights) {
            gradient = (gradient + found)?;
        }
        grads.insert(weights, gradient);
        Ok(())
    }
}

/// The value in the graph of the features, with this gradient.
pub(crate) fn with_gradient(
    features: &Tensor,
    value: &Tensor,
    gradient: &Tensor,
    ignored: Option<&[bool]>,
) -> Result<Tensor, Error> {
    if features.device().is_cpu() {
        return Ok(features.apply_op1(Known {
            value: value.clone(),
            gradient: gradient.clone(),
        })?);
    }
    surrogate(features, value, gradient, ignored)
}

/// A function of the features whose value and gradient are known, on the CPU. It does not read the features.
struct Known {
    value: Tensor,
    gradient: Tensor,
}

impl CustomOp1 for Known {
    fn name(&self) -> &'static str {
        "a loss with its gradient"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        match &*self.value.storage_and_layout().0 {
            Storage::Cpu(value) => Ok((value.clone(), Shape::from(()))),
            _ => candle_core::bail!("the loss is not on the CPU"),
        }
    }

    fn bwd(
        &self,
        _: &Tensor,
        _: &Tensor,
        upstream: &Tensor,
    ) -> candle_core::Result<Option<Tensor>> {
        // As a product of matrices, because candle walks slowly through a broadcast number.
        let column = self.gradient.reshape((self.gradient.elem_count(), 1))?;
        let scaled = column.matmul(&upstream.reshape((1, 1))?)?;
        scaled.reshape(self.gradient.shape()).map(Some)
    }
}

/// The same on any device, `value + Σ (x − detach x)·gradient`: the value to the bit, because the sum is exactly 0, with this gradient. Rows that are
/// ignored are no summands, because they may hold NaN.
fn surrogate(
    features: &Tensor,
    value: &Tensor,
    gradient: &Tensor,
    ignored: Option<&[bool]>,
) -> Result<Tensor, Error> {
    let mut change = (features - features.detach())?;
    if let Some(ignored) = ignored {
        let counts: Vec<u8> = ignored.iter().map(|&ignored| u8::from(!ignored)).collect();
        let counts = Tensor::from_vec(counts, (ignored.len(), 1), features.device())?;
        let counts = counts.broadcast_as(features.shape())?;
        change = counts.where_cond(&change, &gradient.zeros_like()?)?;
    }
    // A product of a row and a column: its backward pass is one too, where that of a sum would walk through a broadcast number.
    let (row, column) = ((1, change.elem_count()), (change.elem_count(), 1));
    let sum = change.reshape(row)?.matmul(&gradient.reshape(column)?)?;
    Ok((value + sum.reshape(())?)?)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    /// What other devices compute is what the CPU does: a row that is ignored may hold NaN.
    #[test]
    fn the_surrogate_is_the_known_function() -> Result<(), Error> {
        let features = Var::new(&[[1.0_f32, -2.0], [f32::NAN, 3.0]], &Device::Cpu)?;
        let value = Tensor::new(0.7_f32, &Device::Cpu)?;
        let gradient = Tensor::new(&[[0.1_f32, 0.3], [0.0, 0.0]], &Device::Cpu)?;
        let ignored = [false, true];
        let known = with_gradient(&features, &value, &gradient, Some(&ignored))?;
        let surrogate = surrogate(&features, &value, &gradient, Some(&ignored))?;
        for loss in [known, surrogate] {
            assert_eq!(loss.to_scalar::<f32>()?, 0.7);
            let grads = (loss * 3.0)?.backward()?;
            let found = grads.get(&features).expect("in the graph");
            let expected = [[3.0 * 0.1_f32, 3.0 * 0.3], [0.0, 0.0]];
            assert_eq!(found.to_vec2::<f32>()?, expected);
        }
        Ok(())
    }
}
