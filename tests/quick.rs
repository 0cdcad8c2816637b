//! Most of the tests in one binary, for mutation testing: see `docs/reliability.md`. `cargo test` runs each from its own file.
//!
//! In the order in which they run: first what is quickest to notice a mistake.

macro_rules! files {
    ($($file:literal $name:ident),* $(,)?) => {
        $(
            #[path = $file]
            mod $name;
        )*
    };
}

files! {
    "check_values.rs" t01_check_values,
    "text.rs" t02_text,
    "center.rs" t03_center,
    "poles.rs" t04_poles,
    "ranges.rs" t05_ranges,
    "identities.rs" t06_identities,
    "results.rs" t07_results,
    "extremes.rs" t08_extremes,
    "regressions.rs" t09_regressions,
    "bad_input.rs" t10_bad_input,
    "bad_parameters.rs" t11_bad_parameters,
    "bad_values.rs" t12_bad_values,
    "overflow.rs" t12_overflow,
    "closed_forms.rs" t13_closed_forms,
    "confident.rs" t14_confident,
    "failures/main.rs" t15_failures,
    "oracle_table.rs" t16_oracle_table,
    "gradients.rs" t17_gradients,
    "oracle.rs" t18_oracle,
    "paths.rs" t19_paths,
    "layouts.rs" t20_layouts,
    "frozen.rs" t21_frozen,
}
