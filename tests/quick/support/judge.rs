//! The verdict on one scenario: an error that is called for, with outputs untouched, or finite results within the bounds of
//! `tolerance.rs`; and the same from every path and every layout.

use margin_losses::{ClassBlock, Error, Evaluation, Float, MarginLoss, Reduction, Targets};
use ndarray::{Array1, Array2, ArrayView2, s};

use super::{
    Batch, Laid, Layout, Scenario, Snapshot, Truth, allowed, bits, is_overflow, may_overflow,
    refusals, truth, widen,
};

/// How a scenario ended, if nothing is wrong with the crate.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Verdict {
    /// The constructor refused the parameters.
    NoSuchLoss(Error),
    /// The batch was refused.
    Refused(Error),
    /// All parts are within their bounds.
    Close,
    /// All parts are finite, but a target lies so near to a jump of its margin that rounding chooses the side.
    AtAJump,
}

/// Runs every path of the crate on a scenario.
///
/// # Panics
///
/// If the crate does anything that it should not.
pub(crate) fn judge<A: Float>(scenario: &Scenario<A>) -> Verdict {
    let mut scenario = scenario.clone();
    let x = Laid::new(&scenario.batch.features, scenario.layouts[0]);
    let mut w = Laid::new(&scenario.batch.weights, scenario.layouts[1]);
    scenario.batch.features = x.values();
    scenario.batch.weights = w.values();
    let scenario = scenario;

    let batch = &scenario.batch;
    let loss = match scenario.spec.loss(batch.centers.view()) {
        Ok(loss) => {
            assert!(
                scenario.spec.is_in_range(),
                "{:?} was accepted",
                scenario.spec
            );
            loss
        }
        Err(error) => {
            assert!(!scenario.spec.is_in_range(), "{:?}: {error}", scenario.spec);
            return Verdict::NoSuchLoss(error);
        }
    };
    let mut targets = Targets::new(&batch.labels).with_reduction(scenario.reduction);
    if scenario.weighted {
        targets = targets.with_row_weights(&batch.row_weights);
    }

    let found = loss.evaluate(x.view(), w.view(), &targets);
    let plain = scenario.layouts == [Layout::ROW_MAJOR; 2];
    if !plain {
        let (x, w) = (batch.features.view(), batch.weights.view());
        let copied = loss.evaluate(x, w, &targets);
        match (&found, &copied) {
            (Ok(found), Ok(copied)) => assert!(
                Snapshot::of(found) == Snapshot::of(copied),
                "bits depend on the layout"
            ),
            (found, copied) => assert_eq!(found.as_ref().err(), copied.as_ref().err()),
        }
    }
    let forward = loss.forward(x.view(), w.view(), &targets);
    let (into, into_result) = evaluate_into(&*loss, x.view(), w.view(), &targets, &scenario);
    let streamed = stream(&*loss, x.view(), &mut w, &targets, &scenario);

    let expected = refusals(&scenario);
    let found = match found {
        Err(error) => {
            let overflow = is_overflow(&error) && may_overflow(&scenario);
            assert!(
                overflow || expected.contains(&error),
                "refused without need: {error:?}; expected {expected:?}"
            );
            match forward {
                Err(other) => assert!(
                    error == other || overflow && is_overflow(&other),
                    "{error:?} and {other:?}"
                ),
                Ok(_) => assert!(overflow, "forward accepts what evaluate refuses: {error:?}"),
            }
            for result in [Some(into_result), streamed.map(|streamed| streamed.1)] {
                assert!(
                    match result {
                        None | Some(Err(Error::ScratchLimit { .. })) => true,
                        Some(Err(other)) => error == other,
                        Some(Ok(())) => false,
                    },
                    "a path accepts what evaluate refuses: {error:?}"
                );
            }
            return Verdict::Refused(error);
        }
        Ok(found) => found,
    };
    assert!(
        expected.iter().all(|error| !is_certain(error)),
        "accepted in spite of {expected:?}"
    );
    let snapshot = Snapshot::of(&found);
    let forward = forward.expect("evaluate accepts it");
    assert!(
        Snapshot::of_forward(&forward) == Snapshot::of_forward(&found.forward),
        "the bits of forward are not those of evaluate"
    );

    let exact = batch.widened();
    let formula = scenario.spec.formula(batch.centers.view());
    let expected = truth(&formula, &exact, scenario.reduction, scenario.weighted);
    // The crate compares cosines in the element type.
    let rounding = 16.0 * (batch.weights.ncols() + 8) as f64 * widen(A::epsilon());
    let at_a_jump = expected.from_threshold < rounding
        || formula.jumps
            && (expected.angles.iter()).any(|angle| {
                let breakpoints = formula.breakpoints.iter();
                breakpoints
                    .into_iter()
                    .any(|b| (angle.radians - b).abs() < 1e-13)
            });
    let compare = |found: &Evaluation<A>, path: &str| {
        if at_a_jump {
            assert!(Snapshot::of(found).is_finite(), "not finite: {path}");
        } else {
            compare(&scenario, &exact, &expected, found, path);
        }
    };
    compare(&found, "evaluate");
    match into_result {
        Ok(()) if scenario.scratch_limit.is_none() => {
            assert!(Snapshot::of(&into) == snapshot, "evaluate_into differs");
        }
        Ok(()) => compare(&into, "evaluate_into"),
        Err(Error::ScratchLimit { limit, needed }) => {
            assert_eq!(Some(limit), scenario.scratch_limit);
            assert!(needed > limit);
            let mut enough = Evaluation::with_scratch_limit(needed);
            loss.evaluate_into(
                batch.features.view(),
                batch.weights.view(),
                &targets,
                &mut enough,
            )
            .expect("what is said to be needed is enough");
            assert!(enough.scratch_bytes() <= needed);
            compare(&enough, "evaluate_into with what is needed");
        }
        Err(error) => panic!("evaluate_into refuses what evaluate accepts: {error}"),
    }
    match streamed {
        Some((streamed, Ok(()))) if scenario.scratch_limit.is_none() => {
            assert!(Snapshot::of(&streamed) == snapshot, "streaming differs");
        }
        Some((streamed, Ok(()))) => compare(&streamed, "evaluate_streamed"),
        None | Some((_, Err(Error::ScratchLimit { .. }))) => {}
        Some((_, Err(error))) => panic!("streaming refuses what evaluate accepts: {error}"),
    }
    if at_a_jump {
        Verdict::AtAJump
    } else {
        Verdict::Close
    }
}

/// Errors at a threshold that rounding decides are listed, but not certain.
fn is_certain(error: &Error) -> bool {
    !matches!(error, Error::NormTooSmall { .. }) && !is_overflow(error)
}

/// An evaluation full of a pattern.
fn prefilled<A: Float>(limit: Option<usize>) -> Evaluation<A> {
    let mut evaluation = limit.map_or_else(Evaluation::new, Evaluation::with_scratch_limit);
    let pattern = A::one() / (A::one() + A::one());
    evaluation.forward.loss = pattern;
    evaluation.forward.row_losses = Array1::from_elem(3, pattern);
    evaluation.forward.correct = Array1::from_elem(3, true);
    evaluation.forward.statistics = vec![0.5; 2];
    evaluation.grad_features = Array2::from_elem((3, 2), pattern);
    evaluation.grad_weights = Array2::from_elem((2, 2), pattern);
    evaluation.grad_centers = Array2::from_elem((1, 2), pattern);
    evaluation.grad_learnables = Array1::from_elem(2, pattern);
    evaluation
}

fn evaluate_into<A: Float>(
    loss: &dyn MarginLoss<A>,
    x: ArrayView2<'_, A>,
    w: ArrayView2<'_, A>,
    targets: &Targets<'_, A>,
    scenario: &Scenario<A>,
) -> (Evaluation<A>, Result<(), Error>) {
    let mut evaluation = prefilled(scenario.scratch_limit);
    let before = Snapshot::of(&evaluation);
    let result = loss.evaluate_into(x, w, targets, &mut evaluation);
    match (&result, scenario.scratch_limit) {
        (Err(error), _) => assert!(
            Snapshot::of(&evaluation) == before,
            "evaluate_into wrote, and then refused: {error}"
        ),
        (Ok(()), Some(limit)) => assert!(evaluation.scratch_bytes() <= limit),
        (Ok(()), None) => {}
    }
    (evaluation, result)
}

/// Streams, where the weights can be written to, with an update that ruins each block once it has been handed out.
fn stream<A: Float>(
    loss: &dyn MarginLoss<A>,
    x: ArrayView2<'_, A>,
    weights: &mut Laid<A>,
    targets: &Targets<'_, A>,
    scenario: &Scenario<A>,
) -> Option<(Evaluation<A>, Result<(), Error>)> {
    let values = &scenario.batch.weights;
    let mut gradient = Array2::from_elem(values.dim(), A::nan());
    let mut next = 0;
    let mut update = |block: ClassBlock<'_, A>| {
        assert_eq!(block.classes.start, next, "classes come in order");
        next = block.classes.end;
        let classes = block.classes.clone();
        assert!(
            bits(&block.weights) == bits(values.slice(s![classes, ..])),
            "the weights that are handed out are not those of the classes"
        );
        let mut to = gradient.slice_mut(s![block.classes, ..]);
        to.assign(&block.gradient);
        let mut weights = block.weights;
        weights.fill(A::nan());
    };
    let mut evaluation = prefilled(scenario.scratch_limit);
    let before = Snapshot::of(&evaluation);
    let view = weights.view_mut()?;
    let result = loss.evaluate_streamed(x, view, targets, &mut evaluation, &mut update);
    if let Err(error) = &result {
        assert_eq!(next, 0, "handed out, and then refused: {error}");
        assert!(
            Snapshot::of(&evaluation) == before && bits(weights.view()) == bits(values),
            "evaluate_streamed wrote, and then refused: {error}"
        );
    } else {
        assert_eq!(next, values.nrows(), "not all classes were handed out");
        assert_eq!(evaluation.grad_weights.nrows(), 0);
        evaluation.grad_weights = gradient;
    }
    Some((evaluation, result))
}

fn flat<T: Copy>(matrix: &Array2<T>) -> Vec<T> {
    matrix.iter().copied().collect()
}

/// Every part of `found` is within its bounds.
pub(crate) fn compare<A: Float>(
    scenario: &Scenario<A>,
    exact: &Batch<f64>,
    expected: &Truth,
    found: &Evaluation<A>,
    path: &str,
) {
    let formula = scenario.spec.formula(scenario.batch.centers.view());
    let (reduction, weighted) = (scenario.reduction, scenario.weighted);
    let bounds = allowed::<A>(&formula, exact, reduction, weighted, expected);
    let forward = &found.forward;
    let within = |what: &str, found: &[A], expected: &[f64], bounds: &[f64]| {
        assert_eq!(found.len(), expected.len(), "length of {what}");
        for (index, ((&found, &expected), &bound)) in
            found.iter().zip(expected).zip(bounds).enumerate()
        {
            let found = widen(found);
            assert!(
                (found - expected).abs() <= bound && found.is_finite(),
                "{what}[{index}] of {path} is {found:e} instead of {expected:e}, off by {:e} where {bound:e} is allowed",
                (found - expected).abs(),
            );
        }
    };
    within(
        "row loss",
        forward.row_losses.as_slice().expect("owned"),
        &expected.row_losses,
        &bounds.row_losses,
    );
    within("loss", &[forward.loss], &[expected.loss], &[bounds.loss]);
    within(
        "cosine",
        forward.target_cosines.as_slice().expect("owned"),
        &expected.target_cosines,
        &bounds.target_cosines,
    );
    if bounds.decided.len() == exact.labels.len() && !expected.correct.is_empty() {
        within(
            "target logit",
            forward.target_logits.as_slice().expect("owned"),
            &expected.target_logits,
            &bounds.target_logits,
        );
        for (row, decided) in bounds.decided.iter().enumerate() {
            assert!(
                !decided || forward.correct[row] == expected.correct[row],
                "row {row} of {path} is classified right, or is not"
            );
        }
    }
    for (what, found, expected, bounds) in [
        (
            "∂X",
            &found.grad_features,
            &expected.grad_features,
            &bounds.grad_features,
        ),
        (
            "∂W",
            &found.grad_weights,
            &expected.grad_weights,
            &bounds.grad_weights,
        ),
        (
            "∂c",
            &found.grad_centers,
            &expected.grad_centers,
            &bounds.grad_centers,
        ),
    ] {
        assert_eq!(found.dim(), expected.dim(), "shape of {what}");
        within(what, &flat(found), &flat(expected), &flat(bounds));
    }
    within(
        "learnable",
        found.grad_learnables.as_slice().expect("owned"),
        &expected.grad_learnables,
        &bounds.grad_learnables,
    );
    // A loss is not negative, nor are sums of losses with weights that are not.
    assert!(forward.row_losses.iter().all(|&loss| loss >= A::zero()));
    assert!(forward.loss >= A::zero() || reduction == Reduction::None);
}
