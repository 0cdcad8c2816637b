//! The IDX format of MNIST: a magic number, big-endian sizes, then one byte a value; plain or gzipped.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::path::Path;

use flate2::bufread::GzDecoder;

/// The first two bytes of a gzip stream. IDX files start with two zero bytes, so the content tells, not the name.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// An IDX file of unsigned bytes.
#[derive(Debug, PartialEq)]
pub(crate) struct Idx {
    /// The sizes, slowest first: `[images, rows, columns]` or `[labels]`.
    pub(crate) sizes: Vec<usize>,
    /// The values, as many as the product of the sizes.
    pub(crate) values: Vec<u8>,
}

/// Reads an IDX file of unsigned bytes with this many dimensions: 3 for images, 1 for labels.
///
/// The error is one line and names the file.
pub(crate) fn read(path: &Path, dimensions: u8) -> Result<Idx, String> {
    let parsed = File::open(path)
        .map_err(|error| error.to_string())
        .and_then(|file| parse(BufReader::new(file), dimensions));
    parsed.map_err(|reason| format!("{}: {reason}", path.display()))
}

fn parse(mut source: impl BufRead, dimensions: u8) -> Result<Idx, String> {
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

fn parse_plain(mut source: impl Read, dimensions: u8) -> Result<Idx, String> {
    // Two zeros, 8 for unsigned bytes, and the number of dimensions.
    let expected = u32::from_be_bytes([0, 0, 8, dimensions]);
    let magic = big_endian(&mut source)?;
    if magic != expected {
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
            "truncated: its header claims {count} values, {found} follow"
        ));
    }
    if values.len() > count {
        return Err(format!(
            "its header claims {count} values, but more data follows"
        ));
    }
    Ok(Idx { sizes, values })
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

    use super::{Idx, parse};

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

        assert_eq!(parse(&LABELS[..], 1).unwrap(), expected);
        assert_eq!(parse(&gzipped[..], 1).unwrap(), expected);
        for length in 0..gzipped.len() {
            assert!(parse(&gzipped[..length], 1).is_err(), "{length} bytes");
        }
        assert!(parse(&[&gzipped[..], &[0]].concat()[..], 1).is_err());
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
