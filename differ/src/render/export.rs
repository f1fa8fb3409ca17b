use super::{GOOD, line, paint, wrap};
use crate::{
    exporting::ExportReport,
    num::{bytes, plural},
};
use std::path::Path;

/// `export` as text.
pub fn export(report: &ExportReport) -> String {
    let mut out = String::new();
    let size = bytes(report.files.iter().map(|f| f.bytes).sum());
    let what = format!("{} of {}", plural(report.records, "record"), report.run.name);
    let mark = paint(GOOD, "✓");
    match report.files.as_slice() {
        [file] => {
            line(&mut out, format!("{mark} exported {what}, {size}"));
            line(&mut out, format!("  {}", file.path));
            if let (Some(record), Some(numpy)) = (&file.record, file.numpy) {
                line(&mut out, format!("  {}: {numpy} {:?}", record.key, record.shape));
            }
        }
        files => {
            let number = plural(files.len() as u64, ".npy file");
            line(&mut out, format!("{mark} exported {what}, {number}, {size}"));
            if let Some(folder) = files.first().and_then(|f| Path::new(&f.path).parent()) {
                line(&mut out, format!("  {}", folder.display()));
            }
        }
    }
    for note in &report.notes {
        line(&mut out, wrap("  note: ", &note.message));
    }
    out
}
