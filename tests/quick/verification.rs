//! Verification and recall against plain loops over all pairs.

use margin_losses::verification::{Embeddings, RocPoint, Verification, pair_scores, verify_scores};
use margin_losses::{Argument, Error, Float, Labels};
use ndarray::{Array1, Array2, Axis, array};
use rayon::ThreadPoolBuilder;

use crate::support::{LAYOUTS, SplitMix, narrow, widen, widened};

/// The score of each pair of rows, and whether it is of one class.
fn all_pairs(features: &Array2<f64>, labels: &[i64]) -> Vec<(f64, bool)> {
    let norm = |row: usize| features.row(row).dot(&features.row(row)).sqrt();
    let norms: Vec<f64> = (0..labels.len()).map(norm).collect();
    let units = features / &Array1::from(norms).insert_axis(Axis(1));
    let cosines = units.dot(&units.t());
    let mut pairs = Vec::new();
    for row in 0..labels.len() {
        for other in 0..row {
            pairs.push((cosines[[row, other]], labels[row] == labels[other]));
        }
    }
    pairs
}

/// What a threshold accepts, counted pair by pair.
fn rates(pairs: &[(f64, bool)], threshold: f64) -> [f64; 2] {
    [false, true].map(|kind| {
        let of_kind = pairs.iter().filter(|(_, same)| *same == kind);
        let accepted = of_kind.clone().filter(|(score, _)| *score >= threshold);
        accepted.count() as f64 / of_kind.count() as f64
    })
}

/// The ROC of scores by falling threshold: threshold, FAR, TAR.
fn plain_roc(pairs: &[(f64, bool)]) -> Vec<[f64; 3]> {
    let mut pairs = pairs.to_vec();
    pairs.sort_by(|a, b| b.partial_cmp(a).expect("numbers"));
    let totals = [false, true].map(|kind| pairs.iter().filter(|pair| pair.1 == kind).count());
    let mut accepted = [0, 0];
    let mut points = vec![[f64::INFINITY, 0.0, 0.0]];
    for (index, &(score, same)) in pairs.iter().enumerate() {
        accepted[usize::from(same)] += 1;
        if pairs.get(index + 1).is_none_or(|next| next.0 != score) {
            let [far, tar] = [0, 1].map(|kind| f64::from(accepted[kind]) / totals[kind] as f64);
            points.push([score, far, tar]);
        }
    }
    points
}

fn point(point: &RocPoint) -> [f64; 3] {
    [
        point.threshold,
        point.false_accept_rate,
        point.true_accept_rate,
    ]
}

/// Where the line between the two points crosses FAR = 1 − TAR.
fn plain_equal_error_rate(roc: &[[f64; 3]]) -> f64 {
    let at = |[_, far, tar]: [f64; 3]| far - (1.0 - tar);
    let crossing = roc.iter().position(|&p| at(p) >= 0.0).expect("the last");
    let (before, after) = (roc[crossing - 1], roc[crossing]);
    (before[1] * at(after) - after[1] * at(before)) / (at(after) - at(before))
}

const RATES: [f64; 4] = [0.1, 1e-3, 0.02, 1.0];

/// That the rates are those of an ROC, and the thresholds within `width`.
fn assert_is_of(report: &Verification, roc: &[[f64; 3]], width: f64, what: &str) {
    let expected = plain_equal_error_rate(roc);
    let off = (report.equal_error_rate - expected).abs();
    assert!(off < 1e-12, "{what}: {report:?}, {expected}");
    for (found, rate) in report.true_accept_rates.iter().zip(RATES) {
        let expected = roc.iter().rfind(|point| point[1] <= rate).expect("zero");
        assert_eq!(point(found)[1..], expected[1..], "{what} at {rate}");
        let off = found.threshold - expected[0];
        assert!(
            found.threshold == expected[0] || off.abs() <= width,
            "{what}"
        );
    }
}

/// Rows around the directions of their classes; norms differ by far.
fn batch<A: Float>(seed: u64, rows: usize, classes: usize, dim: usize) -> (Array2<A>, Vec<i64>) {
    let mut rng = SplitMix(seed);
    let directions = rng.matrix::<f64>(classes, dim);
    let labels: Vec<usize> = (0..rows).map(|_| rng.below(classes)).collect();
    let mut features = rng.matrix::<f64>(rows, dim) + directions.select(Axis(0), &labels);
    for mut row in features.rows_mut() {
        row *= 10.0_f64.powf(8.0 * rng.uniform() - 4.0);
    }
    let labels = labels.into_iter().map(|label| 5 - 3 * label as i64);
    (features.mapv(narrow), labels.collect())
}

fn compare<A: Float>(width: f64) {
    // Rows below, at and above the sides of a tile; the last has more pairs than are sorted.
    for (rows, classes, dim) in [
        (3, 2, 2),
        (40, 7, 3),
        (256, 4, 5),
        (257, 100, 16),
        (513, 3, 8),
        (1_500, 60, 12),
    ] {
        let what = format!("{rows} rows of {classes} classes in {dim} dimensions");
        let (features, labels) = batch::<A>(rows as u64 + 2, rows, classes, dim);
        let embeddings = Embeddings::new(features.view(), &labels).expect("good");
        let report = embeddings.verify(&RATES).expect("good");
        let pairs = all_pairs(&widened(features.view()), &labels);
        assert_eq!(
            report.same_pairs + report.different_pairs,
            pairs.len() as u64
        );
        // In `f32` two scores may be equal, or change places.
        if width < 1e-12 {
            let roc = plain_roc(&pairs);
            assert_is_of(&report, &roc, 2.0_f64.powi(-17), &what);
            assert_eq!(report.roc.len() == roc.len(), pairs.len() <= 1 << 20);
        }
        for found in report.roc.iter().step_by(report.roc.len().div_ceil(20)) {
            let above = rates(&pairs, found.threshold + width);
            let below = rates(&pairs, found.threshold - width);
            let found = [found.false_accept_rate, found.true_accept_rate];
            for kind in 0..2 {
                assert!(
                    above[kind] <= found[kind] && found[kind] <= below[kind],
                    "{what}"
                );
            }
        }
        assert_eq!(point(&report.roc[0]), [f64::INFINITY, 0.0, 0.0]);
        assert_eq!(point(report.roc.last().expect("points"))[1..], [1.0, 1.0]);
    }
}

#[test]
fn all_pairs_are_told_apart_as_plain_loops_do() {
    compare::<f64>(1e-14);
    compare::<f32>(1e-6);
}

/// Recall by sorting all others of each row; of equals, those of other classes first.
fn plain_recall(features: &Array2<f64>, labels: &[i64], k: usize) -> f64 {
    let (mut found, mut queries) = (0, 0);
    let norm = |row: usize| features.row(row).dot(&features.row(row)).sqrt();
    for row in 0..labels.len() {
        let mut others: Vec<(f64, bool)> = (0..labels.len())
            .filter(|&other| other != row)
            .map(|other| {
                let product = features.row(row).dot(&features.row(other));
                let cosine = product / norm(row) / norm(other);
                (-cosine, labels[row] == labels[other])
            })
            .collect();
        if !others.iter().any(|other| other.1) {
            continue;
        }
        queries += 1;
        others.sort_by(|a, b| a.partial_cmp(b).expect("numbers"));
        found += usize::from(others[..k].iter().any(|other| other.1));
    }
    f64::from(u32::try_from(found).expect("few")) / f64::from(queries)
}

#[test]
fn recall_is_that_of_sorted_neighbours() {
    fn check<A: Float>(tolerance: f64) {
        for (rows, classes, dim) in [(3, 2, 2), (40, 30, 3), (256, 4, 5), (520, 200, 6)] {
            let (features, labels) = batch::<A>(rows as u64 + 5, rows, classes, dim);
            let embeddings = Embeddings::new(features.view(), &labels).expect("good");
            let ks = [1, 2, rows / 2, rows - 1];
            let found = embeddings.recall(&ks).expect("good");
            for (k, found) in ks.into_iter().zip(found) {
                let expected = plain_recall(&widened(features.view()), &labels, k);
                assert!(
                    (found - expected).abs() <= tolerance,
                    "{rows}, {k}: {found}, {expected}"
                );
            }
        }
    }
    check::<f64>(0.0);
    // One query of some that are nearly equal may differ.
    check::<f32>(0.004);
}

/// Directions along the axes: every cosine is 0 or 1, wherever the rows stand.
#[test]
fn equal_scores_are_accepted_together() {
    let labels: Vec<usize> = (0..700).map(|row| row % 2).collect();
    let features =
        Array2::from_shape_fn(
            (700, 6),
            |(row, k)| {
                if row % 6 == k { 1.0 + row as f32 } else { 0.0 }
            },
        );
    let embeddings = Embeddings::new(features.view(), &labels).expect("good");
    let report = embeddings.verify(&[1e-9, 0.999, 1.0]).expect("good");
    // Even rows hold three directions, and so do odd ones: no direction is of two classes.
    let together = report.roc[1].true_accept_rate;
    let expected = [[1.0, 0.0, together], [0.0, 1.0, 1.0]];
    let found: Vec<_> = report.roc[1..].iter().map(point).collect();
    assert_eq!(found, expected);
    let tars: Vec<_> = report.true_accept_rates.iter().map(point).collect();
    assert_eq!(tars, [expected[0], expected[0], expected[1]]);
    // From (0, together) to (1, 1).
    let at_equal = (1.0 - together) / (2.0 - together);
    assert!((report.equal_error_rate - at_equal).abs() < 1e-15);
    assert_eq!(embeddings.recall(&[1]), Ok(vec![1.0]));
}

/// Rows of one direction, each repeated all over the batch: as many scores as there are pairs of directions.
#[test]
fn equal_rows_have_equal_scores() {
    fn check<A: Float>() {
        for (dim, rows) in [(2, 258), (7, 300), (64, 513), (200, 777)] {
            let directions = SplitMix(9).matrix::<A>(5, dim);
            let rows: Vec<usize> = (0..rows).map(|row| row * row % 11 % 5).collect();
            let labels: Vec<usize> = (0..rows.len()).map(|row| row % 3).collect();
            let features = directions.select(Axis(0), &rows);
            let report = Embeddings::new(features.view(), &labels)
                .expect("good")
                .verify(&[])
                .expect("good");
            assert!(report.roc.len() <= 1 + 15, "{dim}: {}", report.roc.len());
        }
    }
    check::<f32>();
    check::<f64>();
}

/// What has collapsed to one direction is found by nobody.
#[test]
fn collapsed_embeddings_are_no_better_than_chance() {
    let features = Array2::from_elem((300, 3), 0.7_f64);
    let labels: Vec<usize> = (0..300).map(|row| row % 5).collect();
    let embeddings = Embeddings::new(features.view(), &labels).expect("good");
    let report = embeddings.verify(&[0.01]).expect("good");
    assert_eq!(report.equal_error_rate, 0.5);
    assert_eq!(report.true_accept_rates[0].true_accept_rate, 0.0);
    assert_eq!(report.true_accept_rates[0].threshold, f64::INFINITY);
    assert_eq!(embeddings.recall(&[1, 240]), Ok(vec![0.0, 0.0]));
    assert_eq!(embeddings.recall(&[241]), Ok(vec![1.0]));

    // A tile and one row: a product by a single column has other rounding.
    let features = Array2::from_shape_fn((257, 2), |(_, k)| [5.0_f32, 9.0][k]);
    let labels: Vec<usize> = (0..257).map(|row| row % 2).collect();
    let embeddings = Embeddings::new(features.view(), &labels).expect("good");
    assert_eq!(
        embeddings.verify(&[]).map(|report| report.equal_error_rate),
        Ok(0.5)
    );
    assert_eq!(embeddings.recall(&[1]), Ok(vec![0.0]));
}

#[test]
fn threads_and_layouts_change_no_bit() {
    fn check<A: Float>(rows: usize) {
        let (features, labels) = batch::<A>(77, rows, 9, 17);
        let find = |features: ndarray::ArrayView2<'_, A>| {
            let embeddings = Embeddings::new(features, &labels).expect("good");
            let recall = embeddings.recall(&[1, 5]).expect("good");
            (embeddings.verify(&RATES).expect("good"), recall)
        };
        let expected = find(features.view());
        for threads in [1, 3] {
            let pool = ThreadPoolBuilder::new().num_threads(threads).build();
            let found = pool.expect("a pool").install(|| find(features.view()));
            assert!(found == expected, "{threads} threads");
        }
        for layout in LAYOUTS {
            let buffer = layout.buffer(&features);
            let found = find(layout.view(&buffer, features.dim()));
            assert!(found == expected, "{}", layout.name);
        }
    }
    check::<f32>(600);
    check::<f64>(600);
    // More pairs than are sorted.
    check::<f32>(1_460);
}

#[test]
fn given_pairs_give_what_all_pairs_give() {
    fn check<A: Float>() {
        let (features, labels) = batch::<A>(15, 60, 6, 8);
        let (mut first, mut second, mut same) = (Vec::new(), Vec::new(), Vec::new());
        for row in 0..60 {
            for other in row + 1..60 {
                first.push(row);
                second.push(other);
                same.push(labels[row] == labels[other]);
            }
        }
        let [a, b] = [first, second].map(|rows| features.select(Axis(0), &rows));
        let scores = pair_scores(a.view(), b.view()).expect("good");
        let exact = all_pairs(&widened(features.view()), &labels);
        for ((found, row), other) in scores.iter().zip(a.outer_iter()).zip(b.outer_iter()) {
            let [row, other] = [row, other].map(|row| row.mapv(widen));
            let norms = (row.dot(&row) * other.dot(&other)).sqrt();
            let off = widen(*found) - row.dot(&other) / norms;
            assert!(off.abs() <= 4.0 * widen(A::epsilon()), "{off}");
        }
        let report = verify_scores(scores.view(), &same, &RATES).expect("good");
        assert_is_of(&report, &plain_roc(&exact), 1e-6, "given pairs");
        let all = Embeddings::new(features.view(), &labels).expect("good");
        let all = all.verify(&RATES).expect("good");
        assert!((all.equal_error_rate - report.equal_error_rate).abs() < 1e-12);
    }
    check::<f64>();
    check::<f32>();
}

/// From the highest threshold down: 4 of 10 and 1 of 100, then 8 and 20, then all.
#[test]
fn rates_worked_by_hand() {
    let (mut scores, mut same) = (Vec::new(), Vec::new());
    for (score, [of_one, of_others]) in [(0.9, [4, 1]), (0.5, [4, 19]), (-0.2, [2, 80])] {
        scores.extend(vec![score; of_one + of_others]);
        same.extend(vec![true; of_one]);
        same.extend(vec![false; of_others]);
    }
    let scores = Array1::<f32>::from(scores);
    let asked = [0.005, 0.01, 0.1, 0.2, 1.0];
    let report = verify_scores(scores.view(), &same, &asked).expect("good");
    let tars = report.true_accept_rates.iter();
    let tars: Vec<f64> = tars.map(|point| point.true_accept_rate).collect();
    assert_eq!(tars, [0.0, 0.4, 0.4, 0.8, 1.0]);
    assert!((report.equal_error_rate - 0.2).abs() < 1e-12);
    assert_eq!(report.equal_error_threshold, 0.5);
    assert_eq!((report.same_pairs, report.different_pairs), (10, 100));
    assert_eq!(report.roc.len(), 4);

    // The first and the last alone: the line from (1/81, 4/6) to (1, 1) crosses FAR = 1 − TAR.
    let ends: Vec<usize> = (0..110).filter(|&pair| scores[pair] != 0.5).collect();
    let same: Vec<bool> = ends.iter().map(|&pair| same[pair]).collect();
    let report = verify_scores(scores.select(Axis(0), &ends).view(), &same, &[]).expect("good");
    let (far, tar) = (1.0 / 81.0, 4.0 / 6.0);
    let along = (1.0 - tar - far) / (2.0 - tar - far);
    assert!((report.equal_error_rate - (far + along * (1.0 - far))).abs() < 1e-12);
}

/// Zeros of either sign are one score.
#[test]
fn zeros_are_equal() {
    let scores = array![0.0, -0.0, 0.0];
    let report = verify_scores(scores.view(), &[true, false, false], &[]).expect("good");
    assert_eq!(report.roc.len(), 2);
}

#[test]
fn ignored_rows_are_left_out() {
    let (mut features, labels) = batch::<f64>(4, 50, 5, 4);
    let kept: Vec<usize> = (0..50).filter(|row| row % 7 != 3).collect();
    let part = features.select(Axis(0), &kept);
    let part_labels: Vec<i64> = kept.iter().map(|&row| labels[row]).collect();
    let expected = Embeddings::new(part.view(), &part_labels).expect("good");
    let mut mask = [false; 50];
    for row in (3..50).step_by(7) {
        mask[row] = true;
        features.row_mut(row).fill(f64::NAN);
    }
    let labels = Labels::from(&labels).with_ignored_rows(&mask);
    let found = Embeddings::new(features.view(), labels).expect("good");
    assert_eq!(found.verify(&RATES), expected.verify(&RATES));
    assert_eq!(found.recall(&[1, 42]), expected.recall(&[1, 42]));
    assert_eq!(
        found.recall(&[43]),
        Err(Error::Neighbours { k: 43, others: 42 })
    );

    features.row_mut(12).fill(0.0);
    assert_eq!(
        Embeddings::new(features.view(), labels).expect_err("zero"),
        Error::ZeroNorm {
            argument: Argument::Features,
            row: 12
        }
    );
}

#[test]
fn lengths_at_the_ends_of_the_range_do_not_count() {
    let directions = array![[3.0, 4.0], [1.0, 0.0], [-1.0, 2.0], [0.5, 0.5]];
    let scales = [1e300, 1e-310, 5e307, 1e-300];
    let mut features = directions.clone();
    for (mut row, scale) in features.outer_iter_mut().zip(scales) {
        row *= scale;
    }
    let report = |features: &Array2<f64>| {
        let embeddings = Embeddings::new(features.view(), &[0, 0, 1, 1]).expect("good");
        embeddings.verify(&RATES).expect("good")
    };
    let (found, expected) = (report(&features), report(&directions));
    for (found, expected) in found.roc.iter().zip(&expected.roc).skip(1) {
        assert!((found.threshold - expected.threshold).abs() < 1e-13);
    }
    let scores = pair_scores(features.view(), directions.view()).expect("good");
    assert!(scores.iter().all(|score| (score - 1.0).abs() < 1e-13));
}

#[test]
fn bad_arguments_are_named() {
    let good = array![[1.0_f32, 2.0], [3.0, 4.0], [0.5, -1.0]];
    let of = |features: &Array2<f32>, labels: &[i32]| {
        Embeddings::new(features.view(), labels).expect_err("a bad argument")
    };
    let argument = Argument::Features;
    assert_eq!(
        of(&good, &[1, 2]),
        Error::RowCount {
            argument: Argument::Labels,
            expected: 3,
            found: 2
        }
    );
    assert_eq!(of(&Array2::zeros((3, 0)), &[1, 1, 2]), Error::NoDimensions);
    for bad in [f32::NAN, f32::INFINITY] {
        let mut features = good.clone();
        features[[1, 0]] = bad;
        features.row_mut(2).fill(0.0);
        // The first of the batch, not of its class.
        assert_eq!(
            of(&features, &[2, 2, 1]),
            Error::NonFinite { argument, row: 1 }
        );
        features[[1, 0]] = 0.0;
        assert_eq!(
            of(&features, &[2, 2, 1]),
            Error::ZeroNorm { argument, row: 2 }
        );
    }

    let embeddings = |labels: [i32; 3]| Embeddings::new(good.view(), &labels).expect("good");
    for rate in [0.0, -1.0, 1.5, f64::NAN, f64::INFINITY] {
        let error = embeddings([1, 1, 2])
            .verify(&[0.1, rate])
            .expect_err("no rate");
        assert!(
            matches!(
                error,
                Error::Parameter {
                    name: "false-accept rate",
                    ..
                }
            ),
            "{error:?}"
        );
        assert!(
            error.to_string().ends_with("but must lie in (0, 1]"),
            "{error}"
        );
    }
    assert_eq!(embeddings([1, 2, 3]).verify(&[]), Err(Error::NoSamePairs));
    assert_eq!(
        embeddings([4, 4, 4]).verify(&[]),
        Err(Error::NoDifferentPairs)
    );
    assert_eq!(embeddings([1, 2, 3]).recall(&[1]), Err(Error::NoSamePairs));
    assert_eq!(embeddings([4, 4, 4]).recall(&[1]), Ok(vec![1.0]));
    for k in [0, 3] {
        let error = embeddings([1, 1, 2]).recall(&[1, k]);
        assert_eq!(error, Err(Error::Neighbours { k, others: 2 }));
    }
    let none = Embeddings::new(Array2::<f64>::zeros((0, 2)).view(), &[0; 0]).expect("no rows");
    assert_eq!(none.verify(&[0.1]), Err(Error::NoSamePairs));
    assert_eq!(none.recall(&[]), Err(Error::NoSamePairs));

    let argument = Argument::OtherFeatures;
    let pairs = |other: Array2<f32>| pair_scores(good.view(), other.view()).expect_err("bad");
    assert_eq!(
        pairs(Array2::zeros((2, 2))),
        Error::RowCount {
            argument,
            expected: 3,
            found: 2
        }
    );
    assert_eq!(
        pairs(Array2::zeros((3, 1))),
        Error::Dimension {
            argument,
            expected: 2,
            found: 1
        }
    );
    assert_eq!(
        pairs(Array2::zeros((3, 2))),
        Error::ZeroNorm { argument, row: 0 }
    );

    let given = |scores: Array1<f64>, same: &[bool], rates: &[f64]| {
        verify_scores(scores.view(), same, rates).expect_err("bad")
    };
    let scores = array![0.1, 0.2];
    assert_eq!(
        given(scores.clone(), &[true], &[]),
        Error::RowCount {
            argument: Argument::SamePairs,
            expected: 2,
            found: 1
        }
    );
    assert_eq!(
        given(scores.clone(), &[true; 2], &[]),
        Error::NoDifferentPairs
    );
    assert_eq!(given(scores.clone(), &[false; 2], &[]), Error::NoSamePairs);
    assert!(matches!(
        given(scores, &[true, false], &[2.0]),
        Error::Parameter { .. }
    ));
    for bad in [f64::NAN, f64::NEG_INFINITY] {
        assert_eq!(
            given(array![0.1, bad], &[true, false], &[]),
            Error::NonFinite {
                argument: Argument::Scores,
                row: 1
            }
        );
    }
}

/// A log gets a line, and not the points of the ROC.
#[test]
fn a_report_prints_without_its_roc() -> Result<(), Error> {
    let scores: Vec<f64> = (0..1000).map(|pair| f64::from(pair) / 1000.0).collect();
    let same: Vec<bool> = (0..1000).map(|pair| pair >= 500).collect();
    let report = verify_scores(ndarray::aview1(&scores), &same, &[0.1, 1e-3])?;
    assert_eq!(report.roc.len(), 1001);
    assert_eq!(
        report.to_string(),
        "EER 0.0000 at 0.500; TAR 1.0000 at FAR 1.00e-1, threshold 0.450; TAR 1.0000 at FAR 0.00e0, threshold 0.500"
    );
    let debug = format!("{report:?}");
    assert!(debug.contains("roc: 1001 points"), "{debug}");
    assert!(debug.len() < 500, "{debug}");
    Ok(())
}
