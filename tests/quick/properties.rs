//! What holds for every batch, on thousands of batches that are ordinary, at the edges, or bad.
//!
//! `support/tape.rs` makes the batches: uniform values mixed with numbers 1 to 64 ulps beside 0 and ±1, pairs almost
//! parallel and antiparallel, rows of lengths 2^±60 and of both ends of the range, subnormal numbers, duplicate classes,
//! more rows than classes, one class, one row. More of them:
//!
//! ```sh
//! PROPTEST_CASES=10000 cargo test --test quick properties::
//! ```

use margin_losses::{CenterLoss, Evaluation, Float, Forward, PastPi, Reduction};
use ndarray::{Array2, Axis, concatenate};
use proptest::collection::vec;
use proptest::prelude::any;
use proptest::test_runner::{Config, RngSeed, TestRunner};

use crate::support::{
    Allowed, Batch, Good, Layer, Scenario, Spec, SplitMix, Tape, Wildness, evaluate, judge,
    largest, narrow, wide, widen,
};

/// Runs `check` on that many tapes, or on as many as `PROPTEST_CASES` says, and shrinks the one that fails. The tapes are the
/// same in every run, unless `PROPTEST_RNG_SEED` is set.
fn for_all(cases: u32, check: impl Fn(&[u8])) {
    let mut config = Config {
        failure_persistence: None,
        max_shrink_iters: 4_000,
        ..Config::default()
    };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = cases;
    }
    if config.rng_seed == RngSeed::Random {
        config.rng_seed = RngSeed::Fixed(20_190_209);
    }
    let run = TestRunner::new(config).run(&vec(any::<u8>(), 1..700), |bytes| {
        check(&bytes);
        Ok(())
    });
    if let Err(error) = run {
        panic!("{error}");
    }
}

/// Checks that many scenarios of both element types, no wilder than said.
macro_rules! property {
    ($(#[$doc:meta])* $name:ident: $cases:literal, $wildest:ident, $check:ident) => {
        $(#[$doc])*
        #[test]
        fn $name() {
            for_all($cases, |bytes| {
                let mut tape = Tape(&bytes[1..]);
                if bytes[0] % 2 == 0 {
                    $check(tape.scenario::<f32>(Wildness::$wildest), bytes);
                } else {
                    $check(tape.scenario::<f64>(Wildness::$wildest), bytes);
                }
            });
        }
    };
}

property! {
    /// Every path, every layout, every scratch limit, against the oracle; or the refusal that is called for.
    every_path_is_right_or_refuses: 6_000, Bad, right_or_refused
}

fn right_or_refused<A: Float>(scenario: Scenario<A>, _: &[u8]) {
    judge(&scenario);
}

/// Everything that is reduced over the rows, with its bounds.
fn reduced<A: Float>(found: &Evaluation<A>) -> [Vec<f64>; 4] {
    [
        vec![widen(found.loss())],
        wide(&found.grad_weights),
        wide(&found.grad_learnables),
        wide(&found.grad_centers),
    ]
}

fn reduced_bounds(bounds: &Allowed) -> [Vec<f64>; 4] {
    [
        vec![bounds.loss],
        wide(&bounds.grad_weights),
        bounds.grad_learnables.clone(),
        wide(&bounds.grad_centers),
    ]
}

/// Entry by entry, within `times` the bounds.
#[track_caller]
fn assert_within(what: &str, found: &[f64], expected: &[f64], bounds: &[f64], times: f64) {
    assert_eq!(
        (found.len(), expected.len()),
        (bounds.len(), bounds.len()),
        "{what}"
    );
    for (k, ((found, expected), bound)) in found.iter().zip(expected).zip(bounds).enumerate() {
        assert!(
            (found - expected).abs() <= times * bound,
            "{what}[{k}]: {found:e} is not {expected:e} within {times} times {bound:e}"
        );
    }
}

property! {
    /// Another order of the classes, of their biases and of their centers is the same problem.
    classes_may_be_renamed: 1_500, Ends, renamed
}

/// The same loss for classes in another order.
fn reorder(spec: &mut Spec, order: &[usize]) {
    match spec {
        Spec::Softmax { bias } if !bias.is_empty() => {
            *bias = order.iter().map(|&class| bias[class]).collect();
        }
        Spec::ByClass { margins, .. } => {
            *margins = order.iter().map(|&class| margins[class]).collect();
        }
        Spec::UniFace { biases, .. } if biases.len() > 1 => {
            *biases = order.iter().map(|&class| biases[class]).collect();
        }
        Spec::Joint { classifier, .. } => reorder(classifier, order),
        _ => {}
    }
}

fn renamed<A: Float>(scenario: Scenario<A>, bytes: &[u8]) {
    let Some(good) = Good::of(scenario) else {
        return;
    };
    let found = good.evaluate();
    let batch = &good.scenario.batch;
    let mut order: Vec<usize> = (0..batch.weights.nrows()).collect();
    let mut rng = SplitMix(bytes.len() as u64);
    for k in (1..order.len()).rev() {
        order.swap(k, rng.below(k + 1));
    }
    let place = |class: usize| {
        order
            .iter()
            .position(|&c| c == class)
            .expect("a permutation")
    };
    let mut other = good.scenario.clone();
    other.batch.weights = batch.weights.select(Axis(0), &order);
    other.batch.labels = batch.labels.iter().map(|&label| place(label)).collect();
    if matches!(good.case().formula.centers, Some((_, Some(_)))) {
        other.batch.centers = batch.centers.select(Axis(0), &order);
    }
    reorder(&mut other.spec, &order);
    let weights = other.weighted.then_some(&other.batch.row_weights[..]);
    let loss = other
        .spec
        .loss(other.batch.centers.view())
        .expect("in range");
    let there = evaluate(&*loss, &other.batch, weights, other.reduction).expect("the same numbers");
    let select = |matrix: &Array2<A>| -> Array2<f64> {
        matrix
            .select(Axis(0), &order[..order.len().min(matrix.nrows())])
            .mapv(widen)
    };
    let bounds = &good.bounds;
    let bounds_there = bounds.grad_weights.select(Axis(0), &order);
    assert_within(
        "L",
        &[widen(there.loss())],
        &[widen(found.loss())],
        &[bounds.loss],
        2.0,
    );
    assert_within(
        "∂X",
        &wide(&there.grad_features),
        &wide(&found.grad_features),
        &wide(&bounds.grad_features),
        2.0,
    );
    assert_within(
        "∂W",
        &wide(&there.grad_weights),
        &wide(&select(&found.grad_weights)),
        &wide(&bounds_there),
        2.0,
    );
}

property! {
    /// A larger margin never makes a row's loss smaller.
    losses_grow_with_the_margin: 2_000, Lengths, monotonic
}

fn monotonic<A: Float>(mut scenario: Scenario<A>, bytes: &[u8]) {
    const MARGINS: [f64; 6] = [0.0, 1e-9, 0.1, 0.35, 0.5, 1.5];
    let scale = [1.0, 16.0, 64.0, 1000.0][bytes.len() % 4];
    let kind = bytes[0] / 2 % 6;
    let rising = |k: usize| match kind {
        0 => Spec::AmSoftmax {
            scale,
            margin: MARGINS[k],
        },
        1 => Spec::CosFace {
            scale,
            margin: MARGINS[k],
        },
        // Of the rules past π − m, the smooth tail goes on falling there, whatever the margin.
        2 => Spec::ArcFace {
            scale,
            margin: MARGINS[k],
            past_pi: PastPi::SmoothTail,
        },
        3 => Spec::Combined {
            scale,
            m1: 1.0,
            m2: 0.3,
            m3: MARGINS[k],
        },
        4 => Spec::ASoftmax {
            m: k as u32 + 1,
            lambda: 0.5,
        },
        _ => Spec::ASoftmax {
            m: 4,
            lambda: 100.0 / (1.0 + 10.0 * k as f64),
        },
    };
    scenario.weighted = false;
    scenario.reduction = Reduction::Sum;
    let losses: Option<Vec<Vec<f64>>> = (0..MARGINS.len())
        .map(|k| {
            let loss = rising(k)
                .loss(scenario.batch.centers.view())
                .expect("in range");
            let found = evaluate(&*loss, &scenario.batch, None, Reduction::Sum)?;
            Some(wide(&found.forward.row_losses))
        })
        .collect();
    // A batch that one of them refuses, all of them do.
    let Some(losses) = losses else {
        return;
    };
    let ulps = 4.0 * widen(A::epsilon());
    for pair in losses.windows(2) {
        for (row, (less, more)) in pair[0].iter().zip(&pair[1]).enumerate() {
            assert!(
                *more >= less * (1.0 - ulps),
                "row {row} of {:?}: {more:e} after {less:e}",
                rising(0)
            );
        }
    }
}

property! {
    /// Results for row weights a and b add up to those for a + b, and the second half of a batch to the first.
    results_are_sums_over_the_rows: 1_500, Ends, additive
}

fn additive<A: Float>(mut scenario: Scenario<A>, bytes: &[u8]) {
    let mut rng = SplitMix(bytes.len() as u64);
    let rows = scenario.batch.labels.len();
    // Small integers, of either sign, whose sums are exact.
    let mut integers = || -> Vec<f64> { (0..rows).map(|_| rng.below(9) as f64 - 4.0).collect() };
    let (a, b) = (integers(), integers());
    let element =
        |weights: &mut dyn Iterator<Item = f64>| -> Vec<A> { weights.map(narrow).collect() };
    let sum = element(&mut a.iter().zip(&b).map(|(a, b)| a + b));
    // Bounds for |a| + |b| hold for each of them.
    let sizes = element(&mut a.iter().zip(&b).map(|(a, b)| a.abs() + b.abs() + 1.0));
    scenario.batch.row_weights = sizes;
    (scenario.reduction, scenario.weighted) = (Reduction::None, true);
    let Some(good) = Good::of(scenario) else {
        return;
    };
    let batch = &good.scenario.batch;
    let case = good.case();
    let with = |batch: &Batch<A>, weights: &[A]| {
        evaluate(&*case.loss, batch, Some(weights), Reduction::None).expect("good with more weight")
    };
    let (a, b) = (element(&mut a.into_iter()), element(&mut b.into_iter()));
    let (of_a, of_b, of_sum) = (with(batch, &a), with(batch, &b), with(batch, &sum));
    let bounds = reduced_bounds(&good.bounds);
    // Parts may be larger than their sum, and each is rounded on its own.
    let half_ulp = widen(A::epsilon()) / 2.0;
    let assert_sum = |what: &str, sum: &[f64], [a, b]: [&[f64]; 2], bounds: &[f64]| {
        let parts = || a.iter().zip(b);
        let added: Vec<f64> = parts().map(|(a, b)| a + b).collect();
        let bounds: Vec<f64> = parts()
            .zip(bounds)
            .map(|((a, b), bound)| bound + half_ulp * (a.abs() + b.abs()))
            .collect();
        assert_within(what, sum, &added, &bounds, 3.0);
    };
    let assert_sums = |what: &str, a: &Evaluation<A>, b: &Evaluation<A>| {
        let (sums, a, b) = (reduced(&of_sum), reduced(a), reduced(b));
        for k in 0..sums.len() {
            assert_sum(what, &sums[k], [&a[k], &b[k]], &bounds[k]);
        }
    };
    assert_sums("a + b", &of_a, &of_b);
    let [a, b] = [&of_a, &of_b].map(|found| wide(&found.grad_features));
    let found = wide(&of_sum.grad_features);
    let bound = wide(&good.bounds.grad_features);
    assert_sum("∂X", &found, [&a, &b], &bound);

    // The batch in two parts.
    let cut = rng.below(rows + 1);
    let part = |rows: core::ops::Range<usize>| {
        let rows: Vec<usize> = rows.collect();
        let weights: Vec<A> = rows.iter().map(|&row| sum[row]).collect();
        with(&good.scenario.of_rows(&rows), &weights)
    };
    let (first, second) = (part(0..cut), part(cut..rows));
    assert_sums("both parts", &first, &second);
    let both = [first.grad_features.view(), second.grad_features.view()];
    let both = concatenate(Axis(0), &both).expect("as many columns");
    assert_within("∂X", &found, &wide(&both), &bound, 2.0);
}

property! {
    /// What is normalised has a gradient at right angles to it.
    gradients_do_not_change_what_is_normalised: 2_000, Lengths, orthogonal
}

fn orthogonal<A: Float>(scenario: Scenario<A>, _: &[u8]) {
    let Some(good) = Good::of(scenario) else {
        return;
    };
    let (case, batch) = (good.case(), good.scenario.batch.widened());
    if case.formula.centers.is_some() || !case.needs_weight_norms() {
        return;
    }
    let found = good.evaluate();
    let u = widen(A::epsilon()) / 2.0;
    let steepest = case.formula.steepest;
    let size = |row: usize| match case.formula.layer {
        Layer::UnitNorm { scale, .. } => scale,
        _ => batch.features.row(row).mapv(|v| v * v).sum().sqrt(),
    };
    // Σ|∂L/∂z| over rows (or classes), times what a logit is of a cosine: the gradient by the unit vector, before the
    // projection, is no longer than that, and what is left along the vector is rounding of it.
    let dimension = batch.features.ncols() as f64;
    let check = |what: &str, vector: &[f64], gradient: &[f64], unprojected: f64| {
        let along: f64 = vector.iter().zip(gradient).map(|(v, g)| v * g).sum();
        let length = vector.iter().map(|v| v * v).sum::<f64>().sqrt();
        let least = widen(A::min_positive_value());
        let bound = (8.0 * dimension + 64.0) * (u * unprojected + least * length);
        assert!(along.abs() <= bound, "{what}: {along:e} exceeds {bound:e}");
    };
    let coefficients = &good.bounds.largest_coefficients;
    for (class, weight) in batch.weights.outer_iter().enumerate() {
        let gradient = wide(found.grad_weights.row(class));
        let rows = (0..batch.labels.len()).map(|row| {
            let slope = if batch.labels[row] == class {
                steepest
            } else {
                case.formula.negative_slope
            };
            coefficients[[row, class]] * size(row) * slope
        });
        check("w·∂w", &weight.to_vec(), &gradient, rows.sum());
    }
    if case.is_angular() {
        for (row, feature) in batch.features.outer_iter().enumerate() {
            let gradient = wide(found.grad_features.row(row));
            let slope = steepest.max(case.formula.negative_slope);
            let sum = coefficients.row(row).sum() * size(row) * slope;
            check("x·∂x", &feature.to_vec(), &gradient, sum);
        }
    }
}

property! {
    /// Rows times powers of two, each its own: the loss keeps its bits, and the gradients are divided by the powers.
    powers_of_two_come_out_of_the_gradient: 1_500, Tame, rescaled
}

fn rescaled<A: Float>(scenario: Scenario<A>, bytes: &[u8]) {
    let Some(good) = Good::of(scenario) else {
        return;
    };
    let (case, batch) = (good.case(), &good.scenario.batch);
    let free = matches!(case.formula.layer, Layer::FreeNorm) || case.formula.by_norm.is_some();
    if case.formula.centers.is_some() || !case.needs_weight_norms() {
        return;
    }
    let mut rng = SplitMix(bytes.len() as u64);
    let reach = if size_of::<A>() == 4 { 40 } else { 400 };
    let mut powers = |count: usize, still: bool| -> Vec<f64> {
        let power = |k: usize| if still { 0 } else { k as i32 - reach };
        (0..count)
            .map(|_| 2.0_f64.powi(power(rng.below(2 * reach as usize + 1))))
            .collect()
    };
    let (x, w) = (
        powers(batch.features.nrows(), free),
        powers(batch.weights.nrows(), false),
    );
    let times = |matrix: &Array2<A>, powers: &[f64]| {
        Array2::from_shape_fn(matrix.dim(), |(i, j)| {
            narrow(widen(matrix[[i, j]]) * powers[i])
        })
    };
    let mut other = batch.clone();
    (other.features, other.weights) = (times(&batch.features, &x), times(&batch.weights, &w));
    let inverse = |powers: &[f64]| -> Vec<f64> { powers.iter().map(|p| 1.0 / p).collect() };
    let exact = times(&other.features, &inverse(&x)) == batch.features
        && times(&other.weights, &inverse(&w)) == batch.weights;
    if !exact {
        // A subnormal entry has been rounded, and with it the direction of its row.
        return;
    }
    let weights = good.scenario.weighted.then_some(&batch.row_weights[..]);
    let there =
        evaluate(&*case.loss, &other, weights, good.scenario.reduction).expect("not too long");
    let found = good.evaluate();
    // A product of two entries that underflows may still decide a tie, and does so for some powers only.
    let smallest = |matrix: &Array2<A>| {
        let entries = matrix.iter().map(|&v| widen(v).abs());
        entries.filter(|&v| v > 0.0).fold(1.0, f64::min)
    };
    let products =
        [batch, &other].map(|batch| smallest(&batch.features) * smallest(&batch.weights));
    // The targets' own logits are of normalised rows, whatever the powers.
    let targets = |forward: &Forward<A>| {
        (
            forward.target_logits.clone(),
            forward.target_cosines.clone(),
        )
    };
    assert_eq!(targets(&there.forward), targets(&found.forward));
    let u = widen(A::epsilon());
    let normal = products
        .iter()
        .all(|&product| product >= widen(A::min_positive_value()));
    if normal {
        assert_eq!(there.forward, found.forward);
    } else {
        let losses = |forward: &Forward<A>| wide(&forward.row_losses);
        let (there, found) = (losses(&there.forward), losses(&found.forward));
        let bounds: Vec<f64> = (found.iter().zip(&good.bounds.row_losses))
            .map(|(loss, &bound)| bound.min(u * (1.0 + loss.abs())))
            .collect();
        assert_within("ℓ", &there, &found, &bounds, 2.0);
    }
    for (there, found, powers) in [
        (&there.grad_features, &found.grad_features, &x),
        (&there.grad_weights, &found.grad_weights, &w),
    ] {
        let found = wide(found);
        // Entries far below the largest may have been subnormal on the way, and those that are subnormal are rounded.
        let negligible = if normal { 1e-24 } else { 8.0 * u } * largest(&found);
        let least = widen(A::min_positive_value() * A::epsilon());
        for (index, (there, found)) in there.iter().zip(&found).enumerate() {
            let power = powers[index / batch.features.ncols()];
            let back = widen(*there) * power;
            assert!(
                back == *found || (back - found).abs() <= negligible + least * (1.0 + power),
                "{back:e} is not {found:e}"
            );
        }
    }
}

property! {
    /// The step of the centers is c − α Σ(c − x)/(1 + n), and leaves the classes alone that are not in the batch.
    centers_step_towards_their_class: 1_000, Lengths, stepped
}

fn stepped<A: Float>(scenario: Scenario<A>, bytes: &[u8]) {
    let batch = &scenario.batch;
    let alpha = [0.5, 0.0, 1.0, 0.95][bytes.len() % 4];
    let mut centers = batch.centers.clone();
    CenterLoss::update_centers(
        centers.view_mut(),
        batch.features.view(),
        &batch.labels,
        alpha,
    )
    .expect("numbers far from the ends of the range");
    let e = f64::EPSILON;
    for (class, center) in batch.centers.outer_iter().enumerate() {
        let rows = || (0..batch.labels.len()).filter(|&row| batch.labels[row] == class);
        let n = rows().count() as f64;
        for (k, &c) in center.iter().enumerate() {
            let found = centers[[class, k]];
            let apart = rows().map(|row| widen(c) - widen(batch.features[[row, k]]));
            let expected = widen(c) - alpha * apart.clone().sum::<f64>() / (1.0 + n);
            let size = widen(c).abs() + apart.map(f64::abs).sum::<f64>();
            let rounding =
                widen(A::epsilon() * A::min_positive_value().max(narrow(expected.abs())));
            let bound = (n + 8.0) * e * size + rounding;
            assert!(
                (widen(found) - expected).abs() <= bound,
                "{found} is not {expected}"
            );
            assert!(n > 0.0 || found == c);
        }
    }
}
