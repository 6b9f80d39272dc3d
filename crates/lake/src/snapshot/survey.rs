//! The first reading of a table: what there is, what breaks a rule, and how long rows are. The second reading writes.

use std::collections::BTreeMap;
use std::collections::hash_map::{Entry, HashMap};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::error::ArrowError;
use sha2::{Digest, Sha256};
use uptake_model::time::{Day, day_text};

use super::layout::Layout;
use super::split::Side;
use super::transform::{self, column, days, texts};

/// Reason of rows over the length that was asked for.
pub(super) const TOO_LONG: &str = "too_long";

/// Whether each row is published, or the reason why not.
pub(super) fn verdicts(
    batch: &RecordBatch,
    layout: &Layout,
    max_tokens: Option<u64>,
) -> Result<Vec<Option<&'static str>>, ArrowError> {
    let lengths = transform::lengths(batch, layout)?;
    let faults = transform::faults(batch, layout)?;
    let verdict = |(fault, length): (Option<super::Rule>, u64)| match fault {
        Some(rule) => Some(rule.code()),
        None => max_tokens.is_some_and(|most| length > most).then_some(TOO_LONG),
    };
    Ok(faults.into_iter().zip(lengths).map(verdict).collect())
}

/// The place of a row in a seeded shuffle: uniform, and the same for the same key in every run.
pub(super) fn shuffled(seed: u64, key: &str) -> u64 {
    let digest = Sha256::new().chain_update(seed.to_le_bytes()).chain_update(key.as_bytes()).finalize();
    u64::from_le_bytes([digest[0], digest[1], digest[2], digest[3], digest[4], digest[5], digest[6], digest[7]])
}

/// A class of a kept row: day, whether its hash put it into test, its class, and its place in the shuffle.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) day: Day,
    pub(super) test: bool,
    pub(super) class: bool,
    pub(super) shuffled: u64,
}

/// What the first reading found.
#[derive(Debug, Default)]
pub(super) struct Survey {
    pub(super) rows_read: u64,
    pub(super) left_out: BTreeMap<String, u64>,
    /// Kept rows by day and by whether their hash put them into test.
    pub(super) rows: BTreeMap<(Day, bool), u64>,
    /// Places of kept rows, only for tables with a class.
    pub(super) places: Vec<Place>,
    /// Start day and side of each conversation, by the hash of its id.
    conversations: HashMap<u64, (Day, bool)>,
    /// A conversation that stands on two sides, or on two days.
    pub(super) torn: Option<String>,
}

impl Survey {
    /// Takes in a batch; `verdicts` are those of [`verdicts`].
    pub(super) fn add(
        &mut self,
        batch: &RecordBatch,
        layout: &Layout,
        seed: u64,
        verdicts: &[Option<&'static str>],
    ) -> Result<(), ArrowError> {
        let (ids, splits, days) =
            (texts(batch, "conversation_id")?, texts(batch, "split")?, days(batch, "conversation_date")?);
        let keys = texts(batch, layout.key())?;
        let classes = match layout.class {
            Some(class) => Some(column(batch, class)?.as_boolean()),
            None => None,
        };
        for (row, verdict) in verdicts.iter().enumerate() {
            self.rows_read += 1;
            if let Some(reason) = verdict {
                *self.left_out.entry((*reason).to_owned()).or_default() += 1;
                continue;
            }
            let (day, test) = (days[row], splits[row] == Some("test"));
            *self.rows.entry((day, test)).or_default() += 1;
            self.conversation(ids[row].unwrap_or_default(), day, test);
            if let Some(classes) = classes {
                let class = classes.is_valid(row) && classes.value(row);
                let shuffled = shuffled(seed, keys[row].unwrap_or_default());
                self.places.push(Place { day, test, class, shuffled });
            }
        }
        Ok(())
    }

    /// Counts the rows that are not surveyed because an earlier one has their key; `read` is how many there were in all.
    pub(super) fn repeated(&mut self, read: u64) {
        let repeated = read.saturating_sub(self.rows_read);
        if repeated > 0 {
            *self.left_out.entry(super::Rule::DuplicateRow.code().to_owned()).or_default() += repeated;
        }
        self.rows_read = self.rows_read.max(read);
    }

    fn conversation(&mut self, id: &str, day: Day, test: bool) {
        match self.conversations.entry(shuffled(0, id)) {
            Entry::Vacant(vacant) => {
                let _ = vacant.insert((day, test));
            }
            Entry::Occupied(known) if *known.get() != (day, test) => {
                let (other, other_test) = *known.get();
                let side = |test| if test { "test" } else { "train" };
                let _ = self.torn.get_or_insert_with(|| {
                    format!(
                        "conversation {id} is in {} on {} and in {} on {}",
                        side(other_test),
                        day_text(other),
                        side(test),
                        day_text(day)
                    )
                });
            }
            Entry::Occupied(_) => {}
        }
    }

    /// Kept rows by day.
    pub(super) fn days(&self) -> BTreeMap<Day, u64> {
        let mut days = BTreeMap::new();
        for ((day, _), rows) in &self.rows {
            *days.entry(*day).or_default() += rows;
        }
        days
    }

    /// Conversations by split, and rows by split.
    pub(super) fn by_split(&self, side: impl Fn(Day, bool) -> Side) -> (BTreeMap<String, u64>, BTreeMap<String, u64>) {
        let (mut conversations, mut rows) = (BTreeMap::new(), BTreeMap::new());
        for (day, test) in self.conversations.values() {
            *conversations.entry(side(*day, *test).split().to_owned()).or_default() += 1;
        }
        for ((day, test), count) in &self.rows {
            *rows.entry(side(*day, *test).split().to_owned()).or_default() += count;
        }
        (conversations, rows)
    }
}

/// Where each row stands in its file.
///
/// Without classes: its place in the shuffle. With classes: the rows of each class are shuffled, then spread evenly over
/// the file, so that any stretch of it holds both in their proportion.
#[derive(Debug)]
pub(super) struct Order {
    seed: u64,
    /// Sorted places by (in test, class); none for tables without a class.
    classes: Option<HashMap<(bool, bool), Vec<u64>>>,
}

impl Order {
    pub(super) fn new(seed: u64, layout: &Layout, survey: &Survey, side: impl Fn(Day, bool) -> Side) -> Self {
        let classes = layout.class.map(|_| {
            let mut classes: HashMap<(bool, bool), Vec<u64>> = HashMap::new();
            for place in &survey.places {
                let test = side(place.day, place.test) != Side::Train;
                classes.entry((test, place.class)).or_default().push(place.shuffled);
            }
            for places in classes.values_mut() {
                places.sort_unstable();
            }
            classes
        });
        Self { seed, classes }
    }

    /// The position of a row, from 0 to 1; ties are broken by the key.
    pub(super) fn position(&self, key: &str, test: bool, class: bool) -> f64 {
        let shuffled = shuffled(self.seed, key);
        match self.classes.as_ref().and_then(|classes| classes.get(&(test, class))) {
            Some(places) => {
                let rank = places.partition_point(|place| *place < shuffled);
                (rank as f64 + 0.5) / places.len() as f64
            }
            None => shuffled as f64 / u64::MAX as f64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_spread_evenly() {
        let layout = Layout::of("unpaired").unwrap();
        let keys: Vec<String> = (0..1000).map(|at| format!("row-{at}")).collect();
        let class = |at: usize| at < 100;
        let mut survey = Survey::default();
        for (at, key) in keys.iter().enumerate() {
            survey.places.push(Place { day: 0, test: false, class: class(at), shuffled: shuffled(7, key) });
        }
        let order = Order::new(7, layout, &survey, |_, _| Side::Train);
        let mut rows: Vec<(f64, bool)> =
            keys.iter().enumerate().map(|(at, key)| (order.position(key, false, class(at)), class(at))).collect();
        rows.sort_by(|one, other| one.0.total_cmp(&other.0));
        for stretch in rows.chunks(50) {
            let liked = stretch.iter().filter(|(_, class)| *class).count();
            assert!((4..=6).contains(&liked), "{liked} of 50");
        }
    }

    #[test]
    fn the_shuffle_follows_from_seed_and_key() {
        assert_eq!(shuffled(1, "a"), shuffled(1, "a"));
        assert_ne!(shuffled(1, "a"), shuffled(2, "a"));
        assert_ne!(shuffled(1, "a"), shuffled(1, "b"));
    }

    #[test]
    fn a_conversation_on_two_sides_is_told() {
        let mut survey = Survey::default();
        survey.conversation("c1", 1, false);
        survey.conversation("c1", 1, false);
        assert_eq!(survey.torn, None);
        survey.conversation("c1", 1, true);
        assert!(survey.torn.unwrap().contains("c1 is in train"));
    }
}
