//! Seeded first values for class weights and centers.
//!
//! Everything is drawn from one `u64` seed through xoshiro256++, row after row, in `f64`; an `f32` array holds the same
//! numbers, rounded. No row is ever zero: a row that came out so is drawn again.
//!
//! Each function has numbers of its own: the same seed in two of them gives arrays that have nothing in common. Two arrays of
//! one function need two seeds.
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
//! # Errors
//!
//! All functions return [`Error::TooLarge`] if there is no memory for C·d entries.

use ndarray::Array2;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use rand_distr::StandardNormal;

use crate::error::{Error, parameter};
use crate::float::Float;

/// Directions: each row is uniform on the unit sphere, `w = g/‖g‖` with g from N(0, I).
///
/// See the [module](self) for shapes and seeds.
///
/// # Errors
///
/// [`Error::TooLarge`] if there is no memory for the array.
///
/// # Examples
///
/// ```
/// use margin_losses::init::class_weights;
///
/// let weights = class_weights::<f32>(10, 64, 42)?;
/// assert_eq!(weights.dim(), (10, 64));
/// for row in weights.rows() {
///     assert!((row.dot(&row) - 1.0).abs() < 1e-5);
/// }
/// # Ok::<(), margin_losses::Error>(())
/// ```
pub fn class_weights<A: Float>(classes: usize, dim: usize, seed: u64) -> Result<Array2<A>, Error> {
    let mut rng = generator(Stream::ClassWeights, seed);
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
/// `std_dev`, which is σ, lies in [10⁻⁶, 10⁶]. See the [module](self) for shapes and seeds.
///
/// # Errors
///
/// [`Error::Parameter`] if `std_dev` is out of range, [`Error::TooLarge`] if there is no memory for the array.
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
    let mut rng = generator(Stream::Normal, seed);
    rows(classes, dim, |row| {
        row.fill_with(|| std_dev * rng.sample::<f64, _>(StandardNormal));
    })
}

/// Independent entries, uniform in [−b, b).
///
/// `bound`, which is b, lies in [10⁻⁶, 10⁶]. See the [module](self) for shapes and seeds.
///
/// # Errors
///
/// [`Error::Parameter`] if `bound` is out of range, [`Error::TooLarge`] if there is no memory for the array.
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
    let rng = generator(Stream::Uniform, seed);
    uniform_within(classes, dim, spread("bound", bound)?, rng)
}

/// Independent entries, uniform in [−b, b) with `b = √(6/(C + d))`.
///
/// This looks at both C and d, as in the paper and in `PyTorch`; Caffe's filler of the same name has `b = √(3/d)`,
/// which is far larger where there are many classes. See the [module](self) for shapes and seeds.
///
/// # Errors
///
/// [`Error::TooLarge`] if there is no memory for the array.
///
/// # Examples
///
/// ```
/// let weights = margin_losses::init::xavier_uniform::<f32>(10, 64, 42)?;
/// assert!(weights.iter().all(|v| v.abs() <= 0.2848));
/// # Ok::<(), margin_losses::Error>(())
/// ```
///
/// # References
///
/// X. Glorot and Y. Bengio, *Understanding the difficulty of training deep feedforward neural networks*, AISTATS 2010,
/// equation 16.
pub fn xavier_uniform<A: Float>(classes: usize, dim: usize, seed: u64) -> Result<Array2<A>, Error> {
    let bound = (6.0 / (classes as f64 + dim as f64)).sqrt();
    uniform_within(classes, dim, bound, generator(Stream::XavierUniform, seed))
}

fn uniform_within<A: Float>(
    classes: usize,
    dim: usize,
    bound: f64,
    mut rng: Xoshiro256PlusPlus,
) -> Result<Array2<A>, Error> {
    rows(classes, dim, |row| {
        row.fill_with(|| bound * (2.0 * rng.random::<f64>() - 1.0));
    })
}

/// What each function mixes into its seed. These are arbitrary bits, so that no two functions meet at seeds that anybody
/// would choose.
#[derive(Clone, Copy)]
#[repr(u64)]
pub(crate) enum Stream {
    ClassWeights = 0,
    Normal = 0x1f83_d9ab_fb41_bd6b,
    Uniform = 0x3c6e_f372_fe94_f82b,
    XavierUniform = 0x510e_527f_ade6_82d1,
    /// Of [`margins`](crate::margins).
    ElasticMargins = 0x5be0_cd19_137e_2179,
    AdaptiveMargins = 0x6a09_e667_f3bc_c908,
}

pub(crate) fn generator(stream: Stream, seed: u64) -> Xoshiro256PlusPlus {
    Xoshiro256PlusPlus::seed_from_u64(seed ^ stream as u64)
}

/// Row after row from `draw`, none of them zero once it is rounded to the element type.
fn rows<A: Float>(
    classes: usize,
    dim: usize,
    mut draw: impl FnMut(&mut [f64]),
) -> Result<Array2<A>, Error> {
    let too_large = || Error::TooLarge {
        rows: classes,
        columns: dim,
    };
    let mut entries: Vec<A> = Vec::new();
    let mut drawn: Vec<f64> = Vec::new();
    if classes > 0 && dim > 0 {
        let count = classes.checked_mul(dim).ok_or_else(too_large)?;
        entries.try_reserve_exact(count).map_err(|_| too_large())?;
        drawn.try_reserve_exact(dim).map_err(|_| too_large())?;
        drawn.resize(dim, 0.0);
        for _ in 0..classes {
            let start = entries.len();
            while entries[start..].iter().all(|v| *v == A::zero()) {
                draw(&mut drawn);
                entries.truncate(start);
                let rounded = |&drawn: &f64| A::from(drawn).expect("a float of either type");
                entries.extend(drawn.iter().map(rounded));
            }
        }
    }
    Array2::from_shape_vec((classes, dim), entries).map_err(|_| too_large())
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
            bits(class_weights(2, 2, 42).unwrap()),
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
                0xbf6c_f2ed_11d2_0b68,
                0x3f5e_b1b3_9044_b0ca,
                0xbf89_5ce5_ab63_7f43,
                0x3f79_af12_6840_056d
            ]
        );
        assert_eq!(
            bits(uniform(2, 2, 0.25, 42).unwrap()),
            [
                0xbfc7_b77c_54dc_2150,
                0x3fc4_7fbf_2b4d_cdae,
                0x3fc5_d519_ee6e_e282,
                0xbfb6_1d94_02cf_7964
            ]
        );
        assert_eq!(
            bits(xavier_uniform(2, 2, 42).unwrap()),
            [
                0xbff1_69c7_8802_1396,
                0xbfcc_efbb_7f41_c8f2,
                0xbfd4_52ca_0e66_00a4,
                0x3fc0_969a_c755_7e4c
            ]
        );
    }

    #[test]
    fn f32_is_f64_rounded() {
        let same =
            |wide: Array2<f64>, narrow: Array2<f32>| assert_eq!(wide.mapv(|v| v as f32), narrow);
        same(
            class_weights(5, 7, 1).unwrap(),
            class_weights(5, 7, 1).unwrap(),
        );
        same(
            normal(5, 7, 0.01, 1).unwrap(),
            normal(5, 7, 0.01, 1).unwrap(),
        );
        same(
            uniform(5, 7, 2.0, 1).unwrap(),
            uniform(5, 7, 2.0, 1).unwrap(),
        );
        same(
            xavier_uniform(5, 7, 1).unwrap(),
            xavier_uniform(5, 7, 1).unwrap(),
        );
    }

    #[test]
    fn seeds_differ_and_prefixes_agree() {
        assert_ne!(
            class_weights::<f64>(3, 4, 0).unwrap(),
            class_weights::<f64>(3, 4, 1).unwrap()
        );
        // More classes do not change the first ones.
        let (few, many) = (
            class_weights::<f64>(3, 4, 9).unwrap(),
            class_weights::<f64>(30, 4, 9).unwrap(),
        );
        assert!(few.rows().into_iter().eq(many.rows().into_iter().take(3)));
    }

    #[test]
    fn directions_are_uniform() {
        let (classes, dim) = (40_000, 8);
        let weights = class_weights::<f64>(classes, dim, 3).unwrap();
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
        let (mean, variance) = moments(&xavier_uniform(1000, 100, 4).unwrap());
        assert!(mean.abs() < 0.01 && (variance * 1100.0 / 2.0 - 1.0).abs() < 0.05);
    }

    #[test]
    fn zero_rows_are_drawn_again() {
        let mut left = 2;
        let array: Array2<f32> = rows(2, 1, |row| {
            // The second is zero only once it is rounded.
            row[0] = [3.0, 1e-60, 0.0][left];
            left = left.saturating_sub(1);
        })
        .unwrap();
        assert_eq!(array, ndarray::arr2(&[[3.0], [3.0]]));
        // One dimension is where it could happen: a direction is then a sign.
        let signs = class_weights::<f32>(1000, 1, 5).unwrap();
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
        for (classes, dim) in [(0, 3), (3, 0), (0, 0)] {
            let all = all_functions::<f32>(classes, dim, 0).map(Result::unwrap);
            assert!(all.iter().all(|array| array.dim() == (classes, dim)));
        }
    }

    fn all_functions<A: Float>(
        classes: usize,
        dim: usize,
        seed: u64,
    ) -> [Result<Array2<A>, Error>; 4] {
        [
            class_weights(classes, dim, seed),
            normal(classes, dim, 1.0, seed),
            uniform(classes, dim, 1.0, seed),
            xavier_uniform(classes, dim, seed),
        ]
    }

    /// With the stream in common, the cosine of any two would be 1 for normal numbers, and for uniform ones.
    #[test]
    fn one_seed_gives_each_function_numbers_of_its_own() {
        for seed in [0, 1, 2, 42, u64::MAX] {
            let all = all_functions::<f64>(5, 800, seed).map(Result::unwrap);
            for (index, one) in all.iter().enumerate() {
                for other in &all[..index] {
                    for (a, b) in one.rows().into_iter().zip(other.rows()) {
                        let cosine = a.dot(&b) / (a.dot(&a) * b.dot(&b)).sqrt();
                        assert!(cosine.abs() < 0.2, "seed {seed}: {cosine}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_too_large_is_refused() {
        for (rows, columns) in [
            (usize::MAX, usize::MAX),
            (usize::MAX / 4, 8),
            (usize::MAX / 64, 2),
            (1, usize::MAX / 16),
            (usize::MAX / 16, 1),
            (usize::MAX, 0),
            (0, usize::MAX),
        ] {
            for refused in all_functions::<f64>(rows, columns, 1) {
                assert_eq!(refused, Err(Error::TooLarge { rows, columns }));
            }
        }
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
