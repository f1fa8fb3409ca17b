//! Which model file belongs to a run.

use crate::{Error, records::Side};
use std::path::{Path, PathBuf};

/// The model file that the runs name, where one of them does and it is there.
pub fn model_of(sides: &[&Side<'_>]) -> Option<PathBuf> {
    let named = sides.iter().filter_map(|side| side.manifest.model.as_ref());
    let mut paths = named.map(|model| PathBuf::from(&model.path));
    paths.find(|path| path.is_file())
}

/// Fails where a run says that its model was another file than the one at `path`.
///
/// # Errors
/// [`Error::OtherModel`], and [`Error::Io`] where the file cannot be read.
pub fn check_model(path: &Path, sides: &[&Side<'_>]) -> Result<(), Error> {
    let mut hash = None;
    for side in sides {
        let model = side.manifest.model.as_ref();
        let Some(recorded) = model.and_then(|model| model.blake3.as_ref()) else {
            continue;
        };
        let found = match &hash {
            Some(found) => found,
            None => hash.insert(of_file(path)?),
        };
        if found != recorded {
            return Err(Error::OtherModel {
                run: side.name.to_owned(),
                recorded: model.map_or_else(String::new, |model| model.path.clone()),
                path: path.to_owned(),
            });
        }
    }
    Ok(())
}

fn of_file(path: &Path) -> Result<String, Error> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_mmap(path).map_err(|source| Error::Io {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    Ok(hasher.finalize().to_hex().to_string())
}
