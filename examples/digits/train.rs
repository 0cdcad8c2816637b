//! One training run: a loss and a seed, from the initial weights to the figures of the table.

use margin_losses::ndarray::{Array2, Axis};
use margin_losses::{Error, Evaluation, init};
use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::SliceRandom;

use crate::criterion::{Criterion, Loss};
use crate::dataset::{Dataset, Split};
use crate::metrics;
use crate::network::{Network, Parameter};

const BATCH: usize = 64;
/// How many held-out images are embedded at a time.
const CHUNK: usize = 1024;

/// What is the same for all losses.
#[derive(Debug)]
pub(crate) struct Setting<'a> {
    pub(crate) dataset: &'a Dataset,
    pub(crate) dim: usize,
    pub(crate) epochs: u64,
}

/// The figures of one run; angles in degrees, all else shares.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) accuracy: f64,
    pub(crate) verification: metrics::Verification,
    pub(crate) angles: metrics::Angles,
}

/// What a seed is used for. Each use has its own generator, so that none depends on how much another draws.
#[derive(Clone, Copy)]
enum Purpose {
    Split,
    Network,
    ClassWeights,
    Order,
}

fn stream(seed: u64, purpose: Purpose) -> u64 {
    4 * seed + purpose as u64
}

fn generator(seed: u64, purpose: Purpose) -> Xoshiro256PlusPlus {
    Xoshiro256PlusPlus::seed_from_u64(stream(seed, purpose))
}

/// The split of a seed, the same for all losses.
pub(crate) fn split(dataset: &Dataset, seed: u64) -> Result<Split, String> {
    dataset.split(&mut generator(seed, Purpose::Split))
}

/// Trains a network with this loss and measures it on the held-out images; `tick` is called after each epoch.
pub(crate) fn run(
    setting: &Setting<'_>,
    loss: Loss,
    seed: u64,
    tick: impl Fn(),
) -> Result<Outcome, String> {
    let Split {
        mut train,
        held_out,
    } = split(setting.dataset, seed)?;
    let fail = |error: Error| format!("{}, seed {seed}: {error}", loss.title());
    let Setting {
        dataset,
        dim,
        epochs,
    } = *setting;

    let widths = [dataset.width, 256, 128, dim];
    let mut network = Network::new(&widths, &mut generator(seed, Purpose::Network));
    let class_seed = stream(seed, Purpose::ClassWeights);
    let mut weights = Parameter::new(init::class_weights(dataset.classes, dim, class_seed));
    let mut criterion = Criterion::new(loss, dataset.classes, dim).map_err(fail)?;
    let mut evaluation = Evaluation::new();

    let mut order = generator(seed, Purpose::Order);
    for _ in 0..epochs {
        train.shuffle(&mut order);
        // An incomplete last batch is left out: a batch of one has no variance to normalise by.
        for batch in train.chunks_exact(BATCH.min(train.len())) {
            let labels = dataset.labels(batch);
            let (embeddings, trace) = network.forward(dataset.images(batch));
            criterion
                .step(
                    embeddings.view(),
                    weights.value.view(),
                    &labels,
                    &mut evaluation,
                )
                .map_err(fail)?;
            let gradients = network.backward(&trace, &evaluation.grad_features);
            for (parameter, gradient) in network.parameters().zip(&gradients) {
                parameter.descend(gradient);
            }
            weights.descend(&evaluation.grad_weights);
        }
        tick();
    }

    let mut embeddings = Array2::zeros((held_out.len(), dim));
    for (rows, chunk) in embeddings
        .axis_chunks_iter_mut(Axis(0), CHUNK)
        .zip(held_out.chunks(CHUNK))
    {
        network.embed(dataset.images(chunk)).assign_to(rows);
    }
    let labels = dataset.labels(&held_out);
    let accuracy = criterion
        .accuracy(embeddings.view(), weights.value.view(), &labels)
        .map_err(fail)?;
    let units = metrics::unit_rows(embeddings);
    Ok(Outcome {
        accuracy,
        verification: metrics::verification(units.view(), &labels),
        angles: metrics::angles(units.view(), &labels, dataset.classes),
    })
}
