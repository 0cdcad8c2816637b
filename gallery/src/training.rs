//! The course of training, and the runs that three figures share: the digits example's, recorded epoch by epoch.

use margin_losses::ndarray::Array2;
use margin_losses::schedule::{LambdaAnnealing, MarginWarmUp};
use margin_losses::{Error, guide};
use rayon::prelude::*;

use crate::Context;
use crate::chart::{Anchor, Axis, Frame, GREY, INK, LegendEntry, Panel, Sheet, Stroke, Swatch};
use crate::palette::Family;
use crate::recipe::{Loss, Run};
use crate::shared::dataset::Split;
use crate::shared::training::{self, BATCH};

/// As the digits example trains: five splits, 40 epochs at one rate, 16 dimensions.
const SEEDS: u64 = 5;
const EPOCHS: u64 = 40;
const RATE: f32 = 0.02;
const DIM: usize = 16;
const TARGET_PROBABILITY: f64 = 0.9999;
/// The panel, and the figure of an epoch, that is the accuracy.
const ACCURACY: usize = 2;
/// The epochs over which it is taken.
const LAST: u64 = 5;
/// Epochs in which the warmed-up margin grows.
const WARM_UP: u64 = 15;

/// A loss of these figures; ArcFace is there twice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) title: &'static str,
    pub(crate) loss: Loss,
    pub(crate) stroke: Stroke,
    /// Its margin grows from zero; shown in the course of training only.
    pub(crate) warmed_up: bool,
}

/// One state of a run, measured on the held-out images.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) embeddings: Array2<f32>,
    pub(crate) weights: Array2<f32>,
}

/// A run of one seed.
#[derive(Debug)]
pub(crate) struct Record {
    /// Loss, target angle in degrees and held-out accuracy of each epoch.
    epochs: Vec<[f64; 3]>,
    /// The share of the margin in effect at the end of each epoch.
    shares: Vec<f64>,
    pub(crate) before: State,
    pub(crate) after: State,
    /// The labels of the held-out images.
    pub(crate) labels: Vec<usize>,
}

impl Record {
    /// The mean of the last epochs: a single one is chance.
    fn last_accuracy(&self) -> f64 {
        let last = self.epochs.iter().rev().take(LAST as usize);
        last.map(|epoch| epoch[ACCURACY]).sum::<f64>() / LAST as f64
    }
}

/// The runs of all losses, by loss and seed.
pub(crate) type Records = Vec<(Entry, Vec<Record>)>;

fn entries(classes: usize, iterations: u64) -> Result<Vec<Entry>, Error> {
    let scale = guide::suggested_scale(classes, TARGET_PROBABILITY)?;
    let fixed = |margin| MarginWarmUp::new(margin, margin, 0);
    let warm_up = MarginWarmUp::new(0.0, 0.5, WARM_UP * iterations)?;
    let losses = [
        Loss::Softmax,
        Loss::Center(0.003),
        Loss::Modified,
        Loss::ASoftmax(4, LambdaAnnealing::sphere_face()),
        Loss::NormFace(scale),
        Loss::CosFace(scale, fixed(0.35)?),
        Loss::ArcFace(scale, fixed(0.5)?),
        Loss::Combined(scale, [1.0, 0.3, 0.2]),
    ];
    let mut entries: Vec<Entry> = losses
        .into_iter()
        .map(|loss| Entry {
            title: loss.family().title(),
            stroke: loss.family().stroke(),
            loss,
            warmed_up: false,
        })
        .collect();
    entries.push(Entry {
        title: "ArcFace, warmed up",
        loss: Loss::ArcFace(scale, warm_up),
        stroke: Stroke::new(Family::ArcFace.colour(), 2.0, "2.5 2.5"),
        warmed_up: true,
    });
    Ok(entries)
}

/// The epochs of training that the figures take together.
pub(crate) fn work() -> u64 {
    9 * SEEDS * EPOCHS
}

/// How many iterations an epoch has.
fn batches(split: &Split) -> u64 {
    (split.train.len() / BATCH) as u64
}

/// Trains everything; the first error ends it.
pub(crate) fn train_all(context: &Context<'_>) -> Result<Records, String> {
    let split = training::split(context.dataset, 1)?;
    let iterations = batches(&split);
    let entries =
        entries(context.dataset.classes, iterations).map_err(|error| error.to_string())?;
    let runs: Vec<(Entry, u64)> = entries
        .iter()
        .flat_map(|&entry| (1..=SEEDS).map(move |seed| (entry, seed)))
        .collect();
    let records: Result<Vec<Record>, String> = runs
        .par_iter()
        .with_max_len(1)
        .map(|&(entry, seed)| record(context, entry.loss, seed))
        .collect();
    let mut records = records?.into_iter();
    Ok(entries
        .into_iter()
        .map(|entry| (entry, records.by_ref().take(SEEDS as usize).collect()))
        .collect())
}

fn record(context: &Context<'_>, loss: Loss, seed: u64) -> Result<Record, String> {
    let dataset = context.dataset;
    let mut split = training::split(dataset, seed)?;
    let fail = |error: Error| format!("{}, seed {seed}: {error}", loss.family().title());
    let mut run = Run::new(dataset, loss, DIM, seed);
    let state = |run: &Run<'_>, embeddings: Array2<f32>| State {
        embeddings,
        weights: run.model.weights.value.clone(),
    };
    // The normalisation has no running statistics yet: those of the images themselves, as in a first batch.
    let images = dataset.images(&split.held_out);
    let (embeddings, _) = run.model.network.clone().forward(images);
    let before = state(&run, embeddings);
    let (mut epochs, mut shares) = (Vec::new(), Vec::new());
    for _ in 0..EPOCHS {
        let epoch = run.epoch(&mut split.train, RATE).map_err(fail)?;
        let accuracy = run.accuracy(&split.held_out).map_err(fail)?;
        epochs.push([epoch.loss, epoch.target_angle, 100.0 * accuracy]);
        shares.push(loss.margin_share(run.iteration() - 1));
        context.bar.inc(1);
    }
    Ok(Record {
        epochs,
        shares,
        before,
        after: state(&run, run.model.embed(dataset, &split.held_out)),
        labels: dataset.labels(&split.held_out),
    })
}

pub(crate) fn draw(context: &Context<'_>) -> Result<Sheet, String> {
    let records = context.records()?;
    let description = "Loss, target angle and share of the margin against the epochs of training, and the held-out \
                       accuracy at its end, per loss";
    let mut sheet = Sheet::new(760.0, 640.0, description);
    let axes = [
        Axis::logarithmic(1e-3, 10.0, 1).label("training loss (nats)"),
        Axis::linear(0.0, 75.0, 15.0).label("target angle (degrees)"),
        Axis::linear(0.0, records.len() as f64, 1.0).ticks(&[]),
        Axis::linear(0.0, 1.1, 0.2).label("share of the margin in effect"),
    ];
    let (width, height) = (300.0, 220.0);
    for (index, y) in axes.into_iter().enumerate() {
        let frame = Frame {
            left: 66.0 + (index % 2) as f64 * (width + 82.0),
            top: 14.0 + (index / 2) as f64 * (height + 56.0),
            width,
            height,
        };
        if index == ACCURACY {
            accuracies(Panel::new(frame, accuracy_axis(), y), records).finish(&mut sheet);
            continue;
        }
        let x = Axis::linear(0.0, EPOCHS as f64, 10.0).label("epoch");
        let mut panel = Panel::new(frame, x, y);
        for (entry, records) in records {
            let scheduled = matches!(entry.loss, Loss::ASoftmax(..) | Loss::ArcFace(..));
            if index < ACCURACY || scheduled {
                panel.line(&course(records, index), entry.stroke);
            }
        }
        if index == 3 {
            let iterations = batches(&training::split(context.dataset, 1)?);
            let lambda = LambdaAnnealing::sphere_face().at(EPOCHS * iterations);
            let note = |panel: &mut Panel, at, text: String| {
                panel.note(at, [-6.0, -8.0], Anchor::End, GREY, text);
            };
            note(
                &mut panel,
                [EPOCHS as f64, 0.1],
                format!("1/(1 + λ), λ → {lambda:.1}"),
            );
            let m = "m/0.5";
            panel.note([8.5, 0.5], [6.0, 6.0], Anchor::Start, GREY, m);
        }
        panel.finish(&mut sheet);
    }
    let legend: Vec<LegendEntry> = records
        .iter()
        .map(|(entry, _)| LegendEntry::new(Swatch::Line(entry.stroke), entry.title))
        .collect();
    sheet.legend([66.0, 568.0], 3, 228.0, &legend);
    Ok(sheet)
}

/// Its ticks leave room for the names of the losses.
fn accuracy_axis() -> Axis {
    let ticks = [(97.0, "97"), (98.0, "98"), (99.0, "99"), (100.0, "100")];
    let label = format!(
        "held-out accuracy (%), epochs {} to {EPOCHS}",
        EPOCHS - LAST + 1
    );
    Axis::linear(94.0, 100.0, 1.0).ticks(&ticks).label(&label)
}

/// One line for each loss, from the worst to the best split, and a mark at the mean: courses would lie on top of each other.
fn accuracies(mut panel: Panel, records: &[(Entry, Vec<Record>)]) -> Panel {
    let losses = records.len();
    for (index, (entry, records)) in records.iter().enumerate() {
        let y = (losses - index) as f64 - 0.5;
        let accuracies: Vec<f64> = records.iter().map(Record::last_accuracy).collect();
        let least = accuracies.iter().copied().fold(f64::INFINITY, f64::min);
        let most = accuracies.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let mean = accuracies.iter().sum::<f64>() / accuracies.len() as f64;
        panel.line(
            &[[least, y], [most, y]],
            Stroke::solid(entry.stroke.colour, 2.0),
        );
        panel.dots(&[[mean, y]], entry.stroke.colour, 7.5);
        panel.note([94.0, y], [6.0, 4.5], Anchor::Start, INK, entry.title);
    }
    panel
}

/// The mean over the seeds, of each epoch: of a column of the record, or of the margin's share.
fn course(records: &[Record], column: usize) -> Vec<[f64; 2]> {
    (0..EPOCHS as usize)
        .map(|epoch| {
            let of = |record: &Record| match column {
                3 => record.shares[epoch],
                _ => record.epochs[epoch][column],
            };
            let sum: f64 = records.iter().map(of).sum();
            [epoch as f64 + 1.0, sum / records.len() as f64]
        })
        .collect()
}
