//! The library that records programs which compute with ggml, without a change to them, and which programs it reaches.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::Read,
    os::fd::IntoRawFd,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::{Path, PathBuf},
};

/// Where the library is, if it does not lie beside the program.
pub const VARIABLE: &str = "BITNET_TRACE_PRELOAD";
/// The dynamic linker's variable.
pub const LD_PRELOAD: &str = "LD_PRELOAD";
/// With how many threads a program is to compute while it is recorded.
pub const THREADS: &str = "BITNET_TRACE_THREADS";
/// What a program's author adds where it cannot be reached from outside.
pub const ONE_LINE: &str = "params.cb_eval = bnt_ggml_cb_eval; (#include <bitnet_trace_ggml.h>)";

const FILE: &str = "libbitnet_trace_preload.so";

/// The library: the one that `BITNET_TRACE_PRELOAD` names, or one beside this program or in the `lib` beside its folder.
///
/// # Errors
/// Where it was looked for, and what to do.
pub fn find() -> Result<PathBuf, String> {
    if let Some(named) = std::env::var_os(VARIABLE).filter(|named| !named.is_empty()) {
        let path = PathBuf::from(named);
        let path = std::path::absolute(&path).unwrap_or(path);
        return usable(path.clone())
            .ok_or_else(|| format!("{VARIABLE}={} is no file that can be preloaded", path.display()));
    }
    let program = std::env::current_exe().unwrap_or_default();
    let folder = program.parent().unwrap_or(Path::new("/"));
    let places = [folder.join(FILE), folder.join("../lib").join(FILE)];
    let found = places.iter().find_map(|place| usable(place.clone()));
    found.ok_or_else(|| {
        format!(
            "{FILE} is not in {} nor in the lib beside it; {VARIABLE} names it elsewhere, and `cargo build \
             --release -p bitnet-trace-preload` builds it",
            folder.display()
        )
    })
}

/// The path by which the dynamic linker finds a file. It divides its list at spaces and colons, and knows no quotes: such
/// a file is opened for as long as this process lives, and found by its descriptor.
fn usable(path: PathBuf) -> Option<PathBuf> {
    let path = path.canonicalize().unwrap_or(path);
    if !path.is_file() {
        return None;
    }
    let divided = path.as_os_str().as_bytes().iter().any(|b| b" :\t\n".contains(b));
    if !divided {
        return Some(path);
    }
    let descriptor = File::open(&path).ok()?.into_raw_fd();
    Some(format!("/proc/{}/fd/{descriptor}", std::process::id()).into())
}

/// What `LD_PRELOAD` is to be: the library, after the user's own.
pub fn with_own(library: &Path) -> OsString {
    let mut list = std::env::var_os(LD_PRELOAD).unwrap_or_default();
    if !list.is_empty() {
        list.push(":");
    }
    list.push(library);
    list
}

/// Why the library does not reach a program, as far as its file tells.
pub fn out_of_reach(path: &Path) -> Option<String> {
    let mut at = path.to_path_buf();
    // A script's interpreter may be a script.
    for _ in 0..4 {
        let mode = std::fs::metadata(&at).ok()?.permissions().mode();
        if mode & 0o6000 != 0 {
            return Some(format!(
                "{} is setuid or setgid: the system preloads nothing into it",
                at.display()
            ));
        }
        let mut head = [0; 4096];
        let read = File::open(&at).ok()?.read(&mut head).ok()?;
        let head = &head[..read];
        match interpreter(head) {
            Some(interpreter) => at = interpreter,
            None => return program(head).map(|why| format!("{} is {why}", at.display())),
        }
    }
    None
}

/// The program that a script names in its first line.
fn interpreter(head: &[u8]) -> Option<PathBuf> {
    let line = head.strip_prefix(b"#!")?.split(|&b| b == b'\n').next()?;
    let word = line.split(|b| b.is_ascii_whitespace()).find(|w| !w.is_empty())?;
    Some(PathBuf::from(OsStr::from_bytes(word)))
}

/// What a program is that the library is not for (elf(5)).
fn program(head: &[u8]) -> Option<&'static str> {
    const CLASS_64: u8 = 2;
    const INTERPRETER: u32 = 3;
    let machine = match std::env::consts::ARCH {
        "x86_64" => 62,
        "aarch64" => 183,
        _ => return Some("of an architecture that nothing can be preloaded into"),
    };
    let two = |at: usize| head.get(at..at + 2).map(|b| u16::from_le_bytes([b[0], b[1]]));
    if !head.starts_with(b"\x7fELF") {
        return Some("no program of this system (not ELF)");
    }
    if head.get(4) != Some(&CLASS_64) || two(18) != Some(machine) {
        return Some("built for another architecture than the preload library");
    }
    let table = usize::try_from(u64::from_le_bytes(head.get(32..40)?.try_into().ok()?)).ok()?;
    let (size, count) = (usize::from(two(54)?), usize::from(two(56)?));
    let dynamic = (0..count).any(|i| {
        let at = table.saturating_add(i * size);
        let kind = head.get(at..at.saturating_add(4)).and_then(|b| b.try_into().ok());
        // Headers that lie further back than was read are not judged.
        kind.map_or(at >= head.len(), |kind| u32::from_le_bytes(kind) == INTERPRETER)
    });
    (!dynamic).then_some("linked statically: nothing can be preloaded into it")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(bytes: &[u8], mode: u32) -> Option<String> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("program");
        std::fs::write(&path, bytes).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("a mode");
        out_of_reach(&path)
    }

    /// The head of a program with one program header.
    fn elf(machine: u16, header: u32) -> Vec<u8> {
        let mut head = vec![0; 64 + 56];
        head[..5].copy_from_slice(b"\x7fELF\x02");
        head[18..20].copy_from_slice(&machine.to_le_bytes());
        head[32] = 64;
        head[54] = 56;
        head[56] = 1;
        head[64..68].copy_from_slice(&header.to_le_bytes());
        head
    }

    const HERE: u16 = if cfg!(target_arch = "aarch64") { 183 } else { 62 };

    #[test]
    fn programs_that_nothing_is_preloaded_into_are_told_by_their_files() {
        assert_eq!(why(&elf(HERE, 3), 0o755), None);
        assert!(why(&elf(HERE, 1), 0o755).is_some_and(|w| w.contains("statically")));
        assert!(why(&elf(8, 3), 0o755).is_some_and(|w| w.contains("architecture")));
        assert!(why(&elf(HERE, 3), 0o4755).is_some_and(|w| w.contains("setuid")));
        assert!(why(b"MZ", 0o755).is_some_and(|w| w.contains("not ELF")));
        assert!(
            why(&elf(HERE, 3)[..30], 0o755).is_none(),
            "not enough of it to judge"
        );
    }

    #[test]
    fn a_script_is_as_reachable_as_its_interpreter() {
        assert_eq!(why(b"#!/bin/sh\n", 0o755), None);
        let dir = tempfile::tempdir().expect("a directory");
        let interpreter = dir.path().join("static");
        std::fs::write(&interpreter, elf(HERE, 1)).expect("written");
        let script = format!("#! {} -x\n", interpreter.display());
        assert!(why(script.as_bytes(), 0o755).is_some_and(|w| w.contains("statically")));
    }

    #[test]
    fn a_path_that_the_linker_would_divide_is_replaced_by_one_that_leads_to_the_same_file() {
        let dir = tempfile::tempdir().expect("a directory");
        for name in ["a", "a b", "a:b"] {
            let path = dir.path().join(name);
            std::fs::write(&path, name).expect("written");
            let used = usable(path.clone()).expect("a file");
            assert!(!used.to_string_lossy().contains([' ', ':']), "{}", used.display());
            assert_eq!(std::fs::read(used).expect("the file"), name.as_bytes());
        }
        assert_eq!(usable(dir.path().join("c")), None);
    }
}
