//! One class, and outputs that hold something already: rows 21 and 28.

use margin_losses::{ClassBlock, Evaluation, Float, Targets};
use ndarray::{Array1, Array2};

use super::{evaluate, in_both_types};
use crate::support::{Batch, Link, Snapshot, every_loss, narrow};

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
                let shifted = case.formula.shifted(&[1.0; 4], (0, 0), 1.0);
                let has_price = shifted.is_some_and(|shifted| shifted.term[0] != 0.0);
                // What is no softmax pulls the feature to its class all the same.
                let pulls = case.formula.link != Link::Softmax;
                if case.formula.centers.is_some() || has_price || pulls {
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
                assert_eq!(found.forward.accuracy(), Some(1.0), "{}", case.name);
            }
        }
    }
}

in_both_types!(row_21_one_class, one_class);

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
