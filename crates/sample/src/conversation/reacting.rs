//! Reactions of the person to the answers, besides those that the story holds.

use rand::Rng as _;
use uptake_model::time::{DAY_MICROS, Micros};

use super::{HOUR, MINUTE, Quality, SECOND, Scene};
use crate::people::{Manner, Person};

/// How often a person of average zeal reacts to one answer, in ten thousandths: kind, to a good one, to a poor one.
const RATES: [(&str, u32, u32); 11] = [
    ("love", 75, 2),
    ("like", 40, 4),
    ("thumbs_up", 160, 15),
    ("thumbs_down", 20, 700),
    ("laugh", 15, 10),
    ("sad", 3, 40),
    ("angry", 1, 60),
    ("rating", 40, 60),
    ("copy", 120, 20),
    ("share", 20, 1),
    ("report", 1, 25),
];

impl Scene {
    /// Lets the person react to every answer.
    pub(super) fn react(&mut self, person: &Person) {
        let answers: Vec<usize> =
            (0..self.talk.turns.len()).filter(|turn| self.talk.turns[*turn].role == "assistant").collect();
        for turn in answers {
            let shown = self.talk.turns[turn].at;
            match person.manner {
                Manner::LovesAll => {
                    let at = shown + self.rng.random_range(300_000..1_200_000);
                    self.reaction(turn, "love", at);
                }
                Manner::DislikesAll => {
                    let at = shown + self.rng.random_range(800_000..3_000_000);
                    self.reaction(turn, "thumbs_down", at);
                }
                Manner::Ordinary(zeal) => self.react_to(turn, u32::from(zeal)),
            }
        }
        let ends_badly = self.talk.turns.iter().any(|turn| turn.quality == Quality::Poor);
        if ends_badly && self.rng.random_ratio(1, 12) {
            let answer = (0..self.talk.turns.len()).rev().find(|turn| self.talk.turns[*turn].role == "assistant");
            if let Some(answer) = answer {
                let at = self.now + 10 * MINUTE;
                self.reaction(answer, "abandon", at);
            }
        }
    }

    fn react_to(&mut self, turn: usize, zeal: u32) {
        let (quality, code, shown) = {
            let turn = &self.talk.turns[turn];
            (turn.quality, turn.code, turn.at)
        };
        for (kind, good, poor) in RATES {
            let mut rate = if quality == Quality::Good { good } else { poor } * zeal;
            if kind == "copy" && code {
                // Copying is work, not zeal.
                rate = 900;
            }
            if !self.rng.random_ratio(rate.min(9_000), 10_000) {
                continue;
            }
            let at = shown + self.delay();
            self.reaction(turn, kind, at);
            if kind == "rating" {
                let value =
                    if quality == Quality::Good { self.rng.random_range(4..=5) } else { self.rng.random_range(1..=3) };
                if let Some(rating) = self.talk.reactions.last_mut() {
                    rating.value = Some(value);
                }
            }
            if kind != "copy" && self.rng.random_ratio(1, 15) {
                let taken_back = at + self.rng.random_range(2 * SECOND..20 * MINUTE);
                self.reaction(turn, kind, taken_back);
                if let Some(unset) = self.talk.reactions.last_mut() {
                    unset.op = "unset";
                }
            }
        }
    }

    /// Most reactions come within a minute, some hours later, a few days later.
    fn delay(&mut self) -> Micros {
        match self.rng.random_range(0..100) {
            0..70 => self.rng.random_range(2 * SECOND..MINUTE),
            70..90 => self.rng.random_range(MINUTE..HOUR),
            90..97 => self.rng.random_range(2 * HOUR..20 * HOUR),
            _ => self.rng.random_range(DAY_MICROS..4 * DAY_MICROS),
        }
    }
}
