//! An axis: its range, its scale, its ticks.

/// One axis of a panel.
#[derive(Clone, Debug)]
pub(crate) struct Axis {
    low: f64,
    high: f64,
    logarithmic: bool,
    /// Where the ticks are, and what they say.
    ticks: Vec<(f64, String)>,
    label: String,
}

impl Axis {
    /// A linear axis with a tick at each multiple of `step`.
    pub(crate) fn linear(low: f64, high: f64, step: f64) -> Self {
        let first = (low / step - 1e-9).ceil() as i64;
        let last = (high / step + 1e-9).floor() as i64;
        let decimals = (-step.log10() - 1e-9).ceil().max(0.0) as usize;
        // A step of 0.25 has one digit more than its size tells.
        let shown = format!("{step:.decimals$}").parse::<f64>();
        let decimals = decimals + usize::from(shown.is_ok_and(|shown| (shown - step).abs() > 1e-9));
        let ticks = (first..=last)
            .map(|index| {
                let value = index as f64 * step;
                (
                    value,
                    format!("{value:.decimals$}", value = value + 0.0).replace('-', "−"),
                )
            })
            .collect();
        Self {
            low,
            high,
            logarithmic: false,
            ticks,
            label: String::new(),
        }
    }

    /// A logarithmic axis with a tick at every `every`-th power of ten, written as such.
    pub(crate) fn logarithmic(low: f64, high: f64, every: i32) -> Self {
        let first = (low.log10() - 1e-9).ceil() as i32;
        let last = (high.log10() + 1e-9).floor() as i32;
        let ticks = (first..=last)
            .filter(|power| (last - power) % every == 0)
            .map(|power| (10_f64.powi(power), power_of_ten(power)))
            .collect();
        Self {
            low,
            high,
            logarithmic: true,
            ticks,
            label: String::new(),
        }
    }

    /// What the axis shows, with its unit.
    pub(crate) fn label(self, label: &str) -> Self {
        Self {
            label: label.to_owned(),
            ..self
        }
    }

    /// Other ticks, with what they say.
    pub(crate) fn ticks(self, ticks: &[(f64, &str)]) -> Self {
        let ticks = ticks
            .iter()
            .map(|&(at, text)| (at, text.to_owned()))
            .collect();
        Self { ticks, ..self }
    }

    /// The same ticks, without what they say: for inner panels that share an axis.
    pub(crate) fn unlabelled(self) -> Self {
        Self {
            ticks: self
                .ticks
                .into_iter()
                .map(|(at, _)| (at, String::new()))
                .collect(),
            label: String::new(),
            ..self
        }
    }

    pub(super) fn marks(&self) -> &[(f64, String)] {
        &self.ticks
    }

    pub(super) fn name(&self) -> &str {
        &self.label
    }

    /// Where a value lies on the axis, from 0 at its low end to 1 at its high end.
    pub(super) fn share(&self, value: f64) -> f64 {
        if self.logarithmic {
            // Zero has no place on a logarithmic axis: it lies far below it.
            let value = value.max(f64::MIN_POSITIVE);
            (value / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        }
    }

    /// `count` values, evenly spaced on the axis, both ends among them.
    pub(crate) fn samples(&self, count: usize) -> impl Iterator<Item = f64> {
        let (low, high, logarithmic) = (self.low, self.high, self.logarithmic);
        (0..count).map(move |index| {
            let share = index as f64 / (count - 1) as f64;
            if logarithmic {
                low * (high / low).powf(share)
            } else {
                low + (high - low) * share
            }
        })
    }
}

/// 10ⁿ, but for 0.1, 1, 10 and 100, which are shorter in full.
fn power_of_ten(power: i32) -> String {
    match power {
        -1 => "0.1".to_owned(),
        0..=2 => 10_i32.pow(power.unsigned_abs()).to_string(),
        _ => {
            let digits = power.to_string();
            let raised = digits.chars().map(|digit| match digit {
                '-' => '⁻',
                '1' => '¹',
                '2' => '²',
                '3' => '³',
                _ => char::from_u32(0x2070 + digit.to_digit(10).unwrap_or(0)).unwrap_or(digit),
            });
            format!("10{}", raised.collect::<String>())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Axis, power_of_ten};

    #[test]
    fn ticks_are_multiples_of_the_step() {
        let texts = |axis: &Axis| -> Vec<String> {
            axis.marks().iter().map(|(_, text)| text.clone()).collect()
        };
        assert_eq!(
            texts(&Axis::linear(-0.2, 0.5, 0.25)),
            ["0.00", "0.25", "0.50"]
        );
        assert_eq!(texts(&Axis::linear(-60.0, 60.0, 60.0)), ["−60", "0", "60"]);
        assert_eq!(
            texts(&Axis::logarithmic(1e-4, 1.0, 2)),
            ["10⁻⁴", "10⁻²", "1"]
        );
    }

    #[test]
    fn values_are_placed() {
        assert_eq!(Axis::linear(10.0, 20.0, 5.0).share(15.0), 0.5);
        let log = Axis::logarithmic(1e-2, 1e2, 1);
        assert!((log.share(1.0) - 0.5).abs() < 1e-12);
        assert!(log.share(0.0) < -10.0);
        let samples: Vec<f64> = log.samples(3).collect();
        assert!((samples[1] - 1.0).abs() < 1e-12);
    }

    #[test]
    fn powers_are_raised() {
        assert_eq!(power_of_ten(-12), "10⁻¹²");
        assert_eq!(power_of_ten(5), "10⁵");
    }
}
