//! What ails a training, from the figures of its batches.

use core::fmt;

use ndarray::ArrayView2;

use super::{norm_face_lower_bound, positive_scale, target_probability};
use crate::error::{Error, parameter};
use crate::evaluation::Forward;
use crate::float::Float;

/// The least number of rows, over all batches, that a verdict on them rests on.
const ROWS: usize = 8;
/// Below minus this mean target cosine, features are opposite to their classes. Random ones are not.
const OPPOSITE: f64 = 0.5;
/// Above this mean target cosine, rows must be told apart: the least where there is room, the most where there is none.
const TOGETHER: [f64; 2] = [0.75, 0.97];
/// A class this near to a row is its own.
const NEAR: f64 = 0.5;
/// The widest lead `cosθ − ψ` that is taken for meant: an angular margin of 60°.
const WIDEST_LEAD: f64 = 1.0;
/// Below this target probability, that of the best arrangement, a scale is too small.
const LEAST_PROBABILITY: f64 = 0.5;

/// Why a training learns nothing, as [`diagnose`] and [`dead_features`] find it.
///
/// [`Display`](fmt::Display) is a line for the log: what was seen, and what to try.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Trouble {
    /// The features are opposite to their classes, whatever the loss says.
    #[non_exhaustive]
    Antipode {
        /// The mean cosine between rows and their classes.
        cosine: f64,
    },
    /// All features and all class weights lie in about one direction.
    #[non_exhaustive]
    OneDirection {
        /// The mean cosine between rows and their classes.
        cosine: f64,
        /// The share of rows that are classified right, in [0, 1].
        accuracy: f64,
    },
    /// The scale leaves even the best arrangement of the classes without a probable target.
    #[non_exhaustive]
    Scale {
        /// The largest target probability that all classes can have.
        probability: f64,
        /// What the loss cannot fall below without margin.
        bound: f64,
    },
    /// Rows lie close to classes that are not their own.
    #[non_exhaustive]
    Labels {
        /// The mean cosine between rows and their classes.
        cosine: f64,
        /// About the cosine between rows and the class that they are closest to.
        nearest: f64,
    },
    /// The margin is wider than any in use, as one in degrees would be.
    #[non_exhaustive]
    Margin {
        /// How far the target's logit is below its cosine, before scaling; the mean over the rows.
        lead: f64,
    },
    /// Features or dimensions that are zero.
    #[non_exhaustive]
    DeadFeatures {
        /// Rows that are zero vectors.
        rows: usize,
        /// Dimensions that are zero in every row.
        dimensions: usize,
    },
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Antipode { cosine } => write!(
                f,
                "collapsed to the antipole: the mean cosine of rows and their classes is {cosine:.2}; centre the inputs, \
                 normalise before the features, warm up the margin, or take ArcFace's rule cosine-tail"
            ),
            Self::OneDirection { cosine, accuracy } => write!(
                f,
                "stuck in one direction: rows have a mean cosine of {cosine:.2} to their classes, but {:.0} % are classified \
                 right; centre the inputs, normalise before the features, or lower the learning rate",
                100.0 * accuracy
            ),
            Self::Scale { probability, bound } => write!(
                f,
                "scale too small for so many classes: the target's probability cannot exceed {probability:.2}, nor the loss \
                 fall below {bound:.2}; take suggested_scale"
            ),
            Self::Labels { cosine, nearest } => write!(
                f,
                "labels wrong: rows have a mean cosine of {cosine:.2} to their classes, and about {nearest:.2} to another; \
                 check the order of rows and labels, and that the class weights belong to these labels"
            ),
            Self::Margin { lead } => write!(
                f,
                "margin too wide: the target has to lead by {lead:.2} in the cosine; check that it is in radians, not degrees"
            ),
            Self::DeadFeatures { rows, dimensions } => write!(
                f,
                "dead features: {rows} rows are zero vectors, and {dimensions} dimensions are zero in every row; an embedding \
                 must not end in a rectifier (ReLU)"
            ),
        }
    }
}

/// What ails a training, from one batch or a few in a row; `None` if nothing does.
///
/// A trouble is named if every one of the batches shows it. One batch is a guess: at the start all features may move in one
/// direction for some steps, and come apart again. Ten batches in a row are a verdict. Batches that together have fewer than
/// 8 rows are not judged, and rows that are ignored do not count.
///
/// | trouble | what every batch shows |
/// |---|---|
/// | [`Trouble::Scale`] | whatever the batches: [`target_probability`] is below 0.5 |
/// | [`Trouble::Margin`] | the target's logit is more than s below s cosθ, on average |
/// | [`Trouble::Antipode`] | the mean target cosine is below −0.5 |
/// | [`Trouble::OneDirection`] | it is above 0.75 (in few dimensions above 0.97), but at most half of the rows are classified right (of two classes, three fifths) |
/// | [`Trouble::Labels`] | no more rows are classified right than that, and they are nearer to another class than random rows are |
///
/// `classes` is the number of classes, and `dim` that of the columns of W. `scale` is that of a softmax over scaled cosines, `None`
/// for all other losses: then the scale is not judged, nor margin and labels. It lies in (0, 10⁶]. A scale that is learned from 1
/// on is named until it has grown. Losses that do not classify are judged by their cosines to the centers.
///
/// Margin and labels are told from logits and row losses, and nothing is said of them where those are of another kind:
///
/// | not judged | because of |
/// |---|---|
/// | margin and labels | [`SphereFace2`](crate::SphereFace2), [`UniFace`](crate::UniFace), [`CContrastive`](crate::CContrastive) and [`CTriplet`](crate::CTriplet), which are no softmax: `None` for their scale; class priors; a loss of your own |
/// | labels | label smoothing, focal modulation, a center term, a margin that changes the negatives or adds a term to a row's loss |
///
/// # Errors
///
/// [`Error::Parameter`] if `classes` is below 2, `dim` is 0, or `scale` is out of range.
///
/// # Examples
///
/// ```
/// use margin_losses::{ArcFace, MarginLoss, PastPi, Targets, guide, init};
/// use margin_losses::ndarray::Array2;
///
/// // Every feature is opposite to its class, and the paper's loss is content.
/// let weights: Array2<f64> = init::class_weights(10, 1, 1)? * 0.0 + 1.0;
/// let features = weights.mapv(|entry| -entry);
/// let loss = ArcFace::default().with_past_pi(PastPi::Paper);
/// let labels: Vec<usize> = (0..10).collect();
/// let forward = loss.forward(features.view(), weights.view(), &Targets::new(&labels))?;
/// assert!(forward.loss < 0.01);
/// let trouble = guide::diagnose(&[&forward], 10, 1, Some(64.0))?.expect("a trouble");
/// assert!(trouble.to_string().starts_with("collapsed to the antipole: the mean cosine of rows and their classes is -1.00"));
/// # Ok::<(), margin_losses::Error>(())
/// ```
pub fn diagnose<A: Float>(
    batches: &[&Forward<A>],
    classes: usize,
    dim: usize,
    scale: Option<f64>,
) -> Result<Option<Trouble>, Error> {
    parameter("classes", classes as f64, classes >= 2, "be at least 2")?;
    parameter("dim", dim as f64, dim >= 1, "be at least 1")?;
    if let Some(scale) = scale {
        let probability = target_probability(classes, positive_scale(scale)?)?;
        if probability < LEAST_PROBABILITY {
            let bound = norm_face_lower_bound(classes, scale)?;
            return Ok(Some(Trouble::Scale { probability, bound }));
        }
    }
    let seen: Vec<Figures> = batches
        .iter()
        .filter_map(|batch| Figures::of(batch, classes, scale))
        .collect();
    let rows: usize = seen.iter().map(|batch| batch.rows).sum();
    if rows < ROWS {
        return Ok(None);
    }
    let mean = |of: fn(&Figures) -> f64| {
        seen.iter()
            .map(|batch| of(batch) * batch.rows as f64)
            .sum::<f64>()
            / rows as f64
    };
    let every = |holds: &dyn Fn(&Figures) -> bool| seen.iter().all(holds);

    let cosine = mean(|batch| batch.cosine);
    let few = f64::max(0.5, 1.2 / classes as f64);
    let unlearned = |batch: &Figures| batch.accuracy.is_some_and(|accuracy| accuracy <= few);
    // Random rows are about this near to the nearest of C random classes, which in few dimensions is near.
    let chance = (2.0 * (classes as f64).ln() / dim as f64).sqrt().min(1.0);
    let near = f64::max(NEAR, chance + 0.2);
    let together = (chance + 0.2).clamp(TOGETHER[0], TOGETHER[1]);
    Ok(if every(&|batch| batch.lead > WIDEST_LEAD) {
        let lead = mean(|batch| batch.lead);
        Some(Trouble::Margin { lead })
    } else if every(&|batch| batch.cosine < -OPPOSITE) {
        Some(Trouble::Antipode { cosine })
    } else if every(&|batch| batch.cosine > together && unlearned(batch)) {
        let accuracy = mean(|batch| batch.accuracy.unwrap_or(0.0));
        Some(Trouble::OneDirection { cosine, accuracy })
    } else if every(&|batch| batch.nearest > near && batch.cosine < NEAR && unlearned(batch)) {
        let nearest = mean(|batch| batch.nearest);
        Some(Trouble::Labels { cosine, nearest })
    } else {
        None
    })
}

/// Features of a batch that carry nothing; `None` if there are none.
///
/// A dimension is dead if it is zero in every row, as one behind a rectifier may be. A trouble is named if more than half of
/// the dimensions are dead, or if a row is a zero vector, which losses of angles refuse.
///
/// # Shapes
///
/// Features N×d. A batch of fewer than 8 rows has no dead dimensions: few rows say little of a dimension.
///
/// # Examples
///
/// ```
/// use margin_losses::{guide, init};
///
/// // Two dimensions behind a rectifier: about a quarter of all rows are zero vectors.
/// let mut features = init::normal::<f32>(256, 2, 1.0, 7)?;
/// assert_eq!(guide::dead_features(features.view()), None);
/// features.mapv_inplace(|entry| entry.max(0.0));
/// let trouble = guide::dead_features(features.view()).expect("a trouble");
/// assert!(trouble.to_string().starts_with("dead features: "));
/// # Ok::<(), margin_losses::Error>(())
/// ```
#[must_use]
pub fn dead_features<A: Float>(features: ArrayView2<'_, A>) -> Option<Trouble> {
    let zero = |entry: &A| *entry == A::zero();
    let rows = features.rows().into_iter();
    let rows = rows.filter(|row| row.iter().all(zero)).count();
    let mut dimensions = 0;
    if features.nrows() >= ROWS {
        let columns = features.columns().into_iter();
        dimensions = columns.filter(|column| column.iter().all(zero)).count();
    }
    let dead = rows > 0 || 2 * dimensions > features.ncols();
    dead.then_some(Trouble::DeadFeatures { rows, dimensions })
}

/// The means over the rows of a batch.
struct Figures {
    rows: usize,
    cosine: f64,
    accuracy: Option<f64>,
    /// How far the target's logit is below its cosine, in units of the scale; 0 if that cannot be told.
    lead: f64,
    /// The largest cosine, if it is another class's: ln Σ exp z without its ln C, in units of the scale. 0 if that cannot be told.
    nearest: f64,
}

impl Figures {
    /// `None` if no row counts.
    fn of<A: Float>(batch: &Forward<A>, classes: usize, scale: Option<f64>) -> Option<Self> {
        let wide = |value: A| value.to_f64().unwrap_or(f64::NAN);
        let counts = |row: usize| !batch.ignored.get(row).copied().unwrap_or(false);
        let (mut rows, mut cosines, mut leads, mut nearest) = (0, 0.0, 0.0, 0.0);
        for row in (0..batch.target_cosines.len()).filter(|&row| counts(row)) {
            let cosine = wide(batch.target_cosines[row]);
            rows += 1;
            cosines += cosine;
            if let Some(scale) = scale {
                let logit = wide(batch.target_logits[row]);
                if batch.reading.margin {
                    leads += cosine - logit / scale;
                }
                if batch.reading.others {
                    // ℓ + z is ln Σ exp z, which exceeds the largest logit by ln C at most.
                    let all = wide(batch.row_losses[row]) + logit;
                    let cosine = (all - (classes as f64).ln()) / scale;
                    nearest += cosine.clamp(-1.0, 1.0);
                }
            }
        }
        let count = rows as f64;
        (rows > 0).then(|| Self {
            rows,
            cosine: cosines / count,
            accuracy: batch.accuracy(),
            lead: leads / count,
            nearest: nearest / count,
        })
    }
}
