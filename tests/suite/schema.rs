//! The JSON Schema: what it accepts, what it refuses, and that it is printed as it is used.

use serde_json::{Value, json};
use tests::{binary, run};

use crate::scenarios;

fn validator() -> jsonschema::Validator {
    let schema = tracer::sink::schema::schema().to_value();
    jsonschema::meta::validate(&schema).unwrap();
    jsonschema::draft202012::new(&schema).unwrap()
}

#[test]
fn the_binary_prints_it() {
    let output = binary::run(&["schema"]);
    assert_eq!(output.status.code(), Some(0));
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(printed, tracer::sink::schema::schema().to_value());
    assert_eq!(printed["$schema"], "https://json-schema.org/draft/2020-12/schema");
    assert!(printed.get("$id").is_none());
    assert!(printed["title"].is_string() && printed["description"].is_string());
}

#[test]
fn every_line_of_every_scenario_is_in_it() {
    for (_, records) in scenarios::all() {
        tests::lines(&run(&records).json);
    }
}

#[test]
fn it_refuses_what_the_contract_refuses() {
    let validator = validator();
    let output = run(&scenarios::healthy());
    for line in tests::lines(&output.json) {
        assert!(validator.is_valid(&line));
        let mut added = line.clone();
        added["a_later_field"] = json!(1);
        assert!(validator.is_valid(&added), "fields may be added");
        let mut untyped = line.clone();
        untyped["type"] = json!("rumour");
        assert!(!validator.is_valid(&untyped));
        for field in ["schema", "ts", "type"] {
            let mut missing = line.clone();
            missing.as_object_mut().unwrap().remove(field);
            assert!(!validator.is_valid(&missing), "without {field}: {line}");
        }
        let mut retyped = line.clone();
        retyped["schema"] = json!("1");
        assert!(!validator.is_valid(&retyped));
    }
    assert!(!validator.is_valid(&json!({})));
}

/// Durations are integers in `_ns`, times RFC 3339, unknown is null and never an empty string.
#[test]
fn lines_keep_the_conventions() {
    fn walk(key: &str, value: &Value) {
        match value {
            Value::Object(map) => map.iter().for_each(|(key, value)| walk(key, value)),
            Value::Array(list) => list.iter().for_each(|value| walk(key, value)),
            Value::String(text) => {
                assert!(!text.is_empty(), "{key} is empty");
                let instant = key == "ts" || key.ends_with("_ts");
                assert!(!instant || text.ends_with('Z') && text.len() == 30, "{key}: {text}");
            }
            Value::Number(n) => assert!(n.is_u64() || n.is_i64(), "{key}: {n}"),
            Value::Null | Value::Bool(_) => {}
        }
    }
    for (_, records) in scenarios::all() {
        tests::lines(&run(&records).json).iter().for_each(|line| walk("", line));
    }
}
