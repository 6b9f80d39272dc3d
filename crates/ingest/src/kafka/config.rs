//! librdkafka's configuration: what exactly-once needs, what the memory allows, and what the operator passes through.

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};

use crate::error::{Error, Result};
use crate::options::ConsumeOptions;

/// Properties that uptake owns, and why nobody else may set them.
const OWNED: [(&str, &str); 6] = [
    ("group.id", "set ingest.group instead"),
    ("enable.auto.commit", "positions are kept in the table; the group is committed after each flush"),
    ("enable.auto.offset.store", "positions are kept in the table; the group is committed after each flush"),
    ("auto.offset.reset", "a silent jump would lose records; set ingest.start and ingest.skip_lost_records instead"),
    ("enable.partition.eof", "ends of partitions are found out by uptake itself"),
    ("statistics.interval.ms", "uptake reads lag from the statistics"),
];

/// The configuration of the group's consumer.
pub(super) fn consumer(options: &ConsumeOptions) -> Result<ClientConfig> {
    let mut config = common(options)?;
    let split = options.memory_split();
    for (key, value) in [
        ("group.id", options.group.clone()),
        ("enable.auto.commit", "false".to_owned()),
        ("enable.auto.offset.store", "false".to_owned()),
        ("auto.offset.reset", "error".to_owned()),
        ("enable.partition.eof", "false".to_owned()),
        ("statistics.interval.ms", "1000".to_owned()),
    ] {
        config.set(key, value);
    }
    let mut default = |key: &str, value: String| {
        if !options.kafka.contains_key(key) {
            config.set(key, value);
        }
    };
    default("queued.max.messages.kbytes", (split.queue / 1024).to_string());
    default("fetch.max.bytes", split.fetch.to_string());
    default("topic.metadata.refresh.interval.ms", "30000".to_owned());
    // Partitions that stay keep their buffers and windows. The protocol of KIP-848 assigns on the broker's side.
    if options.kafka.get("group.protocol").is_none_or(|protocol| protocol == "classic") {
        default("partition.assignment.strategy", "cooperative-sticky".to_owned());
    }
    Ok(config)
}

/// The configuration of a consumer outside the group that looks at one end of a partition.
pub(super) fn probe(options: &ConsumeOptions) -> Result<ClientConfig> {
    let mut config = common(options)?;
    for key in ["group.instance.id", "group.protocol", "group.remote.assignor", "partition.assignment.strategy"] {
        config.remove(key);
    }
    // The binding hands records to a consumer with a group only; without a subscription it never joins.
    config
        .set("group.id", &options.group)
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "error")
        .set("queued.max.messages.kbytes", "1024")
        .set("fetch.max.bytes", "1048576")
        .set("max.partition.fetch.bytes", "65536");
    Ok(config)
}

/// What a producer has no use for.
const OF_CONSUMERS: [&str; 8] =
    ["group.", "session.", "heartbeat.", "coordinator.", "max.poll.", "partition.assignment.", "queued.m", "fetch."];

/// What publishing each signal once rests on.
const OF_IDEMPOTENCE: [&str; 4] = ["enable.idempotence", "acks", "request.required.acks", "transactional.id"];

/// The configuration of the producer of signals: nothing is acknowledged before all replicas have it, and the client's
/// own repeats are recognised by the broker.
pub(super) fn producer(options: &ConsumeOptions) -> Result<ClientConfig> {
    let mut config = common(options)?;
    config.remove("isolation.level");
    for key in options.kafka.keys() {
        if OF_IDEMPOTENCE.contains(&key.as_str()) {
            return Err(Error::Invalid(format!(
                "[kafka] `{key}` cannot be set with --tag: signals are published by an idempotent producer that waits for all \
                 replicas"
            )));
        }
        if OF_CONSUMERS.iter().any(|prefix| key.starts_with(prefix)) || key == "max.partition.fetch.bytes" {
            config.remove(key);
        }
    }
    config.set("enable.idempotence", "true").set("acks", "all");
    for (key, also, value) in [
        // What goes together is handed over together; to wait for more would only delay it.
        ("linger.ms", "queue.buffering.max.ms", "1"),
        // Short, so that an outage is told; what failed is tried again for as long as it takes.
        ("delivery.timeout.ms", "message.timeout.ms", "30000"),
        // What Java clients do, so that a conversation's records meet whoever wrote them.
        ("partitioner", "partitioner", "murmur2_random"),
    ] {
        if !options.kafka.contains_key(key) && !options.kafka.contains_key(also) {
            config.set(key, value);
        }
    }
    Ok(config)
}

fn common(options: &ConsumeOptions) -> Result<ClientConfig> {
    let mut config = ClientConfig::new();
    config
        .set("client.id", format!("uptake-{}", options.pipeline))
        .set("isolation.level", "read_committed")
        .set_log_level(RDKafkaLogLevel::Warning);
    for (key, value) in &options.kafka {
        if let Some((_, why)) = OWNED.iter().find(|(owned, _)| owned == key) {
            return Err(Error::Invalid(format!("[kafka] `{key}` cannot be set: {why}")));
        }
        check_file(key, value)?;
        config.set(key, value);
    }
    Ok(config)
}

/// librdkafka does not name the file that it cannot read.
fn check_file(key: &str, value: &str) -> Result<()> {
    let names_a_file = key.starts_with("ssl.") && key.ends_with(".location") && value != "probe";
    if let Some(error) = names_a_file.then(|| std::fs::metadata(value).err()).flatten() {
        return Err(Error::Invalid(format!("[kafka] `{key}`: cannot read `{value}`: {error}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use uptake_model::Pepper;
    use uptake_model::contract::Contract;
    use uptake_model::decode::Edge;

    use super::*;

    fn options(properties: &[(&str, &str)]) -> ConsumeOptions {
        let edge = Edge {
            pepper: Pepper::new("0123456789abcdef").unwrap(),
            max_record_bytes: 1 << 20,
            pipeline_version: "test".to_owned(),
        };
        let topics = BTreeMap::from([("chat".to_owned(), Contract::Messages)]);
        let mut options = ConsumeOptions::new("127.0.0.1:1", topics, edge);
        options.kafka.extend(properties.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        options
    }

    #[test]
    fn queues_come_from_the_memory_and_what_is_given_wins() {
        let config = consumer(&options(&[("fetch.max.bytes", "2000000")])).unwrap();
        assert_eq!(config.get("queued.max.messages.kbytes"), Some("32768"));
        assert_eq!(config.get("fetch.max.bytes"), Some("2000000"));
        assert_eq!(config.get("partition.assignment.strategy"), Some("cooperative-sticky"));
        assert_eq!(config.get("isolation.level"), Some("read_committed"));
        let broker_side = consumer(&options(&[("group.protocol", "consumer")])).unwrap();
        assert_eq!(broker_side.get("partition.assignment.strategy"), None, "the broker assigns");
    }

    #[test]
    fn what_uptake_owns_cannot_be_set() {
        for (owned, _) in OWNED {
            let error = consumer(&options(&[(owned, "x")])).unwrap_err().to_string();
            assert!(error.contains(owned), "{error}");
        }
    }

    #[test]
    fn encryption_and_passwords_pass_through_to_the_client() {
        let secured = [
            ("security.protocol", "SASL_SSL"),
            ("sasl.mechanisms", "SCRAM-SHA-512"),
            ("sasl.username", "uptake"),
            ("sasl.password", "secret"),
            ("ssl.endpoint.identification.algorithm", "https"),
            ("enable.ssl.certificate.verification", "true"),
        ];
        consumer(&options(&secured)).unwrap().create_native_config().expect("librdkafka knows these properties");
        let refused = consumer(&options(&[("sasl.flavour", "vanilla")])).unwrap().create_native_config();
        assert!(refused.is_err(), "an unknown property is refused by name");
        let absent = consumer(&options(&[("ssl.ca.location", "/nowhere/ca.pem")])).unwrap_err().to_string();
        assert!(absent.contains("ssl.ca.location") && absent.contains("/nowhere/ca.pem"), "{absent}");
    }
}
