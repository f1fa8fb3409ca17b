//! Programs in C99 and C++17, built against the library with warnings as errors, and the runs they leave.

#[path = "../../recorder/tests/common/mod.rs"]
mod common;
mod programs;

use bitnet_trace_schema::{DType, RunState};
use common::{check_record, manifest, read};
use programs::{Under, compile, forking_program, left_out, program, run, under};
use std::path::Path;

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

#[test]
fn a_c_program_records_and_every_misuse_is_answered_and_counted() {
    let dir = tempfile::tempdir().expect("a directory");
    let abi = compile("cc", "-std=c99", "abi.c", false, dir.path());
    let traces = dir.path().join("traces");
    run(program(&abi).arg("run").arg(&traces));

    let m = manifest(&traces.join("run=c"));
    assert_eq!(m.state, RunState::Complete);
    assert_eq!(
        (m.engine.name.as_str(), m.engine.version.as_str()),
        ("c-engine", "2")
    );
    assert_eq!(m.settings.threads, Some(1));
    assert_eq!(
        m.settings.extra.get("rope_base").map(String::as_str),
        Some("10000")
    );
    assert_eq!(m.sequences[0].ids, [Some(504), None, Some(282)]);
    let program = std::fs::read(&abi).expect("the program, which served as a model file");
    let model = m.model.expect("a model");
    assert_eq!(model.blake3, Some(blake3::hash(&program).to_hex().to_string()));
    assert_eq!(model.bytes, Some(program.len() as u64));
    assert_eq!(m.dropped.total, 18, "{:?}", m.dropped);
    for reason in [
        "bnt_tap is NULL",
        "type Q8_1",
        "dtype number 99",
        "token axis outside the shape",
    ] {
        assert_eq!(
            m.dropped.reasons.get(reason),
            Some(&1),
            "{reason}: {:?}",
            m.dropped
        );
    }

    let records = read(&traces.join("run=c"));
    let keys: Vec<_> = records
        .iter()
        .map(|r| (r.meta.op_index, r.meta.seq, r.meta.request, r.meta.shape.clone()))
        .collect();
    assert_eq!(
        keys,
        [
            (0, 5, 0, vec![4]),
            (0, 6, 0, vec![4]),
            (0, 7, 0, vec![4]),
            (1, 7, 0, vec![4]),
            (1, 3, 1, vec![4]),
            (1, 3, 2, vec![4]),
            (2, 5, 0, vec![3, 4]),
            (3, 5, 0, vec![]),
            (4, 5, 0, vec![1, 0]),
        ]
    );
    for (record, row) in records.iter().zip([0.0f32, 4.0, 8.0, 0.0, 4.0, 8.0]) {
        let values = [row, row + 1.0, row + 2.0, row + 3.0];
        assert_eq!(record.values.as_deref(), Some(&values[..]));
        check_record(record, &bytes(&values));
    }
    assert_eq!(
        (records[0].meta.name.as_str(), records[0].meta.op.as_str()),
        ("Qcur-2", "MUL_MAT")
    );
    let backwards: Vec<f32> = (0..12).rev().map(|x| x as f32).collect();
    assert_eq!(records[6].values.as_ref(), Some(&backwards));
    assert_eq!(records[6].meta.name, "\u{fffd}");
    let all = bytes(&(0..12).map(|x| x as f32).collect::<Vec<_>>());
    assert_eq!(
        (records[7].meta.dtype, records[7].raw.as_deref()),
        (DType::I64, Some(&all[1..9]))
    );
    assert_eq!(
        (records[8].meta.dtype, records[8].values.as_deref()),
        (DType::F16, Some(&[][..]))
    );
}

#[test]
fn a_cpp_program_records_from_several_threads_and_seals_itself() {
    let dir = tempfile::tempdir().expect("a directory");
    let raii = compile("c++", "-std=c++17", "raii.cpp", false, dir.path());
    let traces = dir.path().join("traces");
    run(program(&raii).arg(&traces));
    let records = read(&traces.join("run=cpp"));
    assert_eq!(records.len(), 2 + 2 + 100);
    let raw: Vec<u8> = [4.0f64, 5.0, 6.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    assert_eq!(records[1].raw.as_ref(), Some(&raw));
    assert_eq!(
        (
            records[3].meta.seq,
            records[3].meta.request,
            records[3].raw.as_ref()
        ),
        (9, 1, Some(&raw))
    );
    for layer in 0..4 {
        let of_layer = records[4..].iter().filter(|r| r.meta.layer == layer);
        let seqs: Vec<i64> = of_layer.map(|r| r.meta.seq).collect();
        assert_eq!(
            seqs,
            (0..25).collect::<Vec<_>>(),
            "in the order of layer {layer}'s own thread"
        );
    }
    let m = manifest(&traces.join("run=cpp"));
    assert_eq!((m.state, m.dropped.total), (RunState::Complete, 2));
    for (run, cause) in [
        ("run=thrown", "an exception ended the engine"),
        ("run=failed", "no memory for the context"),
    ] {
        let m = manifest(&traces.join(run));
        assert_eq!((m.state, m.records), (RunState::Failed, 1));
        assert_eq!(m.failure.as_deref(), Some(cause));
    }
}

#[test]
fn the_process_wide_recorder_is_sealed_at_exit_and_may_be_closed_before() {
    let dir = tempfile::tempdir().expect("a directory");
    let abi = compile("cc", "-std=c99", "abi.c", true, dir.path());
    for what in ["global", "closed-global"] {
        let traces = dir.path().join(what);
        run(program(&abi)
            .arg(what)
            .arg("-")
            .env("BITNET_TRACE_DIR", &traces)
            .env("BITNET_TRACE_RUN", "g"));
        assert_eq!(manifest(&traces.join("run=g")).state, RunState::Complete);
        assert_eq!(read(&traces.join("run=g")).len(), 1);
    }
}

#[test]
fn an_unwritable_directory_is_one_warning_and_the_engine_goes_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let abi = compile("cc", "-std=c99", "abi.c", false, dir.path());
    let file = dir.path().join("file");
    std::fs::write(&file, "").expect("a file");
    let output = run(program(&abi)
        .args(["off", "-"])
        .env("BITNET_TRACE_DIR", file.join("traces")));
    assert_eq!(output.stdout, b"the engine's output\n");
    let warning = String::from_utf8_lossy(&output.stderr);
    assert!(
        warning.contains("BITNET_TRACE_DIR") && warning.contains("writable"),
        "{warning}"
    );
}

#[test]
fn a_write_that_fails_leaves_the_engine_alone_and_the_run_says_failed() {
    let dir = tempfile::tempdir().expect("a directory");
    let abi = compile("cc", "-std=c99", "abi.c", false, dir.path());
    let traces = dir.path().join("traces");
    // files of at most 300 KiB (ulimit counts 512 bytes): the second page does not fit, and the signal that
    // comes with it would end the host, which knows nothing of it
    let limited = "ulimit -f 600; exec \"$0\" flood -";
    let mut shell = program(Path::new("/bin/sh"));
    shell.args(["-c", limited]).arg(&abi);
    let output = run(shell
        .env("BITNET_TRACE_DIR", &traces)
        .env("BITNET_TRACE_RUN", "f"));
    assert_eq!(output.stdout, b"the engine's output\n");
    let warnings = String::from_utf8_lossy(&output.stderr);
    assert_eq!(warnings.matches("stops").count(), 1, "{warnings}");
    let m = manifest(&traces.join("run=f"));
    assert_eq!(
        (m.state, m.records, m.dropped.total),
        (RunState::Failed, 0, 100),
        "{warnings}"
    );
    assert!(m.failure.is_some_and(|f| f.contains("part-00000.parquet.open")));
}

#[test]
fn a_selection_keeps_what_it_names_and_a_wrong_one_is_told_and_records_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let select = compile("cc", "-std=c99", "select.c", false, dir.path());
    let traces = dir.path().join("traces");
    run(program(&select).arg("options").arg(&traces));
    let keys: Vec<_> = (read(&traces.join("run=some")).iter())
        .map(|r| (r.meta.seq, r.meta.layer, r.values.as_ref().map_or(0.0, |v| v[0])))
        .collect();
    assert_eq!(keys, [(1, 6, 4.0), (2, 6, 8.0)]);
    let m = manifest(&traces.join("run=some"));
    assert_eq!(m.selection.as_deref(), Some("seq=1-2,layer=6,stage=attn_*"));
    assert_eq!(
        (m.state, m.dropped.total),
        (RunState::Complete, 2),
        "{:?}",
        m.dropped
    );
    assert_eq!(
        read(&traces.join("run=older")).len(),
        6,
        "of a header that has no selection"
    );

    let environment = |selection: &str| {
        let mut program = program(&select);
        program
            .args(["environment", "-"])
            .env("BITNET_TRACE_DIR", &traces);
        let output = run(program
            .env("BITNET_TRACE_RUN", "e")
            .env("BITNET_TRACE_SELECT", selection));
        assert_eq!(output.stdout, b"the engine's output\n");
        String::from_utf8(output.stderr).expect("text")
    };
    let told = environment("seq=0,layer=six");
    assert_eq!(told.matches("bitnet-trace:").count(), 1, "{told}");
    for part in [
        "BITNET_TRACE_SELECT",
        "column 13",
        "  seq=0,layer=six\n              ^^^\n",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(!traces.join("run=e").exists());
    let told = environment("stage=atn_out");
    assert_eq!(told.matches("bitnet-trace:").count(), 1, "{told}");
    assert!(
        told.contains("matched none") && told.contains("\"atn_out\" is no stage"),
        "{told}"
    );
    assert_eq!(manifest(&traces.join("run=e")).state, RunState::Complete);
    environment("");
    assert_eq!(read(&traces.join("run=e-2")).len(), 6, "everything");
}

#[test]
fn a_forked_child_goes_on_without_recording_and_says_so_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let fork = compile("cc", "-std=c99", "fork.c", false, dir.path());
    let traces = dir.path().join("traces");
    let output = run(forking_program(&fork).arg(&traces));
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(told.matches("is a fork of process").count(), 1, "{told}");
    let m = manifest(&traces.join("run=parent"));
    assert_eq!((m.state, m.records, m.dropped.total), (RunState::Complete, 20, 0));
    assert_eq!((m.settings.threads, m.sequences.len()), (None, 0));
    let seqs: Vec<i64> = read(&traces.join("run=parent"))
        .iter()
        .map(|r| r.meta.seq)
        .collect();
    assert_eq!(seqs, (0..20).collect::<Vec<_>>());
}

#[test]
fn a_tensor_that_there_is_no_memory_to_copy_is_counted_and_does_not_end_the_host() {
    if left_out("a limit of memory") {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let abi = compile("cc", "-std=c99", "abi.c", false, dir.path());
    let traces = dir.path().join("traces");
    let mut shell = program(Path::new("/bin/sh"));
    shell
        .args(["-c", "ulimit -v 1000000; exec \"$0\" starved -"])
        .arg(&abi);
    run(shell
        .env("BITNET_TRACE_DIR", &traces)
        .env("BITNET_TRACE_RUN", "s"));
    let m = manifest(&traces.join("run=s"));
    assert_eq!((m.state, m.records), (RunState::Complete, 2));
    assert_eq!(m.dropped.reasons.get("no memory for a copy"), Some(&1));
}

#[test]
fn packed_blocks_are_recorded_as_they_lie_and_never_split() {
    let dir = tempfile::tempdir().expect("a directory");
    let packed = compile("cc", "-std=c99", "packed.c", false, dir.path());
    run(program(&packed).arg(dir.path()));
    let records = read(&dir.path().join("run=packed"));
    let block = |n: u8| [&[0x00, 0x3c][..], &[n; 32]].concat();
    for (record, blocks) in records.iter().zip([4..8u8, 8..12]) {
        assert_eq!(record.meta.dtype, DType::Q8_0);
        assert_eq!(record.meta.shape, [2, 64]);
        let bytes: Vec<u8> = blocks.flat_map(block).collect();
        assert_eq!((&record.values, record.raw.as_ref()), (&None, Some(&bytes)));
        check_record(record, &bytes);
    }
    assert_eq!(records[1].meta.stats.max, Some(11.0), "dequantised");
    let dropped = manifest(&dir.path().join("run=packed")).dropped;
    assert_eq!((records.len(), dropped.total), (2, 3), "{dropped:?}");
    assert_eq!(
        dropped.reasons.get("Q8_0: its rows are not whole blocks"),
        Some(&1),
        "{dropped:?}"
    );
}

#[test]
fn a_host_whose_allocations_all_fail_for_a_while_goes_on_and_what_was_lost_is_counted() {
    if left_out("a host with an allocator of its own") {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let starved = compile("cc", "-std=c99", "starved.c", false, dir.path());
    let traces = dir.path().join("traces");
    let output = run(program(&starved).arg(&traces));
    let told = String::from_utf8(output.stdout).expect("text");
    let told: Vec<u64> = told
        .split_whitespace()
        .map(|n| n.parse().expect("a number"))
        .collect();
    let m = manifest(&traces.join("run=starved"));
    assert_eq!((m.state, m.records), (RunState::Complete, 2 + told[0]));
    assert_eq!(
        m.dropped.reasons.get("no memory for a copy"),
        Some(&told[1]),
        "{:?}",
        m.dropped
    );
    assert_eq!(
        m.dropped.total,
        told[1] + 299,
        "those that the host counted itself as well"
    );
}

#[test]
fn what_the_tests_run_under_sees_a_read_outside_of_a_tensors_memory() {
    if under() == Under::Nothing {
        return; // nobody looks
    }
    let dir = tempfile::tempdir().expect("a directory");
    let lie = compile("cc", "-std=c99", "lie.c", false, dir.path());
    let output = program(&lie).arg(dir.path()).output().expect("run");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && told.contains("bnt_tensor"), "{told}");
}

#[test]
fn a_c_program_goes_on_with_the_tensors_of_a_stored_run() {
    let dir = tempfile::tempdir().expect("a directory");
    let replay = compile("cc", "-std=c99", "replay.c", false, dir.path());
    let traces = dir.path().join("traces");
    run(program(&replay).arg(&traces));
    let of = |name: &str| manifest(&traces.join(format!("run={name}")));
    assert_eq!(of("b").state, RunState::Complete);
    assert_eq!(of("b").replay.expect("a replay").injected, 2);
    assert_eq!(of("c").state, RunState::Failed);
    // What the program had computed is recorded, and not what it went on with.
    let computed: Vec<_> = read(&traces.join("run=b"))
        .into_iter()
        .map(|r| r.values)
        .collect();
    assert_eq!(computed, vec![Some(vec![-1.0; 3]); 2]);
    assert!(!traces.join("run=d").exists());
}
