//! Pages to read, with code that is compiled: they are the files of `docs/` in the repository.
//!
//! A page names the items of the crate by references: the definitions in its file lead to the sources, those that stand
//! before it here come first and lead to the documentation.
//!
//! | page | for |
//! |---|---|
//! | [`choosing`] | which loss, which scale, which margin, and what the log should say |
//! | [`pytorch`] | those who come from PyTorch: which option reproduces which public code |
//! | [`training`] | a training loop from zero |
//! | [`recipes`] | focal loss, mixup, accumulation, clipping, sampling, several labels, AdaCos, a learned bias, inference |
//! | [`how_it_works`] | one evaluation, what it costs and what it holds |
//! | [`numerics`] | what is promised about digits, and how it is kept |

/// [`ASoftmax`]: crate::ASoftmax
/// [`AdaFace`]: crate::AdaFace
/// [`AdaptiveFace`]: crate::AdaptiveFace
/// [`AmSoftmax`]: crate::AmSoftmax
/// [`ArcFace`]: crate::ArcFace
/// [`CombinedMargin`]: crate::CombinedMargin
/// [`Composed::with_class_priors`]: crate::Composed::with_class_priors
/// [`Composed::with_inter_topk`]: crate::Composed::with_inter_topk
/// [`Composed::with_sub_centers`]: crate::Composed::with_sub_centers
/// [`CosFace`]: crate::CosFace
/// [`CurricularFace`]: crate::CurricularFace
/// [`Forward`]: crate::Forward
/// [`JointLoss`]: crate::JointLoss
/// [`LambdaAnnealing`]: crate::schedule::LambdaAnnealing
/// [`MagFace`]: crate::MagFace
/// [`MarginSoftmax`]: crate::MarginSoftmax
/// [`MarginSoftmax::learned`]: crate::MarginSoftmax::learned
/// [`MvSoftmax`]: crate::MvSoftmax
/// [`NormFace`]: crate::NormFace
/// [`NormFace::learned`]: crate::NormFace::learned
/// [`Objective`]: crate::Objective
/// [`PastPi`]: crate::PastPi
/// [`PastPi::CosineTail`]: crate::PastPi::CosineTail
/// [`SoftmaxLoss`]: crate::SoftmaxLoss
/// [`SphereFace2`]: crate::SphereFace2
/// [`SphereFace2::arc`]: crate::SphereFace2::arc
/// [`UniFace`]: crate::UniFace
/// [`VaryingMargin`]: crate::VaryingMargin
/// [`guide`]: crate::guide
/// [`guide::adacos_scale`]: crate::guide::adacos_scale
/// [`guide::antipode_loss`]: crate::guide::antipode_loss
/// [`guide::dead_features`]: crate::guide::dead_features
/// [`guide::diagnose`]: crate::guide::diagnose
/// [`guide::one_direction_loss`]: crate::guide::one_direction_loss
/// [`guide::largest_angular_margin`]: crate::guide::largest_angular_margin
/// [`guide::largest_cosine_margin`]: crate::guide::largest_cosine_margin
/// [`guide::mag_face_least_regulariser`]: crate::guide::mag_face_least_regulariser
/// [`guide::sphere_face2_bias`]: crate::guide::sphere_face2_bias
/// [`guide::suggested_scale`]: crate::guide::suggested_scale
/// [`guide::uni_face_bias`]: crate::guide::uni_face_bias
/// [`margins::drw_weights`]: crate::margins::drw_weights
/// [`margins::dynamic`]: crate::margins::dynamic
/// [`margins::elastic`]: crate::margins::elastic
/// [`margins::ldam`]: crate::margins::ldam
/// [`schedule::MarginWarmUp`]: crate::schedule::MarginWarmUp
/// [rows]: crate::Targets#rows-that-are-ignored
/// [`CContrastive`]: crate::CContrastive
/// [`CTriplet`]: crate::CTriplet
#[doc = include_str!("../docs/choosing.md")]
pub mod choosing {}

/// [`AdaFace`]: crate::AdaFace
/// [`ArcFace`]: crate::ArcFace
/// [`CenterLoss::update_centers`]: crate::CenterLoss::update_centers
/// [`CombinedMargin`]: crate::CombinedMargin
/// [`Composed`]: crate::Composed
/// [`CosFace`]: crate::CosFace
/// [`Error::EmptyBatch`]: crate::Error::EmptyBatch
/// [`Error::InterTopK`]: crate::Error::InterTopK
/// [`Error::ZeroNorm`]: crate::Error::ZeroNorm
/// [`Error::ZeroWeights`]: crate::Error::ZeroWeights
/// [`InterTopK`]: crate::InterTopK
/// [`JointLoss`]: crate::JointLoss
/// [`LinearTail`]: crate::PastPi::LinearTail
/// [`Margin`]: crate::Margin
/// [`MarginSoftmax`]: crate::MarginSoftmax
/// [`ModifiedSoftmax`]: crate::ModifiedSoftmax
/// [`PastPi::EasyMargin`]: crate::PastPi::EasyMargin
/// [`PastPi::JoinedTail`]: crate::PastPi::JoinedTail
/// [`PastPi::LinearTail`]: crate::PastPi::LinearTail
/// [`PastPi::Paper`]: crate::PastPi::Paper
/// [`PastPi::SmoothTail`]: crate::PastPi::SmoothTail
/// [nothing learned]: crate::_documentation::choosing#the-loss-falls-and-nothing-is-learned
/// [`Reduction::WeightedMean`]: crate::Reduction::WeightedMean
/// [`guide::adacos_scale`]: crate::guide::adacos_scale
/// [`SphereFace2`]: crate::SphereFace2
/// [`UniFace`]: crate::UniFace
/// [`TurnedAngle::Clipped`]: crate::TurnedAngle::Clipped
/// [`guide::mag_face_least_regulariser`]: crate::guide::mag_face_least_regulariser
/// [`guide::sphere_face2_bias`]: crate::guide::sphere_face2_bias
/// [`init`]: crate::init
/// [`margins::deal`]: crate::margins::deal
/// [`margins::drw_weights`]: crate::margins::drw_weights
/// [`margins::dynamic_scaled`]: crate::margins::dynamic_scaled
/// [`margins::elastic`]: crate::margins::elastic
/// [`with_norm_slope`]: crate::TargetLogit::with_norm_slope
/// [`with_row_term`]: crate::TargetLogit::with_row_term
/// [numerics]: crate::_documentation::numerics
/// [`CContrastive`]: crate::CContrastive
/// [`CTriplet`]: crate::CTriplet
#[doc = include_str!("../docs/pytorch.md")]
pub mod pytorch {}

/// [`Evaluation`]: crate::Evaluation
/// [`Evaluation::with_scratch_limit`]: crate::Evaluation::with_scratch_limit
/// [`SoftmaxLoss`]: crate::SoftmaxLoss
/// [`Targets`]: crate::Targets
/// [`Objective`]: crate::Objective
/// [`Objective::over_centers`]: crate::Objective::over_centers
/// [`Targets::labels`]: crate::Targets::labels
/// [`evaluate_into`]: crate::MarginLoss::evaluate_into
/// [`evaluate_streamed`]: crate::MarginLoss::evaluate_streamed
/// [`grow`]: crate::grow
/// [`grow::with_class_means`]: crate::grow::with_class_means
/// [`grow::with_random_rows`]: crate::grow::with_random_rows
/// [`verification`]: crate::verification
/// [choosing]: crate::_documentation::choosing
#[doc = include_str!("../docs/training.md")]
///
/// # The whole program
///
/// ```
#[doc = include_str!("../examples/quick_start.rs")]
/// ```
pub mod training {}

/// [`Composed`]: crate::Composed
/// [`Evaluation::with_scratch_limit`]: crate::Evaluation::with_scratch_limit
/// [`Forward`]: crate::Forward
/// [`MarginSoftmax::learned`]: crate::MarginSoftmax::learned
/// [`NormFace::learned`]: crate::NormFace::learned
/// [`SphereFace2`]: crate::SphereFace2
/// [`UniFace`]: crate::UniFace
/// [`evaluate_streamed`]: crate::MarginLoss::evaluate_streamed
/// [`grow`]: crate::grow
/// [`guide::adacos_scale`]: crate::guide::adacos_scale
/// [`predict`]: crate::MarginLoss::predict
/// [`top_k`]: crate::MarginLoss::top_k
#[doc = include_str!("../docs/recipes.md")]
pub mod recipes {}

/// [`Margin`]: crate::Margin
#[doc = include_str!("../docs/how-it-works.md")]
pub mod how_it_works {}

/// [`Error`]: crate::Error
/// [`Error::NormTooSmall`]: crate::Error::NormTooSmall
/// [`Error::ZeroNorm`]: crate::Error::ZeroNorm
/// [`PastPi::LinearTail`]: crate::PastPi::LinearTail
#[doc = include_str!("../docs/numerics.md")]
pub mod numerics {}
