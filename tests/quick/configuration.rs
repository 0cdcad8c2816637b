//! Losses, rules and schedules through serde: what is saved loads again, and what is loaded is validated.

use core::fmt::Debug;

use margin_losses::schedule::{LambdaAnnealing, MarginWarmUp};
use margin_losses::{
    ASoftmax, AdaFace, AmSoftmax, AnyLoss, ArcFace, CenterLoss, CombinedMargin, CosFace,
    CurricularFace, MagFace, MarginSoftmax, ModifiedSoftmax, MvSoftmax, NormFace, Objective,
    PastPi, Reduction, SoftmaxLoss, TurnedAngle, VaryingMargin,
};
use serde::de::{DeserializeOwned, IntoDeserializer};
use serde::{Deserialize, Serialize};

use crate::support::RULES;

/// Saved as exactly this, and loaded from it.
fn is_saved_as<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T, text: &str) {
    assert_eq!(serde_json::to_string(value).unwrap(), text);
    assert_eq!(serde_json::from_str::<T>(text).unwrap(), *value);
}

fn refusal<T: DeserializeOwned + Debug>(text: &str) -> String {
    serde_json::from_str::<T>(text).unwrap_err().to_string()
}

#[test]
fn every_loss_loads_as_it_was_saved() {
    is_saved_as(&SoftmaxLoss::new(), r#"{"bias":null}"#);
    let biased = SoftmaxLoss::with_bias(vec![0.0, 0.1]).unwrap();
    is_saved_as(&biased, r#"{"bias":[0.0,0.1]}"#);
    is_saved_as(&ModifiedSoftmax::new(), "{}");
    is_saved_as(&CenterLoss::new(), "{}");
    let a_softmax = ASoftmax::new(4).unwrap().with_lambda(5.0).unwrap();
    is_saved_as(&a_softmax, r#"{"m":4,"lambda":5.0}"#);
    let norm_face = NormFace::learned(10.0).unwrap();
    is_saved_as(&norm_face, r#"{"scale":10.0,"learned":true}"#);
    is_saved_as(&AmSoftmax::default(), r#"{"scale":30.0,"margin":0.35}"#);
    is_saved_as(
        &CosFace::default(),
        r#"{"scale":64.0,"margin":0.35,"class_filter":null}"#,
    );
    let arc_face = ArcFace::default().with_past_pi(PastPi::SmoothTail);
    is_saved_as(
        &arc_face,
        r#"{"scale":64.0,"margin":0.5,"past_pi":"smooth-tail","class_filter":null}"#,
    );
    let combined = CombinedMargin::new(64.0, 1.0, 0.3, 0.2).unwrap();
    is_saved_as(&combined, r#"{"scale":64.0,"m1":1.0,"m2":0.3,"m3":0.2}"#);
    let mut ada_face = AdaFace::default().with_turned_angle(TurnedAngle::Clipped);
    ada_face.set_statistics(&[23.5, 7.25]).unwrap();
    is_saved_as(
        &ada_face,
        r#"{"scale":64.0,"margin":0.4,"concentration":0.333,"momentum":0.01,"epsilon":0.001,"turned_angle":"clipped","mean":23.5,"deviation":7.25}"#,
    );
    let least = r#"{"scale":64,"margin":0.4,"concentration":0.333,"momentum":0.01}"#;
    let least: AdaFace = serde_json::from_str(least).unwrap();
    assert_eq!(least, AdaFace::default());
    is_saved_as(
        &MagFace::default(),
        r#"{"scale":64.0,"lower_margin":0.45,"upper_margin":0.8,"lower_norm":10.0,"upper_norm":110.0,"regulariser":35.0,"past_pi":"paper"}"#,
    );
    let filtered = CosFace::default().with_class_filter(0.4).unwrap();
    is_saved_as(
        &filtered,
        r#"{"scale":64.0,"margin":0.35,"class_filter":0.4}"#,
    );
    let curricular = CurricularFace::default().with_t(0.25).unwrap();
    is_saved_as(
        &curricular,
        r#"{"scale":64.0,"margin":0.5,"past_pi":"paper","momentum":0.01,"t":0.25}"#,
    );
    let short: CurricularFace = serde_json::from_str(r#"{"scale":64,"margin":0.5}"#).unwrap();
    assert_eq!(short, CurricularFace::default());
    let mv = MvSoftmax::arc(32.0, 0.5, 0.2)
        .unwrap()
        .with_easy_margin(true);
    is_saved_as(
        &mv,
        r#"{"scale":32.0,"margin":0.5,"t":0.2,"arc":true,"fixed":false,"easy":true}"#,
    );
    let by_class = arc_face.with_class_margins(vec![0.1, 0.25]).unwrap();
    is_saved_as(
        &by_class,
        r#"{"scale":64.0,"margins":[0.1,0.25],"by_row":false,"past_pi":"smooth-tail","class_filter":null}"#,
    );
    let by_row = CosFace::default().with_row_margins(vec![0.5]).unwrap();
    is_saved_as(
        &by_row,
        r#"{"scale":64.0,"margins":[0.5],"by_row":true,"class_filter":null}"#,
    );
    let own = MarginSoftmax::learned(CosFace::new(16.0, 0.35).unwrap(), 16.0).unwrap();
    is_saved_as(
        &own,
        r#"{"margin":{"scale":16.0,"margin":0.35,"class_filter":null},"scale":16.0,"learned":true}"#,
    );
    // Learned, it goes on from where the margin began.
    let mut own = own;
    own.set_scale(17.5).unwrap();
    is_saved_as(
        &own,
        r#"{"margin":{"scale":16.0,"margin":0.35,"class_filter":null},"scale":17.5,"learned":true}"#,
    );
}

/// A line with what has no default.
fn line(name: &str) -> String {
    match name {
        "normface" => "normface:s=learned".to_owned(),
        "adaptiveface" => "adaptiveface:m=0.3/0.4".to_owned(),
        _ if name.starts_with("varying-") => format!("{name}:m=0.1/0.2"),
        _ => name.to_owned(),
    }
}

#[test]
fn the_chosen_loss_is_saved_under_the_name_that_it_is_typed_by() {
    is_saved_as(
        &AnyLoss::from(CosFace::default()),
        r#"{"cosface":{"scale":64.0,"margin":0.35,"class_filter":null}}"#,
    );
    for name in AnyLoss::NAMES {
        let loss: AnyLoss = line(name).parse().unwrap();
        let saved = serde_json::to_string(&loss).unwrap();
        assert!(saved.starts_with(&format!("{{\"{name}\":")), "{saved}");
        assert_eq!(serde_json::from_str::<AnyLoss>(&saved).unwrap(), loss);
    }
}

#[test]
fn a_line_is_a_configuration_too() {
    let load = |text: &str| {
        serde_json::from_str::<AnyLoss>(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    };
    for name in AnyLoss::NAMES {
        let line = line(name);
        let text = format!("{line:?}");
        assert_eq!(load(&text), line.parse().unwrap());
        // From a value in memory, which answers otherwise than a reader of text.
        let value = serde_json::Value::String(line.clone());
        let loss: AnyLoss = serde_json::from_value(value).unwrap();
        assert_eq!(loss, line.parse().unwrap());
    }
    let expected: AnyLoss = "arcface:s=32,m=0.4".parse().unwrap();
    for text in [
        r#""arcface:s=32,m=0.4""#,
        r#""ArcFace(s=32, m=0.4)""#,
        r#"{"arcface":{"scale":32,"margin":0.4}}"#,
        r#"{"ArcFace":{"scale":32,"margin":0.4}}"#,
    ] {
        assert_eq!(load(text), expected, "{text}");
    }
    for (text, message) in [
        (
            r#"{"arcfase":{}}"#,
            "there is no loss \"arcfase\", but there are",
        ),
        (
            r#""arcfase:s=64""#,
            "there is no loss \"arcfase\", but there are",
        ),
        (
            r#""cosface:s=-1""#,
            "scale is -1, but must lie in [1e-6, 1e6]",
        ),
        (r#""normface""#, "normface needs the parameter s, as in"),
        (
            r#"{"cosface":{"scale":64,"margin":3}}"#,
            "margin is 3, but must lie in [0, 2]",
        ),
        (r#"{"cosface":{"scale":64}}"#, "missing field `margin`"),
        (
            r#"{"cosface":null}"#,
            "invalid type: null, expected CosFace",
        ),
        (r#"{"cosface:s=64":{}}"#, "invalid type: map, expected unit"),
        ("17", "expected value"),
    ] {
        let found = refusal::<AnyLoss>(text);
        assert!(found.starts_with(message), "{text}: {found}");
    }
}

/// Formats without names give the number of the loss.
#[test]
fn a_number_is_the_loss_at_that_place() {
    let load = |number: u32| -> Result<AnyLoss, serde::de::value::Error> {
        AnyLoss::deserialize(number.into_deserializer())
    };
    assert_eq!(load(0), Ok(SoftmaxLoss::new().into()));
    assert_eq!(load(7), Ok(ArcFace::default().into()));
    let message = load(99).unwrap_err().to_string();
    assert_eq!(
        message,
        "invalid value: integer `99`, expected the name of a loss"
    );
}

#[test]
fn an_objective_is_a_line_or_a_table() {
    let joined: Objective = "softmax+center:lambda=0.01".parse().unwrap();
    is_saved_as(
        &joined,
        r#"{"classifier":{"softmax":{"bias":null}},"lambda":0.01,"sub_centers":1,"label_smoothing":0.0,"focal":0.0,"log_priors":[],"inter_topk":null}"#,
    );
    let plain: Objective = "cosface".parse().unwrap();
    is_saved_as(
        &plain,
        r#"{"classifier":{"cosface":{"scale":64.0,"margin":0.35,"class_filter":null}},"lambda":null,"sub_centers":1,"label_smoothing":0.0,"focal":0.0,"log_priors":[],"inter_topk":null}"#,
    );
    for (line, table) in [
        (
            "arcface+intertopk:k=5,m=0.06",
            r#"{"classifier":"arcface","inter_topk":{"k":5,"margin":0.06}}"#,
        ),
        (
            "arcface+subcenters:k=3+intertopk:k=2,m=0.1,cosine",
            r#"{"classifier":"arcface","sub_centers":3,"inter_topk":{"k":2,"margin":0.1,"cosine":true}}"#,
        ),
    ] {
        let penalised: Objective = line.parse().unwrap();
        assert_eq!(serde_json::from_str::<Objective>(table).unwrap(), penalised);
        let saved = serde_json::to_string(&penalised).unwrap();
        assert_eq!(
            serde_json::from_str::<Objective>(&saved).unwrap(),
            penalised
        );
    }
    let found =
        refusal::<Objective>(r#"{"classifier":"arcface","inter_topk":{"k":5,"margin":-1}}"#);
    assert!(
        found.starts_with("margin is -1, but must lie in [0, pi/2) radians"),
        "{found}"
    );
    for text in [
        r#""softmax+center:lambda=0.01""#,
        r#"{"classifier":"softmax","lambda":0.01}"#,
        r#"{"classifier":{"softmax":{}},"lambda":0.01}"#,
    ] {
        assert_eq!(serde_json::from_str::<Objective>(text).unwrap(), joined);
    }
    for (text, message) in [
        (r#""center""#, "the center loss does not classify"),
        (
            r#"{"classifier":"center"}"#,
            "the center loss does not classify",
        ),
        (
            r#"{"classifier":"softmax","lambda":-1}"#,
            "lambda is -1, but must be non-negative",
        ),
        (
            r#"{"classifier":"softmax","lamda":1}"#,
            "unknown field `lamda`",
        ),
        ("[]", "invalid type: sequence, expected an objective, as in"),
    ] {
        let found = refusal::<Objective>(text);
        assert!(found.starts_with(message), "{text}: {found}");
    }
}

/// Class weights are saved with the arrays that this crate re-exports.
#[test]
fn arrays_are_saved_too() {
    let weights = margin_losses::ndarray::array![[1.0_f32, -0.1], [2.5e-8, 3.0]];
    let saved = serde_json::to_string(&weights).unwrap();
    let loaded: margin_losses::ndarray::Array2<f32> = serde_json::from_str(&saved).unwrap();
    assert_eq!(loaded, weights);
}

#[test]
fn rules_and_schedules_load_as_they_were_saved() {
    is_saved_as(&PastPi::EasyMargin, r#""easy-margin""#);
    is_saved_as(&Reduction::Sum, r#""sum""#);
    is_saved_as(&Reduction::WeightedMean, r#""weighted-mean""#);
    for rule in RULES {
        is_saved_as(&rule, &format!("\"{rule}\""));
    }
    is_saved_as(
        &LambdaAnnealing::sphere_face(),
        r#"{"base":1000.0,"gamma":0.12,"power":1.0,"minimum":5.0}"#,
    );
    let warm_up = MarginWarmUp::new(0.0, 0.5, 1000).unwrap();
    is_saved_as(&warm_up, r#"{"from":0.0,"to":0.5,"iterations":1000}"#);
}

#[test]
fn what_departs_from_the_paper_may_be_left_out() {
    let load = |text: &str| serde_json::from_str::<AnyLoss>(text).unwrap().to_string();
    assert_eq!(load(r#"{"softmax":{}}"#), "softmax");
    assert_eq!(load(r#"{"a-softmax":{"m":4}}"#), "a-softmax:m=4,lambda=0");
    assert_eq!(load(r#"{"normface":{"scale":20}}"#), "normface:s=20");
    let arc_face = load(r#"{"arcface":{"scale":64,"margin":0.5}}"#);
    assert_eq!(arc_face, "arcface:s=64,m=0.5");
    let mag_face = r#"{"scale":64,"lower_margin":0.45,"upper_margin":0.8,"lower_norm":10,"upper_norm":110,"regulariser":35}"#;
    let mag_face = load(&format!(r#"{{"magface":{mag_face}}}"#));
    assert_eq!(mag_face, MagFace::default().to_string());
    let cos_face = load(r#"{"cosface":{"scale":64,"margin":0.5}}"#);
    assert_eq!(cos_face, "cosface:s=64,m=0.5");
    let varying = load(r#"{"varying-arcface":{"scale":64,"margins":[0.5,0.25]}}"#);
    assert_eq!(varying, "arcface:s=64,m=0.5/0.25");
    let mv = load(r#"{"mv-softmax":{"scale":32,"margin":0.35,"t":0.2}}"#);
    assert_eq!(mv, "mv-softmax:s=32,m=0.35,t=0.2");
}

#[test]
fn what_comes_in_is_validated() {
    fn is_refused<T: DeserializeOwned + Debug>(text: &str, message: &str) {
        let found = refusal::<T>(text);
        assert!(found.starts_with(message), "{text}: {found}");
    }
    is_refused::<SoftmaxLoss>(r#"{"bias":[]}"#, "there are no classes");
    is_refused::<ASoftmax>(r#"{"m":0}"#, "m is 0, but must lie in 1..=1000");
    is_refused::<ASoftmax>(
        r#"{"m":4,"lambda":-1}"#,
        "lambda is -1, but must be non-negative",
    );
    let scale = "scale is 0, but must lie in [1e-6, 1e6]";
    is_refused::<NormFace>(r#"{"scale":0}"#, scale);
    is_refused::<NormFace>(r#"{"scale":0,"learned":true}"#, scale);
    is_refused::<AmSoftmax>(r#"{"scale":0,"margin":0.35}"#, scale);
    is_refused::<CosFace>(
        r#"{"scale":64,"margin":3}"#,
        "margin is 3, but must lie in [0, 2]",
    );
    is_refused::<ArcFace>(
        r#"{"scale":64,"margin":3.2}"#,
        "margin is 3.2, but must lie in [0, pi) radians",
    );
    is_refused::<VaryingMargin<ArcFace>>(
        r#"{"scale":64,"margins":[0.5,3.2]}"#,
        "class margins entry 1 is 3.2, but must lie in [0, pi) radians",
    );
    is_refused::<CosFace>(
        r#"{"scale":64,"margin":0.4,"class_filter":2}"#,
        "filter is 2, but must lie in [-1, 1]",
    );
    is_refused::<CurricularFace>(
        r#"{"scale":64,"margin":0.5,"t":2}"#,
        "t is 2, but must lie in [-1, 1]",
    );
    is_refused::<MvSoftmax>(
        r#"{"scale":32,"margin":3,"t":0.2}"#,
        "margin is 3, but must lie in [0, 2]",
    );
    is_refused::<CombinedMargin>(
        r#"{"scale":64,"m1":0,"m2":0,"m3":0}"#,
        "m1 is 0, but must lie in (0, 1000]",
    );
    is_refused::<MarginSoftmax<CosFace>>(
        r#"{"margin":{"scale":64,"margin":0.35},"scale":0}"#,
        scale,
    );
    is_refused::<LambdaAnnealing>(
        r#"{"base":1,"gamma":-1,"power":1,"minimum":0}"#,
        "gamma is -1, but must be finite and not negative",
    );
    is_refused::<MarginWarmUp>(r#"{"from":-1,"to":0,"iterations":1}"#, "from is -1");
    is_refused::<PastPi>(r#""clamp""#, "unknown variant `clamp`");

    // A slip of the pen is not passed over.
    is_refused::<CosFace>(
        r#"{"scale":64,"margn":0.35}"#,
        "unknown field `margn`, expected one of `scale`, `margin`",
    );
    is_refused::<CosFace>(r#"{"scale":64}"#, "missing field `margin`");
    is_refused::<CenterLoss>(r#"{"alpha":0.5}"#, "unknown field `alpha`");
}
