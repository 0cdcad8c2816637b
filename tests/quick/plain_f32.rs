//! The rule for `f32`: over many batches, the crate is off by no more than the plain `f32` computation, and a tolerance.
//!
//! Errors are relative to the largest entry of what is compared. The tolerance is [`TOLERANCE`] half-ulps of the largest
//! logit, for that is what the rounding of the logits alone does to every probability, in the one order of summation or in the
//! other.

use margin_losses::Targets;
use ndarray::Array2;

use crate::support::{
    Batch, Case, Layer, Link, SplitMix, every_spec, largest, max_difference, plain, truth, widen,
};

/// In half-ulps of the largest logit, or of 1 if that is larger.
const TOLERANCE: f64 = 4.0;

fn wide(matrix: &Array2<f32>) -> Vec<f64> {
    matrix.iter().map(|&v| widen(v)).collect()
}

/// The error, infinite where the plain computation has given NaN.
fn error(found: &[f64], expected: &[f64]) -> f64 {
    let off = max_difference(found, expected) / largest(expected);
    if off.is_nan() { f64::INFINITY } else { off }
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Angles as they come.
    Random,
    /// Features near the weights of their classes: rows that are all but certain.
    Confident,
    /// Features at angles of 1e-7 … 1e-1 from them.
    Pole,
}

fn batch(seed: u64, kind: Kind) -> Batch<f32> {
    let mut rng = SplitMix(seed);
    let (rows, classes) = (1 + rng.below(12), 2 + rng.below(120));
    let dimension = 2 + rng.below(30);
    let mut batch = Batch::<f64>::random(seed, rows, classes, dimension);
    for row in 0..rows {
        let angle = match kind {
            Kind::Random => continue,
            Kind::Confident => 0.3 * rng.uniform(),
            Kind::Pole => 10.0_f64.powf(-7.0 + 6.0 * rng.uniform()),
        };
        let length = 2.0 + 8.0 * rng.uniform();
        batch.place(row, angle, length, &mut rng);
    }
    Batch {
        features: batch.features.mapv(|v| v as f32),
        weights: batch.weights.mapv(|v| v as f32),
        centers: batch.centers.mapv(|v| v as f32),
        labels: batch.labels,
        row_weights: vec![1.0; rows],
    }
}

fn rule(kind: Kind, seeds: core::ops::Range<u64>) {
    let mut better = 0_usize;
    let mut compared = 0_usize;
    for seed in seeds {
        let batch = batch(seed, kind);
        let exact = batch.widened();
        for (name, spec) in every_spec(batch.weights.nrows()) {
            let case = Case::of(name, &spec, batch.centers.view()).expect("in range");
            if case.formula.centers.is_some() {
                continue;
            }
            let found = (case.loss)
                .evaluate(
                    batch.features.view(),
                    batch.weights.view(),
                    &Targets::new(&batch.labels),
                )
                .expect("a good batch");
            let usual = plain(&case.formula, &batch);
            let expected = truth(&case.formula, &exact, margin_losses::Reduction::Mean, false);
            let size = match case.formula.layer {
                Layer::UnitNorm { scale, .. } if case.formula.link == Link::Softmax => scale,
                Layer::UnitNorm { scale, .. } => {
                    scale * case.formula.negative_slope + case.formula.constants.largest()
                }
                _ => largest(expected.logits.as_slice().expect("owned")),
            };
            let tolerance = TOLERANCE * f64::from(f32::EPSILON) / 2.0 * size.max(1.0);
            let flat = |m: &Array2<f64>| -> Vec<f64> { m.iter().copied().collect() };
            for (part, found, usual, expected) in [
                (
                    "L",
                    vec![widen(found.loss())],
                    vec![widen(usual.loss)],
                    vec![expected.loss],
                ),
                (
                    "∂X",
                    wide(&found.grad_features),
                    wide(&usual.grad_features),
                    flat(&expected.grad_features),
                ),
                (
                    "∂W",
                    wide(&found.grad_weights),
                    wide(&usual.grad_weights),
                    flat(&expected.grad_weights),
                ),
            ] {
                if largest(&expected) < 1e-30 {
                    continue;
                }
                // A hinge is a difference, and each class's is off by the rounding of what it is the difference of.
                let hinges = matches!(case.formula.link, Link::Hinge { .. }) && part == "L";
                let tolerance = if hinges {
                    tolerance * (batch.weights.nrows() as f64 / largest(&expected)).max(1.0)
                } else {
                    tolerance
                };
                let (off, allowed) = (error(&found, &expected), error(&usual, &expected));
                assert!(
                    off <= allowed + tolerance,
                    "{part} of {}, {kind:?} {seed}: off by {off:e}, the plain computation by {allowed:e}, tolerance {tolerance:e}",
                    case.name
                );
                compared += 1;
                better += usize::from(off <= allowed);
            }
        }
    }
    // Of the two computations the careful one is the better more often than not, and not because nothing was compared.
    assert!(
        compared > 5_000 && 2 * better > compared,
        "{better} of {compared}"
    );
    println!("{kind:?}: better in {better} of {compared}");
}

#[test]
fn random_rows() {
    rule(Kind::Random, 0..60);
}

#[test]
fn confident_rows() {
    rule(Kind::Confident, 1_000..1_060);
}

#[test]
fn rows_at_the_poles() {
    rule(Kind::Pole, 2_000..2_060);
}
