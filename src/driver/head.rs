//! A loss as the driver sees it: what is normalised, what is special about the target, how a row's logits become its loss.

use crate::check;
use crate::error::{Argument, Error};
use crate::inter_topk::InterTopK;
use crate::margin::Margin;

/// What is normalised, and so what a logit is, but for its constant.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Layer {
    /// z_j = w_j·x.
    Linear,
    /// z_j = ŵ_j·x.
    UnitWeights,
    /// z_j = s ŵ_j·x̂.
    Cosine {
        /// s.
        scale: f64,
    },
}

/// How a row's logits become its loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Link {
    /// ℓ = ln Σ_j exp z_j − z_y.
    Softmax,
    /// ℓ = positive · softplus(−z_y) + negative · Σ_{j≠y} softplus(z_j), of a layer that normalises its weights.
    Logistic { positive: f64, negative: f64 },
    /// ℓ = −own · z_y + Σ_{j≠y} max(z_j, 0), of cosines whose negatives a margin changes. `shared` is how much of −z_y stands in
    /// each of these.
    Hinge { own: f64, shared: f64 },
}

/// What a loss learns besides the class weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Learns {
    Nothing,
    /// The scale of the cosines.
    Scale,
    /// The constants of the classes.
    Constants,
    /// The one constant that all classes have.
    Constant,
    /// What is subtracted from the cosines of the targets, one number for each class. A row's loss falls by `price` times
    /// their mean; the margin counts that in.
    Margins {
        price: f64,
    },
}

/// A loss as the driver sees it.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    pub(crate) layer: Layer,
    /// What makes the target's logit another than that of the other classes; never with [`Layer::Linear`].
    pub(crate) margin: Option<&'a dyn Margin>,
    /// What is added to the logits, one number for each class.
    pub(crate) constants: Option<&'a [f64]>,
    pub(crate) learns: Learns,
    /// K, the rows of W for each class, of which the nearest counts.
    pub(crate) group: usize,
    /// ε: the share of the target's probability that is spread over all classes. With the softmax, and plain columns.
    pub(crate) smoothing: f64,
    /// γ: a row's loss ℓ becomes (1 − e^−ℓ)^γ ℓ.
    pub(crate) focal: f64,
    /// What is made of the logits of the negatives that are nearest to each row. With the softmax, and cosines.
    pub(crate) nearest: Option<InterTopK>,
    pub(crate) link: Link,
}

impl<'a> Head<'a> {
    /// The softmax over a layer, and nothing else.
    pub(crate) fn new(layer: Layer) -> Self {
        Self {
            layer,
            margin: None,
            constants: None,
            learns: Learns::Nothing,
            group: 1,
            smoothing: 0.0,
            focal: 0.0,
            nearest: None,
            link: Link::Softmax,
        }
    }

    pub(crate) fn with_margin(self, margin: &'a dyn Margin) -> Self {
        Self {
            margin: Some(margin),
            ..self
        }
    }

    pub(super) fn normalises_weights(&self) -> bool {
        !matches!(self.layer, Layer::Linear)
    }

    /// s, if the loss learns it.
    pub(super) fn learned_scale(&self) -> Option<f64> {
        match (self.learns, self.layer) {
            (Learns::Scale, Layer::Cosine { scale }) => Some(scale),
            _ => None,
        }
    }

    /// A margin needs the angle, and so a feature that has one.
    pub(super) fn needs_feature_norms(&self) -> bool {
        self.margin.is_some() || matches!(self.layer, Layer::Cosine { .. })
    }

    pub(super) fn constant(&self, class: usize) -> f64 {
        self.constants.map_or(0.0, |constants| constants[class])
    }

    /// Refuses what is no loss together with this one.
    pub(super) fn check_composition(&self) -> Result<(), Error> {
        let refuse = |what, with| Err(Error::NotComposable { what, with });
        if self.group > 1 && !self.normalises_weights() {
            return refuse(
                "sub-centers",
                "a layer that does not normalise its class weights",
            );
        }
        if (self.smoothing != 0.0 || self.focal != 0.0) && self.link != Link::Softmax {
            let what = "label smoothing or focal modulation";
            return refuse(what, "a loss that is no softmax");
        }
        if self.constants.is_some() && matches!(self.link, Link::Hinge { .. }) {
            return refuse("class priors", "a loss of squared distances");
        }
        if self.nearest.is_some() {
            let what = "an inter-topk penalty";
            if self.link != Link::Softmax {
                return refuse(what, "a loss of one class against the rest");
            }
            if !matches!(self.layer, Layer::Cosine { .. }) {
                return refuse(what, "a layer whose logits are no scaled cosines");
            }
        }
        Ok(())
    }

    /// Refuses to choose more classes than there are beside the target.
    pub(super) fn check_nearest(&self, classes: usize) -> Result<(), Error> {
        match self.nearest.map_or(0, |nearest| nearest.k()) {
            0 => Ok(()),
            k if k < classes => Ok(()),
            k => Err(Error::InterTopK {
                k,
                others: classes - 1,
            }),
        }
    }

    /// Refuses classes of another number than the constants.
    pub(super) fn check_constants(&self, classes: usize) -> Result<(), Error> {
        let found = self.constants.map_or(classes, <[f64]>::len);
        check::row_count(Argument::Bias, classes, found)
    }

    /// ε/C.
    pub(super) fn uniform_share(&self, columns: usize) -> f64 {
        self.smoothing / (columns / self.group) as f64
    }
}
