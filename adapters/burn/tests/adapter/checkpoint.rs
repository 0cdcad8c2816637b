//! Trainings that are saved, loaded and resumed.

use std::path::Path;

use crate::support::{Any, Batch, CLASSES, DIM, constant, device};
use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::optim::{GradientsParams, SgdConfig};
use burn::store::ModuleRecord;
use margin_losses_burn::margin_losses::ndarray::Array2;
use margin_losses_burn::margin_losses::{
    Argument, CenterLoss, Evaluation, Objective, Targets, init,
};
use margin_losses_burn::{Checkpoint, HostLoss, with_array};

struct Training {
    objective: Objective,
    network: Linear,
    weights: Array2<f32>,
    centers: Array2<f32>,
    memory: Evaluation<f32>,
}

/// What one file holds.
#[derive(Module, Debug)]
struct Saved {
    network: Linear,
    head: Checkpoint,
}

impl Training {
    fn new(line: &str) -> Self {
        Self {
            objective: line.parse().unwrap(),
            network: LinearConfig::new(DIM, DIM).init(&device()),
            weights: init::class_weights(CLASSES, DIM, 5).unwrap(),
            centers: Array2::zeros((CLASSES, DIM)),
            memory: Evaluation::new(),
        }
    }

    fn step(&mut self, seed: u64) -> f32 {
        let batch = Batch::new(seed);
        let features = self.network.forward(constant(&batch.features));
        let joint = self.objective.over_centers(self.centers.view());
        let loss = HostLoss::new(&*joint, &mut self.memory)
            .evaluate_streamed(
                &features,
                self.weights.view_mut(),
                &Targets::new(&batch.labels),
                &mut |mut block| block.weights.scaled_add(-0.1, &block.gradient),
            )
            .unwrap();
        drop(joint);
        let grads = GradientsParams::from_grads(loss.backward(), &self.network);
        let network = self.network.clone();
        self.network = SgdConfig::new().init().step(0.1, network, grads);
        with_array(&features, Argument::Features, |x| {
            CenterLoss::update_centers(self.centers.view_mut(), x, &batch.labels, 0.5)
        })
        .unwrap();
        let learned = self
            .objective
            .learnables()
            .iter()
            .zip(&self.memory.grad_learnables);
        let learned: Vec<f64> = learned.map(|(v, g)| v - 0.1 * f64::from(*g)).collect();
        self.objective.set_learnables(&learned).unwrap();
        self.objective
            .set_statistics(self.memory.statistics())
            .unwrap();
        loss.into_scalar::<f32>()
    }

    fn saved(&self) -> Saved {
        let (weights, centers) = (self.weights.view(), self.centers.view());
        Saved {
            network: self.network.clone(),
            head: Checkpoint::new(&self.objective, weights, centers, &device().inner()),
        }
    }

    fn load(line: &str, path: &Path) -> Result<Self, Box<dyn std::error::Error>> {
        let mut training = Self::new(line);
        let saved = training
            .saved()
            .try_load_record(ModuleRecord::load(path)?)?;
        training.network = saved.network;
        training.weights = saved.head.weights()?;
        training.centers = saved.head.centers()?;
        saved.head.restore(&mut training.objective)?;
        Ok(training)
    }
}

#[test]
fn resumed_trainings_have_equal_bits() -> Any {
    let folder = tempfile::tempdir()?;
    for line in [
        "normface:s=7,learned+center:lambda=0.01",
        "adaface:s=8",
        "curricularface:s=8,m=0.3",
    ] {
        let file = folder.path().join("checkpoint.bpk");
        let mut whole = Training::new(line);
        for seed in 0..3 {
            whole.step(seed);
        }
        whole.saved().into_record().save(&file)?;
        let mut resumed = Training::load(line, &file)?;
        assert_eq!(resumed.objective, whole.objective);
        for seed in 3..6 {
            assert_eq!(
                whole.step(seed).to_bits(),
                resumed.step(seed).to_bits(),
                "{line}"
            );
        }
        assert_eq!(resumed.weights, whole.weights);
        assert_eq!(resumed.centers, whole.centers);
        assert_eq!(resumed.objective, whole.objective);
        std::fs::remove_file(&file)?;
    }
    Ok(())
}

#[test]
fn other_losses_are_refused() -> Any {
    let none = Array2::<f32>::zeros((0, 0));
    let adaface: Objective = "adaface".parse()?;
    let head = Checkpoint::new(&adaface, none.view(), none.view(), &device().inner());
    let error = head.restore(&mut "softmax".parse()?).unwrap_err();
    assert_eq!(error.to_string(), "0 statistics expected, 2 found");
    assert_eq!(head.weights::<f32>()?, none);
    let weights = Array2::<f64>::ones((2, 2));
    let head = Checkpoint::new(&adaface, weights.view(), weights.view(), &device().inner());
    let error = head.weights::<f32>().unwrap_err();
    assert_eq!(
        error.to_string(),
        "class weights are F64, but F32 is expected: convert them with cast"
    );
    Ok(())
}
