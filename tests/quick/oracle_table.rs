//! The oracle, and the crate in `f64`, against the table of 50 digits that `tests/reference/oracle.py` writes: ordinary rows,
//! rows next to the poles and exactly there, rows whose target leads by far, rows of norms 2^−300 … 2^300.

use margin_losses::{PastPi, Reduction, Targets};
use ndarray::{Array2, ArrayView1};

use crate::support::{Batch, Layer, Spec, assert_close, largest, max_difference, truth};

const LABELS: [usize; 2] = [0, 2];

fn spec(name: &str) -> Spec {
    let bias = |bias: &[f64]| Spec::Softmax {
        bias: bias.to_vec(),
    };
    let arc_face = |scale, margin, past_pi| Spec::ArcFace {
        scale,
        margin,
        past_pi,
    };
    let a_softmax = |m, lambda| Spec::ASoftmax { m, lambda };
    match name {
        "softmax" => bias(&[]),
        "softmax with bias" => bias(&[0.0, 0.125, 0.25]),
        "modified softmax" => Spec::ModifiedSoftmax,
        "center" => Spec::Center,
        "a-softmax 1" => a_softmax(1, 0.0),
        "a-softmax 3" => a_softmax(3, 0.0),
        "a-softmax 4" => a_softmax(4, 0.0),
        "a-softmax 4 lambda 5" => a_softmax(4, 5.0),
        "normface 8" => Spec::NormFace {
            scale: 8.0,
            learned: true,
        },
        "cosface 64 0.375" => Spec::CosFace {
            scale: 64.0,
            margin: 0.375,
        },
        "arcface 64 0.5" => arc_face(64.0, 0.5, PastPi::Paper),
        "arcface 8 0.25" => arc_face(8.0, 0.25, PastPi::Paper),
        "arcface 64 0.5 linear" => arc_face(64.0, 0.5, PastPi::LinearTail),
        "arcface 64 0.5 smooth" => arc_face(64.0, 0.5, PastPi::SmoothTail),
        "arcface 64 0.5 joined" => arc_face(64.0, 0.5, PastPi::JoinedTail),
        "arcface 64 0.5 cosine" => arc_face(64.0, 0.5, PastPi::CosineTail),
        "arcface 64 0.5 easy" => arc_face(64.0, 0.5, PastPi::EasyMargin),
        "combined 32 1.25 0.25 0.125" => Spec::Combined {
            scale: 32.0,
            m1: 1.25,
            m2: 0.25,
            m3: 0.125,
        },
        _ => panic!("{name} is in the table, but not here"),
    }
}

struct Line {
    what: String,
    spec: Spec,
    batch: Batch<f64>,
    loss: f64,
    features: Vec<f64>,
    weights: Vec<f64>,
    learnables: Vec<f64>,
}

fn table() -> Vec<Line> {
    include_str!("../reference/oracle.csv")
        .lines()
        .skip(1)
        .map(|line| {
            let columns: Vec<&str> = line.split(',').collect();
            let matrix = |column: usize, rows: usize| {
                let bits = columns[column]
                    .split(' ')
                    .map(|v| f64::from_bits(u64::from_str_radix(v, 16).expect("sixteen digits")));
                Array2::from_shape_vec((rows, 3), bits.collect()).expect("three columns")
            };
            let numbers = |column: usize| -> Vec<f64> {
                let words = columns[column].split_whitespace();
                words.map(|v| v.parse().expect("a number")).collect()
            };
            Line {
                what: format!("{} on rows that are {}", columns[1], columns[0]),
                spec: spec(columns[1]),
                batch: Batch {
                    features: matrix(2, 2),
                    weights: matrix(3, 3),
                    centers: Array2::zeros((3, 3)),
                    labels: LABELS.to_vec(),
                    row_weights: vec![1.0; 2],
                },
                loss: numbers(4)[0],
                features: numbers(5),
                weights: numbers(6),
                // A fixed scale has no gradient, though the table has one for every scale.
                learnables: numbers(7),
            }
        })
        .collect()
}

/// The loss and, row by row, the gradients, each relative to the largest entry of its row, or to what that row was before it was
/// projected: next to a pole there may be little left.
fn assert_line(line: &Line, loss: f64, features: &[f64], weights: &[f64], learnables: &[f64]) {
    const TOLERANCE: f64 = 5e-14;
    let what = &line.what;
    assert_close(&format!("L of {what}"), &[loss], &[line.loss], TOLERANCE);
    let formula = line.spec.formula(line.batch.centers.view());
    let coefficients = truth(&formula, &line.batch, Reduction::Mean, false).coefficients;
    let length = |row: ArrayView1<'_, f64>| row.dot(&row).sqrt();
    // ∂L/∂cosθ, over the length of the row that is normalised.
    let amplitude = |row: usize| match formula.layer {
        Layer::UnitNorm { scale, .. } => scale,
        Layer::FreeNorm => length(line.batch.features.row(row)),
        _ => 0.0,
    };
    let by_row = |row: usize| coefficients.row(row).mapv(f64::abs).sum() * amplitude(row);
    let by_class = |class: usize| {
        let rows = coefficients.column(class);
        let terms = rows.indexed_iter().map(|(row, c)| c.abs() * amplitude(row));
        terms.sum::<f64>()
    };
    for row in 0..2 {
        let unprojected = by_row(row) / length(line.batch.features.row(row));
        let name = format!("∂X[{row}] of {what}");
        let part = 3 * row..3 * row + 3;
        assert_row(
            &name,
            &features[part.clone()],
            &line.features[part],
            unprojected,
        );
    }
    for class in 0..3 {
        let unprojected = by_class(class) / length(line.batch.weights.row(class));
        let name = format!("∂W[{class}] of {what}");
        let part = 3 * class..3 * class + 3;
        assert_row(
            &name,
            &weights[part.clone()],
            &line.weights[part],
            unprojected,
        );
    }
    if !learnables.is_empty() {
        let name = format!("learnables of {what}");
        assert_row(
            &name,
            learnables,
            &line.learnables,
            coefficients.mapv(f64::abs).sum(),
        );
    }
}

fn assert_row(name: &str, found: &[f64], expected: &[f64], unprojected: f64) {
    const TOLERANCE: f64 = 5e-14;
    let scale = largest(expected).max(unprojected);
    let off = max_difference(found, expected);
    assert!(
        off <= TOLERANCE * scale,
        "{name} is off by {off:e} of {scale:e}\n{found:?}\n{expected:?}"
    );
}

#[test]
fn the_table_is_whole() {
    let table = table();
    assert_eq!(table.len(), 90);
    for line in table {
        assert_eq!(
            (line.features.len(), line.weights.len()),
            (6, 9),
            "{}",
            line.what
        );
        assert!(line.loss.is_finite() && line.loss >= 0.0, "{}", line.what);
    }
}

#[test]
fn the_oracle_has_the_digits_of_the_table() {
    for line in table() {
        let formula = line.spec.formula(line.batch.centers.view());
        let found = truth(&formula, &line.batch, Reduction::Mean, false);
        let flat = |matrix: &Array2<f64>| -> Vec<f64> { matrix.iter().copied().collect() };
        let (features, weights) = (flat(&found.grad_features), flat(&found.grad_weights));
        assert_line(
            &line,
            found.loss,
            &features,
            &weights,
            &found.grad_learnables,
        );
    }
}

#[test]
fn the_crate_has_the_digits_of_the_table() {
    for line in table() {
        let (x, w) = (line.batch.features.view(), line.batch.weights.view());
        let loss = line.spec.loss(line.batch.centers.view()).expect("in range");
        let found = loss
            .evaluate(x, w, &Targets::new(&LABELS))
            .expect("a good batch");
        let (features, weights) = (
            found.grad_features.as_slice(),
            found.grad_weights.as_slice(),
        );
        let learnables = found.grad_learnables.as_slice();
        assert_line(
            &line,
            found.loss(),
            features.expect("row-major"),
            weights.expect("row-major"),
            learnables.expect("contiguous"),
        );
    }
}
