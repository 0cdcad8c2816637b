//! Which class it is: scores, the best class and the best k, against the plain formula.

use margin_losses::{
    AnyLoss, ArcFace, Argument, CenterLoss, Error, Float, JointLoss, MarginLoss, SoftmaxLoss,
    Targets,
};
use ndarray::{Array2, ArrayView1, array};

use crate::support::{Batch, Formula, LAYOUTS, Layer, every_loss, widen, widened};

/// The logits of all classes without margin.
fn plain<A: Float>(formula: &Formula, batch: &Batch<A>) -> Array2<f64> {
    let (x, w) = (
        widened(batch.features.view()),
        widened(batch.weights.view()),
    );
    let norm = |row: ArrayView1<'_, f64>| row.dot(&row).sqrt();
    Array2::from_shape_fn((x.nrows(), w.nrows()), |(row, class)| {
        let (x, w) = (x.row(row), w.row(class));
        match &formula.layer {
            Layer::Linear { bias } => x.dot(&w) + bias.get(class).copied().unwrap_or(0.0),
            Layer::FreeNorm => x.dot(&w) / norm(w),
            Layer::UnitNorm { scale, .. } => {
                scale * x.dot(&w) / norm(w) / norm(x) + formula.constants.of(class)
            }
            Layer::Nothing => -0.5 * (&x - &w).mapv(|apart| apart * apart).sum(),
        }
    })
}

fn check<A: Float>(tolerance: f64) {
    for (rows, classes, dim) in [(3, 2, 3), (5, 70, 2), (300, 40, 7), (2, 1500, 5)] {
        let batch = Batch::<A>::random(31, rows, classes, dim);
        let (x, w) = (batch.features.view(), batch.weights.view());
        for case in every_loss(batch.centers.view()) {
            let what = format!("{} {rows}×{classes}×{dim}", case.name);
            let expected = plain(&case.formula, &batch);
            let scores = case.loss.scores(x, w).expect("a good batch");
            assert_eq!(scores.dim(), expected.dim());
            let largest = expected.iter().fold(0.0_f64, |a, b| a.max(b.abs()));
            for (found, expected) in scores.iter().zip(&expected) {
                let off = (widen(*found) - expected).abs();
                assert!(off <= tolerance * largest, "{what}: {found} for {expected}");
            }

            let k = classes.min(4);
            let top = case.loss.top_k(x, w, k).expect("a good batch");
            let best = case.loss.predict(x, w).expect("a good batch");
            for (row, scores) in scores.outer_iter().enumerate() {
                let mut order: Vec<usize> = (0..classes).collect();
                order.sort_by(|&a, &b| scores[b].partial_cmp(&scores[a]).expect("numbers"));
                assert_eq!(top.classes.row(row).to_vec(), order[..k], "{what}");
                let found = top.scores.row(row);
                assert!(
                    found
                        .iter()
                        .zip(&order)
                        .all(|(s, &class)| *s == scores[class])
                );
                assert_eq!(best[row], order[0], "{what}");
            }
        }
    }
}

#[test]
fn scores_are_the_logits_without_margin() {
    check::<f64>(1e-13);
    check::<f32>(1e-6);
}

/// What the loss calls right is what it would predict.
#[test]
fn predictions_agree_with_correct() {
    let batch = Batch::<f64>::random(32, 60, 9, 4);
    let (x, w) = (batch.features.view(), batch.weights.view());
    for case in every_loss(batch.centers.view()) {
        let targets = Targets::new(&batch.labels);
        let forward = case.loss.forward(x, w, &targets).expect("a good batch");
        let best = case.loss.predict(x, w).expect("a good batch");
        for (row, &correct) in forward.correct.iter().enumerate() {
            assert_eq!(best[row] == batch.labels[row], correct, "{}", case.name);
        }
    }
}

#[test]
fn the_longer_weight_is_not_the_nearer() {
    let (x, w) = (array![[1.0, 0.1]], array![[0.1, 0.0], [3.0, 3.0]]);
    let loss = "arcface:s=16,m=0.5".parse::<AnyLoss>().expect("a loss");
    let boxed: Box<dyn MarginLoss<f64>> = Box::new(loss);
    assert_eq!(boxed.predict(x.view(), w.view()), Ok(array![0]));
    assert_eq!(
        SoftmaxLoss::new().predict(x.view(), w.view()),
        Ok(array![1])
    );
}

#[test]
fn of_equals_the_first_is_best() {
    let w = Array2::from_shape_fn((300, 2), |(class, k)| f64::from(class % 2 == k));
    let top = ArcFace::default()
        .top_k(array![[1.0, 0.0]].view(), w.view(), 3)
        .expect("good");
    assert_eq!(top.classes, array![[0, 2, 4]]);
}

/// A third class has a center of its own that a product would not choose.
#[test]
fn centers_are_compared_by_distance() {
    let (x, c) = (
        array![[1.0, 1.0]],
        array![[10.0, 10.0], [1.5, 1.0], [0.0, 0.0]],
    );
    let scores = CenterLoss::new().scores(x.view(), c.view());
    assert_eq!(scores, Ok(array![[-81.0, -0.125, -1.0]]));
    let joint = JointLoss::new(SoftmaxLoss::new(), c.view(), 0.1).expect("λ");
    assert_eq!(
        joint.predict(x.view(), c.view()),
        Ok(array![0]),
        "its classifier"
    );
}

#[test]
fn views_of_any_layout_have_the_same_bits() {
    let batch = Batch::<f32>::random(33, 9, 130, 5);
    let expected = ArcFace::default().scores(batch.features.view(), batch.weights.view());
    for layout in LAYOUTS {
        let (x, w) = (
            layout.buffer(&batch.features),
            layout.buffer(&batch.weights),
        );
        let x = layout.view(&x, batch.features.dim());
        let w = layout.view(&w, batch.weights.dim());
        assert_eq!(ArcFace::default().scores(x, w), expected);
    }
}

#[test]
fn bad_arguments_are_named() {
    let good = array![[1.0, 2.0], [3.0, 4.0]];
    let (loss, x) = (ArcFace::default(), good.view());
    let of = |w: Array2<f64>| loss.predict(x, w.view()).expect_err("a bad argument");
    assert_eq!(
        of(array![[1.0]]).to_string(),
        "class weights: 2 columns expected, as in the features, 1 found"
    );
    assert_eq!(of(Array2::zeros((0, 2))), Error::NoClasses);
    let argument = Argument::ClassWeights;
    assert_eq!(
        of(array![[1.0, 0.0], [0.0, 0.0]]),
        Error::ZeroNorm { argument, row: 1 }
    );
    assert_eq!(
        of(array![[1.0, f64::NAN]]),
        Error::NonFinite { argument, row: 0 }
    );
    for k in [0, 3] {
        assert_eq!(loss.top_k(x, x, k), Err(Error::TopK { k, classes: 2 }));
    }
    assert_eq!(
        loss.top_k(x, x, 3).expect_err("too many").to_string(),
        "the best 3 classes cannot be chosen from 2"
    );
    let argument = Argument::Features;
    let zero = Array2::<f64>::zeros((1, 2));
    assert_eq!(
        loss.predict(zero.view(), x),
        Err(Error::ZeroNorm { argument, row: 0 })
    );
    let huge = array![[1e200, 0.0]];
    let overflow = SoftmaxLoss::new().scores(huge.view(), huge.view());
    assert!(
        matches!(
            overflow,
            Err(Error::Overflow {
                quantity: "logit",
                ..
            })
        ),
        "{overflow:?}"
    );
    let bias = SoftmaxLoss::with_bias(vec![0.0; 3]).expect("a bias");
    assert!(matches!(
        bias.scores(x, x),
        Err(Error::RowCount {
            expected: 2,
            found: 3,
            ..
        })
    ));
    let nan = array![[0.0, f64::NAN]];
    let center = CenterLoss::new().scores(x, nan.view());
    assert_eq!(
        center,
        Err(Error::NonFinite {
            argument: Argument::Centers,
            row: 0
        })
    );
}

/// No rows, no scores; that is no error.
#[test]
fn an_empty_batch_has_no_scores() {
    let (x, w) = (Array2::<f32>::zeros((0, 2)), array![[1.0_f32, 2.0]]);
    let scores = ArcFace::default().scores(x.view(), w.view());
    assert_eq!(scores.map(|scores| scores.dim()), Ok((0, 1)));
    let top = ArcFace::default().top_k(x.view(), w.view(), 1);
    assert_eq!(top.map(|top| top.classes.dim()), Ok((0, 1)));
}
