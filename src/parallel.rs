//! The one place that knows whether there are threads.

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
