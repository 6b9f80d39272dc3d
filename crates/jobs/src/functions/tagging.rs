//! `tag(messages before the response, response, follow_up)`: the tagger as a function of SQL.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use datafusion::arrow::array::{Array, ArrayRef, Float32Array, StructArray};
use datafusion::arrow::datatypes::{DataType, Field, Fields};
use datafusion::common::Result;
use datafusion::logical_expr::ScalarUDF;
use uptake_model::labels::{DSAT, OUTPUTS, SAT, output_name};
use uptake_model::tables::Kind;
use uptake_tagger::{Exchange, Message, Role};

use super::arrays::{field, lists, structs, text_at, text_lists, texts};
use super::{Function, conversation, wrong};
use crate::tag::Tag;

/// Exchanges handed to the tagger at once: enough to fill its batches, few enough that progress moves.
const AT_ONCE: usize = 512;

/// Told how many exchanges have been tagged so far.
type Watch = Arc<dyn Fn(u64) + Send + Sync>;

/// A tagger, and who watches it.
#[derive(Clone)]
pub(crate) struct Tagging {
    tagger: Arc<dyn Tag>,
    tagged: Arc<AtomicU64>,
    watch: Watch,
}

impl fmt::Debug for Tagging {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Tagging").field("tagger", &self.tagger).finish_non_exhaustive()
    }
}

impl Tagging {
    pub(crate) fn new(tagger: Arc<dyn Tag>, watch: Watch) -> Self {
        Self { tagger, tagged: Arc::new(AtomicU64::new(0)), watch }
    }

    /// Version of the tagger.
    pub(crate) fn version(&self) -> &str {
        self.tagger.version()
    }

    /// Exchanges tagged so far.
    pub(crate) fn tagged(&self) -> u64 {
        self.tagged.load(Ordering::Relaxed)
    }

    pub(super) fn function(&self) -> ScalarUDF {
        let tagging = self.clone();
        Function::fixed("tag", 3, DataType::Struct(fields()), move |arguments| tagging.tag(arguments))
    }

    fn tag(&self, arguments: &[ArrayRef]) -> Result<ArrayRef> {
        let (before, responses) = (lists(&arguments[0])?, texts(&arguments[1])?);
        let said = structs(&before)?;
        let (roles, contents) = (texts(&field(&said, "role")?)?, texts(&field(&said, "content")?)?);
        let follow_ups = texts(&arguments[2])?;
        let rows = follow_ups.len();
        let message = |at: usize| Message {
            role: text_at(&roles, at).map_or(Role::Other, Role::of),
            text: text_at(&contents, at).unwrap_or_default(),
        };
        let exchanges: Vec<Exchange<'_>> = (0..rows)
            .map(|row| {
                let newest_first = conversation::range(&before, row).rev().map(message);
                let text = |column| text_at(column, row).unwrap_or_default();
                Exchange::after(newest_first, text(&responses), text(&follow_ups))
            })
            .collect();
        let mut scores = Vec::with_capacity(rows);
        for some in exchanges.chunks(AT_ONCE) {
            scores.extend(off_the_async_threads(|| self.tagger.tag(some)).map_err(wrong)?);
            let before = self.tagged.fetch_add(some.len() as u64, Ordering::Relaxed);
            (self.watch)(before + some.len() as u64);
        }
        if scores.len() != rows {
            return Err(wrong(format!("the tagger gave {} scores for {rows} exchanges", scores.len())));
        }
        let mut columns: Vec<ArrayRef> = vec![text_lists(scores.iter().map(|scores| {
            let fired = order().filter(|output| scores.fires[*output]).filter_map(output_name);
            Some(fired.collect::<Vec<_>>())
        }))?];
        for output in order() {
            let column: Float32Array = scores.iter().map(|scores| Some(scores.probabilities[output])).collect();
            columns.push(Arc::new(column));
        }
        Ok(Arc::new(StructArray::try_new(fields(), columns, None)?))
    }
}

/// Runs work that takes the processor for long. On a runtime of many threads the thread's other tasks move elsewhere
/// first; a runtime of one thread has nowhere to move them, and no others to wait.
fn off_the_async_threads<T>(work: impl FnOnce() -> T) -> T {
    use tokio::runtime::{Handle, RuntimeFlavor};
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

/// The outputs in the order of the table's columns: sat, dsat, then the labels.
fn order() -> impl Iterator<Item = usize> {
    [SAT, DSAT].into_iter().chain((0..OUTPUTS).filter(|output| *output != SAT && *output != DSAT))
}

fn fields() -> Fields {
    let labels = Field::new("labels", Kind::Texts.arrow(), true);
    let scores = order().filter_map(output_name).map(|name| Field::new(name, DataType::Float32, true));
    std::iter::once(labels).chain(scores).collect()
}
