//! A scale of the logits that is fixed or learned.

use core::fmt;

use crate::driver::Learns;
use crate::error::{self, Error};

/// s, and whether it is a learnable.
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct Scale {
    value: [f64; 1],
    learned: bool,
}

/// `Fixed(64.0)` or `Learned(10.0)`, as part of what a loss prints.
impl fmt::Debug for Scale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if self.learned { "Learned" } else { "Fixed" };
        f.debug_tuple(name).field(&self.value()).finish()
    }
}

impl Scale {
    pub(crate) fn fixed(value: f64) -> Result<Self, Error> {
        Ok(Self {
            value: [error::scale(value)?],
            learned: false,
        })
    }

    pub(crate) fn learned(initial: f64) -> Result<Self, Error> {
        Ok(Self {
            learned: true,
            ..Self::fixed(initial)?
        })
    }

    pub(crate) fn value(&self) -> f64 {
        self.value[0]
    }

    pub(crate) fn is_learned(&self) -> bool {
        self.learned
    }

    pub(crate) fn learns(&self) -> Learns {
        if self.learned {
            Learns::Scale
        } else {
            Learns::Nothing
        }
    }

    pub(crate) fn set(&mut self, value: f64) -> Result<(), Error> {
        self.value = [error::scale(value)?];
        Ok(())
    }

    pub(crate) fn learnables(&self) -> &[f64] {
        if self.learned { &self.value } else { &[] }
    }

    pub(crate) fn set_learnables(&mut self, values: &[f64]) -> Result<(), Error> {
        match (self.learned, values) {
            (true, &[value]) => self.set(value),
            (false, []) => Ok(()),
            _ => Err(Error::LearnableCount {
                expected: self.learnables().len(),
                found: values.len(),
            }),
        }
    }
}
