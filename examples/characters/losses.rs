//! The losses of the tables, and words in their lines that the training images explain.

use std::fmt;
use std::str::FromStr;

use margin_losses::{Error, margins};

use crate::criterion::Loss;

/// The scale of every loss that normalises the features, but for the learned one, which begins with it.
pub(crate) const SCALE: f64 = 24.0;

/// The losses of the table, unless others are named: of 2016 to 2018, with a target that is changed by its feature, with negatives
/// that are changed, of every class against the rest, and composed. A line more is a loss more.
const TABLE: [&str; 27] = [
    "softmax",
    "softmax+center",
    "modified-softmax",
    "a-softmax",
    "normface",
    "normface:learned",
    "c-contrastive",
    "c-triplet",
    "cosface",
    "arcface",
    "combined:m2=0.3,m3=0.2",
    "adaptiveface:m=random",
    "adaface",
    "magface",
    "magface:l_a=3.5,u_a=39",
    "curricularface",
    "mv-softmax",
    "mv-softmax:m=0.5,arc,easy",
    "sphereface2",
    "sphereface2:undivided",
    "sphereface2:m=0.2,arc,undivided",
    "uniface",
    "cosface+subcenters:k=3",
    "arcface+subcenters:k=3",
    "arcface+intertopk:k=5,m=0.06",
    "arcface+subcenters:k=3+intertopk:k=5,m=0.06",
    "normface+smoothing:epsilon=0.1",
];

/// What a long tail has besides.
const LONG_TAIL: [&str; 5] = [
    "cosface:m=ldam",
    "arcface:m=dynamic",
    // For its mean margin.
    "arcface:m=0.35",
    "normface+priors:log=counts",
    "arcface+priors:log=counts",
];

/// The largest margin of LDAM, and a, b and λ of the dynamic margins: their papers'.
const LDAM: f64 = 0.5;
const DYNAMIC: [f64; 3] = [0.5, 0.05, 0.25];

/// A loss, as the line that names it. Its margin may be the word `ldam` or `dynamic`, and its class priors the word `counts`: they
/// come from the number of images of each class. AdaptiveFace's margins may begin as the word `random` has it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Choice(String);

impl FromStr for Choice {
    type Err = Error;

    fn from_str(line: &str) -> Result<Self, Error> {
        let choice = Self(line.trim().to_owned());
        // No counts make a line wrong.
        choice.over(&[1])?;
        Ok(choice)
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl Choice {
    /// The losses of the table.
    pub(crate) fn table(long_tail: bool) -> Result<Vec<Self>, Error> {
        let more: &[&str] = if long_tail { &LONG_TAIL } else { &[] };
        let lines = TABLE.iter().chain(more);
        lines.map(|line| line.parse()).collect()
    }

    /// The loss over classes of so many images.
    pub(crate) fn over(&self, counts: &[usize]) -> Result<Loss, Error> {
        let [a, b, lambda] = DYNAMIC;
        let dynamic = || margins::dynamic(counts, a, b, lambda);
        let images = counts.iter().sum::<usize>() as f64;
        let log_prior = |&count: &usize| (count as f64 / images).ln();

        let line = filled(&self.0, "m=", "ldam", || margins::ldam(counts, LDAM))?;
        let line = filled(&line, "m=", "dynamic", dynamic)?;
        let line = filled(&line, "m=", "random", || margins::adaptive(counts.len(), 1))?;
        let log_priors = || Ok(counts.iter().map(log_prior).collect());
        filled(&line, "log=", "counts", log_priors)?.parse()
    }
}

/// The line with a list of numbers in the place of a word, if it stands there.
fn filled(
    line: &str,
    key: &str,
    word: &str,
    numbers: impl FnOnce() -> Result<Vec<f64>, Error>,
) -> Result<String, Error> {
    let word = format!("{key}{word}");
    if !line.contains(&word) {
        return Ok(line.to_owned());
    }
    let listed: Vec<String> = numbers()?.iter().map(f64::to_string).collect();
    // The sign at the end tells a list of one number from a number.
    Ok(line.replace(&word, &format!("{key}{}/", listed.join("/"))))
}

#[cfg(test)]
mod tests {
    use margin_losses::AnyLoss;

    use super::{Choice, TABLE};

    /// But for center loss, which is never alone, margins by class, which are for the long tail, and AM-Softmax, which is CosFace.
    #[test]
    fn the_table_has_every_loss() {
        for name in AnyLoss::NAMES {
            let of_it = |line: &&str| line.split(':').next() == Some(name);
            let left_out = ["center", "am-softmax"].contains(name) || name.starts_with("varying");
            assert!(left_out || TABLE.iter().any(of_it), "{name}");
        }
        assert!(Choice::table(true).unwrap().len() > Choice::table(false).unwrap().len());
    }

    #[test]
    fn words_become_numbers() {
        let over = |line: &str| line.parse::<Choice>().unwrap().over(&[16, 1]);
        let title = |line: &str| over(line).unwrap().title().to_owned();
        assert_eq!(title("cosface:m=ldam"), "cosface:m=0.25/0.5/");
        assert_eq!(title("arcface:m=dynamic"), "arcface:m=0.3/0.55/");
        assert_eq!(title("arcface:m=0.2"), "arcface:m=0.2");
        let priors = title("softmax+priors:log=counts");
        assert!(priors.starts_with("softmax+priors:log=-0.06"), "{priors}");
        assert!("arcface:m=often".parse::<Choice>().is_err());
        assert!("softmax:m=ldam".parse::<Choice>().is_err());
    }
}
