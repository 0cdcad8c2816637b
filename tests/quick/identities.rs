//! What holds for any batch: orthogonality, Euler's relation, sums that vanish, invariance to length, losses that coincide.

use margin_losses::{
    ASoftmax, AmSoftmax, ArcFace, CombinedMargin, CosFace, Evaluation, Float, JointLoss,
    MarginLoss, ModifiedSoftmax, NormFace, PastPi, Reduction, SoftmaxLoss, Targets,
};
use ndarray::{Array2, Axis};

use crate::support::{
    Batch, Layer, Snapshot, SplitMix, assert_close, every_loss, largest, max_difference, narrow,
    truth, wide, widen,
};

fn evaluate<A: Float>(loss: &dyn MarginLoss<A>, batch: &Batch<A>) -> Evaluation<A> {
    let targets = Targets::new(&batch.labels);
    let found = loss.evaluate(batch.features.view(), batch.weights.view(), &targets);
    found.unwrap_or_else(|error| panic!("{loss:?}: {error}"))
}

#[track_caller]
fn assert_all_below(what: &str, values: &[f64], bound: f64) {
    assert!(
        values.iter().all(|v| v.abs() <= bound),
        "{what}: {values:?} exceed {bound:e}"
    );
}

/// A logit of degree one in ‖x‖ gives x·∂x = Σ G z.
#[test]
fn euler_holds_where_the_feature_keeps_its_length() {
    let batch = Batch::<f64>::random(72, 5, 12, 4);
    let mut tested = 0;
    for case in every_loss(batch.centers.view()) {
        if matches!(case.formula.layer, Layer::FreeNorm) {
            tested += 1;
            let found = evaluate(&*case.loss, &batch);
            let expected = truth(&case.formula, &batch, Reduction::Mean, false);
            let inner = (&batch.features * &found.grad_features).sum_axis(Axis(1));
            let euler = (&expected.coefficients * &expected.logits).sum_axis(Axis(1));
            assert_close(&case.name, &inner.to_vec(), &euler.to_vec(), 1e-13);
        }
    }
    assert_eq!(tested, 7);
}

#[test]
fn the_softmax_moves_no_common_part() {
    let batch = Batch::<f64>::random(73, 7, 30, 5);
    let bias: Vec<f64> = (0..30).map(|class| f64::from(class) / 20.0).collect();
    let found = evaluate(&SoftmaxLoss::with_bias(bias).expect("finite"), &batch);
    assert_all_below(
        "Σ ∂W",
        &found.grad_weights.sum_axis(Axis(0)).to_vec(),
        1e-15,
    );
    assert_all_below("Σ ∂b", &[found.grad_learnables.sum()], 1e-15);
}

/// Every row by its own power of two: the loss keeps its bits, and the gradients are those divided by the powers, to so many
/// units in the last place of the largest.
fn rescaled<A: Float>(batch: &Batch<A>, x_powers: &[i32], w_powers: &[i32], units: f64) {
    let multiply = |matrix: &Array2<A>, powers: &[i32], sign: i32| {
        Array2::from_shape_fn(matrix.dim(), |(i, j)| {
            narrow::<A>(widen(matrix[[i, j]]) * 2.0_f64.powi(sign * powers[i]))
        })
    };
    for case in every_loss(batch.centers.view()) {
        let free_norm = matches!(case.formula.layer, Layer::FreeNorm);
        if !case.is_angular() && !free_norm {
            continue;
        }
        let zeros = vec![0; x_powers.len()];
        let x_powers = if free_norm { &zeros } else { x_powers };
        let mut scaled = batch.clone();
        scaled.features = multiply(&batch.features, x_powers, 1);
        scaled.weights = multiply(&batch.weights, w_powers, 1);
        let (plain, found) = (evaluate(&*case.loss, batch), evaluate(&*case.loss, &scaled));
        let what = format!("{} at 2^{w_powers:?}", case.name);
        assert_eq!(
            Snapshot::of_forward(&plain.forward),
            Snapshot::of_forward(&found.forward),
            "{what}"
        );
        for (plain, found, powers) in [
            (&plain.grad_features, &found.grad_features, x_powers),
            (&plain.grad_weights, &found.grad_weights, w_powers),
        ] {
            let expected = multiply(plain, powers, -1);
            let (found, expected) = (wide(found), wide(&expected));
            let off = max_difference(&found, &expected);
            let unit = largest(&expected).max(widen(A::min_positive_value())) * widen(A::epsilon());
            let allowed = units * unit;
            assert!(off <= allowed, "{what}: off by {off:e}");
        }
    }
}

#[test]
fn powers_of_two_leave_the_loss_and_divide_the_gradient() {
    fn check<A: Float>(largest_power: i32) {
        let batch = Batch::<A>::random(74, 5, 33, 6);
        let mut rng = SplitMix(75);
        for power in [1, 20, largest_power] {
            let mut powers = |rows: usize| -> Vec<i32> {
                let mut sign = || if rng.bits().is_multiple_of(2) { 1 } else { -1 };
                (0..rows).map(|_| sign() * power).collect()
            };
            rescaled(&batch, &powers(5), &powers(33), 0.0);
        }
    }
    check::<f64>(400);
    // Entries of the gradient down to 2⁻⁴⁶ of its unit are then still normal numbers.
    check::<f32>(80);
}

/// Rows that are all alike in length: around the lengths from which on a block is rescaled for the products, and so long that
/// the products would overflow.
#[test]
fn lengths_at_which_a_block_is_rescaled() {
    fn check<A: Float>(window: i32, longest: i32) {
        let batch = Batch::<A>::random(76, 3, 5, 4);
        for power in (-window - 3..=3 - window).chain(window - 3..=window + 3) {
            rescaled(&batch, &[0; 3], &[power; 5], 0.0);
        }
        for power in longest - 5..=longest {
            rescaled(&batch, &[0; 3], &[power; 5], 4.0);
        }
    }
    check::<f64>(200, 1020);
    check::<f32>(16, 124);
}

/// The two losses and all gradients agree to this many parts of the largest entry.
#[track_caller]
fn assert_same(what: &str, a: &dyn MarginLoss<f64>, b: &dyn MarginLoss<f64>, tolerance: f64) {
    for seed in 80..84 {
        let batch = Batch::<f64>::random(seed, 5, 9, 3);
        let (a, b) = (evaluate(a, &batch), evaluate(b, &batch));
        assert_close(what, &[a.loss()], &[b.loss()], tolerance);
        assert_close(
            what,
            &wide(&a.grad_features),
            &wide(&b.grad_features),
            tolerance,
        );
        assert_close(
            what,
            &wide(&a.grad_weights),
            &wide(&b.grad_weights),
            tolerance,
        );
    }
}

#[test]
fn margins_of_zero_are_no_margins() {
    let norm_face = NormFace::new(16.0).expect("in range");
    let without: [Box<dyn MarginLoss<f64>>; 5] = [
        Box::new(CosFace::new(16.0, 0.0).expect("in range")),
        Box::new(AmSoftmax::new(16.0, 0.0).expect("in range")),
        Box::new(ArcFace::new(16.0, 0.0).expect("in range")),
        Box::new(
            ArcFace::new(16.0, 0.0)
                .expect("in range")
                .with_past_pi(PastPi::SmoothTail),
        ),
        Box::new(CombinedMargin::new(16.0, 1.0, 0.0, 0.0).expect("in range")),
    ];
    for loss in &without {
        assert_same(&format!("{loss:?}"), &**loss, &norm_face, 1e-13);
    }
}

#[test]
fn the_losses_reduce_to_one_another() {
    let modified = ModifiedSoftmax::new();
    assert_same(
        "m = 1",
        &ASoftmax::new(1).expect("in range"),
        &modified,
        1e-13,
    );
    let annealed = ASoftmax::new(4)
        .and_then(|loss| loss.with_lambda(1e14))
        .expect("in range");
    assert_same("λ = 1e14", &annealed, &modified, 1e-12);
    let combined = |m1, m2, m3| CombinedMargin::new(64.0, m1, m2, m3).expect("in range");
    let cos_face = CosFace::new(64.0, 0.35).expect("in range");
    assert_same("m3 alone", &combined(1.0, 0.0, 0.35), &cos_face, 1e-13);
    assert_same(
        "m2 alone",
        &combined(1.0, 0.5, 0.0),
        &ArcFace::new(64.0, 0.5)
            .expect("in range")
            .with_past_pi(PastPi::Paper),
        1e-13,
    );
    assert_same(
        "two names",
        &AmSoftmax::new(64.0, 0.35).expect("in range"),
        &cos_face,
        0.0,
    );
    let scale = NormFace::learned(16.0).expect("in range");
    assert_same(
        "learned or not",
        &scale,
        &NormFace::new(16.0).expect("in range"),
        0.0,
    );
    let zero_bias = SoftmaxLoss::with_bias(vec![0.0; 9]).expect("finite");
    assert_same("no bias", &zero_bias, &SoftmaxLoss::new(), 0.0);
}

#[test]
fn a_center_loss_of_weight_zero_is_not_there() {
    let centers = SplitMix(85).matrix::<f64>(9, 3);
    let joint = JointLoss::new(SoftmaxLoss::new(), centers.view(), 0.0).expect("in range");
    assert_same("λ = 0", &joint, &SoftmaxLoss::new(), 0.0);
    let found = evaluate(&joint, &Batch::random(86, 5, 9, 3));
    assert_eq!(found.grad_centers, Array2::<f64>::zeros((9, 3)));
}

/// The corners of a regular simplex, with the features on them, reach the lower bound of the normalised softmax,
/// log(1 + (n − 1) e^{−s n/(n − 1)}), and there is nothing left to pull.
#[test]
fn simplex_data_reach_the_lower_bound() {
    for (n, scale, printed) in [
        (5, 1.0, 0.763_614_585_194),
        (10, 10.0, 1.344_99e-4),
        (2, 1.0, 0.126_928),
        (10, 1.0, 1.376_935),
        (1000, 10.0, 0.043_924),
    ] {
        // The corners eᵢ − 1/n, times two.
        let corner = 2.0 / f64::from(n);
        let side = n as usize;
        let simplex =
            Array2::from_shape_fn(
                (side, side),
                |(i, j)| if i == j { 2.0 - corner } else { -corner },
            );
        let labels: Vec<usize> = (0..side).collect();
        let loss = NormFace::new(scale).expect("in range");
        let found = loss
            .evaluate(simplex.view(), simplex.view(), &Targets::new(&labels))
            .expect("a good batch");
        let n = f64::from(n);
        let bound = ((n - 1.0) * (-scale * n / (n - 1.0)).exp()).ln_1p();
        assert_close(&format!("n = {n}"), &[found.loss()], &[bound], 1e-13);
        assert!(
            (bound - printed).abs() <= 1e-6 * printed.max(0.5),
            "{bound} is published as {printed}"
        );
        assert_all_below("∂X", &wide(&found.grad_features), 1e-15);
        assert_all_below("∂W", &wide(&found.grad_weights), 1e-15);
    }
}

/// Two classes of equal weights, one of them the target, far ahead of all others: they share the probability, however large
/// the logits are and wherever the classes stand.
fn classes_of_equal_weights_share_the_probability<A: Float>() {
    let mut rng = SplitMix(87);
    let losses: [&dyn MarginLoss<A>; 2] = [&SoftmaxLoss::new(), &ModifiedSoftmax::new()];
    for (rows, classes, dimension) in [
        (1, 2, 2),
        (1, 5, 3),
        (1, 900, 40),
        (2, 65, 12),
        (1, 129, 5),
        (9, 513, 64),
        (3, 700, 17),
        (40, 100, 64),
        (300, 1200, 33),
    ] {
        for length in [1.0, 30.0, 450.0, 3e4] {
            let mut batch = Batch::<A>::random(rng.bits(), rows, classes, dimension);
            batch.weights.mapv_inplace(|w| w.abs() * narrow(-length));
            batch.features.mapv_inplace(|x| x.abs() * narrow(length));
            let (own, twin) = (rng.below(classes), rng.below(classes - 1));
            let twin = if twin < own { twin } else { twin + 1 };
            // The last class may be a block of its own.
            let apart = length > 450.0;
            let (own, twin) = if apart { (0, classes - 1) } else { (own, twin) };
            let ahead = batch.weights.row(own).mapv(|w| -w);
            batch.weights.row_mut(own).assign(&ahead);
            batch.weights.row_mut(twin).assign(&ahead);
            batch.labels.fill(own);
            for loss in losses {
                let found = evaluate(loss, &batch);
                let what =
                    format!("{loss:?}, {rows}×{classes}×{dimension}, {length}, {own} and {twin}");
                if length > 1.0 {
                    assert_close(
                        &what,
                        &wide(&found.forward.row_losses),
                        &vec![2.0_f64.ln(); rows],
                        1e-6,
                    );
                    let pull = wide(found.grad_weights.row(own));
                    let push = wide(found.grad_weights.row(twin).mapv(|g| -g).iter());
                    assert_close(&what, &pull, &push, 2e-6);
                }
                assert!(
                    found.forward.correct.iter().all(|correct| !correct),
                    "{what}: a tie is not right"
                );
            }
        }
    }
}

#[test]
fn classes_of_equal_weights_share_the_probability_in_f32() {
    classes_of_equal_weights_share_the_probability::<f32>();
}

#[test]
fn classes_of_equal_weights_share_the_probability_in_f64() {
    classes_of_equal_weights_share_the_probability::<f64>();
}
