use super::{
    output::{Failure, Format, Output},
    progress::Progress,
};
use bitnet_diff::{
    doctor::{self, DoctorReport, Health, Place, Program},
    exit, render,
};
use bitnet_trace_schema::selection::Selection;
use signal_hook::consts::SIGINT;
use std::{
    ffi::OsString,
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
};

/// Where runs go when nothing says where.
const DEFAULT_DATABASE: &str = "traces";

/// Say why nothing is recorded, or whether recording changes what a program says
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    bitnet-diff doctor\n  \
    bitnet-diff doctor -- ./cpp-runner --model m.gguf --prompt hi --max-tokens 4\n  \
    bitnet-diff doctor --observer -- ./cpp-runner --model m.gguf --prompt hi --max-tokens 4\n\n\
    Without --observer, looks at the environment and the directory, and with a PROGRAM records it once and says what \
    became of that. With it, runs PROGRAM without recording, with its logits recorded and with everything recorded, \
    and compares stdout and logits bit by bit. What is recorded is removed again.\n\
    Exit codes: 0 in order, or the outputs are the same; 1 recording changes them; 2 recording does not work, or \
    nothing tells.")]
pub struct Args {
    /// Compare the program's outputs with and without recording, and its time
    #[arg(long, requires = "command")]
    observer: bool,
    /// How often to run each way; times are medians
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=1000))]
    runs: u16,
    /// The database, on whose file system is recorded [default: $BITNET_TRACE_DIR, else ./traces if it is there, else .]
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,
    /// Which records are kept [default: $BITNET_TRACE_SELECT, else all]
    #[arg(long, value_name = "EXPR")]
    select: Option<String>,
    /// How to print the report
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
    /// The program and its arguments
    #[arg(last = true, value_name = "PROGRAM ARGS")]
    command: Vec<OsString>,
}

pub fn run(args: Args) -> Result<Output, Failure> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let from_env = || set("BITNET_TRACE_SELECT").map(|s| s.to_string_lossy().into_owned());
    let select = match &args.select {
        Some(given) => {
            let parsed = given.parse::<Selection>();
            parsed
                .map_err(|e| Failure::new("selection", format!("--select is wrong: {e}\n{}", e.excerpt())))?;
            Some(given.clone())
        }
        None => from_env(),
    };
    let default = || match PathBuf::from(DEFAULT_DATABASE) {
        traces if traces.is_dir() => traces,
        _ => PathBuf::from("."),
    };
    let into = args.into.or_else(|| set("BITNET_TRACE_DIR").map(PathBuf::from));
    let into = into.unwrap_or_else(default);
    // The program may change its working directory.
    let into = std::path::absolute(&into).unwrap_or(into);

    let mut checks = doctor::environment(std::env::vars_os());
    let (place, found) = Place::new(&into).map_err(|e| {
        let message = format!("no directory to try recording in: {e}");
        Failure::new("directory", message)
    })?;
    checks.extend(found);
    // Ctrl-C goes to the program too; the doctor then says how it ended, and tidies up.
    let _ = signal_hook::flag::register(SIGINT, Arc::new(AtomicBool::new(false)));
    let program = Program::new(args.command);
    let mut observer = None;
    if args.observer && checks.iter().all(|c| c.status < Health::Problem) {
        let progress = Progress::of("runs");
        let told = |done, total| progress.update(done, total);
        let (found, observed) =
            doctor::observe(&program, &place, args.runs.into(), select.as_deref(), &told)?;
        checks.extend(found);
        observer = observed;
    } else if !program.is_empty() {
        checks.extend(doctor::examine(&program, &place, args.select.as_deref())?);
    }
    let report = DoctorReport::of(program.shown(), checks, observer);
    let code = exit::code(report.status);
    Output::new(args.format, &report, || render::doctor(&report), code)
}
