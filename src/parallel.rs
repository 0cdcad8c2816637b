//! The one place that knows whether there are threads.

/// Multiplications below which the threads of a pool take longer to wake than to work.
const WORTH_A_POOL: usize = 1 << 21;
/// Entries of a row-wise pass that are worth a task of their own.
const WORTH_A_TASK: usize = 1 << 12;
/// Tasks of a row-wise pass, at most.
const MAX_TASKS: usize = 16;

/// Whether a product of these three sizes is worth more than one thread.
pub(crate) fn pays(rows: usize, classes: usize, dim: usize) -> bool {
    rows.saturating_mul(classes).saturating_mul(dim) >= WORTH_A_POOL
}

/// How many of `rows` rows of `dim` entries make one task; at least one.
pub(crate) fn rows_per_task(rows: usize, dim: usize) -> usize {
    let tasks = (rows * dim / WORTH_A_TASK).clamp(1, MAX_TASKS);
    rows.div_ceil(tasks).max(1)
}

/// Does `work` on a thread of the pool, from where tasks are started at the least cost.
#[cfg(feature = "rayon")]
pub(crate) fn on_pool<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| work())
}

/// Does `work`.
#[cfg(not(feature = "rayon"))]
pub(crate) fn on_pool<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    work()
}

/// Does `work` for every task, in any order, on the threads there are.
///
/// The tasks never depend on how many threads there are, so neither do the bits of what they compute.
#[cfg(feature = "rayon")]
pub(crate) fn for_each<T: Send>(tasks: Vec<T>, work: impl Fn(T) + Send + Sync) {
    use rayon::prelude::*;

    if tasks.len() < 2 {
        tasks.into_iter().for_each(work);
    } else {
        tasks.into_par_iter().with_max_len(1).for_each(work);
    }
}

/// Does `work` for every task.
#[cfg(not(feature = "rayon"))]
pub(crate) fn for_each<T: Send>(tasks: Vec<T>, work: impl Fn(T) + Send + Sync) {
    tasks.into_iter().for_each(work);
}
