//! What is stored of a tap's place: its last STATE, and what it sent after it.
//!
//! Records after the last STATE of a run that ended well are delivered, as other targets do. The next run begins at the
//! same STATE and brings them again. So that they are not stored again, their number and a digest are kept with the
//! state: as long as a run begins with the same records, it begins where the last one ended.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::message::Record;

/// Records after the last STATE, as they are stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Tail {
    pub(super) count: u64,
    sha256: String,
}

/// The place of a tap, as text in the database and as it is used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TapPlace {
    /// The text of the last STATE's value; `None`: there was none, or it was null.
    pub(super) value: Option<String>,
    pub(super) tail: Option<Tail>,
}

#[derive(Serialize, Deserialize)]
struct Stored<'s> {
    #[serde(borrow)]
    value: Option<&'s RawValue>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tail: Option<Tail>,
}

impl TapPlace {
    /// Where a STATE with this value leads.
    pub(super) fn of_value(value: &str) -> Self {
        Self { value: Some(value.to_owned()).filter(|value| value != "null"), tail: None }
    }

    pub(super) fn parse(text: &str) -> Result<Self, serde_json::Error> {
        let stored: Stored<'_> = serde_json::from_str(text)?;
        Ok(Self { value: stored.value.map(|value| value.get().to_owned()), tail: stored.tail })
    }

    pub(super) fn to_text(&self) -> Result<String, serde_json::Error> {
        let value = self.value.as_deref().map(serde_json::from_str::<&RawValue>).transpose()?;
        serde_json::to_string(&Stored { value, tail: self.tail.clone() })
    }
}

/// Counts and digests records as they come.
#[derive(Clone, Default)]
pub(super) struct TailDigest {
    pub(super) count: u64,
    digest: Sha256,
}

impl TailDigest {
    pub(super) fn add(&mut self, record: &Record) {
        self.count += 1;
        // What is beside the record, such as the time it was read, differs from run to run.
        for part in [record.stream.as_bytes(), &record.text] {
            self.digest.update((part.len() as u64).to_be_bytes());
            self.digest.update(part);
        }
    }

    pub(super) fn tail(&self) -> Option<Tail> {
        let sha256 = format!("{:x}", self.digest.clone().finalize());
        (self.count > 0).then_some(Tail { count: self.count, sha256 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_the_same_after_it_was_stored() {
        let record = |text: &'static str| Record {
            stream: "a".to_owned(),
            text: text.as_bytes().into(),
            extracted_at: None,
        };
        let mut digest = TailDigest::default();
        assert_eq!(digest.tail(), None);
        digest.add(&record("{}"));
        let one = digest.tail();
        digest.add(&record("{}"));
        assert_ne!(digest.tail(), one);
        for (value, tail) in [
            (None, None),
            (Some("{\"a\": 1.0,\"b\":1e400}".to_owned()), None),
            (None, one),
            (Some("[]".to_owned()), digest.tail()),
        ] {
            let place = TapPlace { value, tail };
            let text = place.to_text().unwrap();
            assert_eq!(TapPlace::parse(&text).unwrap(), place, "{text}");
        }
        assert_eq!(TapPlace::parse(r#"{"value":null}"#).unwrap(), TapPlace::default());
        assert!(TapPlace::parse("[]").is_err());
    }
}
