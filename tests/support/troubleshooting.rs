//! docs/troubleshooting.md: what it says a user sees has to be what the program says.

use std::path::Path;

/// The page's rows: the trap and the texts that are quoted in "what you see".
pub(crate) fn rows() -> Vec<(String, Vec<String>)> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/troubleshooting.md");
    let page = std::fs::read_to_string(page).unwrap();
    page.lines()
        .filter_map(|line| {
            let cells: Vec<&str> = line.strip_prefix("| ")?.split(" | ").collect();
            let [trap, seen, _, _] = cells.as_slice() else { panic!("not four cells: {line}") };
            let quoted = seen.split('`').skip(1).step_by(2).map(str::to_owned).collect();
            (*trap != "trap").then(|| (trap.replace('`', ""), quoted))
        })
        .collect()
}

/// The program said what the page says it does about this trap. The page leaves out backticks within a quote.
pub(crate) fn assert_told(trap: &str, said: &str) {
    let rows = rows();
    let Some((_, quoted)) = rows.iter().find(|(name, _)| name == trap) else {
        panic!("docs/troubleshooting.md has no row {trap:?}");
    };
    assert!(!quoted.is_empty(), "the row {trap:?} quotes nothing");
    let said = said.replace('`', "");
    for text in quoted {
        assert!(said.contains(text), "the page says of {trap:?}: {text:?}, but: {said}");
    }
}
