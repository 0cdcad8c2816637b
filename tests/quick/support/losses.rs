//! Every loss of the crate, each beside its formula.

use margin_losses::{Error, Float, MarginLoss, PastPi, TurnedAngle};
use ndarray::ArrayView2;

use super::{Formula, Layer, Link, Spec};

/// ArcFace's rules at wide angles.
pub(crate) const RULES: [PastPi; 6] = [
    PastPi::Paper,
    PastPi::LinearTail,
    PastPi::JoinedTail,
    PastPi::SmoothTail,
    PastPi::CosineTail,
    PastPi::EasyMargin,
];

/// A loss, what it is called in messages, and its formula for the oracle.
#[derive(Debug)]
pub(crate) struct Case<'a, A: Float> {
    pub(crate) name: String,
    pub(crate) loss: Box<dyn MarginLoss<A> + 'a>,
    pub(crate) formula: Formula,
}

impl<'a, A: Float> Case<'a, A> {
    /// The loss of `spec`, over these centers.
    ///
    /// # Errors
    ///
    /// If its parameters are refused.
    pub(crate) fn of(
        name: impl Into<String>,
        spec: &Spec,
        centers: ArrayView2<'a, A>,
    ) -> Result<Self, Error> {
        Ok(Self {
            name: name.into(),
            loss: spec.loss(centers)?,
            formula: spec.formula(centers),
        })
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
        matches!(self.formula.layer, Layer::UnitNorm { .. })
            && self.formula.link == Link::Softmax
            && self.formula.centers.is_none()
            && self.formula.by_norm.is_none()
    }
}

pub(crate) fn weights_may_be_zero(layer: &Layer) -> bool {
    matches!(layer, Layer::Linear { .. } | Layer::Nothing)
}

/// All losses, with the parameters of their papers and with small scales, for this many classes.
pub(crate) fn every_loss<A: Float>(centers: ArrayView2<'_, A>) -> Vec<Case<'_, A>> {
    every_spec(centers.nrows())
        .into_iter()
        .map(|(name, spec)| Case::of(name, &spec, centers).expect("in range"))
        .collect()
}

/// The names and the parameters of [`every_loss`].
pub(crate) fn every_spec(classes: usize) -> Vec<(String, Spec)> {
    let bias: Vec<f64> = (0..classes).map(|class| 0.1 * class as f64).collect();
    let with_center = |classifier: Spec, lambda| Spec::Joint {
        classifier: Box::new(classifier),
        lambda,
    };
    let norm_face = |scale, learned| Spec::NormFace { scale, learned };
    let mut all = vec![
        ("softmax".to_owned(), Spec::Softmax { bias: Vec::new() }),
        (
            "softmax with bias".to_owned(),
            Spec::Softmax { bias: bias.clone() },
        ),
        ("modified softmax".to_owned(), Spec::ModifiedSoftmax),
        ("center".to_owned(), Spec::Center),
        (
            "softmax with bias and center".to_owned(),
            with_center(Spec::Softmax { bias }, 0.25),
        ),
        (
            "NormFace and center".to_owned(),
            with_center(norm_face(4.0, true), 0.003),
        ),
    ];
    for (m, lambda) in [(1, 0.0), (2, 0.0), (3, 0.0), (4, 0.0), (4, 5.0), (7, 0.5)] {
        let name = format!("A-Softmax m = {m}, λ = {lambda}");
        all.push((name, Spec::ASoftmax { m, lambda }));
    }
    for scale in [1.0, 20.0] {
        all.push((format!("NormFace s = {scale}"), norm_face(scale, false)));
        let name = format!("NormFace learned, s = {scale}");
        all.push((name, norm_face(scale, true)));
    }
    for (scale, margin) in [(30.0, 0.35), (4.0, 0.1)] {
        let name = format!("AM-Softmax s = {scale}, m = {margin}");
        all.push((name, Spec::AmSoftmax { scale, margin }));
    }
    for (scale, margin) in [(64.0, 0.35), (2.0, 0.2)] {
        let name = format!("CosFace s = {scale}, m = {margin}");
        all.push((name, Spec::CosFace { scale, margin }));
    }
    for past_pi in RULES {
        for (scale, margin) in [(64.0, 0.5), (3.0, 0.3)] {
            let spec = Spec::ArcFace {
                scale,
                margin,
                past_pi,
            };
            all.push((
                format!("ArcFace s = {scale}, m = {margin}, {past_pi:?}"),
                spec,
            ));
        }
    }
    for (scale, m1, m2, m3) in [
        (64.0, 1.0, 0.3, 0.2),
        (64.0, 0.9, 0.4, 0.15),
        (3.0, 1.35, 0.0, 0.0),
    ] {
        let name = format!("combined s = {scale}, m = ({m1}, {m2}, {m3})");
        all.push((name, Spec::Combined { scale, m1, m2, m3 }));
    }
    // The statistics of the papers, and some that suit features of entries near 1.
    for (scale, momentum, statistics, turned_angle) in [
        (64.0, 0.01, [20.0, 100.0], TurnedAngle::Paper),
        (3.0, 1.0, [20.0, 100.0], TurnedAngle::Paper),
        (16.0, 0.0, [2.0, 0.3], TurnedAngle::Paper),
        (4.0, 0.0, [2.0, 0.3], TurnedAngle::Clipped),
    ] {
        let spec = Spec::AdaFace {
            scale,
            margin: 0.4,
            momentum,
            statistics,
            turned_angle,
        };
        let name = format!("AdaFace s = {scale}, m = 0.4, α = {momentum}, {turned_angle:?}");
        all.push((name, spec));
    }
    // No price where the scale is large: a confident row's loss would be lost beside it in differences.
    for (scale, norms, regulariser, past_pi) in [
        (16.0, [10.0, 110.0], 0.0, PastPi::Paper),
        (4.0, [0.25, 6.0], 35.0, PastPi::Paper),
        (4.0, [0.25, 6.0], 0.0, PastPi::SmoothTail),
        (4.0, [0.25, 6.0], 0.5, PastPi::EasyMargin),
    ] {
        let spec = Spec::MagFace {
            scale,
            margins: [0.45, 0.8],
            norms,
            regulariser,
            past_pi,
        };
        let name = format!("MagFace s = {scale}, a = {norms:?}, λ = {regulariser}, {past_pi:?}");
        all.push((name, spec));
    }
    for (scale, past_pi) in [
        (30.0, Some(PastPi::Paper)),
        (16.0, Some(PastPi::SmoothTail)),
        (30.0, None),
    ] {
        let margins = (0..classes).map(|class| 0.1 + 0.07 * (class % 6) as f64);
        let spec = Spec::ByClass {
            scale,
            margins: margins.collect(),
            past_pi,
        };
        let rule = past_pi.map_or("CosFace".to_owned(), |rule| format!("ArcFace, {rule:?}"));
        all.push((format!("margins by class s = {scale}, {rule}"), spec));
    }
    for (scale, margin, past_pi) in [(8.0, 0.4, None), (4.0, 0.3, Some(PastPi::LinearTail))] {
        let spec = Spec::Filtered {
            scale,
            margin,
            past_pi,
            threshold: 0.25,
        };
        let rule = past_pi.map_or("CosFace".to_owned(), |rule| format!("ArcFace, {rule:?}"));
        all.push((format!("filtered s = {scale}, {rule}"), spec));
    }
    for (scale, margin, t, arc, fixed, easy) in [
        (32.0, 0.35, 0.2, false, false, false),
        (4.0, 0.35, 0.5, false, true, true),
        (32.0, 0.5, 0.2, true, false, true),
        (16.0, 0.3, 0.2, true, true, false),
    ] {
        let options = [(arc, "arc"), (fixed, "fixed"), (easy, "easy")];
        let options = options.map(|(is_set, name)| if is_set { name } else { "" });
        let spec = Spec::MvSoftmax {
            scale,
            margin,
            t,
            arc,
            fixed,
            easy,
        };
        let name = format!("MV-Softmax s = {scale}, {}", options.join(" "));
        all.push((name.trim_end().to_owned(), spec));
    }
    for (scale, margin, past_pi, momentum, t) in [
        // A t that stays: the gradient takes it for a constant, which a difference quotient does not.
        (16.0, 0.5, PastPi::Paper, 0.0, 0.3),
        (8.0, 0.3, PastPi::LinearTail, 0.0, 0.0),
    ] {
        let spec = Spec::CurricularFace {
            scale,
            margin,
            past_pi,
            momentum,
            t,
        };
        let name = format!("CurricularFace s = {scale}, t = {t}, {past_pi:?}");
        all.push((name, spec));
    }
    for (scale, margin, power, bias, undivided) in [
        (12.0, 0.4, 3, 1.0, false),
        (4.0, 0.2, 2, -1.0, true),
        (8.0, 0.3, 1, 0.0, false),
    ] {
        let spec = Spec::SphereFace2 {
            scale,
            margin,
            power,
            bias,
            undivided,
        };
        all.push((format!("SphereFace2 s = {scale}, t = {power}"), spec));
    }
    let biases: Vec<f64> = (0..classes).map(|class| 0.3 * class as f64 - 1.0).collect();
    for (scale, margin, lambda, biases) in [(12.0, 0.4, 0.5, vec![3.9]), (4.0, 0.1, 1.0, biases)] {
        let spec = Spec::UniFace {
            scale,
            margin,
            lambda,
            biases,
        };
        let kind = if scale == 4.0 {
            ", a bias for each class"
        } else {
            ""
        };
        all.push((format!("UniFace s = {scale}{kind}"), spec));
    }
    for (margin, relative) in [(1.0, false), (2.5, false), (0.8, true)] {
        let name = if relative {
            "C-triplet"
        } else {
            "C-contrastive"
        };
        let spec = Spec::Distances { margin, relative };
        all.push((format!("{name} m = {margin}"), spec));
    }
    let user = Spec::User {
        scale: 8.0,
        learned: false,
    };
    all.push(("a user's margin".to_owned(), user));
    all
}
