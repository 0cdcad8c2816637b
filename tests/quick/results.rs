//! How results are reduced, weighted, reused and reproduced, whatever the loss.

use margin_losses::{
    ArcFace, CosFace, Error, Evaluation, Float, JointLoss, MarginLoss, MarginSoftmax, NormFace,
    Reduction, Targets,
};
use ndarray::{Array2, Axis, ShapeBuilder, array};

use crate::support::{Batch, Snapshot, assert_close, bits, every_loss, wide, widen};

/// L and all gradients, end to end.
fn parts<A: Float>(evaluation: &Evaluation<A>) -> [Vec<f64>; 5] {
    [
        vec![widen(evaluation.loss())],
        wide(&evaluation.grad_features),
        wide(&evaluation.grad_weights),
        wide(&evaluation.grad_learnables),
        wide(&evaluation.grad_centers),
    ]
}

fn forward_is_evaluate<A: Float>() {
    for (rows, classes, dimension) in [(1, 2, 3), (6, 700, 5), (3, 1, 2)] {
        let batch = Batch::<A>::random(91, rows, classes, dimension);
        let targets = Targets::new(&batch.labels).with_row_weights(&batch.row_weights);
        for case in every_loss(batch.centers.view()) {
            let (x, w) = (batch.features.view(), batch.weights.view());
            let forward = case.loss.forward(x, w, &targets).expect("a good batch");
            let evaluation = case.loss.evaluate(x, w, &targets).expect("a good batch");
            assert_eq!(
                Snapshot::of_forward(&forward),
                Snapshot::of_forward(&evaluation.forward),
                "{}",
                case.name
            );
        }
    }
}

#[test]
fn forward_has_the_bits_of_evaluate() {
    forward_is_evaluate::<f32>();
    forward_is_evaluate::<f64>();
}

/// One evaluation, filled by batches of other shapes and other losses in between, never shows a trace of them.
fn reuse<A: Float>() {
    let mut kept = Evaluation::new();
    for (seed, (rows, classes, dimension)) in
        [(4, 9, 3), (7, 2, 5), (1, 600, 4), (0, 6, 4), (9, 3, 2)]
            .into_iter()
            .enumerate()
    {
        let batch = Batch::<A>::random(seed as u64, rows, classes, dimension);
        let targets = Targets::new(&batch.labels).with_reduction(Reduction::Sum);
        for case in every_loss(batch.centers.view()) {
            let (x, w) = (batch.features.view(), batch.weights.view());
            let fresh = Snapshot::of(&case.loss.evaluate(x, w, &targets).expect("a good batch"));
            for _ in 0..2 {
                case.loss
                    .evaluate_into(x, w, &targets, &mut kept)
                    .expect("a good batch");
                assert_eq!(Snapshot::of(&kept), fresh, "{}", case.name);
            }
        }
    }
}

#[test]
fn an_evaluation_can_be_used_again() {
    reuse::<f32>();
    reuse::<f64>();
}

/// The working memory that is reported is the one that a limit counts, to the byte, whatever was evaluated before.
#[test]
fn scratch_is_counted_to_the_byte() {
    let [small, large] = [(3, 5), (40, 300)].map(|(n, c)| Batch::<f32>::random(96, n, c, 6));
    let loss = ArcFace::default();
    let run = |batch: &Batch<f32>, evaluation: &mut Evaluation<f32>| {
        let (x, w) = (batch.features.view(), batch.weights.view());
        let targets = Targets::new(&batch.labels);
        loss.evaluate_into(x, w, &targets, evaluation)?;
        Ok::<usize, Error>(evaluation.scratch_bytes())
    };
    let used = run(&large, &mut Evaluation::new()).expect("a good batch");
    let mut kept = Evaluation::with_scratch_limit(used);
    let little = run(&small, &mut kept).expect("a small batch");
    assert!(0 < little && little < used, "{little} and {used}");
    assert_eq!(run(&large, &mut kept), Ok(used));
    assert_eq!(run(&small, &mut kept), Ok(used), "memory is kept");
    match run(&large, &mut Evaluation::with_scratch_limit(used - 1)) {
        Ok(less) => assert!(less < used, "{less} of {used}"),
        Err(error) => panic!("there are plans that need less: {error}"),
    }
    let debug = format!("{kept:?}");
    assert!(debug.contains(&format!("bytes: {used}")), "{debug}");
}

/// One shape needs much of one buffer, the other much of another: what is kept of both must not add up beyond the limit.
#[test]
fn the_scratch_limit_holds_from_shape_to_shape() {
    let batches = [(600, 20, 2), (2, 3000, 2)].map(|(n, c, d)| Batch::<f32>::random(97, n, c, d));
    let run = |batch: &Batch<f32>, evaluation: &mut Evaluation<f32>| {
        let (x, w) = (batch.features.view(), batch.weights.view());
        let targets = Targets::new(&batch.labels);
        let done = ArcFace::default().evaluate_into(x, w, &targets, evaluation);
        assert_eq!(done, Ok(()));
        evaluation.scratch_bytes()
    };
    let alone = batches
        .each_ref()
        .map(|batch| run(batch, &mut Evaluation::new()));
    let limit = alone[0].max(alone[1]);
    let mut kept = Evaluation::with_scratch_limit(limit);
    for batch in batches.iter().chain(&batches) {
        let held = run(batch, &mut kept);
        assert!(held <= limit, "{held} of {limit}, alone {alone:?}");
    }
}

/// Arrays of the right shape in another order are the caller's to bring, and are replaced.
#[test]
fn an_evaluation_may_have_arrays_in_another_order() {
    let batch = Batch::<f64>::random(95, 7, 11, 3);
    let (x, w) = (batch.features.view(), batch.weights.view());
    let targets = Targets::new(&batch.labels);
    for case in every_loss(batch.centers.view()) {
        let mut evaluation = Evaluation::new();
        evaluation.grad_features = Array2::zeros(batch.features.dim().f());
        evaluation.grad_weights = Array2::zeros(batch.weights.dim().f());
        evaluation.grad_centers = Array2::zeros(batch.centers.dim().f());
        let result = case.loss.evaluate_into(x, w, &targets, &mut evaluation);
        assert_eq!(result, Ok(()), "{}", case.name);
        let fresh = case.loss.evaluate(x, w, &targets).expect("a good batch");
        assert!(
            Snapshot::of(&evaluation) == Snapshot::of(&fresh),
            "{}",
            case.name
        );
    }
}

/// Where another class is as near as the target, the row is not classified right.
#[test]
fn a_tie_is_not_right() {
    let features = array![[1.0, 0.0], [2.0, 0.0]];
    let weights = array![[1.0, 0.0], [1.0, 0.0], [0.5, 0.5]];
    let targets = Targets::new(&[0, 1]);
    for case in every_loss::<f64>(weights.view()) {
        let found = case
            .loss
            .forward(features.view(), weights.view(), &targets)
            .expect("a good batch");
        let biased = case.name.contains("bias");
        let right = found.correct.iter().any(|&right| right);
        assert!(biased || !right, "{}", case.name);
    }
}

#[test]
fn the_sum_is_n_times_the_mean() {
    let batch = Batch::<f64>::random(92, 7, 11, 3);
    let mean = Targets::new(&batch.labels).with_row_weights(&batch.row_weights);
    for case in every_loss(batch.centers.view()) {
        let evaluate = |targets: &Targets<'_, f64>| {
            case.loss
                .evaluate(batch.features.view(), batch.weights.view(), targets)
                .expect("a good batch")
        };
        let sum = evaluate(&mean.with_reduction(Reduction::Sum));
        let apart = evaluate(&mean.with_reduction(Reduction::None));
        let mean = evaluate(&mean);
        for (sum, mean) in parts(&sum).iter().zip(&parts(&mean)) {
            let times_n: Vec<f64> = mean.iter().map(|v| 7.0 * v).collect();
            assert_close(&case.name, sum, &times_n, 1e-14);
        }
        assert_eq!(Snapshot::of(&sum), Snapshot::of(&apart), "{}", case.name);
        assert_eq!(
            bits(&sum.forward.row_losses),
            bits(&mean.forward.row_losses),
            "{}",
            case.name
        );
    }
}

/// The result of a batch is the sum of its rows', each with its weight, of either sign.
#[test]
fn the_row_weights_are_linear() {
    let batch = Batch::<f64>::random(93, 5, 6, 4);
    let row_weights = [2.0, 0.0, -1.5, 0.25, 1.0];
    for case in every_loss(batch.centers.view()) {
        if case.formula.couples_rows {
            continue;
        }
        let targets = Targets::new(&batch.labels)
            .with_row_weights(&row_weights)
            .with_reduction(Reduction::None);
        let whole = case
            .loss
            .evaluate(batch.features.view(), batch.weights.view(), &targets)
            .expect("a good batch");
        let whole = parts(&whole);
        let mut total = whole.clone().map(|part| vec![0.0; part.len()]);
        for (row, weight) in row_weights.into_iter().enumerate() {
            let features = batch.features.select(Axis(0), &[row]);
            let label = [batch.labels[row]];
            let targets = Targets::new(&label).with_reduction(Reduction::Sum);
            let alone = case
                .loss
                .evaluate(features.view(), batch.weights.view(), &targets)
                .expect("a good batch");
            for (index, (total, part)) in total.iter_mut().zip(parts(&alone)).enumerate() {
                // ∂X of the row stands in the row's place.
                let start = if index == 1 { 4 * row } else { 0 };
                for (total, part) in total[start..].iter_mut().zip(part) {
                    *total += weight * part;
                }
            }
        }
        for (whole, total) in whole.iter().zip(&total) {
            assert_close(&case.name, whole, total, 1e-13);
        }
    }
}

#[test]
fn a_joint_loss_says_what_it_was_made_of() {
    let batch = Batch::<f64>::random(3, 4, 5, 2);
    let classifier = ArcFace::new(32.0, 0.25).expect("in range");
    let joint = JointLoss::new(classifier, batch.centers.view(), 0.125).expect("in range");
    assert_eq!((joint.classifier(), joint.lambda()), (&classifier, 0.125));
}

#[test]
fn a_learned_scale_can_be_set() -> Result<(), Error> {
    let mut norm_face = NormFace::learned(10.0).expect("in range");
    let mut own = MarginSoftmax::learned(CosFace::new(10.0, 0.35)?, 10.0).expect("in range");
    assert_eq!(norm_face.set_scale(12.5), Ok(()));
    assert_eq!(own.set_scale(12.5), Ok(()));
    assert_eq!((norm_face.scale(), own.scale()), (12.5, 12.5));
    // Without a type of elements.
    assert_eq!(
        (norm_face.learnables(), own.learnables()),
        (&[12.5][..], &[12.5][..])
    );
    Ok(())
}
