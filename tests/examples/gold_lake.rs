//! Writes a lake of gold tables with rows that need no log: `cargo run -p uptake-tests --example gold_lake DIRECTORY [ROWS]`.
//!
//! `tests/python/run.sh` publishes them and loads the snapshots with real readers.

use serde_json::{Value, json};
use uptake_lake::Lake;
use uptake_model::tables::{LOVE, PREFERENCE_PAIRS, PROMPTS, SUPERVISED, UNPAIRED};
use uptake_tests::gold;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().ok_or("usage: gold_lake DIRECTORY [ROWS]")?;
    let rows = arguments.next().map_or(Ok(2_000), |rows| rows.parse())?;
    let lake = Lake::open(&directory)?;
    for spec in [&PREFERENCE_PAIRS, &UNPAIRED, &LOVE, &PROMPTS, &SUPERVISED] {
        // Readers must bring any text through: other scripts, emoji, line ends, quotes.
        let odd = |at: usize| match at % 7 {
            0 => json!({ "prompt": [{ "role": "system", "content": "Antworte höflich – „bitte“." },
                                    { "role": "user", "content": format!("日本語 {at} 👩‍🔬\r\n\t\"quoted\" \u{1}") }] }),
            _ => Value::Null,
        };
        let prompted = spec.column("prompt").is_some();
        let values: Vec<Value> =
            (0..rows).map(|at| gold::row(spec, at, if prompted { odd(at) } else { Value::Null })).collect();
        gold::write(&lake, spec, &values).await;
    }
    Ok(())
}
