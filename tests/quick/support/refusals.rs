//! What a scenario may be refused for, worked out without the crate.

use core::f64::consts::PI;

use margin_losses::{Argument, Error, Float, Reduction};
use ndarray::ArrayView2;

use super::{Batch, Layer, Scaled, Scenario, Spec, widen};

impl Spec {
    /// Whether its parameters lie in the ranges that the documentation gives.
    pub(crate) fn is_in_range(&self) -> bool {
        let scale = |s: f64| (1e-6..=1e6).contains(&s);
        let angle = |m: f64| (0.0..PI).contains(&m);
        let cosine = |m: f64| (0.0..=2.0).contains(&m);
        let threshold = |b: f64| (-1e7..=1e7).contains(&b);
        match *self {
            Self::Softmax { ref bias } => bias.iter().all(|b| b.is_finite()),
            Self::ModifiedSoftmax | Self::Center => true,
            Self::ASoftmax { m, lambda } => {
                (1..=1000).contains(&m) && lambda >= 0.0 && lambda.is_finite()
            }
            Self::NormFace { scale: s, .. } | Self::User { scale: s, .. } => scale(s),
            Self::AmSoftmax { scale: s, margin } | Self::CosFace { scale: s, margin } => {
                scale(s) && cosine(margin)
            }
            Self::ArcFace {
                scale: s, margin, ..
            } => scale(s) && angle(margin),
            Self::AdaFace {
                scale: s,
                margin,
                momentum,
                statistics,
                ..
            } => {
                let statistic = |value| (0.0..=100.0).contains(&value);
                scale(s)
                    && angle(margin)
                    && (0.0..=1.0).contains(&momentum)
                    && statistics.into_iter().all(statistic)
            }
            Self::MagFace {
                scale: s,
                margins: [l_m, u_m],
                norms: [l_a, u_a],
                regulariser,
                ..
            } => {
                let norm = |a: f64| (1e-3..=1e6).contains(&a);
                let ordered = l_m <= u_m && l_a < u_a;
                scale(s)
                    && [l_m, u_m].into_iter().all(angle)
                    && [l_a, u_a].into_iter().all(norm)
                    && ordered
                    && (0.0..=1e6).contains(&regulariser)
            }
            Self::Combined {
                scale: s,
                m1,
                m2,
                m3,
            } => scale(s) && m1 > 0.0 && m1 <= 1000.0 && angle(m2) && cosine(m3),
            Self::ByClass {
                scale: s,
                ref margins,
                past_pi,
            } => {
                let holds = |&m: &f64| {
                    if past_pi.is_some() {
                        angle(m)
                    } else {
                        cosine(m)
                    }
                };
                scale(s) && !margins.is_empty() && margins.iter().all(holds)
            }
            Self::Filtered {
                scale: s,
                margin,
                past_pi,
                threshold,
            } => {
                let holds = if past_pi.is_some() {
                    angle(margin)
                } else {
                    cosine(margin)
                };
                scale(s) && holds && (-1.0..=1.0).contains(&threshold)
            }
            Self::CurricularFace {
                scale: s,
                margin,
                momentum,
                t,
                ..
            } => {
                let momentum = (0.0..=1.0).contains(&momentum);
                scale(s) && angle(margin) && momentum && (-1.0..=1.0).contains(&t)
            }
            Self::MvSoftmax {
                scale: s,
                margin,
                t,
                arc,
                ..
            } => {
                let holds = if arc { angle(margin) } else { cosine(margin) };
                scale(s) && holds && (0.0..=100.0).contains(&t)
            }
            Self::SphereFace2 {
                scale: s,
                margin,
                power,
                bias,
                ..
            } => scale(s) && cosine(margin) && (1..=3).contains(&power) && threshold(bias),
            Self::UniFace {
                scale: s,
                margin,
                lambda,
                ref biases,
            } => {
                let weight = (0.0..=1e6).contains(&lambda);
                let biases = !biases.is_empty() && biases.iter().copied().all(threshold);
                scale(s) && cosine(margin) && weight && biases
            }
            Self::Distances { margin, .. } => (0.0..=4.0).contains(&margin),
            Self::Joint {
                ref classifier,
                lambda,
            } => classifier.is_in_range() && lambda >= 0.0 && lambda.is_finite(),
        }
    }
}

/// Every error but an overflow that this scenario could be refused with; none if it has to be accepted.
pub(crate) fn refusals<A: Float>(scenario: &Scenario<A>) -> Vec<Error> {
    let Scenario { spec, batch, .. } = scenario;
    let mut all = Vec::new();
    let classifier = spec.classifier();
    let joint = spec != classifier;
    let called = if *classifier == Spec::Center {
        Argument::Centers
    } else {
        Argument::ClassWeights
    };
    let formula = spec.formula(batch.centers.view());
    let (rows, dimension) = batch.features.dim();
    let classes = batch.weights.nrows();
    let mut sides = vec![(batch.weights.view(), called)];
    if joint {
        sides.push((batch.centers.view(), Argument::Centers));
        // Which of the two is looked at first does not matter.
        if called == Argument::Centers {
            sides.push((batch.weights.view(), Argument::ClassWeights));
        }
    }
    for (matrix, argument) in &sides {
        if dimension == 0 {
            all.push(Error::NoDimensions);
        }
        if matrix.nrows() == 0 {
            all.push(Error::NoClasses);
        }
        if matrix.ncols() != dimension {
            all.push(Error::Dimension {
                argument: *argument,
                expected: dimension,
                found: matrix.ncols(),
            });
        }
    }
    let mut count = |argument, expected, found| {
        if expected != found {
            all.push(Error::RowCount {
                argument,
                expected,
                found,
            });
        }
    };
    count(Argument::Labels, rows, batch.labels.len());
    if joint {
        count(Argument::Centers, classes, batch.centers.nrows());
    }
    if let Layer::Linear { bias } = &formula.layer
        && !bias.is_empty()
    {
        count(Argument::Bias, classes, bias.len());
    }
    if let Spec::ByClass { margins, .. } = classifier {
        count(Argument::ClassMargins, classes, margins.len());
    }
    if scenario.weighted {
        count(Argument::RowWeights, rows, batch.row_weights.len());
    }
    if rows == 0 && scenario.reduction == Reduction::Mean {
        all.push(Error::EmptyBatch);
    }
    let first = batch.labels.iter().position(|&label| label >= classes);
    all.extend(first.map(|row| Error::LabelOutOfRange {
        row,
        label: batch.labels[row] as i128,
        classes,
    }));
    if scenario.weighted {
        let negative = |w: &A| *w < A::zero() && scenario.reduction != Reduction::None;
        let weights = &batch.row_weights;
        let not_finite = weights.iter().position(|w| !w.is_finite());
        all.extend(not_finite.map(|row| Error::NonFinite {
            argument: Argument::RowWeights,
            row,
        }));
        let negative = weights.iter().position(negative);
        all.extend(negative.map(|row| Error::NegativeWeight {
            argument: Argument::RowWeights,
            row,
        }));
    }
    let needs_feature = match formula.layer {
        Layer::UnitNorm { .. } => true,
        Layer::FreeNorm => formula.target.is_some(),
        _ => false,
    };
    let needs_weight = matches!(formula.layer, Layer::UnitNorm { .. } | Layer::FreeNorm);
    unusable(
        batch.features.view(),
        Argument::Features,
        needs_feature,
        &mut all,
    );
    unusable(batch.weights.view(), called, needs_weight, &mut all);
    if joint {
        unusable(batch.centers.view(), Argument::Centers, false, &mut all);
    }
    all
}

/// The first row that cannot be used, if it has to be divided by its norm or not.
fn unusable<A: Float>(
    matrix: ArrayView2<'_, A>,
    argument: Argument,
    divided: bool,
    all: &mut Vec<Error>,
) {
    let least = if size_of::<A>() == 4 { -120 } else { -1000 };
    // Of the joint loss, the center loss looks for what is not finite before the classifier looks at norms.
    let not_finite = matrix
        .outer_iter()
        .position(|row| row.iter().any(|v| !v.is_finite()));
    all.extend(not_finite.map(|row| Error::NonFinite { argument, row }));
    if !divided {
        return;
    }
    for (row, entries) in matrix.outer_iter().enumerate() {
        if entries.iter().any(|v| !v.is_finite()) {
            return;
        }
        let norm = Scaled::of(entries.mapv(widen).view()).length();
        let ratio = norm / 2.0_f64.powi(least);
        if norm == 0.0 {
            all.push(Error::ZeroNorm { argument, row });
            return;
        }
        if norm.is_infinite() {
            all.push(Error::Overflow {
                quantity: "norm",
                argument,
                row,
            });
            return;
        }
        if ratio < 1.0 + 1e-12 {
            all.push(Error::NormTooSmall { argument, row });
            if ratio < 1.0 - 1e-12 {
                return;
            }
        }
    }
}

/// Whether something is said to be larger than the largest number.
pub(crate) fn is_overflow(error: &Error) -> bool {
    matches!(error, Error::Overflow { .. } | Error::BatchOverflow { .. })
}

/// Whether a quantity of this scenario comes so near to the largest number that an overflow may be reported.
///
/// The crate bounds by Cauchy and Schwarz, and sums bounds, so that it may refuse what is 2³ below. In a layer that normalises
/// nothing it also sums e^(z − shift)·w in the element type, where the shift may lie 30 (300 in `f64`) below the logit: a
/// class weight that long may be refused too.
pub(crate) fn may_overflow<A: Float>(scenario: &Scenario<A>) -> bool {
    const SLACK: f64 = 3.0;
    let batch = scenario.batch.widened();
    let formula = scenario.spec.formula(scenario.batch.centers.view());
    let weights = scenario.weighted.then_some(&batch.row_weights[..]);
    reach(&formula, &batch, weights, size_of::<A>() == 4) > widen(A::max_value()).log2() - SLACK
}

fn log_norms(matrix: ArrayView2<'_, f64>) -> Vec<f64> {
    matrix
        .outer_iter()
        .map(|row| Scaled::of(row).log2_length())
        .collect()
}

fn largest(values: impl IntoIterator<Item = f64>) -> f64 {
    values.into_iter().fold(f64::NEG_INFINITY, f64::max)
}

/// The logarithm to base 2 of the largest quantity that an evaluation forms.
fn reach(
    formula: &super::Formula,
    batch: &Batch<f64>,
    row_weights: Option<&[f64]>,
    single: bool,
) -> f64 {
    let x = log_norms(batch.features.view());
    let w = log_norms(batch.weights.view());
    let (longest_x, longest_w) = (largest(x.iter().copied()), largest(w.iter().copied()));
    let shortest_w = -largest(w.iter().map(|w| -w));
    let shortest_x = -largest(x.iter().map(|x| -x));
    // Of a sum over the rows: the largest coefficient, at most 1 without row weights, times their number.
    let rows = (batch.features.nrows().max(1) as f64).log2();
    let upstream = row_weights.map_or(0.0, |weights| {
        largest(weights.iter().map(|w| w.abs().log2())).max(-2000.0)
    });
    let total = rows + upstream;
    let steepest = formula.steepest.log2() + 2.0;
    let mut all = vec![total];
    match &formula.layer {
        Layer::Linear { bias } => {
            let bias = largest(bias.iter().map(|b| b.abs().log2()));
            let logit = (longest_x + longest_w).max(bias) + 2.0;
            let shares = if single { 44.0 } else { 433.0 };
            all.extend([logit, logit + total, longest_w + shares]);
            all.extend([longest_w + total, longest_x + total]);
        }
        Layer::FreeNorm => {
            let logit = longest_x + steepest;
            all.extend([logit, logit + total, steepest + total]);
            all.extend([logit - shortest_w, logit - shortest_w + total]);
        }
        Layer::UnitNorm { scale, .. } => {
            let logit = scale.log2() + steepest;
            all.extend([logit, logit + total]);
            for shortest in [shortest_w, shortest_x] {
                all.extend([logit - shortest, logit - shortest + total]);
            }
        }
        Layer::Nothing => {}
    }
    if let Some((lambda, centers)) = &formula.centers {
        let centers = centers.as_ref().unwrap_or(&batch.weights);
        let apart = longest_x.max(largest(log_norms(centers.view()))) + 1.0;
        let lambda = lambda.log2().max(-1100.0);
        for power in [apart, 2.0 * apart] {
            all.extend([power + lambda, power + lambda + total]);
        }
        all.push(apart);
    }
    largest(all)
}
