use super::{
    Check, Health, Place, Program,
    program::{Ran, Recording},
};
use crate::{Error, num, recording::RecordedRun};
use std::path::Path;

/// Stages that are listed before an ellipsis.
const LISTED: usize = 8;

/// Looks at the program, then records it once and says what became of that, or why nothing did.
///
/// # Errors
/// Where the program cannot be started, or what it recorded cannot be read.
pub fn examine(program: &Program, place: &Place, select: Option<&str>) -> Result<Vec<Check>, Error> {
    let mut checks = vec![program.check()];
    if checks[0].status == Health::Problem {
        return Ok(checks);
    }
    let dir = place.sub("examined");
    let recording = Recording {
        dir: &dir,
        run: "examined",
        select,
        values: None,
    };
    let ran = run(program, Some(recording))?;
    let runs = recorded(&dir)?;
    checks.extend(judge(program, &checks[0], &ran, &runs));
    if let Some(selection) = selected_nothing(&runs) {
        let dir = place.sub("everything");
        let everything = Recording {
            dir: &dir,
            select: Some(""),
            values: Some("stats"),
            ..recording
        };
        run(program, Some(everything))?;
        checks.push(Check::new(
            "recording",
            Health::Problem,
            nothing_selected(&selection, &recorded(&dir)?),
        ));
    }
    Ok(checks)
}

/// Runs the program to its end.
pub(super) fn run(program: &Program, recording: Option<Recording<'_>>) -> Result<Ran, Error> {
    program.run(recording).map_err(|source| Error::Io {
        action: "run",
        path: program.name().into(),
        source,
    })
}

/// The runs in a directory of the doctor's, which is not there where the recorder was off.
pub(super) fn recorded(dir: &Path) -> Result<Vec<RecordedRun>, Error> {
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    Ok(RecordedRun::all(dir, &|_| true)?)
}

/// What a run of the program with recording on came to.
pub(super) fn judge(program: &Program, file: &Check, ran: &Ran, runs: &[RecordedRun]) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut add = |status, message: String| checks.push(Check::new("recording", status, message));
    let name = program.name();
    for said in ran.recorder_says() {
        add(Health::Note, format!("the recorder says: {said}"));
    }
    if !ran.status.success() {
        add(Health::Problem, format!("{name} failed: {}", ran.end()));
    }
    if runs.is_empty() {
        add(Health::Problem, never_started(&name, file, ran));
    }
    for recorded in runs {
        let run = &recorded.run;
        if !run.complete {
            let why = run.problems().join("; ");
            let advice = if run.state == Some(bitnet_trace_schema::RunState::Recording) {
                ". A recorder is sealed by finish() or bnt_close(), when it is dropped, or, the process-wide one, at \
                 exit: not by _exit, abort or a signal"
            } else {
                ""
            };
            let message = format!("{name} recorded, but the run is incomplete: {why}{advice}");
            add(Health::Problem, message);
        } else if run.records > 0 {
            let what = format!(
                "{} of {}, {}, {}",
                num::plural(run.records, "record"),
                num::plural(recorded.stages.len() as u64, "stage"),
                num::plural(recorded.tokens, "token"),
                num::bytes(run.bytes)
            );
            add(Health::Ok, format!("{name} records: {what}"));
        } else if run.selection.is_none() {
            let message = format!(
                "{name} has the recorder on, but handed it no tensor: is the code with the tracepoints reached?"
            );
            add(Health::Problem, message);
        }
    }
    checks
}

/// Why there is no run at all.
fn never_started(name: &str, file: &Check, ran: &Ran) -> String {
    let why = if !ran.recorder_says().is_empty() {
        "see what the recorder says"
    } else if !ran.status.success() {
        "it may have ended before it made a recorder"
    } else if file.status == Health::Note {
        "its file does not hold the recorder (in Rust: build it with the feature `trace`; in C++: link libbitnet_trace), and \
         from outside no ggml in a shared library was seen"
    } else {
        "is its recorder made from the environment (Recorder::from_env, Recorder::global, bnt_from_env, bnt_global), on \
         the way that it went, and is the environment handed on to it?"
    };
    format!("{name} ran with BITNET_TRACE_DIR set and recorded nothing: {why}")
}

/// The selection of a run in which there is nothing because of it.
fn selected_nothing(runs: &[RecordedRun]) -> Option<String> {
    let none = |r: &&RecordedRun| r.run.complete && r.run.records == 0;
    runs.iter().find(none)?.run.selection.clone()
}

/// What there is to select from.
fn nothing_selected(selection: &str, runs: &[RecordedRun]) -> String {
    let Some(all) = runs.iter().find(|r| r.run.records > 0) else {
        return format!(
            "the selection {selection:?} matched nothing, and without it nothing is recorded either"
        );
    };
    let mut stages: Vec<&str> = all.stages.iter().map(String::as_str).collect();
    let more = stages.len().saturating_sub(LISTED);
    stages.truncate(LISTED);
    let ellipsis = if more > 0 { ", …" } else { "" };
    let range = |range: Option<(i64, i64)>| range.map_or("none".into(), |(a, b)| format!("{a} to {b}"));
    format!(
        "the selection {selection:?} matched none of {}: their stages are {}{ellipsis}, layers {}, positions {}",
        num::plural(all.run.records, "record"),
        stages.join(", "),
        range(all.layers),
        range(all.seqs)
    )
}
