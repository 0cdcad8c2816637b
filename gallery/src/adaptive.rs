//! Logits that differ from row to row: with the norm of the feature, or with what the target has reached.

use margin_losses::{
    AdaFace, Angle, CurricularFace, Error, MagFace, Margin, MvSoftmax, Target, TargetLogit,
};

use crate::Context;
use crate::chart::{Anchor, Axis, Frame, GREY, LegendEntry, Panel, Sheet, Stroke, Swatch};
use crate::palette::Family;

/// The target that the negatives are drawn for.
const TARGET: f64 = 60.0;
const STROKES: [Stroke; 3] = [
    Stroke::new("#0072b2", 2.2, "14 3 3 3"),
    Stroke::solid("#d55e00", 2.2),
    Stroke::new("#009e73", 2.2, "5 3"),
];

pub(crate) fn draw(_: &Context<'_>) -> Result<Sheet, String> {
    figure().map_err(|error| error.to_string())
}

fn figure() -> Result<Sheet, Error> {
    let description = "Target logits of AdaFace and MagFace for features of three norms, and the other classes' logits \
                       of CurricularFace and MV-Softmax";
    let mut sheet = Sheet::new(760.0, 790.0, description);
    let ada_face = ada_face()?;
    by_norm(
        &mut sheet,
        [62.0, 30.0],
        ("AdaFace, m = 0.4", &ada_face),
        [19.0, 20.0, 21.0]
            .into_iter()
            .zip(["k̂ = −1", "k̂ = 0", "k̂ = 1"]),
    );
    by_norm(
        &mut sheet,
        [444.0, 30.0],
        ("MagFace, m from 0.45 to 0.8", &MagFace::default()),
        [10.0, 60.0, 110.0]
            .into_iter()
            .zip(["‖x‖ = 10", "‖x‖ = 60", "‖x‖ = 110"]),
    );
    let curricular = |t: f64| CurricularFace::new(1.0, 0.5)?.with_t(t);
    negatives(
        &mut sheet,
        [62.0, 430.0],
        "CurricularFace, m = 0.5",
        &[
            (Box::new(curricular(0.0)?), "t = 0: as it begins"),
            (Box::new(curricular(0.3)?), "t = 0.3"),
            (Box::new(curricular(0.6)?), "t = 0.6"),
        ],
    );
    let hard = |t| MvSoftmax::new(1.0, 0.35, t);
    negatives(
        &mut sheet,
        [444.0, 430.0],
        "MV-Softmax, m = 0.35",
        &[
            (Box::new(hard(0.0)?), "t = 0: CosFace"),
            (Box::new(hard(0.2)?), "t = 0.2"),
            (
                Box::new(hard(0.2)?.with_fixed_weights(true)),
                "t = 0.2, fixed",
            ),
        ],
    );
    Ok(sheet)
}

/// Such that norms of 19, 20 and 21 have k̂ = −1, 0 and 1, but for ε.
fn ada_face() -> Result<AdaFace, Error> {
    let mut loss = AdaFace::new(1.0, 0.4)?.with_concentration(1.0)?;
    loss.set_statistics(&[20.0, 1.0])?;
    Ok(loss)
}

/// The target's logit against its angle, for features of these norms.
fn by_norm(
    sheet: &mut Sheet,
    [left, top]: [f64; 2],
    (title, margin): (&str, &dyn Margin),
    norms: impl Iterator<Item = (f64, &'static str)>,
) {
    let cosine = Family::NormFace.stroke();
    let mut panel = panel(
        [left, top],
        Axis::linear(0.0, 180.0, 30.0).label("angle to the target θ (degrees)"),
        Axis::linear(-2.0, 1.0, 0.5).label("target logit ψ(θ)"),
    );
    let line = |logit: &dyn Fn(Target) -> f64| -> Vec<[f64; 2]> {
        let at = |degree: u16| {
            let angle = Angle::from_radians(f64::from(degree).to_radians());
            [f64::from(degree), logit(angle.into())]
        };
        (0..=180).map(at).collect()
    };
    let plain = Stroke::new(GREY, 1.2, cosine.dash);
    panel.line(&line(&|target| target.cos()), plain);
    let mut legend = vec![LegendEntry::new(Swatch::Line(plain), "cos θ")];
    for ((norm, text), stroke) in norms.zip(STROKES) {
        let logit = |target: Target| margin.target_logit(&target.with_feature_norm(norm));
        panel.line(&line(&|target| TargetLogit::value(logit(target))), stroke);
        legend.push(LegendEntry::new(Swatch::Line(stroke), text));
    }
    finish(sheet, panel, [left, top], title, &legend);
}

/// The logit of another class against its cosine, where the target is at 60°.
fn negatives(
    sheet: &mut Sheet,
    [left, top]: [f64; 2],
    title: &str,
    losses: &[(Box<dyn Margin>, &str)],
) {
    let mut panel = panel(
        [left, top],
        Axis::linear(-0.5, 1.0, 0.5).label("cosine of another class"),
        Axis::linear(-0.5, 1.5, 0.5).label("its logit"),
    );
    let target = Target::from(Angle::from_radians(TARGET.to_radians()));
    if let Some((margin, _)) = losses.first() {
        let reached = margin.target_logit(&target).value();
        panel.line(
            &[[reached, -9.0], [reached, 9.0]],
            Stroke::new(GREY, 1.0, "3 3"),
        );
        panel.note(
            [reached, 1.5],
            [6.0, 18.0],
            Anchor::Start,
            GREY,
            "the target's logit",
        );
    }
    let mut legend = Vec::new();
    for ((margin, text), stroke) in losses.iter().zip(STROKES) {
        let negatives = margin.negatives(&target);
        let mut points: Vec<[f64; 2]> = Vec::new();
        for step in -500..=1000_i16 {
            let cosine = f64::from(step) / 1000.0;
            let logit = negatives.of(cosine);
            // A jump is no line.
            if points
                .last()
                .is_some_and(|&[_, last]| (logit - last).abs() > 0.01)
            {
                points.push([cosine, f64::NAN]);
            }
            points.push([cosine, logit]);
        }
        panel.line(&points, stroke);
        legend.push(LegendEntry::new(Swatch::Line(stroke), *text));
    }
    finish(sheet, panel, [left, top], title, &legend);
}

fn panel([left, top]: [f64; 2], x: Axis, y: Axis) -> Panel {
    let frame = Frame {
        left,
        top,
        width: 300.0,
        height: 220.0,
    };
    Panel::new(frame, x, y)
}

fn finish(
    sheet: &mut Sheet,
    panel: Panel,
    [left, top]: [f64; 2],
    title: &str,
    legend: &[LegendEntry],
) {
    panel.finish(sheet);
    sheet.title([left, top - 10.0], Anchor::Start, title);
    sheet.legend([left, top + 270.0], 1, 300.0, legend);
}

#[cfg(test)]
mod tests {
    use margin_losses::{Angle, Margin, Target};

    use super::ada_face;

    #[test]
    fn norms_are_those_of_the_legend() {
        let m = 0.4;
        let margin = ada_face().unwrap();
        for (norm, k) in [(19.0, -1.0), (20.0, 0.0), (21.0, 1.0)] {
            let target = Target::from(Angle::from_radians(1.0)).with_feature_norm(norm);
            let expected = f64::cos(1.0 - m * k) - m * (1.0 + k);
            let found = margin.target_logit(&target).value();
            assert!((found - expected).abs() < 1e-2, "{k}: {found}");
        }
    }
}
