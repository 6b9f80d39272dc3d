//! Answers on disk, keyed by content: the model, the messages (and so the rubric), the schema and the parameters.
//!
//! An entry is a file named by the SHA-256 of all that the answer depends on, written whole under another name first. It
//! holds the answer, not the question: what users wrote stands there only as far as the answer quotes it. Still the
//! directory is its owner's alone.

use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use uptake_model::subject::hex;

use crate::endpoint::Request;
use crate::error::{Error, Result};

/// Version of what is hashed; another one makes all old entries unknown.
const VERSION: u32 = 1;

/// Answers on disk.
#[derive(Debug)]
pub struct Cache {
    directory: PathBuf,
    written: AtomicU64,
}

/// A kept answer.
#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    model: String,
    text: String,
    input_tokens: u64,
    output_tokens: u64,
}

/// What a look into the cache finds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// The answer.
    Answer(String),
    /// Nothing.
    Nothing,
    /// A file that is no entry; the next answer replaces it.
    Broken,
}

impl Cache {
    /// A cache in a directory, which is made where it is not there.
    ///
    /// # Errors
    /// [`Error::File`] when it cannot be made.
    pub fn open(directory: impl Into<PathBuf>) -> Result<Self> {
        let directory = directory.into();
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .map_err(|error| Error::file("create", &directory, &error))?;
        Ok(Self { directory, written: AtomicU64::new(0) })
    }

    /// The name of what a model answers to a request.
    #[must_use]
    pub fn key(model: &str, request: &Request) -> String {
        let mut hash = Sha256::new();
        hash.update(VERSION.to_le_bytes());
        hash.update((model.len() as u64).to_le_bytes());
        hash.update(model.as_bytes());
        // Serialising numbers, texts and a JSON value cannot fail; an empty text would only make keys collide, so the
        // error is hashed instead.
        hash.update(serde_json::to_string(request).unwrap_or_else(|error| error.to_string()).as_bytes());
        hex(&hash.finalize())
    }

    /// The answer kept under a key.
    ///
    /// # Errors
    /// [`Error::File`] when the directory cannot be read.
    pub(crate) async fn find(&self, key: &str) -> Result<Found> {
        let path = self.path(key);
        match tokio::fs::read(&path).await {
            Ok(bytes) => Ok(match serde_json::from_slice::<Entry>(&bytes) {
                Ok(entry) => Found::Answer(entry.text),
                Err(_) => Found::Broken,
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Found::Nothing),
            Err(error) => Err(Error::file("read", &path, &error)),
        }
    }

    /// Keeps an answer.
    ///
    /// # Errors
    /// [`Error::File`] when it cannot be written.
    pub(crate) async fn keep(&self, key: &str, model: &str, text: &str, tokens: (u64, u64)) -> Result<()> {
        let entry =
            Entry { model: model.to_owned(), text: text.to_owned(), input_tokens: tokens.0, output_tokens: tokens.1 };
        let bytes = serde_json::to_vec(&entry).map_err(|error| Error::Bug(format!("write an answer: {error}")))?;
        let path = self.path(key);
        let number = self.written.fetch_add(1, Ordering::Relaxed);
        let part = path.with_extension(format!("{}-{number}.part", std::process::id()));
        write_whole(&part, &path, &bytes).await.map_err(|error| Error::file("write", &path, &error))
    }

    /// A directory for each first byte: file systems are slow with a million files in one.
    fn path(&self, key: &str) -> PathBuf {
        self.directory.join(key.get(..2).unwrap_or("00")).join(format!("{key}.json"))
    }
}

async fn write_whole(part: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        tokio::fs::create_dir_all(directory).await?;
    }
    let written = async {
        tokio::fs::write(part, bytes).await?;
        tokio::fs::rename(part, path).await
    };
    let result = written.await;
    if result.is_err() {
        // The first error is the one to tell; a part is passed over by every reader.
        let _ = tokio::fs::remove_file(part).await;
    }
    result
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use serde_json::json;

    use super::*;
    use crate::endpoint::{Message, Role, Schema};

    fn request() -> Request {
        Request {
            messages: vec![Message::new(Role::System, "rubric"), Message::new(Role::User, "thanks")],
            schema: Schema { name: "labels", value: json!({"type": "object"}) },
            max_tokens: 100,
            temperature: 0.0,
            seed: None,
        }
    }

    #[test]
    fn the_key_depends_on_everything() {
        let key = Cache::key("model", &request());
        assert_eq!(key, Cache::key("model", &request()));
        assert_eq!(key.len(), 64);
        let mut others = vec![Cache::key("model-2", &request())];
        let changes: [fn(&mut Request); 6] = [
            |request| request.messages[0].content.push('!'),
            |request| request.messages[1].role = Role::Assistant,
            |request| request.schema.value = json!({"type": "array"}),
            |request| request.max_tokens += 1,
            |request| request.temperature = 0.5,
            |request| request.seed = Some(0),
        ];
        for change in changes {
            let mut other = request();
            change(&mut other);
            others.push(Cache::key("model", &other));
        }
        others.push(key);
        let distinct: std::collections::BTreeSet<&String> = others.iter().collect();
        assert_eq!(distinct.len(), 8);
    }

    #[tokio::test]
    async fn answers_are_kept_and_broken_ones_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(directory.path().join("a/b")).unwrap();
        let key = Cache::key("model", &request());
        assert_eq!(cache.find(&key).await.unwrap(), Found::Nothing);
        cache.keep(&key, "model", "{\"labels\":[]}", (10, 2)).await.unwrap();
        assert_eq!(cache.find(&key).await.unwrap(), Found::Answer("{\"labels\":[]}".to_owned()));
        std::fs::write(cache.path(&key), "{\"model\":\"mo").unwrap();
        assert_eq!(cache.find(&key).await.unwrap(), Found::Broken);
        cache.keep(&key, "model", "again", (10, 2)).await.unwrap();
        let reopened = Cache::open(directory.path().join("a/b")).unwrap();
        assert_eq!(reopened.find(&key).await.unwrap(), Found::Answer("again".to_owned()));
        let mode = directory.path().join("a/b").metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        let files = std::fs::read_dir(cache.path(&key).parent().unwrap()).unwrap().count();
        assert_eq!(files, 1, "no part is left behind");
    }
}
