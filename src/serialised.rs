//! Losses, rules and schedules for serde (feature `serde`).
//!
//! Each has a mirror with plain fields. What comes in goes through the constructor, so that a value out of range is
//! refused with the message of its [`Error`]; fields that do not belong there are refused as well. A field that says how
//! to depart from the default may be left out.

use core::cell::Cell;
use core::fmt;
use core::marker::PhantomData;
use core::str::FromStr;

use serde::de::value::MapAccessDeserializer;
use serde::de::{
    DeserializeSeed, EnumAccess, Error as _, MapAccess, Unexpected, VariantAccess, Visitor,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::Error;
use crate::schedule::{LambdaAnnealing, MarginWarmUp};
use crate::{
    ASoftmax, AdaFace, AdaptiveFace, AmSoftmax, AnyLoss, ArcFace, CContrastive, CTriplet,
    CenterLoss, CombinedMargin, Composed, CosFace, CurricularFace, InterTopK, MagFace, Margin,
    MarginSoftmax, ModifiedSoftmax, MvSoftmax, NormFace, Objective, PastPi, SoftmaxLoss,
    SphereFace2, TurnedAngle, UniFace, VaryingMargin,
};

/// The fields of a mirror, where each comes from, and what the constructor makes of them.
macro_rules! mirror {
    (
        $original:ty as $name:literal { $($(#[$attribute:meta])* $field:ident: $type:ty = $get:expr),* $(,)? },
        $new:expr
    ) => {
        const _: () = {
            #[derive(Serialize, Deserialize)]
            #[serde(rename = $name, expecting = $name, deny_unknown_fields)]
            struct Mirror {
                $($(#[$attribute])* $field: $type),*
            }

            impl Serialize for $original {
                fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                    $(let $field: fn(&Self) -> $type = $get;)*
                    Mirror { $($field: $field(self)),* }.serialize(to)
                }
            }

            impl<'de> Deserialize<'de> for $original {
                fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                    let new: fn(Mirror) -> Result<Self, Error> = $new;
                    new(Mirror::deserialize(from)?).map_err(D::Error::custom)
                }
            }
        };
    };
}

mirror!(
    SoftmaxLoss as "SoftmaxLoss" {
        #[serde(default)]
        bias: Option<Vec<f64>> = |loss| loss.bias().map(<[f64]>::to_vec),
    },
    |given| given.bias.map_or_else(|| Ok(SoftmaxLoss::new()), SoftmaxLoss::with_bias)
);
mirror!(ModifiedSoftmax as "ModifiedSoftmax" {}, |_| Ok(ModifiedSoftmax::new()));
mirror!(CenterLoss as "CenterLoss" {}, |_| Ok(CenterLoss::new()));
mirror!(
    ASoftmax as "ASoftmax" {
        m: u32 = ASoftmax::m,
        #[serde(default)]
        lambda: f64 = ASoftmax::lambda,
    },
    |given| ASoftmax::new(given.m)?.with_lambda(given.lambda)
);
mirror!(
    NormFace as "NormFace" {
        scale: f64 = NormFace::scale,
        #[serde(default)]
        learned: bool = NormFace::is_learned,
    },
    |given| if given.learned {
        NormFace::learned(given.scale)
    } else {
        NormFace::new(given.scale)
    }
);
mirror!(
    AmSoftmax as "AmSoftmax" {
        scale: f64 = AmSoftmax::scale,
        margin: f64 = AmSoftmax::margin,
    },
    |given| AmSoftmax::new(given.scale, given.margin)
);
mirror!(
    CosFace as "CosFace" {
        scale: f64 = CosFace::scale,
        margin: f64 = CosFace::margin,
        #[serde(default)]
        class_filter: Option<f64> = CosFace::class_filter,
    },
    |given| {
        let loss = CosFace::new(given.scale, given.margin)?;
        given.class_filter.map_or(Ok(loss), |threshold| loss.with_class_filter(threshold))
    }
);
mirror!(
    ArcFace as "ArcFace" {
        scale: f64 = ArcFace::scale,
        margin: f64 = ArcFace::margin,
        #[serde(default)]
        past_pi: PastPi = ArcFace::past_pi,
        #[serde(default)]
        class_filter: Option<f64> = ArcFace::class_filter,
    },
    |given| {
        let loss = ArcFace::new(given.scale, given.margin)?.with_past_pi(given.past_pi);
        given.class_filter.map_or(Ok(loss), |threshold| loss.with_class_filter(threshold))
    }
);
mirror!(
    CurricularFace as "CurricularFace" {
        scale: f64 = CurricularFace::scale,
        margin: f64 = CurricularFace::margin,
        #[serde(default)]
        past_pi: Option<PastPi> = |loss| Some(loss.past_pi()),
        #[serde(default = "momentum")]
        momentum: f64 = CurricularFace::momentum,
        #[serde(default)]
        t: f64 = CurricularFace::t,
    },
    |given| {
        let loss = CurricularFace::new(given.scale, given.margin)?;
        let past_pi = given.past_pi.unwrap_or(loss.past_pi());
        loss.with_past_pi(past_pi).with_momentum(given.momentum)?.with_t(given.t)
    }
);
mirror!(
    MvSoftmax as "MvSoftmax" {
        scale: f64 = MvSoftmax::scale,
        margin: f64 = MvSoftmax::margin,
        t: f64 = MvSoftmax::t,
        #[serde(default)]
        arc: bool = MvSoftmax::is_arc,
        #[serde(default)]
        fixed: bool = MvSoftmax::has_fixed_weights,
        #[serde(default)]
        easy: bool = MvSoftmax::has_easy_margin,
    },
    |given| {
        let new = if given.arc { MvSoftmax::arc } else { MvSoftmax::new };
        let loss = new(given.scale, given.margin, given.t)?;
        Ok(loss.with_fixed_weights(given.fixed).with_easy_margin(given.easy))
    }
);
mirror!(
    CContrastive as "CContrastive" { margin: f64 = CContrastive::margin },
    |given| CContrastive::new(given.margin)
);
mirror!(
    CTriplet as "CTriplet" { margin: f64 = CTriplet::margin },
    |given| CTriplet::new(given.margin)
);
mirror!(
    CombinedMargin as "CombinedMargin" {
        scale: f64 = CombinedMargin::scale,
        m1: f64 = |loss| loss.margins().0,
        m2: f64 = |loss| loss.margins().1,
        m3: f64 = |loss| loss.margins().2,
    },
    |given| CombinedMargin::new(given.scale, given.m1, given.m2, given.m3)
);
mirror!(
    SphereFace2 as "SphereFace2" {
        scale: f64 = SphereFace2::scale,
        margin: f64 = SphereFace2::margin,
        power: u32 = SphereFace2::power,
        lambda: f64 = SphereFace2::lambda,
        #[serde(default)]
        bias: f64 = SphereFace2::bias,
        #[serde(default)]
        arc: bool = SphereFace2::is_arc,
        #[serde(default)]
        undivided: bool = SphereFace2::is_undivided,
    },
    |given| {
        let new = if given.arc { SphereFace2::arc } else { SphereFace2::new };
        let loss = new(given.scale, given.margin)?
            .with_power(given.power)?
            .with_lambda(given.lambda)?
            .with_bias(given.bias)?;
        Ok(if given.undivided { loss.undivided() } else { loss })
    }
);
mirror!(
    UniFace as "UniFace" {
        scale: f64 = UniFace::scale,
        margin: f64 = UniFace::margin,
        lambda: f64 = UniFace::lambda,
        biases: Vec<f64> = |loss| loss.learnables().to_vec(),
        #[serde(default)]
        by_class: bool = UniFace::is_by_class,
    },
    |given| {
        let loss = UniFace::new(given.scale, given.margin)?.with_lambda(given.lambda)?;
        match given.biases[..] {
            [bias] if !given.by_class => loss.with_bias(bias),
            _ => loss.with_class_biases(given.biases),
        }
    }
);
mirror!(
    AdaptiveFace as "AdaptiveFace" {
        scale: f64 = AdaptiveFace::scale,
        margins: Vec<f64> = |loss| loss.margins().to_vec(),
        lambda: f64 = AdaptiveFace::lambda,
    },
    |given| AdaptiveFace::new(given.scale, given.margins)?.with_lambda(given.lambda)
);
mirror!(
    AdaFace as "AdaFace" {
        scale: f64 = AdaFace::scale,
        margin: f64 = AdaFace::margin,
        concentration: f64 = AdaFace::concentration,
        momentum: f64 = AdaFace::momentum,
        #[serde(default)]
        epsilon: Option<f64> = |loss| Some(loss.epsilon()),
        #[serde(default)]
        turned_angle: TurnedAngle = AdaFace::turned_angle,
        #[serde(default)]
        mean: Option<f64> = |loss| Some(loss.mean()),
        #[serde(default)]
        deviation: Option<f64> = |loss| Some(loss.deviation()),
    },
    |given| {
        let mut loss = AdaFace::new(given.scale, given.margin)?
            .with_concentration(given.concentration)?
            .with_momentum(given.momentum)?
            .with_turned_angle(given.turned_angle);
        let epsilon = given.epsilon.unwrap_or(loss.epsilon());
        loss = loss.with_epsilon(epsilon)?;
        let mean = given.mean.unwrap_or(loss.mean());
        loss.set_statistics(&[mean, given.deviation.unwrap_or(loss.deviation())])?;
        Ok(loss)
    }
);
mirror!(
    MagFace as "MagFace" {
        scale: f64 = MagFace::scale,
        lower_margin: f64 = |loss| loss.margins().0,
        upper_margin: f64 = |loss| loss.margins().1,
        lower_norm: f64 = |loss| loss.norms().0,
        upper_norm: f64 = |loss| loss.norms().1,
        regulariser: f64 = MagFace::regulariser,
        #[serde(default)]
        past_pi: Option<PastPi> = |loss| Some(loss.past_pi()),
    },
    |given| {
        let loss = MagFace::new(given.scale, given.lower_margin, given.upper_margin)?;
        let loss = loss.with_norms(given.lower_norm, given.upper_norm)?;
        let past_pi = given.past_pi.unwrap_or(loss.past_pi());
        Ok(loss.with_regulariser(given.regulariser)?.with_past_pi(past_pi))
    }
);
mirror!(
    VaryingMargin<AmSoftmax> as "VaryingAmSoftmax" {
        scale: f64 = |loss| loss.loss().scale(),
        margins: Vec<f64> = |loss| loss.margins().to_vec(),
        #[serde(default)]
        by_row: bool = VaryingMargin::is_by_row,
    },
    |given| VaryingMargin::new(AmSoftmax::new(given.scale, 0.0)?, given.margins, given.by_row)
);
mirror!(
    VaryingMargin<CosFace> as "VaryingCosFace" {
        scale: f64 = |loss| loss.loss().scale(),
        margins: Vec<f64> = |loss| loss.margins().to_vec(),
        #[serde(default)]
        by_row: bool = VaryingMargin::is_by_row,
        #[serde(default)]
        class_filter: Option<f64> = |loss| loss.loss().class_filter(),
    },
    |given| {
        let mut loss = CosFace::new(given.scale, 0.0)?;
        if let Some(threshold) = given.class_filter {
            loss = loss.with_class_filter(threshold)?;
        }
        VaryingMargin::new(loss, given.margins, given.by_row)
    }
);
mirror!(
    VaryingMargin<ArcFace> as "VaryingArcFace" {
        scale: f64 = |loss| loss.loss().scale(),
        margins: Vec<f64> = |loss| loss.margins().to_vec(),
        #[serde(default)]
        by_row: bool = VaryingMargin::is_by_row,
        #[serde(default)]
        past_pi: PastPi = |loss| loss.loss().past_pi(),
        #[serde(default)]
        class_filter: Option<f64> = |loss| loss.loss().class_filter(),
    },
    |given| {
        let mut loss = ArcFace::new(given.scale, 0.0)?.with_past_pi(given.past_pi);
        if let Some(threshold) = given.class_filter {
            loss = loss.with_class_filter(threshold)?;
        }
        VaryingMargin::new(loss, given.margins, given.by_row)
    }
);
mirror!(
    LambdaAnnealing as "LambdaAnnealing" {
        base: f64 = LambdaAnnealing::base,
        gamma: f64 = LambdaAnnealing::gamma,
        power: f64 = LambdaAnnealing::power,
        minimum: f64 = LambdaAnnealing::minimum,
    },
    |given| LambdaAnnealing::new(given.base, given.gamma, given.power, given.minimum)
);
mirror!(
    MarginWarmUp as "MarginWarmUp" {
        from: f64 = MarginWarmUp::from,
        to: f64 = MarginWarmUp::to,
        iterations: u64 = MarginWarmUp::iterations,
    },
    |given| MarginWarmUp::new(given.from, given.to, given.iterations)
);

/// CurricularFace's, if it is left out.
fn momentum() -> f64 {
    CurricularFace::default().momentum()
}

/// Generic, and so by hand.
#[derive(Serialize, Deserialize)]
#[serde(
    rename = "MarginSoftmax",
    expecting = "MarginSoftmax",
    deny_unknown_fields
)]
struct MarginSoftmaxMirror<M> {
    margin: M,
    scale: f64,
    #[serde(default)]
    learned: bool,
}

impl<M: Serialize> Serialize for MarginSoftmax<M> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mirror = MarginSoftmaxMirror {
            margin: self.margin(),
            scale: self.scale(),
            learned: self.is_learned(),
        };
        mirror.serialize(to)
    }
}

impl<'de, M: Margin + Deserialize<'de>> Deserialize<'de> for MarginSoftmax<M> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let given = MarginSoftmaxMirror::<M>::deserialize(from)?;
        let new = if given.learned {
            Self::learned
        } else {
            Self::new
        };
        // It began at the margin's own scale, if that has one, and may have gone on from there.
        let initial = given.margin.own_scale().unwrap_or(given.scale);
        let mut loss = new(given.margin, initial).map_err(D::Error::custom)?;
        loss.set_scale(given.scale).map_err(D::Error::custom)?;
        Ok(loss)
    }
}

/// The line or the table. A line is read as an enum too: formats that have text take it for the name of a variant without
/// content.
impl<'de> Deserialize<'de> for AnyLoss {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct LineOrTable;
        impl<'de> Visitor<'de> for LineOrTable {
            type Value = AnyLoss;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a loss, as in \"arcface:s=64,m=0.5\"")
            }

            fn visit_enum<E: EnumAccess<'de>>(self, choice: E) -> Result<AnyLoss, E::Error> {
                let (Name(name), content) = choice.variant()?;
                AnyLoss::under_name(&name, content)
            }
        }
        from.deserialize_enum("AnyLoss", AnyLoss::NAMES, LineOrTable)
    }
}

/// A name, or a whole line; in formats without names, the number of the loss.
struct Name(String);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct NameOrNumber;
        impl Visitor<'_> for NameOrNumber {
            type Value = Name;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a loss")
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Name, E> {
                Ok(Name(name.to_owned()))
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Name, E> {
                let name = usize::try_from(number)
                    .ok()
                    .and_then(|number| AnyLoss::NAMES.get(number));
                name.map(|&name| Name(name.to_owned()))
                    .ok_or_else(|| E::invalid_value(Unexpected::Unsigned(number), &self))
            }
        }
        from.deserialize_identifier(NameOrNumber)
    }
}

/// What stands under the name of a loss: its table, or nothing, where the name alone is the line.
pub(crate) fn under_name<'de, L, V>(name: &str, content: V) -> Result<L, V::Error>
where
    L: Deserialize<'de> + FromStr<Err = Error>,
    V: VariantAccess<'de>,
{
    /// Notes that there is a table.
    struct Table<'a, L>(&'a Cell<bool>, PhantomData<L>);
    impl<'de, L: Deserialize<'de>> DeserializeSeed<'de> for Table<'_, L> {
        type Value = L;

        fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<L, D::Error> {
            self.0.set(true);
            L::deserialize(from)
        }
    }

    let found = Cell::new(false);
    match content.newtype_variant_seed(Table(&found, PhantomData)) {
        Err(_) if !found.get() => name.parse().map_err(V::Error::custom),
        loss => loss,
    }
}

mirror!(
    InterTopK as "InterTopK" {
        k: usize = InterTopK::k,
        margin: f64 = InterTopK::margin,
        #[serde(default)]
        cosine: bool = |penalty| !penalty.is_angular(),
    },
    |given| {
        let new = if given.cosine {
            InterTopK::cosine
        } else {
            InterTopK::angular
        };
        new(given.k, given.margin)
    }
);

#[derive(Serialize, Deserialize)]
#[serde(rename = "Objective", expecting = "Objective", deny_unknown_fields)]
struct ObjectiveMirror {
    classifier: AnyLoss,
    #[serde(default)]
    lambda: Option<f64>,
    #[serde(default)]
    sub_centers: Option<usize>,
    #[serde(default)]
    label_smoothing: f64,
    #[serde(default)]
    focal: f64,
    #[serde(default)]
    log_priors: Vec<f64>,
    #[serde(default)]
    inter_topk: Option<InterTopK>,
}

impl ObjectiveMirror {
    fn build(self) -> Result<Objective, Error> {
        let classifier = Composed::new(self.classifier)
            .with_sub_centers(self.sub_centers.unwrap_or(1))?
            .with_label_smoothing(self.label_smoothing)?
            .with_focal(self.focal)?
            .with_log_priors(self.log_priors)?;
        let classifier = match self.inter_topk {
            None => classifier,
            Some(penalty) => classifier.with_inter_topk(penalty)?,
        };
        let objective = Objective::new(classifier)?;
        match self.lambda {
            None => Ok(objective),
            Some(lambda) => objective.with_center(lambda),
        }
    }
}

impl Serialize for Objective {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mirror = ObjectiveMirror {
            classifier: self.classifier().loss().clone(),
            lambda: self.lambda(),
            sub_centers: Some(self.classifier().sub_centers()),
            label_smoothing: self.classifier().label_smoothing(),
            focal: self.classifier().focal(),
            log_priors: self.classifier().log_priors().to_vec(),
            inter_topk: self.classifier().inter_topk().copied(),
        };
        mirror.serialize(to)
    }
}

/// The line or the table.
impl<'de> Deserialize<'de> for Objective {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct LineOrTable;
        impl<'de> Visitor<'de> for LineOrTable {
            type Value = Objective;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an objective, as in \"softmax+center:lambda=0.003\"")
            }

            fn visit_str<E: serde::de::Error>(self, line: &str) -> Result<Objective, E> {
                line.parse().map_err(E::custom)
            }

            fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<Objective, M::Error> {
                let mirror = ObjectiveMirror::deserialize(MapAccessDeserializer::new(map))?;
                mirror.build().map_err(M::Error::custom)
            }
        }
        if from.is_human_readable() {
            from.deserialize_any(LineOrTable)
        } else {
            let mirror = ObjectiveMirror::deserialize(from)?;
            mirror.build().map_err(D::Error::custom)
        }
    }
}
