//! Reading back what bronze was told: the events of a conversation, and those of a span of offsets.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Date32Type, Int32Type, Int64Type, TimestampMicrosecondType};
use datafusion::common::ScalarValue;
use datafusion::prelude::{Expr, SessionContext, col, lit};
use uptake_model::facts::Telling;
use uptake_model::tables::EVENTS;
use uptake_model::time::Day;
use uptake_model::{Next, SourcePartition};

use crate::error::{Error, Result};
use crate::lake::Lake;
use crate::table::Table;

/// The columns of a [`Telling`], in the order in which they are read.
const COLUMNS: [&str; 12] = [
    "topic",
    "partition",
    "offset",
    "event_id",
    "kind",
    "conversation_date",
    "event_time",
    "ingest_time",
    "broker_time",
    "clock_skew",
    "subject_key",
    "payload",
];

/// A record may be read a day before its conversation began, as the clocks go; never earlier.
const CLOCKS_DIFFER: Day = 1;

/// The events in bronze that tell of turns.
#[derive(Debug)]
pub struct Tellings {
    events: Table,
}

impl Tellings {
    /// Opens bronze `events`, making it where it is absent.
    ///
    /// # Errors
    /// As [`Lake::table`].
    pub async fn open(lake: &Lake) -> Result<Self> {
        Ok(Self { events: lake.table(&EVENTS).await? })
    }

    /// All that was told of these conversations, as of now. Files of days before the first of them began are not read.
    ///
    /// # Errors
    /// What the store says.
    pub async fn of_conversations(&self, conversations: &[(Day, String)]) -> Result<Vec<Telling>> {
        let Some(first) = conversations.iter().map(|(day, _)| *day).min() else { return Ok(Vec::new()) };
        let day = |day: Day| lit(ScalarValue::Date32(Some(day)));
        let mut days: Vec<Day> = conversations.iter().map(|(day, _)| *day).collect();
        days.sort_unstable();
        days.dedup();
        let ids = conversations.iter().map(|(_, id)| lit(id.as_str())).collect();
        let wanted = col("ingest_date")
            .gt_eq(day(first.saturating_sub(CLOCKS_DIFFER)))
            .and(col("conversation_date").in_list(days.into_iter().map(day).collect(), false))
            .and(col("conversation_id").in_list(ids, false));
        self.read(wanted, "read what was said in conversations").await
    }

    /// What was told at the offsets in `[from, to)` of a partition, in their order.
    ///
    /// # Errors
    /// What the store says.
    pub async fn of_span(&self, source: &SourcePartition, from: Next, to: Next) -> Result<Vec<Telling>> {
        let wanted = col("topic")
            .eq(lit(source.topic.as_str()))
            .and(col("partition").eq(lit(source.partition)))
            .and(col("offset").gt_eq(lit(from.0)))
            .and(col("offset").lt(lit(to.0)));
        let mut told = self.read(wanted, "read a span of events").await?;
        told.sort_by_key(|telling| telling.offset);
        Ok(told)
    }

    async fn read(&self, wanted: Expr, what: &str) -> Result<Vec<Telling>> {
        let _ = self.events.refresh().await?;
        let tells = col("kind").in_list(vec![lit("message"), lit("completion")], false);
        let session = SessionContext::new();
        let batches = session
            .read_table(self.events.provider().await?)
            .and_then(|frame| frame.filter(wanted.and(tells)))
            .and_then(|frame| frame.select_columns(&COLUMNS))
            .map_err(|error| Error::bug(what, error))?
            .collect()
            .await
            .map_err(|error| Error::sort(what, error))?;
        let mut told = Vec::new();
        for batch in &batches {
            told.extend(tellings(batch).map_err(|error| Error::bug(what, error))?);
        }
        Ok(told)
    }
}

fn tellings(batch: &RecordBatch) -> std::result::Result<Vec<Telling>, arrow::error::ArrowError> {
    let text = |place: usize| arrow::compute::cast(batch.column(place), &DataType::Utf8);
    let (topics, ids, kinds) = (text(0)?, text(3)?, text(4)?);
    let (skews, people, payloads) = (text(9)?, text(10)?, text(11)?);
    let of = |column: &arrow::array::ArrayRef, row: usize| {
        let column = column.as_string::<i32>();
        column.is_valid(row).then(|| column.value(row).to_owned())
    };
    let partitions = batch.column(1).as_primitive::<Int32Type>();
    let offsets = batch.column(2).as_primitive::<Int64Type>();
    let days = batch.column(5).as_primitive::<Date32Type>();
    let [event_times, ingest_times, broker_times] =
        [6, 7, 8].map(|place| batch.column(place).as_primitive::<TimestampMicrosecondType>());
    let row = |row: usize| Telling {
        topic: of(&topics, row).unwrap_or_default(),
        partition: partitions.value(row),
        offset: offsets.value(row),
        event_id: of(&ids, row).unwrap_or_default(),
        kind: of(&kinds, row).unwrap_or_default(),
        conversation_date: days.is_valid(row).then(|| days.value(row)),
        event_time: event_times.value(row),
        ingest_time: ingest_times.value(row),
        broker_time: broker_times.is_valid(row).then(|| broker_times.value(row)),
        skewed: skews.is_valid(row),
        subject_key: of(&people, row),
        payload: of(&payloads, row).unwrap_or_default(),
    };
    Ok((0..batch.num_rows()).map(row).collect())
}

#[cfg(test)]
mod tests {
    use uptake_model::rows::{EventRow, events_batch};

    use super::*;
    use crate::request::CommitRequest;

    fn row(offset: i64, conversation: &str, day: Day) -> EventRow {
        EventRow {
            topic: "chat".to_owned(),
            partition: 1,
            offset,
            event_id: format!("e-{offset}"),
            kind: if offset == 3 { "reaction" } else { "message" },
            conversation_id: Some(conversation.to_owned()),
            conversation_date: Some(day),
            message_id: None,
            event_time: 7,
            ingest_time: i64::from(day) * 86_400_000_000,
            broker_time: (offset == 0).then_some(9),
            clock_skew: (offset == 1).then_some("future"),
            schema_id: None,
            headers: Vec::new(),
            subject_key: None,
            payload: format!("{{\"n\":{offset}}}"),
            content_hash: String::new(),
        }
    }

    #[tokio::test]
    async fn conversations_and_spans_come_back_as_they_were_stored() {
        let lake = Lake::in_memory().unwrap();
        let tellings = Tellings::open(&lake).await.unwrap();
        assert_eq!(tellings.of_conversations(&[]).await.unwrap(), []);
        let rows: Vec<EventRow> = vec![
            row(0, "a", 20_000),
            row(1, "b", 20_000),
            row(2, "a", 20_001),
            row(3, "a", 20_000),
            row(4, "a", 20_000),
        ];
        let table = lake.table(&EVENTS).await.unwrap();
        for row in &rows {
            let batches = vec![events_batch(std::slice::from_ref(row)).unwrap()];
            table.append(CommitRequest { batches, ..CommitRequest::default() }).await.unwrap();
        }
        let mut found = tellings.of_conversations(&[(20_000, "a".to_owned())]).await.unwrap();
        found.sort_by_key(|telling| telling.offset);
        assert_eq!(found, [Telling::from(rows[0].clone()), Telling::from(rows[4].clone())]);
        let source = SourcePartition::new("chat", 1);
        let span = tellings.of_span(&source, Next(1), Next(4)).await.unwrap();
        assert_eq!(span, [Telling::from(rows[1].clone()), Telling::from(rows[2].clone())]);
        assert_eq!(tellings.of_span(&SourcePartition::new("chat", 0), Next(0), Next(9)).await.unwrap(), []);
    }
}
