//! Charts as SVG: a white sheet, panels with axes on it, and what is drawn into them.
//!
//! The elements are written by the `svg` crate; the layout is here. Chart libraries write one element for each point and
//! each dash. With 16,000 points, the feature plane would exceed a megabyte; here the points of a class are one path, and
//! a dashed line is one element.

mod axis;
mod panel;
mod sheet;

pub(crate) use axis::Axis;
pub(crate) use panel::{Frame, Panel};
pub(crate) use sheet::{Anchor, GREY, INK, LegendEntry, Sheet, Stroke, Swatch};
