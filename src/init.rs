//! Seeded first values for class weights and centers.
//!
//! Everything is drawn from one `u64` seed through xoshiro256++, row after row, in `f64`; an `f32` array holds the same
//! numbers, rounded. No row is ever zero: a row that came out so is drawn again.
//!
//! # Same seed, same bits
//!
//! A seed gives the same array in every release that does not say otherwise under *Value changes* in its changelog, and
//! on every platform but for one reservation: about one normal number in four thousand involves the logarithm of the
//! platform's mathematics library, whose last bit may differ, and with it the last bits of that row in `f64`.
//!
//! # Which one to take
//!
//! Losses that normalise the class weights see their directions only, and [`class_weights`] is the natural choice. The
//! length still matters to the optimiser: the gradient of a row, and so the turn of one step, is proportional to 1/‖w‖.
//! To begin where public code begins:
//!
//! | public code | here |
//! |---|---|
//! | insightface `arcface_torch`: `torch.normal(0, 0.01, (C, d))` | `normal(C, d, 0.01, seed)` |
//! | `nn.init.xavier_uniform_(weight)` on C×d, most single-file `PyTorch` ports | `xavier_uniform(C, d, seed)` |
//! | Caffe's `xavier` filler (`SphereFace`; the center loss's centers) | `uniform(C, d, (3/d).sqrt(), seed)` |
//! | `nn.Linear(d, C)` | `uniform(C, d, 1/d.sqrt(), seed)` |
//! | centers from `torch.randn(C, d)` | `normal(C, d, 1.0, seed)` |
//! | centers at 0, where the first batches pull all classes to the origin | `Array2::zeros((C, d))` |
//!
//! # Shapes
//!
//! Results are C×d, one row for each class, in standard layout. Where C or d is 0 they are empty, and no loss takes
//! them.
//!
//! # Panics
//!
//! As every ndarray constructor: if C·d exceeds `isize::MAX`.

use ndarray::Array2;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use rand_distr::StandardNormal;

use crate::error::{Error, parameter};
use crate::float::Float;

/// Directions: each row is uniform on the unit sphere, `w = g/‖g‖` with g from N(0, I).
///
/// See the [module](self) for shapes, seeds and panics.
///
/// # Examples
///
/// ```
/// use margin_losses::init::class_weights;
///
/// let weights = class_weights::<f32>(10, 64, 42);
/// assert_eq!(weights.dim(), (10, 64));
/// for row in weights.rows() {
///     assert!((row.dot(&row) - 1.0).abs() < 1e-5);
/// }
/// ```
#[must_use]
pub fn class_weights<A: Float>(classes: usize, dim: usize, seed: u64) -> Array2<A> {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    rows(classes, dim, |row| {
        row.fill_with(|| rng.sample(StandardNormal));
        let norm = row.iter().map(|v| v * v).sum::<f64>().sqrt();
        // A zero row, which is drawn again, must not turn into NaN first.
        if norm > 0.0 {
            for v in row {
                *v /= norm;
            }
        }
    })
}

/// Independent entries from N(0, σ²).
///
/// `std_dev`, which is σ, lies in [10⁻⁶, 10⁶]. See the [module](self) for shapes, seeds and panics.
///
/// # Errors
///
/// [`Error::Parameter`] if `std_dev` is out of range.
///
/// # Examples
///
/// ```
/// use margin_losses::init::normal;
///
/// // As insightface begins.
/// let weights = normal::<f32>(1000, 512, 0.01, 42)?;
/// assert!((weights.std(0.0) - 0.01).abs() < 1e-4);
/// # Ok::<(), margin_losses::Error>(())
/// ```
pub fn normal<A: Float>(
    classes: usize,
    dim: usize,
    std_dev: f64,
    seed: u64,
) -> Result<Array2<A>, Error> {
    let std_dev = spread("std_dev", std_dev)?;
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    Ok(rows(classes, dim, |row| {
        row.fill_with(|| std_dev * rng.sample::<f64, _>(StandardNormal));
    }))
}

/// Independent entries, uniform in [−b, b).
///
/// `bound`, which is b, lies in [10⁻⁶, 10⁶]. See the [module](self) for shapes, seeds and panics.
///
/// # Errors
///
/// [`Error::Parameter`] if `bound` is out of range.
///
/// # Examples
///
/// ```
/// use margin_losses::init::uniform;
///
/// // As Caffe's `xavier` filler begins, which looks at d only.
/// let (classes, dim) = (1000, 512_u16);
/// let bound = (3.0 / f64::from(dim)).sqrt();
/// let centers = uniform::<f64>(classes, dim.into(), bound, 42)?;
/// assert!(centers.iter().all(|v| v.abs() <= bound));
/// # Ok::<(), margin_losses::Error>(())
/// ```
pub fn uniform<A: Float>(
    classes: usize,
    dim: usize,
    bound: f64,
    seed: u64,
) -> Result<Array2<A>, Error> {
    Ok(uniform_within(classes, dim, spread("bound", bound)?, seed))
}

/// Independent entries, uniform in [−b, b) with `b = √(6/(C + d))`.
///
/// This looks at both C and d, as in the paper and in `PyTorch`; Caffe's filler of the same name has `b = √(3/d)`,
/// which is far larger where there are many classes. See the [module](self) for shapes, seeds and panics.
///
/// # Examples
///
/// ```
/// let weights = margin_losses::init::xavier_uniform::<f32>(10, 64, 42);
/// assert!(weights.iter().all(|v| v.abs() <= 0.2848));
/// ```
///
/// # References
///
/// X. Glorot and Y. Bengio, *Understanding the difficulty of training deep feedforward neural networks*, AISTATS 2010,
/// equation 16.
#[must_use]
pub fn xavier_uniform<A: Float>(classes: usize, dim: usize, seed: u64) -> Array2<A> {
    let bound = (6.0 / (classes as f64 + dim as f64)).sqrt();
    uniform_within(classes, dim, bound, seed)
}

fn uniform_within<A: Float>(classes: usize, dim: usize, bound: f64, seed: u64) -> Array2<A> {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    rows(classes, dim, |row| {
        row.fill_with(|| bound * (2.0 * rng.random::<f64>() - 1.0));
    })
}

/// Row after row from `draw`, none of them zero once it is rounded to the element type.
fn rows<A: Float>(classes: usize, dim: usize, mut draw: impl FnMut(&mut [f64])) -> Array2<A> {
    let mut array = Array2::zeros((classes, dim));
    if dim == 0 {
        return array;
    }
    let mut drawn = vec![0.0; dim];
    for mut row in array.rows_mut() {
        while row.iter().all(|v| *v == A::zero()) {
            draw(&mut drawn);
            row.iter_mut()
                .zip(&drawn)
                .for_each(|(v, &drawn)| *v = A::from(drawn).expect("a float of either type"));
        }
    }
    array
}

/// A standard deviation or a bound: in `f32`, too, its multiples are neither all zero nor infinite.
fn spread(name: &'static str, value: f64) -> Result<f64, Error> {
    let holds = (1e-6..=1e6).contains(&value);
    parameter(name, value, holds, "lie in [1e-6, 1e6]")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mean and variance of all entries.
    fn moments(array: &Array2<f64>) -> (f64, f64) {
        (array.mean().unwrap(), array.var(0.0))
    }

    #[test]
    fn bits_are_frozen() {
        let bits = |array: Array2<f64>| array.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(
            bits(class_weights(2, 2, 42)),
            [
                0x3feb_3b3b_5d1d_878e,
                0xbfe0_ce6a_b084_5121,
                0x3fee_6383_b6a1_8bbf,
                0x3fd4_0d6d_4c80_34e8
            ]
        );
        assert_eq!(
            bits(normal(2, 2, 0.01, 42).unwrap()),
            [
                0x3f81_16a5_6e0b_66e0,
                0xbf75_17c7_159b_71c7,
                0x3f8c_d48b_f70e_e265,
                0x3f73_0629_864f_13de
            ]
        );
        assert_eq!(
            bits(uniform(2, 2, 0.25, 42).unwrap()),
            [
                0x3fc4_1d93_53d1_1d9a,
                0xbfb7_30df_45d4_4868,
                0x3fce_f81f_3ec3_093a,
                0x3fb9_becf_b006_6c18
            ]
        );
        assert_eq!(
            bits(xavier_uniform(2, 2, 42)),
            [
                0x3fe8_a2ea_8ad0_9022,
                0xbfdc_6727_5acb_5514,
                0x3ff2_f6f6_a21c_7bd4,
                0x3fdf_880f_f3c0_4bed
            ]
        );
    }

    #[test]
    fn f32_is_f64_rounded() {
        let same =
            |wide: Array2<f64>, narrow: Array2<f32>| assert_eq!(wide.mapv(|v| v as f32), narrow);
        same(class_weights(5, 7, 1), class_weights(5, 7, 1));
        same(
            normal(5, 7, 0.01, 1).unwrap(),
            normal(5, 7, 0.01, 1).unwrap(),
        );
        same(
            uniform(5, 7, 2.0, 1).unwrap(),
            uniform(5, 7, 2.0, 1).unwrap(),
        );
        same(xavier_uniform(5, 7, 1), xavier_uniform(5, 7, 1));
    }

    #[test]
    fn seeds_differ_and_prefixes_agree() {
        assert_ne!(class_weights::<f64>(3, 4, 0), class_weights::<f64>(3, 4, 1));
        // More classes do not change the first ones.
        let (few, many) = (
            class_weights::<f64>(3, 4, 9),
            class_weights::<f64>(30, 4, 9),
        );
        assert!(few.rows().into_iter().eq(many.rows().into_iter().take(3)));
    }

    #[test]
    fn directions_are_uniform() {
        let (classes, dim) = (40_000, 8);
        let weights = class_weights::<f64>(classes, dim, 3);
        for row in weights.rows() {
            assert!((row.dot(&row) - 1.0).abs() < 1e-14);
        }
        // Wᵀ W/C is I/d, and the mean direction is 0.
        let second = weights.t().dot(&weights) / classes as f64;
        for ((i, j), &v) in second.indexed_iter() {
            let expected = if i == j { 1.0 / dim as f64 } else { 0.0 };
            assert!((v - expected).abs() < 4e-3, "({i}, {j}): {v}");
        }
        let (mean, _) = moments(&weights);
        assert!(mean.abs() < 4e-3);
    }

    #[test]
    fn moments_are_as_asked() {
        let (mean, variance) = moments(&normal(1000, 100, 0.5, 4).unwrap());
        assert!(mean.abs() < 0.01 && (variance - 0.25).abs() < 0.01);
        let (mean, variance) = moments(&uniform(1000, 100, 0.5, 4).unwrap());
        assert!(mean.abs() < 0.01 && (variance - 0.25 / 3.0).abs() < 0.005);
        // Glorot and Bengio want the variance 2/(C + d).
        let (mean, variance) = moments(&xavier_uniform(1000, 100, 4));
        assert!(mean.abs() < 0.01 && (variance * 1100.0 / 2.0 - 1.0).abs() < 0.05);
    }

    #[test]
    fn zero_rows_are_drawn_again() {
        let mut left = 2;
        let array: Array2<f32> = rows(2, 1, |row| {
            // The second is zero only once it is rounded.
            row[0] = [3.0, 1e-60, 0.0][left];
            left = left.saturating_sub(1);
        });
        assert_eq!(array, ndarray::arr2(&[[3.0], [3.0]]));
        // One dimension is where it could happen: a direction is then a sign.
        let signs = class_weights::<f32>(1000, 1, 5);
        assert!(signs.iter().all(|v| v.abs() == 1.0));
    }

    #[test]
    fn smallest_spread_is_long_enough_to_divide_by() {
        for weights in [
            normal::<f32>(1000, 1, 1e-6, 6),
            uniform::<f32>(1000, 1, 1e-6, 6),
        ] {
            assert!(weights.unwrap().iter().all(|v| v.abs() > 1e-30));
        }
    }

    #[test]
    fn empty_shapes_are_empty() {
        assert_eq!(class_weights::<f32>(0, 3, 0).dim(), (0, 3));
        assert_eq!(class_weights::<f32>(3, 0, 0).dim(), (3, 0));
        assert_eq!(xavier_uniform::<f64>(0, 0, 0).dim(), (0, 0));
    }

    #[test]
    fn bad_spreads_are_named() {
        for bad in [0.0, -1.0, 1e-7, 1e7, f64::NAN, f64::INFINITY] {
            let error = normal::<f32>(2, 2, bad, 0).unwrap_err();
            assert!(matches!(
                error,
                Error::Parameter {
                    name: "std_dev",
                    ..
                }
            ));
            let error = uniform::<f32>(2, 2, bad, 0).unwrap_err();
            assert!(matches!(error, Error::Parameter { name: "bound", .. }));
        }
    }
}
