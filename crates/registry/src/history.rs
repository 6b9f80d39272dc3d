//! The history of what was in use.

use serde::{Deserialize, Serialize};

use crate::gates::Decision;

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// A model was put into use.
    Promoted,
    /// The model that was in use before was put back.
    RolledBack,
}

/// One line of the history of a kind; created once and never changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Its number, from 1 on.
    pub number: u64,
    /// What was done.
    pub action: Action,
    /// The model in use from here on; none: the one that the program carries, or whatever was there before the registry.
    pub model: Option<String>,
    /// The one in use until here.
    pub previous: Option<String>,
    /// When, RFC 3339.
    pub at: String,
    /// Who.
    pub by: String,
    /// Why, as they said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether somebody insisted against the gates.
    pub forced: bool,
    /// What the gates said then.
    pub decision: Option<Decision>,
    /// Makes one writer's line differ from another's.
    pub nonce: String,
}

/// The model to go back to: the one in use before the one that is now, whenever that was first promoted. Going back
/// twice goes back two steps and not to and fro. An error where nothing was ever promoted, or all of it is undone.
pub(crate) fn before(events: &[Event]) -> Result<Option<String>, &'static str> {
    let Some(current) = events.last() else {
        return Err("nothing was ever promoted");
    };
    let Some(model) = &current.model else {
        return Err("everything is rolled back already");
    };
    let promoted =
        events.iter().rev().find(|event| event.action == Action::Promoted && event.model.as_ref() == Some(model));
    Ok(promoted.and_then(|event| event.previous.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(steps: &[(Action, Option<&str>)]) -> Vec<Event> {
        let mut events: Vec<Event> = Vec::new();
        for (action, model) in steps {
            let previous = events.last().and_then(|event| event.model.clone());
            events.push(Event {
                number: events.len() as u64 + 1,
                action: *action,
                model: model.map(str::to_owned),
                previous,
                at: String::new(),
                by: String::new(),
                reason: None,
                forced: false,
                decision: None,
                nonce: String::new(),
            });
        }
        events
    }

    #[test]
    fn going_back_goes_back_further_each_time() {
        use Action::{Promoted, RolledBack};
        let check = |steps: &[(Action, Option<&str>)], expected: Result<Option<&str>, &str>| {
            assert_eq!(before(&events(steps)), expected.map(|model| model.map(str::to_owned)), "{steps:?}");
        };
        check(&[], Err("nothing was ever promoted"));
        check(&[(Promoted, Some("a"))], Ok(None));
        let three = [(Promoted, Some("a")), (Promoted, Some("b")), (Promoted, Some("c"))];
        check(&three, Ok(Some("b")));
        let back = [&three[..], &[(RolledBack, Some("b"))]].concat();
        check(&back, Ok(Some("a")));
        let further = [&back[..], &[(RolledBack, Some("a"))]].concat();
        check(&further, Ok(None));
        let all = [&further[..], &[(RolledBack, None)]].concat();
        check(&all, Err("everything is rolled back already"));
        check(&[&all[..], &[(Promoted, Some("c"))]].concat(), Ok(None));
    }
}
