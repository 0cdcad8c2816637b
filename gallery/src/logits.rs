//! Target logit curves: what every margin makes of the target's angle, and with which slope.

use std::f64::consts::PI;

use margin_losses::TargetLogit;
use margin_losses::{ASoftmax, Angle, ArcFace, CombinedMargin, CosFace, Error, Margin, PastPi};

use crate::Context;
use crate::chart::{Anchor, Axis, Frame, GREY, LegendEntry, Panel, Sheet, Stroke, Swatch};
use crate::palette::Family;

/// The paper's margin of ArcFace, in radians.
const MARGIN: f64 = 0.5;

/// The cosine itself, which softmax, modified softmax and NormFace have for their target.
#[derive(Debug)]
struct Cosine;

impl Margin for Cosine {
    fn target_logit(&self, target: &margin_losses::Target) -> TargetLogit {
        let angle = target.angle();
        TargetLogit::from_cosine_slope(angle.cos(), 1.0, angle)
    }
}

struct Curve {
    margin: Box<dyn Margin>,
    text: &'static str,
    stroke: Stroke,
}

fn curve(margin: impl Margin + 'static, text: &'static str, stroke: Stroke) -> Curve {
    Curve {
        margin: Box::new(margin),
        text,
        stroke,
    }
}

pub(crate) fn draw(_: &Context<'_>) -> Result<Sheet, String> {
    figure().map_err(|error| error.to_string())
}

fn figure() -> Result<Sheet, Error> {
    let a_softmax = Family::ASoftmax.stroke();
    let all = [
        curve(
            Cosine,
            "cos θ: softmax, NormFace",
            Family::NormFace.stroke(),
        ),
        curve(
            ASoftmax::new(4)?,
            "A-Softmax, m = 4, λ = 0",
            Stroke {
                dash: "2 3",
                ..a_softmax
            },
        ),
        curve(
            ASoftmax::new(4)?.with_lambda(5.0)?,
            "A-Softmax, m = 4, λ = 5",
            a_softmax,
        ),
        curve(
            CosFace::new(1.0, 0.35)?,
            "CosFace, m = 0.35",
            Family::CosFace.stroke(),
        ),
        curve(
            ArcFace::new(1.0, MARGIN)?.with_past_pi(PastPi::Paper),
            "ArcFace, m = 0.5",
            Family::ArcFace.stroke(),
        ),
        curve(
            CombinedMargin::new(1.0, 1.0, 0.3, 0.2)?,
            "combined (1, 0.3, 0.2)",
            Family::Combined.stroke(),
        ),
    ];
    let arc_face = ArcFace::new(1.0, MARGIN)?;
    let rule = |rule, text, stroke| curve(arc_face.with_past_pi(rule), text, stroke);
    let rules = [
        rule(PastPi::Paper, "Paper: cos(θ + m)", Family::ArcFace.stroke()),
        rule(
            PastPi::CosineTail,
            "CosineTail: cos θ − 2 sin(m/2)",
            Stroke::solid("#0072b2", 1.6),
        ),
        rule(
            PastPi::JoinedTail,
            "JoinedTail: cos θ − (1 − cos m)",
            Stroke::new("#009e73", 2.0, "5 2"),
        ),
        rule(
            PastPi::LinearTail,
            "LinearTail: cos θ − m sin m",
            Stroke::new("#882255", 2.0, "8 3"),
        ),
        rule(
            PastPi::SmoothTail,
            "SmoothTail: −2 − cos(θ + m)",
            Stroke::new("#332288", 2.4, "2.5 2.5"),
        ),
        rule(
            PastPi::EasyMargin,
            "EasyMargin: cos θ past 90°",
            Stroke::new("#777777", 1.8, "9 3 2 3"),
        ),
    ];

    let description = "The target's logit and its slope against the target's angle, for every margin, and for the six \
                       rules of ArcFace at wide angles";
    let mut sheet = Sheet::new(760.0, 752.0, description);
    let degrees = |low: f64| {
        let step = if low > 0.0 { 15.0 } else { 30.0 };
        Axis::linear(low, 180.0, step).label("angle to the target θ (degrees)")
    };
    let left = |top| Frame {
        left: 62.0,
        top,
        width: 300.0,
        height: 220.0,
    };
    let right = |top| Frame {
        left: 444.0,
        ..left(top)
    };

    sheet.title([62.0, 20.0], Anchor::Start, "Every margin");
    let y = Axis::linear(-3.0, 1.0, 1.0).label("target logit ψ(θ)");
    let mut panel = Panel::new(left(30.0), degrees(0.0), y);
    panel.note(
        [92.0, -2.82],
        [8.0, -2.0],
        Anchor::Start,
        GREY,
        "λ = 0 goes on to −7",
    );
    plot(&mut sheet, panel, &all, TargetLogit::value);
    let y = Axis::linear(-4.0, 1.0, 1.0).label("slope dψ/dθ (per radian)");
    plot(
        &mut sheet,
        Panel::new(right(30.0), degrees(0.0), y),
        &all,
        TargetLogit::angle_slope,
    );
    let bottom = sheet.legend([62.0, 304.0], 3, 232.0, &legend(&all));

    let top = bottom + 44.0;
    sheet.title(
        [62.0, top - 10.0],
        Anchor::Start,
        "ArcFace's rules at wide angles (θ + m = π is 151.4° for m = 0.5)",
    );
    let joint = (PI - MARGIN).to_degrees();
    let mut panels = [
        Panel::new(
            left(top),
            degrees(75.0),
            Axis::linear(-1.5, 0.5, 0.5).label("target logit ψ(θ)"),
        ),
        Panel::new(
            right(top),
            degrees(75.0),
            Axis::linear(-1.5, 1.0, 0.5).label("slope dψ/dθ (per radian)"),
        ),
    ];
    for panel in &mut panels {
        panel.line(
            &[[joint, -9.0], [joint, 9.0]],
            Stroke::new(GREY, 1.0, "3 3"),
        );
    }
    let [mut value, slope] = panels;
    value.note([joint, 0.5], [-6.0, 18.0], Anchor::End, GREY, "π − m");
    plot(&mut sheet, value, &rules, TargetLogit::value);
    plot(&mut sheet, slope, &rules, TargetLogit::angle_slope);
    sheet.legend([62.0, top + 274.0], 2, 350.0, &legend(&rules));
    Ok(sheet)
}

fn plot(sheet: &mut Sheet, mut panel: Panel, curves: &[Curve], of: fn(TargetLogit) -> f64) {
    for Curve { margin, stroke, .. } in curves {
        panel.line(&samples(margin.as_ref(), of), *stroke);
    }
    panel.finish(sheet);
}

/// The curve in steps of a tenth of a degree, interrupted where it jumps.
fn samples(margin: &dyn Margin, of: fn(TargetLogit) -> f64) -> Vec<[f64; 2]> {
    let mut points: Vec<[f64; 2]> = Vec::new();
    for tenth in 0..=1800 {
        let degrees = f64::from(tenth) / 10.0;
        let angle = Angle::from_radians(degrees.to_radians());
        let value = of(margin.target_logit(&angle.into()));
        // No slope of these curves exceeds 16 a radian.
        if points
            .last()
            .is_some_and(|&[_, last]| (value - last).abs() > 0.05)
        {
            points.push([degrees, f64::NAN]);
        }
        points.push([degrees, value]);
    }
    points
}

fn legend(curves: &[Curve]) -> Vec<LegendEntry> {
    curves
        .iter()
        .map(|curve| LegendEntry::new(Swatch::Line(curve.stroke), curve.text))
        .collect()
}

#[cfg(test)]
mod tests {
    use margin_losses::{ArcFace, PastPi, TargetLogit};

    use super::samples;

    #[test]
    fn curves_break_at_their_jumps_only() {
        let breaks = |rule| {
            let margin = ArcFace::new(1.0, 0.5).unwrap().with_past_pi(rule);
            let points = samples(&margin, TargetLogit::value);
            points.iter().filter(|[_, value]| value.is_nan()).count()
        };
        assert_eq!(
            [
                PastPi::Paper,
                PastPi::SmoothTail,
                PastPi::CosineTail,
                PastPi::JoinedTail,
                PastPi::LinearTail,
                PastPi::EasyMargin
            ]
            .map(breaks),
            [0, 0, 0, 0, 1, 1]
        );
    }
}
