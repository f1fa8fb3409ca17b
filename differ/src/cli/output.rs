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
        Self::raw(visible(&text), code)
    }

    /// Text that goes out as it is.
    pub fn raw(text: String, code: u8) -> Self {
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
            Format::Json => Self::raw(json(report)?, code),
        })
    }

    /// The same, on stderr: where stdout belongs to another program.
    pub fn on_stderr(mut self) -> Self {
        self.to_stderr = true;
        self
    }
}

/// The text with its control characters made visible, except line ends, tabs and styles: stages, engines and
/// paths come from whoever recorded the run, and a terminal acts on what it is sent.
fn visible(text: &str) -> String {
    // The last are those that turn the direction of writing.
    let acts = |c: char| match c {
        '\n' | '\t' => false,
        _ => c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'),
    };
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(acts) {
        let (plain, from) = rest.split_at(at);
        out.push_str(plain);
        let mut after = from.chars();
        let Some(c) = after.next() else { break };
        match style(from) {
            Some(length) => {
                out.push_str(&from[..length]);
                rest = &from[length..];
            }
            None => {
                out.extend(c.escape_unicode());
                rest = after.as_str();
            }
        }
    }
    out.push_str(rest);
    out
}

/// Length of the style (SGR sequence) that a text begins with.
fn style(text: &str) -> Option<usize> {
    let parameters = text.strip_prefix("\x1b[")?;
    let end = parameters.find(|c: char| !c.is_ascii_digit() && c != ';')?;
    parameters[end..]
        .starts_with('m')
        .then_some("\x1b[".len() + end + 1)
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

    /// What is told of it.
    pub fn message(&self) -> &str {
        &self.message
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
    let written = if output.to_stderr {
        anstream::stderr().write_all(output.text.as_bytes())
    } else {
        let mut stdout = anstream::stdout();
        stdout
            .write_all(output.text.as_bytes())
            .and_then(|()| stdout.flush())
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
        (Format::Json, Ok(text)) => print(Output::raw(text, exit::ERROR)),
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
        let message = message.trim_start_matches("error: ").trim_end();
        return ExitCode::from(fail(&Failure::new("usage", message), Format::Json));
    }
    let _ = error.print();
    ExitCode::from(exit::ERROR)
}

#[cfg(test)]
mod tests {
    use super::visible;

    #[test]
    fn a_recorded_name_cannot_command_the_terminal() {
        let text = "\x1b[1;31m✗\x1b[0m a\x1b]0;title\x07b\u{202e}c\x1b[2Jd\r\n\te\x1b[";
        assert_eq!(
            visible(text),
            "\x1b[1;31m✗\x1b[0m a\\u{1b}]0;title\\u{7}b\\u{202e}c\\u{1b}[2Jd\\u{d}\n\te\\u{1b}["
        );
    }
}
