//! What this machine reads from memory: a sum of a large buffer, on as many threads, as a read of STREAM would be.
#![allow(unsafe_code)]

use std::hint::black_box;
use std::thread;
use std::time::Instant;

/// Memory to read, in 64-bit words.
pub struct Buffer(Vec<u64>);

impl Buffer {
    /// So many bytes, in large pages where the system has them.
    pub fn new(bytes: usize) -> Self {
        let mut words: Vec<u64> = Vec::with_capacity(bytes / 8);
        #[cfg(target_os = "linux")]
        {
            const PAGE: usize = 2 << 20;
            let room = words.spare_capacity_mut();
            let start = room.as_mut_ptr().align_offset(PAGE);
            if let Some(room) = room.get_mut(start..) {
                let length = size_of_val(room) / PAGE * PAGE;
                // SAFETY: advice on memory that is this vector's alone, from the first whole page of it to its last one
                unsafe { libc::madvise(room.as_mut_ptr().cast(), length, libc::MADV_HUGEPAGE) };
            }
        }
        words.extend(0..bytes as u64 / 8);
        Self(words)
    }

    /// Seconds for reading `bytes` bytes on `threads` threads, as fast as all of it is read.
    pub fn read(&self, bytes: usize, threads: usize) -> f64 {
        let part = self.0.len().div_ceil(threads).max(1);
        let start = Instant::now();
        thread::scope(|scope| {
            for words in self.0.chunks(part) {
                scope.spawn(move || black_box(sum(black_box(words))));
            }
        });
        start.elapsed().as_secs_f64() * bytes as f64 / (self.0.len() * 8) as f64
    }
}

fn sum(words: &[u64]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f")]
        fn avx512(words: &[u64]) -> u64 {
            lanes(words)
        }
        #[target_feature(enable = "avx2")]
        fn avx2(words: &[u64]) -> u64 {
            lanes(words)
        }
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has just been asked for it
            return unsafe { avx512(words) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has just been asked for it
            return unsafe { avx2(words) };
        }
    }
    lanes(words)
}

#[inline(always)]
fn lanes(words: &[u64]) -> u64 {
    const LANES: usize = 64;
    let mut sums = [0u64; LANES];
    for chunk in words.as_chunks::<LANES>().0 {
        for lane in 0..LANES {
            sums[lane] = sums[lane].wrapping_add(chunk[lane]);
        }
    }
    sums.into_iter().fold(0, u64::wrapping_add)
}
