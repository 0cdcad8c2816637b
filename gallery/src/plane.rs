//! The feature plane: two-dimensional embeddings of the digits under each loss, as the papers open.

use margin_losses::Error;
use margin_losses::ndarray::Array2;
use margin_losses::schedule::{LambdaAnnealing, MarginWarmUp};
use rayon::prelude::*;

use crate::Context;
use crate::chart::{Anchor, Axis, Frame, GREY, INK, LegendEntry, Panel, Sheet, Stroke, Swatch};
use crate::palette::DIGITS;
use crate::recipe::{Loss, Run};
use crate::shared::dataset::Split;
use crate::shared::training;

const SEED: u64 = 1;
/// The direction of a class weight.
const DIRECTION: Stroke = Stroke::solid("#555555", 0.9);
/// A panel's half width, in units of the norm that all but few features keep to.
const LIMIT: f64 = 1.24;
/// Features are drawn up to here, lines of directions end beyond, and the names of the classes stand beyond these.
const RIM: [f64; 3] = [1.02, 1.05, 1.155];
/// The diameters of the marks of training and held-out images, and how much larger the legend shows them.
const MARKS: [f64; 2] = [2.4, 3.2];
const ENLARGED: f64 = 2.0;
const EPOCHS: u64 = 100;
/// The learning rate, and how it falls.
fn rate(epoch: u64) -> f32 {
    match epoch {
        0..75 => 0.02,
        75..90 => 0.005,
        _ => 0.001,
    }
}
/// Iterations until a margin is complete: 50 epochs.
const WARM_UP: u64 = 1_050;

/// A panel's title, its parameters, its loss.
type Entry = (&'static str, &'static str, Loss);

fn entries() -> Result<[Entry; 9], Error> {
    let warm_up = |margin| MarginWarmUp::new(0.0, margin, WARM_UP);
    let center = |lambda| Loss::Center(lambda);
    Ok([
        ("softmax", "no bias", Loss::Softmax),
        ("softmax + center", "λ = 0.01", center(0.01)),
        ("softmax + center", "λ = 0.1", center(0.1)),
        ("softmax + center", "λ = 1", center(1.0)),
        ("modified softmax", "", Loss::Modified),
        (
            "A-Softmax",
            "m = 4, λ → 5",
            Loss::ASoftmax(4, LambdaAnnealing::sphere_face()),
        ),
        ("NormFace", "s = 16", Loss::NormFace(16.0)),
        (
            "CosFace",
            "s = 16, m → 0.1",
            Loss::CosFace(16.0, warm_up(0.1)?),
        ),
        (
            "ArcFace",
            "s = 16, m → 0.3",
            Loss::ArcFace(16.0, warm_up(0.3)?),
        ),
    ])
}

/// The epochs of training that the figure takes.
pub(crate) fn work() -> u64 {
    9 * EPOCHS
}

/// What a panel shows.
struct Trained {
    train: Array2<f32>,
    held_out: Array2<f32>,
    weights: Array2<f32>,
    accuracy: f64,
    /// The mean angle of held-out features to the weights of their classes, in degrees.
    angle: f64,
}

pub(crate) fn draw(context: &Context<'_>) -> Result<Sheet, String> {
    let entries = entries().map_err(|error| error.to_string())?;
    let split = training::split(context.dataset, SEED)?;
    let trained: Vec<Trained> = entries
        .par_iter()
        .with_max_len(1)
        .map(|&(title, _, loss)| {
            train(context, loss, &split).map_err(|error| format!("{title}: {error}"))
        })
        .collect::<Result<_, _>>()?;
    Ok(figure(context, &entries, &trained, &split))
}

fn train(context: &Context<'_>, loss: Loss, split: &Split) -> Result<Trained, Error> {
    let mut run = Run::new(context.dataset, loss, 2, SEED);
    let mut order = split.train.clone();
    for epoch in 0..EPOCHS {
        run.epoch(&mut order, rate(epoch))?;
        context.bar.inc(1);
    }
    let held_out = run.model.embed(context.dataset, &split.held_out);
    let weights = run.model.weights.value.clone();
    let labels = context.dataset.labels(&split.held_out);
    let angles = held_out.rows().into_iter().zip(labels).map(|(row, label)| {
        let (row, weight) = (
            unit(row[0], row[1]),
            unit(weights[[label, 0]], weights[[label, 1]]),
        );
        let cosine = row[0] * weight[0] + row[1] * weight[1];
        let sine = row[0] * weight[1] - row[1] * weight[0];
        sine.atan2(cosine).abs().to_degrees()
    });
    Ok(Trained {
        train: run.model.embed(context.dataset, &split.train),
        angle: angles.sum::<f64>() / held_out.nrows() as f64,
        held_out,
        weights,
        accuracy: run.accuracy(&split.held_out)?,
    })
}

/// The point below which this share of the rows' norms lies.
fn norm_quantile(rows: &Array2<f32>, share: f64) -> f64 {
    let mut norms: Vec<f64> = rows
        .rows()
        .into_iter()
        .map(|row| f64::from(row.dot(&row)).sqrt())
        .collect();
    norms.sort_by(f64::total_cmp);
    norms[((norms.len() - 1) as f64 * share) as usize]
}

fn figure(context: &Context<'_>, entries: &[Entry], trained: &[Trained], split: &Split) -> Sheet {
    let description = "Two-dimensional embeddings of handwritten digits under nine losses, with the directions of the \
                       class weights";
    let mut sheet = Sheet::new(760.0, 902.0, description);
    let (left, top, side, gap) = (14.0, 40.0, 232.0, 18.0);
    let train_labels = context.dataset.labels(&split.train);
    let held_out_labels = context.dataset.labels(&split.held_out);
    for (index, ((title, parameters, _), trained)) in entries.iter().zip(trained).enumerate() {
        let frame = Frame {
            left: left + (index % 3) as f64 * (side + gap),
            top: top + (index / 3) as f64 * (side + 38.0),
            width: side,
            height: side,
        };
        // All but the farthest features; a rim is left for the names of the classes.
        let radius =
            norm_quantile(&trained.train, 0.98).max(norm_quantile(&trained.held_out, 0.98));
        let axis = || Axis::linear(-LIMIT, LIMIT, 10.0).ticks(&[]);
        let mut panel = Panel::new(frame, axis(), axis());
        for weight in trained.weights.rows() {
            let direction = unit(weight[0], weight[1]);
            panel.line(&[[0.0, 0.0], direction.map(|v| RIM[1] * v)], DIRECTION);
        }
        let pick = |rows: &Array2<f32>, labels: &[usize], class: usize| -> Vec<[f64; 2]> {
            rows.rows()
                .into_iter()
                .zip(labels)
                .filter(|&(_, &label)| label == class)
                .map(|(row, _)| [row[0], row[1]].map(|v| f64::from(v) / radius))
                .filter(|point| point[0].hypot(point[1]) < RIM[0])
                .collect()
        };
        for (class, colour) in DIGITS.into_iter().enumerate() {
            panel.dots(
                &pick(&trained.train, &train_labels, class),
                &tint(colour),
                MARKS[0],
            );
        }
        for (class, colour) in DIGITS.into_iter().enumerate() {
            panel.dots(
                &pick(&trained.held_out, &held_out_labels, class),
                colour,
                MARKS[1],
            );
        }
        for (class, weight) in trained.weights.rows().into_iter().enumerate() {
            let direction = unit(weight[0], weight[1]);
            panel.note(
                direction.map(|v| RIM[2] * v),
                [0.0, 4.5],
                Anchor::Middle,
                INK,
                class.to_string(),
            );
        }
        panel.finish(&mut sheet);
        sheet.title([frame.left, frame.top - 8.0], Anchor::Start, title);
        let right = frame.left + side;
        sheet.text([right, frame.top - 8.0], Anchor::End, GREY, parameters);
        let below = frame.top + side - 7.0;
        sheet.text(
            [frame.left + 6.0, below],
            Anchor::Start,
            GREY,
            &format!("{:.1}°", trained.angle),
        );
        let accuracy = format!("{:.1} %", 100.0 * trained.accuracy);
        sheet.text([right - 6.0, below], Anchor::End, GREY, &accuracy);
    }
    legend(&mut sheet, left);
    sheet
}

/// The marks of the legend, whatever the class.
const TRAINING: &str = "#b8b8b8";
const HELD_OUT: &str = "#444444";

fn legend(sheet: &mut Sheet, left: f64) {
    let digits: Vec<LegendEntry> = DIGITS
        .iter()
        .enumerate()
        .map(|(class, colour)| LegendEntry::new(Swatch::Dot(colour, 9.0), class.to_string()))
        .collect();
    sheet.text([left, 842.0], Anchor::Start, INK, "digit");
    sheet.legend([left + 42.0, 828.0], 10, 42.0, &digits);
    let marks = [
        LegendEntry::new(
            Swatch::Dot(TRAINING, MARKS[0] * ENLARGED),
            "training image (pale)",
        ),
        LegendEntry::new(Swatch::Dot(HELD_OUT, MARKS[1] * ENLARGED), "held-out image"),
        LegendEntry::new(Swatch::Line(DIRECTION), "direction of a class weight"),
    ];
    sheet.legend([left, 852.0], 3, 190.0, &marks);
    sheet.text(
        [left, 890.0],
        Anchor::Start,
        GREY,
        "In the corners, of the held-out images: mean angle to the own class weight, and accuracy.",
    );
}

fn unit(x: f32, y: f32) -> [f64; 2] {
    let (x, y) = (f64::from(x), f64::from(y));
    let norm = x.hypot(y);
    [x / norm, y / norm]
}

/// A colour, mixed with white.
fn tint(colour: &str) -> String {
    let channel = |at: usize| u8::from_str_radix(&colour[at..at + 2], 16).unwrap_or(0);
    let lighter = |at| 255 - (255 - channel(at)) / 10 * 4;
    format!("#{:02x}{:02x}{:02x}", lighter(1), lighter(3), lighter(5))
}
