//! A loss over classes that are spread over ranks.

use core::fmt::{self, Write};

use ndarray::{ArrayView2, ArrayViewMut2};

use crate::error::Error;
use crate::evaluation::{ClassBlock, Evaluation, Forward};
use crate::float::{Float, sealed::TOKEN};
use crate::loss::MarginLoss;
use crate::request::{Composition, Request, Wanted};
use crate::targets::{Labels, Targets};

use super::{Communicator, Part, Sampling, Shards};

/// A loss of this crate over classes that are spread over the ranks of a job. See the [module](super) for what a rank brings
/// and receives.
///
/// Every loss whose `run` ends in one of this crate can be sharded: boxed, [`Composed`](crate::Composed) with sub-centers,
/// class priors or focal modulation, a [`JointLoss`](crate::JointLoss), a margin of your own. All ranks call the same method
/// with the same loss. A loss that holds something for each class or row (biases, class priors, class and row margins) holds it
/// for all classes and for the rows of the whole batch, in the order of the ranks. But the centers of a joint loss are those of
/// the rank's classes.
///
/// # Shapes
///
/// With N_r rows and C_r classes of this rank, and K sub-centers: features N_r×d, labels in `0..C`, class weights C_rK×d,
/// `grad_features` N_r×d, `grad_weights` C_rK×d. A rank may have no classes (its W is 0×d), and no rows. Blocks of a streamed
/// update count the rows of this rank's W.
///
/// Learnables have the gradient of the whole batch, on all ranks, and so have running statistics.
///
/// # Errors
///
/// Those of the loss, with the row of the whole batch or of the whole W. What is found on one rank is returned by all, before
/// `update` is called, and evaluations are then as they were. Further:
///
/// - [`Error::RanksDiffer`] if the ranks were given different losses, reductions, label weights, samples, or methods;
/// - [`Error::Communication`] if a rank has ended or panicked;
/// - [`Error::NotComposable`] for label smoothing, an inter-topk penalty, second targets, [`AdaptiveFace`](crate::AdaptiveFace) with a
///   sample, and for a loss of your own that is not made of one of this crate.
///
/// # Examples
///
/// See the [module](super).
#[derive(Clone, Copy)]
pub struct Sharded<'a, L: ?Sized> {
    loss: &'a L,
    shards: Shards,
    comm: &'a dyn Communicator,
    sampling: Option<Sampling>,
}

impl<L: fmt::Debug + ?Sized> fmt::Debug for Sharded<'_, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sharded")
            .field("loss", &self.loss)
            .field("shards", &self.shards)
            .field("rank", &self.comm.rank())
            .field("size", &self.comm.size())
            .field("sampling", &self.sampling)
            .finish()
    }
}

impl<'a, L: ?Sized> Sharded<'a, L> {
    /// The loss, the classes, and what moves the bytes.
    #[must_use]
    pub fn new(loss: &'a L, shards: Shards, comm: &'a dyn Communicator) -> Self {
        Self {
            loss,
            shards,
            comm,
            sampling: None,
        }
    }

    /// Over a sample of the classes; give it the [step](Sampling::at).
    #[must_use]
    pub fn with_sampling(self, sampling: Sampling) -> Self {
        Self {
            sampling: Some(sampling),
            ..self
        }
    }

    /// The loss and the figures of this rank's rows, without gradients.
    ///
    /// # Errors
    ///
    /// As for the type.
    pub fn forward<A: Float>(
        &self,
        features: ArrayView2<'_, A>,
        weights: ArrayView2<'_, A>,
        targets: &Targets<'_, A>,
    ) -> Result<Forward<A>, Error>
    where
        L: MarginLoss<A>,
    {
        let mut evaluation = Evaluation::new();
        self.forward_into(features, weights, targets, &mut evaluation)?;
        Ok(evaluation.forward)
    }

    /// [`forward`](Self::forward) into an evaluation that the caller keeps. All gradients are left with no rows.
    ///
    /// # Errors
    ///
    /// As for the type.
    pub fn forward_into<A: Float>(
        &self,
        features: ArrayView2<'_, A>,
        weights: ArrayView2<'_, A>,
        targets: &Targets<'_, A>,
        evaluation: &mut Evaluation<A>,
    ) -> Result<(), Error>
    where
        L: MarginLoss<A>,
    {
        let wanted = Wanted::Loss(weights.reborrow());
        self.ask(features.reborrow(), wanted, targets.reborrow(), evaluation)
    }

    /// The loss and all gradients.
    ///
    /// # Errors
    ///
    /// As for the type.
    pub fn evaluate<A: Float>(
        &self,
        features: ArrayView2<'_, A>,
        weights: ArrayView2<'_, A>,
        targets: &Targets<'_, A>,
    ) -> Result<Evaluation<A>, Error>
    where
        L: MarginLoss<A>,
    {
        let mut evaluation = Evaluation::new();
        self.evaluate_into(features, weights, targets, &mut evaluation)?;
        Ok(evaluation)
    }

    /// [`evaluate`](Self::evaluate) into an evaluation that the caller keeps, so that its memory is used again.
    ///
    /// # Errors
    ///
    /// As for the type.
    pub fn evaluate_into<A: Float>(
        &self,
        features: ArrayView2<'_, A>,
        weights: ArrayView2<'_, A>,
        targets: &Targets<'_, A>,
        evaluation: &mut Evaluation<A>,
    ) -> Result<(), Error>
    where
        L: MarginLoss<A>,
    {
        let wanted = Wanted::Gradients(weights.reborrow());
        self.ask(features.reborrow(), wanted, targets.reborrow(), evaluation)
    }

    /// [`evaluate_into`](Self::evaluate_into) without `∂L/∂W` in memory: see
    /// [`MarginLoss::evaluate_streamed`](crate::MarginLoss::evaluate_streamed). The classes of a block are counted from the
    /// first of this rank. Where classes are sampled, each block is of consecutive classes, and the others are not handed out.
    ///
    /// # Errors
    ///
    /// As for the type; `update` has then not been called.
    pub fn evaluate_streamed<A: Float>(
        &self,
        features: ArrayView2<'_, A>,
        mut weights: ArrayViewMut2<'_, A>,
        targets: &Targets<'_, A>,
        evaluation: &mut Evaluation<A>,
        update: &mut dyn FnMut(ClassBlock<'_, A>),
    ) -> Result<(), Error>
    where
        L: MarginLoss<A>,
    {
        let wanted = Wanted::Update {
            weights: weights.view_mut(),
            update,
        };
        self.ask(features.reborrow(), wanted, targets.reborrow(), evaluation)
    }

    /// The step of the centers of this rank's classes, C_r×d, by the rows of all ranks: see
    /// [`CenterLoss::update_centers`](crate::CenterLoss::update_centers).
    ///
    /// # Errors
    ///
    /// As there, on all ranks; the centers are then as they were.
    pub fn update_centers<'l, A: Float>(
        &self,
        centers: ArrayViewMut2<'_, A>,
        features: ArrayView2<'_, A>,
        labels: impl Into<Labels<'l>>,
        alpha: f64,
    ) -> Result<(), Error> {
        let part = self.part(Fingerprint::default());
        A::update_centers_in_shards(TOKEN, &part, centers, (features, labels.into()), alpha)
    }

    fn part(&self, fingerprint: Fingerprint) -> Part<'a> {
        Part {
            comm: self.comm,
            shards: self.shards,
            sampling: self.sampling,
            fingerprint,
        }
    }

    fn ask<'r, A: Float>(
        &self,
        features: ArrayView2<'r, A>,
        wanted: Wanted<'r, A>,
        targets: Targets<'r, A>,
        evaluation: &'r mut Evaluation<A>,
    ) -> Result<(), Error>
    where
        L: MarginLoss<A>,
    {
        let mut fingerprint = Fingerprint::default();
        // What is written to it is only mixed in, and never fails but by the loss's own doing.
        let _ = write!(
            fingerprint,
            "{}",
            Line(self.loss, core::marker::PhantomData)
        );
        fingerprint.mix_all(self.loss.learnables());
        fingerprint.mix_all(self.loss.statistics());
        let part = self.part(fingerprint);
        let request = Request {
            features,
            wanted,
            targets,
            evaluation,
            composition: Composition::NONE,
            shard: None,
        };
        A::answer_in_shards(TOKEN, &part, request, &mut |request| self.loss.run(request))
    }
}

/// What a loss says of itself.
struct Line<'a, A, L: ?Sized>(&'a L, core::marker::PhantomData<A>);

impl<A: Float, L: MarginLoss<A> + ?Sized> fmt::Display for Line<'_, A, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.describe(f)
    }
}

/// A number that is another one for other arguments: FNV-1a.
#[derive(Clone, Copy)]
pub(super) struct Fingerprint(u64);

impl Default for Fingerprint {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fingerprint {
    pub(super) fn mix(&mut self, number: u64) {
        for byte in number.to_ne_bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    pub(super) fn number(self) -> u64 {
        self.0
    }

    /// How many numbers there are, and the first of them: there may be one for each class.
    fn mix_all(&mut self, numbers: &[f64]) {
        self.mix(numbers.len() as u64);
        for number in numbers.iter().take(16) {
            self.mix(number.to_bits());
        }
    }
}

impl Write for Fingerprint {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.mix(byte.into());
        }
        Ok(())
    }
}
