//! A training loop from zero: images in, a small network, ArcFace, and features that tell held-out images apart.
//!
//! ```sh
//! cargo run --release --example quick_start     # on the digits of the repository
//! cargo run --release --example quick_start -- my-images-idx3-ubyte my-labels-idx1-ubyte
//! ```
//!
//! The network is written out, so that nothing but this crate is needed. With another one, two lines stay: `evaluate_into`,
//! and the step of the class weights. The loss is chosen in the function `loss`: another one, or a margin of your own, goes
//! there. As the `main.rs` of another crate, where there are no digits, it makes up its images if no files are given.

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::{env, fs};

use margin_losses::ndarray::{Array2, Axis};
use margin_losses::schedule::MarginWarmUp;
use margin_losses::{ArcFace, Evaluation, MarginLoss, Targets, guide, init};

const USAGE: &str = "arguments: [IMAGES LABELS], two IDX files of bytes, not gzipped; without them the digits of the repository,
or images that are made up where there is no repository";
const HIDDEN: usize = 128;
const DIM: usize = 32;
const BATCH: usize = 64;
const EPOCHS: usize = 15;
const RATE: f32 = 0.1;
const MARGIN: f64 = 0.5;

fn loss(scale: f64, margin: f64) -> Result<impl MarginLoss<f32>, margin_losses::Error> {
    ArcFace::new(scale, margin)
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let data = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--help" | "-h"] => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        [] => bundled(),
        [images, labels] if !images.starts_with('-') => read(images, labels),
        _ => {
            eprintln!("error: two files are needed, or none\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match data.and_then(|(images, labels)| train(&images, &labels)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Images, one a row, and their labels.
type Data = (Array2<f32>, Vec<usize>);

/// The digits of the repository, if this is built there.
fn bundled() -> Result<Data, Box<dyn Error>> {
    let digits = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data");
    if Path::new(digits).exists() {
        return read(
            &format!("{digits}/images-idx3-ubyte"),
            &format!("{digits}/labels-idx1-ubyte"),
        );
    }
    println!(
        "no files given: 1,000 images are made up, a pattern for each of ten classes under noise"
    );
    let labels: Vec<usize> = (0..1000).map(|row| row / 5 % 10).collect();
    let patterns: Array2<f32> = init::normal(10, 64, 1.0, 4)?;
    let noise: Array2<f32> = init::normal(labels.len(), 64, 1.5, 5)?;
    Ok((patterns.select(Axis(0), &labels) + noise, labels))
}

fn read(images: &str, labels: &str) -> Result<Data, Box<dyn Error>> {
    let (sizes, pixels) = idx(images)?;
    let (_, labels) = idx(labels)?;
    if sizes.first() != Some(&labels.len()) {
        return Err(format!("images of sizes {sizes:?}, but {} labels", labels.len()).into());
    }
    let brightest = f32::from(pixels.iter().copied().max().unwrap_or(1).max(1));
    let images = Array2::from_shape_vec((sizes[0], sizes[1..].iter().product()), pixels)?
        .mapv(|pixel| f32::from(pixel) / brightest);
    Ok((images, labels.into_iter().map(usize::from).collect()))
}

fn train(images: &Array2<f32>, labels: &[usize]) -> Result<(), Box<dyn Error>> {
    // Rows are samples, pixels spread around 0: from pixels that are all positive, features of all classes begin in one
    // direction, and a margin is more than they can give. Every fifth image is held out.
    let images = images - &images.mean_axis(Axis(0)).ok_or("no images")?;
    let classes = labels.iter().max().ok_or("no labels")? + 1;
    let (held_out, train): (Vec<usize>, Vec<usize>) = (0..labels.len()).partition(|i| i % 5 == 0);
    let pick = |rows: &[usize]| -> (Array2<f32>, Vec<usize>) {
        let labels = rows.iter().map(|&row| labels[row]).collect();
        (images.select(Axis(0), rows), labels)
    };

    // x = relu(a U) V. The class weights are one more parameter of the training, and live here.
    let mut u: Array2<f32> = init::xavier_uniform(images.ncols(), HIDDEN, 1)?;
    let mut v: Array2<f32> = init::xavier_uniform(HIDDEN, DIM, 2)?;
    let mut weights: Array2<f32> = init::class_weights(classes, DIM, 3)?;

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
