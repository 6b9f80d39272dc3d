//! The life of a tagger: one on trial beside the one in use, and label rates that are watched.

use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::{Value, json};
use tempfile::TempDir;
use uptake_lake::Lake;
use uptake_model::labels::{OUTPUTS, output_name};
use uptake_model::tables::{LABEL_RATES, SIGNALS, SIGNALS_SHADOW};
use uptake_model::time::{day_text, parse_day};
use uptake_tests::{binary, gold};

struct Bench(TempDir);

impl Bench {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.0.path().join(name), text).unwrap();
    }

    fn lake(&self) -> Lake {
        Lake::open(self.0.path().join("lake").to_str().unwrap()).unwrap()
    }

    #[track_caller]
    fn said(&self, code: i32, arguments: &[&str]) -> String {
        let mut command = binary::command(&self.0.path().join("lake"));
        let command = command.args(arguments).env("UPTAKE_MODELS_CACHE", self.0.path().join("cache"));
        let Output { status, stdout, stderr } =
            command.env("UPTAKE_SUBJECT_PEPPER", "0123456789abcdef").output().unwrap();
        let (text, error) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
        assert_eq!(status.code(), Some(code), "{arguments:?}: {text}{error}");
        text + &error
    }

    #[track_caller]
    fn rows(&self, query: &str) -> Vec<Value> {
        let text = self.said(0, &["sql", query, "-o", "json"]);
        text.lines().filter(|line| line.starts_with('{')).map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Every file of the gold tables, logs too.
    fn gold(&self) -> Vec<PathBuf> {
        let (mut files, mut folders) = (Vec::new(), vec![self.0.path().join("lake/gold")]);
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { folders.push(path) } else { files.push(path) }
            }
        }
        files.sort();
        files
    }

    /// A copy of the program's tagger that fires at nothing but the surest.
    fn strict_tagger(&self) {
        let (from, to) =
            (Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/tagger/model"), self.0.path().join("strict"));
        std::fs::create_dir(&to).unwrap();
        for file in std::fs::read_dir(from).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
        let settings = to.join("tagger.json");
        let mut value: Value = serde_json::from_slice(&std::fs::read(&settings).unwrap()).unwrap();
        value["name"] = "strict".into();
        value["thresholds"] = json!(vec![0.9999; OUTPUTS]);
        std::fs::write(settings, value.to_string()).unwrap();
    }
}

#[test]
fn a_tagger_on_trial_reads_into_a_table_of_its_own_and_nothing_else_changes() {
    let bench = Bench::new();
    bench.strict_tagger();
    let chat = json!({"conversation_id": "c1", "messages": [
        {"role": "user", "content": "Which river runs through Rome?"},
        {"role": "assistant", "content": "The Arno runs through Rome."},
        {"role": "user", "content": "No, that's wrong. That is the river of Florence."},
        {"role": "assistant", "content": "The Tiber runs through Rome."},
        {"role": "user", "content": "Thank you, that's what I needed!"},
    ]});
    bench.write("chats.jsonl", &format!("{chat}\n"));
    let _ = bench.said(0, &["import", "chats.jsonl"]);
    assert!(!bench.said(0, &["run"]).contains("signals_shadow"), "without one on trial nothing is tried");
    assert!(bench.said(2, &["run", "signals_shadow"]).contains("set `shadow_tagger`"));
    let before = (bench.gold(), bench.rows("SELECT * FROM silver.signals ORDER BY turn_id"));
    assert!(!before.0.is_empty());

    bench.write("uptake.toml", "shadow_tagger = \"strict\"\n");
    assert!(bench.said(0, &["run"]).contains("signals_shadow"));
    assert_eq!((bench.gold(), bench.rows("SELECT * FROM silver.signals ORDER BY turn_id")), before);
    let shadow = bench.rows("SELECT tagger_id, labels, dsat FROM silver.signals_shadow ORDER BY turn_id");
    assert_eq!(shadow.len(), 2);
    assert!(shadow.iter().all(|row| row["tagger_id"].as_str().unwrap().starts_with("strict-")), "{shadow:?}");
    let error = &bench.rows("SELECT * FROM silver.shadow_labels WHERE label = 'factual_error'")[0];
    assert_eq!(
        (&error["follow_ups"], &error["only_tagger_fired"], &error["both_fired"]),
        (&json!(2), &json!(1), &json!(0))
    );
    assert!(bench.said(0, &["run"]).contains("unchanged"), "what was read is not read again");

    // As a model of the registry; and what is neither is told.
    let added = bench.said(0, &["models", "add", "strict", "--name", "strict"]);
    bench.write("uptake.toml", &format!("shadow_tagger = \"{}\"\n", added.split_whitespace().next().unwrap()));
    let _ = bench.said(0, &["run"]);
    assert_eq!(bench.rows("SELECT tagger_id, labels, dsat FROM silver.signals_shadow ORDER BY turn_id"), shadow);
    bench.write("uptake.toml", "shadow_tagger = \"nobody\"\n");
    assert!(bench.said(2, &["run"]).contains("shadow_tagger: `nobody` is no directory"));
}

#[tokio::test]
async fn two_taggers_are_compared_label_by_label() {
    let bench = Bench::new();
    let lake = bench.lake();
    let said = [
        (json!(["dsat"]), json!(["dsat"])),
        (json!(["dsat"]), json!([])),
        (json!([]), json!(["dsat"])),
        (json!(["sat"]), json!(["sat"])),
    ];
    let row = |spec, at: usize, tagger: &str, labels: &Value| {
        gold::row(spec, at, json!({"tagger_id": tagger, "labels": labels}))
    };
    let mut ours: Vec<Value> =
        said.iter().enumerate().map(|(at, (labels, _))| row(&SIGNALS, at, "old", labels)).collect();
    let mut theirs: Vec<Value> =
        said.iter().enumerate().map(|(at, (_, labels))| row(&SIGNALS_SHADOW, at, "new", labels)).collect();
    // Read by one of them only, or another text by now: not compared.
    ours.push(row(&SIGNALS, 7, "old", &json!(["dsat"])));
    theirs.push(gold::row(&SIGNALS_SHADOW, 7, json!({"tagger_id": "new", "labels": ["dsat"], "input_hash": "other"})));
    gold::write(&lake, &SIGNALS, &ours).await;
    gold::write(&lake, &SIGNALS_SHADOW, &theirs).await;
    let rows = bench.rows("SELECT * FROM silver.shadow_labels");
    assert_eq!(rows.len(), OUTPUTS);
    let label = |name: &str| rows.iter().find(|row| row["label"] == name).unwrap();
    let figures = |name: &str| {
        ["follow_ups", "both_fired", "only_tagger_fired", "only_shadow_fired", "neither_fired"]
            .map(|field| label(name)[field].as_i64().unwrap())
    };
    assert_eq!(
        (figures("dsat"), figures("sat"), figures("praise")),
        ([4, 1, 1, 1, 1], [4, 1, 0, 0, 3], [4, 0, 0, 0, 4])
    );
    assert_eq!(
        (&label("dsat")["kappa"], &label("sat")["kappa"], &label("praise")["kappa"]),
        (&json!(0.0), &json!(1.0), &Value::Null)
    );
    assert_eq!(
        (&label("sat")["tagger_rate"], &label("sat")["shadow_rate"], &label("dsat")["agreement"]),
        (&json!(0.25), &json!(0.25), &json!(0.5))
    );
    assert_eq!((&label("dsat")["tagger_id"], &label("dsat")["shadow_id"]), (&json!("old"), &json!("new")));
}

/// Numbers from 0 to 1, the same for the same seed.
fn uniform(seed: u64) -> impl FnMut() -> f64 {
    println!("seed {seed}");
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Rates of all labels on so many days from 2026-01-01: `share` says what fires by label and day.
async fn rates(lake: &Lake, days: i32, follow_ups: usize, mut share: impl FnMut(usize, i32) -> f64, seed: u64) {
    let first = parse_day("2026-01-01").unwrap();
    let mut next = uniform(seed);
    let mut rows = Vec::new();
    for day in 0..days {
        for output in 0..OUTPUTS {
            let share = share(output, day);
            let fired = (0..follow_ups).filter(|_| next() < share).count();
            rows.push(
                json!({"tagger_id": "t-1", "label": output_name(output), "follow_ups": follow_ups, "fired": fired,
                "least_change": 0.005, "conversation_date": day_text(first + day)}),
            );
        }
    }
    gold::write(lake, &LABEL_RATES, &rows).await;
}

fn common(output: usize) -> f64 {
    [0.002, 0.013, 0.044][output % 3]
}

#[tokio::test]
async fn a_label_that_leaves_its_history_is_an_alarm_and_nothing_else_is() {
    let bench = Bench::new();
    // On the last of 60 days the tagger finds dissatisfaction (output 19) three times as often, and one label no more.
    let drifting = |output: usize, day: i32| match (output, day) {
        (19, 59) => 0.04,
        (17, 59) => 0.0,
        (17, _) => 0.044,
        (output, _) => common(output),
    };
    rates(&bench.lake(), 60, 2_000, drifting, 11).await;
    let text = bench.said(3, &["models", "drift"]);
    assert!(text.contains("2 of 140 label rates left the bounds") && text.matches("ALARM").count() == 2, "{text}");
    assert!(text.contains("2026-03-01") && text.contains("dsat") && text.contains("style"), "{text}");
    let rows: Vec<Value> = bench
        .said(3, &["models", "drift", "--days", "60", "--all", "-o", "json"])
        .lines()
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(rows.len(), 60 * OUTPUTS);
    assert!(rows.iter().all(|row| row["alarm"]
        == (row["conversation_date"] == "2026-03-01" && (row["label"] == "dsat" || row["label"] == "style"))));
    // The bounds hold the rates of quiet days: 4 deviations are left by chance in 6 of 100,000.
    let outside = |row: &&Value| row["z"].as_f64().is_some_and(|z| z.abs() > 3.0);
    let quiet: Vec<&Value> = rows.iter().filter(|row| row["alarm"] == false && !row["z"].is_null()).collect();
    let share = quiet.iter().filter(|row| outside(row)).count() as f64 / quiet.len() as f64;
    println!("{share} of quiet label rates are 3 deviations off");
    assert!(share < 0.02, "{share}");
}

#[tokio::test]
async fn a_run_that_builds_such_a_day_says_so() {
    let bench = Bench::new();
    let chat = |id: usize| {
        let said =
            [("user", "Which river runs through Rome?"), ("assistant", "The Tiber."), ("user", "Thank you so much!")];
        let messages = said.map(|(role, text)| json!({"role": role, "content": text}));
        json!({"conversation_id": format!("c{id}"), "start_time": "2026-02-01T09:00:00Z", "messages": messages})
    };
    let chats = |ids: std::ops::Range<usize>| ids.map(|id| chat(id).to_string() + "\n").collect::<String>();
    bench.write("first.jsonl", &chats(0..1));
    let _ = bench.said(0, &["import", "first.jsonl"]);
    assert!(!bench.said(0, &["run"]).contains("ALARM"), "there is no history");
    let tagger = bench.rows("SELECT tagger_id FROM silver.signals")[0]["tagger_id"].clone();
    let first = parse_day("2026-02-01").unwrap();
    let before = (1..=20).map(|day| {
        json!({"tagger_id": tagger, "label": "gratitude", "follow_ups": 2000, "fired": 20, "least_change": 0.005,
            "conversation_date": day_text(first - day)})
    });
    gold::write(&bench.lake(), &LABEL_RATES, &before.collect::<Vec<_>>()).await;
    bench.write("second.jsonl", &chats(1..40));
    let _ = bench.said(0, &["import", "second.jsonl"]);
    let text = bench.said(0, &["run"]);
    let alarm = "label_rates: ALARM: gratitude fired for 100.00 % of 40 follow-ups of 2026-02-01, before it was 1.00 %";
    assert!(text.contains(alarm) && text.contains("a label's rate left its history"), "{text}");
    assert!(!bench.said(0, &["run"]).contains("ALARM"), "it is told once");
    assert!(bench.said(3, &["models", "drift"]).contains("1 of 26 label rates left"));
}

#[tokio::test]
async fn small_counts_short_histories_and_restless_labels_are_no_alarm() {
    // Few follow-ups: whatever they do, chance can do it.
    let bench = Bench::new();
    rates(&bench.lake(), 60, 25, |output, day| if day % 9 == 0 { 0.2 } else { common(output) }, 12).await;
    assert!(bench.said(0, &["models", "drift", "--days", "60"]).contains("0 of 1200 label rates"));
    // A week of history is none.
    let bench = Bench::new();
    rates(&bench.lake(), 8, 2_000, |output, day| if day == 7 { 0.3 } else { common(output) }, 13).await;
    assert!(bench.said(0, &["models", "drift"]).contains("0 of 140 label rates"));
    // Shares that always go up and down by half do so on the last day too; a test of two shares alone would find dozens.
    let bench = Bench::new();
    let mut sway = uniform(14);
    let restless = move |output: usize, _| (0.5 + sway()) * common(output).max(0.02);
    rates(&bench.lake(), 60, 4_000, restless, 15).await;
    let rows: Vec<Value> =
        bench.rows("SELECT z, dispersion, alarm, history_days FROM silver.label_drift WHERE history_days >= 14");
    let far = |row: &&Value| row["z"].as_f64().unwrap().abs() * row["dispersion"].as_f64().unwrap().sqrt() >= 4.0;
    let (alarms, naive) = (rows.iter().filter(|row| row["alarm"] == true).count(), rows.iter().filter(far).count());
    println!("{alarms} alarms of {} label rates; {naive} are 4 binomial deviations off", rows.len());
    assert!(alarms == 0 && naive > 24, "{alarms} alarms, {naive} without dispersion");
    // A fresh lake has nothing to tell.
    assert!(Bench::new().said(0, &["models", "drift"]).contains("silver.label_rates is empty"));
    assert_eq!(Bench::new().rows("SELECT * FROM silver.label_drift"), Vec::<Value>::new());
}
