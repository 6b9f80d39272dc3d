//! Data files into the store, before the commit that names them.

use std::time::Duration;

use bytes::Bytes;
use deltalake::kernel::Add;
use deltalake::logstore::LogStoreRef;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStoreExt, WriteMultipart};
use uptake_model::TableSpec;
use uuid::Uuid;

use crate::encode::{Encoded, Partition};
use crate::error::{Error, Result};

/// Files written at once.
const UPLOADS: usize = 4;
/// Larger files go up in parts of this size.
const PART_BYTES: usize = 16 << 20;
/// How often one file is tried.
const ATTEMPTS: u32 = 5;

/// Writes the files under names that no other attempt uses, so that a failed commit's files can be removed.
///
/// A name carries the digest of the bytes: a replacement that changes nothing is seen without reading anything. When one
/// file cannot be written, those that were are removed again.
pub(crate) async fn upload(log_store: &LogStoreRef, spec: &TableSpec, files: Vec<Encoded>) -> Result<Vec<Add>> {
    let mut adds = Vec::with_capacity(files.len());
    let mut payloads = Vec::with_capacity(files.len());
    for file in files {
        let size =
            i64::try_from(file.bytes.len()).map_err(|error| Error::bug(format!("write a file of {spec}"), error))?;
        let path = path_of(&file.partition, &file.digest);
        payloads.push((path.clone(), file.bytes));
        adds.push(Add {
            path: path.to_string(),
            partition_values: file.partition.into_iter().collect(),
            size,
            modification_time: chrono::Utc::now().timestamp_millis(),
            data_change: true,
            stats: Some(file.statistics),
            tags: None,
            deletion_vector: None,
            base_row_id: None,
            default_row_commit_version: None,
            clustering_provider: None,
        });
    }
    let writes =
        futures::stream::iter(payloads).map(|(path, bytes)| async move { put(log_store, spec, &path, &bytes).await });
    match writes.buffer_unordered(UPLOADS).try_collect::<()>().await {
        Ok(()) => Ok(adds),
        Err(error) => {
            remove(log_store, spec, &adds).await;
            Err(error)
        }
    }
}

/// `<partition>/part-<time-ordered id>-<digest>.zstd.parquet`.
fn path_of(partition: &Partition, digest: &str) -> Path {
    let mut parts: Vec<String> =
        partition.iter().map(|(name, value)| format!("{name}={}", directory_of(value.as_deref()))).collect();
    parts.push(format!("part-{}-{digest}.zstd.parquet", Uuid::now_v7()));
    Path::from_iter(parts)
}

/// Directories are for people, readers take partition values from the log: what is no plain word gets a plain name.
fn directory_of(value: Option<&str>) -> String {
    match value {
        None => "__HIVE_DEFAULT_PARTITION__".to_owned(),
        Some(value)
            if value.len() <= 64 && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)) =>
        {
            value.to_owned()
        }
        Some(_) => "other".to_owned(),
    }
}

/// The digest in a file's name, if this crate has named it.
pub(crate) fn digest_in(path: &str) -> Option<&str> {
    let name = path.rsplit('/').next()?.strip_prefix("part-")?.strip_suffix(".zstd.parquet")?;
    let (_, digest) = name.rsplit_once('-')?;
    (digest.len() == 32).then_some(digest)
}

async fn put(log_store: &LogStoreRef, spec: &TableSpec, path: &Path, bytes: &Bytes) -> Result<()> {
    let mut attempt = 0;
    loop {
        match put_once(log_store, path, bytes).await {
            Ok(()) => return Ok(()),
            Err(error) => {
                let error = Error::sort(format!("write a file of {spec}"), error);
                attempt += 1;
                // A full disk does not empty itself in a moment: the caller waits with a longer breath.
                if attempt >= ATTEMPTS || !matches!(error, Error::Unreachable { .. }) {
                    return Err(error);
                }
                tracing::warn!(table = %spec, attempt, %error, "write failed, trying again");
                tokio::time::sleep(backoff(attempt)).await;
            }
        }
    }
}

async fn put_once(log_store: &LogStoreRef, path: &Path, bytes: &Bytes) -> object_store::Result<()> {
    let store = log_store.object_store(None);
    if bytes.len() <= PART_BYTES {
        store.put(path, bytes.clone().into()).await?;
        return Ok(());
    }
    let parts = store.put_multipart(path).await?;
    let mut writer = WriteMultipart::new_with_chunk_size(parts, PART_BYTES);
    let mut rest = bytes.clone();
    while !rest.is_empty() {
        writer.wait_for_capacity(UPLOADS).await?;
        let part = rest.split_to(rest.len().min(PART_BYTES));
        writer.put(part);
    }
    writer.finish().await?;
    Ok(())
}

/// How long to wait before another attempt: doubling from 25 ms to 5 s, half of it by chance, so that rivals part.
pub(crate) fn backoff(attempt: u32) -> Duration {
    let full = Duration::from_millis(25 << attempt.min(10)).min(Duration::from_secs(5));
    let share = u32::from(Uuid::now_v7().as_bytes()[15]);
    full / 2 + full / 2 * share / 255
}

/// Removes files of a commit that did not happen, as far as the store lets it; returns how many are gone.
pub(crate) async fn remove(log_store: &LogStoreRef, spec: &TableSpec, files: &[Add]) -> usize {
    let store = log_store.object_store(None);
    let mut removed = 0;
    for file in files {
        match store.delete(&Path::from(file.path.as_str())).await {
            Ok(()) => removed += 1,
            Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => {
                tracing::warn!(table = %spec, file = %file.path, %error, "a file of a failed commit stays behind");
            }
        }
    }
    if removed > 0 {
        tracing::info!(table = %spec, files = removed, "removed the files of a commit that did not happen");
    }
    removed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_carry_the_digest_and_nothing_odd() {
        let digest = "0123456789abcdef0123456789abcdef";
        let partition = vec![("rule_id".to_owned(), Some("a b/..".to_owned())), ("day".to_owned(), None)];
        let path = path_of(&partition, digest).to_string();
        assert!(path.starts_with("rule_id=other/day=__HIVE_DEFAULT_PARTITION__/part-"), "{path}");
        assert_eq!(digest_in(&path), Some(digest));
        assert_eq!(digest_in("x/part-00000-of-someone-else.snappy.parquet"), None);
        assert_ne!(path, path_of(&partition, digest).to_string(), "no two attempts share a name");
    }

    #[test]
    fn waits_grow_and_end() {
        for attempt in 0..40 {
            assert!(backoff(attempt) <= Duration::from_secs(5));
        }
        assert!(backoff(9) >= Duration::from_millis(2_500));
    }
}
