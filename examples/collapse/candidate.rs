//! The losses and cures that are compared.

use margin_losses::schedule::MarginWarmUp;
use margin_losses::{AnyLoss, ArcFace, CombinedMargin, CosFace, Error, NormFace, PastPi, guide};

/// A step of how many, from 0 on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Progress {
    pub(crate) step: u64,
    pub(crate) steps: u64,
}

/// A line of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    pub(crate) name: &'static str,
    /// The loss of a step, for so many classes and at this scale.
    pub(crate) loss: fn(usize, f64, Progress) -> Result<AnyLoss, Error>,
    /// Whether the mean of all inputs is subtracted from each.
    pub(crate) centred: bool,
}

const MARGIN: f64 = 0.5;

fn arc_face(scale: f64, margin: f64, rule: PastPi) -> Result<AnyLoss, Error> {
    Ok(ArcFace::new(scale, margin)?.with_past_pi(rule).into())
}

/// The share of a warm-up over the first half of the steps that is done.
fn warm(progress: Progress) -> f64 {
    (progress.step as f64 / (0.5 * progress.steps as f64)).min(1.0)
}

fn guided(classes: usize) -> Result<f64, Error> {
    guide::suggested_scale(classes, 0.9999)
}

pub(crate) fn candidates() -> Vec<Candidate> {
    let plain = |name, loss| Candidate {
        name,
        loss,
        centred: false,
    };
    vec![
        plain("ArcFace, `paper`", |_, s, _| {
            arc_face(s, MARGIN, PastPi::Paper)
        }),
        plain("`linear-tail`", |_, s, _| {
            arc_face(s, MARGIN, PastPi::LinearTail)
        }),
        plain("`joined-tail`", |_, s, _| {
            arc_face(s, MARGIN, PastPi::JoinedTail)
        }),
        plain("`smooth-tail`", |_, s, _| {
            arc_face(s, MARGIN, PastPi::SmoothTail)
        }),
        plain("`easy-margin`", |_, s, _| {
            arc_face(s, MARGIN, PastPi::EasyMargin)
        }),
        plain("`cosine-tail`, the default", |_, s, _| {
            arc_face(s, MARGIN, PastPi::CosineTail)
        }),
        plain("combined (1, 0.3, 0.2)", |_, s, _| {
            Ok(CombinedMargin::new(s, 1.0, 0.3, 0.2)?.into())
        }),
        plain("CosFace, m = 0.35", |_, s, _| {
            Ok(CosFace::new(s, 0.35)?.into())
        }),
        plain("NormFace", |_, s, _| Ok(NormFace::new(s)?.into())),
        Candidate {
            name: "`paper`, inputs centred",
            loss: |_, s, _| arc_face(s, MARGIN, PastPi::Paper),
            centred: true,
        },
        plain("`paper`, the guide's s", |classes, _, _| {
            arc_face(guided(classes)?, MARGIN, PastPi::Paper)
        }),
        plain("`paper`, m warmed up", |_, s, progress| {
            let margin = MarginWarmUp::new(0.0, MARGIN, progress.steps / 2)?;
            arc_face(s, margin.at(progress.step), PastPi::Paper)
        }),
        plain("`paper`, s warmed up", |classes, s, progress| {
            let from = guided(classes)?.min(s);
            arc_face(from + warm(progress) * (s - from), MARGIN, PastPi::Paper)
        }),
        plain("`cosine-tail`, the guide's s", |classes, _, _| {
            arc_face(guided(classes)?, MARGIN, PastPi::CosineTail)
        }),
        plain("`cosine-tail`, m warmed up", |_, s, progress| {
            let margin = MarginWarmUp::new(0.0, MARGIN, progress.steps / 2)?;
            arc_face(s, margin.at(progress.step), PastPi::CosineTail)
        }),
    ]
}
