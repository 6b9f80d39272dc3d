//! What can go wrong with a table, sorted by what the caller should do.

use std::error::Error as StdError;
use std::io;

use deltalake::DeltaTableError;
use deltalake::kernel::transaction::TransactionError;

/// A `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the caller should do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Try again later, with backoff: the store is away, full, or busy.
    Retry,
    /// Another writer has been here: drop the work, read the positions again, begin anew.
    Conflict,
    /// The request or the set-up is wrong: a person must change something.
    Invalid,
    /// What the store holds cannot be read.
    Corrupt,
    /// The process is ending.
    Stopped,
    /// A mistake in this program.
    Bug,
}

type Source = Box<dyn StdError + Send + Sync + 'static>;

/// An error of the lake.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The store does not answer, or answered that it is overloaded.
    #[error(
        "{context}: the store does not answer, check the network and the endpoint; it will be tried again: {source}"
    )]
    Unreachable {
        /// What was being done.
        context: String,
        /// What the store said.
        source: Source,
    },
    /// No space is left.
    #[error(
        "{context}: no space is left on the device; free some or extend the volume, nothing is lost until then: {source}"
    )]
    Full {
        /// What was being done.
        context: String,
        /// What the store said.
        source: Source,
    },
    /// The store refused access.
    #[error(
        "{context}: permission denied; give this user (or these credentials) read and write access to the lake: {source}"
    )]
    Permission {
        /// What was being done.
        context: String,
        /// What the store said.
        source: Source,
    },
    /// The store answers, but not to what it was asked with: credentials, bucket, region or clock are wrong.
    #[error("{context}: {advice}")]
    SetUp {
        /// What was being done.
        context: String,
        /// What is wrong, and what to do.
        advice: &'static str,
        /// What the store said.
        source: Source,
    },
    /// Another writer has moved a position that this writer owns.
    #[error(
        "{table}: position `{key}` stands at {}, this writer began at {}; another writer has been here, drop what is buffered and read the position again",
        text(*.stored),
        text(*.from)
    )]
    Fenced {
        /// Table.
        table: String,
        /// Application id of the position.
        key: String,
        /// Where the table stands.
        stored: Option<i64>,
        /// Where this writer began.
        from: Option<i64>,
    },
    /// Another writer has changed what this writer was replacing, or kept committing in between.
    #[error("{table}: {detail}; refresh the table and run again")]
    Conflict {
        /// Table.
        table: String,
        /// What happened.
        detail: String,
    },
    /// The table needs abilities that this version does not have.
    #[error(
        "{table}: the table was written by a newer version ({detail}); upgrade uptake, or point `--lake` elsewhere"
    )]
    Newer {
        /// Table.
        table: String,
        /// Which abilities.
        detail: String,
    },
    /// The table's columns contradict what this version writes.
    #[error(
        "{table}: {detail}; this table belongs to another version or program, point `--lake` elsewhere or move the directory away"
    )]
    Incompatible {
        /// Table.
        table: String,
        /// Which column, and how.
        detail: String,
    },
    /// The log entries that a reader needs have been cleaned up.
    #[error(
        "{table}: the log no longer holds version {missing}, the changes after version {since} cannot be listed; run a full rebuild"
    )]
    LogGone {
        /// Table.
        table: String,
        /// The version that the reader has seen.
        since: i64,
        /// The first version that is missing.
        missing: i64,
    },
    /// Rows that a reader has not seen yet were rewritten by a deletion.
    #[error(
        "{table}: the deletion of version {version} rewrote rows that were not read before it; run a full rebuild to read the survivors alone"
    )]
    Rewritten {
        /// Table.
        table: String,
        /// Version of the deletion.
        version: i64,
    },
    /// The table does not exist.
    #[error("{table}: no such table in this lake yet")]
    Absent {
        /// Table.
        table: String,
    },
    /// A request that cannot be carried out.
    #[error("{0}")]
    Invalid(String),
    /// Bytes that cannot be read as what they should be.
    #[error("{context}: {source}")]
    Corrupt {
        /// What was being read.
        context: String,
        /// Why it failed.
        source: Source,
    },
    /// The process is ending.
    #[error("{0}: stopped")]
    Stopped(String),
    /// A mistake in this program.
    #[error("{context}: {source}")]
    Bug {
        /// What was being done.
        context: String,
        /// What happened.
        source: Source,
    },
}

fn text(position: Option<i64>) -> String {
    position.map_or_else(|| "no position".to_owned(), |position| position.to_string())
}

impl Error {
    /// What the caller should do.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Unreachable { .. } | Self::Full { .. } => Kind::Retry,
            Self::Fenced { .. } | Self::Conflict { .. } => Kind::Conflict,
            Self::Permission { .. }
            | Self::SetUp { .. }
            | Self::Newer { .. }
            | Self::Incompatible { .. }
            | Self::LogGone { .. }
            | Self::Rewritten { .. }
            | Self::Absent { .. }
            | Self::Invalid(_) => Kind::Invalid,
            Self::Corrupt { .. } => Kind::Corrupt,
            Self::Stopped(_) => Kind::Stopped,
            Self::Bug { .. } => Kind::Bug,
        }
    }

    /// Whether the same request may succeed later.
    pub fn is_retryable(&self) -> bool {
        self.kind() == Kind::Retry
    }

    /// A mistake in this program.
    pub(crate) fn bug(context: impl Into<String>, source: impl Into<Source>) -> Self {
        Self::Bug { context: context.into(), source: source.into() }
    }

    /// Sorts an error of the libraries below by looking through its causes.
    pub(crate) fn sort(context: impl Into<String>, error: impl StdError + Send + Sync + 'static) -> Self {
        let context = context.into();
        let cause = cause_of(&error);
        let source: Source = Box::new(error);
        match cause {
            Cause::Full => Self::Full { context, source },
            Cause::Permission => Self::Permission { context, source },
            Cause::Away => Self::Unreachable { context, source },
            Cause::SetUp(advice) => Self::SetUp { context, advice, source },
            Cause::Newer(detail) => Self::Newer { table: context, detail },
            Cause::Unknown => Self::Corrupt { context, source },
        }
    }
}

/// What lies at the bottom of a chain of errors.
enum Cause {
    Full,
    Permission,
    Away,
    SetUp(&'static str),
    Newer(String),
    Unknown,
}

/// What S3 says in `<Code>` when a set-up is wrong (Amazon S3 API reference, "Error responses"), and what to do.
const SET_UP: [(&[&str], &str); 6] = [
    (
        // The last is versitygw's word.
        &["InvalidAccessKeyId", "NotSignedUp", "XAdminUserNotFound"],
        "the store does not know the access key; correct AWS_ACCESS_KEY_ID (and AWS_ENDPOINT_URL, if it is another service)",
    ),
    (&["SignatureDoesNotMatch"], "the store refuses the signature; correct AWS_SECRET_ACCESS_KEY"),
    (
        &["ExpiredToken", "InvalidToken", "TokenRefreshRequired", "RequestExpired"],
        "the session token is no longer valid; get new credentials (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN)",
    ),
    (
        &["NoSuchBucket", "InvalidBucketName"],
        "there is no such bucket; make it, or correct the name behind s3:// (and AWS_ENDPOINT_URL, if it is another service)",
    ),
    (
        &["AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraintException"],
        "the bucket is in another region; set AWS_REGION to it",
    ),
    (
        &["RequestTimeTooSkewed"],
        "the clock of this machine is wrong, so the store refuses its signatures; set the clock",
    ),
];

/// Asked of the machine itself when the environment names no credentials.
const NO_CREDENTIALS: &str = "no credentials are set, and this machine has no role that lends some; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY";

fn cause_of(error: &(dyn StdError + 'static)) -> Cause {
    let mut found = Cause::Unknown;
    let mut next = Some(error);
    while let Some(error) = next {
        match cause_of_one(error) {
            Cause::Unknown => {}
            // "Away" is what a generic store error says, "permission" what its status does; the answer of the store, further
            // down, may be more exact.
            Cause::Away if matches!(found, Cause::Permission) => {}
            weak @ (Cause::Away | Cause::Permission) => found = weak,
            exact => return exact,
        }
        // `io::Error` hides a custom error from `source`.
        next = error
            .downcast_ref::<io::Error>()
            .and_then(|error| error.get_ref().map(|inner| inner as &(dyn StdError + 'static)))
            .or_else(|| error.source());
    }
    found
}

fn cause_of_one(error: &(dyn StdError + 'static)) -> Cause {
    if let Some(error) = error.downcast_ref::<io::Error>() {
        return cause_of_io(error);
    }
    if let Some(error) = error.downcast_ref::<object_store::Error>() {
        return match error {
            object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
                Cause::Permission
            }
            object_store::Error::Generic { .. } | object_store::Error::JoinError { .. } => Cause::Away,
            _ => Cause::Unknown,
        };
    }
    let transaction = match error.downcast_ref::<DeltaTableError>() {
        Some(DeltaTableError::Transaction { source }) => Some(source),
        _ => error.downcast_ref::<TransactionError>(),
    };
    match transaction {
        Some(TransactionError::UnsupportedTableFeatures(features)) => Cause::Newer(format!("{features:?}")),
        _ => cause_of_text(&error.to_string()),
    }
}

fn cause_of_io(error: &io::Error) -> Cause {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => Cause::Full,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Cause::Permission,
        io::ErrorKind::ConnectionRefused
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::NotConnected
        | io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::TimedOut
        | io::ErrorKind::Interrupted => Cause::Away,
        _ => Cause::Unknown,
    }
}

/// The Delta kernel turns some causes into text.
fn cause_of_text(text: &str) -> Cause {
    let lower = text.to_lowercase();
    if let Some(cause) = cause_of_answer(text) {
        cause
    } else if lower.contains("unsupported") && (lower.contains("version") || lower.contains("feature")) {
        Cause::Newer(text.to_owned())
    } else if lower.contains("permission denied") {
        Cause::Permission
    } else if lower.contains("no space left") {
        Cause::Full
    } else if quotes_a_store(text) {
        Cause::Away
    } else {
        Cause::Unknown
    }
}

/// What the answer of an S3 service means, if a text quotes one. Its types are private to the library below.
fn cause_of_answer(text: &str) -> Option<Cause> {
    if let Some((code, _)) = text.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>")) {
        let known = SET_UP.iter().find(|(codes, _)| codes.contains(&code));
        return match known {
            Some((_, advice)) => Some(Cause::SetUp(advice)),
            None => (code == "AccessDenied").then_some(Cause::Permission),
        };
    }
    if text.contains("/latest/api/token") || text.contains("/latest/meta-data/iam/") {
        return Some(Cause::SetUp(NO_CREDENTIALS));
    }
    // A redirection without a place to go to.
    if text.contains("incorrectly configured region") {
        return Some(Cause::SetUp("the bucket is in another region; set AWS_REGION to it"));
    }
    ["status code: 401", "status code: 403"].iter().any(|status| text.contains(status)).then_some(Cause::Permission)
}

/// Whether a text holds what an object store says of a failed request: `Generic <store> error: …`.
fn quotes_a_store(text: &str) -> bool {
    text.split("Generic ").skip(1).any(|rest| {
        let mut words = rest.split(' ');
        words.next().is_some_and(|store| store != "DeltaTable" && store != "error:") && words.next() == Some("error:")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_found_however_deep_they_lie() {
        let wrap = |kind: io::ErrorKind| object_store::Error::Generic {
            store: "LocalFileSystem",
            source: Box::new(io::Error::from(kind)),
        };
        let sorted = |error| Error::sort("write `a`", DeltaTableError::from(error));
        assert!(matches!(sorted(wrap(io::ErrorKind::StorageFull)), Error::Full { .. }));
        assert!(matches!(sorted(wrap(io::ErrorKind::PermissionDenied)), Error::Permission { .. }));
        assert!(matches!(sorted(wrap(io::ErrorKind::ConnectionRefused)), Error::Unreachable { .. }));
        assert_eq!(sorted(wrap(io::ErrorKind::ConnectionRefused)).kind(), Kind::Retry);
        assert_eq!(sorted(wrap(io::ErrorKind::PermissionDenied)).kind(), Kind::Invalid);
    }

    #[test]
    fn causes_that_became_text_are_found_too() {
        let sorted = |text: &str| Error::sort("refresh", DeltaTableError::Generic(text.to_owned()));
        assert_eq!(sorted("Error interacting with object store: Generic S3 error: 503").kind(), Kind::Retry);
        assert_eq!(sorted("Generic LocalFileSystem error: Permission denied (os error 13)").kind(), Kind::Invalid);
        assert_eq!(sorted("missing field `add`").kind(), Kind::Corrupt);
        assert!(matches!(sorted("Unsupported reader version 9"), Error::Newer { .. }));
    }

    #[test]
    fn answers_of_s3_say_what_to_set() {
        let answer = |status: &str, code: &str| {
            let text = format!(
                "Error performing list request: Error performing GET http://s3/b in 1ms - Server returned non-2xx status code: \
                 {status}: <?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>no</Message></Error>"
            );
            Error::sort("open `a`", object_store::Error::Generic { store: "S3", source: text.into() })
        };
        for (status, code, advice) in [
            ("403 Forbidden", "InvalidAccessKeyId", "AWS_ACCESS_KEY_ID"),
            ("403 Forbidden", "SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY"),
            ("400 Bad Request", "ExpiredToken", "AWS_SESSION_TOKEN"),
            ("404 Not Found", "NoSuchBucket", "make it"),
            ("400 Bad Request", "AuthorizationHeaderMalformed", "AWS_REGION"),
            ("403 Forbidden", "AccessDenied", "permission denied"),
        ] {
            let error = answer(status, code);
            assert_eq!(error.kind(), Kind::Invalid, "{code}");
            assert!(error.to_string().contains(advice), "{code}: {error}");
        }
        for code in ["SlowDown", "InternalError", "ServiceUnavailable"] {
            assert_eq!(answer("503 Service Unavailable", code).kind(), Kind::Retry, "{code}");
        }
        let status = object_store::Error::PermissionDenied {
            path: "a".to_owned(),
            source: "status code: 403 Forbidden: <Code>InvalidAccessKeyId</Code>".into(),
        };
        assert!(matches!(Error::sort("write", status), Error::SetUp { .. }), "the answer says more than its status");
    }

    #[test]
    fn sentences_say_what_to_do() {
        let fenced =
            Error::Fenced { table: "bronze.events".into(), key: "live/messages/0".into(), stored: Some(9), from: None };
        assert_eq!(
            fenced.to_string(),
            "bronze.events: position `live/messages/0` stands at 9, this writer began at no position; another writer has been \
             here, drop what is buffered and read the position again"
        );
        assert_eq!(fenced.kind(), Kind::Conflict);
    }
}
