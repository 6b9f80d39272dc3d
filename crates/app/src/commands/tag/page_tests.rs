use uptake_tagger::explain::{Reach, Wanted};
use uptake_tagger::{Exchange, Options, Tagger};

use super::*;

fn page(exchanges: &[Exchange<'_>]) -> String {
    let tagger = Tagger::embedded(Options::default()).unwrap();
    let reach = Reach { wanted: Wanted::Outputs(vec![18, 19]), passes: 64 };
    let mut page = Page::default();
    for (turn, (exchange, explanation)) in exchanges.iter().zip(&tagger.explain(exchanges, &reach).unwrap()).enumerate()
    {
        let conversation_id = "<c1 onload=\"x\">\u{1b}";
        page.add(
            &Explained { conversation_id, turn, last_user_turn: None, exchange, explanation },
            tagger.thresholds(),
        );
    }
    let done = Progress { follow_ups: 7, conversations: 3, ..Progress::default() };
    page.finish("<chats>.jsonl", tagger.version(), &done)
}

#[test]
fn nothing_that_was_said_becomes_markup() {
    let bad = "</div><script>alert(1)</script>\u{0}\u{202e} & that's wrong <img src=x onerror=\"y\">";
    let html = page(&[Exchange::alone(bad, bad, bad)]);
    assert!(!html.contains("<script") && !html.contains("<img") && !html.contains("<c1") && !html.contains("<chats"));
    assert!(html.contains("&lt;") && html.contains("&amp;") && html.contains("&quot;"));
    assert!(!html.chars().any(|character| (character.is_control() && character != '\n') || character == '\u{202e}'));
    assert!(!html.contains("http") && !html.contains("src=\""), "nothing is fetched");
}

#[test]
fn each_label_has_a_tab_with_every_text() {
    let long = "that was too long. ".repeat(2_000);
    let html = page(&[
        Exchange::alone("sort a list", "Use sorted(list).", "No, that's wrong. I asked for a loop, not this."),
        Exchange::alone("sort a list", "Use sorted(list).", &long),
    ]);
    for (what, count) in [("<section", 2), ("type=\"radio\"", 4), (" checked", 2), ("<div class=\"panel\">", 4)] {
        assert_eq!(html.matches(what).count(), count, "{what}");
    }
    assert_eq!(html.matches("<div class=\"part follow_up\">").count(), 4);
    assert!(html.contains("\">wrong</i>") && html.contains("class=\"p3\""), "{html}");
    assert!(html.contains("characters not read</u>") && html.contains("words together"));
    assert!(html.contains("2 of 7 follow-ups in 3 conversations"));
    assert!(html.len() < 100_000, "{}", html.len());
}

#[test]
fn a_page_of_nothing_says_so() {
    let tagger = Tagger::embedded(Options::default()).unwrap();
    let html = Page::default().finish("a", tagger.version(), &Progress::default());
    assert!(html.contains("nothing to explain"), "{html}");
}
