//! Controls of the judge: it accepts what the crate gives, and rejects any part of it that is off.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use margin_losses::{Evaluation, Float, MarginLoss, Reduction, Targets};

use crate::support::{
    Batch, Layout, Scenario, Snapshot, Spec, compare, every_spec, narrow, truth, widen,
};

fn scenario<A: Float>(spec: Spec) -> Scenario<A> {
    Scenario {
        spec,
        batch: Batch::random(21, 4, 6, 3),
        reduction: Reduction::Mean,
        weighted: true,
        layouts: [Layout::ROW_MAJOR; 2],
        scratch_limit: None,
    }
}

thread_local! {
    /// Whether a panic of this thread is what a test expects, and is not to be printed.
    static EXPECTED: Cell<bool> = const { Cell::new(false) };
}

fn keep_quiet_about_expected_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !EXPECTED.get() {
                usual(info);
            }
        }));
    });
}

/// Whether the judge lets these results pass.
fn passes<A: Float>(scenario: &Scenario<A>, found: &Evaluation<A>) -> bool {
    let exact = scenario.batch.widened();
    let formula = scenario.spec.formula(scenario.batch.centers.view());
    let expected = truth(&formula, &exact, scenario.reduction, scenario.weighted);
    let judged = || compare(scenario, &exact, &expected, found, "control");
    EXPECTED.set(true);
    let verdict = catch_unwind(AssertUnwindSafe(judged));
    EXPECTED.set(false);
    verdict.is_ok()
}

/// Of an entry, and of what it is to be off by.
type Change<A> = (&'static str, fn(A, A) -> A);
type Part<A> = (&'static str, fn(&mut Evaluation<A>) -> &mut [A]);

fn parts<A: Float>() -> [Part<A>; 8] {
    fn all<T>(slice: Option<&mut [T]>) -> &mut [T] {
        slice.expect("contiguous")
    }
    [
        ("loss", |e| core::slice::from_mut(&mut e.forward.loss)),
        ("row losses", |e| all(e.forward.row_losses.as_slice_mut())),
        ("target logits", |e| {
            all(e.forward.target_logits.as_slice_mut())
        }),
        ("target cosines", |e| {
            all(e.forward.target_cosines.as_slice_mut())
        }),
        ("∂X", |e| all(e.grad_features.as_slice_mut())),
        ("∂W", |e| all(e.grad_weights.as_slice_mut())),
        ("∂c", |e| all(e.grad_centers.as_slice_mut())),
        ("learnables", |e| all(e.grad_learnables.as_slice_mut())),
    ]
}

/// Each part off by `shift` of its largest entry, the other way round, and NaN.
fn rejects_what_is_off<A: Float>(shift: f64) {
    keep_quiet_about_expected_panics();
    let mut rejected = 0;
    let mut wrong = Vec::new();
    for (name, spec) in every_spec(6) {
        let scenario = scenario::<A>(spec);
        let batch = &scenario.batch;
        let loss = scenario.spec.loss(batch.centers.view()).expect("in range");
        let targets = Targets::new(&batch.labels).with_row_weights(&batch.row_weights);
        let evaluate = || {
            let (x, w) = (batch.features.view(), batch.weights.view());
            loss.evaluate(x, w, &targets).expect("a good batch")
        };
        if !passes(&scenario, &evaluate()) {
            wrong.push(format!("{name}: rejected what is right"));
        }
        for (part, of) in parts::<A>() {
            // What the center loss reports as its logit is not compared.
            let skipped = scenario.spec == Spec::Center && part == "target logits";
            let size = of(&mut evaluate())
                .iter()
                .fold(A::zero(), |m, v| m.max(v.abs()));
            if skipped || size == A::zero() {
                continue;
            }
            let changes: [Change<A>; 4] = [
                ("a little more", |v, shift| v + shift),
                ("a little less", |v, shift| v - shift),
                ("another sign", |v, _| -v),
                ("NaN", |_, _| A::nan()),
            ];
            for (change, apply) in changes {
                let mut off = evaluate();
                let entries = of(&mut off);
                let largest = (0..entries.len())
                    .max_by(|&a, &b| widen(entries[a].abs()).total_cmp(&widen(entries[b].abs())))
                    .expect("not empty");
                entries[largest] = apply(entries[largest], size * narrow(shift));
                if passes(&scenario, &off) {
                    wrong.push(format!("{name}: {part} {change} passed"));
                }
                rejected += 1;
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
    assert!(rejected > 600, "{rejected}");
}

/// At a scale of 64 in `f32` the rounding of the logits alone may move a gradient by 2e-4 of itself, so that less cannot be told
/// from it.
#[test]
fn anything_that_is_off_is_rejected() {
    rejects_what_is_off::<f64>(1e-11);
    rejects_what_is_off::<f32>(5e-4);
}

/// Two snapshots of the same numbers are equal, and of others are not.
#[test]
fn bits_are_compared() {
    let scenario = scenario::<f32>(Spec::ModifiedSoftmax);
    let batch = &scenario.batch;
    let loss = margin_losses::ModifiedSoftmax::new();
    let (x, w) = (batch.features.view(), batch.weights.view());
    let mut found = loss
        .evaluate(x, w, &Targets::new(&batch.labels))
        .expect("a good batch");
    let before = Snapshot::of(&found);
    assert!(before.is_finite());
    found.grad_weights[[5, 2]] = f32::from_bits(found.grad_weights[[5, 2]].to_bits() ^ 1);
    assert!(Snapshot::of(&found) != before);
    found.grad_weights[[5, 2]] = f32::INFINITY;
    assert!(!Snapshot::of(&found).is_finite());
}
