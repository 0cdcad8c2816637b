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
    /// What is subtracted from each pixel; nothing unless the images are centred.
    mean: Vec<f32>,
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
        let labels_found = idx::read_labels(labels)?;
        let [count, width] = [
            image_file.sizes[0],
            image_file.sizes[1] * image_file.sizes[2],
        ];
        if count != labels_found.len() {
            return Err(format!(
                "{count} images in {}, but {} labels in {}",
                images.display(),
                labels_found.len(),
                labels.display()
            ));
        }
        let brightest = image_file.values.iter().copied().max().unwrap_or(0);
        if brightest == 0 {
            return Err(format!("{}: there is no image in it", images.display()));
        }
        Ok(Self {
            classes: labels_found.iter().max().map_or(0, |&label| label + 1),
            pixels: image_file.values,
            labels: labels_found,
            mean: vec![0.0; width],
            width,
            step: 1.0 / f32::from(brightest),
        })
    }

    /// The same with the mean of all images subtracted from each.
    #[allow(dead_code)] // `collapse` alone calls it
    pub(crate) fn centred(mut self) -> Self {
        let all: Vec<usize> = (0..self.labels.len()).collect();
        let mut sums = vec![0.0_f64; self.width];
        for chunk in all.chunks(1024) {
            for image in self.images(chunk).rows() {
                for (sum, &pixel) in sums.iter_mut().zip(image) {
                    *sum += f64::from(pixel);
                }
            }
        }
        let count = all.len() as f64;
        for (mean, sum) in self.mean.iter_mut().zip(sums) {
            *mean += (sum / count) as f32;
        }
        self
    }

    /// These images as the rows of a matrix.
    pub(crate) fn images(&self, indices: &[usize]) -> Array2<f32> {
        Array2::from_shape_fn((indices.len(), self.width), |(row, pixel)| {
            let byte = self.pixels[indices[row] * self.width + pixel];
            f32::from(byte) * self.step - self.mean[pixel]
        })
    }

    /// How many images there are.
    #[allow(dead_code)] // `characters` alone calls it
    pub(crate) fn len(&self) -> usize {
        self.labels.len()
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
