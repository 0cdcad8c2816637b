//! That the adapters fit this crate. Only their `bridge.rs` and what their examples share name it, and no framework; both are
//! compiled here, so a change of this crate that breaks an adapter is seen without candle or burn.

#[allow(dead_code, unused_imports)]
#[path = "burn/src/bridge.rs"]
mod bridge;
#[allow(dead_code)]
#[path = "../examples/shared/dataset.rs"]
mod dataset;
#[allow(dead_code)]
#[path = "shared/experiment.rs"]
mod experiment;
#[allow(dead_code)]
#[path = "../examples/shared/idx.rs"]
mod idx;

use std::fs;
use std::path::Path;

use margin_losses::ndarray::array;
use margin_losses::offload::Offload;
use margin_losses::{Evaluation, MarginLoss, NormFace, Objective, Targets};

#[test]
fn only_the_bridge_names_the_crate() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("adapters");
    let bridge = |adapter: &str| fs::read_to_string(root.join(adapter).join("src/bridge.rs"));
    assert_eq!(bridge("candle").unwrap(), bridge("burn").unwrap());
    for adapter in ["candle", "burn"] {
        for file in fs::read_dir(root.join(adapter).join("src")).unwrap() {
            let path = file.unwrap().path();
            let allowed = match path.file_name().unwrap().to_str().unwrap() {
                "bridge.rs" => continue,
                "lib.rs" => ["pub use margin_losses;"].as_slice(),
                _ => &[],
            };
            for line in fs::read_to_string(&path).unwrap().lines() {
                let code = line.split("//").next().unwrap_or("").trim();
                let names = code.contains("margin_losses") && !allowed.contains(&code);
                assert!(!names, "{}: {line}", path.display());
            }
        }
    }
}

#[test]
fn the_bridge_gives_what_the_crate_gives() {
    let (x, w) = (array![[2.0, 0.0]], array![[0.0, 1.0], [1.0, 0.0]]);
    let (loss, targets) = (NormFace::new(4.0).unwrap(), Targets::new(&[0]));
    let mut memory = Evaluation::new();
    bridge::evaluate(&loss, x.view(), w.view(), &targets, &mut memory).unwrap();
    let expected = loss.evaluate(x.view(), w.view(), &targets).unwrap();
    let (value, by_feature, by_weight) = bridge::results(&memory);
    assert_eq!(value, expected.loss());
    assert_eq!(by_feature, expected.grad_features.as_slice().unwrap());
    assert_eq!(by_weight, expected.grad_weights.as_slice().unwrap());

    let root = 8.0_f64.sqrt();
    let offload = Offload::new(loss).unwrap();
    let batch = offload.batch(&targets, 1, 2).unwrap();
    let closed = bridge::close::<f64>(&offload, &batch, &[2.0, root, root, 2.0, 4.0, 1.0]).unwrap();
    assert!((closed.loss - value).abs() < 1e-15);
    assert!((closed.pulls[0] / 2.0 - by_feature[1]).abs() < 1e-15);
    assert!(bridge::close::<f64>(&offload, &batch, &[2.0]).is_err());
}

#[test]
fn objectives_are_restored_or_left_as_they_were() {
    let mut learned: Objective = "normface:s=7,learned".parse().unwrap();
    let adaface: Objective = "adaface".parse().unwrap();
    let [learnables, statistics] = bridge::kept(&adaface);
    let error = bridge::restore(&mut learned, [&learnables, &statistics]);
    assert!(error.is_err());
    assert!(bridge::restore(&mut learned, [&[8.0], &[1.0]]).is_err());
    assert_eq!(learned.learnables(), [7.0]);
    assert!(bridge::restore(&mut learned, [&[8.0], &[]]).is_ok());
    assert_eq!(learned.learnables(), [8.0]);
    assert!(bridge::check_dimensions([1, 0], [3, 2]).is_err());
    assert!(bridge::check_dimensions([1, 2], [3, 2]).is_ok());
}
