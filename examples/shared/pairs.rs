//! Verification over all pairs of embeddings: how many pairs there are at each cosine.

use margin_losses::ndarray::{Array2, ArrayView2, Axis};

/// Cosines are counted in bins of 2⁻¹⁹, so that the memory does not depend on the number of pairs (MNIST: 112 million).
const BINS: usize = 1 << 20;
/// How many rows of the matrix of cosines exist at a time.
pub(crate) const ROWS: usize = 256;

/// The rows, each divided by its norm; a zero row stays zero.
pub(crate) fn unit_rows(mut embeddings: Array2<f32>) -> Array2<f32> {
    for mut row in embeddings.rows_mut() {
        let norm = row.dot(&row).sqrt();
        if norm > 0.0 {
            row /= norm;
        }
    }
    embeddings
}

/// How many genuine and how many impostor pairs of unit rows there are in each bin of the cosine, lowest first.
pub(crate) fn count(units: ArrayView2<'_, f32>, labels: &[usize]) -> [Vec<u64>; 2] {
    let mut genuine = vec![0_u64; BINS];
    let mut impostor = vec![0_u64; BINS];
    for start in (0..units.nrows()).step_by(ROWS) {
        // Each pair once: the block's rows against those from its first on, right of the diagonal.
        let (_, rest) = units.split_at(Axis(0), start);
        let (block, _) = rest.split_at(Axis(0), ROWS.min(rest.nrows()));
        let cosines = block.dot(&rest.t());
        for (row, cosines) in cosines.rows().into_iter().enumerate() {
            for (column, &cosine) in cosines.iter().enumerate().skip(row + 1) {
                let bin = ((f64::from(cosine) + 1.0) * (BINS / 2) as f64) as usize;
                let same = labels[start + row] == labels[start + column];
                let counts = if same { &mut genuine } else { &mut impostor };
                counts[bin.min(BINS - 1)] += 1;
            }
        }
    }
    [genuine, impostor]
}
