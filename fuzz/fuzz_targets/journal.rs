#![no_main]

use bitnet_fuzz::{journal, mutate};
use libfuzzer_sys::{fuzz_mutator, fuzz_target};

fuzz_target!(|data: &[u8]| journal::check(data));
fuzz_mutator!(|data: &mut [u8], size: usize, max: usize, seed: u32| {
    mutate::with(data, size, max, seed, |bytes, random| {
        mutate::journal(bytes, max, random)
    })
});
