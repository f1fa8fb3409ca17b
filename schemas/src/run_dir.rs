//! Names of the files of a database and of a run (see `FORMAT.md` for the states they go through).

/// The manifest's file name.
pub const MANIFEST: &str = "run.json";
/// The index's file name in a database.
pub const INDEX: &str = "index.sqlite";
/// Ending of a part that is being written.
pub const OPEN_SUFFIX: &str = ".open";
/// Ending of the journal of a part that is being written.
pub const JOURNAL_SUFFIX: &str = ".journal";
/// Longest run name, in bytes.
pub const MAX_RUN_NAME: usize = 128;

/// Directory name of a run (hive style, so that DuckDB, Spark and Polars see a `run` column).
pub fn dir_name(run: &str) -> String {
    format!("run={run}")
}

/// The run's name, if `dir` is the directory name of a run.
pub fn run_of_dir(dir: &str) -> Option<&str> {
    dir.strip_prefix("run=").filter(|n| is_run_name(n))
}

/// File name of part `index`.
pub fn part_name(index: u32) -> String {
    format!("part-{index:05}.parquet")
}

/// Part number of a sealed part's file name.
pub fn part_index(file: &str) -> Option<u32> {
    let digits = file.strip_prefix("part-")?.strip_suffix(".parquet")?;
    (digits.len() >= 5 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
}

/// Whether `name` may name a run: 1 to [`MAX_RUN_NAME`] of `A-Z a-z 0-9 . _ -`, not starting with a dot.
///
/// Such a name is a plain file name on every system and needs no escaping in a hive path.
pub fn is_run_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_RUN_NAME
        && !name.starts_with('.')
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// A run name made from any text: what [`is_run_name`] does not allow becomes `-`.
pub fn sanitize_run_name(text: &str) -> String {
    let mut name: String = text
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || "._-".contains(c) {
                c
            } else {
                '-'
            }
        })
        .take(MAX_RUN_NAME)
        .collect();
    if name.is_empty() || name.starts_with('.') {
        name.insert(0, '-');
        name.truncate(MAX_RUN_NAME);
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_name_never_leaves_its_directory() {
        for bad in [
            "",
            ".",
            "..",
            "../x",
            "a/b",
            "a\\b",
            "a b",
            "\0",
            ".hidden",
            "ü",
            &"x".repeat(129),
        ] {
            assert!(!is_run_name(bad), "{bad:?}");
            assert!(is_run_name(&sanitize_run_name(bad)), "{bad:?}");
        }
        assert_eq!(run_of_dir("run=cpp-f32"), Some("cpp-f32"));
        assert_eq!(run_of_dir("run=../x"), None);
    }

    #[test]
    fn part_names_round_trip_and_open_parts_are_not_parts() {
        assert_eq!(part_index(&part_name(7)), Some(7));
        assert_eq!(part_index("part-123456.parquet"), Some(123_456));
        for other in [
            "part-00000.parquet.open",
            "part-0.parquet",
            "part-+0001.parquet",
            "x.parquet",
        ] {
            assert_eq!(part_index(other), None);
        }
    }
}
