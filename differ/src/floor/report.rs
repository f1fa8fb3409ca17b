//! What `calibrate` tells.

use super::{Calibration, Floor};
use crate::{compare::Status, num, report::Note};
use bitnet_trace_schema::StageGraph;
use serde::Serialize;
use std::collections::BTreeMap;

/// A calibration, in brief: the file has all of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CalibrateReport {
    /// Always [`Status::Ok`].
    pub status: Status,
    /// The file that was written.
    pub floor: String,
    /// Different prompts among the runs.
    pub prompts: usize,
    /// Pairs of runs that were compared.
    pub pairs: usize,
    /// Runs that were compared.
    pub runs: usize,
    /// Every stage, in causal order.
    pub stages: Vec<StageFloor>,
    /// What the user should know.
    pub notes: Vec<Note>,
}

/// The floor of a stage over its layers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StageFloor {
    /// The stage.
    pub stage: String,
    /// Layers.
    pub layers: usize,
    /// Median relative L2 of the first layer.
    #[serde(serialize_with = "num::json")]
    pub first: f64,
    /// Median relative L2 of the last layer.
    #[serde(serialize_with = "num::json")]
    pub last: f64,
    /// The largest relative L2 of a record of any layer.
    #[serde(serialize_with = "num::json")]
    pub max: f64,
    /// Median over the layers of the smallest error, made in the stage, that its gain would show.
    #[serde(serialize_with = "num::json")]
    pub locatable: f64,
}

impl CalibrateReport {
    /// The report of a calibration that was written to `file`.
    pub fn of(calibration: &Calibration, file: String, graph: &StageGraph) -> Self {
        let floor = &calibration.floor;
        Self {
            status: Status::Ok,
            floor: file,
            prompts: floor.prompts,
            pairs: floor.pairs,
            runs: floor.runs.len(),
            stages: stages(floor, graph),
            notes: calibration.notes.clone(),
        }
    }
}

fn stages(floor: &Floor, graph: &StageGraph) -> Vec<StageFloor> {
    let mut stages: BTreeMap<(usize, &str), Vec<&super::Entry>> = BTreeMap::new();
    for entry in &floor.stages {
        let rank = graph.rank(&entry.stage).unwrap_or(usize::MAX);
        stages.entry((rank, &entry.stage)).or_default().push(entry);
    }
    let of = |((_, stage), mut entries): ((usize, &str), Vec<&super::Entry>)| {
        entries.sort_by_key(|e| e.layer);
        let mut locatable: Vec<f64> = entries.iter().map(|e| e.locatable()).collect();
        StageFloor {
            stage: stage.to_owned(),
            layers: entries.len(),
            first: entries.first().map_or(0.0, |e| e.error.median),
            last: entries.last().map_or(0.0, |e| e.error.median),
            max: entries.iter().map(|e| e.error.max).fold(0.0, f64::max),
            locatable: super::scan::median(&mut locatable).unwrap_or(0.0),
        }
    };
    stages.into_iter().map(of).collect()
}
