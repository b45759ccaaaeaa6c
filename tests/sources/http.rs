//! What an HTTP source can be told, each against a real server that keeps its own log.

mod asking;
mod auth;
mod connection;
mod hosts;
mod tip;
mod token;

use eventloader::event::Item;
use eventloader::source::{EventSource, Page, SourceError};
use eventloader::sources::http::{Clients, HttpOptions, HttpSource};

/// The options of a source at this URL, as the configuration would begin with.
fn options(url: &str) -> HttpOptions {
    HttpOptions::new(url.parse().unwrap())
}

fn source(options: HttpOptions) -> HttpSource {
    HttpSource::new(&mut Clients::default(), options).unwrap()
}

async fn fetch(source: &HttpSource) -> Result<Page, SourceError> {
    source.fetch_events(0, 10).await
}

/// The error of a request that brings none.
async fn refused(source: &HttpSource) -> SourceError {
    match fetch(source).await {
        Ok(page) => panic!("a page came: {:?}", ids(&page)),
        Err(error) => error,
    }
}

fn ids(page: &Page) -> Vec<i64> {
    page.items.iter().filter_map(Item::id).collect()
}
