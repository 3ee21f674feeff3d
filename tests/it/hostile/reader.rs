//! How many requests a strict reader finds in what was sent: the most that may be answered.

/// The most answers to these bytes. A request whose end is in doubt may be answered, and is the last.
pub fn most_answers(bytes: &[u8]) -> usize {
    let mut rest = bytes;
    for answers in 0.. {
        let begin = rest.iter().position(|byte| !b"\r\n".contains(byte));
        let Some(begin) = begin else { return answers };
        match next(&rest[begin..]) {
            Some(behind) => rest = behind,
            None => return answers + 1,
        }
    }
    unreachable!("there are not so many")
}

/// What is behind the first request, if it is clear where it ends, and others may follow.
fn next(bytes: &[u8]) -> Option<&[u8]> {
    let (head, behind) = head(bytes)?;
    let mut lines = head.split(|byte| *byte == b'\n').map(without_cr);
    let is_1_1 = request_line(lines.next()?)?;
    let (mut length, mut keeps, mut closes) = (None, is_1_1, false);
    for line in lines {
        let (name, value) = header(line)?;
        let tokens = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        match &*name {
            b"transfer-encoding" => return None,
            b"content-length" if length.is_some_and(|known| Some(known) != number(value)) => {
                return None;
            }
            b"content-length" => length = Some(number(value)?),
            // What is no text says nothing.
            b"connection" if value.is_ascii() => {
                let tokens: Vec<_> = tokens.map(<[u8]>::to_ascii_lowercase).collect();
                closes |= tokens.iter().any(|token| token == b"close");
                keeps |= tokens.iter().any(|token| token == b"keep-alive");
            }
            _ => {}
        }
    }
    let length = usize::try_from(length.unwrap_or(0)).ok()?;
    if closes || !keeps { None } else { behind.get(length..) }
}

/// The first lines up to an empty one, and what is behind it. A line may end in LF alone.
fn head(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    for (place, _) in bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n') {
        let behind = &bytes[place + 1..];
        let empty = [&b"\n"[..], b"\r\n"].into_iter().find(|empty| behind.starts_with(empty));
        if let Some(empty) = empty {
            return Some((&bytes[..place], &behind[empty.len()..]));
        }
    }
    None
}

fn without_cr(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Whether it is of HTTP/1.1; nothing if it is not a line of a request.
fn request_line(line: &[u8]) -> Option<bool> {
    let words: Vec<_> = line.split(|byte| *byte == b' ').collect();
    let [method, target, version] = words[..] else { return None };
    let is_target = !target.is_empty() && !target.iter().any(u8::is_ascii_control);
    match version {
        _ if !is_token(method) || !is_target => None,
        b"HTTP/1.1" => Some(true),
        b"HTTP/1.0" => Some(false),
        _ => None,
    }
}

/// The name in lower case, and the value.
fn header(line: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    let is_value = !value.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t');
    (is_token(name) && is_value).then(|| (name.to_ascii_lowercase(), value.trim_ascii()))
}

fn is_token(bytes: &[u8]) -> bool {
    let is_of = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !bytes.is_empty() && bytes.iter().all(is_of)
}

fn number(value: &[u8]) -> Option<u64> {
    let is_number = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value).ok().filter(|_| is_number)?.parse().ok()
}

#[test]
fn requests_are_counted_up_to_the_first_in_doubt() {
    let get = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    let with = |headers: &str| format!("GET / HTTP/1.1\r\n{headers}\r\n\r\n");
    for (bytes, most) in [
        (String::new(), 0),
        ("\r\n\n".to_owned(), 0),
        ("G".to_owned(), 1),
        (get.to_owned(), 1),
        (get.repeat(3), 3),
        (format!("\r\n{get}\n{get}"), 2),
        (get.replace("\r\n", "\n").repeat(2), 2),
        (format!("{}abc{get}", with("content-length: 3")), 2),
        (format!("{}abc{get}", with("content-length: 3\r\nContent-Length: 3")), 2),
        (format!("{}abc", with("content-length: 4")), 1),
        (format!("{}abc{get}", with("content-length: 3\r\ncontent-length: 4")), 1),
        (format!("{}{get}", with("content-length: +0")), 1),
        (format!("{}0\r\n\r\n{get}", with("transfer-encoding: chunked")), 1),
        (format!("{}{get}", with("x : y")), 1),
        (format!("{}{get}", with("x: y\r\n z")), 1),
        (format!("{}{get}", with("x: a\rb")), 1),
        (format!("{}{get}", with("connection: a, Close")), 1),
        (format!("{get}{}{get}", get.replace("1.1", "1.0")), 2),
        (format!("{}{get}", get.replace("1.1", "1.2")), 1),
        (format!("{}{get}", get.replace(" /", "  /")), 1),
    ] {
        assert_eq!(most_answers(bytes.as_bytes()), most, "{bytes:?}");
    }
}
