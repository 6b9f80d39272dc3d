//! Any server that speaks OpenAI's chat completions over HTTP.
//!
//! A request is `POST {base}/v1/chat/completions` with a JSON schema that the answer must follow. Servers differ in what
//! they take; what one refuses is left out or said in other words ([`dialect`]), once for the whole run.

mod answer;
mod dialect;

use std::fmt;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use url::{Host, Url};

use crate::endpoint::{Completion, Endpoint, Failure, Request, Retry, Unanswerable};
use crate::error::{Error, Result};
use crate::http::answer::ServerError;
use crate::http::dialect::Dialect;

/// Longest answer that is read, in bytes. An answer of ours has a few thousand; more is another server than we mean.
const LONGEST_ANSWER: usize = 8 << 20;
/// How long to wait for a connection.
const CONNECT: Duration = Duration::from_secs(10);

/// A key that is sent to the endpoint and shown nowhere.
#[derive(Clone)]
pub struct ApiKey(String);

impl ApiKey {
    /// A key; white space around it, which files end in, is taken off.
    #[must_use]
    pub fn new(key: &str) -> Self {
        Self(key.trim().to_owned())
    }

    /// A text without the key, should a server repeat it.
    fn cut_out_of(&self, text: &str) -> String {
        if self.0.is_empty() { text.to_owned() } else { text.replace(&self.0, "…") }
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ApiKey(…)")
    }
}

/// Where the model is, and how to get in.
#[derive(Clone, Debug)]
pub struct Access {
    /// Address of the server, `https://host`, `https://host/v1` or the whole address of the chat completions.
    pub base: String,
    /// The model's name at this server.
    pub model: String,
    /// The key, for servers that want one.
    pub key: Option<ApiKey>,
    /// Longest time for one answer.
    pub timeout: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Spoken {
    dialect: Dialect,
    /// Whether the server has answered in it.
    proven: bool,
}

/// A server that speaks OpenAI's chat completions.
#[derive(Debug)]
pub struct HttpEndpoint {
    client: reqwest::Client,
    address: Url,
    model: String,
    key: Option<ApiKey>,
    spoken: Mutex<Spoken>,
}

impl HttpEndpoint {
    /// A client for a server. Nothing is sent yet.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an address or a key that cannot be used.
    pub fn new(access: Access) -> Result<Self> {
        let address = address(&access.base)?;
        let local = is_loopback(&address);
        if access.key.is_some() && address.scheme() == "http" && !local {
            tracing::warn!(host = address.host_str(), "the API key goes over this network in clear text: use https");
        }
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(key) = &access.key {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", key.0))
                .map_err(|_| Error::Invalid("the API key has characters that no HTTP header can carry".to_owned()))?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let mut client = reqwest::Client::builder()
            .default_headers(headers)
            .user_agent(concat!("uptake/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT.min(access.timeout))
            .timeout(access.timeout)
            // A redirected POST becomes a GET, and the key would go to a host that nobody named.
            .redirect(reqwest::redirect::Policy::none());
        if local {
            client = client.no_proxy();
            if address.scheme() == "http" {
                // Without need of the system's certificates: small images have none, and reqwest refuses to start there.
                client = client.tls_certs_only(std::iter::empty());
            }
        }
        let client =
            client.build().map_err(|error| Error::Invalid(format!("make an HTTP client: {}", chain(&error))))?;
        let spoken = Mutex::new(Spoken { dialect: Dialect::default(), proven: false });
        Ok(Self { client, address, model: access.model, key: access.key, spoken })
    }

    fn spoken(&self) -> MutexGuard<'_, Spoken> {
        self.spoken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks in one dialect.
    async fn ask(&self, request: &Request, dialect: Dialect) -> Result<Completion, Refusal> {
        let body = dialect.body(&self.model, request).to_string();
        let sent = self.client.post(self.address.clone()).body(body).send().await;
        let mut response = sent.map_err(|error| Refusal::again(of_transport(&error), None))?;
        let status = response.status().as_u16();
        let wait = answer::retry_after(response.headers());
        let mut bytes = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
                Ok(None) => break,
                Err(error) => return Err(Refusal::again(of_transport(&error), None)),
            }
            if bytes.len() > LONGEST_ANSWER {
                return Err(Refusal::again(Retry::Malformed, None));
            }
        }
        if status == 200 {
            return answer::completion(&bytes).map_err(|reason| Refusal::again(reason, wait));
        }
        let mut error = ServerError::read(status, &bytes);
        if let Some(key) = &self.key {
            error.message = key.cut_out_of(&error.message);
        }
        Err(Refusal::Server { error, wait })
    }
}

/// No answer, before it is decided what that means.
enum Refusal {
    Again { reason: Retry, wait: Option<Duration> },
    Server { error: ServerError, wait: Option<Duration> },
}

impl Refusal {
    const fn again(reason: Retry, wait: Option<Duration>) -> Self {
        Self::Again { reason, wait }
    }
}

#[async_trait::async_trait]
impl Endpoint for HttpEndpoint {
    fn model(&self) -> &str {
        &self.model
    }

    async fn complete(&self, request: &Request) -> Result<Completion, Failure> {
        loop {
            let Spoken { dialect, .. } = *self.spoken();
            let (error, wait) = match self.ask(request, dialect).await {
                Ok(completion) => {
                    let mut spoken = self.spoken();
                    if !spoken.proven {
                        *spoken = Spoken { dialect, proven: true };
                    }
                    return Ok(completion);
                }
                Err(Refusal::Again { reason, wait }) => return Err(Failure::Again { reason, wait }),
                Err(Refusal::Server { error, wait }) => (error, wait),
            };
            let mut spoken = self.spoken();
            if spoken.dialect != dialect {
                // Another request has found out in the meantime: try as that one does.
                continue;
            }
            match dialect.simpler(&error).filter(|_| !spoken.proven) {
                Some(simpler) => {
                    tracing::info!(status = error.status, from = %dialect, to = %simpler, "the endpoint does not take this form of request");
                    spoken.dialect = simpler;
                }
                None => return Err(failure(&error, wait, spoken.proven)),
            }
        }
    }
}

/// What an answer other than 200 means. Where requests of this form have been answered before, a bad request is one of
/// its own; the first of all would be followed by others.
fn failure(error: &ServerError, wait: Option<Duration>, proven: bool) -> Failure {
    let again = |reason| Failure::Again { reason, wait };
    match error.status {
        429 if error.is_about("insufficient_quota") => Failure::Refused(error.to_string()),
        429 => again(Retry::RateLimited),
        408 | 409 | 425 | 500..=599 => again(Retry::ServerError),
        413 => Failure::Never(Unanswerable::TooLong),
        400 | 422 if error.is_too_long() => Failure::Never(Unanswerable::TooLong),
        400 if error.is_filtered() => Failure::Never(Unanswerable::Filtered),
        300..=399 => Failure::Refused(format!("{error}; redirects are not followed, name the address itself")),
        401..=405 => Failure::Refused(error.to_string()),
        _ if proven => Failure::Never(Unanswerable::BadRequest),
        _ => Failure::Refused(error.to_string()),
    }
}

/// Without a connection nothing was asked; one that ends early may have carried the question.
fn of_transport(error: &reqwest::Error) -> Retry {
    if error.is_connect() {
        Retry::Connection
    } else if error.is_timeout() {
        Retry::Timeout
    } else {
        Retry::Truncated
    }
}

/// An error with its causes: reqwest's own sentence says little.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// The address of the chat completions of a server.
fn address(base: &str) -> Result<Url> {
    let invalid =
        |why: &str| Error::Invalid(format!("the endpoint must be an address like https://api.example.com/v1 ({why})"));
    let mut url = Url::parse(base).map_err(|error| invalid(&error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(invalid("it begins with neither http:// nor https://"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(invalid("it holds a name or a password: the key goes into the environment"));
    }
    let path = url.path().trim_end_matches('/').to_owned();
    let path = if path.ends_with("/chat/completions") {
        path
    } else if path.rsplit('/').next().is_some_and(is_version) {
        format!("{path}/chat/completions")
    } else {
        format!("{path}/v1/chat/completions")
    };
    url.set_path(&path);
    url.set_fragment(None);
    Ok(url)
}

/// `v1`, `v4`, `v1beta`: some servers have another version than the first.
fn is_version(segment: &str) -> bool {
    segment.strip_prefix('v').is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => IpAddr::from(address).is_loopback(),
        Some(Host::Ipv6(address)) => IpAddr::from(address).is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_completed() {
        for (base, expected) in [
            ("https://a.example", "https://a.example/v1/chat/completions"),
            ("https://a.example/", "https://a.example/v1/chat/completions"),
            ("https://a.example/v1/", "https://a.example/v1/chat/completions"),
            ("https://a.example/openai", "https://a.example/openai/v1/chat/completions"),
            ("https://a.example/api/paas/v4", "https://a.example/api/paas/v4/chat/completions"),
            ("http://[::1]:8080/v1/chat/completions", "http://[::1]:8080/v1/chat/completions"),
            ("https://a.example/v1?api-version=2", "https://a.example/v1/chat/completions?api-version=2"),
        ] {
            assert_eq!(address(base).unwrap().as_str(), expected);
        }
        for base in ["a.example", "ftp://a.example", "https://key:secret@a.example", "", "unix:/socket"] {
            let error = address(base).unwrap_err().to_string();
            assert!(error.contains("https://api.example.com") && !error.contains("secret"), "{error}");
        }
        assert!(is_loopback(&address("http://127.0.0.1:1").unwrap()) && is_loopback(&address("http://[::1]").unwrap()));
        assert!(!is_loopback(&address("http://10.0.0.1").unwrap()));
    }

    #[test]
    fn a_key_is_not_shown() {
        let access = Access {
            base: "http://127.0.0.1:9".to_owned(),
            model: "m".to_owned(),
            key: Some(ApiKey::new(" sk-hidden-word\n")),
            timeout: Duration::from_secs(1),
        };
        let endpoint = HttpEndpoint::new(access.clone()).unwrap();
        let shown = format!("{access:?} {endpoint:?}");
        assert!(!shown.contains("hidden-word"), "{shown}");
        let broken = Access { key: Some(ApiKey::new("hidden\nword")), ..access };
        let error = HttpEndpoint::new(broken).unwrap_err().to_string();
        assert!(error.contains("API key") && !error.contains("hidden"), "{error}");
    }

    #[test]
    fn statuses_mean_what_can_be_done() {
        let judge = |status, body: &str, proven| failure(&ServerError::read(status, body.as_bytes()), None, proven);
        let again = |reason| Failure::Again { reason, wait: None };
        assert_eq!(judge(429, "slow down", true), again(Retry::RateLimited));
        assert_eq!(judge(503, "", false), again(Retry::ServerError));
        assert_eq!(judge(413, "", false), Failure::Never(Unanswerable::TooLong));
        let long = r#"{"error":{"code":"context_length_exceeded","message":"too long"}}"#;
        assert_eq!(judge(400, long, false), Failure::Never(Unanswerable::TooLong));
        let filtered = r#"{"error":{"code":"content_filter","message":"policy"}}"#;
        assert_eq!(judge(400, filtered, false), Failure::Never(Unanswerable::Filtered));
        assert_eq!(judge(400, "{}", true), Failure::Never(Unanswerable::BadRequest));
        for (status, body, expected) in [
            (400, "{}", "status 400"),
            (401, r#"{"error":{"message":"bad key"}}"#, "bad key"),
            (404, r#"{"error":"no such model"}"#, "no such model"),
            (302, "", "redirects are not followed"),
            (429, r#"{"error":{"code":"insufficient_quota","message":"pay"}}"#, "pay"),
        ] {
            let Failure::Refused(reason) = judge(status, body, false) else { panic!("{status} is no refusal") };
            assert!(reason.contains(expected), "{reason}");
        }
    }
}
