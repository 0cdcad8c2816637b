//! The one place that knows whether there are threads.

use std::sync::{Mutex, PoisonError};

/// Multiplications below which the threads of a pool take longer to wake than to work.
const WORTH_A_POOL: usize = 1 << 21;
/// Entries of a row-wise pass that are worth a task of their own.
const WORTH_A_TASK: usize = 1 << 12;
/// Tasks of a row-wise pass, at most.
const MAX_TASKS: usize = 16;

/// How many threads a product of these three sizes is worth.
pub(crate) fn threads_for(rows: usize, classes: usize, dim: usize) -> usize {
    if rows.saturating_mul(classes).saturating_mul(dim) < WORTH_A_POOL {
        return 1;
    }
    #[cfg(feature = "rayon")]
    return rayon::current_num_threads();
    #[cfg(not(feature = "rayon"))]
    1
}

/// How many of `rows` rows of `dim` entries make one task; at least one.
pub(crate) fn rows_per_task(rows: usize, dim: usize) -> usize {
    let tasks = (rows * dim / WORTH_A_TASK).clamp(1, MAX_TASKS);
    rows.div_ceil(tasks).max(1)
}

/// Does `work` on a thread of the pool, from where tasks are started at the least cost.
#[cfg(feature = "rayon")]
pub(crate) fn on_pool<R: Send>(threads: usize, work: impl FnOnce() -> R + Send) -> R {
    if threads == 1 {
        work()
    } else {
        rayon::scope(|_| work())
    }
}

/// Does `work`.
#[cfg(not(feature = "rayon"))]
pub(crate) fn on_pool<R: Send>(_threads: usize, work: impl FnOnce() -> R + Send) -> R {
    work()
}

/// Does `work` for every task, in any order, on the threads there are.
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

/// Does `work` for every task, each in whichever lane is free: as many at a time as there are lanes.
///
/// The tasks begin in their order. No result may depend on the lane, since that is chance.
pub(crate) fn deal<L: Send, T: Send>(
    lanes: &mut [L],
    tasks: impl Iterator<Item = T> + Send,
    work: impl Fn(&mut L, T) + Send + Sync,
) {
    let tasks = Mutex::new(tasks);
    let next = || tasks.lock().unwrap_or_else(PoisonError::into_inner).next();
    for_each(lanes.iter_mut().collect(), |lane| {
        while let Some(task) = next() {
            work(lane, task);
        }
    });
}
