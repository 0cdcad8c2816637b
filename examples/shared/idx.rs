//! The IDX format of MNIST: a magic number, big-endian sizes, then one byte a value; plain or gzipped. Labels may have two
//! bytes.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::path::Path;

use flate2::bufread::GzDecoder;

/// The first two bytes of a gzip stream. IDX files start with two zero bytes, so the content tells, not the name.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// The type of the values, in the third byte: unsigned bytes, or signed 16-bit integers.
const BYTES: u8 = 0x08;
const SHORTS: u8 = 0x0b;

/// An IDX file.
#[derive(Debug, PartialEq)]
pub(crate) struct Idx {
    /// The sizes, slowest first: `[images, rows, columns]` or `[labels]`.
    pub(crate) sizes: Vec<usize>,
    /// The bytes of the values, as many values as the product of the sizes.
    pub(crate) values: Vec<u8>,
}

/// Reads an IDX file of unsigned bytes with this many dimensions: 3 for images.
///
/// The error is one line and names the file.
pub(crate) fn read(path: &Path, dimensions: u8) -> Result<Idx, String> {
    let (idx, kind) = open(path, dimensions)?;
    if kind == BYTES {
        Ok(idx)
    } else {
        Err(format!("{}: its values are not bytes", path.display()))
    }
}

/// Reads an IDX file of labels, of one byte or of two.
pub(crate) fn read_labels(path: &Path) -> Result<Vec<usize>, String> {
    let (idx, kind) = open(path, 1)?;
    if kind == BYTES {
        return Ok(idx.values.into_iter().map(usize::from).collect());
    }
    let pairs = idx.values.chunks_exact(2);
    pairs
        .map(|pair| i16::from_be_bytes([pair[0], pair[1]]))
        .map(|label| {
            usize::try_from(label).map_err(|_| format!("{}: label {label}", path.display()))
        })
        .collect()
}

fn open(path: &Path, dimensions: u8) -> Result<(Idx, u8), String> {
    let parsed = File::open(path)
        .map_err(|error| error.to_string())
        .and_then(|file| parse(BufReader::new(file), dimensions));
    parsed.map_err(|reason| format!("{}: {reason}", path.display()))
}

/// The file, and the type of its values.
fn parse(mut source: impl BufRead, dimensions: u8) -> Result<(Idx, u8), String> {
    let start = source.fill_buf().map_err(|error| error.to_string())?;
    if !start.starts_with(&GZIP_MAGIC) {
        return parse_plain(source, dimensions);
    }
    let idx = parse_plain(GzDecoder::new(&mut source), dimensions)?;
    match source.fill_buf() {
        Ok([]) => Ok(idx),
        Ok(_) => Err("more data follows after the gzip stream".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn parse_plain(mut source: impl Read, dimensions: u8) -> Result<(Idx, u8), String> {
    // Two zeros, the type, and the number of dimensions.
    let expected = u32::from_be_bytes([0, 0, BYTES, dimensions]);
    let shorts = u32::from_be_bytes([0, 0, SHORTS, dimensions]);
    let magic = big_endian(&mut source)?;
    // Images have bytes; labels may have more classes than a byte counts.
    let kind = if magic == shorts && dimensions == 1 {
        SHORTS
    } else {
        BYTES
    };
    if kind == BYTES && magic != expected {
        return Err(format!(
            "not IDX bytes of {dimensions} dimension(s): it starts with {magic:#010x} instead of {expected:#010x}"
        ));
    }
    let sizes: Vec<usize> = (0..dimensions)
        .map(|_| big_endian(&mut source).map(|size| size as usize))
        .collect::<Result<_, _>>()?;
    let count = sizes
        .iter()
        .try_fold(1_usize, |product, &size| product.checked_mul(size))
        .ok_or_else(|| format!("its header claims {sizes:?}, more than memory can hold"))?;

    let count = count.saturating_mul(if kind == SHORTS { 2 } else { 1 });
    // Nothing is allocated on the header's word. One byte more than it claims is asked for: it shows trailing data,
    // and has a gzip stream checked to its end.
    let limit = (count as u64).saturating_add(1);
    let mut values = Vec::new();
    source
        .take(limit)
        .read_to_end(&mut values)
        .map_err(describe)?;
    if values.len() < count {
        let found = values.len();
        return Err(format!(
            "truncated: its header claims {count} bytes, {found} follow"
        ));
    }
    if values.len() > count {
        return Err(format!(
            "its header claims {count} bytes, but more data follows"
        ));
    }
    Ok((Idx { sizes, values }, kind))
}

fn big_endian(source: &mut impl Read) -> Result<u32, String> {
    let mut bytes = [0; 4];
    source.read_exact(&mut bytes).map_err(describe)?;
    Ok(u32::from_be_bytes(bytes))
}

fn describe(error: io::Error) -> String {
    match error.kind() {
        ErrorKind::UnexpectedEof => "truncated: it ends too early".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};

    use super::{Idx, SHORTS, parse};

    const LABELS: [u8; 11] = [0, 0, 8, 1, 0, 0, 0, 3, 7, 0, 9];

    #[test]
    fn plain_and_gzipped_read_alike() {
        let expected = Idx {
            sizes: vec![3],
            values: vec![7, 0, 9],
        };
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(&LABELS).unwrap();
        let gzipped = encoder.finish().unwrap();

        assert_eq!(parse(&LABELS[..], 1).unwrap().0, expected);
        assert_eq!(parse(&gzipped[..], 1).unwrap().0, expected);
        for length in 0..gzipped.len() {
            assert!(parse(&gzipped[..length], 1).is_err(), "{length} bytes");
        }
        assert!(parse(&[&gzipped[..], &[0]].concat()[..], 1).is_err());
    }

    #[test]
    fn labels_may_have_two_bytes() {
        let shorts = [0, 0, 0x0b, 1, 0, 0, 0, 2, 1, 0, 0, 9];
        let (idx, kind) = parse(&shorts[..], 1).unwrap();
        assert_eq!((idx.values, kind), (vec![1, 0, 0, 9], SHORTS));
        assert!(parse(&shorts[..11], 1).is_err());
        // Images may not.
        let image = [0, 0, 0x0b, 3, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 7];
        assert!(parse(&image[..], 3).is_err());
    }

    #[test]
    fn damaged_files_are_refused() {
        for length in 0..LABELS.len() {
            assert!(parse(&LABELS[..length], 1).is_err(), "{length} bytes");
        }
        assert!(parse(&[&LABELS[..], &[0]].concat()[..], 1).is_err());
        assert!(parse(&LABELS[..], 3).is_err());

        let enormous = [
            0, 0, 8, 3, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255,
        ];
        assert!(parse(&enormous[..], 3).is_err());
    }
}
