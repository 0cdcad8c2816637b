//! Views of every layout over buffers whose other cells are NaN: the same bits as in C order, and the other cells untouched.

use margin_losses::{ClassBlock, Evaluation, Float, MarginLoss, SoftmaxLoss, Targets};
use ndarray::{Array1, Array2, Axis, Zip};

use crate::support::{
    Batch, LAYOUTS, Layout, Snapshot, assert_close, bits, every_loss, narrow, widen,
};

fn step<A: Float>(block: ClassBlock<'_, A>) {
    Zip::from(block.weights)
        .and(block.gradient)
        .for_each(|w, &g| *w -= narrow::<A>(0.125) * g);
}

/// What one loss gives for one batch by each of its methods, bit by bit.
#[derive(Debug, PartialEq)]
struct Results {
    forward: Snapshot,
    evaluated: Snapshot,
    streamed: Snapshot,
    /// The weights after a step.
    stepped: Vec<u64>,
}

impl Results {
    fn of<A: Float>(
        loss: &dyn MarginLoss<A>,
        batch: &Batch<A>,
        features: Layout,
        weights: Layout,
    ) -> Self {
        let targets = Targets::new(&batch.labels).with_row_weights(&batch.row_weights);
        let (x, mut w) = (
            features.buffer(&batch.features),
            weights.buffer(&batch.weights),
        );
        let x = features.view(&x, batch.features.dim());
        let shape = batch.weights.dim();
        let good = "a good batch";
        let mut streamed = Evaluation::new();
        let forward = loss
            .forward(x, weights.view(&w, shape), &targets)
            .expect(good);
        let evaluated = loss
            .evaluate(x, weights.view(&w, shape), &targets)
            .expect(good);
        let view = weights.view_mut(&mut w, shape);
        loss.evaluate_streamed(x, view, &targets, &mut streamed, &mut step)
            .expect(good);
        let stepped = weights.view(&w, shape).to_owned();
        // The other cells are NaN to the last.
        weights.view_mut(&mut w, shape).fill(A::nan());
        assert!(w.iter().all(|v| v.is_nan()), "a cell between was written");
        Self {
            forward: Snapshot::of_forward(&forward),
            evaluated: Snapshot::of(&evaluated),
            streamed: Snapshot::of(&streamed),
            stepped: bits(&stepped),
        }
    }
}

fn same_bits<A: Float>(batch: &Batch<A>, pairs: &[(Layout, Layout)]) {
    for case in every_loss(batch.centers.view()) {
        let plain = Results::of(&*case.loss, batch, LAYOUTS[0], LAYOUTS[0]);
        for &(features, weights) in pairs {
            let found = Results::of(&*case.loss, batch, features, weights);
            assert_eq!(
                found, plain,
                "{}: features in {}, weights in {}",
                case.name, features.name, weights.name
            );
        }
    }
}

/// Every pair of layouts.
#[test]
fn features_and_weights_in_any_two_layouts() {
    let pairs: Vec<(Layout, Layout)> = LAYOUTS
        .iter()
        .flat_map(|&features| LAYOUTS.map(|weights| (features, weights)))
        .collect();
    same_bits::<f32>(&Batch::random(131, 5, 70, 9), &pairs);
    same_bits::<f64>(&Batch::random(131, 5, 70, 9), &pairs);
}

/// Two tiles of rows, several blocks of classes, and neither divides evenly.
#[test]
fn layouts_of_large_batches() {
    let pairs = LAYOUTS.map(|layout| (layout, layout));
    same_bits::<f32>(&Batch::random(132, 300, 1_237, 11), &pairs);
    same_bits::<f64>(&Batch::random(132, 300, 1_237, 11), &pairs);
}

/// Rows that share their memory: one feature for the whole batch, one weight for all classes.
fn broadcast<A: Float>(tolerance: f64) {
    let batch = Batch::<A>::random(133, 40, 150, 7);
    let targets = Targets::new(&batch.labels);
    let one_row: Array1<A> = batch.features.row(0).to_owned();
    let same = one_row.broadcast(batch.features.dim()).expect("its shape");
    let one_class: Array1<A> = batch.weights.row(0).to_owned();
    let classes = one_class.broadcast(batch.weights.dim()).expect("its shape");
    for case in every_loss(batch.centers.view()) {
        for (x, w) in [
            (same, batch.weights.view()),
            (batch.features.view(), classes),
            (same, classes),
        ] {
            let (x_copy, w_copy) = (x.to_owned(), w.to_owned());
            let (x_copy, w_copy) = (x_copy.view(), w_copy.view());
            let found = case.loss.evaluate(x, w, &targets).expect("a good batch");
            let copied = case
                .loss
                .evaluate(x_copy, w_copy, &targets)
                .expect("a good batch");
            assert_eq!(Snapshot::of(&found), Snapshot::of(&copied), "{}", case.name);
            let forward = case.loss.forward(x, w, &targets).expect("a good batch");
            let copied = case
                .loss
                .forward(x_copy, w_copy, &targets)
                .expect("a good batch");
            assert_eq!(
                Snapshot::of_forward(&forward),
                Snapshot::of_forward(&copied),
                "{}",
                case.name
            );
        }
    }
    // With all classes alike every row has the loss ln C.
    let uniform = SoftmaxLoss::new().evaluate(batch.features.view(), classes, &targets);
    let loss = widen(uniform.expect("a good batch").loss());
    assert_close("L", &[loss], &[150_f64.ln()], tolerance);
}

#[test]
fn broadcast_rows_are_rows() {
    broadcast::<f32>(1e-6);
    broadcast::<f64>(1e-14);
}

/// The buffers do hold NaN, and every layout shows the values and no others.
#[test]
fn the_layouts_show_what_they_should() {
    let values = Array2::from_shape_fn((3, 4), |(i, j)| (10 * i + j) as f64);
    let mut strides = Vec::new();
    for layout in LAYOUTS {
        let buffer = layout.buffer(&values);
        let view = layout.view(&buffer, values.dim());
        assert_eq!(view, values, "{}", layout.name);
        let skipped = buffer.iter().filter(|v| v.is_nan()).count();
        assert_eq!(skipped + values.len(), buffer.len(), "{}", layout.name);
        let apart = view.len_of(Axis(0)) == 3 && !strides.contains(&view.strides().to_vec());
        assert!(apart, "{} is like another layout", layout.name);
        strides.push(view.strides().to_vec());
    }
}
