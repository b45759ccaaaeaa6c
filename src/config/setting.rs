//! One value, from the file or from outside it, and its conversions.

use std::cell::OnceCell;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use toml::de::DeValue;

use super::environment::Environment;
use super::error::Problem;
use super::shape::{Form, Shape};
use super::shown::MASK;
use super::{duration, interpolate, masking, size, suggest};

/// A value that has not been converted yet.
pub(super) struct Setting<'a> {
    pub(super) environment: &'a Environment,
    /// Whether the value may stand in a message.
    pub(super) harmless: bool,
    pub(super) raw: Raw<'a>,
    /// What the conversion accepts, as far as it said so.
    pub(super) shape: OnceCell<Shape>,
}

/// A value as it was found.
pub(super) enum Raw<'a> {
    /// In the file.
    File(&'a DeValue<'a>),
    /// In a variable or a flag; taken literally, never interpolated.
    Given(String),
    /// Nowhere: only what the conversion accepts is wanted.
    Probe,
}

/// A string value with its references filled in.
pub(super) struct Text {
    pub(super) value: String,
    /// The value as it may stand in a message.
    shown: Option<String>,
}

impl Text {
    /// Puts what was found before what is wrong with it.
    pub(super) fn refuse(&self, problem: Problem) -> Problem {
        let shown = self.shown.as_deref().unwrap_or("a value");
        Problem { found: format!("found {shown}, {}", problem.found), ..problem }
    }
}

impl Setting<'_> {
    /// Notes what is accepted. The first note counts: a conversion speaks before those it stands on.
    pub(super) fn note(&self, shape: impl FnOnce() -> Shape) {
        self.shape.get_or_init(shape);
    }

    /// A string, interpolated.
    pub(super) fn text(&self) -> Result<Text, Problem> {
        self.text_expected("a string")
    }

    /// A string of a certain form, which the caller checks.
    pub(super) fn text_of(&self, form: &'static Form) -> Result<Text, Problem> {
        self.note(|| Shape::Text(Some(form)));
        self.text_expected(form.name)
    }

    /// A string, interpolated, where another type is answered with what is expected.
    pub(super) fn text_expected(&self, expected: &str) -> Result<Text, Problem> {
        self.note(|| Shape::Text(None));
        match &self.raw {
            Raw::Probe => Err(Problem::new("nothing")),
            Raw::Given(text) => {
                let shown = self.harmless.then(|| format!("{text:?}"));
                Ok(Text { value: text.clone(), shown })
            }
            Raw::File(DeValue::String(text)) if !self.harmless && text.contains(MASK) => Err(
                Problem::new(format!("found {MASK}, which stands for a value that is not shown"))
                    .pointing_at(MASK)
                    .expected(expected)
                    .help("put in the value itself, or ${NAME} for one of the environment"),
            ),
            Raw::File(DeValue::String(text)) => {
                let filled = interpolate::fill(text, self.environment)?;
                let secret = filled.variables.iter().any(|name| masking::is_secret_variable(name));
                let harmless = self.harmless && !secret;
                let shown = harmless.then(|| format!("{:?}", filled.text));
                Ok(Text { value: filled.text, shown })
            }
            Raw::File(other) => {
                let problem = self.wrong_type(other, expected);
                let number = matches!(other, DeValue::Integer(_) | DeValue::Float(_));
                Err(if number { problem.help("put it in quotes") } else { problem })
            }
        }
    }

    /// A whole number in a range.
    pub(super) fn integer<T>(&self, range: RangeInclusive<T>) -> Result<T, Problem>
    where
        T: TryFrom<i64> + PartialOrd + Copy + Display,
    {
        let (low, high) = (*range.start(), *range.end());
        self.note(|| Shape::Integer { low: low.to_string(), high: high.to_string() });
        let expected = format!("a whole number from {low} to {high}");
        let (digits, number) = self.whole_number(&expected)?;
        let Some(number) = number else {
            return Err(Problem::new(self.found(&digits)).expected(expected));
        };
        match T::try_from(number) {
            Ok(value) if range.contains(&value) => Ok(value),
            _ => Err(Problem::new(self.found(&digits)).expected(expected).help(format!(
                "the {}",
                if number < 0 || T::try_from(number).is_ok_and(|value| value < low) {
                    format!("smallest is {low}")
                } else {
                    format!("largest is {high}")
                }
            ))),
        }
    }

    /// A number as it is written and, where it fits, its value.
    fn whole_number(&self, expected: &str) -> Result<(String, Option<i64>), Problem> {
        match &self.raw {
            Raw::File(DeValue::Integer(integer)) => {
                let value = i64::from_str_radix(integer.as_str(), integer.radix()).ok();
                Ok((integer.to_string(), value))
            }
            Raw::File(DeValue::String(text)) if !text.contains("${") => {
                let problem = self.wrong_type(&DeValue::String(text.clone()), expected);
                let number = text.trim().parse::<i64>();
                Err(match number {
                    Ok(number) => problem.help(format!("write {number} without quotes")),
                    Err(_) => problem,
                })
            }
            Raw::File(other @ (DeValue::Float(_) | DeValue::Boolean(_))) => {
                Err(self.wrong_type(other, expected))
            }
            _ => {
                let text = self.text_expected(expected)?;
                let not_whole = || Problem::new("not a whole number").expected(expected);
                let value = text.value.trim().parse().map_err(|_| text.refuse(not_whole()))?;
                Ok((text.value, Some(value)))
            }
        }
    }

    /// A duration in a range.
    pub(super) fn duration(&self, range: RangeInclusive<Duration>) -> Result<Duration, Problem> {
        self.note(|| Shape::duration(&range));
        let (low, high) = (duration::format(*range.start()), duration::format(*range.end()));
        let expected = format!("a duration from \"{low}\" to \"{high}\"");
        let bare_number = match &self.raw {
            Raw::File(DeValue::Integer(integer)) => Some(integer.to_string()),
            Raw::File(DeValue::Float(float)) => Some(float.to_string()),
            _ => None,
        };
        if let Some(number) = bare_number {
            let problem = duration::without_unit(&number).expected(expected);
            return Err(Problem { found: format!("found {number}, {}", problem.found), ..problem });
        }
        let text = self.text_expected(&expected)?;
        let value = duration::parse(&text.value).map_err(|problem| text.refuse(problem))?;
        if range.contains(&value) {
            return Ok(value);
        }
        let (word, bound) =
            if value < *range.start() { ("shortest", low) } else { ("longest", high) };
        let problem = Problem::new("out of range").expected(expected);
        Err(text.refuse(problem.help(format!("the {word} is \"{bound}\""))))
    }

    /// A size in bytes in a range.
    pub(super) fn size(&self, range: RangeInclusive<u64>) -> Result<usize, Problem> {
        self.note(|| Shape::size(&range));
        let (low, high) = (size::format(*range.start()), size::format(*range.end()));
        let expected = format!("a size from \"{low}\" to \"{high}\"");
        let text = match &self.raw {
            Raw::File(DeValue::Integer(integer)) => {
                let shown = self.harmless.then(|| integer.to_string());
                Text { value: integer.to_string(), shown }
            }
            _ => self.text_expected(&expected)?,
        };
        let value = size::parse(&text.value).map_err(|problem| text.refuse(problem))?;
        match usize::try_from(value) {
            Ok(bytes) if range.contains(&value) => Ok(bytes),
            _ => {
                let small = value < *range.start();
                let (word, bound) = if small { ("smallest", low) } else { ("largest", high) };
                let problem = Problem::new("out of range").expected(expected);
                Err(text.refuse(problem.help(format!("the {word} is \"{bound}\""))))
            }
        }
    }

    /// One of a few words.
    pub(super) fn one_of<T: Copy>(&self, words: &[(&'static str, T)]) -> Result<T, Problem> {
        let names = || words.iter().map(|(name, _)| *name);
        self.note(|| Shape::Word(names().collect()));
        let expected = format!("one of {}", suggest::list(names()));
        let text = self.text_expected(&expected)?;
        if let Some((_, value)) = words.iter().find(|(name, _)| *name == text.value) {
            return Ok(*value);
        }
        let problem = text.refuse(Problem::new("not one of the choices").expected(expected));
        Err(match suggest::nearest(&text.value, names()) {
            Some(meant) => problem.help(format!("did you mean `{meant}`?")),
            None => problem,
        })
    }

    /// A list of strings; outside the file they are separated by commas.
    pub(super) fn texts(&self, expected: &str) -> Result<Vec<Text>, Problem> {
        self.note(|| Shape::List);
        match &self.raw {
            Raw::Probe => Err(Problem::new("nothing")),
            Raw::File(DeValue::Array(items)) => {
                let item = |item: &toml::Spanned<DeValue<'_>>| {
                    let raw = Raw::File(item.get_ref());
                    let Self { environment, harmless, .. } = *self;
                    Setting { environment, harmless, raw, shape: OnceCell::new() }
                        .text_expected("strings in the list")
                };
                items.iter().map(item).collect()
            }
            Raw::File(other) => Err(self.wrong_type(other, expected)),
            Raw::Given(text) => Ok(text
                .split(',')
                .map(|part| part.trim().to_owned())
                .map(|part| Text { shown: self.harmless.then(|| format!("{part:?}")), value: part })
                .collect()),
        }
    }

    fn found(&self, text: &str) -> String {
        if self.harmless { format!("found {text}") } else { "found a number".to_owned() }
    }

    /// The problem of a value of another type.
    fn wrong_type(&self, value: &DeValue<'_>, expected: &str) -> Problem {
        wrong_type(value, self.harmless).expected(expected)
    }
}

/// `true` or `false`. No method, because a closure that only calls one is refused, and its path has the wrong lifetime.
pub(super) fn boolean(setting: &Setting<'_>) -> Result<bool, Problem> {
    const EXPECTED: &str = "true or false";
    setting.note(|| Shape::Boolean);
    if let Raw::File(DeValue::Boolean(value)) = &setting.raw {
        return Ok(*value);
    }
    let text = setting.text_expected(EXPECTED)?;
    let quoted = matches!(&setting.raw, Raw::File(DeValue::String(raw)) if !raw.contains("${"));
    match text.value.trim().parse::<bool>() {
        Ok(value) if quoted => {
            let problem = Problem::new("a string").expected(EXPECTED);
            Err(text.refuse(problem.help(format!("write {value} without quotes"))))
        }
        Ok(value) => Ok(value),
        Err(_) => Err(text.refuse(Problem::new("neither true nor false").expected(EXPECTED))),
    }
}

/// Says which type was found, with the value where it is short and may be shown.
pub(super) fn wrong_type(value: &DeValue<'_>, harmless: bool) -> Problem {
    let (kind, shown) = match value {
        DeValue::String(text) => ("a string", Some(format!("{text:?}"))),
        DeValue::Integer(integer) => ("an integer", Some(integer.to_string())),
        DeValue::Float(float) => ("a number with a fraction", Some(float.to_string())),
        DeValue::Boolean(boolean) => ("a boolean", Some(boolean.to_string())),
        DeValue::Datetime(_) => ("a date or time", None),
        DeValue::Array(_) => ("an array", None),
        DeValue::Table(_) => ("a table", None),
    };
    Problem::new(match shown.filter(|_| harmless) {
        Some(shown) => format!("found {kind}, {shown}"),
        None => format!("found {kind}"),
    })
}
