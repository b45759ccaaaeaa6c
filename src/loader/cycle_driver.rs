//! Performs the effects of one cycle: talks to the database and to the source, and tells the state machine what came of
//! it. Decides nothing itself.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::cycle::{
    self, Answer, ClaimAnswer, Close, Denial, Deposit, Effect, Ending, Event, Grant, Stored, Token,
};
use super::policy::{FailureClass, STORE_BACKOFF};
use super::{LoadedSource, Loader, SLOW, Stop, pace};
use crate::event::excerpt::excerpt;
use crate::event::{BadEvent, Item, TraceNote};
use crate::failpoint::{self, Place};
use crate::mapping::check_order;
use crate::metrics::{EventCount, Outcome};
use crate::mutant::{self, Mutant};
use crate::source::queue::Gap;
use crate::source::{Page, SourceError};
use crate::store::inbox::{self, DepositRows};
use crate::store::request_log::ClaimRequest;
use crate::store::{Remedy, StoreError};
use crate::telemetry::{Span, chain};

/// What the loop learns from a cycle.
pub(super) struct CycleReport {
    /// When to look at the source again.
    pub(super) next_in: Duration,
    /// Whether a request was granted.
    pub(super) granted: bool,
    /// Whether the request was slow, or failed; `None`: none was sent.
    pub(super) was_slow: Option<bool>,
    /// The token the next claim has to use; `None`: a new one.
    pub(super) unused_token: Option<Token>,
    /// Set when the database is away.
    pub(super) trouble: Option<Trouble>,
}

/// What the database said instead of an answer.
pub(super) struct Trouble {
    pub(super) error: String,
    pub(super) hint: Option<&'static str>,
    /// The whole database is away, not only this statement in trouble.
    is_outage: bool,
}

impl CycleReport {
    /// After a panic in a source: give it a rest, and its reservation time to show as orphaned.
    pub(super) fn panicked() -> Self {
        Self {
            next_in: Duration::from_secs(5),
            granted: true,
            was_slow: Some(true),
            unused_token: None,
            trouble: None,
        }
    }
}

/// Longest reason that is kept and logged, in characters. Sources of other people may say anything.
pub(crate) const REASON_LENGTH_MAX: usize = 1000;

/// Everything one cycle holds besides its state.
struct Driver<'a> {
    loader: &'a Loader,
    source: &'a LoadedSource,
    stop: &'a Stop,
    /// Before the claim was sent: what the age of the grant is measured from.
    claimed_at: Instant,
    /// When the source is known to have had the request.
    known_at: Option<Instant>,
    was_slow: Option<bool>,
    events: Vec<crate::event::Event>,
    bad_events: Vec<BadEvent>,
    /// The page as it came, until it is stored.
    body: Bytes,
    /// What came with the page.
    state: Option<String>,
    /// Ids that the source said to have dropped.
    gaps: Vec<Gap>,
    failure: Option<SourceError>,
    granted: bool,
    /// What came of the request, once it was sent.
    outcome: Option<Outcome>,
    trouble: Option<Trouble>,
    span: &'a Span,
}

/// Runs one cycle from the claim to its end.
pub(super) async fn run_cycle(
    loader: &Loader,
    source: &LoadedSource,
    token: Token,
    stop: &Stop,
) -> CycleReport {
    let span = Span::request(&source.source_name);
    span.around(perform(loader, source, token, stop, &span)).await
}

async fn perform(
    loader: &Loader,
    source: &LoadedSource,
    token: Token,
    stop: &Stop,
    span: &Span,
) -> CycleReport {
    let mut driver = Driver {
        loader,
        source,
        stop,
        claimed_at: Instant::now(),
        known_at: None,
        was_slow: None,
        events: Vec::new(),
        bad_events: Vec::new(),
        body: Bytes::new(),
        state: None,
        gaps: Vec::new(),
        failure: None,
        granted: false,
        outcome: None,
        trouble: None,
        span,
    };
    let rules = source.settings.rules();
    let (mut state, mut effect) = cycle::begin(token);
    let ending = loop {
        let event = match effect {
            Effect::Claim(token) => driver.claim(token).await,
            Effect::MeasureAge => Some(driver.measure_age()),
            Effect::Fetch(grant) => driver.fetch(&grant).await,
            Effect::Deposit(grant, deposit) => driver.deposit(&grant, &deposit).await,
            Effect::Close(grant, close) => driver.close(&grant, &close).await,
            Effect::End(ending) => break ending,
        };
        let Some(event) = event else { break Ending::Refused };
        (state, effect) = cycle::step(&rules, state, event);
    };
    driver.report(&ending)
}

impl Driver<'_> {
    async fn claim(&mut self, token: Token) -> Option<Event> {
        let settings = &self.source.settings;
        let request = ClaimRequest {
            source_name: &self.source.source_name,
            owner: &self.loader.owner,
            token,
            limit: settings.batch_size,
            lease_ttl: settings.lease_ttl,
            orphan_grace: settings.orphan_grace(),
            min_interval: settings.min_interval,
            on_failure: settings.on_failure,
        };
        self.claimed_at = Instant::now();
        failpoint::hit(Place::ClaimUnsent);
        let span = Span::claim();
        Some(match span.around(self.loader.claim(self.source, &request)).await {
            Ok(answer) => {
                if let ClaimAnswer::Granted(grant) = &answer {
                    self.granted = true;
                    self.span.set("request_id", grant.request_id);
                    self.span.set("after_id", grant.after_id);
                    span.set("outcome", "granted");
                } else {
                    span.forget();
                }
                failpoint::hit(if self.granted { Place::ClaimGranted } else { Place::ClaimDenied });
                Event::ClaimAnswered(answer)
            }
            Err(error) => {
                failpoint::hit(Place::ClaimLost);
                span.set("outcome", "lost");
                self.note_trouble(&error);
                if !error.is_outage() {
                    tracing::warn!(
                        source_name = self.source.source_name,
                        error = chain(&error),
                        hint = error.hint(),
                        "cannot claim a window; trying again"
                    );
                }
                Event::ReplyLost
            }
        })
    }

    fn measure_age(&self) -> Event {
        if self.stop.intake.is_cancelled() {
            return Event::Stopping;
        }
        failpoint::hit(Place::GrantFresh);
        if mutant::is_on(Mutant::SpacingByGrant) {
            return Event::GrantAged(Duration::ZERO);
        }
        Event::GrantAged(self.claimed_at.elapsed())
    }

    /// Sends the request. The lease is renewed while it runs; losing it changes nothing here, because the deposit is
    /// fenced by the reservation.
    async fn fetch(&mut self, grant: &Grant) -> Option<Event> {
        failpoint::hit(Place::FetchBegun);
        let sent_at = Instant::now();
        let settings = &self.source.settings;
        let source = &self.source.source;
        let state = grant.state.as_deref();
        let span = Span::fetch();
        let fetch =
            span.around(source.fetch_with_state(grant.after_id, settings.batch_size, state));
        let heartbeat = heartbeat(self.loader, self.source, grant.epoch);
        let outcome = tokio::select! {
            biased;
            outcome = fetch => outcome,
            never = heartbeat => match never {},
            () = tokio::time::sleep(settings.deadline) => Err(SourceError::unknown(format!(
                "no answer within {} s", settings.deadline.as_secs_f64()
            ))),
            () = self.stop.work.cancelled() => Err(SourceError::unknown(
                "the loader was stopped while the request was running",
            )),
        };
        let took = sent_at.elapsed();
        let (answer, outcome) = match outcome.and_then(|page| self.accept(page, grant, sent_at)) {
            Ok(answer) if self.events.is_empty() && self.bad_events.is_empty() => {
                (answer, Outcome::Empty)
            }
            Ok(answer) => (answer, Outcome::Page),
            Err(error) => {
                let class = error.class;
                let answer = self.fail(error, grant);
                let reason = self.failure.as_ref().map_or("", |error| error.reason.as_str());
                span.failed(reason);
                self.span.failed(reason);
                (answer, Outcome::Failed(class))
            }
        };
        span.set("outcome", outcome.name());
        self.outcome = Some(outcome);
        self.loader.metrics.requested(&self.source.source_name, outcome, took);
        Some(Event::Answered(answer, rand::random_range(0..1000)))
    }

    /// Checks a page and takes it over.
    fn accept(
        &mut self,
        page: Page,
        grant: &Grant,
        sent_at: Instant,
    ) -> Result<Answer, SourceError> {
        let known_at = page.answered_at.unwrap_or_else(Instant::now);
        self.known_at = Some(known_at);
        self.was_slow = Some(sent_at.elapsed() > SLOW);
        let ids = page.items.iter().filter_map(Item::id);
        let limit = match page.state {
            None => self.source.settings.batch_size as usize,
            Some(_) => usize::MAX,
        };
        if let Err(error) = check_order(ids, grant.after_id, limit) {
            return Err(SourceError::invalid_page(&error, page.body));
        }
        let max_id = page.items.iter().rev().find_map(Item::id);
        for item in page.items {
            match item {
                Item::Good(event) => self.events.push(event),
                Item::Bad(bad) => {
                    let reason = excerpt(&bad.reason, REASON_LENGTH_MAX);
                    self.bad_events.push(BadEvent { reason, ..bad });
                }
            }
        }
        if let Some(note) = self.span.kept_traceparent().map(TraceNote::new) {
            let good = self.events.iter_mut().map(|event| &mut event.metadata);
            let bad = self.bad_events.iter_mut().map(|event| &mut event.metadata);
            good.chain(bad).for_each(|metadata| note.add_to(metadata));
        }
        (self.body, self.state, self.gaps) = (page.body, page.state, page.gaps);
        failpoint::hit(Place::PageAccepted);
        Ok(Answer::Page { max_id, pause: page.pause })
    }

    fn fail(&mut self, mut error: SourceError, grant: &Grant) -> Answer {
        error.reason = excerpt(&error.reason, REASON_LENGTH_MAX);
        self.known_at.get_or_insert_with(Instant::now);
        self.was_slow = Some(true);
        let answer = Answer::Failure { class: error.class, retry_after: error.retry_after };
        if error.class == FailureClass::NotSent {
            self.known_at = None;
        }
        tracing::warn!(
            source_name = self.source.source_name,
            request_id = grant.request_id,
            after_id = grant.after_id,
            class = ?error.class,
            error = %error,
            "request failed"
        );
        failpoint::hit(Place::FetchFailed);
        self.failure = Some(error);
        answer
    }

    async fn deposit(&mut self, grant: &Grant, deposit: &Deposit) -> Option<Event> {
        let mut failures = 0;
        loop {
            let rows = DepositRows {
                events: &self.events,
                bad_events: &self.bad_events,
                state: self.state.as_deref(),
                gaps: &self.gaps,
            };
            failpoint::hit(Place::DepositUnsent);
            let span = Span::deposit();
            let outcome = span
                .around(self.loader.deposit(self.source, self.known_at, grant, deposit, rows))
                .await;
            match &outcome {
                Ok(answer) if answer.stored == Stored::Refused => span.set("outcome", "closed"),
                Ok(_) => span.set("outcome", "stored"),
                Err(error) => span.failed(&chain(error)),
            }
            match outcome {
                Ok(answer) => {
                    failpoint::hit(Place::DepositDone);
                    self.deposited(grant, deposit, answer);
                    return Some(Event::DepositAnswered(answer.stored));
                }
                Err(error) if error.remedy() == Remedy::SetRowAside => {
                    match self.set_unstorable_aside(&error).await {
                        Ok(0) => {
                            self.failure = Some(self.unstorable_page(&error));
                            return Some(Event::Unstorable);
                        }
                        Ok(_) => {}
                        Err(error) => self.wait_for_database(&error, &mut failures).await?,
                    }
                }
                Err(error) => self.wait_for_database(&error, &mut failures).await?,
            }
        }
    }

    /// Takes the events out that `jsonb` refuses, although the screen let them pass. Answers how many.
    async fn set_unstorable_aside(&mut self, cause: &StoreError) -> Result<usize, StoreError> {
        let payloads: Vec<&str> = self.events.iter().map(|e| e.payload.as_str()).collect();
        let found = self.loader.unstorable(&payloads).await?;
        tracing::warn!(
            source_name = self.source.source_name,
            event_count = found.len(),
            error = chain(cause),
            "events cannot be stored as jsonb"
        );
        for (place, reason) in found.iter().rev() {
            let event = self.events.remove(*place);
            self.bad_events.push(BadEvent {
                id: Some(event.id),
                reference: event.id.to_string(),
                body: event.payload.into_bytes(),
                reason: reason.clone(),
                payload_at: String::new(),
                event_type: event.event_type,
                occurred_at: event.occurred_at,
                message_id: event.message_id,
                metadata: event.metadata,
            });
        }
        Ok(found.len())
    }

    fn unstorable_page(&self, cause: &StoreError) -> SourceError {
        let reason = format!("the page cannot be stored: {}", chain(cause));
        SourceError {
            page: Some(self.body.clone()).filter(|body| !body.is_empty()),
            ..SourceError::new(FailureClass::InvalidPage, excerpt(&reason, REASON_LENGTH_MAX))
        }
    }

    fn deposited(&self, grant: &Grant, deposit: &Deposit, answer: inbox::DepositAnswer) {
        let source_name = self.source.source_name.as_str();
        let request_id = grant.request_id;
        if answer.stored == Stored::Refused {
            tracing::warn!(
                source_name,
                request_id,
                event_count = self.events.len(),
                "the reservation was closed while its request ran; its page is not stored"
            );
            return;
        }
        let metrics = &self.loader.metrics;
        metrics.count(source_name, EventCount::Fetched, self.events.len() as u64);
        metrics.count(source_name, EventCount::Refused, self.bad_events.len() as u64);
        if !self.bad_events.is_empty() {
            tracing::warn!(
                source_name,
                request_id,
                event_count = self.bad_events.len(),
                "events went to the dead letters"
            );
        }
        for gap in &self.gaps {
            report_gap(source_name, gap);
        }
        if answer.conflict_count > 0 {
            tracing::error!(
                source_name,
                request_id,
                event_count = answer.conflict_count,
                "the source gave other bodies for ids it gave before; see `eventloader dead-letters list --kind conflict`"
            );
        }
        if deposit.max_id.is_some() {
            tracing::debug!(
                source_name,
                request_id,
                event_count = self.events.len(),
                "page deposited"
            );
            // A hint only: the retry worker also looks by itself.
            drop(self.loader.deposited.try_send(source_name.to_owned()));
            failpoint::hit(Place::DepositHinted);
        }
    }

    async fn close(&mut self, grant: &Grant, close: &Close) -> Option<Event> {
        let mut failures = 0;
        loop {
            let reason =
                self.failure.as_ref().map_or("the grant was not used", |e| e.reason.as_str());
            let page = self.failure.as_ref().and_then(|e| e.page.as_deref());
            failpoint::hit(Place::CloseUnsent);
            let span = Span::close();
            let outcome = span
                .around(self.loader.close(self.source, self.known_at, grant, close, reason, page))
                .await;
            if let Err(error) = &outcome {
                span.failed(&chain(error));
            }
            match outcome {
                Ok(()) => {
                    failpoint::hit(Place::CloseDone);
                    return Some(Event::CloseAnswered);
                }
                Err(error) => self.wait_for_database(&error, &mut failures).await?,
            }
        }
    }

    /// Waits before a deposit or a close is tried again. `None`: the process ends before the database came back; the
    /// reservation will show as orphaned.
    async fn wait_for_database(&mut self, error: &StoreError, failures: &mut u32) -> Option<()> {
        failpoint::hit(Place::ResultKept);
        self.note_trouble(error);
        if *failures == 0 {
            tracing::warn!(
                source_name = self.source.source_name,
                error = chain(error),
                hint = error.hint(),
                "the database did not take a result; trying until it does"
            );
        }
        *failures = failures.saturating_add(1);
        if self.stop.work.is_cancelled() {
            tracing::error!(
                source_name = self.source.source_name,
                "stopped before the database took the result; its window will show as orphaned"
            );
            return None;
        }
        let delay = STORE_BACKOFF.delay(*failures, rand::random());
        self.stop.work.run_until_cancelled(tokio::time::sleep(delay)).await;
        Some(())
    }

    fn note_trouble(&mut self, error: &StoreError) {
        self.trouble =
            Some(Trouble { error: chain(error), hint: error.hint(), is_outage: error.is_outage() });
    }

    /// What a trace shows of the cycle. A claim that was denied is no request.
    fn describe(&self, ending: &Ending) {
        let span = self.span;
        let outcome = match (ending, self.outcome) {
            (Ending::Denied { .. }, _) => return span.forget(),
            (Ending::ClaimLost(_), _) => "claim_lost",
            (Ending::Refused, _) => "not_stored",
            (_, Some(Outcome::Page)) if self.failure.is_some() => "unstorable",
            (_, Some(outcome)) => outcome.name(),
            (_, None) => "unused",
        };
        span.set("outcome", outcome);
        span.count("event_count", self.events.len());
        span.count("refused_count", self.bad_events.len());
    }

    fn report(self, ending: &Ending) -> CycleReport {
        self.describe(ending);
        let since_answer = self.known_at.map_or(Duration::ZERO, |at| at.elapsed());
        let min_interval = self.source.settings.min_interval;
        if let Ending::Denied { reason: Denial::Missing, .. } = ending {
            tracing::error!(source_name = self.source.source_name, "the source is not registered");
        }
        // A reply that was lost and then given again is no trouble any more.
        let was_lost = matches!(ending, Ending::ClaimLost(_));
        let trouble = self.trouble.filter(|trouble| was_lost && trouble.is_outage);
        CycleReport {
            next_in: pace::next_look(ending, min_interval, since_answer, rand::random()),
            granted: self.granted,
            was_slow: self.was_slow,
            unused_token: ending.unused_token(),
            trouble,
        }
    }
}

/// Says that events are lost on the other side.
pub(crate) fn report_gap(source_name: &str, gap: &Gap) {
    tracing::error!(
        source_name,
        first_id = gap.first_id,
        last_id = gap.last_id,
        reason = gap.reason,
        "the source no longer has events that were not read yet; they are lost unless it has them elsewhere"
    );
}

/// Renews the lease for as long as it is polled. A lost lease is not an error here: somebody else may take the source,
/// but the reservation stays ours.
async fn heartbeat(loader: &Loader, source: &LoadedSource, epoch: i64) -> std::convert::Infallible {
    let ttl = source.settings.lease_ttl;
    loop {
        tokio::time::sleep(ttl / 3).await;
        failpoint::hit(Place::RenewalUnsent);
        let renewal = loader.renew(&source.source_name, epoch, ttl);
        match tokio::time::timeout(ttl, renewal).await {
            Ok(Ok(true)) => failpoint::hit(Place::RenewalDone),
            Ok(Ok(false)) => {
                tracing::warn!(
                    source_name = source.source_name,
                    epoch,
                    "the lease was lost while a request ran; its page is stored all the same"
                );
                return std::future::pending().await;
            }
            Ok(Err(error)) => {
                tracing::debug!(
                    source_name = source.source_name,
                    error = chain(&error),
                    "no heartbeat"
                );
            }
            Err(_) => tracing::debug!(source_name = source.source_name, "no heartbeat in time"),
        }
    }
}
