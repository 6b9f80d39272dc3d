//! Sample chat logs: what a chat product writes in a week, small enough to look at, with everything in it that goes
//! wrong in practice, and an oracle that says what is in it.
//!
//! - [`Plan`]: seed, size, start; the same plan gives the same bytes.
//! - [`generate`]: the plan → a [`Log`]: records in the order of their arrival, and the [`Oracle`].
//! - [`Oracle`]: what was generated: records by topic, what must be refused and why, what each follow-up really says,
//!   the pairs that each rule should find, the raw user ids that must never land.
//!
//! The texts: conversations written for this project (`data/threads.txt`: plain ones, and some whose first answer is poor,
//! with the complaint that it draws), questions with computed answers ([`families`]), and labelled follow-ups
//! (`data/authored.jsonl.gz`), at the rates that real logs show: about 1 % of user turns satisfied, 4 % dissatisfied, a
//! heart on less than one answer in a hundred.
//!
//! Absent on purpose: Kafka, files, clocks. Whoever calls sends the records where they should go.

mod authored;
mod conversation;
mod error;
mod families;
mod faults;
mod oracle;
mod people;
mod records;
mod threads;
mod wire;

use uptake_model::contract::Contract;
use uptake_model::time::{DAY_MICROS, Micros};

pub use error::Error;
pub use oracle::{FollowUp, Oracle, PlannedPair, TopicCount};

/// Topic of messages, one record each.
pub const MESSAGES: &str = "chat.messages";
/// Topic of reactions.
pub const REACTIONS: &str = "chat.reactions";
/// Topic of a gateway's log lines, request and response.
pub const COMPLETIONS: &str = "gateway.completions";

/// The topics of a log, with the contract of each.
pub const TOPICS: [(&str, Contract); 3] =
    [(MESSAGES, Contract::Messages), (REACTIONS, Contract::Reactions), (COMPLETIONS, Contract::Completions)];

/// What to generate.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Decides everything that is drawn.
    pub seed: u64,
    /// Conversations; reactions, repeats and broken records come on top.
    pub conversations: usize,
    /// When the first conversation may start.
    pub start: Micros,
    /// Over how many days conversations start; reactions may come up to four days later.
    pub days: u32,
    /// Which conversations of the labelled follow-ups may be used, by their id: those that a tagger was not trained on,
    /// where its work is to be judged.
    pub usable: fn(&str) -> bool,
}

impl Plan {
    /// A week of `conversations` conversations that starts on Monday, 1 September 2025.
    pub fn new(seed: u64, conversations: usize) -> Self {
        Self { seed, conversations, start: 1_756_684_800_000_000, days: 7, usable: |_| true }
    }
}

/// One record, as a producer sends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Topic.
    pub topic: &'static str,
    /// Key: the conversation, so that one partition carries it in order.
    pub key: String,
    /// Payload; `None` is a tombstone.
    pub payload: Option<Vec<u8>>,
    /// When the broker takes it; records are sorted by this.
    pub arrives: Micros,
}

/// A log and what is in it.
#[derive(Debug)]
pub struct Log {
    /// Records in the order of their arrival.
    pub records: Vec<Record>,
    /// When the log is read: two days after the last day of the plan, or when its last record has arrived.
    pub complete_until: Micros,
    /// What is in them.
    pub oracle: Oracle,
}

/// Generates a log.
///
/// # Errors
/// [`Error`] when the texts that are built in cannot be read, or no labelled follow-up is usable.
pub fn generate(plan: &Plan) -> Result<Log, Error> {
    let texts = conversation::Texts::load(plan.usable)?;
    let people = people::people(plan.seed, plan.conversations);
    let mut oracle = Oracle::default();
    oracle.user_ids.extend(people.iter().map(|person| person.user_id.clone()));
    let mut records = Vec::new();
    for number in 0..plan.conversations {
        let talk = conversation::talk(plan, number, &texts, &people);
        records.extend(records::of(plan, number, &talk, &people, &mut oracle)?);
    }
    faults::add(plan, &mut records, &mut oracle);
    records.sort_by(|a, b| (a.arrives, a.topic, &a.key, &a.payload).cmp(&(b.arrives, b.topic, &b.key, &b.payload)));
    for record in &records {
        oracle.topics.entry(record.topic).or_default().records += 1;
    }
    let read = plan.start + (i64::from(plan.days.max(1)) + 2) * DAY_MICROS;
    let complete_until = records.last().map_or(read, |record| record.arrives.max(read));
    Ok(Log { records, complete_until, oracle })
}

#[cfg(test)]
mod tests;
