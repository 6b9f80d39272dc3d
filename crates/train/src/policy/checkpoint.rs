//! What a killed run leaves, below `OUT/checkpoint`: weights, moments and the number of steps in one file, so that they
//! agree whenever the file is there; and what the reference said. Metrics stand in `OUT/metrics.jsonl`.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use safetensors::SafeTensors;
use sha2::{Digest, Sha256};

use super::batches::MicroBatch;
use super::run::Reference;
use super::{Metrics, Options};
use crate::adamw::AdamW;
use crate::decoder::{Decoder, write_file, write_tensors};
use crate::error::{Error, Result};

/// Folder of a run that is under way.
pub(super) const FOLDER: &str = "checkpoint";
/// A JSON object per step.
pub(super) const METRICS_FILE: &str = "metrics.jsonl";
const STATE: &str = "state.safetensors";
const REFERENCE: &str = "reference.safetensors";
const REFERENCE_TENSOR: &str = "logps";

/// Where the checkpoint of one run is.
#[derive(Debug)]
pub(super) struct Place {
    out: PathBuf,
    /// Of options, rows and base: a checkpoint is for the same run only.
    run: String,
}

impl Place {
    pub(super) fn new(options: &Options, rows: &str, origin: &[&[u8]]) -> Result<Self> {
        let mut hash = Sha256::new();
        hash.update(serde_json::to_vec(options).map_err(|error| Error::Bug(error.to_string()))?);
        hash.update(rows);
        for part in origin {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Ok(Self { out: options.out.clone(), run: format!("{:x}", hash.finalize()) })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.out.join(FOLDER).join(name)
    }

    /// Tensors of a file and its note `steps`, if it is there and of this run.
    fn read(&self, name: &str) -> Result<Option<(HashMap<String, Tensor>, usize)>> {
        let path = self.path(name);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::File { action: "read", path, source }),
        };
        let other = |reason: &str| {
            Error::Invalid(format!(
                "`{}` {reason}: remove `{}` or name another directory",
                path.display(),
                self.out.join(FOLDER).display()
            ))
        };
        let broken = || other("is a checkpoint that cannot be read");
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|_| broken())?;
        let note = |key: &str| header.metadata().as_ref().and_then(|notes| notes.get(key));
        if note("run") != Some(&self.run) {
            return Err(other("is of a run with other options, rows or base model"));
        }
        let steps = note("steps").and_then(|steps| steps.parse().ok()).ok_or_else(broken)?;
        let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).map_err(|_| broken())?;
        Ok(Some((tensors, steps)))
    }

    fn save(&self, name: &str, tensors: &BTreeMap<String, Tensor>, steps: usize) -> Result<()> {
        write_tensors(&self.path(name), tensors, &[("run", self.run.clone()), ("steps", steps.to_string())])
    }

    /// Writes a checkpoint.
    pub(super) fn write(&self, decoder: &Decoder, optimiser: &AdamW, steps: usize) -> Result<()> {
        let mut tensors = BTreeMap::new();
        for (name, var) in decoder.parameters() {
            let _ = tensors.insert(format!("weight.{name}"), var.as_detached_tensor());
        }
        for (name, first, second) in optimiser.state() {
            let _ = tensors.insert(format!("first.{name}"), Tensor::new(first, &Device::Cpu)?);
            let _ = tensors.insert(format!("second.{name}"), Tensor::new(second, &Device::Cpu)?);
        }
        self.save(STATE, &tensors, steps)
    }

    /// Takes up the checkpoint of the same run, if there is one: the steps that were done.
    pub(super) fn take_up(&self, decoder: &Decoder, optimiser: &mut AdamW) -> Result<usize> {
        let Some((mut tensors, steps)) = self.read(STATE)? else { return Ok(0) };
        let mut take = |name: String| {
            tensors
                .remove(&name)
                .ok_or_else(|| Error::Invalid(format!("the checkpoint has no `{name}`: remove its folder")))
        };
        for (name, var) in decoder.parameters() {
            var.set(&take(format!("weight.{name}"))?)?;
        }
        let count = i32::try_from(steps).map_err(|error| Error::Bug(error.to_string()))?;
        optimiser.restore(count, |name| {
            Ok((take(format!("first.{name}"))?.to_vec1()?, take(format!("second.{name}"))?.to_vec1()?))
        })?;
        Ok(steps)
    }

    /// Keeps what the reference said, so that it is asked once.
    pub(super) fn keep_references(&self, references: &[Reference]) -> Result<()> {
        let logps: Vec<f32> =
            references.iter().flat_map(|batch| batch.answers.iter().chain(&batch.mismatched)).copied().collect();
        let logps = Tensor::new(logps.as_slice(), &Device::Cpu)?;
        self.save(REFERENCE, &BTreeMap::from([(REFERENCE_TENSOR.to_owned(), logps)]), 0)
    }

    /// What the reference said of these micro-batches, if it was kept.
    pub(super) fn references(&self, batches: &[MicroBatch]) -> Result<Option<Vec<Reference>>> {
        let Some((mut tensors, _)) = self.read(REFERENCE)? else { return Ok(None) };
        let logps = tensors.remove(REFERENCE_TENSOR).map(|logps| logps.to_vec1::<f32>()).transpose()?;
        let logps = logps.unwrap_or_default();
        let mut rest = logps.as_slice();
        let mut references = Vec::with_capacity(batches.len());
        for batch in batches {
            let mut take = |count: usize| rest.split_off(..count).map(<[f32]>::to_vec);
            let (Some(answers), Some(mismatched)) = (take(batch.sequences.len()), take(batch.mismatched.len())) else {
                return Ok(None);
            };
            references.push(Reference { answers, mismatched });
        }
        Ok(Some(references))
    }

    /// The log of metrics after `steps` steps; what stands there of later ones is computed again.
    pub(super) fn log(&self, steps: usize) -> Result<Log> {
        let path = self.out.join(METRICS_FILE);
        let lines = match std::fs::read_to_string(&path) {
            Ok(lines) => lines,
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            Err(source) => return Err(Error::File { action: "read", path, source }),
        };
        let kept: Vec<&str> = lines.split_inclusive('\n').take(steps).collect();
        if kept.len() < steps {
            return Err(Error::Invalid(format!(
                "`{}` has {} lines and the checkpoint is after step {steps}: remove the directory and start again",
                path.display(),
                kept.len()
            )));
        }
        write_file(&path, kept.concat().as_bytes())?;
        let file = File::options().append(true).open(&path);
        Ok(Log { file: file.map_err(|source| Error::File { action: "write", path: path.clone(), source })?, path })
    }
}

/// Metrics as they come.
#[derive(Debug)]
pub(super) struct Log {
    file: File,
    path: PathBuf,
}

impl Log {
    pub(super) fn push(&mut self, step: usize, metrics: &Metrics) -> Result<()> {
        let mut line = serde_json::Map::new();
        let _ = line.insert("step".to_owned(), step.into());
        for (name, value) in metrics {
            let _ = line.insert((*name).to_owned(), (*value).into());
        }
        let line = format!("{}\n", serde_json::Value::Object(line));
        let written = self.file.write_all(line.as_bytes());
        written.map_err(|source| Error::File { action: "write", path: self.path.clone(), source })
    }
}

/// The first and the last line of the metrics.
pub(super) fn ends(out: &Path) -> Result<(BTreeMap<String, f64>, BTreeMap<String, f64>)> {
    let path = out.join(METRICS_FILE);
    let text =
        std::fs::read_to_string(&path).map_err(|source| Error::File { action: "read", path: path.clone(), source })?;
    let parse = |line: Option<&str>| {
        serde_json::from_str(line.unwrap_or_default())
            .map_err(|error| Error::Invalid(format!("`{}` was changed: {error}", path.display())))
    };
    Ok((parse(text.lines().next())?, parse(text.lines().last())?))
}

/// Removes the folder of a run that is finished.
pub(super) fn remove(out: &Path) -> Result<()> {
    let path = out.join(FOLDER);
    std::fs::remove_dir_all(&path).map_err(|source| Error::File { action: "remove", path, source })
}
