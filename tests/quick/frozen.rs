//! Results of every loss on one small batch, as they were when `reference/frozen.csv` was written.
//!
//! Whoever changes a number changes the table, and says so under *Value changes* in `CHANGELOG.md`:
//!
//! ```sh
//! MARGIN_LOSSES_FREEZE=write cargo test --test quick frozen::     # writes the table anew
//! MARGIN_LOSSES_FREEZE=bits cargo test --test quick frozen::      # compares bit by bit
//! ```
//!
//! Without the variable the comparison allows for rounding, because the kernels of the matrix products, and with them the
//! order of the sums, depend on the vector instructions of the machine, and the functions of `std` on its C library.

use std::{env, fs};

use margin_losses::{Evaluation, Float, Reduction, Targets};
use ndarray::Array2;

use crate::support::{Batch, SplitMix, bits, every_loss, largest, max_difference, narrow, widen};

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/reference/frozen.csv");
const COMMITTED: &str = include_str!("../reference/frozen.csv");

/// How far an entry may be off, in units of ε times the largest entry of its array and, since that is how the rounding of
/// a cosine reaches a logit, times the scale where it exceeds 1.
const UNITS: f64 = 8.0;

/// Entries that are multiples of 1/32, which both element types hold exactly.
fn batch<A: Float>() -> Batch<A> {
    let mut rng = SplitMix(151);
    let mut matrix = |rows: usize| {
        Array2::from_shape_simple_fn((rows, 3), || narrow((rng.below(129) as f64 - 64.0) / 32.0))
    };
    Batch {
        features: matrix(4),
        weights: matrix(6),
        centers: matrix(6),
        labels: vec![2, 0, 5, 2],
        row_weights: [1.0, 0.5, 1.75, 1.0].map(narrow).to_vec(),
    }
}

/// The arrays of an evaluation that are kept, each with its name.
fn parts<A: Float>(found: &Evaluation<A>) -> [(&'static str, Vec<A>); 6] {
    [
        ("loss", vec![found.loss()]),
        ("row losses", found.forward.row_losses.to_vec()),
        (
            "features gradient",
            found.grad_features.iter().copied().collect(),
        ),
        (
            "weights gradient",
            found.grad_weights.iter().copied().collect(),
        ),
        ("learnables gradient", found.grad_learnables.to_vec()),
        (
            "centers gradient",
            found.grad_centers.iter().copied().collect(),
        ),
    ]
}

/// One line of the table: an array of one loss in one element type.
#[derive(Debug, PartialEq)]
struct Line {
    element_type: &'static str,
    loss: String,
    part: &'static str,
    values: Vec<f64>,
}

impl Line {
    fn text(&self) -> String {
        let hex = |&value: &f64| {
            if self.element_type == "f32" {
                format!("{:08x}", (value as f32).to_bits())
            } else {
                format!("{:016x}", value.to_bits())
            }
        };
        let values: Vec<String> = self.values.iter().map(hex).collect();
        format!(
            "{};{};{};{}",
            self.element_type,
            self.loss,
            self.part,
            values.join(" ")
        )
    }

    /// The values of a line of the file, if it is about the same array.
    fn read(&self, text: &str) -> Result<Vec<f64>, String> {
        let columns: Vec<&str> = text.split(';').collect();
        if columns[..3] != [self.element_type, &self.loss, self.part] {
            return Err(format!("{self:?} is not where the table has {text}"));
        }
        let number = |hex: &str| -> Result<f64, String> {
            let bits = u64::from_str_radix(hex, 16).map_err(|error| error.to_string())?;
            Ok(if self.element_type == "f32" {
                f64::from(f32::from_bits(bits as u32))
            } else {
                f64::from_bits(bits)
            })
        };
        columns[3].split_whitespace().map(number).collect()
    }
}

fn lines<A: Float>(element_type: &'static str) -> Vec<Line> {
    let batch = batch::<A>();
    let targets = Targets::new(&batch.labels)
        .with_row_weights(&batch.row_weights)
        .with_reduction(Reduction::Sum);
    let mut lines = Vec::new();
    for case in every_loss(batch.centers.view()) {
        let found = case
            .loss
            .evaluate(batch.features.view(), batch.weights.view(), &targets)
            .expect("a good batch");
        for (part, values) in parts(&found) {
            if !values.is_empty() {
                lines.push(Line {
                    element_type,
                    loss: case.name.clone(),
                    part,
                    values: values.into_iter().map(widen).collect(),
                });
            }
        }
    }
    lines
}

/// The largest scale among the losses' names, or 1 for those that have none.
fn scale(loss: &str) -> f64 {
    let after = loss.split_once("s = ").map_or("1", |(_, after)| after);
    let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().expect("a scale")
}

fn compare(lines: &[Line], committed: &str, exactly: bool) -> Result<(), String> {
    let table: Vec<&str> = committed.lines().skip(1).collect();
    if table.len() != lines.len() {
        return Err(format!("{} lines, not {}", table.len(), lines.len()));
    }
    for (line, text) in lines.iter().zip(table) {
        let expected = line.read(text)?;
        if line.values.len() != expected.len() {
            return Err(format!("{}: another length", line.text()));
        }
        let unit = if line.element_type == "f32" {
            f64::from(f32::EPSILON)
        } else {
            f64::EPSILON
        };
        let allowed = UNITS * unit * scale(&line.loss).max(1.0) * largest(&expected);
        let off = max_difference(&line.values, &expected);
        let agrees = if exactly {
            bits(&line.values) == bits(&expected)
        } else {
            off <= allowed
        };
        if !agrees {
            return Err(format!(
                "{} was {expected:?} and is {:?}: {off:e} off, {allowed:e} allowed. If this is meant, write the table \
                 anew, and say under *Value changes* in CHANGELOG.md what changed",
                line.text(),
                line.values
            ));
        }
    }
    Ok(())
}

/// The vector instructions of this machine, and its kind.
fn vectors() -> &'static str {
    #[cfg(all(target_arch = "x86_64", target_os = "linux", target_env = "gnu"))]
    {
        if std::is_x86_feature_detected!("avx512f") {
            return "x86-64 Linux, AVX-512";
        }
        if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
            return "x86-64 Linux, AVX2";
        }
    }
    "other"
}

fn all_lines() -> Vec<Line> {
    let mut all = lines::<f32>("f32");
    all.extend(lines::<f64>("f64"));
    all
}

#[test]
fn the_values_are_those_of_the_table() {
    let lines = all_lines();
    match env::var("MARGIN_LOSSES_FREEZE").as_deref() {
        Ok("write") => {
            let mut text = format!("element type;loss;array;bits;{}\n", vectors());
            for line in &lines {
                text.push_str(&line.text());
                text.push('\n');
            }
            fs::write(PATH, text).expect("the table can be written");
        }
        Ok("bits") => compare(&lines, COMMITTED, true).unwrap(),
        Ok(other) => panic!("MARGIN_LOSSES_FREEZE is {other}, not write or bits"),
        Err(_) => {
            let head = COMMITTED.lines().next().unwrap_or_default();
            let alike = head.rsplit(';').next() == Some(vectors());
            compare(&lines, COMMITTED, alike).unwrap();
        }
    }
}

/// A value that moved by a thousandth in `f32` or by 1e-11 in `f64`, another sign, a NaN, and a loss that is missing are all
/// seen.
#[test]
fn a_change_is_seen() {
    let lines = all_lines();
    let table = |lines: &[Line]| {
        let text: Vec<String> = lines.iter().map(Line::text).collect();
        format!("head\n{}", text.join("\n"))
    };
    let same = table(&lines);
    compare(&lines, &same, true).expect("the same values");
    for index in (0..lines.len()).step_by(17) {
        let moves = if lines[index].element_type == "f32" {
            1e-3
        } else {
            1e-11
        };
        for change in [1.0 + moves, 1.0 - moves, -1.0, f64::NAN] {
            let mut moved = all_lines();
            let entry = &mut moved[index].values[0];
            *entry = if *entry == 0.0 {
                change
            } else {
                *entry * change
            };
            let largest = largest(&lines[index].values);
            if (lines[index].values[0] / largest).abs() > 0.5 || change.is_nan() {
                compare(&moved, &same, false).expect_err("one value has changed");
            }
        }
    }
    compare(&lines[1..], &same, false).expect_err("a line is missing");
}
