//! The clients that HTTP sources share.

use std::collections::HashMap;
use std::time::Duration;

use reqwest::{Client, redirect, retry};

use super::HttpSourceError;

/// The clients that HTTP sources share: setting one up reads every root certificate, which takes milliseconds.
#[derive(Debug, Default)]
pub struct Clients {
    by_connect_timeout: HashMap<Duration, Client>,
}

impl Clients {
    pub(super) fn with_connect_timeout(
        &mut self,
        connect_timeout: Duration,
    ) -> Result<Client, HttpSourceError> {
        if let Some(client) = self.by_connect_timeout.get(&connect_timeout) {
            return Ok(client.clone());
        }
        let client = Client::builder()
            .user_agent(concat!("eventloader/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .retry(retry::never())
            .no_proxy()
            .referer(false)
            .http1_only()
            .pool_max_idle_per_host(0)
            .connect_timeout(connect_timeout)
            .build()
            .map_err(HttpSourceError::Client)?;
        self.by_connect_timeout.insert(connect_timeout, client.clone());
        Ok(client)
    }
}
