//! Every type of the three databases, at its extremes, and the exact JSON that becomes of it. `docs/sql_source.md`
//! prints the same tables.

use eventloader::event::Item;
use eventloader::source::EventSource;
use eventloader::sources::sql::SqlSource;

use super::{Sql, only_payload, payload};

/// Type, value in SQL, JSON.
type Case = (&'static str, &'static str, &'static str);

#[rustfmt::skip]
const POSTGRES: &[Case] = &[
    ("smallint", "-32768", "-32768"),
    ("integer", "2147483647", "2147483647"),
    ("bigint", "9223372036854775807", "9223372036854775807"),
    ("bigint", "-9223372036854775808", "-9223372036854775808"),
    ("numeric", "123456789012345678901234567890.123456789012345678901234567890", "123456789012345678901234567890.123456789012345678901234567890"),
    ("numeric(12, 4)", "1.5", "1.5000"),
    ("numeric", "'NaN'", "\"NaN\""),
    ("numeric", "'-Infinity'", "\"-Infinity\""),
    ("real", "'1.1'", "1.1"),
    ("real", "'3.4028235e38'", "3.4028235e+38"),
    ("double precision", "0.1", "0.1"),
    ("double precision", "'5e-324'", "5e-324"),
    ("double precision", "'1.7976931348623157e308'", "1.7976931348623157e+308"),
    ("double precision", "'-0'", "-0"),
    ("double precision", "'Infinity'", "\"Infinity\""),
    ("double precision", "'NaN'", "\"NaN\""),
    ("boolean", "true", "true"),
    ("text", "E'a\"\\\\\\n\\tä😀'", r#""a\"\\\n\tä😀""#),
    ("varchar(3)", "'abc'", "\"abc\""),
    ("char(3)", "'a'", "\"a  \""),
    ("json", "'{\"b\": 1.10,  \"a\":12345678901234567890.1, \"e\":1E2}'", r#"{"b": 1.10,  "a":12345678901234567890.1, "e":1E2}"#),
    ("jsonb", "'{\"b\": 1.10, \"a\":12345678901234567890.1}'", r#"{"a": 12345678901234567890.1, "b": 1.10}"#),
    ("bytea", "'\\x00ff10'", "\"AP8Q\""),
    ("date", "'2024-02-29'", "\"2024-02-29\""),
    ("date", "'0044-03-15 BC'", "\"0044-03-15 BC\""),
    ("date", "'infinity'", "\"infinity\""),
    ("time", "'23:59:59.999999'", "\"23:59:59.999999\""),
    ("timetz", "'23:59:59.999999+02'", "\"23:59:59.999999+02\""),
    ("timestamp", "'2024-02-29 23:59:59.999999'", "\"2024-02-29T23:59:59.999999\""),
    ("timestamptz", "'2024-03-01 01:59:59.123456+02'", "\"2024-02-29T23:59:59.123456+00:00\""),
    ("timestamptz", "'-infinity'", "\"-infinity\""),
    ("interval", "'1 year 2 mons 3 days 04:05:06.000007'", "\"P1Y2M3DT4H5M6.000007S\""),
    ("uuid", "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'", "\"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11\""),
    ("integer[]", "'{1,null,3}'", "[1,null,3]"),
    ("text[]", "'{{a,b},{c,d}}'", r#"[["a","b"],["c","d"]]"#),
    ("mood", "'happy'", "\"happy\""),
    ("small", "7", "7"),
    ("blob", "'\\x6162'", "\"YWI=\""),
    ("pair", "row(1, 'x')", r#"{"a":1,"b":"x"}"#),
    ("inet", "'192.168.0.1/24'", "\"192.168.0.1/24\""),
    ("cidr", "'2001:db8::/32'", "\"2001:db8::/32\""),
    ("macaddr", "'08:00:2b:01:02:03'", "\"08:00:2b:01:02:03\""),
    ("int4range", "'[1,5)'", "\"[1,5)\""),
    ("tstzrange", "'[2024-01-01 02:00+02,)'", r#""[\"2024-01-01 00:00:00+00\",)""#),
    ("int4multirange", "'{[1,2),[3,4)}'", "\"{[1,2),[3,4)}\""),
    ("bit(4)", "'1010'", "\"1010\""),
    ("point", "'(1.5,2)'", "\"(1.5,2)\""),
    ("tsvector", "'a b'", "\"'a' 'b'\""),
    ("oid", "'4294967295'", "\"4294967295\""),
    ("text", "null", "null"),
];

#[rustfmt::skip]
const MARIADB: &[Case] = &[
    ("tinyint", "-128", "-128"),
    ("tinyint unsigned", "255", "255"),
    ("boolean", "true", "1"),
    ("smallint", "-32768", "-32768"),
    ("mediumint", "-8388608", "-8388608"),
    ("mediumint unsigned", "16777215", "16777215"),
    ("int", "-2147483648", "-2147483648"),
    ("int unsigned", "4294967295", "4294967295"),
    ("bigint", "-9223372036854775808", "-9223372036854775808"),
    ("bigint unsigned", "18446744073709551615", "18446744073709551615"),
    ("decimal(65, 30)", "12345678901234567890123456789012345.123456789012345678901234567890", "12345678901234567890123456789012345.123456789012345678901234567890"),
    ("decimal(5, 2)", "-0.5", "-0.50"),
    ("float", "1.1", "1.1"),
    ("double", "0.1", "0.1"),
    ("double", "1.7976931348623157e308", "1.7976931348623157e308"),
    ("bit(1)", "b'1'", "1"),
    ("bit(64)", "18446744073709551615", "18446744073709551615"),
    ("year", "2155", "\"2155\""),
    ("year", "0", "\"0000\""),
    ("date", "'2024-02-29'", "\"2024-02-29\""),
    ("date", "'0000-00-00'", "\"0000-00-00\""),
    ("datetime", "'0000-00-00 00:00:00'", "\"0000-00-00T00:00:00\""),
    ("datetime", "'9999-12-31 23:59:59'", "\"9999-12-31T23:59:59\""),
    ("datetime(6)", "'2024-02-29 23:59:59.000001'", "\"2024-02-29T23:59:59.000001\""),
    ("timestamp(6) null", "'2024-02-29 23:59:59.999999'", "\"2024-02-29T23:59:59.999999Z\""),
    ("time", "'838:59:59'", "\"838:59:59\""),
    ("time(6)", "'-838:59:59.999999'", "\"-838:59:59.999999\""),
    ("time", "'0:0:0'", "\"00:00:00\""),
    ("char(3)", "'a'", "\"a\""),
    ("varchar(20)", "'a\"\\\\\\nä😀'", r#""a\"\\\nä😀""#),
    ("varchar(20) character set latin1", "'ä€'", "\"ä€\""),
    ("varchar(20) collate utf8mb4_bin", "'ä'", "\"ä\""),
    ("text", "'long'", "\"long\""),
    ("longtext", "'{}'", "\"{}\""),
    ("enum('a', 'b')", "'b'", "\"b\""),
    ("set('a', 'b', 'c')", "'a,c'", "\"a,c\""),
    ("binary(3)", "'a'", "\"YQAA\""),
    ("varbinary(3)", "x'00ff10'", "\"AP8Q\""),
    ("blob", "x'00ff10'", "\"AP8Q\""),
    ("json", "'{\"b\": 1.10,  \"a\":12345678901234567890.1}'", r#"{"b": 1.10,  "a":12345678901234567890.1}"#),
    ("uuid", "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'", "\"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11\""),
    ("inet6", "'2001:db8::1'", "\"2001:db8::1\""),
    ("point", "point(1, 2)", "\"AAAAAAEBAAAAAAAAAAAA8D8AAAAAAAAAQA==\""),
    ("int", "null", "null"),
];

#[rustfmt::skip]
const SQLITE: &[Case] = &[
    ("integer", "9223372036854775807", "9223372036854775807"),
    ("integer", "-9223372036854775808", "-9223372036854775808"),
    ("integer", "'not a number'", "\"not a number\""),
    ("boolean", "true", "1"),
    ("real", "0.1", "0.1"),
    ("real", "1", "1.0"),
    ("real", "5e-324", "5e-324"),
    ("real", "9e999", "\"Infinity\""),
    ("real", "-9e999", "\"-Infinity\""),
    ("numeric", "'12345678901234567890.5'", "1.2345678901234567e19"),
    ("text", "'12345678901234567890.5'", "\"12345678901234567890.5\""),
    ("text", "'a\"\\ä😀' || char(10)", r#""a\"\\ä😀\n""#),
    ("", "x'00ff10'", "\"AP8Q\""),
    ("datetime", "'2024-02-29 23:59:59.999999'", "\"2024-02-29 23:59:59.999999\""),
    ("json", "'{\"b\": 1.10,  \"a\":12345678901234567890.1}'", r#"{"b": 1.10,  "a":12345678901234567890.1}"#),
    ("json", "'{'", "\"{\""),
    ("text", "null", "null"),
];

/// One table with a column for each case and one row.
async fn assert_cases(database: &Sql, cases: &[Case]) {
    let columns: Vec<String> =
        cases.iter().enumerate().map(|(i, (kind, _, _))| format!("c{i} {kind}")).collect();
    database
        .run(&format!("create table t (id bigint not null primary key, {})", columns.join(", ")))
        .await;
    let values: Vec<&str> = cases.iter().map(|case| case.1).collect();
    database.run(&format!("insert into t values (1, {})", values.join(", "))).await;
    let found = only_payload(database.table("t")).await;
    let members: Vec<String> =
        cases.iter().enumerate().map(|(i, (_, _, json))| format!("\"c{i}\":{json}")).collect();
    let want = format!("{{\"id\":1,{}}}", members.join(","));
    for ((found, want), case) in found.split(",\"c").zip(want.split(",\"c")).skip(1).zip(cases) {
        assert_eq!(found, want, "{case:?}");
    }
    assert_eq!(found, want);
}

#[tokio::test]
async fn every_type_of_postgres_is_exact() {
    let database = Sql::postgres().await;
    database.run("create type mood as enum ('sad', 'happy')").await;
    database.run("create domain small as integer check (value < 10)").await;
    database.run("create domain blob as bytea").await;
    database.run("create type pair as (a integer, b text)").await;
    assert_cases(&database, POSTGRES).await;
}

#[tokio::test]
async fn every_type_of_mariadb_is_exact() {
    let database = Sql::mariadb().await;
    database.run("set global sql_mode = ''").await;
    assert_cases(&Sql::mariadb().await, MARIADB).await;
}

#[tokio::test]
async fn every_type_of_sqlite_is_exact() {
    assert_cases(&Sql::sqlite().await, SQLITE).await;
}

#[tokio::test]
async fn a_query_gives_the_same_values_as_a_table() {
    for (database, bytes) in
        Sql::all().await.into_iter().zip(["'\\x00ff10'", "x'00ff10'", "x'00ff10'"])
    {
        let kind = if matches!(database, Sql::Postgres(_)) { "bytea" } else { "blob" };
        database.run(&format!("create table t (id bigint not null primary key, b {kind})")).await;
        database.run(&format!("insert into t values (5, {bytes})")).await;
        let query = "select b, id, 'x' as kind from t where id > {after_id} order by id limit {limit} -- all";
        let mut options = database.query(query);
        options.mapping.event_type = Some("/kind".parse().unwrap());
        let page = SqlSource::new(options).fetch_events(0, 10).await.unwrap();
        let Item::Good(event) = &page.items[0] else { panic!("{page:?}") };
        assert_eq!(event.payload.as_str(), r#"{"b":"AP8Q","id":5,"kind":"x"}"#);
        assert_eq!((event.id, event.event_type.as_deref()), (5, Some("x")));
    }
}

#[tokio::test]
async fn a_column_that_comes_later_is_in_the_next_page() {
    let defaults =
        ["bytea default '\\x00ff10'", "blob default x'00ff10'", "blob default x'00ff10'"];
    for (database, column) in Sql::all().await.into_iter().zip(defaults) {
        database.run("create table t (id bigint not null primary key)").await;
        database.run("insert into t values (1)").await;
        let source = SqlSource::new(database.table("t"));
        source.fetch_events(0, 10).await.unwrap();
        database.run(&format!("alter table t add b {column}")).await;
        let page = source.fetch_events(0, 10).await.unwrap();
        let Item::Good(event) = &page.items[0] else { panic!("{page:?}") };
        assert_eq!(event.payload.as_str(), r#"{"id":1,"b":"AP8Q"}"#, "{:?}", database.dialect());
    }
}

#[tokio::test]
async fn what_cannot_be_stored_is_a_dead_letter_and_its_neighbours_go_on() {
    let postgres = Sql::postgres().await;
    postgres.run("create table t (id bigint primary key, body json)").await;
    postgres.run(r#"insert into t values (1, '{}'), (2, '"\u0000"'), (3, '[]')"#).await;
    let sqlite = Sql::sqlite().await;
    sqlite.run("create table t (id integer primary key, body text)").await;
    sqlite.run("insert into t values (1, '{}'), (2, cast(x'ff' as text)), (3, '[]')").await;
    let mariadb = Sql::mariadb().await;
    mariadb.run("create table t (id bigint primary key, body text)").await;
    mariadb.run(r"insert into t values (1, '{}'), (2, 'a\0b'), (3, '[]')").await;
    for database in [postgres, sqlite, mariadb] {
        let options = eventloader::sources::sql::SqlOptions {
            mapping: payload("body"),
            ..database.table("t")
        };
        let page = SqlSource::new(options).fetch_events(0, 10).await.unwrap();
        let [Item::Good(first), Item::Bad(bad), Item::Good(last)] = page.items.as_slice() else {
            panic!("{:?}: {page:?}", database.dialect())
        };
        assert_eq!((first.payload.as_str(), bad.id, last.payload.as_str()), ("{}", Some(2), "[]"));
    }
}

#[tokio::test]
async fn a_page_ends_before_it_is_too_large_and_the_next_goes_on() {
    for database in Sql::all().await {
        database.run("create table t (id bigint not null primary key, body text)").await;
        let rows: Vec<String> =
            (1..=20).map(|id| format!("({id}, '{}')", "x".repeat(1000))).collect();
        database.run(&format!("insert into t values {}", rows.join(","))).await;
        let mut options = database.table("t");
        options.max_page_bytes = 5_500;
        let source = SqlSource::new(options);
        let (mut after_id, mut seen) = (0, Vec::new());
        loop {
            let page = super::ids(&source, after_id, 10).await;
            let Some(last) = page.last() else { break };
            assert_eq!(page.len(), 5);
            after_id = *last;
            seen.extend(page);
        }
        assert_eq!(seen, (1..=20).collect::<Vec<_>>());
    }
}
