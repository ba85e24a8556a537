//! What a client says of its own licence (KMS base request, offset 8).

use std::fmt;

/// A client's licensing status before it asked.
///
/// ```
/// use kms_core::license::Status;
///
/// assert_eq!(Status::from_code(2).name(), "OOB grace");
/// assert_eq!(Status::from_code(4711), Status::Unknown);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// 0: no licence.
    Unlicensed,
    /// 1: activated.
    Licensed,
    /// 2: out-of-box grace, before the first activation.
    OobGrace,
    /// 3: out-of-tolerance grace, after a change of hardware or a lapse.
    OotGrace,
    /// 4: non-genuine grace.
    NonGenuine,
    /// 5: grace has run out.
    Notification,
    /// 6: grace that was extended.
    ExtendedGrace,
    /// Any other number: clients may send what they like.
    Unknown,
}

impl Status {
    /// Every status, for tables and metrics that are complete from the start.
    pub const ALL: [Self; 8] = [
        Self::Unlicensed,
        Self::Licensed,
        Self::OobGrace,
        Self::OotGrace,
        Self::NonGenuine,
        Self::Notification,
        Self::ExtendedGrace,
        Self::Unknown,
    ];

    /// The status behind the number on the wire.
    #[must_use]
    pub fn from_code(code: u32) -> Self {
        match code {
            0 => Self::Unlicensed,
            1 => Self::Licensed,
            2 => Self::OobGrace,
            3 => Self::OotGrace,
            4 => Self::NonGenuine,
            5 => Self::Notification,
            6 => Self::ExtendedGrace,
            _ => Self::Unknown,
        }
    }

    /// The name as vlmcsd prints it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unlicensed => "Unlicensed",
            Self::Licensed => "Licensed",
            Self::OobGrace => "OOB grace",
            Self::OotGrace => "OOT grace",
            Self::NonGenuine => "Non-Genuine",
            Self::Notification => "Notification",
            Self::ExtendedGrace => "Extended grace",
            Self::Unknown => "Unknown",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::Status;

    #[test]
    fn codes_are_the_positions_in_the_table() {
        for (code, status) in (0..).zip(Status::ALL) {
            assert_eq!(Status::from_code(code), status);
        }
        assert_eq!(Status::from_code(8), Status::Unknown);
        assert_eq!(Status::from_code(u32::MAX), Status::Unknown);
    }

    #[test]
    fn names_are_those_of_the_log() {
        let names = Status::ALL.map(|status| status.to_string()).join("|");
        assert_eq!(
            names,
            "Unlicensed|Licensed|OOB grace|OOT grace|Non-Genuine|Notification|Extended grace|Unknown"
        );
    }
}
