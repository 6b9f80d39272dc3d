//! How far two annotators agree on the same follow-ups: Cohen's kappa, per label and for any label of a side.
//!
//! Kappa is agreement beyond what the two frequencies alone would give: `(p_o − p_e) / (1 − p_e)`. Where both annotators
//! say the same of all rows (a label that neither gives) it is not defined, and said to be so.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use uptake_model::labels::{Kind, Label, OUTPUTS, output_name};

use crate::error::{Error, Result};
use crate::reader::{BadLines, Survey, each_turn};
use crate::rows::{Key, Names};

/// Resamples that an interval is made of.
const RESAMPLES: usize = 1_000;

/// What an annotator says of a follow-up: bit `o` is output `o` of a tagger (18 labels, any satisfaction, any
/// dissatisfaction).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Outputs(u32);

impl Outputs {
    fn of(names: &Names) -> Result<Self, String> {
        let mut bits = 0;
        for (names, kind) in [(&names.sat, Kind::Satisfaction), (&names.dsat, Kind::Dissatisfaction)] {
            for name in names {
                let label: Label = name.parse().map_err(|error| format!("{error}"))?;
                if label.kind() != kind {
                    return Err(format!("`{name}` stands on the wrong side, sat and dsat are separate lists"));
                }
                bits |= 1 << label.output() | 1 << kind.output();
            }
        }
        Ok(Self(bits))
    }

    const fn has(self, output: usize) -> bool {
        self.0 >> output & 1 == 1
    }
}

/// What an annotator says of the follow-ups of a file.
#[derive(Clone, Debug, Default)]
pub struct Readings {
    by_key: BTreeMap<Key, (String, Outputs)>,
}

impl Readings {
    /// The labels of a labelled file.
    ///
    /// # Errors
    /// [`Error::Data`] for a row that has no labels, unknown ones, or stands there twice.
    pub fn read(path: &Path) -> Result<Self> {
        Ok(read(path)?.0)
    }

    /// The labels of a labelled file, and those of its second reader (`second`): rows that have both.
    ///
    /// # Errors
    /// As [`Readings::read`], and [`Error::Invalid`] where no row has a second reading.
    pub fn read_both(path: &Path) -> Result<(Self, Self)> {
        let (mut first, second) = read(path)?;
        if second.by_key.is_empty() {
            let why = format!("no row of `{}` has a second reading (`second`): name a second file", path.display());
            return Err(Error::Invalid(why));
        }
        first.by_key.retain(|key, _| second.by_key.contains_key(key));
        Ok((first, second))
    }
}

fn read(path: &Path) -> Result<(Readings, Readings)> {
    let (mut first, mut second) = (Readings::default(), Readings::default());
    let mut failed = None;
    each_turn(&[PathBuf::from(path)], BadLines::Stop, &mut Survey::default(), |(path, line), turn, _| {
        let conversation = &turn.conversation;
        let add = |readings: &mut Readings, names: &Names| {
            let outputs = Outputs::of(names)?;
            match readings.by_key.insert(turn.key, (conversation.id.clone(), outputs)) {
                None => Ok(()),
                Some(_) => Err("the same follow-up stands in this file twice".to_owned()),
            }
        };
        let none = || Err("it has no labels (`sat` and `dsat`)".to_owned());
        let added = conversation
            .first
            .as_ref()
            .map_or_else(none, |names| add(&mut first, names))
            .and_then(|()| conversation.second.as_ref().map_or(Ok(()), |names| add(&mut second, names)));
        failed = added.err().map(|reason| Error::Data { path: path.to_owned(), line, reason });
        failed.is_none()
    })?;
    failed.map_or(Ok((first, second)), Err)
}

/// Two annotators on one question.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Kappa {
    /// Rows where both say yes.
    pub both: u64,
    /// Rows where only the first does.
    pub only_first: u64,
    /// Rows where only the second does.
    pub only_second: u64,
    /// Rows where neither does.
    pub neither: u64,
}

impl Kappa {
    fn add(&mut self, first: bool, second: bool) {
        *match (first, second) {
            (true, true) => &mut self.both,
            (true, false) => &mut self.only_first,
            (false, true) => &mut self.only_second,
            (false, false) => &mut self.neither,
        } += 1;
    }

    const fn plus(self, other: Self) -> Self {
        Self {
            both: self.both + other.both,
            only_first: self.only_first + other.only_first,
            only_second: self.only_second + other.only_second,
            neither: self.neither + other.neither,
        }
    }

    /// Cohen's kappa, from −1 to 1; none where it is not defined.
    #[must_use]
    pub fn value(self) -> Option<f64> {
        let rows = (self.both + self.only_first + self.only_second + self.neither) as f64;
        let observed = (self.both + self.neither) as f64 / rows;
        let first = (self.both + self.only_first) as f64 / rows;
        let second = (self.both + self.only_second) as f64 / rows;
        let expected = first.mul_add(second, (1.0 - first) * (1.0 - second));
        let kappa = (observed - expected) / (1.0 - expected);
        kappa.is_finite().then_some(kappa)
    }
}

/// Agreement on one output.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Compared {
    /// A label's name, `sat` or `dsat`.
    pub name: &'static str,
    /// The four counts.
    pub counts: Kappa,
    /// Cohen's kappa.
    pub kappa: Option<f64>,
    /// Its 95 % interval by bootstrap over conversations.
    pub interval: Option<(f64, f64)>,
}

/// Agreement on all outputs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Agreement {
    /// Follow-ups that both annotated.
    pub rows: u64,
    /// Conversations that they stand in.
    pub conversations: u64,
    /// Follow-ups that only the first annotated.
    pub only_first: u64,
    /// Follow-ups that only the second annotated.
    pub only_second: u64,
    /// Any satisfaction, any dissatisfaction, then the 18 labels.
    pub outputs: Vec<Compared>,
}

/// Compares two annotators on the follow-ups that both annotated.
///
/// # Errors
/// [`Error::Invalid`] where there are none.
pub fn compare(first: &Readings, second: &Readings, seed: u64) -> Result<Agreement> {
    let mut conversations: HashMap<&str, usize> = HashMap::new();
    let mut counts: Vec<[Kappa; OUTPUTS]> = Vec::new();
    let mut rows = 0;
    for (key, (conversation, said)) in &first.by_key {
        let Some((_, also_said)) = second.by_key.get(key) else { continue };
        rows += 1;
        let place = *conversations.entry(conversation).or_insert_with(|| {
            counts.push([Kappa::default(); OUTPUTS]);
            counts.len() - 1
        });
        for (output, kappa) in counts.get_mut(place).into_iter().flatten().enumerate() {
            kappa.add(said.has(output), also_said.has(output));
        }
    }
    if rows == 0 {
        let why = "the two annotated no follow-up in common: the same conversation_id, turn and texts are needed";
        return Err(Error::Invalid(why.to_owned()));
    }
    let sum = |chosen: &mut dyn Iterator<Item = usize>| {
        chosen.filter_map(|place| counts.get(place)).fold([Kappa::default(); OUTPUTS], |mut sum, of_one| {
            for (sum, of_one) in sum.iter_mut().zip(of_one) {
                *sum = sum.plus(*of_one);
            }
            sum
        })
    };
    let total = sum(&mut (0..counts.len()));
    let mut draws = ChaCha8Rng::seed_from_u64(seed);
    let mut resampled = vec![Vec::new(); OUTPUTS];
    for _ in 0..RESAMPLES {
        let sample = sum(&mut (0..counts.len()).map(|_| draws.random_range(0..counts.len())));
        for (values, kappa) in resampled.iter_mut().zip(sample) {
            values.extend(kappa.value());
        }
    }
    let order = [Kind::Satisfaction.output(), Kind::Dissatisfaction.output()].into_iter().chain(0..Label::ALL.len());
    let outputs = order
        .filter_map(|output| {
            let (counts, values) = (*total.get(output)?, resampled.get_mut(output)?);
            let interval = counts.value().and_then(|_| interval(values));
            Some(Compared { name: output_name(output)?, counts, kappa: counts.value(), interval })
        })
        .collect();
    Ok(Agreement {
        rows,
        conversations: conversations.len() as u64,
        only_first: first.by_key.len() as u64 - rows,
        only_second: second.by_key.len() as u64 - rows,
        outputs,
    })
}

/// The middle 95 % of resampled values; none where too many resamples had no kappa.
fn interval(values: &mut [f64]) -> Option<(f64, f64)> {
    if values.len() < RESAMPLES * 9 / 10 {
        return None;
    }
    values.sort_by(f64::total_cmp);
    let at = |permille: usize| values.get((values.len() - 1) * permille / 1_000).copied();
    Some((at(25)?, at(975)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(counts: (u64, u64, u64, u64), expected: Option<f64>) {
        let (both, only_first, only_second, neither) = counts;
        let kappa = Kappa { both, only_first, only_second, neither }.value();
        match (kappa, expected) {
            (Some(kappa), Some(expected)) => assert!((kappa - expected).abs() < 1e-9, "{kappa}"),
            (kappa, expected) => assert_eq!(kappa, expected),
        }
    }

    #[test]
    fn kappa_is_cohens() {
        // The grant example of the literature: 50 proposals, kappa .4.
        check((20, 5, 10, 15), Some(0.4));
        check((10, 0, 0, 10), Some(1.0));
        check((0, 10, 10, 0), Some(-1.0));
        check((25, 25, 25, 25), Some(0.0));
        check((0, 0, 0, 50), None);
        check((0, 0, 0, 0), None);
    }

    const LINE: &str = r#"{"conversation_id":"c","turn":1,"messages":[{"role":"assistant","content":"a"},{"role":"user","content":"b"}],"sat":["praise"],"dsat":[]}"#;

    fn readings(text: &str) -> Result<Readings> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Readings::read(file.path())
    }

    #[test]
    fn rows_meet_by_their_texts() {
        let other = LINE.replace("\"c\"", "\"d\"");
        let first = readings(&format!("{LINE}\n{other}\n")).unwrap();
        let second = readings(&format!("{}\n", LINE.replace(r#"["praise"]"#, r#"["gratitude"]"#))).unwrap();
        let agreement = compare(&first, &second, 1).unwrap();
        assert_eq!(
            (agreement.rows, agreement.only_first, agreement.only_second, agreement.conversations),
            (1, 1, 0, 1)
        );
        assert_eq!(agreement.outputs.len(), OUTPUTS);
        let counts = |name: &str| agreement.outputs.iter().find(|output| output.name == name).unwrap().counts;
        assert_eq!((counts("sat").both, counts("dsat").neither), (1, 1));
        assert_eq!((counts("praise").only_first, counts("gratitude").only_second), (1, 1));
        let apart = readings(&other).unwrap();
        assert!(compare(&second, &apart, 1).unwrap_err().to_string().contains("no follow-up in common"));
    }

    #[test]
    fn rows_that_are_none_are_refused() {
        for (text, reason) in [
            (format!("{LINE}\n{LINE}"), "line 2: the same follow-up stands in this file twice"),
            (LINE.replace("praise", "joy"), "unknown label `joy`"),
            (LINE.replace("praise", "style"), "wrong side"),
            (LINE.replace(r#","sat":["praise"],"dsat":[]"#, ""), "it has no labels"),
        ] {
            let error = readings(&text).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), LINE).unwrap();
        assert!(Readings::read_both(file.path()).unwrap_err().to_string().contains("name a second file"));
    }

    /// The figures that the data's own documentation gives for its second reading.
    #[test]
    fn the_second_reading_of_the_development_data_agrees_as_it_says() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/signals/annotated.jsonl.gz");
        if !path.is_file() {
            println!("skipped: {} is not there", path.display());
            return;
        }
        let (first, second) = Readings::read_both(&path).unwrap();
        let agreement = compare(&first, &second, 1).unwrap();
        assert_eq!((agreement.rows, agreement.only_first, agreement.only_second), (300, 0, 0));
        let kappa = |name: &str| agreement.outputs.iter().find(|output| output.name == name).unwrap().kappa.unwrap();
        for (name, expected) in
            [("sat", 0.88), ("dsat", 0.87), ("no_engagement", 0.50), ("humor", 0.66), ("acknowledgment", 0.67)]
        {
            assert!((kappa(name) - expected).abs() < 0.005, "{name}: {}", kappa(name));
        }
    }
}
