//! Numbers: beyond doubles, beyond 64 bits, at the limits of `numeric`, and texts that are no JSON numbers.

use super::corpus::{Row, aside, no_json, stored};

const STORED: &[(&str, &str)] = &[
    ("0", "0"),
    ("-0", "-0"),
    ("-0.0", "-0.0"),
    ("0e0", "0e0"),
    ("0E+5", "0E+5"),
    ("-0e-5", "-0e-5"),
    ("0e131072", "0e131072"),
    ("2^31", "2147483648"),
    ("-2^31-1", "-2147483649"),
    ("2^32", "4294967296"),
    ("2^53-1", "9007199254740991"),
    ("2^53", "9007199254740992"),
    ("2^53+1", "9007199254740993"),
    ("-2^53-1", "-9007199254740993"),
    ("2^63-1", "9223372036854775807"),
    ("2^63", "9223372036854775808"),
    ("-2^63", "-9223372036854775808"),
    ("-2^63-1", "-9223372036854775809"),
    ("2^64-1", "18446744073709551615"),
    ("2^64", "18446744073709551616"),
    ("2^64+1", "18446744073709551617"),
    ("2^128", "340282366920938463463374607431768211456"),
    ("2^53+1 as a fraction", "9007199254740993.0"),
    ("one more than a double", "1.0000000000000000000001"),
    ("0.1", "0.1"),
    ("0.1+0.2", "0.30000000000000004"),
    ("trailing zeros", "1.100000"),
    ("zeros only", "0.0000000000"),
    ("pi", "3.14159265358979323846264338327950288419716939937510582097494459230781640628620899"),
    ("e0", "1e0"),
    ("E5", "1E5"),
    ("e+05", "1e+05"),
    ("e-7", "123456789e-7"),
    ("e23, no double", "1e23"),
    ("e30", "1e30"),
    ("greatest double", "1.7976931348623157e308"),
    ("above doubles", "1.8e308"),
    ("e400", "1e400"),
    ("-e400", "-1e400"),
    ("least double", "5e-324"),
    ("below doubles", "4.9e-325"),
    ("e-400", "1e-400"),
    ("digits and exponent", "12345678901234567890.12345678901234567890e-10"),
    ("most digits by exponent", "1e131071"),
    ("most digits by exponent, negative", "-9.999e131071"),
    ("most digits, point moved", "0.00001e131076"),
    ("finest by exponent", "1e-16383"),
    ("exponent of zeros", "1e0000000000000000000000000000002"),
    ("a list", "[9007199254740993,-0.0,1e400,0.10,18446744073709551616]"),
];

const ASIDE: &[(&str, &str, &str)] = &[
    ("one digit too many", "1e131072", "more than 131072 digits before"),
    ("one digit too many, negative", "-1e131072", "more than 131072 digits before"),
    ("one digit too many, split", "10e131071", "more than 131072 digits before"),
    ("huge", "1e999999999", "more than 131072 digits before"),
    ("too fine", "1e-16384", "more than 16383 digits after"),
    ("zero, too fine", "0e-16384", "more than 16383 digits after"),
    ("too fine by trailing zeros", "1.0e-16383", "more than 16383 digits after"),
    ("exponent 2^31-1", "1e2147483647", "an exponent out of range"),
    ("exponent -2^31", "1e-2147483648", "an exponent out of range"),
    ("exponent beyond 64 bits", "1e99999999999999999999", "an exponent out of range"),
    ("zero with an exponent beyond 64 bits", "0e99999999999999999999", "an exponent out of range"),
    ("deep in a list", r#"[[{"a":[1e131072]}]]"#, "payload.n[0][0].a[0] is the number"),
];

const NO_JSON: &[(&str, &str)] = &[
    ("leading zero", "01"),
    ("negative leading zero", "-01"),
    ("two zeros", "00"),
    ("no integer part", ".5"),
    ("no fraction", "5."),
    ("plus", "+1"),
    ("no exponent", "1e"),
    ("no exponent after its sign", "1e+"),
    ("fraction of an exponent", "1e1.5"),
    ("hexadecimal", "0x10"),
    ("underscore", "1_000"),
    ("NaN", "NaN"),
    ("Infinity", "Infinity"),
    ("-Infinity", "-Infinity"),
    ("minus alone", "-"),
    ("two minus", "--1"),
    ("two points", "1.2.3"),
    ("comma for a point", "1,5"),
    ("space in it", "1 000"),
    ("full-width digit", "１"),
    ("Arabic digit", "٣"),
    ("minus sign of typographers", "−1"),
];

pub(super) fn numbers() -> Vec<Row> {
    let nines = |count| "9".repeat(count);
    let mut rows = vec![
        stored("100 digits", nines(100)),
        stored("most digits", nines(131_072)),
        stored("most digits on both sides", format!("{}.{}", nines(131_072), nines(16_383))),
        stored("finest", format!("0.{}1", "0".repeat(16_382))),
        stored("20000 digits after, moved before", format!("0.{}e16384", nines(20_000))),
        aside("131073 digits", nines(131_073), "more than 131072 digits before"),
        aside("16384 zeros after", format!("0.{}", "0".repeat(16_384)), "more than 16383 digits"),
        aside(
            "more in print than can be read back",
            format!("[{}]", vec!["1e131071"; 200].join(",")),
            "when PostgreSQL prints them",
        ),
    ];
    rows.extend(STORED.iter().map(|(name, raw)| stored(name, *raw)));
    rows.extend(ASIDE.iter().map(|(name, raw, reason)| aside(name, *raw, reason)));
    rows.extend(NO_JSON.iter().map(|(name, raw)| no_json(name, *raw)));
    rows
}
