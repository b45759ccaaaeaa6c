//! `method`, `after_param`, `limit_param` and `body`.

use reqwest::Method;
use url::Url;

use crate::config::error::Problem;
use crate::config::reader::{Read, TableReader};
use crate::config::setting::Setting;
use crate::config::suggest;
use crate::sources::http::{Asking, BodyTemplate, BodyTemplateError, PLACES, QueryNames};

/// Reads how a window is put into a request.
pub(super) fn read(table: &mut TableReader<'_>, url: Option<&Read<Url>>) -> Asking {
    let methods = [("GET", false), ("POST", true)];
    let is_post = table.read_or("method", false, |s| s.one_of(&methods));
    let method = if is_post { Method::POST } else { Method::GET };
    let after_id = table.read("after_param", |s| parameter(s, "after_id"));
    let limit = table.read("limit_param", |s| match s.text()?.value.as_str() {
        "" => Ok(None),
        _ => parameter(s, "limit").map(Some),
    });
    let body = table.read("body", template);
    let body_says_it = body.as_ref().is_some_and(|body| body.value.has_after_id());
    if let Some(body) = &body {
        if !is_post {
            let problem = Problem::new("a body, which a GET has not");
            table.report_at(&body.origin, "body", problem.help("add method = \"POST\""));
        } else if !body_says_it && after_id.is_none() {
            let problem =
                Problem::new("a body without {after_id}: every request would be the same")
                    .expected("the string \"{after_id}\" where the API wants the last id")
                    .help("put it in, or set after_param to send the id in the query");
            table.report_at(&body.origin, "body", problem);
        }
    }
    let body_value = body.map(|body| body.value);
    if body_says_it {
        let origins = [
            ("after_param", after_id.map(|read| read.origin)),
            ("limit_param", limit.map(|read| read.origin)),
        ];
        for (key, origin) in origins {
            let Some(origin) = origin else { continue };
            let problem = Problem::new("without effect: the body holds {after_id}");
            let help = "with such a body nothing is added to the query; take it out";
            table.report_at(&origin, key, problem.help(help));
        }
        return Asking { method, query: None, body: body_value };
    }
    let default = QueryNames::default();
    let names = QueryNames {
        after_id: after_id.map_or(default.after_id, |read| read.value),
        limit: limit.map_or(default.limit, |read| read.value),
    };
    check_names(table, &names, url);
    Asking { method, query: Some(names), body: body_value }
}

fn check_names(table: &TableReader<'_>, names: &QueryNames, url: Option<&Read<Url>>) {
    if names.limit.as_ref() == Some(&names.after_id) {
        let problem = Problem::new("the same name as after_param").help("name one of them anew");
        table.report("limit_param", problem);
    }
    let Some(url) = url else { return };
    let is_own = |name: &str| name == names.after_id || Some(name) == names.limit.as_deref();
    if let Some((name, _)) = url.value.query_pairs().find(|(name, _)| is_own(name)) {
        let name = if name == names.after_id { "after_param" } else { "limit_param" };
        let all = match &names.limit {
            Some(limit) => format!("{} or {limit}", names.after_id),
            None => names.after_id.clone(),
        };
        let found = format!("found a value, a URL with {all}, which every request sets itself");
        let help = format!("remove it ({name} names it); batch_size sets the limit");
        table.report_at(&url.origin, "url", Problem::new(found).help(help));
    }
}

fn parameter(setting: &Setting<'_>, usual: &str) -> Result<String, Problem> {
    let text = setting.text()?;
    if text.value.is_empty() || text.value.chars().any(|c| c.is_control() || c.is_whitespace()) {
        let problem = Problem::new("not the name of a query parameter");
        return Err(text.refuse(problem.expected(format!("a name such as \"{usual}\""))));
    }
    Ok(text.value)
}

fn template(setting: &Setting<'_>) -> Result<BodyTemplate, Problem> {
    let text = setting.text()?;
    let nearest = |name: &str| suggest::nearest(name, PLACES.iter().copied());
    BodyTemplate::parse(&text.value, nearest).map_err(|error| {
        let problem = Problem::new(error.to_string());
        match error {
            BodyTemplateError::NotJson { .. } => text
                .refuse(problem)
                .expected("a JSON text, in single quotes: '{\"after\": \"{after_id}\"}'")
                .help("places stand in strings; a filled-in ${VARIABLE} must be escaped for JSON"),
            BodyTemplateError::UnknownPlace(name) => match nearest(&name) {
                Some(meant) => text.refuse(problem).help(format!("did you mean {{{meant}}}?")),
                None => text.refuse(problem).expected("{after_id} or {limit}"),
            },
        }
    })
}
