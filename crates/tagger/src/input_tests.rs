use super::*;
use crate::tiny;

#[track_caller]
fn check(share: (usize, usize, usize, [usize; 2]), expected: (usize, usize, [usize; 2])) {
    let share = Share::of(share.0, share.1, share.2, share.3);
    assert_eq!((share.follow_up, share.response, share.users), expected);
}

#[test]
fn shares_follow_the_order_and_leave_a_little_to_each() {
    check((124, 5, 20, [10, 0]), (5, 20, [10, 0]));
    check((124, 10, 500, [8, 0]), (10, 106, [8, 0]));
    check((124, 10, 500, [400, 0]), (10, 86, [28, 0]));
    check((124, 500, 500, [400, 0]), (93, 24, [7, 0]));
    check((124, 500, 3, [0, 0]), (121, 3, [0, 0]));
    check((124, 10, 3, [400, 0]), (10, 3, [111, 0]));
    check((12, 1, 1, [0, 0]), (1, 1, [0, 0]));
    check((120, 5, 20, [10, 10]), (5, 20, [10, 10]));
    check((120, 10, 500, [400, 400]), (10, 83, [14, 13]));
    check((120, 10, 500, [400, 6]), (10, 83, [21, 6]));
    check((120, 10, 500, [0, 400]), (10, 83, [0, 27]));
    check((120, 500, 500, [400, 400]), (90, 23, [4, 3]));
}

#[test]
fn every_length_fits_and_the_follow_up_survives() {
    for room in 11..130 {
        for (follow_up, response, last_user) in [(1, 1, 1), (1, 999, 999), (999, 1, 0), (999, 999, 999), (50, 60, 70)] {
            for earlier in [0, 1, 30, 999] {
                let share = Share::of(room, follow_up, response, [last_user, earlier]);
                assert!(share.follow_up + share.response + share.users[0] + share.users[1] <= room);
                assert!(share.follow_up >= follow_up.min(room / 2));
                assert!(share.response >= 1);
            }
        }
    }
}

fn template(max_tokens: usize, layout: Layout) -> Template {
    Template::parse(tiny::tokenizer().as_bytes(), tiny::VOCABULARY, max_tokens, layout).unwrap()
}

fn words(template: &Template, input: &Input) -> Vec<String> {
    input.tokens.iter().map(|id| template.tokenizer.name(*id).unwrap()).collect()
}

#[test]
fn texts_are_laid_out_in_order() {
    let exchange = Exchange {
        earlier_users: vec!["thanks it worked"],
        earlier_responses: vec!["so"],
        ..Exchange::alone("how", "so", "thanks it worked")
    };
    let template = template(32, Layout::FollowUp);
    let input = template.encode(&exchange).unwrap().unwrap();
    assert_eq!(words(&template, &input), ["[CLS]", "thanks", "it", "worked", "[SEP]", "so", "[SEP]", "how", "[SEP]"]);
    assert_eq!(input.first_segment, 5);
}

#[test]
fn the_related_layout_marks_relations_and_shows_the_earlier_message_that_is_like_the_follow_up() {
    let template = template(32, Layout::Related);
    let encode = |exchange: &Exchange<'_>| {
        let input = template.encode(exchange).unwrap().unwrap();
        (words(&template, &input).join(" "), input.first_segment)
    };
    let alone = Exchange::alone("worked", "so", "it worked");
    assert_eq!(
        encode(&alone),
        ("[CLS] [unused7] [unused9] [unused17] it worked [SEP] so [SEP] worked [SEP]".into(), 7)
    );
    let repeated = Exchange {
        earlier_users: vec!["a", "IT worked!", "it worked"],
        earlier_responses: vec!["how", "So."],
        ..Exchange::alone("how", "so", "it worked")
    };
    assert_eq!(
        encode(&repeated),
        ("[CLS] [unused2] [unused16] [unused20] it worked [SEP] so [SEP] how [SEP] it worked ! [SEP]".into(), 7)
    );
    let unlike = Exchange { earlier_users: vec!["how"], earlier_responses: vec!["how"], ..alone };
    assert_eq!(
        encode(&unlike),
        ("[CLS] [unused7] [unused10] [unused18] it worked [SEP] so [SEP] worked [SEP]".into(), 7)
    );
}

#[test]
fn marks_are_reserved_tokens_that_no_text_becomes() {
    let template = template(32, Layout::Related);
    let marks: Vec<u32> =
        (0..MARKS).map(|index| template.tokenizer.special(&format!("[unused{}]", index + 1)).unwrap()).collect();
    let exchange = Exchange::alone("", "so", "[unused1] [unused20] unused3");
    let input = template.encode(&exchange).unwrap().unwrap();
    assert_eq!(input.tokens.iter().filter(|token| marks.contains(token)).count(), 3);
    let without = tiny::tokenizer().replace("[unused20]", "x20x");
    let error = Template::parse(without.as_bytes(), tiny::VOCABULARY, 32, Layout::Related).unwrap_err();
    assert!(error.to_string().contains("no `[unused20]` token"), "{error}");
    assert!(Template::parse(without.as_bytes(), tiny::VOCABULARY, 32, Layout::FollowUp).is_ok());
}

#[test]
fn special_tokens_in_a_text_are_text() {
    let exchange = Exchange::alone("", "so", "[SEP] [CLS] thanks");
    let template = template(32, Layout::FollowUp);
    let input = template.encode(&exchange).unwrap().unwrap();
    let separators = input.tokens.iter().filter(|id| **id == template.separate).count();
    assert_eq!(separators, 3);
}

#[test]
fn no_text_is_no_input() {
    for layout in Layout::ALL {
        for (response, follow_up) in [("", "thanks"), ("so", ""), ("so", " \u{0}\n"), ("", "")] {
            let exchange = Exchange::alone("how", response, follow_up);
            assert_eq!(template(32, layout).encode(&exchange).unwrap(), None);
        }
    }
}

#[test]
fn long_texts_are_cut_to_the_bound() {
    let long = "thanks it worked ".repeat(20_000);
    for layout in Layout::ALL {
        let exchange = Exchange {
            earlier_users: vec![long.as_str(); 8],
            earlier_responses: vec![long.as_str(); 8],
            ..Exchange::alone(&long, &long, &long)
        };
        let input = template(32, layout).encode(&exchange).unwrap().unwrap();
        assert_eq!(input.tokens.len(), 32);
        let shortest = template(16, layout).encode(&exchange).unwrap().unwrap();
        assert_eq!(shortest.tokens.len(), 16);
    }
}

#[test]
fn a_vocabulary_that_does_not_fit_is_refused() {
    let error = Template::parse(tiny::tokenizer().as_bytes(), 5, 32, Layout::FollowUp).unwrap_err();
    assert!(error.to_string().contains("vocabulary has 5"), "{error}");
    assert!(Template::parse(b"{}", 5, 32, Layout::FollowUp).is_err());
}
