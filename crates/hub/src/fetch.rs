//! A model out of the cache, or out of the hub into the cache.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use reqwest::StatusCode;
use reqwest::header::CONTENT_RANGE;
use sha2::{Digest as _, Sha256};

use crate::cache::{INDEX, OPTIONAL, Place, REQUIRED, WEIGHTS, missing, shards};
use crate::client::{Failure, HubClient, Listing, Sent, chain};
use crate::error::{Error, Result};
use crate::name::Name;
use crate::settings::Settings;

/// How far the fetching of a file is.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The file.
    pub file: &'a str,
    /// Bytes of it that are there.
    pub bytes: u64,
    /// Bytes that it has; none where the hub does not say.
    pub of: Option<u64>,
}

/// A hub, and the cache of what came from it.
#[derive(Debug)]
pub struct Hub {
    settings: Settings,
}

/// One model that is fetched.
struct Fetch<'a> {
    client: HubClient<'a>,
    settings: &'a Settings,
    name: &'a Name,
    place: Place,
    tell: &'a mut (dyn FnMut(Progress<'_>) + Send + Sync),
}

/// How one attempt at a file ended.
enum Attempt {
    /// Its blob is there, under this name.
    Done(String),
    /// It is to be tried again, with so many bytes there.
    Again { status: Option<u16>, reason: String, bytes: u64 },
}

impl Hub {
    /// A hub of these settings.
    #[must_use]
    pub const fn new(settings: Settings) -> Self {
        Self { settings }
    }

    /// The directory of a model in the cache; what of it is not there is fetched first.
    ///
    /// # Errors
    /// [`Error`], whose kinds say what to do. What was fetched until then is kept and gone on with.
    pub async fn directory(&self, name: &Name, tell: &mut (dyn FnMut(Progress<'_>) + Send + Sync)) -> Result<PathBuf> {
        let settings = &self.settings;
        let place = Place::new(&settings.cache, name);
        let known = place.commit(name);
        let mut lacks = "all of it".to_owned();
        if let Some(commit) = &known {
            let snapshot = place.snapshot(commit);
            match missing(&snapshot) {
                None => return Ok(snapshot),
                Some(file) => lacks = file,
            }
        }
        if settings.offline {
            return Err(Error::Offline { name: name.to_string(), cache: settings.cache.clone(), missing: lacks });
        }
        let client = HubClient::new(settings, name)?;
        Fetch { client, settings, name, place, tell }.run().await
    }
}

impl Fetch<'_> {
    async fn run(mut self) -> Result<PathBuf> {
        let listing = self.list().await?;
        let commit = listing.sha.clone();
        self.check(&listing)?;
        let snapshot = self.place.snapshot(&commit);
        for file in REQUIRED.into_iter().chain(OPTIONAL).filter(|file| listing.has(file)) {
            self.file(&commit, file).await?;
        }
        if listing.has(INDEX) {
            self.file(&commit, INDEX).await?;
            let path = snapshot.join(INDEX);
            let index = std::fs::read(&path).map_err(Error::file("read", &path))?;
            let names = shards(&index).map_err(|reason| Error::Invalid(format!("of `{}`: {reason}", self.name)))?;
            for shard in names {
                if !listing.has(&shard) {
                    return Err(self.lacks(shard, "its list of weights names it: the repository is not whole"));
                }
                self.file(&commit, &shard).await?;
            }
        } else {
            self.file(&commit, WEIGHTS).await?;
        }
        // Last, so that a revision that is known is whole unless somebody took something out.
        self.place.note(self.name, &commit)?;
        tracing::info!(model = %self.name, commit, directory = %snapshot.display(), "model fetched");
        Ok(snapshot)
    }

    fn lacks(&self, missing: String, advice: &'static str) -> Error {
        Error::Missing { name: self.name.to_string(), missing, advice }
    }

    /// Whether the repository has what a base model needs, before anything large is fetched.
    fn check(&self, listing: &Listing) -> Result<()> {
        if let Some(file) = REQUIRED.into_iter().find(|file| !listing.has(file)) {
            let advice = "a base model needs it; one with tokenizer files of the slow kind only can be saved anew with transformers";
            return Err(self.lacks(file.to_owned(), advice));
        }
        if listing.has(INDEX) || listing.has(WEIGHTS) {
            return Ok(());
        }
        let advice =
            "weights of another kind are not read: save it anew with transformers, or take a revision that has it";
        Err(self.lacks(WEIGHTS.to_owned(), advice))
    }

    async fn list(&self) -> Result<Listing> {
        let mut repetition = 0;
        loop {
            match self.client.list().await {
                Ok(listing) => return Ok(listing),
                Err(Failure::Never(error)) => return Err(error),
                Err(Failure::Range) => return Err(self.gone(None, "it has no such range".to_owned())),
                Err(Failure::Again { status, reason }) => self.wait(&mut repetition, status, reason).await?,
            }
        }
    }

    /// Waits before another attempt, or gives up.
    async fn wait(&self, repetition: &mut u32, status: Option<u16>, reason: String) -> Result<()> {
        if *repetition >= self.settings.retries {
            return Err(self.gone(status, reason));
        }
        let pause = self.settings.pause.saturating_mul(1 << (*repetition).min(6));
        tracing::debug!(model = %self.name, reason, status, ?pause, "the hub is asked again");
        tokio::time::sleep(pause).await;
        *repetition += 1;
        Ok(())
    }

    fn gone(&self, status: Option<u16>, reason: String) -> Error {
        let (name, endpoint) = (self.name.to_string(), self.client.endpoint());
        match status {
            Some(status) => Error::Server { name, endpoint, status, words: reason },
            None => Error::Network { name, endpoint, reason },
        }
    }

    /// Sees that a file is in the snapshot.
    async fn file(&mut self, commit: &str, file: &str) -> Result<()> {
        if self.place.snapshot(commit).join(file).is_file() {
            return Ok(());
        }
        let (mut repetition, mut before) = (0, 0);
        loop {
            match self.attempt(commit, file).await? {
                Attempt::Done(etag) => return self.place.link(commit, file, &etag),
                Attempt::Again { status, reason, bytes } => {
                    if bytes > before {
                        // As long as the file grows, nothing is lost but time.
                        (repetition, before) = (0, bytes);
                    }
                    self.wait(&mut repetition, status, reason).await?;
                }
            }
        }
    }

    /// One attempt at a file; what an earlier one left is gone on with.
    async fn attempt(&mut self, commit: &str, file: &str) -> Result<Attempt> {
        let first = match self.client.open(commit, file, 0).await {
            Ok(sent) => sent,
            Err(failure) => return self.failed(failure),
        };
        let blob = self.place.blob(&first.etag);
        if blob.is_file() {
            return Ok(Attempt::Done(first.etag));
        }
        let mut part = Part::open(&blob).await?;
        // Somebody else may have fetched it while we waited for the lock.
        if blob.is_file() {
            return Ok(Attempt::Done(first.etag));
        }
        let mut sent = first;
        // Of a file that was ended before it got its name, nothing is missing.
        let whole = sent.response.content_length() == Some(part.bytes);
        if part.bytes > 0 && !whole {
            sent = match self.client.open(commit, file, part.bytes).await {
                Ok(again) if again.etag == sent.etag && continues(&again, part.bytes) => again,
                // The hub sends all of it, or something else than before: from the start.
                Ok(_) | Err(Failure::Range) => {
                    part.restart()?;
                    sent
                }
                Err(failure) => return self.failed(failure),
            };
        }
        let of = sent.response.content_length().map(|rest| if whole { rest } else { rest + part.bytes });
        let mut more = !whole;
        while more {
            match sent.response.chunk().await {
                Ok(Some(chunk)) => part.write(&chunk)?,
                Ok(None) => more = false,
                Err(error) => {
                    tracing::debug!(file, bytes = part.bytes, "a connection broke");
                    return Ok(Attempt::Again { status: None, reason: chain(&error), bytes: part.bytes });
                }
            }
            (self.tell)(Progress { file, bytes: part.bytes, of });
        }
        if of.is_some_and(|of| of != part.bytes) {
            return Ok(Attempt::Again { status: None, reason: "it ended early".to_owned(), bytes: part.bytes });
        }
        let etag = sent.etag;
        part.finish(&etag).map_err(|fault| match fault {
            Fault::File(error) => error,
            Fault::Other(reason) => Error::Corrupt { name: self.name.to_string(), file: file.to_owned(), reason },
        })?;
        Ok(Attempt::Done(etag))
    }

    fn failed(&self, failure: Failure) -> Result<Attempt> {
        match failure {
            Failure::Never(error) => Err(error),
            Failure::Range => Err(self.gone(None, "it has no such range".to_owned())),
            Failure::Again { status, reason } => Ok(Attempt::Again { status, reason, bytes: 0 }),
        }
    }
}

/// Whether an answer goes on where a part ends.
fn continues(sent: &Sent, bytes: u64) -> bool {
    let range = sent.response.headers().get(CONTENT_RANGE).and_then(|range| range.to_str().ok());
    sent.response.status() == StatusCode::PARTIAL_CONTENT
        && range.is_some_and(|range| range.starts_with(&format!("bytes {bytes}-")))
}

/// A blob that is not whole yet, held against other processes.
struct Part {
    file: File,
    path: PathBuf,
    blob: PathBuf,
    bytes: u64,
}

enum Fault {
    File(Error),
    Other(String),
}

impl Part {
    async fn open(blob: &Path) -> Result<Self> {
        let mut name = blob.file_name().unwrap_or_default().to_owned();
        // Not the name that other programs give theirs: they do not know of our lock.
        name.push(".uptake.incomplete");
        let (path, blob) = (blob.with_file_name(name), blob.to_owned());
        let opened = tokio::task::spawn_blocking(move || {
            let attempt = || {
                if let Some(parent) = path.parent() {
                    std::fs::create_dir_all(parent)?;
                }
                let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
                file.lock()?;
                let bytes = file.seek(SeekFrom::End(0))?;
                Ok::<_, std::io::Error>((file, bytes))
            };
            let (file, bytes) = attempt().map_err(Error::file("write", &path))?;
            Ok(Self { file, path, blob, bytes })
        });
        opened.await.map_err(|error| Error::Invalid(format!("bug in the hub: {error}")))?
    }

    fn restart(&mut self) -> Result<()> {
        let attempt = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        self.bytes = attempt.map_err(Error::file("write", &self.path))?;
        Ok(())
    }

    fn write(&mut self, chunk: &[u8]) -> Result<()> {
        self.file.write_all(chunk).map_err(Error::file("write", &self.path))?;
        self.bytes += chunk.len() as u64;
        Ok(())
    }

    /// Checks the contents where their hash is known, and gives them their name.
    fn finish(mut self, etag: &str) -> Result<(), Fault> {
        let failed = |error| Fault::File(Error::file("write", &self.path)(error));
        self.file.sync_all().map_err(failed)?;
        let is_sha256 = etag.len() == 64 && etag.bytes().all(|byte| byte.is_ascii_hexdigit());
        if is_sha256 {
            let found = hash(&mut self.file).map_err(failed)?;
            if !found.eq_ignore_ascii_case(etag) {
                std::fs::remove_file(&self.path).map_err(failed)?;
                return Err(Fault::Other(format!("its SHA-256 is {found}, not {etag}")));
            }
        }
        std::fs::rename(&self.path, &self.blob).map_err(failed)
    }
}

fn hash(file: &mut File) -> std::io::Result<String> {
    let _ = file.seek(SeekFrom::Start(0))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(format!("{:x}", hash.finalize()));
        }
        hash.update(&buffer[..read]);
    }
}
