//! The images to train on: with wrong labels, with a long tail, and distorted.

use margin_losses::ndarray::{Array2, ArrayViewMut1};
use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::SliceRandom;

use crate::shared::dataset::Dataset;
use crate::shared::training::{self, Purpose};

/// The classes that are trained on; the others are to be verified.
pub(crate) const TRAINED: usize = 800;
/// How many images the rarest class of the long tail has.
const RAREST: usize = 2;
/// How many images the rare classes have at the most.
pub(crate) const RARE: usize = 5;
/// How far each entry of the matrix of a distortion is off that of the identity, and how far it shifts, in pixels, at the most.
const BENT: f32 = 0.1;
const SHIFTED: f32 = 1.0;

/// How the training images differ from those of the files.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Change {
    /// The share of images with a wrong label.
    pub(crate) noise: f64,
    /// Whether classes have from all images down to two.
    pub(crate) long_tail: bool,
}

/// Indices of images, and the labels that are told to the training.
#[derive(Debug)]
pub(crate) struct Training {
    pub(crate) images: Vec<usize>,
    pub(crate) labels: Vec<usize>,
    /// Images of these classes that a long tail leaves out.
    pub(crate) left_out: Vec<usize>,
}

/// The images that belong to classes of the training, and the others.
pub(crate) fn divided(dataset: &Dataset) -> [Vec<usize>; 2] {
    let all: Vec<usize> = (0..dataset.len()).collect();
    let (trained, others) = all
        .into_iter()
        .partition(|&image| dataset.labels(&[image])[0] < TRAINED);
    [trained, others]
}

impl Training {
    /// The images of a seed, the same for all losses.
    pub(crate) fn new(dataset: &Dataset, change: Change, seed: u64) -> Self {
        let mut generator = training::generator(seed, Purpose::Split);
        let [mut images, _] = divided(dataset);
        images.shuffle(&mut generator);
        let mut left_out = Vec::new();
        if change.long_tail {
            let mut seen = vec![0; TRAINED];
            let all = dataset.len() / dataset.classes;
            (images, left_out) = images.into_iter().partition(|&image| {
                let class = dataset.labels(&[image])[0];
                seen[class] += 1;
                seen[class] <= in_long_tail(class, all)
            });
        }
        let mut labels = dataset.labels(&images);
        let wrong = (change.noise * labels.len() as f64).round() as usize;
        for label in labels.iter_mut().take(wrong) {
            // Any class but the right one.
            *label = (*label + generator.random_range(1..TRAINED)) % TRAINED;
        }
        Self {
            images,
            labels,
            left_out,
        }
    }

    /// How many images each class is said to have. A class that lost all to wrong labels counts as one image.
    pub(crate) fn counts(&self) -> Vec<usize> {
        let mut counts = vec![0; TRAINED];
        for &label in &self.labels {
            counts[label] += 1;
        }
        counts
            .into_iter()
            .map(|count: usize| count.max(1))
            .collect()
    }
}

/// How many of all its images a class has in the long tail: fewer by the same factor from class to class.
fn in_long_tail(class: usize, all: usize) -> usize {
    let rank = class as f64 / (TRAINED - 1) as f64;
    (all as f64 * (RAREST as f64 / all as f64).powf(rank)).round() as usize
}

/// The images of those classes that have at most [`RARE`] in a long tail, and those of the others.
pub(crate) fn by_rarity(dataset: &Dataset, images: &[usize]) -> [Vec<usize>; 2] {
    let all = dataset.len() / dataset.classes;
    let (rare, frequent) = images
        .iter()
        .partition(|&&image| in_long_tail(dataset.labels(&[image])[0], all) <= RARE);
    [rare, frequent]
}

/// Batches of a training without end; each image is seen once before one is seen again.
#[derive(Debug)]
pub(crate) struct Batches {
    order: Vec<usize>,
    next: usize,
    generator: Xoshiro256PlusPlus,
}

impl Batches {
    pub(crate) fn new(images: usize, seed: u64) -> Self {
        Self {
            order: (0..images).collect(),
            next: images,
            generator: training::generator(seed, Purpose::Order),
        }
    }

    /// Positions of images in the training, `size` of them.
    pub(crate) fn take(&mut self, size: usize) -> Vec<usize> {
        if self.next + size > self.order.len() {
            self.order.shuffle(&mut self.generator);
            self.next = 0;
        }
        let batch = self.order[self.next..].iter().take(size).copied().collect();
        self.next += size;
        batch
    }

    /// Each image under a random affine map of its own.
    pub(crate) fn distort(&mut self, mut images: Array2<f32>) -> Array2<f32> {
        let side = images.ncols().isqrt();
        let mut source = vec![0.0; images.ncols()];
        for image in images.rows_mut() {
            for (kept, &pixel) in source.iter_mut().zip(&image) {
                *kept = pixel;
            }
            let mut near = |centre: f32, width: f32| {
                self.generator.random_range(centre - width..centre + width)
            };
            let matrix = [[1.0, 0.0], [0.0, 1.0]].map(|row| row.map(|entry| near(entry, BENT)));
            let shift = [near(0.0, SHIFTED), near(0.0, SHIFTED)];
            draw(image, &source, side, matrix, shift);
        }
        images
    }
}

/// Draws the source so that each pixel is taken from where the map sends it, between four pixels of the source.
fn draw(
    mut image: ArrayViewMut1<'_, f32>,
    source: &[f32],
    side: usize,
    matrix: [[f32; 2]; 2],
    shift: [f32; 2],
) {
    let middle = (side as f32 - 1.0) / 2.0;
    let pixel = |row: i32, column: i32| -> f32 {
        let inside = |at: i32| usize::try_from(at).ok().filter(|&at| at < side);
        match (inside(row), inside(column)) {
            (Some(row), Some(column)) => source[row * side + column],
            _ => 0.0,
        }
    };
    for (index, drawn) in image.iter_mut().enumerate() {
        let at = [
            (index / side) as f32 - middle,
            (index % side) as f32 - middle,
        ];
        let [row, column] = [0, 1].map(|axis: usize| {
            let [a, b] = matrix[axis];
            a * at[0] + b * at[1] + shift[axis] + middle
        });
        let (top, left) = (row.floor(), column.floor());
        let (down, right) = (row - top, column - left);
        let (top, left) = (top as i32, left as i32);
        let upper = pixel(top, left) * (1.0 - right) + pixel(top, left + 1) * right;
        let lower = pixel(top + 1, left) * (1.0 - right) + pixel(top + 1, left + 1) * right;
        *drawn = upper * (1.0 - down) + lower * down;
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use margin_losses::ndarray::{Array2, ArrayView1, s};

    use super::{Batches, Change, RARE, TRAINED, Training, by_rarity, divided, draw};
    use crate::shared::dataset::Dataset;

    fn folder() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data/characters")
    }

    fn dataset() -> Dataset {
        let file = |name| folder().join(name);
        Dataset::read(&file("images-idx3-ubyte.gz"), &file("labels-idx1-short.gz")).unwrap()
    }

    #[test]
    fn the_files_are_what_their_note_says() {
        let dataset = dataset();
        assert_eq!(
            (dataset.len(), dataset.classes, dataset.width),
            (26_000, 1_000, 400)
        );
        let expected: Vec<usize> = (0..26_000).map(|image| image / 26).collect();
        let [trained, unseen] = divided(&dataset);
        assert_eq!((trained.len(), unseen.len()), (20_800, 5_200));
        assert_eq!(dataset.labels(&[trained, unseen].concat()), expected);
        let names = folder().join("characters.txt");
        let names = std::fs::read_to_string(names).unwrap();
        let names = names.chars().filter(|name| !name.is_whitespace());
        assert_eq!(names.count(), 1_000);
    }

    #[test]
    fn labels_are_wrong_by_the_share_that_is_asked_for() {
        let dataset = dataset();
        let wrong = |noise, long_tail| {
            let training = Training::new(&dataset, Change { noise, long_tail }, 1);
            let right = dataset.labels(&training.images);
            assert!(training.labels.iter().all(|&label| label < TRAINED));
            let pairs = training.labels.iter().zip(&right);
            let wrong = pairs.filter(|(told, right)| told != right).count();
            (wrong, right.len())
        };
        assert_eq!(wrong(0.0, false), (0, 20_800));
        assert_eq!(wrong(0.1, false), (2_080, 20_800));
        let (wrong, all) = wrong(0.1, true);
        assert_eq!(wrong, (0.1 * all as f64).round() as usize);
    }

    #[test]
    fn the_tail_is_long() {
        let change = Change {
            noise: 0.0,
            long_tail: true,
        };
        let dataset = dataset();
        let training = Training::new(&dataset, change, 1);
        let counts = training.counts();
        assert_eq!(
            (counts[0], counts[TRAINED / 2], counts[TRAINED - 1]),
            (26, 7, 2)
        );
        assert!(counts.is_sorted_by(|more, fewer| more >= fewer));
        assert_eq!(training.images.len() + training.left_out.len(), 20_800);
        let [rare, frequent] = by_rarity(&dataset, &training.left_out);
        let count = |image: usize| counts[dataset.labels(&[image])[0]];
        assert!(rare.iter().all(|&image| count(image) <= RARE));
        assert!(frequent.iter().all(|&image| count(image) > RARE));
        assert_eq!(rare.len() + frequent.len(), training.left_out.len());
    }

    #[test]
    fn batches_see_each_image_once_before_one_twice() {
        let mut batches = Batches::new(10, 1);
        let mut first = [batches.take(4), batches.take(4)].concat();
        first.sort_unstable();
        first.dedup();
        assert_eq!(first.len(), 8);
        // Two are left: a new order.
        assert_eq!(batches.take(4).len(), 4);
        assert_eq!(batches.take(20).len(), 10);
    }

    #[test]
    fn maps_are_drawn() {
        let source: Vec<f32> = (0..16_u8).map(f32::from).collect();
        let drawn = |matrix, shift| {
            let mut image = Array2::zeros((1, 16));
            draw(image.row_mut(0), &source, 4, matrix, shift);
            image
        };
        let identity = [[1.0, 0.0], [0.0, 1.0]];
        let row =
            |image: &Array2<f32>, row: usize| image.slice(s![0, 4 * row..4 * row + 4]).to_vec();
        let same = drawn(identity, [0.0, 0.0]);
        assert_eq!(same.row(0), ArrayView1::from(&source));
        // A quarter turn has the last column in the first row.
        let turned = drawn([[0.0, 1.0], [-1.0, 0.0]], [0.0, 0.0]);
        assert_eq!(row(&turned, 0), [3.0, 7.0, 11.0, 15.0]);
        let shifted = drawn(identity, [0.0, 0.5]);
        assert_eq!(row(&shifted, 0), [0.5, 1.5, 2.5, 1.5]);
    }

    #[test]
    fn distortions_are_of_the_image_and_random() {
        let dataset = dataset();
        let images = dataset.images(&[0, 0]);
        let mut batches = Batches::new(2, 1);
        let distorted = batches.distort(images.clone());
        assert_ne!(distorted.row(0), distorted.row(1));
        // The ink is about as much.
        for row in 0..2 {
            let ink = distorted.row(row).sum() / images.row(row).sum();
            assert!((0.6..1.6).contains(&ink), "{ink}");
            assert!(
                distorted
                    .row(row)
                    .iter()
                    .all(|pixel| (0.0..=1.0).contains(pixel))
            );
        }
    }
}
