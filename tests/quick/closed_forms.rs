//! Losses whose value is known in closed form: at right angles to every class, on decision boundaries.

use core::f64::consts::LN_2;

use margin_losses::{
    ASoftmax, AmSoftmax, ArcFace, CosFace, Float, MarginLoss, NormFace, PastPi, SoftmaxLoss,
    Targets,
};
use ndarray::{Array2, array};

use crate::support::widen;

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
    let arc_face = ArcFace::new(64.0, 0.5)
        .expect("in range")
        .with_past_pi(PastPi::Paper);
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
        &ArcFace::new(64.0, 0.5)
            .expect("in range")
            .with_past_pi(PastPi::Paper),
        target,
        target + 0.5,
    );
    // Weights of lengths 0.7 and 2.5 that are not normalised: 0.7 cosθ₁ = 2.5 cosθ₂.
    let other = (0.7 / 2.5 * target.cos()).acos();
    assert_boundary(&SoftmaxLoss::new(), target, other);
}
