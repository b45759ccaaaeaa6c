//! The status page in Chromium, as people use it: with the mouse, with the keyboard alone, and without JavaScript.
//!
//! What came of a press is judged by the source's own log and by the database, not by the page alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::Signal;
use serde_json::json;

use crate::support::admin::{Administered, TOKEN, http_sources};
use crate::support::browser::{Browser, ENTER, ESCAPE};
use crate::support::database::Database;
use crate::support::http::{Reply, Server, page};
use crate::support::program::signal;
use crate::support::wait_for;

const PAYMENTS: &str = "#sources tr[data-key=payments]";
const RETRY: &str = "[aria-label='Retry the window of payments']";

/// A source `orders` that always works, and `payments`, whose first window is held until `works` is set.
struct Shop {
    database: Database,
    server: Server,
    works: Arc<AtomicBool>,
    running: Administered,
    browser: Browser,
}

impl Shop {
    async fn open(browser: Browser) -> Self {
        let database = Database::migrated().await;
        let works = Arc::new(AtomicBool::new(false));
        let is_working = Arc::clone(&works);
        let server = Server::start(move |asked| {
            let is_held = asked.path == "/payments" && asked.after_id < 50;
            if is_held && !is_working.load(Ordering::Relaxed) {
                return Reply::Drop;
            }
            Reply::Json(page(asked, 60))
        })
        .await;
        let sources = ["orders", "payments"]
            .map(|name| (name, server.url_of(&format!("/{name}")), "max_idle = \"1s\""));
        let running = Administered::start(&database, &http_sources(&sources)).await;
        Self { database, server, works, running, browser }
    }

    /// Signed in, with the held window on the page. From then on the document is not loaded again.
    async fn signed_in() -> Self {
        let shop = Self::open(Browser::start().await).await;
        shop.browser.sign_in(&shop.running.url, TOKEN).await;
        shop.browser.until_says(PAYMENTS, "held").await;
        shop.browser.until("document.querySelector('#live.on')").await;
        shop.browser.js("window.isTheSame = true").await;
        shop
    }

    /// The source answers from now on.
    fn mend(&self) {
        assert_eq!(self.server.asked("/payments", 0), 1, "it is not asked again by itself");
        self.works.store(true, Ordering::Relaxed);
    }

    async fn until_stored(&self, source_name: &str, count: i64) {
        wait_for("events", || async {
            let stored: i64 =
                sqlx::query_scalar("select count(*) from eventloader.events where stream = $1")
                    .bind(source_name)
                    .fetch_one(&self.database.pool)
                    .await
                    .unwrap();
            (stored == count).then_some(())
        })
        .await;
    }

    /// Waits until the page was drawn anew, twice.
    async fn until_drawn(&self) {
        for _ in 0..2 {
            let before = json!(self.browser.text("#sources").await);
            let text = "document.querySelector('#sources').innerText";
            self.browser.until(&format!("{text} !== {before}")).await;
        }
    }

    async fn close(self) {
        assert_eq!(self.browser.js("return window.isTheSame").await, json!(true), "no reload");
        close(self.browser, self.running).await;
    }
}

/// Nothing went wrong that only the browser tells, and it asked nobody else.
async fn close(browser: Browser, running: Administered) {
    assert_eq!(browser.console().await, [""; 0]);
    let asked = browser.asked().await;
    assert!(asked.iter().any(|url| url.starts_with(&running.url)), "{asked:?}");
    for url in asked {
        assert!(url.starts_with(&running.url), "{url}");
    }
    drop(browser);
    running.stop().await;
}

#[tokio::test]
async fn a_held_window_is_retried_by_its_button() {
    let shop = Shop::signed_in().await;
    let browser = &shop.browser;
    browser.until("document.title.startsWith('(1)')").await;
    shop.mend();
    browser.click(RETRY).await;
    let question = browser.accept().await;
    assert!(question.starts_with("Ask payments for the window of request"), "{question}");
    browser.until_says("#said", "(payments after 0) will be asked again").await;
    shop.until_stored("payments", 60).await;
    assert_eq!(shop.server.asked("/payments", 0), 2, "once, and once more by hand");
    browser.until("document.querySelector(\"#sources tr[data-key=payments] .state.ok\")").await;
    browser.until("document.title === 'eventloader'").await;
    browser.press(ESCAPE).await;
    browser.until("document.querySelector('#said').innerText === ''").await;
    shop.close().await;
}

#[tokio::test]
async fn a_held_window_is_retried_by_keyboard_alone() {
    let shop = Shop::signed_in().await;
    let browser = &shop.browser;
    shop.mend();
    browser.tab_to(RETRY).await;
    let outline = "getComputedStyle(document.activeElement).outlineStyle";
    assert_ne!(browser.js(&format!("return {outline}")).await, json!("none"), "it is seen");
    shop.until_drawn().await;
    let label = "document.activeElement.ariaLabel";
    assert_eq!(browser.js(&format!("return {label}")).await, json!("Retry the window of payments"));
    browser.press(ENTER).await;
    browser.accept().await;
    shop.until_stored("payments", 60).await;
    assert_eq!(shop.server.asked("/payments", 0), 2);
    // The button is gone, and the keyboard where it was.
    browser.until(&format!("{label} === 'Pause payments'")).await;
    shop.until_drawn().await;
    assert_eq!(browser.js(&format!("return {label}")).await, json!("Pause payments"));
    shop.close().await;
}

#[tokio::test]
async fn a_source_is_paused_and_resumed_and_a_window_skipped() {
    let shop = Shop::signed_in().await;
    let browser = &shop.browser;
    let state = async || -> Option<bool> {
        shop.database
            .value(
                "select paused_at is not null from eventloader.source where source_name = 'orders'",
            )
            .await
    };
    browser.click("[aria-label='Pause orders']").await;
    browser.until_says("#said", "orders is paused").await;
    assert_eq!(state().await, Some(true));
    browser.until_says("#sources tr[data-key=orders]", "paused").await;
    browser.click("[aria-label='Resume orders']").await;
    browser.until_says("#said", "orders is resumed").await;
    assert_eq!(state().await, Some(false));
    browser.until("document.querySelector(\"#sources tr[data-key=orders] .state.ok\")").await;

    // What is typed stays while the page is drawn anew.
    let field = "#sources tr[data-key=payments] input[name=to]";
    browser.enter(field, "5").await;
    shop.until_drawn().await;
    browser.press('0').await;
    shop.until_drawn().await;
    browser.click("[aria-label='Skip the window of payments']").await;
    assert_eq!(browser.accept().await, "Never ask payments for the events of this window?");
    browser.until_says("#said", "payments goes on after 50").await;
    shop.until_stored("payments", 10).await;
    assert_eq!(shop.server.asked("/payments", 0), 1);
    assert_eq!(shop.server.asked("/payments", 50), 1);
    browser.until("document.querySelector(\"#sources tr[data-key=payments] .state.ok\")").await;
    shop.close().await;
}

/// Makes a dead letter of every line: too large for the limit, which is raised later.
fn large(ids: std::ops::RangeInclusive<i64>) -> String {
    let attack = "<script>document.title='stolen'</script><img src=x onerror=alert(1)>";
    ids.map(|id| format!("{{\"id\":{id},\"text\":\"{attack}{}\"}}\n", "x".repeat(2000))).collect()
}

/// The button of the dead letter for this event.
async fn button_of(database: &Database, origin: &str, event_id: i64, verb: &str) -> String {
    let id: i64 = sqlx::query_scalar(
        "select id from eventloader.dead_letter where origin = $1 and reference = $2::text",
    )
    .bind(origin)
    .bind(event_id)
    .fetch_one(&database.pool)
    .await
    .unwrap();
    format!("#letters [aria-label='{verb} dead letter {id}']")
}

#[tokio::test]
async fn dead_letters_are_read_replayed_and_discarded() {
    let database = Database::migrated().await;
    let source = |name: &str| {
        format!(
            "[sources.{name}]\ntype = \"file\"\npath = \"{name}.ndjson\"\nmax_idle = \"1s\"\nmax_event_bytes = \"1KiB\"\n"
        )
    };
    let running = Administered::start(&database, &(source("log") + &source("other"))).await;
    std::fs::write(running.program.path("log.ndjson"), large(1..=4)).unwrap();
    std::fs::write(running.program.path("other.ndjson"), large(1..=2)).unwrap();
    let browser = Browser::start().await;
    browser.sign_in(&running.url, TOKEN).await;
    browser.until_says("#letters .found", "6 dead letters").await;

    // What a source sent is shown, and not run.
    let replay = button_of(&database, "log", 1, "Replay").await;
    browser.click(&format!("#letters tr:has({}) th a", &replay["#letters ".len()..])).await;
    browser.until_says("#letter pre", "<script>document.title='stolen'</script><img").await;
    let foreign = "document.querySelectorAll('#letter script, #letter img').length";
    assert_eq!(browser.js(&format!("return {foreign}")).await, json!(0));
    assert_ne!(browser.js("return document.title").await, json!("stolen"));
    browser.click("#letter button.replay").await;
    browser.until_says("#said", "still cannot be stored").await;
    browser.click("#close").await;

    // The limit is raised.
    let configuration = running.program.read("eventloader.toml").replace("1KiB", "1MiB");
    std::fs::write(running.program.path("eventloader.toml"), configuration).unwrap();
    signal(&running.child, Signal::HUP);
    wait_for("the reload", || async {
        running.program.read("log").contains("was reloaded").then_some(())
    })
    .await;
    let stored = async |want: &[&str]| {
        wait_for("the replayed events", || async {
            let stored: Vec<String> = database
                .column("select stream || ' ' || version from eventloader.events order by 1")
                .await;
            (stored == want).then_some(())
        })
        .await;
    };
    browser.click("#letter button.replay").await;
    browser.until_says("#letter", "Replayed 2").await;
    stored(&["log 1"]).await;
    browser.until_says("#letters .found", "5 dead letters").await;

    browser.js("window.isTheSame = true").await;
    browser.click(&button_of(&database, "log", 2, "Replay").await).await;
    stored(&["log 1", "log 2"]).await;
    browser.until_says("#letters .found", "4 dead letters").await;
    browser.enter("input[name=origin]", "other").await;
    browser.until_says("#letters .found", "2 dead letters").await;
    browser.click("#letters .actions button.replay").await;
    assert!(browser.accept().await.starts_with("Replay all of other,"));
    stored(&["log 1", "log 2", "other 1", "other 2"]).await;
    browser.until_says("#letters .found", "None of 2 dead letters").await;
    browser.clear("input[name=origin]").await;
    browser.until_says("#letters .found", "2 dead letters").await;
    browser.click(&button_of(&database, "log", 3, "Discard").await).await;
    assert!(browser.accept().await.ends_with("for good?"));
    browser.until_says("#letters .found", "1 dead letter.").await;
    browser.click("#letters button.replay").await;
    assert!(browser.accept().await.starts_with("Replay all dead letters,"));
    browser.until_says("#letters .found", "No dead letters").await;
    stored(&["log 1", "log 2", "log 4", "other 1", "other 2"]).await;
    let left: i64 = database.value("select count(*) from eventloader.dead_letter").await;
    assert_eq!(left, 5, "replayed ones are kept, the discarded one is not");
    assert_eq!(browser.js("return window.isTheSame").await, json!(true), "no reload");
    close(browser, running).await;
}

/// The names in the table.
async fn names(browser: &Browser) -> Vec<String> {
    let names =
        "return [...document.querySelectorAll('#sources tbody tr')].map(row => row.dataset.key)";
    serde_json::from_value(browser.js(names).await).unwrap()
}

#[tokio::test]
async fn among_a_thousand_sources_one_is_found() {
    let database = Database::migrated().await;
    let configuration: String = (1..=1000)
        .map(|n| format!("[sources.shop-{n:04}]\ntype = \"file\"\npath = \"log.ndjson\"\n"))
        .collect();
    let running = Administered::start(&database, &configuration).await;
    std::fs::write(running.program.path("log.ndjson"), "{\"id\":1}\n").unwrap();
    database
        .execute(
            "insert into eventloader.dead_letter (kind, origin, reference, body, reason)
             values ('event', 'shop-0777', '7', '{}', 'a test')",
        )
        .await;
    for name in ["shop-0500", "shop-0123"] {
        running.post(&format!("/api/v1/sources/{name}/pause"), &json!({})).await;
    }
    let browser = Browser::start().await;
    browser.sign_in(&running.url, TOKEN).await;
    let navigation = "performance.getEntriesByType('navigation')[0]";
    let took = browser.js(&format!("return {navigation}.domContentLoadedEventEnd")).await;
    assert!(took.as_f64().unwrap() < 5000.0, "the page took {took} ms");
    browser.until_says("#sources .found", "1000 sources").await;
    assert_eq!(names(&browser).await.len(), 100);
    browser.js("window.isTheSame = true").await;

    // It narrows with every letter, and the field keeps what is typed.
    for (typed, found) in [("shop-0", "999"), ("1", "100"), ("2", "10"), ("3", "1")] {
        browser.enter("input[name=q]", typed).await;
        browser.until_says("#sources .found", &format!("{found} of 1000 sources")).await;
    }
    assert_eq!(names(&browser).await, ["shop-0123"]);
    assert_eq!(browser.js("return document.activeElement.value").await, json!("shop-0123"));
    browser.clear("input[name=q]").await;
    browser.click("select[name=state] option[value=paused]").await;
    browser.until_says("#sources .found", "2 of 1000 sources").await;
    assert_eq!(names(&browser).await, ["shop-0123", "shop-0500"]);
    browser.click("select[name=state] option[value='']").await;
    browser.click("select[name=sort] option[value=dead_letters]").await;
    browser.until("document.querySelector('#sources tbody tr').dataset.key === 'shop-0777'").await;
    browser.click("select[name=sort] option[value=name]").await;
    browser.until("document.querySelector('#sources tbody tr').dataset.key === 'shop-0001'").await;
    assert_eq!(browser.js("return window.isTheSame").await, json!(true), "no reload");

    browser.click("[data-key=next]").await;
    browser.until_says("#sources .pager", "Page 2 of 10").await;
    let shown = names(&browser).await;
    assert_eq!((shown.len(), shown[0].as_str()), (100, "shop-0101"));
    // A search begins on its first page.
    browser.enter("input[name=q]", "shop-09").await;
    browser.until("document.querySelector('#sources tbody tr').dataset.key === 'shop-0900'").await;
    browser.click(".counts [data-key=paused]").await;
    browser.until_says("#sources .found", "0 of 1000 sources").await;
    close(browser, running).await;
}

#[tokio::test]
async fn without_javascript_the_page_is_whole() {
    let shop = Shop::open(Browser::without_javascript().await).await;
    let browser = &shop.browser;
    browser.go(&shop.running.url).await;
    browser.enter("#token", "wrong-wrong-wrong").await;
    browser.click("form.login button").await;
    browser.until_says("#complaint", "That is not the token.").await;
    let refused = browser.console().await;
    assert!(refused.iter().all(|line| line.contains("/login - Failed to load")), "{refused:?}");
    browser.sign_in(&shop.running.url, TOKEN).await;
    assert!(browser.text("#live").await.contains("not live"), "no script runs");
    // It loads itself anew.
    browser.until_says(PAYMENTS, "held").await;

    browser.enter("input[name=q]", "ORDER\n").await;
    browser.until_says("#sources .found", "1 of 2 sources").await;
    browser.click("[aria-label='Pause orders']").await;
    browser.until_says(".message", "orders is paused").await;
    browser.click("a").await;
    browser.click("[aria-label='Resume orders']").await;
    browser.until_says(".message", "orders is resumed").await;

    // Where the script would ask a question a box has to be ticked.
    shop.mend();
    browser.go(&shop.running.url).await;
    browser.click(RETRY).await;
    assert_eq!(shop.server.asked("/payments", 0), 1, "not ticked");
    browser.click("form[action$=retry] input[type=checkbox]").await;
    browser.click(RETRY).await;
    browser.until_says(".message", "(payments after 0) will be asked again").await;
    shop.until_stored("payments", 60).await;
    assert_eq!(shop.server.asked("/payments", 0), 2);
    browser.click("a").await;
    browser.click("form[action='/logout'] button").await;
    browser.until("document.querySelector('#token')").await;
    close(shop.browser, shop.running).await;
}
