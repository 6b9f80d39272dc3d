//! What a model is called.

use std::fmt;

/// The revision where none is named.
const MAIN: &str = "main";
/// Longest part of a name.
const LONGEST: usize = 96;

/// A repository of a hub, and a branch, tag or commit of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// `organisation/model`, or `model` alone, as the oldest are called.
    pub(crate) repository: String,
    pub(crate) revision: String,
}

impl Name {
    /// Reads `organisation/model@revision`; without a revision, `main` is meant. Nothing where it can be no name: a path
    /// that starts in a dot or a slash, has more than one slash, or characters that no repository has.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (repository, revision) = text.split_once('@').unwrap_or((text, MAIN));
        let mut parts = repository.split('/');
        let (first, second, third) = (parts.next()?, parts.next(), parts.next());
        let good = is_part(first) && second.is_none_or(is_part) && third.is_none() && is_revision(revision);
        good.then(|| Self { repository: repository.to_owned(), revision: revision.to_owned() })
    }

    /// Its directory in the cache.
    pub(crate) fn folder(&self) -> String {
        format!("models--{}", self.repository.replace('/', "--"))
    }

    /// Whether the revision is a commit, which never means anything else.
    pub(crate) fn is_commit(&self) -> bool {
        is_commit(&self.revision)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.repository)?;
        if self.revision == MAIN { Ok(()) } else { write!(formatter, "@{}", self.revision) }
    }
}

fn is_plain(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '-' | '_' | '.')
}

fn is_part(text: &str) -> bool {
    let edge = |character: char| matches!(character, '-' | '.');
    !text.is_empty()
        && text.len() <= LONGEST
        && text.chars().all(is_plain)
        && !text.starts_with(edge)
        && !text.ends_with(edge)
        && !text.contains("--")
        && !text.contains("..")
}

fn is_revision(text: &str) -> bool {
    !text.is_empty()
        && text.split('/').all(|part| !part.is_empty() && !part.starts_with('.') && part.chars().all(is_plain))
}

/// Whether this is the whole hash of a commit.
pub(crate) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_paths() {
        for (text, repository, revision) in [
            ("HuggingFaceTB/SmolLM2-135M-Instruct", "HuggingFaceTB/SmolLM2-135M-Instruct", "main"),
            ("roberta-base", "roberta-base", "main"),
            ("a/b.c_d@v1.0", "a/b.c_d", "v1.0"),
            ("a/b@refs/pr/3", "a/b", "refs/pr/3"),
        ] {
            let name = Name::parse(text).unwrap();
            assert_eq!((name.repository.as_str(), name.revision.as_str()), (repository, revision));
            assert_eq!(name.to_string(), text);
        }
        for path in
            ["", "/a/b", "./a", "../a", "a/b/c", "a/", "a//b", "~/a", "a b", "a/..", "a@", "a@../b", "a--b/c", "é"]
        {
            assert_eq!(Name::parse(path), None, "{path}");
        }
        assert_eq!(Name::parse("a/b").unwrap().folder(), "models--a--b");
        assert!(Name::parse(&format!("a/b@{}", "0f".repeat(20))).unwrap().is_commit());
        assert!(!Name::parse("a/b@0f0f").unwrap().is_commit());
    }
}
