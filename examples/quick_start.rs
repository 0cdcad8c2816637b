//! A training loop from zero: images in, a small network, ArcFace, and features that tell held-out images apart.
//!
//! ```sh
//! cargo run --release --example quick_start     # on the digits of the repository
//! cargo run --release --example quick_start -- my-images-idx3-ubyte my-labels-idx1-ubyte
//! ```
//!
//! The network is written out, so that nothing but this crate is needed. With another one, two lines stay: `evaluate_into`,
//! and the step of the class weights. The loss is chosen in the function `loss`: another one, or a margin of your own, goes
//! there.

use std::error::Error;
use std::fs;

use margin_losses::ndarray::{Array2, Axis};
use margin_losses::schedule::MarginWarmUp;
use margin_losses::{ArcFace, Evaluation, MarginLoss, Targets, guide, init};

const HIDDEN: usize = 128;
const DIM: usize = 32;
const BATCH: usize = 64;
const EPOCHS: usize = 15;
const RATE: f32 = 0.1;
const MARGIN: f64 = 0.5;

fn loss(scale: f64, margin: f64) -> Result<impl MarginLoss<f32>, margin_losses::Error> {
    ArcFace::new(scale, margin)
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut files = std::env::args().skip(1);
    let mut file = |bundled: &str| files.next().unwrap_or(format!("examples/data/{bundled}"));
    let (sizes, pixels) = idx(&file("images-idx3-ubyte"))?;
    let (_, labels) = idx(&file("labels-idx1-ubyte"))?;
    if labels.len() != sizes[0] {
        return Err(format!("{} images, but {} labels", sizes[0], labels.len()).into());
    }
    // Rows are samples, pixels spread around 0: from pixels that are all positive, features of all classes begin in one
    // direction, and a margin is more than they can give. Every fifth image is held out.
    let brightest = pixels.iter().copied().max().unwrap_or(1).max(1);
    let images = Array2::from_shape_vec((sizes[0], sizes[1..].iter().product()), pixels)?
        .mapv(|pixel| f32::from(pixel) / f32::from(brightest));
    let images = &images - &images.mean_axis(Axis(0)).ok_or("no images")?;
    let labels: Vec<usize> = labels.into_iter().map(usize::from).collect();
    let classes = labels.iter().max().ok_or("no labels")? + 1;
    let (held_out, train): (Vec<usize>, Vec<usize>) = (0..labels.len()).partition(|i| i % 5 == 0);
    let pick = |rows: &[usize]| -> (Array2<f32>, Vec<usize>) {
        let labels = rows.iter().map(|&row| labels[row]).collect();
        (images.select(Axis(0), rows), labels)
    };

    // x = relu(a U) V. The class weights are one more parameter of the training, and live here.
    let mut u: Array2<f32> = init::xavier_uniform(images.ncols(), HIDDEN, 1);
    let mut v: Array2<f32> = init::xavier_uniform(HIDDEN, DIM, 2);
    let mut weights: Array2<f32> = init::class_weights(classes, DIM, 3);

    let scale = guide::suggested_scale(classes, 0.9999)?;
    let warm_up = MarginWarmUp::new(0.0, MARGIN, (5 * train.len() / BATCH) as u64)?; // five epochs
    println!("{:?}", loss(scale, MARGIN)?);
    println!("{classes} classes, {} images to train with", train.len());

    let mut out = Evaluation::new(); // its memory is used again at every step
    let mut step = 0;
    for epoch in 1..=EPOCHS {
        let (mut sum, mut steps) = (0.0, 0.0);
        // A walk with a stride takes the images in another order at every epoch.
        let stride = 2 * epoch + 1;
        let order: Vec<usize> = (0..stride)
            .flat_map(|start| train.iter().copied().skip(start).step_by(stride))
            .collect();
        for batch in order.chunks(BATCH) {
            let (a, labels) = pick(batch);
            let hidden = a.dot(&u).mapv_into(|h| h.max(0.0));
            let features = hidden.dot(&v);

            loss(scale, warm_up.at(step))?.evaluate_into(
                features.view(),
                weights.view(),
                &Targets::new(&labels),
                &mut out,
            )?;
            step += 1;

            // Back through the network, from ∂L/∂X.
            let grad_v = hidden.t().dot(&out.grad_features);
            let mut grad_hidden = out.grad_features.dot(&v.t());
            grad_hidden.zip_mut_with(&hidden, |grad, &h| *grad *= f32::from(h > 0.0));
            u.scaled_add(-RATE, &a.t().dot(&grad_hidden));
            v.scaled_add(-RATE, &grad_v);
            weights.scaled_add(-RATE, &out.grad_weights);
            sum += out.loss();
            steps += 1.0;
        }
        let (a, labels) = pick(&held_out);
        let features = a.dot(&u).mapv_into(|h| h.max(0.0)).dot(&v);
        // Accuracy and cosines are without margin, whatever it is.
        let forward = loss(scale, MARGIN)?.forward(
            features.view(),
            weights.view(),
            &Targets::new(&labels),
        )?;
        println!(
            "epoch {epoch:2}: loss {:7.4}; held out: accuracy {:.3}, mean target cosine {:.3}",
            sum / steps,
            forward.accuracy().unwrap_or(0.0),
            forward.target_cosines.mean().unwrap_or(0.0),
        );
    }
    // What the training was for: `features` of new images, compared by their cosine. The class weights can go.
    Ok(())
}

/// The sizes and the bytes of an IDX file, the format of MNIST; not gzipped.
fn idx(path: &str) -> Result<(Vec<usize>, Vec<u8>), Box<dyn Error>> {
    let bytes = fs::read(path).map_err(|error| format!("{path}: {error}"))?;
    let not_idx = || format!("{path} is no IDX file of bytes (if it is gzipped, unpack it)");
    let [0, 0, 8, dimensions] = *bytes.first_chunk().ok_or_else(not_idx)? else {
        return Err(not_idx().into());
    };
    let (header, values) = bytes[4..]
        .split_at_checked(4 * usize::from(dimensions))
        .ok_or_else(not_idx)?;
    let (sizes, _) = header.as_chunks::<4>();
    let sizes: Vec<usize> = sizes
        .iter()
        .map(|&size| u32::from_be_bytes(size) as usize)
        .collect();
    if sizes.iter().product::<usize>() != values.len() {
        return Err(format!("{path}: {sizes:?} are not {} values", values.len()).into());
    }
    Ok((sizes, values.to_vec()))
}
