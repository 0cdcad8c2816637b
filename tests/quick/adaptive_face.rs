//! AdaptiveFace: margins that are learned, what they cost, and what the loss is where they are given.

use margin_losses::{
    AdaptiveFace, Composed, CosFace, Error, Float, MarginLoss, Reduction, Targets,
};

use crate::margins::{check_gradients, check_paths};
use crate::support::{Batch, Snapshot, assert_close, assert_relative, bits};

fn each(classes: usize) -> Vec<f64> {
    (0..classes)
        .map(|class| 0.3 + 0.01 * (class % 11) as f64)
        .collect()
}

#[test]
fn gradients_are_those_of_the_loss() -> Result<(), String> {
    let said = |error: Error| error.to_string();
    let loss = AdaptiveFace::new(7.0, each(27)).and_then(|loss| loss.with_lambda(3.0));
    let mut loss = loss.map_err(said)?;
    check_gradients("AdaptiveFace", &mut loss, &Batch::random(71, 5, 27, 5))?;
    let mut composed = AdaptiveFace::new(7.0, each(9))
        .and_then(|loss| Composed::new(loss).with_sub_centers(3)?.with_focal(1.5))
        .map_err(said)?;
    let mut batch = Batch::random(72, 5, 27, 5);
    batch.labels.iter_mut().for_each(|label| *label %= 9);
    check_gradients("with sub-centers and focal", &mut composed, &batch)?;
    let mut smoothed = AdaptiveFace::new(7.0, each(27))
        .and_then(|loss| Composed::new(loss).with_label_smoothing(0.1))
        .map_err(said)?;
    check_gradients("smoothed", &mut smoothed, &Batch::random(73, 5, 27, 5))
}

#[test]
fn every_path_has_the_same_bits() -> Result<(), Error> {
    let batch = Batch::<f64>::random(74, 280, 901, 10);
    check_paths("AdaptiveFace", &AdaptiveFace::new(7.0, each(901))?, &batch)
}

fn without_a_price<A: Float>() -> Result<(), Error> {
    let batch = Batch::<A>::random(75, 9, 12, 5);
    let targets = Targets::new(&batch.labels).with_row_weights(&batch.row_weights);
    let (x, w) = (batch.features.view(), batch.weights.view());
    let free = AdaptiveFace::new(20.0, each(12))?.with_lambda(0.0)?;
    let given = CosFace::new(20.0, 0.0)?.with_class_margins(each(12))?;
    let (mut found, expected) = (
        free.evaluate(x, w, &targets)?,
        given.evaluate(x, w, &targets)?,
    );
    assert!(
        found
            .grad_learnables
            .iter()
            .all(|&gradient| gradient >= A::zero())
    );
    found.grad_learnables.clone_from(&expected.grad_learnables);
    assert!(Snapshot::of(&found) == Snapshot::of(&expected));
    let paid = AdaptiveFace::new(20.0, each(12))?.with_lambda(5.0)?;
    let paid = paid.evaluate(x, w, &targets)?;
    assert_eq!(bits(&paid.grad_weights), bits(&expected.grad_weights));
    assert_eq!(bits(&paid.grad_features), bits(&expected.grad_features));
    Ok(())
}

#[test]
fn without_a_price_it_has_the_bits_of_cosface_with_class_margins() -> Result<(), Error> {
    without_a_price::<f32>()?;
    without_a_price::<f64>()
}

/// The price is part of each row's loss: a sum of two rows pays it twice.
#[test]
fn every_row_pays_the_price() -> Result<(), Error> {
    let batch = Batch::<f64>::random(76, 6, 5, 3);
    let (x, w) = (batch.features.view(), batch.weights.view());
    let free = AdaptiveFace::new(9.0, each(5))?.with_lambda(0.0)?;
    let paid = free.clone().with_lambda(10.0)?;
    let mean = each(5).iter().sum::<f64>() / 5.0;
    for (reduction, times) in [(Reduction::Mean, 1.0), (Reduction::Sum, 6.0)] {
        let targets = Targets::new(&batch.labels).with_reduction(reduction);
        let (a, b) = (
            free.evaluate(x, w, &targets)?,
            paid.evaluate(x, w, &targets)?,
        );
        assert_relative(
            "λ (1 − mean m)",
            b.loss() - a.loss(),
            times * 10.0 * (1.0 - mean),
            1e-12,
        );
        for (a, b) in a.grad_learnables.iter().zip(&b.grad_learnables) {
            assert_relative("−λ/C", b - a, times * -10.0 / 5.0, 1e-12);
        }
    }
    Ok(())
}

#[test]
fn margins_out_of_range_are_refused() -> Result<(), Error> {
    let mut loss = AdaptiveFace::new(30.0, vec![0.3, 0.4])?;
    let kept = loss.clone();
    for (values, message) in [
        (vec![0.5], "2 learnables expected, 1 found"),
        (
            vec![0.5, 1.5],
            "class margins entry 1 is 1.5, but must lie in [0, 1]",
        ),
        (
            vec![-0.1, 0.5],
            "class margins entry 0 is -0.1, but must lie in [0, 1]",
        ),
        (
            vec![0.1, f64::NAN],
            "class margins entry 1 is NaN, but must lie in [0, 1]",
        ),
    ] {
        assert_eq!(
            loss.set_learnables(&values).unwrap_err().to_string(),
            message
        );
        assert_eq!(loss, kept);
    }
    loss.set_margins(&[0.0, 1.0])?;
    assert_eq!(loss.learnables(), [0.0, 1.0]);
    assert_eq!(loss, AdaptiveFace::new(30.0, vec![0.0, 1.0])?);
    assert_eq!(AdaptiveFace::new(30.0, vec![]), Err(Error::NoClasses));
    assert!(AdaptiveFace::new(30.0, vec![2.0]).is_err());
    assert!(kept.clone().with_lambda(-1.0).is_err());

    let batch = Batch::<f64>::random(77, 4, 5, 3);
    let (x, w) = (batch.features.view(), batch.weights.view());
    let refused = kept
        .evaluate(x, w, &Targets::new(&batch.labels))
        .unwrap_err();
    assert_eq!(
        refused.to_string(),
        "class margins: 5 entries expected, 2 found"
    );
    // Scores have no margin.
    assert_eq!(kept.scores(x, w)?, CosFace::new(30.0, 0.0)?.scores(x, w)?);
    Ok(())
}

/// A gradient of a margin that no `f32` can hold.
#[test]
fn what_overflows_is_refused() -> Result<(), Error> {
    let (x, w) = (
        ndarray::array![[0.0_f32, 1.0]],
        ndarray::array![[-1.0_f32, 0.0], [1.0, 0.0]],
    );
    let loss = AdaptiveFace::new(1e6, vec![0.0, 0.0])?.with_lambda(0.0)?;
    let weights = [1e33_f32];
    let targets = Targets::new(&[0])
        .with_row_weights(&weights)
        .with_reduction(Reduction::None);
    let refused = loss.evaluate(x.view(), w.view(), &targets).unwrap_err();
    let expected = "class margins entry 0 makes a gradient larger than the element type can hold";
    assert_eq!(refused.to_string(), expected);
    Ok(())
}

#[cfg(feature = "rand")]
#[test]
fn margins_to_begin_with() -> Result<(), Error> {
    use margin_losses::margins;

    let drawn = margins::adaptive(2000, 3)?;
    assert!(drawn.iter().all(|margin| (0.3..0.4).contains(margin)));
    let mean = drawn.iter().sum::<f64>() / 2000.0;
    assert!(
        (mean - 0.35).abs() < 3.0 * 0.1 / 12.0_f64.sqrt() / 2000.0_f64.sqrt(),
        "{mean}"
    );
    assert_eq!(margins::adaptive(2000, 3)?, drawn);
    assert_ne!(margins::adaptive(2000, 4)?, drawn);
    assert_eq!(margins::adaptive(0, 3), Err(Error::NoClasses));
    Ok(())
}

#[test]
fn many_margins_are_not_for_a_log() -> Result<(), Error> {
    let describe = |classes: usize| -> Result<String, Error> {
        let loss: Box<dyn MarginLoss<f64>> = Box::new(AdaptiveFace::new(30.0, vec![0.5; classes])?);
        Ok(loss.to_string())
    };
    assert_eq!(describe(2)?, "adaptiveface:s=30,m=0.5/0.5,lambda=70");
    assert_eq!(describe(17)?, "adaptiveface:s=30,m=(17 by class),lambda=70");
    let found = [0.3, 0.4];
    assert_close(
        "margins",
        AdaptiveFace::new(1.0, found.to_vec())?.margins(),
        &found,
        0.0,
    );
    Ok(())
}
