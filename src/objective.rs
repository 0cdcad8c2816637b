//! What a training minimises, as a command line or a configuration names it: a loss, and center loss with it or not.

use core::fmt;
use core::mem;
use core::str::FromStr;

use ndarray::ArrayView2;

use crate::any_loss::AnyLoss;
use crate::composed::Composed;
use crate::error::Error;
use crate::float::Float;
use crate::joint::{self, JointLoss};
use crate::loss::MarginLoss;
use crate::text::{self, Term};

/// λ of the paper.
const CENTER_WEIGHT: f64 = 0.003;

/// A loss that classifies, chosen at run time, and λ times the center loss added to it or not.
///
/// | text | what is minimised |
/// |---|---|
/// | `arcface:s=64,m=0.5` | that loss, as [`AnyLoss`] reads it |
/// | `softmax+center:lambda=0.01` | softmax + 0.01 · center loss |
/// | `softmax+center` | the same with the paper's λ = 0.003 |
/// | `cosface:s=30,m=0.2+center:lambda=0.1` | any loss that classifies may stand before the sign |
/// | `arcface:s=32,m=0.2+subcenters:k=3` | three [sub-centers](Composed::with_sub_centers) for each class |
/// | `softmax+smoothing:epsilon=0.1`, `cosface+focal:gamma=2` | smoothed labels, focal modulation: see [`Composed`] |
/// | `arcface+intertopk:k=5,m=0.06`, `cosface+intertopk:k=5,m=0.06,cosine` | an [inter-topk penalty](crate::InterTopK), angular or in the cosine |
/// | `softmax+priors:log=-0.1/-2.3` | class priors τ ln π, one for each class |
///
/// The center loss alone is refused, because it is least when all features are equal. The centers are the caller's:
/// [`over_centers`](Self::over_centers) gives the loss of a step, and
/// [`CenterLoss::update_centers`](crate::CenterLoss::update_centers) moves them.
///
/// With the feature `serde` a configuration has either the line or the table,
/// `{ "classifier": { "softmax": {} }, "lambda": 0.01 }`. The table is what is saved.
///
/// # Errors
///
/// Reading a text gives the errors of [`AnyLoss`] and those of [`new`](Self::new) and [`with_center`](Self::with_center).
///
/// # Examples
///
/// ```
/// use margin_losses::{CenterLoss, Objective, Targets};
/// use margin_losses::ndarray::{Array2, array};
///
/// let mut objective: Objective = "softmax+center:lambda=0.01".parse()?;
/// assert_eq!(objective.to_string(), "softmax+center:lambda=0.01");
///
/// let (x, w) = (array![[1.0, 2.0], [2.0, -0.5]], array![[0.0, 1.0], [1.0, 0.0]]);
/// let (mut centers, labels) = (Array2::zeros((2, 2)), [0, 1]);
/// let out = objective.over_centers(centers.view()).evaluate(x.view(), w.view(), &Targets::new(&labels))?;
/// assert_eq!(out.grad_centers.dim(), (2, 2));
/// if objective.lambda().is_some() {
///     CenterLoss::update_centers(centers.view_mut(), x.view(), &labels, 0.5)?;
/// }
///
/// let error = "center".parse::<Objective>().unwrap_err();
/// assert!(error.to_string().ends_with("as in softmax+center:lambda=0.003"));
/// # Ok::<(), margin_losses::Error>(())
/// ```
///
/// # References
///
/// Those of [`JointLoss`].
#[derive(Clone, Debug, PartialEq)]
pub struct Objective {
    classifier: Composed<AnyLoss>,
    lambda: Option<f64>,
}

impl Objective {
    /// A loss that classifies, or a [`Composed`] one, without center loss.
    ///
    /// # Errors
    ///
    /// [`Error::NoClassifier`] if it is the center loss.
    pub fn new(classifier: impl Into<Composed<AnyLoss>>) -> Result<Self, Error> {
        let classifier = classifier.into();
        match classifier.loss() {
            AnyLoss::Center(_) => Err(Error::NoClassifier),
            _ => Ok(Self {
                classifier,
                lambda: None,
            }),
        }
    }

    /// The same with λ ≥ 0 times the center loss.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] if λ is negative or not finite.
    pub fn with_center(self, lambda: f64) -> Result<Self, Error> {
        let lambda = Some(joint::center_weight(lambda)?);
        Ok(Self { lambda, ..self })
    }

    /// The loss that classifies, with what is composed with it.
    #[must_use]
    pub fn classifier(&self) -> &Composed<AnyLoss> {
        &self.classifier
    }

    /// Another loss that classifies, as a schedule asks for; what is composed with it, and λ, stay.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new); the objective is then as it was.
    pub fn set_classifier(&mut self, classifier: impl Into<AnyLoss>) -> Result<(), Error> {
        match classifier.into() {
            AnyLoss::Center(_) => Err(Error::NoClassifier),
            classifier => {
                *self.classifier.loss_mut() = classifier;
                Ok(())
            }
        }
    }

    /// λ, if there is a center term; then there have to be centers.
    #[must_use]
    pub fn lambda(&self) -> Option<f64> {
        self.lambda
    }

    /// The loss of one step: the [`JointLoss`] over these centers, C×d, if there is a center term. Otherwise it is the
    /// classifier, and the centers are not looked at: an array of 0×0 will do.
    pub fn over_centers<'c, A: Float>(
        &'c mut self,
        centers: ArrayView2<'c, A>,
    ) -> Box<dyn MarginLoss<A> + 'c> {
        let classifier = &mut self.classifier;
        match self.lambda {
            None => Box::new(classifier),
            Some(lambda) => Box::new(JointLoss {
                classifier,
                centers,
                lambda,
            }),
        }
    }

    /// What the classifier learns; see [`MarginLoss::learnables`].
    #[must_use]
    pub fn learnables(&self) -> &[f64] {
        self.classifier.loss().learnables()
    }

    /// Replaces that; see [`MarginLoss::set_learnables`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn set_learnables(&mut self, values: &[f64]) -> Result<(), Error> {
        self.classifier.loss_mut().set_learnables(values)
    }

    /// The running statistics of the classifier; see [`MarginLoss::statistics`].
    #[must_use]
    pub fn statistics(&self) -> &[f64] {
        self.classifier.loss().statistics()
    }

    /// Replaces them; see [`MarginLoss::set_statistics`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn set_statistics(&mut self, values: &[f64]) -> Result<(), Error> {
        self.classifier.loss_mut().set_statistics(values)
    }
}

impl FromStr for Objective {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (loss, mut rest) = match text::term(text) {
            None => (text, None),
            Some((loss, rest)) => (loss, Some(rest)),
        };
        let mut composed = Composed::new(loss.parse::<AnyLoss>()?);
        let (mut lambda, mut seen) = (None, Vec::new());
        while let Some(terms) = rest {
            let (term, after) = match text::term(terms) {
                None => (terms, None),
                Some((term, after)) => (term, Some(after)),
            };
            let read = Term::read(term)?;
            let kind = mem::discriminant(&read);
            if seen.contains(&kind) {
                return Err(Error::Unreadable {
                    name: "term",
                    found: term.to_owned(),
                    rule: "be given once",
                });
            }
            seen.push(kind);
            composed = match read {
                Term::SubCenters(k) => composed.with_sub_centers(k)?,
                Term::Smoothing(epsilon) => composed.with_label_smoothing(epsilon)?,
                Term::Focal(gamma) => composed.with_focal(gamma)?,
                Term::LogPriors(log_priors) => composed.with_log_priors(log_priors)?,
                Term::InterTopK(penalty) => composed.with_inter_topk(penalty)?,
                Term::Center(given) => {
                    lambda = Some(given.unwrap_or(CENTER_WEIGHT));
                    composed
                }
            };
            rest = after;
        }
        let objective = Self::new(composed)?;
        match lambda {
            None => Ok(objective),
            Some(lambda) => objective.with_center(lambda),
        }
    }
}

/// The line that is read.
impl fmt::Display for Objective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.classifier.fmt(f)?;
        self.lambda
            .map_or(Ok(()), |lambda| text::write_center(lambda, f))
    }
}
