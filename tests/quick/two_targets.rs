//! Two targets for each row, as mixup and CutMix have them: the sum of two evaluations in one, and what becomes of masks, weights
//! and statistics.

use margin_losses::{
    AdaFace, AdaptiveFace, ArcFace, Argument, CContrastive, CTriplet, CenterLoss, Composed,
    CosFace, CurricularFace, Error, Evaluation, JointLoss, MagFace, MarginLoss, MvSoftmax,
    NormFace, Reduction, SoftmaxLoss, SphereFace2, Targets, UniFace,
};
use ndarray::{Array1, Array2};

use crate::composed;
use crate::support::{Batch, Snapshot, assert_close, bits, wide};

/// Second labels, and the share of the first one, for each row; some rows have one target.
fn second(batch: &Batch<f64>, classes: usize) -> (Vec<usize>, Vec<f64>) {
    let rows = batch.labels.len();
    let labels = (0..rows).map(|row| match row % 4 {
        3 => batch.labels[row],
        _ => (batch.labels[row] + 1 + row % (classes - 1)) % classes,
    });
    let shares = (0..rows).map(|row| [0.3, 0.75, 1.0, 0.5, 0.0][row % 5]);
    (labels.collect(), shares.collect())
}

/// The loss whose margins are those of five rows.
const BY_ROW: &str = "margins by row";

type Named = (String, usize, Box<dyn MarginLoss<f64>>);

/// Losses with their numbers of classes, of 27 rows of W.
fn losses() -> Result<Vec<Named>, Error> {
    let mut all = composed::losses();
    let mut add = |loss: Box<dyn MarginLoss<f64>>| all.push((loss.to_string(), 27, loss));
    add(Box::new(ArcFace::new(7.0, 0.3)?));
    add(Box::new(ArcFace::new(7.0, 0.3)?.with_class_filter(0.2)?));
    add(Box::new(NormFace::learned(5.0)?));
    add(Box::new(SoftmaxLoss::with_bias(vec![0.25; 27])?));
    add(Box::new(
        AdaFace::new(7.0, 0.4)?
            .with_concentration(4.0)?
            .with_momentum(0.5)?,
    ));
    add(Box::new(
        MagFace::new(7.0, 0.1, 0.5)?
            .with_norms(0.5, 5.0)?
            .with_regulariser(2.0)?,
    ));
    add(Box::new(MvSoftmax::new(7.0, 0.1, 0.3)?));
    add(Box::new(
        CurricularFace::new(7.0, 0.2)?
            .with_momentum(0.0)?
            .with_t(0.4)?,
    ));
    add(Box::<SphereFace2>::default());
    add(Box::new(UniFace::new(7.0, 0.2)?));
    add(Box::new(CContrastive::new(1.5)?));
    add(Box::<CTriplet>::default());
    add(Box::new(
        AdaptiveFace::new(7.0, vec![0.3; 27])?.with_lambda(2.0)?,
    ));
    let by_row = CosFace::new(7.0, 0.3)?.with_row_margins(vec![0.1, 0.2, 0.3, 0.4, 0.0])?;
    all.push((BY_ROW.into(), 27, Box::new(by_row)));
    Ok(all)
}

fn batch(classes: usize) -> Batch<f64> {
    let mut batch = Batch::random(31, 5, 27, 5);
    for label in &mut batch.labels {
        *label %= classes;
    }
    batch
}

/// `Σ rᵢ (λᵢ ℓᵢ(y) + (1 − λᵢ) ℓᵢ(y′))`, and so are its gradients, by one evaluation for each label.
#[test]
fn two_targets_are_the_sum_of_two_evaluations() -> Result<(), Error> {
    for (name, classes, loss) in losses()? {
        let batch = batch(classes);
        let (labels, shares) = second(&batch, classes);
        let (x, w) = (batch.features.view(), batch.weights.view());
        let of = |labels, weight: &dyn Fn(usize) -> f64| {
            let weights: Vec<f64> = (batch.row_weights.iter().enumerate())
                .map(|(row, r)| r * weight(row))
                .collect();
            loss.evaluate(x, w, &Targets::new(labels).with_row_weights(&weights))
        };
        let first = of(&batch.labels, &|row| shares[row])?;
        let other = of(&labels, &|row| 1.0 - shares[row])?;
        let targets = Targets::new(&batch.labels)
            .with_row_weights(&batch.row_weights)
            .with_second_by_row(&labels, &shares);
        let found = loss.evaluate(x, w, &targets)?;
        let sum = |part: fn(&Evaluation<f64>) -> Vec<f64>| -> Vec<f64> {
            let parts = part(&first).into_iter().zip(part(&other));
            parts.map(|(a, b)| a + b).collect()
        };
        for (what, part) in [
            ("L", (|out| vec![out.loss()]) as fn(&Evaluation<f64>) -> _),
            ("∂X", |out| wide(&out.grad_features)),
            ("∂W", |out| wide(&out.grad_weights)),
            ("∂ of the learnables", |out| wide(&out.grad_learnables)),
        ] {
            assert_close(
                &format!("{what} of {name}"),
                &part(&found),
                &sum(part),
                1e-12,
            );
        }
        let losses = shares.iter().enumerate().map(|(row, share)| {
            let rows = [&first, &other].map(|out| out.forward.row_losses[row]);
            share * rows[0] + (1.0 - share) * rows[1]
        });
        let expected: Vec<f64> = losses.collect();
        assert_close(&name, &found.forward.row_losses.to_vec(), &expected, 1e-12);
        let figures = |out: &Evaluation<f64>| {
            let forward = &out.forward;
            let correct = forward.correct.to_vec();
            (
                correct,
                wide(&forward.target_cosines),
                forward.sub_centers.to_vec(),
            )
        };
        assert_eq!(figures(&found), figures(&first), "{name}");
        let forward = loss.forward(x, w, &targets)?;
        assert_eq!(forward.loss, found.loss(), "{name}");
    }
    Ok(())
}

/// λ = 1 and y = y′ are one target, to the bit.
#[test]
fn one_target_is_one_target() -> Result<(), Error> {
    for (name, classes, loss) in losses()? {
        let batch = batch(classes);
        let (labels, _) = second(&batch, classes);
        let (x, w) = (batch.features.view(), batch.weights.view());
        let targets = Targets::new(&batch.labels).with_row_weights(&batch.row_weights);
        let alone = Snapshot::of(&loss.evaluate(x, w, &targets)?);
        let whole = loss.evaluate(x, w, &targets.with_second(&labels, 1.0))?;
        assert_eq!(Snapshot::of(&whole), alone, "{name}, λ = 1");
        let same = loss.evaluate(x, w, &targets.with_second(&batch.labels, 0.3))?;
        assert_eq!(Snapshot::of(&same), alone, "{name}, y = y′");
    }
    Ok(())
}

/// Limits, streams and threads change no bit.
#[test]
fn every_path_has_the_same_bits() -> Result<(), Error> {
    for (name, classes, loss) in losses()? {
        if name == BY_ROW {
            continue;
        }
        let mut batch = Batch::<f64>::random(32, 280, 27, 10);
        batch.labels.iter_mut().for_each(|label| *label %= classes);
        let (labels, shares) = second(&batch, classes);
        let (x, w) = (batch.features.view(), batch.weights.view());
        let targets = Targets::new(&batch.labels).with_second_by_row(&labels, &shares);
        let whole = loss.evaluate(x, w, &targets)?;
        let expected = Snapshot::of(&whole);
        // Where each row is evaluated once for each target, a limit may prove too small a second time.
        let mut least = 1;
        while let Err(error) = {
            let mut limited = Evaluation::with_scratch_limit(least);
            loss.evaluate_into(x, w, &targets, &mut limited)
        } {
            let Error::ScratchLimit { needed, .. } = error else {
                return Err(error);
            };
            assert!(needed > least, "{name}");
            least = needed;
        }
        for limit in [least, 2 * least] {
            let mut limited = Evaluation::with_scratch_limit(limit);
            loss.evaluate_into(x, w, &targets, &mut limited)?;
            assert_eq!(Snapshot::of(&limited), expected, "{name}, in {limit} bytes");
        }
        // Streams hold a run's ∂W besides.
        let mut limited = Evaluation::with_scratch_limit(2 * least);
        let (mut weights, mut gradient) = (batch.weights.clone(), Vec::<f64>::new());
        let mut update =
            |block: margin_losses::ClassBlock<'_, f64>| gradient.extend(&block.gradient);
        loss.evaluate_streamed(x, weights.view_mut(), &targets, &mut limited, &mut update)?;
        assert_eq!(gradient, wide(&whole.grad_weights), "{name}, streamed");
        assert_eq!(bits(&limited.grad_features), bits(&whole.grad_features));
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build();
        let found = pool
            .expect("a pool")
            .install(|| loss.evaluate(x, w, &targets))?;
        assert_eq!(Snapshot::of(&found), expected, "{name}, on three threads");
    }
    Ok(())
}

/// A row is ignored for its first label, and what belongs to the others stays with them.
#[test]
fn rows_are_ignored_for_their_first_label() -> Result<(), Error> {
    for (name, classes, loss) in losses()? {
        if name == BY_ROW {
            continue;
        }
        let batch = batch(classes);
        let (labels, shares) = second(&batch, classes);
        let w = batch.weights.view();
        let mut masked: Vec<i64> = batch.labels.iter().map(|&label| label as i64).collect();
        masked[1] = -100;
        let mut x = batch.features.clone();
        x.row_mut(1).fill(f64::NAN);
        let mut wild: Vec<i64> = labels.iter().map(|&label| label as i64).collect();
        wild[1] = 999;
        let mut wild_shares = shares.clone();
        wild_shares[1] = f64::NAN;
        let targets = Targets::new(&masked)
            .with_ignored_label(-100)
            .with_second_by_row(&wild, &wild_shares);
        let found = loss.evaluate(x.view(), w, &targets)?;
        let rows = [0, 2, 3, 4];
        let part = |entries: &[usize]| -> Vec<usize> { rows.map(|row| entries[row]).to_vec() };
        let (first, other) = (part(&batch.labels), part(&labels));
        let shares = rows.map(|row| shares[row]);
        let kept = batch.features.select(ndarray::Axis(0), &rows);
        let expected = loss.evaluate(
            kept.view(),
            w,
            &Targets::new(&first).with_second_by_row(&other, &shares),
        )?;
        assert_eq!(
            bits(&found.grad_weights),
            bits(&expected.grad_weights),
            "{name}"
        );
        assert_eq!(found.loss(), expected.loss(), "{name}");
        assert_eq!(
            found.grad_features.row(1),
            Array1::<f64>::zeros(5),
            "{name}"
        );
    }
    Ok(())
}

/// Each label weighs its own term, and the divisor knows it.
#[test]
fn weights_of_labels_weigh_each_term() -> Result<(), Error> {
    let batch = batch(27);
    let (labels, shares) = second(&batch, 27);
    let (x, w) = (batch.features.view(), batch.weights.view());
    let label_weights: Vec<f64> = (0..27).map(|class| f64::from(class % 5) / 2.0).collect();
    let loss = ArcFace::new(7.0, 0.2)?;
    let of = |labels: &[usize]| loss.evaluate(x, w, &Targets::new(labels));
    let (first, other) = (of(&batch.labels)?, of(&labels)?);
    let targets = Targets::new(&batch.labels)
        .with_row_weights(&batch.row_weights)
        .with_label_weights(&label_weights)
        .with_second_by_row(&labels, &shares);
    let weights = |row: usize| {
        let r = batch.row_weights[row];
        let (a, b) = (batch.labels[row], labels[row]);
        [
            r * shares[row] * label_weights[a],
            r * (1.0 - shares[row]) * label_weights[b],
        ]
    };
    let sum: f64 = (0..5)
        .map(|row| {
            let [a, b] = weights(row);
            a * first.forward.row_losses[row] + b * other.forward.row_losses[row]
        })
        .sum();
    let all: f64 = (0..5).flat_map(weights).sum();
    for (reduction, divisor) in [
        (Reduction::Mean, 5.0),
        (Reduction::Sum, 1.0),
        (Reduction::WeightedMean, all),
    ] {
        let found = loss.evaluate(x, w, &targets.with_reduction(reduction))?;
        assert_close("L", &[found.loss()], &[sum / divisor], 1e-13);
    }
    Ok(())
}

/// MagFace's price on short features is paid once; CurricularFace's t follows both targets; AdaFace's statistics know no target.
#[test]
fn what_a_loss_keeps_counts_once() -> Result<(), Error> {
    let batch = batch(27);
    let (labels, shares) = second(&batch, 27);
    let (x, w) = (batch.features.view(), batch.weights.view());
    let one = Targets::new(&batch.labels);
    let both = one.with_second_by_row(&labels, &shares);
    let priced = MagFace::new(7.0, 0.1, 0.5)?.with_norms(0.5, 5.0)?;
    let price = |targets: &Targets<'_, f64>| -> Result<f64, Error> {
        let with = priced.with_regulariser(3.0)?.forward(x, w, targets)?;
        let without = priced.with_regulariser(0.0)?.forward(x, w, targets)?;
        Ok(with.loss - without.loss)
    };
    assert_close("the price", &[price(&both)?], &[price(&one)?], 1e-13);

    let curricular = CurricularFace::new(7.0, 0.2)?
        .with_momentum(0.75)?
        .with_t(0.4)?;
    let cosines = |labels: &[usize]| curricular.forward(x, w, &Targets::new(labels));
    let (first, other) = (cosines(&batch.labels)?, cosines(&labels)?);
    let mean = shares.iter().enumerate().map(|(row, share)| {
        share * first.target_cosines[row] + (1.0 - share) * other.target_cosines[row]
    });
    let expected = 0.75 * (mean.sum::<f64>() / 5.0) + 0.25 * 0.4;
    let found = curricular.forward(x, w, &both)?;
    assert_close("t", &found.statistics, &[expected], 1e-14);

    let ada = AdaFace::new(7.0, 0.4)?;
    let statistics = |targets| Ok::<_, Error>(ada.forward(x, w, targets)?.statistics);
    assert_eq!(statistics(&both)?, statistics(&one)?);
    Ok(())
}

#[test]
fn bad_second_targets_are_refused() -> Result<(), Error> {
    let batch = batch(27);
    let (labels, shares) = second(&batch, 27);
    let (x, w) = (batch.features.view(), batch.weights.view());
    let arc = ArcFace::new(7.0, 0.2)?;
    let one = || Targets::new(&batch.labels);
    let mut out = arc.evaluate(x, w, &one())?;
    let before = Snapshot::of(&out);
    let mut refused = |targets: &Targets<'_, f64>, message: &str| {
        let error = arc.evaluate_into(x, w, targets, &mut out).unwrap_err();
        assert_eq!(error.to_string(), message);
        assert_eq!(Snapshot::of(&out), before, "{message}");
    };
    for lambda in [-0.1, 1.5, f64::NAN] {
        let message = format!("shares row 0 is {lambda}, but must lie in [0, 1]");
        refused(&one().with_second(&labels, lambda), &message);
    }
    let mut bad = shares.clone();
    bad[3] = 2.0;
    let message = "shares row 3 is 2, but must lie in [0, 1]";
    refused(&one().with_second_by_row(&labels, &bad), message);
    refused(
        &one().with_second_by_row(&labels, &shares[1..]),
        "shares: 5 entries expected, 4 found",
    );
    refused(
        &one().with_second(&labels[1..], 0.5),
        "second labels: 5 entries expected, 4 found",
    );
    let mut bad = labels.clone();
    bad[2] = 27;
    let error = arc
        .evaluate(x, w, &one().with_second(&bad, 0.5))
        .unwrap_err();
    let expected = Error::LabelOutOfRange {
        row: 2,
        label: 27,
        classes: 27,
    };
    assert_eq!(error, expected);
    // Rows are counted in the batch.
    let ignored = [true, false, false, false, false];
    let targets = one().with_second(&bad, 0.5);
    let error = arc.evaluate(x, w, &targets.with_ignored_rows(&ignored));
    assert_eq!(error.unwrap_err(), expected);
    let mut bad = shares.clone();
    bad[3] = f64::NAN;
    let targets = one().with_second_by_row(&labels, &bad);
    let error = arc.evaluate(x, w, &targets.with_ignored_rows(&ignored));
    assert!(matches!(
        error,
        Err(Error::EntryOutOfRange {
            argument: Argument::Shares,
            row: 3,
            ..
        })
    ));
    // What has one target by its nature.
    let both = one().with_second(&labels, 0.5);
    let joint = JointLoss::new(arc, batch.centers.view(), 0.1)?;
    let centers = CenterLoss::new();
    for error in [
        joint.evaluate(x, w, &both).unwrap_err(),
        centers.evaluate(x, w, &both).unwrap_err(),
    ] {
        let message = "a second target cannot be composed with a loss that has one for each row";
        assert_eq!(error.to_string(), message);
    }
    // A row of the second time is the row of the batch.
    let mut x = Array2::<f64>::ones((3, 2));
    x[[1, 0]] = 0.0;
    x[[1, 1]] = 0.0;
    let error = SphereFace2::default()
        .evaluate(
            x.view(),
            Array2::eye(2).view(),
            &Targets::new(&[0, 1, 0]).with_second(&[1, 0, 1], 0.5),
        )
        .unwrap_err();
    assert_eq!(error.to_string(), "features row 1 has zero norm");
    let sum = Composed::new(arc).with_label_smoothing(0.1)?;
    assert!(sum.evaluate(batch.features.view(), w, &both).is_ok());
    Ok(())
}
