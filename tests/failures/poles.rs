//! Where a feature meets its class, another class, or the opposite of either: rows 1 to 3.

use core::f64::consts::PI;

use margin_losses::{ArcFace, Float, MarginLoss, Reduction, Targets};
use ndarray::{Array2, array};

use super::support::{
    Batch, Case, assert_close, assert_relative, every_loss, largest, max_difference, narrow, truth,
    wide, widen,
};
use super::{assert_finite, evaluate, in_both_types};

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
                // Free norms of 2^±100 have logits and center losses that a float cannot hold, which is another matter.
                for case in cases.iter().filter(|case| case.is_angular()) {
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
    /// `poles.rs` beside this folder compares the same pairs with 50-digit values.
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

/// |∂ψ/∂x|·|x| = |sin(θ + m)|, next to a pole as anywhere else. The other class is at right angles to the plane, and adds
/// nothing in it.
fn the_slope_next_to_the_poles<A: Float>() {
    let (margin, scale) = (0.5, 3.0);
    let loss = ArcFace::new(scale, margin).expect("in range");
    for from in [0.0, PI] {
        for distance in [1e-7, 1e-6, 1e-5, 1e-4, 4.9e-4, 1e-3, 1e-1] {
            let angle = (from - distance).abs();
            let (sin, cos) = angle.sin_cos();
            let features: Array2<A> = array![[narrow(2.5 * cos), narrow(2.5 * sin), A::zero()]];
            let weights: Array2<A> = array![
                [narrow(0.7), A::zero(), A::zero()],
                [A::zero(), A::zero(), A::one()]
            ];
            let found = loss
                .evaluate(features.view(), weights.view(), &Targets::new(&[0]))
                .expect("a good batch");
            // The angle of the rounded feature.
            let (x, y) = (widen(features[[0, 0]]), widen(features[[0, 1]]));
            let (angle, length) = (y.atan2(x), x.hypot(y));
            let logit = scale * (angle + margin).cos();
            let miss = 1.0 / (1.0 + logit.exp());
            let slope = found.grad_features.row(0).mapv(widen);
            let slope = slope[0].hypot(slope[1]) * length / (scale * miss);
            let what = format!("at {distance} from {from}");
            assert_relative(&what, slope, (angle + margin).sin().abs(), 1e-6);
            let logit_found = widen(found.forward.target_logits[0]);
            assert_relative(&what, logit_found, logit, 2e-7);
        }
    }
}

in_both_types!(row_03_no_clamp_at_the_poles, the_slope_next_to_the_poles);
