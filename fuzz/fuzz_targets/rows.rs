#![no_main]

use bitnet_fuzz::{mutate, rows};
use libfuzzer_sys::{fuzz_mutator, fuzz_target};

fuzz_target!(|data: &[u8]| rows::check(data));
fuzz_mutator!(|data: &mut [u8], size: usize, max: usize, seed: u32| {
    mutate::with(data, size, max, seed, |bytes, random| {
        mutate::rows(bytes, max, random)
    })
});
