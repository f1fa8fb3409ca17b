use crate::{FORMAT_VERSION, run_dir};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `run.json`: what is known of a run beside its tensors.
///
/// Written when the run begins (state [`RunState::Recording`]) and again when it ends. Unknown fields
/// are ignored, so that a later minor version may add some; what a reader must understand stands in
/// `required_features`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT_VERSION`].
    pub format_version: u32,
    /// Features a reader must know to read the run rightly. Empty in version 1.
    #[serde(default)]
    pub required_features: Vec<String>,
    /// The run's name; the directory is `run=<name>`.
    pub run: String,
    /// Where the run is in its life.
    pub state: RunState,
    /// Why the recorder or the engine gave up, in state `failed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// Start of the run, Unix time in milliseconds.
    pub created_unix_ms: u64,
    /// End of the run, Unix time in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_unix_ms: Option<u64>,
    /// The recording process.
    pub owner: Owner,
    /// The program that wrote the run.
    pub writer: Writer,
    /// The engine whose tensors these are.
    pub engine: Engine,
    /// The process's command line.
    #[serde(default)]
    pub command_line: Vec<String>,
    /// The model, where the engine told it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<Model>,
    /// How the engine was set up.
    #[serde(default)]
    pub settings: Settings,
    /// The prompt's text, where the engine told it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// Number of tokens of the prompt of request 0; the ids after them were generated or forced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_tokens: Option<u64>,
    /// Token ids by position, one entry a request.
    #[serde(default)]
    pub sequences: Vec<Sequence>,
    /// Whether values or only statistics are kept.
    pub values: ValuesMode,
    /// What the recorder does when its queue is full, and how much it does against a crash.
    #[serde(default)]
    pub preset: Preset,
    /// Most bytes of tensors that waited for the writer: more than this a crash cannot lose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_bytes: Option<u64>,
    /// The selection in force (`BITNET_TRACE_SELECT`), if not everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selection: Option<String>,
    /// The files that the run was made from, if no recorder wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub imported: Option<Imported>,
    /// The stored run whose tensors the engine went on with in place of its own, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay: Option<Replayed>,
    /// How recording may have touched the engine's numbers.
    #[serde(default)]
    pub observation: Observation,
    /// Records in the sealed parts.
    #[serde(default)]
    pub records: u64,
    /// Tensors that were offered but not recorded.
    #[serde(default)]
    pub dropped: Dropped,
    /// The sealed parts, in order.
    #[serde(default)]
    pub parts: Vec<PartEntry>,
    /// What a reader saved after the process died, in state `recovered`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<Recovery>,
}

/// Where a run is in its life. `FORMAT.md` has the diagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// Being written; or, if its owner is dead, crashed.
    Recording,
    /// Ended by the engine; every part is sealed.
    Complete,
    /// The recorder gave up, or the engine did; what was sealed is valid.
    Failed,
    /// The process died, and a reader sealed what its journal had kept.
    Recovered,
}

impl RunState {
    /// The word in `run.json`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Recording => "recording",
            Self::Complete => "complete",
            Self::Failed => "failed",
            Self::Recovered => "recovered",
        }
    }
}

/// The recording process, so that a reader can tell a live run from a crashed one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Process id.
    pub pid: u32,
    /// When the process started, in clock ticks since boot (0 where unknown): pids are used again.
    #[serde(default)]
    pub start_ticks: u64,
    /// The boot's id (empty where unknown): pids are used again.
    #[serde(default)]
    pub boot_id: String,
    /// Name of the machine (empty where unknown): a process of another one cannot be looked for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub host: String,
}

/// The program that wrote the run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Writer {
    /// Package name.
    pub name: String,
    /// Package version.
    pub version: String,
}

/// The engine whose tensors were recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Engine {
    /// The engine's name, such as `llama.cpp`.
    pub name: String,
    /// The engine's version.
    #[serde(default)]
    pub version: String,
}

impl Engine {
    /// An engine's name and version.
    pub fn new(name: impl Into<String>, version: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            version: version.into(),
        }
    }
}

/// The model that the engine ran.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Model {
    /// Path of the model file, as given to the engine.
    #[serde(default)]
    pub path: String,
    /// BLAKE3 of the model file: 64 hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blake3: Option<String>,
    /// Size of the model file in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Architecture (`general.architecture` of a GGUF).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arch: Option<String>,
    /// Number of weight tensors of each type, such as `{"F32": 61, "Q4_1": 210}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub weight_types: BTreeMap<String, u64>,
    /// BLAKE3 of the tokenizer file, where it is not the model file itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer_blake3: Option<String>,
}

/// How the engine was set up: what changes its numbers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Settings {
    /// Compute threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<u32>,
    /// Most tokens of one forward call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<u32>,
    /// Element type of the KV cache, as a dtype name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_type: Option<String>,
    /// Whether attention was computed by a fused (flash attention) kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flash_attention: Option<bool>,
    /// A fault that was planted on purpose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    /// Whatever else the engine told, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, String>,
}

/// The token ids of one request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sequence {
    /// The request, as in the `request` column.
    pub request: i32,
    /// Id at each position from 0; null where the recorder was not told.
    pub ids: Vec<Option<i32>>,
    /// How often a position was given another id than before (a rewound sequence). `ids` has the last.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rewrites: u64,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// What a run keeps of each tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ValuesMode {
    /// Every element.
    #[default]
    Full,
    /// Hash and statistics.
    Stats,
}

/// What a recorder does when its queue is full, and how much it does against a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// The engine waits for the writer. Survives the end of the process, however it ends.
    #[default]
    Default,
    /// The engine never waits: tensors that find the queue full are dropped and counted.
    Lossy,
    /// As the default, and what is written survives a power loss too: every batch goes to the disk.
    Durable,
}

impl Preset {
    /// Every preset.
    pub const ALL: [Self; 3] = [Self::Default, Self::Lossy, Self::Durable];

    /// Its word, as in the manifest and the environment.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Lossy => "lossy",
            Self::Durable => "durable",
        }
    }
}

impl std::str::FromStr for Preset {
    type Err = String;

    /// # Errors
    /// What the words are.
    fn from_str(word: &str) -> Result<Self, String> {
        (Self::ALL.into_iter().find(|p| p.name() == word))
            .ok_or_else(|| format!("{word:?} is none of \"default\", \"lossy\" and \"durable\""))
    }
}

/// Files of another format that a run was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imported {
    /// Their format: [`TRACE`](Imported::TRACE).
    pub format: String,
    /// Their paths, in the order in which they were read.
    pub files: Vec<String>,
}

impl Imported {
    /// The format of [`trace_file`](crate::trace_file): such a run's records have a hash, an rms and whatever
    /// other statistics the files held, and are compared by these only.
    pub const TRACE: &str = "trace";
}

/// What was replayed in a run: tensors of a stored run that the engine went on with in place of those that it had
/// computed, and that this run holds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Replayed {
    /// The stored run's name.
    pub run: String,
    /// Its directory, as it was given.
    #[serde(default)]
    pub path: String,
    /// Its start, Unix time in milliseconds: names are used again.
    #[serde(default)]
    pub created_unix_ms: u64,
    /// Which records were to be replayed (`BITNET_TRACE_REPLAY_AT`), if not all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// Whether records that the stored run lacks were left as the engine computed them.
    #[serde(default)]
    pub partial: bool,
    /// Whether the engine was meant to be given other token ids than the stored run.
    #[serde(default)]
    pub other_prompt: bool,
    /// Records that were replaced.
    #[serde(default)]
    pub injected: u64,
    /// Records that were to be replaced and that the stored run lacks, or has in another shape (with `partial`).
    #[serde(default)]
    pub skipped: u64,
    /// Records of rows that the stored run's engine did not compute, since nothing follows from them.
    #[serde(default)]
    pub pruned: u64,
}

/// How recording may have touched the engine's numbers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Observation {
    /// Whether an evaluation callback split the graph.
    #[serde(default)]
    pub graph_split: bool,
    /// Whether positions were counted because the graph did not show them.
    #[serde(default)]
    pub positions_counted: bool,
    /// Whether operators that the engine otherwise fuses may have been computed apart; absent where nobody told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fusion_may_differ: Option<bool>,
    /// Whether another number of threads may have computed than without recording; absent where nobody told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads_may_differ: Option<bool>,
}

/// Tensors that were offered but not recorded, by reason.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Dropped {
    /// All of them.
    #[serde(default)]
    pub total: u64,
    /// Count of each reason, in words.
    #[serde(default)]
    pub reasons: BTreeMap<String, u64>,
}

/// One sealed part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartEntry {
    /// File name in the run's directory.
    pub file: String,
    /// Rows.
    pub rows: u64,
    /// File size in bytes.
    pub bytes: u64,
}

/// What a reader saved of a run whose process died.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovery {
    /// When it began, Unix time in milliseconds.
    pub unix_ms: u64,
    /// The program that did it.
    pub program: Writer,
    /// The parts that were open.
    pub parts: Vec<RecoveredPart>,
}

/// What was saved of a part that was open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveredPart {
    /// File name that the part has when it is sealed.
    pub file: String,
    /// Records that were saved. The part is gone where there was none.
    pub records: u64,
    /// Bytes at the end of the part's file that belonged to no record that was saved.
    pub cut_bytes: u64,
    /// Why not all that the journal has was used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// Why a manifest could not be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON, or not of this shape.
    #[error("the manifest is not valid: {0}")]
    Json(#[from] serde_json::Error),
    /// A version that this program does not know.
    #[error(
        "the run has format version {0}, this program reads version {FORMAT_VERSION}; use a newer bitnet-diff"
    )]
    Version(u32),
    /// Features that this program does not know.
    #[error("the run needs the features {0:?}, which this program does not know; use a newer bitnet-diff")]
    Features(Vec<String>),
    /// A run name that is not one.
    #[error("the manifest names the run {0:?}, which is not a valid run name")]
    RunName(String),
    /// A part outside the run's directory, or not a part.
    #[error("the manifest lists the part {0:?}, which is not a part's file name")]
    PartName(String),
}

impl Manifest {
    /// Reads and checks a manifest.
    ///
    /// # Errors
    /// [`ManifestError`], one variant for each way it can be unusable.
    pub fn from_json(bytes: &[u8]) -> Result<Self, ManifestError> {
        /// What must be read first: another version's manifest may have another shape.
        #[derive(Deserialize)]
        struct Head {
            format_version: u32,
            #[serde(default)]
            required_features: Vec<String>,
        }
        let head: Head = serde_json::from_slice(bytes)?;
        if head.format_version != FORMAT_VERSION {
            return Err(ManifestError::Version(head.format_version));
        }
        if !head.required_features.is_empty() {
            return Err(ManifestError::Features(head.required_features));
        }
        let manifest: Self = serde_json::from_slice(bytes)?;
        if !run_dir::is_run_name(&manifest.run) {
            return Err(ManifestError::RunName(manifest.run));
        }
        let recovered = manifest.recovery.iter().flat_map(|r| &r.parts);
        let mut files = (manifest.parts.iter().map(|p| &p.file)).chain(recovered.map(|p| &p.file));
        if let Some(file) = files.find(|file| run_dir::part_index(file).is_none()) {
            return Err(ManifestError::PartName(file.clone()));
        }
        Ok(manifest)
    }

    /// The manifest as JSON text that ends with a newline.
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Manifest {
        Manifest {
            format_version: FORMAT_VERSION,
            required_features: vec![],
            run: "cpp".into(),
            state: RunState::Complete,
            failure: None,
            created_unix_ms: 1,
            finished_unix_ms: Some(2),
            owner: Owner {
                pid: 1,
                start_ticks: 2,
                boot_id: String::new(),
                host: "here".into(),
            },
            writer: Writer {
                name: "bitnet-trace".into(),
                version: "0.1.0".into(),
            },
            engine: Engine::new("llama.cpp", "b1"),
            command_line: vec![],
            model: Some(Model::default()),
            settings: Settings::default(),
            prompt: Some("hi".into()),
            prompt_tokens: Some(1),
            sequences: vec![Sequence {
                request: 0,
                ids: vec![Some(3), None],
                rewrites: 0,
            }],
            values: ValuesMode::Full,
            preset: Preset::Lossy,
            queue_bytes: Some(1 << 20),
            selection: None,
            imported: Some(Imported {
                format: Imported::TRACE.into(),
                files: vec!["a.trace".into()],
            }),
            replay: Some(Replayed {
                run: "rust".into(),
                path: "traces/run=rust".into(),
                created_unix_ms: 1,
                at: Some("stage=layer_out".into()),
                partial: true,
                other_prompt: true,
                injected: 1,
                skipped: 2,
                pruned: 3,
            }),
            observation: Observation::default(),
            records: 1,
            dropped: Dropped::default(),
            parts: vec![PartEntry {
                file: run_dir::part_name(0),
                rows: 1,
                bytes: 9,
            }],
            recovery: Some(Recovery {
                unix_ms: 3,
                program: Writer {
                    name: "bitnet-diff".into(),
                    version: "0.1.0".into(),
                },
                parts: vec![RecoveredPart {
                    file: run_dir::part_name(0),
                    records: 1,
                    cut_bytes: 2,
                    problem: Some("torn".into()),
                }],
            }),
        }
    }

    #[test]
    fn a_manifest_survives_its_json() {
        let m = sample();
        assert_eq!(Manifest::from_json(m.to_json().as_bytes()).expect("valid"), m);
    }

    #[test]
    fn a_manifest_validates_against_its_schema() {
        let schema: serde_json::Value =
            serde_json::from_str(include_str!("../run.schema.json")).expect("JSON");
        let validator = jsonschema::validator_for(&schema).expect("a schema");
        let errors: Vec<_> = validator
            .iter_errors(&serde_json::to_value(sample()).expect("JSON"))
            .map(|e| e.to_string())
            .collect();
        assert!(errors.is_empty(), "{errors:?}");
    }

    #[test]
    fn every_malformed_manifest_has_its_own_error() {
        let edit = |f: &dyn Fn(&mut serde_json::Value)| {
            let mut v = serde_json::to_value(sample()).expect("JSON");
            f(&mut v);
            Manifest::from_json(v.to_string().as_bytes()).expect_err("refused")
        };
        assert!(matches!(Manifest::from_json(b"{"), Err(ManifestError::Json(_))));
        assert!(matches!(Manifest::from_json(b"[]"), Err(ManifestError::Json(_))));
        assert!(matches!(
            edit(&|v| v["format_version"] = 2.into()),
            ManifestError::Version(2)
        ));
        assert!(matches!(
            edit(&|v| v["required_features"] = serde_json::json!(["x"])),
            ManifestError::Features(_)
        ));
        assert!(matches!(
            edit(&|v| v["run"] = "../x".into()),
            ManifestError::RunName(_)
        ));
        assert!(matches!(
            edit(&|v| v["parts"][0]["file"] = "../../etc".into()),
            ManifestError::PartName(_)
        ));
        assert!(matches!(
            edit(&|v| v["recovery"]["parts"][0]["file"] = "../part-00000.parquet".into()),
            ManifestError::PartName(_)
        ));
        assert!(matches!(
            edit(&|v| v["state"] = "done".into()),
            ManifestError::Json(_)
        ));
    }
}
