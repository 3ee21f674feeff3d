//! What commands print: tables and lines for people, JSON for programs.

use std::io::{ErrorKind, Write};

use serde::Serialize;

use super::Failure;

/// The space between two columns.
const GAP: &str = "  ";

/// The flag of commands that can print JSON.
#[derive(Debug, clap::Args)]
pub(super) struct Form {
    /// Print JSON for programs
    #[arg(long, env = "TALLYD_JSON", value_parser = clap::builder::FalseyValueParser::new())]
    pub(super) json: bool,
}

/// Writes to standard output.
///
/// # Errors
///
/// Nobody reads it any more, or it cannot be written.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => Failure::Unread,
        _ => Failure::Other(error.into()),
    })
}

/// Writes a line of JSON to standard output.
///
/// # Errors
///
/// As [`print()`].
pub(super) fn print_json(value: &(impl Serialize + ?Sized)) -> Result<(), Failure> {
    let text = serde_json::to_string(value).map_err(|error| Failure::Other(error.into()))?;
    print(&(text + "\n"))
}

/// Writes a line to standard error, if anybody reads it.
pub(super) fn complain(text: &str) {
    drop(writeln!(std::io::stderr(), "{text}"));
}

/// A count with its noun.
pub(super) fn counted(count: u64, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// Text of others on one line and without effect on a terminal: what cannot be seen is escaped.
pub(super) fn visible(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '"' | '\'' | '\\' => line.push(letter),
            _ => line.extend(letter.escape_debug()),
        }
    }
    line
}

/// The same, cut to so many characters.
pub(super) fn cut(text: &str, most: usize) -> String {
    let line = visible(text);
    match line.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// Columns of text; rows that come later keep to the widths of those before.
pub(super) struct Table {
    titles: Vec<&'static str>,
    widths: Vec<usize>,
    is_begun: bool,
}

impl Table {
    /// A table with these titles, without rows.
    pub(super) fn new(titles: &[&'static str]) -> Self {
        let widths = titles.iter().map(|title| title.len()).collect();
        Self { titles: titles.to_vec(), widths, is_begun: false }
    }

    /// These rows as text, below the titles if they are the first.
    pub(super) fn rows(&mut self, rows: &[Vec<String>]) -> String {
        for row in rows {
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut text = String::new();
        if !std::mem::replace(&mut self.is_begun, true) {
            self.write(&mut text, self.titles.iter().copied());
        }
        for row in rows {
            self.write(&mut text, row.iter().map(String::as_str));
        }
        text
    }

    fn write<'a>(&self, text: &mut String, cells: impl Iterator<Item = &'a str>) {
        let padded = cells.zip(&self.widths).map(|(cell, &width)| format!("{cell:width$}"));
        let line = padded.collect::<Vec<_>>().join(GAP);
        text.push_str(line.trim_end());
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_later_rows_keep_their_place() {
        let mut table = Table::new(&["A", "LONG TITLE", "C"]);
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let first = table.rows(&[row(["ä", "b", "c"]), row(["longer", "", ""])]);
        assert_eq!(first, "A       LONG TITLE  C\nä       b           c\nlonger\n");
        assert_eq!(table.rows(&[row(["x", "y", "z"])]), "x       y           z\n");
    }

    #[test]
    fn what_would_act_on_a_terminal_is_shown_as_text() {
        let hostile = "a\nb\r\u{1b}[31m\t\u{202e}c\u{7f}\u{9b}";
        assert_eq!(visible(hostile), r"a\nb\r\u{1b}[31m\t\u{202e}c\u{7f}\u{9b}");
        assert_eq!(visible(r#"it's "ä" \ 日本"#), r#"it's "ä" \ 日本"#);
        assert_eq!((cut("abc", 3).as_str(), cut("äbcd", 3).as_str()), ("abc", "äbc…"));
    }
}
