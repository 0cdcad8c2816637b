//! What the margins make of an angle: rows 4, 5 and 27.

use core::f64::consts::PI;

use margin_losses::schedule::LambdaAnnealing;
use margin_losses::{ASoftmax, Angle, ArcFace, Margin, MarginLoss, PastPi, Targets};
use ndarray::array;

use crate::support::{assert_relative, check_gradient, derivative};

const STEPS: u32 = 1_000_000;

fn psi(margin: &dyn Margin, angle: f64) -> f64 {
    margin
        .target_logit(&Angle::from_radians(angle).into())
        .value()
}

fn slope(margin: &dyn Margin, angle: f64) -> f64 {
    margin
        .target_logit(&Angle::from_radians(angle).into())
        .angle_slope()
}

/// The slope that a margin states is that of its values, at this angle.
#[track_caller]
fn assert_slope(margin: &dyn Margin, angle: f64, reach: f64) {
    let difference = derivative(|shift| psi(margin, angle + shift), reach);
    let off = (slope(margin, angle) - difference.value).abs();
    assert!(off <= 1e-7, "{margin:?} at {angle}: off by {off:e}");
}

#[test]
fn row_04_past_pi() {
    for m in [0.1, 0.5, 1.0] {
        let of = |past_pi| {
            let loss = ArcFace::new(64.0, m).expect("in range");
            loss.with_past_pi(past_pi)
        };
        let h = PI / f64::from(STEPS);
        let (paper, linear) = (of(PastPi::Paper), of(PastPi::LinearTail));
        let (smooth, easy) = (of(PastPi::SmoothTail), of(PastPi::EasyMargin));
        let (joined, cosine) = (of(PastPi::JoinedTail), of(PastPi::CosineTail));
        let mut last = [f64::INFINITY; 4];
        for step in 0..=STEPS {
            let angle = f64::from(step) * h;
            assert_eq!(psi(&paper, angle), (angle + m).cos(), "at {angle}");
            let now = [&linear, &smooth, &joined, &cosine].map(|loss| psi(loss, angle));
            for (now, last) in now.iter().zip(&last) {
                assert!(now <= last, "a tail rises at {angle}");
            }
            if step > 0 {
                for (now, last) in now.iter().zip(&last).skip(1) {
                    assert!(last - now <= 1.01 * h, "a tail jumps at {angle}");
                }
            }
            last = now;
        }
        let joint = PI - m;
        let jump = |loss: &ArcFace, at: f64| psi(loss, at + 1e-12) - psi(loss, at - 1e-12);
        // From cos π = −1 to cos(π − m) − m sin m.
        let found = jump(&linear, joint);
        let exact = -m.cos() - m * m.sin() + 1.0;
        assert!((found - exact).abs() < 1e-10, "{found}, not {exact}");
        assert!(m != 0.5 || (exact + 0.117_295_331).abs() < 1e-8, "{exact}");
        assert!(jump(&smooth, joint).abs() < 1e-10);
        assert!((slope(&smooth, joint + 1e-9) - slope(&smooth, joint - 1e-9)).abs() < 1e-8);
        assert!((jump(&easy, PI / 2.0) - m.sin()).abs() < 1e-10);
        let joint_of_cosine = 0.5 * joint;
        assert_eq!(psi(&cosine, joint_of_cosine), psi(&paper, joint_of_cosine));
        assert!(jump(&cosine, joint_of_cosine).abs() < 1e-10);
        for distance in [1e-4, 1e-3, 1e-2, 9e-2] {
            for loss in [&paper, &linear, &smooth, &easy, &joined, &cosine] {
                for angle in [joint - distance, joint + distance] {
                    assert_slope(loss, angle, 0.5 * distance);
                }
            }
        }
    }
}

/// ∂z/∂x over ∂cosθ/∂x: code that takes the angle out of the differentiated graph has the scale alone here.
#[test]
fn row_05_the_gradient_is_the_gradient() {
    let (scale, m) = (3.0, 0.5);
    let loss = ArcFace::new(scale, m)
        .expect("in range")
        .with_past_pi(PastPi::Paper);
    let weights = array![[0.7, 0.0, 0.0], [0.0, 0.0, 1.0]];
    for (angle, ratio) in [
        (0.1_f64, Some(5.655_9)),
        (1.0, Some(1.185_4)),
        (PI - 0.25, None),
        (PI - 0.1, None),
    ] {
        let (sin, cos) = angle.sin_cos();
        let features = array![[2.5 * cos, 2.5 * sin, 0.0]];
        let loss_at = |features: &ndarray::Array2<f64>| {
            loss.evaluate(features.view(), weights.view(), &Targets::new(&[0]))
                .expect("a good batch")
        };
        let found = loss_at(&features);
        let gradient: Vec<f64> = found.grad_features.iter().copied().collect();
        let by_entry = |entry: usize, shift: f64| {
            let mut moved = features.clone();
            moved[[0, entry]] += shift;
            loss_at(&moved).loss()
        };
        check_gradient(&gradient, by_entry, 2e-2, 1e-8).unwrap();

        let miss = 1.0 / (1.0 + (scale * (angle + m).cos()).exp());
        // ∂cosθ/∂x has the length sinθ/|x| along the tangent (−sinθ, cosθ), with a minus.
        let along = -(gradient[0] * -sin + gradient[1] * cos) / (scale * miss);
        let factor = along / (-sin / 2.5);
        assert_relative("the factor", factor, (angle + m).sin() / sin, 1e-12);
        if let Some(ratio) = ratio {
            assert!((factor - ratio).abs() < 1e-3, "{factor}, not {ratio}");
        } else {
            assert!(factor < 0.0, "past π − m the target is pushed away");
        }
    }
}

/// ψ is the polynomial ±T_m(cosθ) − 2k, for which public code has a series with a wrong term.
#[test]
fn row_27_psi_is_the_chebyshev_polynomial() {
    /// T_m by its recurrence.
    fn chebyshev(m: u32, x: f64) -> f64 {
        let (mut before, mut now) = (1.0, x);
        for _ in 1..m {
            (before, now) = (now, 2.0 * x * now - before);
        }
        now
    }
    for m in 1..=10 {
        let loss = ASoftmax::new(m).expect("in range");
        let exact = |angle: f64, k: f64, cos_m: f64| {
            let sign = if k % 2.0 == 0.0 { 1.0 } else { -1.0 };
            assert!((0.0..=f64::from(m)).contains(&k), "k = {k} at {angle}");
            sign * cos_m - 2.0 * k
        };
        let of_m = f64::from(m);
        for step in 0..=10_000 {
            let angle = PI * f64::from(step) / 10_000.0;
            let k = (of_m * angle / PI).floor().min(of_m - 1.0);
            let found = psi(&loss, angle);
            let by_angle = exact(angle, k, (of_m * angle).cos());
            let by_cosine = exact(angle, k, chebyshev(m, angle.cos()));
            assert!((found - by_angle).abs() <= 1e-13, "m = {m} at {angle}");
            assert!((found - by_cosine).abs() <= 1e-12, "m = {m} at {angle}");
        }
        // Across the joints ψ is continuous.
        for k in 1..m {
            let joint = f64::from(k) * PI / of_m;
            let at = psi(&loss, joint);
            for ulps in 1..=64_u64 {
                for bits in [joint.to_bits() - ulps, joint.to_bits() + ulps] {
                    let off = (psi(&loss, f64::from_bits(bits)) - at).abs();
                    let allowed = 8.0 * f64::EPSILON * at.abs().max(1.0);
                    assert!(
                        off <= allowed,
                        "m = {m}, {ulps} ulps from joint {k}: {off:e}"
                    );
                }
            }
        }
    }
    // λ is a function of the iteration, whatever was asked before.
    let annealing = LambdaAnnealing::sphere_face();
    let late = annealing.at(5_000);
    let early = annealing.at(1);
    assert_eq!(annealing.at(5_000), late);
    assert_eq!(annealing.at(1), early);
    assert!(early > late);
}
