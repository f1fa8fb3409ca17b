//! The queue between engine threads and the writer: bounded by bytes, with jobs that are used again.

use crate::{job::Job, lock};
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Jobs wait here for the writer. A producer reserves room, copies its tensor without holding the lock,
/// then pushes; the order of pushes is the order of execution that `op_index` tells.
#[derive(Debug)]
pub(crate) struct Queue {
    state: Mutex<State>,
    /// Signalled when bytes are given back.
    room: Condvar,
    /// Signalled when a job is pushed, and at the end.
    work: Condvar,
    limit: usize,
    /// How long the end waits for jobs that are being filled.
    patience: Duration,
}

#[derive(Debug, Default)]
struct State {
    jobs: VecDeque<Job>,
    pool: Vec<Job>,
    /// Bytes reserved by jobs that are being copied, wait, or are being written.
    used: usize,
    /// Capacity of the pooled jobs' buffers; with `used` it stays below the limit.
    pooled: usize,
    /// Jobs reserved and not pushed yet.
    filling: usize,
    /// When it was closed.
    closed_at: Option<Instant>,
    /// Closed because the writer gave up.
    failed: bool,
    /// The writer waits for work: only then is it worth a system call to wake it.
    idle: bool,
    /// Producers that wait for room.
    blocked: usize,
    op_index: i64,
    passes: i32,
}

/// What a job takes beside its tensor, so that tensors without elements are bounded too.
const JOB_BYTES: usize = 512;
/// A pool of more jobs than this would only be searched longer.
const POOL_JOBS: usize = 64;

impl Queue {
    pub fn new(limit: usize) -> Self {
        Self {
            state: Mutex::default(),
            room: Condvar::new(),
            work: Condvar::new(),
            limit,
            patience: Duration::from_secs(2),
        }
    }

    /// Waits until `bytes` fit, and takes an empty job to fill. `None` once the queue is closed. A job
    /// larger than the limit is let in when the queue is empty.
    /// `beside` are bytes that it takes beside its tensor's.
    pub fn reserve(&self, bytes: usize, beside: usize) -> Option<Slot<'_>> {
        let reserved = bytes.saturating_add(beside).saturating_add(JOB_BYTES);
        let mut state = lock(&self.state);
        while state.closed_at.is_none() && state.used > 0 && state.used.saturating_add(reserved) > self.limit
        {
            state.blocked += 1;
            state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.blocked -= 1;
        }
        if state.closed_at.is_some() {
            return None;
        }
        state.used = state.used.saturating_add(reserved);
        state.filling += 1;
        let fits = (state.pool.iter()).position(|job| job.data.capacity() >= bytes);
        let pooled = match fits {
            Some(at) => Some(state.pool.swap_remove(at)),
            None => state.pool.pop(),
        };
        let mut job = pooled.unwrap_or_default();
        state.pooled -= job.capacity();
        while state.used.saturating_add(state.pooled) > self.limit
            && let Some(spare) = state.pool.pop()
        {
            state.pooled -= spare.capacity();
        }
        job.reserved = reserved;
        Some(Slot {
            queue: self,
            job,
            pushed: false,
        })
    }

    fn push(&self, mut job: Job) -> bool {
        let mut state = lock(&self.state);
        state.filling -= 1;
        if state.failed {
            return false;
        }
        job.op_index = state.op_index;
        job.pass = (state.passes - 1).max(0);
        state.op_index += 1;
        state.jobs.push_back(job);
        let wake = std::mem::take(&mut state.idle);
        drop(state);
        if wake {
            self.work.notify_one();
        }
        true
    }

    pub fn begin_pass(&self) {
        let mut state = lock(&self.state);
        state.passes = state.passes.saturating_add(1);
    }

    /// The next job; `None` once the queue is closed and empty.
    ///
    /// A thread may never finish the copy that it began: a signal handler that calls `exit` runs on top of
    /// it. So the end waits for copies, but not for ever.
    pub fn pop(&self) -> Option<Job> {
        let mut state = lock(&self.state);
        loop {
            if let Some(job) = state.jobs.pop_front() {
                return Some(job);
            }
            state.idle = true;
            let Some(since) = state.closed_at else {
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = self.patience.saturating_sub(since.elapsed());
            if state.filling == 0 || left.is_zero() {
                state.failed = state.filling > 0; // these come too late
                return None;
            }
            let waited = self.work.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Gives a written job's room back.
    pub fn recycle(&self, job: Job) {
        let mut state = lock(&self.state);
        state.used = state.used.saturating_sub(job.reserved);
        let capacity = job.capacity();
        let held = state.used.saturating_add(state.pooled + capacity);
        if state.pool.len() < POOL_JOBS && held <= self.limit {
            state.pooled += capacity;
            state.pool.push(job);
        }
        let wake = state.blocked > 0;
        drop(state);
        if wake {
            self.room.notify_all();
        }
    }

    /// How many jobs are being filled.
    pub fn filling(&self) -> u64 {
        lock(&self.state).filling as u64
    }

    /// Lets no more jobs in. What was reserved before is still written.
    pub fn close(&self) {
        let mut state = lock(&self.state);
        state.closed_at.get_or_insert_with(Instant::now);
        drop(state);
        self.work.notify_all();
        self.room.notify_all();
    }

    /// Closes the queue because nobody will empty it, and returns how many jobs were waiting.
    pub fn fail(&self) -> u64 {
        let mut state = lock(&self.state);
        state.closed_at.get_or_insert_with(Instant::now);
        state.failed = true;
        let waiting = state.jobs.len() as u64;
        state.jobs.clear();
        drop(state);
        self.work.notify_all();
        self.room.notify_all();
        waiting
    }
}

/// Room for a job to be filled. It is given back where the job is not pushed.
#[derive(Debug)]
pub(crate) struct Slot<'a> {
    queue: &'a Queue,
    pub job: Job,
    pushed: bool,
}

impl Slot<'_> {
    /// Hands the filled job to the writer; false when nobody will write it.
    pub fn push(mut self) -> bool {
        self.pushed = true;
        self.queue.push(std::mem::take(&mut self.job))
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        if !self.pushed {
            lock(&self.queue.state).filling -= 1;
            self.queue.recycle(std::mem::take(&mut self.job));
            self.queue.work.notify_all(); // at the end the writer waits for jobs that are being filled
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, mpsc};
    use std::time::Duration;

    fn push(queue: &Queue, bytes: usize) {
        let mut slot = queue.reserve(bytes, 0).expect("open");
        slot.job.data.resize(bytes, 0);
        assert!(slot.push());
    }

    #[test]
    fn a_full_queue_makes_its_producer_wait_until_there_is_room() {
        let queue = Arc::new(Queue::new(3000));
        push(&queue, 1000);
        push(&queue, 900);
        let (told, done) = mpsc::channel();
        let producer = std::thread::spawn({
            let queue = Arc::clone(&queue);
            move || {
                push(&queue, 1000);
                let _ = told.send(());
            }
        });
        assert!(
            done.recv_timeout(Duration::from_millis(50)).is_err(),
            "it should wait"
        );
        let job = queue.pop().expect("a job");
        queue.recycle(job);
        done.recv_timeout(Duration::from_secs(10))
            .expect("room was given back");
        producer.join().expect("no panic");
        let order: Vec<i64> = (0..2).filter_map(|_| queue.pop()).map(|j| j.op_index).collect();
        assert_eq!(order, [1, 2]);
    }

    #[test]
    fn a_tensor_larger_than_the_queue_is_taken_when_it_is_empty() {
        let queue = Queue::new(100);
        push(&queue, 100_000);
        queue.close();
        assert!(queue.reserve(1, 0).is_none());
        assert!(queue.pop().is_some(), "what was pushed is written after the end");
        assert!(queue.pop().is_none());
    }

    #[test]
    fn buffers_are_used_again_within_the_limit() {
        let queue = Queue::new(5000);
        push(&queue, 2000);
        let job = queue.pop().expect("a job");
        let buffer = job.data.as_ptr();
        queue.recycle(job);
        let slot = queue.reserve(1500, 0).expect("open");
        assert_eq!(slot.job.data.as_ptr(), buffer);
        let state = lock(&queue.state);
        assert_eq!((state.pooled, state.pool.len()), (0, 0));
        drop(state);
    }

    #[test]
    fn a_job_that_is_not_pushed_gives_its_room_back_and_does_not_hold_up_the_end() {
        let queue = Arc::new(Queue::new(1000));
        let slot = queue.reserve(100, 300).expect("open");
        assert_eq!(lock(&queue.state).used, 400 + JOB_BYTES);
        let (told, done) = mpsc::channel();
        let writer = std::thread::spawn({
            let queue = Arc::clone(&queue);
            move || {
                let _ = told.send(queue.pop().is_none());
            }
        });
        queue.close();
        drop(slot); // as a panic while it is filled does
        assert_eq!(done.recv_timeout(Duration::from_secs(10)), Ok(true));
        writer.join().expect("no panic");
        assert_eq!(lock(&queue.state).used, 0);
    }

    #[test]
    fn a_copy_that_never_ends_does_not_hold_up_the_end_for_ever() {
        let mut queue = Queue::new(1000);
        queue.patience = Duration::from_millis(20);
        let slot = queue.reserve(100, 0).expect("open");
        queue.close();
        assert!(queue.pop().is_none());
        assert_eq!(queue.filling(), 1);
        assert!(!slot.push(), "too late");
    }

    #[test]
    fn a_failed_writer_lets_waiting_producers_go() {
        let queue = Arc::new(Queue::new(1000));
        push(&queue, 800);
        let producer = std::thread::spawn({
            let queue = Arc::clone(&queue);
            move || queue.reserve(800, 0).is_none()
        });
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(queue.fail(), 1);
        assert!(producer.join().expect("no panic"));
    }
}
