//! docs/troubleshooting.md as a whole.

use std::path::Path;

use crate::support::troubleshooting::rows;

fn sources_below(directory: &Path) -> String {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let texts = entries.map(|path| match path.extension() {
        _ if path.is_dir() => sources_below(&path),
        Some(ending) if ending == "rs" => std::fs::read_to_string(path).unwrap(),
        _ => String::new(),
    });
    texts.collect()
}

#[test]
fn every_row_of_the_page_is_compared_with_what_the_program_says() {
    let tests = sources_below(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests"));
    let rows = rows();
    assert!(rows.len() > 20, "the page was not read: {rows:?}");
    for (trap, quoted) in rows {
        assert!(!quoted.is_empty(), "the row {trap:?} quotes nothing");
        let call = format!("assert_told(\"{trap}\"");
        assert!(tests.contains(&call), "no test has {call}, …)");
    }
}
