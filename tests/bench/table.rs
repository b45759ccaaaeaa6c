//! The figures, as a table and as JSON.

use serde::Serialize;

/// Figures of one broker.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) broker: &'static str,
    /// The plain client, reading and acknowledging; messages a second.
    pub(crate) plain_per_second: f64,
    /// The loader from sources that answer at once; events a second.
    pub(crate) loader_per_second: f64,
    /// From the broker into `events`; messages a second.
    pub(crate) ours_per_second: f64,
    /// From publishing to being readable in `events`, at 1,000 messages a second.
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

impl Row {
    /// Ours, as a share of the slower of the two it is made of.
    fn ratio(&self) -> f64 {
        self.ours_per_second / self.plain_per_second.min(self.loader_per_second)
    }

    /// What the machine does of both together, where each alone keeps it busy.
    fn both_per_second(&self) -> f64 {
        1.0 / (1.0 / self.plain_per_second + 1.0 / self.loader_per_second)
    }
}

/// Rows, each printed as soon as it is known.
pub(crate) struct Table(Vec<Row>);

#[expect(clippy::print_stdout, reason = "the table is what the bench is run for")]
impl Table {
    pub(crate) fn begin() -> Self {
        println!(
            "\n{:<18}{:>16}{:>12}{:>12}{:>8}{:>12}{:>10}{:>10}",
            "broker",
            "plain client/s",
            "loader/s",
            "ours/s",
            "ratio",
            "of both",
            "p50 ms",
            "p99 ms"
        );
        Self(Vec::new())
    }

    pub(crate) fn add(&mut self, row: Row) {
        println!(
            "{:<18}{:>16.0}{:>12.0}{:>12.0}{:>8.2}{:>12.2}{:>10.1}{:>10.1}",
            row.broker,
            row.plain_per_second,
            row.loader_per_second,
            row.ours_per_second,
            row.ratio(),
            row.ours_per_second / row.both_per_second(),
            row.p50_ms,
            row.p99_ms
        );
        self.0.push(row);
    }

    pub(crate) fn print_json(&self) {
        println!("{}", serde_json::to_string(&self.0).unwrap());
    }
}
