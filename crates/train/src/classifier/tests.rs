use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};

use uptake_model::labels::Label;
use uptake_tagger::{Exchange, tiny};

use crate::data::Part;

use super::*;

/// A directory with a tiny base encoder and data in which "thanks" is gratitude and "no" negative feedback.
struct Fixture {
    directory: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().join("base");
        std::fs::create_dir(&base).unwrap();
        let files = tiny::files(1).unwrap();
        std::fs::write(base.join("config.json"), &files.config).unwrap();
        std::fs::write(base.join("tokenizer.json"), &files.tokenizer).unwrap();
        std::fs::write(base.join("model.safetensors"), &files.weights[0]).unwrap();
        let mut lines = String::new();
        for index in 0..600 {
            let word = ["a b", "c d e", "so", "how i j"][index % 4];
            let (follow_up, sat, dsat) = match index % 3 {
                0 => (format!("thanks {word}"), "\"gratitude\"", ""),
                1 => (format!("no {word}"), "", "\"negative_feedback\""),
                _ => (format!("{word} it"), "", ""),
            };
            let source = if index % 2 == 0 { "authored" } else { "logs" };
            writeln!(
                lines,
                r#"{{"conversation_id":"{}","source":"{source}","turn":2,"messages":[{{"role":"user","content":"how {word}"}},{{"role":"assistant","content":"so {index} it worked"}},{{"role":"user","content":"{follow_up}"}}],"sat":[{sat}],"dsat":[{dsat}]}}"#,
                index / 2
            )
            .unwrap();
        }
        std::fs::write(directory.path().join("data.jsonl"), lines).unwrap();
        std::fs::write(directory.path().join("weak.jsonl"), weak()).unwrap();
        Self { directory }
    }

    fn weak(&self, weight: f32) -> Vec<Weak> {
        vec![Weak { path: self.directory.path().join("weak.jsonl"), weight }]
    }

    fn options(&self, out: &str) -> Options {
        Options {
            data: vec![self.directory.path().join("data.jsonl")],
            base: self.directory.path().join("base"),
            out: self.directory.path().join(out),
            name: "tiny-signals".to_owned(),
            max_tokens: 32,
            learning_rate: 3e-3,
            head_learning_rate: 1e-2,
            epochs: 3,
            validation: 0.2,
            test: 0.2,
            checkpoint_steps: 5,
            ..Options::default()
        }
    }
}

/// Conversations of which "f g" is thumbed up and "h k" down, words that no labelled row has; the first is one that a
/// labelled row comes from.
fn weak() -> String {
    let mut lines = String::new();
    for index in 0..300 {
        let (follow_up, up) = if index % 2 == 0 { ("f g", 1) } else { ("h k", 0) };
        let (said, source) = if index < 100 { ("how a b", "thumbs_a") } else { ("how q", "thumbs_b") };
        let follow_up = if index == 0 { "thanks a b" } else { follow_up };
        writeln!(
            lines,
            r#"{{"conversation_id":"w{index}","source":"{source}","messages":[{{"role":"user","content":"{said}"}},{{"role":"assistant","content":"so {index} it worked"}},{{"role":"user","content":"{follow_up}"}}],"labels":[{{"turn":1,"feedback_turn":2,"scale":"thumbs 0/1","sat":{up},"dsat":{}}},{{"turn":null,"feedback_turn":0,"scale":"1-5","annotators":[3,3]}}]}}"#,
            1 - up
        )
        .unwrap();
    }
    lines
}

#[test]
fn a_model_learns_is_written_and_served() {
    let fixture = Fixture::new();
    let report = Some(fixture.directory.path().join("model.html"));
    let options = Options { epochs: 12, batch: 8, patience: 12, report, ..fixture.options("model") };
    let mut epochs = Vec::new();
    let figures = train(&options, &mut |event| {
        if let Event::Validated(epoch) = event {
            epochs.push(**epoch);
        }
    })
    .unwrap();
    assert_eq!(epochs.len(), 12);
    let output = |name: &str| figures.outputs.iter().find(|output| output.output == name).unwrap();
    for name in ["gratitude", "negative_feedback", "sat", "dsat"] {
        let figure = output(name);
        assert!(figure.auroc.unwrap().value > 0.98, "{figure:?}");
        assert!(figure.f1.unwrap().value > 0.9, "{figure:?}");
        assert!(figure.calibration_error.unwrap() < 0.15, "{figure:?}");
    }
    assert!(output("humor").auroc.is_none());
    let sources: Vec<&str> = figures.sources.iter().map(|source| source.source.as_str()).collect();
    assert_eq!(sources, ["real (all but written)", "written", "logs"]);

    let tagger = Tagger::open(&options.out, uptake_tagger::Options::default()).unwrap();
    let exchange = |follow_up| Exchange::alone("how a b", "so it worked", follow_up);
    let scores = tagger.tag(&[exchange("thanks c d"), exchange("no c d"), exchange("c d it")]).unwrap();
    let fired: Vec<Vec<&str>> = scores.iter().map(|scores| scores.firing().map(Label::name).collect()).collect();
    assert_eq!(fired, [vec!["gratitude"], vec!["negative_feedback"], vec![]]);

    let page = std::fs::read_to_string(options.report.as_ref().unwrap()).unwrap();
    for part in ["loss by pass", "reliability of dsat", "<h2>Confusions</h2>", "dsat: missed", tagger.version()] {
        assert!(page.contains(part), "{part}");
    }
    assert!(!page.contains("http") && !page.contains("NaN"), "it needs nothing else");
    let names = std::fs::read_dir(&options.out).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(names.into_iter().all(|name| name != "model.html"), "it quotes the data");

    let card = std::fs::read_to_string(options.out.join("README.md")).unwrap();
    assert!(card.contains(tagger.version()), "{card}");
    assert!(card.contains("| gratitude |"), "{card}");
    let metrics: serde_json::Value =
        serde_json::from_slice(&std::fs::read(options.out.join("metrics.json")).unwrap()).unwrap();
    assert_eq!(metrics["options"]["data"][0], "data.jsonl");
    assert!(!options.out.join("checkpoint").exists());
    assert_eq!(figures.in_use.len(), 2);
    assert!(card.contains("| dsat | 44 |") && card.contains("Of 1,000 user turns"), "{card}");
    let hard = figures.hard_negatives.unwrap();
    assert!(hard.examples > 5 && hard.either <= hard.sat + hard.dsat, "{hard:?}");
    measured_again(&fixture, &options, &figures);
}

/// The same figures come of the same model and files by the other way.
fn measured_again(fixture: &Fixture, options: &Options, figures: &Figures) {
    let tagger = Tagger::open(&options.out, uptake_tagger::Options::default()).unwrap();
    let evaluation = Evaluation {
        data: options.data.clone(),
        weak: fixture.weak(1.0),
        split: options.split(),
        part: Some(Part::Test),
        written_sources: options.written_sources.clone(),
    };
    let judged = evaluate(&tagger, &evaluation, &mut |_, _| {}).unwrap();
    assert_eq!((judged.figures.examples, judged.figures.conversations), (figures.examples, figures.conversations));
    for (here, there) in judged.figures.outputs.iter().zip(&figures.outputs) {
        assert_eq!((&here.output, here.positives), (&there.output, there.positives));
        let near = here.auroc.zip(there.auroc).is_none_or(|(a, b)| (a.value - b.value).abs() < 1e-6);
        assert!(near && here.decision.fired == there.decision.fired, "{here:?} {there:?}");
    }
    let groups: Vec<&str> = judged.figures.weak.iter().map(|weak| weak.source.as_str()).collect();
    assert_eq!(groups, ["thumbs", "thumbs_a", "thumbs_b"]);
    assert_eq!(judged.passed_over, 300);
    let all = evaluate(&tagger, &Evaluation { part: None, ..evaluation.clone() }, &mut |_, _| {}).unwrap();
    assert_eq!(all.figures.examples, 600);
    let none = Evaluation { data: vec![], ..evaluation };
    assert!(evaluate(&tagger, &none, &mut |_, _| {}).unwrap_err().to_string().contains("no labelled example"));
}

/// Weak evidence teaches `sat` and `dsat`, and is measured on its own.
#[test]
fn weak_evidence_is_learnt_from() {
    let fixture = Fixture::new();
    let options = Options {
        weak: fixture.weak(4.0),
        weak_rows: 150,
        epochs: 6,
        batch: 8,
        patience: 6,
        ..fixture.options("weak")
    };
    let mut told = None;
    let figures = train(&options, &mut |event| {
        if let Event::Prepared { weak, bound, passed_over, .. } = event {
            told = Some((*weak, *bound, *passed_over));
        }
    })
    .unwrap();
    let ([training, validation, test], bound, passed_over) = told.unwrap();
    assert_eq!((training + validation + test, bound, passed_over), (300, 1, 300));
    let group = figures.weak.iter().find(|weak| weak.source == "thumbs").unwrap();
    assert_eq!(group.examples, test);
    assert!(group.sat.unwrap().value > 0.95 && group.dsat.unwrap().value > 0.95, "{group:?}");
    let card = std::fs::read_to_string(options.out.join("README.md")).unwrap();
    assert!(card.contains("| weak.jsonl | 4 |") && card.contains("| thumbs_b |"), "{card}");
}

/// A run that dies and one that does not end in the same bytes.
#[test]
fn a_killed_run_is_taken_up_where_it_was() {
    let fixture = Fixture::new();
    let whole =
        Options { weak: fixture.weak(0.5), weak_rows: 30, average: 0.9, layer_decay: 0.9, ..fixture.options("whole") };
    let _ = train(&whole, &mut |_| {}).unwrap();
    let killed = Options { out: fixture.options("killed").out, ..whole.clone() };
    for at in [8, 21] {
        let death = catch_unwind(AssertUnwindSafe(|| {
            train(&killed, &mut |event| {
                assert!(!matches!(event, Event::Step { step, .. } if *step == at), "killed at {at}");
            })
        }));
        assert!(death.is_err());
    }
    let other = Options { learning_rate: 1e-3, ..killed.clone() };
    let error = train(&other, &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("a run with other options"), "{error}");
    // The same file with another label in it is another run.
    let data = std::fs::read_to_string(&killed.data[0]).unwrap();
    std::fs::write(&killed.data[0], data.replacen("\"gratitude\"", "\"praise\"", 1)).unwrap();
    let error = train(&killed, &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("or other data"), "{error}");
    std::fs::write(&killed.data[0], data).unwrap();
    let mut done = 0;
    let _ = train(&killed, &mut |event| {
        if let Event::Prepared { done: steps, .. } = event {
            done = *steps;
        }
    })
    .unwrap();
    assert_eq!(done, 20);
    for file in ["model.safetensors", "tagger.json", "metrics.json", "README.md"] {
        let read = |options: &Options| std::fs::read(options.out.join(file)).unwrap();
        assert!(read(&whole) == read(&killed), "{file} differs");
    }
}

#[test]
fn what_cannot_be_trained_is_refused_before_anything_is_written() {
    let fixture = Fixture::new();
    let good = fixture.options("refused");
    let few = fixture.directory.path().join("few.jsonl");
    let text = std::fs::read_to_string(&good.data[0]).unwrap();
    std::fs::write(&few, text.lines().next().unwrap()).unwrap();
    for (options, reason) in [
        (Options { data: vec![], ..good.clone() }, "no data file is named"),
        (Options { epochs: 0, ..good.clone() }, "at least 1"),
        (Options { data: vec![few], ..good.clone() }, "1 examples are too few"),
        (Options { base: "nowhere".into(), ..good.clone() }, "read `nowhere/config.json`"),
        (Options { test: 0.9, ..good.clone() }, "leave something to train on"),
        (Options { max_tokens: 9999, batch_tokens: 9999, ..good.clone() }, "max_tokens is 9999"),
        (Options { learning_rate: f64::NAN, ..good.clone() }, "learning rates"),
        (Options { layer_decay: 1.5, ..good.clone() }, "layer_decay"),
        (Options { average: 1.0, ..good.clone() }, "average"),
        (Options { side_weight: 0.0, ..good.clone() }, "side_weight"),
        (Options { weak: vec!["nowhere.gz".parse().unwrap()], ..good.clone() }, "read `nowhere.gz`"),
    ] {
        let error = train(&options, &mut |_| {}).unwrap_err();
        assert!(error.to_string().contains(reason), "{error} lacks {reason}");
        assert!(!options.out.exists(), "{reason}");
    }
}

#[test]
fn a_run_is_finished_early_with_the_best_pass_it_has() {
    let fixture = Fixture::new();
    let options = fixture.options("early");
    let finish = Options { finish: true, ..options.clone() };
    let error = train(&finish, &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("holds no pass"), "{error}");
    let death = catch_unwind(AssertUnwindSafe(|| {
        train(&options, &mut |event| assert!(!matches!(event, Event::Step { epoch: 3, .. }), "killed"))
    }));
    assert!(death.is_err());
    let _ = train(&finish, &mut |_| {}).unwrap();
    assert!(Tagger::open(&options.out, uptake_tagger::Options::default()).is_ok());
    let card = std::fs::read_to_string(options.out.join("README.md")).unwrap();
    assert!(card.contains("\n| 2 |") && !card.contains("\n| 3 |"), "{card}");
    assert!(card.contains("Stopped after pass 2 of 3 planned ones"), "{card}");
}

/// A run that was stopped within a pass is measured there too.
#[test]
fn what_an_unfinished_pass_has_reached_counts() {
    let fixture = Fixture::new();
    let options = Options { patience: 9, ..fixture.options("within") };
    let death = catch_unwind(AssertUnwindSafe(|| {
        train(&options, &mut |event| assert!(!matches!(event, Event::Step { step: 9, .. }), "killed"))
    }));
    assert!(death.is_err());
    let mut measured = Vec::new();
    let finish = Options { finish: true, ..options.clone() };
    let _ = train(&finish, &mut |event| {
        if let Event::Validated(epoch) = event {
            measured.push((epoch.epoch, epoch.steps));
        }
    })
    .unwrap();
    assert_eq!(measured, [(1, 5)]);
    assert!(Tagger::open(&options.out, uptake_tagger::Options::default()).is_ok());
}

#[test]
fn a_directory_that_holds_something_is_left_alone() {
    let fixture = Fixture::new();
    let options = fixture.options("full");
    std::fs::create_dir(&options.out).unwrap();
    std::fs::write(options.out.join("keep"), "me").unwrap();
    let error = train(&options, &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("is not empty"), "{error}");
}

#[test]
fn the_rate_rises_then_falls_to_nothing() {
    let rates: Vec<f64> = (0..100).map(|step| rate(step, 100, 0.1)).collect();
    assert!(rates.windows(2).take(8).all(|pair| pair[0] < pair[1]));
    assert!(rates.windows(2).skip(12).all(|pair| pair[0] > pair[1]));
    assert!(rates[0] > 0.0 && rates[99] >= 0.0 && rates[99] < 0.02);
    assert!(rates.iter().all(|rate| (0.0..=1.0).contains(rate)));
    assert!((rate(0, 1, 0.0)).is_finite());
}

#[test]
fn encoders_of_every_type_are_trained_and_served_with_either_layout() {
    let fixture = Fixture::new();
    let bases = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tagger/fixtures/encoders");
    for (kind, layout) in [
        ("bert", Layout::FollowUp),
        ("roberta", Layout::FollowUp),
        ("roberta", Layout::Related),
        ("xlm-roberta", Layout::Related),
        ("modernbert", Layout::Related),
    ] {
        let out = format!("{kind}-{}", layout == Layout::Related);
        let options = Options { base: bases.join(kind), layout, max_tokens: 48, epochs: 1, ..fixture.options(&out) };
        let _ = train(&options, &mut |_| {}).unwrap();
        // It is refused where the golden logits are not its own.
        let tagger = Tagger::open(&options.out, uptake_tagger::Options::default()).unwrap();
        let logits = tagger.logits(&[Exchange::alone("how a b", "so 7 it worked", "thanks, <s> it worked")]).unwrap();
        assert!(logits[0].is_some(), "{kind}");
        let longer = Options { max_tokens: 65, out: fixture.directory.path().join("long"), ..options };
        let error = train(&longer, &mut |_| {}).unwrap_err().to_string();
        assert!(error.contains("the encoder takes 16 to 64"), "{error}");
    }
}
