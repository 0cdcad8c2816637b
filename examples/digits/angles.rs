//! How close the embeddings of a class lie, and how far apart the classes.

use margin_losses::ndarray::{Array2, ArrayView1, Axis};

/// Mean angles in degrees.
#[derive(Debug)]
pub(crate) struct Angles {
    /// Between an embedding and the mean direction of its class.
    pub(crate) within: f64,
    /// Between the mean directions of two classes.
    pub(crate) between: f64,
}

/// The angles of embeddings to the mean directions of their classes, and of those to each other.
pub(crate) fn angles(embeddings: Array2<f32>, labels: &[usize], classes: usize) -> Angles {
    let units = unit_rows(embeddings);
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

/// The rows, each divided by its norm; a zero row stays zero.
fn unit_rows(mut rows: Array2<f32>) -> Array2<f32> {
    for mut row in rows.rows_mut() {
        let norm = row.dot(&row).sqrt();
        if norm > 0.0 {
            row /= norm;
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use margin_losses::ndarray::arr2;

    use super::angles;

    #[test]
    fn angles_of_four_vectors() {
        // Two classes, 90° apart, the first with its members 60° apart.
        let half = 3.0_f32.sqrt() / 2.0;
        let units = arr2(&[
            [half, 0.5, 0.0],
            [half, -0.5, 0.0],
            [0.0, 0.0, 1.0],
            [0.0, 0.0, 1.0],
        ]);
        let found = angles(units, &[0, 0, 2, 2], 3);
        assert!((found.within - 15.0).abs() < 1e-4, "{found:?}");
        assert!((found.between - 90.0).abs() < 1e-4, "{found:?}");
    }
}
