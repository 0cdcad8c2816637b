//! Center loss: every feature is pulled towards the center of its class.

use core::fmt;

use ndarray::{Array1, Array2, ArrayView1, ArrayView2, ArrayViewMut2, Axis};

use crate::check;
use crate::counted::Counted;
use crate::driver::{self, Head, Layer};
use crate::error::{Argument, Error, parameter};
use crate::evaluation::{Evaluation, Forward, Reading};
use crate::float::{Float, sealed::TOKEN};
use crate::loss::MarginLoss;
use crate::numerics::{Element, Norm, binary_exponent, contiguous, dot, scale_by_power};
use crate::request::{Request, Wanted};
use crate::scores::Scores;
use crate::shards::Shard;
use crate::targets::Labels;

/// Half the squared distance of each feature to the center of its class.
///
/// It pulls classes together and does nothing to keep them apart, so on its own it is least when everything is zero: train
/// with [`JointLoss`](crate::JointLoss), which adds it to a loss that classifies.
///
/// ```text
/// ℓ = ½‖x − c_y‖²
/// ```
/// ```math
/// \ell = \tfrac{1}{2}\, \lVert x - c_y \rVert^2
/// ```
///
/// # Shapes
///
/// Features N×d; the centers, C×d, take the place of the class weights. Each row is compared with its own center only; the
/// others are scanned for NaN, and their gradient is zero. The target's logit is reported as −ℓ.
///
/// # Gradients
///
/// By the features, and, as [`grad_weights`](crate::Evaluation::grad_weights), by the centers:
///
/// ```text
/// ∂xᵢ = rᵢ/N · (xᵢ − c_yᵢ)        ∂c_j = Σ_{yᵢ=j} rᵢ/N · (c_j − xᵢ)
/// ```
/// ```math
/// \frac{\partial L}{\partial x_i} = \frac{r_i}{N}\, (x_i - c_{y_i}),
/// \qquad \frac{\partial L}{\partial c_j} = \sum_{i:\, y_i = j} \frac{r_i}{N}\, (c_j - x_i)
/// ```
///
/// The paper does not descend along the latter, but takes the step of [`update_centers`](Self::update_centers).
///
/// # Numerical notes
///
/// Differences are taken before they are squared, in `f64`, so nearby centers cost no digits.
///
/// # Errors
///
/// As for [`MarginLoss`]. Zero rows are welcome.
///
/// # Examples
///
/// ```
/// use margin_losses::{CenterLoss, MarginLoss, Targets};
/// use margin_losses::ndarray::array;
///
/// let features = array![[1.0, 2.0], [3.0, 0.0]];
/// let mut centers = array![[0.0, 0.0], [5.0, 5.0]];
/// let labels = [0, 0];
/// let out = CenterLoss::new().evaluate(features.view(), centers.view(), &Targets::new(&labels))?;
/// assert_eq!(out.loss(), (2.5 + 4.5) / 2.0);
///
/// // α = ½: half of the way to (sum of the class)/(1 + n).
/// CenterLoss::update_centers(centers.view_mut(), features.view(), &labels, 0.5)?;
/// assert_eq!(centers, array![[4.0 / 6.0, 2.0 / 6.0], [5.0, 5.0]]);
/// # Ok::<(), margin_losses::Error>(())
/// ```
///
/// # References
///
/// Wen et al., *A Discriminative Feature Learning Approach for Deep Face Recognition*, ECCV 2016, equations 2 to 4. The
/// paper's equation 2 is a sum over the batch; the mean here is what is trained with everywhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CenterLoss {}

impl CenterLoss {
    /// It has no parameters: λ belongs to [`JointLoss`](crate::JointLoss), α to
    /// [`update_centers`](Self::update_centers).
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The paper's step of the centers, scaled by α ∈ [0, 1] (equation 4), over the n_j rows of class j:
    ///
    /// ```text
    /// c_j ← c_j − α Σ_{yᵢ=j} (c_j − xᵢ)/(1 + n_j)
    /// ```
    /// ```math
    /// c_j \leftarrow c_j - \alpha\, \frac{\sum_{i:\, y_i = j} (c_j - x_i)}{1 + n_j}
    /// ```
    ///
    /// Classes that are absent from the batch keep their bits. Neither λ, nor the reduction, nor weights enter: this is
    /// not a gradient step but a moving average, at the rate α n/(1 + n), towards the mean of the class in the batch. The
    /// paper uses α = 0.5.
    ///
    /// Rows that the labels [ignore](Labels::with_ignored_label) are not looked at, and move no center; a row of weight 0 does.
    /// [`Targets::labels`](crate::Targets::labels) takes the rule along: `update_centers(centers, features, targets.labels(), alpha)`.
    ///
    /// # Errors
    ///
    /// Shapes that disagree, labels out of range, NaN or infinity, α out of range, a center that would overflow; `centers`
    /// is then as it was.
    pub fn update_centers<'l, A: Float>(
        centers: ArrayViewMut2<'_, A>,
        features: ArrayView2<'_, A>,
        labels: impl Into<Labels<'l>>,
        alpha: f64,
    ) -> Result<(), Error> {
        A::update_centers(TOKEN, centers, features, labels.into(), alpha)
    }
}

impl<A: Float> MarginLoss<A> for CenterLoss {
    fn run(&self, request: Request<'_, A>) -> Result<(), Error> {
        A::center_loss(TOKEN, request)
    }

    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The step of [`CenterLoss::update_centers`].
pub(crate) fn update<A: Element>(
    centers: ArrayViewMut2<'_, A>,
    features: ArrayView2<'_, A>,
    labels: Labels<'_>,
    alpha: f64,
) -> Result<(), Error> {
    let Some(counted) = Counted::of(labels, features.nrows())? else {
        return step(centers, features, labels, alpha);
    };
    let (features, rows) = (counted.features(features), counted.rows_of(labels));
    step(centers, features.view(), labels.of_rows(&rows), alpha)
        .map_err(|error| counted.in_batch(error))
}

/// The same, of a batch whose rows all count.
fn step<A: Element>(
    mut centers: ArrayViewMut2<'_, A>,
    features: ArrayView2<'_, A>,
    labels: Labels<'_>,
    alpha: f64,
) -> Result<(), Error> {
    let holds = (0.0..=1.0).contains(&alpha);
    parameter("alpha", alpha, holds, "lie in [0, 1]")?;
    let labels = check::labels(features, centers.dim(), Argument::Centers, 1, labels)?;
    check_finite(features, Argument::Features)?;
    check_finite(centers.view(), Argument::Centers)?;
    let classes = Classes::of(&labels);
    let mut moved = Array2::zeros((classes.labels.len(), features.ncols()));
    for ((&class, rows), mut moved) in classes.iter().zip(moved.outer_iter_mut()) {
        let center = centers.row(class);
        let rate = alpha / (1.0 + rows.len() as f64);
        // c − rate · Σ (c − x), in a unit in which the sum is finite.
        let step = in_range(|unit| {
            let mut sums = vec![0.0; center.len()];
            for &row in rows {
                for ((sum, c), x) in sums.iter_mut().zip(center).zip(features.row(row)) {
                    *sum += unit * c.widen() - unit * x.widen();
                }
            }
            let pairs = sums.iter_mut().zip(center);
            pairs.for_each(|(sum, c)| *sum = unit * c.widen() - rate * *sum);
            sums
        });
        for (moved, step) in moved.iter_mut().zip(step) {
            *moved = A::narrow(step);
        }
        if !moved.iter().all(|entry| entry.is_finite()) {
            return Err(Error::overflow("center", Argument::Centers, class));
        }
    }
    for (&class, moved) in classes.labels.iter().zip(moved.outer_iter()) {
        centers.row_mut(class).assign(&moved);
    }
    Ok(())
}

/// Less than 1 by so much that no sum of a batch leaves the range of `f64`.
const UNIT: f64 = 5.421_010_862_427_522e-20; // 2^-64

/// What `sums` gives in the unit 1; or, where terms leave the range of `f64` before they cancel, in a smaller unit.
fn in_range(sums: impl Fn(f64) -> Vec<f64>) -> Vec<f64> {
    let mut plain = sums(1.0);
    if !plain.iter().all(|sum| sum.is_finite()) {
        for (sum, small) in plain.iter_mut().zip(sums(UNIT)) {
            if !sum.is_finite() {
                *sum = small / UNIT;
            }
        }
    }
    plain
}

/// `strength · (a − b)`, whose difference may leave the range of `f64`.
fn pull(strength: f64, a: f64, b: f64) -> f64 {
    let apart = a - b;
    if apart.is_finite() {
        strength * apart
    } else {
        strength * (UNIT * a - UNIT * b) / UNIT
    }
}

/// The classes of a batch in order, each with its rows in the order of the batch.
struct Classes {
    labels: Vec<usize>,
    /// Where the rows of each class end.
    ends: Vec<usize>,
    rows: Vec<usize>,
}

impl Classes {
    fn of(labels: &[usize]) -> Self {
        let mut rows: Vec<usize> = (0..labels.len()).collect();
        rows.sort_by_key(|&row| labels[row]);
        let mut classes = Self {
            labels: Vec::new(),
            ends: Vec::new(),
            rows: Vec::new(),
        };
        for group in rows.chunk_by(|&a, &b| labels[a] == labels[b]) {
            classes.labels.push(labels[group[0]]);
            let start = classes.ends.last().copied().unwrap_or(0);
            classes.ends.push(start + group.len());
        }
        classes.rows = rows;
        classes
    }

    fn iter(&self) -> impl Iterator<Item = (&usize, &[usize])> {
        let starts = core::iter::once(0).chain(self.ends.iter().copied());
        let ranges = starts.zip(&self.ends);
        let rows = ranges.map(|(start, &end)| &self.rows[start..end]);
        self.labels.iter().zip(rows)
    }
}

/// The center loss of a batch and its gradients, times `factor`, ready to be written or added.
#[derive(Debug)]
pub struct Term<A> {
    pub(crate) forward: Forward<A>,
    /// N×d.
    grad_features: Array2<A>,
    /// ∂c of the classes that the batch has, of those that are here.
    classes: Vec<usize>,
    grad_centers: Array2<A>,
}

impl<A> Term<A> {
    pub(crate) fn new(
        request: &Request<'_, A>,
        centers: ArrayView2<'_, A>,
        argument: Argument,
        factor: f64,
    ) -> Result<Self, Error>
    where
        A: Element,
    {
        let (features, shard) = (request.features(), request.shard);
        let all = shard.map_or(centers.nrows(), |shard| shard.shards.count());
        let shape = (all, centers.ncols());
        let labels = check::batch(features, shape, argument, 1, &request.targets)?;
        check_finite(features, Argument::Features)?;
        let row_centers = centers_of_rows(shard, centers, argument, &labels)?;
        let coefficients = request.coefficients();
        let rows = || features.outer_iter().zip(row_centers.outer_iter());
        let losses: Vec<f64> = rows().map(|(x, c)| half_square(x, c, factor)).collect();
        let (loss, row_losses) = check::reduce::<A>(&coefficients, losses.iter().copied())?;

        // rᵢ λ (x − c).
        let strengths: Vec<f64> = coefficients.iter().map(|r| r * factor).collect();
        let mut grad_features = Array2::zeros(features.raw_dim());
        for ((mut out, (x, c)), &strength) in
            grad_features.outer_iter_mut().zip(rows()).zip(&strengths)
        {
            for ((out, x), c) in out.iter_mut().zip(x).zip(c) {
                *out = A::narrow(pull(strength, x.widen(), c.widen()));
            }
        }
        let classes = Classes::of(&labels);
        let mut grad_centers = Array2::zeros((classes.labels.len(), features.ncols()));
        for ((_, rows), mut out) in classes.iter().zip(grad_centers.outer_iter_mut()) {
            let center = row_centers.row(rows[0]);
            let sums = in_range(|unit| {
                let mut sums = vec![0.0; center.len()];
                for &row in rows {
                    let strength = strengths[row];
                    for ((sum, c), x) in sums.iter_mut().zip(center).zip(features.row(row)) {
                        *sum += unit * pull(strength, c.widen(), x.widen());
                    }
                }
                sums
            });
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = A::narrow(sum);
            }
        }
        if let Some(row) = check::first_not_finite(grad_features.view()) {
            return Err(Error::overflow("gradient", Argument::Features, row));
        }
        if let Some(index) = check::first_not_finite(grad_centers.view()) {
            return Err(Error::overflow("gradient", argument, classes.labels[index]));
        }
        let own = shard.map_or(0..all, Shard::classes);
        let here = |index: &usize| own.contains(&classes.labels[*index]);
        let here: Vec<_> = (0..classes.labels.len()).filter(here).collect();
        Ok(Self {
            forward: Forward {
                loss,
                target_logits: losses.iter().map(|&loss| A::narrow(-loss)).collect(),
                row_losses: row_losses.into(),
                target_cosines: rows().map(|(x, c)| cosine(x, c)).collect(),
                correct: Array1::default(0),
                ignored: Array1::default(0),
                sub_centers: Array1::default(0),
                statistics: Vec::new(),
                reading: Reading::default(),
            },
            grad_features,
            classes: here
                .iter()
                .map(|&index| classes.labels[index] - own.start)
                .collect(),
            grad_centers: grad_centers.select(Axis(0), &here),
        })
    }

    /// Adds the term to what another loss gave, or says why it cannot; then nothing has been written. `classes` is how many
    /// centers there are, if gradients are wanted.
    pub(crate) fn add_to(
        &self,
        evaluation: &mut Evaluation<A>,
        classes: Option<usize>,
    ) -> Result<(), Error>
    where
        A: Element,
    {
        let forward = &mut evaluation.forward;
        let row_losses = &forward.row_losses + &self.forward.row_losses;
        let loss = forward.loss + self.forward.loss;
        if let Some(row) = row_losses.iter().position(|loss| !loss.is_finite()) {
            return Err(Error::overflow("loss", Argument::Features, row));
        }
        if !loss.is_finite() {
            return Err(Error::BatchOverflow { quantity: "loss" });
        }
        if let Some(classes) = classes {
            let pairs = evaluation.grad_features.iter().zip(&self.grad_features);
            let overflows = |(&entry, &pull): (&A, &A)| !(entry + pull).is_finite();
            if let Some(position) = pairs.clone().position(overflows) {
                let row = position / self.grad_features.ncols();
                return Err(Error::overflow("gradient", Argument::Features, row));
            }
            evaluation.grad_features += &self.grad_features;
            let shape = (classes, self.grad_features.ncols());
            if evaluation.grad_centers.dim() == shape {
                evaluation.grad_centers.fill(A::zero());
            } else {
                evaluation.grad_centers = Array2::zeros(shape);
            }
            for (&class, row) in self.classes.iter().zip(self.grad_centers.outer_iter()) {
                evaluation.grad_centers.row_mut(class).assign(&row);
            }
        }
        evaluation.forward.row_losses = row_losses;
        evaluation.forward.reading.others = false;
        evaluation.forward.loss = loss;
        Ok(())
    }

    /// Whether every number of the term is so small beside the largest of the element type that no sum with it overflows.
    pub(crate) fn is_negligible(&self) -> bool
    where
        A: Element,
    {
        let limit = A::max_value() * A::epsilon() / A::narrow(4.0);
        let mut entries = (self.grad_features.iter())
            .chain(&self.forward.row_losses)
            .chain([&self.forward.loss]);
        entries.all(|entry| entry.abs() <= limit)
    }
}

/// The center of each row's class, wherever it is.
fn centers_of_rows<A: Element>(
    shard: Option<&Shard<'_>>,
    centers: ArrayView2<'_, A>,
    argument: Argument,
    labels: &[usize],
) -> Result<Array2<A>, Error> {
    let found = check_finite(centers, argument);
    let Some(shard) = shard else {
        return found.map(|()| centers.select(Axis(0), labels));
    };
    let own = shard.classes();
    let mut rows = Array2::zeros((labels.len(), centers.ncols()));
    for (&label, mut row) in labels.iter().zip(rows.outer_iter_mut()) {
        if own.contains(&label) {
            row.assign(&centers.row(label - own.start));
        }
    }
    let entries = rows.as_slice_mut().unwrap_or_default();
    let found = found.map_err(|error| error.in_classes_from(own.start));
    shard.share_by_class(labels, entries, found)?;
    Ok(rows)
}

/// Answers a request with the center loss, its class weights being the centers.
pub(crate) fn solve<A: Element>(request: Request<'_, A>) -> Result<(), Error> {
    request.check_alone()?;
    if request.wants_scores() {
        return score(request);
    }
    let centers = request.weights();
    let shape = centers.raw_dim();
    let here = request.classes_here(1);
    check::row_count(Argument::Centers, here, centers.nrows())?;
    let term = Term::new(&request, centers, Argument::Centers, 1.0)?;
    let mut grad_centers = Array2::zeros(shape);
    for (&class, row) in term.classes.iter().zip(term.grad_centers.outer_iter()) {
        grad_centers.row_mut(class).assign(&row);
    }
    request.deliver(term.forward, term.grad_features, grad_centers);
    Ok(())
}

/// The scores −½‖x − c‖², as c·x − ½‖c‖² − ½‖x‖².
fn score<A: Element>(mut request: Request<'_, A>) -> Result<(), Error> {
    let (features, centers) = (request.features(), request.weights());
    check::shapes(features, centers.dim(), Argument::Centers, 1)?;
    check_finite(features, Argument::Features)?;
    check_finite(centers, Argument::Centers)?;
    let half = |row: ArrayView1<'_, A>| -0.5 * row.iter().map(|x| x.widen().powi(2)).sum::<f64>();
    let constants: Vec<f64> = centers.outer_iter().map(half).collect();
    let own: Vec<f64> = features.outer_iter().map(half).collect();
    let head = Head {
        constants: Some(&constants),
        ..Head::new(Layer::Linear)
    };
    driver::solve(&head, request.reborrow())?;
    let Wanted::Scores(_, scores) = request.wanted else {
        return Err(Error::NoScores);
    };
    let scores = match scores {
        Scores::All(scores) => scores,
        Scores::Top(_, top) => &mut top.scores,
    };
    for (mut row, own) in scores.outer_iter_mut().zip(own) {
        row.mapv_inplace(|score| A::narrow(score.widen() + own));
    }
    match check::first_not_finite(scores.view()) {
        None => Ok(()),
        Some(row) => Err(Error::overflow("score", Argument::Features, row)),
    }
}

/// ½ factor ‖x − c‖².
fn half_square<A: Element>(x: ArrayView1<'_, A>, c: ArrayView1<'_, A>, factor: f64) -> f64 {
    if factor == 0.0 {
        return 0.0;
    }
    // factor = 4^power · rest, so that what is squared is as large as the loss, and overflows only if that does. For the same
    // reason it is halved before it is squared.
    let power = binary_exponent(factor).div_euclid(2);
    let rest = scale_by_power(factor, -2 * power);
    let root = scale_by_power(1.0, power);
    let squares = x.iter().zip(c).map(|(x, c)| {
        let apart = pull(root, x.widen(), c.widen());
        0.5 * apart * apart
    });
    rest * squares.sum::<f64>()
}

fn check_finite<A: Element>(rows: ArrayView2<'_, A>, argument: Argument) -> Result<(), Error> {
    match check::first_not_finite(rows) {
        None => Ok(()),
        Some(row) => Err(Error::NonFinite { argument, row }),
    }
}

/// The cosine of two rows; 0 if one of them is zero.
fn cosine<A: Element>(x: ArrayView1<'_, A>, c: ArrayView1<'_, A>) -> A {
    let scaled = |row: ArrayView1<'_, A>| -> (Vec<f64>, f64) {
        let mut copy = Vec::new();
        let row = contiguous(row, &mut copy);
        let norm = Norm::of(row);
        let mut scaled = Vec::new();
        norm.scale_down(row, &mut scaled);
        (scaled, norm.normalised())
    };
    let ((x, x_norm), (c, c_norm)) = (scaled(x), scaled(c));
    if x_norm == 0.0 || c_norm == 0.0 {
        A::zero()
    } else {
        A::narrow((dot(&x, &c) / (x_norm * c_norm)).clamp(-1.0, 1.0))
    }
}
