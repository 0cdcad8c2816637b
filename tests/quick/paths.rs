//! One evaluation, many ways: every scratch limit, every number of threads, streamed or whole. `layouts.rs` has the layouts.

use margin_losses::{ArcFace, Argument, ClassBlock, Error, Evaluation, Float, MarginLoss, Targets};
use ndarray::{Array2, Zip, s};

use crate::support::{Batch, Snapshot, every_loss, narrow};

/// Two tiles of rows, several blocks of classes, and neither divides evenly.
fn large<A: Float>() -> Batch<A> {
    Batch::random(7, 300, 1_237, 19)
}

fn limits<A: Float>() {
    let batch = large::<A>();
    let (x, w) = (batch.features.view(), batch.weights.view());
    let targets = Targets::new(&batch.labels).with_row_weights(&batch.row_weights);
    for case in every_loss(batch.centers.view()) {
        let whole = case.loss.evaluate(x, w, &targets).expect("a good batch");
        let expected = Snapshot::of(&whole);
        let mut limit = whole.scratch_bytes();
        let mut tried = 0;
        while limit > 0 {
            let mut tight = Evaluation::with_scratch_limit(limit);
            match case.loss.evaluate_into(x, w, &targets, &mut tight) {
                Ok(()) => {
                    assert!(tight.scratch_bytes() <= limit, "{}: {limit}", case.name);
                    assert_eq!(
                        Snapshot::of(&tight),
                        expected,
                        "{}, {limit} bytes",
                        case.name
                    );
                    tried += 1;
                }
                Err(Error::ScratchLimit {
                    limit: said,
                    needed,
                }) => {
                    assert_eq!(said, limit);
                    let mut enough = Evaluation::with_scratch_limit(needed);
                    case.loss
                        .evaluate_into(x, w, &targets, &mut enough)
                        .expect("what is said to be enough is enough");
                    assert!(enough.scratch_bytes() <= needed);
                    break;
                }
                Err(error) => panic!("{}: {error}", case.name),
            }
            limit = limit * 4 / 5;
        }
        let works_in_scratch = whole.scratch_bytes() > 0;
        assert!(
            tried > 1 || !works_in_scratch,
            "{}: {tried} limits",
            case.name
        );
    }
}

#[test]
fn any_scratch_limit_gives_the_same_bits() {
    limits::<f32>();
    limits::<f64>();
}

/// The loss alone has a limit too, keeps its memory, and leaves no gradients behind.
#[test]
fn the_loss_alone_is_limited_as_well() -> Result<(), Error> {
    let batch = large::<f32>();
    let (x, w) = (batch.features.view(), batch.weights.view());
    let targets = Targets::new(&batch.labels);
    for case in every_loss(batch.centers.view()) {
        let expected = case.loss.forward(x, w, &targets)?;
        let mut out = Evaluation::with_scratch_limit(1 << 20);
        case.loss.forward_into(x, w, &targets, &mut out)?;
        assert_eq!(out.forward, expected, "{}", case.name);
        assert!(out.scratch_bytes() <= 1 << 20);
        assert_eq!(out.grad_features.dim(), (0, 19));
        assert_eq!(out.grad_weights.dim(), (0, 19));
        assert!(out.grad_learnables.is_empty() && out.grad_centers.is_empty());
    }
    let mut tiny = Evaluation::with_scratch_limit(1 << 10);
    let refused = ArcFace::default().forward_into(x, w, &targets, &mut tiny);
    assert!(matches!(
        refused,
        Err(Error::ScratchLimit { limit: 1024, .. })
    ));
    Ok(())
}

/// What panics is the caller's `update`; the evaluation keeps its memory and its limit.
#[test]
fn a_panic_in_update_keeps_the_limit() {
    let batch = large::<f32>();
    let targets = Targets::new(&batch.labels);
    let mut weights = batch.weights.clone();
    let mut out = Evaluation::with_scratch_limit(1 << 20);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        ArcFace::default().evaluate_streamed(
            batch.features.view(),
            weights.view_mut(),
            &targets,
            &mut out,
            &mut |_| std::panic::resume_unwind(Box::new("the caller's")),
        )
    }));
    assert!(panicked.is_err());
    assert!(out.scratch_bytes() > 0, "the memory is kept");
    // A batch that does not fit into 1 MiB, and would into 1 GiB.
    let wide = Batch::<f32>::random(8, 300, 100, 500);
    let refused = ArcFace::default().evaluate_into(
        wide.features.view(),
        wide.weights.view(),
        &Targets::new(&wide.labels),
        &mut out,
    );
    assert!(matches!(refused, Err(Error::ScratchLimit { limit, .. }) if limit == 1 << 20));
}

fn streamed<A: Float>() {
    let batch = large::<A>();
    let targets = Targets::new(&batch.labels).with_row_weights(&batch.row_weights);
    let step: A = narrow(0.125);
    for case in every_loss(batch.centers.view()) {
        let whole = case
            .loss
            .evaluate(batch.features.view(), batch.weights.view(), &targets)
            .expect("a good batch");
        let mut weights = batch.weights.clone();
        let mut gradient = Array2::<A>::from_elem(weights.dim(), A::nan());
        let mut next = 0;
        let mut evaluation = Evaluation::new();
        let mut update = |block: ClassBlock<'_, A>| {
            assert_eq!(
                block.classes.start, next,
                "classes come in order, each once"
            );
            next = block.classes.end;
            gradient
                .slice_mut(s![block.classes, ..])
                .assign(&block.gradient);
            Zip::from(block.weights)
                .and(block.gradient)
                .for_each(|w, &g| *w -= step * g);
        };
        case.loss
            .evaluate_streamed(
                batch.features.view(),
                weights.view_mut(),
                &targets,
                &mut evaluation,
                &mut update,
            )
            .expect("a good batch");
        assert_eq!(next, batch.weights.nrows(), "{}", case.name);
        assert_eq!(gradient, whole.grad_weights, "{}", case.name);
        assert_eq!(
            evaluation.grad_features, whole.grad_features,
            "{}",
            case.name
        );
        assert_eq!(
            evaluation.grad_learnables, whole.grad_learnables,
            "{}",
            case.name
        );
        assert_eq!(evaluation.grad_centers, whole.grad_centers, "{}", case.name);
        assert_eq!(evaluation.forward, whole.forward, "{}", case.name);
        assert_eq!(evaluation.grad_weights.nrows(), 0);
        let stepped = &batch.weights - &whole.grad_weights.mapv(|g| step * g);
        assert_eq!(weights, stepped, "{}", case.name);
    }
}

#[test]
fn streaming_hands_out_the_same_bits() {
    streamed::<f32>();
    streamed::<f64>();
}

#[test]
fn streaming_a_bad_batch_calls_and_changes_nothing() {
    let batch = large::<f32>();
    let mut labels = batch.labels.clone();
    labels[299] = 1_237;
    let mut weights = batch.weights.clone();
    let mut evaluation = Evaluation::new();
    let error = ArcFace::default().evaluate_streamed(
        batch.features.view(),
        weights.view_mut(),
        &Targets::new(&labels),
        &mut evaluation,
        &mut |_| panic!("nothing may be handed out"),
    );
    assert!(matches!(
        error,
        Err(Error::LabelOutOfRange { row: 299, .. })
    ));
    assert_eq!(weights, batch.weights);
    weights[[1_236, 18]] = f32::NAN;
    let error = ArcFace::default().evaluate_streamed(
        batch.features.view(),
        weights.view_mut(),
        &Targets::new(&batch.labels),
        &mut evaluation,
        &mut |_| panic!("nothing may be handed out"),
    );
    let expected = Error::NonFinite {
        argument: Argument::ClassWeights,
        row: 1_236,
    };
    assert_eq!(error, Err(expected));
}

fn threads<A: Float>() {
    let batch = large::<A>();
    let targets = Targets::new(&batch.labels);
    for case in every_loss(batch.centers.view()) {
        let mut first: Option<(Snapshot, Snapshot)> = None;
        for threads in [1, 2, 3, 8] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            let found = pool.expect("a pool").install(|| {
                let (x, w) = (batch.features.view(), batch.weights.view());
                let mut tight = Evaluation::with_scratch_limit(4 << 20);
                case.loss
                    .evaluate_into(x, w, &targets, &mut tight)
                    .expect("a good batch");
                let whole = case.loss.evaluate(x, w, &targets).expect("a good batch");
                (Snapshot::of(&whole), Snapshot::of(&tight))
            });
            match &first {
                None => first = Some(found),
                Some(first) => assert_eq!(&found, first, "{} on {threads} threads", case.name),
            }
        }
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    threads::<f32>();
    threads::<f64>();
}

#[test]
fn a_second_evaluation_needs_no_more_memory() {
    let batch = large::<f32>();
    let (x, w) = (batch.features.view(), batch.weights.view());
    let targets = Targets::new(&batch.labels);
    let mut evaluation = Evaluation::new();
    let loss = ArcFace::default();
    loss.evaluate_into(x, w, &targets, &mut evaluation)
        .expect("a good batch");
    let held = evaluation.scratch_bytes();
    let (gx, gw) = (
        evaluation.grad_features.as_ptr(),
        evaluation.grad_weights.as_ptr(),
    );
    for _ in 0..3 {
        loss.evaluate_into(x, w, &targets, &mut evaluation)
            .expect("a good batch");
        assert_eq!(evaluation.scratch_bytes(), held);
        assert_eq!(evaluation.grad_features.as_ptr(), gx);
        assert_eq!(evaluation.grad_weights.as_ptr(), gw);
    }
}
