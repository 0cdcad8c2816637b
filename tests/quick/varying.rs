//! Margins by class and by row: each row's is the loss with that margin, all equal they are the loss itself, and what is wrong
//! with a list is said of its entry. Margins and class weights from counts.

use margin_losses::{
    AmSoftmax, AnyLoss, ArcFace, Argument, CosFace, Error, Evaluation, Float, MarginLoss,
    MarginSoftmax, Targets, VaryingMargin, margins,
};
use ndarray::Axis;

use crate::support::{Batch, RULES, Snapshot, assert_close, bits, evaluated};

/// A loss with one margin, and with a list of them, by row or by class.
type Both = (
    Box<dyn Fn(f64) -> AnyLoss>,
    Box<dyn Fn(Vec<f64>, bool) -> AnyLoss>,
);

fn losses() -> Vec<Both> {
    fn both<L: Copy + 'static>(
        at: impl Fn(f64) -> L + 'static,
        by_class: fn(L, Vec<f64>) -> Result<VaryingMargin<L>, Error>,
        by_row: fn(L, Vec<f64>) -> Result<VaryingMargin<L>, Error>,
    ) -> Both
    where
        AnyLoss: From<L> + From<VaryingMargin<L>>,
    {
        // The margin that the list replaces has no say.
        let replaced = at(1.25);
        (
            Box::new(move |margin| at(margin).into()),
            Box::new(move |margins, rows| {
                let make = if rows { by_row } else { by_class };
                make(replaced, margins).expect("in range").into()
            }),
        )
    }
    let mut all = vec![
        both(
            |m| AmSoftmax::new(30.0, m).expect("in range"),
            AmSoftmax::with_class_margins,
            AmSoftmax::with_row_margins,
        ),
        both(
            |m| CosFace::new(64.0, m).expect("in range"),
            CosFace::with_class_margins,
            CosFace::with_row_margins,
        ),
    ];
    for rule in RULES {
        all.push(both(
            move |m| ArcFace::new(64.0, m).expect("in range").with_past_pi(rule),
            ArcFace::with_class_margins,
            ArcFace::with_row_margins,
        ));
    }
    all
}

fn equal_margins_are_one<A: Float>() {
    let batch = Batch::<A>::random(1, 9, 6, 4);
    for (one, list) in losses() {
        let loss = one(0.4);
        let expected = Snapshot::of(&evaluated(&loss, &batch));
        for by_row in [false, true] {
            let varying = list(vec![0.4; if by_row { 9 } else { 6 }], by_row);
            assert!(
                Snapshot::of(&evaluated(&varying, &batch)) == expected,
                "{varying}"
            );
            let (x, w) = (batch.features.view(), batch.weights.view());
            let of = |loss: &AnyLoss| MarginLoss::<A>::scores(loss, x, w).expect("good rows");
            assert_eq!(bits(&of(&varying)), bits(&of(&loss)));
        }
    }
}

#[test]
fn equal_margins_have_the_bits_of_one_margin() {
    equal_margins_are_one::<f32>();
    equal_margins_are_one::<f64>();
}

#[test]
fn each_row_is_that_of_the_loss_with_its_margin() {
    let batch = Batch::<f64>::random(2, 8, 5, 4);
    let by_class: Vec<f64> = (0..5).map(|class| 0.1 * f64::from(class)).collect();
    let by_row: Vec<f64> = (0..8).map(|row| 0.55 - 0.05 * f64::from(row)).collect();
    for (one, list) in losses() {
        for (margins, rows) in [(&by_class, false), (&by_row, true)] {
            let varying = list(margins.clone(), rows);
            let found = evaluated(&varying, &batch);
            for row in 0..8 {
                let margin = margins[if rows { row } else { batch.labels[row] }];
                let expected = evaluated(&one(margin), &batch);
                let losses = |of: &Evaluation<f64>| of.forward.row_losses[row].to_bits();
                assert_eq!(losses(&found), losses(&expected), "{varying} row {row}");
                let gradient = |of: &Evaluation<f64>| bits(&of.grad_features.row(row).to_owned());
                assert_eq!(gradient(&found), gradient(&expected), "{varying} row {row}");
            }
        }
    }
}

/// Row margins are those of the caller's rows, ignored ones counted.
#[test]
fn rows_that_are_ignored_have_a_margin_too() {
    let batch = Batch::<f64>::random(3, 7, 5, 4);
    let ignored = [false, true, false, false, true, false, true];
    let counted = [0, 2, 3, 5];
    let margins: Vec<f64> = (0..7).map(|row| 0.1 + 0.1 * f64::from(row)).collect();
    let loss = ArcFace::default()
        .with_row_margins(margins.clone())
        .expect("in range");
    let part = ArcFace::default()
        .with_row_margins(counted.map(|row| margins[row]).to_vec())
        .expect("in range");
    let targets = Targets::new(&batch.labels);
    let w = batch.weights.view();
    let found = loss
        .evaluate(
            batch.features.view(),
            w,
            &targets.with_ignored_rows(&ignored),
        )
        .expect("a good batch");
    let labels = counted.map(|row| batch.labels[row]);
    let expected = part
        .evaluate(
            batch.features.select(Axis(0), &counted).view(),
            w,
            &Targets::new(&labels),
        )
        .expect("a good batch");
    assert_eq!(found.loss().to_bits(), expected.loss().to_bits());
    assert_eq!(bits(&found.grad_weights), bits(&expected.grad_weights));

    // So there is a margin for each of them.
    let error = part.evaluate(
        batch.features.view(),
        w,
        &targets.with_ignored_rows(&ignored),
    );
    assert_eq!(
        error.unwrap_err(),
        Error::RowCount {
            argument: Argument::RowMargins,
            expected: 7,
            found: 4
        }
    );
}

#[test]
fn lists_of_another_length_are_refused() {
    let batch = Batch::<f32>::random(4, 3, 5, 4);
    let (x, w) = (batch.features.view(), batch.weights.view());
    let targets = Targets::new(&batch.labels);
    for (_, list) in losses() {
        for (length, by_row, message) in [
            (4, false, "class margins: 5 entries expected, 4 found"),
            (6, false, "class margins: 5 entries expected, 6 found"),
            (2, true, "row margins: 3 entries expected, 2 found"),
            (0, true, "row margins: 3 entries expected, 0 found"),
        ] {
            let loss = list(vec![0.3; length], by_row);
            let mut kept = evaluated(&"softmax".parse::<AnyLoss>().unwrap(), &batch);
            let before = Snapshot::of(&kept);
            let error = loss.evaluate_into(x, w, &targets, &mut kept).unwrap_err();
            assert_eq!(error.to_string(), message);
            assert!(Snapshot::of(&kept) == before);
            let error = loss.forward(x, w, &targets).unwrap_err();
            assert_eq!(error.to_string(), message);
            // What is wrong with the shapes comes first; scores have no margin.
            let error = loss.forward(x, w, &Targets::new(&[0; 2])).unwrap_err();
            assert_eq!(error.to_string(), "labels: 3 entries expected, 2 found");
            assert!(loss.scores(x, w).is_ok());
        }
    }
    // Asked as a margin, it has no length to check.
    let loss = CosFace::default().with_class_margins(vec![0.3; 2]).unwrap();
    let margin = MarginSoftmax::new(loss, 64.0).unwrap();
    let error = margin.forward(x, w, &Targets::new(&[0, 4, 1])).unwrap_err();
    assert!(matches!(error, Error::MarginNotFinite { row: 1, .. }));
}

#[test]
fn margins_out_of_range_are_refused_by_their_entry() {
    for bad in [f64::NAN, -0.1, f64::INFINITY, 4.0] {
        let list = vec![0.1, bad, 0.2];
        for (error, argument) in [
            (
                ArcFace::default().with_class_margins(list.clone()).err(),
                Argument::ClassMargins,
            ),
            (
                CosFace::default().with_class_margins(list.clone()).err(),
                Argument::ClassMargins,
            ),
            (
                AmSoftmax::default().with_row_margins(list.clone()).err(),
                Argument::RowMargins,
            ),
        ] {
            let Some(Error::EntryOutOfRange {
                argument: named,
                row: 1,
                value,
                ..
            }) = error
            else {
                panic!("{error:?}");
            };
            assert_eq!((named, value.to_bits()), (argument, bad.to_bits()));
        }
    }
    assert_eq!(
        ArcFace::default().with_class_margins(Vec::new()),
        Err(Error::NoClasses)
    );
    // Of no rows there may be no margins.
    let loss = ArcFace::default().with_row_margins(Vec::new()).unwrap();
    assert_eq!(loss.to_string(), "arcface:s=64,m=(0 by row)");
    let long = CosFace::default()
        .with_class_margins(vec![0.5; 17])
        .unwrap();
    let logged: Box<dyn MarginLoss<f32>> = Box::new(long);
    assert_eq!(logged.to_string(), "varying-cosface:s=64,m=(17 by class)");
}

const COUNTS: [usize; 5] = [1000, 100, 10, 5, 1];

/// Printed to four digits in the reference of the formulas.
#[test]
fn margins_from_counts() {
    let close = |found: &[f64], expected: [f64; 5]| assert_close("m", found, &expected, 1e-4);
    let dynamic = margins::dynamic(&COUNTS, 0.5, 0.05, 0.25).unwrap();
    close(&dynamic, [0.1389, 0.2081, 0.3312, 0.3844, 0.55]);
    let scaled = margins::dynamic_scaled(&COUNTS, 0.05, 0.5, 0.25).unwrap();
    close(&scaled, [0.05, 0.1258, 0.2605, 0.3187, 0.5]);
    assert_eq!((scaled[0], scaled[4]), (0.05, 0.5));
    let ldam = margins::ldam(&COUNTS, 0.5).unwrap();
    close(&ldam, [0.0889, 0.1581, 0.2812, 0.3344, 0.5]);

    // Equal counts, and powers that are equal.
    assert_eq!(
        margins::dynamic_scaled(&[3; 4], 0.1, 0.4, 0.25),
        Ok(vec![0.4; 4])
    );
    assert_eq!(
        margins::dynamic_scaled(&COUNTS, 0.1, 0.4, 0.0),
        Ok(vec![0.4; 5])
    );
    assert_eq!(margins::ldam(&[7; 3], 0.4), Ok(vec![0.4; 3]));
    assert_eq!(
        margins::dynamic(&[usize::MAX], 0.5, 0.05, 1e300),
        Ok(vec![0.05])
    );
}

#[test]
fn weights_from_counts() {
    let weights = margins::drw_weights(&COUNTS, 0.9999).unwrap();
    assert_close("mean", &[weights.iter().sum::<f64>() / 5.0], &[1.0], 1e-15);
    // (1 − β)/(1 − βⁿ), straight from the formula, which loses few digits at this β.
    let plain = COUNTS.map(|n| (1.0 - 0.9999) / (1.0 - 0.9999_f64.powi(n as i32)));
    for (weight, plain_weight) in weights.iter().zip(plain) {
        assert_close(
            "w",
            &[weight / weights[4]],
            &[plain_weight / plain[4]],
            1e-11,
        );
    }
    assert_eq!(margins::drw_weights(&COUNTS, 0.0), Ok(vec![1.0; 5]));
    // Near 1 they are 1/n, where the plain formula would be nothing but rounding.
    let near = margins::drw_weights(&[4, 1], 1.0 - f64::EPSILON / 2.0).unwrap();
    assert_close("1/n", &near, &[0.4, 1.6], 1e-14);
}

#[test]
fn counts_and_parameters_are_checked() {
    let all = |counts: &[usize]| {
        [
            margins::dynamic(counts, 0.5, 0.05, 0.25),
            margins::dynamic_scaled(counts, 0.05, 0.5, 0.25),
            margins::ldam(counts, 0.5),
            margins::drw_weights(counts, 0.999),
        ]
    };
    for found in all(&[]) {
        assert_eq!(found, Err(Error::NoClasses));
    }
    for found in all(&[3, 7, 0, 0]) {
        let message = found.unwrap_err().to_string();
        assert_eq!(message, "class counts entry 2 is 0, but must be at least 1");
    }
    for bad in [f64::NAN, -1e-9, f64::INFINITY] {
        for found in [
            margins::dynamic(&COUNTS, bad, 0.05, 0.25),
            margins::dynamic(&COUNTS, 0.5, bad, 0.25),
            margins::dynamic(&COUNTS, 0.5, 0.05, bad),
            margins::dynamic_scaled(&COUNTS, bad, 0.5, 0.25),
            margins::dynamic_scaled(&COUNTS, 0.05, bad, 0.25),
            margins::dynamic_scaled(&COUNTS, 0.05, 0.5, bad),
            margins::ldam(&COUNTS, bad),
            margins::drw_weights(&COUNTS, bad),
        ] {
            assert!(matches!(found, Err(Error::Parameter { .. })), "{found:?}");
        }
    }
    assert!(margins::dynamic_scaled(&COUNTS, 0.5, 0.4, 0.25).is_err());
    assert!(margins::drw_weights(&COUNTS, 1.0).is_err());
}

#[cfg(feature = "rand")]
#[test]
fn elastic_margins_are_normal_and_seeded() {
    let drawn = margins::elastic(100_000, 0.5, 0.05, 7).unwrap();
    let mean = drawn.iter().sum::<f64>() / 1e5;
    let variance = drawn.iter().map(|m| (m - mean).powi(2)).sum::<f64>() / 1e5;
    // Within five standard errors.
    assert!((mean - 0.5).abs() < 5.0 * 0.05 / 1e5_f64.sqrt(), "{mean}");
    assert!(
        (variance.sqrt() - 0.05).abs() < 5.0 * 0.05 / 2e5_f64.sqrt(),
        "{variance}"
    );
    let within = drawn.iter().filter(|m| (*m - 0.5).abs() < 0.05).count();
    assert!((within as f64 / 1e5 - 0.6827).abs() < 0.008, "{within}");

    assert_eq!(margins::elastic(10, 0.5, 0.05, 7).unwrap(), drawn[..10]);
    assert_ne!(margins::elastic(10, 0.5, 0.05, 8).unwrap(), drawn[..10]);
    assert_eq!(margins::elastic(3, 0.35, 0.0, 1), Ok(vec![0.35; 3]));
    assert!(margins::elastic(3, -0.1, 0.05, 1).is_err());
    assert!(margins::elastic(3, 0.1, f64::NAN, 1).is_err());
}

#[test]
fn margins_are_dealt_by_the_order_of_the_cosines() {
    let dealt = margins::deal(vec![0.45, 0.50, 0.55], ndarray::aview1(&[0.2, 0.9, 0.5]));
    assert_eq!(dealt, Ok(vec![0.55, 0.45, 0.50]));
    // Whatever the order of the draw; of equal cosines the first row has the smaller margin.
    let dealt = margins::deal(
        vec![0.4, 0.1, 0.3, 0.2],
        ndarray::aview1(&[0.5_f32, 0.7, 0.5, -0.2]),
    );
    assert_eq!(dealt, Ok(vec![0.2, 0.1, 0.3, 0.4]));
    assert_eq!(
        margins::deal::<f64>(Vec::new(), ndarray::aview1(&[])),
        Ok(Vec::new())
    );
    let error = margins::deal(vec![0.1], ndarray::aview1(&[0.5, 0.7])).unwrap_err();
    assert_eq!(
        error.to_string(),
        "target cosines: 1 entries expected, 2 found"
    );
    let error = margins::deal(vec![0.1; 2], ndarray::aview1(&[0.5, f64::NAN])).unwrap_err();
    assert_eq!(
        error.to_string(),
        "target cosines row 1 holds a NaN or an infinity"
    );
}
