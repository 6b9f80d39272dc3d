use uptake_model::labels::{DSAT, Label, SAT};

use super::*;
use crate::settings::Layout;
use crate::tagger::Options;
use crate::tiny;

fn all() -> Reach {
    Reach { wanted: Wanted::Outputs((0..OUTPUTS).collect()), ..Reach::default() }
}

fn words<'a>(explanation: &Explanation, exchange: &Exchange<'a>, part: Part) -> Vec<&'a str> {
    let own = explanation.words.iter().filter(|piece| piece.part == part);
    own.map(|piece| &part.of(exchange)[piece.span.clone()]).collect()
}

/// The effect of a word is made of four logits, computed here from texts by hand.
#[test]
fn an_effect_is_what_the_word_takes_away_and_what_it_brings() {
    let mut files = tiny::files(1).unwrap();
    let tagger = String::from_utf8(files.tagger.to_vec()).unwrap();
    files.tagger = tagger.replacen("\"scale\":1.0", "\"scale\":2.5", 1).into_bytes().into();
    let tagger = Tagger::new(&files, Options::default()).unwrap();
    let exchange = Exchange::alone("how", "so, a b c", "Thanks, it worked!");
    let explained = &tagger.explain(std::slice::from_ref(&exchange), &all()).unwrap()[0];
    assert_eq!(words(explained, &exchange, Part::FollowUp), ["Thanks", ",", "it", "worked", "!"]);
    assert_eq!((explained.unread.len(), explained.relations.len()), (0, 0));
    // One pass for the whole, three for sentences; for a text and for a word of it one and two.
    let opened = Part::ALL.iter().filter(|part| explained.words.iter().any(|piece| piece.part == **part)).count();
    assert_eq!(explained.passes, 1 + 3 + opened + 2 * explained.words.len());
    let logits = |response: &'static str, follow_up: &'static str| {
        tagger.logits(&[Exchange::alone("how", response, follow_up)]).unwrap()[0].unwrap()
    };
    let whole = logits("so, a b c", "Thanks, it worked!");
    for (text, word, without) in [
        (exchange.follow_up, "Thanks", ", it worked!"),
        (exchange.follow_up, "worked", "thanks, it!"),
        (exchange.follow_up, "!", "thanks, it worked"),
    ] {
        let piece = explained.words.iter().find(|piece| text.get(piece.span.clone()) == Some(word)).unwrap();
        let (without, alone) = (logits("so, a b c", without), logits("so, a b c", word));
        // No text gives an input without a follow-up: it is known by what is left of the sentence, which is all of it.
        let nothing = &explained.sentences.iter().find(|piece| piece.part == Part::FollowUp).unwrap().left_out;
        for (place, output) in explained.outputs.iter().enumerate() {
            let scale = if *output == 0 { 2.5 } else { 1.0 };
            let left_out = scale * (whole[*output] - without[*output]);
            let brought = nothing[place] - scale * (whole[*output] - alone[*output]);
            for (found, expected) in [
                (piece.left_out[place], left_out),
                (piece.alone[place], brought),
                (piece.effects[place], f32::midpoint(left_out, brought)),
            ] {
                assert!((found - expected).abs() < 1e-4, "{word}, output {output}: {found}, not {expected}");
            }
        }
    }
}

#[test]
fn outputs_that_fire_are_explained_the_surest_first() {
    let tagger = tiny::open(1, Options::default()).unwrap();
    let exchanges = [Exchange::alone("how", "so", "thanks"), Exchange::alone("a b c", "no", "it worked so")];
    let scores = tagger.tag(&exchanges).unwrap();
    for (explanation, scores) in tagger.explain(&exchanges, &Reach::default()).unwrap().iter().zip(scores) {
        assert_eq!(explanation.scores, scores);
        let mut fires: Vec<usize> = (0..OUTPUTS).filter(|output| scores.fires_output(*output)).collect();
        let probability = |output: &usize| scores.probabilities()[*output];
        assert!(explanation.outputs.windows(2).all(|pair| probability(&pair[0]) >= probability(&pair[1])));
        let mut outputs = explanation.outputs.clone();
        outputs.sort_unstable();
        fires.sort_unstable();
        assert_eq!(outputs, fires);
        assert!(explanation.words.iter().all(|piece| piece.effects.len() == outputs.len()));
    }
}

#[test]
fn nothing_is_said_of_words_that_the_model_does_not_read() {
    let tagger = tiny::open(1, Options::default()).unwrap();
    let long = "a b c d. ".repeat(60) + "the end";
    let exchange = Exchange::alone("\u{0}\u{200b}", &long, "no\u{301}\u{0}pe \u{1b}[31m");
    let explained = &tagger.explain(std::slice::from_ref(&exchange), &all()).unwrap()[0];
    let unread: Vec<_> =
        explained.unread.iter().map(|(part, span)| (*part, &part.of(&exchange)[span.clone()])).collect();
    assert_eq!(unread.len(), 1, "{unread:?}");
    assert_eq!(unread[0].0, Part::Response);
    assert!(unread[0].1.starts_with("a b c") && explained.unread[0].1.start == 0);
    let read: Vec<&Piece> = explained.sentences.iter().filter(|piece| piece.part == Part::Response).collect();
    assert!(read.iter().all(|piece| piece.span.start >= explained.unread[0].1.end), "{read:?}");
    assert_eq!(read.last().map(|piece| piece.span.end), Some(long.len()));
    // A control within a word parts it for readers; for the model it is one.
    assert_eq!(words(explained, &exchange, Part::FollowUp)[0], "no\u{301}\u{0}pe");
    assert!(explained.words.iter().all(|piece| piece.part != Part::LastUser));
}

#[test]
fn passes_are_bounded_whatever_the_text() {
    let mut files = tiny::files(1).unwrap();
    let tagger = String::from_utf8(files.tagger.to_vec()).unwrap();
    files.tagger = tagger.replacen("\"max_tokens\":32", "\"max_tokens\":64", 1).into_bytes().into();
    let tagger = Tagger::new(&files, Options::default()).unwrap();
    let texts = ["a. b c d! e f? ", "no ", "a\n", "thanks it worked so how ", "x. "].map(|text| text.repeat(40));
    for passes in [Reach::FEWEST, 24, 40, 256] {
        for text in &texts {
            let exchange = Exchange::alone(text, text, text);
            let explained = &tagger.explain(&[exchange], &Reach { passes, ..all() }).unwrap()[0];
            assert!(explained.passes <= passes, "{} of {passes}", explained.passes);
            // Follow-up words are all in some piece, alone if the passes reach that far.
            let pieces = explained.words.iter().filter(|piece| piece.part == Part::FollowUp);
            let sentences = explained.sentences.iter().filter(|piece| piece.part == Part::FollowUp);
            let count = |words: usize, piece: &Piece| words + piece.words;
            assert_eq!(pieces.clone().fold(0, count), sentences.fold(0, count), "{passes}: {text:?}");
            if passes == 256 {
                assert!(pieces.clone().all(|piece| piece.words == 1));
            }
            let ordered = |pair: &[Piece]| pair[0].part < pair[1].part || pair[0].span.end <= pair[1].span.start;
            assert!(explained.words.windows(2).all(ordered) && explained.sentences.windows(2).all(ordered));
        }
    }
}

#[test]
fn a_relation_is_explained_like_a_word() {
    let tagger = Tagger::new(&tiny::files_laid_out(1, Layout::Related).unwrap(), Options::default()).unwrap();
    let exchange = Exchange {
        earlier_users: vec!["it worked no", "a b"],
        earlier_responses: vec!["so how"],
        ..Exchange::alone("a thanks b", "so how", "it worked")
    };
    let explained = &tagger.explain(&[exchange], &all()).unwrap()[0];
    let found: Vec<_> = explained.relations.iter().map(|related| (related.against, related.relation)).collect();
    assert_eq!(found, [(Against::EarlierUser, "near"), (Against::EarlierResponse, "same")]);
    assert!(explained.relations.iter().all(|related| related.effects.iter().any(|effect| effect.abs() > 1e-4)));
}

#[test]
fn a_text_of_any_kind_has_an_explanation() {
    let tagger = tiny::open(1, Options::default()).unwrap();
    let long = "no ".repeat(40_000);
    let odd = ["", " ", "\u{0}", "👍", "شكرا جزيلا", "\u{202e}x", "PK\u{3}\u{4}", "[SEP]", "ก็ได้ครับ", "谢谢", &long];
    let mut exchanges = Vec::new();
    for response in odd {
        exchanges.extend(odd.map(|follow_up| Exchange::alone(follow_up, response, follow_up)));
    }
    let scores = tagger.tag(&exchanges).unwrap();
    for ((exchange, scores), explained) in exchanges.iter().zip(scores).zip(tagger.explain(&exchanges, &all()).unwrap())
    {
        assert_eq!(explained.scores, scores);
        for piece in explained.words.iter().chain(&explained.sentences) {
            assert!(!piece.part.of(exchange)[piece.span.clone()].trim().is_empty(), "{exchange:?}");
            assert!(piece.effects.iter().all(|effect| effect.is_finite()));
        }
        for (part, span) in &explained.unread {
            assert!(!part.of(exchange)[span.clone()].is_empty());
        }
        assert_eq!(explained.passes == 0, scores == Scores::NONE);
    }
}

/// The model that ships: the words that anyone would point at are those that count most.
#[test]
fn the_words_that_carry_a_signal_stand_out() {
    let tagger = Tagger::embedded(Options::default()).unwrap();
    for (follow_up, output, expected) in [
        ("Thanks, and how do I sort the rows by date?", Label::Gratitude.output(), "Thanks"),
        ("thank you, it runs now. And how do I sort the rows?", SAT, "thank"),
        ("No, that's wrong: it has no such argument.", DSAT, "wrong"),
    ] {
        let answer = "Use `df.drop_duplicates()`. If only certain columns matter, pass `subset=['a', 'b']`.";
        let exchange = Exchange::alone("How do I drop duplicate rows in pandas?", answer, follow_up);
        let reach = Reach { wanted: Wanted::Outputs(vec![output]), ..Reach::default() };
        let explained = &tagger.explain(std::slice::from_ref(&exchange), &reach).unwrap()[0];
        assert!(explained.scores.fires_output(output), "{follow_up}");
        let strongest = explained.words.iter().max_by(|a, b| a.effects[0].total_cmp(&b.effects[0])).unwrap();
        let seen: Vec<_> = explained
            .words
            .iter()
            .map(|piece| (&piece.part.of(&exchange)[piece.span.clone()], piece.effects[0]))
            .collect();
        assert_eq!(&strongest.part.of(&exchange)[strongest.span.clone()], expected, "{seen:?}");
    }
}
