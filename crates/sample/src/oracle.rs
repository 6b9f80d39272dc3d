//! What is in a log: the truth that tests and the demo compare the tables with.

use std::collections::{BTreeMap, BTreeSet};

use uptake_model::contract::ErrorClass;
use uptake_model::labels::Label;

/// What is in one topic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TopicCount {
    /// Records of any kind.
    pub records: usize,
    /// Different events that follow the contract.
    pub events: usize,
    /// Records that repeat an event word for word.
    pub repeats: usize,
    /// Records that reuse the id of an event for another payload.
    pub reused_ids: usize,
    /// Records without payload.
    pub tombstones: usize,
    /// Records that no contract accepts, by reason.
    pub refused: BTreeMap<ErrorClass, usize>,
    /// Events whose time is implausible.
    pub skewed: usize,
}

/// A user turn that directly follows an answer, with what it really says about that answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FollowUp {
    /// The conversation.
    pub conversation_id: String,
    /// The user's turn, as silver `turns` names it.
    pub turn_id: String,
    /// The model whose answer it follows.
    pub model: &'static str,
    /// What it says; empty where it says nothing of the answer.
    pub labels: Vec<Label>,
}

/// Two answers to one question that a rule should find.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedPair {
    /// repair, regenerate, edit or choice.
    pub rule: &'static str,
    /// The conversation.
    pub conversation_id: String,
    /// The better answer.
    pub chosen: String,
    /// The worse answer.
    pub rejected: String,
}

/// What is in a log.
#[derive(Debug, Clone, Default)]
pub struct Oracle {
    /// By topic.
    pub topics: BTreeMap<&'static str, TopicCount>,
    /// Every follow-up whose meaning is known.
    pub follow_ups: Vec<FollowUp>,
    /// The pairs that the rules should find, from people who did not deny consent.
    pub pairs: Vec<PlannedPair>,
    /// Conversations whose person denied consent; no gold row may come from them.
    pub denied: BTreeSet<String>,
    /// Reactions to messages that do not exist.
    pub reactions_to_nothing: usize,
    /// Reactions that arrive before the message that they react to.
    pub early_reactions: usize,
    /// Reactions that come more than an hour after their message.
    pub late_reactions: usize,
    /// User ids as producers send them; none may be found below the lake's root.
    pub user_ids: Vec<String>,
    /// Conversations by the model that answered.
    pub conversations: BTreeMap<&'static str, usize>,
}

impl Oracle {
    /// Sums over the topics.
    pub fn total(&self) -> TopicCount {
        let mut total = TopicCount::default();
        for topic in self.topics.values() {
            total.records += topic.records;
            total.events += topic.events;
            total.repeats += topic.repeats;
            total.reused_ids += topic.reused_ids;
            total.tombstones += topic.tombstones;
            total.skewed += topic.skewed;
            for (class, count) in &topic.refused {
                *total.refused.entry(*class).or_default() += count;
            }
        }
        total
    }
}
