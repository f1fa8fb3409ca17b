//! Emptied jobs, kept so that their buffers are used again.

use crate::job::Job;

/// The smallest buffer.
const SMALLEST: usize = 256;
/// Index of the class that `SMALLEST` belongs to, before it is made 0.
const FIRST: usize = 23;
/// Beyond this, a buffer is of no class: it is as large as its tensor and not kept.
const LARGEST: usize = 1 << 31;

/// Jobs by the size of their buffers: four classes for each power of two, so that a buffer is at most a quarter
/// larger than what it was made for, and a small tensor never holds a large buffer.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    classes: Vec<Vec<Box<Job>>>,
    bytes: usize,
}

/// Bytes of the buffer that is made for a tensor of `bytes`.
pub(crate) fn buffer_bytes(bytes: usize) -> usize {
    class(bytes).map_or(bytes, |(_, capacity)| capacity)
}

/// The class of a tensor of `bytes`, and the bytes of its buffers.
fn class(bytes: usize) -> Option<(usize, usize)> {
    if bytes > LARGEST {
        return None;
    }
    let last = bytes.max(SMALLEST) - 1;
    let shift = last.ilog2() - 2;
    let quarter = last >> shift; // 4 to 7
    Some((shift as usize * 4 + quarter - 4 - FIRST, (quarter + 1) << shift))
}

impl Pool {
    /// Bytes that the buffers hold.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The job used last of those whose buffer is made for `bytes`.
    pub fn take(&mut self, bytes: usize) -> Option<Box<Job>> {
        let (class, _) = class(bytes)?;
        let job = self.classes.get_mut(class)?.pop()?;
        self.bytes -= job.capacity();
        Some(job)
    }

    /// Keeps a job.
    pub fn put(&mut self, job: Box<Job>) {
        // a buffer that an allocation failure left smaller goes to the class that it serves
        let capacity = job.data.capacity();
        let Some((class, full)) = class(capacity) else {
            return;
        };
        let smaller = usize::from(full > capacity);
        let Some(class) = class.checked_sub(smaller) else {
            return;
        };
        if self.classes.len() <= class {
            self.classes.resize_with(class + 1, Vec::new);
        }
        self.bytes += job.capacity();
        self.classes[class].push(job);
    }

    /// Takes one of the largest, to be freed.
    pub fn evict(&mut self) -> Option<Box<Job>> {
        let job = self.classes.iter_mut().rev().find_map(Vec::pop)?;
        self.bytes -= job.capacity();
        Some(job)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_large_enough_and_at_most_a_quarter_larger() {
        let mut before = (0, 0);
        for bytes in (0..5000).chain((13..31).flat_map(|k| [(1 << k) - 1, 1 << k, (1 << k) + 1])) {
            let (class, capacity) = class(bytes).expect("a class");
            assert!(
                capacity >= bytes && (capacity <= SMALLEST || capacity * 4 <= bytes * 5 + 4),
                "{bytes}"
            );
            assert!(class >= before.0 && capacity >= before.1, "{bytes}");
            assert_eq!(super::class(capacity), Some((class, capacity)));
            before = (class, capacity);
        }
        assert_eq!((class(0), class(257)), (Some((0, 256)), Some((1, 320))));
        assert_eq!(
            (class(LARGEST + 1), buffer_bytes(LARGEST + 1)),
            (None, LARGEST + 1)
        );
    }

    #[test]
    fn a_job_comes_back_for_what_fits_its_buffer_and_the_largest_goes_first() {
        let mut pool = Pool::default();
        for capacity in [256, 1024, 320] {
            let mut job = Box::<Job>::default();
            job.data.reserve_exact(capacity);
            pool.put(job);
        }
        assert_eq!(pool.bytes(), 1600);
        assert!(pool.take(2000).is_none() && pool.take(400).is_none());
        assert_eq!(pool.take(300).map(|j| j.data.capacity()), Some(320));
        assert_eq!(pool.evict().map(|j| j.data.capacity()), Some(1024));
        assert_eq!(pool.bytes(), 256);
        pool.put(Box::default()); // no buffer to keep
        assert_eq!(pool.bytes(), 256);
    }
}
