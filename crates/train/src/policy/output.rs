//! The directory of an adapter: PEFT's two files, the metrics, the report, the card, and merged weights.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{File, TryLockError};
use std::path::Path;

use candle_core::{DType, Tensor};
use uptake_tagger::WEIGHTS_FILE;

use super::batches::RowCounts;
use super::checkpoint::{FOLDER, METRICS_FILE};
use super::{Method, Report};
use crate::decoder::{ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE, BaseFiles, Decoder, write_file, write_tensors};
use crate::error::{Error, Result};
use crate::metrics::Estimate;

const REPORT_FILE: &str = "run.json";
const CARD_FILE: &str = "README.md";
const LOCK_FILE: &str = ".lock";
/// Folder of the merged weights.
const MERGED: &str = "merged";

/// Makes the directory and keeps other runs out of it. One that holds anything but a run under way is refused.
pub(super) fn prepare(out: &Path) -> Result<File> {
    let failed = |action, source| Error::File { action, path: out.to_owned(), source };
    std::fs::create_dir_all(out).map_err(|source| failed("create", source))?;
    let under_way = out.join(FOLDER).is_dir();
    for entry in std::fs::read_dir(out).map_err(|source| failed("read", source))? {
        let name = entry.map_err(|source| failed("read", source))?.file_name();
        if !under_way && name != LOCK_FILE {
            return Err(Error::Invalid(format!(
                "`{}` is not empty: name a new directory for the adapter",
                out.display()
            )));
        }
    }
    let lock = File::create(out.join(LOCK_FILE)).map_err(|source| failed("lock", source))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(Error::Invalid(format!(
                "another run is writing to `{}`: wait for it, or name another",
                out.display()
            )));
        }
        Err(TryLockError::Error(source)) => return Err(failed("lock", source)),
    }
    std::fs::create_dir_all(out.join(FOLDER)).map_err(|source| failed("create", source))?;
    Ok(lock)
}

/// Gives the directory free.
pub(super) fn unlock(out: &Path, lock: File) -> Result<()> {
    drop(lock);
    let path = out.join(LOCK_FILE);
    std::fs::remove_file(&path).map_err(|source| Error::File { action: "remove", path, source })
}

/// Writes everything but the metrics, which were written step by step.
pub(super) fn write(report: &Report, decoder: &Decoder, base: &BaseFiles, stored: DType) -> Result<()> {
    let out = &report.options.out;
    report.options.adapter.write(out, &report.base.name, decoder.parameters())?;
    if report.options.merge {
        let merged = decoder.merged()?;
        let convert =
            |(name, tensor): (String, Tensor)| -> Result<(String, Tensor)> { Ok((name, tensor.to_dtype(stored)?)) };
        let merged = merged.into_iter().map(convert).collect::<Result<BTreeMap<_, _>>>()?;
        base.copy_companions(&out.join(MERGED))?;
        write_tensors(&out.join(MERGED).join(WEIGHTS_FILE), &merged, &[("format", "pt".to_owned())])?;
    }
    let json = serde_json::to_vec_pretty(report).map_err(|error| Error::Bug(error.to_string()))?;
    write_file(&out.join(REPORT_FILE), &json)?;
    write_file(&out.join(CARD_FILE), card(report).as_bytes())
}

/// What was learnt, as the card tells it.
fn held_out(report: &Report) -> String {
    let Some(held_out) = &report.held_out else {
        return "\nNo pairs were held out: what was learnt was not measured.\n".to_owned();
    };
    let text = |each: &Estimate| format!("{:.3} ({:.3} to {:.3})", each.value, each.low, each.high);
    format!(
        "\nOn {pairs} pairs of {data} {id} that were held out (95 % intervals over conversations):\n\n\
         | figure | before | after |\n|---|---|---|\n\
         | chosen has the larger implicit reward | .5 | {accuracy} |\n\
         | margin of the implicit rewards | 0 | {margin} |\n\
         | chosen is likelier | {whole_before} | {whole} |\n\
         | chosen is likelier per token | {token_before} | {token} |\n\
         | chosen is longer | {longer:.3} | {longer:.3} |\n",
        pairs = held_out.pairs,
        data = held_out.data.name,
        id = held_out.data.id,
        accuracy = text(&held_out.accuracy),
        margin = text(&held_out.margin),
        whole_before = text(&held_out.before.whole),
        whole = text(&held_out.after.whole),
        token_before = text(&held_out.before.per_token),
        token = text(&held_out.after.per_token),
        longer = held_out.longer_wins,
    )
}

/// Rows left out, by reason, in words.
pub(super) fn reasons(rows: &RowCounts) -> String {
    if rows.dropped.is_empty() {
        return "none".to_owned();
    }
    rows.dropped.iter().map(|(reason, count)| format!("{count} {reason}")).collect::<Vec<_>>().join(", ")
}

fn card(report: &Report) -> String {
    let Report { options, base, data, rows, first, last, .. } = report;
    let method = match options.method {
        Method::Sft => "supervised fine-tuning".to_owned(),
        Method::Dpo { beta } => format!("direct preference optimisation (β {beta})"),
        Method::Kto { beta, .. } => format!("Kahneman-Tversky optimisation (β {beta})"),
    };
    let mut text = format!(
        "---\nlibrary_name: peft\nbase_model: {quoted}\n---\n\n# Adapter by {method}\n\n\
         A low-rank adapter (rank {rank}, alpha {alpha}, on {modules}) of `{name}` (weights {sha256}), trained by uptake {version}.\n\n\
         - data: {data} {id}\n\
         - rows: {read} read, {used} used, {truncated} of them truncated at {limit} tokens; dropped: {dropped}\n\
         - {steps} steps of {batch} × {accumulate} rows, learning rate {rate} with warm-up and cosine, seed {seed}\n\n\
         | metric | first step | last step |\n|---|---|---|\n",
        quoted = serde_json::Value::from(base.name.as_str()),
        name = base.name,
        rank = options.adapter.rank,
        alpha = options.adapter.alpha,
        modules = options.adapter.modules.iter().map(|module| module.name()).collect::<Vec<_>>().join(", "),
        sha256 = base.sha256,
        version = env!("CARGO_PKG_VERSION"),
        data = data.name,
        id = data.id,
        read = rows.read,
        used = rows.used,
        truncated = rows.truncated,
        limit = options.max_length,
        dropped = reasons(rows),
        steps = report.steps,
        batch = options.batch,
        accumulate = options.accumulate,
        rate = options.learning_rate,
        seed = options.seed,
    );
    for (name, value) in last.iter().filter(|(name, _)| *name != "step" && *name != "epoch") {
        let before = first.get(name).map_or_else(|| "–".to_owned(), |value| format!("{value:.6}"));
        let _ = writeln!(text, "| {name} | {before} | {value:.6} |");
    }
    text.push_str(&held_out(report));
    let _ = write!(
        text,
        "\nThe first table has figures of the rows trained on. Files: \
         `{ADAPTER_CONFIG_FILE}`, `{ADAPTER_WEIGHTS_FILE}` (PEFT), `{METRICS_FILE}` (a line per step), `{REPORT_FILE}` (lineage).\n"
    );
    text
}
