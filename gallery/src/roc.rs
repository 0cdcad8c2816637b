//! Receiver operating characteristics of all pairs of held-out digits, per loss.

use crate::Context;
use crate::chart::{Axis, Frame, LegendEntry, Panel, Sheet, Swatch};
use crate::shared::pairs;
use crate::training::Record;

/// The false-accept rates from which the curves are drawn, lowest and highest: a seed has 90,000 impostor pairs, and
/// below some ten of them a rate means little.
const RATES: [f64; 2] = [1e-4, 1.0];
const SAMPLES: usize = 201;

pub(crate) fn draw(context: &Context<'_>) -> Result<Sheet, String> {
    let records = context.records()?;
    let description =
        "True-accept rate against false-accept rate over all pairs of held-out digits, per loss";
    let mut sheet = Sheet::new(720.0, 470.0, description);
    let frame = Frame {
        left: 68.0,
        top: 14.0,
        width: 450.0,
        height: 390.0,
    };
    let x = Axis::logarithmic(RATES[0], RATES[1], 1).label("false-accept rate");
    let y = Axis::linear(0.6, 1.0, 0.1).label("true-accept rate");
    let rates: Vec<f64> = x.samples(SAMPLES).collect();
    let mut panel = Panel::new(frame, x, y);
    let mut legend = Vec::new();
    for (entry, records) in records.iter().filter(|(entry, _)| !entry.warmed_up) {
        let mut curve = vec![0.0; SAMPLES];
        for record in records {
            for (sum, accepted) in curve.iter_mut().zip(true_accepts(record, &rates)) {
                *sum += accepted / records.len() as f64;
            }
        }
        let points: Vec<[f64; 2]> = rates
            .iter()
            .zip(curve)
            .map(|(&rate, accepted)| [rate, accepted])
            .collect();
        panel.line(&points, entry.stroke);
        legend.push(LegendEntry::new(Swatch::Line(entry.stroke), entry.title));
    }
    panel.finish(&mut sheet);
    sheet.legend([540.0, 20.0], 1, 170.0, &legend);
    Ok(sheet)
}

fn true_accepts(record: &Record, rates: &[f64]) -> Vec<f64> {
    let units = pairs::unit_rows(record.after.embeddings.clone());
    let [genuine, impostor] = pairs::count(units.view(), &record.labels);
    at_rates(&genuine, &impostor, rates)
}

/// The share of genuine pairs above the lowest threshold that accepts no more than each rate of impostor pairs.
///
/// Pairs are given by the bin of their cosine, lowest first; rates ascend.
fn at_rates(genuine: &[u64], impostor: &[u64], rates: &[f64]) -> Vec<f64> {
    let total = |counts: &[u64]| counts.iter().sum::<u64>() as f64;
    let (all_genuine, all_impostor) = (total(genuine), total(impostor));
    let mut accepts = vec![0.0; rates.len()];
    let (mut accepted, mut fooled, mut next) = (0, 0, 0);
    for (genuine, impostor) in genuine.iter().zip(impostor).rev() {
        fooled += impostor;
        // The rates that this threshold exceeds are served by the last.
        while next < rates.len() && fooled as f64 > rates[next] * all_impostor {
            accepts[next] = accepted as f64 / all_genuine;
            next += 1;
        }
        accepted += genuine;
    }
    accepts[next..].fill(1.0);
    accepts
}

#[cfg(test)]
mod tests {
    use super::at_rates;

    #[test]
    fn rates_of_counts_worked_by_hand() {
        // From the highest threshold down: 4 of 10 genuine and 1 of 100 impostors, then 8 and 20, then all.
        let rates = [0.005, 0.01, 0.1, 0.2, 1.0];
        let found = at_rates(&[2, 4, 4], &[80, 19, 1], &rates);
        assert_eq!(found, [0.0, 0.4, 0.4, 0.8, 1.0]);
    }
}
