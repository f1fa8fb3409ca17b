use super::{
    args::{Filters, selection},
    open,
    output::{Failure, Format, Output},
};
use bitnet_diff::{Error, StoredRecords, exit, exporting::ExportReport, plan::Key, records::Records, render};
use bitnet_trace_store::export::{self, Existing, ExportError, Exported};
use std::path::{Path, PathBuf};

/// Records of several keys that an error lists.
const LISTED: usize = 3;

/// Take records out of a run: .npy files for NumPy, or a .trace file
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    bitnet-diff export traces/run=cpp --seq 3 --layer 6 --stage attn_out --npy x.npy\n  \
    bitnet-diff export traces/run=cpp --select 'seq=0-2,stage=attn_*;stage=logits' --npy arrays/\n  \
    bitnet-diff export traces/run=rust --trace rust.trace\n\n\
    A path that ends with .npy gets one record; any other is a folder with a file for each\n\
    record. Each array has the record's shape, and its dtype where NumPy has that (BF16\n\
    becomes float32). A .trace file has a line a record: hash and statistics, no values.\n\
    Exit codes: 0 exported, 2 error.")]
#[command(group(clap::ArgGroup::new("to").required(true)))]
pub struct Args {
    /// A run, or a database, whose newest run is taken
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// Write arrays: to a file of this name, or into a folder
    #[arg(long, value_name = "FILE|DIR", group = "to")]
    npy: Option<PathBuf>,
    /// Write a .trace file; - is stdout
    #[arg(long, value_name = "FILE", group = "to")]
    trace: Option<PathBuf>,
    /// Write what the name says: *.npy, *.trace or *.jsonl, else arrays into a folder
    #[arg(short, long, value_name = "FILE|DIR", group = "to")]
    output: Option<PathBuf>,
    #[command(flatten)]
    filters: Filters,
    /// Take what this selection takes, such as 'seq=0-2,layer=6,stage=attn_*;layer=-1'
    #[arg(long, value_name = "EXPR", help_heading = "Selection")]
    select: Option<String>,
    /// Replace files that exist
    #[arg(long, help_heading = None)]
    force: bool,
    /// How to print the result
    #[arg(long, value_enum, default_value_t, help_heading = None)]
    pub format: Format,
}

/// Where to, and as what.
enum To {
    Npy(PathBuf),
    Trace(PathBuf),
}

impl Args {
    fn to(&self) -> To {
        let extension = |path: &Path| path.extension().is_some_and(|e| e == "trace" || e == "jsonl");
        match (&self.npy, &self.trace, &self.output) {
            (Some(path), ..) => To::Npy(path.clone()),
            (_, Some(path), _) => To::Trace(path.clone()),
            (.., Some(path)) if extension(path) => To::Trace(path.clone()),
            (.., path) => To::Npy(path.clone().unwrap_or_default()),
        }
    }
}

pub fn run(args: Args) -> Result<Output, Failure> {
    let selection = args
        .select
        .as_deref()
        .map(|s| selection("--select", s))
        .transpose()?;
    let (records, note) = open::stored(&args.run, &args.filters, selection.as_ref())?;
    let existing = if args.force {
        Existing::Replace
    } else {
        Existing::Keep
    };
    let files = match args.to() {
        To::Npy(path) => npy(&records, &path, existing)?,
        To::Trace(path) if path == Path::new("-") => return stdout(&records, args.format),
        To::Trace(path) => vec![export::trace(&records.rows().to_vec(), &path, existing)?],
    };
    let mut report = ExportReport::of(&records, &files);
    report.notes.splice(0..0, note);
    Output::new(args.format, &report, || render::export(&report), exit::MATCH)
}

fn stdout(records: &StoredRecords, format: Format) -> Result<Output, Failure> {
    if format == Format::Json {
        let message = "--trace - and --format json both want stdout; give a file";
        return Err(Failure::new("usage", message));
    }
    let text = records.rows().to_vec().iter().map(export::line).collect();
    Ok(Output::raw(text, exit::MATCH))
}

fn npy(records: &StoredRecords, path: &Path, existing: Existing) -> Result<Vec<Exported>, Failure> {
    let rows = &*records.rows().to_vec();
    if path.is_dir() || path.extension().is_none_or(|e| e != "npy") {
        return Ok(export::npy_files(records.run(), rows, path, existing)?);
    }
    let [row] = rows else {
        let keys = (0..rows.len().min(LISTED)).map(|row| Key::of(records.meta(row)).to_string());
        let message = format!(
            "{} records are selected, and {} holds one: {}, ...; narrow the selection, or give a folder",
            rows.len(),
            path.display(),
            keys.collect::<Vec<_>>().join("; ")
        );
        return Err(Failure::new("several_records", message));
    };
    Ok(vec![export::npy(records.run(), row, path, existing)?])
}

impl From<ExportError> for Failure {
    fn from(error: ExportError) -> Self {
        match error {
            ExportError::Store(error) => Error::from(error).into(),
            ExportError::Exists { .. } => Self::new("exists", error.to_string()),
            ExportError::NoValues { .. } => Self::new("no_values", error.to_string()),
            other => Self::new("io", other.to_string()),
        }
    }
}
