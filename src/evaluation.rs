//! What a loss gives back.

use core::ops::Range;

use ndarray::{Array1, Array2, ArrayView2, ArrayViewMut2};

use crate::scratch::Scratch;

/// What the forward pass gives: the loss, and what a training log wants to know of each row.
///
/// # Shapes
///
/// Every array has N entries, one for each row of the features, but for `correct`, which [`CenterLoss`](crate::CenterLoss)
/// leaves empty, because it does not classify, for `ignored`, which is empty if no row is ignored, and for `sub_centers`. The figures of rows
/// that are [ignored](crate::Targets#rows-that-are-ignored) are 0.
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
/// assert_eq!(forward.loss(), forward.loss);
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
    /// either way. `false` for rows that are ignored.
    pub correct: Array1<bool>,
    /// Whether the row is ignored; empty if none is.
    pub ignored: Array1<bool>,
    /// Which of its class's [sub-centers](crate::Composed::with_sub_centers) is the nearest, in `0..K`; empty if K = 1.
    pub sub_centers: Array1<usize>,
    /// The loss's running statistics once this batch has entered them, in the order of
    /// [`MarginLoss::statistics`](crate::MarginLoss::statistics); empty for a loss that keeps none.
    pub statistics: Vec<f64>,
    pub(crate) reading: Reading,
}

/// What the figures of a row say beyond its cosine and whether it is right; by default nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Reading {
    /// The target's logit is s ψ(θ), and nothing is added to it.
    pub(crate) margin: bool,
    /// ℓ + z_y is the logarithm of Σ exp z, where the other classes' logits are s cosθ.
    pub(crate) others: bool,
}

impl<A> Forward<A> {
    /// The reduced loss, as [`Evaluation::loss`].
    #[must_use]
    pub fn loss(&self) -> A
    where
        A: Copy,
    {
        self.loss
    }

    /// The share of rows that are classified right without the margin, in [0, 1], among those that are not ignored; `None`
    /// if there are none, and for losses that do not classify.
    #[must_use]
    pub fn accuracy(&self) -> Option<f64> {
        let count = |flags: &Array1<bool>| flags.iter().filter(|&&flag| flag).count();
        let rows = self.correct.len().saturating_sub(count(&self.ignored));
        (rows > 0).then(|| count(&self.correct) as f64 / rows as f64)
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
/// assert!(out.loss() > 0.0 && out.accuracy().is_some());
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
    /// The gradients of the loss's own learnables, in the order of [`MarginLoss::learnables`](crate::MarginLoss::learnables).
    pub grad_learnables: Array1<A>,
    /// ∂L/∂c, C×d, of [`JointLoss`](crate::JointLoss); 0×0 for every other loss.
    pub grad_centers: Array2<A>,
    pub(crate) scratch: Scratch<A>,
}

impl<A: Copy + Default> Evaluation<A> {
    /// An empty evaluation, to be filled by [`MarginLoss::evaluate_into`](crate::MarginLoss::evaluate_into).
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty evaluation whose working memory, beyond inputs and outputs, stays below `bytes`.
    ///
    /// With less than the exponentials of the whole batch need (N·C numbers), they are computed twice; with still less,
    /// fewer threads work. The results have the same bits. The limit of [`new`](Self::new) is 1 GiB. Copies of single blocks of
    /// class weights that are not row-major, one for each thread, come on top, and a copy of the features if rows are ignored.
    ///
    /// # Examples
    ///
    /// ```
    /// use margin_losses::{ArcFace, Evaluation, MarginLoss, Targets, init};
    /// use margin_losses::ndarray::Array2;
    ///
    /// let (x, w): (Array2<f32>, Array2<f32>) = (init::class_weights(64, 8, 1)?, init::class_weights(9000, 8, 2)?);
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

    /// The reduced loss; see [`Forward::loss`].
    #[must_use]
    pub fn loss(&self) -> A {
        self.forward.loss()
    }

    /// The share of rows that are classified right; see [`Forward::accuracy`].
    #[must_use]
    pub fn accuracy(&self) -> Option<f64> {
        self.forward.accuracy()
    }

    /// The loss's running statistics once this batch has entered them: what
    /// [`set_statistics`](crate::MarginLoss::set_statistics) takes.
    #[must_use]
    pub fn statistics(&self) -> &[f64] {
        &self.forward.statistics
    }
}

/// One block of classes, with the complete gradient of their weights, as
/// [`MarginLoss::evaluate_streamed`](crate::MarginLoss::evaluate_streamed) hands it out.
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
