//! A published snapshot on this machine: what a trainer reads when the lake is an object store.

use std::fs::TryLockError;
use std::path::{Path, PathBuf};

use super::manifest::{MANIFEST, Manifest};
use crate::error::{Error, Result};
use crate::lake::Lake;

/// Copies a snapshot into a new directory, every file compared with the manifest. The directory appears when it is whole; one
/// that holds this snapshot already stays as it is.
///
/// # Errors
/// Invalid when the directory holds something else, or cannot be written; corrupt when a file is not what was published; the
/// store's errors.
pub async fn fetch(lake: &Lake, manifest: &Manifest, directory: &Path) -> Result<()> {
    let failed = |path: &Path, error: &std::io::Error| Error::Invalid(format!("write `{}`: {error}", path.display()));
    if directory.exists() {
        let found = std::fs::read(directory.join(MANIFEST)).ok();
        let found = found.and_then(|bytes| serde_json::from_slice::<Manifest>(&bytes).ok());
        if found.as_ref() == Some(manifest) {
            return Ok(());
        }
        return Err(Error::Invalid(format!(
            "`{}` is there already and is not snapshot {}/{}: name a new directory",
            directory.display(),
            manifest.name,
            manifest.id
        )));
    }
    let name = directory.file_name().ok_or_else(|| Error::Invalid(format!("`{}` has no name", directory.display())))?;
    let parent = directory.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).map_err(|error| failed(parent, &error))?;
    let mut part = name.to_owned();
    part.push(".part");
    let part: PathBuf = parent.join(part);
    // What a killed process has left is made anew; one that lives keeps its lock.
    let lock_path = parent.join(format!(".{}.lock", name.to_string_lossy()));
    let lock = std::fs::File::create(&lock_path).map_err(|error| failed(&lock_path, &error))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(Error::Invalid(format!("another process is writing `{}`: wait for it", directory.display())));
        }
        Err(TryLockError::Error(error)) => return Err(failed(&lock_path, &error)),
    }
    if part.exists() {
        std::fs::remove_dir_all(&part).map_err(|error| failed(&part, &error))?;
    }
    std::fs::create_dir_all(&part).map_err(|error| failed(&part, &error))?;
    for file in &manifest.files {
        let target = part.join(&file.path);
        if let Some(folder) = target.parent() {
            std::fs::create_dir_all(folder).map_err(|error| failed(folder, &error))?;
        }
        let path = format!("snapshots/{}/{}/{}", manifest.name, manifest.id, file.path);
        if lake.download_object(&path, &target).await?.sha256 != file.sha256 {
            let source = "its digest is not the one in the manifest: publish the snapshot again".into();
            return Err(Error::Corrupt { context: format!("read {path}"), source });
        }
    }
    let path = part.join(MANIFEST);
    std::fs::write(&path, manifest.to_json()?).map_err(|error| failed(&path, &error))?;
    std::fs::rename(&part, directory).map_err(|error| failed(directory, &error))?;
    std::fs::remove_file(&lock_path).map_err(|error| failed(&lock_path, &error))
}
