//! One training run: a loss and a seed, from the initial weights to the verification of classes it has not seen.

use std::f64::consts::PI;

use margin_losses::ndarray::ArrayView2;
use margin_losses::verification::{Embeddings, Verification};
use margin_losses::{Error, Evaluation, Forward, guide};

use crate::criterion::Criterion;
use crate::figure;
use crate::images::{Batches, Change, TRAINED, Training, by_rarity, divided};
use crate::losses::{Choice, SCALE};
use crate::shared::dataset::Dataset;
use crate::shared::training::Model;

/// The false-accept rates at which the true-accept rate is given.
pub(crate) const FALSE_ACCEPT_RATES: [f64; 3] = [1e-2, 1e-3, 1e-4];
const HIDDEN: usize = 512;
const DIM: usize = 64;
const BATCH: usize = 128;
/// The learning rate of the first step.
const RATE: f64 = 0.1;
/// The share of the steps in which a margin grows from nothing.
const WARM_UP: f64 = 0.4;

/// The last batches of a training, which tell whether it has collapsed.
const JUDGED: u64 = 10;

/// What is the same for all losses.
#[derive(Debug)]
pub(crate) struct Setting<'a> {
    pub(crate) dataset: &'a Dataset,
    pub(crate) change: Change,
    pub(crate) epochs: u64,
}

/// What comes of one run; rates are shares.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) equal_error_rate: f64,
    /// At the [`FALSE_ACCEPT_RATES`].
    pub(crate) true_accept_rates: Vec<f64>,
    /// The true-accept rates at those of the figure.
    pub(crate) curve: Vec<f64>,
    /// With a long tail: the share of the images that it leaves out which are taken for their class, of rare classes and of others.
    pub(crate) accuracies: Option<[f64; 2]>,
    /// A line on a training that has failed, by its last batches.
    pub(crate) trouble: Option<String>,
}

/// Trains a network with this loss and verifies the classes that it has not seen; `tick` is called after each epoch.
pub(crate) fn run(
    setting: &Setting<'_>,
    choice: &Choice,
    seed: u64,
    tick: impl Fn(),
) -> Result<Outcome, String> {
    let fail = |error: Error| format!("{choice}, seed {seed}: {error}");
    let dataset = setting.dataset;
    let training = Training::new(dataset, setting.change, seed);
    let Trained {
        model,
        criterion,
        last,
    } = train(setting, &training, choice, seed, tick).map_err(fail)?;
    let last: Vec<&Forward<f32>> = last.iter().collect();
    let trouble = guide::diagnose(&last, TRAINED, DIM, None).map_err(fail)?;
    let accuracy = |images: &[usize]| {
        let features = model.embed(dataset, images);
        let weights = model.weights.value.view();
        criterion.accuracy(features.view(), weights, &dataset.labels(images))
    };
    let accuracies = if training.left_out.is_empty() {
        None
    } else {
        let [rare, frequent] = by_rarity(dataset, &training.left_out);
        Some([
            accuracy(&rare).map_err(fail)?,
            accuracy(&frequent).map_err(fail)?,
        ])
    };

    let [_, unseen] = divided(dataset);
    let embeddings = model.embed(dataset, &unseen);
    let report = Embeddings::new(embeddings.view(), &dataset.labels(&unseen))
        .and_then(|embeddings| embeddings.verify(&FALSE_ACCEPT_RATES))
        .map_err(fail)?;
    let points = report.true_accept_rates.iter();
    Ok(Outcome {
        equal_error_rate: report.equal_error_rate,
        true_accept_rates: points.map(|point| point.true_accept_rate).collect(),
        curve: curve(&report, &figure::rates()),
        accuracies,
        trouble: trouble.map(|trouble| format!("{choice}, seed {seed}: {trouble}\n")),
    })
}

/// What a training leaves.
#[derive(Debug)]
struct Trained {
    model: Model,
    criterion: Criterion,
    /// What the last batches were like.
    last: Vec<Forward<f32>>,
}

/// An epoch has as many steps as all images of the trained classes make, with a long tail too.
fn train(
    setting: &Setting<'_>,
    training: &Training,
    choice: &Choice,
    seed: u64,
    tick: impl Fn(),
) -> Result<Trained, Error> {
    let dataset = setting.dataset;
    let [trained, _] = divided(dataset);
    let steps = trained.len() as u64 / BATCH as u64;
    let all_steps = setting.epochs * steps;

    let loss = choice.over(&training.counts())?;
    let mut criterion = Criterion::new(&loss, SCALE, TRAINED, DIM)?
        .with_warm_up((WARM_UP * all_steps as f64) as u64)?;
    let rows = TRAINED * loss.sub_centers()?;
    let mut model = Model::new(&[dataset.width, HIDDEN, DIM], rows, seed);
    model.network = model.network.with_normalised_layers();
    let mut batches = Batches::new(training.images.len(), seed);
    let mut last = Vec::new();
    for step in 0..all_steps {
        let batch = batches.take(BATCH);
        let pick = |of: &[usize]| -> Vec<usize> { batch.iter().map(|&at| of[at]).collect() };
        let labels = pick(&training.labels);
        let images = batches.distort(dataset.images(&pick(&training.images)));
        // Down to nothing, along half a cosine.
        let done = step as f64 / all_steps as f64;
        let rate = RATE * 0.5 * (1.0 + (PI * done).cos());
        let loss = |features: ArrayView2<'_, f32>,
                    weights: ArrayView2<'_, f32>,
                    out: &mut Evaluation<f32>| {
            criterion.step(rate, features, weights, &labels, out)?;
            if all_steps - step <= JUDGED {
                last.push(out.forward.clone());
            }
            Ok(())
        };
        model.step(images, rate as f32, loss)?;
        if (step + 1) % steps == 0 {
            tick();
        }
    }
    Ok(Trained {
        model,
        criterion,
        last,
    })
}

/// The true-accept rates at these false-accept rates, which rise: each that of the last point whose rate does not exceed it.
fn curve(report: &Verification, rates: &[f64]) -> Vec<f64> {
    let of = |&rate: &f64| {
        let points = report
            .roc
            .partition_point(|point| point.false_accept_rate <= rate);
        let last = points.checked_sub(1).map(|point| &report.roc[point]);
        last.map_or(0.0, |point| point.true_accept_rate)
    };
    rates.iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use margin_losses::ndarray::arr1;
    use margin_losses::verification::verify_scores;

    use super::curve;

    #[test]
    fn a_curve_has_the_points_of_the_roc() {
        // By falling score: same, different, same, different.
        let scores = arr1(&[0.9, 0.8, 0.7, 0.6]);
        let rates = [0.1, 0.5, 0.9, 1.0];
        let report = verify_scores(scores.view(), &[true, false, true, false], &rates).unwrap();
        let asked = report.true_accept_rates.iter();
        let asked: Vec<f64> = asked.map(|point| point.true_accept_rate).collect();
        assert_eq!(curve(&report, &rates), asked);
        assert_eq!(asked, [0.5, 1.0, 1.0, 1.0]);
    }
}
