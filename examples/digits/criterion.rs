//! The losses of the table, with the hyper-parameters they run with, and what each needs between two steps.

use clap::ValueEnum;
use margin_losses::ndarray::{Array2, ArrayView2};
use margin_losses::schedule::LambdaAnnealing;
use margin_losses::{
    ASoftmax, AmSoftmax, ArcFace, CenterLoss, CombinedMargin, CosFace, Error, Evaluation,
    JointLoss, MarginLoss, ModifiedSoftmax, NormFace, SoftmaxLoss, Targets, guide,
};

/// The target's probability that the scale of the normalised losses must make possible.
const TARGET_PROBABILITY: f64 = 0.9999;
/// Center loss: the weight λ of the centers' pull, and the share α of the way that centers go in a step.
const CENTER_WEIGHT: f64 = 0.003;
const CENTER_RATE: f64 = 0.5;
/// The step of network, class weights and learned numbers alike.
pub(crate) const LEARNING_RATE: f64 = 0.02;
const MOMENTUM: f64 = 0.9;

/// A loss of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Loss {
    /// Softmax with cross-entropy, without bias.
    Softmax,
    /// Softmax joined with center loss: λ = 0.003, α = 0.5.
    Center,
    /// Softmax with unit class weights.
    Modified,
    /// Angular margin as a multiple: m = 4, annealed.
    ASoftmax,
    /// Softmax of scaled cosines.
    Normface,
    /// The same with a learned scale, from 1 on.
    NormfaceLearned,
    /// Additive margin in the cosine: m = 0.35.
    AmSoftmax,
    /// The same under its other name: m = 0.35.
    Cosface,
    /// Additive margin in the angle: m = 0.5.
    Arcface,
    /// All three margins: m₁ = 1, m₂ = 0.3, m₃ = 0.2.
    Combined,
}

impl Loss {
    /// Its name in the table.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Softmax => "softmax",
            Self::Center => "softmax + center",
            Self::Modified => "modified softmax",
            Self::ASoftmax => "A-Softmax",
            Self::Normface => "NormFace",
            Self::NormfaceLearned => "NormFace, learned s",
            Self::AmSoftmax => "AM-Softmax",
            Self::Cosface => "CosFace",
            Self::Arcface => "ArcFace",
            Self::Combined => "combined margin",
        }
    }

    fn build(self, classes: usize) -> Result<Box<dyn MarginLoss<f32>>, Error> {
        let scale = scale(classes)?;
        Ok(match self {
            Self::Softmax | Self::Center => Box::new(SoftmaxLoss::new()),
            Self::Modified => Box::new(ModifiedSoftmax::new()),
            Self::ASoftmax => Box::new(ASoftmax::new(4)?),
            Self::Normface => Box::new(NormFace::new(scale)?),
            Self::NormfaceLearned => Box::new(NormFace::learned(1.0)?),
            Self::AmSoftmax => Box::new(AmSoftmax::new(scale, 0.35)?),
            Self::Cosface => Box::new(CosFace::new(scale, 0.35)?),
            Self::Arcface => Box::new(ArcFace::new(scale, 0.5)?),
            Self::Combined => Box::new(CombinedMargin::new(scale, 1.0, 0.3, 0.2)?),
        })
    }
}

/// The scale of every loss that normalises the features, but for the learned one.
pub(crate) fn scale(classes: usize) -> Result<f64, Error> {
    guide::suggested_scale(classes, TARGET_PROBABILITY)
}

/// A loss in training: the function itself, and the state that it leaves to its caller.
#[derive(Debug)]
pub(crate) struct Criterion {
    function: Box<dyn MarginLoss<f32>>,
    /// The velocities of the function's learnables.
    velocities: Vec<f64>,
    /// The centers of the classes, where there is center loss.
    centers: Option<Array2<f32>>,
    /// The course of A-Softmax's λ: its margin enters bit by bit.
    annealing: Option<LambdaAnnealing>,
    iteration: u64,
}

impl Criterion {
    pub(crate) fn new(loss: Loss, classes: usize, dim: usize) -> Result<Self, Error> {
        let function = loss.build(classes)?;
        let annealing = match loss {
            Loss::ASoftmax => Some(LambdaAnnealing::sphere_face()),
            _ => None,
        };
        Ok(Self {
            velocities: vec![0.0; function.learnables().len()],
            function,
            centers: (loss == Loss::Center).then(|| Array2::zeros((classes, dim))),
            annealing,
            iteration: 0,
        })
    }

    /// Loss and gradients of a training batch; then the loss's own state takes its step.
    pub(crate) fn step(
        &mut self,
        features: ArrayView2<'_, f32>,
        weights: ArrayView2<'_, f32>,
        labels: &[usize],
        evaluation: &mut Evaluation<f32>,
    ) -> Result<(), Error> {
        // SphereFace counts its first iteration as 1.
        self.iteration += 1;
        if let Some(annealing) = &self.annealing {
            let lambda = annealing.at(self.iteration);
            self.function = Box::new(ASoftmax::new(4)?.with_lambda(lambda)?);
        }

        let targets = Targets::new(labels);
        if let Some(centers) = &mut self.centers {
            JointLoss::new(&mut self.function, centers.view(), CENTER_WEIGHT)?
                .evaluate_into(features, weights, &targets, evaluation)?;
            CenterLoss::update_centers(centers.view_mut(), features, labels, CENTER_RATE)?;
        } else {
            self.function
                .evaluate_into(features, weights, &targets, evaluation)?;
        }

        let mut learnables = self.function.learnables().to_vec();
        for ((value, velocity), &gradient) in learnables
            .iter_mut()
            .zip(&mut self.velocities)
            .zip(&evaluation.grad_learnables)
        {
            *velocity = MOMENTUM * *velocity + f64::from(gradient);
            *value -= LEARNING_RATE * *velocity;
        }
        self.function.set_learnables(&learnables)
    }

    /// The share of rows whose class scores highest, without margin.
    pub(crate) fn accuracy(
        &self,
        features: ArrayView2<'_, f32>,
        weights: ArrayView2<'_, f32>,
        labels: &[usize],
    ) -> Result<f64, Error> {
        let forward = self
            .function
            .forward(features, weights, &Targets::new(labels))?;
        Ok(forward.accuracy().unwrap_or(f64::NAN))
    }
}
