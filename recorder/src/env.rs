//! The recorder that the environment asks for.

use crate::{Engine, Recorder, RecorderBuilder, Values};
use bitnet_trace_schema::run_dir;
use std::ffi::OsString;

/// Directory of the database; unset or empty: off.
const DIR: &str = "BITNET_TRACE_DIR";
/// Name of the run.
const RUN: &str = "BITNET_TRACE_RUN";
/// `full` or `stats`.
const VALUES: &str = "BITNET_TRACE_VALUES";
/// Which tensors to record.
const SELECT: &str = "BITNET_TRACE_SELECT";

/// Reads variables with `get`; tells `warn` what can't be done as asked.
pub(crate) fn recorder(
    engine: Engine,
    get: &dyn Fn(&str) -> Option<OsString>,
    warn: &mut dyn FnMut(String),
) -> Recorder {
    let Some(builder) = builder(engine, get, warn) else {
        return Recorder::off();
    };
    builder.build().unwrap_or_else(|error| {
        warn(format!(
            "nothing is recorded, as {DIR} cannot be used: {error}. The engine goes on"
        ));
        Recorder::off()
    })
}

/// What the environment says, or `None` for off.
fn builder(
    engine: Engine,
    get: &dyn Fn(&str) -> Option<OsString>,
    warn: &mut dyn FnMut(String),
) -> Option<RecorderBuilder> {
    let set = |name| get(name).filter(|value| !value.is_empty());
    let mut builder = Recorder::builder(set(DIR)?).engine(engine);
    if let Some(name) = set(RUN) {
        let name = name.to_string_lossy();
        let usable = run_dir::sanitize_run_name(&name);
        if usable != name {
            warn(format!(
                "{RUN}={name:?} is not a run name (1 to 128 of A-Z a-z 0-9 . _ - that do not start with a dot); \
                 the run is called {usable:?}"
            ));
        }
        builder = builder.run(usable);
    }
    match set(VALUES).map(|v| v.to_string_lossy().into_owned()).as_deref() {
        None | Some("full") => {}
        Some("stats") => builder = builder.values(Values::Stats),
        Some(other) => warn(format!(
            "{VALUES}={other:?} is neither \"full\" nor \"stats\"; full values are recorded"
        )),
    }
    if set(SELECT).is_some() {
        warn(format!(
            "{SELECT} is not supported by version {} of the recorder; everything is recorded",
            env!("CARGO_PKG_VERSION")
        ));
    }
    Some(builder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(vars: &[(&str, &str)]) -> (Option<RecorderBuilder>, Vec<String>) {
        let mut warnings = vec![];
        let get = |name: &str| vars.iter().find(|v| v.0 == name).map(|v| v.1.into());
        let builder = builder(Engine::new("e", "1"), &get, &mut |w| warnings.push(w));
        (builder, warnings)
    }

    #[test]
    fn without_a_directory_the_recorder_is_off() {
        assert!(matches!(read(&[(RUN, "x"), (VALUES, "nonsense")]), (None, w) if w.is_empty()));
        assert!(matches!(read(&[(DIR, "")]), (None, w) if w.is_empty()));
    }

    #[test]
    fn each_variable_is_understood() {
        let (builder, warnings) = read(&[(DIR, "/d"), (RUN, "cpp-f32"), (VALUES, "stats"), (SELECT, "")]);
        let builder = builder.expect("on");
        assert_eq!(warnings, [""; 0]);
        assert_eq!(
            (builder.dir.to_str(), builder.run.as_deref()),
            (Some("/d"), Some("cpp-f32"))
        );
        assert_eq!(builder.values, Values::Stats);
    }

    #[test]
    fn each_wrong_value_is_one_warning_that_names_it() {
        let (builder, warnings) = read(&[(DIR, "d"), (RUN, "../x y"), (VALUES, "all"), (SELECT, "layer=1")]);
        let builder = builder.expect("on");
        assert_eq!(
            (builder.run.as_deref(), builder.values),
            (Some("-..-x-y"), Values::Full)
        );
        assert_eq!(warnings.len(), 3, "{warnings:?}");
        for (warning, word) in warnings.iter().zip(["../x y", "\"all\"", SELECT]) {
            assert!(warning.contains(word), "{warning}");
        }
    }
}
