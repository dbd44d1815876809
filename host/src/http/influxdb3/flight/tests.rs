use super::*;
use crate::http::influxdb3::target::OwnedTarget;

const LIMIT: usize = 1 << 20;

/// Encodes a field of bytes.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let length = u8::try_from(bytes.len()).unwrap();
    let length = if length < 0x80 { vec![length] } else { vec![length, 1] };
    [&[number << 3 | 2][..], &length, bytes].concat()
}

fn frame(message: &[u8]) -> Vec<u8> {
    [&[0][..], &u32::try_from(message.len()).unwrap().to_be_bytes(), message].concat()
}

fn any_of(read_info: &[u8]) -> Vec<u8> {
    [field(1, READ_INFO), field(2, read_info)].concat()
}

fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in list {
        headers.append(*name, value.parse().unwrap());
    }
    headers
}

fn read(body: &[u8], list: &[(&'static str, &str)]) -> Result<Option<String>, Refusal> {
    let target = FlightRow::of(&headers(list))?.read(body, LIMIT)?;
    Ok(target.map(|target| match target {
        OwnedTarget::Database { name, action: DatabaseAction::Read } => name,
        other => panic!("{other:?}"),
    }))
}

fn read_ticket(ticket: &[u8], list: &[(&'static str, &str)]) -> Result<String, Refusal> {
    read(&frame(&field(1, ticket)), list).map(|name| name.unwrap())
}

#[test]
fn json_ticket_names_the_database() {
    for (ticket, list) in [
        (r#"{"database":"a","sql_query":"select 1","query_type":"sql"}"#, &[][..]),
        (r#"{"database": "a", "sql_query": "select 1"}"#, &[]),
        (r#"{"namespace_name":"a","sql_query":"select 1 || 'x'"}"#, &[]),
        (r#"{"bucket":"a","sql_query":"select 1"}"#, &[]),
        (r#"{"bucket-name":"a","sql_query":"select 1"}"#, &[]),
        (r#"{"database":"a","sql_query":"x","params":{"database":"b"}}"#, &[]),
        (r#"{"database":"a","sql_query":"select 1"}"#, &[("database", "a")]),
        (r#"{"database":"a","sql_query":"x"}"#, &[("database", "a"), ("iox-namespace-name", "a")]),
        (r#"{"database":"a","sql_query":"select * from m","query_type":"influxql"}"#, &[]),
        (r#"{"database":"a","sql_query":"select * from a..m","query_type":"influxql"}"#, &[]),
        (r#"{"database":"a","sql_query":"select * from b..m","query_type":"sql"}"#, &[]),
    ] {
        assert_eq!(read_ticket(ticket.as_bytes(), list).as_deref(), Ok("a"), "{ticket} {list:?}");
    }
}

#[test]
fn uncertain_json_ticket_is_refused() {
    for (ticket, list) in [
        (r#"{"sql_query":"select 1"}"#, &[][..]),
        (r#"{"sql_query":"select 1"}"#, &[("database", "a")]),
        (r#"{"database":"a","database":"b"}"#, &[]),
        (r#"{"database":"a","bucket":"a"}"#, &[]),
        (r#"{"database":"a","namespace_name":"b"}"#, &[]),
        (r#"{"database":"a","query_type":"sql","query_type":"influxql"}"#, &[]),
        (r#"{"database":"a","sql_query":"x","sql_query":"y"}"#, &[]),
        (r#"{"database":null}"#, &[]),
        (r#"{"database":""}"#, &[]),
        (r#"{"database":"_internal"}"#, &[]),
        (r#"{"database":"a b"}"#, &[]),
        (r#"{"database":"a/autogen"}"#, &[]),
        (r#"{"database":"a"} x"#, &[]),
        (r#"["a","select 1"]"#, &[]),
        (r#"{"database":"a"}"#, &[("database", "b")]),
        (r#"{"database":"a"}"#, &[("database", "A")]),
        (r#"{"database":"a"}"#, &[("bucket", "b")]),
        (r#"{"database":"a"}"#, &[("database", "a"), ("bucket-name", "b")]),
        (r#"{"database":"a"}"#, &[("database", "a"), ("database", "b")]),
        (r#"{"database":"a"}"#, &[("iox-namespace-name", "")]),
        (r#"{"database":"a","sql_query":"show databases","query_type":"influxql"}"#, &[]),
        (r#"{"database":"a","sql_query":"select * from b..m","query_type":"influxql"}"#, &[]),
        (r#"{"database":"a","query_type":"influxql"}"#, &[]),
        (r#"{"database":"a","query_type":"InfluxQL"}"#, &[]),
        (r#"{"database":"a","query_type":null}"#, &[]),
    ] {
        assert!(read_ticket(ticket.as_bytes(), list).is_err(), "{ticket} {list:?}");
    }
    // A decoder that prefers messages finds the field 1 here, behind a group of field 15.
    let mut both = br#"{"database":"a","x":"#.to_vec();
    both.extend(b"|\x0a\x01b");
    assert!(read_ticket(&both, &[]).is_err());
    assert!(read_ticket(b"{\x00\x00|\x0a\x01b", &[]).is_err());
}

#[test]
fn json_that_is_a_message_too_is_refused() {
    // `{` begins a group, `"` a text whose length is the code of the next character, `|` ends the
    // group: both decoders read this ticket.
    let filler = "x".repeat(usize::from(b'd') - br#"atabase":"a","y":""#.len());
    let ticket = format!("{{\"database\":\"a\",\"y\":\"{filler}|\"}}");
    assert!(!may_be_message(ticket.as_bytes()));
    assert_eq!(read_ticket(ticket.as_bytes(), &[]).as_deref(), Ok("a"));
    // Behind the group, `"` and `}` are a text of 125 bytes.
    let ticket = format!("{ticket}{}", " ".repeat(usize::from(b'}')));
    assert!(may_be_message(ticket.as_bytes()));
    assert_eq!(read_ticket(ticket.as_bytes(), &[]), Err("the ticket is of no known type"));
}

#[test]
fn ticket_of_flight_sql_names_the_database() {
    let command = field(4, b"command");
    for (read_info, list) in [
        ([field(1, b"a"), command.clone(), vec![0x18, 3]].concat(), &[][..]),
        ([field(1, b"a"), command.clone(), vec![0x18, 3]].concat(), &[("database", "a")]),
        ([command.clone(), vec![0x18, 3], field(1, b"a")].concat(), &[]),
        ([field(1, b"a"), field(2, b"select 1"), vec![0x18, 1]].concat(), &[]),
        (
            [field(1, b"a"), field(2, b"select 1"), vec![0x28, 1], field(6, b"x"), field(6, b"y")].concat(),
            &[],
        ),
        ([field(1, b"a"), field(2, b"select * from m"), vec![0x18, 2]].concat(), &[]),
    ] {
        assert_eq!(read_ticket(&any_of(&read_info), list).as_deref(), Ok("a"), "{read_info:?}");
    }
}

#[test]
fn uncertain_ticket_of_flight_sql_is_refused() {
    let good = field(1, b"a");
    for ticket in [
        // A header names no database of a ticket.
        any_of(&field(2, b"select 1")),
        any_of(&field(1, b"b")),
        any_of(&field(1, b"")),
        any_of(&field(1, b"\xff")),
        any_of(&[field(1, b"b"), good.clone()].concat()),
        any_of(&[good.clone(), good.clone()].concat()),
        any_of(&[good.clone(), field(2, b"x"), field(2, b"y")].concat()),
        any_of(&[good.clone(), vec![0x18, 2], field(2, b"show databases")].concat()),
        any_of(&[good.clone(), vec![0x18, 2], field(2, b"select * from b..m")].concat()),
        any_of(&[good.clone(), vec![0x18, 4]].concat()),
        any_of(&[good.clone(), vec![0x18, 0x82, 0x80, 0x80, 0x80, 0x10]].concat()),
        any_of(&[good.clone(), field(7, b"x")].concat()),
        any_of(&[good.clone(), vec![0x08, 1]].concat()),
        any_of(&[good.clone(), vec![0x0b, 0x0c]].concat()),
        any_of(b"\x0a\x02a"),
        [field(1, b"type.googleapis.com/other"), field(2, &good)].concat(),
        [field(1, READ_INFO), field(2, &good), field(2, &field(1, b"b"))].concat(),
        [field(1, READ_INFO), field(1, READ_INFO), field(2, &good)].concat(),
        [field(1, READ_INFO), field(2, &good), field(3, b"x")].concat(),
        [field(2, &good), field(1, READ_INFO)].concat(),
        field(1, READ_INFO),
        // A `ReadInfo` alone, which Core reads, too.
        good.clone(),
        [good.clone(), field(2, b"select 1")].concat(),
        vec![],
        b"a".to_vec(),
        b"\x0a".to_vec(),
        b"select 1".to_vec(),
        b"\xff\xff".to_vec(),
    ] {
        assert!(read_ticket(&ticket, &[("database", "a")]).is_err(), "{ticket:?}");
    }
}

#[test]
fn first_message_is_one_ticket() {
    let ticket = field(1, br#"{"database":"a"}"#);
    let body = frame(&ticket);
    assert_eq!(read(&body, &[]), Ok(Some("a".to_owned())));
    assert_eq!(read(&[&body[..], b"more"].concat(), &[]), Ok(Some("a".to_owned())));
    for length in 0..body.len() {
        assert_eq!(read(&body[..length], &[]), Ok(None), "{length}");
    }
    let mut compressed = body.clone();
    compressed[0] = 1;
    assert_eq!(read(&compressed, &[]), Err("the first message is compressed"));
    compressed[0] = 0x80;
    assert_eq!(read(&compressed[..5], &[]), Err("the first message is compressed"));
    let large = |length: usize| [&[0][..], &u32::try_from(length).unwrap().to_be_bytes()].concat();
    assert_eq!(read(&large(LIMIT - 5), &[]), Ok(None));
    assert_eq!(read(&large(LIMIT - 4), &[]), Err("the first message is too large"));
    assert_eq!(read(b"\0\xff\xff\xff\xff", &[]), Err("the first message is too large"));
    let json = br#"{"database":"a"}"#;
    for message in [
        vec![],
        json.to_vec(),
        field(2, json),
        [ticket.clone(), ticket.clone()].concat(),
        [ticket.clone(), field(2, b"x")].concat(),
        [ticket.clone(), vec![0x10, 1]].concat(),
        [ticket.clone(), vec![0x0b, 0x0c]].concat(),
        [&ticket[..], b"\x0a"].concat(),
        vec![0x08, 1],
    ] {
        assert_eq!(read(&frame(&message), &[]), Err("the first message is no ticket"), "{message:?}");
    }
}

#[test]
fn headers_of_flight_sql_name_one_database() {
    let name = |list: &[(&'static str, &str)]| of_header(&headers(list));
    let read_a = Ok(OwnedTarget::Database { name: "a".to_owned(), action: DatabaseAction::Read });
    for header in ["database", "bucket", "bucket-name", "iox-namespace-name"] {
        assert_eq!(name(&[(header, "a")]), read_a);
        assert_eq!(name(&[(header, "a"), ("database", "a")]), read_a);
        assert!(name(&[(header, "a"), ("database", "b")]).is_err());
        assert!(name(&[(header, "a"), (header, "b")]).is_err());
        assert!(name(&[(header, "")]).is_err());
        assert!(name(&[(header, "_internal")]).is_err());
        assert!(name(&[(header, "a,b")]).is_err());
    }
    assert!(name(&[]).is_err());
    assert!(name(&[("x-database", "a")]).is_err());
    let mut binary = HeaderMap::new();
    binary.insert("database", hyper::header::HeaderValue::from_bytes(b"\xff").unwrap());
    assert!(of_header(&binary).is_err());
}
