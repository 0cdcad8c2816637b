//! Decision boundaries of two classes in the plane of the two angles, and the margin that training demands.

use margin_losses::{ASoftmax, Angle, ArcFace, CombinedMargin, CosFace, Error, Margin, PastPi};

use crate::Context;
use crate::chart::{Anchor, Axis, Frame, INK, LegendEntry, Panel, Sheet, Stroke, Swatch};

/// Softmax without normalised weights: how much longer the first class's is, for example.
const NORM_RATIO: f64 = 1.5;
const FIRST: &str = "#2a8a7d";
const SECOND: &str = "#b04a5f";
const BETWEEN: &str = "#f0e442";
const CLASS_OPACITY: f64 = 0.35;
const MARGIN_OPACITY: f64 = 0.45;
/// The boundary once training is over, when the margin is left out.
const IN_USE: Stroke = Stroke::new("#000000", 1.2, "4 3");

/// How a panel's classes are told apart.
enum Rule {
    /// ‖w₁‖ cosθ₁ against ‖w₂‖ cosθ₂, with this ratio of the norms.
    Norms(f64),
    /// ψ of the target's angle against the cosine of the other's.
    Margin(Box<dyn Margin>),
}

impl Rule {
    /// The least θ₂ (in degrees) with which class 1 wins at this θ₁; above 180 if there is none.
    fn least_other(&self, first: f64) -> f64 {
        let logit = match self {
            Self::Norms(ratio) => ratio * first.to_radians().cos(),
            Self::Margin(margin) => {
                let angle = Angle::from_radians(first.to_radians());
                margin.target_logit(&angle.into()).value()
            }
        };
        if logit < -1.0 {
            181.0
        } else {
            logit.min(1.0).acos().to_degrees()
        }
    }
}

pub(crate) fn draw(_: &Context<'_>) -> Result<Sheet, String> {
    figure().map_err(|error| error.to_string())
}

fn figure() -> Result<Sheet, Error> {
    let margin = |margin: Box<dyn Margin>| Rule::Margin(margin);
    let panels = [
        ("softmax, ‖w₁‖ = 1.5 ‖w₂‖", Rule::Norms(NORM_RATIO)),
        ("modified softmax, NormFace", Rule::Norms(1.0)),
        ("A-Softmax, m = 4", margin(Box::new(ASoftmax::new(4)?))),
        (
            "CosFace, m = 0.35",
            margin(Box::new(CosFace::new(1.0, 0.35)?)),
        ),
        (
            "ArcFace, m = 0.5",
            margin(Box::new(
                ArcFace::new(1.0, 0.5)?.with_past_pi(PastPi::Paper),
            )),
        ),
        (
            "combined (1, 0.3, 0.2)",
            margin(Box::new(CombinedMargin::new(1.0, 1.0, 0.3, 0.2)?)),
        ),
    ];
    let description =
        "Decision boundaries of two classes in the plane of the angles to their weights, per loss";
    let mut sheet = Sheet::new(760.0, 588.0, description);
    let (left, top, side) = (62.0, 34.0, 204.0);
    for (index, (title, rule)) in panels.iter().enumerate() {
        let (column, row) = ((index % 3) as f64, (index / 3) as f64);
        let frame = Frame {
            left: left + column * (side + 28.0),
            top: top + row * (side + 50.0),
            width: side,
            height: side,
        };
        let mut x = Axis::linear(0.0, 180.0, 45.0).label("angle to class 1, θ₁ (degrees)");
        let mut y = Axis::linear(0.0, 180.0, 45.0).label("angle to class 2, θ₂ (degrees)");
        if index < 3 {
            x = x.unlabelled();
        }
        if index % 3 > 0 {
            y = y.unlabelled();
        }
        let mut panel = Panel::new(frame, x, y);
        match rule {
            Rule::Norms(ratio) => {
                regions(&mut panel, [rule, &Rule::Norms(1.0 / ratio)], [INK, INK]);
            }
            Rule::Margin(_) => {
                regions(&mut panel, [rule, rule], [FIRST, SECOND]);
                panel.line(&[[0.0, 0.0], [180.0, 180.0]], IN_USE);
            }
        }
        panel.finish(&mut sheet);
        sheet.title([frame.left, frame.top - 9.0], Anchor::Start, title);
    }
    let entries = [
        LegendEntry::new(Swatch::Box(FIRST, CLASS_OPACITY), "class 1"),
        LegendEntry::new(Swatch::Box(SECOND, CLASS_OPACITY), "class 2"),
        LegendEntry::new(Swatch::Box(BETWEEN, MARGIN_OPACITY), "margin: neither"),
        LegendEntry::new(Swatch::Box("#a19398", 1.0), "both"),
        LegendEntry::new(Swatch::Line(IN_USE), "in use"),
    ];
    sheet.legend([left, 556.0], 5, 146.0, &entries);
    Ok(sheet)
}

/// Yellow everywhere, then each class's region over it: where both claim a point, both colours show.
fn regions(panel: &mut Panel, [first, second]: [&Rule; 2], lines: [&'static str; 2]) {
    // Class 1 lies above its boundary, class 2 to the right of its own.
    let boundaries = [
        boundary(first, |own, other| [own, other]),
        boundary(second, |own, other| [other, own]),
    ];
    let corners = [
        [[180.0, 181.0], [0.0, 181.0]],
        [[181.0, 180.0], [181.0, 0.0]],
    ];
    panel.area(
        &[[0.0, 0.0], [180.0, 0.0], [180.0, 180.0], [0.0, 180.0]],
        BETWEEN,
        MARGIN_OPACITY,
    );
    let closed: Vec<Vec<[f64; 2]>> = boundaries
        .iter()
        .zip(corners)
        .map(|(boundary, corners)| boundary.iter().copied().chain(corners).collect())
        .collect();
    for region in &closed {
        panel.area(region, "#ffffff", 1.0);
    }
    for (region, colour) in closed.iter().zip([FIRST, SECOND]) {
        panel.area(region, colour, CLASS_OPACITY);
    }
    for (boundary, colour) in boundaries.iter().zip(lines) {
        panel.line(boundary, Stroke::solid(colour, 2.0));
    }
}

fn boundary(rule: &Rule, place: fn(f64, f64) -> [f64; 2]) -> Vec<[f64; 2]> {
    (0..=1800)
        .map(|tenth| f64::from(tenth) / 10.0)
        .map(|own| place(own, rule.least_other(own)))
        .collect()
}

#[cfg(test)]
mod tests {
    use margin_losses::{ASoftmax, ArcFace, CosFace, PastPi};

    use super::Rule;

    #[test]
    fn boundaries_are_those_of_the_papers() {
        let least = |rule: Rule, first: f64| rule.least_other(first);
        let arc_face = || {
            let loss = ArcFace::new(1.0, 0.5).unwrap();
            Rule::Margin(Box::new(loss.with_past_pi(PastPi::Paper)))
        };
        assert!((least(arc_face(), 40.0) - (40.0 + 0.5_f64.to_degrees())).abs() < 1e-9);
        assert!(
            (least(Rule::Margin(Box::new(ASoftmax::new(4).unwrap())), 20.0) - 80.0).abs() < 1e-9
        );
        let cos_face = Rule::Margin(Box::new(CosFace::new(1.0, 0.35).unwrap()));
        assert!((least(cos_face, 60.0) - 0.15_f64.acos().to_degrees()).abs() < 1e-9);
        assert_eq!(least(Rule::Norms(1.5), 20.0), 0.0);
        assert!(least(Rule::Norms(1.5), 160.0) > 180.0);
    }
}
