//! Settings of `uptake consume`: sections `[ingest]` and `[kafka]`.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use uptake_ingest::options::{ConsumeOptions, Limits, StartAt};
use uptake_model::contract::Contract;
use uptake_model::decode::Edge;
use uptake_model::{Pepper, time};

use crate::context::Usage;

/// Section `[ingest]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct IngestSettings {
    /// Topics and their contracts: a table `"topic" = "contract"`, or a text `contract=topic,contract=topic`.
    #[serde(deserialize_with = "topics")]
    pub(crate) topics: BTreeMap<String, Contract>,
    /// Consumer group.
    pub(crate) group: String,
    /// Name under which positions are kept in the tables.
    pub(crate) pipeline: String,
    /// Where a partition without a stored position begins: `earliest`, `latest` or an RFC 3339 time.
    pub(crate) start: String,
    /// Go on behind records that retention deleted before they were read, instead of refusing.
    pub(crate) skip_lost_records: bool,
    /// Memory of the process for records: rows, the copy a flush makes of them, and the Kafka client's queues.
    #[serde(with = "size")]
    pub(crate) memory: u64,
    /// A flush is due at this many bytes of rows.
    #[serde(with = "size")]
    pub(crate) flush_bytes: u64,
    /// A flush is due at this many rows.
    pub(crate) flush_rows: u64,
    /// A flush is due when the oldest record has waited for so long.
    #[serde(with = "humantime_serde")]
    pub(crate) flush_age: Duration,
    /// How long a shutdown or a revoke may take to write what is held.
    #[serde(with = "humantime_serde")]
    pub(crate) drain_deadline: Duration,
    /// Larger payloads become dead letters.
    #[serde(with = "size")]
    pub(crate) max_record_bytes: u64,
    /// Events may come this late without being behind the watermark.
    #[serde(with = "humantime_serde")]
    pub(crate) allowed_disorder: Duration,
    /// A partition that is silent for this long does not hold the watermark back.
    #[serde(with = "humantime_serde")]
    pub(crate) idle_after: Duration,
    /// Stop when more than this share of a topic's last records is bad; 1 switches it off.
    pub(crate) max_bad_share: f64,
    /// How many records that share is taken over.
    pub(crate) bad_window: usize,
    /// How many event ids of a partition are remembered to find copies; 0 switches it off.
    pub(crate) id_window: usize,
}

impl Default for IngestSettings {
    fn default() -> Self {
        Self {
            topics: BTreeMap::new(),
            group: "uptake".to_owned(),
            pipeline: "consume".to_owned(),
            start: "earliest".to_owned(),
            skip_lost_records: false,
            memory: 256 << 20,
            flush_bytes: 64 << 20,
            flush_rows: 200_000,
            flush_age: Duration::from_mins(1),
            drain_deadline: Duration::from_secs(20),
            max_record_bytes: 5 << 20,
            allowed_disorder: Duration::from_mins(10),
            idle_after: Duration::from_mins(5),
            max_bad_share: 0.5,
            bad_window: 1_000,
            id_window: 20_000,
        }
    }
}

/// Section `[kafka]`: librdkafka properties as they are, for example `"security.protocol" = "SASL_SSL"`.
#[derive(Clone, Default, Deserialize)]
#[serde(transparent)]
pub(crate) struct KafkaSettings(#[serde(deserialize_with = "properties")] pub(crate) BTreeMap<String, String>);

impl KafkaSettings {
    /// The properties as people may see them: whoever prints the settings must not print secrets.
    fn shown(&self) -> impl Iterator<Item = (&String, &str)> {
        let hidden = |key: &str| ["password", "secret", "token", "pem"].iter().any(|word| key.contains(word));
        self.0.iter().map(move |(key, value)| (key, if hidden(key) { "…" } else { value.as_str() }))
    }
}

impl Serialize for KafkaSettings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.shown())
    }
}

impl fmt::Debug for KafkaSettings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_map().entries(self.shown()).finish()
    }
}

impl IngestSettings {
    /// The options of a consumer, from these settings.
    ///
    /// # Errors
    /// [`Usage`] that names the setting.
    pub(crate) fn options(&self, kafka: &KafkaSettings, pepper: Pepper) -> Result<ConsumeOptions, Usage> {
        let edge = Edge {
            pepper,
            max_record_bytes: usize::try_from(self.max_record_bytes).unwrap_or(usize::MAX),
            pipeline_version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let mut options = ConsumeOptions::new("", self.topics.clone(), edge);
        options.kafka.clone_from(&kafka.0);
        options.group.clone_from(&self.group);
        options.pipeline.clone_from(&self.pipeline);
        options.start = start_at(&self.start)?;
        options.skip_lost_records = self.skip_lost_records;
        options.memory = self.memory;
        options.flush = Limits { bytes: self.flush_bytes, rows: self.flush_rows, age: self.flush_age };
        options.drain_deadline = self.drain_deadline;
        options.allowed_disorder = self.allowed_disorder;
        options.idle_after = self.idle_after;
        options.max_bad_share = self.max_bad_share;
        options.bad_window = self.bad_window;
        options.id_window = self.id_window;
        Ok(options)
    }
}

fn start_at(text: &str) -> Result<StartAt, Usage> {
    match text {
        "earliest" => Ok(StartAt::Earliest),
        "latest" => Ok(StartAt::Latest),
        time => time::parse(&serde_json::Value::String(time.to_owned()))
            .map(StartAt::Time)
            .map_err(|error| Usage(format!("ingest.start: use earliest, latest or a time; {error}"))),
    }
}

/// Reads `CONTRACT=TOPIC`.
///
/// # Errors
/// A sentence that says what was expected.
pub(crate) fn topic(text: &str) -> Result<(String, Contract), String> {
    let (contract, topic) = text
        .split_once('=')
        .filter(|(_, topic)| !topic.is_empty())
        .ok_or_else(|| format!("`{text}` is not CONTRACT=TOPIC, for example messages=chat.messages"))?;
    Ok((topic.trim().to_owned(), contract.trim().parse()?))
}

fn topics<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, Contract>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        Table(BTreeMap<String, String>),
        Text(String),
    }
    match Form::deserialize(deserializer)? {
        Form::Table(table) => table
            .into_iter()
            .map(|(topic, contract)| Ok((topic, contract.parse().map_err(de::Error::custom)?)))
            .collect(),
        Form::Text(text) => text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(|part| topic(part).map_err(de::Error::custom))
            .collect(),
    }
}

fn properties<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    let table = BTreeMap::<String, toml::Value>::deserialize(deserializer)?;
    let mut properties = BTreeMap::new();
    for (key, value) in table {
        flatten(key, value, &mut properties).map_err(de::Error::custom)?;
    }
    Ok(properties)
}

/// Keys with dots that were not quoted come as nested tables; both spellings mean the same property.
fn flatten(key: String, value: toml::Value, into: &mut BTreeMap<String, String>) -> Result<(), String> {
    let text = match value {
        toml::Value::String(text) => text,
        toml::Value::Integer(number) => number.to_string(),
        toml::Value::Float(number) => number.to_string(),
        toml::Value::Boolean(flag) => flag.to_string(),
        toml::Value::Table(table) => {
            return table.into_iter().try_for_each(|(inner, value)| flatten(format!("{key}.{inner}"), value, into));
        }
        toml::Value::Array(_) | toml::Value::Datetime(_) => {
            return Err(format!("[kafka] `{key}` must be a text, a number or true/false"));
        }
    };
    into.insert(key, text);
    Ok(())
}

/// Sizes in words: `"64MiB"`, `"500KB"`, or a number of bytes.
pub(super) mod size {
    use serde::{Deserialize, Deserializer, Serializer, de};

    const UNITS: [(&str, u64); 7] = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("KB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("B", 1),
    ];

    pub(super) fn parse(text: &str) -> Result<u64, String> {
        let text = text.trim();
        let (number, scale) =
            UNITS.iter().find_map(|(unit, scale)| Some((text.strip_suffix(unit)?, *scale))).unwrap_or((text, 1));
        number
            .trim()
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(scale))
            .ok_or_else(|| format!("`{text}` is no size; write for example \"64MiB\", \"500KB\" or a number of bytes"))
    }

    pub(in crate::settings) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Bytes(u64),
            Text(String),
        }
        match Form::deserialize(deserializer)? {
            Form::Bytes(bytes) => Ok(bytes),
            Form::Text(text) => parse(&text).map_err(de::Error::custom),
        }
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
    pub(in crate::settings) fn serialize<S: Serializer>(bytes: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        let exact = UNITS.iter().take(3).rev().find(|(_, scale)| *bytes >= *scale && bytes.is_multiple_of(*scale));
        match exact {
            Some((unit, scale)) => serializer.serialize_str(&format!("{}{unit}", bytes / scale)),
            None => serializer.serialize_u64(*bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, Serialize, Deserialize)]
    #[serde(default)]
    struct Both {
        ingest: IngestSettings,
        kafka: KafkaSettings,
    }

    #[test]
    fn words_are_read_and_written_back() {
        let read: Both = toml::from_str(
            r#"
            [ingest]
            memory = "1GiB"
            flush_age = "5s"
            topics = { "chat.messages" = "messages" }
            [kafka]
            "bootstrap.servers" = "a:9092"
            security.protocol = "SASL_SSL"
            "sasl.password" = "very secret"
            "socket.keepalive.enable" = true
            "#,
        )
        .unwrap();
        assert_eq!(read.ingest.memory, 1 << 30);
        assert_eq!(read.ingest.flush_age, Duration::from_secs(5));
        assert_eq!(read.ingest.topics.get("chat.messages"), Some(&Contract::Messages));
        assert_eq!(read.kafka.0.get("security.protocol").map(String::as_str), Some("SASL_SSL"));
        assert_eq!(read.kafka.0.get("socket.keepalive.enable").map(String::as_str), Some("true"));
        let written = toml::to_string(&read).unwrap();
        assert!(written.contains("1GiB") && !written.contains("very secret"), "{written}");
    }

    #[test]
    fn the_defaults_are_those_of_the_consumer_and_fit_together() {
        let mut settings = IngestSettings::default();
        settings.topics.insert("chat".to_owned(), Contract::Messages);
        let kafka = KafkaSettings(BTreeMap::from([("bootstrap.servers".to_owned(), "a:9092".to_owned())]));
        let options = settings.options(&kafka, Pepper::new("0123456789abcdef").unwrap()).unwrap();
        options.check().unwrap();
        let built_in = ConsumeOptions::new("a:9092", settings.topics.clone(), options.edge.clone());
        assert_eq!(format!("{options:?}"), format!("{built_in:?}"));
    }

    #[test]
    fn what_cannot_be_read_is_explained() {
        let refuse = |text: &str, expect: &str| {
            let error = toml::from_str::<Both>(text).unwrap_err().to_string();
            assert!(error.contains(expect), "{error}");
        };
        refuse("[ingest]\nmemory = \"many\"", "64MiB");
        refuse("[ingest]\ntopics = \"chat\"", "CONTRACT=TOPIC");
        refuse("[ingest]\ntopics = { chat = \"gossip\" }", "is no contract");
        refuse("[ingest]\nflush_bites = 1", "unknown field");
        refuse("[kafka]\nbrokers = [1]", "must be a text");
        assert!(start_at("yesterday").unwrap_err().to_string().contains("earliest"));
        assert_eq!(start_at("2026-01-01T00:00:00Z").unwrap(), StartAt::Time(1_767_225_600_000_000));
    }
}
