//! Where the hub and the cache are, by the environment variables that everybody knows.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use crate::error::{Error, Result};

/// The hub where none is named.
const ENDPOINT: &str = "https://huggingface.co";

/// A token that is sent to the hub and shown nowhere.
#[derive(Clone)]
pub struct Token(pub(crate) String);

impl Token {
    /// A token; nothing where the text is empty. White space around it, which files end in, is taken off.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        (!text.is_empty()).then(|| Self(text.to_owned()))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Token(…)")
    }
}

/// Where models come from and where they are kept.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Address of the hub.
    pub endpoint: Url,
    /// Directory of all models.
    pub cache: PathBuf,
    /// For repositories that not everybody may read.
    pub token: Option<Token>,
    /// Whether nothing may be asked.
    pub offline: bool,
    /// How often a file is asked for again after a passing failure.
    pub retries: u32,
    /// The first wait before that, doubled with each further one.
    pub pause: Duration,
}

impl Settings {
    /// Reads the environment as `huggingface_hub` does: `HF_ENDPOINT`; `HF_HUB_CACHE`, `HUGGINGFACE_HUB_CACHE`, or `hub` below
    /// `HF_HOME`, which is `huggingface` below `XDG_CACHE_HOME` or `~/.cache`; `HF_TOKEN`, or the file `token` below
    /// `HF_HOME`; `HF_HUB_OFFLINE`.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the address is none, or no place for the cache is known.
    pub fn from_environment() -> Result<Self> {
        Self::of(|name| std::env::var(name).ok())
    }

    pub(crate) fn of(variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let variable = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned());
        let endpoint = Url::parse(endpoint.trim_end_matches('/'))
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .ok_or_else(|| Error::Invalid(format!("HF_ENDPOINT is `{endpoint}`, which is no http or https address")))?;
        let home = variable("HF_HOME").map(PathBuf::from).or_else(|| {
            let cache = variable("XDG_CACHE_HOME").map(PathBuf::from);
            Some(cache.or_else(|| Some(PathBuf::from(variable("HOME")?).join(".cache")))?.join("huggingface"))
        });
        let named = variable("HF_HUB_CACHE").or_else(|| variable("HUGGINGFACE_HUB_CACHE")).map(PathBuf::from);
        let cache = named.or_else(|| Some(home.as_ref()?.join("hub")));
        let cache = cache.ok_or_else(|| Error::Invalid("no place for models from the hub: set HF_HOME".to_owned()))?;
        let token = variable("HF_TOKEN").or_else(|| std::fs::read_to_string(home?.join("token")).ok());
        let yes = |value: String| matches!(value.to_ascii_uppercase().as_str(), "1" | "TRUE" | "YES" | "ON");
        Ok(Self {
            endpoint,
            cache,
            token: token.as_deref().and_then(Token::new),
            offline: variable("HF_HUB_OFFLINE").is_some_and(yes),
            retries: 5,
            pause: Duration::from_secs(1),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Result<Settings> {
        Settings::of(|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn the_environment_says_where() {
        let plain = of(&[("HOME", "/h")]).unwrap();
        assert_eq!(plain.endpoint.as_str(), "https://huggingface.co/");
        assert_eq!(plain.cache, PathBuf::from("/h/.cache/huggingface/hub"));
        assert!(plain.token.is_none() && !plain.offline);
        let cache = |pairs: &[(&str, &str)]| of(pairs).unwrap().cache;
        assert_eq!(cache(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]), PathBuf::from("/x/huggingface/hub"));
        assert_eq!(cache(&[("HOME", "/h"), ("HF_HOME", "/f")]), PathBuf::from("/f/hub"));
        assert_eq!(cache(&[("HF_HOME", "/f"), ("HUGGINGFACE_HUB_CACHE", "/c")]), PathBuf::from("/c"));
        let all = of(&[
            ("HOME", "/h"),
            ("HF_ENDPOINT", "http://mirror:80/hf/"),
            ("HF_TOKEN", " hf_x\n"),
            ("HF_HUB_OFFLINE", "1"),
        ]);
        let all = all.unwrap();
        assert_eq!(all.endpoint.as_str(), "http://mirror/hf");
        assert!(all.offline && all.token.as_ref().is_some_and(|token| token.0 == "hf_x"));
        assert!(!format!("{all:?}").contains("hf_x"), "a token is shown nowhere");
        assert!(of(&[("HOME", "/h"), ("HF_ENDPOINT", "ftp://x")]).unwrap_err().to_string().contains("HF_ENDPOINT"));
        assert!(of(&[]).unwrap_err().to_string().contains("HF_HOME"));
    }

    #[test]
    fn the_token_may_lie_in_a_file() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("token"), "hf_file\n").unwrap();
        let found = of(&[("HF_HOME", home.path().to_str().unwrap())]).unwrap();
        assert_eq!(found.token.unwrap().0, "hf_file");
    }
}
