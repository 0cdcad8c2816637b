//! The same call gives the same bits: on any number of threads, and every time.

use margin_losses::{ClassBlock, Evaluation, Float, Targets};
use ndarray::Zip;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::support::{Batch, Snapshot, bits, every_loss};

const THREADS: [usize; 4] = [1, 2, 3, 8];
const REPETITIONS: usize = 20;

fn pools() -> [ThreadPool; 4] {
    THREADS.map(|threads| {
        let pool = ThreadPoolBuilder::new().num_threads(threads).build();
        pool.expect("a pool")
    })
}

/// Just large enough for the pool to be used: two tiles of rows and several blocks of classes, none of which divides evenly.
fn batch<A: Float>() -> Batch<A> {
    Batch::random(141, 259, 451, 18)
}

fn same_bits<A: Float>() {
    let batch = batch::<A>();
    let targets = Targets::new(&batch.labels).with_row_weights(&batch.row_weights);
    let pools = pools();
    for case in every_loss(batch.centers.view()) {
        let mut first: Option<(Snapshot, Vec<u64>)> = None;
        for (pool, threads) in pools.iter().zip(THREADS) {
            // What an evaluation finds in its memory is what the one before left there.
            let mut evaluation = Evaluation::new();
            for repetition in 0..REPETITIONS {
                let found = pool.install(|| {
                    let (x, w) = (batch.features.view(), batch.weights.view());
                    case.loss
                        .evaluate_into(x, w, &targets, &mut evaluation)
                        .expect("a good batch");
                    Snapshot::of(&evaluation)
                });
                match &first {
                    None => first = Some((found, bits(&evaluation.grad_weights))),
                    Some((first, _)) => assert_eq!(
                        &found, first,
                        "{} on {threads} threads, repetition {repetition}",
                        case.name
                    ),
                }
            }
        }
        let (_, grad_weights) = first.expect("evaluated");
        for (pool, threads) in pools.iter().zip(THREADS) {
            let mut weights = batch.weights.clone();
            let mut evaluation = Evaluation::new();
            // Each block's gradient is put in the place of its weights, which nothing reads again.
            let mut update = |mut block: ClassBlock<'_, A>| {
                Zip::from(&mut block.weights)
                    .and(block.gradient)
                    .for_each(|w, &g| *w = g);
            };
            pool.install(|| {
                case.loss
                    .evaluate_streamed(
                        batch.features.view(),
                        weights.view_mut(),
                        &targets,
                        &mut evaluation,
                        &mut update,
                    )
                    .expect("a good batch");
            });
            assert_eq!(
                bits(&weights),
                grad_weights,
                "{}, streamed on {threads} threads",
                case.name
            );
        }
    }
}

#[test]
fn twenty_times_on_any_number_of_threads_in_f32() {
    same_bits::<f32>();
}

#[test]
fn twenty_times_on_any_number_of_threads_in_f64() {
    same_bits::<f64>();
}
