//! One line of the table: ours, the floor, their ratio, and whether the goal is met.

use std::fmt;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::median;

/// What has to hold.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Goal {
    of: Of,
    bound: Bound,
    value: f64,
}

#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Of {
    Ours,
    Ratio,
}

#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Bound {
    AtLeast,
    AtMost,
}

impl Goal {
    pub(crate) const fn ratio_at_least(value: f64) -> Self {
        Self { of: Of::Ratio, bound: Bound::AtLeast, value }
    }

    pub(crate) const fn ratio_at_most(value: f64) -> Self {
        Self { of: Of::Ratio, bound: Bound::AtMost, value }
    }

    pub(crate) const fn at_least(value: f64) -> Self {
        Self { of: Of::Ours, bound: Bound::AtLeast, value }
    }

    pub(crate) const fn at_most(value: f64) -> Self {
        Self { of: Of::Ours, bound: Bound::AtMost, value }
    }

    fn is_met(self, ours: f64, ratio: Option<f64>) -> bool {
        let measured = match self.of {
            Of::Ours => ours,
            Of::Ratio => ratio.unwrap_or(f64::NAN),
        };
        match self.bound {
            Bound::AtLeast => measured >= self.value,
            Bound::AtMost => measured <= self.value,
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.bound {
            Bound::AtLeast => '≥',
            Bound::AtMost => '≤',
        };
        let of = match self.of {
            Of::Ours => "",
            Of::Ratio => " ×",
        };
        write!(f, "{sign} {}{of}", number(self.value))
    }
}

/// The median of some runs, and how far apart they were.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Spread {
    median: f64,
    lowest: f64,
    highest: f64,
    runs: usize,
}

impl Spread {
    fn of(values: &[f64]) -> Option<Self> {
        let lowest = values.iter().copied().reduce(f64::min)?;
        let highest = values.iter().copied().reduce(f64::max)?;
        Some(Self { median: median(values.to_vec()), lowest, highest, runs: values.len() })
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", number(self.median))?;
        if self.runs > 1 {
            write!(f, " ({}–{})", number(self.lowest), number(self.highest))?;
        }
        Ok(())
    }
}

/// Three figures that count.
fn number(value: f64) -> String {
    match value.abs() {
        a if a >= 1_000_000.0 => format!("{:.2} M", value / 1e6),
        a if a >= 10_000.0 => format!("{:.1} k", value / 1e3),
        a if a >= 100.0 => format!("{value:.0}"),
        a if a >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// What one row says of one thing.
#[derive(Debug)]
pub(crate) struct Figure {
    /// As in `ROWS`.
    pub(crate) row: &'static str,
    /// What is measured, with its unit.
    pub(crate) what: String,
    /// One value a run.
    pub(crate) ours: Vec<f64>,
    /// What ours is compared with, run by run; empty: with nothing but the goal.
    pub(crate) floor: Vec<f64>,
    pub(crate) goal: Option<Goal>,
    /// What else there is to know.
    pub(crate) note: String,
}

/// As it is written to the file.
#[derive(Serialize)]
struct Line<'a> {
    row: &'static str,
    what: &'a str,
    ours: Spread,
    floor: Option<Spread>,
    ratio: Option<Spread>,
    goal: Option<String>,
    met: Option<bool>,
    note: &'a str,
}

impl Figure {
    /// Prints the row, and puts it into `target/bench.json` in place of the one of an earlier run.
    #[expect(clippy::print_stdout, reason = "the table is what the bench is run for")]
    pub(crate) fn publish(&self) {
        let ratios: Vec<f64> = self.ours.iter().zip(&self.floor).map(|(a, b)| a / b).collect();
        let ours = Spread::of(&self.ours).expect("a figure has at least one run");
        let ratio = Spread::of(&ratios);
        let line = Line {
            row: self.row,
            what: &self.what,
            ours,
            floor: Spread::of(&self.floor),
            ratio,
            goal: self.goal.map(|goal| goal.to_string()),
            met: self.goal.map(|goal| goal.is_met(ours.median, ratio.map(|ratio| ratio.median))),
            note: &self.note,
        };
        let text = |spread: Option<Spread>| spread.map_or(String::new(), |s| s.to_string());
        println!(
            "{:<13}{:<44}{:>25}{:>25}{:>20}  {:<10}{:<8}{}",
            line.row,
            line.what,
            ours.to_string(),
            text(line.floor),
            text(line.ratio),
            line.goal.as_deref().unwrap_or(""),
            match line.met {
                Some(true) => "met",
                Some(false) => "NOT MET",
                None => "",
            },
            line.note
        );
        keep(&serde_json::to_value(&line).unwrap());
    }
}

#[expect(clippy::print_stdout, reason = "the table is what the bench is run for")]
pub(crate) fn heading() {
    println!(
        "\n{:<13}{:<44}{:>25}{:>25}{:>20}  {:<10}",
        "row", "what", "ours", "floor", "ratio", "goal"
    );
}

fn keep(line: &Value) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench.json");
    let mut lines: Vec<Value> = std::fs::read(&path)
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or_default();
    let place =
        lines.iter().position(|old| old["row"] == line["row"] && old["what"] == line["what"]);
    match place {
        Some(place) => lines[place] = line.clone(),
        None => lines.push(line.clone()),
    }
    std::fs::write(&path, serde_json::to_string_pretty(&lines).unwrap()).unwrap();
}
