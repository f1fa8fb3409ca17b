//! The recorder that the environment asks for.

use crate::{Engine, Recorder, RecorderBuilder, Replay, ReplayError, Values};
use bitnet_trace_schema::run_dir;
use std::ffi::OsString;

/// Directory of the database; unset or empty: off.
const DIR: &str = "BITNET_TRACE_DIR";
/// Name of the run.
const RUN: &str = "BITNET_TRACE_RUN";
/// `full` or `stats`.
const VALUES: &str = "BITNET_TRACE_VALUES";
/// `1` or `0`: whether packed dtypes are kept as f32 too.
const DEQUANTIZE: &str = "BITNET_TRACE_DEQUANTIZE";
/// `default`, `lossy` or `durable`.
const PRESET: &str = "BITNET_TRACE_PRESET";
/// Most bytes that wait for the writer.
const QUEUE_BYTES: &str = "BITNET_TRACE_QUEUE_BYTES";
/// Which records to keep.
const SELECT: &str = "BITNET_TRACE_SELECT";

/// A stored run to replay.
const REPLAY: &str = "BITNET_TRACE_REPLAY";
/// Which records of it.
const REPLAY_AT: &str = "BITNET_TRACE_REPLAY_AT";
/// `1` or `0`: whether what it lacks is left as it is.
const REPLAY_PARTIAL: &str = "BITNET_TRACE_REPLAY_PARTIAL";
/// `1` or `0`: whether other token ids are meant.
const REPLAY_OTHER_PROMPT: &str = "BITNET_TRACE_REPLAY_OTHER_PROMPT";

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
    match set(DEQUANTIZE)
        .map(|v| v.to_string_lossy().into_owned())
        .as_deref()
    {
        None | Some("0") => {}
        Some("1") => builder = builder.dequantize(true),
        Some(other) => warn(format!(
            "{DEQUANTIZE}={other:?} is neither \"1\" nor \"0\"; packed dtypes are kept as they are"
        )),
    }
    if let Some(word) = set(PRESET) {
        match word.to_string_lossy().parse() {
            Ok(preset) => builder = builder.preset(preset),
            Err(why) => warn(format!("{PRESET}: {why}; the preset is \"default\"")),
        }
    }
    if let Some(bytes) = set(QUEUE_BYTES) {
        match bytes.to_str().and_then(|b| b.parse().ok()).filter(|&b| b > 0) {
            Some(bytes) => builder = builder.queue_bytes(bytes),
            None => warn(format!(
                "{QUEUE_BYTES}={bytes:?} is not a number of bytes above 0; {} are used",
                builder.queue_bytes
            )),
        }
    }
    if let Some(expression) = set(SELECT) {
        builder = builder.select(expression.to_string_lossy());
    }
    if let Err(error) = &builder.selection {
        // neither everything nor something else than was meant
        warn(format!(
            "nothing is recorded, as {SELECT} is wrong: {error}. The engine goes on\n{}",
            error.excerpt()
        ));
        return None;
    }
    builder.replay = replay(get).transpose();
    // A run that is not what was asked for must be seen to be none.
    builder.record_anyhow = true;
    Some(builder)
}

/// The replay that the environment asks for.
fn replay(get: &dyn Fn(&str) -> Option<OsString>) -> Result<Option<Replay>, ReplayError> {
    let set = |name| get(name).filter(|value| !value.is_empty());
    let flag = |name| match set(name).map(|v| v.to_string_lossy().into_owned()) {
        None => Ok(false),
        Some(value) => match value.as_str() {
            "1" => Ok(true),
            "0" => Ok(false),
            _ => Err(ReplayError::Flag { name, value }),
        },
    };
    let Some(path) = set(REPLAY) else { return Ok(None) };
    let at = set(REPLAY_AT).unwrap_or_default();
    let replay = Replay::of(path).at(at.to_string_lossy());
    let replay = replay.partial(flag(REPLAY_PARTIAL)?);
    Ok(Some(replay.other_prompt(flag(REPLAY_OTHER_PROMPT)?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Preset;

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
    fn packed_dtypes_are_dequantised_when_asked_for() {
        for (value, dequantize, warned) in
            [("1", true, 0), ("0", false, 0), ("", false, 0), ("yes", false, 1)]
        {
            let (builder, warnings) = read(&[(DIR, "/d"), (DEQUANTIZE, value)]);
            assert_eq!(builder.map(|b| b.dequantize), Some(dequantize), "{value:?}");
            assert_eq!(warnings.len(), warned, "{warnings:?}");
        }
    }

    #[test]
    fn each_variable_is_understood() {
        let (builder, warnings) = read(&[(DIR, "/d"), (RUN, "cpp-f32"), (VALUES, "stats")]);
        let builder = builder.expect("on");
        assert_eq!(warnings, [""; 0]);
        assert_eq!(
            (builder.dir.to_str(), builder.run.as_deref()),
            (Some("/d"), Some("cpp-f32"))
        );
        assert_eq!((builder.values, builder.selection), (Values::Stats, Ok(None)));
        for preset in Preset::ALL {
            let (builder, warnings) = read(&[(DIR, "/d"), (PRESET, preset.name()), (QUEUE_BYTES, "77")]);
            let builder = builder.expect("on");
            assert_eq!((builder.preset, builder.queue_bytes), (preset, 77));
            assert_eq!(warnings, [""; 0]);
        }
        let (builder, warnings) = read(&[(DIR, "/d"), (SELECT, "layer=1;stage=q_*")]);
        assert_eq!(warnings, [""; 0]);
        assert_eq!(
            builder.expect("on").selection,
            "layer=1;stage=q_*".parse().map(Some)
        );
        assert!(
            matches!(read(&[(DIR, "/d"), (SELECT, "")]), (Some(b), w) if b.selection == Ok(None) && w.is_empty())
        );
    }

    #[test]
    fn a_replay_is_understood_and_a_wrong_one_is_not_taken_for_none() {
        assert!(matches!(read(&[(DIR, "/d"), (REPLAY, "")]), (Some(b), _) if b.replay.is_none()));
        let vars = [
            (DIR, "/d"),
            (REPLAY, "/r"),
            (REPLAY_AT, "*"),
            (REPLAY_PARTIAL, "1"),
        ];
        let (builder, warnings) = read(&vars);
        let replay = builder
            .and_then(|b| b.replay)
            .expect("asked for")
            .expect("understood");
        assert_eq!((replay.path.to_str(), replay.at), (Some("/r"), Ok(None)));
        assert_eq!(
            (replay.partial, replay.other_prompt, warnings),
            (true, false, vec![])
        );
        let wrong = [(DIR, "/d"), (REPLAY, "/r"), (REPLAY_OTHER_PROMPT, "yes")];
        let (builder, _) = read(&wrong);
        let error = builder
            .and_then(|b| b.replay)
            .expect("asked for")
            .expect_err("refused");
        assert!(
            error
                .to_string()
                .contains("BITNET_TRACE_REPLAY_OTHER_PROMPT=\"yes\""),
            "{error}"
        );
        // The run is made, and is seen to have failed.
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().to_string_lossy().into_owned();
        let get = |name: &str| match name {
            DIR => Some(OsString::from(&path)),
            REPLAY => Some("/nowhere".into()),
            RUN => Some("r".into()),
            _ => None,
        };
        let recorder = recorder(Engine::new("e", "1"), &get, &mut |w| panic!("{w}"));
        assert!(recorder.is_on() && recorder.replay_error().is_some());
        assert!(recorder.finish().is_err());
        let manifest = std::fs::read_to_string(dir.path().join("run=r/run.json")).expect("a manifest");
        assert!(
            manifest.contains("\"failed\"") && manifest.contains("/nowhere"),
            "{manifest}"
        );
    }

    #[test]
    fn a_wrong_selection_is_one_warning_that_shows_its_place_and_the_recorder_is_off() {
        let (builder, warnings) = read(&[(DIR, "/d"), (SELECT, "seq=0,layer=six")]);
        assert!(builder.is_none());
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        for part in [
            SELECT,
            "column 13",
            "\"six\"",
            "layer=0-5",
            "\n  seq=0,layer=six\n              ^^^",
        ] {
            assert!(warnings[0].contains(part), "{part}: {}", warnings[0]);
        }
        let bytes = std::os::unix::ffi::OsStringExt::from_vec(b"stage=\xff".to_vec());
        let get = |name: &str| match name {
            SELECT => Some(OsString::clone(&bytes)),
            _ => Some("d".into()),
        };
        let mut warnings = vec![];
        let engine = Engine::new("e", "1");
        assert!(
            super::builder(engine, &get, &mut |w| warnings.push(w)).is_none(),
            "not UTF-8"
        );
    }

    #[test]
    fn each_wrong_value_is_one_warning_that_names_it() {
        let (builder, warnings) = read(&[(DIR, "d"), (RUN, "../x y"), (VALUES, "all")]);
        let builder = builder.expect("on");
        assert_eq!(
            (builder.run.as_deref(), builder.values),
            (Some("-..-x-y"), Values::Full)
        );
        let (defaults, more) = read(&[(DIR, "d"), (PRESET, "Lossy"), (QUEUE_BYTES, "1 MB")]);
        let defaults = defaults.expect("on");
        assert_eq!(
            (defaults.preset, defaults.queue_bytes),
            (Preset::Default, crate::DEFAULT_QUEUE_BYTES)
        );
        let warnings = [warnings, more].concat();
        assert_eq!(warnings.len(), 4, "{warnings:?}");
        for (warning, word) in warnings
            .iter()
            .zip(["../x y", "\"all\"", "\"Lossy\"", "\"1 MB\""])
        {
            assert!(warning.contains(word), "{warning}");
        }
    }
}
