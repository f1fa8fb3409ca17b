//! Where the project keeps what it builds.

use std::path::{Path, PathBuf};

/// The project's root folder.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// The C++ runner over the pinned llama.cpp, or over the tree that `BITNET_CPP_DIR` names. Builds it when it is not
/// there or not up to date, with progress on stderr.
///
/// # Errors
/// Where it can't be built; the set-up script has said why on stderr.
#[cfg(feature = "inference")]
pub fn cpp_runner() -> anyhow::Result<PathBuf> {
    use anyhow::{Context, ensure};
    let script = root().join("scripts/setup.sh");
    let out = std::process::Command::new(&script)
        .arg("cpp")
        .env("SETUP_QUIET", "1")
        .stderr(std::process::Stdio::inherit())
        .output()
        .with_context(|| format!("{} can't be run", script.display()))?;
    ensure!(
        out.status.success(),
        "the C++ engine could not be set up (see above)"
    );
    let stdout = String::from_utf8_lossy(&out.stdout);
    let path = PathBuf::from(stdout.lines().last().unwrap_or_default());
    ensure!(
        path.is_file(),
        "{} said {stdout:?} and not where the C++ runner is",
        script.display()
    );
    Ok(path)
}
