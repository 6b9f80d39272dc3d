//! What of a table is replaced: whole days, a slice of them, or everything.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use deltalake::kernel::{Add, LogicalFileView};
use uptake_model::time::Day;
use uptake_model::{Kind, TableSpec};

use crate::encode::Encoded;
use crate::error::{Error, Result};
use crate::statistics::date_text;
use crate::table::State;
use crate::upload;

/// Rows of whole days that are written and that nobody sees yet: [`Table::stage`](crate::Table::stage) makes it,
/// [`Table::replace_staged`](crate::Table::replace_staged) shows it.
#[derive(Debug)]
pub struct Staged {
    pub(crate) scope: Scope,
    /// The files that the writer saw.
    pub(crate) base: BTreeSet<String>,
    /// Those of them that go.
    pub(crate) changed: BTreeSet<String>,
    pub(crate) adds: Vec<Add>,
}

impl Staged {
    /// Several as one.
    pub(crate) fn together(parts: Vec<Self>) -> Result<Option<Self>> {
        let mut parts = parts.into_iter();
        let Some(mut all) = parts.next() else { return Ok(None) };
        for part in parts {
            all.scope.extend(part.scope)?;
            all.base.extend(part.base);
            all.changed.extend(part.changed);
            all.adds.extend(part.adds);
        }
        Ok(Some(all))
    }
}

/// What of a table is replaced.
#[derive(Debug)]
pub(crate) struct Scope {
    /// The date column and the days as the log writes them; none for tables without one.
    days: Option<(&'static str, BTreeSet<String>)>,
    slice: Option<(String, String)>,
}

impl Scope {
    pub(crate) fn new(spec: &TableSpec, days: &[Day], slice: Option<(&str, &str)>) -> Result<Self> {
        let is_date = |name: &&&str| spec.column(name).is_some_and(|column| column.kind == Kind::Date);
        let date = spec.partition.iter().find(is_date).copied();
        if date.is_none() && !days.is_empty() {
            return Err(Error::Invalid(format!("{spec} has no partition by day; replace it as a whole")));
        }
        if let Some((name, _)) = slice
            && !spec.partition.contains(&name)
        {
            return Err(Error::Invalid(format!("{spec} has no partition column `{name}`")));
        }
        let text = |day: &Day| {
            date_text(*day).ok_or_else(|| Error::Invalid(format!("day {day} lies outside of the calendar")))
        };
        let days: BTreeSet<String> = days.iter().map(text).collect::<Result<_>>()?;
        Ok(Self {
            days: date.map(|name| (name, days)),
            slice: slice.map(|(name, value)| (name.to_owned(), value.to_owned())),
        })
    }

    /// Widens this scope by the days of another one of the same table.
    fn extend(&mut self, other: Self) -> Result<()> {
        if self.slice != other.slice {
            return Err(Error::Invalid("parts of one replacement must be of one slice".to_owned()));
        }
        match (&mut self.days, other.days) {
            (Some((_, days)), Some((_, more))) if days.is_disjoint(&more) => {
                days.extend(more);
                Ok(())
            }
            _ => Err(Error::Invalid("parts of one replacement must be of different days".to_owned())),
        }
    }

    fn holds(&self, value: impl Fn(&str) -> Option<String>) -> bool {
        let in_days = self.days.as_ref().is_none_or(|(name, days)| value(name).is_some_and(|day| days.contains(&day)));
        let in_slice = self.slice.as_ref().is_none_or(|(name, wanted)| value(name).as_ref() == Some(wanted));
        in_days && in_slice
    }

    /// The live files inside.
    pub(crate) fn files(&self, spec: &TableSpec, state: &State) -> Result<Vec<LogicalFileView>> {
        let snapshot =
            state.table.snapshot().map_err(|error| Error::bug(format!("list the files of {spec}"), error))?;
        let inside = snapshot.log_data().into_iter().filter(|view| {
            let values = view.partition_values_map();
            self.holds(|name| values.get(name).cloned().flatten())
        });
        Ok(inside.collect())
    }

    /// Refuses rows outside.
    pub(crate) fn check(&self, spec: &TableSpec, files: &[Encoded]) -> Result<()> {
        for file in files {
            let value = |name: &str| {
                let found = file.partition.iter().find(|(column, _)| column == name);
                found.and_then(|(_, value)| value.clone())
            };
            if !self.holds(value) {
                return Err(Error::Invalid(format!(
                    "rows of {spec} with {:?} lie outside of what is replaced, {}",
                    file.partition,
                    self.text()
                )));
            }
        }
        Ok(())
    }

    pub(crate) fn text(&self) -> String {
        self.predicate().unwrap_or_else(|| "the whole table".to_owned())
    }

    pub(crate) fn predicate(&self) -> Option<String> {
        let days = self.days.as_ref().map(|(name, days)| {
            let days: Vec<String> = days.iter().map(|day| format!("DATE '{day}'")).collect();
            if days.is_empty() { "false".to_owned() } else { format!("{name} IN ({})", days.join(", ")) }
        });
        let slice = self.slice.as_ref().map(|(name, value)| format!("{name} = '{}'", value.replace('\'', "''")));
        let terms: Vec<String> = slice.into_iter().chain(days).collect();
        (!terms.is_empty()).then(|| terms.join(" AND "))
    }
}

/// Compares what is there with what is to be: the paths that go, and the files that come.
pub(crate) fn difference(live: &[LogicalFileView], files: Vec<Encoded>) -> (BTreeSet<String>, Vec<Encoded>) {
    type Values = BTreeMap<String, Option<String>>;
    let mut old: HashMap<Values, Vec<String>> = HashMap::new();
    for view in live {
        let values = view.partition_values_map().into_iter().collect();
        old.entry(values).or_default().push(view.path().into_owned());
    }
    let mut new: BTreeMap<Values, Vec<Encoded>> = BTreeMap::new();
    for file in files {
        new.entry(file.partition.iter().cloned().collect()).or_default().push(file);
    }
    let mut fresh = Vec::new();
    for (values, files) in new {
        let mut digests: Vec<Option<&str>> = files.iter().map(|file| Some(file.digest.as_str())).collect();
        let mut present: Vec<Option<&str>> =
            old.get(&values).into_iter().flatten().map(|path| upload::digest_in(path)).collect();
        digests.sort_unstable();
        present.sort_unstable();
        if digests == present {
            old.remove(&values);
        } else {
            fresh.extend(files);
        }
    }
    (old.into_values().flatten().collect(), fresh)
}
