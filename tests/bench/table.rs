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
}

#[expect(clippy::print_stdout, reason = "the table is what the bench is run for")]
pub(crate) fn print(rows: &[Row]) {
    println!(
        "\n{:<18}{:>16}{:>12}{:>12}{:>8}{:>10}{:>10}",
        "broker", "plain client/s", "loader/s", "ours/s", "ratio", "p50 ms", "p99 ms"
    );
    for row in rows {
        println!(
            "{:<18}{:>16.0}{:>12.0}{:>12.0}{:>8.2}{:>10.1}{:>10.1}",
            row.broker,
            row.plain_per_second,
            row.loader_per_second,
            row.ours_per_second,
            row.ratio(),
            row.p50_ms,
            row.p99_ms
        );
    }
    println!("{}", serde_json::to_string(rows).unwrap());
}
