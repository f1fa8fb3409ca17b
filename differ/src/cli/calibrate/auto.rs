//! The reruns of `calibrate --auto`.

use super::super::{
    launch::Launch,
    output::Failure,
    progress::Progress,
    record::{problem, run_names},
};
use bitnet_diff::{preload, recording::RecordedRun};
use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

/// What stands for the prompt in a program's arguments.
const PLACEHOLDER: &str = "{prompt}";

/// A program that is rerun.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Reruns")]
pub struct AutoArgs {
    /// Record PROGRAM for each prompt: twice as given, with one thread, and with each --also
    #[arg(long, requires = "command")]
    auto: bool,
    /// A prompt, put where {prompt} stands in ARGS; give at least five
    #[arg(long = "prompt", value_name = "TEXT", requires = "auto")]
    prompts: Vec<String>,
    /// A file of prompts, one a line
    #[arg(long = "prompts", value_name = "FILE", requires = "auto")]
    prompt_file: Option<PathBuf>,
    /// Arguments of one more run, after ARGS: such as '--batch 1' or '--kv-type f16'
    #[arg(long, value_name = "ARGS", requires = "auto", allow_hyphen_values = true)]
    also: Vec<String>,
    /// Keep the runs in this database [default: a folder beside the output, removed at the end]
    #[arg(long, value_name = "DIR", requires = "auto")]
    into: Option<PathBuf>,
    /// The program and its arguments
    #[arg(last = true, value_name = "PROGRAM ARGS", requires = "auto")]
    command: Vec<OsString>,
}

/// One way to run the program again.
enum Variant<'a> {
    AsGiven,
    OneThread,
    Also(&'a str),
}

impl AutoArgs {
    /// Whether a program is to be rerun.
    pub fn is_wanted(&self) -> bool {
        self.auto
    }

    /// Where the runs are kept, if they are.
    pub fn database(&self) -> Option<&Path> {
        self.into.as_deref()
    }

    /// Records the reruns into `database`, and returns their directories.
    ///
    /// # Errors
    /// A failure where prompts and placeholder do not fit, or a run fails or is incomplete.
    pub fn record(&self, database: &Path) -> Result<Vec<PathBuf>, Failure> {
        let commands = self.commands()?;
        // The program may change its working directory.
        let database = std::path::absolute(database).unwrap_or_else(|_| database.to_owned());
        let library = preload::find();
        let also = self.also.iter().map(|args| Variant::Also(args));
        let mut variants = vec![Variant::AsGiven, Variant::AsGiven, Variant::OneThread];
        variants.extend(also);
        let progress = Progress::of("runs");
        let total = commands.len() * variants.len();
        let mut recorded = Vec::new();
        for (prompt, command) in commands.iter().enumerate() {
            for (variant, how) in variants.iter().enumerate() {
                progress.update(recorded.len(), total);
                let before = run_names(&database);
                let mut command = command.clone();
                if let Variant::Also(args) = how {
                    command.extend(args.split_whitespace().map(OsString::from));
                }
                let name = format!("prompt-{}-{}", prompt + 1, variant + 1);
                let launch = Launch {
                    replay: None,
                    command: &command,
                    into: &database,
                    name: Some(&name),
                    select: None,
                    library: library.as_deref().ok(),
                    threads: None,
                    quiet: true,
                };
                let status = match how {
                    Variant::OneThread => launch.run_single_threaded()?,
                    _ => launch.run()?,
                };
                let runs = RecordedRun::all(&database, &|name| !before.contains(name))?;
                let library = library.as_deref().map_err(String::as_str);
                if let Some(error) = problem(status, &runs, &command[0], library) {
                    return Err(Failure::new(error.kind, error.message));
                }
                recorded.extend(runs.iter().map(|r| database.join(format!("run={}", r.run.name))));
            }
        }
        Ok(recorded)
    }

    /// The program's arguments for each prompt.
    fn commands(&self) -> Result<Vec<Vec<OsString>>, Failure> {
        let mut prompts = self.prompts.clone();
        if let Some(file) = &self.prompt_file {
            let text = super::super::args::read(file)?;
            prompts.extend(text.lines().filter(|l| !l.trim().is_empty()).map(str::to_owned));
        }
        let has_place = self
            .command
            .iter()
            .any(|a| a.to_string_lossy().contains(PLACEHOLDER));
        let usage = |message: &str| Err(Failure::new("usage", message));
        match (prompts.is_empty(), has_place) {
            (true, true) => usage(
                "the arguments have {prompt}, and no prompt is given; give --prompt TEXT or --prompts FILE",
            ),
            (false, false) => usage("no argument of PROGRAM has {prompt}, which is where each prompt is put"),
            (true, false) => Ok(vec![self.command.clone()]),
            (false, true) => Ok(prompts.iter().map(|prompt| self.with(prompt)).collect()),
        }
    }

    fn with(&self, prompt: &str) -> Vec<OsString> {
        let argument = |a: &OsString| match a.to_str() {
            Some(text) => text.replace(PLACEHOLDER, prompt).into(),
            None => a.clone(),
        };
        self.command.iter().map(argument).collect()
    }
}
