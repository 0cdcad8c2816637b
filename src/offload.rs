//! Losses whose matrix products run elsewhere: on a GPU, in the tensors of a framework.
//!
//! A margin over scaled cosines asks little of each row: the angle to its class, the largest other logit and the sum of the
//! others' exponentials. Whoever has the features X and the class weights W on a device computes these [`RowFigures`] there.
//! [`Offload::close`] makes the loss of them, and two numbers for each row, with which the gradients are formed on the device.
//! So N×d, N×C and C×d stay there, and what is N numbers long is computed here, in `f64`, by the margins of this crate.
//!
//! The crates `margin-losses-candle` and `margin-losses-burn` do this in the tensors of candle and burn.
//!
//! # The steps
//!
//! | | where | what |
//! |---|---|---|
//! | 1 | here | [`Offload::batch`] checks labels and weights |
//! | 2 | device | `δ = ‖x‖w_y − ‖w_y‖x`, `σ = ‖x‖w_y + ‖w_y‖x`, `t`: the shorter of the two without its component along x |
//! | 3 | device | `z_ij = s x̂ᵢ·ŵ_j` for j ≠ y, `aᵢ = max_j z_ij`, `e_ij = exp(z_ij − aᵢ)`, 0 for j = y, and `Σ_j e_ij` |
//! | 4 | here | [`Offload::close`] gives the loss, `shareᵢ` and `pullᵢ` |
//! | 5 | device | `Gᵢⱼ = shareᵢ e_ij`, `∂X = s/‖x‖ (I − x̂x̂ᵀ) G Ŵ + pull/‖x‖ · t/‖t‖`, and ∂W by G and the tangents at ŵ_y |
//!
//! Near 0 and π the angle needs more digits than `f32` has: step 2 belongs in `f64`, or in products that are split in two. At
//! a pole t is 0, and `t/‖t‖` is to be 0.
//!
//! # Examples
//!
//! [`NormFace`](crate::NormFace) of one row and two classes, at angles of 90° and 0°:
//!
//! ```
//! use margin_losses::offload::{Offload, RowFigures};
//! use margin_losses::{MarginLoss, NormFace, Targets};
//! use margin_losses::ndarray::array;
//!
//! let (loss, targets) = (NormFace::new(4.0)?, Targets::<f64>::new(&[0]));
//! let offload = Offload::new(loss)?;
//! let batch = offload.batch(&targets, 1, 2)?;
//! // x = (2, 0), w_0 = (0, 1), w_1 = (1, 0), so that δ = (−2, 2), σ = (2, 2) and t = (0, 2).
//! let root = 8.0_f64.sqrt();
//! let row = RowFigures { feature_norm: 2.0, chord: root, sum: root, tangent: 2.0, largest: 4.0, total: 1.0 };
//! let closed = offload.close::<f64>(&batch, &[row])?;
//!
//! let out = loss.evaluate(array![[2.0, 0.0]].view(), array![[0.0, 1.0], [1.0, 0.0]].view(), &targets)?;
//! assert!((closed.loss - out.loss()).abs() < 1e-15);
//! assert!((closed.pulls[0] / 2.0 - out.grad_features[[0, 1]]).abs() < 1e-15);
//! # Ok::<(), margin_losses::Error>(())
//! ```

use core::fmt;

use ndarray::{ArrayView2, aview0};

use crate::any_loss::AnyLoss;
use crate::check;
use crate::counted::Counted;
use crate::error::{Argument, Error};
use crate::float::Float;
use crate::margin::{Angle, Margin, Negatives, Target, TargetLogit};
use crate::numerics::softplus;
use crate::targets::Targets;

/// A margin over scaled cosines, whose products run elsewhere.
#[derive(Debug)]
pub struct Offload {
    margin: Box<dyn Margin>,
    scale: f64,
    /// The margins by class or by row, if they are: whether by row, and how many.
    varying: Option<(bool, usize)>,
    name: String,
}

/// NormFace's.
#[derive(Debug)]
struct NoMargin;

impl Margin for NoMargin {
    fn target_logit(&self, target: &Target) -> TargetLogit {
        TargetLogit::from_angle_slope(target.cos(), -target.sin())
    }
}

/// The rows of a batch that count, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct OffloadedBatch {
    size: usize,
    rows: Option<Vec<usize>>,
    labels: Vec<usize>,
    coefficients: Vec<f64>,
}

impl OffloadedBatch {
    /// The rows that are not [ignored](Targets#rows-that-are-ignored), ascending; `None` if that is all of them. Everything
    /// else here, and every list of figures, is of these rows.
    #[must_use]
    pub fn rows(&self) -> Option<&[usize]> {
        self.rows.as_deref()
    }

    /// The class of each row.
    #[must_use]
    pub fn labels(&self) -> &[usize] {
        &self.labels
    }

    /// How many rows the whole batch has.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    fn row(&self, index: usize) -> usize {
        self.rows.as_ref().map_or(index, |rows| rows[index])
    }
}

/// What the device has computed of one row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowFigures {
    /// ‖x‖.
    pub feature_norm: f64,
    /// ‖δ‖ = ‖ ‖x‖w_y − ‖w_y‖x ‖.
    pub chord: f64,
    /// ‖σ‖ = ‖ ‖x‖w_y + ‖w_y‖x ‖.
    pub sum: f64,
    /// ‖t‖, the shorter of δ and σ without its component along x: ‖x‖‖w_y‖ sinθ.
    pub tangent: f64,
    /// The largest logit of another class; any number if there is none.
    pub largest: f64,
    /// Σ_{j≠y} exp(z_j − largest); 0 if there is no other class.
    pub total: f64,
}

/// What the figures come to.
///
/// # Shapes
///
/// Every list has one entry for each row that counts.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Closed {
    /// The reduced loss, as the element type holds it.
    pub loss: f64,
    /// ℓᵢ, before row weights.
    pub row_losses: Vec<f64>,
    /// cosθᵢ to the row's class, without margin.
    pub target_cosines: Vec<f64>,
    /// Whether the target scores above every other class, without margin.
    pub correct: Vec<bool>,
    /// `∂L/∂z_ij = shareᵢ exp(z_ij − largestᵢ)` for j ≠ y.
    pub shares: Vec<f64>,
    /// `∂L/∂x` along the unit tangent at x̂ towards ŵ_y is `pullᵢ/‖xᵢ‖`, and `∂L/∂w_y` along that at ŵ_y towards x̂ is
    /// `pullᵢ/‖w_y‖`.
    pub pulls: Vec<f64>,
}

impl Closed {
    /// The share of rows that are classified right without the margin; `None` without rows.
    #[must_use]
    pub fn accuracy(&self) -> Option<f64> {
        let right = self.correct.iter().filter(|&&right| right).count();
        (!self.correct.is_empty()).then(|| right as f64 / self.correct.len() as f64)
    }
}

impl Offload {
    /// [`NormFace`](crate::NormFace) with a fixed scale, [`AmSoftmax`](crate::AmSoftmax), [`CosFace`](crate::CosFace),
    /// [`ArcFace`](crate::ArcFace) with any rule at wide angles, [`CombinedMargin`](crate::CombinedMargin), and margins by
    /// class or by row.
    ///
    /// # Errors
    ///
    /// [`Error::NotOffloadable`] for every other loss, for a learned scale and for inter-class filtering.
    pub fn new(loss: impl Into<AnyLoss>) -> Result<Self, Error> {
        let loss = loss.into();
        let name = loss.to_string();
        let by = |by_row, margins: &[f64]| Some((by_row, margins.len()));
        let mut varying = None;
        let margin: Box<dyn Margin> = match loss {
            AnyLoss::NormFace(loss) if !loss.is_learned() => {
                return Self::with_margin(NoMargin, loss.scale());
            }
            AnyLoss::AmSoftmax(loss) => Box::new(loss),
            AnyLoss::CosFace(loss) => Box::new(loss),
            AnyLoss::ArcFace(loss) => Box::new(loss),
            AnyLoss::Combined(loss) => Box::new(loss),
            AnyLoss::VaryingAmSoftmax(loss) => {
                varying = by(loss.is_by_row(), loss.margins());
                Box::new(loss)
            }
            AnyLoss::VaryingCosFace(loss) => {
                varying = by(loss.is_by_row(), loss.margins());
                Box::new(loss)
            }
            AnyLoss::VaryingArcFace(loss) => {
                varying = by(loss.is_by_row(), loss.margins());
                Box::new(loss)
            }
            _ => return Err(Error::NotOffloadable { loss: name }),
        };
        let scale = margin.own_scale().unwrap_or(1.0);
        let offload = Self {
            margin,
            scale,
            varying,
            name,
        };
        // A filter is the same at every angle.
        offload.refuse_negatives(&Angle::from_radians(0.0).into())?;
        Ok(offload)
    }

    /// A margin of the caller's, which depends on the angle, the class and the row, over cosines of this scale.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] unless the scale lies in [10⁻⁶, 10⁶], and if the margin has another scale of its own.
    pub fn with_margin(margin: impl Margin + 'static, scale: f64) -> Result<Self, Error> {
        let scale = crate::error::scale(scale)?;
        let own = margin.own_scale().unwrap_or(scale);
        Ok(Self {
            name: format!("{margin:?}"),
            scale: crate::error::parameter("scale", scale, own == scale, "be that of the margin")?,
            margin: Box::new(margin),
            varying: None,
        })
    }

    /// s.
    #[must_use]
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// Checks labels and weights of a batch of `rows` rows beside `classes` classes.
    ///
    /// # Errors
    ///
    /// As for [`MarginLoss`](crate::MarginLoss), and a number of margins that is not that of classes or rows.
    pub fn batch<A: Float>(
        &self,
        targets: &Targets<'_, A>,
        rows: usize,
        classes: usize,
    ) -> Result<OffloadedBatch, Error> {
        let labels = targets.labels();
        let Some(counted) = Counted::of(labels, rows)? else {
            return self.checked(targets, [rows, rows, classes], None);
        };
        let own = counted.rows_of(labels);
        let row_weights = match targets.row_weights() {
            Some(row_weights) => Some(counted.row_weights(row_weights)?),
            None => None,
        };
        let part = targets.of_rows(labels.of_rows(&own), row_weights.as_deref());
        self.checked(&part, [own.len(), rows, classes], Some(own.clone()))
            .map_err(|error| counted.in_batch(error))
    }

    fn checked<A: Float>(
        &self,
        targets: &Targets<'_, A>,
        [counted, size, classes]: [usize; 3],
        rows: Option<Vec<usize>>,
    ) -> Result<OffloadedBatch, Error> {
        // Shapes without contents: entries are on the device.
        let zero = A::zero();
        let entry = aview0(&zero);
        let shape = |rows| {
            let columns = 1;
            let shape: Option<ArrayView2<'_, A>> = entry.broadcast((rows, columns));
            shape.ok_or(Error::TooLarge { rows, columns })
        };
        let labels = check::batch(
            shape(counted)?,
            (classes, 1),
            Argument::ClassWeights,
            1,
            targets,
        )?;
        if let Some((by_row, found)) = self.varying {
            let (argument, expected) = if by_row {
                (Argument::RowMargins, size)
            } else {
                (Argument::ClassMargins, classes)
            };
            check::row_count(argument, expected, found)?;
        }
        Ok(OffloadedBatch {
            size,
            rows,
            labels,
            coefficients: check::coefficients(targets),
        })
    }

    /// The loss of the figures, one for each row that counts, and what the gradients are made of.
    ///
    /// `A` is the element type of the device. Of margins of the caller's, those that depend on ‖x‖, add to the row's loss or
    /// change the negatives are not computed here.
    ///
    /// # Errors
    ///
    /// [`Error::RowCount`] unless there is one figure for each row; [`Error::NonFinite`], [`Error::NormTooSmall`] and
    /// [`Error::Overflow`] if a figure, a loss or the bound of a gradient is no number of `A`; [`Error::MarginNotFinite`];
    /// [`Error::NotOffloadable`] for a margin that does more.
    pub fn close<A: Float>(
        &self,
        batch: &OffloadedBatch,
        figures: &[RowFigures],
    ) -> Result<Closed, Error> {
        check::row_count(Argument::Features, batch.labels.len(), figures.len())?;
        let mut closed = Closed {
            loss: 0.0,
            row_losses: Vec::with_capacity(figures.len()),
            target_cosines: Vec::with_capacity(figures.len()),
            correct: Vec::with_capacity(figures.len()),
            shares: Vec::with_capacity(figures.len()),
            pulls: Vec::with_capacity(figures.len()),
        };
        for (index, row) in figures.iter().enumerate() {
            self.close_row::<A>(batch, index, row, &mut closed)?;
        }
        let losses = closed.row_losses.iter().copied();
        let (loss, _) = check::reduce::<A>(&batch.coefficients, losses)?;
        closed.loss = loss.to_f64().unwrap_or(f64::NAN);
        Ok(closed)
    }

    fn close_row<A: Float>(
        &self,
        batch: &OffloadedBatch,
        index: usize,
        figures: &RowFigures,
        closed: &mut Closed,
    ) -> Result<(), Error> {
        let row = batch.row(index);
        let angle = figures.angle(row)?;
        let target = Target::from(angle)
            .with_class(batch.labels[index])
            .with_row(row)
            .with_feature_norm(figures.feature_norm);
        let psi = self.margin.target_logit(&target);
        if !psi.is_finite() {
            let angle = angle.radians();
            return Err(Error::MarginNotFinite { row, angle });
        }
        if psi.norm_slope() != 0.0 || psi.row_term() != [0.0; 2] {
            return Err(self.refusal());
        }
        self.refuse_negatives(&target)?;

        // With D = ln Σ_{j≠y} exp z_j − z_y: ℓ = softplus(D) and 1 − p_y = logistic(D), without cancellation in either.
        let alone = figures.total <= 0.0;
        let gap = figures.total.ln() + (figures.largest - self.scale * psi.value());
        let (loss, miss) = if alone { (0.0, 0.0) } else { softplus(gap) };
        let push = batch.coefficients[index] * miss;
        let pull = push * self.scale * psi.angle_slope();
        let share = if alone { 0.0 } else { push / figures.total };
        let steepest = (push.abs() * self.scale + pull.abs()) / figures.feature_norm;
        let held = [loss, share, steepest].map(|number| A::from(number).is_some_and(A::is_finite));
        if held != [true; 3] {
            let quantity = if held[0] { "gradient" } else { "loss" };
            return Err(Error::overflow(quantity, Argument::Features, row));
        }
        closed.row_losses.push(loss);
        closed.target_cosines.push(angle.cos());
        let correct = alone || self.scale * angle.cos() > figures.largest;
        closed.correct.push(correct);
        closed.shares.push(share);
        closed.pulls.push(pull);
        Ok(())
    }

    /// The first of these norms of features or class weights that cannot be divided by.
    ///
    /// # Errors
    ///
    /// [`Error::NonFinite`] or [`Error::NormTooSmall`].
    pub fn check_norms(
        argument: Argument,
        norms: impl IntoIterator<Item = f64>,
    ) -> Result<(), Error> {
        for (row, norm) in norms.into_iter().enumerate() {
            check_norm(argument, row, norm)?;
        }
        Ok(())
    }

    fn refusal(&self) -> Error {
        let loss = self.name.clone();
        Error::NotOffloadable { loss }
    }

    fn refuse_negatives(&self, target: &Target) -> Result<(), Error> {
        if self.margin.negatives(target) == Negatives::plain() {
            Ok(())
        } else {
            Err(self.refusal())
        }
    }
}

/// The line of the loss.
impl fmt::Display for Offload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl RowFigures {
    /// θ, from the tangent and the lengths of the chords: `f32` figures know a small angle by the tangent alone.
    fn angle(&self, row: usize) -> Result<Angle, Error> {
        let argument = Argument::Features;
        check_norm(argument, row, self.feature_norm)?;
        let (long, short) = (self.sum.max(self.chord), self.sum.min(self.chord));
        // ‖δ‖² + ‖σ‖² = 4 ‖x‖²‖w‖². By the ratios to the longer one, whose square may leave the range.
        let (ratio, tangent) = (short / long, self.tangent / long);
        let square = ratio.mul_add(ratio, 1.0);
        let (sin, cos) = (
            2.0 * tangent / square.sqrt(),
            (1.0 - ratio) * (1.0 + ratio) / square,
        );
        let numbers = [sin, cos, self.largest, self.total];
        if !(long > 0.0 && numbers.iter().all(|number| number.is_finite())) {
            return Err(Error::NonFinite { argument, row });
        }
        Ok(if self.sum >= self.chord {
            Angle::from_chords(sin, 1.0 + cos)
        } else {
            Angle::from_chords(1.0 + cos, sin)
        })
    }
}

fn check_norm(argument: Argument, row: usize, norm: f64) -> Result<(), Error> {
    if !norm.is_finite() {
        Err(Error::NonFinite { argument, row })
    } else if norm <= 0.0 {
        // Of a norm whose square is 0 on the device nobody knows whether it is 0 itself.
        Err(Error::NormTooSmall { argument, row })
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{Array1, Array2, ArrayView1, array};

    use super::*;
    use crate::{ArcFace, CosFace, Evaluation, MarginLoss, PastPi, Reduction};

    fn norm(v: &Array1<f64>) -> f64 {
        v.dot(v).sqrt()
    }

    /// The tangent at `at` towards `to`, its length, and the lengths of δ and σ.
    fn tangent(at: ArrayView1<'_, f64>, to: ArrayView1<'_, f64>) -> (Array1<f64>, [f64; 3]) {
        let (at, to) = (at.to_owned(), to.to_owned());
        let (long, other) = (norm(&at), norm(&to));
        let (chord, sum) = (&to * long - &at * other, &to * long + &at * other);
        let unit = &at / long;
        let mut t = if norm(&chord) <= norm(&sum) {
            chord.clone()
        } else {
            sum.clone()
        };
        for _ in 0..2 {
            t = &t - &unit * t.dot(&unit);
        }
        let length = norm(&t);
        let scale = if length <= 1e-150 { 0.0 } else { 1.0 / length };
        (t * scale, [norm(&chord), norm(&sum), length])
    }

    /// What a device does, in ndarray.
    fn on_device(
        offload: &Offload,
        x: &Array2<f64>,
        w: &Array2<f64>,
        targets: &Targets<'_, f64>,
    ) -> Result<(Closed, Array2<f64>, Array2<f64>), Error> {
        let batch = offload.batch(targets, x.nrows(), w.nrows())?;
        let (rows, s) = (batch.labels.len(), offload.scale());
        let (mut e, mut figures) = (Array2::zeros((rows, w.nrows())), Vec::new());
        for i in 0..rows {
            let (x, y) = (x.row(batch.row(i)), batch.labels[i]);
            let (_, [chord, sum, tangent]) = tangent(x, w.row(y));
            let long = norm(&x.to_owned());
            let z = Array1::from_shape_fn(w.nrows(), |j| {
                s * x.dot(&w.row(j)) / (long * norm(&w.row(j).to_owned()))
            });
            let others = || (0..w.nrows()).filter(|&j| j != y);
            let largest = others().map(|j| z[j]).fold(-1e30, f64::max);
            for j in others() {
                e[[i, j]] = (z[j] - largest).exp();
            }
            figures.push(RowFigures {
                feature_norm: long,
                chord,
                sum,
                tangent,
                largest,
                total: e.row(i).sum(),
            });
        }
        let closed = offload.close::<f64>(&batch, &figures)?;
        let (mut gx, mut gw) = (Array2::zeros(x.raw_dim()), Array2::zeros(w.raw_dim()));
        for i in 0..rows {
            let (row, y) = (batch.row(i), batch.labels[i]);
            let (long, unit) = (
                figures[i].feature_norm,
                &x.row(row) / figures[i].feature_norm,
            );
            for j in 0..w.nrows() {
                let other = norm(&w.row(j).to_owned());
                let (g, w_unit) = (closed.shares[i] * e[[i, j]] * s, &w.row(j) / other);
                let cosine = unit.dot(&w_unit);
                gx.row_mut(row)
                    .scaled_add(g / long, &(&w_unit - &unit * cosine));
                gw.row_mut(j)
                    .scaled_add(g / other, &(&unit - &w_unit * cosine));
            }
            let pull = closed.pulls[i];
            let by_x = tangent(x.row(row), w.row(y)).0;
            let by_w = tangent(w.row(y), x.row(row)).0;
            gx.row_mut(row).scaled_add(pull / long, &by_x);
            gw.row_mut(y)
                .scaled_add(pull / norm(&w.row(y).to_owned()), &by_w);
        }
        Ok((closed, gx, gw))
    }

    fn close(a: &Array2<f64>, b: &Array2<f64>, name: &str) {
        let largest = a.iter().fold(0.0_f64, |largest, v| largest.max(v.abs()));
        for (a, b) in a.iter().zip(b) {
            assert!(
                (a - b).abs() <= 1e-12 * largest.max(1e-12),
                "{name}: {a} {b}"
            );
        }
    }

    /// Rows at a pole, beyond every joint, near their class, and one that is ignored.
    fn batch() -> (Array2<f64>, Array2<f64>, [usize; 6]) {
        let w = array![
            [1.0, 0.5, -0.25],
            [-0.5, 2.0, 1.0],
            [0.5, -1.0, 0.75],
            [1.0, 1.0, 1.0]
        ];
        let x = array![
            [2.0, 1.0, -0.5],
            [0.5, -2.0, -1.1],
            [0.1, -1.0, 0.3],
            [f64::NAN, 0.0, 0.0],
            [1.0, 1.0, 1.000_001],
            [-1.0, 0.2, 0.6],
        ];
        (x, w, [0, 1, 2, 9, 3, 0])
    }

    #[test]
    fn what_the_device_makes_of_it_is_the_loss() {
        let lines = [
            "normface:s=4",
            "am-softmax:s=5,m=0.2",
            "cosface:s=6,m=0.35",
            "arcface:s=7,m=0.5",
            "arcface:s=7,m=0.5,past_pi=paper",
            "arcface:s=7,m=0.5,past_pi=linear-tail",
            "arcface:s=7,m=0.5,past_pi=joined-tail",
            "arcface:s=7,m=0.5,past_pi=smooth-tail",
            "arcface:s=7,m=0.5,past_pi=easy-margin",
            "combined:s=8,m1=0.9,m2=0.4,m3=0.15",
            "arcface:s=7,m=0.1/0.2/0.3/0.4",
            "cosface:s=7,m=0.1/0.2/0.3/0.4",
            "am-softmax:s=7,m=0.1/0.2/0.3/0.4",
        ];
        let mut losses: Vec<AnyLoss> = lines.iter().map(|line| line.parse().unwrap()).collect();
        let by_row = ArcFace::default().with_past_pi(PastPi::Paper);
        losses.push(
            by_row
                .with_row_margins(vec![0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
                .unwrap()
                .into(),
        );
        let (x, w, labels) = batch();
        let weights = [0.5, 1.0, 2.0, 1.0, 0.25, 3.0];
        for loss in losses {
            for reduction in [Reduction::Mean, Reduction::BatchMean, Reduction::Sum] {
                let targets = Targets::new(&labels)
                    .with_ignored_label(9)
                    .with_row_weights(&weights)
                    .with_reduction(reduction);
                let out = loss.evaluate(x.view(), w.view(), &targets).unwrap();
                let offload = Offload::new(loss.clone()).unwrap();
                let (closed, gx, gw) = on_device(&offload, &x, &w, &targets).unwrap();
                assert!(
                    (closed.loss - out.loss()).abs() <= 1e-13 * out.loss(),
                    "{loss}"
                );
                assert_eq!(closed.accuracy(), out.accuracy(), "{loss}");
                close(&out.grad_features, &gx, &loss.to_string());
                close(&out.grad_weights, &gw, &loss.to_string());
            }
        }
    }

    #[test]
    fn one_class_has_no_loss() {
        let (x, w) = (array![[1.0, 2.0]], array![[0.5, 0.5]]);
        let targets = Targets::new(&[0]);
        let offload = Offload::new(ArcFace::default()).unwrap();
        let (closed, gx, gw) = on_device(&offload, &x, &w, &targets).unwrap();
        assert_eq!((closed.loss, closed.accuracy()), (0.0, Some(1.0)));
        assert!(gx.iter().chain(&gw).all(|&entry| entry == 0.0));
    }

    #[test]
    fn what_is_more_than_a_margin_is_refused() {
        for line in [
            "softmax",
            "normface:s=4,learned",
            "cosface:s=4,m=0.2,filter=0.5",
            "adaface",
            "magface",
            "curricularface",
            "sphereface2",
        ] {
            let loss: AnyLoss = line.parse().unwrap();
            let error = Offload::new(loss).unwrap_err();
            assert!(
                matches!(error, Error::NotOffloadable { .. }),
                "{line}: {error}"
            );
        }
        let magface: crate::MagFace = crate::MagFace::default();
        let own = Offload::with_margin(magface, magface.own_scale().unwrap()).unwrap();
        let (x, w) = (array![[1.0, 2.0]], array![[0.5, 0.5], [1.0, 0.0]]);
        let error = on_device(&own, &x, &w, &Targets::new(&[0])).unwrap_err();
        assert!(matches!(error, Error::NotOffloadable { .. }), "{error}");
        assert!(Offload::with_margin(ArcFace::default(), 3.0).is_err());
    }

    /// The errors of the loss itself, by the row of the caller's batch.
    #[test]
    fn bad_input_is_named() {
        let (x, w, labels) = batch();
        let offload = Offload::new(CosFace::default()).unwrap();
        let refused = |targets: Targets<'_, f64>| {
            let here = offload.batch(&targets, x.nrows(), w.nrows()).unwrap_err();
            let mut out = Evaluation::new();
            let loss = CosFace::default();
            let there = loss.evaluate_into(x.view(), w.view(), &targets, &mut out);
            assert_eq!(here, there.unwrap_err());
        };
        refused(Targets::new(&labels));
        refused(Targets::new(&labels[..4]));
        refused(Targets::new(&[0, 1, 2, 3, 4, 0]).with_ignored_label(3));
        refused(
            Targets::new(&labels)
                .with_ignored_label(9)
                .with_row_weights(&[1.0; 5]),
        );
        let heavy = [1.0, 1.0, f64::NAN, 1.0, 1.0, 1.0];
        refused(
            Targets::new(&labels)
                .with_ignored_label(9)
                .with_row_weights(&heavy),
        );

        let targets = Targets::new(&labels);
        let error = on_device(&offload, &x, &w, &targets.with_ignored_label(0)).unwrap_err();
        assert_eq!(
            error,
            Error::LabelOutOfRange {
                row: 3,
                label: 9,
                classes: 4
            }
        );
        let labels = [0, 1, 2, 3, 3, 0];
        let error = on_device(&offload, &x, &w, &Targets::new(&labels)).unwrap_err();
        assert_eq!(
            error,
            Error::NonFinite {
                argument: Argument::Features,
                row: 3
            }
        );
        let none = Offload::check_norms(Argument::ClassWeights, [1.0, 0.0]).unwrap_err();
        assert_eq!(
            none.to_string(),
            "class weights row 1 has a norm too small to divide by"
        );
        let margins: AnyLoss = "arcface:s=4,m=0.1/0.2".parse().unwrap();
        let error = Offload::new(margins)
            .unwrap()
            .batch(&Targets::<f64>::new(&[0]), 1, 3);
        assert_eq!(
            error.unwrap_err().to_string(),
            "class margins: 3 entries expected, 2 found"
        );
    }
}
