//! The losses as they are usually computed in `f32`: rows divided by their norms, cosines from a product, the angle by acos,
//! softmax with the largest logit subtracted, and the formulas of the gradients as they stand.
//!
//! Nothing here is careful, and at the poles it gives NaN. It is what the crate has to be no worse than.

use ndarray::{Array1, Array2, ArrayView1};

use super::{Batch, Formula, Layer, Link};

/// The mean loss and its gradients by the features and the class weights.
#[derive(Clone, Debug)]
pub(crate) struct Plain {
    pub(crate) loss: f32,
    pub(crate) grad_features: Array2<f32>,
    pub(crate) grad_weights: Array2<f32>,
}

fn norm(row: ArrayView1<'_, f32>) -> f32 {
    row.dot(&row).sqrt()
}

/// A row's loss, and its derivatives by the logits.
fn linked(link: Link, z: &Array1<f32>, label: usize) -> (f32, Array1<f32>) {
    let softplus = |z: f32| (1.0 + z.exp()).ln();
    let sigmoid = |z: f32| 1.0 / (1.0 + (-z).exp());
    let others = (0..z.len()).filter(|&class| class != label);
    match link {
        Link::Softmax => {
            let top = z.fold(f32::NEG_INFINITY, |m, &z| m.max(z));
            let exponentials = z.mapv(|z| (z - top).exp());
            let sum = exponentials.sum();
            let mut gradient = exponentials / sum;
            gradient[label] -= 1.0;
            (top + sum.ln() - z[label], gradient)
        }
        Link::Logistic { positive, negative } => {
            let (positive, negative) = (positive as f32, negative as f32);
            let mut gradient = z.mapv(|z| negative * sigmoid(z));
            gradient[label] = -positive * sigmoid(-z[label]);
            let terms: f32 = others.map(|class| softplus(z[class])).sum();
            (positive * softplus(-z[label]) + negative * terms, gradient)
        }
        Link::Hinge { own, shared } => {
            let mut gradient = z.mapv(|z| f32::from(u8::from(z > 0.0)));
            let active: f32 = others.clone().map(|class| gradient[class]).sum();
            gradient[label] = -(own as f32) - shared as f32 * active;
            let terms: f32 = others.map(|class| z[class].max(0.0)).sum();
            (terms - own as f32 * z[label], gradient)
        }
    }
}

fn mean_target_cosine(batch: &Batch<f32>, w_norms: &[f32]) -> f32 {
    let rows = batch.features.outer_iter().zip(&batch.labels);
    let cosine = |(x, &label): (ArrayView1<'_, f32>, &usize)| {
        x.dot(&batch.weights.row(label)) / (norm(x) * w_norms[label])
    };
    rows.map(cosine).sum::<f32>() / batch.labels.len() as f32
}

/// For the losses that classify, without a center loss beside them.
pub(crate) fn plain(formula: &Formula, batch: &Batch<f32>) -> Plain {
    let (n, c) = (batch.features.nrows(), batch.weights.nrows());
    let mut found = Plain {
        loss: 0.0,
        grad_features: Array2::zeros(batch.features.dim()),
        grad_weights: Array2::zeros(batch.weights.dim()),
    };
    let w_norms: Vec<f32> = batch.weights.outer_iter().map(norm).collect();
    let x_norms: Vec<f64> = (batch.features.outer_iter())
        .map(|x| f64::from(norm(x)))
        .collect();
    let mean = mean_target_cosine(batch, &w_norms);
    for (row, x) in batch.features.outer_iter().enumerate() {
        let label = batch.labels[row];
        let linear = matches!(formula.layer, Layer::Linear { .. });
        let x_norm = norm(x);
        let x_hat = &x / x_norm;
        let length = match formula.layer {
            Layer::UnitNorm { scale, .. } => scale as f32,
            _ => x_norm,
        };
        let unit = |class: usize| &batch.weights.row(class) / w_norms[class];
        let cosine: Vec<f32> = (0..c)
            .map(|class| {
                if linear {
                    0.0
                } else {
                    x_hat.dot(&unit(class)).clamp(-1.0, 1.0)
                }
            })
            .collect();
        // z, and of the target ψ and dψ/dcosθ.
        let (mut psi, mut slope) = (cosine[label], 1.0);
        let (mut outwards, mut by_norm) = (0.0, 0.0);
        let shifted = formula.shifted(&x_norms, (row, label), f64::from(cosine[label].acos()));
        if let Some(shifted) = shifted {
            psi = shifted.psi as f32;
            slope = -(shifted.angle_slope as f32) / (1.0 - cosine[label] * cosine[label]).sqrt();
            let along = (shifted.term[1] / n as f64) as f32;
            found.loss += (shifted.term[0] / n as f64) as f32;
            outwards = along;
            by_norm = shifted.norm_slope as f32;
        }
        let bend = formula.bend(f64::from(cosine[label].acos()), f64::from(mean));
        let bent = |class: usize| {
            let (value, slope) = bend.of(f64::from(cosine[class]));
            (value as f32, slope as f32)
        };
        let z: Array1<f32> = (0..c)
            .map(|class| match &formula.layer {
                Layer::Linear { bias } => {
                    let bias = bias.get(class).copied().unwrap_or(0.0);
                    x.dot(&batch.weights.row(class)) + bias as f32
                }
                _ if class == label => length * psi + formula.constants.of(class) as f32,
                _ => length * bent(class).0 + formula.constants.of(class) as f32,
            })
            .collect();
        let (loss, gradient) = linked(formula.link, &z, label);
        found.loss += loss / n as f32;
        for class in 0..c {
            let target = class == label;
            let g = gradient[class] / n as f32;
            let mut to_x = found.grad_features.row_mut(row);
            let mut to_w = found.grad_weights.row_mut(class);
            if linear {
                to_x.scaled_add(g, &batch.weights.row(class));
                to_w.scaled_add(g, &x);
                continue;
            }
            let (slope, value) = if target {
                (slope, psi)
            } else {
                let (value, slope) = bent(class);
                (slope, value)
            };
            let w_hat = unit(class);
            let a = g * length * slope;
            to_x.scaled_add(a / x_norm, &(&w_hat - &(&x_hat * cosine[class])));
            if target {
                to_x.scaled_add(g * length * by_norm + outwards, &x_hat);
            }
            if matches!(formula.layer, Layer::FreeNorm) {
                to_x.scaled_add(g * value, &x_hat);
            }
            to_w.scaled_add(a / w_norms[class], &(&x_hat - &(&w_hat * cosine[class])));
        }
    }
    found
}
