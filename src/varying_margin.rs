//! Margins that differ from class to class, or from row to row.

use core::fmt;

use ndarray::ArrayView1;

use crate::am_softmax::AmSoftmax;
use crate::arc_face::ArcFace;
use crate::check;
use crate::cos_face::CosFace;
use crate::driver::{Head, Layer};
use crate::error::{Argument, Error};
use crate::float::{Float, sealed::TOKEN};
use crate::loss::MarginLoss;
use crate::margin::{Margin, Negatives, Target, TargetLogit};
use crate::request::Request;
use crate::text::NUMBERS_IN_A_LOG;

/// [`ArcFace`], [`CosFace`] or [`AmSoftmax`] with a margin of its own for each class, or for each row of the batch.
///
/// Margins by class are for data with a long tail: a rare class is given a larger margin, because its few samples do not show how
/// far it spreads. [`margins`](crate::margins) has them from class counts (dynamic margins, LDAM). Margins by row are for one
/// step: ElasticFace draws them anew each time. Both come from `with_class_margins` and `with_row_margins` of the loss.
///
/// ```text
/// z_y = s ψ(θ_y; m_y)        or        z_y = s ψ(θ_y; mᵢ) of row i
/// ```
/// ```math
/// z_y = s\,\psi(\theta_y;\, m_y) \qquad\text{or}\qquad z_y = s\,\psi(\theta_y;\, m_i) \;\text{ of row } i
/// ```
///
/// ψ and everything else are those of the loss.
///
/// # Shapes
///
/// Features N×d and class weights C×d, none of them zero; C margins by class, or N margins by row. Rows are those of the caller's
/// batch: rows that are [ignored](crate::Targets#rows-that-are-ignored) have a margin too, which is not looked at.
///
/// # Gradients
///
/// As for the loss. Margins are constants.
///
/// # Numerical notes
///
/// Those of the loss. If all margins are equal, so are the bits of all results.
///
/// # Errors
///
/// As for [`MarginLoss`](crate::MarginLoss), and [`Error::RowCount`] if there are not as many margins as classes, or rows. The
/// scores have no margin, so they do not ask for that.
///
/// # Examples
///
/// ```
/// use margin_losses::{ArcFace, MarginLoss, Targets, margins};
/// use margin_losses::ndarray::array;
///
/// let weights = array![[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]];
/// let by_class = ArcFace::new(30.0, 0.0)?.with_class_margins(margins::dynamic(&[1000, 10, 1], 0.5, 0.05, 0.25)?)?;
/// let features = array![[1.0, 0.2], [0.3, 1.0]];
/// let out = by_class.evaluate(features.view(), weights.view(), &Targets::new(&[0, 1]))?;
/// assert!(out.loss() > 0.0);
///
/// // As text, margins by class stand in the place of the margin.
/// let loss: margin_losses::AnyLoss = "arcface:s=30,m=0.1/0.2/0.5".parse()?;
/// assert_eq!(loss.to_string(), "arcface:s=30,m=0.1/0.2/0.5");
///
/// let by_row = ArcFace::default().with_row_margins(vec![0.5; 3])?;
/// let error = by_row.evaluate(features.view(), weights.view(), &Targets::new(&[0, 1])).unwrap_err();
/// assert_eq!(error.to_string(), "row margins: 2 entries expected, 3 found");
/// # Ok::<(), margin_losses::Error>(())
/// ```
///
/// # References
///
/// - Dynamic margins: Ha et al., *Google Landmark Recognition 2020 Competition Third Place Solution*
///   ([arXiv:2010.05350](https://arxiv.org/abs/2010.05350)).
/// - LDAM: Cao et al., *Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss*
///   ([arXiv:1906.07413](https://arxiv.org/abs/1906.07413)).
/// - ElasticFace: Boutros et al., *ElasticFace: Elastic Margin Loss for Deep Face Recognition*
///   ([arXiv:2109.09416](https://arxiv.org/abs/2109.09416)).
#[derive(Clone, PartialEq)]
pub struct VaryingMargin<L> {
    /// Its own margin is 0.
    loss: L,
    margins: Vec<f64>,
    by_row: bool,
}

/// A loss with one margin, and a scale of the cosines.
pub trait OneMargin: Margin + Copy {
    /// The name, in tables and in lists, of the loss whose margins vary.
    const VARYING: &'static str;

    fn scale(&self) -> f64;

    /// The same loss with another margin, which is in range.
    #[must_use]
    fn at_margin(self, margin: f64) -> Self;

    /// The margin, or [`Error::Parameter`].
    fn in_range(margin: f64) -> Result<f64, Error>;
}

impl<L: OneMargin> VaryingMargin<L> {
    pub(crate) fn new(loss: L, margins: Vec<f64>, by_row: bool) -> Result<Self, Error> {
        let argument = argument(by_row);
        if margins.is_empty() && !by_row {
            return Err(Error::NoClasses);
        }
        for (row, &margin) in margins.iter().enumerate() {
            L::in_range(margin).map_err(|error| error.of_entry(argument, row))?;
        }
        Ok(Self {
            loss: loss.at_margin(0.0),
            margins,
            by_row,
        })
    }

    /// The loss with the margin of this target; none if there is no such margin.
    fn of(&self, target: &Target) -> Option<L> {
        let index = if self.by_row {
            target.row()
        } else {
            target.class()
        };
        let margin = self.margins.get(index)?;
        Some(self.loss.at_margin(*margin))
    }

    /// Refuses another number of classes, or rows, than margins.
    fn check<A: Float>(&self, request: &Request<'_, A>) -> Result<(), Error> {
        // What is wrong with the shapes themselves comes first.
        let group = request.composition.sub_centers;
        let _labels = request.labels(Argument::ClassWeights, group)?;
        let expected = if self.by_row {
            request.targets.labels().batch()
        } else {
            request.classes()
        };
        check::row_count(argument(self.by_row), expected, self.margins.len())
    }
}

fn argument(by_row: bool) -> Argument {
    if by_row {
        Argument::RowMargins
    } else {
        Argument::ClassMargins
    }
}

impl<L> VaryingMargin<L> {
    /// The loss, its own margin 0.
    #[must_use]
    pub fn loss(&self) -> &L {
        &self.loss
    }

    /// The margins, one for each class or for each row.
    #[must_use]
    pub fn margins(&self) -> &[f64] {
        &self.margins
    }

    /// Whether there is one for each row of the batch, not for each class.
    #[must_use]
    pub fn is_by_row(&self) -> bool {
        self.by_row
    }
}

/// Very many margins are abbreviated.
impl<L: fmt::Debug> fmt::Debug for VaryingMargin<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VaryingMargin")
            .field("loss", &self.loss)
            .field(
                "margins",
                &format_args!("{}", ArrayView1::from(&self.margins)),
            )
            .field("by_row", &self.by_row)
            .finish()
    }
}

/// Where there is no margin for a target, its logit is not a number, which the driver refuses.
impl<L: OneMargin> Margin for VaryingMargin<L> {
    fn target_logit(&self, target: &Target) -> TargetLogit {
        self.of(target).map_or(
            TargetLogit::from_angle_slope(f64::NAN, f64::NAN),
            |at_margin| at_margin.target_logit(target),
        )
    }

    fn negatives(&self, target: &Target) -> Negatives {
        self.of(target)
            .map_or(Negatives::plain(), |at_margin| at_margin.negatives(target))
    }

    fn own_scale(&self) -> Option<f64> {
        Some(self.loss.scale())
    }
}

impl<A: Float, L: OneMargin> MarginLoss<A> for VaryingMargin<L>
where
    Self: fmt::Display,
{
    fn run(&self, request: Request<'_, A>) -> Result<(), Error> {
        if !request.wants_scores() {
            self.check(&request)?;
        }
        let scale = self.loss.scale();
        let head = Head::new(Layer::Cosine { scale }).with_margin(self);
        A::solve(TOKEN, &head, request)
    }

    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.margins.len() <= NUMBERS_IN_A_LOG {
            return fmt::Display::fmt(self, f);
        }
        // A log has no use for them.
        let of = if self.by_row { "row" } else { "class" };
        let loss = L::VARYING;
        let (scale, number) = (self.loss.scale(), self.margins.len());
        write!(f, "{loss}:s={scale},m=({number} by {of})")
    }
}

macro_rules! one_margin {
    ($($loss:ident, $varying:literal, $range:path, $unit:literal;)+) => {$(
        impl OneMargin for $loss {
            const VARYING: &'static str = $varying;

            fn scale(&self) -> f64 {
                self.scale()
            }

            fn at_margin(self, margin: f64) -> Self {
                self.at_margin(margin)
            }

            fn in_range(margin: f64) -> Result<f64, Error> {
                $range("margin", margin)
            }
        }

        impl $loss {
            /// With a margin for each class, in the place of the one for all:
            #[doc = concat!($unit, ".")]
            /// See [`VaryingMargin`] and [`margins`](crate::margins).
            ///
            /// # Errors
            ///
            /// [`Error::EntryOutOfRange`] if a margin is one that [`new`](Self::new) refuses, [`Error::NoClasses`] if there are
            /// none.
            pub fn with_class_margins(self, margins: Vec<f64>) -> Result<VaryingMargin<Self>, Error> {
                VaryingMargin::new(self, margins, false)
            }

            /// With a margin for each row of one batch, in the place of the one for all:
            #[doc = concat!($unit, ".")]
            /// See [`VaryingMargin`] and [`margins`](crate::margins).
            ///
            /// # Errors
            ///
            /// [`Error::EntryOutOfRange`] if a margin is one that [`new`](Self::new) refuses.
            pub fn with_row_margins(self, margins: Vec<f64>) -> Result<VaryingMargin<Self>, Error> {
                VaryingMargin::new(self, margins, true)
            }
        }
    )+};
}
one_margin! {
    AmSoftmax, "varying-am-softmax", crate::error::cosine_margin, "in units of the cosine";
    CosFace, "varying-cosface", crate::error::cosine_margin, "in units of the cosine";
    ArcFace, "varying-arcface", crate::error::angular_margin, "in radians";
}
