//! Sums over very many classes and rows that pull alike, in `f32`: right to 2e-6 at every shape.

use margin_losses::{
    Error, Evaluation, MarginLoss, ModifiedSoftmax, NormFace, Reduction, SoftmaxLoss, Targets,
};
use ndarray::{Array2, ArrayView2, Axis, Slice, array};

use crate::support::{Batch, assert_close, largest, wide, widen};

const BAR: f64 = 2e-6;

/// Classes over a third of a circle, of lengths that repeat.
fn fan(classes: usize) -> Array2<f32> {
    Array2::from_shape_fn((classes, 2), |(class, k)| {
        let (sin, cos) = (2.0 * class as f64 / classes as f64).sin_cos();
        let length = 1.0 + (class % 7) as f64 / 8.0;
        (length * if k == 0 { cos } else { sin }) as f32
    })
}

/// ∂x and ∂s of one row under scale·cos, in `f64`, term by term; `norm` is ‖x‖ where the feature keeps its length.
fn exact(x: [f64; 2], weights: ArrayView2<'_, f32>, label: usize, scale: Option<f64>) -> [f64; 3] {
    let norm = x[0].hypot(x[1]);
    let units: Vec<[f64; 2]> = weights
        .outer_iter()
        .map(|w| {
            let w = [widen(w[0]), widen(w[1])];
            let length = w[0].hypot(w[1]);
            w.map(|entry| entry / length)
        })
        .collect();
    let s = scale.unwrap_or(norm);
    let cosines: Vec<f64> = units
        .iter()
        .map(|w| (x[0] * w[0] + x[1] * w[1]) / norm)
        .collect();
    let sum: f64 = cosines.iter().map(|c| (s * (c - 1.0)).exp()).sum();
    let mut gradient = [0.0; 3];
    for (class, (w, c)) in units.iter().zip(&cosines).enumerate() {
        let p = (s * (c - 1.0)).exp() / sum - f64::from(u8::from(class == label));
        let through = |k: usize| match scale {
            None => w[k],
            Some(s) => s / norm * (w[k] - c * x[k] / norm),
        };
        gradient = [
            gradient[0] + p * through(0),
            gradient[1] + p * through(1),
            gradient[2] + p * c,
        ];
    }
    gradient
}

fn close(what: &str, found: &[f32], expected: &[f64]) {
    let off = found
        .iter()
        .zip(expected)
        .fold(0.0_f64, |off, (&a, b)| off.max((widen(a) - b).abs()));
    let relative = off / largest(expected);
    assert!(relative <= BAR, "{what} is off by {relative:e}");
}

/// A single row, below and above the size at which threads are worth while.
#[test]
fn one_row_over_very_many_classes() -> Result<(), Error> {
    for classes in [1_000, 100_000, 1_000_000, 1_100_000] {
        let weights = fan(classes);
        let features = array![[0.6_f32, 0.9]];
        let x = [0.6_f32, 0.9].map(widen);
        let label = classes / 3;
        let labels = [label];
        let targets = Targets::new(&labels);
        let out = ModifiedSoftmax::new().evaluate(features.view(), weights.view(), &targets)?;
        let expected = exact(x, weights.view(), label, None);
        let found: Vec<f32> = out.grad_features.iter().copied().collect();
        close(
            &format!("∂x of ModifiedSoftmax, {classes} classes"),
            &found,
            &expected[..2],
        );

        let loss = NormFace::learned(10.0)?;
        let out = loss.evaluate(features.view(), weights.view(), &targets)?;
        let expected = exact(x, weights.view(), label, Some(10.0));
        let found: Vec<f32> = out.grad_features.iter().copied().collect();
        close(
            &format!("∂x of NormFace, {classes} classes"),
            &found,
            &expected[..2],
        );
        // A difference of cosines, each of which is rounded.
        let off = (widen(out.grad_learnables[0]) - expected[2]).abs();
        assert!(
            off <= 2e-7,
            "∂s of NormFace, {classes} classes, is off by {off:e}"
        );
    }
    Ok(())
}

/// Equal classes, whose terms are all rounded alike, at every height of a tile.
#[test]
fn classes_that_pull_alike() -> Result<(), Error> {
    for (rows, classes) in [
        (1, 1_000_000),
        (2, 300_000),
        (5, 100_000),
        (64, 40_000),
        (300, 9_000),
    ] {
        for (pull, dim) in [(0.3_f32, 2), (0.7, 2), (1.1, 2), (0.3, 16), (0.7, 20)] {
            let features = Array2::from_shape_fn((rows, dim), |(row, k)| match k {
                0 => 1.0,
                1 => 0.001 * row as f32,
                _ => 0.0,
            });
            let mut weights = Array2::zeros((classes, dim));
            weights.column_mut(0).fill(pull);
            weights[[0, 0]] = -pull;
            let labels = vec![0; rows];
            let targets = Targets::new(&labels).with_reduction(Reduction::Sum);
            let out = SoftmaxLoss::new().evaluate(features.view(), weights.view(), &targets)?;
            // All other classes together: 1 − p₀ times 2 pull, along the first axis.
            let others = (classes - 1) as f64;
            let miss = others / (others + (-2.0 * widen(pull)).exp());
            for row in out.grad_features.outer_iter() {
                let found = [row[0], row[1]];
                close(
                    &format!("∂X, {rows} × {classes}"),
                    &found,
                    &[miss * 2.0 * widen(pull), 0.0],
                );
            }
        }
    }
    Ok(())
}

/// Equal rows: ∂W is a sum over a million of them.
#[test]
fn rows_that_pull_alike() -> Result<(), Error> {
    for (rows, entries) in [
        (300, &[0.3_f32, 0.7][..]),
        (5_000, &[0.3, 0.7]),
        (1_000_000, &[0.3]),
    ] {
        for &entry in entries {
            let features = Array2::from_elem((rows, 1), entry);
            let weights = array![[0.25_f32], [0.75], [-0.5]];
            let labels = vec![0_u8; rows];
            let targets = Targets::new(&labels).with_reduction(Reduction::Sum);
            let mut out = Evaluation::with_scratch_limit(80 << 20);
            SoftmaxLoss::new().evaluate_into(
                features.view(),
                weights.view(),
                &targets,
                &mut out,
            )?;
            let exps = [0.25, 0.75, -0.5].map(|w: f64| (w * widen(entry)).exp());
            let total: f64 = exps.iter().sum();
            let share = |class: usize| exps[class] / total - f64::from(u8::from(class == 0));
            let expected: Vec<f64> = (0..3)
                .map(|class| rows as f64 * widen(entry) * share(class))
                .collect();
            let found: Vec<f32> = out.grad_weights.iter().copied().collect();
            close(&format!("∂W of {rows} rows"), &found, &expected);
        }
    }
    Ok(())
}

/// Exponentials were relative to 0 while the largest logit was above −20, and lost the digits of what lies 80 below it.
#[test]
fn rivals_far_below_a_negative_leader() -> Result<(), Error> {
    let features = array![[1.0_f32, 0.5]];
    for leader in [-0.5_f32, -5.0, -19.9, -20.1, -25.0] {
        for gap in [70.0_f32, 80.1, 83.1] {
            let far = leader - gap;
            let weights = array![[leader + 5.0, -10.0], [leader, 0.0], [far, 0.0]];
            let out = SoftmaxLoss::new().evaluate(
                features.view(),
                weights.view(),
                &Targets::new(&[0]),
            )?;
            let z = [widen(leader + 5.0) - 5.0, widen(leader), widen(far)];
            let total: f64 = z.iter().map(|other| (other - z[0]).exp()).sum();
            let share = (z[2] - z[0]).exp() / total;
            let found: Vec<f64> = out.grad_weights.row(2).iter().map(|&g| widen(g)).collect();
            for (found, x) in found.iter().zip([1.0, 0.5]) {
                let off = (found / (share * x) - 1.0).abs();
                // A logit of this size carries half an ulp.
                assert!(off <= 1e-5, "∂w₂ is off by {off:e}, {leader} and {far}");
            }
        }
    }
    Ok(())
}

/// So many tiles that ∂W is summed in groups: the batch is the sum of its parts.
#[test]
fn a_batch_of_many_tiles_is_the_sum_of_its_parts() -> Result<(), Error> {
    let batch = Batch::<f64>::random(17, 9_000, 50, 20);
    let loss = NormFace::learned(8.0)?;
    let part = |rows: std::ops::Range<usize>| {
        let targets = Targets::new(&batch.labels[rows.clone()]).with_reduction(Reduction::Sum);
        let features = batch.features.slice_axis(Axis(0), Slice::from(rows));
        loss.evaluate(features, batch.weights.view(), &targets)
    };
    let whole = part(0..9_000)?;
    let mut grad_weights = Array2::<f64>::zeros((50, 20));
    let mut grad_scale = 0.0;
    for start in (0..9_000).step_by(90) {
        let out = part(start..start + 90)?;
        grad_weights += &out.grad_weights;
        grad_scale += out.grad_learnables[0];
        let rows = whole
            .grad_features
            .slice_axis(Axis(0), Slice::from(start..start + 90));
        assert_close("∂X", &wide(rows), &wide(&out.grad_features), 1e-12);
    }
    assert_close(
        "∂W",
        &wide(&whole.grad_weights),
        &wide(&grad_weights),
        1e-12,
    );
    assert_close("∂s", &whole.grad_learnables.to_vec(), &[grad_scale], 1e-11);
    Ok(())
}
