//! What is composed with any softmax loss: sub-centers, smoothed labels, class priors, focal modulation, an inter-topk penalty.

use core::fmt;

use crate::any_loss::AnyLoss;
use crate::check;
use crate::error::{Argument, Error, parameter};
use crate::float::Float;
use crate::inter_topk::InterTopK;
use crate::loss::MarginLoss;
use crate::request::{Composition, Request};
use crate::text;

/// A softmax loss of this crate with sub-centers, label smoothing, class priors, focal modulation, an inter-topk penalty, or
/// several of them.
///
/// - **Sub-centers.** Each class has K rows of W, and the nearest counts, for the target and for the others. A class with
///   noisy labels or of several kinds keeps its outliers at a center of their own. W is CK×d; class j has the rows jK to
///   jK + K − 1. [`Forward::sub_centers`](crate::Forward::sub_centers) says which one was nearest.
/// - **Label smoothing.** The share ε of each row's target is spread over all classes. With margins s = 64 and ε = 0.1, this
///   term is the larger one in a trained network.
/// - **Class priors**, or logit adjustment. τ ln π_j is added to the logit of class j, so that rare classes need not be
///   ahead of frequent ones by chance. [`scores`](MarginLoss::scores) and predictions are without it.
/// - **Focal modulation.** A row's loss counts the less, the surer it is.
/// - **Inter-topk penalty.** The k classes that are nearest to a row, but for its own, have a margin too, against the row. See
///   [`InterTopK`].
///
/// Each costs one evaluation, whatever the margin: 256 × 10,000 × 512 with label smoothing takes 1.08 times as long, with
/// sub-centers over as many rows of W 1.1 times (`cargo bench --bench floor -- losses`).
///
/// ```text
/// cosθ_j = max_k cosθ_jk        z_j = s T_j + τ ln π_j
/// ℓ = ln Σ_j exp z_j − (1 − ε) z_y − ε/C Σ_j z_j        F = (1 − e^−ℓ)^γ ℓ
/// ```
/// ```math
/// \cos\theta_j = \max_{k < K} \cos\theta_{jk}, \qquad z_j = s\,T_j + \tau \ln \pi_j, \qquad
/// \ell = \ln \sum_j e^{z_j} - (1 - \varepsilon)\, z_y - \frac{\varepsilon}{C} \sum_j z_j, \qquad
/// F = (1 - e^{-\ell})^\gamma\, \ell
/// ```
///
/// # Shapes
///
/// Features N×d, class weights CK×d, C class priors.
///
/// # Gradients
///
/// Those of the formulas. A sub-center that is not the nearest to any row gets exactly 0. Of equals the first is the nearest.
///
/// # Errors
///
/// Those of the loss; [`Error::SubCenters`] if K does not divide the rows of W; [`Error::NotComposable`] for what is no loss
/// together:
///
/// | what | with | refused by |
/// |---|---|---|
/// | label smoothing | sub-centers, focal modulation, an inter-topk penalty | the methods that add them, and the text |
/// | label smoothing, an inter-topk penalty | a margin that changes the negatives | the evaluation |
/// | label smoothing, focal modulation, an inter-topk penalty | a loss that is no softmax | the evaluation |
/// | an inter-topk penalty | a layer whose logits are no scaled cosines | the evaluation |
/// | class priors | a loss of squared distances | the evaluation |
/// | sub-centers | a layer that does not normalise its class weights | the evaluation |
/// | anything | center loss, a loss of the caller's own, a loss that is composed already | the evaluation |
///
/// # Examples
///
/// ```
/// use margin_losses::{ArcFace, Composed, MarginLoss, Targets};
/// use margin_losses::ndarray::array;
///
/// // Two classes of two sub-centers each.
/// let w = array![[0.0, 1.0], [1.0, 1.0], [1.0, -1.0], [-1.0, 0.0]];
/// let x = array![[0.9, 1.0], [1.0, -0.5]];
/// let loss = Composed::new(ArcFace::new(16.0, 0.2)?).with_sub_centers(2)?.with_focal(2.0)?;
/// let out = loss.evaluate(x.view(), w.view(), &Targets::new(&[0, 1]))?;
/// assert_eq!(out.grad_weights.dim(), (4, 2));
/// assert_eq!(out.forward.sub_centers.to_vec(), [1, 0]);
/// assert_eq!(loss.predict(x.view(), w.view())?.to_vec(), [0, 1]);
/// # Ok::<(), margin_losses::Error>(())
/// ```
///
/// # References
///
/// Sub-centers: Deng et al., *Sub-center ArcFace*, ECCV 2020. Label smoothing: Szegedy et al., *Rethinking the Inception
/// Architecture* ([arXiv:1512.00567](https://arxiv.org/abs/1512.00567)). Class priors: Menon et al., *Long-tail learning via
/// logit adjustment* ([arXiv:2007.07314](https://arxiv.org/abs/2007.07314)). Focal modulation: Lin et al., *Focal Loss for
/// Dense Object Detection* ([arXiv:1708.02002](https://arxiv.org/abs/1708.02002)).
#[derive(Clone, Debug, PartialEq)]
pub struct Composed<L> {
    loss: L,
    sub_centers: usize,
    smoothing: f64,
    focal: f64,
    log_priors: Vec<f64>,
    inter_topk: Option<InterTopK>,
}

/// A loss that nothing is added to.
impl<L: Into<AnyLoss>> From<L> for Composed<AnyLoss> {
    fn from(loss: L) -> Self {
        Self::new(loss.into())
    }
}

impl<L> Composed<L> {
    /// The loss, with nothing added.
    #[must_use]
    pub fn new(loss: L) -> Self {
        Self {
            loss,
            sub_centers: 1,
            smoothing: 0.0,
            focal: 0.0,
            log_priors: Vec::new(),
            inter_topk: None,
        }
    }

    /// With K rows of W for each class.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] unless K ≥ 1; [`Error::NotComposable`] if K > 1 and labels are smoothed.
    pub fn with_sub_centers(self, sub_centers: usize) -> Result<Self, Error> {
        parameter("k", sub_centers as f64, sub_centers > 0, "be at least 1")?;
        Self {
            sub_centers,
            ..self
        }
        .checked()
    }

    /// With the share ε of the targets spread over all classes.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] unless ε ∈ [0, 1); [`Error::NotComposable`] if ε > 0 and there are sub-centers, focal modulation or an
    /// inter-topk penalty.
    pub fn with_label_smoothing(self, epsilon: f64) -> Result<Self, Error> {
        let holds = (0.0..1.0).contains(&epsilon);
        let smoothing = parameter("epsilon", epsilon, holds, "lie in [0, 1)")?;
        Self { smoothing, ..self }.checked()
    }

    /// With focal modulation of the exponent γ; 2 is usual, 0 is none.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] unless γ ∈ [0, 100]; [`Error::NotComposable`] if γ > 0 and labels are smoothed.
    pub fn with_focal(self, gamma: f64) -> Result<Self, Error> {
        let holds = (0.0..=100.0).contains(&gamma);
        let focal = parameter("gamma", gamma, holds, "lie in [0, 100]")?;
        Self { focal, ..self }.checked()
    }

    fn checked(self) -> Result<Self, Error> {
        self.composition().check()?;
        Ok(self)
    }

    /// With τ ln π_j on the logits, where π_j is class j's share of `counts`; τ = 1 is usual. A class that has no sample gets
    /// a count that is not 0, 1 say.
    ///
    /// # Errors
    ///
    /// [`Error::NonFinite`] for a count that is no number, and [`Error::Parameter`] unless each is positive and τ is finite.
    pub fn with_class_priors(self, counts: &[f64], tau: f64) -> Result<Self, Error> {
        let argument = Argument::ClassPriors;
        if let Some(row) = counts.iter().position(|count| !count.is_finite()) {
            return Err(Error::NonFinite { argument, row });
        }
        parameter("tau", tau, tau.is_finite(), "be finite")?;
        for &count in counts {
            parameter("count", count, count > 0.0, "be positive")?;
        }
        // Their sum may overflow where their logarithms do not.
        let largest = counts.iter().fold(0.0, |a: f64, &b| a.max(b));
        let total: f64 = counts.iter().map(|count| count / largest).sum();
        let all = total.ln() + largest.ln();
        self.with_log_priors(
            counts
                .iter()
                .map(|count| tau * (count.ln() - all))
                .collect(),
        )
    }

    /// With these numbers on the logits, one for each class, in the place of τ ln π; none of them for none.
    ///
    /// # Errors
    ///
    /// [`Error::NonFinite`] if one is no number.
    pub fn with_log_priors(self, log_priors: Vec<f64>) -> Result<Self, Error> {
        if let Some(row) = log_priors.iter().position(|prior| !prior.is_finite()) {
            let argument = Argument::ClassPriors;
            return Err(Error::NonFinite { argument, row });
        }
        Ok(Self { log_priors, ..self })
    }

    /// With a penalty for the classes that are nearest to a row; k = 0 is none.
    ///
    /// # Errors
    ///
    /// [`Error::NotComposable`] if labels are smoothed.
    pub fn with_inter_topk(self, penalty: InterTopK) -> Result<Self, Error> {
        let inter_topk = Some(penalty).filter(|penalty| penalty.k() > 0);
        Self { inter_topk, ..self }.checked()
    }

    /// The loss that the rest is added to.
    #[must_use]
    pub fn loss(&self) -> &L {
        &self.loss
    }

    /// The same, to be changed, as a schedule asks for.
    pub fn loss_mut(&mut self) -> &mut L {
        &mut self.loss
    }

    /// ε.
    #[must_use]
    pub fn label_smoothing(&self) -> f64 {
        self.smoothing
    }

    /// γ.
    #[must_use]
    pub fn focal(&self) -> f64 {
        self.focal
    }

    /// τ ln π_j of each class; empty for none.
    #[must_use]
    pub fn log_priors(&self) -> &[f64] {
        &self.log_priors
    }

    /// K.
    #[must_use]
    pub fn sub_centers(&self) -> usize {
        self.sub_centers
    }

    /// The inter-topk penalty, if there is one.
    #[must_use]
    pub fn inter_topk(&self) -> Option<&InterTopK> {
        self.inter_topk.as_ref()
    }

    pub(crate) fn composition(&self) -> Composition<'_> {
        Composition {
            sub_centers: self.sub_centers,
            smoothing: self.smoothing,
            focal: self.focal,
            log_priors: &self.log_priors,
            inter_topk: self.inter_topk,
        }
    }
}

/// The loss's line and what is added to it, `arcface:s=32,m=0.2+subcenters:k=3`.
impl<L: fmt::Display> fmt::Display for Composed<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.loss.fmt(f)?;
        text::write_composition(&self.composition(), f)
    }
}

impl<A: Float, L: MarginLoss<A>> MarginLoss<A> for Composed<L> {
    fn run(&self, mut request: Request<'_, A>) -> Result<(), Error> {
        if request.composition != Composition::NONE {
            return Err(Error::NotComposable {
                what: "what Composed adds",
                with: "a loss that is composed already",
            });
        }
        let (classes, priors) = (
            request.weights().nrows() / self.sub_centers,
            &self.log_priors,
        );
        if !priors.is_empty() {
            check::row_count(Argument::ClassPriors, classes, priors.len())?;
        }
        let mut composed = request.reborrow();
        composed.composition = self.composition();
        self.loss.run(composed)
    }

    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.loss.describe(f)?;
        text::write_composition(&self.composition(), f)
    }

    fn sub_centers(&self) -> usize {
        self.sub_centers.saturating_mul(self.loss.sub_centers())
    }

    fn statistics(&self) -> &[f64] {
        self.loss.statistics()
    }

    fn set_statistics(&mut self, values: &[f64]) -> Result<(), Error> {
        self.loss.set_statistics(values)
    }

    fn learnables(&self) -> &[f64] {
        self.loss.learnables()
    }

    fn set_learnables(&mut self, values: &[f64]) -> Result<(), Error> {
        self.loss.set_learnables(values)
    }
}
