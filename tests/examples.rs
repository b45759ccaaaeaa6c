//! The examples, run as they are.

#[expect(dead_code, reason = "`main` is for `cargo run --example`")]
#[path = "../examples/custom_queue.rs"]
pub(crate) mod custom_queue;
#[expect(dead_code, reason = "`main` is for `cargo run --example`")]
#[path = "../examples/custom_source.rs"]
mod custom_source;
#[expect(dead_code, reason = "`main` is for `cargo run --example`")]
#[path = "../examples/handlers.rs"]
mod handlers;

#[tokio::test]
async fn the_example_of_handlers_runs() {
    handlers::run().await.unwrap();
}

#[tokio::test]
async fn the_example_of_a_custom_source_runs() {
    custom_source::run().await.unwrap();
}

#[tokio::test]
async fn the_example_of_a_custom_queue_runs() {
    custom_queue::run().await.unwrap();
}
