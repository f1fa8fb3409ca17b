//! Writing a file so that it is there whole or not at all.

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::Path;

use crate::error::Error;

/// Lets `write` fill a temporary file beside `path`, makes it durable and renames it to `path`. On failure the
/// temporary file is removed and `path` is as it was.
pub(crate) fn write_whole(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<&File>) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    let fail = |source| Error::Write {
        path: path.to_owned(),
        source,
    };
    let result = (|| {
        let file = File::create(&temporary).map_err(fail)?;
        let mut out = BufWriter::with_capacity(1 << 20, &file);
        write(&mut out).map_err(|error| match error {
            Error::Stream(source) => fail(source),
            other => other,
        })?;
        out.into_inner().map_err(|error| fail(error.into_error()))?;
        // The data must be durable before the name is: a crash must not leave a short file under it.
        file.sync_all().map_err(fail)?;
        fs::rename(&temporary, path).map_err(fail)
    })();
    if result.is_err() {
        // The write's own error is the one to tell; the temporary file may not even exist.
        let _ = fs::remove_file(&temporary);
    }
    result
}
