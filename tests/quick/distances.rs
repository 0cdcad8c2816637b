//! C-contrastive and C-triplet: distances of unit vectors, hinges on both sides, every path, and what is refused.

use margin_losses::{
    AnyLoss, CContrastive, CTriplet, CenterLoss, Composed, Error, Evaluation, MarginLoss, Targets,
};
use ndarray::{Array2, Axis, array};

use crate::margins::{check_gradients, check_paths};
use crate::support::{Batch, assert_relative};

fn losses() -> Result<[Box<dyn MarginLoss<f64>>; 3], Error> {
    Ok([
        Box::new(CContrastive::new(1.7)?),
        Box::new(CTriplet::default()),
        Box::new(CTriplet::new(0.0)?),
    ])
}

fn unit(rows: &Array2<f64>) -> Array2<f64> {
    let norms = rows.map_axis(Axis(1), |row| row.dot(&row).sqrt());
    rows / &norms.insert_axis(Axis(1))
}

#[test]
fn gradients_are_those_of_the_loss() -> Result<(), String> {
    for seed in [51, 52] {
        for mut loss in losses().map_err(|error| error.to_string())? {
            let name = loss.to_string();
            check_gradients(&name, &mut *loss, &Batch::random(seed, 4, 27, 5))?;
        }
        let composed = CTriplet::default();
        let composed = Composed::new(composed).with_sub_centers(3);
        let mut composed = composed.map_err(|error| error.to_string())?;
        let mut batch = Batch::random(seed, 4, 27, 5);
        batch.labels.iter_mut().for_each(|label| *label %= 9);
        check_gradients("sub-centers", &mut composed, &batch)?;
    }
    Ok(())
}

#[test]
fn every_path_has_the_same_bits() -> Result<(), Error> {
    let batch = Batch::<f64>::random(53, 280, 901, 10);
    for loss in losses()? {
        check_paths(&loss.to_string(), &*loss, &batch)?;
    }
    Ok(())
}

/// Equations 10 and 11, entry by entry.
#[test]
fn the_losses_are_sums_over_distances() -> Result<(), Error> {
    let batch = Batch::<f64>::random(54, 40, 300, 6);
    let (x, w) = (unit(&batch.features), unit(&batch.weights));
    let targets = Targets::new(&batch.labels);
    let evaluate = |loss: &dyn MarginLoss<f64>| {
        loss.forward(batch.features.view(), batch.weights.view(), &targets)
    };
    let contrastive = evaluate(&CContrastive::new(1.7)?)?;
    let triplet = evaluate(&CTriplet::default())?;
    for (row, (x, &y)) in x.outer_iter().zip(&batch.labels).enumerate() {
        let distance = |class: usize| (&x - &w.row(class)).mapv(|entry| entry * entry).sum();
        let own = distance(y);
        let others = (0..300).filter(|&class| class != y);
        let hinges = |above: f64| -> f64 {
            (others.clone())
                .map(|class| (above - distance(class)).max(0.0))
                .sum()
        };
        let expected = own + hinges(1.7);
        assert_relative(
            "C-contrastive",
            contrastive.row_losses[row],
            expected,
            1e-12,
        );
        let expected = hinges(0.8 + own);
        assert_relative("C-triplet", triplet.row_losses[row], expected, 1e-12);
    }
    Ok(())
}

/// Without a margin no class pushes, and what is left is twice the center loss of unit vectors.
#[test]
fn without_a_margin_it_is_center_loss() -> Result<(), Error> {
    let mut batch = Batch::<f64>::random(55, 12, 7, 5);
    (batch.features, batch.weights) = (unit(&batch.features), unit(&batch.weights));
    let (x, w) = (batch.features.view(), batch.weights.view());
    let targets = Targets::new(&batch.labels);
    let found = CContrastive::new(0.0)?.forward(x, w, &targets)?;
    let center = CenterLoss::new().forward(x, w, &targets)?;
    for (found, center) in found.row_losses.iter().zip(&center.row_losses) {
        assert_relative("ℓ", *found, 2.0 * center, 1e-13);
    }
    Ok(())
}

/// At both poles, at a class that equals the target's, and at a hinge that is exactly 0.
#[test]
fn poles_and_ties() -> Result<(), Error> {
    let w = array![[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]];
    let evaluate = |loss: &dyn MarginLoss<f64>, x: Array2<f64>| -> Result<_, Error> {
        let out = loss.evaluate(x.view(), w.view(), &Targets::new(&[0]))?;
        assert!(
            out.grad_features
                .iter()
                .chain(&out.grad_weights)
                .all(|g| g.is_finite())
        );
        Ok(out)
    };
    let at = array![[2.0, 0.0]];
    assert_eq!(evaluate(&CContrastive::default(), at.clone())?.loss(), 1.0);
    assert_eq!(evaluate(&CTriplet::default(), at.clone())?.loss(), 0.8);
    // The class at right angles is at 2, and the opposite one at 4: hinges of 0, which do not push.
    let tie = evaluate(&CTriplet::new(2.0)?, at)?;
    assert_eq!(tie.loss(), 2.0);
    assert_eq!(tie.grad_weights.row(3).to_vec(), [0.0, 0.0]);
    let beyond = evaluate(&CTriplet::new(2.1)?, array![[2.0, 0.0]])?;
    assert_relative("∂w", beyond.grad_weights[[3, 0]], 2.0, 1e-12);
    assert_relative("∂x", beyond.grad_features[[0, 1]], 1.0, 1e-12);
    let opposite = evaluate(&CContrastive::default(), array![[-1.0, 0.0]])?;
    assert_eq!(opposite.loss(), 5.0);
    Ok(())
}

#[test]
fn bad_parameters_and_combinations_are_refused() -> Result<(), Error> {
    for margin in [-0.1, 4.1, f64::NAN] {
        let message = format!("margin is {margin}, but must lie in [0, 4]");
        assert_eq!(CContrastive::new(margin).unwrap_err().to_string(), message);
        assert_eq!(CTriplet::new(margin).unwrap_err().to_string(), message);
    }
    let batch = Batch::<f64>::random(56, 5, 12, 4);
    let targets = Targets::new(&batch.labels);
    let composed = || Composed::new(CTriplet::default());
    for (loss, refused) in [
        (composed().with_label_smoothing(0.1)?, "label smoothing"),
        (composed().with_focal(2.0)?, "label smoothing"),
        (
            composed().with_class_priors(&[1.0; 12], 1.0)?,
            "class priors",
        ),
    ] {
        let mut out = Evaluation::new();
        let (x, w) = (batch.features.view(), batch.weights.view());
        let found = loss.evaluate_into(x, w, &targets, &mut out).unwrap_err();
        assert!(found.to_string().starts_with(refused), "{found}");
        assert_eq!(out.grad_weights.dim(), (0, 0));
    }
    Ok(())
}

#[test]
fn they_are_lines_of_text() -> Result<(), Error> {
    for (line, loss) in [
        ("c-contrastive:m=1", AnyLoss::from(CContrastive::default())),
        ("c-triplet:m=0.8", CTriplet::default().into()),
        ("c-triplet:m=0.5", CTriplet::new(0.5)?.into()),
    ] {
        assert_eq!(line.parse::<AnyLoss>()?, loss);
        assert_eq!(loss.to_string(), line);
    }
    assert_eq!("CTriplet".parse::<AnyLoss>()?, CTriplet::default().into());
    Ok(())
}
