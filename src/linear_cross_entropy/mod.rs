//! The driver: softmax cross-entropy over a linear or cosine layer in which only the target's logit is special.
//!
//! It owns normalisation, the products, log-sum-exp, the backward products and the projection back through the
//! normalisation. It knows no paper: a [`Head`] says what is normalised and hands over the margin.

mod backward;
mod blocks;
mod combine;
pub(crate) mod exp;
mod forward;
mod prepare;
mod rows;
mod scratch;
mod target;

use ndarray::{Array1, Array2, ArrayView2, ArrayViewMut2};

use crate::check;
use crate::error::{Argument, Error};
use crate::float::Float;
use crate::loss::{ClassBlock, Evaluation, Forward, Targets};
use crate::margin::Margin;
use crate::parallel;

use backward::{Buffers, Coefficients, Kept, Shares, Weighted};
use blocks::{Aim, Normalised, Plan};
use combine::{FeatureGradient, Normalisation, Row};
use forward::{Batch, Sums};
use scratch::Pieces;
use target::Target;

pub(crate) use rows::{Norm, binary_exponent, contiguous, dot, scale_by_power};
pub(crate) use scratch::Scratch;

/// What is normalised, and so what a logit is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Layer<'a> {
    /// z_j = w_j·x + b_j.
    Linear {
        /// One bias for each class.
        bias: Option<&'a [f64]>,
    },
    /// z_j = ŵ_j·x.
    UnitWeights,
    /// z_j = s ŵ_j·x̂.
    Cosine {
        /// s.
        scale: f64,
    },
}

/// A loss as the driver sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head<'a> {
    pub(crate) layer: Layer<'a>,
    /// The target's logit, if it is not that of any class; never with [`Layer::Linear`].
    pub(crate) margin: Option<&'a dyn Margin>,
    /// Whether the scale is a learnable, whose gradient is asked for.
    pub(crate) learns_scale: bool,
}

impl Head<'_> {
    fn normalises_weights(&self) -> bool {
        !matches!(self.layer, Layer::Linear { .. })
    }

    /// A margin needs the angle, and so a feature that has one.
    fn needs_feature_norms(&self) -> bool {
        self.margin.is_some() || matches!(self.layer, Layer::Cosine { .. })
    }

    fn bias(&self) -> Option<&[f64]> {
        match self.layer {
            Layer::Linear { bias } => bias,
            _ => None,
        }
    }
}

/// Implements [`MarginLoss`](crate::MarginLoss) for a loss that has a method `head`; the block, if there is one, holds
/// what the loss has beyond that.
macro_rules! softmax_family {
    ($loss:ty $(where $margin:ident: Margin)? $(, { $($item:item)* })?) => {
        impl<A: $crate::float::Float $(, $margin: $crate::margin::Margin)?> $crate::loss::MarginLoss<A> for $loss {
            fn forward(
                &self,
                features: ndarray::ArrayView2<'_, A>,
                weights: ndarray::ArrayView2<'_, A>,
                targets: &$crate::loss::Targets<'_, A>,
            ) -> Result<$crate::loss::Forward<A>, $crate::error::Error> {
                $crate::linear_cross_entropy::forward(&self.head(), features, weights, targets)
            }

            fn evaluate_into(
                &self,
                features: ndarray::ArrayView2<'_, A>,
                weights: ndarray::ArrayView2<'_, A>,
                targets: &$crate::loss::Targets<'_, A>,
                evaluation: &mut $crate::loss::Evaluation<A>,
            ) -> Result<(), $crate::error::Error> {
                $crate::linear_cross_entropy::evaluate_into(
                    &self.head(),
                    features,
                    weights,
                    targets,
                    evaluation,
                )
            }

            fn evaluate_streamed(
                &self,
                features: ndarray::ArrayView2<'_, A>,
                weights: ndarray::ArrayViewMut2<'_, A>,
                targets: &$crate::loss::Targets<'_, A>,
                evaluation: &mut $crate::loss::Evaluation<A>,
                update: &mut dyn FnMut($crate::loss::ClassBlock<'_, A>),
            ) -> Result<(), $crate::error::Error> {
                $crate::linear_cross_entropy::evaluate_streamed(
                    &self.head(),
                    features,
                    weights,
                    targets,
                    evaluation,
                    update,
                )
            }

            $($($item)*)?
        }
    };
}
pub(crate) use softmax_family;

/// The loss and the rows' figures.
pub(crate) fn forward<A: Float>(
    head: &Head<'_>,
    features: ArrayView2<'_, A>,
    weights: ArrayView2<'_, A>,
    targets: &Targets<'_, A>,
) -> Result<Forward<A>, Error> {
    on_pool(features, weights, || {
        let mut scratch = Scratch::default();
        Passed::new(head, features, weights, targets, Aim::Loss, &mut scratch)?.figures()
    })
}

/// The loss and all gradients.
pub(crate) fn evaluate_into<A: Float>(
    head: &Head<'_>,
    features: ArrayView2<'_, A>,
    weights: ArrayView2<'_, A>,
    targets: &Targets<'_, A>,
    evaluation: &mut Evaluation<A>,
) -> Result<(), Error> {
    let work = |evaluation: &mut Evaluation<A>, scratch: &mut _| {
        let mut passed = Passed::new(head, features, weights, targets, Aim::Gradients, scratch)?;
        passed.write_features(evaluation)?;
        let out = shaped(&mut evaluation.grad_weights, weights.dim());
        let out = out.as_slice_mut().expect("just shaped");
        let grad_bias = passed.grad_bias(&mut evaluation.grad_learnables);
        let (batch, coefficients, buffers, _) = passed.backward();
        backward::all(batch, weights, &coefficients, buffers, out, grad_bias);
        Ok(())
    };
    on_pool(features, weights, || with_scratch(evaluation, work))
}

/// The same, with ∂W handed to `update` block by block instead of kept.
pub(crate) fn evaluate_streamed<A: Float>(
    head: &Head<'_>,
    features: ArrayView2<'_, A>,
    weights: ArrayViewMut2<'_, A>,
    targets: &Targets<'_, A>,
    evaluation: &mut Evaluation<A>,
    update: &mut dyn FnMut(ClassBlock<'_, A>),
) -> Result<(), Error> {
    with_scratch(evaluation, |evaluation, scratch| {
        let view = weights.view();
        let mut passed = Passed::new(head, features, view, targets, Aim::Stream, scratch)?;
        passed.write_features(evaluation)?;
        evaluation.grad_weights = Array2::default((0, features.ncols()));
        let grad_bias = passed.grad_bias(&mut evaluation.grad_learnables);
        let (batch, coefficients, buffers, gradients) = passed.backward();
        backward::stream(
            batch,
            weights,
            &coefficients,
            buffers,
            gradients,
            grad_bias,
            update,
        );
        Ok(())
    })
}

/// Does `work`, on the pool if the shapes are worth it.
fn on_pool<A: Float, R: Send>(
    features: ArrayView2<'_, A>,
    weights: ArrayView2<'_, A>,
    work: impl FnOnce() -> R + Send,
) -> R {
    if parallel::pays(features.nrows(), weights.nrows(), features.ncols()) {
        parallel::on_pool(work)
    } else {
        work()
    }
}

/// Lends the evaluation's working memory to `work`, beside the rest of it.
fn with_scratch<A: Float, T>(
    evaluation: &mut Evaluation<A>,
    work: impl FnOnce(&mut Evaluation<A>, &mut Scratch<A>) -> T,
) -> T {
    let mut scratch = core::mem::take(&mut evaluation.scratch);
    let result = work(evaluation, &mut scratch);
    evaluation.scratch = scratch;
    result
}

/// An evaluation after its forward pass.
struct Passed<'a, A> {
    head: &'a Head<'a>,
    batch: Batch<'a, A>,
    sums: Sums<'a, A>,
    targets: Vec<Target>,
    rows: Vec<Row>,
    /// rᵢ/N or rᵢ.
    coefficients: Vec<f64>,
    /// 1/‖x‖, wherever it is needed.
    inverse_norms: Vec<f64>,
    /// The most that a row of ∂W can be before it is divided by its norm.
    weight_gradient_bound: f64,
    /// ∂z_y/∂x and ∂z_y/∂w_y, N×d each.
    by_feature: &'a [A],
    by_weight: &'a [A],
    grad_features: &'a mut [A],
    weighted: Weighted<'a, A>,
    gradient_blocks: &'a mut [A],
}

impl<'a, A: Float> Passed<'a, A> {
    /// Checks the arguments, and runs the forward pass in `scratch`.
    fn new(
        head: &'a Head<'a>,
        features: ArrayView2<'_, A>,
        weights: ArrayView2<'_, A>,
        targets: &Targets<'a, A>,
        aim: Aim,
        scratch: &'a mut Scratch<A>,
    ) -> Result<Self, Error> {
        check::batch(features, weights, Argument::ClassWeights, targets)?;
        if let Some(bias) = head.bias()
            && bias.len() != weights.nrows()
        {
            return Err(Error::RowCount {
                argument: Argument::Bias,
                expected: weights.nrows(),
                found: bias.len(),
            });
        }
        let (n, d) = features.dim();
        let labels = targets.labels();
        let plan = Plan::new::<A>(n, weights.nrows(), d, aim, scratch.limit())?;
        let sizes = plan.sizes();

        let mut elements = Pieces::of(&mut scratch.elements, sizes.elements());
        let mut doubles = Pieces::of(&mut scratch.doubles, sizes.row_segments);
        let rescaled = Pieces::of(&mut scratch.flags, sizes.blocks).take(sizes.blocks);
        let inverse_norms = elements.take(sizes.inverse_norms);
        let scaled = elements.take(sizes.features);
        let by_feature = elements.take(sizes.row_vectors);
        let by_weight = elements.take(sizes.row_vectors);

        let x_norms = prepare::scale_features(head, features, scaled)?;
        let w_norms =
            prepare::scan_weights(head, &plan, weights, &x_norms, inverse_norms, rescaled)?;
        prepare::check_logits::<A>(head, &x_norms, &w_norms)?;
        let found = target::find_all(head, features, weights, labels, by_feature, by_weight)?;
        let coefficients = check::coefficients(targets);
        let weight_gradient_bound = match aim {
            Aim::Loss => 0.0,
            Aim::Gradients | Aim::Stream => prepare::check_weight_gradient::<A>(
                head,
                &coefficients,
                &x_norms,
                &w_norms,
                &found,
            )?,
        };

        let mut by_label: Vec<usize> = (0..n).collect();
        by_label.sort_by_key(|&row| labels[row]);
        let batch = Batch {
            plan,
            normalised: Normalised {
                inverse_norms,
                rescaled,
            },
            bias: head.bias(),
            features: scaled,
            labels,
            by_label,
        };
        let mut sums = Sums {
            totals: doubles.take(sizes.row_segments),
            shifts: elements.take(sizes.row_segments),
            maxima: elements.take(sizes.row_segments),
            accumulators: elements.take(sizes.accumulators),
            exponentials: elements.take(sizes.exponentials),
            block_shifts: elements.take(sizes.block_shifts),
        };
        forward::run(&batch, weights, &mut sums);
        let rows = (0..n)
            .map(|row| Row::combine(&plan, &sums, row, &found[row]))
            .collect();
        Ok(Self {
            head,
            batch,
            sums,
            targets: found,
            rows,
            coefficients,
            inverse_norms: x_norms.iter().map(|norm| 1.0 / norm.value()).collect(),
            weight_gradient_bound,
            by_feature,
            by_weight,
            grad_features: elements.take(sizes.row_vectors),
            weighted: Weighted::new(elements.take(sizes.row_vectors)),
            gradient_blocks: elements.take(sizes.gradient_blocks),
        })
    }

    fn figures(&self) -> Result<Forward<A>, Error> {
        let losses = self.rows.iter().map(|row| row.loss);
        let (loss, row_losses) = check::reduce(&self.coefficients, losses)?;
        let targets = self.targets.iter();
        Ok(Forward {
            loss,
            row_losses: row_losses.into(),
            target_logits: targets
                .clone()
                .map(|target| A::narrow(target.logit))
                .collect(),
            target_cosines: targets
                .clone()
                .map(|target| A::narrow(target.cosine))
                .collect(),
            correct: targets
                .zip(&self.rows)
                .map(|(target, row)| A::narrow(target.plain_logit) > A::narrow(row.largest_other))
                .collect(),
        })
    }

    /// Writes everything of the evaluation but the gradients of the classes; on error, nothing.
    fn write_features(&mut self, evaluation: &mut Evaluation<A>) -> Result<(), Error> {
        let forward = self.figures()?;
        let plan = self.batch.plan;
        let mut cosines = vec![0.0; plan.rows];
        FeatureGradient {
            plan: &plan,
            sums: &self.sums,
            rows: &self.rows,
            coefficients: &self.coefficients,
            inverse_norms: &self.inverse_norms,
            normalisation: match self.head.layer {
                Layer::Cosine { scale } => Normalisation::Scaled { scale },
                _ => Normalisation::None,
            },
            features: self.batch.features,
            target_directions: self.by_feature,
        }
        .write(self.grad_features, &mut cosines)?;

        let grad_learnables = match self.head.layer {
            Layer::Linear { bias: Some(bias) } => Array1::zeros(bias.len()),
            Layer::Cosine { scale } if self.head.learns_scale => {
                // ∂L/∂s = Σ G_ij z_ij/s.
                let sum: f64 = (0..plan.rows)
                    .map(|i| {
                        let target = self.rows[i].miss * self.targets[i].logit / scale;
                        self.coefficients[i] * (cosines[i] - target)
                    })
                    .sum();
                Array1::from_elem(1, A::narrow(sum))
            }
            _ => Array1::default(0),
        };
        if !grad_learnables.iter().all(|entry| entry.is_finite()) {
            return Err(Error::Overflow {
                quantity: "gradient",
                argument: Argument::Features,
                row: 0,
            });
        }

        // From here on nothing can fail, and the caller's arrays are written.
        evaluation.forward = forward;
        shaped(&mut evaluation.grad_features, (plan.rows, plan.dim))
            .as_slice_mut()
            .expect("just shaped")
            .copy_from_slice(self.grad_features);
        evaluation.grad_centers = Array2::default((0, 0));
        evaluation.grad_learnables = grad_learnables;
        Ok(())
    }

    /// Where ∂L/∂b goes: nowhere, if the loss has no bias.
    fn grad_bias<'b>(&self, learnables: &'b mut Array1<A>) -> &'b mut [A] {
        match self.batch.bias {
            Some(_) => learnables.as_slice_mut().unwrap_or_default(),
            None => &mut [],
        }
    }

    /// What the backward pass takes: the batch, the coefficients, working memory, and blocks to hand out.
    fn backward(&mut self) -> (&Batch<'a, A>, Coefficients<'_, A>, Buffers<'_, A>, &mut [A]) {
        // The bound may have underflowed to 0, while 1/‖w‖ is still to come.
        let bound = self.weight_gradient_bound.max(f64::from_bits(1));
        let boost = A::MAX_EXPONENT - rows::binary_exponent(bound);
        // The sums have served: what the backward pass works in takes their place.
        let features = &mut *self.sums.accumulators;
        let (kept, tiles): (_, &mut [A]) = if self.batch.plan.keeps {
            let kept = Kept {
                exponentials: self.sums.exponentials,
                block_shifts: self.sums.block_shifts,
            };
            (Some(kept), &mut [])
        } else {
            (None, &mut *self.sums.exponentials)
        };
        let shares = Shares {
            rows: &self.rows,
            by_row: &self.coefficients,
            boost,
        };
        let shifts: Vec<A> = self.rows.iter().map(|row| A::narrow(row.shift)).collect();
        self.weighted
            .make_for(&self.batch, &shares, 0..self.rows.len(), &shifts);
        let coefficients = Coefficients {
            shares,
            kept,
            target_directions: self.by_weight,
            normalised: self.head.normalises_weights(),
            weighted: &self.weighted,
        };
        let buffers = Buffers { features, tiles };
        (&self.batch, coefficients, buffers, self.gradient_blocks)
    }
}

/// The array, row-major and of that shape; its entries are whatever they are.
pub(crate) fn shaped<A: Float>(array: &mut Array2<A>, shape: (usize, usize)) -> &mut Array2<A> {
    if array.dim() != shape || !array.is_standard_layout() {
        *array = Array2::zeros(shape);
    }
    array
}
