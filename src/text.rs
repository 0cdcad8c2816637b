//! Losses and rules as a line of text, for command lines, configuration files and logs.
//!
//! A loss is its name and its parameters: `arcface:s=64,m=0.5`, or `arcface(s=64, m=0.5)`. The first form needs no quotes
//! in a shell, and is the one that is printed. Names are read in any case, with or without hyphens and underscores.

use core::fmt;
use core::str::FromStr;

use crate::a_softmax::ASoftmax;
use crate::ada_face::{AdaFace, TurnedAngle};
use crate::adaptive_face::AdaptiveFace;
use crate::am_softmax::AmSoftmax;
use crate::arc_face::{ArcFace, PastPi};
use crate::center::CenterLoss;
use crate::combined::CombinedMargin;
use crate::cos_face::CosFace;
use crate::curricular_face::CurricularFace;
use crate::error::Error;
use crate::inter_topk::InterTopK;
use crate::mag_face::MagFace;
use crate::modified_softmax::ModifiedSoftmax;
use crate::mv_softmax::MvSoftmax;
use crate::norm_face::{CContrastive, CTriplet, NormFace};
use crate::request::Composition;
use crate::softmax::SoftmaxLoss;
use crate::sphere_face2::SphereFace2;
use crate::targets::Reduction;
use crate::uni_face::UniFace;
use crate::varying_margin::{OneMargin, VaryingMargin};

/// How many biases or margins are written out in a log.
pub(crate) const NUMBERS_IN_A_LOG: usize = 16;

/// A loss that a line of text can name.
pub(crate) trait Named: Sized {
    /// The canonical name.
    const NAME: &'static str;
    /// The name that is written, if that is shared with another loss.
    const WRITTEN: &'static str = Self::NAME;
    /// Its parameters, in the order in which they are printed.
    const PARAMETERS: &'static [&'static str];

    /// Whether, of the losses that share a name, this one is meant.
    fn is_meant(_: &Given<'_>) -> bool {
        true
    }

    /// From the parameters that were given; the others have the defaults of the paper, where it has some.
    fn read(given: &Given<'_>) -> Result<Self, Error>;

    /// Writes every parameter, but for options that are the default.
    fn write(&self, to: &mut Writer<'_, '_>) -> fmt::Result;
}

/// A name and parameters, taken apart.
#[derive(Debug)]
pub(crate) struct Given<'t> {
    pub(crate) name: &'t str,
    /// Keys and values; a key on its own has an empty value.
    parameters: Vec<(&'t str, &'t str)>,
}

impl<'t> Given<'t> {
    pub(crate) fn new(text: &'t str) -> Result<Self, Error> {
        let malformed = || Error::Unreadable {
            name: "loss",
            found: text.to_owned(),
            rule: "be a name and its parameters, as in arcface:s=64,m=0.5",
        };
        let (name, list) = if let Some((name, list)) = text.split_once('(') {
            let list = list.trim_end().strip_suffix(')').ok_or_else(malformed)?;
            (name, list)
        } else {
            text.split_once(':').unwrap_or((text, ""))
        };
        let parameters: Vec<(&str, &str)> = match list.trim() {
            "" => Vec::new(),
            list => list
                .split(',')
                .map(|parameter| parameter.split_once('=').unwrap_or((parameter, "")))
                .map(|(key, value)| (key.trim(), value.trim()))
                .collect(),
        };
        let name = name.trim();
        if name.contains(['=', ',']) || parameters.iter().any(|(key, _)| key.is_empty()) {
            return Err(malformed());
        }
        Ok(Self { name, parameters })
    }

    /// Refuses parameters that the loss does not have, and those that are given twice.
    fn check(&self, loss: &'static str, known: &'static [&'static str]) -> Result<(), Error> {
        for (index, &(key, _)) in self.parameters.iter().enumerate() {
            let Some(name) = known.iter().find(|name| means(key, name)) else {
                return Err(Error::UnknownParameter {
                    loss,
                    found: key.to_owned(),
                    known,
                });
            };
            if self.parameters[..index]
                .iter()
                .any(|(earlier, _)| means(earlier, name))
            {
                return Err(Error::Unreadable {
                    name,
                    found: key.to_owned(),
                    rule: "be given once",
                });
            }
        }
        Ok(())
    }

    /// The same without a parameter.
    fn without(&self, name: &str) -> Self {
        let others = self.parameters.iter().filter(|(key, _)| !means(key, name));
        Self {
            name: self.name,
            parameters: others.copied().collect(),
        }
    }

    /// The text of a parameter's value.
    fn get(&self, name: &str) -> Option<&'t str> {
        let mut all = self.parameters.iter();
        all.find(|(key, _)| means(key, name))
            .map(|&(_, value)| value)
    }

    fn parsed<T: FromStr>(
        &self,
        name: &'static str,
        rule: &'static str,
    ) -> Result<Option<T>, Error> {
        let Some(text) = self.get(name) else {
            return Ok(None);
        };
        text.parse().map(Some).map_err(|_| Error::Unreadable {
            name,
            found: text.to_owned(),
            rule,
        })
    }

    fn number(&self, name: &'static str) -> Result<Option<f64>, Error> {
        self.parsed(name, "be a number")
    }

    /// One number for each class.
    fn list(&self, name: &'static str) -> Result<Option<Vec<f64>>, Error> {
        self.numbers(name, "be one number for each class, as in 0/0.5/-1")
    }

    /// Whether a parameter is a list, as in 0.1/0.2; a list of one number ends in the sign.
    fn is_list(&self, name: &str) -> bool {
        self.get(name).is_some_and(|text| text.contains('/'))
    }

    /// A list of numbers.
    fn numbers(&self, name: &'static str, rule: &'static str) -> Result<Option<Vec<f64>>, Error> {
        let Some(text) = self.get(name) else {
            return Ok(None);
        };
        let entries = text.split_terminator('/').map(|entry| entry.trim().parse());
        let numbers: Result<Vec<f64>, _> = entries.collect();
        numbers.map(Some).map_err(|_| Error::Unreadable {
            name,
            found: text.to_owned(),
            rule,
        })
    }

    /// One margin for each class.
    fn class_margins(&self, loss: &'static str) -> Result<Vec<f64>, Error> {
        let rule = "be one margin for each class, as in 0.1/0.2/0.3";
        self.numbers("m", rule)?.ok_or(Error::MissingParameter {
            loss,
            name: "m",
            example: "m=0.1/0.2/0.3, one margin for each class",
        })
    }

    /// `name` on its own, or `name=true`.
    fn flag(&self, name: &'static str) -> Result<bool, Error> {
        match self.get(name) {
            Some("") => Ok(true),
            _ => Ok(self.parsed(name, "be true or false")?.unwrap_or(false)),
        }
    }
}

/// Writes parameters, each after the mark that it needs.
pub(crate) struct Writer<'a, 'f> {
    to: &'a mut fmt::Formatter<'f>,
    mark: char,
    /// What stands in the place of the margin.
    margins: Option<&'a str>,
}

impl<'a, 'f> Writer<'a, 'f> {
    fn new(to: &'a mut fmt::Formatter<'f>) -> Self {
        Self {
            to,
            mark: ':',
            margins: None,
        }
    }

    fn parameter(&mut self, name: &str, value: impl fmt::Display) -> fmt::Result {
        let mark = core::mem::replace(&mut self.mark, ',');
        write!(self.to, "{mark}{name}={value}")
    }

    fn number(&mut self, name: &str, value: f64) -> fmt::Result {
        self.parameter(name, Number(value))
    }

    fn option(&mut self, name: &str, value: Option<f64>) -> fmt::Result {
        value.map_or(Ok(()), |value| self.number(name, value))
    }

    /// The margin m, unless something stands in its place.
    fn margin(&mut self, value: f64) -> fmt::Result {
        match self.margins {
            None => self.number("m", value),
            Some(margins) => self.parameter("m", margins),
        }
    }

    fn flag(&mut self, name: &str) -> fmt::Result {
        let mark = core::mem::replace(&mut self.mark, ',');
        write!(self.to, "{mark}{name}")
    }
}

/// The shortest decimal number that reads back as the same bits.
struct Number(f64);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(value) = *self;
        if value == 0.0 || (1e-4..1e9).contains(&value.abs()) {
            write!(f, "{value}")
        } else {
            write!(f, "{value:e}")
        }
    }
}

/// Numbers with a sign between them.
struct Numbers<'a>(&'a [f64]);

impl fmt::Display for Numbers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, &entry) in self.0.iter().enumerate() {
            f.write_str(if index == 0 { "" } else { "/" })?;
            Number(entry).fmt(f)?;
        }
        Ok(())
    }
}

/// The margins of the classes. The sign tells a list of one from a margin for all.
struct ClassMargins<'a>(&'a [f64]);

impl fmt::Display for ClassMargins<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Numbers(self.0).fmt(f)?;
        f.write_str(if self.0.len() == 1 { "/" } else { "" })
    }
}

/// Whether a user who wrote `word` meant `name`.
pub(crate) fn means(word: &str, name: &str) -> bool {
    let long = match name {
        "s" => "scale",
        "m" => "margin",
        "modified-softmax" => "modified",
        other => other,
    };
    plain(word).eq(plain(name)) || plain(word).eq(plain(long))
}

fn plain(word: &str) -> impl Iterator<Item = char> {
    word.chars()
        .filter(|letter| !matches!(letter, '-' | '_' | ' '))
        .flat_map(char::to_lowercase)
}

/// The loss that classifies and the term that is added to it, if there is one: `softmax` and `center:lambda=0.003`.
pub(crate) fn term(text: &str) -> Option<(&str, &str)> {
    // A plus sign may also belong to a number.
    let is_name = |rest: &str| rest.trim_start().starts_with(char::is_alphabetic);
    text.match_indices('+')
        .map(|(position, _)| (&text[..position], &text[position + 1..]))
        .find(|(_, rest)| is_name(rest))
}

/// The center term.
pub(crate) fn write_center(lambda: f64, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "+{}", CenterLoss::NAME)?;
    Writer::new(f).number("lambda", lambda)
}

/// Writes what is composed with a loss, each as a term.
pub(crate) fn write_composition(
    composition: &Composition<'_>,
    f: &mut fmt::Formatter<'_>,
) -> fmt::Result {
    let Composition {
        sub_centers,
        smoothing,
        focal,
        log_priors,
        inter_topk,
    } = *composition;
    let mut term =
        |name: &str, key: &str, value: &dyn fmt::Display| write!(f, "+{name}:{key}={value}");
    if sub_centers != 1 {
        term(SUB_CENTERS, "k", &sub_centers)?;
    }
    if smoothing != 0.0 {
        term(SMOOTHING, "epsilon", &Number(smoothing))?;
    }
    if focal != 0.0 {
        term(FOCAL, "gamma", &Number(focal))?;
    }
    if !log_priors.is_empty() {
        term(PRIORS, "log", &Numbers(log_priors))?;
    }
    if let Some(penalty) = inter_topk {
        write!(f, "+{INTER_TOPK}")?;
        let mut to = Writer::new(f);
        to.parameter("k", penalty.k())?;
        to.number("m", penalty.margin())?;
        if !penalty.is_angular() {
            to.flag("cosine")?;
        }
    }
    Ok(())
}

const SUB_CENTERS: &str = "subcenters";
const SMOOTHING: &str = "smoothing";
const FOCAL: &str = "focal";
const PRIORS: &str = "priors";
const INTER_TOPK: &str = "intertopk";
const TERMS: &[&str] = &[
    SUB_CENTERS,
    SMOOTHING,
    FOCAL,
    PRIORS,
    INTER_TOPK,
    CenterLoss::NAME,
];

/// A term that is added to a loss.
pub(crate) enum Term {
    SubCenters(usize),
    Smoothing(f64),
    Focal(f64),
    LogPriors(Vec<f64>),
    InterTopK(InterTopK),
    /// λ, if it is given.
    Center(Option<f64>),
}

impl Term {
    pub(crate) fn read(term: &str) -> Result<Self, Error> {
        let given = Given::new(term)?;
        let known = TERMS.iter().find(|name| means(given.name, name));
        let missing = |loss, name, example| Error::MissingParameter {
            loss,
            name,
            example,
        };
        match known.copied() {
            Some(SUB_CENTERS) => {
                given.check(SUB_CENTERS, &["k"])?;
                let k = given.parsed("k", "be a whole number")?;
                Ok(Self::SubCenters(k.ok_or_else(|| {
                    missing(SUB_CENTERS, "k", "subcenters:k=3")
                })?))
            }
            Some(SMOOTHING) => {
                given.check(SMOOTHING, &["epsilon"])?;
                let epsilon = given.number("epsilon")?;
                Ok(Self::Smoothing(epsilon.ok_or_else(|| {
                    missing(SMOOTHING, "epsilon", "smoothing:epsilon=0.1")
                })?))
            }
            Some(FOCAL) => {
                given.check(FOCAL, &["gamma"])?;
                Ok(Self::Focal(given.number("gamma")?.unwrap_or(2.0)))
            }
            Some(PRIORS) => {
                given.check(PRIORS, &["log"])?;
                let log = given.list("log")?;
                Ok(Self::LogPriors(log.ok_or_else(|| {
                    missing(PRIORS, "log", "priors:log=-0.7/-2.3")
                })?))
            }
            Some(INTER_TOPK) => {
                given.check(INTER_TOPK, &["k", "m", "cosine"])?;
                let paper = InterTopK::default();
                let k = given.parsed("k", "be a whole number")?.unwrap_or(paper.k());
                let margin = given.number("m")?.unwrap_or(paper.margin());
                let new = if given.flag("cosine")? {
                    InterTopK::cosine
                } else {
                    InterTopK::angular
                };
                Ok(Self::InterTopK(new(k, margin)?))
            }
            Some(_) => {
                given.check(CenterLoss::NAME, &["lambda"])?;
                Ok(Self::Center(given.number("lambda")?))
            }
            None => Err(Error::UnknownName {
                what: "term",
                found: given.name.to_owned(),
                known: TERMS,
            }),
        }
    }
}

/// The loss, if the text names it.
pub(crate) fn read<L: Named>(given: &Given<'_>) -> Option<Result<L, Error>> {
    let is_named = means(given.name, L::NAME) || means(given.name, L::WRITTEN);
    is_named.then(|| {
        given.check(L::WRITTEN, L::PARAMETERS)?;
        L::read(given)
    })
}

/// The canonical line.
pub(crate) fn write<L: Named>(loss: &L, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str(L::WRITTEN)?;
    loss.write(&mut Writer::new(f))
}

macro_rules! as_text {
    ($($loss:ty),+) => {$(
        /// Reads the line that `Display` writes, and its variants: see [`AnyLoss`](crate::AnyLoss).
        impl FromStr for $loss {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self, Error> {
                let given = Given::new(text)?;
                read(&given).unwrap_or_else(|| {
                    Err(Error::UnknownName {
                        what: "loss",
                        found: given.name.to_owned(),
                        known: &[<Self as Named>::WRITTEN],
                    })
                })
            }
        }

        /// The loss as one line, which reads back as the same loss: see [`AnyLoss`](crate::AnyLoss).
        impl fmt::Display for $loss {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write(self, f)
            }
        }
    )+};
}
as_text!(
    SoftmaxLoss,
    ModifiedSoftmax,
    CenterLoss,
    ASoftmax,
    NormFace,
    CContrastive,
    CTriplet,
    AmSoftmax,
    CosFace,
    ArcFace,
    CombinedMargin,
    SphereFace2,
    UniFace,
    AdaFace,
    AdaptiveFace,
    MagFace,
    MvSoftmax,
    CurricularFace,
    VaryingMargin<AmSoftmax>,
    VaryingMargin<CosFace>,
    VaryingMargin<ArcFace>
);

impl Named for SoftmaxLoss {
    const NAME: &'static str = "softmax";
    const PARAMETERS: &'static [&'static str] = &["bias"];

    fn read(given: &Given<'_>) -> Result<Self, Error> {
        let bias = given.list("bias")?;
        bias.map_or_else(|| Ok(Self::new()), Self::with_bias)
    }

    fn write(&self, to: &mut Writer<'_, '_>) -> fmt::Result {
        self.bias()
            .map_or(Ok(()), |bias| to.parameter("bias", Numbers(bias)))
    }
}

impl Named for ModifiedSoftmax {
    const NAME: &'static str = "modified-softmax";
    const PARAMETERS: &'static [&'static str] = &[];

    fn read(_: &Given<'_>) -> Result<Self, Error> {
        Ok(Self::new())
    }

    fn write(&self, _: &mut Writer<'_, '_>) -> fmt::Result {
        Ok(())
    }
}

impl Named for CenterLoss {
    const NAME: &'static str = "center";
    const PARAMETERS: &'static [&'static str] = &[];

    fn read(_: &Given<'_>) -> Result<Self, Error> {
        Ok(Self::new())
    }

    fn write(&self, _: &mut Writer<'_, '_>) -> fmt::Result {
        Ok(())
    }
}

impl Named for ASoftmax {
    const NAME: &'static str = "a-softmax";
    const PARAMETERS: &'static [&'static str] = &["m", "lambda"];

    fn read(given: &Given<'_>) -> Result<Self, Error> {
        let m = given.parsed("m", "be a whole number")?.unwrap_or(4);
        Self::new(m)?.with_lambda(given.number("lambda")?.unwrap_or(0.0))
    }

    fn write(&self, to: &mut Writer<'_, '_>) -> fmt::Result {
        to.parameter("m", self.m())?;
        to.number("lambda", self.lambda())
    }
}

impl Named for NormFace {
    const NAME: &'static str = "normface";
    const PARAMETERS: &'static [&'static str] = &["s", "learned"];

    fn read(given: &Given<'_>) -> Result<Self, Error> {
        /// Where the paper begins.
        const INITIAL: f64 = 10.0;
        if given.get("s").is_some_and(|text| means(text, "learned")) {
            return Self::learned(INITIAL);
        }
        match (given.number("s")?, given.flag("learned")?) {
            (scale, true) => Self::learned(scale.unwrap_or(INITIAL)),
            (Some(scale), false) => Self::new(scale),
            (None, false) => Err(Error::MissingParameter {
                loss: Self::NAME,
                name: "s",
                example: "normface:s=20 or normface:s=learned",
            }),
        }
    }

    fn write(&self, to: &mut Writer<'_, '_>) -> fmt::Result {
        to.number("s", self.scale())?;
        if self.is_learned() {
            to.flag("learned")?;
        }
        Ok(())
    }
}

macro_rules! margin_alone {
    ($($loss:ty = $name:literal),+) => {$(
        impl Named for $loss {
            const NAME: &'static str = $name;
            const PARAMETERS: &'static [&'static str] = &["m"];

            fn read(given: &Given<'_>) -> Result<Self, Error> {
                Self::new(given.number("m")?.unwrap_or(Self::default().margin()))
            }

            fn write(&self, to: &mut Writer<'_, '_>) -> fmt::Result {
                to.number("m", self.margin())
            }
        }
    )+};
}
margin_alone!(CContrastive = "c-contrastive", CTriplet = "c-triplet");

macro_rules! scale_and_margin {
    ($loss:ty, $name:literal) => {
        impl Named for $loss {
            const NAME: &'static str = $name;
            const PARAMETERS: &'static [&'static str] = &["s", "m"];

            fn is_meant(given: &Given<'_>) -> bool {
                !given.is_list("m")
            }

            fn read(given: &Given<'_>) -> Result<Self, Error> {
                let paper = Self::default();
                Self::new(
                    given.number("s")?.unwrap_or(paper.scale()),
                    given.number("m")?.unwrap_or(paper.margin()),
                )
            }

            fn write(&self, to: &mut Writer<'_, '_>) -> fmt::Result {
                to.number("s", self.scale())?;
                to.margin(self.margin())
            }
        }
    };
}
scale_and_margin!(AmSoftmax, "am-softmax");

impl Named for CosFace {
    const NAME: &'static str = "cosface";
    const PARAMETERS: &'static [&'static str] = &["s", "m", "filter"];

    fn is_meant(given: &Given<'_>) -> bool {
        !given.is_list("m")
    }

    fn read(given: &Given<'_>) -> Result<Self, Error> {
        let paper = Self::default();
        let scale = given.number("s")?.unwrap_or(paper.scale());
        let margin = given.number("m")?.unwrap_or(paper.margin());
        let loss = Self::new(scale, margin)?;
        let filter = given.number("filter")?;
        filter.map_or(Ok(loss), |threshold| loss.with_class_filter(threshold))
    }

    fn write(&self, to: &mut Writer<'_, '_>) -> fmt::Result {
        to.number("s", self.scale())?;
        to.margin(self.margin())?;
        to.option("filter", self.class_filter())
    }
}

impl Named for ArcFace {
    const NAME: &'static str = "arcface";
    const PARAMETERS: &'static [&'static str] = &["s", "m", "past_pi", "filter"];

    fn is_meant(given: &Given<'_>) -> bool {
        !given.is_list("m")
    }

    fn read(given: &Given<'_>) -> Result<Self, Error> {
        let paper = Self::default();
        let scale = given.number("s")?.unwrap_or(paper.scale());
        let margin = given.number("m")?.unwrap_or(paper.margin());
        let past_pi = match given.get("past_pi") {
            None => paper.past_pi(),
            Some(text) => text.parse()?,
        };
        let loss = Self::new(scale, margin)?.with_past_pi(past_pi);
        let filter = given.number("filter")?;
        filter.map_or(Ok(loss), |threshold| loss.with_class_filter(threshold))
    }

    fn write(&self, to: &mut Writer<'_, '_>) -> fmt::Result {
        to.number("s", self.scale())?;
        to.margin(self.margin())?;
        if self.past_pi() != PastPi::default() {
            to.parameter("past_pi", self.past_pi())?;
        }
        to.option("filter", self.class_filter())
    }
}

impl Named for MvSoftmax {
    const NAME: &'static str = "mv-softmax";
    const PARAMETERS: &'static [&'static str] = &["s", "m", "t", "arc", "fixed", "easy"];

    fn read(given: &Given<'_>) -> Result<Self, Error> {
        let paper = Self::default();
        let arc = given.flag("arc")?;
        let (new, margin): (fn(f64, f64, f64) -> _, f64) = if arc {
            (Self::arc, ArcFace::default().margin())
        } else {
            (Self::new, paper.margin())
        };
        let scale = given.number("s")?.unwrap_or(paper.scale());
        let margin = given.number("m")?.unwrap_or(margin);
        let loss: Self = new(scale, margin, given.number("t")?.unwrap_or(paper.t()))?;
        Ok(loss
            .with_fixed_weights(given.flag("fixed")?)
            .with_easy_margin(given.flag("easy")?))
    }

    fn write(&self, to: &mut Writer<'_, '_>) -> fmt::Result {
        to.number("s", self.scale())?;
        to.number("m", self.margin())?;
        to.number("t", self.t())?;
        for (name, is_set) in [
            ("arc", self.is_arc()),
            ("fixed", self.has_fixed_weights()),
            ("easy", self.has_easy_margin()),
        ] {
            if is_set {
                to.flag(name)?;
            }
        }
        Ok(())
    }
}

impl Named for SphereFace2 {
    const NAME: &'static str = "sphereface2";
    const PARAMETERS: &'static [&'static str] = &["s", "m", "t", "lambda", "b", "arc", "undivided"];

    fn read(given: &Given<'_>) -> Result<Self, Error> {
        let paper = Self::default();
        let scale = given.number("s")?.unwrap_or(paper.scale());
        let margin = given.number("m")?.unwrap_or(paper.margin());
        let power = given.parsed("t", "be a whole number")?;
        let new = if given.flag("arc")? {
            Self::arc
        } else {
            Self::new
        };
        let loss = new(scale, margin)?
            .with_power(power.unwrap_or(paper.power()))?
            .with_lambda(given.number("lambda")?.unwrap_or(paper.lambda()))?
            .with_bias(given.number("b")?.unwrap_or(paper.bias()))?;
        Ok(if given.flag("undivided")? {
            loss.undivided()
        } else {
            loss
        })
    }

    fn write(&self, to: &mut Writer<'_, '_>) -> fmt::Result {
        to.number("s", self.scale())?;
        to.number("m", self.margin())?;
        to.parameter("t", self.power())?;
        to.number("lambda", self.lambda())?;
        to.number("b", self.bias())?;
        if self.is_arc() {
            to.flag("arc")?;
        }
        if self.is_undivided() {
            to.flag("undivided")?;
        }
        Ok(())
    }
}

impl Named for UniFace {
    const NAME: &'static str = "uniface";
    const PARAMETERS: &'static [&'static str] = &["s", "m", "lambda", "b"];

    fn read(given: &Given<'_>) -> Result<Self, Error> {
        let paper = Self::default();
        let scale = given.number("s")?.unwrap_or(paper.scale());
        let margin = given.number("m")?.unwrap_or(paper.margin());
        let lambda = given.number("lambda")?.unwrap_or(paper.lambda());
        let loss = Self::new(scale, margin)?.with_lambda(lambda)?;
        match given.list("b")?.as_deref() {
            None => Ok(loss),
            Some(&[bias]) => loss.with_bias(bias),
            Some(biases) => loss.with_class_biases(biases.to_vec()),
        }
    }

    fn write(&self, to: &mut Writer<'_, '_>) -> fmt::Result {
        to.number("s", self.scale())?;
        to.number("m", self.margin())?;
        to.number("lambda", self.lambda())?;
        to.parameter("b", Numbers(self.learnables()))
    }
}

impl Named for CurricularFace {
    const NAME: &'static str = "curricularface";
    const PARAMETERS: &'static [&'static str] = &["s", "m", "past_pi", "momentum", "t"];

    fn read(given: &Given<'_>) -> Result<Self, Error> {
        let paper = Self::default();
        let scale = given.number("s")?.unwrap_or(paper.scale());
        let margin = given.number("m")?.unwrap_or(paper.margin());
        let past_pi = match given.get("past_pi") {
            None => paper.past_pi(),
            Some(text) => text.parse()?,
        };
        Self::new(scale, margin)?
            .with_past_pi(past_pi)
            .with_momentum(given.number("momentum")?.unwrap_or(paper.momentum()))?
            .with_t(given.number("t")?.unwrap_or(paper.t()))
    }

    fn write(&self, to: &mut Writer<'_, '_>) -> fmt::Result {
        let paper = Self::default();
        let unless = |value: f64, paper: f64| (value != paper).then_some(value);
        to.number("s", self.scale())?;
        to.number("m", self.margin())?;
        if self.past_pi() != PastPi::Paper {
            to.parameter("past_pi", self.past_pi())?;
        }
        to.option("momentum", unless(self.momentum(), paper.momentum()))?;
        to.option("t", unless(self.t(), paper.t()))
    }
}

impl<L: OneMargin + Named> Named for VaryingMargin<L> {
    const NAME: &'static str = L::VARYING;
    const WRITTEN: &'static str = L::NAME;
    const PARAMETERS: &'static [&'static str] = L::PARAMETERS;

    fn is_meant(given: &Given<'_>) -> bool {
        given.is_list("m") || means(given.name, Self::NAME)
    }

    fn read(given: &Given<'_>) -> Result<Self, Error> {
        let margins = given.class_margins(Self::WRITTEN)?;
        Self::new(L::read(&given.without("m"))?, margins, false)
    }

    fn write(&self, to: &mut Writer<'_, '_>) -> fmt::Result {
        let margins = match self.margins() {
            margins if self.is_by_row() => format!("({} by row)", margins.len()),
            margins => ClassMargins(margins).to_string(),
        };
        self.loss().write(&mut Writer {
            to: to.to,
            mark: to.mark,
            margins: Some(&margins),
        })
    }
}

impl Named for CombinedMargin {
    const NAME: &'static str = "combined";
    const PARAMETERS: &'static [&'static str] = &["s", "m1", "m2", "m3"];

    fn read(given: &Given<'_>) -> Result<Self, Error> {
        // What is left out is no margin; the scale is ArcFace's.
        Self::new(
            given.number("s")?.unwrap_or(ArcFace::default().scale()),
            given.number("m1")?.unwrap_or(1.0),
            given.number("m2")?.unwrap_or(0.0),
            given.number("m3")?.unwrap_or(0.0),
        )
    }

    fn write(&self, to: &mut Writer<'_, '_>) -> fmt::Result {
        let (m1, m2, m3) = self.margins();
        to.number("s", self.scale())?;
        to.number("m1", m1)?;
        to.number("m2", m2)?;
        to.number("m3", m3)
    }
}

impl Named for AdaFace {
    const NAME: &'static str = "adaface";
    const PARAMETERS: &'static [&'static str] = &[
        "s",
        "m",
        "h",
        "alpha",
        "epsilon",
        "angle",
        "mean",
        "deviation",
    ];

    fn read(given: &Given<'_>) -> Result<Self, Error> {
        let paper = Self::default();
        let number = |name, default| Ok(given.number(name)?.unwrap_or(default));
        let mut loss = Self::new(number("s", paper.scale())?, number("m", paper.margin())?)?
            .with_concentration(number("h", paper.concentration())?)?
            .with_momentum(number("alpha", paper.momentum())?)?
            .with_epsilon(number("epsilon", paper.epsilon())?)?;
        if let Some(rule) = given.get("angle") {
            loss = loss.with_turned_angle(rule.parse()?);
        }
        let mean = number("mean", paper.mean())?;
        loss.set_statistics(&[mean, number("deviation", paper.deviation())?])?;
        Ok(loss)
    }

    fn write(&self, to: &mut Writer<'_, '_>) -> fmt::Result {
        let paper = Self::default();
        to.number("s", self.scale())?;
        to.number("m", self.margin())?;
        to.number("h", self.concentration())?;
        to.number("alpha", self.momentum())?;
        if self.epsilon() != paper.epsilon() {
            to.number("epsilon", self.epsilon())?;
        }
        if self.turned_angle() != TurnedAngle::Paper {
            to.parameter("angle", self.turned_angle())?;
        }
        if self.statistics() != paper.statistics() {
            to.number("mean", self.mean())?;
            to.number("deviation", self.deviation())?;
        }
        Ok(())
    }
}

impl Named for AdaptiveFace {
    const NAME: &'static str = "adaptiveface";
    const PARAMETERS: &'static [&'static str] = &["s", "m", "lambda"];

    fn read(given: &Given<'_>) -> Result<Self, Error> {
        // The paper's.
        let scale = given.number("s")?.unwrap_or(30.0);
        let loss = Self::new(scale, given.class_margins(Self::NAME)?)?;
        let lambda = given.number("lambda")?.unwrap_or(loss.lambda());
        loss.with_lambda(lambda)
    }

    fn write(&self, to: &mut Writer<'_, '_>) -> fmt::Result {
        to.number("s", self.scale())?;
        to.parameter("m", ClassMargins(self.margins()))?;
        to.number("lambda", self.lambda())
    }
}

impl Named for MagFace {
    const NAME: &'static str = "magface";
    const PARAMETERS: &'static [&'static str] =
        &["s", "l_m", "u_m", "l_a", "u_a", "lambda_g", "past_pi"];

    fn read(given: &Given<'_>) -> Result<Self, Error> {
        let paper = Self::default();
        let number = |name, default| Ok(given.number(name)?.unwrap_or(default));
        let ((l_m, u_m), (l_a, u_a)) = (paper.margins(), paper.norms());
        let scale = number("s", paper.scale())?;
        let loss = Self::new(scale, number("l_m", l_m)?, number("u_m", u_m)?)?
            .with_norms(number("l_a", l_a)?, number("u_a", u_a)?)?
            .with_regulariser(number("lambda_g", paper.regulariser())?)?;
        match given.get("past_pi") {
            None => Ok(loss),
            Some(rule) => Ok(loss.with_past_pi(rule.parse()?)),
        }
    }

    fn write(&self, to: &mut Writer<'_, '_>) -> fmt::Result {
        let ((l_m, u_m), (l_a, u_a)) = (self.margins(), self.norms());
        to.number("s", self.scale())?;
        to.number("l_m", l_m)?;
        to.number("u_m", u_m)?;
        to.number("l_a", l_a)?;
        to.number("u_a", u_a)?;
        to.number("lambda_g", self.regulariser())?;
        if self.past_pi() != PastPi::Paper {
            to.parameter("past_pi", self.past_pi())?;
        }
        Ok(())
    }
}

/// A rule that is one word.
macro_rules! words {
    ($rule:ty, $what:literal, [$($word:literal => $variant:ident),+]) => {
        /// Reads the word that `Display` writes, in any case, with or without hyphens and underscores.
        impl FromStr for $rule {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self, Error> {
                $(if means(text, $word) {
                    return Ok(Self::$variant);
                })+
                Err(Error::UnknownName {
                    what: $what,
                    found: text.to_owned(),
                    known: &[$($word),+],
                })
            }
        }

        impl fmt::Display for $rule {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(match self {
                    $(Self::$variant => $word),+
                })
            }
        }
    };
}
words!(PastPi, "rule past pi", [
    "cosine-tail" => CosineTail,
    "paper" => Paper,
    "linear-tail" => LinearTail,
    "joined-tail" => JoinedTail,
    "smooth-tail" => SmoothTail,
    "easy-margin" => EasyMargin
]);
words!(TurnedAngle, "rule for the turned angle", [
    "paper" => Paper,
    "clipped" => Clipped
]);
words!(Reduction, "reduction", [
    "mean" => Mean,
    "batch-mean" => BatchMean,
    "weighted-mean" => WeightedMean,
    "sum" => Sum,
    "none" => None
]);
