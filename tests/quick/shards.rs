//! Classes over ranks: the bits of one rank, whatever the number of ranks; errors that all return; samples; what is sent.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use margin_losses::shards::{Communicator, Sampling, Sharded, Shards, Solo, Threads};
use margin_losses::{
    AdaptiveFace, ArcFace, Argument, CenterLoss, ClassBlock, Composed, CosFace, CurricularFace,
    Error, Evaluation, Float, InterTopK, JointLoss, Margin, MarginLoss, MarginSoftmax, NormFace,
    Reduction, Request, SoftmaxLoss, SphereFace2, Target, TargetLogit, Targets, UniFace,
};
use ndarray::{Array2, ArrayView2, Axis, Slice, concatenate};

use crate::support::{Batch, Snapshot, assert_close, bits, every_loss, every_spec, wide, widen};

const SIZES: [usize; 5] = [1, 2, 3, 4, 7];

type Loss<'a, A> = Box<dyn MarginLoss<A> + 'a>;
/// Makes a loss over centers.
type Make<'m, A> = dyn for<'c> Fn(ArrayView2<'c, A>) -> Loss<'c, A> + Sync + 'm;

/// A batch, its classes, and how it is evaluated.
struct Job<'b, A> {
    batch: &'b Batch<A>,
    targets: Targets<'b, A>,
    group: usize,
    sampling: Option<Sampling>,
}

fn rows<A>(array: &Array2<A>, rows: Range<usize>) -> ArrayView2<'_, A> {
    array.slice_axis(Axis(0), Slice::from(rows))
}

/// Rows of one of `size` ranks: as many as another or one less.
fn rows_of(count: usize, rank: usize, size: usize) -> Range<usize> {
    rank * count / size..(rank + 1) * count / size
}

/// The gradients of a rank's weights, by every method; and what it evaluates to.
fn by_every_method<A: Float>(
    sharded: &Sharded<'_, dyn MarginLoss<A> + '_>,
    (x, w): (ArrayView2<'_, A>, ArrayView2<'_, A>),
    targets: &Targets<'_, A>,
) -> Result<Evaluation<A>, Error> {
    let found = sharded.evaluate(x, w, targets)?;
    let forward = sharded.forward(x, w, targets)?;
    assert_eq!(
        Snapshot::of_forward(&forward),
        Snapshot::of_forward(&found.forward)
    );
    let (mut weights, mut streamed) = (w.to_owned(), Evaluation::new());
    let mut gradient = Array2::zeros(w.raw_dim());
    let mut end = 0;
    let mut update = |mut block: ClassBlock<'_, A>| {
        assert!(block.classes.start >= end, "blocks are in order");
        end = block.classes.end;
        assert_eq!(block.weights, rows(&w.to_owned(), block.classes.clone()));
        let mut own = gradient.slice_axis_mut(Axis(0), Slice::from(block.classes));
        own.assign(&block.gradient);
        // What nothing reads again.
        block.weights.fill(A::nan());
    };
    sharded.evaluate_streamed(x, weights.view_mut(), targets, &mut streamed, &mut update)?;
    assert_eq!(bits(&gradient), bits(&found.grad_weights));
    assert_eq!(bits(&streamed.grad_features), bits(&found.grad_features));
    assert_eq!(
        bits(&streamed.grad_learnables),
        bits(&found.grad_learnables)
    );
    Ok(found)
}

impl<A: Float> Job<'_, A> {
    fn of(batch: &Batch<A>) -> Job<'_, A> {
        Job {
            batch,
            targets: Targets::new(&batch.labels),
            group: 1,
            sampling: None,
        }
    }

    fn classes(&self) -> usize {
        self.batch.weights.nrows() / self.group
    }

    /// What each of `size` ranks finds, whose loss is made over its centers.
    fn on_ranks<R: Send>(
        &self,
        size: usize,
        work: impl Fn(&Threads, Range<usize>, Range<usize>) -> R + Sync,
    ) -> Vec<R> {
        let shards = Shards::new(self.classes()).expect("classes");
        Threads::run(size, |comm| {
            let own = shards.classes(comm.rank(), size);
            work(
                &comm,
                rows_of(self.batch.labels.len(), comm.rank(), size),
                own,
            )
        })
    }

    /// All of it, put together in the order of rows and classes.
    fn found(&self, size: usize, loss: &Make<'_, A>) -> Result<Snapshot, Error> {
        let shards = Shards::new(self.classes())?;
        let ranks = self.on_ranks(size, |comm, own_rows, own| {
            let centers = rows(&self.batch.centers, own.clone());
            let loss = loss(centers);
            let mut sharded = Sharded::new(&*loss, shards, comm);
            if let Some(sampling) = self.sampling {
                sharded = sharded.with_sampling(sampling);
            }
            let x = rows(&self.batch.features, own_rows.clone());
            let w = rows(
                &self.batch.weights,
                own.start * self.group..own.end * self.group,
            );
            let labels = &self.batch.labels[own_rows.clone()];
            let mut targets = Targets::new(labels).with_reduction(self.targets.reduction());
            let all = self.targets.labels();
            let ignored: Vec<_> = own_rows.clone().map(|row| all.is_ignored(row)).collect();
            if ignored.contains(&true) {
                targets = targets.with_ignored_rows(&ignored);
            }
            if let Some(weights) = self.targets.row_weights() {
                targets = targets.with_row_weights(&weights[own_rows]);
            }
            by_every_method(&sharded, (x, w), &targets)
        });
        let mut ranks = ranks.into_iter().collect::<Result<Vec<_>, _>>()?;
        for rank in &ranks[1..] {
            assert_eq!(bits([&rank.loss()]), bits([&ranks[0].loss()]));
            assert_eq!(bits(&rank.grad_learnables), bits(&ranks[0].grad_learnables));
            assert_eq!(rank.statistics(), ranks[0].statistics());
        }
        let mut whole = ranks.remove(0);
        for rank in ranks {
            fn append<T: Clone>(whole: &mut ndarray::Array1<T>, part: &ndarray::Array1<T>) {
                *whole = concatenate![Axis(0), whole.view(), part.view()];
            }
            append(&mut whole.forward.row_losses, &rank.forward.row_losses);
            append(
                &mut whole.forward.target_logits,
                &rank.forward.target_logits,
            );
            append(
                &mut whole.forward.target_cosines,
                &rank.forward.target_cosines,
            );
            append(&mut whole.forward.correct, &rank.forward.correct);
            append(&mut whole.forward.sub_centers, &rank.forward.sub_centers);
            let join = |whole: &mut Array2<A>, part: &Array2<A>| {
                *whole = concatenate![Axis(0), whole.view(), part.view()];
            };
            join(&mut whole.grad_features, &rank.grad_features);
            join(&mut whole.grad_weights, &rank.grad_weights);
            if rank.grad_centers.ncols() > 0 {
                join(&mut whole.grad_centers, &rank.grad_centers);
            }
        }
        Ok(Snapshot::of(&whole))
    }

    /// The same bits on any number of ranks, and, of few rows, those without ranks.
    fn check(&self, name: &str, loss: &Make<'_, A>) {
        let one = self
            .found(1, loss)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(one.is_finite());
        for size in &SIZES[1..] {
            let found = self.found(*size, loss).expect("as one rank");
            assert_eq!(found, one, "{name} on {size} ranks");
        }
        if self.sampling.is_none() {
            let plain = loss(self.batch.centers.view()).evaluate(
                self.batch.features.view(),
                self.batch.weights.view(),
                &self.targets,
            );
            let plain = Snapshot::of(&plain.expect("as on ranks"));
            assert_eq!(one, plain, "{name} without ranks");
        }
    }
}

fn every_loss_on_ranks<A: Float>() {
    // Four segments, the last of eleven classes; no number of ranks divides the rows.
    let batch = Batch::<A>::random(41, 23, 203, 18);
    let sampling = Sampling::new(0.2, 3).expect("in range").at(5);
    for (name, spec) in every_spec(203) {
        let loss: &Make<'_, A> = &|centers| spec.loss(centers).expect("in range");
        let mut job = Job::of(&batch);
        job.targets = job.targets.with_row_weights(&batch.row_weights);
        job.check(&name, loss);
        job.sampling = Some(sampling);
        job.check(&format!("{name}, sampled"), loss);
        job.sampling = Some(sampling.with_correction());
        let none = ["SphereFace2", "UniFace", "C-contrastive", "C-triplet"];
        if none.iter().any(|other| name.starts_with(other)) {
            let refused = Error::NotComposable {
                what: "a loss that is no softmax",
                with: "the correction of a sample",
            };
            assert_eq!(job.found(3, loss).expect_err(&name), refused, "{name}");
        } else {
            job.check(&format!("{name}, sampled and corrected"), loss);
        }
    }
}

#[test]
fn every_loss_has_the_same_bits_on_any_number_of_ranks_in_f32() {
    every_loss_on_ranks::<f32>();
}

#[test]
fn every_loss_has_the_same_bits_on_any_number_of_ranks_in_f64() {
    every_loss_on_ranks::<f64>();
}

fn compositions<A: Float>() {
    let priors: Vec<f64> = (0..150).map(|class| -0.1 * f64::from(class % 7)).collect();
    let composed = |loss: ArcFace| Composed::new(loss).with_sub_centers(3).expect("in range");
    let batch = Batch::<A>::random(43, 19, 3 * 150, 9);
    let batch = Batch {
        labels: batch.labels.iter().map(|label| label / 3).collect(),
        centers: rows(&batch.centers, 0..150).to_owned(),
        ..batch
    };
    let arc_face = ArcFace::new(8.0, 0.3).expect("in range");
    for sampling in [None, Some(Sampling::new(0.3, 9).expect("in range"))] {
        let job = Job {
            group: 3,
            sampling,
            ..Job::of(&batch)
        };
        // Blocks of other sizes than without ranks.
        let one = job.found(1, &|_| Box::new(composed(arc_face)) as Loss<'_, A>);
        let one = one.expect("a good batch");
        for size in SIZES {
            let found = job.found(size, &|_| Box::new(composed(arc_face)) as Loss<'_, A>);
            assert_eq!(found.expect("a good batch"), one, "{size} ranks");
            let joint: &Make<'_, A> = &|centers| {
                let classifier = composed(arc_face).with_log_priors(priors.clone());
                let classifier = classifier
                    .and_then(|it| it.with_focal(2.0))
                    .expect("finite");
                Box::new(JointLoss::new(classifier, centers, 0.1).expect("in range"))
            };
            assert_eq!(job.found(size, joint), job.found(1, joint), "{size} ranks");
        }
    }
    let batch = Batch::<A>::random(44, 21, 210, 12);
    let biases: Vec<f64> = (0..210).map(|class| 0.01 * f64::from(class)).collect();
    for sampling in [None, Some(Sampling::new(0.4, 9).expect("in range"))] {
        let job = Job {
            sampling,
            targets: Targets::new(&batch.labels).with_reduction(Reduction::Sum),
            ..Job::of(&batch)
        };
        job.check("SphereFace2", &|_| {
            Box::new(SphereFace2::new(8.0, 0.3).expect("in range"))
        });
        job.check("UniFace", &|_| {
            Box::new(UniFace::new(8.0, 0.3).expect("in range"))
        });
        job.check("UniFace by class", &|_| {
            let loss = UniFace::new(8.0, 0.3).expect("in range");
            Box::new(loss.with_class_biases(biases.clone()).expect("in range"))
        });
        job.check("CurricularFace", &|_| {
            let loss = CurricularFace::new(16.0, 0.4).expect("in range");
            Box::new(loss.with_momentum(0.3).expect("in range"))
        });
    }
}

#[test]
fn what_is_composed_and_what_is_no_softmax() {
    compositions::<f32>();
    compositions::<f64>();
}

/// What a message has of a row only for these: a learnable for each class, and the turn of the negatives.
#[test]
fn learned_margins_and_turned_angles() {
    fn check<A: Float>() {
        let batch = Batch::<A>::random(58, 21, 210, 12);
        let job = Job::of(&batch);
        let margins: Vec<f64> = (0..210)
            .map(|class| 0.3 + 4e-4 * f64::from(class))
            .collect();
        job.check("AdaptiveFace", &|_| {
            Box::new(AdaptiveFace::new(8.0, margins.clone()).expect("in range"))
        });
        job.check("SphereFace2 of type A", &|_| {
            Box::new(SphereFace2::arc(8.0, 0.3).expect("in range"))
        });
    }
    check::<f32>();
    check::<f64>();
}

/// Several blocks in a segment, several tiles; 600 rows have other blocks than those of full tiles.
#[test]
fn large_shapes() {
    fn check<A: Float>() {
        for (count, classes) in [(300, 5_301), (512, 6_007)] {
            let batch = Batch::<A>::random(45, count, classes, 16);
            for sampling in [None, Some(Sampling::new(0.1, 1).expect("in range").at(2))] {
                let job = Job {
                    sampling,
                    ..Job::of(&batch)
                };
                let loss: &Make<'_, A> = &|_| Box::new(CosFace::new(16.0, 0.3).expect("in range"));
                let one = job.found(1, loss);
                for size in [2, 3, 7] {
                    assert_eq!(job.found(size, loss), one, "{count} rows on {size} ranks");
                }
                if sampling.is_none() && count == 512 {
                    job.check("full tiles", loss);
                }
            }
        }
    }
    check::<f32>();
    check::<f64>();
}

/// Fewer classes, and fewer rows, than ranks; classes of which none is left over.
#[test]
fn few_classes_and_few_rows() {
    for (count, classes) in [(3, 5), (1, 1), (2, 64), (5, 130), (9, 2)] {
        let batch = Batch::<f32>::random(46, count, classes, 7);
        let job = Job::of(&batch);
        for size in SIZES {
            let owned = job.on_ranks(size, |_, _, own| own.len());
            assert_eq!(owned.iter().sum::<usize>(), classes);
        }
        job.check("NormFace", &|_| {
            Box::new(NormFace::learned(4.0).expect("in range"))
        });
        job.check("softmax", &|_| {
            Box::new(SoftmaxLoss::with_bias(vec![0.5; classes]).expect("finite"))
        });
    }
}

/// In f32 beyond the sizes at which the bits agree.
#[test]
fn close_to_the_loss_without_ranks() {
    for count in [33, 300] {
        let batch = Batch::<f32>::random(47, count, 5_000, 24);
        let (x, w) = (batch.features.view(), batch.weights.view());
        let targets = Targets::new(&batch.labels);
        for case in every_loss(batch.centers.view()).into_iter().step_by(3) {
            let plain = case.loss.evaluate(x, w, &targets).expect("a good batch");
            let shards = Shards::new(5_000).expect("classes");
            let sharded = Sharded::new(&*case.loss, shards, &Solo);
            let found = sharded.evaluate(x, w, &targets).expect("a good batch");
            let loss = (widen(found.loss()) - widen(plain.loss())).abs();
            assert!(loss <= 1e-7 * widen(plain.loss()).abs(), "{}", case.name);
            assert_close(
                &case.name,
                &wide(&found.grad_features),
                &wide(&plain.grad_features),
                3e-6,
            );
            assert_close(
                &case.name,
                &wide(&found.grad_weights),
                &wide(&plain.grad_weights),
                3e-6,
            );
        }
    }
}

#[test]
fn rows_that_are_ignored() {
    let mut batch = Batch::<f64>::random(48, 26, 140, 6);
    for row in [3, 4, 17] {
        batch.labels[row] = 999;
        batch.features.row_mut(row).fill(f64::NAN);
    }
    let plain = Targets::new(&batch.labels).with_ignored_label(999);
    for reduction in [Reduction::Mean, Reduction::BatchMean, Reduction::Sum] {
        let job = Job {
            targets: plain
                .with_row_weights(&batch.row_weights)
                .with_reduction(reduction),
            ..Job::of(&batch)
        };
        for sampling in [None, Some(Sampling::new(0.5, 3).expect("in range"))] {
            let job = Job {
                sampling,
                ..Job { ..job_of(&job) }
            };
            job.check("ArcFace", &|_| {
                Box::new(ArcFace::new(8.0, 0.3).expect("in range"))
            });
        }
    }
}

fn job_of<'b, A: Float>(job: &Job<'b, A>) -> Job<'b, A> {
    Job {
        batch: job.batch,
        targets: job.targets,
        group: job.group,
        sampling: job.sampling,
    }
}

#[test]
fn a_rate_of_one_is_the_full_loss() {
    let batch = Batch::<f32>::random(49, 30, 700, 8);
    let job = Job::of(&batch);
    let loss: &Make<'_, f32> = &|_| Box::new(ArcFace::default());
    let full = job.found(3, loss).expect("a good batch");
    for sampling in [1.0, 1.0 - 1e-16].map(|rate| Sampling::new(rate, 8).expect("in range")) {
        for sampling in [sampling, sampling.with_correction()] {
            let sampled = Job {
                sampling: Some(sampling),
                ..job_of(&job)
            };
            assert_eq!(sampled.found(2, loss), Ok(full.clone()));
        }
    }
}

/// A sample is the loss over these classes alone, with other numbers for them; the correction is a prior.
#[test]
fn a_sample_is_the_loss_over_its_classes() {
    let batch = Batch::<f64>::random(50, 12, 600, 8);
    let (x, w) = (batch.features.view(), batch.weights.view());
    let arc_face = ArcFace::new(8.0, 0.2).expect("in range");
    let shards = Shards::new(600).expect("classes");
    let sampling = Sampling::new(0.25, 4).expect("in range").at(1);
    for corrects in [false, true] {
        let sampling = if corrects {
            sampling.with_correction()
        } else {
            sampling
        };
        let sharded = Sharded::new(&arc_face, shards, &Solo).with_sampling(sampling);
        let found = sharded
            .evaluate(x, w, &Targets::new(&batch.labels))
            .expect("good");
        let moved = |class: &usize| found.grad_weights.row(*class).iter().any(|&g| g != 0.0);
        let sample: Vec<usize> = (0..600).filter(moved).collect();
        assert!(
            batch.labels.iter().all(|label| sample.contains(label)),
            "no positive is dropped"
        );
        assert!((150..=160).contains(&sample.len()), "{}", sample.len());
        // Of each segment of 160 classes 40 are sampled.
        let prior = |class: &usize| {
            if !corrects || batch.labels.contains(class) {
                return 0.0;
            }
            let segment = class / 160 * 160..(class / 160 * 160 + 160).min(600);
            let inside = |all: &[usize]| all.iter().filter(|&c| segment.contains(c)).count();
            let mut positives = batch.labels.clone();
            positives.sort_unstable();
            positives.dedup();
            let positives = inside(&positives);
            let negatives = (segment.len() - positives) as f64;
            (negatives / (inside(&sample) - positives) as f64).ln()
        };
        let labels: Vec<usize> = batch
            .labels
            .iter()
            .map(|label| sample.binary_search(label).expect("a positive"))
            .collect();
        let priors = sample.iter().map(prior).collect();
        let alone = Composed::new(arc_face)
            .with_log_priors(priors)
            .expect("finite");
        let alone = alone
            .evaluate(x, w.select(Axis(0), &sample).view(), &Targets::new(&labels))
            .expect("a good batch");
        assert!((found.loss() - alone.loss()).abs() < 1e-13 * alone.loss());
        let weights = found.grad_weights.select(Axis(0), &sample);
        assert_close("∂W", &wide(&weights), &wide(&alone.grad_weights), 1e-12);
        assert_close(
            "∂X",
            &wide(&found.grad_features),
            &wide(&alone.grad_features),
            1e-12,
        );
    }
}

/// Weights that are not sampled are not even read.
#[test]
fn what_is_not_sampled_is_not_touched() {
    let mut batch = Batch::<f32>::random(51, 10, 900, 6);
    let arc_face = ArcFace::new(8.0, 0.2).expect("in range");
    let shards = Shards::new(900).expect("classes");
    let sampling = Sampling::new(0.1, 4).expect("in range");
    let sharded = Sharded::new(&arc_face, shards, &Solo).with_sampling(sampling);
    let targets = Targets::new(&batch.labels);
    let x = batch.features.view();
    let found = sharded
        .evaluate(x, batch.weights.view(), &targets)
        .expect("good");
    let untouched = |class: &usize| found.grad_weights.row(*class).iter().all(|&g| g == 0.0);
    let untouched: Vec<usize> = (0..900).filter(untouched).collect();
    assert!(untouched.len() > 780);
    for &class in &untouched {
        batch.weights.row_mut(class).fill(f32::NAN);
    }
    let again = sharded
        .evaluate(x, batch.weights.view(), &targets)
        .expect("good");
    assert_eq!(Snapshot::of(&again), Snapshot::of(&found));
    // Another step has another sample.
    let sharded = Sharded::new(&arc_face, shards, &Solo).with_sampling(sampling.at(1));
    let other = sharded.evaluate(x, batch.weights.view(), &targets);
    assert!(matches!(
        other,
        Err(Error::NonFinite {
            argument: Argument::ClassWeights,
            ..
        })
    ));
}

#[test]
fn centers_move_as_on_one_rank() {
    let mut batch = Batch::<f32>::random(52, 25, 333, 5);
    batch.labels[7] = 332;
    batch.labels[8] = 332;
    let mut expected = batch.centers.clone();
    let (x, labels) = (batch.features.view(), &batch.labels);
    CenterLoss::update_centers(expected.view_mut(), x, labels, 0.5).expect("a good batch");
    let shards = Shards::new(333).expect("classes");
    let step = |batch: &Batch<f32>, size| {
        let job = Job::of(batch);
        let ranks = job.on_ranks(size, |comm, own_rows, own| {
            let mut centers = rows(&batch.centers, own).to_owned();
            let before = centers.clone();
            let x = rows(&batch.features, own_rows.clone());
            let sharded = Sharded::new(&(), shards, comm);
            let moved = sharded.update_centers(centers.view_mut(), x, &batch.labels[own_rows], 0.5);
            assert!(moved.is_ok() || bits(&centers) == bits(&before));
            moved.map(|()| centers)
        });
        ranks.into_iter().collect::<Result<Vec<_>, _>>()
    };
    for size in SIZES {
        let ranks = step(&batch, size).expect("a good batch");
        let views: Vec<_> = ranks.iter().map(|rank| rank.view()).collect();
        assert_eq!(
            concatenate(Axis(0), &views).expect("one width"),
            expected,
            "{size}"
        );
        let mut bad = batch.clone();
        bad.features[[24, 1]] = f32::NAN;
        let expected = Error::NonFinite {
            argument: Argument::Features,
            row: 24,
        };
        assert_eq!(step(&bad, size), Err(expected));
        let mut bad = batch.clone();
        bad.centers[[330, 0]] = f32::INFINITY;
        let expected = Error::NonFinite {
            argument: Argument::Centers,
            row: 330,
        };
        assert_eq!(step(&bad, size), Err(expected));
    }
}

/// ψ = cosθ, but no number for one row.
#[derive(Debug)]
struct NoNumber(usize);

impl Margin for NoNumber {
    fn target_logit(&self, target: &Target) -> TargetLogit {
        let value = if target.row() == self.0 {
            f64::NAN
        } else {
            target.cos()
        };
        TargetLogit::from_cosine_slope(value, 1.0, target.angle())
    }
}

#[derive(Debug)]
struct Panics;

impl Margin for Panics {
    fn target_logit(&self, target: &Target) -> TargetLogit {
        assert!(target.class() < 300, "on purpose");
        TargetLogit::from_cosine_slope(target.cos(), 1.0, target.angle())
    }
}

/// What a batch does to the methods on every rank: all return this error and have written nothing.
fn refused(batch: &Batch<f32>, loss: &Loss<'_, f32>, expected: &Error) {
    for size in SIZES {
        let job = Job::of(batch);
        let shards = Shards::new(job.classes()).expect("classes");
        let answers = job.on_ranks(size, |comm, own_rows, own| {
            let mut out = Evaluation::new();
            out.forward.loss = 7.5;
            let before = Snapshot::of(&out);
            let x = rows(&batch.features, own_rows.clone());
            let mut w = rows(&batch.weights, own).to_owned();
            let targets = Targets::new(&batch.labels[own_rows.clone()]);
            let targets = targets.with_row_weights(&batch.row_weights[own_rows]);
            let sharded = Sharded::new(&**loss, shards, comm);
            let mut update = |_: ClassBlock<'_, f32>| panic!("nothing is updated");
            let forward = sharded.forward(x, w.view(), &targets).map(drop);
            // Only gradients may overflow where the loss does not.
            let gradient =
                matches!(expected, Error::Overflow { quantity, .. } if *quantity == "gradient");
            assert!(forward.is_err() || gradient);
            let answers = [
                forward.and(Err(expected.clone())),
                sharded.evaluate_into(x, w.view(), &targets, &mut out),
                sharded.evaluate_streamed(x, w.view_mut(), &targets, &mut out, &mut update),
            ];
            assert_eq!(Snapshot::of(&out), before);
            answers
        });
        for answer in answers.into_iter().flatten() {
            assert_eq!(answer.as_ref(), Err(expected), "on {size} ranks");
        }
    }
}

/// The error of one process, for what `spoil` makes of a batch.
#[track_caller]
fn refused_alike(name: &str, loss: Loss<'_, f32>, spoil: impl Fn(&mut Batch<f32>, usize)) -> Error {
    let mut batch = Batch::<f32>::random(53, 24, 400, 5);
    let last = batch.labels.len() - 1;
    spoil(&mut batch, last);
    let targets = Targets::new(&batch.labels).with_row_weights(&batch.row_weights);
    let (x, w) = (batch.features.view(), batch.weights.view());
    let expected = loss.evaluate(x, w, &targets).expect_err(name);
    refused(&batch, &loss, &expected);
    expected
}

fn arc_face() -> Loss<'static, f32> {
    Box::new(ArcFace::new(8.0, 0.3).expect("in range"))
}

fn softmax() -> Loss<'static, f32> {
    Box::new(SoftmaxLoss::new())
}

#[test]
fn arguments_that_are_wrong_on_the_last_rank() {
    refused_alike("label", arc_face(), |batch, last| batch.labels[last] = 400);
    refused_alike("row weight", arc_face(), |batch, last| {
        batch.row_weights[last] = f32::NAN;
    });
    refused_alike("negative weight", arc_face(), |batch, last| {
        batch.row_weights[last] = -1.0;
    });
    refused_alike("feature", arc_face(), |batch, last| {
        batch.features[[last, 2]] = f32::NAN;
    });
    refused_alike("zero feature", arc_face(), |batch, last| {
        batch.features.row_mut(last).fill(0.0);
    });
    refused_alike("short feature", arc_face(), |batch, last| {
        batch.features.row_mut(last).fill(1e-38);
    });
    refused_alike("class weight", arc_face(), |batch, _| {
        batch.weights[[399, 4]] = f32::INFINITY;
    });
    refused_alike("zero class weight", arc_face(), |batch, _| {
        batch.weights.row_mut(390).fill(0.0);
    });
    refused_alike("several", arc_face(), |batch, _| {
        batch.weights.row_mut(390).fill(0.0);
        batch.weights.row_mut(20).fill(f32::NAN);
        batch.labels[3] = 390;
    });
    refused_alike("target of a bad weight", arc_face(), |batch, _| {
        batch.labels[2] = 399;
        batch.weights.row_mut(399).fill(0.0);
    });
    for row in [0, 11, 23] {
        let loss = MarginSoftmax::new(NoNumber(row), 8.0).expect("in range");
        refused_alike("margin", Box::new(loss), |_, _| ());
    }
}

#[test]
fn numbers_that_overflow_on_the_last_rank() {
    let gradient = |argument, row| Error::Overflow {
        quantity: "gradient",
        argument,
        row,
    };
    refused_alike("logit", softmax(), |batch, last| {
        batch.features.row_mut(last).fill(1e20);
        batch.weights.row_mut(399).fill(1e20);
    });
    // Logits are as large as ever, and so is the loss.
    let error = refused_alike("gradient of W", softmax(), |batch, last| {
        batch.weights.mapv_inplace(|w| w * 1e-20);
        batch.features.row_mut(last).fill(1e20);
        batch.row_weights[last] = 3e20;
        batch.labels[last] = 399;
    });
    assert_eq!(error, gradient(Argument::ClassWeights, 399));
    let error = refused_alike("gradient of X", softmax(), |batch, last| {
        batch.weights.mapv_inplace(|w| w * 1e20);
        batch.features.mapv_inplace(|x| x * 1e-20);
        batch.row_weights[last] = 3e20;
    });
    assert_eq!(error, gradient(Argument::Features, 23));
    // Long rows have short gradients, but for that of the margin.
    let loss = AdaptiveFace::new(1e6, vec![0.0; 400]).and_then(|loss| loss.with_lambda(0.0));
    let loss = Box::new(loss.expect("in range"));
    refused_alike("gradient of a margin", loss, |batch, last| {
        batch.weights *= 1e6;
        batch.labels[last] = 399;
        let own = batch.weights.row(399).to_owned();
        batch.weights.row_mut(398).assign(&own);
        batch.features.row_mut(last).assign(&own);
        batch.row_weights[last] = 1e35;
    });
    let centers = Array2::<f32>::from_elem((400, 5), 3e38);
    for size in SIZES {
        let batch = Batch::<f32>::random(53, 24, 400, 5);
        let shards = Shards::new(400).expect("classes");
        let answers = Job::of(&batch).on_ranks(size, |comm, own_rows, own| {
            let loss = JointLoss::new(CosFace::default(), rows(&centers, own.clone()), 1.0);
            let loss = loss.expect("in range");
            let x = rows(&batch.features, own_rows.clone());
            let targets = Targets::new(&batch.labels[own_rows]);
            let sharded = Sharded::new(&loss, shards, comm);
            sharded
                .evaluate(x, rows(&batch.weights, own), &targets)
                .map(drop)
        });
        let expected = Error::Overflow {
            quantity: "loss",
            argument: Argument::Features,
            row: 0,
        };
        assert!(
            answers
                .iter()
                .all(|answer| answer.as_ref() == Err(&expected))
        );
    }
}

/// The memory that is needed is that of a rank, so that the error is its own.
#[test]
fn a_scratch_limit_on_the_last_rank() {
    let good = Batch::<f32>::random(53, 24, 400, 5);
    for size in [2, 3] {
        let answers = Job::of(&good).on_ranks(size, |comm, own_rows, own| {
            let loss = arc_face();
            let mut out = if comm.rank() == size - 1 {
                Evaluation::with_scratch_limit(100)
            } else {
                Evaluation::new()
            };
            let shards = Shards::new(400).expect("classes");
            let x = rows(&good.features, own_rows.clone());
            let w = rows(&good.weights, own);
            let targets = Targets::new(&good.labels[own_rows]);
            Sharded::new(&*loss, shards, comm).evaluate_into(x, w, &targets, &mut out)
        });
        assert!(matches!(
            answers[0],
            Err(Error::ScratchLimit { limit: 100, .. })
        ));
        assert!(answers.iter().all(|answer| answer == &answers[0]));
    }
}

/// What a rank is given.
#[derive(Clone, Copy)]
struct Given {
    scale: f64,
    reduction: Reduction,
    weights_missing: usize,
    labels_missing: usize,
}

const GIVEN: Given = Given {
    scale: 8.0,
    reduction: Reduction::Mean,
    weights_missing: 0,
    labels_missing: 0,
};

/// What all of three ranks say, one of which is given something else.
fn one_is_given(rank: usize, other: Given) -> Result<f32, Error> {
    let batch = Batch::<f32>::random(54, 12, 300, 4);
    let shards = Shards::new(300).expect("classes");
    let mut answers = Job::of(&batch).on_ranks(3, |comm, own_rows, own| {
        let given = if comm.rank() == rank { other } else { GIVEN };
        let loss = ArcFace::new(given.scale, 0.2).expect("in range");
        let x = rows(&batch.features, own_rows.clone());
        let w = rows(&batch.weights, own.start..own.end - given.weights_missing);
        let labels = &batch.labels[own_rows.start..own_rows.end - given.labels_missing];
        let targets = Targets::new(labels).with_reduction(given.reduction);
        let sharded = Sharded::new(&loss, shards, comm);
        sharded.forward(x, w, &targets).map(|forward| forward.loss)
    });
    assert!(
        answers.iter().all(|answer| answer == &answers[0]),
        "{answers:?}"
    );
    answers.swap_remove(0)
}

#[test]
fn ranks_that_do_not_go_together() {
    assert!(one_is_given(0, GIVEN).is_ok());
    let differs = |rank| {
        Err(Error::RanksDiffer {
            what: "loss, reduction, label weights or sample",
            rank,
        })
    };
    assert_eq!(
        one_is_given(
            2,
            Given {
                scale: 9.0,
                ..GIVEN
            }
        ),
        differs(2)
    );
    let reduction = Reduction::Sum;
    assert_eq!(one_is_given(1, Given { reduction, ..GIVEN }), differs(1));
    let missing = |argument, expected, found| {
        Err(Error::RowCount {
            argument,
            expected,
            found,
        })
    };
    let own = Shards::new(300).expect("classes").classes(2, 3).len();
    let fewer = Given {
        weights_missing: 1,
        ..GIVEN
    };
    assert_eq!(
        one_is_given(2, fewer),
        missing(Argument::ClassWeights, own, own - 1)
    );
    let fewer = Given {
        labels_missing: 1,
        ..GIVEN
    };
    assert_eq!(one_is_given(2, fewer), missing(Argument::Labels, 12, 11));
}

/// A loss of one's own that knows nothing of ranks, and what asks for all class weights at once.
#[test]
fn what_cannot_be_sharded_says_so() {
    #[derive(Debug)]
    struct Own;
    impl MarginLoss<f32> for Own {
        fn run(&self, request: Request<'_, f32>) -> Result<(), Error> {
            let losses = vec![0.0; request.features().nrows()];
            let gradients = [request.features(), request.weights()].map(|of| of.to_owned());
            let [x, w] = gradients;
            request.answer(losses, x, w)
        }
    }
    let batch = Batch::<f32>::random(55, 4, 200, 4);
    let smooth = Composed::new(CosFace::default())
        .with_label_smoothing(0.1)
        .expect("in range");
    let nearest = Composed::new(CosFace::default()).with_inter_topk(InterTopK::default());
    let plain: Loss<'_, f32> = Box::<CosFace>::default();
    let seconds: Vec<usize> = batch.labels.iter().map(|label| (label + 1) % 200).collect();
    let losses: [(Loss<'_, f32>, bool); 4] = [
        (Box::new(Own), false),
        (Box::new(smooth), false),
        (Box::new(nearest), false),
        // A second target, of the rows of the last rank alone.
        (plain, true),
    ];
    for (loss, second) in losses {
        for size in [1, 3] {
            let found = Job::of(&batch).on_ranks(size, |comm, own_rows, own| {
                let shards = Shards::new(200).expect("classes");
                let x = rows(&batch.features, own_rows.clone());
                let mut targets = Targets::new(&batch.labels[own_rows.clone()]);
                if second && comm.rank() == size - 1 {
                    targets = targets.with_second(&seconds[own_rows], 0.5);
                }
                let sharded = Sharded::new(&*loss, shards, comm);
                sharded
                    .evaluate(x, rows(&batch.weights, own), &targets)
                    .map(drop)
            });
            for found in found {
                assert!(
                    matches!(found, Err(Error::NotComposable { .. })),
                    "{found:?}"
                );
            }
        }
    }
}

/// The others are told at once.
#[test]
fn a_panic_on_the_last_rank_ends_all() {
    let mut batch = Batch::<f32>::random(56, 16, 400, 4);
    batch.labels.fill(3);
    batch.labels[15] = 399;
    let answers = Mutex::new(Vec::new());
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        Job::of(&batch).on_ranks(4, |comm, own_rows, own| {
            let loss = MarginSoftmax::new(Panics, 8.0).expect("in range");
            let shards = Shards::new(400).expect("classes");
            let x = rows(&batch.features, own_rows.clone());
            let targets = Targets::new(&batch.labels[own_rows]);
            let sharded = Sharded::new(&loss, shards, comm);
            let answer = sharded.evaluate(x, rows(&batch.weights, own), &targets);
            answers
                .lock()
                .expect("no panic here")
                .push(answer.map(drop));
        });
    }));
    assert!(outcome.is_err(), "the panic is passed on");
    let answers = answers.into_inner().expect("no panic here");
    assert_eq!(answers.len(), 3);
    for answer in answers {
        let reason = "rank 3 has left the job".to_owned();
        assert_eq!(answer, Err(Error::Communication { reason }));
    }
}

/// Counts what arrives from other ranks.
struct Counting<'a> {
    comm: &'a Threads,
    received: AtomicUsize,
}

impl Counting<'_> {
    fn count(&self, all: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
        let others = all
            .iter()
            .enumerate()
            .filter(|&(rank, _)| rank != self.rank());
        let bytes = others.map(|(_, message)| message.len()).sum();
        self.received.fetch_add(bytes, Ordering::Relaxed);
        all
    }
}

impl Communicator for Counting<'_> {
    fn rank(&self) -> usize {
        self.comm.rank()
    }

    fn size(&self) -> usize {
        self.comm.size()
    }

    fn all_gather(&self, mine: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
        Ok(self.count(self.comm.all_gather(mine)?))
    }

    fn all_to_all(&self, send: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>, Error> {
        Ok(self.count(self.comm.all_to_all(send)?))
    }

    fn abort(&self) {
        self.comm.abort();
    }
}

/// The most that a rank of four receives.
fn received(classes: usize, sampling: Option<Sampling>) -> usize {
    let (count, dim) = (1024, 512);
    let batch = Batch::<f32>::random(57, count, 64, dim);
    let shards = Shards::new(classes).expect("classes");
    let bytes = Threads::run(4, |comm| {
        let own_rows = rows_of(count, comm.rank(), 4);
        let own = shards.classes(comm.rank(), 4);
        // Only lengths matter.
        let w = Array2::from_shape_fn((own.len(), dim), |(row, k)| {
            ((row * 7 + k) % 13) as f32 - 6.5
        });
        let labels: Vec<usize> = own_rows.clone().map(|row| row * 977 % classes).collect();
        let counting = Counting {
            comm: &comm,
            received: AtomicUsize::new(0),
        };
        let loss = ArcFace::default();
        let mut sharded = Sharded::new(&loss, shards, &counting);
        if let Some(sampling) = sampling {
            sharded = sharded.with_sampling(sampling);
        }
        let x = rows(&batch.features, own_rows);
        sharded
            .evaluate(x, w.view(), &Targets::new(&labels))
            .expect("a good batch");
        counting.received.into_inner()
    });
    bytes.into_iter().max().expect("four ranks")
}

/// N = 1,024, d = 512, four ranks: what arrives does not grow with the classes, but for the segments, of which there are 64 at
/// most.
#[test]
fn bytes_do_not_grow_with_the_classes() {
    let sampling = Some(Sampling::new(0.02, 1).expect("in range"));
    let found = [8_192, 32_768, 140_000].map(|classes| received(classes, sampling));
    println!("received by a rank, at most: {found:?} bytes");
    assert!(found.iter().all(|&bytes| bytes <= 6_000_000), "{found:?}");
    assert_eq!(received(8_192, None), found[0], "a sample changes nothing");
}
