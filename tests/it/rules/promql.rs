//! As much of PromQL as it takes to see which series an expression reads, by which labels.

/// A selector of series.
#[derive(Debug, PartialEq)]
pub struct Selector {
    pub metric: String,
    /// The labels that it is narrowed by, with what they must match.
    pub matchers: Vec<(String, String)>,
    /// Whether a window follows: `[5m]`.
    pub has_window: bool,
}

/// The selectors of metrics of tallyd, of a process, of recorded series, and `up`.
pub fn selectors(expression: &str) -> Vec<Selector> {
    let mut found = Vec::new();
    let mut rest = expression;
    while let Some(start) = rest.find(|letter: char| is_name(letter) || letter == '"') {
        rest = &rest[start..];
        if let Some(quoted) = rest.strip_prefix('"') {
            rest = quoted.split_once('"').expect("a string ends").1;
            continue;
        }
        let end = rest.find(|letter| !is_name(letter)).unwrap_or(rest.len());
        let (name, behind) = rest.split_at(end);
        rest = behind;
        if is_metric(name) {
            let (matchers, behind) = matchers(behind.trim_start());
            rest = behind;
            let has_window = behind.starts_with('[');
            found.push(Selector { metric: name.to_owned(), matchers, has_window });
        }
    }
    found
}

fn is_name(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || letter == '_' || letter == ':'
}

fn is_metric(name: &str) -> bool {
    name == "up"
        || name.contains(':')
        || ["tallyd_", "process_"].iter().any(|p| name.starts_with(p))
}

/// The matchers in the braces that a text may begin with, and what follows.
fn matchers(text: &str) -> (Vec<(String, String)>, &str) {
    let Some(mut rest) = text.strip_prefix('{') else { return (Vec::new(), text) };
    let mut found = Vec::new();
    loop {
        rest = rest.trim_start_matches([',', ' ', '\n']);
        if let Some(behind) = rest.strip_prefix('}') {
            return (found, behind);
        }
        let (label, behind) = rest.split_once(['=', '!']).expect("a matcher compares");
        let behind = behind.trim_start_matches(['=', '~']);
        let quoted = behind.strip_prefix('"').expect("with a string");
        let (value, behind) = quoted.split_once('"').expect("that ends");
        found.push((label.trim().to_owned(), value.to_owned()));
        rest = behind;
    }
}

/// The labels named in `by (…)`, `without (…)`, `on (…)`, `ignoring (…)` and `group_left (…)`.
pub fn grouped_labels(expression: &str) -> Vec<String> {
    let words = ["by", "without", "on", "ignoring", "group_left", "group_right"];
    let mut found = Vec::new();
    for (place, _) in expression.match_indices('(') {
        let before = expression[..place].trim_end();
        let inside = expression[place + 1..].split(')').next().unwrap_or_default();
        let word = before.rsplit(|letter: char| !is_name(letter)).next().unwrap_or_default();
        if words.contains(&word) {
            let labels = inside.split(',').map(str::trim).filter(|label| !label.is_empty());
            found.extend(labels.map(str::to_owned));
        }
    }
    found
}

#[test]
fn selectors_are_found_with_their_matchers_and_windows() {
    let expression = r#"sum without (kind) (rate(tallyd_a_total{state=~"x|y}", b!="{c"}[5m])) > 0
        unless ignoring (state, b) queue:tallyd_b:sum * up{job="tallyd_x"}"#;
    let found = selectors(expression);
    let pair = |label: &str, value: &str| (label.to_owned(), value.to_owned());
    let expected = [
        ("tallyd_a_total", vec![pair("state", "x|y}"), pair("b", "{c")], true),
        ("queue:tallyd_b:sum", vec![], false),
        ("up", vec![pair("job", "tallyd_x")], false),
    ];
    let expected = expected.map(|(metric, matchers, has_window)| Selector {
        metric: metric.to_owned(),
        matchers,
        has_window,
    });
    assert_eq!(found, expected);
    assert_eq!(grouped_labels(expression), ["kind", "state", "b"]);
}
