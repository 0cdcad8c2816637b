//! Cost: the time of a step over its three matrix products, and its memory, against the number of classes.
//!
//! Measured on the machine at hand: the only figure whose bytes change from run to run. It is the processor time of one
//! thread that is compared, so that what else the machine does is left out.

mod peers;

use std::fs;
use std::path::Path;

use cpu_time::ProcessTime;
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use margin_losses::ndarray::{Array2, ArrayView2, ArrayViewMut2};
use margin_losses::{ArcFace, Error, Evaluation, MarginLoss, Targets, init};

use crate::Context;
use crate::chart::{Anchor, Axis, Frame, GREY, LegendEntry, Panel, Sheet, Stroke, Swatch};
use crate::palette::Family;

const ROWS: usize = 256;
const DIM: usize = 512;
/// Numbers of classes, and how often each is measured.
const CASES: [(usize, usize); 5] = [
    (1_000, 61),
    (3_000, 31),
    (10_000, 15),
    (30_000, 9),
    (100_000, 5),
];
/// The scratch limit of the streamed step.
const LIMIT: usize = 16 << 20;
const LEGEND_COLUMNS: usize = 2;
const MIB: f64 = 1_048_576.0;

/// A step at one number of classes: its time over the three products', its seconds, and its MiB beyond X and W.
#[derive(Clone, Copy, Debug)]
struct Cost {
    classes: usize,
    ratio: f64,
    seconds: f64,
    memory: f64,
}

fn view(array: ArrayView2<'_, f32>) -> MatRef<'_, f32> {
    let (rows, columns) = array.dim();
    MatRef::from_row_major_slice(array.to_slice().expect("row-major"), rows, columns)
}

fn view_mut(array: ArrayViewMut2<'_, f32>) -> MatMut<'_, f32> {
    let (rows, columns) = array.dim();
    MatMut::from_row_major_slice_mut(array.into_slice().expect("row-major"), rows, columns)
}

/// The arrays of a case, and what the products write.
struct Arrays {
    features: Array2<f32>,
    weights: Array2<f32>,
    labels: Vec<usize>,
    logits: Array2<f32>,
    grad_features: Array2<f32>,
    grad_weights: Array2<f32>,
}

impl Arrays {
    fn new(classes: usize) -> Result<Self, Error> {
        Ok(Self {
            features: init::normal(ROWS, DIM, 1.0, 1)?,
            weights: init::class_weights(classes, DIM, 2)?,
            labels: (0..ROWS).map(|row| row * 7_919 % classes).collect(),
            logits: Array2::zeros((ROWS, classes)),
            grad_features: Array2::zeros((ROWS, DIM)),
            grad_weights: Array2::zeros((classes, DIM)),
        })
    }

    /// The three products that no step can do without.
    fn products(&mut self) {
        let (x, w) = (view(self.features.view()), view(self.weights.view()));
        let z = view_mut(self.logits.view_mut());
        matmul(z, Accum::Replace, x, w.transpose(), 1.0, Par::Seq);
        let z = view(self.logits.view());
        let to = view_mut(self.grad_features.view_mut());
        matmul(to, Accum::Replace, z, w, 1.0, Par::Seq);
        let to = view_mut(self.grad_weights.view_mut());
        matmul(to, Accum::Replace, z.transpose(), x, 1.0, Par::Seq);
    }
}

/// Products and both steps in turn; the least times are compared, because caches that others disturb only add to them.
///
/// Returns the step with ∂W in memory, and streamed.
fn measure(classes: usize, repetitions: usize) -> Result<[Cost; 2], Error> {
    let mut arrays = Arrays::new(classes)?;
    let loss = ArcFace::default();
    let mut whole = Evaluation::new();
    let mut streamed = Evaluation::with_scratch_limit(LIMIT);
    let mut times = [const { Vec::new() }; 3];
    for repetition in 0..=repetitions {
        let start = ProcessTime::now();
        arrays.products();
        let products = start.elapsed();

        let start = ProcessTime::now();
        let targets = Targets::new(&arrays.labels);
        let (x, w) = (arrays.features.view(), arrays.weights.view());
        loss.evaluate_into(x, w, &targets, &mut whole)?;
        let step = start.elapsed();

        let start = ProcessTime::now();
        let w = arrays.weights.view_mut();
        loss.evaluate_streamed(x, w, &targets, &mut streamed, &mut |block| {
            std::hint::black_box(block.gradient);
        })?;
        let stream = start.elapsed();

        // The first round warms caches and buffers.
        if repetition > 0 {
            for (times, time) in times.iter_mut().zip([products, step, stream]) {
                times.push(time.as_secs_f64());
            }
        }
    }
    let [products, step, stream] =
        times.map(|times| times.into_iter().fold(f64::INFINITY, f64::min));
    let cost = |evaluation: &Evaluation<f32>, seconds| {
        let gradients = evaluation.grad_features.len() + evaluation.grad_weights.len();
        let bytes = evaluation.scratch_bytes() + gradients * size_of::<f32>();
        Cost {
            classes,
            ratio: seconds / products,
            seconds,
            memory: bytes as f64 / MIB,
        }
    };
    Ok([cost(&whole, step), cost(&streamed, stream)])
}

pub(crate) fn draw(context: &Context<'_>) -> Result<Sheet, String> {
    let peers = match context.peers {
        Some(file) => peers::read(file, "peer", ROWS, DIM)?,
        None => Vec::new(),
    };
    let costs = match context.costs {
        Some(file) => recorded(file)?,
        None => measured(context)?,
    };
    Ok(figure(&costs, &peers))
}

/// The numbers of an earlier figure.
fn recorded(file: &Path) -> Result<[Vec<Cost>; 2], String> {
    let steps = peers::read(file, "step", ROWS, DIM)?;
    let steps: Vec<Vec<Cost>> = steps.into_iter().map(|step| step.points).collect();
    let two = steps.try_into();
    two.map_err(|_| format!("{}: not the two steps of a cost.txt", file.display()))
}

/// The numbers of this machine, which are also written beside the figure.
fn measured(context: &Context<'_>) -> Result<[Vec<Cost>; 2], String> {
    let one = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .map_err(|error| error.to_string())?;
    let mut costs = [const { Vec::new() }; 2];
    let mut lines = String::new();
    for (classes, repetitions) in CASES {
        let measured = one
            .install(|| measure(classes, repetitions))
            .map_err(|error| error.to_string())?;
        for ((costs, cost), step) in costs.iter_mut().zip(measured).zip(["whole", "streamed"]) {
            lines += &line(step, cost);
            costs.push(cost);
        }
    }
    let file = context.out.join("cost.txt");
    fs::write(&file, lines).map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(costs)
}

/// A measurement in the form of benches/floor.rs.
fn line(step: &str, cost: Cost) -> String {
    let Cost {
        classes,
        ratio,
        seconds,
        memory,
    } = cost;
    format!(
        "case=gallery step={step} n={ROWS} classes={classes} dim={DIM} ratio={ratio:.2} extra_mib={memory:.1} \
         threads=1 seconds={seconds:.5} products_seconds={:.5}\n",
        seconds / ratio
    )
}

const WHOLE: Stroke = Family::ArcFace.stroke();
const STREAMED: Stroke = Stroke::new(WHOLE.colour, 2.2, "2.5 2.5");
const FLOOR: Stroke = Stroke::new("#999999", 1.6, "1.5 3");

fn figure(costs: &[Vec<Cost>; 2], peers: &[peers::Peer]) -> Sheet {
    let description = "Time of a step on one thread, over three matrix products and in seconds, and its memory with the \
                       gradients, against the number of classes";
    let lines = (3 + peers.len()).div_ceil(LEGEND_COLUMNS) as f64;
    let mut sheet = Sheet::new(760.0, 396.0 + 20.0 * lines, description);
    let highest = peers
        .iter()
        .flat_map(|peer| &peer.points)
        .map(|point| point.ratio)
        .fold(2.0, f64::max);
    let axes = [
        Axis::linear(0.0, highest.ceil(), 0.5).label("over three products"),
        Axis::logarithmic(2e-3, 5.0, 1).label("seconds"),
        Axis::logarithmic(1.0, 2000.0, 1).label("MiB beyond X and W"),
    ];
    let titles = [
        "Relative time, one thread",
        "Time, one thread",
        "Memory with gradients",
    ];
    let frame = |index: usize| Frame {
        left: 56.0 + 254.0 * index as f64,
        top: 32.0,
        width: 182.0,
        height: 260.0,
    };
    let mut index = 0;
    let mut panels = axes.map(|y| {
        let x = Axis::logarithmic(800.0, 125_000.0, 1).label("classes C");
        sheet.title([frame(index).left, 20.0], Anchor::Start, titles[index]);
        index += 1;
        Panel::new(frame(index - 1), x, y)
    });

    // What nobody can do without: the products, and a gradient as large as the weights.
    let floor = |of: fn(&Cost) -> f64| -> Vec<[f64; 2]> {
        let points = costs[0].iter();
        points.map(|cost| [cost.classes as f64, of(cost)]).collect()
    };
    panels[0].line(&floor(|_| 1.0), FLOOR);
    panels[1].line(&floor(|cost| cost.seconds / cost.ratio), FLOOR);
    panels[2].line(
        &floor(|cost| (cost.classes * DIM * size_of::<f32>()) as f64 / MIB),
        FLOOR,
    );

    let mut legend = Vec::new();
    let series = [WHOLE, STREAMED].into_iter().chain(peers::STROKES);
    let titles = [
        "this crate".to_owned(),
        "this crate, streamed (16 MiB)".to_owned(),
    ];
    let titles = titles
        .into_iter()
        .chain(peers.iter().map(peers::Peer::title));
    let points = costs.iter().chain(peers.iter().map(|peer| &peer.points));
    for ((stroke, title), costs) in series.zip(titles).zip(points) {
        let of: [fn(&Cost) -> f64; 3] =
            [|cost| cost.ratio, |cost| cost.seconds, |cost| cost.memory];
        for (panel, of) in panels.iter_mut().zip(of) {
            let points: Vec<[f64; 2]> = costs
                .iter()
                .map(|cost| [cost.classes as f64, of(cost)])
                .collect();
            plot(panel, &points, stroke);
        }
        legend.push(LegendEntry::new(Swatch::Line(stroke), title));
    }
    legend.push(LegendEntry::new(
        Swatch::Line(FLOOR),
        "three products; size of ∂W",
    ));
    for panel in panels {
        panel.finish(&mut sheet);
    }
    let left = frame(0).left;
    let bottom = sheet.legend([left, 346.0], LEGEND_COLUMNS, 340.0, &legend);
    let notes = [
        format!(
            "ArcFace, loss and gradients, f32; batch {ROWS}, {DIM} dimensions; processor time of one thread."
        ),
        "∂X and ∂W are in the memory; the README's times are of two threads, its working memory without them."
            .to_owned(),
    ];
    for (line, note) in notes.iter().enumerate() {
        let y = bottom + 18.0 * (line + 1) as f64;
        sheet.text([left, y], Anchor::Start, GREY, note);
    }
    sheet
}

/// A line with a mark at each measurement.
fn plot(panel: &mut Panel, points: &[[f64; 2]], stroke: Stroke) {
    panel.line(points, stroke);
    panel.dots(points, stroke.colour, 6.0);
}
