//! The queue between engine threads and the writer: bounded by bytes, with jobs that are used again.

#![allow(clippy::vec_box)] // a job is large, and moves between threads, the queue and the pool as a pointer

mod pool;

use crate::{TensorError, job::Job, lock};
use pool::{Pool, buffer_bytes};
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Jobs wait here for the writer. A producer reserves room, copies its tensor without holding the lock,
/// then pushes; the order of pushes is the order of execution that `op_index` tells.
///
/// Room is given back when the writer calls [`Queue::release`], which it does when what it popped is safe: so the
/// limit bounds what a crash loses. A pushed job wakes the writer only where it has slept for long or a good part of the
/// queue is filled: it looks by itself every [`NAP`] while tensors come.
#[derive(Debug)]
pub(crate) struct Queue {
    state: Mutex<State>,
    /// The writer's own: it is locked by the writer thread only, but at the end.
    writer: Mutex<Writer>,
    /// Signalled when there is room again.
    room: Condvar,
    /// Signalled where the writer should not sleep on.
    work: Condvar,
    limit: usize,
    when_full: WhenFull,
    /// How long the end waits for jobs that are being filled.
    patience: Duration,
}

/// What becomes of a tensor that does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WhenFull {
    /// Its thread waits.
    Wait,
    /// It is refused.
    Refuse,
}

/// What the writer finds.
#[derive(Debug)]
pub(crate) enum Popped {
    Job(Box<Job>),
    /// Nothing came for the time asked for; or nothing is left, and producers wait for room that
    /// [`Queue::release`] has not given back.
    Idle,
    /// The queue is closed and empty.
    Closed,
}

#[derive(Debug, Default)]
struct State {
    jobs: VecDeque<Box<Job>>,
    pool: Pool,
    /// Bytes reserved and not released.
    used: usize,
    /// Bytes reserved by jobs that are not recycled; with the pool's they stay below the limit.
    lent: usize,
    /// Jobs reserved and not pushed yet, and the bytes that they reserve.
    filling: usize,
    filling_bytes: usize,
    /// When it was closed.
    closed_at: Option<Instant>,
    /// Closed because the writer gave up.
    failed: bool,
    sleep: Sleep,
    /// Producers that wait for room.
    blocked: usize,
    /// A tensor was refused, and the writer has not been told to make room since.
    refused: bool,
    op_index: i64,
    passes: i32,
}

/// How the writer waits for work.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Sleep {
    #[default]
    Awake,
    /// It looks again soon.
    Nap,
    /// Each job wakes it.
    Parked,
}

#[derive(Debug)]
struct Writer {
    /// Taken from the queue in one go, so that the lock is seldom wanted by two.
    taken: VecDeque<Box<Job>>,
    /// Written jobs that go back to the pool in one go.
    done: Vec<Box<Job>>,
    /// When a job was found last.
    active: Instant,
}

/// What a job takes beside its tensor, so that tensors without elements are bounded too.
const JOB_BYTES: usize = 512;
/// How long the writer sleeps while tensors come.
const NAP: Duration = Duration::from_millis(1);
/// How long after the last tensor the writer is still looking by itself.
const ALERT: Duration = Duration::from_millis(10);
/// Written jobs are given back together, this many.
const BATCH: usize = 16;
/// A job that reserves this much is given back at once.
const LARGE: usize = 64 << 10;

impl Queue {
    pub fn new(limit: usize, when_full: WhenFull) -> Self {
        Self {
            state: Mutex::default(),
            writer: Mutex::new(Writer {
                taken: VecDeque::new(),
                done: Vec::with_capacity(BATCH),
                active: Instant::now(),
            }),
            room: Condvar::new(),
            work: Condvar::new(),
            limit,
            when_full,
            patience: Duration::from_secs(2),
        }
    }

    /// Waits until `bytes` fit, and takes an empty job to fill. A job larger than the limit is let in when the
    /// queue is empty. `beside` are bytes that it takes beside its tensor's.
    ///
    /// # Errors
    /// [`TensorError::Closed`] once the queue is closed, [`TensorError::QueueFull`] where it is not to wait, and
    /// [`TensorError::OutOfMemory`].
    pub fn reserve(&self, bytes: usize, beside: usize) -> Result<Slot<'_>, TensorError> {
        let buffer = buffer_bytes(bytes);
        let reserved = buffer.saturating_add(beside).saturating_add(JOB_BYTES);
        let mut state = lock(&self.state);
        while !state.closed() && state.used > 0 && state.used.saturating_add(reserved) > self.limit {
            if std::mem::replace(&mut state.sleep, Sleep::Awake) != Sleep::Awake {
                self.work.notify_one();
            }
            if self.when_full == WhenFull::Refuse {
                state.refused = true;
                return Err(TensorError::QueueFull);
            }
            state.blocked += 1;
            state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.blocked -= 1;
        }
        if state.closed() {
            return Err(TensorError::Closed);
        }
        state.used = state.used.saturating_add(reserved);
        state.lent = state.lent.saturating_add(reserved);
        state.filling += 1;
        state.filling_bytes = state.filling_bytes.saturating_add(reserved);
        let pooled = state.pool.take(bytes);
        while state.lent.saturating_add(state.pool.bytes()) > self.limit
            && let Some(spare) = state.pool.evict()
        {
            drop(spare);
        }
        drop(state);
        let fresh = pooled.is_none();
        let mut job = pooled.unwrap_or_default();
        job.reserved = reserved;
        let mut slot = Slot {
            queue: self,
            job: Some(job),
        };
        if fresh {
            let room = slot.job().data.try_reserve_exact(buffer);
            room.map_err(|_| TensorError::OutOfMemory(bytes))?;
        }
        Ok(slot)
    }

    fn push(&self, mut job: Box<Job>) -> bool {
        let mut state = lock(&self.state);
        state.filled(&job);
        if state.failed {
            return false;
        }
        job.op_index = state.op_index;
        job.pass = (state.passes - 1).max(0);
        state.op_index += 1;
        state.jobs.push_back(job);
        let wake = match state.sleep {
            Sleep::Awake => false,
            Sleep::Nap => state.used > self.limit / 4,
            Sleep::Parked => true,
        };
        if wake {
            state.sleep = Sleep::Awake;
            drop(state);
            self.work.notify_one();
        }
        true
    }

    pub fn begin_pass(&self) {
        let mut state = lock(&self.state);
        state.passes = state.passes.saturating_add(1);
    }

    /// The next job, waiting for it as long as `idle`. For the writer thread.
    ///
    /// A thread may never finish the copy that it began: a signal handler that calls `exit` runs on top of
    /// it. So the end waits for copies, but not for ever.
    pub fn pop(&self, idle: Duration) -> Popped {
        let mut writer = lock(&self.writer);
        let writer = &mut *writer;
        if let Some(job) = writer.taken.pop_front() {
            return Popped::Job(job);
        }
        let mut state = lock(&self.state);
        self.give_back(&mut state, &mut writer.done);
        let mut since = None;
        loop {
            state.sleep = Sleep::Awake;
            std::mem::swap(&mut state.jobs, &mut writer.taken);
            if let Some(job) = writer.taken.pop_front() {
                writer.active = Instant::now();
                return Popped::Job(job);
            }
            let refused = std::mem::take(&mut state.refused);
            if (state.blocked > 0 || refused) && state.used > state.filling_bytes {
                return Popped::Idle;
            }
            let now = Instant::now();
            let left = match state.closed_at {
                None => idle.saturating_sub(now.duration_since(*since.get_or_insert(now))),
                Some(at) if state.filling > 0 => self.patience.saturating_sub(now.duration_since(at)),
                Some(_) => return Popped::Closed,
            };
            if left.is_zero() && state.closed() {
                state.failed = true; // what is still being filled comes too late
                return Popped::Closed;
            }
            if left.is_zero() {
                return Popped::Idle;
            }
            let alert = now.duration_since(writer.active) < ALERT;
            let (sleep, time) = match alert {
                true => (Sleep::Nap, left.min(NAP)),
                false => (Sleep::Parked, left),
            };
            state.sleep = sleep;
            let waited = self.work.wait_timeout(state, time);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Takes a written job's buffers back. For the writer thread. Its room stays taken until it is
    /// [released](Queue::release).
    pub fn recycle(&self, job: Box<Job>) {
        let mut writer = lock(&self.writer);
        let large = job.reserved >= LARGE;
        writer.done.push(job);
        if large || writer.done.len() >= BATCH {
            self.give_back(&mut lock(&self.state), &mut writer.done);
        }
    }

    fn give_back(&self, state: &mut MutexGuard<'_, State>, done: &mut Vec<Box<Job>>) {
        for job in done.drain(..) {
            state.recycle(job, self.limit);
        }
    }

    /// Gives room back: `bytes` that jobs had [reserved](Job::reserved).
    pub fn release(&self, bytes: usize) {
        let mut writer = lock(&self.writer);
        let mut state = lock(&self.state);
        self.give_back(&mut state, &mut writer.done);
        state.used = state.used.saturating_sub(bytes);
        self.let_in(&state);
    }

    /// Wakes producers, where there is room for more than one: each wake costs as much as many tensors.
    fn let_in(&self, state: &State) {
        if state.blocked > 0 && state.used <= self.limit / 4 * 3 {
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
        let mut waiting = std::mem::take(&mut state.jobs).len();
        drop(state);
        self.work.notify_all();
        self.room.notify_all();
        waiting += std::mem::take(&mut lock(&self.writer).taken).len();
        waiting as u64
    }
}

impl State {
    fn closed(&self) -> bool {
        self.closed_at.is_some()
    }

    /// A job is not being filled any more.
    fn filled(&mut self, job: &Job) {
        self.filling -= 1;
        self.filling_bytes -= job.reserved;
    }

    fn recycle(&mut self, job: Box<Job>, limit: usize) {
        self.lent = self.lent.saturating_sub(job.reserved);
        let held = self.lent.saturating_add(self.pool.bytes());
        if held.saturating_add(job.capacity()) <= limit {
            self.pool.put(job);
        }
    }
}

/// Room for a job to be filled. It is given back where the job is not pushed.
#[derive(Debug)]
pub(crate) struct Slot<'a> {
    queue: &'a Queue,
    /// `None` once it is pushed.
    job: Option<Box<Job>>,
}

impl Slot<'_> {
    /// The job to fill.
    pub fn job(&mut self) -> &mut Job {
        self.job.get_or_insert_default()
    }

    /// Hands the filled job to the writer.
    ///
    /// # Errors
    /// [`TensorError::Closed`] when nobody will write it.
    pub fn push(mut self) -> Result<(), TensorError> {
        let pushed = self.job.take().is_some_and(|job| self.queue.push(job));
        pushed.then_some(()).ok_or(TensorError::Closed)
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        let Some(job) = self.job.take() else { return };
        let mut state = lock(&self.queue.state);
        state.filled(&job);
        state.used = state.used.saturating_sub(job.reserved);
        state.recycle(job, self.queue.limit);
        self.queue.let_in(&state);
        drop(state);
        // at the end the writer waits for jobs that are being filled; others may wait for room that it holds
        self.queue.work.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, mpsc};
    use std::time::Duration;

    const LONG: Duration = Duration::from_secs(10);

    fn push(queue: &Queue, bytes: usize) {
        let mut slot = queue.reserve(bytes, 0).expect("open");
        slot.job().data.resize(bytes, 0);
        slot.push().expect("open");
    }

    fn pop(queue: &Queue) -> Box<Job> {
        match queue.pop(LONG) {
            Popped::Job(job) => job,
            other => panic!("no job but {other:?}"),
        }
    }

    /// Pops a job as if it were written: its room is given back.
    fn write(queue: &Queue) -> i64 {
        let job = pop(queue);
        let (number, room) = (job.op_index, job.reserved);
        queue.recycle(job);
        queue.release(room);
        number
    }

    fn waiting() -> Queue {
        Queue::new(3 << 10, WhenFull::Wait)
    }

    /// Pushes from another thread, and tells when it is done.
    fn producer(queue: &Arc<Queue>, bytes: usize) -> mpsc::Receiver<()> {
        let (told, done) = mpsc::channel();
        let queue = Arc::clone(queue);
        std::thread::spawn(move || {
            push(&queue, bytes);
            let _ = told.send(());
        });
        done
    }

    #[test]
    fn a_full_queue_makes_its_producer_wait_until_there_is_room() {
        let queue = Arc::new(waiting());
        push(&queue, 1000);
        push(&queue, 500);
        let done = producer(&queue, 1000);
        assert!(
            done.recv_timeout(Duration::from_millis(50)).is_err(),
            "it should wait"
        );
        assert_eq!(write(&queue), 0);
        done.recv_timeout(LONG).expect("room was given back");
        assert_eq!([write(&queue), write(&queue)], [1, 2]);
    }

    #[test]
    fn room_is_given_back_when_what_was_popped_is_safe_and_the_writer_is_told_that_it_is_wanted() {
        let queue = Arc::new(waiting());
        push(&queue, 1000);
        push(&queue, 500);
        let mut unsafe_bytes = 0;
        for _ in 0..2 {
            let job = pop(&queue);
            unsafe_bytes += job.reserved;
            queue.recycle(job);
        }
        let done = producer(&queue, 1500);
        let started = Instant::now();
        assert!(matches!(queue.pop(LONG), Popped::Idle));
        assert!(
            started.elapsed() < LONG / 2,
            "at once, as nothing is left and somebody waits"
        );
        assert!(
            done.recv_timeout(Duration::from_millis(50)).is_err(),
            "nothing was released"
        );
        queue.release(unsafe_bytes);
        done.recv_timeout(LONG).expect("room was given back");
        assert_eq!(write(&queue), 2);
    }

    #[test]
    fn a_queue_that_is_not_to_wait_refuses_and_asks_the_writer_for_room() {
        let queue = Queue::new(3 << 10, WhenFull::Refuse);
        push(&queue, 2000);
        let job = pop(&queue);
        assert!(matches!(queue.reserve(2000, 0), Err(TensorError::QueueFull)));
        assert!(matches!(queue.pop(LONG), Popped::Idle));
        let (room, nap) = (job.reserved, Duration::from_millis(3));
        queue.recycle(job);
        queue.release(room);
        push(&queue, 2000);
        assert_eq!(write(&queue), 1);
        assert!(matches!(queue.pop(nap), Popped::Idle));
    }

    #[test]
    fn an_idle_writer_is_told_so_in_time_and_a_parked_one_wakes_for_a_job() {
        let queue = Arc::new(waiting());
        for idle in [1, 30] {
            let started = Instant::now();
            assert!(matches!(queue.pop(Duration::from_millis(idle)), Popped::Idle));
            let passed = started.elapsed();
            assert!(
                passed >= Duration::from_millis(idle) && passed < LONG,
                "{passed:?}"
            );
        }
        std::thread::sleep(ALERT);
        let writer = std::thread::spawn({
            let queue = Arc::clone(&queue);
            move || write(&queue)
        });
        while lock(&queue.state).sleep != Sleep::Parked {
            std::thread::yield_now();
        }
        push(&queue, 1);
        assert_eq!(writer.join().expect("no panic"), 0);
    }

    #[test]
    fn a_tensor_larger_than_the_queue_is_taken_when_it_is_empty() {
        let queue = Queue::new(100, WhenFull::Wait);
        push(&queue, 100_000);
        queue.close();
        assert!(matches!(queue.reserve(1, 0), Err(TensorError::Closed)));
        assert_eq!(write(&queue), 0, "what was pushed is written after the end");
        assert!(matches!(queue.pop(LONG), Popped::Closed));
        assert_eq!(lock(&queue.state).pool.bytes(), 0, "it would be too much to keep");
    }

    #[test]
    fn buffers_are_used_again_within_the_limit() {
        let queue = Queue::new(5000, WhenFull::Wait);
        push(&queue, 2000);
        let job = pop(&queue);
        let (buffer, room) = (job.data.as_ptr(), job.reserved);
        queue.recycle(job);
        queue.release(room);
        let mut slot = queue.reserve(1900, 0).expect("open");
        assert_eq!(slot.job().data.as_ptr(), buffer);
        assert_eq!(lock(&queue.state).pool.bytes(), 0);
        drop(slot);
        push(&queue, 3000);
        assert_eq!(lock(&queue.state).pool.bytes(), 0, "freed for a larger one");
    }

    #[test]
    fn a_job_that_is_not_pushed_gives_its_room_back_and_does_not_hold_up_the_end() {
        let queue = Arc::new(Queue::new(1000, WhenFull::Wait));
        let slot = queue.reserve(100, 300).expect("open");
        assert_eq!(lock(&queue.state).used, buffer_bytes(100) + 300 + JOB_BYTES);
        let (told, done) = mpsc::channel();
        let writer = std::thread::spawn({
            let queue = Arc::clone(&queue);
            move || {
                let _ = told.send(matches!(queue.pop(LONG), Popped::Closed));
            }
        });
        queue.close();
        drop(slot); // as a panic while it is filled does
        assert_eq!(done.recv_timeout(LONG), Ok(true));
        writer.join().expect("no panic");
        assert_eq!(lock(&queue.state).used, 0);
    }

    #[test]
    fn a_copy_that_never_ends_does_not_hold_up_the_end_for_ever() {
        let mut queue = Queue::new(1000, WhenFull::Wait);
        queue.patience = Duration::from_millis(20);
        let slot = queue.reserve(100, 0).expect("open");
        queue.close();
        assert!(matches!(queue.pop(LONG), Popped::Closed));
        assert_eq!(queue.filling(), 1);
        assert_eq!(slot.push(), Err(TensorError::Closed), "too late");
    }

    #[test]
    fn a_failed_writer_lets_waiting_producers_go() {
        let queue = Arc::new(waiting());
        push(&queue, 800);
        push(&queue, 800);
        assert_eq!(pop(&queue).op_index, 0);
        let producer = std::thread::spawn({
            let queue = Arc::clone(&queue);
            move || matches!(queue.reserve(2000, 0), Err(TensorError::Closed))
        });
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(
            queue.fail(),
            1,
            "the one that was popped is the writer's to count"
        );
        assert!(producer.join().expect("no panic"));
    }
}
