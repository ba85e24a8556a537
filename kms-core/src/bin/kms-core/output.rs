//! How results are printed.

use std::io::{self, Write as _};
use std::time::Duration;

use crate::Failure;

/// Milliseconds with as many decimals as mean something: `0.423 ms`, `120 ms`.
pub(crate) fn millis(time: Duration) -> String {
    let millis = time.as_secs_f64() * 1e3;
    let decimals = match millis {
        ..1.0 => 3,
        ..10.0 => 2,
        ..100.0 => 1,
        _ => 0,
    };
    format!("{millis:.decimals$} ms")
}

/// Writes to standard output. Whoever reads it may have gone away.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|error| Failure::other(format_args!("standard output: {error}")))
}

/// One JSON object on a line of its own.
pub(crate) fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let mut line = serde_json::to_string(value).map_err(Failure::other)?;
    line.push('\n');
    print(&line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milliseconds_are_not_more_exact_than_they_are() {
        assert_eq!(millis(Duration::from_micros(423)), "0.423 ms");
        assert_eq!(millis(Duration::from_micros(1423)), "1.42 ms");
        assert_eq!(millis(Duration::from_micros(12_345)), "12.3 ms");
        assert_eq!(millis(Duration::from_secs(2)), "2000 ms");
    }
}
