//! A small convolutional network in burn, and its training.

#[allow(dead_code)]
#[path = "../../../../examples/shared/dataset.rs"]
pub(crate) mod dataset;
#[allow(dead_code)]
#[path = "../../../shared/experiment.rs"]
pub(crate) mod experiment;
#[allow(dead_code)]
#[path = "../../../../examples/shared/idx.rs"]
pub(crate) mod idx;

use burn::module::{Module, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::pool::{MaxPool2d, MaxPool2dConfig};
use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig, PaddingConfig2d};
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor, TensorData};
use margin_losses::ndarray::{Array2, Axis};
use margin_losses::{AnyLoss, Argument, CenterLoss, Evaluation, Targets, init};
use margin_losses_burn::{DeviceLoss, Error, HostLoss, Loss, with_array};

use experiment::{Experiment, Route, Trained};

/// What the loss itself learns has a rate of its own.
const RATE_OF_LEARNABLES: f64 = 0.1;
/// How many images are embedded at a time.
const CHUNK: usize = 500;

/// Two convolutions, each with a pool, a linear layer with batch normalisation, and the class weights.
#[derive(Module, Debug)]
struct Model {
    first: Conv2d,
    second: Conv2d,
    pool: MaxPool2d,
    embedding: Linear,
    norm: BatchNorm,
    weights: Param<Tensor<2>>,
}

impl Model {
    fn new(experiment: &Experiment, device: &Device) -> Result<Self, Error> {
        device.seed(experiment.seed);
        let convolution = |channels| {
            Conv2dConfig::new(channels, [3, 3])
                .with_padding(PaddingConfig2d::Same)
                .init(device)
        };
        let (side, dim) = (experiment.side / 4, experiment.dim);
        let weights: Array2<f32> = init::class_weights(experiment.rows(), dim, experiment.seed)?;
        let shape = [weights.nrows(), dim];
        let weights = TensorData::new(weights.into_raw_vec_and_offset().0, shape);
        Ok(Self {
            first: convolution([1, 16]),
            second: convolution([16, 32]),
            pool: MaxPool2dConfig::new([2, 2]).with_strides([2, 2]).init(),
            embedding: LinearConfig::new(32 * side * side, dim)
                .with_bias(false)
                .init(device),
            norm: BatchNormConfig::new(dim).init(device),
            weights: Param::from_data(weights, device),
        })
    }

    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let x = self.pool.forward(relu(self.first.forward(images)));
        let x = self.pool.forward(relu(self.second.forward(x)));
        self.norm.forward(self.embedding.forward(x.flatten(1, 3)))
    }
}

/// Network and class weights, and what the loss keeps.
struct Training {
    model: Model,
    centers: Array2<f32>,
    memory: Evaluation<f32>,
    optimizer: ModuleOptimizer,
    device: Device,
}

fn images(experiment: &Experiment, rows: &[usize], device: &Device) -> Tensor<4> {
    let pixels = experiment.dataset.images(rows).into_raw_vec_and_offset().0;
    let shape = [rows.len(), 1, experiment.side, experiment.side];
    Tensor::from_data(TensorData::new(pixels, shape), device)
}

impl Training {
    fn new(experiment: &Experiment) -> Result<Self, Error> {
        let device = Device::flex().autodiff();
        Ok(Self {
            model: Model::new(experiment, &device)?,
            centers: Array2::zeros((experiment.classes, experiment.dim)),
            memory: Evaluation::new(),
            optimizer: AdamWConfig::new().init(),
            device,
        })
    }

    fn loss(
        &mut self,
        experiment: &mut Experiment,
        [features, weights]: [&Tensor<2>; 2],
        labels: &[usize],
    ) -> Result<Loss, Error> {
        let targets = Targets::new(labels);
        match experiment.route {
            Route::Host => {
                let joint = experiment.objective.over_centers(self.centers.view());
                HostLoss::new(&*joint, &mut self.memory).evaluate(features, weights, &targets)
            }
            Route::Device => DeviceLoss::new(experiment.objective.classifier().loss().clone())?
                .evaluate(features, weights, &targets),
        }
    }

    /// One step at this learning rate. Returns the loss.
    fn step(
        &mut self,
        experiment: &mut Experiment,
        rows: &[usize],
        rate: f64,
    ) -> Result<f64, Error> {
        let labels = experiment.dataset.labels(rows);
        let features = self.model.forward(images(experiment, rows, &self.device));
        let weights = self.model.weights.val();
        let loss = self.loss(experiment, [&features, &weights], &labels)?;
        let grads = GradientsParams::from_grads(loss.backward(&weights), &self.model);
        self.model = self.optimizer.step(rate, self.model.clone(), grads);
        if experiment.route == Route::Host {
            self.step_of_the_loss(experiment, &features, &labels)?;
        }
        Ok(f64::from(loss.tensor().into_scalar::<f32>()))
    }

    /// Centers, learned numbers and running statistics, whichever the loss has.
    fn step_of_the_loss(
        &mut self,
        experiment: &mut Experiment,
        features: &Tensor<2>,
        labels: &[usize],
    ) -> Result<(), Error> {
        let objective = &mut experiment.objective;
        if objective.lambda().is_some() {
            with_array(features, Argument::Features, |features| {
                CenterLoss::update_centers(self.centers.view_mut(), features, labels, 0.5)
            })?;
        }
        let gradients = self.memory.grad_learnables.iter().map(|&g| f64::from(g));
        let learned = objective.learnables().iter().zip(gradients);
        let learned: Vec<f64> = learned.map(|(v, g)| v - RATE_OF_LEARNABLES * g).collect();
        objective.set_learnables(&learned)?;
        Ok(objective.set_statistics(self.memory.statistics())?)
    }

    fn embed(&self, experiment: &Experiment) -> Result<Array2<f32>, Error> {
        let (model, device) = (self.model.valid(), self.device.clone().inner());
        let mut embeddings = Array2::zeros((0, experiment.dim));
        for rows in experiment.test.chunks(CHUNK) {
            let features = model.forward(images(experiment, rows, &device));
            with_array(&features, Argument::Features, |rows| {
                embeddings
                    .append(Axis(0), rows)
                    .map_err(|error| Error::Burn(error.to_string()))
            })?;
        }
        Ok(embeddings)
    }
}

/// The whole training, with a progress bar.
pub(crate) fn train(experiment: &mut Experiment) -> Result<Trained, Error> {
    let aim: AnyLoss = experiment.objective.classifier().loss().clone();
    let mut training = Training::new(experiment)?;
    let (progress, mut step, mut loss) = (experiment.progress(), 0, f64::NAN);
    println!(
        "{}, {:?} route, {} parameters",
        experiment.objective,
        experiment.route,
        training.model.num_params()
    );
    for _ in 0..experiment.epochs {
        let (batches, mut sum) = (experiment.epoch(), 0.0);
        for rows in &batches {
            experiment.warm_up(step, &aim)?;
            let rate = experiment.rate(step);
            sum += training.step(experiment, rows, rate)?;
            step += 1;
            progress.inc(1);
        }
        loss = sum / batches.len() as f64;
        progress.set_message(format!("loss {loss:.4}"));
    }
    progress.finish_and_clear();
    let weights = training.model.weights.val();
    Ok(Trained {
        loss,
        test_embeddings: training.embed(experiment)?,
        weights: with_array(&weights, Argument::ClassWeights, |w| {
            Ok::<_, Error>(w.to_owned())
        })?,
    })
}
