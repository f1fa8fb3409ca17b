use super::{Check, Health};
use bitnet_trace_schema::{run_dir, selection::Selection};
use std::ffi::OsString;

/// The recorder's variables.
pub const VARIABLES: [&str; 13] = [
    "BITNET_TRACE_DIR",
    "BITNET_TRACE_RUN",
    "BITNET_TRACE_SELECT",
    "BITNET_TRACE_VALUES",
    "BITNET_TRACE_PRESET",
    "BITNET_TRACE_QUEUE_BYTES",
    "BITNET_TRACE_DEQUANTIZE",
    "BITNET_TRACE_PRELOAD",
    "BITNET_TRACE_THREADS",
    "BITNET_TRACE_REPLAY",
    "BITNET_TRACE_REPLAY_AT",
    "BITNET_TRACE_REPLAY_PARTIAL",
    "BITNET_TRACE_REPLAY_OTHER_PROMPT",
];

/// The beginning that they share.
pub(super) const PREFIX: &str = "BITNET_TRACE_";

/// Looks at the recorder's variables in an environment.
pub fn environment(vars: impl IntoIterator<Item = (OsString, OsString)>) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut problem = |message: String| checks.push(Check::new("environment", Health::Problem, message));
    let (mut dir, mut others) = (None, Vec::new());
    for (name, value) in vars {
        let (name, value) = (name.to_string_lossy(), value.to_string_lossy());
        if !name.starts_with(PREFIX) || value.is_empty() {
            continue;
        }
        match &*name {
            "BITNET_TRACE_DIR" => dir = Some(value.into_owned()),
            known if VARIABLES.contains(&known) => match wrong(known, &value) {
                Some(why) => problem(format!("{known}={value:?}: {why}")),
                None => others.push(format!("{known}={value:?}")),
            },
            other => problem(format!(
                "{other} is no variable of the recorder{}; it has {}",
                nearest(other).map_or(String::new(), |n| format!(": {n} is meant?")),
                VARIABLES.join(", ")
            )),
        }
    }
    let mut message = match dir {
        Some(dir) => format!("programs record into {dir} (BITNET_TRACE_DIR)"),
        None => "BITNET_TRACE_DIR is not set: programs record nothing unless it is, or `bitnet-diff record` \
                 runs them"
            .into(),
    };
    if !others.is_empty() {
        message = format!("{message}, with {}", others.join(", "));
    }
    checks.insert(0, Check::new("environment", Health::Ok, message));
    checks
}

/// What is wrong with a variable's value.
fn wrong(name: &str, value: &str) -> Option<String> {
    let one_of = |words: &[&str]| (!words.contains(&value)).then(|| format!("one of {}", words.join(", ")));
    match name {
        "BITNET_TRACE_RUN" if !run_dir::is_run_name(value) => Some(format!(
            "no run name (1 to 128 of A-Z a-z 0-9 . _ -, not starting with a dot); the run would be called {}",
            run_dir::sanitize_run_name(value)
        )),
        "BITNET_TRACE_SELECT" => (value.parse::<Selection>().err())
            .map(|e| format!("nothing is recorded, as the selection is wrong: {e}")),
        "BITNET_TRACE_VALUES" => one_of(&["full", "stats"]),
        "BITNET_TRACE_PRESET" => one_of(&["default", "lossy", "durable"]),
        "BITNET_TRACE_QUEUE_BYTES" => {
            let is_number = value.parse::<u64>().is_ok_and(|n| n > 0);
            (!is_number).then(|| "not a number of bytes".into())
        }
        "BITNET_TRACE_REPLAY" => {
            (!std::path::Path::new(value).is_dir()).then(|| "no such run or database".into())
        }
        "BITNET_TRACE_REPLAY_AT" if value.trim() != "*" => (value.parse::<Selection>().err())
            .map(|e| format!("nothing is replayed, as the selection is wrong: {e}")),
        "BITNET_TRACE_REPLAY_PARTIAL" | "BITNET_TRACE_REPLAY_OTHER_PROMPT" => one_of(&["0", "1"]),
        "BITNET_TRACE_DEQUANTIZE" => one_of(&["0", "1"]),
        "BITNET_TRACE_PRELOAD" => (!std::path::Path::new(value).is_file()).then(|| "no such file".into()),
        "BITNET_TRACE_THREADS" => {
            let is_number = value.parse::<u32>().is_ok_and(|n| n > 0);
            (!is_number).then(|| "not a number of threads".into())
        }
        _ => None,
    }
}

/// The variable that a misspelt one is, if it is close to one.
fn nearest(name: &str) -> Option<&'static str> {
    let distance = |known: &str| edits(name.as_bytes(), known.as_bytes());
    let best = VARIABLES.into_iter().min_by_key(|known| distance(known))?;
    (distance(best) <= 2).then_some(best)
}

/// Edit distance (Levenshtein).
fn edits(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut corner = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let least = (row[j] + 1).min(row[j + 1] + 1).min(corner + usize::from(x != y));
            corner = std::mem::replace(&mut row[j + 1], least);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(vars: &[(&str, &str)]) -> Vec<(Health, String)> {
        let vars = vars.iter().map(|(n, v)| (n.into(), v.into()));
        let checks = environment(vars);
        checks.into_iter().map(|c| (c.status, c.message)).collect()
    }

    #[test]
    fn the_doctor_knows_every_variable_that_the_recorder_reads() {
        let source = include_str!("../../../recorder/src/env.rs");
        let read: Vec<&str> = source
            .split('"')
            .filter(|text| {
                text.strip_prefix(PREFIX)
                    .is_some_and(|t| !t.is_empty() && t.bytes().all(|b| b.is_ascii_uppercase() || b == b'_'))
            })
            .collect();
        assert!(read.len() >= 4, "{read:?}");
        for name in read {
            assert!(VARIABLES.contains(&name), "{name}");
        }
    }

    #[test]
    fn an_environment_in_order_is_one_line() {
        let [(Health::Ok, off)] = &told(&[("HOME", "/root"), ("BITNET_TRACE_RUN", "")])[..] else {
            panic!()
        };
        assert!(off.contains("is not set"), "{off}");
        let on = told(&[
            ("BITNET_TRACE_DIR", "/d"),
            ("BITNET_TRACE_SELECT", "layer=3"),
            ("BITNET_TRACE_PRESET", "lossy"),
        ]);
        assert_eq!(on.len(), 1, "{on:?}");
        assert!(on[0].1.contains("into /d") && on[0].1.contains("BITNET_TRACE_SELECT=\"layer=3\""));
    }

    #[test]
    fn each_wrong_or_misspelt_variable_is_a_problem_that_says_what_is_right() {
        for (name, value, says) in [
            ("BITNET_TRACE_DRI", "/d", "BITNET_TRACE_DIR is meant?"),
            ("BITNET_TRACE_SELECTION", "x", "it has BITNET_TRACE_DIR"),
            ("BITNET_TRACE_RUN", "../x", "-..-x"),
            ("BITNET_TRACE_SELECT", "layer=six", "\"six\""),
            ("BITNET_TRACE_VALUES", "all", "full, stats"),
            ("BITNET_TRACE_PRESET", "fast", "default, lossy, durable"),
            ("BITNET_TRACE_QUEUE_BYTES", "1 GB", "number of bytes"),
            ("BITNET_TRACE_DEQUANTIZE", "yes", "0, 1"),
            ("BITNET_TRACE_REPLAY", "/nowhere", "no such run"),
            ("BITNET_TRACE_REPLAY_AT", "layer=six", "\"six\""),
            ("BITNET_TRACE_REPLAY_PARTIAL", "yes", "0, 1"),
        ] {
            let told = told(&[(name, value)]);
            let [_, (Health::Problem, message)] = &told[..] else {
                panic!("{told:?}")
            };
            assert!(message.contains(name) && message.contains(says), "{message}");
        }
    }
}
