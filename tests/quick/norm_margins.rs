//! Losses whose margin depends on the norm of the feature, AdaFace and MagFace, and the running statistics of the former.

use core::f64::consts::PI;

use margin_losses::{
    AdaFace, AnyLoss, ArcFace, CosFace, Error, Evaluation, Float, JointLoss, MagFace, MarginLoss,
    Objective, PastPi, Reduction, Targets, TurnedAngle, guide,
};
use ndarray::{Array2, ArrayView1, Axis};

use crate::support::{Batch, RULES, Snapshot, SplitMix, check_gradient};

fn length(row: ArrayView1<'_, f64>) -> f64 {
    row.dot(&row).sqrt()
}

fn evaluate<A: Float>(loss: &impl MarginLoss<A>, batch: &Batch<A>) -> Result<Evaluation<A>, Error> {
    let targets = Targets::new(&batch.labels);
    loss.evaluate(batch.features.view(), batch.weights.view(), &targets)
}

/// Everything but the statistics, which only one of the two has.
fn without_statistics<A: Float>(mut evaluation: Evaluation<A>) -> Snapshot {
    evaluation.forward.statistics.clear();
    Snapshot::of(&evaluation)
}

fn reductions<A: Float>() -> Result<(), Error> {
    let batch = Batch::<A>::random(121, 9, 70, 5);
    let same = |what: &str, one: Evaluation<A>, other: Evaluation<A>| {
        assert_eq!(without_statistics(one), without_statistics(other), "{what}");
    };
    let ada_face = AdaFace::new(16.0, 0.4)?;
    same(
        "h = 0",
        evaluate(&ada_face.with_concentration(0.0)?, &batch)?,
        evaluate(&CosFace::new(16.0, 0.4)?, &batch)?,
    );
    // Statistics beside which all features are short.
    let mut short = ada_face.with_momentum(0.0)?.with_concentration(1.0)?;
    short.set_statistics(&[100.0, 0.0])?;
    same(
        "k = -1",
        evaluate(&short, &batch)?,
        evaluate(
            &ArcFace::new(16.0, 0.4)?.with_past_pi(PastPi::Paper),
            &batch,
        )?,
    );
    for rule in RULES {
        let level = MagFace::new(16.0, 0.4, 0.4)?.with_norms(0.5, 3.0)?;
        let level = level.with_regulariser(0.0)?.with_past_pi(rule);
        let arc_face = ArcFace::new(16.0, 0.4)?.with_past_pi(rule);
        let what = format!("a margin that does not grow, {rule}");
        same(
            &what,
            evaluate(&level, &batch)?,
            evaluate(&arc_face, &batch)?,
        );
    }
    Ok(())
}

/// Where these losses come down to others, they have their bits.
#[test]
fn they_are_arc_face_and_cos_face_where_they_should_be() -> Result<(), Error> {
    reductions::<f32>()?;
    reductions::<f64>()
}

/// x·∂x is ‖x‖ times the slope of the row's loss in the norm: for MagFace what the formula says, for AdaFace 0.
#[test]
fn along_the_feature_there_is_the_slope_in_the_norm() -> Result<(), Error> {
    let batch = Batch::<f64>::random(122, 12, 40, 4);
    let (n, s, lambda) = (12.0, 8.0, 0.75);
    let [(l_m, u_m), (l_a, u_a)] = [(0.2, 0.9), (1.5, 2.5)];
    let loss = MagFace::new(s, l_m, u_m)?
        .with_norms(l_a, u_a)?
        .with_regulariser(lambda)?;
    let found = evaluate(&loss, &batch)?;
    let along = (&batch.features * &found.grad_features).sum_axis(Axis(1));
    let (mut inside, kappa) = (0, (u_m - l_m) / (u_a - l_a));
    for (row, x) in batch.features.outer_iter().enumerate() {
        let a = length(x);
        let clipped = a.clamp(l_a, u_a);
        let price = lambda * (clipped / (u_a * u_a) + 1.0 / clipped);
        // −s G κ sin(θ + m), with G = (p − 1)/N.
        let miss = -(price - found.forward.row_losses[row]).exp_m1();
        let turned = found.forward.target_cosines[row].acos() + loss.margin(a);
        let by_margin = s * miss / n * kappa * turned.sin();
        let by_price = lambda / n * (1.0 / (u_a * u_a) - 1.0 / (clipped * clipped));
        let expected = if (l_a..=u_a).contains(&a) {
            inside += 1;
            a * (by_margin + by_price)
        } else {
            0.0
        };
        let off = (along[row] - expected).abs();
        assert!(off < 1e-14, "row {row} of norm {a}: {off:e}");
    }
    assert!((2..11).contains(&inside), "{inside} rows are inside");

    let found = evaluate(&AdaFace::default(), &batch)?;
    let along = (&batch.features * &found.grad_features).sum_axis(Axis(1));
    assert!(along.iter().all(|along| along.abs() < 1e-13), "{along}");
    Ok(())
}

/// One row at that angle and of that length, and the gradient of its loss against differences, all of whose points lie on the
/// same side of the thresholds.
fn check_at(
    loss: &dyn MarginLoss<f64>,
    (angle, norm): (f64, f64),
    keep_norm: bool,
    step: f64,
) -> Result<(), String> {
    let mut rng = SplitMix(123);
    let mut batch = Batch::<f64>::random(124, 1, 5, 3);
    batch.place(0, angle, norm, &mut rng);
    let targets = Targets::new(&batch.labels);
    let w = batch.weights.view();
    let found = loss
        .evaluate(batch.features.view(), w, &targets)
        .map_err(|error| error.to_string())?;
    let moved = |entry: usize, shift: f64| {
        let mut x: Array2<f64> = batch.features.clone();
        x.as_slice_mut().expect("owned")[entry] += shift;
        if keep_norm {
            x *= norm / length(x.row(0));
        }
        let forward = loss.forward(x.view(), w, &targets);
        forward.map_or(f64::NAN, |forward| forward.loss)
    };
    let gradient = found.grad_features.as_slice().expect("owned");
    check_gradient(gradient, moved, step, 1e-7).map(drop)
}

#[test]
fn gradients_on_both_sides_of_every_threshold() -> Result<(), Error> {
    let near = 1e-4;
    for rule in RULES {
        let loss = MagFace::new(4.0, 0.3, 0.9)?
            .with_norms(2.0, 5.0)?
            .with_regulariser(3.0)?
            .with_past_pi(rule);
        let joint = PI - loss.margin(3.0);
        let half = joint / 2.0;
        for (angle, norm) in [2.0, 5.0]
            .into_iter()
            .flat_map(|bound| [(1.0, bound - near), (1.0, bound + near)])
            .chain([joint - near, joint + near].map(|angle| (angle, 3.0)))
            .chain([half - near, half + near].map(|angle| (angle, 3.0)))
            .chain([PI / 2.0 - near, PI / 2.0 + near].map(|angle| (angle, 3.0)))
        {
            check_at(&loss, (angle, norm), false, near / 4.0)
                .unwrap_or_else(|message| panic!("{loss} at {angle}, {norm}: {message}"));
        }
    }
    for rule in [TurnedAngle::Paper, TurnedAngle::Clipped] {
        // k̂ = 1, then −1: the ends lie at 0.4 + ε and π − 0.4 − ε.
        for (statistics, end) in [([2.0, 0.5], 0.401), ([4.0, 0.5], PI - 0.401)] {
            let mut loss = AdaFace::new(4.0, 0.4)?.with_momentum(0.0)?;
            loss.set_statistics(&statistics)?;
            let loss = loss.with_turned_angle(rule).with_concentration(1.0)?;
            assert_eq!(loss.quality(3.0).abs(), 1.0);
            for angle in [end - near, end + near] {
                check_at(&loss, (angle, 3.0), true, near / 4.0)
                    .unwrap_or_else(|message| panic!("{loss} at {angle}: {message}"));
            }
        }
    }
    Ok(())
}

fn at_the_poles<A: Float>() -> Result<(), Error> {
    let mut batch = Batch::<A>::random(125, 4, 6, 3);
    batch.labels = vec![0, 1, 2, 3];
    let target = |row: usize| batch.weights.row(row).to_owned();
    let rows = [target(0), -target(1), target(0), -target(5)];
    for (row, x) in rows.into_iter().enumerate() {
        batch.features.row_mut(row).assign(&x);
    }
    let mut long = AdaFace::default().with_momentum(0.0)?;
    long.set_statistics(&[0.0, 0.0])?;
    let losses: [Box<dyn MarginLoss<A>>; 6] = [
        Box::new(AdaFace::default()),
        Box::new(AdaFace::default().with_momentum(1.0)?),
        Box::new(long),
        Box::new(long.with_turned_angle(TurnedAngle::Clipped)),
        Box::new(MagFace::default()),
        Box::new(MagFace::default().with_norms(1e-3, 100.0)?),
    ];
    for loss in losses {
        let found = evaluate(&loss, &batch)?;
        assert!(Snapshot::of(&found).is_finite(), "{loss:?}");
    }
    Ok(())
}

#[test]
fn poles_are_finite() -> Result<(), Error> {
    at_the_poles::<f32>()?;
    at_the_poles::<f64>()
}

/// The mean and the deviation are those of the rows that count, with the divisor N − 1, mixed with what was there.
#[test]
fn statistics_are_those_of_the_rows_that_count() -> Result<(), Error> {
    let batch = Batch::<f64>::random(126, 6, 5, 3);
    let ignored = [false, true, false, false, true, false];
    let norms: Vec<f64> = (batch.features.outer_iter().zip(ignored))
        .filter(|(_, ignored)| !ignored)
        .map(|(x, _)| length(x))
        .collect();
    let mean = norms.iter().sum::<f64>() / 4.0;
    let square: f64 = norms.iter().map(|a| (a - mean).powi(2)).sum();
    let deviation = (square / 3.0).sqrt();
    for alpha in [0.0, 0.01, 0.25, 1.0] {
        let loss = AdaFace::default().with_momentum(alpha)?;
        let targets = Targets::new(&batch.labels)
            .with_ignored_rows(&ignored)
            .with_row_weights(&batch.row_weights);
        let found = loss.evaluate(batch.features.view(), batch.weights.view(), &targets)?;
        let expected = [(20.0, mean), (100.0, deviation)];
        let expected = expected.map(|(old, new)| alpha * new + (1.0 - alpha) * old);
        for (found, expected) in found.statistics().iter().zip(expected) {
            assert!((found - expected).abs() < 1e-13, "{found}, not {expected}");
        }
        assert_eq!(found.statistics().len(), 2);
        // The loss itself has not moved, and says the same again.
        assert_eq!(loss.statistics(), [20.0, 100.0]);
        let forward = loss.forward(batch.features.view(), batch.weights.view(), &targets)?;
        assert_eq!(forward, found.forward);
    }
    Ok(())
}

/// One row has no deviation: it stays. No rows leave both.
#[test]
fn statistics_of_one_row_and_of_none() -> Result<(), Error> {
    let batch = Batch::<f64>::random(127, 1, 5, 3);
    let (x, w) = (batch.features.view(), batch.weights.view());
    let targets = Targets::new(&batch.labels);
    let batch_alone = AdaFace::new(8.0, 0.4)?.with_momentum(1.0)?;
    let found = batch_alone.evaluate(x, w, &targets)?;
    assert_eq!(found.statistics(), [length(x.row(0)), 100.0]);
    // k̂ = 0.
    let cos_face = CosFace::new(8.0, 0.4)?.evaluate(x, w, &targets)?;
    assert_eq!(without_statistics(found), Snapshot::of(&cos_face));

    let (none, nothing) = (Array2::zeros((0, 3)), [0_usize; 0]);
    let targets = Targets::new(&nothing).with_reduction(Reduction::Sum);
    let found = batch_alone.evaluate(none.view(), w, &targets)?;
    assert_eq!(found.statistics(), [20.0, 100.0]);
    Ok(())
}

/// What a loss keeps is passed through by everything that wraps a loss.
#[test]
fn statistics_pass_through_what_wraps_a_loss() -> Result<(), Error> {
    fn step(loss: &mut dyn MarginLoss<f64>, batch: &Batch<f64>) -> Result<[f64; 2], Error> {
        let targets = Targets::new(&batch.labels);
        let found = loss.evaluate(batch.features.view(), batch.weights.view(), &targets)?;
        let wrong = [Vec::new(), vec![1.0; 3]];
        for values in wrong {
            let error = loss.set_statistics(&values).expect_err("two are kept");
            let (expected, found) = (2, values.len());
            assert_eq!(error, Error::StatisticCount { expected, found });
        }
        loss.set_statistics(found.statistics())?;
        assert_eq!(loss.statistics(), found.statistics());
        Ok([loss.statistics()[0], loss.statistics()[1]])
    }
    let batch = Batch::<f64>::random(128, 7, 5, 3);
    let plain = AdaFace::default();
    let expected = step(&mut plain.clone(), &batch)?;
    assert!(expected[0] < 20.0 && expected[1] < 100.0);
    assert_eq!(step(&mut &mut plain.clone(), &batch)?, expected);
    assert_eq!(step(&mut Box::new(plain), &batch)?, expected);
    assert_eq!(step(&mut AnyLoss::from(plain), &batch)?, expected);
    let mut joint = JointLoss::new(plain, batch.centers.view(), 0.003)?;
    assert_eq!(step(&mut joint, &batch)?, expected);
    let mut objective: Objective = "adaface+center".parse()?;
    let mut of_a_step = objective.over_centers(batch.centers.view());
    assert_eq!(step(&mut of_a_step, &batch)?, expected);
    drop(of_a_step);
    assert_eq!(objective.statistics(), expected);
    objective.set_statistics(&[3.0, 4.0])?;
    assert_eq!(objective.statistics(), [3.0, 4.0]);

    // Others keep none, and an evaluation that is used again has none then.
    let mut out = evaluate(&plain, &batch)?;
    let targets = Targets::new(&batch.labels);
    let mut other = ArcFace::default();
    let (x, w) = (batch.features.view(), batch.weights.view());
    other.evaluate_into(x, w, &targets, &mut out)?;
    let other: &mut dyn MarginLoss<f64> = &mut other;
    assert_eq!((out.statistics(), other.statistics()), (&[][..], &[][..]));
    other.set_statistics(&[])?;
    let refused = other.set_statistics(&[1.0]).expect_err("none are kept");
    assert_eq!(refused.to_string(), "0 statistics expected, 1 found");
    Ok(())
}

/// Statistics do not move on an error, of the setter or of an evaluation; and they are numbers where a feature is not.
#[test]
fn statistics_stay_on_an_error() -> Result<(), Error> {
    let mut loss = AdaFace::default();
    for (values, name) in [
        ([f64::NAN, 1.0], "mean"),
        ([-1.0, 1.0], "mean"),
        ([101.0, 1.0], "mean"),
        ([1.0, f64::INFINITY], "deviation"),
        ([1.0, -0.5], "deviation"),
    ] {
        let refused = loss.set_statistics(&values);
        let named = matches!(refused, Err(Error::Parameter { name: found, .. }) if found == name);
        assert!(named, "{values:?}: {refused:?}");
        assert_eq!(loss, AdaFace::default());
    }
    let mut batch = Batch::<f64>::random(129, 5, 4, 3);
    let mut out = evaluate(&loss, &batch)?;
    let before = Snapshot::of(&out);
    let targets = Targets::new(&batch.labels);
    for entry in [0.0, f64::NAN, f64::INFINITY] {
        batch.features.row_mut(3).fill(entry);
        let (x, w) = (batch.features.view(), batch.weights.view());
        let refused = loss
            .evaluate_into(x, w, &targets, &mut out)
            .expect_err("no direction");
        assert!(
            refused.to_string().starts_with("features row 3 "),
            "{refused}"
        );
        assert_eq!(Snapshot::of(&out), before);
    }
    Ok(())
}

#[test]
fn parameters_out_of_range_are_named() {
    let ada_face = AdaFace::default();
    let mag_face = MagFace::default();
    let cases = [
        (AdaFace::new(0.0, 0.4).map(drop), "scale"),
        (AdaFace::new(64.0, 4.0).map(drop), "margin"),
        (ada_face.with_concentration(-1.0).map(drop), "concentration"),
        (
            ada_face.with_concentration(f64::NAN).map(drop),
            "concentration",
        ),
        (ada_face.with_momentum(1.5).map(drop), "momentum"),
        (ada_face.with_momentum(-0.1).map(drop), "momentum"),
        (ada_face.with_epsilon(0.0).map(drop), "epsilon"),
        (ada_face.with_epsilon(1.5).map(drop), "epsilon"),
        (MagFace::new(f64::NAN, 0.4, 0.5).map(drop), "scale"),
        (MagFace::new(64.0, -0.1, 0.5).map(drop), "lower_margin"),
        (MagFace::new(64.0, 0.4, 3.2).map(drop), "upper_margin"),
        (MagFace::new(64.0, 0.4, 0.3).map(drop), "upper_margin"),
        (mag_face.with_norms(0.0, 1.0).map(drop), "lower_norm"),
        (mag_face.with_norms(1.0, 1.0).map(drop), "upper_norm"),
        (
            mag_face.with_norms(1.0, f64::INFINITY).map(drop),
            "upper_norm",
        ),
        (mag_face.with_regulariser(-1.0).map(drop), "regulariser"),
        (mag_face.with_regulariser(f64::NAN).map(drop), "regulariser"),
    ];
    for (refused, expected) in cases {
        let named = matches!(refused, Err(Error::Parameter { name, .. }) if name == expected);
        assert!(named, "{expected}: {refused:?}");
    }
}

/// At the least regulariser the pull outwards and the steepest pull inwards of a feature of the least norm are equal.
#[test]
fn the_least_regulariser_balances_the_margin() -> Result<(), Error> {
    let loss = MagFace::new(30.0, 0.2, 0.7)?.with_norms(3.0, 20.0)?;
    let least = guide::mag_face_least_regulariser(&loss);
    let along = |lambda: f64| -> Result<f64, Error> {
        // Two opposite classes; the row lies at π/2 − 0.2 from its own, so that sin(θ + m) = 1, with a scale at which p = 0 but
        // for rounding.
        let theta = PI / 2.0 - 0.2;
        let loss = loss.with_regulariser(lambda)?;
        let x = Array2::from_shape_vec((1, 2), vec![3.0 * theta.cos(), 3.0 * theta.sin()]);
        let w = Array2::from_shape_vec((2, 2), vec![1.0, 0.0, 0.0, 1.0]);
        let (x, w) = (x.expect("two"), w.expect("four"));
        let found = loss.evaluate(x.view(), w.view(), &Targets::new(&[0]))?;
        Ok((&x * &found.grad_features).sum())
    };
    assert!(along(0.9 * least)? > 0.0, "shorter");
    assert!(along(1.1 * least)? < 0.0, "longer");
    assert!(along(least)?.abs() < 1e-6 * along(0.0)?);
    Ok(())
}
