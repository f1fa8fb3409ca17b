//! The model's file, where the program has mapped one.

use std::{collections::BTreeSet, fs::File, io::Read, path::PathBuf};

/// The GGUF file that is mapped into this process, if it is the only one.
pub fn mapped() -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let paths: BTreeSet<&str> = maps.lines().filter_map(path).collect();
    let mut models = paths.into_iter().filter(|p| is_gguf(p));
    let model = models.next()?;
    models.next().is_none().then(|| model.into())
}

/// The path at the end of a line, of a file that is no program's.
fn path(line: &str) -> Option<&str> {
    let (_, path) = line.split_once('/')?;
    let path = &line[line.len() - path.len() - 1..];
    let executable = line
        .split_whitespace()
        .nth(1)
        .is_some_and(|mode| mode.contains('x'));
    (!executable && !path.contains(".so") && !path.starts_with("/dev/")).then_some(path)
}

fn is_gguf(path: &str) -> bool {
    let mut magic = [0; 4];
    let read = File::open(path).and_then(|mut f| f.read_exact(&mut magic));
    read.is_ok() && &magic == b"GGUF"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_whole_and_of_data() {
        let line = |rest: &str| format!("7f00-7f01 r--s 00000000 08:01 42   {rest}");
        assert_eq!(path(&line("/a b/model.gguf")), Some("/a b/model.gguf"));
        assert_eq!(path(&line("/lib/libggml.so.0")), None);
        assert_eq!(path(&line("")), None);
        assert_eq!(path("7f00-7f01 r-xp 00000000 08:01 42 /bin/cat"), None);
    }
}
