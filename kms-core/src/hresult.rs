//! The codes with which a KMS host refuses, and those a client makes by itself.

use std::fmt;
use std::str::FromStr;

/// A Windows result code, shown as `0xC004F042`.
///
/// ```
/// use kms_core::hresult::HResult;
///
/// let code: HResult = "0xC004F042".parse()?;
/// assert_eq!(code, HResult(0xC004_F042));
/// assert_eq!(code.known().map(|known| known.label), Some("0xC004F042"));
/// assert_eq!(HResult(0xDEAD_BEEF).known(), None);
/// # Ok::<(), kms_core::hresult::ParseHResultError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HResult(pub u32);

/// What is known of a code: one row of a closed table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// The code itself.
    pub code: HResult,
    /// The code as text, fit to be a metric's label.
    pub label: &'static str,
    /// Its name in the Windows headers.
    pub symbol: &'static str,
    /// What it means between a KMS client and its host.
    pub words: &'static str,
}

/// Text that is not `0x` and eight hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseHResultError;

/// Every code that a KMS host or client is known to use, sorted.
pub static KNOWN: [Known; 9] = [
    Known {
        code: HResult(0x0000_0000),
        label: "0x00000000",
        symbol: "S_OK",
        words: "success",
    },
    Known {
        code: HResult(0x8007_0005),
        label: "0x80070005",
        symbol: "E_ACCESSDENIED",
        words: "client with a public address refused",
    },
    Known {
        code: HResult(0x8007_000D),
        label: "0x8007000D",
        symbol: "ERROR_INVALID_DATA",
        words: "invalid data: size, version, integrity or number of minimum clients",
    },
    Known {
        code: HResult(0xC004_D104),
        label: "0xC004D104",
        symbol: "SL_REMAPPING_SP_STATUS_INVALIDARG",
        words: "host's list of clients is full",
    },
    Known {
        code: HResult(0xC004_F038),
        label: "0xC004F038",
        symbol: "SL_E_VL_NOT_ENOUGH_COUNT",
        words: "host counts too few clients",
    },
    Known {
        code: HResult(0xC004_F041),
        label: "0xC004F041",
        symbol: "SL_E_VL_KEY_MANAGEMENT_SERVICE_NOT_ACTIVATED",
        words: "host is not activated itself",
    },
    Known {
        code: HResult(0xC004_F042),
        label: "0xC004F042",
        symbol: "SL_E_VL_KEY_MANAGEMENT_SERVICE_ID_MISMATCH",
        words: "host may not serve this product",
    },
    Known {
        code: HResult(0xC004_F06C),
        label: "0xC004F06C",
        symbol: "SL_E_VL_INVALID_TIMESTAMP",
        words: "client's clock differs too much from the host's",
    },
    Known {
        code: HResult(0xC004_F074),
        label: "0xC004F074",
        symbol: "SL_E_VL_BINDING_SERVICE_UNAVAILABLE",
        words: "no host could be reached",
    },
];

impl HResult {
    /// Reads `0x` and exactly eight hexadecimal digits of either case, as
    /// servers print it. Bytes, because log lines are.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let digits = text.strip_prefix(b"0x")?;
        if digits.len() != 8 {
            return None;
        }
        digits
            .iter()
            .try_fold(0, |code: u32, digit| {
                Some(code << 4 | char::from(*digit).to_digit(16)?)
            })
            .map(Self)
    }

    /// The table's row for this code, if it is one of [`KNOWN`].
    #[must_use]
    pub fn known(self) -> Option<&'static Known> {
        let at = KNOWN.binary_search_by_key(&self, |known| known.code).ok()?;
        KNOWN.get(at)
    }
}

impl fmt::Display for HResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{:08X}", self.0)
    }
}

impl fmt::Debug for HResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for HResult {
    type Err = ParseHResultError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text.as_bytes()).ok_or(ParseHResultError)
    }
}

impl fmt::Display for ParseHResultError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a result code is 0x and eight hexadecimal digits")
    }
}

impl std::error::Error for ParseHResultError {}

#[cfg(test)]
mod tests {
    use super::{HResult, KNOWN};

    #[test]
    fn every_row_is_found_and_its_label_is_its_code() {
        assert!(KNOWN.is_sorted_by_key(|known| known.code));
        for known in &KNOWN {
            assert_eq!(known.code.known(), Some(known));
            assert_eq!(known.code.to_string(), known.label);
            assert_eq!(known.label.parse(), Ok(known.code));
        }
    }

    #[test]
    fn parse_takes_servers_spelling_and_no_other() {
        assert_eq!(HResult::parse(b"0xc004f042"), Some(HResult(0xC004_F042)));
        for text in [
            "",
            "0x",
            "C004F042",
            "0XC004F042",
            "0xC004F04",
            "0xC004F0422",
            "0x+004F042",
            "0xC004F04g",
        ] {
            assert_eq!(HResult::parse(text.as_bytes()), None, "{text}");
        }
    }
}
