//! What the documents say of the manifest, the examples and the defaults, as far as it can be looked up.

use std::fs;
use std::path::Path;

use margin_losses::ASoftmax;

const MANIFEST: &str = include_str!("../../Cargo.toml");
const README: &str = include_str!("../../README.md");
const TRAINING: &str = include_str!("../../docs/training.md");
const CHOOSING: &str = include_str!("../../docs/choosing.md");

/// The README and all pages of `docs/`, with their names.
fn documents() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let pages = fs::read_dir(root.join("docs")).expect("there is a folder of pages");
    let mut paths: Vec<_> = pages.map(|entry| entry.expect("a file").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    assert!(paths.len() >= 5);
    paths.push(root.join("README.md"));
    let read = |path: &Path| fs::read_to_string(path).expect("a text");
    paths
        .iter()
        .map(|path| (path.display().to_string(), read(path)))
        .collect()
}

/// What stands in quotes after `key = ` at the beginning of a line of the manifest.
fn manifest(key: &str) -> &'static str {
    let value = MANIFEST.lines().find_map(|line| {
        let value = line.strip_prefix(key)?.strip_prefix(" = \"")?;
        value.strip_suffix('"')
    });
    value.unwrap_or_else(|| panic!("the manifest has no {key}"))
}

/// Until it is published, a version alone is a dependency that cargo cannot find.
#[test]
fn the_crate_is_depended_on_by_its_path() {
    assert!(README.contains("margin-losses = { path = \"../margin-losses\" }"));
    for (name, text) in documents() {
        assert!(!text.contains("margin-losses = \""), "{name}");
        for line in text.lines() {
            let added = line.split("cargo add margin-losses").nth(1);
            let elsewhere = |rest: &str| {
                let rest = rest.trim_start();
                rest.starts_with("--path") || rest.starts_with("--git")
            };
            assert!(added.is_none_or(elsewhere), "{name}: {line}");
        }
    }
}

#[test]
fn requirements_are_those_of_the_manifest() {
    assert!(README.contains(&format!("- Rust {}:", manifest("rust-version"))));
    let ndarray = manifest("ndarray");
    assert!(README.contains(&format!("- ndarray {ndarray} ")));
    assert!(TRAINING.contains(&format!("the arguments are of, {ndarray};")));
}

#[test]
fn examples_that_are_named_exist() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut named = 0;
    for (document, text) in documents() {
        for rest in text.split("--example ").skip(1) {
            let end = rest.find(|letter: char| !letter.is_alphanumeric() && letter != '_');
            let name = &rest[..end.unwrap_or(rest.len())];
            let exists = examples.join(format!("{name}.rs")).exists()
                || examples.join(name).join("main.rs").exists();
            assert!(exists, "{document}: --example {name}");
            assert!(
                MANIFEST.contains(&format!("[[example]]\nname = \"{name}\"\n")),
                "{name}"
            );
            named += 1;
        }
    }
    assert!(named >= 10);
}

#[test]
fn the_length_of_the_whole_program_is_about_right() {
    let lines = include_str!("../../examples/quick_start.rs")
        .lines()
        .count();
    let said = TRAINING.split("in some ").nth(1).expect("a length");
    let (said, _) = said.split_once(" lines").expect("a number of lines");
    let said: usize = said.parse().expect("a number");
    assert!(lines.abs_diff(said) <= 10, "{lines}, not {said}");
}

/// A-Softmax is annealed by the caller: by itself it has λ = 0.
#[test]
fn lambda_of_a_softmax_is_as_it_is_said() {
    assert_eq!(ASoftmax::new(4).map(|loss| loss.lambda()), Ok(0.0));
    let mut rows = README
        .lines()
        .filter(|line| line.starts_with("| `ASoftmax`"));
    assert!(rows.next().expect("a row").contains("λ = 0 until"));
    assert!(CHOOSING.contains("`ASoftmax::new(4)` by itself has λ = 0"));
}
