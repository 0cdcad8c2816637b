//! Margins of the users' own that see more than an angle: class and row, the feature's length, the row's loss, the negatives.
//! Each against central differences in `f64`, to 1e-7, and through every path with the same bits.

use margin_losses::{
    Angle, Argument, ClassBlock, Error, Evaluation, Margin, MarginLoss, MarginSoftmax, Negatives,
    Target, TargetLogit, Targets,
};
use ndarray::{Array2, Zip, array};
use rayon::ThreadPoolBuilder;

use crate::support::{Batch, LAYOUTS, Snapshot, bits, check_gradient};

/// cos(θ + m) with a margin by class, less a little by row.
#[derive(Debug)]
struct ByClassAndRow;

impl Margin for ByClassAndRow {
    fn target_logit(&self, target: &Target) -> TargetLogit {
        let margin = 0.1 + 0.05 * (target.class() % 5) as f64;
        let (sin, cos) = (target.radians() + margin).sin_cos();
        TargetLogit::from_angle_slope(cos - 0.01 * (target.row() % 7) as f64, -sin)
    }
}

/// cos(θ + m(‖x‖)), the margin growing with the length of the feature, and a price on short features.
#[derive(Debug)]
struct ByLength;

impl Margin for ByLength {
    fn target_logit(&self, target: &Target) -> TargetLogit {
        let norm = target.feature_norm();
        let (sin, cos) = (target.radians() + 0.2 + 0.03 * norm).sin_cos();
        TargetLogit::from_angle_slope(cos, -sin)
            .with_norm_slope(-0.03 * sin)
            .with_row_term(
                0.4 * (norm / 9.0 + 1.0 / norm),
                0.4 * (1.0 / 9.0 - 1.0 / (norm * norm)),
            )
    }
}

/// Negatives above the target's own logit weigh more, as in CurricularFace: c (t + c).
#[derive(Debug)]
pub(crate) struct HardNegatives;

impl Margin for HardNegatives {
    fn target_logit(&self, target: &Target) -> TargetLogit {
        let (sin, cos) = (target.radians() + 0.3).sin_cos();
        TargetLogit::from_angle_slope(cos, -sin)
    }

    fn negatives(&self, target: &Target) -> Negatives {
        Negatives::above((target.radians() + 0.3).cos(), [0.0, 0.6, 1.0, 0.0])
    }
}

/// Everything at once, with a cubic.
#[derive(Debug)]
struct All;

impl Margin for All {
    fn target_logit(&self, target: &Target) -> TargetLogit {
        ByLength.target_logit(target)
    }

    fn negatives(&self, target: &Target) -> Negatives {
        Negatives::above(
            0.1 + 0.02 * (target.class() % 3) as f64,
            [0.05, 1.1, 0.4, -0.2],
        )
    }
}

fn losses() -> [(&'static str, Box<dyn MarginLoss<f64>>); 4] {
    let scale = 7.0;
    let refused = "in range";
    [
        (
            "by class and row",
            Box::new(MarginSoftmax::new(ByClassAndRow, scale).expect(refused)),
        ),
        (
            "by length",
            Box::new(MarginSoftmax::learned(ByLength, scale).expect(refused)),
        ),
        (
            "hard negatives",
            Box::new(MarginSoftmax::learned(HardNegatives, scale).expect(refused)),
        ),
        (
            "all",
            Box::new(MarginSoftmax::learned(All, scale).expect(refused)),
        ),
    ]
}

/// Every entry of every gradient against differences, to 1e-7.
pub(crate) fn check_gradients(
    name: &str,
    loss: &mut dyn MarginLoss<f64>,
    batch: &Batch<f64>,
) -> Result<(), String> {
    let targets = Targets::new(&batch.labels).with_row_weights(&batch.row_weights);
    let (x, w) = (&batch.features, &batch.weights);
    let found = loss.evaluate(x.view(), w.view(), &targets);
    let found = found.map_err(|error| format!("{name}: {error}"))?;
    let moved = |array: &Array2<f64>, entry: usize, shift: f64| {
        let mut array = array.clone();
        array.as_slice_mut().expect("owned")[entry] += shift;
        array
    };
    let value = |loss: &dyn MarginLoss<f64>, x: &Array2<f64>, w: &Array2<f64>| {
        let forward = loss.forward(x.view(), w.view(), &targets);
        forward.map_or(f64::NAN, |forward| forward.loss)
    };
    let named = |message: String| format!("{name}: {message}");
    let gradient: Vec<f64> = found.grad_features.iter().copied().collect();
    let by_feature = |k, by| value(&*loss, &moved(x, k, by), w);
    check_gradient(&gradient, by_feature, 1e-3, 1e-7).map_err(named)?;
    let gradient: Vec<f64> = found.grad_weights.iter().copied().collect();
    let by_weight = |k, by| value(&*loss, x, &moved(w, k, by));
    check_gradient(&gradient, by_weight, 1e-3, 1e-7).map_err(named)?;
    let learnables = loss.learnables().to_vec();
    let gradient = found.grad_learnables.to_vec();
    let by_learnable = |k: usize, by| {
        let mut learnables = learnables.clone();
        learnables[k] += by;
        loss.set_learnables(&learnables).expect("in range");
        value(&*loss, x, w)
    };
    check_gradient(&gradient, by_learnable, 1e-2, 1e-7).map_err(named)?;
    Ok(())
}

#[test]
fn gradients_are_those_of_the_loss() -> Result<(), String> {
    for seed in [3, 4] {
        let batch = Batch::<f64>::random(seed, 4, 9, 5);
        for (name, mut loss) in losses() {
            check_gradients(name, &mut *loss, &batch)?;
        }
    }
    Ok(())
}

/// A radial part of ∂x there is only where the loss depends on the length of the feature.
#[test]
fn features_are_pulled_outwards_by_their_length_alone() -> Result<(), Error> {
    let batch = Batch::<f64>::random(5, 6, 9, 5);
    let targets = Targets::new(&batch.labels);
    for (name, loss) in losses() {
        let out = loss.evaluate(batch.features.view(), batch.weights.view(), &targets)?;
        for (x, gradient) in batch
            .features
            .outer_iter()
            .zip(out.grad_features.outer_iter())
        {
            let radial = x.dot(&gradient);
            let by_length = name == "by length" || name == "all";
            assert_eq!(radial.abs() > 1e-4, by_length, "{name}: x·∂x = {radial:e}");
        }
    }
    Ok(())
}

fn stream(
    loss: &dyn MarginLoss<f64>,
    batch: &Batch<f64>,
    out: &mut Evaluation<f64>,
) -> Result<Array2<f64>, Error> {
    let mut weights = batch.weights.clone();
    let mut update = |mut block: ClassBlock<'_, f64>| {
        Zip::from(&mut block.weights)
            .and(block.gradient)
            .for_each(|w, &g| *w = g);
    };
    let targets = Targets::new(&batch.labels).with_row_weights(&batch.row_weights);
    loss.evaluate_streamed(
        batch.features.view(),
        weights.view_mut(),
        &targets,
        out,
        &mut update,
    )?;
    Ok(weights)
}

/// Limits, streaming, layouts and threads change no bit.
pub(crate) fn check_paths(
    name: &str,
    loss: &dyn MarginLoss<f64>,
    batch: &Batch<f64>,
) -> Result<(), Error> {
    let targets = Targets::new(&batch.labels).with_row_weights(&batch.row_weights);
    let whole = loss.evaluate(batch.features.view(), batch.weights.view(), &targets)?;
    let gradient = bits(&whole.grad_weights);
    let expected = Snapshot::of(&whole);
    for limit in [whole.scratch_bytes(), 3 << 20, 5 << 19] {
        let mut out = Evaluation::with_scratch_limit(limit);
        loss.evaluate_into(
            batch.features.view(),
            batch.weights.view(),
            &targets,
            &mut out,
        )?;
        assert_eq!(Snapshot::of(&out), expected, "{name}, in {limit} bytes");
        assert_eq!(
            bits(&stream(loss, batch, &mut out)?),
            gradient,
            "{name}, streamed in {limit} bytes"
        );
        assert_eq!(
            bits(&out.grad_features),
            bits(&whole.grad_features),
            "{name}, streamed"
        );
    }
    for threads in [1, 2, 3, 8] {
        let pool = ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .expect("a pool");
        pool.install(|| -> Result<(), Error> {
            let out = loss.evaluate(batch.features.view(), batch.weights.view(), &targets)?;
            assert_eq!(Snapshot::of(&out), expected, "{name}, {threads} threads");
            let streamed = stream(loss, batch, &mut Evaluation::new())?;
            assert_eq!(
                bits(&streamed),
                gradient,
                "{name}, streamed on {threads} threads"
            );
            Ok(())
        })?;
    }
    for layout in LAYOUTS {
        let (x, w) = (
            layout.buffer(&batch.features),
            layout.buffer(&batch.weights),
        );
        let views = (
            layout.view(&x, batch.features.dim()),
            layout.view(&w, batch.weights.dim()),
        );
        let out = loss.evaluate(views.0, views.1, &targets)?;
        assert_eq!(Snapshot::of(&out), expected, "{name}, {layout:?}");
    }
    Ok(())
}

#[test]
fn every_path_has_the_same_bits() -> Result<(), Error> {
    let batch = Batch::<f64>::random(6, 280, 901, 10);
    for (name, loss) in losses() {
        check_paths(name, &*loss, &batch)?;
    }
    Ok(())
}

/// What a margin returns that is not finite is refused with the row, whatever it is.
#[test]
fn a_margin_that_is_not_finite_is_refused() {
    #[derive(Debug)]
    struct Bad(usize);
    impl Margin for Bad {
        fn target_logit(&self, target: &Target) -> TargetLogit {
            let psi = TargetLogit::from_cosine_slope(target.cos(), 1.0, target.angle());
            match (self.0, target.row()) {
                (0, 2) => psi.with_norm_slope(f64::NAN),
                (1, 2) => psi.with_row_term(f64::INFINITY, 0.0),
                (2, 2) => psi.with_row_term(0.0, f64::NAN),
                _ => psi,
            }
        }

        fn negatives(&self, target: &Target) -> Negatives {
            match (self.0, target.row()) {
                (3, 2) => Negatives::above(f64::NAN, [0.0; 4]),
                (4, 2) => Negatives::above(0.0, [0.0, 1.0, f64::INFINITY, 0.0]),
                _ => Negatives::plain(),
            }
        }
    }
    let batch = Batch::<f64>::random(7, 4, 9, 5);
    for which in 0..5 {
        let loss = MarginSoftmax::new(Bad(which), 4.0).expect("in range");
        let mut out = Evaluation::new();
        let before = Snapshot::of(&out);
        let targets = Targets::new(&batch.labels);
        let refused = loss.evaluate_into(
            batch.features.view(),
            batch.weights.view(),
            &targets,
            &mut out,
        );
        assert!(
            matches!(refused, Err(Error::MarginNotFinite { row: 2, .. })),
            "{which}: {refused:?}"
        );
        assert_eq!(Snapshot::of(&out), before);
    }
}

/// Every loss of the crate is a margin of its own scale, and of no other.
#[test]
fn the_scale_of_a_margin_is_not_dropped() -> Result<(), Error> {
    use margin_losses::{ASoftmax, AmSoftmax, ArcFace, CombinedMargin, CosFace};
    let said = |result: Result<(), Error>| result.expect_err("another scale").to_string();
    let expected = "scale is 1, but must be the scale that the margin itself has";
    assert_eq!(
        said(MarginSoftmax::new(ArcFace::new(64.0, 0.5)?, 1.0).map(drop)),
        expected
    );
    assert_eq!(
        said(MarginSoftmax::learned(CosFace::default(), 1.0).map(drop)),
        expected
    );
    assert_eq!(
        said(MarginSoftmax::new(AmSoftmax::default(), 1.0).map(drop)),
        expected
    );
    assert_eq!(
        said(MarginSoftmax::new(CombinedMargin::new(64.0, 1.0, 0.3, 0.2)?, 1.0).map(drop)),
        expected
    );
    MarginSoftmax::new(ArcFace::new(64.0, 0.5)?, 64.0)?;
    // A-Softmax has no scale.
    MarginSoftmax::new(ASoftmax::new(4)?, 1.0)?;
    assert!(
        ArcFace::default()
            .target_logit(&Angle::from_radians(0.0).into())
            .value()
            < 1.0
    );
    Ok(())
}

/// Negatives that a margin makes larger than any number are refused, and not forgotten.
#[test]
fn negatives_that_are_too_large() {
    #[derive(Debug)]
    struct Huge;
    impl Margin for Huge {
        fn target_logit(&self, target: &Target) -> TargetLogit {
            TargetLogit::from_cosine_slope(target.cos(), 1.0, target.angle())
        }

        fn negatives(&self, _: &Target) -> Negatives {
            Negatives::above(0.0, [0.0, 1e38, 0.0, 0.0])
        }
    }
    let loss = MarginSoftmax::new(Huge, 64.0).expect("in range");
    let (x, w) = (array![[1.0_f32, 0.5]], array![[1.0_f32, 0.0], [0.9, 0.6]]);
    let refused = loss.evaluate(x.view(), w.view(), &Targets::new(&[0]));
    let expected = Error::Overflow {
        quantity: "logit",
        argument: Argument::Features,
        row: 0,
    };
    assert_eq!(refused.map(drop), Err(expected));
}
