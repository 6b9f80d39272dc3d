use super::*;

const WIDE: StoreLimits = StoreLimits { bytes: 1 << 20, conversations: 100 };

fn telling(offset: i64, kind: &str) -> Telling {
    Telling {
        topic: "chat".to_owned(),
        partition: 0,
        offset,
        event_id: format!("e{offset}"),
        kind: kind.to_owned(),
        conversation_date: Some(1),
        event_time: offset,
        ingest_time: offset,
        broker_time: Some(100 + offset),
        skewed: false,
        subject_key: None,
        payload: String::new(),
    }
}

fn fact(id: &str, parent: Option<&str>, index: Option<i32>, role: &str, time: Micros) -> TurnFact {
    TurnFact {
        turn_id: id.to_owned(),
        alias: None,
        conversation_id: "c".to_owned(),
        parent_turn_id: parent.map(str::to_owned),
        turn_index: index,
        role: role.to_owned(),
        text: format!("text of {id}"),
        model: None,
        language: None,
        event_time: time,
        consent: None,
        extra: None,
    }
}

fn key(id: &str) -> Key {
    (1, id.to_owned())
}

/// Tells turns in this order, all of them new, and finds the follow-ups.
fn tell_all(store: &mut Store, facts: &[TurnFact]) -> Found {
    let mut told = Told::new();
    for (offset, fact) in (0..).zip(facts) {
        let telling = telling(offset, "message");
        told.entry(key("c")).or_default().insert(fact.turn_id.clone(), telling.broker_time);
        store.tell(&key("c"), fact.clone(), &telling);
    }
    store.find(&told, 32)
}

fn pairs(found: &Found) -> Vec<(&str, &str)> {
    found.asked.iter().map(|asked| (asked.turn_id.as_str(), asked.follow_up_turn_id.as_str())).collect()
}

fn dialogue() -> [TurnFact; 4] {
    [
        fact("u1", None, Some(0), "user", 1),
        fact("a1", None, Some(1), "assistant", 2),
        fact("u2", None, Some(2), "user", 3),
        fact("a2", None, Some(3), "assistant", 4),
    ]
}

#[test]
fn a_follow_up_is_found_with_what_came_before_whatever_the_arrival() {
    let turns = dialogue();
    let expected = tell_all(&mut Store::new(WIDE), &turns);
    assert_eq!(pairs(&expected), [("a1", "u2")]);
    let asked = &expected.asked[0];
    assert_eq!(asked.before, [("user".to_owned(), "text of u1".to_owned())]);
    assert_eq!((asked.response.as_str(), asked.follow_up.as_str()), ("text of a1", "text of u2"));
    for order in [[3, 2, 1, 0], [2, 0, 3, 1], [1, 3, 0, 2]] {
        let shuffled: Vec<TurnFact> = order.iter().map(|at| turns[*at].clone()).collect();
        let found = tell_all(&mut Store::new(WIDE), &shuffled);
        assert_eq!((pairs(&found), &found.asked[0].input_hash), (pairs(&expected), &asked.input_hash), "{order:?}");
    }
}

#[test]
fn only_what_is_told_now_counts_and_the_last_record_makes_it_complete() {
    let mut store = Store::new(WIDE);
    let [u1, a1, u2, a2] = dialogue();
    assert_eq!(pairs(&tell_all(&mut store, &[u1, a1])), []);
    let found = tell_all(&mut store, &[u2]);
    assert_eq!(pairs(&found), [("a1", "u2")]);
    assert_eq!(found.asked[0].broker_time, Some(100));
    assert_eq!(pairs(&tell_all(&mut store, &[a2])), [], "an old follow-up is not told again");
}

#[test]
fn a_response_that_comes_late_completes_its_follow_up() {
    let mut store = Store::new(WIDE);
    let late = tell_all(&mut store, &[fact("u2", Some("a1"), Some(2), "user", 3)]);
    assert_eq!((pairs(&late), late.without_response), (vec![], 1));
    let told = Told::from([(key("c"), BTreeMap::from([("u2".to_owned(), None)]))]);
    assert_eq!(store.with_orphans(&told), [key("c")]);
    let found = tell_all(&mut store, &[fact("a1", None, Some(1), "assistant", 2)]);
    assert_eq!(pairs(&found), [("a1", "u2")]);
}

#[test]
fn a_turn_that_comes_late_changes_what_is_read() {
    let mut store = Store::new(WIDE);
    let named = |id: &str, parent: Option<&str>, role: &str, time| fact(id, parent, None, role, time);
    let first = tell_all(
        &mut store,
        &[named("a2", Some("u2"), "assistant", 4), named("u3", Some("a2"), "user", 5), named("u1", None, "user", 1)],
    );
    assert_eq!((pairs(&first), first.asked[0].before.len()), (vec![("a2", "u3")], 0));
    let again = tell_all(&mut store, &[named("u2", Some("u1"), "user", 3)]);
    assert_eq!((pairs(&again), again.asked[0].before.len()), (vec![("a2", "u3")], 2));
    assert_ne!(first.asked[0].input_hash, again.asked[0].input_hash);
}

#[test]
fn branches_of_a_regenerated_answer_each_have_their_follow_up() {
    let mut store = Store::new(WIDE);
    let found = tell_all(
        &mut store,
        &[
            fact("u1", None, Some(0), "user", 1),
            fact("a1", Some("u1"), Some(1), "assistant", 2),
            fact("b1", Some("u1"), Some(1), "assistant", 3),
            fact("u2", Some("a1"), Some(2), "user", 4),
            fact("v2", Some("b1"), Some(2), "user", 5),
            fact("w2", Some("a1"), Some(2), "user", 6),
        ],
    );
    assert_eq!(pairs(&found), [("a1", "u2"), ("b1", "v2")]);
    assert_eq!(found.another_follows, 1, "w2: the job keeps the first follow-up of a response as well");
    assert_eq!(found.without_response, 0);
}

#[test]
fn the_telling_that_the_job_takes_is_the_one_that_counts() {
    let mut store = Store::new(WIDE);
    let mut repeated = fact("a1", None, Some(1), "assistant", 2);
    repeated.text = "as a later line repeats it".to_owned();
    let mut own = fact("a1", None, Some(1), "assistant", 9);
    own.alias = Some("chatcmpl-1".to_owned());
    let [u1, _, u2, _] = dialogue();
    let found = tell_all(&mut store, &[u1, repeated, own, u2]);
    assert_eq!(found.asked[0].response, "text of a1", "the line in which it is the response");
}

#[test]
fn a_conversation_is_whole_from_its_first_turn_on_or_when_the_record_holds_it() {
    let mut store = Store::new(WIDE);
    let told = |id: &str| Told::from([(key(id), BTreeMap::new())]);
    store.tell(&key("begun"), fact("u", None, Some(0), "user", 1), &telling(0, "message"));
    store.tell(&key("middle"), fact("u", None, Some(4), "user", 1), &telling(1, "message"));
    store.tell(&key("log"), fact("u", None, Some(4), "user", 1), &telling(2, "completion"));
    assert_eq!(store.in_parts(&told("begun")), []);
    assert_eq!(store.in_parts(&told("log")), []);
    assert_eq!(store.in_parts(&told("middle")), [key("middle")]);
    store.set_whole(&key("middle"));
    assert_eq!(store.in_parts(&told("middle")), []);
    assert_eq!(store.in_parts(&told("never seen")), [key("never seen")]);
}

#[test]
fn the_bounds_are_kept_and_the_longest_unused_go_first() {
    let mut store = Store::new(StoreLimits { bytes: 1 << 20, conversations: 2 });
    for id in ["one", "two", "one", "three"] {
        store.tell(&key(id), fact("u", None, Some(0), "user", 1), &telling(0, "message"));
    }
    assert_eq!(store.evict(), 1);
    let mut left: Vec<&str> = store.conversations.keys().map(|(_, id)| id.as_str()).collect();
    left.sort_unstable();
    assert_eq!(left, ["one", "three"]);
    store.limits.bytes = 1;
    assert_eq!((store.evict(), store.bytes(), store.order.len()), (2, 0, 0));
}

#[test]
fn the_account_of_bytes_is_right_after_any_mixture() {
    let mut store = Store::new(StoreLimits { bytes: 40_000, conversations: 20 });
    let mut state: u64 = 0x5eed_0002;
    let mut next = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let mut evicted = 0;
    for round in 0..3_000_i64 {
        let mut turn = fact(&format!("t{}", next(40)), None, i32::try_from(next(40)).ok(), "user", round);
        turn.text = "x".repeat(usize::try_from(next(300)).unwrap());
        turn.alias = (next(2) == 0).then(|| "alias".to_owned());
        let key = key(&format!("c{}", next(60)));
        store.tell(&key, turn, &telling(round, "message"));
        store.published(&key, &format!("s{}", next(9)), "h");
        evicted += store.evict();
        assert!(store.bytes() <= 40_000 && store.conversations.len() <= 20, "round {round}");
        assert_eq!(store.order.len(), store.conversations.len());
        let counted: usize = store.conversations.values().map(|conversation| conversation.bytes).sum();
        assert_eq!(counted, store.bytes(), "round {round}");
        for ((_, id), conversation) in &store.conversations {
            let texts: usize = conversation.turns.iter().map(|(id, turn)| turn.size(id)).sum();
            let all = texts + OVERHEAD + id.len() + conversation.published.len() * OVERHEAD;
            assert_eq!(all, conversation.bytes, "round {round}");
        }
    }
    assert!(evicted > 100);
}

#[test]
fn what_was_published_is_remembered_with_its_texts() {
    let mut store = Store::new(WIDE);
    let _ = tell_all(&mut store, &dialogue());
    assert!(!store.was_published(&key("c"), "s", "h"));
    store.published(&key("c"), "s", "h");
    assert!(store.was_published(&key("c"), "s", "h") && !store.was_published(&key("c"), "s", "other texts"));
}

#[test]
fn a_conversation_without_end_is_kept_short() {
    let mut store = Store::new(WIDE);
    let count = 2 * i32::try_from(MOST_TURNS).unwrap();
    let role = |index: i32| if index % 2 == 0 { "user" } else { "assistant" };
    let turns: Vec<TurnFact> =
        (0..count).map(|index| fact(&format!("t{index}"), None, Some(index), role(index), i64::from(index))).collect();
    let found = tell_all(&mut store, &turns);
    assert_eq!(store.conversations[&key("c")].turns.len(), MOST_TURNS);
    assert_eq!((found.asked.len(), found.too_long), (MOST_TURNS / 2 - 1, 512));
    assert_eq!(found.asked.last().unwrap().before.len(), 32);
    let counted: usize = store.conversations.values().map(|conversation| conversation.bytes).sum();
    assert_eq!(counted, store.bytes());
}
