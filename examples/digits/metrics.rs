//! How well embeddings of held-out images tell same from different: verification over all pairs, and angles.

use margin_losses::ndarray::{Array2, ArrayView1, ArrayView2, Axis};

use crate::shared::pairs::{self, unit_rows};

/// The false-accept rates at which the true-accept rate is given.
pub(crate) const FALSE_ACCEPT_RATES: [f64; 2] = [1e-2, 1e-3];

/// What the pairs say.
#[derive(Debug, PartialEq)]
pub(crate) struct Verification {
    /// The error rate at the threshold that rejects as large a share of genuine pairs as it accepts of impostor pairs.
    pub(crate) equal_error_rate: f64,
    /// The share of genuine pairs above the lowest threshold that keeps to each of [`FALSE_ACCEPT_RATES`].
    pub(crate) true_accept_rates: [f64; 2],
}

/// Mean angles in degrees.
#[derive(Debug)]
pub(crate) struct Angles {
    /// Between an embedding and the mean direction of its class.
    pub(crate) within: f64,
    /// Between the mean directions of two classes.
    pub(crate) between: f64,
}

/// Accepts a pair of unit rows as one class if its cosine reaches a threshold, over all pairs and all thresholds.
pub(crate) fn verification(units: ArrayView2<'_, f32>, labels: &[usize]) -> Verification {
    let [genuine, impostor] = pairs::count(units, labels);
    error_rates(&genuine, &impostor)
}

/// The same, from how many pairs there are in each bin of the score, lowest first.
fn error_rates(genuine: &[u64], impostor: &[u64]) -> Verification {
    let [genuine_pairs, impostor_pairs] =
        [genuine, impostor].map(|counts| counts.iter().sum::<u64>() as f64);
    let mut equal_error_rate = None;
    let mut true_accept_rates = [0.0; 2];
    let [mut accepted, mut fooled] = [0, 0];
    // The threshold falls bin by bin; `before` holds the rates of the last one.
    let mut before = (0.0, 1.0);
    for (genuine, impostor) in genuine.iter().zip(impostor).rev() {
        accepted += genuine;
        fooled += impostor;
        let true_accept = accepted as f64 / genuine_pairs;
        let [false_accept, false_reject] = [fooled as f64 / impostor_pairs, 1.0 - true_accept];
        for (rate, limit) in true_accept_rates.iter_mut().zip(FALSE_ACCEPT_RATES) {
            if false_accept <= limit {
                *rate = true_accept;
            }
        }
        if equal_error_rate.is_none() && false_accept >= false_reject {
            // The two rates cross on the way from the last threshold to this one.
            let (last_accept, last_reject) = before;
            let gap = last_reject - last_accept;
            let share = gap / (gap + false_accept - false_reject);
            equal_error_rate = Some(last_accept + share * (false_accept - last_accept));
        }
        before = (false_accept, false_reject);
    }
    Verification {
        equal_error_rate: equal_error_rate.unwrap_or(f64::NAN),
        true_accept_rates,
    }
}

/// The angles of unit rows to the mean directions of their classes, and of those to each other.
pub(crate) fn angles(units: ArrayView2<'_, f32>, labels: &[usize], classes: usize) -> Angles {
    let mut means = Array2::zeros((classes, units.ncols()));
    let mut counts = vec![0_usize; classes];
    for (unit, &label) in units.rows().into_iter().zip(labels) {
        means.row_mut(label).scaled_add(1.0, &unit);
        counts[label] += 1;
    }
    let present: Vec<usize> = (0..classes).filter(|&class| counts[class] > 0).collect();
    let means = unit_rows(means);

    let within: f64 = units
        .rows()
        .into_iter()
        .zip(labels)
        .map(|(unit, &label)| degrees(unit, means.row(label)))
        .sum();
    let means = means.select(Axis(0), &present);
    let mut between = 0.0;
    for (index, one) in means.rows().into_iter().enumerate() {
        for other in means.rows().into_iter().skip(index + 1) {
            between += degrees(one, other);
        }
    }
    Angles {
        within: within / labels.len() as f64,
        between: between / (present.len() * (present.len() - 1) / 2) as f64,
    }
}

/// The angle between two unit vectors. By way of their difference and sum: the arc cosine loses small angles.
fn degrees(one: ArrayView1<'_, f32>, other: ArrayView1<'_, f32>) -> f64 {
    let norm = |sign: f32| {
        let squares = one
            .iter()
            .zip(other)
            .map(|(a, b)| f64::from(a + sign * b).powi(2));
        squares.sum::<f64>().sqrt()
    };
    2.0 * norm(-1.0).atan2(norm(1.0)).to_degrees()
}

#[cfg(test)]
mod tests {
    use margin_losses::ndarray::{Array2, arr2};

    use super::{angles, error_rates, verification};
    use crate::shared::pairs::ROWS;

    #[test]
    fn rates_of_counts_worked_by_hand() {
        // Apart: every genuine pair above every impostor pair.
        let apart = error_rates(&[0, 0, 4], &[9, 1, 0]);
        assert_eq!(apart.equal_error_rate, 0.0);
        assert_eq!(apart.true_accept_rates, [1.0, 1.0]);
        // Alike: no better than a coin.
        assert_eq!(error_rates(&[5, 5], &[50, 50]).equal_error_rate, 0.5);
        // At the threshold below the middle bin, 2 of 10 genuine are rejected and 20 of 100 impostors accepted.
        let mixed = error_rates(&[2, 4, 4], &[80, 19, 1]);
        assert!((mixed.equal_error_rate - 0.2).abs() < 1e-12);
        assert_eq!(mixed.true_accept_rates, [0.4, 0.0]);
    }

    #[test]
    fn every_pair_counts_once() {
        // More rows than a block holds; six directions, 3 of one class and 3 of another, in turn.
        let count = ROWS + 50;
        let units = Array2::from_shape_fn((count, 6), |(row, column)| {
            f32::from(u8::from(row % 6 == column))
        });
        let labels: Vec<usize> = (0..count).map(|row| row % 2).collect();
        let [mut genuine, mut impostor] = [[0; 2]; 2];
        for row in 0..count {
            for other in 0..row {
                let same = labels[row] == labels[other];
                let counts = if same { &mut genuine } else { &mut impostor };
                counts[usize::from(row % 6 == other % 6)] += 1;
            }
        }
        assert_eq!(impostor[1], 0);
        let expected = error_rates(&genuine, &impostor);
        assert_eq!(verification(units.view(), &labels), expected);
    }

    #[test]
    fn pairs_and_angles_of_four_vectors() {
        // Two classes, 90° apart, the first with its members 60° apart.
        let half = 3.0_f32.sqrt() / 2.0;
        let units = arr2(&[
            [half, 0.5, 0.0],
            [half, -0.5, 0.0],
            [0.0, 0.0, 1.0],
            [0.0, 0.0, 1.0],
        ]);
        let found = angles(units.view(), &[0, 0, 2, 2], 3);
        assert!((found.within - 15.0).abs() < 1e-4, "{found:?}");
        assert!((found.between - 90.0).abs() < 1e-4, "{found:?}");
        assert_eq!(
            verification(units.view(), &[0, 0, 2, 2]).equal_error_rate,
            0.0
        );
        assert!(verification(units.view(), &[0, 2, 0, 2]).equal_error_rate > 0.5);
    }
}
