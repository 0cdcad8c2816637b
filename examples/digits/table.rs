//! The table that the example prints.

use std::fmt::Write;

use crate::criterion::Loss;
use crate::runs::mean_and_deviation;
use crate::train::Outcome;

/// A column: its two lines of heading, its width, and its figure.
type Column = (&'static str, &'static str, usize, fn(&Outcome) -> f64);

const COLUMNS: [Column; 6] = [
    ("accuracy", "%", 9, |o| 100.0 * o.accuracy),
    ("EER", "%", 13, |o| 100.0 * o.verification.equal_error_rate),
    ("TAR at", "FAR 1e-2", 9, |o| {
        100.0 * o.verification.true_accept_rates[0].true_accept_rate
    }),
    ("TAR at", "FAR 1e-3", 9, |o| {
        100.0 * o.verification.true_accept_rates[1].true_accept_rate
    }),
    ("within", "class °", 8, |o| o.angles.within),
    ("between", "classes °", 10, |o| o.angles.between),
];
/// The column that the losses are compared by: it tells how much the runs differ.
const WITH_DEVIATION: usize = 1;

/// One line for each loss, with the means over its runs.
pub(crate) fn render(rows: &[(Loss, Vec<Outcome>)]) -> String {
    let upper = COLUMNS.map(|(heading, _, width, _)| format!("{heading:>width$}"));
    let lower = COLUMNS.map(|(_, heading, width, _)| format!("{heading:>width$}"));
    let mut lines = vec![
        format!("{:<23}{}", "", upper.concat()),
        format!("{:<23}{}", "loss", lower.concat()),
    ];
    for (loss, outcomes) in rows {
        let mut line = format!("{:<23}", loss.title());
        for (column, (_, _, width, figure)) in COLUMNS.into_iter().enumerate() {
            let figures: Vec<f64> = outcomes.iter().map(figure).collect();
            let (mean, deviation) = mean_and_deviation(&figures);
            let cell = if column == WITH_DEVIATION && figures.len() > 1 {
                format!("{mean:.2} ±{deviation:.2}")
            } else {
                format!("{mean:.2}")
            };
            write!(line, "{cell:>width$}").expect("a string takes any text");
        }
        lines.push(line);
    }
    lines.join("\n") + "\n"
}

/// What the columns mean.
pub(crate) fn legend(held_out: usize, seeds: usize, scale: f64, first_weights: f32) -> String {
    let pairs = held_out * (held_out - 1) / 2;
    let runs = match seeds {
        1 => "One run".to_owned(),
        _ => format!("Mean of {seeds} runs (± their standard deviation)"),
    };
    format!(
        "\n{runs}; {held_out} held-out images, {pairs} pairs; scale of the normalised losses {scale:.1}.\n\
         EER: equal error rate. TAR: true-accept rate, in %, at a false-accept rate (FAR).\n\
         Mean angles: of an embedding to the mean of its class, and between the means of classes.\n\
         The order depends on the network's first weights (here {first_weights} times PyTorch's default), the learning rate, the \
         epochs\nand the number of classes: no loss is tuned.\n"
    )
}
