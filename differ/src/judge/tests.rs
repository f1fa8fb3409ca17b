use super::*;
use crate::testing::Memory;
use bitnet_trace_schema::RecordMeta;
use std::ops::ControlFlow::{Break, Continue};

fn record(stage: &str, shape: &[i64], values: &[f32]) -> (RecordMeta, Elements) {
    let mut m = Memory::default();
    m.push(0, 0, stage, values);
    m.shape(shape);
    m.rows.remove(0)
}

fn raw(dtype: DType, bytes: Vec<u8>) -> (RecordMeta, Elements) {
    let mut m = Memory::default();
    m.push(0, 0, "x", &[]);
    m.raw(dtype, bytes);
    m.rows.remove(0)
}

fn verdict(
    left: &(RecordMeta, Elements),
    right: &(RecordMeta, Elements),
    gates: &Gates,
    nan_equal: bool,
) -> Outcome {
    let (a, b) = (Meta::from(&left.0), Meta::from(&right.0));
    match by_metadata(a, b) {
        Break(outcome) => outcome,
        Continue(_) => by_elements((a, &left.1), (b, &right.1), gates, nan_equal).expect("counts agree"),
    }
}

fn of(left: &[f32], right: &[f32]) -> Outcome {
    let flat = |v: &[f32]| record("x", &[v.len() as i64], v);
    verdict(&flat(left), &flat(right), &Gates::rel_l2(1e-4), false)
}

const NAN: f32 = f32::NAN;
const INF: f32 = f32::INFINITY;

#[test]
fn the_same_bytes_are_identical_even_with_nan_in_them() {
    assert_eq!(of(&[1.0, NAN], &[1.0, NAN]), Outcome::plain(Verdict::Identical));
}

#[test]
fn a_small_difference_is_within_and_a_large_one_diverged() {
    assert_eq!(of(&[1.0, 2.0], &[1.0, 2.00001]).verdict, Verdict::Within);
    let far = of(&[1.0, 2.0], &[1.0, 2.1]);
    assert_eq!(far.verdict, Verdict::Diverged);
    assert_eq!(
        far.reason.expect("a reason").to_string(),
        "relative L2 4.5e-2 > 1e-4"
    );
}

#[test]
fn planted_faults_that_rms_or_cosine_cannot_see_are_diverged() {
    let a: Vec<f32> = (1..100).map(|i| i as f32).collect();
    let reversed: Vec<f32> = a.iter().rev().copied().collect();
    let flipped: Vec<f32> = a.iter().map(|x| -x).collect();
    let scaled: Vec<f32> = a.iter().map(|x| 10.0 * x).collect();
    for (b, fault) in [
        (reversed, "permuted"),
        (flipped, "sign"),
        (scaled, "scale"),
        (vec![0.0; 99], "zero"),
    ] {
        assert_eq!(of(&a, &b).verdict, Verdict::Diverged, "{fault}");
    }
    assert_eq!(
        of(&vec![0.0; 99], &a).verdict,
        Verdict::Diverged,
        "zero reference"
    );
}

#[test]
fn nan_against_a_number_is_diverged_whatever_the_tolerance() {
    let loose = Gates::rel_l2(1e9);
    for (a, b) in [
        ([1.0, NAN], [1.0, 2.0]),
        ([1.0, 2.0], [1.0, NAN]),
        ([1.0, INF], [1.0, -INF]),
        ([1.0, INF], [1.0, NAN]),
    ] {
        let (a, b) = (record("x", &[2], &a), record("x", &[2], &b));
        for nan_equal in [false, true] {
            let outcome = verdict(&a, &b, &loose, nan_equal);
            assert!(
                matches!(
                    outcome.reason.as_deref(),
                    Some(Reason::NonFinite { count: 1, .. })
                ),
                "{outcome:?}"
            );
        }
    }
}

#[test]
fn nan_against_nan_matches_only_when_asked_for() {
    let (a, b) = (
        record("x", &[3], &[1.0, NAN, 1.0]),
        record("x", &[3], &[1.00001, NAN, 1.0]),
    );
    let gates = Gates::rel_l2(1e-4);
    let strict = verdict(&a, &b, &gates, false);
    assert_eq!(
        strict.reason.expect("a reason").to_string(),
        "NaN on both sides (1 element)"
    );
    assert_eq!(verdict(&a, &b, &gates, true).verdict, Verdict::Within);
    // The payload of a NaN is not a value.
    let exact = Gates {
        exact: true,
        ..Gates::default()
    };
    let other = f32::from_bits(NAN.to_bits() ^ 1);
    let b = record("x", &[3], &[1.0, other, 1.0]);
    assert_eq!(verdict(&a, &b, &exact, true).verdict, Verdict::Within);
}

#[test]
fn exact_means_equal_in_value() {
    let exact = Gates {
        exact: true,
        ..Gates::default()
    };
    let of =
        |a: f32, b: f32| verdict(&record("x", &[1], &[a]), &record("x", &[1], &[b]), &exact, false).verdict;
    assert_eq!(of(0.0, -0.0), Verdict::Within);
    assert_eq!(of(1.0, 1.000_000_1), Verdict::Diverged);
}

#[test]
fn empty_tensors_are_not_a_match() {
    let empty = of(&[], &[]);
    assert_eq!(
        (empty.verdict, empty.reason),
        (Verdict::Incomparable, Some(Box::new(Reason::Empty)))
    );
    assert!(matches!(
        of(&[], &[1.0]).reason.as_deref(),
        Some(Reason::Shapes { .. })
    ));
}

#[test]
fn shapes_that_do_not_correspond_are_incomparable_even_with_equal_bytes() {
    let values = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
    let outcome = verdict(
        &record("x", &[2, 3], &values),
        &record("x", &[3, 2], &values),
        &Gates::rel_l2(1.0),
        false,
    );
    assert_eq!(outcome.verdict, Verdict::Incomparable);
    assert_eq!(
        outcome.reason.expect("a reason").to_string(),
        "shapes differ: [2, 3] and [3, 2]"
    );
}

#[test]
fn shorter_probability_rows_equal_longer_ones_that_end_in_zeros() {
    let gates = Gates::rel_l2(1e-4);
    let short = record("attn_probs", &[2, 2], &[0.5, 0.5, 0.25, 0.75]);
    let long = record("attn_probs", &[2, 3], &[0.5, 0.5, 0.0, 0.25, 0.75, -0.0]);
    for (a, b) in [(&short, &long), (&long, &short)] {
        let outcome = verdict(a, b, &gates, false);
        assert_eq!(outcome.verdict, Verdict::Within);
        assert!(outcome.metrics.expect("measured").equal);
    }
    let leak = record("attn_probs", &[2, 3], &[0.5, 0.5, 0.0, 0.25, 0.75, 1e-9]);
    let outcome = verdict(&short, &leak, &Gates::rel_l2(1e9), false);
    assert_eq!(
        outcome.reason.expect("a reason").to_string(),
        "mass on future keys: 1.0e-9 on the right side, most at [1, 2]".replace("1.0e-9", "1e-9")
    );
    let nan = record("attn_probs", &[2, 3], &[0.5, 0.5, NAN, 0.25, 0.75, 0.0]);
    assert_eq!(verdict(&nan, &short, &gates, false).verdict, Verdict::Diverged);
}

#[test]
fn dtypes_that_differ_are_compared_by_value() {
    let mut half = record("x", &[2], &[1.0, 2.0]);
    half.0.dtype = DType::F16;
    let outcome = verdict(&record("x", &[2], &[1.0, 2.0]), &half, &Gates::rel_l2(0.0), false);
    assert_eq!(outcome.verdict, Verdict::Within);
    let doubles = raw(
        DType::F64,
        [1.0f64, 2.0].iter().flat_map(|x| x.to_le_bytes()).collect(),
    );
    let ints = raw(
        DType::I32,
        [1i32, 3].iter().flat_map(|x| x.to_le_bytes()).collect(),
    );
    assert_eq!(
        verdict(&half, &doubles, &Gates::rel_l2(0.0), false).verdict,
        Verdict::Within
    );
    assert_eq!(
        verdict(&doubles, &ints, &Gates::rel_l2(0.1), false).verdict,
        Verdict::Diverged
    );
}

#[test]
fn packed_dtypes_are_compared_by_their_bytes_and_then_by_what_they_are_worth() {
    // blocks of Q8_0: a scale (f16) and 32 codes
    let q8 = |scale: [u8; 2], code: u8| raw(DType::Q8_0, [&scale[..], &[code; 32]].concat());
    let (one, two) = ([0x00, 0x3c], [0x00, 0x40]);
    let a = q8(one, 4);
    let exact = Gates {
        exact: true,
        ..Gates::default()
    };
    type Record = (RecordMeta, Elements);
    let of = |a: &Record, b: &Record, gates: &Gates| verdict(a, b, gates, false).verdict;
    assert_eq!(of(&a, &q8(one, 4), &exact), Verdict::Identical);
    assert_eq!(of(&a, &q8(two, 2), &exact), Verdict::Within, "2 · 2 is 4");
    assert_eq!(of(&a, &q8(one, 5), &Gates::rel_l2(0.2)), Verdict::Diverged);
    assert_eq!(of(&a, &q8(one, 5), &Gates::rel_l2(0.3)), Verdict::Within);
    let floats = record("x", &[32], &[4.0; 32]);
    assert_eq!(of(&floats, &a, &exact), Verdict::Within);
    assert_eq!(
        of(&a, &record("x", &[32], &[-4.0; 32]), &Gates::rel_l2(1.0)),
        Verdict::Diverged
    );

    let mut torn = a.clone();
    torn.1 = Elements::Raw(vec![0; 33]);
    let b = q8(one, 5);
    let wrong = by_elements(((&torn.0).into(), &torn.1), ((&b.0).into(), &b.1), &exact, false);
    assert!(
        matches!(
            wrong,
            Err(WrongCount {
                left: true,
                expected: 32,
                ..
            })
        ),
        "{wrong:?}"
    );
}

#[test]
fn integers_beyond_the_precision_of_f64_are_told_apart_when_exact() {
    let int = |n: i64| raw(DType::I64, n.to_le_bytes().to_vec());
    let (a, b) = (int(1 << 60), int((1 << 60) + 1));
    let exact = Gates {
        exact: true,
        ..Gates::default()
    };
    assert_eq!(verdict(&a, &b, &exact, false).verdict, Verdict::Diverged);
    assert_eq!(
        verdict(&a, &b, &Gates::rel_l2(1e-4), false).verdict,
        Verdict::Within
    );
}

#[test]
fn statistics_can_prove_a_divergence_but_never_a_match() {
    let stats = |values: &[f32]| {
        let (meta, _) = record("x", &[values.len() as i64], values);
        (meta, Elements::Absent)
    };
    let gates = Gates::rel_l2(1e-4);
    let a = stats(&[1.0, 2.0, 3.0]);
    assert_eq!(verdict(&a, &a, &gates, false).verdict, Verdict::Identical);
    let permuted = verdict(&a, &stats(&[3.0, 2.0, 1.0]), &gates, false);
    assert_eq!(permuted.verdict, Verdict::Incomparable);
    assert_eq!(
        permuted.reason.expect("a reason").to_string(),
        "values were not recorded on either side; the hashes differ, the rms by 0"
    );
    let scaled = verdict(&a, &stats(&[2.0, 4.0, 6.0]), &gates, false);
    assert_eq!(
        scaled.reason.expect("a reason").to_string(),
        "relative L2 1 > 1e-4 at least (from the statistics)"
    );
    let nan = verdict(&a, &stats(&[1.0, NAN, 3.0]), &gates, false);
    assert!(matches!(nan.reason.as_deref(), Some(Reason::OddCounts { .. })));
    let exact = Gates {
        exact: true,
        ..Gates::default()
    };
    assert_eq!(
        verdict(&a, &stats(&[3.0, 2.0, 1.0]), &exact, false).reason,
        Some(Box::new(Reason::Hash))
    );
    let with_values = record("x", &[3], &[3.0, 2.0, 1.0]);
    assert_eq!(
        verdict(&a, &with_values, &gates, false)
            .reason
            .expect("a reason")
            .to_string(),
        "values were not recorded on the left side; the hashes differ, the rms by 0"
    );
}

#[test]
fn elements_that_contradict_the_metadata_are_an_error() {
    let (a, mut b) = (record("x", &[2], &[1.0, 2.0]), record("x", &[2], &[1.0, 3.0]));
    b.1 = Elements::Values(vec![1.0]);
    let error = by_elements(
        ((&a.0).into(), &a.1),
        ((&b.0).into(), &b.1),
        &Gates::rel_l2(1.0),
        false,
    );
    assert_eq!(
        error,
        Err(WrongCount {
            left: false,
            found: 1,
            expected: 2
        })
    );
}

/// A record of which a `.trace` file told hash and rms.
fn hashed(like: &(RecordMeta, Elements)) -> (RecordMeta, Elements) {
    let mut meta = like.0.clone();
    meta.stats = bitnet_trace_schema::Stats {
        rms: meta.stats.rms,
        ..Default::default()
    };
    (meta, Elements::Hashed)
}

#[test]
fn a_hash_and_an_rms_decide_by_the_hash_first() {
    let (a, b) = (record("x", &[2], &[1.0, 2.0]), record("x", &[2], &[2.0, 1.0]));
    let far = record("x", &[2], &[1.0, 2.1]);
    let gates = Gates::rel_l2(1e-4);
    let text = |l: &(RecordMeta, Elements), r: &(RecordMeta, Elements)| {
        let outcome = verdict(l, r, &gates, false);
        (
            outcome.verdict,
            outcome.reason.map(|r| r.to_string()).unwrap_or_default(),
        )
    };
    assert_eq!(text(&a, &hashed(&a)), (Verdict::Identical, String::new()));
    for (l, r) in [(&a, &hashed(&b)), (&hashed(&b), &a), (&hashed(&a), &hashed(&b))] {
        let (verdict, reason) = text(l, r);
        assert_eq!(verdict, Verdict::Diverged);
        assert!(
            reason.starts_with("the hashes differ, the rms does not"),
            "{reason}"
        );
    }
    assert_eq!(
        text(&hashed(&a), &hashed(&far)),
        (
            Verdict::Diverged,
            "relative L2 4e-2 > 1e-4 at least (from the statistics)".into()
        )
    );
}

#[test]
fn what_a_file_did_not_tell_of_a_record_is_not_taken_for_a_finding() {
    let gates = Gates::rel_l2(1e-4);
    let full = record("x", &[3], &[1.0, NAN, 2.0]);
    let of = |l: &(RecordMeta, Elements), r: &(RecordMeta, Elements)| verdict(l, r, &gates, false);
    // The file's rms is null, and its count of NaN unknown: 0 against 1 is no difference.
    let mut null = hashed(&full);
    null.0.stats.rms = None;
    assert_eq!(of(&full, &null).verdict, Verdict::Identical);
    null.0.blake3 = "0".repeat(64);
    assert_eq!(
        of(&full, &null).reason,
        Some(Box::new(Reason::HashAndRms { rms: None })),
        "and not other counts of NaN"
    );
    let mut unhashed = hashed(&record("x", &[2], &[1.0, 2.0]));
    unhashed.0.blake3 = String::new();
    let other = of(&record("x", &[2], &[2.0, 1.0]), &unhashed);
    assert!(
        matches!(
            other.reason.as_deref(),
            Some(Reason::NoValues { rms: Some(0.0), .. })
        ),
        "an equal rms is no match: {other:?}"
    );
    let shapes = of(
        &record("x", &[2, 3], &[0.0; 6]),
        &hashed(&record("x", &[3, 2], &[0.0; 6])),
    );
    assert!(matches!(shapes.reason.as_deref(), Some(Reason::Shapes { .. })));
}

#[test]
fn a_hash_of_widened_elements_is_held_against_widened_elements() {
    let wide = record("x", &[2], &[1.0, 2.5]);
    let bytes: Vec<u8> = [1.0f32, 2.5].iter().flat_map(|x| x.to_le_bytes()).collect();
    let mut hash = hashed(&wide);
    hash.0.blake3 = blake3::hash(&bytes).to_hex().to_string();
    let mut half = wide.clone();
    half.0.dtype = DType::F16;
    half.0.blake3 = "1".repeat(64);
    let gates = Gates::rel_l2(1e-4);
    for (l, r) in [(&half, &hash), (&hash, &half)] {
        assert_eq!(verdict(l, r, &gates, false).verdict, Verdict::Identical);
    }
    // Two hashes of different bytes say nothing of each other.
    let outcome = verdict(&hashed(&half), &hash, &gates, false);
    assert!(
        matches!(outcome.reason.as_deref(), Some(Reason::NoValues { .. })),
        "{outcome:?}"
    );
}

#[test]
fn the_worst_row_is_the_head_that_differs() {
    let a: Vec<f32> = (1..=24).map(|i| i as f32).collect();
    let mut b = a.clone();
    b[10] += 1.0;
    let found = |shape: &[i64]| {
        let outcome = verdict(
            &record("q_rope", &[1, 24], &a),
            &record("q_rope", shape, &b),
            &Gates::rel_l2(1e-4),
            false,
        );
        let m = outcome.metrics.expect("metrics");
        (m.rows, m.worst_row)
    };
    assert_eq!(found(&[3, 8]), (3, Some(1)));
    assert_eq!(found(&[6, 1, 4]), (6, Some(2)));
    assert_eq!(found(&[24]), (1, None));
}
