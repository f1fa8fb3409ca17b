//! Gives a target's seeds to its check, in ordinary tests.

use std::path::Path;

/// Every seed of `target` as it is, cut off at some places, and with some bits flipped: as many of each as
/// `changes`.
///
/// # Panics
/// Where the check does, after the seed and the change were printed, and where there is no seed.
pub fn replay(target: &str, changes: usize, check: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/seeds")
        .join(target);
    let files = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut files: Vec<_> = files.map(|f| f.expect("an entry").path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    for file in files {
        let seed = std::fs::read(&file).expect("a file");
        let run = |change: &str, bytes: &[u8]| {
            let told = Told(format!("the seed {} {change}", file.display()));
            check(bytes);
            drop(told);
        };
        run("as it is", &seed);
        let mut random = seed.len() as u64 | 1;
        for _ in 0..changes.min(seed.len()) {
            let mut next = || {
                // xorshift64
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random as usize
            };
            let length = next() % seed.len();
            run(&format!("cut off at {length}"), &seed[..length]);
            let (at, bit) = (next() % seed.len(), next() % 8);
            let mut bytes = seed.clone();
            bytes[at] ^= 1 << bit;
            run(&format!("with bit {bit} of byte {at} flipped"), &bytes);
        }
    }
}

/// Prints itself where a check panics.
struct Told(String);

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("it was {}", self.0);
        }
    }
}
