use std::borrow::Cow;

use candle_core::Device;

use super::*;
use crate::settings::{CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE};
use crate::tiny;

fn exchange<'a>(last_user: &'a str, response: &'a str, follow_up: &'a str) -> Exchange<'a> {
    Exchange::alone(last_user, response, follow_up)
}

fn tagger(options: Options) -> Tagger {
    tiny::open(1, options).unwrap()
}

fn refused(change: impl FnOnce(&mut ModelFiles<'static>)) -> Error {
    let mut files = tiny::files(1).unwrap();
    change(&mut files);
    Tagger::new(&files, Options::default()).unwrap_err()
}

fn edit(file: &mut Cow<'static, [u8]>, from: &str, to: &str) {
    let text = String::from_utf8(file.to_vec()).unwrap();
    assert!(text.contains(from), "{text}");
    *file = Cow::Owned(text.replacen(from, to, 1).into_bytes());
}

#[test]
fn scores_come_in_order_whatever_is_beside_them() {
    let words = ["thanks", "it worked", "no no no", "so how", "a b c d e f g h i j k l m n o p q r s t u v w x y z"];
    let all: Vec<Exchange<'_>> = (0..200).map(|i| exchange(words[i % 3], words[i % 5], words[i % 4])).collect();
    let together = tagger(Options { batch_tokens: 64, threads: 2, ..Options::default() }).tag(&all).unwrap();
    let alone = tagger(Options { cache: 0, threads: 1, ..Options::default() });
    for (exchange, scores) in all.iter().zip(&together) {
        let single = alone.tag(std::slice::from_ref(exchange)).unwrap();
        for (left, right) in scores.probabilities().iter().zip(single[0].probabilities()) {
            assert!((left - right).abs() < 1e-6, "{left} and {right}");
        }
    }
}

#[test]
fn the_cache_gives_the_same_to_the_last_bit() {
    let tagger = tagger(Options::default());
    let all = [exchange("how", "so", "thanks"), exchange("", "so", "thanks"), exchange("how", "so", "thanks")];
    let first = tagger.tag(&all).unwrap();
    assert_eq!(first[0], first[2]);
    assert_ne!(first[0], first[1]);
    assert_eq!(tagger.clone().tag(&all).unwrap(), first);
}

#[test]
fn without_text_there_is_no_signal_and_no_text_is_an_error() {
    let tagger = tagger(Options::default());
    let long = "no ".repeat(50_000);
    let odd = ["", " ", "\u{0}", "👍", "شكرا", "\u{202e}x", "PK\u{3}\u{4}", "[SEP]", &long];
    let mut all = Vec::new();
    for response in odd {
        for follow_up in odd {
            all.push(exchange(follow_up, response, follow_up));
        }
    }
    let scores = tagger.tag(&all).unwrap();
    assert_eq!(scores.len(), all.len());
    assert_eq!(scores[0], Scores::NONE);
    for (exchange, scores) in all.iter().zip(scores) {
        assert!(scores.probabilities().iter().all(|p| (0.0..=1.0).contains(p)));
        let empty = |text: &str| text.trim().trim_matches('\u{0}').is_empty();
        assert_eq!(scores == Scores::NONE, empty(exchange.response) || empty(exchange.follow_up), "{exchange:?}");
    }
    assert!(tagger.tag(&[]).unwrap().is_empty());
}

#[test]
fn the_version_is_a_hash_of_every_file() {
    let one = tagger(Options::default());
    assert!(one.version().starts_with("tiny-signals-"), "{}", one.version());
    assert_eq!(one.version().len(), "tiny-signals-".len() + 12);
    assert_eq!(one.version(), tagger(Options { threads: 1, ..Options::default() }).version());
    assert_ne!(one.version(), tiny::open(2, Options::default()).unwrap().version());
    let mut files = tiny::files(1).unwrap();
    edit(&mut files.tagger, "0.5", "0.6");
    assert_ne!(one.version(), Tagger::new(&files, Options::default()).unwrap().version());
}

#[test]
fn a_model_without_a_template_has_the_first_one() {
    let mut files = tiny::files(1).unwrap();
    edit(&mut files.tagger, "\"template\":\"follow_up-response_end-user/1\",", "");
    let tagger = Tagger::new(&files, Options::default()).unwrap();
    assert_eq!(tagger.config().layout().unwrap(), crate::Layout::FollowUp);
}

#[test]
fn a_model_that_computes_something_else_is_refused() {
    let mut files = tiny::files(1).unwrap();
    files.weights = tiny::files(2).unwrap().weights;
    let error = Tagger::new(&files, Options::default()).unwrap_err();
    assert!(matches!(error, Error::Golden { example: 0, .. }), "{error}");
    assert!(error.to_string().contains("do not belong together"), "{error}");
    assert_eq!(error.kind(), crate::ErrorKind::Corrupt);
}

#[test]
fn a_weight_that_is_no_number_is_refused() {
    let mut weights = tiny::weights(&tiny::config(), 1).unwrap();
    let broken = candle_core::Tensor::new(&[f32::NAN; 24], &Device::Cpu).unwrap();
    let _ = weights.insert("encoder.layer.1.output.LayerNorm.bias".to_owned(), broken);
    let error = Encoder::new(&tiny::config(), &weights).unwrap_err();
    assert!(
        error.to_string().contains("`encoder.layer.1.output.LayerNorm.bias` holds values that are not finite"),
        "{error}"
    );
}

#[test]
fn files_that_do_not_fit_are_refused_with_what_is_wrong() {
    for (error, expected) in [
        (
            refused(|files| edit(&mut files.config, "\"bert\"", "\"deberta-v2\"")),
            "model_type is `deberta-v2`, served are `bert`, `roberta`, `xlm-roberta`, `modernbert`",
        ),
        (refused(|files| edit(&mut files.config, "\"gelu\"", "\"relu\"")), "hidden_act is `relu`"),
        (refused(|files| edit(&mut files.config, "\"hidden_size\":24", "\"hidden_size\":27")), "has shape [64, 24]"),
        (refused(|files| edit(&mut files.config, "\"hidden_size\":24", "\"hidden_size\":25")), "no multiple"),
        (
            refused(|files| edit(&mut files.config, "\"vocab_size\":64", "\"vocab_size\":63")),
            "the encoder's vocabulary has 63",
        ),
        (refused(|files| edit(&mut files.config, "\"num_hidden_layers\":2", "\"num_hidden_layers\":3")), "is missing"),
        (refused(|files| edit(&mut files.tokenizer, "[SEP]\":3", "[SEB]\":3")), "tokenizer.json"),
        (refused(|files| edit(&mut files.tagger, "\"max_tokens\":32", "\"max_tokens\":65")), "max_tokens is 65"),
        (refused(|files| edit(&mut files.tagger, "gratitude", "thanks")), "outputs are not the labels"),
        (
            refused(|files| edit(&mut files.tagger, "/1", "/2")),
            "this program serves `follow_up-response_end-user/1` and",
        ),
        (refused(|files| edit(&mut files.tagger, "0.5", "1.5")), "a threshold is not between 0 and 1"),
        (refused(|files| files.config = Cow::Borrowed(b"{}")), "config.json is needed"),
        (refused(|files| files.weights = vec![Cow::Borrowed(b"version https://git-lfs")]), "model.safetensors"),
        (refused(|files| files.weights = vec![Cow::Borrowed(b"")]), "model.safetensors"),
    ] {
        assert!(error.to_string().contains(expected), "{error} lacks `{expected}`");
        assert_eq!(error.kind(), crate::ErrorKind::Corrupt);
    }
}

#[test]
fn a_directory_is_opened_and_a_missing_file_named() {
    let directory = tempfile::tempdir().unwrap();
    let files = tiny::files(1).unwrap();
    for (name, bytes) in [
        (CONFIG_FILE, &files.config),
        (TOKENIZER_FILE, &files.tokenizer),
        (WEIGHTS_FILE, &files.weights[0]),
        (TAGGER_FILE, &files.tagger),
    ] {
        let error = Tagger::open(directory.path(), Options::default()).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
        std::fs::write(directory.path().join(name), bytes).unwrap();
    }
    let opened = Tagger::open(directory.path(), Options::default()).unwrap();
    assert_eq!(opened.version(), tagger(Options::default()).version());
}

#[test]
fn half_precision_weights_are_served() {
    let config = tiny::config();
    let halved: HashMap<String, candle_core::Tensor> = tiny::weights(&config, 1)
        .unwrap()
        .into_iter()
        .map(|(name, tensor)| (format!("bert.{name}"), tensor.to_dtype(candle_core::DType::F16).unwrap()))
        .collect();
    let input = Input { tokens: vec![2, 4, 5, 3, 7, 3, 3], first_segment: 4 };
    let full = Encoder::new(&config, &tiny::weights(&config, 1).unwrap()).unwrap().logits(&[&input]).unwrap();
    let half = Encoder::new(&config, &halved).unwrap().logits(&[&input]).unwrap();
    for (full, half) in full[0].iter().zip(half[0]) {
        assert!((full - half).abs() < 0.02, "{full} and {half}");
    }
}

#[test]
fn batches_keep_to_the_budget() {
    let inputs: Vec<Input> = (0..100).map(|i| Input { tokens: vec![1; 1 + i * 37 % 50], first_segment: 1 }).collect();
    let batches = batches(inputs.iter().collect(), 64);
    assert_eq!(batches.iter().map(Vec::len).sum::<usize>(), 100);
    for batch in batches {
        assert!(batch.iter().map(|input| input.tokens.len()).sum::<usize>() <= 64);
    }
}

#[test]
fn an_input_that_does_not_fit_the_encoder_is_an_error_not_a_panic() {
    let encoder = Encoder::new(&tiny::config(), &tiny::weights(&tiny::config(), 1).unwrap()).unwrap();
    for tokens in [vec![1; 65], vec![64], vec![u32::MAX], vec![]] {
        let input = Input { tokens, first_segment: 1 };
        assert!(matches!(encoder.logits(&[&input]), Err(Error::Bug(_))));
    }
}
