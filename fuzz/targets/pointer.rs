//! A JSON pointer, and what it finds in a document: what an independent parser finds.

#![no_main]

use eventloader::mapping::Pointer;
use libfuzzer_sys::fuzz_target;

#[path = "../../tests/payloads/exact.rs"]
#[allow(dead_code)]
mod exact;

fuzz_target!(|text: &str| {
    let (pointer, document) = text.split_once('\n').unwrap_or((text, "{}"));
    let Ok(parsed) = pointer.parse::<Pointer>() else { return };
    assert_eq!(parsed.to_string(), pointer);
    let Some(whole) = exact::parse(document) else { return };
    let found = parsed.find(document).map(|found| exact::parse(found).expect("a value").value);
    let mut names = pointer.split('/');
    names.next();
    let wanted = names.try_fold(&whole.value, |value, name| {
        value.step(&name.replace("~1", "/").replace("~0", "~"))
    });
    assert_eq!(found.as_ref(), wanted, "{pointer:?} in {document:?}");
});
