//! The losses of the table, and the scale that they run with.

use margin_losses::{Error, guide};

use crate::criterion::Loss;

/// The target's probability that the scale of the normalised losses must make possible.
const TARGET_PROBABILITY: f64 = 0.9999;

/// The losses of the table, unless others are named.
const TABLE: [&str; 18] = [
    "softmax",
    "softmax+center",
    "modified-softmax",
    "a-softmax",
    "normface",
    "normface:s=1,learned",
    "c-contrastive",
    "c-triplet",
    "am-softmax",
    "cosface",
    "arcface",
    "combined:m2=0.3,m3=0.2",
    "sphereface2",
    "uniface",
    "adaface",
    "magface",
    "mv-softmax",
    "curricularface",
];

pub(crate) fn table() -> Result<Vec<Loss>, Error> {
    TABLE.iter().map(|line| line.parse()).collect()
}

/// The scale of every loss that normalises the features, but for the learned one.
pub(crate) fn scale(classes: usize) -> Result<f64, Error> {
    guide::suggested_scale(classes, TARGET_PROBABILITY)
}

#[cfg(test)]
mod tests {
    use margin_losses::AnyLoss;

    use super::{TABLE, table};

    /// But for center loss, which is never alone, and margins by class, which have a line for each loss or as many as classes.
    #[test]
    fn the_table_has_every_loss() {
        for name in AnyLoss::NAMES.iter().filter(|name| {
            **name != "center" && **name != "adaptiveface" && !name.starts_with("varying")
        }) {
            let of_it = |line: &&str| line.split(':').next() == Some(name);
            assert!(TABLE.iter().any(of_it), "{name}");
        }
        assert_eq!(table().unwrap().len(), TABLE.len());
    }
}
