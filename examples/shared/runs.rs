//! Runs of several losses with several seeds each, side by side, and what they come to.

use indicatif::{ProgressBar, ProgressStyle};
use rayon::prelude::*;

/// The losses in the order in which they are first named.
pub(crate) fn without_doubles<L: Clone + PartialEq>(named: &[L]) -> Vec<L> {
    let mut losses = Vec::new();
    for loss in named {
        if !losses.contains(loss) {
            losses.push(loss.clone());
        }
    }
    losses
}

/// All runs, on as many threads as there are cores: for each loss the outcomes of its seeds. `run` moves the bar by one after each
/// of its epochs. The first error ends them all.
pub(crate) fn train_all<L: Clone + Sync, O: Send>(
    losses: &[L],
    seeds: &[u64],
    epochs: u64,
    run: impl Fn(&L, u64, &ProgressBar) -> Result<O, String> + Sync,
) -> Result<Vec<(L, Vec<O>)>, String> {
    let runs: Vec<(&L, u64)> = losses
        .iter()
        .flat_map(|loss| seeds.iter().map(move |&seed| (loss, seed)))
        .collect();
    let bar = ProgressBar::new(runs.len() as u64 * epochs).with_style(
        ProgressStyle::with_template("{wide_bar} {pos}/{len} epochs, {eta} left")
            .expect("the template is well-formed"),
    );
    // Runs are of one size, and one run is enough work for a task.
    let outcomes: Result<Vec<O>, String> = runs
        .par_iter()
        .with_max_len(1)
        .map(|&(loss, seed)| run(loss, seed, &bar))
        .collect();
    bar.finish_and_clear();
    let mut outcomes = outcomes?.into_iter();
    Ok(losses
        .iter()
        .map(|loss| (loss.clone(), outcomes.by_ref().take(seeds.len()).collect()))
        .collect())
}

/// The mean and the standard deviation of one run.
pub(crate) fn mean_and_deviation(figures: &[f64]) -> (f64, f64) {
    let count = figures.len() as f64;
    let mean = figures.iter().sum::<f64>() / count;
    let squares: f64 = figures.iter().map(|figure| (figure - mean).powi(2)).sum();
    (mean, (squares / (count - 1.0)).sqrt())
}
