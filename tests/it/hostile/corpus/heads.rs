//! Request lines and headers.

use super::{Entry, JOB, TOO_LARGE, UNREADABLE, get, post};

pub(super) fn entries() -> Vec<Entry> {
    let mut entries = lines();
    entries.extend(versions());
    entries.extend(targets());
    entries.extend(methods());
    entries.extend(headers());
    entries.extend(sizes());
    entries.extend(connections());
    entries.extend(expectations());
    entries
}

fn line(line: &str) -> Vec<u8> {
    format!("{line}\r\nhost: localhost\r\n\r\n").into_bytes()
}

/// A request with this between the host and the end of its head.
fn with(headers: impl AsRef<[u8]>) -> Vec<u8> {
    let head = b"GET /-/healthy HTTP/1.1\r\nhost: localhost\r\n";
    [head, headers.as_ref(), b"\r\n\r\n"].concat()
}

fn lines() -> Vec<Entry> {
    let mut entries = Vec::new();
    for bad in [
        " GET /-/healthy HTTP/1.1",
        "GET  /-/healthy HTTP/1.1",
        "GET\t/-/healthy HTTP/1.1",
        "GET /-/healthy  HTTP/1.1",
        "GET /-/healthy HTTP/1.1 ",
        "GET /-/healthy HTTP/1.1 x",
        "GET /-/healthy\rHTTP/1.1",
        "GET /-/healthy HTTP/1.1\r",
        "GET /-/heal\0thy HTTP/1.1",
        "GET /-/healthy",
        "GET",
        "GET ",
        "/-/healthy",
        "\u{feff}GET /-/healthy HTTP/1.1",
        "GET /-/heal thy HTTP/1.1",
        "SSH-2.0-OpenSSH_9.2",
        "EHLO localhost",
        "*1\r\n$4\r\nPING",
    ] {
        entries.push(Entry::new(format!("line {bad:?}"), line(bad), UNREADABLE).closes());
    }
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let get = text(get("/-/healthy"));
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03abcdefgh\r\n\r\n";
    entries.extend([
        Entry::new("TLS", &hello[..], UNREADABLE).closes(),
        Entry::new("empty lines first", format!("\r\n\r\n\n{get}"), "200"),
        Entry::new("LF for CRLF", get.replace("\r\n", "\n"), "200"),
        Entry::new("LF and CRLF", get.replacen("\r\n", "\n", 1), "200"),
        Entry::new("CR for CRLF", get.replace("\r\n", "\r"), UNREADABLE).closes(),
        Entry::new("LF CR for CRLF", get.replace("\r\n", "\n\r"), UNREADABLE).closes(),
        Entry::new("a good one, then a bad one", format!("{get}{}", "GET\r\n\r\n"), UNREADABLE)
            .first("200")
            .closes(),
        Entry::new("nothing but line ends", "\r\n\r\n\r\n", "").unanswered().ends(),
        Entry::new("nothing", "", "").unanswered().ends(),
    ]);
    entries
}

fn versions() -> Vec<Entry> {
    let of = |version: &str| line(&format!("GET /-/healthy {version}"));
    let mut entries = Vec::new();
    for bad in [
        "HTTP/2.0",
        "HTTP/2",
        "HTTP/1.2",
        "HTTP/1.10",
        "HTTP/0.9",
        "HTTP/1",
        "http/1.1",
        "HTTP/1,1",
        "HTTP/1.1.1",
        "HTTP/11",
        "FTP/1.1",
        "HTTP/1.x",
        "HTTP/-1.1",
        "HTTPS/1.1",
        "HTTP /1.1",
    ] {
        entries.push(Entry::new(format!("version {bad}"), of(bad), UNREADABLE).closes());
    }
    let old = "GET /-/healthy HTTP/1.0\r\nhost: localhost\r\nconnection: keep-alive";
    entries.extend([
        Entry::new("version 1.0", of("HTTP/1.0"), "200").closes(),
        Entry::new("version 1.0, kept alive", line(old), "200"),
        Entry::new("the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "")
            .unanswered()
            .closes(),
    ]);
    entries
}

fn targets() -> Vec<Entry> {
    let no_route = "404 route_not_found";
    let mut entries = Vec::new();
    for (target, answer) in [
        ("http://localhost/-/healthy", "200"),
        ("http://evil.example/-/healthy", "200"),
        ("http://evil.example/v1/stats", "421 misdirected"),
        ("http://user@localhost/v1/stats", "421 misdirected"),
        ("http://localhost:80/v1/stats", "200"),
        ("gopher://localhost/v1/stats", "200"),
        ("//-/healthy", no_route),
        ("/-//healthy", no_route),
        ("/-/healthy/", no_route),
        ("/-/./healthy", no_route),
        ("/x/../-/healthy", no_route),
        ("/%2d/healthy", no_route),
        ("/-%2fhealthy", no_route),
        ("/-/HEALTHY", no_route),
        ("/-/healthy;x=y", no_route),
        ("/-/healthy?", "200"),
        ("/-/healthy?x=%zz", "200"),
        ("/v1/stats?", "200"),
        ("/v1/stats?x", "400 invalid_query"),
        ("/v1/jobs?limit=%ff", "400 invalid_query"),
        ("/v1/jobs?limit=1&limit=2", "400 invalid_query"),
        ("/v1/jobs?limit=99999999999999999999", "400 invalid_query"),
        ("/v1/jobs?=&&=;", "400 invalid_query"),
        ("/v1/jobs/%zz", "404 job_not_found"),
        ("/v1/jobs/%00", "404 job_not_found"),
        ("/v1/jobs/%ff%fe", "404 job_not_found"),
        ("/v1/queues/%", "400 invalid_name"),
        ("/v1/queues/%c0%af", "400 invalid_name"),
        ("/v1/queues/..%2fdefault", "400 invalid_name"),
        ("/v1/queues/%0d%0ax:%20y", "400 invalid_name"),
        ("/v1/queues/..", "400 invalid_name"),
        ("/v1/queues/{queue}", "400 invalid_name"),
        ("/v1/queues/%64efault", "200"),
        ("/metrics?name[]=%ff", "200"),
        ("/é", no_route),
        ("/\\..\\", no_route),
        ("/|", no_route),
        ("*", no_route),
        ("localhost:80", no_route),
    ] {
        entries.push(Entry::new(format!("target {target}"), get(target), answer));
    }
    for target in ["-/healthy", "?x", "#x", "http://", "http://[::1/", "/\u{7f}", "/\u{1}"] {
        entries.push(Entry::new(format!("target {target:?}"), get(target), UNREADABLE).closes());
    }
    entries.push(
        Entry::new(
            "a target of no UTF-8",
            &b"GET /\xff HTTP/1.1\r\nhost: localhost\r\n\r\n"[..],
            UNREADABLE,
        )
        .closes(),
    );
    entries
}

fn methods() -> Vec<Entry> {
    let of = |method: &str, target: &str| line(&format!("{method} {target} HTTP/1.1"));
    let mut entries = Vec::new();
    let long = "M".repeat(1_000);
    for method in [
        "get",
        "Get",
        "BREW",
        "M-SEARCH",
        "TRACE",
        "OPTIONS",
        "PUT",
        "PRI",
        "!#$%&'*+-.^_`|~",
        &long,
    ] {
        let name = format!("method {method:.20}");
        entries.push(Entry::new(name, of(method, "/-/healthy"), "405 method_not_allowed"));
    }
    for method in ["G@T", "GE(T", "GÉT", "\"GET\"", "GET/", "G\0T", "{}"] {
        entries.push(
            Entry::new(format!("method {method:?}"), of(method, "/-/healthy"), UNREADABLE).closes(),
        );
    }
    entries.extend([
        Entry::new("CONNECT", of("CONNECT", "localhost:80"), "404 route_not_found"),
        Entry::new("CONNECT elsewhere", of("CONNECT", "evil.example:80"), "421 misdirected"),
        Entry::new("CONNECT of a path", of("CONNECT", "/-/healthy"), "405 method_not_allowed"),
        Entry::new("OPTIONS of all", of("OPTIONS", "*"), "404 route_not_found"),
        Entry::new("DELETE of what is read", of("DELETE", "/v1/stats"), "405 method_not_allowed"),
    ]);
    entries
}

fn headers() -> Vec<Entry> {
    let mut entries = Vec::new();
    for bad in [
        "x : y",
        "x\t: y",
        ": y",
        "x",
        "x y: z",
        "x(: y",
        "x\0: y",
        "x: \0",
        "x: a\rb",
        "x: a\x0bb",
        "x: \u{7f}",
        "x: \u{1b}[31m",
        "é: y",
        " x: y",
        "\tx: y",
        "x: y\r\n z",
        "x: y\r\n\tz",
        "x: y\r\n ",
        "x: y\r\n\r",
        "\"x\": y",
        "x=y",
        "@x: y",
        "x: y\r\r\n",
    ] {
        entries.push(Entry::new(format!("header {bad:?}"), with(bad), UNREADABLE).closes());
    }
    for good in [
        "x:",
        "x:y",
        "x: \t y \t",
        "x: a\tb",
        "!#$%&'*+-.^_`|~0: y",
        "X: Y\r\nx: y",
        "x: :::",
        "x: é",
    ] {
        entries.push(Entry::new(format!("header {good:?}"), with(good), "200"));
    }
    entries.push(Entry::new("a value of no UTF-8", with(b"x: \xff\xfe\x80"), "200"));
    entries
}

fn sizes() -> Vec<Entry> {
    let of = |count: usize| vec!["x: y"; count].join("\r\n");
    vec![
        Entry::new("a hundred headers", with(of(99)), "200"),
        Entry::new("one header more", with(of(100)), TOO_LARGE).closes(),
        Entry::new("a thousand headers", with(of(1_000)), TOO_LARGE).closes(),
        Entry::new("a long value", with(format!("x: {}", "y".repeat(15 << 10))), "200"),
        Entry::new("a longer value", with(format!("x: {}", "y".repeat(17 << 10))), TOO_LARGE)
            .closes(),
        Entry::new("a long name", with(format!("{}: y", "x".repeat(15 << 10))), "200"),
        Entry::new("a longer name", with(format!("{}: y", "x".repeat(17 << 10))), TOO_LARGE)
            .closes(),
        Entry::new("a value without end", with(format!("x: {}", "y".repeat(200 << 10))), TOO_LARGE)
            .closes(),
        Entry::new(
            "a long target",
            get(&format!("/{}", "x".repeat(15 << 10))),
            "404 route_not_found",
        ),
        Entry::new("a longer target", get(&format!("/{}", "x".repeat(17 << 10))), TOO_LARGE)
            .closes(),
        Entry::new("a target without end", get(&format!("/{}", "x".repeat(200 << 10))), TOO_LARGE)
            .closes(),
        Entry::new(
            "a longer method",
            line(&format!("{} / HTTP/1.1", "M".repeat(17 << 10))),
            TOO_LARGE,
        )
        .closes(),
    ]
}

fn connections() -> Vec<Entry> {
    let mut entries = Vec::new();
    for closing in [
        "close",
        "Close",
        "keep-alive, close",
        "close, keep-alive",
        "close,",
        "x,close ,y",
        "keep-alive\r\nconnection: close",
        "close\r\nconnection: keep-alive",
    ] {
        let bytes = with(format!("connection: {closing}"));
        entries.push(Entry::new(format!("connection {closing:?}"), bytes, "200").closes());
    }
    for going in [
        "keep-alive",
        "",
        ",",
        "x-close",
        "closed",
        "host",
        "content-length",
        "upgrade",
        "TE, trailers",
        "upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==",
        "upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAoAAAAAIAAAAA",
        "upgrade\r\nupgrade: TLS/1.2, HTTP/1.1",
    ] {
        let bytes = with(format!("connection: {going}"));
        entries.push(Entry::new(format!("connection {going:?}"), bytes, "200"));
    }
    let hop = "connection: content-length, host\r\ncontent-length: 12\r\n";
    entries.push(Entry::new("hop-by-hop length and host", post(hop, JOB), "201"));
    entries
}

fn expectations() -> Vec<Entry> {
    let length = "content-length: 12\r\n";
    let expect = "expect: 100-continue\r\n";
    let of = |headers: &str, body: &str| post(&format!("{length}{headers}"), body);
    let old = String::from_utf8(of(expect, JOB)).unwrap().replace("/1.1", "/1.0");
    let elsewhere = String::from_utf8(of(expect, "")).unwrap().replace("localhost", "evil.example");
    let large = format!("content-length: 9999999\r\n{expect}");
    vec![
        Entry::new("expects", of(expect, JOB), "201").first("100"),
        Entry::new("Expects", of("Expect: 100-Continue\r\n", JOB), "201").first("100"),
        Entry::new("expects twice", of(&expect.repeat(2), JOB), "201").first("100"),
        Entry::new("expects something else", of("expect: 200-ok\r\n", JOB), "201"),
        Entry::new("expects in HTTP/1.0", old, "201").closes(),
        Entry::new("expects without a body", post(expect, ""), "400 missing_field"),
        Entry::new("expects, and is too large", post(&large, ""), "413 job_too_large").closes(),
        Entry::new("expects, and is refused at once", elsewhere, "421 misdirected").closes(),
        Entry::new("expects, and sends no more", of(expect, "{"), "400 invalid_body")
            .first("100")
            .ends(),
        Entry::new(
            "expects in chunks",
            post(&format!("transfer-encoding: chunked\r\n{expect}"), super::CHUNKED),
            "201",
        )
        .first("100")
        .closes(),
    ]
}

/// Hosts, of a route that looks at them.
pub(super) fn hosts() -> Vec<Entry> {
    let of = |headers: &str| format!("GET /v1/stats HTTP/1.1\r\n{headers}\r\n");
    let mut entries = Vec::new();
    for bad in [
        "",
        "evil.example",
        "localhost.evil.example",
        "user@localhost",
        "localhost@evil.example",
        "localhost:port",
        "localhost:80:80",
        "localhost:-1",
        "localhost, evil.example",
        "localhost evil.example",
        "http://localhost",
        "localhost/",
        "localhost#",
        "[::1",
        "::1",
        "[::1]x",
        "[::1]:x",
        "[localhost]",
        "127.1",
        "2130706433",
        "0x7f.0.0.1",
        "127.0.0.1.evil.example",
        "localhost%00",
        "lоcalhost",
        "é",
    ] {
        let bytes = of(&format!("host: {bad}\r\n"));
        entries.push(Entry::new(format!("host {bad:?}"), bytes, "421 misdirected"));
    }
    for good in [
        "localhost",
        "LOCALHOST",
        "localhost.",
        "localhost:",
        "localhost:99999999",
        "[::1]",
        "127.0.0.1:1",
    ] {
        let bytes = of(&format!("host: {good}\r\n"));
        entries.push(Entry::new(format!("host {good:?}"), bytes, "200"));
    }
    let missing = "400 missing_host";
    let old = of("").replace("/1.1", "/1.0");
    entries.extend([
        Entry::new("no host", of(""), missing),
        Entry::new("no host in HTTP/1.0", old, missing).closes(),
        Entry::new("two hosts", of("host: localhost\r\nHost: localhost\r\n"), missing),
        Entry::new("two hosts, one bad", of("host: localhost\r\nhost: evil.example\r\n"), missing),
        Entry::new("host with a space", of("host : localhost\r\n"), UNREADABLE).closes(),
        Entry::new("host folded", of("host:\r\n localhost\r\n"), UNREADABLE).closes(),
        Entry::new("another origin", of("host: localhost\r\norigin: null\r\n"), "200"),
    ]);
    entries
}
