//! What the integration tests share.
//!
//! - [`kafka`]: Apache Kafka itself, on loopback, one for the whole test binary;
//! - [`gold`]: rows of gold and silver tables;
//! - [`binary`]: the real `uptake` as a process;
//! - [`collector`]: an OpenTelemetry collector on loopback;
//! - [`tables`]: reading tables back;
//! - [`wait`]: conditions with a deadline.

#![expect(clippy::expect_used, reason = "in a test kit a panic is the report")]

pub mod binary;
pub mod collector;
pub mod gold;
pub mod kafka;
pub mod tables;
pub mod wait;
