//! The host route: the core's bits in candle's backward pass.

use crate::support::{Any, Batch, CLASSES, DIM, apart, flat, gradients, plain, scalar};
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{Optimizer, SGD};
use margin_losses_candle::margin_losses::ndarray::{Array2, array};
use margin_losses_candle::margin_losses::{
    AnyLoss, ArcFace, Argument, CenterLoss, Error as LossError, Evaluation, MarginLoss, Objective,
    Targets,
};
use margin_losses_candle::{Error, HostLoss, with_array};

const LINES: [&str; 6] = [
    "softmax",
    "normface:s=8,learned",
    "cosface:s=9,m=0.2",
    "arcface:s=10,m=0.3,past_pi=paper",
    "adaface:s=10",
    "sphereface2:s=8",
];

#[test]
fn gradients_are_those_of_the_plain_formula() -> Any {
    let batch = Batch::new(1);
    let vars = batch.vars();
    for (line, margins) in [
        ("arcface:s=10,m=0.3,past_pi=paper", [10.0, 0.3, 0.0]),
        ("cosface:s=9,m=0.2", [9.0, 0.0, 0.2]),
    ] {
        let loss: AnyLoss = line.parse()?;
        let expected = plain([&vars[0], &vars[1]], &batch.labels, margins)?;
        let [by_x, by_w] = gradients(&expected, &vars);
        let mut memory = Evaluation::<f32>::new();
        let targets = Targets::new(&batch.labels);
        let out = HostLoss::new(&loss, &mut memory).evaluate(&vars[0], &vars[1], &targets)?;
        let grads = out.backward(&vars[1])?;
        let found = [&vars[0], &vars[1]].map(|var| flat(grads.get(var).unwrap()));
        assert!(apart(&found[0], &by_x) <= 1e-6, "{line}");
        assert!(apart(&found[1], &by_w) <= 1e-6, "{line}");
        assert!((scalar(out.tensor()) - scalar(&expected)).abs() <= 1e-6 * scalar(&expected));
    }
    Ok(())
}

#[test]
fn the_loss_has_the_bits_of_the_core() -> Any {
    let batch = Batch::new(2);
    let vars = batch.vars();
    let targets = Targets::new(&batch.labels);
    for line in LINES {
        let loss: AnyLoss = line.parse()?;
        let expected = loss.evaluate(batch.features.view(), batch.weights.view(), &targets)?;
        let mut memory = Evaluation::<f32>::new();
        let out = HostLoss::new(&loss, &mut memory).evaluate(&vars[0], &vars[1], &targets)?;
        assert_eq!(
            out.tensor().to_scalar::<f32>()?.to_bits(),
            expected.loss().to_bits()
        );
        assert_eq!(out.accuracy(), expected.accuracy());
        let grads = out.backward(&vars[1])?;
        let bits = |tensor: Option<&Tensor>, array: &Array2<f32>| -> candle_core::Result<bool> {
            let found: Vec<f32> = tensor.unwrap().flatten_all()?.to_vec1()?;
            Ok(found
                .iter()
                .zip(array)
                .all(|(a, b)| a.to_bits() == b.to_bits()))
        };
        assert!(
            bits(grads.get(&vars[0]), &expected.grad_features)?,
            "{line}"
        );
        assert!(bits(grads.get(&vars[1]), &expected.grad_weights)?, "{line}");

        // Streamed, through a pointer to a loss that is chosen at run time.
        let boxed: Box<dyn MarginLoss<f32>> = Box::new(loss);
        let (mut weights, mut by_weight) = (batch.weights.clone(), Array2::zeros((CLASSES, DIM)));
        let streamed = HostLoss::new(&boxed, &mut memory).evaluate_streamed(
            &vars[0],
            weights.view_mut(),
            &targets,
            &mut |block| {
                for (class, row) in block.classes.zip(block.gradient.outer_iter()) {
                    by_weight.row_mut(class).assign(&row);
                }
            },
        )?;
        assert_eq!(
            streamed.to_scalar::<f32>()?.to_bits(),
            expected.loss().to_bits()
        );
        assert_eq!(by_weight, expected.grad_weights, "{line}");
    }
    Ok(())
}

#[test]
fn upstream_factors_multiply_exactly() -> Any {
    let batch = Batch::new(3);
    let vars = batch.vars();
    let loss = ArcFace::new(8.0, 0.4)?;
    let mut memory = Evaluation::<f32>::new();
    let targets = Targets::new(&batch.labels);
    let out = HostLoss::new(&loss, &mut memory).evaluate(&vars[0], &vars[1], &targets)?;
    let one = out.backward(&vars[1])?;
    let mut three = (out.tensor() * 3.0)?.backward()?;
    out.add_weight_gradient(&vars[1], &mut three)?;
    for var in &vars {
        let [one, three]: [Vec<f32>; 2] = [&one, &three].map(|grads| {
            grads
                .get(var)
                .unwrap()
                .flatten_all()
                .unwrap()
                .to_vec1()
                .unwrap()
        });
        assert!(
            one.iter()
                .zip(&three)
                .all(|(one, three)| 3.0 * one == *three)
        );
    }
    // What has not entered the backward pass adds nothing.
    let mut other = vars[0].sum_all()?.backward()?;
    out.add_weight_gradient(&vars[1], &mut other)?;
    assert!(other.get(&vars[1]).is_none());
    Ok(())
}

#[test]
fn half_batches_add_up() -> Any {
    let batch = Batch::new(4);
    let vars = batch.vars();
    let loss = ArcFace::new(8.0, 0.4)?;
    let half = batch.labels.len() / 2;
    let mut memory = Evaluation::<f32>::new();
    let whole = HostLoss::new(&loss, &mut memory).evaluate(
        &vars[0],
        &vars[1],
        &Targets::new(&batch.labels),
    )?;
    let whole = whole.backward(&vars[1])?;

    let parts = [0, half].map(|start| {
        let x = vars[0].narrow(0, start, half).unwrap();
        let targets = Targets::new(&batch.labels[start..start + half]);
        let mut memory = Evaluation::<f32>::new();
        HostLoss::new(&loss, &mut memory)
            .evaluate(&x, &vars[1], &targets)
            .unwrap()
    });
    let mean = ((parts[0].tensor() + parts[1].tensor())? * 0.5)?;
    let mut grads = mean.backward()?;
    for part in &parts {
        part.add_weight_gradient(&vars[1], &mut grads)?;
    }
    for var in &vars {
        let (found, expected) = (grads.get(var).unwrap(), whole.get(var).unwrap());
        assert!(apart(&flat(found), &flat(expected)) <= 1e-6);
    }
    Ok(())
}

/// Transposed and narrowed tensors are read where they are.
#[test]
fn strides_change_no_bit() -> Any {
    let batch = Batch::new(5);
    let [x, w] = batch.vars();
    let loss = ArcFace::new(8.0, 0.4)?;
    let targets = Targets::new(&batch.labels);
    let mut memory = Evaluation::<f32>::new();
    let out = HostLoss::new(&loss, &mut memory).evaluate(&x, &w, &targets)?;
    let expected = flat(out.backward(&w)?.get(&x).unwrap());

    let turned = Var::from_tensor(&x.t()?.contiguous()?)?;
    let padded = Tensor::cat(&[w.as_tensor(), w.as_tensor()], 0)?.narrow(0, CLASSES, CLASSES)?;
    let out = HostLoss::new(&loss, &mut memory).evaluate(&turned.t()?, &padded, &targets)?;
    let grads = out.backward(&padded)?;
    let found = flat(&grads.get(&turned).unwrap().t()?);
    assert_eq!(found, expected);
    let address = |tensor: &Tensor| {
        with_array(
            tensor,
            Argument::Features,
            |a: margin_losses_candle::margin_losses::ndarray::ArrayView2<'_, f32>| {
                Ok::<_, Error>(a.as_ptr())
            },
        )
    };
    assert_eq!(address(&turned)?, address(&turned.t()?)?, "no copy");
    Ok(())
}

#[test]
fn double_precision_is_a_route_of_its_own() -> Any {
    let batch = Batch::new(6);
    let [x, w] = batch.vars().map(|var| var.to_dtype(DType::F64).unwrap());
    let x = Var::from_tensor(&x)?;
    let (loss, mut memory) = (ArcFace::new(8.0, 0.4)?, Evaluation::<f64>::new());
    let out = HostLoss::new(&loss, &mut memory).evaluate(&x, &w, &Targets::new(&batch.labels))?;
    let (features, weights) = (
        batch.features.mapv(f64::from),
        batch.weights.mapv(f64::from),
    );
    let expected = loss.evaluate(
        features.view(),
        weights.view(),
        &Targets::new(&batch.labels),
    )?;
    assert_eq!(out.tensor().to_scalar::<f64>()?, expected.loss());
    let found = flat(out.backward(&w)?.get(&x).unwrap());
    assert_eq!(found, expected.grad_features.into_raw_vec_and_offset().0);
    Ok(())
}

/// A row that is ignored may hold NaN, and has no gradient.
#[test]
fn ignored_rows_are_not_looked_at() -> Any {
    let mut batch = Batch::new(8);
    batch.labels[3] = 99;
    batch.features.row_mut(3).fill(f32::NAN);
    let vars = batch.vars();
    let (loss, mut memory) = (ArcFace::new(8.0, 0.4)?, Evaluation::<f32>::new());
    let targets = Targets::new(&batch.labels).with_ignored_label(99);
    let out = HostLoss::new(&loss, &mut memory).evaluate(&vars[0], &vars[1], &targets)?;
    let expected = loss.evaluate(batch.features.view(), batch.weights.view(), &targets)?;
    assert_eq!(out.tensor().to_scalar::<f32>()?, expected.loss());
    let found = flat(out.backward(&vars[1])?.get(&vars[0]).unwrap());
    let entries: Vec<f64> = expected
        .grad_features
        .iter()
        .map(|&v| f64::from(v))
        .collect();
    assert_eq!(found, entries);
    Ok(())
}

#[test]
fn both_poles_are_finite() -> Any {
    let x = Var::new(&[[0.5_f32, 1.0, -2.0], [1.0, 2.0, 0.5]], &Device::Cpu)?;
    let w = Var::new(&[[1.0_f32, 2.0, -4.0], [-2.0, -4.0, -1.0]], &Device::Cpu)?;
    let (loss, mut memory) = (ArcFace::default(), Evaluation::<f32>::new());
    let out = HostLoss::new(&loss, &mut memory).evaluate(&x, &w, &Targets::new(&[0, 1]))?;
    let grads = out.backward(&w)?;
    for var in [&x, &w] {
        assert!(
            flat(grads.get(var).unwrap())
                .iter()
                .all(|entry| entry.is_finite())
        );
    }
    Ok(())
}

/// Center loss with its step, sub-centers, a learned scale and running statistics, all from text.
#[test]
fn objectives_train() -> Any {
    let batch = Batch::new(7);
    for line in [
        "softmax+center:lambda=0.1",
        "arcface:s=8,m=0.2+subcenters:k=2",
        "normface:s=4,learned",
        "adaface:s=8",
        "curricularface:s=8,m=0.2",
    ] {
        let mut objective: Objective = line.parse()?;
        let groups = objective.classifier().sub_centers();
        let features = batch.vars()[0].clone();
        let weights: Array2<f32> =
            margin_losses_candle::margin_losses::init::class_weights(groups * CLASSES, DIM, 3)?;
        let weights = crate::support::var(&weights);
        let mut centers = Array2::<f32>::zeros((CLASSES, DIM));
        let mut optimizer = SGD::new(vec![features.clone(), weights.clone()], 0.5)?;
        let mut memory = Evaluation::<f32>::new();
        let mut losses = Vec::new();
        for _ in 0..15 {
            let targets = Targets::new(&batch.labels);
            let joint = objective.over_centers(centers.view());
            let out =
                HostLoss::new(&*joint, &mut memory).evaluate(&features, &weights, &targets)?;
            drop(joint);
            losses.push(scalar(out.tensor()));
            with_array(&features, Argument::Features, |x| {
                CenterLoss::update_centers(centers.view_mut(), x, &batch.labels, 0.5)
            })?;
            optimizer.step(&out.backward(&weights)?)?;
            let learned = objective.learnables().iter().zip(&memory.grad_learnables);
            let learned: Vec<f64> = learned.map(|(v, g)| v - 0.1 * f64::from(*g)).collect();
            objective.set_learnables(&learned)?;
            objective.set_statistics(memory.statistics())?;
        }
        assert!(losses[14] < 0.9 * losses[0], "{line}: {losses:?}");
        let moved = objective.to_string() != line.parse::<Objective>()?.to_string();
        assert_eq!(
            moved,
            line.contains("learned") || line.contains("adaface") || line.contains("curricular"),
            "{objective}"
        );
    }
    Ok(())
}

#[test]
fn bad_tensors_are_named() -> Any {
    let (loss, labels) = (ArcFace::default(), [0, 1]);
    let weights = Tensor::ones((3, 4), DType::F32, &Device::Cpu)?;
    let refused = |features: &Tensor, weights: &Tensor| {
        let mut memory = Evaluation::<f32>::new();
        let host = HostLoss::new(&loss, &mut memory);
        host.evaluate(features, weights, &Targets::new(&labels))
            .unwrap_err()
            .to_string()
    };
    let features = |dtype| Tensor::ones((2, 4), dtype, &Device::Cpu);
    for dtype in [DType::F16, DType::BF16, DType::F64, DType::U32] {
        let error = refused(&features(dtype)?, &weights);
        assert_eq!(
            error,
            format!("features are {dtype:?}, but F32 is expected: convert them with to_dtype")
        );
    }
    let error = refused(&features(DType::F32)?, &weights.to_dtype(DType::F64)?);
    assert_eq!(
        error,
        "class weights are F64, but F32 is expected: convert them with to_dtype"
    );
    let error = refused(&features(DType::F32)?.unsqueeze(0)?, &weights);
    assert_eq!(error, "features have 3 dimensions, not 2");
    let error = refused(&features(DType::F32)?, &weights.narrow(1, 0, 3)?);
    assert_eq!(
        error,
        "class weights: 4 columns expected, as in the features, 3 found"
    );
    let error = refused(&features(DType::F32)?.zeros_like()?, &weights);
    assert_eq!(error, "features row 0 has zero norm");
    let error = refused(&features(DType::F32)?, &weights.narrow(0, 0, 1)?);
    assert_eq!(error, "labels row 1 is 1, but there are 1 classes");

    // The core's error is there to be matched on.
    let mut memory = Evaluation::<f32>::new();
    let zeros = features(DType::F32)?.zeros_like()?;
    let error =
        HostLoss::new(&loss, &mut memory).evaluate(&zeros, &weights, &Targets::new(&labels));
    let Err(Error::Loss(LossError::ZeroNorm { row, .. })) = error else {
        panic!("{error:?}");
    };
    assert_eq!(row, 0);
    // An update that is refused has not been called.
    let mut host_weights = array![[1.0_f32, 0.0, 0.0, 0.0]];
    let mut called = false;
    let streamed = HostLoss::new(&loss, &mut memory).evaluate_streamed(
        &zeros,
        host_weights.view_mut(),
        &Targets::new(&labels),
        &mut |_| called = true,
    );
    assert!(streamed.is_err() && !called);
    Ok(())
}
