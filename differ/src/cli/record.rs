use super::{
    args::{ReplayArgs, selection},
    launch::{Launch, Replay, SELECT},
    output::{Failure, Format, Output},
};
use bitnet_diff::{
    compare::Status,
    doctor::find_program,
    exit, preload,
    recording::{RecordReport, RecordedRun},
    render,
    report::ErrorView,
};
use bitnet_trace_schema::run_dir::is_run_name;
use bitnet_trace_store::Run;
use std::{
    collections::BTreeSet,
    ffi::OsString,
    path::{Path, PathBuf},
    process::ExitStatus,
};

/// Where runs go when nothing says where.
const DEFAULT_DATABASE: &str = "traces";

/// Run a program with recording on, and say what it recorded
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    bitnet-diff record --into traces --name cpp -- ./cpp-runner --model m.gguf --prompt hi --max-tokens 4\n  \
    bitnet-diff record -- ./llama-cli -m m.gguf -p hi\n  \
    bitnet-diff record -- cargo run -p bitnet-cli --features cpu,trace -- run --model m.gguf --prompt hi\n  \
    bitnet-diff record --replay traces/run=cpp --at stage=layer_out -- ./llama-simple -m m.gguf hi\n  \
    bitnet-diff record --select 'seq=0-2,layer=6,stage=attn_*;layer=-1' -- ./cpp-runner --model m.gguf --prompt hi\n\n\
    A selection is made of alternatives (;) of terms that must all hold (,). A term is seq, layer, stage or \
    request, = or != (none of), and values (|): 3, 0-5, 4- (and above), -1; attn_*, ?_proj.\n\n\
    Sets BITNET_TRACE_DIR, BITNET_TRACE_RUN and BITNET_TRACE_SELECT for a program that uses the recorder, and LD_PRELOAD for \
    one that does not but computes with ggml's shared libraries (llama.cpp, bitnet.cpp). Its own output stays on stdout, the \
    report goes to stderr; with --format json it is the other way round.\n\
    Exit codes: 0 recorded, 2 nothing or not all was recorded, or the program failed.")]
pub struct Args {
    /// The database [default: $BITNET_TRACE_DIR, else ./traces]
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,
    /// The run's name; if it is taken, the recorder adds -2, -3, ...
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Which records are kept, such as 'seq=0-2,layer=6,stage=attn_*' [default: $BITNET_TRACE_SELECT, else all]
    #[arg(long, value_name = "EXPR")]
    select: Option<String>,
    /// A stored run, or a database's newest: the program goes on with its tensors in place of those that it computes, which
    /// are recorded before they are replaced
    #[arg(long, value_name = "RUN", help_heading = "Replay")]
    replay: Option<PathBuf>,
    /// Which of its records, such as 'stage=layer_out,layer=0-5' [default: all, as *]
    #[arg(long, value_name = "EXPR", requires = "replay", help_heading = "Replay")]
    at: Option<String>,
    #[command(flatten)]
    replaying: ReplayArgs,
    /// Leave programs alone that do not use the recorder themselves
    #[arg(long)]
    no_preload: bool,
    /// Let an unmodified program compute with N threads while it is recorded, whatever it asks for: 1 is fastest, as each
    /// recorded node is computed on its own [default: $BITNET_TRACE_THREADS, else what the program asks for]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024), conflicts_with = "no_preload")]
    threads_hint: Option<u16>,
    /// How to print the report
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "PROGRAM ARGS")]
    command: Vec<OsString>,
}

pub fn run(args: Args) -> Result<Output, Failure> {
    args.name.as_deref().map(run_name).transpose()?;
    check_selection(args.select.as_deref())?;
    let format = args.format;
    let (report, _) = record(args)?;
    let code = exit::code(report.status);
    // The program may have left its last line open.
    let output = Output::new(format, &report, || format!("\n{}", render::record(&report)), code)?;
    Ok(match format {
        Format::Text => output.on_stderr(),
        Format::Json => output,
    })
}

/// Runs the program, and tells what it recorded and from which run it was replayed.
pub fn record(args: Args) -> Result<(RecordReport, Option<Run>), Failure> {
    let replay = args.replay.as_deref().map(Run::open).transpose()?;
    let at = args.at.as_deref().filter(|at| at.trim() != "*");
    at.map(|at| selection("--at", at)).transpose()?;
    // A database's newest run is another one as soon as the program records.
    let from = replay
        .as_ref()
        .map(|run| std::path::absolute(run.path()).unwrap_or_else(|_| run.path().into()));
    let into = database(args.into.clone());
    // The program may change its working directory.
    let into = std::path::absolute(&into).unwrap_or(into);
    writable(&into)?;
    let before = run_names(&into);
    let library = if args.no_preload {
        Err("--no-preload leaves programs alone that do not use the recorder".to_owned())
    } else {
        preload::find()
    };
    let launch = Launch {
        command: &args.command,
        into: &into,
        name: args.name.as_deref(),
        select: args.select.as_deref(),
        replay: from.as_deref().map(|run| Replay {
            run,
            at,
            partial: args.replaying.allow_partial,
            other_prompt: args.replaying.other_prompt,
        }),
        library: library.as_deref().ok(),
        threads: args.threads_hint,
        quiet: args.format == Format::Json,
    };
    let status = launch.run()?;
    let runs = RecordedRun::all(&into, &|name| !before.contains(name))?;
    let error = problem(
        status,
        &runs,
        &args.command[0],
        library.as_deref().map_err(String::as_str),
    );
    let report = RecordReport {
        status: if error.is_some() {
            Status::Error
        } else {
            Status::Ok
        },
        database: into.display().to_string(),
        command: args
            .command
            .iter()
            .map(|a| a.to_string_lossy().into_owned())
            .collect(),
        exit_code: status.code(),
        runs,
        error,
    };
    Ok((report, replay))
}

impl Args {
    /// Everything of `run` replayed into a program.
    pub fn full_replay(run: PathBuf, of: CrossArgs, replaying: ReplayArgs, format: Format) -> Self {
        Self {
            into: of.into,
            name: of.name,
            select: Some(String::new()),
            replay: Some(run),
            at: None,
            replaying,
            no_preload: false,
            threads_hint: of.threads_hint,
            format,
            command: of.command,
        }
    }
}

/// The program of `cross`, and where it is recorded.
pub struct CrossArgs {
    /// The database.
    pub into: Option<PathBuf>,
    /// The run's name.
    pub name: Option<String>,
    /// With how many threads an unmodified program computes.
    pub threads_hint: Option<u16>,
    /// The program and its arguments.
    pub command: Vec<OsString>,
}

/// A name that a run can have.
pub fn run_name(name: &str) -> Result<&str, Failure> {
    if is_run_name(name) {
        return Ok(name);
    }
    let message =
        format!("{name:?} is not a run name: 1 to 128 of A-Z a-z 0-9 . _ -, not starting with a dot");
    Err(Failure::new("run_name", message))
}

/// The database that a new run goes to: the one given, or `BITNET_TRACE_DIR`, or ./traces.
pub fn database(given: Option<PathBuf>) -> PathBuf {
    let from_env = || std::env::var_os("BITNET_TRACE_DIR").filter(|d| !d.is_empty());
    let into = given.or_else(|| from_env().map(PathBuf::from));
    into.unwrap_or_else(|| DEFAULT_DATABASE.into())
}

/// The recorder would be off with a wrong expression, given here or in the environment.
fn check_selection(given: Option<&str>) -> Result<(), Failure> {
    let (name, expression) = match given {
        Some(expression) => ("--select", expression.into()),
        None => (SELECT, std::env::var_os(SELECT).unwrap_or_default()),
    };
    selection(name, &expression.to_string_lossy()).map(|_| ())
}

/// Creates the database's directory, and a file in it: better to learn here that it cannot be written than
/// after the program's hour of work.
pub fn writable(dir: &Path) -> Result<(), Failure> {
    let probe = dir.join(format!(".bitnet-diff-{}", std::process::id()));
    let tried = std::fs::create_dir_all(dir)
        .and_then(|()| std::fs::write(&probe, b""))
        .and_then(|()| std::fs::remove_file(&probe));
    tried.map_err(|e| {
        let message = format!(
            "cannot write into {}: {e}; give another directory with --into",
            dir.display()
        );
        Failure::new("directory", message)
    })
}

/// The run directories, without a look into them.
pub fn run_names(dir: &Path) -> BTreeSet<OsString> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|e| e.file_name()).collect()
}

pub fn problem(
    status: ExitStatus,
    runs: &[RecordedRun],
    command: &OsString,
    library: Result<&Path, &str>,
) -> Option<ErrorView> {
    let program = command.to_string_lossy();
    let stopped = |reason: &&String| reason.contains("the replay stopped: ");
    if let Some(reason) = runs.iter().flat_map(|r| &r.run.incomplete).find(stopped) {
        let message = reason.clone();
        return Some(ErrorView {
            kind: "replay",
            message,
        });
    }
    if !status.success() {
        // Prints as "exit status: 3" or "signal: 9 (SIGKILL)".
        let message = format!("{program} failed: {status}");
        return Some(ErrorView {
            kind: "program",
            message,
        });
    }
    let incomplete = runs.iter().find(|r| !r.run.complete);
    if incomplete.is_none() && runs.iter().all(|r| r.run.records == 0) {
        if let Some(selection) = runs.iter().find_map(|r| r.run.selection.as_ref()) {
            let message = format!(
                "the selection {selection:?} matched none of the tensors of {program}: look at its stages, layers and positions"
            );
            return Some(ErrorView {
                kind: "nothing_selected",
                message,
            });
        }
        let why = match library {
            Err(why) => why.to_owned(),
            Ok(_) => find_program(command)
                .and_then(|path| preload::out_of_reach(&path))
                .unwrap_or_else(|| {
                    "neither it nor what it started computed with ggml in a shared library (or stderr says above why that one \
                     is not known)"
                        .to_owned()
                }),
        };
        let message = format!(
            "{program} recorded nothing: it does not use the recorder itself (in Rust: the feature `trace`), and from outside, \
             {why}. What is recorded anyhow is a ggml program with one more line, {}",
            preload::ONE_LINE
        );
        return Some(ErrorView {
            kind: "nothing_recorded",
            message,
        });
    }
    let incomplete = incomplete?;
    let message = format!(
        "the run {} is incomplete: {}",
        incomplete.run.name,
        incomplete.run.incomplete.join("; ")
    );
    Some(ErrorView {
        kind: "incomplete",
        message,
    })
}
