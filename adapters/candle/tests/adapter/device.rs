//! The device route, on candle's CPU device.

use crate::support::{Any, Batch, CLASSES, ROWS, apart, flat, gradients, plain, scalar};
use candle_core::{DType, Device, Tensor, Var};
use margin_losses_candle::margin_losses::ndarray::Array2;
use margin_losses_candle::margin_losses::offload::Offload;
use margin_losses_candle::margin_losses::{
    Angle, AnyLoss, ArcFace, CosFace, Margin, MarginLoss, MarginSoftmax, Reduction, Target,
    TargetLogit, Targets,
};
use margin_losses_candle::{DeviceLoss, Error};

const LINES: [&str; 11] = [
    "normface:s=8",
    "am-softmax:s=9,m=0.2",
    "cosface:s=9,m=0.2",
    "arcface:s=10,m=0.5",
    "arcface:s=10,m=0.5,past_pi=paper",
    "arcface:s=10,m=0.5,past_pi=linear-tail",
    "arcface:s=10,m=0.5,past_pi=joined-tail",
    "arcface:s=10,m=0.5,past_pi=smooth-tail",
    "arcface:s=10,m=0.5,past_pi=easy-margin",
    "combined:s=8,m1=0.9,m2=0.4,m3=0.15",
    "combined:s=8,m1=1,m2=0.3,m3=0.2",
];

fn losses() -> Vec<AnyLoss> {
    let mut losses: Vec<AnyLoss> = LINES.iter().map(|line| line.parse().unwrap()).collect();
    let by_class = (0..CLASSES).map(|class| 0.03 * class as f64).collect();
    losses.push(
        ArcFace::new(8.0, 0.5)
            .unwrap()
            .with_class_margins(by_class)
            .unwrap()
            .into(),
    );
    let by_row = (0..ROWS).map(|row| 0.02 * row as f64).collect();
    losses.push(
        CosFace::new(8.0, 0.5)
            .unwrap()
            .with_row_margins(by_row)
            .unwrap()
            .into(),
    );
    losses
}

/// Loss, ∂X and ∂W of the core.
fn core(loss: &AnyLoss, batch: &Batch, targets: &Targets<'_, f32>) -> (f64, [Vec<f64>; 2]) {
    let out = loss
        .evaluate(batch.features.view(), batch.weights.view(), targets)
        .unwrap();
    let entries = |array: &Array2<f32>| array.iter().map(|&v| f64::from(v)).collect();
    (
        f64::from(out.loss()),
        [entries(&out.grad_features), entries(&out.grad_weights)],
    )
}

fn device(
    loss: &DeviceLoss,
    batch: &Batch,
    targets: &Targets<'_, f32>,
) -> (f64, [Vec<f64>; 2], Option<f64>) {
    let vars = batch.vars();
    let out = loss.evaluate(&vars[0], &vars[1], targets).unwrap();
    let grads = out.backward(&vars[1]).unwrap();
    let found = [&vars[0], &vars[1]].map(|var| flat(grads.get(var).unwrap()));
    (scalar(out.tensor()), found, out.accuracy())
}

#[test]
fn every_loss_is_that_of_the_core() -> Any {
    let batch = Batch::new(1);
    let targets = Targets::new(&batch.labels);
    for loss in losses() {
        let (value, [by_x, by_w]) = core(&loss, &batch, &targets);
        let accuracy = loss
            .forward(batch.features.view(), batch.weights.view(), &targets)?
            .accuracy();
        // All at once, in blocks of three classes, and by split products.
        let whole = DeviceLoss::new(loss.clone())?;
        let blocks = DeviceLoss::new(loss.clone())?.with_scratch_limit(3 * 16 * ROWS);
        let split = DeviceLoss::new(loss.clone())?.with_split_products();
        for route in [whole, blocks, split] {
            let (found, [found_x, found_w], found_accuracy) = device(&route, &batch, &targets);
            assert!(
                (found - value).abs() <= 5e-7 * value,
                "{loss}: {found} {value}"
            );
            assert!(
                apart(&found_x, &by_x) <= 1e-6,
                "{loss}: {}",
                apart(&found_x, &by_x)
            );
            assert!(
                apart(&found_w, &by_w) <= 1e-6,
                "{loss}: {}",
                apart(&found_w, &by_w)
            );
            assert_eq!(found_accuracy, accuracy, "{loss}");
        }
    }
    Ok(())
}

#[test]
fn gradients_are_those_of_the_plain_formula() -> Any {
    let batch = Batch::new(2);
    let vars = batch.vars();
    let expected = plain([&vars[0], &vars[1]], &batch.labels, [10.0, 0.3, 0.0])?;
    let [by_x, by_w] = gradients(&expected, &vars);
    let loss = DeviceLoss::new("arcface:s=10,m=0.3,past_pi=paper".parse::<AnyLoss>()?)?;
    let (value, [found_x, found_w], _) = device(&loss, &batch, &Targets::new(&batch.labels));
    assert!((value - scalar(&expected)).abs() <= 1e-6 * value);
    assert!(apart(&found_x, &by_x) <= 1e-6 && apart(&found_w, &by_w) <= 1e-6);
    Ok(())
}

#[test]
fn weights_reductions_and_ignored_rows_are_those_of_the_core() -> Any {
    let mut batch = Batch::new(3);
    batch.labels[5] = 99;
    batch.labels[11] = 99;
    batch.features.row_mut(5).fill(f32::NAN);
    let heavy: Vec<f32> = (0..ROWS).map(|row| 0.25 * (row % 5) as f32).collect();
    let loss: AnyLoss = "arcface:s=10,m=0.3".parse()?;
    let route = DeviceLoss::new(loss.clone())?;
    for reduction in [
        Reduction::Mean,
        Reduction::BatchMean,
        Reduction::WeightedMean,
        Reduction::Sum,
        Reduction::None,
    ] {
        let targets = Targets::new(&batch.labels)
            .with_ignored_label(99)
            .with_row_weights(&heavy)
            .with_reduction(reduction);
        let (value, [by_x, by_w]) = core(&loss, &batch, &targets);
        let vars = batch.vars();
        let out = route.evaluate(&vars[0], &vars[1], &targets)?;
        assert!((scalar(out.tensor()) - value).abs() <= 1e-6 * value);
        let grads = out.backward(&vars[1])?;
        assert!(apart(&flat(grads.get(&vars[0]).unwrap()), &by_x) <= 1e-6);
        assert!(apart(&flat(grads.get(&vars[1]).unwrap()), &by_w) <= 1e-6);
    }
    let all = vec![99; ROWS];
    let targets = Targets::new(&all)
        .with_ignored_label(99)
        .with_reduction(Reduction::Sum);
    let batch = Batch::new(3);
    let (value, [by_x, by_w], _) = device(&route, &batch, &targets);
    assert!(value == 0.0 && by_x.iter().chain(&by_w).all(|&entry| entry == 0.0));
    Ok(())
}

/// Rows at an angle of θ to their class, in the first 16 dimensions; everything rounded once.
fn near(theta: f64) -> Batch {
    const DIM: usize = 16;
    let mut batch = Batch {
        features: Array2::zeros((32, DIM)),
        weights: Array2::zeros((10, DIM)),
        labels: (0..32).map(|row| row % 10).collect(),
    };
    let mut state = 0.37_f64;
    let mut draw = || {
        state = (state * 997.13 + 0.1234).fract();
        state - 0.5
    };
    batch.weights.mapv_inplace(|_| draw() as f32);
    for (row, &label) in batch.labels.iter().enumerate() {
        let w: Vec<f64> = batch
            .weights
            .row(label)
            .iter()
            .map(|&v| f64::from(v))
            .collect();
        let length = w.iter().map(|v| v * v).sum::<f64>().sqrt();
        let mut side: Vec<f64> = (0..DIM).map(|_| draw()).collect();
        let along = side.iter().zip(&w).map(|(a, b)| a * b).sum::<f64>() / (length * length);
        side.iter_mut().zip(&w).for_each(|(a, b)| *a -= along * b);
        let across = side.iter().map(|v| v * v).sum::<f64>().sqrt();
        for column in 0..DIM {
            let entry = theta.cos() * w[column] / length + theta.sin() * side[column] / across;
            batch.features[[row, column]] = (1.7 * entry) as f32;
        }
    }
    batch
}

#[test]
fn near_the_poles_it_is_that_of_the_core() -> Any {
    let loss: AnyLoss = "arcface:s=16,m=0.5".parse()?;
    let pi = std::f64::consts::PI;
    for theta in [1e-1, 1e-3, 1e-5, 1e-6, pi - 1e-3, pi - 1e-5, pi - 1e-6] {
        let batch = near(theta);
        let targets = Targets::new(&batch.labels);
        let (value, [by_x, by_w]) = core(&loss, &batch, &targets);
        for route in [
            DeviceLoss::new(loss.clone())?,
            DeviceLoss::new(loss.clone())?.with_split_products(),
        ] {
            let (found, [found_x, found_w], _) = device(&route, &batch, &targets);
            assert!((found - value).abs() <= 1e-5 * value, "{theta}");
            let worst = [apart(&found_x, &by_x), apart(&found_w, &by_w)];
            assert!(
                worst.iter().all(|&worst| worst <= 1e-5),
                "{theta}: {worst:?}"
            );
        }
    }
    Ok(())
}

/// Exactly at 0 and π, where the plain formula has NaN.
#[test]
fn both_poles_are_finite() -> Any {
    let batch = Batch {
        features: var_rows(&[[2.0, 0.0, 0.0], [0.0, -3.0, 0.0]]),
        weights: var_rows(&[[1.0, 0.0, 0.0], [0.0, 0.5, 0.0]]),
        labels: vec![0, 1],
    };
    let vars = batch.vars();
    let naive = plain([&vars[0], &vars[1]], &batch.labels, [16.0, 0.5, 0.0])?;
    assert!(
        gradients(&naive, &vars)[0]
            .iter()
            .any(|entry| !entry.is_finite()),
        "no NaN to avoid"
    );
    for loss in losses() {
        if matches!(
            loss,
            AnyLoss::VaryingArcFace(_) | AnyLoss::VaryingCosFace(_)
        ) {
            continue;
        }
        let targets = Targets::new(&batch.labels);
        let (value, [by_x, by_w]) = core(&loss, &batch, &targets);
        for route in [
            DeviceLoss::new(loss.clone())?,
            DeviceLoss::new(loss.clone())?.with_split_products(),
        ] {
            let (found, [found_x, found_w], _) = device(&route, &batch, &targets);
            assert!(
                (found - value).abs() <= 1e-6 * value.max(1e-6),
                "{loss}: {found} {value}"
            );
            assert!(
                apart(&found_x, &by_x) <= 1e-5 && apart(&found_w, &by_w) <= 1e-5,
                "{loss}"
            );
        }
    }
    Ok(())
}

fn var_rows(rows: &[[f32; 3]; 2]) -> Array2<f32> {
    Array2::from_shape_fn((2, 3), |(row, column)| rows[row][column])
}

#[test]
fn upstream_factors_multiply_exactly() -> Any {
    let batch = Batch::new(4);
    let vars = batch.vars();
    let loss = DeviceLoss::new(ArcFace::new(8.0, 0.4)?)?;
    let out = loss.evaluate(&vars[0], &vars[1], &Targets::<f32>::new(&batch.labels))?;
    let one = out.backward(&vars[1])?;
    let mut three = (out.tensor() * 3.0)?.backward()?;
    out.add_weight_gradient(&vars[1], &mut three)?;
    for var in &vars {
        let [one, three] = [&one, &three].map(|grads| flat(grads.get(var).unwrap()));
        assert!(
            one.iter()
                .zip(&three)
                .all(|(one, three)| (3.0 * one) as f32 == *three as f32)
        );
    }
    Ok(())
}

#[test]
fn double_precision_has_its_digits() -> Any {
    let batch = Batch::new(5);
    let [x, w] = batch
        .vars()
        .map(|var| Var::from_tensor(&var.to_dtype(DType::F64).unwrap()).unwrap());
    let loss: AnyLoss = "arcface:s=10,m=0.5".parse()?;
    let targets = Targets::<f64>::new(&batch.labels);
    let (features, weights) = (
        batch.features.mapv(f64::from),
        batch.weights.mapv(f64::from),
    );
    let expected = loss.evaluate(features.view(), weights.view(), &targets)?;
    let out = DeviceLoss::new(loss)?.evaluate(&x, &w, &targets)?;
    assert!((scalar(out.tensor()) - expected.loss()).abs() <= 1e-14 * expected.loss());
    let found = flat(out.backward(&w)?.get(&x).unwrap());
    assert!(apart(&found, &expected.grad_features.into_raw_vec_and_offset().0) <= 1e-13);
    Ok(())
}

/// No margin at 0, all of it at π.
#[derive(Clone, Copy, Debug)]
struct Growing;

impl Margin for Growing {
    fn target_logit(&self, target: &Target) -> TargetLogit {
        let psi = target.cos() - 0.4 * (1.0 - target.cos()) / 2.0;
        TargetLogit::from_cosine_slope(psi, 1.2, target.angle())
    }
}

#[test]
fn a_margin_of_ones_own_runs_on_the_device() -> Any {
    let batch = Batch::new(6);
    let targets = Targets::new(&batch.labels);
    assert_eq!(
        Growing
            .target_logit(&Angle::from_radians(0.0).into())
            .value(),
        1.0
    );
    let expected = MarginSoftmax::new(Growing, 12.0)?;
    let expected = expected.evaluate(batch.features.view(), batch.weights.view(), &targets)?;
    let route = DeviceLoss::from(Offload::with_margin(Growing, 12.0)?);
    let (value, [by_x, _], _) = device(&route, &batch, &targets);
    assert!((value - f64::from(expected.loss())).abs() <= 1e-6 * value);
    let entries: Vec<f64> = expected
        .grad_features
        .iter()
        .map(|&v| f64::from(v))
        .collect();
    assert!(apart(&by_x, &entries) <= 1e-6);
    Ok(())
}

#[test]
fn bad_input_is_named() -> Any {
    let error = DeviceLoss::new("adaface".parse::<AnyLoss>()?)
        .unwrap_err()
        .to_string();
    assert!(
        error.ends_with("is not offloaded: it is more than a margin over cosines of a fixed scale"),
        "{error}"
    );

    let loss = DeviceLoss::new(ArcFace::default())?;
    let refused = |features: &Tensor, weights: &Tensor, labels: &[i64]| {
        let out = loss.evaluate(features, weights, &Targets::<f32>::new(labels));
        out.unwrap_err().to_string()
    };
    let ones = |rows, dtype| Tensor::ones((rows, 4), dtype, &Device::Cpu);
    let (x, w) = (ones(2, DType::F32)?, ones(3, DType::F32)?);
    for dtype in [DType::F16, DType::BF16, DType::U32] {
        let error = refused(&ones(2, dtype)?, &w, &[0, 1]);
        assert_eq!(
            error,
            format!("features are {dtype:?}, but F32 is expected: convert them with to_dtype")
        );
    }
    assert_eq!(
        refused(&x, &w, &[0, -1]),
        "labels row 1 is -1, but there are 3 classes; rows can be ignored by with_ignored_label"
    );
    assert_eq!(refused(&x, &w, &[0]), "labels: 2 entries expected, 1 found");
    let zero = Tensor::cat(&[x.narrow(0, 0, 1)?, x.narrow(0, 0, 1)?.zeros_like()?], 0)?;
    assert_eq!(
        refused(&zero, &w, &[0, 1]),
        "features row 1 has a norm too small to divide by"
    );
    let infinite = (&x / 0.0)?;
    assert_eq!(
        refused(&infinite, &w, &[0, 1]),
        "features row 0 holds a NaN or an infinity"
    );
    for (bad, what) in [
        (0.0, "has a norm too small to divide by"),
        (f32::NAN, "holds a NaN or an infinity"),
        (f32::INFINITY, "holds a NaN or an infinity"),
    ] {
        let row = Tensor::full(bad, (1, 4), &Device::Cpu)?;
        let w = Tensor::cat(&[&w.narrow(0, 0, 2)?, &row], 0)?;
        assert_eq!(
            refused(&x, &w, &[0, 1]),
            format!("class weights row 2 {what}")
        );
    }
    assert!(matches!(
        loss.evaluate(&x, &w.narrow(1, 0, 3)?, &Targets::<f32>::new(&[0, 1])),
        Err(Error::Loss(_))
    ));
    Ok(())
}
