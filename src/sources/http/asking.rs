//! How a window is put into a request: in the query, or in a JSON body.

use std::fmt;

use reqwest::{Client, Method, RequestBuilder};
use url::Url;

/// How a window is put into a request.
#[derive(Clone, Debug)]
pub struct Asking {
    /// `method`: `GET` or `POST`. Default GET.
    pub method: Method,
    /// `after_param` and `limit_param`; `None`: the body says it, and the query gets nothing.
    pub query: Option<QueryNames>,
    /// `body`: JSON, sent with every request. Default none.
    pub body: Option<BodyTemplate>,
}

impl Default for Asking {
    fn default() -> Self {
        Self { method: Method::GET, query: Some(QueryNames::default()), body: None }
    }
}

impl Asking {
    pub(super) fn request(
        &self,
        client: &Client,
        url: &Url,
        after_id: i64,
        limit: u32,
    ) -> RequestBuilder {
        let mut url = url.clone();
        if let Some(names) = &self.query {
            let mut pairs = url.query_pairs_mut();
            pairs.append_pair(&names.after_id, &after_id.to_string());
            if let Some(name) = &names.limit {
                pairs.append_pair(name, &limit.to_string());
            }
        }
        let request = client.request(self.method.clone(), url);
        match &self.body {
            Some(template) => request.body(template.fill(after_id, limit)),
            None => request,
        }
    }
}

/// Names of query parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryNames {
    /// `after_param`. Default `after_id`.
    pub after_id: String,
    /// `limit_param`; `None` (an empty text in the file): not sent, the API has a page size of its own, which
    /// `batch_size` has to allow for. Default `limit`.
    pub limit: Option<String>,
}

impl Default for QueryNames {
    fn default() -> Self {
        Self { after_id: "after_id".to_owned(), limit: Some("limit".to_owned()) }
    }
}

/// A JSON text with places for the window.
///
/// A string value that is exactly `"{after_id}"` or `"{limit}"` becomes a number; inside a longer string value the
/// digits are filled in; everything else, names of members included, stays byte by byte. May hold secrets: `Debug` shows none.
#[derive(Clone, PartialEq, Eq)]
pub struct BodyTemplate {
    pieces: Vec<Piece>,
}

#[derive(Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    AfterId,
    Limit,
}

/// The names of the places, as they stand between braces.
pub const PLACES: &[&str] = &["after_id", "limit"];

/// Why a text is no template.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BodyTemplateError {
    /// It is not JSON.
    #[error("not JSON (line {line}, column {column} of the body)")]
    NotJson {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
    },
    /// A string value is a place that does not exist, or nearly the name of one.
    #[error("a body with {{{0}}}, which is not filled in")]
    UnknownPlace(String),
}

impl BodyTemplate {
    /// Reads a template. `looks_like` finds the place that a misspelt name stands for.
    ///
    /// # Errors
    ///
    /// See [`BodyTemplateError`]. Text in braces that is neither a whole string value nor like the name of a place is
    /// taken for what it is, such as a GraphQL selection.
    pub fn parse(
        text: &str,
        looks_like: impl Fn(&str) -> Option<&'static str>,
    ) -> Result<Self, BodyTemplateError> {
        serde_json::from_str::<serde::de::IgnoredAny>(text).map_err(|error| {
            BodyTemplateError::NotJson { line: error.line(), column: error.column() }
        })?;
        let mut template = Self { pieces: Vec::new() };
        let mut rest = text;
        while let Some(open) = rest.find('"') {
            let length = string_length(&rest[open + 1..]);
            let (content, after) = rest[open + 1..].split_at(length);
            let after = &after[1..];
            let is_name = after.trim_start().starts_with(':');
            let whole = place(content).filter(|(before, _, after)| before.len() + after.len() == 0);
            match whole {
                Some((_, name, _)) if !is_name => {
                    template.push_text(&rest[..open]);
                    template.push_place(name)?;
                }
                _ if is_name => template.push_text(&rest[..open + length + 2]),
                _ => {
                    template.push_text(&rest[..=open]);
                    template.push_content(content, &looks_like)?;
                    template.push_text("\"");
                }
            }
            rest = after;
        }
        template.push_text(rest);
        Ok(template)
    }

    /// Whether the place for the id stands in it.
    pub fn has_after_id(&self) -> bool {
        self.pieces.contains(&Piece::AfterId)
    }

    /// The body for one window.
    pub fn fill(&self, after_id: i64, limit: u32) -> String {
        let piece = |piece: &Piece| match piece {
            Piece::Text(text) => text.clone(),
            Piece::AfterId => after_id.to_string(),
            Piece::Limit => limit.to_string(),
        };
        self.pieces.iter().map(piece).collect::<Vec<_>>().concat()
    }

    fn push_content(
        &mut self,
        mut content: &str,
        looks_like: impl Fn(&str) -> Option<&'static str>,
    ) -> Result<(), BodyTemplateError> {
        while let Some((before, name, after)) = place(content) {
            self.push_text(before);
            if PLACES.contains(&name) || looks_like(name).is_some() {
                self.push_place(name)?;
            } else {
                self.push_text(&format!("{{{name}}}"));
            }
            content = after;
        }
        self.push_text(content);
        Ok(())
    }

    fn push_place(&mut self, name: &str) -> Result<(), BodyTemplateError> {
        self.pieces.push(match name {
            "after_id" => Piece::AfterId,
            "limit" => Piece::Limit,
            other => return Err(BodyTemplateError::UnknownPlace(other.to_owned())),
        });
        Ok(())
    }

    fn push_text(&mut self, text: &str) {
        match self.pieces.last_mut() {
            Some(Piece::Text(last)) => last.push_str(text),
            _ if text.is_empty() => {}
            _ => self.pieces.push(Piece::Text(text.to_owned())),
        }
    }
}

impl fmt::Debug for BodyTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BodyTemplate(***)")
    }
}

/// Bytes up to the quote that ends a string of valid JSON.
fn string_length(text: &str) -> usize {
    let mut escaped = false;
    text.bytes()
        .position(|byte| {
            let ends = byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            ends
        })
        .unwrap_or(text.len())
}

/// The first `{name}`: what is before it, the name, what is after it.
fn place(content: &str) -> Option<(&str, &str, &str)> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
    let mut from = 0;
    while let Some(open) = content[from..].find('{').map(|at| from + at) {
        let inner = &content[open + 1..];
        let length = inner.find(|c| !is_name(c)).unwrap_or(inner.len());
        if length > 0 && inner[length..].starts_with('}') {
            return Some((&content[..open], &inner[..length], &inner[length + 1..]));
        }
        from = open + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<BodyTemplate, BodyTemplateError> {
        let near = |name: &str| (name.replace('-', "_") == "after_id").then_some("after_id");
        BodyTemplate::parse(text, near)
    }

    #[test]
    fn places_are_filled_and_all_else_stays() {
        for (text, want) in [
            (r#"{"after": "{after_id}", "n":"{limit}"}"#, r#"{"after": -7, "n":50}"#),
            (r#"{"q":"id > {after_id} limit {limit};"}"#, r#"{"q":"id > -7 limit 50;"}"#),
            (r#""{after_id}{after_id}""#, r#""-7-7""#),
            (r#"["{after_id}"]"#, "[-7]"),
            (r#"{"{after_id}" : "{limit}"}"#, r#"{"{after_id}" : 50}"#),
            (r#"{"q":"{events(after:{after_id}){id}}"}"#, r#"{"q":"{events(after:-7){id}}"}"#),
            (r#"{"a":"\"{limit}\\"}"#, r#"{"a":"\"50\\"}"#),
            (r#"{"n":12345678901234567890.10}"#, r#"{"n":12345678901234567890.10}"#),
            ("{ }", "{ }"),
            (r#"{"ä":"{ü}"}"#, r#"{"ä":"{ü}"}"#),
        ] {
            let filled = parse(text).unwrap().fill(-7, 50);
            assert_eq!(filled, want);
            assert!(serde_json::from_str::<serde_json::Value>(&filled).is_ok(), "{filled}");
        }
        assert!(!parse(r#"{"{after_id}":1}"#).unwrap().has_after_id());
    }

    #[test]
    fn what_is_no_template_is_refused() {
        for (text, want) in [
            ("{", BodyTemplateError::NotJson { line: 1, column: 1 }),
            ("", BodyTemplateError::NotJson { line: 1, column: 0 }),
            ("{\n 'a': 1}", BodyTemplateError::NotJson { line: 2, column: 2 }),
            (r#"{"a":"{cursor}"}"#, BodyTemplateError::UnknownPlace("cursor".to_owned())),
            (r#"{"a":"x {after-id}"}"#, BodyTemplateError::UnknownPlace("after-id".to_owned())),
        ] {
            assert_eq!(parse(text).unwrap_err(), want, "{text}");
        }
    }
}
