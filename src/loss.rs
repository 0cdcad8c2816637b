//! The trait that every loss implements, what it is given, and what it gives back.

use core::fmt;
use core::ops::Range;

use ndarray::{Array1, Array2, ArrayView2, ArrayViewMut2};

use crate::error::Error;
use crate::float::Float;
use crate::linear_cross_entropy::Scratch;

/// How the losses ℓᵢ of the rows become one number, and with them their gradients.
///
/// # Examples
///
/// ```
/// use margin_losses::{MarginLoss, NormFace, Reduction, Targets};
/// use margin_losses::ndarray::array;
///
/// let (x, w) = (array![[1.0_f64, 2.0], [2.0, -0.5]], array![[0.0, 1.0], [1.0, 0.0]]);
/// let (loss, targets) = (NormFace::new(4.0)?, Targets::new(&[0, 1]));
/// let mean = loss.forward(x.view(), w.view(), &targets)?;
/// let sum = loss.forward(x.view(), w.view(), &targets.with_reduction(Reduction::Sum))?;
/// assert!((sum.loss - 2.0 * mean.loss).abs() < 1e-15);
/// assert_eq!(sum.row_losses, mean.row_losses);
///
/// assert_eq!("sum".parse(), Ok(Reduction::Sum));
/// # Ok::<(), margin_losses::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
pub enum Reduction {
    /// `(1/N) Σ rᵢ ℓᵢ` over the N rows, whatever the sum of the row weights.
    #[default]
    Mean,
    /// `Σ rᵢ ℓᵢ`.
    Sum,
    /// The rows are left apart: [`Forward::row_losses`] is the result, and the caller reduces it.
    ///
    /// The row weights are then the upstream gradient `∂/∂ℓᵢ` of whatever the caller makes of the rows, so they may have
    /// either sign. The gradients, and [`Forward::loss`], are those of `Σ rᵢ ℓᵢ`.
    None,
}

/// What a batch is to be classified as: its labels, how much each row counts, and the reduction.
///
/// # Examples
///
/// ```
/// use margin_losses::{Reduction, Targets};
///
/// let labels = [0, 3, 2];
/// let plain: Targets<'_, f32> = Targets::new(&labels);
/// let weighted = Targets::new(&labels)
///     .with_row_weights(&[1.0_f32, 0.5, 0.0])
///     .with_reduction(Reduction::Sum);
/// # assert_eq!(plain.labels(), weighted.labels());
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Targets<'a, A> {
    labels: &'a [usize],
    row_weights: Option<&'a [A]>,
    reduction: Reduction,
}

impl<'a, A> Targets<'a, A> {
    /// One label in `0..classes` for each row of the features; mean reduction, every row counts once.
    #[must_use]
    pub fn new(labels: &'a [usize]) -> Self {
        Self {
            labels,
            row_weights: None,
            reduction: Reduction::Mean,
        }
    }

    /// One weight rᵢ for each row: non-negative, unless the reduction is [`Reduction::None`].
    #[must_use]
    pub fn with_row_weights(self, row_weights: &'a [A]) -> Self {
        Self {
            row_weights: Some(row_weights),
            ..self
        }
    }

    /// Another reduction than the mean.
    #[must_use]
    pub fn with_reduction(self, reduction: Reduction) -> Self {
        Self { reduction, ..self }
    }

    /// The labels.
    #[must_use]
    pub fn labels(&self) -> &'a [usize] {
        self.labels
    }

    /// The row weights, if there are any.
    #[must_use]
    pub fn row_weights(&self) -> Option<&'a [A]> {
        self.row_weights
    }

    /// The reduction.
    #[must_use]
    pub fn reduction(&self) -> Reduction {
        self.reduction
    }
}

/// What the forward pass gives: the loss, and what a training log wants to know of each row.
///
/// # Shapes
///
/// Every array has N entries, one for each row of the features, but for `correct`, which [`CenterLoss`](crate::CenterLoss)
/// leaves empty, because it does not classify.
///
/// # Examples
///
/// ```
/// use margin_losses::{ArcFace, MarginLoss, Targets};
/// use margin_losses::ndarray::array;
///
/// let (x, w) = (array![[3.0_f64, 4.0], [0.0, -1.0]], array![[0.0, 1.0], [1.0, 0.0]]);
/// let forward = ArcFace::new(10.0, 0.5)?.forward(x.view(), w.view(), &Targets::new(&[0, 1]))?;
/// assert!((forward.target_cosines[0] - 0.8).abs() < 1e-15);   // without margin
/// assert!(forward.target_logits[0] < 10.0 * 0.8);             // with it
/// assert_eq!(forward.correct.to_vec(), [true, true]);
/// assert_eq!(forward.accuracy(), Some(1.0));
/// # Ok::<(), margin_losses::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Forward<A> {
    /// The reduced loss.
    pub loss: A,
    /// ℓᵢ, the loss of each row, before row weights.
    pub row_losses: Array1<A>,
    /// The logit of each row's target, scale and margin included: what the softmax sees.
    pub target_logits: Array1<A>,
    /// cosθᵢ between each row and the weight (or center) of its class, without margin; 0 if either is a zero vector.
    pub target_cosines: Array1<A>,
    /// Whether the target, without margin, scores strictly above every other class. What is equal to rounding may fall
    /// either way.
    pub correct: Array1<bool>,
}

impl<A> Forward<A> {
    /// The share of rows that are classified right without the margin, in [0, 1]; `None` for an empty batch and for
    /// losses that do not classify.
    #[must_use]
    pub fn accuracy(&self) -> Option<f64> {
        let right = self.correct.iter().filter(|&&right| right).count();
        (!self.correct.is_empty()).then(|| right as f64 / self.correct.len() as f64)
    }
}

/// What one forward and backward pass gives.
///
/// # Examples
///
/// ```
/// use margin_losses::{CosFace, Evaluation, MarginLoss, Targets};
/// use margin_losses::ndarray::array;
///
/// let (x, w) = (array![[1.0, 2.0], [2.0, -0.5]], array![[0.0, 1.0], [1.0, 0.0], [-1.0, 1.0]]);
/// let mut out = Evaluation::new();
/// for _step in 0..3 {
///     CosFace::default().evaluate_into(x.view(), w.view(), &Targets::new(&[0, 1]), &mut out)?;
/// }
/// assert_eq!(out.grad_features.dim(), x.dim());
/// assert_eq!(out.grad_weights.dim(), w.dim());
/// assert!(out.loss() > 0.0 && out.forward.accuracy().is_some());
///
/// // It may be taken apart.
/// let Evaluation { forward, grad_features, .. } = out;
/// assert_eq!(forward.row_losses.len(), grad_features.nrows());
/// # Ok::<(), margin_losses::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Evaluation<A> {
    /// The loss and the rows' figures.
    pub forward: Forward<A>,
    /// ∂L/∂X, N×d: what goes back into the network.
    pub grad_features: Array2<A>,
    /// ∂L/∂W, C×d: what trains the class weights (for [`CenterLoss`](crate::CenterLoss), the centers).
    pub grad_weights: Array2<A>,
    /// The gradients of the loss's own learnables, in the order of [`MarginLoss::learnables`].
    pub grad_learnables: Array1<A>,
    /// ∂L/∂c, C×d, of [`JointLoss`](crate::JointLoss); 0×0 for every other loss.
    pub grad_centers: Array2<A>,
    pub(crate) scratch: Scratch<A>,
}

impl<A: Float> Evaluation<A> {
    /// An empty evaluation, to be filled by [`MarginLoss::evaluate_into`].
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty evaluation whose working memory, beyond inputs and outputs, stays below `bytes`.
    ///
    /// With less than the exponentials of the whole batch need (N·C numbers), they are computed twice, and the results are
    /// the same to rounding. The limit of [`new`](Self::new) is 1 GiB. Copies of single blocks of class weights that are not
    /// row-major, one for each thread, come on top.
    ///
    /// # Examples
    ///
    /// ```
    /// use margin_losses::{ArcFace, Evaluation, MarginLoss, Targets, init};
    /// use margin_losses::ndarray::Array2;
    ///
    /// let (x, w): (Array2<f32>, Array2<f32>) = (init::class_weights(64, 8, 1), init::class_weights(9000, 8, 2));
    /// let mut bounded = Evaluation::with_scratch_limit(1 << 20);
    /// ArcFace::default().evaluate_into(x.view(), w.view(), &Targets::new(&[7; 64]), &mut bounded)?;
    /// assert!(bounded.scratch_bytes() <= 1 << 20);
    /// # Ok::<(), margin_losses::Error>(())
    /// ```
    #[must_use]
    pub fn with_scratch_limit(bytes: usize) -> Self {
        Self {
            scratch: Scratch::with_limit(bytes),
            ..Self::default()
        }
    }

    /// Bytes of working memory that are held for the next evaluation.
    #[must_use]
    pub fn scratch_bytes(&self) -> usize {
        self.scratch.bytes()
    }

    /// The reduced loss.
    #[must_use]
    pub fn loss(&self) -> A {
        self.forward.loss
    }
}

/// One block of classes, with the complete gradient of their weights, as [`MarginLoss::evaluate_streamed`] hands it out.
#[derive(Debug)]
#[non_exhaustive]
pub struct ClassBlock<'a, A> {
    /// Which classes these are.
    pub classes: Range<usize>,
    /// Their weights, to be updated in place: B×d.
    pub weights: ArrayViewMut2<'a, A>,
    /// ∂L/∂W of these classes: B×d.
    pub gradient: ArrayView2<'a, A>,
}

/// A loss of features, class weights and labels, with its analytic gradients.
///
/// The trait is dyn-compatible, so that the loss can be chosen at run time: `Box<dyn MarginLoss<f32>>`. It owns no
/// training state: the class weights belong to the caller, and evaluating is a pure function of the arguments.
///
/// # Shapes
///
/// `features` is N×d, one row for each sample; `weights` is C×d, one row for each class; labels are in `0..C`. Views may
/// have any strides. N may be 0 unless the reduction is the mean; C and d may not.
///
/// # Errors
///
/// Every method refuses, before anything is written, shapes that disagree, labels out of range, NaN and infinity, rows of
/// zero norm where the loss normalises them, negative row weights, and an empty batch under the mean. See [`Error`].
///
/// # Examples
///
/// Losses of any kind, behind one type:
///
/// ```
/// use margin_losses::{ArcFace, ModifiedSoftmax, MarginLoss, Targets};
/// use margin_losses::ndarray::array;
///
/// let (x, w) = (array![[1.0, 2.0], [2.0, -0.5]], array![[0.0, 1.0], [1.0, 0.0]]);
/// let losses: [Box<dyn MarginLoss<f64>>; 2] = [Box::new(ModifiedSoftmax::new()), Box::new(ArcFace::default())];
/// for loss in &losses {
///     let out = loss.evaluate(x.view(), w.view(), &Targets::new(&[0, 1]))?;
///     // The loss alone costs a third, and is the same.
///     assert_eq!(loss.forward(x.view(), w.view(), &Targets::new(&[0, 1]))?.loss, out.loss());
/// }
///
/// let error = losses[1].evaluate(x.view(), w.view(), &Targets::new(&[0, 2])).unwrap_err();
/// assert_eq!(error.to_string(), "labels row 1 is 2, but there are 2 classes");
/// # Ok::<(), margin_losses::Error>(())
/// ```
pub trait MarginLoss<A: Float>: fmt::Debug + Send + Sync {
    /// The loss and the rows' figures, without gradients: one matrix product instead of three.
    ///
    /// # Errors
    ///
    /// As for the trait.
    fn forward(
        &self,
        features: ArrayView2<'_, A>,
        weights: ArrayView2<'_, A>,
        targets: &Targets<'_, A>,
    ) -> Result<Forward<A>, Error>;

    /// The loss and all its gradients.
    ///
    /// # Errors
    ///
    /// As for the trait.
    fn evaluate(
        &self,
        features: ArrayView2<'_, A>,
        weights: ArrayView2<'_, A>,
        targets: &Targets<'_, A>,
    ) -> Result<Evaluation<A>, Error> {
        let mut evaluation = Evaluation::new();
        self.evaluate_into(features, weights, targets, &mut evaluation)?;
        Ok(evaluation)
    }

    /// [`evaluate`](Self::evaluate) into an evaluation that the caller keeps, so that its memory is used again.
    ///
    /// # Errors
    ///
    /// As for the trait; `evaluation` is then as it was.
    fn evaluate_into(
        &self,
        features: ArrayView2<'_, A>,
        weights: ArrayView2<'_, A>,
        targets: &Targets<'_, A>,
        evaluation: &mut Evaluation<A>,
    ) -> Result<(), Error>;

    /// [`evaluate_into`](Self::evaluate_into) without `∂L/∂W` in memory: each block of classes is handed to `update` when its
    /// gradient is complete, so that an optimiser changes the weights in place.
    ///
    /// Blocks come in the order of the classes, each class once, after the whole forward pass; how many classes a block has
    /// is the loss's choice. `evaluation` holds everything else; its `grad_weights` is left with no rows.
    ///
    /// A loss of your own need not implement it: the provided method hands out all classes as one block.
    ///
    /// # Errors
    ///
    /// As for the trait; `evaluation` is then as it was, and `update` has not been called.
    ///
    /// # Examples
    ///
    /// Gradient descent in place:
    ///
    /// ```
    /// use margin_losses::{ArcFace, Evaluation, MarginLoss, Targets};
    /// use margin_losses::ndarray::array;
    ///
    /// let (x, mut w) = (array![[1.0, 2.0], [2.0, -0.5]], array![[0.0, 1.0], [1.0, 0.0]]);
    /// let (loss, targets, mut out) = (ArcFace::new(8.0, 0.3)?, Targets::new(&[0, 1]), Evaluation::new());
    /// let before = loss.forward(x.view(), w.view(), &targets)?.loss;
    /// loss.evaluate_streamed(x.view(), w.view_mut(), &targets, &mut out, &mut |mut block| {
    ///     block.weights.scaled_add(-0.1, &block.gradient);
    /// })?;
    /// assert_eq!(out.loss(), before);
    /// assert!(loss.forward(x.view(), w.view(), &targets)?.loss < before);
    /// # Ok::<(), margin_losses::Error>(())
    /// ```
    fn evaluate_streamed(
        &self,
        features: ArrayView2<'_, A>,
        mut weights: ArrayViewMut2<'_, A>,
        targets: &Targets<'_, A>,
        evaluation: &mut Evaluation<A>,
        update: &mut dyn FnMut(ClassBlock<'_, A>),
    ) -> Result<(), Error> {
        self.evaluate_into(features, weights.view(), targets, evaluation)?;
        let empty = Array2::default((0, features.ncols()));
        let gradient = core::mem::replace(&mut evaluation.grad_weights, empty);
        update(ClassBlock {
            classes: 0..weights.nrows(),
            weights: weights.view_mut(),
            gradient: gradient.view(),
        });
        Ok(())
    }

    /// The numbers that the loss itself learns: the bias of [`SoftmaxLoss`](crate::SoftmaxLoss), the scale of
    /// [`NormFace`](crate::NormFace). Empty for most losses.
    fn learnables(&self) -> &[f64] {
        &[]
    }

    /// Replaces the learnables, for example after an optimiser's step.
    ///
    /// # Errors
    ///
    /// [`Error::LearnableCount`] if `values` has another length than [`learnables`](Self::learnables), and the error of the
    /// loss's constructor if a value is out of range; the loss is then as it was.
    ///
    /// # Examples
    ///
    /// A step of whatever a loss learns, without knowing which it is:
    ///
    /// ```
    /// use margin_losses::{AnyLoss, MarginLoss, Targets};
    /// use margin_losses::ndarray::array;
    ///
    /// let mut loss: Box<dyn MarginLoss<f64>> = Box::new("normface:s=10,learned".parse::<AnyLoss>()?);
    /// let (x, w) = (array![[1.0, 2.0]], array![[0.0, 1.0], [1.0, 0.0]]);
    /// let out = loss.evaluate(x.view(), w.view(), &Targets::new(&[0]))?;
    /// let stepped: Vec<f64> = loss.learnables().iter().zip(&out.grad_learnables).map(|(v, g)| v - 0.1 * g).collect();
    /// loss.set_learnables(&stepped)?;
    /// assert!(loss.learnables()[0] > 10.0);
    /// # Ok::<(), margin_losses::Error>(())
    /// ```
    fn set_learnables(&mut self, values: &[f64]) -> Result<(), Error> {
        if values.is_empty() {
            Ok(())
        } else {
            Err(Error::LearnableCount {
                expected: 0,
                found: values.len(),
            })
        }
    }
}

/// A loss behind a pointer is a loss.
macro_rules! delegate {
    ($pointer:ty) => {
        impl<A: Float, L: MarginLoss<A> + ?Sized> MarginLoss<A> for $pointer {
            fn forward(
                &self,
                features: ArrayView2<'_, A>,
                weights: ArrayView2<'_, A>,
                targets: &Targets<'_, A>,
            ) -> Result<Forward<A>, Error> {
                (**self).forward(features, weights, targets)
            }

            fn evaluate_into(
                &self,
                features: ArrayView2<'_, A>,
                weights: ArrayView2<'_, A>,
                targets: &Targets<'_, A>,
                evaluation: &mut Evaluation<A>,
            ) -> Result<(), Error> {
                (**self).evaluate_into(features, weights, targets, evaluation)
            }

            fn evaluate_streamed(
                &self,
                features: ArrayView2<'_, A>,
                weights: ArrayViewMut2<'_, A>,
                targets: &Targets<'_, A>,
                evaluation: &mut Evaluation<A>,
                update: &mut dyn FnMut(ClassBlock<'_, A>),
            ) -> Result<(), Error> {
                (**self).evaluate_streamed(features, weights, targets, evaluation, update)
            }

            fn learnables(&self) -> &[f64] {
                (**self).learnables()
            }

            fn set_learnables(&mut self, values: &[f64]) -> Result<(), Error> {
                (**self).set_learnables(values)
            }
        }
    };
}
delegate!(&mut L);
delegate!(Box<L>);
