//! The exponential, as straight-line code that the compiler turns into vector instructions.
//!
//! `e^x = 2^n · e^r` with n the nearest integer to x/ln 2 and r the rest, |r| ≤ ln 2/2, by a polynomial. Within 2 ulp,
//! subnormal results included (`tests` below measure it). There is no case for arguments that overflow: a logit far above its
//! shift is found by the comparison beside the exponential, whose result is then thrown away.

/// `e^x` for x ≤ 65, −∞ included: 0 below ≈ −104.
#[inline(always)]
pub(crate) fn exp_f32(x: f32) -> f32 {
    /// Adding 1.5·2²³ leaves the nearest integer in the low bits.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts, the first with so few bits that its product with n is exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    /// The power of two is put into the exponent 2³² too high and brought down by a multiplication, which is what rounds
    /// results below the normal range.
    const ABOVE: u32 = 32 << 23;
    const DOWN: f32 = 1.0 / 4_294_967_296.0;

    let x = if x > -105.0 { x } else { -105.0 };
    let rounded = x.mul_add(core::f32::consts::LOG2_E, ROUND);
    let n = rounded - ROUND;
    let r = n.mul_add(-LN_2_HIGH, x);
    let r = n.mul_add(-LN_2_LOW, r);

    // 1 + r + r²·q(r), with q the minimax polynomial of degree 4 for the relative error of e^r, which is below 3.7e-9.
    let y = 1.381_454e-3_f32;
    let y = y.mul_add(r, 8.368_745e-3);
    let y = y.mul_add(r, 4.166_839e-2);
    let y = y.mul_add(r, 1.666_652_1e-1);
    let y = y.mul_add(r, 4.999_999_4e-1);
    let y = y.mul_add(r, 1.0);
    let y = y.mul_add(r, 1.0);
    f32::from_bits(
        y.to_bits()
            .wrapping_add((rounded.to_bits() << 23).wrapping_add(ABOVE)),
    ) * DOWN
}

/// `e^x` for x ≤ 600, −∞ included: 0 below ≈ −745.2.
#[inline(always)]
pub(crate) fn exp_f64(x: f64) -> f64 {
    /// Adding 1.5·2⁵² leaves the nearest integer in the low bits.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    const LN_2_HIGH: f64 = 6.931_471_803_691_238e-1;
    const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    /// As in `f32`, by 2¹²⁸.
    const ABOVE: u64 = 128 << 52;
    const DOWN: f64 = 1.0 / 340_282_366_920_938_463_463_374_607_431_768_211_456.0;
    /// 1/2!, 1/3!, … 1/13!: the next term of the series is below 5e-18.
    const INVERSE_FACTORIALS: [f64; 12] = [
        0.5,
        1.0 / 6.0,
        1.0 / 24.0,
        1.0 / 120.0,
        1.0 / 720.0,
        1.0 / 5_040.0,
        1.0 / 40_320.0,
        1.0 / 362_880.0,
        1.0 / 3_628_800.0,
        1.0 / 39_916_800.0,
        1.0 / 479_001_600.0,
        1.0 / 6_227_020_800.0,
    ];

    let x = if x > -750.0 { x } else { -750.0 };
    let rounded = x.mul_add(core::f64::consts::LOG2_E, ROUND);
    let n = rounded - ROUND;
    let r = n.mul_add(-LN_2_HIGH, x);
    let r = n.mul_add(-LN_2_LOW, r);

    let mut p = INVERSE_FACTORIALS[11];
    for &c in INVERSE_FACTORIALS[..11].iter().rev() {
        p = p.mul_add(r, c);
    }
    let y = (r * r).mul_add(p, r) + 1.0;
    f64::from_bits(
        y.to_bits()
            .wrapping_add((rounded.to_bits() << 52).wrapping_add(ABOVE)),
    ) * DOWN
}

/// ln(1 + q) for q in [0, 1]: 2·artanh(q/(2 + q)) by its series, whose terms fall by a factor of 9.
macro_rules! ln_1p {
    ($name:ident, $type:ty, [$($inverse:expr),*]) => {
        #[inline(always)]
        pub(crate) fn $name(q: $type) -> $type {
            /// 1/(2k + 1), from the last to the first.
            const INVERSES: &[$type] = &[$(1.0 / $inverse),*];
            let r = q / (2.0 + q);
            let square = r * r;
            let mut series = 0.0;
            for &inverse in INVERSES {
                series = square.mul_add(series, inverse);
            }
            (2.0 * r) * square.mul_add(series, 1.0)
        }
    };
}

// The next terms are below 2e-8 and 3e-17.
ln_1p!(ln_1p_f32, f32, [15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0]);
ln_1p!(
    ln_1p_f64,
    f64,
    [
        33.0, 31.0, 29.0, 27.0, 25.0, 23.0, 21.0, 19.0, 17.0, 15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0
    ]
);

/// ln(1 + e^gap), and its derivative.
pub(crate) fn softplus(gap: f64) -> (f64, f64) {
    let ratio = (-gap.abs()).exp();
    if gap <= 0.0 {
        (ratio.ln_1p(), ratio / (1.0 + ratio))
    } else {
        (gap + ratio.ln_1p(), 1.0 / (1.0 + ratio))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f32_is_within_2_ulp_of_the_f64_exponential() {
        // Every 37th float of both signs from 2^-30 to beyond the range.
        let mut worst = 0.0_f64;
        for bits in (0x3080_0000_u32..0x42d0_0000).step_by(37) {
            for x in [f32::from_bits(bits), -f32::from_bits(bits)] {
                if x > 65.0 {
                    continue;
                }
                let exact = f64::from(x).exp();
                let nearest = exact as f32;
                let ulp = f64::from(f32::from_bits(nearest.to_bits() + 1)) - f64::from(nearest);
                worst = worst.max((f64::from(exp_f32(x)) - exact).abs() / ulp);
            }
        }
        assert!(worst <= 2.0, "{worst} ulp");
        assert!(worst > 0.5, "the sweep measured nothing");
    }

    #[test]
    fn f64_is_within_2_ulp_of_std() {
        // std's own error is below 1 ulp, so the bound asked for here is the tighter 1.
        let mut worst = 0_i64;
        let mut x = -744.0_f64;
        while x < 600.0 {
            let difference = exp_f64(x).to_bits() as i64 - x.exp().to_bits() as i64;
            worst = worst.max(difference.abs());
            x += 1.234_567e-3;
        }
        assert!(worst <= 1, "{worst} ulp from std");
    }

    #[test]
    fn ends_of_the_range() {
        assert_eq!(exp_f32(0.0), 1.0);
        assert_eq!(exp_f32(-1e30), 0.0);
        assert_eq!(exp_f32(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp_f32(-103.0), 1e-45);
        assert_eq!(exp_f64(0.0), 1.0);
        assert_eq!(exp_f64(f64::NEG_INFINITY), 0.0);
        assert_eq!(exp_f64(-745.0), 5e-324);
        assert_eq!(exp_f64(-1e300), 0.0);
    }

    #[test]
    fn logarithms_of_one_and_a_little_more() {
        let (mut worst_f32, mut worst_f64) = (0.0_f64, 0.0_f64);
        let mut q = 1.0_f64;
        while q > 1e-30 {
            let exact = q.ln_1p();
            worst_f64 = worst_f64.max((ln_1p_f64(q) - exact).abs() / exact);
            let short = q as f32;
            let exact = f64::from(short).ln_1p();
            worst_f32 = worst_f32.max((f64::from(ln_1p_f32(short)) - exact).abs() / exact);
            q *= 0.99;
        }
        assert!(
            worst_f32 <= 4.0 * f64::from(f32::EPSILON) / 2.0,
            "{worst_f32:e}"
        );
        assert!(worst_f64 <= 4.0 * f64::EPSILON / 2.0, "{worst_f64:e}");
        assert_eq!((ln_1p_f32(0.0), ln_1p_f64(0.0)), (0.0, 0.0));
    }
}
