//! What the integration tests share.
//!
//! - [`kafka`]: Apache Kafka itself, on loopback, one for the whole test binary;
//! - [`gold`]: rows of gold and silver tables;
//! - [`binary`]: the real `uptake` as a process;
//! - [`collector`]: an OpenTelemetry collector on loopback;
//! - [`object_store`]: an S3 service on loopback, one for the whole test binary;
//! - [`postgres`]: a real Postgres on loopback, one for the whole test binary;
//! - [`tables`]: reading tables back;
//! - [`wait`]: conditions with a deadline.

#![expect(clippy::expect_used, reason = "in a test kit a panic is the report")]

pub mod binary;
pub mod collector;
pub mod gold;
pub mod kafka;
mod keeper;
pub mod object_store;
pub mod postgres;
pub mod tables;
pub mod wait;

use rand::TryRngCore as _;

/// A password that nobody can guess, in lower-case letters and digits.
pub(crate) fn secret() -> String {
    let mut bytes = [0; 16];
    rand::rngs::OsRng.try_fill_bytes(&mut bytes).expect("randomness of the system");
    uptake_model::subject::hex(&bytes)
}
