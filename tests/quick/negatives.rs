//! Losses that change the negatives: MV-Softmax, inter-class filtering, CurricularFace. What they reduce to, both sides of their
//! thresholds, poles, and closed forms.

use core::f64::consts::PI;

use margin_losses::{
    Angle, AnyLoss, ArcFace, CosFace, CurricularFace, Error, Evaluation, Float, Margin, MarginLoss,
    MvSoftmax, PastPi, Reduction, Target, Targets,
};
use ndarray::{Array2, array};

use crate::support::{Batch, Snapshot, any, assert_close, bits, evaluated};

fn without_effect<A: Float>() {
    let batch = Batch::<A>::random(11, 9, 6, 4);
    let of = |line: &str| Snapshot::of(&evaluated(&any(line), &batch));
    for (line, base) in [
        ("mv-softmax:s=30,m=0.35,t=0", "cosface:s=30,m=0.35"),
        ("mv-softmax:s=30,m=0.35,t=0,fixed", "cosface:s=30,m=0.35"),
        (
            "mv-softmax:s=30,m=0.5,t=0,arc",
            "arcface:s=30,m=0.5,past_pi=paper",
        ),
        (
            "mv-softmax:s=30,m=0.5,t=0,arc,easy",
            "arcface:s=30,m=0.5,past_pi=easy-margin",
        ),
    ] {
        assert!(of(line) == of(base), "{line}");
    }
}

#[test]
fn without_a_weight_they_have_the_bits_of_the_base() {
    without_effect::<f32>();
    without_effect::<f64>();
}

/// Every target leads by more than its margin, so that no class is hard, and no cosine is above the filter.
#[test]
fn without_a_hard_class_they_have_the_bits_of_the_base() {
    let mut batch = Batch::<f64>::random(12, 6, 5, 8);
    for (row, &label) in batch.labels.iter().enumerate() {
        let class = batch.weights.row(label).to_owned();
        batch
            .features
            .row_mut(row)
            .zip_mut_with(&class, |x, &w| *x = w + 0.05 * *x);
    }
    let of = |line: &str| {
        let found = evaluated(&any(line), &batch);
        (
            bits(&found.grad_features),
            bits(&found.grad_weights),
            found.loss().to_bits(),
        )
    };
    for (line, base) in [
        ("mv-softmax:s=8,m=0.1,t=0.5", "cosface:s=8,m=0.1"),
        ("mv-softmax:s=8,m=0.1,t=0.5,arc,fixed", "arcface:s=8,m=0.1"),
        ("cosface:s=8,m=0.1,filter=0.99", "cosface:s=8,m=0.1"),
        ("arcface:s=8,m=0.1,filter=1", "arcface:s=8,m=0.1"),
    ] {
        assert_eq!(of(line), of(base), "{line}");
    }
}

/// One row and two classes in the plane: the feature at the angle `turned`, its class at 0, the other at `other`.
fn plane(turned: f64, other: f64) -> [Array2<f64>; 2] {
    let x = array![[turned.cos(), turned.sin()]];
    let w = array![[1.0, 0.0], [other.cos(), other.sin()]];
    [x, w]
}

fn planar(loss: &AnyLoss, turned: f64, other: f64) -> Evaluation<f64> {
    let [x, w] = plane(turned, other);
    loss.evaluate(x.view(), w.view(), &Targets::new(&[0]))
        .expect("a good row")
}

/// The loss is its closed form, ln(1 + e^(s (T(c) − ψ))), on both sides of the threshold, and the gradient is the difference
/// quotient on each.
#[test]
fn both_sides_of_the_thresholds() {
    // ψ and T of the two angles, and whether the class is above the threshold.
    type Closed = fn(f64, f64, bool) -> [f64; 2];
    // The line, the angle of the threshold at a target's angle, and the closed form.
    type Planar = (&'static str, fn(f64) -> f64, Closed);
    let filtered: Closed = |y, j, above| [y.cos() - 0.3, if above { 0.0 } else { j.cos() }];
    let mv_am: Closed = |y, j, above| {
        let c = j.cos();
        [y.cos() - 0.35, if above { 1.2 * c + 0.2 } else { c }]
    };
    let mv_am_fixed: Closed =
        |y, j, above| [y.cos() - 0.35, j.cos() + if above { 0.2 } else { 0.0 }];
    let mv_arc: Closed = |y, j, above| {
        let c = j.cos();
        [(y + 0.5).cos(), if above { 1.2 * c + 0.2 } else { c }]
    };
    let mv_arc_easy: Closed = |y, j, above| {
        let c = j.cos();
        let psi = if y < PI / 2.0 {
            (y + 0.5).cos()
        } else {
            y.cos()
        };
        [psi, if above { 1.2 * c + 0.2 } else { c }]
    };
    let curricular: Closed = |y, j, above| {
        let c = j.cos();
        [(y + 0.5).cos(), if above { c * (0.25 + c) } else { c }]
    };
    let cases: [Planar; 6] = [
        ("cosface:s=5,m=0.3,filter=0.4", |_| 0.4_f64.acos(), filtered),
        (
            "mv-softmax:s=5,m=0.35,t=0.2",
            |y| (y.cos() - 0.35).acos(),
            mv_am,
        ),
        (
            "mv-softmax:s=5,m=0.35,t=0.2,fixed",
            |y| (y.cos() - 0.35).acos(),
            mv_am_fixed,
        ),
        ("mv-softmax:s=5,m=0.5,t=0.2,arc", |y| y + 0.5, mv_arc),
        (
            "mv-softmax:s=5,m=0.5,t=0.2,arc,easy",
            |y| y + 0.5,
            mv_arc_easy,
        ),
        (
            "curricularface:s=5,m=0.5,momentum=0,t=0.25",
            |y| y + 0.5,
            curricular,
        ),
    ];
    for (line, threshold, closed) in cases {
        let loss = any(line);
        for y in [0.4, 1.2, 1.7] {
            for (distance, above) in [(1e-3, true), (1e-5, true), (1e-3, false), (1e-5, false)] {
                // A class nearer than the threshold is above it.
                let j = threshold(y) + if above { -distance } else { distance };
                let value = |turned: f64| planar(&loss, turned, y + j).loss();
                // The feature at y: the other class lies beyond it, so at the angle j.
                let found = planar(&loss, y, y + j);
                let [psi, t] = closed(y, j, above);
                let expected = (5.0 * (t - psi)).exp().ln_1p();
                let what = format!("{line} at {y}, {distance} {above}");
                assert_close(&what, &[found.loss()], &[expected], 1e-13);
                // Turning the feature moves both angles by as much, in opposite directions.
                let step = distance / 20.0;
                let quotient = (value(y + step) - value(y - step)) / (2.0 * step);
                let along =
                    -y.sin() * found.grad_features[[0, 0]] + y.cos() * found.grad_features[[0, 1]];
                assert!(
                    (along - quotient).abs() <= 1e-7 * quotient.abs().max(1.0),
                    "{what}: {along} {quotient}"
                );
            }
        }
    }
}

/// Features that lie on the target, opposite to it, on another class, and opposite to that.
#[test]
fn poles_are_finite() {
    let w = array![[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.6, 0.8, 0.0]];
    let x = array![
        [2.0, 0.0, 0.0],
        [-1.0, 0.0, 0.0],
        [0.0, 3.0, 0.0],
        [0.0, -1.0, 0.0]
    ];
    for line in [
        "cosface:filter=0.4",
        "arcface:filter=0.4",
        "mv-softmax",
        "mv-softmax:arc",
        "mv-softmax:arc,easy,fixed",
        "curricularface",
        "curricularface:t=0.9,momentum=0.5",
    ] {
        let loss = any(line);
        let targets = Targets::new(&[0; 4]);
        let out: Evaluation<f64> = loss
            .evaluate(x.view(), w.view(), &targets)
            .expect("good rows");
        assert!(Snapshot::of(&out).is_finite(), "{line}");
        let refused = MarginLoss::<f64>::forward(
            &loss,
            (&x * &array![[1.0], [1.0], [0.0], [1.0]]).view(),
            w.view(),
            &targets,
        );
        assert!(
            matches!(refused, Err(Error::ZeroNorm { row: 2, .. })),
            "{line}"
        );
    }
}

/// Filtered, a class stays in the sum as e⁰, and has no gradient.
#[test]
fn what_is_filtered_counts_as_zero() {
    let loss = any("cosface:s=3,m=0.1,filter=0.4");
    let found = planar(&loss, 0.5, 1.0);
    let expected = (-3.0 * (0.5_f64.cos() - 0.1)).exp().ln_1p();
    assert_close("L", &[found.loss()], &[expected], 1e-15);
    assert_eq!(found.grad_weights.row(1).to_vec(), [0.0, 0.0]);
}

/// The rules that say which rows have a margin, at right angles and on either side.
#[test]
fn the_easy_margin_ends_at_a_right_angle() {
    let at = |loss: &MvSoftmax, radians: f64| {
        loss.target_logit(&Target::from(Angle::from_radians(radians)))
            .value()
    };
    let am = MvSoftmax::new(32.0, 0.35, 0.2).unwrap();
    let easy = am.with_easy_margin(true);
    assert_eq!(at(&am, 1.7), 1.7_f64.cos() - 0.35);
    assert_eq!(at(&easy, 1.7), 1.7_f64.cos());
    assert_eq!(at(&easy, 1.5), 1.5_f64.cos() - 0.35);
    // The threshold keeps the margin.
    let hard = easy.negatives(&Target::from(Angle::from_radians(1.7)));
    assert!(hard.of(1.7_f64.cos() - 0.34) > 1.7_f64.cos() - 0.3);
    let arc = MvSoftmax::arc(32.0, 0.5, 0.2)
        .unwrap()
        .with_easy_margin(true);
    assert_eq!(at(&arc, 1.7), 1.7_f64.cos());
    assert!(CosFace::default().with_class_filter(f64::NAN).is_err());
    assert!(
        ArcFace::default()
            .with_past_pi(PastPi::SmoothTail)
            .with_class_filter(-1.1)
            .is_err()
    );
}

/// t goes on from batch to batch, with rows that count alike whatever their weights, and without those that are ignored.
#[test]
fn t_follows_the_mean_target_cosine() {
    let batch = Batch::<f64>::random(21, 8, 5, 4);
    let (x, w) = (batch.features.view(), batch.weights.view());
    let targets = Targets::new(&batch.labels);
    let mut loss = CurricularFace::new(16.0, 0.4)
        .unwrap()
        .with_momentum(0.3)
        .unwrap();
    let cosines = loss.forward(x, w, &targets).unwrap().target_cosines;
    let mut t = 0.0;
    for _ in 0..4 {
        t = 0.3 * cosines.mean().unwrap() + 0.7 * t;
        let before = loss;
        let weighted = targets.with_row_weights(&batch.row_weights);
        let out = loss.evaluate(x, w, &weighted).unwrap();
        assert_close("t", out.statistics(), &[t], 1e-14);
        // Evaluating is pure, and the value is that of the t that is returned.
        assert_eq!(loss, before);
        loss.set_statistics(out.statistics()).unwrap();
        let still = loss.with_momentum(0.0).unwrap();
        assert_eq!(
            still.forward(x, w, &weighted).unwrap().loss.to_bits(),
            out.loss().to_bits()
        );
        assert_eq!(loss.forward(x, w, &weighted).unwrap().statistics.len(), 1);
    }
    let ignored: Vec<bool> = (0..8).map(|row| row % 3 == 0).collect();
    let counted = cosines
        .iter()
        .zip(&ignored)
        .filter(|(_, ignored)| !**ignored);
    let mean = counted.map(|(cosine, _)| cosine).sum::<f64>() / 5.0;
    let fresh = CurricularFace::default();
    let out = fresh
        .evaluate(x, w, &targets.with_ignored_rows(&ignored))
        .unwrap();
    assert_close("t", out.statistics(), &[0.01 * mean], 1e-14);
    // Of no rows there is no mean.
    let none = fresh.with_t(0.5).unwrap();
    let empty = Targets::new(&[0_usize; 0]).with_reduction(Reduction::Sum);
    let out = none
        .forward(Array2::zeros((0, 4)).view(), w, &empty)
        .unwrap();
    assert_eq!(out.statistics, [0.5]);
    // Its single-precision batch has the same t, and so has an extreme one.
    let narrow = Batch::<f32>::random(21, 8, 5, 4);
    let single = fresh
        .forward(
            narrow.features.view(),
            narrow.weights.view(),
            &Targets::new(&narrow.labels),
        )
        .unwrap();
    assert_close(
        "t",
        &single.statistics,
        &[0.01 * cosines.mean().unwrap()],
        1e-6,
    );
    let long = &batch.features * 1e300;
    let out = fresh.forward(long.view(), w, &targets).unwrap();
    assert_close(
        "t",
        &out.statistics,
        &[0.01 * cosines.mean().unwrap()],
        1e-14,
    );
}

#[test]
fn t_is_kept_in_range_and_moves_on_no_error() {
    let mut loss = CurricularFace::default().with_t(0.25).unwrap();
    for (values, message) in [
        (vec![], "1 statistics expected, 0 found"),
        (vec![0.1, 0.2], "1 statistics expected, 2 found"),
        (vec![f64::NAN], "t is NaN, but must lie in [-1, 1]"),
        (vec![1.5], "t is 1.5, but must lie in [-1, 1]"),
    ] {
        assert_eq!(
            loss.set_statistics(&values).unwrap_err().to_string(),
            message
        );
        assert_eq!(loss.t(), 0.25);
    }
    // Features all on their classes: the mean is 1, to the last bit or not.
    let w = Batch::<f64>::random(22, 1, 6, 7).weights;
    let labels: Vec<usize> = (0..6).collect();
    let all = loss.with_momentum(1.0).unwrap();
    let out = all
        .forward(w.view(), w.view(), &Targets::new(&labels))
        .unwrap();
    assert_close("t", &out.statistics, &[1.0], 1e-14);
    loss.set_statistics(&out.statistics).unwrap();
    // A refused batch leaves the statistics of the last one.
    let mut kept = Evaluation::new();
    all.evaluate_into(w.view(), w.view(), &Targets::new(&labels), &mut kept)
        .unwrap();
    let before = Snapshot::of(&kept);
    let error = all.evaluate_into(
        (&w * 0.0).view(),
        w.view(),
        &Targets::new(&labels),
        &mut kept,
    );
    assert!(matches!(error, Err(Error::ZeroNorm { row: 0, .. })));
    assert!(Snapshot::of(&kept) == before);
}

/// A hard class below −t/2 is drawn towards the feature.
#[test]
fn negative_cosines_are_drawn_nearer_by_the_formula() {
    let loss = any("curricularface:s=4,m=0.5,momentum=0,t=0.2");
    // The target at 90°, so that τ = −0.48; the other class at cosines of −0.3 and −0.05.
    let pull = |cosine: f64| {
        let found = planar(&loss, PI / 2.0, PI / 2.0 + cosine.acos());
        let [x, w] = plane(PI / 2.0, PI / 2.0 + cosine.acos());
        let along = x.row(0).dot(&found.grad_weights.row(1));
        assert!(along.abs() > 1e-3 && w.nrows() == 2);
        along
    };
    assert!(pull(-0.3) < 0.0);
    assert!(pull(-0.05) > 0.0);
}
