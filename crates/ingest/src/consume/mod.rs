//! The consumer service: Kafka topics into bronze.
//!
//! [`Consumer`] is made of options and a lake, hands out [`Handle`]s, and runs until it is stopped, reaches the ends, or
//! cannot go on. One loop owns everything: it reads one closed enum from the reader, keeps at most one flush in flight
//! while the next buffer fills, and answers every rebalance.

mod flushing;
mod handle;
mod rebalance;
mod service;
mod tagging;

pub use handle::{Handle, Summary};
pub use service::Consumer;
