//! Joint supervision: a loss that classifies, plus λ times the center loss.

use core::fmt;

use ndarray::ArrayView2;

use crate::check;
use crate::error::{Argument, Error, parameter};
use crate::evaluation::Evaluation;
use crate::float::{Float, sealed::TOKEN};
use crate::loss::MarginLoss;
use crate::request::{Request, Wanted};
use crate::text;

/// Any loss of this crate plus λ times [`CenterLoss`](crate::CenterLoss), as the center-loss paper trains.
///
/// ```text
/// L = L_classifier + λ L_center
/// ```
/// ```math
/// L = L_{\text{classifier}} + \lambda\, L_{\text{center}}
/// ```
///
/// The centers are the caller's, like the class weights, and are borrowed: make a `JointLoss` for each step, evaluate, then
/// move the centers by [`CenterLoss::update_centers`](crate::CenterLoss::update_centers). The classifier may be a loss, a
/// `&mut` to one, or a box. Should it have centers of its own, their gradient is not handed out. Both terms have the same reduction and weights, and ignore the same rows.
///
/// # Shapes
///
/// Features N×d, class weights C×d, centers C×d.
///
/// # Gradients
///
/// `∂X` is that of the sum; `∂W` and the learnables' are the classifier's;
/// [`grad_centers`](crate::Evaluation::grad_centers) is that of the centers, for those who train them by gradient descent
/// instead:
///
/// ```text
/// ∂c_j = λ Σ_{yᵢ=j} rᵢ/N · (c_j − xᵢ)
/// ```
/// ```math
/// \frac{\partial L}{\partial c_j} = \lambda \sum_{i:\, y_i = j} \frac{r_i}{N}\, (c_j - x_i)
/// ```
///
/// # Numerical notes
///
/// Those of both terms. Should their sum leave the range of the element type, it is refused before anything is written.
///
/// # Errors
///
/// Those of the classifier and of the center loss; [`Error::NotComposable`] if rows have a second target, for a feature has one
/// center.
///
/// # Examples
///
/// ```
/// use margin_losses::{CenterLoss, JointLoss, MarginLoss, SoftmaxLoss, Targets};
/// use margin_losses::ndarray::{Array2, array};
///
/// let features = array![[1.0, 2.0], [2.0, -0.5]];
/// let weights = array![[0.0, 1.0], [1.0, 0.0]];
/// let mut centers = Array2::zeros((2, 2));
/// let labels = [0, 1];
///
/// let loss = JointLoss::new(SoftmaxLoss::new(), centers.view(), 0.003)?;
/// let out = loss.evaluate(features.view(), weights.view(), &Targets::new(&labels))?;
/// assert_eq!(out.grad_centers.dim(), (2, 2));
/// CenterLoss::update_centers(centers.view_mut(), features.view(), &labels, 0.5)?;
/// # Ok::<(), margin_losses::Error>(())
/// ```
///
/// # References
///
/// Wen et al., *A Discriminative Feature Learning Approach for Deep Face Recognition*, ECCV 2016, equation 5, with λ = 0.003
/// and α = 0.5.
#[derive(Clone)]
pub struct JointLoss<'c, A, L> {
    pub(crate) classifier: L,
    pub(crate) centers: ArrayView2<'c, A>,
    pub(crate) lambda: f64,
}

/// λ of a center term.
pub(crate) fn center_weight(lambda: f64) -> Result<f64, Error> {
    let holds = lambda >= 0.0 && lambda.is_finite();
    parameter("lambda", lambda, holds, "be non-negative and finite")
}

impl<'c, A: Float, L: MarginLoss<A>> JointLoss<'c, A, L> {
    /// The loss that classifies, the centers, and λ ≥ 0.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] if λ is negative or not finite.
    pub fn new(classifier: L, centers: ArrayView2<'c, A>, lambda: f64) -> Result<Self, Error> {
        Ok(Self {
            classifier,
            centers,
            lambda: center_weight(lambda)?,
        })
    }

    /// The loss that classifies.
    #[must_use]
    pub fn classifier(&self) -> &L {
        &self.classifier
    }

    /// λ.
    #[must_use]
    pub fn lambda(&self) -> f64 {
        self.lambda
    }
}

/// The classifier's line and the center term, `softmax+center:lambda=0.003`; an [`Objective`](crate::Objective) is read
/// from it.
impl<A: Float, L: MarginLoss<A>> fmt::Display for JointLoss<'_, A, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.classifier.describe(f)?;
        text::write_center(self.lambda, f)
    }
}

/// The centers by their shape, because they may be millions of numbers.
impl<A, L: fmt::Debug> fmt::Debug for JointLoss<'_, A, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (classes, dim) = self.centers.dim();
        f.debug_struct("JointLoss")
            .field("classifier", &self.classifier)
            .field("centers", &format_args!("{classes} × {dim}"))
            .field("lambda", &self.lambda)
            .finish()
    }
}

impl<A: Float, L: MarginLoss<A>> MarginLoss<A> for JointLoss<'_, A, L> {
    fn run(&self, mut request: Request<'_, A>) -> Result<(), Error> {
        if request.wants_scores() {
            return self.classifier.run(request);
        }
        let composition = request.composition;
        let sub_centers = composition
            .sub_centers
            .saturating_mul(self.classifier.sub_centers());
        request.labels(Argument::ClassWeights, sub_centers)?;
        let (classes, centers) = (request.classes_here(sub_centers), self.centers);
        let argument = Argument::Centers;
        check::row_count(argument, classes, centers.nrows())?;
        let (features, targets) = (request.features(), request.targets());
        let term = A::center_term(TOKEN, &request, centers, argument, self.lambda)?;
        let with_gradients = request.wants_gradients().then_some(classes);
        if !A::is_negligible(TOKEN, &term) {
            // The sum may overflow. That has to be found before anything is written, so the classifier evaluates once more,
            // aside.
            let weights = request.weights();
            let mut aside = Evaluation::with_scratch_limit(request.evaluation.scratch.limit());
            self.classifier.run(Request {
                features,
                wanted: if request.wants_gradients() {
                    Wanted::Gradients(weights)
                } else {
                    Wanted::Loss(weights)
                },
                targets,
                evaluation: &mut aside,
                composition,
                shard: request.shard,
            })?;
            A::add_center_term(TOKEN, &term, &mut aside, with_gradients)?;
        }
        // Kept aside: the classifier, which has no centers, would drop this memory.
        let kept = core::mem::take(&mut request.evaluation.grad_centers);
        let answered = self.classifier.run(request.reborrow());
        if answered.is_err() || request.wants_gradients() {
            request.evaluation.grad_centers = kept;
        }
        answered?;
        A::add_center_term(TOKEN, &term, request.evaluation, with_gradients)
    }

    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }

    fn sub_centers(&self) -> usize {
        self.classifier.sub_centers()
    }

    fn learnables(&self) -> &[f64] {
        self.classifier.learnables()
    }

    fn set_learnables(&mut self, values: &[f64]) -> Result<(), Error> {
        self.classifier.set_learnables(values)
    }

    fn statistics(&self) -> &[f64] {
        self.classifier.statistics()
    }

    fn set_statistics(&mut self, values: &[f64]) -> Result<(), Error> {
        self.classifier.set_statistics(values)
    }
}
