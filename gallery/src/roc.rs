//! Receiver operating characteristics of all pairs of held-out digits, per loss.

use margin_losses::Error;
use margin_losses::verification::Embeddings;

use crate::Context;
use crate::chart::{Axis, Frame, LegendEntry, Panel, Sheet, Swatch};
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
            let accepts = true_accepts(record, &rates).map_err(|error| error.to_string())?;
            for (sum, accepted) in curve.iter_mut().zip(accepts) {
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

fn true_accepts(record: &Record, rates: &[f64]) -> Result<Vec<f64>, Error> {
    let embeddings = Embeddings::new(record.after.embeddings.view(), &record.labels)?;
    let points = embeddings.verify(rates)?.true_accept_rates;
    Ok(points.iter().map(|point| point.true_accept_rate).collect())
}
