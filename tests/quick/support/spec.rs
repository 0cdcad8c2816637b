//! A loss by its parameters: what the crate is asked for, and the formula that the oracle evaluates.

use core::f64::consts::PI;

use margin_losses::{
    ASoftmax, AdaFace, AmSoftmax, ArcFace, CContrastive, CTriplet, CenterLoss, CombinedMargin,
    CosFace, CurricularFace, Error, Float, JointLoss, MagFace, Margin, MarginLoss, MarginSoftmax,
    ModifiedSoftmax, MvSoftmax, NormFace, PastPi, SoftmaxLoss, SphereFace2, TargetLogit,
    TurnedAngle, UniFace,
};
use ndarray::ArrayView2;

use super::{Constants, Formula, Layer, Link, Shifted, widened};

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
    /// From given statistics.
    AdaFace {
        scale: f64,
        margin: f64,
        momentum: f64,
        statistics: [f64; 2],
        turned_angle: TurnedAngle,
    },
    MagFace {
        scale: f64,
        margins: [f64; 2],
        norms: [f64; 2],
        regulariser: f64,
        past_pi: PastPi,
    },
    /// ArcFace, if it has a rule past π, or CosFace, with margins by class.
    ByClass {
        scale: f64,
        margins: Vec<f64>,
        past_pi: Option<PastPi>,
    },
    /// ArcFace, if it has a rule past π, or CosFace, with inter-class filtering.
    Filtered {
        scale: f64,
        margin: f64,
        past_pi: Option<PastPi>,
        threshold: f64,
    },
    MvSoftmax {
        scale: f64,
        margin: f64,
        t: f64,
        arc: bool,
        fixed: bool,
        easy: bool,
    },
    CurricularFace {
        scale: f64,
        margin: f64,
        past_pi: PastPi,
        momentum: f64,
        t: f64,
    },
    /// From the bias that is given.
    SphereFace2 {
        scale: f64,
        margin: f64,
        power: u32,
        bias: f64,
        undivided: bool,
    },
    /// With one threshold, or one for each class.
    UniFace {
        scale: f64,
        margin: f64,
        lambda: f64,
        biases: Vec<f64>,
    },
    /// C-triplet if they are relative, else C-contrastive.
    Distances {
        margin: f64,
        relative: bool,
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
            Self::AdaFace {
                scale,
                margin,
                momentum,
                ref statistics,
                turned_angle,
            } => {
                let loss = AdaFace::new(scale, margin)?.with_momentum(momentum)?;
                let mut loss = loss.with_turned_angle(turned_angle);
                loss.set_statistics(statistics)?;
                Box::new(loss)
            }
            Self::MagFace {
                scale,
                margins: [l_m, u_m],
                norms: [l_a, u_a],
                regulariser,
                past_pi,
            } => {
                let loss = MagFace::new(scale, l_m, u_m)?.with_norms(l_a, u_a)?;
                Box::new(loss.with_regulariser(regulariser)?.with_past_pi(past_pi))
            }
            Self::ByClass {
                scale,
                ref margins,
                past_pi: Some(past_pi),
            } => {
                let loss = ArcFace::new(scale, 0.0)?.with_past_pi(past_pi);
                Box::new(loss.with_class_margins(margins.clone())?)
            }
            Self::ByClass {
                scale, ref margins, ..
            } => Box::new(CosFace::new(scale, 0.0)?.with_class_margins(margins.clone())?),
            Self::Filtered {
                scale,
                margin,
                past_pi: Some(past_pi),
                threshold,
            } => {
                let loss = ArcFace::new(scale, margin)?.with_past_pi(past_pi);
                Box::new(loss.with_class_filter(threshold)?)
            }
            Self::Filtered {
                scale,
                margin,
                threshold,
                ..
            } => Box::new(CosFace::new(scale, margin)?.with_class_filter(threshold)?),
            Self::MvSoftmax {
                scale,
                margin,
                t,
                arc,
                fixed,
                easy,
            } => {
                let new = if arc { MvSoftmax::arc } else { MvSoftmax::new };
                let loss = new(scale, margin, t)?.with_fixed_weights(fixed);
                Box::new(loss.with_easy_margin(easy))
            }
            Self::CurricularFace {
                scale,
                margin,
                past_pi,
                momentum,
                t,
            } => Box::new(
                CurricularFace::new(scale, margin)?
                    .with_past_pi(past_pi)
                    .with_momentum(momentum)?
                    .with_t(t)?,
            ),
            Self::SphereFace2 {
                scale,
                margin,
                power,
                bias,
                undivided,
            } => {
                let loss = SphereFace2::new(scale, margin)?.with_power(power)?;
                let loss = loss.with_bias(bias)?;
                Box::new(if undivided { loss.undivided() } else { loss })
            }
            Self::UniFace {
                scale,
                margin,
                lambda,
                ref biases,
            } => {
                let loss = UniFace::new(scale, margin)?.with_lambda(lambda)?;
                Box::new(match biases[..] {
                    [bias] => loss.with_bias(bias)?,
                    _ => loss.with_class_biases(biases.clone())?,
                })
            }
            Self::Distances {
                margin,
                relative: true,
            } => Box::new(CTriplet::new(margin)?),
            Self::Distances { margin, .. } => Box::new(CContrastive::new(margin)?),
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
            Self::AdaFace {
                scale,
                margin,
                momentum,
                statistics,
                turned_angle,
            } => {
                let by_norm = move |norms: &[f64], row: usize, theta: f64| {
                    quality_margin(
                        margin,
                        momentum,
                        statistics,
                        turned_angle,
                        norms,
                        row,
                        theta,
                    )
                };
                Formula {
                    by_norm: Some(Box::new(by_norm)),
                    norms_are_constants: true,
                    couples_rows: momentum != 0.0,
                    // In the angle 1; in the norm, of statistics that are not too narrow.
                    steepest: 4.0,
                    ..sphere(scale, false, Some(additive_cosine(0.0)))
                }
            }
            Self::MagFace {
                scale,
                margins,
                norms: bounds,
                regulariser,
                past_pi,
            } => {
                let by_norm = move |norms: &[f64], row: usize, theta: f64| {
                    magnitude_margin(margins, bounds, regulariser, past_pi, norms[row], theta)
                };
                Formula {
                    by_norm: Some(Box::new(by_norm)),
                    breakpoints: match past_pi {
                        PastPi::EasyMargin => vec![PI / 2.0],
                        _ => Vec::new(),
                    },
                    jumps: past_pi == PastPi::EasyMargin,
                    steepest: 2.0,
                    ..sphere(scale, false, Some(additive_cosine(0.0)))
                }
            }
            Self::ByClass {
                scale,
                ref margins,
                past_pi,
            } => by_class(scale, margins, past_pi),
            Self::Filtered {
                scale,
                margin,
                past_pi,
                threshold,
            } => Formula {
                negatives: Some(Box::new(move |_, _| (threshold, [0.0; 4]))),
                by_class: Vec::new(),
                ..by_class(scale, &[margin], past_pi)
            },
            Self::MvSoftmax {
                scale,
                margin,
                t,
                arc,
                fixed,
                easy,
            } => {
                let base = move |theta: f64| {
                    if arc {
                        (theta + margin).cos()
                    } else {
                        theta.cos() - margin
                    }
                };
                let psi: Psi = Box::new(move |theta: f64| {
                    if easy && theta >= PI / 2.0 {
                        (theta.cos(), -theta.sin())
                    } else if arc {
                        (base(theta), -(theta + margin).sin())
                    } else {
                        (base(theta), -theta.sin())
                    }
                });
                let slope = if fixed { 1.0 } else { 1.0 + t };
                Formula {
                    breakpoints: if easy { vec![PI / 2.0] } else { Vec::new() },
                    jumps: easy,
                    steepest: 1.0 + 2.0 * t,
                    negative_slope: slope,
                    negatives: Some(Box::new(move |theta, _| {
                        (base(theta), [t, slope, 0.0, 0.0])
                    })),
                    ..sphere(scale, false, Some(psi))
                }
            }
            Self::CurricularFace {
                scale,
                margin,
                past_pi,
                momentum,
                t,
            } => Formula {
                by_class: Vec::new(),
                steepest: 2.0 + t.abs(),
                negative_slope: 2.0 + t.abs(),
                negatives: Some(Box::new(move |theta: f64, mean| {
                    let t = momentum * mean + (1.0 - momentum) * t;
                    ((theta + margin).cos(), [0.0, t, 1.0, 0.0])
                })),
                ..by_class(scale, &[margin], Some(past_pi))
            },
            Self::SphereFace2 {
                scale,
                margin,
                power,
                bias,
                undivided,
            } => one_against_the_rest(scale, margin, power, bias, undivided),
            Self::UniFace {
                scale,
                margin,
                lambda,
                ref biases,
            } => Formula {
                link: Link::Logistic {
                    positive: 1.0,
                    negative: lambda,
                },
                constants: Constants {
                    values: biases.clone(),
                    sign: -1.0,
                },
                ..sphere(scale, false, Some(additive_cosine(margin)))
            },
            Self::Distances { margin, relative } => distances(margin, relative),
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

/// SphereFace2 with λ = 0.7.
fn one_against_the_rest(
    scale: f64,
    margin: f64,
    power: u32,
    bias: f64,
    undivided: bool,
) -> Formula {
    let divisor = if undivided { 1.0 } else { scale };
    let t = f64::from(power);
    let psi: Psi = Box::new(move |theta: f64| {
        let half = f64::midpoint(1.0, theta.cos());
        let slope = t * half.powf(t - 1.0);
        (2.0 * half.powf(t) - 1.0 - margin, -slope * theta.sin())
    });
    // 2 ((1 + c)/2)^t − 1 + m, multiplied out.
    let polynomial = match power {
        1 => [margin, 1.0, 0.0, 0.0],
        2 => [margin - 0.5, 1.0, 0.5, 0.0],
        _ => [margin - 0.75, 0.75, 0.75, 0.25],
    };
    Formula {
        link: Link::Logistic {
            positive: 0.7 / divisor,
            negative: (1.0 - 0.7) / divisor,
        },
        constants: Constants {
            values: vec![bias],
            sign: 1.0,
        },
        steepest: t,
        negative_slope: t,
        negatives: Some(Box::new(move |_, _| (f64::NEG_INFINITY, polynomial))),
        ..sphere(scale, false, Some(psi))
    }
}

fn distances(margin: f64, relative: bool) -> Formula {
    let square = |theta: f64| 4.0 * (theta / 2.0).sin().powi(2);
    let psi: Psi = Box::new(move |theta: f64| (-square(theta), -2.0 * theta.sin()));
    let own_part = if relative { 1.0 } else { 0.0 };
    Formula {
        link: Link::Hinge {
            own: 1.0 - own_part,
            shared: own_part,
        },
        steepest: 2.0,
        negative_slope: 2.0,
        negatives: Some(Box::new(move |theta, _| {
            let own = own_part * square(theta);
            (f64::NEG_INFINITY, [margin + own - 2.0, 2.0, 0.0, 0.0])
        })),
        ..sphere(1.0, false, Some(psi))
    }
}

fn formula(layer: Layer, target: Option<Psi>) -> Formula {
    Formula {
        layer,
        link: Link::Softmax,
        constants: Constants::default(),
        target,
        by_norm: None,
        norms_are_constants: false,
        couples_rows: false,
        by_class: Vec::new(),
        negatives: None,
        negative_slope: 1.0,
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

/// AdaFace's: running mean and deviation of the norms that are clipped to [1e-3, 100], then cos(θ − m k̂) − m (1 + k̂).
fn quality_margin(
    m: f64,
    alpha: f64,
    [mean, deviation]: [f64; 2],
    rule: TurnedAngle,
    norms: &[f64],
    row: usize,
    theta: f64,
) -> Shifted {
    const EPSILON: f64 = 1e-3;
    let a: Vec<f64> = norms.iter().map(|norm| norm.clamp(1e-3, 100.0)).collect();
    let n = a.len() as f64;
    let average = a.iter().sum::<f64>() / n;
    let mean = alpha * average + (1.0 - alpha) * mean;
    let square: f64 = a.iter().map(|a| (a - average) * (a - average)).sum();
    let deviation = if a.len() < 2 {
        deviation
    } else {
        alpha * (square / (n - 1.0)).sqrt() + (1.0 - alpha) * deviation
    };
    let k = (0.333 * (a[row] - mean) / (deviation + EPSILON)).clamp(-1.0, 1.0);
    let turned = theta - m * k;
    let (turned, inside) = match rule {
        TurnedAngle::Clipped if turned < EPSILON => (EPSILON, 0.0),
        TurnedAngle::Clipped if turned > PI - EPSILON => (PI - EPSILON, 0.0),
        _ => (turned, 1.0),
    };
    Shifted {
        psi: turned.cos() - m - m * k,
        angle_slope: -inside * turned.sin(),
        ..Shifted::default()
    }
}

/// MagFace's: ArcFace with a margin that grows with the norm, and the price on short features.
fn magnitude_margin(
    [l_m, u_m]: [f64; 2],
    [l_a, u_a]: [f64; 2],
    lambda: f64,
    rule: PastPi,
    norm: f64,
    theta: f64,
) -> Shifted {
    let a = norm.clamp(l_a, u_a);
    let inside = if (l_a..=u_a).contains(&norm) {
        1.0
    } else {
        0.0
    };
    let kappa = (u_m - l_m) / (u_a - l_a);
    let m = l_m + kappa * (a - l_a);
    let (psi, angle_slope) = additive_angle(m, rule)(theta);
    let past = theta > PI - m;
    let by_margin = match rule {
        PastPi::CosineTail if theta > (PI - m) / 2.0 => -(m / 2.0).cos(),
        PastPi::LinearTail if past => -m.sin() - m * m.cos(),
        PastPi::JoinedTail if past => -m.sin(),
        PastPi::EasyMargin if theta >= PI / 2.0 => 0.0,
        PastPi::SmoothTail if past => (theta + m).sin(),
        _ => -(theta + m).sin(),
    };
    Shifted {
        psi,
        angle_slope,
        norm_slope: inside * kappa * by_margin,
        term: [
            lambda * (a / (u_a * u_a) + 1.0 / a),
            inside * lambda * (1.0 / (u_a * u_a) - 1.0 / (a * a)),
        ],
    }
}

fn by_class(scale: f64, margins: &[f64], past_pi: Option<PastPi>) -> Formula {
    let psi = |&margin: &f64| match past_pi {
        None => additive_cosine(margin),
        Some(rule) => additive_angle(margin, rule),
    };
    let target = margins.first().map(psi);
    Formula {
        by_class: margins.iter().map(psi).collect(),
        breakpoints: match past_pi {
            None => Vec::new(),
            Some(PastPi::EasyMargin) => vec![PI / 2.0],
            Some(PastPi::CosineTail) => margins.iter().map(|margin| (PI - margin) / 2.0).collect(),
            Some(_) => margins.iter().map(|margin| PI - margin).collect(),
        },
        jumps: matches!(past_pi, Some(PastPi::EasyMargin | PastPi::LinearTail)),
        ..sphere(scale, false, target)
    }
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
