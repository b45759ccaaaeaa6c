//! The words of a statement: names that are quoted, and queries whose values are bound.
//!
//! Nothing of an event or a window is ever put into the text of a statement. What protects the database from writing is
//! its own read-only transaction; the checks here are for people, who should hear of a mistake before it is sent.

use std::fmt;

use super::Dialect;

/// Longest name, in bytes: the shortest limit of the three databases.
const NAME_LENGTH_MAX: usize = 63;

/// The name of a table or column: letters, digits, `_` and `$`, not beginning with a digit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identifier(String);

/// The text is no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a name of letters, digits, \"_\" and \"$\", at most 63 bytes long")]
pub struct NotAName;

impl Identifier {
    /// Checks a name.
    ///
    /// # Errors
    /// When there is anything else in it.
    pub fn parse(text: &str) -> Result<Self, NotAName> {
        let begins = text.starts_with(|c: char| c.is_alphabetic() || c == '_');
        let is_name = text.chars().all(|c| c.is_alphanumeric() || "_$".contains(c));
        if begins && is_name && text.len() <= NAME_LENGTH_MAX {
            Ok(Self(text.to_owned()))
        } else {
            Err(NotAName)
        }
    }

    /// The name as the database has it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name in quotes, which hold against keywords and keep upper case.
    pub(super) fn quoted(&self, dialect: Dialect) -> String {
        match dialect {
            Dialect::MySql => format!("`{}`", self.0),
            Dialect::Postgres | Dialect::Sqlite => format!("\"{}\"", self.0),
        }
    }
}

impl fmt::Display for Identifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a table or view, perhaps with its schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableName {
    /// The part before the dot.
    pub schema: Option<Identifier>,
    /// The table.
    pub name: Identifier,
}

impl TableName {
    /// Checks `table` or `schema.table`.
    ///
    /// # Errors
    /// When a part is no name, or there are more than two.
    pub fn parse(text: &str) -> Result<Self, NotAName> {
        Ok(match text.split_once('.') {
            Some((schema, name)) => {
                Self { schema: Some(Identifier::parse(schema)?), name: Identifier::parse(name)? }
            }
            None => Self { schema: None, name: Identifier::parse(text)? },
        })
    }

    pub(super) fn quoted(&self, dialect: Dialect) -> String {
        let name = self.name.quoted(dialect);
        match &self.schema {
            Some(schema) => format!("{}.{name}", schema.quoted(dialect)),
            None => name,
        }
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.schema {
            Some(schema) => write!(f, "{schema}.{}", self.name),
            None => self.name.fmt(f),
        }
    }
}

/// A value that a query binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bind {
    AfterId,
    Limit,
}

/// A query with `{after_id}` and `{limit}` in it, checked for one kind of database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    sql: String,
    binds: Vec<Bind>,
}

/// What is wrong with a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryFault {
    /// What was found.
    pub problem: String,
    /// What to do.
    pub help: String,
}

fn fault<T>(problem: impl Into<String>, help: impl Into<String>) -> Result<T, QueryFault> {
    Err(QueryFault { problem: problem.into(), help: help.into() })
}

impl Query {
    /// Checks a query and makes placeholders of `{after_id}` and `{limit}`.
    ///
    /// # Errors
    /// When it is no single `select`, or lacks one of the two.
    pub fn parse(text: &str, dialect: Dialect) -> Result<Self, QueryFault> {
        let mut query = Self { sql: String::new(), binds: Vec::new() };
        let (mut depth, mut is_first_word, mut has_ended) = (0_i64, true, false);
        let mut at = 0;
        while at < text.len() {
            let (token, length) = Token::read(&text[at..], dialect)?;
            let raw = &text[at..at + length];
            at += length;
            if has_ended && !matches!(token, Token::Space) {
                return fault("more than one statement", "keep one select");
            }
            match token {
                Token::Placeholder(bind) => query.push(bind, dialect),
                Token::Semicolon => has_ended = true,
                Token::Space | Token::Quoted => query.sql.push_str(raw),
                Token::Word => {
                    check_word(raw, is_first_word)?;
                    is_first_word = false;
                    query.sql.push_str(raw);
                }
                Token::Other(character) => {
                    depth += i64::from(character == '(') - i64::from(character == ')');
                    query.sql.push(character);
                }
            }
            if depth < 0 {
                return fault("a \")\" without its \"(\"", "balance the brackets");
            }
        }
        if depth > 0 {
            return fault("a \"(\" without its \")\"", "balance the brackets");
        }
        query.check_binds()?;
        Ok(query)
    }

    fn push(&mut self, bind: Bind, dialect: Dialect) {
        self.sql.push_str(match (dialect, bind) {
            (Dialect::Postgres, Bind::AfterId) => "$1",
            (Dialect::Postgres, Bind::Limit) => "$2",
            (Dialect::MySql | Dialect::Sqlite, _) => "?",
        });
        self.binds.push(bind);
    }

    fn check_binds(&self) -> Result<(), QueryFault> {
        let count = |bind| self.binds.iter().filter(|b| **b == bind).count();
        if count(Bind::AfterId) == 0 {
            return fault("a query without {after_id}", "add \"where id > {after_id}\"");
        }
        match count(Bind::Limit) {
            0 => fault("a query without {limit}", "end it with \"order by id limit {limit}\""),
            1 => Ok(()),
            _ => fault("a query with {limit} more than once", "limit the rows once, at the end"),
        }
    }

    /// The text, with a line end that closes a comment.
    pub(super) fn sql(&self) -> &str {
        &self.sql
    }

    /// The values of the placeholders in the order of the text; `PostgreSQL` takes them by number.
    pub(super) fn binds(&self) -> &[Bind] {
        &self.binds
    }
}

fn check_word(word: &str, is_first: bool) -> Result<(), QueryFault> {
    let lower = word.to_ascii_lowercase();
    if is_first && !["select", "with", "values", "table"].contains(&lower.as_str()) {
        let help = "begin it with select or with";
        return fault(format!("a statement that begins with `{word}`, not a query"), help);
    }
    if lower == "into" {
        let help = "a source is only read; put a column of that name in quotes";
        return fault("a query with `into`, which writes", help);
    }
    Ok(())
}

/// A piece of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Placeholder(Bind),
    Semicolon,
    /// White space, or a comment.
    Space,
    /// A string or a quoted name.
    Quoted,
    Word,
    Other(char),
}

impl Token {
    /// The token that `rest`, which is not empty, begins with, and its length in bytes.
    fn read(rest: &str, dialect: Dialect) -> Result<(Self, usize), QueryFault> {
        let character = rest.chars().next().unwrap_or_default();
        let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
        let word_length = rest.find(|c: char| !is_word(c)).unwrap_or(rest.len());
        match character {
            c if c.is_whitespace() => Ok((Self::Space, c.len_utf8())),
            '{' => placeholder(rest),
            ';' => Ok((Self::Semicolon, 1)),
            '\'' | '"' | '`' => quoted(rest, character, dialect == Dialect::MySql),
            '[' if dialect == Dialect::Sqlite => quoted(rest, ']', false),
            'e' | 'E' if dialect == Dialect::Postgres && rest[1..].starts_with('\'') => {
                quoted(&rest[1..], '\'', true).map(|(token, length)| (token, length + 1))
            }
            '-' if rest.starts_with("--") => Ok((Self::Space, line_length(rest))),
            '#' if dialect == Dialect::MySql => Ok((Self::Space, line_length(rest))),
            '/' if rest.starts_with("/*") => comment(rest, dialect),
            '$' if dialect == Dialect::Postgres => dollar_quoted(rest),
            '?' | ':' | '@' | '$' if is_parameter(rest, dialect) => fault(
                format!("the placeholder `{character}`"),
                "write {after_id} and {limit}; nothing else is filled in",
            ),
            '\0' => fault("a NUL character", "remove it"),
            c if is_word(c) && !c.is_ascii_digit() => Ok((Self::Word, word_length)),
            c if c.is_ascii_digit() => Ok((Self::Quoted, word_length)),
            c => Ok((Self::Other(c), c.len_utf8())),
        }
    }
}

fn is_parameter(rest: &str, dialect: Dialect) -> bool {
    match dialect {
        Dialect::Postgres => false,
        Dialect::MySql => rest.starts_with('?'),
        Dialect::Sqlite => true,
    }
}

fn line_length(rest: &str) -> usize {
    rest.find('\n').map_or(rest.len(), |at| at + 1)
}

fn placeholder(rest: &str) -> Result<(Token, usize), QueryFault> {
    let inside = rest[1..].split_once('}').map_or("", |(inside, _)| inside);
    let bind = match inside {
        "after_id" => Bind::AfterId,
        "limit" => Bind::Limit,
        _ => {
            let help = "the placeholders are {after_id} and {limit}";
            return fault("a \"{\" that begins no placeholder", help);
        }
    };
    Ok((Token::Placeholder(bind), inside.len() + 2))
}

/// `rest` begins with a quote; doubled inside, it stands for itself.
fn quoted(rest: &str, close: char, escapes: bool) -> Result<(Token, usize), QueryFault> {
    let mut characters = rest.char_indices().skip(1).peekable();
    while let Some((at, character)) = characters.next() {
        if escapes && character == '\\' && close != '`' {
            characters.next();
        } else if character == close && characters.next_if(|(_, next)| *next == close).is_none() {
            let inside = &rest[1..at];
            if inside.contains("{after_id}") || inside.contains("{limit}") {
                let help = "write it without quotes: the value is bound, not put into the text";
                return fault("a placeholder inside quotes", help);
            }
            return Ok((Token::Quoted, at + close.len_utf8()));
        }
    }
    fault("a quote that is not closed", format!("close it with {close}"))
}

/// `$tag$ … $tag$`.
fn dollar_quoted(rest: &str) -> Result<(Token, usize), QueryFault> {
    let tag_length = rest[1..].find(|c: char| !c.is_alphanumeric() && c != '_').map(|at| at + 1);
    let Some(tag) = tag_length.filter(|at| rest[*at..].starts_with('$')).map(|at| &rest[..=at])
    else {
        let help = "write {after_id} and {limit}; nothing else is filled in";
        return fault("the placeholder `$`", help);
    };
    match rest[tag.len()..].find(tag) {
        Some(at) => Ok((Token::Quoted, at + 2 * tag.len())),
        None => fault("a quote that is not closed", format!("close it with {tag}")),
    }
}

fn comment(rest: &str, dialect: Dialect) -> Result<(Token, usize), QueryFault> {
    if dialect == Dialect::MySql && (rest.starts_with("/*!") || rest.starts_with("/*M!")) {
        return fault("a comment that the server executes", "write what is in it as it is");
    }
    let (mut depth, mut at) = (1, 2);
    while depth > 0 {
        let Some(next) = rest.get(at..).filter(|next| !next.is_empty()) else {
            return fault("a comment that is not closed", "close it with */");
        };
        if next.starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
        } else if dialect == Dialect::Postgres && next.starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else {
            at += next.chars().next().map_or(1, char::len_utf8);
        }
    }
    Ok((Token::Space, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "select * from t where id > {after_id} order by id limit {limit}";

    #[test]
    fn values_become_placeholders_of_the_database() {
        let parse = |dialect| Query::parse(GOOD, dialect).unwrap();
        let query = parse(Dialect::Postgres);
        assert_eq!(query.sql(), "select * from t where id > $1 order by id limit $2");
        assert_eq!(query.binds(), [Bind::AfterId, Bind::Limit]);
        for dialect in [Dialect::MySql, Dialect::Sqlite] {
            assert_eq!(parse(dialect).sql(), "select * from t where id > ? order by id limit ?");
        }
    }

    #[test]
    fn what_stands_in_quotes_and_comments_is_left_alone() {
        for (text, dialect) in [
            ("select ';', 'a''b', \"in;to\" /* ; */ -- ;\n", Dialect::Postgres),
            (
                "select E'a\\'; ', $$;$$, $x$;$$;$x$, a ? 'b', c::text, 1e5 /* /* */ ; */\n",
                Dialect::Postgres,
            ),
            ("select 'a\\';', `b;`, @@version # ;\n", Dialect::MySql),
            ("select [a;b], x'00' ", Dialect::Sqlite),
            ("with x as (select 1) select 'insert' ", Dialect::Postgres),
        ] {
            let text = format!(
                "{text} from t where id>{{after_id}} or id > {{after_id}} limit {{limit}} ;\n "
            );
            let query = Query::parse(&text, dialect).unwrap_or_else(|e| panic!("{text}: {e:?}"));
            assert_eq!(query.binds(), [Bind::AfterId, Bind::AfterId, Bind::Limit]);
        }
    }

    #[test]
    fn what_is_no_single_query_is_refused() {
        for (text, problem) in [
            ("insert into t values ({after_id}, {limit})", "begins with `insert`"),
            ("delete from t where id > {after_id} limit {limit}", "begins with `delete`"),
            ("select * into x from t where id > {after_id} limit {limit}", "`into`"),
            ("select 1; drop table t where {after_id} {limit}", "more than one statement"),
            ("select 1 where {after_id} {limit}; select 1", "more than one statement"),
            ("select {after_id}, '; {limit}", "not closed"),
            ("select '{after_id}' limit {limit}", "inside quotes"),
            ("select * from t limit {limit}", "without {after_id}"),
            ("select * from t where id > {after_id}", "without {limit}"),
            ("select {limit} where {after_id} limit {limit}", "more than once"),
            ("select {after_di} limit {limit}", "begins no placeholder"),
            ("select {after_id}) x, (select 1 limit {limit}", "without its \"(\""),
            ("select ({after_id} limit {limit}", "without its \")\""),
            ("select $1 where {after_id} limit {limit}", "placeholder `$`"),
            ("select {after_id} /* limit {limit}", "comment that is not closed"),
            ("select $a$ {after_id} limit {limit}", "not closed"),
            ("", "without {after_id}"),
        ] {
            let found = Query::parse(text, Dialect::Postgres).expect_err(text);
            assert!(found.problem.contains(problem), "{text}: {found:?}");
        }
        let hidden = "select 1 /*! into outfile 'x' */ where {after_id} limit {limit}";
        assert!(Query::parse(hidden, Dialect::MySql).is_err());
        assert!(Query::parse("select ?, {after_id} limit {limit}", Dialect::MySql).is_err());
        assert!(Query::parse("select :a, {after_id} limit {limit}", Dialect::Sqlite).is_err());
    }

    #[test]
    fn names_are_quoted_and_never_more_than_names() {
        for (text, want) in [
            ("events", Some("\"events\"")),
            ("Public.Ärger_1$", Some("\"Public\".\"Ärger_1$\"")),
            ("a.b.c", None),
            ("1a", None),
            ("a b", None),
            ("a\"b", None),
            ("a`b", None),
            ("a;--", None),
            ("", None),
            (".a", None),
        ] {
            let quoted = TableName::parse(text).ok().map(|name| name.quoted(Dialect::Postgres));
            assert_eq!(quoted.as_deref(), want, "{text}");
        }
        assert!(Identifier::parse(&"a".repeat(64)).is_err());
        assert_eq!(TableName::parse("a.b").unwrap().quoted(Dialect::MySql), "`a`.`b`");
    }
}
