//! The ends of the ranges inside an evaluation: products, shares, powers of two and sums that would overflow, underflow or
//! lose their digits if they were formed the obvious way. Each was once seen to fail.

use margin_losses::{
    ArcFace, Error, Float, MarginLoss, ModifiedSoftmax, Reduction, SoftmaxLoss, Targets,
};
use ndarray::{Array2, array};

use crate::support::{assert_close, narrow, widen};

const TWO: f32 = 2.0;

#[test]
fn long_features_and_long_weights_multiply() -> Result<(), Error> {
    // ŵ₁·x = 2¹²⁰, but w₁·x = 2¹³⁵ is no f32.
    let features = array![[TWO.powi(120), 0.0]];
    let weights = array![[0.0, 1.0], [TWO.powi(15), 0.0]];
    let out =
        ModifiedSoftmax::new().evaluate(features.view(), weights.view(), &Targets::new(&[0]))?;
    assert_eq!(out.loss(), TWO.powi(120));
    assert_eq!(out.grad_features, array![[1.0, -1.0]]);
    Ok(())
}

/// All entries of a row alike, so that feature and weight are parallel to the last bit, in any dimension.
fn parallel_rows<A: Float>(tolerance: f64) -> Result<(), Error> {
    for dim in [3, 64, 1_000, 1_024, 1_536, 4_096] {
        for (x, w) in [(0.1, 0.3), (0.1, 0.7), (1.7, 0.9), (0.3, 1e-3)] {
            let features = Array2::<A>::from_elem((1, dim), narrow(x));
            let mut weights = Array2::<A>::from_elem((2, dim), narrow(w));
            weights[[1, 0]] = narrow(-w);
            let loss = ArcFace::new(10.0, 0.5)?;
            let out = loss.evaluate(features.view(), weights.view(), &Targets::new(&[0]))?;
            // Only the other class pulls, along the one axis where it differs; with d large it is nearly parallel too.
            let along: f64 = out.grad_features.iter().map(|&g| widen(g) * x).sum();
            let size: f64 = out.grad_features.iter().map(|&g| widen(g).abs() * x).sum();
            assert!(
                along.abs() <= tolerance * size,
                "x·∂x = {along:e} of {size:e} at d = {dim}"
            );
        }
    }
    Ok(())
}

#[test]
fn exactly_parallel_rows_have_no_radial_gradient() -> Result<(), Error> {
    parallel_rows::<f32>(1e-4)?;
    parallel_rows::<f64>(1e-10)
}

#[test]
fn a_block_of_the_target_alone_has_a_finite_share() -> Result<(), Error> {
    let mut features = Array2::<f32>::zeros((256, 128));
    features.column_mut(0).fill(TWO.powi(60));
    let mut weights = Array2::<f32>::zeros((65, 128));
    weights.column_mut(0).fill(-TWO.powi(-50));
    let labels: Vec<usize> = (0..256).map(|row| 64 - row % 2).collect();
    let out =
        SoftmaxLoss::new().evaluate(features.view(), weights.view(), &Targets::new(&labels))?;
    assert!(out.grad_weights.iter().all(|entry| entry.is_finite()));
    // Equal logits: Σ (p − [j = y]) x over the rows; half of the rows have the label 64.
    let expected = f64::from(TWO.powi(60)) * (1.0 / 65.0 - 0.5);
    assert_close(
        "∂W[64, 0]",
        &[f64::from(out.grad_weights[[64, 0]])],
        &[expected],
        1e-6,
    );
    Ok(())
}

#[test]
fn coefficients_far_from_one() -> Result<(), Error> {
    // Long rows with a heavy weight, whose gradient is nevertheless zero.
    let features = array![[TWO.powi(127), 0.0]];
    let weights = array![[TWO.powi(127), 0.0], [0.0, TWO.powi(127)]];
    let heavy = [TWO.powi(127)];
    let targets = Targets::new(&[0])
        .with_row_weights(&heavy)
        .with_reduction(Reduction::Sum);
    match ModifiedSoftmax::new().evaluate(features.view(), weights.view(), &targets) {
        Ok(out) => assert!(out.grad_weights.iter().all(|entry| *entry == 0.0)),
        Err(error) => assert!(matches!(error, Error::Overflow { .. }), "{error}"),
    }

    // A short feature, and a shift far above all logits but the last.
    let mut bias = vec![0.0; 65];
    bias[64] = 59.0;
    let features = array![[7.9e-31_f32]];
    let weights = Array2::<f32>::zeros((65, 1));
    let targets = Targets::new(&[0]).with_reduction(Reduction::Sum);
    let out = SoftmaxLoss::with_bias(bias)?.evaluate(features.view(), weights.view(), &targets)?;
    assert_close(
        "∂W",
        &[f64::from(out.grad_weights[[64, 0]])],
        &[f64::from(7.9e-31_f32)],
        1e-6,
    );

    // Short weights, whose gradient is as long as they are short, and a row that is all but certain.
    let short = TWO.powi(-100);
    let features = array![[1.0_f32, 0.0]];
    let angle = (1.0_f64 - 110.0 / 64.0).acos();
    let (sin, cos) = angle.sin_cos();
    let weights = array![[short, 0.0], [short * cos as f32, short * sin as f32]];
    let loss = ArcFace::new(64.0, 0.0)?;
    let out = loss.evaluate(features.view(), weights.view(), &Targets::new(&[0]))?;
    let (c, s) = (weights[[1, 0]] / short, weights[[1, 1]] / short);
    let (c, s) = (f64::from(c) / f64::from(c).hypot(f64::from(s)), sin);
    let expected = 64.0 * (64.0 * (c - 1.0)).exp() * s * s / f64::from(short);
    assert_close(
        "∂W",
        &[f64::from(out.grad_weights[[1, 0]])],
        &[expected],
        1e-3,
    );
    Ok(())
}

#[test]
fn many_targets_of_one_class_add_up() -> Result<(), Error> {
    const ROWS: usize = 100_000;
    let features = Array2::<f32>::from_elem((ROWS, 1), 0.1);
    let weights = array![[0.0_f32], [0.0]];
    let labels = vec![0; ROWS];
    let out =
        SoftmaxLoss::new().evaluate(features.view(), weights.view(), &Targets::new(&labels))?;
    // The class of the targets, whose terms are summed outside of the products.
    let expected = -0.5 * f64::from(0.1_f32);
    let found = f64::from(out.grad_weights[[0, 0]]);
    assert_close("∂W", &[found], &[expected], 1e-6);
    Ok(())
}

#[test]
fn sums_of_coefficients_that_are_too_large() -> Result<(), Error> {
    let features = Array2::<f32>::zeros((4, 1));
    let weights = Array2::<f32>::zeros((2, 1));
    let upstream = [3e38_f32, -3e38, 3e38, -3e38];
    let targets = Targets::new(&[0, 1, 0, 1])
        .with_row_weights(&upstream)
        .with_reduction(Reduction::None);
    let loss = SoftmaxLoss::with_bias(vec![0.0, 0.0])?;
    let refused = loss.evaluate(features.view(), weights.view(), &targets);
    assert!(
        matches!(refused, Err(Error::Overflow { .. })),
        "{refused:?}"
    );
    Ok(())
}

#[test]
fn a_zero_feature_that_keeps_its_length_is_pulled_along_the_weights() -> Result<(), Error> {
    let features = Array2::<f64>::zeros((1, 2));
    let weights = array![[3.0, 0.0], [0.0, 0.25]];
    let out =
        ModifiedSoftmax::new().evaluate(features.view(), weights.view(), &Targets::new(&[0]))?;
    // Both logits are 0: ∂x = (ŵ₀ + ŵ₁)/2 − ŵ₀, and ∂W is a multiple of x.
    assert_eq!(out.grad_features, array![[-0.5, 0.5]]);
    assert_eq!(out.grad_weights, Array2::<f64>::zeros((2, 2)));
    Ok(())
}
