//! Settings of live signals: section `[signals]`.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use uptake_ingest::signals::{SignalKey, SignalsOptions, StoreLimits};

use super::ingest::size;
use crate::context::Usage;

/// Section `[signals]`: what `uptake consume --tag` does.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct SignalsSettings {
    /// Topic that signals are published to.
    pub(crate) topic: String,
    /// Key of its records: `conversation` (its id), or `signal` (the signal's id, for a compacted topic).
    pub(crate) key: String,
    /// Bytes of recent turns that are kept as context.
    #[serde(with = "size")]
    pub(crate) store_bytes: u64,
    /// Conversations that are kept as context.
    pub(crate) store_conversations: usize,
    /// Bytes of stored events that may wait in memory to be tagged; beyond that they are read back from the tables.
    #[serde(with = "size")]
    pub(crate) queue_bytes: u64,
    /// A flush is due when the oldest record has waited for so long: signals follow the commit. `ingest.flush_age` counts
    /// where it is shorter.
    #[serde(with = "humantime_serde")]
    pub(crate) flush_age: Duration,
}

impl Default for SignalsSettings {
    fn default() -> Self {
        let SignalsOptions { topic, store, queue_bytes, flush_age, .. } = SignalsOptions::default();
        Self {
            topic,
            key: "conversation".to_owned(),
            store_bytes: store.bytes,
            store_conversations: store.conversations,
            queue_bytes,
            flush_age,
        }
    }
}

impl SignalsSettings {
    /// The options of live signals, from these settings.
    ///
    /// # Errors
    /// [`Usage`] that names the setting.
    pub(crate) fn options(&self) -> Result<SignalsOptions, Usage> {
        let key = match self.key.as_str() {
            "conversation" => SignalKey::Conversation,
            "signal" => SignalKey::Signal,
            other => return Err(Usage(format!("signals.key: use conversation or signal, not `{other}`"))),
        };
        Ok(SignalsOptions {
            topic: self.topic.clone(),
            key,
            store: StoreLimits { bytes: self.store_bytes, conversations: self.store_conversations },
            queue_bytes: self.queue_bytes,
            flush_age: self.flush_age,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_those_of_the_library() {
        assert_eq!(SignalsSettings::default().options().unwrap(), SignalsOptions::default());
    }

    #[test]
    fn words_are_read_and_what_cannot_be_is_explained() {
        let read: SignalsSettings =
            toml::from_str("topic = \"chat.signals\"\nkey = \"signal\"\nstore_bytes = \"8MiB\"\nflush_age = \"500ms\"")
                .unwrap();
        let options = read.options().unwrap();
        assert_eq!((options.key, options.store.bytes), (SignalKey::Signal, 8 << 20));
        assert_eq!(options.flush_age, Duration::from_millis(500));
        assert!(toml::from_str::<SignalsSettings>("topics = \"x\"").unwrap_err().to_string().contains("unknown field"));
        let wrong = SignalsSettings { key: "user".to_owned(), ..SignalsSettings::default() };
        assert!(wrong.options().unwrap_err().to_string().contains("signals.key"));
    }
}
