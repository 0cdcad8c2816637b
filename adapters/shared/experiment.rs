//! What the examples of all adapters share: the command line, the data and their division, the warm-up of the margin, and the
//! figures at the end. Nothing here knows a framework.

use std::path::{Path, PathBuf};

use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use margin_losses::ndarray::{Array2, ArrayView2};
use margin_losses::schedule::MarginWarmUp;
use margin_losses::verification::Embeddings;
use margin_losses::{AnyLoss, ArcFace, CosFace, MarginLoss, Objective};
use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::SliceRandom;

use super::dataset::Dataset;

/// Where the loss is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Route {
    /// By margin-losses, on the CPU.
    Host,
    /// In the framework's tensor operations.
    Device,
}

/// Trains a small convolutional network with a margin-based loss.
#[derive(Clone, Debug, Parser)]
pub(crate) struct Options {
    /// The loss, as a line: softmax, cosface:s=10,m=0.2, softmax+center:lambda=0.01.
    #[arg(long)]
    pub(crate) loss: Option<Objective>,
    /// Where the loss is computed.
    #[arg(long, value_enum, default_value = "host")]
    pub(crate) route: Route,
    /// How often each image is seen.
    #[arg(long)]
    pub(crate) epochs: Option<usize>,
    /// The learning rate at first; it falls to 0.
    #[arg(long)]
    pub(crate) rate: Option<f64>,
    /// What everything random begins with.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// IDX files of your own, with --labels.
    #[arg(long, requires = "labels")]
    pub(crate) images: Option<PathBuf>,
    /// The labels of these images.
    #[arg(long, requires = "images")]
    pub(crate) labels: Option<PathBuf>,
}

/// What is to be trained, and on what.
pub(crate) struct Experiment {
    pub(crate) dataset: Dataset,
    pub(crate) train: Vec<usize>,
    pub(crate) test: Vec<usize>,
    /// Classes of the training images.
    pub(crate) classes: usize,
    /// Images are square.
    pub(crate) side: usize,
    pub(crate) batch: usize,
    pub(crate) dim: usize,
    pub(crate) epochs: usize,
    pub(crate) objective: Objective,
    pub(crate) route: Route,
    pub(crate) seed: u64,
    warm_up: f64,
    rate: f64,
    generator: Xoshiro256PlusPlus,
}

/// What differs between the examples.
pub(crate) struct Setting {
    pub(crate) images: &'static str,
    pub(crate) labels: &'static str,
    pub(crate) loss: &'static str,
    pub(crate) batch: usize,
    pub(crate) dim: usize,
    pub(crate) epochs: usize,
    pub(crate) rate: f64,
    /// The share of the steps over which the margin grows.
    pub(crate) warm_up: f64,
}

impl Experiment {
    /// The data of the core, or the user's.
    pub(crate) fn new(setting: &Setting, options: &Options) -> Result<Self, String> {
        // Adapters are two folders below the data.
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/data");
        let or = |own: &Option<PathBuf>, name| own.clone().unwrap_or_else(|| data.join(name));
        let images = or(&options.images, setting.images);
        let labels = or(&options.labels, setting.labels);
        let dataset = Dataset::read(&images, &labels)?;
        let side = dataset.width.isqrt();
        if side * side != dataset.width || side < 8 {
            return Err(format!(
                "{}: images must be square, from 8 pixels on",
                images.display()
            ));
        }
        let objective = match &options.loss {
            Some(loss) => loss.clone(),
            None => setting.loss.parse().map_err(|error| format!("{error}"))?,
        };
        if options.route == Route::Device && objective.lambda().is_some() {
            return Err("the device route has no center loss".to_owned());
        }
        let images = super::idx::read_labels(&labels)?.len();
        Ok(Self {
            train: (0..images).collect(),
            test: Vec::new(),
            classes: 0,
            side,
            batch: setting.batch,
            dim: setting.dim,
            epochs: options.epochs.unwrap_or(setting.epochs),
            objective,
            route: options.route,
            seed: options.seed,
            warm_up: setting.warm_up,
            rate: options.rate.unwrap_or(setting.rate),
            generator: Xoshiro256PlusPlus::seed_from_u64(options.seed),
            dataset,
        })
    }

    /// A quarter of the images, drawn at random, is held out.
    pub(crate) fn hold_images_out(mut self) -> Result<Self, String> {
        let split = self.dataset.split(&mut self.generator)?;
        (self.train, self.test) = (split.train, split.held_out);
        self.classes = self.dataset.classes;
        Ok(self.ready())
    }

    /// A fifth of the classes is held out: the network never sees them.
    pub(crate) fn hold_classes_out(mut self) -> Result<Self, String> {
        self.classes = self.dataset.classes - self.dataset.classes / 5;
        if self.dataset.classes - self.classes < 2 {
            return Err("fewer than ten classes: no two can be held out".to_owned());
        }
        let all = std::mem::take(&mut self.train);
        let labels = self.dataset.labels(&all);
        (self.train, self.test) = all.into_iter().partition(|&row| labels[row] < self.classes);
        Ok(self.ready())
    }

    fn ready(mut self) -> Self {
        self.batch = self.batch.min(self.train.len());
        self
    }

    /// Rows of class weights: one for each class, or for each sub-center.
    pub(crate) fn rows(&self) -> usize {
        self.classes * self.objective.classifier().sub_centers()
    }

    /// All steps of the training; an incomplete last batch of an epoch is left out.
    pub(crate) fn steps(&self) -> usize {
        self.epochs * (self.train.len() / self.batch.max(1))
    }

    /// The images of an epoch, batch by batch, in a new order.
    pub(crate) fn epoch(&mut self) -> Vec<Vec<usize>> {
        self.train.shuffle(&mut self.generator);
        self.train
            .chunks_exact(self.batch)
            .map(<[usize]>::to_vec)
            .collect()
    }

    /// The learning rate, which falls to 0 along a cosine.
    pub(crate) fn rate(&self, step: usize) -> f64 {
        let done = step as f64 / self.steps() as f64;
        self.rate * 0.5 * (1.0 + (std::f64::consts::PI * done).cos())
    }

    /// The loss of a step, whose margin is still growing. What it has learned stays.
    pub(crate) fn warm_up(
        &mut self,
        step: usize,
        aim: &AnyLoss,
    ) -> Result<(), margin_losses::Error> {
        let at = |margin| -> Result<f64, margin_losses::Error> {
            let steps = (self.warm_up * self.steps() as f64) as u64;
            Ok(MarginWarmUp::new(0.0, margin, steps.max(1))?.at(step as u64))
        };
        let loss: AnyLoss = match aim {
            AnyLoss::ArcFace(loss) => {
                let grown = ArcFace::new(loss.scale(), at(loss.margin())?)?;
                let grown = grown.with_past_pi(loss.past_pi());
                let filter = loss.class_filter();
                filter
                    .map_or(Ok(grown), |threshold| grown.with_class_filter(threshold))?
                    .into()
            }
            AnyLoss::CosFace(loss) => {
                let grown = CosFace::new(loss.scale(), at(loss.margin())?)?;
                let filter = loss.class_filter();
                filter
                    .map_or(Ok(grown), |threshold| grown.with_class_filter(threshold))?
                    .into()
            }
            _ => return Ok(()),
        };
        self.objective.set_classifier(loss)
    }

    pub(crate) fn progress(&self) -> ProgressBar {
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} steps, {eta} left, {msg}");
        ProgressBar::new(self.steps() as u64)
            .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
    }

    /// The share of test images that are classified right.
    pub(crate) fn accuracy(
        &self,
        embeddings: ArrayView2<'_, f32>,
        weights: ArrayView2<'_, f32>,
    ) -> Result<f64, margin_losses::Error> {
        let labels = self.dataset.labels(&self.test);
        let found = self.objective.classifier().predict(embeddings, weights)?;
        let right = found
            .iter()
            .zip(&labels)
            .filter(|(found, label)| found == label);
        Ok(right.count() as f64 / labels.len() as f64)
    }

    /// The equal error rate over all pairs of test images.
    pub(crate) fn equal_error_rate(
        &self,
        embeddings: ArrayView2<'_, f32>,
    ) -> Result<f64, margin_losses::Error> {
        let labels = self.dataset.labels(&self.test);
        let report = Embeddings::new(embeddings, &labels)?.verify(&[1e-3])?;
        Ok(report.equal_error_rate)
    }
}

/// What a training has come to.
pub(crate) struct Trained {
    /// The mean loss of the last epoch.
    pub(crate) loss: f64,
    pub(crate) test_embeddings: Array2<f32>,
    pub(crate) weights: Array2<f32>,
}
