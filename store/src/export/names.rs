//! Names of the files that records are exported to.

use crate::Row;
use std::collections::{HashMap, HashSet};

/// Most characters that a stage gives a name.
const MAX_STAGE: usize = 80;

/// A file name for each record: plain, without a path, and no two of them the same.
pub(super) fn of(rows: &[Row]) -> Vec<String> {
    let mut keys: HashMap<String, u32> = HashMap::new();
    for row in rows {
        *keys.entry(key(row)).or_default() += 1;
    }
    let requests = rows.iter().any(|r| r.meta.request != 0);
    let mut taken = HashSet::new();
    let mut names = Vec::with_capacity(rows.len());
    for row in rows {
        let m = &row.meta;
        let key = key(row);
        let mut stem = if requests {
            format!("request{}_{key}", m.request)
        } else {
            key.clone()
        };
        if keys.get(&key).is_some_and(|&n| n > 1) {
            stem.push_str(&format!("_pass{}", m.pass));
            if m.occurrence != 0 {
                stem.push_str(&format!("_{}", m.occurrence));
            }
        }
        // Stages may differ in what a name cannot hold; and some file systems do not tell case apart.
        let mut name = format!("{stem}.npy");
        let mut n = 2;
        while !taken.insert(name.to_ascii_lowercase()) {
            name = format!("{stem}-{n}.npy");
            n += 1;
        }
        names.push(name);
    }
    names
}

fn key(row: &Row) -> String {
    let m = &row.meta;
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() || "_.-".contains(c) {
            c
        } else {
            '-'
        }
    };
    let stage: String = m.stage.chars().take(MAX_STAGE).map(plain).collect();
    format!("seq{:05}_layer{:03}_{stage}", m.seq, m.layer)
}
