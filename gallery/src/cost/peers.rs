//! Results in lines: those of PyTorch, as benches/peers/torch_heads.py prints them, and earlier ones of this crate.

use std::fs;
use std::path::Path;

use super::Cost;
use crate::chart::Stroke;

/// The looks of the peers, in the order of their first line.
pub(super) const STROKES: [Stroke; 4] = [
    Stroke::new("#332288", 2.0, "9 4"),
    Stroke::new("#44aa99", 2.0, "10 3 2 3"),
    Stroke::new("#aa4499", 2.0, "4 3"),
    Stroke::new("#999933", 2.0, "14 3 3 3"),
];

/// The measurements of one way to compute the loss, by the number of classes.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    name: String,
    pub(super) points: Vec<Cost>,
}

impl Peer {
    pub(super) fn title(&self) -> String {
        match self.name.as_str() {
            "linear_cross_entropy(softmax)" => "PyTorch, chunked softmax".to_owned(),
            name => format!("PyTorch, {name}"),
        }
    }
}

/// The measurements in a file that have this many rows and dimensions, by the name under `key`.
pub(super) fn read(file: &Path, key: &str, rows: usize, dim: usize) -> Result<Vec<Peer>, String> {
    let text = fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let peers = parse(&text, key, rows, dim)?;
    if peers.is_empty() {
        return Err(format!(
            "{}: no line has {key}=… n={rows} dim={dim}",
            file.display()
        ));
    }
    Ok(peers)
}

fn parse(text: &str, key: &str, rows: usize, dim: usize) -> Result<Vec<Peer>, String> {
    let mut peers: Vec<Peer> = Vec::new();
    for line in text.lines() {
        let field = |key: &str| {
            line.split_whitespace()
                .find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
        };
        // Comments, and peers that could not run.
        let (Some(name), Some(_)) = (field(key), field("ratio")) else {
            continue;
        };
        let number = |key: &str| -> Result<f64, String> {
            let value = field(key).and_then(|value| value.parse().ok());
            value.ok_or_else(|| format!("no number {key}=… in the line '{line}'"))
        };
        if number("n")? as usize != rows || number("dim")? as usize != dim {
            continue;
        }
        let point = Cost {
            classes: number("classes")? as usize,
            ratio: number("ratio")?,
            seconds: number("seconds")?,
            memory: number("extra_mib")?,
        };
        match peers.iter_mut().find(|peer| peer.name == name) {
            Some(peer) => peer.points.push(point),
            None => peers.push(Peer {
                name: name.to_owned(),
                points: vec![point],
            }),
        }
    }
    for peer in &mut peers {
        peer.points.sort_by_key(|point| point.classes);
    }
    Ok(peers)
}

#[cfg(test)]
mod tests {
    use super::parse;

    const LINES: &str = "\
# some words
case=B peer=eager n=256 classes=10000 dim=512 ratio=1.96 extra_mib=61 threads=2 seconds=0.2 products_seconds=0.05
case=C peer=eager n=64 classes=100000 dim=128 ratio=3.00 extra_mib=70 threads=2 seconds=0.1 products_seconds=0.05
case=A peer=compiled failed: no compiler
case=a peer=eager n=256 classes=1000 dim=512 ratio=2.50 extra_mib=9 threads=2 seconds=0.1 products_seconds=0.05
";

    #[test]
    fn lines_of_the_shape_are_read() {
        let peers = parse(LINES, "peer", 256, 512).unwrap();
        assert_eq!(peers.len(), 1);
        assert_eq!(peers[0].title(), "PyTorch, eager");
        let points = peers[0].points.iter();
        let found: Vec<_> = points
            .map(|point| (point.classes, point.ratio, point.seconds, point.memory))
            .collect();
        assert_eq!(found, [(1000, 2.5, 0.1, 9.0), (10_000, 1.96, 0.2, 61.0)]);
    }

    #[test]
    fn a_damaged_line_is_named() {
        let error = parse(
            "peer=eager n=256 classes=many dim=512 ratio=1.0",
            "peer",
            256,
            512,
        );
        assert!(error.unwrap_err().contains("classes"));
    }
}
