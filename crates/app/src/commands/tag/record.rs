//! An explanation as a line of JSON.

use std::ops::Range;

use serde_json::{Map, Value, json};
use uptake_model::labels::{Label, output_name};
use uptake_tagger::explain::{Part, Piece};
use uptake_tagger::lines::Explained;

/// One follow-up. Spans are of the message as it stands in the input, by index of the message, in bytes of UTF-8 and in
/// characters (Unicode scalar values), half-open.
pub(super) fn record(explained: &Explained<'_>, thresholds: &[f32], tagger: &str) -> Value {
    let explanation = explained.explanation;
    let scores = &explanation.scores;
    let probability = |output: usize| scores.probabilities().get(output).copied().unwrap_or_default();
    let labels: Map<String, Value> =
        Label::ALL.into_iter().map(|label| (label.name().to_owned(), number(scores.label(label)))).collect();
    let outputs: Vec<Value> = explanation
        .outputs
        .iter()
        .map(|output| {
            json!({
                "label": output_name(*output),
                "probability": number(probability(*output)),
                "threshold": thresholds.get(*output).map(|threshold| number(*threshold)),
                "fires": scores.fires_output(*output),
            })
        })
        .collect();
    let effects = |effects: &[f32]| -> Map<String, Value> {
        let named = explanation.outputs.iter().filter_map(|output| output_name(*output)).zip(effects);
        named.map(|(name, effect)| (name.to_owned(), number(*effect))).collect()
    };
    let piece = |piece: &Piece| {
        let mut value = place(explained, piece.part, &piece.span);
        if let Value::Object(fields) = &mut value {
            let text = piece.part.of(explained.exchange).get(piece.span.clone());
            let _ = fields.insert("text".to_owned(), json!(text));
            let _ = fields.insert("words".to_owned(), json!(piece.words));
            let _ = fields.insert("effects".to_owned(), Value::Object(effects(&piece.effects)));
            if !piece.alone.is_empty() {
                let _ = fields.insert("left_out".to_owned(), Value::Object(effects(&piece.left_out)));
                let _ = fields.insert("alone".to_owned(), Value::Object(effects(&piece.alone)));
            }
        }
        value
    };
    let relations: Vec<Value> = explanation
        .relations
        .iter()
        .map(|related| {
            let effects = effects(&related.effects);
            json!({"between": related.against.name(), "relation": related.relation, "effects": effects})
        })
        .collect();
    json!({
        "conversation_id": explained.conversation_id,
        "turn": explained.turn,
        "sat": number(scores.sat()),
        "dsat": number(scores.dsat()),
        "labels": labels,
        "explained": outputs,
        "words": explanation.words.iter().map(piece).collect::<Vec<_>>(),
        "sentences": explanation.sentences.iter().map(piece).collect::<Vec<_>>(),
        "relations": relations,
        "unread": explanation.unread.iter().map(|(part, span)| place(explained, *part, span)).collect::<Vec<_>>(),
        "passes": explanation.passes,
        "tagger": tagger,
    })
}

/// A number by as few digits as tell it from its neighbours, as `uptake tag` writes it.
fn number(value: f32) -> Value {
    value.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}

fn place(explained: &Explained<'_>, part: Part, span: &Range<usize>) -> Value {
    let turn = match part {
        Part::FollowUp => Some(explained.turn),
        Part::Response => explained.turn.checked_sub(1),
        Part::LastUser => explained.last_user_turn,
    };
    let said = part.of(explained.exchange);
    let characters = |end: usize| said.get(..end).map_or(0, |before| before.chars().count());
    json!({
        "part": part.name(),
        "turn": turn,
        "bytes": [span.start, span.end],
        "characters": [characters(span.start), characters(span.end)],
    })
}

#[cfg(test)]
mod tests {
    use uptake_tagger::explain::Reach;
    use uptake_tagger::{Exchange, Options, Tagger};

    use super::*;

    #[test]
    fn spans_are_those_of_the_message() {
        let tagger = Tagger::embedded(Options::default()).unwrap();
        let exchange = Exchange::alone("sort it", "Use sorted().", "Ünfug 👎🏽: that's wrong!");
        let explanation = &tagger.explain(std::slice::from_ref(&exchange), &Reach::default()).unwrap()[0];
        let explained =
            Explained { conversation_id: "c", turn: 4, last_user_turn: Some(1), exchange: &exchange, explanation };
        let line = record(&explained, tagger.thresholds(), tagger.version());
        assert!(
            line["explained"].as_array().unwrap().iter().any(|each| each["label"] == "dsat" && each["fires"] == true)
        );
        let mut turns = std::collections::BTreeSet::new();
        for word in line["words"].as_array().unwrap() {
            let (part, text) = (word["part"].as_str().unwrap(), word["text"].as_str().unwrap());
            let said = Part::ALL.into_iter().find(|each| each.name() == part).unwrap().of(&exchange);
            let at = |name: &str, end: usize| usize::try_from(word[name][end].as_u64().unwrap()).unwrap();
            assert_eq!(&said[at("bytes", 0)..at("bytes", 1)], text);
            let count = at("characters", 1) - at("characters", 0);
            assert_eq!(said.chars().skip(at("characters", 0)).take(count).collect::<String>(), text);
            assert!(word["effects"]["dsat"].is_number());
            let _ = turns.insert((part.to_owned(), word["turn"].as_u64()));
        }
        assert!(turns.contains(&("follow_up".to_owned(), Some(4))), "{turns:?}");
        for (part, turn) in turns {
            let expected = match part.as_str() {
                "follow_up" => 4,
                "response" => 3,
                _ => 1,
            };
            assert_eq!(turn, Some(expected), "{part}");
        }
        assert_eq!(line["labels"].as_object().unwrap().len(), 18);
    }
}
