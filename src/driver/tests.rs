//! The mechanisms of the driver against a dense oracle, and segments that are evaluated apart.

use core::ops::Range;

use ndarray::{Array1, Array2, Axis, Slice};

use super::target::RowTarget;
use super::*;
use crate::inter_topk::InterTopK;
use crate::margin::{Angle, Margin, Negatives, Target, TargetLogit};
use crate::request::{Composition, Request};
use crate::targets::{Reduction, Targets};

/// A small generator of numbers in (−1, 1).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> f64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) as f64 / f64::from(1_u32 << 30) - 1.0
    }

    fn array(&mut self, shape: (usize, usize)) -> Array2<f64> {
        Array2::from_shape_simple_fn(shape, || self.next())
    }
}

/// ψ = cosθ − 0.2, and hard negatives.
#[derive(Debug)]
struct Hard;

impl Margin for Hard {
    fn target_logit(&self, target: &Target) -> TargetLogit {
        TargetLogit::from_cosine_slope(target.cos() - 0.2, 1.0, target.angle())
    }

    fn negatives(&self, _: &Target) -> Negatives {
        Negatives::above(0.1, [0.05, 1.2, 0.3, -0.1])
    }
}

#[derive(Debug)]
struct Cosine;

impl Margin for Cosine {
    fn target_logit(&self, target: &Target) -> TargetLogit {
        TargetLogit::from_cosine_slope(target.cos() - 0.2, 1.0, target.angle())
    }
}

struct Case {
    features: Array2<f64>,
    weights: Array2<f64>,
    labels: Vec<usize>,
    row_weights: Vec<f64>,
    /// The second label of each row, and the share of the first; nothing for one target each.
    second: Option<(Vec<usize>, Vec<f64>)>,
}

impl Case {
    fn new(rows: usize, classes: usize, group: usize, dim: usize) -> Self {
        let mut numbers = Numbers(7);
        Self {
            features: numbers.array((rows, dim)),
            weights: numbers.array((classes * group, dim)),
            labels: (0..rows).map(|row| row * 5 % classes).collect(),
            row_weights: (0..rows).map(|_| 1.0 + numbers.next()).collect(),
            second: None,
        }
    }

    /// The same with two targets for each row; the third row has but one.
    fn mixed(rows: usize, classes: usize, group: usize, dim: usize) -> Self {
        let case = Self::new(rows, classes, group, dim);
        let mut second: Vec<_> = (0..rows).map(|row| (row * 3 + 2) % classes).collect();
        second[2] = case.labels[2];
        let shares = (0..rows).map(|row| [0.3, 0.9, 0.5, 0.0][row % 4]).collect();
        Self {
            second: Some((second, shares)),
            ..case
        }
    }

    fn targets(&self) -> Targets<'_, f64> {
        let targets = Targets::new(&self.labels)
            .with_row_weights(&self.row_weights)
            .with_reduction(Reduction::Sum);
        match &self.second {
            None => targets,
            Some((labels, shares)) => targets.with_second_by_row(labels, shares),
        }
    }

    /// The targets of a row, and how much each counts.
    fn terms(&self, row: usize) -> Vec<(usize, f64)> {
        match &self.second {
            None => vec![(self.labels[row], 1.0)],
            Some((labels, shares)) => vec![
                (self.labels[row], shares[row]),
                (labels[row], 1.0 - shares[row]),
            ],
        }
    }

    fn evaluate(&self, head: &Head<'_>, evaluation: &mut Evaluation<f64>) -> Result<(), Error> {
        let targets = self.targets();
        solve(
            head,
            Request {
                features: self.features.view(),
                wanted: Wanted::Gradients(self.weights.view()),
                targets,
                evaluation,
                composition: Composition::NONE,
                shard: None,
            },
        )
    }
}

/// Σ rᵢ ℓᵢ from the formulas, one logit after the other.
fn dense(head: &Head<'_>, case: &Case) -> f64 {
    let classes = case.weights.nrows() / head.group;
    let (scale, unit_features, unit_weights) = match head.layer {
        Layer::Linear => (1.0, false, false),
        Layer::UnitWeights => (1.0, false, true),
        Layer::Cosine { scale } => (scale, true, true),
    };
    let mut sum = 0.0;
    let rows = case.features.outer_iter().enumerate();
    let terms = rows.flat_map(|(i, x)| {
        let terms = case.terms(i).into_iter();
        terms.map(move |(label, share)| (i, x, label, share))
    });
    for (i, x, label, share) in terms {
        let x_norm = x.dot(&x).sqrt();
        let product = |column: usize| {
            let w = case.weights.row(column);
            let norm = if unit_weights { w.dot(&w).sqrt() } else { 1.0 };
            x.dot(&w) / norm / if unit_features { x_norm } else { 1.0 }
        };
        let logits: Vec<f64> = (0..classes)
            .map(|class| {
                let columns = class * head.group..(class + 1) * head.group;
                let plain = columns.map(product).fold(f64::NEG_INFINITY, f64::max);
                let changed = match head.margin {
                    None => plain,
                    Some(margin) => {
                        let cosine = if unit_features { plain } else { plain / x_norm };
                        let angle = crate::margin::Angle::from_radians(cosine.acos());
                        let target = Target::new(angle, x_norm, label, i);
                        let psi = if class == label {
                            margin.target_logit(&target).value()
                        } else {
                            margin.negatives(&target).of(cosine)
                        };
                        psi * plain / cosine
                    }
                };
                scale * changed + head.constant(class)
            })
            .collect();
        let logits = with_nearest(head, logits, label);
        let softplus = |z: f64| z.max(0.0) + (-z.abs()).exp().ln_1p();
        let loss = match head.link {
            Link::Softmax => {
                let total: f64 = logits.iter().map(|z| z.exp()).sum();
                let mean = logits.iter().sum::<f64>() / classes as f64;
                let loss =
                    total.ln() - (1.0 - head.smoothing) * logits[label] - head.smoothing * mean;
                (1.0 - (-loss).exp()).powf(head.focal) * loss
            }
            Link::Logistic { positive, negative } => {
                let others = (0..classes).filter(|&class| class != label);
                positive * softplus(-logits[label])
                    + negative * others.map(|class| softplus(logits[class])).sum::<f64>()
            }
            Link::Hinge { own, shared } => {
                // What is shared stands in the changed logits already.
                assert_eq!((own, shared), (1.0, 0.0));
                let others = (0..classes).filter(|&class| class != label);
                others.map(|class| logits[class].max(0.0)).sum::<f64>() - own * logits[label]
            }
        };
        sum += case.row_weights[i] * share * loss;
    }
    sum
}

/// The logits with those of the nearest classes, but for the target, changed.
fn with_nearest(head: &Head<'_>, mut logits: Vec<f64>, label: usize) -> Vec<f64> {
    let (Some(penalty), Layer::Cosine { scale }) = (head.nearest, head.layer) else {
        return logits;
    };
    let cosine = |class: usize, z: f64| (z - head.constant(class)) / scale;
    let mut others: Vec<(usize, f64)> = (logits.iter().enumerate())
        .map(|(class, &z)| (class, cosine(class, z)))
        .filter(|&(class, _)| class != label)
        .collect();
    others.sort_by(|a, b| b.1.total_cmp(&a.1));
    for &(class, cosine) in others.iter().take(penalty.k()) {
        let changed = if penalty.is_angular() {
            (cosine.acos() - penalty.margin()).max(0.0).cos()
        } else {
            cosine + penalty.margin()
        };
        logits[class] = scale * changed + head.constant(class);
    }
    logits
}

/// Of the central differences.
const STEP: f64 = 1e-5;

/// Loss and all gradients, against the oracle and its central differences.
fn check(name: &str, head: &Head<'_>, case: &mut Case) {
    let mut found = Evaluation::new();
    case.evaluate(head, &mut found).expect("a good batch");
    let expected = dense(head, case);
    let off = (found.loss() - expected).abs();
    assert!(off <= 1e-12 * expected.abs(), "{name}: L is off by {off:e}");

    let agrees = |what: &str, index, gradient: f64, difference: f64| {
        let off = (gradient - difference).abs();
        assert!(
            off <= 2e-8 * expected.abs().max(1.0),
            "{name}: {what}{index:?} is off by {off:e}"
        );
    };
    for index in ndarray::indices(case.features.dim()) {
        let at = case.features[index];
        case.features[index] = at + STEP;
        let above = dense(head, case);
        case.features[index] = at - STEP;
        let below = dense(head, case);
        case.features[index] = at;
        agrees(
            "∂X",
            index,
            found.grad_features[index],
            (above - below) / (2.0 * STEP),
        );
    }
    for index in ndarray::indices(case.weights.dim()) {
        let at = case.weights[index];
        case.weights[index] = at + STEP;
        let above = dense(head, case);
        case.weights[index] = at - STEP;
        let below = dense(head, case);
        case.weights[index] = at;
        agrees(
            "∂W",
            index,
            found.grad_weights[index],
            (above - below) / (2.0 * STEP),
        );
    }
    let moved = |head: Head<'_>| dense(&head, case);
    if let (Learns::Scale, Layer::Cosine { scale }) = (head.learns, head.layer) {
        let at = |scale| {
            moved(Head {
                layer: Layer::Cosine { scale },
                ..*head
            })
        };
        let difference = (at(scale + STEP) - at(scale - STEP)) / (2.0 * STEP);
        agrees("∂s", (0, 0), found.grad_learnables[0], difference);
    }
    if let (Learns::Constants, Some(constants)) = (head.learns, head.constants) {
        for class in 0..constants.len() {
            let at = |by: f64| {
                let mut constants = constants.to_vec();
                constants[class] += by;
                moved(Head {
                    constants: Some(&constants),
                    ..*head
                })
            };
            let difference = (at(STEP) - at(-STEP)) / (2.0 * STEP);
            agrees("∂b", (class, 0), found.grad_learnables[class], difference);
        }
    }
    same_within_any_limit(name, head, case, &found);
}

/// A limit changes no bit, whether the exponentials are kept or not, and however much is in flight.
fn same_within_any_limit(name: &str, head: &Head<'_>, case: &Case, whole: &Evaluation<f64>) {
    let mut limit = whole.scratch_bytes();
    let mut tried = 0;
    while limit > 0 {
        let mut found = Evaluation::with_scratch_limit(limit);
        match case.evaluate(head, &mut found) {
            Ok(()) => assert!(
                found.forward == whole.forward
                    && found.grad_features == whole.grad_features
                    && found.grad_weights == whole.grad_weights
                    && found.grad_learnables == whole.grad_learnables,
                "{name}, in {limit} bytes"
            ),
            Err(error) => {
                assert!(matches!(error, Error::ScratchLimit { .. }), "{error}");
                break;
            }
        }
        tried += 1;
        limit = limit * 9 / 10;
    }
    assert!(
        tried > 1 || case.weights.nrows() < 100,
        "{name}: {tried} limits"
    );
}

const COSINE: Layer = Layer::Cosine { scale: 6.0 };

fn constants(classes: usize) -> Vec<f64> {
    let mut numbers = Numbers(11);
    (0..classes).map(|_| numbers.next()).collect()
}

/// Shapes with one block and with several, in which nothing divides evenly.
const SHAPES: [(usize, usize); 2] = [(5, 7), (3, 270)];

#[test]
fn sub_centers() {
    for (rows, classes) in SHAPES {
        for group in [2, 3, 5] {
            let mut case = Case::new(rows, classes, group, 4);
            for head in [
                Head::new(COSINE),
                Head::new(COSINE).with_margin(&Cosine),
                Head::new(COSINE).with_margin(&Hard),
            ] {
                let head = Head {
                    group,
                    learns: Learns::Scale,
                    ..head
                };
                check("sub-centers", &head, &mut case);
            }
        }
    }
}

#[test]
fn constants_of_the_classes() {
    for (rows, classes) in SHAPES {
        let constants = constants(classes);
        let mut case = Case::new(rows, classes, 1, 4);
        for layer in [COSINE, Layer::Linear] {
            for learns in [Learns::Constants, Learns::Scale] {
                let head = Head {
                    constants: Some(&constants),
                    learns,
                    ..Head::new(layer)
                };
                check("constants", &head, &mut case);
            }
        }
        let head = Head {
            constants: Some(&constants),
            ..Head::new(COSINE).with_margin(&Hard)
        };
        check("constants and hard negatives", &head, &mut case);
        let mut case = Case::new(rows, classes, 3, 4);
        let head = Head {
            group: 3,
            learns: Learns::Constants,
            ..head
        };
        let head = Head {
            margin: None,
            ..head
        };
        check("constants of sub-centers", &head, &mut case);
    }
}

#[test]
fn smoothed_labels() {
    for (rows, classes) in SHAPES {
        let constants = constants(classes);
        let mut case = Case::new(rows, classes, 1, 4);
        for layer in [COSINE, Layer::Linear, Layer::UnitWeights] {
            let head = Head {
                smoothing: 0.2,
                ..Head::new(layer)
            };
            check("smoothing", &head, &mut case);
        }
        let head = Head {
            smoothing: 0.1,
            constants: Some(&constants),
            learns: Learns::Constants,
            ..Head::new(COSINE).with_margin(&Cosine)
        };
        check("smoothing, constants and a margin", &head, &mut case);
        let head = Head {
            learns: Learns::Scale,
            ..head
        };
        check("smoothing and a learned scale", &head, &mut case);
        let head = Head { focal: 1.5, ..head };
        check("smoothing and focal modulation", &head, &mut case);
        let head = Head {
            learns: Learns::Constants,
            ..head
        };
        check(
            "smoothing, focal modulation and constants",
            &head,
            &mut case,
        );
    }
}

/// Two targets, alone and with everything else.
#[test]
fn two_targets_of_a_row() {
    let link = Link::Logistic {
        positive: 0.7,
        negative: 0.3,
    };
    for (rows, classes, group) in [(5, 7, 1), (5, 7, 3), (4, 270, 1)] {
        let constants = constants(classes);
        let mut case = Case::mixed(rows, classes, group, 4);
        let layers = [COSINE, Layer::UnitWeights, Layer::Linear];
        for &layer in &layers[..if group == 1 { 3 } else { 2 }] {
            let head = Head {
                group,
                learns: Learns::Scale,
                ..Head::new(layer)
            };
            check("two targets", &head, &mut case);
            let head = Head {
                smoothing: 0.2,
                focal: 1.5,
                constants: Some(&constants),
                learns: Learns::Constants,
                ..head
            };
            check("two targets, and all else", &head, &mut case);
        }
        let head = Head {
            group,
            constants: Some(&constants),
            learns: Learns::Scale,
            ..Head::new(COSINE).with_margin(&Cosine)
        };
        check("two targets with margins", &head, &mut case);
        let head = Head {
            smoothing: 0.1,
            ..head
        };
        check("smoothed, with a learned scale", &head, &mut case);
        // Once for each target.
        let head = Head {
            learns: Learns::Scale,
            ..head.with_margin(&Hard)
        };
        check("two targets and hard negatives", &head, &mut case);
        let head = Head {
            link,
            smoothing: 0.0,
            ..head
        };
        check("two targets against the rest", &head, &mut case);
    }
    // No class but the two.
    let mut case = Case::mixed(5, 2, 1, 4);
    check(
        "two classes",
        &Head::new(COSINE).with_margin(&Cosine),
        &mut case,
    );
}

/// Where columns are not plain, the uniform term is taken from each entry.
#[test]
fn labels_smoothed_entry_by_entry() {
    for (rows, classes, group) in [(5, 7, 1), (5, 7, 3), (3, 270, 1), (3, 90, 3)] {
        let constants = constants(classes);
        let mut case = Case::new(rows, classes, group, 4);
        for layer in [COSINE, Layer::UnitWeights] {
            for margin in [None, Some(&Cosine as &dyn Margin), Some(&Hard)] {
                let head = Head {
                    margin,
                    group,
                    smoothing: 0.2,
                    learns: Learns::Scale,
                    ..Head::new(layer)
                };
                check("smoothing by entry", &head, &mut case);
                let head = Head {
                    focal: 1.5,
                    constants: Some(&constants),
                    ..head
                };
                check("with focal modulation and constants", &head, &mut case);
            }
        }
        let head = Head {
            group,
            smoothing: 0.1,
            constants: Some(&constants),
            learns: Learns::Constants,
            ..Head::new(COSINE).with_margin(&Cosine)
        };
        check("the same with learned constants", &head, &mut case);
    }
}

#[test]
fn hard_negatives() {
    for (rows, classes) in SHAPES {
        let mut case = Case::new(rows, classes, 1, 4);
        let head = Head {
            learns: Learns::Scale,
            ..Head::new(COSINE).with_margin(&Hard)
        };
        check("hard negatives", &head, &mut case);
        let head = Head::new(Layer::UnitWeights).with_margin(&Hard);
        check(
            "hard negatives of features that keep their length",
            &head,
            &mut case,
        );
    }
}

#[test]
fn the_nearest_negatives() {
    for (rows, classes) in SHAPES {
        let constants = constants(classes);
        for group in [1, 3] {
            let mut case = Case::new(rows, classes, group, 4);
            for penalty in [
                InterTopK::angular(1, 0.3),
                InterTopK::angular(5, 0.06),
                InterTopK::cosine(4, 0.2),
                // Of seven all but the target.
                InterTopK::angular(classes.min(7) - 1, 0.1),
            ] {
                let head = Head {
                    group,
                    nearest: Some(penalty.expect("in range")),
                    ..Head::new(COSINE)
                };
                let name = format!("{:?} of {classes}, K = {group}", head.nearest);
                for head in [
                    Head {
                        learns: Learns::Scale,
                        ..head
                    }
                    .with_margin(&Cosine),
                    Head {
                        constants: Some(&constants),
                        learns: Learns::Constants,
                        ..head
                    },
                ] {
                    check(&name, &head, &mut case);
                }
            }
        }
    }
}

#[test]
fn the_logistic_link() {
    let link = Link::Logistic {
        positive: 0.7,
        negative: 0.3,
    };
    for (rows, classes) in SHAPES {
        let constants = constants(classes);
        for group in [1, 2] {
            let mut case = Case::new(rows, classes, group, 4);
            for head in [
                Head::new(COSINE),
                Head::new(COSINE).with_margin(&Cosine),
                Head::new(COSINE).with_margin(&Hard),
            ] {
                let head = Head {
                    link,
                    group,
                    learns: Learns::Scale,
                    ..head
                };
                check("logistic", &head, &mut case);
            }
            let head = Head {
                link,
                group,
                constants: Some(&constants),
                learns: Learns::Constants,
                ..Head::new(COSINE)
            };
            check("logistic with constants", &head, &mut case);
        }
    }
}

#[test]
fn hinges() {
    for (rows, classes) in SHAPES {
        for group in [1, 2] {
            let head = Head {
                link: Link::Hinge {
                    own: 1.0,
                    shared: 0.0,
                },
                group,
                ..Head::new(COSINE).with_margin(&Hard)
            };
            let mut case = Case::new(rows, classes, group, 4);
            check("hinges", &head, &mut case);
        }
    }
}

fn is_hard(margin: &dyn Margin) -> bool {
    margin.negatives(&Target::from(Angle::from_radians(1.0))) != Negatives::plain()
}

fn rows_of<A>(array: &Array2<A>, rows: Range<usize>) -> ArrayView2<'_, A> {
    array.slice_axis(Axis(0), Slice::from(rows))
}

/// One part of the classes, opened and then finished with what all parts have found.
struct Part<'a, A: Element> {
    columns: Range<usize>,
    underway: Underway<'a, A>,
}

/// Finds the nearest negatives among those of all parts, and their angles in the part that they are in.
fn exchange_nearest<A: Element>(parts: &mut [Part<'_, A>], weights: &Array2<A>) {
    let plan = parts[0].underway.batch.plan;
    if plan.nearest == 0 {
        return;
    }
    let lists = parts
        .iter()
        .flat_map(|part| part.underway.lanes.iter().map(|lane| &*lane.nearest));
    let nearest = best_of_all(plan.rows, plan.nearest, lists);
    let found: Vec<_> = parts
        .iter()
        .map(|part| {
            let own = rows_of(weights, part.columns.clone());
            part.underway.batch.find_nearest(own, &nearest)
        })
        .collect();
    let all: Vec<_> = (nearest.iter().enumerate())
        .map(|(index, (_, column))| {
            let owner = parts.iter().position(|part| part.columns.contains(column));
            found[owner.expect("a column is somewhere")][index]
        })
        .collect();
    for part in parts {
        part.underway.set_nearest(all.clone());
    }
}

fn in_parts<A: Element>(head: &Head<'_>, case: &Case, splits: &[usize], keeps: bool) {
    let narrow = |array: &Array2<f64>| array.mapv(A::narrow);
    let (features, weights) = (narrow(&case.features), narrow(&case.weights));
    let mut whole = Evaluation::new();
    let (second, shares) = case.second.clone().unwrap_or_default();
    let narrowed: Vec<A> = shares.iter().map(|&share| A::narrow(share)).collect();
    let mut targets = Targets::new(&case.labels);
    if case.second.is_some() {
        targets = targets.with_second_by_row(&second, &narrowed);
    }
    let request = Request {
        features: features.view(),
        wanted: Wanted::Gradients(weights.view()),
        targets,
        evaluation: &mut whole,
        composition: Composition::NONE,
        shard: None,
    };
    let (labels, shares) = request
        .two_targets(Argument::ClassWeights, head.group)
        .expect("good");
    solve(head, request).expect("a good batch");

    let mut plan = Plan::new((40, 5), 2_000 * head.group, head.group, Aim::Gradients);
    plan.keeps = keeps;
    plan.nearest = head.nearest.map_or(0, |penalty| penalty.changes());
    plan.targets = labels.len();
    let ends = splits.iter().copied().chain([plan.segments().end]);
    let starts = [0].into_iter().chain(splits.iter().copied());
    let mut scratches: Vec<_> = (0..=splits.len()).map(|_| Scratch::default()).collect();
    let mut parts: Vec<Part<'_, A>> = starts
        .zip(ends)
        .zip(&mut scratches)
        .map(|((start, end), scratch)| {
            let plan = plan.part(start..end);
            let columns = plan.own_columns();
            let classes = columns.start / head.group..columns.end / head.group;
            let problem = Problem {
                head,
                plan,
                share: Share::of(classes, columns, head.group, None),
                own_rows: 0..40,
                features: features.view(),
                labels: labels.clone(),
                shares: shares.clone(),
                coefficients: vec![1.0 / 40.0; 40],
            };
            let own = rows_of(&weights, plan.own_columns());
            Part {
                columns: plan.own_columns(),
                underway: Underway::begin(problem, own, scratch).expect("good"),
            }
        })
        .collect();

    // What is exchanged: the targets first, then what each segment has left behind of each row.
    let owner: Vec<Option<usize>> = (0..labels.len())
        .map(|target| {
            let owns =
                |part: &Part<'_, A>| part.underway.batch.targets[target].column != usize::MAX;
            parts.iter().position(owns)
        })
        .collect();
    let all: Vec<_> = (owner.iter().enumerate())
        .map(|(target, owner)| match owner {
            Some(owner) => parts[*owner].underway.batch.targets[target],
            None => RowTarget::ELSEWHERE,
        })
        .collect();
    for Part { columns, underway } in &mut parts {
        underway.batch.set_targets(all.clone());
        underway
            .open(rows_of(&weights, columns.clone()), &Peers::NONE)
            .expect("good");
    }
    let sums: Vec<_> = parts
        .iter()
        .flat_map(|part| part.underway.opened.sums.to_vec())
        .collect();
    exchange_nearest(&mut parts, &weights);
    let rows: Vec<Closed> = (0..40)
        .map(|row| {
            let segments = sums.iter().skip(row).step_by(40);
            let batch = &parts[0].underway.batch;
            Closed::new(batch, row, segments.copied(), (&[], 0.0))
        })
        .collect();

    let figures = parts[0].underway.batch.figures(&rows).expect("finite");
    assert_eq!(figures.row_losses, whole.forward.row_losses);
    assert_eq!(figures.loss, whole.forward.loss);
    assert_eq!(
        Array1::from(figures.correct.to_vec()),
        whole.forward.correct
    );

    let (mut totals, mut rests) = (vec![0.0; 200], vec![0.0; 200]);
    for Part { columns, underway } in &mut parts {
        let own = rows_of(&weights, columns.clone());
        let mut gradient = vec![A::zero(); own.len()];
        let (back, lanes) = underway.back(&rows, own);
        back.all(back.batch.weights(own), lanes, &mut gradient, &mut []);
        drop(back);
        let expected = rows_of(&whole.grad_weights, columns.clone());
        let pairs = expected.iter().zip(&gradient);
        let different = pairs.filter(|(a, b)| a != b).count();
        let first = expected.iter().zip(&gradient).position(|(a, b)| a != b);
        assert!(
            different == 0,
            "∂W of {columns:?}: {different} entries of {}, first {first:?} {:?}",
            gradient.len(),
            first.map(|k| (expected.iter().nth(k), gradient[k]))
        );
        totals
            .iter_mut()
            .zip(&*underway.totals)
            .for_each(|(sum, t)| *sum += t);
        rests
            .iter_mut()
            .zip(&*underway.rests)
            .for_each(|(sum, t)| *sum += t);
    }
    totals
        .iter_mut()
        .zip(&rests)
        .for_each(|(sum, rest)| *sum += rest);
    for (index, part) in parts.iter().enumerate() {
        let mut found = vec![A::zero(); 200];
        part.underway
            .batch
            .write_gradient(&rows, &totals, &mut found);
        for (row, found) in found.chunks_exact(5).enumerate() {
            // Whoever has both targets of a row has their directions.
            let second = owner.get(40 + row).copied().flatten();
            if owner[row] == Some(index) && second.is_none_or(|second| second == index) {
                assert!(
                    whole.grad_features.row(row).iter().eq(found),
                    "∂X of row {row}"
                );
            }
        }
    }
}

/// Parts that are evaluated apart and closed together have the bits of the whole, however they are cut, and whether they
/// keep their exponentials or not.
#[test]
fn parts_have_the_bits_of_the_whole() {
    for head in [
        Head::new(COSINE).with_margin(&Cosine),
        Head::new(COSINE).with_margin(&Hard),
        Head::new(Layer::Linear),
        Head {
            group: 2,
            ..Head::new(COSINE)
        },
        Head {
            nearest: Some(InterTopK::default()),
            ..Head::new(COSINE).with_margin(&Cosine)
        },
        Head {
            group: 3,
            nearest: Some(InterTopK::default()),
            ..Head::new(COSINE)
        },
        Head {
            group: 2,
            smoothing: 0.1,
            focal: 1.5,
            ..Head::new(COSINE)
        },
        Head {
            smoothing: 0.1,
            ..Head::new(COSINE).with_margin(&Hard)
        },
        Head {
            smoothing: 0.1,
            nearest: Some(InterTopK::default()),
            ..Head::new(COSINE).with_margin(&Cosine)
        },
        Head {
            link: Link::Logistic {
                positive: 0.5,
                negative: 0.5,
            },
            ..Head::new(COSINE)
        },
        Head {
            link: Link::Hinge {
                own: 1.0,
                shared: 0.0,
            },
            ..Head::new(COSINE).with_margin(&Hard)
        },
    ] {
        for splits in [&[2][..], &[1, 3]] {
            for keeps in [true, false] {
                for case in [
                    Case::new(40, 2_000, head.group, 5),
                    Case::mixed(40, 2_000, head.group, 5),
                ] {
                    let apart = head.link != Link::Softmax
                        || head.nearest.is_some()
                        || head.margin.is_some_and(is_hard);
                    if case.second.is_some() && apart {
                        continue;
                    }
                    in_parts::<f32>(&head, &case, splits, keeps);
                    in_parts::<f64>(&head, &case, splits, keeps);
                }
            }
        }
    }
}

/// The score of a class is that of its best sub-center, and its constant is added.
#[test]
fn scores_of_sub_centers() {
    let case = Case::new(7, 300, 3, 4);
    let constants: Vec<f64> = (0..300).map(|class| f64::from(class % 7) / 10.0).collect();
    let head = Head {
        group: 3,
        constants: Some(&constants),
        ..Head::new(COSINE)
    };
    let mut scores = Array2::default((0, 0));
    let request = Request {
        features: case.features.view(),
        wanted: Wanted::Scores(case.weights.view(), crate::scores::Scores::All(&mut scores)),
        targets: Targets::new(&[0_usize; 0]),
        evaluation: &mut Evaluation::new(),
        composition: Composition::NONE,
        shard: None,
    };
    solve(&head, request).expect("a good batch");
    let Layer::Cosine { scale } = COSINE else {
        panic!("a cosine layer");
    };
    let unit = |array: &Array2<f64>| {
        let norms = array.map_axis(Axis(1), |row| row.dot(&row).sqrt());
        array / &norms.insert_axis(Axis(1))
    };
    let cosines = unit(&case.features).dot(&unit(&case.weights).t());
    assert_eq!(scores.dim(), (7, 300));
    for ((row, class), found) in scores.indexed_iter() {
        let columns = (3 * class..3 * class + 3).map(|column| cosines[[row, column]]);
        let expected = scale * columns.fold(f64::NEG_INFINITY, f64::max) + constants[class];
        assert!((found - expected).abs() < 1e-13, "{found} for {expected}");
    }
}
