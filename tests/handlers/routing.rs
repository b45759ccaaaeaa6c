//! Which handler is called, with what.

use chrono::{DateTime, Utc};
use eventloader::handler::{HandlerRegistry, LoggedEvent};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Calls, append, append_many, effects, letters, marks, noting_all, pass, stage, worker};

#[tokio::test]
async fn ten_events_are_ten_calls_and_ten_marks_and_a_second_pass_does_nothing() {
    let database = stage().await;
    append_many(&database, "orders", 10).await;
    let worker = worker(&database, "mails", noting_all());
    assert_eq!(pass(&worker).await.handled_count, 10);
    assert_eq!((effects(&database).await.len(), marks(&database).await), (10, 10));
    assert_eq!(pass(&worker).await, super::PassReport::default());
    assert_eq!(effects(&database).await.len(), 10);
    let position: i64 = database.value("select position from eventloader.subscription").await;
    assert_eq!(position, 10);
}

#[tokio::test]
async fn the_most_specific_handler_is_called_and_unknown_types_are_passed_over() {
    let database = stage().await;
    for event_type in
        ["order.placed", "order.paid", "order.item.added", "user.created", "user.created"]
    {
        append(&database, "s", event_type, "{}", None).await;
    }
    let calls = Calls::default();
    let mut registry = HandlerRegistry::new();
    for pattern in ["order.*", "order.placed", "order.item.*"] {
        let calls = calls.clone();
        let call = async move |_: Value, event: LoggedEvent, _: &mut PgConnection| {
            calls.add(format!("{pattern} {}", event.event_type));
            Ok(())
        };
        registry.on(pattern, call).unwrap();
    }
    let report = pass(&worker(&database, "w", registry)).await;
    assert_eq!((report.handled_count, report.unknown_count), (3, 2));
    assert_eq!(
        calls.all(),
        ["order.placed order.placed", "order.* order.paid", "order.item.* order.item.added"]
    );
    let position: i64 = database.value("select position from eventloader.subscription").await;
    assert_eq!(position, 5);
}

#[derive(Debug, Deserialize)]
struct OrderPlaced {
    id: Uuid,
    at: DateTime<Utc>,
    total: f64,
    exact: Box<RawValue>,
}

#[tokio::test]
async fn values_arrive_as_they_were_written() {
    let database = stage().await;
    let id = Uuid::now_v7();
    let message_id = Uuid::now_v7();
    let payload = format!(
        r#"{{"id":"{id}","at":"2026-02-28T23:59:59.123456Z","total":99.99,"exact":12345678901234567890.10}}"#
    );
    append(&database, "orders", "order.placed", &payload, Some(message_id)).await;
    append(&database, "orders", "order.placed", &payload, None).await;
    let calls = Calls::default();
    let mut registry = HandlerRegistry::new();
    let seen = calls.clone();
    let call = async move |order: OrderPlaced, event: LoggedEvent, _: &mut PgConnection| {
        assert_eq!(order.at.to_rfc3339(), "2026-02-28T23:59:59.123456+00:00");
        assert_eq!(order.total.to_string(), "99.99");
        seen.add(order.id.to_string());
        seen.add(order.exact.get());
        seen.add(event.message_id.to_string());
        assert_eq!((event.attempt, event.schema_version, event.metadata), (1, 1, json!({})));
        assert!(event.payload.as_str().contains("12345678901234567890.10"));
        Ok(())
    };
    registry.on::<OrderPlaced>("order.placed", call).unwrap();
    let report = pass(&worker(&database, "w", registry)).await;
    assert_eq!(report.handled_count, 2, "{:?}", letters(&database).await);
    let calls = calls.all();
    assert_eq!(calls[..2], [id.to_string(), "12345678901234567890.10".to_owned()]);
    assert_eq!(calls[2], message_id.to_string());
    let derived: Uuid = calls[5].parse().unwrap();
    assert_eq!(derived.get_version_num(), 8);
}

#[derive(Deserialize)]
struct Line {
    #[expect(dead_code, reason = "read, not used")]
    sku: Uuid,
}

#[derive(Deserialize)]
struct Order {
    #[expect(dead_code, reason = "read, not used")]
    lines: Vec<Line>,
}

#[tokio::test]
async fn a_payload_that_does_not_fit_is_a_dead_letter_without_a_call() {
    let database = stage().await;
    append(&database, "orders", "order.placed", r#"{"lines": [{"sku": "no-uuid"}]}"#, None).await;
    append(&database, "orders", "order.placed", r#"{"lines": []}"#, None).await;
    let calls = Calls::default();
    let seen = calls.clone();
    let mut registry = HandlerRegistry::new();
    let call = async move |_: Order, event: LoggedEvent, _: &mut PgConnection| {
        seen.add(super::place(&event));
        Ok(())
    };
    registry.on("order.placed", call).unwrap();
    let report = pass(&worker(&database, "stock", registry)).await;
    assert_eq!((report.handled_count, report.dead_letter_count, report.failed_count), (1, 1, 0));
    assert_eq!(calls.all(), ["orders/2"]);
    assert_eq!(marks(&database).await, 1);
    let letters = letters(&database).await;
    let (reference, reason, attempts, body) = &letters[0];
    assert_eq!((reference.as_str(), *attempts), ("orders/1", 1));
    assert_eq!(body, r#"{"lines": [{"sku": "no-uuid"}]}"#);
    for part in
        ["the payload of order.placed is no ", "Order: lines[0].sku: ", "UUID parsing failed"]
    {
        assert!(reason.contains(part), "{reason}");
    }
    let (origin, detail): (String, Value) =
        sqlx::query_as("select origin, detail from eventloader.dead_letter")
            .fetch_one(&database.pool)
            .await
            .unwrap();
    assert_eq!(origin, "stock");
    for (key, want) in [
        ("subscription", json!("stock")),
        ("stream", json!("orders")),
        ("version", json!(1)),
        ("position", json!(1)),
        ("event_type", json!("order.placed")),
    ] {
        assert_eq!(detail[key], want, "{detail}");
    }
}

#[tokio::test]
async fn a_message_in_two_streams_is_handled_once_by_each_name() {
    let database = stage().await;
    let message_id = Some(Uuid::now_v7());
    append(&database, "first", "done", "{}", message_id).await;
    append(&database, "second", "done", "{}", message_id).await;
    let mails = pass(&worker(&database, "mails", noting_all())).await;
    assert_eq!((mails.handled_count, mails.repeated_count), (1, 1));
    let stock = pass(&worker(&database, "stock", noting_all())).await;
    assert_eq!((stock.handled_count, stock.repeated_count), (1, 1));
    assert_eq!(marks(&database).await, 2);
}

/// A queue source keeps its ledger in the same table, under its own name.
#[tokio::test]
async fn a_source_of_the_same_name_consumes_nothing_of_a_handler() {
    let database = stage().await;
    let message_id = Uuid::now_v7();
    append(&database, "payments", "done", "{}", Some(message_id)).await;
    sqlx::query(
        "insert into eventloader.consumed_message (consumer, message_id) values ('payments', $1)",
    )
    .bind(message_id)
    .execute(&database.pool)
    .await
    .unwrap();
    assert_eq!(pass(&worker(&database, "payments", noting_all())).await.handled_count, 1);
}

#[tokio::test]
async fn old_marks_are_forgotten_once_everything_is_done_with() {
    let database = stage().await;
    append_many(&database, "s", 3).await;
    let mut worker = worker(&database, "w", noting_all());
    pass(&worker).await;
    assert_eq!(marks(&database).await, 3);
    worker.dedup_retention = std::time::Duration::ZERO;
    pass(&worker).await;
    assert_eq!(marks(&database).await, 0);
    assert_eq!(pass(&worker).await.handled_count, 0);
}
