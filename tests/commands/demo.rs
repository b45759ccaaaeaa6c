//! `eventloader demo`.

use std::path::Path;

use crate::support::program::Program;

#[tokio::test]
async fn the_tour_loads_events_says_what_is_next_and_leaves_nothing() {
    // Whatever configuration is here, the demo brings its own.
    let program = Program::without_database("not a configuration");
    let toured = program.run(&["demo", "--seconds", "12"]).await;
    assert_eq!(toured.code, Some(0), "{toured:?}");
    for expected in
        ["SOURCE", "orders", "eventloader init", "refunds is held: eventloader requests retry"]
    {
        assert!(toured.stdout.contains(expected), "{expected}: {toured:?}");
    }
    let last = toured.stdout.lines().rfind(|line| line.starts_with(" orders"));
    let stored: u64 = last.unwrap().split_whitespace().nth(4).unwrap().parse().unwrap();
    assert!(stored >= 1000, "{toured:?}");
    let place = toured.stdout.lines().next().unwrap().split_whitespace().nth(5).unwrap();
    assert!(place.contains("eventloader-demo-"), "{place}");
    assert!(!Path::new(place).exists(), "{place} is still there");
}
