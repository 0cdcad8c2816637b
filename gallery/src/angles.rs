//! Angles of held-out digits to the weight of their class and to the nearest other, before and after training.

use margin_losses::ndarray::ArrayView1;

use crate::Context;
use crate::chart::{Anchor, Axis, Frame, GREY, Panel, Sheet, Stroke};
use crate::training::{Record, State};

/// The width of a bin, in degrees.
const BIN: f64 = 3.0;
const BINS: usize = 60;
/// Own class before training, and the nearest other at any time; after training the own class has the loss's colour.
const BEFORE: &str = "#882255";
const OTHER: &str = "#a6a6a6";
const OPACITY: f64 = 0.5;

/// The shares of rows in each bin, of the target's angle and of the nearest other class's, and their means.
#[derive(Debug)]
struct Histogram {
    shares: [[f64; BINS]; 2],
    means: [f64; 2],
}

fn histogram<'a>(records: &'a [Record], state: fn(&'a Record) -> &'a State) -> Histogram {
    let mut shares = [[0.0; BINS]; 2];
    let mut means = [0.0; 2];
    let mut count = 0.0;
    for record in records {
        let State {
            embeddings,
            weights,
        } = state(record);
        for (row, &label) in embeddings.rows().into_iter().zip(&record.labels) {
            let angles: Vec<f64> = weights
                .rows()
                .into_iter()
                .map(|weight| degrees(row, weight))
                .collect();
            let others = angles
                .iter()
                .enumerate()
                .filter(|&(class, _)| class != label);
            let nearest = others.fold(f64::INFINITY, |least, (_, &angle)| least.min(angle));
            for (side, angle) in [angles[label], nearest].into_iter().enumerate() {
                shares[side][((angle / BIN) as usize).min(BINS - 1)] += 1.0;
                means[side] += angle;
            }
            count += 1.0;
        }
    }
    Histogram {
        shares: shares.map(|side| side.map(|rows| 100.0 * rows / count)),
        means: means.map(|sum| sum / count),
    }
}

/// The angle between two vectors, in degrees.
fn degrees(one: ArrayView1<'_, f32>, other: ArrayView1<'_, f32>) -> f64 {
    let dot = |a: ArrayView1<'_, f32>, b: ArrayView1<'_, f32>| -> f64 {
        a.iter()
            .zip(b)
            .map(|(&a, &b)| f64::from(a) * f64::from(b))
            .sum()
    };
    let cosine = dot(one, other) / (dot(one, one) * dot(other, other)).sqrt();
    cosine.clamp(-1.0, 1.0).acos().to_degrees()
}

pub(crate) fn draw(context: &Context<'_>) -> Result<Sheet, String> {
    let records = context.records()?;
    let after = records.iter().filter(|(entry, _)| !entry.warmed_up);
    let mut histograms: Vec<(&str, &'static str, Histogram)> = vec![(
        "before training",
        BEFORE,
        histogram(&records[0].1, |record| &record.before),
    )];
    histograms.extend(after.map(|(entry, records)| {
        let after = histogram(records, |record| &record.after);
        (entry.title, entry.stroke.colour, after)
    }));

    let description = "Histograms of the angles of held-out digits to their own class weight and to the nearest other, \
                       before and after training, per loss";
    let mut sheet = Sheet::new(760.0, 626.0, description);
    let (width, height) = (210.0, 146.0);
    for (index, (title, colour, histogram)) in histograms.iter().enumerate() {
        let (column, row) = (index % 3, index / 3);
        let frame = Frame {
            left: 62.0 + column as f64 * (width + 24.0),
            top: 32.0 + row as f64 * (height + 42.0),
            width,
            height,
        };
        let mut x = Axis::linear(0.0, 120.0, 30.0).label("angle (degrees)");
        let mut y = Axis::linear(0.0, 40.0, 10.0).label("images (%)");
        if row < 2 {
            x = x.unlabelled();
        }
        if column > 0 {
            y = y.unlabelled();
        }
        let mut panel = Panel::new(frame, x, y);
        for (shares, colour) in histogram.shares.iter().zip([*colour, OTHER]) {
            let outline = steps(shares);
            panel.area(&outline, colour, OPACITY);
            panel.line(&outline, Stroke::solid(colour, 1.0));
        }
        panel.finish(&mut sheet);
        let above = frame.top - 8.0;
        sheet.title([frame.left, above], Anchor::Start, title);
        let [own, other] = histogram.means;
        let means = format!("{own:.0}° | {other:.0}°");
        sheet.text([frame.left + width, above], Anchor::End, GREY, &means);
    }
    let legend = "Angles to the own class in the loss's colour, to the nearest other class in grey; their means above.";
    sheet.text([62.0, 612.0], Anchor::Start, GREY, legend);
    Ok(sheet)
}

/// The outline of a histogram, from the axis and back to it.
fn steps(shares: &[f64; BINS]) -> Vec<[f64; 2]> {
    let mut outline = vec![[0.0, 0.0]];
    for (index, &share) in shares.iter().enumerate() {
        let left = BIN * index as f64;
        outline.extend([[left, share], [left + BIN, share]]);
    }
    outline.push([BIN * BINS as f64, 0.0]);
    outline
}
