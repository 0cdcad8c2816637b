//! Margin-based losses for training embeddings: softmax, center loss, A-Softmax (`SphereFace`), `NormFace`, AM-Softmax,
//! `CosFace`, `ArcFace`, and what came after them, with their analytic gradients, over [`ndarray`] batches.
//!
//! You have a network that turns a batch into features X (N×d), a matrix of class weights W (C×d) and labels. A loss of this
//! crate gives `L`, `∂L/∂X` to send back into the network, and `∂L/∂W` to train the classes. Network, optimiser and data
//! are yours, and so is W: the crate keeps no training state.
//!
//! ```
//! use margin_losses::{ArcFace, MarginLoss, Targets};
//! use margin_losses::ndarray::array;
//!
//! let features = array![[0.9, 0.1, 0.2], [-0.3, 1.1, 0.4]];
//! let mut weights = array![[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
//!
//! let loss = ArcFace::new(16.0, 0.5)?;
//! let before = loss.evaluate(features.view(), weights.view(), &Targets::new(&[0, 1]))?;
//! weights.scaled_add(-0.1, &before.grad_weights);
//! let after = loss.forward(features.view(), weights.view(), &Targets::new(&[0, 1]))?;
//! assert!(after.loss < before.loss());
//! # Ok::<(), margin_losses::Error>(())
//! ```
//!
//! # The losses
//!
//! With θ_j the angle between x and w_j, y the label, and `ℓ = ln Σ_j exp z_j − z_y` throughout:
//!
//! | loss | z_y | z_j, j ≠ y |
//! |---|---|---|
//! | [`SoftmaxLoss`] | w_y·x + b_y | w_j·x + b_j |
//! | [`ModifiedSoftmax`] | ‖x‖ cosθ_y | ‖x‖ cosθ_j |
//! | [`ASoftmax`] | ‖x‖ (λ cosθ_y + ψ(θ_y))/(1 + λ) | ‖x‖ cosθ_j |
//! | [`NormFace`] | s cosθ_y | s cosθ_j |
//! | [`AmSoftmax`], [`CosFace`] | s (cosθ_y − m) | s cosθ_j |
//! | [`ArcFace`] | s cos(θ_y + m), at wide angles s (cosθ_y − 2 sin(m/2)) | s cosθ_j |
//! | [`VaryingMargin`] | one of the last three, m by class or by row | s cosθ_j |
//! | [`CurricularFace`] | s cos(θ_y + m) | s cosθ_j (t + cosθ_j) above z_y/s |
//! | [`MvSoftmax`] | as [`CosFace`] or [`ArcFace`] | s T(cosθ_j), T larger above z_y/s |
//! | [`AdaptiveFace`] | s (cosθ_y − m_y), m learned; + λ (1 − mean m) to the loss | s cosθ_j |
//! | [`AdaFace`] | s (cos(θ_y − m k̂) − m (1 + k̂)), k̂ from ‖x‖ | s cosθ_j |
//! | [`MagFace`] | s cos(θ_y + m(‖x‖)) | s cosθ_j |
//! | [`CombinedMargin`] | s (cos(m₁θ_y + m₂) − m₃) | s cosθ_j |
//! | [`MarginSoftmax`] | s ψ(θ_y), ψ a [`Margin`] of yours | s cosθ_j |
//!
//! Others put other terms in the place of this ℓ: [`SphereFace2`] and [`UniFace`] have a logistic loss for each class,
//! [`CContrastive`] and [`CTriplet`] hinges of squared distances.
//!
//! [`Composed`] adds sub-centers, label smoothing, class priors, focal modulation or an [inter-topk penalty](InterTopK) to a
//! softmax loss. [`CenterLoss`] is `½‖x − c_y‖²`, and [`JointLoss`] adds λ times that to any of the above. [`AnyLoss`] is whichever a line
//! of text names: `"arcface:s=64,m=0.5".parse()`. [`Objective`] is such a loss with center loss or without:
//! `"softmax+center:lambda=0.01".parse()`.
//!
//! A head of millions of classes, over processes and machines or by samples: [`shards`]. Products on a device: [`offload`].
//! Which class a feature belongs to say [`MarginLoss::predict`] and [`MarginLoss::scores`]; how well features tell same from
//! different, [`verification`].
//!
//! # Pages
//!
//! [Choosing a loss, s and m](_documentation::choosing), [coming from PyTorch](_documentation::pytorch),
//! [a training loop from zero](_documentation::training), [recipes](_documentation::recipes),
//! [ten million classes](_documentation::scale), [how it works](_documentation::how_it_works),
//! [numerics](_documentation::numerics).
//!
//! # Conventions
//!
//! Rows are samples: features are `(batch, dim)`, class weights `(classes, dim)`. Angles are in radians, logarithms natural,
//! the reduction is the mean unless [`Targets`] says otherwise. Every method that can refuse its arguments returns an
//! [`Error`] that names what is wrong and where, and has then written nothing.
//!
//! # Features of the crate
//!
//! | feature | default | what it is for |
//! |---|---|---|
//! | `rayon` | yes | blocks of classes on all cores; the bits of the results do not depend on it |
//! | `rand` | yes | [`init`]: seeded class weights and centers; random rows for new classes ([`grow`]); random margins ([`margins`]) |
//! | `serde` | no | losses, rules and schedules as configurations: validated again on the way in; ndarray's arrays too |

#![forbid(unsafe_code)]

#[cfg(any(doc, doctest))]
pub mod _documentation;
mod a_softmax;
mod ada_face;
mod adaptive_face;
mod am_softmax;
mod any_loss;
mod arc_face;
mod center;
mod check;
mod combined;
mod composed;
mod cos_face;
mod counted;
mod curricular_face;
mod driver;
mod error;
mod evaluation;
mod float;
pub mod grow;
pub mod guide;
#[cfg(feature = "rand")]
pub mod init;
mod inter_topk;
mod joint;
mod loss;
mod mag_face;
mod margin;
mod margin_softmax;
pub mod margins;
mod modified_softmax;
mod mv_softmax;
mod norm_face;
mod numerics;
mod objective;
pub mod offload;
mod request;
mod scale;
pub mod schedule;
mod scores;
mod scratch;
#[cfg(feature = "serde")]
mod serialised;
pub mod shards;
mod softmax;
mod sphere_face2;
mod targets;
mod text;
mod uni_face;
mod varying_margin;
pub mod verification;

pub use ndarray;

pub use a_softmax::ASoftmax;
pub use ada_face::{AdaFace, TurnedAngle};
pub use adaptive_face::AdaptiveFace;
pub use am_softmax::AmSoftmax;
pub use any_loss::AnyLoss;
pub use arc_face::{ArcFace, PastPi};
pub use center::CenterLoss;
pub use combined::CombinedMargin;
pub use composed::Composed;
pub use cos_face::CosFace;
pub use curricular_face::CurricularFace;
pub use error::{Argument, Error};
pub use evaluation::{ClassBlock, Evaluation, Forward};
pub use float::Float;
pub use inter_topk::InterTopK;
pub use joint::JointLoss;
pub use loss::MarginLoss;
pub use mag_face::MagFace;
pub use margin::{Angle, Margin, Negatives, Target, TargetLogit};
pub use margin_softmax::MarginSoftmax;
pub use modified_softmax::ModifiedSoftmax;
pub use mv_softmax::MvSoftmax;
pub use norm_face::{CContrastive, CTriplet, NormFace};
pub use objective::Objective;
pub use request::Request;
pub use scores::TopClasses;
pub use softmax::SoftmaxLoss;
pub use sphere_face2::SphereFace2;
pub use targets::{Labels, Reduction, Targets};
pub use uni_face::UniFace;
pub use varying_margin::VaryingMargin;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
