//! The events that are loaded, and the pages of them, made before anything is timed.

use std::sync::Arc;

use crate::support::http::{Reply, Server};

/// Events a page, rows a move.
pub(crate) const BATCH: usize = 1000;
/// Bytes of each event.
const BYTES: usize = 300;

/// An event of [`BYTES`] bytes, as real ones are: a few short members and a text.
pub(crate) fn event(id: usize) -> String {
    let head = format!(
        r#"{{"id":{id},"type":"order.placed","customer":{},"amount":{}.5,"paid":true,"note":""#,
        id % 9973,
        id % 313
    );
    let text = "the quick brown fox jumps over the lazy dog ".repeat(8);
    format!("{head}{}\"}}", &text[..BYTES - head.len() - 2])
}

/// A server whose sources, whatever their path, all hold the same events, in so many pages.
pub(crate) async fn serve(pages: usize) -> Server {
    let bodies: Arc<Vec<String>> = Arc::new(
        (0..pages)
            .map(|page| {
                let events: Vec<String> =
                    (page * BATCH + 1..=(page + 1) * BATCH).map(event).collect();
                format!("[{}]", events.join(","))
            })
            .collect(),
    );
    Server::start(move |asked| {
        let page = usize::try_from(asked.after_id).unwrap() / BATCH;
        Reply::Json(bodies.get(page).map_or_else(|| "[]".to_owned(), Clone::clone))
    })
    .await
}

/// The configuration of so many sources of a server, each with these further lines.
pub(crate) fn configuration(server: &Server, sources: usize, lines: &str) -> String {
    (0..sources)
        .map(|n| {
            format!(
                "[sources.s{n}]\ntype = \"http\"\nurl = \"{}\"\n{lines}",
                server.url_of(&format!("/s{n}"))
            )
        })
        .collect()
}
