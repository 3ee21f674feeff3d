//! The shipped rules with short times, for a Prometheus that scrapes and evaluates every second.
//!
//! Durations stand behind `for:` and `offset`, and in brackets; each must be in the table. Thresholds in seconds
//! are replaced one by one, and each must be found once. Whatever else a rule says stays.

use super::documents::{ALERTS, RULES, text};

/// Each duration with the one in its place. What is as long as something else stays so, since rules
/// rely on that; what is longer stays longer.
const DURATIONS: &[(&str, &str)] = &[
    ("1m", "2s"),
    ("3m", "8s"),
    ("5m", "10s"),
    ("10m", "12s"),
    ("15m", "15s"),
    ("30m", "20s"),
    ("1h", "22s"),
    ("2h", "24s"),
    ("6h", "30s"),
    ("1d", "60s"),
];

/// The same for bare numbers of seconds, with what stands before them and behind.
const SECONDS: &[(&str, &str)] = &[
    ("seconds[10s]) > 600\n", "seconds[10s]) > 6\n"),
    ("seconds[10s]) > 3600\n", "seconds[10s]) > 25\n"),
    ("seconds[10s]) > 60\n", "seconds[10s]) > 3\n"),
    ("[30s], 86400)", "[30s], 60)"),
    ("[22s], 86400)", "[22s], 60)"),
];

/// The configuration of a Prometheus with targets (name and address) of the job `tallyd`, and the
/// files that it reads.
pub fn hurried(targets: &[(&str, String)]) -> (String, [(&'static str, String); 2]) {
    let target = |(name, address): &(&str, String)| {
        format!("    - {{targets: ['{address}'], labels: {{instance: {name}}}}}\n")
    };
    let targets: String = targets.iter().map(target).collect();
    let jobs = match &*targets {
        "" => String::new(),
        targets => {
            format!("scrape_configs:\n- job_name: tallyd\n  static_configs:\n{targets}")
        }
    };
    let config = format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}\n\
         rule_files: [{RULES}, {ALERTS}]\n{jobs}"
    );
    let mut alerts = with_short_durations(&text(ALERTS));
    for (long, short) in SECONDS {
        assert_eq!(alerts.matches(long).count(), 1, "{long:?} in\n{alerts}");
        alerts = alerts.replace(long, short);
    }
    (config, [(RULES, with_short_durations(&text(RULES))), (ALERTS, alerts)])
}

/// Replaces what stands behind `for:` and `offset`, and in brackets.
fn with_short_durations(rules: &str) -> String {
    let lines = rules.split_inclusive('\n').map(|line| match line.trim_start() {
        comment if comment.starts_with('#') => line.to_owned(),
        wait if wait.starts_with("for: ") => {
            let long = wait.trim_start_matches("for: ").trim_end();
            line.replace(long, short(long))
        }
        _ => with_short_offsets(&with_short_windows(line)),
    });
    lines.collect()
}

fn with_short_windows(line: &str) -> String {
    let mut pieces = line.split('[');
    let mut done = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (long, rest) = piece.split_once(']').expect("a bracket is closed");
        done += &format!("[{}]{rest}", short(long));
    }
    done
}

fn with_short_offsets(line: &str) -> String {
    let mut pieces = line.split(" offset ");
    let mut done = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let end = piece.find(|letter: char| !letter.is_ascii_alphanumeric());
        let (long, rest) = piece.split_at(end.unwrap_or(piece.len()));
        done += &format!(" offset {}{rest}", short(long));
    }
    done
}

fn short(long: &str) -> &'static str {
    let known = DURATIONS.iter().find(|(known, _)| *known == long);
    known.unwrap_or_else(|| panic!("{long} has no short form in {}", file!())).1
}

#[test]
fn every_duration_of_a_rule_is_replaced_and_nothing_else() {
    let rule = "# for: 5m\nexpr: a:b:rate5m > max_over_time(c[5m]) - d[1h] offset 1h\n  for: 15m\n\
                description: \"for 3m\"\n";
    let short = "# for: 5m\nexpr: a:b:rate5m > max_over_time(c[10s]) - d[22s] offset 22s\n  for: 15s\n\
                 description: \"for 3m\"\n";
    assert_eq!(with_short_durations(rule), short);
}

#[test]
#[should_panic = "7m has no short form"]
fn a_duration_that_is_not_known_is_not_passed_over() {
    with_short_durations("expr: rate(a[7m])\n");
}
