//! `run.json`.

use bitnet_trace_schema::{Manifest, run_dir};

/// Bytes are a manifest that survives being written and names no file outside its directory, or an error.
pub fn check(data: &[u8]) {
    let manifest = match Manifest::from_json(data) {
        Ok(manifest) => manifest,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let again =
        Manifest::from_json(manifest.to_json().as_bytes()).expect("a manifest can be written and read");
    assert_eq!(again, manifest);
    assert_eq!(
        run_dir::run_of_dir(&run_dir::dir_name(&manifest.run)),
        Some(manifest.run.as_str())
    );
    for part in &manifest.parts {
        assert!(!part.file.contains(['/', '\\', '\0']), "{}", part.file);
    }
}
