//! A small made-up engine, whose tensors are as alike as those of a real one, under any names and in any layout.

use super::*;
use crate::{
    CompareReport,
    compare::compare,
    mapping::{Mapped, Mapping},
    testing::{Memory, manifest},
    tolerance::{Gates, Tolerance},
};
use proptest::prelude::*;
use std::collections::BTreeMap;

const LAYERS: i32 = 5;
const TOKENS: usize = 10;
const HEADS: usize = 4;
const HEAD: usize = 16;
const WIDTH: usize = HEADS * HEAD;

/// Numbers that look random, the same for a seed (splitmix64, doi 10.1145/2660193.2660195).
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 24) as f32
    }

    /// About normal: the sum of twelve uniform numbers.
    fn normal(&mut self) -> f32 {
        (0..12).map(|_| self.unit()).sum::<f32>() - 6.0
    }

    fn shuffled<T>(&mut self, mut all: Vec<T>) -> Vec<T> {
        for i in (1..all.len()).rev() {
            all.swap(i, (self.bits() % (i as u64 + 1)) as usize);
        }
        all
    }
}

/// A tensor: its stage and layer, and its tokens.
#[derive(Clone)]
struct Made {
    stage: String,
    layer: i32,
    shape: Vec<i64>,
    tokens: Vec<Vec<f32>>,
}

/// The tensors of the engine, in order of execution.
fn engine(seed: u64) -> Vec<Made> {
    let mut random = Random(seed);
    let mut all = Vec::new();
    let mut add = |stage: &str, layer, shape: &[i64], tokens: &[Vec<f32>]| {
        all.push(Made {
            stage: stage.into(),
            layer,
            shape: shape.into(),
            tokens: tokens.to_vec(),
        });
    };
    let mut fresh = |size: f32| -> Vec<Vec<f32>> {
        let one = |_| (0..WIDTH).map(|_| size * random.normal()).collect();
        (0..TOKENS).map(one).collect()
    };
    let plus = |a: &[Vec<f32>], b: &[Vec<f32>]| -> Vec<Vec<f32>> {
        let sum = |(a, b): (&Vec<f32>, &Vec<f32>)| a.iter().zip(b).map(|(x, y)| x + y).collect();
        a.iter().zip(b).map(sum).collect()
    };
    let (flat, split) = ([WIDTH as i64], [HEADS as i64, HEAD as i64]);
    let mut stream = fresh(1.0);
    // One token with an outlier that hides everything else in it.
    stream[0][3] = 1e4;
    add("embeddings", -1, &flat, &stream);
    for layer in 0..LAYERS {
        add("q_proj", layer, &flat, &fresh(1.0));
        let (k, v) = (fresh(1.0), fresh(0.1));
        add("v_proj", layer, &flat, &v);
        add("q_rope", layer, &split, &fresh(1.0));
        add("k_rope", layer, &split, &k);
        add("k_cache", layer, &split, &k);
        // Of each head, probabilities of the keys so far.
        let probs: Vec<Vec<f32>> = fresh(0.5)
            .iter()
            .enumerate()
            .map(|(t, noise)| {
                let row = |h: usize| (0..=t).map(move |key| noise[h * HEAD + key].abs() + 0.01);
                (0..HEADS).flat_map(row).collect()
            })
            .collect();
        add("attn_probs", layer, &[HEADS as i64, -1], &probs);
        let out = fresh(0.15);
        add("attn_out", layer, &flat, &out);
        stream = plus(&stream, &out);
        add("attn_residual", layer, &flat, &stream);
        let down = fresh(0.3);
        add("ffn_down", layer, &flat, &down);
        stream = plus(&stream, &down);
        add("layer_out", layer, &flat, &stream);
    }
    add("all_layers_out", -2, &flat, &stream);
    add("logits", -1, &flat, &fresh(3.0));
    all
}

/// Another right engine: every value a little off.
fn noisy(mut all: Vec<Made>, seed: u64, size: f32) -> Vec<Made> {
    let mut random = Random(seed);
    let mut last: Option<Vec<Vec<f32>>> = None;
    for made in &mut all {
        let clean = made.tokens.clone();
        for row in &mut made.tokens {
            let rms = (row.iter().map(|x| x * x).sum::<f32>() / row.len() as f32)
                .sqrt()
                .min(2.0);
            row.iter_mut().for_each(|x| *x += size * rms * random.normal());
        }
        // A cache holds what was put into it.
        if made.stage == "k_cache" || made.stage == "all_layers_out" {
            made.tokens.clone_from(last.as_ref().unwrap_or(&clean));
        }
        last = Some(made.tokens.clone());
    }
    all
}

/// The run of these tensors, each under the name that it is given.
fn record(all: &[Made], name: impl Fn(usize, &Made) -> (String, i32)) -> Memory {
    let mut run = Memory::default();
    for (i, made) in all.iter().enumerate() {
        let (stage, layer) = name(i, made);
        for (t, values) in made.tokens.iter().enumerate() {
            match t {
                0 => run.push(0, layer, &stage, values),
                _ => run.same_op(t as i64, layer, &stage, values),
            }
            let columns = values.len() as i64 / made.shape[0].max(1);
            match made.shape.as_slice() {
                [rows, _] => run.shape(&[*rows, columns]),
                _ => run.shape(&[values.len() as i64]),
            };
        }
    }
    run
}

fn known(all: &[Made]) -> Memory {
    record(all, |_, made| (made.stage.clone(), made.layer))
}

/// Under names that say nothing, in an order of names that says nothing; and what each stands for.
fn unknown(all: &[Made], seed: u64) -> (Memory, BTreeMap<String, (String, i32)>) {
    let numbers = Random(seed).shuffled((0..all.len()).collect());
    let name = |i: usize| format!("tensor_{}", numbers[i]);
    let truth = all.iter().enumerate();
    let truth = truth.map(|(i, made)| (name(i), (made.stage.clone(), made.layer)));
    (record(all, |i, _| (name(i), -1)), truth.collect())
}

fn options(rel_l2: f64) -> Options {
    let gates = Gates {
        rel_l2: Some(rel_l2),
        ..Gates::default()
    };
    Options {
        tolerance: Tolerance::all(gates, "test"),
        ..Options::default()
    }
}

fn ids() -> Vec<i32> {
    (0..TOKENS as i32).collect()
}

fn aligned(left: &Memory, right: &Memory) -> Alignment {
    let (a, b) = (manifest("a", "x", 10, &ids()), manifest("b", "y", 10, &ids()));
    let graph = StageGraph::builtin();
    align(
        &left.side(&a),
        &right.side(&b),
        &graph,
        &Options::default(),
        &|_, _| (),
    )
    .expect("comparable")
}

/// How many pairs are right, and how many are not.
fn judged(report: &AlignReport, truth: &BTreeMap<String, (String, i32)>) -> (usize, usize) {
    let right = |p: &&PairView| truth.get(&p.right.stage) == Some(&(p.stage.clone(), p.layer));
    let good = report.pairs.iter().filter(right).count();
    (good, report.pairs.len() - good)
}

/// Compares under the mapping: records that match, and that diverge or are alone.
fn under_mapping(left: &Memory, right: &Memory, text: &str, rel_l2: f64) -> (u64, u64) {
    let graph = StageGraph::builtin();
    let mapping = Mapping::from_toml(text, "m.toml").expect("a mapping file");
    let mapped = |run, which| Mapped::new(run, which, "x", Some(&mapping), &graph).expect("it fits");
    let (l, r) = (mapped(left, Which::Left), mapped(right, Which::Right));
    let (a, b) = (manifest("a", "x", 10, &ids()), manifest("b", "y", 10, &ids()));
    let side = |records, of| Side {
        records,
        ..left.side(of)
    };
    let (a, b) = (side(&l as &dyn crate::records::Records, &a), side(&r, &b));
    let options = options(rel_l2);
    let comparison = compare(&a, &b, &graph, &options, &|_, _| ()).expect("comparable");
    let counts = CompareReport::of(&comparison).common.counts;
    let other = counts.diverged + counts.incomparable + counts.missing_left + counts.missing_right;
    (counts.identical + counts.within, other)
}

fn number(all: &[Made]) -> u64 {
    (all.len() * TOKENS) as u64
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn names_that_say_nothing_are_found_out_whatever_the_seed_and_noise(seed in 0u64..1_000_000, noise in 0f32..0.05) {
        let all = engine(seed);
        let left = known(&all);
        let (right, truth) = unknown(&noisy(all.clone(), seed + 1, noise), seed + 2);
        let made = aligned(&left, &right);
        let (good, wrong) = judged(&made.report, &truth);
        prop_assert_eq!(wrong, 0);
        prop_assert!(good * 100 >= 98 * all.len(), "{} of {}", good, all.len());
        if good == all.len() {
            prop_assert_eq!(made.report.status, AlignStatus::Ok);
            prop_assert_eq!(under_mapping(&left, &right, &made.mapping, 0.2), (number(&all), 0));
        }
    }

    #[test]
    fn tensors_without_a_counterpart_are_left_alone(seed in 0u64..1_000_000, noise in 0f32..0.04) {
        let all = engine(seed);
        let mut random = Random(seed + 3);
        let gone = ["layer_out", "q_rope", "attn_residual", "attn_probs"];
        let (of_left, of_right) = (gone[seed as usize % 4], gone[(seed as usize + 1) % 4]);
        let left: Vec<Made> = all.iter().filter(|m| m.stage != of_left || m.layer == 0).cloned().collect();
        let mut right = noisy(all.clone(), seed + 1, noise);
        right.retain(|m| m.stage != of_right || m.layer == 1);
        for _ in 0..4 {
            let one = |_| (0..WIDTH).map(|_| random.normal()).collect();
            let tokens = (0..TOKENS).map(one).collect();
            right.push(Made { stage: "nothing".into(), layer: 0, shape: vec![WIDTH as i64], tokens });
        }
        let (run, truth) = unknown(&right, seed + 2);
        let made = aligned(&known(&left), &run);
        let (good, wrong) = judged(&made.report, &truth);
        prop_assert_eq!(wrong, 0);
        let both = right.iter().filter(|r| left.iter().any(|l| (&l.stage, l.layer) == (&r.stage, r.layer))).count();
        prop_assert!(good * 100 >= 85 * both, "{} of {}", good, both);
        prop_assert_eq!(made.report.status, AlignStatus::Partial);
    }
}

#[test]
fn layouts_are_found_out_and_the_mapping_reads_them() {
    let all = engine(1);
    let left = known(&all);
    let permutation: Vec<u32> = Random(9).shuffled((0..WIDTH as u32).collect());
    let buffer = |tokens: &[Vec<f32>]| -> Vec<Vec<f32>> {
        let cut = |h: usize| tokens.iter().map(move |t| t[h * HEAD..][..HEAD].to_vec());
        let whole: Vec<f32> = (0..HEADS).flat_map(cut).flatten().collect();
        whole.chunks(WIDTH).map(<[f32]>::to_vec).collect()
    };
    let each = |convention: Convention| {
        move |tokens: &[Vec<f32>]| tokens.iter().map(|t| convention.apply(t)).collect::<Vec<_>>()
    };
    type Change<'a> = &'a dyn Fn(&[Vec<f32>]) -> Vec<Vec<f32>>;
    let permuted = Convention::Permuted {
        order: permutation.into(),
    };
    let cases: [(&str, Change<'_>); 5] = [
        ("rope_interleaved", &each(Convention::RopeHalves { heads: HEADS })),
        ("rope_halves", &each(Convention::RopeInterleaved { heads: HEADS })),
        ("transposed", &each(Convention::Transposed { heads: HEAD })),
        ("head_major", &buffer),
        ("permuted", &each(permuted)),
    ];
    for (layout, change) in cases {
        let mut right = noisy(all.clone(), 2, 0.01);
        let moved = |m: &Made| ["q_rope", "k_rope", "k_cache", "q_proj"].contains(&m.stage.as_str());
        for made in right.iter_mut().filter(|m| moved(m)) {
            made.tokens = change(&made.tokens);
            made.shape = vec![WIDTH as i64];
        }
        let (run, truth) = unknown(&right, 3);
        let made = aligned(&left, &run);
        let found = made.report.pairs.iter().filter(|p| p.layout.is_some());
        let names: Vec<&str> = found
            .map(|p| p.layout.map_or("", ConventionName::as_str))
            .collect();
        assert_eq!(names, vec![layout; 4 * LAYERS as usize], "{layout}");
        assert_eq!(judged(&made.report, &truth), (all.len(), 0), "{layout}");
        let counts = under_mapping(&left, &run, &made.mapping, 0.05);
        assert_eq!(counts, (number(&all), 0), "{layout}\n{}", made.mapping);
    }
}

#[test]
fn tensors_of_the_same_values_pair_where_both_runs_have_as_many() {
    let all = engine(4);
    let (run, truth) = unknown(&all, 5);
    assert_eq!(
        judged(&aligned(&known(&all), &run).report, &truth),
        (all.len(), 0)
    );
    // With the keys recorded once, it cannot be told which of the two they are.
    for gone in ["k_cache", "k_rope"] {
        let mut once = all.clone();
        once.retain(|m| m.stage != gone || m.layer != 2);
        let (run, truth) = unknown(&once, 5);
        let report = aligned(&known(&all), &run).report;
        assert_eq!(judged(&report, &truth), (all.len() - 2, 0), "{gone}");
        let kinds: Vec<_> = report.alone.iter().map(|a| (a.run, a.kind)).collect();
        let same = |which| (which, "same_values");
        assert_eq!(
            kinds,
            [same(Which::Left), same(Which::Left), same(Which::Right)],
            "{gone}"
        );
    }
}

#[test]
fn names_of_both_runs_that_say_nothing_get_one_that_both_are_mapped_to() {
    let all = engine(6);
    let left = record(&all, |i, _| (format!("node {i}"), -1));
    let (right, _) = unknown(&noisy(all.clone(), 7, 0.01), 8);
    let made = aligned(&left, &right);
    assert_eq!(made.report.matched, all.len() as u64);
    assert_eq!(
        under_mapping(&left, &right, &made.mapping, 0.05),
        (number(&all), 0)
    );
}

#[test]
fn wrong_words_of_the_vocabulary_are_not_believed() {
    let all = engine(10);
    let wrong = |made: &Made| match made.stage.as_str() {
        "q_proj" => "v_proj".to_owned(),
        "v_proj" => "q_proj".to_owned(),
        other => other.to_owned(),
    };
    let right = record(&noisy(all.clone(), 11, 0.01), |_, made| (wrong(made), made.layer));
    let left = known(&all);
    let made = aligned(&left, &right);
    assert_eq!(
        under_mapping(&left, &right, &made.mapping, 0.05),
        (number(&all), 0)
    );
    assert_eq!(made.mapping.matches("[[map]]").count(), 2, "{}", made.mapping);
}

#[test]
fn a_mapping_of_many_layers_is_one_entry_a_stage() {
    let all = engine(12);
    let left = known(&all);
    for name in [
        |m: &Made| (format!("blk.{}.x_{}", m.layer, m.stage), -1),
        |m: &Made| (format!("x_{}", m.stage), m.layer),
        |m: &Made| (format!("x_{}-{}", m.stage, m.layer), -1),
    ] {
        let right = record(&noisy(all.clone(), 13, 0.01), |_, m| name(m));
        let made = aligned(&left, &right);
        let entries = made.mapping.matches("[[map]]").count();
        assert_eq!(entries, 13, "{}", made.mapping);
        assert_eq!(
            under_mapping(&left, &right, &made.mapping, 0.05),
            (number(&all), 0)
        );
    }
}

#[test]
fn tensors_that_one_run_names_alike_are_told_apart_by_their_occurrence() {
    let all = engine(14);
    let right = record(&noisy(all.clone(), 15, 0.01), |_, m| ("add".to_owned(), m.layer));
    let left = known(&all);
    let made = aligned(&left, &right);
    assert_eq!(made.report.matched, all.len() as u64);
    assert_eq!(
        under_mapping(&left, &right, &made.mapping, 0.05),
        (number(&all), 0)
    );
}

#[test]
fn what_says_nothing_or_is_not_finite_is_left_alone() {
    let mut all = engine(16);
    let odd = |values: Vec<f32>, stage: &str| Made {
        stage: stage.into(),
        layer: 0,
        shape: vec![values.len() as i64],
        tokens: vec![values; TOKENS],
    };
    all.push(odd(vec![0.0; WIDTH], "zeros"));
    all.push(odd(vec![1.0; WIDTH], "ones"));
    all.push(odd(vec![f32::NAN; WIDTH], "nans"));
    all.push(odd(vec![], "nothing"));
    let (run, truth) = unknown(&all, 17);
    let report = aligned(&known(&all), &run).report;
    assert_eq!(judged(&report, &truth), (all.len() - 4, 0));
    assert_eq!(report.alone.len(), 8);
    assert!(report.alone.iter().all(|a| a.kind == "tells_nothing"));
}

#[test]
fn a_run_without_values_and_one_of_other_positions_are_errors() {
    let all = engine(18);
    let (a, b) = (manifest("a", "x", 10, &ids()), manifest("b", "y", 10, &ids()));
    let graph = StageGraph::builtin();
    let left = known(&all);
    let mut absent = known(&all);
    absent
        .rows
        .iter_mut()
        .for_each(|r| r.1 = crate::records::Elements::Absent);
    let error = |right: &Memory| {
        let (l, r) = (left.side(&a), right.side(&b));
        align(&l, &r, &graph, &Options::default(), &|_, _| ()).expect_err("refused")
    };
    assert!(matches!(error(&absent), Error::NoValues { run } if run == "b"));
    let mut later = known(&all);
    later.rows.iter_mut().for_each(|r| r.0.seq += 100);
    assert!(matches!(error(&later), Error::NothingInCommon { .. }));
}

#[test]
fn a_last_layer_of_output_rows_only_is_found_too() {
    let all = engine(20);
    let mut pruned = known(&noisy(all.clone(), 21, 0.01));
    pruned
        .rows
        .retain(|(m, _)| m.seq >= 7 || !(m.layer == LAYERS - 1 || m.layer == -2));
    let report = aligned(&known(&all), &pruned).report;
    let wrong = report.pairs.iter().filter(|p| p.left != p.right);
    assert_eq!(wrong.count(), 0);
    assert!(report.matched * 100 >= 90 * all.len() as u64, "{report:#?}");
}
