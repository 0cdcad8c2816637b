//! Arrays in a safetensors file, and a file that is replaced as a whole.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use margin_losses::ndarray::Array2;
use safetensors::{Dtype, SafeTensors, View};

/// The key of the loss in the header of the file.
const LOSS: &str = "loss";

/// An array as the file holds it: little-endian, row by row.
#[derive(Debug)]
pub(crate) struct Tensor {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Tensor {
    pub(crate) fn matrix(array: &Array2<f32>) -> Self {
        Self {
            dtype: Dtype::F32,
            shape: array.shape().to_vec(),
            bytes: array.iter().flat_map(|v| v.to_le_bytes()).collect(),
        }
    }

    pub(crate) fn numbers(values: &[f64]) -> Self {
        Self {
            dtype: Dtype::F64,
            shape: vec![values.len()],
            bytes: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        }
    }

    pub(crate) fn count(value: u64) -> Self {
        Self {
            dtype: Dtype::U64,
            shape: vec![],
            bytes: value.to_le_bytes().to_vec(),
        }
    }
}

impl View for Tensor {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

/// The contents of a file.
#[derive(Debug)]
pub(crate) struct Checkpoint<'a>(SafeTensors<'a>);

impl<'a> Checkpoint<'a> {
    /// The bytes of a file that holds these, and in its header the loss as text.
    pub(crate) fn to_bytes<const N: usize>(
        tensors: [(&str, Tensor); N],
        loss: &str,
    ) -> Result<Vec<u8>, String> {
        let header = HashMap::from([(LOSS.to_owned(), loss.to_owned())]);
        safetensors::serialize(tensors, Some(header)).map_err(|error| error.to_string())
    }

    /// A whole file of a training with this loss.
    pub(crate) fn new(bytes: &'a [u8], loss: &str) -> Result<Self, String> {
        let (_, header) = SafeTensors::read_metadata(bytes)
            .map_err(|error| format!("truncated, or no checkpoint: {error}"))?;
        let found = header.metadata().as_ref().and_then(|keys| keys.get(LOSS));
        let found = found.ok_or("no checkpoint: its header names no loss")?;
        if found != loss {
            return Err(format!("trained with {found}, not with {loss}"));
        }
        let tensors = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
        Ok(Self(tensors))
    }

    fn tensor(&self, name: &str, dtype: Dtype, shape: &[usize]) -> Result<&'a [u8], String> {
        let tensor = self.0.tensor(name).map_err(|error| error.to_string())?;
        if tensor.dtype() != dtype || tensor.shape() != shape {
            return Err(format!(
                "{name} is {:?} of shape {:?}, not {dtype:?} of shape {shape:?}",
                tensor.dtype(),
                tensor.shape()
            ));
        }
        Ok(tensor.data())
    }

    pub(crate) fn matrix(&self, name: &str, shape: (usize, usize)) -> Result<Array2<f32>, String> {
        let bytes = self.tensor(name, Dtype::F32, &[shape.0, shape.1])?;
        let (values, _) = bytes.as_chunks();
        let values = values.iter().map(|&v| f32::from_le_bytes(v)).collect();
        Array2::from_shape_vec(shape, values).map_err(|error| error.to_string())
    }

    pub(crate) fn numbers(&self, name: &str, len: usize) -> Result<Vec<f64>, String> {
        let (values, _) = self.tensor(name, Dtype::F64, &[len])?.as_chunks();
        Ok(values.iter().map(|&v| f64::from_le_bytes(v)).collect())
    }

    pub(crate) fn count(&self, name: &str) -> Result<u64, String> {
        let bytes = self.tensor(name, Dtype::U64, &[])?;
        let bytes = bytes
            .try_into()
            .map_err(|_| format!("{name} is no number"))?;
        Ok(u64::from_le_bytes(bytes))
    }
}

/// Writes beside the file, and renames when everything is on the disk: whoever is interrupted keeps the last good one.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), String> {
    let beside = path.with_extension("partial");
    let written = File::create(&beside).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.map_err(|error| format!("{}: {error}", beside.display()))?;
    fs::rename(&beside, path).map_err(|error| format!("{}: {error}", path.display()))
}
