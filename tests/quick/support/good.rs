//! What the crate accepts: scenarios for properties of what it gives, and batches and lines of tests.

use margin_losses::{AnyLoss, Evaluation, Float, MarginLoss, Reduction, Targets};

use super::{Allowed, Batch, Case, Layout, Scenario, Verdict, allowed, judge, truth};

/// A batch that can be evaluated, and the bounds of its results.
pub(crate) struct Good<A> {
    pub(crate) scenario: Scenario<A>,
    pub(crate) bounds: Allowed,
}

impl<A: Float> Good<A> {
    /// None if the batch is refused, or its target lies at a jump of its margin.
    pub(crate) fn of(mut scenario: Scenario<A>) -> Option<Self> {
        scenario.layouts = [Layout::ROW_MAJOR; 2];
        scenario.scratch_limit = None;
        if judge(&scenario) != Verdict::Close {
            return None;
        }
        let exact = scenario.batch.widened();
        let formula = scenario.spec.formula(scenario.batch.centers.view());
        let (reduction, weighted) = (scenario.reduction, scenario.weighted);
        let truth = truth(&formula, &exact, reduction, weighted);
        let bounds = allowed::<A>(&formula, &exact, reduction, weighted, &truth);
        Some(Self { scenario, bounds })
    }

    pub(crate) fn case(&self) -> Case<'_, A> {
        let centers = self.scenario.batch.centers.view();
        Case::of("the loss", &self.scenario.spec, centers).expect("in range")
    }

    pub(crate) fn evaluate(&self) -> Evaluation<A> {
        let Scenario {
            batch, reduction, ..
        } = &self.scenario;
        let weights = self.scenario.weighted.then_some(&batch.row_weights[..]);
        evaluate(&*self.case().loss, batch, weights, *reduction).expect("judged to be good")
    }
}

/// None if it is refused, which a batch made of good ones can be at the ends of the range only.
pub(crate) fn evaluate<A: Float>(
    loss: &dyn MarginLoss<A>,
    batch: &Batch<A>,
    row_weights: Option<&[A]>,
    reduction: Reduction,
) -> Option<Evaluation<A>> {
    let mut targets = Targets::new(&batch.labels).with_reduction(reduction);
    if let Some(row_weights) = row_weights {
        targets = targets.with_row_weights(row_weights);
    }
    let found = loss.evaluate(batch.features.view(), batch.weights.view(), &targets);
    found.ok()
}

/// The loss of a batch that is good, with its row weights.
pub(crate) fn evaluated<A: Float>(loss: &dyn MarginLoss<A>, batch: &Batch<A>) -> Evaluation<A> {
    let targets = Targets::new(&batch.labels).with_row_weights(&batch.row_weights);
    let (x, w) = (batch.features.view(), batch.weights.view());
    loss.evaluate(x, w, &targets).expect("a good batch")
}

/// The loss that a line names.
#[track_caller]
pub(crate) fn any(line: &str) -> AnyLoss {
    line.parse()
        .unwrap_or_else(|error| panic!("{line}: {error}"))
}
