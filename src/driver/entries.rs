//! The innermost loop: a row of products becomes logits, exponentials and their sums.
//!
//! A row's exponentials are relative to a shift, which begins anew with each segment. It is 0 if the largest logit of the
//! segment's first block lies between 0 and [`SHIFT_SLACK`](Element::SHIFT_SLACK), and that logit otherwise. It follows when a
//! logit exceeds it by more than the slack, which keeps clear of overflow. It never lies above the largest logit, so that a
//! probability keeps its digits as long as it is a normal number. In the ordinary case it is 0, and nothing has to be done.

use crate::numerics::{Element, larger, reduce, scale_by_power};
use crate::scratch::RowSum;

use super::Link;
use super::weights::Block;

/// How many exponentials, sums or maxima run side by side.
///
/// For the compiler to keep them in registers, lanes are copied out of the slices before they are changed (slices may
/// overlap for all it knows), and what is left over has a result of its own (a variable index would put them in memory).
const LANES: usize = 16;

/// What is summed of the logits, by [`Link`].
const SOFTMAX: u8 = 0;
const LOGISTIC: u8 = 1;
const HINGE: u8 = 2;

/// What becomes of a row's logits: nothing, a polynomial, or a polynomial of turned angles.
const PLAIN: u8 = 0;
const CHANGED: u8 = 1;
const TURNED: u8 = 2;

/// Logits above a threshold become a polynomial of themselves, less a center, or of what turning their angles makes of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Changed<A> {
    pub(super) above: A,
    pub(super) turn: Turn<A>,
    pub(super) center: A,
    pub(super) polynomial: [A; 4],
}

/// z = s cosθ becomes s cos(θ − m), and s where θ < m. Nothing is turned if sin m is 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Turn<A> {
    /// s.
    pub(super) scale: A,
    pub(super) cos: A,
    pub(super) sin: A,
}

impl<A: Element> Turn<A> {
    #[inline(always)]
    fn nothing() -> Self {
        Self {
            scale: A::zero(),
            cos: A::one(),
            sin: A::zero(),
        }
    }

    #[inline(always)]
    fn turns(self) -> bool {
        self.sin != A::zero()
    }

    /// What becomes of a logit, and the slope there, cos m − cotθ sin m. Next to θ = π, where it grows without end, it is that at
    /// sinθ = √ε.
    #[inline(always)]
    fn of(self, z: A) -> (A, A) {
        let square = larger((self.scale - z) * (self.scale + z), A::zero());
        let least = self.scale * self.scale * A::epsilon();
        let (root, divisor) = (square.sqrt(), larger(square, least).sqrt());
        let value = self.sin.mul_add(root, self.cos * z);
        let slope = self.cos - self.sin * z / divisor;
        if z > self.scale * self.cos {
            (self.scale, A::zero())
        } else {
            (value, slope)
        }
    }

    /// The most that the slope can be.
    pub(super) fn steepest(self) -> f64 {
        self.cos.widen().abs() + self.sin.widen() / A::epsilon().widen().sqrt()
    }
}

impl<A: Element> Changed<A> {
    /// Of a row whose logits stay what they are.
    #[inline(always)]
    fn nothing() -> Self {
        Self {
            above: A::infinity(),
            turn: Turn::nothing(),
            center: A::zero(),
            polynomial: [A::zero(); 4],
        }
    }

    /// What becomes of a logit, and the slope there.
    #[inline(always)]
    fn of<const TURNS: bool>(self, z: A) -> (A, A) {
        let [a, b, c, d] = self.polynomial;
        let (turned, turning) = if TURNS {
            self.turn.of(z)
        } else {
            (z, A::one())
        };
        let u = turned - self.center;
        let value = d.mul_add(u, c).mul_add(u, b).mul_add(u, a);
        let three_d = d + d + d;
        let slope = three_d.mul_add(u, c + c).mul_add(u, b);
        if z > self.above {
            (value, if TURNS { slope * turning } else { slope })
        } else {
            (z, A::one())
        }
    }
}

/// The products of some rows by a block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tile<'a, A> {
    pub(super) block: &'a Block<'a, A>,
    pub(super) link: Link,
    /// For each row, unless all negatives of all rows are plain.
    pub(super) changed: &'a [Option<Changed<A>>],
    pub(super) products: &'a [A],
}

/// What one pass over a row has found.
struct Measured<A> {
    /// Σ exp(z − shift), Σ softplus(z), or how many z are above 0.
    total: f64,
    /// The largest logit, plain and as the margin has changed it.
    largest: A,
    reached: A,
    /// Each exponential, or derivative of another link, times the length of its weight, and times its logit without the constant.
    lengths: f64,
    values: f64,
}

impl<A: Element> Tile<'_, A> {
    /// Adds each row to its sums. What the backward pass multiplies, `exp(z − shift) · slope/‖w‖`, goes to `out`, unless that
    /// is empty.
    #[inline(always)]
    pub(super) fn open(self, sums: &mut [RowSum<A>], out: &mut [A]) {
        let unit = scale_by_power(1.0, self.block.unit);
        let mut outs = out.chunks_exact_mut(self.block.columns.len());
        for (row, sum) in sums.iter_mut().enumerate() {
            self.open_row(row, sum, unit, outs.next().unwrap_or_default());
        }
    }

    /// The same, with the shifts that the exponentials were found to need.
    #[inline(always)]
    pub(super) fn again(self, shifts: &[A], out: &mut [A]) {
        let outs = out.chunks_exact_mut(self.block.columns.len());
        for (row, (&shift, out)) in shifts.iter().zip(outs).enumerate() {
            self.measure(row, shift, out);
        }
    }

    #[inline(always)]
    fn changed(&self, row: usize) -> Option<Changed<A>> {
        self.changed.get(row).copied().flatten()
    }

    /// Adds the row to its sums.
    #[inline(always)]
    fn open_row(&self, row: usize, sum: &mut RowSum<A>, unit: f64, out: &mut [A]) {
        let mut found = self.measure(row, sum.shift, out);
        if matches!(self.link, Link::Softmax) {
            let fresh = sum.total == 0.0;
            let rises = found.reached > sum.shift + A::SHIFT_SLACK;
            let below = found.reached < sum.shift && found.reached > A::neg_infinity();
            if rises || (fresh && below) {
                if !fresh {
                    sum.total *= (sum.shift - found.reached).widen().exp();
                }
                sum.shift = found.reached;
                found = self.measure(row, sum.shift, out);
            }
        }
        sum.largest = larger(sum.largest, found.largest);
        if found.total > 0.0 {
            let total = sum.total + found.total;
            // Means of what is not negative, without a difference: a bound must not cancel.
            let (before, now) = (sum.total / total, found.total / total);
            if !self.block.lengths.is_empty() || matches!(self.link, Link::Logistic { .. }) {
                let length = found.lengths / found.total * unit;
                sum.length = before * sum.length + now * length;
            }
            if self.changed(row).is_some() {
                sum.mean = before * sum.mean + now * (found.values / found.total);
            }
            sum.total = total;
        }
    }

    /// One pass over a row, with exponentials relative to `shift`.
    #[inline(always)]
    fn measure(&self, row: usize, shift: A, out: &mut [A]) -> Measured<A> {
        let lengths = !self.block.lengths.is_empty();
        let changes = match self.changed(row) {
            None => PLAIN,
            Some(changed) if changed.turn.turns() => TURNED,
            Some(_) => CHANGED,
        };
        match (self.link, changes) {
            (Link::Softmax, PLAIN) if lengths => self.pass::<SOFTMAX, true, PLAIN>(row, shift, out),
            (Link::Softmax, PLAIN) => self.pass::<SOFTMAX, false, PLAIN>(row, shift, out),
            (Link::Softmax, CHANGED) => self.pass::<SOFTMAX, false, CHANGED>(row, shift, out),
            (Link::Softmax, _) => self.pass::<SOFTMAX, false, TURNED>(row, shift, out),
            (Link::Logistic { .. }, PLAIN) => self.pass::<LOGISTIC, false, PLAIN>(row, shift, out),
            (Link::Logistic { .. }, CHANGED) => {
                self.pass::<LOGISTIC, false, CHANGED>(row, shift, out)
            }
            (Link::Logistic { .. }, _) => self.pass::<LOGISTIC, false, TURNED>(row, shift, out),
            (Link::Hinge { .. }, _) => self.pass::<HINGE, false, CHANGED>(row, shift, out),
        }
    }

    #[inline(always)]
    fn pass<const LINK: u8, const LENGTHS: bool, const CHANGES: u8>(
        &self,
        row: usize,
        shift: A,
        out: &mut [A],
    ) -> Measured<A> {
        if out.is_empty() {
            self.lanes::<LINK, LENGTHS, CHANGES, false>(row, shift, out)
        } else {
            self.lanes::<LINK, LENGTHS, CHANGES, true>(row, shift, out)
        }
    }

    #[inline(always)]
    fn lanes<const LINK: u8, const LENGTHS: bool, const CHANGES: u8, const KEEP: bool>(
        &self,
        row: usize,
        shift: A,
        out: &mut [A],
    ) -> Measured<A> {
        let map = self.changed(row).unwrap_or_else(Changed::nothing);
        let width = self.block.columns.len();
        let products = &self.products[row * width..(row + 1) * width];
        let (products, rest) = products.as_chunks::<LANES>();
        let (factors, factors_rest) = self.block.factors.as_chunks::<LANES>();
        let (constants, constants_rest) = self.block.constants.as_chunks::<LANES>();
        let (lengths, lengths_rest) = self.block.lengths.as_chunks::<LANES>();
        let (out, out_rest) = out.as_chunks_mut::<LANES>();
        let mut lanes = Lanes::<A, LANES>::new();
        for (i, products) in products.iter().enumerate() {
            let length = if LENGTHS {
                &lengths[i]
            } else {
                &[A::zero(); LANES]
            };
            let kept = lanes.step::<LINK, LENGTHS, CHANGES, KEEP>(
                products,
                (&factors[i], &constants[i], length),
                shift,
                map,
            );
            if KEEP {
                out[i] = kept;
            }
        }
        let mut tail = Lanes::<A, 1>::new();
        for (i, &product) in rest.iter().enumerate() {
            let length = if LENGTHS { lengths_rest[i] } else { A::zero() };
            let kept = tail.step::<LINK, LENGTHS, CHANGES, KEEP>(
                &[product],
                (&[factors_rest[i]], &[constants_rest[i]], &[length]),
                shift,
                map,
            );
            if KEEP {
                out_rest[i] = kept[0];
            }
        }
        let (found, tail) = (
            lanes.joined::<LINK, LENGTHS, CHANGES>(),
            tail.joined::<LINK, LENGTHS, CHANGES>(),
        );
        Measured {
            total: found.total + tail.total,
            largest: larger(found.largest, tail.largest),
            reached: larger(found.reached, tail.reached),
            lengths: found.lengths + tail.lengths,
            values: found.values + tail.values,
        }
    }
}

/// The sums and maxima of N columns side by side.
struct Lanes<A, const N: usize> {
    totals: [A; N],
    largest: [A; N],
    reached: [A; N],
    lengths: [A; N],
    values: [A; N],
}

impl<A: Element, const N: usize> Lanes<A, N> {
    #[inline(always)]
    fn new() -> Self {
        Self {
            totals: [A::zero(); N],
            largest: [A::neg_infinity(); N],
            reached: [A::neg_infinity(); N],
            lengths: [A::zero(); N],
            values: [A::zero(); N],
        }
    }

    /// Takes in N products, and returns what the backward pass multiplies.
    #[inline(always)]
    fn step<const LINK: u8, const LENGTHS: bool, const CHANGES: u8, const KEEP: bool>(
        &mut self,
        products: &[A; N],
        (factors, constants, lengths): (&[A; N], &[A; N], &[A; N]),
        shift: A,
        map: Changed<A>,
    ) -> [A; N] {
        let (mut z, mut slopes, mut values) = (*products, [A::one(); N], [A::zero(); N]);
        if CHANGES >= CHANGED {
            for k in 0..N {
                let plain = z[k] * factors[k];
                self.largest[k] = larger(self.largest[k], plain + constants[k]);
                (values[k], slopes[k]) = if CHANGES == TURNED {
                    map.of::<true>(plain)
                } else {
                    map.of::<false>(plain)
                };
                z[k] = values[k] + constants[k];
            }
        } else {
            for k in 0..N {
                z[k] = z[k].mul_add(factors[k], constants[k]);
            }
        }
        let mut terms = z;
        for k in 0..N {
            self.reached[k] = larger(self.reached[k], z[k]);
            if LINK == HINGE {
                if z[k] <= A::zero() {
                    terms[k] = A::zero();
                } else {
                    terms[k] = A::one();
                }
                self.totals[k] += terms[k];
            } else if LINK == LOGISTIC {
                let q = (-z[k].abs()).exp_element();
                let above = larger(z[k], A::zero());
                self.totals[k] += above + q.ln_1p_element();
                let numerator = if z[k] > A::zero() { A::one() } else { q };
                terms[k] = numerator / (A::one() + q);
                self.lengths[k] += terms[k];
            } else {
                terms[k] = (z[k] - shift).exp_element();
                self.totals[k] += terms[k];
            }
        }
        for k in 0..N {
            if LENGTHS {
                self.lengths[k] = terms[k].mul_add(lengths[k], self.lengths[k]);
            }
            if CHANGES >= CHANGED {
                // −∞ in the place of a target has no exponential, and 0 · ∞ is not 0.
                let value = larger(values[k], A::min_value());
                self.values[k] = terms[k].mul_add(value, self.values[k]);
            }
        }
        if KEEP {
            for k in 0..N {
                if CHANGES >= CHANGED {
                    terms[k] *= slopes[k];
                }
                if !LENGTHS {
                    terms[k] *= factors[k];
                }
            }
        }
        terms
    }

    #[inline(always)]
    fn joined<const LINK: u8, const LENGTHS: bool, const CHANGES: u8>(self) -> Measured<A> {
        let sum = |lanes: [A; N]| reduce(lanes.map(Element::widen), |a, b| a + b);
        let reached = reduce(self.reached, larger);
        Measured {
            total: sum(self.totals),
            largest: if CHANGES >= CHANGED {
                reduce(self.largest, larger)
            } else {
                reached
            },
            reached,
            lengths: if LENGTHS || LINK == LOGISTIC {
                sum(self.lengths)
            } else {
                0.0
            },
            values: if CHANGES >= CHANGED {
                sum(self.values)
            } else {
                0.0
            },
        }
    }
}
