//! What must hold of a run that was recovered.

use super::child;
use bitnet_trace_schema::{DType, RunState, Stats};
use bitnet_trace_store::{Filter, RecoverOutcome, Run, recover};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What a crash came to.
#[derive(Debug, Default, Clone)]
pub struct Outcome {
    /// Records that are there.
    pub records: u64,
    /// Sealed parts.
    pub parts: usize,
    /// Row groups of the parts that were open.
    pub saved: u64,
    /// Bytes of tensors that the process had been told were taken, and that are lost.
    pub lost: u64,
    pub lost_tensors: u64,
    /// Bytes of all tensors that were taken.
    pub taken: u64,
}

/// Name and bytes of every file of a directory.
pub fn contents(dir: &Path) -> BTreeMap<PathBuf, blake3::Hash> {
    let entries = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    entries
        .map(|path| (path.clone(), blake3::hash(&std::fs::read(path).unwrap())))
        .collect()
}

/// Recovers the run `name` in `dir` and checks everything.
pub fn check(dir: &Path, name: &str) -> Outcome {
    let path = dir.join(format!("run={name}"));
    if !path.join("run.json").exists() {
        // killed before it had begun: what was taken before that?
        assert_eq!(child::accepted(dir).iter().sum::<u64>(), 0);
        return Outcome::default();
    }
    let report = recover(&path, Default::default()).unwrap();
    let mut outcome = Outcome {
        parts: report.parts,
        ..Outcome::default()
    };
    match &report.outcome {
        RecoverOutcome::Recovered { recovery } => {
            outcome.saved = recovery.parts.iter().map(|p| p.records).sum();
        }
        RecoverOutcome::Ended {
            state: RunState::Recovered,
        } => {}
        other => panic!("{other:?}"),
    }
    assert!(report.notes.is_empty(), "{:?}", report.notes);
    let once = contents(&path);
    for file in once.keys() {
        let name = file.file_name().unwrap().to_str().unwrap();
        let known = name == "run.json" || (name.starts_with("part-") && name.ends_with(".parquet"));
        assert!(known, "{name} is left");
    }
    recover(&path, Default::default()).unwrap();
    assert_eq!(contents(&path), once, "a second recovery changed a file");

    // Indexed in memory, so that the directory holds only what the recorder and the recovery made.
    let run = Run::open(&path).unwrap();
    let rows = run.records(&Filter::default());
    outcome.records = rows.len() as u64;
    let mut found = BTreeMap::<u64, u64>::new();
    for row in &rows {
        let thread: u64 = row.meta.stage.strip_prefix("thread_").unwrap().parse().unwrap();
        if thread >= child::THREADS {
            continue;
        }
        let next = found.entry(thread).or_default();
        // nothing in between is missing, and nothing stands twice
        assert_eq!(row.meta.seq as u64, *next);
        *next += 1;
        let (dtype, data) = child::tensor(thread, row.meta.seq as u64);
        assert_eq!(
            (row.meta.dtype, row.meta.num_elements),
            (dtype, (data.len() / dtype.size()) as i64)
        );
        assert_eq!(row.meta.blake3, blake3::hash(&data).to_hex().to_string());
        let tensor = run.tensor(row).unwrap();
        let stats = match (tensor.values(), tensor.raw()) {
            (Some(values), None) => {
                assert_eq!(values, widened(dtype, &data));
                Stats::of_f32(values)
            }
            (None, Some(raw)) => {
                assert_eq!(raw, data);
                Stats::of_f64(raw.as_chunks::<8>().0.iter().map(|b| match dtype {
                    DType::F64 => f64::from_le_bytes(*b),
                    _ => i64::from_le_bytes(*b) as f64,
                }))
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(row.meta.stats, stats);
    }
    for (thread, taken) in child::accepted(dir).into_iter().enumerate() {
        let thread = thread as u64;
        let found = found.get(&thread).copied().unwrap_or(0);
        for i in 0..taken {
            let bytes = child::tensor(thread, i).1.len() as u64;
            outcome.taken += bytes;
            if i >= found {
                outcome.lost += bytes;
                outcome.lost_tensors += 1;
            }
        }
    }
    outcome
}

/// The elements as f32, by definitions of our own.
fn widened(dtype: DType, bytes: &[u8]) -> Vec<f32> {
    let pairs = || bytes.as_chunks::<2>().0.iter().copied();
    match dtype {
        DType::F32 => bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect(),
        DType::BF16 => pairs()
            .map(|b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16))
            .collect(),
        DType::F16 => pairs().map(|b| f16(u16::from_le_bytes(b))).collect(),
        DType::U8 => bytes.iter().map(|&b| b.into()).collect(),
        other => panic!("{other}"),
    }
}

/// IEEE 754 binary16, finite.
fn f16(bits: u16) -> f32 {
    let (sign, exponent, fraction) = (bits >> 15, i32::from(bits >> 10 & 31), f32::from(bits & 1023));
    let size = match exponent {
        0 => fraction * 2f32.powi(-24),
        e => (1024.0 + fraction) * 2f32.powi(e - 25),
    };
    if sign == 1 { -size } else { size }
}
