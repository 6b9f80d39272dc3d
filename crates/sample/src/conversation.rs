//! One conversation: who talks with which model about what, how good the answers are, and what the person says and does.

mod reacting;

use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use uptake_model::time::{DAY_MICROS, Micros};
use uuid::Uuid;

use crate::authored::{self, Authored};
use crate::error::Error;
use crate::oracle::PlannedPair;
use crate::people::{self, Person, Style};
use crate::threads::{self, Poor, Said, Thread};
use crate::{Plan, families};

pub(crate) const SECOND: Micros = 1_000_000;
pub(crate) const MINUTE: Micros = 60 * SECOND;
pub(crate) const HOUR: Micros = 60 * MINUTE;

/// The models that the product serves, with how often, in thousandths of the conversations, things happen with each.
#[derive(Debug)]
pub(crate) struct Model {
    /// Version name.
    pub(crate) name: &'static str,
    /// Conversations that hold a complaint.
    trouble: u32,
    /// Conversations that hold praise without a complaint before it.
    delight: u32,
    /// Conversations in which an answer is asked for again.
    again: u32,
    /// Conversations in which a user mends an answer.
    mended: u32,
}

const LARCH_1: Model = Model { name: "larch-1", trouble: 170, delight: 15, again: 45, mended: 25 };
const LARCH_2: Model = Model { name: "larch-2", trouble: 65, delight: 45, again: 15, mended: 12 };
const LARCH_2_FAST: Model = Model { name: "larch-2-fast", trouble: 115, delight: 25, again: 30, mended: 18 };

/// What a turn's author thinks of it, as far as the generator knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Quality {
    Good,
    Poor,
}

/// One message.
#[derive(Debug, Clone)]
pub(crate) struct Turn {
    pub(crate) id: String,
    pub(crate) parent: Option<usize>,
    pub(crate) index: i32,
    pub(crate) role: &'static str,
    pub(crate) text: String,
    pub(crate) model: Option<&'static str>,
    pub(crate) quality: Quality,
    pub(crate) code: bool,
    pub(crate) at: Micros,
    /// What a follow-up really says; none where nobody knows.
    pub(crate) truth: Option<Said>,
}

/// One reaction.
#[derive(Debug, Clone)]
pub(crate) struct Reaction {
    pub(crate) turn: usize,
    pub(crate) kind: &'static str,
    pub(crate) op: &'static str,
    pub(crate) value: Option<u8>,
    pub(crate) text: Option<String>,
    pub(crate) others: Vec<usize>,
    pub(crate) at: Micros,
}

/// One conversation.
#[derive(Debug)]
pub(crate) struct Talk {
    pub(crate) id: String,
    pub(crate) started: Micros,
    /// Whether the id says nothing of the start, so that every event must.
    pub(crate) states_start: bool,
    pub(crate) person: usize,
    pub(crate) model: &'static str,
    pub(crate) language: Option<&'static str>,
    /// Whether the product's only log is its gateway's.
    pub(crate) gateway: bool,
    pub(crate) turns: Vec<Turn>,
    pub(crate) reactions: Vec<Reaction>,
    pub(crate) pairs: Vec<PlannedPair>,
}

/// Everything that can be said.
#[derive(Debug)]
pub(crate) struct Texts {
    threads: Vec<Thread>,
    /// Places of the threads that have a poor answer.
    poor: Vec<usize>,
    satisfied: Vec<Authored>,
    dissatisfied: Vec<Authored>,
    neutral: Vec<Authored>,
}

impl Texts {
    pub(crate) fn load(usable: fn(&str) -> bool) -> Result<Self, Error> {
        let threads = threads::load()?;
        let poor = (0..threads.len()).filter(|at| threads[*at].poor.is_some()).collect();
        let (mut satisfied, mut dissatisfied, mut neutral) = (Vec::new(), Vec::new(), Vec::new());
        for authored in authored::load(usable)? {
            let kind = match (authored.sat.is_empty(), authored.dsat.is_empty()) {
                (_, false) => &mut dissatisfied,
                (false, true) => &mut satisfied,
                (true, true) => &mut neutral,
            };
            kind.push(authored);
        }
        for (name, list) in
            [("with satisfaction", &satisfied), ("with dissatisfaction", &dissatisfied), ("without signal", &neutral)]
        {
            if list.is_empty() {
                return Err(Error::NothingUsable(name));
            }
        }
        Ok(Self { threads, poor, satisfied, dissatisfied, neutral })
    }
}

/// A `UUIDv7` of that time, its random part drawn from the seed.
pub(crate) fn id_at(rng: &mut ChaCha8Rng, at: Micros) -> String {
    let millis = u64::try_from(at / 1_000).unwrap_or_default();
    uuid::Builder::from_unix_timestamp_millis(millis, &rng.random()).into_uuid().to_string()
}

/// An id that says nothing of its time, as older clients send.
fn timeless_id(rng: &mut ChaCha8Rng) -> String {
    format!("conv-{}", &Uuid::from_bytes(rng.random()).simple().to_string()[..16])
}

/// The random numbers of one conversation, independent of all others.
pub(crate) fn rng_of(plan: &Plan, number: usize, part: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(plan.seed);
    rng.set_stream(u64::try_from(number).unwrap_or_default() * 4 + part);
    rng
}

/// The conversation of that number.
pub(crate) fn talk(plan: &Plan, number: usize, texts: &Texts, people: &[Person]) -> Talk {
    let mut rng = rng_of(plan, number, 0);
    let started = start_time(plan, &mut rng);
    let person = people::draw(&mut rng, people);
    let model = model_at(plan, started, &mut rng);
    let states_start = rng.random_ratio(1, 20);
    let id = if states_start { timeless_id(&mut rng) } else { id_at(&mut rng, started) };
    let talk = Talk {
        id,
        started,
        states_start,
        person,
        model: model.name,
        language: Some("en"),
        gateway: false,
        turns: Vec::new(),
        reactions: Vec::new(),
        pairs: Vec::new(),
    };
    let mut scene = Scene { talk, rng, now: started, style: people[person].style };
    scene.play(model, texts);
    scene.react(&people[person]);
    scene.talk
}

fn start_time(plan: &Plan, rng: &mut ChaCha8Rng) -> Micros {
    let day = i64::from(rng.random_range(0..plan.days.max(1)));
    // Two humps: people chat before noon and in the evening.
    let hour =
        [7, 8, 9, 9, 10, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 19, 20, 20, 21, 21, 22, 23, 1].choose(rng).copied();
    plan.start + day * DAY_MICROS + hour.unwrap_or(12) * HOUR + rng.random_range(0..HOUR)
}

/// The second version is rolled out over the third and fourth day; a fast one serves a fifth of the traffic throughout.
fn model_at(plan: &Plan, started: Micros, rng: &mut ChaCha8Rng) -> &'static Model {
    let day = (started - plan.start) / DAY_MICROS;
    let second = match day {
        0..=1 => 15,
        2 => 40,
        3 => 70,
        _ => 95,
    };
    if rng.random_ratio(1, 5) {
        &LARCH_2_FAST
    } else if rng.random_range(0..100) < second {
        &LARCH_2
    } else {
        &LARCH_1
    }
}

/// A conversation while it is being made.
struct Scene {
    talk: Talk,
    rng: ChaCha8Rng,
    now: Micros,
    style: Style,
}

impl Scene {
    fn play(&mut self, model: &'static Model, texts: &Texts) {
        self.talk.gateway = !self.talk.states_start && self.rng.random_ratio(3, 25);
        let mut bound = 0;
        let draw = self.rng.random_range(0..1_000);
        let mut falls = |share: u32| {
            bound += share;
            draw < bound
        };
        let (hard, two) = (60, 20);
        let repair = model.trouble * 2 / 5;
        if falls(repair) {
            self.repair(texts);
        } else if falls(model.again) {
            self.regenerate(texts);
        } else if falls(two) {
            self.choose(texts);
        } else if falls(model.mended) {
            self.edit(texts);
        } else if falls(model.trouble - repair) {
            self.recite(&texts.dissatisfied, Quality::Poor);
        } else if falls(model.delight) {
            self.recite(&texts.satisfied, Quality::Good);
        } else if falls(hard) {
            self.recite(&texts.neutral, Quality::Good);
        } else {
            self.plain(texts);
        }
    }

    fn last(&self) -> Option<usize> {
        self.talk.turns.len().checked_sub(1)
    }

    fn add(&mut self, role: &'static str, text: &str, parent: Option<usize>) -> usize {
        let index = parent.map_or(0, |parent| self.talk.turns[parent].index + 1);
        let id = id_at(&mut self.rng, self.now);
        self.talk.turns.push(Turn {
            id,
            parent,
            index,
            role,
            text: text.to_owned(),
            model: None,
            quality: Quality::Good,
            code: false,
            at: self.now,
            truth: None,
        });
        self.talk.turns.len() - 1
    }

    /// What a user says, under the last turn; `truth` is what it says about the answer before it.
    fn say(&mut self, text: &str, truth: Option<Said>) -> usize {
        let typing = i64::try_from(text.len()).unwrap_or(0).min(400) * SECOND / 12;
        self.now += self.rng.random_range(4 * SECOND..50 * SECOND) + typing;
        let parent = self.last();
        let turn = self.add("user", text, parent);
        self.talk.turns[turn].truth = truth.filter(|_| parent.is_some());
        turn
    }

    /// What the model says to `to`.
    fn answer(&mut self, to: usize, text: &str, quality: Quality, code: bool) -> usize {
        self.now += self.rng.random_range(SECOND..7 * SECOND);
        let model = self.talk.model;
        let turn = self.add("assistant", text, Some(to));
        let added = &mut self.talk.turns[turn];
        (added.model, added.quality, added.code) = (Some(model), quality, code);
        turn
    }

    fn styled(&mut self, question: &str) -> String {
        let first = self.talk.turns.iter().all(|turn| turn.role != "user");
        match self.style {
            Style::Greeting if first && self.talk.language == Some("en") => {
                let hello =
                    ["Hi! ", "Hello, quick question: ", "Hey. "].choose(&mut self.rng).copied().unwrap_or_default();
                format!("{hello}{question}")
            }
            Style::Casual => {
                let mut letters = question.chars();
                let (first, second) = (letters.next(), letters.next());
                let lower = second.is_some_and(char::is_lowercase) && self.talk.language != Some("de");
                let head: String = match first {
                    Some(first) if lower => first.to_lowercase().collect(),
                    first => first.into_iter().collect(),
                };
                let rest = &question[first.map_or(0, char::len_utf8)..];
                format!("{head}{}", rest.strip_suffix('.').unwrap_or(rest))
            }
            _ => question.to_owned(),
        }
    }

    /// The exchanges of a thread from `from` on, none of whose follow-ups carries a signal.
    fn go_on(&mut self, thread: &Thread, from: usize) {
        for (question, answer) in thread.exchanges.iter().skip(from) {
            let question = self.styled(question);
            let asked = self.say(&question, Some(Said::default()));
            let _ = self.answer(asked, answer, Quality::Good, thread.holds_code());
        }
    }

    fn open(&mut self, thread: &Thread) -> usize {
        self.talk.language = Some(thread.language());
        if self.rng.random_ratio(1, 25) {
            let _ = self.add("system", "You are a helpful assistant. Answer briefly and in the user's language.", None);
        }
        let question = self.styled(&thread.exchanges[0].0);
        self.say(&question, None)
    }

    fn plain(&mut self, texts: &Texts) {
        let draw = |rng: &mut ChaCha8Rng| {
            if rng.random_ratio(1, 4) {
                families::draw(rng)
            } else {
                texts.threads[rng.random_range(0..texts.threads.len())].clone()
            }
        };
        let thread = draw(&mut self.rng);
        let opened = self.open(&thread);
        let _ = self.answer(opened, &thread.exchanges[0].1, Quality::Good, thread.holds_code());
        if self.rng.random_ratio(4, 5) {
            self.go_on(&thread, 1);
        }
        let asks_back = self.talk.turns.last().is_some_and(|turn| turn.text.ends_with('?'));
        if !asks_back && self.rng.random_ratio(1, 3) {
            let other = draw(&mut self.rng);
            if other.language() == thread.language() && other.exchanges[0].0 != thread.exchanges[0].0 {
                self.now += self.rng.random_range(MINUTE..40 * MINUTE);
                self.go_on(&other, 0);
            }
        }
    }

    fn thread_with_poor(&mut self, texts: &Texts) -> Option<(Thread, Poor)> {
        let at = texts.poor.choose(&mut self.rng).copied()?;
        let thread = texts.threads.get(at)?.clone();
        let poor = thread.poor.clone()?;
        Some((thread, poor))
    }

    fn pair(&mut self, rule: &'static str, chosen: &str, rejected: &str) {
        self.talk.pairs.push(PlannedPair {
            rule,
            conversation_id: self.talk.id.clone(),
            chosen: chosen.to_owned(),
            rejected: rejected.to_owned(),
        });
    }

    /// A poor answer, a complaint, a better answer, relief.
    fn repair(&mut self, texts: &Texts) {
        let Some((thread, poor)) = self.thread_with_poor(texts) else { return };
        let opened = self.open(&thread);
        let code = thread.holds_code();
        let _ = self.answer(opened, &poor.answer, Quality::Poor, code);
        let complained = self.say(&poor.complaint.text, Some(poor.complaint.clone()));
        let good = thread.exchanges[0].1.clone();
        let _ = self.answer(complained, &good, Quality::Good, code);
        let relieved = self.say(&poor.relief.text, Some(poor.relief.clone()));
        self.pair("repair", &good, &poor.answer);
        if self.rng.random_ratio(1, 2) || self.talk.gateway {
            let welcome =
                ["You're welcome!", "Glad that helps.", "Any time."].choose(&mut self.rng).copied().unwrap_or_default();
            let _ = self.answer(relieved, welcome, Quality::Good, false);
            if self.rng.random_ratio(1, 3) {
                self.go_on(&thread, 1);
            }
        }
    }

    /// A poor answer is thrown away for another one, and the conversation goes on from that.
    fn regenerate(&mut self, texts: &Texts) {
        let Some((thread, poor)) = self.thread_with_poor(texts) else { return };
        let opened = self.open(&thread);
        let code = thread.holds_code();
        let thrown = self.answer(opened, &poor.answer, Quality::Poor, code);
        self.now += self.rng.random_range(6 * SECOND..40 * SECOND);
        self.reaction(thrown, "regenerate", self.now);
        let good = thread.exchanges[0].1.clone();
        let kept = self.answer(opened, &good, Quality::Good, code);
        if self.rng.random_ratio(1, 3) {
            let at = self.now + self.rng.random_range(5 * SECOND..60 * SECOND);
            self.reaction(kept, "copy", at);
        }
        self.go_on(&thread, 1);
        self.pair("regenerate", &good, &poor.answer);
    }

    /// Two answers are shown side by side, the person takes one.
    fn choose(&mut self, texts: &Texts) {
        let Some((thread, poor)) = self.thread_with_poor(texts) else { return };
        self.talk.gateway = false;
        let opened = self.open(&thread);
        let code = thread.holds_code();
        let good = thread.exchanges[0].1.clone();
        let first = self.answer(opened, &poor.answer, Quality::Poor, code);
        self.talk.turns[first].model = Some(LARCH_1.name);
        self.now -= SECOND;
        let second = self.answer(opened, &good, Quality::Good, code);
        self.talk.turns[second].model = Some(LARCH_2.name);
        // Now and then somebody prefers what the author of this log thinks the worse one.
        let (chosen, other) = if self.rng.random_ratio(9, 10) { (second, first) } else { (first, second) };
        self.now += self.rng.random_range(8 * SECOND..50 * SECOND);
        let at = self.now;
        self.reaction(chosen, "choice", at);
        if let Some(choice) = self.talk.reactions.last_mut() {
            choice.others = vec![other];
        }
        let (chosen_text, other_text) = (self.talk.turns[chosen].text.clone(), self.talk.turns[other].text.clone());
        self.pair("choice", &chosen_text, &other_text);
        if chosen == second {
            self.go_on(&thread, 1);
        }
    }

    /// The person mends the answer by hand.
    fn edit(&mut self, texts: &Texts) {
        let Some((thread, poor)) = self.thread_with_poor(texts) else { return };
        self.talk.gateway = false;
        let opened = self.open(&thread);
        let mended = self.answer(opened, &poor.answer, Quality::Poor, thread.holds_code());
        self.now += self.rng.random_range(40 * SECOND..6 * MINUTE);
        let at = self.now;
        self.reaction(mended, "edit", at);
        let good = thread.exchanges[0].1.clone();
        if let Some(edit) = self.talk.reactions.last_mut() {
            edit.text = Some(good.clone());
        }
        self.pair("edit", &good, &poor.answer);
    }

    /// A labelled conversation, word for word.
    fn recite(&mut self, list: &[Authored], quality: Quality) {
        let Some(authored) = list.choose(&mut self.rng) else { return };
        // A gateway logs answers, so a conversation that ends with the user is not in its log to the end.
        (self.talk.gateway, self.talk.language) = (false, None);
        let end = authored.messages.len() - 1;
        for (at, (role, text)) in authored.messages.iter().enumerate() {
            if role == "user" {
                let labels = authored.sat.iter().chain(&authored.dsat).copied().collect();
                let _ = self.say(text, (at == end).then(|| Said { text: text.clone(), labels }));
            } else if let Some(asked) = self.last() {
                let quality = if at + 1 == end { quality } else { Quality::Good };
                let _ = self.answer(asked, text, quality, text.contains("```"));
            }
        }
    }

    pub(crate) fn reaction(&mut self, turn: usize, kind: &'static str, at: Micros) {
        self.talk.reactions.push(Reaction { turn, kind, op: "set", value: None, text: None, others: Vec::new(), at });
    }
}
