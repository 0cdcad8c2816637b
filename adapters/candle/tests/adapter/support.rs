//! Batches, and candle's own autograd of the plain formulas.

use candle_core::{D, DType, Device, Tensor, Var};
use margin_losses_candle::margin_losses::init;
use margin_losses_candle::margin_losses::ndarray::Array2;

pub(crate) type Any = Result<(), Box<dyn std::error::Error>>;

pub(crate) const ROWS: usize = 24;
pub(crate) const CLASSES: usize = 17;
pub(crate) const DIM: usize = 12;

/// Features and class weights at random angles, away from the poles, and labels.
pub(crate) struct Batch {
    pub(crate) features: Array2<f32>,
    pub(crate) weights: Array2<f32>,
    pub(crate) labels: Vec<usize>,
}

impl Batch {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            features: init::normal(ROWS, DIM, 1.5, seed).unwrap(),
            weights: init::normal(CLASSES, DIM, 0.7, seed + 1).unwrap(),
            labels: (0..ROWS).map(|row| (5 * row + 3) % CLASSES).collect(),
        }
    }

    pub(crate) fn vars(&self) -> [Var; 2] {
        [var(&self.features), var(&self.weights)]
    }
}

pub(crate) fn var(array: &Array2<f32>) -> Var {
    Var::from_slice(array.as_slice().unwrap(), array.dim(), &Device::Cpu).unwrap()
}

pub(crate) fn flat(tensor: &Tensor) -> Vec<f64> {
    let tensor = tensor.flatten_all().unwrap().to_dtype(DType::F64).unwrap();
    tensor.to_vec1().unwrap()
}

/// The largest difference beside the largest entry of the second.
pub(crate) fn apart(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let largest = expected
        .iter()
        .fold(0.0_f64, |largest, v| largest.max(v.abs()));
    let differences = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    // A NaN is a difference.
    differences.fold(0.0, |worst, d| if d <= worst { worst } else { d }) / largest.max(1e-30)
}

pub(crate) fn scalar(tensor: &Tensor) -> f64 {
    tensor.to_dtype(DType::F64).unwrap().to_scalar().unwrap()
}

/// The plain formula, s (cos(θ + m₂) − m₃), in tensor operations with candle's autograd.
pub(crate) fn plain(
    [features, weights]: [&Tensor; 2],
    labels: &[usize],
    [s, m2, m3]: [f64; 3],
) -> candle_core::Result<Tensor> {
    let unit = |rows: &Tensor| -> candle_core::Result<Tensor> {
        rows.broadcast_div(&rows.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?)
    };
    let (x, w) = (unit(features)?, unit(weights)?);
    let cos = x.matmul(&w.t()?)?;
    let sin = (1.0 - cos.sqr()?)?.sqrt()?;
    let turned = (((&cos * m2.cos())? - (sin * m2.sin())?)? - m3)?;
    let classes = weights.dim(0)?;
    let mut own = vec![0.0_f32; labels.len() * classes];
    for (row, &label) in labels.iter().enumerate() {
        own[row * classes + label] = 1.0;
    }
    let own = Tensor::from_vec(own, (labels.len(), classes), features.device())?;
    let own = own.to_dtype(features.dtype())?;
    let logits = ((&cos + (turned - &cos)? * &own)? * s)?;
    let target = (&logits * &own)?.sum(D::Minus1)?;
    (logits.log_sum_exp(D::Minus1)? - target)?.mean_all()
}

/// ∂X and ∂W of a scalar.
pub(crate) fn gradients(loss: &Tensor, vars: &[Var; 2]) -> [Vec<f64>; 2] {
    let grads = loss.backward().unwrap();
    [&vars[0], &vars[1]].map(|var| flat(grads.get(var).unwrap()))
}
