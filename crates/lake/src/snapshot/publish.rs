//! Publication: survey, write, check, and last the manifest.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, Float64Array, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::DataType;
use datafusion::common::DataFusionError;
use datafusion::dataframe::DataFrame;
use datafusion::execution::context::{SessionConfig, SessionContext};
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::functions_window::expr_fn::row_number;
use datafusion::logical_expr::{ColumnarValue, ExprFunctionExt as _, Volatility, create_udf};
use datafusion::prelude::{col, lit};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use serde::Serialize;
use sha2::{Digest, Sha256};
use uptake_model::time::{Day, day_text};

use super::check::{CheckOptions, Report, check_directory};
use super::layout::Layout;
use super::lengths::Histogram;
use super::manifest::{FORMAT, FileEntry, MANIFEST, Manifest, SplitRule, columns};
use super::rules::Rule;
use super::split::{Side, Splitter};
use super::survey::{Order, Survey, verdicts};
use super::transform::{self, days, published, rendered, texts};
use super::writer::{SplitWriter, hex};
use super::{card, publishable};
use crate::error::{Error, Result};
use crate::lake::Lake;
use crate::table::Table;

/// Memory of the sort before it spills to disk.
const MEMORY: usize = 1 << 30;

/// What to publish.
#[derive(Debug, Clone, Default)]
pub struct PublishRequest {
    /// Name of the gold table.
    pub table: String,
    /// SQL condition on its rows.
    pub filter: Option<String>,
    /// Leave out rows longer than this.
    pub max_tokens: Option<u64>,
    /// Seed of the order of the rows.
    pub seed: u64,
    /// First day whose conversations are all kept for testing; chosen when absent.
    pub test_from: Option<Day>,
    /// Delta version; the latest when absent.
    pub version: Option<i64>,
    /// Name of the tokenizer that the token counts of the gold tables are of.
    pub tokenizer: String,
}

/// How a publication ended.
#[derive(Debug)]
pub enum Outcome {
    /// The snapshot was written.
    Published(Box<Manifest>),
    /// The same snapshot was there; nothing was written.
    AlreadyThere(Box<Manifest>),
    /// There is nothing that may be published; the text says why and what to do.
    Refused(String),
    /// What was written breaks a rule, so it got no manifest: a mistake in the table or in the publication.
    Broken(Box<Report>),
}

/// What an id is made of.
#[derive(Serialize)]
struct Identity<'a> {
    format: &'a str,
    table: String,
    table_id: String,
    version: i64,
    filter: Option<&'a str>,
    max_tokens: Option<u64>,
    seed: u64,
    test_from: Option<Day>,
    tokenizer: &'a str,
}

/// Publishes a gold table below `snapshots/<name>/<id>/`.
///
/// # Errors
/// [`Error::Invalid`] when there is no such table, or the filter is no condition on its columns; the store's errors.
pub async fn publish(lake: &Lake, request: &PublishRequest) -> Result<Outcome> {
    let layout = Layout::of(&request.table).ok_or_else(|| {
        Error::Invalid(format!(
            "`{}` is no table that can be published; there are {}",
            request.table,
            publishable().join(", ")
        ))
    })?;
    let Some(table) = lake.existing(layout.spec).await? else {
        return Ok(Outcome::Refused(format!(
            "{} does not exist in this lake yet; run `uptake run` to build it",
            layout.spec
        )));
    };
    let table = match request.version {
        Some(version) => table.at_version(version).await?,
        None => table,
    };
    let publication = Publication { store: lake.store(), layout, request, id: id(&table, layout, request)? };
    if let Some(manifest) = Manifest::read(publication.store.as_ref(), &publication.directory()).await? {
        return Ok(Outcome::AlreadyThere(Box::new(manifest)));
    }
    publication.run(&table).await
}

fn id(table: &Table, layout: &Layout, request: &PublishRequest) -> Result<String> {
    let identity = Identity {
        format: FORMAT,
        table: layout.spec.qualified(),
        table_id: table.table_id(),
        version: table.version(),
        filter: request.filter.as_deref(),
        max_tokens: request.max_tokens,
        seed: request.seed,
        test_from: request.test_from,
        tokenizer: &request.tokenizer,
    };
    let bytes = serde_json::to_vec(&identity).map_err(|error| Error::bug("name the snapshot", error))?;
    Ok(format!("v{}-{}", table.version(), &hex(&Sha256::digest(&bytes))[..12]))
}

struct Publication<'a> {
    store: Arc<dyn ObjectStore>,
    layout: &'static Layout,
    request: &'a PublishRequest,
    id: String,
}

/// The rows of a batch that go to one split, and why each does.
type Part = (&'static str, RecordBatch, Vec<Side>);

/// What the second reading counts.
#[derive(Debug, Default)]
struct Counts {
    rules: BTreeMap<String, BTreeMap<String, u64>>,
    classes: BTreeMap<String, BTreeMap<String, u64>>,
    taggers: BTreeMap<String, u64>,
    models: BTreeMap<String, u64>,
    held_out_by: BTreeMap<String, u64>,
    lengths: Histogram,
}

impl Publication<'_> {
    fn directory(&self) -> Path {
        Path::from("snapshots").join(self.layout.spec.name).join(self.id.as_str())
    }

    async fn run(&self, table: &Table) -> Result<Outcome> {
        let frame = self.frame(table).await?;
        let read = frame.clone().count().await.map_err(|error| engine("read the table", error))? as u64;
        let frame = self.first_of_each_key(frame)?;
        let mut survey = self.survey(frame.clone()).await?;
        survey.repeated(read);
        if let Some(torn) = &survey.torn {
            return Ok(Outcome::Refused(format!(
                "{torn}: a model tested on such rows has seen them; rebuild the table with `uptake run --full`"
            )));
        }
        let (splitter, reason) = Splitter::choose(self.request.test_from, &survey.days());
        let side = move |day, test| splitter.side(if test { "test" } else { "train" }, day);
        let (conversations, rows) = survey.by_split(side);
        if let Some(refusal) = self.nothing_to_train_on(table, &survey, &rows) {
            return Ok(Outcome::Refused(refusal));
        }
        let order = Order::new(self.request.seed, self.layout, &survey, side);
        let (mut files, counts) = self.write(frame, splitter, order, &rows).await?;
        let mut manifest = self.manifest(table, &survey, (splitter, reason), counts);
        (manifest.conversations, manifest.rows) = (conversations, rows);
        if let Some(info) = card::dataset_info(&manifest, &files, self.layout) {
            let text =
                serde_json::to_string_pretty(&info).map_err(|error| Error::bug("describe the columns", error))?;
            files.push(self.put(card::DATASET_INFO, (text + "\n").into_bytes()).await?);
        }
        let readme = card::readme(&manifest, &files, self.layout);
        files.push(self.put(card::README, readme.into_bytes()).await?);
        files.sort_by(|one, other| one.path.cmp(&other.path));
        manifest.files = files;
        self.remove_strangers(&manifest).await?;
        let options = CheckOptions { unpublished: true, ..CheckOptions::default() };
        let report = check_directory(Arc::clone(&self.store), &self.directory(), &options).await?;
        if !report.faults.is_empty() {
            return Ok(Outcome::Broken(Box::new(report)));
        }
        let _ = self.put(MANIFEST, manifest.to_json()?).await?;
        Ok(Outcome::Published(Box::new(manifest)))
    }

    /// The rows of the table that meet the filter.
    async fn frame(&self, table: &Table) -> Result<DataFrame> {
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(FairSpillPool::new(MEMORY)))
            .build_arc()
            .map_err(|error| engine("set up the sort", error))?;
        let context = SessionContext::new_with_config_rt(SessionConfig::new(), runtime);
        let frame = context.read_table(table.provider().await?).map_err(|error| engine("read the table", error))?;
        let Some(filter) = &self.request.filter else { return Ok(frame) };
        let wrong = |error: DataFusionError| {
            Error::Invalid(format!(
                "the filter `{filter}` is no condition on {}: {}",
                self.layout.spec,
                error.strip_backtrace()
            ))
        };
        let condition = context.parse_sql_expr(filter, frame.schema()).map_err(wrong)?;
        frame.filter(condition).map_err(wrong)
    }

    /// The first row of each key. Days are built alone, so the same row may stand on two of them; a trainer would count
    /// it twice, and might be tested on what it was trained on.
    fn first_of_each_key(&self, frame: DataFrame) -> Result<DataFrame> {
        let mut order: Vec<_> = self.layout.kept.iter().map(|name| col(*name).sort(false, false)).collect();
        order.extend(["conversation_date", "conversation_id"].map(|name| col(name).sort(true, false)));
        let copy = row_number().partition_by(vec![col(self.layout.key())]).order_by(order).build();
        copy.and_then(|copy| frame.window(vec![copy.alias("_copy")]))
            .and_then(|frame| frame.filter(col("_copy").eq(lit(1_u64))))
            .and_then(|frame| frame.drop_columns(&["_copy"]))
            .map_err(|error| engine("leave out repeated rows", error))
    }

    async fn survey(&self, frame: DataFrame) -> Result<Survey> {
        let mut survey = Survey::default();
        let mut batches = frame.execute_stream().await.map_err(|error| engine("read the table", error))?;
        while let Some(batch) = batches.next().await {
            let batch = batch.map_err(|error| engine("read the table", error))?;
            let mut add = || {
                let batch = transform::typed(&batch, self.layout.spec)?;
                let verdicts = verdicts(&batch, self.layout, self.request.max_tokens)?;
                survey.add(&batch, self.layout, self.request.seed, &verdicts)
            };
            add().map_err(|error| Error::bug("survey the table", error))?;
        }
        Ok(survey)
    }

    fn nothing_to_train_on(&self, table: &Table, survey: &Survey, rows: &BTreeMap<String, u64>) -> Option<String> {
        let (spec, version) = (self.layout.spec, table.version());
        if survey.rows_read == 0 && self.request.filter.is_none() {
            return Some(format!(
                "{spec} is empty at version {version}; run `uptake run` when conversations have settled (`uptake sql \
                 \"SELECT * FROM gold.provisional\"` shows those that have not)"
            ));
        }
        if survey.rows_read == 0 {
            return Some(format!("no row of {spec} at version {version} meets the filter"));
        }
        if rows.get("train").is_none_or(|rows| *rows == 0) {
            let left: Vec<_> = survey.left_out.iter().map(|(reason, rows)| format!("{reason} {rows}")).collect();
            return Some(format!(
                "no row of {spec} is left for training: of {} rows read, {} are for testing, left out: {}; widen the \
                 filter, raise --max-tokens or choose a later --test-from",
                survey.rows_read,
                rows.get("test").unwrap_or(&0),
                if left.is_empty() { "none".to_owned() } else { left.join(", ") }
            ));
        }
        None
    }

    async fn write(
        &self,
        frame: DataFrame,
        splitter: Splitter,
        order: Order,
        rows: &BTreeMap<String, u64>,
    ) -> Result<(Vec<FileEntry>, Counts)> {
        let mut batches =
            self.sorted(frame, splitter, order)?.execute_stream().await.map_err(|error| engine("sort", error))?;
        let mut writers = Vec::new();
        for (split, rows) in rows.iter().filter(|(_, rows)| **rows > 0) {
            let split = if split == "train" { "train" } else { "test" };
            let open = |folder, schema| {
                SplitWriter::new(Arc::clone(&self.store), self.directory(), folder, split, *rows, schema)
            };
            writers.push((split, open("", self.layout.schema()), open(card::TEXT, self.layout.text_schema())));
        }
        let mut counts = Counts::default();
        while let Some(batch) = batches.next().await {
            let batch = batch.map_err(|error| engine("sort the rows", error))?;
            let parts = self.parts(&batch, splitter).map_err(|error| Error::bug("lay out the rows", error))?;
            for (split, batch, sides) in parts {
                counts.add(&batch, self.layout, &sides).map_err(|error| Error::bug("count the rows", error))?;
                let Some((_, main, text)) = writers.iter_mut().find(|(name, ..)| *name == split) else { continue };
                let laid_out = |error| Error::bug("lay out the rows", error);
                main.write(published(&batch, self.layout, &sides).map_err(laid_out)?).await?;
                text.write(rendered(&batch, self.layout).map_err(laid_out)?).await?;
            }
        }
        let mut files = Vec::new();
        for (_, main, text) in writers {
            files.extend(main.finish().await?);
            files.extend(text.finish().await?);
        }
        Ok((files, counts))
    }

    /// The rows in the order of the files.
    fn sorted(&self, frame: DataFrame, splitter: Splitter, order: Order) -> Result<DataFrame> {
        let (key, class) = (self.layout.key(), self.layout.class);
        let mut kinds = vec![DataType::Utf8, DataType::Utf8, DataType::Date32];
        let mut arguments = vec![col(key), col("split"), col("conversation_date")];
        if let Some(class) = class {
            kinds.push(DataType::Boolean);
            arguments.push(col(class));
        }
        let place = create_udf(
            "place_in_file",
            kinds,
            DataType::Float64,
            Volatility::Immutable,
            Arc::new(move |arguments: &[ColumnarValue]| {
                let columns = ColumnarValue::values_to_arrays(arguments)?;
                let (keys, splits) = (columns[0].as_string::<i32>(), columns[1].as_string::<i32>());
                let days = columns[2].as_primitive::<arrow::datatypes::Date32Type>();
                let classes = columns.get(3).map(AsArray::as_boolean);
                let places = (0..keys.len()).map(|row| {
                    let test = splitter.side(splits.value(row), days.value(row)) != Side::Train;
                    let class = classes.is_some_and(|classes| classes.is_valid(row) && classes.value(row));
                    order.position(keys.value(row), test, class)
                });
                Ok(ColumnarValue::Array(Arc::new(places.collect::<Float64Array>())))
            }),
        );
        let unsorted = |error| engine("sort the rows", error);
        frame
            .with_column("_place", place.call(arguments))
            .and_then(|frame| frame.sort(vec![col("_place").sort(true, false), col(key).sort(true, false)]))
            .map_err(unsorted)
    }

    /// The published rows of a batch, by split.
    fn parts(
        &self,
        batch: &RecordBatch,
        splitter: Splitter,
    ) -> std::result::Result<Vec<Part>, arrow::error::ArrowError> {
        let batch = transform::typed(batch, self.layout.spec)?;
        let verdicts = verdicts(&batch, self.layout, self.request.max_tokens)?;
        let (splits, days) = (texts(&batch, "split")?, days(&batch, "conversation_date")?);
        let sides: Vec<Option<Side>> = (0..batch.num_rows())
            .map(|row| verdicts[row].is_none().then(|| splitter.side(splits[row].unwrap_or_default(), days[row])))
            .collect();
        let mut parts = Vec::new();
        for split in ["train", "test"] {
            let mask: BooleanArray =
                sides.iter().map(|side| Some(side.is_some_and(|side| side.split() == split))).collect();
            if mask.true_count() > 0 {
                let sides = sides.iter().flatten().copied().filter(|side| side.split() == split).collect();
                parts.push((split, filter_record_batch(&batch, &mask)?, sides));
            }
        }
        Ok(parts)
    }

    fn manifest(&self, table: &Table, survey: &Survey, split: (Splitter, String), counts: Counts) -> Manifest {
        let (splitter, reason) = split;
        Manifest {
            format: FORMAT.to_owned(),
            name: self.layout.spec.name.to_owned(),
            id: self.id.clone(),
            table: self.layout.spec.qualified(),
            table_id: table.table_id(),
            version: table.version(),
            filter: self.request.filter.clone(),
            max_tokens: self.request.max_tokens,
            seed: self.request.seed,
            split: SplitRule {
                rule: "whole conversations by a hash of their id (column `split` of the table), and every conversation that \
                       began on or after `test_from`; `held_out_by` says which"
                    .to_owned(),
                test_from: splitter.test_from.map(day_text),
                reason,
                held_out_by: counts.held_out_by,
            },
            tokenizer: self.request.tokenizer.clone(),
            rows_read: survey.rows_read,
            left_out: survey.left_out.clone(),
            rows: BTreeMap::new(),
            conversations: BTreeMap::new(),
            rules: counts.rules,
            classes: counts.classes,
            taggers: counts.taggers,
            models: counts.models,
            lengths: counts.lengths.summary(self.request.max_tokens),
            columns: columns(&self.layout.schema()),
            text_columns: columns(&self.layout.text_schema()),
            files: Vec::new(),
        }
    }

    async fn put(&self, name: &str, bytes: Vec<u8>) -> Result<FileEntry> {
        let path = self.directory().join(name);
        let entry = FileEntry {
            path: name.to_owned(),
            split: None,
            rows: None,
            bytes: bytes.len() as u64,
            sha256: hex(&Sha256::digest(&bytes)),
        };
        let _ = self
            .store
            .put(&path, PutPayload::from(bytes))
            .await
            .map_err(|error| Error::sort(format!("write {path}"), error))?;
        Ok(entry)
    }

    /// Removes what a publication that was broken off left, and this one did not overwrite.
    async fn remove_strangers(&self, manifest: &Manifest) -> Result<()> {
        let directory = self.directory();
        let known: BTreeSet<Path> =
            manifest.files.iter().map(|file| Path::from(format!("{directory}/{}", file.path))).collect();
        let sorted = |error| Error::sort(format!("tidy {directory}"), error);
        let found: Vec<_> = self.store.list(Some(&directory)).try_collect().await.map_err(sorted)?;
        for file in found.into_iter().filter(|file| !known.contains(&file.location)) {
            self.store.delete(&file.location).await.map_err(sorted)?;
        }
        Ok(())
    }
}

impl Counts {
    fn add(
        &mut self,
        batch: &RecordBatch,
        layout: &Layout,
        sides: &[Side],
    ) -> std::result::Result<(), arrow::error::ArrowError> {
        let optional =
            |name: &str| if batch.column_by_name(name).is_some() { texts(batch, name).map(Some) } else { Ok(None) };
        let (rules, taggers, models) = (optional("rule_id")?, optional("tagger_id")?, optional("model")?);
        let lengths = transform::lengths(batch, layout)?;
        let classes =
            layout.class.and_then(|class| batch.column_by_name(class)).and_then(|column| column.as_boolean_opt());
        let one = |map: &mut BTreeMap<String, u64>, key: &str| *map.entry(key.to_owned()).or_default() += 1;
        for (row, side) in sides.iter().enumerate() {
            let split = side.split();
            if let Some(rules) = &rules {
                one(self.rules.entry(rules[row].unwrap_or("none").to_owned()).or_default(), split);
            }
            if let Some(classes) = classes {
                one(self.classes.entry(classes.value(row).to_string()).or_default(), split);
            }
            if let Some(taggers) = &taggers {
                one(&mut self.taggers, taggers[row].unwrap_or("none"));
            }
            if let Some(models) = &models {
                one(&mut self.models, models[row].unwrap_or("unknown"));
            }
            if let Some(reason) = side.held_out_by() {
                one(&mut self.held_out_by, reason);
            }
            self.lengths.add(lengths[row]);
        }
        Ok(())
    }
}

fn engine(context: &str, error: DataFusionError) -> Error {
    Error::sort(context, error)
}

impl fmt::Display for Manifest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {} ({} at version {})", self.name, self.id, self.table, self.version)
    }
}

/// Rules that a directory cannot meet before its manifest is written.
pub(super) const BEFORE_PUBLICATION: [Rule; 1] = [Rule::ManifestMissing];
