//! Images with labels, and their division into a training and a held-out part.

use std::path::Path;

use margin_losses::ndarray::Array2;
use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::SliceRandom;

use super::idx;

/// Images with one label each. The pixels stay bytes, so that MNIST takes 47 MB.
#[derive(Debug)]
pub(crate) struct Dataset {
    pixels: Vec<u8>,
    labels: Vec<usize>,
    /// How many pixels an image has.
    pub(crate) width: usize,
    /// One more than the largest label.
    pub(crate) classes: usize,
    /// What one step of a pixel's byte is worth: the brightest pixel of all becomes 1.
    step: f32,
}

/// The indices of the training images and of the held-out ones.
#[derive(Debug)]
pub(crate) struct Split {
    pub(crate) train: Vec<usize>,
    pub(crate) held_out: Vec<usize>,
}

impl Dataset {
    /// Reads a pair of IDX files.
    pub(crate) fn read(images: &Path, labels: &Path) -> Result<Self, String> {
        let image_file = idx::read(images, 3)?;
        let label_file = idx::read(labels, 1)?;
        let [count, width] = [
            image_file.sizes[0],
            image_file.sizes[1] * image_file.sizes[2],
        ];
        if count != label_file.values.len() {
            return Err(format!(
                "{count} images in {}, but {} labels in {}",
                images.display(),
                label_file.values.len(),
                labels.display()
            ));
        }
        let brightest = image_file.values.iter().copied().max().unwrap_or(0);
        if brightest == 0 {
            return Err(format!("{}: there is no image in it", images.display()));
        }
        let labels: Vec<usize> = label_file.values.into_iter().map(usize::from).collect();
        Ok(Self {
            classes: labels.iter().max().map_or(0, |&label| label + 1),
            pixels: image_file.values,
            labels,
            width,
            step: 1.0 / f32::from(brightest),
        })
    }

    /// These images as the rows of a matrix.
    pub(crate) fn images(&self, indices: &[usize]) -> Array2<f32> {
        Array2::from_shape_fn((indices.len(), self.width), |(row, pixel)| {
            f32::from(self.pixels[indices[row] * self.width + pixel]) * self.step
        })
    }

    /// The labels of these images.
    pub(crate) fn labels(&self, indices: &[usize]) -> Vec<usize> {
        indices.iter().map(|&index| self.labels[index]).collect()
    }

    /// Three quarters for training, one held out, drawn at random.
    ///
    /// The held-out part must have two images of one class and two classes, or there would be no pairs to verify.
    pub(crate) fn split(&self, generator: &mut Xoshiro256PlusPlus) -> Result<Split, String> {
        let mut train: Vec<usize> = (0..self.labels.len()).collect();
        train.shuffle(generator);
        let held_out = train.split_off(train.len() - train.len() / 4);

        let mut counts = vec![0_usize; self.classes];
        for label in self.labels(&held_out) {
            counts[label] += 1;
        }
        let present = counts.iter().filter(|&&count| count > 0).count();
        if present < 2 || counts.iter().all(|&count| count < 2) {
            return Err(format!(
                "the held-out quarter of {} images has no pair of one class, or none of two",
                self.labels.len()
            ));
        }
        Ok(Split { train, held_out })
    }
}
