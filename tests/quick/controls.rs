//! Controls of the test instruments: what checks the losses must itself be able to fail.

use margin_losses::Reduction;

use crate::support::{
    Batch, Formula, check_gradient, close_to_largest, derivative, every_loss, keep_norm, largest,
    truth,
};

/// A function of three numbers, with its gradient.
fn smooth(at: [f64; 3]) -> (f64, [f64; 3]) {
    let [a, b, c] = at;
    let value = (a * b).sin() + c.exp() * a;
    let gradient = [b * (a * b).cos() + c.exp(), a * (a * b).cos(), c.exp() * a];
    (value, gradient)
}

const POINT: [f64; 3] = [0.7, -1.3, 0.4];

fn shifted(coordinate: usize, shift: f64) -> f64 {
    let mut at = POINT;
    at[coordinate] += shift;
    smooth(at).0
}

fn verdict(gradient: [f64; 3]) -> Result<f64, String> {
    check_gradient(&gradient, shifted, 0.05, 1e-7)
}

#[test]
fn the_checker_accepts_the_gradient_far_below_its_tolerance() {
    let worst = verdict(smooth(POINT).1).expect("the gradient is right");
    assert!(worst < 1e-10, "{worst:e}");
}

#[test]
fn the_checker_rejects_an_entry_that_is_off_by_1e_4() {
    let right = smooth(POINT).1;
    let unit = largest(&right);
    for entry in 0..3 {
        for off in [1e-4, -1e-4, 2e-7] {
            let mut wrong = right;
            wrong[entry] += off * unit;
            verdict(wrong).expect_err("one entry is off");
        }
    }
}

#[test]
fn the_checker_rejects_a_gradient_that_is_off_by_a_factor() {
    let wrong = smooth(POINT).1.map(|v| v * (1.0 + 1e-4));
    verdict(wrong).expect_err("the whole gradient is off");
}

#[test]
fn the_checker_rejects_a_swapped_sign_and_swapped_entries() {
    let [a, b, c] = smooth(POINT).1;
    verdict([-a, b, c]).expect_err("one sign is swapped");
    verdict([-a, -b, -c]).expect_err("all signs are swapped");
    verdict([b, a, c]).expect_err("two entries are swapped");
    verdict([0.0; 3]).expect_err("there is no gradient");
}

#[test]
fn the_checker_rejects_nan_and_infinity_in_the_gradient_and_in_the_function() {
    for poison in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        for entry in 0..3 {
            let mut wrong = smooth(POINT).1;
            wrong[entry] = poison;
            verdict(wrong).expect_err("one entry is not finite");
        }
        let broken = |_: usize, _: f64| poison;
        check_gradient(&smooth(POINT).1, broken, 0.05, 1e-7).expect_err("no finite value");
    }
}

#[test]
fn the_checker_does_not_trust_differences_across_a_kink() {
    // The shortest step that is tried is a seventieth of the first.
    let kinked = |_: usize, shift: f64| (shift - 1e-4).abs();
    check_gradient(&[-1.0], kinked, 0.05, 1e-7).expect_err("the stencil straddles the kink");
    check_gradient(&[-1.0], kinked, 5e-5, 1e-7).expect("the stencil stays on one side");
}

#[test]
fn differences_reach_ten_digits_on_a_stiff_function() {
    let stiff = |x: f64| (1.0 + (64.0 * (x + 1.0).cos()).exp()).ln();
    let z = (64.0 * 1.0_f64.cos()).exp();
    let exact = -64.0 * 1.0_f64.sin() * z / (1.0 + z);
    let found = derivative(stiff, 0.02);
    assert!(((found.value - exact) / exact).abs() < 1e-10, "{found:?}");
}

#[test]
fn comparisons_reject_nan_and_accept_equal_zeros() {
    assert!(close_to_largest(&[0.0, 0.0], &[0.0, -0.0], 1e-12));
    assert!(close_to_largest(&[1.0, 2.0], &[1.0, 2.0 + 1e-12], 1e-12));
    assert!(!close_to_largest(&[1.0, 2.0], &[1.0 + 1e-4, 2.0], 1e-5));
    assert!(!close_to_largest(&[f64::NAN, 2.0], &[1.0, 2.0], 1e-5));
    assert!(!close_to_largest(&[2.0, f64::NAN], &[2.0, f64::NAN], 1e-5));
    assert!(!close_to_largest(
        &[1.0, f64::INFINITY],
        &[1.0, f64::INFINITY],
        1e-5
    ));
}

/// The oracle against central differences of its own loss: the formulas of its gradients are right.
#[test]
fn the_oracle_agrees_with_its_own_differences() {
    let batch = Batch::<f64>::random(11, 3, 4, 3);
    for case in every_loss(batch.centers.view()) {
        for (reduction, weighted) in [(Reduction::Mean, true), (Reduction::Sum, false)] {
            let expected = truth(&case.formula, &batch, reduction, weighted);
            let at = |batch: &Batch<f64>, formula: &Formula| {
                truth(formula, batch, reduction, weighted).loss
            };
            let by_feature = |k: usize, shift: f64| {
                let mut moved = batch.clone();
                moved.features.as_slice_mut().expect("owned")[k] += shift;
                if case.formula.norms_are_constants {
                    let row = k / batch.features.ncols();
                    keep_norm(&batch.features, &mut moved.features, row);
                }
                at(&moved, &case.formula)
            };
            let by_weight = |k: usize, shift: f64| {
                let mut moved = batch.clone();
                moved.weights.as_slice_mut().expect("owned")[k] += shift;
                at(&moved, &case.formula)
            };
            let features = expected.grad_features.as_slice().expect("owned");
            let weights = expected.grad_weights.as_slice().expect("owned");
            check_gradient(features, by_feature, 0.01, 1e-8)
                .and_then(|_| check_gradient(weights, by_weight, 0.01, 1e-8))
                .unwrap_or_else(|message| panic!("{}: {message}", case.name));
        }
    }
}
