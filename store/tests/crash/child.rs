//! The process that records and is killed: this test's own program, started again.

use bitnet_trace::{DType, Layout, Recorder, Tap, TensorView};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Bytes that may wait in the queue.
pub const QUEUE: usize = 2 << 20;
/// Threads that record.
pub const THREADS: u64 = 3;
/// Bytes of the smallest and of the largest tensor.
const SIZES: (u64, u64) = (64, 1_300_000);
const DTYPES: [DType; 6] = [
    DType::F32,
    DType::F64,
    DType::F16,
    DType::I64,
    DType::BF16,
    DType::U8,
];
/// Small, so that a second of recording makes several parts and many row groups.
const LAYOUT: Layout = Layout {
    page_bytes: 64 << 10,
    row_group_bytes: 2 << 20,
    row_group_rows: 200,
    part_bytes: 24 << 20,
};

/// Tells the program that it is the child: what it is to do, and where.
const ROLE: &str = "BITNET_CRASH_ROLE";
const DIR: &str = "BITNET_CRASH_DIR";

/// SplitMix64: enough to make tensors of.
pub fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Tensor `i` of a thread: its type and its bytes, the same whoever asks.
pub fn tensor(thread: u64, i: u64) -> (DType, Vec<u8>) {
    let mut state = thread << 32 | i;
    let dtype = DTYPES[(random(&mut state) % DTYPES.len() as u64) as usize];
    // as many small ones as large ones, on a scale of powers of two
    let octaves = (SIZES.1 / SIZES.0).ilog2() as u64;
    let low = SIZES.0 << (random(&mut state) % (octaves + 1));
    let bytes = (low + random(&mut state) % low).min(SIZES.1) / 8 * 8;
    let finite = |bits: u64| match dtype {
        // an exponent below the largest, so that no element is infinite or NaN
        DType::F64 => bits & !(0x7ff << 52) | 1023 << 52,
        DType::F32 => (bits & !(0xff << 23 | 0xff << 55)) | 127 << 23 | 127 << 55,
        DType::F16 => bits & 0xbfff_bfff_bfff_bfff,
        DType::BF16 => bits & 0xbfff_bfff_bfff_bfff,
        _ => bits,
    };
    let mut data = Vec::with_capacity(bytes as usize);
    while data.len() < bytes as usize {
        data.extend(finite(random(&mut state)).to_le_bytes());
    }
    (dtype, data)
}

/// Name of a thread's stage.
pub fn stage(thread: u64) -> String {
    format!("thread_{thread}")
}

/// How many tensors each thread was told were taken. They are written into a file, which outlives whoever
/// writes it.
pub fn accepted(dir: &Path) -> Vec<u64> {
    let bytes = std::fs::read(dir.join("accepted")).unwrap_or_default();
    let mut counts: Vec<u64> = bytes
        .as_chunks::<8>()
        .0
        .iter()
        .map(|b| u64::from_le_bytes(*b))
        .collect();
    counts.resize(THREADS as usize, 0);
    counts
}

/// Starts this program as the child of the test `entry`, to do `role` in `dir`.
pub fn start(role: &str, dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "child_process",
            "--ignored",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(ROLE, role)
        .env(DIR, dir)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// What the child does. It does not return where it is to be killed.
pub fn run() {
    let (Ok(role), Some(dir)) = (std::env::var(ROLE), std::env::var_os(DIR)) else {
        return; // not started by `start`
    };
    let dir = PathBuf::from(dir);
    match role.as_str() {
        "record" => record(&dir, u64::MAX, true),
        "idle" => {
            record(&dir, 40, false);
            done(&dir);
            std::thread::sleep(Duration::from_secs(60));
        }
        "abort" => {
            record(&dir, 40, false);
            std::process::abort();
        }
        "fault" => {
            record(&dir, 40, false);
            loop {
                // SAFETY: sends a signal to itself. At the first one Rust's handler of stack overflows gives
                // way to the system's; the process dies of the second.
                unsafe { libc::raise(libc::SIGSEGV) };
            }
        }
        "exit" => {
            record(&dir, 40, false);
            std::process::exit(0);
        }
        "two" => {
            let other = recorder(&dir).build().unwrap();
            other.record(Tap::new("thread_9", 0, 0), &[1.0f32][..]);
            record(&dir, 40, false);
            std::thread::sleep(Duration::from_millis(300));
            std::process::abort();
        }
        "fork" => {
            record(&dir, 40, false);
            // SAFETY: the child only sleeps and leaves, which is safe after a fork of many threads.
            let pid = unsafe { libc::fork() };
            if pid == 0 {
                std::thread::sleep(Duration::from_secs(10));
                // SAFETY: leaves at once, without running what the parent registered.
                unsafe { libc::_exit(0) };
            }
            std::process::abort();
        }
        "recover" => {
            for run in bitnet_trace_store::runs_in(&dir).unwrap() {
                bitnet_trace_store::recover(&run, Default::default()).unwrap();
            }
        }
        other => panic!("{other}"),
    }
}

fn recorder(dir: &Path) -> bitnet_trace::RecorderBuilder {
    Recorder::builder(dir).run("a").queue_bytes(QUEUE).layout(LAYOUT)
}

/// Records `tensors` of each thread, and tells in the file `accepted` after each. The recorder is never dropped.
fn record(dir: &Path, tensors: u64, pauses: bool) {
    let recorder = recorder(dir).build().unwrap();
    let accepted = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(dir.join("accepted"));
    let accepted: File = accepted.unwrap();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (recorder, accepted) = (&recorder, &accepted);
            scope.spawn(move || {
                let stage = stage(thread);
                let mut pause = thread;
                for i in 0..tensors {
                    let (dtype, data) = tensor(thread, i);
                    let shape = [data.len() / dtype.size()];
                    let tap = Tap::new(&stage, 0, i as i64);
                    recorder
                        .try_record(tap, &TensorView::new(dtype, &shape, &data))
                        .unwrap();
                    accepted.write_all_at(&(i + 1).to_le_bytes(), 8 * thread).unwrap();
                    if thread == 0 && i % 10 == 0 {
                        recorder.tokens(0, (i / 10) as i64, &[i as i64]);
                    }
                    if pauses && random(&mut pause).is_multiple_of(64) {
                        std::thread::sleep(Duration::from_millis(random(&mut pause) % 120));
                    }
                }
            });
        }
    });
    std::mem::forget(recorder);
}

/// Says that there is nothing more to come.
fn done(dir: &Path) {
    std::fs::write(dir.join("done"), "").unwrap();
}
