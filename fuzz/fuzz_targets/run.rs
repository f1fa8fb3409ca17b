#![no_main]

use bitnet_fuzz::{mutate, run};
use libfuzzer_sys::{fuzz_mutator, fuzz_target};

fuzz_target!(
    init: mutate::let_be_caught(mutate::PARQUET),
    |data: &[u8]| run::check(data)
);
fuzz_mutator!(|data: &mut [u8], size: usize, max: usize, seed: u32| {
    mutate::with(data, size, max, seed, |bytes, random| {
        mutate::run(bytes, max, random)
    })
});
