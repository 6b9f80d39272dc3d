//! What an append costs as a table grows: `cargo run -p uptake-lake --example append_cost [commits]`.
//!
//! Commits one file of a thousand rows at a time to a table in a temporary directory, and prints the median time of the
//! last ten before each mark (the worst of them writes a checkpoint), and of opening the table anew. Times of an unoptimised build show the slope only.

use std::io::Write as _;
use std::time::{Duration, Instant};

use uptake_lake::{Advance, CommitRequest, Lake};
use uptake_model::rows::{EventRow, events_batch};
use uptake_model::tables::EVENTS;

const ROWS: i64 = 1_000;
const MARKS: [i64; 4] = [10, 100, 400, 1_000];

fn rows(from: i64) -> Vec<EventRow> {
    (from..from + ROWS)
        .map(|offset| EventRow {
            topic: "messages".to_owned(),
            partition: 0,
            offset,
            event_id: format!("event-{offset}"),
            kind: "message",
            conversation_id: Some(format!("conversation-{}", offset / 8)),
            conversation_date: Some(20_500),
            message_id: Some(format!("message-{offset}")),
            event_time: 1_771_200_000_000_000 + offset,
            ingest_time: 1_771_200_000_000_000 + offset,
            broker_time: None,
            clock_skew: None,
            schema_id: None,
            headers: Vec::new(),
            subject_key: Some(format!("{:064x}", offset % 97)),
            payload: format!(
                r#"{{"type":"message","text":"row {offset} says something of a common length, and then some more"}}"#
            ),
            content_hash: format!("{offset:032x}"),
        })
        .collect()
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let commits: i64 = std::env::args().nth(1).map_or(Ok(400), |text| text.parse())?;
    let directory = tempfile::tempdir()?;
    let lake = Lake::open(&directory.path().to_string_lossy())?;
    let table = lake.table(&EVENTS).await?;
    let mut output = std::io::stdout().lock();
    let mut recent: Vec<Duration> = Vec::new();
    for commit in 1..=commits {
        let from = (commit - 1) * ROWS;
        let request = CommitRequest {
            batches: vec![events_batch(&rows(from))?],
            advances: vec![Advance {
                key: "live/messages/0".to_owned(),
                from: (commit > 1).then_some(from),
                to: from + ROWS,
            }],
            ..CommitRequest::default()
        };
        let start = Instant::now();
        table.append(request).await?;
        recent.push(start.elapsed());
        if MARKS.contains(&commit) {
            let mut last = recent[recent.len().saturating_sub(10)..].to_vec();
            last.sort_unstable();
            let (median, worst) = (last[last.len() / 2], last[last.len() - 1]);
            let start = Instant::now();
            let opened = lake.table(&EVENTS).await?;
            let position = opened.position("live/messages/0").await?;
            writeln!(
                output,
                "{commit:>5} commits: append {median:>8.1?} (worst of ten {worst:.1?}), open and find the position {:>8.1?}, position {position:?}",
                start.elapsed()
            )?;
        }
    }
    Ok(())
}
