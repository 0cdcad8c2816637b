//! Numbers that are large, small, or far apart: rows 6 to 9, 17, 19, 24 and 25.

use margin_losses::{
    ASoftmax, Argument, CosFace, Error, Evaluation, Float, MarginLoss, ModifiedSoftmax, NormFace,
    Reduction, SoftmaxLoss, Targets,
};
use ndarray::{Array1, Array2, Axis, array};

use super::{assert_finite, evaluate, in_both_types};
use crate::support::refusal::{self};
use crate::support::{Batch, assert_relative, every_loss, narrow, widen};

/// Two classes whose cosines are `target` and `other`, exactly.
fn two_classes<A: Float>(loss: &dyn MarginLoss<A>, target: f64, other: f64) -> Evaluation<A> {
    let feature = array![[narrow::<A>(0.5), A::zero()]];
    let along = |cosine: f64| {
        [
            narrow::<A>(3.0 * cosine),
            narrow(3.0 * (1.0 - cosine.abs())),
        ]
    };
    let weights = array![along(target), along(other)];
    loss.evaluate(feature.view(), weights.view(), &Targets::new(&[0]))
        .expect("a good batch")
}

/// ln(1 + e^gap), which a probability that is clamped to 1e-30 keeps below 69.08.
fn unsaturated<A: Float>() {
    let norm_face = NormFace::new(64.0).expect("in range");
    let half = CosFace::new(64.0, 0.5).expect("in range");
    let cases: [(&dyn MarginLoss<A>, f64, f64, f64); 4] = [
        (&norm_face, -1.0, 1.0, 128.0),
        (&norm_face, 0.0, 1.0, 64.0),
        (&half, -1.0, 1.0, 160.0),
        (&half, 0.0, 1.0, 96.0),
    ];
    for (loss, target, other, gap) in cases {
        let found = two_classes(loss, target, other);
        let off = (widen(found.loss()) - gap).abs();
        assert!(off <= widen(A::epsilon()) * gap, "{}", found.loss());
        // The target is pulled with full strength: a clamp would have lost the gradient too.
        if target == 0.0 {
            let pull = found.grad_features.row(0).mapv(widen);
            assert_relative("∂x", pull[1], -64.0 / 0.5, 1e-6);
        }
    }
    for (gap, margin) in [(70.4, 0.1), (153.6, 0.4)] {
        let loss = CosFace::new(64.0, margin).expect("in range");
        let target = if margin == 0.1 { 0.0 } else { -1.0 };
        let found = widen(two_classes::<A>(&loss, target, 1.0).loss());
        assert_relative("L", found, gap, widen(A::epsilon()));
    }
}

in_both_types!(row_06_losses_above_69, unsaturated);

/// A thousand classes, and targets that lead by 5 … 90.
fn confident<A: Float>(tolerance: f64) {
    const CLASSES: usize = 1000;
    let gaps: Vec<f64> = (1..=18).map(|step| 5.0 * f64::from(step)).collect();
    let labels: Vec<usize> = (0..gaps.len()).map(|row| 53 * row).collect();
    // The weights are the identity, so that the features are the logits.
    let weights = Array2::<A>::eye(CLASSES);
    let features = Array2::from_shape_fn((gaps.len(), CLASSES), |(row, class)| {
        narrow::<A>(if class == labels[row] {
            gaps[row] - 2.0
        } else {
            -2.0
        })
    });
    let targets = Targets::new(&labels).with_reduction(Reduction::Sum);
    let found = SoftmaxLoss::new()
        .evaluate(features.view(), weights.view(), &targets)
        .expect("a good batch");
    for (row, &gap) in gaps.iter().enumerate() {
        let rival = (-gap).exp();
        let others = 999.0 * rival;
        let what = format!("a gap of {gap}");
        let loss = widen(found.forward.row_losses[row]);
        assert_relative(&what, loss, others.ln_1p(), tolerance);
        let gradient = found.grad_features.row(row).mapv(widen);
        for (class, &entry) in gradient.indexed_iter() {
            let exact = if class == labels[row] {
                -others / (1.0 + others)
            } else {
                rival / (1.0 + others)
            };
            assert_relative(&what, entry, exact, tolerance);
        }
        let size: f64 = gradient.iter().map(|g| g.abs()).sum();
        // A subnormal entry is right to half of the smallest number there is, not to a part of itself.
        let steps = 500.0 * widen(A::min_positive_value() * A::epsilon());
        // Differences of logits are taken in f64, so that in f64 their own rounding is seen as well.
        let units = 4.0 * widen(A::epsilon()) + gap * f64::EPSILON;
        let allowed = units * size + steps;
        // The target's entry first, so that the sum of the test loses nothing itself.
        let rest: f64 = (gradient
            .indexed_iter()
            .filter(|(class, _)| *class != labels[row]))
        .map(|(_, &entry)| entry + gradient[labels[row]] / 999.0)
        .sum();
        assert!(rest.abs() <= allowed, "{what}: {rest:e} of {size:e}");
    }
}

#[test]
fn row_07_confident_targets() {
    confident::<f32>(1e-6);
    confident::<f64>(1e-13);
}

/// What a 16-bit float cannot hold: 70,000 terms, their labels, the square of a norm of 300, e¹².
fn beyond_16_bits<A: Float>() {
    const CLASSES: usize = 70_000;
    let labels: Vec<usize> = vec![2_047, 2_049, 65_505, CLASSES - 1];
    let features = Array2::<A>::from_elem((4, 2), narrow(12.0 / 2.0_f64.sqrt()));
    let weights = Array2::<A>::from_elem((CLASSES, 2), narrow(0.5_f64.sqrt()));
    let found = SoftmaxLoss::new()
        .evaluate(features.view(), weights.view(), &Targets::new(&labels))
        .expect("a good batch");
    let exact = (CLASSES as f64).ln();
    for &loss in &found.forward.row_losses {
        assert_relative("ln 70,000", widen(loss), exact, 1e-6);
    }
    for (class, gradient) in found.grad_weights.outer_iter().enumerate() {
        assert_eq!(gradient[0] < A::zero(), labels.contains(&class), "{class}");
    }
    for length in [12.0, 300.0 / 512.0_f64.sqrt()] {
        let features = Array2::<A>::from_elem((1, 512), narrow(length));
        let mut weights = Array2::<A>::zeros((2, 512));
        weights.column_mut(0).fill(A::one());
        weights[[1, 1]] = -A::one();
        let loss = NormFace::new(512.0_f64.sqrt()).expect("in range");
        let found = loss
            .evaluate(features.view(), weights.view(), &Targets::new(&[0]))
            .expect("a good batch");
        // The cosines are 1/√512 and 0: the gap is 1.
        assert_relative("L", widen(found.loss()), (-1.0_f64).exp().ln_1p(), 1e-6);
    }
}

in_both_types!(row_08_more_than_16_bits_hold, beyond_16_bits);

/// Norms whose squares are 0 and infinite in f32.
fn any_length<A: Float>() {
    let loss = NormFace::new(4.0).expect("in range");
    let of = |length: f64| {
        let features = array![[narrow::<A>(0.6 * length), narrow(0.8 * length)]];
        let weights = array![[A::one(), A::zero()], [A::zero(), A::one()]];
        let found = loss.forward(features.view(), weights.view(), &Targets::new(&[0]));
        widen(found.expect("a good batch").loss)
    };
    for length in [1e-23, 1e20] {
        assert_relative("L", of(length), (0.8_f64).exp().ln_1p(), 1e-6);
    }
}

in_both_types!(row_09_rows_of_any_length, any_length);

/// Free norms of any size: finite if the true value is, and an error if it is not.
#[test]
fn row_17_huge_logits() {
    let features = array![[1.0_f32]];
    let loss = |weights: [f32; 2], label: usize| {
        let weights = array![[weights[0]], [weights[1]]];
        let targets = Targets::new(core::slice::from_ref(&label)).with_reduction(Reduction::Sum);
        let found = SoftmaxLoss::new().evaluate(features.view(), weights.view(), &targets)?;
        assert_finite("softmax", &found);
        Ok(found.loss())
    };
    let too_large = |found: Result<f32, Error>| matches!(found, Err(Error::Overflow { .. }));
    assert_eq!(loss([1e38, 1e38], 0), Ok(core::f32::consts::LN_2));
    assert_eq!(loss([1e38, -1e38], 0), Ok(0.0));
    assert_eq!(loss([1e38, -1e38], 1), Ok(2e38));
    assert_eq!(loss([3e38, 3e38], 1), Ok(core::f32::consts::LN_2));
    assert_eq!(loss([3e38, -3e38], 0), Ok(0.0));
    assert!(too_large(loss([3e38, -3e38], 1)), "6e38 is no f32");

    // Features of 1e38, whose cosines to the two classes are 1 and −1 or 1 and 0.
    let features = array![[1e38_f32, 0.0]];
    for (m, opposite) in [(1, false), (2, false), (3, true), (4, false)] {
        let second = if opposite { [-2.0, 0.0] } else { [0.0, 2.0] };
        let weights = array![[2.0, 0.0], second];
        let losses: [&dyn MarginLoss<f32>; 2] = [
            &ASoftmax::new(m).expect("in range"),
            &ModifiedSoftmax::new(),
        ];
        for loss in losses {
            let of =
                |label| loss.evaluate(features.view(), weights.view(), &Targets::new(&[label]));
            let right = of(0).expect("the target leads by far");
            assert_eq!(right.loss(), 0.0, "{loss:?}");
            assert_finite("A-Softmax", &right);
            match of(1) {
                Ok(wrong) => assert!(wrong.loss() >= 1e38 && wrong.loss().is_finite()),
                // 1e38 (1 − ψ), with ψ down to 1 − 2m.
                Err(error) => assert!(m > 1 && matches!(error, Error::Overflow { .. })),
            }
        }
    }
}

/// Down to 2⁻¹²⁰ (2⁻¹⁰⁰⁰ in `f64`) the gradient, which grows as 1/‖x‖, has the bits that it should have; below, it is refused.
fn short_rows<A: Float>(least: i32, within: [i32; 2], below: [i32; 2]) {
    let mut plain = Batch::<A>::random(182, 1, 4, 5);
    let norm = plain
        .features
        .iter()
        .map(|&v| widen(v).powi(2))
        .sum::<f64>();
    let power = (norm.sqrt().log2().floor()) as i32;
    plain
        .features
        .mapv_inplace(|v| v * narrow(2.0_f64.powi(-power)));
    // The norm is now in [1, 2), so that a power of two is the least norm of its row.
    for case in every_loss(plain.centers.view()) {
        if !case.is_angular() {
            continue;
        }
        let expected = evaluate(&*case.loss, &plain);
        let scaled = |power: i32| {
            let mut batch = plain.clone();
            // In two steps, each of which is a number.
            let halves = [2.0_f64.powi(power / 2), 2.0_f64.powi(power - power / 2)];
            batch
                .features
                .mapv_inplace(|v| narrow(widen(v) * halves[0] * halves[1]));
            batch
        };
        for power in within.into_iter().chain([least]) {
            let found = evaluate(&*case.loss, &scaled(power));
            for (&found, &expected) in found.grad_features.iter().zip(&expected.grad_features) {
                let exact = widen(expected) * 2.0_f64.powi(-power);
                // The row itself lost digits if its small entries became subnormal.
                assert_relative(&case.name, widen(found), exact, 1e-5);
            }
        }
        for power in below {
            let batch = scaled(power);
            let expected = Error::NormTooSmall {
                argument: Argument::Features,
                row: 0,
            };
            let found = refusal::refused_alike(
                &case.name,
                &*case.loss,
                &batch,
                &Targets::new(&batch.labels),
            );
            assert_eq!(found, expected, "{} at 2^{power}", case.name);
        }
    }
}

#[test]
fn row_19_short_rows() {
    short_rows::<f32>(-120, [-90, -110], [-121, -140]);
    short_rows::<f64>(-1000, [-500, -990], [-1001, -1060]);
}

/// An `f32` sum of ones stops growing at 2²⁴, and is off by 2e-3 long before. `slow.rs` has the gradients of this batch.
#[test]
fn row_24_twenty_million_classes() {
    const CLASSES: usize = 20_000_000;
    let features = array![[1.0_f32]];
    let one = Array1::from_elem(1, 1.0_f32);
    // One weight in memory, seen twenty million times.
    let weights = one.broadcast((CLASSES, 1)).expect("one class, repeated");
    let found = SoftmaxLoss::new()
        .forward(features.view(), weights, &Targets::new(&[17]))
        .expect("a good batch");
    assert_relative("L", widen(found.loss), (CLASSES as f64).ln(), 1e-6);
}

/// Sizes whose products exceed any index are refused by what they would need, and nothing is multiplied out unseen. `slow.rs`
/// computes a batch of more than 2³² logits.
#[test]
fn row_25_sizes_beyond_an_index() {
    const ROWS: usize = 4096;
    let features = Array2::from_elem((ROWS, 1), 1.0_f32);
    let one = Array1::from_elem(1, 1.0_f32);
    for power in [33, 40, 52, 62] {
        let classes = 1_usize << power;
        let weights = one.broadcast((classes, 1)).expect("one class, repeated");
        let labels = vec![classes - 1; ROWS];
        let targets = Targets::new(&labels);
        for loss in [
            &SoftmaxLoss::new() as &dyn MarginLoss<f32>,
            &CosFace::default(),
        ] {
            let mut kept = Evaluation::with_scratch_limit(1 << 30);
            let refused = [
                loss.forward(features.view(), weights, &targets).map(drop),
                loss.evaluate_into(features.view(), weights, &targets, &mut kept),
            ];
            for refused in refused {
                match refused {
                    Err(Error::ScratchLimit { needed, .. }) => assert!(needed > classes),
                    other => panic!("2^{power} classes: {other:?}"),
                }
            }
        }
    }
    let labels = vec![0; ROWS];
    assert_eq!(features.len_of(Axis(0)), labels.len());
}
