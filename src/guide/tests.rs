//! The tables of the papers, and the bounds against random search.

use super::*;

fn close(found: f64, expected: f64, tolerance: f64) {
    assert!(
        (found - expected).abs() <= tolerance * expected.abs().max(f64::MIN_POSITIVE),
        "{found} is not {expected}"
    );
}

/// The published bounds are printed with few digits.
fn rounds_to(found: f64, expected: f64, unit: f64) {
    assert!(
        (found - expected).abs() <= 0.5 * unit,
        "{found} is not {expected}"
    );
}

#[test]
fn scales_of_cos_face_equation_6() {
    let probabilities = [0.5, 0.9, 0.99, 0.999];
    let rows = [
        (10, [1.9775, 3.9550, 6.1131, 8.1936]),
        (1000, [6.8998, 9.0949, 11.4904, 13.7997]),
        (10_575, [9.2653, 11.4623, 13.8600, 16.1714]),
        (85_742, [11.3590, 13.5562, 15.9540, 18.2656]),
    ];
    for (classes, scales) in rows {
        for (probability, scale) in probabilities.into_iter().zip(scales) {
            rounds_to(
                suggested_scale(classes, probability).unwrap(),
                scale,
                1.1e-4,
            );
        }
    }
}

#[test]
fn probability_is_the_inverse_of_scale() {
    for classes in [2, 3, 10, 10_575, 1_000_000_000] {
        let chance = 1.0 / classes as f64;
        for odds in [1e-9, 0.1, 0.5, 0.9, 0.999, 1.0 - 1e-12] {
            let probability = chance + (1.0 - chance) * odds;
            let scale = suggested_scale(classes, probability).unwrap();
            close(
                target_probability(classes, scale).unwrap(),
                probability,
                1e-13,
            );
        }
    }
    // Just above chance, where C·P − 1 is all that is left: s = (C−1)/C · ln(1 + ε C/(1−P)).
    close(
        suggested_scale(2, 0.5 + f64::EPSILON).unwrap(),
        2.0 * f64::EPSILON,
        1e-9,
    );
}

#[test]
fn ada_cos_scale_makes_45_degrees_even_odds() {
    let scale = adacos_scale(1001).unwrap();
    close(
        initial_loss(1001, scale, (PI / 4.0).cos()).unwrap(),
        2.0_f64.ln(),
        1e-14,
    );
}

#[test]
fn lower_bounds_of_norm_face_proposition_2() {
    let scales = [1.0, 4.0, 10.0, 16.0, 20.0];
    let rows = [
        (2, [0.126_928, 0.000_335, 0.0, 0.0, 0.0]),
        (10, [1.376_935, 0.100_472, 0.000_134, 0.0, 0.0]),
        (
            1000,
            [5.908_474, 2.956_170, 0.043_924, 0.000_111, 0.000_002],
        ),
        (
            10_575,
            [8.266_316, 5.270_927, 0.391_775, 0.001_187, 0.000_022],
        ),
        (
            85_742,
            [10.359_106, 7.359_676, 1.587_638, 0.009_601, 0.000_177],
        ),
    ];
    for (classes, bounds) in rows {
        for (scale, bound) in scales.into_iter().zip(bounds) {
            rounds_to(
                norm_face_lower_bound(classes, scale).unwrap(),
                bound,
                1.1e-6,
            );
        }
    }
    rounds_to(
        norm_face_lower_bound(5, 1.0).unwrap(),
        0.763_614_585_194,
        1e-12,
    );
    rounds_to(norm_face_lower_bound(10, 10.0).unwrap(), 1.34499e-4, 1.1e-9);
    // Two classes at the largest gap: 2s = 128, where e^−128 next to 1 is nothing.
    close(
        norm_face_lower_bound(2, 64.0).unwrap(),
        (-128.0_f64).exp(),
        1e-13,
    );
}

#[test]
fn initial_losses() {
    let rows = [
        (10, [24.5972, 32.8805, 12.6972]),
        (10_575, [31.6662, 39.9494, 19.7662]),
        (85_742, [33.7591, 42.0423, 21.8591]),
    ];
    let settings = [(64.0, -0.35), (64.0, -(0.5_f64.sin())), (30.0, -0.35)];
    for (classes, losses) in rows {
        for ((scale, target_logit), loss) in settings.into_iter().zip(losses) {
            rounds_to(
                initial_loss(classes, scale, target_logit).unwrap(),
                loss,
                1.1e-4,
            );
        }
    }
    for classes in [2, 10, 1_000_000_000] {
        let found = initial_loss(classes, 64.0, 0.0).unwrap();
        close(found, (classes as f64).ln(), 1e-15);
    }
    close(initial_loss(1_000_000_000, 1e6, -1e6).unwrap(), 1e12, 1e-10);
}

#[test]
fn margins_where_the_best_arrangement_is_known() {
    let plane = |classes: f64| 1.0 - (2.0 * PI / classes).cos();
    // (C, d, 1 − largest cosine): simplex, polygons, cross-polytopes, then table 1 of Cohn and Kumar.
    let rows = [
        (2, 1, 2.0),
        (2, 512, 2.0),
        (3, 2, 1.5),
        (513, 512, 513.0 / 512.0),
        (3, 1, 0.0),
        (4, 2, 1.0),
        (8, 2, plane(8.0)),
        (100, 2, plane(100.0)),
        (514, 512, 1.0),
        (1024, 512, 1.0),
        (12, 3, 1.0 - 1.0 / 5.0_f64.sqrt()),
        (16, 5, 4.0 / 5.0),
        (27, 6, 3.0 / 4.0),
        (56, 7, 2.0 / 3.0),
        (240, 8, 1.0 / 2.0),
        (162, 21, 6.0 / 7.0),
        (100, 22, 10.0 / 11.0),
        (275, 22, 5.0 / 6.0),
        (891, 22, 3.0 / 4.0),
        (552, 23, 4.0 / 5.0),
        (4600, 23, 2.0 / 3.0),
        (196_560, 24, 1.0 / 2.0),
    ];
    for (classes, dim, margin) in rows {
        let found = largest_cosine_margin(classes, dim).unwrap();
        assert!(
            (found - margin).abs() <= 1e-14,
            "C={classes} d={dim}: {found}"
        );
        let angle = (1.0 - margin).acos();
        close(largest_angular_margin(classes, dim).unwrap(), angle, 1e-10);
    }
}

#[test]
fn margins_are_bounds_elsewhere() {
    // The best arrangements known in 3 dimensions, in degrees (Tammes' problem); the 24-cell and the 600-cell.
    let rows = [
        (7, 3, 77.87),
        (8, 3, 74.86),
        (9, 3, 70.53),
        (10, 3, 66.15),
        (24, 3, 43.69),
        (24, 4, 60.0),
        (120, 4, 36.0),
    ];
    for (classes, dim, best) in rows {
        let bound = largest_angular_margin(classes, dim).unwrap().to_degrees();
        assert!(
            bound >= best && bound <= 1.06 * best,
            "C={classes} d={dim}: {bound}"
        );
    }
    // More classes never leave more room, more dimensions never less.
    for dim in [3, 4, 8, 64, 512] {
        let mut last = 2.0;
        for exponent in 2..=60 {
            let classes = 2.0_f64.powf(f64::from(exponent) / 2.0) as usize;
            let margin = largest_cosine_margin(classes, dim).unwrap();
            assert!(
                margin > 0.0 && margin <= last,
                "C={classes} d={dim}: {margin}"
            );
            assert!(margin <= largest_cosine_margin(classes, dim + 1).unwrap());
            last = margin;
        }
    }
    // A thousand million caps on a sphere are nearly a hexagonal packing of the plane: 1 − cos = 4π/(√3 C).
    let hexagonal = 4.0 * PI / (3.0_f64.sqrt() * 1e9);
    let found = largest_cosine_margin(1_000_000_000, 3).unwrap();
    assert!(found >= hexagonal && found <= 1.02 * hexagonal, "{found}");
}

/// The mean of the paper's loss over one feature of each class, with `cos(θ + m)` taken literally.
fn arc_face(features: &[Vec<f64>], weights: &[Vec<f64>], scale: f64, margin: f64) -> f64 {
    let cosine = |a: &[f64], b: &[f64]| {
        let dot: f64 = a.iter().zip(b).map(|(a, b)| a * b).sum();
        let norms = |v: &[f64]| v.iter().map(|v| v * v).sum::<f64>().sqrt();
        (dot / (norms(a) * norms(b))).clamp(-1.0, 1.0)
    };
    let row = |(label, x): (usize, &Vec<f64>)| {
        let target = (cosine(x, &weights[label]).acos() + margin).cos();
        let other = |j: usize| (scale * (cosine(x, &weights[j]) - target)).exp();
        let sum: f64 = (0..weights.len()).filter(|&j| j != label).map(other).sum();
        sum.ln_1p()
    };
    features.iter().enumerate().map(row).sum::<f64>() / features.len() as f64
}

#[test]
fn arc_face_bound_is_the_infimum() {
    let mut state = 1_u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
    };
    for classes in 2..=6_usize {
        // The corners of a simplex, centered on the origin of `classes` dimensions.
        let corner = |i: usize, j: usize| f64::from(u8::from(i == j)) - 1.0 / classes as f64;
        let simplex: Vec<Vec<f64>> = (0..classes)
            .map(|i| (0..classes).map(|j| corner(i, j)).collect())
            .collect();
        let together = vec![simplex[0].clone(); classes];
        let opposite = vec![simplex[0].iter().map(|v| -v).collect(); classes];
        for margin in [0.0, 0.3, 0.5, 1.0, 1.2, 1.5, 2.0, 3.0] {
            for scale in [1.0, 8.0, 64.0] {
                let bound = arc_face_lower_bound(classes, scale, margin).unwrap();
                let separated = arc_face(&simplex, &simplex, scale, margin);
                let collapsed = arc_face(&opposite, &together, scale, margin);
                // As near as an arc cosine at its pole can tell.
                close(separated.min(collapsed), bound, 1e-5);
                for step in [1e-3, 0.1, 1.0, 10.0] {
                    let mut near = |rows: &[Vec<f64>]| -> Vec<Vec<f64>> {
                        let moved =
                            |row: &Vec<f64>| row.iter().map(|v| v + step * next()).collect();
                        rows.iter().map(moved).collect()
                    };
                    for (x, w) in [(&simplex, &simplex), (&opposite, &together)].repeat(10) {
                        let loss = arc_face(&near(x), &near(w), scale, margin);
                        assert!(loss >= bound * (1.0 - 1e-9), "{loss} below {bound}");
                    }
                }
            }
        }
    }
}

#[test]
fn bounds_agree_where_losses_do() {
    for (classes, scale) in [(2, 1.0), (10, 16.0), (1_000_000_000, 64.0)] {
        let plain = norm_face_lower_bound(classes, scale).unwrap();
        assert_eq!(cos_face_lower_bound(classes, scale, 0.0).unwrap(), plain);
        close(
            arc_face_lower_bound(classes, scale, 0.0).unwrap(),
            plain,
            1e-12,
        );
        assert!(row_lower_bound(classes, scale, 1.0).unwrap() <= plain);
    }
    // With two classes, a row is as good as the data set.
    close(
        row_lower_bound(2, 3.0, 0.65).unwrap(),
        cos_face_lower_bound(2, 3.0, 0.35).unwrap(),
        1e-12,
    );
}

#[test]
fn bad_arguments_are_named() {
    let name = |result: Result<f64, Error>| match result.unwrap_err() {
        Error::Parameter { name, .. } => name,
        other => panic!("{other}"),
    };
    assert_eq!(name(suggested_scale(1, 0.9)), "classes");
    for probability in [0.0, 0.09, 1.0, 1.5, -1.0, f64::NAN, f64::INFINITY] {
        assert_eq!(name(suggested_scale(10, probability)), "target_probability");
    }
    assert_eq!(name(adacos_scale(2)), "classes");
    assert_eq!(name(largest_cosine_margin(1, 2)), "classes");
    assert_eq!(name(largest_angular_margin(2, 0)), "dim");
    for scale in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert_eq!(name(target_probability(10, scale)), "scale");
        assert_eq!(name(norm_face_lower_bound(10, scale)), "scale");
        assert_eq!(name(initial_loss(10, scale, 0.0)), "scale");
    }
    for margin in [-0.1, 3.2, f64::NAN, f64::INFINITY] {
        assert_eq!(name(cos_face_lower_bound(10, 1.0, margin)), "margin");
        assert_eq!(name(arc_face_lower_bound(10, 1.0, margin)), "margin");
        assert_eq!(name(row_lower_bound(10, 1.0, margin * 1e8)), "target_logit");
    }
}
