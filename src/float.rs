//! The element types: `f32` and `f64`.

use ndarray::NdFloat;

/// The element type of features, class weights, losses and gradients: `f32` or `f64`.
///
/// Sealed: the accuracy that the crate promises is stated and tested for these two.
pub trait Float: num_traits::Float + NdFloat + Default + sealed::Element {}

impl Float for f32 {}
impl Float for f64 {}

pub(crate) mod sealed {
    use faer::{Accum, MatMut, MatRef, Par, linalg::matmul::matmul};

    /// What the driver needs to know of an element type.
    pub trait Element: Sized + Copy {
        /// Rows that are divided by their norm must be at least this long, or their gradient may not be representable.
        const MIN_NORM: f64;
        /// A class weight whose norm lies outside 2^±this is scaled by a power of two before the products.
        const NORM_WINDOW: i32;
        /// How far a row's largest logit may rise above the shift of its exponentials before the shift follows.
        const SHIFT_SLACK: Self;
        /// Coefficients of the backward product are scaled by a power of two, so that their sums reach no further than
        /// 2^this: far from overflow, and with all the room below for confident rows.
        const MAX_EXPONENT: i32;
        /// Powers of two up to 2^±this are numbers of this type.
        const NORMAL_POWER: i32;

        fn widen(self) -> f64;
        fn narrow(value: f64) -> Self;
        /// e^self within 2 ulp, subnormal results included; 0 for −∞. Straight-line code, made to be vectorised.
        fn exp_element(self) -> Self;
        /// `dst = lhs · rhs`, or `dst += lhs · rhs`, on this thread.
        fn product(
            dst: MatMut<'_, Self>,
            accumulate: bool,
            lhs: MatRef<'_, Self>,
            rhs: MatRef<'_, Self>,
        );
    }

    macro_rules! product {
        () => {
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
        };
    }

    impl Element for f32 {
        const MIN_NORM: f64 = 7.523_163_845_262_64e-37; // 2^-120
        const NORM_WINDOW: i32 = 16;
        const SHIFT_SLACK: Self = 30.0;
        const MAX_EXPONENT: i32 = 80;
        const NORMAL_POWER: i32 = 126;

        #[inline(always)]
        fn widen(self) -> f64 {
            f64::from(self)
        }

        #[inline(always)]
        fn narrow(value: f64) -> Self {
            value as f32
        }

        #[inline(always)]
        fn exp_element(self) -> Self {
            crate::linear_cross_entropy::exp::exp_f32(self)
        }

        product!();
    }

    impl Element for f64 {
        const MIN_NORM: f64 = 9.332_636_185_032_189e-302; // 2^-1000
        const NORM_WINDOW: i32 = 200;
        const SHIFT_SLACK: Self = 300.0;
        const MAX_EXPONENT: i32 = 550;
        const NORMAL_POWER: i32 = 1022;

        #[inline(always)]
        fn widen(self) -> f64 {
            self
        }

        #[inline(always)]
        fn narrow(value: f64) -> Self {
            value
        }

        #[inline(always)]
        fn exp_element(self) -> Self {
            crate::linear_cross_entropy::exp::exp_f64(self)
        }

        product!();
    }
}
