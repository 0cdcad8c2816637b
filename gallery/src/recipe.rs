//! How a loss is trained for a figure: the loss of each iteration, and what it leaves to its caller.

use std::fmt;

use margin_losses::ndarray::Array2;
use margin_losses::schedule::{LambdaAnnealing, MarginWarmUp};
use margin_losses::{
    ASoftmax, ArcFace, CenterLoss, CombinedMargin, CosFace, Error, JointLoss, MarginLoss,
    ModifiedSoftmax, NormFace, SoftmaxLoss, Targets,
};

use crate::palette::Family;
use crate::shared::dataset::Dataset;
use crate::shared::training::Model;

/// The share α of the way that centers go in a step: the center-loss paper's.
const CENTER_RATE: f64 = 0.5;

/// The loss at an iteration, which is counted from 0.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Loss {
    Softmax,
    /// Softmax joined with λ times the center loss.
    Center(f64),
    Modified,
    ASoftmax(u32, LambdaAnnealing),
    NormFace(f64),
    CosFace(f64, MarginWarmUp),
    ArcFace(f64, MarginWarmUp),
    Combined(f64, [f64; 3]),
}

impl Loss {
    pub(crate) fn family(self) -> Family {
        match self {
            Self::Softmax => Family::Softmax,
            Self::Center(_) => Family::Center,
            Self::Modified => Family::Modified,
            Self::ASoftmax(..) => Family::ASoftmax,
            Self::NormFace(_) => Family::NormFace,
            Self::CosFace(..) => Family::CosFace,
            Self::ArcFace(..) => Family::ArcFace,
            Self::Combined(..) => Family::Combined,
        }
    }

    /// The loss at this iteration; without the center term, which needs the centers.
    fn at(self, iteration: u64) -> Result<Box<dyn MarginLoss<f32>>, Error> {
        Ok(match self {
            Self::Softmax | Self::Center(_) => Box::new(SoftmaxLoss::new()),
            Self::Modified => Box::new(ModifiedSoftmax::new()),
            // SphereFace counts its first iteration as 1.
            Self::ASoftmax(m, annealing) => {
                Box::new(ASoftmax::new(m)?.with_lambda(annealing.at(iteration + 1))?)
            }
            Self::NormFace(scale) => Box::new(NormFace::new(scale)?),
            Self::CosFace(scale, margin) => Box::new(CosFace::new(scale, margin.at(iteration))?),
            Self::ArcFace(scale, margin) => Box::new(ArcFace::new(scale, margin.at(iteration))?),
            Self::Combined(scale, [m1, m2, m3]) => {
                Box::new(CombinedMargin::new(scale, m1, m2, m3)?)
            }
        })
    }

    /// How much of the margin is in effect at this iteration, where it is scheduled: 1/(1 + λ), or m(t)/m.
    pub(crate) fn margin_share(self, iteration: u64) -> f64 {
        match self {
            Self::ASoftmax(_, annealing) => 1.0 / (1.0 + annealing.at(iteration + 1)),
            Self::CosFace(_, margin) | Self::ArcFace(_, margin) => {
                margin.at(iteration) / margin.to()
            }
            _ => 1.0,
        }
    }
}

/// A run that is under way.
pub(crate) struct Run<'a> {
    dataset: &'a Dataset,
    loss: Loss,
    pub(crate) model: Model,
    centers: Option<Array2<f32>>,
    iteration: u64,
}

impl fmt::Debug for Run<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?} at {}", self.loss, self.iteration)
    }
}

/// What an epoch was like, over its training rows.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Epoch {
    pub(crate) loss: f64,
    /// The mean angle between features and the weights of their classes, in degrees.
    pub(crate) target_angle: f64,
}

impl<'a> Run<'a> {
    /// Pixels → 256 → 128 → `dim`, as the digits example has it.
    pub(crate) fn new(dataset: &'a Dataset, loss: Loss, dim: usize, seed: u64) -> Self {
        let widths = [dataset.width, 256, 128, dim];
        let mut model = Model::new(&widths, dataset.classes, seed);
        if dim == 2 {
            // In the plane He's weights, which turn more slowly: classes that end on top of each other stay there.
            model.network = model.network.with_larger_weights(6_f32.sqrt());
        }
        Self {
            dataset,
            loss,
            model,
            centers: matches!(loss, Loss::Center(_)).then(|| Array2::zeros((dataset.classes, dim))),
            iteration: 0,
        }
    }

    /// The iterations that were done.
    pub(crate) fn iteration(&self) -> u64 {
        self.iteration
    }

    /// Sees each training image once.
    pub(crate) fn epoch(&mut self, train: &mut [usize], rate: f32) -> Result<Epoch, Error> {
        let mut sum = Epoch::default();
        let mut batches = 0.0;
        let Self {
            dataset,
            loss,
            model,
            centers,
            iteration,
        } = self;
        model.epoch(dataset, train, rate, |features, weights, labels, out| {
            let function = loss.at(*iteration)?;
            let targets = Targets::new(labels);
            if let (Some(centers), Loss::Center(lambda)) = (&mut *centers, *loss) {
                JointLoss::new(function, centers.view(), lambda)?
                    .evaluate_into(features, weights, &targets, out)?;
                CenterLoss::update_centers(centers.view_mut(), features, labels, CENTER_RATE)?;
            } else {
                function.evaluate_into(features, weights, &targets, out)?;
            }
            *iteration += 1;

            let cosines = &out.forward.target_cosines;
            let angles = cosines.mapv(|cosine| f64::from(cosine).acos().to_degrees());
            sum.loss += f64::from(out.loss());
            sum.target_angle += angles.mean().unwrap_or_default();
            batches += 1.0;
            Ok(())
        })?;
        Ok(Epoch {
            loss: sum.loss / batches,
            target_angle: sum.target_angle / batches,
        })
    }

    /// The share of these images whose class scores highest, without margin.
    pub(crate) fn accuracy(&self, indices: &[usize]) -> Result<f64, Error> {
        let features = self.model.embed(self.dataset, indices);
        let labels = self.dataset.labels(indices);
        let forward = self.loss.at(self.iteration)?.forward(
            features.view(),
            self.model.weights.value.view(),
            &Targets::new(&labels),
        )?;
        Ok(forward.accuracy().unwrap_or(f64::NAN))
    }
}
