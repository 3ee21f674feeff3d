//! Bodies: media types, encodings, JSON and NDJSON.

use super::{Entry, JOB, create, lines, post};

pub(super) fn entries() -> Vec<Entry> {
    let mut entries = media();
    entries.extend(broken_json());
    entries.extend(nested_json());
    entries.extend(odd_json());
    entries.extend(ndjson());
    entries
}

fn of_type(path: &str, headers: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 12\r\n{headers}\r\n{JOB}")
}

fn media() -> Vec<Entry> {
    let mut entries = Vec::new();
    let unsupported = "415 unsupported_media_type";
    for bad in [
        "",
        "content-type:\r\n",
        "content-type: text/plain\r\n",
        "content-type: application/jsonp\r\n",
        "content-type: application/json, text/plain\r\n",
        "content-type: application/json charset=utf-8\r\n",
        "content-type: application/x-ndjson\r\n",
        "content-type: application/\u{e9}\r\n",
        "content-type: */*\r\n",
        "content-type: application/json; x=\u{e9}\r\n",
        "content-type: text/plain; application/json\r\n",
        "content-type: multipart/form-data; boundary=x\r\n",
        "content-type: text/plain\r\ncontent-type: application/json\r\n",
        "content-type: application/json\r\ncontent-type: text/plain\r\n",
        "content-type: application/json\r\ncontent-type: application/json\r\n",
    ] {
        entries.push(Entry::new(format!("media {bad:?}"), of_type("/v1/jobs", bad), unsupported));
    }
    for good in [
        "application/json;",
        "application/json ; charset=utf-8",
        "APPLICATION/JSON",
        "application/json; charset=utf-16",
        "\tapplication/json\t",
        "application/json;;=,",
    ] {
        let headers = format!("content-type: {good}\r\n");
        entries.push(Entry::new(format!("media {good:?}"), of_type("/v1/jobs", &headers), "201"));
    }
    for coding in ["gzip", "identity", "br, gzip", "", "x"] {
        let headers = format!("content-length: 12\r\ncontent-encoding: {coding}\r\n");
        let entry = Entry::new(
            format!("coding {coding:?}"),
            post(&headers, JOB),
            "415 unsupported_encoding",
        );
        entries.push(entry);
    }
    entries
}

fn broken_json() -> Vec<Entry> {
    let mut entries = Vec::new();
    let field = |value: &str| format!(r#"{{"kind":"k","payload":{value}}}"#);
    for value in [
        "+1",
        "01",
        ".5",
        "1.",
        "1e",
        "0x1",
        "NaN",
        "Infinity",
        "-",
        "- 1",
        "'a'",
        "undefined",
        "tru",
        "[1,]",
        "[,]",
        "{1:2}",
        "{\"a\"}",
        "{\"a\":1,}",
        "\"\\x\"",
        "\"\\u12\"",
        "\"a\nb\"",
        "\"\t\"",
        "\"\0\"",
        "\"",
        "/**/1",
        "",
        "1 2",
    ] {
        entries.push(Entry::new(
            format!("payload {value:?}"),
            create(field(value)),
            "400 invalid_json",
        ));
    }
    for text in [
        "{",
        "\u{feff}{\"kind\":\"k\"}",
        "{\"kind\":\"k\"}\0",
        "\0{\"kind\":\"k\"}",
        "{\"kind\":\"k\"} x",
        "{\"kind\":\"k\"}{\"kind\":\"k\"}",
        "{\"kind\":\"\\ud800\"}",
        "{\"kind\":\"k\",}",
        "{'kind':'k'}",
        "{kind:\"k\"}",
        "\u{2028}{\"kind\":\"k\"}",
        "{\"kind\":\"k\"\u{a0}}",
        "{\"kind\":\"k\"}]",
    ] {
        entries.push(Entry::new(format!("JSON {text:?}"), create(text), "400 invalid_json"));
    }
    for bytes in [
        &b"{\"kind\":\"k\",\"payload\":\"\xc0\xaf\"}"[..],
        b"{\"kind\":\"k\",\"payload\":\"\xed\xa0\x80\"}",
        b"{\"kind\":\"k\",\"payload\":\"\xff\"}",
        b"\xff\xfe{\0\"\0",
        b"{\xff:1}",
    ] {
        entries.push(Entry::new(format!("JSON {bytes:x?}"), create(bytes), "400 invalid_json"));
    }
    entries
}

fn nested_json() -> Vec<Entry> {
    let field = |value: &str| format!(r#"{{"kind":"k","payload":{value}}}"#);
    let nested = |open: &str, close: &str, count: usize| {
        field(&format!("{}1{}", open.repeat(count), close.repeat(count)))
    };
    vec![
        Entry::new("33 arrays", create(nested("[", "]", 33)), "400 json_too_deep"),
        Entry::new("33 objects", create(nested("{\"a\":", "}", 33)), "400 json_too_deep"),
        Entry::new("1,000 arrays", create(nested("[", "]", 1_000)), "400 json_too_deep"),
        Entry::new("100,000 open arrays", create(field(&"[".repeat(100_000))), "400 invalid_json"),
        Entry::new("32 arrays", create(nested("[", "]", 32)), "201"),
        Entry::new("32 objects", create(nested("{\"a\":", "}", 32)), "201"),
    ]
}

fn odd_json() -> Vec<Entry> {
    let mut entries = Vec::new();
    let field = |value: &str| format!(r#"{{"kind":"k","payload":{value}}}"#);
    let digits = "9".repeat(400);
    for value in [
        "1e400",
        "-1e-400",
        "-0",
        "-0.0",
        &digits,
        "\"\\ud800\"",
        "\"\\u0000\"",
        "{\"a\":1,\"a\":2}",
        "\"\u{2028}\"",
        "{\"\":{}}",
        "[]",
        " [ ] ",
        "\"\u{fffe}\"",
        "null",
    ] {
        entries.push(Entry::new(format!("payload {value:.20?}"), create(field(value)), "201"));
    }
    for text in [" \t\r\n{\"kind\":\"k\"}\r\n", "{\"kind\":\"\\u006b\"}", "{\"k\\u0069nd\":\"k\"}"]
    {
        entries.push(Entry::new(format!("JSON {text:?}"), create(text), "201"));
    }
    for (text, answer) in [
        ("[]", "400 invalid_field"),
        ("null", "400 invalid_field"),
        ("\"k\"", "400 invalid_field"),
        ("1e400", "400 invalid_field"),
        ("{}", "400 missing_field"),
        ("", "400 missing_field"),
        (" ", "400 invalid_json"),
        (r#"{"kind":null}"#, "400 invalid_field"),
        (r#"{"kind":["k"]}"#, "400 invalid_field"),
        (r#"{"kind":"k","kind":"k"}"#, "400 invalid_field"),
        (r#"{"kind":"k","k\u0069nd":"k"}"#, "400 invalid_field"),
        (r#"{"kind":"k","payload":1,"payload":2}"#, "400 invalid_field"),
        (r#"{"kind":"k","":1}"#, "400 unknown_field"),
        (r#"{"kind":"k","__proto__":{}}"#, "400 unknown_field"),
        (r#"{"kind":"k\u0000"}"#, "400 invalid_name"),
        (r#"{"kind":"k\n"}"#, "400 invalid_name"),
        (r#"{"kind":"k","queue":"../default"}"#, "400 invalid_name"),
        (r#"{"kind":"k","priority":-0}"#, "400 invalid_field"),
        (r#"{"kind":"k","priority":1e400}"#, "400 invalid_field"),
        (r#"{"kind":"k","priority":5.0}"#, "400 invalid_field"),
        (r#"{"kind":"k","priority":99999999999999999999}"#, "400 invalid_field"),
        (r#"{"kind":"k","max_attempts":18446744073709551616}"#, "400 invalid_field"),
        (r#"{"kind":"k","delay":"999999999d"}"#, "400 invalid_field"),
        (r#"{"kind":"k","run_at":"-9999-01-01T00:00:00Z"}"#, "400 invalid_field"),
    ] {
        entries.push(Entry::new(format!("JSON {text}"), create(text), answer));
    }
    entries
}

fn ndjson() -> Vec<Entry> {
    let mut entries = Vec::new();
    for good in [
        "",
        "\n\n",
        " \t\r\n",
        JOB,
        "{\"kind\":\"k\"}\r\n\r\n{\"kind\":\"k\"}",
        "\u{c}{\"kind\":\"k\"}\n",
    ] {
        entries.push(Entry::new(format!("NDJSON {good:?}"), lines(good), "201"));
    }
    for (bad, answer) in [
        ("{\"kind\":\"k\"}\r{\"kind\":\"k\"}", "400 invalid_json"),
        ("{\"kind\":\"k\"} {\"kind\":\"k\"}", "400 invalid_json"),
        ("{\"kind\":\"k\"},\n{\"kind\":\"k\"}", "400 invalid_json"),
        ("{\"kind\":\n\"k\"}", "400 invalid_json"),
        ("\0\n", "400 invalid_json"),
        ("\u{1e}{\"kind\":\"k\"}\n", "400 invalid_json"),
        ("\u{feff}{\"kind\":\"k\"}", "400 invalid_json"),
        ("{\"kind\":\"k\"}\u{2028}{\"kind\":\"k\"}", "400 invalid_json"),
        ("{\"kind\":\"k\"}\u{85}{\"kind\":\"k\"}", "400 invalid_json"),
        ("[{\"kind\":\"k\"}]", "400 invalid_field"),
        ("null\n", "400 invalid_field"),
        ("{\"kind\":\"k\"}\n{}", "400 missing_field"),
    ] {
        entries.push(Entry::new(format!("NDJSON {bad:?}"), lines(bad), answer));
    }
    entries
}
