//! Losses whose value is known in closed form: at right angles to every class, on decision boundaries, on ψ's grid.

mod support;

use core::f64::consts::{FRAC_PI_8, LN_2, PI};

use margin_losses::{
    ASoftmax, AmSoftmax, ArcFace, CosFace, Float, MarginLoss, NormFace, PastPi, SoftmaxLoss,
    Targets,
};
use ndarray::{Array2, array};
use support::{narrow, widen};

/// The loss of one feature at right angles to all of this many class weights.
fn at_right_angles<A: Float>(loss: &dyn MarginLoss<A>, classes: usize) -> f64 {
    let features = array![[A::one(), A::zero()]];
    let weights = Array2::from_shape_fn(
        (classes, 2),
        |(_, j)| if j == 0 { A::zero() } else { A::one() },
    );
    let found = loss.forward(
        features.view(),
        weights.view(),
        &Targets::new(&[classes / 2]),
    );
    widen(found.expect("a good batch").loss)
}

fn at_right_angles_everywhere<A: Float>(tolerance: f64) {
    let cos_face = CosFace::new(64.0, 0.35).expect("in range");
    let arc_face = ArcFace::new(64.0, 0.5).expect("in range");
    let am_softmax = AmSoftmax::new(30.0, 0.35).expect("in range");
    let norm_face = NormFace::new(16.0).expect("in range");
    for (classes, printed) in [
        (10, [24.5972, 32.8805, 12.6972]),
        (10_575, [31.6662, 39.9494, 19.7662]),
        (85_742, [33.7591, 42.0423, 21.8591]),
    ] {
        let others = classes as f64 - 1.0;
        let gap = |logit: f64| logit + (others + (-logit).exp()).ln();
        let losses: [(&dyn MarginLoss<A>, f64); 3] = [
            (&cos_face, 64.0 * 0.35),
            (&arc_face, 64.0 * 0.5_f64.sin()),
            (&am_softmax, 30.0 * 0.35),
        ];
        for ((loss, below), printed) in losses.into_iter().zip(printed) {
            let (found, exact) = (at_right_angles(loss, classes), gap(below));
            assert!(
                (found - exact).abs() <= tolerance * exact,
                "{loss:?}: {found}, not {exact}"
            );
            assert!(
                (exact - printed).abs() <= 0.5e-4,
                "{exact} is published as {printed}"
            );
        }
        let (found, exact) = (
            at_right_angles::<A>(&norm_face, classes),
            (classes as f64).ln(),
        );
        assert!(
            (found - exact).abs() <= tolerance * exact,
            "{found}, not ln {classes}"
        );
    }
}

#[test]
fn the_loss_at_step_zero() {
    at_right_angles_everywhere::<f64>(1e-10);
    at_right_angles_everywhere::<f32>(1e-5);
}

/// The loss of a unit feature whose class weights stand at these angles on either side; the first is the target.
fn between(loss: &dyn MarginLoss<f64>, target: f64, other: f64) -> f64 {
    let features = array![[1.0, 0.0]];
    let weights = array![
        [0.7 * target.cos(), -0.7 * target.sin()],
        [2.5 * other.cos(), 2.5 * other.sin()]
    ];
    let found = loss.forward(features.view(), weights.view(), &Targets::new(&[0]));
    found.expect("a good batch").loss
}

/// On the boundary the two logits are equal and the loss is ln 2; it falls towards the target's side.
#[track_caller]
fn assert_boundary(loss: &dyn MarginLoss<f64>, target: f64, other: f64) {
    let on_it = between(loss, target, other);
    assert!((on_it - LN_2).abs() < 1e-12, "{loss:?}: {on_it}");
    assert!(between(loss, target - 1e-6, other) < on_it, "{loss:?}");
    assert!(between(loss, target + 1e-6, other) > on_it, "{loss:?}");
}

#[test]
fn the_decision_boundaries_of_two_classes() {
    let target = 0.6;
    assert_boundary(&NormFace::new(30.0).expect("in range"), target, target);
    for m in 1..=4 {
        let loss = ASoftmax::new(m).expect("in range");
        assert_boundary(&loss, target, f64::from(m) * target);
    }
    let other = (target.cos() - 0.35).acos();
    assert_boundary(&CosFace::new(64.0, 0.35).expect("in range"), target, other);
    assert_boundary(
        &AmSoftmax::new(30.0, 0.35).expect("in range"),
        target,
        other,
    );
    assert_boundary(
        &ArcFace::new(64.0, 0.5).expect("in range"),
        target,
        target + 0.5,
    );
    // Weights of lengths 0.7 and 2.5 that are not normalised: 0.7 cosθ₁ = 2.5 cosθ₂.
    let other = (0.7 / 2.5 * target.cos()).acos();
    assert_boundary(&SoftmaxLoss::new(), target, other);
}

/// The logit, before scaling, of a target at this angle from a feature of this length.
fn target_logit(loss: &dyn MarginLoss<f64>, angle: f64, length: f64) -> f64 {
    let features = array![[length * angle.cos(), length * angle.sin()]];
    let weights = array![[0.3, 0.0], [0.0, 1.0]];
    let found = loss.forward(features.view(), weights.view(), &Targets::new(&[0]));
    found.expect("a good batch").target_logits[0]
}

#[test]
fn psi_falls_by_one_every_22_5_degrees_for_m_4() {
    let loss = ASoftmax::new(4).expect("in range");
    for step in 0..=8 {
        let found = target_logit(&loss, f64::from(step) * FRAC_PI_8, 2.0);
        let exact = 2.0 * f64::from(1 - step);
        assert!(
            (found - exact).abs() < 1e-13,
            "{found} at step {step}, not {exact}"
        );
    }
}

#[test]
fn psi_ends_at_1_minus_2m() {
    for m in 1..=10 {
        let loss = ASoftmax::new(m).expect("in range");
        let found = target_logit(&loss, PI, 1.0);
        assert!(
            (found - (1.0 - 2.0 * f64::from(m))).abs() < 1e-12,
            "{found} for m = {m}"
        );
    }
}

/// The published rules past π − m, on a grid that ends at π: which of them fall with the angle, and where they jump.
#[test]
fn arc_face_past_pi() {
    let grid = 20_000_u32;
    let h = PI / f64::from(grid);
    for (past_pi, falls, jump) in [
        (PastPi::Paper, false, 0.0),
        (PastPi::LinearTail, true, 0.117_295),
        (PastPi::SmoothTail, true, 0.0),
        (PastPi::EasyMargin, false, 0.479_426),
    ] {
        let loss = ArcFace::new(1.0, 0.5)
            .expect("in range")
            .with_past_pi(past_pi);
        let psi: Vec<f64> = (0..=grid)
            .map(|step| target_logit(&loss, f64::from(step) * h, 1.0))
            .collect();
        let steps: Vec<f64> = psi.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let rises = steps.iter().any(|&step| step > 1e-12);
        assert_eq!(rises, !falls, "{past_pi:?}");
        let largest = steps.iter().fold(0.0_f64, |m, step| m.max(step.abs()));
        assert!(
            (largest - jump).abs() <= 1.01 * h,
            "{past_pi:?} jumps by {largest}"
        );
    }
    let linear = ArcFace::new(1.0, 0.5)
        .expect("in range")
        .with_past_pi(PastPi::LinearTail);
    let found = target_logit(&linear, PI, 1.0);
    assert!((found + 1.0 + 0.239_712_769).abs() < 1e-9, "{found}");
}

/// Two classes at the two poles: the largest loss there is, which implementations that clamp a probability never reach.
#[test]
fn the_loss_does_not_saturate() {
    fn at_the_poles<A: Float>() -> f64 {
        let features = array![[narrow::<A>(0.5), A::zero()]];
        let weights = array![[-A::one(), A::zero()], [narrow(3.0), A::zero()]];
        let loss = NormFace::new(64.0).expect("in range");
        let found = loss.forward(features.view(), weights.view(), &Targets::new(&[0]));
        widen(found.expect("a good batch").loss)
    }
    // 128 + ln(1 + e⁻¹²⁸) is 128 to far more digits than either type holds.
    assert_eq!(at_the_poles::<f64>(), 128.0);
    assert_eq!(at_the_poles::<f32>(), 128.0);
}
