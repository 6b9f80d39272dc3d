//! The same tiny weights in transformers and PEFT: `tests/python/generate_parity.sh` records what they answer.

use serde_json::Value;

use super::*;
use crate::decoder::tests::directory;

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| u32::try_from(id.as_u64().unwrap()).unwrap()).collect()
}

#[test]
fn greedy_answers_are_those_of_transformers_token_by_token() {
    let recorded = std::fs::read(directory("expected").join("greedy.json")).unwrap();
    let recorded: Value = serde_json::from_slice(&recorded).unwrap();
    let new_tokens = usize::try_from(recorded["new_tokens"].as_u64().unwrap()).unwrap();
    let mut compared = 0;
    for run in recorded["runs"].as_array().unwrap() {
        let (base, adapter) = (run["base"].as_str().unwrap(), run["adapter"].as_str());
        let options = Options {
            model: directory(base),
            adapter: adapter.map(directory),
            max_new_tokens: new_tokens,
            token_ids: true,
            rows: 5,
            ..Options::default()
        };
        let generator = Generator::load(&options).unwrap();
        let answers = run["answers"].as_array().unwrap();
        let line = |(at, answer): (usize, &Value)| json!({"id": at, "prompt": answer["messages"]}).to_string() + "\n";
        let input: String = answers.iter().enumerate().map(line).collect();
        let mut reader = input.as_bytes();
        let mut lines = Lines::new(&mut reader, PathBuf::new());
        for answer in answers {
            let (_, prompt, _) = generator.asked(&mut lines).unwrap().unwrap();
            assert_eq!(prompt, ids(&answer["prompt_ids"]), "{base}");
        }
        let mut output = Vec::new();
        let _ =
            generator.run(&mut input.as_bytes(), Path::new("in"), Output::Stream(&mut output), &mut |_| {}).unwrap();
        for (own, answer) in String::from_utf8(output).unwrap().lines().zip(answers) {
            let own: Value = serde_json::from_str(own).unwrap();
            assert_eq!(
                ids(&own["token_ids"]),
                ids(&answer["answer_ids"]),
                "{base}, {adapter:?}: {}",
                answer["messages"]
            );
            compared += 1;
        }
    }
    assert!(compared >= 30, "{compared}");
}
