//! The generator of the properties and of the fuzz target reaches what it is said to reach, found by looking at the numbers.

use std::collections::BTreeMap;

use margin_losses::{Float, Reduction};

use crate::support::{
    Layout, Scaled, Scenario, Spec, SplitMix, Tape, Verdict, Wildness, judge, narrow, step, widen,
};

type Counts = BTreeMap<&'static str, usize>;

fn count<A: Float>(scenario: &Scenario<A>, counts: &mut Counts) {
    let mut seen =
        |what: &'static str, is: bool| *counts.entry(what).or_default() += usize::from(is);
    let batch = &scenario.batch;
    let (rows, classes) = (batch.features.nrows(), batch.weights.nrows());
    let entries: Vec<f64> = (batch.features.iter().chain(&batch.weights))
        .map(|&v| widen(v))
        .collect();
    let any = |is: &dyn Fn(f64) -> bool| entries.iter().any(|&v| is(v));

    seen("one class", classes == 1);
    seen("one row", rows == 1);
    seen("one dimension", batch.features.ncols() == 1);
    seen("more rows than classes", rows > classes);
    seen("more than a block of classes", classes > 64);
    seen("more than a tile of rows", rows > 256);
    seen(
        "no rows, no classes or no dimensions",
        rows * classes * batch.features.ncols() == 0,
    );
    let ulp_of = |v: f64, of: f64| {
        let [near, far] =
            [1, 64].map(|ulps| [-ulps, ulps].map(|ulps| widen(step(narrow::<A>(of), ulps))));
        v != of && (far[0]..=far[1]).contains(&v) && (v <= near[0] || v >= near[1])
    };
    seen("1 to 64 ulps beside 1", any(&|v| ulp_of(v, 1.0)));
    seen("1 to 64 ulps beside -1", any(&|v| ulp_of(v, -1.0)));
    seen("1 to 64 ulps beside 0", any(&|v| ulp_of(v, 0.0)));
    seen("-0", any(&|v| v == 0.0 && v.is_sign_negative()));
    let least = widen(A::min_positive_value());
    seen("subnormal", any(&|v| v != 0.0 && v.abs() < least));
    seen(
        "longer than 2^40",
        any(&|v| v.is_finite() && v.abs() > 2.0_f64.powi(40)),
    );
    seen(
        "shorter than 2^-40",
        any(&|v| v != 0.0 && v.abs() < 2.0_f64.powi(-40)),
    );
    seen(
        "the largest number",
        any(&|v| v.abs() == widen(A::max_value())),
    );
    seen("NaN", any(&f64::is_nan));
    seen("infinity", any(&f64::is_infinite));

    let finite = entries.iter().all(|v| v.is_finite());
    if finite && batch.labels.len() == rows && batch.features.ncols() == batch.weights.ncols() {
        let (mut parallel, mut anti, mut near, mut near_anti) = (false, false, false, false);
        for (x, &label) in batch.features.outer_iter().zip(&batch.labels) {
            if label >= classes {
                continue;
            }
            let x = Scaled::of(x.mapv(widen).view());
            let w = Scaled::of(batch.weights.row(label).mapv(widen).view());
            if x.length() == 0.0 || w.length() == 0.0 || batch.features.ncols() < 2 {
                continue;
            }
            let (angle, sine, _) = x.angle_to(&w);
            let sharp = sine < 1e3 * widen(A::epsilon());
            parallel |= sine == 0.0 && angle < 1.0;
            anti |= sine == 0.0 && angle > 1.0;
            near |= sharp && sine > 0.0 && angle < 1.0;
            near_anti |= sharp && sine > 0.0 && angle > 1.0;
        }
        seen("a feature parallel to its class", parallel);
        seen("a feature opposite to its class", anti);
        seen("a feature almost parallel to its class", near);
        seen("a feature almost opposite to its class", near_anti);
        let weights: Vec<_> = batch.weights.outer_iter().collect();
        let twice = (0..weights.len()).any(|i| weights[..i].contains(&weights[i]));
        seen("two classes alike", twice && classes < 100);
        seen(
            "a zero feature",
            batch
                .features
                .outer_iter()
                .any(|x| x.iter().all(|v| *v == A::zero())),
        );
    }
    seen(
        "a label out of range",
        batch.labels.iter().any(|&label| label >= classes),
    );
    seen("parameters out of range", !scenario.spec.is_in_range());
    seen("joint", matches!(scenario.spec, Spec::Joint { .. }));
    seen("rows left apart", scenario.reduction == Reduction::None);
    seen("row weights", scenario.weighted);
    seen("a scratch limit", scenario.scratch_limit.is_some());
    for layout in Layout::CHOICES {
        seen(layout.name, scenario.layouts[1] == layout);
    }
}

fn tape(seed: u64) -> Vec<u8> {
    let mut rng = SplitMix(seed);
    (0..=rng.below(700)).map(|_| rng.bits() as u8).collect()
}

fn counts<A: Float>() -> Counts {
    let mut counts = Counts::new();
    for seed in 0..4_000 {
        count(&Tape(&tape(seed)).scenario::<A>(Wildness::Bad), &mut counts);
    }
    counts
}

#[test]
fn every_edge_is_reached_in_both_types() {
    for counts in [counts::<f32>(), counts::<f64>()] {
        assert_eq!(counts.len(), 38, "{counts:#?}");
        for (edge, count) in &counts {
            assert!(
                *count >= 8,
                "{edge}: {count} of 4,000 scenarios\n{counts:#?}"
            );
        }
    }
}

#[test]
fn tame_scenarios_are_mostly_accepted() {
    let accepted = (0..400)
        .filter(|&seed| {
            let verdict = judge(&Tape(&tape(seed)).scenario::<f32>(Wildness::Tame));
            matches!(verdict, Verdict::Close)
        })
        .count();
    assert!(accepted > 240, "{accepted} of 400");
}

#[test]
fn an_empty_tape_is_the_plainest_scenario() {
    let scenario = Tape(&[]).scenario::<f64>(Wildness::Bad);
    assert_eq!(scenario.batch.features.dim(), (1, 2));
    assert_eq!(scenario.batch.weights.dim(), (1, 2));
    assert_eq!(judge(&scenario), Verdict::Close);
}
