//! What the scale does: the least loss of NormFace against s, for several numbers of classes.

use margin_losses::{Error, guide};

use crate::Context;
use crate::chart::{Anchor, Axis, Frame, GREY, LegendEntry, Panel, Sheet, Stroke, Swatch};

/// The target's probability for which the scale is suggested.
const PROBABILITY: f64 = 0.999;

/// Numbers of classes (two, the digits, a data set each of the papers', a million), each with its look.
const CLASSES: [(usize, &str, Stroke); 5] = [
    (2, "2", Stroke::new("#88ccee", 2.2, "3 2")),
    (10, "10", Stroke::new("#44aa99", 2.2, "6 3")),
    (10_575, "10,575", Stroke::new("#999933", 2.2, "10 3 2 3")),
    (85_742, "85,742", Stroke::new("#cc6677", 2.2, "12 3")),
    (1_000_000, "1,000,000", Stroke::solid("#332288", 2.2)),
];

pub(crate) fn draw(_: &Context<'_>) -> Result<Sheet, String> {
    figure().map_err(|error| error.to_string())
}

fn figure() -> Result<Sheet, Error> {
    let description = "The lower bound of NormFace's loss against the scale, for 2 to a million classes, with the \
                       suggested scales";
    let mut sheet = Sheet::new(720.0, 440.0, description);
    let frame = Frame {
        left: 70.0,
        top: 16.0,
        width: 480.0,
        height: 360.0,
    };
    let x = Axis::linear(0.0, 30.0, 5.0).label("scale s");
    let y = Axis::logarithmic(1e-6, 20.0, 1).label("least loss (nats)");
    let samples: Vec<f64> = x.samples(601).skip(1).collect();
    let mut panel = Panel::new(frame, x, y);

    // −ln P, whatever the number of classes.
    let suggested = -PROBABILITY.ln();
    panel.line(
        &[[0.0, suggested], [30.0, suggested]],
        Stroke::new(GREY, 1.0, "3 3"),
    );
    panel.note(
        [30.0, suggested],
        [-6.0, -6.0],
        Anchor::End,
        GREY,
        "P = 0.999",
    );
    for (classes, _, stroke) in CLASSES {
        let points = samples
            .iter()
            .map(|&scale| Ok([scale, guide::norm_face_lower_bound(classes, scale)?]))
            .collect::<Result<Vec<_>, Error>>()?;
        panel.line(&points, stroke);
    }
    for (classes, _, stroke) in CLASSES {
        let scale = guide::suggested_scale(classes, PROBABILITY)?;
        let at = [scale, guide::norm_face_lower_bound(classes, scale)?];
        panel.dots(&[at], "#ffffff", 12.0);
        panel.dots(&[at], stroke.colour, 9.0);
    }
    panel.finish(&mut sheet);

    let x = 574.0;
    sheet.title([x, 30.0], Anchor::Start, "classes C");
    let lines: Vec<LegendEntry> = CLASSES
        .map(|(_, text, stroke)| LegendEntry::new(Swatch::Line(stroke), text))
        .into();
    let below = sheet.legend([x, 38.0], 1, 140.0, &lines);
    sheet.title([x, below + 26.0], Anchor::Start, "suggested s");
    let mut dots = Vec::new();
    for (classes, _, stroke) in CLASSES {
        let scale = guide::suggested_scale(classes, PROBABILITY)?;
        let swatch = Swatch::Dot(stroke.colour, 9.0);
        dots.push(LegendEntry::new(swatch, format!("{scale:.1}")));
    }
    sheet.legend([x, below + 34.0], 1, 140.0, &dots);
    Ok(sheet)
}
