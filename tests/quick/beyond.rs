//! Values of the losses beyond the first seven papers: every case of `reference/beyond.json`, each by its name, through
//! [`evaluate`](MarginLoss::evaluate), an evaluation in the least memory, and streaming.
//!
//! The file has loss, ∂X, ∂W and the gradients of what is learned, to 17 digits. They were found in three ways, from the
//! formulas of the papers and without this crate: with arithmetic of 60 digits and central differences, with automatic
//! differentiation in `f64`, and with the gradients derived by hand. The three agree to 3e-15.

use core::f64::consts::LN_2;
use std::collections::BTreeSet;

use margin_losses::{
    AdaFace, AdaptiveFace, ArcFace, CContrastive, CTriplet, ClassBlock, Composed, CosFace,
    CurricularFace, Error, Evaluation, Float, InterTopK, MagFace, MarginLoss, MvSoftmax, NormFace,
    PastPi, Reduction, SphereFace2, Targets, TurnedAngle, UniFace, margins,
};
use ndarray::{Array2, Axis};
use serde_json::{Map, Value};

use crate::support::{Batch, assert_close, narrow, wide, widen};

/// Cases whose loss the crate does not have yet, or will not have; the latter say why.
const NOT_YET: &[&str] = &[
    // The statistics of the batch couple the rows, so that a row's gradient would depend on the norms of all others. The
    // paper's gradient, and the crate's, takes them for constants.
    "adaface_batch_true",
    "arcneg_detached",
    "arcneg_true",
    "circle_detached",
    "circle_true",
    "mixup_arc",
    // The gradient that this is the table of is that of another loss.
    "sphereface2_c_cgd",
];

/// What the crate is asked for a case.
struct Subject<A> {
    loss: Box<dyn MarginLoss<A>>,
    label_weights: Option<Vec<A>>,
    reduction: Reduction,
    /// The classes that are evaluated, in their order, if not all are.
    classes: Option<Vec<usize>>,
    /// What the gradients of the learnables are multiplied by to be those of the case.
    by_learnable: f64,
    /// What the statistics are after the step, to six digits.
    statistics: Vec<f64>,
}

impl<A: Float> Subject<A> {
    fn new(loss: impl MarginLoss<A> + 'static) -> Self {
        Self {
            loss: Box::new(loss),
            label_weights: None,
            reduction: Reduction::Mean,
            classes: None,
            by_learnable: 1.0,
            statistics: Vec::new(),
        }
    }
}

/// The parameters of a case.
#[derive(Clone, Copy)]
struct Parameters<'a>(&'a Map<String, Value>);

impl Parameters<'_> {
    fn number(self, name: &str) -> f64 {
        self.0[name].as_f64().expect("a number")
    }

    fn text(&self, name: &str) -> &str {
        self.0[name].as_str().expect("a text")
    }

    fn numbers(self, name: &str) -> Vec<f64> {
        flat(&self.0[name])
    }
}

/// The loss of a case, with what it has learned so far; none if nothing here makes it.
fn subject<A: Float>(
    name: &str,
    parameters: Parameters<'_>,
    learned: &[f64],
) -> Result<Option<Subject<A>>, Error> {
    let number = |name| parameters.number(name);
    let arc_face = || Ok(ArcFace::new(number("s"), number("m"))?.with_past_pi(PastPi::Paper));
    let plain_arc = || Ok(ArcFace::new(number("s"), 0.0)?.with_past_pi(PastPi::Paper));
    let cos_face = || CosFace::new(number("s"), number("m"));
    let uni_face = || UniFace::new(number("s"), number("m"))?.with_lambda(number("lam"));
    Ok(Some(match name {
        "arc_wespeaker_tail_far" => Subject::new(arc_face()?.with_past_pi(PastPi::JoinedTail)),
        "subcenter_arc_k3" => {
            let each = number("K") as usize;
            Subject::new(Composed::new(arc_face()?).with_sub_centers(each)?)
        }
        "intertopk_arc_k1" | "intertopk_subcenter_arc_k3" => {
            let penalty = InterTopK::angular(number("k_top") as usize, number("mp"))?;
            let loss = Composed::new(arc_face()?).with_sub_centers(number("K") as usize)?;
            Subject::new(loss.with_inter_topk(penalty)?)
        }
        "label_smoothing_arc_s30" => {
            Subject::new(Composed::new(arc_face()?).with_label_smoothing(number("eps"))?)
        }
        "label_smoothing_cos" => {
            Subject::new(Composed::new(cos_face()?).with_label_smoothing(number("eps"))?)
        }
        "focal_cos_s16" => Subject::new(Composed::new(cos_face()?).with_focal(number("gamma"))?),
        "logit_adjust_s10" | "logit_adjust_cos_s10" => {
            let loss = Composed::new(cos_face()?);
            Subject::new(loss.with_class_priors(&parameters.numbers("counts"), number("tau"))?)
        }
        "sphereface2_c" | "sphereface2_c_speaker" | "sphereface2_a_speaker" => {
            let angular = name == "sphereface2_a_speaker";
            let new = if angular {
                SphereFace2::arc
            } else {
                SphereFace2::new
            };
            let loss = new(number("r"), number("m"))?
                .with_power(number("t") as u32)?
                .with_lambda(number("lam"))?
                .with_bias(learned[0])?;
            // The case of type A does not say it.
            let divided = parameters.0.get("over_r") == Some(&Value::Bool(true));
            Subject::new(if divided { loss } else { loss.undivided() })
        }
        "uniface_uce" | "bce_cosface_s16" => Subject::new(uni_face()?.with_bias(learned[0])?),
        "class_weights_arc_n" | "class_weights_arc_sum" => Subject {
            label_weights: Some(
                parameters
                    .numbers("weights")
                    .into_iter()
                    .map(narrow)
                    .collect(),
            ),
            reduction: if name.ends_with("sum") {
                Reduction::WeightedMean
            } else {
                Reduction::Mean
            },
            ..Subject::new(arc_face()?)
        },
        "c_contrastive" => Subject::new(CContrastive::new(number("m"))?),
        "c_triplet" => Subject::new(CTriplet::new(number("m"))?),
        "temperature_normface" => Subject {
            // ∂L/∂ln s = s ∂L/∂s.
            by_learnable: number("s"),
            ..Subject::new(NormFace::learned(number("s"))?)
        },
        "adacos_step1" => Subject::new(NormFace::new(number("s"))?),
        "partial_fc_cos" | "partial_fc_cos_corrected_s10" => {
            let sampled = parameters.numbers("sampled");
            let classes: Vec<usize> = sampled.iter().map(|&class| class as usize).collect();
            let mut loss = Composed::new(cos_face()?);
            if name.ends_with("corrected_s10") {
                // Of the two classes without a row, 1 and 4, one was drawn: it stands for both.
                let drawn = |&class: &usize| if class == 4 { LN_2 } else { 0.0 };
                loss = loss.with_log_priors(classes.iter().map(drawn).collect())?;
            }
            Subject {
                classes: Some(classes),
                ..Subject::new(loss)
            }
        }
        "adaface_batch_true" => return Ok(None),
        "adaptiveface" => {
            let loss = AdaptiveFace::new(number("s"), learned.to_vec())?;
            Subject::new(loss.with_lambda(number("lam"))?)
        }
        name if name.starts_with("adaface") => {
            let mut loss = AdaFace::new(number("s"), number("m"))?
                .with_concentration(number("h"))?
                .with_momentum(number("t_alpha"))?
                .with_epsilon(number("eps"))?
                .with_turned_angle(if parameters.0["clip"] == true {
                    TurnedAngle::Clipped
                } else {
                    TurnedAngle::Paper
                });
            loss.set_statistics(&[number("mean0"), number("std0")])?;
            Subject {
                // Of the norms 14.586158, 31.035914 and 79.456211, once with what was there before.
                statistics: match name {
                    "adaface_ema" | "adaface_ema_far" => vec![20.216_928, 99.337_225],
                    "adaface_batch" | "adaface_batch_far" => vec![41.692_761, 33.722_503],
                    _ => Vec::new(),
                },
                ..Subject::new(loss)
            }
        }
        name if name.starts_with("magface") => {
            let loss = MagFace::new(number("s"), number("l_m"), number("u_m"))?
                .with_norms(number("l_a"), number("u_a"))?
                .with_regulariser(number("lambda_g"))?;
            Subject::new(loss.with_past_pi(match parameters.text("tail") {
                "raw" => PastPi::Paper,
                "easy" => PastPi::EasyMargin,
                "fallback" => PastPi::LinearTail,
                other => panic!("no such rule: {other}"),
            }))
        }
        "elastic_arc" => {
            let loss = plain_arc()?;
            Subject::new(loss.with_row_margins(parameters.numbers("row_margins"))?)
        }
        "elastic_cos" => {
            let loss = CosFace::new(number("s"), 0.0)?;
            Subject::new(loss.with_row_margins(parameters.numbers("row_margins"))?)
        }
        "dynamic_arc_paper" | "dynamic_arc_code" | "ldam" => {
            let counts: Vec<usize> = (parameters.numbers("counts").into_iter())
                .map(|count| count as usize)
                .collect();
            let made = match name {
                "dynamic_arc_paper" => margins::dynamic(&counts, 0.5, 0.05, 0.25)?,
                "dynamic_arc_code" => margins::dynamic_scaled(&counts, 0.05, 0.5, 0.25)?,
                _ => margins::ldam(&counts, 0.5)?,
            };
            let printed = parameters.numbers("class_margins");
            assert_close(name, &made, &printed, 1e-14);
            if name == "ldam" {
                Subject::new(CosFace::new(number("s"), 0.0)?.with_class_margins(made)?)
            } else {
                Subject::new(plain_arc()?.with_class_margins(made)?)
            }
        }
        "mv_am" | "mv_am_easy" | "mv_arc" | "mv_arc_easy" => {
            let new = if name.starts_with("mv_am") {
                MvSoftmax::new
            } else {
                MvSoftmax::arc
            };
            let loss = new(number("s"), number("m"), number("t"))?;
            Subject::new(loss.with_easy_margin(name.ends_with("easy")))
        }
        "interclass_filter_cos" => {
            let loss = CosFace::new(number("s"), number("m"))?;
            Subject::new(loss.with_class_filter(number("threshold"))?)
        }
        "curricular_t_first" => Subject {
            statistics: vec![number("t")],
            ..Subject::new(
                CurricularFace::new(number("s"), number("m"))?.with_past_pi(PastPi::LinearTail),
            )
        },
        "curricular_t0.3" | "curricular_t0.6_far" => Subject {
            statistics: vec![number("t")],
            ..Subject::new(
                CurricularFace::new(number("s"), number("m"))?
                    .with_past_pi(PastPi::LinearTail)
                    .with_momentum(0.0)?
                    .with_t(number("t"))?,
            )
        },
        _ => return Ok(None),
    }))
}

fn flat(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(entries) => entries.iter().flat_map(flat).collect(),
        number => vec![number.as_f64().expect("a number")],
    }
}

/// What stands under names, or nothing.
fn by_name(value: &Value) -> Vec<f64> {
    match value {
        Value::Object(by_name) => by_name.values().flat_map(flat).collect(),
        _ => Vec::new(),
    }
}

/// The cases, by name.
fn cases() -> Map<String, Value> {
    let whole: Value =
        serde_json::from_str(include_str!("../reference/beyond.json")).expect("JSON");
    whole["cases"].as_object().expect("cases by name").clone()
}

fn batch<A: Float>(case: &Value) -> Batch<A> {
    let labels = flat(&case["y"]).into_iter().map(|label| label as usize);
    let labels: [usize; 3] = labels.collect::<Vec<_>>().try_into().expect("three labels");
    let mut batch = Batch::<f64>::reference(labels);
    let rows = case["w_rows"].as_u64().expect("a number") as usize;
    batch.weights = Array2::from_shape_fn((rows, 4), |(i, j)| {
        (0.5 + 1.3 * i as f64 + 0.7 * j as f64).cos()
    });
    if case["x"].is_array() {
        for (mut row, factor) in batch.features.outer_iter_mut().zip(flat(&case["x"])) {
            row *= factor;
        }
    }
    Batch {
        features: batch.features.mapv(narrow),
        weights: batch.weights.mapv(narrow),
        centers: batch.centers.mapv(narrow),
        labels: batch.labels,
        row_weights: vec![A::one(); 3],
    }
}

/// The case through every path.
fn check<A: Float>(name: &str, case: &Value, tolerance: f64) -> Result<bool, Error> {
    let parameters = Parameters(case["params"].as_object().expect("parameters"));
    let learned = by_name(&case["learnables"]);
    let Some(subject) = subject::<A>(name, parameters, &learned)? else {
        return Ok(false);
    };
    let mut batch = batch::<A>(case);
    let mut expected_weights = Array2::from_shape_vec(batch.weights.dim(), flat(&case["dw"]))
        .expect("one row for each row of W");
    if let Some(classes) = &subject.classes {
        let rest: f64 = (0..batch.weights.nrows())
            .filter(|class| !classes.contains(class))
            .map(|class| expected_weights.row(class).mapv(f64::abs).sum())
            .sum();
        assert_eq!(
            rest, 0.0,
            "{name}: classes that are left out have no gradient"
        );
        batch.weights = batch.weights.select(Axis(0), classes);
        expected_weights = expected_weights.select(Axis(0), classes);
        for label in &mut batch.labels {
            let place = classes.iter().position(|class| class == label);
            *label = place.expect("the label's class is evaluated");
        }
    }
    let expected_learnables = by_name(&case["dlearnables"]);
    let mut targets = Targets::new(&batch.labels).with_reduction(subject.reduction);
    if let Some(label_weights) = &subject.label_weights {
        targets = targets.with_label_weights(label_weights);
    }
    let (x, w) = (batch.features.view(), batch.weights.view());
    let compare = |path: &str, found: &Evaluation<A>, weights: &[f64]| {
        let learnables: Vec<f64> = (wide(&found.grad_learnables).into_iter())
            .map(|gradient| subject.by_learnable * gradient)
            .collect();
        for (part, found, expected) in [
            ("L", &vec![widen(found.loss())], flat(&case["loss"])),
            ("∂X", &wide(&found.grad_features), flat(&case["dx"])),
            ("∂W", &weights.to_vec(), wide(&expected_weights)),
            ("learnables", &learnables, expected_learnables.clone()),
        ] {
            let what = format!("{part} of {name}, {path}");
            assert_close(&what, found, &expected, tolerance);
        }
        if !subject.statistics.is_empty() {
            assert_close(name, found.statistics(), &subject.statistics, 1e-7);
        }
    };

    let found = subject.loss.evaluate(x, w, &targets)?;
    compare("evaluated", &found, &wide(&found.grad_weights));

    let mut limited = Evaluation::with_scratch_limit(1);
    let refused = subject.loss.evaluate_into(x, w, &targets, &mut limited);
    let Err(Error::ScratchLimit { needed, .. }) = refused else {
        panic!("{name} works in one byte: {refused:?}");
    };
    let mut limited = Evaluation::with_scratch_limit(needed);
    subject.loss.evaluate_into(x, w, &targets, &mut limited)?;
    compare(
        "in the least memory",
        &limited,
        &wide(&limited.grad_weights),
    );

    let mut streamed = Evaluation::new();
    let mut gradient: Vec<A> = Vec::new();
    let mut update = |block: ClassBlock<'_, A>| gradient.extend(&block.gradient);
    let mut weights = batch.weights.clone();
    subject
        .loss
        .evaluate_streamed(x, weights.view_mut(), &targets, &mut streamed, &mut update)?;
    compare("streamed", &streamed, &wide(&gradient));
    Ok(true)
}

/// The names of the cases that were found to hold.
fn hold<A: Float>(tolerance: f64) -> Result<BTreeSet<String>, Error> {
    let mut held = BTreeSet::new();
    for (name, case) in &cases() {
        if check::<A>(name, case, tolerance)? {
            held.insert(name.clone());
        }
    }
    Ok(held)
}

#[test]
fn every_case_holds_or_is_listed() -> Result<(), Error> {
    let all: BTreeSet<String> = cases().keys().cloned().collect();
    assert_eq!(all.len(), 55);
    let listed: BTreeSet<String> = NOT_YET.iter().map(|&name| name.to_owned()).collect();
    assert_eq!(listed.len(), NOT_YET.len(), "a name is listed twice");
    for held in [hold::<f64>(1e-10)?, hold::<f32>(1e-5)?] {
        let unaccounted: Vec<&String> = all
            .iter()
            .filter(|name| held.contains(*name) == listed.contains(*name))
            .collect();
        assert!(unaccounted.is_empty(), "neither or both: {unaccounted:?}");
        assert!(listed.is_subset(&all), "no such case is known");
    }
    Ok(())
}
