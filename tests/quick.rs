//! The quick tests in one binary, for mutation testing: see `docs/reliability.md`. `cargo test` runs each from its own file.

macro_rules! files {
    ($($file:literal $name:ident),* $(,)?) => {
        $(
            #[path = $file]
            mod $name;
        )*
    };
}

files! {
    "bad_input.rs" bad_input,
    "bad_parameters.rs" bad_parameters,
    "bad_values.rs" bad_values,
    "center.rs" center,
    "check_values.rs" check_values,
    "closed_forms.rs" closed_forms,
    "confident.rs" confident,
    "extremes.rs" extremes,
    "failures/main.rs" failures,
    "frozen.rs" frozen,
    "gradients.rs" gradients,
    "identities.rs" identities,
    "layouts.rs" layouts,
    "poles.rs" poles,
    "ranges.rs" ranges,
    "results.rs" results,
}
