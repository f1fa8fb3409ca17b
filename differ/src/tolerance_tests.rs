use super::*;
use crate::metrics::measure;

const F32: [DType; 2] = [DType::F32, DType::F32];

#[test]
fn the_default_prints_itself() {
    assert_eq!(Tolerance::default().to_string(), "relative L2 <= 1e-4 (default)");
    let applied = Tolerance::default().applied("q_proj", 0, F32);
    assert_eq!(
        serde_json::to_string(&applied).expect("JSON"),
        r#"{"rel_l2":0.0001,"source":"default","text":"relative L2 <= 1e-4 (default)"}"#
    );
}

#[test]
fn the_last_rule_that_matches_wins_and_replaces_all_gates() {
    let t = Tolerance::from_toml(
        "[default]\ncosine = 0.5\n[[rule]]\nstage = 'attn_*'\nmax_abs = 1\n\
         [[rule]]\nstage = 'attn_out'\nlayer = '0-5'\nexact = true\n[[rule]]\ndtype = 'F16'\nrel_l2 = 0.5",
        "t.toml",
    )
    .expect("valid");
    let text = |stage, layer, dtypes| t.applied(stage, layer, dtypes).text;
    assert_eq!(text("logits", -1, F32), "cosine >= 0.5 ([default] of t.toml)");
    assert_eq!(text("attn_out", 6, F32), "max |Δ| <= 1 (rule 1 of t.toml)");
    assert_eq!(text("attn_out", 5, F32), "exact (rule 2 of t.toml)");
    assert_eq!(
        text("attn_out", 5, [DType::F32, DType::F16]),
        "relative L2 <= 0.5 (rule 3 of t.toml)"
    );
}

#[test]
fn the_file_in_the_readme_is_valid() {
    let readme = include_str!("../README.md");
    let file = readme.split("```toml").nth(1).and_then(|t| t.split("```").next());
    let t = Tolerance::from_toml(file.expect("a TOML block"), "t.toml").expect("valid");
    assert!(t.applied("embeddings", -1, F32).gates.exact);
}

#[test]
fn all_gates_must_hold_and_a_wrong_scale_breaks_relative_l2_where_cosine_is_blind() {
    let m = measure(&[1f32, 2.0], &[10f32, 20.0]).expect("same length");
    let gates = Gates {
        cosine: Some(0.999),
        ..Gates::default()
    };
    assert!(gates.broken(&m).is_empty());
    let gates = Gates {
        rel_l2: Some(1e-4),
        ..gates
    };
    assert_eq!(gates.broken(&m)[0].to_string(), "relative L2 9 > 1e-4");
}

#[test]
fn a_measure_that_is_nan_passes_no_gate() {
    let mut m = measure(&[1f32], &[1f32]).expect("same length");
    (m.rel_l2, m.max_abs, m.max_rel, m.cosine) = (f64::NAN, f64::NAN, f64::NAN, f64::NAN);
    let all = Gates {
        exact: false,
        rel_l2: Some(1.0),
        max_abs: Some(1.0),
        max_rel: Some(1.0),
        ulp: None,
        cosine: Some(-1.0),
    };
    assert_eq!(all.broken(&m).len(), 4);
}

#[test]
fn every_unusable_tolerance_file_has_its_own_error() {
    let error = |text: &str| Tolerance::from_toml(text, "t.toml").expect_err("refused");
    assert!(
        error("[[rule]]\nstage='x'\nrel_l3 = 1")
            .to_string()
            .contains("rel_l3")
    );
    assert!(error("[defaults]\nexact = true").to_string().contains("defaults"));
    assert!(matches!(error("[["), ToleranceError::Toml(_)));
    for limit in [
        "rel_l2 = -1",
        "max_abs = nan",
        "max_rel = inf",
        "cosine = 1.5",
        "cosine = nan",
    ] {
        assert!(
            matches!(
                error(&format!("[default]\n{limit}")),
                ToleranceError::Value { .. }
            ),
            "{limit}"
        );
    }
    assert!(matches!(error("[default]"), ToleranceError::NoGate(_)));
    assert!(matches!(
        error("[[rule]]\nstage = 'x'"),
        ToleranceError::NoGate(_)
    ));
    assert!(matches!(
        error("[[rule]]\ndtype = 'F31'\nexact = true"),
        ToleranceError::Condition { .. }
    ));
    assert!(matches!(
        error("[[rule]]\nlayer = '5-1'\nexact = true"),
        ToleranceError::Condition { .. }
    ));
}

#[test]
fn a_limit_in_ulp_counts_the_numbers_between_two_elements() {
    let t = Tolerance::from_toml("[default]\nulp = 4", "t.toml").expect("valid");
    let applied = t.applied("q_proj", 0, F32);
    assert_eq!(applied.text, "max ULP <= 4 ([default] of t.toml)");
    let next = |x: f32, n: u32| f32::from_bits(x.to_bits() + n);
    let of = |n| measure(&[1e-3f32, 1e20], &[1e-3, next(1e20, n)]).expect("same length");
    assert!(applied.gates.broken(&of(4)).is_empty());
    assert_eq!(applied.gates.broken(&of(5))[0].to_string(), "max ULP 5 > 4");
    for wrong in ["ulp = -1", "ulp = 0.5"] {
        let error = Tolerance::from_toml(&format!("[default]\n{wrong}"), "t.toml").expect_err("refused");
        assert!(matches!(error, ToleranceError::Toml(_)), "{wrong}");
    }
}
