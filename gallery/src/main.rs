//! Draws the figures of this crate as SVG: what each loss does to features, angles and gradients, on real digits.
//!
//! ```text
//! cargo run --release --manifest-path gallery/Cargo.toml                         # all of them, into target/figures
//! cargo run --release --manifest-path gallery/Cargo.toml -- --only plane --only roc
//! cargo run --release --manifest-path gallery/Cargo.toml -- --out docs/figures --peers docs/figures/torch.txt
//! ```
//!
//! Everything is seeded, so that a second run writes the same bytes; only the figure of cost is measured on the machine
//! at hand. What each figure shows, and with which parameters, is in `docs/figures/README.md`.

mod adaptive;
mod angles;
mod boundaries;
#[path = "../../examples/shared/chart/mod.rs"]
mod chart;
#[path = "../../examples/shared/command.rs"]
mod command;
mod cost;
mod logits;
mod palette;
mod plane;
mod precision;
mod recipe;
mod roc;
mod scale;
#[path = "../../examples/shared/mod.rs"]
mod shared;
mod training;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::OnceLock;

use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};

use crate::chart::Sheet;
use crate::shared::dataset::Dataset;
use crate::training::Records;

/// Draws the figures of this crate as SVG, from the losses themselves and from networks trained on real digits.
#[derive(Debug, Parser)]
#[command(name = "gallery")]
struct Arguments {
    /// Draw this figure only; may be given more than once.
    #[arg(long, value_name = "NAME")]
    only: Vec<Figure>,
    /// The folder to write into; it is made if need be.
    #[arg(long, value_name = "DIR", default_value = "target/figures")]
    out: PathBuf,
    /// Results of PyTorch, drawn beside this crate's in the figure of cost; gallery/torch_sweep.py prints them.
    #[arg(long, value_name = "FILE")]
    peers: Option<PathBuf>,
    /// The numbers of an earlier figure of cost, a cost.txt, to be drawn again instead of measuring.
    #[arg(long, value_name = "FILE")]
    costs: Option<PathBuf>,
}

/// The figures, by the name of their file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Figure {
    /// The feature plane: two-dimensional embeddings under nine losses.
    Plane,
    /// Target logit curves of every margin, and their slopes.
    Logits,
    /// Logits that depend on the feature's norm, or on what the target has reached.
    Adaptive,
    /// Decision boundaries of two classes.
    Boundaries,
    /// Angles of held-out digits to their class and to the nearest other.
    Angles,
    /// Receiver operating characteristics of held-out pairs.
    Roc,
    /// Loss, target angle, accuracy and margin against the epochs.
    Training,
    /// The error of the target's gradient in single precision.
    Precision,
    /// Time and memory of a step against the number of classes, measured here and now.
    Cost,
    /// The lower bound of NormFace's loss against the scale.
    Scale,
}

impl Figure {
    fn file(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| format!("{}.svg", value.get_name()))
    }

    fn draw(self, context: &Context<'_>) -> Result<Sheet, String> {
        match self {
            Self::Plane => plane::draw(context),
            Self::Logits => logits::draw(context),
            Self::Adaptive => adaptive::draw(context),
            Self::Boundaries => boundaries::draw(context),
            Self::Angles => angles::draw(context),
            Self::Roc => roc::draw(context),
            Self::Training => training::draw(context),
            Self::Precision => precision::draw(context),
            Self::Cost => cost::draw(context),
            Self::Scale => scale::draw(context),
        }
    }

    /// Whether it shows the runs that three figures share.
    fn shares_runs(self) -> bool {
        matches!(self, Self::Angles | Self::Roc | Self::Training)
    }
}

/// What all figures may need.
#[derive(Debug)]
struct Context<'a> {
    dataset: &'a Dataset,
    bar: &'a ProgressBar,
    peers: Option<&'a Path>,
    costs: Option<&'a Path>,
    out: &'a Path,
    records: OnceLock<Result<Records, String>>,
}

impl Context<'_> {
    /// The runs that several figures share, trained for the first that asks.
    fn records(&self) -> Result<&Records, String> {
        let records = self.records.get_or_init(|| training::train_all(self));
        records.as_ref().map_err(Clone::clone)
    }
}

fn main() -> ExitCode {
    command::run(|arguments: Arguments| run(&arguments))
}

fn run(arguments: &Arguments) -> Result<(), String> {
    let figures: Vec<Figure> = Figure::value_variants()
        .iter()
        .copied()
        .filter(|figure| arguments.only.is_empty() || arguments.only.contains(figure))
        .collect();
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/data");
    let dataset = Dataset::read(
        &data.join("images-idx3-ubyte"),
        &data.join("labels-idx1-ubyte"),
    )?;
    let folder = &arguments.out;
    fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;

    // The bar counts figures and epochs of training.
    let mut work = figures.len() as u64;
    if figures.contains(&Figure::Plane) {
        work += plane::work();
    }
    if figures.iter().any(|figure| figure.shares_runs()) {
        work += training::work();
    }
    let bar = ProgressBar::new(work).with_style(
        ProgressStyle::with_template("{wide_bar} {percent}% {msg}, {eta} left")
            .expect("the template is well-formed"),
    );
    let context = Context {
        dataset: &dataset,
        bar: &bar,
        peers: arguments.peers.as_deref(),
        costs: arguments.costs.as_deref(),
        out: folder,
        records: OnceLock::new(),
    };
    for figure in &figures {
        let file = figure.file();
        bar.set_message(file.clone());
        let path = folder.join(&file);
        let sheet = figure
            .draw(&context)
            .map_err(|error| format!("{file}: {error}"))?;
        fs::write(&path, sheet.into_svg())
            .map_err(|error| format!("{}: {error}", path.display()))?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    println!("{} figures are in {}", figures.len(), folder.display());
    Ok(())
}
