//! AdaptiveFace: a margin for each class, learned with the class weights.

use core::fmt;

use ndarray::ArrayView1;

use crate::check;
use crate::driver::{Head, Layer, Learns};
use crate::error::{self, Argument, Error, parameter};
use crate::float::{Float, sealed::TOKEN};
use crate::loss::MarginLoss;
use crate::margin::{Margin, Target, TargetLogit};
use crate::request::Request;
use crate::text::NUMBERS_IN_A_LOG;

/// AdaptiveFace: CosFace with a margin of its own for each class, which is learned.
///
/// For training sets in which some classes have few samples: nobody has to say how large whose margin should be, as the
/// functions of [`margins`](crate::margins) do from class counts. A price on small margins keeps them from vanishing.
///
/// ```text
/// z_y = s (cosθ_y − m_y)        z_j = s cosθ_j for j ≠ y        ℓ = ln Σ_j exp z_j − z_y + λ (1 − 1/C Σ_j m_j)
/// ```
/// ```math
/// z_y = s\,(\cos\theta_y - m_y), \qquad z_j = s \cos\theta_j \;\text{ for } j \ne y, \qquad
/// \ell = \ln \sum_j e^{z_j} - z_y + \lambda \Bigl(1 - \frac{1}{C} \sum_j m_j\Bigr)
/// ```
///
/// The margins are what the loss [learns](crate::MarginLoss::learnables), C of them. They begin between 0.3 and 0.4:
/// `margins::adaptive`, with the feature `rand`. They lie in [0, 1]; a step that leads out of that is refused, so the caller
/// clamps it first, as below.
///
/// # Shapes
///
/// Features N×d and class weights C×d, none of them zero; C margins.
///
/// # Gradients
///
/// Those of [`CosFace`](crate::CosFace), and
///
/// ```text
/// ∂m_j = −s Σ_{i: yᵢ = j} G_ij − λ/C Σᵢ rᵢ/N
/// ```
/// ```math
/// \frac{\partial L}{\partial m_j} = -s \sum_{i:\, y_i = j} G_{ij} - \frac{\lambda}{C} \sum_i \frac{r_i}{N}
/// ```
///
/// The first term, which is not negative, is that of the rows of a class; the price reaches the margins of all classes. It is
/// part of ℓᵢ: row weights and the reduction apply to it.
///
/// # Numerical notes
///
/// Those of [`CosFace`](crate::CosFace). With λ = 0 the loss has the bits of CosFace
/// [with class margins](crate::CosFace::with_class_margins).
///
/// # Errors
///
/// As for [`MarginLoss`](crate::MarginLoss); zero features and zero class weights are refused, and margins of another number than
/// the classes.
///
/// # Examples
///
/// A step of the margins:
///
/// ```
/// use margin_losses::{AdaptiveFace, MarginLoss, Targets};
/// use margin_losses::ndarray::array;
///
/// let (x, w) = (array![[1.0, 2.0], [2.0, -0.5]], array![[0.0, 1.0], [1.0, 0.0], [-1.0, -1.0]]);
/// let mut loss = AdaptiveFace::new(30.0, vec![0.35; 3])?;
/// let out = loss.evaluate(x.view(), w.view(), &Targets::new(&[0, 1]))?;
/// let steps = loss.margins().iter().zip(&out.grad_learnables);
/// let stepped: Vec<f64> = steps.map(|(margin, gradient)| (margin - 0.001 * gradient).clamp(0.0, 1.0)).collect();
/// loss.set_margins(&stepped)?;
/// // Without rows of its own, a class has nothing but the price.
/// assert!((loss.margins()[2] - (0.35 + 0.001 * 70.0 / 3.0)).abs() < 1e-12);
/// # Ok::<(), margin_losses::Error>(())
/// ```
///
/// # References
///
/// Liu et al., *AdaptiveFace: Adaptive Margin and Sampling for Face Recognition*, CVPR 2019.
#[derive(Clone, PartialEq)]
pub struct AdaptiveFace {
    scale: f64,
    margins: Vec<f64>,
    lambda: f64,
    /// λ (1 − mean m).
    price: f64,
}

impl AdaptiveFace {
    /// The scale s, and a margin for each class to begin with; λ is 70 unless it is given.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] unless s ∈ [10⁻⁶, 10⁶], [`Error::NoClasses`] without margins, [`Error::EntryOutOfRange`] unless each
    /// lies in [0, 1].
    pub fn new(scale: f64, margins: Vec<f64>) -> Result<Self, Error> {
        if margins.is_empty() {
            return Err(Error::NoClasses);
        }
        check_margins(&margins)?;
        let scale = error::scale(scale)?;
        Ok(Self {
            scale,
            margins,
            lambda: 70.0,
            price: 0.0,
        }
        .priced())
    }

    /// Another λ, the price on small margins.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] unless λ ∈ [0, 10⁶].
    pub fn with_lambda(self, lambda: f64) -> Result<Self, Error> {
        let holds = (0.0..=1e6).contains(&lambda);
        let lambda = parameter("lambda", lambda, holds, "lie in [0, 1e6]")?;
        Ok(Self { lambda, ..self }.priced())
    }

    fn priced(mut self) -> Self {
        self.find_price();
        self
    }

    fn find_price(&mut self) {
        let mean = self.margins.iter().sum::<f64>() / self.margins.len() as f64;
        self.price = self.lambda * (1.0 - mean);
    }

    /// s.
    #[must_use]
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// λ.
    #[must_use]
    pub fn lambda(&self) -> f64 {
        self.lambda
    }

    /// The margins, one for each class.
    #[must_use]
    pub fn margins(&self) -> &[f64] {
        &self.margins
    }

    /// Other margins, as many as there are; what is learned goes on from there.
    ///
    /// # Errors
    ///
    /// [`Error::LearnableCount`] if the number of entries differs, [`Error::EntryOutOfRange`] unless each lies in [0, 1]; they are
    /// then as they were.
    pub fn set_margins(&mut self, margins: &[f64]) -> Result<(), Error> {
        if margins.len() != self.margins.len() {
            return Err(Error::LearnableCount {
                expected: self.margins.len(),
                found: margins.len(),
            });
        }
        check_margins(margins)?;
        self.margins.copy_from_slice(margins);
        self.find_price();
        Ok(())
    }

    /// What it learns, its [`margins`](Self::margins).
    #[must_use]
    pub fn learnables(&self) -> &[f64] {
        &self.margins
    }

    /// Replaces that; see [`MarginLoss::set_learnables`](crate::MarginLoss::set_learnables).
    ///
    /// # Errors
    ///
    /// As for [`set_margins`](Self::set_margins).
    pub fn set_learnables(&mut self, values: &[f64]) -> Result<(), Error> {
        self.set_margins(values)
    }
}

fn check_margins(margins: &[f64]) -> Result<(), Error> {
    for (row, &margin) in margins.iter().enumerate() {
        let holds = (0.0..=1.0).contains(&margin);
        parameter("margin", margin, holds, "lie in [0, 1]")
            .map_err(|error| error.of_entry(Argument::ClassMargins, row))?;
    }
    Ok(())
}

/// Very many margins are abbreviated.
impl fmt::Debug for AdaptiveFace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let margins = ArrayView1::from(&self.margins);
        f.debug_struct("AdaptiveFace")
            .field("scale", &self.scale)
            .field("margins", &format_args!("{margins}"))
            .field("lambda", &self.lambda)
            .finish_non_exhaustive()
    }
}

/// Where there is no margin for a class, its logit is not a number, which the driver refuses.
impl Margin for AdaptiveFace {
    fn target_logit(&self, target: &Target) -> TargetLogit {
        let margin = self.margins.get(target.class()).unwrap_or(&f64::NAN);
        TargetLogit::from_cosine_slope(target.cos() - margin, 1.0, target.angle())
            .with_row_term(self.price, 0.0)
    }

    fn own_scale(&self) -> Option<f64> {
        Some(self.scale)
    }
}

impl<A: Float> MarginLoss<A> for AdaptiveFace {
    fn run(&self, request: Request<'_, A>) -> Result<(), Error> {
        if !request.wants_scores() {
            let group = request.composition.sub_centers;
            // What is wrong with the shapes themselves comes first.
            let _labels = request.two_targets(Argument::ClassWeights, group)?;
            let expected = request.classes();
            check::row_count(Argument::ClassMargins, expected, self.margins.len())?;
        }
        let head = Head {
            learns: Learns::Margins { price: self.lambda },
            ..Head::new(Layer::Cosine { scale: self.scale }).with_margin(self)
        };
        A::solve(TOKEN, &head, request)
    }

    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.margins.len() <= NUMBERS_IN_A_LOG {
            return fmt::Display::fmt(self, f);
        }
        // A log has no use for them.
        let (scale, number, lambda) = (self.scale, self.margins.len(), self.lambda);
        write!(
            f,
            "adaptiveface:s={scale},m=({number} by class),lambda={lambda}"
        )
    }

    fn learnables(&self) -> &[f64] {
        self.learnables()
    }

    fn set_learnables(&mut self, values: &[f64]) -> Result<(), Error> {
        self.set_learnables(values)
    }
}
