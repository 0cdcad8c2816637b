//! The sheet that a figure is drawn on, and the legend.

use svg::Document;
use svg::node::element::{Group, Path, Rectangle, Text};

/// Text and axes.
pub(crate) const INK: &str = "#222222";
/// What is said in passing: notes, reference lines.
pub(crate) const GREY: &str = "#6b6b6b";

/// How a line is drawn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stroke {
    pub(crate) colour: &'static str,
    pub(crate) width: f64,
    /// SVG's dash pattern; empty for a solid line.
    pub(crate) dash: &'static str,
}

impl Stroke {
    pub(crate) const fn new(colour: &'static str, width: f64, dash: &'static str) -> Self {
        Self {
            colour,
            width,
            dash,
        }
    }

    pub(crate) const fn solid(colour: &'static str, width: f64) -> Self {
        Self::new(colour, width, "")
    }

    /// A path in this stroke, round where lines meet and not filled.
    pub(super) fn path(self, data: impl Into<String>) -> Path {
        let path = Path::new()
            .set("d", data.into())
            .set("fill", "none")
            .set("stroke", self.colour)
            .set("stroke-width", self.width)
            .set("stroke-linejoin", "round");
        if self.dash.is_empty() {
            path
        } else {
            path.set("stroke-dasharray", self.dash)
        }
    }
}

/// Which end of a text its position is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Anchor {
    Start,
    Middle,
    End,
}

impl Anchor {
    fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Middle => "middle",
            Self::End => "end",
        }
    }
}

/// What stands before the text of a legend's entry.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Swatch {
    Line(Stroke),
    /// A round mark of this colour and diameter.
    Dot(&'static str, f64),
    /// A filled box: colour and opacity.
    Box(&'static str, f64),
}

/// An entry of a legend.
#[derive(Clone, Debug)]
pub(crate) struct LegendEntry {
    pub(crate) swatch: Swatch,
    pub(crate) text: String,
}

impl LegendEntry {
    pub(crate) fn new(swatch: Swatch, text: impl Into<String>) -> Self {
        Self {
            swatch,
            text: text.into(),
        }
    }
}

/// A white sheet. Coordinates are its own units, of which text is 13 high: at half of a page's width, still readable.
#[derive(Debug)]
pub(crate) struct Sheet {
    body: Group,
    size: [f64; 2],
}

/// The size of all text but titles.
pub(super) const TEXT: f64 = 13.0;
/// What a legend's line takes.
const LEGEND_LINE: f64 = 20.0;

impl Sheet {
    /// A sheet of this size that says, to readers who cannot see it, what it shows.
    pub(crate) fn new(width: f64, height: f64, description: &str) -> Self {
        let body = Group::new()
            .set(
                "font-family",
                "Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif",
            )
            .set("font-size", TEXT)
            .set("fill", INK)
            .add(svg::node::element::Title::new(description))
            .add(
                Rectangle::new()
                    .set("width", width)
                    .set("height", height)
                    .set("fill", "#ffffff"),
            );
        Self {
            body,
            size: [width, height],
        }
    }

    pub(super) fn add(&mut self, node: impl Into<Box<dyn svg::Node>>) {
        svg::Node::append(&mut self.body, node);
    }

    /// A line of text, its baseline at y.
    pub(crate) fn text(&mut self, [x, y]: [f64; 2], anchor: Anchor, colour: &str, text: &str) {
        self.add(text_at([x, y], anchor, text).set("fill", colour));
    }

    /// Text on top of data: what it crosses is kept off by a white halo.
    pub(super) fn note(&mut self, at: [f64; 2], anchor: Anchor, colour: &str, text: &str) {
        self.add(
            text_at(at, anchor, text)
                .set("fill", colour)
                .set("stroke", "#ffffff")
                .set("stroke-opacity", 0.85)
                .set("stroke-width", 3)
                .set("stroke-linejoin", "round")
                .set("paint-order", "stroke"),
        );
    }

    /// A bold line of text, its baseline at y.
    pub(crate) fn title(&mut self, [x, y]: [f64; 2], anchor: Anchor, text: &str) {
        self.add(text_at([x, y], anchor, text).set("font-weight", "bold"));
    }

    /// Text that reads upwards, centred at a point.
    pub(super) fn upward(&mut self, [x, y]: [f64; 2], text: &str) {
        let turn = format!("rotate(-90 {} {})", number(x), number(y));
        self.add(text_at([x, y], Anchor::Middle, text).set("transform", turn));
    }

    /// A legend in columns of this width, filled line by line; returns the y below it.
    pub(crate) fn legend(
        &mut self,
        [left, top]: [f64; 2],
        columns: usize,
        width: f64,
        entries: &[LegendEntry],
    ) -> f64 {
        for (index, entry) in entries.iter().enumerate() {
            let x = left + width * (index % columns) as f64;
            let y = top + LEGEND_LINE * (index / columns) as f64 + LEGEND_LINE / 2.0;
            let swatch_width = match entry.swatch {
                Swatch::Line(stroke) => {
                    let data = format!("M{} {}h30", number(x), number(y));
                    self.add(stroke.path(data));
                    30.0
                }
                Swatch::Dot(colour, diameter) => {
                    self.dots(&[[x + 6.0, y]], colour, diameter);
                    12.0
                }
                Swatch::Box(colour, opacity) => {
                    let rectangle = Rectangle::new()
                        .set("x", number(x))
                        .set("y", number(y - 6.0))
                        .set("width", 18)
                        .set("height", 12)
                        .set("fill", colour)
                        .set("fill-opacity", opacity);
                    self.add(rectangle);
                    18.0
                }
            };
            self.text(
                [x + swatch_width + 6.0, y + 4.5],
                Anchor::Start,
                INK,
                &entry.text,
            );
        }
        top + LEGEND_LINE * entries.len().div_ceil(columns) as f64
    }

    /// Round marks, all in one path: a line of no length with round ends is a dot.
    pub(crate) fn dots(&mut self, points: &[[f64; 2]], colour: &str, diameter: f64) {
        if let Some(path) = dots_path(points, colour, diameter) {
            self.add(path);
        }
    }

    pub(crate) fn into_svg(self) -> String {
        let [width, height] = self.size;
        let document = Document::new()
            .set("viewBox", (0, 0, width, height))
            .set("width", width)
            .set("height", height)
            .add(self.body);
        document.to_string() + "\n"
    }
}

fn text_at([x, y]: [f64; 2], anchor: Anchor, text: &str) -> Text {
    let node = Text::new(text).set("x", number(x)).set("y", number(y));
    match anchor {
        Anchor::Start => node,
        _ => node.set("text-anchor", anchor.name()),
    }
}

pub(super) fn dots_path(points: &[[f64; 2]], colour: &str, diameter: f64) -> Option<Path> {
    let mut data = String::new();
    for &point in points {
        data += &polyline(&[point]);
        data += "h0";
    }
    (!data.is_empty()).then(|| {
        Path::new()
            .set("d", data)
            .set("fill", "none")
            .set("stroke", colour)
            .set("stroke-width", diameter)
            .set("stroke-linecap", "round")
    })
}

/// The path through these points.
pub(super) fn polyline(points: &[[f64; 2]]) -> String {
    let mut data = String::new();
    for (index, &[x, y]) in points.iter().enumerate() {
        // After a move, pairs of numbers are lines.
        data.push(if index == 0 { 'M' } else { ' ' });
        data.push_str(&number(x));
        data.push(' ');
        data.push_str(&number(y));
    }
    data
}

/// A coordinate to a tenth of a unit, in as few characters as it takes.
pub(super) fn number(value: f64) -> String {
    let rounded = (value * 10.0).round() / 10.0;
    // −0 is 0.
    (rounded + 0.0).to_string()
}

#[cfg(test)]
mod tests {
    use super::{number, polyline};

    #[test]
    fn numbers_are_short() {
        assert_eq!(number(12.0), "12");
        assert_eq!(number(-0.04), "0");
        assert_eq!(number(3.149), "3.1");
    }

    #[test]
    fn a_path_moves_once() {
        assert_eq!(
            polyline(&[[0.0, 1.0], [2.0, 3.5], [4.0, 0.0]]),
            "M0 1 2 3.5 4 0"
        );
    }
}
