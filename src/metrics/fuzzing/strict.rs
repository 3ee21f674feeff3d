//! A parser of both formats that refuses whatever their standards do not allow, or what nobody needs:
//! <https://prometheus.io/docs/instrumenting/exposition_formats/> and OpenMetrics 1.0. It knows
//! nothing of what is written here, nor of how.

use std::collections::{BTreeMap, BTreeSet};

/// The most characters of the labels of an exemplar, names and values together.
const MAX_EXEMPLAR_CHARS: usize = 128;

pub(super) type Labels = BTreeMap<String, String>;

/// A family, as its lines say.
pub(super) struct Family {
    pub(super) name: String,
    pub(super) kind: String,
    pub(super) help: String,
    pub(super) samples: Vec<Sample>,
}

/// One line of a family.
pub(super) struct Sample {
    pub(super) name: String,
    /// With `le`, whose value is written as in [`bound`].
    pub(super) labels: Labels,
    pub(super) value: String,
    pub(super) exemplar: Option<Exemplar>,
}

/// What stands behind a value.
#[derive(Debug)]
pub(super) struct Exemplar {
    pub(super) labels: Labels,
    pub(super) value: String,
    pub(super) at: String,
}

/// A bound of a bucket as text that both formats agree on.
pub(super) fn bound(bound: f64) -> String {
    format!("{bound:?}")
}

/// Reads an exposition of the text format 0.0.4, or of OpenMetrics.
pub(super) fn read(text: &str, is_open: bool) -> Result<Vec<Family>, String> {
    let mut rest = text;
    if is_open {
        rest = text.strip_suffix("# EOF\n").ok_or("it does not end with # EOF")?;
    }
    if !rest.is_empty() && !rest.ends_with('\n') {
        return Err("its last line has no end".into());
    }
    let mut families: Vec<Family> = Vec::new();
    for (index, line) in rest.split_terminator('\n').enumerate() {
        take(line, is_open, &mut families)
            .map_err(|wrong| format!("line {}: {wrong}", index + 1))?;
    }
    for family in &families {
        check(family, is_open).map_err(|wrong| format!("{}: {wrong}", family.name))?;
    }
    Ok(families)
}

/// Each family begins with HELP, then TYPE.
fn take(line: &str, is_open: bool, families: &mut Vec<Family>) -> Result<(), String> {
    if let Some(rest) = line.strip_prefix("# HELP ") {
        let (name, help) = rest.split_once(' ').ok_or("HELP without a text")?;
        let is_name = name.starts_with(is_name_start) && name.chars().all(is_name_part);
        if !is_name || families.iter().any(|family| family.name == name) {
            return Err(format!("{name} is no name, or there twice"));
        }
        let help = Line(help).unescaped(None, is_open)?;
        let (kind, samples) = (String::new(), Vec::new());
        families.push(Family { name: name.into(), kind, help, samples });
        return Ok(());
    }
    let family = families.last_mut().ok_or("a line before the first HELP")?;
    if let Some(rest) = line.strip_prefix("# TYPE ") {
        let kind = rest.strip_prefix(&*family.name).and_then(|rest| rest.strip_prefix(' '));
        let kind = kind.filter(|kind| ["counter", "gauge", "histogram"].contains(kind));
        let is_first = family.kind.is_empty() && family.samples.is_empty();
        family.kind = kind.filter(|_| is_first).ok_or("a TYPE that is wrong here")?.into();
    } else {
        let sample = sample(Line(line), is_open)?;
        let end = sample.name.strip_prefix(&*family.name);
        let is_right = match &*family.kind {
            "counter" if is_open => end == Some("_total"),
            "counter" | "gauge" => end == Some(""),
            _ => end.is_some_and(|end| ["_bucket", "_sum", "_count"].contains(&end)),
        };
        if !is_right {
            return Err(format!("{} is no sample of a {}", sample.name, family.kind));
        }
        family.samples.push(sample);
    }
    Ok(())
}

fn sample(mut line: Line<'_>, is_open: bool) -> Result<Sample, String> {
    let name = line.name(is_name_part)?;
    let mut labels = if line.0.starts_with('{') { line.labels()? } else { Labels::new() };
    line.expect(" ")?;
    let value = line.number()?;
    let mut exemplar = None;
    if is_open && line.0.starts_with(" # ") {
        line.expect(" # ")?;
        let labels = line.labels()?;
        line.expect(" ")?;
        let value = line.number()?;
        line.expect(" ")?;
        let at = line.number()?;
        let chars = labels.iter().map(|(name, value)| name.chars().count() + value.chars().count());
        if chars.sum::<usize>() > MAX_EXEMPLAR_CHARS {
            return Err("an exemplar with too many characters".into());
        }
        exemplar = Some(Exemplar { labels, value, at });
    }
    if !line.0.is_empty() {
        return Err(format!("{:?} at the end", line.0));
    }
    if let Some(text) = labels.get_mut("le") {
        let number: f64 = text.parse().map_err(|_| format!("the bound {text:?}"))?;
        let is_right = match &**text {
            "+Inf" => true,
            // Between 0.0001 and a million a canonical number has no exponent, and a decimal.
            text => !is_open || text == format!("{number:?}"),
        };
        *text = Some(bound(number)).filter(|_| is_right).ok_or("a bound that is not canonical")?;
    }
    Ok(Sample { name, labels, value, exemplar })
}

/// What is left of a line.
struct Line<'a>(&'a str);

impl Line<'_> {
    fn expect(&mut self, text: &str) -> Result<(), String> {
        self.0 =
            self.0.strip_prefix(text).ok_or(format!("{text:?} is missing before {:?}", self.0))?;
        Ok(())
    }

    fn name(&mut self, is_part: impl Fn(char) -> bool) -> Result<String, String> {
        let end = self.0.find(|c| !is_part(c)).unwrap_or(self.0.len());
        let (name, rest) = self.0.split_at(end);
        self.0 = rest;
        let is_right = name.starts_with(|c| is_name_start(c) && is_part(c));
        Some(name.to_owned()).filter(|_| is_right).ok_or(format!("no name before {rest:?}"))
    }

    fn labels(&mut self) -> Result<Labels, String> {
        let mut labels = Labels::new();
        self.expect("{")?;
        while !self.0.starts_with('}') {
            if !labels.is_empty() {
                self.expect(",")?;
            }
            let name = self.name(|c| c != ':' && is_name_part(c))?;
            self.expect("=\"")?;
            let value = self.unescaped(Some('"'), true)?;
            if labels.insert(name, value).is_some() {
                return Err("a label that is there twice".into());
            }
        }
        self.expect("}")?;
        Ok(labels)
    }

    /// Text up to `end`, or to the end of the line, in which `\\`, `\n` and maybe `\"` are escaped.
    fn unescaped(&mut self, end: Option<char>, has_quotes: bool) -> Result<String, String> {
        let mut text = String::new();
        let mut chars = self.0.chars();
        loop {
            match chars.next() {
                next if next == end => break,
                None => return Err("a text without its end".into()),
                Some('\\') => text.push(match chars.next() {
                    Some('\\') => '\\',
                    Some('n') => '\n',
                    Some('"') if has_quotes => '"',
                    other => return Err(format!("{other:?} is escaped")),
                }),
                Some('"') if has_quotes => return Err("a quote that is not escaped".into()),
                Some(other) => text.push(other),
            }
        }
        self.0 = chars.as_str();
        Ok(text)
    }

    /// A number in decimal notation, NaN or an infinity, up to a space.
    fn number(&mut self) -> Result<String, String> {
        let (number, rest) = self.0.split_at(self.0.find(' ').unwrap_or(self.0.len()));
        self.0 = rest;
        let is_number = number.parse::<f64>().is_ok() && number.is_ascii();
        Some(number.to_owned()).filter(|_| is_number).ok_or(format!("{number:?} is no number"))
    }
}

fn is_name_start(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_' || c == ':'
}

fn is_name_part(c: char) -> bool {
    is_name_start(c) || c.is_ascii_digit()
}

/// What the lines of a family must be together.
fn check(family: &Family, is_open: bool) -> Result<(), String> {
    if family.kind.is_empty() || family.samples.is_empty() {
        return Err("it has no type, or no samples".into());
    }
    let mut seen = BTreeSet::new();
    for sample in &family.samples {
        if !seen.insert((&sample.name, &sample.labels)) {
            return Err(format!("{} {:?} is there twice", sample.name, sample.labels));
        }
        let is_shown = sample.exemplar.is_some();
        let value: f64 = sample.value.parse().map_err(|_| "no number")?;
        if family.kind == "counter" && (value.is_nan() || value < 0.0) {
            return Err(format!("a counter of {value}"));
        }
        if is_shown && !(is_open && sample.name.ends_with("_bucket")) {
            return Err("an exemplar of what is no bucket".into());
        }
        if sample.labels.contains_key("le") != sample.name.ends_with("_bucket") {
            return Err("a bound without a bucket, or a bucket without a bound".into());
        }
    }
    if family.kind == "histogram" { check_histograms(family) } else { Ok(()) }
}

/// The lines of one histogram follow each other: buckets that grow up to the infinite one, sum, count.
fn check_histograms(family: &Family) -> Result<(), String> {
    let bound = |sample: &Sample| sample.labels.get("le").and_then(|le| le.parse::<f64>().ok());
    let of = |sample: &Sample| {
        let mut labels = sample.labels.clone();
        labels.remove("le");
        labels
    };
    for one in family.samples.chunk_by(|sample, next| of(sample) == of(next)) {
        let [buckets @ .., sum, count] = one else { return Err("a histogram in parts".into()) };
        if !sum.name.ends_with("_sum") || !count.name.ends_with("_count") {
            return Err("no sum, or no count, behind its buckets".into());
        }
        let numbers: Option<Vec<(f64, u64)>> = buckets
            .iter()
            .map(|bucket| Some((bound(bucket)?, bucket.value.parse().ok()?)))
            .collect();
        let numbers = numbers.ok_or("a bucket of no whole number")?;
        let grow = |pair: &[(f64, u64)]| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1;
        let last = numbers.last().ok_or("no buckets")?;
        let is_whole = last.0 == f64::INFINITY && count.value.parse() == Ok(last.1);
        if !is_whole || !numbers.windows(2).all(grow) {
            return Err("buckets that do not grow to the count".into());
        }
    }
    Ok(())
}
