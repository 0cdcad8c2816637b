//! The door for the features: how they come into the products, with their targets, and how their gradient leaves.

use core::ops::Range;

use ndarray::{Array1, ArrayView2};

use crate::check;
use crate::error::{Argument, Error};
use crate::evaluation::{Forward, Reading};
use crate::numerics::{
    Element, Norm, contiguous, parallel, powers_of_two, scale_by_power, vectorized,
};
use crate::scratch::Pieces;

use super::close::Closed;
use super::entries::Changed;
use super::nearest::AllNear;
use super::plan::{Plan, among};
use super::share::Share;
use super::target::{Pair, RowTarget};
use super::weights::Weights;
use super::{Head, Layer, Learns, Link, Problem};

/// The batch, as the forward and the backward pass take it.
#[derive(Debug)]
pub(super) struct Batch<'a, A> {
    pub(super) head: &'a Head<'a>,
    pub(super) plan: Plan,
    /// As the caller has them.
    pub(super) features: ArrayView2<'a, A>,
    pub(super) share: Share,
    /// The rows whose ∂X is wanted here.
    pub(super) own_rows: Range<usize>,
    /// N×d: s x̂, or x.
    pub(super) scaled: &'a [A],
    /// ‖x‖, infinite or zero where that leaves the range of `f64`.
    pub(super) norms: Vec<f64>,
    /// The largest of these, in the layer that normalises the weights alone; 0 in the others.
    longest_feature: f64,
    /// Of each row, and of each row once more if some have two.
    pub(super) targets: Vec<RowTarget<A>>,
    /// How much the first target of each row counts beside the second, 1 for a row that has but one; empty if all have.
    shares: Vec<f64>,
    /// What is wrong with a target, to be said if nothing is wrong with a class weight.
    pub(super) target_error: Option<(usize, Error)>,
    /// The first row with such a target, on any rank.
    pub(super) wrong_target: Option<usize>,
    /// The targets, by their columns.
    by_column: Vec<usize>,
    /// What margins make of negatives, row by row; empty if all are plain.
    changed: Vec<Option<Changed<A>>>,
    /// The negatives whose logits are changed because they are the nearest; none before all classes have been seen.
    pub(super) nearest: AllNear,
    /// rᵢ/N or rᵢ.
    pub(super) coefficients: Vec<f64>,
    /// ∂z_y/∂x and ∂z_y/∂w_y of each target.
    pub(super) by_feature: &'a mut [A],
    pub(super) by_weight: &'a [A],
}

/// Some consecutive targets, and what is found out about them and their rows.
struct Rows<'a, A> {
    first: usize,
    /// What is found out about the rows; empty for second targets.
    scaled: &'a mut [A],
    /// Where ∂z_y/∂x and ∂z_y/∂w_y go; empty if they are not wanted.
    directions: [&'a mut [A]; 2],
    norms: &'a mut [f64],
    targets: &'a mut [RowTarget<A>],
}

impl<A: Element> Rows<'_, A> {
    /// Finds out all of it, some rows at a time. Returns what is wrong with a target, if all features can be used.
    fn find_all(
        self,
        problem: &Problem<'_, A>,
        weights: ArrayView2<'_, A>,
    ) -> Result<Option<(usize, Error)>, Error> {
        let (rows, dim) = (problem.plan.rows, problem.plan.dim);
        let chunk = parallel::rows_per_task(rows, dim);
        // The first target of each row, then the second.
        let (firsts, seconds) = self.targets.split_at_mut(rows);
        let count = firsts.len().div_ceil(chunk) + seconds.len().div_ceil(chunk);
        let mut found = vec![Ok(None); count];
        let targets = firsts.chunks_mut(chunk).chain(seconds.chunks_mut(chunk));
        let (mut scaled, mut norms) = (Pieces::over(self.scaled), Pieces::over(self.norms));
        let wants_directions = !self.directions[0].is_empty();
        let mut directions = self.directions.map(Pieces::over);
        let mut first = 0;
        let tasks = targets.zip(&mut found).map(|(targets, found)| {
            let (count, entries) = (targets.len(), targets.len() * dim);
            let pieces = directions.each_mut();
            let task = Rows {
                first,
                scaled: scaled.take_if(first < rows, entries),
                directions: pieces.map(|all| all.take_if(wants_directions, entries)),
                norms: norms.take_if(first < rows, count),
                targets,
            };
            first += count;
            (task, found)
        });
        parallel::for_each(tasks.collect(), |(mut rows, found): (Rows<'_, A>, _)| {
            vectorized(
                #[inline(always)]
                || *found = rows.find(problem, weights),
            );
        });
        let mut target_error = None;
        for found in found {
            target_error = target_error.or(found?);
        }
        Ok(target_error)
    }

    /// Refuses features that cannot be used, and otherwise scales them and finds their targets.
    #[inline(always)]
    fn find(
        &mut self,
        problem: &Problem<'_, A>,
        weights: ArrayView2<'_, A>,
    ) -> Result<Option<(usize, Error)>, Error> {
        let (head, dim) = (problem.head, problem.plan.dim);
        let (mut buffer, mut pair) = (Vec::new(), Pair::default());
        let mut target_error = None;
        for offset in 0..self.targets.len() {
            let index = self.first + offset;
            let entries = offset * dim..(offset + 1) * dim;
            if let Some(value) = self.norms.get_mut(offset) {
                let feature = contiguous(problem.features.row(index), &mut buffer);
                let norm = Norm::of(feature);
                norm.check::<A>(head.needs_feature_norms(), Argument::Features, index)?;
                *value = norm.value();
                scale(head.layer, feature, norm, &mut self.scaled[entries.clone()]);
            }
            if target_error.is_none() {
                // Empty directions have no such entries.
                let out = self.directions.each_mut();
                let out = out.map(|all| all.get_mut(entries.clone()).unwrap_or_default());
                match RowTarget::find(problem, weights, index, out, &mut pair) {
                    Ok(target) => self.targets[offset] = target,
                    Err(error) => target_error = Some((index % problem.plan.rows, error)),
                }
            }
        }
        Ok(target_error)
    }
}

/// A feature as the products take it: s x̂, or x.
#[inline(always)]
fn scale<A: Element>(layer: Layer, feature: &[A], norm: Norm, out: &mut [A]) {
    let Layer::Cosine { scale } = layer else {
        out.copy_from_slice(feature);
        return;
    };
    let [first, second] = powers_of_two(-norm.power());
    let factor = scale / norm.normalised();
    for (out, feature) in out.iter_mut().zip(feature) {
        *out = A::narrow(feature.widen() * first * second * factor);
    }
}

impl<'a, A: Element> Batch<'a, A> {
    /// Takes the features in. `weights` are the rows of the columns that are evaluated here.
    pub(super) fn new<'p: 'a>(
        problem: Problem<'p, A>,
        weights: ArrayView2<'_, A>,
        elements: &mut Pieces<'a, A>,
    ) -> Result<Self, Error> {
        let sizes = problem.plan.sizes::<A>();
        let scaled = elements.take(sizes.features);
        let by_feature = elements.take(sizes.directions);
        let by_weight = elements.take(sizes.directions);
        let mut norms = vec![0.0; problem.plan.rows];
        let mut targets = vec![RowTarget::ELSEWHERE; problem.plan.targets];
        let rows = Rows {
            first: 0,
            scaled: &mut *scaled,
            directions: [&mut *by_feature, &mut *by_weight],
            norms: &mut norms,
            targets: &mut targets,
        };
        let target_error = rows.find_all(&problem, weights)?;
        let longest_feature = match problem.head.layer {
            Layer::UnitWeights => norms.iter().fold(0.0, |a: f64, &b| a.max(b)),
            _ => 0.0,
        };
        let mut batch = Self {
            head: problem.head,
            plan: problem.plan,
            features: problem.features,
            share: problem.share,
            own_rows: problem.own_rows,
            scaled,
            norms,
            longest_feature,
            targets: Vec::new(),
            shares: problem.shares,
            wrong_target: target_error.as_ref().map(|&(row, _)| row),
            target_error,
            by_column: (0..problem.plan.targets).collect(),
            changed: Vec::new(),
            nearest: AllNear::default(),
            coefficients: problem.coefficients,
            by_feature,
            by_weight,
        };
        batch.set_targets(targets);
        Ok(batch)
    }

    /// Takes in what is known of each target.
    pub(super) fn set_targets(&mut self, targets: Vec<RowTarget<A>>) {
        self.by_column
            .sort_by_key(|&index| (targets[index].column, index));
        let of_rows = targets.iter().take(self.plan.rows);
        self.changed = of_rows.map(|target| target.changed).collect();
        if self.changed.iter().all(Option::is_none) {
            self.changed.clear();
        }
        self.targets = targets;
    }

    /// Whether a margin changes the negatives of a row.
    pub(super) fn changes_negatives(&self) -> bool {
        !self.changed.is_empty()
    }

    /// The same, of any target.
    pub(super) fn changes_any(&self) -> bool {
        self.targets.iter().any(|target| target.changed.is_some())
    }

    /// The class weights that are here.
    pub(super) fn weights<'w>(&'w self, rows: ArrayView2<'w, A>) -> Weights<'w, A> {
        Weights {
            rows,
            share: &self.share,
            normalised: self.head.normalises_weights(),
            longest_feature: self.longest_feature,
        }
    }

    fn has_one_target(&self, row: usize) -> bool {
        self.shares.get(row).is_none_or(|&share| share == 1.0)
    }

    /// ∂z_y/∂x of a target.
    fn direction(&self, target: usize) -> &[A] {
        let dim = self.plan.dim;
        &self.by_feature[target * dim..(target + 1) * dim]
    }

    /// The targets of a row, and how much each counts.
    pub(super) fn targets_of(&self, row: usize) -> impl Iterator<Item = (usize, f64)> + Clone {
        let share = self.shares.get(row).copied().unwrap_or(1.0);
        let both = [(row, share), (self.plan.rows + row, 1.0 - share)];
        both.into_iter().take(if share == 1.0 { 1 } else { 2 })
    }

    /// The row of a target, and which of the row's targets it is.
    pub(super) fn row_of(&self, target: usize) -> (usize, usize) {
        (target % self.plan.rows, target / self.plan.rows)
    }

    /// The targets that are among `columns`, in the order of column and row.
    pub(super) fn targets_among(&self, columns: &Range<usize>) -> &[usize] {
        among(
            &self.by_column,
            |target| self.targets[target].column,
            columns,
        )
    }

    /// The scaled features of some rows.
    pub(super) fn rows(&self, rows: &Range<usize>) -> &[A] {
        let dim = self.plan.dim;
        &self.scaled[rows.start * dim..rows.end * dim]
    }

    /// What margins make of the negatives of some rows; empty if nothing.
    pub(super) fn changed(&self, rows: &Range<usize>) -> &[Option<Changed<A>>] {
        if self.changed.is_empty() {
            &[]
        } else {
            &self.changed[rows.clone()]
        }
    }

    /// ∂(scaled feature)/∂x without the projection: s/‖x‖, or 1.
    pub(super) fn through(&self, row: usize) -> f64 {
        match self.head.layer {
            Layer::Cosine { scale } => scale / self.norms[row],
            _ => 1.0,
        }
    }

    /// Turns `totals`, what the other classes add to each row in units of its bound, into ∂X of the rows that are wanted here; the
    /// others get 0. Returns Σ_{j≠y} p_j cosθ_j of each row, where the layer has cosines.
    pub(super) fn write_gradient(
        &self,
        rows: &[Closed],
        totals: &[f64],
        out: &mut [A],
    ) -> Vec<f64> {
        let (dim, own) = (self.plan.dim, self.own_rows.clone());
        let entries = own.start * dim..own.end * dim;
        out[..entries.start].fill(A::zero());
        out[entries.end..].fill(A::zero());
        let chunk = parallel::rows_per_task(own.len(), dim);
        let mut cosines = vec![0.0; self.plan.rows];
        let tasks = out[entries.clone()]
            .chunks_mut(chunk * dim)
            .zip(totals[entries].chunks(chunk * dim))
            .zip(cosines[own.clone()].chunks_mut(chunk))
            .enumerate()
            .collect();
        parallel::for_each(tasks, |(task, ((out, totals), cosines))| {
            let out = out.chunks_exact_mut(dim).zip(totals.chunks_exact(dim));
            let mut rows_here = (own.start + task * chunk..).zip(cosines).zip(out);
            vectorized(
                #[inline(always)]
                || {
                    for ((i, cosine), (out, total)) in &mut rows_here {
                        *cosine = self.write_row(i, &rows[i], total, out);
                    }
                },
            );
        });
        cosines
    }

    /// One row of ∂X. Returns Σ_{j≠y} p_j cosθ_j.
    #[inline(always)]
    fn write_row(&self, i: usize, row: &Closed, total: &[f64], out: &mut [A]) -> f64 {
        let feature = self.rows(&(i..i + 1));
        // Through the normalisation: s/‖x‖ · (I − x̂x̂ᵀ).
        let (mut radial, mut unit, mut cosine) = (0.0, 1.0 / self.norms[i], 0.0);
        let along = || -> f64 {
            let pairs = total.iter().zip(feature);
            pairs.map(|(&g, &x)| g * x.widen()).sum()
        };
        match self.head.layer {
            Layer::Cosine { scale } => {
                let along = along();
                cosine = scale_by_power(along / scale, row.exponent);
                radial = along / (scale * scale);
                unit = 1.0 / scale;
            }
            // A changed negative is ‖x‖ T(c), of which only ‖x‖ c is linear in x.
            Layer::UnitWeights if self.targets[i].changed.is_some() => {
                let mean = scale_by_power(row.mean, -row.exponent);
                radial = (along() - mean) * unit * unit;
            }
            Layer::UnitWeights | Layer::Linear => {}
        }
        let coefficient = self.coefficients[i];
        let through = scale_by_power(self.through(i), row.exponent);
        let term = self.term(i)[1];
        let term = if term == 0.0 { 0.0 } else { term * unit };
        let entries = total.iter().zip(feature).zip(self.direction(i));
        let (first, second) = (&row.terms[0], &row.terms[1]);
        if self.has_one_target(i) {
            for (out, ((&g, &x), &u)) in out.iter_mut().zip(entries) {
                let x = x.widen();
                let others = through * radial.mul_add(-x, g);
                let target = (-first.pull).mul_add(u.widen(), term * x);
                *out = A::narrow(coefficient * (others + target));
            }
            return cosine;
        }
        let entries = entries.zip(self.direction(self.plan.rows + i));
        for (out, (((&g, &x), &u), &v)) in out.iter_mut().zip(entries) {
            let x = x.widen();
            let others = through * radial.mul_add(-x, g);
            let target = (-first.pull).mul_add(u.widen(), term * x);
            let target = (-second.pull).mul_add(v.widen(), target);
            *out = A::narrow(coefficient * (others + target));
        }
        cosine
    }

    /// ∂L/∂s = Σ G_ij T_ij, from Σ_{j≠y} p_j cosθ_j of each row, over the negatives that are plain.
    pub(super) fn scale_gradient(&self, scale: f64, rows: &[Closed], cosines: &[f64]) -> f64 {
        (0..self.plan.rows)
            .map(|i| {
                let target = &self.targets[i];
                let others = match target.changed {
                    None => cosines[i] + rows[i].mean / scale,
                    Some(_) => rows[i].mean / scale,
                };
                let targets = self.targets_of(i).zip(&rows[i].terms);
                let pulled = targets.map(|((target, _), term)| {
                    let psi = self.targets[target].value / scale;
                    term.pull * psi
                });
                self.coefficients[i] * pulled.fold(others, |sum, pulled| sum - pulled)
            })
            .sum()
    }

    /// What the margin adds to a row's loss, and its slope in ‖x‖.
    pub(super) fn term(&self, row: usize) -> [f64; 2] {
        let mut sum = [0.0; 2];
        for (target, share) in self.targets_of(row) {
            let [value, slope] = self.targets[target].term;
            sum[0] += share * value;
            sum[1] += share * slope;
        }
        sum
    }

    /// The gradient of what the loss learns, as far as the rows alone make it.
    pub(super) fn row_learnables(&self, rows: &[Closed]) -> Result<Option<Array1<A>>, Error> {
        let pairs = self.coefficients.iter().zip(rows);
        match self.head.learns {
            Learns::Nothing | Learns::Scale | Learns::Constants => Ok(None),
            Learns::Constant => {
                // Σ G_ij over all rows and classes.
                let sum = pairs
                    .map(|(coefficient, row)| coefficient * (row.push - row.terms[0].pull))
                    .sum();
                let gradient = A::narrow(sum);
                if gradient.is_finite() {
                    Ok(Some(Array1::from_elem(1, gradient)))
                } else {
                    Err(Error::BatchOverflow {
                        quantity: "gradient",
                    })
                }
            }
            Learns::Margins { price } => self.margin_gradients(price, rows).map(Some),
        }
    }

    /// −s Σᵢ G_iy over the rows of each class, and its share of the price.
    fn margin_gradients(&self, price: f64, rows: &[Closed]) -> Result<Array1<A>, Error> {
        let (group, own) = (self.plan.group, self.plan.own_columns());
        let scale = match self.head.layer {
            Layer::Cosine { scale } => scale,
            Layer::Linear | Layer::UnitWeights => 1.0,
        };
        let classes = (self.plan.columns / group) as f64;
        let paid = price / classes * self.coefficients.iter().sum::<f64>();
        let mut sums = vec![-paid; own.len() / group];
        for (i, (coefficient, row)) in self.coefficients.iter().zip(rows).enumerate() {
            for ((index, _), term) in self.targets_of(i).zip(&row.terms) {
                let column = self.targets[index].column;
                if own.contains(&column) {
                    sums[(column - own.start) / group] += coefficient * scale * term.pull;
                }
            }
        }
        let gradient: Array1<A> = sums.into_iter().map(A::narrow).collect();
        match gradient.iter().position(|entry| !entry.is_finite()) {
            None => Ok(gradient),
            Some(class) => {
                let argument = Argument::ClassMargins;
                Err(Error::overflow(
                    "gradient",
                    argument,
                    own.start / group + class,
                ))
            }
        }
    }

    fn reading(&self) -> Reading {
        let head = self.head;
        let margin = matches!(head.layer, Layer::Cosine { .. })
            && head.link == Link::Softmax
            && head.constants.is_none();
        let whole = self.share.is_whole();
        Reading {
            margin,
            others: margin
                && whole
                && (head.smoothing, head.focal) == (0.0, 0.0)
                && self.plan.nearest == 0
                && self.shares.is_empty()
                && !self.changes_negatives()
                && self.targets.iter().all(|target| target.term == [0.0; 2]),
        }
    }

    /// The loss and the rows' figures.
    pub(super) fn figures(&self, rows: &[Closed]) -> Result<Forward<A>, Error> {
        let targets = || self.targets[..rows.len()].iter();
        let losses = rows.iter().enumerate();
        let losses = losses.map(|(i, row)| row.loss + self.term(i)[0]);
        let (loss, row_losses) = check::reduce(&self.coefficients, losses)?;
        Ok(Forward {
            loss,
            row_losses: row_losses.into(),
            target_logits: targets().map(|target| A::narrow(target.logit)).collect(),
            target_cosines: targets().map(|target| A::narrow(target.cosine)).collect(),
            correct: rows.iter().map(|row| row.own > row.largest_other).collect(),
            ignored: Array1::default(0),
            sub_centers: match self.plan.group {
                1 => Array1::default(0),
                group => targets().map(|target| target.column % group).collect(),
            },
            statistics: Vec::new(),
            reading: self.reading(),
        })
    }
}
