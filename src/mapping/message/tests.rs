use bytes::Bytes;
use serde_json::json;

use super::*;

const ID: &str = "0190163d-8694-739b-aea5-966c26f8ad90";

fn message(body: &str) -> Message {
    Message {
        body: Bytes::copy_from_slice(body.as_bytes()),
        routed_as: "orders".into(),
        ..Message::default()
    }
}

fn amqp() -> MessageMapping {
    MessageMapping {
        event_type: Place::Usual(Pointer::to_key("message_name")),
        message_id: Place::Usual(Pointer::to_key("message_id")),
        missing_id: MissingId::Refused,
        ..MessageMapping::default()
    }
}

fn refused(mapping: &MessageMapping, message: &Message) -> String {
    mapping.decode(message).unwrap_err()
}

#[test]
fn a_member_payload_is_unwrapped_unless_it_is_null() {
    for (body, want) in [
        (r#"{"a": 1}"#, r#"{"a": 1}"#),
        (r#"{"payload": {"a": 1}, "b": 2}"#, r#"{"a": 1}"#),
        (r#"{"payload": [1, 2]}"#, "[1, 2]"),
        (r#"{"payload": null, "a": 1.00}"#, r#"{"payload": null, "a": 1.00}"#),
        ("{}", "{}"),
    ] {
        let decoded = MessageMapping::default().decode(&message(body)).unwrap();
        assert_eq!(decoded.payload.as_str(), want, "{body}");
        assert_eq!((decoded.event_type.as_str(), decoded.metadata), ("orders", None));
    }
}

#[test]
fn what_is_no_object_is_refused_with_what_it_is() {
    for (body, want) in [
        ("", "the body is empty"),
        ("[1]", "the body is an array, expected an object"),
        ("\"text\"", "the body is"),
        (r#"{"payload": 5}"#, "payload is the number 5, expected an object or an array"),
        ("{\"a\": ", "not JSON"),
        (r#"{"a": "\u0000"}"#, "\\u0000"),
    ] {
        let reason = refused(&MessageMapping::default(), &message(body));
        assert!(reason.contains(want), "{body}: {reason}");
    }
    let binary = Message { body: Bytes::from_static(b"\xff\xfe"), ..message("") };
    assert!(refused(&MessageMapping::default(), &binary).contains("UTF-8"));
    let long = MessageMapping { max_event_bytes: 8, ..MessageMapping::default() };
    let reason = refused(&long, &message(r#"{"a": 12345}"#));
    assert_eq!(reason, "the message is 12 bytes, over max_event_bytes = 8");
    let faulty = Message { fault: Some("field a is not UTF-8".to_owned()), ..message("{}") };
    assert_eq!(refused(&MessageMapping::default(), &faulty), "field a is not UTF-8");
}

#[test]
fn any_value_is_taken_where_nothing_is_unwrapped() {
    let whole =
        MessageMapping { payload: Payload::At(Pointer::whole()), ..MessageMapping::default() };
    for body in ["null", "5", "\"text\"", "[1]", r#"{"payload": 1}"#] {
        assert_eq!(whole.decode(&message(body)).unwrap().payload.as_str(), body);
    }
}

#[test]
fn the_type_is_the_property_then_the_body_then_the_route() {
    let named =
        r#"{"message_name": "order.paid", "message_id": "0190163d-8694-739b-aea5-966c26f8ad90"}"#;
    let property = Some("order.sent".to_owned());
    for (event_type, body, want) in [
        (property.clone(), named, "order.sent"),
        (None, named, "order.paid"),
        (None, &*named.replace("message_name", "other"), "orders"),
    ] {
        let decoded = amqp().decode(&Message { event_type, ..message(body) }).unwrap();
        assert_eq!(decoded.event_type, want);
    }
    let set = MessageMapping { event_type: Place::Set("/message_name".parse().unwrap()), ..amqp() };
    let decoded = set.decode(&Message { event_type: property, ..message(named) }).unwrap();
    assert_eq!(decoded.event_type, "order.paid");
    let long = Message { event_type: Some("x".repeat(1001)), ..message(named) };
    assert_eq!(refused(&amqp(), &long), "the type is 1001 bytes long, at most 1000");
}

#[test]
fn the_message_id_is_the_property_then_the_body() {
    let id = Uuid::parse_str(ID).unwrap();
    let other = Uuid::new_v4();
    let in_body = format!(r#"{{"message_id": "{other}"}}"#);
    let with = |given: Option<&str>, body: &str| {
        amqp().decode(&Message { message_id: given.map(str::to_owned), ..message(body) })
    };
    assert_eq!(with(Some(ID), &in_body).unwrap().message_id, Some(id));
    assert_eq!(with(None, &in_body).unwrap().message_id, Some(other));
    assert_eq!(with(Some("17"), &in_body).unwrap().message_id, Some(other));
    assert_eq!(with(None, "{}").unwrap_err(), "message_id is required, and the message has none");
    assert_eq!(
        with(Some("1\n7"), "{}").unwrap_err(),
        "message_id is \"1\\u000a7\", expected a UUID"
    );
    let allowed = MessageMapping { missing_id: MissingId::Allowed, ..amqp() };
    assert_eq!(allowed.decode(&message("{}")).unwrap().message_id, None);
}

#[test]
fn a_hashed_id_is_that_of_the_id_or_of_the_body() {
    let hashed = MessageMapping { missing_id: MissingId::From(Arc::new(HashedId)), ..amqp() };
    let of = |given: Option<&str>, body: &str| {
        let message = Message { message_id: given.map(str::to_owned), ..message(body) };
        hashed.decode(&message).unwrap().message_id.unwrap()
    };
    assert_eq!(of(None, "{}"), of(None, "{}"));
    assert_ne!(of(None, "{}"), of(None, "{ }"));
    assert_eq!(of(Some("17"), "{}"), of(Some("17"), r#"{"a": 1}"#));
    assert_ne!(of(Some("17"), "{}"), of(Some("18"), "{}"));
    assert_eq!(of(Some(ID), "{}"), Uuid::parse_str(ID).unwrap());
    assert_eq!(of(None, "{}").get_version_num(), 8);
}

#[test]
fn metadata_that_cannot_be_stored_make_a_dead_letter() {
    let mut headers = message("{}");
    headers.metadata = json!({"key": "a", "n": 1}).as_object().unwrap().clone();
    let decoded = MessageMapping::default().decode(&headers).unwrap();
    assert_eq!(decoded.metadata.unwrap().as_str(), r#"{"key":"a","n":1}"#);
    headers.metadata = json!({"key": "\0"}).as_object().unwrap().clone();
    let reason = refused(&MessageMapping::default(), &headers);
    assert!(reason.contains("metadata") && reason.contains("\\u0000"), "{reason}");
}
