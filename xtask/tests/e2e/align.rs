//! `align` finds which tensor is which between engines whose names have nothing in common.

use crate::support::*;
use bitnet_trace::{Engine, Recorder, Slice, Tap};
use bitnet_trace_store::{Filter, Row, Run};
use serde_json::Value;
use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

/// Tensors of SmolLM2 that both engines record: 19 stages a layer and 4 of the model.
const TENSORS: usize = 19 * LAYERS + 4;
/// Least part of the mapping that must be found.
const FOUND: f64 = 0.98;
const HEAD: usize = 64;

/// Queries and keys, whose order of elements is an engine's own affair.
const ROTATED: [&str; 5] = ["q_proj", "k_proj", "q_rope", "k_rope", "k_cache"];

/// What a disguised run calls a tensor, by occurrence, and what it is.
type Truth = BTreeMap<(String, u64), (String, i64)>;

/// The values of a tensor, one slice a token.
type Tokens = Vec<Vec<f32>>;

/// How a run is disguised.
struct Disguise<'a> {
    /// The stage that a record is given; its layer is -1.
    name: &'a dyn Fn(&Row) -> String,
    /// Whether the engine's names of tensors and operations stay.
    keeps_names: bool,
    /// The records of a tensor of one forward call, by position, in another layout.
    change: &'a dyn Fn(&str, Tokens) -> Tokens,
    /// Whether a stage of a layer is left out.
    without: &'a dyn Fn(&str, i32) -> bool,
    /// Tensors of random numbers.
    random: usize,
}

const PLAIN: Disguise<'static> = Disguise {
    name: &scrambled,
    keeps_names: false,
    change: &|_, tokens| tokens,
    without: &|_, _| false,
    random: 0,
};

/// A number for a stage and layer, which says nothing of either.
fn scrambled(row: &Row) -> String {
    let text = format!("{} {}", row.meta.stage, row.meta.layer);
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("t{:08x}", hash >> 32)
}

/// llama.cpp's own names: several tensors have the same one.
fn of_ggml(row: &Row) -> String {
    format!("{}/{}", row.meta.name, row.meta.op)
}

/// Records a run once more in disguise; returns what stands for what.
fn disguise(db: &Db, from: &str, to: &str, how: &Disguise<'_>) -> Truth {
    let run = Run::open(db.at(from)).expect("a run");
    let rows = run.records(&Filter::default());
    let recorder = Recorder::builder(db.path())
        .run(to)
        .engine(Engine::new("unknown", "1"))
        .build()
        .expect("a recorder");
    let manifest = run.manifest();
    recorder.set_prompt("", manifest.prompt_tokens.unwrap_or(0) as usize);
    let mut calls: BTreeMap<(i32, i64), Vec<Row>> = BTreeMap::new();
    for row in rows {
        calls
            .entry((row.meta.pass, row.meta.op_index))
            .or_default()
            .push(row);
    }
    let ids: Vec<i32> = manifest.sequences[0].ids.iter().flatten().copied().collect();
    let (mut pass, mut truth) = (-1, Truth::new());
    let mut occurrences: HashMap<(i32, String), u64> = HashMap::new();
    for ((call, _), mut rows) in calls {
        rows.sort_by_key(|r| r.meta.seq);
        let seqs = rows[0].meta.seq..=rows[rows.len() - 1].meta.seq;
        if call != pass {
            pass = call;
            recorder.begin_pass();
            let fed: Vec<i32> = seqs
                .clone()
                .filter_map(|s| ids.get(s as usize).copied())
                .collect();
            recorder.tokens(0, *seqs.start(), &fed);
        }
        let meta = &rows[0].meta;
        if (how.without)(&meta.stage, meta.layer) {
            continue;
        }
        let name = (how.name)(&rows[0]);
        let occurrence = occurrences.entry((pass, name.clone())).or_default();
        truth.insert(
            (name.clone(), *occurrence),
            (meta.stage.to_string(), meta.layer.into()),
        );
        *occurrence += 1;
        let values = |row: &Row| {
            let tensor = run.tensor(row).expect("a tensor");
            tensor.to_f32().expect("values").into_owned()
        };
        let tokens = (how.change)(&meta.stage, rows.iter().map(values).collect());
        for (row, values) in rows.iter().zip(&tokens) {
            let shape: Vec<usize> = row.meta.shape.iter().map(|&n| n as usize).collect();
            let mut tap = Tap::new(&name, -1, row.meta.seq);
            if how.keeps_names {
                tap = tap.name(&row.meta.name).op(&row.meta.op);
            }
            recorder.record(tap, &Slice::new(values, &shape));
        }
    }
    let mut state = 7u64;
    for i in 0..how.random {
        for seq in 0..POSITIONS as i64 {
            let mut next = || {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
            };
            let values: Vec<f32> = (0..[576, 192, 1536][i % 3]).map(|_| next()).collect();
            recorder.record(Tap::new(&format!("random {i}"), -1, seq), &values[..]);
        }
    }
    let summary = recorder.finish().expect("a run");
    assert_eq!(summary.dropped, 0, "{to}");
    truth
}

/// What `align` made of a pair of runs.
struct Aligned {
    right: usize,
    wrong: usize,
    alone: usize,
    code: i32,
    report: Value,
    mapping: String,
}

impl Aligned {
    fn of(db: &Db, a: &str, b: &str, truth: &Truth) -> Self {
        let mapping = db.path().join(format!("{b}.toml")).to_string_lossy().into_owned();
        let done = diff(&["align", &db.at(a), &db.at(b), "-o", &mapping, "--format", "json"]);
        assert!([0, 1].contains(&done.code), "{}", done.stdout);
        let report = done.json();
        let pairs = report["pairs"].as_array().expect("pairs");
        let is_right = |p: &&Value| {
            let tensor = &p["right"];
            let name = tensor["stage"].as_str().expect("a stage").to_owned();
            let occurrence = tensor["occurrence"].as_u64().expect("a number");
            let left = (
                p["left"]["stage"].as_str().expect("a stage").to_owned(),
                p["left"]["layer"].as_i64().expect("a layer"),
            );
            truth.get(&(name, occurrence)) == Some(&left)
        };
        let right = pairs.iter().filter(is_right).count();
        let of_right = |a: &&Value| a["run"] == "right";
        let alone = report["alone"].as_array().expect("a list");
        let made = Self {
            right,
            wrong: pairs.len() - right,
            alone: alone.iter().filter(of_right).count(),
            code: done.code,
            mapping,
            report,
        };
        eprintln!(
            "{b}: {} of {} right, {} wrong, {} left alone",
            made.right,
            truth.len(),
            made.wrong,
            made.alone
        );
        made
    }

    fn assert_found(&self, of: usize) {
        assert_eq!(self.wrong, 0, "{:#}", self.report);
        assert!(
            self.right as f64 >= FOUND * of as f64,
            "{} of {of}: {:#}",
            self.right,
            self.report["alone"]
        );
    }
}

/// Each head's rotary pairs as halves, as another engine may hold them.
fn halves(stage: &str, tokens: Tokens) -> Tokens {
    if !ROTATED.contains(&stage) {
        return tokens;
    }
    let head = |h: &[f32]| -> Vec<f32> {
        let even = h.iter().step_by(2);
        even.chain(h.iter().skip(1).step_by(2)).copied().collect()
    };
    let token = |t: Vec<f32>| t.chunks(HEAD).flat_map(head).collect();
    tokens.into_iter().map(token).collect()
}

/// The whole call as [heads, tokens, head_dim], cut as if tokens came first.
fn head_major(stage: &str, tokens: Tokens) -> Tokens {
    if !ROTATED.contains(&stage) {
        return tokens;
    }
    let width = tokens[0].len();
    let heads = width / HEAD;
    let cut = |h: usize| tokens.iter().map(move |t| &t[h * HEAD..][..HEAD]);
    let whole: Vec<f32> = (0..heads).flat_map(cut).flatten().copied().collect();
    whole.chunks(width).map(<[f32]>::to_vec).collect()
}

/// Columns in an order that no convention has, another one for each width.
fn shuffled(stage: &str, tokens: Tokens) -> Tokens {
    if !ROTATED.contains(&stage) && stage != "v_proj" && stage != "v_cache" {
        return tokens;
    }
    // 5 has no divisor in common with 576 or 192.
    let token = |t: Vec<f32>| (0..t.len()).map(|i| t[(i * 5 + 11) % t.len()]).collect();
    tokens.into_iter().map(token).collect()
}

/// Both engines on a model, as runs `cpp` and `rust`.
fn engines(model: &Path) -> Db {
    let db = Db::new();
    db.record("cpp", &mut cpp(model))
        .record("rust", &mut rust(model, &db));
    db
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn align_finds_the_mapping_between_llama_cpp_and_the_rust_engine_by_values_alone() {
    for (model, limit) in [(f32(), "1e-4"), (q4(), "0.3")] {
        let db = engines(&model);
        let cases: [(&str, Disguise<'_>, Option<&str>); 5] = [
            ("scrambled", PLAIN, None),
            (
                "ggml",
                Disguise {
                    name: &of_ggml,
                    keeps_names: true,
                    ..PLAIN
                },
                None,
            ),
            (
                "rope",
                Disguise {
                    change: &halves,
                    ..PLAIN
                },
                Some("rope_halves"),
            ),
            (
                "head-major",
                Disguise {
                    change: &head_major,
                    ..PLAIN
                },
                Some("head_major"),
            ),
            (
                "shuffled",
                Disguise {
                    change: &shuffled,
                    ..PLAIN
                },
                Some("permuted"),
            ),
        ];
        for (name, how, layout) in cases {
            let truth = disguise(&db, "cpp", name, &how);
            assert_eq!(truth.len(), TENSORS);
            let aligned = Aligned::of(&db, "rust", name, &truth);
            aligned.assert_found(TENSORS);
            let pairs = aligned.report["pairs"].as_array().expect("pairs");
            let layouts = pairs.iter().filter_map(|p| p["layout"].as_str());
            assert!(layouts.clone().all(|l| Some(l) == layout), "{name}");
            assert_eq!(layouts.count() > 0, layout.is_some(), "{name}");
            // The mapping makes a comparison of what had no name in common.
            let with = ["--mapping", &aligned.mapping, "--rel-l2", limit];
            let (code, first) = db.first("rust", name, &with);
            let compared = count(&first, "identical") + count(&first, "within");
            eprintln!("{name}: {compared} records within {limit}, exit {code}");
            if aligned.right == TENSORS {
                assert_full_match(&(code, first));
                assert_eq!(compared, (TENSORS * POSITIONS) as u64);
            }
        }
    }
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn align_leaves_alone_what_has_no_counterpart() {
    for model in [f32(), q4()] {
        let db = engines(&model);
        for (i, gone) in [
            &["q_proj", "ffn_gate", "layer_out"][..],
            &["attn_residual", "attn_norm", "attn_scores"],
            &["k_rope", "ffn_down", "final_norm"],
        ]
        .into_iter()
        .enumerate()
        {
            let name = format!("gone-{i}");
            let how = Disguise {
                // From the middle of the model on, so that the stage is there as well.
                without: &|stage, layer| gone.contains(&stage) && !(0..15).contains(&layer),
                random: 20,
                ..PLAIN
            };
            let truth = disguise(&db, "cpp", &name, &how);
            let aligned = Aligned::of(&db, "rust", &name, &truth);
            assert_eq!((aligned.wrong, aligned.code), (0, 1), "{:#}", aligned.report);
            // Of keys that are recorded once here and twice there it can't be told which they are.
            let twins = if gone.contains(&"k_rope") { 15 } else { 0 };
            aligned.assert_found(truth.len() - twins);
            assert!(aligned.alone >= 20 + twins);
        }
    }
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn align_takes_no_wrong_pair_from_an_engine_with_a_fault() {
    for model in [f32(), q4()] {
        let db = engines(&model);
        // A fault that ruins all that follows leaves what is before it.
        for (i, (fault, least)) in [
            ("rope-base=5000@layer=6,from=3", 560),
            ("rope-base=5000", 1),
            ("missing-residual@layer=12,from=3", 12 * 19),
            ("swap-kv-head@layer=0", 9),
        ]
        .into_iter()
        .enumerate()
        {
            let name = format!("fault-{i}");
            db.record(&name, rust(&model, &db).args(["--fault", fault]));
            let hidden = format!("hidden-{i}");
            let truth = disguise(&db, &name, &hidden, &PLAIN);
            let aligned = Aligned::of(&db, "cpp", &hidden, &truth);
            assert_eq!(aligned.wrong, 0, "{fault}: {:#}", aligned.report);
            assert!(aligned.right >= least, "{fault}: {}", aligned.right);
        }
    }
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn a_plan_tells_aliases_and_what_flash_attention_lacks() {
    let db = engines(&q4());
    let how = Disguise {
        name: &of_ggml,
        keeps_names: true,
        ..PLAIN
    };
    disguise(&db, "cpp", "ggml", &how);
    let plan = |a: &str, b: &str| {
        let done = diff(&[
            "first",
            &db.at(a),
            &db.at(b),
            "--explain-plan",
            "--format",
            "json",
        ]);
        assert_eq!(done.code, 0, "{}", done.stdout);
        done.json()["plan"].as_array().expect("lines").clone()
    };
    let total = |lines: &[Value], what: &str| lines.iter().filter_map(|l| l[what].as_u64()).sum::<u64>();
    let lines = plan("rust", "ggml");
    // All but the caches, which are no nodes of their own, and what is computed once and recorded twice.
    let by_alias = (TENSORS - 2 * LAYERS - 1) * POSITIONS;
    assert_eq!(total(&lines, "by_alias"), by_alias as u64);
    assert_eq!(total(&lines, "by_key"), 0);

    db.record("flash", cpp(&q4()).args(["--flash-attn", "on"]));
    for line in plan("rust", "flash") {
        let stage = line["stage"].as_str().expect("a stage");
        let missing: Vec<&str> = line["missing"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|m| m["kind"].as_str())
            .collect();
        match stage {
            "attn_scores" | "attn_probs" => assert_eq!(missing, ["flash_attention"], "{stage}"),
            _ => assert!(missing.is_empty(), "{stage}: {missing:?}"),
        }
    }
}
