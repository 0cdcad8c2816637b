//! The training of a rank.

use std::cell::Cell;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use margin_losses::ndarray::{Array2, Axis, Slice, Zip};
use margin_losses::shards::{Communicator, Sampling, Sharded, Shards};
use margin_losses::{AnyLoss, ClassBlock, Error, Evaluation, MarginLoss, Targets, init};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use crate::checkpoint::{Progress, load, save};

const LEARNING_RATE: f32 = 0.1;
const MOMENTUM: f32 = 0.9;
/// The share of a row's feature that is noise.
const NOISE: f32 = 0.5;

/// What is trained, and for how long.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// The number of classes.
    #[arg(long, default_value_t = 10_000, value_parser = size)]
    pub(crate) classes: usize,
    /// The dimension of the features.
    #[arg(long, default_value_t = 128, value_parser = size)]
    pub(crate) dim: usize,
    /// The rows of a batch, of all ranks.
    #[arg(long, default_value_t = 256, value_parser = size)]
    pub(crate) batch: usize,
    /// The steps to train for, those of a checkpoint included.
    #[arg(long, default_value_t = 20)]
    pub(crate) steps: u64,
    /// The share of the classes that takes part in a step.
    #[arg(long, default_value_t = 1.0)]
    pub(crate) rate: f64,
    /// The loss.
    #[arg(long, default_value = "arcface:s=32,m=0.3")]
    pub(crate) loss: AnyLoss,
    /// Where first weights, identities, batches and samples come from.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// The working memory of a rank, in MiB.
    #[arg(long, default_value_t = 64, value_parser = size)]
    pub(crate) limit: usize,
    /// A folder to save in, and to go on from if there is something.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) checkpoint: Option<PathBuf>,
    /// The steps from one save to the next; the last step is saved anyway.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) every: u64,
}

fn size(word: &str) -> Result<usize, String> {
    match word.parse() {
        Ok(size @ 1..=1_000_000_000) => Ok(size),
        _ => Err("it must be a whole number from 1 to 1000000000".to_owned()),
    }
}

/// What a rank trains: its classes, their weights and momentum.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) classes: Range<usize>,
    pub(crate) weights: Array2<f32>,
    pub(crate) velocity: Array2<f32>,
}

/// What a training has come to.
#[derive(Clone, Debug)]
pub(crate) struct Summary {
    ranks: usize,
    rows: usize,
    time: Duration,
    /// W and momentum.
    bytes_per_class: usize,
    received: usize,
    steps: u64,
    pub(crate) loss: f32,
    pub(crate) curve: u64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.time.as_secs_f64().max(1e-9);
        writeln!(f, "ranks            {}", self.ranks)?;
        writeln!(f, "rows per second  {:.0}", self.rows as f64 / seconds)?;
        if self.steps > 0 {
            let step = 1e3 * seconds / self.steps as f64;
            let received = self.received as f64 / self.steps as f64;
            writeln!(f, "ms per step      {step:.1}")?;
            writeln!(f, "bytes received   {received:.0} by rank 0 in a step")?;
        }
        writeln!(f, "bytes per class  {}", self.bytes_per_class)?;
        if let Some(peak) = peak_kib() {
            writeln!(f, "peak memory      {} MiB of this process", peak / 1024)?;
        }
        writeln!(f, "loss             {:.4}", self.loss)?;
        write!(f, "loss curve       {:016x}", self.curve)
    }
}

/// What the process has held at its peak, where Linux tells.
fn peak_kib() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Trains the classes of this rank. `after` is told each step that has been made.
pub(crate) fn train(
    comm: &dyn Communicator,
    options: &Options,
    after: &mut dyn FnMut(u64),
) -> Result<Summary, String> {
    let comm = Counting {
        comm,
        received: Cell::new(0),
    };
    let (shards, sampling) = prepare(options).map_err(|error| error.to_string())?;
    let own = shards.classes(comm.rank(), comm.size());
    let mut loss = options.loss.clone();
    let (mut head, mut progress) = match &options.checkpoint {
        Some(folder) if folder.join(crate::checkpoint::MANIFEST).exists() => {
            let progress = load(&comm, folder, options, own)?;
            (progress.0, progress.1)
        }
        _ => (
            begin(own, options).map_err(|error| error.to_string())?,
            Progress::new(&loss),
        ),
    };
    progress.restore(&mut loss)?;

    let bar = bar(comm.rank(), options.steps);
    bar.set_position(progress.step);
    let (first, start) = (progress.step, Instant::now());
    let mut out = Evaluation::with_scratch_limit(options.limit << 20);
    while progress.step < options.steps {
        let sampled = sampling.map(|sampling| sampling.at(progress.step));
        step(
            &comm,
            (shards, sampled),
            &mut loss,
            &mut head,
            (options, progress.step, &mut out),
        )
        .map_err(|error| error.to_string())?;
        progress.made(out.loss(), &loss);
        bar.inc(1);
        bar.set_message(format!("loss {:.4}", out.loss()));
        after(progress.step);
        let ends = progress.step == options.steps;
        if let Some(folder) = &options.checkpoint
            && (ends || progress.step.is_multiple_of(options.every))
        {
            save(&comm, folder, options, &head, &progress)?;
        }
    }
    bar.finish_and_clear();
    let steps = progress.step - first;
    Ok(Summary {
        ranks: comm.size(),
        rows: steps as usize * options.batch,
        time: start.elapsed(),
        bytes_per_class: 2 * options.dim * size_of::<f32>(),
        received: comm.received.get(),
        steps,
        loss: progress.loss,
        curve: progress.curve,
    })
}

/// Everything that options alone can be wrong about.
fn prepare(options: &Options) -> Result<(Shards, Option<Sampling>), Error> {
    let shards = Shards::new(options.classes)?;
    let sampling = Sampling::new(options.rate, options.seed)?;
    Ok((shards, (options.rate < 1.0).then_some(sampling)))
}

fn begin(own: Range<usize>, options: &Options) -> Result<Head, Error> {
    let weights = init::class_weights_of(own.clone(), options.dim, options.seed)?;
    let velocity = Array2::zeros(weights.raw_dim());
    Ok(Head {
        classes: own,
        weights,
        velocity,
    })
}

fn bar(rank: usize, steps: u64) -> ProgressBar {
    if rank > 0 {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}, {eta} left");
    ProgressBar::new(steps).with_style(style.expect("a good template"))
}

fn step(
    comm: &dyn Communicator,
    (shards, sampling): (Shards, Option<Sampling>),
    loss: &mut AnyLoss,
    head: &mut Head,
    (options, step, out): (&Options, u64, &mut Evaluation<f32>),
) -> Result<(), Error> {
    let rows =
        comm.rank() * options.batch / comm.size()..(comm.rank() + 1) * options.batch / comm.size();
    let (features, labels) = batch(options, step, rows);
    let velocity = &mut head.velocity;
    let mut update = |mut block: ClassBlock<'_, f32>| {
        let mut velocity = velocity.slice_axis_mut(Axis(0), Slice::from(block.classes));
        Zip::from(&mut block.weights)
            .and(&mut velocity)
            .and(block.gradient)
            .for_each(|w, v, &g| {
                *v = MOMENTUM * *v + g;
                *w -= LEARNING_RATE * *v;
            });
    };
    let mut sharded = Sharded::new(&*loss, shards, comm);
    if let Some(sampling) = sampling {
        sharded = sharded.with_sampling(sampling);
    }
    let targets = Targets::new(&labels);
    let weights = head.weights.view_mut();
    sharded.evaluate_streamed(features.view(), weights, &targets, out, &mut update)?;
    // These are the same on all ranks.
    let loss: &mut dyn MarginLoss<f32> = loss;
    loss.set_statistics(out.statistics())?;
    let learnables = loss.learnables().iter().zip(&out.grad_learnables);
    let stepped: Vec<f64> = learnables
        .map(|(value, &gradient)| value - f64::from(LEARNING_RATE * gradient))
        .collect();
    loss.set_learnables(&stepped)
}

/// Some rows of the batch of a step.
fn batch(options: &Options, step: u64, rows: Range<usize>) -> (Array2<f32>, Vec<usize>) {
    let generator = |kind: u64, number: u64| {
        let mut mixer = Xoshiro256PlusPlus::seed_from_u64(options.seed ^ (kind << 56) ^ number);
        Xoshiro256PlusPlus::seed_from_u64(mixer.random())
    };
    let mut features = Array2::zeros((rows.len(), options.dim));
    let mut labels = Vec::with_capacity(rows.len());
    for (row, mut feature) in rows.zip(features.outer_iter_mut()) {
        let mut of_row = generator(1, step * options.batch as u64 + row as u64);
        let label = of_row.random_range(0..options.classes);
        let mut of_class = generator(2, label as u64);
        for entry in &mut feature {
            let uniform = |from: &mut Xoshiro256PlusPlus| from.random::<f32>() - 0.5;
            *entry = uniform(&mut of_class) + NOISE * uniform(&mut of_row);
        }
        labels.push(label);
    }
    (features, labels)
}

/// Counts what arrives from other ranks.
struct Counting<'a> {
    comm: &'a dyn Communicator,
    received: Cell<usize>,
}

impl Counting<'_> {
    fn count(&self, all: &[Vec<u8>]) {
        let others = all
            .iter()
            .enumerate()
            .filter(|&(rank, _)| rank != self.rank());
        let bytes: usize = others.map(|(_, message)| message.len()).sum();
        self.received.set(self.received.get() + bytes);
    }
}

impl Communicator for Counting<'_> {
    fn rank(&self) -> usize {
        self.comm.rank()
    }

    fn size(&self) -> usize {
        self.comm.size()
    }

    fn all_gather(&self, mine: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
        self.comm.all_gather(mine).inspect(|all| self.count(all))
    }

    fn all_to_all(&self, send: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>, Error> {
        self.comm.all_to_all(send).inspect(|all| self.count(all))
    }

    fn abort(&self) {
        self.comm.abort();
    }
}
