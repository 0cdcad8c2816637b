//! A loss over classes that are spread over ranks: the rows of all ranks become one batch, of which each rank keeps its own.

use core::fmt::{self, Write};
use core::ops::Range;

use ndarray::{Array1, Array2, ArrayView2, ArrayViewMut2, Axis, Slice};

use crate::center;
use crate::check;
use crate::counted;
use crate::error::{Argument, Error};
use crate::evaluation::{ClassBlock, Evaluation, Forward};
use crate::float::{Float, sealed::TOKEN};
use crate::loss::MarginLoss;
use crate::numerics::{Element, Message, Received};
use crate::request::{Composition, Request, Wanted};
use crate::targets::{Labels, Targets};

use super::{Communicator, Exchange, Sampling, Shard, Shards};

/// A loss of this crate over classes that are spread over the ranks of a job. See the [module](super) for what a rank brings and
/// receives.
///
/// Every loss whose `run` ends in one of this crate can be sharded: boxed, [`Composed`](crate::Composed) with sub-centers,
/// class priors or focal modulation, a [`JointLoss`](crate::JointLoss), a margin of your own. All ranks call the same method with the same
/// loss. A loss that holds something for each class or row (biases, class priors, class and row margins) holds it for all classes and for the
/// rows of the whole batch, in the order of the ranks. But the centers of a joint loss are those of the rank's classes.
///
/// # Shapes
///
/// With N_r rows and C_r classes of this rank, and K sub-centers: features N_r×d, labels in `0..C`, class weights C_rK×d,
/// `grad_features` N_r×d, `grad_weights` C_rK×d. A rank may have no classes (its W is 0×d), and no rows. Blocks of a streamed update count
/// the rows of this rank's W.
///
/// Learnables have the gradient of the whole batch, on all ranks, and so have running statistics.
///
/// # Errors
///
/// Those of the loss, with the row of the whole batch or of the whole W. What is found on one rank is returned by all, before `update` is
/// called, and evaluations are then as they were. Further:
///
/// - [`Error::RanksDiffer`] if the ranks were given different losses, reductions, label weights, samples, or methods;
/// - [`Error::Communication`] if a rank has ended or panicked;
/// - [`Error::NotComposable`] for label smoothing, an inter-topk penalty, two targets for each row, and for a loss of your own that is not made of one of this crate.
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
    /// [`MarginLoss::evaluate_streamed`](crate::MarginLoss::evaluate_streamed). The classes of a block are counted from the first
    /// of this rank. Where classes are sampled, each block is of consecutive classes, and the others are not handed out.
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
            fingerprint: fingerprint.0,
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
struct Fingerprint(u64);

impl Default for Fingerprint {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fingerprint {
    fn mix(&mut self, number: u64) {
        for byte in number.to_ne_bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
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

/// What all arguments but those of an evaluation come to.
pub struct Part<'a> {
    comm: &'a dyn Communicator,
    shards: Shards,
    sampling: Option<Sampling>,
    fingerprint: u64,
}

impl fmt::Debug for Part<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Part")
            .field("shards", &self.shards)
            .field("sampling", &self.sampling)
            .finish_non_exhaustive()
    }
}

impl<'a> Part<'a> {
    fn shard(&self) -> Shard<'a> {
        Shard {
            exchange: Exchange::new(self.comm),
            shards: self.shards,
            sampling: self.sampling,
            starts: Vec::new(),
        }
    }
}

/// The rows of all ranks.
struct Whole<A> {
    features: Array2<A>,
    labels: Vec<i128>,
    row_weights: Option<Vec<A>>,
    ignored: Option<Vec<bool>>,
    /// The first row of each rank, and the number of all.
    starts: Vec<usize>,
}

/// What a rank says of its rows before it sends them.
#[derive(Clone, Copy)]
struct Header {
    fingerprint: u64,
    element: usize,
    gradients: bool,
    dim: usize,
    rows: usize,
    /// Labels, row weights and ignored rows.
    lengths: [Option<usize>; 3],
}

const PER_ROW: [Argument; 3] = [
    Argument::Labels,
    Argument::RowWeights,
    Argument::IgnoredRows,
];

impl Header {
    fn of<A: Element>(
        part: &Part<'_>,
        features: ArrayView2<'_, A>,
        targets: &Targets<'_, A>,
        gradients: bool,
    ) -> Self {
        let mut fingerprint = Fingerprint(part.fingerprint);
        fingerprint.mix(part.shards.count() as u64);
        for number in part.sampling.map_or([0; 4], |it| it.numbers()) {
            fingerprint.mix(number);
        }
        fingerprint.mix(targets.reduction() as u64);
        for &weight in targets.label_weights().unwrap_or_default() {
            fingerprint.mix(weight.widen().to_bits());
        }
        let labels = targets.labels();
        Self {
            fingerprint: fingerprint.0,
            element: size_of::<A>(),
            gradients,
            dim: features.ncols(),
            rows: features.nrows(),
            lengths: [
                Some(labels.batch()),
                targets.row_weights().map(<[A]>::len),
                labels.ignored_rows().map(<[bool]>::len),
            ],
        }
    }

    fn put(&self, message: &mut Message) {
        message.put(self.fingerprint);
        message.put_all([self.element, self.dim, self.rows]);
        message.put(self.gradients);
        message.put_all(
            self.lengths
                .map(|length| length.map_or(0, |length| length + 1)),
        );
    }

    fn take(message: &mut Received<'_>) -> Result<Self, Error> {
        let fingerprint = message.take()?;
        let [element, dim, rows] = [message.take()?, message.take()?, message.take()?];
        let gradients = message.take()?;
        let mut lengths = [0_usize; 3];
        message.take_into(&mut lengths)?;
        Ok(Self {
            fingerprint,
            element,
            gradients,
            dim,
            rows,
            lengths: lengths.map(|length| length.checked_sub(1)),
        })
    }

    /// Whether there is one entry for each row of whatever is there.
    fn is_even(&self) -> bool {
        self.lengths
            .iter()
            .flatten()
            .all(|&length| length == self.rows)
    }

    /// Refuses ranks that do not go together: with the numbers of the whole batch, if those say what is wrong.
    fn check(all: &[Self]) -> Result<(), Error> {
        let first = all[0];
        for (rank, header) in all.iter().enumerate() {
            let differ = |what| Err(Error::RanksDiffer { what, rank });
            if header.element != first.element {
                return differ("element type");
            }
            if header.gradients != first.gradients {
                return differ("method of evaluation");
            }
            if header.fingerprint != first.fingerprint {
                return differ("loss, reduction, label weights or sample");
            }
            if header.dim != first.dim {
                return Err(Error::Dimension {
                    argument: Argument::Features,
                    expected: first.dim,
                    found: header.dim,
                });
            }
        }
        let rows: usize = all.iter().map(|header| header.rows).sum();
        for (index, argument) in PER_ROW.into_iter().enumerate() {
            if all.iter().all(|header| header.lengths[index].is_none()) {
                continue;
            }
            // A rank that ignores no row need not say so.
            let without = |header: &Self| if index == 2 { header.rows } else { 0 };
            let length = |header: &Self| header.lengths[index].unwrap_or(without(header));
            check::row_count(argument, rows, all.iter().map(length).sum())?;
            for header in all {
                check::row_count(argument, header.rows, length(header))?;
            }
        }
        Ok(())
    }
}

impl<A: Element> Whole<A> {
    /// Brings the rows of all ranks together.
    fn gather(
        part: &Part<'_>,
        exchange: &Exchange<'_>,
        (features, targets): (ArrayView2<'_, A>, &Targets<'_, A>),
        gradients: bool,
    ) -> Result<Self, Error> {
        let header = Header::of(part, features, targets, gradients);
        let mut mine = Message::default();
        header.put(&mut mine);
        let labels = targets.labels();
        mine.put(labels.may_ignore());
        if header.is_even() {
            mine.put_all(features.iter().copied());
            mine.put_all(labels.iter());
            mine.put_all(targets.row_weights().unwrap_or_default().iter().copied());
            if labels.may_ignore() {
                mine.put_all((0..header.rows).map(|row| labels.is_ignored(row)));
            }
        }
        let mine = check::one_target(targets).map(|()| mine);
        let all = exchange.gather(mine)?;
        let mut messages: Vec<_> = all.messages().collect();
        let headers: Result<Vec<_>, _> = messages.iter_mut().map(Header::take).collect();
        let headers = headers?;
        Header::check(&headers)?;
        Self::read(&headers, messages)
    }

    fn read(headers: &[Header], messages: Vec<Received<'_>>) -> Result<Self, Error> {
        let dim = headers[0].dim;
        let (mut entries, mut labels) = (Vec::new(), Vec::new());
        let (mut weights, mut ignored, mut ignores) = (Vec::new(), Vec::new(), false);
        let mut starts = vec![0];
        for (header, mut message) in headers.iter().zip(messages) {
            let rows = header.rows;
            let may_ignore: bool = message.take()?;
            ignores |= may_ignore;
            entries.extend(message.take_all::<A>(rows.saturating_mul(dim))?);
            labels.extend(message.take_all::<i128>(rows)?);
            if header.lengths[1].is_some() {
                weights.extend(message.take_all::<A>(rows)?);
            }
            if may_ignore {
                ignored.extend(message.take_all::<bool>(rows)?);
            }
            ignored.resize(labels.len(), false);
            starts.push(labels.len());
        }
        let weighted = headers.iter().any(|header| header.lengths[1].is_some());
        let features = Array2::from_shape_vec((labels.len(), dim), entries);
        Ok(Self {
            features: features.map_err(|_| Error::malformed())?,
            labels,
            row_weights: weighted.then_some(weights),
            ignored: ignores.then_some(ignored),
            starts,
        })
    }

    fn labels(&self) -> Labels<'_> {
        let labels = Labels::from(&self.labels);
        match &self.ignored {
            None => labels,
            Some(ignored) => labels.with_ignored_rows(ignored),
        }
    }
}

/// Has a request of this rank answered by `run`, which sees the rows of all ranks, and the classes of this one.
pub(crate) fn answer<A: Element>(
    part: &Part<'_>,
    mut request: Request<'_, A>,
    run: &mut dyn FnMut(Request<'_, A>) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut shard = part.shard();
    let gradients = request.wants_gradients();
    let rows = (request.features.view(), &request.targets);
    let whole = match Whole::gather(part, &shard.exchange, rows, gradients) {
        Ok(whole) => whole,
        Err(error) => return shard.exchange.settle(Err(error)),
    };
    shard.starts.clone_from(&whole.starts);
    let targets = request
        .targets
        .of_rows(whole.labels(), whole.row_weights.as_deref());
    let mut of_all = request.reborrow();
    of_all.features = whole.features.view();
    of_all.targets = targets;
    of_all.shard = Some(&shard);
    let answered = counted::answer(of_all, run);
    shard.exchange.settle(answered)?;
    let rank = shard.exchange.rank();
    let own = whole.starts[rank]..whole.starts[rank + 1];
    keep_rows(request.evaluation, &own, whole.labels.len());
    Ok(())
}

/// Makes the results of a batch those of some of its rows.
fn keep_rows<A: Element>(evaluation: &mut Evaluation<A>, own: &Range<usize>, batch: usize) {
    fn keep<T: Clone>(all: &mut Array1<T>, own: &Range<usize>, batch: usize) {
        // Figures that a loss does not give are empty.
        if all.len() == batch {
            *all = all.slice_axis(Axis(0), Slice::from(own.clone())).to_owned();
        }
    }
    let forward = &mut evaluation.forward;
    for figures in [
        &mut forward.row_losses,
        &mut forward.target_logits,
        &mut forward.target_cosines,
    ] {
        keep(figures, own, batch);
    }
    keep(&mut forward.correct, own, batch);
    keep(&mut forward.ignored, own, batch);
    keep(&mut forward.sub_centers, own, batch);
    let gradient = &mut evaluation.grad_features;
    if gradient.nrows() == batch {
        let own = Slice::from(own.clone());
        *gradient = gradient.slice_axis(Axis(0), own).to_owned();
    }
}

/// The step of the centers of this rank, by the rows of all.
pub(crate) fn update_centers<A: Element>(
    part: &Part<'_>,
    mut centers: ArrayViewMut2<'_, A>,
    (features, labels): (ArrayView2<'_, A>, Labels<'_>),
    alpha: f64,
) -> Result<(), Error> {
    let shard = part.shard();
    let targets = Targets::new(labels);
    let moved = Whole::gather(part, &shard.exchange, (features, &targets), true)
        .and_then(|whole| Moved::of(&shard, centers.view(), &whole, alpha));
    match moved {
        Ok(moved) => {
            shard.exchange.settle(Ok(()))?;
            for (&row, moved) in moved.rows.iter().zip(moved.centers.outer_iter()) {
                centers.row_mut(row).assign(&moved);
            }
            Ok(())
        }
        Err(error) => shard.exchange.settle(Err(error)),
    }
}

/// The centers of this rank's classes that a batch has.
struct Moved<A> {
    /// Which rows they are of the centers that are here.
    rows: Vec<usize>,
    centers: Array2<A>,
}

impl<A: Element> Moved<A> {
    /// As they are after the step.
    fn of(
        shard: &Shard<'_>,
        centers: ArrayView2<'_, A>,
        whole: &Whole<A>,
        alpha: f64,
    ) -> Result<Self, Error> {
        let (own, count) = (shard.classes(), shard.shards.count());
        let argument = Argument::Centers;
        check::row_count(argument, own.len(), centers.nrows())?;
        check::shapes(whole.features.view(), (count, centers.ncols()), argument, 1)?;
        if let Some(row) = check::first_not_finite(centers) {
            let row = own.start + row;
            return Err(Error::NonFinite { argument, row });
        }
        let labels = whole.labels();
        let mut rows = Vec::new();
        let mut here = Vec::new();
        for (row, label) in labels.iter().enumerate() {
            if !labels.is_ignored(row) {
                let class = check::class(row, label, count)?;
                if own.contains(&class) {
                    here.push((row, class - own.start));
                    rows.push(class - own.start);
                }
            }
        }
        rows.sort_unstable();
        rows.dedup();
        let mut centers = centers.select(Axis(0), &rows);
        // The others are left out, as rows that are ignored are.
        let mut ignored = vec![true; labels.len()];
        let mut index = vec![0_usize; labels.len()];
        for (row, own) in here {
            ignored[row] = false;
            index[row] = rows.partition_point(|&known| known < own);
        }
        // Features of other classes are refused here too, so that all ranks refuse them.
        for row in (0..labels.len()).filter(|&row| !labels.is_ignored(row)) {
            if !whole
                .features
                .row(row)
                .iter()
                .all(|entry| entry.is_finite())
            {
                let argument = Argument::Features;
                return Err(Error::NonFinite { argument, row });
            }
        }
        if rows.is_empty() {
            return Ok(Self { rows, centers });
        }
        let labels = Labels::from(&index).with_ignored_rows(&ignored);
        center::update(centers.view_mut(), whole.features.view(), labels, alpha).map_err(
            |error| match error {
                Error::Overflow { quantity, row, .. } => {
                    Error::overflow(quantity, argument, own.start + rows[row])
                }
                other => other,
            },
        )?;
        Ok(Self { rows, centers })
    }
}
