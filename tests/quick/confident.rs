//! Targets far ahead of the other classes: the normal state of a trained model, where `lse − z` and `p − 1` cancel.
//!
//! The logits are given exactly: class weights that are the identity make the features the logits, and features on an axis
//! have cosines of exactly 1 and 0.

use margin_losses::{AmSoftmax, Float, MarginLoss, NormFace, SoftmaxLoss, Targets};
use ndarray::{Array2, ArrayView1};

use crate::support::{SplitMix, assert_relative, narrow, widen};

/// Where the target leads by this much: the gaps of the promise.
const GAPS: [f64; 10] = [5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 75.0, 90.0];

#[track_caller]
fn assert_all_relative<A: Float>(
    what: &str,
    found: ArrayView1<'_, A>,
    expected: &[f64],
    tolerance: f64,
) {
    assert_eq!(found.len(), expected.len());
    for (index, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        assert_relative(
            &format!("{what}, entry {index}"),
            found,
            expected,
            tolerance,
        );
    }
}

/// The loss log1p(S), and softmax minus one-hot, where S is the sum over the others of e^{zⱼ − z_y}. The differences of the
/// given logits are exact, and nothing cancels.
fn exact(logits: &[f64], label: usize) -> (f64, Vec<f64>) {
    let relative: Vec<f64> = logits.iter().map(|z| (z - logits[label]).exp()).collect();
    let others: f64 = (relative.iter().enumerate())
        .filter(|&(class, _)| class != label)
        .map(|(_, e)| e)
        .sum();
    let mut gradient: Vec<f64> = relative.iter().map(|e| e / (1.0 + others)).collect();
    gradient[label] = -others / (1.0 + others);
    (others.ln_1p(), gradient)
}

/// Each gap up to `most` above rivals within `spread` below it, so that a rival's logit is not the target's minus the gap
/// alone.
fn given_logits<A: Float>(classes: usize, spread: f64, offset: f64, most: f64, tolerance: f64) {
    let mut rng = SplitMix(61);
    let label = classes / 2;
    let identity = Array2::<A>::eye(classes);
    for gap in GAPS.into_iter().filter(|&gap| gap <= most) {
        let features = Array2::from_shape_fn((1, classes), |(_, class)| {
            let rival = offset - spread * rng.uniform();
            narrow::<A>(if class == label { offset + gap } else { rival })
        });
        let logits: Vec<f64> = features.iter().map(|&z| widen(z)).collect();
        let (loss, gradient) = exact(&logits, label);
        let found = SoftmaxLoss::new()
            .evaluate(features.view(), identity.view(), &Targets::new(&[label]))
            .expect("a good batch");
        let what = format!("{classes} classes at a gap of {gap}");
        assert_relative(&what, found.loss(), loss, tolerance);
        assert_relative(&what, found.forward.row_losses[0], loss, tolerance);
        assert_all_relative(&what, found.grad_features.row(0), &gradient, tolerance);
        for (row, factor) in found.grad_weights.outer_iter().zip(&gradient) {
            let expected: Vec<f64> = logits.iter().map(|z| factor * z).collect();
            assert_all_relative(&what, row, &expected, tolerance);
        }
    }
}

#[test]
fn given_logits_in_f32() {
    // Equal rivals: the smallest number asked for is e⁻⁹⁰ = 8e-40, which is still exact to 9e-7 as a subnormal.
    given_logits::<f32>(2, 0.0, 1.0, 90.0, 1e-6);
    given_logits::<f32>(10, 0.0, 1.0, 90.0, 1e-6);
    // Rivals that differ, up to where the least of their gradients becomes subnormal.
    given_logits::<f32>(200, 5.0, -3.0, 75.0, 1e-6);
}

#[test]
fn given_logits_in_f64() {
    given_logits::<f64>(2, 0.0, 1.0, 90.0, 1e-13);
    given_logits::<f64>(10, 5.0, 1.0, 90.0, 1e-13);
    given_logits::<f64>(300, 5.0, -40.0, 90.0, 1e-13);
}

/// Cosine losses with cosines of exactly 1 and 0: the scale is the gap, or the scale less the margin.
fn on_axes<A: Float>(tolerance: f64) {
    let classes = 4;
    let weights = Array2::from_shape_fn((classes, classes), |(i, j)| {
        narrow::<A>(if i == j { 0.5 * (i as f64 + 1.0) } else { 0.0 })
    });
    let features = Array2::from_shape_fn((1, classes), |(_, j)| {
        narrow::<A>(if j == 2 { 2.0 } else { 0.0 })
    });
    let check = |loss: &dyn MarginLoss<A>, scale: f64, gap: f64| {
        let found = loss
            .evaluate(features.view(), weights.view(), &Targets::new(&[2]))
            .expect("a good batch");
        let others = 3.0 * (-gap).exp();
        let rival = (-gap).exp() / (1.0 + others);
        assert_relative(
            &format!("{loss:?}"),
            found.loss(),
            others.ln_1p(),
            tolerance,
        );
        for class in [0, 1, 3] {
            let what = format!("{loss:?}, class {class}");
            // s G ŵⱼ / ‖x‖, and s G x̂ / ‖wⱼ‖.
            assert_relative(
                &what,
                found.grad_features[[0, class]],
                scale * rival / 2.0,
                tolerance,
            );
            let length = 0.5 * (class as f64 + 1.0);
            assert_relative(
                &what,
                found.grad_weights[[class, 2]],
                scale * rival / length,
                tolerance,
            );
        }
    };
    for gap in GAPS {
        check(&NormFace::new(gap).expect("in range"), gap, gap);
        check(
            &AmSoftmax::new(2.0 * gap, 0.5).expect("in range"),
            2.0 * gap,
            gap,
        );
    }
}

#[test]
fn cosine_losses_with_exact_cosines() {
    on_axes::<f32>(1e-6);
    on_axes::<f64>(1e-13);
}
