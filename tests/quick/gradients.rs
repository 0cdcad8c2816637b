//! Every analytic gradient against central differences of the loss, in `f64`, within 1e-7 of its largest entry.

use core::f64::consts::PI;

use margin_losses::{ArcFace, JointLoss, MarginLoss, NormFace, Reduction, SoftmaxLoss, Targets};
use ndarray::Array2;

use crate::support::{Batch, Case, SplitMix, check_gradient, every_loss, keep_norm, truth};

const TOLERANCE: f64 = 1e-7;

/// A copy with one entry, in the order of rows, shifted.
fn moved(matrix: &Array2<f64>, entry: usize, shift: f64) -> Array2<f64> {
    let mut matrix = matrix.clone();
    matrix.as_slice_mut().expect("owned")[entry] += shift;
    matrix
}

fn entries(matrix: &Array2<f64>) -> &[f64] {
    matrix.as_slice().expect("in the order of rows")
}

/// The gradients by features, weights and learnables of one case, or which of them is wrong.
fn check(
    case: &mut Case<'_, f64>,
    batch: &Batch<f64>,
    targets: &Targets<'_, f64>,
    step: f64,
) -> Result<(), String> {
    let (x, w) = (&batch.features, &batch.weights);
    let evaluation = case
        .loss
        .evaluate(x.view(), w.view(), targets)
        .map_err(|e| e.to_string())?;
    let loss = |case: &Case<'_, f64>, x: &Array2<f64>, w: &Array2<f64>| {
        case.loss
            .forward(x.view(), w.view(), targets)
            .map_or(f64::NAN, |forward| forward.loss)
    };
    let named = |part: &'static str| move |message: String| format!("{part}: {message}");

    let by_feature = |entry: usize, shift| {
        let mut moved = moved(x, entry, shift);
        if case.formula.norms_are_constants {
            // A gradient without a part along the feature is that of the loss on the sphere of the feature's norm.
            keep_norm(x, &mut moved, entry / x.ncols());
        }
        loss(case, &moved, w)
    };
    check_gradient(
        entries(&evaluation.grad_features),
        by_feature,
        step,
        TOLERANCE,
    )
    .map_err(named("∂X"))?;

    let by_weight = |entry, shift| loss(case, x, &moved(w, entry, shift));
    check_gradient(
        entries(&evaluation.grad_weights),
        by_weight,
        step,
        TOLERANCE,
    )
    .map_err(named("∂W"))?;

    let learnables = case.loss.learnables().to_vec();
    let gradient = evaluation.grad_learnables.to_vec();
    if learnables.len() != gradient.len() {
        return Err(format!(
            "{} learnables, {} derivatives",
            learnables.len(),
            gradient.len()
        ));
    }
    let by_learnable = |entry: usize, shift: f64| {
        let mut values = learnables.clone();
        values[entry] += shift;
        case.loss.set_learnables(&values).expect("in range");
        loss(case, x, w)
    };
    check_gradient(&gradient, by_learnable, step, TOLERANCE).map_err(named("learnables"))?;
    case.loss
        .set_learnables(&learnables)
        .map_err(|e| e.to_string())
}

/// The reductions, without row weights and with them; those of the last are of both signs.
fn every_reduction<'a>(batch: &'a Batch<f64>, signed: &'a [f64]) -> Vec<Targets<'a, f64>> {
    let plain = Targets::new(&batch.labels);
    let weighted = plain.with_row_weights(&batch.row_weights);
    vec![
        plain,
        plain.with_reduction(Reduction::Sum),
        plain.with_reduction(Reduction::None),
        weighted,
        weighted.with_reduction(Reduction::Sum),
        plain
            .with_row_weights(signed)
            .with_reduction(Reduction::None),
    ]
}

fn check_everywhere(seed: u64, rows: usize, classes: usize, dimension: usize) {
    let first = Batch::<f64>::random(seed, rows, classes, dimension);
    let signed: Vec<f64> = (0..rows).map(|row| 1.5 - row as f64).collect();
    for mut case in every_loss(first.centers.view()) {
        // No cosine so near to the threshold of a changed negative that the shift of an entry takes it across.
        let clear = |batch: &Batch<f64>| {
            truth(&case.formula, batch, Reduction::Mean, false).from_threshold > 0.02
        };
        let others = (1..).map(|other| Batch {
            centers: first.centers.clone(),
            ..Batch::random(seed + 1000 * other, rows, classes, dimension)
        });
        let mut batches = core::iter::once(first.clone()).chain(others);
        let batch = batches.find(clear).expect("one of many");
        for targets in every_reduction(&batch, &signed) {
            check(&mut case, &batch, &targets, 4e-3)
                .unwrap_or_else(|message| panic!("{}, {targets:?}: {message}", case.name));
        }
    }
}

#[test]
fn at_random_points() {
    check_everywhere(1, 4, 5, 3);
    check_everywhere(2, 3, 7, 5);
}

#[test]
fn with_one_row_two_classes_and_one_dimension() {
    check_everywhere(3, 1, 3, 2);
    check_everywhere(4, 2, 2, 4);
    check_everywhere(5, 6, 3, 2);
}

/// Next to every angle at which ψ is not smooth, on either side, and next to the poles. The batch has one row, so that
/// nothing else hides its gradient.
#[test]
fn next_to_the_breakpoints_and_the_poles() {
    let mut rng = SplitMix(6);
    let centers = rng.matrix(4, 3);
    for mut case in every_loss::<f64>(centers.view()) {
        let mut angles = vec![1e-3, PI - 1e-3];
        for breakpoint in &case.formula.breakpoints {
            angles.extend([breakpoint - 1e-3, breakpoint + 1e-3]);
        }
        for angle in angles {
            let mut batch = Batch::random(rng.bits(), 1, 4, 3);
            batch.place(0, angle, 1.5, &mut rng);
            let targets = Targets::new(&batch.labels);
            // The shift of any one entry must turn neither vector by more than a part of 1e-3, the way to the breakpoint.
            let shortest = batch
                .weights
                .row(batch.labels[0])
                .mapv(|v| v * v)
                .sum()
                .sqrt()
                .min(1.5);
            check(&mut case, &batch, &targets, 2e-4 * shortest)
                .unwrap_or_else(|message| panic!("{} at {angle}: {message}", case.name));
        }
    }
}

/// θ = π − m from both sides, ever closer: the gradient has the two limits that its two formulas have, and none between.
#[test]
fn either_side_of_pi_minus_m() {
    let mut rng = SplitMix(7);
    for mut case in every_loss::<f64>(rng.matrix(3, 4).view()) {
        if !case.name.starts_with("ArcFace") {
            continue;
        }
        for breakpoint in case.formula.breakpoints.clone() {
            for distance in [1e-1, 1e-2, 1e-3, 1e-4] {
                for angle in [breakpoint - distance, breakpoint + distance] {
                    let mut batch = Batch::random(rng.bits(), 1, 3, 4);
                    batch.place(0, angle, 1.0, &mut rng);
                    let targets = Targets::new(&batch.labels);
                    let shortest = batch
                        .weights
                        .row(batch.labels[0])
                        .mapv(|v| v * v)
                        .sum()
                        .sqrt()
                        .min(1.0);
                    check(
                        &mut case,
                        &batch,
                        &targets,
                        0.2 * distance.min(0.02) * shortest,
                    )
                    .unwrap_or_else(|message| panic!("{} at {angle}: {message}", case.name));
                }
            }
        }
    }
}

/// The centers of a joint loss, which are not an argument of the evaluation but of its constructor.
#[test]
fn by_the_centers_of_a_joint_loss() {
    let batch = Batch::<f64>::random(8, 5, 4, 3);
    let signed = [1.0, -0.5, 2.0, 0.0, -3.0];
    let classifiers: [Box<dyn MarginLoss<f64>>; 3] = [
        Box::new(SoftmaxLoss::new()),
        Box::new(NormFace::learned(3.0).expect("in range")),
        Box::new(ArcFace::new(64.0, 0.5).expect("in range")),
    ];
    for mut classifier in classifiers {
        for targets in every_reduction(&batch, &signed) {
            let mut loss = |centers: &Array2<f64>| {
                let joint = JointLoss::new(&mut classifier, centers.view(), 0.7).expect("in range");
                joint
                    .evaluate(batch.features.view(), batch.weights.view(), &targets)
                    .expect("a good batch")
            };
            let gradient = loss(&batch.centers).grad_centers;
            let by_center = |entry, shift| loss(&moved(&batch.centers, entry, shift)).loss();
            check_gradient(entries(&gradient), by_center, 1e-2, TOLERANCE)
                .unwrap_or_else(|message| panic!("{targets:?}: {message}"));
        }
    }
}
