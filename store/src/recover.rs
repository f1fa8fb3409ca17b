//! Finishes the runs of processes that died: seals what their journals kept.
//!
//! Nothing is changed while the recorder may be alive: its process is looked for, and it holds a lock on the
//! run's directory for as long as it lives. Two readers do not get into each other's way: one recovers,
//! the other waits and finds it done. Every step leaves a state from which the next attempt comes to the
//! same end, so that a recovery may itself be killed:
//!
//! 1. what will be saved is noted in `run.json`, whose state stays `recording`, and the token ids with it;
//! 2. each open part is cut behind its last good page, gets its scalar columns and its footer, is forced
//!    to disk and renamed: value pages and journal are intact until then;
//! 3. the journals are removed;
//! 4. `run.json` says `recovered`.

mod files;
mod lock;
mod part;
mod plan;

use crate::completeness::{Life, life};
use crate::{Database, StoreError, scan};
use bitnet_trace_schema::{
    Manifest, PartEntry, RecoveredPart, Recovery, RunState, Sequence, Writer, run_dir,
};
use files::Files;
use lock::Lock;
use plan::Plan;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Positions by which journals may lengthen the token ids of a run: they are dense lists.
const MAX_POSITIONS: usize = 1 << 24;

/// What became of a run that was to be recovered.
#[derive(Debug, Clone, PartialEq)]
pub struct RecoverReport {
    /// The run's name.
    pub name: String,
    /// Its directory.
    pub path: PathBuf,
    /// What was done.
    pub outcome: RecoverOutcome,
    /// What was found and left as it is, in words.
    pub notes: Vec<String>,
    /// Records in the sealed parts, as `run.json` counts them now.
    pub records: u64,
    /// Number of sealed parts, likewise.
    pub parts: usize,
}

/// What was done with a run.
#[derive(Debug, Clone, PartialEq)]
pub enum RecoverOutcome {
    /// Nothing: the run ended, or was recovered before.
    Ended {
        /// Its state.
        state: RunState,
    },
    /// Nothing: its process lives.
    Live {
        /// The process.
        pid: u32,
    },
    /// The run was recovered.
    Recovered {
        /// What `run.json` says of it.
        recovery: Recovery,
    },
    /// It could not be recovered; what was sealed before can be read as ever.
    Blocked {
        /// Why, in words.
        cause: String,
    },
}

/// How a run is recovered.
#[derive(Default)]
pub struct RecoverOptions<'a> {
    /// Recover a run that was recorded on another machine as well, whose process cannot be looked for. It must
    /// be known to be dead: a recorder would lose its run.
    pub other_machine: bool,
    /// Is told of bytes that were read and written, out of how many.
    pub progress: Option<&'a mut dyn FnMut(u64, u64)>,
}

/// Recovers the run in the directory `dir` if its process died. Doing it again changes nothing.
///
/// # Errors
/// [`StoreError`] if the directory or its manifest cannot be read. What stands in the way of the recovery
/// itself is an outcome.
pub fn recover(dir: &Path, options: RecoverOptions<'_>) -> Result<RecoverReport, StoreError> {
    let (manifest, _) = scan::manifest(dir)?;
    let report = |outcome, manifest: &Manifest, notes| RecoverReport {
        name: manifest.run.clone(),
        path: dir.into(),
        outcome,
        notes,
        records: manifest.records,
        parts: manifest.parts.len(),
    };
    if let Err(outcome) = is_dead(&manifest, options.other_machine) {
        return Ok(report(outcome, &manifest, Vec::new()));
    }
    let blocked = |cause: String| RecoverOutcome::Blocked { cause };
    let _lock = match lock::exclusive(dir) {
        Ok(Lock::Held(file)) => file,
        Ok(Lock::Recorder) => {
            let (manifest, _) = scan::manifest(dir)?;
            let pid = manifest.owner.pid;
            let outcome = match manifest.state {
                // Of another container perhaps, where this process cannot see it.
                RunState::Recording => RecoverOutcome::Live { pid },
                state => RecoverOutcome::Ended { state },
            };
            return Ok(report(outcome, &manifest, Vec::new()));
        }
        Err(e) => {
            return Ok(report(
                blocked(format!("it cannot be locked: {e}")),
                &manifest,
                Vec::new(),
            ));
        }
    };
    // Another reader may have done it while this one waited.
    let (manifest, _) = scan::manifest(dir)?;
    if let Err(outcome) = is_dead(&manifest, options.other_machine) {
        return Ok(report(outcome, &manifest, Vec::new()));
    }
    let mut work = Work::new(dir, manifest, options.progress);
    let outcome = match work.run() {
        Ok(()) => RecoverOutcome::Recovered {
            recovery: work.recovery,
        },
        Err(error) => blocked(error),
    };
    Ok(report(outcome, &work.manifest, work.notes))
}

/// The run's directories that a path stands for: its own, or those of all runs of a database.
///
/// # Errors
/// [`StoreError`] if it is neither.
pub fn runs_in(path: &Path) -> Result<Vec<PathBuf>, StoreError> {
    if !path.try_exists().map_err(|e| StoreError::io("find", path, e))? {
        return Err(StoreError::NotFound { path: path.into() });
    }
    if !path.is_dir() {
        return Err(StoreError::NotADirectory { path: path.into() });
    }
    let name = path.file_name().and_then(|n| n.to_str());
    if path.join(run_dir::MANIFEST).exists() || name.and_then(run_dir::run_of_dir).is_some() {
        return Ok(vec![path.into()]);
    }
    let names = scan::run_names(path)?;
    if names.is_empty() {
        return Err(Database::no_runs(path));
    }
    Ok(names.iter().map(|n| path.join(run_dir::dir_name(n))).collect())
}

/// What a reader does before it looks at a run: recovers it if need be, and tells what stood in the way.
pub(crate) fn quietly(dir: &Path) -> Option<String> {
    match recover(dir, RecoverOptions::default()).ok()?.outcome {
        RecoverOutcome::Blocked { cause } => Some(cause),
        _ => None,
    }
}

fn is_dead(manifest: &Manifest, other_machine: bool) -> Result<(), RecoverOutcome> {
    if manifest.state != RunState::Recording {
        return Err(RecoverOutcome::Ended {
            state: manifest.state,
        });
    }
    match life(&manifest.owner) {
        Life::Dead => Ok(()),
        Life::Alive => Err(RecoverOutcome::Live {
            pid: manifest.owner.pid,
        }),
        Life::Elsewhere if other_machine => Ok(()),
        Life::Elsewhere => Err(RecoverOutcome::Blocked {
            cause: format!(
                "it was recorded on the machine {:?}, where its process may still run; \
                 if that is not so, recover it with `bitnet-diff recover --other-machine`",
                manifest.owner.host
            ),
        }),
    }
}

/// A recovery under way.
struct Work<'a, 'p> {
    files: Files<'a>,
    manifest: Manifest,
    recovery: Recovery,
    notes: Vec<String>,
    /// Journals that are not ours to remove.
    left: BTreeSet<u32>,
    progress: Progress<'p>,
}

/// Bytes that were handled, of how many.
struct Progress<'p> {
    tell: Option<&'p mut dyn FnMut(u64, u64)>,
    done: u64,
    total: u64,
}

impl Progress<'_> {
    fn add(&mut self, bytes: u64) {
        self.done += bytes;
        if let Some(tell) = &mut self.tell {
            tell(self.done.min(self.total), self.total);
        }
    }
}

impl<'a, 'p> Work<'a, 'p> {
    fn new(dir: &'a Path, manifest: Manifest, tell: Option<&'p mut dyn FnMut(u64, u64)>) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        // One that was begun before is gone on with, so that it ends with the same words.
        let recovery = manifest.recovery.clone().unwrap_or_else(|| Recovery {
            unix_ms: now.map_or(0, |t| t.as_millis() as u64),
            program: Writer {
                name: env!("CARGO_PKG_NAME").into(),
                version: env!("CARGO_PKG_VERSION").into(),
            },
            parts: Vec::new(),
        });
        Self {
            files: Files::new(dir),
            manifest,
            recovery,
            notes: Vec::new(),
            left: BTreeSet::new(),
            progress: Progress {
                tell,
                done: 0,
                total: 0,
            },
        }
    }

    /// All steps.
    fn run(&mut self) -> Result<(), String> {
        let found = self.files.list().map_err(|e| e.to_string())?;
        self.progress.total = (found.open.iter())
            .filter_map(|&n| self.files.open_bytes(n))
            .fold(0, u64::saturating_add);
        let plans = self.plan(&found)?;
        step("planned")?;
        if !found.journals.is_empty() {
            self.manifest.recovery = Some(self.recovery.clone());
            self.write_manifest(RunState::Recording)?;
        }
        step("noted")?;
        let mut saved = BTreeMap::new();
        for plan in &plans {
            step("part")?;
            let number = plan.number;
            let sealed = part::seal(&self.files, plan, &self.manifest.run, &mut self.progress);
            match sealed.map_err(|e| format!("{}: {e}", run_dir::part_name(number)))? {
                Some(entry) => drop(saved.insert(number, entry)),
                None => self.files.remove_open(number).map_err(|e| e.to_string())?,
            }
        }
        step("sealed")?;
        for &number in &found.journals {
            if !self.left.contains(&number) && !self.files.is_open(number) {
                self.files.remove_journal(number).map_err(|e| e.to_string())?;
            }
        }
        self.files.sync().map_err(|e| e.to_string())?;
        step("removed")?;
        self.finish(saved)
    }

    /// Reads the journals: what to do with each open part, and what token ids they know.
    fn plan(&mut self, found: &files::Found) -> Result<Vec<Plan>, String> {
        let mut sequences: BTreeMap<i32, Sequence> = (self.manifest.sequences.drain(..))
            .map(|s| (s.request, s))
            .collect();
        let mut room = MAX_POSITIONS;
        let mut plans = Vec::new();
        for &number in &found.journals {
            let mut tokens = |t: &bitnet_trace_schema::journal::Tokens<'_>| {
                let sequence = sequences.entry(t.request).or_insert_with(|| Sequence {
                    request: t.request,
                    ids: Vec::new(),
                    rewrites: 0,
                });
                t.replay(sequence, &mut room);
            };
            let plan = plan::read(
                &self.files,
                number,
                &self.manifest.run,
                &mut tokens,
                &mut self.progress,
            );
            match plan {
                Ok(Some(plan)) if found.open.contains(&number) => plans.push(plan),
                Ok(_) => {}
                Err(plan::Unusable::Journal(problem)) => {
                    self.left.insert(number);
                    self.notes.push(problem);
                }
                Err(plan::Unusable::Io(error)) => return Err(error),
            }
        }
        self.manifest.sequences = sequences.into_values().collect();
        for &number in &found.open {
            let name = run_dir::part_name(number);
            if found.sealed.contains(&number) {
                plans.retain(|p| p.number != number);
                let open = run_dir::OPEN_SUFFIX;
                self.notes
                    .push(format!("{name}{open} is left: {name} is there, too"));
            } else if !found.journals.contains(&number) {
                let open = run_dir::OPEN_SUFFIX;
                match self.files.open_bytes(number) {
                    // Nothing but a beginning: its process died before there was a journal.
                    Some(0..=4) => self.files.remove_open(number).map_err(|e| e.to_string())?,
                    Some(_) => self
                        .notes
                        .push(format!("{name}{open} is left: it has no journal")),
                    None => self.notes.push(format!("{name}{open} is left: it is not a file")),
                }
            }
        }
        for plan in &plans {
            // An attempt that was killed has cut the file, and noted how much that was.
            let noted = |p: &RecoveredPart| p.file == plan.name() && p.records == plan.rows();
            if !self.recovery.parts.iter().any(noted) {
                self.recovery.parts.retain(|p| p.file != plan.name());
                self.recovery.parts.push(RecoveredPart {
                    file: plan.name(),
                    records: plan.rows(),
                    cut_bytes: plan.cut_bytes,
                    problem: plan.problem.clone(),
                });
            }
        }
        Ok(plans)
    }

    /// Writes the manifest of the recovered run, which lists every sealed part.
    fn finish(&mut self, mut saved: BTreeMap<u32, PartEntry>) -> Result<(), String> {
        let listed: BTreeMap<u32, PartEntry> = (self.manifest.parts.drain(..))
            .filter_map(|p| Some((run_dir::part_index(&p.file)?, p)))
            .collect();
        for number in self.files.list().map_err(|e| e.to_string())?.sealed {
            if !listed.contains_key(&number) && !saved.contains_key(&number) {
                // Sealed, and its process died before it could say so.
                match part::entry(&self.files, number, &self.manifest.run) {
                    Ok(entry) => drop(saved.insert(number, entry)),
                    Err(error) => self.notes.push(format!("{error}; it is not read")),
                }
            }
        }
        saved.extend(listed);
        self.manifest.parts = saved.into_values().collect();
        self.manifest.records = self.manifest.parts.iter().map(|p| p.rows).sum();
        self.manifest.recovery = Some(self.recovery.clone());
        self.write_manifest(RunState::Recovered)
    }

    fn write_manifest(&mut self, state: RunState) -> Result<(), String> {
        let mut manifest = self.manifest.clone();
        manifest.state = state;
        let written = self.files.write_manifest(manifest.to_json().as_bytes());
        written.map_err(|e| format!("{} cannot be written: {e}", run_dir::MANIFEST))
    }
}

/// A place where a recovery may be killed; tests do.
#[cfg(not(test))]
fn step(_: &'static str) -> Result<(), String> {
    Ok(())
}

#[cfg(test)]
use tests::step;

#[cfg(test)]
mod tests;

impl From<plan::Unusable> for io::Error {
    fn from(unusable: plan::Unusable) -> Self {
        match unusable {
            plan::Unusable::Journal(problem) | plan::Unusable::Io(problem) => io::Error::other(problem),
        }
    }
}
