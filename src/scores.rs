//! Which class a feature belongs to.

use ndarray::Array2;

use crate::error::Error;

/// The best classes of each row, the best first, as [`MarginLoss::top_k`](crate::MarginLoss::top_k) finds them.
///
/// # Examples
///
/// ```
/// use margin_losses::{CosFace, MarginLoss};
/// use margin_losses::ndarray::array;
///
/// let (x, w) = (array![[3.0_f64, 4.0]], array![[0.0, 1.0], [-1.0, 0.0], [2.0, 0.0]]);
/// let top = CosFace::new(10.0, 0.35)?.top_k(x.view(), w.view(), 2)?;
/// assert_eq!(top.classes, array![[0, 2]]);
/// assert!((&top.scores - &array![[8.0, 6.0]]).iter().all(|off| off.abs() < 1e-14));   // s cosθ
/// # Ok::<(), margin_losses::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct TopClasses<A> {
    /// The classes, N×k.
    pub classes: Array2<usize>,
    /// Their scores, N×k, in descending order.
    pub scores: Array2<A>,
}

/// Which scores are wanted, and where they go.
#[derive(Debug)]
pub(crate) enum Scores<'a, A> {
    /// Those of all classes.
    All(&'a mut Array2<A>),
    /// Those of the k best.
    Top(usize, &'a mut TopClasses<A>),
}

impl<A> Scores<'_, A> {
    pub(crate) fn reborrow(&mut self) -> Scores<'_, A> {
        match self {
            Self::All(out) => Scores::All(out),
            Self::Top(k, out) => Scores::Top(*k, out),
        }
    }

    /// Refuses to choose none, or more classes than there are.
    pub(crate) fn check(&self, classes: usize) -> Result<(), Error> {
        match *self {
            Self::Top(k, _) if !(1..=classes).contains(&k) => Err(Error::TopK { k, classes }),
            _ => Ok(()),
        }
    }
}

impl<A: num_traits::Float> Scores<'_, A> {
    /// From the scores of all classes.
    pub(crate) fn fill(self, scores: Array2<A>) {
        match self {
            Self::All(out) => *out = scores,
            Self::Top(k, out) => {
                let mut found = vec![none_found(); scores.nrows() * k];
                for (row, found) in scores.outer_iter().zip(found.chunks_exact_mut(k)) {
                    let mut best = Best::over(found);
                    for (class, &score) in row.iter().enumerate() {
                        best.offer(score, class);
                    }
                }
                *out = TopClasses::from_rows(k, &found);
            }
        }
    }
}

/// In the place of a class that has not been found.
pub(crate) fn none_found<A: num_traits::Float>() -> (A, usize) {
    (A::neg_infinity(), usize::MAX)
}

/// The best classes of one row among those seen so far, which come in ascending order.
#[derive(Debug)]
pub(crate) struct Best<'a, A> {
    /// As many as are looked for, in descending order of the scores; equals in the order of the classes.
    found: &'a mut [(A, usize)],
}

impl<'a, A: num_traits::Float> Best<'a, A> {
    /// Goes on with what has been found, [`none_found`] to begin with.
    pub(crate) fn over(found: &'a mut [(A, usize)]) -> Self {
        Self { found }
    }

    /// What a score must exceed to count.
    fn threshold(&self) -> A {
        self.found.last().map_or(A::infinity(), |&(least, _)| least)
    }

    pub(crate) fn offer(&mut self, score: A, class: usize) {
        if score > self.threshold() {
            let place = self.found.partition_point(|&(other, _)| other >= score);
            self.found[place..].rotate_right(1);
            self.found[place] = (score, class);
        }
    }

    /// Takes in the scores of consecutive classes.
    #[inline(always)]
    pub(crate) fn offer_all(&mut self, first: usize, scores: &[A]) {
        // As many as are compared side by side.
        const CHUNK: usize = 32;
        let mut threshold = self.threshold();
        for (chunk, scores) in scores.chunks(CHUNK).enumerate() {
            // Counted, because a search that stops at the first is not done side by side.
            let better = scores.iter().filter(|&&score| score > threshold).count();
            if better > 0 {
                for (class, &score) in (first + chunk * CHUNK..).zip(scores) {
                    self.offer(score, class);
                }
                threshold = self.threshold();
            }
        }
    }

    /// Takes in what was found among later classes.
    pub(crate) fn join(&mut self, later: &[(A, usize)]) {
        for &(score, class) in later {
            self.offer(score, class);
        }
    }
}

impl<A: num_traits::Float> TopClasses<A> {
    /// From k classes for each row.
    pub(crate) fn from_rows(k: usize, found: &[(A, usize)]) -> Self {
        let shape = (found.len() / k, k);
        let at = |(row, rank): (usize, usize)| row * k + rank;
        Self {
            classes: Array2::from_shape_fn(shape, |place| found[at(place)].1),
            scores: Array2::from_shape_fn(shape, |place| found[at(place)].0),
        }
    }
}
