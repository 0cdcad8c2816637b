//! A loss that is chosen at run time, by its name.

use core::fmt;
use core::str::FromStr;

use crate::a_softmax::ASoftmax;
use crate::ada_face::AdaFace;
use crate::adaptive_face::AdaptiveFace;
use crate::am_softmax::AmSoftmax;
use crate::arc_face::ArcFace;
use crate::center::CenterLoss;
use crate::combined::CombinedMargin;
use crate::cos_face::CosFace;
use crate::curricular_face::CurricularFace;
use crate::error::Error;
use crate::float::Float;
use crate::loss::MarginLoss;
use crate::mag_face::MagFace;
use crate::modified_softmax::ModifiedSoftmax;
use crate::mv_softmax::MvSoftmax;
use crate::norm_face::{CContrastive, CTriplet, NormFace};
use crate::request::Request;
use crate::softmax::SoftmaxLoss;
use crate::sphere_face2::SphereFace2;
use crate::text::{self, Given, Named};
use crate::uni_face::UniFace;
use crate::varying_margin::VaryingMargin;

/// Defines the enum and everything that goes over all its variants.
macro_rules! any_loss {
    ($($(#[$doc:meta])* $variant:ident($loss:ty)),+ $(,)?) => {
        /// Any loss of the crate that needs nothing but its parameters: what a command line or a configuration file chooses.
        ///
        /// As text, a loss is its name and its parameters. [`Display`](fmt::Display) writes the form that a shell takes
        /// without quotes; `arcface(s=64, m=0.5)` is read as well. Names are read in any case, with or without hyphens, and
        /// `scale` and `margin` for `s` and `m`. What is left out is the default, the paper's but for ArcFace's rule at wide angles.
        ///
        /// | text | loss |
        /// |---|---|
        /// | `softmax`, `softmax:bias=0/0.1/0.2` | [`SoftmaxLoss`], with one bias for each class |
        /// | `modified-softmax`, or `modified` | [`ModifiedSoftmax`] |
        /// | `center` | [`CenterLoss`]; the class weights are then the centers. Joined, `softmax+center`, it is an [`Objective`](crate::Objective) |
        /// | `a-softmax:m=4,lambda=0` | [`ASoftmax`]; λ is 0 unless it is given |
        /// | `normface:s=20`, `normface:s=10,learned` | [`NormFace`], with a scale that is fixed or learned. `s` has no default, but `s=learned` begins at the paper's 10 |
        /// | `c-contrastive:m=1`, `c-triplet:m=0.8` | [`CContrastive`], [`CTriplet`] |
        /// | `am-softmax:s=30,m=0.35` | [`AmSoftmax`] |
        /// | `cosface:s=64,m=0.35`, `cosface:s=64,m=0.4,filter=0.4` | [`CosFace`], with inter-class filtering or not; `arcface` likewise |
        /// | `arcface:s=64,m=0.5`, `arcface:s=64,m=0.5,past_pi=paper` | [`ArcFace`] and its rules [at wide angles](crate::PastPi) |
        /// | `arcface:s=30,m=0.1/0.2/0.3`; so for `cosface` and `am-softmax` | [`VaryingMargin`], with one margin for each class; a single class ends in the sign, `m=0.1/`. In tables it is `varying-arcface` |
        /// | `curricularface:s=64,m=0.5`, `curricularface:s=64,m=0.5,past_pi=linear-tail,momentum=0.1,t=0.3` | [`CurricularFace`]; t as it is, 0 to begin with |
        /// | `mv-softmax:s=32,m=0.35,t=0.2`, `mv-softmax:s=32,m=0.5,t=0.2,arc,fixed,easy` | [`MvSoftmax`] over CosFace's margin or ArcFace's, with fixed weights, with an easy margin |
        /// | `combined:s=64,m1=1,m2=0.3,m3=0.2` | [`CombinedMargin`]; a margin that is left out is none |
        /// | `sphereface2:s=40,m=0.4,t=3,lambda=0.7,b=14.3` | [`SphereFace2`]; b is 0 unless it is given, `arc` is type A, `undivided` is without 1/s |
        /// | `uniface:s=64,m=0.4,lambda=1,b=3.9`, `uniface:b=1/2/3` | [`UniFace`], with one threshold or one for each class |
        /// | `adaface:s=64,m=0.4,h=0.333,alpha=0.01`, `adaface:alpha=1,angle=clipped` | [`AdaFace`]; also `epsilon`, and `mean` and `deviation` of its statistics where they are no longer 20 and 100 |
        /// | `adaptiveface:s=30,m=0.3/0.35/0.4,lambda=70` | [`AdaptiveFace`], with the margins of the classes to begin with |
        /// | `magface:s=64,l_m=0.45,u_m=0.8,l_a=10,u_a=110,lambda_g=35` | [`MagFace`], also with `past_pi` |
        ///
        /// The scale of a loss that normalises its features belongs to the number of classes:
        /// [`guide::suggested_scale`](crate::guide::suggested_scale).
        ///
        /// [`JointLoss`](crate::JointLoss) borrows its centers, so what names it is an [`Objective`](crate::Objective), and
        /// [`MarginSoftmax`](crate::MarginSoftmax) has a margin of the caller's: neither is here.
        ///
        /// With the feature `serde` a configuration has either the line, `"arcface:s=64,m=0.5"`, or the table,
        /// `{ "arcface": { "scale": 64, "margin": 0.5 } }`. The table is what is saved.
        ///
        /// # Errors
        ///
        /// Reading a text gives [`Error::UnknownName`], [`Error::UnknownParameter`], [`Error::MissingParameter`] or
        /// [`Error::Unreadable`], which say what is known, and the error of the loss's constructor for a value out of range.
        ///
        /// # Examples
        ///
        /// ```
        /// use margin_losses::{AnyLoss, ArcFace, MarginLoss, Targets};
        /// use margin_losses::ndarray::array;
        ///
        /// let loss: AnyLoss = "arcface:s=32".parse()?;
        /// assert_eq!(loss, AnyLoss::from(ArcFace::new(32.0, 0.5)?));
        /// assert_eq!(loss.to_string(), "arcface:s=32,m=0.5");
        ///
        /// let (x, w) = (array![[1.0, 2.0]], array![[0.0, 1.0], [1.0, 0.0]]);
        /// let boxed: Box<dyn MarginLoss<f64>> = Box::new(loss);
        /// assert!(boxed.evaluate(x.view(), w.view(), &Targets::new(&[0]))?.loss() > 0.0);
        ///
        /// let error = "arcfase".parse::<AnyLoss>().unwrap_err();
        /// assert!(error.to_string().starts_with("there is no loss \"arcfase\", but there are softmax, modified-softmax,"));
        /// let error = "cosface:k=1".parse::<AnyLoss>().unwrap_err();
        /// assert_eq!(error.to_string(), "cosface has no parameter \"k\", but it has s, m, filter");
        /// # Ok::<(), margin_losses::Error>(())
        /// ```
        #[derive(Clone, Debug, PartialEq)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize))]
        #[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
        #[non_exhaustive]
        pub enum AnyLoss {
            $($(#[$doc])* $variant($loss)),+
        }

        impl AnyLoss {
            /// The names that are read, without their parameters.
            pub const NAMES: &'static [&'static str] = &[$(<$loss as Named>::NAME),+];

            fn get<A: Float>(&self) -> &dyn MarginLoss<A> {
                match self {
                    $(Self::$variant(loss) => loss),+
                }
            }

            fn get_mut<A: Float>(&mut self) -> &mut dyn MarginLoss<A> {
                match self {
                    $(Self::$variant(loss) => loss),+
                }
            }
        }

        #[cfg(feature = "serde")]
        impl AnyLoss {
            /// What a configuration has under this name.
            pub(crate) fn under_name<'de, V>(name: &str, content: V) -> Result<Self, V::Error>
            where
                V: serde::de::VariantAccess<'de>,
            {
                $(if text::means(name, <$loss as Named>::NAME) {
                    return crate::serialised::under_name(name, content).map(Self::$variant);
                })+
                let loss = name.parse().map_err(serde::de::Error::custom)?;
                content.unit_variant()?;
                Ok(loss)
            }
        }

        impl FromStr for AnyLoss {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self, Error> {
                if text::term(text).is_some() {
                    return Err(Error::Unreadable {
                        name: "loss",
                        found: text.to_owned(),
                        rule: "be one loss here, without a term; what is joined is an Objective",
                    });
                }
                let given = Given::new(text)?;
                $(if <$loss as Named>::is_meant(&given)
                    && let Some(loss) = text::read::<$loss>(&given)
                {
                    return loss.map(Self::$variant);
                })+
                Err(Error::UnknownName {
                    what: "loss",
                    found: given.name.to_owned(),
                    known: Self::NAMES,
                })
            }
        }

        impl fmt::Display for AnyLoss {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$variant(loss) => loss.fmt(f)),+
                }
            }
        }

        $(impl From<$loss> for AnyLoss {
            fn from(loss: $loss) -> Self {
                Self::$variant(loss)
            }
        })+
    };
}

any_loss! {
    /// `softmax`.
    Softmax(SoftmaxLoss),
    /// `modified-softmax`.
    ModifiedSoftmax(ModifiedSoftmax),
    /// `center`.
    Center(CenterLoss),
    /// `a-softmax`.
    ASoftmax(ASoftmax),
    /// `normface`.
    #[cfg_attr(feature = "serde", serde(rename = "normface"))]
    NormFace(NormFace),
    /// `am-softmax`.
    AmSoftmax(AmSoftmax),
    /// `cosface`.
    #[cfg_attr(feature = "serde", serde(rename = "cosface"))]
    CosFace(CosFace),
    /// `arcface`.
    #[cfg_attr(feature = "serde", serde(rename = "arcface"))]
    ArcFace(ArcFace),
    /// `combined`.
    Combined(CombinedMargin),
    /// `sphereface2`.
    #[cfg_attr(feature = "serde", serde(rename = "sphereface2"))]
    SphereFace2(SphereFace2),
    /// `uniface`.
    #[cfg_attr(feature = "serde", serde(rename = "uniface"))]
    UniFace(UniFace),
    /// `adaface`.
    #[cfg_attr(feature = "serde", serde(rename = "adaface"))]
    AdaFace(AdaFace),
    /// `adaptiveface`.
    #[cfg_attr(feature = "serde", serde(rename = "adaptiveface"))]
    AdaptiveFace(AdaptiveFace),
    /// `magface`.
    #[cfg_attr(feature = "serde", serde(rename = "magface"))]
    MagFace(MagFace),
    /// `am-softmax` with margins by class. Margins by row are printed, but not read.
    VaryingAmSoftmax(VaryingMargin<AmSoftmax>),
    /// `cosface`, likewise.
    #[cfg_attr(feature = "serde", serde(rename = "varying-cosface"))]
    VaryingCosFace(VaryingMargin<CosFace>),
    /// `arcface`, likewise.
    #[cfg_attr(feature = "serde", serde(rename = "varying-arcface"))]
    VaryingArcFace(VaryingMargin<ArcFace>),
    /// `mv-softmax`.
    MvSoftmax(MvSoftmax),
    /// `curricularface`.
    #[cfg_attr(feature = "serde", serde(rename = "curricularface"))]
    CurricularFace(CurricularFace),
    /// `c-contrastive`.
    CContrastive(CContrastive),
    /// `c-triplet`.
    CTriplet(CTriplet),
}

impl AnyLoss {
    /// What the loss learns; see [`MarginLoss::learnables`].
    #[must_use]
    pub fn learnables(&self) -> &[f64] {
        self.get::<f64>().learnables()
    }

    /// Replaces that; see [`MarginLoss::set_learnables`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn set_learnables(&mut self, values: &[f64]) -> Result<(), Error> {
        self.get_mut::<f64>().set_learnables(values)
    }

    /// The running statistics of the loss; see [`MarginLoss::statistics`].
    #[must_use]
    pub fn statistics(&self) -> &[f64] {
        self.get::<f64>().statistics()
    }

    /// Replaces them; see [`MarginLoss::set_statistics`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn set_statistics(&mut self, values: &[f64]) -> Result<(), Error> {
        self.get_mut::<f64>().set_statistics(values)
    }
}

impl<A: Float> MarginLoss<A> for AnyLoss {
    fn run(&self, request: Request<'_, A>) -> Result<(), Error> {
        self.get().run(request)
    }

    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get::<A>().describe(f)
    }

    fn learnables(&self) -> &[f64] {
        self.learnables()
    }

    fn set_learnables(&mut self, values: &[f64]) -> Result<(), Error> {
        self.set_learnables(values)
    }

    fn statistics(&self) -> &[f64] {
        self.statistics()
    }

    fn set_statistics(&mut self, values: &[f64]) -> Result<(), Error> {
        self.set_statistics(values)
    }
}
