//! A hash for keys of a few words, of which a comparison looks up very many.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

/// Much cheaper than the standard library's: each word is folded in by a multiplication, from a
/// start that nobody who makes a run can know. After wyhash (Wang Yi, github.com/wangyi-fudan/wyhash).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Folding(u64);

impl Folding {
    pub(crate) fn new() -> Self {
        Self(RandomState::new().hash_one(0) | 1)
    }
}

impl BuildHasher for Folding {
    type Hasher = Fold;

    fn build_hasher(&self) -> Fold {
        Fold {
            state: self.0,
            seed: self.0,
        }
    }
}

pub(crate) struct Fold {
    state: u64,
    seed: u64,
}

impl Hasher for Fold {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.write_u64(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.write_u64(u64::from_le_bytes(last) ^ bytes.len() as u64);
    }

    fn write_u8(&mut self, n: u8) {
        self.write_u64(n.into());
    }

    fn write_u32(&mut self, n: u32) {
        self.write_u64(n.into());
    }

    fn write_i32(&mut self, n: i32) {
        self.write_u64(n as u64);
    }

    fn write_u64(&mut self, n: u64) {
        let product = u128::from(self.state ^ n) * u128::from(self.seed ^ 0xa076_1d64_78bd_642f);
        self.state = (product >> 64) as u64 ^ product as u64;
    }

    fn finish(&self) -> u64 {
        self.state
    }
}
