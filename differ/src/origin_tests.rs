use super::*;
use crate::{
    compare::{Options, Verdicts, verdicts},
    first::FirstReport,
    testing::{Memory, manifest},
};

const STAGES: [&str; 6] = [
    "attn_norm",
    "q_proj",
    "q_rope",
    "attn_ctx",
    "attn_out",
    "layer_out",
];

/// Two tokens through two layers.
fn run(skip: &[&str]) -> Memory {
    let mut m = Memory::default();
    for seq in 0..2 {
        m.push(seq, -1, "embeddings", &[1.0, seq as f32]);
        for layer in 0..2 {
            for stage in STAGES.iter().filter(|s| !skip.contains(s)) {
                m.push(seq, layer, stage, &[1.0, seq as f32, layer as f32]);
            }
        }
        m.push(seq, -1, "logits", &[1.0, seq as f32]);
    }
    m
}

/// Moves the records at these places by 10 %.
fn break_at(mut m: Memory, places: &[(i64, i32, &str)]) -> Memory {
    for (meta, elements) in &mut m.rows {
        if places.contains(&(meta.seq, meta.layer, meta.stage.as_str())) {
            let moved: Vec<f32> = elements
                .values()
                .expect("values")
                .iter()
                .map(|x| x + 0.1)
                .collect();
            meta.blake3 = "b".repeat(64);
            *elements = crate::records::Elements::Values(moved);
        }
    }
    m
}

fn with_verdicts<T>(left: &Memory, right: &Memory, f: impl FnOnce(&Verdicts<'_>) -> T) -> T {
    let (a, b) = (manifest("a", "x", 2, &[1, 2]), manifest("b", "y", 2, &[1, 2]));
    let (graph, options) = (StageGraph::builtin(), Options::default());
    let (left, right) = (left.side(&a), right.side(&b));
    f(&verdicts(&left, &right, &graph, &options, &|_, _| ()).expect("comparable"))
}

/// The keys of the origins; of every position or, as a comparison does, from the first at which something diverged.
fn origin_keys(v: &Verdicts<'_>, from_divergence: bool) -> Vec<String> {
    let mut origins = Origins::new([v.left, v.right], v.graph);
    origins.places(&v.plan.places);
    let mut found = Vec::new();
    let mut begun = !from_divergence;
    for (at, steps) in v.plan.stretch.by_position() {
        let outcomes = &v.outcomes[at.first..at.first + steps.len()];
        begun |= outcomes.iter().any(|o| o.verdict == Verdict::Diverged);
        if begun {
            let of_position = origins.position(at.request, steps, outcomes, &|_| true);
            found.extend(of_position.into_iter().map(|i| v.key(at.first + i).to_string()));
        }
    }
    found
}

fn origin_names(left: &Memory, right: &Memory) -> Vec<String> {
    with_verdicts(left, right, |v| {
        let found = origin_keys(v, true);
        assert_eq!(origin_keys(v, false), found);
        let report = FirstReport::of(&v.comparison());
        let first = report.first_divergence.expect("a divergence");
        if let Some(name) = found.first() {
            assert!(name.ends_with(&format!(
                "seq={}, layer={}, stage={}",
                first.seq, first.layer, first.stage
            )));
            assert_eq!(
                report.origins.iter().map(|o| o.records).sum::<u64>(),
                found.len() as u64
            );
        }
        found
    })
}

#[test]
fn the_origin_is_the_first_bad_output_of_clean_inputs() {
    let mut places = vec![(1, 0, "attn_out"), (1, 0, "layer_out"), (1, -1, "logits")];
    places.extend(STAGES.map(|stage| (1, 1, stage)));
    let right = break_at(run(&[]), &places);
    assert_eq!(
        origin_names(&run(&[]), &right),
        ["seq=1, layer=0, stage=attn_out"]
    );
}

#[test]
fn two_faults_with_clean_inputs_are_two_origins() {
    let right = break_at(
        run(&[]),
        &[(0, 1, "q_rope"), (1, 0, "attn_norm"), (1, 0, "q_proj")],
    );
    assert_eq!(
        origin_names(&run(&[]), &right),
        ["seq=0, layer=1, stage=q_rope", "seq=1, layer=0, stage=attn_norm"]
    );
}

#[test]
fn an_unrecorded_input_hands_on_the_state_of_its_own_inputs() {
    let skip = ["q_proj", "q_rope"];
    let right = break_at(run(&skip), &[(0, 0, "attn_norm"), (0, 0, "attn_ctx")]);
    assert_eq!(
        origin_names(&run(&skip), &right),
        ["seq=0, layer=0, stage=attn_norm"]
    );
}

#[test]
fn attention_inherits_from_earlier_tokens() {
    let left = |m: Memory| {
        let mut with_cache = Memory::default();
        for (meta, elements) in m.rows {
            let values = elements.values().expect("values").to_vec();
            with_cache.push(meta.seq, meta.layer, &meta.stage, &values);
            if meta.stage == "q_rope" {
                with_cache.push(meta.seq, meta.layer, "v_cache", &values);
            }
        }
        with_cache
    };
    let right = break_at(left(run(&[])), &[(0, 0, "v_cache"), (1, 0, "attn_ctx")]);
    assert_eq!(
        origin_names(&left(run(&[])), &right),
        ["seq=0, layer=0, stage=v_cache"]
    );
}

#[test]
fn logits_inherit_from_the_last_layer() {
    let right = break_at(run(&[]), &[(0, 1, "layer_out"), (0, -1, "logits")]);
    assert_eq!(
        origin_names(&run(&[]), &right),
        ["seq=0, layer=1, stage=layer_out"]
    );
}

#[test]
fn a_stage_of_no_vocabulary_is_an_origin_only_when_nothing_diverged_before() {
    let mine = |mut m: Memory| {
        m.push(1, 0, "mine", &[1.0]);
        m
    };
    let right = break_at(mine(run(&[])), &[(1, 0, "mine")]);
    assert_eq!(
        origin_names(&mine(run(&[])), &right),
        ["seq=1, layer=0, stage=mine"]
    );
    let right = break_at(mine(run(&[])), &[(0, 0, "q_rope"), (1, 0, "mine")]);
    assert_eq!(
        origin_names(&mine(run(&[])), &right),
        ["seq=0, layer=0, stage=q_rope"]
    );
}

#[test]
fn visits_are_told_apart() {
    let twice = || {
        let mut m = run(&[]);
        for stage in STAGES {
            m.push_at(1, 1, 0, stage, &[2.0, 3.0]);
        }
        m
    };
    let mut right = twice();
    let rows = right.rows.len();
    for at in [rows - 3, rows - 2] {
        right.rows[at].0.blake3 = "b".repeat(64);
        right.rows[at].1 = crate::records::Elements::Values(vec![9.0, 9.0]);
    }
    // q_rope of the second visit is clean; attn_ctx of it is the origin.
    assert_eq!(origin_names(&twice(), &right), ["seq=1, layer=0, stage=attn_ctx"]);
}

#[test]
fn absurd_layer_numbers_are_no_trouble() {
    let mut left = Memory::default();
    left.push(0, i32::MAX, "attn_norm", &[1.0]);
    left.push(0, i32::MIN, "attn_norm", &[1.0]);
    left.push(i64::MAX, 3, "logits", &[1.0]);
    let mut right = Memory::default();
    right.push(0, i32::MAX, "attn_norm", &[2.0]);
    right.push(0, i32::MIN, "attn_norm", &[2.0]);
    right.push(i64::MAX, 3, "logits", &[2.0]);
    assert!(!origin_names(&left, &right).is_empty());
}

#[test]
fn inputs_are_evidence_and_what_lies_between_is_told() {
    let skip = ["q_proj", "attn_ctx"];
    let right = break_at(run(&skip), &[(1, 1, "attn_out")]);
    with_verdicts(&run(&skip), &right, |v| {
        let first = FirstReport::of(&v.comparison()).first_divergence;
        let found = first.expect("a divergence").inputs;
        assert!(found.compared.iter().all(|i| i.verdict == Verdict::Identical));
        let names: Vec<_> = found
            .compared
            .iter()
            .map(|i| (i.stage.as_str(), i.layer, i.records))
            .collect();
        assert!(names.contains(&("q_rope", 1, 1)), "{names:?}");
        assert_eq!(found.not_compared[0], "attn_ctx");
        assert!(
            !found.not_compared.iter().any(|n| n == "attn_sub_norm"),
            "{found:?}"
        );
    });
}
