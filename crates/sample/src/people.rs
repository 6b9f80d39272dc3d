//! Who talks: most people react rarely, a few often, and two are up to no good.

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// How a person reacts to answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// As people do; the number multiplies the usual rates.
    Ordinary(u8),
    /// A script that loves everything, faster than anybody reads.
    LovesAll,
    /// A feud: thumbs down on everything, in bursts.
    DislikesAll,
}

/// How a person types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// As written.
    Plain,
    /// Begins in lower case and leaves the last full stop out.
    Casual,
    /// Says hello first.
    Greeting,
}

/// One user of the product.
#[derive(Debug, Clone)]
pub(crate) struct Person {
    /// As the product knows them; must never land in a table.
    pub(crate) user_id: String,
    /// What they allowed, if they were asked.
    pub(crate) consent: Option<&'static str>,
    /// How they react.
    pub(crate) manner: Manner,
    /// How they type.
    pub(crate) style: Style,
    /// What they write with.
    pub(crate) client: &'static str,
}

/// About one person for every four conversations, the two troublemakers first.
pub(crate) fn people(seed: u64, conversations: usize) -> Vec<Person> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(u64::MAX);
    let mut person = |number: usize, manner: Option<Manner>| {
        let manner = manner.unwrap_or_else(|| match rng.random_range(0..100) {
            0..50 => Manner::Ordinary(0),
            50..88 => Manner::Ordinary(1),
            _ => Manner::Ordinary(5),
        });
        Person {
            user_id: format!("person-{number:05}@example.org"),
            consent: match rng.random_range(0..100) {
                0..6 => Some("denied"),
                6..70 => Some("granted"),
                _ => None,
            },
            manner,
            style: match rng.random_range(0..100) {
                0..60 => Style::Plain,
                60..88 => Style::Casual,
                _ => Style::Greeting,
            },
            client: ["web", "ios", "android", "api"][rng.random_range(0..4)],
        }
    };
    let mut all = vec![person(0, Some(Manner::LovesAll)), person(1, Some(Manner::DislikesAll))];
    all.extend((2..(conversations / 4).max(6)).map(|number| person(number, None)));
    // Troublemakers do not ask for privacy, and a log in which they did would hide what the demo is to show.
    for troublemaker in all.iter_mut().take(2) {
        troublemaker.consent = Some("granted");
    }
    all
}

/// Who talks in a conversation: troublemakers in about one of eighty, else anybody, some much more often than others.
pub(crate) fn draw(rng: &mut ChaCha8Rng, people: &[Person]) -> usize {
    match rng.random_range(0..1_000) {
        0..12 => 0,
        12..24 => 1,
        _ => {
            // The square makes the first ones the regulars.
            let place: f64 = rng.random();
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "between 0 and the number of people"
            )]
            let at = (place * place * (people.len() - 2) as f64) as usize;
            (2 + at).min(people.len() - 1)
        }
    }
}
