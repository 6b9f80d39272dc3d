//! Objects beside the tables: what the registry of models keeps. Paths are relative to the lake.
//!
//! A plain put replaces; [`Lake::create_object`] never does, which is all that a log of decisions needs: who creates the
//! next number has decided.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path as FilePath;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, WriteMultipart};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::lake::Lake;

/// Files travel in parts of this size.
const PART_BYTES: usize = 8 << 20;
/// Parts on their way at once.
const PARTS: usize = 4;
/// How often an answer that was lost is looked for.
const ATTEMPTS: u32 = 5;

/// What a file of the lake was found to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digested {
    /// Bytes.
    pub bytes: u64,
    /// SHA-256 of them, hexadecimal.
    pub sha256: String,
}

impl Lake {
    /// An object's bytes, if it is there.
    ///
    /// # Errors
    /// What the store says; invalid when the path is none.
    pub async fn object(&self, path: &str) -> Result<Option<Bytes>> {
        let context = || format!("read `{path}`");
        match self.store().get(&parse(path)?).await {
            Ok(found) => Ok(Some(found.bytes().await.map_err(|error| Error::sort(context(), error))?)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(Error::sort(context(), error)),
        }
    }

    /// Paths of the objects below a folder, sorted, with their sizes in bytes.
    ///
    /// # Errors
    /// What the store says.
    pub async fn objects(&self, folder: &str) -> Result<Vec<(String, u64)>> {
        let store = self.store();
        let prefix = parse(folder)?;
        let listed: Vec<_> = store
            .list(Some(&prefix))
            .map_ok(|object| (object.location.to_string(), object.size))
            .try_collect()
            .await
            .map_err(|error| Error::sort(format!("list `{folder}`"), error))?;
        let mut listed = listed;
        listed.sort();
        Ok(listed)
    }

    /// Creates an object; false when there is one under that path with other bytes.
    ///
    /// An answer that was lost is resolved by reading: the bytes must therefore name whoever writes them.
    ///
    /// # Errors
    /// What the store says, once trying again has not helped.
    pub async fn create_object(&self, path: &str, bytes: Bytes) -> Result<bool> {
        let location = parse(path)?;
        let context = || format!("create `{path}`");
        let mut attempt = 0;
        loop {
            let options = PutOptions::from(PutMode::Create);
            let failure = match self.store().put_opts(&location, bytes.clone().into(), options).await {
                Ok(_) => return Ok(true),
                Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => None,
                Err(error) => Some(Error::sort(context(), error)),
            };
            // Whether it is there, and ours, is in the store: an answer can be lost, and one put can arrive twice.
            match (self.object(path).await, failure) {
                (Ok(Some(found)), _) => return Ok(found == bytes),
                (_, Some(error)) if !matches!(error, Error::Unreachable { .. }) => return Err(error),
                (Err(error), _) | (Ok(None), Some(error)) if attempt >= ATTEMPTS => return Err(error),
                _ => {}
            }
            attempt += 1;
            tokio::time::sleep(crate::upload::backoff(attempt)).await;
        }
    }

    /// Writes a file of this machine into the lake, in parts, and tells what it held.
    ///
    /// # Errors
    /// When the file cannot be read; what the store says.
    pub async fn upload_object(&self, file: &FilePath, path: &str) -> Result<Digested> {
        let context = || format!("write `{path}`");
        let local = |error| Error::Invalid(format!("read `{}`: {error}", file.display()));
        let mut source = File::open(file).map_err(local)?;
        let upload = self.store().put_multipart(&parse(path)?).await;
        let mut writer =
            WriteMultipart::new_with_chunk_size(upload.map_err(|error| Error::sort(context(), error))?, PART_BYTES);
        let mut digest = Sha256::new();
        let mut length = 0;
        let mut part = vec![0; PART_BYTES];
        loop {
            let count = source.read(&mut part).map_err(local)?;
            if count == 0 {
                break;
            }
            digest.update(&part[..count]);
            length += count as u64;
            writer.wait_for_capacity(PARTS).await.map_err(|error| Error::sort(context(), error))?;
            writer.write(&part[..count]);
        }
        writer.finish().await.map_err(|error| Error::sort(context(), error))?;
        Ok(Digested { bytes: length, sha256: crate::snapshot::hex(&digest.finalize()) })
    }

    /// Writes an object of the lake into a new file of this machine, and tells what it held.
    ///
    /// # Errors
    /// When there is no such object or the file cannot be written; what the store says.
    pub async fn download_object(&self, path: &str, file: &FilePath) -> Result<Digested> {
        let context = || format!("read `{path}`");
        let local = |error| Error::Invalid(format!("write `{}`: {error}", file.display()));
        let found = self.store().get(&parse(path)?).await.map_err(|error| Error::sort(context(), error))?;
        let mut target = File::create_new(file).map_err(local)?;
        let mut digest = Sha256::new();
        let mut length = 0;
        let mut parts = found.into_stream();
        while let Some(part) = parts.next().await {
            let part = part.map_err(|error| Error::sort(context(), error))?;
            digest.update(&part);
            length += part.len() as u64;
            target.write_all(&part).map_err(local)?;
        }
        target.sync_all().map_err(local)?;
        Ok(Digested { bytes: length, sha256: crate::snapshot::hex(&digest.finalize()) })
    }
}

fn parse(path: &str) -> Result<Path> {
    Path::parse(path.trim_end_matches('/')).map_err(|error| Error::Invalid(format!("`{path}` is no path: {error}")))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::memory::InMemory;
    use url::Url;

    use super::*;
    use crate::lossy::{Fault, LossyStore};

    #[tokio::test]
    async fn who_creates_first_has_decided() {
        let directory = tempfile::tempdir().unwrap();
        let on_disk = Lake::open(directory.path().join("lake").to_str().unwrap()).unwrap();
        for lake in [Lake::in_memory().unwrap(), on_disk] {
            assert_eq!(lake.object("models/log/1").await.unwrap(), None);
            assert_eq!(lake.objects("models").await.unwrap(), []);
            assert!(lake.create_object("models/log/1", Bytes::from_static(b"ann")).await.unwrap());
            assert!(!lake.create_object("models/log/1", Bytes::from_static(b"bob")).await.unwrap());
            assert!(lake.create_object("models/log/1", Bytes::from_static(b"ann")).await.unwrap(), "its own again");
            assert_eq!(lake.objects("models").await.unwrap(), [("models/log/1".to_owned(), 3)]);
            assert_eq!(lake.create_object("a//b", Bytes::new()).await.unwrap_err().kind(), crate::Kind::Invalid);
        }
    }

    #[tokio::test]
    async fn a_lost_answer_is_found_in_the_store() {
        let store = LossyStore::scripted(Arc::new(InMemory::new()));
        let lake = Lake::with_store(Arc::new(store.clone()), Url::parse("memory:///lake/").unwrap()).unwrap();
        store.next_put("log/1", Fault::AnswerLost);
        assert!(lake.create_object("models/log/1", Bytes::from_static(b"ann")).await.unwrap());
        assert_eq!(lake.object("models/log/1").await.unwrap().as_deref(), Some(&b"ann"[..]));
    }

    #[tokio::test]
    async fn files_come_back_as_they_went() {
        let lake = Lake::in_memory().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let (there, back) = (directory.path().join("there"), directory.path().join("back"));
        let bytes: Vec<u8> = (0..PART_BYTES * 2 + 77).map(|at| u8::try_from(at % 251).unwrap()).collect();
        std::fs::write(&there, &bytes).unwrap();
        let sent = lake.upload_object(&there, "models/m/weights").await.unwrap();
        assert_eq!(sent.bytes, bytes.len() as u64);
        assert_eq!(lake.download_object("models/m/weights", &back).await.unwrap(), sent);
        assert!(std::fs::read(&back).unwrap() == bytes);
        assert!(lake.download_object("models/m/none", &directory.path().join("x")).await.is_err());
    }
}
