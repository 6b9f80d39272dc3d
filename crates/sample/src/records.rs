//! A conversation becomes records, each with the moment at which it arrives.

use rand::Rng as _;
use rand_chacha::ChaCha8Rng;
use uptake_model::facts;
use uptake_model::time::{DAY_MICROS, Micros};

use crate::conversation::{HOUR, MINUTE, Reaction, SECOND, Talk, Turn, id_at, rng_of};
use crate::error::Error;
use crate::oracle::{FollowUp, Oracle};
use crate::people::Person;
use crate::wire::{
    self, ChatMessage, Choice, CompletionRecord, Content, MessageRecord, Part, ReactionRecord, Request, Response, Time,
};
use crate::{COMPLETIONS, MESSAGES, Plan, REACTIONS, Record};

/// How a client's clock is off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Clock {
    Right,
    /// More than a year ahead.
    Ahead,
    /// Back in 1970.
    Reset,
}

impl Clock {
    fn shows(self, at: Micros, started: Micros) -> Micros {
        match self {
            Self::Right => at,
            Self::Ahead => at + 10_000 * DAY_MICROS,
            Self::Reset => at - started + HOUR,
        }
    }
}

/// The records of one conversation; what is in them is added to the oracle.
pub(crate) fn of(
    plan: &Plan,
    number: usize,
    talk: &Talk,
    people: &[Person],
    oracle: &mut Oracle,
) -> Result<Vec<Record>, Error> {
    let mut writer = Writer { talk, person: &people[talk.person], rng: rng_of(plan, number, 1), records: Vec::new() };
    let arrivals = if talk.gateway { writer.completions(oracle)? } else { writer.messages(number, oracle)? };
    writer.reactions(&arrivals, oracle)?;
    *oracle.conversations.entry(talk.model).or_default() += 1;
    if writer.person.consent == Some("denied") {
        let _ = oracle.denied.insert(talk.id.clone());
    } else {
        oracle.pairs.extend(talk.pairs.iter().cloned());
    }
    Ok(writer.records)
}

struct Writer<'a> {
    talk: &'a Talk,
    person: &'a Person,
    rng: ChaCha8Rng,
    records: Vec<Record>,
}

/// When a turn arrives and under which id reactions name it.
struct Arrival {
    arrives: Micros,
    id: String,
}

impl Writer<'_> {
    fn push(&mut self, topic: &'static str, payload: Vec<u8>, arrives: Micros) {
        self.records.push(Record { topic, key: self.talk.id.clone(), payload: Some(payload), arrives });
    }

    /// Most records arrive within a second; a few wait on a phone without reception.
    fn travel(&mut self) -> Micros {
        match self.rng.random_range(0..1_000) {
            0..990 => self.rng.random_range(40_000..900_000),
            990..998 => self.rng.random_range(MINUTE..30 * MINUTE),
            _ => self.rng.random_range(HOUR..5 * HOUR),
        }
    }

    fn stated_start(&self) -> Option<Time> {
        self.talk.states_start.then(|| Time::of(self.talk.started, self.person.client))
    }

    fn messages(&mut self, number: usize, oracle: &mut Oracle) -> Result<Vec<Arrival>, Error> {
        // The first two conversations of every hundred and forty have a client whose clock is off.
        let clock = match number % 140 {
            20 => Clock::Ahead,
            90 => Clock::Reset,
            _ => Clock::Right,
        };
        let count = oracle.topics.entry(MESSAGES).or_default();
        let mut arrivals = Vec::new();
        for turn in &self.talk.turns {
            let arrives = turn.at + self.travel();
            let event_id = id_at(&mut self.rng, turn.at);
            let shown = if turn.role == "user" { clock.shows(turn.at, self.talk.started) } else { turn.at };
            count.events += 1;
            count.skewed += usize::from(shown != turn.at);
            let in_parts = turn.role == "user" && self.rng.random_ratio(1, 30);
            let record = MessageRecord {
                event_id,
                kind: "message",
                conversation_id: &self.talk.id,
                conversation_started_at: self.stated_start(),
                message_id: &turn.id,
                parent_message_id: turn.parent.map(|parent| self.talk.turns[parent].id.as_str()),
                turn_index: turn.index,
                role: turn.role,
                content: if in_parts {
                    Content::Parts([Part { kind: "text", text: &turn.text }])
                } else {
                    Content::Text(&turn.text)
                },
                model: turn.model,
                language: self.talk.language,
                event_time: Time::of(shown, self.person.client),
                user_id: &self.person.user_id,
                consent: self.person.consent,
                client: self.person.client,
            };
            let payload = wire::bytes(&record)?;
            self.push(MESSAGES, payload, arrives);
            arrivals.push(Arrival { arrives, id: turn.id.clone() });
        }
        for turn in &self.talk.turns {
            self.truth(turn, turn.id.clone(), oracle);
        }
        Ok(arrivals)
    }

    fn truth(&self, turn: &Turn, turn_id: String, oracle: &mut Oracle) {
        let Some(said) = &turn.truth else { return };
        let answered = turn.parent.and_then(|parent| self.talk.turns[parent].model);
        if let Some(model) = answered {
            oracle.follow_ups.push(FollowUp {
                conversation_id: self.talk.id.clone(),
                turn_id,
                model,
                labels: said.labels.clone(),
            });
        }
    }

    /// A gateway's log: one line an answer, which repeats everything said before it.
    fn completions(&mut self, oracle: &mut Oracle) -> Result<Vec<Arrival>, Error> {
        let talk = self.talk;
        let mut arrivals: Vec<Arrival> =
            talk.turns.iter().map(|turn| Arrival { arrives: turn.at, id: turn.id.clone() }).collect();
        for (at, turn) in talk.turns.iter().enumerate() {
            let Some(model) = turn.model else { continue };
            let mut path = Vec::new();
            let mut up = turn.parent;
            while let Some(parent) = up {
                path.push(&talk.turns[parent]);
                up = talk.turns[parent].parent;
            }
            path.reverse();
            let id = format!("chatcmpl-{}", turn.id.replace('-', ""));
            let record = CompletionRecord {
                conversation_id: &talk.id,
                consent: self.person.consent,
                request: Request {
                    model,
                    messages: path.iter().map(|turn| ChatMessage { role: turn.role, content: &turn.text }).collect(),
                    temperature: 0.7,
                    user: &self.person.user_id,
                },
                response: Response {
                    id: id.clone(),
                    object: "chat.completion",
                    created: turn.at / SECOND,
                    model,
                    choices: [Choice {
                        index: 0,
                        message: ChatMessage { role: "assistant", content: &turn.text },
                        finish_reason: "stop",
                    }],
                },
            };
            let payload = wire::bytes(&record)?;
            if let Some(asked) = path.last() {
                self.truth(asked, asked_turn_id(&payload, turn.at)?, oracle);
            }
            oracle.topics.entry(COMPLETIONS).or_default().events += 1;
            let arrives = turn.at + self.travel();
            self.push(COMPLETIONS, payload, arrives);
            arrivals[at] = Arrival { arrives, id };
        }
        // An answer asked for twice repeats its question, and the truth about it.
        oracle.follow_ups.dedup_by(|a, b| a.turn_id == b.turn_id);
        Ok(arrivals)
    }

    fn reactions(&mut self, arrivals: &[Arrival], oracle: &mut Oracle) -> Result<(), Error> {
        let talk = self.talk;
        for reaction in &talk.reactions {
            let on = &arrivals[reaction.turn];
            let arrives = reaction.at + self.travel();
            let payload = self.reaction(reaction, &on.id, arrivals)?;
            let count = oracle.topics.entry(REACTIONS).or_default();
            count.events += 1;
            oracle.early_reactions += usize::from(arrives < on.arrives);
            oracle.late_reactions += usize::from(reaction.at - talk.turns[reaction.turn].at > HOUR);
            self.push(REACTIONS, payload, arrives);
            if self.rng.random_ratio(1, 60) {
                // A client that lost its messages and kept its reactions.
                let nothing = id_at(&mut self.rng, reaction.at);
                let payload = self.reaction(reaction, &nothing, arrivals)?;
                oracle.topics.entry(REACTIONS).or_default().events += 1;
                oracle.reactions_to_nothing += 1;
                self.push(REACTIONS, payload, arrives + SECOND);
            }
        }
        Ok(())
    }

    fn reaction(&mut self, reaction: &Reaction, message_id: &str, arrivals: &[Arrival]) -> Result<Vec<u8>, Error> {
        wire::bytes(&ReactionRecord {
            event_id: id_at(&mut self.rng, reaction.at),
            event_type: "reaction",
            conversation_id: &self.talk.id,
            conversation_started_at: self.stated_start(),
            message_id,
            kind: reaction.kind,
            op: reaction.op,
            value: reaction.value.filter(|_| reaction.op == "set"),
            text: reaction.text.as_deref(),
            rejected_message_ids: reaction.others.iter().map(|other| arrivals[*other].id.as_str()).collect(),
            event_time: Time::of(reaction.at, self.person.client),
            user_id: &self.person.user_id,
        })
    }
}

/// The id under which silver knows the user turn that a completion answers: a hash, made by the model crate.
fn asked_turn_id(payload: &[u8], at: Micros) -> Result<String, Error> {
    let text = std::str::from_utf8(payload).map_err(|error| Error::Record(error.to_string()))?;
    let turns = facts::turns_of("completion", text, at, None).map_err(Error::Record)?;
    let asked = turns.iter().rev().find(|turn| turn.role == "user");
    asked.map(|turn| turn.turn_id.clone()).ok_or_else(|| Error::Record("a completion without a user turn".to_owned()))
}
