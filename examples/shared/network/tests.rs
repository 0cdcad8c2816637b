//! The backward pass against central differences of the forward pass.

use margin_losses::ndarray::{Array2, Zip};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use super::{BatchNorm, Network};

/// In single precision, differences are worth three digits.
const TOLERANCE: f64 = 1e-2;

fn uniform(shape: (usize, usize), generator: &mut Xoshiro256PlusPlus) -> Array2<f32> {
    Array2::from_shape_simple_fn(shape, || generator.random_range(-1.0..1.0))
}

fn dot(one: &Array2<f32>, other: &Array2<f32>) -> f64 {
    Zip::from(one)
        .and(other)
        .fold(0.0, |sum, &a, &b| sum + f64::from(a) * f64::from(b))
}

/// How far `gradient` is from the central difference of `loss` along a random direction, as a share of its norm.
fn discrepancy(
    gradient: &Array2<f32>,
    generator: &mut Xoshiro256PlusPlus,
    loss: impl Fn(&Array2<f32>) -> f64,
) -> f64 {
    let step = 3e-4;
    let direction = uniform(gradient.dim(), generator).mapv(f32::signum);
    let difference = loss(&(&direction * step)) - loss(&(&direction * -step));
    let expected = difference / (2.0 * f64::from(step));
    (dot(gradient, &direction) - expected).abs() / dot(gradient, gradient).sqrt()
}

#[test]
fn every_parameter_agrees_with_differences() {
    let mut generator = Xoshiro256PlusPlus::seed_from_u64(1);
    let mut network = Network::new(&[9, 8, 6, 4], &mut generator);
    // Biases start at zero, where an image that opens no rectifier sits exactly on the kinks of the next layer.
    for parameter in network.parameters() {
        let shape = parameter.value.dim();
        parameter.value += &uniform(shape, &mut generator);
    }
    let images = uniform((12, 9), &mut generator);
    // The loss: a fixed, random linear function of the embeddings, squared entry by entry so as not to be linear.
    let probe = uniform((12, 4), &mut generator);
    let (embeddings, trace) = network.forward(images.clone());
    let gradients = network.backward(&trace, &(&probe * &embeddings * 2.0));
    assert_eq!(gradients.len(), network.parameters().count());

    for (index, gradient) in gradients.iter().enumerate() {
        let loss = |shift: &Array2<f32>| {
            let mut moved = network.clone();
            moved.parameters().nth(index).unwrap().value += shift;
            let (embeddings, _) = moved.forward(images.clone());
            dot(&probe, &(&embeddings * &embeddings))
        };
        // The bias before the normalisation is subtracted again with the mean: its gradient is zero, and is left out.
        if index != 5 {
            for _ in 0..3 {
                let found = discrepancy(gradient, &mut generator, loss);
                assert!(found < TOLERANCE, "parameter {index}: {found}");
            }
        }
    }
}

#[test]
fn without_normalisation_too() {
    let mut generator = Xoshiro256PlusPlus::seed_from_u64(4);
    let mut network = Network::new(&[9, 8, 4], &mut generator).without_normalisation();
    let images = uniform((12, 9), &mut generator);
    let probe = uniform((12, 4), &mut generator);
    let (embeddings, trace) = network.forward(images.clone());
    assert_eq!(network.embed(images.clone()), embeddings);
    let gradients = network.backward(&trace, &(&probe * &embeddings * 2.0));
    assert_eq!(gradients.len(), 4);
    for (index, gradient) in gradients.iter().enumerate() {
        let found = discrepancy(gradient, &mut generator, |shift| {
            let mut moved = network.clone();
            moved.parameters().nth(index).unwrap().value += shift;
            let embeddings = moved.embed(images.clone());
            dot(&probe, &(&embeddings * &embeddings))
        });
        assert!(found < TOLERANCE, "parameter {index}: {found}");
    }
}

/// The check can fail: a backward pass that takes the batch's statistics for constants is found out.
#[test]
fn constant_statistics_are_found_out() {
    let mut generator = Xoshiro256PlusPlus::seed_from_u64(2);
    let input = uniform((8, 3), &mut generator);
    let probe = uniform((8, 3), &mut generator);
    let mut norm = BatchNorm::new(3);
    norm.gain.value = uniform((1, 3), &mut generator);
    let (_, normalised) = norm.train(&input);
    let loss = |shift: &Array2<f32>| dot(&probe, &norm.clone().train(&(&input + shift)).0);

    let [right, _, _] = norm.backward(&normalised, &probe);
    let wrong = &probe * &norm.gain.value * &normalised.inverse_deviation;
    for _ in 0..3 {
        assert!(discrepancy(&right, &mut generator, loss) < TOLERANCE);
        assert!(discrepancy(&wrong, &mut generator, loss) > 10.0 * TOLERANCE);
    }
}

#[test]
fn evaluation_uses_the_running_statistics() {
    let mut generator = Xoshiro256PlusPlus::seed_from_u64(3);
    // Outputs whose variance is far above the floor.
    let mut network = Network::new(&[5, 4, 3], &mut generator).with_larger_weights(3.0);
    let images = uniform((16, 5), &mut generator);
    // The same batch again and again, until the running statistics are those of the batch.
    for _ in 0..300 {
        network.forward(images.clone());
    }
    let (expected, _) = network.forward(images.clone());
    let bessel = (15.0_f32 / 16.0).sqrt();
    let found = network.embed(images);
    assert!(
        (found - expected * bessel)
            .iter()
            .all(|error| error.abs() < 1e-4)
    );
}
