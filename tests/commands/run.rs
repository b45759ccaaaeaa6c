//! `eventloader run --only`.

use rustix::process::Signal;

use crate::support::database::Database;
use crate::support::http::Server;
use crate::support::program::{Program, signal};
use crate::support::wait_for;

#[tokio::test]
async fn the_parts_can_run_in_processes_of_their_own() {
    let database = Database::migrated().await;
    let server = Server::with_events(30).await;
    let configuration = format!("[sources.api]\ntype = \"http\"\nurl = \"{}\"\n", server.url());
    let program = Program::new(&database, &configuration);
    let inbox = "select count(*) from eventloader.event_inbox";
    let events = "select count(*) from eventloader.events";

    let mut loader = program.start(&["run", "--only", "loader"], "loader");
    wait_for("the inbox", || async { (database.value::<i64>(inbox).await == 30).then_some(()) })
        .await;
    // The request log says that nobody moves: the loader went on to the tip.
    wait_for("a look at the tip", || async { server.windows().contains(&30).then_some(()) }).await;
    assert_eq!(database.value::<i64>(events).await, 0);
    signal(&loader, Signal::TERM);
    assert_eq!(loader.wait().await.unwrap().code(), Some(0), "{}", program.read("loader"));

    let asked = server.log().len();
    let mut mover = program.start(&["run", "--only", "retry-worker"], "mover");
    wait_for("the log", || async { (database.value::<i64>(events).await == 30).then_some(()) })
        .await;
    signal(&mover, Signal::INT);
    assert_eq!(mover.wait().await.unwrap().code(), Some(0), "{}", program.read("mover"));
    assert_eq!(server.log().len(), asked);
}

#[tokio::test]
async fn a_source_cannot_take_the_stream_of_an_application() {
    let database = Database::migrated().await;
    database
        .execute("insert into eventloader.stream (stream, version, owner) values ('orders', 3, 'application')")
        .await;
    let program =
        Program::new(&database, "[sources.orders]\ntype = \"file\"\npath = \"orders.ndjson\"\n");
    let refused = program.run(&["run"]).await;
    assert_eq!(refused.code, Some(78), "{refused:?}");
    assert!(refused.stderr.contains("rename the source"), "{refused:?}");
}
