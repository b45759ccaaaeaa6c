//! `on_failure = "retry"`: windows of unknown outcome are asked again by themselves, a few times.

use eventloader::loader::policy::OnFailure;

use super::{Hostile, Scene, case};
use crate::support::database::Database;
use crate::support::http::Reply;
use crate::support::wait_for;

/// Lets every back-off be over at once, until so many windows wait for an operator.
async fn hurry_until_held(database: &Database, count: i64) {
    wait_for("five attempts", || async {
        database
            .execute(
                "update eventloader.event_request_log set retry_at = clock_timestamp()
                 where status = 'failed' and retry_at > clock_timestamp()",
            )
            .await;
        let held: i64 = database
            .value(
                "select count(*) from eventloader.event_request_log
                 where status = 'failed' and attempt = 5 and retry_at is null",
            )
            .await;
        (held == count).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_window_is_retried_five_times_by_itself_and_then_held() {
    let hostile = Hostile::start(
        vec![
            case("failing", "500", |_| Reply::Status(500, Vec::new(), Vec::new())),
            case("invalid", "invalid page", |_| Reply::Json("{}".to_owned())),
        ],
        3,
    )
    .await;
    let mut given = hostile.given();
    for source in &mut given {
        source.settings.on_failure = OnFailure::Retry;
    }
    let scene = Scene::with(given).await;
    for (name, _) in &hostile.cases {
        let seen = wait_for("the time of the next attempt", || async {
            let seen = scene.seen(name).await;
            let reason = seen.reason.clone().unwrap_or_default();
            reason.contains("asked again by itself at").then_some(seen)
        })
        .await;
        assert_eq!(seen.state, "backing_off");
        assert!(seen.remedy.is_some(), "nobody has to wait: {seen:?}");
    }
    let first: Vec<f64> = scene
        .database
        .column(
            "select extract(epoch from retry_at - updated_at)::float8 from eventloader.event_request_log
             where status = 'failed' and attempt = 1",
        )
        .await;
    assert!(first.iter().all(|wait| (0.85..=1.15).contains(wait)), "{first:?}");
    hurry_until_held(&scene.database, 2).await;
    let mut retry = vec!["requests".to_owned(), "retry".to_owned()];
    for (name, reason) in &hostile.cases {
        let logged = scene.logged(name).await;
        let attempts: Vec<_> =
            logged.iter().map(|request| (request.attempt, request.status.as_str())).collect();
        let want = [(1, "retried"), (2, "retried"), (3, "retried"), (4, "retried"), (5, "failed")];
        assert_eq!(attempts, want, "{name}");
        for request in &logged[..4] {
            assert_eq!(request.closed_by.as_deref(), Some("policy on_failure = retry"), "{name}");
            assert!(request.error.as_deref().unwrap().contains(reason), "{request:?}");
        }
        assert_eq!(logged[4].retry_in, None, "{name}");
        assert_eq!(hostile.asked(name, 0), 5, "{name}");
        let seen = scene.settled(name, "held").await;
        assert_eq!(seen.remedy, Some(format!("eventloader requests retry {}", logged[4].id)));
        retry.push(logged[4].id.to_string());
    }
    hostile.cure();
    scene.command(&retry.iter().map(String::as_str).collect::<Vec<_>>()).await;
    for (name, _) in &hostile.cases {
        scene.stored_up_to(name, 3).await;
        let logged = scene.logged(name).await;
        let window = logged.iter().rfind(|request| request.after_id == 0).unwrap();
        assert_eq!((window.attempt, window.status.as_str()), (6, "succeeded"), "{name}");
        assert_eq!(window.event_count, Some(3), "{name}");
        assert_eq!(hostile.asked(name, 0), 6, "{name}");
    }
    scene.finish(&[&hostile.server]).await;
}
