//! Tracepoints that the engine keeps (`bnt_site`), and what a guard costs.

#[path = "../../recorder/tests/common/mod.rs"]
mod common;
mod programs;

use bitnet_trace_schema::RunState;
use common::{manifest, read};
use programs::{Under, compile, compiler, forking_program, root, run, under};
use std::process::Command;

#[test]
fn a_site_wants_what_is_selected_until_the_run_ends_and_never_in_a_forked_child() {
    let dir = tempfile::tempdir().expect("a directory");
    let sites = compile("cc", "-std=c99", "site.c", false, dir.path());
    let traces = dir.path().join("traces");
    run(forking_program(&sites).arg(&traces));
    let m = manifest(&traces.join("run=some"));
    assert_eq!(m.state, RunState::Complete);
    assert_eq!(
        m.dropped.reasons.get("bnt_tap is NULL"),
        Some(&1),
        "{:?}",
        m.dropped
    );
    assert_eq!(m.dropped.total, 1);
    let keys: Vec<_> = (read(&traces.join("run=some")).into_iter())
        .map(|r| (r.meta.stage.to_string(), r.meta.layer, r.meta.seq))
        .collect();
    let expected = [("attn_out", 6, 0), ("attn_out", 61, 1), ("logits", -1, 2)];
    assert_eq!(
        keys,
        expected.map(|(stage, layer, seq)| (stage.to_owned(), layer, seq))
    );
}

/// The machine code of `guarded` in guard.c up to its first call: what runs where nothing is wanted.
#[cfg(target_arch = "x86_64")]
#[test]
fn a_tracepoint_that_is_not_wanted_costs_one_load_and_two_branches() {
    if under() == Under::Address {
        return; // whose own instructions stand between
    }
    let dir = tempfile::tempdir().expect("a directory");
    let object = dir.path().join("guard.o");
    let mut command = compiler("cc", "-std=c99");
    command.args(["-O2", "-c"]).arg(root().join("tests/c/guard.c"));
    run(command.arg("-o").arg(&object));
    let output = run(Command::new("objdump")
        .args(["-d", "--no-show-raw-insn"])
        .arg(&object));
    let text = String::from_utf8(output.stdout).expect("text");
    let code = text.split("<guarded>:").nth(1).expect("the function");
    let (before, _) = code.split_once("call").expect("the call");
    let instructions: Vec<&str> = before.lines().filter_map(|l| l.split('\t').nth(1)).collect();
    let loads = instructions.iter().filter(|i| i.contains('(')).count();
    let branches = instructions.iter().filter(|i| i.starts_with('j')).count();
    assert_eq!((loads, branches), (1, 2), "{instructions:#?}");
    assert!(instructions.len() < 12, "{instructions:#?}");
}
