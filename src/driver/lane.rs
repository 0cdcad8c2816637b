//! The working memory of a task: there are as many lanes as tasks at a time, and a task takes whichever is free.

use core::ops::Range;

use pulp::{Arch, Simd, WithSimd};

use crate::error::Error;
use crate::numerics::Element;
use crate::scratch::Pieces;

use super::Head;
use super::plan::Plan;
use super::weights::{Buffers, Scanned, Weights};

/// The memory of one lane.
#[derive(Debug)]
pub(super) struct Lane<'a, A> {
    /// A tile of logits, and one of exponentials if they were not kept.
    pub(super) tile: &'a mut [A],
    pub(super) again: &'a mut [A],
    /// A tile of features, each row times what makes its exponentials a gradient.
    pub(super) weighted: &'a mut [A],
    /// A tile of ∂X over some blocks.
    pub(super) gathered: &'a mut [A],
    /// ∂W of a run, if it is handed out, and in `f64`, if it is summed in groups of tiles.
    pub(super) run: &'a mut [A],
    pub(super) wide: &'a mut [f64],
    pub(super) buffers: Buffers<A>,
    /// What is added to the logits of the block at hand, and the lengths of its weights.
    pub(super) constants: Vec<A>,
    pub(super) lengths: Vec<A>,
    /// What `weighted` was made for: the shifts of the exponentials, and the unit of the weights.
    pub(super) shifts: Vec<A>,
    pub(super) unit: i32,
    /// The factors that make ∂ℓ/∂z of these exponentials, and those that bring their products to the units of ∂X's sums.
    pub(super) shares: Vec<f64>,
    pub(super) scales: Vec<f64>,
}

impl<'a, A: Element> Lane<'a, A> {
    /// All lanes of a plan.
    pub(super) fn all(
        plan: &Plan,
        elements: &mut Pieces<'a, A>,
        doubles: &mut Pieces<'a, f64>,
    ) -> Vec<Self> {
        let sizes = plan.sizes::<A>();
        (0..sizes.lanes)
            .map(|_| Self {
                tile: elements.take(sizes.tile),
                again: elements.take(sizes.again),
                weighted: elements.take(sizes.tile_vectors),
                gathered: elements.take(sizes.tile_vectors),
                run: elements.take(sizes.run),
                wide: doubles.take(sizes.wide_run),
                buffers: Buffers::default(),
                constants: Vec::new(),
                lengths: Vec::new(),
                shifts: Vec::new(),
                unit: 0,
                shares: Vec::new(),
                scales: Vec::new(),
            })
            .collect()
    }

    /// Writes the constants of some columns, and makes room for the lengths of their weights, if those are not normalised.
    pub(super) fn set_columns(&mut self, head: &Head<'_>, columns: &Range<usize>) {
        self.constants.clear();
        match head.constants {
            None => self.constants.resize(columns.len(), A::zero()),
            Some(constants) => {
                let classes = columns.clone().map(|column| column / head.group);
                self.constants
                    .extend(classes.map(|class| A::narrow(constants[class])));
            }
        }
        let lengths = if head.normalises_weights() {
            0
        } else {
            columns.len()
        };
        self.lengths.resize(lengths, A::zero());
    }

    /// Finds out everything about a block of class weights that its products need.
    pub(super) fn scan(
        &mut self,
        head: &Head<'_>,
        weights: Weights<'_, A>,
        columns: &Range<usize>,
        factors: &mut [A],
    ) -> Result<Scanned, Error> {
        self.set_columns(head, columns);
        Arch::new().dispatch(Scan {
            weights,
            columns,
            factors,
            lengths: &mut self.lengths,
            buffers: &mut self.buffers,
        })
    }
}

struct Scan<'a, 'w, A> {
    weights: Weights<'w, A>,
    columns: &'a Range<usize>,
    factors: &'a mut [A],
    lengths: &'a mut [A],
    buffers: &'a mut Buffers<A>,
}

impl<A: Element> WithSimd for Scan<'_, '_, A> {
    type Output = Result<Scanned, Error>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Self::Output {
        self.weights
            .scan(self.columns, self.factors, self.lengths, self.buffers)
    }
}
