//! Charts as SVG: a white sheet, panels with axes on it, and what is drawn into them.
//!
//! The elements are written by the `svg` crate. A chart library is not used, for two reasons that were tried: with one
//! element for each point and each dash the feature planes exceed a megabyte (here a class is one path, and a dashed line
//! one element), and figures of many panels need their labels placed by hand to stay readable at half width.

mod axis;
mod panel;
mod sheet;

pub(crate) use axis::Axis;
pub(crate) use panel::{Frame, Panel};
pub(crate) use sheet::{Anchor, GREY, INK, LegendEntry, Sheet, Stroke, Swatch};
