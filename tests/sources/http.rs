//! What an HTTP source can be told, each against a real server that keeps its own log.

mod asking;

use eventloader::event::Item;
use eventloader::source::Page;
use eventloader::sources::http::{Clients, HttpOptions, HttpSource};

/// The options of a source at this URL, as the configuration would begin with.
fn options(url: &str) -> HttpOptions {
    HttpOptions::new(url.parse().unwrap())
}

fn source(options: HttpOptions) -> HttpSource {
    HttpSource::new(&mut Clients::default(), options).unwrap()
}

fn ids(page: &Page) -> Vec<i64> {
    page.items.iter().filter_map(Item::id).collect()
}
