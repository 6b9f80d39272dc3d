//! The secret of the subject keys: from the settings, else one of this machine's own.
//!
//! A consumer must be told its pepper, since others have to use the same. For work on one machine (import, demo) one is
//! made once and kept in the user's state directory, never in the lake: whoever gets hold of the tables must not be able
//! to try out user ids.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rand::TryRngCore as _;
use rand::rngs::OsRng;
use uptake_model::Pepper;
use uptake_model::subject::hex;

use crate::context::Usage;
use crate::settings::{Settings, state_directory};

/// Bytes of randomness in a pepper that is made here.
const RANDOM_BYTES: usize = 32;

/// The pepper of the settings, else the one of this machine's user, which is made when there is none.
///
/// # Errors
/// [`Usage`] when the configured secret is too short or the kept one can be read by others; otherwise what the file
/// system says.
pub(crate) fn local(settings: &Settings) -> anyhow::Result<Pepper> {
    if let Some(secret) = &settings.subject_pepper {
        return Ok(Pepper::new(secret.as_str()).map_err(Usage)?);
    }
    let directory = state_directory().ok_or_else(|| {
        Usage(
            "no place for the secret of the subject keys: set subject_pepper (UPTAKE_SUBJECT_PEPPER), or HOME"
                .to_owned(),
        )
    })?;
    let (pepper, made) = kept(&directory)?;
    if let Some(path) = made {
        tracing::warn!(
            file = %path.display(),
            "no subject_pepper is set, so a secret for subject keys was made and kept in this file; keep it as long as the \
             tables: without it nobody's rows can be found again for an erasure"
        );
    }
    Ok(pepper)
}

/// The pepper kept in a directory, and its path if it was made now.
fn kept(directory: &Path) -> anyhow::Result<(Pepper, Option<PathBuf>)> {
    let path = directory.join("pepper");
    let made = match read(&path)? {
        Some(pepper) => return Ok((pepper, None)),
        None => make(directory, &path).with_context(|| format!("keep a subject pepper in {}", path.display()))?,
    };
    let pepper = read(&path)?.with_context(|| format!("read the subject pepper {}", path.display()))?;
    Ok((pepper, made.then_some(path)))
}

fn read(path: &Path) -> anyhow::Result<Option<Pepper>> {
    let mut file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("read the subject pepper {}", path.display())),
    };
    let mode = file.metadata()?.permissions().mode();
    if mode & 0o077 != 0 {
        let path = path.display();
        return Err(Usage(format!("the subject pepper {path} can be read by others; run `chmod 600 {path}`")).into());
    }
    let mut secret = String::new();
    let _ = file.read_to_string(&mut secret).with_context(|| format!("read the subject pepper {}", path.display()))?;
    let pepper = Pepper::new(secret.trim()).map_err(|error| Usage(format!("{}: {error}", path.display())))?;
    Ok(Some(pepper))
}

/// Makes a pepper; false when another process was faster, whose pepper then counts.
fn make(directory: &Path, path: &Path) -> anyhow::Result<bool> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let mut random = [0; RANDOM_BYTES];
    OsRng.try_fill_bytes(&mut random)?;
    // Written whole under another name first: nobody ever reads half of a secret.
    let part = directory.join(format!("pepper.{}", std::process::id()));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
    writeln!(file, "{}", hex(&random))?;
    file.sync_all()?;
    // A link, unlike a rename, never replaces one that is there.
    let linked = std::fs::hard_link(&part, path);
    std::fs::remove_file(&part)?;
    match linked {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pepper_is_made_once_for_this_user_alone() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state/uptake");
        let (first, made) = kept(&state).unwrap();
        let path = made.unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let (second, made) = kept(&state).unwrap();
        assert!(made.is_none());
        assert_eq!(first.subject_key("ann"), second.subject_key("ann"));
        assert_eq!(std::fs::read_dir(&state).unwrap().count(), 1, "no part is left behind");
    }

    #[test]
    fn two_machines_have_different_ones() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let key = |directory: &Path| kept(directory).unwrap().0.subject_key("ann");
        assert_ne!(key(one.path()), key(other.path()));
    }

    #[test]
    fn one_that_others_can_read_is_refused_with_the_remedy() {
        let directory = tempfile::tempdir().unwrap();
        let (_, made) = kept(directory.path()).unwrap();
        std::fs::set_permissions(made.unwrap(), std::fs::Permissions::from_mode(0o644)).unwrap();
        let error = kept(directory.path()).unwrap_err();
        assert!(error.is::<Usage>() && error.to_string().contains("chmod 600"), "{error}");
    }
}
