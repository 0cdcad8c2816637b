//! Precision near the target: the error of the target's gradient in `f32`, of this crate and of the usual ways to write
//! ArcFace.
//!
//! There is one row and one other class, orthogonal to both vectors of the target, so that `∂L/∂w_y` is the target's
//! term alone. The reference knows the exact angle and tangent of the rounded vectors: they come from the wedge product
//! `x ∧ w`, whose entries `x_i w_j − x_j w_i` are differences of products that `f64` holds exactly. This crate takes
//! another way, by chords.

use margin_losses::ndarray::{Array1, Array2, ArrayView1, s};
use margin_losses::{ArcFace, Error, MarginLoss, Targets, init};
use rayon::prelude::*;

use crate::Context;
use crate::chart::{Anchor, Axis, Frame, GREY, LegendEntry, Panel, Sheet, Stroke, Swatch};
use crate::palette::Family;

const DIM: usize = 512;
const TRIALS: usize = 192;
/// A scale at which the softmax's own rounding does not show.
const SCALE: f64 = 1.0;
const MARGIN: f64 = 0.5;
/// Norms such as networks give.
const NORMS: [f64; 2] = [20.0, 0.3];
const LOWEST: f64 = 1e-7;
const SAMPLES: usize = 36;

/// A way to the gradient `∂L/∂w_y`.
#[derive(Clone, Copy, Debug)]
enum Route {
    Crate,
    /// The angle by `acos` of the clamped cosine, differentiated as it stands.
    ArcCosine,
    /// `cosθ cos m − sinθ sin m` with `sinθ = √(1 − c²)`.
    SquareRoot,
    /// `acos` with the cosine clamped to ±(1 − 10⁻⁷): no gradient beyond.
    Clamped,
}

const ROUTES: [(Route, &str, Stroke); 4] = [
    (Route::Crate, "this crate", Family::ArcFace.stroke()),
    (
        Route::ArcCosine,
        "angle by acos(c)",
        Stroke::new("#332288", 2.2, "9 4"),
    ),
    (
        Route::SquareRoot,
        "sine by √(1 − c²)",
        Stroke::new("#44aa99", 2.4, "2.5 3"),
    ),
    (
        Route::Clamped,
        "acos(c), clamped to ±(1 − 10⁻⁷)",
        Stroke::new("#882255", 2.0, "10 3 2 3"),
    ),
];

/// One row, the weight of its class, and the exact gradient.
struct Trial {
    feature: Array1<f32>,
    weight: Array1<f32>,
    exact: Array1<f64>,
}

impl Trial {
    /// Two random vectors at about this angle, rounded to `f32`; the last entry of both is 0.
    fn new(theta: f64, seed: u64) -> Self {
        let directions: Array2<f64> =
            init::class_weights(2, DIM - 1, seed).expect("two rows fit into memory");
        let (x, other) = (directions.row(0), directions.row(1));
        let normal = &other - &(&x * x.dot(&other));
        let normal = &normal / normal.dot(&normal).sqrt();
        let w = &x * theta.cos() + normal * theta.sin();
        let round = |vector: Array1<f64>, norm: f64| {
            let mut rounded = Array1::zeros(DIM);
            rounded
                .slice_mut(s![..DIM - 1])
                .assign(&vector.mapv(|v| (norm * v) as f32));
            rounded
        };
        let feature = round(x.to_owned(), NORMS[0]);
        let weight = round(w, NORMS[1]);
        let exact = exact_gradient(feature.view(), weight.view());
        Self {
            feature,
            weight,
            exact,
        }
    }

    /// The relative error of a route; infinite or NaN if its gradient is.
    fn error(&self, route: Route) -> Result<f64, Error> {
        let found = match route {
            Route::Crate => self.by_crate()?,
            _ => usual(route, self.feature.view(), self.weight.view()),
        };
        let difference = found.mapv(f64::from) - &self.exact;
        Ok((difference.dot(&difference) / self.exact.dot(&self.exact)).sqrt())
    }

    fn by_crate(&self) -> Result<Array1<f32>, Error> {
        let mut weights = Array2::zeros((2, DIM));
        weights.row_mut(0).assign(&self.weight);
        weights[[1, DIM - 1]] = 1.0;
        let features = self
            .feature
            .view()
            .insert_axis(margin_losses::ndarray::Axis(0));
        let out =
            ArcFace::new(SCALE, MARGIN)?.evaluate(features, weights.view(), &Targets::new(&[0]))?;
        Ok(out.grad_weights.row(0).to_owned())
    }
}

/// `∂L/∂w = −(1 − p) s sin(θ + m)/‖w‖ · u`, u the unit tangent at w towards x.
fn exact_gradient(feature: ArrayView1<'_, f32>, weight: ArrayView1<'_, f32>) -> Array1<f64> {
    let (x, w) = (feature.mapv(f64::from), weight.mapv(f64::from));
    let mut squares = 0.0;
    let mut tangent = Array1::<f64>::zeros(DIM);
    for i in 0..DIM {
        for j in 0..i {
            let wedge = x[i] * w[j] - x[j] * w[i];
            squares += wedge * wedge;
            tangent[i] += wedge * w[j];
            tangent[j] -= wedge * w[i];
        }
    }
    let angle = f64::atan2(squares.sqrt(), x.dot(&w));
    let length = tangent.dot(&tangent).sqrt();
    let logit = SCALE * (angle + MARGIN).cos();
    let others = 1.0 / (1.0 + logit.exp());
    tangent * (-others * SCALE * (angle + MARGIN).sin() / w.dot(&w).sqrt() / length)
}

/// ArcFace as it is usually written, in `f32`, and what automatic differentiation makes of it.
fn usual(route: Route, x: ArrayView1<'_, f32>, w: ArrayView1<'_, f32>) -> Array1<f32> {
    let (scale, m) = (SCALE as f32, MARGIN as f32);
    let w_norm = w.dot(&w).sqrt();
    let (x, w) = (&x / x.dot(&x).sqrt(), &w / w_norm);
    let raw = x.dot(&w);
    let (psi, slope) = if let Route::SquareRoot = route {
        let sine = (1.0 - raw * raw).sqrt();
        (
            raw * m.cos() - sine * m.sin(),
            m.cos() + raw / sine * m.sin(),
        )
    } else {
        let limit = if let Route::Clamped = route {
            1.0 - 1e-7
        } else {
            1.0
        };
        let c = raw.clamp(-limit, limit);
        // The clamp passes no gradient from beyond its limits.
        let passed = if (-limit..=limit).contains(&raw) {
            1.0
        } else {
            0.0
        };
        let theta = c.acos();
        (
            (theta + m).cos(),
            passed * (theta + m).sin() / (1.0 - c * c).sqrt(),
        )
    };
    let others = 1.0 / (1.0 + (scale * psi).exp());
    (x - &w * raw) * (-others * scale * slope / w_norm)
}

/// What the trials at one angle say of a route: quantiles of the finite errors, and the share that is not finite.
struct Summary {
    quantiles: Option<[f64; 3]>,
    not_finite: f64,
}

fn summarise(mut errors: Vec<f64>) -> Summary {
    let all = errors.len();
    errors.retain(|error| error.is_finite());
    errors.sort_by(f64::total_cmp);
    let quantile = |share: f64| errors[((errors.len() - 1) as f64 * share).round() as usize];
    Summary {
        quantiles: (!errors.is_empty()).then(|| [0.1, 0.5, 0.9].map(quantile)),
        not_finite: 100.0 * (all - errors.len()) as f64 / all as f64,
    }
}

pub(crate) fn draw(_: &Context<'_>) -> Result<Sheet, String> {
    let angle = || Axis::logarithmic(LOWEST, 1.0, 1);
    let thetas: Vec<f64> = angle().samples(SAMPLES).collect();
    // By angle, then by route.
    let summaries: Vec<Vec<Summary>> = thetas
        .par_iter()
        .enumerate()
        .map(|(index, &theta)| {
            let first = index * TRIALS;
            let trials: Vec<Trial> = (first..first + TRIALS)
                .map(|seed| Trial::new(theta, seed as u64))
                .collect();
            ROUTES
                .iter()
                .map(|&(route, ..)| {
                    let errors: Result<Vec<f64>, Error> =
                        trials.iter().map(|trial| trial.error(route)).collect();
                    errors.map(summarise)
                })
                .collect::<Result<_, Error>>()
        })
        .collect::<Result<_, Error>>()
        .map_err(|error| error.to_string())?;

    let description = "Relative error of the target's gradient in single precision against the angle to the target, for \
                       this crate and three usual formulas, and how often these are not finite";
    let mut sheet = Sheet::new(720.0, 580.0, description);
    let frame = Frame {
        left: 76.0,
        top: 14.0,
        width: 620.0,
        height: 320.0,
    };
    let y = Axis::logarithmic(1e-8, 3.0, 1).label("relative error of the gradient");
    let mut errors = Panel::new(frame, angle().unlabelled(), y);
    let below = Frame {
        top: 350.0,
        height: 110.0,
        ..frame
    };
    let x = angle().label("angle to the target θ (radians)");
    let y = Axis::linear(-6.0, 106.0, 50.0).label("not finite (%)");
    let mut failures = Panel::new(below, x, y);
    for (index, &(_, _, stroke)) in ROUTES.iter().enumerate() {
        let of = |summary: &[Summary], quantile: usize| {
            summary[index]
                .quantiles
                .map_or(f64::NAN, |quantiles| quantiles[quantile])
        };
        let curve = |quantile: usize| -> Vec<[f64; 2]> {
            let points = thetas.iter().zip(&summaries);
            points
                .map(|(&theta, summary)| [theta, of(summary, quantile)])
                .collect()
        };
        let band: Vec<[f64; 2]> = curve(0)
            .into_iter()
            .chain(curve(2).into_iter().rev())
            .filter(|point| point[1].is_finite())
            .collect();
        errors.area(&band, stroke.colour, 0.15);
        errors.line(&curve(1), stroke);
        let shares: Vec<[f64; 2]> = thetas
            .iter()
            .zip(&summaries)
            .map(|(&theta, summary)| [theta, summary[index].not_finite])
            .collect();
        failures.line(&shares, stroke);
    }
    errors.finish(&mut sheet);
    failures.finish(&mut sheet);
    let legend: Vec<LegendEntry> = ROUTES
        .iter()
        .map(|&(_, text, stroke)| LegendEntry::new(Swatch::Line(stroke), text))
        .collect();
    sheet.legend([76.0, 508.0], 2, 260.0, &legend);
    sheet.text(
        [76.0, 568.0],
        Anchor::Start,
        GREY,
        "Above, of the finite results: median, and the 10th to the 90th percentile.",
    );
    Ok(sheet)
}

#[cfg(test)]
mod tests {
    use margin_losses::ndarray::Array1;

    use super::{DIM, MARGIN, Route, SCALE, Trial, exact_gradient, summarise};

    /// Vectors whose angle and tangent are known: x = e₁, w = e₁ + t e₂ with t a power of two.
    #[test]
    fn the_reference_is_exact() {
        for power in [1, 10, 20, 23] {
            let t = 0.5_f64.powi(power);
            let mut x = Array1::<f32>::zeros(DIM);
            let mut w = x.clone();
            (x[0], w[0], w[1]) = (1.0, 1.0, t as f32);
            let found = exact_gradient(x.view(), w.view());
            let theta = t.atan();
            let others = 1.0 / (1.0 + (SCALE * (theta + MARGIN).cos()).exp());
            let size = others * SCALE * (theta + MARGIN).sin() * theta.cos();
            // The tangent at w towards x is (sin θ, −cos θ), and the gradient leads away from it.
            assert!(
                (found[0] / (-size * theta.sin()) - 1.0).abs() < 1e-13,
                "{power}"
            );
            assert!(
                (found[1] / (size * theta.cos()) - 1.0).abs() < 1e-13,
                "{power}"
            );
        }
    }

    #[test]
    fn all_routes_agree_far_from_the_poles() {
        let trial = Trial::new(1.0, 1);
        for route in [
            Route::Crate,
            Route::ArcCosine,
            Route::SquareRoot,
            Route::Clamped,
        ] {
            let error = trial.error(route).unwrap();
            assert!(error < 2e-6, "{route:?}: {error}");
        }
    }

    #[test]
    fn what_is_not_finite_is_counted() {
        let summary = summarise(vec![f64::NAN, 3.0, f64::INFINITY, 1.0, 2.0]);
        assert_eq!(
            (summary.quantiles.unwrap()[1], summary.not_finite),
            (2.0, 40.0)
        );
        assert!(summarise(vec![f64::NAN]).quantiles.is_none());
    }
}
