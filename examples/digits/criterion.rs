//! The losses of the table, with the hyper-parameters they run with, and what each needs between two steps.

use std::str::FromStr;

use margin_losses::ndarray::{Array2, ArrayView2};
use margin_losses::schedule::LambdaAnnealing;
use margin_losses::{
    AnyLoss, CenterLoss, Error, Evaluation, MarginLoss, Objective, Targets, guide,
};

/// The target's probability that the scale of the normalised losses must make possible.
const TARGET_PROBABILITY: f64 = 0.9999;
/// Center loss: the share α of the way that centers go in a step.
const CENTER_RATE: f64 = 0.5;
/// The step of network, class weights and learned numbers alike.
pub(crate) const LEARNING_RATE: f64 = 0.02;
const MOMENTUM: f64 = 0.9;

/// The losses of the table, unless others are named.
const TABLE: [&str; 16] = [
    "softmax",
    "softmax+center",
    "modified-softmax",
    "a-softmax",
    "normface",
    "normface:s=1,learned",
    "am-softmax",
    "cosface",
    "arcface",
    "combined:m2=0.3,m3=0.2",
    "sphereface2",
    "uniface",
    "adaface",
    "magface",
    "mv-softmax",
    "curricularface",
];

/// A loss of the table, as the line that names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Loss(String);

impl FromStr for Loss {
    type Err = Error;

    fn from_str(line: &str) -> Result<Self, Error> {
        // No scale within its range makes a line wrong.
        read(line, 1.0)?;
        Ok(Self(line.trim().to_owned()))
    }
}

impl Loss {
    pub(crate) fn table() -> Vec<Self> {
        TABLE.map(|line| Self(line.to_owned())).to_vec()
    }

    /// K, the rows of W that each class has.
    pub(crate) fn sub_centers(&self) -> Result<usize, Error> {
        Ok(read(&self.0, 1.0)?.classifier().sub_centers())
    }

    /// Its name in the table.
    pub(crate) fn title(&self) -> &str {
        &self.0
    }
}

/// What the line means; where it leaves out the scale of a loss that has one, that is this scale.
fn read(line: &str, scale: f64) -> Result<Objective, Error> {
    let end = line.find([':', '(', '+']).unwrap_or(line.len());
    let (name, rest) = line.split_at(end);
    let (mark, rest) = match rest.split_at_checked(1) {
        Some((mark @ (":" | "("), rest)) => (mark, rest),
        _ => (":", rest),
    };
    let is_more = rest.trim_start().starts_with(char::is_alphabetic);
    let comma = if is_more { "," } else { "" };
    let with_scale = format!("{name}{mark}s={scale}{comma}{rest}");
    // It is refused where the loss has no scale, or was given one.
    with_scale.parse().or_else(|_| line.parse())
}

/// The scale of every loss that normalises the features, but for the learned one.
pub(crate) fn scale(classes: usize) -> Result<f64, Error> {
    guide::suggested_scale(classes, TARGET_PROBABILITY)
}

/// A loss in training, and the state that it leaves to its caller.
#[derive(Debug)]
pub(crate) struct Criterion {
    objective: Objective,
    /// The velocities of the loss's learnables.
    velocities: Vec<f64>,
    /// The centers of the classes, which only center loss looks at.
    centers: Array2<f32>,
    /// The course of A-Softmax's λ: its margin enters bit by bit.
    annealing: Option<LambdaAnnealing>,
    iteration: u64,
}

impl Criterion {
    pub(crate) fn new(loss: &Loss, classes: usize, dim: usize) -> Result<Self, Error> {
        let mut objective = read(loss.title(), scale(classes)?)?;
        let begun: Option<AnyLoss> = match objective.classifier().loss() {
            AnyLoss::SphereFace2(bare) if bare.bias() == 0.0 => Some(
                bare.with_bias(guide::sphere_face2_bias(classes, bare)?)?
                    .into(),
            ),
            AnyLoss::UniFace(bare) if bare.biases() == [0.0] => {
                let bias = guide::uni_face_bias(classes, 1.0)?;
                Some(bare.clone().with_bias(bias)?.into())
            }
            _ => None,
        };
        if let Some(begun) = begun {
            objective.set_classifier(begun)?;
        }
        let annealed = matches!(objective.classifier().loss(), AnyLoss::ASoftmax(bare) if bare.lambda() == 0.0);
        Ok(Self {
            velocities: vec![0.0; objective.learnables().len()],
            objective,
            centers: Array2::zeros((classes, dim)),
            annealing: annealed.then(LambdaAnnealing::sphere_face),
            iteration: 0,
        })
    }

    /// Loss and gradients of a training batch; then the loss's own state takes its step.
    pub(crate) fn step(
        &mut self,
        features: ArrayView2<'_, f32>,
        weights: ArrayView2<'_, f32>,
        labels: &[usize],
        evaluation: &mut Evaluation<f32>,
    ) -> Result<(), Error> {
        // SphereFace counts its first iteration as 1.
        self.iteration += 1;
        if let (Some(annealing), AnyLoss::ASoftmax(loss)) =
            (&self.annealing, self.objective.classifier().loss())
        {
            let loss = loss.with_lambda(annealing.at(self.iteration))?;
            self.objective.set_classifier(loss)?;
        }

        self.objective
            .over_centers(self.centers.view())
            .evaluate_into(features, weights, &Targets::new(labels), evaluation)?;
        if self.objective.lambda().is_some() {
            CenterLoss::update_centers(self.centers.view_mut(), features, labels, CENTER_RATE)?;
        }

        let mut learnables = self.objective.learnables().to_vec();
        for ((value, velocity), &gradient) in learnables
            .iter_mut()
            .zip(&mut self.velocities)
            .zip(&evaluation.grad_learnables)
        {
            *velocity = MOMENTUM * *velocity + f64::from(gradient);
            *value -= LEARNING_RATE * *velocity;
        }
        self.objective.set_learnables(&learnables)?;
        self.objective.set_statistics(evaluation.statistics())
    }

    /// The share of rows that are taken for their class.
    pub(crate) fn accuracy(
        &self,
        features: ArrayView2<'_, f32>,
        weights: ArrayView2<'_, f32>,
        labels: &[usize],
    ) -> Result<f64, Error> {
        let best = self.objective.classifier().predict(features, weights)?;
        let right = best
            .iter()
            .zip(labels)
            .filter(|(best, label)| best == label);
        Ok(right.count() as f64 / labels.len() as f64)
    }
}

#[cfg(test)]
mod tests {
    use margin_losses::ndarray::{Array2, Axis};
    use margin_losses::{AnyLoss, Evaluation, SphereFace2, guide};

    use super::{Criterion, Loss, TABLE, read, scale};

    #[test]
    fn biases_begin_where_the_guide_says_and_are_learned() {
        let weights = Array2::<f32>::eye(10);
        for (line, first) in [
            ("uniface", guide::uni_face_bias(10, 1.0).unwrap()),
            ("uniface:b=2", 2.0),
            (
                "sphereface2",
                guide::sphere_face2_bias(10, &SphereFace2::new(scale(10).unwrap(), 0.4).unwrap())
                    .unwrap(),
            ),
        ] {
            let mut criterion = Criterion::new(&line.parse().unwrap(), 10, 10).unwrap();
            assert_eq!(criterion.objective.learnables(), [first], "{line}");
            let labels = [3; 4];
            let features = weights.select(Axis(0), &labels);
            let mut out = Evaluation::new();
            criterion
                .step(features.view(), weights.view(), &labels, &mut out)
                .unwrap();
            assert_ne!(criterion.objective.learnables(), [first], "{line}");
        }
    }

    /// But for center loss, which is never alone, and margins by class, which have a line for each loss or as many as classes.
    #[test]
    fn the_table_has_every_loss() {
        for name in AnyLoss::NAMES.iter().filter(|name| {
            **name != "center" && **name != "adaptiveface" && !name.starts_with("varying")
        }) {
            let of_it = |line: &&str| line.split(':').next() == Some(name);
            assert!(TABLE.iter().any(of_it), "{name}");
        }
    }

    #[test]
    fn sub_centers_have_rows_of_their_own() {
        let loss: Loss = "arcface+subcenters:k=3".parse().unwrap();
        assert_eq!(loss.sub_centers(), Ok(3));
        assert_eq!("arcface".parse::<Loss>().unwrap().sub_centers(), Ok(1));
    }

    #[test]
    fn scales_are_completed() {
        for (line, expected) in [
            ("arcface", "arcface:s=12,m=0.5"),
            ("arcface()", "arcface:s=12,m=0.5"),
            ("arcface:+center", "arcface:s=12,m=0.5+center:lambda=0.003"),
            ("arcface:m=0.2", "arcface:s=12,m=0.2"),
            ("ArcFace(m=0.2)", "arcface:s=12,m=0.2"),
            ("arcface:s=10,m=0.2", "arcface:s=10,m=0.2"),
            ("arcface:m=0.2,scale=10", "arcface:s=10,m=0.2"),
            ("normface", "normface:s=12"),
            ("normface:learned", "normface:s=12,learned"),
            ("normface:s=learned", "normface:s=10,learned"),
            (
                "cosface+center:lambda=0.1",
                "cosface:s=12,m=0.35+center:lambda=0.1",
            ),
            ("softmax", "softmax"),
            ("softmax+center", "softmax+center:lambda=0.003"),
            ("modified", "modified-softmax"),
        ] {
            assert_eq!(read(line, 12.0).unwrap().to_string(), expected, "{line}");
        }
        for line in TABLE {
            assert!(line.parse::<Loss>().is_ok(), "{line}");
        }
        let refusal = |line: &str| line.parse::<Loss>().unwrap_err().to_string();
        assert!(
            refusal("arcface:s=10,m=28")
                .starts_with("margin is 28, but must lie in [0, pi) radians")
        );
        assert!(refusal("center").contains("softmax+center"));
    }
}
