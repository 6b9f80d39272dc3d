//! The few of librdkafka's statistics that say how far behind the reader is and whether a broker answers.

use std::collections::HashMap;

use serde::Deserialize;
use uptake_model::{Next, SourcePartition};

/// What the statistics say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Statistics {
    /// Whether a broker answers.
    pub(crate) reachable: bool,
    /// Whether brokers refuse this client: what the statistics do not say, librdkafka's errors do.
    pub(crate) refused: bool,
    /// The end of each partition that is being read: behind the last record that may be read.
    pub(crate) ends: Vec<(SourcePartition, Next)>,
}

#[derive(Deserialize)]
struct Wire {
    #[serde(default)]
    brokers: HashMap<String, Broker>,
    #[serde(default)]
    topics: HashMap<String, Topic>,
}

#[derive(Deserialize)]
struct Broker {
    #[serde(default)]
    nodeid: i64,
    #[serde(default)]
    state: String,
}

#[derive(Deserialize)]
struct Topic {
    #[serde(default)]
    partitions: HashMap<String, Partition>,
}

#[derive(Deserialize)]
struct Partition {
    #[serde(default)]
    fetch_state: String,
    #[serde(default = "unknown")]
    hi_offset: i64,
    #[serde(default = "unknown")]
    ls_offset: i64,
}

fn unknown() -> i64 {
    -1
}

impl Statistics {
    /// Reads librdkafka's JSON.
    pub(crate) fn read(json: &[u8]) -> Result<Self, serde_json::Error> {
        let wire: Wire = serde_json::from_slice(json)?;
        // Bootstrap entries are logical until their id is known; an id of -1 that is up answers all the same.
        let reachable =
            wire.brokers.values().any(|broker| broker.nodeid >= -1 && matches!(broker.state.as_str(), "UP" | "UPDATE"));
        let mut ends = Vec::new();
        for (topic, read) in &wire.topics {
            for (number, partition) in &read.partitions {
                let Ok(number) = number.parse::<i32>() else { continue };
                // The last stable offset is where read_committed ends; brokers without transactions leave it out.
                let end = if partition.ls_offset >= 0 { partition.ls_offset } else { partition.hi_offset };
                if number >= 0 && end >= 0 && partition.fetch_state == "active" {
                    ends.push((SourcePartition::new(topic.clone(), number), Next(end)));
                }
            }
        }
        ends.sort();
        Ok(Self { reachable, refused: false, ends })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_and_reachability_are_read() {
        let json = br#"{"brokers":{"a":{"nodeid":1,"state":"DOWN"},"b":{"nodeid":2,"state":"UP"}},"topics":{"chat":{"partitions":{
            "0":{"fetch_state":"active","hi_offset":9,"ls_offset":7},"1":{"fetch_state":"active","hi_offset":5,"ls_offset":-1001},
            "2":{"fetch_state":"none","hi_offset":5,"ls_offset":5},"-1":{"fetch_state":"active","hi_offset":5}}}},"more":1}"#;
        let read = Statistics::read(json).unwrap();
        assert!(read.reachable);
        let ends: Vec<_> = read.ends.iter().map(|(source, end)| (source.to_string(), end.0)).collect();
        assert_eq!(ends, [("chat/0".to_owned(), 7), ("chat/1".to_owned(), 5)]);
        assert!(!Statistics::read(br#"{"brokers":{"a":{"nodeid":1,"state":"DOWN"}}}"#).unwrap().reachable);
        assert!(Statistics::read(b"{").is_err());
    }
}
