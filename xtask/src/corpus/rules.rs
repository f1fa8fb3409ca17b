//! The rules by which a fault is looked for, and what each said of one.

use crate::lab::{Key, Lab};
use anyhow::Result;
use bitnet_diff::{
    StoredRecords,
    local::{Audit, Indexed, JudgeReport, Which, Who, audit},
};
use bitnet_referee::{Activations, Referee};
use bitnet_trace_store::{Filter, Run};
use std::path::{Path, PathBuf};

/// A rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// `bitnet-diff first --local=never`: each record against the other engine's.
    Propagated,
    /// `bitnet-diff judge --activations exact`: each record against the exact result of its own inputs.
    Local,
    /// `bitnet-diff judge`: the same, with activations rounded as the engine rounds them.
    Emulated,
    /// `bitnet-diff cross`: what the engine makes of the reference's inputs, against what rounding explains.
    Replayed,
    /// `bitnet-diff first` as it is run: each record against the exact result of its own inputs where that is known, and
    /// else against the other engine's.
    First,
}

impl Rule {
    pub const ALL: [Self; 5] = [
        Self::Propagated,
        Self::Local,
        Self::Emulated,
        Self::Replayed,
        Self::First,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Propagated => "propagated",
            Self::Local => "local",
            Self::Emulated => "emulated",
            Self::Replayed => "replayed",
            Self::First => "first",
        }
    }

    pub fn letter(self) -> char {
        match self {
            Self::Propagated => 'P',
            Self::Local => 'L',
            Self::Emulated => 'E',
            Self::Replayed => 'R',
            Self::First => 'F',
        }
    }
}

/// What a rule said of a pair of runs of which the right one is faulty.
#[derive(Debug, Clone, Default)]
pub struct Told {
    /// Whether it called the runs different, or one of them off.
    pub found: bool,
    /// The first record that it names.
    pub named: Option<Key>,
    /// Whether it says that the faulty run is off and the other is not; none of a rule that can't say.
    pub right_side: Option<bool>,
}

/// What one rule of the referee knows of a run.
pub struct Audited {
    records: StoredRecords,
    audit: Audit,
}

/// Audits runs against the mathematics of one model.
pub struct Judge {
    pub referee: Referee,
    model: PathBuf,
    activations: Activations,
}

impl Judge {
    pub fn new(model: &Path, activations: Activations) -> Result<Self> {
        Ok(Self {
            referee: Referee::open(model)?,
            model: model.to_owned(),
            activations,
        })
    }

    /// Every record of a run against the exact result.
    ///
    /// # Errors
    /// Where the run can't be read.
    pub fn audit(&self, lab: &Lab, run: &str) -> Result<Audited> {
        let records = StoredRecords::new(Run::open(lab.at(run))?, &Filter::default());
        let which = Which {
            activations: self.activations,
            ..Which::default()
        };
        let audit = audit(&self.referee, &Indexed::new(&records.side()), &which, &|_, _| {})?;
        Ok(Audited { records, audit })
    }

    /// What `bitnet-diff judge` says of two runs.
    pub fn told(&self, reference: &Audited, faulty: &Audited) -> Told {
        let report = self.report(&[reference, faulty]);
        let key = |finding: &bitnet_diff::local::Finding| {
            let first = &finding.first;
            (first.seq, first.layer, first.stage.to_string())
        };
        Told {
            found: matches!(report.verdict, Who::Left | Who::Right | Who::Both),
            named: report.origin.as_ref().map(key),
            right_side: Some(report.verdict == Who::Right),
        }
    }

    /// Whether `bitnet-diff judge` finds nothing off in a run alone, and could tell of something.
    pub fn is_clean(&self, run: &Audited) -> bool {
        self.report(&[run]).verdict == Who::Clean
    }

    fn report(&self, runs: &[&Audited]) -> JudgeReport {
        let sides: Vec<_> = runs.iter().map(|run| run.records.side()).collect();
        let indexed: Vec<_> = sides.iter().map(Indexed::new).collect();
        let audits: Vec<_> = indexed.iter().zip(runs.iter().map(|run| &run.audit)).collect();
        JudgeReport::of(&self.referee, self.model.display().to_string(), &audits)
    }

    /// How far from the exact result a right engine that computes as this run's may be, of a record of its own.
    pub fn expected(&self, of: &Audited, (seq, layer, stage): &Key) -> Option<f64> {
        let expected = self.referee.expected(stage, *layer, *seq, &of.audit.arithmetic);
        expected.map(|expected| expected.rel_l2)
    }
}

impl Audited {
    /// The local error of a record, and what is expected of rounding.
    pub fn local(&self, (seq, layer, stage): &Key) -> Option<(f64, f64)> {
        let mut stages = self.audit.stages.iter();
        let stage = stages.find(|audit| (audit.layer, audit.stage) == (*layer, stage))?;
        let record = stage.records.iter().find(|record| record.token.seq == *seq)?;
        Some((record.rel_l2, stage.expected))
    }
}
