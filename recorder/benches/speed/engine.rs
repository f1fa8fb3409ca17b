//! The engine's thread: what `record` takes beside the copy that it makes.

use crate::table::{Row, medians};
use bitnet_trace::{Recorder, Site, Slice, Tap};
use std::hint::black_box;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

type Rows = Result<Vec<Row>, Box<dyn std::error::Error>>;

/// Tensors that the engine has at hand.
const SOURCES: usize = 4;

fn seconds(f: impl FnOnce()) -> f64 {
    let start = Instant::now();
    f();
    start.elapsed().as_secs_f64()
}

pub fn rows(dir: &Path) -> Rows {
    Ok(vec![
        copy(dir, 2560, 48, 400, ("3", 3.0), "the copy alone")?,
        copy(dir, 327_680, 8, 60, ("1.3", 1.3), "memcpy")?,
        unselected(dir)?,
        off()?,
    ])
}

/// Bursts of `burst` tensors of `elements` floats, recorded; and copied to as many buffers, which are used again as the
/// recorder's are. Between bursts the writer empties the queue, which is never full.
fn copy(
    dir: &Path,
    elements: usize,
    burst: usize,
    rounds: usize,
    reach: (&str, f64),
    against: &str,
) -> Result<Row, Box<dyn std::error::Error>> {
    let tmp = tempfile::tempdir_in(dir)?;
    let recorder = Recorder::builder(tmp.path()).run("copy").build()?;
    let site = recorder.site("ffn_norm");
    let sources: Vec<Vec<f32>> = (0..SOURCES).map(|i| vec![i as f32; elements]).collect();
    let mut buffers: Vec<Vec<u8>> = (0..burst).map(|_| Vec::with_capacity(elements * 4)).collect();
    let mut pairs = Vec::new();
    for round in 0..rounds + 20 {
        let recorded = seconds(|| {
            for i in 0..burst {
                let tap = site.tap(i as i32 % 30, round as i64).name("ffn_norm-7").op("MUL");
                site.record(tap, black_box(&sources[i % SOURCES]));
            }
        });
        // until the queue is empty, at 250 MB/s
        std::thread::sleep(Duration::from_micros(2000 + (elements * burst * 4) as u64 / 250));
        let copied = seconds(|| {
            for (i, buffer) in buffers.iter_mut().rev().enumerate() {
                buffer.clear();
                buffer.extend_from_slice(bitnet_trace::bytes_of(black_box(&sources[i % SOURCES])));
                black_box(buffer.as_ptr());
            }
        });
        if round >= 20 {
            pairs.push((recorded, copied));
        }
    }
    let summary = recorder.finish()?;
    assert_eq!(
        (summary.records as usize, summary.dropped),
        ((rounds + 20) * burst, 0)
    );
    let (recorded, copied, ratio) = medians(&pairs);
    let each = |t: f64| t / burst as f64 * 1e9;
    Ok(Row {
        what: format!("engine thread, {elements} floats, queue not full"),
        reach: format!("≤ {} × {against}", reach.0),
        measured: format!("{ratio:.2} × ({:.0} ns; {:.0} ns)", each(recorded), each(copied)),
        reached: ratio <= reach.1,
    })
}

/// A tracepoint as an engine has it, behind which nothing may be computed.
#[inline(never)]
fn ask_site(site: &Site, layers: i32) -> u32 {
    (0..layers)
        .filter(|&layer| black_box(site).wants(layer % 30))
        .count() as u32
}

#[inline(never)]
fn ask_flag(flag: &AtomicU64, layers: i32) -> u32 {
    (0..layers)
        .filter(|&layer| black_box(flag).load(Ordering::Relaxed) == 1 + layer as u64 % 30)
        .count() as u32
}

fn unselected(dir: &Path) -> Result<Row, Box<dyn std::error::Error>> {
    let tmp = tempfile::tempdir_in(dir)?;
    let recorder = Recorder::builder(tmp.path())
        .run("unselected")
        .select("stage=logits")
        .build()?;
    let (site, flag) = (recorder.site("ffn_norm"), AtomicU64::new(0));
    let mut pairs = Vec::new();
    const ASKED: i32 = 200_000;
    for _ in 0..300 {
        let asked = seconds(|| assert_eq!(ask_site(&site, ASKED), 0));
        let loaded = seconds(|| assert_eq!(ask_flag(&flag, ASKED), 0));
        pairs.push((asked, loaded));
    }
    recorder.finish()?;
    let (asked, loaded, ratio) = medians(&pairs);
    let each = |t: f64| t / f64::from(ASKED) * 1e9;
    Ok(Row {
        what: "on, not selected".into(),
        reach: "≤ 2 × a relaxed load and a branch".into(),
        measured: format!("{ratio:.2} × ({:.2} ns; {:.2} ns)", each(asked), each(loaded)),
        reached: ratio <= 2.0,
    })
}

/// An engine's least work between two tracepoints: a pass over the floats of one tensor.
#[inline(always)]
fn work(x: &mut [f32; 2560]) {
    for v in black_box(x).iter_mut() {
        *v = *v * 0.999 + 0.001;
    }
}

#[inline(never)]
fn with_recorder(recorder: &Recorder, x: &mut [f32; 2560], n: usize) {
    for seq in 0..n {
        work(x);
        recorder.record(
            Tap::new("ffn_norm", 3, seq as i64).token_axis(0),
            &Slice::new(x, &[1, 2560]),
        );
    }
}

#[inline(never)]
fn without_recorder(x: &mut [f32; 2560], n: usize) {
    for _ in 0..n {
        work(x);
    }
}

fn off() -> Result<Row, Box<dyn std::error::Error>> {
    let recorder = Recorder::off();
    let mut x = [1.0f32; 2560];
    let (mut pairs, mut noise) = (Vec::new(), Vec::new());
    const CALLS: usize = 2_000;
    for _ in 0..300 {
        let with = seconds(|| with_recorder(black_box(&recorder), &mut x, CALLS));
        let without = seconds(|| without_recorder(&mut x, CALLS));
        let again = seconds(|| without_recorder(&mut x, CALLS));
        pairs.push((with, without));
        noise.push((again - without).abs() / without);
    }
    let (with, without, ratio) = medians(&pairs);
    let noise = crate::table::median(&mut noise);
    let each = |t: f64| t / CALLS as f64 * 1e9;
    Ok(Row {
        what: "compiled in but off, beside a scaling of 2560 floats".into(),
        reach: "not measurable".into(),
        measured: format!(
            "{ratio:.3} × ({:.1} ns; {:.1} ns; two runs without differ by {:.1} %)",
            each(with),
            each(without),
            noise * 100.0
        ),
        reached: (ratio - 1.0).abs() <= noise.max(0.01),
    })
}
