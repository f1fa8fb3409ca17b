//! Tolerance files.

use bitnet_diff::Tolerance;
use bitnet_trace_schema::DType;

/// Text is a tolerance with limits for every record, or an error.
pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let tolerance = match Tolerance::from_toml(text, "t.toml") {
        Ok(tolerance) => tolerance,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    assert!(!tolerance.to_string().is_empty());
    let _ = (tolerance.sees_no_scale(), tolerance.is_builtin());
    for stage in ["attn_out", "logits", "", "ü"] {
        for layer in [i32::MIN, -1, 0, 5, i32::MAX] {
            for dtype in DType::ALL {
                let applied = tolerance.applied(stage, layer, [DType::F32, dtype]);
                assert!(applied.gates.check("a table").is_ok(), "{applied:?}");
                assert!(!applied.gates.to_string().is_empty());
                let json = serde_json::to_string(&applied).expect("a tolerance is JSON");
                assert!(json.contains("\"source\""));
            }
        }
    }
}
