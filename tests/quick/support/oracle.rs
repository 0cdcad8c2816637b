//! A dense `f64` evaluation of every loss: one pair of row and class after the other, compensated sums, no blocks.
//!
//! It is written from the formulas, with the derivative of every logit spelled out, and knows nothing of how the crate
//! computes: the crate finds an angle from chords, this from the area of the parallelogram, Σ (xⱼwₖ − xₖwⱼ)², which takes
//! d² steps and has all its digits at any angle. `controls.rs` checks it against central differences of itself,
//! `oracle_table.rs` against a table of 50 digits.

use core::fmt;

use margin_losses::Reduction;
use ndarray::{Array2, ArrayView1};

use super::Batch;
use super::exact::{Power, Scaled, Sum, dot, times_two_to};

/// θ ↦ (ψ, dψ/dθ).
type Psi = Box<dyn Fn(f64) -> (f64, f64)>;

/// The same for a row of a batch, which may depend on the norms of all rows: norms, row, θ.
type ByNorm = Box<dyn Fn(&[f64], usize, f64) -> Shifted>;

/// A target's logit ψ and its slopes, and the row's term with its slope in ‖x‖.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Shifted {
    pub(crate) psi: f64,
    pub(crate) angle_slope: f64,
    pub(crate) norm_slope: f64,
    pub(crate) term: [f64; 2],
}

/// The angle of the target, and the mean target cosine of the batch ↦ τ, and the coefficients [a, b, d, e] of
/// `a + b c + d c² + e c³`, which is what a cosine c above τ becomes.
type Negatives = Box<dyn Fn(f64, f64) -> (f64, [f64; 4])>;

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

/// How a row's logits become its loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Link {
    /// ln Σ exp z − z_y.
    Softmax,
    /// positive · softplus(−z_y) + negative · Σ_{j≠y} softplus(z_j).
    Logistic { positive: f64, negative: f64 },
    /// −own · z_y + Σ_{j≠y} max(z_j, 0), where −shared · z_y is part of each z_j.
    Hinge { own: f64, shared: f64 },
}

/// What is added to the logits, and learned: sign · b, with one b for all classes or one for each.
#[derive(Clone, Debug, Default)]
pub(crate) struct Constants {
    pub(crate) values: Vec<f64>,
    pub(crate) sign: f64,
}

impl Constants {
    /// Which of them a class has; none if there is none.
    pub(crate) fn index(&self, class: usize) -> Option<usize> {
        match self.values.len() {
            0 => None,
            1 => Some(0),
            _ => Some(class),
        }
    }

    pub(crate) fn of(&self, class: usize) -> f64 {
        let index = self.index(class);
        index.map_or(0.0, |index| self.sign * self.values[index])
    }

    pub(crate) fn largest(&self) -> f64 {
        self.values.iter().fold(0.0, |m, b| m.max(b.abs()))
    }
}

/// A loss, as its paper writes it.
pub(crate) struct Formula {
    pub(crate) layer: Layer,
    pub(crate) link: Link,
    /// In a layer of cosines.
    pub(crate) constants: Constants,
    /// What stands in the place of cosθ for the target.
    pub(crate) target: Option<Psi>,
    /// In its place, for a margin that depends on the norms; `target` is then any.
    pub(crate) by_norm: Option<ByNorm>,
    /// Whether the gradient takes the norms for constants.
    pub(crate) norms_are_constants: bool,
    /// Whether a row's loss depends on the other rows.
    pub(crate) couples_rows: bool,
    /// The same for each class, if they differ.
    pub(crate) by_class: Vec<Psi>,
    /// What becomes of the cosines of the other classes.
    pub(crate) negatives: Option<Negatives>,
    /// The most that its slope can be.
    pub(crate) negative_slope: f64,
    /// The factor of the center loss, and the centers; `None` there means that the class weights are the centers.
    pub(crate) centers: Option<(f64, Option<Array2<f64>>)>,
    /// The angles in (0, π) at which ψ is not smooth.
    pub(crate) breakpoints: Vec<f64>,
    /// Whether ψ jumps at them.
    pub(crate) jumps: bool,
    /// The most that |dψ/dθ| can be; its square bounds |d²ψ/dθ²|.
    pub(crate) steepest: f64,
}

impl Formula {
    /// ψ of a class.
    pub(crate) fn psi(&self, class: usize) -> Option<&Psi> {
        self.by_class.get(class).or(self.target.as_ref())
    }

    /// The threshold and the map of the negatives of a row.
    pub(crate) fn bend(&self, radians: f64, mean_cosine: f64) -> Bend {
        match &self.negatives {
            None => Bend {
                threshold: f64::INFINITY,
                polynomial: [0.0, 1.0, 0.0, 0.0],
            },
            Some(negatives) => {
                let (threshold, polynomial) = negatives(radians, mean_cosine);
                Bend {
                    threshold,
                    polynomial,
                }
            }
        }
    }
}

/// What a row's negatives become.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bend {
    pub(crate) threshold: f64,
    polynomial: [f64; 4],
}

impl Bend {
    /// The most that a changed cosine can be, its terms without their signs.
    pub(crate) fn largest(self) -> f64 {
        self.polynomial
            .iter()
            .map(|c| c.abs())
            .sum::<f64>()
            .max(1.0)
    }

    /// T(c) and dT/dc.
    pub(crate) fn of(self, c: f64) -> (f64, f64) {
        if c > self.threshold {
            let [a, b, d, e] = self.polynomial;
            (
                a + b * c + d * c * c + e * c * c * c,
                b + 2.0 * d * c + 3.0 * e * c * c,
            )
        } else {
            (c, 1.0)
        }
    }
}

impl fmt::Debug for Formula {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Formula")
            .field("layer", &self.layer)
            .finish_non_exhaustive()
    }
}

impl Formula {
    /// What the target's logit of a row and its label is, at the angle θ.
    pub(crate) fn shifted(
        &self,
        norms: &[f64],
        (row, label): (usize, usize),
        radians: f64,
    ) -> Option<Shifted> {
        if let Some(by_norm) = &self.by_norm {
            return Some(by_norm(norms, row, radians));
        }
        let (psi, angle_slope) = self.psi(label)?(radians);
        Some(Shifted {
            psi,
            angle_slope,
            ..Shifted::default()
        })
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
    /// The logits without margin.
    pub(crate) plain: Array2<f64>,
    /// The least distance of a negative's cosine from its threshold.
    pub(crate) from_threshold: f64,
    /// The mean target cosine of the batch; 0 without rows.
    pub(crate) mean_cosine: f64,
    /// Each row's angle to its target, of zero length if a vector is zero.
    pub(crate) angles: Vec<TargetAngle>,
}

/// What is known of the angle between a feature and the weight of its class.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TargetAngle {
    pub(crate) radians: f64,
    pub(crate) sine: f64,
    /// ψ and dψ/dθ there; those of cosθ if the loss has no margin.
    pub(crate) psi: f64,
    pub(crate) slope: f64,
    /// ∂ψ/∂‖x‖, and the row's term with its slope.
    pub(crate) norm_slope: f64,
    pub(crate) term: [f64; 2],
}

/// The loss of one row, and softmax minus one-hot, without cancellation where the target leads.
fn cross_entropy(logits: ArrayView1<'_, f64>, label: usize) -> (f64, Vec<f64>) {
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
    let mut gradient: Vec<f64> = (logits.iter())
        .map(|z| (z - top).exp() / (others + own))
        .collect();
    gradient[label] = -others / (others + own);
    (loss, gradient)
}

fn softplus(z: f64) -> f64 {
    z.max(0.0) + (-z.abs()).exp().ln_1p()
}

fn sigmoid(z: f64) -> f64 {
    let q = (-z.abs()).exp();
    if z > 0.0 {
        1.0 / (1.0 + q)
    } else {
        q / (1.0 + q)
    }
}

/// The loss of one row, and its derivatives by the logits.
fn linked(link: Link, logits: ArrayView1<'_, f64>, label: usize) -> (f64, Vec<f64>) {
    let mut loss = Sum::default();
    let mut gradient = vec![0.0; logits.len()];
    match link {
        Link::Softmax => return cross_entropy(logits, label),
        Link::Logistic { positive, negative } => {
            for (class, &z) in logits.indexed_iter() {
                let (weight, sign) = if class == label {
                    (positive, -1.0)
                } else {
                    (negative, 1.0)
                };
                loss.add_product(weight, softplus(sign * z));
                gradient[class] = sign * weight * sigmoid(sign * z);
            }
        }
        Link::Hinge { own, shared } => {
            loss.add_product(-own, logits[label]);
            gradient[label] = -own;
            for (class, &z) in logits.indexed_iter() {
                if class != label && z > 0.0 {
                    loss.add(z);
                    gradient[class] = 1.0;
                    gradient[label] -= shared;
                }
            }
        }
    }
    (loss.value(), gradient)
}

/// Gradients, as the sums that they are.
struct Gradients {
    features: Array2<Sum>,
    weights: Array2<Sum>,
    centers: Array2<Sum>,
    learnables: Vec<Sum>,
}

/// The rows of the batch, scaled.
struct Rows<'a> {
    batch: &'a Batch<f64>,
    features: Vec<Scaled>,
    weights: Vec<Scaled>,
    norms: Vec<f64>,
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
    let learnables = match &formula.layer {
        Layer::Linear { bias } => bias.len(),
        Layer::UnitNorm { learned: true, .. } => 1,
        _ => formula.constants.values.len(),
    };
    let centers = match &formula.centers {
        Some((_, Some(centers))) => centers.dim(),
        _ => (0, 0),
    };
    let mut gradients = Gradients {
        features: Array2::default((rows, dimension)),
        weights: Array2::default((classes, dimension)),
        centers: Array2::default(centers),
        learnables: vec![Sum::default(); learnables],
    };
    let mut result = Truth {
        loss: 0.0,
        row_losses: vec![0.0; rows],
        target_logits: Vec::new(),
        target_cosines: Vec::new(),
        correct: Vec::new(),
        grad_features: Array2::zeros((0, 0)),
        grad_weights: Array2::zeros((0, 0)),
        grad_learnables: Vec::new(),
        grad_centers: Array2::zeros((0, 0)),
        logits: Array2::zeros((rows, classes)),
        coefficients: Array2::zeros((rows, classes)),
        plain: Array2::zeros((rows, classes)),
        from_threshold: f64::INFINITY,
        mean_cosine: 0.0,
        angles: Vec::new(),
    };
    let features: Vec<Scaled> = batch.features.outer_iter().map(Scaled::of).collect();
    let scaled = Rows {
        batch,
        norms: features.iter().map(Scaled::length).collect(),
        features,
        weights: batch.weights.outer_iter().map(Scaled::of).collect(),
    };
    let mut cosines = Sum::default();
    for (x, &label) in scaled.features.iter().zip(&batch.labels) {
        cosines.add(x.cosine(&scaled.weights[label]));
    }
    if rows > 0 {
        result.mean_cosine = cosines.value() / rows as f64;
    }
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
            _ => weight,
        };
        if matches!(formula.layer, Layer::Nothing) {
            let cosine = scaled.features[row].cosine(&scaled.weights[label]);
            result.target_cosines.push(cosine);
        } else {
            classify(formula, &scaled, row, upstream, &mut result, &mut gradients);
        }
        if let Some((lambda, centers)) = &formula.centers {
            let center = centers.as_ref().unwrap_or(&batch.weights).row(label);
            let apart = &x - &center;
            // Scaled, for the square may be no number though λ times it is one.
            let Scaled { entries, power, .. } = Scaled::of(apart.view());
            let square = dot(&entries, &entries);
            result.row_losses[row] += times_two_to(lambda / 2.0 * square, 2 * power);
            let to_centers = match centers {
                Some(_) => &mut gradients.centers,
                None => &mut gradients.weights,
            };
            for (k, &apart) in apart.iter().enumerate() {
                let pull = lambda * upstream * apart;
                gradients.features[[row, k]].add(pull);
                to_centers[[label, k]].add(-pull);
            }
        }
        loss.add_product(upstream, result.row_losses[row]);
    }
    result.loss = loss.value();
    result.grad_features = gradients.features.mapv(Sum::value);
    result.grad_weights = gradients.weights.mapv(Sum::value);
    result.grad_centers = gradients.centers.mapv(Sum::value);
    result.grad_learnables = gradients.learnables.into_iter().map(Sum::value).collect();
    result
}

/// One row's softmax: its logits, its loss, and what it adds to the gradients.
fn classify(
    formula: &Formula,
    rows: &Rows<'_>,
    row: usize,
    upstream: f64,
    result: &mut Truth,
    gradients: &mut Gradients,
) {
    let label = rows.batch.labels[row];
    let (x, dimension) = (&rows.features[row], rows.batch.features.ncols());
    let (scale, free) = match &formula.layer {
        Layer::UnitNorm { scale, .. } => (*scale, false),
        _ => (1.0, true),
    };
    let length = if free { x.length() } else { 1.0 };
    let linear = |class: usize, w: &Scaled| match &formula.layer {
        Layer::Linear { bias } => Some(
            times_two_to(dot(&x.entries, &w.entries), x.power + w.power)
                + bias.get(class).copied().unwrap_or(0.0),
        ),
        _ => None,
    };

    let cosines: Vec<f64> = rows.weights.iter().map(|w| x.cosine(w)).collect();
    let plain: Vec<f64> = (rows.weights.iter().enumerate())
        .map(|(class, w)| {
            let constant = formula.constants.of(class);
            linear(class, w).unwrap_or(scale * length * cosines[class] + constant)
        })
        .collect();
    let (radians, sine, [at_x, at_w]) = x.angle_to(&rows.weights[label]);
    let no_angle = x.is_zero() || rows.weights[label].is_zero();
    let bend = formula.bend(radians, result.mean_cosine);
    let shifted = match &formula.target {
        Some(_) if no_angle => panic!("a zero vector has no angle"),
        _ => formula.shifted(&rows.norms, (row, label), radians),
    };
    let shifted = shifted.unwrap_or(Shifted {
        psi: cosines[label],
        angle_slope: -sine,
        ..Shifted::default()
    });
    let (psi, slope) = (shifted.psi, shifted.angle_slope);
    let target = if formula.target.is_some() {
        scale * length * psi + formula.constants.of(label)
    } else {
        plain[label]
    };
    result.target_cosines.push(cosines[label]);
    result.angles.push(TargetAngle {
        radians,
        sine,
        psi,
        slope,
        norm_slope: shifted.norm_slope,
        term: shifted.term,
    });
    result.target_logits.push(target);
    let beats = |class: usize| class == label || plain[label] > plain[class];
    result.correct.push((0..plain.len()).all(beats));
    for (class, &z) in plain.iter().enumerate() {
        result.plain[[row, class]] = z;
        result.logits[[row, class]] = if class == label {
            target
        } else if formula.negatives.is_some() {
            let away = (cosines[class] - bend.threshold).abs();
            result.from_threshold = result.from_threshold.min(away);
            scale * length * bend.of(cosines[class]).0 + formula.constants.of(class)
        } else {
            z
        };
    }

    let (loss, gradient) = linked(formula.link, result.logits.row(row), label);
    result.row_losses[row] = loss + shifted.term[0];
    // The upstream factor comes last: of what cancels, no part may overflow before it does. And powers of two are added
    // up before they are applied, so that nothing underflows on the way.
    let plain_upstream = upstream;
    let upstream = Power::of(upstream);
    let mut by_feature = vec![Sum::default(); dimension];
    for (class, w) in rows.weights.iter().enumerate() {
        let share = gradient[class];
        result.coefficients[[row, class]] = plain_upstream * share;
        for (k, by_feature) in by_feature.iter_mut().enumerate() {
            let to_weight = &mut gradients.weights[[class, k]];
            if let Layer::Linear { .. } = &formula.layer {
                by_feature.add_product(share, rows.batch.weights[[class, k]]);
                to_weight.add(upstream.times(share * x.entries[k], x.power));
                continue;
            }
            if x.is_zero() {
                // z = ŵ·x, and ∂z/∂w is proportional to x.
                by_feature.add_product(share, w.unit(k));
                continue;
            }
            // Across the feature and across the weight: the derivatives of cosθ, times the lengths of x and w. For a
            // margin, dψ/dθ along the tangents; cosθ itself grows along them by sinθ.
            let margin = class == label && formula.target.is_some();
            let (across_x, across_w, radial) = if margin {
                (-slope * at_x[k], -slope * at_w[k], psi)
            } else {
                let cosine = cosines[class];
                let (bent, slope) = if class == label {
                    (cosine, 1.0)
                } else {
                    bend.of(cosine)
                };
                (
                    slope * (-cosine).mul_add(x.unit(k), w.unit(k)),
                    slope * (-cosine).mul_add(w.unit(k), x.unit(k)),
                    bent,
                )
            };
            if margin {
                let outwards = share * scale * shifted.norm_slope + shifted.term[1];
                by_feature.add_product(outwards, x.unit(k));
            }
            if free {
                by_feature.add_product(share, radial.mul_add(x.unit(k), across_x));
            } else {
                by_feature.add(x.over_length(share * scale * across_x));
            }
            let (x_norm, x_power) = if free { (x.norm, x.power) } else { (1.0, 0) };
            let value = share * scale * across_w * (x_norm / w.norm);
            to_weight.add(upstream.times(value, x_power - w.power));
        }
        if let Some(index) = formula.constants.index(class) {
            gradients.learnables[index].add_product(plain_upstream, formula.constants.sign * share);
        }
        match &formula.layer {
            Layer::Linear { bias } if !bias.is_empty() => {
                gradients.learnables[class].add_product(plain_upstream, share);
            }
            Layer::UnitNorm { learned: true, .. } => {
                let z = if class == label {
                    psi
                } else {
                    bend.of(cosines[class]).0
                };
                gradients.learnables[0].add(upstream.times(share * z, 0));
            }
            _ => {}
        }
    }
    for (k, by_feature) in by_feature.into_iter().enumerate() {
        gradients.features[[row, k]].add(upstream.times(by_feature.value(), 0));
    }
}
