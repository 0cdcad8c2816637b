//! Hyper-parameters outside their range, and learnables that cannot be set.

use core::f64::consts::PI;
use core::fmt::Debug;

use margin_losses::{
    ASoftmax, AmSoftmax, ArcFace, Argument, CombinedMargin, CosFace, Error, Float, JointLoss,
    Margin, MarginLoss, MarginSoftmax, NormFace, SoftmaxLoss, TargetLogit, Targets,
};
use ndarray::{Array2, array};

use crate::support::refusal::{ROWS, SOME_ROWS, good, refused_alike};
use crate::support::{Squared, every_loss, narrow};

const NOT_FINITE: [f64; 3] = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY];

/// The error is about this parameter, and repeats the value that was given.
#[track_caller]
fn assert_parameter<T: Debug>(result: Result<T, Error>, expected_name: &str, given: f64) {
    match result {
        Err(Error::Parameter { name, value, rule }) => {
            assert_eq!(name, expected_name);
            assert!(
                value == given || (value.is_nan() && given.is_nan()),
                "{value} is not {given}"
            );
            assert!(!rule.is_empty());
        }
        other => panic!("{expected_name} = {given}: {other:?}"),
    }
}

#[test]
fn a_scale_is_positive_and_finite() {
    for scale in NOT_FINITE
        .into_iter()
        .chain([0.0, -0.0, -1.0, -1e-300, 1e300])
    {
        assert_parameter(NormFace::new(scale), "scale", scale);
        assert_parameter(NormFace::learned(scale), "scale", scale);
        assert_parameter(AmSoftmax::new(scale, 0.35), "scale", scale);
        assert_parameter(CosFace::new(scale, 0.35), "scale", scale);
        assert_parameter(ArcFace::new(scale, 0.5), "scale", scale);
        assert_parameter(CombinedMargin::new(scale, 1.0, 0.3, 0.2), "scale", scale);
        assert_parameter(MarginSoftmax::new(Squared, scale), "scale", scale);
    }
}

#[test]
fn a_margin_is_in_its_range() {
    for margin in NOT_FINITE.into_iter().chain([-0.1, 1e3]) {
        assert_parameter(AmSoftmax::new(30.0, margin), "margin", margin);
        assert_parameter(CosFace::new(64.0, margin), "margin", margin);
        assert_parameter(ArcFace::new(64.0, margin), "margin", margin);
    }
    assert_parameter(ArcFace::new(64.0, PI + 1e-3), "margin", PI + 1e-3);
    for margin in NOT_FINITE {
        assert_parameter(CombinedMargin::new(64.0, margin, 0.3, 0.2), "m1", margin);
        assert_parameter(CombinedMargin::new(64.0, 1.0, margin, 0.2), "m2", margin);
        assert_parameter(CombinedMargin::new(64.0, 1.0, 0.3, margin), "m3", margin);
    }
}

#[test]
fn a_softmax_has_a_whole_margin_and_a_lambda_that_is_not_negative() {
    assert_parameter(ASoftmax::new(0), "m", 0.0);
    let loss = ASoftmax::new(4).expect("in range");
    for lambda in NOT_FINITE.into_iter().chain([-1e-300, -5.0]) {
        assert_parameter(loss.with_lambda(lambda), "lambda", lambda);
    }
    loss.with_lambda(0.0).expect("the paper's own loss");
}

#[test]
fn the_weight_of_a_center_loss_is_not_negative() {
    let centers: Array2<f64> = array![[1.0, 0.0]];
    for lambda in NOT_FINITE.into_iter().chain([-1e-300, -1.0]) {
        assert_parameter(
            JointLoss::new(SoftmaxLoss::new(), centers.view(), lambda),
            "lambda",
            lambda,
        );
    }
}

#[test]
fn a_bias_is_finite() {
    for poison in NOT_FINITE {
        for row in 0..3 {
            let mut bias = vec![0.5; 3];
            bias[row] = poison;
            let expected = Error::NonFinite {
                argument: Argument::Bias,
                row,
            };
            assert_eq!(
                SoftmaxLoss::with_bias(bias.clone()).err(),
                Some(expected.clone())
            );
            let mut loss = SoftmaxLoss::with_bias(vec![1.0, 2.0, 3.0]).expect("finite");
            assert_eq!(
                MarginLoss::<f64>::set_learnables(&mut loss, &bias),
                Err(expected)
            );
            assert_eq!(MarginLoss::<f64>::learnables(&loss), [1.0, 2.0, 3.0]);
        }
    }
}

#[test]
fn learnables_come_in_their_number() {
    let centers = Array2::<f64>::ones((4, 2));
    for case in &mut every_loss(centers.view()) {
        let before = case.loss.learnables().to_vec();
        let expected = before.len();
        for found in [expected + 1, expected + 7] {
            let refused = case.loss.set_learnables(&vec![1.0; found]);
            assert_eq!(
                refused,
                Err(Error::LearnableCount { expected, found }),
                "{}",
                case.name
            );
        }
        if expected > 0 {
            let refused = case.loss.set_learnables(&[]);
            assert_eq!(
                refused,
                Err(Error::LearnableCount { expected, found: 0 }),
                "{}",
                case.name
            );
        }
        assert_eq!(case.loss.learnables(), before, "{}", case.name);
        let other: Vec<f64> = before.iter().map(|value| value + 0.5).collect();
        case.loss.set_learnables(&other).expect("in range");
        assert_eq!(case.loss.learnables(), other, "{}", case.name);
    }
}

#[test]
fn a_learned_scale_stays_in_its_range() {
    let mut loss = NormFace::learned(16.0).expect("in range");
    for scale in NOT_FINITE.into_iter().chain([0.0, -16.0]) {
        assert_parameter(
            MarginLoss::<f32>::set_learnables(&mut loss, &[scale]),
            "scale",
            scale,
        );
        assert_eq!(MarginLoss::<f32>::learnables(&loss), [16.0]);
    }
}

/// A margin of the user's own that is not finite at some angles.
#[derive(Debug)]
struct Poisoned {
    value: f64,
    slope: f64,
}

impl Margin for Poisoned {
    fn target_logit(&self, target: &margin_losses::Target) -> TargetLogit {
        let angle = target.angle();
        if angle.radians() < 1.0 {
            TargetLogit::from_angle_slope(angle.cos(), -angle.sin())
        } else {
            TargetLogit::from_angle_slope(self.value, self.slope)
        }
    }
}

fn a_bad_margin<A: Float>() {
    for (value, slope) in [
        (f64::NAN, 0.0),
        (f64::INFINITY, 0.0),
        (0.0, f64::NAN),
        (0.0, f64::NEG_INFINITY),
    ] {
        let loss = MarginSoftmax::new(Poisoned { value, slope }, 8.0).expect("in range");
        for bad in SOME_ROWS {
            // The features of class 0 lie near it, but for one at right angles.
            let mut batch = good::<A>();
            batch.labels = vec![0; ROWS];
            batch.weights.row_mut(0).fill(A::zero());
            batch.weights[[0, 0]] = A::one();
            batch.features.fill(A::zero());
            batch.features.column_mut(0).fill(narrow(2.0));
            batch.features.row_mut(bad).fill(A::zero());
            batch.features[[bad, 1]] = narrow(3.0);
            let targets = Targets::new(&batch.labels);
            match refused_alike("margin", &loss, &batch, &targets) {
                Error::MarginNotFinite { row, angle } => {
                    assert_eq!(row, bad);
                    assert!((angle - PI / 2.0).abs() < 1e-15, "{angle}");
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn a_margin_that_is_not_finite_is_named_with_its_row_and_angle() {
    a_bad_margin::<f32>();
    a_bad_margin::<f64>();
}

#[test]
fn an_error_says_what_to_mend() {
    let error = SoftmaxLoss::with_bias(vec![0.0, f64::NAN]).expect_err("not finite");
    assert_eq!(error.to_string(), "bias entry 1 is a NaN or an infinity");
    let error = ArcFace::new(0.0, 0.5).expect_err("out of range");
    assert!(
        error.to_string().starts_with("scale is 0, but must "),
        "{error}"
    );
    let features = array![[1.0], [0.0]];
    let zero = NormFace::new(1.0).expect("in range").forward(
        features.view(),
        features.view(),
        &Targets::new(&[0, 0]),
    );
    assert_eq!(
        zero.expect_err("no norm").to_string(),
        "features row 1 has zero norm"
    );
}
