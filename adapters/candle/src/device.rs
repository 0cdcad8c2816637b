//! The loss and its gradients in candle's tensor operations.

use candle_core::{D, DType, Device, Tensor};

use crate::bridge::{
    self, AnyLoss, Argument, Closed, FIGURES, Float, Offload, OffloadedBatch, Targets,
};
use crate::element::matrix;
use crate::error::Error;
use crate::loss::{Loss, with_gradient};
use crate::target::Targeted;

/// The memory that logits may take before they are computed block by block.
const SCRATCH_LIMIT: usize = 1 << 30;

/// A logit that no exponential sees.
const NO_LOGIT: f64 = -1e30;

/// A margin over scaled cosines in candle's tensor operations, for features and class weights on a GPU.
///
/// It takes NormFace, AM-Softmax, CosFace, ArcFace with every rule at wide angles, the combined margin, margins by class and
/// by row, and a margin of your own as an [`Offload`]. Gradients are analytic: there is no `acos`, no clamp and no ε, and both poles
/// are finite. Products stay on the device. Six numbers of each row come to the host, which makes the loss of them and sends
/// two back: that is the one synchronisation of a step.
///
/// Beyond the scratch limit the classes are computed in blocks, twice, so that N×C need not fit.
///
/// # Numerical notes
///
/// The angle to the class is computed in `f64`, or on a Metal device in `f32` by products that are split in two. Norms are
/// roots of sums of squares in the element type: rows shorter than about 1e-19 in `f32` are refused.
///
/// # Errors
///
/// [`Error::Loss`] for what the loss refuses, with its row; [`Error::ElementType`] for anything but `f32` and `f64`, so
/// convert `f16` and `bf16` before; [`Error::Rank`].
///
/// # Examples
///
/// ```
/// use candle_core::{Device, Tensor, Var};
/// use margin_losses_candle::DeviceLoss;
/// use margin_losses_candle::margin_losses::{ArcFace, Targets};
///
/// let device = Device::Cpu;                                      // or Device::new_cuda(0)?
/// let features = Var::new(&[[1.0_f32, 0.5], [-0.5, 2.0]], &device)?;
/// let weights = Var::new(&[[1.0_f32, 0.5], [0.2, 0.3]], &device)?; // the first row meets its class exactly
/// let loss = DeviceLoss::new(ArcFace::new(16.0, 0.5)?)?;
/// let out = loss.evaluate(&features, &weights, &Targets::<f32>::new(&[0, 1]))?;
/// let grads = out.backward(&weights)?;
/// assert!(grads.get(&features).is_some() && grads.get(&weights).is_some());
/// # Ok::<(), margin_losses_candle::Error>(())
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
    scaled: Tensor,
    /// N.
    labels: Tensor,
    /// N×1, ‖x‖.
    norms: Tensor,
    /// C×d.
    weights: Tensor,
    /// C×1, ‖w‖.
    weight_norms: Tensor,
    targeted: Targeted,
}

/// The rows of one block.
struct Block {
    start: usize,
    /// B×d, ŵ.
    units: Tensor,
    /// B×1.
    norms: Tensor,
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
        features: &Tensor,
        weights: &Tensor,
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
        let (value, by_feature, by_weight, accuracy) = if rows.labels().is_empty() {
            let closed = self.close(&rows, &[], dtype)?;
            let none = [features.zeros_like()?, weights.zeros_like()?];
            (
                closed.loss,
                none[0].detach(),
                none[1].detach(),
                closed.accuracy,
            )
        } else {
            let batch = Batch::new(&rows, [features, weights], self)?;
            self.solve(&rows, &batch)?
        };
        let by_feature = spread(&rows, by_feature)?;
        let value = Tensor::new(value, &Device::Cpu)?.to_dtype(dtype)?;
        let value = value.to_device(features.device())?;
        let ignored = bridge::left_out(&rows);
        let value = with_gradient(features, &value, &by_feature, ignored.as_deref())?;
        Loss::new(&value, by_weight, accuracy)
    }

    fn close(&self, rows: &OffloadedBatch, figures: &[f64], dtype: DType) -> Result<Closed, Error> {
        let closed = match dtype {
            DType::F64 => bridge::close::<f64>(&self.offload, rows, figures),
            _ => bridge::close::<f32>(&self.offload, rows, figures),
        };
        Ok(closed?)
    }

    /// Loss, ∂X of the rows that count, ∂W and accuracy.
    fn solve(
        &self,
        rows: &OffloadedBatch,
        batch: &Batch,
    ) -> Result<(f64, Tensor, Tensor, Option<f64>), Error> {
        let blocks = self.blocks(batch)?;
        let (largest, total, kept) = open(batch, blocks)?;
        let closed = self.close(
            rows,
            &batch.figures(&largest, &total)?,
            batch.scaled.dtype(),
        )?;
        let column = |values: Vec<f64>| -> Result<Tensor, Error> {
            let column = Tensor::from_vec(values, (rows.labels().len(), 1), &Device::Cpu)?;
            Ok(column
                .to_dtype(batch.scaled.dtype())?
                .to_device(batch.scaled.device())?)
        };
        let (shares, pulls) = (column(closed.shares)?, column(closed.pulls)?);

        let shared = batch.scaled.broadcast_mul(&shares)?;
        let by_weight = batch.weights.zeros_like()?;
        let mut toward = batch.scaled.zeros_like()?;
        for start in (0..batch.classes()).step_by(blocks) {
            let block = batch.block(start, blocks)?;
            let e = match &kept {
                Some(e) => e.clone(),
                None => exponentials(&batch.logits(&block)?, &largest)?,
            };
            toward = (toward + e.matmul(&block.units)?)?;
            let gradient = tangential(&e.t()?.matmul(&shared)?, &block.units)?;
            by_weight.slice_set(&gradient.broadcast_div(&block.norms)?, 0, start)?;
        }
        // s x̂ for x̂ would change the projection, so it is divided out again.
        let scale = self.offload.scale();
        let units = (&batch.scaled / scale)?;
        let toward = (tangential(&toward.broadcast_mul(&shares)?, &units)? * scale)?;
        let [by_x, by_w] = batch.targeted.directions(&pulls)?;
        let by_feature = (toward + by_x)?.broadcast_div(&batch.norms)?;
        let by_weight = by_weight.index_add(&batch.labels, &by_w, 0)?;
        Ok((closed.loss, by_feature, by_weight, closed.accuracy))
    }

    /// How many classes a block has: all of them, if logits, exponentials and the mask fit.
    fn blocks(&self, batch: &Batch) -> Result<usize, Error> {
        let size = batch.scaled.dtype().size_in_bytes();
        let each = 4 * size * batch.scaled.dim(0)?.max(1);
        Ok((self.scratch_limit / each).clamp(1, batch.classes()))
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
fn open(batch: &Batch, blocks: usize) -> Result<(Tensor, Tensor, Option<Tensor>), Error> {
    let mut seen: Option<(Tensor, Tensor)> = None;
    let mut kept = None;
    for start in (0..batch.classes()).step_by(blocks) {
        let logits = batch.logits(&batch.block(start, blocks)?)?;
        let here = logits.max_keepdim(D::Minus1)?;
        let (largest, before) = match seen {
            None => (here, None),
            Some((largest, total)) => {
                let both = largest.maximum(&here)?;
                let total = (total * (largest - &both)?.exp()?)?;
                (both, Some(total))
            }
        };
        let e = exponentials(&logits, &largest)?;
        let mut total = e.sum_keepdim(D::Minus1)?;
        if let Some(before) = before {
            total = (total + before)?;
        }
        seen = Some((largest, total));
        kept = (blocks >= batch.classes()).then_some(e);
    }
    let (largest, total) = seen.ok_or(bridge::LossError::NoClasses)?;
    Ok((largest, total, kept))
}

fn exponentials(logits: &Tensor, largest: &Tensor) -> Result<Tensor, Error> {
    Ok(logits.broadcast_sub(largest)?.exp()?)
}

/// `(I − ûûᵀ) v`, row by row.
pub(crate) fn tangential(v: &Tensor, units: &Tensor) -> Result<Tensor, Error> {
    let along = (v * units)?.sum_keepdim(D::Minus1)?;
    Ok((v - units.broadcast_mul(&along)?)?)
}

pub(crate) fn norms(rows: &Tensor) -> Result<Tensor, Error> {
    Ok(rows.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?)
}

/// Gradients of the rows that count as those of the whole batch.
fn spread(rows: &OffloadedBatch, gradient: Tensor) -> Result<Tensor, Error> {
    let Some(counted) = rows.rows().filter(|counted| !counted.is_empty()) else {
        return Ok(gradient);
    };
    let device = gradient.device();
    let whole = Tensor::zeros((rows.size(), gradient.dim(1)?), gradient.dtype(), device)?;
    Ok(whole.index_add(&indices(counted, device)?, &gradient, 0)?)
}

fn indices(rows: &[usize], device: &Device) -> Result<Tensor, Error> {
    let rows: Vec<u32> = rows.iter().map(|&row| row as u32).collect();
    let number = rows.len();
    Ok(Tensor::from_vec(rows, number, device)?)
}

impl Batch {
    fn new(
        rows: &OffloadedBatch,
        [features, weights]: [&Tensor; 2],
        loss: &DeviceLoss,
    ) -> Result<Self, Error> {
        let (mut features, weights) = (features.detach(), weights.detach());
        let device = features.device().clone();
        if let Some(counted) = rows.rows() {
            features = features.index_select(&indices(counted, &device)?, 0)?;
        }
        let labels = indices(rows.labels(), &device)?;
        let norms_of_rows = norms(&features)?;
        let split = loss.split || device.is_metal();
        let own = weights.index_select(&labels, 0)?;
        let scale = Tensor::new(loss.offload.scale(), &Device::Cpu)?;
        let scale = scale.to_dtype(features.dtype())?.to_device(&device)?;
        Ok(Self {
            scaled: features
                .broadcast_div(&norms_of_rows)?
                .broadcast_mul(&scale)?,
            targeted: Targeted::new(&features, &own, split)?,
            labels,
            norms: norms_of_rows,
            weight_norms: norms(&weights)?,
            weights,
        })
    }

    fn classes(&self) -> usize {
        self.weights.dims()[0]
    }

    fn block(&self, start: usize, blocks: usize) -> Result<Block, Error> {
        let length = blocks.min(self.classes() - start);
        let norms = self.weight_norms.narrow(0, start, length)?;
        let units = self
            .weights
            .narrow(0, start, length)?
            .broadcast_div(&norms)?;
        Ok(Block {
            start,
            units,
            norms,
        })
    }

    /// N×B; those of the targets are out of reach.
    fn logits(&self, block: &Block) -> Result<Tensor, Error> {
        let logits = self.scaled.matmul(&block.units.t()?)?;
        let end = block.start + block.units.dim(0)?;
        let device = logits.device();
        let classes = Tensor::arange(block.start as u32, end as u32, device)?.unsqueeze(0)?;
        let own = self.labels.unsqueeze(1)?.broadcast_eq(&classes)?;
        let none = Tensor::new(NO_LOGIT as f32, device)?.to_dtype(logits.dtype())?;
        Ok(own.where_cond(&none.broadcast_as(logits.shape())?, &logits)?)
    }

    /// The figures of the rows, one kind after the other, on the host.
    fn figures(&self, largest: &Tensor, total: &Tensor) -> Result<Vec<f64>, Error> {
        let [chord, sum, tangent] = self.targeted.lengths();
        let wide = chord.dtype();
        // The shortest class weight, and a number that is none if a norm is none.
        let shortest = self.weight_norms.min(0)?;
        let finite = (&self.weight_norms * 0.0)?.sum(0)?;
        let columns = [&self.norms, chord, sum, tangent, largest, total];
        let mut parts = Vec::with_capacity(FIGURES + 2);
        for column in columns {
            parts.push(column.flatten_all()?.to_dtype(wide)?);
        }
        parts.push(shortest.to_dtype(wide)?);
        parts.push(finite.to_dtype(wide)?);
        let figures = Tensor::cat(&parts, 0)?.to_device(&Device::Cpu)?;
        let mut figures: Vec<f64> = figures.to_dtype(DType::F64)?.to_vec1()?;
        let (finite, shortest) = (figures.pop(), figures.pop());
        if finite != Some(0.0) || !shortest.is_some_and(|shortest| shortest > 0.0) {
            let norms = self.weight_norms.flatten_all()?.to_device(&Device::Cpu)?;
            bridge::check_weight_norms(&norms.to_dtype(DType::F64)?.to_vec1()?)?;
        }
        Ok(figures)
    }
}
