//! The property holds for the seeds and for any names and numbers, and the parser is a strict one.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::{exposition, strict};
use crate::fuzzing::inputs::{hold_for_any, hold_for_seeds};

/// What a name may have that the formats have a use for.
const PARTS: &[&str] = &[
    "a",
    "\\",
    "\"",
    "\n",
    "\\n",
    "\r",
    ",",
    "=",
    "{",
    "}",
    " ",
    "#",
    "é",
    "\u{2028}",
    "\0",
    "__other__",
];

#[test]
fn what_is_exported_is_read_back_exactly() {
    hold_for_seeds("exposition", exposition);
    let name = || prop_oneof![vec(select(PARTS), 0..4).prop_map(|parts| parts.concat()), ".{0,8}"];
    let number = prop_oneof![
        any::<f64>().prop_map(|number| number.to_string()),
        any::<i64>().prop_map(|number| number.to_string()),
        (0..100_u8).prop_map(|number| number.to_string()),
    ];
    let rows = vec((name(), name(), number), 0..5);
    hold_for_any(200, &rows, |rows| {
        let fields = rows.iter().map(|(queue, kind, number)| format!("{queue}|{kind}|{number}"));
        exposition(fields.collect::<Vec<_>>().join("|").as_bytes());
    });
}

const GOOD: &str = "# HELP a_total Of a.\n# TYPE a_total counter\na_total{b=\"\\\\\\\"\\n\",c=\"\"} 1\n\
    # HELP h Of h.\n# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"+Inf\"} 2\nh_sum 1.5\nh_count 2\n\
    # HELP g \\\\ \\n \"\n# TYPE g gauge\ng NaN\ng{b=\"1\"} -inf\n";

#[test]
fn the_parser_takes_what_is_right() {
    let families = strict::read(GOOD, false).expect("it is right");
    let names: Vec<_> = families.iter().map(|family| &*family.name).collect();
    assert_eq!(names, ["a_total", "h", "g"]);
    assert_eq!(families[0].samples[0].labels["b"], "\\\"\n");
    assert_eq!(families[2].help, "\\ \n \"");
    assert!(strict::read("# EOF\n", true).is_ok_and(|families| families.is_empty()));
    let shown = "# HELP h H.\n# TYPE h histogram\nh_bucket{le=\"1.0\"} 0\n\
        h_bucket{le=\"+Inf\"} 1 # {job_id=\"a\"} 2 1.5\nh_sum 2\nh_count 1\n# EOF\n";
    let families = strict::read(shown, true).expect("it is right");
    let exemplar = families[0].samples[1].exemplar.as_ref().expect("it is shown");
    assert_eq!((&*exemplar.labels["job_id"], &*exemplar.value, &*exemplar.at), ("a", "2", "1.5"));
    let long = shown.replace("\"a\"", &format!("\"{}\"", "a".repeat(123)));
    for wrong in [
        &shown[..shown.len() - 6],
        &shown.replace("1.0", "1"),
        &shown.replace("h_count 1\n", "h_count 1 # {job_id=\"a\"} 2 1.5\n"),
        &shown.replace(" 2 1.5", " 2"),
        &long,
        "# HELP a_total A.\n# TYPE a_total counter\na_total 1\n# EOF\n",
        "# HELP g \"\n# TYPE g gauge\ng 1\n# EOF\n",
    ] {
        assert!(strict::read(wrong, true).is_err(), "{wrong}");
    }
}

#[test]
fn the_parser_refuses_what_is_wrong() {
    for (right, wrong) in [
        ("-inf\n", "-inf"),
        ("a_total{", "a_total {"),
        ("a_total{", "b_total{"),
        ("# TYPE a_total counter\n", ""),
        ("# HELP g", "# HELP h"),
        ("gauge", "summary"),
        ("\\\"\\n", "\\\"\n"),
        ("\\\"\\n", "\"\\n"),
        ("\\\\\\\"", "\\t"),
        ("c=\"\"", "b=\"\""),
        ("c=\"\"", "1=\"\""),
        ("c=\"\"", "c:=\"\""),
        (",c=\"\"", ",c=\"\","),
        ("} 1\nh", "}  1\nh"),
        ("} 1\n", "} 1 1000\n"),
        ("} 1\n", "} x\n"),
        ("} 1\n", "} -1\n"),
        ("} 1\n", "} NaN\n"),
        ("b=\"1\"", ""),
        ("h_bucket{le=\"+Inf\"} 2\n", ""),
        ("h_bucket{le=\"+Inf\"} 2\n", "h_bucket{le=\"+Inf\"} 0\n"),
        ("h_bucket{le=\"1\"} 1\n", "h_bucket{le=\"1\"} 1.5\n"),
        ("h_bucket{le=\"1\"} 1\n", "h_bucket{le=\"x\"} 1\n"),
        ("h_bucket{le=\"1\"} 1\n", "h_bucket 1\n"),
        ("h_sum 1.5\n", ""),
        ("h_count 2", "h_count 3"),
        ("g NaN\n", "\ng NaN\n"),
    ] {
        let text = GOOD.replacen(right, wrong, 1);
        assert!(text != GOOD && strict::read(&text, false).is_err(), "{wrong:?} for {right:?}");
    }
}
