//! Rows for new classes: directions, lengths, what keeps its bits, and what is refused.

use margin_losses::grow::{with_class_means, with_random_rows};
use margin_losses::{Argument, CosFace, Error, Float, Labels, MarginLoss, Targets, init};
use ndarray::{Array1, Array2, ArrayView1, Axis, array, s};

use crate::support::{narrow, widen};

const CLASSES: usize = 4;
const ADDED: usize = 3;
const DIM: usize = 6;

fn weights<A: Float>() -> Array2<A> {
    Array2::from_shape_fn((CLASSES, DIM), |(row, column)| {
        narrow((row + 1) as f64 * (0.5 + 1.3 * row as f64 + 0.7 * column as f64).cos())
    })
}

fn features<A: Float>() -> Array2<A> {
    Array2::from_shape_fn((9, DIM), |(row, column)| {
        narrow((1.0 + row as f64).exp2() * (1.0 + 4.0 * row as f64 + 1.7 * column as f64).sin())
    })
}

/// Two or more rows of each new class, and one of class 0.
const LABELS: [usize; 9] = [4, 5, 6, 4, 5, 6, 6, 5, 0];

fn norm<A: Float>(row: ArrayView1<'_, A>) -> f64 {
    row.iter().map(|&v| widen(v).powi(2)).sum::<f64>().sqrt()
}

fn mean_norm<A: Float>(rows: &Array2<A>) -> f64 {
    rows.outer_iter().map(norm).sum::<f64>() / rows.nrows() as f64
}

/// The first rows are the old ones, bit by bit, and the others are as long as these are in the mean.
fn assert_grown<A: Float>(grown: &Array2<A>, tolerance: f64) {
    assert_eq!(grown.dim(), (CLASSES + ADDED, DIM));
    assert_eq!(grown.slice(s![..CLASSES, ..]), weights::<A>());
    let length = mean_norm(&weights::<A>());
    for row in grown.outer_iter().skip(CLASSES) {
        let off = norm(row) / length - 1.0;
        assert!(off.abs() < tolerance, "{off}");
    }
}

fn random<A: Float>(tolerance: f64) {
    let grown = with_random_rows(weights::<A>().view(), ADDED, 7).unwrap();
    assert_grown(&grown, tolerance);
    // The directions are those of a larger first draw, so the seed that began W makes no copies of its rows.
    let drawn: Array2<A> = init::class_weights(CLASSES + ADDED, DIM, 7).expect("small");
    for (row, direction) in grown.outer_iter().zip(drawn.outer_iter()).skip(CLASSES) {
        let cosine = widen(row.dot(&direction)) / norm(row);
        assert!((cosine - 1.0).abs() < tolerance, "{cosine}");
    }
}

#[test]
fn random_rows_are_directions_of_the_mean_length() {
    random::<f32>(1e-6);
    random::<f64>(1e-14);
}

fn means<A: Float>(tolerance: f64) {
    let (weights, features) = (weights::<A>(), features::<A>());
    let grown = with_class_means(weights.view(), features.view(), &LABELS, ADDED).unwrap();
    assert_grown(&grown, tolerance);
    for class in CLASSES..CLASSES + ADDED {
        // The mean direction, by its definition.
        let mut mean = vec![0.0; DIM];
        for (feature, _) in features
            .outer_iter()
            .zip(LABELS)
            .filter(|row| row.1 == class)
        {
            for (mean, &entry) in mean.iter_mut().zip(feature) {
                *mean += widen(entry) / norm(feature);
            }
        }
        let shrink = mean_norm(&weights) / mean.iter().map(|v| v * v).sum::<f64>().sqrt();
        for (&found, mean) in grown.row(class).iter().zip(&mean) {
            let off = widen(found) - mean * shrink;
            assert!(off.abs() < tolerance * mean_norm(&weights), "{off}");
        }
    }
}

#[test]
fn means_are_those_of_the_directions() {
    means::<f32>(1e-6);
    means::<f64>(1e-14);
}

#[test]
fn layouts_and_rows_that_do_not_count_change_no_bit() {
    let (weights, features) = (weights::<f32>(), features::<f32>());
    let expected = with_class_means(weights.view(), features.view(), &LABELS, ADDED).unwrap();
    let (by_column, reversed) = (weights.t().to_owned(), features.slice(s![.., ..;-1]));
    let reversed = reversed.to_owned();
    let grown = with_class_means(by_column.t(), reversed.slice(s![.., ..;-1]), &LABELS, ADDED);
    assert_eq!(grown.unwrap(), expected);

    // A row of class 0, and one that is ignored, may hold anything.
    let mut features = features;
    features.row_mut(8).fill(f32::NAN);
    let unreadable = Array1::from_elem(DIM, f32::NAN);
    features.push_row(unreadable.view()).unwrap();
    let mut labels = LABELS.map(|label| label as i64).to_vec();
    labels.push(-100);
    let labels = Labels::from(&labels).with_ignored_label(-100);
    let grown = with_class_means(weights.view(), features.view(), labels, ADDED).unwrap();
    assert_eq!(grown, expected);
}

#[test]
fn lengths_at_the_ends_of_the_range() {
    for power in [-900, 900] {
        let far = weights::<f64>() * 2.0_f64.powi(power);
        let features = features::<f64>() * 2.0_f64.powi(-power);
        let grown = with_class_means(far.view(), features.view(), &LABELS, ADDED).unwrap();
        let near = with_class_means(
            weights::<f64>().view(),
            self::features::<f64>().view(),
            &LABELS,
            ADDED,
        );
        let off = &(grown * 2.0_f64.powi(-power)) - &near.unwrap();
        assert!(off.iter().all(|off| off.abs() < 1e-14));
    }
}

#[test]
fn nothing_added_is_a_copy() {
    let (weights, features) = (weights::<f32>(), features::<f32>());
    assert_eq!(with_random_rows(weights.view(), 0, 1).unwrap(), weights);
    let none = with_class_means(weights.view(), features.view(), &[0_u8; 9], 0);
    assert_eq!(none.unwrap(), weights);
}

/// Means let the first loss be small, where random rows know nothing.
#[test]
fn means_know_the_new_classes() {
    let directions: Array2<f32> = init::class_weights(10, 32, 3).expect("small");
    let noise: Array2<f32> = init::normal(200, 32, 0.05, 4).unwrap();
    let labels: Vec<usize> = (0..200).map(|row| row % 10).collect();
    let features = directions.select(Axis(0), &labels) + noise;
    let trained = directions.slice(s![..5, ..]);
    let loss = CosFace::new(10.0, 0.2).unwrap();
    let first_loss = |weights: Array2<f32>| {
        let forward = loss.forward(features.view(), weights.view(), &Targets::new(&labels));
        forward.unwrap().loss
    };
    let random = first_loss(with_random_rows(trained, 5, 5).unwrap());
    let means = first_loss(with_class_means(trained, features.view(), &labels, 5).unwrap());
    assert!(means < 0.1 && random > 1.0, "{means} against {random}");
}

#[test]
fn what_is_refused_is_named() {
    let (good_weights, good_features) = (weights::<f64>(), features::<f64>());
    let means = |weights: &Array2<f64>, features: &Array2<f64>, labels: &[i64]| {
        with_class_means(weights.view(), features.view(), labels, ADDED).unwrap_err()
    };
    let labels = LABELS.map(|label| label as i64);

    for (entry, expected) in [
        (f64::NAN, "features row 2 holds a NaN or an infinity"),
        (0.0, "features row 2 has zero norm"),
        (1e-310, "features row 2 has a norm too small to divide by"),
        (
            f64::MAX,
            "features row 2 makes a norm larger than the element type can hold",
        ),
    ] {
        let mut features = good_features.clone();
        features.row_mut(2).fill(entry);
        let error = means(&good_weights, &features, &labels);
        assert_eq!(error.to_string(), expected);
        let mut weights = good_weights.clone();
        weights.row_mut(2).fill(entry);
        let expected = expected.replace("features", "class weights");
        assert_eq!(
            means(&weights, &good_features, &labels).to_string(),
            expected
        );
        let error = with_random_rows(weights.view(), ADDED, 1).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }

    let mut absent = labels;
    absent[1] = 4;
    absent[4] = 4;
    absent[7] = 4;
    let error = means(&good_weights, &good_features, &absent);
    assert_eq!(error, Error::NoFeatures { class: 5 });
    assert_eq!(error.to_string(), "class 5 has no row of the features");

    for bad in [7, -1] {
        let mut labels = labels;
        labels[3] = bad;
        assert_eq!(
            means(&good_weights, &good_features, &labels),
            Error::LabelOutOfRange {
                row: 3,
                label: bad.into(),
                classes: 7
            }
        );
    }
    assert!(matches!(
        means(&good_weights, &good_features, &labels[..8]),
        Error::RowCount {
            argument: Argument::Labels,
            expected: 9,
            found: 8
        }
    ));
    let wide = Array2::ones((CLASSES, DIM + 1));
    assert!(matches!(
        means(&wide, &good_features, &labels),
        Error::Dimension {
            argument: Argument::ClassWeights,
            ..
        }
    ));
    let none = Array2::<f64>::ones((0, DIM));
    assert_eq!(means(&none, &good_features, &labels), Error::NoClasses);
    let flat = Array2::<f64>::ones((CLASSES, 0));
    assert_eq!(
        with_random_rows(flat.view(), 1, 1).unwrap_err(),
        Error::NoDimensions
    );

    // Directions that cancel out have no mean.
    let opposite = array![[1.0, 2.0], [-1.0, -2.0]];
    let error = with_class_means(array![[1.0, 0.0]].view(), opposite.view(), &[1, 1], 1);
    assert_eq!(
        error.unwrap_err(),
        Error::ZeroNorm {
            argument: Argument::ClassWeights,
            row: 1
        }
    );
}

#[test]
fn a_mean_length_beyond_the_element_type_is_refused() {
    // Each entry is a number of `f32`; a row of that length along one axis would not be.
    let weights = array![[3e38_f32, 3e38]];
    let error = with_class_means(weights.view(), array![[1.0, 0.0]].view(), &[1], 1);
    assert!(matches!(
        error,
        Err(Error::Overflow {
            quantity: "norm",
            row: 1,
            ..
        })
    ));
}
