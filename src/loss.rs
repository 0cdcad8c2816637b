//! The trait that every loss implements.

use core::fmt;

use ndarray::{Array1, Array2, ArrayView2, ArrayViewMut2, Axis};

use crate::error::Error;
use crate::evaluation::{ClassBlock, Evaluation, Forward};
use crate::float::{Float, sealed::TOKEN};
use crate::request::{Composition, Request, Wanted};
use crate::scores::{Scores, TopClasses};
use crate::targets::Targets;

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
/// zero norm where the loss normalises them, negative weights, and a mean without rows. Rows that
/// [`Targets`](Targets#rows-that-are-ignored) ignores are not looked at. See [`Error`].
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
///
/// A loss of your own implements one method, for whatever is no margin (that is what [`Margin`](crate::Margin) is for). Half
/// the squared distance of each feature to its class, in fifteen lines:
///
/// ```
/// use margin_losses::ndarray::{Array2, Axis, Zip, array};
/// use margin_losses::{Error, MarginLoss, Request, Targets};
///
/// #[derive(Debug)]
/// struct Distance;
///
/// impl MarginLoss<f64> for Distance {
///     fn run(&self, request: Request<'_, f64>) -> Result<(), Error> {
///         let labels = request.checked_labels()?;
///         let apart = &request.features() - &request.weights().select(Axis(0), &labels);
///         let losses: Vec<f64> = apart.outer_iter().map(|row| 0.5 * row.dot(&row)).collect();
///         let mut grad_features = apart;
///         let mut grad_weights = Array2::zeros(request.weights().raw_dim());
///         for ((mut row, label), r) in grad_features.outer_iter_mut().zip(labels).zip(request.coefficients()) {
///             row *= r;
///             Zip::from(grad_weights.row_mut(label)).and(&row).for_each(|w, &x| *w -= x);
///         }
///         request.answer(losses, grad_features, grad_weights)
///     }
/// }
///
/// let (x, w) = (array![[1.0, 2.0]], array![[0.0, 1.0], [1.0, 0.0]]);
/// let out = Distance.evaluate(x.view(), w.view(), &Targets::new(&[0]))?;
/// assert_eq!(out.loss(), 1.0);
/// assert_eq!(out.grad_weights, array![[-1.0, -1.0], [0.0, 0.0]]);
/// # Ok::<(), margin_losses::Error>(())
/// ```
pub trait MarginLoss<A: Float>: fmt::Debug + Send + Sync {
    /// Answers a request: what all other methods come to.
    ///
    /// # Errors
    ///
    /// As for the trait.
    fn run(&self, request: Request<'_, A>) -> Result<(), Error>;

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
    ) -> Result<Forward<A>, Error> {
        let mut evaluation = Evaluation::new();
        self.forward_into(features, weights, targets, &mut evaluation)?;
        Ok(evaluation.forward)
    }

    /// [`forward`](Self::forward) into an evaluation that the caller keeps, with its memory and its scratch limit. All
    /// gradients are left with no rows.
    ///
    /// # Errors
    ///
    /// As for the trait; `evaluation` is then as it was.
    fn forward_into(
        &self,
        features: ArrayView2<'_, A>,
        weights: ArrayView2<'_, A>,
        targets: &Targets<'_, A>,
        evaluation: &mut Evaluation<A>,
    ) -> Result<(), Error> {
        let request = Request {
            features: features.reborrow(),
            wanted: Wanted::Loss(weights.reborrow()),
            targets: targets.reborrow(),
            evaluation,
            composition: Composition::NONE,
        };
        A::answer(TOKEN, request, &mut |request| self.run(request))
    }

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
    ) -> Result<(), Error> {
        let request = Request {
            features: features.reborrow(),
            wanted: Wanted::Gradients(weights.reborrow()),
            targets: targets.reborrow(),
            evaluation,
            composition: Composition::NONE,
        };
        A::answer(TOKEN, request, &mut |request| self.run(request))
    }

    /// [`evaluate_into`](Self::evaluate_into) without `∂L/∂W` in memory: each block of classes is handed to `update` when its
    /// gradient is complete, so that an optimiser changes the weights in place.
    ///
    /// Blocks come in the order of the classes, each class once, after the whole forward pass; how many classes a block has
    /// is the loss's choice. `evaluation` holds everything else; its `grad_weights` is left with no rows.
    ///
    /// A loss of your own that [`answer`](Request::answer)s its request hands out all classes as one block.
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
        let request = Request {
            features: features.reborrow(),
            wanted: Wanted::Update {
                weights: weights.view_mut(),
                update,
            },
            targets: targets.reborrow(),
            evaluation,
            composition: Composition::NONE,
        };
        A::answer(TOKEN, request, &mut |request| self.run(request))
    }

    /// The score of every class for every row, N×C: the logits without margin, the larger the more likely.
    ///
    /// Their softmax is what the loss takes for the probability of each class. For [`CenterLoss`](crate::CenterLoss) the score
    /// is −½‖x − c‖². A [`JointLoss`](crate::JointLoss) has the scores of its classifier. With sub-centers the nearest counts.
    ///
    /// # Errors
    ///
    /// Shapes that disagree, NaN and infinity, rows of zero norm where the loss normalises them, scores beyond the element
    /// type, and [`Error::NoScores`] for a loss that has none.
    ///
    /// # Examples
    ///
    /// The product of features and class weights is larger for the longer class; the angle says otherwise:
    ///
    /// ```
    /// use margin_losses::{ArcFace, MarginLoss};
    /// use margin_losses::ndarray::array;
    ///
    /// let (x, w) = (array![[1.0, 0.1]], array![[0.1, 0.0], [3.0, 3.0]]);
    /// let scores = ArcFace::new(16.0, 0.5)?.scores(x.view(), w.view())?;
    /// assert!(x.dot(&w.t())[[0, 1]] > x.dot(&w.t())[[0, 0]]);
    /// assert!(scores[[0, 0]] > scores[[0, 1]]);
    /// # Ok::<(), margin_losses::Error>(())
    /// ```
    fn scores(
        &self,
        features: ArrayView2<'_, A>,
        weights: ArrayView2<'_, A>,
    ) -> Result<Array2<A>, Error> {
        let mut scores = Array2::default((0, 0));
        ask(self, features, weights, Scores::All(&mut scores))?;
        Ok(scores)
    }

    /// The k classes of the highest [`scores`](Self::scores), the best first; of equals the first class. It takes no memory
    /// for the other classes.
    ///
    /// # Errors
    ///
    /// As for [`scores`](Self::scores), and [`Error::TopK`] if k is 0 or larger than C.
    fn top_k(
        &self,
        features: ArrayView2<'_, A>,
        weights: ArrayView2<'_, A>,
        k: usize,
    ) -> Result<TopClasses<A>, Error> {
        let mut top = TopClasses::default();
        ask(self, features, weights, Scores::Top(k, &mut top))?;
        Ok(top)
    }

    /// The best class of each row: what the loss takes the features for.
    ///
    /// # Errors
    ///
    /// As for [`scores`](Self::scores).
    ///
    /// # Examples
    ///
    /// ```
    /// use margin_losses::{ArcFace, MarginLoss};
    /// use margin_losses::ndarray::array;
    ///
    /// let (x, w) = (array![[1.0, 0.1], [0.0, 2.0]], array![[0.1, 0.0], [3.0, 3.0]]);
    /// assert_eq!(ArcFace::default().predict(x.view(), w.view())?, array![0, 1]);
    /// # Ok::<(), margin_losses::Error>(())
    /// ```
    fn predict(
        &self,
        features: ArrayView2<'_, A>,
        weights: ArrayView2<'_, A>,
    ) -> Result<Array1<usize>, Error> {
        let top = self.top_k(features, weights, 1)?;
        Ok(top.classes.remove_axis(Axis(1)))
    }

    /// Writes the loss and its parameters for a log, on one line: what `Display` prints of a `dyn MarginLoss`.
    ///
    /// Losses of this crate write the line that [`AnyLoss`](crate::AnyLoss) reads, but for more than 16 biases. A loss of your own writes its `Debug`
    /// form unless it has this method.
    ///
    /// # Errors
    ///
    /// Those of the formatter.
    ///
    /// # Examples
    ///
    /// ```
    /// use margin_losses::{ArcFace, JointLoss, MarginLoss, SoftmaxLoss};
    /// use margin_losses::ndarray::Array2;
    ///
    /// let centers = Array2::zeros((10, 16));
    /// let losses: [Box<dyn MarginLoss<f32> + '_>; 2] = [
    ///     Box::new(ArcFace::new(32.0, 0.5)?),
    ///     Box::new(JointLoss::new(SoftmaxLoss::new(), centers.view(), 0.003)?),
    /// ];
    /// assert_eq!(losses[0].to_string(), "arcface:s=32,m=0.5");
    /// assert_eq!(losses[1].to_string(), "softmax+center:lambda=0.003");
    /// # Ok::<(), margin_losses::Error>(())
    /// ```
    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }

    /// K, the rows of W that each class has: 1, but for [sub-centers](crate::Composed::with_sub_centers).
    fn sub_centers(&self) -> usize {
        1
    }

    /// The numbers that the loss itself learns: the bias of [`SoftmaxLoss`](crate::SoftmaxLoss), of
    /// [`SphereFace2`](crate::SphereFace2) and of [`UniFace`](crate::UniFace), the scale of [`NormFace`](crate::NormFace) and of
    /// [`MarginSoftmax`](crate::MarginSoftmax) if it is learned, the margins of [`AdaptiveFace`](crate::AdaptiveFace). Empty for all
    /// other losses.
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

    /// The running statistics of the batches so far, for losses that keep some. Empty for most losses.
    ///
    /// Evaluating does not change them, but [`Forward::statistics`] has what they become with this batch: the loss computes
    /// these first, and its value from them. A training loop puts them back after each step, and an evaluation of other data
    /// does not. Every row that is not [ignored](Targets#rows-that-are-ignored) counts alike in them, whatever its weight.
    fn statistics(&self) -> &[f64] {
        &[]
    }

    /// Replaces the statistics, by [`Forward::statistics`] after a step, or by those of a checkpoint.
    ///
    /// # Errors
    ///
    /// [`Error::StatisticCount`] if `values` has another length than [`statistics`](Self::statistics), and
    /// [`Error::Parameter`] if a value is out of range; the loss is then as it was.
    ///
    /// # Examples
    ///
    /// A step of whatever statistics a loss keeps, without knowing which it is:
    ///
    /// ```
    /// use margin_losses::{AnyLoss, MarginLoss, Targets};
    /// use margin_losses::ndarray::array;
    ///
    /// let (x, w) = (array![[1.0, 2.0]], array![[0.0, 1.0], [1.0, 0.0]]);
    /// for line in ["adaface", "normface:s=20"] {
    ///     let mut loss: Box<dyn MarginLoss<f64>> = Box::new(line.parse::<AnyLoss>()?);
    ///     let out = loss.evaluate(x.view(), w.view(), &Targets::new(&[0]))?;
    ///     loss.set_statistics(out.statistics())?;
    /// }
    /// # Ok::<(), margin_losses::Error>(())
    /// ```
    fn set_statistics(&mut self, values: &[f64]) -> Result<(), Error> {
        if values.is_empty() {
            Ok(())
        } else {
            Err(Error::StatisticCount {
                expected: 0,
                found: values.len(),
            })
        }
    }
}

fn ask<A: Float, L: MarginLoss<A> + ?Sized>(
    loss: &L,
    features: ArrayView2<'_, A>,
    weights: ArrayView2<'_, A>,
    scores: Scores<'_, A>,
) -> Result<(), Error> {
    loss.run(Request {
        features: features.reborrow(),
        wanted: Wanted::Scores(weights.reborrow(), scores),
        targets: Targets::new(&[0_usize; 0]),
        evaluation: &mut Evaluation::new(),
        composition: Composition::NONE,
    })
}

/// What the loss [says of itself](MarginLoss::describe).
impl<A: Float> fmt::Display for dyn MarginLoss<A> + '_ {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.describe(f)
    }
}

/// A loss behind a pointer is a loss.
macro_rules! behind {
    ($pointer:ty) => {
        impl<A: Float, L: MarginLoss<A> + ?Sized> MarginLoss<A> for $pointer {
            fn run(&self, request: Request<'_, A>) -> Result<(), Error> {
                (**self).run(request)
            }

            fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                (**self).describe(f)
            }

            fn sub_centers(&self) -> usize {
                (**self).sub_centers()
            }

            fn learnables(&self) -> &[f64] {
                (**self).learnables()
            }

            fn set_learnables(&mut self, values: &[f64]) -> Result<(), Error> {
                (**self).set_learnables(values)
            }

            fn statistics(&self) -> &[f64] {
                (**self).statistics()
            }

            fn set_statistics(&mut self, values: &[f64]) -> Result<(), Error> {
                (**self).set_statistics(values)
            }
        }
    };
}
behind!(&mut L);
behind!(Box<L>);
