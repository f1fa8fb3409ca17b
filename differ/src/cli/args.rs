//! Arguments that several commands share.

use super::output::Failure;
use bitnet_diff::{
    Error,
    compare::{Options, Until},
    floor::Floor,
    mapping::Mapping,
    select::Span,
    tolerance::{Gates, Tolerance, ToleranceError},
};
use bitnet_trace_schema::{StageGraph, selection::Selection};
use bitnet_trace_store::Filter;
use clap::{Args, ValueEnum};
use std::path::{Path, PathBuf};

/// Which records to take.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Selection")]
pub struct Filters {
    /// Token positions: 3, 0-5 or 4-
    #[arg(long, value_name = "N|N-M", allow_negative_numbers = true)]
    pub seq: Option<Span>,
    /// Layers: 6, 0-5; -1 for what has none, -2 for all_layers_out
    #[arg(long, value_name = "N|N-M", allow_negative_numbers = true)]
    pub layer: Option<Span>,
    /// Stage, or a pattern with * and ?
    #[arg(long, value_name = "GLOB")]
    pub stage: Option<String>,
    /// Sequence of a batch
    #[arg(long, value_name = "N")]
    pub request: Option<i32>,
}

impl Filters {
    /// The filter of the store.
    pub fn filter(&self) -> Filter {
        Filter {
            seq: self.seq.map(|s| s.range()),
            layer: self.layer.map(|s| s.range_i32()),
            stage: self.stage.clone(),
            request: self.request,
        }
    }

    /// The filters as they stand on a command line; empty where nothing is left out.
    pub fn text(&self) -> String {
        let given = [
            self.seq.map(|s| format!("--seq {s}")),
            self.layer.map(|l| format!("--layer {l}")),
            self.stage.as_ref().map(|s| format!("--stage {s}")),
            self.request.map(|r| format!("--request {r}")),
        ];
        given.into_iter().flatten().collect::<Vec<_>>().join(" ")
    }
}

/// A selection, given as `what`.
pub fn selection(what: &str, expression: &str) -> Result<Selection, Failure> {
    expression.parse::<Selection>().map_err(|error| {
        let message = format!("{what} is wrong: {error}\n{}", error.excerpt());
        Failure::new("selection", message)
    })
}

/// A stored run that a program goes on with.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Replay")]
pub struct ReplayArgs {
    /// Leave as they are, and count, tensors that the replayed run lacks or has in another shape
    #[arg(long)]
    pub allow_partial: bool,
    /// The program is given another prompt than the replayed run on purpose
    #[arg(long)]
    pub other_prompt: bool,
}

/// What counts as a match.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Tolerance")]
pub struct ToleranceArgs {
    /// Largest relative L2, |b - a| / |a| with a = left [default: 1e-4]
    #[arg(long, value_name = "X")]
    rel_l2: Option<f64>,
    /// Largest absolute difference of an element
    #[arg(long, value_name = "X")]
    max_abs: Option<f64>,
    /// Largest |b - a| / max(|a|, |b|) of an element
    #[arg(long, value_name = "X")]
    max_rel: Option<f64>,
    /// Largest distance of an element in units in the last place (of f32, or f64 where f32 does not hold the type)
    #[arg(long, value_name = "N")]
    ulp: Option<u64>,
    /// Smallest cosine similarity; blind to a wrong scale, so give --rel-l2 beside it
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    cosine: Option<f64>,
    /// Every element must be equal
    #[arg(long)]
    exact: bool,
    /// TOML file with limits by stage, dtype and layer
    #[arg(long, value_name = "FILE", conflicts_with_all = ["rel_l2", "max_abs", "max_rel", "ulp", "cosine", "exact"])]
    tolerance: Option<PathBuf>,
}

impl ToleranceArgs {
    fn is_given(&self) -> bool {
        let gates = [self.rel_l2, self.max_abs, self.max_rel, self.cosine];
        self.exact || self.ulp.is_some() || self.tolerance.is_some() || gates.iter().any(Option::is_some)
    }

    fn read(&self) -> Result<Tolerance, Error> {
        if let Some(file) = &self.tolerance {
            return Ok(Tolerance::from_toml(&read(file)?, &name_of(file))?);
        }
        let gates = Gates {
            exact: self.exact,
            rel_l2: self.rel_l2,
            max_abs: self.max_abs,
            max_rel: self.max_rel,
            ulp: self.ulp,
            cosine: self.cosine,
        };
        match gates.check("the command line") {
            Ok(gates) => Ok(Tolerance::all(gates, "command line")),
            Err(ToleranceError::NoGate(_)) => Ok(Tolerance::default()),
            Err(error) => Err(error.into()),
        }
    }
}

/// When records are held against the exact result of their own recorded inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Local {
    /// Where no tolerance is given, the model file is at hand, and records differ by more than the default tolerance (or a
    /// floor is given).
    #[default]
    Auto,
    /// Always; it is an error where that cannot be.
    Always,
    /// Never.
    Never,
}

/// How pairs of records are judged.
#[derive(Debug, Clone, Args)]
pub struct JudgeArgs {
    /// Hold each record against the exact result of its own recorded inputs, computed from the model file; what cannot be
    /// told so is judged by the floor or the tolerance
    #[arg(
        long,
        value_enum,
        value_name = "WHEN",
        default_value_t,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "always",
        help_heading = "Tolerance"
    )]
    pub local: Local,
    /// The model file, for --local [default: the one that the runs name]
    #[arg(long, value_name = "FILE", help_heading = "Tolerance")]
    pub model: Option<PathBuf>,
    /// Judge by a floor that `calibrate` measured on sound runs, and by the tolerance only where it has nothing
    #[arg(long, value_name = "FILE", help_heading = "Tolerance")]
    floor: Option<PathBuf>,
    /// Compute the hash of each record again: elements that do not have it are an error
    #[arg(long, help_heading = None)]
    verify: bool,
}

impl JudgeArgs {
    /// Whether records are judged by their own inputs, if that can be.
    pub fn wants_local(&self, compare: &CompareArgs) -> bool {
        match self.local {
            Local::Auto => !compare.tolerance.is_given(),
            Local::Always => true,
            Local::Never => false,
        }
    }

    /// The library's options, of what is judged and how.
    pub fn options(&self, compare: &CompareArgs, until: Until) -> Result<Options, Failure> {
        Ok(Options {
            floor: self.floor.as_deref().map(floor).transpose()?,
            verify: self.verify,
            until,
            ..compare.options()?
        })
    }
}

/// What tensors are called.
#[derive(Debug, Clone, Default, Args)]
pub struct Naming {
    /// TOML file with stages and aliases of your own
    #[arg(long, value_name = "FILE", help_heading = None)]
    stages: Option<PathBuf>,
    /// TOML file that gives the tensors of either run stages, layers and layouts, such as `align` writes
    #[arg(long, value_name = "FILE", help_heading = None)]
    mapping: Option<PathBuf>,
}

impl Naming {
    /// The vocabulary.
    pub fn graph(&self) -> Result<StageGraph, Failure> {
        graph(self.stages.as_deref())
    }

    /// The mapping, where there is one.
    pub fn mapping(&self) -> Result<Option<Mapping>, Failure> {
        let Some(file) = &self.mapping else {
            return Ok(None);
        };
        let mapping = Mapping::from_toml(&read(file)?, &name_of(file)).map_err(Error::from)?;
        Ok(Some(mapping))
    }
}

/// How two runs are compared.
#[derive(Debug, Clone, Args)]
pub struct CompareArgs {
    #[command(flatten)]
    pub filters: Filters,
    #[command(flatten)]
    tolerance: ToleranceArgs,
    /// Take NaN at the same places on both sides as a match
    #[arg(long, help_heading = "Tolerance")]
    nan_equal: bool,
    /// Accept runs that are incomplete, and records that cannot be compared
    #[arg(long, help_heading = "Tolerance")]
    allow_incomplete: bool,
    #[command(flatten)]
    naming: Naming,
    /// What to call the two sides
    #[arg(long, value_name = "LEFT,RIGHT", value_parser = labels, help_heading = None)]
    pub labels: Option<(String, String)>,
    /// Threads; 0 is one for each core
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = None)]
    threads: usize,
}

impl CompareArgs {
    /// The library's options.
    pub fn options(&self) -> Result<Options, Failure> {
        Ok(Options {
            tolerance: self.tolerance.read()?,
            floor: None,
            nan_equal: self.nan_equal,
            allow_incomplete: self.allow_incomplete,
            request: self.filters.request,
            last_seq: self.filters.seq.map(|s| s.last),
            threads: self.threads,
            ..Options::default()
        })
    }

    /// The vocabulary.
    pub fn graph(&self) -> Result<StageGraph, Failure> {
        self.naming.graph()
    }

    /// The mapping, where there is one.
    pub fn mapping(&self) -> Result<Option<Mapping>, Failure> {
        self.naming.mapping()
    }
}

fn name_of(file: &Path) -> String {
    file.file_name()
        .map_or_else(String::new, |n| n.to_string_lossy().into_owned())
}

/// The built-in vocabulary, with a user's additions.
pub fn graph(file: Option<&Path>) -> Result<StageGraph, Failure> {
    let builtin = StageGraph::builtin();
    match file {
        None => Ok(builtin),
        Some(file) => Ok(builtin.extended(&read(file)?).map_err(Error::from)?),
    }
}

/// A floor, and the name of its file.
fn floor(file: &Path) -> Result<(Floor, String), Error> {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    Ok((Floor::from_toml(&read(file)?)?, name.into_owned()))
}

/// Reads a text file.
pub fn read(file: &Path) -> Result<String, Error> {
    std::fs::read_to_string(file).map_err(|source| Error::Io {
        action: "read",
        path: file.to_owned(),
        source,
    })
}

/// Two names with a comma between them.
pub fn labels(text: &str) -> Result<(String, String), String> {
    match text.split_once(',').map(|(l, r)| (l.trim(), r.trim())) {
        Some((left, right)) if !left.is_empty() && !right.is_empty() => Ok((left.into(), right.into())),
        _ => Err("give two names with a comma between them, such as Rust,C++".into()),
    }
}
