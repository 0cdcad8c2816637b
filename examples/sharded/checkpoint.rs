//! The checkpoint of a head: a file for the classes of each rank, and a manifest that names them. Any number of ranks may go
//! on from it.
//!
//! A save writes new files beside the old ones. Then the manifest is replaced, in one step. Then the old files go. So whoever
//! is interrupted keeps the last good one. Files are safetensors, which Python reads as well.

use std::fs::{self, File};
use std::io::Write;
use std::ops::Range;
use std::path::Path;

use margin_losses::MarginLoss;
use margin_losses::ndarray::{Array2, Axis, Slice};
use margin_losses::shards::Communicator;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::{Value, json};

use crate::train::{Head, Options};

/// The file that names the others.
pub(crate) const MANIFEST: &str = "manifest.json";

const FNV: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a.
fn mix(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// How far a training has come, the same on all ranks.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Progress {
    pub(crate) step: u64,
    pub(crate) loss: f32,
    /// The hash of all losses so far, bit by bit.
    pub(crate) curve: u64,
    learnables: Vec<f64>,
    statistics: Vec<f64>,
}

impl Progress {
    pub(crate) fn new(loss: &dyn MarginLoss<f32>) -> Self {
        Self {
            step: 0,
            loss: f32::NAN,
            curve: FNV,
            learnables: loss.learnables().to_vec(),
            statistics: loss.statistics().to_vec(),
        }
    }

    pub(crate) fn made(&mut self, value: f32, loss: &dyn MarginLoss<f32>) {
        *self = Self {
            step: self.step + 1,
            loss: value,
            curve: mix(self.curve, &value.to_bits().to_le_bytes()),
            ..Self::new(loss)
        };
    }

    /// Gives the loss what it had learned.
    pub(crate) fn restore(&self, loss: &mut dyn MarginLoss<f32>) -> Result<(), String> {
        let restored = loss.set_learnables(&self.learnables);
        let restored = restored.and_then(|()| loss.set_statistics(&self.statistics));
        restored.map_err(|error| format!("{MANIFEST}: {error}"))
    }

    /// Numbers as their bits, so that none is rounded.
    fn to_json(&self) -> Value {
        let bits = |numbers: &[f64]| numbers.iter().map(|n| n.to_bits()).collect::<Vec<_>>();
        json!({
            "step": self.step,
            "loss": self.loss.to_bits(),
            "curve": self.curve,
            "learnables": bits(&self.learnables),
            "statistics": bits(&self.statistics),
        })
    }

    fn from_json(value: &Value) -> Option<Self> {
        let floats = |value: &Value| -> Option<Vec<f64>> {
            let bits = value.as_array()?.iter().map(Value::as_u64);
            bits.map(|bits| bits.map(f64::from_bits)).collect()
        };
        Some(Self {
            step: value["step"].as_u64()?,
            loss: f32::from_bits(u32::try_from(value["loss"].as_u64()?).ok()?),
            curve: value["curve"].as_u64()?,
            learnables: floats(&value["learnables"])?,
            statistics: floats(&value["statistics"])?,
        })
    }
}

/// The classes of one file.
#[derive(Clone, Debug)]
struct Part {
    classes: Range<usize>,
    checksum: u64,
}

impl Part {
    fn name(&self, step: u64) -> String {
        format!(
            "step-{step}-classes-{}-{}.safetensors",
            self.classes.start, self.classes.end
        )
    }

    fn to_bytes(&self) -> Vec<u8> {
        let numbers = [
            self.classes.start as u64,
            self.classes.end as u64,
            self.checksum,
        ];
        numbers
            .iter()
            .flat_map(|number| number.to_le_bytes())
            .collect()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (numbers, _) = bytes.as_chunks::<8>();
        let &[start, end, checksum] = numbers else {
            return None;
        };
        let [start, end] = [start, end].map(|n| u64::from_le_bytes(n) as usize);
        Some(Self {
            classes: start..end,
            checksum: u64::from_le_bytes(checksum),
        })
    }

    fn from_json(value: &Value) -> Option<Self> {
        let number = |name| usize::try_from(value[name].as_u64()?).ok();
        Some(Self {
            classes: number("start")?..number("end")?,
            checksum: value["checksum"].as_u64()?,
        })
    }
}

/// Has all ranks know what each has done, and whether one could not.
fn agree(comm: &dyn Communicator, mine: Result<Vec<u8>, String>) -> Result<Vec<Vec<u8>>, String> {
    let mut message = vec![u8::from(mine.is_err())];
    message.extend(mine.unwrap_or_else(String::into_bytes));
    let all = comm
        .all_gather(&message)
        .map_err(|error| error.to_string())?;
    match all.iter().find(|message| message.first() != Some(&0)) {
        None => Ok(all
            .into_iter()
            .map(|message| message[1..].to_vec())
            .collect()),
        Some(error) => Err(String::from_utf8_lossy(error.get(1..).unwrap_or_default()).into()),
    }
}

/// Writes beside the file, and renames when everything is on the disk.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), String> {
    let beside = path.with_extension("partial");
    let written = File::create(&beside).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written
        .and_then(|()| fs::rename(&beside, path))
        .map_err(|error| format!("{}: {error}", path.display()))
}

fn encode(head: &Head) -> Result<Vec<u8>, String> {
    let bytes = |array: &Array2<f32>| -> Vec<u8> {
        array.iter().flat_map(|entry| entry.to_le_bytes()).collect()
    };
    let shape = [head.weights.nrows(), head.weights.ncols()];
    let arrays = [
        ("weights", bytes(&head.weights)),
        ("velocity", bytes(&head.velocity)),
    ];
    let views = arrays.iter().map(|(name, bytes)| {
        let view = TensorView::new(Dtype::F32, shape.to_vec(), bytes);
        view.map(|view| (*name, view))
            .map_err(|error| error.to_string())
    });
    let views = views.collect::<Result<Vec<_>, _>>()?;
    safetensors::serialize(views, None).map_err(|error| error.to_string())
}

/// Saves what all ranks have.
pub(crate) fn save(
    comm: &dyn Communicator,
    folder: &Path,
    options: &Options,
    head: &Head,
    progress: &Progress,
) -> Result<(), String> {
    let write = || {
        fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let mut part = Part {
            classes: head.classes.clone(),
            checksum: 0,
        };
        if !head.classes.is_empty() {
            let bytes = encode(head)?;
            part.checksum = mix(FNV, &bytes);
            replace(&folder.join(part.name(progress.step)), &bytes)?;
        }
        Ok(part.to_bytes())
    };
    let parts = agree(comm, write())?;
    let parts = parts.iter().filter_map(|bytes| Part::from_bytes(bytes));
    let parts: Vec<_> = parts.filter(|part| !part.classes.is_empty()).collect();
    let manifest = || {
        let of_part = |part: &Part| {
            json!({
                "start": part.classes.start,
                "end": part.classes.end,
                "checksum": part.checksum,
            })
        };
        let manifest = json!({
            "classes": options.classes,
            "dim": options.dim,
            "seed": options.seed,
            "batch": options.batch,
            "rate": options.rate.to_bits(),
            "loss": options.loss.to_string(),
            "progress": progress.to_json(),
            "parts": parts.iter().map(of_part).collect::<Vec<_>>(),
        });
        let text = serde_json::to_string_pretty(&manifest).map_err(|error| error.to_string())?;
        replace(&folder.join(MANIFEST), text.as_bytes())?;
        drop_others(folder, &parts, progress.step);
        Ok(Vec::new())
    };
    let first = comm.rank() == 0;
    agree(comm, if first { manifest() } else { Ok(Vec::new()) }).map(drop)
}

/// Removes what no manifest names. What cannot be removed is in nobody's way.
fn drop_others(folder: &Path, parts: &[Part], step: u64) {
    let names: Vec<_> = parts.iter().map(|part| part.name(step)).collect();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let ours = name.starts_with("step-")
            && (name.ends_with(".safetensors") || name.ends_with(".partial"));
        if ours && !names.iter().any(|known| *known == name) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Loads the classes of this rank, from the files of whatever ranks there were.
pub(crate) fn load(
    comm: &dyn Communicator,
    folder: &Path,
    options: &Options,
    own: Range<usize>,
) -> Result<(Head, Progress), String> {
    let loaded = read(folder, options, own);
    agree(
        comm,
        loaded.as_ref().map(|_| Vec::new()).map_err(String::clone),
    )?;
    loaded
}

fn read(folder: &Path, options: &Options, own: Range<usize>) -> Result<(Head, Progress), String> {
    let path = folder.join(MANIFEST);
    let wrong = |what: &str| format!("{}: {what}", path.display());
    let text = fs::read_to_string(&path).map_err(|error| wrong(&error.to_string()))?;
    let manifest: Value = serde_json::from_str(&text).map_err(|error| wrong(&error.to_string()))?;
    for (name, expected) in [
        ("classes", json!(options.classes)),
        ("dim", json!(options.dim)),
        ("seed", json!(options.seed)),
        ("batch", json!(options.batch)),
        ("rate", json!(options.rate.to_bits())),
        ("loss", json!(options.loss.to_string())),
    ] {
        if manifest[name] != expected {
            return Err(wrong(&format!(
                "{name} is {}, not {expected}",
                manifest[name]
            )));
        }
    }
    let progress = Progress::from_json(&manifest["progress"]);
    let progress = progress.ok_or_else(|| wrong("it does not say how far it has come"))?;
    let parts = manifest["parts"].as_array().into_iter().flatten();
    let parts: Option<Vec<_>> = parts.map(Part::from_json).collect();
    let parts = parts.ok_or_else(|| wrong("it does not say where the classes are"))?;
    let shape = (own.len(), options.dim);
    let mut head = Head {
        classes: own.clone(),
        weights: Array2::zeros(shape),
        velocity: Array2::zeros(shape),
    };
    let mut next = own.start;
    for part in parts {
        let wanted = part.classes.start.max(own.start)..part.classes.end.min(own.end);
        if wanted.is_empty() {
            continue;
        }
        let file = folder.join(part.name(progress.step));
        read_part(&file, &part, &mut head, wanted.clone())
            .map_err(|error| format!("{}: {error}", file.display()))?;
        if wanted.start == next {
            next = wanted.end;
        }
    }
    if next != own.end {
        return Err(wrong(&format!("class {next} is in no file")));
    }
    Ok((head, progress))
}

/// Reads the rows of some classes.
fn read_part(
    path: &Path,
    part: &Part,
    head: &mut Head,
    wanted: Range<usize>,
) -> Result<(), String> {
    let bytes = fs::read(path).map_err(|error| error.to_string())?;
    let tensors = SafeTensors::deserialize(&bytes)
        .map_err(|error| format!("truncated, or no safetensors: {error}"))?;
    let dim = head.weights.ncols();
    let shape = [part.classes.len(), dim];
    let first = head.classes.start;
    let mut read = Vec::new();
    for name in ["weights", "velocity"] {
        let tensor = tensors.tensor(name).map_err(|error| error.to_string())?;
        if tensor.dtype() != Dtype::F32 || tensor.shape() != shape {
            let (dtype, found) = (tensor.dtype(), tensor.shape());
            return Err(format!(
                "{name} is {dtype:?} of shape {found:?}, not F32 of {shape:?}"
            ));
        }
        let rows = wanted.start - part.classes.start..wanted.end - part.classes.start;
        let bytes = &tensor.data()[4 * dim * rows.start..4 * dim * rows.end];
        let (entries, _) = bytes.as_chunks();
        let entries = entries
            .iter()
            .map(|&entry| f32::from_le_bytes(entry))
            .collect();
        let rows = Array2::from_shape_vec((rows.len(), dim), entries);
        read.push(rows.map_err(|error| error.to_string())?);
    }
    if mix(FNV, &bytes) != part.checksum {
        return Err("its checksum is not that of the manifest".to_owned());
    }
    let rows = Slice::from(wanted.start - first..wanted.end - first);
    for (all, read) in [&mut head.weights, &mut head.velocity]
        .into_iter()
        .zip(read)
    {
        all.slice_axis_mut(Axis(0), rows).assign(&read);
    }
    Ok(())
}
