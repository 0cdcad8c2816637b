//! Joint supervision: a loss that classifies, plus λ times the center loss.

use ndarray::{ArrayView2, ArrayViewMut2};

use crate::center::CenterTerm;
use crate::check;
use crate::error::{Argument, Error, parameter};
use crate::float::Float;
use crate::linear_cross_entropy::shaped;
use crate::loss::{ClassBlock, Evaluation, Forward, MarginLoss, Targets};

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
/// `&mut` to one, or a box. Both terms have the same reduction and the same row weights.
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
/// Those of the classifier and of the center loss.
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
#[derive(Clone, Debug)]
pub struct JointLoss<'c, A, L> {
    classifier: L,
    centers: ArrayView2<'c, A>,
    lambda: f64,
}

impl<'c, A: Float, L: MarginLoss<A>> JointLoss<'c, A, L> {
    /// The loss that classifies, the centers, and λ ≥ 0.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] if λ is negative or not finite.
    pub fn new(classifier: L, centers: ArrayView2<'c, A>, lambda: f64) -> Result<Self, Error> {
        let holds = lambda >= 0.0 && lambda.is_finite();
        let lambda = parameter("lambda", lambda, holds, "be non-negative and finite")?;
        Ok(Self {
            classifier,
            centers,
            lambda,
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

    /// λ times the center loss, once the number of centers is known to be the number of classes.
    fn center_term(
        &self,
        features: ArrayView2<'_, A>,
        weights: ArrayView2<'_, A>,
        targets: &Targets<'_, A>,
    ) -> Result<CenterTerm<A>, Error> {
        check::batch(features, weights, Argument::ClassWeights, targets)?;
        if self.centers.nrows() != weights.nrows() {
            return Err(Error::RowCount {
                argument: Argument::Centers,
                expected: weights.nrows(),
                found: self.centers.nrows(),
            });
        }
        CenterTerm::new(
            features,
            self.centers,
            Argument::Centers,
            targets,
            self.lambda,
        )
    }

    /// Refuses terms that would add up to more than the element type can hold.
    ///
    /// A term that is small beside the largest number cannot make anything overflow. For one that is not, the classifier
    /// evaluates once more, aside, for the error has to be found before anything is written.
    fn check_sum(
        &self,
        term: &CenterTerm<A>,
        features: ArrayView2<'_, A>,
        weights: ArrayView2<'_, A>,
        targets: &Targets<'_, A>,
    ) -> Result<(), Error> {
        let negligible = A::max_value() * A::epsilon() / A::narrow(4.0);
        let mut entries = (term.grad_features.iter())
            .chain(&term.forward.row_losses)
            .chain([&term.forward.loss]);
        if entries.all(|entry| entry.abs() <= negligible) {
            return Ok(());
        }
        let mut aside = self.classifier.evaluate(features, weights, targets)?;
        add(&mut aside.forward, &term.forward)?;
        let mut sums = aside.grad_features.iter().zip(&term.grad_features);
        match sums.position(|(&entry, &pull)| !(entry + pull).is_finite()) {
            None => Ok(()),
            Some(position) => Err(Error::Overflow {
                quantity: "gradient",
                argument: Argument::Features,
                row: position / features.ncols(),
            }),
        }
    }

    /// Has the classifier evaluate, and adds the center loss, in which nothing can be refused any more.
    fn add_to(
        &self,
        term: CenterTerm<A>,
        evaluation: &mut Evaluation<A>,
        evaluate: impl FnOnce(&L, &mut Evaluation<A>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        // Kept aside: the classifier, which has no centers, would drop this memory.
        let mut grad_centers = core::mem::take(&mut evaluation.grad_centers);
        if let Err(error) = evaluate(&self.classifier, evaluation) {
            evaluation.grad_centers = grad_centers;
            return Err(error);
        }
        add(&mut evaluation.forward, &term.forward)?;
        for (entry, &pull) in evaluation.grad_features.iter_mut().zip(&term.grad_features) {
            *entry += pull;
        }
        term.write_center_gradient(shaped(&mut grad_centers, self.centers.dim()).view_mut());
        evaluation.grad_centers = grad_centers;
        Ok(())
    }
}

/// Adds the losses, or says which row's is too large.
fn add<A: Float>(forward: &mut Forward<A>, term: &Forward<A>) -> Result<(), Error> {
    let row_losses = &forward.row_losses + &term.row_losses;
    let loss = forward.loss + term.loss;
    if let Some(row) = row_losses.iter().position(|loss| !loss.is_finite()) {
        return Err(too_large(row));
    }
    if !loss.is_finite() {
        return Err(too_large(0));
    }
    forward.row_losses = row_losses;
    forward.loss = loss;
    Ok(())
}

fn too_large(row: usize) -> Error {
    Error::Overflow {
        quantity: "loss",
        argument: Argument::Features,
        row,
    }
}

impl<A: Float, L: MarginLoss<A>> MarginLoss<A> for JointLoss<'_, A, L> {
    fn forward(
        &self,
        features: ArrayView2<'_, A>,
        weights: ArrayView2<'_, A>,
        targets: &Targets<'_, A>,
    ) -> Result<Forward<A>, Error> {
        let term = self.center_term(features, weights, targets)?;
        let mut forward = self.classifier.forward(features, weights, targets)?;
        add(&mut forward, &term.forward)?;
        Ok(forward)
    }

    fn evaluate_into(
        &self,
        features: ArrayView2<'_, A>,
        weights: ArrayView2<'_, A>,
        targets: &Targets<'_, A>,
        evaluation: &mut Evaluation<A>,
    ) -> Result<(), Error> {
        let term = self.center_term(features, weights, targets)?;
        self.check_sum(&term, features, weights, targets)?;
        self.add_to(term, evaluation, |classifier, evaluation| {
            classifier.evaluate_into(features, weights, targets, evaluation)
        })
    }

    fn evaluate_streamed(
        &self,
        features: ArrayView2<'_, A>,
        weights: ArrayViewMut2<'_, A>,
        targets: &Targets<'_, A>,
        evaluation: &mut Evaluation<A>,
        update: &mut dyn FnMut(ClassBlock<'_, A>),
    ) -> Result<(), Error> {
        let term = self.center_term(features, weights.view(), targets)?;
        self.check_sum(&term, features, weights.view(), targets)?;
        self.add_to(term, evaluation, |classifier, evaluation| {
            classifier.evaluate_streamed(features, weights, targets, evaluation, update)
        })
    }

    fn learnables(&self) -> &[f64] {
        self.classifier.learnables()
    }

    fn set_learnables(&mut self, values: &[f64]) -> Result<(), Error> {
        self.classifier.set_learnables(values)
    }
}
