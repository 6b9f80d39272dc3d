//! Functions for what is clumsy in plain SQL.
//!
//! | function | gives |
//! |---|---|
//! | `last_user_message(messages)` | text of the last user message, or null |
//! | `message_text(messages, n)` | text of message `n`, counted from 1; negative from the end; null when there is none |
//! | `conversation_text(messages)` | the conversation as a readable transcript |
//! | `rate(successes, trials)` | share with its 95 % interval as text: `12.3 % (10.1–14.8, n 824)` |
//! | `rate_low(successes, trials)`, `rate_high(…)` | the bounds of that interval as numbers from 0 to 1 |
//! | `share(flag)` | aggregate: `rate` over the rows where `flag` is not null |
//!
//! Intervals are Wilson's score interval (Wilson 1927), which stays inside 0 to 1 and is honest for small counts.

mod messages;
mod rate;
mod share;

use datafusion::logical_expr::{AggregateUDF, ScalarUDF};

pub use messages::{transcript, transcript_of};
pub use rate::wilson;

/// Name, arguments and meaning of each function, for help and completion.
pub const CATALOGUE: [(&str, &str, &str); 7] = [
    ("last_user_message", "(messages)", "text of the last user message"),
    ("message_text", "(messages, n)", "text of message n, from 1; negative from the end"),
    ("conversation_text", "(messages)", "the conversation as a readable transcript"),
    ("rate", "(successes, trials)", "share with its Wilson 95 % interval, as text"),
    ("rate_low", "(successes, trials)", "lower bound of that interval, 0 to 1"),
    ("rate_high", "(successes, trials)", "upper bound of that interval, 0 to 1"),
    ("share", "(flag)", "aggregate: share of true with its interval, as text"),
];

/// The scalar functions.
pub(crate) fn scalars() -> Vec<ScalarUDF> {
    messages::functions().into_iter().chain(rate::functions()).collect()
}

/// The aggregates.
pub(crate) fn aggregates() -> Vec<AggregateUDF> {
    vec![AggregateUDF::from(share::Share::new())]
}
