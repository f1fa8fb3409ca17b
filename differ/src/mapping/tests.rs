use super::*;
use crate::{
    Error, FirstReport, Options, compare,
    first::Divergence,
    records::{Records, Side},
    testing::{Memory, manifest},
    tolerance::{Gates, Tolerance},
};
use bitnet_trace_schema::{DType, Manifest, StageGraph};
use bitnet_trace_store::Filter;

fn mapped(run: Memory, toml: &str) -> Result<Mapped<Memory>, MappingError> {
    let mapping = Mapping::from_toml(toml, "m.toml")?;
    Mapped::new(run, Which::Right, "mine", Some(&mapping), &StageGraph::builtin())
}

fn keys(records: &dyn Records) -> Vec<(&str, i32)> {
    let metas = (0..records.len()).map(|row| records.meta(row));
    metas.map(|m| (m.stage.as_str(), m.layer)).collect()
}

fn divergence(left: &Memory, right: &dyn Records, gates: Gates) -> Result<Option<Divergence>, Error> {
    let of = |name| manifest(name, "mine", 3, &[1, 2, 3]);
    let (a, b): (Manifest, Manifest) = (of("a"), of("b"));
    let (a, b) = (
        left.side(&a),
        Side {
            records: right,
            ..left.side(&b)
        },
    );
    let options = Options {
        tolerance: Tolerance::all(gates, "test"),
        ..Options::default()
    };
    let graph = StageGraph::builtin();
    let comparison = compare(&a, &b, &graph, &options, &|_, _| ())?;
    Ok(FirstReport::of(&comparison).first_divergence)
}

const EXACT: Gates = Gates {
    exact: true,
    rel_l2: None,
    max_abs: None,
    max_rel: None,
    ulp: None,
    cosine: None,
};

/// The values of a token, told apart from every other one's.
fn token(seq: i64, n: usize) -> Vec<f32> {
    (0..n).map(|i| (seq * 100) as f32 + i as f32).collect()
}

#[test]
fn the_last_entry_that_matches_counts_and_is_for_its_run_only() {
    let run = || {
        let mut m = Memory::default();
        m.push(0, -1, "blk.7.wq", &[1.0]);
        m.push(0, 4, "k", &[1.0]);
        m.push(0, 4, "k", &[2.0]);
        m.push(0, -1, "head", &[1.0]);
        m
    };
    let toml = "[[map]]\nname='blk.{layer}.wq'\nstage='v_proj'\n\
                [[map]]\nname='blk.{layer}.wq'\nstage='q_proj'\nengine='mine'\n\
                [[map]]\nname='blk.{layer}.wq'\nstage='k_proj'\nside='left'\n\
                [[map]]\nname='k'\nin_layer=4\noccurrence=0\nstage='k_proj'\n\
                [[map]]\nname='k'\noccurrence=1\nstage='k_rope'\nlayer=5\n\
                [[map]]\nname='head'\nstage='logits'\n\
                [[map]]\nname='nobody'\nstage='logits'";
    let m = mapped(run(), toml).expect("it fits");
    assert_eq!(
        keys(&m),
        [("q_proj", 7), ("k_proj", 4), ("k_rope", 5), ("logits", -1)]
    );
    assert_eq!(
        (m.naming(0), m.recorded(0).stage.as_str()),
        (Naming::Mapping, "blk.7.wq")
    );
    let mapping = Mapping::from_toml(toml, "m.toml").expect("valid");
    let notes = mapping.notes(&m.used().iter().copied().chain([2]).collect());
    let notes: Vec<&str> = notes.iter().map(|n| n.message.as_str()).collect();
    assert_eq!(
        notes,
        [
            "names and layouts come from m.toml; entries used: 5 of 7",
            "entries of m.toml that match no record: 1 (blk.{layer}.wq), 7 (nobody)"
        ]
    );
}

#[test]
fn aliases_of_the_vocabulary_name_what_it_does_not_know() {
    let mut run = Memory::default();
    let names = [
        ("Qcur-3", "ROPE", "ROPE"),
        ("", "", "attn_scores_softmax"),
        ("Kcur-3", "", "Kcur-3"),  // of two stages
        ("l_out-3", "ADD", "ADD"), // recorded under its own word below
        ("embd", "GET_ROWS", "embd/GET_ROWS"),
        ("norm-3", "RMS_NORM", "RMS_NORM"),
        ("attn_norm-3", "MUL", "mine"), // a word of its own
    ];
    for (name, op, stage) in names {
        run.push(0, 3, stage, &[1.0]);
        (run.last().0.name, run.last().0.op) = (name.into(), op.into());
    }
    run.push(0, 3, "layer_out", &[1.0]);
    let m = Mapped::new(run, Which::Left, "mine", None, &StageGraph::builtin()).expect("no mapping");
    assert_eq!(
        keys(&m),
        [
            ("q_rope", 3),
            ("attn_probs", 3),
            ("Kcur-3", 3),
            ("ADD", 3),
            ("embeddings", -1),
            ("RMS_NORM", 3),
            ("mine", 3),
            ("layer_out", 3)
        ]
    );
    assert_eq!((m.naming(0), m.naming(2)), (Naming::Alias, Naming::Recorded));
}

#[test]
fn filters_take_the_names_that_the_mapping_gives() {
    let mut run = Memory::default();
    for layer in 0..3 {
        run.push(0, -1, &format!("x{layer}"), &[layer as f32]);
    }
    let mut m = mapped(run, "[[map]]\nname='x{layer}'\nstage='q_proj'").expect("it fits");
    m.retain(&Filter {
        layer: Some(1..=2),
        ..Filter::default()
    });
    assert_eq!(keys(&m), [("q_proj", 1), ("q_proj", 2)]);
    assert_eq!(m.elements(1).expect("there").values(), Some(&[2.0][..]));
}

#[test]
fn a_declared_layout_is_carried_out_and_places_are_told_in_the_order_of_the_other_run() {
    for (layout, convention) in [
        ("rope_interleaved", Convention::RopeHalves { heads: 2 }),
        ("rope_halves", Convention::RopeInterleaved { heads: 2 }),
        ("transposed", Convention::Transposed { heads: 4 }),
    ] {
        let (mut left, mut right, mut fault) = (Memory::default(), Memory::default(), Memory::default());
        let mut values = token(1, 8);
        left.push(0, 0, "q_rope", &values);
        right.push(0, 0, "q_rope", &convention.apply(&values));
        values[5] += 1.0;
        fault.push(0, 0, "q_rope", &convention.apply(&values));
        let toml = format!("[[map]]\nstage='q_rope'\nlayout='{layout}'\nheads=2");
        let right = mapped(right, &toml).expect("it fits");
        assert_eq!(
            divergence(&left, &right, EXACT).expect("compared"),
            None,
            "{layout}"
        );
        let fault = mapped(fault, &toml).expect("it fits");
        let found = divergence(&left, &fault, EXACT)
            .expect("compared")
            .expect("a fault");
        assert_eq!(found.max_abs_index, Some(vec![1, 1]), "{layout}");
    }
}

#[test]
fn a_head_major_tensor_is_compared_token_by_token() {
    let (heads, tokens, d) = (2, 3, 2);
    let (mut left, mut right) = (Memory::default(), Memory::default());
    let n = heads * d;
    for t in 0..tokens {
        left.push(t as i64, 0, "q_rope", &token(t as i64, n));
    }
    let buffer: Vec<f32> = (0..heads)
        .flat_map(|h| (0..tokens).flat_map(move |t| token(t as i64, n)[h * d..][..d].to_vec()))
        .collect();
    right.push(0, 0, "q_rope", &buffer[..n]);
    for t in 1..tokens {
        right.same_op(t as i64, 0, "q_rope", &buffer[t * n..][..n]);
    }
    let toml = "[[map]]\nstage='q_rope'\nlayout='head_major'\nheads=2";
    assert!(divergence(&left, &right, EXACT).expect("compared").is_some());
    let right = mapped(right, toml).expect("it fits");
    assert_eq!(divergence(&left, &right, EXACT).expect("compared"), None);
}

#[test]
fn layouts_hold_for_elements_that_f32_does_not_hold() {
    let mut run = Memory::default();
    run.push(0, 0, "q_rope", &[0.0]);
    let bytes = |v: &[i64]| v.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    run.raw(DType::I64, bytes(&[1, 2, 3, 4]));
    let toml = "[[map]]\nstage='q_rope'\nlayout='rope_interleaved'\nheads=1";
    let run = mapped(run, toml).expect("it fits");
    assert_eq!(
        run.elements(0).expect("there").raw(),
        Some(&bytes(&[1, 3, 2, 4])[..])
    );
    assert!(run.meta(0).hash().is_none());
}

#[test]
fn a_layout_that_does_not_fit_is_an_error_that_names_the_entry() {
    let mut run = Memory::default();
    run.push(0, 6, "q_rope", &[1.0; 6]);
    let toml = "[[map]]\nname='x'\nstage='logits'\n[[map]]\nstage='q_rope'\nlayout='rope_halves'\nheads=2";
    let error = mapped(run, toml).expect_err("3 is odd").to_string();
    assert_eq!(
        error,
        "m.toml, entry 2: q_rope of layer 6 has 6 elements, which cannot lie as rope_halves of 2 heads"
    );
}

#[test]
fn slices_of_a_head_major_call_must_be_of_one_size() {
    let mut run = Memory::default();
    run.push(0, 0, "q_rope", &[1.0; 4]);
    run.same_op(1, 0, "q_rope", &[1.0; 2]);
    let toml = "[[map]]\nstage='q_rope'\nlayout='head_major'\nheads=2";
    assert!(matches!(mapped(run, toml), Err(MappingError::Misfit { .. })));
}

#[test]
fn the_file_in_the_readme_is_valid() {
    let readme = include_str!("../../README.md");
    let blocks = readme.split("```toml\n").skip(1);
    let block = blocks.map(|b| b.split("```").next().unwrap_or_default());
    let block = block
        .into_iter()
        .find(|b| b.contains("[[map]]"))
        .expect("a mapping");
    let mapping = Mapping::from_toml(block, "README.md").expect("valid");
    assert_eq!(mapping.entries.len(), 3);
}
