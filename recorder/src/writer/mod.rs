//! The writer thread: takes tensors from the queue, makes records of their slices, writes parts and the
//! manifest.

mod disk;
mod journal;
pub(crate) mod manifest;
mod part;
mod visits;

use crate::{DType, Error, Layout, Values, job::Job, lock, queue::Popped, shared::Shared, signals};
use bitnet_trace_schema::part::Row;
use bitnet_trace_schema::{RecordMeta, RunState, Stats, quant};
use half::slice::HalfFloatSliceExt;
use part::{Part, PartError};
use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use visits::Visits;

/// How long nothing must come before rows that wait for their page are written to the journal.
const IDLE: Duration = Duration::from_millis(50);
/// How long the writer sleeps where nothing waits, and how old a manifest may be that is not up to date.
const QUIET: Duration = Duration::from_secs(1);

/// Writes the first manifest and starts the writer thread, which ends when the queue is closed.
///
/// # Errors
/// [`Error::Directory`] where the manifest can't be written, [`Error::Thread`].
pub(crate) fn spawn(shared: Arc<Shared>, layout: Layout) -> Result<JoinHandle<()>, Error> {
    manifest::write(&shared, RunState::Recording).map_err(|e| {
        let _ = std::fs::remove_dir_all(&shared.dir); // of this run, and empty
        Error::Directory {
            dir: shared.dir.clone(),
            cause: e.to_string(),
        }
    })?;
    let dir = shared.dir.clone();
    let thread = std::thread::Builder::new().name("bitnet-trace".into());
    let (begun, begins) = mpsc::sync_channel(1);
    let started = signals::blocked(|| {
        thread.spawn(move || {
            let _ = begun.send(());
            Writer::new(&shared, layout).run();
        })
    });
    // a thread that begins while memory is out ends the process: glibc cannot register its thread locals
    let _ = begins.recv();
    started.map_err(|e| {
        let _ = std::fs::remove_dir_all(dir); // it holds a manifest that says `recording`
        Error::Thread(e.to_string())
    })
}

/// Everything that the writer thread keeps.
struct Writer<'a> {
    shared: &'a Shared,
    layout: Layout,
    part: Option<Part<'a>>,
    /// Rows of the run so far, and those of them in sealed parts.
    rows: u64,
    sealed_rows: u64,
    /// Tensors whose room in the queue is not given back: how many rows there were at the end of each, and the room.
    held: VecDeque<(u64, usize)>,
    /// When the manifest was written last.
    told: Instant,
    /// Number of the first tensor with rows in the part being written.
    first_unsealed: Option<i64>,
    /// The pass that `visits` belongs to.
    pass: i32,
    /// How often each key was seen in this pass.
    visits: Visits,
    /// A number for each stage.
    stages: HashMap<String, u32>,
    meta: RecordMeta,
    floats: Vec<f32>,
}

impl<'a> Writer<'a> {
    fn new(shared: &'a Shared, layout: Layout) -> Self {
        Self {
            shared,
            layout,
            part: None,
            rows: 0,
            sealed_rows: 0,
            held: VecDeque::new(),
            told: Instant::now(),
            first_unsealed: None,
            pass: 0,
            visits: Visits::default(),
            stages: HashMap::new(),
            meta: RecordMeta::empty(),
            floats: Vec::new(),
        }
    }

    /// Writes what comes until the queue is closed, then the end of the run.
    fn run(&mut self) {
        // the engine's threads must be let go, and what is lost be counted, whatever happens here
        let written = catch_unwind(AssertUnwindSafe(|| self.jobs().and_then(|()| self.seal())));
        let panicked = written.is_err();
        let cause = match written {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("the writer thread panicked; this is a defect of the recorder".into()),
        };
        if let Some(cause) = cause {
            if let Some(part) = &self.part {
                part.make_room();
            }
            let unsealed = self
                .first_unsealed
                .map_or(0, |first| self.meta.op_index - first + 1);
            self.shared
                .fail(cause, (unsealed as u64).max(u64::from(panicked)));
        }
        let state = match self.shared.failure() {
            None => RunState::Complete,
            Some(_) => RunState::Failed,
        };
        if let Err(error) = manifest::write(self.shared, state) {
            self.shared
                .fail(format!("the manifest cannot be written: {error}"), 0);
        }
    }

    fn jobs(&mut self) -> Result<(), PartError> {
        let queue = &self.shared.queue;
        loop {
            let behind = self.part.as_ref().is_some_and(Part::is_behind);
            match queue.pop(if behind { IDLE } else { QUIET }) {
                Popped::Job(job) => self.take(job)?,
                Popped::Idle => self.save()?,
                Popped::Closed => break,
            }
            if self.shared.changed.load(Ordering::Relaxed) && self.told.elapsed() >= QUIET {
                self.tell();
            }
        }
        match self.shared.queue.filling() {
            0 => {}
            n => drop(self.shared.count_reason("not copied when the run ended", n)),
        }
        Ok(())
    }

    fn take(&mut self, job: Box<Job>) -> Result<(), PartError> {
        self.job(&job)?;
        self.held.push_back((self.rows, job.reserved));
        self.shared.queue.recycle(job);
        self.release();
        Ok(())
    }

    /// Makes safe what came so far.
    fn save(&mut self) -> Result<(), PartError> {
        match &mut self.part {
            Some(part) => part.save()?,
            None if self.shared.has_tokens() => self.shared.changed.store(true, Ordering::Relaxed),
            None => {}
        }
        self.release();
        Ok(())
    }

    /// Gives back the room of tensors that a crash can no longer lose.
    fn release(&mut self) {
        let safe = self.sealed_rows + self.part.as_ref().map_or(0, Part::safe_rows);
        let mut room = 0;
        while let Some(&(_, bytes)) = self.held.front().filter(|&&(rows, _)| rows <= safe) {
            room += bytes;
            self.held.pop_front();
        }
        if room > 0 {
            self.shared.queue.release(room);
        }
    }

    /// Writes the manifest as it stands; where that fails, it is tried again later. Whether it was written.
    fn tell(&mut self) -> bool {
        self.told = Instant::now();
        self.shared.changed.store(false, Ordering::Relaxed);
        let written = manifest::write(self.shared, RunState::Recording).is_ok();
        if !written {
            self.shared.changed.store(true, Ordering::Relaxed);
        }
        written
    }

    /// Writes a tensor: one record a token.
    fn job(&mut self, job: &Job) -> Result<(), PartError> {
        if job.pass != self.pass {
            self.pass = job.pass;
            self.visits.clear();
        }
        let next = self.stages.len() as u32;
        let stage = match self.stages.get(&job.stage) {
            Some(&stage) => stage,
            None => *self.stages.entry(job.stage.clone()).or_insert(next),
        };
        self.meta.stage.set(&job.stage);
        self.meta.name.set(&job.name);
        self.meta.op.set(&job.op);
        self.meta.layer = job.layer;
        self.meta.op_index = job.op_index;
        self.meta.pass = job.pass;
        self.meta.dtype = job.dtype;
        let mut start = 0;
        for (i, &(seq, request)) in job.tokens.iter().enumerate() {
            let elements = job.slice_shape(i, &mut self.meta.shape);
            let bytes = job.dtype.bytes(elements as u64); // whole blocks, as the plan has checked
            let end = start + bytes.map_or(0, |n| n as usize);
            self.meta.occurrence = self.visits.visit(request, job.layer, stage, seq);
            self.meta.seq = seq;
            self.meta.request = request;
            self.meta.num_elements = elements as i64;
            self.record(&job.data[start..end])?;
            start = end;
        }
        Ok(())
    }

    /// Writes the record of `meta`, whose elements are `bytes`.
    fn record(&mut self, bytes: &[u8]) -> Result<(), PartError> {
        self.meta.blake3.clear();
        self.meta.blake3.push_str(&blake3::hash(bytes).to_hex());
        let dtype = self.meta.dtype;
        let floats: &[f32] = match bytemuck::try_cast_slice(bytes) {
            Ok(floats) if dtype == DType::F32 => floats,
            _ => {
                self.floats.clear();
                let elements = self.meta.num_elements as usize;
                if (dtype.fits_f32() || dtype.is_packed()) && self.floats.try_reserve(elements).is_err() {
                    // an allocation that fails otherwise ends the host
                    return Err(PartError::Memory(elements * 4));
                }
                to_f32(dtype, bytes, &mut self.floats);
                &self.floats
            }
        };
        self.meta.stats = match dtype {
            DType::F64 => Stats::of_f64(numbers::<8>(bytes).map(f64::from_le_bytes)),
            DType::I32 => Stats::of_f64(numbers::<4>(bytes).map(|b| i32::from_le_bytes(b).into())),
            DType::I64 => Stats::of_f64(numbers::<8>(bytes).map(|b| i64::from_le_bytes(b) as f64)),
            _ => Stats::of_f32(floats),
        };
        let full = self.shared.values == Values::Full;
        let row = Row {
            meta: &self.meta,
            values: (full && (dtype.fits_f32() || dtype.is_packed() && self.shared.dequantize))
                .then(|| bytemuck::cast_slice(floats)),
            raw: (full && !dtype.fits_f32()).then_some(bytes),
        };
        self.first_unsealed.get_or_insert(self.meta.op_index);
        let part = match &mut self.part {
            Some(part) => part,
            empty => {
                let index = lock(&self.shared.parts).len() as u32;
                let part = Part::create(self.shared, index, self.layout)?;
                empty.insert(part)
            }
        };
        part.push(&row)?;
        self.rows += 1;
        if part.is_full() {
            self.seal()?;
        }
        Ok(())
    }

    /// Seals the part. Its journal is removed when the manifest lists the part and knows the token ids that only
    /// the journal told.
    fn seal(&mut self) -> Result<(), PartError> {
        if let Some(part) = self.part.take() {
            let sealed = part.seal()?;
            self.sealed_rows += sealed.entry.rows;
            lock(&self.shared.parts).push(sealed.entry);
            self.first_unsealed = None;
            if self.tell() {
                let _ = std::fs::remove_file(sealed.journal); // a reader does it otherwise
            }
        }
        Ok(())
    }
}

/// The elements of `bytes`, `SIZE` bytes each.
fn numbers<const SIZE: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; SIZE]> {
    bytes.as_chunks::<SIZE>().0.iter().copied()
}

/// Appends the elements as f32 where f32 holds them exactly or they are packed, and nothing otherwise.
fn to_f32(dtype: DType, bytes: &[u8], out: &mut Vec<f32>) {
    match dtype {
        DType::F32 => out.extend(numbers::<4>(bytes).map(f32::from_le_bytes)),
        DType::F16 => match bytemuck::try_cast_slice::<u8, half::f16>(bytes) {
            Ok(halves) => {
                out.resize(halves.len(), 0.0);
                halves.convert_to_f32_slice(out);
            }
            Err(_) => out.extend(numbers::<2>(bytes).map(|b| half::f16::from_le_bytes(b).to_f32())),
        },
        DType::BF16 => out.extend(numbers::<2>(bytes).map(|b| half::bf16::from_le_bytes(b).to_f32())),
        DType::I8 => out.extend(bytes.iter().map(|&b| f32::from(b as i8))),
        DType::I16 => out.extend(numbers::<2>(bytes).map(|b| f32::from(i16::from_le_bytes(b)))),
        DType::U8 | DType::Bool => out.extend(bytes.iter().map(|&b| f32::from(b))),
        _ if dtype.is_packed() => {
            let elements = dtype.elements(bytes.len() as u64).unwrap_or(0);
            out.resize(elements as usize, 0.0);
            let _ = quant::dequantize(dtype, bytes, out); // they fit each other
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;
