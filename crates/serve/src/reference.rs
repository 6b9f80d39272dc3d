//! Names of tables in the catalog, with the point in time that they are read at.
//!
//! A table at a point in time is a table of its own in the catalog: `preference_pairs@v3` is version 3,
//! `preference_pairs@t1790000000000000` what stood at that microsecond. Queries say `VERSION AS OF` or `at_version(…)`;
//! [`crate::time_travel`] turns that into these names before the query is planned.

use uptake_model::tables::{self, TableSpec};

/// Which state of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// As it is now.
    Latest,
    /// A version of its transaction log.
    Version(i64),
    /// As it was at that time, in microseconds since 1970 UTC.
    Time(i64),
}

/// A table's name and the state that is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reference {
    /// The table's name in its schema.
    pub(crate) name: String,
    /// Its state.
    pub(crate) moment: Moment,
}

impl Reference {
    /// Reads a name of the catalog.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let Some((name, moment)) = text.split_once('@') else {
            return Some(Self { name: text.to_owned(), moment: Moment::Latest });
        };
        let moment = match moment.split_at_checked(1)? {
            ("v", version) => Moment::Version(version.parse().ok()?),
            ("t", micros) => Moment::Time(micros.parse().ok()?),
            _ => return None,
        };
        Some(Self { name: name.to_owned(), moment })
    }

    /// The name in the catalog.
    pub(crate) fn catalog_name(&self) -> String {
        match self.moment {
            Moment::Latest => self.name.clone(),
            Moment::Version(version) => format!("{}@v{version}", self.name),
            Moment::Time(micros) => format!("{}@t{micros}", self.name),
        }
    }
}

/// The table that a name means: `gold.preference_pairs`, or `preference_pairs` alone, since names are unique.
pub(crate) fn find(name: &str) -> Option<&'static TableSpec> {
    tables::find(name).or_else(|| tables::ALL.into_iter().find(|spec| spec.name == name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn catalog_names_round_trip() {
        for moment in [Moment::Latest, Moment::Version(3), Moment::Time(-5)] {
            let reference = Reference { name: "turns".to_owned(), moment };
            assert_eq!(Reference::parse(&reference.catalog_name()), Some(reference));
        }
    }

    #[test]
    fn nonsense_is_no_reference() {
        for text in ["turns@", "turns@v", "turns@x3", "turns@v3.5", "turns@é"] {
            assert_eq!(Reference::parse(text), None, "{text}");
        }
    }

    #[test]
    fn names_are_unique_across_layers() {
        for spec in tables::ALL {
            assert_eq!(find(spec.name).map(TableSpec::qualified), Some(spec.qualified()));
        }
    }
}
