//! An object store that loses: answers, requests, time; by seed, or by script.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// What can happen to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The store answers that it is overloaded; nothing happened.
    Refused,
    /// The put succeeds, the answer is lost.
    AnswerLost,
    /// The put succeeds, and the answer says that the object exists already: a gateway has sent the request twice.
    AnsweredTwice,
    /// The answer is an error, and the put arrives later, before some other request.
    Late,
    /// The disk is full; nothing happened.
    Full,
    /// Access is denied; nothing happened.
    Denied,
    /// The answer takes some milliseconds.
    Slow,
}

/// How likely each fault is, in thousandths of the requests that it can befall.
#[derive(Debug, Clone, Copy, Default)]
pub struct Odds {
    /// For any request.
    pub refused: u64,
    /// For puts.
    pub answer_lost: u64,
    /// For puts that must not overwrite.
    pub answered_twice: u64,
    /// For puts.
    pub late: u64,
    /// For any request.
    pub slow: u64,
}

impl Odds {
    /// A bad day: about every fourth put suffers something.
    pub const BAD: Self = Self { refused: 60, answer_lost: 80, answered_twice: 60, late: 60, slow: 20 };
}

/// A store over another that loses requests and answers. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct LossyStore {
    inner: Arc<dyn ObjectStore>,
    shared: Arc<Shared>,
}

struct Shared {
    odds: Odds,
    random: AtomicU64,
    calm: AtomicBool,
    faults: AtomicU64,
    /// Faults for the next puts whose path contains a text.
    script: Mutex<VecDeque<(String, Fault)>>,
    late: Mutex<Vec<(Path, PutPayload, PutOptions)>>,
}

impl fmt::Debug for LossyStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("LossyStore").field("odds", &self.shared.odds).finish_non_exhaustive()
    }
}

impl fmt::Display for LossyStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "lossy {}", self.inner)
    }
}

impl LossyStore {
    /// A store that loses by chance, the same for the same seed and order of requests.
    pub fn new(inner: Arc<dyn ObjectStore>, seed: u64, odds: Odds) -> Self {
        let shared = Shared {
            odds,
            random: AtomicU64::new(seed),
            calm: AtomicBool::new(false),
            faults: AtomicU64::new(0),
            script: Mutex::default(),
            late: Mutex::default(),
        };
        Self { inner, shared: Arc::new(shared) }
    }

    /// A store that loses only what [`LossyStore::next_put`] says.
    pub fn scripted(inner: Arc<dyn ObjectStore>) -> Self {
        Self::new(inner, 0, Odds::default())
    }

    /// Lets `fault` befall the next put whose path contains `part`. Several are kept in order.
    pub fn next_put(&self, part: &str, fault: Fault) {
        lock(&self.shared.script).push_back((part.to_owned(), fault));
    }

    /// From now on nothing is lost, or (with `false`) chance rules again. Late puts still arrive.
    pub fn calm(&self, calm: bool) {
        self.shared.calm.store(calm, Ordering::SeqCst);
    }

    /// How many faults there were.
    pub fn faults(&self) -> u64 {
        self.shared.faults.load(Ordering::SeqCst)
    }

    /// The next number of the seeded sequence (`SplitMix64`).
    fn random(&self) -> u64 {
        let mut number = self.shared.random.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::SeqCst);
        number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        number ^ (number >> 31)
    }

    fn happens(&self, thousandths: u64) -> bool {
        !self.shared.calm.load(Ordering::SeqCst) && self.random() % 1_000 < thousandths
    }

    fn fault_of_put(&self, path: &Path, options: &PutOptions) -> Option<Fault> {
        let mut script = lock(&self.shared.script);
        if let Some(place) = script.iter().position(|(part, _)| path.as_ref().contains(part.as_str())) {
            return script.remove(place).map(|(_, fault)| fault);
        }
        drop(script);
        let odds = self.shared.odds;
        let creates = matches!(options.mode, object_store::PutMode::Create);
        [
            (odds.refused, Fault::Refused),
            (odds.answer_lost, Fault::AnswerLost),
            (if creates { odds.answered_twice } else { 0 }, Fault::AnsweredTwice),
            (odds.late, Fault::Late),
            (odds.slow, Fault::Slow),
        ]
        .into_iter()
        .find(|(odds, _)| self.happens(*odds))
        .map(|(_, fault)| fault)
    }

    fn count(&self) {
        self.shared.faults.fetch_add(1, Ordering::SeqCst);
    }

    /// Lets late puts arrive, or refuses, or dawdles, before a request that is no put.
    async fn before(&self) -> Result<()> {
        self.arrive().await;
        if self.happens(self.shared.odds.slow) {
            self.count();
            tokio::time::sleep(Duration::from_millis(self.random() % 5)).await;
        }
        if self.happens(self.shared.odds.refused) {
            self.count();
            return Err(overloaded());
        }
        Ok(())
    }

    async fn arrive(&self) {
        let late = std::mem::take(&mut *lock(&self.shared.late));
        for (path, payload, options) in late {
            // Nobody waits for this answer any more.
            drop(self.inner.put_opts(&path, payload, options).await);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn generic(source: std::io::Error) -> Error {
    Error::Generic { store: "lossy", source: Box::new(source) }
}

fn overloaded() -> Error {
    generic(std::io::Error::new(std::io::ErrorKind::TimedOut, "503 Slow Down"))
}

#[async_trait]
impl ObjectStore for LossyStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let fault = self.fault_of_put(location, &options);
        // What is late arrives behind the next request, so that a second attempt meets it.
        let earlier = std::mem::take(&mut *lock(&self.shared.late));
        if fault.is_some() {
            self.count();
        }
        let result = match fault {
            None => self.inner.put_opts(location, payload, options).await,
            Some(Fault::Slow) => {
                tokio::time::sleep(Duration::from_millis(self.random() % 5)).await;
                self.inner.put_opts(location, payload, options).await
            }
            Some(Fault::Refused) => Err(overloaded()),
            Some(Fault::Full) => Err(generic(std::io::ErrorKind::StorageFull.into())),
            Some(Fault::Denied) => Err(generic(std::io::ErrorKind::PermissionDenied.into())),
            Some(Fault::AnswerLost) => match self.inner.put_opts(location, payload, options).await {
                Ok(_) => Err(overloaded()),
                error => error,
            },
            Some(Fault::AnsweredTwice) => match self.inner.put_opts(location, payload, options).await {
                Ok(_) => Err(Error::AlreadyExists { path: location.to_string(), source: "answered twice".into() }),
                error => error,
            },
            Some(Fault::Late) => {
                lock(&self.shared.late).push((location.clone(), payload, options));
                Err(overloaded())
            }
        };
        for (path, payload, options) in earlier {
            drop(self.inner.put_opts(&path, payload, options).await);
        }
        result
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.before().await?;
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.before().await?;
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (store, prefix) = (self.clone(), prefix.cloned());
        futures::stream::once(async move {
            match store.before().await {
                Ok(()) => store.inner.list(prefix.as_ref()),
                Err(error) => futures::stream::once(async move { Err(error) }).boxed(),
            }
        })
        .flatten()
        .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.before().await?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.before().await?;
        self.inner.copy_opts(from, to, options).await
    }
}

#[cfg(test)]
mod tests {
    use object_store::ObjectStoreExt;
    use object_store::memory::InMemory;

    use super::*;

    #[tokio::test]
    async fn the_same_seed_loses_the_same() {
        let run = |seed| async move {
            let store = LossyStore::new(Arc::new(InMemory::new()), seed, Odds::BAD);
            let mut outcomes = Vec::new();
            for number in 0..50 {
                let path = Path::from(format!("{number}"));
                outcomes.push(store.put(&path, "x".into()).await.is_ok());
            }
            (outcomes, store.faults())
        };
        let (first, faults) = run(7).await;
        assert_eq!((first, faults), run(7).await);
        assert!(faults > 0);
    }

    #[tokio::test]
    async fn a_late_put_arrives() {
        let store = LossyStore::scripted(Arc::new(InMemory::new()));
        store.next_put("a", Fault::Late);
        assert!(store.put(&Path::from("a"), "x".into()).await.is_err());
        assert!(store.get(&Path::from("a")).await.is_ok(), "it arrives before the next request");
        store.next_put("b", Fault::AnswerLost);
        assert!(store.put(&Path::from("b"), "x".into()).await.is_err());
        assert!(store.get(&Path::from("b")).await.is_ok());
        assert_eq!(store.faults(), 2);
    }
}
