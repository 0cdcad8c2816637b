//! What is composed with a loss: against the formulas, against differences, through every path, and what is refused.

use margin_losses::{
    AdaFace, AnyLoss, ArcFace, Argument, CenterLoss, Composed, CosFace, CurricularFace, Error,
    Float, InterTopK, JointLoss, MagFace, Margin, MarginLoss, MarginSoftmax, ModifiedSoftmax,
    MvSoftmax, NormFace, Objective, SoftmaxLoss, Target, TargetLogit, Targets,
};
use ndarray::{Array2, array};

use crate::margins::{HardNegatives, check_gradients, check_paths};
use crate::support::{Batch, Snapshot, assert_close, bits, wide};

/// Nine classes of three sub-centers, or 27 classes.
fn batch(seed: u64, classes: usize) -> Batch<f64> {
    let mut batch = Batch::random(seed, 5, 27, 5);
    for label in &mut batch.labels {
        *label %= classes;
    }
    batch
}

fn counts(classes: usize) -> Vec<f64> {
    (0..classes)
        .map(|class| 1.0 + (class * class) as f64)
        .collect()
}

/// Every composition with losses of every kind.
pub(crate) fn losses() -> Vec<(String, usize, Box<dyn MarginLoss<f64>>)> {
    let bias = |classes: usize| (0..classes).map(|class| 0.1 * class as f64).collect();
    let mut all: Vec<(String, usize, Box<dyn MarginLoss<f64>>)> = Vec::new();
    let mut add = |name: &str, classes, loss: Result<Box<dyn MarginLoss<f64>>, Error>| {
        all.push((name.to_owned(), classes, loss.expect(name)));
    };
    let arc = ArcFace::new(7.0, 0.2).expect("in range");
    let cos = CosFace::new(7.0, 0.2).expect("in range");
    let learned = NormFace::learned(5.0).expect("in range");
    let softmax = SoftmaxLoss::with_bias(bias(27)).expect("finite");
    let magnitude = || {
        let loss = MagFace::new(7.0, 0.1, 0.5).and_then(|loss| loss.with_norms(0.5, 5.0));
        loss.and_then(|loss| loss.with_regulariser(2.0))
            .expect("in range")
    };
    let by_class = || {
        let margins = (0..9).map(|class| 0.05 * f64::from(class)).collect();
        arc.with_class_margins(margins).expect("in range")
    };
    let hard = || MarginSoftmax::learned(HardNegatives, 7.0).expect("in range");
    macro_rules! composed {
        ($name:literal, $classes:literal, $loss:expr, $with:expr) => {
            let with: fn(Composed<_>) -> Result<Composed<_>, Error> = $with;
            add(
                concat!($name, " ", stringify!($loss)),
                $classes,
                with(Composed::new($loss)).map(|loss| Box::new(loss) as _),
            );
        };
    }
    composed!("sub-centers", 9, arc, |c| c.with_sub_centers(3));
    composed!("sub-centers", 9, learned, |c| c.with_sub_centers(3));
    composed!("sub-centers", 9, ModifiedSoftmax::new(), |c| c
        .with_sub_centers(3));
    composed!("sub-centers", 9, hard(), |c| c.with_sub_centers(3));
    composed!("smoothing", 27, cos, |c| c.with_label_smoothing(0.1));
    composed!("smoothing", 27, learned, |c| c.with_label_smoothing(0.1));
    composed!("smoothing", 27, softmax.clone(), |c| c
        .with_label_smoothing(0.1));
    composed!("focal", 27, arc, |c| c.with_focal(2.0));
    composed!("focal", 27, learned, |c| c.with_focal(0.5));
    composed!("focal", 27, softmax.clone(), |c| c.with_focal(2.0));
    composed!("focal", 27, hard(), |c| c.with_focal(2.0));
    composed!("sub-centers", 9, by_class(), |c| c.with_sub_centers(3));
    composed!("inter-topk", 27, arc, |c| Ok(
        c.with_inter_topk(InterTopK::angular(4, 0.1)?)
    ));
    composed!("inter-topk in the cosine", 27, learned, |c| Ok(
        c.with_inter_topk(InterTopK::cosine(3, 0.3)?)
    ));
    composed!("inter-topk", 27, magnitude(), |c| Ok(
        c.with_inter_topk(InterTopK::default())
    ));
    composed!("inter-topk and smoothing", 27, learned, |c| {
        let loss = c.with_label_smoothing(0.1)?;
        Ok(loss.with_inter_topk(InterTopK::angular(4, 0.1)?))
    });
    composed!("inter-topk and all the rest", 9, learned, |c| {
        let loss = c.with_sub_centers(3)?.with_focal(2.0)?;
        let loss = loss.with_class_priors(&counts(9), 1.0)?;
        let loss = loss.with_label_smoothing(0.2)?;
        Ok(loss.with_inter_topk(InterTopK::angular(3, 0.2)?))
    });
    composed!("priors", 27, cos, |c| c.with_class_priors(&counts(27), 1.0));
    composed!("priors", 27, softmax.clone(), |c| c
        .with_class_priors(&counts(27), 0.5));
    // The norm's part of the gradient, and the price, are in what is composed.
    composed!("sub-centers", 9, magnitude(), |c| c.with_sub_centers(3));
    composed!("all but smoothing", 9, magnitude(), |c| {
        c.with_sub_centers(3)?
            .with_focal(2.0)?
            .with_class_priors(&counts(9), 1.0)
    });
    composed!("smoothing", 27, magnitude(), |c| c
        .with_label_smoothing(0.1));
    composed!("all but smoothing", 9, learned, |c| {
        c.with_sub_centers(3)?
            .with_focal(1.0)?
            .with_class_priors(&counts(9), 1.0)
    });
    composed!("priors and smoothing", 27, arc, |c| {
        c.with_label_smoothing(0.2)?
            .with_class_priors(&counts(27), 1.0)
    });
    // The uniform term is taken from each entry.
    let mv = MvSoftmax::new(7.0, 0.1, 0.3).expect("in range");
    let curricular = CurricularFace::new(7.0, 0.2)
        .and_then(|loss| loss.with_momentum(0.0)?.with_t(0.4))
        .expect("in range");
    let filtered = CosFace::new(7.0, 0.2)
        .and_then(|loss| loss.with_class_filter(0.3))
        .expect("in range");
    composed!("smoothing", 27, hard(), |c| c.with_label_smoothing(0.1));
    composed!("smoothing", 27, mv, |c| c.with_label_smoothing(0.1));
    composed!("smoothing", 27, curricular, |c| c.with_label_smoothing(0.1));
    composed!("smoothing", 27, filtered, |c| c.with_label_smoothing(0.1));
    let by_class = arc.with_class_margins(vec![0.1, 0.2, 0.3, 0.0, 0.1, 0.2, 0.3, 0.4, 0.5]);
    let by_class = by_class.expect("in range");
    composed!("all", 9, by_class.clone(), |c| {
        c.with_label_smoothing(0.1)?
            .with_sub_centers(3)?
            .with_focal(0.5)
    });
    composed!("smoothed sub-centers", 9, learned, |c| c
        .with_sub_centers(3)?
        .with_label_smoothing(0.1));
    composed!("smoothing and focal", 27, softmax.clone(), |c| c
        .with_focal(2.0)?
        .with_label_smoothing(0.1));
    composed!("all", 9, magnitude(), |c| {
        c.with_sub_centers(3)?
            .with_label_smoothing(0.1)?
            .with_focal(2.0)?
            .with_class_priors(&counts(9), 1.0)
    });
    composed!("all", 9, hard(), |c| {
        c.with_label_smoothing(0.1)?
            .with_sub_centers(3)?
            .with_class_priors(&counts(9), 1.0)?
            .with_focal(0.5)
    });
    all
}

#[test]
fn gradients_are_those_of_the_loss() -> Result<(), String> {
    for (name, classes, mut loss) in losses() {
        check_gradients(&name, &mut *loss, &batch(21, classes))?;
    }
    Ok(())
}

#[test]
fn every_path_has_the_same_bits() -> Result<(), Error> {
    for (name, classes, loss) in losses() {
        let mut large = Batch::<f64>::random(22, 280, 901, 10);
        if classes == 27 {
            // Losses with something for each class keep their 27.
            large.weights = large.weights.slice_move(ndarray::s![..27, ..]);
            large.labels.iter_mut().for_each(|label| *label %= 27);
        } else {
            large.weights = large.weights.slice_move(ndarray::s![..27, ..]);
            large.labels.iter_mut().for_each(|label| *label %= 9);
        }
        check_paths(&name, &*loss, &large)?;
    }
    Ok(())
}

/// ℓ of one row from its logits, by the formulas.
fn row_loss(logits: &[f64], target: usize, smoothing: f64, gamma: f64) -> f64 {
    let largest = logits.iter().fold(f64::MIN, |a, &b| a.max(b));
    let sum: f64 = logits.iter().map(|z| (z - largest).exp()).sum();
    let mean = logits.iter().sum::<f64>() / logits.len() as f64;
    let loss = largest + sum.ln() - (1.0 - smoothing) * logits[target] - smoothing * mean;
    (1.0 - (-loss).exp()).powf(gamma) * loss
}

#[test]
fn losses_are_those_of_the_formulas() -> Result<(), Error> {
    let (scale, margin) = (7.0, 0.2);
    let cos = CosFace::new(scale, margin)?;
    for (k, smoothing, gamma, tau) in [
        (1, 0.0, 0.0, 0.0),
        (3, 0.0, 0.0, 0.0),
        (1, 0.1, 0.0, 0.0),
        (1, 0.0, 2.0, 0.0),
        (1, 0.0, 0.0, 0.7),
        (3, 0.0, 0.5, 1.0),
        (1, 0.3, 0.0, 1.0),
        (3, 0.1, 0.0, 0.0),
        (1, 0.2, 1.5, 0.0),
        (3, 0.3, 2.0, 1.0),
    ] {
        let classes = 27 / k;
        let batch = batch(23, classes);
        let priors = counts(classes);
        let total: f64 = priors.iter().sum();
        let loss = Composed::new(cos)
            .with_sub_centers(k)?
            .with_label_smoothing(smoothing)?
            .with_focal(gamma)?
            .with_class_priors(&priors, tau)?;
        let targets = Targets::new(&batch.labels);
        let out = loss.evaluate(batch.features.view(), batch.weights.view(), &targets)?;
        let expected: Vec<f64> = batch
            .features
            .outer_iter()
            .zip(&batch.labels)
            .map(|(x, &y)| {
                let cosine = |row: usize| {
                    let w = batch.weights.row(row);
                    x.dot(&w) / (x.dot(&x) * w.dot(&w)).sqrt()
                };
                let logits: Vec<f64> = (0..classes)
                    .map(|class| {
                        let best = (0..k).map(|j| cosine(class * k + j)).fold(-1.0, f64::max);
                        let shift = if class == y { margin } else { 0.0 };
                        scale * (best - shift) + tau * (priors[class] / total).ln()
                    })
                    .collect();
                row_loss(&logits, y, smoothing, gamma)
            })
            .collect();
        let name = format!("K = {k}, ε = {smoothing}, γ = {gamma}, τ = {tau}");
        assert_close(&name, &out.forward.row_losses.to_vec(), &expected, 1e-13);
    }
    Ok(())
}

/// What adds nothing changes no bit.
#[test]
fn nothing_added_is_the_loss() -> Result<(), Error> {
    let batch = batch(24, 27);
    let targets = Targets::new(&batch.labels);
    let arc = ArcFace::new(16.0, 0.3)?;
    let alone = arc.evaluate(batch.features.view(), batch.weights.view(), &targets)?;
    let composed = Composed::new(arc)
        .with_sub_centers(1)?
        .with_label_smoothing(0.0)?
        .with_focal(0.0)?
        .with_class_priors(&[1.0; 27], 0.0)?;
    let found = composed.evaluate(batch.features.view(), batch.weights.view(), &targets)?;
    assert_eq!(Snapshot::of(&found), Snapshot::of(&alone));
    // Equal priors move all logits alike.
    let equal = Composed::new(arc).with_class_priors(&[5.0; 27], 1.0)?;
    let found = equal.evaluate(batch.features.view(), batch.weights.view(), &targets)?;
    let (losses, expected) = (&found.forward.row_losses, &alone.forward.row_losses);
    assert_close("equal priors", &losses.to_vec(), &expected.to_vec(), 1e-13);
    Ok(())
}

/// K copies of each class give the loss of one, and the gradient of the class to the first of them; another order of
/// different sub-centers is another order of their gradients.
#[test]
fn sub_centers_have_no_order() -> Result<(), Error> {
    let batch = Batch::<f64>::random(25, 7, 6, 4);
    let targets = Targets::new(&batch.labels);
    let arc = ArcFace::new(16.0, 0.3)?;
    let alone = arc.evaluate(batch.features.view(), batch.weights.view(), &targets)?;
    let composed = Composed::new(arc).with_sub_centers(2)?;
    let copies = Array2::from_shape_fn((12, 4), |(row, k)| batch.weights[[row / 2, k]]);
    let found = composed.evaluate(batch.features.view(), copies.view(), &targets)?;
    assert_eq!(found.loss(), alone.loss());
    assert!(found.forward.sub_centers.iter().all(|&winner| winner == 0));
    let first = found.grad_weights.slice(ndarray::s![..;2, ..]).to_owned();
    assert_close(
        "∂W",
        &first.iter().copied().collect::<Vec<_>>(),
        &alone.grad_weights.iter().copied().collect::<Vec<_>>(),
        1e-13,
    );
    assert!(
        found
            .grad_weights
            .slice(ndarray::s![1..;2, ..])
            .iter()
            .all(|&g| g == 0.0)
    );

    let pairs = Array2::from_shape_fn((12, 4), |(row, k)| {
        batch.weights[[row % 6, k]] + if row < 6 { 0.0 } else { 1.0 }
    });
    let turned = Array2::from_shape_fn((12, 4), |(row, k)| pairs[[row ^ 1, k]]);
    let one = composed.evaluate(batch.features.view(), pairs.view(), &targets)?;
    let other = composed.evaluate(batch.features.view(), turned.view(), &targets)?;
    assert_close("loss", &[one.loss()], &[other.loss()], 1e-14);
    for row in 0..12 {
        assert_close(
            "∂W",
            &one.grad_weights.row(row).to_vec(),
            &other.grad_weights.row(row ^ 1).to_vec(),
            1e-12,
        );
    }
    for (a, b) in one
        .forward
        .sub_centers
        .iter()
        .zip(&other.forward.sub_centers)
    {
        assert_eq!(*a, 1 - b);
    }
    Ok(())
}

/// AdaFace with the norms of the batch for constants, which they are in its gradient.
#[derive(Debug)]
struct Held {
    loss: AdaFace,
    norms: Vec<f64>,
}

impl Margin for Held {
    fn target_logit(&self, target: &Target) -> TargetLogit {
        let norm = self.norms[target.row()];
        self.loss.target_logit(&target.with_feature_norm(norm))
    }
}

/// What is composed reaches the loss whose statistics move first, and its statistics come back.
#[test]
fn statistics_go_with_what_is_composed() -> Result<(), Box<dyn std::error::Error>> {
    fn compose<L>(loss: L) -> Result<Composed<L>, Error> {
        Composed::new(loss)
            .with_sub_centers(3)?
            .with_focal(1.0)?
            .with_class_priors(&counts(9), 1.0)
    }

    let mut batch = batch(28, 9);
    batch.centers = batch.centers.slice_move(ndarray::s![..9, ..]);
    let (x, w) = (batch.features.view(), batch.weights.view());
    let targets = Targets::new(&batch.labels);
    let loss = AdaFace::new(7.0, 0.4)?
        .with_momentum(0.9)?
        .with_concentration(4.0)?;
    let alone = loss.evaluate(x, w, &targets)?;
    let mut composed = compose(loss)?;
    let found = composed.evaluate(x, w, &targets)?;
    assert_eq!(found.statistics(), alone.statistics());
    assert!(found.statistics()[0] < 10.0 && found.forward.sub_centers.len() == 5);

    let mut held = loss;
    held.set_statistics(found.statistics())?;
    let norms: Vec<f64> = (x.outer_iter().map(|x| x.dot(&x).sqrt())).collect();
    assert!(norms.iter().any(|&norm| held.quality(norm).abs() > 0.1));
    let held = Held { loss: held, norms };
    let mut held = compose(MarginSoftmax::new(held, 7.0)?)?;
    check_gradients("AdaFace, held", &mut held, &batch)?;
    let expected = held.evaluate(x, w, &targets)?;
    assert_close(
        "∂X",
        &wide(&found.grad_features),
        &wide(&expected.grad_features),
        1e-13,
    );
    assert_close(
        "∂W",
        &wide(&found.grad_weights),
        &wide(&expected.grad_weights),
        1e-13,
    );
    assert_close("loss", &[found.loss()], &[expected.loss()], 1e-13);

    let joint = JointLoss::new(composed.clone(), batch.centers.view(), 0.1)?;
    assert_eq!(
        joint.evaluate(x, w, &targets)?.statistics(),
        found.statistics()
    );
    let line = "adaface:alpha=0.9,h=4,s=7+subcenters:k=3+center";
    let mut objective: Objective = line.parse()?;
    let out = objective
        .over_centers(batch.centers.view())
        .evaluate(x, w, &targets)?;
    assert_eq!(out.statistics(), found.statistics());
    objective.set_statistics(out.statistics())?;
    assert_eq!(objective.statistics(), found.statistics());
    let composed: &mut dyn MarginLoss<f64> = &mut composed;
    composed.set_statistics(found.statistics())?;
    assert_eq!(composed.statistics(), found.statistics());
    Ok(())
}

/// CurricularFace's t follows the cosines to the nearest sub-center of the target.
#[test]
fn the_curriculum_follows_the_nearest_sub_center() -> Result<(), Box<dyn std::error::Error>> {
    let batch = batch(29, 9);
    let (x, w) = (batch.features.view(), batch.weights.view());
    let targets = Targets::new(&batch.labels);
    let compose = |loss| Composed::new(loss).with_sub_centers(3)?.with_focal(1.0);
    let loss = CurricularFace::new(7.0, 0.2)?
        .with_momentum(0.75)?
        .with_t(0.4)?;
    let found = compose(loss)?.evaluate(x, w, &targets)?;
    let mean = found.forward.target_cosines.mean().expect("rows");
    assert_close("t", found.statistics(), &[0.75 * mean + 0.25 * 0.4], 1e-14);
    // The mean over the first of each three, as without sub-centers, is another.
    let first = w.slice(ndarray::s![..;3, ..]);
    let alone = loss.evaluate(x, first, &targets)?;
    assert!((found.statistics()[0] - alone.statistics()[0]).abs() > 0.1);

    let held = loss.with_momentum(0.0)?.with_t(found.statistics()[0])?;
    let mut held = compose(held)?;
    let expected = held.evaluate(x, w, &targets)?;
    assert_eq!(Snapshot::of(&found), Snapshot::of(&expected));
    check_gradients("CurricularFace, held", &mut held, &batch)?;
    Ok(())
}

/// Scores are without priors; the class that is predicted is the one of the nearest sub-center.
#[test]
fn predictions_know_sub_centers_and_no_priors() -> Result<(), Error> {
    let (x, w) = (
        array![[1.0, 0.1], [0.0, 2.0]],
        array![[0.1, 0.0], [0.0, -1.0], [3.0, 3.0], [0.0, 1.0]],
    );
    let loss = Composed::new(NormFace::new(8.0)?)
        .with_sub_centers(2)?
        .with_class_priors(&[1.0, 1000.0], 1.0)?;
    assert_eq!(loss.predict(x.view(), w.view())?, array![0, 1]);
    assert_eq!(loss.scores(x.view(), w.view())?.dim(), (2, 2));
    assert_eq!(MarginLoss::<f64>::sub_centers(&loss), 2);
    Ok(())
}

/// Ignored rows, row weights and a center term work as with the loss alone.
#[test]
fn it_goes_with_masks_and_centers() -> Result<(), Error> {
    let mut batch = batch(26, 9);
    batch.centers = batch.centers.slice_move(ndarray::s![..9, ..]);
    let loss = || Composed::new(ArcFace::new(7.0, 0.2)?).with_sub_centers(3);
    let joint = JointLoss::new(loss()?, batch.centers.view(), 0.1)?;
    let inner = JointLoss::new(ArcFace::new(7.0, 0.2)?, batch.centers.view(), 0.1)?;
    let outer = Composed::new(inner).with_sub_centers(3)?;
    let (x, w) = (batch.features.view(), batch.weights.view());
    let targets = Targets::new(&batch.labels);
    let (a, b) = (
        joint.evaluate(x, w, &targets)?,
        outer.evaluate(x, w, &targets)?,
    );
    assert_eq!(Snapshot::of(&a), Snapshot::of(&b));
    assert_eq!(a.grad_centers.dim(), (9, 5));

    let ignored = [false, true, false, false, false];
    let out = loss()?.evaluate(x, w, &targets.with_ignored_rows(&ignored))?;
    let rows = [0, 2, 3, 4];
    let kept: Vec<usize> = rows.iter().map(|&row| batch.labels[row]).collect();
    let part = batch.features.select(ndarray::Axis(0), &rows);
    let expected = loss()?.evaluate(part.view(), w, &Targets::new(&kept))?;
    assert_eq!(bits(&out.grad_weights), bits(&expected.grad_weights));
    assert_eq!(out.forward.sub_centers[2], expected.forward.sub_centers[1]);
    assert_eq!(out.forward.sub_centers.len(), 5);
    Ok(())
}

#[test]
fn what_is_no_loss_together_is_refused() -> Result<(), Error> {
    let batch = batch(27, 9);
    let (x, w) = (batch.features.view(), batch.weights.view());
    let targets = Targets::new(&batch.labels);
    let refused =
        |loss: &dyn MarginLoss<f64>| loss.evaluate(x, w, &targets).unwrap_err().to_string();
    let arc = ArcFace::new(7.0, 0.2)?;
    let three = Composed::new(arc).with_sub_centers(3)?;
    assert!(refused(&Composed::new(three.clone()).with_focal(1.0)?).contains("composed already"));
    assert!(refused(&Composed::new(CenterLoss::new()).with_focal(1.0)?).contains("is no softmax"));
    assert!(
        refused(&Composed::new(SoftmaxLoss::new()).with_sub_centers(3)?)
            .contains("does not normalise")
    );
    assert_eq!(
        refused(&Composed::new(arc).with_sub_centers(4)?),
        "class weights: 27 rows are not a multiple of the 4 sub-centers of each class"
    );
    assert_eq!(
        three
            .with_class_priors(&[1.0; 27], 1.0)?
            .evaluate(x, w, &targets)
            .unwrap_err(),
        Error::RowCount {
            argument: Argument::ClassPriors,
            expected: 9,
            found: 27
        }
    );
    for (found, message) in [
        (
            Composed::new(arc).with_sub_centers(0),
            "k is 0, but must be at least 1",
        ),
        (
            Composed::new(arc).with_label_smoothing(1.0),
            "epsilon is 1, but must lie in [0, 1)",
        ),
        (
            Composed::new(arc).with_focal(-1.0),
            "gamma is -1, but must lie in [0, 100]",
        ),
        (
            Composed::new(arc).with_class_priors(&[1.0, 0.0], 1.0),
            "count is 0, but must be positive",
        ),
        (
            Composed::new(arc).with_class_priors(&[1.0, f64::NAN], 1.0),
            "class priors entry 1 is a NaN or an infinity",
        ),
    ] {
        assert_eq!(found.unwrap_err().to_string(), message);
    }
    Ok(())
}

#[test]
fn compositions_are_lines_of_text() -> Result<(), Error> {
    for (line, printed) in [
        (
            "arcface:s=32,m=0.2+subcenters:k=3",
            "arcface:s=32,m=0.2+subcenters:k=3",
        ),
        ("cosface+focal", "cosface:s=64,m=0.35+focal:gamma=2"),
        (
            "softmax + smoothing(epsilon=0.1) + center",
            "softmax+smoothing:epsilon=0.1+center:lambda=0.003",
        ),
        (
            "softmax+priors:log=-0.5/-1e-9+center:lambda=0.1",
            "softmax+priors:log=-0.5/-1e-9+center:lambda=0.1",
        ),
        ("softmax+sub-centers:k=1", "softmax"),
        (
            "arcface+inter-topk",
            "arcface:s=64,m=0.5+intertopk:k=5,m=0.06",
        ),
        (
            "cosface+intertopk:k=2,m=0,cosine+subcenters:k=3",
            "cosface:s=64,m=0.35+subcenters:k=3+intertopk:k=2,m=0,cosine",
        ),
        ("arcface+intertopk:k=0", "arcface:s=64,m=0.5"),
        (
            "mv-softmax:s=32,m=0.35,t=0.2+smoothing:epsilon=0.1+focal+subcenters:k=3",
            "mv-softmax:s=32,m=0.35,t=0.2+subcenters:k=3+smoothing:epsilon=0.1+focal:gamma=2",
        ),
    ] {
        let objective: Objective = line.parse()?;
        assert_eq!(objective.to_string(), printed);
        assert_eq!(printed.parse::<Objective>()?, objective);
    }
    let composed = Composed::new(ArcFace::new(32.0, 0.2)?).with_sub_centers(3)?;
    assert_eq!(composed.to_string(), "arcface:s=32,m=0.2+subcenters:k=3");
    let boxed: Box<dyn MarginLoss<f32>> = Box::new(composed);
    assert_eq!(boxed.to_string(), "arcface:s=32,m=0.2+subcenters:k=3");
    let objective =
        Objective::new(Composed::new(AnyLoss::from(ArcFace::default())).with_focal(1.0)?)?;
    assert_eq!(objective.to_string(), "arcface:s=64,m=0.5+focal:gamma=1");
    let refused = |line: &str| line.parse::<Objective>().unwrap_err().to_string();
    assert_eq!(
        refused("arcface+subcenters"),
        "subcenters needs the parameter k, as in subcenters:k=3"
    );
    assert!(
        refused("arcface+smooth:epsilon=1")
            .starts_with("there is no term \"smooth\", but there are subcenters,")
    );
    assert!(refused("center+focal").contains("softmax+center"));
    Ok(())
}

/// A single class is certain under smoothed labels too. Rounding does not take its loss below 0, of which focal modulation has no
/// power.
fn one_class<A: Float>() {
    for seed in 0..4 {
        let batch = Batch::<A>::random(80 + seed, 6, 1, 5);
        for gamma in [0.0, 0.5, 2.0] {
            let loss = Composed::new(CosFace::new(30.0, 0.35).expect("in range"));
            let loss = loss.with_label_smoothing(0.1).expect("in range");
            let loss = loss.with_focal(gamma).expect("in range");
            let (x, w) = (batch.features.view(), batch.weights.view());
            let out = loss.evaluate(x, w, &Targets::new(&batch.labels));
            let out = out.expect("a good batch");
            let small = |values: Vec<f64>| values.iter().all(|value| value.abs() < 1e-5);
            let losses = wide(&out.forward.row_losses);
            assert!(losses.iter().all(|&loss| loss >= 0.0), "{losses:?}");
            assert!(small(losses) && small(wide(&out.grad_features)));
            assert!(small(wide(&out.grad_weights)));
        }
    }
}

#[test]
fn one_class_is_certain() {
    one_class::<f32>();
    one_class::<f64>();
}

/// What focal modulation leaves of these rows is less than `f32` holds, and their short features make numbers of it again.
#[test]
fn what_is_modulated_to_nearly_nothing_keeps_its_digits() -> Result<(), Error> {
    let w = array![
        [1.0_f32, 0.1],
        [1.0, -0.1],
        [-1.0, 0.3],
        [-1.0, -0.2],
        [-0.3, 1.0],
        [0.1, 1.0]
    ];
    let x = array![[1e-12_f32, 2e-14], [-3e-12, 1e-13]];
    let targets = Targets::new(&[0, 1]);
    let loss = Composed::new(CosFace::new(30.0, 0.1)?).with_sub_centers(2)?;
    let loss = loss.with_label_smoothing(1e-9)?.with_focal(5.0)?;
    let found = loss.evaluate(x.view(), w.view(), &targets)?;
    let [x, w] = [x, w].map(|rows| rows.mapv(f64::from));
    let expected = loss.evaluate(x.view(), w.view(), &Targets::new(&[0, 1]))?;
    for row in 0..2 {
        let (found, expected) = (
            found.grad_features.row(row),
            expected.grad_features.row(row),
        );
        assert_close("∂x", &wide(found), &wide(expected), 1e-4);
    }
    Ok(())
}

/// Logits whose sum `f32` cannot hold make −∞ of the smoothed loss: that is refused, and no loss of 0.
#[test]
fn a_sum_of_logits_that_overflows_is_refused() -> Result<(), Error> {
    let w = Array2::from_shape_fn((1200, 2), |(_, entry)| [1.0_f32, 0.0][entry]);
    let x = array![[1.2e38_f32, 0.0]];
    let loss = Composed::new(ModifiedSoftmax::new()).with_sub_centers(2)?;
    let loss = loss.with_label_smoothing(0.1)?;
    let error = loss.evaluate(x.view(), w.view(), &Targets::new(&[0]));
    assert_eq!(
        error.unwrap_err().to_string(),
        "features row 0 makes a loss larger than the element type can hold"
    );
    Ok(())
}
