use super::{GOOD, line, paint};
use crate::{importing::ImportReport, num::plural};

/// `import` as text.
pub fn import(report: &ImportReport) -> String {
    let mut out = String::new();
    let what = format!(
        "{} of {} from {}",
        plural(report.records, "record"),
        plural(report.stages, "stage"),
        plural(report.files.len() as u64, "file")
    );
    let mark = paint(GOOD, "✓");
    line(&mut out, format!("{mark} imported {}: {what}", report.name));
    line(&mut out, format!("  {}", report.path));
    for (count, of) in [(report.without_hash, "hash"), (report.without_rms, "rms")] {
        if count > 0 {
            line(
                &mut out,
                format!("  note: {} without {of}", plural(count, "record")),
            );
        }
    }
    line(
        &mut out,
        "  note: no values: the run compares by hash and rms only",
    );
    out
}
