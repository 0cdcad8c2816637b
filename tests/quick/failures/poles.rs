//! Where a feature meets its class, another class, or the opposite of either: rows 1 and 2.

use margin_losses::{Float, Reduction};

use super::{assert_finite, evaluate, in_both_types};
use crate::support::{
    Batch, Case, assert_close, every_loss, largest, max_difference, narrow, truth, wide, widen,
};

/// A unit in the last place of 1.
fn unit<A: Float>() -> f64 {
    widen(A::epsilon())
}

/// Loss and gradients are finite; where the loss depends on angles alone, the loss also agrees with the oracle.
///
/// An oracle that sees a step of one `f64` ulp only in rounded unit vectors has no direction to compare with, so gradients
/// are compared where `gradients` says so.
#[track_caller]
fn assert_sound<A: Float>(case: &Case<'_, A>, batch: &Batch<A>, what: &str, gradients: bool) {
    let what = format!("{} {what}", case.name);
    let found = evaluate(&*case.loss, batch);
    assert_finite(&what, &found);
    if !case.is_angular() {
        return;
    }
    let exact = truth(&case.formula, &batch.widened(), Reduction::Mean, false);
    let tolerance = 200.0 * unit::<A>();
    let off = (widen(found.loss()) - exact.loss).abs();
    assert!(
        off <= tolerance * exact.loss,
        "{what}: L is {}, not {}",
        found.loss(),
        exact.loss
    );
    if gradients {
        for (part, found, exact) in [
            ("∂X", &found.grad_features, &exact.grad_features),
            ("∂W", &found.grad_weights, &exact.grad_weights),
        ] {
            let (found, exact) = (wide(found), wide(exact));
            let off = max_difference(&found, &exact);
            assert!(
                off <= tolerance * largest(&exact),
                "{what}: {part} is off by {off:e}\n{found:?}\n{exact:?}"
            );
        }
    }
}

/// x = ±2^k w for every k in ±100, and one coordinate walked by 1 … 64 ulps to either side.
fn on_and_around_the_target<A: Float>() {
    for dimension in [2, 5] {
        let mut batch = Batch::<A>::random(161, 1, 4, dimension);
        batch.labels = vec![2];
        let direction = batch.weights.row(2).to_owned();
        let cases = every_loss(batch.centers.view());
        for sign in [1.0, -1.0] {
            for power in -100..=100 {
                let factor = narrow::<A>(sign * 2.0_f64.powi(power));
                let pole = direction.mapv(|v| v * factor);
                let mut at = batch.clone();
                at.features.row_mut(0).assign(&pole);
                for case in &cases {
                    // The square of a distance of 2^100 is no `f32`, which is another matter.
                    if case.formula.centers.is_some() && power > 60 {
                        continue;
                    }
                    assert_sound(case, &at, &format!("at {sign} 2^{power} w"), true);
                }
            }
            for steps in -64..=64_i32 {
                let pole = direction.mapv(|v| v * narrow(sign * 4.0));
                let mut at = batch.clone();
                at.features.row_mut(0).assign(&pole);
                // An ulp of the coordinate, exactly.
                let size = widen(pole[1]).abs();
                let ulp = 2.0_f64.powf(size.log2().floor()) * unit::<A>();
                at.features[[0, 1]] = narrow(widen(pole[1]) + f64::from(steps) * ulp);
                for case in &cases {
                    let gradients = steps == 0 || unit::<A>() > 1e-10;
                    assert_sound(case, &at, &format!("{sign} w, {steps} ulps"), gradients);
                }
            }
        }
    }
}

in_both_types!(
    /// `poles.rs` beside this folder compares pairs next to the poles with values of 150 digits.
    row_01_poles_of_the_target,
    on_and_around_the_target
);

/// Another class is a copy of the feature, of any length, or its opposite; or it is a copy of the target's class.
fn on_another_class<A: Float>() {
    for (seed, sign) in [(162, 1.0), (163, -1.0)] {
        let mut batch = Batch::<A>::random(seed, 3, 4, 5);
        batch.labels = vec![0, 1, 0];
        let x = batch.features.row(0).to_owned();
        for power in [-30, -3, 0, 3, 30] {
            let factor = narrow::<A>(sign * 2.0_f64.powi(power));
            batch.weights.row_mut(2).assign(&x.mapv(|v| v * factor));
            for normalised in [false, true] {
                if normalised {
                    let norm = x.dot(&x).sqrt();
                    batch.weights.row_mut(2).mapv_inplace(|v| v / norm);
                }
                let copy = batch.weights.row(0).to_owned();
                batch.weights.row_mut(3).assign(&copy);
                for case in every_loss(batch.centers.view()) {
                    let what = format!("{} at {sign} 2^{power}", case.name);
                    let found = evaluate(&*case.loss, &batch);
                    assert_finite(&what, &found);
                    let exact = truth(&case.formula, &batch.widened(), Reduction::Mean, false);
                    let tolerance = 200.0 * unit::<A>();
                    let loss = [widen(found.loss())];
                    assert_close(&what, &loss, &[exact.loss], tolerance);
                    for (found, exact) in [
                        (&found.grad_features, &exact.grad_features),
                        (&found.grad_weights, &exact.grad_weights),
                    ] {
                        assert_close(&what, &wide(found), &wide(exact), tolerance);
                    }
                }
            }
        }
    }
}

in_both_types!(row_02_poles_of_other_classes, on_another_class);
