//! The referee against the Rust engine on small models: it agrees at every stage, layer and position, and a referee that
//! is wrong in one thing does not.
#![cfg(feature = "inference")]

use bitnet_diff::{
    StoredRecords,
    local::{Audit, Indexed, Which, audit},
};
use bitnet_models::{
    Activations, Engine, GenerateOptions, LoadOptions, Prompt, TinyArch, TinySpec, TinyType, engine_info,
    generate, write_tiny_model,
};
use bitnet_referee::{Activation, Pairing, Referee, Spec};
use bitnet_trace::Recorder;
use bitnet_trace_store::{Filter, Run};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const IDS: [u32; 9] = [5, 260, 17, 33, 5, 300, 12, 81, 40];

struct Recorded {
    _dir: TempDir,
    model: PathBuf,
    run: PathBuf,
}

/// The engine on a small model: a prompt in two batches, and two tokens more.
fn record(spec: &TinySpec, activations: Activations, select: &str) -> Recorded {
    let dir = tempfile::tempdir().expect("a folder");
    let model = dir.path().join("tiny.gguf");
    write_tiny_model(&model, spec).expect("a model");
    let mut recorder = Recorder::builder(dir.path().join("traces")).engine(engine_info());
    if !select.is_empty() {
        recorder = recorder.select(select);
    }
    let recorder = recorder.build().expect("a recorder");
    let load = LoadOptions {
        activations,
        ..LoadOptions::new(&model, recorder.clone())
    };
    let mut engine = Engine::load(load, &mut |_, _| {}).expect("the engine");
    let options = GenerateOptions {
        batch: 5,
        teacher_force: vec![7, 8, 9],
        ..GenerateOptions::new(Prompt::Tokens(IDS.to_vec()), 3)
    };
    generate(&mut engine, &options, &mut |_| {}).expect("tokens");
    let run = recorder.finish().expect("a run").dir;
    Recorded {
        _dir: dir,
        model,
        run,
    }
}

fn audited(referee: &Referee, run: &Path) -> (Audit, usize) {
    let records = StoredRecords::new(Run::open(run).expect("a run"), &Filter::default());
    let side = records.side();
    let told = audit(referee, &Indexed::new(&side), &Which::default(), &|_, _| ()).expect("an audit");
    (told, records.rows().len())
}

fn referee(model: &Path) -> Referee {
    Referee::open(model).expect("a referee")
}

/// Stages that are off, in the model's order, with the first position that is.
fn off(audit: &Audit) -> Vec<(&str, i32, i64)> {
    let first = |stage: &bitnet_diff::local::StageAudit| stage.off().map(|m| m.token.seq).min();
    let stages = audit.stages.iter();
    stages
        .filter_map(|stage| Some((stage.stage, stage.layer, first(stage)?)))
        .collect()
}

fn specs() -> [TinySpec; 4] {
    let llama = TinySpec::default();
    [
        llama,
        TinySpec {
            weights: TinyType::Q4_1,
            ..llama
        },
        TinySpec::bitnet(TinyArch::Bitnet),
        TinySpec::bitnet(TinyArch::BitnetB158),
    ]
}

#[test]
fn every_record_of_a_sound_engine_is_the_exact_result_of_its_own_inputs() {
    for spec in specs() {
        for activations in [Activations::Reference, Activations::Exact] {
            let recorded = record(&spec, activations, "");
            let (audit, records) = audited(&referee(&recorded.model), &recorded.run);
            let told: usize = audit.stages.iter().map(|stage| stage.records.len()).sum();
            assert_eq!(told, records, "{spec:?}: every record is told");
            assert_eq!(off(&audit), [], "{spec:?} {activations:?}");
            for stage in &audit.stages {
                for record in &stage.records {
                    let place = (stage.stage, stage.layer, record.token.seq);
                    assert!(
                        record.rel_l2 < 1e-5,
                        "{spec:?} {activations:?}: {place:?} {record:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_referee_that_is_wrong_in_one_thing_says_so_where_that_thing_is() {
    type Change = fn(&mut Spec);
    let changes: [(Change, &str, i64); 7] = [
        (|spec| spec.rms_eps = 1e-3, "attn_norm", 0),
        (|spec| spec.angles.base *= 2.0, "q_rope", 1),
        (|spec| spec.angles.scale = 0.5, "q_rope", 1),
        (
            |spec| {
                spec.pairing = match spec.pairing {
                    Pairing::Interleaved => Pairing::Halves,
                    Pairing::Halves => Pairing::Interleaved,
                }
            },
            "q_rope",
            1,
        ),
        (|spec| spec.attention_scale *= 1.01, "attn_probs", 1),
        (|spec| spec.scores_cap = Some(2.0), "attn_probs", 1),
        (
            |spec| {
                spec.activation = match spec.activation {
                    Activation::Silu => Activation::SquaredRelu,
                    _ => Activation::Silu,
                }
            },
            "ffn_act",
            0,
        ),
    ];
    for spec in specs() {
        let recorded = record(&spec, Activations::Reference, "");
        for (change, stage, seq) in changes {
            let right = referee(&recorded.model);
            let mut wrong = right.spec().clone();
            change(&mut wrong);
            let (audit, _) = audited(&right.with_spec(wrong), &recorded.run);
            assert_eq!(off(&audit).first(), Some(&(stage, 0, seq)), "{spec:?}");
        }
    }
}

#[test]
fn a_model_with_other_weights_is_off_in_every_product_and_in_no_step_without_weights() {
    let recorded = record(&TinySpec::default(), Activations::Reference, "");
    let other = record(
        &TinySpec {
            seed: 99,
            ..TinySpec::default()
        },
        Activations::Reference,
        "",
    );
    let (audit, _) = audited(&referee(&other.model), &recorded.run);
    let off = off(&audit);
    for stage in ["q_proj", "attn_out", "ffn_down", "logits", "embeddings"] {
        assert!(off.iter().any(|found| found.0 == stage), "{stage}: {off:?}");
    }
    for stage in ["q_rope", "attn_probs", "attn_ctx", "ffn_act", "layer_out"] {
        assert!(off.iter().all(|found| found.0 != stage), "{stage}: {off:?}");
    }
}

#[test]
fn an_input_that_was_not_recorded_is_computed_unless_that_takes_weights() {
    let spec = TinySpec::default();
    let select = "stage=attn_ctx;stage=q_rope;stage=k_cache;stage=v_cache;stage=ffn_act;stage=q_proj";
    let recorded = record(&spec, Activations::Reference, select);
    let (audit, _) = audited(&referee(&recorded.model), &recorded.run);
    assert_eq!(off(&audit), []);
    let of = |stage: &str| {
        let stages = audit.stages.iter().filter(|s| s.stage == stage);
        stages.fold((0, Vec::new()), |(told, mut refused), s| {
            refused.extend(s.refused.keys().map(ToString::to_string));
            (told + s.records.len(), refused)
        })
    };
    // From q, k and v, with scores and probabilities between them.
    assert!(matches!(of("attn_ctx"), (told, refused) if told > 0 && refused.is_empty()));
    assert!(matches!(of("q_rope"), (told, refused) if told > 0 && refused.is_empty()));
    let (told, refused) = of("ffn_act");
    assert_eq!(told, 0);
    assert!(
        !refused.is_empty() && refused.iter().all(|r| r.contains("ffn_gate")),
        "{refused:?}"
    );
    // In the first layer it follows from the tokens' ids.
    let layers = audit
        .stages
        .iter()
        .filter(|s| s.stage == "q_proj" && !s.records.is_empty());
    assert_eq!(layers.map(|s| s.layer).collect::<Vec<_>>(), [0]);
    assert!(of("q_proj").1.iter().all(|r| r.contains("attn_norm")));
}

#[test]
fn a_sample_tells_of_as_many_tokens_from_the_first_to_the_last() {
    let recorded = record(&TinySpec::default(), Activations::Reference, "");
    let records = StoredRecords::new(Run::open(&recorded.run).expect("a run"), &Filter::default());
    let side = records.side();
    let which = Which {
        sample: Some(3),
        filter: Filter {
            layer: Some(0..=0),
            ..Filter::default()
        },
        ..Which::default()
    };
    let audit = audit(
        &referee(&recorded.model),
        &Indexed::new(&side),
        &which,
        &|_, _| (),
    )
    .expect("an audit");
    assert!(!audit.stages.is_empty());
    for stage in &audit.stages {
        let seqs: Vec<i64> = stage.records.iter().map(|r| r.token.seq).collect();
        assert_eq!((stage.layer, seqs), (0, vec![0, 5, 10]), "{}", stage.stage);
    }
}
