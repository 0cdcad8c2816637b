//! The inter-topk penalty: what it reduces to, closed forms on both sides of its threshold, poles, confident rows, ties.

use core::f64::consts::{FRAC_PI_2, PI};

use margin_losses::{
    Angle, ArcFace, Composed, CosFace, Error, Evaluation, Float, InterTopK, MarginLoss, NormFace,
    PastPi, Targets,
};
use ndarray::{Array2, array};

use crate::support::{Batch, Snapshot, any, assert_close, bits, evaluated, wide, widen};

fn without_effect<A: Float>() {
    let mut batch = Batch::<A>::random(61, 13, 24, 6);
    for each in [1, 3] {
        batch
            .labels
            .iter_mut()
            .for_each(|label| *label %= 24 / each);
        for line in ["arcface:s=30", "cosface:s=30", "normface:s=9,learned"] {
            let alone = Composed::new(any(line)).with_sub_centers(each).unwrap();
            let expected = evaluated(&alone, &batch);
            for penalty in [
                InterTopK::angular(0, 0.1),
                InterTopK::cosine(0, 0.1),
                InterTopK::angular(5, 0.0),
                InterTopK::cosine(5, 0.0),
            ] {
                let penalty = penalty.unwrap();
                let found = evaluated(&alone.clone().with_inter_topk(penalty), &batch);
                let what = format!("{line}, {penalty:?}, K = {each}");
                assert!(Snapshot::of(&found) == Snapshot::of(&expected), "{what}");
            }
            let some = alone.clone().with_inter_topk(InterTopK::default());
            assert!(evaluated(&some, &batch).loss() > expected.loss());
        }
    }
}

#[test]
fn without_classes_or_a_margin_it_has_the_bits_of_the_loss() {
    without_effect::<f32>();
    without_effect::<f64>();
}

/// Where all classes but the target are penalised in the cosine, the loss is that of a larger margin on the target.
#[test]
fn a_penalty_for_all_is_a_margin_on_the_target() {
    let batch = Batch::<f64>::random(62, 9, 12, 5);
    let penalised = Composed::new(CosFace::new(20.0, 0.1).unwrap())
        .with_inter_topk(InterTopK::cosine(11, 0.25).unwrap());
    let (found, expected) = (
        evaluated(&penalised, &batch),
        evaluated(&CosFace::new(20.0, 0.35).unwrap(), &batch),
    );
    assert_close("L", &[found.loss()], &[expected.loss()], 1e-13);
    for (found, expected) in [
        (&found.grad_features, &expected.grad_features),
        (&found.grad_weights, &expected.grad_weights),
    ] {
        assert_close("∂", &wide(found), &wide(expected), 1e-12);
    }
}

/// In the plane: the feature at `turned`, its class at 0, one class beyond it and one behind.
fn plane(turned: f64, near: f64, far: f64) -> [Array2<f64>; 2] {
    let x = array![[turned.cos(), turned.sin()]];
    let w = array![[1.0, 0.0], [near.cos(), near.sin()], [far.cos(), far.sin()]];
    [x, w]
}

/// T of the nearest class at the angle j, by the formula.
fn raised(penalty: &InterTopK, j: f64) -> f64 {
    let m = penalty.margin();
    if !penalty.is_angular() {
        j.cos() + m
    } else if j < m {
        1.0
    } else {
        (j - m).cos()
    }
}

#[test]
fn both_sides_of_the_threshold() {
    let s = 5.0;
    for penalty in [
        InterTopK::angular(1, 0.3).unwrap(),
        InterTopK::cosine(1, 0.3).unwrap(),
    ] {
        let loss = Composed::new(ArcFace::new(s, 0.2).unwrap().with_past_pi(PastPi::Paper));
        let loss = loss.with_inter_topk(penalty);
        for y in [0.4, 1.3, 1.9] {
            for away in [-0.2, -1e-3, -1e-5, 1e-5, 1e-3, 0.2] {
                let (j, far) = (0.3 + away, y - 2.5);
                let value = |turned: f64| {
                    let [x, w] = plane(turned, y + j, far);
                    let out = loss.evaluate(x.view(), w.view(), &Targets::new(&[0]));
                    out.expect("a good row")
                };
                let found = value(y);
                let others = (s * raised(&penalty, j)).exp() + (s * 2.5_f64.cos()).exp();
                let expected = (others / (s * (y + 0.2).cos()).exp()).ln_1p();
                let what = format!("{penalty:?} at {y}, {away}");
                assert_close(&what, &[found.loss()], &[expected], 1e-13);
                let step = (away.abs() / 20.0).min(5e-5);
                let quotient = (value(y + step).loss() - value(y - step).loss()) / (2.0 * step);
                let along =
                    -y.sin() * found.grad_features[[0, 0]] + y.cos() * found.grad_features[[0, 1]];
                assert!(
                    (along - quotient).abs() <= 1e-7 * quotient.abs().max(1.0),
                    "{what}: {along} {quotient}"
                );
                // The class is drawn away from the feature, and not at all where it is nearer than m′.
                let direction = [-(y + j).sin(), (y + j).cos()];
                let across: f64 = (0..2)
                    .map(|k| direction[k] * found.grad_weights[[1, k]])
                    .sum();
                let still = penalty.is_angular() && away < 0.0;
                assert!(
                    if still {
                        across.abs() < 1e-15
                    } else {
                        across < -1e-9
                    },
                    "{what}: {across}"
                );
            }
        }
    }
}

/// Features that lie on a class that is not theirs, and opposite to it; classes that are copies of each other and of the target.
#[test]
fn poles_are_finite() {
    let w = array![
        [1.0, 0.0, 0.0],
        [0.0, 1.0, 0.0],
        [0.0, 2.0, 0.0],
        [3.0, 0.0, 0.0]
    ];
    let x = array![
        [0.0, 3.0, 0.0],
        [0.0, -1.0, 0.0],
        [2.0, 0.0, 0.0],
        [-1.0, 0.0, 0.0]
    ];
    for k in [1, 2, 3] {
        for penalty in [InterTopK::angular(k, 0.06), InterTopK::cosine(k, 0.06)] {
            let penalty = penalty.unwrap();
            let loss = Composed::new(ArcFace::default()).with_inter_topk(penalty);
            let out: Evaluation<f64> = loss
                .evaluate(x.view(), w.view(), &Targets::new(&[0; 4]))
                .expect("good rows");
            assert!(Snapshot::of(&out).is_finite(), "{penalty:?}");
            let narrow = |array: &Array2<f64>| array.mapv(|v| v as f32);
            let out = loss
                .evaluate(narrow(&x).view(), narrow(&w).view(), &Targets::new(&[0; 4]))
                .expect("good rows");
            assert!(Snapshot::of(&out).is_finite(), "{penalty:?} in f32");
        }
    }
}

/// Rows whose target leads by far, and whose nearest classes are nearly all of what is left: the loss and the gradients have
/// their digits.
#[test]
fn confident_rows_keep_their_digits() {
    for (s, m) in [(64.0, 0.06), (64.0, 1.2), (300.0, 0.9)] {
        let loss = Composed::new(NormFace::new(s).unwrap())
            .with_inter_topk(InterTopK::angular(1, m).unwrap());
        let [x, w] = plane(0.1, 1.5, -2.0);
        let out: Evaluation<f64> = loss
            .evaluate(x.view(), w.view(), &Targets::new(&[0]))
            .expect("a good row");
        let own = s * 0.1_f64.cos();
        let near = (s * (1.4_f64 - m).cos() - own).exp();
        let far = (s * 2.1_f64.cos() - own).exp();
        let expected = (near + far).ln_1p();
        assert_close("L", &[out.loss()], &[expected], 1e-12);
        let share = near / (1.0 + near + far);
        let across =
            -1.5_f64.sin() * out.grad_weights[[1, 0]] + 1.5_f64.cos() * out.grad_weights[[1, 1]];
        let slope = -share * s * (1.4_f64 - m).sin();
        assert_close("∂w", &[across], &[slope], 1e-12);
    }
}

/// In `f32` as in `f64`, next to a class that is not the row's too.
#[test]
fn single_precision_agrees() {
    let mut batch = Batch::<f32>::random(63, 6, 40, 16);
    for (row, off) in [(0, 1e-2), (1, 1e-3), (2, 1e-5), (3, 0.0)] {
        let other = (batch.labels[row] + 1) % 40;
        let near = &batch.weights.row(other).to_owned() + &(&batch.features.row(row) * off);
        batch.features.row_mut(row).assign(&near);
    }
    for penalty in [InterTopK::angular(3, 0.06), InterTopK::cosine(3, 0.06)] {
        let loss = Composed::new(ArcFace::new(32.0, 0.2).unwrap());
        let loss = loss.with_inter_topk(penalty.unwrap());
        let (found, expected) = (evaluated(&loss, &batch), evaluated(&loss, &batch.widened()));
        assert_close("L", &[widen(found.loss())], &[expected.loss()], 1e-5);
        for (found, expected) in [
            (&found.grad_features, &expected.grad_features),
            (&found.grad_weights, &expected.grad_weights),
        ] {
            assert_close("∂", &wide(found), &wide(expected), 1e-5);
        }
    }
}

/// Of equals at the k-th place the first classes have the penalty, in one block of classes and across blocks.
#[test]
fn of_equals_the_first_are_chosen() {
    for (classes, equals) in [(9, [2, 5, 7]), (600, [3, 300, 598])] {
        let mut batch = Batch::<f64>::random(64, 1, classes, 6);
        batch.labels = vec![1];
        let near = batch.features.row(0).mapv(|v| v + 0.1);
        for class in equals {
            batch.weights.row_mut(class).assign(&near);
        }
        let alone = evaluated(&NormFace::new(4.0).unwrap(), &batch);
        let loss = Composed::new(NormFace::new(4.0).unwrap())
            .with_inter_topk(InterTopK::cosine(2, 0.5).unwrap());
        let found = evaluated(&loss, &batch);
        let length = |out: &Evaluation<f64>, class: usize| {
            let row = out.grad_weights.row(class);
            row.dot(&row).sqrt()
        };
        let [first, second, third] =
            equals.map(|class| length(&found, class) / length(&alone, class));
        assert!(
            (first - second).abs() < 1e-12 && first > 1.5 * third,
            "{first} {second} {third}"
        );
    }
}

#[test]
fn it_is_for_fewer_classes_than_there_are_others() {
    let batch = Batch::<f64>::random(65, 4, 6, 3);
    let targets = Targets::new(&batch.labels);
    let (x, w) = (batch.features.view(), batch.weights.view());
    let of = |k| {
        let penalty = InterTopK::angular(k, 0.1).unwrap();
        Composed::new(ArcFace::default()).with_inter_topk(penalty)
    };
    let mut kept = of(5).evaluate(x, w, &targets).unwrap();
    let before = Snapshot::of(&kept);
    let refused = of(6).evaluate_into(x, w, &targets, &mut kept).unwrap_err();
    assert_eq!(refused, Error::InterTopK { k: 6, others: 5 });
    assert_eq!(
        refused.to_string(),
        "an inter-topk penalty for k = 6 classes, but 5 are not the target's"
    );
    assert!(Snapshot::of(&kept) == before);
    let grouped = of(2).with_sub_centers(3).unwrap();
    let one = Targets::new(&[0, 1, 1, 0]);
    assert_eq!(
        grouped.evaluate(x, w, &one).unwrap_err(),
        Error::InterTopK { k: 2, others: 1 }
    );
    // Scores are without it.
    assert_eq!(
        of(6).scores(x, w).unwrap(),
        ArcFace::default().scores(x, w).unwrap()
    );
    assert_eq!(
        of(6).predict(x, w).unwrap(),
        ArcFace::default().predict(x, w).unwrap()
    );
}

#[test]
fn what_is_no_loss_with_it_is_refused() {
    let mut batch = Batch::<f64>::random(66, 4, 6, 3);
    batch.row_weights = vec![1.0; 4];
    let refused = |line: &str| {
        let loss = Composed::new(any(line)).with_inter_topk(InterTopK::default());
        let (x, w) = (batch.features.view(), batch.weights.view());
        loss.evaluate(x, w, &Targets::new(&batch.labels))
            .map(|_| ())
            .expect_err(line)
            .to_string()
    };
    for (line, with) in [
        ("softmax", "a layer whose logits are no scaled cosines"),
        (
            "modified-softmax",
            "a layer whose logits are no scaled cosines",
        ),
        ("a-softmax", "a layer whose logits are no scaled cosines"),
        ("mv-softmax", "a margin that changes the negatives"),
        ("curricularface", "a margin that changes the negatives"),
        ("cosface:filter=0.1", "a margin that changes the negatives"),
        ("sphereface2", "a loss that is no softmax"),
        ("c-triplet", "a loss that is no softmax"),
    ] {
        assert_eq!(
            refused(line),
            format!("an inter-topk penalty cannot be composed with {with}")
        );
    }
    assert!(refused("center").contains("is no softmax"));
    for (penalty, message) in [
        (
            InterTopK::angular(5, FRAC_PI_2),
            "margin is 1.5707963267948966, but must lie in [0, pi/2) radians",
        ),
        (
            InterTopK::angular(5, -0.1),
            "margin is -0.1, but must lie in [0, pi/2) radians",
        ),
        (
            InterTopK::cosine(5, f64::NAN),
            "margin is NaN, but must lie in [0, 2]",
        ),
    ] {
        assert_eq!(penalty.unwrap_err().to_string(), message);
    }
}

/// The loss rises with m′ and with k, and the logit falls with the angle.
#[test]
fn it_rises_with_the_margin_and_with_k() {
    let batch = Batch::<f64>::random(67, 7, 30, 5);
    let loss = |penalty: InterTopK| {
        let composed = Composed::new(ArcFace::new(16.0, 0.2).unwrap());
        evaluated(&composed.with_inter_topk(penalty), &batch).loss()
    };
    let mut last = 0.0;
    for (k, m) in [
        (0, 0.1),
        (1, 0.05),
        (1, 0.1),
        (3, 0.1),
        (29, 0.1),
        (29, 0.2),
    ] {
        let here = loss(InterTopK::angular(k, m).unwrap());
        assert!(here > last, "k = {k}, m′ = {m}");
        last = here;
    }
    let penalty = InterTopK::angular(5, 0.3).unwrap();
    let mut above = 1.0;
    for step in 0..=1000 {
        let theta = PI * f64::from(step) / 1000.0;
        let logit = penalty.logit(Angle::from_radians(theta));
        assert!(
            logit.value() <= above && logit.value() >= theta.cos() && logit.angle_slope() <= 0.0
        );
        above = logit.value();
    }
}

/// With everything that it goes with, rows that are ignored have no part in it.
#[test]
fn ignored_rows_have_no_part_in_it() {
    let batch = Batch::<f64>::random(68, 5, 27, 4);
    let labels: Vec<usize> = batch.labels.iter().map(|label| label % 9).collect();
    let loss = "arcface:s=9,m=0.2+subcenters:k=3+focal+intertopk:k=2,m=0.1";
    let loss: margin_losses::Objective = loss.parse().unwrap();
    let loss = loss.classifier();
    let (x, w) = (batch.features.view(), batch.weights.view());
    let ignored = [false, true, false, false, true];
    let targets = Targets::new(&labels).with_ignored_rows(&ignored);
    let out = loss.evaluate(x, w, &targets).unwrap();
    let rows = [0, 2, 3];
    let kept: Vec<usize> = rows.iter().map(|&row| labels[row]).collect();
    let part = batch.features.select(ndarray::Axis(0), &rows);
    let expected = loss.evaluate(part.view(), w, &Targets::new(&kept)).unwrap();
    assert_eq!(bits(&out.grad_weights), bits(&expected.grad_weights));
    assert_eq!(out.loss().to_bits(), expected.loss().to_bits());
}
