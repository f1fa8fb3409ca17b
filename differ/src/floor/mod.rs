//! How far apart sound runs are, stage by stage, and verdicts against that.
//!
//! Two engines that are both right differ: by 1e-6 on F32 weights, by percents on quantised ones, more with every
//! layer. A [`Floor`] is measured on such runs ([`calibrate()`]) and tells two things of each stage of each layer: how
//! large its relative L2 is, and how much of that is *gain*, its error in proportion to that of its inputs. The gain is
//! what tells an origin from a symptom: an error that came in with the inputs leaves with a gain that sound runs have
//! too, however large it is.
//!
//! Single records scatter far; medians over positions do not. So a run is judged by the largest median of some windows
//! of positions ([`scan`]), against what the same statistic came to on sound runs of other prompts, and a single record
//! only where it is far beyond the largest of any sound one ([`judge`]).

pub mod calibrate;
pub mod judge;
mod level;
mod report;
pub mod scan;
pub mod tracks;

pub use calibrate::{Calibration, calibrate};
pub use judge::{Drift, FloorReason, Judgement};
pub use level::{LONE_MARGIN, Level, MARGIN, SPREADS, TINY};
pub use report::{CalibrateReport, StageFloor};

use crate::{num, records::Side, report::Note};
use bitnet_trace_schema::Manifest;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// Version of the file.
const VERSION: u32 = 1;

/// Prompts that a floor should rest on: with one, every rule that was tried alarmed on sound runs.
pub const ENOUGH_PROMPTS: usize = 5;

/// What sound runs of one model differ by. A TOML file, written by `calibrate` and read by `--floor`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Floor {
    version: u32,
    /// Different prompts among the runs.
    pub prompts: usize,
    /// Pairs of runs of one prompt that were compared.
    pub pairs: usize,
    /// The runs that it was measured on.
    #[serde(rename = "run")]
    pub runs: Vec<Source>,
    /// One entry for each stage of each layer that was compared.
    #[serde(rename = "stage")]
    pub stages: Vec<Entry>,
}

/// A run that a floor was measured on: what of it changes an engine's numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// The run's name.
    pub name: String,
    /// Which of the prompts, from 0.
    pub prompt: usize,
    /// Engine and version.
    pub engine: String,
    /// BLAKE3 of the model file, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Threads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<u32>,
    /// Type of the KV cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kv_type: Option<String>,
    /// Flash attention.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flash_attention: Option<bool>,
}

impl Source {
    fn of(name: &str, prompt: usize, manifest: &Manifest) -> Self {
        let settings = &manifest.settings;
        Self {
            name: name.to_owned(),
            prompt,
            engine: engine(manifest),
            model: manifest.model.as_ref().and_then(|m| m.blake3.clone()),
            threads: settings.threads,
            kv_type: settings.kv_type.clone(),
            flash_attention: settings.flash_attention,
        }
    }
}

impl Source {
    /// Whether what changes an engine's numbers is the same, as far as both tell; the threads aside.
    fn is_like(&self, other: &Self) -> bool {
        fn agree<T: PartialEq>(a: &Option<T>, b: &Option<T>) -> bool {
            a.is_none() || b.is_none() || a == b
        }
        self.engine == other.engine
            && agree(&self.kv_type, &other.kv_type)
            && agree(&self.flash_attention, &other.flash_attention)
    }

    fn setting(&self) -> String {
        let kv = self.kv_type.as_ref().map(|t| format!(", KV cache {t}"));
        let flash = self.flash_attention.filter(|&on| on).map(|_| ", flash attention");
        format!(
            "{}{}{}",
            self.engine,
            kv.unwrap_or_default(),
            flash.unwrap_or_default()
        )
    }
}

fn engine(manifest: &Manifest) -> String {
    let engine = &manifest.engine;
    format!("{} {}", engine.name, engine.version)
        .trim_end()
        .to_owned()
}

/// The floor of one stage of one layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The stage.
    pub stage: String,
    /// The layer.
    pub layer: i32,
    /// Prompts that it was compared on.
    pub prompts: usize,
    /// Pairs of records that were compared.
    pub records: u64,
    /// Relative L2.
    pub error: Level,
    /// Relative L2 in proportion to that of the inputs.
    pub gain: Level,
}

/// Why a file is not a floor.
#[derive(Debug, thiserror::Error)]
pub enum FloorError {
    /// Not TOML, or with a key or value that is not known. The message names the key and the line.
    #[error("the floor file is not valid: {0}; `bitnet-diff calibrate` writes one")]
    Toml(#[from] toml::de::Error),
    /// Written by another version of the program.
    #[error("the floor file has version {0}, this program reads version {VERSION}; calibrate again")]
    Version(u32),
    /// A number that is none, is negative, or is not in order.
    #[error("the floor of stage {stage}, layer {layer} is not valid: {what}")]
    Level {
        /// The stage.
        stage: String,
        /// The layer.
        layer: i32,
        /// What is wrong.
        what: &'static str,
    },
    /// It says nothing.
    #[error("the floor file has no [[stage]] entry; calibrate again")]
    Empty,
}

impl Floor {
    /// Reads a floor file.
    ///
    /// # Errors
    /// [`FloorError`], one variant for each way the file can be unusable.
    pub fn from_toml(text: &str) -> Result<Self, FloorError> {
        // The version first: a later one may have other keys.
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let Version { version } = toml::from_str(text)?;
        if version != VERSION {
            return Err(FloorError::Version(version));
        }
        let floor: Self = toml::from_str(text)?;
        if floor.stages.is_empty() {
            return Err(FloorError::Empty);
        }
        for entry in &floor.stages {
            for level in [&entry.error, &entry.gain] {
                level.check().map_err(|what| FloorError::Level {
                    stage: entry.stage.clone(),
                    layer: entry.layer,
                    what,
                })?;
            }
        }
        Ok(floor)
    }

    /// The file.
    ///
    /// # Errors
    /// A message, where a name cannot be written as TOML.
    pub fn to_toml(&self) -> Result<String, String> {
        let head = "# How far apart sound runs are: written by `bitnet-diff calibrate`, read by `--floor`.\n\
            # error: relative L2; gain: the same in proportion to that of the inputs. Of records: median and max;\n\
            # high: largest scan (median over windows of positions) of a prompt; spread: standard deviation of its logarithm.\n";
        toml::to_string(self)
            .map(|body| format!("{head}{body}"))
            .map_err(|e| e.to_string())
    }

    /// What a reader of a verdict on `sides` should know of the floor.
    pub fn notes(&self, sides: &[&Side<'_>]) -> Vec<Note> {
        let mut notes = Vec::new();
        let mut note = |message| {
            notes.push(Note {
                kind: "floor",
                message,
            });
        };
        if self.prompts < ENOUGH_PROMPTS {
            let prompts = num::plural(self.prompts as u64, "prompt");
            note(format!(
                "the floor rests on {prompts}; below {ENOUGH_PROMPTS}, expect false alarms"
            ));
        }
        for side in sides {
            let this = Source::of(side.name, 0, side.manifest);
            let models = || self.runs.iter().filter_map(|r| r.model.as_ref());
            let model = this.model.as_ref();
            if model.is_some_and(|of_run| models().next().is_some() && models().all(|m| m != of_run)) {
                note(format!(
                    "the floor was measured on another model file than that of {}",
                    side.name
                ));
            } else if !self.runs.iter().any(|r| r.is_like(&this)) {
                let what = this.setting();
                note(format!(
                    "the floor was measured on no run like {} ({what})",
                    side.name
                ));
            }
        }
        notes
    }

    /// Entries by layer and stage.
    fn by_place(&self) -> HashMap<(i32, &str), &Entry> {
        let entries = self.stages.iter();
        entries.map(|e| ((e.layer, e.stage.as_str()), e)).collect()
    }
}
