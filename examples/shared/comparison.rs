//! A training of the digits example, with any loss, and what its held-out images make of it.

use std::path::Path;

use margin_losses::ndarray::{Array2, ArrayView2};
use margin_losses::{Error, Evaluation, MarginLoss, NormFace};

use crate::shared::dataset::{Dataset, Split};
use crate::shared::training::{self, Model};

const DIM: usize = 16;
const EPOCHS: usize = 15;
const RATE: f32 = 0.02;
const SEED: u64 = 1;

/// What a training leaves, and the held-out images.
#[derive(Debug)]
pub(crate) struct Trained {
    /// The features of the held-out images.
    pub(crate) features: Array2<f32>,
    pub(crate) labels: Vec<usize>,
    /// The class weights.
    pub(crate) weights: Array2<f32>,
}

/// Trains a network on the digits of the repository. All calls begin with the same network and see the same batches. `loss`
/// is given the features, the class weights and the labels of a batch, and an evaluation to fill.
pub(crate) fn train(
    mut loss: impl FnMut(
        ArrayView2<'_, f32>,
        ArrayView2<'_, f32>,
        &[usize],
        &mut Evaluation<f32>,
    ) -> Result<(), Error>,
) -> Result<Trained, String> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data");
    let dataset = Dataset::read(
        &data.join("images-idx3-ubyte"),
        &data.join("labels-idx1-ubyte"),
    )?;
    let Split {
        mut train,
        held_out,
    } = training::split(&dataset, SEED)?;
    let mut model = Model::new(&[dataset.width, 256, 128, DIM], dataset.classes, SEED);
    for _ in 0..EPOCHS {
        model
            .epoch(&dataset, &mut train, RATE, &mut loss)
            .map_err(|error| error.to_string())?;
    }
    Ok(Trained {
        features: model.embed(&dataset, &held_out),
        labels: dataset.labels(&held_out),
        weights: model.weights.value,
    })
}

impl Trained {
    /// What the angles between features and class weights say, on one line.
    pub(crate) fn angles(&self) -> Result<String, String> {
        let cosines = NormFace::new(1.0)
            .and_then(|plain| plain.scores(self.features.view(), self.weights.view()))
            .map_err(|error| error.to_string())?;
        let angles = cosines.mapv(|cosine| cosine.clamp(-1.0, 1.0).acos().to_degrees());
        let Distances { own, other, right } = self.means(&angles);
        Ok(format!(
            "held out: accuracy {:.1} %, {own:.1}° to the own class, {other:.1}° to the nearest other",
            100.0 * right
        ))
    }

    /// The means over the held-out images, given the distance of each to each class.
    pub(crate) fn means(&self, distances: &Array2<f32>) -> Distances {
        let mut sums = Distances::default();
        for (row, &label) in distances.rows().into_iter().zip(&self.labels) {
            let others = row.iter().enumerate().filter(|&(class, _)| class != label);
            let nearest = others.fold(f32::INFINITY, |nearest, (_, &d)| nearest.min(d));
            sums.own += f64::from(row[label]);
            sums.other += f64::from(nearest);
            sums.right += f64::from(u8::from(row[label] < nearest));
        }
        let rows = self.labels.len() as f64;
        Distances {
            own: sums.own / rows,
            other: sums.other / rows,
            right: sums.right / rows,
        }
    }
}

/// How far images are from the classes.
#[derive(Debug, Default)]
pub(crate) struct Distances {
    /// To their own class.
    pub(crate) own: f64,
    /// To the nearest other.
    pub(crate) other: f64,
    /// The share of images that are nearer to their own.
    pub(crate) right: f64,
}
