//! What was said lately, by conversation: a store with a bound in bytes and in conversations.
//!
//! A turn is told once or many times (a gateway repeats the conversation in every line); which telling counts is decided
//! as the job decides it that builds `silver.turns`, so that both read the same texts.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use uptake_model::facts::{Telling, TurnFact};
use uptake_model::signal::input_hash;
use uptake_model::time::{Day, Micros};
use uptake_model::tree::{self, TreeTurn};

/// A conversation: the day that it lives under, and its id.
pub(crate) type Key = (Day, String);

/// Turns kept of a conversation: many times what any tagger looks back, so that what is dropped is never missed by it.
const MOST_TURNS: usize = 512;

/// What an entry costs beyond its texts, about.
const OVERHEAD: usize = 128;

/// How much the store may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreLimits {
    /// Bytes of texts and ids.
    pub bytes: u64,
    /// Conversations.
    pub conversations: usize,
}

/// Which of several tellings of one turn counts: the least. An answer's own line comes before those that repeat it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Rank(bool, Micros, String, String, i32, i64);

/// One turn.
#[derive(Debug)]
struct Turn {
    parent: Option<String>,
    index: Option<i32>,
    role: String,
    text: String,
    time: Micros,
    rank: Rank,
}

impl Turn {
    fn new(fact: TurnFact, telling: &Telling) -> (String, Self) {
        let rank = Rank(
            fact.alias.is_none(),
            fact.event_time,
            telling.event_id.clone(),
            telling.topic.clone(),
            telling.partition,
            telling.offset,
        );
        let turn = Self {
            parent: fact.parent_turn_id,
            index: fact.turn_index,
            role: fact.role,
            text: fact.text,
            time: fact.event_time,
            rank,
        };
        (fact.turn_id, turn)
    }

    fn size(&self, id: &str) -> usize {
        let parent = self.parent.as_ref().map_or(0, String::len);
        OVERHEAD + id.len() + parent + self.role.len() + self.text.len() + self.rank.2.len() + self.rank.3.len()
    }

    fn order(&self) -> (i32, Micros) {
        (self.index.unwrap_or(i32::MAX), self.time)
    }
}

/// One conversation as far as it is known.
#[derive(Debug, Default)]
struct Conversation {
    turns: BTreeMap<String, Turn>,
    /// Whether all that was said before is here: it was seen from its first turn, or read from the tables.
    whole: bool,
    /// What was published of it: id and hash of the input in one text.
    published: BTreeSet<String>,
    bytes: usize,
    used: u64,
}

/// A follow-up with everything that a tagger reads of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) key: Key,
    pub(crate) turn_id: String,
    pub(crate) follow_up_turn_id: String,
    /// (role, text), oldest first.
    pub(crate) before: Vec<(String, String)>,
    pub(crate) response: String,
    pub(crate) follow_up: String,
    pub(crate) input_hash: String,
    /// When the broker took the record that made it complete.
    pub(crate) broker_time: Option<Micros>,
}

/// What became of the turns that a batch told of.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) asked: Vec<Asked>,
    /// Follow-ups whose response nobody has told of.
    pub(crate) without_response: u64,
    /// Follow-ups to a response that another turn follows already.
    pub(crate) another_follows: u64,
    /// Turns of a conversation so long that they were dropped before anybody looked at them.
    pub(crate) too_long: u64,
}

/// The turns that a batch tells of, by conversation, with when the broker took the record.
pub(crate) type Told = BTreeMap<Key, BTreeMap<String, Option<Micros>>>;

/// The store.
#[derive(Debug)]
pub(crate) struct Store {
    limits: StoreLimits,
    conversations: HashMap<Key, Conversation>,
    /// By when they were last used, the longest ago first.
    order: BTreeMap<u64, Key>,
    clock: u64,
    bytes: usize,
}

impl Store {
    pub(crate) fn new(limits: StoreLimits) -> Self {
        Self { limits, conversations: HashMap::new(), order: BTreeMap::new(), clock: 0, bytes: 0 }
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes in a turn, as `telling` tells it. A conversation is whole when this is its first turn or when the record
    /// holds all of it.
    pub(crate) fn tell(&mut self, key: &Key, fact: TurnFact, telling: &Telling) {
        self.touch(key);
        let Some(conversation) = self.conversations.get_mut(key) else { return };
        conversation.whole |= telling.kind == "completion" || fact.turn_index == Some(0);
        let (id, turn) = Turn::new(fact, telling);
        let before = conversation.turns.get(&id);
        if before.is_some_and(|before| before.rank <= turn.rank) {
            return;
        }
        let gone = before.map_or(0, |before| before.size(&id));
        let come = turn.size(&id);
        let _ = conversation.turns.insert(id, turn);
        conversation.bytes = conversation.bytes + come - gone;
        self.bytes = self.bytes + come - gone;
    }

    fn touch(&mut self, key: &Key) {
        self.clock += 1;
        let conversation = self
            .conversations
            .entry(key.clone())
            .or_insert_with(|| Conversation { bytes: OVERHEAD + key.1.len(), ..Conversation::default() });
        if conversation.used == 0 {
            self.bytes += conversation.bytes;
        } else {
            let _ = self.order.remove(&conversation.used);
        }
        conversation.used = self.clock;
        let _ = self.order.insert(self.clock, key.clone());
    }

    /// The conversations of which something may have been said that is not here.
    pub(crate) fn in_parts(&self, told: &Told) -> Vec<Key> {
        told.keys().filter(|key| self.conversations.get(*key).is_none_or(|found| !found.whole)).cloned().collect()
    }

    /// The conversations in which a user turn was told of whose parent is not here.
    pub(crate) fn with_orphans(&self, told: &Told) -> Vec<Key> {
        let has_orphan = |key: &Key, turns: &BTreeMap<String, Option<Micros>>| {
            let Some(conversation) = self.conversations.get(key) else { return false };
            turns.keys().any(|id| conversation.turns.get(id).is_some_and(|turn| conversation.is_orphan(turn)))
        };
        told.iter().filter(|(key, turns)| has_orphan(key, turns)).map(|(key, _)| key.clone()).collect()
    }

    /// Notes that all that the tables hold of a conversation is here.
    pub(crate) fn set_whole(&mut self, key: &Key) {
        if let Some(conversation) = self.conversations.get_mut(key) {
            conversation.whole = true;
        }
    }

    /// The follow-ups that the told turns are part of: as follow-up, response or context. `looks_back`: how many messages a tagger reads.
    pub(crate) fn find(&mut self, told: &Told, looks_back: usize) -> Found {
        let mut found = Found::default();
        for (key, turns) in told {
            if let Some(conversation) = self.conversations.get_mut(key) {
                self.bytes -= conversation.shorten();
                conversation.find(key, turns, looks_back, &mut found);
            }
        }
        found
    }

    /// Notes that a follow-up was published, so that a record that repeats it is passed over.
    pub(crate) fn published(&mut self, key: &Key, signal_id: &str, input_hash: &str) {
        if let Some(conversation) = self.conversations.get_mut(key)
            && conversation.published.insert(mark(signal_id, input_hash))
        {
            conversation.bytes += OVERHEAD;
            self.bytes += OVERHEAD;
        }
    }

    /// Whether this was published, as far as the store remembers.
    pub(crate) fn was_published(&self, key: &Key, signal_id: &str, input_hash: &str) -> bool {
        self.conversations.get(key).is_some_and(|found| found.published.contains(&mark(signal_id, input_hash)))
    }

    /// Forgets the conversations that were used the longest ago, until the bounds are kept; how many went.
    pub(crate) fn evict(&mut self) -> u64 {
        let mut gone = 0;
        while self.bytes as u64 > self.limits.bytes || self.conversations.len() > self.limits.conversations {
            let Some((_, key)) = self.order.pop_first() else { break };
            if let Some(conversation) = self.conversations.remove(&key) {
                self.bytes -= conversation.bytes;
                gone += 1;
            }
        }
        gone
    }
}

fn mark(signal_id: &str, input_hash: &str) -> String {
    format!("{signal_id}{input_hash}")
}

impl Conversation {
    /// Drops the turns with the lowest places beyond the bound; how many bytes went.
    fn shorten(&mut self) -> usize {
        let Some(too_many) = self.turns.len().checked_sub(MOST_TURNS).filter(|count| *count > 0) else { return 0 };
        let mut places: Vec<((i32, Micros), String)> =
            self.turns.iter().map(|(id, turn)| (turn.order(), id.clone())).collect();
        places.sort();
        let mut gone = 0;
        for (_, id) in places.into_iter().take(too_many) {
            gone += self.turns.remove(&id).map_or(0, |turn| turn.size(&id));
        }
        self.bytes -= gone;
        gone
    }

    fn is_orphan(&self, turn: &Turn) -> bool {
        if turn.role != "user" {
            return false;
        }
        match (&turn.parent, turn.index) {
            (Some(parent), _) => !self.turns.contains_key(parent),
            (None, Some(index)) => {
                index > 0 && !self.turns.values().any(|other| other.index.is_some_and(|at| at < index))
            }
            (None, None) => false,
        }
    }

    fn find(&self, key: &Key, told: &BTreeMap<String, Option<Micros>>, looks_back: usize, found: &mut Found) {
        let turns: Vec<TreeTurn> = self
            .turns
            .iter()
            .map(|(id, turn)| TreeTurn {
                turn_id: id.clone(),
                parent_turn_id: turn.parent.clone(),
                turn_index: turn.index,
                role: turn.role.clone(),
                event_time: turn.time,
            })
            .collect();
        let mut followed: BTreeSet<&str> = BTreeSet::new();
        let exchanges = tree::resolve(&turns);
        for exchange in &exchanges {
            let Some(follow_up) = exchange.follow_up_turn_id.as_deref() else { continue };
            let _ = followed.insert(follow_up);
            // Also what was said before counts: a turn that comes late changes what a tagger reads.
            let read = exchange.path[exchange.path.len().saturating_sub(looks_back)..].iter().map(String::as_str);
            let read = read.chain([exchange.turn_id.as_str(), follow_up]);
            let times: Vec<Option<Micros>> = read.filter_map(|id| told.get(id).copied()).collect();
            if times.is_empty() {
                continue;
            }
            let broker_time = times.into_iter().flatten().max();
            found.asked.extend(self.asked(key, exchange, follow_up, looks_back, broker_time));
        }
        for id in told.keys().filter(|id| !followed.contains(id.as_str())) {
            let Some(turn) = self.turns.get(id) else {
                found.too_long += 1;
                continue;
            };
            if self.is_orphan(turn) {
                found.without_response += 1;
            } else if turn.role == "user" && answers(turn, &exchanges) {
                found.another_follows += 1;
            }
        }
    }

    fn asked(
        &self,
        key: &Key,
        exchange: &tree::Exchange,
        follow_up: &str,
        looks_back: usize,
        broker_time: Option<Micros>,
    ) -> Option<Asked> {
        let last = exchange.path.len().saturating_sub(looks_back);
        let before: Vec<(&str, &str)> = exchange.path[last..]
            .iter()
            .filter_map(|id| self.turns.get(id))
            .map(|turn| (turn.role.as_str(), turn.text.as_str()))
            .collect();
        let response = &self.turns.get(&exchange.turn_id)?.text;
        let answer = &self.turns.get(follow_up)?.text;
        Some(Asked {
            key: key.clone(),
            turn_id: exchange.turn_id.clone(),
            follow_up_turn_id: follow_up.to_owned(),
            input_hash: input_hash(&before, response, answer),
            before: before.into_iter().map(|(role, text)| (role.to_owned(), text.to_owned())).collect(),
            response: response.clone(),
            follow_up: answer.clone(),
            broker_time,
        })
    }
}

/// Whether the turn names a response that has another follow-up.
fn answers(turn: &Turn, exchanges: &[tree::Exchange]) -> bool {
    let Some(parent) = turn.parent.as_deref() else { return false };
    exchanges.iter().any(|exchange| exchange.turn_id == parent && exchange.follow_up_turn_id.is_some())
}

#[cfg(test)]
#[path = "context_tests.rs"]
mod tests;
