//! Trainings that are saved, loaded and resumed.

use crate::support::{Any, Batch, CLASSES, DIM};
use candle_core::{DType, Device, Module, Tensor, safetensors};
use candle_nn::{Linear, Optimizer, SGD, VarBuilder, VarMap, linear};
use margin_losses_candle::margin_losses::ndarray::Array2;
use margin_losses_candle::margin_losses::{
    Argument, CenterLoss, Evaluation, Objective, Targets, init,
};
use margin_losses_candle::{Checkpoint, Error, HostLoss, with_array};

struct Training {
    objective: Objective,
    vars: VarMap,
    network: Linear,
    head: Checkpoint<f32>,
    memory: Evaluation<f32>,
}

impl Training {
    fn new(line: &str) -> Self {
        let objective: Objective = line.parse().unwrap();
        let vars = VarMap::new();
        let builder = VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu);
        let mut head = Checkpoint::new(&objective);
        head.weights = init::class_weights(CLASSES, DIM, 5).unwrap();
        head.centers = Array2::zeros((CLASSES, DIM));
        Self {
            network: linear(DIM, DIM, builder.pp("layer")).unwrap(),
            memory: Evaluation::new(),
            objective,
            vars,
            head,
        }
    }

    fn step(&mut self, seed: u64) -> Result<f32, Error> {
        let batch = Batch::new(seed);
        let features = self
            .network
            .forward(crate::support::var(&batch.features).as_tensor())?;
        let joint = self.objective.over_centers(self.head.centers.view());
        let loss = HostLoss::new(&*joint, &mut self.memory).evaluate_streamed(
            &features,
            self.head.weights.view_mut(),
            &Targets::new(&batch.labels),
            &mut |mut block| block.weights.scaled_add(-0.1, &block.gradient),
        )?;
        drop(joint);
        SGD::new(self.vars.all_vars(), 0.1)?.backward_step(&loss)?;
        with_array(&features, Argument::Features, |x| {
            CenterLoss::update_centers(self.head.centers.view_mut(), x, &batch.labels, 0.5)
        })?;
        let learned = self
            .objective
            .learnables()
            .iter()
            .zip(&self.memory.grad_learnables);
        let learned: Vec<f64> = learned.map(|(v, g)| v - 0.1 * f64::from(*g)).collect();
        self.objective.set_learnables(&learned)?;
        self.objective.set_statistics(self.memory.statistics())?;
        Ok(loss.to_scalar()?)
    }

    fn save(&self, path: &std::path::Path) -> Result<(), Error> {
        let loss = Checkpoint::<f32>::new(&self.objective);
        let mut head = self.head.clone();
        (head.learnables, head.statistics) = (loss.learnables, loss.statistics);
        let mut tensors = head.tensors()?;
        for (name, var) in self.vars.data().lock().unwrap().iter() {
            tensors.insert(name.clone(), var.as_tensor().clone());
        }
        Ok(safetensors::save(&tensors, path)?)
    }

    fn load(line: &str, path: &std::path::Path) -> Result<Self, Error> {
        let mut training = Self::new(line);
        let tensors = safetensors::load(path, &Device::Cpu)?;
        training.head = Checkpoint::from_tensors(&tensors)?;
        training.head.restore(&mut training.objective)?;
        for (name, var) in training.vars.data().lock().unwrap().iter() {
            var.set(&tensors[name])?;
        }
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
        let file = folder.path().join("checkpoint.safetensors");
        let mut whole = Training::new(line);
        for seed in 0..3 {
            whole.step(seed)?;
        }
        whole.save(&file)?;
        let mut resumed = Training::load(line, &file)?;
        assert_eq!(resumed.objective, whole.objective);
        for seed in 3..6 {
            assert_eq!(
                whole.step(seed)?.to_bits(),
                resumed.step(seed)?.to_bits(),
                "{line}"
            );
        }
        assert_eq!(resumed.head.weights, whole.head.weights);
        assert_eq!(resumed.head.centers, whole.head.centers);
        assert_eq!(resumed.objective, whole.objective);
    }
    Ok(())
}

#[test]
fn other_files_are_refused() -> Any {
    let mut softmax: Objective = "softmax".parse()?;
    let adaface = Checkpoint::<f32>::new(&"adaface".parse()?);
    assert_eq!(
        adaface.restore(&mut softmax).unwrap_err().to_string(),
        "0 statistics expected, 2 found"
    );
    let mut tensors = adaface.tensors()?;
    tensors.insert(
        "head.weights".to_owned(),
        Tensor::zeros((2, 2), DType::F64, &Device::Cpu)?,
    );
    let error = Checkpoint::<f32>::from_tensors(&tensors).unwrap_err();
    assert_eq!(
        error.to_string(),
        "class weights are F64, but F32 is expected: convert them with to_dtype"
    );
    tensors.insert(
        "head.statistics".to_owned(),
        Tensor::zeros((2, 2), DType::F64, &Device::Cpu)?,
    );
    tensors.remove("head.weights");
    let error = Checkpoint::<f32>::from_tensors(&tensors).unwrap_err();
    assert_eq!(
        error.to_string(),
        "head.statistics is no list of F64 numbers"
    );
    Ok(())
}
