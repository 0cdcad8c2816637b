//! Batches, and burn's own autograd of the plain formulas.

use burn::tensor::{Device, Gradients, Tensor, TensorData};
use margin_losses_burn::margin_losses::init;
use margin_losses_burn::margin_losses::ndarray::Array2;

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

    /// As leaves of a graph.
    pub(crate) fn leaves(&self) -> [Tensor<2>; 2] {
        [leaf(&self.features), leaf(&self.weights)]
    }
}

pub(crate) fn device() -> Device {
    Device::flex().autodiff()
}

pub(crate) fn constant(array: &Array2<f32>) -> Tensor<2> {
    let entries: Vec<f32> = array.iter().copied().collect();
    Tensor::from_data(
        TensorData::new(entries, [array.nrows(), array.ncols()]),
        &device(),
    )
}

pub(crate) fn leaf(array: &Array2<f32>) -> Tensor<2> {
    constant(array).require_grad()
}

pub(crate) fn flat<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.inner().try_into_vec_as::<f64>().unwrap()
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

pub(crate) fn scalar(tensor: &Tensor<1>) -> f64 {
    flat(tensor.clone())[0]
}

/// The plain formula, s (cos(θ + m₂) − m₃), in tensor operations with burn's autograd.
pub(crate) fn plain(
    [features, weights]: [&Tensor<2>; 2],
    labels: &[usize],
    [s, m2, m3]: [f64; 3],
) -> Tensor<1> {
    let unit = |rows: &Tensor<2>| rows.clone() / rows.clone().square().sum_dim(1).sqrt();
    let cos = unit(features).matmul(unit(weights).transpose());
    let sin = (-cos.clone().square() + 1.0).sqrt();
    let turned = cos.clone() * m2.cos() - sin * m2.sin() - m3;
    let classes = weights.dims()[0];
    let mut own = vec![0.0_f32; labels.len() * classes];
    for (row, &label) in labels.iter().enumerate() {
        own[row * classes + label] = 1.0;
    }
    let own = TensorData::new(own, [labels.len(), classes]);
    let own = Tensor::<2>::from_data(own, &features.device());
    let logits = (cos.clone() + (turned - cos) * own.clone()) * s;
    let target = (logits.clone() * own).sum_dim(1);
    let largest = Tensor::from_inner(logits.clone().inner().max_dim(1));
    let others = (logits - largest.clone()).exp().sum_dim(1).log() + largest;
    (others - target).mean()
}

/// ∂X and ∂W.
pub(crate) fn gradients(grads: &Gradients, leaves: &[Tensor<2>; 2]) -> [Vec<f64>; 2] {
    [&leaves[0], &leaves[1]].map(|leaf| flat(leaf.grad(grads).unwrap()))
}
