//! How long a request is: lengths, chunks, and both.

use super::{CHUNKED, Entry, JOB, TOO_LARGE, UNREADABLE, create, get, post};

/// Lengths, and transfer encodings.
pub(super) fn entries() -> Vec<Entry> {
    let mut entries = both();
    entries.extend(lengths());
    entries.extend(encodings());
    entries.extend(unread());
    entries
}

/// A length and chunks: read as chunks, and nothing behind is served.
fn both() -> Vec<Entry> {
    let te = "transfer-encoding: chunked\r\n";
    let headers = [
        format!("content-length: 12\r\n{te}"),
        format!("{te}content-length: 12\r\n"),
        format!("content-length: 4\r\n{te}"),
        format!("{te}content-length: 4\r\n"),
        format!("content-length: 0\r\n{te}"),
        format!("content-length: 999\r\n{te}"),
        format!("{te}content-length: 99999999999999999999\r\n"),
        format!("{te}content-length: x\r\n"),
        format!("content-length: 5\r\n{te}content-length: 7\r\n"),
        format!("{te}content-length: 12\r\n{te}"),
        "Content-Length: 12\r\nTransfer-Encoding: Chunked\r\n".to_owned(),
        "CONTENT-LENGTH: 12\r\nTRANSFER-ENCODING: CHUNKED\r\n".to_owned(),
        "content-length:12\r\ntransfer-encoding:chunked\r\n".to_owned(),
        "content-length: 12\r\ntransfer-encoding: \t chunked \t\r\n".to_owned(),
        "content-length: 12\r\ntransfer-encoding: identity, chunked\r\n".to_owned(),
    ];
    let mut entries: Vec<_> = headers
        .into_iter()
        .map(|headers| {
            Entry::new(format!("both {headers:?}"), post(&headers, CHUNKED), "201").closes()
        })
        .collect();
    for broken in [
        "content-length: x\r\ntransfer-encoding: chunked\r\n",
        "content-length: 12\r\ncontent-length: 13\r\ntransfer-encoding: chunked\r\n",
        "content-length: 12\r\ntransfer-encoding : chunked\r\n",
        "content-length: 12\r\ntransfer-encoding\t: chunked\r\n",
        "content-length: 12\r\n transfer-encoding: chunked\r\n",
        "content-length: 12\r\ntransfer-encoding:\r\n chunked\r\n",
        "content-length: 12\r\ntransfer-encoding:\n chunked\r\n",
        "content-length: 12\r\nx: y\rtransfer-encoding: chunked\r\n",
        "content-length: 12\r\ntransfer-encoding: \x0bchunked\r\n",
        "content-length: 12\r\ntransfer-encoding: chunked\0\r\n",
        "content-length: 12\r\ntransfer-encoding: xchunked\r\n",
        "content-length: 12\r\ntransfer-encoding: identity\r\n",
    ] {
        entries.push(
            Entry::new(format!("both {broken:?}"), post(broken, CHUNKED), UNREADABLE).closes(),
        );
    }
    for other in ["transfer_encoding", "x-transfer-encoding", "transfer-encodings"] {
        let headers = format!("content-length: 12\r\n{other}: chunked\r\n");
        entries.push(Entry::new(format!("not quite {other}"), post(&headers, JOB), "201"));
    }
    entries
}

fn lengths() -> Vec<Entry> {
    let mut entries = Vec::new();
    for value in [
        "+12",
        "-12",
        "0xc",
        "1_2",
        "12 12",
        "12,12",
        "12, 12",
        "12;",
        "12.0",
        "",
        "\"12\"",
        "１２",
        "12\u{a0}",
        "1e1",
        "99999999999999999999",
        "-0",
        "\x0b12",
    ] {
        let headers = format!("content-length: {value}\r\n");
        entries.push(
            Entry::new(format!("length {value:?}"), post(&headers, JOB), UNREADABLE).closes(),
        );
    }
    for value in ["12", "012", "0000000000000000000000000012", " 12", "\t12 \t"] {
        let headers = format!("content-length:{value}\r\n");
        entries.push(Entry::new(format!("length {value:?}"), post(&headers, JOB), "201"));
    }
    let huge = "content-length: 18446744073709551613\r\n";
    let most = "content-length: 18446744073709551615\r\n";
    let twice = "content-length: 12\r\ncontent-length: 12\r\n";
    let differ = "content-length: 12\r\ncontent-length: 0\r\n";
    let in_1_0 = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replace("/1.1", "/1.0");
    let length = "content-length: 12\r\n";
    entries.extend([
        Entry::new("a huge length", post(huge, JOB), "413 job_too_large").closes(),
        Entry::new("the hugest length", post(most, JOB), TOO_LARGE).closes(),
        Entry::new("the same length twice", post(twice, JOB), "201"),
        Entry::new("two lengths", post(differ, JOB), UNREADABLE).closes(),
        Entry::new(
            "two lengths, the long last",
            post("content-length: 0\r\ncontent-length: 12\r\n", JOB),
            UNREADABLE,
        )
        .closes(),
        Entry::new("a length in HTTP/1.0", in_1_0(post(length, JOB)), "201").closes(),
        Entry::new("no length", post("", JOB), UNREADABLE).first("400 missing_field").closes(),
        Entry::new("a length of 0", post("content-length: 0\r\n", JOB), UNREADABLE)
            .first("400 missing_field")
            .closes(),
        Entry::new("a longer body", post(length, format!("{JOB}\u{1}")), UNREADABLE)
            .first("201")
            .closes(),
        Entry::new("a longer body of line ends", post(length, format!("{JOB}\r\n\r\n")), "201"),
        Entry::new("a shorter body", post("content-length: 13\r\n", JOB), "400 invalid_body")
            .ends(),
        Entry::new("no body", post(length, ""), "400 invalid_body").ends(),
        Entry::new("half a head", &b"POST /v1/jobs HTTP/1.1\r\nhost: loc"[..], "")
            .unanswered()
            .ends(),
    ]);
    entries
}

fn encodings() -> Vec<Entry> {
    let of = |value: &str| post(&format!("transfer-encoding: {value}\r\n"), CHUNKED);
    let mut entries = Vec::new();
    for value in [
        "",
        "identity",
        "gzip",
        "chunked, identity",
        "chunked, gzip",
        "chunked;q=1",
        "\"chunked\"",
        "chunked,",
        "chunke",
        "chunkedd",
        "chunked chunked",
        "chunked\r\ntransfer-encoding: identity",
        "ｃhunked",
        "cow",
    ] {
        entries.push(Entry::new(format!("encoding {value:?}"), of(value), UNREADABLE).closes());
    }
    for value in [
        "chunked",
        "Chunked",
        "identity\r\ntransfer-encoding: chunked",
        ",chunked",
        "chunked\r\ntransfer-encoding: chunked",
    ] {
        entries.push(Entry::new(format!("encoding {value:?}"), of(value), "201").closes());
    }
    let in_1_0 = String::from_utf8(of("chunked")).unwrap().replace("/1.1", "/1.0");
    entries.push(Entry::new("chunks in HTTP/1.0", in_1_0, UNREADABLE).closes());
    entries
}

/// Bodies that nobody wants: of a refused request they are read away.
fn unread() -> Vec<Entry> {
    let smuggled = String::from_utf8(create(JOB)).unwrap();
    let with_body = |method: &str, headers: &str, body: &str| {
        format!("{method} /-/healthy HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n{body}")
    };
    let length = format!("content-length: {}\r\n", smuggled.len());
    let chunk = format!("{:x}\r\n{smuggled}\r\n0\r\n\r\n", smuggled.len());
    let te = "transfer-encoding: chunked\r\n";
    vec![
        Entry::new("GET with a request as its body", with_body("GET", &length, &smuggled), "200")
            .closes(),
        Entry::new("GET with a request as its chunk", with_body("GET", te, &chunk), "200").closes(),
        Entry::new("HEAD with a request as its body", with_body("HEAD", &length, &smuggled), "200")
            .closes(),
        Entry::new(
            "GET with a body in HTTP/1.0, kept alive",
            with_body("GET", &format!("connection: keep-alive\r\n{length}"), &smuggled)
                .replacen("/1.1", "/1.0", 1),
            "200",
        )
        .closes(),
        Entry::new("HEAD without", with_body("HEAD", "", ""), "200"),
        Entry::new(
            "DELETE with a request as its body",
            with_body("DELETE", &length, &smuggled),
            "405 method_not_allowed",
        ),
        Entry::new(
            "GET that does not send its body",
            with_body("GET", "content-length: 99999\r\n", ""),
            "200",
        )
        .closes(),
        Entry::new(
            "a body for no route",
            format!("POST /none HTTP/1.1\r\nhost: localhost\r\n{length}\r\n{smuggled}"),
            "404 route_not_found",
        ),
        Entry::new(
            "chunks for no route",
            format!("POST /none HTTP/1.1\r\nhost: localhost\r\n{te}\r\n{chunk}"),
            "404 route_not_found",
        )
        .closes(),
        Entry::new(
            "a body for no route that breaks off",
            "POST /none HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n{",
            "404 route_not_found",
        )
        .ends(),
        Entry::new(
            "a huge body for no route",
            "POST /none HTTP/1.1\r\nhost: localhost\r\ncontent-length: 16777217\r\n\r\n{",
            "404 route_not_found",
        )
        .closes(),
        Entry::new(
            "a body for another host",
            format!("POST /v1/jobs HTTP/1.1\r\nhost: evil.example\r\n{length}\r\n{smuggled}"),
            "421 misdirected",
        ),
        Entry::new(
            "GET, GET, GET",
            [get("/-/healthy"), get("/none"), get("/-/ready")].concat(),
            "200",
        )
        .first("404 route_not_found")
        .first("200"),
    ]
}

/// Chunks.
pub(super) fn chunks() -> Vec<Entry> {
    let of = |body: &str| post("transfer-encoding: chunked\r\n", body);
    let with_size = |size: &str| of(&format!("{size}\r\n{JOB}\r\n0\r\n\r\n"));
    let mut entries = Vec::new();
    for size in [
        "",
        "g",
        "0xc",
        "+c",
        "-c",
        " c",
        "c g",
        "c\n",
        "c,",
        "fffffffffffffffff",
        "\u{1}c",
        "c\0",
        "b",
        "d",
        "c;a\nb",
        "1\r\n{\r\n-1",
    ] {
        let entry = Entry::new(format!("chunk size {size:?}"), with_size(size), "400 invalid_body");
        entries.push(entry.closes());
    }
    for size in [
        "C",
        "0c",
        "00000000000000000000000c",
        "c ",
        "c\t",
        "c;",
        "c;a=b",
        "c ; a=\"b\"",
        "c;a;b;c",
        "c;\u{1}",
    ] {
        entries.push(Entry::new(format!("chunk size {size:?}"), with_size(size), "201").closes());
    }
    let long = format!("c;{}", "x".repeat(17 << 10));
    let pieces: String = JOB.chars().map(|letter| format!("1\r\n{letter}\r\n")).collect();
    let trailers = |lines: &str| of(&format!("c\r\n{JOB}\r\n0\r\n{lines}\r\n"));
    let many = "x: y\r\n".repeat(101);
    let broken = "400 invalid_body";
    entries.extend([
        Entry::new("a long chunk extension", with_size(&long), broken).closes(),
        Entry::new("a chunk a letter", of(&format!("{pieces}0\r\n\r\n")), "201").closes(),
        Entry::new("a chunk without its end", of(&format!("c\r\n{JOB}0\r\n\r\n")), broken).closes(),
        Entry::new("a chunk that ends in LF", of(&format!("c\r\n{JOB}\n0\r\n\r\n")), broken)
            .closes(),
        Entry::new("chunks that end in LF", of(&format!("c\n{JOB}\n0\n\n")), broken).closes(),
        Entry::new("no last chunk", of(&format!("c\r\n{JOB}\r\n")), broken).ends(),
        Entry::new("half a last chunk", of(&format!("c\r\n{JOB}\r\n0\r\n")), broken).ends(),
        Entry::new("a chunk that never ends", with_size("ffffffffffffffff"), broken).ends(),
        Entry::new("only the last chunk", of("0\r\n\r\n"), "400 missing_field").closes(),
        Entry::new("a trailer", trailers("x: y\r\n"), "201").closes(),
        Entry::new("a length as trailer", trailers("content-length: 3\r\n"), "201").closes(),
        Entry::new("chunks as trailer", trailers("transfer-encoding: chunked\r\n"), "201").closes(),
        Entry::new("a trailer without colon", trailers("x y\r\n"), broken).closes(),
        Entry::new("too many trailers", trailers(&many), broken).closes(),
        Entry::new("a long trailer", trailers(&format!("x: {}\r\n", "y".repeat(17 << 10))), broken)
            .closes(),
        Entry::new("a last chunk that ends in LF", of(&format!("c\r\n{JOB}\r\n0\r\n\n")), broken)
            .ends(),
    ]);
    entries
}
