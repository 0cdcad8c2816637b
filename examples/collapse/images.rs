//! Images that are not centred, through a perceptron without normalisation.

use margin_losses::{Error, MarginLoss, Targets};

use crate::Outcome;
use crate::candidate::{Candidate, Progress};
use crate::shared::dataset::{Dataset, Split};
use crate::shared::training::{self, BATCH, Model};

/// How long, and in which steps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Course {
    pub(crate) epochs: u64,
    pub(crate) rate: f32,
}

/// The outer error is of the data, the inner one of the training.
pub(crate) fn run(
    candidate: &Candidate,
    dataset: &Dataset,
    scale: f64,
    course: Course,
    seed: u64,
) -> Result<Result<Outcome, Error>, String> {
    let split = training::split(dataset, seed)?;
    Ok(train(candidate, dataset, split, scale, course, seed))
}

fn train(
    candidate: &Candidate,
    dataset: &Dataset,
    split: Split,
    scale: f64,
    course: Course,
    seed: u64,
) -> Result<Outcome, Error> {
    let Course { epochs, rate } = course;
    let Split {
        mut train,
        held_out,
    } = split;
    let steps = epochs * (train.len() / BATCH) as u64;
    let mut step = 0;
    let mut model = Model::new(&[dataset.width, 128, 32], dataset.classes, seed);
    model.network = model.network.without_normalisation();
    for _ in 0..epochs {
        model.epoch(
            dataset,
            &mut train,
            rate,
            |features, weights, labels, out| {
                let progress = Progress { step, steps };
                step += 1;
                (candidate.loss)(dataset.classes, scale, progress)?.evaluate_into(
                    features,
                    weights,
                    &Targets::new(labels),
                    out,
                )
            },
        )?;
    }
    let labels = dataset.labels(&held_out);
    let last = (candidate.loss)(dataset.classes, scale, Progress { step, steps })?;
    let forward = last.forward(
        model.embed(dataset, &held_out).view(),
        model.weights.value.view(),
        &Targets::new(&labels),
    )?;
    Ok(Outcome::of(&forward))
}
