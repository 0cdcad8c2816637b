//! The working memory of a task: there are as many lanes as tasks at a time, and a task takes whichever is free.

use crate::error::Error;
use crate::numerics::{Element, parallel};
use crate::scratch::Pieces;

use super::plan::Plan;
use super::weights::{Buffers, Scanned};

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
    /// The nearest classes of each row in the segments that the lane has opened, if they are looked for.
    pub(super) nearest: &'a mut [(A, usize)],
    pub(super) buffers: Buffers<A>,
    /// Whether something has been gathered that is not yet in the sums of ∂X.
    pub(super) gathers: bool,
    /// What `weighted` was made for: the shifts of the exponentials, and the unit of the weights.
    pub(super) shifts: Vec<A>,
    pub(super) unit: i32,
    /// The factors that make ∂L/∂z of these exponentials, and those that bring their products to the units of ∂X's sums.
    pub(super) factors: Vec<f64>,
    pub(super) scales: Vec<f64>,
    /// For smoothed labels: what makes ∂ℓ/∂z of an exponential, and what is taken from it.
    pub(super) shares: Vec<[A; 2]>,
}

impl<'a, A: Element> Lane<'a, A> {
    /// All lanes of a plan.
    pub(super) fn all(
        plan: &Plan,
        elements: &mut Pieces<'a, A>,
        doubles: &mut Pieces<'a, f64>,
        nearest: &mut Pieces<'a, (A, usize)>,
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
                nearest: nearest.take(sizes.nearest),
                buffers: Buffers::default(),
                gathers: false,
                shifts: Vec::new(),
                unit: 0,
                factors: Vec::new(),
                scales: Vec::new(),
                shares: Vec::new(),
            })
            .collect()
    }
}

/// Does `work` for every segment, each in whichever lane is free. Joins what has been found out about their class weights, or
/// returns the error of the first segment that has one.
pub(super) fn scan<A: Element, T: Send>(
    lanes: &mut [Lane<'_, A>],
    segments: impl ExactSizeIterator<Item = T> + Send,
    work: impl Fn(&mut Lane<'_, A>, T) -> Result<Scanned, Error> + Send + Sync,
) -> Result<Scanned, Error> {
    let mut found = vec![Ok(Scanned::NONE); segments.len()];
    parallel::deal(lanes, segments.zip(&mut found), |lane, (segment, found)| {
        *found = work(lane, segment);
    });
    let mut all = Scanned::NONE;
    for segment in found {
        all = all.and(segment?);
    }
    Ok(all)
}
