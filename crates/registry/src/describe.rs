//! From a directory that a trainer left to what the registry says of it.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::entry::{Kind, ModelFile};
use crate::error::{Error, Result};
use crate::figures::{Figures, flatten};

/// By which file a directory is known.
const MARKS: [(&str, Kind); 3] =
    [("tagger.json", Kind::Tagger), ("reward.json", Kind::Reward), ("adapter_config.json", Kind::Policy)];
/// Where trainers leave what they measured.
const FIGURES: [&str; 2] = ["metrics.json", "figures.json"];
/// Where trainers leave what they were told, and the last of what they logged.
const RUN: &str = "run.json";
/// What only a run under way has.
const UNDER_WAY: [&str; 2] = ["checkpoint", ".lock"];
/// What the registry itself puts beside a model's files.
pub(crate) const ENTRY: &str = "entry.json";
/// What of the trainers' files says where a model comes from.
const ORIGINS: [&str; 3] = ["base", "data", "options"];

/// What a directory holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Description {
    /// What it is for.
    pub kind: Kind,
    /// Its files, sorted by path.
    pub files: Vec<ModelFile>,
    /// The first twelve digits of the digest over all files.
    pub version: String,
    /// What it calls itself, or its directory is called.
    pub name: Option<String>,
    /// What was measured.
    pub figures: Figures,
    /// What the trainer wrote of base, data and options.
    pub training: Value,
}

/// Reads a model directory: what kind it is, its files with their digests, and what the trainer left beside the weights.
/// Other engines' directories are known by the same names: an adapter in PEFT's layout, a language model in Hugging
/// Face's; `figures.json` takes whatever was measured elsewhere.
///
/// # Errors
/// When it is no model's directory, a run is still writing it, or a file cannot be read.
pub fn describe(directory: &Path) -> Result<Description> {
    let mut paths = Vec::new();
    collect(directory, directory, &mut paths)?;
    paths.sort();
    if let Some(mark) = UNDER_WAY.iter().find(|mark| directory.join(mark).exists()) {
        return Err(Error::Invalid(format!(
            "`{}` holds `{mark}`: a run is writing it, or was stopped; let it end first",
            directory.display()
        )));
    }
    if directory.join(ENTRY).exists() {
        return Err(Error::Invalid(format!(
            "`{}` holds `{ENTRY}`, which the registry writes: name the trainer's own directory",
            directory.display()
        )));
    }
    let kind = kind_of(directory)?;
    let files: Vec<ModelFile> = paths.iter().map(|path| digest(directory, path)).collect::<Result<_>>()?;
    let mut figures = Figures::new();
    let mut training = serde_json::Map::new();
    for name in FIGURES.into_iter().chain([RUN, "reward.json"]) {
        let Some(document) = document(directory, name)? else { continue };
        if FIGURES.contains(&name) {
            figures.extend(flatten(&document));
        } else if name == RUN {
            let figures_of_run = json!({"training": document.get("last"), "held_out": document.get("held_out")});
            figures.extend(flatten(&figures_of_run));
        }
        for origin in ORIGINS {
            if let Some(value) = document.get(origin) {
                let _ = training.entry(origin).or_insert_with(|| value.clone());
            }
        }
    }
    let mut all = Sha256::new();
    for file in &files {
        all.update(format!("{}\0{}\n", file.path, file.sha256));
    }
    let version = hex(&all.finalize())[..12].to_owned();
    let named =
        document(directory, "tagger.json")?.and_then(|settings| Some(settings.get("name")?.as_str()?.to_owned()));
    let name = named.or_else(|| Some(directory.file_name()?.to_str()?.to_owned()));
    let training = if training.is_empty() { Value::Null } else { Value::Object(training) };
    Ok(Description { kind, files, version, name, figures, training })
}

/// The figures of a report.
pub(crate) fn figures_of(report: &Path) -> Result<Figures> {
    let bytes =
        std::fs::read(report).map_err(|source| Error::File { action: "read", path: report.to_owned(), source })?;
    let document: Value = serde_json::from_slice(&bytes)
        .map_err(|error| Error::Invalid(format!("`{}` is no JSON: {error}", report.display())))?;
    let figures = flatten(&document);
    if figures.is_empty() {
        return Err(Error::Invalid(format!("`{}` holds no figures", report.display())));
    }
    Ok(figures)
}

fn kind_of(directory: &Path) -> Result<Kind> {
    if let Some((_, kind)) = MARKS.into_iter().find(|(mark, _)| directory.join(mark).is_file()) {
        return Ok(kind);
    }
    // A whole language model: its configuration names an architecture that generates.
    let generates = document(directory, "config.json")?.is_some_and(|config| {
        let names = config.get("architectures").and_then(Value::as_array).into_iter().flatten();
        names.filter_map(Value::as_str).any(|name| name.ends_with("ForCausalLM"))
    });
    if generates {
        return Ok(Kind::Policy);
    }
    Err(Error::Invalid(format!(
        "`{}` is no model's directory: it holds none of {}, and no config.json of a language model",
        directory.display(),
        MARKS.map(|(mark, _)| mark).join(", ")
    )))
}

/// Every file below, as `/`-separated paths. Links are refused: what they point to could change.
fn collect(root: &Path, directory: &Path, paths: &mut Vec<String>) -> Result<()> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::File { action: "read", path, source }
    };
    for entry in std::fs::read_dir(directory).map_err(failed(directory))? {
        let path = entry.map_err(failed(directory))?.path();
        let kind = path.symlink_metadata().map_err(failed(&path))?.file_type();
        if kind.is_symlink() {
            return Err(Error::Invalid(format!("`{}` is a link: put the file itself there", path.display())));
        }
        if kind.is_dir() {
            collect(root, &path, paths)?;
            continue;
        }
        let parts: Option<Vec<&str>> = path
            .strip_prefix(root)
            .ok()
            .map(|path| path.components().map(|part| part.as_os_str().to_str()).collect())
            .unwrap_or_default();
        let parts = parts.ok_or_else(|| Error::Invalid(format!("the name `{}` is not UTF-8", path.display())))?;
        paths.push(parts.join("/"));
    }
    Ok(())
}

fn digest(directory: &Path, path: &str) -> Result<ModelFile> {
    let full: PathBuf = directory.join(path);
    let failed = |source| Error::File { action: "read", path: full.clone(), source };
    let mut file = File::open(&full).map_err(failed)?;
    let mut digest = Sha256::new();
    let mut bytes = 0;
    let mut part = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut part).map_err(failed)?;
        if count == 0 {
            break;
        }
        digest.update(&part[..count]);
        bytes += count as u64;
    }
    Ok(ModelFile { path: path.to_owned(), bytes, sha256: hex(&digest.finalize()) })
}

fn document(directory: &Path, name: &str) -> Result<Option<Value>> {
    let path = directory.join(name);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(Error::File { action: "read", path, source }),
    };
    let parsed = serde_json::from_slice(&bytes);
    parsed.map(Some).map_err(|error| Error::Invalid(format!("`{}` is no JSON: {error}", path.display())))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(directory: &Path, files: &[(&str, &str)]) {
        for (name, text) in files {
            let path = directory.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
    }

    #[test]
    fn a_model_is_what_its_files_are() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        write(
            root,
            &[
                ("tagger.json", "{}"),
                ("metrics.json", r#"{"options":{"seed":1},"test":{"auroc":{"value":0.9,"low":0.8,"high":1.0}}}"#),
                ("parts/one.safetensors", "weights"),
            ],
        );
        let found = describe(root).unwrap();
        let paths: Vec<&str> = found.files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!((found.kind, paths), (Kind::Tagger, vec!["metrics.json", "parts/one.safetensors", "tagger.json"]));
        assert!((found.figures["test.auroc"].value - 0.9).abs() < 1e-12);
        assert_eq!(found.training, json!({"options": {"seed": 1}}));
        assert_eq!(describe(root).unwrap().version, found.version);
        write(root, &[("parts/one.safetensors", "heights")]);
        assert_ne!(describe(root).unwrap().version, found.version);
    }

    #[track_caller]
    fn check(files: &[(&str, &str)], expected: Result<Kind, &str>) {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), files);
        match (describe(directory.path()), expected) {
            (Ok(found), Ok(kind)) => assert_eq!(found.kind, kind),
            (Err(error), Err(words)) => assert!(error.to_string().contains(words), "{error}"),
            (found, expected) => panic!("{found:?} where {expected:?} was expected"),
        }
    }

    #[test]
    fn kinds_are_told_apart_and_the_rest_is_refused() {
        check(&[("reward.json", "{}")], Ok(Kind::Reward));
        check(&[("adapter_config.json", "{}")], Ok(Kind::Policy));
        check(&[("config.json", r#"{"architectures":["LlamaForCausalLM"]}"#)], Ok(Kind::Policy));
        check(&[("config.json", r#"{"architectures":["BertModel"]}"#)], Err("is no model's directory"));
        check(&[("tagger.json", "{}"), ("checkpoint/state", "")], Err("a run is writing it"));
        check(&[("tagger.json", "{}"), ("metrics.json", "{")], Err("is no JSON"));
        check(&[("tagger.json", "{}"), ("entry.json", "{}")], Err("which the registry writes"));
        assert!(describe(Path::new("/nonexistent")).is_err());
    }
}
