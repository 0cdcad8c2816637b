//! Every loss of the crate, each beside its formula.

use core::f64::consts::PI;

use margin_losses::{
    ASoftmax, AmSoftmax, Angle, ArcFace, CenterLoss, CombinedMargin, CosFace, Float, JointLoss,
    Margin, MarginLoss, MarginSoftmax, ModifiedSoftmax, NormFace, PastPi, SoftmaxLoss, TargetLogit,
};
use ndarray::ArrayView2;

use super::{Formula, Layer, widened};

/// A loss, what it is called in messages, and its formula for the oracle.
#[derive(Debug)]
pub(crate) struct Case<'a, A: Float> {
    pub(crate) name: String,
    pub(crate) loss: Box<dyn MarginLoss<A> + 'a>,
    pub(crate) formula: Formula,
}

impl<'a, A: Float> Case<'a, A> {
    fn new(name: impl Into<String>, loss: impl MarginLoss<A> + 'a, formula: Formula) -> Self {
        Self {
            name: name.into(),
            loss: Box::new(loss),
            formula,
        }
    }

    /// Whether a feature row of zeros is refused: its angle is needed.
    pub(crate) fn needs_feature_norms(&self) -> bool {
        match self.formula.layer {
            Layer::UnitNorm { .. } => true,
            Layer::FreeNorm => self.formula.target.is_some(),
            Layer::Linear { .. } | Layer::Nothing => false,
        }
    }

    /// Whether a class weight of zeros is refused.
    pub(crate) fn needs_weight_norms(&self) -> bool {
        !weights_may_be_zero(&self.formula.layer)
    }

    /// Whether the loss is a softmax over classes, and depends on angles alone.
    pub(crate) fn is_angular(&self) -> bool {
        matches!(self.formula.layer, Layer::UnitNorm { .. }) && self.formula.centers.is_none()
    }
}

pub(crate) fn weights_may_be_zero(layer: &Layer) -> bool {
    matches!(layer, Layer::Linear { .. } | Layer::Nothing)
}

/// A user's margin, written in the cosine: ψ = ((1 + cosθ)² − 2) / 2.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Squared;

impl Margin for Squared {
    fn target_logit(&self, angle: Angle) -> TargetLogit {
        let shifted = 1.0 + angle.cos();
        TargetLogit::from_cosine_slope(shifted * shifted / 2.0 - 1.0, shifted, angle)
    }
}

type Psi = Box<dyn Fn(f64) -> (f64, f64)>;

fn formula(layer: Layer, target: Option<Psi>, breakpoints: Vec<f64>) -> Formula {
    Formula {
        layer,
        target,
        centers: None,
        breakpoints,
    }
}

fn sphere(scale: f64, target: Option<Psi>) -> Formula {
    let layer = Layer::UnitNorm {
        scale,
        learned: false,
    };
    formula(layer, target, Vec::new())
}

fn additive_cosine(margin: f64) -> Psi {
    Box::new(move |t| (t.cos() - margin, -t.sin()))
}

fn additive_angle(margin: f64, past_pi: PastPi) -> Psi {
    Box::new(move |t: f64| {
        let added = ((t + margin).cos(), -(t + margin).sin());
        let past = t > PI - margin;
        match past_pi {
            PastPi::LinearTail if past => (t.cos() - margin * margin.sin(), -t.sin()),
            PastPi::SmoothTail if past => (-2.0 - added.0, -added.1),
            PastPi::EasyMargin if t >= PI / 2.0 => (t.cos(), -t.sin()),
            _ => added,
        }
    })
}

fn all_three(m1: f64, m2: f64, m3: f64) -> Psi {
    Box::new(move |t| {
        let turned = m1 * t + m2;
        (turned.cos() - m3, -m1 * turned.sin())
    })
}

fn multiplied_angle(m: u32, lambda: f64) -> Psi {
    Box::new(move |t: f64| {
        let m = f64::from(m);
        let k = (m * t / PI).floor().min(m - 1.0);
        let sign = if k % 2.0 == 0.0 { 1.0 } else { -1.0 };
        let psi = sign * (m * t).cos() - 2.0 * k;
        let slope = -sign * m * (m * t).sin();
        (
            (lambda * t.cos() + psi) / (1.0 + lambda),
            (slope - lambda * t.sin()) / (1.0 + lambda),
        )
    })
}

fn linear(bias: Vec<f64>) -> Formula {
    formula(Layer::Linear { bias }, None, Vec::new())
}

fn past_pi_breakpoints(margin: f64, past_pi: PastPi) -> Vec<f64> {
    match past_pi {
        PastPi::EasyMargin => vec![PI / 2.0],
        _ => vec![PI - margin],
    }
}

/// All losses, with the parameters of their papers and with small scales, for this many classes.
pub(crate) fn every_loss<A: Float>(centers: ArrayView2<'_, A>) -> Vec<Case<'_, A>> {
    let with_centers = |lambda, inner: Formula| Formula {
        centers: Some((lambda, Some(widened(centers)))),
        ..inner
    };
    let bias: Vec<f64> = (0..centers.nrows())
        .map(|class| 0.1 * class as f64)
        .collect();
    let softmax = || SoftmaxLoss::with_bias(bias.clone()).expect("finite");
    let mut all = vec![
        Case::new("softmax", SoftmaxLoss::new(), linear(Vec::new())),
        Case::new("softmax with bias", softmax(), linear(bias.clone())),
        Case::new(
            "modified softmax",
            ModifiedSoftmax::new(),
            formula(Layer::FreeNorm, None, Vec::new()),
        ),
        Case::new(
            "center",
            CenterLoss::new(),
            Formula {
                centers: Some((1.0, None)),
                ..formula(Layer::Nothing, None, Vec::new())
            },
        ),
        Case::new(
            "softmax with bias and center",
            JointLoss::new(softmax(), centers, 0.25).expect("in range"),
            with_centers(0.25, linear(bias.clone())),
        ),
        Case::new(
            "boxed NormFace and center",
            JointLoss::new(
                boxed(NormFace::learned(4.0).expect("in range")),
                centers,
                0.003,
            )
            .expect("in range"),
            with_centers(
                0.003,
                formula(
                    Layer::UnitNorm {
                        scale: 4.0,
                        learned: true,
                    },
                    None,
                    Vec::new(),
                ),
            ),
        ),
    ];
    for (m, lambda) in [(1, 0.0), (2, 0.0), (3, 0.0), (4, 0.0), (4, 5.0), (7, 0.5)] {
        let loss = ASoftmax::new(m)
            .and_then(|loss| loss.with_lambda(lambda))
            .expect("in range");
        let breakpoints = (1..m).map(|k| f64::from(k) * PI / f64::from(m)).collect();
        let target = Some(multiplied_angle(m, lambda));
        all.push(Case::new(
            format!("A-Softmax m = {m}, λ = {lambda}"),
            loss,
            formula(Layer::FreeNorm, target, breakpoints),
        ));
    }
    for scale in [1.0, 20.0] {
        let loss = NormFace::new(scale).expect("in range");
        all.push(Case::new(
            format!("NormFace s = {scale}"),
            loss,
            sphere(scale, None),
        ));
        let layer = Layer::UnitNorm {
            scale,
            learned: true,
        };
        let loss = NormFace::learned(scale).expect("in range");
        all.push(Case::new(
            format!("NormFace learned, s = {scale}"),
            loss,
            formula(layer, None, Vec::new()),
        ));
    }
    for (scale, margin) in [(30.0, 0.35), (4.0, 0.1)] {
        let loss = AmSoftmax::new(scale, margin).expect("in range");
        all.push(Case::new(
            format!("AM-Softmax s = {scale}, m = {margin}"),
            loss,
            sphere(scale, Some(additive_cosine(margin))),
        ));
    }
    for (scale, margin) in [(64.0, 0.35), (2.0, 0.2)] {
        let loss = CosFace::new(scale, margin).expect("in range");
        all.push(Case::new(
            format!("CosFace s = {scale}, m = {margin}"),
            loss,
            sphere(scale, Some(additive_cosine(margin))),
        ));
    }
    for past_pi in [
        PastPi::Paper,
        PastPi::LinearTail,
        PastPi::SmoothTail,
        PastPi::EasyMargin,
    ] {
        for (scale, margin) in [(64.0, 0.5), (3.0, 0.3)] {
            let loss = ArcFace::new(scale, margin)
                .expect("in range")
                .with_past_pi(past_pi);
            let breakpoints = past_pi_breakpoints(margin, past_pi);
            all.push(Case::new(
                format!("ArcFace s = {scale}, m = {margin}, {past_pi:?}"),
                loss,
                Formula {
                    breakpoints,
                    ..sphere(scale, Some(additive_angle(margin, past_pi)))
                },
            ));
        }
    }
    for (scale, m1, m2, m3) in [
        (64.0, 1.0, 0.3, 0.2),
        (64.0, 0.9, 0.4, 0.15),
        (3.0, 1.35, 0.0, 0.0),
    ] {
        let loss = CombinedMargin::new(scale, m1, m2, m3).expect("in range");
        all.push(Case::new(
            format!("combined s = {scale}, m = ({m1}, {m2}, {m3})"),
            loss,
            sphere(scale, Some(all_three(m1, m2, m3))),
        ));
    }
    let squared: Psi = Box::new(|t: f64| {
        let shifted = 1.0 + t.cos();
        (shifted * shifted / 2.0 - 1.0, -shifted * t.sin())
    });
    all.push(Case::new(
        "a user's margin",
        MarginSoftmax::new(Squared, 8.0).expect("in range"),
        sphere(8.0, Some(squared)),
    ));
    all
}

fn boxed<'a, A: Float>(loss: impl MarginLoss<A> + 'a) -> Box<dyn MarginLoss<A> + 'a> {
    Box::new(loss)
}
