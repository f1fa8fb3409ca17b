//! Floor files.

use bitnet_diff::floor::Floor;

/// Text is a floor whose limits are beyond what was measured, and which is the same when it is written and read again;
/// or an error.
pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let floor = match Floor::from_toml(text) {
        Ok(floor) => floor,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    assert!(!floor.stages.is_empty());
    for entry in &floor.stages {
        for level in [&entry.error, &entry.gain] {
            assert!(
                level.limit() > level.high && level.limit_of_one() >= level.limit(),
                "{entry:?}"
            );
        }
        assert!(entry.locatable() >= 0.0, "{entry:?}");
    }
    let written = floor.to_toml().expect("a floor can be written");
    assert_eq!(Floor::from_toml(&written).expect("and read"), floor);
}
