//! What a batch is to be classified as.

use ndarray::{Array1, ArrayView1};
use num_traits::Float;

/// How the losses ℓᵢ of the rows become one number, and with them their gradients.
///
/// rᵢ is the weight of a row: its [row weight](Targets::with_row_weights) times the [weight of its
/// label](Targets::with_label_weights), 1 where they are not given. Sums are over the rows that are not ignored.
///
/// | | `L` | for rows that are all ignored | for weights that sum to 0 |
/// |---|---|---|---|
/// | `Mean` | `Σ rᵢ ℓᵢ / n`, of n rows that are not ignored | [`EmptyBatch`](crate::Error::EmptyBatch) | 0 |
/// | `BatchMean` | `Σ rᵢ ℓᵢ / N`, of all N rows | 0 | 0 |
/// | `WeightedMean` | `Σ rᵢ ℓᵢ / Σ rᵢ` | [`EmptyBatch`](crate::Error::EmptyBatch) | [`ZeroWeights`](crate::Error::ZeroWeights) |
/// | `Sum`, `None` | `Σ rᵢ ℓᵢ` | 0 | 0 |
///
/// # Examples
///
/// ```
/// use margin_losses::{MarginLoss, NormFace, Reduction, Targets};
/// use margin_losses::ndarray::array;
///
/// let (x, w) = (array![[1.0_f64, 2.0], [2.0, -0.5]], array![[0.0, 1.0], [1.0, 0.0]]);
/// let (loss, targets) = (NormFace::new(4.0)?, Targets::new(&[0, 1]));
/// let mean = loss.forward(x.view(), w.view(), &targets)?;
/// let sum = loss.forward(x.view(), w.view(), &targets.with_reduction(Reduction::Sum))?;
/// assert!((sum.loss - 2.0 * mean.loss).abs() < 1e-15);
/// assert_eq!(sum.row_losses, mean.row_losses);
///
/// assert_eq!("sum".parse(), Ok(Reduction::Sum));
/// assert_eq!("weighted-mean".parse(), Ok(Reduction::WeightedMean));
/// # Ok::<(), margin_losses::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Reduction {
    /// `(1/n) Σ rᵢ ℓᵢ` over the n rows that are not [ignored](Targets::with_ignored_label), whatever the sum of the weights.
    #[default]
    Mean,
    /// `(1/N) Σ rᵢ ℓᵢ`: the divisor is the number of all rows of the batch, ignored ones included.
    BatchMean,
    /// `Σ rᵢ ℓᵢ / Σ rᵢ`: the mean of PyTorch's `cross_entropy` with weights.
    WeightedMean,
    /// `Σ rᵢ ℓᵢ`.
    Sum,
    /// The rows are left apart: [`Forward::row_losses`](crate::Forward::row_losses) is the result, and the caller reduces it.
    ///
    /// The row weights are then the upstream gradient `∂/∂ℓᵢ` of whatever the caller makes of the rows, so they may have
    /// either sign. The gradients, and [`Forward::loss`](crate::Forward::loss), are those of `Σ rᵢ ℓᵢ`.
    None,
}

/// One label for each row, in any integer type: made from slices, arrays and views of ndarray, without a copy.
///
/// # Examples
///
/// ```
/// use margin_losses::{Labels, Targets};
/// use margin_losses::ndarray::array;
///
/// let targets: Targets<'_, f32> = Targets::new(&[0, 3, 2]);
/// let signed = array![0_i64, 3, 2];
/// assert_eq!(Targets::new(&signed), targets);
/// assert_eq!(Labels::from(&vec![7_u8, 9]).iter().collect::<Vec<_>>(), [7, 9]);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Labels<'a> {
    integers: Integers<'a>,
    ignored_label: Option<i128>,
    ignored_rows: Option<&'a [bool]>,
    /// The rows of the batch that these are the labels of, if not of all.
    rows: Option<&'a [usize]>,
}

macro_rules! integers {
    ($($variant:ident $type:ty),+) => {
        #[derive(Clone, Copy, Debug)]
        enum Integers<'a> {
            $($variant(ArrayView1<'a, $type>)),+
        }

        impl Integers<'_> {
            fn reborrow<'b>(self) -> Integers<'b>
            where
                Self: 'b,
            {
                match self {
                    $(Self::$variant(labels) => Integers::$variant(labels.reborrow())),+
                }
            }

            fn len(&self) -> usize {
                match self {
                    $(Self::$variant(labels) => labels.len()),+
                }
            }

            #[track_caller]
            fn get(&self, row: usize) -> i128 {
                match self {
                    $(Self::$variant(labels) => {
                        i128::try_from(labels[row]).expect("narrower than 128 bits")
                    }),+
                }
            }
        }

        $(
            impl<'a> From<ArrayView1<'a, $type>> for Labels<'a> {
                fn from(labels: ArrayView1<'a, $type>) -> Self {
                    Self {
                        integers: Integers::$variant(labels),
                        ignored_label: None,
                        ignored_rows: None,
                        rows: None,
                    }
                }
            }

            impl Integer for $type {
                fn labels(view: ArrayView1<'_, Self>) -> Labels<'_> {
                    view.into()
                }
            }
        )+
    };
}

integers!(
    Usize usize, U64 u64, U32 u32, U16 u16, U8 u8, Isize isize, I128 i128, I64 i64, I32 i32, I16 i16,
    I8 i8
);

/// The integer types that labels may have.
pub trait Integer: Sized {
    #[doc(hidden)]
    fn labels(view: ArrayView1<'_, Self>) -> Labels<'_>;
}

impl<'a> Labels<'a> {
    /// Rows with this label are ignored; see [`Targets::with_ignored_label`].
    ///
    /// # Examples
    ///
    /// Rows that move no center:
    ///
    /// ```
    /// use margin_losses::{CenterLoss, Labels};
    /// use margin_losses::ndarray::array;
    ///
    /// let features = array![[1.0, 2.0], [100.0, f64::NAN]];
    /// let mut centers = array![[0.0, 0.0], [5.0, 5.0]];
    /// let labels = Labels::from(&[0, -100]).with_ignored_label(-100);
    /// CenterLoss::update_centers(centers.view_mut(), features.view(), labels, 0.5)?;
    /// assert_eq!(centers, array![[0.25, 0.5], [5.0, 5.0]]);
    /// # Ok::<(), margin_losses::Error>(())
    /// ```
    #[must_use]
    pub fn with_ignored_label(self, label: i128) -> Self {
        Self {
            ignored_label: Some(label),
            ..self
        }
    }

    /// Rows with `true` are ignored; see [`Targets::with_ignored_rows`].
    #[must_use]
    pub fn with_ignored_rows<'b>(self, ignored: &'b [bool]) -> Labels<'b>
    where
        'a: 'b,
    {
        Labels {
            ignored_rows: Some(ignored),
            ..self.reborrow()
        }
    }

    /// The same labels, for a shorter time.
    pub(crate) fn reborrow<'b>(self) -> Labels<'b>
    where
        'a: 'b,
    {
        Labels {
            integers: self.integers.reborrow(),
            ..self
        }
    }

    /// The labels of these rows of the batch, of which none is ignored.
    pub(crate) fn of_rows<'b>(self, rows: &'b [usize]) -> Labels<'b>
    where
        'a: 'b,
    {
        Labels {
            integers: self.integers.reborrow(),
            ignored_label: None,
            ignored_rows: None,
            rows: Some(rows),
        }
    }

    /// The rows of the batch that these are the labels of, if not of all.
    pub(crate) fn rows(&self) -> Option<&'a [usize]> {
        self.rows
    }

    /// The rows with `true` are ignored.
    pub(crate) fn ignored_rows(&self) -> Option<&'a [bool]> {
        self.ignored_rows
    }

    /// Whether some row may be ignored.
    pub(crate) fn may_ignore(&self) -> bool {
        self.ignored_label.is_some() || self.ignored_rows.is_some()
    }

    /// How many rows the whole batch has.
    pub(crate) fn batch(&self) -> usize {
        self.integers.len()
    }

    /// How many there are, ignored ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.map_or(self.integers.len(), <[usize]>::len)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The label of a row.
    ///
    /// # Panics
    ///
    /// If there is no such row.
    #[must_use]
    #[track_caller]
    pub fn get(&self, row: usize) -> i128 {
        self.integers.get(self.rows.map_or(row, |rows| rows[row]))
    }

    /// Whether a row is ignored, for its label or by name.
    ///
    /// # Panics
    ///
    /// If there is no such row.
    #[must_use]
    #[track_caller]
    pub fn is_ignored(&self, row: usize) -> bool {
        self.ignored_label == Some(self.get(row))
            || self.ignored_rows.is_some_and(|ignored| ignored[row])
    }

    /// All labels, in the order of the rows.
    #[must_use]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = i128> {
        (0..self.len()).map(|row| self.get(row))
    }
}

/// The same labels, whatever their type, with the same rule for rows that are ignored.
impl PartialEq for Labels<'_> {
    fn eq(&self, other: &Self) -> bool {
        let rule = |labels: &Self| (labels.ignored_label, labels.ignored_rows);
        self.len() == other.len() && self.iter().eq(other.iter()) && rule(self) == rule(other)
    }
}

impl<'a, T: Integer> From<&'a [T]> for Labels<'a> {
    fn from(labels: &'a [T]) -> Self {
        T::labels(labels.into())
    }
}

impl<'a, T: Integer, const N: usize> From<&'a [T; N]> for Labels<'a> {
    fn from(labels: &'a [T; N]) -> Self {
        labels[..].into()
    }
}

impl<'a, T: Integer> From<&'a Vec<T>> for Labels<'a> {
    fn from(labels: &'a Vec<T>) -> Self {
        labels[..].into()
    }
}

impl<'a, T: Integer> From<&'a Array1<T>> for Labels<'a> {
    fn from(labels: &'a Array1<T>) -> Self {
        T::labels(labels.view())
    }
}

/// What a batch is to be classified as: its labels, which rows are ignored, how much each of the others counts, and the
/// reduction.
///
/// # Rows that are ignored
///
/// [`with_ignored_label`](Self::with_ignored_label) and [`with_ignored_rows`](Self::with_ignored_rows) leave rows out. An
/// ignored row is not looked at: its features and its row weight may be NaN, its label may be anything. Its row loss, its
/// figures and its row of ∂X are 0. It does not enter ∂W, nor the divisor of the mean, nor the accuracy. Loss and gradients
/// have the bits of the batch without it. Errors name rows of the whole batch.
///
/// A row of weight 0 is another thing: it is checked, its loss is reported, and it counts in the divisor of the mean.
///
/// Where a row is ignored, the features of the others are copied, N×d numbers at the most.
///
/// # Examples
///
/// ```
/// use margin_losses::{ArcFace, MarginLoss, Targets};
/// use margin_losses::ndarray::array;
///
/// let (x, w) = (array![[1.0, 2.0], [f64::NAN, 0.0], [2.0, -0.5]], array![[0.0, 1.0], [1.0, 0.0]]);
/// let out = ArcFace::new(8.0, 0.3)?.evaluate(x.view(), w.view(), &Targets::new(&[0, -100, 1]).with_ignored_label(-100))?;
/// assert_eq!(out.forward.row_losses[1], 0.0);
/// assert_eq!(out.grad_features.row(1), array![0.0, 0.0]);
/// assert_eq!(out.loss(), (out.forward.row_losses[0] + out.forward.row_losses[2]) / 2.0);
/// # Ok::<(), margin_losses::Error>(())
/// ```
///
/// Weights and another reduction:
///
/// ```
/// use margin_losses::{Reduction, Targets};
///
/// let labels = [0, 3, 2];
/// let plain: Targets<'_, f32> = Targets::new(&labels);
/// let weighted = Targets::new(&labels)
///     .with_row_weights(&[1.0_f32, 0.5, 0.0])
///     .with_reduction(Reduction::Sum);
/// # assert_eq!(plain.labels(), weighted.labels());
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Targets<'a, A> {
    labels: Labels<'a>,
    second: Option<Second<'a, A>>,
    row_weights: Option<&'a [A]>,
    label_weights: Option<&'a [A]>,
    reduction: Reduction,
}

/// The second labels, and the shares of the first ones.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Second<'a, A> {
    labels: Labels<'a>,
    shares: Shares<'a, A>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Shares<'a, A> {
    OfAll(f64),
    ByRow(&'a [A]),
}

impl<'a, A> Targets<'a, A> {
    /// One label in `0..classes` for each row of the features, in any integer type; mean reduction, no row is ignored, and
    /// every row counts once.
    #[must_use]
    pub fn new(labels: impl Into<Labels<'a>>) -> Self {
        Self {
            labels: labels.into(),
            second: None,
            row_weights: None,
            label_weights: None,
            reduction: Reduction::Mean,
        }
    }

    /// Rows with this label are ignored: −100 by default in PyTorch, often 255 where labels are bytes. It may be a class too.
    #[must_use]
    pub fn with_ignored_label(self, label: i128) -> Self {
        Self {
            labels: self.labels.with_ignored_label(label),
            ..self
        }
    }

    /// One entry for each row: rows with `true` are ignored, besides those with an ignored label.
    #[must_use]
    pub fn with_ignored_rows<'b>(self, ignored: &'b [bool]) -> Targets<'b, A>
    where
        'a: 'b,
    {
        Targets {
            labels: self.labels.with_ignored_rows(ignored),
            ..self.reborrow()
        }
    }

    /// A second label y′ for each row, for inputs that are mixed of two: mixup, CutMix. The loss of a row is
    /// `λ ℓ(y) + (1 − λ) ℓ(y′)`, where λ ∈ [0, 1] is the share of its first label, and each label has the margin in its own term.
    ///
    /// A softmax loss takes both in one evaluation. Where classes do not compete, or a margin changes the negatives, every row
    /// is evaluated once for each label. [`CenterLoss`](crate::CenterLoss) and
    /// [`JointLoss`](crate::JointLoss) refuse it, as does a loss of your own.
    ///
    /// - With λ = 1 or y = y′ the row has one target, to the bit.
    /// - The figures of a row, such as [`Forward::correct`](crate::Forward::correct), are those of its first label.
    /// - A row is ignored if its first label is. A second label is a class, whatever label is ignored.
    /// - Weights of labels weigh each term by its own label: `rᵢ (λ w_y ℓ(y) + (1 − λ) w_y′ ℓ(y′))`. The row weighs
    ///   `rᵢ (λ w_y + (1 − λ) w_y′)`, and its [row loss](crate::Forward::row_losses) is the mean that these weights make.
    ///
    /// Shares, counts and labels are checked by the evaluation: [`Error::EntryOutOfRange`](crate::Error::EntryOutOfRange) for a λ
    /// outside of [0, 1], [`Error::RowCount`](crate::Error::RowCount) and
    /// [`Error::LabelOutOfRange`](crate::Error::LabelOutOfRange).
    ///
    /// # Examples
    ///
    /// ```
    /// use margin_losses::{ArcFace, MarginLoss, Targets};
    /// use margin_losses::ndarray::array;
    ///
    /// let (x, w) = (array![[1.0, 2.0], [2.0, -0.5]], array![[0.0, 1.0], [1.0, 0.0]]);
    /// let (loss, first, second) = (ArcFace::new(8.0, 0.2)?, [0, 1], [1, 1]);
    /// let mixed = loss.evaluate(x.view(), w.view(), &Targets::new(&first).with_second(&second, 0.7))?;
    /// let one = loss.evaluate(x.view(), w.view(), &Targets::new(&first))?;
    /// let other = loss.evaluate(x.view(), w.view(), &Targets::new(&second))?;
    /// let expected: f64 = 0.7 * one.loss() + 0.3 * other.loss();
    /// assert!((mixed.loss() - expected).abs() < 1e-13);
    /// # Ok::<(), margin_losses::Error>(())
    /// ```
    ///
    /// # References
    ///
    /// Zhang et al., *mixup: Beyond Empirical Risk Minimization* ([arXiv:1710.09412](https://arxiv.org/abs/1710.09412)); Yun et
    /// al., *CutMix* ([arXiv:1905.04899](https://arxiv.org/abs/1905.04899)).
    #[must_use]
    pub fn with_second<'b>(self, labels: impl Into<Labels<'b>>, lambda: f64) -> Targets<'b, A>
    where
        'a: 'b,
    {
        Targets {
            second: Some(Second {
                labels: labels.into(),
                shares: Shares::OfAll(lambda),
            }),
            ..self.reborrow()
        }
    }

    /// The same with a share λ for each row, as CutMix has it.
    #[must_use]
    pub fn with_second_by_row<'b>(
        self,
        labels: impl Into<Labels<'b>>,
        lambdas: &'b [A],
    ) -> Targets<'b, A>
    where
        'a: 'b,
    {
        Targets {
            second: Some(Second {
                labels: labels.into(),
                shares: Shares::ByRow(lambdas),
            }),
            ..self.reborrow()
        }
    }

    /// One weight rᵢ for each row: non-negative, unless the reduction is [`Reduction::None`].
    #[must_use]
    pub fn with_row_weights<'b>(self, row_weights: &'b [A]) -> Targets<'b, A>
    where
        'a: 'b,
    {
        Targets {
            row_weights: Some(row_weights),
            ..self.reborrow()
        }
    }

    /// One weight for each class, finite and non-negative: a row counts its row weight times the weight of its label.
    ///
    /// PyTorch calls it `weight`, and others class weights. Here class weights are W. PyTorch's mean divides by the sum of
    /// the weights: [`Reduction::WeightedMean`].
    ///
    /// # Examples
    ///
    /// A rare class that counts three times:
    ///
    /// ```
    /// use margin_losses::{CosFace, MarginLoss, Reduction, Targets};
    /// use margin_losses::ndarray::array;
    ///
    /// let (x, w) = (array![[1.0, 2.0], [2.0, -0.5]], array![[0.0, 1.0], [1.0, 0.0]]);
    /// let targets = Targets::new(&[0, 1]).with_label_weights(&[1.0, 3.0]).with_reduction(Reduction::WeightedMean);
    /// let out = CosFace::new(8.0, 0.2)?.forward(x.view(), w.view(), &targets)?;
    /// let expected: f64 = (out.row_losses[0] + 3.0 * out.row_losses[1]) / 4.0;
    /// assert!((out.loss - expected).abs() < 1e-14);
    /// # Ok::<(), margin_losses::Error>(())
    /// ```
    #[must_use]
    pub fn with_label_weights<'b>(self, label_weights: &'b [A]) -> Targets<'b, A>
    where
        'a: 'b,
    {
        Targets {
            label_weights: Some(label_weights),
            ..self.reborrow()
        }
    }

    /// Another reduction than the mean.
    #[must_use]
    pub fn with_reduction(self, reduction: Reduction) -> Self {
        Self { reduction, ..self }
    }

    /// The same targets, for a shorter time.
    pub(crate) fn reborrow<'b>(&self) -> Targets<'b, A>
    where
        'a: 'b,
    {
        Targets {
            labels: self.labels.reborrow(),
            second: self.second.as_ref().map(Second::reborrow),
            row_weights: self.row_weights,
            label_weights: self.label_weights,
            reduction: self.reduction,
        }
    }

    /// These targets of some rows: their labels, and their row weights.
    pub(crate) fn of_rows<'b>(
        &self,
        labels: Labels<'b>,
        row_weights: Option<&'b [A]>,
    ) -> Targets<'b, A>
    where
        'a: 'b,
    {
        let second = self.second.as_ref().map(Second::reborrow);
        Targets {
            second: second.map(|second| Second {
                labels: match labels.rows() {
                    None => second.labels,
                    Some(rows) => second.labels.of_rows(rows),
                },
                ..second
            }),
            labels,
            row_weights,
            label_weights: self.label_weights,
            reduction: self.reduction,
        }
    }

    /// The labels, with the rule for rows that are ignored.
    #[must_use]
    pub fn labels(&self) -> Labels<'a> {
        self.labels
    }

    /// The second labels, if there are any.
    #[must_use]
    pub fn second_labels(&self) -> Option<Labels<'a>> {
        self.second.as_ref().map(|second| second.labels)
    }

    /// The row weights, if there are any.
    #[must_use]
    pub fn row_weights(&self) -> Option<&'a [A]> {
        self.row_weights
    }

    /// The weights of the labels, if there are any.
    #[must_use]
    pub fn label_weights(&self) -> Option<&'a [A]> {
        self.label_weights
    }

    /// The reduction.
    #[must_use]
    pub fn reduction(&self) -> Reduction {
        self.reduction
    }
}

impl<'a, A> Second<'a, A> {
    /// The same, for a shorter time.
    fn reborrow<'b>(&self) -> Second<'b, A>
    where
        'a: 'b,
    {
        Second {
            labels: self.labels.reborrow(),
            shares: match self.shares {
                Shares::OfAll(share) => Shares::OfAll(share),
                Shares::ByRow(shares) => Shares::ByRow(shares),
            },
        }
    }
}

impl<A: Float> Targets<'_, A> {
    /// The share of each row of the batch, if they may differ.
    pub(crate) fn shares(&self) -> Option<&[A]> {
        match self.second.as_ref()?.shares {
            Shares::OfAll(_) => None,
            Shares::ByRow(shares) => Some(shares),
        }
    }

    /// λ of a row, if there are second labels.
    pub(crate) fn share(&self, row: usize) -> Option<f64> {
        match self.second.as_ref()?.shares {
            Shares::OfAll(share) => Some(share),
            Shares::ByRow(shares) => {
                let row = self.labels.rows().map_or(row, |rows| rows[row]);
                shares[row].to_f64()
            }
        }
    }

    /// The second label of a row and λ, unless the row has but one target.
    pub(crate) fn second_of(&self, row: usize) -> Option<(i128, f64)> {
        let (label, share) = (self.second_labels()?.get(row), self.share(row)?);
        (share != 1.0 && label != self.labels.get(row)).then_some((label, share))
    }
}
