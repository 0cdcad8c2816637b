//! The host route: the core's bits in burn's backward pass.

use crate::support::{
    Any, Batch, CLASSES, DIM, apart, constant, device, flat, gradients, leaf, plain, scalar,
};
use burn::module::{Module, Param};
use burn::optim::{GradientsParams, SgdConfig};
use burn::tensor::{DType, Tensor};
use margin_losses_burn::margin_losses::ndarray::{Array2, array};
use margin_losses_burn::margin_losses::{
    AnyLoss, ArcFace, Argument, CenterLoss, Error as LossError, Evaluation, MarginLoss, Objective,
    Targets,
};
use margin_losses_burn::{Error, HostLoss, with_array};

const LINES: [&str; 6] = [
    "softmax",
    "normface:s=8,learned",
    "cosface:s=9,m=0.2",
    "arcface:s=10,m=0.3,past_pi=paper",
    "adaface:s=10",
    "sphereface2:s=8",
];

fn entries(array: &Array2<f32>) -> Vec<f64> {
    array.iter().map(|&v| f64::from(v)).collect()
}

#[test]
fn gradients_are_those_of_the_plain_formula() -> Any {
    let batch = Batch::new(1);
    for (line, margins) in [
        ("arcface:s=10,m=0.3,past_pi=paper", [10.0, 0.3, 0.0]),
        ("cosface:s=9,m=0.2", [9.0, 0.0, 0.2]),
    ] {
        let loss: AnyLoss = line.parse()?;
        let leaves = batch.leaves();
        let expected = plain([&leaves[0], &leaves[1]], &batch.labels, margins);
        let [by_x, by_w] = gradients(&expected.backward(), &leaves);
        let mut memory = Evaluation::<f32>::new();
        let targets = Targets::new(&batch.labels);
        let out = HostLoss::new(&loss, &mut memory).evaluate(&leaves[0], &leaves[1], &targets)?;
        let found = gradients(&out.backward(&leaves[1]), &leaves);
        assert!(apart(&found[0], &by_x) <= 1e-6, "{line}");
        assert!(apart(&found[1], &by_w) <= 1e-6, "{line}");
        assert!((scalar(&out.tensor()) - scalar(&expected)).abs() <= 1e-6 * scalar(&expected));
    }
    Ok(())
}

#[test]
fn the_loss_has_the_bits_of_the_core() -> Any {
    let batch = Batch::new(2);
    let targets = Targets::new(&batch.labels);
    for line in LINES {
        let loss: AnyLoss = line.parse()?;
        let expected = loss.evaluate(batch.features.view(), batch.weights.view(), &targets)?;
        let mut memory = Evaluation::<f32>::new();
        let leaves = batch.leaves();
        let out = HostLoss::new(&loss, &mut memory).evaluate(&leaves[0], &leaves[1], &targets)?;
        assert_eq!(scalar(&out.tensor()), f64::from(expected.loss()));
        assert_eq!(out.accuracy(), expected.accuracy());
        let found = gradients(&out.backward(&leaves[1]), &leaves);
        assert_eq!(found[0], entries(&expected.grad_features), "{line}");
        assert_eq!(found[1], entries(&expected.grad_weights), "{line}");

        // Streamed, through a pointer to a loss that is chosen at run time.
        let boxed: Box<dyn MarginLoss<f32>> = Box::new(loss);
        let (mut weights, mut by_weight) = (batch.weights.clone(), Array2::zeros((CLASSES, DIM)));
        let x = leaf(&batch.features);
        let streamed = HostLoss::new(&boxed, &mut memory).evaluate_streamed(
            &x,
            weights.view_mut(),
            &targets,
            &mut |block| {
                for (class, row) in block.classes.zip(block.gradient.outer_iter()) {
                    by_weight.row_mut(class).assign(&row);
                }
            },
        )?;
        assert_eq!(scalar(&streamed), f64::from(expected.loss()));
        assert_eq!(by_weight, expected.grad_weights, "{line}");
        let found = flat(x.grad(&streamed.backward()).unwrap());
        assert_eq!(found, entries(&expected.grad_features), "{line}");

        // Outside of autodiff there is the loss alone.
        let plain = HostLoss::new(&boxed, &mut memory).evaluate(
            &constant(&batch.features).inner(),
            &constant(&batch.weights).inner(),
            &targets,
        )?;
        assert_eq!(scalar(&plain.tensor()), f64::from(expected.loss()));
    }
    Ok(())
}

#[test]
fn upstream_factors_multiply_exactly() -> Any {
    let batch = Batch::new(3);
    let loss = ArcFace::new(8.0, 0.4)?;
    let mut memory = Evaluation::<f32>::new();
    let targets = Targets::new(&batch.labels);
    let found = [1.0, 3.0].map(|factor| {
        let leaves = batch.leaves();
        let host = HostLoss::new(&loss, &mut memory);
        let out = host.evaluate(&leaves[0], &leaves[1], &targets).unwrap();
        let mut grads = (out.tensor() * factor).backward();
        out.add_weight_gradient(&leaves[1], &mut grads);
        gradients(&grads, &leaves)
    });
    for (one, three) in found[0].iter().flatten().zip(found[1].iter().flatten()) {
        assert_eq!((3.0 * one) as f32, *three as f32);
    }
    // What has not entered the backward pass adds nothing.
    let leaves = batch.leaves();
    let out = HostLoss::new(&loss, &mut memory).evaluate(&leaves[0], &leaves[1], &targets)?;
    let mut other = leaves[0].clone().sum().backward();
    out.add_weight_gradient(&leaves[1], &mut other);
    assert!(leaves[1].grad(&other).is_none());
    Ok(())
}

#[test]
fn half_batches_add_up() -> Any {
    let batch = Batch::new(4);
    let loss = ArcFace::new(8.0, 0.4)?;
    let half = batch.labels.len() / 2;
    let mut memory = Evaluation::<f32>::new();
    let leaves = batch.leaves();
    let targets = Targets::new(&batch.labels);
    let whole = HostLoss::new(&loss, &mut memory).evaluate(&leaves[0], &leaves[1], &targets)?;
    let whole = gradients(&whole.backward(&leaves[1]), &leaves);

    let leaves = batch.leaves();
    let parts = [0, half].map(|start| {
        let x = leaves[0].clone().narrow(0, start, half);
        let targets = Targets::new(&batch.labels[start..start + half]);
        let mut memory = Evaluation::<f32>::new();
        HostLoss::new(&loss, &mut memory)
            .evaluate(&x, &leaves[1], &targets)
            .unwrap()
    });
    let mut grads = ((parts[0].tensor() + parts[1].tensor()) * 0.5).backward();
    for part in &parts {
        part.add_weight_gradient(&leaves[1], &mut grads);
    }
    let found = gradients(&grads, &leaves);
    assert!(apart(&found[0], &whole[0]) <= 1e-6 && apart(&found[1], &whole[1]) <= 1e-6);
    Ok(())
}

/// Transposed and narrowed tensors are read as what they are.
#[test]
fn strides_change_no_bit() -> Any {
    let batch = Batch::new(5);
    let loss = ArcFace::new(8.0, 0.4)?;
    let targets = Targets::new(&batch.labels);
    let mut memory = Evaluation::<f32>::new();
    let leaves = batch.leaves();
    let out = HostLoss::new(&loss, &mut memory).evaluate(&leaves[0], &leaves[1], &targets)?;
    let expected = gradients(&out.backward(&leaves[1]), &leaves);

    let turned = leaf(&batch.features.t().to_owned());
    let w = constant(&batch.weights);
    let padded = Tensor::cat(vec![w.clone(), w], 0).narrow(0, CLASSES, CLASSES);
    let host = HostLoss::new(&loss, &mut memory);
    let out = host.evaluate(&turned.clone().transpose(), &padded, &targets)?;
    let grads = out.tensor().backward();
    assert_eq!(flat(turned.grad(&grads).unwrap().transpose()), expected[0]);
    assert_eq!(flat(out.grad_weights().clone()), expected[1]);
    Ok(())
}

#[test]
fn double_precision_is_a_route_of_its_own() -> Any {
    let batch = Batch::new(6);
    let [x, w] = [&batch.features, &batch.weights].map(|array| {
        constant(array)
            .inner()
            .cast(DType::F64)
            .autodiff()
            .require_grad()
    });
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
    assert_eq!(scalar(&out.tensor()), expected.loss());
    let found = flat(x.grad(&out.backward(&w)).unwrap());
    assert_eq!(found, expected.grad_features.into_raw_vec_and_offset().0);
    Ok(())
}

/// A row that is ignored may hold NaN, and has no gradient.
#[test]
fn ignored_rows_are_not_looked_at() -> Any {
    let mut batch = Batch::new(8);
    batch.labels[3] = 99;
    batch.features.row_mut(3).fill(f32::NAN);
    let leaves = batch.leaves();
    let (loss, mut memory) = (ArcFace::new(8.0, 0.4)?, Evaluation::<f32>::new());
    let targets = Targets::new(&batch.labels).with_ignored_label(99);
    let out = HostLoss::new(&loss, &mut memory).evaluate(&leaves[0], &leaves[1], &targets)?;
    let expected = loss.evaluate(batch.features.view(), batch.weights.view(), &targets)?;
    assert_eq!(scalar(&out.tensor()), f64::from(expected.loss()));
    let found = gradients(&out.backward(&leaves[1]), &leaves);
    assert_eq!(found[0], entries(&expected.grad_features));
    Ok(())
}

#[test]
fn both_poles_are_finite() -> Any {
    let x = leaf(&array![[0.5, 1.0, -2.0], [1.0, 2.0, 0.5]]);
    let w = leaf(&array![[1.0, 2.0, -4.0], [-2.0, -4.0, -1.0]]);
    let (loss, mut memory) = (ArcFace::default(), Evaluation::<f32>::new());
    let out = HostLoss::new(&loss, &mut memory).evaluate(&x, &w, &Targets::new(&[0, 1]))?;
    let found = gradients(&out.backward(&w), &[x, w]);
    assert!(found.iter().flatten().all(|entry| entry.is_finite()));
    Ok(())
}

#[derive(Module, Debug)]
struct Model {
    features: Param<Tensor<2>>,
    weights: Param<Tensor<2>>,
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
        let weights: Array2<f32> =
            margin_losses_burn::margin_losses::init::class_weights(groups * CLASSES, DIM, 3)?;
        let mut model = Model {
            features: Param::from_tensor(constant(&batch.features)),
            weights: Param::from_tensor(constant(&weights)),
        };
        let mut centers = Array2::<f32>::zeros((CLASSES, DIM));
        let mut optimizer = SgdConfig::new().init();
        let mut memory = Evaluation::<f32>::new();
        let mut losses = Vec::new();
        for _ in 0..15 {
            let (features, weights) = (model.features.val(), model.weights.val());
            let targets = Targets::new(&batch.labels);
            let joint = objective.over_centers(centers.view());
            let host = HostLoss::new(&*joint, &mut memory);
            let out = host.evaluate(&features, &weights, &targets)?;
            drop(joint);
            losses.push(scalar(&out.tensor()));
            with_array(&features, Argument::Features, |x| {
                CenterLoss::update_centers(centers.view_mut(), x, &batch.labels, 0.5)
            })?;
            let grads = GradientsParams::from_grads(out.backward(&weights), &model);
            model = optimizer.step(0.5, model, grads);
            let learned = objective.learnables().iter().zip(&memory.grad_learnables);
            let learned: Vec<f64> = learned.map(|(v, g)| v - 0.1 * f64::from(*g)).collect();
            objective.set_learnables(&learned)?;
            objective.set_statistics(memory.statistics())?;
        }
        assert!(losses[14] < 0.9 * losses[0], "{line}: {losses:?}");
        let moved = objective.to_string() != line.parse::<Objective>()?.to_string();
        let moves = ["learned", "adaface", "curricular"];
        assert_eq!(
            moved,
            moves.iter().any(|what| line.contains(what)),
            "{objective}"
        );
    }
    Ok(())
}

#[test]
fn bad_tensors_are_named() {
    let (loss, labels) = (ArcFace::default(), [0, 1]);
    let device = device();
    let weights = Tensor::<2>::ones([3, 4], &device);
    let refused = |features: &Tensor<2>, weights: &Tensor<2>| {
        let mut memory = Evaluation::<f32>::new();
        let host = HostLoss::new(&loss, &mut memory);
        host.evaluate(features, weights, &Targets::new(&labels))
            .unwrap_err()
            .to_string()
    };
    let features = |dtype| Tensor::<2>::ones([2, 4], (&device, dtype));
    for dtype in [DType::F16, DType::BF16, DType::F64] {
        let error = refused(&features(dtype), &weights);
        let expected =
            format!("features are {dtype:?}, but F32 is expected: convert them with cast");
        assert_eq!(error, expected);
    }
    let error = refused(&features(DType::F32), &weights.clone().cast(DType::F64));
    assert_eq!(
        error,
        "class weights are F64, but F32 is expected: convert them with cast"
    );
    let error = refused(&features(DType::F32), &weights.clone().narrow(1, 0, 3));
    assert_eq!(
        error,
        "class weights: 4 columns expected, as in the features, 3 found"
    );
    let error = refused(&features(DType::F32).zeros_like(), &weights);
    assert_eq!(error, "features row 0 has zero norm");
    let error = refused(&features(DType::F32), &weights.clone().narrow(0, 0, 1));
    assert_eq!(error, "labels row 1 is 1, but there are 1 classes");

    // The core's error is there to be matched on.
    let mut memory = Evaluation::<f32>::new();
    let zeros = features(DType::F32).zeros_like();
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
}
