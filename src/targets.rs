//! What a batch is to be classified as.

use ndarray::{Array1, ArrayView1};

/// How the losses ℓᵢ of the rows become one number, and with them their gradients.
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
/// # Ok::<(), margin_losses::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Reduction {
    /// `(1/N) Σ rᵢ ℓᵢ` over the N rows, whatever the sum of the row weights.
    #[default]
    Mean,
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
pub struct Labels<'a>(Integers<'a>);

macro_rules! integers {
    ($($variant:ident $type:ty),+) => {
        #[derive(Clone, Copy, Debug)]
        enum Integers<'a> {
            $($variant(ArrayView1<'a, $type>)),+
        }

        impl Labels<'_> {
            /// The same labels, for a shorter time.
            pub(crate) fn reborrow<'b>(self) -> Labels<'b>
            where
                Self: 'b,
            {
                Labels(match self.0 {
                    $(Integers::$variant(labels) => Integers::$variant(labels.reborrow())),+
                })
            }

            /// How many there are.
            #[must_use]
            pub fn len(&self) -> usize {
                match &self.0 {
                    $(Integers::$variant(labels) => labels.len()),+
                }
            }

            /// The label of a row.
            ///
            /// # Panics
            ///
            /// If there is no such row.
            #[must_use]
            #[track_caller]
            pub fn get(&self, row: usize) -> i128 {
                match &self.0 {
                    $(Integers::$variant(labels) => {
                        i128::try_from(labels[row]).expect("narrower than 128 bits")
                    }),+
                }
            }
        }

        $(
            impl<'a> From<ArrayView1<'a, $type>> for Labels<'a> {
                fn from(labels: ArrayView1<'a, $type>) -> Self {
                    Self(Integers::$variant(labels))
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
    Usize usize, U64 u64, U32 u32, U16 u16, U8 u8, Isize isize, I64 i64, I32 i32, I16 i16, I8 i8
);

/// The integer types that labels may have.
pub trait Integer: Sized {
    #[doc(hidden)]
    fn labels(view: ArrayView1<'_, Self>) -> Labels<'_>;
}

impl Labels<'_> {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All labels, in the order of the rows.
    #[must_use]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = i128> {
        (0..self.len()).map(|row| self.get(row))
    }
}

/// The same labels, whatever their type.
impl PartialEq for Labels<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
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

/// What a batch is to be classified as: its labels, how much each row counts, and the reduction.
///
/// # Examples
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
    row_weights: Option<&'a [A]>,
    reduction: Reduction,
}

impl<'a, A> Targets<'a, A> {
    /// One label in `0..classes` for each row of the features, in any integer type; mean reduction, every row counts once.
    #[must_use]
    pub fn new(labels: impl Into<Labels<'a>>) -> Self {
        Self {
            labels: labels.into(),
            row_weights: None,
            reduction: Reduction::Mean,
        }
    }

    /// One weight rᵢ for each row: non-negative, unless the reduction is [`Reduction::None`].
    #[must_use]
    pub fn with_row_weights(self, row_weights: &'a [A]) -> Self {
        Self {
            row_weights: Some(row_weights),
            ..self
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
            row_weights: self.row_weights,
            reduction: self.reduction,
        }
    }

    /// The labels.
    #[must_use]
    pub fn labels(&self) -> Labels<'a> {
        self.labels
    }

    /// The row weights, if there are any.
    #[must_use]
    pub fn row_weights(&self) -> Option<&'a [A]> {
        self.row_weights
    }

    /// The reduction.
    #[must_use]
    pub fn reduction(&self) -> Reduction {
        self.reduction
    }
}
