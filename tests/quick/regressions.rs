//! What the fuzz target and the properties found, each in the smallest form that shows it.

use margin_losses::{
    ArcFace, Argument, CombinedMargin, Error, Evaluation, JointLoss, MarginLoss, ModifiedSoftmax,
    NormFace, PastPi, Reduction, SoftmaxLoss, Targets,
};
use ndarray::{Array2, array};

use crate::support::assert_close;

fn sum(labels: &[usize]) -> Targets<'_, f64> {
    Targets::new(labels).with_reduction(Reduction::Sum)
}

/// The coefficients of ∂W were multiplied by their power of two before they met the feature, and were infinite for
/// features shorter than 2^−473: ∂W was infinite, or NaN where the feature was zero.
#[test]
fn weights_of_tiny_features() -> Result<(), Error> {
    let weights = array![[0.0], [0.0]];
    for size in [1e-140, 1e-155, 1e-200, 1e-300, 1e-310, 5e-324] {
        let features = array![[size], [0.0]];
        let out = SoftmaxLoss::new().evaluate(features.view(), weights.view(), &sum(&[0, 1]))?;
        // Equal logits: (p − 1) x.
        let expected = [-size / 2.0, size / 2.0];
        let found: Vec<f64> = out.grad_weights.iter().copied().collect();
        for (found, expected) in found.iter().zip(expected) {
            let off = (found - expected).abs();
            assert!(off <= 1e-15 * size + 5e-324, "{found:e} at {size:e}");
        }
    }
    Ok(())
}

/// The same for rows that are as heavy as their features are tiny.
#[test]
fn weights_of_tiny_features_in_heavy_rows() -> Result<(), Error> {
    let weights = array![[0.0], [0.0]];
    for power in [100, 500, 900, 1000] {
        let (size, weight) = (2.0_f64.powi(-power), 2.0_f64.powi(power));
        let row_weights = [weight, 0.0];
        let features = array![[size], [0.5]];
        let targets = sum(&[0, 1]).with_row_weights(&row_weights);
        let out = SoftmaxLoss::new().evaluate(features.view(), weights.view(), &targets)?;
        assert_eq!(out.grad_weights, array![[-0.5], [0.5]], "2^±{power}");
    }
    Ok(())
}

/// The same for the normalised layer that keeps the length of its features.
#[test]
fn normalised_weights_of_tiny_features() -> Result<(), Error> {
    let weights = array![[1.0, 0.0], [0.0, 1.0]];
    for size in [1e-155, 1e-250, 1e-300] {
        let features = array![[size, 0.0]];
        let out = ModifiedSoftmax::new().evaluate(features.view(), weights.view(), &sum(&[0]))?;
        // ∂w₁ = p₁ x, across w₁; x lies along w₀, so there is nothing across that.
        let found: Vec<f64> = out.grad_weights.iter().copied().collect();
        assert_close("∂W", &found, &[0.0, 0.0, size / 2.0, 0.0], 1e-15);
    }
    Ok(())
}

/// Features times rᵢ/N were taken for zeros if they are below the least number, though 1/‖w‖ brings their gradient back.
#[test]
fn short_weights_of_the_least_features() -> Result<(), Error> {
    let mut features = Array2::zeros((6, 2));
    features.column_mut(0).fill(5e-324);
    let short = 2.0_f64.powi(-990);
    let weights = array![[short, 0.0], [0.0, short]];
    let targets = Targets::new(&[0; 6]);
    let out = ModifiedSoftmax::new().evaluate(features.view(), weights.view(), &targets)?;
    // ∂w₁ = p₁ x/‖w₁‖ with p₁ = ½.
    let found: Vec<f64> = out.grad_weights.iter().copied().collect();
    let expected = [0.0, 0.0, 2.0_f64.powi(-85), 0.0];
    assert_close("∂W", &found, &expected, 1e-15);

    // And a target at 45 degrees, beside a rival along x: ∂w₀ = (p₀ − 1) (x − ŵ₀ (ŵ₀·x))/‖w₀‖, with p₀ = ½.
    let weights = array![[short, short], [1.0, 0.0]];
    let out = ModifiedSoftmax::new().evaluate(features.view(), weights.view(), &targets)?;
    let found: Vec<f64> = out.grad_weights.row(0).to_vec();
    let size = 2.0_f64.powi(-1074 + 990 - 2) / 2.0_f64.sqrt();
    assert_close("∂w₀", &found, &[-size, size], 1e-15);
    Ok(())
}

/// ‖x‖ · (1/‖x‖) was formed, which is infinite (or NaN) if the feature is subnormal.
#[test]
fn subnormal_features_that_keep_their_length() -> Result<(), Error> {
    let weights = array![[3.0, 4.0], [-4.0, 3.0]];
    for size in [1e-307, 1e-310, 1e-320] {
        let features = array![[size, 0.0]];
        let out = ModifiedSoftmax::new().evaluate(features.view(), weights.view(), &sum(&[0]))?;
        // Both logits are 0 to rounding: ∂x = (ŵ₁ − ŵ₀)/2.
        let found: Vec<f64> = out.grad_features.iter().copied().collect();
        assert_close("∂X", &found, &[-0.7, -0.1], 1e-4);
    }
    Ok(())
}

/// The tangent was divided by the length of the feature and by what is left of the difference of the two vectors, which for
/// short features next to their class overflowed on the way to a finite gradient.
#[test]
fn short_features_almost_parallel_to_their_class() -> Result<(), Error> {
    let size = 1e-300;
    let features = array![[size, 1e-17 * size]];
    let weights = array![[1.0, 0.0], [0.0, 1.0]];
    let loss = ArcFace::new(64.0, 0.5)?;
    let found: Evaluation<f64> = loss.evaluate(features.view(), weights.view(), &sum(&[0]))?;
    // The other class leads by no means: p₁ = e^(0 − 64 cos m) to all digits, pulled by 64 (1 + sin m)/‖x‖ across x.
    let share = (-64.0 * 0.5_f64.cos()).exp();
    let expected = share * 64.0 * (1.0 + 0.5_f64.sin()) / size;
    let found: Vec<f64> = found.grad_features.iter().copied().collect();
    assert_close("∂X", &found[1..], &[expected], 1e-12);
    assert!(found[0].abs() <= 1e-12 * expected);
    Ok(())
}

/// Not a defect of the crate, but of a checker that forgets it: everything underflows to exact zeros, and stays finite.
#[test]
fn nothing_at_all() -> Result<(), Error> {
    let zeros = Array2::<f64>::zeros((3, 2));
    let out = SoftmaxLoss::new().evaluate(zeros.view(), zeros.view(), &sum(&[0, 1, 2]))?;
    assert_close("L", &[out.loss()], &[3.0 * 3.0_f64.ln()], 1e-15);
    assert!(
        out.grad_weights
            .iter()
            .chain(&out.grad_features)
            .all(|&g| g == 0.0)
    );
    Ok(())
}

/// Not a defect of the crate either: with equal rows, the rounding of the subnormal terms of the oracle's own sum adds up.
#[test]
fn sums_of_many_subnormal_terms() -> Result<(), Error> {
    let (rows, size) = (259, 8.900_295_434_028_806e-308);
    let features = Array2::from_elem((rows, 1), size);
    let weights = Array2::zeros((17, 1));
    let labels: Vec<usize> = (0..rows).map(|row| row % 17).collect();
    let out =
        SoftmaxLoss::new().evaluate(features.view(), weights.view(), &Targets::new(&labels))?;
    // Equal logits: ∂w_j = (1/17 − n_j/N) x, n_j of the N rows being of class j; in units of which nothing underflows.
    for (class, &found) in out.grad_weights.iter().enumerate() {
        let own = labels.iter().filter(|&&label| label == class).count();
        let share = 1.0 / 17.0 - own as f64 / rows as f64;
        let off = (found * 2.0_f64.powi(600) - share * (size * 2.0_f64.powi(600))).abs();
        let spacing = 5e-324 * 2.0_f64.powi(600);
        assert!(off <= 12.0 * spacing, "{found:e}, class {class}");
    }
    Ok(())
}

/// The derivative along the tangent overflowed where there is no tangent: infinity times zero, NaN in ∂W of a good answer.
#[test]
fn short_weights_parallel_to_their_feature() -> Result<(), Error> {
    let features = array![[1.0, 0.0]];
    let weights = array![[2.0_f64.powi(-1000), 0.0], [0.0, 1.0]];
    let loss = CombinedMargin::new(1e6, 100.0, 1.0, 0.0)?;
    let out = loss.evaluate(features.view(), weights.view(), &sum(&[0]))?;
    // cos 1 leads cos 90° by 540,000: nothing is left to learn, and at the pole the target pulls in no direction.
    assert!(
        out.grad_weights.iter().all(|&entry| entry == 0.0),
        "{out:?}"
    );
    assert!(
        out.grad_features.iter().all(|&entry| entry == 0.0),
        "{out:?}"
    );
    Ok(())
}

/// Tangents are unit vectors as long as the square of the angle is a normal number; below, and to the end of the range, they
/// are finite.
#[test]
fn angles_down_to_the_least_number() -> Result<(), Error> {
    // By the rule of the paper, the gradient has a limit at the angle π as well.
    let loss = ArcFace::new(64.0, 0.5)?.with_past_pi(PastPi::Paper);
    let tangential = |angle: f64, sign: f64| -> Result<[f64; 2], Error> {
        let features = array![[1.0, 0.0]];
        let weights = array![[sign, angle], [0.0, 1.0]];
        let out = loss.evaluate(features.view(), weights.view(), &sum(&[0]))?;
        Ok([out.grad_features[[0, 1]], out.grad_weights[[0, 1]]])
    };
    for sign in [1.0, -1.0] {
        let expected = tangential(1e-100, sign)?;
        for angle in [1e-120, 1e-140, 1e-150] {
            assert_close("∂", &tangential(angle, sign)?, &expected, 1e-14);
        }
        for angle in [1e-155, 1e-160, 1e-163, 1e-200, 1e-310] {
            let found = tangential(angle, sign)?;
            assert!(found.iter().all(|entry| entry.is_finite()), "{found:?}");
        }
    }
    Ok(())
}

/// The same between rows that are long: their gradient is tiny, and was lost beside a tangent made longer than it had to be.
#[test]
fn tiny_angles_of_long_rows() -> Result<(), Error> {
    let loss = ArcFace::new(64.0, 0.5)?;
    let long = 2.0_f64.powi(1000);
    let features = array![[1.0, 0.0]];
    let weights = array![[long, 2.0_f64.powi(540)], [1.0, 0.0]];
    let out = loss.evaluate(features.view(), weights.view(), &sum(&[0]))?;
    // The rival lies along x: p₁ = 1/(1 + e^(64 cos m − 64)), and ∂w₀ = p₁ · 64 sin m/‖w₀‖ away from x.
    let share = 1.0 / (1.0 + (64.0 * 0.5_f64.cos() - 64.0).exp());
    let expected = share * 64.0 * 0.5_f64.sin() / long;
    assert_close("∂w₀", &[out.grad_weights[[0, 1]]], &[expected], 1e-12);
    Ok(())
}

/// A center loss was refused where the square of a distance is too large for `f64`, however small λ.
#[test]
fn distances_whose_squares_overflow() -> Result<(), Error> {
    // One class, which the classifier is certain of.
    let weights = array![[0.0, 1.0]];
    let centers = array![[0.0, 0.0]];
    for (lambda, distance, expected) in [
        (0.0, 1e200, 0.0),
        (1e-100, 1e200, 0.5e300),
        (4e-100, 1e160, 2e220),
        (1e100, 1e-170, 0.5e-240),
    ] {
        let joint = JointLoss::new(NormFace::new(4.0)?, centers.view(), lambda)?;
        let features = array![[0.0, distance]];
        let out = joint.evaluate(features.view(), weights.view(), &sum(&[0]))?;
        assert_close("L", &[out.loss()], &[expected], 1e-14);
        let pulled = [out.grad_features[[0, 1]], out.grad_centers[[0, 1]]];
        let pull = lambda * distance;
        assert_close("∂x, ∂c", &pulled, &[pull, -pull], 1e-14);
    }
    Ok(())
}

/// The bound of ∂X was capped where `f64` could not hold it, and ∂X came out infinite.
#[test]
fn long_class_weights_that_add_up() -> Result<(), Error> {
    let features = array![[1e-307_f64]];
    for (weights, expected) in [
        ([[1.7e308], [-0.7e308]], None),
        ([[1.7e308], [-0.02e308]], Some(1.72e308)),
    ] {
        let weights = Array2::from(weights.to_vec());
        let found = SoftmaxLoss::new().evaluate(features.view(), weights.view(), &sum(&[1]));
        match expected {
            None => {
                let overflow = Error::Overflow {
                    quantity: "gradient",
                    argument: Argument::Features,
                    row: 0,
                };
                assert_eq!(found.unwrap_err(), overflow);
            }
            // p₀ is 1 to 1e-7.
            Some(expected) => {
                assert_close("∂x", &[found?.grad_features[[0, 0]]], &[expected], 1e-6);
            }
        }
    }
    Ok(())
}
