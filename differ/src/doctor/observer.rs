use super::{
    Check, Place, Program,
    examine::{judge, recorded, run},
    program::{Ran, Recording},
};
use crate::{Error, StoredRecords, metrics::measure_f64, num, records::Records};
use bitnet_trace_schema::Observation;
use bitnet_trace_store::{Filter, Meta, Run};
use serde::Serialize;
use std::collections::BTreeMap;

/// The stage whose records are compared.
const LOGITS: &str = "logits";
/// Characters of a line that are shown.
const SHOWN: usize = 60;

/// What recording does to a program.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Observed {
    /// How often it ran without recording, and as often with the logits recorded and with everything recorded.
    pub runs: usize,
    /// How it ended and what it printed on stdout.
    pub text: TextSeen,
    /// Its logits, recorded alone and with everything else; null where it records none.
    pub logits: Option<LogitsSeen>,
    /// Wall time of each run without recording, in seconds.
    pub seconds_without: Vec<f64>,
    /// Wall time of each run with everything recorded, in seconds.
    pub seconds_with: Vec<f64>,
    /// Median with recording by median without.
    pub slowdown: f64,
    /// Records of the last run with everything recorded.
    pub records: u64,
    /// Size of its parts in bytes.
    pub bytes: u64,
    /// Tensors of it that were offered and not recorded.
    pub dropped: u64,
    /// Why it is incomplete.
    pub incomplete: Vec<String>,
    /// What the engine says of observation.
    pub observation: Observation,
}

/// Whether two ways to run a program gave the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Every time.
    Same,
    /// Recording made a difference.
    Different,
    /// Runs of the same way differ from each other, which tells nothing of recording.
    Unstable,
}

/// What a program printed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TextSeen {
    /// Whether recording changed it.
    pub outcome: Outcome,
    /// Bytes on stdout without recording.
    pub bytes: u64,
    /// The first difference, where there is one.
    pub difference: Option<Difference>,
}

/// Where the outputs of two runs part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Line of stdout, from 1; null where the programs ended differently.
    pub line: Option<u64>,
    /// The first run's, cut where it is long.
    pub without: String,
    /// The other's; it was recorded, or (`unstable`) not.
    pub with: String,
}

/// Logits of runs that recorded nothing else, against those of runs that recorded everything.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LogitsSeen {
    /// Whether recording everything changed them.
    pub outcome: Outcome,
    /// Pairs of records that were compared.
    pub compared: u64,
    /// Pairs whose bytes differ.
    pub differing: u64,
    /// Records that only one run has.
    pub missing: u64,
    /// Largest relative L2 of a pair; null where nothing differs or values are not kept.
    #[serde(serialize_with = "num::json_option")]
    pub worst_rel_l2: Option<f64>,
}

impl Observed {
    /// Whether recording changes what the program gives.
    pub fn is_changed(&self) -> bool {
        let logits = self.logits.as_ref().map(|l| l.outcome);
        self.text.outcome == Outcome::Different || logits == Some(Outcome::Different)
    }

    /// Why nothing can be said, if so.
    pub fn undecided(&self) -> Option<String> {
        let text = self.text.outcome == Outcome::Same && self.text.bytes > 0;
        let logits = (self.logits.as_ref()).is_some_and(|l| l.outcome == Outcome::Same && l.compared > 0);
        if self.is_changed() || text || logits {
            return None;
        }
        Some(match (self.text.outcome, &self.logits) {
            (Outcome::Same, None) => "the program prints nothing on stdout and records no logits: there is nothing \
                                      to tell a change by"
                .into(),
            _ => "the program's outputs differ from run to run by themselves: fix its seed and threads, and leave \
                  times out of what it prints"
                .into(),
        })
    }
}

/// Runs the program `rounds` times without recording, and as often with the logits and with everything recorded;
/// `told` hears how many runs are done, of how many. `None` where it records nothing; the checks say why.
///
/// # Errors
/// Where the program cannot be run or fails without recording, or what it recorded cannot be read.
pub fn observe(
    program: &Program,
    place: &Place,
    rounds: usize,
    select: Option<&str>,
    told: &dyn Fn(usize, usize),
) -> Result<(Vec<Check>, Option<Observed>), Error> {
    let mut seen = Seen::default();
    let everything = select.map(|s| format!("{s};stage={LOGITS}"));
    let (mut checks, mut last) = (vec![program.check()], None);
    for round in 0..rounds {
        told(3 * round, 3 * rounds);
        // First, so that the first of those that are timed finds the model in the page cache.
        let (_, logits) = record(program, place, "logits", round, Some("stage=logits"))?;
        seen.logits_alone(logits)?;
        told(3 * round + 1, 3 * rounds);
        let ran = run(program, None)?;
        if !ran.status.success() {
            let message = format!("{} fails without recording too: {}", program.name(), ran.end());
            return Err(Error::Program { message });
        }
        seen.seconds_without.push(ran.seconds);
        seen.text_without(ran);
        told(3 * round + 2, 3 * rounds);
        let (ran, all) = record(program, place, "all", round, everything.as_deref())?;
        let dir = place.sub(&format!("all-{round}"));
        let runs = recorded(&dir)?;
        if round == 0 {
            let found = judge(program, &checks[0], &ran, &runs);
            checks.extend(found);
        }
        seen.seconds_with.push(ran.seconds);
        seen.text_with(ran);
        let Some(all) = all else { return Ok((checks, None)) };
        seen.logits_among_all(all)?;
        last = runs.into_iter().next();
        let _ = std::fs::remove_dir_all(dir); // it may be large
    }
    let observed = last.map(|last| Observed {
        runs: rounds,
        slowdown: median(&seen.seconds_with) / median(&seen.seconds_without),
        records: last.run.records,
        bytes: last.run.bytes,
        dropped: last.run.dropped,
        incomplete: last.run.problems().to_vec(),
        observation: last.run.observation.clone(),
        logits: seen.logits(),
        text: seen.text(),
        seconds_without: seen.seconds_without,
        seconds_with: seen.seconds_with,
    });
    Ok((checks, observed))
}

/// Runs the program with recording on; the run it recorded, if it recorded any.
fn record(
    program: &Program,
    place: &Place,
    name: &str,
    round: usize,
    select: Option<&str>,
) -> Result<(Ran, Option<Run>), Error> {
    let dir = place.sub(&format!("{name}-{round}"));
    let ran = run(
        program,
        Some(Recording {
            dir: &dir,
            run: name,
            select,
            values: None,
        }),
    )?;
    let path = dir.join(bitnet_trace_schema::run_dir::dir_name(name));
    let run = path.is_dir().then(|| Run::open(&path)).transpose()?;
    Ok((ran, run))
}

/// What the runs so far have shown.
#[derive(Debug, Default)]
struct Seen {
    seconds_without: Vec<f64>,
    seconds_with: Vec<f64>,
    /// How the first run without recording ended, and its stdout.
    end: Option<(String, Vec<u8>)>,
    text_unstable: Option<Difference>,
    text_different: Option<Difference>,
    /// The logits of the first run that recorded nothing else.
    alone: Option<StoredRecords>,
    logits_unstable: bool,
    logits: Option<LogitsSeen>,
}

impl Seen {
    fn text_without(&mut self, ran: Ran) {
        let end = (ran.status.to_string(), ran.stdout);
        match &self.end {
            None => self.end = Some(end),
            Some(first) => self.text_unstable = self.text_unstable.take().or_else(|| difference(first, &end)),
        }
    }

    fn text_with(&mut self, ran: Ran) {
        let end = (ran.status.to_string(), ran.stdout);
        if let Some(first) = &self.end {
            self.text_different = self.text_different.take().or_else(|| difference(first, &end));
        }
    }

    fn text(&mut self) -> TextSeen {
        let bytes = self.end.as_ref().map_or(0, |(_, stdout)| stdout.len() as u64);
        let (outcome, difference) = match (self.text_unstable.take(), self.text_different.take()) {
            (Some(difference), _) => (Outcome::Unstable, Some(difference)),
            (None, Some(difference)) => (Outcome::Different, Some(difference)),
            (None, None) => (Outcome::Same, None),
        };
        TextSeen {
            outcome,
            bytes,
            difference,
        }
    }

    fn logits_alone(&mut self, run: Option<Run>) -> Result<(), Error> {
        let Some(run) = run else { return Ok(()) };
        let records = logits_of(run)?;
        match &self.alone {
            None => self.alone = Some(records),
            Some(first) => {
                let against = compare(first, &records)?;
                self.logits_unstable |= against.differing > 0 || against.missing > 0;
            }
        }
        Ok(())
    }

    fn logits_among_all(&mut self, run: Run) -> Result<(), Error> {
        let Some(alone) = &self.alone else { return Ok(()) };
        let mut now = compare(alone, &logits_of(run)?)?;
        if let Some(before) = &self.logits {
            now.compared += before.compared;
            now.differing += before.differing;
            now.missing += before.missing;
            now.worst_rel_l2 = larger(now.worst_rel_l2, before.worst_rel_l2);
        }
        self.logits = Some(now);
        Ok(())
    }

    fn logits(&self) -> Option<LogitsSeen> {
        let mut seen = self.logits.clone().filter(|l| l.compared + l.missing > 0)?;
        seen.outcome = match (self.logits_unstable, seen.differing + seen.missing) {
            (true, _) => Outcome::Unstable,
            (false, 0) => Outcome::Same,
            _ => Outcome::Different,
        };
        Some(seen)
    }
}

fn larger(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(if b > a || b.is_nan() { b } else { a }),
        (a, b) => a.or(b),
    }
}

fn logits_of(run: Run) -> Result<StoredRecords, Error> {
    let filter = Filter {
        stage: Some(LOGITS.into()),
        ..Filter::default()
    };
    Ok(StoredRecords::new(run, &filter))
}

/// Compares the records of two runs bit by bit; the outcome is left to the caller.
fn compare(left: &StoredRecords, right: &StoredRecords) -> Result<LogitsSeen, Error> {
    let key = |m: Meta<'_>| (m.pass, m.request, m.seq, m.occurrence);
    let rows = |of: &StoredRecords| -> BTreeMap<_, usize> {
        (0..of.len()).map(|row| (key(of.meta(row)), row)).collect()
    };
    let (a, b) = (rows(left), rows(right));
    let mut seen = LogitsSeen {
        outcome: Outcome::Same,
        compared: 0,
        differing: 0,
        missing: b.keys().filter(|k| !a.contains_key(k)).count() as u64,
        worst_rel_l2: None,
    };
    for (key, &row) in &a {
        let Some(&other) = b.get(key) else {
            seen.missing += 1;
            continue;
        };
        seen.compared += 1;
        let (x, y) = (left.meta(row), right.meta(other));
        if (x.hash(), x.dtype, x.shape) == (y.hash(), y.dtype, y.shape) {
            continue;
        }
        seen.differing += 1;
        let values = (
            left.elements(row)?.to_f64(x.dtype),
            right.elements(other)?.to_f64(y.dtype),
        );
        if let (Some(x), Some(y)) = values {
            let rel_l2 = measure_f64(&x, &y, x.len()).map(|m| m.rel_l2);
            seen.worst_rel_l2 = larger(seen.worst_rel_l2, rel_l2);
        }
    }
    Ok(seen)
}

/// Where two runs part, each by how it ended and its stdout.
fn difference(a: &(String, Vec<u8>), b: &(String, Vec<u8>)) -> Option<Difference> {
    let shown = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        let mut out: String = text.chars().take(SHOWN).collect();
        if text.chars().nth(SHOWN).is_some() {
            out.push('…');
        }
        out
    };
    if a.0 != b.0 {
        return Some(Difference {
            line: None,
            without: a.0.clone(),
            with: b.0.clone(),
        });
    }
    if a.1 == b.1 {
        return None;
    }
    let (mut left, mut right) = (a.1.split(|&c| c == b'\n'), b.1.split(|&c| c == b'\n'));
    let mut line = 1;
    loop {
        match (left.next(), right.next()) {
            (x, y) if x == y && x.is_some() => line += 1,
            (x, y) => {
                return Some(Difference {
                    line: Some(line),
                    without: shown(x.unwrap_or_default()),
                    with: shown(y.unwrap_or_default()),
                });
            }
        }
    }
}

/// The middle one, or the mean of the two in the middle; NaN of none.
pub fn median(numbers: &[f64]) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (n, middle) = (sorted.len(), sorted.len() / 2);
    match n {
        0 => f64::NAN,
        _ if n % 2 == 1 => sorted[middle],
        _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(stdout: &str) -> (String, Vec<u8>) {
        ("exit status: 0".into(), stdout.into())
    }

    #[test]
    fn the_first_line_that_differs_is_named() {
        assert_eq!(difference(&end("a\nb\n"), &end("a\nb\n")), None);
        for (a, b, line, without, with) in [
            ("a\nb\n", "a\nc\n", 2, "b", "c"),
            ("a\n", "a", 2, "", ""),
            ("", "x", 1, "", "x"),
        ] {
            let found = difference(&end(a), &end(b)).expect("different");
            assert_eq!(
                (found.line, &*found.without, &*found.with),
                (Some(line), without, with)
            );
        }
        let killed = ("signal: 9 (SIGKILL)".to_owned(), b"a".to_vec());
        let found = difference(&end("a"), &killed).expect("different");
        assert_eq!((found.line, &*found.with), (None, "signal: 9 (SIGKILL)"));
    }

    #[test]
    fn a_median_is_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }
}
