//! The ROC of each loss, as a figure.

use crate::chart::{Axis, Frame, LegendEntry, Panel, Sheet, Stroke, Swatch};
use crate::losses::Choice;
use crate::train::Outcome;

/// The false-accept rates between which the curves are drawn: at the lower one there are some 1,300 pairs of different characters.
const RATES: [f64; 2] = [1e-4, 1e-1];
const SAMPLES: usize = 121;

/// The losses of a panel, in Okabe and Ito's colours; those of the other panels are grey.
const STROKES: [Stroke; 6] = [
    Stroke::new("#000000", 2.0, "7 4"),
    Stroke::solid("#d55e00", 2.2),
    Stroke::new("#0072b2", 2.2, "14 3 3 3"),
    Stroke::new("#009e73", 2.2, "5 3"),
    Stroke::new("#e69f00", 2.2, "12 3"),
    Stroke::new("#cc79a7", 2.2, "3 2"),
];
const OTHERS: Stroke = Stroke::solid("#d9d9d9", 1.0);

const COLUMNS: usize = 2;
const PANEL: [f64; 2] = [310.0, 230.0];
const LINE: f64 = 20.0;

/// The false-accept rates at which a curve has its points.
pub(crate) fn rates() -> Vec<f64> {
    axis().samples(SAMPLES).collect()
}

fn axis() -> Axis {
    Axis::logarithmic(RATES[0], RATES[1], 1).label("false-accept rate")
}

/// The mean curves of the runs: true-accept rates, at [`rates`].
pub(crate) fn draw(rows: &[(Choice, Vec<Outcome>)]) -> String {
    let curves: Vec<Vec<[f64; 2]>> = rows.iter().map(|(_, outcomes)| mean(outcomes)).collect();
    let least = curves.iter().flatten().map(|[_, y]| *y).fold(1.0, f64::min);
    let low = (10.0 * least).floor().min(9.0) / 10.0;

    // Panels of about one size.
    let panels = rows.len().div_ceil(STROKES.len());
    let in_each = rows.len().div_ceil(panels);
    let pitch = [
        PANEL[0] + 76.0,
        PANEL[1] + 56.0 + LINE * in_each as f64 + 16.0,
    ];
    let lines = panels.div_ceil(COLUMNS);
    let mut sheet = Sheet::new(
        16.0 + pitch[0] * panels.min(COLUMNS) as f64,
        14.0 + pitch[1] * lines as f64,
        "True-accept rate against false-accept rate over all pairs of characters not seen in training, per loss",
    );
    for (index, chosen) in (0..rows.len()).step_by(in_each).enumerate() {
        let chosen = chosen..rows.len().min(chosen + in_each);
        let frame = Frame {
            left: 62.0 + pitch[0] * (index % COLUMNS) as f64,
            top: 14.0 + pitch[1] * (index / COLUMNS) as f64,
            width: PANEL[0],
            height: PANEL[1],
        };
        let y = Axis::linear(low, 1.0, 0.1).label("true-accept rate");
        let mut panel = Panel::new(frame, axis(), y);
        for curve in &curves {
            panel.line(curve, OTHERS);
        }
        let mut legend = Vec::new();
        for (curve, ((choice, _), stroke)) in curves[chosen.clone()]
            .iter()
            .zip(rows[chosen].iter().zip(STROKES))
        {
            panel.line(curve, stroke);
            legend.push(LegendEntry::new(Swatch::Line(stroke), choice.to_string()));
        }
        panel.finish(&mut sheet);
        sheet.legend(
            [frame.left, frame.top + PANEL[1] + 46.0],
            1,
            PANEL[0],
            &legend,
        );
    }
    sheet.into_svg()
}

fn mean(outcomes: &[Outcome]) -> Vec<[f64; 2]> {
    let of = |(at, rate): (usize, f64)| {
        let sum: f64 = outcomes.iter().map(|outcome| outcome.curve[at]).sum();
        [rate, sum / outcomes.len() as f64]
    };
    rates().into_iter().enumerate().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::{draw, rates};
    use crate::losses::Choice;
    use crate::train::Outcome;

    #[test]
    fn every_loss_is_in_one_legend() {
        for losses in [1, 6, 7, 13] {
            let rows: Vec<(Choice, Vec<Outcome>)> = (1..=losses)
                .map(|scale| {
                    let outcome = Outcome {
                        equal_error_rate: 0.0,
                        true_accept_rates: vec![1.0; 3],
                        curve: rates().iter().map(|rate| rate.powf(0.1)).collect(),
                        accuracies: None,
                        trouble: None,
                    };
                    (
                        format!("normface:s={scale}").parse().unwrap(),
                        vec![outcome],
                    )
                })
                .collect();
            let svg = draw(&rows);
            for (choice, _) in &rows {
                assert_eq!(svg.matches(&format!("\n{choice}\n")).count(), 1, "{choice}");
            }
            assert!(svg.starts_with("<svg") && !svg.contains("NaN"));
        }
    }
}
