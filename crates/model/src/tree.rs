//! The exchanges of one conversation tree.
//!
//! A conversation is a tree: regenerating an answer branches it. Producers may name each turn's parent, or only number
//! the turns, or neither. Order never rests on arrival: `turn_index` first, then `event_time`, then the id.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::time::Micros;

/// What the tree needs to know of a turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeTurn {
    /// Turn id.
    pub turn_id: String,
    /// Parent as the producer says.
    pub parent_turn_id: Option<String>,
    /// Index as the producer says.
    pub turn_index: Option<i32>,
    /// system, user, assistant or tool.
    pub role: String,
    /// When it was said.
    pub event_time: Micros,
}

/// One assistant turn with its place in the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// The assistant turn.
    pub turn_id: String,
    /// Turn ids from the root to the turn that it answers.
    pub path: Vec<String>,
    /// The user turn that directly follows it.
    pub follow_up_turn_id: Option<String>,
    /// The sibling that was kept, when this answer was regenerated away.
    pub superseded_by: Option<String>,
}

impl Exchange {
    /// The turn that the response answers.
    pub fn prompt_turn_id(&self) -> Option<&str> {
        self.path.last().map(String::as_str)
    }
}

/// The exchanges of one conversation, in the order of its turns. Turns given twice count once; a parent that is not
/// among the turns, or that would close a circle, makes its child a root.
pub fn resolve(turns: &[TreeTurn]) -> Vec<Exchange> {
    let mut ordered: Vec<&TreeTurn> = turns.iter().collect();
    ordered.sort_by(|a, b| order(a).cmp(&order(b)));
    let mut seen = HashSet::new();
    ordered.retain(|turn| seen.insert(turn.turn_id.as_str()));
    let parents = parents_of(&ordered);
    let mut children: HashMap<&str, Vec<usize>> = HashMap::new();
    for (at, turn) in ordered.iter().enumerate() {
        if let Some(parent) = parents.get(turn.turn_id.as_str()) {
            children.entry(parent).or_default().push(at);
        }
    }
    let replaced = superseded(&ordered, &parents, &children);
    ordered
        .iter()
        .filter(|turn| turn.role == "assistant")
        .map(|turn| {
            let id = turn.turn_id.as_str();
            let mut path = vec![];
            let mut at = id;
            while let Some(parent) = parents.get(at) {
                path.push((*parent).to_owned());
                at = parent;
            }
            path.reverse();
            let follow_up = children.get(id).into_iter().flatten().find(|at| ordered[**at].role == "user");
            Exchange {
                turn_id: id.to_owned(),
                path,
                follow_up_turn_id: follow_up.map(|at| ordered[*at].turn_id.clone()),
                superseded_by: replaced.get(id).map(|kept| (*kept).to_owned()),
            }
        })
        .collect()
}

fn order(turn: &TreeTurn) -> (i32, Micros, &str) {
    // Without an index the time decides; `i32::MAX` keeps such turns together behind the numbered ones.
    (turn.turn_index.unwrap_or(i32::MAX), turn.event_time, &turn.turn_id)
}

/// Each turn's parent: the one it names if that is present, else the last turn of the next lower index (of several
/// answers at one index, the one given last), else the turn before it.
fn parents_of<'a>(ordered: &[&'a TreeTurn]) -> HashMap<&'a str, &'a str> {
    let present: HashMap<&str, &'a str> =
        ordered.iter().map(|turn| (turn.turn_id.as_str(), turn.turn_id.as_str())).collect();
    let mut last_of_index: BTreeMap<i32, &str> = BTreeMap::new();
    let mut previous: Option<&str> = None;
    let mut parents: HashMap<&str, &str> = HashMap::new();
    for turn in ordered {
        let implied = match turn.turn_index {
            Some(index) => last_of_index.range(..index).next_back().map(|(_, id)| *id),
            None => previous,
        };
        let parent = match &turn.parent_turn_id {
            // A named parent that has not come: the branch starts here, rather than under a turn it does not answer.
            Some(named) => present.get(named.as_str()).copied(),
            None => implied,
        };
        let closes_circle = |mut at: &'a str, parents: &HashMap<&'a str, &'a str>| loop {
            if at == turn.turn_id {
                return true;
            }
            match parents.get(at) {
                Some(next) => at = next,
                None => return false,
            }
        };
        if let Some(parent) = parent
            && !closes_circle(parent, &parents)
        {
            let _ = parents.insert(&turn.turn_id, parent);
        }
        if let Some(index) = turn.turn_index {
            let _ = last_of_index.insert(index, &turn.turn_id);
        }
        previous = Some(&turn.turn_id);
    }
    parents
}

/// Of several answers to one prompt, the kept one is that which the conversation went on from, else the last given.
fn superseded<'a>(
    ordered: &[&'a TreeTurn],
    parents: &HashMap<&'a str, &'a str>,
    children: &HashMap<&'a str, Vec<usize>>,
) -> HashMap<&'a str, &'a str> {
    let mut siblings: BTreeMap<&str, Vec<&'a TreeTurn>> = BTreeMap::new();
    for turn in ordered.iter().filter(|turn| turn.role == "assistant") {
        if let Some(parent) = parents.get(turn.turn_id.as_str()) {
            siblings.entry(parent).or_default().push(turn);
        }
    }
    let mut replaced = HashMap::new();
    for group in siblings.values().filter(|group| group.len() > 1) {
        let went_on = |turn: &TreeTurn| children.contains_key(turn.turn_id.as_str());
        let kept = group.iter().max_by_key(|turn| (went_on(turn), turn.event_time, &turn.turn_id));
        let Some(kept) = kept else { continue };
        for turn in group.iter().filter(|turn| turn.turn_id != kept.turn_id) {
            // An answer that the conversation also went on from was not thrown away: it is a branch of its own.
            if !went_on(turn) {
                let _ = replaced.insert(turn.turn_id.as_str(), kept.turn_id.as_str());
            }
        }
    }
    replaced
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(id: &str, parent: Option<&str>, index: Option<i32>, role: &str, time: i64) -> TreeTurn {
        TreeTurn {
            turn_id: id.to_owned(),
            parent_turn_id: parent.map(str::to_owned),
            turn_index: index,
            role: role.to_owned(),
            event_time: time,
        }
    }

    fn exchange<'a>(all: &'a [Exchange], id: &str) -> &'a Exchange {
        all.iter().find(|exchange| exchange.turn_id == id).unwrap()
    }

    #[test]
    fn a_plain_log_is_a_chain_whatever_the_arrival() {
        let turns = [
            turn("a2", None, Some(3), "assistant", 4),
            turn("u1", None, Some(0), "user", 1),
            turn("u2", None, Some(2), "user", 3),
            turn("a1", None, Some(1), "assistant", 2),
        ];
        let all = resolve(&turns);
        assert_eq!(exchange(&all, "a1").path, ["u1"]);
        assert_eq!(exchange(&all, "a1").follow_up_turn_id.as_deref(), Some("u2"));
        assert_eq!(exchange(&all, "a2").path, ["u1", "a1", "u2"]);
        assert_eq!(exchange(&all, "a2").follow_up_turn_id, None);
    }

    #[test]
    fn without_any_index_time_orders() {
        let turns = [
            turn("a1", None, None, "assistant", 2),
            turn("u1", None, None, "user", 1),
            turn("u2", None, None, "user", 3),
        ];
        let all = resolve(&turns);
        assert_eq!(exchange(&all, "a1").path, ["u1"]);
        assert_eq!(exchange(&all, "a1").follow_up_turn_id.as_deref(), Some("u2"));
    }

    #[test]
    fn a_regenerated_answer_is_superseded_by_the_one_continued_from() {
        let turns = [
            turn("u1", None, Some(0), "user", 1),
            turn("a1", Some("u1"), Some(1), "assistant", 2),
            turn("b1", Some("u1"), Some(1), "assistant", 3),
            turn("u2", Some("a1"), Some(2), "user", 4),
        ];
        let all = resolve(&turns);
        assert_eq!(exchange(&all, "b1").superseded_by.as_deref(), Some("a1"));
        assert_eq!(exchange(&all, "a1").superseded_by, None);
    }

    #[test]
    fn with_no_continuation_the_last_answer_stands() {
        let turns = [
            turn("u1", None, Some(0), "user", 1),
            turn("a1", None, Some(1), "assistant", 2),
            turn("a2", None, Some(1), "assistant", 3),
        ];
        let all = resolve(&turns);
        assert_eq!(exchange(&all, "a1").superseded_by.as_deref(), Some("a2"));
        assert_eq!(exchange(&all, "a2").path, ["u1"]);
    }

    #[test]
    fn circles_and_absent_parents_end_in_roots() {
        let turns = [
            turn("u1", Some("a1"), None, "user", 1),
            turn("a1", Some("u1"), None, "assistant", 2),
            turn("a2", Some("gone"), None, "assistant", 3),
        ];
        let all = resolve(&turns);
        assert!(exchange(&all, "a2").path.is_empty());
        assert!(exchange(&all, "a1").path.len() <= 1);
    }
}
