//! One training run: a loss and a seed, from the initial weights to the figures of the table.

use margin_losses::Error;
use margin_losses::verification::{Embeddings, Verification};

use crate::angles::{Angles, angles};
use crate::criterion::{Criterion, Loss};
use crate::losses;
use crate::shared::dataset::{Dataset, Split};
use crate::shared::training::{self, Model};

/// The step of network, class weights and learned numbers alike.
const LEARNING_RATE: f64 = 0.02;
/// The false-accept rates at which the true-accept rate is given.
const FALSE_ACCEPT_RATES: [f64; 2] = [1e-2, 1e-3];

/// What is the same for all losses.
#[derive(Debug)]
pub(crate) struct Setting<'a> {
    pub(crate) dataset: &'a Dataset,
    pub(crate) dim: usize,
    pub(crate) epochs: u64,
    /// How many times as large as by default the network's first weights are.
    pub(crate) first_weights: f32,
}

/// The figures of one run; angles in degrees, all else shares.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) accuracy: f64,
    pub(crate) verification: Verification,
    pub(crate) angles: Angles,
}

/// Trains a network with this loss and measures it on the held-out images; `tick` is called after each epoch.
pub(crate) fn run(
    setting: &Setting<'_>,
    loss: &Loss,
    seed: u64,
    tick: impl Fn(),
) -> Result<Outcome, String> {
    let Split {
        mut train,
        held_out,
    } = training::split(setting.dataset, seed)?;
    let fail = |error: Error| format!("{}, seed {seed}: {error}", loss.title());
    let Setting {
        dataset,
        dim,
        epochs,
        first_weights,
    } = *setting;

    let widths = [dataset.width, 256, 128, dim];
    let rows = dataset.classes * loss.sub_centers().map_err(fail)?;
    let mut model = Model::new(&widths, rows, seed);
    model.network = model.network.with_larger_weights(first_weights);
    let mut criterion = losses::scale(dataset.classes)
        .and_then(|scale| Criterion::new(loss, scale, dataset.classes, dim))
        .map_err(fail)?;
    for _ in 0..epochs {
        model
            .epoch(
                dataset,
                &mut train,
                LEARNING_RATE as f32,
                |features, weights, labels, evaluation| {
                    criterion.step(LEARNING_RATE, features, weights, labels, evaluation)
                },
            )
            .map_err(fail)?;
        tick();
    }

    let embeddings = model.embed(dataset, &held_out);
    let labels = dataset.labels(&held_out);
    let accuracy = criterion
        .accuracy(embeddings.view(), model.weights.value.view(), &labels)
        .map_err(fail)?;
    let verification = Embeddings::new(embeddings.view(), &labels)
        .and_then(|embeddings| embeddings.verify(&FALSE_ACCEPT_RATES))
        .map_err(fail)?;
    Ok(Outcome {
        accuracy,
        verification,
        angles: angles(embeddings, &labels, dataset.classes),
    })
}
