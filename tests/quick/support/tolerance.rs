//! How far a result may be from the truth: bounds from the conditioning of each quantity, entry by entry.
//!
//! Notation: u is half an ulp of 1 in the element type, e that of `f64`. A logit is a sum of d products in the element type,
//! so it is off by (d + 8)·u times its size S: s for cosines, ‖x‖ where the feature keeps its norm, ‖x‖‖w‖ + |b| where
//! nothing is normalised. The target's logit is found in `f64`: it is off by a few e times S and the slope of the margin.
//! Everything else follows from the derivatives: a probability e^(z − lse) is off by a factor of e^(2δ) if the logits are
//! off by δ, the loss by δ times 1 − p_y, and a gradient is a sum whose terms carry those errors and its own rounding.
//! Where δ exceeds 1, a loss is still within δ, and probabilities are only known to lie in [0, 1]. What is rounded is what was
//! found, not the truth: a rounding error is relative to the truth and to what else it is off by.
//!
//! A coefficient rᵢ/N that is subnormal in `f64`, or is so times a probability, is rounded to a multiple of 2^−1074, and so is
//! every term of the oracle's own sums over rows and classes.
//!
//! What underflows is off by less than a row's 1 − p_y times [`Tolerance::floor`], which is far below every ulp.

use margin_losses::{Float, Reduction};
use ndarray::{Array2, ArrayView1, ArrayView2};

use super::{Batch, Formula, Layer, Link, Scaled, Truth, widen};

/// The most by which each part of a result may differ from the truth.
#[derive(Clone, Debug)]
pub(crate) struct Allowed {
    pub(crate) loss: f64,
    pub(crate) row_losses: Vec<f64>,
    pub(crate) target_logits: Vec<f64>,
    pub(crate) target_cosines: Vec<f64>,
    /// Whether a row's class is decided by more than rounding.
    pub(crate) decided: Vec<bool>,
    /// The most that |∂L/∂z| of a row (down) and a class (across) may be; empty without a classifier.
    pub(crate) largest_coefficients: Array2<f64>,
    pub(crate) grad_features: Array2<f64>,
    pub(crate) grad_weights: Array2<f64>,
    pub(crate) grad_learnables: Vec<f64>,
    pub(crate) grad_centers: Array2<f64>,
}

/// Half an ulp of 1 in `f64`.
const E: f64 = f64::EPSILON / 2.0;

/// The least `f64` above 0: what a coefficient that is subnormal may be off by.
const LEAST: f64 = 4.941e-324;

struct Tolerance {
    /// Half an ulp of 1.
    u: f64,
    /// The least number above 0.
    tiny: f64,
    /// What an exponential that underflows is worth, relative to the sum of all: the least number, times what class weights
    /// and shifts may be away from 1 while it is formed.
    floor: f64,
}

impl Tolerance {
    fn of<A: Float>() -> Self {
        let (tiny, window) = if size_of::<A>() == 4 {
            (f64::from(f32::from_bits(1)), 20)
        } else {
            (f64::from_bits(1), 204)
        };
        Self {
            u: widen(A::epsilon()) / 2.0,
            tiny,
            floor: tiny * 2.0_f64.powi(window) * 22.0_f64.exp(),
        }
    }
}

/// What a row knows of its own errors.
struct Row {
    /// |rᵢ|/N or |rᵢ|.
    upstream: f64,
    /// −∂ℓ/∂z_y, which for the softmax is 1 − p_y, by how much it may be off, and the most that it can be.
    miss: f64,
    miss_off: f64,
    most: f64,
    /// The most that ∂ℓ/∂z of another class can be.
    most_of_others: f64,
    /// ∂ℓ/∂z of the other classes, which for the softmax are their probabilities, and by how much they may be off; 0 for the target.
    shares: Vec<f64>,
    shares_off: Vec<f64>,
    loss_off: f64,
    target_off: f64,
    logit_off: f64,
    /// Relative error of the unit tangents between feature and target.
    tangent_off: f64,
}

impl Row {
    const EMPTY: Self = Self {
        upstream: 0.0,
        miss: 0.0,
        miss_off: 0.0,
        most: 0.0,
        most_of_others: 1.0,
        shares: Vec::new(),
        shares_off: Vec::new(),
        loss_off: 0.0,
        target_off: 0.0,
        logit_off: 0.0,
        tangent_off: 0.0,
    };
}

/// exp(log) · (exp(δ) − 1), at most 1.
fn off_by_factor(log: f64, delta: f64) -> f64 {
    let off = if delta < 1.0 {
        log.exp() * delta.exp_m1()
    } else {
        (log + delta).exp()
    };
    off.min(1.0)
}

/// A bound times a size that may have overflowed: what is exactly 0 stays 0.
fn times(bound: f64, size: f64) -> f64 {
    if bound == 0.0 { 0.0 } else { bound * size }
}

/// ln(1 + e^x).
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn lengths(matrix: &Array2<f64>) -> Vec<f64> {
    matrix
        .outer_iter()
        .map(|row| Scaled::of(row).length())
        .collect()
}

/// The bounds for a batch of element type `A` whose exact numbers are `batch`.
pub(crate) fn allowed<A: Float>(
    formula: &Formula,
    batch: &Batch<f64>,
    reduction: Reduction,
    weighted: bool,
    truth: &Truth,
) -> Allowed {
    let t = Tolerance::of::<A>();
    let (n, d) = batch.features.dim();
    let c = batch.weights.nrows();
    let upstream = |row: usize| {
        let weight = if weighted {
            batch.row_weights[row]
        } else {
            1.0
        };
        match reduction {
            Reduction::Mean => weight.abs() / n as f64,
            _ => weight.abs(),
        }
    };
    let mut allowed = Allowed {
        loss: 0.0,
        row_losses: vec![0.0; n],
        target_logits: Vec::new(),
        target_cosines: (truth.target_cosines.iter())
            .map(|cosine| (d + 16) as f64 * E + t.u * cosine.abs() + t.tiny)
            .collect(),
        decided: Vec::new(),
        largest_coefficients: Array2::zeros((0, 0)),
        grad_features: Array2::zeros((n, d)),
        grad_weights: Array2::zeros((c, d)),
        grad_learnables: vec![0.0; truth.grad_learnables.len()],
        grad_centers: Array2::zeros(truth.grad_centers.dim()),
    };
    if !matches!(formula.layer, Layer::Nothing) {
        let rows: Vec<Row> = (0..n)
            .map(|row| row_of(&t, formula, batch, truth, row, upstream(row)))
            .collect();
        classifier(&t, formula, batch, truth, &rows, &mut allowed);
    }
    if let Some((lambda, centers)) = &formula.centers {
        let pull = (lambda, centers.as_ref().unwrap_or(&batch.weights).view());
        center(&t, batch, pull, centers.is_some(), &upstream, &mut allowed);
    }
    for row in 0..n {
        allowed.row_losses[row] += 4.0 * t.u * truth.row_losses[row].abs() + 16.0 * t.tiny;
        allowed.loss += upstream(row)
            * (allowed.row_losses[row] + (n + 8) as f64 * E * truth.row_losses[row].abs());
    }
    allowed.loss += 4.0 * t.u * truth.loss.abs() + 16.0 * t.tiny;
    let parts = [
        (&mut allowed.grad_features, &truth.grad_features),
        (&mut allowed.grad_weights, &truth.grad_weights),
        (&mut allowed.grad_centers, &truth.grad_centers),
    ];
    for (allowed, truth) in parts {
        for (allowed, truth) in allowed.iter_mut().zip(truth) {
            *allowed += 4.0 * t.u * (truth.abs() + *allowed) + 16.0 * t.tiny;
        }
    }
    for (allowed, truth) in allowed
        .grad_learnables
        .iter_mut()
        .zip(&truth.grad_learnables)
    {
        *allowed += 4.0 * t.u * (truth.abs() + *allowed) + 16.0 * t.tiny;
    }
    allowed
}

fn row_of(
    t: &Tolerance,
    formula: &Formula,
    batch: &Batch<f64>,
    truth: &Truth,
    row: usize,
    upstream: f64,
) -> Row {
    let (d, label) = (batch.features.ncols() as f64, batch.labels[row]);
    let logits = truth.logits.row(row);
    let x = Scaled::of(batch.features.row(row)).length();
    let (size, target_size) = match &formula.layer {
        Layer::Linear { bias } => {
            let longest = lengths(&batch.weights).into_iter().fold(0.0, f64::max);
            let bias = bias.iter().fold(0.0_f64, |m, b| m.max(b.abs()));
            let size = x * longest + bias;
            (size, size)
        }
        Layer::UnitNorm { scale, .. } => {
            let constant = formula.constants.largest();
            (scale + constant, scale * formula.steepest + constant)
        }
        _ => (x, x * formula.steepest),
    };
    // Where a size overflows, so do the bounds, and not to NaN.
    let (size, target_size) = (size.min(f64::MAX), target_size.min(f64::MAX));
    let logit_off = (d + 8.0) * t.u * size;
    // θ itself is off by a few e, and so is the argument of the cosine in ψ, which is up to steepest·π.
    // Beside cosines a constant is one of the element type.
    let target_off = (d + 32.0) * E * target_size + t.u * formula.constants.largest();
    let bend = formula.bend(truth.angles[row].radians, truth.mean_cosine);
    // The terms of a changed logit are rounded as they are added.
    let (size, bend_off) = match formula.negatives {
        None => (size, 0.0),
        Some(_) => (size * bend.largest(), 8.0 * t.u * size * bend.largest()),
    };
    let off = formula.negative_slope * logit_off + bend_off + target_off + 80.0 * t.u;

    let sine = truth.angles[row].sine;
    let shared = match formula.link {
        Link::Softmax => softmax(t, logits, label, [off, size]),
        Link::Logistic { positive, negative } => {
            logistic(t, logits, label, [positive, negative], off)
        }
        Link::Hinge { own, shared } => hinge(logits, label, [own, shared], off),
    };
    Row {
        upstream,
        target_off,
        logit_off,
        tangent_off: if sine == 0.0 {
            0.0
        } else {
            (64.0 * (E + E * E / sine)).min(2.0)
        },
        ..shared
    }
}

/// What the softmax makes of logits that are off by so much, and whose terms are of that size. The rest of the row is empty.
fn softmax(t: &Tolerance, logits: ArrayView1<'_, f64>, label: usize, [off, size]: [f64; 2]) -> Row {
    let others = (logits.indexed_iter())
        .filter(|&(class, _)| class != label)
        .map(|(_, &z)| z);
    let top = others.clone().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = others.map(|z| (z - top).exp()).sum();
    let gap = if sum > 0.0 {
        sum.ln() + (top - logits[label])
    } else {
        f64::NEG_INFINITY
    };
    let log_miss = -softplus(-gap);
    let miss = log_miss.exp();
    let log_sum = logits[label] + softplus(gap);
    // Above 0 only by the rounding of logits that are huge.
    let shares: Vec<f64> = (logits.indexed_iter())
        .map(|(class, z)| {
            if class == label {
                0.0
            } else {
                (z - log_sum).min(0.0).exp()
            }
        })
        .collect();
    let shares_off: Vec<f64> = (logits.indexed_iter())
        .map(|(class, z)| {
            if class == label {
                0.0
            } else {
                // The largest logits leave of their differences what an ulp of them is.
                off_by_factor((z - log_sum).min(0.0), 2.0 * off + 4.0 * E * size) + t.floor * miss
            }
        })
        .collect();
    Row {
        miss,
        miss_off: off_by_factor(log_miss, off) + t.floor * miss,
        most: 1.0,
        shares,
        shares_off,
        loss_off: off_by_factor(log_miss, off).max(if off < 1.0 { 0.0 } else { off }),
        ..Row::EMPTY
    }
}

/// Σ weight · softplus(±z), each term with the derivative weight · σ(±z), whose logarithm is no steeper than 1.
fn logistic(
    t: &Tolerance,
    logits: ArrayView1<'_, f64>,
    label: usize,
    [positive, negative]: [f64; 2],
    off: f64,
) -> Row {
    let mut row = Row::EMPTY;
    row.most = positive;
    row.most_of_others = negative;
    for (class, &z) in logits.indexed_iter() {
        let (weight, z) = if class == label {
            (positive, -z)
        } else {
            (negative, z)
        };
        let log = -softplus(-z);
        let share = weight * log.exp();
        let share_off = weight * off_by_factor(log, off);
        // The derivative of a term grows by e^off at most on the way, and is no more than 1.
        row.loss_off += weight * off * (log + off).min(0.0).exp();
        // Here an exponential is relative to 1.
        let share_off = share_off + weight * t.floor * (-22.0_f64).exp();
        let (share, share_off) = if class == label {
            (row.miss, row.miss_off) = (share, share_off);
            (0.0, 0.0)
        } else {
            (share, share_off)
        };
        row.shares.push(share);
        row.shares_off.push(share_off);
    }
    row
}

/// Σ max(z, 0): a hinge within rounding of 0 may be active or not.
fn hinge(logits: ArrayView1<'_, f64>, label: usize, [own, shared]: [f64; 2], off: f64) -> Row {
    let mut row = Row::EMPTY;
    (row.miss, row.loss_off) = (own, own * off);
    row.most = shared.mul_add(logits.len() as f64, own);
    for (class, &z) in logits.indexed_iter() {
        let other = class != label;
        let share = f64::from(u8::from(other && z > 0.0));
        let share_off = f64::from(u8::from(other && z.abs() <= off));
        row.miss += shared * share;
        row.miss_off += shared * share_off;
        row.loss_off += off * share.max(share_off);
        row.shares.push(share);
        row.shares_off.push(share_off);
    }
    row
}

fn classifier(
    t: &Tolerance,
    formula: &Formula,
    batch: &Batch<f64>,
    truth: &Truth,
    rows: &[Row],
    allowed: &mut Allowed,
) {
    let (n, d) = batch.features.dim();
    let c = batch.weights.nrows();
    let (x_lengths, w_lengths) = (lengths(&batch.features), lengths(&batch.weights));
    let linear = matches!(formula.layer, Layer::Linear { .. });
    // A logit is amplitude · cosθ, or amplitude · w.
    let amplitude = |row: usize| match formula.layer {
        Layer::UnitNorm { scale, .. } => scale,
        _ => x_lengths[row],
    };
    // Relative errors of a sum over the classes, and of one over the rows, of products of vectors in the element type.
    let over_classes = (c + d + 24) as f64 * t.u;
    let over_rows = (n + d + 24) as f64 * t.u;
    // ∂W is summed up in units of this, of which what underflows is a negligible part.
    let unit: f64 = (0..n).map(|row| rows[row].upstream * amplitude(row)).sum();
    let unit_floor = unit * if size_of_f32(t) { 1e-50 } else { 1e-300 };
    // The part of a coefficient that does not depend on the class, before it meets exponentials of up to e^20.
    let least_coefficient = LEAST * 22.0_f64.exp();
    let steepest = formula.steepest;
    let longest = if linear {
        w_lengths.iter().fold(0.0_f64, |m, &w| m.max(w))
    } else {
        1.0
    };

    allowed.largest_coefficients = Array2::zeros((n, c));
    for (i, row) in rows.iter().enumerate() {
        let label = batch.labels[i];
        let angle = truth.angles[i];
        allowed
            .target_logits
            .push(row.target_off + 2.0 * t.u * truth.target_logits[i].abs() + t.tiny);
        allowed.row_losses[i] += row.loss_off + 8.0 * E * truth.row_losses[i];
        // The term depends on the norm, which is off by (d + 8) e.
        allowed.row_losses[i] += (2 * d + 32) as f64 * E * angle.term[0];
        let plain = match formula.layer {
            Layer::Linear { .. } => truth.target_logits[i],
            _ => amplitude(i) * truth.target_cosines[i] + formula.constants.of(label),
        };
        let closest = (truth.plain.row(i).indexed_iter())
            .filter(|&(class, _)| class != label)
            .fold(f64::INFINITY, |m, (_, z)| m.min((plain - z).abs()));
        allowed
            .decided
            .push(closest > 2.0 * (row.logit_off + row.target_off) + t.tiny);

        // ∂z_y/∂x and ∂z_y/∂w_y: lengths, and by how much they are off.
        let (to_x, to_w) = match formula.layer {
            Layer::Linear { .. } => (w_lengths[label], x_lengths[i]),
            Layer::UnitNorm { scale, .. } => (
                (scale * angle.slope.abs() / x_lengths[i]).hypot(scale * angle.norm_slope),
                scale * angle.slope.abs() / w_lengths[label],
            ),
            _ => (
                angle.psi.hypot(angle.slope),
                times(angle.slope.abs(), x_lengths[i] / w_lengths[label]),
            ),
        };
        let slope_off = (d as f64 + 32.0) * E * steepest * steepest;
        let (x_off, w_off) = match formula.layer {
            Layer::Linear { .. } => (0.0, 0.0),
            // Slopes in the norm are below 1.
            Layer::UnitNorm { scale, .. } if formula.by_norm.is_some() => (
                scale * slope_off * (1.0 / x_lengths[i] + 1.0),
                scale * slope_off / w_lengths[label],
            ),
            Layer::UnitNorm { scale, .. } => (
                scale * slope_off / x_lengths[i],
                scale * slope_off / w_lengths[label],
            ),
            _ => (slope_off, x_lengths[i] / w_lengths[label] * slope_off),
        };
        let relative = 4.0 * t.u + row.tangent_off;
        let found_miss = (row.miss + row.miss_off).min(row.most);
        let target = |length: f64, off: f64| {
            // The derivative is rounded to the element type before it meets the upstream factor, and its terms, which may
            // be subnormal in `f64`, before they are added.
            let off = off + t.tiny + 4.0 * LEAST;
            let off = times(row.miss_off, length) + times(found_miss, relative * length + off);
            times(row.upstream, off)
        };

        let through = match formula.layer {
            Layer::UnitNorm { scale, .. } => scale / x_lengths[i],
            _ => 1.0,
        };
        let mut others = 0.0;
        let mut learned = row.miss_off * angle.psi.abs()
            + row.miss * (8.0 * t.u * angle.psi.abs() + row.target_off / amplitude(i));
        for (class, &w_length) in w_lengths.iter().enumerate() {
            let (share, off) = (row.shares[class], row.shares_off[class]);
            let length = if linear { w_length } else { 1.0 };
            // A changed negative has a slope, which is as far off as its cosine.
            let (share, off) = (formula.negative_slope * share, formula.negative_slope * off);
            let found = (share + off).min(formula.negative_slope * row.most_of_others);
            let most = if class == label { found_miss } else { found };
            let over_classes = formula.negative_slope * over_classes;
            let over_rows = formula.negative_slope * over_rows;
            allowed.largest_coefficients[[i, class]] = row.upstream * most;
            others += times(off + over_classes * found, length);
            learned += off + over_classes * found;
            let divisor = if linear { 1.0 } else { w_length };
            let coefficient = row.upstream * (off + over_rows * found) + least_coefficient;
            // In either order, for one of them may leave the range.
            let orders = [
                times(coefficient, amplitude(i) / divisor),
                times(coefficient, amplitude(i)) / divisor,
            ];
            // Beyond the range in both, anything that is a number is within the bound.
            let to_weight = if orders.iter().all(|bound| *bound == f64::INFINITY) {
                f64::MAX
            } else {
                let in_range = orders.into_iter().filter(|bound| bound.is_finite());
                in_range.fold(0.0, f64::max)
            };
            for entry in allowed.grad_weights.row_mut(class) {
                *entry += to_weight + LEAST;
            }
            let learnable = if linear {
                Some(class)
            } else {
                formula.constants.index(class)
            };
            if let Some(entry) = learnable.and_then(|index| allowed.grad_learnables.get_mut(index))
            {
                let target = if class == label {
                    row.miss_off + 4.0 * t.u * found_miss
                } else {
                    0.0
                };
                *entry += row.upstream * (off + over_rows * found + target);
            }
        }
        let outwards = angle.term[1].abs() * ((2 * d + 32) as f64 * E + 4.0 * t.u);
        let outwards = times(row.upstream, outwards) + LEAST;
        others += c as f64 * t.tiny * 22.0_f64.exp();
        let others = others.min(f64::MAX);
        for entry in allowed.grad_features.row_mut(i) {
            *entry += times(row.upstream, through * others) + target(to_x, x_off) + outwards;
            *entry += LEAST * (c as f64 + times(row.miss, through * longest + to_x));
        }
        for entry in allowed.grad_weights.row_mut(label) {
            *entry += target(to_w, w_off) + times(LEAST * row.miss, to_w);
        }
        if matches!(formula.layer, Layer::UnitNorm { learned: true, .. }) {
            allowed.grad_learnables[0] += row.upstream * learned;
        }
    }
    for (class, mut row) in allowed.grad_weights.outer_iter_mut().enumerate() {
        let divisor = if linear { 1.0 } else { w_lengths[class] };
        row.iter_mut()
            .for_each(|entry| *entry += unit_floor / divisor);
    }
}

fn size_of_f32(t: &Tolerance) -> bool {
    t.u > 1e-10
}

/// The center loss works in `f64` throughout; what it adds to the classifier's results is rounded once more.
fn center(
    t: &Tolerance,
    batch: &Batch<f64>,
    (lambda, centers): (&f64, ArrayView2<'_, f64>),
    joint: bool,
    upstream: &impl Fn(usize) -> f64,
    allowed: &mut Allowed,
) {
    let (n, d) = batch.features.dim();
    for row in 0..n {
        let label = batch.labels[row];
        let mut loss = 0.0;
        for k in 0..d {
            let (x, c) = (batch.features[[row, k]], centers[[label, k]]);
            let share = (x - c) * (lambda / 2.0).sqrt();
            loss += share * share;
            let pull = lambda * upstream(row) * (x - c).abs();
            allowed.grad_features[[row, k]] += (8.0 * E + 4.0 * t.u) * pull + t.tiny;
            let to_center = if joint {
                &mut allowed.grad_centers[[label, k]]
            } else {
                &mut allowed.grad_weights[[label, k]]
            };
            *to_center += (n + 8) as f64 * E * pull + t.tiny;
        }
        // Each square may be subnormal, and is then multiplied by less than 4.
        allowed.row_losses[row] += ((d + 8) as f64 * E + 2.0 * t.u) * loss + 4.0 * d as f64 * LEAST;
    }
}
