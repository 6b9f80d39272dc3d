//! Records into bronze, each once: the writer on a store that loses, the consumer on a broker in this process, and the
//! real binary on a real Kafka.

mod bronze;
mod consumer;
mod failing;
mod kafka;
mod rebalance;
mod records;
