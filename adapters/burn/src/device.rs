//! The loss and its gradients in burn's tensor operations.

use burn::tensor::{DType, Device, IndexingUpdateOp, Int, Tensor, TensorData};

use crate::bridge::{
    self, AnyLoss, Argument, Closed, FIGURES, Float, Offload, OffloadedBatch, Targets,
};
use crate::element::{matrix, unreadable};
use crate::error::Error;
use crate::loss::{Loss, surrogate};
use crate::target::Targeted;

/// The memory that logits may take before they are computed block by block.
const SCRATCH_LIMIT: usize = 1 << 30;

/// A logit that no exponential sees.
const NO_LOGIT: f64 = -1e30;

/// A margin over scaled cosines in burn's tensor operations, on whichever back end the tensors are.
///
/// It takes NormFace, AM-Softmax, CosFace, ArcFace with every rule at wide angles, the combined margin, margins by class and
/// by row, and a margin of your own as an [`Offload`]. Gradients are analytic: there is no `acos`, no clamp and no ε, and both
/// poles are finite. Products stay on the device. Six numbers of each row come to the host, which makes the loss of them and
/// sends two back: that is the one synchronisation of a step.
///
/// Beyond the scratch limit the classes are computed in blocks, twice, so that N×C need not fit.
///
/// # Numerical notes
///
/// The angle to the class is computed in `f64`, or where the device has none by products that are split in two. A back end
/// that fuses operations must not reorder or contract these; that is not tested. Norms are roots of sums of squares in the
/// element type: rows shorter than about 1e-19 in `f32` are refused.
///
/// # Errors
///
/// [`Error::Loss`] for what the loss refuses, with its row; [`Error::ElementType`] for anything but `f32` and `f64`, so
/// convert `f16` and `bf16` before; [`Error::Burn`] if the device cannot be read.
///
/// # Examples
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use margin_losses_burn::DeviceLoss;
/// use margin_losses_burn::margin_losses::{ArcFace, Targets};
///
/// let device = Device::flex().autodiff();                       // or Device::cuda(0).autodiff()
/// let features = Tensor::<2>::from_data([[1.0, 0.5], [-0.5, 2.0]], &device).require_grad();
/// // The first row meets its class exactly.
/// let weights = Tensor::<2>::from_data([[1.0, 0.5], [0.2, 0.3]], &device).require_grad();
/// let loss = DeviceLoss::new(ArcFace::new(16.0, 0.5)?)?;
/// let out = loss.evaluate(&features, &weights, &Targets::<f32>::new(&[0, 1]))?;
/// let grads = out.backward(&weights);
/// assert!(features.grad(&grads).is_some() && weights.grad(&grads).is_some());
/// # Ok::<(), margin_losses_burn::Error>(())
/// ```
#[derive(Debug)]
pub struct DeviceLoss {
    offload: Offload,
    scratch_limit: usize,
    split: bool,
}

/// The batch on the device, outside of any graph.
struct Batch {
    /// N×d, s x̂.
    scaled: Tensor<2>,
    /// N.
    labels: Tensor<1, Int>,
    /// N×1, ‖x‖.
    norms: Tensor<2>,
    /// C×d.
    weights: Tensor<2>,
    /// C×1, ‖w‖.
    weight_norms: Tensor<2>,
    targeted: Targeted,
}

/// The rows of one block.
struct Block {
    start: usize,
    /// B×d, ŵ.
    units: Tensor<2>,
    /// B×1.
    norms: Tensor<2>,
}

/// What the device gives.
struct Solved {
    loss: f64,
    accuracy: Option<f64>,
    by_feature: Tensor<2>,
    by_weight: Tensor<2>,
}

impl DeviceLoss {
    /// A loss that [`Offload::new`] takes.
    ///
    /// # Errors
    ///
    /// Those of it.
    pub fn new(loss: impl Into<AnyLoss>) -> Result<Self, Error> {
        Ok(Offload::new(loss)?.into())
    }

    /// With another limit for the logits and their exponentials, in bytes; 1 GiB by default.
    #[must_use]
    pub fn with_scratch_limit(self, bytes: usize) -> Self {
        Self {
            scratch_limit: bytes,
            ..self
        }
    }

    /// With the angle to the class in `f32` by split products, as on a device without `f64`.
    #[must_use]
    pub fn with_split_products(self) -> Self {
        Self {
            split: true,
            ..self
        }
    }

    /// The loss in the graph, and the gradient of the class weights: see [`Loss`].
    ///
    /// # Errors
    ///
    /// As for the type.
    pub fn evaluate<A: Float>(
        &self,
        features: &Tensor<2>,
        weights: &Tensor<2>,
        targets: &Targets<'_, A>,
    ) -> Result<Loss, Error> {
        let dtype = if features.dtype() == DType::F64 {
            DType::F64
        } else {
            DType::F32
        };
        let shape = matrix(features, Argument::Features, dtype)?;
        let classes = matrix(weights, Argument::ClassWeights, dtype)?;
        bridge::check_dimensions(shape, classes)?;
        let rows = self.offload.batch(targets, shape[0], classes[0])?;
        let inner = [features.clone().inner(), weights.clone().inner()];
        let device = inner[0].device();
        let solved = if rows.labels().is_empty() {
            let closed = self.close(&rows, &[], dtype)?;
            let [by_feature, by_weight] = inner.map(|tensor| tensor.zeros_like());
            Solved {
                loss: closed.loss,
                accuracy: closed.accuracy,
                by_feature,
                by_weight,
            }
        } else {
            self.solve(&rows, Batch::new(&rows, inner, self))?
        };
        let by_feature = spread(&rows, solved.by_feature);
        let value = Tensor::from_data(TensorData::new(vec![solved.loss], [1]), (&device, dtype));
        let ignored = bridge::left_out(&rows);
        let value = surrogate(features, value, by_feature, ignored.as_deref());
        Ok(Loss::new(value, solved.by_weight, solved.accuracy))
    }

    fn close(&self, rows: &OffloadedBatch, figures: &[f64], dtype: DType) -> Result<Closed, Error> {
        let closed = match dtype {
            DType::F64 => bridge::close::<f64>(&self.offload, rows, figures),
            _ => bridge::close::<f32>(&self.offload, rows, figures),
        };
        Ok(closed?)
    }

    fn solve(&self, rows: &OffloadedBatch, batch: Batch) -> Result<Solved, Error> {
        let (dtype, device) = (batch.scaled.dtype(), batch.scaled.device());
        let length = self.block_length(&batch);
        let (largest, total, kept) = open(&batch, length)?;
        let closed = self.close(rows, &batch.figures(&largest, &total)?, dtype)?;
        let column = |values: Vec<f64>| -> Tensor<2> {
            let shape = [values.len(), 1];
            Tensor::from_data(TensorData::new(values, shape), (&device, dtype))
        };
        let (shares, pulls) = (column(closed.shares), column(closed.pulls));

        let shared = batch.scaled.clone() * shares.clone();
        let mut toward = batch.scaled.zeros_like();
        let mut by_weight = Vec::new();
        for start in (0..batch.classes()).step_by(length) {
            let block = batch.block(start, length);
            let e = kept
                .clone()
                .unwrap_or_else(|| exponentials(batch.logits(&block), &largest));
            toward = toward + e.clone().matmul(block.units.clone());
            let gradient = tangential(e.transpose().matmul(shared.clone()), &block.units);
            by_weight.push(gradient / block.norms);
        }
        // s x̂ for x̂ would change the projection, so it is divided out again.
        let scale = self.offload.scale();
        let units = batch.scaled / scale;
        let toward = tangential(toward * shares, &units) * scale;
        let [by_x, by_w] = batch.targeted.directions(pulls);
        let by_weight = Tensor::cat(by_weight, 0);
        Ok(Solved {
            loss: closed.loss,
            accuracy: closed.accuracy,
            by_feature: (toward + by_x) / batch.norms,
            by_weight: by_weight.select_assign(0, batch.labels, by_w, IndexingUpdateOp::Add),
        })
    }

    /// How many classes a block has: all of them, if logits, exponentials and the mask fit.
    fn block_length(&self, batch: &Batch) -> usize {
        let size = if batch.scaled.dtype() == DType::F64 {
            8
        } else {
            4
        };
        let each = 4 * size * batch.scaled.dims()[0].max(1);
        (self.scratch_limit / each).clamp(1, batch.classes())
    }
}

/// The loss of a margin, your own too.
impl From<Offload> for DeviceLoss {
    fn from(offload: Offload) -> Self {
        Self {
            offload,
            scratch_limit: SCRATCH_LIMIT,
            split: false,
        }
    }
}

/// The largest logit of each row but the target's, the sum of the exponentials, and these if there is one block.
fn open(batch: &Batch, length: usize) -> Result<(Tensor<2>, Tensor<2>, Option<Tensor<2>>), Error> {
    let mut seen: Option<(Tensor<2>, Tensor<2>)> = None;
    let mut kept = None;
    for start in (0..batch.classes()).step_by(length) {
        let logits = batch.logits(&batch.block(start, length));
        let here = logits.clone().max_dim(1);
        let (largest, before) = match seen {
            None => (here, None),
            Some((largest, total)) => {
                let both = largest.clone().max_pair(here);
                let total = total * (largest - both.clone()).exp();
                (both, Some(total))
            }
        };
        let e = exponentials(logits, &largest);
        let mut total = e.clone().sum_dim(1);
        if let Some(before) = before {
            total = total + before;
        }
        seen = Some((largest, total));
        kept = (length >= batch.classes()).then_some(e);
    }
    let (largest, total) = seen.ok_or(bridge::LossError::NoClasses)?;
    Ok((largest, total, kept))
}

fn exponentials(logits: Tensor<2>, largest: &Tensor<2>) -> Tensor<2> {
    (logits - largest.clone()).exp()
}

/// `(I − ûûᵀ) v`, row by row.
pub(crate) fn tangential(v: Tensor<2>, units: &Tensor<2>) -> Tensor<2> {
    let along = (v.clone() * units.clone()).sum_dim(1);
    v - units.clone() * along
}

pub(crate) fn norms(rows: Tensor<2>) -> Tensor<2> {
    rows.square().sum_dim(1).sqrt()
}

/// Gradients of the rows that count as those of the whole batch.
fn spread(rows: &OffloadedBatch, gradient: Tensor<2>) -> Tensor<2> {
    let Some(counted) = rows.rows().filter(|counted| !counted.is_empty()) else {
        return gradient;
    };
    let (device, dtype) = (gradient.device(), gradient.dtype());
    let whole = Tensor::zeros([rows.size(), gradient.dims()[1]], (&device, dtype));
    whole.select_assign(
        0,
        indices(counted, &device),
        gradient,
        IndexingUpdateOp::Add,
    )
}

fn indices(rows: &[usize], device: &Device) -> Tensor<1, Int> {
    let rows: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
    let number = rows.len();
    Tensor::from_data(TensorData::new(rows, [number]), device)
}

impl Batch {
    fn new(
        rows: &OffloadedBatch,
        [mut features, weights]: [Tensor<2>; 2],
        loss: &DeviceLoss,
    ) -> Self {
        let device = features.device();
        if let Some(counted) = rows.rows() {
            features = features.select(0, indices(counted, &device));
        }
        let labels = indices(rows.labels(), &device);
        let norms_of_rows = norms(features.clone());
        let split = loss.split || !device.supports_dtype(DType::F64);
        let own = weights.clone().select(0, labels.clone());
        Self {
            scaled: features.clone() / norms_of_rows.clone() * loss.offload.scale(),
            targeted: Targeted::new(features, own, split),
            labels,
            norms: norms_of_rows,
            weight_norms: norms(weights.clone()),
            weights,
        }
    }

    fn classes(&self) -> usize {
        self.weights.dims()[0]
    }

    fn block(&self, start: usize, length: usize) -> Block {
        let length = length.min(self.classes() - start);
        let norms = self.weight_norms.clone().narrow(0, start, length);
        Block {
            start,
            units: self.weights.clone().narrow(0, start, length) / norms.clone(),
            norms,
        }
    }

    /// N×B; those of the targets are out of reach.
    fn logits(&self, block: &Block) -> Tensor<2> {
        let logits = self.scaled.clone().matmul(block.units.clone().transpose());
        let [rows, columns] = logits.dims();
        let range = block.start as i64..(block.start + columns) as i64;
        let classes = Tensor::<1, Int>::arange(range, &logits.device());
        let classes = classes.reshape([1, columns]).expand([rows, columns]);
        let labels = self.labels.clone().reshape([rows, 1]);
        let own = labels.expand([rows, columns]).equal(classes);
        logits.mask_fill(own, NO_LOGIT)
    }

    /// The figures of the rows, one kind after the other, on the host.
    fn figures(&self, largest: &Tensor<2>, total: &Tensor<2>) -> Result<Vec<f64>, Error> {
        let [chord, sum, tangent] = &self.targeted.lengths;
        let wide = chord.dtype();
        let rows = chord.dims()[0];
        let columns = [&self.norms, chord, sum, tangent, largest, total];
        let mut parts: Vec<Tensor<1>> = Vec::with_capacity(FIGURES + 2);
        for column in columns {
            parts.push(column.clone().cast(wide).reshape([rows]));
        }
        // The shortest class weight, and a number that is none if a norm is none.
        parts.push(self.weight_norms.clone().min().cast(wide));
        parts.push((self.weight_norms.clone() * 0.0).sum().cast(wide));
        let mut figures = numbers(Tensor::cat(parts, 0))?;
        let (finite, shortest) = (figures.pop(), figures.pop());
        if finite != Some(0.0) || !shortest.is_some_and(|shortest| shortest > 0.0) {
            let norms = self.weight_norms.clone().reshape([self.classes()]);
            bridge::check_weight_norms(&numbers(norms)?)?;
        }
        Ok(figures)
    }
}

/// A list on the host.
fn numbers(list: Tensor<1>) -> Result<Vec<f64>, Error> {
    list.try_into_vec_as::<f64>().map_err(unreadable)
}
