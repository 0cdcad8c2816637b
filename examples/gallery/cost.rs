//! Cost: the time of a step over its three matrix products, and its memory, against the number of classes.
//!
//! Measured on the machine at hand: the only figure whose bytes change from run to run. It is the processor time of one
//! thread that is compared, so that what else the machine does is left out.

mod peers;

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
const LEGEND_COLUMNS: usize = 3;
const MIB: f64 = 1_048_576.0;

/// The numbers of the figure's two steps, at one number of classes.
#[derive(Clone, Copy, Debug)]
struct Cost {
    classes: usize,
    /// Over the three products: with ∂W in memory, and streamed.
    ratios: [f64; 2],
    /// Beyond features and class weights, in MiB.
    memory: [f64; 2],
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
            weights: init::class_weights(classes, DIM, 2),
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
fn measure(classes: usize, repetitions: usize) -> Result<Cost, Error> {
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
    let bytes = |evaluation: &Evaluation<f32>| {
        let gradients = evaluation.grad_features.len() + evaluation.grad_weights.len();
        (evaluation.scratch_bytes() + gradients * size_of::<f32>()) as f64 / MIB
    };
    Ok(Cost {
        classes,
        ratios: [step / products, stream / products],
        memory: [bytes(&whole), bytes(&streamed)],
    })
}

pub(crate) fn draw(context: &Context<'_>) -> Result<Sheet, String> {
    let peers = match context.peers {
        Some(file) => peers::read(file, ROWS, DIM)?,
        None => Vec::new(),
    };
    let one = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .map_err(|error| error.to_string())?;
    let costs: Result<Vec<Cost>, Error> = CASES
        .into_iter()
        .map(|(classes, repetitions)| one.install(|| measure(classes, repetitions)))
        .collect();
    let costs = costs.map_err(|error| error.to_string())?;
    Ok(figure(&costs, &peers))
}

const WHOLE: Stroke = Family::ArcFace.stroke();
const STREAMED: Stroke = Stroke::new(WHOLE.colour, 2.2, "2.5 2.5");
const WEIGHTS: Stroke = Stroke::new("#999999", 1.6, "1.5 3");

fn figure(costs: &[Cost], peers: &[peers::Peer]) -> Sheet {
    let description = "Time over three matrix products, and memory, against the number of classes";
    let lines = (3 + peers.len()).div_ceil(LEGEND_COLUMNS) as f64;
    let mut sheet = Sheet::new(760.0, 378.0 + 20.0 * lines, description);
    let left = Frame {
        left: 62.0,
        top: 32.0,
        width: 290.0,
        height: 260.0,
    };
    let right = Frame {
        left: 450.0,
        ..left
    };
    let classes = || Axis::logarithmic(800.0, 125_000.0, 1).label("classes C");
    let slowest = peers
        .iter()
        .flat_map(|peer| &peer.points)
        .map(|point| point.ratio);
    let highest = slowest.fold(2.0, f64::max).ceil() + 0.5;
    let y = Axis::linear(0.0, highest, 1.0).label("time / time of three products");
    let mut time = Panel::new(left, classes(), y);
    let y = Axis::logarithmic(0.5, 3000.0, 1).label("memory (MiB)");
    let mut memory = Panel::new(right, classes(), y);

    time.line(&[[1.0, 1.0], [1e6, 1.0]], WEIGHTS);
    let own_size: Vec<[f64; 2]> = costs
        .iter()
        .map(|cost| {
            [
                cost.classes as f64,
                (cost.classes * DIM * size_of::<f32>()) as f64 / MIB,
            ]
        })
        .collect();
    memory.line(&own_size, WEIGHTS);
    let mut legend = vec![
        LegendEntry::new(Swatch::Line(WHOLE), "this crate"),
        LegendEntry::new(Swatch::Line(STREAMED), "this crate, streamed (16 MiB)"),
    ];
    for (index, stroke) in [WHOLE, STREAMED].into_iter().enumerate() {
        let points = |of: fn(&Cost) -> [f64; 2]| -> Vec<[f64; 2]> {
            costs
                .iter()
                .map(|cost| [cost.classes as f64, of(cost)[index]])
                .collect()
        };
        plot(&mut time, &points(|cost| cost.ratios), stroke);
        plot(&mut memory, &points(|cost| cost.memory), stroke);
    }
    for (peer, stroke) in peers.iter().zip(peers::STROKES) {
        let points = |of: fn(&peers::Point) -> f64| -> Vec<[f64; 2]> {
            peer.points
                .iter()
                .map(|point| [point.classes as f64, of(point)])
                .collect()
        };
        plot(&mut time, &points(|point| point.ratio), stroke);
        plot(&mut memory, &points(|point| point.extra_mib), stroke);
        legend.push(LegendEntry::new(Swatch::Line(stroke), peer.title()));
    }
    legend.push(LegendEntry::new(
        Swatch::Line(WEIGHTS),
        "three products (left), W (right)",
    ));
    time.finish(&mut sheet);
    memory.finish(&mut sheet);
    sheet.title([left.left, 20.0], Anchor::Start, "Time of a step");
    sheet.title([right.left, 20.0], Anchor::Start, "Memory beyond X and W");
    let bottom = sheet.legend([left.left, 346.0], LEGEND_COLUMNS, 232.0, &legend);
    let note = format!(
        "ArcFace, loss and gradients, f32; batch {ROWS}, {DIM} dimensions; processor time of one thread."
    );
    sheet.text([left.left, bottom + 18.0], Anchor::Start, GREY, &note);
    sheet
}

/// A line with a mark at each measurement.
fn plot(panel: &mut Panel, points: &[[f64; 2]], stroke: Stroke) {
    panel.line(points, stroke);
    panel.dots(points, stroke.colour, 6.0);
}
