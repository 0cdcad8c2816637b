//! A training goes on from its file, and only from a whole one of its own kind.

use std::fs;
use std::path::PathBuf;

use margin_losses::AnyLoss;

use super::setting;
use crate::training::{Setting, Training};

/// A folder of a test's own, which goes when the test ends.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Self {
        let name = format!("margin-losses-{test}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("model.safetensors")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn trained(setting: &Setting, steps: u64) -> Training {
    let mut training = Training::new(setting).unwrap();
    training.go_on(steps).unwrap();
    training
}

fn every_setting() -> impl Iterator<Item = Setting> {
    let lines = ["normface:s=10", "arcface:s=10,m=0.3", "softmax"];
    let losses = lines.map(|line| line.parse::<AnyLoss>().unwrap());
    let settings = losses.map(|loss| Setting {
        loss,
        ..setting().unwrap()
    });
    settings.into_iter().chain([setting().unwrap()])
}

#[test]
fn resumed_is_undisturbed_bit_by_bit() {
    for setting in every_setting() {
        let folder = Folder::new("resumed");
        let undisturbed = trained(&setting, 30);
        for saved_at in [0, 1, 17, 30] {
            trained(&setting, saved_at).save(&folder.file()).unwrap();
            // The seed comes from the file.
            let other = Setting {
                seed: 99,
                ..setting.clone()
            };
            let mut resumed = Training::load(&other, &folder.file()).unwrap();
            resumed.go_on(30 - saved_at).unwrap();
            assert!(resumed.to_bytes() == undisturbed.to_bytes(), "{saved_at}");
        }
    }
}

/// Everything in the file matters: whatever is changed, the training ends elsewhere or is refused.
#[test]
fn every_part_of_the_file_is_read() {
    let (setting, folder) = (setting().unwrap(), Folder::new("parts"));
    let training = trained(&setting, 10);
    let whole = training.to_bytes().unwrap();
    let (header, metadata) = safetensors::SafeTensors::read_metadata(&whole).unwrap();
    let mut expected = trained(&setting, 10);
    expected.go_on(5).unwrap();
    for name in metadata.offset_keys() {
        let mut changed = whole.clone();
        let info = metadata.info(&name).unwrap();
        // A bit of the first entry that no rounding hides.
        let byte = info.data_offsets.0 + info.dtype.bitsize() / 8 - 2;
        changed[8 + header + byte] ^= 0x40;
        fs::write(folder.file(), &changed).unwrap();
        let mut resumed = Training::load(&setting, &folder.file()).unwrap();
        resumed.go_on(5).unwrap();
        assert!(resumed.to_bytes() != expected.to_bytes(), "{name}");
    }
    assert_eq!(metadata.offset_keys().len(), 9);
}

#[test]
fn truncated_files_are_refused() {
    let (setting, folder) = (setting().unwrap(), Folder::new("truncated"));
    let whole = trained(&setting, 3).to_bytes().unwrap();
    for length in [0, 7, 8, 100, whole.len() / 2, whole.len() - 1] {
        fs::write(folder.file(), &whole[..length]).unwrap();
        let error = Training::load(&setting, &folder.file()).unwrap_err();
        assert!(
            error.contains("model.safetensors: truncated, or no checkpoint: "),
            "{error}"
        );
    }
}

#[test]
fn another_shape_and_another_loss_are_refused() {
    let (setting, folder) = (setting().unwrap(), Folder::new("another"));
    trained(&setting, 3).save(&folder.file()).unwrap();
    let refused = |setting: Setting, expected: &str| {
        let error = Training::load(&setting, &folder.file()).unwrap_err();
        assert!(error.ends_with(expected), "{error}");
    };
    refused(
        Setting {
            classes: 11,
            ..setting.clone()
        },
        "weights is F32 of shape [10, 8], not F32 of shape [11, 8]",
    );
    refused(
        Setting {
            dim: 4,
            ..setting.clone()
        },
        "network is F32 of shape [8, 16], not F32 of shape [4, 16]",
    );
    let loss: AnyLoss = "arcface:s=64,m=0.5".parse().unwrap();
    let expected = format!("trained with {}, not with {loss}", setting.loss);
    refused(Setting { loss, ..setting }, &expected);
}

#[test]
fn an_interrupted_write_leaves_the_last_good_one() {
    let (setting, folder) = (setting().unwrap(), Folder::new("interrupted"));
    let good = trained(&setting, 3);
    good.save(&folder.file()).unwrap();
    let next = trained(&setting, 4);

    // Cut off in the middle: half a file lies beside.
    let beside = folder.file().with_extension("partial");
    let bytes = next.to_bytes().unwrap();
    fs::write(&beside, &bytes[..bytes.len() / 2]).unwrap();
    let loaded = Training::load(&setting, &folder.file()).unwrap();
    assert!(loaded.to_bytes() == good.to_bytes());

    // Cannot be written at all.
    fs::remove_file(&beside).unwrap();
    fs::create_dir(&beside).unwrap();
    assert!(next.save(&folder.file()).unwrap_err().contains("partial"));
    let loaded = Training::load(&setting, &folder.file()).unwrap();
    assert!(loaded.to_bytes() == good.to_bytes());

    // And the next good one takes its place, and leaves nothing beside.
    fs::remove_dir(&beside).unwrap();
    next.save(&folder.file()).unwrap();
    let loaded = Training::load(&setting, &folder.file()).unwrap();
    assert!(loaded.to_bytes() == next.to_bytes());
    assert!(!beside.exists());
}
