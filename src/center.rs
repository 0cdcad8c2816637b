//! Center loss: every feature is pulled towards the center of its class.

use ndarray::{ArrayView2, ArrayViewMut2};

use crate::check;
use crate::error::{Argument, Error, parameter};
use crate::float::Float;
use crate::linear_cross_entropy::{Norm, binary_exponent, contiguous, dot, scale_by_power, shaped};
use crate::loss::{Evaluation, Forward, MarginLoss, Targets};

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
    /// Classes that are absent from the batch keep their bits. Neither λ, nor the reduction, nor row weights enter: this is
    /// not a gradient step but a moving average, at the rate α n/(1 + n), towards the mean of the class in the batch. The
    /// paper uses α = 0.5.
    ///
    /// # Errors
    ///
    /// Shapes that disagree, labels out of range, NaN or infinity, α out of range, a center that would overflow; `centers`
    /// is then as it was.
    pub fn update_centers<A: Float>(
        mut centers: ArrayViewMut2<'_, A>,
        features: ArrayView2<'_, A>,
        labels: &[usize],
        alpha: f64,
    ) -> Result<(), Error> {
        parameter(
            "alpha",
            alpha,
            (0.0..=1.0).contains(&alpha),
            "lie in [0, 1]",
        )?;
        check::labels(features, centers.view(), Argument::Centers, labels)?;
        check_finite(features, Argument::Features)?;
        check_finite(centers.view(), Argument::Centers)?;
        let ones = vec![1.0; labels.len()];
        let pulls = ClassPulls::new(features, centers.view(), labels, &ones);
        let moved: Vec<A> = pulls
            .rows()
            .flat_map(|(class, count, sum)| {
                let rate = alpha / (1.0 + count as f64);
                let step = move |(&c, &sum): (&A, &f64)| A::narrow(c.widen() - rate * sum);
                let center = centers.row(class);
                center.iter().zip(sum).map(step).collect::<Vec<_>>()
            })
            .collect();
        let dim = features.ncols();
        let moved = moved.chunks_exact(dim);
        for (moved, &class) in moved.clone().zip(&pulls.classes) {
            if !moved.iter().all(|entry| entry.is_finite()) {
                return Err(Error::Overflow {
                    quantity: "center",
                    argument: Argument::Centers,
                    row: class,
                });
            }
        }
        for (moved, &class) in moved.zip(&pulls.classes) {
            for (center, &moved) in centers.row_mut(class).iter_mut().zip(moved) {
                *center = moved;
            }
        }
        Ok(())
    }
}

/// For each class of the batch, in order: `Σ coefficientᵢ (c − xᵢ)` over its rows, summed in the order of the batch.
struct ClassPulls {
    classes: Vec<usize>,
    counts: Vec<usize>,
    /// One row of d for each class.
    sums: Vec<f64>,
    dim: usize,
}

impl ClassPulls {
    fn new<A: Float>(
        features: ArrayView2<'_, A>,
        centers: ArrayView2<'_, A>,
        labels: &[usize],
        coefficients: &[f64],
    ) -> Self {
        let dim = features.ncols();
        let mut order: Vec<usize> = (0..labels.len()).collect();
        order.sort_by_key(|&row| labels[row]);
        let mut pulls = Self {
            classes: Vec::new(),
            counts: Vec::new(),
            sums: Vec::new(),
            dim,
        };
        for rows in order.chunk_by(|&a, &b| labels[a] == labels[b]) {
            let class = labels[rows[0]];
            let start = pulls.sums.len();
            pulls.classes.push(class);
            pulls.counts.push(rows.len());
            pulls.sums.resize(start + dim, 0.0);
            for &row in rows {
                let pairs = centers.row(class).into_iter().zip(features.row(row));
                for (sum, (c, x)) in pulls.sums[start..].iter_mut().zip(pairs) {
                    *sum += coefficients[row] * (c.widen() - x.widen());
                }
            }
        }
        pulls
    }

    fn rows(&self) -> impl Iterator<Item = (usize, usize, &[f64])> {
        let classes = self.classes.iter().copied();
        classes
            .zip(self.counts.iter().copied())
            .zip(self.sums.chunks_exact(self.dim))
            .map(|((class, count), sum)| (class, count, sum))
    }
}

/// The center loss of a batch and its gradients, times `factor`, ready to be written or added.
pub(crate) struct CenterTerm<A> {
    pub(crate) forward: Forward<A>,
    /// N×d.
    pub(crate) grad_features: Vec<A>,
    pulls: ClassPulls,
}

impl<A: Float> CenterTerm<A> {
    pub(crate) fn new(
        features: ArrayView2<'_, A>,
        centers: ArrayView2<'_, A>,
        argument: Argument,
        targets: &Targets<'_, A>,
        factor: f64,
    ) -> Result<Self, Error> {
        check::batch(features, centers, argument, targets)?;
        check_finite(features, Argument::Features)?;
        check_finite(centers, argument)?;
        let labels = targets.labels();
        let mut coefficients = check::coefficients(targets);
        // factor = 4^power · rest, so that what is squared is as large as the loss, and overflows only if that does.
        // For the same reason it is halved before it is squared.
        let power = if factor == 0.0 {
            0
        } else {
            binary_exponent(factor).div_euclid(2)
        };
        let rest = scale_by_power(factor, -2 * power);
        let (losses, cosines): (Vec<f64>, Vec<A>) = features
            .outer_iter()
            .zip(labels)
            .map(|(x, &label)| {
                let c = centers.row(label);
                let pairs = x.iter().zip(c.iter());
                let half_squares = pairs.map(|(x, c)| {
                    let apart = scale_by_power(x.widen() - c.widen(), power);
                    0.5 * apart * apart
                });
                let (mut x_copy, mut c_copy) = (Vec::new(), Vec::new());
                let (x, c) = (contiguous(x, &mut x_copy), contiguous(c, &mut c_copy));
                let loss = rest * half_squares.sum::<f64>();
                (if factor == 0.0 { 0.0 } else { loss }, cosine(x, c))
            })
            .unzip();
        let (loss, row_losses) = check::reduce::<A>(&coefficients, losses.iter().copied())?;
        for coefficient in &mut coefficients {
            *coefficient *= factor;
        }
        let grad_features: Vec<A> = features
            .outer_iter()
            .zip(labels)
            .zip(&coefficients)
            .flat_map(|((x, &label), &coefficient)| {
                let pairs = x.into_iter().zip(centers.row(label));
                pairs.map(move |(x, c)| A::narrow(coefficient * (x.widen() - c.widen())))
            })
            .collect();
        let dim = features.ncols();
        let overflow = |argument, row| Error::Overflow {
            quantity: "gradient",
            argument,
            row,
        };
        if let Some(entry) = grad_features.iter().position(|entry| !entry.is_finite()) {
            return Err(overflow(Argument::Features, entry / dim));
        }
        let pulls = ClassPulls::new(features, centers, labels, &coefficients);
        if let Some(entry) = pulls
            .sums
            .iter()
            .position(|&sum| !A::narrow(sum).is_finite())
        {
            return Err(overflow(argument, pulls.classes[entry / dim]));
        }
        Ok(Self {
            forward: Forward {
                loss,
                target_logits: losses.iter().map(|&loss| A::narrow(-loss)).collect(),
                row_losses: row_losses.into(),
                target_cosines: cosines.into(),
                correct: Vec::new().into(),
            },
            grad_features,
            pulls,
        })
    }

    /// Overwrites `out`, C×d, with the gradient of the centers.
    pub(crate) fn write_center_gradient(&self, mut out: ArrayViewMut2<'_, A>) {
        out.fill(A::zero());
        for (class, _, sum) in self.pulls.rows() {
            for (out, &sum) in out.row_mut(class).iter_mut().zip(sum) {
                *out = A::narrow(sum);
            }
        }
    }
}

fn check_finite<A: Float>(rows: ArrayView2<'_, A>, argument: Argument) -> Result<(), Error> {
    let bad = |row: ndarray::ArrayView1<'_, A>| row.iter().any(|entry| !entry.is_finite());
    match rows.outer_iter().position(bad) {
        None => Ok(()),
        Some(row) => Err(Error::NonFinite { argument, row }),
    }
}

/// The cosine of two rows; 0 if one of them is zero.
fn cosine<A: Float>(x: &[A], c: &[A]) -> A {
    let scaled = |row: &[A]| -> (Vec<f64>, f64) {
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

impl<A: Float> MarginLoss<A> for CenterLoss {
    fn forward(
        &self,
        features: ArrayView2<'_, A>,
        weights: ArrayView2<'_, A>,
        targets: &Targets<'_, A>,
    ) -> Result<Forward<A>, Error> {
        Ok(CenterTerm::new(features, weights, Argument::Centers, targets, 1.0)?.forward)
    }

    fn evaluate_into(
        &self,
        features: ArrayView2<'_, A>,
        weights: ArrayView2<'_, A>,
        targets: &Targets<'_, A>,
        evaluation: &mut Evaluation<A>,
    ) -> Result<(), Error> {
        let term = CenterTerm::new(features, weights, Argument::Centers, targets, 1.0)?;
        let out = shaped(&mut evaluation.grad_features, features.dim());
        out.iter_mut()
            .zip(&term.grad_features)
            .for_each(|(out, &entry)| *out = entry);
        term.write_center_gradient(shaped(&mut evaluation.grad_weights, weights.dim()).view_mut());
        evaluation.grad_learnables = ndarray::Array1::default(0);
        evaluation.grad_centers = ndarray::Array2::default((0, 0));
        evaluation.forward = term.forward;
        Ok(())
    }
}
