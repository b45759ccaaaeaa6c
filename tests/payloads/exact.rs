//! A JSON parser of the tests' own, which loses nothing: numbers are digits, texts are UTF-16 as their escapes are. It
//! shares no code and no library with the parser that it judges. `fuzz/` uses it too.

/// A value. Two are equal when no exact parser can tell them apart: `1.10` is `1.1e0`, `"\u0041"` is `"A"`, the members
/// of an object have no order, and zero has no sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Exact {
    Null,
    Bool(bool),
    /// `digits` × 10^`exponent`, without zeros at either end of the digits.
    Number {
        negative: bool,
        digits: String,
        exponent: i64,
    },
    /// Code units: an unpaired surrogate is one of them.
    Text(Vec<u16>),
    Array(Vec<Exact>),
    /// By key; of equal keys the later stands later.
    Object(Vec<(Vec<u16>, Exact)>),
}

/// What `jsonb` cannot hold, or would change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    Nul,
    LoneSurrogate,
    RepeatedKey,
    Deep,
    BigNumber,
    FineNumber,
    HugeExponent,
}

/// What is said of a text that is JSON.
#[derive(Clone, Debug)]
pub(crate) struct Parsed {
    pub(crate) value: Exact,
    pub(crate) flaws: Vec<Flaw>,
    /// About how many digits its numbers take when their exponents are written out.
    pub(crate) printed_digits: u64,
}

/// Parses one value with nothing but white space around it. `None`: it is no JSON. Recursive: deep texts need stack.
pub(crate) fn parse(text: &str) -> Option<Parsed> {
    let mut parser = Parser { bytes: text.as_bytes(), at: 0, flaws: Vec::new(), printed_digits: 0 };
    parser.space();
    let value = parser.value(0)?;
    parser.space();
    let Parser { bytes, at, flaws, printed_digits } = parser;
    (at == bytes.len()).then_some(Parsed { value, flaws, printed_digits })
}

impl Exact {
    /// The member of an object, the last of that name; or the element of an array, by its index.
    pub(crate) fn step(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Object(members) => {
                let name: Vec<u16> = name.encode_utf16().collect();
                members.iter().rev().find(|(key, _)| *key == name).map(|(_, value)| value)
            }
            Self::Array(elements) => {
                let is_index = name == "0" || !name.starts_with(['0', '+']);
                elements.get(name.parse::<usize>().ok().filter(|_| is_index)?)
            }
            _ => None,
        }
    }

    /// The number as a bigint, if it is one.
    pub(crate) fn integer(&self) -> Option<i64> {
        let Self::Number { negative, digits, exponent } = self else { return None };
        let zeros = usize::try_from(*exponent).ok().filter(|zeros| *zeros < 20)?;
        let sign = if *negative { "-" } else { "" };
        format!("{sign}0{digits}{}", "0".repeat(zeros)).parse().ok()
    }
}

struct Parser<'a> {
    bytes: &'a [u8],
    at: usize,
    flaws: Vec<Flaw>,
    printed_digits: u64,
}

impl Parser<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn take(&mut self, wanted: &[u8]) -> Option<()> {
        self.bytes[self.at..].starts_with(wanted).then(|| self.at += wanted.len())
    }

    fn space(&mut self) {
        while self.peek().is_some_and(|byte| b" \t\r\n".contains(&byte)) {
            self.at += 1;
        }
    }

    fn value(&mut self, depth: usize) -> Option<Exact> {
        match self.peek()? {
            b'n' => self.take(b"null").map(|()| Exact::Null),
            b't' => self.take(b"true").map(|()| Exact::Bool(true)),
            b'f' => self.take(b"false").map(|()| Exact::Bool(false)),
            b'"' => self.string().map(Exact::Text),
            b'[' => self.array(depth + 1),
            b'{' => self.object(depth + 1),
            _ => self.number(),
        }
    }

    fn note_depth(&mut self, depth: usize) {
        if depth == 5001 {
            self.flaws.push(Flaw::Deep);
        }
    }

    fn array(&mut self, depth: usize) -> Option<Exact> {
        self.note_depth(depth);
        let mut elements = Vec::new();
        self.members(b'[', b']', |parser| {
            elements.push(parser.value(depth)?);
            Some(())
        })?;
        Some(Exact::Array(elements))
    }

    fn object(&mut self, depth: usize) -> Option<Exact> {
        self.note_depth(depth);
        let mut members = Vec::new();
        self.members(b'{', b'}', |parser| {
            let key = parser.string()?;
            parser.space();
            parser.take(b":")?;
            parser.space();
            members.push((key, parser.value(depth)?));
            Some(())
        })?;
        members.sort_by(|(a, _), (b, _)| a.cmp(b));
        if members.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            self.flaws.push(Flaw::RepeatedKey);
        }
        Some(Exact::Object(members))
    }

    fn members(
        &mut self,
        open: u8,
        close: u8,
        mut member: impl FnMut(&mut Self) -> Option<()>,
    ) -> Option<()> {
        self.take(&[open])?;
        self.space();
        if self.take(&[close]).is_some() {
            return Some(());
        }
        loop {
            self.space();
            member(self)?;
            self.space();
            if self.take(&[close]).is_some() {
                return Some(());
            }
            self.take(b",")?;
        }
    }

    fn string(&mut self) -> Option<Vec<u16>> {
        self.take(b"\"")?;
        let mut units = Vec::new();
        loop {
            let from = self.at;
            while self.peek().is_some_and(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\') {
                self.at += 1;
            }
            units.extend(std::str::from_utf8(&self.bytes[from..self.at]).ok()?.encode_utf16());
            match self.peek()? {
                b'"' => break,
                b'\\' => units.push(self.escape()?),
                _ => return None,
            }
        }
        self.at += 1;
        if units.contains(&0) {
            self.flaws.push(Flaw::Nul);
        }
        if char::decode_utf16(units.iter().copied()).any(|unit| unit.is_err()) {
            self.flaws.push(Flaw::LoneSurrogate);
        }
        Some(units)
    }

    fn escape(&mut self) -> Option<u16> {
        let kind = *self.bytes.get(self.at + 1)?;
        self.at += 2;
        Some(match kind {
            b'"' | b'\\' | b'/' => kind.into(),
            b'b' => 8,
            b'f' => 12,
            b'n' => 10,
            b'r' => 13,
            b't' => 9,
            b'u' => {
                let digits = self.bytes.get(self.at..self.at + 4)?;
                self.at += 4;
                let all_hex = digits.iter().all(u8::is_ascii_hexdigit);
                let digits = std::str::from_utf8(digits).ok().filter(|_| all_hex)?;
                u16::from_str_radix(digits, 16).ok()?
            }
            _ => return None,
        })
    }

    fn digits(&mut self) -> Option<String> {
        let from = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        let digits = std::str::from_utf8(&self.bytes[from..self.at]).ok()?;
        (!digits.is_empty()).then(|| digits.to_owned())
    }

    fn number(&mut self) -> Option<Exact> {
        let negative = self.take(b"-").is_some();
        let integer = self.digits()?;
        if integer.len() > 1 && integer.starts_with('0') {
            return None;
        }
        let fraction = match self.take(b".") {
            Some(()) => self.digits()?,
            None => String::new(),
        };
        let mut exponent = 0;
        let has_exponent = self.take(b"e").or_else(|| self.take(b"E")).is_some();
        if has_exponent {
            let is_down = self.take(b"-").is_some();
            if !is_down {
                self.take(b"+");
            }
            // Held far beyond all that matters.
            let size = self.digits()?.parse::<i64>().unwrap_or(i64::MAX).min(1 << 60);
            exponent = if is_down { -size } else { size };
        }
        let written = (integer + &fraction).trim_start_matches('0').to_owned();
        let scale = exponent - i64::try_from(fraction.len()).ok()?;
        let digits = written.trim_end_matches('0').to_owned();
        let dropped = i64::try_from(written.len() - digits.len()).ok()?;
        self.judge_number(exponent, scale, i64::try_from(written.len()).ok()?);
        let is_zero = digits.is_empty();
        let exponent = if is_zero { 0 } else { scale + dropped };
        Some(Exact::Number { negative: negative && !is_zero, digits, exponent })
    }

    /// `scale`: of the last written digit; `length`: of the written digits, without leading zeros.
    fn judge_number(&mut self, exponent: i64, scale: i64, length: i64) {
        if exponent.abs() >= i64::from(i32::MAX / 2) {
            self.flaws.push(Flaw::HugeExponent);
        } else if scale < -16_383 {
            self.flaws.push(Flaw::FineNumber);
        } else if length > 0 && length + scale > 131_072 {
            self.flaws.push(Flaw::BigNumber);
        } else {
            self.printed_digits +=
                (length + scale).max(1).unsigned_abs() + scale.min(0).unsigned_abs() + 2;
        }
    }
}
