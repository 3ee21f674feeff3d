//! `tallyd metrics`: prints the catalogue of what the daemon exports, from the code.

use serde::Serialize;

use super::{Failure, output};
use crate::metrics::{CATALOGUE, Metric};

/// The flags of `tallyd metrics`.
#[derive(Debug, clap::Args)]
#[group(multiple = false)]
pub struct Catalogue {
    /// Print a JSON array for programs
    #[arg(long, env = "TALLYD_JSON", value_parser = clap::builder::FalseyValueParser::new())]
    json: bool,
    /// Print a Markdown table, as in the README
    #[arg(long, env = "TALLYD_MARKDOWN", value_parser = clap::builder::FalseyValueParser::new())]
    markdown: bool,
}

#[derive(Serialize)]
struct Entry {
    name: &'static str,
    r#type: &'static str,
    labels: &'static [&'static str],
    kept: Option<&'static str>,
    help: &'static str,
}

impl From<&Metric> for Entry {
    fn from(metric: &Metric) -> Self {
        Self {
            name: metric.name,
            r#type: metric.kind.name(),
            labels: metric.labels,
            kept: metric.kept.then_some("ledger"),
            help: metric.help,
        }
    }
}

impl Catalogue {
    /// Prints it.
    ///
    /// # Errors
    ///
    /// Standard output cannot be written.
    pub fn run(&self) -> Result<(), Failure> {
        let entries: Vec<Entry> = CATALOGUE.iter().map(Entry::from).collect();
        let text = if self.json {
            let json = serde_json::to_string_pretty(&entries);
            json.expect("text and lists of text are valid JSON") + "\n"
        } else if self.markdown {
            markdown(&entries)
        } else {
            text(&entries)
        };
        output::print(&text)
    }
}

/// The table of the README.
fn markdown(entries: &[Entry]) -> String {
    let mut table = String::from("| name | type | labels | kept | what it says |\n");
    table.push_str("|---|---|---|---|---|\n");
    for entry in entries {
        let labels = entry.labels.join(", ");
        let kept = entry.kept.unwrap_or("");
        let (name, kind, help) = (entry.name, entry.r#type, entry.help);
        table.push_str(&format!("| `{name}` | {kind} | {labels} | {kept} | {help} |\n"));
    }
    table
}

/// Two lines a family.
fn text(entries: &[Entry]) -> String {
    let mut text = String::new();
    for entry in entries {
        let labels = match entry.labels {
            [] => String::new(),
            labels => format!("{{{}}}", labels.join(",")),
        };
        let kept = entry.kept.map_or(String::new(), |place| format!(", kept in the {place}"));
        let (name, kind, help) = (entry.name, entry.r#type, entry.help);
        text.push_str(&format!("{name}{labels} ({kind}{kept})\n    {help}\n"));
    }
    text
}
