//! A small convolutional network in candle, and its training.

#[allow(dead_code)]
#[path = "../../../../examples/shared/dataset.rs"]
pub(crate) mod dataset;
#[allow(dead_code)]
#[path = "../../../shared/experiment.rs"]
pub(crate) mod experiment;
#[allow(dead_code)]
#[path = "../../../../examples/shared/idx.rs"]
pub(crate) mod idx;

use candle_core::{DType, Device, Module, ModuleT, Tensor, Var};
use candle_nn::{
    AdamW, BatchNorm, Conv2d, Conv2dConfig, Linear, Optimizer, ParamsAdamW, VarBuilder, VarMap,
    batch_norm, conv2d, linear_no_bias,
};
use margin_losses::ndarray::Array2;
use margin_losses::{AnyLoss, Argument, CenterLoss, Evaluation, Targets, init};
use margin_losses_candle::{DeviceLoss, Error, HostLoss, Loss, with_array};

use experiment::{Experiment, Route, Trained};

/// What the loss itself learns has a rate of its own.
const RATE_OF_LEARNABLES: f64 = 0.1;
/// How many images are embedded at a time.
const CHUNK: usize = 500;

/// Two convolutions, each with a pool, and a linear layer with batch normalisation.
struct Network {
    convolutions: [Conv2d; 2],
    embedding: Linear,
    norm: BatchNorm,
}

impl Network {
    fn new(side: usize, dim: usize, vars: &VarBuilder<'_>) -> candle_core::Result<Self> {
        let padded = Conv2dConfig {
            padding: 1,
            ..Conv2dConfig::default()
        };
        Ok(Self {
            convolutions: [
                conv2d(1, 16, 3, padded, vars.pp("first"))?,
                conv2d(16, 32, 3, padded, vars.pp("second"))?,
            ],
            embedding: linear_no_bias(32 * (side / 4) * (side / 4), dim, vars.pp("embedding"))?,
            norm: batch_norm(dim, 1e-5, vars.pp("norm"))?,
        })
    }

    fn forward(&self, images: &Tensor, train: bool) -> candle_core::Result<Tensor> {
        let mut x = images.clone();
        for convolution in &self.convolutions {
            x = convolution.forward(&x)?.relu()?.max_pool2d(2)?;
        }
        let x = self.embedding.forward(&x.flatten_from(1)?)?;
        self.norm.forward_t(&x, train)
    }
}

/// Network, class weights, and what the loss keeps.
struct Training {
    vars: VarMap,
    network: Network,
    weights: Var,
    centers: Array2<f32>,
    memory: Evaluation<f32>,
    optimizer: AdamW,
}

/// candle's initialisers have no seed on the CPU, so all variables are drawn anew, in the order of their names.
fn seed(vars: &VarMap, seed: u64) -> Result<(), Error> {
    let data = vars.data().lock().expect("nobody panics with the lock");
    let mut named: Vec<_> = data.iter().collect();
    named.sort_by_key(|(name, _)| name.as_str());
    for (index, (name, var)) in named.into_iter().enumerate() {
        if name.ends_with("bias") {
            var.set(&var.zeros_like()?)?;
        }
        let &[rows, ref rest @ ..] = var.dims() else {
            continue;
        };
        let inputs: usize = rest.iter().product();
        if !rest.is_empty() {
            let deviation = (2.0 / inputs as f64).sqrt();
            let values: Array2<f32> =
                init::normal(rows, inputs, deviation, 100 * seed + index as u64)?;
            let values = values.into_raw_vec_and_offset().0;
            var.set(&Tensor::from_vec(values, var.dims(), &Device::Cpu)?)?;
        }
    }
    Ok(())
}

impl Training {
    fn new(experiment: &Experiment) -> Result<Self, Error> {
        let vars = VarMap::new();
        let builder = VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu);
        let network = Network::new(experiment.side, experiment.dim, &builder)?;
        seed(&vars, experiment.seed)?;
        let weights: Array2<f32> =
            init::class_weights(experiment.rows(), experiment.dim, experiment.seed)?;
        let shape = weights.dim();
        let weights = Var::from_vec(weights.into_raw_vec_and_offset().0, shape, &Device::Cpu)?;
        let mut trained = vars.all_vars();
        trained.push(weights.clone());
        let parameters = ParamsAdamW {
            lr: experiment.rate(0),
            ..ParamsAdamW::default()
        };
        Ok(Self {
            network,
            weights,
            centers: Array2::zeros((experiment.classes, experiment.dim)),
            memory: Evaluation::new(),
            optimizer: AdamW::new(trained, parameters)?,
            vars,
        })
    }

    fn images(experiment: &Experiment, rows: &[usize]) -> candle_core::Result<Tensor> {
        let pixels = experiment.dataset.images(rows).into_raw_vec_and_offset().0;
        let side = experiment.side;
        Tensor::from_vec(pixels, (rows.len(), 1, side, side), &Device::Cpu)
    }

    fn loss(
        &mut self,
        experiment: &mut Experiment,
        features: &Tensor,
        labels: &[usize],
    ) -> Result<Loss, Error> {
        let targets = Targets::new(labels);
        match experiment.route {
            Route::Host => {
                let joint = experiment.objective.over_centers(self.centers.view());
                HostLoss::new(&*joint, &mut self.memory).evaluate(features, &self.weights, &targets)
            }
            Route::Device => DeviceLoss::new(experiment.objective.classifier().loss().clone())?
                .evaluate(features, &self.weights, &targets),
        }
    }

    /// One step. Returns the loss.
    fn step(&mut self, experiment: &mut Experiment, rows: &[usize]) -> Result<f64, Error> {
        let labels = experiment.dataset.labels(rows);
        let features = self
            .network
            .forward(&Self::images(experiment, rows)?, true)?;
        let loss = self.loss(experiment, &features, &labels)?;
        self.optimizer.step(&loss.backward(&self.weights)?)?;
        if experiment.route == Route::Host {
            self.step_of_the_loss(experiment, &features, &labels)?;
        }
        Ok(f64::from(loss.tensor().to_scalar::<f32>()?))
    }

    /// Centers, learned numbers and running statistics, whichever the loss has.
    fn step_of_the_loss(
        &mut self,
        experiment: &mut Experiment,
        features: &Tensor,
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
        let mut embeddings = Array2::zeros((0, experiment.dim));
        for rows in experiment.test.chunks(CHUNK) {
            let features = self
                .network
                .forward(&Self::images(experiment, rows)?, false)?;
            with_array(&features, Argument::Features, |rows| {
                embeddings
                    .append(margin_losses::ndarray::Axis(0), rows)
                    .map_err(|error| Error::Checkpoint(error.to_string()))
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
        "{}, {:?} route, {} variables",
        experiment.objective,
        experiment.route,
        training.vars.all_vars().len()
    );
    for _ in 0..experiment.epochs {
        let (batches, mut sum) = (experiment.epoch(), 0.0);
        for rows in &batches {
            experiment.warm_up(step, &aim)?;
            training.optimizer.set_learning_rate(experiment.rate(step));
            sum += training.step(experiment, rows)?;
            step += 1;
            progress.inc(1);
        }
        loss = sum / batches.len() as f64;
        progress.set_message(format!("loss {loss:.4}"));
    }
    progress.finish_and_clear();
    Ok(Trained {
        loss,
        test_embeddings: training.embed(experiment)?,
        weights: with_array(&training.weights, Argument::ClassWeights, |w| {
            Ok::<_, Error>(w.to_owned())
        })?,
    })
}
