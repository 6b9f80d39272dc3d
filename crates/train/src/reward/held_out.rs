//! Which conversations are held out: those that were published for testing, the latest ones, and some of the others.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::data::{Part, Split};

/// What the split needs to know of a row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub(super) conversation: &'a str,
    pub(super) time: Option<i64>,
    /// Whether its data were published in a training and a test part; if so, whether it is in the latter.
    pub(super) published: Option<bool>,
}

/// What was held out, in conversations; no conversation is on both sides.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldOut {
    /// Conversations to train on.
    pub training: usize,
    /// Conversations that decide which pass is kept.
    pub validation: usize,
    /// Held out since a snapshot was published so.
    pub published: usize,
    /// Held out since they are the latest; every conversation that has a time and was trained on is older.
    pub latest: usize,
    /// They begin there: microseconds since 1970.
    pub latest_since: Option<i64>,
    /// Held out by a hash of their id.
    pub by_conversation: usize,
}

/// How the rest is split.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    pub(super) split: Split,
    /// Fraction of conversations with a time that is held out, the latest.
    pub(super) latest: f64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Conversation {
    /// Of its last row.
    time: Option<i64>,
    published: Option<bool>,
}

impl Rule {
    /// The part of each row.
    pub(super) fn parts(&self, rows: &[Place<'_>]) -> (Vec<Part>, HeldOut) {
        let mut conversations: BTreeMap<&str, Conversation> = BTreeMap::new();
        for row in rows {
            let conversation = conversations.entry(row.conversation).or_default();
            conversation.time = conversation.time.max(row.time);
            // A test row anywhere takes all rows of its conversation along.
            conversation.published = conversation.published.max(row.published);
        }
        let free = conversations.values().filter(|conversation| conversation.published.is_none());
        let since = since(free.filter_map(|conversation| conversation.time).collect(), self.latest);
        let mut held_out = HeldOut { latest_since: since, ..HeldOut::default() };
        let parts: BTreeMap<&str, Part> = conversations
            .iter()
            .map(|(name, conversation)| (*name, self.part(name, conversation, since, &mut held_out)))
            .collect();
        let of = |row: &Place<'_>| parts.get(row.conversation).copied().unwrap_or(Part::Training);
        (rows.iter().map(of).collect(), held_out)
    }

    fn part(&self, name: &str, conversation: &Conversation, since: Option<i64>, counts: &mut HeldOut) -> Part {
        let late = conversation.time.zip(since).is_some_and(|(time, since)| time >= since);
        let (part, count) = match (conversation.published, self.split.part(name)) {
            (Some(true), _) => (Part::Test, &mut counts.published),
            (None, _) if late => (Part::Test, &mut counts.latest),
            (None, Part::Test) => (Part::Test, &mut counts.by_conversation),
            (_, Part::Validation) => (Part::Validation, &mut counts.validation),
            _ => (Part::Training, &mut counts.training),
        };
        *count += 1;
        part
    }
}

/// From when on at most `share` of the times lie, as many as possible; nothing where that is none.
fn since(mut times: Vec<i64>, share: f64) -> Option<i64> {
    times.sort_unstable();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "share is between 0 and 1")]
    let most = (share * times.len() as f64) as usize;
    let boundary = times.len() - most;
    let first = *times.get(boundary)?;
    if boundary == 0 || times[boundary - 1] < first {
        return Some(first);
    }
    // What is as old as the newest that stays must stay too.
    times.into_iter().find(|time| *time > first)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Rule = Rule { split: Split { seed: 3, validation: 0.2, test: 0.1 }, latest: 0.1 };

    fn place(conversation: &str, time: Option<i64>) -> Place<'_> {
        Place { conversation, time, published: None }
    }

    #[test]
    fn the_latest_conversations_are_held_out_whole_and_training_is_older() {
        let names: Vec<String> = (0..200).map(|index| format!("c{index}")).collect();
        // Two rows each, the second long after the first.
        let rows: Vec<Place<'_>> =
            (0..400_i64).zip(names.iter().chain(&names)).map(|(time, name)| place(name, Some(time))).collect();
        let (parts, held_out) = RULE.parts(&rows);
        assert_eq!((held_out.latest, held_out.latest_since), (20, Some(380)));
        assert!(held_out.by_conversation > 5 && held_out.validation > 20, "{held_out:?}");
        for (index, row) in rows.iter().enumerate() {
            assert_eq!(parts[index], parts[(index + 200) % 400]);
            if parts[index] != Part::Test {
                assert!(row.time.unwrap() < 380);
            }
        }
        let counted = held_out.training + held_out.validation + held_out.latest + held_out.by_conversation;
        assert_eq!(counted, 200);
    }

    #[test]
    fn a_published_split_is_kept_and_binds_other_rows_of_its_conversations() {
        let names: Vec<String> = (0..100).map(|index| format!("c{index}")).collect();
        let mut rows: Vec<Place<'_>> =
            names.iter().map(|name| Place { published: Some(name.ends_with('7')), ..place(name, Some(5)) }).collect();
        rows.push(place("c17", None));
        rows.push(place("c18", Some(9)));
        let (parts, held_out) = RULE.parts(&rows);
        assert_eq!((held_out.published, held_out.latest, held_out.by_conversation), (10, 0, 0));
        assert!(names.iter().zip(&parts).all(|(name, part)| name.ends_with('7') == (*part == Part::Test)));
        assert_eq!(parts[100], Part::Test);
        assert_eq!(parts[101], parts[18]);
        assert!(held_out.validation > 5);
    }

    #[test]
    fn times_that_are_all_the_same_hold_nothing_out() {
        assert_eq!(since(vec![4; 50], 0.1), None);
        assert_eq!(since(vec![1, 1, 1, 1, 1, 1, 1, 2, 2, 3], 0.2), Some(3));
        assert_eq!(since((0..10).collect(), 0.2), Some(8));
        assert_eq!(since(vec![], 0.2), None);
        assert_eq!(since((0..10).collect(), 0.0), None);
    }
}
