//! One look for each loss, the same in every figure: Okabe and Ito's colours, which colour-blind readers can tell apart,
//! and a dash pattern besides.

use crate::chart::Stroke;

/// A loss, as far as its look goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Softmax,
    Center,
    Modified,
    ASoftmax,
    NormFace,
    /// AM-Softmax too, which is the same loss.
    CosFace,
    ArcFace,
    Combined,
}

impl Family {
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Softmax => "softmax",
            Self::Center => "softmax + center",
            Self::Modified => "modified softmax",
            Self::ASoftmax => "A-Softmax",
            Self::NormFace => "NormFace",
            Self::CosFace => "CosFace",
            Self::ArcFace => "ArcFace",
            Self::Combined => "combined margin",
        }
    }

    pub(crate) const fn stroke(self) -> Stroke {
        match self {
            Self::Softmax => Stroke::new("#000000", 2.0, "7 4"),
            Self::Center => Stroke::new("#56b4e9", 2.2, "9 3 2 3"),
            Self::Modified => Stroke::new("#8c6d31", 2.0, "2 3"),
            Self::ASoftmax => Stroke::new("#e69f00", 2.2, "12 3"),
            Self::NormFace => Stroke::new("#009e73", 2.2, "5 3"),
            Self::CosFace => Stroke::new("#0072b2", 2.2, "14 3 3 3"),
            Self::ArcFace => Stroke::solid("#d55e00", 2.4),
            Self::Combined => Stroke::new("#cc79a7", 2.2, "3 2"),
        }
    }

    pub(crate) const fn colour(self) -> &'static str {
        self.stroke().colour
    }
}

/// The ten digits: Tol's muted scheme and a grey. Each class is also named by its digit.
pub(crate) const DIGITS: [&str; 10] = [
    "#332288", "#88ccee", "#44aa99", "#117733", "#999933", "#ddaa33", "#cc6677", "#882255",
    "#aa4499", "#777777",
];
