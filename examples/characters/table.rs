//! The table that the example prints.

use std::fmt::Write;

use crate::images::{Change, RARE, Training, divided};
use crate::losses::Choice;
use crate::runs::mean_and_deviation;
use crate::train::{FALSE_ACCEPT_RATES, Outcome, Setting};

/// A column: its heading, its figure in percent, and whether the least is the best.
struct Column {
    heading: String,
    figure: Box<dyn Fn(&Outcome) -> f64>,
    least: bool,
}

fn columns(long_tail: bool) -> Vec<Column> {
    let mut columns = vec![Column {
        heading: "EER, %".to_owned(),
        figure: Box::new(|outcome| 100.0 * outcome.equal_error_rate),
        least: true,
    }];
    columns.extend(
        FALSE_ACCEPT_RATES
            .iter()
            .enumerate()
            .map(|(at, rate)| Column {
                heading: format!("TAR at FAR {rate:e}, %"),
                figure: Box::new(move |outcome: &Outcome| 100.0 * outcome.true_accept_rates[at]),
                least: false,
            }),
    );
    if long_tail {
        let headings = [
            format!("accuracy, ≤ {RARE} images, %"),
            format!("> {RARE} images, %"),
        ];
        columns.extend(
            headings
                .into_iter()
                .enumerate()
                .map(|(at, heading)| Column {
                    heading,
                    figure: Box::new(move |outcome: &Outcome| {
                        100.0 * outcome.accuracies.map_or(f64::NAN, |both| both[at])
                    }),
                    least: false,
                }),
        );
    }
    columns
}

/// A Markdown table with one line for each loss: means over its runs, and standard deviations where there are several. The best of
/// each column is bold, and so are all that are printed alike.
pub(crate) fn render(rows: &[(Choice, Vec<Outcome>)]) -> String {
    let mut cells: Vec<Vec<String>> = vec![vec!["loss".to_owned()]];
    cells.extend(rows.iter().map(|(choice, _)| vec![format!("`{choice}`")]));
    let mut outcomes = rows.iter().flat_map(|(_, outcomes)| outcomes);
    let long_tail = outcomes.any(|outcome| outcome.accuracies.is_some());
    for column in columns(long_tail) {
        let figures: Vec<(f64, f64)> = rows
            .iter()
            .map(|(_, outcomes)| {
                let figures: Vec<f64> = outcomes.iter().map(&column.figure).collect();
                mean_and_deviation(&figures)
            })
            .collect();
        let sign = if column.least { -1.0 } else { 1.0 };
        let best = figures.iter().map(|(mean, _)| sign * mean);
        let best = format!("{:.2}", sign * best.fold(f64::NEG_INFINITY, f64::max));
        cells[0].push(column.heading);
        for (line, (mean, deviation)) in cells[1..].iter_mut().zip(figures) {
            let mean = format!("{mean:.2}");
            let mark = if mean == best { "**" } else { "" };
            // There is none of a single run.
            let spread = if deviation.is_finite() {
                format!(" ±{deviation:.2}")
            } else {
                String::new()
            };
            line.push(format!("{mark}{mean}{mark}{spread}"));
        }
    }
    aligned(&cells)
}

/// What the table is of.
pub(crate) fn legend(setting: &Setting<'_>, seeds: usize) -> String {
    let [trained, unseen] = divided(setting.dataset);
    let runs = match seeds {
        1 => "One run".to_owned(),
        _ => format!("Mean of {seeds} runs (± their standard deviation)"),
    };
    let Change { noise, long_tail } = setting.change;
    let wrong = if noise > 0.0 {
        format!(", {:.0} % of them with a wrong label", 100.0 * noise)
    } else {
        String::new()
    };
    let images = match Training::new(setting.dataset, setting.change, 1)
        .images
        .len()
    {
        images if long_tail => format!("{images} images in a long tail"),
        _ => format!("{} images", trained.len()),
    };
    let accuracy = if long_tail {
        "Accuracy: of the images that were left out, by how many of their class were not.\n"
    } else {
        ""
    };
    let (pairs, others) = (unseen.len() * (unseen.len() - 1) / 2, unseen.len());
    format!(
        "\n{runs}; trained on {images}{wrong}, verified on all {pairs} pairs of {others} images of other classes.\n\
         EER: equal error rate. TAR: true-accept rate at a false-accept rate (FAR). The best of each column is bold.\n\
         {accuracy}"
    )
}

fn aligned(cells: &[Vec<String>]) -> String {
    let widths: Vec<usize> = (0..cells[0].len())
        .map(|column| {
            let lengths = cells.iter().map(|line| line[column].chars().count());
            lengths.max().unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for (index, line) in cells.iter().enumerate() {
        for (cell, &width) in line.iter().zip(&widths) {
            write!(text, "| {cell:<width$} ").expect("a string takes any text");
        }
        text += "|\n";
        if index == 0 {
            for &width in &widths {
                write!(text, "|{:-<1$}", "", width + 2).expect("a string takes any text");
            }
            text += "|\n";
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::render;
    use crate::train::Outcome;

    fn outcome(equal_error_rate: f64, accepted: f64) -> Outcome {
        Outcome {
            equal_error_rate,
            true_accept_rates: vec![accepted; 3],
            curve: Vec::new(),
            accuracies: None,
            trouble: None,
        }
    }

    #[test]
    fn the_best_of_each_column_is_bold() {
        let rows = [
            (
                "arcface".parse().unwrap(),
                vec![outcome(0.05, 0.8), outcome(0.07, 0.8)],
            ),
            (
                "softmax".parse().unwrap(),
                vec![outcome(0.07, 0.7), outcome(0.07, 0.92)],
            ),
        ];
        let text = render(&rows);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4);
        assert!(
            lines[2].starts_with("| `arcface` | **6.00** ±1.41 | 80.00 ±0.00"),
            "{text}"
        );
        assert!(
            lines[3].starts_with("| `softmax` | 7.00 ±0.00     | **81.00** ±15.56"),
            "{text}"
        );
        let width = lines[0].chars().count();
        assert!(
            lines.iter().all(|line| line.chars().count() == width),
            "{text}"
        );
        assert!(!render(&[("arcface".parse().unwrap(), vec![outcome(0.05, 0.8)])]).contains('±'));

        let mut tailed = outcome(0.05, 0.8);
        tailed.accuracies = Some([0.25, 0.5]);
        let text = render(&[("arcface".parse().unwrap(), vec![tailed])]);
        let cells: Vec<&str> = text.trim_end().split('|').map(str::trim).collect();
        assert!(cells.ends_with(&["**25.00**", "**50.00**", ""]), "{text}");
    }
}
