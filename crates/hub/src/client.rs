//! Requests to the hub: its redirections, its token, its errors.

use std::net::IpAddr;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderMap, LOCATION, RANGE};
use reqwest::{Client, Response, StatusCode};
use serde::Deserialize;
use url::{Host, Url};

use crate::error::{Error, Result};
use crate::name::Name;
use crate::settings::Settings;

/// How long to wait for a connection.
const CONNECT: Duration = Duration::from_secs(15);
/// How long a server may say nothing in the middle of a file.
const SILENCE: Duration = Duration::from_mins(1);
/// Redirections that are followed.
const HOPS: usize = 8;
/// Longest list of files that is read, in bytes.
const LONGEST_LIST: usize = 16 << 20;
/// Longest piece of the hub's own words that is shown.
const LONGEST_WORDS: usize = 300;

/// What the hub tells of a revision.
#[derive(Debug, Deserialize)]
pub(crate) struct Listing {
    /// The commit.
    pub(crate) sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Debug, Deserialize)]
struct Sibling {
    rfilename: String,
}

impl Listing {
    pub(crate) fn has(&self, file: &str) -> bool {
        self.siblings.iter().any(|sibling| sibling.rfilename == file)
    }
}

/// A file that the hub has begun to send.
#[derive(Debug)]
pub(crate) struct Sent {
    /// What its blob is called.
    pub(crate) etag: String,
    pub(crate) response: Response,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Ask again: no connection, or an error of the server's own.
    Again {
        status: Option<u16>,
        reason: String,
    },
    /// The file has no bytes from there on.
    Range,
    Never(Error),
}

#[derive(Debug)]
pub(crate) struct HubClient<'a> {
    client: Client,
    settings: &'a Settings,
    name: &'a Name,
}

impl<'a> HubClient<'a> {
    pub(crate) fn new(settings: &'a Settings, name: &'a Name) -> Result<Self> {
        let mut client = Client::builder()
            .user_agent(concat!("uptake/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE)
            // Followed here: the token must not go to another host, and the first answer says what the last one does not.
            .redirect(reqwest::redirect::Policy::none());
        if is_loopback(&settings.endpoint) {
            client = client.no_proxy();
            if settings.endpoint.scheme() == "http" {
                // Without need of the system's certificates: small images have none, and reqwest refuses to start there.
                client = client.tls_certs_only(std::iter::empty());
            }
        }
        let client =
            client.build().map_err(|error| Error::Invalid(format!("make an HTTP client: {}", chain(&error))))?;
        Ok(Self { client, settings, name })
    }

    pub(crate) fn endpoint(&self) -> String {
        self.settings.endpoint.as_str().trim_end_matches('/').to_owned()
    }

    fn address(&self, path: &[&str]) -> Result<Url, Failure> {
        let mut url = self.settings.endpoint.clone();
        url.path_segments_mut()
            .map_err(|()| Failure::Never(Error::Invalid("HF_ENDPOINT is no address of a server".to_owned())))?
            .pop_if_empty()
            .extend(path);
        Ok(url)
    }

    /// Commit and files of the revision.
    pub(crate) async fn list(&self) -> Result<Listing, Failure> {
        let mut path = vec!["api", "models"];
        path.extend(self.name.repository.split('/'));
        // A revision with a slash is one segment: the slash is encoded.
        path.extend(["revision", &self.name.revision]);
        let (mut response, _) = self.get(self.address(&path)?, None).await?;
        let bytes = body(&mut response, LONGEST_LIST).await?;
        let listing: Listing = serde_json::from_slice(&bytes).map_err(|error| {
            let reason = format!("its list of files cannot be read: {error}");
            Failure::Never(Error::Invalid(format!("{} is no hub: {reason}", self.endpoint())))
        })?;
        if crate::name::is_commit(&listing.sha) {
            Ok(listing)
        } else {
            Err(Failure::Never(Error::Invalid(format!("{} is no hub: it names no commit", self.endpoint()))))
        }
    }

    /// Begins a file, from a byte on.
    pub(crate) async fn open(&self, commit: &str, file: &str, from: u64) -> Result<Sent, Failure> {
        let mut path: Vec<&str> = self.name.repository.split('/').collect();
        path.extend(["resolve", commit, file]);
        let (response, linked) = self.get(self.address(&path)?, (from > 0).then_some(from)).await?;
        let own = || header(response.headers(), "etag");
        let etag = linked.or_else(own).map(|etag| plain(&etag)).filter(|etag| !etag.is_empty());
        let etag = etag.ok_or_else(|| {
            Failure::Never(Error::Invalid(format!("{} is no hub: it gives `{file}` no ETag", self.endpoint())))
        })?;
        Ok(Sent { etag, response })
    }

    /// Asks, and follows where it is sent; also the `X-Linked-Etag` that stood on the way.
    async fn get(&self, mut url: Url, from: Option<u64>) -> Result<(Response, Option<String>), Failure> {
        let mut linked = None;
        for _ in 0..HOPS {
            let mut request = self.client.get(url.clone());
            if let Some(from) = from {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            if let Some(token) = self.settings.token.as_ref().filter(|_| same_place(&url, &self.settings.endpoint)) {
                request = request.header(AUTHORIZATION, format!("Bearer {}", token.0));
            }
            let sent = request.send().await;
            let response = sent.map_err(|error| Failure::Again { status: None, reason: chain(&error) })?;
            linked = linked.or_else(|| header(response.headers(), "x-linked-etag"));
            let status = response.status();
            if !status.is_redirection() {
                return if status.is_success() { Ok((response, linked)) } else { Err(self.failure(response).await) };
            }
            let location = header(response.headers(), LOCATION.as_str()).and_then(|location| url.join(&location).ok());
            url = location.ok_or_else(|| Failure::Again {
                status: Some(status.as_u16()),
                reason: "it sends elsewhere and does not say where".to_owned(),
            })?;
        }
        Err(Failure::Again { status: None, reason: format!("it sends from one place to another {HOPS} times") })
    }

    async fn failure(&self, mut response: Response) -> Failure {
        let status = response.status();
        let code = header(response.headers(), "x-error-code").unwrap_or_default();
        let words = header(response.headers(), "x-error-message");
        let words = match words {
            Some(words) => words,
            None => body(&mut response, LONGEST_LIST).await.map_or_else(|_| String::new(), |bytes| said(&bytes)),
        };
        let words: String = words.chars().take(LONGEST_WORDS).collect();
        let (name, endpoint) = (self.name.to_string(), self.endpoint());
        let denied =
            |advice: String| Failure::Never(Error::Denied { name: name.clone(), endpoint: endpoint.clone(), advice });
        let has_token = self.settings.token.is_some();
        let page = format!("{endpoint}/{}", self.name.repository);
        match (status, code.as_str()) {
            (_, "RevisionNotFound") => Failure::Never(Error::NoRevision {
                repository: self.name.repository.clone(),
                revision: self.name.revision.clone(),
            }),
            (_, "GatedRepo") if has_token => denied(format!(
                "accept its conditions at {page} with the account of the token in HF_TOKEN, and see that the token may read gated models"
            )),
            (_, "GatedRepo") => {
                denied(format!("accept its conditions at {page} and set HF_TOKEN to a token of that account"))
            }
            (StatusCode::NOT_FOUND, _) | (_, "RepoNotFound") => Failure::Never(Error::NoRepository { name, endpoint }),
            (StatusCode::UNAUTHORIZED, _) if has_token => {
                denied("it does not know the token in HF_TOKEN, or there is no such model".to_owned())
            }
            (StatusCode::UNAUTHORIZED, _) => denied(
                "there is no such model, or it is private or gated: set HF_TOKEN to a token that may read it"
                    .to_owned(),
            ),
            (StatusCode::FORBIDDEN, _) => denied(format!(
                "accept its conditions at {page}, and set HF_TOKEN to a token of that account that may read gated models"
            )),
            (StatusCode::RANGE_NOT_SATISFIABLE, _) => Failure::Range,
            (status, _) => {
                let words = if words.is_empty() { words } else { format!(": {words}") };
                let passing = status.is_server_error()
                    || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS);
                if passing {
                    Failure::Again { status: Some(status.as_u16()), reason: words }
                } else {
                    Failure::Never(Error::Server { name, endpoint, status: status.as_u16(), words })
                }
            }
        }
    }
}

async fn body(response: &mut Response, longest: usize) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if bytes.len() + chunk.len() <= longest => bytes.extend_from_slice(&chunk),
            Ok(Some(_)) => {
                let reason = "its answer is longer than any of a hub".to_owned();
                return Err(Failure::Again { status: None, reason });
            }
            Ok(None) => return Ok(bytes),
            Err(error) => return Err(Failure::Again { status: None, reason: chain(&error) }),
        }
    }
}

/// The words of an error: `{"error": …}`, or short text.
fn said(bytes: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Said {
        error: String,
    }
    serde_json::from_slice::<Said>(bytes).map_or_else(|_| String::new(), |said| said.error)
}

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

/// An `ETag` without quotes, as a name of a file.
fn plain(etag: &str) -> String {
    let etag = etag.trim().trim_start_matches("W/").trim_matches('"');
    let good = |character: char| character.is_ascii_alphanumeric() || matches!(character, '-' | '_');
    etag.chars().filter(|character| good(*character)).collect()
}

fn same_place(left: &Url, right: &Url) -> bool {
    left.scheme() == right.scheme()
        && left.host() == right.host()
        && left.port_or_known_default() == right.port_or_known_default()
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => IpAddr::from(address).is_loopback(),
        Some(Host::Ipv6(address)) => IpAddr::from(address).is_loopback(),
        None => false,
    }
}

/// An error with all that led to it, without addresses: signed ones must not get into logs.
pub(crate) fn chain(error: &reqwest::Error) -> String {
    let mut text = String::new();
    let mut next: Option<&dyn std::error::Error> = std::error::Error::source(error);
    while let Some(cause) = next {
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    if text.is_empty() {
        if error.is_timeout() { "no answer in time".to_owned() } else { "the connection broke".to_owned() }
    } else {
        text
    }
}
