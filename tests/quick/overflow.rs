//! Norms, logits, losses and gradients that would be larger than the largest number: refused, with the row, before anything is
//! written.

use core::f64::consts::FRAC_PI_8;

use margin_losses::{
    Argument, CombinedMargin, Error, Float, JointLoss, MarginLoss, NormFace, Reduction,
    SoftmaxLoss, Targets,
};
use ndarray::{Array2, array};

use crate::support::refusal::{
    CLASSES, ROWS, SOME_ROWS, assert_gradients_refused, assert_refused, for_every_loss, good,
    refused_alike, verdicts,
};
use crate::support::{Batch, Case, every_loss, is_overflow, narrow, widen};

fn sum<A>(labels: &[usize]) -> Targets<'_, A> {
    Targets::new(labels).with_reduction(Reduction::Sum)
}

/// A batch of one dimension, whose features are all `x`.
fn one_dimension<A: Float>(x: f64, labels: &[usize], weights: &[f64]) -> Batch<A> {
    Batch {
        features: Array2::from_elem((labels.len(), 1), narrow(x)),
        weights: Array2::from_shape_fn((weights.len(), 1), |(class, _)| narrow(weights[class])),
        centers: Array2::zeros((weights.len(), 1)),
        labels: labels.to_vec(),
        row_weights: vec![A::one(); labels.len()],
    }
}

/// What would be larger than the largest number is refused before anything is written, wherever it is found. `huge` is
/// about a third of that number and `root` about its square root.
fn too_large<A: Float>(huge: f64, root: f64) {
    let centers = good().centers;
    let cases = every_loss::<A>(centers.view());
    let named = |name: &str| {
        let case = cases.iter().find(|case| case.name == name);
        case.expect("in the list")
    };
    let refused = |case, batch: &Batch<A>, quantity, argument, row| {
        let expected = Error::Overflow {
            quantity,
            argument,
            row,
        };
        assert_refused(case, batch, &sum(&batch.labels), &expected);
    };
    let whole_batch = Error::BatchOverflow { quantity: "loss" };
    let softmax = named("softmax");
    for row in SOME_ROWS {
        let mut batch = one_dimension(1.0, &[0; ROWS], &[1.0, root]);
        batch.features[[row, 0]] = narrow(huge);
        refused(softmax, &batch, "logit", Argument::Features, row);
    }
    // Each row loses two thirds of the largest number.
    let batch = one_dimension(root, &[0, 0], &[-root, root]);
    assert_refused(softmax, &batch, &sum(&batch.labels), &whole_batch);
    let mean = softmax.loss.forward(
        batch.features.view(),
        batch.weights.view(),
        &Targets::new(&batch.labels),
    );
    let mean = mean.expect("the mean is a number").loss;
    assert!(mean > narrow(1.9 * huge), "{mean}");
    // Two equal logits: half of the features of each row are the gradient of its class.
    let batch = one_dimension(2.0 * huge, &[0; 4], &[0.0, 0.0]);
    let is_weights = |error: &Error| {
        matches!(
            error,
            Error::Overflow {
                quantity: "gradient",
                argument: Argument::ClassWeights,
                ..
            }
        )
    };
    assert_gradients_refused(
        "softmax",
        &*softmax.loss,
        &batch,
        &sum(&batch.labels),
        is_weights,
    );
    // Half of the square of the distance is two thirds of the largest number.
    let batch = one_dimension(2.0 * root, &[0, 0], &[0.0, 0.0]);
    assert_refused(named("center"), &batch, &sum(&batch.labels), &whole_batch);
}

#[test]
fn results_that_are_too_large() {
    too_large::<f32>(1e38, 1e19);
    too_large::<f64>(6e307, 7.7e153);
}

/// Both terms of a joint loss are numbers, and their sum is none.
fn too_large_together<A: Float>(far: f64) {
    let most = 0.7 * widen(A::max_value());
    let matrix = |rows: &[[f64; 2]]| {
        Array2::from_shape_fn((rows.len(), 2), |(i, k)| narrow::<A>(rows[i][k]))
    };

    // In row 1 a logit that leads by `most`, and as much from λ/2 times the square of a distance; their gradients
    // add up to a number. Where its row weight is 0, it is the row's own loss that is too large.
    let batch = Batch {
        features: matrix(&[[0.0, 0.0], [1.0, 0.0]]),
        weights: matrix(&[[0.0, 0.0], [most, 0.0]]),
        centers: matrix(&[[1.0 - far, 0.0], [0.0, 0.0]]),
        labels: vec![1, 0],
        row_weights: vec![A::one(), A::zero()],
    };
    let lambda = 2.0 * (most / far) / far;
    let loss = JointLoss::new(SoftmaxLoss::new(), batch.centers.view(), lambda).expect("in range");
    let targets = Targets::new(&batch.labels);
    let ignored = targets.with_row_weights(&batch.row_weights);
    for targets in [
        targets.with_reduction(Reduction::Sum),
        ignored.with_reduction(Reduction::None),
    ] {
        let expected = Error::Overflow {
            quantity: "loss",
            argument: Argument::Features,
            row: 1,
        };
        assert_eq!(refused_alike("joint", &loss, &batch, &targets), expected);
    }

    // In row 2 both pulls along the second axis, times the row's weight.
    let batch = Batch {
        features: matrix(&[[0.0; 2]; 3]),
        weights: matrix(&[[0.0, 1.0], [0.0, -1.0]]),
        centers: matrix(&[[0.0, 1.0], [0.0, 0.0]]),
        labels: vec![1, 1, 0],
        row_weights: vec![narrow(0.5), narrow(-0.25), narrow(most)],
    };
    let loss = JointLoss::new(SoftmaxLoss::new(), batch.centers.view(), 1.0).expect("in range");
    let targets = Targets::new(&batch.labels)
        .with_row_weights(&batch.row_weights)
        .with_reduction(Reduction::None);
    let expected = is_gradient(Argument::Features, 2);
    assert_gradients_refused("joint", &loss, &batch, &targets, expected);

    // A third of that weight is no reason to refuse.
    let mut lighter = batch.clone();
    lighter.row_weights[2] = narrow(most / 3.0);
    let targets = targets.with_row_weights(&lighter.row_weights);
    assert_eq!(
        verdicts("joint", &loss, &lighter, &targets),
        [(); 4].map(Ok)
    );
}

#[test]
fn terms_that_are_too_large_together() {
    too_large_together::<f32>(1e10);
    too_large_together::<f64>(1e100);
}

/// Whether an error says that the gradient by this row of this argument is too large.
fn is_gradient(argument: Argument, row: usize) -> impl Fn(&Error) -> bool {
    move |error| {
        *error
            == Error::Overflow {
                quantity: "gradient",
                argument,
                row,
            }
    }
}

/// Features of zeros whose class weights, times the weight of the row, are more than the largest number.
#[test]
fn pulls_that_are_too_large() {
    for row in SOME_ROWS {
        let mut batch = good::<f32>();
        batch.features.fill(0.0);
        batch.weights *= 16.0;
        batch.row_weights.fill(0.0);
        batch.row_weights[row] = 0.5 * f32::MAX;
        let targets = Targets::new(&batch.labels)
            .with_row_weights(&batch.row_weights)
            .with_reduction(Reduction::None);
        let loss = SoftmaxLoss::new();
        let expected = is_gradient(Argument::Features, row);
        assert_gradients_refused("softmax", &loss, &batch, &targets, expected);
    }
}

/// Gradients of a rival that takes all of the probability, or half of it beside another as short: of these the first is
/// named. The scale times the row weight over their length is no number.
fn too_long_for_a_short_rival<A: Float>(shortest: f64, scale: f64, weight: f64) {
    let one = A::one();
    let loss = NormFace::new(scale).expect("in range");
    let row_weights = [narrow(weight)];
    for rival in [1, 2, 69, 70, 129] {
        let mut batch = Batch {
            features: Array2::from_elem((1, 2), one),
            weights: Array2::from_elem((130, 2), -one),
            centers: Array2::zeros((130, 2)),
            labels: vec![0],
            row_weights: row_weights.to_vec(),
        };
        batch.weights.row_mut(0).assign(&array![one, -one]);
        for class in [rival, 129] {
            batch.weights[[class, 0]] = narrow(shortest);
            batch.weights[[class, 1]] = narrow(0.5 * shortest);
        }
        let targets = sum(&batch.labels).with_row_weights(&row_weights);
        let expected = is_gradient(Argument::ClassWeights, rival);
        assert_gradients_refused("short rival", &loss, &batch, &targets, expected);
    }
}

/// A target alone, whose ψ has a slope of 4: the slope times s over its length is a number, and so is its weight times s over
/// its length, but not all three.
fn too_long_for_a_short_target<A: Float>(shortest: f64, scale: f64, weight: f64) {
    let one = A::one();
    let loss = CombinedMargin::new(scale, 4.0, 0.0, 0.0).expect("in range");
    let (sin, cos) = FRAC_PI_8.sin_cos();
    let mut batch = Batch {
        features: array![[one, A::zero()]],
        weights: array![[cos, sin], [1.0, 0.0]].mapv(|v| narrow(1.01 * shortest * v)),
        centers: Array2::zeros((2, 2)),
        labels: vec![0],
        row_weights: vec![narrow(weight)],
    };
    batch.weights[[1, 0]] = one;
    let targets = sum(&batch.labels).with_row_weights(&batch.row_weights);
    let expected = is_gradient(Argument::ClassWeights, 0);
    assert_gradients_refused("steep target", &loss, &batch, &targets, expected);
}

/// A target so steep that by itself it is no number: by the class where that is short, by the feature where the feature is.
fn too_steep<A: Float>(shortest: f64, scale: f64) {
    let loss = CombinedMargin::new(scale, 1e3, 0.0, 0.0).expect("in range");
    for row in SOME_ROWS {
        for (argument, short) in [(Argument::ClassWeights, 3), (Argument::Features, row)] {
            let mut batch = good::<A>();
            batch.labels.fill(0);
            batch.labels[row] = 3;
            let rows = match argument {
                Argument::Features => &mut batch.features,
                _ => &mut batch.weights,
            };
            let length = rows.row(short).mapv(widen).pow2().sum().sqrt();
            let factor = 1.01 * shortest / length;
            rows.row_mut(short)
                .mapv_inplace(|v| narrow(widen(v) * factor));
            let expected = is_gradient(argument, short);
            assert_gradients_refused("steep", &loss, &batch, &sum(&batch.labels), expected);
        }
    }
}

#[test]
fn gradients_that_are_too_large_for_short_classes() {
    let (least_f32, least_f64) = (2.0_f64.powi(-120), 2.0_f64.powi(-1000));
    too_long_for_a_short_rival::<f32>(least_f32, 1e6, 1e3);
    too_long_for_a_short_rival::<f64>(least_f64, 1e6, 1e3);
    // Lengths that are nothing out of the ordinary, and heavy rows.
    too_long_for_a_short_rival::<f32>(1e-3, 2.0, f64::from(f32::MAX) / 16.0);
    too_long_for_a_short_rival::<f64>(1e-3, 2.0, f64::MAX / 16.0);
    too_long_for_a_short_target::<f32>(least_f32, 50.0, 3.0);
    too_long_for_a_short_target::<f64>(least_f64, 1e6, 8.0);
    too_steep::<f32>(least_f32, 1e3);
    too_steep::<f64>(least_f64, 1e6);
}

/// A logit that only its bias takes beyond the largest number.
#[test]
fn biases_that_are_too_large() {
    let most = 0.6 * f64::from(f32::MAX);
    for bias in [most, -most] {
        let loss = SoftmaxLoss::with_bias(vec![0.0, bias]).expect("finite");
        let batch = one_dimension::<f32>(1.0, &[0], &[0.0, bias]);
        let expected = Error::Overflow {
            quantity: "logit",
            argument: Argument::Features,
            row: 0,
        };
        let found = refused_alike("biased", &loss, &batch, &Targets::new(&[0]));
        assert_eq!(found, expected);
    }
}

/// Row weights that multiply a gradient, which the loss alone does not see.
fn heavy_rows<A: Float>(case: &Case<'_, A>) {
    for row in SOME_ROWS {
        let mut batch = good();
        let mut weights = vec![A::zero(); ROWS];
        weights[row] = A::max_value();
        // Short classes have long gradients, and far centers strong pulls.
        batch.weights.mapv_inplace(|v| v / narrow(1e4));
        batch.features.mapv_inplace(|v| v * narrow(1e4));
        let targets = Targets::new(&batch.labels)
            .with_row_weights(&weights)
            .with_reduction(Reduction::None);
        let [forward, gradients @ ..] = verdicts(&case.name, &*case.loss, &batch, &targets);
        let overflows = |verdict: &Result<(), Error>| verdict.as_ref().is_err_and(is_overflow);
        assert!(forward.is_ok() || overflows(&forward), "{forward:?}");
        for verdict in &gradients {
            assert!(overflows(verdict), "{}: {verdict:?}", case.name);
        }
    }
}

#[test]
fn gradients_that_are_too_large() {
    for_every_loss(heavy_rows, heavy_rows);
}

/// Rows of the largest number have a norm in `f32`, which is computed in `f64`, and none in `f64`.
#[test]
fn norms_that_are_too_large() {
    for case in every_loss::<f64>(good().centers.view()) {
        for row in SOME_ROWS {
            let mut batch = good();
            batch.features.row_mut(row).fill(f64::MAX);
            let targets = Targets::new(&batch.labels);
            let error = refused_alike(&case.name, &*case.loss, &batch, &targets);
            let is_that_row = matches!(
                error,
                Error::Overflow {
                    argument: Argument::Features,
                    row: found,
                    ..
                } if found == row
            );
            assert!(is_that_row, "{}: {error:?}", case.name);
        }
        if !case.needs_weight_norms() {
            continue;
        }
        for row in 0..CLASSES {
            let mut batch = good();
            batch.weights.row_mut(row).fill(f64::MAX);
            let expected = Error::Overflow {
                quantity: "norm",
                argument: Argument::ClassWeights,
                row,
            };
            assert_refused(&case, &batch, &Targets::new(&batch.labels), &expected);
        }
    }
    for case in every_loss::<f32>(good().centers.view()) {
        if case.is_angular() {
            let mut batch = good();
            batch.features.row_mut(1).fill(f32::MAX);
            batch.weights.row_mut(2).fill(f32::MAX);
            let verdicts = verdicts(
                &case.name,
                &*case.loss,
                &batch,
                &Targets::new(&batch.labels),
            );
            assert_eq!(verdicts, [(); 4].map(Ok), "{}", case.name);
        }
    }
}

/// Row weights of either sign whose gradients cancel: each alone would be too large, and so is a bound of their sum.
#[test]
fn heavy_rows_that_cancel() -> Result<(), Error> {
    let features = array![[1.0_f32], [1.0]];
    let weights = array![[1.0_f32], [2.0]];
    for (heavy, scale) in [(2e38_f32, 1.0_f32), (1e38, 3.0)] {
        let row_weights = [heavy, -heavy];
        let targets = Targets::new(&[0, 0])
            .with_row_weights(&row_weights)
            .with_reduction(Reduction::None);
        let features = &features * scale;
        let out = SoftmaxLoss::new().evaluate(features.view(), weights.view(), &targets)?;
        assert_eq!(out.loss(), 0.0);
        // To rounding: what cancels are products.
        let off = out
            .grad_weights
            .fold(0.0_f32, |off, entry| off.max(entry.abs()));
        assert!(off <= 2e-7 * heavy * scale, "{off:e}");
        let miss = 1.0 / (1.0 + (-f64::from(scale)).exp());
        for (found, sign) in out.grad_features.iter().zip([1.0, -1.0]) {
            // (1 − p₀)(w₁ − w₀).
            let expected = sign * f64::from(heavy) * miss;
            assert!((f64::from(*found) / expected - 1.0).abs() < 1e-6, "{found}");
        }
    }
    // In `f64` the sums themselves leave the range before they cancel.
    let features = array![[1.0_f64], [1.0], [1.0], [1.0]];
    let weights = array![[1.0_f64], [2.0]];
    let row_weights = [1e308, 1e308, -1e308, -1e308];
    let targets = Targets::new(&[0; 4])
        .with_row_weights(&row_weights)
        .with_reduction(Reduction::None);
    let out = SoftmaxLoss::new().evaluate(features.view(), weights.view(), &targets)?;
    assert_eq!(out.loss(), 0.0);
    assert!(out.grad_weights.iter().all(|entry| entry.abs() <= 1e293));
    Ok(())
}

/// No row is named where no row is meant.
#[test]
fn what_no_row_is_to_blame_for_names_none() -> Result<(), Error> {
    let weights = array![[1.0_f32, 0.0], [0.0, 1.0]];
    let features = array![[1.0_f32, 0.2], [0.3, 1.0]];
    let row_weights = [3e38_f32, 3e38];
    let targets = Targets::new(&[1, 0])
        .with_row_weights(&row_weights)
        .with_reduction(Reduction::Sum);
    let loss = NormFace::learned(1e-3)?;
    let expected = Error::BatchOverflow { quantity: "loss" };
    let found = loss.evaluate(features.view(), weights.view(), &targets);
    assert_eq!(found.map(drop), Err(expected.clone()));
    assert_eq!(
        expected.to_string(),
        "the batch makes a loss larger than the element type can hold"
    );
    // Both terms of a joint loss fit, and so do their rows' sums; the sum of the batch does not.
    let centers = array![[0.0_f32, 2e19], [0.0, 0.0]];
    let features = array![[0.0_f32, 1.0], [0.0, 1.0]];
    let targets = Targets::new(&[0, 0]).with_reduction(Reduction::Sum);
    let joint = JointLoss::new(NormFace::new(4.0)?, centers.view(), 1.0)?;
    let found = joint.evaluate(features.view(), weights.view(), &targets);
    assert_eq!(found.map(drop), Err(expected));
    Ok(())
}
