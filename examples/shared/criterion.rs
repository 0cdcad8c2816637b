//! Losses that a line names, and what each needs between two steps.

use std::str::FromStr;

use margin_losses::ndarray::{Array2, ArrayView2};
use margin_losses::schedule::{LambdaAnnealing, MarginWarmUp};
use margin_losses::{
    AnyLoss, CenterLoss, Error, Evaluation, MarginLoss, Objective, Targets, guide,
};

/// Center loss: the share α of the way that centers go in a step.
const CENTER_RATE: f64 = 0.5;
const MOMENTUM: f64 = 0.9;

/// A loss, as the line that names it.
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

/// The same loss with this share of its margin, wherever in its line the margin stands; the state is as the line has it.
fn with_share(loss: &AnyLoss, share: f64) -> Result<AnyLoss, Error> {
    let line = loss.to_string();
    // The margin of A-Softmax is a whole number, and enters by λ.
    if matches!(loss, AnyLoss::ASoftmax(_)) {
        return Ok(loss.clone());
    }
    let Some((name, parameters)) = line.split_once(':') else {
        return Ok(loss.clone());
    };
    let parameters: Vec<String> = parameters
        .split(',')
        .map(|parameter| match parameter.split_once('=') {
            Some((key @ ("m" | "m2" | "m3" | "l_m" | "u_m"), margins)) => {
                format!("{key}={}", scaled(margins, share))
            }
            // The factor of the angle, which without margin is 1.
            Some(("m1", factor)) => {
                let factor: f64 = factor.parse().expect("a factor is printed as a number");
                format!("m1={}", 1.0 + share * (factor - 1.0))
            }
            _ => parameter.to_owned(),
        })
        .collect();
    format!("{name}:{}", parameters.join(",")).parse()
}

/// A margin, or a list of them, times this share.
fn scaled(margins: &str, share: f64) -> String {
    let one = |margin: &str| {
        margin.parse().map_or_else(
            |_| String::new(),
            |margin: f64| (share * margin).to_string(),
        )
    };
    margins.split('/').map(one).collect::<Vec<_>>().join("/")
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
    /// The loss with its whole margin, and the share of that which is there in each iteration.
    warm_up: Option<(AnyLoss, MarginWarmUp)>,
    iteration: u64,
}

impl Criterion {
    /// The loss at this scale, unless its line has another; the margin is there from the first step.
    pub(crate) fn new(loss: &Loss, scale: f64, classes: usize, dim: usize) -> Result<Self, Error> {
        let mut objective = read(loss.title(), scale)?;
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
            warm_up: None,
            iteration: 0,
        })
    }

    /// The same with a margin that grows from nothing over so many iterations.
    #[allow(dead_code)] // `digits` does not call it
    pub(crate) fn with_warm_up(self, iterations: u64) -> Result<Self, Error> {
        let whole = self.objective.classifier().loss().clone();
        let warm_up = Some((whole, MarginWarmUp::new(0.0, 1.0, iterations)?));
        Ok(Self { warm_up, ..self })
    }

    /// Loss and gradients of a training batch; then the loss's own state takes its step, at this learning rate.
    pub(crate) fn step(
        &mut self,
        rate: f64,
        features: ArrayView2<'_, f32>,
        weights: ArrayView2<'_, f32>,
        labels: &[usize],
        evaluation: &mut Evaluation<f32>,
    ) -> Result<(), Error> {
        self.take_margin()?;
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
            *value -= rate * *velocity;
        }
        if matches!(self.objective.classifier().loss(), AnyLoss::AdaptiveFace(_)) {
            // Margins, which are refused outside of their range.
            for margin in &mut learnables {
                *margin = margin.clamp(0.0, 1.0);
            }
        }
        self.objective.set_learnables(&learnables)?;
        self.objective.set_statistics(evaluation.statistics())
    }

    /// The margin of the next iteration.
    fn take_margin(&mut self) -> Result<(), Error> {
        if let Some((whole, warm_up)) = &self.warm_up
            && self.iteration <= warm_up.iterations()
        {
            let mut loss = with_share(whole, warm_up.at(self.iteration))?;
            loss.set_learnables(self.objective.learnables())?;
            loss.set_statistics(self.objective.statistics())?;
            self.objective.set_classifier(loss)?;
        }
        // SphereFace counts its first iteration as 1.
        self.iteration += 1;
        if let (Some(annealing), AnyLoss::ASoftmax(loss)) =
            (&self.annealing, self.objective.classifier().loss())
        {
            let loss = loss.with_lambda(annealing.at(self.iteration))?;
            self.objective.set_classifier(loss)?;
        }
        Ok(())
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

    use super::{Criterion, Loss, read, with_share};

    #[test]
    fn biases_begin_where_the_guide_says_and_are_learned() {
        let weights = Array2::<f32>::eye(10);
        for (line, first) in [
            ("uniface", guide::uni_face_bias(10, 1.0).unwrap()),
            ("uniface:b=2", 2.0),
            (
                "sphereface2",
                guide::sphere_face2_bias(10, &SphereFace2::new(12.0, 0.4).unwrap()).unwrap(),
            ),
        ] {
            let mut criterion = Criterion::new(&line.parse().unwrap(), 12.0, 10, 10).unwrap();
            assert_eq!(criterion.objective.learnables(), [first], "{line}");
            let labels = [3; 4];
            let features = weights.select(Axis(0), &labels);
            let mut out = Evaluation::new();
            criterion
                .step(0.02, features.view(), weights.view(), &labels, &mut out)
                .unwrap();
            assert_ne!(criterion.objective.learnables(), [first], "{line}");
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
        let refusal = |line: &str| line.parse::<Loss>().unwrap_err().to_string();
        assert!(
            refusal("arcface:s=10,m=28")
                .starts_with("margin is 28, but must lie in [0, pi) radians")
        );
        assert!(refusal("center").contains("softmax+center"));
    }

    #[test]
    fn margins_grow_wherever_they_stand() {
        for (line, half) in [
            ("softmax", "softmax"),
            ("normface:s=12", "normface:s=12"),
            ("a-softmax:m=4,lambda=0", "a-softmax:m=4,lambda=0"),
            (
                "arcface:s=12,m=0.5,past_pi=paper,filter=0.4",
                "arcface:s=12,m=0.25,past_pi=paper,filter=0.4",
            ),
            ("cosface:s=12,m=0.1/0.4", "cosface:s=12,m=0.05/0.2"),
            ("cosface:s=12,m=0.4/", "cosface:s=12,m=0.2/"),
            (
                "combined:s=12,m1=1.5,m2=0.3,m3=0.2",
                "combined:s=12,m1=1.25,m2=0.15,m3=0.1",
            ),
            (
                "magface:s=12,l_m=0.25,u_m=0.75,l_a=10,u_a=110,lambda_g=35",
                "magface:s=12,l_m=0.125,u_m=0.375,l_a=10,u_a=110,lambda_g=35",
            ),
            (
                "mv-softmax:s=12,m=0.5,t=0.2,arc",
                "mv-softmax:s=12,m=0.25,t=0.2,arc",
            ),
        ] {
            let loss: AnyLoss = line.parse().unwrap();
            assert_eq!(with_share(&loss, 0.5).unwrap().to_string(), half, "{line}");
            assert_eq!(with_share(&loss, 1.0).unwrap(), loss, "{line}");
            assert!(with_share(&loss, 0.0).is_ok(), "{line}");
        }
    }

    /// Scale and statistics have moved on when the margin grows, and stay as they are.
    #[test]
    fn a_warm_up_keeps_what_the_loss_has_learned() {
        let weights = Array2::<f32>::eye(4);
        let labels = [0, 1, 2, 3];
        for line in ["sphereface2", "adaface", "curricularface"] {
            let loss = line.parse().unwrap();
            let mut criterion = Criterion::new(&loss, 12.0, 4, 4)
                .and_then(|criterion| criterion.with_warm_up(4))
                .unwrap();
            let mut seen = Vec::new();
            for _ in 0..6 {
                let mut out = Evaluation::new();
                criterion
                    .step(0.1, weights.view(), weights.view(), &labels, &mut out)
                    .unwrap();
                let objective = &criterion.objective;
                let state = [objective.learnables(), objective.statistics()].concat();
                assert!(!seen.contains(&state), "{line}: {state:?}");
                seen.push(state);
            }
            let shown = criterion.objective.to_string();
            let whole = read(line, 12.0).unwrap().to_string();
            let margin = |line: &str| line.split([',', ':']).nth(2).map(str::to_owned);
            assert_eq!(margin(&shown), margin(&whole));
        }
    }
}
