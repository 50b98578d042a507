//! docs/openapi.yaml and the code say the same.

use super::problem::Problem;
use super::schema::{
    Attachment, Delivery, Draft, Health, Message, Named, Personal, Shown, Submitted,
};
use super::{OPENAPI, ROUTES};
use crate::store::State;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::BTreeSet;

fn description() -> Value {
    serde_yaml_ng::from_str(OPENAPI).unwrap()
}

fn names(value: &Value) -> BTreeSet<String> {
    value.as_object().unwrap().keys().cloned().collect()
}

fn schema(name: &str) -> Value {
    description()["components"]["schemas"][name].clone()
}

fn required(name: &str) -> BTreeSet<String> {
    let list = schema(name)["required"].as_array().unwrap().clone();
    list.iter().map(|name| name.as_str().unwrap().to_string()).collect()
}

#[test]
fn every_route_is_described_and_there_are_no_others() {
    let mut described = BTreeSet::new();
    for (path, methods) in description()["paths"].as_object().unwrap() {
        for method in names(methods) {
            described.insert((method.to_uppercase(), path.clone()));
        }
    }
    let routes = ROUTES.iter().map(|(method, path)| (method.to_string(), (*path).to_string()));
    assert_eq!(described, routes.collect());
}

/// `whole` has all fields; without one, it is read where that is not required.
#[track_caller]
fn is_read<T: DeserializeOwned>(name: &str, whole: &Value) {
    let properties = names(&schema(name)["properties"]);
    assert_eq!(properties, names(whole), "{name}");
    assert!(serde_json::from_value::<T>(whole.clone()).is_ok(), "{name}");
    let mut one_more = whole.clone();
    one_more["\u{1}"] = json!(1);
    let error = serde_json::from_value::<T>(one_more).err().unwrap().to_string();
    // `… expected one of `a`, `b``, or `expected `a` or `b``
    let expected = error.split("expected").nth(1).unwrap();
    let known: BTreeSet<String> =
        expected.split('`').skip(1).step_by(2).map(str::to_string).collect();
    assert_eq!(properties, known, "{name}");
    for field in properties {
        let mut less = whole.clone();
        less.as_object_mut().unwrap().remove(&field);
        let is_required = serde_json::from_value::<T>(less).is_err();
        assert_eq!(is_required, required(name).contains(&field), "{name}.{field}");
    }
    assert_eq!(schema(name)["additionalProperties"], json!(false), "{name}");
}

#[test]
fn requests_have_the_fields_that_are_described() {
    let named = json!({"address": "a@x.test", "name": "A"});
    is_read::<Named>("Named", &named);
    let file = json!({"name": "a", "type": "b/c", "content_base64": ""});
    is_read::<Attachment>("Attachment", &file);
    let personal = json!({"address": "a@x.test", "name": "A", "substitutions": {"a": "b"}});
    is_read::<Personal>("Personal", &personal);
    let draft = json!({
        "from": "a@x.test", "to": [named], "cc": ["a@x.test"], "bcc": [], "reply_to": named,
        "envelope_from": "", "subject": "", "text": "", "html": "", "headers": {"a": "b"},
        "attachments": [file], "newsletter": true, "recipients": [personal],
    });
    is_read::<Draft>("Draft", &draft);
}

/// `whole` has all fields, `least` those that are always there.
#[track_caller]
fn is_written(name: &str, whole: &impl Serialize, least: &impl Serialize) {
    let names_of = |value: Value| names(&value);
    let whole = names_of(serde_json::to_value(whole).unwrap());
    assert_eq!(names(&schema(name)["properties"]), whole, "{name}");
    assert_eq!(required(name), names_of(serde_json::to_value(least).unwrap()), "{name}");
}

#[test]
fn answers_have_the_fields_that_are_described() {
    let problem = Problem::of("to", "x").remedy("y");
    let least = Problem { field: None, remedy: None, ..problem.clone() };
    is_written("Problem", &problem, &least);
    let message = |id, problem| Message { id, status: "queued", recipients: Vec::new(), problem };
    is_written("Message", &message(Some(String::new()), Some(problem)), &message(None, None));
    let submitted = Submitted { messages: Vec::new() };
    is_written("Submitted", &submitted, &submitted);
    is_written("Health", &Health { status: "ok" }, &Health { status: "ok" });
    let delivery = Delivery {
        recipient: String::new(),
        state: State::Ready,
        attempts: 0,
        due_at: None,
        last_at: None,
        last_reply: String::new(),
    };
    is_written("Delivery", &delivery, &delivery);
    let shown = Shown {
        id: String::new(),
        lane: String::new(),
        campaign: String::new(),
        envelope_from: String::new(),
        accepted_at: String::new(),
        expires_at: String::new(),
        size: 0,
        deliveries: vec![delivery],
    };
    is_written("Shown", &shown, &shown);
}

#[test]
fn every_reference_leads_somewhere() {
    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                let at = map.get("$ref").and_then(Value::as_str).map(str::to_string);
                found.extend(at);
                map.values().for_each(|value| references(value, found));
            }
            Value::Array(list) => list.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let (all, mut found) = (description(), Vec::new());
    references(&all, &mut found);
    assert!(found.len() > 20);
    for reference in found {
        assert!(all.pointer(reference.strip_prefix('#').unwrap()).is_some(), "{reference}");
    }
}
