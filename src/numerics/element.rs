//! The element types as the arithmetic here sees them.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use ndarray::NdFloat;

use super::{Bytes, exp};

/// `f32` or `f64`, with what the arithmetic here needs to know of them.
///
/// Not a supertrait of the public [`Float`](crate::Float), so that none of it can be called from outside.
pub(crate) trait Element: num_traits::Float + NdFloat + Default + Bytes {
    /// Rows that are divided by their norm must be at least this long, or their gradient may not be representable.
    const MIN_NORM: f64;
    /// A class weight that is to be normalised is scaled by a power of two first if its norm lies outside 2^±this.
    const NORM_WINDOW: i32;
    /// A block of class weights that are not normalised is scaled by a power of two if one of them is longer than 2^this. Up
    /// to this length a sum over a run of them, times exponentials, is a number.
    const LONGEST: i32;
    /// How far a row's largest logit may rise above the shift of its exponentials before the shift follows.
    const SHIFT_SLACK: Self;
    /// Coefficients of the backward product are scaled by a power of two, so that their sums reach no further than
    /// 2^this: far from overflow, and with all the room below for confident rows.
    const MAX_EXPONENT: i32;
    /// Powers of two up to 2^±this are numbers of this type.
    const NORMAL_POWER: i32;
    /// Whether order-free sums keep what their rounding leaves over.
    const KEEPS_RESTS: bool;
    /// Added to a cosine in `f64`, it rounds it to a multiple of 2⁻³⁰ in `f32`, of 2⁻⁵¹ in `f64`.
    const COSINE_ROUNDER: f64;

    fn widen(self) -> f64;
    /// The nearest number of this type; infinite beyond its range.
    fn narrow(value: f64) -> Self;
    /// e^self within 2 ulp, subnormal results included; 0 for −∞. Straight-line code, made to be vectorised.
    fn exp_element(self) -> Self;
    /// ln(1 + self) within 4 ulp, for self in [0, 1]. Straight-line code as well.
    fn ln_1p_element(self) -> Self;
    /// `dst = lhs · rhs`, or `dst += lhs · rhs`, on this thread.
    fn product(
        dst: MatMut<'_, Self>,
        accumulate: bool,
        lhs: MatRef<'_, Self>,
        rhs: MatRef<'_, Self>,
    );
}

macro_rules! element {
    ($type:ty, $exp:path, $ln_1p:path, { $($constants:item)* }) => {
        impl Element for $type {
            $($constants)*

            #[inline(always)]
            fn widen(self) -> f64 {
                f64::from(self)
            }

            #[inline(always)]
            fn narrow(value: f64) -> Self {
                value as $type
            }

            #[inline(always)]
            fn exp_element(self) -> Self {
                $exp(self)
            }

            #[inline(always)]
            fn ln_1p_element(self) -> Self {
                $ln_1p(self)
            }

            fn product(
                dst: MatMut<'_, Self>,
                accumulate: bool,
                lhs: MatRef<'_, Self>,
                rhs: MatRef<'_, Self>,
            ) {
                let mode = if accumulate {
                    Accum::Add
                } else {
                    Accum::Replace
                };
                matmul(dst, mode, lhs, rhs, 1.0, Par::Seq);
            }
        }
    };
}

element!(f32, exp::exp_f32, exp::ln_1p_f32, {
    const MIN_NORM: f64 = 7.523_163_845_262_64e-37; // 2^-120
    const NORM_WINDOW: i32 = 16;
    const LONGEST: i32 = 70;
    const SHIFT_SLACK: Self = 30.0;
    const MAX_EXPONENT: i32 = 80;
    const NORMAL_POWER: i32 = 126;
    const KEEPS_RESTS: bool = false;
    const COSINE_ROUNDER: f64 = 6_291_456.0; // between 2^22 and 2^23
});

element!(f64, exp::exp_f64, exp::ln_1p_f64, {
    const MIN_NORM: f64 = 9.332_636_185_032_189e-302; // 2^-1000
    const NORM_WINDOW: i32 = 200;
    const LONGEST: i32 = 900;
    const SHIFT_SLACK: Self = 30.0;
    const MAX_EXPONENT: i32 = 550;
    const NORMAL_POWER: i32 = 1022;
    const KEEPS_RESTS: bool = true;
    const COSINE_ROUNDER: f64 = 3.0; // between 2 and 4
});
