//! UniFace: every class against the rest, by one threshold for all or by one for each.

use core::fmt;

use crate::driver::{Head, Layer, Learns, Link};
use crate::error::{self, Error, parameter};
use crate::float::{Float, sealed::TOKEN};
use crate::loss::MarginLoss;
use crate::margin::{Margin, Target, TargetLogit};
use crate::request::Request;

/// UniFace's unified cross-entropy (UCE): every class against the rest, with one threshold b for all cosines.
///
/// All rows of a class are brought above the threshold, all others below, so that one threshold verifies them later. With a
/// threshold for each class it is the sigmoid, or binary, cross-entropy.
///
/// ```text
/// ℓ = ln(1 + exp(−s (cosθ_y − m) + b)) + λ Σ_{j≠y} ln(1 + exp(s cosθ_j − b))
/// ```
/// ```math
/// \ell = \ln\bigl(1 + e^{-s (\cos\theta_y - m) + b}\bigr) + \lambda \sum_{j \ne y} \ln\bigl(1 + e^{s \cos\theta_j - b}\bigr)
/// ```
///
/// b is learned. It begins at [`guide::uni_face_bias`](crate::guide::uni_face_bias); from 0 a first loss costs (1 + λ(C − 1)) ln 2
/// and pushes every class away from every row.
///
/// # Shapes
///
/// Features N×d and class weights C×d, none of them zero.
///
/// # Gradients
///
/// With `A_ij = ∂L/∂cosθ_ij`, z the logits with b in them, and σ the logistic function:
///
/// ```text
/// A_iy = −s rᵢ/N σ(−z_y)        A_ij = λ s rᵢ/N σ(z_j)        ∂b = Σᵢ rᵢ/N (σ(−z_y) − λ Σ_{j≠y} σ(z_j))
/// ```
/// ```math
/// A_{iy} = -s \frac{r_i}{N}\, \sigma(-z_y), \qquad
/// A_{ij} = \lambda s \frac{r_i}{N}\, \sigma(z_j), \qquad
/// \frac{\partial L}{\partial b} = \sum_i \frac{r_i}{N} \Bigl(\sigma(-z_y) - \lambda \sum_{j \ne y} \sigma(z_j)\Bigr)
/// ```
///
/// and from there as for [`NormFace`](crate::NormFace). The authors' code clamps logits to ±s, and has no gradient beyond.
///
/// # Numerical notes
///
/// Those of [`SphereFace2`](crate::SphereFace2).
///
/// # Errors
///
/// As for [`MarginLoss`](crate::MarginLoss); zero features and zero class weights are refused, and thresholds of another number
/// than the classes.
///
/// # Examples
///
/// ```
/// use margin_losses::{MarginLoss, Targets, UniFace, guide};
/// use margin_losses::ndarray::array;
///
/// let (x, w) = (array![[1.0, 2.0], [2.0, -0.5]], array![[0.0, 1.0], [1.0, 0.0]]);
/// let loss = UniFace::default().with_bias(guide::uni_face_bias(2, 1.0)?)?;
/// let out = loss.evaluate(x.view(), w.view(), &Targets::new(&[0, 1]))?;
/// assert_eq!(out.grad_learnables.len(), 1);
/// let by_class = loss.with_class_biases(vec![3.0, 2.0])?;
/// let out = by_class.evaluate(x.view(), w.view(), &Targets::new(&[0, 1]))?;
/// assert_eq!(out.grad_learnables.len(), 2);
/// # Ok::<(), margin_losses::Error>(())
/// ```
///
/// # References
///
/// Zhou et al., *UniFace: Unified Cross-Entropy Loss for Deep Face Recognition*, ICCV 2023.
#[derive(Clone, Debug, PartialEq)]
pub struct UniFace {
    scale: f64,
    margin: f64,
    lambda: f64,
    /// One for all classes, or one for each.
    biases: Vec<f64>,
    by_class: bool,
}

impl UniFace {
    /// The scale s and the margin m; λ is 1 and b is 0 unless they are given.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] unless s ∈ [10⁻⁶, 10⁶] and m ∈ [0, 2].
    pub fn new(scale: f64, margin: f64) -> Result<Self, Error> {
        Ok(Self {
            scale: error::scale(scale)?,
            margin: error::cosine_margin("margin", margin)?,
            lambda: 1.0,
            biases: vec![0.0],
            by_class: false,
        })
    }

    /// Another λ, the weight of the other classes.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] unless λ ∈ [0, 10⁶].
    pub fn with_lambda(self, lambda: f64) -> Result<Self, Error> {
        let holds = (0.0..=1e6).contains(&lambda);
        let lambda = parameter("lambda", lambda, holds, "lie in [0, 1e6]")?;
        Ok(Self { lambda, ..self })
    }

    /// One threshold b for all classes.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] unless b ∈ [−10⁷, 10⁷].
    pub fn with_bias(self, bias: f64) -> Result<Self, Error> {
        Ok(Self {
            biases: vec![error::bias(bias)?],
            by_class: false,
            ..self
        })
    }

    /// A threshold for each class.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] unless each lies in [−10⁷, 10⁷].
    pub fn with_class_biases(self, biases: Vec<f64>) -> Result<Self, Error> {
        for &bias in &biases {
            error::bias(bias)?;
        }
        Ok(Self {
            biases,
            by_class: true,
            ..self
        })
    }

    /// s.
    #[must_use]
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// m.
    #[must_use]
    pub fn margin(&self) -> f64 {
        self.margin
    }

    /// λ.
    #[must_use]
    pub fn lambda(&self) -> f64 {
        self.lambda
    }

    /// Whether there is a threshold for each class.
    #[must_use]
    pub fn is_by_class(&self) -> bool {
        self.by_class
    }

    /// b, or the threshold of each class: as many entries as are learned.
    #[must_use]
    pub fn biases(&self) -> &[f64] {
        &self.biases
    }

    /// Other thresholds, as many as there are; what is learned goes on from there.
    ///
    /// # Errors
    ///
    /// [`Error::LearnableCount`] if the number of entries differs, [`Error::Parameter`] unless each lies in [−10⁶, 10⁶]; they
    /// are then as they were.
    pub fn set_biases(&mut self, biases: &[f64]) -> Result<(), Error> {
        if biases.len() != self.biases.len() {
            return Err(Error::LearnableCount {
                expected: self.biases.len(),
                found: biases.len(),
            });
        }
        for &bias in biases {
            error::bias(bias)?;
        }
        self.biases.copy_from_slice(biases);
        Ok(())
    }

    /// What it learns, its [`biases`](Self::biases).
    #[must_use]
    pub fn learnables(&self) -> &[f64] {
        &self.biases
    }

    /// Replaces that; see [`MarginLoss::set_learnables`](crate::MarginLoss::set_learnables).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn set_learnables(&mut self, values: &[f64]) -> Result<(), Error> {
        self.set_biases(values)
    }
}

/// s = 64, m = 0.4, λ = 1, b = 0.
impl Default for UniFace {
    fn default() -> Self {
        Self {
            scale: 64.0,
            margin: 0.4,
            lambda: 1.0,
            biases: vec![0.0],
            by_class: false,
        }
    }
}

impl Margin for UniFace {
    fn target_logit(&self, target: &Target) -> TargetLogit {
        TargetLogit::from_cosine_slope(target.cos() - self.margin, 1.0, target.angle())
    }

    fn own_scale(&self) -> Option<f64> {
        Some(self.scale)
    }
}

impl<A: Float> MarginLoss<A> for UniFace {
    fn run(&self, mut request: Request<'_, A>) -> Result<(), Error> {
        // Logits have −b where the formula has b.
        let (constants, learns): (Vec<f64>, _) = if self.by_class {
            let constants = self.biases.iter().map(|b| -b).collect();
            (constants, Learns::Constants)
        } else {
            (vec![-self.biases[0]; request.classes()], Learns::Constant)
        };
        let head = Head {
            link: Link::Logistic {
                positive: 1.0,
                negative: self.lambda,
            },
            constants: Some(&constants),
            learns,
            ..Head::new(Layer::Cosine { scale: self.scale }).with_margin(self)
        };
        A::solve(TOKEN, &head, request.reborrow())?;
        let gradient = &mut request.evaluation.grad_learnables;
        gradient.mapv_inplace(|entry| -entry);
        Ok(())
    }

    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }

    fn learnables(&self) -> &[f64] {
        self.learnables()
    }

    fn set_learnables(&mut self, values: &[f64]) -> Result<(), Error> {
        self.set_learnables(values)
    }
}
