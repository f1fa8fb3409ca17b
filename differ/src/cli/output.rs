//! Streams and exit codes. A result goes to stdout in one piece; a closed pipe is not an error, since
//! whoever closed it has read what they wanted.

use bitnet_diff::{
    Error, exit,
    report::{ErrorReport, ErrorView},
};
use clap::ValueEnum;
use serde::Serialize;
use std::{
    any::Any,
    io::{ErrorKind, Write},
    process::ExitCode,
};

/// How a result is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON document on stdout and nothing else; schemas/*.schema.json describe it.
    Json,
}

/// A result and the exit code that says what it came to.
pub struct Output {
    text: String,
    code: u8,
    to_stderr: bool,
}

impl Output {
    /// Text with ANSI styles, which are stripped where they do not belong.
    pub fn text(text: String, code: u8) -> Self {
        Self {
            text,
            code,
            to_stderr: false,
        }
    }

    /// A result in either format.
    pub fn new(
        format: Format,
        report: &impl Serialize,
        text: impl FnOnce() -> String,
        code: u8,
    ) -> Result<Self, Failure> {
        Ok(match format {
            Format::Text => Self::text(text(), code),
            Format::Json => Self::text(json(report)?, code),
        })
    }

    /// The same, on stderr: where stdout belongs to another program.
    pub fn on_stderr(mut self) -> Self {
        self.to_stderr = true;
        self
    }
}

fn json(report: &impl Serialize) -> Result<String, Failure> {
    let mut text = serde_json::to_string_pretty(report).map_err(|e| Failure::new("json", e.to_string()))?;
    text.push('\n');
    Ok(text)
}

/// Why a command has no result.
#[derive(Debug)]
pub struct Failure {
    kind: &'static str,
    message: String,
}

impl Failure {
    /// A failure by its name in JSON and its message.
    pub fn new(kind: &'static str, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    /// A defect of this program.
    pub fn internal(panic: &(dyn Any + Send)) -> Self {
        let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
        let text = text
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_default();
        Self::new(
            "internal",
            format!("internal error: {text}; this is a defect of bitnet-diff, please report it"),
        )
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::new(error.kind(), error.to_string())
    }
}

impl From<bitnet_trace_store::StoreError> for Failure {
    fn from(error: bitnet_trace_store::StoreError) -> Self {
        Error::from(error).into()
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new("failed", format!("{error:#}"))
    }
}

/// Prints a result; the exit code is the result's, or 2 if it could not be printed.
pub fn print(output: Output) -> u8 {
    let bytes = output.text.as_bytes();
    let written = if output.to_stderr {
        anstream::stderr().write_all(bytes)
    } else {
        let mut stdout = anstream::stdout();
        stdout.write_all(bytes).and_then(|()| stdout.flush())
    };
    match written {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            let _ = writeln!(anstream::stderr(), "error: cannot write the result: {error}");
            exit::ERROR
        }
        _ => output.code,
    }
}

/// Prints why there is no result: as a JSON document on stdout, or as text on stderr.
pub fn fail(failure: &Failure, format: Format) -> u8 {
    let report = ErrorReport {
        status: bitnet_diff::compare::Status::Error,
        error: ErrorView {
            kind: failure.kind,
            message: failure.message.clone(),
        },
    };
    match (format, json(&report)) {
        (Format::Json, Ok(text)) => print(Output::text(text, exit::ERROR)),
        _ => {
            let bad = anstyle::AnsiColor::Red.on_default().bold();
            let text = format!("{bad}error:{bad:#} {}\n", failure.message);
            print(Output::text(text, exit::ERROR).on_stderr())
        }
    }
}

/// Help and version go to stdout with code 0, usage errors to stderr with code 2; and to stdout as well
/// where JSON was asked for.
pub fn usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        let _ = error.print();
        return ExitCode::from(exit::MATCH);
    }
    let args: Vec<_> = std::env::args_os().skip(1).take_while(|a| a != "--").collect();
    let json = args.iter().any(|a| a == "--format=json")
        || args.windows(2).any(|w| w[0] == "--format" && w[1] == "json");
    if json {
        let message = error.render().to_string();
        return ExitCode::from(fail(&Failure::new("usage", message.trim_end()), Format::Json));
    }
    let _ = error.print();
    ExitCode::from(exit::ERROR)
}
