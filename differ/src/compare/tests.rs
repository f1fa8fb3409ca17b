use super::*;
use crate::records::{Elements, StoredRecords};
use crate::{
    CompareReport, FirstReport,
    testing::{Memory, manifest},
};
use bitnet_trace::{Layout, Recorder, Slice, Tap};
use bitnet_trace_store::{Filter, Run, StoreError};
use proptest::prelude::*;
use std::path::Path;

const STAGES: [&str; 5] = ["attn_norm", "k_cache", "attn_ctx", "layer_out", "mine"];

/// What becomes of a record in the right run: nothing, a small or a large difference, NaN, another shape, no record, or two.
type Change = u8;

fn runs(positions: usize, layers: i32, changes: &[Change]) -> (Memory, Memory) {
    let (mut left, mut right) = (Memory::default(), Memory::default());
    let mut changes = changes.iter().cycle();
    for seq in 0..positions as i64 {
        for layer in 0..layers {
            for stage in STAGES {
                let x = 1.0 + seq as f32;
                left.push(seq, layer, stage, &[x, 2.0]);
                let change = *changes.next().expect("cycled");
                let off = match change {
                    0 => 1e-6,
                    1 => 0.1,
                    2 => f32::NAN,
                    _ => 0.0,
                };
                match change {
                    3 => right.push(seq, layer, stage, &[x, 2.0, 3.0]),
                    4 => {}
                    _ => right.push(seq, layer, stage, &[x + off, 2.0]),
                }
                if change == 5 {
                    right.push(seq, layer, stage, &[x + 1.0, 2.0]);
                }
            }
        }
    }
    (left, right)
}

/// A run as it is stored, whose records are looked at one by one.
struct OneByOne<'a>(&'a StoredRecords);

impl Records for OneByOne<'_> {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn meta(&self, row: usize) -> Meta<'_> {
        self.0.meta(row)
    }

    fn elements(&self, row: usize) -> Result<Elements, StoreError> {
        self.0.elements(row)
    }
}

/// Records a run in parts of so many bytes; one stage in a dtype whose values are not kept as f32.
fn stored(dir: &Path, name: &str, memory: &Memory, part_bytes: u64) -> StoredRecords {
    let layout = Layout {
        part_bytes,
        ..Layout::default()
    };
    let recorder = Recorder::builder(dir)
        .run(name)
        .layout(layout)
        .build()
        .expect("a recorder");
    for (meta, elements) in &memory.rows {
        let tap = Tap::new(&meta.stage, meta.layer, meta.seq);
        let Elements::Values(values) = elements else {
            continue;
        };
        match meta.stage.as_str() {
            "mine" => {
                let whole: Vec<i64> = values.iter().map(|&x| (x * 100.0) as i64).collect();
                recorder.record(tap, &Slice::new(&whole, &[whole.len()]));
            }
            _ => recorder.record(tap, &Slice::new(values, &[values.len()])),
        }
    }
    recorder.finish().expect("a run");
    let run = Run::open(dir.join(format!("run={name}"))).expect("a run");
    StoredRecords::new(run, &Filter::default())
}

/// Both reports as JSON, of a comparison and of all verdicts.
fn reports(left: &Memory, right: &Memory, options: &Options) -> [Result<String, String>; 2] {
    let (a, b) = (manifest("a", "x", 1, &[1]), manifest("b", "y", 1, &[1]));
    let graph = StageGraph::builtin();
    let (left, right) = (left.side(&a), right.side(&b));
    let json = |c: &Comparison<'_>| {
        let reports = (FirstReport::of(c), CompareReport::of(c));
        serde_json::to_string(&reports).expect("JSON")
    };
    let kept = compare(&left, &right, &graph, options, &|_, _| ());
    let all = verdicts(&left, &right, &graph, options, &|_, _| ());
    [
        kept.map(|c| json(&c)).map_err(|e| e.to_string()),
        all.map(|v| json(&v.comparison())).map_err(|e| e.to_string()),
    ]
}

proptest! {
    #[test]
    fn what_a_comparison_keeps_is_what_all_verdicts_come_to(
        positions in 1..8usize,
        layers in 1..4i32,
        changes in proptest::collection::vec(prop_oneof![10 => Just(9u8), 1 => 0..6u8], 1..60),
        stops in any::<bool>(),
    ) {
        let (left, right) = runs(positions, layers, &changes);
        let mut all = Vec::new();
        for threads in [1, 3] {
            let options = Options {
                threads,
                until: if stops { Until::Divergence } else { Until::End },
                ..Options::default()
            };
            all.extend(reports(&left, &right, &options));
        }
        prop_assert!(all.iter().all(|report| *report == all[0]), "{:#?}", all);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn pairs_are_judged_by_the_columns_of_their_runs_as_one_by_one(
        positions in 1..8usize,
        layers in 1..4i32,
        changes in proptest::collection::vec(prop_oneof![12 => Just(9u8), 6 => Just(0u8), 1 => 0..6u8], 1..60),
        part_bytes in prop_oneof![Just(1 << 30), 100..20_000u64],
        stops in any::<bool>(),
    ) {
        let (left, right) = runs(positions, layers, &changes);
        let dir = tempfile::tempdir().expect("a folder");
        let (left, right) = (stored(dir.path(), "a", &left, part_bytes), stored(dir.path(), "b", &right, 1 << 30));
        let graph = StageGraph::builtin();
        let json = |left: &Side<'_>, right: &Side<'_>, threads: usize| {
            let until = if stops { Until::Divergence } else { Until::End };
            let options = Options { threads, until, ..Options::default() };
            let comparison = compare(left, right, &graph, &options, &|_, _| ()).map_err(|e| e.to_string());
            comparison.map(|c| serde_json::to_value((FirstReport::of(&c), CompareReport::of(&c))).expect("JSON"))
        };
        let (one, other) = (OneByOne(&left), OneByOne(&right));
        let (a, b) = (Side { records: &one, ..left.side() }, Side { records: &other, ..right.side() });
        let expected = json(&a, &b, 1);
        for threads in [1, 3] {
            prop_assert_eq!(&json(&left.side(), &right.side(), threads), &expected);
            // One side has columns, and the other none.
            prop_assert_eq!(&json(&left.side(), &b, threads), &expected);
        }
    }
}

#[test]
fn a_position_that_is_shared_by_threads_is_taken_whole() {
    // Many times what a thread takes at a time.
    let (layers, wrong) = (4000, 3000);
    let (mut left, mut right) = (Memory::default(), Memory::default());
    for seq in 0..2 {
        for layer in 0..layers {
            for (stage, from) in [
                ("attn_norm", wrong + 1),
                ("attn_out", wrong),
                ("layer_out", wrong),
            ] {
                left.push(seq, layer, stage, &[1.0, 2.0]);
                let off = if seq == 1 && layer >= from { 0.5 } else { 0.0 };
                right.push(seq, layer, stage, &[1.0 + off, 2.0]);
            }
        }
    }
    for (threads, until) in [(1, Until::End), (3, Until::End), (3, Until::Divergence)] {
        let options = Options {
            threads,
            until,
            ..Options::default()
        };
        let (a, b) = (manifest("a", "x", 1, &[1, 2]), manifest("b", "y", 1, &[1, 2]));
        let (graph, sides) = (StageGraph::builtin(), (left.side(&a), right.side(&b)));
        let comparison = compare(&sides.0, &sides.1, &graph, &options, &|_, _| ()).expect("compared");
        assert_eq!(comparison.counts.identical, 6 * layers as u64 - 3 * 1000 + 1);
        let report = FirstReport::of(&comparison);
        let first = report.first_divergence.expect("a divergence");
        assert_eq!(
            (first.seq, first.layer, first.stage.as_str()),
            (1, wrong, "attn_out")
        );
        assert_eq!((report.origins.len(), report.inherited), (1, 2998));
    }
}
