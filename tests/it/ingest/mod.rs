//! Records into bronze, each once: the writer on a store that loses, the consumer on a broker in this process, and the
//! real binary on a real Kafka, also over TLS and with its lake on S3.

mod bronze;
mod consumer;
mod failing;
mod kafka;
mod object_store;
mod rebalance;
mod records;
mod secured;
mod signals;
mod tagging;
