//! The loss and its gradients on the host, in the crate's own arithmetic.

use candle_core::Tensor;

use crate::bridge::{
    self, Argument, ArrayViewMut2, ClassBlock, Evaluation, MarginLoss, Streamed, Targets,
};
use crate::element::{Element, matrix, tensor, with_array};
use crate::error::Error;
use crate::loss::{Loss, with_gradient};

/// Any loss, evaluated on the CPU by `margin-losses`, in candle's backward pass.
///
/// Take it for every loss, composed or of your own, for exact gradients, and for many classes in bounded memory. The value
/// of the loss has the bits of [`Evaluation::loss`]. The gradient of the features enters the graph, whatever is made of the loss there. The class weights stay
/// outside: as a tensor, with [`evaluate`](Self::evaluate), or as an array that is updated in place, with
/// [`evaluate_streamed`](Self::evaluate_streamed).
///
/// `evaluation` is the memory of the last step. After a call it has the figures of the rows, the gradients of what the loss
/// learns and of the centers, and the running statistics.
///
/// # Shapes
///
/// Features N×d and class weights C×d (KC×d with K sub-centers), both `f32` or both `f64`. Tensors on the CPU are read in
/// place, whatever their strides, and others are copied to it.
///
/// # Errors
///
/// [`Error::Loss`] for what the loss refuses, with its row; [`Error::ElementType`] and [`Error::Rank`].
///
/// # Examples
///
/// A loss by name, with center loss and its step, a learned scale, and class weights in place:
///
/// ```
/// use candle_core::{Device, Tensor, Var};
/// use margin_losses_candle::margin_losses::ndarray::Array2;
/// use margin_losses_candle::margin_losses::{Argument, CenterLoss, Evaluation, Objective, Targets, init};
/// use margin_losses_candle::{HostLoss, with_array};
///
/// let features = Var::new(&[[1.0_f32, 0.5], [-0.5, 2.0]], &Device::Cpu)?;
/// let mut objective: Objective = "normface:s=10,learned+center:lambda=0.01".parse()?;
/// let (mut weights, mut centers) = (init::class_weights(3, 2, 1)?, Array2::zeros((3, 2)));
/// let mut memory = Evaluation::<f32>::new();
/// let labels = [0, 2];
///
/// let joint = objective.over_centers(centers.view());
/// let loss = HostLoss::new(&*joint, &mut memory).evaluate_streamed(
///     &features,
///     weights.view_mut(),
///     &Targets::new(&labels),
///     &mut |mut block| block.weights.scaled_add(-0.1, &block.gradient),
/// )?;
/// drop(joint);
/// let grads = loss.backward()?;
/// assert!(grads.get(&features).is_some());
/// with_array(&features, Argument::Features, |x| CenterLoss::update_centers(centers.view_mut(), x, &labels, 0.5))?;
/// objective.set_learnables(&[objective.learnables()[0] - 0.1 * f64::from(memory.grad_learnables[0])])?;
/// # Ok::<(), margin_losses_candle::Error>(())
/// ```
#[derive(Debug)]
pub struct HostLoss<'a, A> {
    loss: &'a (dyn MarginLoss<A> + 'a),
    evaluation: &'a mut Evaluation<A>,
}

impl<'a, A: Element> HostLoss<'a, A> {
    /// A loss for one step, and the memory of the last.
    pub fn new(loss: &'a (dyn MarginLoss<A> + 'a), evaluation: &'a mut Evaluation<A>) -> Self {
        Self { loss, evaluation }
    }

    /// The loss in the graph, and the gradient of class weights that are a tensor: see [`Loss`].
    ///
    /// # Errors
    ///
    /// As for the type; `evaluation` is then as it was.
    pub fn evaluate(
        self,
        features: &Tensor,
        weights: &Tensor,
        targets: &Targets<'_, A>,
    ) -> Result<Loss, Error> {
        let shape = matrix(weights, Argument::ClassWeights, A::DTYPE)?;
        let Self { loss, evaluation } = self;
        with_array(features, Argument::Features, |x| {
            with_array(weights, Argument::ClassWeights, |w| {
                bridge::evaluate(loss, x, w, targets, evaluation)
            })
        })?;
        let value = in_graph(evaluation, features)?;
        let by_weight = tensor(bridge::results(evaluation).2, shape, weights.device())?;
        Loss::new(&value, by_weight, evaluation.accuracy())
    }

    /// The loss in the graph, once `update` has been given every block of the class weights with its gradient.
    ///
    /// The gradient is that of the loss itself: a factor that the graph puts on the loss belongs into the step size too.
    /// To accumulate over batches, add the gradients up in `update`, and step after the last.
    ///
    /// # Errors
    ///
    /// As for the type; `evaluation` is then as it was, and `update` has not been called.
    pub fn evaluate_streamed(
        self,
        features: &Tensor,
        weights: ArrayViewMut2<'_, A>,
        targets: &Targets<'_, A>,
        update: &mut dyn FnMut(ClassBlock<'_, A>),
    ) -> Result<Tensor, Error> {
        let Self { loss, evaluation } = self;
        with_array(features, Argument::Features, |x| {
            let streamed = Streamed { weights, update };
            bridge::evaluate_streamed(loss, x, streamed, targets, evaluation)
        })?;
        in_graph(evaluation, features)
    }
}

/// The loss of an evaluation, with its gradient of the features.
fn in_graph<A: Element>(evaluation: &Evaluation<A>, features: &Tensor) -> Result<Tensor, Error> {
    let device = features.device();
    let (value, by_feature, _) = bridge::results(evaluation);
    let gradient = Tensor::from_slice(by_feature, features.shape(), device)?;
    let value = Tensor::new(value, device)?;
    with_gradient(features, &value, &gradient, bridge::ignored(evaluation))
}
