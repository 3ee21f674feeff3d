//! Answers as they come over a connection, read strictly: whatever a proxy in front could take for
//! something else is a complaint.

use serde_json::Value;

use crate::refusals::CASES;

/// One answer that has come in whole.
#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    pub body: Vec<u8>,
    headers: Vec<(String, String)>,
    /// Whether it says that the connection closes behind it.
    pub closes: bool,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }

    /// Whether more follows to the same request.
    pub fn is_interim(&self) -> bool {
        self.code < 200
    }

    /// The body as JSON; null if it is not.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// Its code, and the case if the body names one.
    pub fn shown(&self) -> String {
        match self.json()["error"]["code"].as_str() {
            Some(case) => format!("{} {case}", self.code),
            None => self.code.to_string(),
        }
    }

    /// How many jobs it says were created.
    pub fn created(&self) -> u64 {
        let length = |value: &Value| value.as_array().map(|items| items.len() as u64);
        let json = self.json();
        match (self.code, length(&json["ids"])) {
            (201, Some(ids)) => ids - length(&json["duplicates"]).expect("it says which"),
            (201, None) => 1,
            _ => 0,
        }
    }
}

/// All answers of a connection; those whose number `is_head` names have no body.
pub fn read(bytes: &[u8], is_head: impl Fn(usize) -> bool) -> Result<Vec<Answer>, String> {
    let mut answers = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let number = answers.iter().filter(|answer: &&Answer| !answer.is_interim()).count();
        let (answer, behind) = read_one(rest, is_head(number)).map_err(|complaint| {
            format!("{complaint}, in answer {number}: {:?}", String::from_utf8_lossy(rest))
        })?;
        answers.push(answer);
        rest = behind;
    }
    if let Some(early) = answers.iter().rev().skip(1).find(|answer| answer.closes) {
        return Err(format!("something follows the answer that closes: {early:?}"));
    }
    answers.iter().try_for_each(check)?;
    Ok(answers)
}

/// The first answer, and what is behind it.
fn read_one(bytes: &[u8], is_head: bool) -> Result<(Answer, &[u8]), String> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").ok_or("no whole head")?;
    let head = std::str::from_utf8(&bytes[..end]).map_err(|_| "a head that is no text")?;
    let mut lines = head.split("\r\n");
    let (is_1_1, code) = status_line(lines.next().unwrap_or_default())?;
    let mut headers = Vec::new();
    for line in lines {
        let header = header(line)?;
        if headers.iter().any(|(name, _)| *name == header.0) {
            return Err(format!("{} twice", header.0));
        }
        headers.push(header);
    }
    let mut answer = Answer { code, headers, body: Vec::new(), closes: false };
    answer.closes = match answer.header("connection") {
        // hyper adds the second to an answer in HTTP/1.0 that is not to be kept; the first wins.
        Some("close" | "close, keep-alive") => true,
        Some("keep-alive") if !is_1_1 => false,
        None => !is_1_1,
        Some(other) => return Err(format!("connection: {other}")),
    };
    let behind = &bytes[end + 4..];
    let length = length(&answer)?;
    if is_head {
        return Ok((answer, behind));
    }
    if behind.len() < length {
        return Err(format!("{} bytes of {length}", behind.len()));
    }
    let (body, behind) = behind.split_at(length);
    answer.body = body.to_vec();
    Ok((answer, behind))
}

/// Whether it is HTTP/1.1, and the code.
fn status_line(line: &str) -> Result<(bool, u16), String> {
    let wrong = || format!("status line {line:?}");
    let (version, rest) = line.split_once(' ').ok_or_else(wrong)?;
    let (code, reason) = rest.split_once(' ').ok_or_else(wrong)?;
    let is_text = reason.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
    let is_code = code.len() == 3 && code.bytes().all(|byte| byte.is_ascii_digit());
    if !["HTTP/1.1", "HTTP/1.0"].contains(&version) || !is_code || !is_text || reason.is_empty() {
        return Err(wrong());
    }
    Ok((version == "HTTP/1.1", code.parse().map_err(|_| wrong())?))
}

fn header(line: &str) -> Result<(String, String), String> {
    let wrong = || format!("header {line:?}");
    let (name, value) = line.split_once(": ").ok_or_else(wrong)?;
    let is_name = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    let is_value = value.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
    if name.is_empty() || !is_name || !is_value || value.trim() != value {
        return Err(wrong());
    }
    Ok((name.to_owned(), value.to_owned()))
}

/// How many bytes of body follow. Every length is known, so nothing is ever chunked.
fn length(answer: &Answer) -> Result<usize, String> {
    if answer.header("transfer-encoding").is_some() {
        return Err("an answer that is chunked".into());
    }
    match (answer.is_interim() || answer.code == 204, answer.header("content-length")) {
        (true, None) => Ok(0),
        (true, Some(_)) => Err("a length where there is no body".into()),
        (false, None) => Err("no length".into()),
        (false, Some(text)) => {
            let length = text.parse::<usize>().map_err(|_| format!("length {text}"))?;
            if length.to_string() == text { Ok(length) } else { Err(format!("length {text}")) }
        }
    }
}

/// What every answer must be like. One that refuses says in JSON what is wrong, and closes if what
/// came could not be read.
fn check(answer: &Answer) -> Result<(), String> {
    let shown = || format!("{:?} {}", answer, String::from_utf8_lossy(&answer.body));
    match answer.code {
        100 if answer.headers.is_empty() => Ok(()),
        200 | 201 | 204 if is_own(answer) => Ok(()),
        _ if !is_own(answer) => Err(format!("not as tallyd answers: {}", shown())),
        _ => check_refusal(answer).map_err(|complaint| format!("{complaint}: {}", shown())),
    }
}

fn is_own(answer: &Answer) -> bool {
    answer.header("date").is_some()
        && answer.header("cache-control") == Some("no-store")
        && answer.header("x-content-type-options") == Some("nosniff")
}

fn check_refusal(answer: &Answer) -> Result<(), &'static str> {
    if answer.header("content-type") != Some("application/json") {
        return Err("not JSON");
    }
    let length = |name: &str| answer.header(name).map_or(0, str::len);
    if answer.body.is_empty() && length("content-length") > 1 {
        return Ok(()); // to HEAD
    }
    let json = answer.json();
    let (whole, error) = (json.as_object(), json["error"].as_object());
    let (Some(whole), Some(error)) = (whole, error) else { return Err("no error in it") };
    let known = ["code", "field", "index", "message"];
    if whole.len() != 1 || error.keys().any(|key| !known.contains(&&**key)) {
        return Err("unknown fields");
    }
    let case = CASES.iter().find(|(name, ..)| error.get("code").is_some_and(|code| code == name));
    if case.is_none_or(|(_, code, _)| *code != answer.code || *code == 500) {
        return Err("not a case of this code");
    }
    let message = error.get("message").and_then(Value::as_str).unwrap_or_default();
    if message.len() < 10 || message.ends_with('.') {
        return Err("no message");
    }
    let is_unread = ["invalid_request", "head_too_large"].contains(&case.map_or("", |case| case.0));
    if is_unread && !answer.closes {
        return Err("it does not close");
    }
    let told = [(401, "www-authenticate"), (405, "allow"), (429, "retry-after")];
    match told.iter().find(|(code, _)| *code == answer.code) {
        Some((_, header)) if length(header) == 0 => Err("a header is missing"),
        _ => Ok(()),
    }
}

#[cfg(test)]
const JSON: &str = "content-type: application/json\r\n";

/// An answer of tallyd with this line of code, these headers and this body.
#[cfg(test)]
fn own(code: &str, headers: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {code}\r\ncache-control: no-store\r\nx-content-type-options: nosniff\r\n\
         date: now\r\n{headers}\r\n{body}"
    )
}

#[test]
fn good_answers_are_read() {
    let error = r#"{"error":{"code":"job_not_found","message":"there is no such job"}}"#;
    let refused =
        own("404 Not Found", &format!("{JSON}content-length: {}\r\n", error.len()), error);
    let good = own("200 OK", "content-length: 3\r\n", "abc");
    let unread = r#"{"error":{"code":"invalid_request","message":"this is not HTTP/1.1"}}"#;
    let unread = own(
        "400 Bad Request",
        &format!("connection: close\r\n{JSON}content-length: {}\r\n", unread.len()),
        unread,
    );
    let interim = "HTTP/1.1 100 Continue\r\n\r\n";
    let all = [&*good, interim, &refused, &own("204 No Content", "", ""), &unread].concat();
    let answers = read(all.as_bytes(), |_| false).expect("they are good");
    let shown: Vec<_> = answers.iter().map(Answer::shown).collect();
    assert_eq!(shown, ["200", "100", "404 job_not_found", "204", "400 invalid_request"]);
    assert_eq!((&*answers[0].body, answers[4].closes), (&b"abc"[..], true));
    let head = own("200 OK", "content-length: 3\r\n", "");
    let answers = read((head + &good).as_bytes(), |number| number == 0).expect("one has no body");
    assert_eq!((answers.len(), answers[0].body.len(), answers[1].body.len()), (2, 0, 3));
}

#[test]
fn bad_answers_are_found() {
    let refusal = |code: &str, body: &str| {
        own(code, &format!("{JSON}content-length: {}\r\n", body.len()), body)
    };
    let good = own("200 OK", "content-length: 0\r\n", "");
    for bad in [
        own("200 OK", "content-length: 3\r\n", "ab"),
        own("200 OK", "content-length: 3\r\n", "abcd"),
        own("200 OK", "content-length: 03\r\n", "abc"),
        own("200 OK", "content-length: 0\r\ncontent-length: 0\r\n", ""),
        own("200 OK", "transfer-encoding: chunked\r\n", "0\r\n\r\n"),
        own("200 OK", "", ""),
        own("204 No Content", "content-length: 0\r\n", ""),
        own("200 OK", "content-length: 0\r\nx-a: b\u{7f}\r\n", ""),
        own("200 OK", "content-length: 0\r\nX-A: b\r\n", ""),
        own("200 OK", "content-length: 0\r\nx-a:b\r\n", ""),
        own("200 OK", "content-length: 0\r\nconnection: close\r\n", "") + &good,
        own("2x0 OK", "content-length: 0\r\n", ""),
        good.replace("HTTP/1.1", "HTTP/1.2"),
        good.replace("\r\n\r\n", "\r\n"),
        good.replace("no-store", "private"),
        refusal(
            "500 Internal Server Error",
            r#"{"error":{"code":"internal_error","message":"a bug here"}}"#,
        ),
        refusal(
            "404 Not Found",
            r#"{"error":{"code":"queue_full","message":"there is no such job"}}"#,
        ),
        refusal("404 Not Found", r#"{"error":{"code":"job_not_found","message":""}}"#),
        refusal(
            "404 Not Found",
            r#"{"error":{"code":"job_not_found","message":"there is no such job","trace":1}}"#,
        ),
        refusal("404 Not Found", "not found"),
        refusal("404 Not Found", ""),
        "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n".to_owned(),
        refusal(
            "400 Bad Request",
            r#"{"error":{"code":"invalid_request","message":"it goes on behind this"}}"#,
        ),
        "HTTP/1.1 418 Teapot\r\nconnection: close\r\ncontent-length: 0\r\n\r\n".to_owned(),
    ] {
        assert!(read(bad.as_bytes(), |_| false).is_err(), "{bad:?}");
    }
}
