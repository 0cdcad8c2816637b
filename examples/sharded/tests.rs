//! A training has the same losses on any number of ranks, and goes on from a checkpoint on any other.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use margin_losses::shards::Threads;

use crate::checkpoint::MANIFEST;
use crate::train::{Options, Summary, train};

/// A folder of a test's own, which goes when the test ends.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Self {
        let name = format!("margin-losses-sharded-{test}-{}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }

    fn files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.0).unwrap();
        let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn options(steps: u64, checkpoint: Option<&Path>) -> Options {
    Options {
        classes: 700,
        dim: 12,
        batch: 30,
        steps,
        rate: 0.3,
        loss: "curricularface:s=16,m=0.3".parse().unwrap(),
        seed: 5,
        limit: 64,
        checkpoint: checkpoint.map(Path::to_owned),
        every: 4,
    }
}

/// What all ranks say.
fn on_ranks(size: usize, options: &Options) -> Result<Summary, String> {
    let ranks = Threads::run(size, |comm| train(&comm, options, &mut |_| ()));
    let ranks = ranks.into_iter().collect::<Result<Vec<_>, _>>()?;
    assert!(ranks.iter().all(|rank| rank.curve == ranks[0].curve));
    Ok(ranks[0].clone())
}

#[test]
fn the_loss_curve_is_that_of_one_rank() {
    let one = on_ranks(1, &options(6, None)).unwrap();
    assert!(one.loss.is_finite());
    for size in [2, 3, 4, 7] {
        assert_eq!(on_ranks(size, &options(6, None)).unwrap().curve, one.curve);
    }
    let full = Options {
        rate: 1.0,
        ..options(6, None)
    };
    let loss = on_ranks(2, &full).unwrap();
    assert_ne!(loss.curve, one.curve);
    assert_eq!(on_ranks(3, &full).unwrap().curve, loss.curve);
}

#[test]
fn resumed_on_another_number_of_ranks() {
    let undisturbed = on_ranks(1, &options(11, None)).unwrap();
    let folder = Folder::new("resumed");
    for (steps, size) in [(3, 4), (5, 1), (8, 7), (11, 2)] {
        on_ranks(size, &options(steps, Some(&folder.0))).unwrap();
    }
    let last = on_ranks(3, &options(11, Some(&folder.0))).unwrap();
    assert_eq!(
        (last.curve, last.loss),
        (undisturbed.curve, undisturbed.loss)
    );
    // The manifest and the files of the last two ranks.
    assert_eq!(folder.files().len(), 3);
}

/// A rank dies after a step that is not saved.
#[test]
fn a_rank_that_dies_costs_no_more_than_the_steps_since_the_last_save() {
    let undisturbed = on_ranks(2, &options(9, None)).unwrap();
    let folder = Folder::new("dies");
    let settings = options(9, Some(&folder.0));
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        Threads::run(3, |comm| {
            let rank = margin_losses::shards::Communicator::rank(&comm);
            let ended = train(&comm, &settings, &mut |step| {
                assert!(rank < 2 || step < 6, "on purpose");
            });
            assert!(ended.unwrap_err().contains("rank 2 has left"));
        });
    }));
    assert!(outcome.is_err());
    let manifest = fs::read_to_string(folder.0.join(MANIFEST)).unwrap();
    assert!(manifest.contains("\"step\": 4"), "{manifest}");
    assert_eq!(on_ranks(2, &settings).unwrap().curve, undisturbed.curve);
}

#[test]
fn what_is_broken_is_refused_by_its_name() {
    let folder = Folder::new("broken");
    let settings = options(4, Some(&folder.0));
    on_ranks(2, &settings).unwrap();
    let files = folder.files();
    let file = &files[2];
    let good = fs::read(file).unwrap();
    let name = file.file_name().unwrap().to_str().unwrap();
    let refused = |expected: &str| {
        for size in [1, 3] {
            let error = on_ranks(size, &settings).unwrap_err();
            assert!(error.contains(name) && error.contains(expected), "{error}");
        }
    };
    fs::write(file, &good[..good.len() - 5]).unwrap();
    refused("truncated");
    let mut changed = good.clone();
    *changed.last_mut().unwrap() ^= 1;
    fs::write(file, &changed).unwrap();
    refused("checksum");
    fs::write(file, fs::read(&files[1]).unwrap()).unwrap();
    refused("shape");
    fs::remove_file(file).unwrap();
    refused("");
    fs::write(file, &good).unwrap();
    on_ranks(3, &settings).unwrap();

    let other = Options {
        dim: 13,
        ..settings.clone()
    };
    let error = on_ranks(2, &other).unwrap_err();
    assert!(
        error.ends_with("manifest.json: dim is 12, not 13"),
        "{error}"
    );
}

/// What an interrupted save leaves behind is not looked at, and goes with the next.
#[test]
fn an_interrupted_save_leaves_the_last_good_one() {
    let undisturbed = on_ranks(2, &options(8, None)).unwrap();
    let folder = Folder::new("interrupted");
    on_ranks(2, &options(4, Some(&folder.0))).unwrap();
    for left in [
        "step-8-classes-0-384.partial",
        "step-8-classes-0-384.safetensors",
    ] {
        fs::write(folder.0.join(left), b"half").unwrap();
    }
    let resumed = on_ranks(3, &options(8, Some(&folder.0))).unwrap();
    assert_eq!(resumed.curve, undisturbed.curve);
    assert_eq!(folder.files().len(), 4);
}
