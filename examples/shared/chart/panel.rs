//! A panel: a rectangle with two axes, into which data are drawn.

use svg::node::element::{Definitions, Group, Path, Rectangle};

use super::axis::Axis;
use super::sheet::{Anchor, INK, Sheet, Stroke, dots_path, number, polyline};

const GRID: &str = "#e6e6e6";
/// Room between an axis and what its ticks say.
const TICK_GAP: f64 = 5.0;

/// Where a panel lies on its sheet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    pub(crate) left: f64,
    pub(crate) top: f64,
    pub(crate) width: f64,
    pub(crate) height: f64,
}

/// A panel under construction. What is drawn is cut off at its edges.
#[derive(Debug)]
pub(crate) struct Panel {
    frame: Frame,
    x: Axis,
    y: Axis,
    body: Group,
    clip: String,
    notes: Vec<Note>,
}

/// A text in a panel, on top of the data.
#[derive(Debug)]
struct Note {
    at: [f64; 2],
    anchor: Anchor,
    colour: &'static str,
    text: String,
}

impl Panel {
    pub(crate) fn new(frame: Frame, x: Axis, y: Axis) -> Self {
        let Frame {
            left,
            top,
            width,
            height,
        } = frame;
        // Panels do not overlap, so that the corner tells them apart.
        let clip = format!("c{}-{}", left.round(), top.round());
        let shape = Rectangle::new()
            .set("x", number(left))
            .set("y", number(top))
            .set("width", number(width))
            .set("height", number(height));
        let definitions = Definitions::new().add(
            svg::node::element::ClipPath::new()
                .set("id", clip.as_str())
                .add(shape),
        );
        let body = Group::new().add(definitions);
        Self {
            frame,
            x,
            y,
            body,
            clip,
            notes: Vec::new(),
        }
    }

    /// Where a point of the data lies on the sheet.
    pub(crate) fn place(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        // Far outside is outside: huge coordinates trouble some viewers.
        let near = |share: f64| share.clamp(-3.0, 4.0);
        [
            self.frame.left + self.frame.width * near(self.x.share(x)),
            self.frame.top + self.frame.height * (1.0 - near(self.y.share(y))),
        ]
    }

    fn place_all(&self, points: &[[f64; 2]]) -> Vec<[f64; 2]> {
        points.iter().map(|&point| self.place(point)).collect()
    }

    fn add(&mut self, path: Path) {
        let clip = format!("url(#{})", self.clip);
        svg::Node::append(&mut self.body, path.set("clip-path", clip));
    }

    /// A line through points of the data. A point that is not finite interrupts it.
    pub(crate) fn line(&mut self, points: &[[f64; 2]], stroke: Stroke) {
        let runs = points.split(|point| point.iter().any(|value| !value.is_finite()));
        let data: String = runs
            .filter(|run| run.len() > 1)
            .map(|run| polyline(&thinned(&self.place_all(run))))
            .collect();
        if !data.is_empty() {
            self.add(stroke.path(data));
        }
    }

    /// A polygon of the data, filled.
    pub(crate) fn area(&mut self, points: &[[f64; 2]], colour: &str, opacity: f64) {
        let path = Path::new()
            .set("d", polyline(&thinned(&self.place_all(points))) + "Z")
            .set("fill", colour)
            .set("fill-opacity", opacity);
        self.add(path);
    }

    /// Round marks at points of the data; these alone are not cut off at the edges, so that none is halved.
    pub(crate) fn dots(&mut self, points: &[[f64; 2]], colour: &str, diameter: f64) {
        if let Some(path) = dots_path(&self.place_all(points), colour, diameter) {
            svg::Node::append(&mut self.body, path);
        }
    }

    /// Text at a point of the data, moved by some units of the sheet.
    pub(crate) fn note(
        &mut self,
        at: [f64; 2],
        [dx, dy]: [f64; 2],
        anchor: Anchor,
        colour: &'static str,
        text: impl Into<String>,
    ) {
        let [x, y] = self.place(at);
        self.notes.push(Note {
            at: [x + dx, y + dy],
            anchor,
            colour,
            text: text.into(),
        });
    }

    /// Puts the panel on the sheet: grid, data, axes.
    pub(crate) fn finish(self, sheet: &mut Sheet) {
        let Frame {
            left,
            top,
            width,
            height,
        } = self.frame;
        let (bottom, middle) = (top + height, [left + width / 2.0, top + height / 2.0]);
        let columns = self.x.marks().iter().map(|(value, _)| {
            let x = left + width * self.x.share(*value);
            [[x, top], [x, bottom]]
        });
        let rows = self.y.marks().iter().map(|(value, _)| {
            let y = bottom - height * self.y.share(*value);
            [[left, y], [left + width, y]]
        });
        let grid: String = columns.chain(rows).map(|ends| polyline(&ends)).collect();
        sheet.add(Stroke::solid(GRID, 0.8).path(grid));
        let outline = Rectangle::new()
            .set("x", number(left))
            .set("y", number(top))
            .set("width", number(width))
            .set("height", number(height))
            .set("fill", "none")
            .set("stroke", "#8c8c8c")
            .set("stroke-width", 0.8);
        sheet.add(self.body);
        sheet.add(outline);
        for note in self.notes {
            sheet.note(note.at, note.anchor, note.colour, &note.text);
        }

        for (value, text) in self.x.marks() {
            let x = left + width * self.x.share(*value);
            if !text.is_empty() {
                sheet.text([x, bottom + TICK_GAP + 11.0], Anchor::Middle, INK, text);
            }
        }
        let mut widest: f64 = 0.0;
        for (value, text) in self.y.marks() {
            let y = bottom - height * self.y.share(*value);
            if !text.is_empty() {
                sheet.text([left - TICK_GAP, y + 4.5], Anchor::End, INK, text);
                widest = widest.max(text.chars().map(advance).sum());
            }
        }
        if !self.x.name().is_empty() {
            let y = bottom + TICK_GAP + 30.0;
            sheet.text([middle[0], y], Anchor::Middle, INK, self.x.name());
        }
        if !self.y.name().is_empty() {
            let x = left - TICK_GAP - widest - 10.0;
            sheet.upward([x, middle[1]], self.y.name());
        }
    }
}

/// About how wide a character of a tick's text is.
fn advance(character: char) -> f64 {
    match character {
        '.' => 4.0,
        '⁰'..='ₜ' | '¹' | '²' | '³' => 5.5,
        _ => 8.0,
    }
}

/// The points without those that change a drawn line by less than can be seen.
fn thinned(points: &[[f64; 2]]) -> Vec<[f64; 2]> {
    const TOLERANCE: f64 = 0.06;
    let mut kept: Vec<[f64; 2]> = Vec::new();
    let mut first = 0;
    let mut index = 0;
    while index < points.len() {
        kept.push(points[index]);
        first = index.max(first);
        // The farthest point such that all between lie on the way to it.
        let mut next = index + 1;
        while next + 1 < points.len()
            && next - first < 200
            && points[first + 1..=next]
                .iter()
                .all(|&point| distance(point, points[first], points[next + 1]) < TOLERANCE)
        {
            next += 1;
        }
        index = next;
    }
    kept
}

/// The distance of a point from the line segment between two others.
fn distance([x, y]: [f64; 2], [ax, ay]: [f64; 2], [bx, by]: [f64; 2]) -> f64 {
    let (dx, dy) = (bx - ax, by - ay);
    let square = dx * dx + dy * dy;
    let share = if square > 0.0 {
        (((x - ax) * dx + (y - ay) * dy) / square).clamp(0.0, 1.0)
    } else {
        0.0
    };
    (x - ax - share * dx).hypot(y - ay - share * dy)
}

#[cfg(test)]
mod tests {
    use super::thinned;

    #[test]
    fn straight_lines_keep_their_ends_and_corners() {
        let corner: Vec<[f64; 2]> = (0..=10)
            .map(|i| [f64::from(i), 0.0])
            .chain((1..=10).map(|i| [10.0, f64::from(i)]))
            .collect();
        assert_eq!(thinned(&corner), [[0.0, 0.0], [10.0, 0.0], [10.0, 10.0]]);
        assert_eq!(thinned(&corner[..2]), corner[..2]);
        assert_eq!(thinned(&[]), Vec::<[f64; 2]>::new());
    }

    #[test]
    fn curves_stay_curves() {
        let curve: Vec<[f64; 2]> = (0..=100)
            .map(|i| [f64::from(i), 40.0 * (f64::from(i) / 10.0).sin()])
            .collect();
        let kept = thinned(&curve);
        assert!(kept.len() > 40 && kept.len() < 101, "{}", kept.len());
        assert_eq!(kept.last(), curve.last());
    }
}
