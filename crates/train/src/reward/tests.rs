use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use uptake_tagger::{read_shards, tiny};

use crate::encoder::TrainableEncoder;

use super::lines::{BadLines, Form, score_lines};
use super::*;

/// A directory with a tiny base encoder, responses of which those with "f g" are loved, and pairs of which the one with
/// "h k" is worse, whatever its length.
struct Fixture {
    directory: tempfile::TempDir,
}

const WORDS: [&str; 5] = ["a b", "c d e", "so", "how i j", "it worked so"];

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().join("base");
        std::fs::create_dir(&base).unwrap();
        let files = tiny::files(1).unwrap();
        std::fs::write(base.join("config.json"), &files.config).unwrap();
        std::fs::write(base.join("tokenizer.json"), &files.tokenizer).unwrap();
        std::fs::write(base.join("model.safetensors"), &files.weights[0]).unwrap();
        let fixture = Self { directory };
        std::fs::write(fixture.path("love.jsonl"), love()).unwrap();
        std::fs::write(fixture.path("pairs.jsonl"), pairs()).unwrap();
        fixture
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn source(&self, name: &str) -> Vec<Source> {
        vec![Source { head: None, path: self.path(name) }]
    }

    fn options(&self, out: &str) -> Options {
        Options {
            base: self.path("base"),
            out: self.path(out),
            name: "tiny-reward".to_owned(),
            max_tokens: 32,
            batch: 8,
            learning_rate: 3e-3,
            head_learning_rate: 1e-2,
            epochs: 4,
            patience: 9,
            validation: 0.15,
            test: 0.15,
            checkpoint_steps: 5,
            ..Options::default()
        }
    }
}

/// One of twenty-five is loved. Two rows a conversation; half of them have a time.
fn love() -> String {
    let mut lines = String::new();
    for index in 0..1000 {
        let word = WORDS[index % 5];
        let loved = index % 25 == 0;
        let mark = if loved { "f g" } else { "p q" };
        let (source, time) = if index % 4 < 2 { ("site", index.to_string()) } else { ("app", "null".to_owned()) };
        writeln!(
            lines,
            r#"{{"conversation_id":"c{}","source":"{source}","time":{time},"prompt":[{{"role":"user","content":"how {word}"}}],"response":"{mark} {word}","love":{loved}}}"#,
            index / 2
        )
        .unwrap();
    }
    lines
}

fn pairs() -> String {
    let mut lines = String::new();
    for index in 0..400 {
        let (one, other) = (WORDS[index % 5], WORDS[index / 5 % 5]);
        writeln!(
            lines,
            r#"{{"conversation_id":"p{index}","source":"crowd","prompt":"how a","chosen":"f {one} {index}","rejected":"h k {other} {index}","strength":0.5}}"#
        )
        .unwrap();
    }
    lines
}

fn scores(model: &RewardModel, head: &str, form: Form, responses: &[&str]) -> Vec<f64> {
    let lines: Vec<String> = (0..)
        .zip(responses)
        .map(|(id, response)| serde_json::json!({ "id": id, "prompt": "how a", "response": response }).to_string())
        .collect();
    let mut output = Vec::new();
    let head = model.head(Some(head)).unwrap();
    let input = lines.join("\n");
    let done = score_lines(model, (head, form), input.as_bytes(), &mut output, BadLines::Stop, |_| {}).unwrap();
    assert_eq!(done.scored, responses.len() as u64);
    let output = String::from_utf8(output).unwrap();
    let parsed = output.lines().enumerate().map(|(index, line)| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["id"], index);
        line["score"].as_f64().unwrap()
    });
    parsed.collect()
}

#[test]
fn a_model_of_two_heads_learns_is_written_and_scores() {
    let fixture = Fixture::new();
    let options = Options {
        love: fixture.source("love.jsonl"),
        pairs: vec![format!("safe={}", fixture.path("pairs.jsonl").display()).parse().unwrap()],
        epochs: 6,
        ..fixture.options("model")
    };
    let (mut told, mut passes) = (None, 0);
    let figures = train(&options, &mut |event| match event {
        Event::Prepared { rows, heads, parts, held_out, .. } => {
            let used: Vec<u64> = rows.iter().map(|rows| rows.used).collect();
            told = Some((used, heads.to_vec(), *parts, (*held_out).clone()));
        }
        Event::Validated(_) => passes += 1,
        _ => {}
    })
    .unwrap();
    let (used, heads, parts, held_out) = told.unwrap();
    assert_eq!((used, passes, parts.iter().sum::<usize>()), (vec![1000, 400], 6, 1400));
    // A tenth of the 250 conversations with a time.
    assert_eq!((held_out.latest, held_out.published), (25, 0));
    assert!(held_out.by_conversation > 60 && held_out.latest_since.is_some(), "{held_out:?}");
    let names: Vec<&str> = heads.iter().map(|head| head.name.as_str()).collect();
    assert_eq!(names, ["love", "safe"]);
    let prior = heads[0].prior.unwrap();
    assert!((prior.sampled - 0.1).abs() < 1e-9 && (0.03..0.05).contains(&prior.actual), "{prior:?}");
    assert_eq!(heads[1].prior, None);

    let rate = &figures.heads[0].rates[0];
    assert!(rate.auroc.unwrap().value > 0.98, "{rate:?}");
    assert!(rate.calibration_error.unwrap() < 0.05 && (rate.mean - 0.04).abs() < 0.04, "{rate:?}");
    let sources: Vec<&str> = figures.heads[0].rates.iter().map(|rate| rate.source.as_str()).collect();
    assert_eq!(sources, ["all", "app", "site"]);
    let pairs = &figures.heads[1].pairs[0];
    assert!(pairs.accuracy.unwrap().value > 0.95 && pairs.controlled.unwrap().value > 0.95, "{pairs:?}");
    assert!(pairs.longer_wins.unwrap().value < 0.6, "{pairs:?}");

    let model = RewardModel::open(&options.out).unwrap();
    let [loved, other] = scores(&model, "love", Form::Value, &["f g so", "p q so"])[..] else { panic!("two scores") };
    assert!(loved > 0.5 && other < 0.1, "{loved} {other}");
    let logits = scores(&model, "love", Form::Logit, &["f g so", "p q so"]);
    assert!((1.0 / (1.0 + (-logits[1]).exp()) - other).abs() < 1e-5, "{logits:?}");
    let rewards = scores(&model, "safe", Form::Value, &["f so", "h k so"]);
    assert!(rewards[0] > rewards[1] + 1.0, "{rewards:?}");
    assert!(model.head(None).unwrap_err().to_string().contains("`love`, `safe`"));
    assert!(model.head(Some("helpful")).unwrap_err().to_string().contains("no head `helpful`"));

    let card = std::fs::read_to_string(options.out.join("README.md")).unwrap();
    for part in [model.version(), "| love | the rate", "| safe | a reward", "| crowd |", "25 as the latest"] {
        assert!(card.contains(part), "{part} is not in {card}");
    }
    let metrics: serde_json::Value =
        serde_json::from_slice(&std::fs::read(options.out.join("metrics.json")).unwrap()).unwrap();
    assert_eq!(metrics["options"]["pairs"][0], "safe=pairs.jsonl");
    assert_eq!(metrics["held_out"]["heads"][1]["pairs"][0]["pairs"], pairs.pairs);
    assert!(!options.out.join("checkpoint").exists());
    damaged(&options.out);
}

/// Files that do not belong together are told.
fn damaged(out: &Path) {
    let path = out.join(REWARD_FILE);
    let text = std::fs::read_to_string(&path).unwrap();
    let mut config: RewardConfig = serde_json::from_str(&text).unwrap();
    config.golden[1].logits[0] += 0.5;
    let mut never: RewardConfig = serde_json::from_str(&text).unwrap();
    never.heads[0].prior = Some(Prior { sampled: 0.1, actual: 0.0 });
    for (text, reason) in [
        (serde_json::to_string(&config).unwrap(), "do not belong together"),
        (text.replace("conversation-response/1", "other/1"), "template is `other/1`"),
        (serde_json::to_string(&never).unwrap(), "the prior of a rate"),
        ("{".to_owned(), "reward.json"),
    ] {
        std::fs::write(&path, text).unwrap();
        let error = RewardModel::open(out).unwrap_err().to_string();
        assert!(error.contains(reason), "{error} lacks {reason}");
    }
    std::fs::remove_file(&path).unwrap();
    assert!(RewardModel::open(out).unwrap_err().to_string().contains("`uptake train love`"));
}

/// A run that dies and one that does not end in the same bytes.
#[test]
fn a_killed_run_is_taken_up_where_it_was() {
    let fixture = Fixture::new();
    let whole = Options {
        love: fixture.source("love.jsonl"),
        pairs: fixture.source("pairs.jsonl"),
        epochs: 2,
        average: 0.9,
        layer_decay: 0.9,
        ..fixture.options("whole")
    };
    let _ = train(&whole, &mut |_| {}).unwrap();
    let killed = Options { out: fixture.path("killed"), ..whole.clone() };
    for at in [8, 129] {
        let death = catch_unwind(AssertUnwindSafe(|| {
            train(&killed, &mut |event| {
                assert!(!matches!(event, Event::Step { step, .. } if *step == at), "killed at {at}");
            })
        }));
        assert!(death.is_err(), "there is no step {at}");
    }
    let other = Options { margin: 0.1, ..killed.clone() };
    let error = train(&other, &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("a run with other options"), "{error}");
    let mut done = 0;
    let _ = train(&killed, &mut |event| {
        if let Event::Prepared { done: steps, .. } = event {
            done = *steps;
        }
    })
    .unwrap();
    // The last pass boundary or the last multiple of five before the death.
    assert!((120..129).contains(&done), "{done}");
    let read = |options: &Options, file: &str| std::fs::read(options.out.join(file)).unwrap();
    assert!(read(&whole, "model.safetensors") == read(&killed, "model.safetensors"), "the weights differ");
    for file in ["reward.json", "metrics.json", "README.md", "config.json", "tokenizer.json"] {
        let text = |options: &Options| String::from_utf8(read(options, file)).unwrap();
        assert_eq!(text(&whole), text(&killed), "{file} differs");
    }
}

/// Every weight moves, by rows of either kind; a head that a batch does not name stays.
#[test]
fn every_weight_that_should_move_gets_a_gradient() {
    let fixture = Fixture::new();
    let options =
        Options { love: fixture.source("love.jsonl"), pairs: fixture.source("pairs.jsonl"), ..fixture.options("none") };
    let base = Base::read(&options.base).unwrap();
    let template = Template::parse(&base.tokenizer, base.config.vocab_size, 32).unwrap();
    let prepared = Prepared::new(&options, &template).unwrap();
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mut pretrained = read_shards(&base.weights).unwrap();
    pretrained.retain(|name, _| !name.starts_with("classifier."));
    let encoder = TrainableEncoder::new(base.config.clone(), 2, &pretrained, &mut random).unwrap();
    let batches = prepared.batches(&options, 0);
    for head in 0..2 {
        let batch = batches.iter().find(|batch| prepared.items[batch[0]].head == head).unwrap();
        assert!(batch.iter().all(|index| prepared.items[*index].head == head));
        let loss = run::batch_loss(&encoder, &prepared, &options, batch, None).unwrap();
        let gradients = loss.backward().unwrap();
        for (name, var) in encoder.weights() {
            let gradient = gradients.get(var).unwrap_or_else(|| panic!("no gradient for {name}"));
            let largest =
                |gradient: &candle_core::Tensor| gradient.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            if name.starts_with("classifier.") {
                let own = largest(&gradient.get(head).unwrap());
                let other = largest(&gradient.get(1 - head).unwrap());
                assert!(own > 1e-7 && other == 0.0, "{name}: {own}, {other}");
            } else if name.ends_with("attention.self.key.bias") {
                // A bias of the keys moves all scores of a query alike, which softmax does not see.
                assert!(largest(gradient) < 1e-6, "{name}");
            } else {
                assert!(largest(gradient) > 1e-9, "{name}: {}", largest(gradient));
            }
        }
    }
}

#[test]
fn positives_come_as_often_as_they_count_and_others_once() {
    let fixture = Fixture::new();
    let options = Options { love: fixture.source("love.jsonl"), ..fixture.options("none") };
    let template = Template::parse(tiny::tokenizer().as_bytes(), tiny::VOCABULARY, 32).unwrap();
    let prepared = Prepared::new(&options, &template).unwrap();
    let liked = |index: &usize| matches!(prepared.items[*index].said, prepared::Said::Liked { liked: true, .. });
    for epoch in 0..3 {
        let drawn: Vec<usize> = prepared.batches(&options, epoch).into_iter().flatten().collect();
        let positives = drawn.iter().filter(|index| liked(index)).count();
        let share = positives as f64 / drawn.len() as f64;
        assert!((share - 0.1).abs() < 0.002, "{share}");
        let mut others: Vec<usize> = drawn.into_iter().filter(|index| !liked(index)).collect();
        others.sort_unstable();
        let all: Vec<usize> = prepared.training.iter().filter(|index| !liked(index)).copied().collect();
        assert_eq!(others, all);
    }
    assert_eq!(prepared.batches(&options, 1), prepared.batches(&options, 1));
    assert_ne!(prepared.batches(&options, 1), prepared.batches(&options, 2));
    // A share that is there already is left alone, and so is the prior.
    let plenty = Options { positive_share: 0.01, ..options };
    let prior = Prepared::new(&plenty, &template).unwrap().heads[0].prior.unwrap();
    assert!((prior.sampled - prior.actual).abs() < 1e-9, "{prior:?}");
}

#[test]
fn weights_and_strengths_of_rows_are_taken() {
    let fixture = Fixture::new();
    let rows = love()
        .replace(r#""love":true"#, r#""love":true,"weight":3"#)
        .replace(r#""love":false"#, r#""love":false,"weight":0.5"#);
    std::fs::write(fixture.path("weighted.jsonl"), rows).unwrap();
    let none = r#"{"prompt":"a","response":"b","love":true,"weight":0}"#;
    std::fs::write(fixture.path("none.jsonl"), format!("{none}\n{}", r#"{"prompt":"a","chosen":"b","rejected":"c"}"#))
        .unwrap();
    let options = Options {
        love: [fixture.source("weighted.jsonl"), fixture.source("none.jsonl")].concat(),
        pairs: fixture.source("pairs.jsonl"),
        margin: 2.0,
        ..fixture.options("none")
    };
    let template = Template::parse(tiny::tokenizer().as_bytes(), tiny::VOCABULARY, 32).unwrap();
    let prepared = Prepared::new(&options, &template).unwrap();
    // Positives weigh six times what others do: a tenth of the rows, two fifths of the loss.
    let prior = prepared.heads[0].prior.unwrap();
    assert!((prior.sampled - 6.0 / 15.0).abs() < 1e-9 && prior.actual < 0.05, "{prior:?}");
    assert_eq!(prepared.counts[1].dropped, [("no_label", 1), ("no_weight", 1)].into());
    for item in &prepared.items {
        match item.said {
            prepared::Said::Better { margin, .. } => {
                assert!((margin - 1.0).abs() < 1e-6 && (item.weight - 0.5).abs() < 1e-6);
            }
            prepared::Said::Liked { liked, .. } => assert!((item.weight - if liked { 3.0 } else { 0.5 }).abs() < 1e-6),
        }
    }
}

#[test]
fn what_cannot_be_trained_is_refused_before_anything_is_written() {
    let fixture = Fixture::new();
    let good = Options { love: fixture.source("love.jsonl"), ..fixture.options("refused") };
    let first: String = love().lines().take(1).collect();
    std::fs::write(fixture.path("few.jsonl"), &first).unwrap();
    std::fs::write(fixture.path("never.jsonl"), love().replace(r#""love":true"#, r#""love":false"#)).unwrap();
    std::fs::write(fixture.path("capital.jsonl"), first.replace(r#""love""#, r#""head":"Love","love""#)).unwrap();
    let both = [fixture.source("pairs.jsonl"), fixture.source("love.jsonl")].concat();
    let shared: Vec<Source> = vec![format!("love={}", fixture.path("pairs.jsonl").display()).parse().unwrap()];
    for (options, reason) in [
        (Options { love: vec![], ..good.clone() }, "no data are named"),
        (Options { epochs: 0, ..good.clone() }, "at least 1"),
        (Options { name: "My Model".to_owned(), ..good.clone() }, "small letters"),
        (Options { love: fixture.source("few.jsonl"), ..good.clone() }, "too few"),
        (Options { love: fixture.source("never.jsonl"), ..good.clone() }, "it needs both"),
        (Options { love: fixture.source("pairs.jsonl"), ..good.clone() }, "400 no_label"),
        (Options { love: fixture.source("capital.jsonl"), ..good.clone() }, "`Love`"),
        (Options { love: vec![], pairs: fixture.source("love.jsonl"), ..good.clone() }, "1000 no_pair"),
        (Options { pairs: shared, ..good.clone() }, "give them a head each"),
        (Options { love: both, max_tokens: 9999, batch_tokens: 99_999, ..good.clone() }, "max_tokens is 9999"),
        (Options { positive_share: 1.0, ..good.clone() }, "positive_share"),
        (Options { learning_rate: f64::NAN, ..good.clone() }, "learning rates"),
        (Options { base: "nowhere".into(), ..good.clone() }, "read `nowhere/config.json`"),
        (Options { love: fixture.source("nowhere.jsonl"), ..good.clone() }, "nowhere.jsonl"),
    ] {
        let error = train(&options, &mut |_| {}).unwrap_err();
        assert!(error.to_string().contains(reason), "{error} lacks {reason}");
        assert!(!options.out.exists(), "{reason}");
    }
}

#[test]
fn bad_lines_stop_or_are_counted_and_the_order_stays() {
    let fixture = Fixture::new();
    let options = Options { love: fixture.source("love.jsonl"), epochs: 1, ..fixture.options("lines") };
    let _ = train(&options, &mut |_| {}).unwrap();
    let model = RewardModel::open(&options.out).unwrap();
    let good =
        |id: &str| format!(r#"{{"id":{id},"prompt":[{{"role":"user","content":"how"}}],"response":"so it worked"}}"#);
    let bad = [
        ("{", "EOF"),
        (r#"{"prompt":"a","response":"b"}"#, "`id` is missing"),
        (r#"{"id":1,"response":"b"}"#, "`prompt` is missing"),
        (r#"{"id":1,"prompt":"a"}"#, "`response` is missing"),
        (r#"{"id":1,"prompt":"a","response":" "}"#, "`response` has no text"),
        (r#"{"id":1,"prompt":"a","response":[]}"#, "`response` is one message"),
    ];
    let head = (model.head(None).unwrap(), Form::Value);
    for (line, reason) in bad {
        let input = format!("{}\n\n{line}\n", good("1"));
        let error = score_lines(&model, head, input.as_bytes(), &mut Vec::new(), BadLines::Stop, |_| {})
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("line 3: ") && error.contains(reason), "{error}");
    }
    let mut lines: Vec<String> = (0..1200).map(|id| good(&format!("\"r{id}\""))).collect();
    for (place, (line, _)) in [3, 500, 511, 513, 900, 1201].into_iter().zip(bad) {
        lines.insert(place, line.to_owned());
    }
    let (mut output, mut skipped) = (Vec::new(), 0);
    let tell = |event: &lines::Event<'_>| skipped += usize::from(matches!(event, lines::Event::Skipped(_)));
    let done = score_lines(&model, head, lines.join("\n").as_bytes(), &mut output, BadLines::Skip, tell).unwrap();
    assert_eq!((done.scored, done.skipped, skipped), (1200, 6, 6));
    let output = String::from_utf8(output).unwrap();
    for (index, line) in output.lines().enumerate() {
        assert!(line.starts_with(&format!(r#"{{"id":"r{index}","score":0."#)), "{line}");
    }
}
