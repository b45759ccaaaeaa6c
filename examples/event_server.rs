//! A small HTTP API of events, for `make run` and for trying things out: `GET /events?after_id=41&limit=1000` answers
//! `{"events": […]}`. It makes a few new orders every second. The port is its only argument.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::RwLock;

#[derive(Deserialize)]
struct Window {
    after_id: i64,
    limit: usize,
}

type Orders = Arc<RwLock<Vec<Value>>>;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let port: u16 = std::env::args().nth(1).unwrap_or_else(|| "8099".to_owned()).parse()?;
    let orders = Orders::default();
    add_orders(&orders, 5000).await;
    let app = Router::new().route("/events", get(events)).with_state(Arc::clone(&orders));
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    let makes_orders = async {
        loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            add_orders(&orders, rand::random_range(1..20)).await;
        }
    };
    tokio::select! {
        served = axum::serve(listener, app) => served?,
        () = makes_orders => {}
    }
    Ok(())
}

async fn events(State(orders): State<Orders>, Query(window): Query<Window>) -> Json<Value> {
    let orders = orders.read().await;
    let start = usize::try_from(window.after_id).unwrap_or_default().min(orders.len());
    let page: Vec<_> = orders[start..].iter().take(window.limit).collect();
    Json(json!({ "events": page }))
}

/// Ids count 1, 2, 3…, so an event's place is its id less one.
async fn add_orders(orders: &Orders, count: usize) {
    let mut orders = orders.write().await;
    for _ in 0..count {
        let id = orders.len() + 1;
        orders.push(json!({
            "id": id,
            "type": (["order.placed", "order.paid", "order.shipped"][id % 3]),
            "created_at": chrono::Utc::now(),
            "order": id / 3 + 1,
            "total": format!("{}.{:02}", rand::random_range(5..500), rand::random_range(0..100)),
        }));
    }
}
