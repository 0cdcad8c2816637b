//! The door for the features: how they come into the products, with their targets, and how their gradient leaves.

use ndarray::ArrayView2;
use pulp::{Arch, Simd, WithSimd};

use crate::check;
use crate::error::{Argument, Error};
use crate::evaluation::Forward;
use crate::numerics::{Element, Norm, contiguous, parallel, powers_of_two, scale_by_power};
use crate::scratch::Pieces;

use super::close::Closed;
use super::entries::Changed;
use super::plan::Plan;
use super::target::{Buffers, Pair, RowTarget};
use super::weights::Weights;
use super::{Head, Layer};

/// The batch, as the forward and the backward pass take it.
#[derive(Debug)]
pub(super) struct Batch<'a, A> {
    pub(super) head: &'a Head<'a>,
    pub(super) plan: Plan,
    /// N×d: s x̂, or x.
    pub(super) scaled: &'a [A],
    /// ‖x‖, infinite or zero where that leaves the range of `f64`.
    pub(super) norms: Vec<f64>,
    pub(super) targets: Vec<RowTarget<A>>,
    /// The rows, by the column of their target.
    by_column: Vec<usize>,
    /// What margins make of negatives, row by row; empty if all are plain.
    changed: Vec<Option<Changed<A>>>,
    /// rᵢ/N or rᵢ.
    pub(super) coefficients: Vec<f64>,
    /// ∂z_y/∂x and ∂z_y/∂w_y, N×d each.
    by_feature: &'a [A],
    pub(super) by_weight: &'a [A],
}

/// Where the scaled features and the two derivatives of the targets go.
pub(super) struct Room<'a, A> {
    pub(super) scaled: &'a mut [A],
    pub(super) by_feature: &'a mut [A],
    pub(super) by_weight: &'a mut [A],
}

/// The caller's arrays.
#[derive(Clone, Copy)]
pub(super) struct Arguments<'a, A> {
    pub(super) features: ArrayView2<'a, A>,
    pub(super) weights: Weights<'a, A>,
    pub(super) labels: &'a [usize],
}

/// Some consecutive rows, and what becomes of them.
struct Rows<'a, 'c, A> {
    head: &'a Head<'a>,
    plan: &'a Plan,
    arguments: Arguments<'c, A>,
    first: usize,
    scaled: &'a mut [A],
    by_feature: &'a mut [A],
    by_weight: &'a mut [A],
    norms: &'a mut [f64],
    targets: &'a mut [RowTarget<A>],
    errors: &'a mut RowErrors,
}

/// The first row that cannot be used, and the first whose target cannot.
#[derive(Clone, Debug, Default)]
struct RowErrors {
    feature: Option<Error>,
    target: Option<Error>,
}

/// Refuses features that cannot be used, and otherwise scales them and finds their targets.
///
/// The error of a target comes second: it is to be reported only if all class weights can be used.
pub(super) fn prepare<'a, A: Element>(
    head: &'a Head<'a>,
    plan: Plan,
    arguments: Arguments<'_, A>,
    coefficients: Vec<f64>,
    room: Room<'a, A>,
) -> Result<(Batch<'a, A>, Option<Error>), Error> {
    let (rows, dim) = (plan.rows, plan.dim);
    let chunk = parallel::rows_per_task(rows, dim);
    let mut norms = vec![0.0; rows];
    let mut targets = vec![RowTarget::ELSEWHERE; rows];
    let mut errors = vec![RowErrors::default(); rows.div_ceil(chunk)];
    let directions = if room.by_feature.is_empty() { 0 } else { dim };
    let mut scaled = Pieces::over(&mut *room.scaled);
    let mut by_feature = Pieces::over(&mut *room.by_feature);
    let mut by_weight = Pieces::over(&mut *room.by_weight);
    let tasks = targets
        .chunks_mut(chunk)
        .zip(norms.chunks_mut(chunk))
        .zip(&mut errors)
        .enumerate()
        .map(|(task, ((targets, norms), errors))| Rows {
            head,
            plan: &plan,
            arguments,
            first: task * chunk,
            scaled: scaled.take(targets.len() * dim),
            by_feature: by_feature.take(targets.len() * directions),
            by_weight: by_weight.take(targets.len() * directions),
            norms,
            targets,
            errors,
        })
        .collect();
    parallel::for_each(tasks, |rows| Arch::new().dispatch(rows));
    if let Some(error) = errors.iter().find_map(|errors| errors.feature.clone()) {
        return Err(error);
    }
    let target_error = errors.into_iter().find_map(|errors| errors.target);
    let mut batch = Batch {
        head,
        plan,
        scaled: room.scaled,
        norms,
        targets: Vec::new(),
        by_column: (0..rows).collect(),
        changed: Vec::new(),
        coefficients,
        by_feature: room.by_feature,
        by_weight: room.by_weight,
    };
    batch.set_targets(targets);
    Ok((batch, target_error))
}

impl<A: Element> WithSimd for Rows<'_, '_, A> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, _: S) {
        let mut row_buffer = Vec::new();
        let mut buffers = Buffers::default();
        let features = self.arguments.features;
        for offset in 0..self.norms.len() {
            let row = self.first + offset;
            let feature = contiguous(features.row(row), &mut row_buffer);
            let norm = Norm::of(feature);
            let needed = self.head.needs_feature_norms();
            if let Err(error) = norm.check::<A>(needed, Argument::Features, row) {
                self.errors.feature = Some(error);
                return;
            }
            self.norms[offset] = norm.value();
            let dim = self.plan.dim;
            let scaled = &mut self.scaled[offset * dim..(offset + 1) * dim];
            if let Layer::Cosine { scale } = self.head.layer {
                let [first, second] = powers_of_two(-norm.power());
                let factor = scale / norm.normalised();
                for (scaled, feature) in scaled.iter_mut().zip(feature) {
                    *scaled = A::narrow(feature.widen() * first * second * factor);
                }
            } else {
                scaled.copy_from_slice(feature);
            }
            self.find_target(offset, &mut buffers);
        }
    }
}

impl<A: Element> Rows<'_, '_, A> {
    #[inline(always)]
    fn find_target(&mut self, offset: usize, buffers: &mut Buffers<A>) {
        let row = self.first + offset;
        let Arguments {
            features,
            weights,
            labels,
        } = self.arguments;
        let (class, group) = (labels[row], self.plan.group);
        let columns = class * group..(class + 1) * group;
        let own = self.plan.own_columns();
        if columns.start < own.start || columns.end > own.end || self.errors.target.is_some() {
            return;
        }
        let room = if self.by_feature.is_empty() {
            0..0
        } else {
            offset * self.plan.dim..(offset + 1) * self.plan.dim
        };
        let mut pair = Pair {
            row,
            class,
            feature: features.row(row),
            weights: weights.block_rows(&columns),
            first: columns.start,
            by_feature: &mut self.by_feature[room.clone()],
            by_weight: &mut self.by_weight[room],
        };
        match RowTarget::find(self.head, &mut pair, buffers) {
            Ok(target) => self.targets[offset] = target,
            Err(error) => self.errors.target = Some(error),
        }
    }
}

impl<A: Element> Batch<'_, A> {
    /// Takes in what is known of each row's target.
    pub(super) fn set_targets(&mut self, targets: Vec<RowTarget<A>>) {
        self.by_column
            .sort_by_key(|&row| (targets[row].column, row));
        self.changed = targets.iter().map(|target| target.changed).collect();
        if self.changed.iter().all(Option::is_none) {
            self.changed.clear();
        }
        self.targets = targets;
    }

    /// The rows whose target is one of `columns`, in the order of column and row.
    pub(super) fn rows_of(&self, columns: &core::ops::Range<usize>) -> &[usize] {
        let below = |column: usize| {
            self.by_column
                .partition_point(|&row| self.targets[row].column < column)
        };
        &self.by_column[below(columns.start)..below(columns.end)]
    }

    /// The scaled features of some rows.
    pub(super) fn rows(&self, rows: &core::ops::Range<usize>) -> &[A] {
        let dim = self.plan.dim;
        &self.scaled[rows.start * dim..rows.end * dim]
    }

    /// What margins make of the negatives of some rows; empty if nothing.
    pub(super) fn changed(&self, rows: &core::ops::Range<usize>) -> &[Option<Changed<A>>] {
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

    /// Turns `totals`, what the other classes add to each row in units of its bound, into ∂X. Returns Σ_{j≠y} p_j cosθ_j of
    /// each row, where the layer has cosines.
    pub(super) fn write_gradient(
        &self,
        rows: &[Closed],
        totals: &[f64],
        out: &mut [A],
    ) -> Vec<f64> {
        let dim = self.plan.dim;
        let chunk = parallel::rows_per_task(self.plan.rows, dim);
        let mut cosines = vec![0.0; self.plan.rows];
        let tasks = out
            .chunks_mut(chunk * dim)
            .zip(totals.chunks(chunk * dim))
            .zip(cosines.chunks_mut(chunk))
            .enumerate()
            .map(|(task, ((out, totals), cosines))| GradientRows {
                batch: self,
                closed: rows,
                first: task * chunk,
                totals,
                out,
                cosines,
            })
            .collect();
        parallel::for_each(tasks, |rows| Arch::new().dispatch(rows));
        cosines
    }

    /// ∂L/∂s = Σ G_ij T_ij, from Σ_{j≠y} p_j cosθ_j of each row.
    pub(super) fn scale_gradient(&self, scale: f64, rows: &[Closed], cosines: &[f64]) -> f64 {
        (0..self.plan.rows)
            .map(|i| {
                let target = &self.targets[i];
                let others = match target.changed {
                    None => cosines[i],
                    Some(_) => rows[i].mean / scale,
                };
                let psi = (target.logit - target.constant) / scale;
                self.coefficients[i] * (others - rows[i].pull * psi)
            })
            .sum()
    }

    /// The loss and the rows' figures.
    pub(super) fn figures(&self, rows: &[Closed]) -> Result<Forward<A>, Error> {
        let targets = || self.targets.iter();
        let losses = rows
            .iter()
            .zip(targets())
            .map(|(row, target)| row.loss + target.term[0]);
        let (loss, row_losses) = check::reduce(&self.coefficients, losses)?;
        Ok(Forward {
            loss,
            row_losses: row_losses.into(),
            target_logits: targets().map(|target| A::narrow(target.logit)).collect(),
            target_cosines: targets().map(|target| A::narrow(target.cosine)).collect(),
            correct: targets()
                .zip(rows)
                .map(|(target, row)| A::narrow(target.plain_logit) > A::narrow(row.largest_other))
                .collect(),
            ignored: ndarray::Array1::default(0),
        })
    }
}

struct GradientRows<'a, A> {
    batch: &'a Batch<'a, A>,
    closed: &'a [Closed],
    first: usize,
    totals: &'a [f64],
    out: &'a mut [A],
    cosines: &'a mut [f64],
}

impl<A: Element> WithSimd for GradientRows<'_, A> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { batch, closed, .. } = self;
        let dim = batch.plan.dim;
        let rows = self
            .totals
            .chunks_exact(dim)
            .zip(self.out.chunks_exact_mut(dim));
        for ((offset, cosine), (total, out)) in self.cosines.iter_mut().enumerate().zip(rows) {
            let i = self.first + offset;
            let (row, feature) = (&closed[i], batch.rows(&(i..i + 1)));
            // Through the normalisation: s/‖x‖ · (I − x̂x̂ᵀ).
            let (mut radial, mut unit) = (0.0, 1.0 / batch.norms[i]);
            let along = || -> f64 {
                let pairs = total.iter().zip(feature);
                pairs.map(|(&g, &x)| g * x.widen()).sum()
            };
            match batch.head.layer {
                Layer::Cosine { scale } => {
                    let along = along();
                    *cosine = scale_by_power(along / scale, row.exponent);
                    radial = along / (scale * scale);
                    unit = 1.0 / scale;
                }
                // A changed negative is ‖x‖ T(c), of which only ‖x‖ c is linear in x.
                Layer::UnitWeights if batch.targets[i].changed.is_some() => {
                    let mean = scale_by_power(row.mean, -row.exponent);
                    radial = (along() - mean) * unit * unit;
                }
                Layer::UnitWeights | Layer::Linear => {}
            }
            let coefficient = batch.coefficients[i];
            let through = scale_by_power(batch.through(i), row.exponent);
            let term = batch.targets[i].term[1];
            let term = if term == 0.0 { 0.0 } else { term * unit };
            let direction = &batch.by_feature[i * dim..(i + 1) * dim];
            let entries = total.iter().zip(feature).zip(direction);
            for (out, ((&g, &x), &u)) in out.iter_mut().zip(entries) {
                let x = x.widen();
                let others = through * radial.mul_add(-x, g);
                let target = (-row.pull).mul_add(u.widen(), term * x);
                *out = A::narrow(coefficient * (others + target));
            }
        }
    }
}
