//! A training and everything that it is made of.

use std::path::Path;

use margin_losses::ndarray::{Array2, Zip};
use margin_losses::{AnyLoss, CenterLoss, Error, Evaluation, JointLoss, MarginLoss, Targets, init};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use crate::file::{Checkpoint, Tensor};

const INPUTS: usize = 16;
const BATCH: usize = 32;
const RATE: f32 = 0.05;
const MOMENTUM: f32 = 0.9;
/// Center loss: its weight λ, and the share α of the way that centers go.
const CENTER_WEIGHT: f64 = 0.003;
const CENTER_RATE: f64 = 0.5;

/// What is decided before a training begins.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    pub(crate) loss: AnyLoss,
    pub(crate) classes: usize,
    pub(crate) dim: usize,
    pub(crate) seed: u64,
}

/// A matrix that is trained, and its momentum.
#[derive(Debug)]
struct Parameter {
    value: Array2<f32>,
    velocity: Array2<f32>,
}

impl Parameter {
    fn new(value: Array2<f32>) -> Self {
        let velocity = Array2::zeros(value.raw_dim());
        Self { value, velocity }
    }

    fn descend(&mut self, gradient: &Array2<f32>) {
        Zip::from(&mut self.value)
            .and(&mut self.velocity)
            .and(gradient)
            .for_each(|value, velocity, &gradient| {
                *velocity = MOMENTUM * *velocity + gradient;
                *value -= RATE * *velocity;
            });
    }
}

/// A linear layer as the network, class weights, and the rest.
#[derive(Debug)]
pub(crate) struct Training {
    setting: Setting,
    /// The loss with what it has learned.
    loss: AnyLoss,
    /// The momentum of that.
    velocities: Vec<f64>,
    /// d×inputs.
    network: Parameter,
    /// C×d.
    weights: Parameter,
    /// C×d.
    centers: Array2<f32>,
    step: u64,
    evaluation: Evaluation<f32>,
}

impl Training {
    pub(crate) fn new(setting: &Setting) -> Result<Self, Error> {
        let Setting {
            ref loss,
            classes,
            dim,
            seed,
        } = *setting;
        Ok(Self {
            setting: setting.clone(),
            loss: loss.clone(),
            velocities: vec![0.0; loss.learnables().len()],
            network: Parameter::new(init::normal(dim, INPUTS, 0.25, seed)?),
            weights: Parameter::new(init::normal(classes, dim, 1.0, seed + 1)?),
            centers: Array2::zeros((classes, dim)),
            step: 0,
            evaluation: Evaluation::new(),
        })
    }

    /// So many steps more. Returns the loss of the last.
    pub(crate) fn go_on(&mut self, steps: u64) -> Result<f32, Error> {
        for _ in 0..steps {
            let (inputs, labels) = self.batch();
            let features = inputs.dot(&self.network.value.t());
            let out = &mut self.evaluation;
            JointLoss::new(&mut self.loss, self.centers.view(), CENTER_WEIGHT)?.evaluate_into(
                features.view(),
                self.weights.value.view(),
                &Targets::new(&labels),
                out,
            )?;
            let centers = self.centers.view_mut();
            CenterLoss::update_centers(centers, features.view(), &labels, CENTER_RATE)?;
            self.network.descend(&out.grad_features.t().dot(&inputs));
            self.weights.descend(&out.grad_weights);

            let mut learned = self.loss.learnables().to_vec();
            let momentum = self.velocities.iter_mut().zip(&out.grad_learnables);
            for (value, (velocity, &gradient)) in learned.iter_mut().zip(momentum) {
                *velocity = f64::from(MOMENTUM) * *velocity + f64::from(gradient);
                *value -= f64::from(RATE) * *velocity;
            }
            self.loss.set_learnables(&learned)?;
            self.step += 1;
        }
        Ok(self.evaluation.loss())
    }

    /// The batch of the current step: a point for each class, and noise around it.
    fn batch(&self) -> (Array2<f32>, Vec<usize>) {
        let seed = self.setting.seed ^ self.step.rotate_left(32);
        let mut generator = Xoshiro256PlusPlus::seed_from_u64(seed);
        let labels: Vec<usize> = (0..BATCH)
            .map(|_| generator.random_range(0..self.setting.classes))
            .collect();
        let inputs = Array2::from_shape_fn((BATCH, INPUTS), |(row, column)| {
            let point = (1.0 + 2.3 * labels[row] as f32 + 1.7 * column as f32).sin();
            point + generator.random_range(-0.5..0.5)
        });
        (inputs, labels)
    }

    /// The contents of a checkpoint.
    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>, String> {
        let tensors = [
            ("network", Tensor::matrix(&self.network.value)),
            ("network.velocity", Tensor::matrix(&self.network.velocity)),
            ("weights", Tensor::matrix(&self.weights.value)),
            ("weights.velocity", Tensor::matrix(&self.weights.velocity)),
            ("centers", Tensor::matrix(&self.centers)),
            ("learnables", Tensor::numbers(self.loss.learnables())),
            ("learnables.velocity", Tensor::numbers(&self.velocities)),
            ("step", Tensor::count(self.step)),
            ("seed", Tensor::count(self.setting.seed)),
        ];
        Checkpoint::to_bytes(tensors, &self.setting.loss.to_string())
    }

    /// Writes a checkpoint. One that was there stays whole until the new one is.
    pub(crate) fn save(&self, path: &Path) -> Result<(), String> {
        crate::file::replace(path, &self.to_bytes()?)
    }

    /// The training of this setting that a file holds, in the middle of its course. The seed is the file's.
    pub(crate) fn load(setting: &Setting, path: &Path) -> Result<Self, String> {
        let bytes = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
        Self::from_bytes(setting, &bytes).map_err(|error| format!("{}: {error}", path.display()))
    }

    fn from_bytes(setting: &Setting, bytes: &[u8]) -> Result<Self, String> {
        let file = Checkpoint::new(bytes, &setting.loss.to_string())?;
        let Setting { classes, dim, .. } = *setting;
        let parameter = |name: &str, shape| -> Result<Parameter, String> {
            Ok(Parameter {
                value: file.matrix(name, shape)?,
                velocity: file.matrix(&format!("{name}.velocity"), shape)?,
            })
        };
        let mut loss = setting.loss.clone();
        let learned = loss.learnables().len();
        let values = file.numbers("learnables", learned)?;
        loss.set_learnables(&values)
            .map_err(|error| error.to_string())?;
        Ok(Self {
            loss,
            velocities: file.numbers("learnables.velocity", learned)?,
            network: parameter("network", (dim, INPUTS))?,
            weights: parameter("weights", (classes, dim))?,
            centers: file.matrix("centers", (classes, dim))?,
            step: file.count("step")?,
            setting: Setting {
                seed: file.count("seed")?,
                ..setting.clone()
            },
            evaluation: Evaluation::new(),
        })
    }
}
