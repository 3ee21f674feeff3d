//! As much of PromQL as the rules about queries must see: selectors, what calls them, groupings.

/// A selector in braces, with what stands around it.
#[derive(Debug, PartialEq)]
pub(super) struct Selector<'q> {
    pub(super) name: &'q str,
    /// Label, operator, and value in its quotes.
    pub(super) matchers: Vec<[&'q str; 3]>,
    /// The function whose first argument it is.
    pub(super) call: Option<&'q str>,
    /// Its window, as in `[5m]`.
    pub(super) range: Option<&'q str>,
}

impl Selector<'_> {
    pub(super) fn has(&self, matcher: [&str; 3]) -> bool {
        self.matchers.contains(&matcher)
    }
}

fn is_word(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || "_:$.".contains(letter)
}

/// The words, texts and signs of a query.
pub(super) fn tokens(query: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = query.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '"' => rest[1..].find('"').map_or(rest.len(), |end| end + 2),
            letter if is_word(letter) => rest.find(|l| !is_word(l)).unwrap_or(rest.len()),
            _ => {
                let two = ["=~", "!~", "!=", "==", ">=", "<="].iter().any(|s| rest.starts_with(s));
                if two { 2 } else { first.len_utf8() }
            }
        };
        tokens.push(&rest[..length]);
        rest = rest[length..].trim_start();
    }
    tokens
}

/// Every selector in braces.
pub(super) fn selectors(query: &str) -> Vec<Selector<'_>> {
    let tokens = tokens(query);
    let at = |index: usize| tokens.get(index).copied().unwrap_or_default();
    let mut found = Vec::new();
    for open in (0..tokens.len()).filter(|index| tokens[*index] == "{") {
        let close = (open..tokens.len()).find(|index| tokens[*index] == "}");
        let close = close.unwrap_or(tokens.len());
        let inside = tokens[open + 1..close].split(|token| *token == ",");
        let matchers = inside.filter_map(|matcher| matcher.try_into().ok());
        let before = |back: usize| open.checked_sub(back).map_or("", at);
        let name = Some(before(1)).filter(|name| name.starts_with(is_word)).unwrap_or_default();
        let call = Some(before(3)).filter(|call| before(2) == "(" && call.starts_with(is_word));
        let range = (at(close + 1) == "[").then(|| at(close + 2));
        found.push(Selector { name, matchers: matchers.collect(), call, range });
    }
    found
}

/// The words outside braces, windows and texts, with what follows each: functions, operators, and
/// metrics that have no braces.
pub(super) fn words(query: &str) -> Vec<(&str, &str)> {
    let tokens = tokens(query);
    let mut depth = 0;
    let mut words = Vec::new();
    for (index, token) in tokens.iter().enumerate() {
        match *token {
            "{" | "[" => depth += 1,
            "}" | "]" => depth -= 1,
            word if depth == 0 && word.starts_with(is_word) => {
                words.push((word, tokens.get(index + 1).copied().unwrap_or_default()));
            }
            _ => {}
        }
    }
    words
}

/// The labels that results are grouped or matched by.
pub(super) fn grouping_labels(query: &str) -> Vec<&str> {
    let tokens = tokens(query);
    let mut labels = Vec::new();
    for (index, token) in tokens.iter().enumerate() {
        if ["by", "without", "on", "ignoring"].contains(token) {
            let group = tokens[index + 1..].iter().skip(1).take_while(|token| **token != ")");
            labels.extend(group.filter(|token| **token != ","));
        }
    }
    labels
}

#[test]
fn selectors_are_seen_with_what_is_around_them() {
    let query = r#"sum by (queue, le) (rate(a_total{x=~"$x", y!="}, {"}[$__rate_interval])) > 0 or {z="1"}"#;
    let matchers = vec![["x", "=~", "\"$x\""], ["y", "!=", "\"}, {\""]];
    let (call, range) = (Some("rate"), Some("$__rate_interval"));
    assert_eq!(
        selectors(query),
        [
            Selector { name: "a_total", matchers, call, range },
            Selector { name: "or", matchers: vec![["z", "=", "\"1\""]], call: None, range: None },
        ]
    );
    assert_eq!(grouping_labels(query), ["queue", "le"]);
    assert!(words("time() - max(b) + c{d=\"e\"}[5m]").contains(&("b", ")")));
    assert!(!words("c{d=\"e\"}[5m]").iter().any(|(word, _)| ["d", "5m"].contains(word)));
}
