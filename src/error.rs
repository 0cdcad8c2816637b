//! Every way in which an argument can be refused.

use core::fmt;

/// An argument of a call, as error messages name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Argument {
    /// The N×d batch of features.
    Features,
    /// The N×d features that others are compared with, row by row.
    OtherFeatures,
    /// The C×d class weights (prototypes).
    ClassWeights,
    /// The C×d class centers.
    Centers,
    /// The N labels.
    Labels,
    /// The N second labels of [`Targets::with_second`](crate::Targets::with_second).
    SecondLabels,
    /// The shares λ of the first labels beside second ones.
    Shares,
    /// The N row weights.
    RowWeights,
    /// The N entries that say which rows are ignored.
    IgnoredRows,
    /// The C weights of the labels.
    LabelWeights,
    /// The C biases of [`SoftmaxLoss`](crate::SoftmaxLoss), or other constants of the logits.
    Bias,
    /// The C class priors, or the counts that they come from.
    ClassPriors,
    /// The scores of given pairs.
    Scores,
    /// The entries that say which pairs are of one class.
    SamePairs,
    /// The C margins of a [`VaryingMargin`](crate::VaryingMargin).
    ClassMargins,
    /// The N margins of a [`VaryingMargin`](crate::VaryingMargin).
    RowMargins,
    /// The C numbers of samples that [`margins`](crate::margins) are made of.
    ClassCounts,
    /// The N target cosines that [`margins`](crate::margins) are dealt out by.
    TargetCosines,
}

impl fmt::Display for Argument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Features => "features",
            Self::OtherFeatures => "other features",
            Self::ClassWeights => "class weights",
            Self::Centers => "centers",
            Self::Labels => "labels",
            Self::SecondLabels => "second labels",
            Self::Shares => "shares",
            Self::RowWeights => "row weights",
            Self::IgnoredRows => "ignored rows",
            Self::LabelWeights => "label weights",
            Self::Bias => "bias",
            Self::ClassPriors => "class priors",
            Self::Scores => "scores",
            Self::SamePairs => "same pairs",
            Self::ClassMargins => "class margins",
            Self::RowMargins => "row margins",
            Self::ClassCounts => "class counts",
            Self::TargetCosines => "target cosines",
        })
    }
}

impl Argument {
    /// What is counted of it where its length is wrong.
    fn parts(self) -> &'static str {
        match self {
            Self::Features | Self::OtherFeatures | Self::ClassWeights | Self::Centers => "rows",
            _ => "entries",
        }
    }

    /// What an index of it names: a row, be it its own or the batch's, or one of its entries, which are for no row.
    fn part(self) -> &'static str {
        match self {
            Self::LabelWeights
            | Self::Bias
            | Self::ClassPriors
            | Self::ClassMargins
            | Self::ClassCounts
            | Self::Scores
            | Self::SamePairs => "entry",
            _ => "row",
        }
    }
}

/// Why a call was refused.
///
/// Every error is found before anything is written: outputs that a caller passed in keep their bits.
///
/// # Examples
///
/// ```
/// use margin_losses::{ArcFace, Argument, CosFace, Error, MarginLoss, Targets};
/// use margin_losses::ndarray::array;
///
/// let (x, w) = (array![[1.0, 2.0], [0.0, 0.0]], array![[0.0, 1.0], [1.0, 0.0]]);
/// let error = CosFace::default().forward(x.view(), w.view(), &Targets::new(&[0, 1])).unwrap_err();
/// assert_eq!(error, Error::ZeroNorm { argument: Argument::Features, row: 1 });
/// assert_eq!(error.to_string(), "features row 1 has zero norm");
///
/// let error = ArcFace::new(64.0, 28.6).unwrap_err();
/// let message = "margin is 28.6, but must lie in [0, pi) radians; 28.6 degrees are 0.4992 radians";
/// assert_eq!(error.to_string(), message);
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Error {
    /// An argument has the wrong number of rows (or entries).
    RowCount {
        /// The argument.
        argument: Argument,
        /// How many rows the other arguments ask for.
        expected: usize,
        /// How many it has.
        found: usize,
    },
    /// An argument has the wrong number of columns, the dimension d.
    Dimension {
        /// The argument.
        argument: Argument,
        /// How many columns the features have.
        expected: usize,
        /// How many it has.
        found: usize,
    },
    /// The batch has no rows, or all are ignored, and the mean of nothing is undefined.
    EmptyBatch,
    /// The weights of all rows are 0, and the reduction divides by their sum.
    ZeroWeights,
    /// The class weights (or centers) have no rows.
    NoClasses,
    /// The features have no columns.
    NoDimensions,
    /// The rows of W are no multiple of the number of sub-centers of a class.
    SubCenters {
        /// How many rows W has.
        rows: usize,
        /// How many each class is said to have.
        group: usize,
    },
    /// Two things that are no loss together.
    NotComposable {
        /// What is to be composed.
        what: &'static str,
        /// With what it cannot be.
        with: &'static str,
    },
    /// A label is negative, or not below the number of classes.
    LabelOutOfRange {
        /// The row of the batch.
        row: usize,
        /// Its label.
        label: i128,
        /// The number of classes.
        classes: usize,
    },
    /// A new class has no row of the features to begin from, see [`grow`](crate::grow).
    NoFeatures {
        /// The class.
        class: usize,
    },
    /// An argument holds a NaN or an infinity.
    NonFinite {
        /// The argument.
        argument: Argument,
        /// The first row with such an entry.
        row: usize,
    },
    /// A row that has to be normalised is zero.
    ZeroNorm {
        /// The argument.
        argument: Argument,
        /// The first such row.
        row: usize,
    },
    /// A row that has to be normalised is so short that its gradient, which grows as 1/norm, leaves the range of the
    /// element type: below 2⁻¹²⁰ in `f32`, below 2⁻¹⁰⁰⁰ in `f64`.
    NormTooSmall {
        /// The argument.
        argument: Argument,
        /// The first such row.
        row: usize,
    },
    /// A row weight is negative, and the reduction is a mean or a sum; or the weight of a label is negative.
    NegativeWeight {
        /// The argument: the row weights or the label weights.
        argument: Argument,
        /// The row of the batch, or the class.
        row: usize,
    },
    /// A quantity of this row is larger than the largest number of the element type.
    Overflow {
        /// What overflows: `"norm"`, `"logit"`, `"score"`, `"loss"`, `"gradient"`, `"center"`, or `"weight"`, of a row and its
        /// label.
        quantity: &'static str,
        /// The argument whose row leads there.
        argument: Argument,
        /// The row.
        row: usize,
    },
    /// A quantity of the whole batch is larger than the largest number of the element type, through no row in particular.
    BatchOverflow {
        /// What overflows: `"loss"`, `"gradient"`.
        quantity: &'static str,
    },
    /// The best k classes of a row were asked for, but k is 0 or there are not that many.
    TopK {
        /// How many were asked for.
        k: usize,
        /// How many classes there are.
        classes: usize,
    },
    /// An inter-topk penalty is for more classes than there are beside the target.
    InterTopK {
        /// How many it is for.
        k: usize,
        /// How many classes there are beside the target.
        others: usize,
    },
    /// The loss has no scores: it does not say which class a feature belongs to.
    NoScores,
    /// The nearest k neighbours of a row were asked for, but k is 0 or there are not that many other rows.
    Neighbours {
        /// How many were asked for.
        k: usize,
        /// How many other rows there are.
        others: usize,
    },
    /// There is no pair of one class, so that no true-accept rate and no recall is defined.
    NoSamePairs,
    /// There is no pair of different classes, so that no false-accept rate is defined.
    NoDifferentPairs,
    /// A margin returned a number that is not finite.
    MarginNotFinite {
        /// The row of the batch.
        row: usize,
        /// The angle, in radians, that the margin was asked about.
        angle: f64,
    },
    /// A hyper-parameter is outside its range.
    Parameter {
        /// Its name.
        name: &'static str,
        /// Its value.
        value: f64,
        /// The range, in words that follow "must".
        rule: &'static str,
    },
    /// An entry of a list of hyper-parameters is outside its range.
    EntryOutOfRange {
        /// The list.
        argument: Argument,
        /// The entry.
        row: usize,
        /// Its value.
        value: f64,
        /// The range, in words that follow "must".
        rule: &'static str,
    },
    /// The loss has another number of learnables than were given.
    LearnableCount {
        /// How many it has.
        expected: usize,
        /// How many were given.
        found: usize,
    },
    /// The loss keeps another number of running statistics than were given.
    StatisticCount {
        /// How many it keeps.
        expected: usize,
        /// How many were given.
        found: usize,
    },
    /// The scratch limit is below what the smallest plan for these shapes needs.
    ScratchLimit {
        /// The limit, in bytes.
        limit: usize,
        /// The least that would do, in bytes.
        needed: usize,
    },
    /// A message between the ranks of a job did not arrive, or one of them refused something that the others do not know of.
    Communication {
        /// What happened.
        reason: String,
    },
    /// The ranks of a sharded evaluation were not given the same thing, see [`shards`](crate::shards).
    RanksDiffer {
        /// What differs.
        what: &'static str,
        /// The first rank that has another than rank 0.
        rank: usize,
    },
    /// An array has more entries than memory can hold.
    TooLarge {
        /// How many rows it would have.
        rows: usize,
        /// How many columns.
        columns: usize,
    },
    /// A text names no loss, or no rule.
    UnknownName {
        /// What was to be named: `"loss"`, `"term"`, `"reduction"`, `"rule past pi"`.
        what: &'static str,
        /// What was found.
        found: String,
        /// The names there are.
        known: &'static [&'static str],
    },
    /// The center loss was to classify.
    NoClassifier,
    /// A loss is more than a margin over cosines of a fixed scale, and is not [offloaded](crate::offload).
    NotOffloadable {
        /// The loss.
        loss: String,
    },
    /// A text gives a loss a parameter that it does not have.
    UnknownParameter {
        /// The loss.
        loss: &'static str,
        /// What was found.
        found: String,
        /// The names of its parameters.
        known: &'static [&'static str],
    },
    /// A text leaves out a parameter that has no default.
    MissingParameter {
        /// The loss.
        loss: &'static str,
        /// The parameter.
        name: &'static str,
        /// What may be written, in words that follow "as in".
        example: &'static str,
    },
    /// A text that cannot be read as what it stands for.
    Unreadable {
        /// What it stands for: the name of a parameter, or `"loss"`.
        name: &'static str,
        /// What was found.
        found: String,
        /// What it must be, in words that follow "must".
        rule: &'static str,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::RowCount {
                argument,
                expected,
                found,
            } => write!(
                f,
                "{argument}: {expected} {} expected, {found} found",
                argument.parts()
            ),
            Self::Dimension {
                argument,
                expected,
                found,
            } => write!(
                f,
                "{argument}: {expected} columns expected, as in the features, {found} found"
            ),
            Self::EmptyBatch => f.write_str("the batch has no rows to take the mean of"),
            Self::ZeroWeights => f.write_str(
                "the weights of all rows are 0, and a mean cannot be divided by their sum",
            ),
            Self::NoClasses => f.write_str("there are no classes"),
            Self::NoDimensions => f.write_str("features have no dimensions"),
            Self::SubCenters { rows, group } => write!(
                f,
                "class weights: {rows} rows are not a multiple of the {group} sub-centers of each class"
            ),
            Self::NotComposable { what, with } => {
                write!(f, "{what} cannot be composed with {with}")
            }
            Self::LabelOutOfRange {
                row,
                label,
                classes,
            } => {
                write!(
                    f,
                    "labels row {row} is {label}, but there are {classes} classes"
                )?;
                if label < 0 {
                    f.write_str("; rows can be ignored by with_ignored_label")?;
                }
                Ok(())
            }
            Self::NoFeatures { class } => write!(f, "class {class} has no row of the features"),
            Self::NonFinite { argument, row } => {
                let part = argument.part();
                let holds = if part == "row" { "holds" } else { "is" };
                write!(f, "{argument} {part} {row} {holds} a NaN or an infinity")
            }
            Self::ZeroNorm { argument, row } => write!(f, "{argument} row {row} has zero norm"),
            Self::NormTooSmall { argument, row } => {
                write!(f, "{argument} row {row} has a norm too small to divide by")
            }
            Self::NegativeWeight { argument, row } => {
                write!(f, "{argument} {} {row} is negative", argument.part())
            }
            Self::Overflow {
                quantity,
                argument,
                row,
            } => write!(
                f,
                "{argument} {} {row} makes a {quantity} larger than the element type can hold",
                argument.part()
            ),
            Self::BatchOverflow { quantity } => write!(
                f,
                "the batch makes a {quantity} larger than the element type can hold"
            ),
            Self::TopK { k, classes } => {
                write!(f, "the best {k} classes cannot be chosen from {classes}")
            }
            Self::InterTopK { k, others } => write!(
                f,
                "an inter-topk penalty for k = {k} classes, but {others} are not the target's"
            ),
            Self::NoScores => f.write_str("the loss does not give scores"),
            Self::Neighbours { k, others } => write!(
                f,
                "the nearest {k} neighbours of a row cannot be chosen from {others}"
            ),
            Self::NoSamePairs => f.write_str("there is no pair of one class"),
            Self::NoDifferentPairs => f.write_str("there is no pair of different classes"),
            Self::MarginNotFinite { row, angle } => write!(
                f,
                "the margin is not finite at the target angle {angle} of row {row}"
            ),
            Self::Parameter { name, value, rule } => {
                write!(f, "{name} is {value}, but must {rule}")?;
                say_radians(f, value, rule)
            }
            Self::EntryOutOfRange {
                argument,
                row,
                value,
                rule,
            } => {
                let part = argument.part();
                write!(f, "{argument} {part} {row} is {value}, but must {rule}")?;
                say_radians(f, value, rule)
            }
            Self::LearnableCount { expected, found } => {
                write!(f, "{expected} learnables expected, {found} found")
            }
            Self::StatisticCount { expected, found } => {
                write!(f, "{expected} statistics expected, {found} found")
            }
            Self::ScratchLimit { limit, needed } => write!(
                f,
                "a scratch limit of {limit} bytes is below the {needed} bytes that these shapes need"
            ),
            Self::Communication { ref reason } => f.write_str(reason),
            Self::RanksDiffer { what, rank } => {
                write!(f, "rank {rank} was given another {what} than rank 0")
            }
            Self::TooLarge { rows, columns } => {
                write!(f, "there is no memory for {rows} rows of {columns} entries")
            }
            Self::UnknownName {
                what,
                ref found,
                known,
            } => write!(
                f,
                "there is no {what} {found:?}, but there {} {}",
                if known.len() == 1 { "is" } else { "are" },
                known.join(", ")
            ),
            Self::NoClassifier => f.write_str(
                "the center loss does not classify: join it to a loss that does, as in softmax+center:lambda=0.003",
            ),
            Self::NotOffloadable { ref loss } => write!(
                f,
                "{loss} is not offloaded: it is more than a margin over cosines of a fixed scale"
            ),
            Self::UnknownParameter {
                loss,
                ref found,
                known: [],
            } => write!(f, "{loss} has no parameter {found:?}, and none at all"),
            Self::UnknownParameter {
                loss,
                ref found,
                known,
            } => write!(
                f,
                "{loss} has no parameter {found:?}, but it has {}",
                known.join(", ")
            ),
            Self::MissingParameter {
                loss,
                name,
                example,
            } => write!(f, "{loss} needs the parameter {name}, as in {example}"),
            Self::Unreadable {
                name,
                ref found,
                rule,
            } => write!(f, "{name} is {found:?}, but must {rule}"),
        }
    }
}

/// What a value in degrees is in radians, should that be what was meant.
fn say_radians(f: &mut fmt::Formatter<'_>, value: f64, rule: &str) -> fmt::Result {
    if rule == IN_RADIANS && (5.0..=180.0).contains(&value) {
        let radians = value.to_radians();
        write!(f, "; {value} degrees are {radians:.4} radians")?;
    }
    Ok(())
}

impl std::error::Error for Error {}

impl Error {
    pub(crate) fn overflow(quantity: &'static str, argument: Argument, row: usize) -> Self {
        Self::Overflow {
            quantity,
            argument,
            row,
        }
    }

    /// A message that is not what it should be.
    pub(crate) fn malformed() -> Self {
        Self::Communication {
            reason: "a message is too short: do all ranks run the same program?".to_owned(),
        }
    }

    /// The same error of a hyper-parameter that is one of a list.
    pub(crate) fn of_entry(self, argument: Argument, row: usize) -> Self {
        match self {
            Self::Parameter { value, rule, .. } => Self::EntryOutOfRange {
                argument,
                row,
                value,
                rule,
            },
            other => other,
        }
    }

    /// The same error, where rows of W or of centers were counted from this one on.
    pub(crate) fn in_classes_from(mut self, first: usize) -> Self {
        if let Self::NonFinite { row, .. } = &mut self {
            *row += first;
        }
        self
    }

    /// The row of the batch that the error names, if it names one.
    pub(crate) fn batch_row(&mut self) -> Option<&mut usize> {
        match self {
            Self::LabelOutOfRange { row, .. }
            | Self::MarginNotFinite { row, .. }
            | Self::EntryOutOfRange {
                argument: Argument::Shares,
                row,
                ..
            } => Some(row),
            Self::NonFinite { argument, row }
            | Self::ZeroNorm { argument, row }
            | Self::NormTooSmall { argument, row }
            | Self::NegativeWeight { argument, row }
            | Self::Overflow { argument, row, .. } => {
                matches!(argument, Argument::Features | Argument::RowWeights).then_some(row)
            }
            _ => None,
        }
    }
}

/// A hyper-parameter that must lie in a range: the value, or the error that names it.
pub(crate) fn parameter(
    name: &'static str,
    value: f64,
    holds: bool,
    rule: &'static str,
) -> Result<f64, Error> {
    if holds {
        Ok(value)
    } else {
        Err(Error::Parameter { name, value, rule })
    }
}

/// A scale (inverse temperature) of the logits. Beyond its range logits in `f32` would be nothing but rounding, or have none.
pub(crate) fn scale(value: f64) -> Result<f64, Error> {
    parameter(
        "scale",
        value,
        (1e-6..=1e6).contains(&value),
        "lie in [1e-6, 1e6]",
    )
}

/// The rule of margins that are added to an angle. Who breaks it may have meant degrees.
const IN_RADIANS: &str = "lie in [0, pi) radians";

/// A margin that is added to an angle.
pub(crate) fn angular_margin(name: &'static str, value: f64) -> Result<f64, Error> {
    let holds = (0.0..core::f64::consts::PI).contains(&value);
    parameter(name, value, holds, IN_RADIANS)
}

/// The share of the newest batch in running statistics.
pub(crate) fn momentum(value: f64) -> Result<f64, Error> {
    let holds = (0.0..=1.0).contains(&value);
    parameter("momentum", value, holds, "lie in [0, 1]")
}

/// The threshold of inter-class filtering.
pub(crate) fn class_filter(value: f64) -> Result<f64, Error> {
    let holds = (-1.0..=1.0).contains(&value);
    parameter("filter", value, holds, "lie in [-1, 1]")
}

/// A margin that is subtracted from a cosine.
pub(crate) fn cosine_margin(name: &'static str, value: f64) -> Result<f64, Error> {
    parameter(name, value, (0.0..=2.0).contains(&value), "lie in [0, 2]")
}

/// A constant of the logits that is learned.
pub(crate) fn bias(value: f64) -> Result<f64, Error> {
    let holds = (-1e7..=1e7).contains(&value);
    parameter("bias", value, holds, "lie in [-1e7, 1e7]")
}
