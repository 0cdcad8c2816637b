//! A loss in burn's graph.

use burn::tensor::{Bool, Gradients, Tensor, TensorData};

/// A loss in burn's graph, and the gradient of the class weights, which is not part of the graph.
///
/// # Examples
///
/// burn's own optimiser trains network and class weights, here with a factor on the loss:
///
/// ```
/// use burn::module::{Module, Param};
/// use burn::optim::{GradientsParams, SgdConfig};
/// use burn::tensor::{Device, Tensor};
/// use margin_losses_burn::HostLoss;
/// use margin_losses_burn::margin_losses::{ArcFace, Evaluation, Targets};
///
/// #[derive(Module, Debug)]
/// struct Model {
///     network: Param<Tensor<2>>,
///     weights: Param<Tensor<2>>,
/// }
///
/// let device = Device::flex().autodiff();
/// let inputs = Tensor::<2>::from_data([[1.0, 0.5], [-0.5, 2.0]], &device);
/// let mut model = Model {
///     network: Param::from_data([[0.3, -0.2, 0.5], [0.1, 0.4, 0.2]], &device),
///     weights: Param::from_data([[0.1, 0.2, 0.3], [-0.3, 0.2, 0.1]], &device),
/// };
/// let mut optimizer = SgdConfig::new().init();
/// let (loss, mut memory) = (ArcFace::new(8.0, 0.3)?, Evaluation::<f32>::new());
///
/// let mut losses = Vec::new();
/// for _step in 0..20 {
///     let features = inputs.clone().matmul(model.network.val());
///     let weights = model.weights.val();
///     let out = HostLoss::new(&loss, &mut memory).evaluate(&features, &weights, &Targets::new(&[0, 1]))?;
///     let mut grads = (out.tensor() * 0.5).backward();
///     out.add_weight_gradient(&weights, &mut grads);
///     let grads = GradientsParams::from_grads(grads, &model);
///     model = optimizer.step(0.1, model, grads);
///     losses.push(out.tensor().into_scalar::<f32>());
/// }
/// assert!(losses[19] < losses[0]);
/// # Ok::<(), margin_losses_burn::Error>(())
/// ```
#[derive(Debug)]
pub struct Loss {
    tensor: Tensor<1>,
    grad_weights: Tensor<2>,
    accuracy: Option<f64>,
    upstream: Tensor<1>,
}

impl Loss {
    /// A [`surrogate`], and beside it the gradient of the class weights.
    pub(crate) fn new(value: Tensor<1>, grad_weights: Tensor<2>, accuracy: Option<f64>) -> Self {
        let upstream = if value.is_autodiff() {
            Tensor::from_inner(value.clone().inner().zeros_like()).require_grad()
        } else {
            value.zeros_like()
        };
        Self {
            tensor: value + upstream.clone(),
            grad_weights,
            accuracy,
            upstream,
        }
    }

    /// The loss, whose backward pass gives the gradient of the features.
    ///
    /// burn goes through a graph once: add up the losses of several batches before the backward pass.
    #[must_use]
    pub fn tensor(&self) -> Tensor<1> {
        self.tensor.clone()
    }

    /// ∂L/∂W, C×d, of this loss without any factor, outside of autodiff.
    #[must_use]
    pub fn grad_weights(&self) -> &Tensor<2> {
        &self.grad_weights
    }

    /// The share of rows that are classified right without the margin.
    #[must_use]
    pub fn accuracy(&self) -> Option<f64> {
        self.accuracy
    }

    /// The backward pass of this loss alone, the class weights included.
    ///
    /// # Panics
    ///
    /// If the features are not part of a graph, as burn's own.
    #[must_use]
    pub fn backward(&self, weights: &Tensor<2>) -> Gradients {
        let mut grads = self.tensor.backward();
        self.add_weight_gradient(weights, &mut grads);
        grads
    }

    /// Adds ∂/∂W to what a backward pass has found, times the factor by which this loss entered it.
    ///
    /// The factor is read from `grads`. So losses that are scaled, averaged or added before the backward pass have the right
    /// gradient, and a loss that has not entered it has none. `weights` is the tensor of the parameter, `param.val()`.
    ///
    /// # Panics
    ///
    /// If `weights` is outside of autodiff.
    pub fn add_weight_gradient(&self, weights: &Tensor<2>, grads: &mut Gradients) {
        let Some(factor) = self.upstream.grad_remove(grads) else {
            return;
        };
        let factor = factor.reshape([1, 1]).expand(self.grad_weights.dims());
        let mut gradient = self.grad_weights.clone() * factor;
        if let Some(found) = weights.grad_remove(grads) {
            gradient = gradient + found;
        }
        weights.grad_replace(grads, gradient);
    }
}

/// `value + Σ (x − detach x)·gradient`: the value to the bit, because the sum is exactly 0, with this gradient. Rows that are
/// ignored are no summands, because they may hold NaN. Value and gradient are outside of autodiff.
pub(crate) fn surrogate(
    features: &Tensor<2>,
    value: Tensor<1>,
    gradient: Tensor<2>,
    ignored: Option<&[bool]>,
) -> Tensor<1> {
    if !features.is_autodiff() {
        return value;
    }
    let (shape, device) = (features.dims(), features.device());
    let mut change = features.clone() - Tensor::from_inner(features.clone().inner());
    if let Some(ignored) = ignored {
        let ignored = TensorData::new(ignored.to_vec(), [shape[0], 1]);
        let ignored = Tensor::<2, Bool>::from_data(ignored, &device).expand(shape);
        change = change.mask_fill(ignored, 0.0);
    }
    let sum = (change * Tensor::from_inner(gradient)).sum();
    Tensor::from_inner(value) + sum
}
