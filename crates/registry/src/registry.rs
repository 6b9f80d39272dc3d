//! Models in a lake.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use uptake_lake::Lake;
use uptake_model::time::{self, Micros};

use crate::describe::{ENTRY, describe, figures_of};
use crate::entry::{Entry, Kind, Lineage};
use crate::error::{Error, Result};
use crate::figures::Figures;
use crate::gates::{Decision, Gate, Outcome, judge};
use crate::history::{Action, Event, before};

/// Folder of all models in the lake.
const ROOT: &str = "models";
/// The folder beside those of the models, and therefore no name of one.
const HISTORY: &str = "history";

/// The models of a lake.
#[derive(Debug, Clone)]
pub struct Registry {
    lake: Lake,
    gates: Vec<Gate>,
}

/// What comes with a model that is added.
#[derive(Debug, Clone, Default)]
pub struct Added {
    /// What people call it; the directory's name when nothing is said.
    pub name: Option<String>,
    /// Table and id of the snapshot that it was trained on.
    pub snapshot: Option<String>,
    /// Models of the registry that it was made from or with.
    pub parents: Vec<String>,
    /// Reports of evaluations, beside what the trainer left in the directory.
    pub reports: Vec<PathBuf>,
    /// Version of the program.
    pub code_version: String,
}

/// Who changes what is in use, when and why.
#[derive(Debug, Clone, Default)]
pub struct Change {
    /// Who.
    pub by: String,
    /// When.
    pub at: Micros,
    /// Why.
    pub reason: Option<String>,
    /// Put it into use though the gates refuse it, or none has judged it; a reason must be given.
    pub force: bool,
}

impl Registry {
    /// The models of a lake, judged by these gates.
    ///
    /// # Errors
    /// When a gate bounds nothing.
    pub fn new(lake: Lake, gates: Vec<Gate>) -> Result<Self> {
        gates.iter().try_for_each(Gate::check).map_err(Error::Invalid)?;
        Ok(Self { lake, gates })
    }

    /// Copies a model directory into the lake, judges its figures, and writes its entry last. A model that is there
    /// already stays as it is; its entry is given back, and false.
    ///
    /// # Errors
    /// As [`describe`]; when a parent is unknown, a file changed while it was copied; the store's errors.
    pub async fn add(&self, directory: &Path, added: &Added, now: Micros) -> Result<(Entry, bool)> {
        let found = describe(directory)?;
        let name = added.name.clone().or(found.name).unwrap_or_default();
        check_name(&name)?;
        let id = format!("{name}/{}", found.version);
        if let Some(entry) = self.entry(&id).await? {
            return Ok((entry, false));
        }
        for parent in &added.parents {
            let _ = self.show(parent).await?;
        }
        let mut figures = found.figures;
        for report in &added.reports {
            figures.extend(figures_of(report)?);
        }
        let decision = self.judge(found.kind, &figures).await?;
        for file in &found.files {
            let (source, target) = (directory.join(&file.path), format!("{}/{}", folder(&id), file.path));
            let sent = self.lake.upload_object(&source, &target).await?;
            if sent.sha256 != file.sha256 {
                return Err(Error::Invalid(format!("`{}` changed while it was read: add it again", file.path)));
            }
        }
        let entry = Entry {
            format: Entry::FORMAT,
            id,
            kind: found.kind,
            name,
            version: found.version,
            added_at: time::time_text(now),
            files: found.files,
            lineage: Lineage {
                code_version: added.code_version.clone(),
                snapshot: added.snapshot.clone(),
                parents: added.parents.clone(),
                training: found.training,
            },
            figures,
            decision,
        };
        let path = format!("{}/{ENTRY}", folder(&entry.id));
        if self.lake.create_object(&path, to_json(&entry)?.into()).await? {
            return Ok((entry, true));
        }
        // Somebody has added the same model in the meantime.
        let entry = self.entry(&entry.id).await?;
        entry.map(|entry| (entry, false)).ok_or_else(|| Error::Conflict(format!("`{path}` came and went")))
    }

    /// Every model, by kind and then by the time when it was added.
    ///
    /// # Errors
    /// When an entry cannot be read; the store's errors.
    pub async fn list(&self) -> Result<Vec<Entry>> {
        let mut entries: Vec<Entry> = Vec::new();
        for (path, _) in self.lake.objects(ROOT).await? {
            // The entries alone: models/<name>/<version>/entry.json.
            if path.split('/').count() == 4 && path.ends_with(&format!("/{ENTRY}")) {
                entries.extend(self.read::<Entry>(&path).await?);
            }
        }
        entries.sort_by(|a, b| (a.kind, &a.added_at, &a.id).cmp(&(b.kind, &b.added_at, &b.id)));
        Ok(entries)
    }

    /// The model that an id, the beginning of a version, or a name with one version means.
    ///
    /// # Errors
    /// When there is none such, or several.
    pub async fn show(&self, wanted: &str) -> Result<Entry> {
        let all = self.list().await?;
        if let Some(entry) = all.iter().find(|entry| entry.id == wanted) {
            return Ok(entry.clone());
        }
        let mut found = all
            .iter()
            .filter(|entry| entry.name == wanted || (!wanted.is_empty() && entry.version.starts_with(wanted)));
        match (found.next(), found.next()) {
            (Some(entry), None) => Ok(entry.clone()),
            (None, _) => {
                let known = all.iter().map(|entry| entry.id.as_str()).collect::<Vec<_>>();
                let known = if known.is_empty() { "there is none yet".to_owned() } else { known.join(", ") };
                Err(Error::Invalid(format!("no model `{wanted}` in this lake; models: {known}")))
            }
            (Some(one), Some(other)) => {
                Err(Error::Invalid(format!("`{wanted}` is more than one model, such as {} and {}", one.id, other.id)))
            }
        }
    }

    /// Copies a model out of the lake below `cache`, unless it is there; gives its directory. Every file is compared
    /// with the digest in the entry.
    ///
    /// # Errors
    /// Corrupt when a file is not what was added; when `cache` cannot be written; the store's errors.
    pub async fn fetch(&self, entry: &Entry, cache: &Path) -> Result<PathBuf> {
        let target = cache.join(&entry.id);
        if target.is_dir() {
            return Ok(target);
        }
        let failed = |source| Error::File { action: "write", path: cache.to_owned(), source };
        std::fs::create_dir_all(cache.join(&entry.name)).map_err(failed)?;
        let partial = tempfile::tempdir_in(cache).map_err(failed)?;
        for file in &entry.files {
            let path = partial.path().join(&file.path);
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent).map_err(failed)?;
            }
            let stored = format!("{}/{}", folder(&entry.id), file.path);
            if self.lake.download_object(&stored, &path).await?.sha256 != file.sha256 {
                let fault = "is not what was added: add the model again, from its own directory";
                return Err(Error::Corrupt { path: stored, fault: fault.to_owned() });
            }
        }
        let partial = partial.keep();
        match std::fs::rename(&partial, &target) {
            Ok(()) => Ok(target),
            // Another process has fetched the same files.
            Err(_) if target.is_dir() => std::fs::remove_dir_all(&partial).map(|()| target).map_err(failed),
            Err(source) => Err(failed(source)),
        }
    }

    /// The history of a kind, oldest first.
    ///
    /// # Errors
    /// When a line cannot be read; the store's errors.
    pub async fn history(&self, kind: Kind) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        for (path, _) in self.lake.objects(&history(kind)).await? {
            events.extend(self.read::<Event>(&path).await?);
        }
        events.sort_by_key(|event| event.number);
        Ok(events)
    }

    /// The model in use; none where nothing was promoted, or all of it was rolled back.
    ///
    /// # Errors
    /// When the history names a model that is not there; the store's errors.
    pub async fn production(&self, kind: Kind) -> Result<Option<Entry>> {
        // The newest line is enough, and there may be many.
        let Some((path, _)) = self.lake.objects(&history(kind)).await?.pop() else { return Ok(None) };
        let Some(Event { model: Some(model), .. }) = self.read::<Event>(&path).await? else { return Ok(None) };
        let missing = || Error::Corrupt { path, fault: format!("names {model}, which is not in the registry") };
        self.entry(&model).await?.map(Some).ok_or_else(missing)
    }

    /// How figures fare under the gates, next to those of the model in use.
    ///
    /// # Errors
    /// As [`Registry::production`].
    pub async fn judge(&self, kind: Kind, figures: &Figures) -> Result<Decision> {
        let production = self.production(kind).await?;
        let rival = production.as_ref().map(|entry| (entry.id.as_str(), &entry.figures));
        Ok(judge(&self.gates, kind, figures, rival))
    }

    /// Puts a model into use, judged anew against the one that is.
    ///
    /// # Errors
    /// Invalid when the gates refuse it or none has judged it (unless forced, with a reason), or it is in use already;
    /// a conflict when somebody else changes what is in use at the same time.
    pub async fn promote(&self, entry: &Entry, change: &Change) -> Result<Event> {
        let events = self.history(entry.kind).await?;
        let previous = events.last().and_then(|event| event.model.clone());
        if previous.as_ref() == Some(&entry.id) {
            return Err(Error::Invalid(format!("{} is in use already", entry.id)));
        }
        let decision = self.judge(entry.kind, &entry.figures).await?;
        if decision.outcome != Outcome::Passed && !change.force {
            return Err(Error::Invalid(refusal(entry, &decision)));
        }
        if change.force && change.reason.as_deref().is_none_or(|reason| reason.trim().is_empty()) {
            return Err(Error::Invalid("whoever insists says why: add --reason".to_owned()));
        }
        let forced = decision.outcome != Outcome::Passed;
        let event = Event {
            number: next(&events),
            action: Action::Promoted,
            model: Some(entry.id.clone()),
            previous,
            at: time::time_text(change.at),
            by: change.by.clone(),
            reason: change.reason.clone(),
            forced,
            decision: Some(decision),
            nonce: nonce(),
        };
        self.write(entry.kind, event).await
    }

    /// Puts back the model that was in use before the present one.
    ///
    /// # Errors
    /// Invalid when there is nothing to go back from; a conflict as in [`Registry::promote`].
    pub async fn roll_back(&self, kind: Kind, change: &Change) -> Result<Event> {
        let events = self.history(kind).await?;
        let model = before(&events).map_err(|fault| Error::Invalid(format!("no {kind} to roll back: {fault}")))?;
        let event = Event {
            number: next(&events),
            action: Action::RolledBack,
            model,
            previous: events.last().and_then(|event| event.model.clone()),
            at: time::time_text(change.at),
            by: change.by.clone(),
            reason: change.reason.clone(),
            forced: false,
            decision: None,
            nonce: nonce(),
        };
        self.write(kind, event).await
    }

    async fn write(&self, kind: Kind, event: Event) -> Result<Event> {
        let path = format!("{}/{:012}.json", history(kind), event.number);
        if self.lake.create_object(&path, to_json(&event)?.into()).await? {
            return Ok(event);
        }
        Err(Error::Conflict(format!("somebody else has changed which {kind} is in use at the same time")))
    }

    async fn entry(&self, id: &str) -> Result<Option<Entry>> {
        self.read(&format!("{}/{ENTRY}", folder(id))).await
    }

    async fn read<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>> {
        let Some(bytes) = self.lake.object(path).await? else { return Ok(None) };
        let parsed = serde_json::from_slice(&bytes);
        parsed.map(Some).map_err(|error| Error::Corrupt {
            path: path.to_owned(),
            fault: format!("cannot be read ({error}): a newer version of uptake may have written it"),
        })
    }
}

fn folder(id: &str) -> String {
    format!("{ROOT}/{id}")
}

fn history(kind: Kind) -> String {
    format!("{ROOT}/{HISTORY}/{kind}")
}

/// A name is a folder on any store, and a word on a command line.
fn check_name(name: &str) -> Result<()> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if (1..=64).contains(&name.len()) && name.bytes().all(plain) && !name.starts_with('.') && name != HISTORY {
        return Ok(());
    }
    Err(Error::Invalid(format!(
        "`{name}` cannot be a model's name: 1 to 64 letters, digits, `.`, `_` and `-`, and not `{HISTORY}`; give one with --name"
    )))
}

fn next(events: &[Event]) -> u64 {
    events.last().map_or(1, |event| event.number + 1)
}

fn refusal(entry: &Entry, decision: &Decision) -> String {
    let broken: Vec<String> = decision
        .verdicts
        .iter()
        .filter(|verdict| !verdict.holds)
        .map(|verdict| format!("{}: {}", verdict.gate.figure, verdict.reason))
        .collect();
    let why = if broken.is_empty() {
        format!("no gate judges a {}; set [[models.gates]]", entry.kind)
    } else {
        format!("the gates refuse it: {}", broken.join("; "))
    };
    format!("{} is not promoted: {why} (or insist with --force --reason TEXT)", entry.id)
}

fn to_json(value: &impl Serialize) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(|error| Error::Bug(error.to_string()))?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// What no other process comes up with: the standard library seeds its hashers by chance.
fn nonce() -> String {
    format!("{:016x}{:08x}", RandomState::new().build_hasher().finish(), std::process::id())
}

#[cfg(test)]
mod tests;
