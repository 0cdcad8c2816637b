//! Losses of one class against the rest: check values, differences, every path, and the biases to begin with.

use core::f64::consts::PI;

use margin_losses::{
    AnyLoss, Composed, Error, Evaluation, MarginLoss, SphereFace2, Targets, UniFace, guide,
};
use ndarray::array;

use crate::margins::{check_gradients, check_paths};
use crate::support::{Batch, Snapshot, assert_relative};

fn losses() -> Vec<(&'static str, Box<dyn MarginLoss<f64>>)> {
    let sphere = || SphereFace2::new(8.0, 0.3).expect("in range");
    let uni = || UniFace::new(6.0, 0.3).expect("in range");
    let in_range = "in range";
    let arc = || SphereFace2::arc(8.0, 0.3).expect("in range");
    vec![
        ("type A", Box::new(arc().with_bias(2.0).expect(in_range))),
        (
            "type A, t = 2",
            Box::new(arc().with_power(2).expect(in_range)),
        ),
        (
            "type A, t = 1, undivided",
            Box::new(arc().with_power(1).expect(in_range).undivided()),
        ),
        ("t = 3", Box::new(sphere().with_bias(2.0).expect(in_range))),
        ("t = 2", Box::new(sphere().with_power(2).expect(in_range))),
        (
            "t = 1, undivided",
            Box::new(sphere().with_power(1).expect(in_range).undivided()),
        ),
        (
            "one threshold",
            Box::new(
                uni()
                    .with_bias(1.5)
                    .expect(in_range)
                    .with_lambda(0.5)
                    .expect(in_range),
            ),
        ),
        (
            "a threshold for each class",
            Box::new(
                uni()
                    .with_class_biases((0..27).map(|k| 0.1 * f64::from(k)).collect())
                    .expect(in_range),
            ),
        ),
    ]
}

#[test]
fn gradients_are_those_of_the_loss() -> Result<(), String> {
    for seed in [31, 32] {
        for (name, mut loss) in losses() {
            check_gradients(name, &mut *loss, &Batch::random(seed, 4, 27, 5))?;
        }
        let sphere = SphereFace2::new(8.0, 0.3).map_err(|error| error.to_string())?;
        let mut composed = Composed::new(sphere)
            .with_sub_centers(3)
            .and_then(|loss| {
                loss.with_class_priors(&[1.0, 2.0, 5.0, 1.0, 1.0, 1.0, 3.0, 2.0, 4.0], 1.0)
            })
            .map_err(|error| error.to_string())?;
        let mut batch = Batch::random(seed, 4, 27, 5);
        batch.labels.iter_mut().for_each(|label| *label %= 9);
        check_gradients("sub-centers and priors", &mut composed, &batch)?;
    }
    Ok(())
}

#[test]
fn every_path_has_the_same_bits() -> Result<(), Error> {
    let batch = Batch::<f64>::random(33, 280, 901, 10);
    for (name, loss) in losses() {
        if name != "a threshold for each class" {
            check_paths(name, &*loss, &batch)?;
        }
    }
    let biases = (0..901).map(|class| 1e-3 * f64::from(class)).collect();
    let by_class = UniFace::new(6.0, 0.3)?.with_class_biases(biases)?;
    check_paths("a threshold for each class", &by_class, &batch)
}

/// Values of 60-digit arithmetic: the loss, ∂x₀₀, ∂w₀₀ and ∂b of the small batch.
#[test]
fn check_values() -> Result<(), Error> {
    let batch = Batch::<f64>::reference([0, 3, 2]);
    let speaker = SphereFace2::new(32.0, 0.2)?.undivided();
    let uce = UniFace::default().with_bias(guide::uni_face_bias(5, 1.0)?)?;
    let bce = UniFace::new(16.0, 0.35)?.with_bias(guide::uni_face_bias(5, 1.0)?)?;
    let sphere = SphereFace2::default();
    let sphere = sphere.with_bias(guide::sphere_face2_bias(5, &sphere)?)?;
    let cases: [(&dyn MarginLoss<f64>, [f64; 4]); 4] = [
        (
            &sphere,
            [
                0.611_397_046_168_21,
                0.019_617_865_359,
                -0.006_715_897_617,
                0.004_202_735_192_251_599,
            ],
        ),
        (
            &speaker,
            [
                13.601_074_228_592_575,
                0.628_096_493_721,
                -0.210_004_322_978,
                0.164_304_689_964_080_9,
            ],
        ),
        (
            &uce,
            [
                66.771_564_402_609_2,
                1.770_269_171_175,
                -0.802_947_399_113,
                -1.000_000_002_847_569_5,
            ],
        ),
        (
            &bce,
            [
                13.512_787_613_274_52,
                0.434_944_495_333,
                -0.199_005_679_152,
                -0.980_531_306_901_899_6,
            ],
        ),
    ];
    for (loss, [value, by_feature, by_weight, by_bias]) in cases {
        let mut out = Evaluation::new();
        let targets = Targets::new(&batch.labels);
        loss.evaluate_into(
            batch.features.view(),
            batch.weights.view(),
            &targets,
            &mut out,
        )?;
        let name = loss.to_string();
        assert_relative(&name, out.loss(), value, 1e-13);
        assert_relative(&name, out.grad_features[[0, 0]], by_feature, 1e-10);
        assert_relative(&name, out.grad_weights[[0, 0]], by_weight, 1e-10);
        assert_relative(&name, out.grad_learnables[0], by_bias, 1e-12);
    }
    Ok(())
}

/// The bias is where the loss of rows at right angles to all classes is least.
#[test]
fn the_first_bias_is_the_best() -> Result<(), Error> {
    for (classes, printed) in [(5, 14.336_472), (10_575, 5.581_365), (85_742, 3.488_239)] {
        let found = guide::sphere_face2_bias(classes, &SphereFace2::default())?;
        assert!((found - printed).abs() < 1e-6, "{classes} classes: {found}");
    }
    for (power, lambda, margin, classes) in [(3, 0.7, 0.4, 2), (1, 0.9, 0.0, 3), (2, 0.1, 0.3, 40)]
    {
        let loss = SphereFace2::new(10.0, margin)?
            .with_power(power)?
            .with_lambda(lambda)?;
        let bias = guide::sphere_face2_bias(classes, &loss)?;
        let half = 2.0_f64.powi(1 - power as i32) - 1.0;
        let sigma = |z: f64| 1.0 / (1.0 + (-z).exp());
        let target = lambda * sigma(-(10.0 * (half - margin) + bias));
        let others = (1.0 - lambda) * (classes as f64 - 1.0) * sigma(10.0 * (half + margin) + bias);
        assert!(
            (target / others - 1.0).abs() < 1e-12,
            "t = {power}: {target} and {others}"
        );
    }
    // Type A, where all cosines are sin m away from 0.
    for margin in [0.2, 2.0] {
        let loss = SphereFace2::arc(10.0, margin)?;
        let bias = guide::sphere_face2_bias(7, &loss)?;
        let g = |c: f64| 2.0 * f64::midpoint(c, 1.0).powi(3) - 1.0;
        let own = if margin < PI / 2.0 {
            -margin.sin()
        } else {
            margin.cos() - 1.0
        };
        let other = if margin < PI / 2.0 { margin.sin() } else { 1.0 };
        let sigma = |z: f64| 1.0 / (1.0 + (-z).exp());
        let target = 0.7 * sigma(-(10.0 * g(own) + bias));
        let others = 0.3 * 6.0 * sigma(10.0 * g(other) + bias);
        assert_relative("type A", target, others, 1e-12);
    }
    // z = 1, where the root is e^(−rm).
    for (r, expected) in [(1000.0, 750.0), (1e6, 750_000.0)] {
        let loss = SphereFace2::new(r, 0.4)?.with_lambda(0.5)?;
        assert_relative(
            "z = 1",
            guide::sphere_face2_bias(2, &loss)?,
            expected,
            1e-14,
        );
    }
    let refused = guide::sphere_face2_bias(5, &SphereFace2::default().with_lambda(1.0)?);
    assert!(
        refused.is_err()
            && guide::uni_face_bias(0, 1.0).is_err()
            && guide::uni_face_bias(5, 0.0).is_err()
    );
    Ok(())
}

/// No row takes part of another's probability, so a class without rows is pushed away by all, and the loss is a sum of terms.
#[test]
fn classes_do_not_compete() -> Result<(), Error> {
    let batch = Batch::<f64>::random(34, 5, 12, 4);
    let loss = UniFace::new(6.0, 0.0)?;
    let targets = Targets::new(&batch.labels);
    let out = loss.evaluate(batch.features.view(), batch.weights.view(), &targets)?;
    let softplus = |z: f64| z.max(0.0) + (-z.abs()).exp().ln_1p();
    for (row, (x, &y)) in batch.features.outer_iter().zip(&batch.labels).enumerate() {
        let terms = batch.weights.outer_iter().enumerate().map(|(class, w)| {
            let z = 6.0 * x.dot(&w) / (x.dot(&x) * w.dot(&w)).sqrt();
            softplus(if class == y { -z } else { z })
        });
        assert_relative("ℓ", out.forward.row_losses[row], terms.sum(), 1e-13);
    }
    Ok(())
}

/// Type A from its formula, on both sides of θ_y = π − m and of θ_j = m, with the gradient against difference quotients.
#[test]
fn type_a_is_its_formula() -> Result<(), Error> {
    let (s, m, lambda) = (6.0, 0.4, 0.7);
    for t in [1, 2, 3] {
        let loss = SphereFace2::arc(s, m)?
            .with_power(t)?
            .with_bias(1.5)?
            .undivided();
        let g = |c: f64| {
            let half = f64::midpoint(c, 1.0);
            2.0 * half.signum() * half.abs().powi(t as i32) - 1.0
        };
        for y in [0.7, PI - m - 1e-4, PI - m + 1e-4, 3.0] {
            for j in [m - 1e-4, m + 1e-4, 0.1, 1.5, 2.9] {
                let value = |turned: f64| {
                    let x = array![[turned.cos(), turned.sin()]];
                    let w = array![[1.0, 0.0], [(y + j).cos(), (y + j).sin()]];
                    loss.evaluate(x.view(), w.view(), &Targets::new(&[0]))
                };
                let out = value(y)?;
                let own = if y > PI - m {
                    y.cos() - 1.0 + m.cos()
                } else {
                    (y + m).cos()
                };
                let softplus = |z: f64| z.max(0.0) + (-z.abs()).exp().ln_1p();
                let expected = lambda * softplus(-s * g(own) - 1.5)
                    + (1.0 - lambda) * softplus(s * g((j - m).max(0.0).cos()) + 1.5);
                let what = format!("t = {t}, {y}, {j}");
                assert_relative(&what, out.loss(), expected, 1e-12);
                let step = 4e-6;
                let quotient = (value(y + step)?.loss() - value(y - step)?.loss()) / (2.0 * step);
                let along =
                    -y.sin() * out.grad_features[[0, 0]] + y.cos() * out.grad_features[[0, 1]];
                let off = (along - quotient).abs();
                assert!(
                    off <= 1e-7 * quotient.abs().max(1.0),
                    "{what}: {along} {quotient}"
                );
            }
        }
    }
    Ok(())
}

/// Classes at 0 and at π from a feature, and features with another rounding of the same direction.
#[test]
fn poles_are_finite() -> Result<(), Error> {
    let w = array![[1.0_f64, 0.0, 0.0], [0.6, 0.8, 0.0], [-3.0, -4.0, 0.0]];
    let x = array![
        [3.0_f64, 4.0, 0.0],
        [-0.6, -0.8, 0.0],
        [2.0, 0.0, 0.0],
        [-1.0, 0.0, 0.0],
        [0.3, 0.4, 0.0]
    ];
    for loss in [
        SphereFace2::default(),
        SphereFace2::arc(32.0, 0.2)?,
        SphereFace2::arc(64.0, 1.5)?.with_power(1)?,
        SphereFace2::arc(8.0, 3.0)?.with_power(2)?,
    ] {
        let out = loss.evaluate(x.view(), w.view(), &Targets::new(&[0; 5]))?;
        assert!(Snapshot::of(&out).is_finite(), "{loss}");
        let (x, w) = (x.mapv(|v| v as f32), w.mapv(|v| v as f32));
        let out = loss.evaluate(x.view(), w.view(), &Targets::new(&[0; 5]))?;
        assert!(Snapshot::of(&out).is_finite(), "{loss} in f32");
    }
    Ok(())
}

/// The slope of g where the cosine is next to −1, which is the square of what is left, has its digits.
#[test]
fn next_to_the_antipole_the_slope_keeps_its_digits() -> Result<(), Error> {
    for off in [1e-2_f64, 1e-3] {
        let loss = SphereFace2::new(8.0, 0.3)?.with_bias(7.0)?.undivided();
        let theta: f64 = PI - off;
        let x = array![[1.0, 0.0]];
        let w = array![[1.0, 0.0], [theta.cos(), theta.sin()]];
        let out = loss.evaluate(x.view(), w.view(), &Targets::new(&[0]))?;
        let half = (off / 2.0).sin().powi(2);
        let z: f64 = 8.0 * (2.0 * half.powi(3) - 1.0 + 0.3) + 7.0;
        let slope = 0.3 / (1.0 + (-z).exp()) * 8.0 * 3.0 * half.powi(2) * off.sin();
        // What is left of 1 + cosθ has the rounding of a cosine.
        assert_relative("∂x", out.grad_features[[0, 1]], slope, 8e-15 / (off * off));
    }
    Ok(())
}

#[test]
fn bad_parameters_and_combinations_are_refused() -> Result<(), Error> {
    for (found, message) in [
        (
            SphereFace2::new(0.0, 0.4),
            "scale is 0, but must lie in [1e-6, 1e6]",
        ),
        (
            SphereFace2::arc(40.0, -0.4),
            "margin is -0.4, but must lie in [0, pi) radians",
        ),
        (
            SphereFace2::default().with_power(4),
            "t is 4, but must be 1, 2 or 3",
        ),
        (
            SphereFace2::default().with_lambda(1.5),
            "lambda is 1.5, but must lie in [0, 1]",
        ),
        (
            SphereFace2::default().with_bias(f64::NAN),
            "bias is NaN, but must lie in [-1e7, 1e7]",
        ),
    ] {
        assert_eq!(found.unwrap_err().to_string(), message);
    }
    let batch = Batch::<f64>::random(35, 5, 12, 4);
    let targets = Targets::new(&batch.labels);
    let refused = |loss: &dyn MarginLoss<f64>| {
        let found = loss.evaluate(batch.features.view(), batch.weights.view(), &targets);
        found.unwrap_err().to_string()
    };
    let eleven = UniFace::default().with_class_biases(vec![0.0; 11])?;
    assert_eq!(refused(&eleven), "bias: 12 entries expected, 11 found");
    let smooth = Composed::new(SphereFace2::default()).with_label_smoothing(0.1)?;
    assert!(refused(&smooth).ends_with("a loss that is no softmax"));
    let mut loss = UniFace::default();
    assert!(loss.set_learnables(&[1.0, 2.0]).is_err() && loss.set_learnables(&[2e7]).is_err());
    assert_eq!(loss.learnables(), [0.0]);
    Ok(())
}

#[test]
fn they_are_lines_of_text() -> Result<(), Error> {
    for line in [
        "sphereface2:s=40,m=0.4,t=3,lambda=0.7,b=0",
        "sphereface2:s=32,m=0.2,t=2,lambda=0.5,b=-1.5,undivided",
        "sphereface2:s=32,m=0.15,t=3,lambda=0.7,b=0,arc,undivided",
        "uniface:s=64,m=0.4,lambda=1,b=3.9",
        "uniface:s=16,m=0.35,lambda=0.5,b=1/2/3",
    ] {
        let loss: AnyLoss = line.parse()?;
        assert_eq!(loss.to_string(), line);
    }
    assert_eq!(
        "SphereFace2".parse::<AnyLoss>()?,
        AnyLoss::from(SphereFace2::default())
    );
    assert_eq!(
        "uni-face(margin=0.4)".parse::<AnyLoss>()?,
        AnyLoss::from(UniFace::default())
    );
    Ok(())
}

/// Rows of either sign whose losses cancel, and whose pushes over so many classes do not.
#[test]
fn a_sum_of_gradients_that_overflows_is_refused() -> Result<(), Error> {
    let batch = Batch::<f32>::random(36, 3, 3000, 4);
    let (x, w) = (batch.features.view(), batch.weights.view());
    let one = UniFace::new(1.0, 0.0)?.with_bias(-2.0)?;
    let losses = one.forward(x, w, &Targets::new(&batch.labels))?.row_losses;
    let heavy = [1e38_f32, -1e38 * (losses[0] / losses[1]), 0.0];
    let targets = Targets::new(&batch.labels)
        .with_row_weights(&heavy)
        .with_reduction(margin_losses::Reduction::None);
    let mut out = Evaluation::new();
    let found = one.evaluate_into(x, w, &targets, &mut out);
    assert_eq!(
        found,
        Err(Error::BatchOverflow {
            quantity: "gradient"
        })
    );
    assert_eq!(out.grad_weights.dim(), (0, 0));
    Ok(())
}

/// Both losses have their biases by name, and `set_learnables` is the same.
#[test]
fn biases_are_set_by_name() -> Result<(), Error> {
    let mut one = UniFace::default().with_bias(2.0)?;
    assert_eq!(one.biases(), [2.0]);
    one.set_biases(&[3.0])?;
    assert_eq!(one.biases(), one.learnables());
    let mut each = UniFace::default().with_class_biases(vec![1.0, 2.0])?;
    each.set_biases(&[4.0, 5.0])?;
    let kept = each.clone();
    let refused = each.set_biases(&[1.0]);
    assert!(
        matches!(
            refused,
            Err(Error::LearnableCount {
                expected: 2,
                found: 1
            })
        ),
        "{refused:?}"
    );
    let refused = each.set_biases(&[1.0, f64::NAN]);
    assert!(
        matches!(refused, Err(Error::Parameter { .. })),
        "{refused:?}"
    );
    assert_eq!(each, kept);
    Ok(())
}
