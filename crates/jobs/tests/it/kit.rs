//! A lake in memory, records that go through the real decoder, and a tagger that anybody can follow.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use datafusion::arrow::util::display::array_value_to_string;
use datafusion::catalog::MemorySchemaProvider;
use datafusion::common::TableReference;
use datafusion::datasource::MemTable;
use datafusion::prelude::{SessionConfig, SessionContext};
use serde_json::{Map, Value};
use uptake_jobs::{Pipelines, RunOptions, RunReport, Scored, Tag};
use uptake_lake::{Advance, CommitRequest, Lake};
use uptake_model::contract::Contract;
use uptake_model::decode::{Edge, Outcome, Record, decode};
use uptake_model::labels::{Label, OUTPUTS};
use uptake_model::rows::{EventRow, events_batch};
use uptake_model::time::Micros;
use uptake_model::{Pepper, tables};
use uptake_tagger::Exchange;

/// Query plans nest deeply: threads get a stack that holds them, as the program's do.
pub(crate) fn on_a_runtime<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .thread_stack_size(16 << 20)
        .build()
        .unwrap();
    runtime.block_on(async { tokio::spawn(work).await.unwrap() })
}

/// Words and the labels that they fire.
const WORDS: [(&str, Label); 9] = [
    ("thank", Label::Gratitude),
    ("perfect", Label::Praise),
    ("i see", Label::Acknowledgment),
    ("closer", Label::GettingThere),
    ("wrong", Label::FactualError),
    ("shorter", Label::Style),
    ("not what i asked", Label::Ignored),
    ("useless", Label::NegativeFeedback),
    ("again", Label::Revision),
];

/// Fires a label for each of a few words, and revision where the user says again what they said before the last message.
#[derive(Debug, Default)]
pub(crate) struct KeywordTagger {
    pub(crate) tagged: AtomicUsize,
    pub(crate) version: Option<&'static str>,
    /// A word that it does not know.
    pub(crate) deaf_to: Option<&'static str>,
}

impl Tag for KeywordTagger {
    fn version(&self) -> &str {
        self.version.unwrap_or("keywords-1")
    }

    fn tag(&self, exchanges: &[Exchange<'_>]) -> Result<Vec<Scored>, String> {
        let _ = self.tagged.fetch_add(exchanges.len(), Ordering::Relaxed);
        Ok(exchanges.iter().map(|exchange| self.score(exchange)).collect())
    }
}

impl KeywordTagger {
    fn score(&self, exchange: &Exchange<'_>) -> Scored {
        let mut scored = Scored { probabilities: [0.0625; OUTPUTS], fires: [false; OUTPUTS] };
        let said = exchange.follow_up.to_lowercase();
        let again = exchange.earlier_users.contains(&exchange.follow_up).then_some(("", Label::Revision));
        for (word, label) in WORDS.into_iter().chain(again) {
            if said.contains(word) && self.deaf_to != Some(word) {
                for output in [label.output(), label.kind().output()] {
                    scored.probabilities[output] = 0.875;
                    scored.fires[output] = true;
                }
            }
        }
        scored
    }
}

/// Read and planned once for all cases.
static PIPELINES: OnceLock<Pipelines> = OnceLock::new();

/// A lake in memory and the readers' positions.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) lake: Lake,
    pub(crate) tagger: Arc<KeywordTagger>,
    /// The one on trial: another version, which does not know thanks.
    pub(crate) shadow: Option<Arc<KeywordTagger>>,
    pub(crate) pipelines: Pipelines,
    offsets: BTreeMap<String, i64>,
    runs: usize,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self {
            lake: Lake::in_memory().unwrap(),
            tagger: Arc::new(KeywordTagger::default()),
            shadow: None,
            pipelines: PIPELINES.get_or_init(|| Pipelines::from_directory(&crate::pipelines()).unwrap()).clone(),
            offsets: BTreeMap::new(),
            runs: 0,
        }
    }

    /// With a tagger on trial: another version, which does not know thanks.
    pub(crate) fn with_shadow() -> Self {
        let deaf = KeywordTagger { version: Some("keywords-2"), deaf_to: Some("thank"), ..KeywordTagger::default() };
        Self { shadow: Some(Arc::new(deaf)), ..Self::new() }
    }

    /// Appends records to bronze events in one commit, decoded as `uptake consume` does, at `now`.
    pub(crate) async fn ingest(
        &mut self,
        records: &[(Contract, Map<String, Value>)],
        now: Micros,
    ) -> Result<(), String> {
        let pepper = Pepper::new("a pepper for tests").unwrap();
        let edge = Edge { pepper, max_record_bytes: 1 << 20, pipeline_version: "test".to_owned() };
        let mut rows: Vec<EventRow> = Vec::new();
        let mut advances: BTreeMap<String, Advance> = BTreeMap::new();
        for (contract, object) in records {
            let topic = contract.to_string();
            let offset = self.offsets.entry(topic.clone()).or_default();
            let key = format!("live/{topic}/0");
            let from = (*offset > 0).then_some(*offset);
            let advance = advances.entry(key.clone()).or_insert(Advance { key, from, to: *offset });
            let payload = Value::Object(object.clone()).to_string();
            let record = Record {
                topic: &topic,
                partition: 0,
                offset: *offset,
                key: None,
                payload: Some(payload.as_bytes()),
                headers: vec![],
                broker_time: Some(now),
            };
            match decode(&record, *contract, &edge, now) {
                Outcome::Event(row) => rows.push(*row),
                Outcome::Letter(letter) => return Err(format!("{payload} is refused: {}", letter.error)),
                Outcome::Tombstone => return Err("a tombstone".to_owned()),
            }
            *offset += 1;
            advance.to = *offset;
        }
        let table = self.lake.table(&tables::EVENTS).await.map_err(|error| error.to_string())?;
        let request = CommitRequest {
            batches: vec![events_batch(&rows).unwrap()],
            advances: advances.into_values().collect(),
            ..CommitRequest::default()
        };
        let _ = table.append(request).await.map_err(|error| error.to_string())?;
        Ok(())
    }

    /// Runs pipelines.
    pub(crate) async fn run(
        &mut self,
        names: &[String],
        now: Micros,
        watermark: Option<Micros>,
        full: bool,
    ) -> Result<Vec<RunReport>, uptake_jobs::Error> {
        self.runs += 1;
        let mut options = RunOptions::new(format!("run-{}", self.runs), now);
        options.watermark = watermark;
        options.full_rebuild = full;
        options.shadow = self.shadow.as_ref().map(|shadow| -> Arc<dyn Tag> { Arc::<KeywordTagger>::clone(shadow) });
        let tagger: Arc<dyn Tag> = Arc::<KeywordTagger>::clone(&self.tagger);
        Box::pin(uptake_jobs::run(&self.lake, &self.pipelines, names, tagger, &options)).await
    }

    /// The rows of a query over the tables, columns parted by ` | `.
    pub(crate) async fn query(&self, sql: &str) -> Result<Vec<String>, String> {
        let mut config = SessionConfig::new();
        config.options_mut().execution.parquet.schema_force_view_types = false;
        let context = SessionContext::new_with_config(config);
        let catalog = context.catalog("datafusion").unwrap();
        for layer in ["bronze", "silver", "gold", "control"] {
            let _ = catalog.register_schema(layer, Arc::new(MemorySchemaProvider::new())).unwrap();
        }
        for spec in tables::ALL {
            let provider: Arc<dyn datafusion::catalog::TableProvider> = match self.lake.existing(spec).await.unwrap() {
                Some(table) => table.provider().await.unwrap(),
                None => Arc::new(MemTable::try_new(spec.schema(), vec![vec![]]).unwrap()),
            };
            let name = TableReference::partial(spec.layer.name(), spec.name);
            let _ = context.register_table(name, provider).unwrap();
        }
        let batches = async { context.sql(sql).await?.collect().await }.await.map_err(|error| error.to_string())?;
        let mut rows = Vec::new();
        for batch in &batches {
            for row in 0..batch.num_rows() {
                let cells = batch.columns().iter().map(|column| array_value_to_string(column, row).unwrap());
                rows.push(cells.collect::<Vec<_>>().join(" | ").trim().to_owned());
            }
        }
        Ok(rows)
    }

    /// Names and sizes of every data file of the derived tables: two builds with the same rows have the same.
    pub(crate) async fn files(&self) -> Vec<String> {
        let mut files = Vec::new();
        for spec in tables::ALL.into_iter().filter(|spec| spec.column("conversation_date").is_some()) {
            if let Some(table) = self.lake.existing(spec).await.unwrap() {
                files.extend(table.files().iter().map(|file| format!("{spec} {} {}", file.path, file.size)));
            }
        }
        files.retain(|file| !file.starts_with("bronze."));
        files.sort();
        files
    }
}
