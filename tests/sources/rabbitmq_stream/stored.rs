//! `eventloader run` with a stream of a real RabbitMQ: what is in the database in the end.

use tokio::process::Child;
use uuid::Uuid;

use super::{click, declare_brief, numbered, overflow};
use crate::support::database::Database;
use crate::support::program::{Program, signal};
use crate::support::rabbitmq::RabbitMq;
use crate::support::wait_for;

/// One stream, by either protocol. The second source is behind an address of AMQP.
fn configuration(broker: &RabbitMq, stream: &str) -> String {
    let source = |name: &str, url: String| {
        format!(
            "[sources.{name}]\ntype = \"rabbitmq_stream\"\nurl = \"{url}\"\nstream = \"{stream}\"\n\
             min_interval = \"0s\"\nbatch_size = 10000\n"
        )
    };
    source("clicks", broker.stream_url()) + &source("queued", broker.amqp_url())
}

async fn stopped(mut child: Child, program: &Program) {
    signal(&child, rustix::process::Signal::TERM);
    assert!(child.wait().await.unwrap().success(), "{}", program.read("log"));
}

/// Waits until both sources have stored the message at this offset.
async fn wait_for_offset(database: &Database, offset: i64) {
    wait_for(&format!("offset {offset} twice"), || async {
        let stored: Vec<i64> = database
            .column("select max(version) from eventloader.events group by stream order by stream")
            .await;
        (stored == [offset; 2]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_is_published_reaches_the_event_log() {
    let broker = RabbitMq::shared().await;
    let stream = broker.declare_stream(&[]).await;
    broker.publish(&stream, numbered(0..3)).await;
    let database = Database::migrated().await;
    let program = Program::new(&database, &configuration(broker, &stream));
    let checked = program.run(&["check"]).await;
    assert!(checked.stdout.contains("clicks") && checked.stdout.contains("queued"), "{checked:?}");
    let child = program.start(&["run"], "log");
    wait_for_offset(&database, 2).await;
    broker.publish(&stream, numbered(3..5000)).await;
    wait_for_offset(&database, 4999).await;
    stopped(child, &program).await;
    for name in ["clicks", "queued"] {
        let rows: Vec<String> = sqlx::query_scalar(
            "select version || ' ' || payload from eventloader.events where stream = $1 order by position",
        )
        .bind(name)
        .fetch_all(&database.pool)
        .await
        .unwrap();
        let wanted: Vec<_> = (0..5000).map(|n| format!(r#"{n} {{"n": {n}}}"#)).collect();
        assert!(rows == wanted, "{name}: {} events", rows.len());
    }
    assert_eq!(database.value::<i64>("select count(*) from eventloader.event_inbox").await, 0);
}

#[tokio::test]
async fn gaps_and_what_stands_beside_the_body_are_stored() {
    let broker = RabbitMq::shared().await;
    let stream = declare_brief(broker).await;
    let database = Database::migrated().await;
    let program = Program::new(&database, &configuration(broker, &stream));
    let child = program.start(&["run"], "log");
    wait_for_offset(&database, 99).await;
    stopped(child, &program).await;

    // Retention drops most of these while nobody reads.
    overflow(broker, &stream).await;
    let id = Uuid::new_v4();
    broker.publish(&stream, [(r#"{"last": true}"#, click(id))]).await;
    let child = program.start(&["run"], "log");
    // Its offset is not known: the broker takes some for itself.
    wait_for("the last message twice", || async {
        let last = "select count(*) from eventloader.events where payload @> '{\"last\": true}'";
        (database.value::<i64>(last).await == 2).then_some(())
    })
    .await;
    let status = program.run(&["status"]).await;
    stopped(child, &program).await;

    for name in ["clicks", "queued"] {
        let lost = format!("{name} lost 1 ranges of ids");
        assert!(status.stdout.contains(&lost), "{lost}: {status:?}");
        let logged = program.read("log");
        assert!(
            logged.lines().any(|line| line.contains(name) && line.contains("first_id")),
            "{logged}"
        );
    }
    // The gap begins after what was read, and ends before what is there.
    let gaps: Vec<String> = database
        .column(
            "select source_name || ' ' || first_id || ' ' || (last_id > 200) || ' ' || reason || ' ' ||
               (select count(*) > 100 and min(version) filter (where version > 99) = last_id + 1
                from eventloader.events where stream = source_name)
             from eventloader.source_gap order by source_name",
        )
        .await;
    let gap = "100 true the stream's retention removed them before they were read true";
    assert_eq!(gaps, [format!("clicks {gap}"), format!("queued {gap}")]);
    let last: Vec<String> = database
        .column(
            "select concat_ws(' ', event_type, message_id, metadata->>'content_type', metadata->'headers'->>'tenant')
             from eventloader.events where payload @> '{\"last\": true}'",
        )
        .await;
    assert_eq!(last, vec![format!("click.made {id} application/json acme"); 2]);
}
