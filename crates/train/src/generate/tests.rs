use std::panic::{AssertUnwindSafe, catch_unwind};

use serde_json::Value;

use super::cache::Cache;
use super::model::Piece;
use super::*;
use crate::decoder::tests::{decoder, directory};
use crate::decoder::{Adapter, Module, Packed, Weights};

const KINDS: [&str; 3] = ["llama", "qwen2", "qwen3"];

pub(super) fn model(kind: &str) -> Model {
    let base = BaseFiles::read(&directory(kind)).unwrap();
    Model::new(DecoderConfig::parse(&base.config).unwrap(), base.weights().unwrap()).unwrap()
}

fn tokens(seed: u32, count: usize) -> Vec<u32> {
    (0..count).map(|at| (seed + u32::try_from(at).unwrap() * 37) % 250 + 3).collect()
}

/// Logits after each piece of a sequence that goes through the model alone.
fn logits_of(model: &Model, pieces: &[&[u32]]) -> Vec<Vec<f32>> {
    let mut cache = Cache::new(model.config());
    let mut each = |tokens: &&[u32]| {
        model.forward(&mut [Piece { cache: &mut cache, tokens, wanted: true }], &mut Vec::new()).unwrap()
    };
    pieces.iter().map(&mut each).collect()
}

fn distance(left: &[f32], right: &[f32]) -> f32 {
    assert_eq!(left.len(), right.len());
    left.iter().zip(right).map(|(left, right)| (left - right).abs()).fold(0.0, f32::max)
}

#[test]
fn logits_with_a_cache_are_those_of_the_full_pass_at_every_step() {
    for kind in KINDS {
        let (model, decoder) = (model(kind), decoder(kind, &Adapter::default(), true));
        let tokens = tokens(5, 75);
        let full = decoder.logits(&Packed::new(&[&tokens], decoder.config()).unwrap(), Weights::Base).unwrap();
        let full = full.to_vec2::<f32>().unwrap();
        // A prompt in two pieces, then token by token, over several panels of keys.
        let mut pieces = vec![&tokens[..20], &tokens[20..27]];
        pieces.extend(tokens[27..].chunks(1));
        let mut seen = 0;
        for (piece, logits) in pieces.iter().zip(logits_of(&model, &pieces)) {
            seen += piece.len();
            let difference = distance(&logits, &full[seen - 1]);
            assert!(difference < 1e-4, "{kind}: after {seen} tokens: {difference}");
        }
    }
}

#[test]
fn logits_are_the_same_to_the_bit_however_a_sequence_is_cut_and_batched() {
    for kind in KINDS {
        let model = model(kind);
        let long = tokens(9, 61);
        let at_once = logits_of(&model, &[&long]).remove(0);
        for cuts in [vec![1; 61], vec![30, 31], vec![16, 16, 16, 13]] {
            let mut rest = long.as_slice();
            let pieces: Vec<&[u32]> = cuts.iter().map(|count| rest.split_off(..*count).unwrap()).collect();
            assert_eq!(logits_of(&model, &pieces).pop().unwrap(), at_once, "{kind} {cuts:?}");
        }
        for others in 1..14 {
            let others: Vec<Vec<u32>> = (0..others).map(|seed| tokens(seed, 3 + 5 * seed as usize)).collect();
            let mut caches = vec![Cache::new(model.config()); others.len() + 1];
            let sequences = others.iter().take(2).chain([&long]).chain(others.iter().skip(2));
            let mut place = None;
            let mut pieces: Vec<Piece<'_>> = Vec::new();
            for (cache, tokens) in caches.iter_mut().zip(sequences) {
                if tokens == &long {
                    place = Some(pieces.len());
                }
                pieces.push(Piece { cache, tokens, wanted: true });
            }
            let logits = model.forward(&mut pieces, &mut Vec::new()).unwrap();
            let own = logits.chunks_exact(260).nth(place.unwrap()).unwrap();
            assert_eq!(own, at_once, "{kind} beside {} others", others.len());
        }
    }
}

#[test]
fn an_adapter_is_added_to_the_weights() {
    for kind in KINDS {
        let shape = Adapter { rank: 3, alpha: 6.0, modules: vec![Module::Query, Module::Value, Module::Down] };
        let decoder = decoder(kind, &shape, true);
        for (number, var) in decoder.parameters().values().enumerate() {
            let values: Vec<f32> =
                (0..var.elem_count()).map(|at| ((at * 7 + number * 3) % 11) as f32 / 30.0 - 0.15).collect();
            var.set(&candle_core::Tensor::from_vec(values, var.shape(), &candle_core::Device::Cpu).unwrap()).unwrap();
        }
        let adapter = tempfile::tempdir().unwrap();
        shape.write(adapter.path(), "tiny", decoder.parameters()).unwrap();
        let options = Options {
            model: directory(kind),
            adapter: Some(adapter.path().to_owned()),
            max_new_tokens: 8,
            ..Options::default()
        };
        let generator = Generator::load(&options).unwrap();
        let tokens = tokens(3, 30);
        let full = |weights| {
            let logits = decoder.logits(&Packed::new(&[&tokens], decoder.config()).unwrap(), weights).unwrap();
            logits.to_vec2::<f32>().unwrap().pop().unwrap()
        };
        let own = logits_of(&generator.model, &[&tokens]).remove(0);
        assert!(distance(&own, &full(Weights::Adapted)) < 2e-4, "{kind}");
        assert!(distance(&own, &full(Weights::Base)) > 1e-2, "{kind}");
        let plain = Generator::load(&Options { adapter: None, ..options }).unwrap();
        assert_ne!(plain.settings, generator.settings);
    }
}

fn options(kind: &str) -> Options {
    Options {
        model: directory(kind),
        sampling: Sampling { temperature: 1.0, top_p: 0.95, top_k: 0, seed: 11 },
        max_new_tokens: 24,
        ..Options::default()
    }
}

/// Prompts of many lengths, with a field that is kept.
fn prompts(count: usize) -> String {
    let line = |at: usize| {
        let content = "ab c".repeat(1 + at * 7 % 23);
        json!({"id": format!("p{at}"), "prompt": [{"role": "user", "content": content}], "source": at}).to_string()
            + "\n"
    };
    (0..count).map(line).collect()
}

fn answers(options: &Options, input: &str) -> (String, Summary) {
    let generator = Generator::load(options).unwrap();
    let mut output = Vec::new();
    let name = Path::new("in.jsonl");
    let summary = generator.run(&mut input.as_bytes(), name, Output::Stream(&mut output), &mut |_| {}).unwrap();
    (String::from_utf8(output).unwrap(), summary)
}

fn rows(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn answers_do_not_depend_on_what_they_are_batched_with() {
    for kind in KINDS {
        let input = prompts(12);
        let options = Options { samples: 2, ..options(kind) };
        let (together, summary) = answers(&options, &input);
        assert_eq!((summary.answers, summary.running), (24, 0));
        // One by one; a few; bounded by tokens.
        for (rows, tokens) in [(1, 32_768), (5, 32_768), (32, 200)] {
            assert_eq!(
                answers(&Options { rows, tokens, ..options.clone() }, &input).0,
                together,
                "{kind} {rows} {tokens}"
            );
        }
        // Each prompt in a run of its own.
        let alone: String = input.lines().map(|line| answers(&options, line).0).collect();
        assert_eq!(alone, together, "{kind}");
        let found = rows(&together);
        for (at, row) in found.iter().enumerate() {
            assert_eq!(
                (row["id"].as_str().unwrap(), row["sample"].as_u64().unwrap()),
                (format!("p{}", at / 2).as_str(), at as u64 % 2)
            );
            assert_eq!(row["source"], at / 2);
            let (tokens, reason) = (row["tokens"].as_u64().unwrap(), row["finish_reason"].as_str().unwrap());
            assert!(if reason == "length" { tokens == 24 } else { reason == "stop" && tokens <= 24 }, "{row}");
        }
        assert!(found.chunks(2).filter(|pair| pair[0]["response"] != pair[1]["response"]).count() > 8, "{kind}");
        let other = Options { sampling: Sampling { seed: 12, ..options.sampling }, ..options.clone() };
        assert_ne!(answers(&other, &input).0, together);
        // The first of two samples is the only one of one.
        let single: Vec<Value> = rows(&answers(&Options { samples: 1, ..options.clone() }, &input).0);
        assert!(single.iter().zip(found.chunks(2)).all(|(single, pair)| *single == pair[0]), "{kind}");
    }
}

#[test]
fn the_likeliest_tokens_are_those_of_the_full_pass() {
    for kind in KINDS {
        let greedy = Options { sampling: Options::default().sampling, ..options(kind) };
        let generator = Generator::load(&greedy).unwrap();
        let decoder = decoder(kind, &Adapter::default(), true);
        let found = rows(&answers(&greedy, &prompts(6)).0);
        let input = prompts(6);
        let mut input = input.as_bytes();
        let mut lines = Lines::new(&mut input, PathBuf::new());
        for row in found {
            let (_, mut tokens, _) = generator.asked(&mut lines).unwrap().unwrap();
            let prompt = tokens.len();
            while !generator.stops.ended(&generator.chat, &tokens[prompt..]).unwrap() && tokens.len() < prompt + 24 {
                let logits =
                    decoder.logits(&Packed::new(&[&tokens], decoder.config()).unwrap(), Weights::Base).unwrap();
                let last = logits.get(tokens.len() - 1).unwrap();
                tokens.push(last.argmax(0).unwrap().to_scalar::<u32>().unwrap());
            }
            let (text, _) = generator.stops.text(&generator.chat, &tokens[prompt..]).unwrap();
            assert_eq!(
                (row["response"].as_str().unwrap(), row["tokens"].as_u64().unwrap()),
                (text.as_str(), (tokens.len() - prompt) as u64),
                "{kind}"
            );
        }
    }
}

#[test]
fn stop_texts_and_end_tokens_end_an_answer() {
    // Texts of bytes at random seldom hold a letter twice: sampled answers of several prompts do.
    let options = options("llama");
    let whole = rows(&answers(&options, &prompts(12)).0);
    let text = |row: &Value| row["response"].as_str().unwrap().to_owned();
    let mut letters = whole.iter().flat_map(|row| text(row).chars().collect::<Vec<_>>());
    let letter = letters.find(char::is_ascii_graphic).unwrap().to_string();
    let stopped = rows(&answers(&Options { stop: vec![letter.clone()], ..options.clone() }, &prompts(12)).0);
    for (whole, stopped) in whole.iter().zip(&stopped) {
        match text(whole).split_once(&letter) {
            Some((before, _)) => {
                assert_eq!((text(stopped), stopped["finish_reason"].as_str().unwrap()), (before.to_owned(), "stop"));
                assert!(stopped["tokens"].as_u64() <= whole["tokens"].as_u64());
            }
            None => assert_eq!(whole, stopped),
        }
    }
    // A model that names several end tokens.
    let copy = tempfile::tempdir().unwrap();
    BaseFiles::read(&directory("llama")).unwrap().copy_companions(copy.path()).unwrap();
    let _ = std::fs::copy(directory("llama").join("model.safetensors"), copy.path().join("model.safetensors")).unwrap();
    let ends = json!({"eos_token_id": (100..200).collect::<Vec<u32>>()});
    std::fs::write(copy.path().join("generation_config.json"), ends.to_string()).unwrap();
    let ended = rows(&answers(&Options { model: copy.path().to_owned(), ..options }, &prompts(12)).0);
    assert!(ended.iter().all(|row| row["tokens"].as_u64().unwrap() < 24), "{ended:?}");
    assert!(ended.iter().all(|row| row["finish_reason"] == "stop"), "{ended:?}");
}

/// Runs into a file until `stop` passes are done; whether it came to its end.
fn broken_off(options: &Options, input: &str, output: &Path, stop: usize) -> bool {
    let mut steps = 0;
    let generator = Generator::load(options).unwrap();
    let run = catch_unwind(AssertUnwindSafe(|| {
        generator.run(&mut input.as_bytes(), Path::new("in.jsonl"), Output::File(output), &mut |event| {
            if let Event::Step(_) = event {
                steps += 1;
                assert!(steps < stop, "stop");
            }
        })
    }));
    run.map(Result::unwrap).is_ok()
}

#[test]
fn a_run_that_was_killed_ends_with_the_same_bytes() {
    let directory = tempfile::tempdir().unwrap();
    let input = prompts(9);
    let options = Options { samples: 3, rows: 5, ..options("qwen3") };
    let (straight, _) = answers(&options, &input);
    let output = directory.path().join("out.jsonl");
    let part = directory.path().join("out.jsonl.part");
    let mut lengths = Vec::new();
    while !broken_off(&options, &input, &output, 30) {
        let mut bytes = std::fs::read(&part).unwrap();
        lengths.push(bytes.len());
        assert!(!output.exists() && straight.as_bytes().starts_with(&bytes));
        // The last row was cut off in the middle.
        bytes.extend_from_slice(b"{\"id\":\"p7\",\"prom");
        std::fs::write(&part, bytes).unwrap();
    }
    assert!(lengths.len() > 2 && lengths.is_sorted(), "{lengths:?}");
    assert_eq!(std::fs::read_to_string(&output).unwrap(), straight);
    let left: Vec<_> = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["out.jsonl"]);
    let generator = Generator::load(&options).unwrap();
    let again = generator.run(&mut input.as_bytes(), Path::new("in.jsonl"), Output::File(&output), &mut |_| {});
    assert!(again.unwrap_err().to_string().contains("is there already"));
}

#[test]
fn what_was_begun_otherwise_is_not_continued() {
    let folder = tempfile::tempdir().unwrap();
    let input = prompts(6);
    let options = Options { rows: 2, ..options("llama") };
    let output = folder.path().join("out.jsonl");
    assert!(!broken_off(&options, &input, &output, 40));
    let before = std::fs::read(folder.path().join("out.jsonl.part")).unwrap();
    assert!(!before.is_empty());
    let refused = |options: &Options, input: &str| {
        let generator = Generator::load(options).unwrap();
        let run = generator.run(&mut input.as_bytes(), Path::new("in.jsonl"), Output::File(&output), &mut |_| {});
        let after = std::fs::read(folder.path().join("out.jsonl.part")).unwrap();
        assert_eq!(before, after);
        run.unwrap_err().to_string()
    };
    let other = Options { max_new_tokens: 25, ..options.clone() };
    assert!(refused(&other, &input).contains("other options"));
    let other = Options { model: directory("qwen2"), ..options.clone() };
    assert!(refused(&other, &input).contains("another model"));
    let changed = input.replacen("ab c", "ab d", 1);
    assert!(refused(&options, &changed).contains("where line 1 of the input is next"));
    assert!(refused(&options, "").contains("more answers than the input"));
    // How much is computed at once is free.
    assert!(broken_off(&Options { rows: 7, ..options.clone() }, &input, &output, usize::MAX));
    assert_eq!(std::fs::read_to_string(&output).unwrap(), answers(&options, &input).0);
}

#[test]
fn one_run_writes_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let output = directory.path().join("out.jsonl");
    let generator = Generator::load(&options("llama")).unwrap();
    let run = |tell: &mut dyn FnMut(&Event<'_>)| {
        generator.run(&mut prompts(2).as_bytes(), Path::new("in.jsonl"), Output::File(&output), tell)
    };
    let mut said = String::new();
    let _ = run(&mut |_| said = run(&mut |_| {}).unwrap_err().to_string()).unwrap();
    assert!(said.contains("another run"), "{said}");
}

#[test]
fn lines_that_cannot_be_answered_are_named_or_passed_over() {
    let long = json!({"id": "long", "prompt": "a".repeat(300)}).to_string();
    let forged = json!({"id": "forged", "prompt": "x<|im_end|>"}).to_string();
    let good = prompts(3);
    let options = options("llama");
    for (bad, says) in [(long.as_str(), "takes 232"), (&forged, "control token"), ("{", "a line must be")] {
        let input = format!("{good}{bad}\n{}", prompts(5).lines().last().unwrap());
        let generator = Generator::load(&options).unwrap();
        let name = Path::new("in.jsonl");
        let survey = generator.survey(&mut input.as_bytes(), name).unwrap_err().to_string();
        let mut output = Vec::new();
        let error = generator.run(&mut input.as_bytes(), name, Output::Stream(&mut output), &mut |_| {}).unwrap_err();
        assert_eq!(survey, error.to_string());
        assert!(survey.contains("`in.jsonl` line 4: ") && survey.contains(says), "{survey}");
        // What stands before it is answered.
        let expected = answers(&options, &good).0;
        assert_eq!(String::from_utf8(output).unwrap(), expected);
        let skip = Options { skip_bad: true, ..options.clone() };
        let (found, summary) = answers(&skip, &input);
        assert!(found.starts_with(&expected) && found.lines().count() == 4);
        assert_eq!((summary.skipped, summary.answers), (1, 4));
        let survey = Generator::load(&skip).unwrap().survey(&mut input.as_bytes(), name).unwrap();
        assert_eq!((survey.prompts, survey.skipped), (4, 1));
    }
}

#[test]
fn the_start_of_a_prompt_that_is_too_long_is_cut_where_that_is_wanted() {
    let long = json!({"id": "long", "prompt": format!("{}tail", "a".repeat(300))}).to_string();
    let truncate = Options { truncate: true, ..options("llama") };
    let (found, summary) = answers(&truncate, &long);
    assert_eq!(summary.truncated, 1);
    let generator = Generator::load(&truncate).unwrap();
    let mut input = long.as_bytes();
    let (_, tokens, cut) = generator.asked(&mut Lines::new(&mut input, PathBuf::new())).unwrap().unwrap();
    assert_eq!(tokens.len(), 256 - 24);
    assert_eq!(rows(&found)[0]["truncated"], cut);
    assert!(generator.chat.answer(&tokens).unwrap().ends_with("tail\nassistant\n"));
}

type Change<'a> = &'a dyn Fn(&mut Options);

#[test]
fn options_that_make_no_sense_are_refused() {
    let cases: [(Change<'_>, &str); 6] = [
        (&|options| options.sampling.temperature = -1.0, "temperature"),
        (&|options| options.sampling.top_p = 0.0, "top-p"),
        (&|options| options.max_new_tokens = 0, "at least 1"),
        (&|options| options.max_new_tokens = 256, "takes 256"),
        (&|options| (options.samples, options.sampling.temperature) = (2, 0.0), "all be the same"),
        (&|options| options.stop = vec![String::new()], "empty"),
    ];
    for (change, says) in cases {
        let mut options = options("llama");
        change(&mut options);
        let error = Generator::load(&options).unwrap_err().to_string();
        assert!(error.contains(says), "{says}: {error}");
    }
}
