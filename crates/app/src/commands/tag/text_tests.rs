use uptake_tagger::explain::{Reach, Wanted};
use uptake_tagger::{Exchange, Options, Tagger};

use super::*;

const RESPONSE: &str = "Use df.drop_duplicates().";

fn shown(follow_up: &str, response: &str, colours: bool) -> String {
    let tagger = Tagger::embedded(Options::default()).unwrap();
    let exchange = Exchange::alone("How do I drop duplicate rows in pandas?", response, follow_up);
    let reach = Reach { wanted: Wanted::Outputs(vec![19]), ..Reach::default() };
    let explanation = &tagger.explain(std::slice::from_ref(&exchange), &reach).unwrap()[0];
    let explained =
        Explained { conversation_id: "c\u{1b}1", turn: 2, last_user_turn: Some(0), exchange: &exchange, explanation };
    super::explanation(&explained, tagger.thresholds(), colours)
}

#[test]
fn without_colours_words_have_numbers_and_nothing_else_is_sent() {
    let text = shown("No, that's \u{1b}[2J wrong\u{7}!\r\nAgain.", RESPONSE, false);
    assert!(text.starts_with("c␛1, turn 2: sat 0."), "{text}");
    assert!(text.contains("dsat") && text.contains(" from 0.") && text.contains("wrong +"), "{text}");
    assert!(!text.chars().any(|character| character.is_control() && character != '\n'), "{text:?}");
}

#[test]
fn with_colours_the_text_is_whole_and_only_colours_are_sent() {
    let follow_up = "No, that's \u{1b}[2Jwrong: it has no such \u{202e}argument";
    let text = shown(follow_up, RESPONSE, true);
    assert!(text.contains("\u{1b}[38;5;231;48;5;"), "{text:?}");
    let mut plain = String::new();
    let mut rest = text.as_str();
    while let Some((before, after)) = rest.split_once('\u{1b}') {
        plain.push_str(before);
        let (colour, after) = after.split_once('m').unwrap();
        assert!(colour.starts_with('[') && colour[1..].chars().all(|c| c.is_ascii_digit() || c == ';'), "{colour:?}");
        rest = after;
    }
    plain.push_str(rest);
    assert!(plain.contains("No, that's ␛[2Jwrong: it has no such \u{fffd}argument"), "{plain}");
    assert_eq!(text.matches("\u{1b}[0m").count() * 2, text.matches('\u{1b}').count());
}

#[test]
fn right_to_left_text_stays_in_its_place_and_cut_text_is_said_to_be_cut() {
    let text = shown("זה לא נכון! no, that is wrong", &"a long answer. ".repeat(9_000), true);
    let line = text.lines().find(|line| line.contains("follow-up")).unwrap();
    assert!(line.contains('\u{2068}') && line.ends_with('\u{2069}'), "{line:?}");
    let text = shown(&"no, that is wrong. ".repeat(5_000), RESPONSE, true);
    assert!(text.contains(" characters not read]"), "{text}");
    assert!(text.len() < 20_000, "{}", text.len());
}
