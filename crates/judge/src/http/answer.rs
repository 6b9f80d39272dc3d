//! What a server answers: a completion, an error, and when to come back.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};
use serde::Deserialize;
use serde_json::Value;

use crate::endpoint::{Completion, Finish, Retry, Usage};

/// Longest piece of a server's own words that is kept.
const LONGEST_MESSAGE: usize = 300;

#[derive(Deserialize)]
struct Envelope {
    choices: Vec<Choice>,
    #[serde(default)]
    usage: Option<Counted>,
}

#[derive(Deserialize)]
struct Choice {
    message: Said,
    #[serde(default)]
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Said {
    #[serde(default)]
    content: Option<String>,
    #[serde(default)]
    refusal: Option<String>,
}

#[derive(Deserialize)]
struct Counted {
    #[serde(default)]
    prompt_tokens: u64,
    #[serde(default)]
    completion_tokens: u64,
}

/// Reads the body of a 200.
pub(super) fn completion(body: &[u8]) -> Result<Completion, Retry> {
    let envelope: Envelope = serde_json::from_slice(body)
        // A proxy that gives up in the middle may still end the body in order.
        .map_err(|error| if error.is_eof() { Retry::Truncated } else { Retry::Malformed })?;
    let choice = envelope.choices.into_iter().next().ok_or(Retry::Malformed)?;
    let refused = choice.message.refusal.filter(|refusal| !refusal.is_empty());
    let finish = match choice.finish_reason.as_deref() {
        _ if refused.is_some() => Finish::Refusal,
        Some("content_filter") => Finish::Refusal,
        Some("length") => Finish::Length,
        _ => Finish::Stop,
    };
    let text = refused.or(choice.message.content).unwrap_or_default();
    // Zero tokens read is no count of a request that had some.
    let counted = envelope.usage.filter(|usage| usage.prompt_tokens > 0);
    let usage = counted.map(|usage| Usage { input: usage.prompt_tokens, output: usage.completion_tokens });
    Ok(Completion { text, finish, usage })
}

/// What a server says when it does not answer.
#[derive(Debug)]
pub(super) struct ServerError {
    pub(super) status: u16,
    /// Its own words, cut short.
    pub(super) message: String,
    /// `type`, `code` and `param` of its error.
    tags: String,
}

impl ServerError {
    /// Reads the body of any other status: `OpenAI`'s error object, another JSON, or text.
    pub(super) fn read(status: u16, body: &[u8]) -> Self {
        let value: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
        let error = match value.get("error") {
            Some(error @ Value::Object(_)) => error,
            _ => &value,
        };
        let text = |field: &str| error.get(field).and_then(Value::as_str).unwrap_or_default();
        let message = [text("message"), text("detail"), value.get("error").and_then(Value::as_str).unwrap_or_default()]
            .into_iter()
            .find(|message| !message.is_empty())
            .map_or_else(|| String::from_utf8_lossy(body).into_owned(), str::to_owned);
        let message: String = message.split_whitespace().collect::<Vec<_>>().join(" ");
        let tags = ["type", "code", "param"].map(text).join(" ").trim().to_owned();
        Self { status, message: message.chars().take(LONGEST_MESSAGE).collect(), tags }
    }

    /// Whether the request was longer than the model can read.
    pub(super) fn is_too_long(&self) -> bool {
        ["context_length", "context length", "context size", "maximum context"].iter().any(|word| self.is_about(word))
    }

    /// Whether a filter refused what the request says.
    pub(super) fn is_filtered(&self) -> bool {
        self.is_about("content_filter") || self.is_about("content_policy")
    }

    /// Whether it speaks of something.
    pub(super) fn is_about(&self, word: &str) -> bool {
        let word = word.to_lowercase();
        self.tags.to_lowercase().contains(&word) || self.message.to_lowercase().contains(&word)
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "status {}", self.status)?;
        if !self.message.is_empty() {
            write!(formatter, ", it says: {}", self.message)?;
        }
        Ok(())
    }
}

/// How long a server wants to be left alone: `retry-after-ms`, or `Retry-After` in seconds or as a date.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |value: &reqwest::header::HeaderValue| value.to_str().ok().map(|text| text.trim().to_owned());
    if let Some(milliseconds) = headers.get("retry-after-ms").and_then(text).and_then(|text| seconds(&text, 1e-3)) {
        return Some(milliseconds);
    }
    let asked = headers.get(RETRY_AFTER).and_then(text)?;
    if let Some(seconds) = seconds(&asked, 1.0) {
        return Some(seconds);
    }
    let until = DateTime::parse_from_rfc2822(&asked).ok()?;
    // By the server's clock where it tells the time: ours may be wrong.
    let now = headers.get(DATE).and_then(text).and_then(|text| DateTime::parse_from_rfc2822(&text).ok());
    let now = now.map_or_else(Utc::now, |now| now.with_timezone(&Utc));
    Some(until.with_timezone(&Utc).signed_duration_since(now).to_std().unwrap_or(Duration::ZERO))
}

fn seconds(text: &str, unit: f64) -> Option<Duration> {
    let number: f64 = text.parse().ok()?;
    Duration::try_from_secs_f64(number * unit).ok()
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    #[test]
    fn a_completion_is_read() {
        let body = r#"{"id":"x","choices":[{"index":0,"message":{"role":"assistant","content":"{}"},"finish_reason":"stop"}],
            "usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7}}"#;
        let expected =
            Completion { text: "{}".to_owned(), finish: Finish::Stop, usage: Some(Usage { input: 5, output: 2 }) };
        assert_eq!(completion(body.as_bytes()), Ok(expected));
        let cut = |body: &str, reason| assert_eq!(completion(body.as_bytes()), Err(reason), "{body}");
        cut(&body[..60], Retry::Truncated);
        cut("", Retry::Truncated);
        cut("<html>bad gateway</html>", Retry::Malformed);
        cut(r#"{"error":{"message":"overloaded"}}"#, Retry::Malformed);
        cut(r#"{"choices":[]}"#, Retry::Malformed);
    }

    #[test]
    fn refusals_and_cuts_are_seen() {
        let of = |message: &str, reason: &str| {
            let body = format!(r#"{{"choices":[{{"message":{message},"finish_reason":{reason}}}]}}"#);
            let completion = completion(body.as_bytes()).unwrap();
            assert_eq!(completion.usage, None);
            (completion.finish, completion.text)
        };
        assert_eq!(of(r#"{"content":null,"refusal":"I cannot"}"#, "\"stop\"").0, Finish::Refusal);
        assert_eq!(of(r#"{"content":"","refusal":""}"#, "\"content_filter\"").0, Finish::Refusal);
        assert_eq!(of(r#"{"content":"{\"la"}"#, "\"length\""), (Finish::Length, "{\"la".to_owned()));
        assert_eq!(of(r#"{"content":"{}"}"#, "null").0, Finish::Stop);
    }

    #[test]
    fn errors_are_read_in_any_form() {
        let shown = |body: &str| ServerError::read(404, body.as_bytes()).to_string();
        assert_eq!(shown(r#"{"error":{"message":"no model"}}"#), "status 404, it says: no model");
        assert_eq!(shown(r#"{"error":"no model"}"#), "status 404, it says: no model");
        assert_eq!(shown(r#"{"detail":"no model"}"#), "status 404, it says: no model");
        assert_eq!(shown("no\n model"), "status 404, it says: no model");
        assert_eq!(shown(""), "status 404");
        assert!(shown(&"long ".repeat(1_000)).len() < 400);
        assert!(
            ServerError::read(400, br#"{"error":{"code":"Unsupported_Value","param":"temperature"}}"#)
                .is_about("temperature")
        );
    }

    #[test]
    fn the_time_to_come_back_is_read() {
        let of = |pairs: &[(&'static str, &'static str)]| {
            let headers = pairs
                .iter()
                .map(|(name, value)| (reqwest::header::HeaderName::from_static(name), HeaderValue::from_static(value)));
            retry_after(&headers.collect())
        };
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[("retry-after", "20")]), Some(Duration::from_secs(20)));
        assert_eq!(of(&[("retry-after", "0.5")]), Some(Duration::from_millis(500)));
        assert_eq!(of(&[("retry-after", "20"), ("retry-after-ms", "150")]), Some(Duration::from_millis(150)));
        let date = ("date", "Fri, 31 Dec 1999 23:59:00 GMT");
        assert_eq!(of(&[date, ("retry-after", "Fri, 31 Dec 1999 23:59:59 GMT")]), Some(Duration::from_secs(59)));
        assert_eq!(of(&[date, ("retry-after", "Fri, 31 Dec 1999 23:58:00 GMT")]), Some(Duration::ZERO));
        assert_eq!(of(&[("retry-after", "soon")]), None);
        assert_eq!(of(&[("retry-after", "-3")]), None);
        assert_eq!(of(&[("retry-after", "1e300")]), None);
    }
}
