//! Each fault planted in the Rust engine is named at its exact seq, layer and stage.

use crate::support::*;

/// Fault, and where it must first show. `rms-eps` at a value that changes the norm by more than the noise.
const FAULTS: &[(&str, (i64, i32, &str))] = &[
    ("rope-base=5000@layer=6,from=3", (3, 6, "q_rope")),
    ("rope-base=5000", (1, 0, "q_rope")), // position 0 is not rotated
    ("rope-base=5000@layer=29,from=8", (8, 29, "q_rope")),
    ("rms-eps=1e-2@layer=0,from=0", (0, 0, "attn_norm")),
    ("rms-eps=1e-2@layer=12,from=7", (7, 12, "attn_norm")),
    ("rms-eps=1e-2@layer=6,from=2,stage=ffn_norm", (2, 6, "ffn_norm")),
    ("missing-residual@layer=6,from=3", (3, 6, "attn_residual")),
    ("missing-residual@layer=29,from=9", (9, 29, "attn_residual")),
    ("swap-kv-head@layer=6,from=3", (3, 6, "attn_scores")),
    ("swap-kv-head@layer=0", (0, 0, "attn_scores")),
];

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn each_planted_fault_is_named_at_its_exact_place_and_no_fault_at_none() {
    let db = Db::new();
    db.record("cpp", &mut cpp(&f32()));
    db.record("sound", &mut rust(&f32(), &db));
    assert_full_match(&db.first("cpp", "sound", &[]));

    for (i, (fault, (seq, layer, stage))) in FAULTS.iter().enumerate() {
        let name = format!("fault-{i}");
        db.record(&name, rust(&f32(), &db).args(["--fault", fault]));
        let told = db.manifest(&name)["settings"]["fault"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let kind = fault.split(['=', '@']).next().expect("a name");
        assert!(told.starts_with(kind), "the manifest tells of the fault: {told}");
        // Either side may be the faulty one.
        for (a, b) in [("cpp", name.as_str()), (name.as_str(), "cpp")] {
            let (code, first) = db.first(a, b, &[]);
            let found = &first["first_divergence"];
            assert_eq!(code, 1, "{fault}: {first:#}");
            assert_eq!(
                (
                    found["seq"].as_i64(),
                    found["layer"].as_i64(),
                    found["stage"].as_str()
                ),
                (Some(*seq), Some(i64::from(*layer)), Some(*stage)),
                "{fault}: {found:#}"
            );
        }
        let text = diff(&["first", &db.at("cpp"), &db.at(&name)]);
        let headline = format!("✗ First divergence at seq={seq}, layer={layer}, stage={stage}");
        assert_eq!(text.stdout.lines().next(), Some(headline.as_str()));
        assert_eq!(
            text.stdout.matches("blake3").count(),
            2,
            "both hashes: {}",
            text.stdout
        );
    }
}

#[test]
#[ignore = "needs `make setup`; run `make e2e`"]
fn a_fault_that_does_not_exist_is_refused() {
    let done = run(std::process::Command::new(program("bitnet-cli"))
        .args(["run", "--prompt", "hi", "--fault", "rope-bass=1", "--model"])
        .arg(q4()));
    assert_eq!(done.code, 2);
    assert!(
        done.stderr.contains("rope-base"),
        "the message lists the faults there are: {}",
        done.stderr
    );
}
