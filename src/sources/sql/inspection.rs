//! What is known of a source after contact, and what may be promised of it.

use std::time::Duration;

use super::{Dialect, Relation, SqlOptions};
use crate::source::{FailureClass, SourceError};

/// What the database says about a source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inspection {
    /// The server and its version.
    pub server: String,
    /// The type of the id column, in the words of the database.
    pub id_type: String,
    /// The columns of the primary key. Empty: none, or not known, as for views and queries.
    pub key: Vec<String>,
    /// Whether an index begins with the id column. `None`: not known.
    pub is_indexed: Option<bool>,
    /// What the ids come from, where it is known.
    pub sequence: Option<Sequence>,
    /// Whether the server is a standby.
    pub in_recovery: bool,
    /// What weakens the guarantee or makes reading slow, in sentences.
    pub warnings: Vec<String>,
}

/// A sequence of `PostgreSQL`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// Its name, with the schema.
    pub name: String,
    /// How many numbers a session takes at once.
    pub cache_size: i64,
    /// The step from one number to the next.
    pub increment: i64,
}

impl SqlOptions {
    /// What is promised about events that become visible late, in one or two sentences for people. Only what the
    /// configuration says; [`Inspection::warnings`] adds what the database says.
    pub fn guarantee(&self) -> String {
        let lag = super::seconds(self.tip_lag);
        let lost = "one that takes longer can lose events";
        let ids = match &self.relation {
            Relation::Table(table) => format!("the ids of {table} come"),
            Relation::Query(_) => "the ids of the query come".to_owned(),
        };
        match (self.location.dialect(), self.tip_lag) {
            (Dialect::Postgres, Duration::ZERO) => format!(
                "every committed row is loaded, however late its transaction commits: rows are read up to an id below \
                 which no writer is under way. This holds where {ids} from one sequence, cache 1, in the statement that \
                 inserts the row."
            ),
            (Dialect::Postgres, _) => format!(
                "every committed row is loaded: rows are read up to an id below which no writer is under way, and {lag} \
                 after it was seen. This holds where {ids} from one sequence; a number drawn before its insert has {lag}. \
                 On a standby, and of materialized views and foreign tables, only the {lag} count."
            ),
            (Dialect::MySql, Duration::ZERO) => format!(
                "rows are read as soon as they are visible (tip_lag = 0): a row that is committed after one with a higher \
                 id is lost, unless {ids} in the order of commits."
            ),
            (Dialect::MySql, _) => format!(
                "rows are read {lag} after a row at or above them was seen: a transaction that commits within {lag} loses \
                 nothing, {lost}. Raise tip_lag above the longest transaction that writes."
            ),
            (Dialect::Sqlite, _) => "every committed row is loaded: SQLite has one writer at a time, so ids become visible \
                 in order. This holds where ids are never used again (autoincrement) or the newest rows are never deleted."
                .to_owned(),
        }
    }
}

/// What the catalogue says about an id column of a table.
#[expect(clippy::struct_excessive_bools, reason = "facts, each by itself")]
#[derive(Clone, Debug, Default)]
pub(super) struct IdFacts {
    pub(super) type_name: String,
    pub(super) is_integer: bool,
    pub(super) is_nullable: bool,
    /// There is a unique index on this column alone.
    pub(super) is_unique: bool,
    pub(super) is_indexed: bool,
    pub(super) key: Vec<String>,
    pub(super) kind: TableKind,
    /// Numbered by the database: identity, sequence, `auto_increment`.
    pub(super) is_numbered: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum TableKind {
    #[default]
    Table,
    /// A partitioned table, whose key has to hold what it is partitioned by, or one that others inherit from.
    Partitioned,
    /// A view or a foreign table: nothing is known of its keys.
    View,
}

/// Says why a type is no type for ids.
pub(super) fn refuse_type(id: &str, type_name: &str) -> SourceError {
    refused(&format!(
        "the id column `{id}` is {type_name}, expected an integer type: ids have to be whole numbers that increase; add \
         one (in PostgreSQL `alter table … add column seq bigint generated always as identity`) and name it as `id`"
    ))
}

/// A source that cannot be loaded as it is.
pub(super) fn refused(reason: &str) -> SourceError {
    SourceError::new(FailureClass::Rejected, reason)
}

/// A column that is not there.
pub(super) fn missing_column(id: &str, columns: &[String]) -> SourceError {
    let near = columns.iter().find(|column| strsim::damerau_levenshtein(column, id) <= 2);
    let help = match near {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("the columns are {}", columns.join(", ")),
    };
    refused(&format!("there is no column `{id}`; {help}"))
}

/// Whether a column can be the id: unique, never null, a whole number. Answers warnings, or why not.
pub(super) fn judge(id: &str, facts: &IdFacts) -> Result<Vec<String>, SourceError> {
    if !facts.is_integer {
        return Err(refuse_type(id, &facts.type_name));
    }
    if facts.kind == TableKind::View {
        return Ok(vec![format!(
            "nothing is known of the keys of a view or a foreign table: `{id}` has to be unique and never null"
        )]);
    }
    if facts.is_nullable {
        return Err(refused(&format!(
            "the id column `{id}` can be null, and a row without an id would never be loaded; make it not null"
        )));
    }
    let mut warnings = Vec::new();
    if !facts.is_unique {
        let key = facts.key.join(", ");
        let is_part = facts.key.len() > 1 && facts.key.iter().any(|column| column == id);
        if facts.kind == TableKind::Partitioned && facts.is_numbered {
            warnings.push(format!(
                "no index says that `{id}` is unique over all partitions; that it is numbered by the database has to do"
            ));
        } else if is_part {
            return Err(refused(&format!(
                "`{id}` is a part of the key ({key}) and not unique alone, so rows would be taken for one another; add a \
                 unique column that counts up and name it as `id`"
            )));
        } else {
            return Err(refused(&format!(
                "no unique index says that `{id}` is unique, and rows with the same id would be taken for one another; \
                 add one, or read the table through a query whose ids are unique"
            )));
        }
    }
    if !facts.is_indexed {
        warnings.push(format!("no index begins with `{id}`: every page reads the whole table"));
    }
    Ok(warnings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapping::Mapping;
    use crate::sources::sql::{Identifier, Location, TableName};

    fn good() -> IdFacts {
        IdFacts {
            type_name: "bigint".to_owned(),
            is_integer: true,
            is_unique: true,
            is_indexed: true,
            key: vec!["id".to_owned()],
            ..IdFacts::default()
        }
    }

    #[test]
    fn an_id_is_unique_whole_and_never_null() {
        let composite = vec!["tenant".to_owned(), "id".to_owned()];
        let partitioned = TableKind::Partitioned;
        for (facts, want) in [
            (good(), Ok(0)),
            (IdFacts { is_integer: false, type_name: "uuid".into(), ..good() }, Err("is uuid")),
            (IdFacts { is_nullable: true, ..good() }, Err("can be null")),
            (IdFacts { is_unique: false, ..good() }, Err("no unique index")),
            (
                IdFacts { is_unique: false, key: composite.clone(), ..good() },
                Err("part of the key (tenant, id)"),
            ),
            (
                IdFacts {
                    is_unique: false,
                    key: composite,
                    kind: partitioned,
                    is_numbered: true,
                    ..good()
                },
                Ok(1),
            ),
            (IdFacts { is_unique: false, kind: partitioned, ..good() }, Err("no unique index")),
            (IdFacts { is_indexed: false, ..good() }, Ok(1)),
            (IdFacts { kind: TableKind::View, is_nullable: true, ..good() }, Ok(1)),
        ] {
            match (judge("id", &facts), want) {
                (Ok(warnings), Ok(count)) => assert_eq!(warnings.len(), count, "{facts:?}"),
                (Err(error), Err(part)) => {
                    assert!(error.reason.contains(part), "{}", error.reason);
                    assert_eq!(error.class, FailureClass::Rejected);
                }
                (got, want) => panic!("{facts:?}: {got:?}, not {want:?}"),
            }
        }
    }

    #[test]
    fn a_guarantee_says_what_is_lost_and_what_helps() {
        let mut options = SqlOptions {
            location: Location::Sqlite("x".into()),
            relation: Relation::Table(TableName::parse("t").unwrap()),
            id: Identifier::parse("id").unwrap(),
            mapping: Mapping::default(),
            timeout: Duration::from_secs(1),
            tip_lag: Duration::ZERO,
            max_page_bytes: 1,
        };
        assert!(options.guarantee().contains("one writer at a time"));
        options.location = Location::MySql("mysql://u:hunter2@h/d".into());
        assert!(options.guarantee().contains("is lost"));
        options.tip_lag = Duration::from_millis(2500);
        assert!(options.guarantee().contains("commits within 2.5s loses nothing"));
        options.location = Location::Postgres("postgres://u:hunter2@h/d".into());
        assert!(options.guarantee().contains("no writer is under way, and 2.5s after"));
        options.tip_lag = Duration::ZERO;
        assert!(options.guarantee().contains("the ids of t come from one sequence, cache 1"));
    }

    #[test]
    fn a_missing_column_is_answered_with_one_like_it() {
        let columns = ["event_id".to_owned(), "body".to_owned()];
        assert!(missing_column("evnt_id", &columns).reason.contains("did you mean `event_id`?"));
        assert!(missing_column("number", &columns).reason.contains("are event_id, body"));
    }
}
