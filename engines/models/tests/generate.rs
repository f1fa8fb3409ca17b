//! The engine on a tiny random model.
#![allow(clippy::unwrap_used)] // a failed test is a panic
#![cfg(feature = "cpu")]

mod common;

use bitnet_models::{
    Engine, Error, GenerateOptions, Generation, Gguf, Prompt, TinyArch, TinySpec, TinyType, dequantize_gguf,
    generate, greedy, write_tiny_model,
};
use common::{IDS, Tiny, load, relative_l2};

fn run(engine: &mut Engine, options: &GenerateOptions) -> Result<Generation, Error> {
    generate(engine, options, &mut |_| {})
}

fn options(max_tokens: usize) -> GenerateOptions {
    GenerateOptions {
        ignore_eos: true,
        ..GenerateOptions::new(Prompt::Tokens(IDS.to_vec()), max_tokens)
    }
}

#[test]
fn a_prompt_in_batches_of_any_size_gives_the_logits_of_token_by_token() {
    for weights in [TinyType::F32, TinyType::Q4_1] {
        let mut engine = Tiny::new(weights).engine();
        let single = engine.logits(&IDS, 1).unwrap();
        assert_eq!(single.len(), IDS.len());
        for batch in [2, 4, IDS.len(), 512] {
            let batched = engine.logits(&IDS, batch).unwrap();
            for (pos, (a, b)) in single.iter().zip(&batched).enumerate() {
                let error = relative_l2(a, b);
                assert!(
                    error < 1e-5,
                    "{weights:?}, batch {batch}, position {pos}: {error}"
                );
                assert_eq!(greedy(a), greedy(b));
            }
        }
    }
}

#[test]
fn a_long_sequence_makes_the_cache_grow_and_changes_nothing() {
    let mut engine = Tiny::new(TinyType::F32).engine();
    let ids: Vec<u32> = (0..200).map(|i| i * 7 % 300).collect();
    let whole = engine.logits(&ids, 200).unwrap();
    let single = engine.logits(&ids, 1).unwrap();
    let uneven = engine.logits(&ids, 63).unwrap();
    for pos in [0, 62, 63, 64, 127, 128, 199] {
        assert!(relative_l2(&whole[pos], &single[pos]) < 1e-5, "{pos}");
        assert!(relative_l2(&whole[pos], &uneven[pos]) < 1e-5, "{pos}");
    }
}

#[test]
fn a_later_token_never_changes_an_earlier_position() {
    let mut engine = Tiny::new(TinyType::F32).engine();
    let mut changed = IDS;
    changed[5] += 1;
    let (a, b) = (
        engine.logits(&IDS, 512).unwrap(),
        engine.logits(&changed, 512).unwrap(),
    );
    assert_eq!(a[..5], b[..5]);
    for pos in 5..IDS.len() {
        assert!(
            relative_l2(&a[pos], &b[pos]) > 1e-3,
            "position {pos} does not see token 5"
        );
    }
}

#[test]
fn positions_matter_so_a_swapped_prompt_gives_other_logits() {
    let mut engine = Tiny::new(TinyType::F32).engine();
    let mut swapped = IDS;
    swapped.swap(1, 2);
    let last = IDS.len() - 1;
    let (a, b) = (
        engine.logits(&IDS, 512).unwrap(),
        engine.logits(&swapped, 512).unwrap(),
    );
    assert!(relative_l2(&a[last], &b[last]) > 1e-3);
}

#[test]
fn activations_of_the_tiny_model_stay_healthy() {
    let mut engine = Tiny::new(TinyType::F32).engine();
    for row in engine.logits(&IDS, 512).unwrap() {
        let rms = (row.iter().map(|v| v * v).sum::<f32>() / row.len() as f32).sqrt();
        assert!((0.1..10.0).contains(&rms), "{rms}");
    }
}

#[test]
fn generating_twice_gives_the_same_ids() {
    let mut engine = Tiny::new(TinyType::Q4_1).engine();
    let first = run(&mut engine, &options(8)).unwrap();
    let second = run(&mut engine, &options(8)).unwrap();
    assert_eq!(first.generated_ids, second.generated_ids);
    assert_eq!(
        (first.prompt_ids.as_slice(), first.generated_ids.len()),
        (IDS.as_slice(), 8)
    );
}

#[test]
fn generated_ids_are_the_argmax_of_each_position() {
    let mut engine = Tiny::new(TinyType::F32).engine();
    let generation = run(&mut engine, &options(5)).unwrap();
    let all = [&IDS[..], &generation.generated_ids].concat();
    let logits = engine.logits(&all, 512).unwrap();
    for (i, &id) in generation.generated_ids.iter().enumerate() {
        assert_eq!(greedy(&logits[IDS.len() - 1 + i]), Some(id));
    }
}

#[test]
fn max_tokens_caps_the_generated_and_the_forced_ids() {
    let mut engine = Tiny::new(TinyType::F32).engine();
    for n in [0, 1, 3] {
        assert_eq!(run(&mut engine, &options(n)).unwrap().generated_ids.len(), n);
    }
    let forced = |n| GenerateOptions {
        teacher_force: vec![7, 8, 9],
        ..options(n)
    };
    assert_eq!(run(&mut engine, &forced(2)).unwrap().generated_ids, [7, 8]);
    // After the forced ids the engine goes on by itself.
    let all = run(&mut engine, &forced(5)).unwrap().generated_ids;
    assert_eq!((all.len(), &all[..3]), (5, &[7, 8, 9][..]));
}

#[test]
fn the_callback_sees_every_id_in_order() {
    let mut engine = Tiny::new(TinyType::F32).engine();
    let mut seen = Vec::new();
    let generation = generate(&mut engine, &options(4), &mut |id| seen.push(id)).unwrap();
    assert_eq!(seen, generation.generated_ids);
}

#[test]
fn an_end_token_stops_the_generation_unless_told_otherwise_or_forced() {
    let mut engine = Tiny::new(TinyType::F32).engine();
    let free = run(&mut engine, &options(6)).unwrap().generated_ids;
    let end = engine.tokenizer().unwrap().clone();
    assert!(end.is_end(2) && end.is_end(0) && !end.is_end(1));
    let forced = GenerateOptions {
        teacher_force: vec![5, 2, 6],
        ignore_eos: false,
        ..options(3)
    };
    assert_eq!(run(&mut engine, &forced).unwrap().generated_ids, [5, 2, 6]);
    // A copy of the model that calls the second generated id its end token.
    let tiny = Tiny::new(TinyType::F32);
    let mut bytes = std::fs::read(&tiny.path).unwrap();
    let key = b"tokenizer.ggml.eos_token_id";
    let at = bytes.windows(key.len()).position(|window| window == key).unwrap() + key.len() + 4;
    bytes[at..at + 4].copy_from_slice(&free[1].to_le_bytes());
    let mut engine = load(&tiny.file("other-end.gguf", &bytes));
    let stopping = GenerateOptions {
        ignore_eos: false,
        ..options(6)
    };
    let first = free.iter().position(|&id| id == free[1]).unwrap();
    assert_eq!(run(&mut engine, &stopping).unwrap().generated_ids, free[..=first]);
}

#[test]
fn impossible_requests_are_errors() {
    let mut engine = Tiny::new(TinyType::F32).engine();
    let vocab = engine.n_vocab();
    let mut fails = |options: &GenerateOptions| run(&mut engine, options).unwrap_err().to_string();
    let empty = GenerateOptions::new(Prompt::Tokens(Vec::new()), 1);
    assert!(fails(&empty).contains("prompt is empty"));
    assert!(fails(&GenerateOptions::new(Prompt::Text(String::new()), 1)).contains("prompt is empty"));
    assert!(
        fails(&GenerateOptions {
            batch: 0,
            ..options(1)
        })
        .contains("batch size")
    );
    let outside = GenerateOptions::new(Prompt::Tokens(vec![1, vocab as u32]), 1);
    assert!(fails(&outside).contains("outside the vocabulary"));
    let forced = GenerateOptions {
        teacher_force: vec![u32::MAX],
        ..options(1)
    };
    assert!(fails(&forced).contains("outside the vocabulary"));
    assert!(fails(&options(600)).contains("context length is 512"));
    assert!(fails(&options(usize::MAX)).contains("context length is 512"));
    // The last position fits exactly.
    assert_eq!(
        run(&mut engine, &options(513 - IDS.len()))
            .unwrap()
            .generated_ids
            .len(),
        513 - IDS.len()
    );
}

#[test]
fn the_f32_copy_of_a_quantised_model_keeps_the_metadata_and_is_close_to_it() {
    let tiny = Tiny::new(TinyType::Q4_1);
    let copy = tiny.dir.path().join("f32.gguf");
    let mut steps = 0;
    dequantize_gguf(&tiny.path, &copy, &mut |_, _| steps += 1).unwrap();
    let (mut quantised, mut plain) = (tiny.engine(), load(&copy));
    assert_eq!(steps, plain.gguf().tensors().len());
    assert_eq!(
        plain.gguf().type_counts().into_iter().collect::<Vec<_>>(),
        [("F32".to_owned(), 38)]
    );
    let names = |engine: &Engine| {
        engine
            .gguf()
            .tensors()
            .iter()
            .map(|t| t.name.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&quantised), names(&plain));
    for (key, value) in quantised.gguf().metadata() {
        if key != "general.file_type" {
            assert_eq!(plain.gguf().value(key), Some(value), "{key}");
        }
    }
    let (a, b) = (
        plain.logits(&IDS, 512).unwrap(),
        quantised.logits(&IDS, 512).unwrap(),
    );
    // The activations of a quantised product are rounded to 8 bits.
    for (a, b) in a.iter().zip(&b) {
        assert!(relative_l2(a, b) < 0.05);
    }
    let again = tiny.dir.path().join("again.gguf");
    dequantize_gguf(&copy, &again, &mut |_, _| {}).unwrap();
    assert_eq!(std::fs::read(&copy).unwrap(), std::fs::read(&again).unwrap());
}

#[test]
fn dequantising_refuses_its_own_input_and_leaves_no_half_file() {
    let tiny = Tiny::new(TinyType::Q4_1);
    let before = std::fs::read(&tiny.path).unwrap();
    let error = dequantize_gguf(&tiny.path, &tiny.path, &mut |_, _| {}).unwrap_err();
    assert!(matches!(error, Error::SameFile { .. }), "{error}");
    assert_eq!(std::fs::read(&tiny.path).unwrap(), before);
    let nowhere = tiny.dir.path().join("no/such/dir/out.gguf");
    let error = dequantize_gguf(&tiny.path, &nowhere, &mut |_, _| {}).unwrap_err();
    assert!(error.to_string().contains("cannot write"), "{error}");
    assert_eq!(std::fs::read_dir(tiny.dir.path()).unwrap().count(), 1);
}

#[test]
fn the_tiny_model_is_the_same_every_time_and_another_with_another_seed() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = |name: &str, seed| {
        let path = dir.path().join(name);
        write_tiny_model(
            &path,
            &TinySpec {
                seed,
                ..TinySpec::default()
            },
        )
        .unwrap();
        std::fs::read(path).unwrap()
    };
    let first = bytes("a", 0);
    assert_eq!(first, bytes("b", 0));
    assert_ne!(first, bytes("c", 1));
}

#[test]
fn a_tiny_bitnet_has_weights_that_its_smaller_types_hold_exactly() {
    let dir = tempfile::tempdir().unwrap();
    for arch in [TinyArch::Bitnet, TinyArch::BitnetB158] {
        let path = dir.path().join("bitnet.gguf");
        write_tiny_model(&path, &TinySpec::bitnet(arch)).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        write_tiny_model(&path, &TinySpec::bitnet(arch)).unwrap();
        assert_eq!(bytes, std::fs::read(&path).unwrap(), "the same every time");
        assert!(bytes.len() < 1_500_000, "{}", bytes.len());

        let gguf = Gguf::open(&path).unwrap();
        let names = |part: &str| {
            let tensors = gguf.tensors();
            tensors.iter().filter(|tensor| tensor.name.contains(part)).count()
        };
        assert_eq!((names("attn_sub_norm"), names("ffn_sub_norm")), (2, 2));
        for tensor in gguf.tensors().iter().filter(|tensor| tensor.shape.len() == 2) {
            let data = gguf.read_tensor(tensor).unwrap();
            let values: Vec<f32> = data
                .as_chunks()
                .0
                .iter()
                .map(|&b| f32::from_le_bytes(b))
                .collect();
            if tensor.name == "token_embd.weight" {
                // Q8_0 with a scale of 1/256 holds them, and so does F16.
                assert!(values.iter().all(|v| (v * 256.0).fract() == 0.0));
                let max = |block: &[f32]| block.iter().fold(0.0, |max: f32, v| max.max(v.abs()));
                assert!(values.chunks(32).all(|block| max(block) == 127.0 / 256.0));
                continue;
            }
            let scale = values[0].abs().max(values[1].abs()).max(values[2].abs());
            let count = |wanted: f32| values.iter().filter(|&&value| value == wanted).count();
            let counts = [count(-scale), count(0.0), count(scale)];
            assert_eq!(counts.iter().sum::<usize>(), values.len(), "{}", tensor.name);
            assert!(
                counts.iter().all(|&n| n > values.len() / 4),
                "{}: {counts:?}",
                tensor.name
            );
        }
    }
}
