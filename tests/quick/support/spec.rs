//! A loss by its parameters: what the crate is asked for, and the formula that the oracle evaluates.

use core::f64::consts::PI;

use margin_losses::{
    ASoftmax, AmSoftmax, ArcFace, CenterLoss, CombinedMargin, CosFace, Error, Float, JointLoss,
    Margin, MarginLoss, MarginSoftmax, ModifiedSoftmax, NormFace, PastPi, SoftmaxLoss, TargetLogit,
};
use ndarray::ArrayView2;

use super::{Formula, Layer, widened};

/// A loss of the crate, or one that its constructor refuses.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Spec {
    Softmax {
        bias: Vec<f64>,
    },
    ModifiedSoftmax,
    Center,
    ASoftmax {
        m: u32,
        lambda: f64,
    },
    NormFace {
        scale: f64,
        learned: bool,
    },
    AmSoftmax {
        scale: f64,
        margin: f64,
    },
    CosFace {
        scale: f64,
        margin: f64,
    },
    ArcFace {
        scale: f64,
        margin: f64,
        past_pi: PastPi,
    },
    Combined {
        scale: f64,
        m1: f64,
        m2: f64,
        m3: f64,
    },
    /// The margin [`Squared`], with a scale that may be learned.
    User {
        scale: f64,
        learned: bool,
    },
    Joint {
        classifier: Box<Spec>,
        lambda: f64,
    },
}

/// A user's margin, written in the cosine: ψ = ((1 + cosθ)² − 2) / 2.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Squared;

impl Margin for Squared {
    fn target_logit(&self, target: &margin_losses::Target) -> TargetLogit {
        let angle = target.angle();
        let shifted = 1.0 + angle.cos();
        TargetLogit::from_cosine_slope(shifted * shifted / 2.0 - 1.0, shifted, angle)
    }
}

type Psi = Box<dyn Fn(f64) -> (f64, f64)>;

impl Spec {
    /// The crate's loss.
    ///
    /// # Errors
    ///
    /// What its constructor says to parameters out of range.
    pub(crate) fn loss<'a, A: Float>(
        &self,
        centers: ArrayView2<'a, A>,
    ) -> Result<Box<dyn MarginLoss<A> + 'a>, Error> {
        Ok(match *self {
            Self::Softmax { ref bias } if bias.is_empty() => Box::new(SoftmaxLoss::new()),
            Self::Softmax { ref bias } => Box::new(SoftmaxLoss::with_bias(bias.clone())?),
            Self::ModifiedSoftmax => Box::new(ModifiedSoftmax::new()),
            Self::Center => Box::new(CenterLoss::new()),
            Self::ASoftmax { m, lambda } => Box::new(ASoftmax::new(m)?.with_lambda(lambda)?),
            Self::NormFace {
                scale,
                learned: true,
            } => Box::new(NormFace::learned(scale)?),
            Self::NormFace { scale, .. } => Box::new(NormFace::new(scale)?),
            Self::AmSoftmax { scale, margin } => Box::new(AmSoftmax::new(scale, margin)?),
            Self::CosFace { scale, margin } => Box::new(CosFace::new(scale, margin)?),
            Self::ArcFace {
                scale,
                margin,
                past_pi,
            } => Box::new(ArcFace::new(scale, margin)?.with_past_pi(past_pi)),
            Self::Combined { scale, m1, m2, m3 } => {
                Box::new(CombinedMargin::new(scale, m1, m2, m3)?)
            }
            Self::User {
                scale,
                learned: true,
            } => Box::new(MarginSoftmax::learned(Squared, scale)?),
            Self::User { scale, .. } => Box::new(MarginSoftmax::new(Squared, scale)?),
            Self::Joint {
                ref classifier,
                lambda,
            } => Box::new(JointLoss::new(classifier.loss(centers)?, centers, lambda)?),
        })
    }

    /// What it computes.
    pub(crate) fn formula<A: Float>(&self, centers: ArrayView2<'_, A>) -> Formula {
        match *self {
            Self::Softmax { ref bias } => formula(Layer::Linear { bias: bias.clone() }, None),
            Self::ModifiedSoftmax => formula(Layer::FreeNorm, None),
            Self::Center => Formula {
                centers: Some((1.0, None)),
                ..formula(Layer::Nothing, None)
            },
            Self::ASoftmax { m, lambda } => Formula {
                breakpoints: (1..m).map(|k| f64::from(k) * PI / f64::from(m)).collect(),
                steepest: f64::from(m),
                ..formula(Layer::FreeNorm, Some(multiplied_angle(m, lambda)))
            },
            Self::NormFace { scale, learned } => sphere(scale, learned, None),
            Self::AmSoftmax { scale, margin } | Self::CosFace { scale, margin } => {
                sphere(scale, false, Some(additive_cosine(margin)))
            }
            Self::ArcFace {
                scale,
                margin,
                past_pi,
            } => Formula {
                breakpoints: match past_pi {
                    PastPi::EasyMargin => vec![PI / 2.0],
                    PastPi::CosineTail => vec![(PI - margin) / 2.0],
                    _ => vec![PI - margin],
                },
                jumps: matches!(past_pi, PastPi::EasyMargin | PastPi::LinearTail),
                ..sphere(scale, false, Some(additive_angle(margin, past_pi)))
            },
            Self::Combined { scale, m1, m2, m3 } => Formula {
                steepest: m1.max(1.0),
                ..sphere(scale, false, Some(all_three(m1, m2, m3)))
            },
            Self::User { scale, learned } => {
                let squared: Psi = Box::new(|t: f64| {
                    let shifted = 1.0 + t.cos();
                    (shifted * shifted / 2.0 - 1.0, -shifted * t.sin())
                });
                Formula {
                    steepest: 2.0,
                    ..sphere(scale, learned, Some(squared))
                }
            }
            Self::Joint {
                ref classifier,
                lambda,
            } => Formula {
                centers: Some((lambda, Some(widened(centers)))),
                ..classifier.formula(centers)
            },
        }
    }

    /// The loss that classifies, without the center loss beside it.
    pub(crate) fn classifier(&self) -> &Self {
        match self {
            Self::Joint { classifier, .. } => classifier,
            other => other,
        }
    }
}

fn formula(layer: Layer, target: Option<Psi>) -> Formula {
    Formula {
        layer,
        target,
        centers: None,
        breakpoints: Vec::new(),
        jumps: false,
        steepest: 1.0,
    }
}

fn sphere(scale: f64, learned: bool, target: Option<Psi>) -> Formula {
    formula(Layer::UnitNorm { scale, learned }, target)
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
            PastPi::JoinedTail if past => (t.cos() - 1.0 + margin.cos(), -t.sin()),
            PastPi::SmoothTail if past => (-2.0 - added.0, -added.1),
            PastPi::CosineTail if t > (PI - margin) / 2.0 => {
                (t.cos() - 2.0 * (margin / 2.0).sin(), -t.sin())
            }
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
