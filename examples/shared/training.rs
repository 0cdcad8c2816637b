//! A network and its class weights in training, and the seeds of everything that is drawn.

use margin_losses::ndarray::{Array2, ArrayView2, Axis};
use margin_losses::{Error, Evaluation, init};
use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::SliceRandom;

use super::dataset::{Dataset, Split};
use super::network::{Network, Parameter};

pub(crate) const BATCH: usize = 64;
/// How many images are embedded at a time.
const CHUNK: usize = 1024;

/// What a seed is used for. Each use has its own generator, so that none depends on how much another draws.
#[derive(Clone, Copy)]
pub(crate) enum Purpose {
    Split,
    Network,
    ClassWeights,
    Order,
}

fn stream(seed: u64, purpose: Purpose) -> u64 {
    4 * seed + purpose as u64
}

pub(crate) fn generator(seed: u64, purpose: Purpose) -> Xoshiro256PlusPlus {
    Xoshiro256PlusPlus::seed_from_u64(stream(seed, purpose))
}

/// The split of a seed, the same for all losses.
pub(crate) fn split(dataset: &Dataset, seed: u64) -> Result<Split, String> {
    dataset.split(&mut generator(seed, Purpose::Split))
}

/// What is trained: the network, and the class weights.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) network: Network,
    pub(crate) weights: Parameter,
    evaluation: Evaluation<f32>,
    order: Xoshiro256PlusPlus,
}

impl Model {
    /// A network of these widths, from the pixels to the dimension of the embedding, as a seed begins it, and so many rows of
    /// class weights: one for each class, or one for each sub-center.
    pub(crate) fn new(widths: &[usize], rows: usize, seed: u64) -> Self {
        let dim = widths[widths.len() - 1];
        let class_seed = stream(seed, Purpose::ClassWeights);
        Self {
            network: Network::new(widths, &mut generator(seed, Purpose::Network)),
            weights: Parameter::new(
                init::class_weights(rows, dim, class_seed)
                    .expect("some rows for each class fit into memory"),
            ),
            evaluation: Evaluation::new(),
            order: generator(seed, Purpose::Order),
        }
    }

    /// Sees each training image once, at this learning rate. `loss` is given the embeddings, the class weights and the
    /// labels of each batch, and an evaluation to fill.
    pub(crate) fn epoch(
        &mut self,
        dataset: &Dataset,
        train: &mut [usize],
        rate: f32,
        mut loss: impl FnMut(
            ArrayView2<'_, f32>,
            ArrayView2<'_, f32>,
            &[usize],
            &mut Evaluation<f32>,
        ) -> Result<(), Error>,
    ) -> Result<(), Error> {
        train.shuffle(&mut self.order);
        // An incomplete last batch is left out: a batch of one has no variance to normalise by.
        for batch in train.chunks_exact(BATCH.min(train.len())) {
            let labels = dataset.labels(batch);
            self.step(dataset.images(batch), rate, |features, weights, out| {
                loss(features, weights, &labels, out)
            })?;
        }
        Ok(())
    }

    /// One step on a batch of at least two images, at this learning rate. `loss` is given the embeddings and the class weights, and
    /// an evaluation to fill.
    pub(crate) fn step(
        &mut self,
        images: Array2<f32>,
        rate: f32,
        loss: impl FnOnce(
            ArrayView2<'_, f32>,
            ArrayView2<'_, f32>,
            &mut Evaluation<f32>,
        ) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let (embeddings, trace) = self.network.forward(images);
        let out = &mut self.evaluation;
        loss(embeddings.view(), self.weights.value.view(), out)?;
        let gradients = self.network.backward(&trace, &out.grad_features);
        for (parameter, gradient) in self.network.parameters().zip(&gradients) {
            parameter.descend(gradient, rate);
        }
        self.weights.descend(&out.grad_weights, rate);
        Ok(())
    }

    /// The embeddings of these images, as the network gives them in use.
    pub(crate) fn embed(&self, dataset: &Dataset, indices: &[usize]) -> Array2<f32> {
        let mut embeddings = Array2::zeros((indices.len(), self.weights.value.ncols()));
        for (rows, chunk) in embeddings
            .axis_chunks_iter_mut(Axis(0), CHUNK)
            .zip(indices.chunks(CHUNK))
        {
            self.network.embed(dataset.images(chunk)).assign_to(rows);
        }
        embeddings
    }
}
