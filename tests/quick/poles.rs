//! The target next to its class weight, opposite to it, and exactly there.

use margin_losses::{ArcFace, Float, MarginLoss, PastPi, Reduction, Targets};
use ndarray::{Array1, Array2, Axis};

use crate::support::{Batch, SplitMix, assert_close, every_loss, narrow, truth, widen};

/// One line of `reference/poles.csv`, which `reference/poles.py` explains and makes.
struct Pair {
    what: String,
    past_pi: PastPi,
    /// Whether the other class has a copy of the feature, instead of an axis of its own.
    copy: bool,
    scale: f64,
    x: Array1<f64>,
    w: Array1<f64>,
    target_logit: f64,
    x_gradient: Array1<f64>,
    w_gradient: Array1<f64>,
}

/// The lines for `f32` or `f64`.
fn pairs(element_type: &str) -> Vec<Pair> {
    fn numbers(column: &str) -> Array1<f64> {
        let number = |v: &str| v.parse().expect("a number");
        column.split_whitespace().map(number).collect()
    }
    fn vector(column: &str) -> Array1<f64> {
        let number = |v: &str| {
            let bits = u64::from_str_radix(v, 16).expect("hexadecimal");
            if v.len() == 8 {
                f64::from(f32::from_bits(bits as u32))
            } else {
                f64::from_bits(bits)
            }
        };
        column.split_whitespace().map(number).collect()
    }
    include_str!("../reference/poles.csv")
        .lines()
        .map(|line| line.split(',').collect::<Vec<&str>>())
        .filter(|columns| columns[0] == element_type)
        .map(|columns| Pair {
            what: columns[..5].join(", "),
            past_pi: if columns[1] == "paper" {
                PastPi::Paper
            } else {
                PastPi::SmoothTail
            },
            copy: columns[2] == "copy",
            scale: numbers(columns[3])[0],
            x: vector(columns[5]),
            w: vector(columns[6]),
            target_logit: numbers(columns[7])[0],
            x_gradient: numbers(columns[8]),
            w_gradient: numbers(columns[9]),
        })
        .collect()
}

fn off(found: &Array1<f64>, expected: &Array1<f64>) -> f64 {
    let difference = found - expected;
    (difference.dot(&difference) / expected.dot(expected)).sqrt()
}

/// The target's logit within `logit_tolerance` of itself; its terms of ∂X and ∂W, which are all of the gradient in these
/// coordinates, within `gradient_tolerance` of their length.
fn next_to_the_poles<A: Float>(pairs: &[Pair], logit_tolerance: f64, gradient_tolerance: f64) {
    assert_eq!(pairs.len(), 63);
    for pair in pairs {
        let (what, dimension) = (&pair.what, pair.x.len());
        let mut features = Array2::<A>::zeros((1, dimension + 1));
        let mut weights = Array2::<A>::zeros((2, dimension + 1));
        for (j, (&x, &w)) in pair.x.iter().zip(&pair.w).enumerate() {
            features[[0, j]] = narrow(x);
            weights[[0, j]] = narrow(w);
            weights[[1, j]] = narrow(if pair.copy { x / 8.0 } else { 0.0 });
        }
        weights[[1, dimension]] = narrow(if pair.copy { 0.0 } else { 0.7 });
        let loss = ArcFace::new(pair.scale, 0.5)
            .expect("in range")
            .with_past_pi(pair.past_pi);
        let evaluation = loss
            .evaluate(features.view(), weights.view(), &Targets::new(&[0]))
            .expect("a good batch");
        let logit = widen(evaluation.forward.target_logits[0]);
        let off_logit = ((logit - pair.target_logit) / pair.target_logit).abs();
        assert!(
            off_logit <= logit_tolerance,
            "{what}: logit {logit} is off by {off_logit:e}"
        );
        let in_plane = |gradient: &Array2<A>| -> Array1<f64> {
            gradient
                .row(0)
                .iter()
                .take(dimension)
                .map(|&v| widen(v))
                .collect()
        };
        let off_x = off(&in_plane(&evaluation.grad_features), &pair.x_gradient);
        assert!(
            off_x <= gradient_tolerance,
            "{what}: ∂X is off by {off_x:e}"
        );
        let off_w = off(&in_plane(&evaluation.grad_weights), &pair.w_gradient);
        assert!(
            off_w <= gradient_tolerance,
            "{what}: ∂W is off by {off_w:e}"
        );
    }
}

/// At 1e-7 … 1e-1 from 0 and π.
#[test]
fn next_to_the_poles_in_f32() {
    next_to_the_poles::<f32>(&pairs("f32"), 2e-7, 1e-6);
}

/// At 1e-15 … 1e-1 from 0 and π, within as many units in the last place as in `f32`.
#[test]
fn next_to_the_poles_in_f64() {
    let units = f64::EPSILON / f64::from(f32::EPSILON);
    next_to_the_poles::<f64>(&pairs("f64"), 2e-7 * units, 1e-6 * units);
}

/// At the exact pole the target pulls in no direction: with the other classes at right angles, ∂W of the target is zero,
/// and where ψ has a slope as a function of cosθ the limits from all sides cancel.
#[test]
fn no_direction_is_preferred_at_the_exact_poles() {
    let mut rng = SplitMix(53);
    for dimension in [2, 3, 16] {
        let mut weights: Array2<f32> = rng.matrix(2, dimension + 1);
        weights.row_mut(1).fill(0.0);
        weights[[0, dimension]] = 0.0;
        weights[[1, dimension]] = 1.0;
        for factor in [1.0_f32, 0.25, -1.0, -8.0] {
            let features = weights.select(Axis(0), &[0]).mapv(|v| v * factor);
            for case in every_loss(weights.view()) {
                if !case.is_angular() {
                    continue;
                }
                let evaluation = case
                    .loss
                    .evaluate(features.view(), weights.view(), &Targets::new(&[0]))
                    .expect("a good batch");
                assert!(
                    evaluation.grad_weights.row(0).iter().all(|&v| v == 0.0),
                    "{}: {evaluation:?}",
                    case.name
                );
                let in_plane = evaluation.grad_features.row(0);
                assert!(
                    in_plane.iter().take(dimension).all(|&v| v == 0.0),
                    "{}: {evaluation:?}",
                    case.name
                );
            }
        }
    }
}

/// Exactly at the poles, in `f64`, all of the result: the oracle is exact there.
#[test]
fn the_exact_poles_in_f64() {
    let mut batch = Batch::<f64>::random(54, 4, 3, 4);
    batch.labels = vec![0, 1, 0, 2];
    for (row, factor) in [(0, 2.0), (1, 0.5), (2, -4.0)] {
        let pole = batch.weights.row(0).mapv(|v| v * factor);
        batch.features.row_mut(row).assign(&pole);
    }
    for case in every_loss(batch.centers.view()) {
        let found = case
            .loss
            .evaluate(
                batch.features.view(),
                batch.weights.view(),
                &Targets::new(&batch.labels),
            )
            .expect("a good batch");
        let expected = truth(&case.formula, &batch, Reduction::Mean, false);
        assert_close(&case.name, &[found.loss()], &[expected.loss], 1e-12);
        for (found, expected) in [
            (&found.grad_features, &expected.grad_features),
            (&found.grad_weights, &expected.grad_weights),
        ] {
            let found: Vec<f64> = found.iter().copied().collect();
            let expected: Vec<f64> = expected.iter().copied().collect();
            assert_close(&case.name, &found, &expected, 1e-12);
        }
    }
}
