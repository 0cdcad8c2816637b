//! Central differences, extrapolated to a step of zero, and the checker that compares a gradient with them.

/// A derivative, and how far it may be off.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Derivative {
    pub(crate) value: f64,
    pub(crate) error: f64,
}

/// How many steps are tried, each by [`SHRINK`] shorter than the one before.
const STEPS: usize = 10;
const SHRINK: f64 = 1.6;

/// The derivative at 0 by Ridders' method: Neville's table of central differences over shrinking steps, of which the entry
/// is taken that agrees best with its neighbours.
///
/// The function must be smooth within `step` of 0.
pub(crate) fn derivative(mut function: impl FnMut(f64) -> f64, step: f64) -> Derivative {
    let mut best = Derivative {
        value: f64::NAN,
        error: f64::INFINITY,
    };
    let mut previous: Vec<f64> = Vec::new();
    for attempt in 0..STEPS {
        let h = step / SHRINK.powi(attempt as i32);
        let mut column = vec![(function(h) - function(-h)) / (2.0 * h)];
        let mut factor = 1.0;
        for (order, &coarser) in previous.iter().enumerate() {
            factor *= SHRINK * SHRINK;
            let value = (factor * column[order] - coarser) / (factor - 1.0);
            let error = (value - column[order]).abs().max((value - coarser).abs());
            if error <= best.error {
                best = Derivative { value, error };
            }
            column.push(value);
        }
        previous = column;
    }
    best
}

/// Compares a gradient with the derivatives of `function(coordinate, shift)`, entry by entry, relative to the largest entry.
///
/// # Errors
///
/// Says which entry is off, or which derivative cannot be had to a third of the tolerance.
pub(crate) fn check_gradient(
    gradient: &[f64],
    mut function: impl FnMut(usize, f64) -> f64,
    step: f64,
    tolerance: f64,
) -> Result<f64, String> {
    let derivatives: Vec<Derivative> = (0..gradient.len())
        .map(|coordinate| derivative(|shift| function(coordinate, shift), step))
        .collect();
    let scale = derivatives
        .iter()
        .fold(0.0_f64, |m, d| m.max(d.value.abs()));
    let allowed = tolerance * scale;
    let mut worst = 0.0_f64;
    for (coordinate, (&analytic, difference)) in gradient.iter().zip(&derivatives).enumerate() {
        let off = (analytic - difference.value).abs();
        let resolved = difference.error <= allowed / 3.0;
        let agrees = off <= allowed;
        if !resolved || !agrees {
            return Err(format!(
                "entry {coordinate} is {analytic:e}, the difference says {difference:?}, the largest entry is {scale:e}"
            ));
        }
        worst = worst.max(off / scale);
    }
    Ok(worst)
}
