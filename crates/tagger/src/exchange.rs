//! What is tagged, and the one place where it is read out of a conversation: serving, tables and training all come here,
//! so that a model sees at work what it saw when it was trained.

/// Who says a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The person.
    User,
    /// The model.
    Assistant,
    /// Instructions, tools and whatever else is neither.
    Other,
}

impl Role {
    /// The role that chat logs call so.
    #[must_use]
    pub fn of(name: &str) -> Self {
        match name {
            "user" => Self::User,
            "assistant" => Self::Assistant,
            _ => Self::Other,
        }
    }
}

/// One message of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// Who says it.
    pub role: Role,
    /// What is said.
    pub text: &'a str,
}

/// Earlier user messages, and earlier responses, that are kept of a conversation; further back nobody looks.
pub const EARLIER: usize = 8;
/// Messages that are looked at for them, so that a conversation of any length costs the same.
pub const LOOKED_AT: usize = 32;

/// What is tagged: how a user's follow-up takes a response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exchange<'a> {
    /// The last user message before the response; empty where there is none.
    pub last_user: &'a str,
    /// The response that the signal is about.
    pub response: &'a str,
    /// The user's next message.
    pub follow_up: &'a str,
    /// User messages before `last_user`, the newest first, at most [`EARLIER`].
    pub earlier_users: Vec<&'a str>,
    /// Responses before `response`, the newest first, at most [`EARLIER`].
    pub earlier_responses: Vec<&'a str>,
}

impl<'a> Exchange<'a> {
    /// An exchange of which no earlier message is known.
    #[must_use]
    pub const fn alone(last_user: &'a str, response: &'a str, follow_up: &'a str) -> Self {
        Self { last_user, response, follow_up, earlier_users: Vec::new(), earlier_responses: Vec::new() }
    }

    /// An exchange with what was said before the response, the newest message first.
    pub fn after(newest_first: impl Iterator<Item = Message<'a>>, response: &'a str, follow_up: &'a str) -> Self {
        let mut exchange = Self::alone("", response, follow_up);
        let mut last_user = None;
        for message in newest_first.take(LOOKED_AT) {
            let earlier = match message.role {
                Role::User if last_user.is_none() => {
                    last_user = Some(message.text);
                    continue;
                }
                Role::User => &mut exchange.earlier_users,
                Role::Assistant => &mut exchange.earlier_responses,
                Role::Other => continue,
            };
            if earlier.len() < EARLIER {
                earlier.push(message.text);
            }
        }
        exchange.last_user = last_user.unwrap_or_default();
        exchange
    }

    /// The exchange whose follow-up stands at `index`: a user's message directly after an assistant's, or nothing.
    #[must_use]
    pub fn at(messages: &[Message<'a>], index: usize) -> Option<Self> {
        let follow_up = messages.get(index)?;
        let response = messages.get(index.checked_sub(1)?)?;
        if follow_up.role != Role::User || response.role != Role::Assistant {
            return None;
        }
        let before = messages.get(..index - 1)?;
        Some(Self::after(before.iter().rev().copied(), response.text, follow_up.text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages<'a>(all: &[(&str, &'a str)]) -> Vec<Message<'a>> {
        all.iter().map(|(role, text)| Message { role: Role::of(role), text }).collect()
    }

    #[test]
    fn an_exchange_knows_what_came_before_newest_first() {
        let all = messages(&[
            ("system", "be kind"),
            ("user", "one"),
            ("assistant", "eins"),
            ("user", "two"),
            ("user", "hello?"),
            ("tool", "42"),
            ("assistant", "zwei"),
            ("user", "three"),
        ]);
        let exchange = Exchange::at(&all, 7).unwrap();
        assert_eq!((exchange.last_user, exchange.response, exchange.follow_up), ("hello?", "zwei", "three"));
        assert_eq!(exchange.earlier_users, ["two", "one"]);
        assert_eq!(exchange.earlier_responses, ["eins"]);
        for index in [0, 1, 2, 4, 6, 8, usize::MAX] {
            assert_eq!(Exchange::at(&all, index), None, "{index}");
        }
        let first = Exchange::at(&all, 3).unwrap();
        assert_eq!((first.last_user, first.earlier_users.len()), ("one", 0));
    }

    #[test]
    fn a_response_may_come_first() {
        let all = messages(&[("assistant", "hello"), ("user", "hi")]);
        assert_eq!(Exchange::at(&all, 1), Some(Exchange::alone("", "hello", "hi")));
    }

    #[test]
    fn a_long_conversation_is_not_read_whole() {
        let texts: Vec<String> = (0..10_001).map(|index| index.to_string()).collect();
        let role = |index: usize| if index.is_multiple_of(2) { Role::User } else { Role::Assistant };
        let all: Vec<Message<'_>> =
            texts.iter().enumerate().map(|(index, text)| Message { role: role(index), text }).collect();
        let exchange = Exchange::at(&all, 10_000).unwrap();
        assert_eq!((exchange.last_user, exchange.earlier_users[0]), ("9998", "9996"));
        assert_eq!((exchange.earlier_users.len(), exchange.earlier_responses.len()), (EARLIER, EARLIER));
        let mut seen = 0;
        let counted = all[..9_999].iter().rev().copied().inspect(|_| seen += 1);
        let _ = Exchange::after(counted, "x", "y");
        assert_eq!(seen, LOOKED_AT);
    }
}
