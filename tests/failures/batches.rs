//! Batches of every shape, in any memory, on any number of threads: rows 20 to 23, 26 and 28.

use margin_losses::{ClassBlock, Evaluation, Float, Reduction, Targets};
use ndarray::{Array1, Array2};
use rayon::ThreadPoolBuilder;

use super::support::{
    Batch, LAYOUTS, Snapshot, assert_close, every_loss, narrow, truth, wide, widen,
};
use super::{evaluate, in_both_types};

/// `layouts.rs` beside this folder has every pair of layouts, the other methods and larger batches.
fn strides<A: Float>() {
    let batch = Batch::<A>::random(201, 6, 75, 5);
    let targets = Targets::new(&batch.labels);
    for case in every_loss(batch.centers.view()) {
        let plain = Snapshot::of(&evaluate(&*case.loss, &batch));
        for layout in LAYOUTS {
            let (x, w) = (
                layout.buffer(&batch.features),
                layout.buffer(&batch.weights),
            );
            let x = layout.view(&x, batch.features.dim());
            let w = layout.view(&w, batch.weights.dim());
            let found = case.loss.evaluate(x, w, &targets).expect("a good batch");
            assert_eq!(
                Snapshot::of(&found),
                plain,
                "{} in {}",
                case.name,
                layout.name
            );
        }
    }
}

in_both_types!(row_20_strides, strides);

/// With one class every row is certain, whatever its margin and wherever it stands.
fn one_class<A: Float>() {
    for rows in [1, 4] {
        let mut batch = Batch::<A>::random(202, rows, 1, 3);
        for pole in [None, Some(2.0), Some(-0.5)] {
            if let Some(factor) = pole {
                let pole = batch.weights.row(0).mapv(|v| v * narrow(factor));
                batch.features.row_mut(0).assign(&pole);
            }
            for case in every_loss(batch.centers.view()) {
                if case.formula.centers.is_some() {
                    continue;
                }
                let found = evaluate(&*case.loss, &batch);
                let all = core::iter::once(&found.forward.loss)
                    .chain(&found.forward.row_losses)
                    .chain(&found.grad_features)
                    .chain(&found.grad_weights)
                    .chain(&found.grad_learnables);
                for &value in all {
                    assert_eq!(value, A::zero(), "{}: {found:?}", case.name);
                }
            }
        }
    }
}

in_both_types!(row_21_one_class, one_class);

/// Eight times as many rows as classes: every row has its target's gradient, and no class loses one.
fn more_rows_than_classes<A: Float>() {
    for classes in [2, 3, 35] {
        let rows = 8 * classes;
        let mut batch = Batch::<A>::random(203, rows, classes, 4);
        batch.labels = (0..rows).map(|row| (row * 5) % classes).collect();
        for case in every_loss(batch.centers.view()) {
            let found = evaluate(&*case.loss, &batch);
            let exact = truth(&case.formula, &batch.widened(), Reduction::Mean, false);
            let tolerance = 200.0 * widen(A::epsilon());
            let close = |what: &str, found: &[f64], exact: &[f64]| {
                let what = format!("{what} of {}, {rows} rows", case.name);
                assert_close(&what, found, exact, tolerance);
            };
            close("L", &[widen(found.loss())], &[exact.loss]);
            close(
                "∂X",
                &wide(&found.grad_features),
                &wide(&exact.grad_features),
            );
            close("∂W", &wide(&found.grad_weights), &wide(&exact.grad_weights));
        }
    }
}

in_both_types!(row_22_more_rows_than_classes, more_rows_than_classes);

/// `determinism.rs` beside this folder repeats this for every loss, streamed as well.
fn threads<A: Float>() {
    let batch = Batch::<A>::random(204, 261, 449, 18);
    let cases = every_loss(batch.centers.view());
    for case in cases.iter().step_by(6) {
        let mut first: Option<Snapshot> = None;
        for threads in [1, 2, 3, 8] {
            let pool = ThreadPoolBuilder::new().num_threads(threads).build();
            let pool = pool.expect("a pool");
            for repetition in 0..20 {
                let found = pool.install(|| Snapshot::of(&evaluate(&*case.loss, &batch)));
                let first = first.get_or_insert_with(|| found.clone());
                assert_eq!(
                    &found, first,
                    "{}: {threads} threads, repetition {repetition}",
                    case.name
                );
            }
        }
    }
}

in_both_types!(row_23_threads, threads);

/// Batches of other sizes, one after the other, a single row among them.
fn changing_sizes<A: Float>() {
    let centers = Array2::<A>::zeros((5, 3));
    for case in every_loss(centers.view()) {
        let mut kept = Evaluation::new();
        for (seed, rows) in [(205, 7), (206, 1), (207, 9), (208, 1), (209, 0)] {
            let batch = Batch::<A>::random(seed, rows, 5, 3);
            let targets = Targets::new(&batch.labels).with_reduction(Reduction::Sum);
            let (x, w) = (batch.features.view(), batch.weights.view());
            case.loss
                .evaluate_into(x, w, &targets, &mut kept)
                .expect("a good batch");
            let fresh = case.loss.evaluate(x, w, &targets).expect("a good batch");
            assert_eq!(Snapshot::of(&kept), Snapshot::of(&fresh), "{}", case.name);
            assert_eq!(kept.forward.row_losses.len(), rows);
            assert_eq!(kept.grad_features.dim(), (rows, 3));
        }
    }
}

in_both_types!(row_26_batches_of_changing_size, changing_sizes);

/// Outputs of the right shapes, full of NaN.
fn overwritten<A: Float>() {
    for (rows, classes) in [(4, 6), (5, 300)] {
        let batch = Batch::<A>::random(210, rows, classes, 3);
        let targets = Targets::new(&batch.labels);
        let (x, w) = (batch.features.view(), batch.weights.view());
        for case in every_loss(batch.centers.view()) {
            let fresh = case.loss.evaluate(x, w, &targets).expect("a good batch");
            // The working memory of a batch with an error is left behind as well.
            let mut filled = Evaluation::new();
            let fill = |filled: &mut Evaluation<A>| {
                filled.forward.loss = A::nan();
                filled.forward.row_losses = Array1::from_elem(rows, A::nan());
                filled.forward.target_logits = Array1::from_elem(rows, A::nan());
                filled.forward.target_cosines = Array1::from_elem(rows, A::nan());
                filled.forward.correct = Array1::from_elem(rows, true);
                filled.grad_features = Array2::from_elem((rows, 3), A::nan());
                filled.grad_weights = Array2::from_elem((classes, 3), A::nan());
                filled.grad_learnables = Array1::from_elem(fresh.grad_learnables.len(), A::nan());
                filled.grad_centers = Array2::from_elem((classes, 3), A::nan());
            };
            for _ in 0..2 {
                fill(&mut filled);
                case.loss
                    .evaluate_into(x, w, &targets, &mut filled)
                    .expect("a good batch");
                assert_eq!(Snapshot::of(&filled), Snapshot::of(&fresh), "{}", case.name);
            }
            fill(&mut filled);
            let mut weights = batch.weights.clone();
            let mut gradient = Array2::from_elem((classes, 3), A::nan());
            let mut update = |block: ClassBlock<'_, A>| {
                for (class, row) in block.classes.zip(block.gradient.outer_iter()) {
                    gradient.row_mut(class).assign(&row);
                }
            };
            case.loss
                .evaluate_streamed(x, weights.view_mut(), &targets, &mut filled, &mut update)
                .expect("a good batch");
            filled.grad_weights = gradient;
            assert_eq!(Snapshot::of(&filled), Snapshot::of(&fresh), "{}", case.name);
        }
    }
}

in_both_types!(row_28_outputs_are_overwritten, overwritten);
