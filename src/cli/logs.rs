//! Where log lines go and how they look: text for people or JSON for programs, on standard error.
//!
//! Values come from callers, so control characters in them are escaped: they can neither start a
//! new line nor talk to a terminal.

use std::backtrace::Backtrace;
use std::fmt::{self, Debug, Write as _};
use std::io::{self, IsTerminal, Write};
use std::panic::PanicHookInfo;

use tracing::error;
use tracing::field::Field;
use tracing::subscriber::set_global_default;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::{self, Writer};
use tracing_subscriber::layer::{Layered, SubscriberExt};
use tracing_subscriber::{Layer, Registry, reload};

use crate::config::{LogConfig, LogFormat, LogLevel};

/// What the lines of the log go through: the least severity that is written, over the spans.
type Filtered = Layered<reload::Layer<LevelFilter, Registry>, Registry>;

/// The least severity that is written, which can be changed while the process runs.
pub struct Level(reload::Handle<LevelFilter, Registry>);

impl Level {
    /// Writes from this severity on.
    pub fn set(&self, level: LogLevel) {
        self.0.reload(severity(level)).expect("the log is written to as long as the process runs");
    }
}

/// Writes the log lines of the whole process to standard error from now on.
///
/// Only the first call in a process has an effect.
pub fn start(log: LogConfig) -> Level {
    let (filter, handle) = reload::Layer::new(severity(log.level));
    let filtered = tracing_subscriber::registry().with(filter);
    let started = match log.format {
        LogFormat::Text => {
            set_global_default(filtered.with(text(io::stderr().is_terminal(), io::stderr)))
        }
        LogFormat::Json => set_global_default(filtered.with(json(io::stderr))),
    };
    if started.is_err() {
        tracing::debug!(event = "logs_kept", "logs go where they went before");
    }
    std::panic::set_hook(Box::new(tell_panic));
    Level(handle)
}

/// A panic is a bug of tallyd: one line like all others, with the stack if RUST_BACKTRACE asks for it.
fn tell_panic(panic: &PanicHookInfo<'_>) {
    let payload = panic.payload();
    let text = payload.downcast_ref::<&str>().copied();
    let reason = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let place = panic.location().map(ToString::to_string);
    let is_asked_for = std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0");
    let stack = is_asked_for.then(|| Backtrace::force_capture().to_string());
    error!(event = "panicked", reason, place, stack, "this is a bug");
}

/// Readable lines, coloured on a terminal.
fn text<W: Write + 'static>(
    is_terminal: bool,
    output: impl Fn() -> W + Send + Sync + 'static,
) -> impl Layer<Filtered> + Send + Sync {
    tracing_subscriber::fmt::layer()
        .log_internal_errors(false) // it would tell standard error, and panic if nobody reads that
        .with_ansi(is_terminal)
        .fmt_fields(format::debug_fn(write_field).delimited(" "))
        .with_writer(output)
}

/// JSON objects, with the fields of an event beside its time and level.
fn json<W: Write + 'static>(
    output: impl Fn() -> W + Send + Sync + 'static,
) -> impl Layer<Filtered> + Send + Sync {
    tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .log_internal_errors(false)
        .with_writer(move || EscapedJson(output()))
}

fn severity(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

fn write_field(writer: &mut Writer<'_>, field: &Field, value: &dyn Debug) -> fmt::Result {
    if field.name() != "message" {
        write!(writer, "{}=", field.name())?;
    }
    write!(EscapedText(writer), "{value:?}")
}

/// Text in which each control character is written as Rust would in a string.
struct EscapedText<'a, 'b>(&'a mut Writer<'b>);

impl fmt::Write for EscapedText<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            if character.is_control() {
                write!(self.0, "{}", character.escape_default())?;
            } else {
                self.0.write_char(character)?;
            }
        }
        Ok(())
    }
}

/// JSON lines in which the control characters that JSON allows in a string are escaped as well.
struct EscapedJson<W>(W);

impl<W: Write> Write for EscapedJson<W> {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        let mut escaped = String::with_capacity(lines.len());
        for character in String::from_utf8_lossy(lines).chars() {
            if character.is_control() && character != '\n' {
                escaped.push_str(&format!("\\u{:04x}", u32::from(character)));
            } else {
                escaped.push(character);
            }
        }
        self.0.write_all(escaped.as_bytes())?;
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::subscriber::{Subscriber, with_default};

    use super::*;

    /// What a caller may send: an end of line, a colour, a bell, DEL and the one-byte CSI.
    const HOSTILE: &str = "a\nb\x1b[31mc\x07\x7f\u{9b}";

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Buffer {
        fn output(&self) -> impl Fn() -> Self + Send + Sync + 'static {
            let buffer = self.clone();
            move || buffer.clone()
        }

        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A log of these lines, and the way to change its level.
    fn log(
        level: LogLevel,
        lines: impl Layer<Filtered> + Send + Sync,
    ) -> (impl Subscriber + Send + Sync, Level) {
        let (filter, handle) = reload::Layer::new(severity(level));
        (tracing_subscriber::registry().with(filter).with(lines), Level(handle))
    }

    fn log_hostile_values() {
        let error = io::Error::other(HOSTILE);
        let error: &(dyn std::error::Error + 'static) = &error;
        tracing::warn_span!("attempt", worker = %HOSTILE).in_scope(|| {
            tracing::warn!(event = "x", queue = HOSTILE, kind = %HOSTILE, id = ?HOSTILE, error, "{HOSTILE}");
        });
    }

    fn assert_is_one_clean_line(text: &str) {
        let line = text.strip_suffix('\n').expect("a line ends");
        assert!(!line.chars().any(char::is_control), "{line:?}");
    }

    #[test]
    fn control_characters_are_escaped_in_text() {
        let buffer = Buffer::default();
        with_default(log(LogLevel::Info, text(false, buffer.output())).0, log_hostile_values);
        let text = buffer.text();
        assert_is_one_clean_line(&text);
        assert_eq!(text.matches(r"a\nb\u{1b}[31mc\u{7}\u{7f}\u{9b}").count(), 6, "{text}");
    }

    #[test]
    fn control_characters_are_escaped_in_json() {
        let buffer = Buffer::default();
        with_default(log(LogLevel::Info, json(buffer.output())).0, log_hostile_values);
        let text = buffer.text();
        assert_is_one_clean_line(&text);
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["level"], "WARN");
        assert_eq!(line["queue"], HOSTILE);
        assert_eq!(line["message"], HOSTILE);
        assert_eq!(line["span"]["worker"], HOSTILE);
    }

    #[test]
    fn lines_below_the_level_are_left_out() {
        let buffer = Buffer::default();
        with_default(log(LogLevel::Warn, text(false, buffer.output())).0, || {
            tracing::info!("quiet");
            tracing::warn!(jobs = 3, queue = "emails", "loud");
        });
        let text = buffer.text();
        assert!(!text.contains("quiet"), "{text}");
        assert!(text.ends_with(": loud jobs=3 queue=\"emails\"\n"), "{text}");
    }

    #[test]
    fn the_level_can_be_changed_while_lines_are_written() {
        let buffer = Buffer::default();
        let (subscriber, level) = log(LogLevel::Warn, text(false, buffer.output()));
        let tell = |name| tracing::debug!(name, "step");
        with_default(subscriber, || {
            tell("before");
            level.set(LogLevel::Debug);
            tell("between");
            level.set(LogLevel::Error);
            tell("after");
        });
        let text = buffer.text();
        assert!(text.ends_with(": step name=\"between\"\n") && text.lines().count() == 1, "{text}");
    }
}
