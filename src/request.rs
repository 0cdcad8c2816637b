//! One call of a loss: its arguments, and where its results go.

use core::fmt;

use ndarray::{Array1, Array2, ArrayView2, ArrayViewMut2};

use crate::check;
use crate::error::{Argument, Error};
use crate::evaluation::{ClassBlock, Evaluation, Forward, Reading};
use crate::inter_topk::InterTopK;
use crate::scores::Scores;
use crate::targets::Targets;

/// What a [`MarginLoss`](crate::MarginLoss) is asked: the arguments of one call, whether gradients are wanted, and where the
/// results go.
///
/// The methods of the trait make it; a loss of your own takes it apart and [`answer`](Self::answer)s it. It has no rows that
/// are [ignored](Targets#rows-that-are-ignored): they have been left out, and N is the number of the others. Rows are counted
/// from 0 without them, in errors too. [`row`](Self::row) is the row of the caller's batch.
#[derive(Debug)]
pub struct Request<'a, A> {
    pub(crate) features: ArrayView2<'a, A>,
    pub(crate) wanted: Wanted<'a, A>,
    pub(crate) targets: Targets<'a, A>,
    pub(crate) evaluation: &'a mut Evaluation<A>,
    pub(crate) composition: Composition<'a>,
}

/// What is composed with the loss: see [`Composed`](crate::Composed).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Composition<'a> {
    /// K.
    pub(crate) sub_centers: usize,
    /// ε.
    pub(crate) smoothing: f64,
    /// γ.
    pub(crate) focal: f64,
    /// τ ln π, one for each class; empty for none.
    pub(crate) log_priors: &'a [f64],
    pub(crate) inter_topk: Option<InterTopK>,
}

impl Composition<'_> {
    /// Nothing.
    pub(crate) const NONE: Self = Self {
        sub_centers: 1,
        smoothing: 0.0,
        focal: 0.0,
        log_priors: &[],
        inter_topk: None,
    };

    /// Refuses what is no loss together, whatever it is composed with.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let with = if self.smoothing == 0.0 {
            return Ok(());
        } else if self.sub_centers > 1 {
            "sub-centers"
        } else if self.focal != 0.0 {
            "focal modulation"
        } else if self.inter_topk.is_some() {
            "an inter-topk penalty"
        } else {
            return Ok(());
        };
        Err(Error::NotComposable {
            what: "label smoothing",
            with,
        })
    }
}

/// What an evaluation is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aim {
    /// The loss alone.
    Loss,
    /// The loss and all gradients.
    Gradients,
    /// The same, with ∂W handed out run by run.
    Stream,
}

/// What is wanted, and of which class weights.
pub(crate) enum Wanted<'a, A> {
    /// The loss alone.
    Loss(ArrayView2<'a, A>),
    /// All gradients.
    Gradients(ArrayView2<'a, A>),
    /// The same, with ∂W handed out block by block.
    Update {
        weights: ArrayViewMut2<'a, A>,
        update: &'a mut dyn FnMut(ClassBlock<'_, A>),
    },
    /// No loss, but which class it is.
    Scores(ArrayView2<'a, A>, Scores<'a, A>),
}

impl<A> Wanted<'_, A> {
    pub(crate) fn aim(&self) -> Aim {
        match self {
            Self::Loss(_) | Self::Scores(..) => Aim::Loss,
            Self::Gradients(_) => Aim::Gradients,
            Self::Update { .. } => Aim::Stream,
        }
    }

    pub(crate) fn weights(&self) -> ArrayView2<'_, A> {
        match self {
            Self::Loss(weights) | Self::Gradients(weights) | Self::Scores(weights, _) => {
                weights.view()
            }
            Self::Update { weights, .. } => weights.view(),
        }
    }
}

impl<A> fmt::Debug for Wanted<'_, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Loss(_) => "Loss",
            Self::Gradients(_) => "Gradients",
            Self::Update { .. } => "Update",
            Self::Scores(..) => "Scores",
        })
    }
}

impl<A> Request<'_, A> {
    /// The features, N×d.
    #[must_use]
    pub fn features(&self) -> ArrayView2<'_, A> {
        self.features.view()
    }

    /// The class weights, C×d.
    #[must_use]
    pub fn weights(&self) -> ArrayView2<'_, A> {
        self.wanted.weights()
    }

    /// The labels, weights and reduction.
    #[must_use]
    pub fn targets(&self) -> Targets<'_, A> {
        self.targets.reborrow()
    }

    /// The row of the caller's batch, ignored ones counted, that is this row of the request.
    ///
    /// # Panics
    ///
    /// If there is no such row, and rows are ignored.
    #[must_use]
    #[track_caller]
    pub fn row(&self, row: usize) -> usize {
        self.targets.labels().rows().map_or(row, |rows| rows[row])
    }

    /// Whether gradients are wanted, or the loss alone.
    #[must_use]
    pub fn wants_gradients(&self) -> bool {
        matches!(self.wanted, Wanted::Gradients(_) | Wanted::Update { .. })
    }

    /// Whether no loss is wanted, but the scores of the classes: see [`answer_scores`](Self::answer_scores).
    #[must_use]
    pub fn wants_scores(&self) -> bool {
        matches!(self.wanted, Wanted::Scores(..))
    }

    /// C.
    pub(crate) fn classes(&self) -> usize {
        self.weights().nrows() / self.composition.sub_centers
    }

    /// The same request, for another loss to answer first.
    pub fn reborrow(&mut self) -> Request<'_, A> {
        Request {
            features: self.features.view(),
            wanted: match &mut self.wanted {
                Wanted::Loss(weights) => Wanted::Loss(weights.view()),
                Wanted::Gradients(weights) => Wanted::Gradients(weights.view()),
                Wanted::Update { weights, update } => Wanted::Update {
                    weights: weights.view_mut(),
                    update: &mut **update,
                },
                Wanted::Scores(weights, scores) => {
                    Wanted::Scores(weights.view(), scores.reborrow())
                }
            },
            targets: self.targets.reborrow(),
            evaluation: self.evaluation,
            composition: self.composition,
        }
    }

    /// Refuses what is composed with a loss that the driver does not answer.
    pub(crate) fn check_alone(&self) -> Result<(), Error> {
        if self.composition == Composition::NONE {
            Ok(())
        } else {
            Err(Error::NotComposable {
                what: "what Composed adds",
                with: "a loss that is no softmax over a linear or cosine layer",
            })
        }
    }
}

impl<A: num_traits::Float> Request<'_, A> {
    /// The labels as classes, once shapes, labels and row weights have been checked; entries have not been looked at.
    ///
    /// # Errors
    ///
    /// [`Error::NoScores`] if no loss is [wanted](Self::wants_scores), shapes that disagree, labels out of range, weights that
    /// are not finite or negative, and a mean without rows or weights; [`Error::NotComposable`] if the loss is
    /// [`Composed`](crate::Composed), which a loss of your own cannot be.
    pub fn checked_labels(&self) -> Result<Vec<usize>, Error> {
        self.check_alone()?;
        self.labels(Argument::ClassWeights, 1)
    }

    /// The same for rows of W, or of centers, that come in groups.
    pub(crate) fn labels(&self, argument: Argument, group: usize) -> Result<Vec<usize>, Error> {
        if self.wants_scores() {
            return Err(Error::NoScores);
        }
        let weights = self.wanted.weights();
        check::batch(self.features, weights, argument, group, &self.targets)
    }

    /// ∂L/∂ℓᵢ of each row: its row weight times the weight of its label, over the divisor of the mean.
    #[must_use]
    pub fn coefficients(&self) -> Vec<f64> {
        check::coefficients(&self.targets)
    }

    /// Gives the losses ℓᵢ of the rows, and the gradients of what they are reduced to, ∂X (N×d) and ∂W (C×d). Gradients that
    /// are not wanted may be empty.
    ///
    /// # Errors
    ///
    /// [`Error::Overflow`] or [`Error::BatchOverflow`] if a loss or a gradient is not finite; nothing has been written then.
    ///
    /// # Panics
    ///
    /// If there is not one loss for each row, and if gradients are wanted and have another shape.
    #[track_caller]
    pub fn answer(
        self,
        row_losses: impl IntoIterator<Item = f64>,
        grad_features: Array2<A>,
        grad_weights: Array2<A>,
    ) -> Result<(), Error>
    where
        A: Default,
    {
        let coefficients = self.coefficients();
        let row_losses: Vec<f64> = row_losses.into_iter().collect();
        assert_eq!(
            row_losses.len(),
            coefficients.len(),
            "the number of row losses"
        );
        let (loss, row_losses) = check::reduce(&coefficients, row_losses.into_iter())?;
        if self.wants_gradients() {
            for (gradient, argument) in [
                (&grad_features, Argument::Features),
                (&grad_weights, Argument::ClassWeights),
            ] {
                if let Some(row) = check::first_not_finite(gradient.view()) {
                    return Err(Error::overflow("gradient", argument, row));
                }
            }
        }
        let none = || Array1::from_elem(coefficients.len(), A::zero());
        let forward = Forward {
            loss,
            row_losses: row_losses.into(),
            target_logits: none(),
            target_cosines: none(),
            correct: Array1::default(0),
            ignored: Array1::default(0),
            sub_centers: Array1::default(0),
            statistics: Vec::new(),
            reading: Reading::default(),
        };
        self.deliver(forward, grad_features, grad_weights);
        Ok(())
    }

    /// Gives the scores of all classes, N×C, where those are [wanted](Self::wants_scores) in the place of a loss: the larger the
    /// more likely. A loss that cannot passes on [`Error::NoScores`] from [`checked_labels`](Self::checked_labels).
    ///
    /// # Errors
    ///
    /// [`Error::TopK`] if more classes are to be chosen than there are, [`Error::Overflow`] if a score is not finite.
    ///
    /// # Panics
    ///
    /// If scores are not wanted, or have another shape.
    #[track_caller]
    pub fn answer_scores(self, scores: Array2<A>) -> Result<(), Error> {
        self.check_alone()?;
        let shape = (self.features.nrows(), self.weights().nrows());
        assert_eq!(scores.dim(), shape, "the shape of the scores");
        let Wanted::Scores(_, wanted) = self.wanted else {
            panic!("a loss is wanted, not scores");
        };
        wanted.check(shape.1)?;
        if let Some(row) = check::first_not_finite(scores.view()) {
            return Err(Error::overflow("score", Argument::Features, row));
        }
        wanted.fill(scores);
        Ok(())
    }

    /// Writes the results, and hands ∂W out if that is wanted.
    #[track_caller]
    pub(crate) fn deliver(
        self,
        forward: Forward<A>,
        grad_features: Array2<A>,
        grad_weights: Array2<A>,
    ) where
        A: Default,
    {
        let dim = self.features.ncols();
        if self.wants_gradients() {
            assert_eq!(grad_features.dim(), self.features.dim(), "the shape of ∂X");
            assert_eq!(grad_weights.dim(), self.weights().dim(), "the shape of ∂W");
        }
        let out = self.evaluation;
        out.forward = forward;
        out.grad_features = grad_features;
        out.grad_learnables = Array1::default(0);
        out.grad_centers = Array2::default((0, 0));
        match self.wanted {
            Wanted::Loss(_) | Wanted::Scores(..) => {
                out.grad_features = Array2::default((0, dim));
                out.grad_weights = Array2::default((0, dim));
            }
            Wanted::Gradients(_) => out.grad_weights = grad_weights,
            Wanted::Update {
                mut weights,
                update,
            } => {
                out.grad_weights = Array2::default((0, dim));
                update(ClassBlock {
                    classes: 0..weights.nrows(),
                    weights: weights.view_mut(),
                    gradient: grad_weights.view(),
                });
            }
        }
    }
}
