//! A dense `f64` evaluation of every loss: one pair of row and class after the other, compensated sums, no blocks.
//!
//! It is written from the formulas, with the derivative of every logit spelled out, and knows nothing of how the crate
//! computes. `tests/controls.rs` checks it against central differences of itself.

use core::fmt;

use margin_losses::Reduction;
use ndarray::{Array1, Array2, ArrayView1};

use super::Batch;

/// θ ↦ (ψ, dψ/dθ).
type Psi = Box<dyn Fn(f64) -> (f64, f64)>;

/// What becomes of the features and the class weights before they are multiplied.
#[derive(Clone, Debug)]
pub(crate) enum Layer {
    /// z = w·x + b; an empty bias is none.
    Linear { bias: Vec<f64> },
    /// z = ‖x‖ cosθ.
    FreeNorm,
    /// z = s cosθ.
    UnitNorm { scale: f64, learned: bool },
    /// No softmax at all.
    Nothing,
}

/// A loss, as its paper writes it.
pub(crate) struct Formula {
    pub(crate) layer: Layer,
    /// What stands in the place of cosθ for the target.
    pub(crate) target: Option<Psi>,
    /// The factor of the center loss, and the centers; `None` there means that the class weights are the centers.
    pub(crate) centers: Option<(f64, Option<Array2<f64>>)>,
    /// The angles in (0, π) at which ψ is not smooth.
    pub(crate) breakpoints: Vec<f64>,
}

impl fmt::Debug for Formula {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Formula")
            .field("layer", &self.layer)
            .finish_non_exhaustive()
    }
}

/// What a loss and its gradients should be.
#[derive(Clone, Debug)]
pub(crate) struct Truth {
    pub(crate) loss: f64,
    pub(crate) row_losses: Vec<f64>,
    pub(crate) target_logits: Vec<f64>,
    pub(crate) target_cosines: Vec<f64>,
    pub(crate) correct: Vec<bool>,
    pub(crate) grad_features: Array2<f64>,
    pub(crate) grad_weights: Array2<f64>,
    pub(crate) grad_learnables: Vec<f64>,
    pub(crate) grad_centers: Array2<f64>,
    /// zᵢⱼ, and ∂L/∂zᵢⱼ.
    pub(crate) logits: Array2<f64>,
    pub(crate) coefficients: Array2<f64>,
}

/// A logit and its derivatives.
struct Logit {
    value: f64,
    plain: f64,
    by_feature: Array1<f64>,
    by_weight: Array1<f64>,
}

/// A sum that carries the rounding error of its terms along (Neumaier).
#[derive(Clone, Copy, Default)]
struct Sum {
    total: f64,
    lost: f64,
}

impl Sum {
    fn add(&mut self, term: f64) {
        let total = self.total + term;
        self.lost += if self.total.abs() >= term.abs() {
            (self.total - total) + term
        } else {
            (term - total) + self.total
        };
        self.total = total;
    }

    fn value(self) -> f64 {
        self.total + self.lost
    }
}

fn dot(a: ArrayView1<'_, f64>, b: ArrayView1<'_, f64>) -> f64 {
    let mut sum = Sum::default();
    for (&p, &q) in a.iter().zip(b) {
        let product = p * q;
        sum.add(product);
        sum.add(p.mul_add(q, -product));
    }
    sum.value()
}

fn norm(a: ArrayView1<'_, f64>) -> f64 {
    dot(a, a).sqrt()
}

fn cosine(x: ArrayView1<'_, f64>, w: ArrayView1<'_, f64>) -> f64 {
    let lengths = norm(x) * norm(w);
    if lengths == 0.0 {
        0.0
    } else {
        dot(x, w) / lengths
    }
}

fn logit(
    formula: &Formula,
    x: ArrayView1<'_, f64>,
    w: ArrayView1<'_, f64>,
    class: usize,
    is_target: bool,
) -> Logit {
    let (scale, free) = match &formula.layer {
        Layer::Linear { bias } => {
            let value = dot(x, w) + bias.get(class).copied().unwrap_or(0.0);
            return Logit {
                value,
                plain: value,
                by_feature: w.to_owned(),
                by_weight: x.to_owned(),
            };
        }
        Layer::FreeNorm => (1.0, true),
        Layer::UnitNorm { scale, .. } => (*scale, false),
        Layer::Nothing => (0.0, true),
    };
    let (x_length, w_length) = (norm(x), norm(w));
    let w_hat = w.to_owned() / w_length;
    if x_length == 0.0 {
        // Only z = ŵ·x is defined here, and it is linear.
        assert!(
            free && formula.target.is_none(),
            "a zero feature has no angle"
        );
        return Logit {
            value: 0.0,
            plain: 0.0,
            by_feature: w_hat * scale,
            by_weight: Array1::zeros(w.len()),
        };
    }
    let x_hat = x.to_owned() / x_length;
    let c = cosine(x, w);
    let chord = norm((&x_hat - &w_hat).view());
    let opposite = norm((&x_hat + &w_hat).view());
    let angle = 2.0 * chord.atan2(opposite);
    let sine = chord * opposite / 2.0;
    // ψ, and the vectors −dψ/dθ · u with u = ∂θ-wards unit tangents: for ψ = cosθ, sinθ·u = ŵ − cosθ x̂.
    let (psi, turn) = match &formula.target {
        Some(psi) if is_target => {
            let (value, slope) = psi(angle);
            (value, if sine == 0.0 { 0.0 } else { -slope / sine })
        }
        _ => (c, 1.0),
    };
    let length = if free { x_length } else { 1.0 };
    let radial = if free { psi } else { 0.0 };
    let across_x = &w_hat - &(&x_hat * c);
    let across_w = &x_hat - &(&w_hat * c);
    Logit {
        value: scale * length * psi,
        plain: scale * length * c,
        by_feature: (across_x * (turn * length / x_length) + x_hat * radial) * scale,
        by_weight: across_w * (scale * length * turn / w_length),
    }
}

/// The loss of one row, and softmax minus one-hot, without cancellation where the target leads.
fn cross_entropy(logits: ArrayView1<'_, f64>, label: usize) -> (f64, Array1<f64>) {
    let top = logits.fold(f64::NEG_INFINITY, |m, &z| m.max(z));
    let mut others = Sum::default();
    for (class, z) in logits.indexed_iter() {
        if class != label {
            others.add((z - top).exp());
        }
    }
    let (others, own) = (others.value(), (logits[label] - top).exp());
    let loss = if logits[label] == top {
        others.ln_1p()
    } else {
        (top - logits[label]) + (others + own).ln()
    };
    let mut gradient = logits.mapv(|z| (z - top).exp() / (others + own));
    gradient[label] = -others / (others + own);
    (loss, gradient)
}

/// Loss and gradients of `Σ upstreamᵢ ℓᵢ`, where upstream is the row weight, over N for the mean.
pub(crate) fn truth(
    formula: &Formula,
    batch: &Batch<f64>,
    reduction: Reduction,
    weighted: bool,
) -> Truth {
    let (rows, dimension) = batch.features.dim();
    let classes = batch.weights.nrows();
    let mut result = Truth {
        loss: 0.0,
        row_losses: vec![0.0; rows],
        target_logits: Vec::new(),
        target_cosines: Vec::new(),
        correct: Vec::new(),
        grad_features: Array2::zeros((rows, dimension)),
        grad_weights: Array2::zeros((classes, dimension)),
        grad_learnables: match &formula.layer {
            Layer::Linear { bias } => vec![0.0; bias.len()],
            Layer::UnitNorm { learned: true, .. } => vec![0.0],
            _ => Vec::new(),
        },
        grad_centers: Array2::zeros(match &formula.centers {
            Some((_, Some(centers))) => centers.dim(),
            _ => (0, 0),
        }),
        logits: Array2::zeros((rows, classes)),
        coefficients: Array2::zeros((rows, classes)),
    };
    let mut loss = Sum::default();
    for (row, x) in batch.features.outer_iter().enumerate() {
        let label = batch.labels[row];
        let weight = if weighted {
            batch.row_weights[row]
        } else {
            1.0
        };
        let upstream = match reduction {
            Reduction::Mean => weight / rows as f64,
            Reduction::Sum | Reduction::None => weight,
        };
        result
            .target_cosines
            .push(cosine(x, batch.weights.row(label)));
        if !matches!(formula.layer, Layer::Nothing) {
            classify(formula, batch, row, upstream, &mut result);
        }
        if let Some((lambda, centers)) = &formula.centers {
            let center = centers.as_ref().unwrap_or(&batch.weights).row(label);
            let apart = &x - &center;
            result.row_losses[row] += lambda / 2.0 * dot(apart.view(), apart.view());
            let pull = apart * (lambda * upstream);
            let mut to_feature = result.grad_features.row_mut(row);
            to_feature += &pull;
            let to_centers = match centers {
                Some(_) => &mut result.grad_centers,
                None => &mut result.grad_weights,
            };
            let mut to_center = to_centers.row_mut(label);
            to_center -= &pull;
        }
        loss.add(upstream * result.row_losses[row]);
    }
    result.loss = loss.value();
    result
}

fn classify(formula: &Formula, batch: &Batch<f64>, row: usize, upstream: f64, result: &mut Truth) {
    let (x, label) = (batch.features.row(row), batch.labels[row]);
    let logits: Vec<Logit> = (batch.weights.outer_iter().enumerate())
        .map(|(class, w)| logit(formula, x, w, class, class == label))
        .collect();
    result.target_logits.push(logits[label].value);
    let beats = |(class, z): (usize, &Logit)| class == label || logits[label].plain > z.plain;
    result.correct.push(logits.iter().enumerate().all(beats));
    for (class, z) in logits.iter().enumerate() {
        result.logits[[row, class]] = z.value;
    }
    let (loss, gradient) = cross_entropy(result.logits.row(row), label);
    result.row_losses[row] = loss;
    for (class, z) in logits.iter().enumerate() {
        let coefficient = upstream * gradient[class];
        result.coefficients[[row, class]] = coefficient;
        let mut to_feature = result.grad_features.row_mut(row);
        to_feature.scaled_add(coefficient, &z.by_feature);
        let mut to_weight = result.grad_weights.row_mut(class);
        to_weight.scaled_add(coefficient, &z.by_weight);
        match &formula.layer {
            Layer::Linear { bias } if !bias.is_empty() => {
                result.grad_learnables[class] += coefficient;
            }
            Layer::UnitNorm {
                scale,
                learned: true,
            } => {
                result.grad_learnables[0] += coefficient * z.value / scale;
            }
            _ => {}
        }
    }
}
