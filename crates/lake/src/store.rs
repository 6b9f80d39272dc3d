//! From the name of a lake to its object store.

use std::path::Path as FilePath;
use std::sync::Arc;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ClientConfigKey, ObjectStore};
use url::Url;

use crate::error::{Error, Result};

/// The store behind a lake's name, rooted at the scheme and host, and the lake's URL with a slash at its end.
///
/// A directory may be relative; nothing is created. Credentials and endpoint of `s3://` come from the `AWS_*` of
/// `environment`.
pub(crate) fn resolve(
    name: &str,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<(Arc<dyn ObjectStore>, Url)> {
    if name.trim().is_empty() {
        return Err(Error::Invalid(
            "the lake has no name; give a directory or an s3:// URL with --lake or UPTAKE_LAKE".to_owned(),
        ));
    }
    match name.split_once("://") {
        None => directory(FilePath::new(name)),
        Some(("file", _)) => {
            let path = parse(name)?.to_file_path();
            directory(&path.map_err(|()| Error::Invalid(format!("`{name}` names no directory of this machine")))?)
        }
        Some(("s3" | "s3a", _)) => bucket(parse(name)?, environment),
        Some((scheme, _)) => {
            Err(Error::Invalid(format!("`{scheme}://` is no place for a lake; give a directory or an s3:// URL")))
        }
    }
}

fn parse(name: &str) -> Result<Url> {
    Url::parse(name).map_err(|error| Error::Invalid(format!("`{name}` is no URL: {error}")))
}

fn directory(path: &FilePath) -> Result<(Arc<dyn ObjectStore>, Url)> {
    if path.is_file() {
        return Err(Error::Invalid(format!(
            "the lake `{}` is a file; give a directory, it is made when something is written",
            path.display()
        )));
    }
    let absolute = std::path::absolute(path)
        .map_err(|error| Error::Invalid(format!("`{}` is no directory: {error}", path.display())))?;
    // Stores see the path as text; `..` would climb out of prefixes.
    let mut clean = std::path::PathBuf::new();
    for part in absolute.components() {
        match part {
            std::path::Component::ParentDir => {
                clean.pop();
            }
            std::path::Component::CurDir => {}
            other => clean.push(other),
        }
    }
    // Where it exists, links are followed once, here, so that two names of one lake are one lake.
    let clean = clean.canonicalize().unwrap_or(clean);
    let url = Url::from_directory_path(&clean)
        .map_err(|()| Error::Invalid(format!("`{}` cannot be written as a URL", clean.display())))?;
    Ok((Arc::new(LocalFileSystem::new()), url))
}

/// The environment of this process, as far as it is text.
pub(crate) fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

fn bucket(
    mut url: Url,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<(Arc<dyn ObjectStore>, Url)> {
    let Some(name) = url.host_str().filter(|name| !name.is_empty()).map(str::to_owned) else {
        return Err(Error::Invalid(format!("`{url}` names no bucket; write s3://bucket/prefix")));
    };
    let store = settings(environment)
        .with_bucket_name(name)
        // A commit is a put that must not overwrite: without it two writers could both believe to have won.
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .build()
        .map_err(|error| {
            Error::Invalid(format!(
                "open `{url}`: {error}; set AWS_REGION, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_ENDPOINT_URL for another service)"
            ))
        })?;
    if !url.path().ends_with('/') {
        let path = format!("{}/", url.path());
        url.set_path(&path);
    }
    Ok((Arc::new(store), url))
}

/// What `AWS_*` says. An endpoint that is written with `http://` is meant so: it needs no second switch.
fn settings(environment: impl IntoIterator<Item = (String, String)>) -> AmazonS3Builder {
    const PLAIN: AmazonS3ConfigKey = AmazonS3ConfigKey::Client(ClientConfigKey::AllowHttp);
    let mut builder = AmazonS3Builder::new();
    let mut plain_endpoint = false;
    let mut plain_is_said = false;
    for (name, value) in environment {
        let Some(key) = name.strip_prefix("AWS_").and_then(|_| name.to_ascii_lowercase().parse().ok()) else {
            continue;
        };
        plain_is_said |= key == PLAIN;
        plain_endpoint |= matches!(key, AmazonS3ConfigKey::Endpoint | AmazonS3ConfigKey::S3Endpoint)
            && value.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("http://"));
        builder = builder.with_config(key, value);
    }
    if plain_endpoint && !plain_is_said { builder.with_allow_http(true) } else { builder }
}

/// The path below the store's root that a URL names.
pub(crate) fn path_of(url: &Url) -> Result<Path> {
    Path::from_url_path(url.path()).map_err(|error| Error::Invalid(format!("`{url}` cannot be a path: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_lakes() {
        let resolve = |name: &str| resolve(name, []);
        let (_, url) = resolve("./a/../lake").unwrap();
        assert!(url.as_str().starts_with("file:///") && url.as_str().ends_with("/lake/"), "{url}");
        assert!(!url.as_str().contains(".."), "{url}");
        for wrong in ["", "ftp://x/y", "s3://", "gs://x"] {
            let error = resolve(wrong).unwrap_err();
            assert_eq!(error.kind(), crate::Kind::Invalid, "{wrong}: {error}");
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = resolve(file.path().to_str().unwrap()).unwrap_err();
        assert!(error.to_string().contains("is a file"), "{error}");
    }

    #[test]
    fn a_plain_endpoint_needs_no_second_switch() {
        let plain = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            settings(pairs).get_config_value(&AmazonS3ConfigKey::Client(ClientConfigKey::AllowHttp)).unwrap()
        };
        assert_eq!(plain(&[("AWS_ENDPOINT_URL", "http://127.0.0.1:9000"), ("HOME", "/root")]), "true");
        assert_eq!(plain(&[("AWS_ENDPOINT_URL_S3", "HTTP://minio:9000")]), "true");
        assert_eq!(plain(&[("AWS_ENDPOINT_URL", "https://minio:9000")]), "false");
        assert_eq!(plain(&[("AWS_ALLOW_HTTP", "false"), ("AWS_ENDPOINT_URL", "http://minio:9000")]), "false");
    }

    #[test]
    fn a_setting_that_cannot_be_read_is_named() {
        let wrong = [("AWS_ALLOW_HTTP".to_owned(), "maybe".to_owned())];
        let error = resolve("s3://bucket/lake", wrong).unwrap_err().to_string();
        assert!(error.contains("maybe") && error.contains("AWS_ACCESS_KEY_ID"), "{error}");
    }
}
