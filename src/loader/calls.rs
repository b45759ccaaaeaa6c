//! The database calls of a cycle, each on a connection that is lent for it.

use std::time::Duration;

use tokio::time::Instant;

use super::cycle::{ClaimAnswer, Close, Deposit, Grant};
use super::{LoadedSource, Loader};
use crate::mutant::{self, Mutant};
use crate::store::inbox::{self, DepositAnswer, DepositRows};
use crate::store::request_log::{self, ClaimRequest, CycleEnd};
use crate::store::{StoreError, lease};

impl Loader {
    /// Made when the connection is there, so that the wait for it does not count as spacing.
    fn cycle_end<'a>(
        &'a self,
        source: &'a LoadedSource,
        known_at: Option<Instant>,
    ) -> CycleEnd<'a> {
        CycleEnd {
            source_name: &source.source_name,
            owner: &self.owner,
            request_known_for: known_at
                .filter(|_| !mutant::is_on(Mutant::SpacingByGrant))
                .map(|at| at.elapsed()),
        }
    }

    pub(super) async fn claim(
        &self,
        source: &LoadedSource,
        request: &ClaimRequest<'_>,
    ) -> Result<ClaimAnswer, StoreError> {
        let mut lent = self.connections.lend().await?;
        let outcome = if source.source.keeps_state() {
            request_log::claim_with_state(&mut *lent, request).await
        } else {
            request_log::claim(&mut *lent, request).await
        };
        lent.give_back(&outcome);
        outcome
    }

    pub(super) async fn renew(
        &self,
        source_name: &str,
        epoch: i64,
        ttl: Duration,
    ) -> Result<bool, StoreError> {
        let mut lent = self.connections.lend().await?;
        let outcome = lease::renew(&mut *lent, source_name, &self.owner, epoch, ttl).await;
        lent.give_back(&outcome);
        outcome
    }

    pub(super) async fn deposit(
        &self,
        source: &LoadedSource,
        known_at: Option<Instant>,
        grant: &Grant,
        deposit: &Deposit,
        rows: DepositRows<'_>,
    ) -> Result<DepositAnswer, StoreError> {
        let mut lent = self.connections.lend().await?;
        let began = Instant::now();
        let outcome =
            inbox::deposit(&mut *lent, self.cycle_end(source, known_at), grant, deposit, rows)
                .await;
        self.metrics.deposited(&source.source_name, began.elapsed());
        lent.give_back(&outcome);
        outcome
    }

    pub(super) async fn unstorable(
        &self,
        payloads: &[&str],
    ) -> Result<Vec<(usize, String)>, StoreError> {
        let mut lent = self.connections.lend().await?;
        let outcome = inbox::unstorable(&mut *lent, payloads).await;
        lent.give_back(&outcome);
        outcome
    }

    pub(super) async fn close(
        &self,
        source: &LoadedSource,
        known_at: Option<Instant>,
        grant: &Grant,
        close: &Close,
        reason: &str,
        page: Option<&[u8]>,
    ) -> Result<(), StoreError> {
        let mut lent = self.connections.lend().await?;
        let outcome = request_log::close(
            &mut *lent,
            self.cycle_end(source, known_at),
            grant,
            close,
            reason,
            page,
        )
        .await;
        lent.give_back(&outcome);
        outcome
    }
}
