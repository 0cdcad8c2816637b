//! A multilayer perceptron with batch normalisation last, its backward pass, and stochastic gradient descent.
//!
//! Its layers are rectified between, batch-normalised after, and if need be between too. The normalisation keeps the embeddings centred at the
//! origin, so that their directions can use the whole sphere: what every loss of angles needs.

use margin_losses::ndarray::{Array1, Array2, ArrayView2, Axis, Zip};
use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;

const MOMENTUM: f32 = 0.9;
/// How much of each batch enters the running statistics.
const RUNNING_SHARE: f32 = 0.1;
/// Keeps the inverse deviation of a constant column finite.
const VARIANCE_FLOOR: f32 = 1e-5;

/// A learnable matrix, with the velocity that momentum gives it. Vectors are matrices of one row.
#[derive(Clone, Debug)]
pub(crate) struct Parameter {
    pub(crate) value: Array2<f32>,
    velocity: Array2<f32>,
}

impl Parameter {
    pub(crate) fn new(value: Array2<f32>) -> Self {
        Self {
            velocity: Array2::zeros(value.raw_dim()),
            value,
        }
    }

    /// One step of stochastic gradient descent with momentum.
    pub(crate) fn descend(&mut self, gradient: &Array2<f32>, rate: f32) {
        Zip::from(&mut self.value)
            .and(&mut self.velocity)
            .and(gradient)
            .for_each(|value, velocity, &gradient| {
                *velocity = MOMENTUM * *velocity + gradient;
                *value -= rate * *velocity;
            });
    }
}

/// A fully connected layer, `x Wᵀ + b`.
#[derive(Clone, Debug)]
struct Linear {
    weight: Parameter,
    bias: Parameter,
}

impl Linear {
    /// PyTorch's default, uniform within 1/√inputs, for the weights; biases are zero.
    fn new(inputs: usize, outputs: usize, generator: &mut Xoshiro256PlusPlus) -> Self {
        let bound = (inputs as f32).sqrt().recip();
        let weight = Array2::from_shape_simple_fn((outputs, inputs), || {
            generator.random_range(-bound..bound)
        });
        Self {
            weight: Parameter::new(weight),
            bias: Parameter::new(Array2::zeros((1, outputs))),
        }
    }

    fn forward(&self, input: ArrayView2<'_, f32>) -> Array2<f32> {
        input.dot(&self.weight.value.t()) + &self.bias.value
    }
}

/// Batch normalisation (Ioffe and Szegedy 2015): the batch's statistics in training, running ones in evaluation.
#[derive(Clone, Debug)]
struct BatchNorm {
    gain: Parameter,
    shift: Parameter,
    running_mean: Array1<f32>,
    running_variance: Array1<f32>,
}

/// What the backward pass of the batch normalisation needs of the forward pass.
#[derive(Debug)]
struct Normalised {
    values: Array2<f32>,
    inverse_deviation: Array1<f32>,
}

impl BatchNorm {
    fn new(width: usize) -> Self {
        Self {
            gain: Parameter::new(Array2::ones((1, width))),
            shift: Parameter::new(Array2::zeros((1, width))),
            running_mean: Array1::zeros(width),
            running_variance: Array1::ones(width),
        }
    }

    fn normalise(input: &Array2<f32>, mean: &Array1<f32>, variance: &Array1<f32>) -> Normalised {
        let inverse_deviation =
            variance.mapv(|variance| (variance + VARIANCE_FLOOR).sqrt().recip());
        Normalised {
            values: (input - mean) * &inverse_deviation,
            inverse_deviation,
        }
    }

    fn scale(&self, normalised: &Normalised) -> Array2<f32> {
        &normalised.values * &self.gain.value + &self.shift.value
    }

    fn train(&mut self, input: &Array2<f32>) -> (Array2<f32>, Normalised) {
        let rows = input.nrows() as f32;
        let mean = input.sum_axis(Axis(0)) / rows;
        let variance = (input - &mean)
            .mapv(|deviation| deviation * deviation)
            .sum_axis(Axis(0))
            / rows;

        let normalised = Self::normalise(input, &mean, &variance);
        // The running variance estimates that of the population, hence Bessel's correction.
        let unbiased = variance * (rows / (rows - 1.0));
        self.running_mean = &self.running_mean * (1.0 - RUNNING_SHARE) + mean * RUNNING_SHARE;
        self.running_variance =
            &self.running_variance * (1.0 - RUNNING_SHARE) + unbiased * RUNNING_SHARE;
        (self.scale(&normalised), normalised)
    }

    fn evaluate(&self, input: &Array2<f32>) -> Array2<f32> {
        self.scale(&Self::normalise(
            input,
            &self.running_mean,
            &self.running_variance,
        ))
    }

    /// The gradients of the input, the gain and the shift.
    ///
    /// Mean and variance are functions of the batch too: the gradient loses its mean and its part along the output.
    fn backward(&self, normalised: &Normalised, gradient: &Array2<f32>) -> [Array2<f32>; 3] {
        let rows = gradient.nrows() as f32;
        let grad_shift = gradient.sum_axis(Axis(0)).insert_axis(Axis(0));
        let grad_gain = (gradient * &normalised.values)
            .sum_axis(Axis(0))
            .insert_axis(Axis(0));
        let centred = gradient - &(&grad_shift / rows) - &normalised.values * &(&grad_gain / rows);
        let grad_input = centred * &self.gain.value * &normalised.inverse_deviation;
        [grad_input, grad_gain, grad_shift]
    }
}

/// A fully connected layer, and the normalisation of its output, if it has one.
#[derive(Clone, Debug)]
struct Layer {
    linear: Linear,
    norm: Option<BatchNorm>,
}

/// The network that makes an embedding of an image.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    layers: Vec<Layer>,
}

/// What the backward pass needs of the forward pass: of each layer its input, and its normalised output.
#[derive(Debug)]
pub(crate) struct Trace(Vec<(Array2<f32>, Option<Normalised>)>);

impl Network {
    /// A network of these widths, from the pixels to the dimension of the embedding.
    pub(crate) fn new(widths: &[usize], generator: &mut Xoshiro256PlusPlus) -> Self {
        let mut network = Self {
            layers: widths
                .windows(2)
                .map(|pair| Layer {
                    linear: Linear::new(pair[0], pair[1], generator),
                    norm: None,
                })
                .collect(),
        };
        if let Some(last) = network.layers.last_mut() {
            last.normalise();
        }
        network
    }

    /// The same with weights that are so many times as large.
    #[allow(dead_code)] // `collapse` does not call it
    pub(crate) fn with_larger_weights(mut self, factor: f32) -> Self {
        for layer in &mut self.layers {
            layer.linear.weight.value *= factor;
        }
        self
    }

    /// The same without its normalisation: the embedding is the last layer's output, wherever that lies.
    #[allow(dead_code)] // `collapse` alone calls it
    pub(crate) fn without_normalisation(mut self) -> Self {
        for layer in &mut self.layers {
            layer.norm = None;
        }
        self
    }

    /// The same with the output of every layer normalised, before it is rectified.
    #[allow(dead_code)] // `characters` alone calls it
    pub(crate) fn with_normalised_layers(mut self) -> Self {
        self.layers.iter_mut().for_each(Layer::normalise);
        self
    }

    /// The embeddings of a training batch of at least two images.
    pub(crate) fn forward(&mut self, images: Array2<f32>) -> (Array2<f32>, Trace) {
        let mut trace = Vec::new();
        let mut activations = images;
        for (index, layer) in self.layers.iter_mut().enumerate() {
            if index > 0 {
                rectify(&mut activations);
            }
            let output = layer.linear.forward(activations.view());
            let (output, normalised) = match &mut layer.norm {
                Some(norm) => {
                    let (output, normalised) = norm.train(&output);
                    (output, Some(normalised))
                }
                None => (output, None),
            };
            trace.push((std::mem::replace(&mut activations, output), normalised));
        }
        (activations, Trace(trace))
    }

    /// The embeddings that the trained network gives, each whatever the others in the batch.
    pub(crate) fn embed(&self, images: Array2<f32>) -> Array2<f32> {
        let mut activations = images;
        for (index, layer) in self.layers.iter().enumerate() {
            if index > 0 {
                rectify(&mut activations);
            }
            let output = layer.linear.forward(activations.view());
            activations = match &layer.norm {
                Some(norm) => norm.evaluate(&output),
                None => output,
            };
        }
        activations
    }

    /// The gradients of all parameters, in the order of [`parameters`](Self::parameters).
    pub(crate) fn backward(&self, trace: &Trace, gradient: &Array2<f32>) -> Vec<Array2<f32>> {
        let Trace(trace) = trace;
        let mut gradient = gradient.clone();
        let mut gradients = Vec::new();
        for (index, (layer, (input, normalised))) in self.layers.iter().zip(trace).enumerate().rev()
        {
            if let (Some(norm), Some(normalised)) = (&layer.norm, normalised) {
                let [of_output, grad_gain, grad_shift] = norm.backward(normalised, &gradient);
                gradients.extend([grad_shift, grad_gain]);
                gradient = of_output;
            }
            gradients.push(gradient.sum_axis(Axis(0)).insert_axis(Axis(0)));
            gradients.push(gradient.t().dot(input));
            if index > 0 {
                gradient = gradient.dot(&layer.linear.weight.value);
                // The input of this layer is rectified: where it is zero, nothing flows back.
                Zip::from(&mut gradient)
                    .and(input)
                    .for_each(|gradient, &input| {
                        if input <= 0.0 {
                            *gradient = 0.0;
                        }
                    });
            }
        }
        gradients.reverse();
        gradients
    }

    /// All parameters: of each layer weight and bias, then gain and shift of its normalisation, if there is one.
    pub(crate) fn parameters(&mut self) -> impl Iterator<Item = &mut Parameter> {
        self.layers.iter_mut().flat_map(|layer| {
            let Layer { linear, norm } = layer;
            [&mut linear.weight, &mut linear.bias].into_iter().chain(
                norm.iter_mut()
                    .flat_map(|norm| [&mut norm.gain, &mut norm.shift]),
            )
        })
    }
}

impl Layer {
    /// Has its output normalised.
    fn normalise(&mut self) {
        self.norm = Some(BatchNorm::new(self.linear.weight.value.nrows()));
    }
}

fn rectify(activations: &mut Array2<f32>) {
    activations.mapv_inplace(|value| value.max(0.0));
}

#[cfg(test)]
mod tests;
