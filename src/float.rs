//! The public element types, and the code that is compiled for each of them once, in this crate.

use ndarray::{Array1, Array2, ArrayView2, ArrayViewMut2, NdFloat};

use crate::center::{self, Term};
use crate::check;
use crate::counted;
use crate::curricular_face;
use crate::driver::{self, Head};
use crate::error::{Argument, Error};
use crate::evaluation::Evaluation;
use crate::grow;
use crate::margin::{Margin, OfRows};
use crate::numerics::{self, Element};
use crate::request::Request;
use crate::targets::{Labels, Targets};
use crate::verification::{self, Units, Verification};

/// The element type of features, class weights, losses and gradients: `f32` or `f64`.
///
/// Sealed: the accuracy that the crate promises is stated and tested for these two.
pub trait Float: num_traits::Float + NdFloat + Default + sealed::Compiled {}

impl Float for f32 {}
impl Float for f64 {}

pub(crate) mod sealed {
    use super::{
        Argument, Array1, Array2, ArrayView2, ArrayViewMut2, Error, Evaluation, Head, Labels,
        Request, Targets, Term, Units, Verification,
    };

    /// What only this crate can make, so that only it can call what takes one.
    #[derive(Clone, Copy, Debug)]
    pub struct Token(());

    pub(crate) const TOKEN: Token = Token(());

    /// Everything that computes. What is generic over the element type is compiled where it is called from, in a user's
    /// crate with that crate's optimisation; these are not generic, and so are compiled here.
    pub trait Compiled: Sized {
        fn answer(
            _: Token,
            request: Request<'_, Self>,
            run: &mut dyn FnMut(Request<'_, Self>) -> Result<(), Error>,
        ) -> Result<(), Error>;

        fn solve(_: Token, head: &Head<'_>, request: Request<'_, Self>) -> Result<(), Error>;

        fn norms(_: Token, features: ArrayView2<'_, Self>) -> Vec<f64>;
        fn target_cosines(
            _: Token,
            features: ArrayView2<'_, Self>,
            weights: ArrayView2<'_, Self>,
            labels: &[usize],
            group: usize,
        ) -> Vec<f64>;

        fn center_term(
            _: Token,
            features: ArrayView2<'_, Self>,
            centers: ArrayView2<'_, Self>,
            argument: Argument,
            targets: &Targets<'_, Self>,
            factor: f64,
        ) -> Result<Term<Self>, Error>;

        fn add_center_term(
            _: Token,
            term: &Term<Self>,
            evaluation: &mut Evaluation<Self>,
            classes: Option<usize>,
        ) -> Result<(), Error>;

        fn is_negligible(_: Token, term: &Term<Self>) -> bool;

        fn center_loss(_: Token, request: Request<'_, Self>) -> Result<(), Error>;

        fn update_centers(
            _: Token,
            centers: ArrayViewMut2<'_, Self>,
            features: ArrayView2<'_, Self>,
            labels: Labels<'_>,
            alpha: f64,
        ) -> Result<(), Error>;

        fn with_rows_along(
            _: Token,
            weights: ArrayView2<'_, Self>,
            directions: Array2<Self>,
        ) -> Result<Array2<Self>, Error>;

        fn with_class_means(
            _: Token,
            weights: ArrayView2<'_, Self>,
            features: ArrayView2<'_, Self>,
            labels: Labels<'_>,
            added: usize,
        ) -> Result<Array2<Self>, Error>;

        fn units(
            _: Token,
            features: ArrayView2<'_, Self>,
            labels: Labels<'_>,
        ) -> Result<Units<Self>, Error>;

        fn verify(
            _: Token,
            units: &Units<Self>,
            false_accept_rates: &[f64],
        ) -> Result<Verification, Error>;

        fn recall(_: Token, units: &Units<Self>, ks: &[usize]) -> Result<Vec<f64>, Error>;

        fn pair_scores(
            _: Token,
            a: ArrayView2<'_, Self>,
            b: ArrayView2<'_, Self>,
        ) -> Result<Array1<Self>, Error>;
    }
}

macro_rules! compiled {
    ($($type:ty),+) => {
        $(impl sealed::Compiled for $type {
            fn answer(
                _: sealed::Token,
                request: Request<'_, Self>,
                run: &mut dyn FnMut(Request<'_, Self>) -> Result<(), Error>,
            ) -> Result<(), Error> {
                counted::answer(request, run)
            }

            fn solve(
                _: sealed::Token,
                head: &Head<'_>,
                request: Request<'_, Self>,
            ) -> Result<(), Error> {
                solve(head, request)
            }

            fn norms(_: sealed::Token, features: ArrayView2<'_, Self>) -> Vec<f64> {
                numerics::norms(features)
            }

            fn target_cosines(
                _: sealed::Token,
                features: ArrayView2<'_, Self>,
                weights: ArrayView2<'_, Self>,
                labels: &[usize],
                group: usize,
            ) -> Vec<f64> {
                curricular_face::target_cosines(features, weights, labels, group)
            }

            fn center_term(
                _: sealed::Token,
                features: ArrayView2<'_, Self>,
                centers: ArrayView2<'_, Self>,
                argument: Argument,
                targets: &Targets<'_, Self>,
                factor: f64,
            ) -> Result<Term<Self>, Error> {
                Term::new(features, centers, argument, targets, factor)
            }

            fn add_center_term(
                _: sealed::Token,
                term: &Term<Self>,
                evaluation: &mut Evaluation<Self>,
                classes: Option<usize>,
            ) -> Result<(), Error> {
                term.add_to(evaluation, classes)
            }

            fn is_negligible(_: sealed::Token, term: &Term<Self>) -> bool {
                term.is_negligible()
            }

            fn center_loss(_: sealed::Token, request: Request<'_, Self>) -> Result<(), Error> {
                center::solve(request)
            }

            fn update_centers(
                _: sealed::Token,
                centers: ArrayViewMut2<'_, Self>,
                features: ArrayView2<'_, Self>,
                labels: Labels<'_>,
                alpha: f64,
            ) -> Result<(), Error> {
                center::update(centers, features, labels, alpha)
            }

            fn with_rows_along(
                _: sealed::Token,
                weights: ArrayView2<'_, Self>,
                directions: Array2<Self>,
            ) -> Result<Array2<Self>, Error> {
                grow::rows_along(weights, directions)
            }

            fn with_class_means(
                _: sealed::Token,
                weights: ArrayView2<'_, Self>,
                features: ArrayView2<'_, Self>,
                labels: Labels<'_>,
                added: usize,
            ) -> Result<Array2<Self>, Error> {
                grow::class_means(weights, features, labels, added)
            }

            fn units(
                _: sealed::Token,
                features: ArrayView2<'_, Self>,
                labels: Labels<'_>,
            ) -> Result<Units<Self>, Error> {
                Units::new(features, labels)
            }

            fn verify(
                _: sealed::Token,
                units: &Units<Self>,
                false_accept_rates: &[f64],
            ) -> Result<Verification, Error> {
                verification::verify(units, false_accept_rates)
            }

            fn recall(
                _: sealed::Token,
                units: &Units<Self>,
                ks: &[usize],
            ) -> Result<Vec<f64>, Error> {
                verification::recall(units, ks)
            }

            fn pair_scores(
                _: sealed::Token,
                a: ArrayView2<'_, Self>,
                b: ArrayView2<'_, Self>,
            ) -> Result<Array1<Self>, Error> {
                verification::cosines(a, b)
            }
        })+
    };
}

compiled!(f32, f64);

/// Has the driver answer, with what is composed with the loss. Its margin hears of rows as the caller counts them.
fn solve<A: Element>(head: &Head<'_>, request: Request<'_, A>) -> Result<(), Error> {
    let composition = request.composition;
    // Priors are for the training: scores are without them.
    let priors = if request.wants_scores() {
        &[]
    } else {
        composition.log_priors
    };
    let sums: Vec<f64>;
    let constants = match head.constants {
        own if priors.is_empty() => own,
        None => Some(priors),
        Some(own) => {
            check::row_count(Argument::Bias, priors.len(), own.len())?;
            sums = own.iter().zip(priors).map(|(a, b)| a + b).collect();
            Some(&sums[..])
        }
    };
    let rows = request.targets.labels().rows();
    let of_rows = head
        .margin
        .zip(rows)
        .map(|(margin, rows)| OfRows { margin, rows });
    let margin = match &of_rows {
        None => head.margin,
        Some(of_rows) => Some(of_rows as &dyn Margin),
    };
    let head = Head {
        margin,
        constants,
        group: composition.sub_centers,
        smoothing: composition.smoothing,
        focal: composition.focal,
        nearest: composition.inter_topk,
        ..*head
    };
    driver::solve(&head, request)
}
